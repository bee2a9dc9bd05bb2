package hyper

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"gohyper.dev/hyper/internal/fieldblock"
	"gohyper.dev/hyper/internal/wire"
)

// lastConnID is the number of the connection that was numbered last.
var lastConnID atomic.Uint64

// A connTracer reports the events of one connection to Config.Trace. A nil *connTracer reports
// nothing.
//
// Config.Trace is user code, so it is not called under the connection's lock. What happens under
// the lock is queued, and delivered when the lock is unlocked or before the next frame. One
// goroutine at a time delivers, also what other goroutines queue meanwhile.
type connTracer struct {
	c    *Conn
	id   uint64
	sink func(TraceEvent) // nil: nothing is reported, only frames or times are kept

	delivery delivery // held while sink runs; guards spare and dropped
	spare    []traceStep
	dropped  int           // events dropped before the next one that sink gets
	sent     sentSection   // owned by writeLoop
	readAt   time.Duration // when the received bytes were read; owned by readLoop

	// c.mu guards these.
	waited time.Duration              // of the request that has taken a slot last
	queued map[*Request]time.Duration // how long requests have waited before they came here
	marks  []sentMark                 // in the order of their bytes
	now    time.Duration              // the time of what happens until c.mu is unlocked; 0: not read yet

	pending atomic.Bool // queue is not empty

	// queueMu guards the fields below. It is taken after all other locks.
	queueMu sync.Mutex
	queue   []traceStep
	lost    int         // events dropped because the queue was full
	kept    *keptFrames // nil: Config.KeepFrames is false
}

// A delivery is a lock. It is not a sync.Mutex, because sink may sleep in a bubble of
// testing/synctest: the clock there stands still while a goroutine waits for a Mutex. While no
// other goroutine waits for it, it costs one atomic operation each to lock and unlock.
type delivery struct {
	users atomic.Int32  // calls of lock and tryLock that were not unlocked yet
	next  chan struct{} // has an element while the lock is passed on to a blocked call
}

func newDelivery() delivery { return delivery{next: make(chan struct{}, 1)} }

func (d *delivery) lock() {
	if d.users.Add(1) > 1 {
		<-d.next
	}
}

func (d *delivery) unlock() {
	if d.users.Add(-1) > 0 {
		d.next <- struct{}{}
	}
}

// tryLock takes the lock unless it is held, and reports whether it did.
func (d *delivery) tryLock() bool { return d.users.CompareAndSwap(0, 1) }

// maxQueuedEvents is how many events may wait for Config.Trace.
const maxQueuedEvents = 10_000

// newConnTracer returns the tracer of c, or nil if nothing of it is traced. ctx may have the number
// of the connection.
func newConnTracer(ctx context.Context, c *Conn) *connTracer {
	if c.cfg.Trace == nil && !c.cfg.KeepFrames && !c.cfg.StreamTimes {
		return nil
	}
	t := &connTracer{c: c, sink: c.cfg.Trace, delivery: newDelivery()}
	if d := dialTraceOf(ctx); d != nil {
		t.id = d.id
	} else {
		t.id = lastConnID.Add(1)
	}
	if c.cfg.KeepFrames {
		t.kept = &keptFrames{}
	}
	if t.sink != nil {
		t.sent.init(c.cfg.Wire.encoderTableSize())
	}
	return t
}

// wantsFrames reports whether anything is done with frames.
func (t *connTracer) wantsFrames() bool { return t != nil && (t.sink != nil || t.kept != nil) }

// stamp sets what all events of the connection have. at is the time since the connection was made.
func (t *connTracer) stamp(e *TraceEvent, at time.Duration) {
	e.ConnID, e.Conn, e.Time, e.At = t.id, t.c, at, t.c.start.Add(at)
}

// reports reports whether there is a Config.Trace.
func (t *connTracer) reports() bool { return t != nil && t.sink != nil }

// A traceStep is an event that is no frame, while it is queued.
type traceStep struct {
	kind       TraceKind
	sent       bool
	streamID   uint32
	at         time.Duration
	wait       time.Duration
	n          int // Increment or Length
	window     int64
	connWindow int64
	host       string
	err        error
}

// event sets e, which has what stamp sets, to the event for s.
func (s *traceStep) event(e *TraceEvent) {
	e.Kind, e.Sent, e.StreamID = s.kind, s.sent, s.streamID
	e.Wait, e.Host, e.Err = s.wait, s.host, s.err
	e.Window, e.ConnWindow = s.window, s.connWindow
	e.Length, e.Increment = 0, 0
	if s.kind == TraceWindow {
		e.Increment = s.n
	} else {
		e.Length = s.n
	}
}

// addLocked queues s for the next flush.
func (t *connTracer) addLocked(s *traceStep) {
	if t.now == 0 {
		t.now = t.c.nowLocked()
	}
	s.at = t.now
	t.queueMu.Lock()
	if len(t.queue) >= maxQueuedEvents {
		t.lost++
	} else {
		t.queue = append(t.queue, *s)
		t.pending.Store(true)
	}
	t.queueMu.Unlock()
}

