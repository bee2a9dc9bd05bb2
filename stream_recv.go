package hyper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"gohyper.dev/hyper/internal/state"
	"gohyper.dev/hyper/internal/wire"
)

// recvHeadersLocked processes a field section: an interim response, the final response, or
// trailers.
func (s *Stream) recvHeadersLocked(f *frame) error {
	s.began = true
	s.c.writer.tracer.timeLocked(s, stepResponseBegan)
	end := f.Flags.Has(wire.EndStream)
	next, err := s.state.Next(state.RecvHeaders)
	if err != nil {
		return s.rejectLocked(err)
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
		return s.rejectLocked(err)
	}
	if s.message != state.AwaitingHeaders {
		if awaited && !s.window.ownsManager() && s.window.update(WindowEvent{Kind: WindowHeaders}) {
			return nil
		}
		if s.push != nil && !s.push.chargeLocked(int64(Header(f.fields).listSize())) {
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
		if err := s.bookDataLocked(f, body); err != nil {
			s.c.writer.tracer.recvWindowLocked(nil, -f.Length)
			s.c.flow.window.consume(body)
			return s.rejectLocked(err)
		}
		if t := s.c.writer.tracer; t != nil {
			t.recvWindowLocked(s, -f.Length)
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
	s.c.reader.frames.moveTo(&s.buf, f)
	s.c.reader.yieldDue = s.c.reader.yieldDue || s.buf.Len() >= farAhead
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

// bookDataLocked checks a DATA frame with body bytes of data. If it is allowed, bookDataLocked
// subtracts it from the receive window and from the content-length. Otherwise it returns the
// reason.
func (s *Stream) bookDataLocked(f *frame, body int) error {
	next, err := s.state.Next(state.RecvData)
	if err != nil {
		return err
	}
	message, err := s.message.Next(state.Body)
	if err != nil {
		return err
	}
	if body > 0 && s.response.bodyless() {
		return &MalformedError{fmt.Sprintf("a body in a response to %s with status %d", s.req.method(),
			s.response.StatusCode)}
	}
	left := s.bodyLeft
	if left >= 0 {
		// RFC 9113 §8.1.1: a response whose content-length does not equal the sum of its DATA is
		// malformed.
		if left -= int64(body); left < 0 {
			return &MalformedError{"the body is longer than its content-length"}
		}
	}
	// RFC 9113 §6.9.1: DATA that exceeds the stream's window is a FLOW_CONTROL_ERROR of the stream.
	if !s.window.receive(f.Length, f.padding) {
		return streamErr(s.id, ErrCodeFlowControl,
			fmt.Errorf("DATA of %d bytes exceeds the window", f.Length))
	}
	s.state, s.message, s.bodyLeft = next, message, left
	return nil
}

// takesDataLocked reports whether DATA that exceeds nothing is part of the body.
func (s *Stream) takesDataLocked() bool {
	return s.state.CanRecv() && s.message == state.InBody && s.recvErr == nil && !s.response.bodyless()
}

// recvEndLocked processes the peer's END_STREAM.
func (s *Stream) recvEndLocked() error {
	switch {
	case s.message == state.AwaitingHeaders:
		return s.rejectLocked(&MalformedError{"END_STREAM before the final response"})
	case s.bodyLeft > 0 && !s.response.bodyless():
		short := &MalformedError{fmt.Sprintf("the body ends %d bytes before its content-length", s.bodyLeft)}
		err := streamErr(s.id, ErrCodeProtocol, fmt.Errorf("%w: %w", short, io.ErrUnexpectedEOF))
		// The error takes the place of io.EOF. The data before it is valid and stays readable.
		s.closeLocked(end{err: err, reset: true, code: err.Code})
		return s.c.countProvokedResetLocked()
	}
	s.mustLocked(state.RecvEnd)
	s.bodyLeft = 0
	if t := s.c.writer.tracer; t != nil {
		t.halfClosedLocked(s, false)
	}
	s.endRecvLocked(io.EOF)
	switch {
	case s.state == state.Closed:
		s.removeLocked()
	case s.response.StatusCode >= 300 && s.hasBody():
		// The response is complete, and it is an error or a redirect. It does not depend on the
		// rest of our body, so stop sending it (RFC 9113 §8.1).
		err := streamErr(s.id, ErrCodeNo, errors.New("the response is complete"))
		s.closeLocked(end{err: err, reset: true, code: err.Code})
	}
	return nil
}

// wakeReaderLocked makes the stream's readers wake after the frames in the read buffer were
// processed. So a response and its body wake them once.
func (s *Stream) wakeReaderLocked() {
	if !s.wakeDue && !s.recvQ.Empty() {
		s.wakeDue = true
		s.c.reader.wakeups = append(s.c.reader.wakeups, s)
	}
}

// read reads bytes of the body, as the peer sent them, into p.
func (s *Stream) read(p []byte) (n int, err error) {
	if err := s.reusedErr(); err != nil {
		return 0, err
	}
	c := s.c
	if s.isOver() && !c.isDone() {
		return 0, io.EOF
	}
	c.lock()
	defer c.unlock()
	for {
		ready := s.buf.Len() > 0
		err := s.recvErrLocked(ready)
		switch {
		case err != nil:
			s.freeSectionsLocked(true)
			s.overLocked()
			return 0, err
		case s.deadlines.readPassed():
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case ready:
			return s.takeLocked(p), nil
		}
		if s.blockedLocked() {
			continue
		}
		c.flow.window.addReader()
		s.window.addReader()
		err = s.waitUnlocking(context.Background(), &s.recvQ)
		s.window.removeReader()
		c.flow.window.removeReader()
		if err != nil {
			s.resetLocked(streamErr(s.id, ErrCodeCancel, err))
		}
	}
}

// recvErrLocked returns the error of a call that receives. Body.Read, Response and Pushes all check
// for errors in this order. ready says that the call has something to return, so that the end of
// the stream does not matter yet. Dropped data is not ready.
//
// The read deadline comes after these errors: once a stream has ended, its calls return the same
// error each time. The deadline holds back data, as on a net.Conn. It bounds the wait for a
// response and does not hold back one that was received. It has no effect on Pushes.
func (s *Stream) recvErrLocked(ready bool) error {
	switch {
	case s.c.ending.phase == connClosed:
		return s.closedErrLocked()
	case !ready:
		return s.recvErr
	}
	return nil
}

// takeLocked moves unread data to p.
func (s *Stream) takeLocked(p []byte) (n int) {
	n = s.buf.Read(p)
	s.consumeLocked(n)
	if s.readLocked() && s.response.decoded == nil {
		if t := s.c.writer.tracer; t != nil {
			t.now = s.c.liveness.now // consumeLocked has read the clock
			t.bodyReadLocked(s, s.window.total, nil)
		}
	}
	s.overLocked()
	return n
}

// consumeLocked reports n bytes as read, to the connection's window first.
func (s *Stream) consumeLocked(n int) {
	s.c.readClockLocked()
	s.c.flow.window.consume(n)
	s.window.consume(n)
	s.closeWindowLocked()
}

// blockedLocked tells the window managers if a reader waits and the window is closed to the peer.
// It reports whether one of them ended the stream.
func (s *Stream) blockedLocked() (ended bool) {
	s.c.readClockLocked()
	return s.c.flow.window.blocked() || s.window.blocked()
}
