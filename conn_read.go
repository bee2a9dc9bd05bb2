package hyper

import (
	"bytes"
	"errors"
	"runtime"
	"slices"

	"gohyper.dev/hyper/internal/netconn"
	"gohyper.dev/hyper/internal/wait"
	"gohyper.dev/hyper/internal/wire"
)

// A connReader holds the state of reading. The connection's mu guards it, except for frames.
type connReader struct {
	frames *frameReader // owned by readLoop
	// Streams whose readers are woken when no complete frame is left in the read buffer.
	wakeups []*Stream

	state readerState
	// How many times in a row readerIdle lasted less than shrinkDelay, up to busy.
	shortIdles uint8
	// Some stream has buffered at least farAhead: readLoop yields, so that the data is read while
	// it is in the processor's cache.
	yieldDue bool
	watched  bool // some window manager called WatchFrames
}

// A readerState is what readLoop does.
type readerState uint8

// The values of readerState. In readerReading and readerIdle, the read buffer is empty and readLoop
// is about to read. Until it locks mu again, it uses nothing of frames except the buffer.
const (
	readerParsing   readerState = iota // it takes a frame out of the read buffer
	readerReceiving                    // it processes the frames in its read buffer
	readerReading
	readerIdle // it reads, and no stream is open
)

// readLoop reads the socket and processes frames until the connection ends.
func (c *Conn) readLoop() {
	defer c.reader.frames.release()
	if t := c.writer.tracer; t != nil {
		defer t.framesDropped()
	}
	for {
		f, err := c.reader.frames.next()
		if err = c.recv(&f, err); err != nil {
			if c.ending.readDone != nil {
				netconn.Discard(netconn.Raw(c.socket.nc))
				close(c.ending.readDone)
			}
			return
		}
	}
}

// recvOctets is called after each read of the socket, which has read n bytes.
func (c *Conn) recvOctets(n int) {
	c.lock()
	c.readClockLocked()
	if c.reader.state == readerIdle {
		if c.reader.shortIdles = min(c.reader.shortIdles+1,
			busy); c.liveness.now-c.liveness.lastRecv >= shrinkDelay {
			c.reader.shortIdles = 0
		}
	}
	c.liveness.lastRecv, c.liveness.silentFrom, c.liveness.heard = c.liveness.now, 0, c.writer.written
	if c.reports.suspected.Load() {
		c.reports.suspected.Store(false)
		c.liveness.stale, c.reports.stateChanged = false, true
	}
	if t := c.writer.tracer; t != nil {
		t.readLocked()
	}
	c.reader.state = readerParsing
	c.counts.received += int64(n)
	if c.liveness.unfinished += int32(n); c.liveness.unfinished >= progressOctets {
		c.progressLocked()
	}
	c.unlock()
}

// recv processes the frame f or the error err that next has returned. With the same lock, it
// processes all further frames that are in the read buffer. An error ends the connection.
func (c *Conn) recv(f *frame, err error) error {
	t := c.writer.tracer
	if t != nil {
		t.deliverHeld()
	}
	c.lock()
	if t != nil {
		t.readerClaims = false
	}
	c.reader.state = readerReceiving
	err = c.recvUnlocking(f, err)
	// Config.Trace is user code, which must not run under mu.
	for err == nil && !c.reader.frames.callsUser() && c.reader.frames.more() {
		*f, err = c.reader.frames.next()
		err = c.recvUnlocking(f, err)
	}
	c.reader.state = readerParsing
	// End the connection at once: what the frames before the error made due must not be written
	// before the GOAWAY.
	if err != nil && c.ending.err == nil {
		c.failLocked(asConnError(err))
	}
	yield, more := false, c.reader.frames.more()
	var readers wait.Batch
	if !more || err != nil {
		readers = c.takeReadersLocked()
	}
	if !more {
		if c.slots.admitDue {
			c.admitLocked()
		}
		yield, c.reader.yieldDue = c.reader.yieldDue, false
		c.beforeReadLocked()
	}
	if t != nil {
		t.framesDoneLocked(more && err == nil && c.reader.frames.inspect == nil)
	}
	if t != nil { // Config.Trace may take long, and readers must not be delayed by it
		readers.Wake()
	}
	c.unlock()
	if t != nil {
		t.framesDone()
	}
	readers.Wake()
	if yield {
		runtime.Gosched()
	}
	return err
}

