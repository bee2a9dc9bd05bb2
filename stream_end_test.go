package hyper

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper/internal/wire"
)

// A streamWrite is a call of Write on a goroutine of its own.
type streamWrite struct {
	done chan struct{}
	n    int
	err  error
}

func writeAsync(s *Stream, p []byte) *streamWrite {
	w := &streamWrite{done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.n, w.err = s.Write(p)
	}()
	return w
}

func (w *streamWrite) want(t *testing.T, reason string, n int, target error) {
	t.Helper()
	<-w.done
	if w.n != n || !errors.Is(w.err, target) {
		t.Errorf("%s: Write returned %d, %v, want %d, %v", reason, w.n, w.err, n, target)
	}
}

// streamCalls returns all calls that can wait on a stream.
func streamCalls(s *Stream, body io.Reader) map[string]func() error {
	return map[string]func() error{
		"Write":      func() error { _, err := s.Write([]byte("x")); return err },
		"CloseWrite": s.CloseWrite,
		"Trailers":   func() error { return s.SendTrailers(Header{{Name: "x", Value: "1"}}) },
		"Read":       func() error { _, err := body.Read(make([]byte, 1)); return err },
		"Raw":        func() error { _, err := (rawBody{s}).Read(make([]byte, 1)); return err },
		"Pushes": func() error {
			for _, err := range s.Pushes(context.Background()) {
				return err
			}
			return nil
		},
	}
}

func TestResetReachesThePeerAndEveryCall(t *testing.T) {
	for _, code := range []ErrCode{ErrCodeCancel, ErrCodeNo, ErrCodeInternal, ErrCodeEnhanceYourCalm,
		ErrCode(0xfeedface)} {
		synctest.Test(t, func(t *testing.T) {
			peer, s := openStream(t, 1)
			body := streamBody(t, peer, s)
			peer.WriteData(1, 0, []byte("never read"))
			blocked := writeAsync(s, []byte("ab"))
			peer.WantData("the window", 1, 0, 1)
			s.Reset(code)
			peer.WantRSTStream("the caller's code", 1, wire.ErrCode(code))
			blocked.want(t, "Write is freed", 1, ErrCanceled)
			first := blocked.err
			var se *StreamError
			if !errors.As(first, &se) || se.Code != code || se.StreamID != 1 || se.FromPeer ||
				!errors.Is(first, code) {
				t.Errorf("%v", first)
			}
			s.Reset(ErrCodeStreamClosed) // has ended already
			body.Close()
			for range 2 {
				for name, call := range streamCalls(s, body) {
					if err := call(); err != first {
						t.Errorf("%s: %v, want %v", name, err, first)
					}
				}
				if _, err := s.Response(context.Background()); err != first {
					t.Errorf("Response: %v, want %v", err, first)
				}
			}
			peer.WantIdle("it is sent once")
		})
	}
}

func TestResetFreesReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, s := openStream(t, 1)
		errs := make(chan error, 3)
		go func() { _, err := s.Response(context.Background()); errs <- err }()
		go func() { _, err := (rawBody{s}).Read(make([]byte, 1)); errs <- err }()
		go func() { errs <- streamCalls(s, nil)["Pushes"]() }()
		synctest.Wait()
		s.Reset(ErrCodeCancel)
		peer.WantRSTStream("reset", 1, wire.Cancel)
		for range cap(errs) {
			if err := <-errs; !errors.Is(err, ErrCanceled) || !errors.Is(err, ErrCodeCancel) {
				t.Error(err)
			}
		}
	})
}

func TestPeersResetReachesEveryCallAndLeavesWhatHadArrived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, s := openStream(t, 0)
		body := streamBody(t, peer, s)
		blocked := writeAsync(s, []byte("x"))
		peer.WriteData(1, 0, []byte("arrived"))
		peer.WriteRSTStream(1, wire.EnhanceYourCalm)
		blocked.want(t, "Write is freed", 0, ErrCodeEnhanceYourCalm)
		first := blocked.err
		var se *StreamError
		if !errors.As(first, &se) || !se.FromPeer || se.Code != ErrCodeEnhanceYourCalm ||
			errors.Is(first, ErrCanceled) {
			t.Errorf("%v", first)
		}
		p := make([]byte, 7)
		if _, err := io.ReadFull(body, p); err != nil || string(p) != "arrived" {
			t.Errorf("%q, %v", p, err)
		}
		for range 2 {
			for name, call := range streamCalls(s, body) {
				if err := call(); err != first {
					t.Errorf("%s: %v, want %v", name, err, first)
				}
			}
		}
		s.Reset(ErrCodeCancel)
		peer.WantIdle("RFC 9113 §5.1: no frame answers RST_STREAM")
	})
}

// Close drops what was received and not read: its memory is free, the window managers of all
// streams are told, and no interim response is passed on any more.
func TestCloseDropsUnreadData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := map[uint32]int{}
		informed := 0
		peer, conn := dialPeer(t, &Config{WindowManager: func(w *Window) WindowManager {
			return WindowManagerFunc(func(ev WindowEvent) int {
				if ev.Kind == WindowClosed {
					closed[w.StreamID()]++
				}
				return 0
			})
		}})
		s, err := conn.Open(t.Context(), &Request{Informational: func(int, Header) error {
			informed++
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 103")
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 1000))
		synctest.Wait()
		conn.Close()
		if closed[1] != 1 || closed[0] != 1 {
			t.Errorf("WindowClosed was sent so often, by stream: %v", closed)
		}
		if n := s.buf.Len(); n != 0 {
			t.Errorf("%d bytes are kept", n)
		}
		if _, err := s.Response(t.Context()); err != ErrClosed || informed != 0 {
			t.Errorf("Response: %v; Informational was called %d times", err, informed)
		}
		if err := s.Err(); err != ErrClosed {
			t.Errorf("Stream.Err: %v", err)
		}
	})
}
