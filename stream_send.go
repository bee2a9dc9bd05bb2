package hyper

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"gohyper.dev/hyper/internal/state"
	"gohyper.dev/hyper/internal/syntax"
	"gohyper.dev/hyper/internal/wait"
	"gohyper.dev/hyper/internal/wire"
)

// A sender is the sending half of a stream, behind its HEADERS.
type sender struct {
	pending  []byte // lent by the caller of send, or the body in memory
	then     after  // once pending is sent
	trailer  Header
	declared int64 // content-length, -1 unknown
	left     int64 // octets of it that the caller has still to write
	held     bool  // Expect: 100-continue
	timer    *time.Timer
	busy     bool       // somebody is in send
	turn     wait.Queue // others who want to, and who waits for the end of held
	sent     wait.Queue // who waits for pending to be sent

	in         *sendQueue
	prev, next *Stream
}

// nothingToSend is the sender of every stream that has ended with its HEADERS, or is a push: they are looked at and never changed.
var nothingToSend = &sender{}

// after says what follows the octets given to send.
type after uint8

const (
	nothingYet after = iota
	endStream
	trailers
)

func afterThis(trailer Header) after {
	if len(trailer) > 0 {
		return trailers
	}
	return endStream
}

// maxDataFrame bounds our DATA frames where the peer would take larger ones, so that streams take turns.
const maxDataFrame = 256 << 10

