// This file tests how Conn.RoundTrip maps requests of net/http.

package hypertest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
	"golang.org/x/net/http2/hpack"
)

// These tests cover the sentences of http.RoundTripper's contract, and what net/http's own HTTP/2
// client does in addition. The tests of a Transport are in transport_test.go and
// transport_pool_test.go.

// tripAsync sends req through rt on another goroutine.
func tripAsync(rt http.RoundTripper, req *http.Request) *httpCall {
	return h2test.Go(func() (*http.Response, error) { return rt.RoundTrip(req) })
}

func httpRequest(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// A closableBody is a request body that counts how often it was closed.
type closableBody struct {
	io.Reader
	closed atomic.Int32
}

func (b *closableBody) Close() error {
	b.closed.Add(1)
	return nil
}

func (b *closableBody) wantClosed(t *testing.T, reason string) {
	t.Helper()
	synctest.Wait()
	if n := b.closed.Load(); n != 1 {
		t.Errorf("%s: the body was closed %d times", reason, n)
	}
}

const acceptAll = "accept-encoding: gzip, deflate, br"

func TestRoundTripMapsTheRequest(t *testing.T) {
	with := func(name string, values ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header[name] = values }
	}
	both := func(fs ...func(*http.Request)) func(*http.Request) {
		return func(r *http.Request) {
			for _, f := range fs {
				f(r)
			}
		}
	}
	noAgent := with("User-Agent", "")
	tests := []struct {
		name   string
		method string
		url    string
		body   io.Reader
		change func(*http.Request)
		want   []string
	}{
		{name: "the plainest", method: "GET", url: "https://example.com/a?b=c#d",
			want: []string{":method: GET", ":scheme: https", ":authority: example.com", ":path: /a?b=c",
				"user-agent: hyper", acceptAll}},
		{name: "an empty method is GET", url: "http://example.com",
			change: func(r *http.Request) { r.Method = "" },
			want: []string{":method: GET", ":scheme: http", ":authority: example.com", ":path: /",
				"user-agent: hyper", acceptAll}},
		{name: "Host goes before URL.Host, and the header's Host is nothing", url: "https://127.0.0.1:8443/",
			change: both(noAgent, with("Host", "evil"), func(r *http.Request) { r.Host = "virtual.example" }),
			want: []string{":method: GET", ":scheme: https", ":authority: virtual.example", ":path: /",
				acceptAll}},
		{name: "URL.Host stands in for Host", url: "https://example.com:8443/",
			change: both(noAgent, func(r *http.Request) { r.Host = "" }),
			want: []string{":method: GET", ":scheme: https", ":authority: example.com:8443", ":path: /",
				acceptAll}},
		{name: "an international name", url: "https://bücher.example:8443/", change: noAgent,
			want: []string{":method: GET", ":scheme: https", ":authority: xn--bcher-kva.example:8443",
				":path: /", acceptAll}},
		{name: "a zone means nothing to the peer", url: "https://[fe80::1%25eth0]:8443/", change: noAgent,
			want: []string{":method: GET", ":scheme: https", ":authority: [fe80::1]:8443", ":path: /",
				acceptAll}},
		{name: "what a path cannot have is encoded", change: both(noAgent, func(r *http.Request) {
			r.URL = &url.URL{Scheme: "https", Host: "example.com", Path: "/ü v", RawQuery: "q=ü x"}
		}), want: []string{":method: GET", ":scheme: https", ":authority: example.com",
			":path: /%C3%BC%20v?q=%C3%BC%20x", acceptAll}},
		{name: "an opaque URL", change: both(noAgent, func(r *http.Request) {
			r.URL = &url.URL{Scheme: "https", Host: "example.com", Opaque: "//example.com/%2f/a"}
		}), want: []string{":method: GET", ":scheme: https", ":authority: example.com", ":path: /%2f/a",
			acceptAll}},
		{name: "OPTIONS *", method: "OPTIONS", change: both(noAgent, func(r *http.Request) {
			r.URL = &url.URL{Scheme: "https", Host: "example.com", Path: "*"}
		}), want: []string{":method: OPTIONS", ":scheme: https", ":authority: example.com", ":path: *",
			acceptAll}},
		{name: "CONNECT", method: "CONNECT", change: both(noAgent, func(r *http.Request) {
			r.URL, r.Host = &url.URL{Scheme: "https", Host: "proxy.example"}, "example.com:443"
		}), want: []string{":method: CONNECT", ":authority: example.com:443"}},
		{name: "fields that are HTTP/1's own are left out",
			change: both(noAgent, with("Connection", "keep-alive"), with("Keep-Alive", "5"),
				with("Proxy-Connection", "keep-alive"), with("Transfer-Encoding", "chunked"),
				with("Upgrade", ""),
				with("Content-Length", "77")),
			want: []string{":method: GET", ":scheme: https", ":authority: example.com", ":path: /",
				acceptAll}},
		{name: "te is trailers or nothing", change: both(noAgent,
			with("Te", "deflate, Trailers;q=0.5", "trailers")),
			want: []string{":method: GET", ":scheme: https", ":authority: example.com", ":path: /",
				"te: trailers", acceptAll}},
		{name: "te without trailers", change: both(noAgent, with("Te", "deflate")),
			want: []string{":method: GET", ":scheme: https", ":authority: example.com", ":path: /",
				acceptAll}},
		{name: "fields are sorted, in lower case, without blanks around them",
			change: both(noAgent, with("X-B", " 2 ", "1"), with("X-A", "\t3")),
			want: []string{":method: GET", ":scheme: https", ":authority: example.com", ":path: /", "x-a: 3",
				"x-b: 2", "x-b: 1", acceptAll}},
		{name: "one user agent", change: with("User-Agent", "first", "second"),
			want: []string{":method: GET", ":scheme: https", ":authority: example.com", ":path: /",
				"user-agent: first", acceptAll}},
		{name: "no user agent", change: func(r *http.Request) { r.Header["User-Agent"] = nil },
			want: []string{":method: GET", ":scheme: https", ":authority: example.com", ":path: /",
				acceptAll}},
		{name: "cookies are split", change: both(noAgent, with("Cookie", "a=1; b=2", "c=3")),
			want: []string{":method: GET", ":scheme: https", ":authority: example.com", ":path: /",
				"cookie: a=1", "cookie: b=2", "cookie: c=3", acceptAll}},
		{name: "a caller's accept-encoding", change: both(noAgent, with("Accept-Encoding", "zstd")),
			want: []string{":method: GET", ":scheme: https", ":authority: example.com", ":path: /",
				"accept-encoding: zstd"}},
		{name: "no coding of a range", change: both(noAgent, with("Range", "bytes=0-9")),
			want: []string{":method: GET", ":scheme: https", ":authority: example.com", ":path: /",
				"range: bytes=0-9"}},
		{name: "no coding of HEAD", method: "HEAD", change: noAgent,
			want: []string{":method: HEAD", ":scheme: https", ":authority: example.com", ":path: /"}},
		{name: "POST without a body says so", method: "POST", change: noAgent,
			want: []string{":method: POST", ":scheme: https", ":authority: example.com", ":path: /",
				acceptAll, "content-length: 0"}},
		{name: "NoBody is none", method: "PUT", body: http.NoBody, change: noAgent,
			want: []string{":method: PUT", ":scheme: https", ":authority: example.com", ":path: /", acceptAll,
				"content-length: 0"}},
		{name: "DELETE without a body need not", method: "DELETE", change: noAgent,
			want: []string{":method: DELETE", ":scheme: https", ":authority: example.com", ":path: /",
				acceptAll}},
		{name: "a body in memory", method: "POST", body: strings.NewReader("hello"), change: noAgent,
			want: []string{":method: POST", ":scheme: https", ":authority: example.com", ":path: /",
				acceptAll, "content-length: 5"}},
		{name: "a body of a length that is given", method: "POST",
			body:   &closableBody{Reader: strings.NewReader("hello")},
			change: both(noAgent, func(r *http.Request) { r.ContentLength = 5 }),
			want: []string{":method: POST", ":scheme: https", ":authority: example.com", ":path: /",
				acceptAll, "content-length: 5"}},
		{name: "0 with a body is unknown", method: "POST",
			body: &closableBody{Reader: strings.NewReader("hello")}, change: noAgent,
			want: []string{":method: POST", ":scheme: https", ":authority: example.com", ":path: /",
				acceptAll}},
		{name: "-1 is unknown", method: "POST", body: strings.NewReader("hello"),
			change: both(noAgent, func(r *http.Request) { r.ContentLength = -1 }),
			want: []string{":method: POST", ":scheme: https", ":authority: example.com", ":path: /",
				acceptAll}},
		{name: "trailers are announced", method: "POST",
			body: &closableBody{Reader: strings.NewReader("hello")},
			change: both(noAgent, with("Trailer", "X-Other"),
				func(r *http.Request) { r.Trailer = http.Header{"X-Sum": nil, "X-Count": nil} }),
			want: []string{":method: POST", ":scheme: https", ":authority: example.com", ":path: /",
				"trailer: X-Count,X-Sum", acceptAll}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				req := httpRequest(t, test.method, cmp.Or(test.url, "https://example.com/"), test.body)
				if test.change != nil {
					test.change(req)
				}
				before := req.Clone(context.Background())
				answer := tripAsync(conn, req)
				peer.WantHeadersExactly("the request", 1, test.want...)
				peer.WriteHeaders(1, wire.EndStream, ":status: 200")
				answer.Want(t, "the response").Body.Close()
				// "RoundTrip should not modify the request, except for consuming and closing the
				// Request's Body."
				after := req.Clone(context.Background())
				before.Body, after.Body, before.GetBody, after.GetBody = nil, nil, nil, nil
				if !reflect.DeepEqual(before, after) {
					t.Errorf("the request was changed:\n%+v\n%+v", before, after)
				}
				peer.Ignore(wire.Data, wire.Headers, wire.RSTStream)
			})
		})
	}
}

