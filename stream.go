package hyper

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"gohyper.dev/hyper/internal/buffer"
	"gohyper.dev/hyper/internal/netconn"
	"gohyper.dev/hyper/internal/state"
	"gohyper.dev/hyper/internal/wait"
	"gohyper.dev/hyper/internal/wire"
)

// A Stream is one exchange on a connection, with both directions under the caller's control. Its
// methods may be called from several goroutines at once. After the stream has ended, its methods
// return the same error each time. Data received before the peer or the network ended the stream
// can still be read.
//
// A Stream is an io.Reader and an io.Writer of the bytes of its DATA frames. Response waits for the
// header of the response, and Response.Body reads the same bytes with their content codings
// decoded.
type Stream struct {
	c      *Conn
	req    *Request
	push   *Push         // nil: we opened the stream
	memory *reusedMemory // nil: no Caller opened the stream

	id     uint32
	upload atomic.Uint32 // noUpload, uploadOpen or uploadClosed
	reader atomic.Uint32 // readerOpen or a value below it; changed with c.mu held

	// c.mu guards the fields below.

	state   state.State
	message state.Message // of the peer
	wakeDue bool          // the stream is in c.reader.wakeups
	// Part of a response was received. So the peer has processed the request, even if it denies
	// that later.
	began bool
	// Ends the watch over the context and Request.Cancel. nil: there is no watch.
	stop func() bool

	// Receiving.
	window   Window
	buf      buffer.Buffer
	bodyLeft int64 // body bytes still due by content-length; -1: unknown
	// What follows the bytes in buf: io.EOF, or why the stream ended. nil: more may come.
	recvErr  error
	extras   *extras // nil: the response has none
	response Response
	recvQ    wait.Queue

	// Sending.
	sender       *sender
	sendErr      error  // why nothing more can be sent; nil: it can
	sendDelta    int64  // the send window is c.settings.peer.initialWindow + sendDelta
	headersStart uint64 // c.writer.queued before our HEADERS

	deadlines *deadlines // nil: none was ever set
}

// The states of Request.Body, from the time when the stream is opened.
const (
	noUpload   uint32 = iota // there is no Body
	uploadOpen               // it is not closed yet
	uploadClosed
)

// The states of what is received.
const (
	readerOpen    uint32 = iota
	readerDropped        // the stream was ended with its unread data: no more data is returned
	// The body was read to its end, the stream is closed, and no promise is left. read and
	// closeRead need no lock.
	readerOver
	readerUnused // as readerOver, and nothing of the connection refers to the stream any more
)

// hasBody reports whether the request has a Body, so that the caller cannot write.
func (s *Stream) hasBody() bool { return s.upload.Load() != noUpload }

// isDropped reports whether the stream was ended with its unread data.
func (s *Stream) isDropped() bool { return s.reader.Load() == readerDropped }

// isOver reports whether nothing of the stream will change any more.
func (s *Stream) isOver() bool { return s.reader.Load() >= readerOver }

// isUnreferenced reports whether nothing of the connection refers to the stream any more.
func (s *Stream) isUnreferenced() bool { return s.reader.Load() == readerUnused }

// answered reports whether the response is set.
func (s *Stream) answered() bool { return s.message != state.AwaitingHeaders }

// An opening says what is opened and how. Only the request is required.
type opening struct {
	req    *Request
	ending ending
	slot   slotMode
}

// openStream opens s for a request, and makes it end with ctx. s must be a new Stream. If
// openStream fails, nothing was sent, and the caller still has to close the body.
//
// A stream is opened in these steps: the request is checked, which needs no lock; it gets a slot,
// for which it may wait; it is checked against the peer's SETTINGS; it takes its identifier, and
// its HEADERS are appended to out, with as much of a body in memory as the windows allow. Taking
// the identifier, compressing and appending happen under one lock, so that they have the same
// order.
func (c *Conn) openStream(ctx context.Context, s *Stream, o opening) error {
	if err := c.openAndLock(ctx, s, o); err != nil {
		return err
	}
	defer c.unlock()
	s.watchLocked(ctx)
	return nil
}

