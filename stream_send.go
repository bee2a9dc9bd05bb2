package hyper

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"gohyper.dev/hyper/internal/fieldblock"
	"gohyper.dev/hyper/internal/netconn"
	"gohyper.dev/hyper/internal/state"
	"gohyper.dev/hyper/internal/wait"
	"gohyper.dev/hyper/internal/wire"
)

// A sender is the sending half of a stream after its HEADERS.
type sender struct {
	pending  []byte   // the argument of send, or the body in memory
	then     after    // what follows pending
	priority Priority // of the body
	at       int32    // index in a streamHeap
	trailer  Header
	layout   *fieldblock.Layout // of trailer; nil: the writer's own
	declared int64              // content-length; -1: unknown
	left     int64              // bytes of it that the caller has not written yet
	held     bool               // waiting for 100 (Continue), as Expect: 100-continue demands
	timer    *time.Timer
	busy     bool       // a call of send is running
	turn     wait.Queue // calls of send that wait for busy, and waits for the end of held
	sent     wait.Queue // the call of send that waits until pending is sent
	progress uploadProgress

	in         *sendQueue // nil: none
	prev, next *Stream
}

// nothingToSend is the sender of all streams that ended with their HEADERS, and of pushes. It is
// shared and never changed.
var nothingToSend = &sender{}

// after says what follows the bytes given to send.
type after uint8

// The values of after.
const (
	nothingYet after = iota
	endStream
	trailers
)

// afterThis returns how a stream with this trailer ends.
func afterThis(trailer Header) after {
	if len(trailer) > 0 {
		return trailers
	}
	return endStream
}

// maxDataFrame limits our DATA frames, even if the peer accepts larger ones, so that streams take
// turns, and so that other frames need not wait for long.
const maxDataFrame = writeSize

// write is send for the caller. The caller cannot write to a stream whose request has a Body.
func (s *Stream) write(p []byte, trailer Header, then after) (int, error) {
	if err := s.reusedErr(); err != nil {
		return 0, err
	}
	if !s.hasBody() {
		return s.send(p, trailer, then)
	}
	s.c.lock()
	defer s.c.unlock()
	return 0, or(s.sendErrLocked(), ErrSendEnded)
}

// send queues p and waits until it has been added to out. It returns how many bytes were.
func (s *Stream) send(p []byte, trailer Header, then after) (n int, err error) {
	c := s.c
	layout, err := s.req.trailerLayout(trailer)
	if err != nil {
		return 0, err
	}
	c.lock()
	defer c.unlock()
	snd := s.sender
	for snd.busy && s.sendErrLocked() == nil {
		if err := s.waitSendUnlocking(&snd.turn); err != nil {
			return 0, err
		}
	}
	if err := s.sendErrLocked(); err != nil {
		return 0, err
	}
	if err := s.peerTakesTrailerLocked(trailer); err != nil {
		return 0, err
	}
	if !s.hasBody() && snd.left >= 0 {
		if err := snd.oweLocked(len(p), then); err != nil {
			if then != nothingYet {
				s.resetLocked(streamErr(s.id, ErrCodeCancel, err))
			}
			return 0, err
		}
		defer func() { snd.left -= int64(n) }()
	}
	snd.busy = true
	snd.pending, snd.trailer, snd.layout, snd.then = p, trailer, layout, then
	if len(p) == 0 {
		s.sendEndLocked()
	} else {
		c.enqueueLocked(s)
		if c.writer.batch.holdsLocked() {
			c.sendHeldLocked(s)
		} else {
			c.appendEarlyLocked(s)
		}
	}
	for len(snd.pending) > 0 && err == nil {
		if err = s.sendErrLocked(); err == nil {
			err = s.waitSendUnlocking(&snd.sent)
		}
	}
	n = len(p) - len(snd.pending)
	if err != nil {
		snd.pending, snd.then = nil, nothingYet
		c.dequeueLocked(s)
	}
	snd.busy = false
	snd.turn.WakeAll()
	return n, err
}

// waitSendUnlocking waits until q is woken.
func (s *Stream) waitSendUnlocking(q *wait.Queue) error {
	s.memory.holdLocked()
	err := s.c.waitUnlocking(context.Background(), q)
	s.memory.releaseLocked()
	return err
}

// sending reports whether there may be more to send.
func (s *Stream) sending() bool {
	s.c.lock()
	defer s.c.unlock()
	return s.sendErr == nil
}

// waitSent waits until the sending half has ended and the socket has accepted all of it. It returns
// the error if sending failed.
func (s *Stream) waitSent() error {
	c := s.c
	c.lock()
	defer c.unlock()
	for s.sendErr == nil {
		if err := c.waitUnlocking(context.Background(), &s.sender.turn); err != nil {
			return err
		}
	}
	if s.sendErr != ErrSendEnded {
		return s.sendErr
	}
	return c.waitFlushedUnlocking(context.Background(), c.writer.queued)
}

