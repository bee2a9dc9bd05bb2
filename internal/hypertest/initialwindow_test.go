// This file tests managers of the user that choose the initial window of streams, and ticks before
// writes.

package hypertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A chooser is a manager of a connection that chooses initial windows by a function.
type chooser struct {
	hyper.WindowManager
	choose func(announced, pushes int, now time.Duration) int
}

// InitialWindow implements hyper.InitialWindowManager.
func (c chooser) InitialWindow(announced, pushes int, now time.Duration) int {
	return c.choose(announced, pushes, now)
}

// chooses returns a configuration with a chooser. Its streams have no managers.
func chooses(choose func(announced, pushes int, now time.Duration) int) *hyper.Config {
	factory := func(w *hyper.Window) hyper.WindowManager {
		if w.StreamID() != 0 {
			return nil
		}
		return chooser{hyper.ReadWindow{}.New(w), choose}
	}
	return &hyper.Config{InitialStreamWindow: 1000, WindowManager: factory}
}

// RFC 9113 §6.9.2: SETTINGS with a new size go out before the request, and move the windows of the
// streams that are open.
func TestManagerOfTheUserChoosesInitialWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		sizes := []int{1000, 400, 400, math.MaxInt}
		peer, conn := dialPeer(t, chooses(func(announced, pushes int, now time.Duration) int {
			size := sizes[len(asked)]
			asked = append(asked, fmt.Sprint(announced, pushes, now))
			return size
		}))
		peer.Ignore(wire.WindowUpdate)
		time.Sleep(time.Second)
		for i, want := range []int{0, 400, 0, wire.MaxWindow} {
			id := uint32(2*i + 1)
			getAsync(conn, "/")
			if want > 0 {
				f := peer.WantFrame("the size changes", wire.Settings)
				for s := range wire.ParseSettings(f.Payload) {
					if s.ID != wire.SettingInitialWindowSize || s.Value != uint32(want) {
						t.Errorf("request %d: %v, want %d", i, s, want)
					}
				}
			}
			peer.WantHeaders("the request follows", id)
			if want > 0 {
				peer.WriteSettingsAck()
			}
			peer.WriteHeaders(id, 0, ":status: 200")
			synctest.Wait() // a smaller size moves the windows when it is acknowledged
		}
		if want := []string{"1000 0 1.005s", "1000 0 1.005s", "400 0 1.005s",
			"400 0 1.005s"}; !slices.Equal(asked, want) {
			t.Errorf("asked %q, want %q", asked, want)
		}
		if got := peer.Credit(1); got != wire.MaxWindow {
			t.Errorf("the first stream may send %d", got)
		}
		peer.WriteData(7, 0, make([]byte, 16384))
		peer.WantIdle("the data is within the window")
	})
}

// A peer may read the SETTINGS of a larger window before the thread that sends a stream has
// processed the RST_STREAM before them. DATA within the larger window is no error.
func TestLargerInitialWindowAppliesToResetStreams(t *testing.T) {
	for _, door := range []string{"a manager", "UpdateSettings"} {
		t.Run(door, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				size := 1000
				peer, conn := dialPeer(t, chooses(func(int, int, time.Duration) int { return size }))
				ctx, cancel := context.WithCancel(t.Context())
				doAsync(ctx, conn, &hyper.Request{})
				peer.WantHeaders("the request", 1)
				cancel()
				peer.WantRSTStream("the request is canceled", 1, wire.Cancel)
				size = 5000
				if door == "a manager" {
					getAsync(conn, "/")
				} else {
					go conn.UpdateSettings(t.Context(),
						hyper.Setting{ID: hyper.SettingInitialWindowSize, Value: 5000})
				}
				peer.WantFrame("a larger window", wire.Settings)
				peer.Ignore(wire.Headers, wire.Ping)
				peer.WriteData(1, 0, make([]byte, 5000))
				peer.WantIdle("the data is within the window")
				peer.WriteData(1, 0, make([]byte, 1))
				peer.WantGoAway("one byte more", 0, wire.FlowControlError)
			})
		})
	}
}

// RFC 9113 §6.9.2: a size that moves the window of an open stream above 2^31-1 is an error. The
// size is cut off.
func TestChosenInitialWindowIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		size := 1000
		cfg := chooses(func(int, int, time.Duration) int { return size })
		peer, conn := dialPeer(t, cfg)
		peer.Ignore(wire.WindowUpdate)
		more := hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
			return map[hyper.WindowEventKind]int{hyper.WindowOpened: 500}[ev.Kind]
		})
		factory := func(*hyper.Window) hyper.WindowManager { return more }
		doAsync(t.Context(), conn, &hyper.Request{Path: "/", WindowManager: factory})
		peer.WantHeaders("the request", 1)
		size = math.MaxInt32
		getAsync(conn, "/")
		f := peer.WantFrame("a size", wire.Settings)
		for s := range wire.ParseSettings(f.Payload) {
			if s.Value != math.MaxInt32-500 {
				t.Errorf("%v: the window of stream 1 would be %d", s, s.Value+500)
			}
		}
		peer.WantHeaders("the next request", 3)
		if got := peer.Credit(1); got != math.MaxInt32 {
			t.Errorf("stream 1 may send %d", got)
		}
		getAsync(conn, "/")
		peer.WantHeaders("no SETTINGS that change nothing", 5)
	})
}

