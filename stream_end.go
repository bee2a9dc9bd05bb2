package hyper

import (
	"context"
	"errors"
	"io"
	"slices"

	"gohyper.dev/hyper/internal/state"
	"gohyper.dev/hyper/internal/wire"
)

// How a stream ends. The usual way is that both halves end with END_STREAM, each for itself:
// recvEndLocked ends the receiving half, sentEndLocked the sending half. In every other way,
// closeLocked ends what has not ended yet:
//
//	reason                                        function         RST_STREAM  unread data
//	Stream.Reset                                  resetLocked      its code    dropped
//	an error of the request's body                abort            CANCEL      dropped
//	Body.Close before the end, Push.Cancel        cancelLocked     CANCEL      dropped
//	context, Cancel, or no response for a caller  abandon          CANCEL      dropped
//	the peer broke a rule                         rejectLocked     its code    dropped
//	the window manager failed                     resetLocked      INTERNAL    dropped
//	the body ended before its content-length      recvEndLocked    PROTOCOL    readable
//	a response ended that needs no request body   recvEndLocked    NO_ERROR    readable
//	the peer sent RST_STREAM                      recvResetLocked  none        readable
//	the peer's GOAWAY excludes the stream         recvGoAwayLocked none        readable
//	the connection was lost                       lostLocked       none        readable
//	Conn.Close                                    lostLocked       none        dropped

// An end says how a stream ends.
type end struct {
	err   error   // calls on the stream return it; after the unread data, if that is not dropped
	reset bool    // RST_STREAM is sent
	code  ErrCode // of the RST_STREAM
	drop  bool    // the unread data is dropped, and returned to the connection's window
}

// closeLocked ends the stream in both directions. It has no effect on a stream that has ended. A
// half that has ended with END_STREAM was received or sent completely, so a complete response stays
// one unless it is dropped.
func (s *Stream) closeLocked(e end) {
	if s.state == state.Closed {
		return
	}
	if e.reset {
		s.sendResetLocked(e.code)
	}
	s.state = state.Closed
	if e.drop {
		whole := s.readLocked()
		if whole && s.extras != nil {
			s.extras.whole = true // keeps the trailers
		}
		s.dropLocked(e.err)
		s.dropPromisesLocked(whole)
	}
	s.endSendLocked(e.err)
	s.releaseBodyLocked()
	s.endRecvLocked(e.err)
	s.removeLocked()
	if e.reset {
		s.c.pingForSlotsLocked()
	}
}

// endSendLocked ends the sending half. Calls that send return err.
func (s *Stream) endSendLocked(err error) {
	snd := s.sender
	s.sendErr = err
	s.deadlines.stopWriting()
	if snd.timer != nil {
		snd.timer.Stop()
	}
	s.c.dequeueLocked(s)
	if !snd.busy && snd.pending != nil {
		// This releases a body in memory. The argument of a call of send is released by that call.
		snd.pending = nil
	}
	snd.sent.WakeAll()
	snd.turn.WakeAll()
}

// endRecvLocked ends the receiving half. Calls that receive return err after the unread data,
// unless the half has ended before.
func (s *Stream) endRecvLocked(err error) {
	if s.recvErr == nil {
		s.recvErr = err
	}
	s.deadlines.stopReading()
	if !s.wakeDue || s.c.reader.state != readerReceiving { // else recv wakes them
		s.recvQ.WakeAll()
	}
	s.closeWindowLocked()
}

// Reset ends the stream at once in both directions and sends code to the peer. The usual code is
// ErrCodeCancel. Later calls return a *StreamError that is ErrCanceled. Reset has no effect on a
// stream that has ended: a response that has arrived stays readable, and holds a part of the
// connection's window until it has been read, or dropped by Body.Close.
func (s *Stream) Reset(code ErrCode) {
	if s.reusedErr() != nil {
		return
	}
	s.c.lock()
	s.resetLocked(streamErr(s.id, code, ErrCanceled))
	s.c.unlock()
}

// resetLocked ends the stream in both directions and sends RST_STREAM. Unread data is dropped.
func (s *Stream) resetLocked(err *StreamError) {
	s.closeLocked(end{err: err, reset: true, code: err.Code, drop: true})
}

