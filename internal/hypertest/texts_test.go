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
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

func TestRequestErrorsQuoteTheValueAndNameTheCause(t *testing.T) {
	long := "/" + strings.Repeat("x", 100) + " y"
	for want, req := range map[string]*hyper.Request{
		`hyper: request: :path "foo bar" has a space`:                              {Path: "foo bar"},
		`hyper: request: :path "/a\nb" has a control character, '\n'`:              {Path: "/a\nb"},
		`hyper: request: :path "/caf\u00e9" has a character that is not ASCII`:     {Path: "/café"},
		`hyper: request: :path "/a#b" has a fragment, which stays with the client`: {Path: "/a#b"},
		`hyper: request: :path "foo" does not begin with /`:                        {Path: "foo"},
		`hyper: request: :path "*" is only for OPTIONS`:                            {Path: "*"},
		`hyper: request: :path "` +
			long[:64] + `"… has a space`: {Path: long},
		`hyper: request: :method "GE T" is not a token: it has a space`: {
			Method: "GE T",
		},
		`hyper: request: :scheme "1x" is not a scheme (RFC 3986 §3.1)`: {
			Scheme: "1x",
		},
		`hyper: request: :authority "a/b" is not host or host:port in ASCII: it has a '/'`: {
			Authority: "a/b",
		},
		`hyper: request: :authority has userinfo, which must not be sent (RFC 9113 §8.3.1)`: {
			Authority: "user:secret@example.com",
		},
		`hyper: request: :protocol "websocket" belongs to CONNECT, and :method is "GET"`: {
			Protocol: "websocket",
		},
		`hyper: request: :authority "example.com" has no port: ` +
			`CONNECT has no default port (RFC 9110 §9.3.6)`: {
			Method: "CONNECT", Authority: "example.com",
		},
		`hyper: request: :status "200" is not a pseudo-header field of a request`: {
			Header: hyper.Header{{Name: ":status", Value: "200"}},
		},
		`hyper: request: :path "/b" appears twice`: {
			Header: hyper.Header{{Name: ":path", Value: "/a"}, {Name: ":path", Value: "/b"}},
		},
		`hyper: request: :path "/b" is after a regular field`: {
			Header: hyper.Header{{Name: "a", Value: "b"}, {Name: ":path", Value: "/b"}},
		},
		`hyper: request: "bad name" is an invalid header field name: it has a space`: {
			Header: hyper.Header{{Name: "Bad Name"}},
		},
		`hyper: request: "" is an invalid header field name: it is empty`: {
			Header: hyper.Header{{Name: ""}},
		},
		`hyper: request: x has an invalid header field value: a control character, '\n' at byte 7 of 7`: {
			Header: hyper.Header{{Name: "x", Value: "secret\n"}},
		},
		`hyper: request: x has an invalid header field value: a space or tab at its beginning or end`: {
			Header: hyper.Header{{Name: "x", Value: "secret "}},
		},
		`hyper: request: te "gzip" may only be "trailers" in HTTP/2 (RFC 9113 §8.2.2)`: {
			Header: hyper.Header{{Name: "TE", Value: "gzip"}},
		},
		`hyper: request: host "other.example" differs from :authority "192.0.2.2:443"`: {
			Header: hyper.Header{{Name: ":authority", Value: "192.0.2.2:443"},
				{Name: "Host", Value: "other.example"}},
		},
		`hyper: request: content-length "1x" is not one decimal number`: {
			Header: hyper.Header{{Name: "Content-Length", Value: "1x"}},
		},
		`hyper: request: upgrade is specific to a connection and has no place in HTTP/2 (RFC 9113 §8.2.2)`: {
			Header: hyper.Header{{Name: "Upgrade", Value: "h2c"}},
		},
		`hyper: request: content-length has no place in trailers`: {
			Trailer: hyper.Header{{Name: "Content-Length", Value: "1"}},
		},
		`hyper: request: header takes 4131 bytes; the peer allows 1000`: {
			NoDefaultFields: true,
			Header: hyper.Header{{Name: ":path", Value: "/"},
				{Name: "x", Value: strings.Repeat("y", 3931)}},
		},
		`hyper: request: :path "/\u202eevil" has a character that is not ASCII`: {
			Path: "/\u202eevil",
		},
		`hyper: request: :protocol "a b" is not a token: it has a space`: {
			Method: "CONNECT", Protocol: "a b",
		},
		`hyper: request: :path "/x" has no place in CONNECT without a :protocol (RFC 9113 §8.5)`: {
			Method: "CONNECT", Authority: "a:1", Path: "/x",
		},
		`hyper: request: :scheme "http" has no place in CONNECT without a :protocol (RFC 9113 §8.5)`: {
			Method: "CONNECT", Authority: "a:1", Scheme: "http",
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			_, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxHeaderListSize, Value: 1000})
			_, err := conn.Do(t.Context(), req)
			var re *hyper.RequestError
			if !errors.As(err, &re) || hyper.Retryable(err) {
				t.Fatalf("%T %v", err, err)
			}
			if re.Field != "header" && err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("%v tells a secret", err)
			}
		})
	}
}

