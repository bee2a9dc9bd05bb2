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

// A Stream is one exchange on a connection, both directions in the caller's hand. Its methods may be called from any
// goroutines at once. When it has ended, by whatever cause, they return the same error each time; what had arrived before
// the peer or the network ended it can still be read.
type Stream struct {
	c    *Conn
	id   uint32
	req  *Request
	push *Push // nil: we opened it

	bodyClosed atomic.Bool // req.Body
	over       atomic.Bool // what readLocked and state.Closed say, and no promise is left: reading and closing need no lock

	// The rest is guarded by c.mu.

	state    state.State
	message  state.Message // the peer's
	dropped  bool          // the caller ended it: nothing is handed out any more
	answered bool          // response is filled in
	wakeDue  bool          // in c.wakeups
	borrows  bool          // RoundTrip's: the response's Header is only looked at
	began    bool          // something of a response came: the request was processed, whatever the peer says later
	hasBody  bool          // the request has one; set before the stream is opened
	stop     func() bool   // ends the watch over the context and Request.cancel; nil: there is none

	// what the peer sends
	window   Window
	buf      buffer.Buffer
	bodyLeft int64   // octets due by content-length, -1 unknown
	recvErr  error   // what follows the octets in buf: io.EOF, or why the stream ended; nil: more may come
	extras   *extras // nil: there are none
	response Response
	recvQ    wait.Queue

	// what we send
	sender       *sender
	sendErr      error  // why nothing more can be sent
	sendDelta    int64  // the send window is c.peer.initialWindow + sendDelta
	headersStart uint64 // c.queued before our HEADERS

	deadlines *deadlines // nil: none was ever set
}

// open checks req, waits for its turn, and puts its HEADERS among the bytes to write, with as much of a body in
// memory as windows allow. Identifier, compression state and bytes are one critical section.
func (c *Conn) open(ctx context.Context, req *Request, ending ending) (*Stream, error) {
	s := &Stream{}
	if err := c.openTurn(ctx, s, req, ending, inTurn); err != nil {
		closeReader(req.Body)
		return nil, err
	}
	return s, nil
}

// openTurn is open for those who have their own ways to a slot, with the body where the request is not sent, and with memory
// for the stream, which is nobody's before.
func (c *Conn) openTurn(ctx context.Context, s *Stream, req *Request, ending ending, how turn) error {
	if err := c.openAndLock(ctx, s, req, ending, how); err != nil {
		return err
	}
	defer c.unlock()
	s.watchLocked(ctx)
	return nil
}

// openAndLock opens s and leaves mu locked, unless it fails. It is for the caller to watch over ctx from then on. The plan is not on the stack
// of those who wait for a response: with it, one under an http.Client takes 8 KiB.
func (c *Conn) openAndLock(ctx context.Context, s *Stream, req *Request, ending ending, how turn) error {
	var p plan
	if err := p.makeOrRelease(ctx, c, req, ending, how); err != nil {
		return err
	}
	c.mu.Lock()
	err := c.openLocked(ctx, s, &p, how)
	if err != nil {
		c.unlock()
	}
	return err
}

