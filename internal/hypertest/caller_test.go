// This file tests hyper.Caller, whose exchanges use the same memory.

package hypertest

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A callerTest is a test of a Caller with a scripted peer.
type callerTest struct {
	*testing.T
	peer   *h2test.Peer
	conn   *hyper.Conn
	caller *hyper.Caller
	id     uint32 // of the next stream
}

// eachCaller runs test in a bubble.
func eachCaller(t *testing.T, cfg hyper.Config, test func(c *callerTest)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg.Authority = "example.com"
		peer, conn := dialPeer(t, &cfg)
		test(&callerTest{t, peer, conn, &hyper.Caller{Conn: conn}, 1})
	})
}

// get makes a GET, whose response has a text as its body, and reads it.
func (c *callerTest) get(text string) *hyper.Response {
	c.Helper()
	resp := c.unread(text)
	h2test.WantBody(c.T, "its body", resp.Body, text)
	resp.Body.Close()
	return resp
}

// unread is get without reading.
func (c *callerTest) unread(text string) *hyper.Response {
	c.Helper()
	call := h2test.Go(func() (*hyper.Response, error) { return c.caller.Get(c.Context(), "/"+text) })
	c.peer.WantHeaders("the request", c.id, ":path: /"+text)
	c.peer.WriteHeaders(c.id, 0, ":status: 200", "x-text: "+text)
	c.peer.WriteData(c.id, wire.EndStream, []byte(text))
	resp := call.Want(c.T, "the response")
	if resp.StreamID != c.id || resp.Stream().ID() != c.id || resp.Header.Get("x-text") != text ||
		resp.Request.Path != "/"+text || resp.Stream().Conn() != c.conn {
		c.Errorf("stream %d: %+v", c.id, resp)
	}
	c.id += 2
	return resp
}

// An exchange of a Caller uses the memory of the one before the last.
func TestCallerReusesTheMemoryOfTheExchangeBeforeTheLast(t *testing.T) {
	eachCaller(t, hyper.Config{}, func(c *callerTest) {
		first, second := c.get("one"), c.get("two")
		if first == second {
			c.Fatal("the second exchange uses the memory of the first")
		}
		for i := range 10 {
			if resp := c.get(fmt.Sprint("a", i)); resp != first {
				c.Fatal("the memory is not that of the exchange before the last")
			}
			if resp := c.get(fmt.Sprint("b", i)); resp != second {
				c.Fatal("the memory is not that of the exchange before the last")
			}
		}
	})
}

