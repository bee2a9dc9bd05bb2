package hypertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// openPosts opens n streams whose bodies the caller writes.
func openPosts(t *testing.T, conn *hyper.Conn, n int) (streams []*hyper.Stream) {
	t.Helper()
	for range n {
		s, err := conn.Open(t.Context(), &hyper.Request{Method: "POST"})
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	return streams
}

// The requests of a batch leave in one write, with bodies from memory and from a reader.
func TestRequestsOfABatchLeaveInOneWrite(t *testing.T) {
	eachConnDoor(t, hyper.Config{}, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
		synctest.Wait()
		before := peer.client.Writes()
		err := conn.Batch(t.Context(), func() {
			for i := range 20 {
				req := &hyper.Request{Method: "POST", Path: fmt.Sprint("/", i),
					Body: strings.NewReader("body")}
				if _, err := conn.Open(t.Context(), req); err != nil {
					t.Error(err)
				}
				synctest.Wait()
			}
			peer.WantIdle("nothing is written yet")
		})
		if n := peer.client.Writes() - before; err != nil || n != 1 {
			t.Errorf("%d writes, %v", n, err)
		}
		for i := range uint32(20) {
			peer.WantHeaders("a request", 2*i+1, ":method: POST")
			peer.WantBody("its body", 2*i+1, []byte("body"))
		}
		checkNextRequest(t, peer.Peer, conn)
	})
}

// The last bytes of many uploads, and their ends, leave in one write.
func TestEndsOfUploadsLeaveInOneWrite(t *testing.T) {
	eachConnDoor(t, hyper.Config{}, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
		peer.Ignore(wire.Headers)
		streams := openPosts(t, conn, 30)
		for i, s := range streams {
			if _, err := s.Write([]byte("first")); err != nil {
				t.Fatal(err)
			}
			peer.WantData("its first bytes", uint32(2*i+1), 0, 5)
		}
		synctest.Wait()
		var before int
		err := conn.Batch(t.Context(), func() {
			before = peer.client.Writes()
			for i, s := range streams {
				if _, err := s.Write([]byte("last")); err != nil {
					t.Error(err)
				}
				if i%2 == 0 {
					s.CloseWrite()
				} else {
					s.SendTrailers(hyper.Header{{Name: "a", Value: "b"}})
				}
			}
			peer.WantIdle("nothing is written yet")
		})
		if n := peer.client.Writes() - before; err != nil || n != 1 {
			t.Errorf("%d writes, %v", n, err)
		}
		for i := range uint32(30) {
			peer.WantData("the last bytes", 2*i+1, 0, 4)
			if i%2 == 0 {
				peer.WantData("the end", 2*i+1, wire.EndStream, 0)
			}
		}
	})
}

// If the peer does not read, Batch waits until its context ends. The batch leaves as a whole when
// the peer reads, after what was queued before.
func TestBatchOfABlockedPeerStaysWhole(t *testing.T) {
	cfg := hyper.Config{WriteStallTimeout: -1}
	eachConnDoor(t, cfg, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
		streams := openPosts(t, conn, 3)
		synctest.Wait()
		peer.client.SetWriteBuffer(0)
		if _, err := streams[0].Write(bytes.Repeat([]byte("x"), 40000)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := streams[0].Write([]byte("queued before the batch")); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		err := conn.Batch(ctx, func() {
			for _, s := range streams[1:] {
				s.Write([]byte("held"))
				s.CloseWrite()
			}
		})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		before := peer.client.Writes()
		streams[0].Write([]byte("queued after the batch"))
		peer.client.SetWriteBuffer(-1)
		synctest.Wait()
		// TLS of the caller writes each of its records by itself.
		if n := peer.client.Writes() - before; n != 3 && !strings.Contains(t.Name(), "NewConnTLS") {
			t.Errorf("%d writes for what was queued before, the batch, and what was queued after", n)
		}
		peer.Ignore(wire.Headers)
		for _, n := range []int{16384, 16384, 40000 - 2*16384, len("queued before the batch")} {
			peer.WantData("queued before", 1, 0, n)
		}
		for _, id := range []uint32{3, 5} {
			peer.WantData("held", id, 0, 4)
			peer.WantData("its end", id, wire.EndStream, 0)
		}
		peer.WantData("queued after", 1, 0, len("queued after the batch"))
	})
}

