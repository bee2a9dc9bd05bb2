// This file tests uploads that end early, wait for 100 (Continue), or have trailers.

package hypertest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// These tests are about a response that ends early.

// earlyKinds returns bodies that are too large for the windows, some in memory and some to be read.
func earlyKinds() map[string]func() io.Reader {
	return map[string]func() io.Reader{
		"in memory": func() io.Reader { return bytes.NewReader(make([]byte, 100_000)) },
		"read":      func() io.Reader { return struct{ io.Reader }{bytes.NewReader(make([]byte, 100_000))} },
	}
}

func wantFirstWindow(t *testing.T, peer *h2test.Peer) {
	t.Helper()
	for left := 65535; left > 0; {
		left -= peer.WantFrame("the first window", wire.Data).Length
	}
	peer.WantIdle("the window is used up")
}

// RFC 9113 §8.1: a server can send a complete response and then RST_STREAM with NO_ERROR. Clients
// MUST NOT discard the response.
func TestEarlyRefusalKeepsTheResponseAndStopsTheUpload(t *testing.T) {
	for name, body := range earlyKinds() {
		for _, reset := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				got := doAsync(context.Background(), conn, put(body()))
				peer.WantHeaders(name, 1)
				wantFirstWindow(t, peer)
				peer.Batch(func() {
					peer.WriteHeaders(1, 0, ":status: 413")
					peer.WriteData(1, wire.EndStream, []byte("too large"))
					if reset {
						peer.WriteRSTStream(1, wire.NoError)
					}
				})
				resp := got.Want(t, name)
				h2test.WantBody(t, name, resp.Body, "too large")
				peer.WantRSTStream("the rest of the body is given up", 1, wire.NoError)
				peer.WriteWindowUpdate(0, 1<<20)
				peer.WriteWindowUpdate(1, 1<<20)
				peer.WantIdle("and does not come any more")
				if resp.StatusCode != 413 || conn.Stats().StreamsOpen != 0 {
					t.Errorf("status %d, %d streams open", resp.StatusCode, conn.Stats().StreamsOpen)
				}
			})
		}
	}
}

func TestEarlySuccessKeepsUploading(t *testing.T) {
	for name, body := range earlyKinds() {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			got := doAsync(context.Background(), conn, put(body()))
			peer.WantHeaders(name, 1)
			wantFirstWindow(t, peer)
			peer.WriteHeaders(1, 0, ":status: 200")
			peer.WriteData(1, wire.EndStream, []byte("fine"))
			h2test.WantBody(t, name, got.Want(t, name).Body, "fine")
			peer.WantIdle("no reset")
			peer.WriteWindowUpdate(0, 1<<20)
			peer.WriteWindowUpdate(1, 1<<20)
			peer.WantBody("the rest", 1, make([]byte, 100_000-65535))
			peer.WantIdle("and nothing else")
			if open := conn.Stats().StreamsOpen; open != 0 {
				t.Errorf("%d streams open", open)
			}
		})
	}
}

// An error response without END_STREAM does not say that the request body is unwanted. The upload
// goes on until it is complete.
func TestErrorWithoutEndKeepsUploading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		got := doAsync(context.Background(), conn, put(bytes.NewReader(make([]byte, 70_000))))
		peer.WantHeaders("the request", 1)
		wantFirstWindow(t, peer)
		peer.WriteHeaders(1, 0, ":status: 500")
		got.Want(t, "the response")
		peer.WriteWindowUpdate(0, 70_000)
		peer.WriteWindowUpdate(1, 70_000)
		peer.WantBody("the rest", 1, make([]byte, 70_000-65535))
	})
}

func TestResetBeforeTheResponsesEndIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		got := doAsync(context.Background(), conn, put(bytes.NewReader(make([]byte, 70_000))))
		peer.WantHeaders("the request", 1)
		wantFirstWindow(t, peer)
		peer.WriteHeaders(1, 0, ":status: 413")
		peer.WriteData(1, 0, []byte("too"))
		peer.WriteRSTStream(1, wire.NoError)
		body := got.Want(t, "the response").Body
		for range 2 {
			p, err := io.ReadAll(body)
			var se *hyper.StreamError
			if !errors.As(err, &se) || !se.FromPeer || se.Code != hyper.ErrCodeNo {
				t.Errorf("%q, %v", p, err)
			}
		}
		peer.WantIdle("nothing more is sent")
	})
}

