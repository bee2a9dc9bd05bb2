package hyper

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// These tests cover the sentences of http.RoundTripper's contract, and what net/http's own HTTP/2
// client does in addition. The tests of a Transport are in transport_test.go and
// transport_pool_test.go.

// tripAsync sends req through rt on a goroutine of its own.
func tripAsync(rt http.RoundTripper, req *http.Request) *trip {
	r := &trip{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.resp, r.err = rt.RoundTrip(req)
	}()
	return r
}

// A trip is a call of RoundTrip on another goroutine.
type trip struct {
	done chan struct{}
	resp *http.Response
	err  error
}

func (r *trip) want(t *testing.T, reason string) *http.Response {
	t.Helper()
	<-r.done
	if r.err != nil {
		t.Fatalf("%s: %v", reason, r.err)
	}
	return r.resp
}

func (r *trip) wantErr(t *testing.T, reason string) error {
	t.Helper()
	<-r.done
	if r.err == nil {
		t.Fatalf("%s: want an error, got status %d", reason, r.resp.StatusCode)
	}
	if r.resp != nil {
		t.Errorf("%s: a response beside the error %v", reason, r.err)
	}
	return r.err
}

func httpRequest(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// A countedBody is a request body that counts how often it was closed.
type countedBody struct {
	io.Reader
	closed atomic.Int32
}

func (b *countedBody) Close() error {
	b.closed.Add(1)
	return nil
}

func (b *countedBody) wantClosed(t *testing.T, reason string) {
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
			body:   &countedBody{Reader: strings.NewReader("hello")},
			change: both(noAgent, func(r *http.Request) { r.ContentLength = 5 }),
			want: []string{":method: POST", ":scheme: https", ":authority: example.com", ":path: /",
				acceptAll, "content-length: 5"}},
		{name: "0 with a body is unknown", method: "POST",
			body: &countedBody{Reader: strings.NewReader("hello")}, change: noAgent,
			want: []string{":method: POST", ":scheme: https", ":authority: example.com", ":path: /",
				acceptAll}},
		{name: "-1 is unknown", method: "POST", body: strings.NewReader("hello"),
			change: both(noAgent, func(r *http.Request) { r.ContentLength = -1 }),
			want: []string{":method: POST", ":scheme: https", ":authority: example.com", ":path: /",
				acceptAll}},
		{name: "trailers are announced", method: "POST",
			body: &countedBody{Reader: strings.NewReader("hello")},
			change: both(noAgent, with("Trailer", "X-Other"),
				func(r *http.Request) { r.Trailer = http.Header{"X-Sum": nil, "X-Count": nil} }),
			want: []string{":method: POST", ":scheme: https", ":authority: example.com", ":path: /",
				"trailer: X-Count,X-Sum", acceptAll}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				req := httpRequest(t, test.method, or(test.url, "https://example.com/"), test.body)
				if test.change != nil {
					test.change(req)
				}
				before := req.Clone(context.Background())
				answer := tripAsync(conn, req)
				peer.WantHeadersExactly("the request", 1, test.want...)
				peer.WriteHeaders(1, wire.EndStream, ":status: 200")
				answer.want(t, "the response").Body.Close()
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
		answer.want(t, "the tunnel").Body.Close()
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
				body := &countedBody{Reader: strings.NewReader("hello")}
				req := httpRequest(t, "POST", "https://example.com/", body)
				test.change(req)
				err := tripAsync(conn, req).wantErr(t, "a request that cannot be sent")
				var refused *RequestError
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
				body := &countedBody{Reader: strings.NewReader("hello")}
				answer := tripAsync(conn, httpRequest(t, "POST", "https://example.com/",
					body).WithContext(ctx))
				peer.WantHeaders("the request", 1)
				test.answer(peer, cancel)
				if test.failed {
					answer.wantErr(t, "the request")
					if body.closed.Load() != 1 {
						t.Errorf("the body was closed %d times when RoundTrip returned", body.closed.Load())
					}
				} else {
					answer.want(t, "the response").Body.Close()
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
		body := &countedBody{Reader: strings.NewReader("hello")}
		err := tripAsync(conn, httpRequest(t, "POST", "https://example.com/", body)).wantErr(t, "after Close")
		if !errors.Is(err, ErrClosed) || body.closed.Load() != 1 {
			t.Errorf("%v, body closed %d times", err, body.closed.Load())
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
		answer.wantErr(t, "reset")
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
				answer.want(t, "the response").Body.Close()
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
		answer.want(t, "the response")
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
				&countedBody{Reader: strings.NewReader("hello")})
			req.ContentLength = declared
			answer := tripAsync(conn, req)
			peer.WantHeaders("the request", 1)
			peer.WantRSTStream("a body that is not what was declared", 1, wire.Cancel)
			var wrong *BodyLengthError
			if err := answer.wantErr(t, "the request"); !errors.As(err, &wrong) ||
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
			readerFunc(func([]byte) (int, error) {
				req.Trailer.Set("X-Sum", "42")
				return 0, io.EOF
			})))
		req.ContentLength = -1
		answer := tripAsync(conn, req)
		peer.WantHeaders("the request", 1, "trailer: X-Never,X-Sum")
		peer.WantBody("the body", 1, []byte("hello"))
		peer.WantHeadersExactly("the trailers", 1, "x-sum: 42")
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		answer.want(t, "the response").Body.Close()
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// RoundTrip returns the error of the body's Read.
func TestRoundTripReturnsTheErrorOfTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		broken := errors.New("disk on fire")
		body := &countedBody{Reader: readerFunc(func([]byte) (int, error) { return 0, broken })}
		answer := tripAsync(conn, httpRequest(t, "POST", "https://example.com/", body))
		peer.WantHeaders("the request", 1)
		peer.WantRSTStream("without its body", 1, wire.Cancel)
		if err := answer.wantErr(t, "the request"); !errors.Is(err, broken) {
			t.Errorf("%v", err)
		}
		body.wantClosed(t, "after its error")
	})
}

