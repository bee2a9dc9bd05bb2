package hyper

import (
	"maps"
	"runtime"
	"time"

	"gohyper.dev/hyper/internal/netconn"
	"gohyper.dev/hyper/internal/wait"
	"gohyper.dev/hyper/internal/wire"
)

// Sizes and times of writing.
const (
	writeSize = netconn.WriteSize // bytes passed to the socket in one write
	outSize   = 128 << 10         // DATA is appended up to this size before a write

	// With fewer bytes to write, writeLoop may yield so that requests are added.
	fewOctets    = 4 << 10
	shortYield   = time.Millisecond      // a yield this short is never too long
	requestYield = 50 * time.Microsecond // how much longer a yield may be for each request that it brings
	firstPause   = 10 * time.Millisecond
	pauseSteps   = 3 // each pause is 16 times the one before; the last is 41 s

	// A connection that has written nothing for this long is idle.
	shrinkDelay = 250 * time.Millisecond
)

// writeLoop writes to the socket, and closes it at the end. While the connection is idle, writeLoop
// does not run.
func (c *Conn) writeLoop() {
	c.mu.Lock()
	c.writerParked = false
	c.applyGrantsLocked()
	// Many requests may have waited for a new connection.
	g := yieldPolicy{opened: c.counts.opened, hadCompany: c.written == 0}
	for {
		for !c.hasWorkLocked() {
			if c.retireLocked() {
				c.unlock()
				return
			}
			c.restLocked()
			c.applyGrantsLocked()
		}
		c.maybeYieldLocked(&g, runtime.Gosched)
		c.applyGrantsLocked()
		c.fillLocked()
		g.hadCompany, g.opened = c.counts.opened > g.opened+1, c.counts.opened
		batch := c.out
		last := c.err != nil
		c.out, c.spare = c.spare[:0], nil
		c.acksQueued = 0
		c.written += uint64(len(batch))
		c.watchWriteLocked()
		// DATA that ended a stream has freed its slot.
		c.unlock()

		c.tracer.trace(batch)
		err := c.write(batch)
		// The last frames are written together with the alert with which TLS ends.
		if err == nil && !last {
			err = c.below.Flush()
		}
		if err != nil {
			c.awaitLastWords(err)
		}

		c.mu.Lock()
		c.spare = batch
		c.writeSince = 0
		if err == nil {
			c.flushed = c.written
			c.flushQ.WakeAll()
			c.admitMoreLocked()
			c.watchSlotPingLocked()
		}
		if err != nil || last {
			c.unlock()
			c.closeSocket(err == nil)
			c.owner.ended(c)
			close(c.socketClosed)
			return
		}
	}
}

// A yieldPolicy decides whether writeLoop yields once before a write, so that other requests share
// the write. writeLoop does not yield if at most one stream is open and the last write had at most
// one request. On a busy processor, a yield may take long. After two such yields in a row that
// brought too few requests for their time, there are no yields for 10 ms, and for 16 times longer
// each time it happens again, up to 41 s.
type yieldPolicy struct {
	opened       int64         // counts.opened when the last write began
	hadCompany   bool          // the last write had more than one request
	costlyYields int           // how many yields in a row took too long
	pausedUntil  time.Duration // no yield before this time since start
}

