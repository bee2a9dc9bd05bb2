// This file tests hyper.Caller, which makes exchanges in the same memory.

package hypertest

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
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

// get makes a GET, and reads a text as the body of its response.
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
	"Body.Close": func(_ context.Context, _ *hyper.Response, body io.ReadCloser) error {
		return body.Close()
	},
	"Response.Body.Read": func(_ context.Context, resp *hyper.Response, _ io.ReadCloser) error {
		_, err := resp.Body.Read(make([]byte, 1))
		return err
	},
	"Raw.Read": func(_ context.Context, resp *hyper.Response, _ io.ReadCloser) error {
		_, err := resp.Raw().Read(make([]byte, 1))
		return err
	},
	"Raw.Close": func(_ context.Context, resp *hyper.Response, _ io.ReadCloser) error {
		return resp.Raw().Close()
	},
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
	"Err": func(_ context.Context, resp *hyper.Response, _ io.ReadCloser) error {
		return resp.Stream().Err()
	},
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
			manager := func(w *hyper.Window) hyper.WindowManager {
				window = w
				return nil
			}
			resp := do(c, c.Context(), &hyper.Request{WindowManager: manager})
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

// A Caller has trailers, 1xx responses and pushes, and an exchange that has any of them is reused
// when the pushes were claimed.
func TestCallerReceivesAllPartsOfAResponse(t *testing.T) {
	cfg := hyper.Config{Push: &hyper.PushPolicy{}, StreamTimes: true, KeepFrames: true}
	eachCaller(t, cfg, func(c *callerTest) {
		var first *hyper.Response
		for i := range uint32(6) {
			interim := ""
			inform := func(status int, h hyper.Header) error {
				interim = fmt.Sprint(status, " ", h.Get("x-n"))
				return nil
			}
			call := h2test.Go(func() (*hyper.Response, error) {
				return c.caller.Do(c.Context(), &hyper.Request{Informational: inform})
			})
			n := fmt.Sprint(i)
			c.peer.WantHeaders("the request", c.id)
			c.peer.WriteHeaders(c.id, 0, ":status: 103", "x-n: "+n)
			c.peer.WritePushPromise(c.id, 2*i+2, ":method: GET", ":scheme: http", ":authority: example.com",
				":path: /"+n)
			c.peer.WriteHeaders(c.id, 0, ":status: 200", "x-n: "+n)
			c.peer.WriteData(c.id, 0, []byte("text "+n))
			c.peer.WriteTrailers(c.id, "x-sum: "+n)
			resp := call.Want(c.T, "the response")
			h2test.WantBody(c.T, "the body", resp.Body, "text "+n)
			if interim != "103 "+n || resp.Trailer().Get("x-sum") != n || resp.Stats().BytesRead != 6 ||
				resp.Stats().ResponseEnded.IsZero() {
				c.Errorf("%d: 1xx %q, trailer %v, %+v", i, interim, resp.Trailer(), resp.Stats())
			}
			pushes := 0
			for push, err := range resp.Pushes(c.Context()) {
				if err != nil || push.Request.Path != "/"+n || push.ParentID != c.id {
					c.Fatal(push, err)
				}
				pushes++
				c.peer.WriteHeaders(push.ID(), wire.EndStream, ":status: 204", "x-push: "+n)
				pushed, err := push.Response(c.Context())
				if err != nil || pushed.Header.Get("x-push") != n {
					c.Fatal(pushed, err)
				}
			}
			if pushes != 1 {
				c.Errorf("%d pushes", pushes)
			}
			c.id += 2
			synctest.Wait()
			if first == nil {
				first = resp
			} else if i%2 == 0 && resp != first {
				c.Error("the memory was not used again")
			}
		}
	})
}

// A promise that waits to be claimed keeps the exchange.
func TestCallerKeepsAnExchangeWithAPromise(t *testing.T) {
	eachCaller(t, hyper.Config{Push: &hyper.PushPolicy{}}, func(c *callerTest) {
		call := h2test.Go(func() (*hyper.Response, error) { return c.caller.Get(c.Context(), "/") })
		c.peer.WantHeaders("the request", 1)
		c.peer.WritePushPromise(1, 2, ":method: GET", ":scheme: http", ":authority: example.com", ":path: /p")
		c.peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		resp := call.Want(c.T, "the response")
		c.id = 3
		c.get("two")
		if c.get("three") == resp {
			c.Fatal("its memory was used again")
		}
		for push, err := range resp.Pushes(c.Context()) {
			if err != nil || push.Request.Path != "/p" {
				c.Error(push, err)
			}
		}
	})
}

