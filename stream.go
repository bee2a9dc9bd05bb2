package hyper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"gohyper.dev/hyper/internal/buffer"
	"gohyper.dev/hyper/internal/state"
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

	// The rest is guarded by c.mu.

	state state.State
	stop  func() bool // the watch over the context; nil: none

	// what the peer sends
	message      state.Message
	window       Window
	buf          buffer.Buffer
	bodyLeft     int64 // octets due by content-length, -1 unknown
	recvErr      error // what follows the octets in buf: io.EOF, or why the stream ended; nil: more may come
	dropped      bool  // the caller ended it: nothing is handed out any more
	answered     bool  // response is filled in
	wakeDue      bool  // in c.wakeups
	interimCount int   // 1xx responses so far
	interimSize  int   // and their fields
	interims     []interim
	response     Response
	trailer      Header
	promises     []*Push
	recvQ        waitQueue
	readDeadline deadline

	// what we send
	sender        sender
	sendDelta     int64  // the send window is c.peer.initialWindow + sendDelta
	headersEnd    uint64 // c.queued behind our HEADERS
	writeDeadline deadline
}

// A sender is the sending half of a stream.
type sender struct {
	pending []byte // lent by the caller of send, or the body in memory
	then    after  // once pending is sent
	trailer Header
	err     error // why nothing more can be sent
	held    bool  // Expect: 100-continue
	timer   *time.Timer
	busy    bool      // somebody is in send
	turn    waitQueue // others who want to
	sent    waitQueue // who waits for pending to be sent
	in      *sendQueue
	prev    *Stream
	next    *Stream
}

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

var errSendEnded = errors.New("hyper: the sending side of the stream has ended")

// open checks req, waits for its turn, and puts its HEADERS among the bytes to write, with as much of a body in
// memory as windows allow. Identifier, compression state and bytes are one critical section.
func (c *Conn) open(ctx context.Context, req *Request, ending ending) (*Stream, error) {
	s, err := c.openChecked(ctx, req, ending)
	if err != nil {
		closeReader(req.Body)
	}
	return s, err
}

func (c *Conn) openChecked(ctx context.Context, req *Request, ending ending) (*Stream, error) {
	if err := ctx.Err(); err != nil {
		return nil, contextError(ctx)
	}
	p, err := c.plan(req, ending)
	if err != nil {
		return nil, err
	}
	s := &Stream{c: c, req: req, bodyLeft: -1}
	s.window.c, s.window.s = c, s
	c.mu.Lock()
	defer c.unlock()
	c.uncorkLocked()
	if p.tunnels {
		if err := c.waitSettingsLocked(ctx); err != nil {
			return nil, err
		}
		if !c.peer.connectAllowed {
			return nil, &RequestError{":protocol", "is not allowed by the peer's SETTINGS (RFC 8441)"}
		}
	}
	if err := c.takeSlotLocked(ctx); err != nil {
		return nil, err
	}
	if int64(p.size) > int64(c.peer.maxHeaderList) {
		c.giveSlotLocked()
		return nil, &RequestError{"header", fmt.Sprintf("takes %d octets; the peer allows %d", p.size, c.peer.maxHeaderList)}
	}
	c.startLocked(ctx, s, &p)
	return s, nil
}

// startLocked opens s.
func (c *Conn) startLocked(ctx context.Context, s *Stream, p *plan) {
	s.id = c.nextID
	c.nextID += 2
	c.streams[s.id] = s
	c.stats.StreamsOpened++
	var flags wire.Flags
	s.mustLocked(state.SendHeaders)
	bodyless := p.body == nil && len(p.memory) == 0 && len(p.Trailer) == 0 && p.ending == endWithBody
	if bodyless && p.method != "CONNECT" {
		flags = wire.EndStream
		s.mustLocked(state.SendEnd)
		s.sender.err = errSendEnded
	}
	c.fields.begin(c.out, s.id, flags)
	p.write(c.fields)
	c.append(c.fields.end(c.peer.maxFrame))
	s.headersEnd = c.queued
	s.window.credit = c.initialWindow
	s.openWindowLocked()
	if ctx.Done() != nil {
		s.stop = context.AfterFunc(ctx, func() { s.abort(contextError(ctx)) })
	}
	if bodyless || p.ending == endByCaller {
		return
	}
	if p.expect {
		s.holdBackLocked()
	}
	if p.body != nil {
		go s.upload(p.body, p.length, p.Trailer)
		return
	}
	s.sender.pending, s.sender.then, s.sender.trailer = p.memory, afterThis(p.Trailer), p.Trailer
	c.enqueueLocked(s)
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
}

