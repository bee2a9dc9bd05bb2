// This file tests Stream: deadlines, reset, and both directions at once.

package hypertest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// openWithWindow opens stream 1 with a send window of that many bytes.
func openWithWindow(t *testing.T, window uint32) (*h2test.Peer, *hyper.Stream) {
	t.Helper()
	peer, conn := dialPeer(t, &hyper.Config{KeepAlive: -1},
		wire.Setting{ID: wire.SettingInitialWindowSize, Value: window})
	s, err := conn.Open(context.Background(), &hyper.Request{Method: "POST"})
	if err != nil {
		t.Fatal(err)
	}
	if h := peer.WantHeaders("the stream", 1); h.EndStream {
		t.Error("END_STREAM on an open stream")
	}
	return peer, s
}

// streamBody responds with status 200 and returns the body.
func streamBody(t *testing.T, peer *h2test.Peer, s *hyper.Stream) io.ReadCloser {
	t.Helper()
	peer.WriteHeaders(s.ID(), 0, ":status: 200")
	resp, err := s.Response(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return resp.Body
}

// A streamWrite is a call of Write on another goroutine.
type streamWrite struct{ *h2test.Call[int] }

func writeAsync(s *hyper.Stream, p []byte) streamWrite {
	return streamWrite{h2test.Go(func() (int, error) { return s.Write(p) })}
}

// want waits for the call, which must return n and target.
func (w streamWrite) want(t *testing.T, reason string, n int, target error) {
	t.Helper()
	if got, err := w.Wait(); got != n || !errors.Is(err, target) {
		t.Errorf("%s: Write returned %d, %v, want %d, %v", reason, got, err, n, target)
	}
}

func TestEchoOfManyChunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const chunks = 500
		peer, s := openWithWindow(t, 1<<20)
		body := streamBody(t, peer, s)
		var want bytes.Buffer
		go func() {
			for i := range chunks {
				if _, err := s.Write(uploadData(i)); err != nil {
					t.Error(err)
				}
			}
			s.CloseWrite()
		}()
		for i := range chunks {
			want.Write(uploadData(i))
		}
		go func() {
			for end := false; !end; {
				f, err := peer.Next()
				if err != nil {
					t.Error(err)
					return
				}
				if f.Type != wire.Data {
					continue // WINDOW_UPDATE
				}
				end = f.Flags.Has(wire.EndStream)
				peer.WriteWindowUpdate(0, f.Length+1)
				peer.WriteData(1, f.Flags&wire.EndStream, f.Payload)
			}
		}()
		got, err := io.ReadAll(body)
		if err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%d octets of %d came back, %v", len(got), want.Len(), err)
		}
	})
}

func TestReadOnAfterCloseWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, s := openWithWindow(t, 1<<20)
		body := streamBody(t, peer, s)
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		peer.WantData("our end", 1, wire.EndStream, 0)
		peer.WriteData(1, 0, []byte("still "))
		peer.WriteData(1, wire.EndStream, []byte("here"))
		h2test.WantBody(t, "the peer's half", body, "still here")
	})
}

func TestWriteOnAfterThePeersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, s := openWithWindow(t, 1<<20)
		body := streamBody(t, peer, s)
		peer.WriteData(1, wire.EndStream, nil)
		h2test.WantBody(t, "the peer's half", body, "")
		if n, err := s.Write([]byte("late")); n != 4 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		peer.WantData("our half", 1, 0, 4)
		s.CloseWrite()
		peer.WantData("its end", 1, wire.EndStream, 0)
	})
}

func TestConcurrentWritesDoNotInterleave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const writers, size = 8, 1000
		peer, s := openWithWindow(t, 0)
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				if n, err := s.Write(bytes.Repeat([]byte{'a' + byte(i)}, size)); n != size || err != nil {
					t.Errorf("%d, %v", n, err)
				}
			})
		}
		var got []byte
		for len(got) < writers*size {
			synctest.Wait()
			peer.WriteWindowUpdate(1, 300)
			got = append(got, peer.WantFrame("a piece", wire.Data).Payload...)
		}
		wg.Wait()
		runs := 1
		for i := 1; i < len(got); i++ {
			if got[i] != got[i-1] {
				runs++
			}
		}
		if runs != writers {
			t.Errorf("%d runs, want %d", runs, writers)
		}
	})
}

func TestCloseWriteWaitsForTheWriteBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, s := openWithWindow(t, 1)
		w := writeAsync(s, []byte("abc"))
		peer.WantData("the window", 1, 0, 1)
		closed := make(chan error)
		go func() { closed <- s.CloseWrite() }()
		peer.WantIdle("the end is behind the data")
		peer.WriteWindowUpdate(1, 10)
		peer.WantData("the rest", 1, 0, 2)
		peer.WantData("the end", 1, wire.EndStream, 0)
		w.want(t, "all of it", 3, nil)
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

