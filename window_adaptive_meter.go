package hyper

import (
	"math"
	"time"
)

// Bounds of what AdaptiveWindow measures.
const (
	unknownRTT  = 100 * time.Millisecond // assumed until there is a sample
	shortestRTT = 2 * time.Millisecond   // below it, scheduling delays dominate the measurement

	turnTrips  = 4 // round trips in a turn: what is best is remembered for one to two turns
	lowerAfter = 8 // turns before a raised round trip is lowered

	markTime = 16 * time.Microsecond // the unit of time in a mark
)

// A pathEstimate is what is known of the path: its round trip, and the window that it can use.
//
// The figures at its rules are of internal/flowsim: a speed is relative to unlimited windows, and
// a latency is the median of a small GET beside downloads.
type pathEstimate struct {
	need    int  // what the path can use: about two bandwidth-delay products
	growing bool // more data comes with each round trip

	rtt   time.Duration // what windows are computed with: the shortest round trip, or a longer one
	least time.Duration // the shortest measured, within bounds; 0: none was

	meter   meter // of all streams together
	total   int64 // bytes received on the connection
	unread  int   // bytes of them that are not read
	silence silence
	silent  bool          // nothing came for a while in the last two round trips
	loop    controlLoop   // the shortest that ended since stretch was called; zero: none did
	best    [2]int        // the most that a round trip had, in the current turn and in the one before
	turn    time.Duration // when the next turn begins
	wait    int8          // turns to pass before the round trip is lowered; below 0: it was lowered last
}

// observe updates the estimate with an event of the connection's window.
func (e *pathEstimate) observe(ev *WindowEvent) {
	if rtt := max(ev.RTT, shortestRTT); ev.RTT > 0 && (e.least == 0 || rtt < e.least) {
		e.rtt, e.least = rtt, rtt
	}
	e.total, e.unread = ev.Total, ev.Unread
	switch ev.Kind {
	case WindowData:
		e.silence.observe(ev.Now, e.rtt)
		if e.meter.at(ev.Now, e.rtt) {
			e.stretch(ev.Now)
		}
		e.meter.arrived += ev.Bytes
	case WindowConsumed:
		e.meter.at(ev.Now, e.rtt)
		e.meter.consumed += ev.Bytes
		e.learn(ev.Now)
	}
}

// learn computes what the path needs: twice the best round trip, because after a loss nothing comes
// for a round trip, and then twice as much. Two frames of 16 KiB are added, because less than that
// would often stop the sender on a slow path: without them, a download at 10 Mbit/s has 0.77 of its
// speed. One frame is added where no more comes in a round trip, because two take a quarter of a
// second at 1 Mbit/s: a GET beside a download takes 149 ms there instead of 260. What is best is
// the mean of two round trips, or a little more than the last one if data grows.
//
// The first round trip of a connection counts 20 times if four frames of it came. A sender in slow
// start sends too little in it for that to matter, and one without slow start is faster: 0.61
// instead of 0.48 of the speed for the first 64 MiB at 300 ms and 1 Gbit/s.
func (e *pathEstimate) learn(now time.Duration) {
	last, before := e.meter.through()
	if now >= e.turn {
		e.relax()
		e.turn = now + turnTrips*e.rtt
		e.best[0], e.best[1] = 0, e.best[0]
	}
	e.silent = now-e.silence.ended <= 2*e.rtt
	e.need, e.growing = windowNeed(last, before, e.silent)
	mean := (last + before) / 2
	if e.growing {
		mean = last / 4 * 5
	}
	e.best[0] = max(e.best[0], mean)
	if before == 0 && e.best[1] == 0 && last >= 4*smallestStep {
		e.need = 20 * last
	}
	best := max(e.best[0], e.best[1])
	e.need = max(e.need, 2*best+min(2*smallestStep, max(best, smallestStep)))
}

// windowNeed returns the window that a flow can use of which so much came in the last two round
// trips. A growing flow may double in the next one, and that is seen one round trip later, so it
// gets three times what came last. It gets five times as much if the link is silent in between: a
// sender that does not begin slowly needs it, and no queue grows. Without silence, two frames more
// than before come by chance: at 10 Mbit/s and 40 ms, three frames come in one round trip and two
// in the next. Another flow gets twice the mean.
func windowNeed(last, before int, silent bool) (need int, growing bool) {
	switch {
	case 4*last <= 5*before || !silent && last <= before+2*smallestStep:
		return last + before, false
	case silent:
		return 5 * last, true
	}
	return 3 * last, true
}

// stretch replaces the round trip by a control loop that is clearly longer if data comes slower
// than 3/4 of what it did: the path is longer, or others have filled a queue. A queue of our own
// makes the loop longer, but it does not make data come slower. If the round trip grows from 20 to
// 200 ms, the speed is 0.93 instead of 0.45.
//
// It is called when a quarter of a round trip ends: a loop may end with the first frame of many
// that arrive together, and then the others are counted, too.
func (e *pathEstimate) stretch(now time.Duration) {
	l := e.loop
	e.loop = controlLoop{}
	rate := float64(e.total-l.total+smallestStep) / float64(now-l.began)
	if l.length > e.rtt/2*3 && rate < float64(e.best[1])/float64(e.rtt)*3/4 {
		e.setRTT(l.length, lowerAfter)
	}
}