// Frames that the peer sends on a stream after its reset do not reach the exchange that uses the
// memory of the stream.
func TestLateFramesDoNotReachTheNextExchangeOfACaller(t *testing.T) {
	eachCaller(t, hyper.Config{}, func(c *callerTest) {
		first := c.unread("one")
		first.Body.Close()
		call := h2test.Go(func() (*hyper.Response, error) { return c.caller.Get(c.Context(), "/two") })
		c.peer.WantHeaders("the request", 3)
		c.peer.WriteHeaders(3, 0, ":status: 200")
		second := call.Want(c.T, "the response")
		second.Body.Close()
		c.peer.WantRSTStream("closed", 3, wire.Cancel)
		c.id = 5
		third := c.unread("three")
		if third != first {
			c.Fatal("the memory was not used again")
		}
		call = h2test.Go(func() (*hyper.Response, error) { return c.caller.Get(c.Context(), "/four") })
		c.peer.WantHeaders("the request in the memory of stream 3", 7)
		c.peer.WriteData(3, 0, []byte("late"))
		c.peer.WriteTrailers(3, "late: 1")
		c.peer.WriteWindowUpdate(3, 5)
		c.peer.WriteRSTStream(3, wire.InternalError)
		c.peer.WriteHeaders(7, 0, ":status: 200", "x: 1")
		c.peer.WriteData(7, wire.EndStream, []byte("four"))
		fourth := call.Want(c.T, "the response")
		h2test.WantBody(c.T, "its body", fourth.Body, "four")
		if fourth.Trailer() != nil || fourth.Stats().BytesReceived != 4 || fourth.Stream().Err() != nil {
			c.Errorf("%v, %+v, %v", fourth.Trailer(), fourth.Stats(), fourth.Stream().Err())
		}
	})
}

// The exchanges of a Caller end with their connection as any others, and those after them use
// another connection.
func TestCallerOfAConnectionThatEnds(t *testing.T) {
	for name, end := range map[string]struct {
		end  func(c *callerTest)
		want error
	}{
		"Close":  {func(c *callerTest) { c.conn.Close() }, hyper.ErrClosed},
		"GOAWAY": {func(c *callerTest) { c.peer.WriteGoAway(0, wire.NoError, "") }, hyper.ErrCodeNo},
		"lost":   {func(c *callerTest) { c.peer.Close() }, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			eachCaller(t, hyper.Config{}, func(c *callerTest) {
				for range 3 {
					c.get("before")
				}
				call := h2test.Go(func() (*hyper.Response, error) { return c.caller.Get(c.Context(), "/") })
				c.peer.WantHeaders("the request", c.id)
				end.end(c)
				if err := call.WantErr(c.T, "the exchange"); !errors.Is(err, end.want) {
					c.Error(err)
				}
				synctest.Wait()
				if _, err := c.caller.Get(c.Context(), "/"); err == nil {
					c.Error("an exchange on a connection that has ended")
				}
				c.peer, c.conn = dialPeer(c.T, &hyper.Config{Authority: "example.com"})
				c.caller.Conn, c.id = c.conn, 1
				first := c.get("one")
				c.get("two")
				if c.get("three") != first {
					c.Error("the memory was not used again")
				}
			})
		})
	}
}

// A Caller without a connection, and calls with a nil argument, panic as those of a Conn do.
func TestMisuseOfACallerPanics(t *testing.T) {
	eachCaller(t, hyper.Config{}, func(c *callerTest) {
		none := &hyper.Caller{}
		var noContext context.Context
		for want, call := range map[string]func(){
			"hyper: Caller.Get: nil Conn":            func() { none.Get(c.Context(), "/") },
			"hyper: Caller.Do: nil Conn":             func() { none.Do(c.Context(), &hyper.Request{}) },
			"hyper: Caller.Open: nil Conn":           func() { none.Open(c.Context(), &hyper.Request{}) },
			"hyper: Caller.Get: nil context.Context": func() { c.caller.Get(noContext, "/") },

			"hyper: Caller.Do: nil *Request":   func() { c.caller.Do(c.Context(), nil) },
			"hyper: Caller.Open: nil *Request": func() { c.caller.Open(c.Context(), nil) },
		} {
			func() {
				defer func() {
					if got := recover(); got != want {
						c.Errorf("%v, want %s", got, want)
					}
				}()
				call()
			}()
		}
	})
}

// The race detector reports a use of an earlier exchange on another goroutine. The test runs in a
// process of its own, which fails.
func TestRaceDetectorFindsTheUseOfAnEarlierExchange(t *testing.T) {
	if !h2test.Race {
		t.Skip("this is a test of the race detector")
	}
	const alone = "HYPER_RACES=1"
	if os.Getenv("HYPER_RACES") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), alone)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "DATA RACE") ||
			!strings.Contains(string(out), "(*Stream).reusedErr") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	k, buf := &hyper.Caller{Conn: cannedConn(t, nil)}, make([]byte, 2048)
	get := func() *hyper.Response {
		resp, err := k.Get(context.Background(), "/")
		if err != nil {
			t.Fatal(err)
		}
		drainBody(t, resp.Body, buf)
		return resp
	}
	resp, done := get(), make(chan struct{})
	go func() {
		defer close(done)
		time.Sleep(100 * time.Millisecond) // nothing orders this with what follows below
		resp.Body.Read(make([]byte, 1))
	}()
	get()
	<-done
}
