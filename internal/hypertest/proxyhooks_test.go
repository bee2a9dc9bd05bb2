package hypertest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// errHook is the error that the hooks return.
var errHook = errors.New("the hook's own error")

// A connectLog records what the hooks and the proxy have seen.
type connectLog struct {
	mu    sync.Mutex
	lines []string
}

// add adds a line.
func (l *connectLog) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

// String returns all lines.
func (l *connectLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// ctxKey is the key of a context value that the hooks must receive.
type ctxKey struct{}

// getHeader is a GetProxyConnectHeader function.
func (l *connectLog) getHeader(ctx context.Context, u *url.URL, target string) (http.Header, error) {
	l.add("header for %v, %s, %v", u, target, ctx.Value(ctxKey{}))
	return http.Header{"X-Dynamic": {"yes"}}, nil
}

// onResponse is an OnProxyConnectResponse function.
func (l *connectLog) onResponse(ctx context.Context, u *url.URL, req *http.Request,
	resp *http.Response) error {
	body := ""
	if resp.StatusCode != 200 {
		p, _ := io.ReadAll(resp.Body)
		body = string(p)
	}
	l.add("%d %q for %v, %s %s %s %v, %v", resp.StatusCode, body, u, req.Method, req.URL.Opaque, req.Host,
		req.Header["X-Dynamic"], ctx.Value(ctxKey{}))
	return nil
}

// answerConnect is a proxy that speaks HTTP/1.1. It responds to CONNECT with status and, unless
// that is 200, a body.
func (l *connectLog) answerConnect(nc net.Conn, status string) {
	defer nc.Close()
	req, err := http.ReadRequest(bufio.NewReader(nc))
	if err != nil {
		return
	}
	l.add("%s %s %v %v %v", req.Method, req.Host, req.Header["X-Dynamic"], req.Header["X-Static"],
		req.Header["Proxy-Authorization"])
	length := "Content-Length: 5\r\n\r\nsorry"
	if status == "200 OK" {
		length = "\r\n"
	}
	fmt.Fprintf(nc, "HTTP/1.1 %s\r\n%s", status, length)
}

// The hooks are called as net/http calls them, and CONNECT has the same fields.
func TestProxyHooksAreCalledAsByNetHTTP(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		for _, status := range []string{"200 OK", "407 Proxy Authentication Required"} {
			run := func(t *testing.T, own bool) (seen string) {
				synctest.Test(t, func(t *testing.T) {
					var log connectLog
					dial := func(context.Context, string, string) (net.Conn, error) {
						client, server := h2test.Pipe()
						var end net.Conn = server
						if scheme == "https" {
							end = h2test.TLSServer(server, "http/1.1")
						}
						go log.answerConnect(end, status)
						return client, nil
					}
					config := h2test.ClientTLS()
					config.InsecureSkipVerify = true
					proxy := http.ProxyURL(&url.URL{Scheme: scheme, Host: "proxy.example:3128",
						User: url.UserPassword("me", "secret")})
					static := http.Header{"X-Static": {"yes"}}
					var rt http.RoundTripper = &http.Transport{DialContext: dial, TLSClientConfig: config,
						Proxy:              proxy,
						ProxyConnectHeader: static, GetProxyConnectHeader: log.getHeader,
						OnProxyConnectResponse: log.onResponse}
					if own {
						rt = &hyper.Transport{Config: &hyper.Config{DialContext: dial, TLS: config},
							Proxy:              proxy,
							ProxyConnectHeader: static, GetProxyConnectHeader: log.getHeader,
							OnProxyConnectResponse: log.onResponse}
					}
					ctx := context.WithValue(t.Context(), ctxKey{}, "a value")
					req, _ := http.NewRequestWithContext(ctx, "GET", "https://example.com/", nil)
					h2test.Go(func() (*http.Response, error) { return rt.RoundTrip(req) }).WantErr(t,
						"the tunnel leads nowhere")
					seen = log.String()
				})
				return seen
			}
			ours, theirs := run(t, true), run(t, false)
			if ours != theirs || strings.Count(ours, "\n") != 2 {
				t.Errorf("%s proxy, %s:\n%s\nand with net/http:\n%s", scheme, status, ours, theirs)
			}
		}
	}
}