// relax is called at the end of a turn. It lowers the round trip by a quarter, down to the shortest
// one, unless that has just made data slower: the longer path or the queue may be gone.
func (e *pathEstimate) relax() {
	switch {
	case e.wait < 0 && e.best[0] < e.best[1]/20*19:
		e.setRTT(e.rtt/3*4, lowerAfter)
	case e.wait > 0:
		e.wait--
	case e.rtt > e.least && e.least > 0:
		e.setRTT(max(e.least, e.rtt/4*3), -1)
	}
}

// setRTT changes the round trip that windows are computed with. The windows become as large as the
// best rate needs.
func (e *pathEstimate) setRTT(rtt time.Duration, wait int8) {
	for i := range e.best {
		e.best[i] = int(float64(e.best[i]) * float64(rtt) / float64(e.rtt))
	}
	e.rtt, e.wait = rtt, wait
}

// A silence is the last time in which nothing came for a quarter of a round trip and for longer
// than it usually takes from one DATA frame to the next.
type silence struct {
	heard time.Duration // when the last DATA arrived
	gap   time.Duration // the mean time between DATA frames
	ended time.Duration // when the last silence ended
}

// observe is called when DATA arrives.
func (s *silence) observe(now, rtt time.Duration) {
	gap := now - s.heard
	if gap > rtt/4 && gap > 4*s.gap {
		s.ended = now
	}
	s.gap += (gap - s.gap) / 8
	s.heard = now
}

// A controlLoop is the time from a WINDOW_UPDATE to the first DATA that it allowed.
type controlLoop struct {
	length time.Duration
	began  time.Duration
	total  int64 // bytes received on the connection when it began
}

// A quarter is what arrived and was consumed in a quarter of a round trip, in bytes.
type quarter struct{ arrived, consumed int }

// A meter measures what goes through a window in a round trip. It counts in quarters of a round
// trip.
type meter struct {
	quarter                     // the current one
	ends          time.Duration // when it ends
	past          [8]quarter    // the two round trips before it, the latest quarter first
	empty         int           // quarters before it in which nothing arrived
	three, before quarter       // what the latest three of past had together, and the last four
}

// A streamMeter is a meter that also knows where the windows of its stream ended.
type streamMeter struct {
	meter
	marks [16]mark // the ends of windows as announced that DATA has not passed, the oldest first
	made  int      // their number
}

// A mark is the end of a window in bytes of the stream, the time when it was announced in units of
// markTime, and what had come on the connection by then. All are modulo 2^32.
type mark struct{ limit, at, total uint32 }

// announce records the end of a window, if there is room. total is what has come on the connection.
func (m *streamMeter) announce(limit int64, now time.Duration, total int64) {
	if m.made < len(m.marks) {
		m.marks[m.made] = mark{uint32(limit), uint32(now / markTime), uint32(total)}
		m.made++
	}
}

// loop drops the marks that DATA has passed, and returns the control loop that it ends, if any. If
// DATA begins where a window ended, the sender had to stop there until the next WINDOW_UPDATE came.
func (m *streamMeter) loop(ev *WindowEvent, total int64) (l controlLoop) {
	for m.made > 0 && int32(uint32(ev.Total)-m.marks[0].limit) > 0 {
		stopped := uint32(ev.Total)-uint32(ev.Bytes) == m.marks[0].limit
		m.made = copy(m.marks[:], m.marks[1:m.made])
		if next := m.marks[0]; stopped && m.made > 0 {
			length := time.Duration(uint32(ev.Now/markTime)-next.at) * markTime
			l = controlLoop{length, ev.Now - length, total - int64(uint32(total)-next.total)}
		}
	}
	return l
}

// at moves the meter to the time now, and reports whether a quarter has ended.
func (m *meter) at(now, rtt time.Duration) (ended bool) {
	if ended = now >= m.ends; ended {
		m.advance(now, rtt/4)
	}
	return ended
}

// advance ends the quarters that are over at the time now; length is that of a quarter. What came
// in the first quarter after a silence is shared among the quarters of the silence. When a hole in
// TCP's data is filled, all that came meanwhile arrives at once, and that is not the path's rate.
func (m *meter) advance(now, length time.Duration) {
	if m.ends == 0 {
		m.ends = now + length
		return
	}
	n := 1
	if m.empty++; m.arrived > 0 {
		n, m.empty = m.empty, 0
	}
	m.shift(1)
	for i := range min(n, len(m.past)) {
		m.past[i] = quarter{m.arrived / n, m.consumed / n}
	}
	m.quarter = quarter{}
	over := int((now - m.ends) / length)
	m.ends += time.Duration(over+1) * length
	m.shift(over)
	m.empty = min(m.empty+over, math.MaxInt16)
	m.three, m.before = sum(m.past[:3]), sum(m.past[4:])
}

// shift makes room for n quarters.
func (m *meter) shift(n int) {
	n = min(n, len(m.past))
	copy(m.past[n:], m.past[:])
	clear(m.past[:n])
}

// sum adds up quarters.
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
	arrived, consumed := m.arrived, m.consumed
	if n := m.empty + 1; n > 4 {
		arrived, consumed = arrived*4/n, consumed*4/n
	}
	arrived = m.three.arrived + max(arrived, m.past[3].arrived)
	consumed = m.three.consumed + max(consumed, m.past[3].consumed)
	return min(arrived, consumed), min(m.before.arrived, m.before.consumed)
}