func TestRoundTripAllowsExtendedCONNECT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingEnableConnectProtocol, Value: 1})
		req := httpRequest(t, "CONNECT", "https://example.com/chat", nil)
		req.Header[":protocol"] = []string{"websocket"}
		answer := tripAsync(conn, req)
		peer.WantHeaders("extended CONNECT", 1, ":method: CONNECT", ":protocol: websocket", ":scheme: https",
			":path: /chat", ":authority: example.com")
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		answer.Want(t, "the tunnel").Body.Close()
		peer.Ignore(wire.RSTStream)
	})
}

// "Requests … URL and Header fields must be initialized." A request that HTTP/2 cannot express is
// refused before anything is sent. "RoundTrip must always close the body, including on errors."
func TestRoundTripRefusesAndClosesTheBody(t *testing.T) {
	set := func(name string, values ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header[name] = values }
	}
	tests := []struct {
		name   string
		change func(*http.Request)
	}{
		{"no URL", func(r *http.Request) { r.URL = nil }},
		{"no Header", func(r *http.Request) { r.Header = nil }},
		{"no host", func(r *http.Request) { r.URL.Host, r.Host = "", "" }},
		{"a host with a blank", func(r *http.Request) { r.Host = "a b" }},
		{"a host that is no international name", func(r *http.Request) { r.Host = "xn--ü\u200d" }},
		{"another scheme", func(r *http.Request) { r.URL.Scheme = "ftp" }},
		{"a method that is no token", func(r *http.Request) { r.Method = "GE T" }},
		{"a relative path", func(r *http.Request) {
			r.URL = &url.URL{Scheme: "https", Host: "example.com",
				Opaque: "x"}
		}},
		{"a control character in the query", func(r *http.Request) { r.URL.RawQuery = "a\nb" }},
		{"CONNECT without a port", func(r *http.Request) { r.Method = "CONNECT" }},
		{":protocol without CONNECT", set(":protocol", "websocket")},
		{"upgrade", set("Upgrade", "websocket")},
		{"a transfer coding", set("Transfer-Encoding", "gzip")},
		{"two transfer codings", set("Transfer-Encoding", "chunked", "chunked")},
		{"connection options", set("Connection", "x-own")},
		{"a name that is no token", set("X Y", "1")},
		{"a line break in a value", set("X-Y", "1\r\nx-z: 2")},
		{"a forbidden trailer", func(r *http.Request) { r.Trailer = http.Header{"Content-Length": nil} }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				body := &closableBody{Reader: strings.NewReader("hello")}
				req := httpRequest(t, "POST", "https://example.com/", body)
				test.change(req)
				err := tripAsync(conn, req).WantErr(t, "a request that cannot be sent")
				var refused *hyper.RequestError
				if !errors.As(err, &refused) {
					t.Errorf("want a *RequestError, got %v", err)
				}
				if body.closed.Load() != 1 {
					t.Errorf("the body was closed %d times when RoundTrip returned", body.closed.Load())
				}
				peer.WantIdle("nothing was sent")
			})
		})
	}
}