// A nil argument that is not allowed causes a panic in the call. Its text names the function and
// the argument.
func TestNilArgumentsPanicAtTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		ctx := t.Context()
		var none context.Context
		opened := h2test.Go(func() (*hyper.Stream, error) { return conn.Open(ctx, &hyper.Request{}) })
		s := opened.Want(t, "a stream")
		peer.WantHeaders("a stream", 1)
		for want, call := range map[string]func(){
			"hyper: Dial: nil context.Context": func() {
				hyper.Dial(none, "example.com", nil)
			},
			"hyper: NewConn: nil context.Context": func() {
				c, _ := h2test.Pipe()
				hyper.NewConn(none, c, nil)
			},
			"hyper: NewConn: nil net.Conn":          func() { hyper.NewConn(ctx, nil, nil) },
			"hyper: Conn.Do: nil context.Context":   func() { conn.Do(none, &hyper.Request{}) },
			"hyper: Conn.Do: nil *Request":          func() { conn.Do(ctx, nil) },
			"hyper: Conn.Get: nil context.Context":  func() { conn.Get(none, "/") },
			"hyper: Conn.Open: nil context.Context": func() { conn.Open(none, &hyper.Request{}) },
			"hyper: Conn.Open: nil *Request":        func() { conn.Open(ctx, nil) },
			"hyper: Conn.Connect: nil context.Context": func() {
				conn.Connect(none, "example.com:443", nil)
			},
			"hyper: Conn.Ping: nil context.Context":           func() { conn.Ping(none) },
			"hyper: Conn.WaitSettings: nil context.Context":   func() { conn.WaitSettings(none) },
			"hyper: Conn.UpdateSettings: nil context.Context": func() { conn.UpdateSettings(none) },
			"hyper: Conn.Shutdown: nil context.Context":       func() { conn.Shutdown(none) },
			"hyper: Stream.Response: nil context.Context":     func() { s.Response(none) },
			"hyper: Pushes: nil context.Context":              func() { s.Pushes(none) },
			"hyper: Conn.RoundTrip: nil *http.Request":        func() { conn.RoundTrip(nil) },
			"hyper: Transport.RoundTrip: nil *http.Request":   func() { new(hyper.Transport).RoundTrip(nil) },
			"hyper: ConfigureTransport: nil *http.Transport":  func() { hyper.ConfigureTransport(nil, nil) },
			"hyper: RequestFromHTTP: nil *http.Request":       func() { hyper.RequestFromHTTP(nil) },
			"hyper: ResponseFromHTTP: nil *http.Response":     func() { hyper.ResponseFromHTTP(nil) },
			"hyper: WithResponse: nil context.Context": func() {
				hyper.WithResponse(none, func(*hyper.Response) {})
			},
			"hyper: WithResponse: nil func(*Response)": func() { hyper.WithResponse(ctx, nil) },
			"hyper: WithRequest: nil context.Context": func() {
				hyper.WithRequest(none, func(*hyper.Request) {})
			},
			"hyper: WithRequest: nil func(*Request)": func() { hyper.WithRequest(ctx, nil) },
		} {
			func() {
				defer func() {
					if got := fmt.Sprint(recover()); got != want {
						t.Errorf("got  %s\nwant %s", got, want)
					}
				}()
				call()
			}()
		}
		peer.WantIdle("nothing was sent")
		peer.Ignore(wire.RSTStream)
		s.Reset(hyper.ErrCodeCancel)
		if err := conn.Err(); err != nil {
			t.Errorf("the connection has ended: %v", err)
		}
	})
}

