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
	rtt    time.Duration // what windows are computed with: the shortest one, or a longer one
	least  time.Duration // the shortest measured, within bounds; 0: none was
	probed time.Duration // when the last probe was sent
	probes uint8         // the number of probes sent

	// If DATA ends where a window ended, the sender had to stop there, and the time from our next
	// WINDOW_UPDATE to the next DATA is a round trip.
	loops  int32         // round trips measured from DATA since rtt was last checked
	loop   time.Duration // the shortest of them
	rate   float64       // at which data came during that one, in bytes per nanosecond
	silent bool          // nothing came while the senders waited

	tried float64 // rate when rtt was last raised; 0: it was not, or that has helped
	wait  int8    // so many turns pass before rtt is lowered; below 0: it was lowered last

	heard     time.Duration // when the last DATA arrived
	gap       time.Duration // the mean time between DATA frames
	quietFrom time.Duration // when the last silence began that was longer than such a gap should be
	quietTo   time.Duration // when it ended
}

// observe takes a sample if the event has one, and notes when DATA arrives.
func (t *roundTrip) observe(ev *WindowEvent) {
	if t.least == 0 && ev.RTT > 0 {
		t.least = max(ev.RTT, shortestRTT)
		t.rtt = t.least
	}
	switch ev.Kind {
	case WindowData:
		t.noteGap(ev.Now)
	case WindowRTT:
		t.rtt = min(t.rtt, max(ev.RTT, shortestRTT))
		t.least = min(t.least, t.rtt)
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
		t.quietFrom, t.quietTo = t.heard, now
	}
	t.gap += (gap - t.gap) / 8
	t.heard = now
}

// chance returns how much more may come in one round trip than in the one before by chance: two
// frames of 16 KiB if the link is never silent. At 10 Mbit/s and 40 ms, three frames come in one
// round trip and two in the next.
func (t *roundTrip) chance(now time.Duration) int {
	if now-t.quietTo <= 2*t.rtt {
		return 0
	}
	return 2 * smallestStep
}

// measure takes a round trip that one of the streams measured from its own DATA, the rate of all
// DATA in that time, and whether nothing came before. It reports whether there are enough of them
// to look at the shortest.
func (t *roundTrip) measure(loop time.Duration, rate float64, silent bool, streams int) bool {
	if t.loops == 0 || loop < t.loop {
		t.loop, t.rate = loop, rate
	}
	t.silent = silent && (t.silent || t.loops == 0)
	if t.loops++; int(t.loops) < min(2*streams, 4) {
		return false
	}
	t.loops = 0
	return true
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

	blockedAt     time.Duration // when DATA came that ends where a window ended; 0: more has come
	marks         [16]mark      // the ends of windows as announced; a ring
	made, reached uint8         // how many marks were made, and how many of them DATA has passed
}

// A mark is the end of a window in bytes of the stream, the time when it was announced in units of
// markTime, and the bytes that had come on the connection by then. All are modulo 2^32.
type mark struct{ limit, at, total uint32 }

// markTime is the unit of time in a mark.
const markTime = 16 * time.Microsecond

// announce records the end of a window.
func (m *streamMeter) announce(limit int64, now time.Duration, total int64) {
	if int(m.made-m.reached) == len(m.marks) {
		m.reached++ // forget the oldest
	}
	m.marks[int(m.made)%len(m.marks)] = mark{uint32(limit), uint32(now / markTime), uint32(total)}
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

// answered returns how long ago the first window was announced whose end DATA has not passed, and
// how many bytes came on the connection since then.
func (m *streamMeter) answered(now time.Duration, total int64) (ago time.Duration, n uint32, ok bool) {
	if m.reached == m.made {
		return 0, 0, false
	}
	first := m.marks[int(m.reached)%len(m.marks)]
	return time.Duration(uint32(now/markTime)-first.at) * markTime, uint32(total) - first.total, true
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
// trip, and that is seen one round trip later, so it gets three times what came last. It gets five
// times as much while the link is silent in between (then chance is 0): a sender that does not
// begin slowly needs it, and no queue grows. Another flow gets twice the mean: after a loss nothing
// comes for a round trip, and then twice as much.
func (m *meter) need(last, before, chance int) (need int, growing bool) {
	switch {
	case last <= before+chance || 4*last <= 5*before, 4*before < last && m.filled == uint8(len(m.past)):
		return last + before, false
	case chance == 0:
		return 5 * last, true
	}
	return 3 * last, true
}
