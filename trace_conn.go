package hyper

import (
	"context"
	"io"
	"iter"
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
// the lock is queued, and delivered when the lock is unlocked. One goroutine at a time delivers,
// also what other goroutines leave for it meanwhile.
type connTracer struct {
	c    *Conn
	id   uint64
	sink func(TraceEvent) // nil: nothing is reported, only frames or times are kept

	sent sentSection // owned by writeLoop

	// readLoop owns these.
	readAt   time.Duration // when the received bytes were read
	readTime time.Time     // the same
	held     bool          // readLoop holds delivery until it reports the next frame

	delivery delivery // held while sink runs; guards the fields below
	claimed  *stepQueue
	dropped  int // events dropped before the next one that sink gets
	// The result of the last call of stamp.
	stampAt   time.Duration
	stampTime time.Time

	// c.mu guards these.
	queue  *stepQueue                 // what has happened since c.mu was locked
	now    time.Duration              // the time of it; 0: not read yet
	when   deliveryTime               // when it must be delivered
	waited time.Duration              // of the request that has taken a slot last
	queued map[*Request]time.Duration // how long requests have waited before they came here
	marks  []sentMark                 // in the order of their bytes

	// leftMu guards left. It is taken after all other locks.
	leftMu sync.Mutex
	left   stepQueue // for the goroutine that delivers; empty if and only if delivery has no mark

	keptMu sync.Mutex  // guards the frames in kept; it is taken after all other locks
	kept   *keptFrames // nil: Config.KeepFrames is false
}

// newConnTracer returns the tracer of c, or nil if nothing of it is traced. ctx may have the number
// of the connection.
func newConnTracer(ctx context.Context, c *Conn) *connTracer {
	if c.cfg.Trace == nil && !c.cfg.KeepFrames && !c.cfg.StreamTimes {
		return nil
	}
	t := &connTracer{c: c, sink: c.cfg.Trace, delivery: newDelivery(), stampTime: c.start,
		claimed: &stepQueue{}, queue: &stepQueue{}}
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

// reports reports whether there is a Config.Trace.
func (t *connTracer) reports() bool { return t != nil && t.sink != nil }

// addLocked queues a step of this kind, and returns it so that the caller completes it.
func (t *connTracer) addLocked(kind TraceKind) *traceStep {
	if t.now == 0 {
		t.now = t.c.nowLocked()
	}
	s := t.queue.add(kind)
	s.at = t.now
	return s
}

// received reports a received frame. The frame reader calls it. fields are not changed later.
func (t *connTracer) received(h wire.FrameHeader, p []byte, fields Header) {
	if t.kept != nil {
		t.keep(h, p, false)
	}
	if t.sink != nil {
		t.reportReceived(h, p, fields)
		if t.delivery.isFreeMarked() {
			t.deliverLeft()
		}
	}
}

func (t *connTracer) reportReceived(h wire.FrameHeader, p []byte, fields Header) {
	held := t.held
	if t.held = false; !held {
		t.delivery.lock()
	}
	defer t.unlockDelivery()
	t.setStamp(t.readAt, t.readTime)
	if held {
		t.deliverClaimed()
	}
	if t.delivery.marked() {
		t.takeLeft()
	}
	var e TraceEvent
	e.ConnID, e.Conn, e.Fields = t.id, t.c, fields
	e.setFrame(h, p)
	t.stamp(&e, t.readAt)
	t.deliver(&e)
}

// sending reports the frames in batch, which holds whole frames that are about to be written. It
// parses them as the peer will, so that no other code has to support tracing. writeLoop calls it.
func (t *connTracer) sending(batch []byte) {
	if !t.wantsFrames() || len(batch) == 0 {
		return
	}
	if t.kept != nil {
		t.keepBatch(batch)
	}
	if t.sink != nil {
		t.reportSending(batch)
		t.deliverLeft()
	}
	t.sent.begun = true
}

// reportSending delivers the frames in batch. Steps that happen meanwhile are delivered between
// them, and a received frame waits for one of them at most.
func (t *connTracer) reportSending(batch []byte) {
	t.delivery.lock()
	defer t.unlockDelivery()
	t.takeLeft()
	e := TraceEvent{ConnID: t.id, Conn: t.c, Sent: true}
	t.stamp(&e, t.c.clock())
	if !t.sent.begun {
		batch = batch[len(wire.ClientPreface):]
		e.Type, e.Length = preface, len(wire.ClientPreface)
		t.deliver(&e)
	}
	for h, p := range frames(batch) {
		if t.delivery.isWanted() {
			t.delivery.unlock()
			t.delivery.lock()
			t.takeLeft()
		}
		e.Fields = t.sent.section(h, p)
		e.setFrame(h, p)
		t.deliver(&e)
		if h.Type > wire.Headers || e.padding > 0 || e.Priority != nil {
			e = TraceEvent{ConnID: t.id, Conn: t.c, Sent: true, At: e.At, Time: e.Time}
		}
	}
}

// keepBatch keeps the frames in batch.
func (t *connTracer) keepBatch(batch []byte) {
	if !t.sent.begun {
		batch = batch[len(wire.ClientPreface):]
	}
	for h, p := range frames(batch) {
		t.keep(h, p, true)
	}
}

// frames yields the headers and the payloads of the frames in batch.
func frames(batch []byte) iter.Seq2[wire.FrameHeader, []byte] {
	return func(yield func(wire.FrameHeader, []byte) bool) {
		for len(batch) >= wire.HeaderLen {
			h := wire.ParseFrameHeader(batch)
			p := batch[wire.HeaderLen:][:h.Length]
			if !yield(h, p) {
				return
			}
			batch = batch[wire.HeaderLen+h.Length:]
		}
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
		t.addLocked(TraceConnOpened)
	}
}

// connClosedLocked reports the end of the connection.
func (t *connTracer) connClosedLocked(err error) {
	if t.reports() {
		t.addLocked(TraceConnClosed).err = err
		t.queue.errors = true
	}
}

// slotWaitLocked reports that a request begins to wait for a slot. It returns the time.
func (t *connTracer) slotWaitLocked() (began time.Duration) {
	if t.reports() {
		t.addLocked(TraceSlotWait)
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
		step := t.addLocked(TraceStreamOpened)
		step.streamID, step.sent, step.n = s.id, s.push == nil, int64(wait)
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
		step := t.addLocked(TraceHalfClosed)
		step.streamID, step.sent = s.id, sent
	}
}

// closedLocked reports that s has ended.
func (t *connTracer) closedLocked(s *Stream) {
	t.timeLocked(s, stepEnded)
	if t.reports() {
		step := t.addLocked(TraceStreamClosed)
		step.streamID = s.id
		if s.sendErr != ErrSendEnded {
			step.err, t.queue.errors = s.sendErr, true
		}
	}
}

// bodyReadLocked reports that the reading of the response of s has ended with err after n bytes.
func (t *connTracer) bodyReadLocked(s *Stream, n int64, err error) {
	if !t.reports() {
		return
	}
	step := t.addLocked(TraceBodyRead)
	step.streamID, step.n = s.id, n
	if err != io.EOF {
		step.err, t.queue.errors = err, true
	}
}

// recvWindowLocked reports that the receive window of s moved by n, and with DATA that of the
// connection. s is nil for the connection's window alone.
func (t *connTracer) recvWindowLocked(s *Stream, n int) {
	if !t.reports() || n == 0 {
		return
	}
	conn := &t.c.flow.window
	step := t.addLocked(TraceWindow)
	step.n, step.connWindow = int64(n), conn.credit-conn.pending
	if s != nil {
		step.streamID, step.window = s.id, s.window.credit-s.window.pending
	}
}

// sendWindowLocked is recvWindowLocked for the windows of what we send.
func (t *connTracer) sendWindowLocked(s *Stream, n int) {
	if !t.reports() || n == 0 {
		return
	}
	step := t.addLocked(TraceWindow)
	step.sent, step.n, step.connWindow = true, int64(n), t.c.flow.sendWindow
	if s != nil {
		step.streamID, step.window = s.id, t.c.settings.peer.initialWindow+s.sendDelta
	}
}
