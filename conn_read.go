package hyper

import (
	"bytes"
	"errors"
	"runtime"
	"slices"

	"gohyper.dev/hyper/internal/wire"
)

// readLoop owns the reading side of the socket.
func (c *Conn) readLoop() {
	defer c.frames.release()
	for {
		f, err := c.frames.next()
		if err = c.recv(&f, err); err != nil {
			if c.accuses {
				discard(transport(c.nc))
				close(c.readEnded)
			}
			return
		}
	}
}

// recvOctets is called for each read of the socket.
func (c *Conn) recvOctets(n int) {
	c.mu.Lock()
	c.readClockLocked()
	if c.resting {
		if c.rests = min(c.rests+1, busy); c.now-c.lastRecv >= shrinkDelay {
			c.rests = 0
		}
	}
	c.lastRecv, c.silentFrom, c.heard = c.now, 0, c.written
	if c.suspected.Load() {
		c.suspected.Store(false)
		c.pinging.stale, c.news = false, true
	}
	c.reading, c.resting = false, false
	c.counts.received += int64(n)
	if c.unfinished += int32(n); c.unfinished >= progressOctets {
		c.progressLocked()
	}
	c.mu.Unlock()
}

// recv takes what next has returned and, under the same lock, what it returns without reading the socket. An error ends the connection.
func (c *Conn) recv(f *frame, err error) error {
	c.mu.Lock()
	c.receiving = true
	err = c.recvLocked(f, err)
	for err == nil && c.frames.more() && c.frames.trace == nil { // Trace is the user's, and not for a lock
		*f, err = c.frames.next()
		err = c.recvLocked(f, err)
	}
	c.receiving = false
	if err != nil && c.err == nil { // at once: what the frames before it made due is not written before the last words
		c.failLocked(asConnError(err))
	}
	yield := false
	if !c.frames.more() {
		c.wakeReadersLocked()
		if c.slots.admitDue {
			c.admitLocked()
		}
		yield, c.ahead = c.ahead, false
		c.beforeReadLocked()
	}
	c.unlock()
	if yield {
		runtime.Gosched()
	}
	return err
}

func (c *Conn) recvLocked(f *frame, err error) error {
	if c.watched && err == nil && f.Type != wire.Data {
		c.tellFrameLocked(f)
		if c.err != nil { // a manager ended the connection
			return c.err
		}
	}
	bad, ok := err.(*wire.Error)
	switch {
	case ok && bad.StreamID != 0 && !c.peer.known:
		err = connErr(ProtocolError, "the first frame is not SETTINGS: %s", bad.Reason)
	case ok && bad.StreamID != 0:
		err = c.recvBadFrameLocked(f, bad)
	case ok:
		return err
	case err != nil:
		return lostErr(err)
	case !c.peer.known && (f.Type != wire.Settings || f.Flags.Has(wire.Ack)):
		err = c.notSettingsLocked(f)
	default:
		err = c.dispatchLocked(f)
	}
	if c.frames.left == 0 { // a whole frame, or the last part of one
		c.progressLocked()
	}
	if err == nil {
		err = c.err
	}
	return err
}

// tellFrameLocked tells the managers that asked for it of a frame.
func (c *Conn) tellFrameLocked(f *frame) {
	ev := WindowEvent{Kind: WindowFrame, Type: uint8(f.Type), Flags: uint8(f.Flags), Stream: f.StreamID, Bytes: f.Length}
	if c.window.watches {
		c.window.update(ev)
	}
	if s := c.streams[f.StreamID]; s != nil && s.window.watches {
		s.window.update(ev)
	}
}

// busy is a connection on which so many requests came one by one, right behind each other.
const busy = 16

// beforeReadLocked is for readLoop, which will need more of the socket.
func (c *Conn) beforeReadLocked() {
	c.reading = c.frames.r == c.frames.w
	c.resting = c.reading && len(c.streams) == 0
	// To be ready for a long silence takes a second read when it ends. Below TLS that is no system call.
	c.frames.quiet = c.resting && c.rests < busy && c.tls != nil
}

func (c *Conn) dispatchLocked(f *frame) error {
	switch f.Type {
	case wire.Data:
		c.recvMessageLocked()
		return c.recvDataLocked(f)
	case wire.Headers:
		c.recvMessageLocked()
		return c.recvHeadersLocked(f)
	case wire.PushPromise:
		return c.recvPushPromiseLocked(f)
	case wire.RSTStream:
		return c.recvRSTStreamLocked(f)
	case wire.Settings:
		return c.recvSettingsLocked(f)
	case wire.Ping:
		return c.recvPingLocked(f)
	case wire.GoAway:
		return c.recvGoAwayLocked(f)
	case wire.WindowUpdate:
		return c.recvWindowUpdateLocked(f)
	case wire.PriorityUpdate:
		// RFC 9218 §7.1: it is the client's to send; from a server it is a PROTOCOL_ERROR.
		return connErr(ProtocolError, "PRIORITY_UPDATE from a server")
	case wire.Origin:
		c.recvOriginLocked(f)
	}
	return c.chargeFloodLocked(int64(f.Length)) // §5.5: a type we do not know
}

