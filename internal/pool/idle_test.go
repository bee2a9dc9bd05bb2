package pool

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// An idler is idle from the given second on. 0 means that it has a stream.
type idler int64

func (i idler) IdleFrom() (time.Time, bool) { return time.Unix(int64(i), 0), i > 0 }

func TestIdlest(t *testing.T) {
	conns := []idler{3, 0, 1, 2, 0}
	for number, want := range map[int][]idler{-1: nil, 0: nil, 1: {1}, 2: {1, 2}, 4: {1, 2, 3}} {
		got := Idlest(conns, func(idle int) int {
			if idle != 3 {
				t.Errorf("%d are idle, want 3", idle)
			}
			return number
		})
		if !slices.Equal(got, want) {
			t.Errorf("the idlest %d of %v are %v, want %v", number, conns, got, want)
		}
	}
}

// The first call is made at once. All calls within the time are one call after it.
func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Throttle
		var calls atomic.Int64
		call := func(reason string, want int64) {
			t.Helper()
			l.Call(time.Second, func() { calls.Add(1) })
			if n := calls.Load(); n != want {
				t.Errorf("%s: %d calls, want %d", reason, n, want)
			}
		}
		call("the first", 1)
		call("within the time", 1)
		call("still within the time", 1)
		time.Sleep(time.Second)
		if synctest.Wait(); calls.Load() != 2 {
			t.Errorf("after the time: %d calls, want 2", calls.Load())
		}
		call("within the time of the second", 2)
		time.Sleep(3 * time.Second) // the third call, and nothing after it
		call("the time is over", 4)
		time.Sleep(time.Second)
	})
}