func TestRoundTripMapsTheResponse(t *testing.T) {
	tests := []struct {
		name    string
		method  string
		status  string
		fields  []string
		body    string // "-" means END_STREAM on HEADERS
		line    string
		header  http.Header
		length  int64
		trailer http.Header
	}{
		{name: "a body of unknown length", status: "200",
			fields: []string{"x-two: 1", "x-one: 2", "x-two: 3"}, body: "hello",
			line: "200 OK", header: http.Header{"X-One": {"2"}, "X-Two": {"1", "3"}}, length: -1},
		{name: "a known length", status: "201", fields: []string{"content-length: 5"}, body: "hello",
			line: "201 Created", header: http.Header{"Content-Length": {"5"}}, length: 5},
		{name: "END_STREAM on HEADERS is length 0", status: "404", body: "-", line: "404 Not Found",
			header: http.Header{}, length: 0},
		{name: "HEAD keeps the length", method: "HEAD", status: "200", fields: []string{"content-length: 5"},
			body: "-",
			line: "200 OK", header: http.Header{"Content-Length": {"5"}}, length: 5},
		{name: "HEAD without one", method: "HEAD", status: "200", body: "-", line: "200 OK",
			header: http.Header{}, length: -1},
		{name: "204", status: "204", body: "-", line: "204 No Content", header: http.Header{}, length: 0},
		{name: "a status without a text", status: "299", body: "-", line: "299 ", header: http.Header{},
			length: 0},
		{name: "a status beyond all texts", status: "799", body: "-", line: "799 ", header: http.Header{},
			length: 0},
		{name: "the last status of the table", status: "599", body: "-", line: "599 ", header: http.Header{},
			length: 0},
		{name: "cookies", status: "200", fields: []string{"set-cookie: a=1", "set-cookie: b=2"}, body: "-",
			line: "200 OK", header: http.Header{"Set-Cookie": {"a=1", "b=2"}}, length: 0},
		{name: "trailers are announced", status: "200",
			fields: []string{"trailer: x-sum, X-Count", "trailer: content-length"}, body: "hello",
			line: "200 OK", header: http.Header{}, length: -1,
			trailer: http.Header{"X-Sum": nil, "X-Count": nil}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				req := httpRequest(t, test.method, "https://example.com/", nil)
				answer := tripAsync(conn, req)
				peer.WantHeaders("the request", 1)
				fields := append([]string{":status: " + test.status}, test.fields...)
				if test.body == "-" {
					peer.WriteHeaders(1, wire.EndStream, fields...)
				} else {
					peer.WriteHeaders(1, 0, fields...)
					peer.WriteData(1, wire.EndStream, []byte(test.body))
				}
				resp := answer.want(t, "the response")
				want := http.Response{
					Status: test.line, StatusCode: resp.StatusCode, Proto: "HTTP/2.0", ProtoMajor: 2,
					Header:        test.header,
					ContentLength: test.length, Trailer: test.trailer, Request: req, Body: resp.Body,
				}
				if !reflect.DeepEqual(*resp, want) {
					t.Errorf("got  %+v\nwant %+v", *resp, want)
				}
				if fmt.Sprint(resp.StatusCode) != test.status {
					t.Errorf("status %d", resp.StatusCode)
				}
				wantBody(t, "the body", resp.Body, strings.TrimPrefix(test.body, "-"))
				if err := resp.Body.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Trailers are available when Read returns io.EOF, whether or not they were announced.
func TestRoundTripFillsInTrailersBeforeEOF(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil))
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200", "trailer: x-sum")
		peer.WriteData(1, 0, []byte("hello"))
		peer.WriteTrailers(1, "x-sum: 1", "x-new: 2")
		resp := answer.want(t, "the response")
		if want := (http.Header{"X-Sum": nil}); !reflect.DeepEqual(resp.Trailer, want) {
			t.Errorf("before the body: %v", resp.Trailer)
		}
		wantBody(t, "the body", resp.Body, "hello")
		if want := (http.Header{"X-Sum": {"1"}, "X-New": {"2"}}); !reflect.DeepEqual(resp.Trailer, want) {
			t.Errorf("behind the body: %v", resp.Trailer)
		}
	})
}

