package flowsim

import (
	"math"
	"time"
)

// A Sender is a congestion control, of the server's TCP and of the client's.
type Sender string

// The senders.
const (
	// SlowStart doubles its window in each round trip in which it was used, from 10 segments (RFC
	// 5681 §3.1, RFC 6928, RFC 7661). It never leaves slow start. It is not made for losses.
	SlowStart Sender = ""
	// Open has a window that is always open.
	Open Sender = "open"
	// Cubic is RFC 9438 after slow start, with the recovery of RFC 6937. It has no HyStart, so it
	// fills the queue.
	Cubic Sender = "Cubic"
	// BBR follows the first version of BBR (draft-cardwell-iccrg-bbr-congestion-control-00): it
	// sends at the largest rate at which data was delivered, and does not slow down for losses.
	BBR Sender = "BBR"
)

// control returns a new congestion control.
func (s Sender) control(rtt time.Duration) congestion {
	switch s {
	case Open:
		return open{}
	case Cubic:
		return &cubic{slowStart: slowStart{size: firstWindow}, threshold: math.Inf(1)}
	case BBR:
		return newBBR(rtt)
	}
	return &slowStart{size: firstWindow}
}

// fine reports whether the sender reacts to single packets.
func (s Sender) fine() bool { return s == Cubic || s == BBR }

// congestion is a congestion control. All sizes are in bytes.
type congestion interface {
	window() float64                   // how much may be in flight
	pace() float64                     // bytes per second; 0: as fast as the window allows
	sent(inFlight int64)               // is called after a piece was sent
	acked(a ack)                       // is called for each acknowledgment
	lost(now time.Duration) (cut bool) // is called once for the losses of a round trip
}

// An ack is an acknowledgment of a piece.
type ack struct {
	now, rtt  time.Duration
	bytes     int64   // of the piece
	inFlight  int64   // before it arrived
	delivered int64   // by the connection, with the piece
	before    int64   // what was delivered when the piece was sent
	rate      float64 // at which data was delivered since then, bytes per second
	slack     bool    // the application was the limit when it was sent
	recovers  bool    // losses are being repaired
}

// open is the congestion control of Open.
type open struct{}

func (open) window() float64         { return math.MaxInt32 }
func (open) pace() float64           { return 0 }
func (open) sent(int64)              {}
func (open) acked(ack)               {}
func (open) lost(time.Duration) bool { return false }

// slowStart is the congestion control of SlowStart.
type slowStart struct {
	size float64
	// The most bytes in flight in this round trip and in the one before.
	used, usedBefore int64
	roundEnds        int64 // the round trip ends when so many bytes are delivered
}

func (s *slowStart) window() float64         { return s.size }
func (s *slowStart) pace() float64           { return 0 }
func (s *slowStart) sent(inFlight int64)     { s.used = max(s.used, inFlight) }
func (s *slowStart) lost(time.Duration) bool { return false }

func (s *slowStart) acked(a ack) {
	if s.size < 2*float64(max(s.used, s.usedBefore)) {
		s.size += float64(a.bytes)
	}
	s.round(a)
}

// round notes the end of a round trip.
func (s *slowStart) round(a ack) {
	if a.delivered >= s.roundEnds {
		left := a.inFlight - a.bytes
		s.roundEnds, s.used, s.usedBefore = a.delivered+left, left, s.used
	}
}

// The constants of Cubic (RFC 9438 §4).
const (
	cubicC        = 0.4 // segments per second³
	cubicDecrease = 0.7
)

// A cubic is the congestion control of Cubic.
type cubic struct {
	slowStart
	threshold float64 // slow start ends there

	most   float64       // the window before the last loss
	origin float64       // where the cubic curve is flat
	epoch  time.Duration // when the curve began; 0: it has not
	flat   float64       // seconds from epoch to the flat part
	reno   float64       // the window that Reno would have
	last   time.Duration // when the last acknowledgment came
}

func (c *cubic) acked(a ack) {
	limited := float64(max(c.used, c.usedBefore)) >= c.size-2*segment
	idle := a.now - c.last
	c.last = a.now
	switch {
	case a.recovers:
	case c.size < c.threshold:
		c.slowStart.acked(a)
		return
	case limited:
		c.grow(a)
	case c.epoch > 0:
		c.epoch += idle // the curve waits while the application is the limit (RFC 9438 §5.8)
	}
	c.round(a)
}

// grow follows the curve.
func (c *cubic) grow(a ack) {
	if c.epoch == 0 {
		c.epoch, c.reno = a.now, c.size
		c.origin = max(c.most, c.size)
		c.flat = math.Cbrt((c.origin - c.size) / segment / cubicC)
	}
	t := (a.now - c.epoch + a.rtt).Seconds() - c.flat
	target := c.origin + cubicC*t*t*t*segment
	target = min(target, 1.5*c.size)
	n := float64(a.bytes)
	c.reno += 3 * (1 - cubicDecrease) / (1 + cubicDecrease) * segment * n / c.size
	step := 0.01 * segment
	if target > c.size {
		step = target - c.size
	}
	c.size = max(c.size+step*n/c.size, c.reno)
}

func (c *cubic) lost(time.Duration) bool {
	if c.most = max(c.size, 0); c.size < c.origin { // fast convergence (RFC 9438 §4.7)
		c.most = c.size * (1 + cubicDecrease) / 2
	}
	c.size = max(c.size*cubicDecrease, 2*segment)
	c.threshold, c.epoch, c.origin = c.size, 0, c.most
	return true
}