// earlierUses are the uses of an exchange that return an error, or nil if they do nothing.
var earlierUses = map[string]func(ctx context.Context, resp *hyper.Response, body io.ReadCloser) error{
	"Body.Read": func(_ context.Context, _ *hyper.Response, body io.ReadCloser) error {
		_, err := body.Read(make([]byte, 1))
		return err
	},
	"Body.Close": func(_ context.Context, _ *hyper.Response, body io.ReadCloser) error { return body.Close() },
	"Response.Body.Read": func(_ context.Context, resp *hyper.Response, _ io.ReadCloser) error {
		_, err := resp.Body.Read(make([]byte, 1))
		return err
	},
	"Raw.Read": func(_ context.Context, resp *hyper.Response, _ io.ReadCloser) error {
		_, err := resp.Raw().Read(make([]byte, 1))
		return err
	},
	"Raw.Close": func(_ context.Context, resp *hyper.Response, _ io.ReadCloser) error { return resp.Raw().Close() },
	"HTTP": func(_ context.Context, resp *hyper.Response, _ io.ReadCloser) error {
		answer := resp.HTTP(&http.Request{})
		if answer.StatusCode != 0 || len(answer.Header) != 0 {
			return fmt.Errorf("%+v", answer)
		}
		_, err := answer.Body.Read(make([]byte, 1))
		return err
	},
	"Pushes": func(ctx context.Context, resp *hyper.Response, _ io.ReadCloser) error {
		for _, err := range resp.Pushes(ctx) {
			return err
		}
		return nil
	},
	"Response": func(ctx context.Context, resp *hyper.Response, _ io.ReadCloser) error {
		_, err := resp.Stream().Response(ctx)
		return err
	},
	"Read": func(_ context.Context, resp *hyper.Response, _ io.ReadCloser) error {
		_, err := resp.Stream().Read(make([]byte, 1))
		return err
	},
	"Write": func(_ context.Context, resp *hyper.Response, _ io.ReadCloser) error {
		_, err := resp.Stream().Write([]byte("x"))
		return err
	},
	"CloseWrite": func(_ context.Context, resp *hyper.Response, _ io.ReadCloser) error {
		return resp.Stream().CloseWrite()
	},
	"SendTrailers": func(_ context.Context, resp *hyper.Response, _ io.ReadCloser) error {
		return resp.Stream().SendTrailers(hyper.Header{{Name: "a", Value: "1"}})
	},
	"SetPriority": func(_ context.Context, resp *hyper.Response, _ io.ReadCloser) error {
		return resp.Stream().SetPriority(hyper.Priority{Urgency: 1})
	},
	"Err": func(_ context.Context, resp *hyper.Response, _ io.ReadCloser) error { return resp.Stream().Err() },
	"NetConn.Read": func(_ context.Context, resp *hyper.Response, _ io.ReadCloser) error {
		_, err := resp.Stream().NetConn().Read(make([]byte, 1))
		return err
	},
	"NetConn.Write": func(_ context.Context, resp *hyper.Response, _ io.ReadCloser) error {
		_, err := resp.Stream().NetConn().Write([]byte("x"))
		return err
	},
	"NetConn.Close": func(_ context.Context, resp *hyper.Response, _ io.ReadCloser) error {
		return resp.Stream().NetConn().Close()
	},
}

// wantEarlier requires that every use of an earlier exchange is found and has no effect.
func wantEarlier(c *callerTest, resp *hyper.Response, body io.ReadCloser) {
	c.Helper()
	for name, use := range earlierUses {
		if err := use(c.Context(), resp, body); !errors.Is(err, hyper.ErrReused) {
			c.Errorf("%s: %v", name, err)
		}
	}
	s := resp.Stream()
	s.Reset(hyper.ErrCodeCancel)
	s.SetDeadline(time.Now().Add(-time.Second))
	s.SetReadDeadline(time.Now().Add(time.Second))
	s.SetWriteDeadline(time.Now().Add(time.Second))
	if !isClosed(s.Done()) || s.ID() != 0 || resp.StreamID != 0 {
		c.Errorf("stream %d, %d", s.ID(), resp.StreamID)
	}
	if s.Stats() != (hyper.StreamStats{}) || resp.Stats() != (hyper.StreamStats{}) {
		c.Errorf("stats: %+v", s.Stats())
	}
	if resp.StatusCode != 0 || resp.Header != nil || resp.Trailer() != nil || resp.Request.Path != "" {
		c.Errorf("the response has fields: %+v", resp)
	}
}

// A use of the last exchange is found as soon as the next one has begun, also after Conn.Close. It
// has no effect, and the memory is not used again.
func TestUseOfAnEarlierExchangeReturnsErrReused(t *testing.T) {
	for name, use := range map[string]func(c *callerTest) (io.ReadCloser, *hyper.Response){
		"a GET": func(c *callerTest) (io.ReadCloser, *hyper.Response) {
			resp := c.get("one")
			return resp.Body, resp
		},
		"a raw body": func(c *callerTest) (io.ReadCloser, *hyper.Response) {
			resp := c.get("one")
			return resp.Raw(), resp
		},
		"a reset stream": func(c *callerTest) (io.ReadCloser, *hyper.Response) {
			resp := c.unread("one")
			resp.Body.Close()
			return resp.Body, resp
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachCaller(t, hyper.Config{}, func(c *callerTest) {
				body, first := use(c)
				header := first.Header
				second := c.unread("two")
				wantEarlier(c, first, body)
				if header.Get("x-text") != "" {
					c.Errorf("the header is %v", header)
				}
				c.peer.WantIdle("a use of an earlier exchange sends nothing")
				h2test.WantBody(c.T, "the second exchange is as it was", second.Body, "two")
				if third := c.get("three"); third == first {
					c.Error("an exchange uses the memory of one that is still in use")
				}
				wantEarlier(c, first, body)
				c.conn.Close()
				wantEarlier(c, first, body)
			})
		})
	}
}