func TestRoundTripTellsOfABodyThatIsNotWhole(t *testing.T) {
	tests := []struct {
		name   string
		answer func(*h2test.Peer)
		want   error
	}{
		{"short", func(p *h2test.Peer) { p.WriteData(1, wire.EndStream, []byte("hel")) },
			io.ErrUnexpectedEOF},
		{"long", func(p *h2test.Peer) { p.WriteData(1, wire.EndStream, []byte("hello!")) }, ErrCodeProtocol},
		{"lost", func(p *h2test.Peer) { p.WriteData(1, 0, []byte("hel")); p.Close() }, io.ErrUnexpectedEOF},
		{"reset", func(p *h2test.Peer) {
			p.WriteData(1, 0, []byte("hel"))
			p.WriteRSTStream(1,
				wire.InternalError)
		}, ErrCodeInternal},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				peer.Ignore(wire.RSTStream)
				answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil))
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: 200", "content-length: 5")
				resp := answer.want(t, "the response")
				test.answer(peer)
				if got, err := io.ReadAll(resp.Body); !errors.Is(err, test.want) || len(got) > 5 {
					t.Errorf("%q, %v", got, err)
				}
			})
		})
	}
}

// RFC 9113 §8.1: RST_STREAM with NO_ERROR after a complete response only ends the request's body.
func TestRoundTripKeepsTheResponseThatComesWithAnEarlyReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		body := &countedBody{Reader: readerFunc(func(p []byte) (int, error) { return len(p), nil })}
		answer := tripAsync(conn, httpRequest(t, "POST", "https://example.com/", body))
		peer.WantHeaders("the request", 1)
		peer.Ignore(wire.Data)
		peer.WriteHeaders(1, 0, ":status: 413")
		peer.WriteData(1, wire.EndStream, []byte("too much"))
		peer.WriteRSTStream(1, wire.NoError)
		wantBody(t, "the response", answer.want(t, "the response").Body, "too much")
		body.wantClosed(t, "it is not wanted")
		peer.Ignore(wire.RSTStream)
	})
}

