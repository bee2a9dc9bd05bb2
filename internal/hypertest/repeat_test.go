package hypertest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// repeats reports whether the door sends an idempotent request again.
func (d door) repeats() bool {
	return strings.HasPrefix(d.name, "Transport") || d.viaNetHTTP()
}

// serveNext accepts the next connection and responds to its first request.
func (v *visit) serveNext(body string) {
	v.t.Helper()
	peer := v.accept()
	peer.Ignore(wire.Settings, wire.WindowUpdate)
	peer.WantHeaders("the request, again", 1)
	if body != "" {
		peer.WantBody("with its body", 1, []byte(body))
	}
	peer.WriteHeaders(1, wire.EndStream, ":status: 204")
}

// RFC 9110 §9.2.2: an idempotent request may be sent again if the connection was lost before the
// response.
func TestIdempotentRequestSurvivesTheLossOfItsConnection(t *testing.T) {
	const body = "0123456789"
	withKey := func(name string, values ...string) func(*http.Request) {
		return func(req *http.Request) { req.Header[name] = values }
	}
	unreadable := func(req *http.Request) { req.GetBody = nil }
	for _, row := range []struct {
		name, method, body string
		change             func(*http.Request)
		again              bool
	}{
		{name: "GET", method: "GET", again: true},
		{name: "no method", method: "", again: true},
		{name: "HEAD", method: "HEAD", again: true},
		{name: "OPTIONS", method: "OPTIONS", again: true},
		{name: "TRACE", method: "TRACE", again: true},
		{name: "DELETE", method: "DELETE", again: true},
		{name: "PUT", method: "PUT", body: body, again: true},
		{name: "PUT without GetBody", method: "PUT", body: body, change: unreadable},
		{name: "POST", method: "POST"},
		{name: "POST with a body", method: "POST", body: body},
		{name: "PATCH", method: "PATCH"},
		{name: "POST with Idempotency-Key", method: "POST", body: body,
			change: withKey("Idempotency-Key", "1"), again: true},
		{name: "POST with X-Idempotency-Key", method: "POST", change: withKey("X-Idempotency-Key", "1"),
			again: true},
		{name: "POST with an empty list", method: "POST", change: withKey("Idempotency-Key"), again: true},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
				var content io.Reader
				if row.body != "" {
					content = &plainReader{strings.NewReader(row.body)}
				}
				req := v.request("GET", "/", content)
				req.Method = row.method
				if row.body != "" {
					req.ContentLength = int64(len(row.body))
					req.GetBody = func() (io.ReadCloser, error) {
						return io.NopCloser(&plainReader{strings.NewReader(row.body)}), nil
					}
				}
				if row.change != nil {
					row.change(req)
				}
				call := v.send(req)
				peer := v.accept()
				peer.WantHeaders("the request", 1)
				if row.body != "" {
					peer.WantBody("with its body", 1, []byte(row.body))
				}
				peer.Close()
				if row.again && v.repeats() {
					v.serveNext(row.body)
					call.Want(t, "the second try")
					return
				}
				if err := call.WantErr(t, "it may have been processed"); hyper.Retryable(err) {
					t.Errorf("%v is said to be no risk", err)
				}
				time.Sleep(time.Minute)
				if n := len(v.peers); n > 0 {
					t.Errorf("%d more connections", n)
				}
			})
		})
	}
}

// A plainReader is a body whose type does not show that it is in memory.
type plainReader struct{ io.Reader }

// Whether a GET is sent again depends on how the connection ends.
func TestWhatIsALostConnection(t *testing.T) {
	for _, row := range []struct {
		name  string
		end   func(*accepted)
		again bool
	}{
		{"closed", func(p *accepted) { p.Close() }, true},
		{"reset", func(p *accepted) { p.client.BreakReadAfter(0, errors.New("connection reset by peer")) },
			true},
		{"GOAWAY that includes it, then closed", func(p *accepted) {
			p.WriteGoAway(1, wire.NoError, "")
			p.Close()
		}, true},
		{"GOAWAY with INTERNAL_ERROR, then closed", func(p *accepted) {
			p.WriteGoAway(1, wire.InternalError, "")
			p.Close()
		}, false},
		{"GOAWAY with ENHANCE_YOUR_CALM, then closed", func(p *accepted) {
			p.WriteGoAway(1, wire.EnhanceYourCalm, "")
			p.Close()
		}, false},
		{"GOAWAY with PROTOCOL_ERROR, then closed", func(p *accepted) {
			p.WriteGoAway(1, wire.ProtocolError, "")
			p.Close()
		}, false},
		{"silent", func(*accepted) {}, true},
		{"a broken rule of the peer's", func(p *accepted) { p.WritePushPromise(1, 2, ":method: GET") },
			false},
		{"an interim response, then closed", func(p *accepted) {
			p.WriteHeaders(1, 0, ":status: 103")
			p.Close()
		}, false},
		{"the stream alone", func(p *accepted) { p.WriteRSTStream(1, wire.InternalError) }, false},
		{"a response, then closed", func(p *accepted) {
			p.WriteHeaders(1, 0, ":status: 200")
			p.Close()
		}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
				if !v.repeats() {
					return
				}
				call := v.get("/")
				peer := v.accept()
				peer.WantHeaders("the request", 1)
				peer.Ignore(wire.Ping, wire.GoAway, wire.RSTStream)
				start := time.Now()
				row.end(peer)
				if row.again {
					v.serveNext("")
					call.Want(t, "the second try")
					if d := time.Since(start); d > time.Minute {
						t.Errorf("it took %v", d)
					}
					return
				}
				<-call.Done
				time.Sleep(time.Minute)
				if n := len(v.peers); n > 0 {
					t.Errorf("%d more connections", n)
				}
			})
		})
	}
}

