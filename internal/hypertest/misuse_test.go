// This file tests calls and managers that break the rules of the API.

package hypertest

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

func TestManagerOfTheConnectionThatCallsItEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var conn *hyper.Conn
		peer, c := dialPeer(t, &hyper.Config{WindowManager: func(*hyper.Window) hyper.WindowManager {
			return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
				if ev.Kind == hyper.WindowConsumed {
					conn.Stats()
				}
				return 0
			})
		}})
		conn = c
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, 0, []byte("hello"))
		resp.Body.Read(make([]byte, 1))
		peer.WantGoAway("its manager broke the rule", 0, wire.InternalError)
		var m *hyper.WindowManagerError
		if err := conn.Err(); !errors.As(err, &m) || m.StreamID != 0 || m.Panic == nil {
			t.Errorf("got %v", err)
		}
	})
}

// A manager may call another connection: a budget that connections share may look at all of them.
func TestManagerMayCallAnotherConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, other := dialPeer(t, nil)
		calls := 0
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: func(*hyper.Window) hyper.WindowManager {
			return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
				if ev.Kind == hyper.WindowData {
					other.Stats()
					calls++
				}
				return 0
			})
		}})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		stop := make(chan struct{})
		go func() { // keeps the other connection busy
			for {
				select {
				case <-stop:
					return
				default:
					other.Stats()
				}
			}
		}()
		for range 1000 {
			peer.WriteData(1, 0, []byte("x"))
		}
		h2test.ReadBytes(t, resp.Body, 1000)
		close(stop)
		if calls != 2000 {
			t.Errorf("%d calls", calls)
		}
	})
}

// A goroutine that waits for the lock while a manager runs must not be taken for a manager.
func TestOthersMayWaitWhileAManagerRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: func(*hyper.Window) hyper.WindowManager {
			return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
				for i := range 100 {
					_ = fmt.Sprint(i) // takes some time
				}
				return ev.Consumed()
			})
		}})
		peer.Ignore(wire.WindowUpdate)
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		done := make(chan struct{})
		for range 8 {
			go func() {
				for range 200 {
					conn.Stats()
				}
				done <- struct{}{}
			}()
		}
		for range 500 {
			peer.WriteData(1, 0, []byte("x"))
		}
		h2test.ReadBytes(t, resp.Body, 500)
		for range 8 {
			<-done
		}
	})
}

// Grants after the end of a stream or connection do nothing, wherever they are made.
func TestGrantBehindTheEndIsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		factory, windows := windowHandles()
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: factory})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, wire.EndStream, []byte("x"))
		synctest.Wait() // it is read
		windows[1].Grant(1000)
		peer.WantIdle("END_STREAM is here, though it is unread")
		h2test.WantBody(t, "all of it", resp.Body, "x")
		windows[1].Grant(math.MaxInt)
		windows[1].Grant(-5)
		peer.WantIdle("the stream is over")
		conn.Close()
		peer.WantGoAway("closed", 0, wire.NoError)
		windows[0].Grant(1000)
		windows[1].Grant(1000)
	})
}