func TestWriteAfterEarlyEndReturnsTheSameErrorEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		s, err := conn.Open(context.Background(), put(nil))
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the request", 1)
		errs := make(chan error)
		go func() {
			n, err := s.Write(make([]byte, 100_000))
			if n != 65535 {
				t.Errorf("%d octets taken", n)
			}
			errs <- err
		}()
		wantFirstWindow(t, peer)
		peer.WriteHeaders(1, wire.EndStream, ":status: 413")
		peer.WantIdle("an early end alone does not stop a Write")
		peer.WriteRSTStream(1, wire.NoError)
		first := <-errs
		var se *hyper.StreamError
		if !errors.As(first, &se) || !se.FromPeer || se.Code != hyper.ErrCodeNo {
			t.Errorf("%v", first)
		}
		for range 2 {
			if _, err := s.Write([]byte("x")); err != first {
				t.Errorf("%v, want %v", err, first)
			}
			if err := s.CloseWrite(); err != first {
				t.Errorf("%v, want %v", err, first)
			}
		}
		resp, err := s.Response(context.Background())
		if err != nil || resp.StatusCode != 413 {
			t.Fatalf("%v, %v", resp, err)
		}
		h2test.WantBody(t, "the response is whole", resp.Body, "")
	})
}

// RFC 9110 §10.1.1 defines Expect: 100-continue.

func expectContinue(body io.Reader) *hyper.Request {
	r := put(body)
	r.Header.Add("Expect", "100-Continue")
	return r
}

func expectKinds() map[string]func() io.Reader {
	return map[string]func() io.Reader{
		"in memory": func() io.Reader { return strings.NewReader("body") },
		"read":      func() io.Reader { return newUploadBody("body", false) },
	}
}

func TestExpectedBodyWaitsForContinue(t *testing.T) {
	for name, body := range expectKinds() {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			start := time.Now()
			got := doAsync(context.Background(), conn, expectContinue(body()))
			peer.WantHeaders(name, 1, "expect: 100-Continue")
			peer.WantIdle("the body is held back")
			peer.WriteHeaders(1, 0, ":status: 103")
			peer.WantIdle("another interim response means nothing")
			peer.WriteHeaders(1, 0, ":status: 100")
			peer.WantBody("the body", 1, []byte("body"))
			if d := time.Since(start); d != 0 {
				t.Errorf("it took %v", d)
			}
			peer.WriteHeaders(1, wire.EndStream, ":status: 204")
			got.Want(t, "the response")
		})
	}
}

func TestExpectedBodyIsSentAfterTheTimeout(t *testing.T) {
	for timeout, want := range map[time.Duration]time.Duration{0: time.Second,
		3 * time.Second: 3 * time.Second} {
		for name, body := range expectKinds() {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &hyper.Config{ExpectContinueTimeout: timeout})
				start := time.Now()
				doAsync(context.Background(), conn, expectContinue(body()))
				peer.WantHeaders(name, 1)
				peer.WantBody("RFC 9110 §10.1.1: it need not wait for ever", 1, []byte("body"))
				if d := time.Since(start); d != want {
					t.Errorf("after %v", d)
				}
			})
		}
	}
}

func TestExpectedBodyWaitsWithoutLimitIfConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{ExpectContinueTimeout: -1, KeepAlive: -1})
		doAsync(context.Background(), conn, expectContinue(strings.NewReader("body")))
		peer.WantHeaders("the request", 1)
		time.Sleep(time.Hour)
		peer.WantIdle("no 100, no body")
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WantBody("success says as much as 100", 1, []byte("body"))
	})
}

