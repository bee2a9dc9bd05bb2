package hyper

import (
	"math"
	"time"
)

// Bounds of what AdaptiveWindow measures.
const (
	unknownRTT  = 100 * time.Millisecond // assumed until there is a sample
	shortestRTT = 2 * time.Millisecond   // below it, scheduling delays dominate the measurement
	mostProbes  = 2                      // on one connection, because servers count PINGs
	probeAgain  = 30 * time.Second       // the first probe may have been delayed in a queue
)

// A roundTrip is what an adaptivePath knows of its round-trip time.
type roundTrip struct {
	rtt    time.Duration // the shortest measured, within bounds
	known  bool          // rtt was measured
	probes uint8         // the number of probes sent
	loops  int32         // round trips measured from DATA since rtt was last checked
	loop   time.Duration // the shortest of them
	probed time.Duration // when the last probe was sent

	// These fields find out whether the round trip has become longer. If a sender had to stop at
	// the end of a window, the time from our WINDOW_UPDATE to the next DATA is a round trip.
	heard     time.Duration // when the last DATA arrived
	gap       time.Duration // the mean time between DATA frames
	quietFrom time.Duration // when the last silence began that was longer than such a gap should be
}

// observe takes a sample if the event has one, and notes when DATA arrives.
func (t *roundTrip) observe(ev *WindowEvent) {
	if !t.known && ev.RTT > 0 {
		t.known, t.rtt = true, max(ev.RTT, shortestRTT)
	}
	switch ev.Kind {
	case WindowData:
		t.noteGap(ev.Now)
	case WindowRTT:
		t.rtt = min(t.rtt, max(ev.RTT, shortestRTT))
	}
}

// probe sends a PING for a sample when the round trip begins to matter.
func (t *roundTrip) probe(w *Window, now time.Duration) {
	if t.probes == 0 || t.probes < mostProbes && now-t.probed >= probeAgain {
		if w.ProbeRTT() {
			t.probes++
			t.probed = now
		}
	}
}

// noteGap is called when DATA arrives. It notes whether there was a silence before.
func (t *roundTrip) noteGap(now time.Duration) {
	gap := now - t.heard
	if gap > t.rtt/4 && gap > 4*t.gap {
		t.quietFrom = t.heard
	}
	t.gap += (gap - t.gap) / 8
	t.heard = now
}

// measure takes a round trip that one of the streams measured from its own DATA. Once there are two
// for each stream, the shortest of them replaces rtt if it is clearly longer: then the path has
// changed.
func (t *roundTrip) measure(loop time.Duration, streams int) {
	if t.loops == 0 || loop < t.loop {
		t.loop = loop
	}
	if t.loops++; int(t.loops) < 2*streams {
		return
	}
	if t.loops = 0; t.loop > t.rtt/2*3 {
		t.rtt = t.loop
	}
}

// A meter measures what goes through a window in a round trip. It counts in quarters of a round
// trip.
type meter struct {
	arrived, consumed int           // in the current quarter
	ends              time.Duration // the end of the current quarter
	past              [8]quarter    // the two round trips before it, the latest quarter first
	filled            uint8         // how many of past are in use

	// Sums over past: of the last three quarters, of the last four, and of the four before.
	three, four, before quarter
}

// A quarter is what arrived and was consumed in a quarter of a round trip.
type quarter struct{ arrived, consumed uint32 }

// A streamMeter is a meter that also knows where the windows of its stream ended.
type streamMeter struct {
	meter

	// blockedAt is when DATA came that ends where a window ended. It is 0 once more DATA came.
	blockedAt     time.Duration
	marks         [16]mark // the ends of windows as announced; a ring
	made, reached uint8    // how many marks were made, and how many of them DATA has passed
}

// A mark is the end of a window in bytes of the stream, and the time when it was announced in units
// of markTime. Both are modulo 2^32.
type mark struct{ limit, at uint32 }

// markTime is the unit of time in a mark.
const markTime = 16 * time.Microsecond

// announce records the end of a window.
func (m *streamMeter) announce(limit int64, now time.Duration) {
	if int(m.made-m.reached) == len(m.marks) {
		m.reached++ // forget the oldest
	}
	m.marks[int(m.made)%len(m.marks)] = mark{uint32(limit), uint32(now / markTime)}
	m.made++
}

// reach passes the marks that DATA up to total has reached, and reports whether the DATA ends at
// one of them.
func (m *streamMeter) reach(total int64) bool {
	for m.reached != m.made {
		beyond := int32(uint32(total) - m.marks[int(m.reached)%len(m.marks)].limit)
		if beyond < 0 {
			return false
		}
		m.reached++
		if beyond == 0 {
			return true
		}
	}
	return false
}

// answered returns how long ago the first window was announced whose end DATA has not passed.
func (m *streamMeter) answered(now time.Duration) (ago time.Duration, ok bool) {
	if m.reached == m.made {
		return 0, false
	}
	return time.Duration(uint32(now/markTime)-m.marks[int(m.reached)%len(m.marks)].at) * markTime, true
}

// at moves the meter to the time now. After a pause of four round trips it starts again from zero.
func (m *meter) at(now, rtt time.Duration) {
	if now >= m.ends {
		m.advance(now, rtt/4)
	}
}

// advance ends the quarters that are over at the time now; length is that of a quarter.
func (m *meter) advance(now, length time.Duration) {
	if m.ends == 0 || now-m.ends > 16*length {
		m.past, m.filled = [8]quarter{}, 0
		m.arrived, m.consumed, m.three, m.four, m.before = 0, 0, quarter{}, quarter{}, quarter{}
		m.ends = now + length
		return
	}
	for now >= m.ends {
		copy(m.past[1:], m.past[:])
		m.past[0] = quarter{clamp32(m.arrived), clamp32(m.consumed)}
		m.arrived, m.consumed = 0, 0
		m.filled = min(m.filled+1, uint8(len(m.past)))
		m.ends += length
	}
	m.three = sum(m.past[:3])
	m.four = sum(m.past[:4])
	m.before = sum(m.past[4:])
}

// clamp32 limits n so that a sum of eight fits a uint32.
func clamp32(n int) uint32 { return uint32(min(n, math.MaxUint32/8)) }

// sum adds the quarters of list.
func sum(list []quarter) (s quarter) {
	for _, q := range list {
		s.arrived += q.arrived
		s.consumed += q.consumed
	}
	return s
}

// through returns what arrived and was consumed, whichever is less, in the last round trip and in
// the one before. If the last three quarters and the current one have more than the last round
// trip, they count instead.
func (m *meter) through() (last, before int) {
	arrived := max(int(m.four.arrived), int(m.three.arrived)+m.arrived)
	consumed := max(int(m.four.consumed), int(m.three.consumed)+m.consumed)
	return min(arrived, consumed), int(min(m.before.arrived, m.before.consumed))
}

// need returns the window that such a flow can use. A growing flow may double in the next round
// trip, and that is seen one round trip later, so it gets three times what came last. Another flow
// gets twice the mean: after a loss nothing comes for a round trip, and then twice as much.
func (m *meter) need(last, before int) (need int, growing bool) {
	if 4*last > 5*before && (4*before >= last || m.filled < uint8(len(m.past))) {
		return 3 * last, true
	}
	return last + before, false
}