// unlockedLocked is called when the connection's lock is about to be unlocked.
func (t *connTracer) unlockedLocked() {
	if t != nil {
		t.now = 0
	}
}

// flush delivers the queued events, unless another goroutine does. The caller must not hold the
// connection's lock.
func (t *connTracer) flush() {
	for t != nil && t.pending.Load() && t.delivery.tryLock() {
		t.deliverAndUnlock(nil)
	}
}

// report delivers the queued events and then e.
func (t *connTracer) report(e *TraceEvent) {
	t.delivery.lock()
	t.deliverAndUnlock(e)
	t.flush() // what was queued meanwhile
}

// deliverAndUnlock calls sink for the queued events, and for last unless it is nil. delivery is
// locked, and is unlocked at the end.
func (t *connTracer) deliverAndUnlock(last *TraceEvent) {
	defer t.delivery.unlock()
	if t.pending.Load() {
		t.deliverQueue()
	}
	if last != nil {
		t.deliver(last)
	}
}

// deliver calls sink for e. The caller holds delivery.
func (t *connTracer) deliver(e *TraceEvent) {
	e.Lost, t.dropped = t.dropped, 0
	t.sink(*e)
}

// deliverQueue calls sink for the queued events. The caller holds delivery.
func (t *connTracer) deliverQueue() {
	t.queueMu.Lock()
	list, lost := t.queue, t.lost
	t.queue, t.spare, t.lost = t.spare[:0], nil, 0
	t.pending.Store(false)
	t.queueMu.Unlock()
	var e TraceEvent
	for i := range list {
		if i == 0 || list[i].at != e.Time {
			t.stamp(&e, list[i].at)
		}
		list[i].event(&e)
		t.deliver(&e)
	}
	t.dropped += lost
	const most = 64 // a larger list is not kept
	if clear(list); cap(list) <= most {
		t.spare = list[:0]
	}
}

// received reports a received frame. The frame reader calls it. fields are not changed later.
func (t *connTracer) received(h wire.FrameHeader, p []byte, fields Header) {
	t.keep(h, p, false)
	if t.sink == nil {
		return
	}
	e := TraceEvent{Fields: fields}
	e.setFrame(h, p)
	t.stamp(&e, t.readAt)
	t.report(&e)
}

// sending reports the frames in batch, which holds whole frames that are about to be written. It
// parses them as the peer will, so that no other code has to support tracing. writeLoop calls it.
func (t *connTracer) sending(batch []byte) {
	if !t.wantsFrames() {
		return
	}
	now := t.c.clock()
	if !t.sent.begun && len(batch) > 0 {
		t.sent.begun = true
		batch = batch[len(wire.ClientPreface):]
		if t.sink != nil {
			e := TraceEvent{Sent: true, Type: preface, Length: len(wire.ClientPreface)}
			t.stamp(&e, now)
			t.report(&e)
		}
	}
	for len(batch) >= wire.HeaderLen {
		h := wire.ParseFrameHeader(batch)
		p := batch[wire.HeaderLen:][:h.Length]
		batch = batch[wire.HeaderLen+h.Length:]
		t.keep(h, p, true)
		if t.sink == nil {
			continue
		}
		e := TraceEvent{Sent: true, Fields: t.sent.section(h, p)}
		e.setFrame(h, p)
		t.stamp(&e, now)
		t.report(&e)
	}
}

// A sentSection decodes the field sections that are sent. It is owned by writeLoop.
type sentSection struct {
	reader fieldblock.Reader[Field]
	block  []byte // of a section that has not ended
	begun  bool   // the preface was reported
	failed bool   // a block could not be decoded, so the compression state is lost
}

// init prepares s for blocks of an encoder with a table of so many bytes.
func (s *sentSection) init(tableSize uint32) {
	const unlimited = 1 << 40
	s.reader.Init(fieldblock.Config{ListSize: unlimited, Memory: -1,
		TableSize: max(tableSize, wire.HeaderTableSize)})
}

// section returns the field section that ends with the frame of header h and payload p, or nil if
// none does.
func (s *sentSection) section(h wire.FrameHeader, p []byte) Header {
	if h.Type != wire.Headers && h.Type != wire.Continuation || s.failed {
		return nil
	}
	fragment, err := h.Block(p)
	if err != nil {
		s.failed = true
		return nil
	}
	whole := len(s.block) == 0 && h.Flags.Has(wire.EndHeaders)
	if !whole {
		s.block = append(s.block, fragment...)
		fragment = s.block
	}
	if !h.Flags.Has(wire.EndHeaders) {
		return nil
	}
	err = s.reader.Decode(fragment)
	if s.block = s.block[:0]; cap(s.block) > maxJoined {
		s.block = nil
	}
	if err != nil {
		s.failed = true
		return nil
	}
	return s.reader.ShareAll()
}

// The methods below report what happens under the connection's lock. They queue.

// connOpenedLocked reports the beginning of the connection.
func (t *connTracer) connOpenedLocked() {
	if t.reports() {
		t.addLocked(&traceStep{kind: TraceConnOpened, host: t.c.cfg.Authority})
	}
}

