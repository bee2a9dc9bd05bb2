package bucket

import (
	"testing"
	"time"
)

func TestBucket(t *testing.T) {
	b := New(2, 10, 4)
	take := func(now time.Duration, n int, want bool, left int) {
		t.Helper()
		if got := b.Take(now, n); got != want || b.Left() != left {
			t.Errorf("Take(%v, %d) = %v with %d left, want %v and %d", now, n, got, b.Left(), want, left)
		}
	}
	take(0, 3, false, 2) // all or nothing
	take(0, 1, true, 1)
	take(0, 1, true, 0)
	take(0, 1, false, 0)
	take(249*time.Millisecond, 1, false, 0)
	take(250*time.Millisecond, 1, true, 0)
	take(1250*time.Millisecond, 2, true, 2) // 4 a second
	take(time.Minute, 11, false, 10)        // never above the bound
	take(time.Minute, 10, true, 0)
	b.Add(3)
	take(time.Minute, 3, true, 0)
	b.Add(100)
	if b.Left() != b.Most() || b.Most() != 10 {
		t.Errorf("%d left of %d", b.Left(), b.Most())
	}
	take(time.Minute, 10, true, 0)
	take(1<<62, 1, true, 9) // a long time does not overflow
}
