// This file tests peers that end each connection before they accept a request.

package hypertest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// The attempts of a request that needs the peer's SETTINGS are limited, and the error has the
// reason.
func TestPeerThatEndsEachConnection(t *testing.T) {
	kinds := map[string]func(v *visit) *http.Request{
		"GET":  func(v *visit) *http.Request { return v.request("GET", "/", nil) },
		"POST": func(v *visit) *http.Request { return v.request("POST", "/", nil) },
		"body": func(v *visit) *http.Request { return v.request("PUT", "/", strings.NewReader("body")) },
		"streamed body": func(v *visit) *http.Request {
			return v.request("POST", "/", streamed("body"))
		},
		"WebSocket": func(v *visit) *http.Request {
			req := v.request("GET", "/", nil)
			req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
				"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
			return req
		},
	}
	endings := map[string]func(p *h2test.Peer){
		"close":   func(p *h2test.Peer) {},
		"GOAWAY":  func(p *h2test.Peer) { p.WriteGoAway(0, wire.InternalError, "") },
		"silence": func(p *h2test.Peer) { time.Sleep(20 * time.Second) },
		"PING":    func(p *h2test.Peer) { p.WritePing(0, [8]byte{}) },
		"SETTINGS and GOAWAY": func(p *h2test.Peer) {
			p.Batch(func() {
				p.WriteSettings(wire.Setting{ID: wire.SettingEnableConnectProtocol, Value: 1})
				p.WriteGoAway(0, wire.NoError, "")
			})
		},
	}
	for kind, request := range kinds {
		for how, end := range endings {
			t.Run(kind+"/"+how, func(t *testing.T) {
				eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
					if kind == "WebSocket" && (v.own || v.viaNetHTTP()) {
						return // these doors open WebSockets by other calls
					}
					var conns atomic.Int32
					go func() {
						for p := range v.peers {
							conns.Add(1)
							p.Ignore(wire.Headers, wire.Data, wire.WindowUpdate, wire.GoAway)
							p.WantPreface("the handshake")
							end(p.Peer)
							p.Close()
						}
					}()
					defer func() {
						close(v.peers)
						time.Sleep(time.Minute) // until the last peer has ended
					}()
					start := time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
					defer cancel()
					resp, err := v.rt.RoundTrip(request(v).WithContext(ctx))
					var lost *hyper.ConnError
					typed := v.viaNetHTTP() || errors.As(err, &lost)
					if err == nil || errors.Is(err, context.DeadlineExceeded) || !typed {
						t.Errorf("%v, %v after %v and %d connections, want a *ConnError", resp, err,
							time.Since(start), conns.Load())
					}
					if took := time.Since(start); took > 2*time.Minute || conns.Load() > 10 {
						t.Errorf("%v after %v and %d connections", err, took, conns.Load())
					}
				})
			})
		}
	}
}

// streamed returns a reader of s that is not known to be in memory.
func streamed(s string) io.Reader { return io.MultiReader(strings.NewReader(s)) }