// A call that fails before anything is sent does not begin an exchange.
func TestCallerThatFailsKeepsTheLastExchange(t *testing.T) {
	eachCaller(t, hyper.Config{}, func(c *callerTest) {
		first := c.get("one")
		second := c.get("two")
		ended, cancel := context.WithCancel(c.Context())
		cancel()
		closed := &closeRecorder{}
		for i := range 3 {
			if _, err := c.caller.Get(c.Context(), "no path"); !isA[*hyper.RequestError](err) {
				c.Errorf("%d: %v", i, err)
			}
			if _, err := c.caller.Open(ended, &hyper.Request{}); err != context.Canceled {
				c.Errorf("%d: %v", i, err)
			}
			req := &hyper.Request{Path: "no path", Body: closed}
			if _, err := c.caller.Do(c.Context(), req); err == nil || closed.n != i+1 {
				c.Errorf("%d: %v, closed %d times", i, err, closed.n)
			}
		}
		if second.Header.Get("x-text") != "two" || second.Stats().BytesRead != 3 {
			c.Errorf("the last exchange is %+v", second)
		}
		if c.get("three") != first {
			c.Error("the memory was not kept")
		}
	})
}

type closeRecorder struct{ n int }

func (*closeRecorder) Read([]byte) (int, error) { return 0, io.EOF }

func (c *closeRecorder) Close() error {
	c.n++
	return nil
}

