package hyper

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

func TestSpellingsOfAHostShareItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		f.serveAll(func(peer *h2test.Peer, stream uint32, _ h2test.Headers) { answerEmpty(peer, stream) })
		for i, spellings := range [][]string{
			{"http://example.com", "http://example.com:80/", "http://EXAMPLE.com/?q",
				"http://user:password@example.com/", "http://example.com:"},
			{"http://bücher.example", "http://xn--bcher-kva.example", "http://Bücher.example:80"},
			{"http://[2001:db8::1]", "http://[2001:DB8::1]:80"},
		} {
			for _, spelling := range spellings {
				req, err := http.NewRequest("GET", spelling, nil)
				if err != nil {
					t.Fatal(err)
				}
				f.do(req).wantStatus(spelling, 204)
				f.wantDials(spelling, i+1)
			}
		}
	})
}

func TestURLThatLeadsNowhereIsAnErrorAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		for _, u := range []*url.URL{
			{Scheme: "http", Host: ""},
			{Scheme: "http", Host: ":80"},
			{Scheme: "http", Host: "example.com:http"},
			{Scheme: "http", Host: "example.com:99999"},
			{Scheme: "http", Host: "exa mple.com"},
			{Scheme: "http", Host: "a/b"},
			{Scheme: "gopher", Host: "example.com"},
		} {
			body := &openedOnce{Reader: strings.NewReader("x")}
			err := f.do(&http.Request{Method: "POST", URL: u, Header: http.Header{},
				Body: body}).wantErr(u.String(), nil)
			if Retryable(err) || body.closes != 1 {
				t.Errorf("%s: %v; its body was closed %d times", u, err, body.closes)
			}
		}
		f.wantDials("none of them can be dialled", 0)
		if f.tr.hosts.Len() > 0 {
			t.Errorf("%d hosts are kept", f.tr.hosts.Len())
		}
	})
}

// tlsFarm makes f's connections those of a TLS server that speaks the protocol that protos returns.
func tlsFarm(f *farm, protos func() string) {
	f.tr.Config.TLS = h2test.ClientTLS()
	f.tr.Config.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) {
		f.dials.Add(1)
		if f.refer != nil {
			if err := f.refer(ctx, addr); err != nil {
				return nil, err
			}
		}
		client, server := h2test.Pipe()
		proto := protos()
		secure := tls.Server(server, h2test.ServerTLS(proto))
		f.t.Cleanup(func() { server.Close() })
		if proto == "h2" {
			peer := h2test.NewPeer(f.t, secure)
			peer.AutoPing()
			f.dialled <- peer
			return client, nil
		}
		go func() {
			secure.Handshake()
			io.Copy(io.Discard, secure)
		}()
		return client, nil
	}
}

// overHTTP1 is a Fallback that counts its requests.
type overHTTP1 struct{ n int }

func (o *overHTTP1) RoundTrip(*http.Request) (*http.Response, error) {
	o.n++
	return &http.Response{StatusCode: 299, Body: http.NoBody}, nil
}

func TestHostsWithoutHTTP2AreRememberedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fallback := &overHTTP1{}
		f := newFarm(t, &Transport{Fallback: fallback})
		tlsFarm(f, func() string { return "http/1.1" })
		visit := func(host int) {
			t.Helper()
			req, _ := http.NewRequest("GET", fmt.Sprintf("https://host%d.example.com", host), nil)
			f.do(req).wantStatus("over HTTP/1.1", 299)
		}
		for host := range 50 {
			visit(host)
			visit(host)
		}
		f.wantDials("the second time it is known", 50)
		if fallback.n != 100 || f.tr.hosts.Len() != 50 {
			t.Errorf("%d requests over HTTP/1.1, %d hosts", fallback.n, f.tr.hosts.Len())
		}
		time.Sleep(http1Memory - time.Second)
		visit(0)
		f.wantDials("it is known still", 50)
		time.Sleep(time.Second)
		if synctest.Wait(); f.tr.hosts.Len() != 0 {
			t.Errorf("%d hosts are kept", f.tr.hosts.Len())
		}
		visit(0)
		f.wantDials("it may have learned", 51)
	})
}