// recvUnlocking processes one frame, or the error of reading it. It returns an error if the
// connection must end.
func (c *Conn) recvUnlocking(f *frame, err error) error {
	if c.ending.err != nil {
		return c.ending.err
	}
	if c.reader.watched && err == nil && f.Type != wire.Data && c.tellFrameLocked(f) {
		return c.ending.err
	}
	bad, ok := err.(*wire.Error)
	switch {
	case ok && bad.StreamID != 0 && !c.settings.peer.known:
		err = connErr(ErrCodeProtocol, "the first frame is not SETTINGS: %s", bad.Reason)
	case ok && bad.StreamID != 0:
		err = c.recvBadFrameLocked(f, bad)
	case ok:
		return err
	case err != nil:
		return lostErr(err)
	case !c.settings.peer.known && (f.Type != wire.Settings || f.Flags.Has(wire.Ack)):
		err = c.notSettingsLocked(f)
	default:
		err = c.dispatchUnlocking(f)
	}
	if c.reader.frames.left == 0 { // a whole frame, or the last part of one
		c.progressLocked()
	}
	if err == nil {
		err = c.ending.err
	}
	return err
}

// tellFrameLocked reports a frame to the window managers that called WatchFrames. It reports
// whether one of them ended the connection.
func (c *Conn) tellFrameLocked(f *frame) (ended bool) {
	ev := WindowEvent{Kind: WindowFrame, Type: uint8(f.Type), Flags: uint8(f.Flags), StreamID: f.StreamID,
		Bytes: f.Length}
	if c.flow.window.watches && c.flow.window.update(ev) {
		return true
	}
	if s := c.streams.byID[f.StreamID]; s != nil && s.window.watches {
		s.window.update(ev)
	}
	return c.ending.err != nil // ending the stream may have ended a connection that accepts no more streams
}

// busy is the number of short idle times in a row that make a connection a busy one: its requests
// follow each other closely.
const busy = 16

// beforeReadLocked prepares frames for a read of the socket. From readerReading on, tick may
// free the memory of field sections, so readLoop does not touch it until recvOctets has returned.
func (c *Conn) beforeReadLocked() {
	c.reader.frames.section.FreeLarge()
	switch {
	case c.reader.frames.r != c.reader.frames.w: // a part of a frame is left
		c.reader.state = readerParsing
	case len(c.streams.byID) > 0:
		c.reader.state = readerReading
	default:
		c.reader.state = readerIdle
		if c.liveness.afterPause && c.writer.state.Load() == writerStopped {
			c.shrinkReaderLocked()
		}
	}
	// A quiet connection holds no read buffer while it waits. The first frame after the silence
	// then needs a second read, which over TLS is not a system call.
	c.reader.frames.expectIdle = c.reader.state == readerIdle && c.reader.shortIdles < busy &&
		c.socket.tls != nil
}

// dispatchUnlocking calls the function for the type of the frame.
func (c *Conn) dispatchUnlocking(f *frame) error {
	switch f.Type {
	case wire.Data:
		c.recvMessageLocked()
		return c.recvDataLocked(f)
	case wire.Headers:
		c.recvMessageLocked()
		return c.recvHeadersLocked(f)
	case wire.PushPromise:
		return c.recvPushPromiseUnlocking(f)
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
		// RFC 9218 §7.1: only clients send PRIORITY_UPDATE; from a server it is a PROTOCOL_ERROR.
		return connErr(ErrCodeProtocol, "PRIORITY_UPDATE from a server")
	case wire.Origin:
		c.recvOriginLocked(f)
	}
	return c.chargeFloodLocked(int64(f.Length)) // RFC 9113 §5.5: ignore unknown types
}