// maybeYieldLocked yields, unless enough bytes wait to be written or no other request is likely.
func (c *Conn) maybeYieldLocked(g *yieldPolicy, yield func()) {
	if len(c.out) >= fewOctets || c.err != nil || !g.hadCompany && len(c.streams) <= 1 {
		return
	}
	begin, opened := c.clock(), c.counts.opened
	if begin < g.pausedUntil {
		return
	}
	c.unlock()
	yield()
	c.mu.Lock()
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

// restLocked waits for work.
func (c *Conn) restLocked() {
	c.writerParked = true
	if at := c.shrinkAtLocked(); at > 0 {
		c.armLocked(at)
	}
	c.unlock()
	<-c.wake
	c.mu.Lock()
	c.writerParked = false
}

// retireLocked reports whether writeLoop must exit, because nothing was written for shrinkDelay.
// wakeWriter starts it again.
func (c *Conn) retireLocked() bool {
	if c.now-c.wroteAt < shrinkDelay {
		return false
	}
	c.writerParked = true
	c.writerStopped.Store(true)
	// Window.Grant does not lock mu. If it ran before writerStopped was set, its wake is in the channel.
	// If it runs later, it sees that writerStopped is set.
	return len(c.wake) == 0 || !c.writerStopped.CompareAndSwap(true, false)
}

// shrinkAtLocked returns when the connection will have been idle for long enough to release its
// buffers and writeLoop. 0: it has none to release, or it writes.
func (c *Conn) shrinkAtLocked() time.Duration {
	waits := c.writerParked && !c.writerStopped.Load()
	if c.writeSince != 0 || len(c.out) > 0 || cap(c.out)+cap(c.spare) == 0 && !waits {
		return 0
	}
	return c.wroteAt + shrinkDelay
}

// shrinkLocked releases the memory of an idle connection.
func (c *Conn) shrinkLocked() {
	if c.writerParked && !c.writerStopped.Load() {
		c.writerParked = false
		// It will find no work and exit.
		c.wakeWriter()
	}
	c.out, c.spare, c.headerArena = nil, nil, nil
	c.fields.Forget()
	if c.reading {
		c.frames.forget()
	}
	c.updates, c.wakeups = shrunk(c.updates), shrunk(c.wakeups)
	c.spares = wait.Spares{}
	if len(c.streams) == 0 {
		c.streams = nil // a map never shrinks
	}
	c.below.Shrink()
}

// Limits for the release of memory after many streams.
const (
	bulky     = 64 // so many streams or waiters at once are many
	bulkyRest = 8  // few are so many times fewer than there were
)

// knownStreamsLocked returns the number of streams that are open or have a mark.
func (c *Conn) knownStreamsLocked() int { return len(c.streams) + len(c.slots.reset) }

// isBulkyLocked reports whether the connection holds memory for many streams and now has few.
func (c *Conn) isBulkyLocked() bool {
	most := max(c.peak, c.spares.Len())
	return most >= bulky && bulkyRest*c.knownStreamsLocked() <= most
}

// trimLaterLocked sets the timer to release such memory, after a time in which many streams may
// come again.
func (c *Conn) trimLaterLocked() {
	if c.trimAt == 0 && c.isBulkyLocked() {
		c.trimAt = c.clock() + shrinkDelay
		c.armLocked(c.trimAt)
	}
}

// trimLocked releases memory that many streams needed, unless there are many again. It copies maps
// because a map never shrinks.
func (c *Conn) trimLocked() {
	c.trimAt = 0
	if !c.isBulkyLocked() {
		return
	}
	c.streams, c.slots.reset = shrunkMap(c.streams), shrunkMap(c.slots.reset)
	c.updates, c.wakeups, c.pings = shrunk(c.updates), shrunk(c.wakeups), shrunk(c.pings)
	c.spares = wait.Spares{}
	c.peak = c.knownStreamsLocked()
	if path, ok := c.window.manager.(*adaptivePath); ok {
		path.forgetSpares()
	}
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
	<-c.done
}

// write writes batch to nc in pieces, so that a slow peer can be told from one that has stalled.
func (c *Conn) write(batch []byte) error {
	for len(batch) > 0 {
		n := min(len(batch), writeSize)
		if len(batch)-n <= fewOctets/2 {
			n = len(batch) // a few bytes are not worth another write
		}
		if _, err := netconn.WriteAll(c.nc, batch[:n]); err != nil {
			return err
		}
		if batch = batch[n:]; len(batch) > 0 {
			c.mu.Lock()
			c.writeSince = c.clock()
			c.mu.Unlock()
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
		c.below.FlushAlert()
		netconn.Raw(c.nc).Close()
	} else if c.sentErrorGoAway {
		c.linger()
	}
	c.nc.Close()
	c.closeTimer.Stop()
}

// linger closes our direction and waits until the peer closes its own. If a socket is closed before
// all received data was read, it is reset (RFC 1122 §4.2.2.13). A reset may discard data that the
// peer has not read yet: here the GOAWAY that tells the peer its error, while it still sends. If
// one direction alone cannot be closed, the connection is still read to its end.
func (c *Conn) linger() {
	netconn.CloseWriteAll(c.nc)
	<-c.readDone // the force timer limits this
}

// applyGrantsLocked applies the increments of Window.Grant.
func (c *Conn) applyGrantsLocked() {
	for _, w := range c.grants.take() {
		w.grant(w.asked.Swap(0))
	}
}

// fillLocked appends to out what is due: WINDOW_UPDATEs first, then DATA of the ready streams in
// turn, one frame each, as far as the windows and the size of out allow.
func (c *Conn) fillLocked() {
	if path, ok := c.window.manager.(*adaptivePath); ok && path.fresh > 0 {
		path.welcome()
	}
	for _, w := range c.updates {
		c.append(w.appendUpdate(c.out))
	}
	clear(c.updates)
	c.updates = c.updates[:0]
	if c.unblock {
		c.unblock = false
		for c.blocked.head != nil {
			c.ready.push(c.blocked.pop())
		}
	}
	for len(c.out) < outSize {
		s := c.ready.pop()
		if s == nil {
			return
		}
		if !s.sendLocked() {
			// The connection's window is used up.
			c.ready.pushFront(s)
			return
		}
	}
}

// wakeWriter tells writeLoop that there is work, and starts it if it has exited. It fills wake
// first, for a writeLoop that is about to exit.
func (c *Conn) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default: // writeLoop has been told already
	}
	if c.writerStopped.Load() && c.writerStopped.CompareAndSwap(true, false) {
		go c.writeLoop()
	}
}

// hasWorkLocked reports whether writeLoop has something to write.
func (c *Conn) hasWorkLocked() bool {
	if c.err != nil {
		return true
	}
	canSend := c.sendWindow > 0 && (c.ready.head != nil || c.unblock && c.blocked.head != nil)
	return !c.corked && (len(c.out) > 0 || len(c.updates) > 0 || canSend)
}

// takeBackLocked removes the frames of unsent streams from out. sent is the position, in bytes of
// the connection, where the HEADERS of the first of these streams begin. Frames of the connection
// itself stay, above all acknowledgments. So do the resets of streams that the peer knows.
func (c *Conn) takeBackLocked(sent uint64) {
	from := len(c.out) - int(c.queued-sent)
	rest := c.out[from:]
	if len(rest) == 0 {
		return
	}
	kept, first := c.out[:from], wire.ParseFrameHeader(rest).StreamID
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
	c.out, c.queued = kept, sent+uint64(len(kept)-from)
}

// append sets out to a result of wire.AppendX, and counts the added bytes in queued.
func (c *Conn) append(out []byte) {
	c.queued += uint64(len(out) - len(c.out))
	c.out = out
}