// The number of SETTINGS that the peer has not acknowledged is bounded.
func TestChosenInitialWindowsWaitForAcknowledgments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		size := 1000
		peer, conn := dialPeer(t, chooses(func(int, int, time.Duration) int { size++; return size }))
		peer.Ignore(wire.Headers)
		const requests, most = 50, 32
		for range requests {
			getAsync(conn, "/")
			synctest.Wait()
		}
		for range most {
			peer.WantFrame("a new size", wire.Settings)
		}
		peer.WantIdle("as many as may be unacknowledged")
		peer.WriteSettingsAck()
		synctest.Wait()
		getAsync(conn, "/")
		peer.WantFrame("one more", wire.Settings)
		peer.WantIdle("and no other")
	})
}

// AdaptiveWindow has one SETTINGS on its way at a time, because net/http's server acknowledges
// several that come together only once. What became necessary meanwhile follows the acknowledgment.
func TestAdaptiveWaitsForTheAcknowledgmentOfItsSettings(t *testing.T) {
	for name, cfg := range map[string]*hyper.Config{
		"default": nil,
		"chosen":  {WindowManager: hyper.AdaptiveWindow{}.New, InitialStreamWindow: 256<<10 - 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, cfg)
				peer.Ignore(wire.Headers)
				open := func(n int) {
					for range n {
						getAsync(conn, "/")
						synctest.Wait()
					}
				}
				open(200)
				f := peer.WantFrame("a smaller window", wire.Settings)
				open(600)
				peer.WantIdle("no more before the acknowledgment")
				peer.WriteSettingsAck()
				g := peer.WantFrame("what 800 streams need", wire.Settings)
				if first, second := initialWindowOf(t, f), initialWindowOf(t, g); second >= first {
					t.Errorf("%d for 200 streams, and %d for 800", first, second)
				}
				open(200)
				peer.WantIdle("no more")
			})
		})
	}
}

// initialWindowOf returns INITIAL_WINDOW_SIZE of a SETTINGS frame.
func initialWindowOf(t *testing.T, f h2test.Frame) uint32 {
	t.Helper()
	for s := range wire.ParseSettings(f.Payload) {
		if s.ID == wire.SettingInitialWindowSize {
			return s.Value
		}
	}
	t.Fatalf("SETTINGS without INITIAL_WINDOW_SIZE: %v", f)
	return 0
}

// A negative size, a panic, and a call of the connection end the connection, where a stream is
// opened and where a push is promised.
func TestMisbehavingChoiceOfTheInitialWindowEndsTheConnection(t *testing.T) {
	for _, at := range []string{"request", "promise"} {
		for _, fault := range []string{"-7", "panic", "call"} {
			t.Run(at+" "+fault, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var conn *hyper.Conn
					wrong := at == "request"
					cfg := chooses(func(announced, _ int, _ time.Duration) int {
						switch {
						case !wrong:
							return announced
						case fault == "panic":
							panic("misbehaving")
						case fault == "call":
							conn.Close()
						}
						return -7
					})
					cfg.Push = &hyper.PushPolicy{}
					peer, c := dialPeer(t, cfg)
					conn = c
					got := getAsync(conn, "/")
					if !wrong {
						peer.WantHeaders("the parent", 1)
						wrong = true
						peer.WritePushPromise(1, 2, ":method: GET", ":scheme: http",
							":authority: a", ":path: /")
					}
					last := uint32(0)
					if at == "promise" {
						last = 2
					}
					peer.WantGoAway("our fault", last, wire.InternalError)
					peer.WantClosed("and the end")
					for _, err := range []error{conn.Err(), failureOf(got)} {
						var e *hyper.WindowManagerError
						if !errors.As(err, &e) || e.StreamID != 0 || e.Event != hyper.WindowSettings {
							t.Fatalf("got %v", err)
						}
						if e.Value != map[string]int{"-7": -7}[fault] || (e.Panic != nil) != (fault != "-7") {
							t.Errorf("got %+v", e)
						}
					}
				})
			})
		}
	}
}

