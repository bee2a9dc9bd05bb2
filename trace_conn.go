package hyper

import (
	"context"
	"slices"
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

	reader tracedLoop // owned by readLoop
	writer tracedLoop // owned by writeLoop

	delivery delivery // held while sink runs; guards the fields below
	claimed  *stepQueue
	dropped  int // events dropped before the next one that sink gets
	// The result of the last call of stamp.
	stampAt   time.Duration
	stampTime time.Time

	// c.mu guards these.
	queue  *stepQueue                 // what has happened and was not claimed
	now    time.Duration              // the time of the next step; 0: not read since c.mu was locked
	when   deliveryTime               // when the queue must be delivered
	waited time.Duration              // of the request that has taken a slot last
	queued map[*Request]time.Duration // how long requests have waited before they came here
	marks  []sentMark                 // in the order of their bytes
	// readLoop holds delivery, and will claim the queue. readLoop may read it without the lock.
	readerClaims bool

	// leftMu guards left. It is taken after all other locks.
	leftMu sync.Mutex
	left   stepQueue // for the goroutine that delivers; empty if and only if delivery has no mark

	keptMu sync.Mutex  // guards the frames in kept; it is taken after all other locks
	kept   *keptFrames // nil: Config.KeepFrames is false
}

// A tracedLoop is what readLoop or writeLoop has of a connTracer.
type tracedLoop struct {
	at    time.Duration // when the bytes were read, or when those to write were collected
	holds bool          // the loop holds delivery
}