// waitHeadersSent waits until the socket has accepted the HEADERS of s.
func (s *Stream) waitHeadersSent(ctx context.Context) error {
	s.c.lock()
	defer s.c.unlock()
	// One byte stands for the whole HEADERS, because each write has whole frames.
	return s.c.waitFlushedUnlocking(ctx, s.headersStart+1)
}

// waitFlushedUnlocking waits until the socket has accepted so many bytes of the connection.
func (c *Conn) waitFlushedUnlocking(ctx context.Context, octets uint64) error {
	for c.writer.flushed < octets {
		if c.ending.err != nil {
			return c.ending.err
		}
		if err := c.waitUnlocking(ctx, &c.writer.flushQ); err != nil {
			return err
		}
	}
	return nil
}

// oweLocked checks n bytes that the caller sends against the content-length in the request's
// header.
func (snd *sender) oweLocked(n int, then after) error {
	left := snd.left - int64(n)
	if left < 0 || left > 0 && then != nothingYet {
		return &BodyLengthError{Declared: snd.declared, Got: snd.declared - left}
	}
	return nil
}

// sendErrLocked returns why nothing can be sent, or nil.
func (s *Stream) sendErrLocked() error {
	switch {
	case s.c.ending.phase == connClosed:
		return s.closedErrLocked()
	case s.sendErr != nil:
		return s.sendErr
	// The deadline is for calls of Write, not for sendUpload.
	case !s.hasBody() && s.deadlines.writePassed():
		return os.ErrDeadlineExceeded
	}
	return nil
}

// enqueueLocked puts s on the queue for the writer if it has data to send. Otherwise it sends the
// end of the stream, if that is due.
func (c *Conn) enqueueLocked(s *Stream) {
	snd := s.sender
	switch {
	case snd.held || snd.in != nil || s.sendErr != nil:
	case len(snd.pending) > 0:
		c.writer.ready.push(s)
	default:
		s.sendEndLocked()
	}
}

// dequeueLocked removes s from its queue, if it is on one.
func (c *Conn) dequeueLocked(s *Stream) {
	switch s.sender.in {
	case nil:
	case &c.writer.blocked:
		c.writer.blocked.remove(s)
	default:
		c.writer.ready.remove(s)
	}
}

// sendLocked appends one DATA frame with pending data, as large as the windows and the peer's
// settings allow, and of at most most bytes. It returns false if the connection's window is used
// up, or if the frame with its header takes more than room. If data is left, s goes to the end of
// the queue.
func (s *Stream) sendLocked(most, room int) bool {
	c, snd := s.c, s.sender
	window := c.settings.peer.initialWindow + s.sendDelta
	if window <= 0 {
		c.writer.blocked.push(s)
		return true
	}
	if c.flow.sendWindow <= 0 {
		return false
	}
	n, padding := s.req.Framing.dataSize(len(snd.pending), s.dataRoomLocked(most))
	if wire.HeaderLen+n+padding > room {
		return false
	}
	var flags wire.Flags
	if n == len(snd.pending) && snd.then == endStream {
		flags = wire.EndStream
	}
	s.mustLocked(state.SendData)
	c.writer.add(appendData(c.writer.out, wire.FrameHeader{StreamID: s.id, Flags: flags}, snd.pending[:n],
		padding))
	c.flow.sendWindow -= int64(n + padding)
	s.sendDelta -= int64(n + padding)
	snd.progress.add(n, c.writeStartLocked(), c.writer.flushed)
	if t := c.writer.tracer; t != nil {
		t.sendWindowLocked(s, -n-padding)
	}
	c.counts.dataSent += int64(n)
	// The peer may respond with a WINDOW_UPDATE for each of the two windows.
	c.liveness.floodBudget.Add(2)
	if snd.pending = snd.pending[n:]; len(snd.pending) > 0 {
		c.writer.ready.push(s)
		return true
	}
	snd.pending = nil
	snd.sent.WakeAll()
	if flags.Has(wire.EndStream) {
		s.sentEndLocked()
	} else {
		s.sendEndLocked()
	}
	return true
}

// dataRoomLocked returns the most bytes that the next DATA frame may have, with its padding. It is
// no more than most.
func (s *Stream) dataRoomLocked(most int) int {
	c := s.c
	window := min(c.settings.peer.initialWindow+s.sendDelta, c.flow.sendWindow)
	return min(c.settings.peer.maxFrame, most, int(max(0, window)))
}

