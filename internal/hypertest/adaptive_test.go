// This file tests the default window manager, AdaptiveWindow.

package hypertest

import (
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

func TestAdaptiveIsTheDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		if credit := peer.Credit(0); credit != 64<<20 {
			t.Errorf("the connection's window is %d, not the budget", credit)
		}
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		if credit := peer.Credit(1); credit != 256<<10-1 {
			t.Errorf("the stream begins with %d", credit)
		}
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 60_000))
		resp := got.Want(t, "the response")
		h2test.ReadBytes(t, resp.Body, 60_000)
		peer.WriteData(1, wire.EndStream, nil)
		h2test.WantBody(t, "no more", resp.Body, "")
		peer.WantIdle("nothing was needed")

		// For a larger response, it must be known that it ends within the window.
		resp = answerGet(t, peer, conn, 3, ":status: 200", "content-length: 262000")
		peer.WriteData(3, wire.EndStream, make([]byte, 262_000))
		h2test.ReadBytes(t, resp.Body, 262_000)
		peer.WantIdle("nothing was needed, either")
	})
}

// When a grant reaches a sender in slow start, that sender has sent twice what the client sees now.
// It must not have used up its window by then.
func TestAdaptiveGrantsBeforeASenderThatDoublesMustStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.Ignore(wire.WindowUpdate)
		peer.AutoPing()
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		const seen = 100_000
		peer.WriteData(1, 0, make([]byte, seen))
		h2test.ReadBytes(t, resp.Body, seen)
		synctest.Wait()
		if credit := peer.Credit(1); credit < 2*seen {
			t.Errorf("%d octets were seen, and the peer may send %d more", seen, credit)
		}
		resp.Body.Close()
	})
}

// download plays a peer that sends size bytes on stream 1 as the windows allow, one window each
// rtt, to a reader that reads at once. It returns the largest window and the sum of the
// WINDOW_UPDATEs.
func download(t *testing.T, peer *h2test.Peer, body io.Reader, size int, rtt time.Duration) (largest,
	granted int) {
	t.Helper()
	done := make(chan int64)
	go func() {
		n, _ := io.Copy(io.Discard, body)
		done <- n
	}()
	first := peer.Credit(1)
	for sent := 0; sent < size; {
		synctest.Wait()
		window := min(peer.Credit(0), peer.Credit(1))
		if window <= 0 {
			t.Fatalf("no window after %d of %d octets", sent, size)
		}
		largest = max(largest, window)
		for n := min(window, size-sent); n > 0; {
			k := min(n, 16384)
			peer.WriteData(1, 0, make([]byte, k))
			n -= k
			sent += k
		}
		time.Sleep(rtt)
	}
	synctest.Wait()
	granted = peer.Credit(1) - first + size
	peer.WriteData(1, wire.EndStream, nil)
	if n := <-done; n != int64(size) {
		t.Errorf("read %d of %d octets", n, size)
	}
	return largest, granted
}

// A peer that always uses its whole window is limited by it. The window must grow up to the budget,
// as fast as slow start would.
func TestAdaptiveGrowsWhileThePeerUsesIt(t *testing.T) {
	for name, request := range map[string]*hyper.Request{
		"of the connection": {},
		"of the request":    {WindowManager: hyper.AdaptiveWindow{Budget: 8 << 20}.New},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := &hyper.Config{WindowManager: hyper.AdaptiveWindow{Budget: 8 << 20}.New,
					InitialStreamWindow: 65535}
				if request.WindowManager != nil {
					// The stream's manager then works alone.
					cfg.WindowManager = hyper.ReadWindow{Connection: 8 << 20}.New
				}
				peer, conn := dialPeer(t, cfg)
				peer.Ignore(wire.WindowUpdate)
				peer.AutoPing()
				got := doAsync(t.Context(), conn, request)
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: 200")
				largest, _ := download(t, peer, got.Want(t, "the response").Body, 64<<20, 50*time.Millisecond)
				if largest < 4<<20 || largest > 8<<20 {
					t.Errorf("the largest window is %d", largest)
				}
			})
		})
	}
}

// The manager grants no more than a body of known length needs, plus one byte, because some servers
// need an open window to send END_STREAM.
func TestAdaptiveGrantsNoMoreThanTheLength(t *testing.T) {
	for _, size := range []int{262_142, 262_143, 300_000, 5 << 20} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			peer.Ignore(wire.WindowUpdate)
			peer.AutoPing()
			resp := answerGet(t, peer, conn, 1, ":status: 200", fmt.Sprint("content-length: ", size))
			_, granted := download(t, peer, resp.Body, size, 20*time.Millisecond)
			if want := max(0, size+1-adaptiveInitial); granted != want {
				t.Errorf("%d octets: %d were granted beyond the initial window, want %d", size, granted, want)
			}
		})
	}
}

func TestAdaptiveAnswersABlockedReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: hyper.AdaptiveWindow{}.New,
			InitialStreamWindow: -1})
		peer.Ignore(wire.WindowUpdate)
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		go resp.Body.Read(make([]byte, 1))
		synctest.Wait()
		if got := peer.Credit(1); got < 200<<10 || got > adaptiveInitial {
			t.Errorf("the peer may send %d", got)
		}
		resp.Body.Close()
	})
}

// On a connection that has carried large responses, the next response begins with its share of the
// budget. After several small responses it does not any more.
func TestAdaptiveGrantsAheadWhereResponsesAreLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.Ignore(wire.WindowUpdate)
		peer.AutoPing()
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		download(t, peer, resp.Body, 64<<20, 50*time.Millisecond)
		id, ahead := uint32(3), 0
		for range 20 {
			got := getAsync(conn, "/")
			peer.WantHeaders("another one", id)
			synctest.Wait() // what follows the request may be in another write
			if peer.Credit(id) > adaptiveInitial {
				ahead++
			}
			peer.WriteHeaders(id, wire.EndStream, ":status: 200")
			got.Want(t, "a small response")
			id += 2
		}
		if ahead != 8 {
			t.Errorf("%d of 20 small responses were granted ahead, want the first 8", ahead)
		}
	})
}
