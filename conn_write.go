package hyper

import (
	"maps"
	"runtime"
	"sync/atomic"
	"time"

	"gohyper.dev/hyper/internal/fieldblock"
	"gohyper.dev/hyper/internal/netconn"
	"gohyper.dev/hyper/internal/wait"
	"gohyper.dev/hyper/internal/wire"
)

// Sizes and times of writing.
const (
	writeSize = netconn.WriteSize   // bytes passed to the socket in one write
	outRest   = 2 << 10             // so many bytes more are not worth another write
	outSize   = writeSize + outRest // DATA is appended up to this size before a write

	// During a write, DATA of a few bytes is appended up to this size.
	earlySize = 16 << 10

	// With fewer bytes to write, writeLoop may yield so that requests are added.
	fewOctets    = 4 << 10
	shortYield   = time.Millisecond      // a yield this short is never too long
	requestYield = 50 * time.Microsecond // how much longer a yield may be for each request that it brings
	firstPause   = 10 * time.Millisecond
	pauseSteps   = 3 // each pause is 16 times the one before; the last is 41 s

	// A connection that has written nothing for this long is idle.
	shrinkDelay = 250 * time.Millisecond
)

// A connWriter holds what a connection has to write. The connection's mu guards it, except for
// wake, tracer and state.
type connWriter struct {
	wake   chan struct{} // one slot: tells writeLoop that there is work
	tracer *connTracer   // never changed after newConn; nil: nothing is traced

	state   atomic.Uint32 // a writerState; without mu, it only changes from writerStopped
	corked  bool          // the preface waits for the first request
	unblock bool          // the peer raised all stream windows: check the blocked streams
	batch   *batch        // what Conn.Batch holds back; nil: nothing

	out     []byte             // bytes for the next write: whole frames
	spare   []byte             // replaces out during a write; nil while it is being written
	fields  *fieldblock.Writer // compression state after what is in out
	updates []*Window          // windows whose WINDOW_UPDATE is to be sent
	ready   readyQueue         // streams that have data to send and stream window for it
	blocked sendQueue          // streams that wait for stream window
	queued  uint64             // bytes added to out so far
	written uint64             // bytes passed to the socket so far
	flushed uint64             // bytes that the socket has accepted
	flushQ  wait.Queue         // calls that wait until flushed grows
}

// What writeLoop does.
const (
	writerRunning uint32 = iota
	writerParked         // it waits for wake
	writerStopped        // it has exited; wakeWriter starts it again
)

// writeLoop writes to the socket, and closes it at the end. While the connection is idle, writeLoop
// does not run. After a pause it exits when it has nothing more to write, because the next write
// may come after a pause, too.
func (c *Conn) writeLoop() {
	c.lock()
	c.writer.state.Store(writerRunning)
	c.applyGrantsLocked()
	// Many requests may have waited for a new connection.
	g := yieldPolicy{opened: c.counts.opened, hadCompany: c.writer.written == 0}
	pace := newWritePace()
	for {
		for !c.hasWorkLocked() {
			if c.retireLocked() {
				c.unlock()
				pace.end(c)
				return
			}
			c.restUnlocking()
			c.applyGrantsLocked()
		}
		c.maybeYieldUnlocking(&g, runtime.Gosched)
		c.applyGrantsLocked()
		more := pace.fillLocked(c)
		g.hadCompany, g.opened = c.counts.opened > g.opened+1, c.counts.opened
		last := c.ending.err != nil
		batch := c.takeOutLocked()
		c.liveness.acksQueued = 0
		c.watchWriteLocked()
		c.writer.tracer.writingLocked()
		// DATA that ended a stream has freed its slot.
		c.unlock()

		c.writer.tracer.sending(batch)
		pace.begin(c)
		err := c.write(batch)
		// The last frames are written together with the alert with which TLS ends.
		if err == nil && !last {
			err = c.socket.below.Flush()
		}
		if err != nil {
			c.awaitLastWords(err)
		}

		c.lock()
		c.writer.spare = batch
		c.liveness.writeSince = 0
		if err == nil {
			pace.wroteLocked(c, len(batch), more)
			c.writer.flushed = c.writer.written
			c.writer.tracer.flushedLocked()
			c.writer.flushQ.WakeAll()
			c.admitMoreLocked()
			c.watchSlotPingLocked()
		}
		if err != nil || last {
			c.unlock()
			c.closeSocket(err == nil)
			c.reports.owner.ended(c)
			close(c.ending.socketClosed)
			return
		}
	}
}

