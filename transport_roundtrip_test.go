package hyper

import (
	"context"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
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
				h2test.ReadBytes(t, resp.Body, 3)
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
		h2test.ReadBytes(t, resp.Body, 10)
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
