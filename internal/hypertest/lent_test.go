package hypertest

import (
	"bytes"
	"context"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A lentBody returns some bytes from its first Read. The next Read blocks until it is closed.
type lentBody struct {
	once   sync.Once
	closed chan struct{}
	closes atomic.Int32
}

// newLentBody returns an open lentBody.
func newLentBody() *lentBody { return &lentBody{closed: make(chan struct{})} }

// Read returns bytes once and then blocks.
func (b *lentBody) Read(p []byte) (n int, err error) {
	b.once.Do(func() { n = copy(p, "hello") })
	if n > 0 {
		return n, nil
	}
	<-b.closed
	return 0, io.ErrClosedPipe
}

// Close counts how often it is called.
func (b *lentBody) Close() error {
	if b.closes.Add(1) == 1 {
		close(b.closed)
	}
	return nil
}

// An exchangeEnd is a way in which an exchange ends while its request body is being sent.
type exchangeEnd struct {
	name   string
	failed bool // RoundTrip or Do returns an error
	end    func(v *visit, peer *accepted, cancel func())
}

// exchangeEnds are the cases of eachEnd.
var exchangeEnds = []exchangeEnd{
	{"reset by the peer", true, func(_ *visit, peer *accepted,
		_ func()) {
		peer.WriteRSTStream(1, wire.InternalError)
	}},
	{"connection lost", true, func(_ *visit, peer *accepted, _ func()) { peer.Close() }},
	{"GOAWAY for a mistake", true, func(_ *visit, peer *accepted, _ func()) {
		peer.WriteGoAway(1, wire.InternalError, "")
		peer.Close()
	}},
	{"malformed response", true, func(_ *visit, peer *accepted,
		_ func()) {
		peer.WriteHeaders(1, wire.EndStream, "x: y")
	}},
	{"context", true, func(_ *visit, _ *accepted, cancel func()) { cancel() }},
	{"early error", false, func(_ *visit, peer *accepted,
		_ func()) {
		peer.WriteHeaders(1, wire.EndStream, ":status: 413")
	}},
	{"early response", false, func(_ *visit, peer *accepted,
		_ func()) {
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
	}},
	{"response without its end", false, func(_ *visit, peer *accepted,
		_ func()) {
		peer.WriteHeaders(1, 0, ":status: 200")
	}},
}

// eachEnd starts an upload of what body returns, at each door, and ends it in each of the ways of
// exchangeEnds. It calls over when the exchange is over according to the documentation: an error
// was returned, or the response's Body was closed.
func eachEnd(t *testing.T, body func() io.Reader, over func(v *visit, peer *accepted, failed bool)) {
	for _, e := range exchangeEnds {
		t.Run(e.name, func(t *testing.T) {
			eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				call := v.send(v.request("POST", "/", body()).WithContext(ctx))
				peer := v.accept()
				peer.WantHeaders("the request", 1)
				peer.Ignore(wire.Data, wire.RSTStream)
				synctest.Wait()
				e.end(v, peer, cancel)
				if e.failed {
					call.WantErr(t, e.name)
				} else {
					call.Want(t, e.name).Body.Close()
				}
				over(v, peer, e.failed)
				synctest.Wait()
			})
		})
	}
}

// The body is closed exactly once, whatever ends the exchange. If RoundTrip fails, it returns after
// that.
func TestRequestBodyIsClosedOnce(t *testing.T) {
	var body *lentBody
	eachEnd(t, func() io.Reader { body = newLentBody(); return body },
		func(v *visit, _ *accepted, failed bool) {
			if n := body.closes.Load(); failed && !v.own && n != 1 {
				v.t.Errorf("the body was closed %d times when RoundTrip returned", n)
			}
			synctest.Wait()
			if n := body.closes.Load(); n != 1 {
				v.t.Errorf("the body was closed %d times", n)
			}
		})
}

// A body that was read to its end is closed before END_STREAM is sent.
func TestRequestBodyIsClosedBeforeItsEndIsSent(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		body := &countedBody{Reader: bytes.NewReader([]byte("hello"))}
		call := v.send(v.request("POST", "/", body))
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		peer.WantBody("the body", 1, []byte("hello"))
		if n := body.closes.Load(); n != 1 {
			t.Errorf("the body was closed %d times when its end was sent", n)
		}
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		call.Want(t, "the response").Body.Close()
		synctest.Wait()
		if n := body.closes.Load(); n != 1 {
			t.Errorf("the body was closed %d times", n)
		}
	})
}

// If a request cannot be sent, its body is closed before the call returns.
func TestBodyOfARefusedRequestIsClosed(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		first := v.get("/")
		peer := v.accept()
		peer.Ignore(wire.Data)
		peer.WantHeaders("the connection is made", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		first.Want(t, "the first response")
		synctest.Wait()

		body := newLentBody()
		req := v.request("POST", "/", body)
		req.Header["X-Bad"] = []string{"a\nb"}
		v.send(req).WantErr(t, "a value with a line break")
		if n := body.closes.Load(); n != 1 {
			t.Errorf("the body was closed %d times", n)
		}
		peer.WantIdle("nothing is sent")
	})
}