// A yieldPolicy decides whether writeLoop yields once before a write, so that other requests, or
// the first bytes of a body, share the write. writeLoop does not yield if at most one stream is
// open and the last write had at most one request, unless the body of that stream is being read. On
// a busy processor, a yield may take long. After two such yields in a row that brought too few
// requests for their time, there are no yields for 10 ms, and for 16 times longer each time it
// happens again, up to 41 s.
type yieldPolicy struct {
	opened       int64         // counts.opened when the last write began
	hadCompany   bool          // the last write had more than one request
	costlyYields int           // how many yields in a row took too long
	bodyYields   int           // how many yields for a body, in a row, brought nothing
	pausedUntil  time.Duration // no yield before this time since start
}

// After fewBodyYields yields for a body that brought nothing, only one write of oftenBodyYields
// yields for a body.
const (
	fewBodyYields   = 8
	oftenBodyYields = 16
)

// maybeYieldUnlocking yields, unless enough bytes wait to be written or nothing that could share
// the write is likely.
func (c *Conn) maybeYieldUnlocking(g *yieldPolicy, yield func()) {
	queued := len(c.writer.out)
	if queued >= fewOctets || c.ending.err != nil {
		return
	}
	forBody := !g.hadCompany && len(c.streams.byID) <= 1
	if forBody && !(c.readsBodyLocked() && g.triesBody()) {
		return
	}
	begin, opened := c.clock(), c.counts.opened
	if begin < g.pausedUntil {
		return
	}
	c.unlock()
	yield()
	c.lock()
	if forBody && len(c.writer.out) > queued {
		g.bodyYields = 0
	}
	end := c.clock()
	if end-begin <= shortYield+time.Duration(c.counts.opened-opened)*requestYield {
		g.costlyYields = 0
		return
	}
	// A single long yield may be due to another program on the system.
	if g.costlyYields++; g.costlyYields > 1 {
		g.pausedUntil = end + firstPause<<(4*min(g.costlyYields-2, pauseSteps))
	}
}

// triesBody reports whether to yield for a body, and counts that.
func (g *yieldPolicy) triesBody() bool {
	g.bodyYields++
	return g.bodyYields <= fewBodyYields || g.bodyYields%oftenBodyYields == 0
}

// readsBodyLocked reports whether the only open stream has a body that is being read. Its next
// bytes often come at once: the Read of a body in memory does not block, and a message is often
// written to a pipe in two parts.
func (c *Conn) readsBodyLocked() bool {
	if len(c.streams.byID) != 1 {
		return false
	}
	s := c.streams.byID[c.streams.nextID-2] // most often; a look costs less than a loop
	if s == nil {
		for _, s = range c.streams.byID {
		}
	}
	return s.sendErr == nil && s.upload.Load() == uploadOpen && !s.sender.held && len(s.sender.pending) == 0
}

// restUnlocking waits for work.
func (c *Conn) restUnlocking() {
	c.writer.state.Store(writerParked)
	if at := c.shrinkAtLocked(); at > 0 {
		c.armLocked(at)
	}
	c.unlock()
	<-c.writer.wake
	c.lock()
	c.writer.state.Store(writerRunning)
}

// retireLocked reports whether writeLoop must exit, because nothing was written for shrinkDelay
// before or after the last write. wakeWriter starts it again.
func (c *Conn) retireLocked() bool {
	if !c.liveness.afterPause && c.liveness.now-c.liveness.wroteAt < shrinkDelay {
		return false
	}
	c.writer.state.Store(writerStopped)
	// Window.Grant does not lock mu. If it ran before the state was set, its wake is in the
	// channel. If it runs later, it sees that writeLoop has stopped.
	if len(c.writer.wake) > 0 && c.writer.state.CompareAndSwap(writerStopped, writerRunning) {
		return false
	}
	if c.liveness.afterPause && len(c.writer.out) == 0 {
		c.shrinkWriterLocked()
		if len(c.streams.byID) == 0 {
			c.shrinkReaderLocked()
		}
	}
	return true
}

// shrinkAtLocked returns when the connection will have been idle for long enough to release its
// buffers and writeLoop. 0: it has none to release, or it writes.
func (c *Conn) shrinkAtLocked() time.Duration {
	waits := c.writer.state.Load() == writerParked
	if c.liveness.writeSince != 0 || len(c.writer.out) > 0 || cap(c.writer.out)+cap(c.writer.spare) == 0 &&
		!waits {
		return 0
	}
	return c.liveness.wroteAt + shrinkDelay
}

// shrinkLocked releases the memory of an idle connection.
func (c *Conn) shrinkLocked() {
	if c.writer.state.CompareAndSwap(writerParked, writerRunning) {
		// It will find no work and exit.
		c.wakeWriter()
	}
	c.shrinkWriterLocked()
	c.shrinkReaderLocked()
	c.streams.spares = wait.Spares{}
}