// sendEndLocked sends what follows the data: nothing, END_STREAM, or trailers. They need no window.
func (s *Stream) sendEndLocked() {
	c, snd := s.c, s.sender
	switch snd.then {
	case nothingYet:
		return
	case endStream:
		s.mustLocked(state.SendData)
		_, padding := s.req.Framing.dataSize(0, s.dataRoomLocked(maxDataFrame))
		c.writer.add(appendData(c.writer.out, wire.FrameHeader{StreamID: s.id, Flags: wire.EndStream}, nil,
			padding))
		c.flow.sendWindow -= int64(padding)
		s.sendDelta -= int64(padding)
		c.writer.tracer.sendWindowLocked(s, -padding)
	case trailers:
		// The peer may have lowered its limit.
		if err := s.peerTakesTrailerLocked(snd.trailer); err != nil {
			s.resetLocked(streamErr(s.id, ErrCodeCancel, err))
			return
		}
		s.mustLocked(state.SendHeaders)
		c.writer.fields.Begin(c.writer.out, s.id, wire.EndStream)
		s.req.writeFields(snd.trailer, c.writer.fields)
		c.endSectionLocked(snd.layout)
	}
	s.sentEndLocked()
}

// sentEndLocked records that END_STREAM has been sent.
func (s *Stream) sentEndLocked() {
	s.mustLocked(state.SendEnd)
	if t := s.c.writer.tracer; t != nil {
		t.halfClosedLocked(s, true)
	}
	s.endSendLocked(ErrSendEnded)
	if s.state == state.Closed {
		s.removeLocked()
	}
}

// holdBackLocked holds the body back until the peer sends 100 (Continue) or ExpectContinueTimeout
// has passed (RFC 9110 §10.1.1).
func (s *Stream) holdBackLocked() {
	s.sender.held = true
	if d := s.c.cfg.ExpectContinueTimeout; d > 0 {
		s.sender.timer = time.AfterFunc(d, func() {
			s.c.lock()
			// A final response means an error; the body is then not sent at all.
			if !s.answered() {
				s.continueLocked()
			}
			s.c.unlock()
		})
	}
}

// continueLocked lets the body be sent.
func (s *Stream) continueLocked() {
	snd := s.sender
	if !snd.held {
		return
	}
	snd.held = false
	if snd.timer != nil {
		snd.timer.Stop()
	}
	snd.turn.WakeAll()
	if len(snd.pending) > 0 {
		s.c.enqueueLocked(s)
	}
}

// waitContinue waits until the body may be sent. If it returns false, the body may not be sent.
// Nothing was read from it then, so another request can use it.
func (s *Stream) waitContinue() bool {
	s.c.lock()
	defer s.c.unlock()
	for s.sender.held && s.sendErr == nil {
		s.c.waitUnlocking(context.Background(), &s.sender.turn)
	}
	return s.sendErr == nil
}

// recvWindowUpdateLocked increases the send window by n.
func (s *Stream) recvWindowUpdateLocked(n int64) error {
	c := s.c
	if _, err := s.state.Next(state.RecvWindowUpdate); err != nil {
		return s.rejectLocked(err)
	}
	if n == 0 {
		// RFC 9113 §6.9: an increment of 0 is a stream error.
		return s.rejectLocked(errors.New("WINDOW_UPDATE of 0 bytes"))
	}
	// RFC 9113 §6.9.1: if the window exceeds 2^31-1, the sender ends the stream with
	// FLOW_CONTROL_ERROR.
	if c.settings.peer.initialWindow+s.sendDelta+n > wire.MaxWindow {
		return s.rejectLocked(streamErr(s.id, ErrCodeFlowControl,
			errors.New("WINDOW_UPDATE raises the window above 2^31-1")))
	}
	s.sendDelta += n
	c.writer.tracer.sendWindowLocked(s, int(n))
	c.flow.maxDelta = max(c.flow.maxDelta, s.sendDelta)
	if s.sender.in == &c.writer.blocked && c.settings.peer.initialWindow+s.sendDelta > 0 {
		c.writer.blocked.remove(s)
		c.writer.ready.push(s)
	}
	return c.countTinyUpdateLocked(n)
}

// sendUpload reads body and sends it. It runs in its own goroutine, because reading a body that is
// not in memory may block. A Read that panics ends the program. A Read that ends the goroutine ends
// the stream.
func (s *Stream) sendUpload(body io.Reader, length int64) {
	defer s.releaseMemory()
	defer s.closeBody(body)
	returned := false
	defer func() {
		if !returned {
			s.abort(&bodyReadError{errors.New("Read ended its goroutine")})
		}
	}()
	s.sendBody(body, length)
	returned = true
}

// releaseMemory ends the use of the stream by the upload.
func (s *Stream) releaseMemory() {
	if s.memory != nil {
		s.c.lock()
		s.memory.releaseLocked()
		s.c.unlock()
	}
}

