package hyper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"gohyper.dev/hyper/internal/buffer"
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
	c    *Conn
	id   uint32
	req  *Request
	push *Push // nil: we opened the stream

	bodyClosed atomic.Bool // req.Body was closed
	// The body was read to its end, the stream is closed, and no promise is left: read and
	// closeRead need no lock.
	over atomic.Bool

	// c.mu guards the fields below.

	state    state.State
	message  state.Message // of the peer
	dropped  bool          // the caller ended the stream: no more data is returned
	answered bool          // response is set
	wakeDue  bool          // the stream is in c.wakeups
	borrows  bool          // set by RoundTrip: the response's Header is only read
	// Part of a response was received. So the peer has processed the request, even if it denies
	// that later.
	began bool
	// The request has a body. Set before the stream is opened.
	hasBody bool
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
	sendDelta    int64  // the send window is c.peer.initialWindow + sendDelta
	headersStart uint64 // c.queued before our HEADERS

	deadlines *deadlines // nil: none was ever set
}

// open checks req, waits for a slot, and appends the request's HEADERS to out. If the body is in
// memory, open also appends as much of it as the windows allow. Taking the identifier, compressing
// and appending happen under one lock, so that they have the same order.
func (c *Conn) open(ctx context.Context, req *Request, ending ending) (*Stream, error) {
	s := &Stream{}
	if err := c.openTurn(ctx, s, req, ending, waitForSlot); err != nil {
		closeReader(req.Body)
		return nil, err
	}
	return s, nil
}

// openTurn is open with a choice how to get the slot, and with memory for the stream. s must be a
// new Stream. If openTurn fails, the caller still has to close the body.
func (c *Conn) openTurn(ctx context.Context, s *Stream, req *Request, ending ending, how slotMode) error {
	if err := c.openAndLock(ctx, s, req, ending, how); err != nil {
		return err
	}
	defer c.unlock()
	s.watchLocked(ctx)
	return nil
}

// openAndLock opens s. If it succeeds, mu is locked and the caller must begin to watch ctx. The
// plan is a variable of this function, so that it is not on the stack of a caller that waits for a
// response. The stacks of waiting callers stay small (see TestWaitingRequestsHaveSmallStacks).
func (c *Conn) openAndLock(ctx context.Context, s *Stream, req *Request, ending ending, how slotMode) error {
	var p preparedRequest
	if err := p.prepareOrRelease(ctx, c, req, ending, how); err != nil {
		return err
	}
	c.mu.Lock()
	err := c.openLocked(ctx, s, &p, how)
	if err != nil {
		c.unlock()
	}
	return err
}

// openLocked takes a slot and opens s for a request that has been checked.
func (c *Conn) openLocked(ctx context.Context, s *Stream, p *preparedRequest, how slotMode) error {
	s.c, s.req, s.bodyLeft, s.hasBody = c, p.Request, -1, p.Body != nil
	s.window.c, s.window.s = c, s
	c.uncorkLocked()
	if err := c.takeSlotLocked(ctx, p.cancel, how); err != nil {
		return err
	}
	if err := c.peerAllowsLocked(ctx, p); err != nil {
		c.giveSlotLocked()
		return err
	}
	c.startLocked(s, p)
	return nil
}

// peerAllowsLocked checks p against the peer's SETTINGS, as far as they are known. An extended
// CONNECT waits for them.
func (c *Conn) peerAllowsLocked(ctx context.Context, p *preparedRequest) error {
	if p.extendedConnect {
		if err := c.waitSettingsLocked(ctx); err != nil && err != c.err {
			return err
		}
		if err := c.takesRequestsLocked(); err != nil {
			return err
		}
		if !c.peer.connectAllowed {
			return &RequestError{":protocol", "is not allowed by the peer's SETTINGS (RFC 8441)"}
		}
	}
	if err := c.peerTakesLocked("header", p.size); err != nil {
		return err
	}
	return c.peerTakesLocked("trailer", p.trailers.listSize())
}