// notSettingsLocked returns the error for a peer whose first frame is not SETTINGS (RFC 9113 §3.4).
// If that frame is a GOAWAY, it is the error.
func (c *Conn) notSettingsLocked(f *frame) error {
	if f.Type == wire.GoAway {
		if err := c.recvGoAwayLocked(f); err != nil {
			return err
		}
		return c.ending.goAway
	}
	return connErr(ErrCodeProtocol, "the first frame is %v, not SETTINGS", f.Type)
}

// takeReadersLocked takes the readers for which the processed frames had a response or data: each
// reader once, however many frames there were. They are woken when mu is unlocked, because a reader
// on another processor begins by locking it.
func (c *Conn) takeReadersLocked() (readers wait.Batch) {
	for i, s := range c.reader.wakeups {
		s.wakeDue = false
		readers.Take(&s.recvQ)
		c.reader.wakeups[i] = nil
	}
	c.reader.wakeups = c.reader.wakeups[:0]
	return readers
}

// recvBadFrameLocked processes a frame that is malformed in a way that concerns only its stream. It
// resets that stream.
func (c *Conn) recvBadFrameLocked(f *frame, we *wire.Error) error {
	if s := c.streams.byID[we.StreamID]; s != nil {
		return s.rejectLocked(streamErr(we.StreamID, ErrCode(we.Code), errors.New(we.Reason)))
	}
	if c.isIdleLocked(we.StreamID) {
		return connErr(ErrCode(we.Code), "%s on an idle stream", we.Reason)
	}
	return c.chargeFloodLocked(int64(f.Length))
}

// isIdleLocked reports whether the stream is idle: neither opened by us nor promised by the peer.
func (c *Conn) isIdleLocked(id uint32) bool {
	if id%2 == 1 {
		return id >= c.streams.nextID
	}
	return id > c.streams.lastPushID
}

// strayDataLocked discards DATA on a closed stream. RFC 9113 §5.1: a peer may send frames before it
// knows that we reset the stream, and DATA on other closed streams may be discarded, too. We send
// nothing for it, because nothing may be sent on a closed stream.
func (c *Conn) strayDataLocked(f *frame) error {
	if c.isIdleLocked(f.StreamID) {
		return connErr(ErrCodeProtocol, "DATA on the idle stream %d", f.StreamID)
	}
	mark, isReset := c.slots.reset[f.StreamID]
	if !isReset {
		return c.chargeFloodLocked(int64(f.Length))
	}
	// RFC 9113 §6.9.1: the peer may not exceed the window, even if the data is discarded.
	if f.Length > 0 && int64(f.Length) > mark.credit {
		return connErr(ErrCodeFlowControl,
			"DATA of %d bytes exceeds the window of stream %d, which was reset", f.Length, f.StreamID)
	}
	mark.credit -= int64(f.Length)
	c.slots.reset[f.StreamID] = mark
	c.strayEndLocked(f)
	c.liveness.floodBudget.Add((f.Length - f.padding) / 64)
	return c.chargeNoiseLocked()
}

// strayHeadersLocked discards a field section on a closed stream. It was decoded to keep the
// compression state correct.
func (c *Conn) strayHeadersLocked(f *frame) error {
	if c.isIdleLocked(f.StreamID) {
		return connErr(ErrCodeProtocol, "HEADERS on the idle stream %d", f.StreamID)
	}
	size := max(int64(f.Length), c.reader.frames.section.Size())
	if mark, isReset := c.slots.reset[f.StreamID]; isReset && !mark.headed {
		// The peer sent the response before it knew of our reset. It is not charged for its size.
		mark.headed, size = true, 0
		c.slots.reset[f.StreamID] = mark
	}
	c.strayEndLocked(f)
	return c.chargeFloodLocked(size)
}

// strayEndLocked processes END_STREAM on a stream that we reset: the peer sends no more on it and
// no longer counts it.
func (c *Conn) strayEndLocked(f *frame) {
	if f.Flags.Has(wire.EndStream) {
		c.slots.forget(f.StreamID)
		c.admitLocked()
	}
}