// write is send for the caller, who cannot add to a body of the request's.
func (s *Stream) write(p []byte, trailer Header, then after) (int, error) {
	if !s.hasBody {
		return s.send(p, trailer, then)
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return 0, or(s.sendErrLocked(), ErrSendEnded)
}

// send queues p, and waits until it is sent. It returns how much of it was.
func (s *Stream) send(p []byte, trailer Header, then after) (n int, err error) {
	c, snd := s.c, s.sender
	c.mu.Lock()
	defer c.unlock()
	for snd.busy && s.sendErrLocked() == nil {
		if err := c.waitLocked(context.Background(), &snd.turn); err != nil {
			return 0, err
		}
	}
	if err := s.sendErrLocked(); err != nil {
		return 0, err
	}
	if err := c.peerTakesLocked("trailer", trailer.listSize()); err != nil {
		return 0, err
	}
	if !s.hasBody && snd.left >= 0 {
		if err := snd.oweLocked(len(p), then); err != nil {
			if then != nothingYet {
				s.resetLocked(streamErr(s.id, Cancel, err))
			}
			return 0, err
		}
		defer func() { snd.left -= int64(n) }()
	}
	snd.busy = true
	snd.pending, snd.trailer, snd.then = p, trailer, then
	if len(p) == 0 {
		s.sendEndLocked()
	} else {
		c.enqueueLocked(s)
		if len(c.out) < outSize {
			c.fillLocked()
		}
	}
	for len(snd.pending) > 0 && err == nil {
		if err = s.sendErrLocked(); err == nil {
			err = c.waitLocked(context.Background(), &snd.sent)
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

// sending reports whether there is still something to send.
func (s *Stream) sending() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.sendErr == nil
}

// waitSent waits for the end of the sending half, and for the socket to take it. It returns why it failed, if it did.
func (s *Stream) waitSent() error {
	c := s.c
	c.mu.Lock()
	defer c.unlock()
	for s.sendErr == nil {
		if err := c.waitLocked(context.Background(), &s.sender.turn); err != nil {
			return err
		}
	}
	if s.sendErr != ErrSendEnded {
		return s.sendErr
	}
	return c.waitFlushedLocked(context.Background(), c.queued)
}

// waitHeadersSent waits for the socket to take the HEADERS of s.
func (s *Stream) waitHeadersSent(ctx context.Context) error {
	s.c.mu.Lock()
	defer s.c.unlock()
	return s.c.waitFlushedLocked(ctx, s.headersStart+1) // one octet or all: a batch has whole frames
}

func (c *Conn) waitFlushedLocked(ctx context.Context, octets uint64) error {
	for c.flushed < octets {
		if c.err != nil {
			return c.err
		}
		if err := c.waitLocked(ctx, &c.flushQ); err != nil {
			return err
		}
	}
	return nil
}

// oweLocked holds what the caller sends against the content-length of its header.
func (snd *sender) oweLocked(n int, then after) error {
	left := snd.left - int64(n)
	if left < 0 || left > 0 && then != nothingYet {
		return &BodyLengthError{Declared: snd.declared, Got: snd.declared - left}
	}
	return nil
}

// sendErrLocked says why nothing can be sent.
func (s *Stream) sendErrLocked() error {
	switch {
	case s.c.closed:
		return ErrClosed
	case s.sendErr != nil:
		return s.sendErr
	case !s.hasBody && s.deadlines.writePassed(): // it is the caller's, and not upload's
		return os.ErrDeadlineExceeded
	}
	return nil
}

// enqueueLocked lines s up for the writer.
func (c *Conn) enqueueLocked(s *Stream) {
	snd := s.sender
	switch {
	case snd.held || snd.in != nil || s.sendErr != nil:
	case len(snd.pending) > 0:
		c.ready.push(s)
	default:
		s.sendEndLocked()
	}
}

func (c *Conn) dequeueLocked(s *Stream) {
	if q := s.sender.in; q != nil {
		q.remove(s)
	}
}

// sendLocked sends one DATA frame of what is pending, as large as windows and peer allow. It is false when the
// connection's window is used up. The stream lines up again if there is more.
func (s *Stream) sendLocked() bool {
	c, snd := s.c, s.sender
	window := c.peer.initialWindow + s.sendDelta
	if window <= 0 {
		c.blocked.push(s)
		return true
	}
	if c.sendWindow <= 0 {
		return false
	}
	n := min(len(snd.pending), c.peer.maxFrame, maxDataFrame, int(min(window, c.sendWindow)))
	var flags wire.Flags
	if n == len(snd.pending) && snd.then == endStream {
		flags = wire.EndStream
	}
	s.mustLocked(state.SendData)
	c.append(wire.AppendData(c.out, s.id, flags, snd.pending[:n]))
	c.sendWindow -= int64(n)
	s.sendDelta -= int64(n)
	c.counts.dataSent += int64(n)
	c.noise.Add(2) // the peer may answer with a WINDOW_UPDATE for each window
	if snd.pending = snd.pending[n:]; len(snd.pending) > 0 {
		c.ready.push(s)
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

// sendEndLocked sends what follows the data: nothing, END_STREAM or trailers. No window is needed for those.
func (s *Stream) sendEndLocked() {
	c, snd := s.c, s.sender
	switch snd.then {
	case nothingYet:
		return
	case endStream:
		s.mustLocked(state.SendData)
		c.append(wire.AppendData(c.out, s.id, wire.EndStream, nil))
	case trailers:
		if err := c.peerTakesLocked("trailer", snd.trailer.listSize()); err != nil { // its limit sank meanwhile
			s.resetLocked(streamErr(s.id, Cancel, err))
			return
		}
		s.mustLocked(state.SendHeaders)
		c.fields.begin(c.out, s.id, wire.EndStream)
		for _, f := range snd.trailer {
			c.fields.field(syntax.Lower(f.Name), f.Value, f.Sensitive)
		}
		c.append(c.fields.end(c.peer.maxFrame))
	}
	s.sentEndLocked()
}

func (s *Stream) sentEndLocked() {
	s.mustLocked(state.SendEnd)
	s.sendErr = ErrSendEnded
	s.deadlines.stopWriting()
	s.sender.turn.WakeAll()
	if s.state == state.Closed {
		s.removeLocked()
	}
}

// holdBackLocked keeps the body until the peer says 100 (Continue), or says nothing for long enough (RFC 9110 §10.1.1).
func (s *Stream) holdBackLocked() {
	s.sender.held = true
	if d := s.c.cfg.ExpectContinueTimeout; d > 0 {
		s.sender.timer = time.AfterFunc(d, func() {
			s.c.mu.Lock()
			if !s.answered { // by an error, which holds the body back for good
				s.continueLocked()
			}
			s.c.unlock()
		})
	}
}

// continueLocked lets the body go.
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

// waitContinue waits until the body may go. It is false if it may not: then nothing was read of it, and another request can
// have it.
func (s *Stream) waitContinue() bool {
	s.c.mu.Lock()
	defer s.c.unlock()
	for s.sender.held && s.sendErr == nil {
		s.c.waitLocked(context.Background(), &s.sender.turn)
	}
	return s.sendErr == nil
}

// stopSendingLocked ends the sending half: whoever sends gets err.
func (s *Stream) stopSendingLocked(err error) {
	snd := s.sender
	if s.sendErr == nil || s.sendErr == ErrSendEnded {
		s.sendErr = err
	}
	s.deadlines.stopWriting()
	if snd.timer != nil {
		snd.timer.Stop()
	}
	s.c.dequeueLocked(s)
	if !snd.busy && snd.pending != nil {
		snd.pending = nil // a body in memory; what a caller lent, the caller takes back
	}
	snd.sent.WakeAll()
	snd.turn.WakeAll()
	if body, ok := s.req.Body.(io.Closer); ok && s.bodyClosed.CompareAndSwap(false, true) {
		go body.Close() // its Read or its Close may block, and is not ours
	}
}

// recvWindowUpdateLocked raises the send window by n.
func (s *Stream) recvWindowUpdateLocked(n int64) error {
	c := s.c
	if _, err := s.state.Next(state.RecvWindowUpdate); err != nil {
		return s.violationLocked(err)
	}
	if n == 0 {
		// RFC 9113 §6.9: an increment of 0 on a stream is a stream error.
		return s.rejectLocked(ProtocolError, errors.New("WINDOW_UPDATE of 0 octets"))
	}
	// RFC 9113 §6.9.1: a window above 2^31-1 ends the stream with FLOW_CONTROL_ERROR.
	if c.peer.initialWindow+s.sendDelta+n > wire.MaxWindow {
		return s.rejectLocked(FlowControlError, errors.New("WINDOW_UPDATE raises the window above 2^31-1"))
	}
	s.sendDelta += n
	c.maxDelta = max(c.maxDelta, s.sendDelta)
	if s.sender.in == &c.blocked && c.peer.initialWindow+s.sendDelta > 0 {
		c.blocked.remove(s)
		c.ready.push(s)
	}
	return c.judgeUpdateLocked(n)
}

// resetSendingLocked gives up our half of the stream; the response is whole.
func (s *Stream) resetSendingLocked() {
	s.sendResetLocked(NoError)
	s.stopSendingLocked(streamErr(s.id, NoError, errors.New("the response is complete")))
	s.removeLocked()
	s.c.pingForSlotsLocked()
}

// upload reads body and sends it. It is the goroutine of a body that is not in memory, because
// reading may block. A Read that panics ends the program; one that ends the goroutine ends the
// stream.
func (s *Stream) upload(body io.Reader, length int64) {
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

func (s *Stream) sendBody(body io.Reader, length int64) {
	size := int64(64 << 10)
	if length >= 0 {
		size = min(size, length+1)
	}
	if !s.waitContinue() {
		return // the stream's own error is what the caller gets
	}
	buf := make([]byte, max(size, 512))
	var sent int64
	for {
		n, err := readSome(body, buf)
		if n > 0 && length >= 0 && sent+int64(n) == length && err == nil {
			// Readers may report their end late. One octet too many must be found before END_STREAM is sent.
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
			// Closed before the peer can answer: what a body found by its end, callers look for behind RoundTrip (golang/go#81445).
			s.closeBody(body)
			trailer := s.trailer()
			if err := checkTrailer(trailer); err != nil {
				s.abort(err)
				return
			}
			if _, err := s.send(buf[:n], trailer, afterThis(trailer)); err != nil {
				s.abort(err) // where the peer does not take the trailers; else the stream is over
			}
			return
		}
		if _, err := s.send(buf[:n], nil, nothingYet); err != nil {
			return // the stream's own error is what the caller gets
		}
	}
}

// readMore reads past what should be the end.
func readMore(r io.Reader, buf []byte) (int, error) {
	if len(buf) == 0 {
		buf = make([]byte, 1)
	}
	return readSome(r, buf)
}

// bodyReadError is the reader's own error, inside the StreamError of its request.
type bodyReadError struct{ err error }

func (e *bodyReadError) Error() string { return "request body: " + e.err.Error() }
func (e *bodyReadError) Unwrap() error { return e.err }

// trailer returns the request's trailers, which the body's reader may have filled in, and none when
// the exchange is over: they are the caller's to change from then on.
func (s *Stream) trailer() Header {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.sendErr != nil {
		return nil
	}
	return s.req.trailer().Clone()
}

// closeBody closes the request's body, once.
func (s *Stream) closeBody(body io.Reader) {
	if s.bodyClosed.CompareAndSwap(false, true) {
		closeReader(body)
	}
}

func closeReader(r io.Reader) {
	if c, ok := r.(io.Closer); ok {
		c.Close()
	}
}

// A sendQueue is a line of streams that have something to send. It is guarded by mu.
type sendQueue struct{ head, tail *Stream }

func (q *sendQueue) push(s *Stream) {
	s.sender.in, s.sender.prev = q, q.tail
	if q.tail != nil {
		q.tail.sender.next = s
	} else {
		q.head = s
	}
	q.tail = s
}

func (q *sendQueue) pushFront(s *Stream) {
	s.sender.in, s.sender.next = q, q.head
	if q.head != nil {
		q.head.sender.prev = s
	} else {
		q.tail = s
	}
	q.head = s
}

func (q *sendQueue) pop() *Stream {
	s := q.head
	if s != nil {
		q.remove(s)
	}
	return s
}

func (q *sendQueue) remove(s *Stream) {
	snd := s.sender
	if snd.prev != nil {
		snd.prev.sender.next = snd.next
	} else {
		q.head = snd.next
	}
	if snd.next != nil {
		snd.next.sender.prev = snd.prev
	} else {
		q.tail = snd.prev
	}
	snd.in, snd.prev, snd.next = nil, nil, nil
}