// A batch is split, and nothing is lost, if it becomes too large or takes too long.
func TestBatchesThatAreSplit(t *testing.T) {
	for name, c := range map[string]struct {
		f    func(t *testing.T, s *hyper.Stream)
		wait time.Duration // how long Batch takes
	}{
		"size": {func(t *testing.T, s *hyper.Stream) { s.Write(make([]byte, 65535)) }, 0},
		"time": {func(t *testing.T, s *hyper.Stream) {
			s.Write(make([]byte, 10))
			time.Sleep(6 * time.Second)
			s.Write(make([]byte, 65525))
		}, 6 * time.Second},
		"context": {func(t *testing.T, s *hyper.Stream) {
			s.Write(make([]byte, 10))
			time.Sleep(2 * time.Second)
			s.Write(make([]byte, 65525))
		}, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			eachConnDoor(t, hyper.Config{}, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
				s := openPosts(t, conn, 1)[0]
				ctx, cancel := context.Background(), context.CancelFunc(func() {})
				if name == "context" {
					ctx, cancel = context.WithTimeout(ctx, time.Second)
				}
				defer cancel()
				begin := time.Now()
				err := conn.Batch(ctx, func() {
					c.f(t, s)
					s.CloseWrite()
				})
				if waited := time.Since(begin); waited != c.wait {
					t.Errorf("it took %v", waited)
				}
				if !errors.Is(err, hyper.ErrBatchSplit) && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v", err)
				}
				peer.WantHeaders("the request", 1)
				peer.WantBody("all of the body", 1, make([]byte, 65535))
				checkNextRequest(t, peer.Peer, conn)
			})
		})
	}
}

// Batches at the same time are one batch.
func TestBatchesThatOverlapAreOne(t *testing.T) {
	eachConnDoor(t, hyper.Config{}, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
		streams := openPosts(t, conn, 3)
		synctest.Wait()
		before := peer.client.Writes()
		var wg sync.WaitGroup
		hold := func(i int, inner func()) {
			if err := conn.Batch(t.Context(), func() {
				streams[i].CloseWrite()
				inner()
			}); err != nil {
				t.Error(err)
			}
		}
		wg.Go(func() {
			hold(0, func() {
				wg.Go(func() { hold(1, func() {}) })
				time.Sleep(time.Second)
				streams[2].CloseWrite()
			})
		})
		time.Sleep(2 * time.Second)
		if n := peer.client.Writes() - before; n != 1 {
			t.Errorf("%d writes", n)
		}
		wg.Wait()
	})
}

// A function that panics ends its batch: the connection goes on.
func TestBatchWhoseFunctionPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		func() {
			defer func() {
				if recover() != "why" {
					t.Error("the panic was lost")
				}
			}()
			conn.Batch(t.Context(), func() {
				conn.WriteFrame(t.Context(), hyper.PingFrame(0, [8]byte{1}))
				panic("why")
			})
		}()
		peer.WantPing("what was held", 0)
		checkNextRequest(t, peer, conn)
		if err := conn.Batch(t.Context(), func() {}); err != nil {
			t.Errorf("an empty batch: %v", err)
		}
	})
}

func TestBatchReturnsTheUsualErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, conn := dialPeer(t, nil)
		never := func() { t.Error("the function was called") }
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := conn.Batch(ended, never); !errors.Is(err, context.Canceled) {
			t.Errorf("with an ended context: %v", err)
		}
		err := conn.Batch(t.Context(), func() {
			conn.WriteFrame(t.Context(), hyper.PingFrame(0, [8]byte{1}))
			conn.Close()
		})
		if !errors.Is(err, hyper.ErrClosed) {
			t.Errorf("closed meanwhile: %v", err)
		}
		if err := conn.Batch(t.Context(), never); !errors.Is(err, hyper.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // the preface is sent as well
		peer, conn, _ := newPeer(t, nil)
		var s *hyper.Stream
		if err := conn.Batch(t.Context(), func() { s = openPosts(t, conn, 1)[0] }); err != nil {
			t.Fatal(err)
		}
		peer.Handshake()
		peer.WantHeaders("the request", s.ID())
	})
}