// peerTakesLocked checks the size of a field section against the peer's MAX_HEADER_LIST_SIZE.
func (c *Conn) peerTakesLocked(section string, size int) error {
	if int64(size) <= int64(c.peer.maxHeaderList) {
		return nil
	}
	return &RequestError{section, fmt.Sprintf("takes %d octets; the peer allows %d", size,
		c.peer.maxHeaderList)}
}

// startLocked gives s its identifier, appends its HEADERS to out, and starts sending the body.
func (c *Conn) startLocked(s *Stream, p *preparedRequest) {
	c.adjustInitialWindowLocked()
	s.id = c.nextID
	c.nextID += 2
	c.addLocked(s)
	c.counts.opened++
	if c.nextID > wire.MaxStreamID { // no identifiers are left
		c.stateChanged = true
		c.beginDrainingLocked(ReasonExhausted)
	}
	c.pinging.requested = true
	if len(c.streams) == 1 {
		c.silentFrom = 0
	}
	var flags wire.Flags
	s.mustLocked(state.SendHeaders)
	bodyless := p.body == nil && len(p.inlineBody) == 0 && len(p.trailers) == 0 && p.ending == endWithBody
	if bodyless && p.method() != "CONNECT" {
		flags = wire.EndStream
		s.mustLocked(state.SendEnd)
		s.sender, s.sendErr = nothingToSend, ErrSendEnded
	} else {
		s.sender = &sender{declared: p.length, left: p.length}
	}
	s.headersStart = c.queued
	c.fields.Begin(c.out, s.id, flags)
	p.write(c.fields)
	c.append(c.fields.End(c.peer.maxFrame))
	s.window.credit = c.initialWindow
	if s.openWindowLocked() || bodyless || p.ending == endByCaller {
		return
	}
	if p.expect {
		s.holdBackLocked()
	}
	if p.body != nil {
		go s.upload(p.body, p.length)
		return
	}
	s.sender.pending, s.sender.then, s.sender.trailer = p.inlineBody, afterThis(p.trailers), p.trailers
	c.enqueueLocked(s)
}

// addLocked adds s, which has its identifier, to the connection's streams.
func (c *Conn) addLocked(s *Stream) {
	if c.streams == nil {
		c.streams = make(map[uint32]*Stream)
	}
	c.streams[s.id] = s
	c.peak = max(c.peak, c.knownStreamsLocked())
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
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
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
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
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
// Request.Informational.
func (s *Stream) Read(p []byte) (n int, err error) { return s.read(p) }

// Write sends p as DATA, as fast as the peer's windows allow. It returns when all of p has been
// added to the bytes to write. Write may be called while another goroutine reads. Concurrent calls
// of Write run one after another. If the peer ends the stream early, Write returns a *StreamError.
// If its code is NoError, the response is complete and the peer does not need the rest of the body
// (RFC 9113 §8.1).
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
	if err := checkTrailer(trailer); err != nil {
		return err
	}
	_, err := s.write(nil, trailer.Clone(), afterThis(trailer))
	return err
}

// Reset ends the stream at once in both directions and sends code to the peer. The usual code is
// Cancel. Later calls return a *StreamError that is ErrCanceled. Reset has no effect on a stream
// that has ended.
func (s *Stream) Reset(code ErrCode) {
	s.c.mu.Lock()
	s.resetLocked(streamErr(s.id, code, ErrCanceled))
	s.c.unlock()
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
	s.c.mu.Lock()
	defer s.c.unlock()
	d := &s.deadlinesLocked().read
	d.setLocked(s.c, t, &s.recvQ)
	if s.recvErr != nil {
		d.stop()
	}
}

// SetWriteDeadline is like SetDeadline, for writing only.
func (s *Stream) SetWriteDeadline(t time.Time) {
	s.c.mu.Lock()
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
		c.mu.Lock()
		wake()
		c.unlock()
	})
}

