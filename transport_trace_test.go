package hyper

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

func TestTraceOfANewConnectionOverTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		tlsFarm(f, func() string { return "h2" })
		f.refer = func(ctx context.Context, addr string) error {
			httptrace.ContextClientTrace(ctx).ConnectStart("tcp", addr) // as net.Dialer does
			return nil
		}
		var log []string
		hook := func(line string) { log = append(log, line) }
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			GetConn:           func(addr string) { hook("GetConn " + addr) },
			ConnectStart:      func(_, addr string) { hook("ConnectStart " + addr) },
			TLSHandshakeStart: func() { hook("TLSHandshakeStart") },
			TLSHandshakeDone: func(state tls.ConnectionState, err error) {
				hook(fmt.Sprint("TLSHandshakeDone ", state.NegotiatedProtocol, " ", err))
			},
			GotConn: func(info httptrace.GotConnInfo) { hook(fmt.Sprint("GotConn ", info.Reused)) },
		})
		req, _ := http.NewRequestWithContext(ctx, "GET", "https://example.com", nil)
		call := f.do(req)
		peer := f.peer("the first")
		peer.WantHeaders("the request", 1)
		h2test.AnswerEmpty(peer, 1)
		call.wantStatus("its answer", 204)
		want := []string{"GetConn example.com:443", "ConnectStart example.com:443", "TLSHandshakeStart",
			"TLSHandshakeDone h2 <nil>", "GotConn false"}
		if !slices.Equal(log, want) {
			t.Errorf("got  %q\nwant %q", log, want)
		}
	})
}

func TestTraceOfConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{MaxConnsPerHost: 1})
		var log []string
		traced := func(path string) *call {
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				GetConn: func(addr string) { log = append(log, "GetConn "+addr) },
				GotConn: func(info httptrace.GotConnInfo) {
					if _, ok := info.Conn.(*h2test.Conn); !ok {
						t.Errorf("GotConn has a %T", info.Conn)
					}
					log = append(log, fmt.Sprintf("GotConn reused=%v idle=%v %v", info.Reused, info.WasIdle,
						info.IdleTime))
				},
			})
			return f.do(f.request(ctx, "GET", path, nil))
		}
		want := func(reason string, lines ...string) {
			t.Helper()
			synctest.Wait()
			if got := strings.Join(log, "; "); got != strings.Join(lines, "; ") {
				t.Errorf("%s:\ngot  %s\nwant %s", reason, got, strings.Join(lines, "; "))
			}
			log = nil
		}
		first := traced("/first")
		peer := f.peer("the first", h2test.AtMost(2))
		peer.WantHeaders("the first", 1)
		want("a new connection", "GetConn example.com:80", "GotConn reused=false idle=false 0s")
		traced("/second")
		peer.WantHeaders("the second", 3)
		want("a connection in use", "GetConn example.com:80", "GotConn reused=true idle=false 0s")
		waits := traced("/third")
		want("it waits", "GetConn example.com:80")
		h2test.AnswerEmpty(peer, 1)
		first.wantStatus("the first", 204)
		peer.WantHeaders("the third", 5)
		want("the slot is its own", "GotConn reused=true idle=false 0s")
		h2test.AnswerEmpty(peer, 3)
		h2test.AnswerEmpty(peer, 5)
		waits.wantStatus("the third", 204)
		time.Sleep(5 * time.Second)
		traced("/fourth")
		peer.WantHeaders("the fourth", 7)
		want("a connection that was idle", "GetConn example.com:80", "GotConn reused=true idle=true 5s")
		peer.WriteRSTStream(7, wire.RefusedStream)
		time.Sleep(time.Second)
		peer.WantHeaders("another try", 9)
		if synctest.Wait(); len(log) != 2 || log[0] != "GetConn example.com:80" ||
			!strings.HasPrefix(log[1], "GotConn reused=true idle=true ") {
			t.Errorf("each try looks for a connection: %q", log)
		}
		log = nil
		peer.WriteGoAway(7, wire.NoError, "")
		time.Sleep(time.Second)
		second := f.peer("the first is gone")
		second.WantHeaders("once more", 1)
		if synctest.Wait(); len(log) < 2 || log[0] != "GetConn example.com:80" ||
			log[len(log)-1] != "GotConn reused=false idle=false 0s" {
			t.Errorf("on a new connection: %q", log)
		}
	})
}
