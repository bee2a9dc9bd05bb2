package hyper

import (
	"testing"
	"testing/synctest"
	"time"
)

// A write has what the connection sends in 10 ms, and at least 16 KiB. Time is virtual in this
// test.
func TestWritePaceFollowsTheRateOfTheSocket(t *testing.T) {
	for _, test := range []struct {
		name         string
		octets       int           // of each write
		each         time.Duration // what each write takes
		more         bool
		unsent, size int
	}{
		{"1 MB/s", 32 << 10, 32 * time.Millisecond, true, minUnsent, minUnsent + outRest},
		{"4 MB/s", 40_000, 10 * time.Millisecond, true, 40_000, 40_000 + outRest},
		{"12 MB/s", 60_000, 5 * time.Millisecond, true, 128 << 10, outSize},
		{"it takes all at once", 1 << 20, 5 * time.Millisecond, true, 0, outSize},
		{"the caller is slow", 1000, 10 * time.Millisecond, false, 0, outSize},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, conn := dialPeer(t, &Config{KeepAlive: -1})
				p := newWritePace()
				for range 600 {
					began := conn.clock()
					time.Sleep(test.each)
					conn.lock()
					conn.liveness.wroteAt = began
					p.wroteLocked(conn, test.octets, test.more)
					conn.unlock()
				}
				if p.unsent != test.unsent || p.size != test.size {
					t.Errorf("unsent %d, size %d, want %d, %d", p.unsent, p.size, test.unsent, test.size)
				}
			})
		})
	}
}

// A pace grows at once and shrinks step by step. No limit is the largest.
func TestWritePaceShrinksStepByStep(t *testing.T) {
	p := newWritePace()
	for _, step := range []struct{ octets, unsent int }{
		{maxUnsent, 0}, {maxUnsent * 7 / 8, 0}, {200_000, 200_000}, {100_000, 100_000},
		{110_000, 100_000}, {200_000, 200_000}, {0, 100_000}, {0, 50_000},
		{90_000, 90_000}, {0, 45_000}, {0, 22_500}, {0, minUnsent}, {0, minUnsent}, {maxUnsent, 0},
		{5000, maxUnsent / 2},
	} {
		p.set(step.octets)
		if p.unsent != step.unsent {
			t.Fatalf("after %d: %d, want %d", step.octets, p.unsent, step.unsent)
		}
	}
}