func TestRoundTripClosesTheBodyOnEveryPath(t *testing.T) {
	tests := []struct {
		name   string
		answer func(peer *h2test.Peer, cancel context.CancelFunc)
		failed bool
	}{
		{"answered", func(peer *h2test.Peer, _ context.CancelFunc) {
			peer.WantBody("the body", 1, []byte("hello"))
			peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		}, false},
		{"answered before the body is sent", func(peer *h2test.Peer, _ context.CancelFunc) {
			peer.WriteHeaders(1, wire.EndStream, ":status: 200")
			peer.WantBody("the body", 1, []byte("hello"))
		}, false},
		{"an error before the body is read", func(peer *h2test.Peer, _ context.CancelFunc) {
			peer.WriteHeaders(1, wire.EndStream, ":status: 413")
		}, false},
		{"reset", func(peer *h2test.Peer, _ context.CancelFunc) {
			peer.WriteRSTStream(1,
				wire.InternalError)
		}, true},
		{"refused", func(peer *h2test.Peer, _ context.CancelFunc) {
			peer.WriteRSTStream(1,
				wire.RefusedStream)
		}, true},
		{"the connection is lost", func(peer *h2test.Peer, _ context.CancelFunc) { peer.Close() }, true},
		{"cancelled", func(_ *h2test.Peer, cancel context.CancelFunc) { cancel() }, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				peer.Ignore(wire.RSTStream)
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				body := &closableBody{Reader: strings.NewReader("hello")}
				answer := tripAsync(conn, httpRequest(t, "POST", "https://example.com/",
					body).WithContext(ctx))
				peer.WantHeaders("the request", 1)
				test.answer(peer, cancel)
				if test.failed {
					answer.WantErr(t, "the request")
					if body.closed.Load() != 1 {
						t.Errorf("the body was closed %d times when RoundTrip returned", body.closed.Load())
					}
				} else {
					answer.Want(t, "the response").Body.Close()
				}
				body.wantClosed(t, "in the end")
				peer.Ignore(wire.Data)
			})
		})
	}
}

func TestRoundTripOnADeadConnectionClosesTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, conn := dialPeer(t, nil)
		conn.Close()
		body := &closableBody{Reader: strings.NewReader("hello")}
		err := tripAsync(conn, httpRequest(t, "POST", "https://example.com/", body)).WantErr(t, "after Close")
		if !errors.Is(err, hyper.ErrClosed) || body.closed.Load() != 1 {
			t.Errorf("%v, body closed %d times", err, body.closed.Load())
		}
	})
}

// When RoundTrip has returned an error, the caller may use the memory that the body reads from.
func TestRoundTripReturnsAfterAReadOfTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		var reading atomic.Bool
		body := io.NopCloser(h2test.ReaderFunc(func(p []byte) (int, error) {
			reading.Store(true)
			defer reading.Store(false)
			time.Sleep(closeGrace / 2)
			return len(p), nil
		}))
		answer := tripAsync(conn, httpRequest(t, "POST", "https://example.com/", body))
		peer.WantHeaders("the request", 1)
		peer.WriteRSTStream(1, wire.Cancel)
		answer.WantErr(t, "reset")
		if reading.Load() {
			t.Error("a Read is in progress")
		}
	})
}

// golang/go#80085: a body whose Close waits for its Read must not delay RoundTrip for long.
func TestRoundTripDoesNotWaitForABodyThatBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		block := make(chan struct{})
		defer close(block)
		body := &blockedBody{block}
		answer := tripAsync(conn, httpRequest(t, "POST", "https://example.com/", body))
		peer.WantHeaders("the request", 1)
		peer.WriteRSTStream(1, wire.Cancel)
		start := time.Now()
		answer.WantErr(t, "reset")
		if d := time.Since(start); d > closeGrace {
			t.Errorf("RoundTrip waited %v for the body", d)
		}
	})
}

