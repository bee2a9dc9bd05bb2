package hyper

import (
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// writeLoop yields if other requests may join its write, and only as long as that is worth the
// time. Processor time is virtual in this test.
func TestYieldsEndWhereTheyAreLong(t *testing.T) {
	const slow = 40 * time.Millisecond // two other goroutines that run for 20 ms each
	tests := []struct {
		name     string
		streams  int
		together bool
		slow     int // costly yields before the test
		took     func(i int) time.Duration
		brings   int64 // requests that each yield adds
		writes   int
		min, max int // number of yields
	}{
		{name: "one caller", streams: 1, writes: 100},
		{name: "one caller, behind many", streams: 1, together: true, writes: 100, min: 100, max: 100},
		{name: "two callers", streams: 2, writes: 100, min: 100, max: 100},
		{name: "each is long", streams: 2, took: func(int) time.Duration { return slow }, writes: 3000,
			min: 5, max: 8},
		{name: "each was long for hours", streams: 2, slow: 1000,
			took: func(int) time.Duration { return slow }, writes: 1000, min: 1, max: 3},
		{name: "one of two is long", streams: 2,
			took: func(i int) time.Duration { return slow * time.Duration(i%2) }, writes: 100, min: 100,
			max: 100},
		{name: "each is long and brings much", streams: 2, took: func(int) time.Duration { return slow },
			brings: 1000, writes: 100, min: 100, max: 100},
		{name: "they are long for a while", streams: 2,
			took: func(i int) time.Duration { return slow * time.Duration(max(0, 3-i)) }, writes: 3000,
			min: 2980, max: 2995},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, conn := dialPeer(t, &Config{KeepAlive: -1})
				for range test.streams {
					getAsync(conn, "/")
				}
				synctest.Wait()
				conn.lock()
				defer conn.unlock()
				g, yields := yieldPolicy{hadCompany: test.together, costlyYields: test.slow}, 0
				for range test.writes {
					conn.maybeYieldUnlocking(&g, func() {
						if test.took != nil {
							time.Sleep(test.took(yields))
						}
						yields++
						conn.lock()
						conn.counts.opened += test.brings
						conn.unlock()
					})
					conn.unlock()
					time.Sleep(20 * time.Millisecond)
					conn.lock()
				}
				if yields < test.min || yields > test.max {
					t.Errorf("%d yields for %d writes, want %d to %d", yields, test.writes, test.min,
						test.max)
				}
			})
		})
	}
}

// writeLoop yields for a body that is being read. If that brings nothing many times, it seldom
// does.
func TestYieldsForABodyEndWhereTheyBringNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, conn := dialPeer(t, &Config{KeepAlive: -1})
		body, late := io.Pipe()
		defer late.Close()
		doAsync(t.Context(), conn, &Request{Method: "POST", Body: body})
		synctest.Wait()
		conn.lock()
		defer conn.unlock()
		was := conn.writer.state.Swap(writerRunning) // writeLoop is not woken for what is no frame
		defer conn.writer.state.Store(was)
		var g yieldPolicy
		yields := func(writes int, brings string) (n int) {
			for range writes {
				conn.maybeYieldUnlocking(&g, func() {
					n++
					conn.lock()
					conn.writer.out = append(conn.writer.out, brings...)
					conn.unlock()
				})
				conn.writer.out = conn.writer.out[:0]
			}
			return n
		}
		if n := yields(100, "more"); n != 100 {
			t.Errorf("%d yields for 100 writes, each of which brings something", n)
		}
		if n, want := yields(1600, ""), fewBodyYields+1600/oftenBodyYields; n != want {
			t.Errorf("%d yields for 1,600 writes, none of which brings anything, want %d", n, want)
		}
		if n := yields(100+oftenBodyYields, "more"); n < 100 {
			t.Errorf("%d yields for 100 writes, each of which brings something again", n)
		}
		s := conn.streams.byID[1]
		s.sender.held = true
		if n := yields(10, "more"); n != 0 {
			t.Errorf("%d yields for a body that waits for 100 (Continue)", n)
		}
		s.sender.held = false
	})
}