// notSettingsLocked ends a connection whose peer does not begin with SETTINGS (RFC 9113 §3.4). One that says goodbye
// instead is taken at its word.
func (c *Conn) notSettingsLocked(f *frame) error {
	if f.Type == wire.GoAway {
		if err := c.recvGoAwayLocked(f); err != nil {
			return err
		}
		return c.goAway
	}
	return connErr(ProtocolError, "the first frame is %v, not SETTINGS", f.Type)
}

// wakeReadersLocked wakes those whose response or body came in the frames at hand: once each, however many they were.
func (c *Conn) wakeReadersLocked() {
	for i, s := range c.wakeups {
		s.wakeDue = false
		s.recvQ.WakeAll()
		c.wakeups[i] = nil
	}
	c.wakeups = c.wakeups[:0]
}

// recvBadFrameLocked ends the stream of a frame that cannot be read, and only it.
func (c *Conn) recvBadFrameLocked(f *frame, we *wire.Error) error {
	if s := c.streams[we.StreamID]; s != nil {
		s.resetLocked(streamErr(we.StreamID, ErrCode(we.Code), errors.New(we.Reason)))
		return c.provokedLocked()
	}
	if c.isIdleLocked(we.StreamID) {
		return connErr(ErrCode(we.Code), "%s on an idle stream", we.Reason)
	}
	return c.chargeFloodLocked(int64(f.Length))
}

// isIdleLocked reports whether nobody has opened or promised the stream yet.
func (c *Conn) isIdleLocked(id uint32) bool {
	if id%2 == 1 {
		return id >= c.nextID
	}
	return id > c.lastPushID
}

// strayDataLocked discards DATA on a stream that is not there. RFC 9113 §5.1: what comes on a
// stream that we reset was under way, and what comes on any other closed stream may be discarded,
// too. It is not answered: on a closed stream nothing may be sent.
func (c *Conn) strayDataLocked(f *frame) error {
	if c.isIdleLocked(f.StreamID) {
		return connErr(ProtocolError, "DATA on the idle stream %d", f.StreamID)
	}
	mark, isReset := c.slots.reset[f.StreamID]
	if !isReset {
		return c.chargeFloodLocked(int64(f.Length))
	}
	// RFC 9113 §6.9.1: the peer may not send more than its window allows, whatever becomes of it.
	if f.Length > 0 && int64(f.Length) > mark.credit {
		return connErr(FlowControlError, "DATA of %d octets exceeds the window of stream %d, which was reset", f.Length, f.StreamID)
	}
	mark.credit -= int64(f.Length)
	c.slots.reset[f.StreamID] = mark
	c.strayEndLocked(f)
	c.noise.Add((f.Length - f.padding) / 64)
	return c.noiseLocked()
}

// strayHeadersLocked discards a field section on a stream that is not there. It has been decoded,
// for the compression state.
func (c *Conn) strayHeadersLocked(f *frame) error {
	if c.isIdleLocked(f.StreamID) {
		return connErr(ProtocolError, "HEADERS on the idle stream %d", f.StreamID)
	}
	size := max(int64(f.Length), c.frames.listSize)
	if mark, isReset := c.slots.reset[f.StreamID]; isReset && !mark.headed {
		// The response was on its way when we reset the stream: however large it is, that is no offence.
		mark.headed, size = true, 0
		c.slots.reset[f.StreamID] = mark
	}
	c.strayEndLocked(f)
	return c.chargeFloodLocked(size)
}

// strayEndLocked: the peer sends no more on a stream that we reset, and does not count it any more.
func (c *Conn) strayEndLocked(f *frame) {
	if f.Flags.Has(wire.EndStream) {
		c.slots.forget(f.StreamID)
		c.admitLocked()
	}
}

func (c *Conn) recvDataLocked(f *frame) error {
	s := c.streams[f.StreamID]
	if f.first {
		// RFC 9113 §6.9.1: the connection's window counts every DATA frame, whatever becomes of it.
		if !c.window.receive(f.Length, f.padding) {
			return connErr(FlowControlError, "DATA of %d octets exceeds the connection's window", f.Length)
		}
		c.window.update(WindowEvent{Kind: WindowData, Bytes: f.Length, Padding: f.padding, End: f.Flags.Has(wire.EndStream)})
		c.window.discard(f.padding)
		c.starveOthersLocked(s)
		c.counts.dataReceived += int64(f.Length)
		if s == nil {
			c.window.consume(f.Length - f.padding) // late DATA: we ended this stream and the peer had not heard yet
			return c.strayDataLocked(f)
		}
		if f.Length == f.padding && !f.Flags.Has(wire.EndStream) {
			if err := c.noiseLocked(); err != nil {
				return err
			}
		} else {
			c.usefulLocked(f.Length - f.padding)
		}
	}
	if s == nil {
		return nil // a later part of late DATA: booked with its first
	}
	return s.recvDataLocked(f)
}