// The manager is told how many pushes are promised and not claimed.
func TestChoiceOfTheInitialWindowCountsUnclaimedPushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []int
		cfg := chooses(func(announced, pushes int, _ time.Duration) int {
			asked = append(asked, pushes)
			return announced
		})
		cfg.Push = &hyper.PushPolicy{}
		peer, conn := dialPeer(t, cfg)
		getAsync(conn, "/")
		peer.WantHeaders("the parent", 1)
		authority := ":authority: " + conn.RemoteAddr().String()
		for id := uint32(2); id <= 6; id += 2 {
			peer.WritePushPromise(1, id, ":method: GET", ":scheme: http", authority, ":path: /")
		}
		synctest.Wait()
		getAsync(conn, "/")
		peer.WantHeaders("the next", 3)
		if want := []int{0, 1, 2, 3, 3}; !slices.Equal(asked, want) {
			t.Errorf("pushes %v, want %v", asked, want)
		}
	})
}

// A Tick before the write serves all requests that are written together, and what the manager
// grants at that time is in the same write.
func TestTickBeforeAWriteServesAllRequestsOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log []string
		var opened []*hyper.Window
		factory := func(w *hyper.Window) hyper.WindowManager {
			if w.StreamID() != 0 {
				opened = append(opened, w)
				w.WakeBeforeWrite()
				return nil
			}
			return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
				if ev.Kind != hyper.WindowTick {
					return 0
				}
				log = append(log, fmt.Sprint(len(opened)))
				for _, w := range opened {
					w.GrantNow(300 / len(opened))
				}
				opened = nil
				return 7
			})
		}
		peer, conn, client := newPeer(t, &hyper.Config{WindowManager: factory})
		peer.Handshake()
		client.SetWriteBuffer(0) // the first write blocks, and the other requests are in the next
		getAsync(conn, "/")
		synctest.Wait()
		getAsync(conn, "/")
		getAsync(conn, "/")
		synctest.Wait()
		client.SetWriteBuffer(-1)
		peer.WantHeaders("the first", 1)
		peer.WantWindowUpdate("in its write", 1, 300)
		peer.WantWindowUpdate("in its write", 0, 7)
		peer.WantHeaders("the second", 3)
		peer.WantHeaders("the third", 5)
		peer.WantWindowUpdate("half", 3, 150)
		peer.WantWindowUpdate("half", 5, 150)
		peer.WantWindowUpdate("once for both", 0, 7)
		peer.WritePing(0, [8]byte{})
		peer.WantPing("a write without a Tick", wire.Ack)
		peer.WantIdle("nothing else")
		if got := strings.Join(log, " "); got != "1 2" {
			t.Errorf("ticks with %s streams", got)
		}
	})
}

// A manager of the connection that breaks a rule at a Tick before a write ends the connection.
func TestMisbehaviorBeforeAWriteEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: func(w *hyper.Window) hyper.WindowManager {
			if w.StreamID() != 0 {
				w.WakeBeforeWrite()
				return nil
			}
			return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
				if ev.Kind == hyper.WindowTick {
					return -3
				}
				return 0
			})
		}})
		got := getAsync(conn, "/")
		peer.WantGoAway("our fault, and no request", 0, wire.InternalError)
		peer.WantClosed("and the end")
		wantManagerError(t, failureOf(got), 0, hyper.WindowTick, false)
	})
}

// RateLimitedWindow counts the initial window: the rate holds from the first byte on, also where
// the initial window is larger than Burst, as with the defaults.
func TestRateLimitedHoldsItsRateFromTheFirstByte(t *testing.T) {
	const rate = 1 << 20
	for _, initial := range []int{1, 65535, 256<<10 - 1, 1 << 20} {
		t.Run(fmt.Sprint(initial), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &hyper.Config{InitialStreamWindow: initial})
				peer.Ignore(wire.WindowUpdate)
				got := doAsync(t.Context(), conn, &hyper.Request{Path: "/",
					WindowManager: hyper.RateLimitedWindow{PerSecond: rate}.New})
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: 200")
				resp := got.Want(t, "the response")
				go io.Copy(io.Discard, resp.Body)
				sent := 0
				for ms := range 4000 {
					synctest.Wait()
					for n := min(peer.Credit(1), 16384); n > 0; n = min(peer.Credit(1), 16384) {
						peer.WriteData(1, 0, make([]byte, n))
						sent += n
						synctest.Wait()
					}
					if most := max(initial, int(int64(rate)*int64(ms+1)/1000)); sent > most {
						t.Fatalf("%d bytes in %d ms, want at most %d", sent, ms+1, most)
					}
					time.Sleep(time.Millisecond)
				}
				if least := 4 * rate * 9 / 10; sent < least {
					t.Errorf("%d bytes in 4 s, want at least %d", sent, least)
				}
				resp.Body.Close()
			})
		})
	}
}