// RoundTrip returns the error of a hook unchanged, for every kind of proxy.
func TestProxyHooksMayEndTheRequest(t *testing.T) {
	for name, set := range map[string]func(*hyper.Transport){
		"GetProxyConnectHeader": func(tr *hyper.Transport) {
			tr.GetProxyConnectHeader = func(context.Context, *url.URL, string) (http.Header,
				error) {
				return nil, errHook
			}
		},
		"OnProxyConnectResponse": func(tr *hyper.Transport) {
			tr.OnProxyConnectResponse = func(context.Context, *url.URL, *http.Request,
				*http.Response) error {
				return errHook
			}
		},
	} {
		for _, proxy := range []string{"http/1.1", "https/1.1", "https/2"} {
			t.Run(name+" "+proxy, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					scheme, version, _ := strings.Cut(proxy, "/")
					dial := func(context.Context, string, string) (net.Conn, error) {
						client, server := h2test.Pipe()
						go serveProxy(t, server, scheme, version)
						return client, nil
					}
					config := h2test.ClientTLS()
					config.InsecureSkipVerify = true
					tr := &hyper.Transport{Config: &hyper.Config{DialContext: dial, TLS: config},
						Proxy: http.ProxyURL(&url.URL{Scheme: scheme, Host: "proxy.example:3128"})}
					set(tr)
					err := getURL(t, tr, "https://example.com/").WantErr(t, "the hook's error")
					if !errors.Is(err, errHook) || err.Error() != errHook.Error() {
						t.Errorf("%T %v", err, err)
					}
					if !hyper.Retryable(err) {
						t.Errorf("%v is not Retryable: nothing was sent", err)
					}
					tr.CloseIdleConnections()
				})
			})
		}
	}
}

// If a hook calls runtime.Goexit, the request fails, and no connection or stream stays open.
func TestProxyHookThatEndsItsGoroutine(t *testing.T) {
	for _, proxy := range []string{"http/1.1", "https/1.1", "https/2"} {
		t.Run(proxy, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				scheme, version, _ := strings.Cut(proxy, "/")
				var opened []*h2test.Conn
				dial := func(context.Context, string, string) (net.Conn, error) {
					client, server := h2test.Pipe()
					opened = append(opened, client)
					go serveProxy(t, server, scheme, version)
					return client, nil
				}
				config := h2test.ClientTLS()
				config.InsecureSkipVerify = true
				tr := &hyper.Transport{Config: &hyper.Config{DialContext: dial, TLS: config},
					Proxy: http.ProxyURL(&url.URL{Scheme: scheme, Host: "proxy.example:3128"})}
				tr.OnProxyConnectResponse = func(context.Context, *url.URL, *http.Request,
					*http.Response) error {
					runtime.Goexit()
					return nil
				}
				begin := time.Now()
				err := getURL(t, tr, "https://example.com/").WantErr(t, "the hook did not return")
				if took := time.Since(begin); took > time.Second {
					t.Errorf("%v after %v", err, took)
				}
				synctest.Wait() // the stream of the tunnel ends after the request
				tr.CloseIdleConnections()
				synctest.Wait()
				if _, err := opened[len(opened)-1].Write(nil); !errors.Is(err, net.ErrClosed) {
					t.Errorf("the connection to the proxy is left open: %v", err)
				}
				if n := tr.Stats().Total.StreamsOpen; n != 0 {
					t.Errorf("%d streams are left open", n)
				}
			})
		})
	}
}

// serveProxy accepts CONNECT with 200 and ignores what is sent through the tunnel.
func serveProxy(t *testing.T, nc net.Conn, scheme, version string) {
	switch {
	case version == "2":
		peer := h2test.NewPeer(t, h2test.TLSServer(nc, "h2"))
		peer.Handshake()
		peer.Ignore(wire.GoAway, wire.RSTStream, wire.Data)
		peer.WantHeaders("CONNECT", 1, ":method: CONNECT")
		peer.WriteHeaders(1, 0, ":status: 200")
		return
	case scheme == "https":
		nc = h2test.TLSServer(nc, "http/1.1")
	}
	new(connectLog).answerConnect(nc, "200 OK")
}