// starveOthersLocked is for readers of other streams than s, whose data has used up the connection's window.
func (c *Conn) starveOthersLocked(s *Stream) {
	if c.window.credit > 0 || c.window.readers == 0 || s != nil && c.window.readers == s.window.readers {
		return
	}
	c.window.starve()
}

func (c *Conn) recvHeadersLocked(f *frame) error {
	s := c.streams[f.StreamID]
	if s == nil {
		return c.strayHeadersLocked(f)
	}
	if f.isInterim() {
		if err := s.chargeInterimLocked(); err != nil {
			return err
		}
	} else {
		c.usefulLocked(f.Length)
	}
	return s.recvHeadersLocked(f)
}

func (c *Conn) recvRSTStreamLocked(f *frame) error {
	s := c.streams[f.StreamID]
	if s == nil {
		if c.isIdleLocked(f.StreamID) {
			return connErr(ProtocolError, "RST_STREAM on the idle stream %d", f.StreamID)
		}
		c.slots.forget(f.StreamID) // the peer does not count it any more
		c.admitLocked()
		return c.noiseLocked()
	}
	return s.recvResetLocked(ErrCode(wire.ParseRSTStream(f.payload)))
}

func (c *Conn) recvWindowUpdateLocked(f *frame) error {
	n := int64(wire.ParseWindowUpdate(f.payload))
	if f.StreamID == 0 {
		if n == 0 {
			return connErr(ProtocolError, "WINDOW_UPDATE of 0 octets")
		}
		// RFC 9113 §6.9.1: a sender MUST NOT allow a flow-control window to exceed 2^31-1.
		if c.sendWindow+n > wire.MaxWindow {
			return connErr(FlowControlError, "WINDOW_UPDATE raises the connection's window above 2^31-1")
		}
		c.sendWindow += n
		return c.judgeUpdateLocked(n)
	}
	s := c.streams[f.StreamID]
	if s == nil {
		if c.isIdleLocked(f.StreamID) {
			return connErr(ProtocolError, "WINDOW_UPDATE on the idle stream %d", f.StreamID)
		}
		return c.noiseLocked()
	}
	return s.recvWindowUpdateLocked(n)
}

func (c *Conn) recvGoAwayLocked(f *frame) error {
	if c.err != nil { // what ended the connection came before
		return c.err
	}
	last, code, debug := wire.ParseGoAway(f.payload)
	// RFC 9113 §6.8: later GOAWAYs MUST NOT increase the last stream identifier.
	if c.goAway != nil && last > c.goAway.LastStreamID {
		return connErr(ProtocolError, "GOAWAY raises its last stream from %d to %d", c.goAway.LastStreamID, last)
	}
	told := &ConnError{Code: ErrCode(code), FromPeer: true, LastStreamID: last, Debug: append([]byte(nil), debug...), goAway: true}
	if before := c.goAway; before != nil {
		told.Code, told.Debug = or(told.Code, before.Code), joinDebug(before.Debug, told.Debug)
	}
	c.owner.count(goAwaysReceived, ErrCode(code))
	told.answers = c.draining && told.Code == NoError && (c.goAway == nil || c.goAway.answers)
	c.goAway = c.named(told)
	c.recvComplaintLocked(told)
	c.news = true
	c.slots.waiting.WakeAll()
	for id, s := range c.streams {
		if id%2 == 1 && id > last {
			s.endLocked(&StreamError{StreamID: id, Code: ErrCode(code), FromPeer: true, Err: c.goAway, unprocessed: !s.began, began: s.began})
		}
	}
	c.beginDrainingLocked(ReasonGoAway)
	c.closeIfDrainedLocked()
	return c.chargeFloodLocked(int64(f.Length))
}

// maxDebug bounds what is kept of the debug data of several GOAWAYs together.
const maxDebug = 4 << 10

// joinDebug returns the debug data of an earlier GOAWAY and of a later one.
func joinDebug(before, later []byte) []byte {
	switch {
	case len(before) == 0:
		return later
	case len(later) == 0 || bytes.HasSuffix(before, later) || len(before)+len("; ")+len(later) > maxDebug:
		return before
	}
	return slices.Concat(before, []byte("; "), later)
}