type blockedBody struct{ free chan struct{} }

func (b *blockedBody) Read([]byte) (int, error) {
	<-b.free
	return 0, io.EOF
}

func (b *blockedBody) Close() error {
	<-b.free
	return nil
}

func TestRoundTripSendsBodiesInMemoryWithoutReadingThem(t *testing.T) {
	for name, body := range map[string]interface {
		io.Reader
		Len() int
	}{
		"bytes.Reader": bytes.NewReader([]byte("hello")), "bytes.Buffer": bytes.NewBufferString("hello"),
		"strings.Reader": strings.NewReader("hello"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn, client := newPeer(t, nil)
				peer.Handshake()
				client.LogWrites()
				answer := tripAsync(conn, httpRequest(t, "POST", "https://example.com/", body))
				peer.WantHeaders("the request", 1, "content-length: 5")
				peer.WantData("with its body", 1, wire.EndStream, 5)
				if n := len(client.WriteLog()); n != 1 {
					t.Errorf("%d writes", n)
				}
				peer.WriteHeaders(1, wire.EndStream, ":status: 200")
				answer.Want(t, "the response").Body.Close()
				// Callers that use a buffer for one request after another rely on this.
				if body.Len() != 0 {
					t.Errorf("%d octets are left in the reader", body.Len())
				}
			})
		})
	}
}

// After RoundTrip, callers use what their body computed by its end, such as a digest.
func TestRoundTripClosesTheBodyBeforeThePeerCanAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		body := &slowToClose{Reader: strings.NewReader("hello"), may: make(chan struct{})}
		answer := tripAsync(conn, httpRequest(t, "POST", "https://example.com/", body))
		peer.WantHeaders("the request", 1)
		peer.WantData("all of the body", 1, 0, 5)
		peer.WantIdle("it is being closed")
		close(body.may)
		peer.WantData("its end", 1, wire.EndStream, 0)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		answer.Want(t, "the response")
	})
}

// A slowToClose is a body whose Close blocks.
type slowToClose struct {
	io.Reader
	may chan struct{}
}

func (s *slowToClose) Close() error {
	<-s.may
	return nil
}

func TestRoundTripHoldsTheBodyAgainstContentLength(t *testing.T) {
	for declared, got := range map[int64]int64{4: 5, 6: 5} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			peer.Ignore(wire.Data)
			req := httpRequest(t, "POST", "https://example.com/",
				&closableBody{Reader: strings.NewReader("hello")})
			req.ContentLength = declared
			answer := tripAsync(conn, req)
			peer.WantHeaders("the request", 1)
			peer.WantRSTStream("a body that is not what was declared", 1, wire.Cancel)
			var wrong *hyper.BodyLengthError
			if err := answer.WantErr(t, "the request"); !errors.As(err, &wrong) ||
				wrong.Declared != declared || wrong.Got != got {
				t.Errorf("%v", err)
			}
		})
	}
}

// The value of a trailer may be set while the body is read.
func TestRoundTripReadsTrailersBehindTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		req := httpRequest(t, "POST", "https://example.com/", nil)
		req.Trailer = http.Header{"X-Sum": nil, "X-Never": nil}
		req.Body = io.NopCloser(io.MultiReader(strings.NewReader("hello"),
			h2test.ReaderFunc(func([]byte) (int, error) {
				req.Trailer.Set("X-Sum", "42")
				return 0, io.EOF
			})))
		req.ContentLength = -1
		answer := tripAsync(conn, req)
		peer.WantHeaders("the request", 1, "trailer: X-Never,X-Sum")
		peer.WantBody("the body", 1, []byte("hello"))
		peer.WantHeadersExactly("the trailers", 1, "x-sum: 42")
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		answer.Want(t, "the response").Body.Close()
	})
}