func TestRefusedExpectationNeverSendsTheBody(t *testing.T) {
	for name, body := range expectKinds() {
		for _, status := range []string{"413", "417"} {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &hyper.Config{KeepAlive: -1})
				got := doAsync(context.Background(), conn, expectContinue(body()))
				peer.WantHeaders(name, 1)
				peer.WriteHeaders(1, 0, ":status: "+status)
				resp := got.Want(t, "the refusal")
				time.Sleep(time.Minute)
				peer.WantIdle("the timeout does not send the body after all")
				peer.WriteData(1, wire.EndStream, []byte("no"))
				peer.WantRSTStream("it is given up", 1, wire.NoError)
				h2test.WantBody(t, "the response", resp.Body, "no")
				time.Sleep(time.Minute)
				peer.WantIdle("for good")
			})
		}
	}
}

func TestLostConnectionEndsTheWaitForContinue(t *testing.T) {
	for name, body := range expectKinds() {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			held := body()
			got := doAsync(context.Background(), conn, expectContinue(held))
			peer.WantHeaders(name, 1)
			peer.Close()
			if err := got.WantErr(t, name); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Error(err)
			}
			if b, ok := held.(*uploadBody); ok {
				b.wantClosedOnce(t)
			}
		})
	}
}

func TestNothingIsHeldBackWithoutBody(t *testing.T) {
	for _, body := range []io.Reader{nil, strings.NewReader("")} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			doAsync(context.Background(), conn, expectContinue(body))
			if h := peer.WantHeaders("the request", 1); !h.EndStream {
				t.Error("no END_STREAM")
			}
		})
	}
}

// These tests are about the trailers of a request.

func TestTrailersFollowTheBody(t *testing.T) {
	for _, kind := range uploadKinds {
		for _, text := range []string{"", "text"} {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				req := put(kind.make(t, []byte(text)))
				req.Trailer = hyper.Header{{Name: "X-Sum", Value: "1"},
					{Name: "x-key", Value: "2", Sensitive: true}}
				doAsync(context.Background(), conn, req)
				if h := peer.WantHeaders(kind.name, 1); h.EndStream {
					t.Error("END_STREAM before the trailers")
				}
				peer.WantBody(kind.name, 1, []byte(text))
				h := peer.WantHeadersExactly(kind.name, 1, "x-sum: 1", "x-key: 2")
				if !h.EndStream || !h.Fields[1].Sensitive {
					t.Errorf("%s: END_STREAM %v, never indexed %v", kind.name, h.EndStream,
						h.Fields[1].Sensitive)
				}
				peer.WantIdle("and nothing else")
			})
		}
	}
}

func TestTrailersWithoutBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		doAsync(context.Background(), conn, &hyper.Request{Method: "POST",
			Trailer: hyper.Header{{Name: "x", Value: "1"}}})
		peer.WantHeaders("the request", 1)
		peer.WantHeadersExactly("the trailers", 1, "x: 1")
	})
}

// atEOF calls f when the reader reports its end.
type atEOF struct {
	io.Reader
	f func()
}

func (r atEOF) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		r.f()
	}
	return n, err
}

func TestTrailersAreThoseOfTheBodysEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		req := put(nil)
		req.Trailer = hyper.Header{{Name: "x-sum", Value: "unknown"}}
		req.Body = atEOF{strings.NewReader("text"), func() {
			req.Trailer.Set("x-sum", "1")
			req.Trailer.Add("x-more", "2")
		}}
		doAsync(context.Background(), conn, req)
		peer.WantHeaders("the request", 1)
		peer.WantBody("the body", 1, []byte("text"))
		peer.WantHeadersExactly("the trailers", 1, "x-sum: 1", "x-more: 2")
	})
}

func TestTrailersThatTurnOutBadResetTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		req := put(nil)
		req.Body = atEOF{strings.NewReader(""), func() { req.Trailer.Add(":path", "/") }}
		got := doAsync(context.Background(), conn, req)
		peer.WantHeaders("the request", 1)
		peer.WantRSTStream("it cannot end well", 1, wire.Cancel)
		if err := got.WantErr(t, "bad trailers"); !errors.As(err, new(*hyper.RequestError)) {
			t.Error(err)
		}
	})
}