// recvHeadersLocked processes a field section: an interim response, the final response, or
// trailers.
func (s *Stream) recvHeadersLocked(f *frame) error {
	s.began = true
	end := f.Flags.Has(wire.EndStream)
	next, err := s.state.Next(state.RecvHeaders)
	if err != nil {
		return s.violationLocked(err)
	}
	if f.oversize > 0 {
		return s.tooLargeLocked(f)
	}
	s.holdSectionLocked()
	awaited := s.message == state.AwaitingHeaders
	if awaited {
		err = s.recvResponseLocked(f.fields, f.head, end)
	} else {
		err = s.recvTrailersLocked(f.fields, f.head, end)
	}
	if err != nil {
		return s.malformedLocked(err)
	}
	if s.message != state.AwaitingHeaders {
		if awaited && s.window.update(WindowEvent{Kind: WindowHeaders}) {
			return nil
		}
		if s.push != nil && !s.push.chargeLocked(fieldsSize(f.fields)) {
			return nil
		}
	}
	s.state = next
	if end && s.response.ContentLength < 0 && s.message == state.InBody && s.req.method() != "HEAD" {
		s.response.ContentLength = 0
	}
	s.wakeReaderLocked()
	if end {
		return s.recvEndLocked()
	}
	return nil
}

// recvDataLocked processes a part of a DATA frame. The first part checks the rules for the whole
// frame. The frame was already charged to the connection's window, so after an error its bytes must
// be returned to that window.
func (s *Stream) recvDataLocked(f *frame) error {
	if f.first {
		body := f.Length - f.padding
		if no := s.bookDataLocked(f, body); no != nil {
			s.c.window.consume(body)
			return no.judge(s)
		}
		ev := WindowEvent{Kind: WindowData, Bytes: f.Length, Padding: f.padding,
			End: f.Flags.Has(wire.EndStream)}
		if s.window.update(ev) || s.window.discard(f.padding) {
			return nil
		}
		if s.push != nil && !s.push.chargeLocked(int64(body)) {
			return nil
		}
	}
	s.c.frames.moveTo(&s.buf, f)
	s.c.yieldToReader = s.c.yieldToReader || s.buf.Len() >= farAhead
	if len(f.payload) > 0 {
		s.wakeReaderLocked()
	}
	if f.last && f.Flags.Has(wire.EndStream) {
		return s.recvEndLocked()
	}
	return nil
}

// farAhead is how many unread bytes of a body make readLoop yield to the body's reader. It is about
// the size of the processor's cache.
const farAhead = 32 << 10

// A refusal is the reason why a DATA frame is refused.
type refusal struct {
	code   ErrCode // 0: reason decides
	reason error
}

// judge ends the stream for the refusal. It returns an error if the connection must end.
func (r *refusal) judge(s *Stream) error {
	switch r.reason.(type) {
	case *state.Violation:
		return s.violationLocked(r.reason)
	case *state.Misplaced, *MalformedError:
		return s.malformedLocked(r.reason)
	}
	return s.rejectLocked(r.code, r.reason)
}

// bookDataLocked checks a DATA frame with body bytes of data. If it is allowed, bookDataLocked
// subtracts it from the receive window and from the content-length.
func (s *Stream) bookDataLocked(f *frame, body int) *refusal {
	next, err := s.state.Next(state.RecvData)
	if err != nil {
		return &refusal{reason: err}
	}
	message, err := s.message.Next(state.Body)
	if err != nil {
		return &refusal{reason: err}
	}
	if body > 0 && s.response.bodyless() {
		return &refusal{reason: &MalformedError{fmt.Sprintf("a body in a response to %s with status %d",
			s.req.method(), s.response.StatusCode)}}
	}
	left := s.bodyLeft
	if left >= 0 {
		// RFC 9113 §8.1.1: a response whose content-length does not equal the sum of its DATA is
		// malformed.
		if left -= int64(body); left < 0 {
			return &refusal{reason: &MalformedError{"the body is longer than its content-length"}}
		}
	}
	// RFC 9113 §6.9.1: DATA that exceeds the stream's window is a FLOW_CONTROL_ERROR of the stream.
	if !s.window.receive(f.Length, f.padding) {
		return &refusal{ErrCodeFlowControl, fmt.Errorf("DATA of %d octets exceeds the window", f.Length)}
	}
	s.state, s.message, s.bodyLeft = next, message, left
	return nil
}

