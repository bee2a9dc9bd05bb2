package flowsim

import (
	"math/rand/v2"
	"time"
)

// A bottleneck sends packets at a rate, in the order in which they come. Connections share it.
type bottleneck struct {
	clock *clock
	rate  float64       // bytes per second
	queue time.Duration // what would wait longer is dropped; 0: nothing is
	free  time.Duration // when all that waits is sent
	// Not nil if connections share the bottleneck: its queue is up to dicePackets shorter for each
	// packet that comes. Otherwise a packet of one connection may take each free place at the
	// moment when it becomes free, and those of another may never find one.
	dice *rand.Rand

	waited, passed time.Duration // sums, over the time that it was busy: see meanWait
	dropped        int64         // bytes
}

// dicePackets is how much shorter a queue may be that connections share.
const dicePackets = 4

// pass adds n bytes of one connection to the queue, as far as it has room for their packets. It
// returns how many bytes were taken, and when the last of them leaves.
func (b *bottleneck) pass(n int64) (taken int64, leaves time.Duration) {
	start := max(b.clock.now, b.free)
	packets := (n + segment - 1) / segment
	if b.queue > 0 {
		room := (b.clock.now + b.queue - start).Seconds() * b.rate
		if b.dice != nil {
			room -= b.dice.Float64() * dicePackets * packet
		}
		packets = min(packets, int64(room)/packet)
	}
	taken = min(n, max(packets, 0)*segment)
	b.dropped += n - taken
	if taken > 0 {
		took := seconds(float64(taken+packets*(packet-segment)) / b.rate)
		b.free = start + took
		b.waited += seconds((start - b.clock.now).Seconds() * took.Seconds())
		b.passed += took
	}
	return taken, b.free
}

// meanWait returns how long a byte waited on the mean, and starts again.
func (b *bottleneck) meanWait() (wait time.Duration) {
	if b.passed > 0 {
		wait = seconds(b.waited.Seconds() / b.passed.Seconds())
	}
	b.waited, b.passed = 0, 0
	return wait
}

// A path is what a connection's packets pass after the bottleneck.
type path struct {
	rtt    func() time.Duration
	hole   func(time.Duration) time.Duration // see Scenario.HoleEvery; nil: no holes
	jitter float64                           // the round trip varies by so much of it, up and down
	loss   float64                           // probability that a packet is lost
	dice   *rand.Rand

	part  int64         // the time is divided into parts of jitterTime; this is the last one
	extra time.Duration // the delay that jitter adds in it
}

// jitterTime is how long a delay lasts on a path with jitter.
const jitterTime = 10 * time.Millisecond

// arrival returns when something arrives that leaves the bottleneck at at.
func (p *path) arrival(at time.Duration) time.Duration {
	arrives := at + p.rtt()/2
	if p.jitter > 0 {
		if part := int64(at / jitterTime); part != p.part {
			p.part = part
			p.extra = seconds(p.jitter * p.rtt().Seconds() * (2*p.dice.Float64() - 1))
		}
		arrives = max(at, arrives+p.extra)
	}
	if p.hole != nil {
		arrives = p.hole(arrives)
	}
	return arrives
}

// drops reports whether the next packet is lost.
func (p *path) drops() bool { return p.loss > 0 && p.dice.Float64() < p.loss }
