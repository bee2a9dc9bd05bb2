package main

import (
	"testing"
	"time"
)

// A link of 8 Mbit/s carries a byte in a microsecond.
func TestLinkHasItsRateItsDelayAndItsQueue(t *testing.T) {
	const packet = 1000
	s := &shaper{rate: 8e6, delay: 20 * time.Millisecond, queue: 10 * packet}
	now := time.Now()
	admit := func(at time.Duration) (time.Duration, bool) {
		leaves, ok := s.admit(now.Add(at), packet)
		return leaves.Sub(now), ok
	}
	if got, ok := admit(0); !ok || got != 21*time.Millisecond {
		t.Errorf("a packet on an idle link leaves after %v, %v", got, ok)
	}
	admitted := 1
	for range 20 {
		if _, ok := admit(0); ok {
			admitted++
		}
	}
	if admitted != 11 {
		t.Errorf("%d packets of 21 at once were admitted, want one and ten in the queue", admitted)
	}
	if got, ok := admit(5 * time.Millisecond); !ok || got != 32*time.Millisecond {
		t.Errorf("a packet behind a queue leaves after %v, %v", got, ok)
	}
	if got, ok := admit(time.Second); !ok || got != time.Second+21*time.Millisecond {
		t.Errorf("a packet on a link that is idle again leaves after %v, %v", got, ok)
	}
}