// recvEndLocked processes the peer's END_STREAM.
func (s *Stream) recvEndLocked() error {
	switch {
	case s.message == state.AwaitingHeaders:
		return s.malformedLocked(&MalformedError{"END_STREAM before the final response"})
	case s.bodyLeft > 0 && !s.response.bodyless():
		short := &MalformedError{fmt.Sprintf("the body ends %d octets before its content-length", s.bodyLeft)}
		err := streamErr(s.id, ErrCodeProtocol, fmt.Errorf("%w: %w", short, io.ErrUnexpectedEOF))
		// This takes the place of io.EOF. The data before it is valid and stays readable.
		s.recvErr = err
		s.resetLocked(err)
		return s.c.countProvokedResetLocked()
	}
	s.mustLocked(state.RecvEnd)
	s.bodyLeft = 0
	s.recvErr = io.EOF
	s.deadlines.stopReading()
	s.recvQ.WakeAll()
	s.closeWindowLocked()
	switch {
	case s.state == state.Closed:
		s.removeLocked()
	case s.response.StatusCode >= 300 && s.hasBody:
		// The response is complete, and it is an error or a redirect. It does not depend on the
		// rest of our body, so stop sending it (RFC 9113 §8.1).
		s.resetSendingLocked()
	}
	return nil
}

// recvResetLocked processes the peer's RST_STREAM.
func (s *Stream) recvResetLocked(code ErrCode) error {
	complete := s.recvErr == io.EOF
	s.mustLocked(state.RecvReset)
	s.c.owner.count(resetsReceived, code)
	err := &StreamError{StreamID: s.id, Code: code, FromPeer: true, processed: s.processedLocked()}
	if !complete {
		s.recvErr = err
	}
	// RFC 9113 §8.1: after a complete response, RST_STREAM only asks us to stop sending. Its usual
	// code is then NO_ERROR.
	s.finishLocked(err)
	s.removeLocked()
	return s.c.chargeNoiseLocked()
}

// processedLocked returns what the response says of the peer's work on the request.
func (s *Stream) processedLocked() processed {
	if s.began {
		return surelyProcessed
	}
	return maybeProcessed
}

// endLocked ends the stream and sends nothing, because a GOAWAY says that the peer did not process
// the stream.
func (s *Stream) endLocked(err error) {
	s.state = state.Closed
	if s.recvErr == nil {
		s.recvErr = err
	}
	s.finishLocked(err)
	s.removeLocked()
}

// lostLocked ends the stream because its connection has ended. It reports whether the request was
// never sent.
func (s *Stream) lostLocked(err error) (unsent bool) {
	if ce, ok := err.(*ConnError); ok && s.headersStart >= s.c.written && s.push == nil && !s.began {
		unsent = true
		told := *ce
		told.processed = neverProcessed
		err = &told
	}
	s.state = state.Closed
	if err == ErrClosed {
		s.dropLocked(err)
	} else if s.recvErr == nil {
		s.recvErr = err
	}
	s.finishLocked(err)
	s.unwatchLocked()
	s.signalDoneLocked()
	return unsent
}

// finishLocked wakes all calls that wait on a stream that has ended. Received data stays readable
// unless it was dropped.
func (s *Stream) finishLocked(err error) {
	s.stopSendingLocked(err)
	s.deadlines.stopReading()
	s.recvQ.WakeAll()
	s.closeWindowLocked()
}

// sendResetLocked appends our RST_STREAM to out.
func (s *Stream) sendResetLocked(code ErrCode) {
	c := s.c
	s.mustLocked(state.SendReset)
	c.owner.count(resetsSent, code)
	c.append(wire.AppendRSTStream(c.out, s.id, wire.ErrCode(code)))
	// The peer will not learn of window that was granted and not announced yet.
	held := s.push == nil && c.holdsSlotsLocked()
	c.slots.mark(s.id, resetMark{ping: c.pingsSent, credit: s.window.credit - s.window.pending, held: held})
}

// abort resets the stream for a reason on our side: its context, its body or its caller.
func (s *Stream) abort(reason error) {
	s.c.mu.Lock()
	s.resetLocked(streamErr(s.id, ErrCodeCancel, reason))
	if reason == errRequestCanceled || errors.Is(reason, context.DeadlineExceeded) {
		s.c.suspectLocked(s)
	}
	s.c.unlock()
}

