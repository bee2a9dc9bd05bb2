// This file tests connections: requests, PING, GOAWAY, Shutdown and Close.

package hypertest

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

func TestPrefaceSettingsAndFirstRequestLeaveInOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe := newPeer(t, nil)
		got := getAsync(conn, "/first")
		peer.WantPreface("the client speaks first")
		peer.WantHeaders("its request does not wait for our SETTINGS", 1, ":method: GET", ":path: /first")
		if n := pipe.Writes(); n != 1 {
			t.Errorf("%d writes, want 1", n)
		}
		peer.WriteSettings()
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, wire.EndStream, []byte("hello"))
		h2test.WantBody(t, "the body", got.Want(t, "the response").Body, "hello")
	})
}

func TestCloseEndsEveryCallWithErrClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.Ignore(wire.WindowUpdate)
		waiting := getAsync(conn, "/waits")
		peer.WantHeaders("first", 1)
		reading := getAsync(conn, "/reads")
		peer.WantHeaders("second", 3)
		peer.WriteHeaders(3, 0, ":status: 200")
		resp := reading.Want(t, "the response")
		conn.Close()
		peer.WantGoAway("Close says so", 0, wire.NoError)
		peer.WantClosed("and closes")
		if err := waiting.WantErr(t, "Close"); !errors.Is(err, hyper.ErrClosed) {
			t.Errorf("waiting for a response: %v", err)
		}
		for range 2 {
			if _, err := resp.Body.Read(make([]byte, 1)); !errors.Is(err, hyper.ErrClosed) {
				t.Errorf("reading a body: %v", err)
			}
		}
		if err := getAsync(conn, "/late").WantErr(t, "after Close"); !errors.Is(err, hyper.ErrClosed) {
			t.Errorf("a new request: %v", err)
		}
		if err := conn.Err(); err != hyper.ErrClosed {
			t.Errorf("Err: %v", err)
		}
	})
}

func TestPrefaceLeavesByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		peer, _, pipe := newPeer(t, nil)
		peer.WantPreface("a server that waits for it must not wait for a request")
		if waited := time.Since(start); waited != corkDelay {
			t.Errorf("the preface left after %v, want %v", waited, corkDelay)
		}
		peer.WantFrame("with it comes the connection's window", wire.WindowUpdate)
		if n := pipe.Writes(); n != 1 {
			t.Errorf("%d writes, want 1", n)
		}
		peer.WantIdle("and nothing else")
	})
}

func TestConnClosedBeforeItWroteAnything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe := newPeer(t, nil)
		conn.Close()
		peer.WantPreface("GOAWAY alone would be no HTTP/2")
		peer.WantGoAway("Close says so", 0, wire.NoError)
		peer.WantClosed("and closes")
		if n := pipe.Writes(); n != 1 {
			t.Errorf("%d writes, want 1", n)
		}
	})
}

func TestConnOverNetPipe(t *testing.T) {
	// A net.Pipe has no buffer: a write blocks until the peer has read it.
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		peer := h2test.NewPeer(t, server)
		conn, err := hyper.NewConn(t.Context(), client, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		peer.Handshake()
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1, ":scheme: http", ":authority: pipe")
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, wire.EndStream, []byte("hello"))
		h2test.WantBody(t, "the body", got.Want(t, "the response").Body, "hello")
		if conn.TLS() != nil || conn.LocalAddr() == nil || conn.RemoteAddr() == nil {
			t.Errorf("TLS %v, addresses %v and %v", conn.TLS(), conn.LocalAddr(), conn.RemoteAddr())
		}
	})
}

