package h2test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// errBoom is the error of a break in these tests.
var errBoom = errors.New("boom")

// start runs a Read or a Write of p on another goroutine.
func start(call func([]byte) (int, error), p []byte) *Call[int] {
	return Go(func() (int, error) { return call(p) })
}

// wantBlocked requires that the call is blocked.
func wantBlocked(t *testing.T, c *Call[int]) {
	t.Helper()
	c.WantWaiting(t, "it has to block")
}

// wantResult requires that the call returned n and err.
func wantResult(t *testing.T, c *Call[int], n int, err error) {
	t.Helper()
	c.WantReturned(t, "it must not block")
	if c.Value != n || !errors.Is(c.Err, err) {
		t.Fatalf("returned %d, %v; want %d, %v", c.Value, c.Err, n, err)
	}
}

// write writes s to c.
func write(t *testing.T, c *Conn, s string) {
	t.Helper()
	if n, err := c.Write([]byte(s)); n != len(s) || err != nil {
		t.Fatalf("Write(%q) = %d, %v", s, n, err)
	}
}

// read reads from c and requires want.
func read(t *testing.T, c *Conn, want string) {
	t.Helper()
	p := make([]byte, 100)
	if n, err := c.Read(p); string(p[:n]) != want || err != nil {
		t.Fatalf("Read = %q, %v; want %q", p[:n], err, want)
	}
}

// bubble runs f in a bubble, with the ends of a Pipe.
func bubble(t *testing.T, f func(t *testing.T, a, b *Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe()
		f(t, a, b)
		a.Close()
		b.Close()
	})
}

func TestWritesDoNotWaitForReads(t *testing.T) {
	bubble(t, func(t *testing.T, a, b *Conn) {
		big := bytes.Repeat([]byte("x"), 1<<20)
		if n, err := a.Write(big); n != len(big) || err != nil {
			t.Fatal(n, err)
		}
		write(t, b, "hello")
		read(t, a, "hello")
		if got, err := io.ReadAll(io.LimitReader(b, 1<<20)); !bytes.Equal(got, big) || err != nil {
			t.Fatal(len(got), err)
		}
	})
}

func TestReadWaitsForWrite(t *testing.T) {
	bubble(t, func(t *testing.T, a, b *Conn) {
		r := start(a.Read, make([]byte, 10))
		wantBlocked(t, r)
		write(t, b, "hello")
		wantResult(t, r, 5, nil)
	})
}

func TestEmptyReadAndWrite(t *testing.T) {
	bubble(t, func(t *testing.T, a, b *Conn) {
		if n, err := a.Read(nil); n != 0 || err != nil {
			t.Error("Read(nil):", n, err)
		}
		if n, err := a.Write(nil); n != 0 || err != nil {
			t.Error("Write(nil):", n, err)
		}
	})
}

func TestWriteBufferBlocksWriter(t *testing.T) {
	bubble(t, func(t *testing.T, a, b *Conn) {
		a.SetWriteBuffer(4)
		w := start(a.Write, []byte("abcdefg"))
		wantBlocked(t, w)
		read(t, b, "abcd")
		wantResult(t, w, 7, nil)
		read(t, b, "efg")

		a.SetWriteBuffer(0)
		w = start(a.Write, []byte("h"))
		wantBlocked(t, w)
		a.SetWriteBuffer(-1)
		wantResult(t, w, 1, nil)
	})
}

func TestStallStopsReading(t *testing.T) {
	bubble(t, func(t *testing.T, a, b *Conn) {
		r := start(b.Read, make([]byte, 10))
		wantBlocked(t, r)
		b.Stall()
		a.SetWriteBuffer(4)
		w := start(a.Write, []byte("hello"))
		wantBlocked(t, w)
		wantBlocked(t, r)
		b.Resume()
		wantResult(t, r, 4, nil)
		wantResult(t, w, 5, nil)
	})
}

func TestStallHidesEOF(t *testing.T) {
	bubble(t, func(t *testing.T, a, b *Conn) {
		b.Stall()
		a.Close()
		r := start(b.Read, make([]byte, 10))
		wantBlocked(t, r)
		b.Resume()
		wantResult(t, r, 0, io.EOF)
	})
}

func TestPeerReadsTheRestAfterClose(t *testing.T) {
	bubble(t, func(t *testing.T, a, b *Conn) {
		write(t, a, "last words")
		a.Close()
		read(t, b, "last words")
		for range 2 {
			if _, err := b.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("Read = %v, want a bare io.EOF", err)
			}
		}
		if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("Write = %v, want EPIPE", err)
		}
	})
}