// shrinkWriterLocked releases the memory for what is written. Nothing may wait to be written.
func (c *Conn) shrinkWriterLocked() {
	netconn.GiveBuffer(c.writer.out)
	netconn.GiveBuffer(c.writer.spare)
	c.writer.out, c.writer.spare = nil, nil
	c.writer.fields.Forget()
	c.writer.updates = shrunk(c.writer.updates)
	c.socket.below.Shrink()
}

// shrinkReaderLocked releases the memory for responses, and that of the streams if none is open.
func (c *Conn) shrinkReaderLocked() {
	c.streams.headerArena = nil
	if c.reader.state >= readerReading {
		c.reader.frames.forget()
	}
	if cap(c.reader.wakeups) > 1 { // one is cheaper to keep than to allocate
		c.reader.wakeups = shrunk(c.reader.wakeups)
	}
	if len(c.streams.byID) == 0 {
		c.streams.giveMap()
		c.writer.ready.ranked = nil
	}
}

// Limits for the release of memory after many streams.
const (
	bulky     = 64 // so many streams or waiters at once are many
	bulkyRest = 8  // few are so many times fewer than there were
)

// knownStreamsLocked returns the number of streams that are open or have a mark.
func (c *Conn) knownStreamsLocked() int { return len(c.streams.byID) + len(c.slots.reset) }

// isBulkyLocked reports whether the connection holds memory for many streams and now has few.
func (c *Conn) isBulkyLocked() bool {
	most := max(c.streams.peak, c.streams.spares.Len())
	return most >= bulky && bulkyRest*c.knownStreamsLocked() <= most
}

// trimLaterLocked sets the timer to release such memory, after a time in which many streams may
// come again.
func (c *Conn) trimLaterLocked() {
	if c.streams.trimAt == 0 && c.isBulkyLocked() {
		c.streams.trimAt = c.clock() + shrinkDelay
		c.armLocked(c.streams.trimAt)
	}
}

// trimLocked releases memory that many streams needed, unless there are many again. It copies maps
// because a map never shrinks.
func (c *Conn) trimLocked() {
	c.streams.trimAt = 0
	if !c.isBulkyLocked() {
		return
	}
	c.streams.byID, c.slots.reset = shrunkMap(c.streams.byID), shrunkMap(c.slots.reset)
	c.writer.updates, c.reader.wakeups, c.liveness.pings = shrunk(c.writer.updates), shrunk(c.reader.wakeups),
		shrunk(c.liveness.pings)
	c.streams.spares = wait.Spares{}
	c.streams.peak = c.knownStreamsLocked()
}

// shrunkMap returns a copy of m that has no more memory than it needs, or nil if m is empty.
func shrunkMap[K comparable, V any](m map[K]V) map[K]V {
	if len(m) == 0 {
		return nil
	}
	small := make(map[K]V, len(m))
	maps.Copy(small, m)
	return small
}

// shrunk returns list, or nil if it is empty, so that its memory is released.
func shrunk[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}

// awaitLastWords waits after a failed write until the connection has ended. The socket may still
// have data that the peer sent before, such as a GOAWAY. readLoop gets closeGrace to read it and to
// end the connection with its error. Then awaitLastWords ends the connection with err.
func (c *Conn) awaitLastWords(err error) {
	timer := time.AfterFunc(closeGrace, func() { c.fail(lostErr(err)) })
	defer timer.Stop()
	<-c.ending.done
}

// write writes batch to nc in pieces, so that a slow peer can be told from one that has stalled.
func (c *Conn) write(batch []byte) error {
	for len(batch) > 0 {
		n := min(len(batch), writeSize)
		if len(batch)-n <= outRest {
			n = len(batch)
		}
		if _, err := netconn.WriteAll(c.socket.nc, batch[:n]); err != nil {
			return err
		}
		if batch = batch[n:]; len(batch) > 0 {
			c.lock()
			c.liveness.writeSince = c.clock()
			c.unlock()
		}
	}
	return nil
}

// closeSocket closes the socket. Closing a TLS connection writes an alert, and that write can
// block, too; the force timer limits it. If the last write failed, the peer gets no close alert.
// orderly is whether it succeeded.
func (c *Conn) closeSocket(orderly bool) {
	if !orderly {
		// Send the alert that says why TLS cannot write any more.
		c.socket.below.FlushAlert()
		netconn.Raw(c.socket.nc).Close()
	} else if c.ending.readDone != nil {
		c.linger()
	}
	c.socket.nc.Close()
	c.ending.closeTimer.Stop()
}

// linger closes our direction and waits until the peer closes its own. If a socket is closed before
// all received data was read, it is reset (RFC 1122 §4.2.2.13). A reset may discard data that the
// peer has not read yet: here the GOAWAY that tells the peer its error, while it still sends. If
// one direction alone cannot be closed, the connection is still read to its end.
func (c *Conn) linger() {
	netconn.CloseWriteAll(c.socket.nc)
	<-c.ending.readDone // the force timer limits this
}