// callsOf returns every kind of call on a connection and on one of its streams.
func callsOf(conn *hyper.Conn, s *hyper.Stream, resp *hyper.Response) map[string]func() error {
	ctx := context.Background()
	return map[string]func() error{
		"Do": func() error {
			_, err := conn.Do(ctx, &hyper.Request{Method: "POST", Body: strings.NewReader("x")})
			return err
		},
		"Get":            func() error { _, err := conn.Get(ctx, "/"); return err },
		"Open":           func() error { _, err := conn.Open(ctx, &hyper.Request{}); return err },
		"Connect":        func() error { _, err := conn.Connect(ctx, "example.com:80", nil); return err },
		"Ping":           func() error { _, err := conn.Ping(ctx); return err },
		"WaitSettings":   func() error { _, err := conn.WaitSettings(ctx); return err },
		"UpdateSettings": func() error { return conn.UpdateSettings(ctx) },
		"Err":            conn.Err,
		"Write":          func() error { _, err := s.Write([]byte("x")); return err },
		"CloseWrite":     s.CloseWrite,
		"SendTrailers":   func() error { return s.SendTrailers(hyper.Header{{Name: "a", Value: "b"}}) },
		"Response":       func() error { _, err := s.Response(ctx); return err },
		"Body.Read":      func() error { _, err := resp.Body.Read(make([]byte, 1)); return err },
		"Raw.Read":       func() error { _, err := resp.Raw().Read(make([]byte, 1)); return err },
		"Pushes": func() error {
			for _, err := range s.Pushes(ctx) {
				return err
			}
			return nil
		},
	}
}

func TestEveryKindOfCallReturnsErrClosedAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		s, err := conn.Open(t.Context(), &hyper.Request{Method: "POST"})
		if err != nil {
			t.Fatal(err)
		}
		reading := getAsync(conn, "/")
		peer.WantHeaders("a stream", 1)
		peer.WantHeaders("another", 3)
		peer.WriteHeaders(3, 0, ":status: 200")
		peer.WriteData(3, 0, []byte("unread"))
		resp := reading.Want(t, "the response")
		synctest.Wait()
		conn.Close()
		for name, call := range callsOf(conn, s, resp) {
			first := call()
			if !errors.Is(first, hyper.ErrClosed) || hyper.Retryable(first) {
				t.Errorf("%s: %v (retryable: %v)", name, first, hyper.Retryable(first))
			}
			if again := call(); again != first {
				t.Errorf("%s: first %v, then %v", name, first, again)
			}
		}
		if err := conn.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
}

// dialTwoExchanges is dialPeer with an upload on stream 1 and a response on stream 3, whose body
// has not arrived yet.
func dialTwoExchanges(t *testing.T) (*h2test.Peer, *hyper.Conn, *hyper.Stream, *hyper.Response) {
	t.Helper()
	peer, conn := dialPeer(t, nil)
	upload, err := conn.Open(t.Context(), &hyper.Request{Method: "POST"})
	if err != nil {
		t.Fatal(err)
	}
	reading := getAsync(conn, "/")
	peer.WantHeaders("a stream", 1)
	peer.WantHeaders("another", 3)
	peer.WriteHeaders(3, 0, ":status: 200")
	return peer, conn, upload, reading.Want(t, "the response")
}

func TestEveryKindOfCallReturnsWhyTheConnectionWasLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, s, resp := dialTwoExchanges(t)
		peer.Close()
		<-conn.Done()
		for name, call := range callsOf(conn, s, resp) {
			err := call()
			var ce *hyper.ConnError
			if !errors.As(err, &ce) || !ce.FromPeer || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s: %v", name, err)
			}
			if again := call(); again == nil || again.Error() != err.Error() {
				t.Errorf("%s: first %v, then %v", name, err, again)
			}
		}
	})
}

func TestEveryKindOfCallReturnsErrClosedAfterCloseOfALostConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, s, resp := dialTwoExchanges(t)
		body := &hyper.Request{Method: "POST", Body: h2test.ReaderFunc(func([]byte) (int, error) {
			<-conn.Done()
			return 0,
				io.EOF
		})}
		uploading, err := conn.Open(t.Context(), body)
		if err != nil {
			t.Fatal(err)
		}
		peer.WriteGoAway(5, wire.InternalError, "")
		peer.Close()
		<-conn.Done()
		conn.Close()
		calls := callsOf(conn, s, resp)
		delete(calls, "Err")
		calls["Write beside a Body"] = func() error { _, err := uploading.Write([]byte("x")); return err }
		for name, call := range calls {
			if err := call(); !errors.Is(err, hyper.ErrClosed) || hyper.Retryable(err) {
				t.Errorf("%s: %v (retryable: %v)", name, err, hyper.Retryable(err))
			}
		}
		var lost *hyper.ConnError
		if err := conn.Err(); !errors.As(err, &lost) || lost.Code != hyper.ErrCodeInternal {
			t.Errorf("Err: %v, want why the connection was lost", err)
		}
	})
}

func TestCloseAtOnceByMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if err := conn.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
				select {
				case <-conn.Done():
				default:
					t.Error("Close returned before Done")
				}
			})
		}
		all.Wait()
		peer.WantGoAway("one of them says so", 0, wire.NoError)
		peer.WantClosed("and closes")
	})
}

func TestCloseDoesNotWaitForAPeerThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe := newPeer(t, nil)
		peer.Handshake()
		pipe.SetWriteBuffer(0)
		body, feed := io.Pipe() // the upload blocks, and so does its reader
		uploading := doAsync(t.Context(), conn, &hyper.Request{Method: "POST", Body: body})
		feed.Write(make([]byte, 100))
		waiting := getAsync(conn, "/")
		synctest.Wait()
		start := time.Now()
		conn.Close()
		if took := time.Since(start); took > 250*time.Millisecond {
			t.Errorf("Close took %v", took)
		}
		for _, call := range []*h2test.Call[*hyper.Response]{uploading, waiting} {
			if err := call.WantErr(t, "Close"); !errors.Is(err, hyper.ErrClosed) {
				t.Errorf("a request: %v", err)
			}
		}
		if _, err := feed.Write([]byte("more")); err != io.ErrClosedPipe {
			t.Errorf("the upload's body is still open: %v", err)
		}
	})
}

func TestShutdownLetsStreamsFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		first, second := getAsync(conn, "/1"), (*h2test.Call[*hyper.Response])(nil)
		peer.WantHeaders("first", 1)
		second = getAsync(conn, "/2")
		peer.WantHeaders("second", 3)
		over := make(chan error, 1)
		go func() { over <- conn.Shutdown(t.Context()) }()
		// RFC 9113 §6.8: the last stream identifier counts the streams that the peer began, which
		// are pushes.
		peer.WantGoAway("it takes no pushes", 0, wire.NoError)
		if err := getAsync(conn, "/late").WantErr(t, "shutting down"); err != hyper.ErrClosed {
			t.Errorf("a new request: %v", err)
		}
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		first.Want(t, "an old request")
		peer.WriteHeaders(3, 0, ":status: 200")
		resp := second.Want(t, "another")
		peer.WantIdle("its body is still due")
		if err := conn.Err(); err != nil {
			t.Errorf("Err while it drains: %v", err)
		}
		peer.WriteData(3, wire.EndStream, []byte("late but whole"))
		peer.WantClosed("the last stream is over, and GOAWAY was said")
		if err := <-over; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		h2test.WantBody(t, "what had arrived", resp.Body, "late but whole")
		if err := conn.Err(); err != hyper.ErrClosed {
			t.Errorf("Err: %v", err)
		}
	})
}

func TestShutdownSendsTheRestOfAnUploadWhoseResponseIsComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		s, err := conn.Open(t.Context(), &hyper.Request{Method: "POST"})
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		synctest.Wait()
		go conn.Shutdown(t.Context())
		peer.WantGoAway("Shutdown says so", 0, wire.NoError)
		if _, err := s.Write([]byte("the last of it")); err != nil {
			t.Fatal(err)
		}
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		peer.WantBody("our half of the stream was still open", 1, []byte("the last of it"))
		peer.WantClosed("and then no more")
	})
}

func TestShutdownNamesTheLastPush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{Push: &hyper.PushPolicy{}, Authority: "example.com"})
		peer.Ignore(wire.WindowUpdate)
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WritePushPromise(1, 8, ":method: GET", ":scheme: http", ":authority: example.com",
			":path: /pushed")
		peer.WriteHeaders(8, wire.EndStream, ":status: 200")
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		got.Want(t, "the response")
		if err := conn.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		peer.WantGoAway("the push was taken", 8, wire.NoError)
		peer.WantClosed("and all is over")
	})
}

func TestShutdownEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1})
		got := getAsync(conn, "/slow")
		peer.WantHeaders("the request", 1)
		queued := getAsync(conn, "/queued")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := conn.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: %v", err)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("Shutdown took %v", took)
		}
		for name, call := range map[string]*h2test.Call[*hyper.Response]{"open": got, "queued": queued} {
			if err := call.WantErr(t, "closed"); !errors.Is(err, hyper.ErrClosed) {
				t.Errorf("the %s request: %v", name, err)
			}
		}
		peer.WantGoAway("Shutdown said so at its beginning", 0, wire.NoError)
		peer.WantClosed("and not again")
	})
}

func TestShutdownOfAnIdleConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // it has nothing to wait for
		for range 2 {
			if err := conn.Shutdown(ctx); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
		}
		peer.WantGoAway("Shutdown says so, once", 0, wire.NoError)
		peer.WantClosed("and closes")
	})
}

func TestGoAwayPrecedesTheCloseOfABrokenConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		waiting := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteFrame(wire.FrameHeader{Length: 4, Type: wire.WindowUpdate}, make([]byte, 4))
		if debug := peer.WantGoAway("RFC 9113 §6.9: an increment of 0", 0, wire.ProtocolError); debug == "" {
			t.Error("GOAWAY does not say why")
		}
		peer.WantClosed("behind it")
		err := waiting.WantErr(t, "the request")
		var ce *hyper.ConnError
		if !errors.As(err, &ce) || ce.FromPeer || !errors.Is(err, hyper.ErrCodeProtocol) ||
			hyper.Retryable(err) {
			t.Errorf("the request: %v", err)
		}
		if !errors.Is(conn.Err(), hyper.ErrCodeProtocol) {
			t.Errorf("Err: %v", conn.Err())
		}
	})
}

func TestGoAwayEndsTheStreamsAboveItsLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		calls := map[uint32]*h2test.Call[*hyper.Response]{}
		for id := uint32(1); id <= 7; id += 2 {
			calls[id] = getAsync(conn, "/")
			peer.WantHeaders("a request", id)
		}
		peer.WriteGoAway(3, wire.EnhanceYourCalm, "too much")
		for _, id := range []uint32{5, 7} {
			err := calls[id].WantErr(t, "above the last stream")
			var se *hyper.StreamError
			var ce *hyper.ConnError
			if !hyper.Retryable(err) || !errors.As(err, &se) || se.StreamID != id || !se.FromPeer {
				t.Errorf("stream %d: %v", id, err)
			}
			if !errors.As(err, &ce) || ce.LastStreamID != 3 || ce.Code != hyper.ErrCodeEnhanceYourCalm ||
				string(ce.Debug) != "too much" {
				t.Errorf("stream %d: the GOAWAY reads %+v", id, ce)
			}
			if !errors.Is(err, hyper.ErrCodeEnhanceYourCalm) {
				t.Errorf("stream %d: %v is not ENHANCE_YOUR_CALM", id, err)
			}
		}
		err := getAsync(conn, "/late").WantErr(t, "after GOAWAY")
		if !hyper.Retryable(err) || !errors.Is(err, hyper.ErrDrained) ||
			!errors.Is(err, hyper.ErrCodeEnhanceYourCalm) {
			t.Errorf("a new request: %v", err)
		}
		for _, id := range []uint32{3, 1} {
			peer.WriteHeaders(id, 0, ":status: 200")
			peer.WriteData(id, wire.EndStream, []byte("whole"))
			h2test.WantBody(t, "up to the last stream", calls[id].Want(t, "a response").Body, "whole")
		}
		peer.WantClosed("the last stream is over")
		if err := conn.Err(); !errors.Is(err, hyper.ErrCodeEnhanceYourCalm) {
			t.Errorf("Err: %v", err)
		}
	})
}

