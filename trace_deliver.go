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

// unlockUnwanted unlocks if there is no mark and no call waits, and reports whether it did.
func (d *delivery) unlockUnwanted() bool { return d.state.CompareAndSwap(deliveryHeld, 0) }

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

// hasWaiter reports whether a call of lock is blocked. The caller holds the lock.
func (d *delivery) hasWaiter() bool { return d.state.Load() >= deliveryWaiter }

// A traceStep is an event that is no frame, while it is queued. It is small, because steps mostly
// pass from one processor to another.
type traceStep struct {
	kind     TraceKind
	sent     bool
	err      uint16 // the number of its error in stepQueue.errs, from 1; 0: none
	streamID uint32
	at       time.Duration
	n        int64 // Increment, Length, or Wait

	// Of TraceWindow. A window has at most 31 bits (RFC 9113 §6.9.1).
	window     int32
	connWindow int32
}

// isPlain reports whether setRest has nothing to set.
func (s *traceStep) isPlain() bool { return s.n == 0 && s.err == 0 && s.kind != TraceConnOpened }

// setRest sets the fields of e that few steps have, except for Err and Host.
func (s *traceStep) setRest(e *TraceEvent) {
	switch s.kind {
	case TraceWindow:
		e.Increment, e.Window, e.ConnWindow = int(s.n), int64(s.window), int64(s.connWindow)
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
	n     int         // how many steps there are
	slots []traceStep // the steps are the first n
	errs  []error     // of the steps; at most one of each
	lost  int         // steps dropped after these, because the queue was full
}

// next returns the slot for a step. Its content is undefined. It returns nil if q has no free slot.
func (q *stepQueue) next() *traceStep {
	n := uint(q.n)
	if n >= uint(len(q.slots)) {
		return nil
	}
	q.n++
	return &q.slots[n]
}

// grow is next for a queue without a free slot, and a step of this kind. It makes more slots, up to
// maxQueuedEvents. The last step of a connection is never dropped.
func (q *stepQueue) grow(kind TraceKind) *traceStep {
	if q.n >= maxQueuedEvents && kind != TraceConnClosed {
		q.lost++
		return &traceStep{}
	}
	slots := make([]traceStep, max(q.n+1, min(max(8, 2*q.n), maxQueuedEvents)))
	copy(slots, q.slots)
	q.slots = slots
	q.n++
	return &slots[q.n-1]
}

// setErr sets the error of s, a step of q that has none.
func (q *stepQueue) setErr(s *traceStep, err error) {
	if len(q.errs) < q.n { // else s was dropped
		q.errs = append(q.errs, err)
		s.err = uint16(len(q.errs))
	}
}

// addAll adds the steps of other, which is empty afterwards.
func (q *stepQueue) addAll(other *stepQueue) {
	for i := range other.slots[:other.n] {
		from := &other.slots[i]
		s := q.next()
		if s == nil {
			s = q.grow(from.kind)
		}
		if *s = *from; from.err > 0 {
			s.err = 0
			q.setErr(s, other.errs[from.err-1])
		}
	}
	q.lost += other.lost
	other.reset()
}

// reset makes q empty.
func (q *stepQueue) reset() {
	if q.n, q.lost = 0, 0; len(q.errs) > 0 {
		clear(q.errs)
		q.errs = q.errs[:0]
	}
	if len(q.slots) > keptSteps {
		q.slots, q.errs = nil, nil
	}
}

// A deliveryTime is when what is queued must be delivered, after the connection's lock is
// unlocked.
type deliveryTime uint8

// The values of deliveryTime. One that readLoop or writeLoop sets is reset when it unlocks the
// connection's lock.
const (
	deliverSoon      deliveryTime = iota // at once, or by readLoop or writeLoop if that is about to begin
	deliverWithWrite                     // by writeLoop, before the frames that it is about to write
	deliverNow                           // by readLoop, at once, because received frames may follow
	deliverWithFrame                     // by readLoop, with the next received frame, which was read already
)

// idleLocked is called when the connection's lock is about to be unlocked. It reports whether
// claimLocked has nothing to do.
func (t *connTracer) idleLocked() bool {
	t.now = 0
	if t.queue.n > 0 {
		return false
	}
	t.when = deliverSoon
	return true
}

// waitsLocked reports whether readLoop or writeLoop will claim the queue soon.
func (t *connTracer) waitsLocked() bool { return t.readerClaims || t.c.writesSoonLocked() }

// claimLocked is called when the connection's lock is about to be unlocked. If something is queued
// and no other goroutine delivers or will, claimLocked returns true, and the caller must call
// deliverAndUnlock after the connection's lock was unlocked. If another one delivers, it gets what
// is queued. readLoop and writeLoop may hold delivery instead, to deliver it later.
func (t *connTracer) claimLocked() (claimed bool) {
	when := t.when
	t.now, t.when = 0, deliverSoon
	switch {
	case when == deliverNow && t.reader.holds:
		t.takeQueueLocked()
		t.reader.holds = false
	case t.queue.n == 0 || when == deliverSoon && t.waitsLocked():
		return false
	case t.delivery.tryLock():
		t.claimed, t.queue = t.queue, t.claimed
	case !t.leaveLocked():
		return false
	}
	switch when {
	case deliverWithWrite:
		t.writer.holds = true
		return false
	case deliverWithFrame:
		t.reader.holds, t.readerClaims = true, true
		return false
	}
	return true
}

// takeQueueLocked claims what is queued for readLoop, which holds delivery. What was left before
// comes first.
func (t *connTracer) takeQueueLocked() {
	if t.delivery.marked() {
		t.leaveLocked()
	} else {
		t.claimed, t.queue = t.queue, t.claimed
	}
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
	t.reader.at, t.when = t.c.liveness.now, deliverNow
}

// deliverHeld is called before a received frame is processed. If readLoop holds steps for a frame
// that was not reported, deliverHeld delivers them.
func (t *connTracer) deliverHeld() {
	if t.reader.holds {
		t.deliverClaimed()
	}
}

// framesDoneLocked is called after received frames were processed. nextIsRead is whether the next
// frame was read, and no user code runs before its report.
func (t *connTracer) framesDoneLocked(nextIsRead bool) {
	if t.c.reports.stateChanged { // the owner is called before the next frame
		t.when, t.readerClaims = deliverNow, false
		return
	}
	t.readerClaims = t.reader.holds && nextIsRead
	switch {
	case t.reader.holds && t.queue.n > 0:
		t.takeQueueLocked()
	case t.reader.holds:
	case nextIsRead:
		t.when = deliverWithFrame
	default:
		t.when = deliverNow
	}
}

// framesDone is called after framesDoneLocked, when the connection's lock was unlocked.
func (t *connTracer) framesDone() {
	if t.reader.holds && !t.readerClaims {
		t.endReading()
	}
}

// endReading delivers what readLoop has claimed and what was left meanwhile, and unlocks delivery,
// which readLoop holds.
func (t *connTracer) endReading() {
	t.reader.holds = false
	if t.claimed.n > 0 || !t.delivery.unlockUnwanted() {
		t.deliverAndUnlock()
	}
}

// framesDropped is called when readLoop ends. If sink has ended the goroutine, such as with
// testing.T.FailNow, delivery is unlocked, so that the connection can be closed.
func (t *connTracer) framesDropped() {
	if t.reader.holds {
		t.reader.holds = false
		t.unlockDelivery()
	}
	t.c.lock()
	t.readerClaims = false
	t.c.unlock()
}

// passDelivery is called if isWanted returns true. It lets a call that waits deliver first, and
// delivers what was left. The caller holds delivery.
func (t *connTracer) passDelivery() {
	if t.delivery.hasWaiter() {
		t.delivery.unlock()
		t.delivery.lock()
	}
	t.takeLeft()
}

// deliverAndUnlock delivers what claimLocked has claimed, and what was left meanwhile.
func (t *connTracer) deliverAndUnlock() {
	defer t.unlockDelivery()
	t.deliverClaimed()
	if t.delivery.marked() {
		t.takeLeft()
	}
}

// unlockDelivery unlocks delivery, also after a panic of sink, and delivers the steps that were
// left since.
func (t *connTracer) unlockDelivery() {
	t.dropClaimed()
	if t.delivery.unlock(); t.delivery.isFreeMarked() {
		t.deliverLeft()
	}
}

// dropClaimed drops the steps that were claimed when sink has panicked.
func (t *connTracer) dropClaimed() {
	if t.claimed.n > 0 {
		t.claimed.reset()
	}
}

// deliverLeft delivers the steps that were left for a goroutine that has unlocked delivery since.
func (t *connTracer) deliverLeft() {
	for t.delivery.tryLockMarked() {
		t.takeLeftAndUnlock()
	}
}

func (t *connTracer) takeLeftAndUnlock() {
	defer func() {
		t.dropClaimed()
		t.delivery.unlock()
	}()
	t.takeLeft()
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

// deliverClaimed delivers the claimed steps. The caller holds delivery.
func (t *connTracer) deliverClaimed() {
	if t.claimed.n > 0 {
		t.deliverSteps()
	}
}

// deliverSteps calls sink for the claimed steps. The caller holds delivery.
func (t *connTracer) deliverSteps() {
	var e TraceEvent
	e.ConnID, e.Conn, e.Lost = t.id, t.c, t.takeLost()
	list := t.claimed.slots[:t.claimed.n]
	for i := range list {
		s := &list[i]
		if i == 0 || s.at != e.Time {
			t.stamp(&e, s.at)
		}
		e.Kind, e.Sent, e.StreamID = s.kind, s.sent, s.streamID
		if s.isPlain() {
			t.sink(e)
			e.Lost = 0
			continue
		}
		s.setRest(&e)
		if s.err > 0 {
			e.Err = t.claimed.errs[s.err-1]
		}
		switch s.kind {
		case TraceConnOpened:
			e.Host = t.c.cfg.Authority
		case TraceConnClosed: // no event follows that could count what was dropped
			e.Lost, t.claimed.lost = e.Lost+t.claimed.lost, 0
		}
		t.sink(e)
		e.Increment, e.Window, e.ConnWindow, e.Length, e.Wait, e.Lost = 0, 0, 0, 0, 0, 0
		e.Err, e.Host = nil, ""
	}
	t.dropped += t.claimed.lost
	t.claimed.reset()
}

// takeLost returns how many events were dropped before the next one. The caller holds delivery.
func (t *connTracer) takeLost() (lost int) {
	if lost = t.dropped; lost > 0 {
		t.dropped = 0
	}
	return lost
}

// stamp sets the time of e, in two ways. at is the time since the connection was made. The caller
// holds delivery.
func (t *connTracer) stamp(e *TraceEvent, at time.Duration) {
	if t.stampAt != at {
		t.setStamp(at)
	}
	e.Time, e.At = at, t.stampTime
}

// setStamp keeps the wall clock's time for at.
//
//go:noinline
func (t *connTracer) setStamp(at time.Duration) { t.stampAt, t.stampTime = at, t.c.start.Add(at) }