// applyGrantsLocked applies the increments of Window.Grant.
func (c *Conn) applyGrantsLocked() {
	for _, w := range c.flow.grants.take() {
		w.grant(w.asked.Swap(0))
	}
}

// fillLocked appends to out what is due: WINDOW_UPDATEs first, then DATA of the ready streams in
// their order, as far as out is smaller than size. least is how many bytes of DATA frames are
// appended in any case.
func (c *Conn) fillLocked(size, least int) {
	if c.flow.window.wakes {
		c.flow.window.wakes = false
		if c.flow.window.update(WindowEvent{Kind: WindowTick}) {
			return
		}
	}
	for _, w := range c.writer.updates {
		c.writer.add(w.appendUpdate(c.writer.out))
	}
	clear(c.writer.updates)
	c.writer.updates = c.writer.updates[:0]
	if c.writer.unblock {
		c.writer.unblock = false
		for c.writer.blocked.head != nil {
			c.writer.ready.push(c.writer.blocked.pop())
		}
	}
	c.appendDataLocked(size-outRest, max(size-len(c.writer.out), least))
}

// appendDataLocked appends DATA of the ready streams in turn, one frame each, as far as the
// connection's window and room allow, which is in bytes of frames. most limits the DATA of a frame.
func (c *Conn) appendDataLocked(most, room int) {
	for {
		s := c.writer.ready.pop()
		if s == nil {
			return
		}
		before := len(c.writer.out)
		if !s.sendLocked(most, room) {
			c.writer.ready.pushFront(s)
			return
		}
		room -= len(c.writer.out) - before
	}
}

// appendEarlyLocked appends DATA of s to out before writeLoop takes it, so that the caller of send
// need not wait. During a write, it does so only for a few bytes, and only if no stream has a
// priority: what is queued during the write, such as a request or an acknowledgment, must not wait
// for much DATA.
func (c *Conn) appendEarlyLocked(s *Stream) {
	if c.liveness.writeSince == 0 {
		if len(c.writer.out) < outSize {
			c.fillLocked(outSize, 0)
		}
		return
	}
	if s.sender.in == &c.writer.ready.sendQueue && c.writer.ready.ranked == nil && c.flow.sendWindow > 0 &&
		len(s.sender.pending) <= fewOctets && len(c.writer.out) <= earlySize-fewOctets {
		c.writer.ready.remove(s)
		s.sendLocked(fewOctets, wire.HeaderLen+fewOctets)
	}
}

// wakeWriter tells writeLoop that there is work, and starts it if it has exited. It fills wake
// first, for a writeLoop that is about to exit.
func (c *Conn) wakeWriter() {
	select {
	case c.writer.wake <- struct{}{}:
	default: // writeLoop has been told already
	}
	if c.writer.state.CompareAndSwap(writerStopped, writerRunning) {
		go c.writeLoop()
	}
}

// hasWorkLocked reports whether writeLoop has something to write.
func (c *Conn) hasWorkLocked() bool {
	if c.ending.err != nil {
		return true
	}
	if c.writer.batch != nil && !c.mayWriteLocked() {
		return false
	}
	canSend := c.flow.sendWindow > 0 && (!c.writer.ready.empty() || c.writer.unblock &&
		c.writer.blocked.head != nil)
	return !c.writer.corked && (len(c.writer.out) > 0 || len(c.writer.updates) > 0 || canSend)
}

// takeBackLocked removes the frames of unsent streams from out. sent is the position, in bytes of
// the connection, where the HEADERS of the first of these streams begin. Frames of the connection
// itself stay, above all acknowledgments. So do the resets of streams that the peer knows.
func (c *Conn) takeBackLocked(sent uint64) {
	from := len(c.writer.out) - int(c.writer.queued-sent)
	rest := c.writer.out[from:]
	if len(rest) == 0 {
		return
	}
	kept, first := c.writer.out[:from], wire.ParseFrameHeader(rest).StreamID
	for len(rest) > 0 {
		h := wire.ParseFrameHeader(rest)
		n := wire.HeaderLen + h.Length
		known := h.StreamID%2 == 0 || h.StreamID < first
		if h.StreamID == 0 || h.Type == wire.RSTStream && known {
			// It moves further to the front.
			kept = append(kept, rest[:n]...)
		}
		rest = rest[n:]
	}
	c.writer.out, c.writer.queued = kept, sent+uint64(len(kept)-from)
}

// add sets out to a result of wire.AppendX, and counts the added bytes in queued.
func (w *connWriter) add(out []byte) {
	w.queued += uint64(len(out) - len(w.out))
	w.out = out
}
