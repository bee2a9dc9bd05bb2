package hyper

import (
	"sync/atomic"
	"time"
)

// A delivery is a lock. It is not a sync.Mutex, because Config.Trace may sleep in a bubble of
// testing/synctest: the clock there stands still while a goroutine waits for a Mutex. While no
// other goroutine waits for it, it costs one atomic operation each to lock and unlock.
//
// It also has a mark that steps were left for its holder. With it, a goroutine that cannot deliver
// its steps passes them to the one that delivers, and does not wait.
type delivery struct {
	state atomic.Int32  // deliveryHeld, deliveryLeft, and deliveryWaiter for each blocked call of lock
	next  chan struct{} // has an element while the lock is passed on to a blocked call
}

// The parts of delivery.state.
const (
	deliveryHeld   = 1
	deliveryLeft   = 2
	deliveryWaiter = 4
)

func newDelivery() delivery { return delivery{next: make(chan struct{}, 1)} }

// lock waits for the lock.
func (d *delivery) lock() {
	if d.state.CompareAndSwap(0, deliveryHeld) {
		return
	}
	for {
		s := d.state.Load()
		if s&deliveryHeld == 0 {
			if d.state.CompareAndSwap(s, s|deliveryHeld) {
				return
			}
		} else if d.state.CompareAndSwap(s, s+deliveryWaiter) {
			<-d.next
			return
		}
	}
}

// unlock unlocks, or passes the lock on to a call that waits for it. The mark stays.
func (d *delivery) unlock() {
	if d.state.CompareAndSwap(deliveryHeld, 0) {
		return
	}
	for {
		s := d.state.Load()
		if s < deliveryWaiter {
			if d.state.CompareAndSwap(s, s&^deliveryHeld) {
				return
			}
		} else if d.state.CompareAndSwap(s, s-deliveryWaiter) {
			d.next <- struct{}{}
			return
		}
	}
}

// tryLock takes the lock if it is free and there is no mark, and reports whether it did.
func (d *delivery) tryLock() bool { return d.state.CompareAndSwap(0, deliveryHeld) }

// isFreeMarked reports whether the lock is free and there is a mark.
func (d *delivery) isFreeMarked() bool { return d.state.Load() == deliveryLeft }

// tryLockMarked takes the lock if it is free and there is a mark, and reports whether it did.
func (d *delivery) tryLockMarked() bool {
	return d.state.CompareAndSwap(deliveryLeft, deliveryLeft|deliveryHeld)
}

// markOrLock sets the mark. If the lock is free, it also takes it, and returns true.
func (d *delivery) markOrLock() (locked bool) {
	for {
		s := d.state.Load()
		if d.state.CompareAndSwap(s, s|deliveryLeft|deliveryHeld) {
			return s&deliveryHeld == 0
		}
	}
}

// marked reports whether there is a mark. The caller holds the lock.
func (d *delivery) marked() bool { return d.state.Load()&deliveryLeft != 0 }

// unmark removes the mark. The caller holds the lock.
func (d *delivery) unmark() { d.state.And(^deliveryLeft) }

// isWanted reports whether there is a mark, or a call that waits. The caller holds the lock.
func (d *delivery) isWanted() bool { return d.state.Load() != deliveryHeld }

// A traceStep is an event that is no frame, while it is queued.
type traceStep struct {
	kind       TraceKind
	sent       bool
	streamID   uint32
	at         time.Duration
	n          int64 // Increment, Length, or Wait
	window     int64
	connWindow int64
	err        error
}

// isPlain reports whether setRest has nothing to set.
func (s *traceStep) isPlain() bool {
	return s.n == 0 && s.err == nil && s.kind != TraceConnOpened && s.kind != TraceConnClosed
}

// setRest sets the fields of e that few steps have, except for Host.
func (s *traceStep) setRest(e *TraceEvent) {
	e.Err = s.err
	switch s.kind {
	case TraceWindow:
		e.Increment, e.Window, e.ConnWindow = int(s.n), s.window, s.connWindow
	case TraceBodyRead:
		e.Length = int(s.n)
	case TraceStreamOpened:
		e.Wait = time.Duration(s.n)
	}
}