// openAndWait opens s and waits for its response. It locks mu once for both.
func (c *Conn) openAndWait(ctx context.Context, s *Stream, o opening) (*Response, error) {
	if err := c.openAndLock(ctx, s, o); err != nil {
		return nil, err
	}
	defer c.unlock()
	// The first wait of responseUnlocking is here, so that there are two frames less on the stack.
	// The collector goes through the stack of each goroutine that waits.
	if s.recvErr == nil && !s.answered() {
		var err error
		w := c.beginWaitUnlocking(&s.recvQ)
		if cancel := s.req.cancel(); cancel == nil && ctx.Done() == nil {
			w.WaitWoken()
		} else {
			err = waitOn(ctx, cancel, w)
		}
		c.endWaitAndLock(&s.recvQ, w)
		if err != nil && (!s.answered() || s.isDropped()) {
			return nil, err
		}
	}
	resp, err := s.responseUnlocking(ctx)
	// A response that is already complete needs no watch over ctx.
	if err == nil {
		s.watchLocked(ctx)
	}
	return resp, err
}

// openAndLock opens s. If it succeeds, mu is locked and the caller must begin to watch ctx. The
// prepared request is a variable of this function, so that it is not on the stack of a caller that
// waits for a response. The stacks of waiting callers stay small (see
// TestWaitingRequestsHaveSmallStacks).
func (c *Conn) openAndLock(ctx context.Context, s *Stream, o opening) error {
	p := preparedRequest{memory: s.memory}
	if err := p.prepare(ctx, c, o); err != nil {
		if o.slot == haveSlot {
			c.release()
		}
		return err
	}
	c.lock()
	err := c.openUnlocking(ctx, s, &p)
	if err != nil {
		c.unlock()
	}
	return err
}

// openUnlocking takes a slot and opens s for a request that has been checked.
func (c *Conn) openUnlocking(ctx context.Context, s *Stream, p *preparedRequest) error {
	s.memory.freeLastLocked()
	c.uncorkLocked()
	// The SETTINGS may also lower the number of slots.
	if p.extendedConnect {
		if err := c.awaitSettingsUnlocking(ctx, p.cancel(), p.slot); err != nil {
			return err
		}
	}
	c.writer.tracer.forgetWaitLocked()
	if err := c.takeSlotUnlocking(ctx, p.cancel(), p.slot); err != nil {
		return err
	}
	err := c.peerAllowsLocked(p)
	if err == nil {
		err = c.streamIDFreeLocked(p)
	}
	if err != nil {
		c.giveSlotLocked()
		return err
	}
	if c.adjustInitialWindowLocked() {
		c.giveSlotLocked()
		return c.overLocked()
	}
	if err := s.beginLocked(c, p); err != nil {
		c.giveSlotLocked()
		return err
	}
	c.takeIDLocked(s)
	if c.writer.tracer != nil {
		c.writer.tracer.openedLocked(s)
	}
	s.sendHeadersLocked(p)
	s.window.credit = c.flow.initialWindow
	if ended := s.openWindowLocked(); !ended {
		s.startBodyLocked(p)
	}
	return nil
}

// beginLocked makes s the stream of a request that is opened now.
func (s *Stream) beginLocked(c *Conn, p *preparedRequest) error {
	if s.memory != nil {
		if err := s.memory.beginLocked(); err != nil {
			return err
		}
	}
	s.c, s.req, s.bodyLeft = c, p.Request, -1
	if p.Body != nil {
		s.upload.Store(uploadOpen)
	}
	s.window.c, s.window.s = c, s
	return nil
}

// peerAllowsLocked checks p against the peer's SETTINGS, as far as they are known. They are known
// if p is an extended CONNECT.
func (c *Conn) peerAllowsLocked(p *preparedRequest) error {
	if p.extendedConnect && !c.settings.peer.connectAllowed {
		return errNoExtendedConnect
	}
	if p.Unchecked {
		return nil
	}
	if err := c.peerTakesLocked("header", p.size); err != nil {
		return err
	}
	return c.peerTakesLocked("trailer", p.trailers.listSize())
}