func TestCloseWakesBothEnds(t *testing.T) {
	bubble(t, func(t *testing.T, a, b *Conn) {
		a.SetWriteBuffer(0)
		b.SetWriteBuffer(0)
		ar, aw := start(a.Read, make([]byte, 1)), start(a.Write, []byte("x"))
		br, bw := start(b.Read, make([]byte, 1)), start(b.Write, []byte("x"))
		wantBlocked(t, br)
		a.Close()
		wantResult(t, ar, 0, net.ErrClosed)
		wantResult(t, aw, 0, net.ErrClosed)
		wantResult(t, br, 0, io.EOF)
		wantResult(t, bw, 0, syscall.EPIPE)
	})
}

func TestClosedConnRefusesEverything(t *testing.T) {
	a, _ := Pipe()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	_, readErr := a.Read(make([]byte, 1))
	_, writeErr := a.Write([]byte("x"))
	errs := []error{readErr, writeErr, a.Close(), a.CloseWrite(), a.SetDeadline(time.Now())}
	for i, err := range errs {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("call %d after Close: %v", i, err)
		}
	}
}

func TestCloseWriteLeavesReadingOpen(t *testing.T) {
	bubble(t, func(t *testing.T, a, b *Conn) {
		a.CloseWrite()
		if _, err := b.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("Read = %v", err)
		}
		write(t, b, "still here")
		read(t, a, "still here")
	})
}

func TestDeadlineEndsBlockedCall(t *testing.T) {
	bubble(t, func(t *testing.T, a, b *Conn) {
		a.SetWriteBuffer(2)
		begin := time.Now()
		a.SetDeadline(begin.Add(time.Minute))
		r, w := start(a.Read, make([]byte, 1)), start(a.Write, []byte("abc"))
		time.Sleep(time.Minute - time.Nanosecond)
		wantBlocked(t, r)
		wantBlocked(t, w)
		time.Sleep(time.Nanosecond)
		wantResult(t, r, 0, os.ErrDeadlineExceeded)
		wantResult(t, w, 2, os.ErrDeadlineExceeded)

		_, err := a.Read(make([]byte, 1))
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%v is no net.Error that reports Timeout", err)
		}
	})
}

func TestDeadlineMovesWhileBlocked(t *testing.T) {
	bubble(t, func(t *testing.T, a, b *Conn) {
		a.SetReadDeadline(time.Now().Add(time.Second))
		r := start(a.Read, make([]byte, 1))
		a.SetReadDeadline(time.Now().Add(time.Hour))
		time.Sleep(time.Minute)
		wantBlocked(t, r)
		a.SetReadDeadline(time.Time{})
		time.Sleep(2 * time.Hour)
		wantBlocked(t, r)
		a.SetReadDeadline(time.Now().Add(-1))
		wantResult(t, r, 0, os.ErrDeadlineExceeded)
	})
}

func TestPassedDeadlineHoldsBackData(t *testing.T) {
	bubble(t, func(t *testing.T, a, b *Conn) {
		write(t, b, "hello")
		a.SetReadDeadline(time.Now())
		if n, err := a.Read(make([]byte, 5)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read = %d, %v", n, err)
		}
		a.SetReadDeadline(time.Time{})
		read(t, a, "hello")
	})
}

func TestBreakReadAtEveryByte(t *testing.T) {
	for _, breakErr := range []error{io.EOF, syscall.ECONNRESET, errBoom} {
		for n := range 6 {
			bubble(t, func(t *testing.T, a, b *Conn) {
				write(t, b, "hello")
				a.BreakReadAfter(int64(n), breakErr)
				got, err := io.ReadAll(a)
				if breakErr == io.EOF {
					err = errors.Join(err, io.EOF) // ReadAll does not return it
				}
				if string(got) != "hello"[:n] || !errors.Is(err, breakErr) {
					t.Errorf("after %d: read %q, %v; want %v", n, got, err, breakErr)
				}
			})
		}
	}
}

func TestBreakReadCountsFromNow(t *testing.T) {
	bubble(t, func(t *testing.T, a, b *Conn) {
		write(t, b, "hello")
		read(t, a, "hello")
		r := start(a.Read, make([]byte, 1))
		wantBlocked(t, r)
		a.BreakReadAfter(0, errBoom)
		wantResult(t, r, 0, errBoom)
	})
}