// Closing the connection closes the bodies of its requests.
func TestCloseClosesTheRequestsBody(t *testing.T) {
	for _, end := range []func(*hyper.Conn, *hyper.Stream){
		func(c *hyper.Conn, _ *hyper.Stream) { c.Close() },
		func(_ *hyper.Conn, s *hyper.Stream) { s.Reset(hyper.ErrCodeCancel) },
	} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			body := newLentBody()
			s, err := conn.Open(t.Context(), &hyper.Request{Method: "POST", Body: body})
			if err != nil {
				t.Fatal(err)
			}
			peer.WantHeaders("the request", 1)
			end(conn, s)
			synctest.Wait()
			if n := body.closes.Load(); n != 1 {
				t.Errorf("the body was closed %d times", n)
			}
		})
	}
}

// If nothing was read from a body, the request is sent again with it. The body is closed after the
// last attempt.
func TestBodyThatWasNotReadIsClosedAfterTheLastTry(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		body := &countedBody{Reader: bytes.NewReader([]byte("hello"))}
		req := v.request("POST", "/", body)
		req.Header.Set("Expect", "100-continue")
		call := v.send(req)
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		peer.WriteGoAway(0, wire.NoError, "")
		if v.own || v.name == "ConnRoundTripTLS" || v.name == "ConnRoundTripCleartext" {
			call.WantErr(t, "one connection is all there is")
			synctest.Wait()
			if n := body.closes.Load(); n != 1 {
				t.Errorf("the body was closed %d times", n)
			}
			return
		}
		peer = v.accept()
		peer.WantHeaders("the request again", 1)
		if n := body.closes.Load(); n != 0 {
			t.Errorf("the body was closed %d times before the second try", n)
		}
		peer.WriteHeaders(1, 0, ":status: 100")
		peer.WantBody("the body", 1, []byte("hello"))
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		call.Want(t, "the response").Body.Close()
		synctest.Wait()
		if n := body.closes.Load(); n != 1 {
			t.Errorf("the body was closed %d times", n)
		}
	})
}

// When the exchange is over, the caller may change the memory of its body. The race detector finds
// a later access.
func TestMemoryOfABodyMayBeChangedWhenTheExchangeIsOver(t *testing.T) {
	const size = 1 << 20 // more than the windows allow
	var memory []byte
	body := func() io.Reader {
		memory = bytes.Repeat([]byte{'x'}, size)
		return bytes.NewReader(memory)
	}
	eachEnd(t, body, func(v *visit, peer *accepted, _ bool) {
		clear(memory)
		peer.WriteWindowUpdate(0, size) // a sender that is still running would access the memory
		peer.WriteWindowUpdate(1, size)
		peer.WriteData(1, wire.EndStream, nil)
	})
}

// When the exchange is over, the caller may also change the Request and its Header.
func TestRequestMayBeChangedWhenTheExchangeIsOver(t *testing.T) {
	ends := map[string]func(t *testing.T, peer func() *accepted, conn *hyper.Conn, s *hyper.Stream){
		"the response's Body is closed": func(t *testing.T, peer func() *accepted, _ *hyper.Conn,
			s *hyper.Stream) {
			peer().WriteHeaders(1, 0, ":status: 200")
			resp, err := s.Response(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		},
		"Reset": func(_ *testing.T, _ func() *accepted, _ *hyper.Conn,
			s *hyper.Stream) {
			s.Reset(hyper.ErrCodeCancel)
		},
		"Close": func(_ *testing.T, _ func() *accepted, c *hyper.Conn, _ *hyper.Stream) { c.Close() },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, conn := dialPeer(t, nil)
				peer := &accepted{Peer: p}
				memory := bytes.Repeat([]byte{'x'}, 1<<20)
				req := &hyper.Request{
					Method: "POST", Header: hyper.Header{{Name: "x", Value: "1"}},
					Body:    bytes.NewReader(memory),
					Trailer: hyper.Header{{Name: "y", Value: "2"}},
				}
				s, err := conn.Open(t.Context(), req)
				if err != nil {
					t.Fatal(err)
				}
				peer.WantHeaders("the request", 1)
				peer.Ignore(wire.Data, wire.RSTStream, wire.GoAway)
				end(t, func() *accepted { return peer }, conn, s)

				clear(memory)
				req.Header[0] = hyper.Field{Name: ":method", Value: "HEAD"}
				req.Method, req.Trailer[0].Value, req.Body = "HEAD", "3", nil
				peer.WriteWindowUpdate(0, 1<<20)
				peer.WriteWindowUpdate(1, 1<<20)
				peer.WriteHeaders(1, 0, ":status: 200")
				peer.WriteData(1, wire.EndStream, []byte("late"))
				synctest.Wait()
			})
		})
	}
}

// A Read of the body may return after the exchange is over. By then the client no longer accesses
// Body and Trailer.
func TestReadThatOutlivesTheExchangeLooksAtNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		last := make(chan struct{})
		req := &hyper.Request{
			Method: "POST", Trailer: hyper.Header{{Name: "x", Value: "1"}},
			Body: h2test.ReaderFunc(func([]byte) (int, error) { <-last; return 0, io.EOF }),
		}
		s, err := conn.Open(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the request", 1)
		synctest.Wait()
		s.Reset(hyper.ErrCodeCancel)
		peer.WantRSTStream("Reset", 1, wire.Cancel)
		req.Body, req.Trailer[0].Value = nil, "2"
		close(last)
		synctest.Wait()
		req.Trailer = nil
		peer.WantIdle("nothing else is sent")
	})
}