// throughProxy sends a request through a proxy. Each connection to the proxy is passed to serve. It
// returns the number of dials and the error of the request.
func throughProxy(t *testing.T, serve func(server net.Conn)) (dials int64, err error) {
	var count atomic.Int64
	cfg := &hyper.Config{DialContext: func(context.Context, string, string) (net.Conn, error) {
		count.Add(1)
		client, server := h2test.Pipe()
		t.Cleanup(func() { server.Close() })
		go serve(server)
		return client, nil
	}, TLS: h2test.ClientTLS()}
	tr := &hyper.Transport{Config: cfg, Proxy: http.ProxyURL(&url.URL{Scheme: "http",
		Host: "proxy.example:3128"})}
	t.Cleanup(tr.CloseIdleConnections)
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://example.com", nil)
	_, err = (&http.Client{Transport: tr}).Do(req)
	return count.Load(), err
}

func TestProxyErrors(t *testing.T) {
	answer := func(text string) func(server net.Conn) {
		return func(server net.Conn) {
			http.ReadRequest(bufio.NewReader(server))
			io.WriteString(server, text)
			server.Close()
		}
	}
	for name, c := range map[string]struct {
		serve func(server net.Conn)
		want  wantedError
		as    func(error) bool
	}{
		"refusal": {answer("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
			wantedError{text: "proxyconnect tcp proxy.example:3128: proxy refused the tunnel with status 403",
				retryable: true}, is[*hyper.ConnectStatusError]},
		"EOF": {answer(""), wantedError{text: "proxyconnect tcp proxy.example:3128: ",
			is: []error{io.ErrUnexpectedEOF}, retryable: true}, is[*net.OpError]},
		"nothing": {func(server net.Conn) { io.Copy(io.Discard, server) },
			wantedError{text: "hyper: dial example.com:443: not done within Config.HandshakeTimeout, 10s: " +
				"proxyconnect tcp proxy.example:3128: ",
				is: []error{hyper.ErrHandshakeTimeout, context.DeadlineExceeded}, timeout: true,
				retryable: true},
			is[*net.OpError]},
		"no TLS behind it": {answer("HTTP/1.1 200 OK\r\n\r\n"),
			wantedError{text: "hyper: TLS handshake with example.com (" + peerAddr + "): ", conn: true,
				retryable: true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dials, err := throughProxy(t, c.serve)
				c.want.checkClient(t, &visit{}, err)
				if c.as != nil && !c.as(err) {
					t.Errorf("%T %v is of another kind", err, err)
				}
				most := int64(1)
				// Another attempt starts each second, up to four at once.
				if name == "nothing" {
					most = 4
				}
				if dials != most {
					t.Errorf("dialled %d times", dials)
				}
			})
		})
	}
}