// peerTakesLocked checks the size of a field section against the peer's MAX_HEADER_LIST_SIZE.
func (c *Conn) peerTakesLocked(section string, size int) error {
	if int64(size) <= int64(c.settings.peer.maxHeaderList) {
		return nil
	}
	return &RequestError{section, fmt.Sprintf("takes %d bytes; the peer allows %d", size,
		c.settings.peer.maxHeaderList)}
}

// takeIDLocked gives s the next identifier and adds it to the connection's streams.
func (c *Conn) takeIDLocked(s *Stream) {
	s.id = c.streams.nextID
	if f := s.req.Framing; f != nil && f.StreamID != 0 {
		s.id = f.StreamID
	}
	c.streams.nextID = s.id + 2
	c.addLocked(s)
	c.counts.opened++
	if c.streams.nextID > wire.MaxStreamID { // no identifiers are left
		c.reports.stateChanged = true
		c.beginDrainingLocked(ReasonExhausted)
		c.slots.waiting.WakeAll() // no slot would help them
	}
	c.liveness.pinging.requested = true
	if len(c.streams.byID) == 1 {
		c.liveness.silentFrom = 0
	}
}

// sendHeadersLocked appends the request's HEADERS to out. They end the request if nothing follows.
func (s *Stream) sendHeadersLocked(p *preparedRequest) {
	c := s.c
	var flags wire.Flags
	s.mustLocked(state.SendHeaders)
	if p.isBodyless() && p.method() != "CONNECT" {
		flags = wire.EndStream
		s.mustLocked(state.SendEnd)
		s.sender, s.sendErr = nothingToSend, ErrSendEnded
	} else {
		s.sender = s.memory.newSender()
		s.sender.declared, s.sender.left, s.sender.priority = p.length, p.length, p.priority
	}
	s.headersStart = c.writer.queued
	if c.writer.out == nil {
		c.writer.out = netconn.TakeBuffer()
	}
	c.writer.fields.Begin(c.writer.out, s.id, flags)
	p.write(c.writer.fields)
	c.endSectionLocked(p.layout)
	if c.writer.tracer != nil {
		c.writer.tracer.headersQueuedLocked(s, flags.Has(wire.EndStream))
	}
}

// startBodyLocked starts sending the body, if the caller does not write it.
func (s *Stream) startBodyLocked(p *preparedRequest) {
	if p.isBodyless() || p.ending == endByCaller {
		return
	}
	if p.expect {
		s.holdBackLocked()
	}
	if p.body != nil {
		s.memory.holdLocked()
		go s.sendUpload(p.body, p.length)
		return
	}
	s.sender.pending, s.sender.then, s.sender.trailer = p.inlineBody, afterThis(p.trailers), p.trailers
	s.sender.layout = p.trailerLayout
	s.c.enqueueLocked(s)
	s.c.sendHeldLocked(s)
}

// addLocked adds s, which has its identifier, to the connection's streams.
func (c *Conn) addLocked(s *Stream) {
	if c.streams.byID == nil {
		c.streams.takeMap()
	}
	c.streams.byID[s.id] = s
	c.streams.peak = max(c.streams.peak, c.knownStreamsLocked())
}

// openWindowLocked makes the manager of the receive window. For a request this happens at once, for
// a push when it is claimed. It reports whether the manager ended the stream.
func (s *Stream) openWindowLocked() (ended bool) {
	if s.window.kind != unmanaged || s.window.ended() {
		return false
	}
	factory := s.c.cfg.WindowManager
	if s.req.WindowManager != nil {
		factory = s.req.WindowManager
	}
	if s.window.open(factory) {
		return true
	}
	// For a push: report what was received before, for managers that respond to received data.
	n := int(s.window.total)
	if n == 0 {
		return false
	}
	padding := n - int(s.window.unread)
	return s.window.update(WindowEvent{Kind: WindowData, Bytes: n, Padding: padding}) ||
		s.window.discard(padding)
}

// ID returns the stream identifier. It is odd for a request of ours and even for a push.
func (s *Stream) ID() uint32 { return s.id }

// Conn returns the stream's connection.
func (s *Stream) Conn() *Conn { return s.c }

