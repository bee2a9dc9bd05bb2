// This file tests readers that wait while their window is closed.

package hypertest

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

const stallAfter = 5 * time.Second

// still returns a configuration whose managers grant nothing for streams that of selects. The other
// managers return what was consumed.
func still(of func(stream uint32) bool) *hyper.Config {
	return &hyper.Config{InitialStreamWindow: 10, WindowBlockedTimeout: stallAfter,
		WindowManager: func(w *hyper.Window) hyper.WindowManager {
			if of(w.StreamID()) {
				return nil
			}
			return giveBack(w)
		}}
}

// If a stream's manager never grants, the stream fails with an error that names its window. The
// connection goes on.
func TestStalledWindowOfAStreamIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, still(func(id uint32) bool { return id == 1 }))
		peer.Ignore(wire.WindowUpdate)
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 10))
		h2test.ReadBytes(t, resp.Body, 10)
		start := time.Now()
		_, err := resp.Body.Read(make([]byte, 1))
		if waited := time.Since(start); waited != stallAfter {
			t.Errorf("found after %v, want %v", waited, stallAfter)
		}
		var s *hyper.StreamError
		if !errors.Is(err, hyper.ErrWindowBlocked) || !errors.As(err, &s) || s.StreamID != 1 || s.FromPeer ||
			!strings.Contains(err.Error(), "window of stream 1 ") {
			t.Errorf("got %v", err)
		}
		peer.WantRSTStream("it will never be read", 1, wire.InternalError)
		answerGet(t, peer, conn, 3, ":status: 204").Body.Close()
	})
}

func TestStalledWindowOfTheConnectionIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := still(func(id uint32) bool { return id == 0 })
		cfg.InitialStreamWindow = 1 << 20
		peer, conn := dialPeer(t, cfg)
		peer.Ignore(wire.WindowUpdate)
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		for range 5 {
			peer.WriteData(1, 0, make([]byte, wire.InitialWindow/5))
		}
		n, err := io.Copy(io.Discard, resp.Body)
		var c *hyper.ConnError
		if n != wire.InitialWindow || !errors.Is(err, hyper.ErrWindowBlocked) || !errors.As(err, &c) ||
			!strings.Contains(err.Error(), "window of the connection ") {
			t.Errorf("read %d, then %v", n, err)
		}
		peer.WantGoAway("our fault", 0, wire.InternalError)
	})
}

// A reader is also blocked forever if it began to wait before another stream used up the
// connection's window.
func TestStallOfAReadThatWaitedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := still(func(id uint32) bool { return id == 0 })
		cfg.InitialStreamWindow = 1 << 20
		peer, conn := dialPeer(t, cfg)
		waiting := answerGet(t, peer, conn, 1, ":status: 200")
		unread := answerGet(t, peer, conn, 3, ":status: 200")
		result := make(chan error)
		go func() {
			_, err := waiting.Body.Read(make([]byte, 1))
			result <- err
		}()
		synctest.Wait()
		for range 5 {
			peer.WriteData(3, 0, make([]byte, wire.InitialWindow/5))
		}
		if err := <-result; !errors.Is(err, hyper.ErrWindowBlocked) ||
			!strings.Contains(err.Error(), "65535 of them unread") {
			t.Errorf("got %v", err)
		}
		unread.Body.Close()
	})
}

// The timeout does not apply if the peer may send, if no reader waits, or if the manager grants in
// time.
func TestStallTimeoutLeavesOthersAlone(t *testing.T) {
	grant := func(w *hyper.Window, n int) func() { return func() { w.Grant(n) } }
	for name, play := range map[string]func(t *testing.T, peer *h2test.Peer, resp *hyper.Response,
		w *hyper.Window){
		"a slow peer": func(t *testing.T, peer *h2test.Peer, resp *hyper.Response, w *hyper.Window) {
			time.AfterFunc(10*stallAfter, func() { peer.WriteData(1, wire.EndStream, make([]byte, 10)) })
			h2test.WantBody(t, "it came at last", resp.Body, string(make([]byte, 10)))
		},
		"it is not read": func(t *testing.T, peer *h2test.Peer, resp *hyper.Response, w *hyper.Window) {
			peer.WriteData(1, 0, make([]byte, 10))
			time.Sleep(10 * stallAfter)
			h2test.ReadBytes(t, resp.Body, 10)
		},
		"a grant in time": func(t *testing.T, peer *h2test.Peer, resp *hyper.Response, w *hyper.Window) {
			peer.WriteData(1, 0, make([]byte, 10))
			h2test.ReadBytes(t, resp.Body, 10)
			for range 5 {
				time.AfterFunc(stallAfter-time.Millisecond, grant(w, 1))
				// The peer sends late.
				time.AfterFunc(2*stallAfter, func() { peer.WriteData(1, 0, []byte("x")) })
				h2test.ReadBytes(t, resp.Body, 1)
			}
		},
		"readers that give up": func(t *testing.T, peer *h2test.Peer, resp *hyper.Response, w *hyper.Window) {
			peer.WriteData(1, 0, make([]byte, 10))
			h2test.ReadBytes(t, resp.Body, 10)
			for range 5 {
				resp.Stream().SetReadDeadline(time.Now().Add(stallAfter - time.Second))
				if _, err := resp.Body.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(err)
				}
			}
		},
		"a larger initial window": func(t *testing.T, peer *h2test.Peer, resp *hyper.Response,
			w *hyper.Window) {
			peer.WriteData(1, 0, make([]byte, 10))
			h2test.ReadBytes(t, resp.Body, 10)
			time.AfterFunc(stallAfter/2, func() {
				go resp.Stream().Conn().UpdateSettings(t.Context(),
					hyper.Setting{ID: hyper.SettingInitialWindowSize, Value: 11})
			})
			time.AfterFunc(stallAfter/2+time.Second, func() {
				peer.WriteSettingsAck()
				time.Sleep(10 * stallAfter)
				peer.WriteData(1, 0, []byte("x"))
			})
			h2test.ReadBytes(t, resp.Body, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := still(func(id uint32) bool { return id != 0 })
				cfg.KeepAlive = -1
				factory, windows := windowHandles()
				peer, conn := dialPeer(t, cfg)
				peer.Ignore(wire.WindowUpdate)
				got := doAsync(t.Context(), conn, &hyper.Request{WindowManager: factory})
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: 200")
				resp := got.Want(t, "the response")
				play(t, peer, resp, windows[1])
				if err := conn.Err(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestWindowMayStayShutForeverByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{InitialStreamWindow: -1, KeepAlive: -1,
			WindowManager: func(*hyper.Window) hyper.WindowManager { return nil }})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		resp.Stream().SetReadDeadline(time.Now().Add(time.Hour))
		if _, err := resp.Body.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// A smaller initial window can shut the window of a reader that already waits.
func TestStallBySmallerInitialWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, still(func(uint32) bool { return true }))
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		result := make(chan error)
		go func() {
			_, err := resp.Body.Read(make([]byte, 1))
			result <- err
		}()
		synctest.Wait()
		go conn.UpdateSettings(t.Context(), hyper.Setting{ID: hyper.SettingInitialWindowSize, Value: 0})
		peer.WantFrame("no window any more", wire.Settings)
		peer.WriteSettingsAck()
		if err := <-result; !errors.Is(err, hyper.ErrWindowBlocked) {
			t.Errorf("got %v", err)
		}
	})
}