// recvDataLocked processes a part of a DATA frame.
func (c *Conn) recvDataLocked(f *frame) error {
	s := c.streams.byID[f.StreamID]
	if f.first {
		// RFC 9113 §6.9.1: every DATA frame counts against the connection's window, even if it is
		// discarded.
		if !c.flow.window.receive(f.Length, f.padding) {
			return connErr(ErrCodeFlowControl, "DATA of %d bytes exceeds the connection's window", f.Length)
		}
		ev := WindowEvent{Kind: WindowData, Bytes: f.Length, Padding: f.padding,
			End: f.Flags.Has(wire.EndStream)}
		if c.flow.window.update(ev) || c.flow.window.discard(f.padding) || c.blockOthersLocked(s) {
			return c.ending.err
		}
		c.counts.dataReceived += int64(f.Length)
		if s == nil {
			// Late DATA: we ended this stream, and the peer did not know yet.
			c.writer.tracer.recvWindowLocked(nil, -f.Length)
			c.flow.window.consume(f.Length - f.padding)
			return c.strayDataLocked(f)
		}
		if f.Length == f.padding && !f.Flags.Has(wire.EndStream) {
			if err := c.chargeNoiseLocked(); err != nil {
				return err
			}
		} else {
			c.creditFloodLocked(f.Length - f.padding)
		}
	}
	if s == nil {
		return nil // a later part of late DATA; its first part was counted
	}
	if err := s.recvDataLocked(f); err != nil || f.Length > smallData {
		return err
	}
	c.recvSmallDataLocked(s)
	return nil
}

// smallData is the size in bytes up to which DATA frames count as small. What a connection does for
// each frame costs more than their payload.
const smallData = 1 << 10

// recvSmallDataLocked receives the small DATA frames of s that follow its last frame in the read
// buffer, as if their payloads had come in one frame. It leaves a frame to recvDataLocked if the
// frame could end the stream or exceed a window or a content-length, or if each frame must be seen.
func (c *Conn) recvSmallDataLocked(s *Stream) {
	if c.reader.watched || c.reader.frames.callsUser() || c.writer.tracer.wantsFrames() || s.push != nil ||
		!s.takesDataLocked() || !c.flow.window.ownsManager() || !s.window.ownsManager() {
		return
	}
	most := min(c.flow.window.mayArrive(), s.window.mayArrive())
	if s.bodyLeft >= 0 {
		most = min(most, s.bodyLeft)
	}
	n, tokens := 0, 0
	for {
		p := c.reader.frames.nextSmallData(s.id, int(min(smallData, most-int64(n))))
		if len(p) == 0 {
			break
		}
		s.buf.Write(p)
		n += len(p)
		tokens += 1 + len(p)/64
	}
	if n == 0 {
		return
	}
	ev := WindowEvent{Kind: WindowData, Bytes: n}
	for _, w := range [...]*Window{&c.flow.window, &s.window} {
		w.receive(n, 0)
		w.update(ev)
	}
	c.counts.dataReceived += int64(n)
	c.liveness.floodBudget.Add(tokens)
	if s.bodyLeft >= 0 {
		s.bodyLeft -= int64(n)
	}
	c.reader.yieldDue = c.reader.yieldDue || s.buf.Len() >= farAhead
	s.wakeReaderLocked()
}

// blockOthersLocked tells the connection's window manager when data for s has used up the
// connection's window and readers of other streams wait. It reports whether the manager ended the
// connection.
func (c *Conn) blockOthersLocked(s *Stream) (ended bool) {
	if c.flow.window.credit > 0 || c.flow.window.readers == 0 || s != nil &&
		c.flow.window.readers == s.window.readers {
		return false
	}
	return c.flow.window.blocked()
}

// recvHeadersLocked processes a field section.
func (c *Conn) recvHeadersLocked(f *frame) error {
	s := c.streams.byID[f.StreamID]
	if s == nil {
		return c.strayHeadersLocked(f)
	}
	if f.isInterim() {
		if err := s.chargeInterimLocked(); err != nil {
			return err
		}
	} else {
		c.creditFloodLocked(f.Length)
	}
	return s.recvHeadersLocked(f)
}