// maxQueuedEvents is how many events may wait for Config.Trace, and keptSteps is the length of the
// largest list that is kept as memory.
const (
	maxQueuedEvents = 10_000
	keptSteps       = 64
)

// A stepQueue holds steps in their order. The zero value is empty.
type stepQueue struct {
	steps  []traceStep
	errors bool // a step may have an error
	lost   int  // steps dropped after these, because the queue was full
}

// add adds a step and returns it. All of its other fields are zero. The last step of a connection
// is never dropped.
func (q *stepQueue) add(kind TraceKind) *traceStep {
	n := len(q.steps)
	if n == cap(q.steps) {
		if n >= maxQueuedEvents && kind != TraceConnClosed {
			q.lost++
			return &traceStep{} // it is dropped
		}
		q.grow()
	}
	q.steps = q.steps[:n+1]
	// The slot is changed where it is. To copy a new traceStep is slower: the processor has to
	// write that before it can read it.
	s := &q.steps[n]
	*s = traceStep{kind: kind}
	return s
}

// grow makes room for more steps: at least for one, and for maxQueuedEvents at most otherwise.
func (q *stepQueue) grow() {
	n := len(q.steps)
	steps := make([]traceStep, n, max(n+1, min(max(8, 2*n), maxQueuedEvents)))
	copy(steps, q.steps)
	q.steps = steps
}

// addAll adds the steps of other, which is empty afterwards.
func (q *stepQueue) addAll(other *stepQueue) {
	for _, s := range other.steps {
		*q.add(s.kind) = s
	}
	q.errors = q.errors || other.errors
	q.lost += other.lost
	other.reset()
}

// reset makes q empty.
func (q *stepQueue) reset() {
	if q.errors {
		clear(q.steps)
	}
	if q.steps, q.errors, q.lost = q.steps[:0], false, 0; cap(q.steps) > keptSteps {
		q.steps = nil
	}
}

// A deliveryTime is when what is queued must be delivered, after the connection's lock is
// unlocked.
type deliveryTime uint8

// The values of deliveryTime. The one that the goroutine sets that reads the connection is reset
// when the lock is unlocked.
const (
	deliverSoon      deliveryTime = iota // at once, or before the next write if that is about to begin
	deliverNow                           // at once, because received frames may follow
	deliverWithFrame                     // with the next received frame, which was read already
)

// idleLocked is called when the connection's lock is about to be unlocked. It reports whether
// claimLocked has nothing to do.
func (t *connTracer) idleLocked() bool {
	t.now = 0
	if len(t.queue.steps) > 0 {
		return false
	}
	t.when = deliverSoon
	return true
}

// claimLocked is called when the connection's lock is about to be unlocked. If something is queued
// and no other goroutine delivers or will, claimLocked returns true, and the caller must call
// deliverAndUnlock after the connection's lock was unlocked. If another one delivers, it gets what
// is queued.
func (t *connTracer) claimLocked() (claimed bool) {
	when := t.when
	t.now, t.when = 0, deliverSoon
	switch {
	case len(t.queue.steps) == 0 || when == deliverSoon && t.c.writesSoonLocked():
		return false
	case t.delivery.tryLock():
		t.claimed, t.queue = t.queue, t.claimed
	case !t.leaveLocked():
		return false
	}
	if when == deliverWithFrame {
		t.held = true // only readLoop gets here
		return false
	}
	return true
}

// leaveLocked leaves what is queued for the goroutine that delivers. If there is none any more, it
// takes delivery, and returns true.
func (t *connTracer) leaveLocked() (claimed bool) {
	t.leftMu.Lock()
	defer t.leftMu.Unlock()
	t.left.addAll(t.queue)
	return t.delivery.markOrLock()
}

// writesSoonLocked reports whether writeLoop is about to write. Before it does, it delivers what is
// queued for the tracer.
func (c *Conn) writesSoonLocked() bool {
	return c.liveness.writeSince == 0 && c.ending.err == nil &&
		c.writer.state.Load() == writerRunning && c.hasWorkLocked()
}