// RoundTrip returns the error of the body's Read.
func TestRoundTripReturnsTheErrorOfTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		broken := errors.New("disk on fire")
		body := &closableBody{Reader: h2test.ReaderFunc(func([]byte) (int, error) { return 0, broken })}
		answer := tripAsync(conn, httpRequest(t, "POST", "https://example.com/", body))
		peer.WantHeaders("the request", 1)
		peer.WantRSTStream("without its body", 1, wire.Cancel)
		if err := answer.WantErr(t, "the request"); !errors.Is(err, broken) {
			t.Errorf("%v", err)
		}
		body.wantClosed(t, "after its error")
	})
}

// Whatever byte is in any place of an http.Request, the request is refused, or it is sent as RFC
// 9113 §8.2.1 and RFC 9110 §5.5 allow. No byte makes two fields of one.
func TestRoundTripSendsNoByteThatDoesNotBelong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, _ := newPeer(t, nil)
		received := make(chan []hpack.HeaderField, 2) // header and trailers
		peer.Serve(func(stream uint32, h h2test.Headers) {
			received <- h.Fields
			if h.EndStream || h.Get(":method") == "CONNECT" {
				h2test.AnswerEmpty(peer, stream)
			}
		}, wire.Setting{ID: wire.SettingEnableConnectProtocol, Value: 1})
		synctest.Wait()
		token := regexp.MustCompile("^:?[!#$%&'*+.^_`|~0-9a-z-]+$")
		visible := regexp.MustCompile("^[!-~]+$")
		value := regexp.MustCompile("^([!-~\\x80-\\xff]([ \t!-~\\x80-\\xff]*[!-~\\x80-\\xff])?)?$")
		places := map[string]func(r *http.Request, s string){
			"method":      func(r *http.Request, s string) { r.Method = s },
			"Host":        func(r *http.Request, s string) { r.Host = s },
			"URL.Host":    func(r *http.Request, s string) { r.Host, r.URL.Host = "", s },
			"path":        func(r *http.Request, s string) { r.URL.Path = "/" + s },
			"raw path":    func(r *http.Request, s string) { r.URL.Path, r.URL.RawPath = "/"+s, "/"+s },
			"query":       func(r *http.Request, s string) { r.URL.RawQuery = s },
			"opaque":      func(r *http.Request, s string) { r.URL.Opaque = "/" + s },
			"field name":  func(r *http.Request, s string) { r.Header[s] = []string{"1"} },
			"field value": func(r *http.Request, s string) { r.Header["X"] = []string{s} },
			"cookie":      func(r *http.Request, s string) { r.Header["Cookie"] = []string{s} },
			"user agent":  func(r *http.Request, s string) { r.Header["User-Agent"] = []string{s} },
			":protocol": func(r *http.Request, s string) {
				r.Method, r.Header[":protocol"] = "CONNECT",
					[]string{s}
			},
			"trailer name": func(r *http.Request, s string) { r.Trailer = http.Header{s: {"1"}} },
		}
		for place, put := range places {
			sent := 0
			for octet := range 256 {
				req := httpRequest(t, "GET", "https://example.com/", nil)
				put(req, "a"+string([]byte{byte(octet)})+"b")
				resp, err := conn.RoundTrip(req)
				if err != nil {
					var refused *hyper.RequestError
					if !errors.As(err, &refused) {
						t.Errorf("%s with %#x: %v", place, octet, err)
					}
					continue
				}
				resp.Body.Close()
				sent++
				fields := <-received
				if len(received) > 0 {
					fields = append(fields, <-received...)
				}
				for _, f := range fields {
					ok := token.MatchString(f.Name)
					if strings.HasPrefix(f.Name, ":") {
						ok = ok && visible.MatchString(f.Value)
					} else {
						ok = ok && value.Match(latin1(f.Value))
					}
					if !ok {
						t.Errorf("%s with %#x sends %q: %q", place, octet, f.Name, f.Value)
					}
				}
			}
			if sent < 26 {
				t.Errorf("%s: only %d of 256 octets can be sent", place, sent)
			}
		}
	})
}

// latin1 makes each byte of s a character of its own, for regexp.
func latin1(s string) []byte {
	r := make([]rune, len(s))
	for i := range len(s) {
		r[i] = rune(s[i])
	}
	return []byte(string(r))
}