func isA[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

// An exchange that is not over when the next one begins keeps its memory, and works on.
func TestCallerKeepsTheMemoryOfAnExchangeThatIsNotOver(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	io.WriteString(z, "a text")
	z.Close()
	open := func(c *callerTest, req *hyper.Request) *hyper.Stream {
		s, err := c.caller.Open(c.Context(), req)
		if err != nil {
			c.Fatal(err)
		}
		c.peer.WantHeaders("the request", c.id)
		c.id += 2
		return s
	}
	do := func(c *callerTest, ctx context.Context, req *hyper.Request, fields ...string) *hyper.Response {
		call := h2test.Go(func() (*hyper.Response, error) { return c.caller.Do(ctx, req) })
		c.peer.WantHeaders("the request", c.id)
		c.peer.WriteHeaders(c.id, 0, append([]string{":status: 200"}, fields...)...)
		c.id += 2
		return call.Want(c.T, "the response")
	}
	// Each returns the stream of an exchange, and what is to be done with it later.
	for name, begin := range map[string]func(c *callerTest) (s *hyper.Stream, later func()){
		"a body that is not read": func(c *callerTest) (*hyper.Stream, func()) {
			resp := c.unread("one")
			return resp.Stream(), func() { h2test.WantBody(c.T, "all of it", resp.Body, "one") }
		},
		"a body that has not come": func(c *callerTest) (*hyper.Stream, func()) {
			resp, id := do(c, c.Context(), &hyper.Request{}), c.id-2
			return resp.Stream(), func() {
				c.peer.WriteData(id, wire.EndStream, []byte("late"))
				h2test.WantBody(c.T, "all of it", resp.Body, "late")
			}
		},
		"a request that is not sent": func(c *callerTest) (*hyper.Stream, func()) {
			s, id := open(c, &hyper.Request{Method: "POST"}), c.id-2
			c.peer.WriteHeaders(id, wire.EndStream, ":status: 200")
			resp, err := s.Response(c.Context())
			if err != nil {
				c.Fatal(err)
			}
			return s, func() {
				s.Write([]byte("late"))
				s.CloseWrite()
				c.peer.WantBody("the rest", id, []byte("late"))
				if resp.StatusCode != 200 {
					c.Errorf("%+v", resp)
				}
			}
		},
		"a response that was not returned": func(c *callerTest) (*hyper.Stream, func()) {
			s, id := open(c, &hyper.Request{Method: "POST"}), c.id-2
			s.CloseWrite()
			c.peer.WantBody("nothing", id, nil)
			c.peer.WriteHeaders(id, wire.EndStream, ":status: 204")
			synctest.Wait()
			return s, func() {
				if resp, err := s.Response(c.Context()); err != nil || resp.StatusCode != 204 {
					c.Error(resp, err)
				}
			}
		},
		"a call that waits": func(c *callerTest) (*hyper.Stream, func()) {
			s, id := open(c, &hyper.Request{Method: "POST"}), c.id-2
			call := h2test.Go(func() (int, error) { return s.Write(make([]byte, wire.InitialWindow+5)) })
			for left := wire.InitialWindow; left > 0; {
				left -= c.peer.WantFrame("what the window allows", wire.Data).Length
			}
			return s, func() {
				c.peer.WriteWindowUpdate(0, 1<<20)
				c.peer.WriteWindowUpdate(id, 5)
				call.Want(c.T, "Write")
				c.peer.WantData("the rest", id, 0, 5)
			}
		},
		"a body that is decoded and not read to its end": func(c *callerTest) (*hyper.Stream, func()) {
			resp, id := do(c, c.Context(), &hyper.Request{}, "content-encoding: gzip"), c.id-2
			c.peer.WriteData(id, wire.EndStream, zipped.Bytes())
			if n, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil {
				c.Fatal(n, err)
			}
			synctest.Wait()
			return resp.Stream(), func() { h2test.WantBody(c.T, "the rest", resp.Body, " text") }
		},
		"a window manager of the program": func(c *callerTest) (*hyper.Stream, func()) {
			var window *hyper.Window
			resp := do(c, c.Context(), &hyper.Request{WindowManager: func(w *hyper.Window) hyper.WindowManager {
				window = w
				return nil
			}})
			c.peer.WriteData(c.id-2, wire.EndStream, nil)
			h2test.WantBody(c.T, "nothing", resp.Body, "")
			id := window.StreamID()
			return resp.Stream(), func() {
				window.Grant(5)
				if window.StreamID() != id {
					c.Errorf("the window is that of stream %d", window.StreamID())
				}
			}
		},
		"a context that has ended": func(c *callerTest) (*hyper.Stream, func()) {
			ctx, cancel := context.WithCancel(c.Context())
			resp, id := do(c, ctx, &hyper.Request{}), c.id-2
			cancel()
			c.peer.WantRSTStream("cancelled", id, wire.Cancel)
			return resp.Stream(), func() {
				if err := resp.Stream().Err(); !errors.Is(err, context.Canceled) {
					c.Error(err)
				}
			}
		},
		"a body that waited for 100 (Continue)": func(c *callerTest) (*hyper.Stream, func()) {
			resp := do(c, c.Context(), &hyper.Request{Method: "POST", Body: strings.NewReader("x"),
				Header: hyper.Header{{Name: "expect", Value: "100-continue"}}})
			c.peer.WantBody("after the response", c.id-2, []byte("x"))
			c.peer.WriteData(c.id-2, wire.EndStream, nil)
			h2test.WantBody(c.T, "nothing", resp.Body, "")
			return resp.Stream(), func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachCaller(t, hyper.Config{}, func(c *callerTest) {
				kept, later := begin(c)
				id := kept.ID()
				c.get("two")
				third := c.get("three")
				if third.Stream() == kept {
					c.Fatal("its memory was used again")
				}
				if kept.ID() != id {
					c.Errorf("it is stream %d, and was %d", kept.ID(), id)
				}
				later()
				c.get("four")
			})
		})
	}
}