// openLocked opens s for a request that has passed.
func (c *Conn) openLocked(ctx context.Context, s *Stream, p *plan, how turn) error {
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

// peerAllowsLocked holds p against the peer's SETTINGS, as far as they are known; an extended CONNECT waits for them.
func (c *Conn) peerAllowsLocked(ctx context.Context, p *plan) error {
	if p.tunnels {
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

// peerTakesLocked holds the size of a field section against the peer's MAX_HEADER_LIST_SIZE.
func (c *Conn) peerTakesLocked(section string, size int) error {
	if int64(size) <= int64(c.peer.maxHeaderList) {
		return nil
	}
	return &RequestError{section, fmt.Sprintf("takes %d octets; the peer allows %d", size, c.peer.maxHeaderList)}
}

// startLocked opens s.
func (c *Conn) startLocked(s *Stream, p *plan) {
	c.adjustInitialWindowLocked()
	s.id = c.nextID
	c.nextID += 2
	c.addLocked(s)
	c.counts.opened++
	if c.nextID > wire.MaxStreamID { // it was the last
		c.news = true
		c.beginDrainingLocked(ReasonExhausted)
	}
	c.pinging.requested = true
	if len(c.streams) == 1 {
		c.silentFrom = 0
	}
	var flags wire.Flags
	s.mustLocked(state.SendHeaders)
	bodyless := p.body == nil && len(p.memory) == 0 && len(p.trailers) == 0 && p.ending == endWithBody
	if bodyless && p.method() != "CONNECT" {
		flags = wire.EndStream
		s.mustLocked(state.SendEnd)
		s.sender, s.sendErr = nothingToSend, ErrSendEnded
	} else {
		s.sender = &sender{declared: p.length, left: p.length}
	}
	s.headersStart = c.queued
	c.fields.begin(c.out, s.id, flags)
	p.write(c.fields)
	c.append(c.fields.end(c.peer.maxFrame))
	s.window.credit = c.initialWindow
	if s.openWindowLocked(); s.state == state.Closed { // the window manager ended it
		return
	}
	if bodyless || p.ending == endByCaller {
		return
	}
	if p.expect {
		s.holdBackLocked()
	}
	if p.body != nil {
		go s.upload(p.body, p.length)
		return
	}
	s.sender.pending, s.sender.then, s.sender.trailer = p.memory, afterThis(p.trailers), p.trailers
	c.enqueueLocked(s)
}

// addLocked puts a stream that has its identifier on the connection.
func (c *Conn) addLocked(s *Stream) {
	if c.streams == nil {
		c.streams = make(map[uint32]*Stream)
	}
	c.streams[s.id] = s
	c.peak = max(c.peak, c.knownStreamsLocked())
}

// openWindowLocked gives the receive window its manager: a request's at once, a push's when it is claimed.
func (s *Stream) openWindowLocked() {
	if s.window.managed || s.window.ended() {
		return
	}
	s.window.managed = true
	factory := s.c.cfg.WindowManager
	if s.req.WindowManager != nil {
		factory = s.req.WindowManager
	}
	s.window.open(factory)
	if n := int(s.window.total); n > 0 { // of a push: managers that answer to what comes must hear of what came before
		padding := n - int(s.window.unread)
		s.window.update(WindowEvent{Kind: WindowData, Bytes: n, Padding: padding})
		if padding > 0 {
			s.window.update(WindowEvent{Kind: WindowConsumed, Bytes: padding})
		}
	}
}

// ID returns the stream identifier: odd for a request of ours, even for a push.
func (s *Stream) ID() uint32 { return s.id }

// Conn returns the connection.
func (s *Stream) Conn() *Conn { return s.c }

// Write sends p as DATA, as fast as the peer's windows allow, and returns when the library has taken all of it. It may be
// called while another goroutine reads; calls of Write take turns. An early end by the peer is a *StreamError: with NoError
// the response is complete and the peer wants no more (RFC 9113 §8.1).
func (s *Stream) Write(p []byte) (n int, err error) { return s.write(p, nil, nothingYet) }

// CloseWrite ends our side of the stream: END_STREAM on an empty DATA frame. Reading goes on.
func (s *Stream) CloseWrite() error {
	_, err := s.write(nil, nil, endStream)
	return err
}

// SendTrailers ends our side of the stream with a field section. A section that cannot be sent, or
// is larger than the peer's MAX_HEADER_LIST_SIZE, is a *RequestError and leaves the stream as it
// was. trailer may be changed when SendTrailers has returned.
func (s *Stream) SendTrailers(trailer Header) error {
	if err := checkTrailer(trailer); err != nil {
		return err
	}
	_, err := s.write(nil, trailer.Clone(), afterThis(trailer))
	return err
}

// Reset ends the stream at once in both directions and tells the peer code, usually Cancel. Later calls return a
// *StreamError that is ErrCanceled. A stream that has ended already stays as it is.
func (s *Stream) Reset(code ErrCode) {
	s.c.mu.Lock()
	s.resetLocked(streamErr(s.id, code, ErrCanceled))
	s.c.unlock()
}

// SetDeadline sets the time after which Write, and the reading of the response and its body, fail with
// os.ErrDeadlineExceeded. They work again under a later deadline; zero is none. The stream itself goes on.
func (s *Stream) SetDeadline(t time.Time) {
	s.SetReadDeadline(t)
	s.SetWriteDeadline(t)
}

// SetReadDeadline is SetDeadline for reading.
func (s *Stream) SetReadDeadline(t time.Time) {
	s.c.mu.Lock()
	defer s.c.unlock()
	d := &s.deadlinesLocked().read
	d.setLocked(s.c, t, &s.recvQ)
	if s.recvErr != nil {
		d.stop()
	}
}

// SetWriteDeadline is SetDeadline for writing.
func (s *Stream) SetWriteDeadline(t time.Time) {
	s.c.mu.Lock()
	defer s.c.unlock()
	d := &s.deadlinesLocked().write
	d.setLocked(s.c, t, &s.sender.sent, &s.sender.turn)
	if s.sendErr != nil {
		d.stop()
	}
}

// deadlines are a stream's, which few ever have. Nil: none was ever set.
type deadlines struct{ read, write deadline }

func (s *Stream) deadlinesLocked() *deadlines {
	if s.deadlines == nil {
		s.deadlines = &deadlines{}
	}
	return s.deadlines
}

func (d *deadlines) readPassed() bool  { return d != nil && d.read.passed() }
func (d *deadlines) writePassed() bool { return d != nil && d.write.passed() }

// stopReading and stopWriting: no call will wait any more.
func (d *deadlines) stopReading() {
	if d != nil {
		d.read.stop()
	}
}

func (d *deadlines) stopWriting() {
	if d != nil {
		d.write.stop()
	}
}

// A deadline is a point in time, at which a timer wakes the callers that wait.
type deadline struct {
	at    time.Time   // zero: there is none
	timer *time.Timer // nil: no call waits past at
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

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
	d.at = now.Add(left)                    // by the clock that the timer goes by
	d.timer = time.AfterFunc(left, func() { // whoever wakes looks at the deadline as it is then
		c.mu.Lock()
		wake()
		c.unlock()
	})
}

// recvHeadersLocked takes a field section: an interim or the final response, or trailers.
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
	if s.message == state.AwaitingHeaders {
		err = s.recvResponseLocked(f.fields, f.head, end)
	} else {
		err = s.recvTrailersLocked(f.fields, f.head, end)
	}
	if err != nil {
		return s.malformedLocked(err)
	}
	if s.push != nil && s.message != state.AwaitingHeaders {
		s.push.chargeLocked(fieldsSize(f.fields))
	}
	if s.state == state.Closed { // the window manager ended it, or there was no room for a push
		return nil
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

// recvDataLocked takes a part of a DATA frame. What the frame as a whole must obey is judged at its first part,
// where the connection's window has been charged already: on an error that has to be given back.
func (s *Stream) recvDataLocked(f *frame) error {
	if f.first {
		body := f.Length - f.padding
		if no := s.bookDataLocked(f, body); no != nil {
			s.c.window.consume(body)
			return no.judge(s)
		}
		s.window.update(WindowEvent{Kind: WindowData, Bytes: f.Length, Padding: f.padding, End: f.Flags.Has(wire.EndStream)})
		s.window.discard(f.padding)
		if s.push != nil {
			s.push.chargeLocked(int64(body))
		}
		if s.state == state.Closed { // the window manager ended it, or there was no room for a push
			return nil
		}
	}
	s.c.frames.moveTo(&s.buf, f)
	s.c.ahead = s.c.ahead || s.buf.Len() >= farAhead
	if len(f.payload) > 0 {
		s.wakeReaderLocked()
	}
	if f.last && f.Flags.Has(wire.EndStream) {
		return s.recvEndLocked()
	}
	return nil
}

// farAhead is how much of a body may wait for its reader before readLoop yields to it: about what caches hold.
const farAhead = 32 << 10

// A refusal is why a DATA frame cannot be taken.
type refusal struct {
	code   ErrCode // 0: as the error says
	reason error
}

func (r *refusal) judge(s *Stream) error {
	switch r.reason.(type) {
	case *state.Violation:
		return s.violationLocked(r.reason)
	case *state.Misplaced, *MalformedError:
		return s.malformedLocked(r.reason)
	}
	return s.rejectLocked(r.code, r.reason)
}

// bookDataLocked checks a DATA frame of body octets and padding, and takes it from window and content-length.
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
		return &refusal{reason: &MalformedError{fmt.Sprintf("a body in a response to %s with status %d", s.req.method(), s.response.Status)}}
	}
	left := s.bodyLeft
	if left >= 0 {
		// RFC 9113 §8.1.1: a content-length that does not equal the sum of the DATA is malformed.
		if left -= int64(body); left < 0 {
			return &refusal{reason: &MalformedError{"the body is longer than its content-length"}}
		}
	}
	// RFC 9113 §6.9.1: beyond what we granted is a FLOW_CONTROL_ERROR, of the stream here.
	if !s.window.receive(f.Length, f.padding) {
		return &refusal{FlowControlError, fmt.Errorf("DATA of %d octets exceeds the window", f.Length)}
	}
	s.state, s.message, s.bodyLeft = next, message, left
	return nil
}

// recvEndLocked takes the peer's END_STREAM.
func (s *Stream) recvEndLocked() error {
	switch {
	case s.message == state.AwaitingHeaders:
		return s.malformedLocked(&MalformedError{"END_STREAM before the final response"})
	case s.bodyLeft > 0 && !s.response.bodyless():
		short := &MalformedError{fmt.Sprintf("the body ends %d octets before its content-length", s.bodyLeft)}
		err := streamErr(s.id, ProtocolError, fmt.Errorf("%w: %w", short, io.ErrUnexpectedEOF))
		s.recvErr = err // where io.EOF would be: what came is good as far as it goes, and stays readable
		s.resetLocked(err)
		return s.c.provokedLocked()
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
	case s.response.Status >= 300 && s.hasBody:
		// The response is complete and an error or a redirect: it does not depend on the rest of our body, and
		// nobody will want it (RFC 9113 §8.1).
		s.resetSendingLocked()
	}
	return nil
}

// recvResetLocked takes the peer's RST_STREAM.
func (s *Stream) recvResetLocked(code ErrCode) error {
	complete := s.recvErr == io.EOF
	s.mustLocked(state.RecvReset)
	s.c.owner.count(resetsReceived, code)
	err := &StreamError{StreamID: s.id, Code: code, FromPeer: true, began: s.began}
	if !complete {
		s.recvErr = err
	}
	// RFC 9113 §8.1: after a complete response RST_STREAM, with NO_ERROR above all, only asks us to stop sending.
	s.finishLocked(err)
	s.removeLocked()
	return s.c.noiseLocked()
}

// endLocked ends the stream without a frame of ours: a GOAWAY says that the peer never looked at it.
func (s *Stream) endLocked(err error) {
	s.state = state.Closed
	if s.recvErr == nil {
		s.recvErr = err
	}
	s.finishLocked(err)
	s.removeLocked()
}

// lostLocked ends the stream with its connection. It reports whether the error says that the request was never sent.
func (s *Stream) lostLocked(err error) (unsent bool) {
	if ce, ok := err.(*ConnError); ok && s.headersStart >= s.c.written && s.push == nil && !s.began {
		unsent = true
		unprocessed := *ce
		unprocessed.unprocessed = true
		err = &unprocessed
	}
	s.state = state.Closed
	if err == ErrClosed {
		s.dropLocked(err)
	} else if s.recvErr == nil {
		s.recvErr = err
	}
	s.finishLocked(err)
	s.unwatchLocked()
	return unsent
}

// finishLocked tells everybody who waits on a stream that is over. What came stays readable, unless it was dropped.
func (s *Stream) finishLocked(err error) {
	s.stopSendingLocked(err)
	s.deadlines.stopReading()
	s.recvQ.WakeAll()
	s.closeWindowLocked()
}

// sendResetLocked puts our RST_STREAM among the bytes to write.
func (s *Stream) sendResetLocked(code ErrCode) {
	c := s.c
	s.mustLocked(state.SendReset)
	c.owner.count(resetsSent, code)
	c.append(wire.AppendRSTStream(c.out, s.id, wire.ErrCode(code)))
	// What was granted and is not announced yet, the peer will never hear of.
	held := s.push == nil && c.holdsSlotsLocked()
	c.slots.mark(s.id, resetMark{ping: c.pingsSent, credit: s.window.credit - s.window.pending, held: held})
}

// abort resets the stream because of something on this side: its context, its body, its caller.
func (s *Stream) abort(reason error) {
	s.c.mu.Lock()
	s.resetLocked(streamErr(s.id, Cancel, reason))
	if reason == errRequestCanceled || errors.Is(reason, context.DeadlineExceeded) {
		s.c.suspectLocked(s)
	}
	s.c.unlock()
}

// abandon ends a stream whose caller is gone. One that was never opened has nothing to end.
func (s *Stream) abandon() {
	if s.id > 0 {
		s.abort(ErrCanceled)
		s.closeRead()
	}
}

// resetLocked ends the stream in both directions and tells the peer. What is unread is dropped, its credit returned.
func (s *Stream) resetLocked(err *StreamError) {
	if s.state == state.Closed {
		return
	}
	c := s.c
	s.sendResetLocked(err.Code)
	if s.recvErr != error(err) { // else it stands behind what is unread
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

// cancelLocked ends the stream because the caller wants no more of it: reset if it still goes on, else what is unread is dropped.
func (s *Stream) cancelLocked() {
	switch {
	case s.state != state.Closed:
		s.resetLocked(streamErr(s.id, Cancel, ErrCanceled))
	case s.dropped || s.readLocked():
	case s.recvErr == io.EOF:
		s.dropLocked(streamErr(s.id, Cancel, ErrCanceled))
	default:
		s.dropLocked(s.recvErr)
	}
}

// dropLocked forgets what is unread; readers get err from now on.
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

// closeWindowLocked ends the receive window's books once nothing more can come and nothing is held.
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

// removeLocked takes a closed stream off the connection.
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
		c.news = c.news || c.slots.tellsIdle != nil && c.slots.tellsIdle.Load()
	}
	s.unwatchLocked()
	s.freeSectionsLocked(false)
	if s.push == nil && !c.slots.reset[s.id].held {
		c.giveSlotLocked()
	}
	if s.push != nil {
		s.push.settleLocked()
	}
	c.trimLaterLocked()
	c.closeIfDrainedLocked()
}

// watchLocked makes the end of ctx, and of the request's Cancel, the end of the stream.
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

// watchCancel aborts s when the request's Cancel is closed. It returns a function that ends this
// watch and another one, if there is one.
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

func (s *Stream) unwatchLocked() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

// violationLocked judges a frame that the stream's state does not allow (RFC 9113 §5.1).
func (s *Stream) violationLocked(err error) error {
	if s.state == state.HalfClosedRemote {
		return s.rejectLocked(StreamClosed, err)
	}
	return connErr(ProtocolError, "stream %d: %w", s.id, err)
}

// malformedLocked ends the stream of a response that breaks RFC 9113 §8.1.1.
func (s *Stream) malformedLocked(err error) error {
	var m *MalformedError
	if !errors.As(err, &m) {
		err = &MalformedError{err.Error()}
	}
	return s.rejectLocked(ProtocolError, err)
}

// rejectLocked resets the stream because the peer broke a rule. There is a budget for that, too.
func (s *Stream) rejectLocked(code ErrCode, reason error) error {
	s.resetLocked(streamErr(s.id, code, reason))
	return s.c.provokedLocked()
}

// mustLocked moves the state by something that was checked to be allowed.
func (s *Stream) mustLocked(e state.Event) {
	next, err := s.state.Next(e)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	s.state = next
}

// wakeReaderLocked wakes readers when the frames at hand are dealt with: a response and its body are one wake.
func (s *Stream) wakeReaderLocked() {
	if !s.wakeDue && !s.recvQ.Empty() {
		s.wakeDue = true
		s.c.wakeups = append(s.c.wakeups, s)
	}
}

// read moves octets of the body, as they were sent, into p.
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
		s.starveLocked()
		if s.recvErr != nil { // the window manager ended it
			continue
		}
		c.window.enter()
		s.window.enter()
		err := s.waitLocked(context.Background(), &s.recvQ)
		s.window.leave()
		c.window.leave()
		if err != nil {
			s.resetLocked(streamErr(s.id, Cancel, err))
		}
	}
}

// consumeLocked books n octets as read: the connection's window first.
func (s *Stream) consumeLocked(n int) {
	s.c.readClockLocked()
	s.c.window.consume(n)
	s.window.consume(n)
	s.closeWindowLocked()
}

// starveLocked tells the managers that a reader waits for a peer that may not send.
func (s *Stream) starveLocked() {
	s.c.readClockLocked()
	s.c.window.starve()
	s.window.starve()
}

// closeRead is Body.Close: nobody will read any more. An exchange that is over stays as it was, any other is cancelled.
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

// readLocked reports whether the body was read to its orderly end.
func (s *Stream) readLocked() bool { return s.recvErr == io.EOF && s.buf.Len() == 0 }

// contextError is the error of a context that has ended; a cause that is more than that is kept beside it.
func contextError(ctx context.Context) error {
	err := ctx.Err()
	if cause := context.Cause(ctx); cause != nil && cause != err {
		return &causedError{err, cause}
	}
	return err
}
