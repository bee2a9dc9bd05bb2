package flowsim

import "time"

// The constants of BBR.
const (
	bbrHigh       = 2.885 // 2/ln(2): the rate doubles in each round trip
	bbrRounds     = 10    // a rate counts for so many round trips
	bbrMinTime    = 10 * time.Second
	bbrProbeTime  = 200 * time.Millisecond
	bbrProbe      = 4 * segment
	bbrCycleGain  = 1.25
	bbrCycleDrain = 0.75
	bbrCycle      = 8
)

// A bbrMode is a state of BBR.
type bbrMode uint8

const (
	bbrStartup bbrMode = iota
	bbrDrain
	bbrProbeBandwidth
	bbrProbeTrip
)

// A bbr is the congestion control of BBR.
type bbr struct {
	mode bbrMode
	size float64

	rates     [bbrRounds]float64 // the largest rate of each of the last round trips
	round     int
	roundEnds int64 // the round trip ends when something is acknowledged that was sent after so many bytes
	begins    bool  // a round trip has begun with this acknowledgment

	trip   time.Duration // the shortest round trip
	tripAt time.Duration // when it was measured

	full  float64 // the rate that the next round trips have to exceed
	flat  int     // round trips in which the rate has not grown
	phase int     // of the cycle in bbrProbeBandwidth
	since time.Duration
	prior float64 // the window before bbrProbeTrip
	bad   bool    // something was lost in this phase
}

// newBBR returns a bbr that has measured a round trip, but no rate.
func newBBR(rtt time.Duration) *bbr {
	b := &bbr{size: firstWindow, trip: max(rtt, time.Millisecond/10)}
	b.rates[0] = firstWindow / b.trip.Seconds()
	return b
}

// rate returns the largest rate of the last round trips.
func (b *bbr) rate() (most float64) {
	for _, r := range b.rates {
		most = max(most, r)
	}
	return most
}

// product returns the bandwidth-delay product.
func (b *bbr) product() float64 { return b.rate() * b.trip.Seconds() }

func (b *bbr) window() float64 {
	if b.mode == bbrProbeTrip {
		return bbrProbe
	}
	return b.size
}

func (b *bbr) pace() float64 {
	gain := 1.0
	switch b.mode {
	case bbrStartup:
		gain = bbrHigh
	case bbrDrain:
		gain = 1 / bbrHigh
	case bbrProbeBandwidth:
		switch b.phase {
		case 0:
			gain = bbrCycleGain
		case 1:
			gain = bbrCycleDrain
		}
	}
	return gain * b.rate()
}

func (b *bbr) sent(int64) {}

func (b *bbr) lost(time.Duration) bool {
	b.bad = true
	return false
}

func (b *bbr) acked(a ack) {
	b.measure(a)
	left := float64(a.inFlight - a.bytes)
	switch b.mode {
	case bbrStartup:
		b.startup(a)
	case bbrDrain:
		if left <= b.product() {
			b.cycle(a.now, 2)
		}
	case bbrProbeBandwidth:
		b.advance(a.now, left)
	}
	b.probeTrip(a)
	b.resize(a)
}

// measure updates the rate and the shortest round trip.
func (b *bbr) measure(a ack) {
	if b.begins = a.before >= b.roundEnds; b.begins {
		b.roundEnds = a.delivered
		b.round++
		// A round trip in which the application was the limit does not replace an older rate.
		if !a.slack {
			b.rates[b.round%bbrRounds] = 0
		}
	}
	if !a.slack || a.rate > b.rate() {
		b.rates[b.round%bbrRounds] = max(b.rates[b.round%bbrRounds], a.rate)
	}
}

// startup ends when the rate has not grown by a quarter in three round trips.
func (b *bbr) startup(a ack) {
	if !b.begins || a.slack {
		return
	}
	if b.rate() >= 1.25*b.full {
		b.full, b.flat = b.rate(), 0
		return
	}
	if b.flat++; b.flat >= 3 {
		b.mode = bbrDrain
	}
}

// cycle begins a phase of bbrProbeBandwidth.
func (b *bbr) cycle(now time.Duration, phase int) {
	b.mode, b.phase, b.since, b.bad = bbrProbeBandwidth, phase%bbrCycle, now, false
}

// advance begins the next phase when the current one is over.
func (b *bbr) advance(now time.Duration, inFlight float64) {
	over := now-b.since > b.trip
	switch b.phase {
	case 0:
		over = over && (b.bad || inFlight >= bbrCycleGain*b.product())
	case 1:
		over = over || inFlight <= b.product()
	}
	if over {
		b.cycle(now, b.phase+1)
	}
}

// probeTrip keeps the shortest round trip. If none was as short for a while, it empties the queue.
func (b *bbr) probeTrip(a ack) {
	old := a.now-b.tripAt > bbrMinTime
	if a.rtt <= b.trip || old {
		b.trip, b.tripAt = a.rtt, a.now
	}
	switch {
	case b.mode == bbrProbeTrip:
		if a.now-b.since < bbrProbeTime+b.trip {
			return
		}
		b.size = max(b.size, b.prior)
		if b.full > 0 && b.flat >= 3 {
			b.cycle(a.now, 2)
		} else {
			b.mode = bbrStartup
		}
	case old:
		b.mode, b.since, b.prior = bbrProbeTrip, a.now, b.size
	}
}

// resize sets the window.
func (b *bbr) resize(a ack) {
	gain := 2.0
	if b.mode == bbrStartup || b.mode == bbrDrain {
		gain = bbrHigh
	}
	target := gain*b.product() + 3*largePieceOf(b.pace())
	if b.mode != bbrStartup {
		b.size = min(b.size+float64(a.bytes), target)
	} else if b.size < target {
		b.size += float64(a.bytes)
	}
	b.size = max(b.size, bbrProbe)
}

// largePieceOf returns what is sent at once at a pace.
func largePieceOf(pace float64) float64 { return max(segment, min(pace/1000, largePiece)) }