func TestNothingCanBeSentAfterTheEnd(t *testing.T) {
	ends := map[string]func(*hyper.Stream) error{
		"CloseWrite": (*hyper.Stream).CloseWrite,
		"SendTrailers": func(s *hyper.Stream) error {
			return s.SendTrailers(hyper.Header{{Name: "x", Value: "1"}})
		},
	}
	for name, end := range ends {
		synctest.Test(t, func(t *testing.T) {
			peer, s := openWithWindow(t, 1<<20)
			if err := end(s); err != nil {
				t.Fatal(err)
			}
			if f, err := peer.Next(); err != nil || !f.Flags.Has(wire.EndStream) {
				t.Fatalf("%s: %v, %v", name, f, err)
			}
			_, first := s.Write([]byte("late"))
			if first == nil {
				t.Error("Write after the end succeeds")
			}
			for after, again := range ends {
				if err := again(s); err != first {
					t.Errorf("%s after %s: %v, want %v", after, name, err, first)
				}
			}
			peer.WantIdle("nothing more is sent")
		})
	}
}

func TestSendTrailersNeedsNoWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, s := openWithWindow(t, 0)
		for _, bad := range []hyper.Header{{{Name: ":path", Value: "/"}}, {{Name: "x", Value: "\x00"}},
			{{Name: "connection", Value: "close"}}} {
			if err := s.SendTrailers(bad); !errors.As(err, new(*hyper.RequestError)) {
				t.Errorf("%v: %v", bad, err)
			}
		}
		peer.WantIdle("bad trailers are not sent, and the stream lives")
		if err := s.SendTrailers(hyper.Header{{Name: "X-Sum", Value: "1"}}); err != nil {
			t.Error(err)
		}
		if h := peer.WantHeadersExactly("the trailers", 1, "x-sum: 1"); !h.EndStream {
			t.Error("no END_STREAM")
		}
	})
}

func TestSendTrailersWithoutAnyIsCloseWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, s := openWithWindow(t, 0)
		if err := s.SendTrailers(nil); err != nil {
			t.Error(err)
		}
		peer.WantData("an empty field section would say no more", 1, wire.EndStream, 0)
	})
}

func TestEmptyWriteSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, s := openWithWindow(t, 0)
		if n, err := s.Write(nil); n != 0 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		peer.WantIdle("no empty DATA")
	})
}

// Write has copied or sent p when it returns. The caller may change p at once, even while the
// socket accepts nothing.
func TestWrittenBufferIsTheCallersAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe := newPeer(t, nil)
		peer.Handshake()
		s, err := conn.Open(context.Background(), &hyper.Request{Method: "POST"})
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the stream", 1)
		pipe.SetWriteBuffer(0)
		p := []byte("first")
		s.Write(p)
		copy(p, "other")
		s.Write(p)
		copy(p, "third")
		pipe.SetWriteBuffer(-1)
		s.CloseWrite()
		peer.WantBody("what was there at each Write", 1, []byte("firstother"))
	})
}

func TestStreamWithBodyTakesNoWrites(t *testing.T) {
	for _, body := range []io.Reader{strings.NewReader("0123456789"),
		io.MultiReader(strings.NewReader("0123456789"))} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingInitialWindowSize, Value: 5})
			s, err := conn.Open(context.Background(), put(body))
			if err != nil {
				t.Fatal(err)
			}
			peer.WantHeaders("the stream", 1)
			peer.WantData("the beginning", 1, 0, 5)
			if _, err := s.Write([]byte("x")); err == nil {
				t.Error("Write into the body of the request succeeds")
			}
			if err := s.CloseWrite(); err == nil {
				t.Error("CloseWrite of the body of the request succeeds")
			}
			s.SetWriteDeadline(time.Unix(0, 0))
			peer.WriteWindowUpdate(1, 5)
			peer.WantBody("the body goes on, under no deadline of the caller's", 1, []byte("56789"))
		})
	}
}

func TestWriteReturnsHowMuchWasTakenBeforeTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, s := openWithWindow(t, 10)
		start := time.Now()
		s.SetWriteDeadline(start.Add(time.Minute))
		n, err := s.Write([]byte("0123456789abc"))
		if n != 10 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("%d, %v after %v", n, err, time.Since(start))
		}
		peer.WantData("the window", 1, 0, 10)
		peer.WriteWindowUpdate(1, 100)
		peer.WantIdle("what was not taken is forgotten")
		s.SetWriteDeadline(time.Time{})
		writeAsync(s, []byte("abc")).want(t, "it works again", 3, nil)
		if got := peer.WantData("the rest", 1, 0, 3); string(got) != "abc" {
			t.Errorf("got %q", got)
		}
	})
}

func TestWriteDeadlineEndsAllWritesThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s := openWithWindow(t, 0)
		var waiting []streamWrite
		for range 3 {
			waiting = append(waiting, writeAsync(s, []byte("x")))
		}
		synctest.Wait()
		s.SetWriteDeadline(time.Now().Add(time.Second))
		for _, w := range waiting {
			w.want(t, "the deadline", 0, os.ErrDeadlineExceeded)
		}
	})
}

func TestReadDeadlineGovernsTheResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, s := openWithWindow(t, 0)
		s.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := s.Response(context.Background()); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		peer.WantIdle("the stream goes on")
		s.SetReadDeadline(time.Time{})
		streamBody(t, peer, s)
	})
}

func TestDeadlinesOfTheTwoDirectionsAreTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, s := openWithWindow(t, 10)
		s.SetReadDeadline(time.Unix(0, 0))
		if _, err := s.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		peer.WantData("writing has no deadline", 1, 0, 1)
		s.SetReadDeadline(time.Time{})
		s.SetWriteDeadline(time.Unix(0, 0))
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, wire.EndStream, []byte("x"))
		resp, err := s.Response(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		h2test.WantBody(t, "reading has no deadline", resp.Body, "x")
	})
}

func TestResetAfterTheEndChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, s := openWithWindow(t, 0)
		body := streamBody(t, peer, s)
		s.CloseWrite()
		peer.WantData("our end", 1, wire.EndStream, 0)
		peer.WriteData(1, wire.EndStream, []byte("whole"))
		synctest.Wait()
		s.Reset(hyper.ErrCodeCancel)
		peer.WantIdle("the stream had ended")
		h2test.WantBody(t, "what had arrived", body, "whole")
	})
}

func TestResponseCanBeAskedForByMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, s := openWithWindow(t, 0)
		got := make(chan *hyper.Response, 3)
		for range cap(got) {
			go func() {
				resp, err := s.Response(context.Background())
				if err != nil {
					t.Error(err)
				}
				got <- resp
			}()
		}
		synctest.Wait()
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		if a, b, c := <-got, <-got, <-got; a == nil || a != b || b != c || a.Stream() != s ||
			a.StreamID != s.ID() {
			t.Errorf("%v, %v, %v", a, b, c)
		}
	})
}

func TestWriteDeadlineAppliesToWritesThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingInitialWindowSize, Value: 0})
		peer.Ignore(wire.WindowUpdate)
		s, err := conn.Open(t.Context(), &hyper.Request{Method: "POST"})
		if err != nil {
			t.Fatal(err)
		}
		s.SetWriteDeadline(time.Now().Add(time.Second))
		errs := make(chan error, 2)
		for range cap(errs) {
			go func() {
				_, err := s.Write([]byte("no window for this"))
				errs <- err
			}()
		}
		for range cap(errs) {
			if err := <-errs; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Write: %v", err)
			}
		}
		s.Reset(hyper.ErrCodeCancel)
	})
}

// Each call must obey a deadline that is set, changed and removed.
func TestDeadlines(t *testing.T) {
	calls := map[string]struct {
		set  func(*hyper.Stream, time.Time)
		call func(*hyper.Stream, io.Reader) error
	}{
		"Write": {(*hyper.Stream).SetWriteDeadline,
			func(s *hyper.Stream, _ io.Reader) error { _, err := s.Write([]byte("x")); return err }},
		"Write by both": {(*hyper.Stream).SetDeadline,
			func(s *hyper.Stream, _ io.Reader) error { _, err := s.Write([]byte("x")); return err }},
		"Body.Read": {(*hyper.Stream).SetReadDeadline,
			func(_ *hyper.Stream, body io.Reader) error { _, err := body.Read(make([]byte, 1)); return err }},
		"Body.Read by both": {(*hyper.Stream).SetDeadline,
			func(_ *hyper.Stream, body io.Reader) error { _, err := body.Read(make([]byte, 1)); return err }},
	}
	for name, test := range calls {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, s := openWithWindow(t, 0)
				body := streamBody(t, peer, s)
				wantTimeout := func(reason string, d time.Duration) {
					t.Helper()
					start := time.Now()
					err := test.call(s, body)
					var timeout interface{ Timeout() bool }
					if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) ||
						!timeout.Timeout() || time.Since(start) != d {
						t.Errorf("%s: %v after %v, want a timeout after %v", reason, err, time.Since(start),
							d)
					}
				}
				in := func(d time.Duration) { test.set(s, time.Now().Add(d)) }
				in(-time.Second)
				wantTimeout("past", 0)
				wantTimeout("past, again", 0)
				in(time.Second)
				wantTimeout("future", time.Second)
				wantTimeout("future, passed", 0)
				in(time.Second)
				in(time.Hour)
				time.AfterFunc(time.Minute, func() { in(time.Second) })
				wantTimeout("moved while a call waits", time.Minute+time.Second)
				in(time.Hour)
				time.AfterFunc(time.Minute, func() { in(-1) })
				wantTimeout("moved into the past while a call waits", time.Minute)
				in(time.Second)
				test.set(s, time.Time{})
				time.AfterFunc(time.Minute, func() {
					peer.WriteWindowUpdate(1, 1)
					peer.WriteData(1, 0, []byte("x"))
				})
				if err := test.call(s, body); err != nil {
					t.Errorf("cleared: %v", err)
				}
			})
		})
	}
}