// rejectLocked resets the stream because the peer broke a rule, and charges the budget for such
// resets. The code is that of reason if it is a *StreamError, and else follows from its type. If
// the rule is one of the connection, or the budget is used up, rejectLocked returns the error that
// must end the connection.
func (s *Stream) rejectLocked(reason error) error {
	err, _ := reason.(*StreamError)
	switch reason.(type) {
	case *StreamError:
	case *state.Violation: // RFC 9113 §5.1
		if s.state != state.HalfClosedRemote {
			return connErr(ErrCodeProtocol, "stream %d: %w", s.id, reason)
		}
		err = streamErr(s.id, ErrCodeStreamClosed, reason)
	case *state.Misplaced: // RFC 9113 §8.1.1: the response is malformed.
		err = streamErr(s.id, ErrCodeProtocol, &MalformedError{reason.Error()})
	default:
		err = streamErr(s.id, ErrCodeProtocol, reason)
	}
	s.resetLocked(err)
	return s.c.countProvokedResetLocked()
}

// abort resets the stream for a reason on our side. It has no effect on a stream that has ended.
func (s *Stream) abort(reason error) {
	s.c.lock()
	s.resetLocked(streamErr(s.id, ErrCodeCancel, reason))
	if reason == errRequestCanceled || errors.Is(reason, context.DeadlineExceeded) {
		s.c.suspectLocked(s)
	}
	s.c.unlock()
}

// abandon ends a stream that no caller will use, because of reason. If the stream has just ended,
// abandon drops the unread data, which would hold a part of the connection's window for ever. It
// has no effect on a stream that was not opened.
func (s *Stream) abandon(reason error) {
	if s.id > 0 {
		s.abort(reason)
		s.closeReadFor(reason)
	}
}

// closeRead implements Body.Close. It does not change an exchange that is complete; it cancels any
// other.
func (s *Stream) closeRead() error {
	if err := s.reusedErr(); err != nil {
		return err
	}
	s.closeReadFor(ErrCanceled)
	return nil
}

// closeReadFor is closeRead with the reason of the error for later calls.
func (s *Stream) closeReadFor(reason error) {
	c := s.c
	if s.isOver() {
		return
	}
	c.lock()
	defer c.unlock()
	whole := s.readLocked() || s.extras.wasWhole()
	s.cancelLocked(reason)
	s.freeSectionsLocked(true)
	if !whole {
		s.cancelPromisesLocked()
	}
	s.overLocked()
}

// cancelLocked ends the stream because the caller no longer needs it. It resets a stream that has
// not ended, and drops the unread data of one that has. Later calls return reason, unless the
// stream has ended with another error.
func (s *Stream) cancelLocked(reason error) {
	switch {
	case s.state != state.Closed:
		s.resetLocked(streamErr(s.id, ErrCodeCancel, reason))
	case s.isDropped() || s.readLocked():
	case s.recvErr == io.EOF:
		s.dropLocked(streamErr(s.id, ErrCodeCancel, reason))
	default:
		s.dropLocked(s.recvErr)
	}
}

// recvResetLocked processes the peer's RST_STREAM. RFC 9113 §8.1: after a complete response, it
// only asks us to stop sending. Its usual code is then NO_ERROR.
func (s *Stream) recvResetLocked(code ErrCode) error {
	s.c.reports.owner.count(resetsReceived, code)
	s.closeLocked(end{err: &StreamError{StreamID: s.id, Code: code, FromPeer: true,
		processed: s.processedLocked()}})
	return s.c.chargeNoiseLocked()
}

// processedLocked returns what the response says of the peer's work on the request.
func (s *Stream) processedLocked() processed {
	if s.began {
		return surelyProcessed
	}
	return maybeProcessed
}

// lostLocked ends the stream because its connection has ended. It reports whether the request was
// never sent.
func (s *Stream) lostLocked(err error) (unsent bool) {
	if ce, ok := err.(*ConnError); ok && s.headersStart >= s.c.writer.written && s.push == nil && !s.began {
		unsent = true
		told := *ce
		told.processed = neverProcessed
		err = &told
	}
	// Shutdown ends a connection without streams, so ErrClosed is the error of Close here.
	s.closeLocked(end{err: err, drop: err == ErrClosed})
	return unsent
}