func TestGoAwayMayShrink(t *testing.T) {
	// RFC 9113 §6.8: a graceful shutdown begins with a GOAWAY that has the largest identifier. A
	// later GOAWAY has the real one.
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		first := getAsync(conn, "/1")
		peer.WantHeaders("first", 1)
		second := getAsync(conn, "/2")
		peer.WantHeaders("second", 3)
		peer.WriteGoAway(wire.MaxStreamID, wire.NoError, "")
		peer.WantIdle("both may still finish")
		peer.WriteGoAway(1, wire.NoError, "")
		if err := second.WantErr(t, "above the last stream now"); !hyper.Retryable(err) {
			t.Errorf("the second: %v", err)
		}
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		first.Want(t, "the first")
		peer.WantClosed("all is over")
	})
}

func TestGoAwayMustNotRaiseItsLast(t *testing.T) {
	// RFC 9113 §6.8: endpoints MUST NOT increase the value they send in the last stream identifier.
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		getAsync(conn, "/1")
		peer.WantHeaders("first", 1)
		peer.WriteGoAway(1, wire.NoError, "")
		peer.WriteGoAway(3, wire.NoError, "")
		peer.WantGoAway("streams above 1 may be tried elsewhere already", 0, wire.ProtocolError)
		peer.WantClosed("behind it")
	})
}

func TestGoAwayWithNothingOpenEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.WriteGoAway(0, wire.NoError, "idle")
		peer.WantClosed("there is nothing to wait for")
		var ce *hyper.ConnError
		if !errors.As(conn.Err(), &ce) || !ce.FromPeer || ce.Code != hyper.ErrCodeNo ||
			string(ce.Debug) != "idle" {
			t.Errorf("Err: %v", conn.Err())
		}
		if err := getAsync(conn, "/").WantErr(t, "afterwards"); !hyper.Retryable(err) ||
			!errors.Is(err, hyper.ErrCodeNo) {
			t.Errorf("a new request: %v", err)
		}
	})
}

func TestGoAwayEndsCallsThatWaitForAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1})
		open := getAsync(conn, "/1")
		peer.WantHeaders("first", 1)
		waiting := getAsync(conn, "/2")
		synctest.Wait()
		peer.WriteGoAway(1, wire.NoError, "")
		if err := waiting.WantErr(t, "it was never sent"); !hyper.Retryable(err) ||
			!errors.Is(err, hyper.ErrDrained) {
			t.Errorf("the call that waited: %v", err)
		}
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		open.Want(t, "the first")
		peer.WantClosed("all is over")
	})
}

func TestGoAwayInPlaceOfSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, _ := newPeer(t, nil)
		peer.Ignore(wire.WindowUpdate)
		got := getAsync(conn, "/")
		peer.WantPreface("the client speaks first")
		peer.WantHeaders("its request", 1)
		peer.WriteGoAway(0, wire.InadequateSecurity, "not you")
		err := got.WantErr(t, "a server that has had enough")
		if !errors.Is(err, hyper.ErrCodeInadequateSecurity) || !hyper.Retryable(err) {
			t.Errorf("the request: %v", err)
		}
		peer.WantClosed("at its word")
	})
}

func TestRequestsThatWereNeverWrittenAreRetryable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe := newPeer(t, nil)
		peer.Handshake()
		pipe.SetWriteBuffer(0)
		first := getAsync(conn, "/1") // writeLoop blocks in its write; the peer may have a part of it
		synctest.Wait()
		second := getAsync(conn, "/2")
		synctest.Wait()
		peer.Close()
		if err := first.WantErr(t, "the connection was lost"); hyper.Retryable(err) {
			t.Errorf("the request in the write: %v is retryable", err)
		}
		if err := second.WantErr(t, "the connection was lost"); !hyper.Retryable(err) ||
			!errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("the request behind it: %v (retryable: %v)", err, hyper.Retryable(err))
		}
		if err := getAsync(conn, "/3").WantErr(t, "lost"); !hyper.Retryable(err) {
			t.Errorf("a new request: %v", err)
		}
		if hyper.Retryable(conn.Err()) {
			t.Errorf("Err: %v is retryable", conn.Err())
		}
	})
}