// Done returns a channel that is closed when the stream has ended. A stream ends in one of these
// ways, whichever comes first:
//
//   - Both sides have ended it: the peer's END_STREAM has been received, and ours has been added to
//     the bytes to write. Err is nil then.
//   - The peer or this side has reset it, or the peer's GOAWAY says that it was not processed.
//   - The connection has ended.
//
// Data that was received before may still be unread when Done is closed; a reset by this side and
// Conn.Close discard it. A stream whose body is not read does not end if its window is full. All
// calls return a closed channel once the stream has ended.
func (s *Stream) Done() <-chan struct{} {
	if s.reusedErr() != nil {
		return alreadyDone
	}
	s.c.lock()
	defer s.c.unlock()
	if s.state == state.Closed {
		return alreadyDone
	}
	x := s.extrasLocked()
	if x.done == nil {
		x.done = make(chan struct{})
	}
	return x.done
}

// alreadyDone is what Done returns for a stream that has ended.
var alreadyDone = func() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}()

// signalDoneLocked closes the channel of Done. It is called once, when the stream has ended.
func (s *Stream) signalDoneLocked() {
	if s.extras != nil && s.extras.done != nil {
		close(s.extras.done)
	}
}

// Err returns nil until the stream has ended, and also if both sides have ended it with END_STREAM.
// Otherwise it returns the reason for the end: a *StreamError, the connection's error, or the error
// that Request.Body or a context caused, inside a *StreamError. A response can be complete even if
// Err is not nil: the peer, or hyper itself, may then have ended the rest of the request with
// ErrCodeNo (RFC 9113 §8.1). The result does not change after the end.
func (s *Stream) Err() error {
	if err := s.reusedErr(); err != nil {
		return err
	}
	s.c.lock()
	defer s.c.unlock()
	if s.state != state.Closed || s.sendErr == ErrSendEnded {
		return nil
	}
	return s.sendErr
}

// Read reads the content of the response as the peer sent it, with its content codings: the bytes
// of the DATA frames. It returns what has arrived, and waits only if that is nothing. It returns
// io.EOF when the peer has ended its side of the stream, and otherwise the error that ended the
// stream. The read deadline bounds the wait.
//
// Reading opens the flow-control window. Read takes the same bytes as Response.Body and
// Response.Raw, so use only one of them. Read may be called before Response, but it does not call
// Request.Informational. If the request has that function, the 1xx responses wait for a call of
// Response, and so does a body that waits for 100 (Continue), for at most
// Config.ExpectContinueTimeout.
func (s *Stream) Read(p []byte) (n int, err error) { return s.read(p) }

// Write sends p as DATA, as fast as the peer's windows allow. It returns when all of p has been
// added to the bytes to write. Write may be called while another goroutine reads. Concurrent calls
// of Write run one after another. If the peer ends the stream early, Write returns a *StreamError.
// If its code is ErrCodeNo, the response is complete and the peer does not need the rest of the
// body (RFC 9113 §8.1).
func (s *Stream) Write(p []byte) (n int, err error) { return s.write(p, nil, nothingYet) }

// CloseWrite ends our side of the stream with an empty DATA frame that has END_STREAM. The stream
// can still be read.
func (s *Stream) CloseWrite() error {
	_, err := s.write(nil, nil, endStream)
	return err
}

// SendTrailers ends our side of the stream with trailers. If trailer is invalid, or larger than the
// peer's MAX_HEADER_LIST_SIZE, SendTrailers returns a *RequestError and does not change the stream.
// trailer may be changed after SendTrailers has returned.
func (s *Stream) SendTrailers(trailer Header) error {
	if err := s.reusedErr(); err != nil {
		return err
	}
	if err := s.req.checkTrailer(trailer); err != nil {
		return err
	}
	_, err := s.write(nil, trailer.Clone(), afterThis(trailer))
	return err
}

// SetDeadline sets the time after which Write, and reading the response and its body, fail with
// os.ErrDeadlineExceeded. They work again after a later deadline is set. A zero time means no
// deadline. A deadline does not end the stream.
func (s *Stream) SetDeadline(t time.Time) {
	s.SetReadDeadline(t)
	s.SetWriteDeadline(t)
}

// SetReadDeadline is like SetDeadline, for reading only.
func (s *Stream) SetReadDeadline(t time.Time) {
	if s.reusedErr() != nil {
		return
	}
	s.c.lock()
	defer s.c.unlock()
	d := &s.deadlinesLocked().read
	d.setLocked(s.c, t, &s.recvQ)
	if s.recvErr != nil {
		d.stop()
	}
}