// ID returns the stream identifier: odd for a request of ours, even for a push.
func (s *Stream) ID() uint32 { return s.id }

// Conn returns the connection.
func (s *Stream) Conn() *Conn { return s.c }

// Write sends p as DATA, as fast as the peer's windows allow, and returns when the library has taken all of it. It may be
// called while another goroutine reads; calls of Write take turns. An early end by the peer is a *StreamError: with NoError
// the response is complete and the peer wants no more (RFC 9113 §8.1).
func (s *Stream) Write(p []byte) (n int, err error) { return s.send(p, nil, nothingYet) }

// CloseWrite ends our side of the stream: END_STREAM on an empty DATA frame. Reading goes on.
func (s *Stream) CloseWrite() error {
	_, err := s.send(nil, nil, endStream)
	return err
}

// SendTrailers ends our side of the stream with a field section.
func (s *Stream) SendTrailers(trailer Header) error {
	if err := checkTrailer(trailer); err != nil {
		return err
	}
	_, err := s.send(nil, trailer.Clone(), afterThis(trailer))
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
func (s *Stream) SetReadDeadline(t time.Time) { s.setDeadline(&s.readDeadline, t, &s.recvQ) }

// SetWriteDeadline is SetDeadline for writing.
func (s *Stream) SetWriteDeadline(t time.Time) { s.setDeadline(&s.writeDeadline, t, &s.sender.sent) }

// A deadline is a point in time that wakes who waits past it.
type deadline struct {
	timer  *time.Timer
	passed bool
}

func (s *Stream) setDeadline(d *deadline, t time.Time, q *waitQueue) {
	s.c.mu.Lock()
	defer s.c.unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	d.timer, d.passed = nil, false
	if t.IsZero() {
		return
	}
	var timer *time.Timer
	expire := func() {
		d.passed = true
		q.wakeAll()
	}
	if left := time.Until(t); left > 0 {
		timer = time.AfterFunc(left, func() {
			s.c.mu.Lock()
			if d.timer == timer { // and not replaced meanwhile
				expire()
			}
			s.c.unlock()
		})
		d.timer = timer
		return
	}
	expire()
}

// send queues p, and waits until it is sent. It returns how much of it was.
func (s *Stream) send(p []byte, trailer Header, then after) (n int, err error) {
	c, snd := s.c, &s.sender
	c.mu.Lock()
	defer c.unlock()
	for snd.busy && snd.err == nil {
		if err := c.waitLocked(context.Background(), &snd.turn); err != nil {
			return 0, err
		}
	}
	if err := s.sendErrLocked(); err != nil {
		return 0, err
	}
	snd.busy = true
	snd.pending, snd.trailer, snd.then = p, trailer, then
	if len(p) == 0 {
		s.sendEndLocked()
	} else {
		c.enqueueLocked(s)
		c.fillLocked()
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
	snd.turn.wakeAll()
	return n, err
}

// sendErrLocked says why nothing can be sent.
func (s *Stream) sendErrLocked() error {
	switch {
	case s.c.closed:
		return ErrClosed
	case s.sender.err != nil:
		return s.sender.err
	case s.sender.then != nothingYet && !s.sender.busy:
		return errSendEnded // the body of the request is under way
	case s.writeDeadline.passed:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// enqueueLocked lines s up for the writer.
func (c *Conn) enqueueLocked(s *Stream) {
	snd := &s.sender
	switch {
	case snd.held || snd.in != nil || snd.err != nil:
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
	c, snd := s.c, &s.sender
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
	c.stats.DataSent += int64(n)
	c.noise.earn(2) // the peer may answer with a WINDOW_UPDATE for each window
	if snd.pending = snd.pending[n:]; len(snd.pending) > 0 {
		c.ready.push(s)
		return true
	}
	snd.pending = nil
	snd.sent.wakeAll()
	if flags.Has(wire.EndStream) {
		s.sentEndLocked()
	} else {
		s.sendEndLocked()
	}
	return true
}

// sendEndLocked sends what follows the data: nothing, END_STREAM or trailers. No window is needed for those.
func (s *Stream) sendEndLocked() {
	c, snd := s.c, &s.sender
	switch snd.then {
	case nothingYet:
		return
	case endStream:
		s.mustLocked(state.SendData)
		c.append(wire.AppendData(c.out, s.id, wire.EndStream, nil))
	case trailers:
		s.mustLocked(state.SendHeaders)
		c.fields.begin(c.out, s.id, wire.EndStream)
		for _, f := range snd.trailer {
			c.fields.field(lower(f.Name), f.Value, f.Sensitive)
		}
		c.append(c.fields.end(c.peer.maxFrame))
	}
	s.sentEndLocked()
}

func (s *Stream) sentEndLocked() {
	s.mustLocked(state.SendEnd)
	s.sender.err = errSendEnded
	s.sender.turn.wakeAll()
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
			s.continueLocked()
			s.c.unlock()
		})
	}
}

// continueLocked lets the body go.
func (s *Stream) continueLocked() {
	snd := &s.sender
	if !snd.held {
		return
	}
	snd.held = false
	if snd.timer != nil {
		snd.timer.Stop()
	}
	if len(snd.pending) > 0 {
		s.c.enqueueLocked(s)
	}
}

// stopSendingLocked ends the sending half: whoever sends gets err.
func (s *Stream) stopSendingLocked(err error) {
	snd := &s.sender
	if snd.err == nil {
		snd.err = err
	}
	if snd.timer != nil {
		snd.timer.Stop()
	}
	s.c.dequeueLocked(s)
	if !snd.busy {
		snd.pending = nil // a body in memory; what a caller lent, the caller takes back
	}
	snd.sent.wakeAll()
	snd.turn.wakeAll()
	if s.req.Body != nil && !s.bodyClosed.Load() {
		go s.closeBody() // its Read or its Close may block, and is not ours
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

// recvHeadersLocked takes a field section: an interim or the final response, or trailers.
func (s *Stream) recvHeadersLocked(f *frame) error {
	end := f.Flags.Has(wire.EndStream)
	next, err := s.state.Next(state.RecvHeaders)
	if err != nil {
		return s.violationLocked(err)
	}
	if f.oversize > 0 {
		return s.rejectLocked(ProtocolError, fmt.Errorf("field section of %d octets exceeds %d", f.oversize, s.c.cfg.MaxHeaderListSize))
	}
	if s.message == state.AwaitingHeaders {
		err = s.recvResponseLocked(f.fields, end)
	} else {
		err = s.recvTrailersLocked(f.fields, end)
	}
	if err != nil {
		return s.malformedLocked(err)
	}
	if s.state == state.Closed { // the window manager ended it
		return nil
	}
	s.state = next
	if end && s.response.ContentLength < 0 && s.message == state.InBody {
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
		s.window.consume(f.padding)
		if s.state == state.Closed { // the window manager ended it
			return nil
		}
	}
	s.buf.Write(f.payload)
	if len(f.payload) > 0 {
		s.wakeReaderLocked()
	}
	if f.last && f.Flags.Has(wire.EndStream) {
		return s.recvEndLocked()
	}
	return nil
}

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
	left := s.bodyLeft
	if left >= 0 {
		// RFC 9113 §8.1.1: a content-length that does not equal the sum of the DATA is malformed.
		if left -= int64(body); left < 0 {
			return &refusal{reason: &MalformedError{"the body is longer than its content-length"}}
		}
	}
	if body > 0 && s.response.bodyless() {
		return &refusal{reason: &MalformedError{fmt.Sprintf("a body in a response to %s with status %d", s.req.method(), s.response.Status)}}
	}
	// RFC 9113 §6.9.1: beyond what we granted is a FLOW_CONTROL_ERROR, of the stream here.
	if !s.window.receive(f.Length) {
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
		return s.malformedLocked(&MalformedError{fmt.Sprintf("the body ends %d octets before its content-length", s.bodyLeft)})
	}
	s.mustLocked(state.RecvEnd)
	s.bodyLeft = 0
	s.recvErr = io.EOF
	s.recvQ.wakeAll()
	s.closeWindowLocked()
	switch {
	case s.state == state.Closed:
		s.removeLocked()
	case s.response.Status >= 300 && s.req.Body != nil:
		// The response is complete and an error or a redirect: it does not depend on the rest of our body, and
		// nobody will want it (RFC 9113 §8.1).
		s.resetSendingLocked()
	}
	return nil
}

// resetSendingLocked gives up our half of the stream; the response is whole.
func (s *Stream) resetSendingLocked() {
	s.mustLocked(state.SendReset)
	s.c.append(wire.AppendRSTStream(s.c.out, s.id, wire.NoError))
	s.c.slots.mark(s.id, resetMark{ping: s.c.pingsSent, held: s.push == nil})
	s.stopSendingLocked(streamErr(s.id, NoError, errors.New("the response is complete")))
	s.removeLocked()
}

// recvResetLocked takes the peer's RST_STREAM.
func (s *Stream) recvResetLocked(code ErrCode) error {
	complete := s.recvErr == io.EOF
	s.mustLocked(state.RecvReset)
	err := &StreamError{StreamID: s.id, Code: code, FromPeer: true}
	if !complete {
		s.recvErr = err
	}
	// RFC 9113 §8.1: after a complete response RST_STREAM, with NO_ERROR above all, only asks us to stop sending.
	s.stopSendingLocked(err)
	s.recvQ.wakeAll()
	s.closeWindowLocked()
	s.removeLocked()
	return s.c.noiseLocked()
}

// endLocked ends the stream without a frame of ours: a GOAWAY says that the peer never looked at it.
func (s *Stream) endLocked(err error) {
	s.state = state.Closed
	if s.recvErr == nil {
		s.recvErr = err
	}
	s.stopSendingLocked(err)
	s.recvQ.wakeAll()
	s.closeWindowLocked()
	s.removeLocked()
}

// lostLocked ends the stream with its connection.
func (s *Stream) lostLocked(err error) {
	if ce, ok := err.(*ConnError); ok && s.headersEnd > s.c.written && s.push == nil {
		unsent := *ce
		unsent.unprocessed = true
		err = &unsent
	}
	s.state = state.Closed
	if err == ErrClosed {
		s.dropLocked(err)
	} else if s.recvErr == nil {
		s.recvErr = err
	}
	s.stopSendingLocked(err)
	s.recvQ.wakeAll()
	s.closeWindowLocked()
	s.unwatchLocked()
}

// abort resets the stream because of something on this side: its context, its body, its caller.
func (s *Stream) abort(reason error) {
	s.c.mu.Lock()
	s.resetLocked(streamErr(s.id, Cancel, reason))
	s.c.unlock()
}

// resetLocked ends the stream in both directions and tells the peer. What is unread is dropped, its credit returned.
func (s *Stream) resetLocked(err *StreamError) {
	if s.state == state.Closed {
		return
	}
	c := s.c
	s.mustLocked(state.SendReset)
	c.append(wire.AppendRSTStream(c.out, s.id, wire.ErrCode(err.Code)))
	c.slots.mark(s.id, resetMark{ping: c.pingsSent, held: s.push == nil})
	s.dropLocked(err)
	s.stopSendingLocked(err)
	s.recvQ.wakeAll()
	s.removeLocked()
	c.pingForSlotsLocked()
}

// cancelLocked resets the stream because the caller wants no more of it.
func (s *Stream) cancelLocked() { s.resetLocked(streamErr(s.id, Cancel, ErrCanceled)) }

// dropLocked forgets what is unread; readers get err from now on.
func (s *Stream) dropLocked(err error) {
	s.recvErr, s.dropped = err, true
	s.buf.Reset()
	s.interims = nil
	unread := int(s.window.unread)
	s.window.unread = 0
	s.window.close()
	s.c.window.consume(unread)
}

// closeWindowLocked ends the receive window's books once nothing more can come and nothing is held.
func (s *Stream) closeWindowLocked() {
	if s.recvErr != nil && s.buf.Len() == 0 {
		s.window.close()
	}
}

// removeLocked takes a closed stream off the connection.
func (s *Stream) removeLocked() {
	c := s.c
	if c.streams[s.id] != s {
		return
	}
	delete(c.streams, s.id)
	s.unwatchLocked()
	if s.push == nil && !c.slots.reset[s.id].held {
		c.giveSlotLocked()
	}
	if s.push != nil {
		s.push.settleLocked()
	}
	c.closeIfDrainedLocked()
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
	if !s.wakeDue && !s.recvQ.empty() {
		s.wakeDue = true
		s.c.wakeups = append(s.c.wakeups, s)
	}
}

// read moves octets of the body, as they were sent, into p.
func (s *Stream) read(p []byte) (n int, err error) {
	c := s.c
	c.mu.Lock()
	defer c.unlock()
	for {
		switch {
		case c.closed:
			return 0, ErrClosed
		case s.dropped:
			return 0, s.recvErr
		case s.readDeadline.passed:
			return 0, os.ErrDeadlineExceeded
		case s.buf.Len() > 0:
			if len(p) == 0 {
				return 0, nil
			}
			n = s.buf.Read(p)
			s.consumeLocked(n)
			return n, nil
		case s.recvErr != nil:
			return 0, s.recvErr
		case len(p) == 0:
			return 0, nil
		}
		s.starveLocked()
		if s.recvErr != nil { // the window manager ended it
			continue
		}
		if err := c.waitLocked(context.Background(), &s.recvQ); err != nil {
			return 0, err
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
	if s.c.window.credit <= 0 {
		s.c.window.update(WindowEvent{Kind: WindowStarved})
	}
	if s.window.credit <= 0 {
		s.window.update(WindowEvent{Kind: WindowStarved})
	}
}

// closeRead is Body.Close: nobody will read any more. An exchange that is over stays as it was, any other is cancelled.
func (s *Stream) closeRead() {
	c := s.c
	c.mu.Lock()
	defer c.unlock()
	closed := streamErr(s.id, Cancel, ErrCanceled)
	if s.state != state.Closed {
		s.resetLocked(closed)
	} else if !s.dropped && !s.readLocked() {
		if s.recvErr != nil && s.recvErr != io.EOF {
			s.dropLocked(s.recvErr)
		} else {
			s.dropLocked(closed)
		}
	}
	for _, p := range s.promises {
		p.s.cancelLocked()
	}
	s.promises = nil
}

// readLocked reports whether the body was read to its orderly end.
func (s *Stream) readLocked() bool { return s.recvErr == io.EOF && s.buf.Len() == 0 }

// contextError is the error of a context that has ended; a cause that is more than that is kept beside it.
func contextError(ctx context.Context) error {
	err := ctx.Err()
	if cause := context.Cause(ctx); cause != nil && cause != err {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
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
	snd := &s.sender
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

// Connect opens a tunnel to authority, host:port, through the peer (RFC 9113 §8.5) and returns it as a net.Conn when the
// peer has agreed. ctx governs the tunnel to its end. Another answer than 2xx is a *ConnectStatusError.
func (c *Conn) Connect(ctx context.Context, authority string, header Header) (net.Conn, error) {
	s, err := c.Open(ctx, &Request{Method: "CONNECT", Authority: authority, Header: header})
	if err != nil {
		return nil, err
	}
	resp, err := s.Response(ctx)
	if err != nil {
		s.abort(err)
		return nil, err
	}
	if resp.Status/100 != 2 {
		resp.Body.Close()
		return nil, &ConnectStatusError{Status: resp.Status, Header: resp.Header}
	}
	return s.NetConn(), nil
}

// A ConnectStatusError is a proxy's refusal of a tunnel.
type ConnectStatusError struct {
	Status int
	Header Header
}

func (e *ConnectStatusError) Error() string {
	return fmt.Sprintf("hyper: proxy refused the tunnel with status %d", e.Status)
}

// NetConn returns the stream as a net.Conn, which reads and writes its DATA. It suits CONNECT, plain and
// extended. Close ends both directions: in order where the peer has ended its own, else with CANCEL; CloseWrite
// (by a type assertion) ends ours.
func (s *Stream) NetConn() net.Conn { return tunnel{s} }

type tunnel struct{ *Stream }

func (t tunnel) Read(p []byte) (int, error) { return t.read(p) }

func (t tunnel) Close() error {
	s := t.Stream
	s.c.mu.Lock()
	if s.recvErr == io.EOF && s.sender.err == nil && !s.sender.busy {
		s.sender.then = endStream
		s.sendEndLocked()
	}
	s.c.unlock()
	s.closeRead()
	return nil
}

func (t tunnel) LocalAddr() net.Addr  { return t.c.LocalAddr() }
func (t tunnel) RemoteAddr() net.Addr { return t.c.RemoteAddr() }

func (t tunnel) SetDeadline(at time.Time) error {
	t.Stream.SetDeadline(at)
	return nil
}

func (t tunnel) SetReadDeadline(at time.Time) error {
	t.Stream.SetReadDeadline(at)
	return nil
}

func (t tunnel) SetWriteDeadline(at time.Time) error {
	t.Stream.SetWriteDeadline(at)
	return nil
}