// abandon ends a stream that its caller no longer needs. It has no effect on a stream that was not
// opened.
func (s *Stream) abandon() {
	if s.id > 0 {
		s.abort(ErrCanceled)
		s.closeRead()
	}
}

// resetLocked ends the stream in both directions and sends RST_STREAM. Unread data is dropped, and
// returned to the connection's window.
func (s *Stream) resetLocked(err *StreamError) {
	if s.state == state.Closed {
		return
	}
	c := s.c
	s.sendResetLocked(err.Code)
	// Otherwise the error follows the unread data, which stays.
	if s.recvErr != error(err) {
		whole := s.readLocked()
		s.dropLocked(err)
		if whole && c.unclaimed != nil {
			s.extrasLocked().whole = true
		} else {
			s.cancelPromisesLocked()
		}
	}
	s.finishLocked(err)
	s.removeLocked()
	c.pingForSlotsLocked()
}

// cancelLocked ends the stream because the caller no longer needs it. It resets a stream that has
// not ended, and drops the unread data of one that has.
func (s *Stream) cancelLocked() {
	switch {
	case s.state != state.Closed:
		s.resetLocked(streamErr(s.id, ErrCodeCancel, ErrCanceled))
	case s.dropped || s.readLocked():
	case s.recvErr == io.EOF:
		s.dropLocked(streamErr(s.id, ErrCodeCancel, ErrCanceled))
	default:
		s.dropLocked(s.recvErr)
	}
}

// dropLocked drops unread data. Readers get err from now on.
func (s *Stream) dropLocked(err error) {
	s.recvErr, s.dropped = err, true
	s.buf.Reset()
	if s.extras != nil {
		s.extras.interims.waiting = nil
	}
	unread := int(s.window.unread)
	s.window.unread = 0
	s.window.close()
	s.c.window.consume(unread)
}

// closeWindowLocked closes the receive window when nothing more can be received and no data is
// unread.
func (s *Stream) closeWindowLocked() {
	if s.recvErr == nil {
		return
	}
	s.agePromisesLocked()
	if s.buf.Len() == 0 {
		s.window.close()
	} else {
		s.window.stopTimer()
	}
}

// removeLocked removes a closed stream from the connection.
func (s *Stream) removeLocked() {
	c := s.c
	if c.streams[s.id] != s {
		return
	}
	delete(c.streams, s.id)
	if len(c.streams) == 0 {
		c.idleSince = c.clock()
		if at := c.staleAtLocked(); at > 0 {
			c.armLocked(at)
		}
		c.stateChanged = c.stateChanged || c.slots.tellsIdle != nil && c.slots.tellsIdle.Load()
	}
	s.unwatchLocked()
	s.signalDoneLocked()
	s.freeSectionsLocked(false)
	if s.push == nil && !c.slots.reset[s.id].held {
		c.giveSlotLocked()
	}
	if s.push != nil {
		s.push.releaseQuotaLocked()
	}
	c.trimLaterLocked()
	c.closeIfDrainedLocked()
}

// watchLocked makes the stream end when ctx ends or when the request's Cancel channel is closed.
func (s *Stream) watchLocked(ctx context.Context) {
	if s.stop != nil || s.state == state.Closed {
		return
	}
	if ctx.Done() != nil {
		s.stop = context.AfterFunc(ctx, func() { s.abort(contextError(ctx)) })
	}
	if s.req.cancel != nil {
		s.stop = s.watchCancel(s.stop)
	}
}

// watchCancel aborts s when the request's Cancel channel is closed. It returns a function that ends
// this watch, and other if that is not nil.
func (s *Stream) watchCancel(other func() bool) (stop func() bool) {
	stopped, cancel := make(chan struct{}), s.req.cancel
	go func() {
		select {
		case <-cancel:
			s.abort(errRequestCanceled)
		case <-stopped:
		}
	}()
	return func() bool {
		close(stopped)
		return other == nil || other()
	}
}

// unwatchLocked ends the watch over the context and the Cancel channel.
func (s *Stream) unwatchLocked() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