// xnetStreamError has the fields of golang.org/x/net/http2's StreamError, which this module's tests
// do not import.
type xnetStreamError struct {
	StreamID uint32
	Code     xnetErrCode
	Cause    error
}

type xnetErrCode uint32

func (xnetStreamError) Error() string { return "" }

// Programs recognize resets by net/http's text, as connect-go does, or by x/net's type.
func TestRoundTripTellsOfAResetInNetHTTPsWords(t *testing.T) {
	tests := []struct {
		name  string
		write func(peer *h2test.Peer)
		text  string
		code  ErrCode
		cause string
	}{
		{"reset", func(peer *h2test.Peer) { peer.WriteRSTStream(1, wire.EnhanceYourCalm) },
			"stream error: stream ID 1; ENHANCE_YOUR_CALM; received from peer", ErrCodeEnhanceYourCalm,
			"received from peer"},
		{"malformed", func(peer *h2test.Peer) { peer.WriteHeaders(1, 0, "no: status") },
			"stream error: stream ID 1; PROTOCOL_ERROR; malformed message: no :status at the beginning of " +
				"a response", ErrCodeProtocol,
			"malformed message: no :status at the beginning of a response"},
	}
	check := func(t *testing.T, err error, text string, code ErrCode, cause string) {
		t.Helper()
		if err == nil || err.Error() != text {
			t.Errorf("got %v, want %s", err, text)
		}
		var theirs xnetStreamError
		if !errors.As(err, &theirs) || theirs.StreamID != 1 || ErrCode(theirs.Code) != code ||
			theirs.Cause == nil || theirs.Cause.Error() != cause {
			t.Errorf("as x/net's: %+v", theirs)
		}
		var ours *StreamError
		if !errors.As(err, &ours) || ours.Code != code || !errors.Is(err, code) {
			t.Errorf("as ours: %+v", ours)
		}
		var other *BodyLengthError
		if errors.As(err, &other) {
			t.Errorf("as another: %+v", other)
		}
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil))
				peer.WantHeaders("the request", 1)
				test.write(peer)
				check(t, answer.wantErr(t, "no response"), test.text, test.code, test.cause)
				peer.Ignore(wire.RSTStream)
			})
		})
	}
	t.Run("in the body", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil))
			peer.WantHeaders("the request", 1)
			peer.WriteHeaders(1, 0, ":status: 200")
			resp := answer.want(t, "the response")
			peer.WriteRSTStream(1, wire.Cancel)
			_, err := io.ReadAll(resp.Body)
			check(t, err, "stream error: stream ID 1; CANCEL; received from peer", ErrCodeCancel,
				"received from peer")
		})
	})
}

func zipped(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, text)
	w.Close()
	return b.Bytes()
}

// A body is decoded only if hyper itself, and not the caller, asked for the coding.
func TestRoundTripDecodesWhatItAskedFor(t *testing.T) {
	plain := http.Header{"Content-Type": {"text/plain"}}
	tests := []struct {
		name    string
		change  func(*http.Request)
		status  string
		coding  string
		decoded bool
	}{
		{"ours", nil, "200", "gzip", true},
		{"twice", nil, "200", "identity, gzip", true},
		{"not one that we know", nil, "200", "gzip, zstd", false},
		{"the caller's", func(r *http.Request) { r.Header.Set("Accept-Encoding", "gzip") }, "200", "gzip",
			false},
		{"of a range", func(r *http.Request) { r.Header.Set("Range", "bytes=0-") }, "200", "gzip", false},
		{"a part", nil, "206", "gzip", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				req := httpRequest(t, "GET", "https://example.com/", nil)
				if test.change != nil {
					test.change(req)
				}
				answer := tripAsync(conn, req)
				peer.WantHeaders("the request", 1)
				body := zipped("hello")
				length := fmt.Sprint(len(body))
				peer.WriteHeaders(1, 0, ":status: "+test.status, "content-type: text/plain",
					"content-encoding: "+test.coding, "content-length: "+length)
				peer.WriteData(1, wire.EndStream, body)
				resp := answer.want(t, "the response")
				header, want := plain, "hello"
				if !test.decoded {
					header, want = plain.Clone(), string(body)
					header.Set("Content-Encoding", test.coding)
					header.Set("Content-Length", length)
				}
				if resp.Uncompressed != test.decoded || (resp.ContentLength < 0) != test.decoded ||
					!reflect.DeepEqual(resp.Header, header) {
					t.Errorf("Uncompressed %v, length %d, %v", resp.Uncompressed, resp.ContentLength,
						resp.Header)
				}
				wantBody(t, "the body", resp.Body, want)
			})
		})
	}
}