// recvRSTStreamLocked processes an RST_STREAM.
func (c *Conn) recvRSTStreamLocked(f *frame) error {
	s := c.streams.byID[f.StreamID]
	if s == nil {
		if c.isIdleLocked(f.StreamID) {
			return connErr(ErrCodeProtocol, "RST_STREAM on the idle stream %d", f.StreamID)
		}
		c.slots.forget(f.StreamID) // the peer no longer counts it
		c.admitLocked()
		return c.chargeNoiseLocked()
	}
	return s.recvResetLocked(ErrCode(wire.ParseRSTStream(f.payload)))
}

// recvWindowUpdateLocked processes a WINDOW_UPDATE of the connection or of a stream.
func (c *Conn) recvWindowUpdateLocked(f *frame) error {
	n := int64(wire.ParseWindowUpdate(f.payload))
	if f.StreamID == 0 {
		if n == 0 {
			return connErr(ErrCodeProtocol, "WINDOW_UPDATE of 0 bytes")
		}
		// RFC 9113 §6.9.1: a sender MUST NOT allow a flow-control window to exceed 2^31-1.
		if c.flow.sendWindow+n > wire.MaxWindow {
			return connErr(ErrCodeFlowControl, "WINDOW_UPDATE raises the connection's window above 2^31-1")
		}
		c.flow.sendWindow += n
		c.writer.tracer.sendWindowLocked(nil, int(n))
		return c.countTinyUpdateLocked(n)
	}
	s := c.streams.byID[f.StreamID]
	if s == nil {
		if c.isIdleLocked(f.StreamID) {
			return connErr(ErrCodeProtocol, "WINDOW_UPDATE on the idle stream %d", f.StreamID)
		}
		return c.chargeNoiseLocked()
	}
	return s.recvWindowUpdateLocked(n)
}

// recvGoAwayLocked processes a GOAWAY: it ends the streams above its last stream, and drains the
// connection.
func (c *Conn) recvGoAwayLocked(f *frame) error {
	if c.ending.err != nil { // the connection has ended for an earlier reason
		return c.ending.err
	}
	last, code, debug := wire.ParseGoAway(f.payload)
	// RFC 9113 §6.8: later GOAWAYs MUST NOT increase the last stream identifier.
	if c.ending.goAway != nil && last > c.ending.goAway.LastStreamID {
		return connErr(ErrCodeProtocol, "GOAWAY raises its last stream from %d to %d",
			c.ending.goAway.LastStreamID,
			last)
	}
	told := &ConnError{Code: ErrCode(code), FromPeer: true, LastStreamID: last,
		Debug: append([]byte(nil), debug...), how: connGoAway, LastFrames: c.writer.tracer.lastFrames()}
	if before := c.ending.goAway; before != nil {
		told.Code, told.Debug = or(told.Code, before.Code), joinDebug(before.Debug, told.Debug)
	}
	c.reports.owner.count(goAwaysReceived, ErrCode(code))
	onlyReplies := c.ending.goAway == nil || c.ending.goAway.how == connGoAwayReply
	if c.ending.phase == connDraining && told.Code == ErrCodeNo && onlyReplies {
		told.how = connGoAwayReply
	}
	c.ending.goAway = c.named(told)
	c.recvTooManyPingsLocked(told)
	c.reports.stateChanged = true
	c.slots.waiting.WakeAll()
	for id, s := range c.streams.byID {
		if id%2 == 1 && id > last {
			s.closeLocked(end{err: &StreamError{StreamID: id, Code: ErrCode(code), FromPeer: true,
				Err: c.ending.goAway, processed: or(s.processedLocked(), neverProcessed)}})
		}
	}
	c.beginDrainingLocked(ReasonGoAway)
	c.closeIfDrainedLocked()
	return c.chargeFloodLocked(int64(f.Length))
}

// maxDebug limits the debug data that is kept of all GOAWAYs together, in bytes.
const maxDebug = 4 << 10

// joinDebug joins the debug data of earlier GOAWAYs and of a later one.
func joinDebug(before, later []byte) []byte {
	switch {
	case len(before) == 0:
		return later
	case len(later) == 0 || bytes.HasSuffix(before, later) || len(before)+len("; ")+len(later) > maxDebug:
		return before
	}
	return slices.Concat(before, []byte("; "), later)
}