// readLocked is called after a read of the socket.
func (t *connTracer) readLocked() {
	t.readAt = t.c.liveness.now
	t.readTime = t.c.start.Add(t.readAt)
	t.when = deliverNow
}

// framesDoneLocked is called after received frames were processed. nextIsRead is whether the next
// frame was read, and no user code runs before its report.
func (t *connTracer) framesDoneLocked(nextIsRead bool) {
	if t.when = deliverNow; nextIsRead {
		t.when = deliverWithFrame
	}
}

// deliverHeld delivers what was held for the next received frame, if that frame was not reported.
func (t *connTracer) deliverHeld() {
	if t.held {
		t.held = false
		t.deliverAndUnlock()
	}
}

// deliverAndUnlock delivers what claimLocked has claimed, and what was left meanwhile.
func (t *connTracer) deliverAndUnlock() {
	t.deliverClaimedAndUnlock()
	if t.delivery.isFreeMarked() {
		t.deliverLeft()
	}
}

func (t *connTracer) deliverClaimedAndUnlock() {
	defer t.unlockDelivery()
	t.deliverClaimed()
	if t.delivery.marked() {
		t.takeLeft()
	}
}

// deliverLeft delivers the steps that were left for a goroutine that has unlocked delivery since.
func (t *connTracer) deliverLeft() {
	for t.delivery.tryLockMarked() {
		t.deliverClaimedAndUnlock()
	}
}

// unlockDelivery unlocks delivery, also after a panic of sink.
func (t *connTracer) unlockDelivery() {
	if len(t.claimed.steps) > 0 {
		t.claimed.reset()
	}
	t.delivery.unlock()
}

// takeLeft delivers the steps that were left. The caller holds delivery.
func (t *connTracer) takeLeft() {
	for t.delivery.marked() {
		t.leftMu.Lock()
		*t.claimed, t.left = t.left, *t.claimed
		t.delivery.unmark()
		t.leftMu.Unlock()
		t.deliverClaimed()
	}
}

// deliverClaimed calls sink for the claimed steps. The caller holds delivery.
func (t *connTracer) deliverClaimed() {
	if len(t.claimed.steps) == 0 {
		return
	}
	e := TraceEvent{ConnID: t.id, Conn: t.c}
	list := t.claimed.steps
	for i := range list {
		s := &list[i]
		if i == 0 || s.at != e.Time {
			t.stamp(&e, s.at)
		}
		e.Kind, e.Sent, e.StreamID = s.kind, s.sent, s.streamID
		if s.isPlain() {
			t.deliver(&e)
			continue
		}
		s.setRest(&e)
		switch s.kind {
		case TraceConnOpened:
			e.Host = t.c.cfg.Authority
		case TraceConnClosed: // no event follows that could count what was dropped
			t.dropped, t.claimed.lost = t.dropped+t.claimed.lost, 0
		}
		t.deliver(&e)
		e.Increment, e.Window, e.ConnWindow, e.Length, e.Wait = 0, 0, 0, 0, 0
		e.Err, e.Host = nil, ""
	}
	t.dropped += t.claimed.lost
	t.claimed.reset()
}

// deliver calls sink for e. The caller holds delivery.
func (t *connTracer) deliver(e *TraceEvent) {
	if e.Lost = t.dropped; e.Lost > 0 {
		t.dropped = 0
	}
	t.sink(*e)
}

// stamp sets the time of e, in two ways. at is the time since the connection was made. The caller
// holds delivery.
func (t *connTracer) stamp(e *TraceEvent, at time.Duration) {
	if t.stampAt != at {
		t.setStamp(at, t.c.start.Add(at))
	}
	e.Time, e.At = at, t.stampTime
}

// setStamp sets the time of the next events, in two ways. The caller holds delivery.
func (t *connTracer) setStamp(at time.Duration, wall time.Time) { t.stampAt, t.stampTime = at, wall }