// sendResetLocked appends our RST_STREAM to out.
func (s *Stream) sendResetLocked(code ErrCode) {
	c := s.c
	s.mustLocked(state.SendReset)
	c.reports.owner.count(resetsSent, code)
	c.writer.add(wire.AppendRSTStream(c.writer.out, s.id, wire.ErrCode(code)))
	// The peer will not learn of window that was granted and not announced yet.
	held := s.push == nil && c.holdsSlotsLocked()
	c.slots.mark(s.id, resetMark{ping: c.liveness.pingsSent, credit: s.window.credit - s.window.pending,
		held: held})
}

// dropLocked drops unread data. Readers get err from now on.
func (s *Stream) dropLocked(err error) {
	s.recvErr = err
	s.reader.Store(readerDropped)
	s.buf.Reset()
	if s.extras != nil {
		s.extras.interims.waiting = nil
	}
	unread := int(s.window.unread)
	s.window.unread = 0
	s.window.close()
	s.c.flow.window.consume(unread)
}

// dropPromisesLocked cancels the promises of a stream whose data was dropped. If the response was
// complete and read (whole), they can still be claimed.
func (s *Stream) dropPromisesLocked(whole bool) {
	switch {
	case s.c.ending.err != nil: // failLocked ends the promised streams
	case whole && s.c.streams.unclaimed != nil:
		s.extrasLocked().whole = true
	default:
		s.cancelPromisesLocked()
	}
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

// removeLocked removes a closed stream from the connection. When the connection has ended,
// failLocked removes all streams.
func (s *Stream) removeLocked() {
	c := s.c
	if t := c.writer.tracer; t != nil {
		t.closedLocked(s)
	}
	if c.ending.err != nil {
		s.unwatchLocked()
		s.signalDoneLocked()
		return
	}
	delete(c.streams.byID, s.id)
	if len(c.streams.byID) == 0 {
		c.streams.idleSince = c.nowLocked()
		if at := c.staleAtLocked(); at > 0 {
			c.armLocked(at)
		}
		if c.slots.tellsIdle != nil && c.slots.tellsIdle.Load() {
			c.reports.stateChanged = true
		}
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

// mustLocked changes the state by an event that is known to be allowed.
func (s *Stream) mustLocked(e state.Event) {
	next, err := s.state.Next(e)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	s.state = next
}

// readLocked reports whether the body was read to its regular end.
func (s *Stream) readLocked() bool { return s.recvErr == io.EOF && s.buf.Len() == 0 }

// overLocked notes that the stream is over, if it has ended and its body was read to the end.
func (s *Stream) overLocked() {
	switch {
	case !s.readLocked() || s.state != state.Closed || s.extras.promised() || s.isOver():
		return
	case s.isUnreferencedLocked():
		s.reader.Store(readerUnused)
	default:
		s.reader.Store(readerOver)
	}
	s.freeSectionsLocked(true)
}

// isUnreferencedLocked reports whether nothing of the connection refers to a stream that is over,
// except for calls in progress: no queue, no timer, no watch over a context. So its memory can be
// used again once its caller has given it up. It returns false for a stream with parts that few
// streams have, such as a request body, trailers, a manager of the user, or events for a trace.
func (s *Stream) isUnreferencedLocked() bool {
	special := s.push != nil || s.req.cancel() != nil || s.hasBody() || s.sender != nothingToSend ||
		s.extras != nil || s.deadlines != nil || s.window.kind != defaultManager || s.c.writer.tracer != nil
	return !special && !s.isReferredToLocked()
}

// isReferredToLocked reports whether anything of the connection may refer to the stream, which has
// ended.
func (s *Stream) isReferredToLocked() bool {
	c, w, snd, x := s.c, &s.window, s.sender, s.extras
	switch {
	case s.wakeDue || s.stop != nil || !s.recvQ.Empty():
		return true
	case w.kind == userManager || w.manager != nil || w.timer != nil || w.pending != 0 || w.readers != 0:
		return true
	case snd.busy || snd.in != nil || snd.timer != nil || !snd.turn.Empty() || !snd.sent.Empty():
		return true
	case x != nil && (x.promised() || x.heldHeader != 0 || x.heldTrailer != 0):
		return true
	case s.headersStart >= c.writer.written && c.ending.err == nil:
		return true
	}
	return c.writer.tracer.refersTo(s) ||
		slices.ContainsFunc(c.liveness.pings, func(p *ping) bool { return p.prober == w })
}