// sendBody is the main part of sendUpload. length is the content-length, or -1 if it is unknown.
func (s *Stream) sendBody(body io.Reader, length int64) {
	size := int64(64 << 10)
	if length >= 0 {
		size = min(size, length+1)
	}
	if !s.waitContinue() {
		return // the caller gets the stream's error
	}
	buf := make([]byte, max(size, 512))
	var sent int64
	for {
		n, err := netconn.ReadSome(body, buf)
		if n > 0 && length >= 0 && sent+int64(n) == length && err == nil {
			// A reader may report io.EOF late. Bytes beyond the length must be found before
			// END_STREAM is sent.
			var extra int
			if extra, err = readMore(body, buf[n:]); extra > 0 {
				s.abort(&BodyLengthError{Declared: length, Got: sent + int64(n+extra)})
				return
			}
		}
		if length >= 0 && sent+int64(n) > length {
			s.abort(&BodyLengthError{Declared: length, Got: sent + int64(n)})
			return
		}
		if err != nil && err != io.EOF {
			s.abort(&bodyReadError{err})
			return
		}
		sent += int64(n)
		if err == io.EOF {
			if length >= 0 && sent < length {
				s.abort(&BodyLengthError{Declared: length, Got: sent})
				return
			}
			// Close the body before the peer can respond. Callers read after RoundTrip what a body
			// has learned at its end (golang/go#81445).
			s.closeBody(body)
			trailer := s.trailer()
			if err := s.req.checkTrailer(trailer); err != nil {
				s.abort(err)
				return
			}
			if _, err := s.send(buf[:n], trailer, afterThis(trailer)); err != nil {
				// If the peer does not accept the trailers, this ends the stream. Otherwise it has
				// ended.
				s.abort(err)
			}
			return
		}
		if _, err := s.send(buf[:n], nil, nothingYet); err != nil {
			return // the caller gets the stream's error
		}
	}
}

// readMore reads after the expected end of the body.
func readMore(r io.Reader, buf []byte) (int, error) {
	if len(buf) == 0 {
		buf = make([]byte, 1)
	}
	return netconn.ReadSome(r, buf)
}

// A bodyReadError is an error of a body's reader. It is inside the StreamError of the request.
type bodyReadError struct{ err error }

// Error returns the text of the reader's error after "request body: ".
func (e *bodyReadError) Error() string { return "request body: " + e.err.Error() }

// Unwrap returns the reader's error.
func (e *bodyReadError) Unwrap() error { return e.err }

// trailer returns a copy of the request's trailers, which the body's reader may have set. It
// returns nil if the exchange has ended, because the caller may change the trailers then.
func (s *Stream) trailer() Header {
	s.c.lock()
	defer s.c.unlock()
	if s.sendErr != nil {
		return nil
	}
	return s.req.trailer().Clone()
}

// closeBody closes the request's body if it is not closed yet.
func (s *Stream) closeBody(body io.Reader) {
	if s.upload.CompareAndSwap(uploadOpen, uploadClosed) {
		closeReader(body)
	}
}

// releaseBodyLocked closes the request's body if it is not closed yet, in a goroutine: the body is
// the user's, and its Read or Close may block.
func (s *Stream) releaseBodyLocked() {
	if body, ok := s.req.Body.(io.Closer); ok && s.upload.CompareAndSwap(uploadOpen, uploadClosed) {
		go body.Close()
	}
}

// closeReader closes r if it is an io.Closer.
func closeReader(r io.Reader) {
	if c, ok := r.(io.Closer); ok {
		c.Close()
	}
}

// A sendQueue is a queue of streams that have something to send. The connection's mu guards it. The
// last stream is the one before the head.
type sendQueue struct{ head *Stream }

// push adds s at the end.
func (q *sendQueue) push(s *Stream) {
	s.sender.in, s.sender.prev = q, s
	if q.head == nil {
		q.head = s
		return
	}
	last := q.head.sender.prev
	last.sender.next, s.sender.prev, q.head.sender.prev = s, last, s
}

// pushFront adds s at the front.
func (q *sendQueue) pushFront(s *Stream) {
	s.sender.in, s.sender.prev, s.sender.next = q, s, q.head
	if q.head != nil {
		s.sender.prev, q.head.sender.prev = q.head.sender.prev, s
	}
	q.head = s
}

// pop removes the first stream and returns it, or nil if the queue is empty.
func (q *sendQueue) pop() *Stream {
	s := q.head
	if s != nil {
		q.remove(s)
	}
	return s
}

// remove removes s from the queue.
func (q *sendQueue) remove(s *Stream) {
	snd := s.sender
	if s == q.head {
		q.head = snd.next
	} else {
		snd.prev.sender.next = snd.next
	}
	if snd.next != nil {
		snd.next.sender.prev = snd.prev
	} else if q.head != nil {
		q.head.sender.prev = snd.prev
	}
	snd.in, snd.prev, snd.next = nil, nil, nil
}
