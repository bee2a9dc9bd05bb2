// This file tests net/http/httptrace with a Transport and with RoundTrip.

package hypertest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A hookLog records the hooks that are called, in order.
type hookLog struct {
	mu        sync.Mutex
	lines     []string
	refuse1xx error
}

func (l *hookLog) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *hookLog) want(t *testing.T, reason string, lines ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(l.lines, lines) {
		t.Errorf("%s:\ngot  %s\nwant %s", reason, strings.Join(l.lines, " | "), strings.Join(lines, " | "))
	}
	l.lines = nil
}

// context returns a context with every hook.
func (l *hookLog) context() context.Context {
	return httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		GetConn: func(hostPort string) { l.add("GetConn %s", hostPort) },
		GotConn: func(i httptrace.GotConnInfo) {
			l.add("GotConn reused=%v idle=%v %v", i.Reused,
				i.WasIdle, i.IdleTime)
		},
		PutIdleConn:          func(err error) { l.add("PutIdleConn %v", err) },
		GotFirstResponseByte: func() { l.add("GotFirstResponseByte") },
		Got100Continue:       func() { l.add("Got100Continue") },
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			l.add("Got1xxResponse %d %v", code, header)
			return l.refuse1xx
		},
		DNSStart:          func(httptrace.DNSStartInfo) { l.add("DNSStart") },
		DNSDone:           func(httptrace.DNSDoneInfo) { l.add("DNSDone") },
		ConnectStart:      func(network, addr string) { l.add("ConnectStart") },
		ConnectDone:       func(network, addr string, err error) { l.add("ConnectDone %v", err) },
		TLSHandshakeStart: func() { l.add("TLSHandshakeStart") },
		TLSHandshakeDone: func(state tls.ConnectionState, err error) {
			l.add("TLSHandshakeDone %q %v", state.NegotiatedProtocol, err)
		},
		WroteHeaderField: func(key string, value []string) { l.add("%s: %s", key, strings.Join(value, "|")) },
		WroteHeaders:     func() { l.add("WroteHeaders") },
		Wait100Continue:  func() { l.add("Wait100Continue") },
		WroteRequest:     func(i httptrace.WroteRequestInfo) { l.add("WroteRequest %v", i.Err) },
	})
}

var tracedFields = []string{":method: GET", ":scheme: https", ":authority: example.com", ":path: /",
	"cookie: a=1", "cookie: b=2", "user-agent: hyper", acceptAll}

func TestHTTPTraceOnOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		var log hookLog
		req := httpRequest(t, "GET", "https://example.com/", nil).WithContext(log.context())
		req.Header.Set("Cookie", "a=1; b=2")

		answer := tripAsync(conn, req)
		peer.WantHeaders("the first", 1)
		synctest.Wait()
		log.want(t, "sent, not answered", slices.Concat([]string{"GotConn reused=false idle=false 0s"},
			tracedFields, []string{"WroteHeaders", "WroteRequest <nil>"})...)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		answer.Want(t, "the first").Body.Close()
		log.want(t, "answered", "GotFirstResponseByte")

		time.Sleep(3 * time.Second)
		answer = tripAsync(conn, req)
		peer.WantHeaders("the second", 3)
		peer.WriteHeaders(3, 0, ":status: 103", "link: </a>")
		peer.WriteHeaders(3, 0, ":status: 200")
		answer.Want(t, "the second")
		log.want(t, "on a connection that was idle",
			slices.Concat([]string{"GotConn reused=true idle=true 3s"}, tracedFields,
				[]string{"WroteHeaders", "WroteRequest <nil>", "GotFirstResponseByte",
					"Got1xxResponse 103 map[Link:[</a>]]"})...)

		third := tripAsync(conn, req)
		peer.WantHeaders("the third", 5)
		peer.WriteRSTStream(5, wire.RefusedStream)
		third.WantErr(t, "the third")
		log.want(t, "beside another stream, and refused",
			slices.Concat([]string{"GotConn reused=true idle=false 0s"}, tracedFields,
				[]string{"WroteHeaders", "WroteRequest <nil>"})...)
	})
}

// WroteHeaders and WroteRequest mean that the socket has taken the bytes, not only a queue.
func TestHTTPTraceWaitsForTheSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, client := newPeer(t, &hyper.Config{WriteStallTimeout: -1})
		peer.Handshake()
		peer.Ignore(wire.RSTStream)
		client.SetWriteBuffer(0)
		var log hookLog
		ctx, cancel := context.WithCancel(log.context())
		answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil).WithContext(ctx))
		synctest.Wait()
		if lines := log.lines; lines[len(lines)-1] != acceptAll {
			t.Errorf("before the peer has read anything: %s", lines)
		}
		log.lines = nil
		cancel()
		if err := answer.WantErr(t, "cancelled"); err != context.Canceled {
			t.Error(err)
		}
		log.want(t, "cancelled while writing", "WroteRequest context canceled")
		client.SetWriteBuffer(1 << 20)
		peer.WantHeaders("it was under way", 1)
	})
}

func TestHTTPTraceOfABodyThatIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		var log hookLog
		req := httpRequest(t, "POST", "https://example.com/",
			&closableBody{Reader: strings.NewReader("hello")}).WithContext(log.context())
		req.Header.Set("Expect", "100-continue")
		answer := tripAsync(conn, req)
		peer.WantHeaders("the request", 1, "expect: 100-continue")
		synctest.Wait()
		log.lines = log.lines[len(log.lines)-2:]
		log.want(t, "before 100", "WroteHeaders", "Wait100Continue")
		peer.WriteHeaders(1, 0, ":status: 100")
		peer.WantBody("the body", 1, []byte("hello"))
		synctest.Wait()
		log.want(t, "behind the body", "GotFirstResponseByte", "Got1xxResponse 100 map[]", "Got100Continue",
			"WroteRequest <nil>")
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		answer.Want(t, "the response").Body.Close()
		log.want(t, "at the end")
	})
}

// WroteRequest reports why a body was not sent.
func TestHTTPTraceOfABodyThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.Ignore(wire.Data)
		var log hookLog
		body := &closableBody{Reader: h2test.ReaderFunc(func(p []byte) (int, error) { return len(p), nil })}
		answer := tripAsync(conn, httpRequest(t, "POST", "https://example.com/",
			body).WithContext(log.context()))
		peer.WantHeaders("the request", 1)
		peer.WriteRSTStream(1, wire.InternalError)
		answer.WantErr(t, "reset")
		synctest.Wait()
		log.lines = log.lines[len(log.lines)-2:]
		log.want(t, "at the end", "WroteHeaders", "WroteRequest hyper: stream 1: peer reset: INTERNAL_ERROR")
	})
}

// "If it returns an error, the client request is aborted with that error value."
func TestHTTPTraceMayRefuseAnInterimResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		log := hookLog{refuse1xx: errors.New("no hints, please")}
		answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/",
			nil).WithContext(log.context()))
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 103")
		if err := answer.WantErr(t, "refused by the hook"); err != log.refuse1xx {
			t.Errorf("%#v", err)
		}
		peer.WantRSTStream("refused by the hook", 1, wire.Cancel)
	})
}

// The hooks have the same order as with net/http, on a new connection and on a reused one.
func TestHTTPTraceThroughTransport(t *testing.T) {
	srv, tr := newServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	addr := srv.Listener.Addr().String()
	var log hookLog
	get := func() {
		resp, err := tr.RoundTrip(httpRequest(t, "GET", srv.URL, nil).WithContext(log.context()))
		if err != nil {
			t.Fatal(err)
		}
		h2test.WantBody(t, "the body", resp.Body, "hello")
		for i, line := range log.lines {
			if strings.HasPrefix(line, "GotConn") { // its times are not compared
				log.lines[i] = strings.Join(strings.Fields(line)[:3], " ")
			}
		}
	}
	fields := []string{":method: GET", ":scheme: https", ":authority: " + addr, ":path: /",
		"user-agent: hyper", acceptAll}
	get()
	log.want(t, "the first", slices.Concat([]string{"GetConn " + addr, "ConnectStart", "ConnectDone <nil>",
		"TLSHandshakeStart",
		`TLSHandshakeDone "h2" <nil>`, "GotConn reused=false idle=false"}, fields,
		[]string{"WroteHeaders", "WroteRequest <nil>", "GotFirstResponseByte"})...)
	get()
	log.want(t, "the second", slices.Concat([]string{"GetConn " + addr, "GotConn reused=true idle=true"},
		fields,
		[]string{"WroteHeaders", "WroteRequest <nil>", "GotFirstResponseByte"})...)
}

func TestHTTPTraceOfAHandshakeThatFails(t *testing.T) {
	srv := h2test.HTTP2Server(t, func(w http.ResponseWriter, r *http.Request) {})
	var log hookLog
	_, err := hyper.Dial(log.context(), srv.Listener.Addr().String(),
		&hyper.Config{TLS: &tls.Config{RootCAs: h2test.Roots(), ServerName: "other.example"}})
	if err == nil {
		t.Fatal("a certificate for another host")
	}
	last := log.lines[len(log.lines)-1]
	if !strings.HasPrefix(last, `TLSHandshakeDone "" tls: failed to verify certificate`) {
		t.Error(last)
	}
}