// "ctx.Err() … unwrapped": http.Client and its callers compare errors with ==.
func TestRoundTripReturnsTheContextsError(t *testing.T) {
	tests := []struct {
		name   string
		cancel func(req *http.Request) (*http.Request, func())
		want   error
	}{
		{"cancelled", func(req *http.Request) (*http.Request, func()) {
			ctx, cancel := context.WithCancelCause(req.Context())
			return req.WithContext(ctx), func() { cancel(errCancelCause) }
		}, context.Canceled},
		{"its deadline", func(req *http.Request) (*http.Request, func()) {
			ctx, cancel := context.WithTimeout(req.Context(), time.Minute)
			return req.WithContext(ctx), func() { time.Sleep(time.Minute); _ = cancel }
		}, context.DeadlineExceeded},
		{"Request.Cancel", func(req *http.Request) (*http.Request, func()) {
			ended := make(chan struct{})
			//lint:ignore SA1019 http.Client still sets it
			req.Cancel = ended
			return req, func() { close(ended) }
		}, errRequestCanceled},
	}
	for _, test := range tests {
		t.Run(test.name+", before the response", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				peer.AutoPing()
				req, cancel := test.cancel(httpRequest(t, "GET", "https://example.com/", nil))
				answer := tripAsync(conn, req)
				peer.WantHeaders("the request", 1)
				cancel()
				if err := answer.wantErr(t, "the request"); err != test.want {
					t.Errorf("%#v", err)
				}
				peer.WantRSTStream("no call waits any more", 1, wire.Cancel)
			})
		})
		t.Run(test.name+", in the body", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				peer.AutoPing()
				req, cancel := test.cancel(httpRequest(t, "GET", "https://example.com/", nil))
				answer := tripAsync(conn, req)
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: 200")
				resp := answer.want(t, "the response")
				peer.WriteData(1, 0, []byte("hel"))
				readOctets(t, resp.Body, 3)
				go cancel()
				if _, err := resp.Body.Read(make([]byte, 1)); err != test.want {
					t.Errorf("%#v", err)
				}
				peer.WantRSTStream("it is not read any more", 1, wire.Cancel)
			})
		})
		t.Run(test.name+", waiting for a stream", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1})
				peer.AutoPing()
				first := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil))
				peer.WantHeaders("the first", 1)
				req, cancel := test.cancel(httpRequest(t, "GET", "https://example.com/", nil))
				second := tripAsync(conn, req)
				synctest.Wait()
				cancel()
				err := second.wantErr(t, "the second")
				if says := strings.Contains(err.Error(),
					"waiting for the peer's only stream: "+test.want.Error()); !errors.Is(err, test.want) ||
					says == (test.want == errRequestCanceled) {
					t.Errorf("%#v", err)
				}
				peer.WriteHeaders(1, wire.EndStream, ":status: 200")
				first.want(t, "the first").Body.Close()
				peer.WantIdle("the second was never sent")
			})
		})
	}
}

// Body.Close before the end sends RST_STREAM(CANCEL), returns the credit and frees the slot. It
// does not wait for the network.
func TestRoundTripBodyCloseEndsTheExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, client := newPeer(t, &Config{WriteStallTimeout: -1, KeepAlive: -1})
		peer.Handshake()
		answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil))
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 1000))
		resp := answer.want(t, "the response")
		readOctets(t, resp.Body, 10)
		before := conn.Stats()
		client.SetWriteBuffer(0) // golang/go#48908: Close must not wait for a peer that does not read
		start := time.Now()
		if err := resp.Body.Close(); err != nil || time.Since(start) > 0 {
			t.Errorf("Close: %v after %v", err, time.Since(start))
		}
		if after := conn.Stats(); before.StreamsOpen != 1 || after.StreamsOpen != 0 {
			t.Errorf("streams: %d, then %d", before.StreamsOpen, after.StreamsOpen)
		}
		if _, err := resp.Body.Read(make([]byte, 1)); err != http.ErrBodyReadAfterClose {
			t.Errorf("Read after Close: %v", err)
		}
		conn.lock()
		if conn.flow.window.unread != 0 {
			t.Errorf("%d octets of the connection's window are not given back", conn.flow.window.unread)
		}
		conn.unlock()
		client.SetWriteBuffer(1 << 20)
		peer.WantRSTStream("the body was closed", 1, wire.Cancel)
	})
}