// newConnTracer returns the tracer of c, or nil if nothing of it is traced. ctx may have the number
// of the connection.
func newConnTracer(ctx context.Context, c *Conn) *connTracer {
	if c.cfg.Trace == nil && !c.cfg.KeepFrames && !c.cfg.StreamTimes {
		return nil
	}
	t := makeConnTracer(c, c.cfg.Trace)
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

// makeConnTracer returns a tracer of c without a number. sink may be nil.
func makeConnTracer(c *Conn, sink func(TraceEvent)) *connTracer {
	return &connTracer{c: c, sink: sink, delivery: newDelivery(), stampTime: c.start,
		claimed: &stepQueue{}, queue: &stepQueue{}}
}

// wantsFrames reports whether anything is done with frames.
func (t *connTracer) wantsFrames() bool { return t != nil && (t.sink != nil || t.kept != nil) }

// reports reports whether there is a Config.Trace.
func (t *connTracer) reports() bool { return t != nil && t.sink != nil }

// addLocked queues a step of s, or of the connection if s is nil, and returns it so that the caller
// completes it.
func (t *connTracer) addLocked(kind TraceKind, s *Stream, sent bool) *traceStep {
	if t.now == 0 {
		t.now = t.c.nowLocked()
	}
	step := t.queue.next()
	if step == nil {
		step = t.queue.grow(kind)
	}
	*step = traceStep{kind: kind, sent: sent, at: t.now}
	if s != nil {
		step.streamID = s.id
	}
	return step
}

// received reports a received frame. The frame reader calls it. fields are not changed later.
//
// If the frame is DATA or a whole HEADERS, readLoop holds delivery until the frame was processed:
// its steps, and the next frame if that was read, are delivered under the same lock. For another
// frame, readLoop may read the socket or call user code before that.
func (t *connTracer) received(h wire.FrameHeader, p []byte, fields Header) {
	if t.kept != nil {
		t.keep(h, p, false)
	}
	if t.sink == nil {
		return
	}
	var e TraceEvent
	e.ConnID, e.Conn, e.Fields = t.id, t.c, fields
	if e.setHeader(h); e.Type == "" || h.Flags&payloadFlags != 0 {
		e.setPayload(h, p)
	}
	t.beginReceived()
	t.stamp(&e, t.reader.at)
	e.Lost = t.takeLost()
	t.sink(e)
	if e.FrameType > uint8(wire.Headers) || e.FrameType == uint8(wire.Headers) &&
		e.Flags&uint8(wire.EndHeaders) == 0 {
		t.endReading()
	}
}

// beginReceived is called before a received frame is delivered. readLoop holds delivery afterwards.
func (t *connTracer) beginReceived() {
	if !t.reader.holds {
		t.delivery.lock()
		t.reader.holds = true
	}
	t.deliverClaimed()
	if t.delivery.isWanted() {
		t.passDelivery()
	}
}

// writingLocked is called before the connection's lock is unlocked for a write.
func (t *connTracer) writingLocked() {
	if t == nil {
		return
	}
	if t.writer.at, t.when = t.c.liveness.wroteAt, deliverWithWrite; t.writer.at == 1 {
		t.writer.at = 0 // see watchWriteLocked
	}
}

// sending reports the frames in batch, which holds whole frames that are about to be written. It
// parses them as the peer will, so that no other code has to support tracing. writeLoop calls it.
func (t *connTracer) sending(batch []byte) {
	if !t.wantsFrames() {
		return
	}
	if t.kept != nil {
		t.keepBatch(batch)
	}
	if t.sink != nil && (t.writer.holds || len(batch) > 0) {
		t.reportSending(batch)
	}
	t.sent.begun = t.sent.begun || len(batch) > 0
}

// reportSending delivers the frames in batch. Steps that happen meanwhile are delivered between
// them, and a received frame waits for one of them at most.
func (t *connTracer) reportSending(batch []byte) {
	if !t.writer.holds {
		t.delivery.lock()
	}
	t.writer.holds = false
	defer t.unlockDelivery()
	t.deliverClaimed()
	if t.delivery.marked() {
		t.takeLeft()
	}
	e := TraceEvent{ConnID: t.id, Conn: t.c, Sent: true}
	t.stamp(&e, t.writer.at)
	if !t.sent.begun && len(batch) > 0 {
		batch = batch[len(wire.ClientPreface):]
		e.Type, e.Length, e.Lost = preface, len(wire.ClientPreface), t.takeLost()
		t.sink(e)
	}
	for len(batch) >= wire.HeaderLen {
		var h wire.FrameHeader
		var p []byte
		h, p, batch = nextFrame(batch)
		if t.delivery.isWanted() {
			t.passDelivery()
		}
		e.Fields, e.Lost = t.sent.section(h, p), t.takeLost()
		if e.setHeader(h); e.Type != "" && h.Flags&payloadFlags == 0 {
			t.sink(e)
			continue
		}
		e.setPayload(h, p)
		t.sink(e)
		e = TraceEvent{ConnID: e.ConnID, Conn: e.Conn, Sent: true, At: e.At, Time: e.Time}
	}
}

// keepBatch keeps the frames in batch.
func (t *connTracer) keepBatch(batch []byte) {
	if !t.sent.begun && len(batch) > 0 {
		batch = batch[len(wire.ClientPreface):]
	}
	for len(batch) >= wire.HeaderLen {
		var h wire.FrameHeader
		var p []byte
		h, p, batch = nextFrame(batch)
		t.keep(h, p, true)
	}
}

// nextFrame returns the header and the payload of the first frame in batch, and what follows it.
func nextFrame(batch []byte) (h wire.FrameHeader, p, rest []byte) {
	h = wire.ParseFrameHeader(batch)
	end := wire.HeaderLen + h.Length
	return h, batch[wire.HeaderLen:end], batch[end:]
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
	if h.Type == wire.Headers && h.Flags&(payloadFlags|wire.EndHeaders) == wire.EndHeaders {
		if fields := s.reader.ShareRepeated(p); fields != nil {
			return fields
		}
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
	if !whole {
		if s.block = s.block[:0]; cap(s.block) > maxJoined {
			s.block = nil
		}
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
		t.addLocked(TraceConnOpened, nil, false)
	}
}

// connClosedLocked reports the end of the connection.
func (t *connTracer) connClosedLocked(err error) {
	if t.reports() {
		t.queue.setErr(t.addLocked(TraceConnClosed, nil, false), err)
	}
}

// slotWaitLocked reports that a request begins to wait for a slot. It returns the time.
func (t *connTracer) slotWaitLocked() (began time.Duration) {
	if t.reports() {
		t.addLocked(TraceSlotWait, nil, false)
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
		wait, t.waited = t.waited, 0
		if len(t.queued) > 0 {
			wait += t.queued[req]
			delete(t.queued, req)
		}
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
		t.addLocked(TraceStreamOpened, s, s.push == nil).n = int64(wait)
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
		t.addLocked(TraceHalfClosed, s, sent)
	}
}

// closedLocked reports that s has ended.
func (t *connTracer) closedLocked(s *Stream) {
	t.timeLocked(s, stepEnded)
	if t.reports() {
		if step := t.addLocked(TraceStreamClosed, s, false); s.sendErr != ErrSendEnded {
			t.queue.setErr(step, s.sendErr)
		}
	}
}

// bodyReadLocked reports that the reading of the response of s has ended after n bytes: with err,
// or at the end of the body if err is nil.
func (t *connTracer) bodyReadLocked(s *Stream, n int64, err error) {
	if !t.reports() {
		return
	}
	step := t.addLocked(TraceBodyRead, s, false)
	if step.n = n; err != nil {
		t.queue.setErr(step, err)
	}
}

// recvWindowLocked reports that the receive window of s moved by n, and with DATA that of the
// connection. s is nil for the connection's window alone.
func (t *connTracer) recvWindowLocked(s *Stream, n int) {
	if !t.reports() || n == 0 {
		return
	}
	conn := &t.c.flow.window
	step := t.addLocked(TraceWindow, s, false)
	step.n, step.connWindow = int64(n), int32(conn.credit-conn.pending)
	if s != nil {
		step.window = int32(s.window.credit - s.window.pending)
	}
}

// sendWindowLocked is recvWindowLocked for the windows of what we send.
func (t *connTracer) sendWindowLocked(s *Stream, n int) {
	if !t.reports() || n == 0 {
		return
	}
	step := t.addLocked(TraceWindow, s, true)
	step.n, step.connWindow = int64(n), int32(t.c.flow.sendWindow)
	if s != nil {
		step.window = int32(t.c.settings.peer.initialWindow + s.sendDelta)
	}
}

// refersTo reports whether a mark refers to s. c.mu must be held.
func (t *connTracer) refersTo(s *Stream) bool {
	return t != nil && slices.ContainsFunc(t.marks, func(m sentMark) bool { return m.s == s })
}