// connClosedLocked reports the end of the connection.
func (t *connTracer) connClosedLocked(err error) {
	if t.reports() {
		t.addLocked(&traceStep{kind: TraceConnClosed, err: err})
	}
}

// slotWaitLocked reports that a request begins to wait for a slot. It returns the time.
func (t *connTracer) slotWaitLocked() (began time.Duration) {
	if t.reports() {
		t.addLocked(&traceStep{kind: TraceSlotWait})
	}
	if t == nil {
		return 0
	}
	return t.c.clock()
}

// slotGrantedLocked notes that a request has waited for its slot since began. The caller opens the
// stream under the same lock.
func (t *connTracer) slotGrantedLocked(began time.Duration) {
	if t != nil {
		t.waited = max(t.c.clock()-began, 1)
	}
}

// takeWaitLocked returns how long req, which has just taken a slot, has waited for it.
func (t *connTracer) takeWaitLocked(req *Request) (wait time.Duration) {
	if t != nil {
		wait, t.waited = t.waited+t.queued[req], 0
		delete(t.queued, req)
	}
	return wait
}

// maxNotedWaits is how many waits are noted at most.
const maxNotedWaits = 1000

// forgetWaitLocked drops the wait of a request that got its slot and was not opened.
func (t *connTracer) forgetWaitLocked() {
	if t != nil {
		t.waited = 0
	}
}

// noteWait notes that req, which will be opened next, has waited for so long in the queue of a
// Transport.
func (c *Conn) noteWait(req *Request, wait time.Duration) {
	c.lock()
	defer c.unlock()
	if t := c.writer.tracer; t != nil {
		if t.queued == nil || len(t.queued) >= maxNotedWaits { // most of them were not opened
			t.queued = make(map[*Request]time.Duration)
		}
		t.queued[req] = wait
	}
}

// openedLocked reports that s was opened. It is not inlined, and neither is headersQueuedLocked:
// the stacks of waiting requests stay small. t must not be nil.
//
//go:noinline
func (t *connTracer) openedLocked(s *Stream) {
	var wait time.Duration
	if s.push == nil {
		wait = t.takeWaitLocked(s.req)
	}
	if t.timeLocked(s, stepOpened); s.extras != nil && s.extras.times != nil {
		s.extras.times.waited = wait
	}
	if t.reports() {
		t.addLocked(&traceStep{kind: TraceStreamOpened, streamID: s.id, sent: s.push == nil, wait: wait})
	}
}

// headersQueuedLocked notes that the HEADERS of s were added to the bytes to write, and whether
// they end the request. t must not be nil.
//
//go:noinline
func (t *connTracer) headersQueuedLocked(s *Stream, end bool) {
	t.timeSentLocked(s, stepHeadersSent)
	if end {
		t.halfClosedLocked(s, true)
	}
}

// halfClosedLocked reports that one side has ended s; our side if sent is true.
//
//go:noinline
func (t *connTracer) halfClosedLocked(s *Stream, sent bool) {
	if sent {
		t.timeSentLocked(s, stepRequestSent)
	} else {
		t.timeLocked(s, stepResponseEnded)
	}
	if t.reports() {
		t.addLocked(&traceStep{kind: TraceHalfClosed, streamID: s.id, sent: sent})
	}
}

// closedLocked reports that s has ended.
func (t *connTracer) closedLocked(s *Stream) {
	t.timeLocked(s, stepEnded)
	if t.reports() {
		step := traceStep{kind: TraceStreamClosed, streamID: s.id}
		if s.sendErr != ErrSendEnded {
			step.err = s.sendErr
		}
		t.addLocked(&step)
	}
}

// bodyReadLocked reports that the reading of the response of s has ended with err after n bytes.
func (t *connTracer) bodyReadLocked(s *Stream, n int64, err error) {
	if !t.reports() {
		return
	}
	if err == io.EOF {
		err = nil
	}
	t.addLocked(&traceStep{kind: TraceBodyRead, streamID: s.id, n: int(n), err: err})
}

// recvWindowLocked reports that the receive window of s moved by n, and with DATA that of the
// connection. s is nil for the connection's window alone.
func (t *connTracer) recvWindowLocked(s *Stream, n int) {
	if !t.reports() || n == 0 {
		return
	}
	conn := &t.c.flow.window
	step := traceStep{kind: TraceWindow, n: n, connWindow: conn.credit - conn.pending}
	if s != nil {
		step.streamID, step.window = s.id, s.window.credit-s.window.pending
	}
	t.addLocked(&step)
}

// sendWindowLocked is recvWindowLocked for the windows of what we send.
func (t *connTracer) sendWindowLocked(s *Stream, n int) {
	if !t.reports() || n == 0 {
		return
	}
	step := traceStep{kind: TraceWindow, sent: true, n: n, connWindow: t.c.flow.sendWindow}
	if s != nil {
		step.streamID, step.window = s.id, t.c.settings.peer.initialWindow+s.sendDelta
	}
	t.addLocked(&step)
}
