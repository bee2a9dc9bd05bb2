package pool

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestBoundWithoutALimitGrantsEverything(t *testing.T) {
	var b Bound[string]
	s := &Share[string]{Host: "a"}
	for range 3 {
		if b.Take(s, 0) != Granted || !b.TryTake(0) {
			t.Fatal("a connection was refused")
		}
	}
	if b.GiveBack(0) != nil || b.InLine(s) {
		t.Fatal("a host is in line")
	}
}

// Hosts get connections in the order in which they asked. A host in line comes before all that only
// try.
func TestBoundServesHostsInLine(t *testing.T) {
	var b Bound[string]
	x, y, z := &Share[string]{Host: "x"}, &Share[string]{Host: "y"}, &Share[string]{Host: "z"}
	want := func(s *Share[string], want Grant) {
		t.Helper()
		if got := b.Take(s, 2); got != want {
			t.Fatalf("%s got %d, want %d", s.Host, got, want)
		}
	}
	want(x, Granted)
	if !b.TryTake(2) || b.TryTake(2) {
		t.Fatal("TryTake takes what there is, and no more")
	}
	if b.Crowded.Load() {
		t.Fatal("the Bound is crowded although no host waits")
	}
	want(y, Queued)
	want(y, Waiting)
	want(z, Queued)
	want(x, Queued)
	if !b.Crowded.Load() || b.Len() != 3 || !slices.Equal(b.Line(), []string{"y", "z", "x"}) {
		t.Fatalf("%v wait", b.Line())
	}
	b.Leave(z)
	b.Leave(z)
	if b.InLine(z) || !b.InLine(x) {
		t.Fatal("a host that has left is in line")
	}
	if next := b.GiveBack(2); next != y || b.InLine(y) {
		t.Fatal("the first host in line does not get the connection")
	}
	if b.TryTake(2) {
		t.Fatal("a granted connection was taken by another host")
	}
	want(y, Granted)
	want(y, Queued)
	if next := b.GiveBack(2); next != x || b.Unused(x) != 1 || b.Unused(x) != 0 {
		t.Fatal("the next one does not get it")
	}
	if next := b.GiveBack(2); next != y { // x gives it back
		t.Fatal("what a host gives back is lost")
	}
	b.Unused(y)
	if b.GiveBack(2) != nil || b.line != nil {
		t.Fatal("the line is not empty")
	}
	want(z, Granted)
}

func TestBoundIsCrowdedWithTooManyConnections(t *testing.T) {
	var b Bound[string]
	for i, step := range []struct {
		n, idle, open int
		crowded       bool
	}{{1, 1, 1, false}, {1, 1, 2, true}, {1, -1, 3, false}, {1, 0, 4, true}, {-4, 0, 0, false}} {
		b.Count(step.n, step.idle)
		if b.Open() != step.open || b.Crowded.Load() != step.crowded {
			t.Errorf("step %d: %d open, crowded %v", i, b.Open(), b.Crowded.Load())
		}
	}
	b.Take(&Share[string]{}, 1)
	b.Take(&Share[string]{}, 1)
	if b.Count(0, -1); !b.Crowded.Load() {
		t.Error("it is not crowded although a host waits")
	}
}

func TestBoundCallsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Bound[string]
		var calls atomic.Int64
		for range 2 {
			b.CallLater(time.Second, func() { calls.Add(1) })
		}
		for want := range 3 {
			if synctest.Wait(); calls.Load() != int64(want) {
				t.Fatalf("%d calls, want %d", calls.Load(), want)
			}
			if want == 1 {
				b.CallLater(time.Second, func() { calls.Add(1) })
			}
			time.Sleep(time.Second)
		}
	})
}