// violationLocked handles a frame that the stream's state does not allow (RFC 9113 §5.1).
func (s *Stream) violationLocked(err error) error {
	if s.state == state.HalfClosedRemote {
		return s.rejectLocked(ErrCodeStreamClosed, err)
	}
	return connErr(ErrCodeProtocol, "stream %d: %w", s.id, err)
}

// malformedLocked resets the stream because its response is malformed (RFC 9113 §8.1.1).
func (s *Stream) malformedLocked(err error) error {
	var m *MalformedError
	if !errors.As(err, &m) {
		err = &MalformedError{err.Error()}
	}
	return s.rejectLocked(ErrCodeProtocol, err)
}

// rejectLocked resets the stream because the peer broke a rule, and charges the budget for such
// resets.
func (s *Stream) rejectLocked(code ErrCode, reason error) error {
	s.resetLocked(streamErr(s.id, code, reason))
	return s.c.countProvokedResetLocked()
}

// mustLocked changes the state by an event that is known to be allowed.
func (s *Stream) mustLocked(e state.Event) {
	next, err := s.state.Next(e)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	s.state = next
}

// wakeReaderLocked makes the stream's readers wake after the frames in the read buffer were
// processed. So a response and its body wake them once.
func (s *Stream) wakeReaderLocked() {
	if !s.wakeDue && !s.recvQ.Empty() {
		s.wakeDue = true
		s.c.wakeups = append(s.c.wakeups, s)
	}
}

// read reads bytes of the body, as the peer sent them, into p.
func (s *Stream) read(p []byte) (n int, err error) {
	c := s.c
	if s.over.Load() && !c.isDone() {
		return 0, io.EOF
	}
	c.mu.Lock()
	defer c.unlock()
	for {
		switch {
		case c.closed:
			return 0, ErrClosed
		case s.dropped:
			return 0, s.recvErr
		case s.deadlines.readPassed():
			return 0, os.ErrDeadlineExceeded
		case s.buf.Len() > 0:
			if len(p) == 0 {
				return 0, nil
			}
			n = s.buf.Read(p)
			s.consumeLocked(n)
			if s.readLocked() && s.state == state.Closed && !s.extras.promised() {
				s.freeSectionsLocked(true)
				s.over.Store(true)
			}
			return n, nil
		case s.recvErr != nil:
			s.freeSectionsLocked(true)
			return 0, s.recvErr
		case len(p) == 0:
			return 0, nil
		}
		if s.blockedLocked() {
			continue
		}
		c.window.addReader()
		s.window.addReader()
		err := s.waitLocked(context.Background(), &s.recvQ)
		s.window.removeReader()
		c.window.removeReader()
		if err != nil {
			s.resetLocked(streamErr(s.id, ErrCodeCancel, err))
		}
	}
}

// consumeLocked reports n bytes as read, to the connection's window first.
func (s *Stream) consumeLocked(n int) {
	s.c.readClockLocked()
	s.c.window.consume(n)
	s.window.consume(n)
	s.closeWindowLocked()
}

// blockedLocked tells the window managers if a reader waits and the window is closed to the peer.
// It reports whether one of them ended the stream.
func (s *Stream) blockedLocked() (ended bool) {
	s.c.readClockLocked()
	return s.c.window.blocked() || s.window.blocked()
}

// closeRead implements Body.Close. It does not change an exchange that is complete; it cancels any
// other.
func (s *Stream) closeRead() {
	c := s.c
	if s.over.Load() {
		return
	}
	c.mu.Lock()
	defer c.unlock()
	whole := s.readLocked() || s.extras.wasWhole()
	s.cancelLocked()
	s.freeSectionsLocked(true)
	if !whole {
		s.cancelPromisesLocked()
	}
}

// readLocked reports whether the body was read to its regular end.
func (s *Stream) readLocked() bool { return s.recvErr == io.EOF && s.buf.Len() == 0 }

// contextError returns the error of a context that has ended, together with its cause if that is
// different.
func contextError(ctx context.Context) error {
	err := ctx.Err()
	if cause := context.Cause(ctx); cause != nil && cause != err {
		return &causedError{err, cause}
	}
	return err
}