func TestBreakReadWithoutErrorBlocks(t *testing.T) {
	bubble(t, func(t *testing.T, a, b *Conn) {
		a.BreakReadAfter(2, nil)
		write(t, b, "hello")
		read(t, a, "he")
		r := start(a.Read, make([]byte, 1))
		b.Close()
		time.Sleep(time.Hour)
		wantBlocked(t, r)
		a.SetReadDeadline(time.Now())
		wantResult(t, r, 0, os.ErrDeadlineExceeded)
	})
}

func TestBreakWriteAtEveryByte(t *testing.T) {
	for n := range 5 {
		bubble(t, func(t *testing.T, a, b *Conn) {
			a.BreakWriteAfter(int64(n), errBoom)
			if got, err := a.Write([]byte("hello")); got != n || !errors.Is(err, errBoom) {
				t.Errorf("after %d: Write = %d, %v", n, got, err)
			}
			a.Close()
			if got, err := io.ReadAll(b); string(got) != "hello"[:n] || err != nil {
				t.Errorf("after %d: %q, %v arrived", n, got, err)
			}
		})
	}
	bubble(t, func(t *testing.T, a, b *Conn) {
		a.BreakWriteAfter(5, errBoom)
		write(t, a, "hello")
		if got, err := a.Write([]byte("x")); got != 0 || !errors.Is(err, errBoom) {
			t.Errorf("Write = %d, %v", got, err)
		}
	})
}

func TestBreakWriteWithoutErrorBlocks(t *testing.T) {
	bubble(t, func(t *testing.T, a, b *Conn) {
		a.BreakWriteAfter(2, nil)
		w := start(a.Write, []byte("hello"))
		wantBlocked(t, w)
		read(t, b, "he")
		b.Close()
		wantBlocked(t, w)
		a.Close()
		wantResult(t, w, 2, net.ErrClosed)
	})
}

func TestChunkBoundsReads(t *testing.T) {
	bubble(t, func(t *testing.T, a, b *Conn) {
		a.SetChunk(1)
		write(t, b, "abc")
		for _, want := range []string{"a", "b", "c"} {
			read(t, a, want)
		}
		write(t, b, "def")
		a.SetChunk(0)
		read(t, a, "def")
	})
}

func TestChunkLetsReaderInBetween(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	bubble(t, func(t *testing.T, a, b *Conn) {
		got := make(chan int, 100)
		go func() {
			p := make([]byte, 100)
			for {
				n, err := b.Read(p)
				if err != nil {
					close(got)
					return
				}
				got <- n
			}
		}()
		synctest.Wait()
		a.SetChunk(10)
		if n, err := a.Write(make([]byte, 100)); n != 100 || err != nil {
			t.Fatal(n, err)
		}
		a.Close()
		reads, sum := 0, 0
		for n := range got {
			reads, sum = reads+1, sum+n
		}
		if reads < 2 || sum != 100 {
			t.Errorf("%d bytes in %d reads, want 100 in several", sum, reads)
		}
	})
}

func TestCounters(t *testing.T) {
	bubble(t, func(t *testing.T, a, b *Conn) {
		write(t, a, "before")
		a.LogWrites()
		p := []byte("one")
		a.Write(p)
		p[0] = 'X' // the log has its own copy
		write(t, a, "three")
		read(t, b, "beforeonethree")
		if a.Writes() != 3 || a.OctetsWritten() != 14 || b.Reads() != 1 || b.OctetsRead() != 14 ||
			b.Writes() != 0 {
			t.Errorf("counted %d/%d written, %d/%d read, %d written back",
				a.Writes(), a.OctetsWritten(), b.Reads(), b.OctetsRead(), b.Writes())
		}
		if log := a.WriteLog(); !slices.EqualFunc(log, []string{"one", "three"},
			func(p []byte, s string) bool { return string(p) == s }) {
			t.Errorf("log %q", log)
		}
	})
}

func TestAddresses(t *testing.T) {
	a, b := Pipe()
	if a.LocalAddr().String() != b.RemoteAddr().String() ||
		a.RemoteAddr().String() != b.LocalAddr().String() {
		t.Errorf("%v -> %v against %v -> %v", a.LocalAddr(), a.RemoteAddr(), b.LocalAddr(), b.RemoteAddr())
	}
}