// SetWriteDeadline is like SetDeadline, for writing only.
func (s *Stream) SetWriteDeadline(t time.Time) {
	if s.reusedErr() != nil {
		return
	}
	s.c.lock()
	defer s.c.unlock()
	d := &s.deadlinesLocked().write
	d.setLocked(s.c, t, &s.sender.sent, &s.sender.turn)
	if s.sendErr != nil {
		d.stop()
	}
}

// deadlines are the deadlines of a stream. Few streams have any.
type deadlines struct{ read, write deadline }

// deadlinesLocked returns the stream's deadlines. It makes them if there are none.
func (s *Stream) deadlinesLocked() *deadlines {
	if s.deadlines == nil {
		s.deadlines = &deadlines{}
	}
	return s.deadlines
}

// readPassed reports whether the read deadline has passed.
func (d *deadlines) readPassed() bool { return d != nil && d.read.passed() }

// writePassed reports whether the write deadline has passed.
func (d *deadlines) writePassed() bool { return d != nil && d.write.passed() }

// stopReading stops the timer of the read deadline. No call will wait for it any more.
func (d *deadlines) stopReading() {
	if d != nil {
		d.read.stop()
	}
}

// stopWriting stops the timer of the write deadline. No call will wait for it any more.
func (d *deadlines) stopWriting() {
	if d != nil {
		d.write.stop()
	}
}

// A deadline is a time at which a timer wakes the waiting calls.
type deadline struct {
	at    time.Time   // zero: no deadline
	timer *time.Timer // nil: no call needs to be woken
}

// passed reports whether the deadline has passed.
func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// stop stops the timer.
func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// setLocked sets the deadline to t, and wakes the calls on the waiting queues then.
func (d *deadline) setLocked(c *Conn, t time.Time, waiting ...*wait.Queue) {
	d.stop()
	if d.at = t; t.IsZero() {
		return
	}
	wake := func() {
		for _, q := range waiting {
			q.WakeAll()
		}
	}
	now := time.Now()
	left := t.Sub(now)
	if left <= 0 {
		wake()
		return
	}
	d.at = now.Add(left) // by the clock that the timer uses
	// Calls that are woken check the deadline that is set at that time.
	d.timer = time.AfterFunc(left, func() {
		c.lock()
		wake()
		c.unlock()
	})
}

// watchLocked makes the stream end when ctx ends or when the request's Cancel channel is closed.
func (s *Stream) watchLocked(ctx context.Context) {
	if s.stop != nil || s.state == state.Closed {
		return
	}
	if ctx.Done() != nil {
		s.stop = context.AfterFunc(ctx, func() { s.abandon(contextError(ctx)) })
	}
	if s.req.cancel() != nil {
		s.memory.holdLocked()
		s.stop = s.watchCancel(s.stop)
	}
}

// watchCancel abandons s when the request's Cancel channel is closed. It returns a function that
// ends this watch, and other if that is not nil.
func (s *Stream) watchCancel(other func() bool) (stop func() bool) {
	stopped, cancel := make(chan struct{}), s.req.cancel()
	go func() {
		select {
		case <-cancel:
			s.abandon(errRequestCanceled)
		case <-stopped:
		}
	}()
	return func() bool {
		close(stopped)
		return other == nil || other()
	}
}

// unwatchLocked ends the watch over the context and the Cancel channel. If the watch has begun to
// end the stream, its goroutine may still use the stream, and so stop does not become nil.
func (s *Stream) unwatchLocked() {
	switch {
	case s.stop == nil:
	case s.stop():
		s.stop = nil
	default:
		s.stop = stoppedLate
	}
}

// stoppedLate is Stream.stop for a watch that was ended after it had begun to end the stream.
var stoppedLate = func() bool { return false }

// contextError returns the error of a context that has ended, together with its cause if that is
// different.
func contextError(ctx context.Context) error {
	err := ctx.Err()
	if cause := context.Cause(ctx); cause != nil && cause != err {
		return &causedError{err, cause}
	}
	return err
}