// A request may make each server fail that receives it. It is therefore sent three times at most.
func TestLostRequestIsSentThreeTimesAtMost(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		if !v.repeats() {
			return
		}
		call := v.get("/")
		for range 3 {
			peer := v.accept()
			peer.WantHeaders("the request", 1)
			peer.Close()
		}
		err := call.WantErr(t, "no fourth try")
		var lost *hyper.ConnError
		if hyper.Retryable(err) || !errors.As(err, &lost) {
			t.Errorf("the error is %v", err)
		}
	})
}

// If the second attempt reaches no server, the error must not say that the request was not
// processed: the server of the first attempt may have processed it.
func TestErrorAfterALostTryIsNotRetryable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := visitDoor(t, door{name: "Transport", cleartext: true, enter: transportDoor}, hyper.Config{})
		refused := errors.New("connection refused")
		tr := v.rt.(*hyper.Transport)
		first := tr.Config.DialContext
		dials := 0
		tr.Config.DialContext = failAfter(first, &dials, refused)
		call := v.get("/")
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		peer.Close()
		err := call.WantErr(t, "there is no server any more")
		var lost *hyper.ConnError
		if hyper.Retryable(err) || !errors.As(err, &lost) || !errors.Is(err, refused) {
			t.Errorf("the error is %v", err)
		}
		if repeat, ok := err.(*hyper.RetryError); !ok || repeat.First != error(lost) {
			t.Errorf("the error is a %T: %v", err, err)
		}
		if dials != 2 {
			t.Errorf("%d dials", dials)
		}
	})
}

// The same holds if the second attempt uses HTTP/1.1, because the next server speaks nothing else.
func TestErrorOfHTTP1AfterALostTryIsNotRetryable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := visitDoor(t, door{name: "Transport", enter: transportDoor}, hyper.Config{})
		tr := v.rt.(*hyper.Transport)
		refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
		tr.Fallback = h2test.RoundTripFunc(func(*http.Request) (*http.Response, error) {
			return nil, refused
		})
		first, dials := tr.Config.DialContext, 0
		tr.Config.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dials++; dials == 1 {
				return first(ctx, network, addr)
			}
			client, server := h2test.Pipe()
			go h2test.TLSServer(server, "http/1.1").Handshake()
			return client, nil
		}
		call := v.get("/")
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		peer.Close()
		err := call.WantErr(t, "there is no server any more")
		var lost *hyper.ConnError
		if hyper.Retryable(err) || !errors.As(err, &lost) || !errors.Is(err, refused) {
			t.Errorf("the error is %v", err)
		}
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			t.Errorf("%v says that no server was reached", err)
		}
		if dials != 2 {
			t.Errorf("%d dials", dials)
		}
	})
}

// failAfter returns a dialer whose first dial succeeds. All others return err.
func failAfter(dial dialFunc, dials *int, err error) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if *dials++; *dials > 1 {
			return nil, err
		}
		return dial(ctx, network, addr)
	}
}

// GetBody may seek in the reader that the last attempt still reads. It is not called before that
// Read has returned.
func TestGetBodyIsCalledAfterTheLastRead(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		if !strings.Contains(v.name, "Transport") { // the other doors do not send again
			return
		}
		var reading atomic.Bool
		again := 0
		body := func() io.ReadCloser {
			return io.NopCloser(h2test.ReaderFunc(func(p []byte) (int, error) {
				reading.Store(true)
				defer reading.Store(false)
				time.Sleep(50 * time.Millisecond)
				return len(p), nil
			}))
		}
		req := v.request("PUT", "/", body())
		req.GetBody = func() (io.ReadCloser, error) {
			if again++; reading.Load() {
				t.Error("the last attempt reads the body")
			}
			return body(), nil
		}
		call := v.send(req)
		peer := v.accept()
		peer.Ignore(wire.Data)
		peer.WantHeaders("the request", 1)
		time.Sleep(10 * time.Millisecond) // the first Read is in progress
		peer.WriteRSTStream(1, wire.RefusedStream)
		peer.WantHeaders("the request again", 3)
		peer.WriteHeaders(3, wire.EndStream, ":status: 204")
		call.Want(t, "the response").Body.Close()
		if again != 1 {
			t.Errorf("GetBody was called %d times", again)
		}
		time.Sleep(time.Second) // the Read of the last attempt returns
	})
}