// Closing a small body that has arrived completely sends no reset. http.Client closes such bodies
// when it follows redirects.
func TestRoundTripBodyCloseOfAWholeBodyIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil))
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 302", "location: /elsewhere")
		peer.WriteData(1, wire.EndStream, []byte("moved"))
		resp := answer.want(t, "the response")
		synctest.Wait()
		resp.Body.Close()
		peer.WantIdle("the stream is over anyway")
	})
}

func TestRoundTripWithCloseIsTheLast(t *testing.T) {
	for name, change := range map[string]func(*http.Request){
		"Request.Close":     func(r *http.Request) { r.Close = true },
		"Connection: close": func(r *http.Request) { r.Header.Set("Connection", "close") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				req := httpRequest(t, "GET", "https://example.com/", nil)
				change(req)
				answer := tripAsync(conn, req)
				peer.WantHeaders("the request", 1)
				peer.WantGoAway("and no other", 0, wire.NoError)
				if err := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil)).wantErr(t,
					"another one"); !errors.Is(err, ErrClosed) {
					t.Errorf("%v", err)
				}
				peer.WriteHeaders(1, 0, ":status: 200")
				peer.WriteData(1, wire.EndStream, []byte("hello"))
				wantBody(t, "the answer comes whole", answer.want(t, "the response").Body, "hello")
				peer.WantClosed("after the last stream")
			})
		})
	}
}

// ResponseFromHTTP finds the Response by the body of the http.Response. If the body is wrapped,
// WithResponse still gives access to it.
func TestResponseFromHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		var seen *Response
		ctx := WithResponse(context.Background(), func(r *Response) { seen = r })
		answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil).WithContext(ctx))
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200", "b: 1", "a: 2")
		resp := answer.want(t, "the response")
		own, ok := ResponseFromHTTP(resp)
		if !ok || own != seen || own.StreamID != 1 ||
			!slices.Equal(own.Header, Header{{Name: "b", Value: "1"}, {Name: "a", Value: "2"}}) {
			t.Errorf("%v, %+v", ok, own)
		}
		resp.Body = io.NopCloser(resp.Body)
		if _, ok := ResponseFromHTTP(resp); ok {
			t.Error("found behind another body")
		}
	})
}

// Responses with the same fields share them internally, which a caller must not notice. A change to
// one response does not affect the others, and a Header that is built late has the fields that
// arrived.
func TestAnswersShareNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		id := uint32(1)
		get := func(fields ...string) *http.Response {
			answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil))
			peer.WantHeaders("the request", id)
			peer.WriteHeaders(id, wire.EndStream, append([]string{":status: 200"}, fields...)...)
			id += 2
			return answer.want(t, "the response")
		}
		shown := func(resp *http.Response) Header {
			own, _ := ResponseFromHTTP(resp)
			return own.Header
		}
		const n = 4
		want := Header{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}}
		var same [n]*http.Response
		for i := range same {
			same[i] = get("a: 1", "b: 2")
		}
		for i := range 32 { // replaces the 8 blocks that the connection remembers
			get("a: "+strings.Repeat("x", i), "b: y")
		}
		var all sync.WaitGroup
		for range n {
			all.Go(func() {
				if got := shown(same[0]); !slices.Equal(got, want) {
					t.Errorf("shown late: %v, want %v", got, want)
				}
			})
		}
		all.Wait()
		shown(same[1])[0].Value = "changed"
		same[2].Header["A"][0] = "changed"
		for i, resp := range same {
			if got := shown(resp); i != 1 && !slices.Equal(got, want) {
				t.Errorf("response %d: %v, want %v", i, got, want)
			}
			if got := resp.Header.Get("A"); i != 2 && got != "1" {
				t.Errorf("answer %d: %q", i, got)
			}
		}
	})
}