func TestLastWordsOfAPeerThatClosedAreHeard(t *testing.T) {
	// A write finds out that the peer is gone before the reader does. What the peer sent before is
	// still in the socket.
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe := newPeer(t, nil)
		peer.Handshake()
		answered := getAsync(conn, "/1")
		peer.WantHeaders("the first", 1)
		pipe.BreakWriteAfter(0, syscall.ECONNRESET)
		late := getAsync(conn, "/2")
		synctest.Wait()
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, wire.EndStream, []byte("whole"))
		peer.WriteGoAway(1, wire.NoError, "good night")
		peer.Close()
		h2test.WantBody(t, "the first", answered.Want(t, "its response").Body, "whole")
		if err := late.WantErr(t, "the second"); !hyper.Retryable(err) {
			t.Errorf("above the last stream of GOAWAY: %v", err)
		}
		var ce *hyper.ConnError
		if !errors.As(conn.Err(), &ce) || string(ce.Debug) != "good night" {
			t.Errorf("Err: %v", conn.Err())
		}
	})
}

func TestFailedWriteEndsAConnectionWhosePeerIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe := newPeer(t, nil)
		peer.Handshake()
		pipe.BreakWriteAfter(0, syscall.ECONNRESET)
		start := time.Now()
		if err := getAsync(conn, "/").WantErr(t, "the write failed"); !errors.Is(err, syscall.ECONNRESET) ||
			hyper.Retryable(err) {
			t.Errorf("the request: %v", err)
		}
		if waited := time.Since(start); waited > closeGrace {
			t.Errorf("the request returned after %v", waited)
		}
	})
}

func TestRetryableRequestsAreNotWrittenAfterAll(t *testing.T) {
	// When the last write gets through, these requests may already have been sent again on another
	// connection.
	for name, lose := range map[string]func(*h2test.Peer, *h2test.Conn){
		"by a broken rule": func(peer *h2test.Peer,
			_ *h2test.Conn) {
			peer.WriteWindowUpdate(0, wire.MaxWindow)
		},
		"by a network error": func(_ *h2test.Peer, pipe *h2test.Conn) {
			pipe.BreakReadAfter(0, io.EOF) // the peer has closed its sending half, and still reads
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn, pipe := newPeer(t, nil)
				peer.Handshake()
				pipe.SetWriteBuffer(0)
				getAsync(conn, "/1")
				synctest.Wait()
				second := getAsync(conn, "/2")
				synctest.Wait()
				lose(peer, pipe)
				if err := second.WantErr(t, "it waited behind the first"); !hyper.Retryable(err) {
					t.Errorf("the second request: %v", err)
				}
				pipe.SetWriteBuffer(-1)
				peer.WantHeaders("the write that was under way", 1)
				peer.Ignore(wire.GoAway)
				peer.WantClosed("without the second request")
			})
		})
	}
}

func TestStatsCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe := newPeer(t, nil)
		peer.Handshake()
		got := doAsync(t.Context(), conn, &hyper.Request{Method: "POST", Body: strings.NewReader("12345")})
		peer.WantHeaders("the request", 1)
		peer.WantBody("its body", 1, []byte("12345"))
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WritePaddedData(1, 0, []byte("abc"), 4)
		got.Want(t, "the response")
		synctest.Wait()
		s := conn.Stats()
		if s.BytesSent != pipe.OctetsWritten() || s.BytesReceived != pipe.OctetsRead() {
			t.Errorf("sent %d of %d, received %d of %d", s.BytesSent, pipe.OctetsWritten(), s.BytesReceived,
				pipe.OctetsRead())
		}
		if s.DataSent != 5 || s.DataReceived != 8 || s.StreamsOpened != 1 || s.StreamsOpen != 1 {
			t.Errorf("%+v", s)
		}
		if s.SendWindow != wire.InitialWindow-5 || s.ReceiveWindow != int64(peer.Credit(0)) {
			t.Errorf("windows %d and %d, the peer has %d", s.SendWindow, s.ReceiveWindow, peer.Credit(0))
		}
	})
}