// Over HTTP/2 the hooks receive the same as over HTTP/1.1.
func TestProxyHooksOverHTTP2(t *testing.T) {
	for _, status := range []string{"200", "407"} {
		synctest.Test(t, func(t *testing.T) {
			var log connectLog
			servers := make(chan net.Conn, 10)
			dial := func(context.Context, string, string) (net.Conn, error) {
				client, server := h2test.Pipe()
				servers <- h2test.TLSServer(server, "h2")
				return client, nil
			}
			config := h2test.ClientTLS()
			config.InsecureSkipVerify = true
			tr := &hyper.Transport{Config: &hyper.Config{DialContext: dial, TLS: config},
				DisableKeepAlives:     true,
				Proxy:                 http.ProxyURL(&url.URL{Scheme: "https", Host: "proxy.example:3128"}),
				GetProxyConnectHeader: log.getHeader, OnProxyConnectResponse: log.onResponse}
			call := getURL(t, tr, "https://example.com/")
			peer := h2test.NewPeer(t, <-servers)
			peer.Handshake()
			peer.Ignore(wire.GoAway, wire.RSTStream, wire.Data, wire.WindowUpdate)
			peer.WantHeaders("CONNECT", 1, ":method: CONNECT", "x-dynamic: yes")
			peer.WriteHeaders(1, 0, ":status: "+status)
			peer.WriteData(1, wire.EndStream, []byte("sorry"))
			err := call.WantErr(t, "no tunnel")
			body := ""
			if status == "407" {
				body = "sorry"
				var refused *hyper.ConnectStatusError
				if !errors.As(err, &refused) || refused.StatusCode != 407 {
					t.Errorf("%T %v", err, err)
				}
			}
			want := "header for https://proxy.example:3128, example.com:443, <nil>\n" + status +
				fmt.Sprintf(" %q for https://proxy.example:3128, CONNECT example.com:443 example.com:443 "+
					"[yes], <nil>", body)
			if got := log.String(); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if n := tr.Stats().Total.Requests; n != 1 { // CONNECT does not count as a request
				t.Errorf("%d requests are counted, want 1", n)
			}
			tr.CloseIdleConnections()
		})
	}
}

// The fallback, which speaks HTTP/1.1, calls the hooks too.
func TestFallbackCallsTheProxyHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log connectLog
		dial := func(context.Context, string, string) (net.Conn, error) {
			client, server := h2test.Pipe()
			go log.answerConnect(server, "403 Forbidden")
			return client, nil
		}
		tr := &hyper.Transport{Config: &hyper.Config{DialContext: dial},
			Proxy:                 http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.example:3128"}),
			GetProxyConnectHeader: log.getHeader, OnProxyConnectResponse: log.onResponse}
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://example.com/", nil)
		req.Header.Set("Upgrade", "websocket") // requires HTTP/1.1
		h2test.Go(func() (*http.Response, error) { return tr.RoundTrip(req) }).WantErr(t, "no tunnel")
		if got := log.String(); strings.Count(got, "\n") != 2 ||
			!strings.Contains(got, "CONNECT example.com:443 [yes] []") {
			t.Errorf("got\n%s", got)
		}
	})
}

// With DisableKeepAlives each request has its own connection, which ends with it, as in net/http.
func TestDisableKeepAlivesMakesAConnectionForEachRequest(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1"} {
		run := func(t *testing.T, own bool) (dials, open int, closing bool) {
			var closes atomic.Bool
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, false, func(w http.ResponseWriter, r *http.Request) {
					if r.Close {
						closes.Store(true)
					}
					io.WriteString(w, r.Proto)
				})
				offer := s.transport()
				offer.TLSClientConfig.NextProtos = []string{protocol}
				offer.DisableKeepAlives = true
				offer.ForceAttemptHTTP2 = protocol == "h2"
				var rt http.RoundTripper = offer
				if own {
					rt = &hyper.Transport{Proxy: hyper.NoProxy, DisableKeepAlives: true,
						Config: &hyper.Config{DialContext: s.dial, TLS: offer.TLSClientConfig}}
				}
				for range 3 {
					if got := s.get(rt, "/"); !strings.HasPrefix(got, "200 ") {
						t.Error(got)
					}
				}
				if got := s.gets(rt, 5, "/"); !strings.HasPrefix(got, "200 ") {
					t.Error(got)
				}
				dials, open = s.counts()
				rt.(interface{ CloseIdleConnections() }).CloseIdleConnections()
				s.server.Close()
			})
			return dials, open, closes.Load()
		}
		ours, oursOpen, oursClosing := run(t, true)
		theirs, theirsOpen, theirsClosing := run(t, false)
		if protocol == "http/1.1" { // net/http may have made several before it knew that
			theirs = max(theirs, ours)
		}
		if ours > theirs || oursOpen != 0 || theirsOpen != 0 || oursClosing != theirsClosing {
			t.Errorf("%s: %d connections, %d open, Connection: close %v; with net/http %d, %d, %v",
				protocol, ours, oursOpen, oursClosing, theirs, theirsOpen, theirsClosing)
		}
		if ours < 8 {
			t.Errorf("%s: %d connections for 8 requests", protocol, ours)
		}
	}
}