func TestHostThatGivesUpHTTP2LeavesNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fallback := &overHTTP1{}
		f := newFarm(t, &Transport{Fallback: fallback})
		proto := "h2"
		tlsFarm(f, func() string { return proto })
		get := func() *call {
			req, _ := http.NewRequest("GET", "https://example.com", nil)
			return f.do(req)
		}
		first := get()
		one := f.peer("the first", atMost(1))
		one.WantHeaders("one fits", 1)
		proto = "http/1.1"
		waits := get()
		waits.wantStatus("the second connection is not HTTP/2", 299)
		answerEmpty(one, 1)
		first.wantStatus("the first is not disturbed", 204)
	})
}

func TestTunnelThatTheProxyDidNotProcessIsAskedForAgain(t *testing.T) {
	for name, refuse := range map[string]func(*h2test.Peer){
		"REFUSED_STREAM": func(peer *h2test.Peer) { peer.WriteRSTStream(1, wire.RefusedStream) },
		"GOAWAY":         func(peer *h2test.Peer) { peer.WriteGoAway(0, wire.NoError, "") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFarm(t, &Transport{})
				tlsFarm(f, func() string { return "h2" })
				f.tr.Proxy = http.ProxyURL(&url.URL{Scheme: "https", Host: "proxy.example.com"})
				ctx, cancel := context.WithCancel(t.Context())
				call := f.do(f.request(ctx, "GET", "/", nil))
				peer := f.peer("the proxy")
				peer.WantHeaders("a tunnel is asked for", 1, ":method: CONNECT", ":authority: example.com:80")
				refuse(peer)
				stream := uint32(3)
				if name == "GOAWAY" {
					peer, stream = f.peer("another connection to the proxy"), 1
				}
				peer.WantHeaders("and once more", stream, ":method: CONNECT", ":authority: example.com:80")
				peer.WriteHeaders(stream, 0, ":status: 200")
				if data := peer.WantFrame("HTTP/2 within the tunnel",
					wire.Data).Payload; !strings.HasPrefix(string(data), wire.ClientPreface) {
					t.Errorf("the tunnel begins with %q", data)
				}
				cancel()
				call.wantErr("it is not needed any more", context.Canceled)
			})
		})
	}
}

// One dial asks for a tunnel five times. A second dial, which begins a second after the first, does
// the same.
func TestTunnelIsAskedForNoMoreThanFiveTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{Config: &Config{HandshakeTimeout: time.Minute}})
		tlsFarm(f, func() string { return "h2" })
		f.tr.Proxy = http.ProxyURL(&url.URL{Scheme: "https", Host: "proxy.example.com"})
		asked := 0
		refuseAll := func(peer *h2test.Peer) {
			serve(peer, func(stream uint32, _ h2test.Headers) {
				asked++
				peer.WriteRSTStream(stream, wire.RefusedStream)
			})
		}
		call := f.get("/")
		refuseAll(f.silentPeer("the proxy"))
		time.Sleep(300 * time.Millisecond)
		refuseAll(f.silentPeer("another connection to the proxy"))
		if call.wantErr("it is refused for ever", ErrCodeRefusedStream); asked > 2*maxTries {
			t.Errorf("it was asked for %d times", asked)
		}
	})
}

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
		answerEmpty(peer, 1)
		call.wantStatus("its answer", 204)
		want := []string{"GetConn example.com:443", "ConnectStart example.com:443", "TLSHandshakeStart",
			"TLSHandshakeDone h2 <nil>", "GotConn false"}
		if !slices.Equal(log, want) {
			t.Errorf("got  %q\nwant %q", log, want)
		}
	})
}

func TestDialThatOutlivesItsRequestServesTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		dial := make(chan error)
		f.refer = func(context.Context, string) error { return <-dial }
		ctx, cancel := context.WithCancelCause(t.Context())
		impatient := f.do(f.request(ctx, "GET", "/impatient", nil))
		f.wantDials("a cold host", 1)
		cancel(errors.New("the caller's own reason"))
		if err := impatient.wantErr("its context ended", nil); err != context.Canceled {
			t.Errorf("want the context's own error, got %v", err)
		}
		dial <- nil
		peer := f.peer("the connection is made all the same")
		next := f.get("/next")
		peer.WantHeaders("and found by the next request", 1, ":path: /next")
		answerEmpty(peer, 1)
		next.wantStatus("the next", 204)
		f.wantDials("one in all", 1)
	})
}