// The caller may send the Request of a response again. Each new response has the full Header.
func TestRequestBehindAnAnswerServesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil))
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200", "a: 1")
		own, _ := ResponseFromHTTP(answer.want(t, "the response"))
		for id := uint32(3); id <= 7; id += 2 {
			again := doAsync(context.Background(), conn, own.Request)
			peer.WantHeaders("again", id)
			peer.WriteHeaders(id, wire.EndStream, ":status: 200", "a: 1")
			header := again.want(t, "its response").Header
			if !slices.Equal(header, Header{{Name: "a", Value: "1"}}) {
				t.Errorf("stream %d: %v", id, header)
			}
			header[0].Value = "changed"
		}
	})
}

// A caller's own code can convert an http.Request to a Request, and a Response to an http.Response.
func TestConversionsServeOwnHelpers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		in := httpRequest(t, "POST", "https://example.com/up", io.NopCloser(strings.NewReader("hello")))
		in.Header.Set("X-Own", "1")
		req, err := RequestFromHTTP(in)
		if err != nil {
			t.Fatal(err)
		}
		answer := doAsync(context.Background(), conn, req)
		peer.WantHeaders("the request", 1, ":method: POST", ":path: /up", "x-own: 1")
		peer.WantBody("its body", 1, []byte("hello"))
		peer.WriteHeaders(1, 0, ":status: 200", "content-type: text/plain")
		peer.WriteData(1, wire.EndStream, []byte("world"))
		resp := answer.want(t, "the response").HTTP(nil)
		if resp.Status != "200 OK" || resp.Header.Get("Content-Type") != "text/plain" || resp.Request != nil {
			t.Errorf("%+v", resp)
		}
		wantBody(t, "its body", resp.Body, "world")

		if _, err := RequestFromHTTP(&http.Request{}); err == nil {
			t.Error("a request without a URL")
		}
	})
}

// Whatever byte is in any place of an http.Request, the request is refused, or it is sent as RFC
// 9113 §8.2.1 and RFC 9110 §5.5 allow. No byte makes two fields of one.
func TestRoundTripSendsNoOctetThatDoesNotBelong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, conn := dialPeer(t, nil)
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
				out, err := RequestFromHTTP(req)
				var p preparedRequest
				if err == nil {
					err = p.prepare(t.Context(), conn, opening{req: out})
				}
				if err != nil {
					var refused *RequestError
					if !errors.As(err, &refused) {
						t.Errorf("%s with %#x: %v", place, octet, err)
					}
					continue
				}
				sent++
				p.write(fieldFunc(func(name string, values []string) {
					ok := token.MatchString(name)
					if strings.HasPrefix(name, ":") {
						ok = ok && visible.MatchString(values[0])
					} else {
						ok = ok && value.Match(latin1(values[0]))
					}
					if !ok {
						t.Errorf("%s with %#x sends %q: %q", place, octet, name, values[0])
					}
				}))
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

// Many goroutines share a RoundTripper, and each gets its own response.
func TestRoundTripIsSafeForConcurrentUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 10})
		var trips []*trip
		for i := range 100 {
			trips = append(trips, tripAsync(conn, httpRequest(t, "GET",
				fmt.Sprintf("https://example.com/%d", i), nil)))
		}
		for i := range 100 {
			id := uint32(2*i + 1)
			h := peer.WantHeaders("a request", id)
			peer.WriteHeaders(id, wire.EndStream, ":status: 200", "x-path: "+h.Get(":path"))
		}
		for i, answer := range trips {
			resp := answer.want(t, "a response")
			if got := resp.Header.Get("X-Path"); got != fmt.Sprintf("/%d", i) {
				t.Errorf("request %d got the answer to %s", i, got)
			}
			resp.Body.Close()
		}
	})
}