// dialTunnel returns a connection to a proxy, and a connection through a tunnel of it.
func dialTunnel(t *testing.T) (proxy *h2test.Peer, below, through *hyper.Conn) {
	t.Helper()
	proxy, below = dialPeer(t, nil)
	connected := h2test.Go(func() (net.Conn, error) {
		return below.Connect(t.Context(), "example.com:80", nil)
	})
	proxy.WantHeaders("CONNECT", 1)
	proxy.WriteHeaders(1, 0, ":status: 200")
	through, err := hyper.NewConn(t.Context(), connected.Want(t, "the tunnel"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return proxy, below, through
}

// An error that ends a tunnel belongs to the connection to the proxy. The connection through the
// tunnel is lost, with an error of its own.
func TestErrorOfATunnelIsNotThatOfTheConnectionThroughIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		proxy, below, conn := dialTunnel(t)
		call := getAsync(conn, "/")
		proxy.WantFrame("the request", wire.Data)
		proxy.WriteRSTStream(1, wire.RefusedStream)
		err := call.WantErr(t, "the tunnel is lost")
		if hyper.Retryable(err) {
			t.Errorf("%v is retryable: the request was sent", err)
		}
		if ce := asConnError(t, err); ce.Code != hyper.ErrCodeNo || !ce.FromPeer {
			t.Errorf("%+v", ce)
		}
		if below.Err() != nil {
			t.Errorf("the connection to the proxy has ended: %v", below.Err())
		}
		conn.Close()
	})
	synctest.Test(t, func(t *testing.T) {
		proxy, below, conn := dialTunnel(t)
		call := getAsync(conn, "/")
		proxy.WantFrame("the request", wire.Data)
		proxy.WriteWindowUpdate(0, 0) // the proxy breaks a rule
		err := call.WantErr(t, "the tunnel is lost")
		if ce := asConnError(t, err); ce.Code != hyper.ErrCodeNo || !ce.FromPeer {
			t.Errorf("%+v is the proxy's error", ce)
		}
		if ce := asConnError(t, below.Err()); ce.Code != hyper.ErrCodeProtocol || ce.FromPeer {
			t.Errorf("%+v", ce)
		}
		conn.Close()
	})
}

func TestWaitingForAStreamNamesTheLimit(t *testing.T) {
	for limit, text := range map[uint32]string{
		0:   "hyper: waiting for a stream (the peer allows none now): context deadline exceeded",
		1:   "hyper: waiting for the peer's only stream: context deadline exceeded",
		250: "hyper: waiting for one of the peer's 250 streams: context deadline exceeded",
	} {
		synctest.Test(t, func(t *testing.T) {
			_, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: limit})
			if _, err := conn.WaitSettings(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range limit {
				getAsync(conn, "/")
			}
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := conn.Get(ctx, "/"); err == nil || err.Error() != text {
				t.Errorf("got  %v\nwant %s", err, text)
			}
			conn.Close()
		})
	}
}

func TestErrorOfAnAddressWithAPathNamesThePath(t *testing.T) {
	for _, addr := range []string{"https://example.com/a", "example.com/a", "http://example.com?a",
		"example.com:443#a"} {
		_, err := hyper.Dial(t.Context(), addr, nil)
		if want := fmt.Sprintf("hyper: address %q has a path: it is host or host:port, and the path is "+
			"the request's", addr); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

func TestErrorOfAWaitForAStreamNamesTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := h2test.Pipe()
		peer := h2test.NewPeer(t, server)
		tr := &hyper.Transport{Proxy: hyper.NoProxy, UnencryptedHTTP2: true, MaxConnsPerHost: 1,
			Config: &hyper.Config{
				DialContext: func(context.Context, string, string) (net.Conn, error) { return client, nil },
			}}
		get := func(timeout time.Duration) *httpCall {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			t.Cleanup(cancel)
			req, _ := http.NewRequestWithContext(ctx, "GET", "http://example.com/", nil)
			return h2test.Go(func() (*http.Response, error) { return (&http.Client{Transport: tr}).Do(req) })
		}
		first := get(time.Hour)
		peer.Handshake(wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 2})
		peer.WantHeaders("the first", 1)
		second := get(time.Hour)
		peer.WantHeaders("the second", 3)
		err := get(time.Second).WantErr(t, "there are but two streams")
		wantedError{text: "hyper: waiting for one of the peer's 2 streams: context deadline exceeded",
			is: []error{context.DeadlineExceeded}, timeout: true}.
			checkClient(t, &visit{}, err)
		peer.Close()
		first.WantErr(t, "lost")
		second.WantErr(t, "lost")
	})
}
