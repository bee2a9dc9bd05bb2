package hyper

import (
	"maps"
	"runtime"
	"time"

	"gohyper.dev/hyper/internal/wait"
	"gohyper.dev/hyper/internal/wire"
)

const (
	writeSize = 64 << 10  // handed to the socket at once
	outSize   = 128 << 10 // DATA is gathered up to here for one turn of writeLoop

	fewOctets    = 4 << 10               // to be written: a yield may bring more
	shortYield   = time.Millisecond      // is never too long
	requestYield = 50 * time.Microsecond // what each request that it brings is worth
	firstPause   = 10 * time.Millisecond
	pauseSteps   = 3 // each 16 times as long: 41 s at last

	shrinkDelay = 250 * time.Millisecond // a connection that has written nothing for so long is idle
)

// writeLoop owns the writing side of the socket, and closes it. While the connection is idle there is none.
func (c *Conn) writeLoop() {
	c.mu.Lock()
	c.parked = false
	c.applyGrantsLocked()
	g := gathering{opened: c.counts.opened, together: c.written == 0} // many may have waited for a new connection
	for {
		for !c.hasWorkLocked() {
			if c.retireLocked() {
				c.unlock()
				return
			}
			c.restLocked()
			c.applyGrantsLocked()
		}
		c.gatherLocked(&g, runtime.Gosched)
		c.applyGrantsLocked()
		c.fillLocked()
		g.together, g.opened = c.counts.opened > g.opened+1, c.counts.opened
		batch := c.out
		last := c.err != nil
		c.out, c.spare = c.spare[:0], nil
		c.acksQueued = 0
		c.written += uint64(len(batch))
		c.watchWriteLocked()
		c.unlock() // DATA that ended a stream freed its slot

		c.tracer.trace(batch)
		err := c.write(batch)
		if err == nil && !last { // the last words leave together with what TLS says at the end
			err = c.below.flush()
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
			close(c.ended)
			return
		}
	}
}

// A gathering is how writeLoop yields before a write, so that callers who are about to add their requests share it. One who has the
// connection for himself waits for nobody. On a busy processor a yield takes as long as others want to run: where it brought too
// little for its time, again and again, there is none for a while, and each time for longer.
type gathering struct {
	opened   int64         // streams, when the last write began
	together bool          // it had more than one request
	slow     int           // yields in a row that took too long
	until    time.Duration // there is none before, since start
}

// gatherLocked yields, unless enough is there to be written, or nobody is likely to add to it in time.
func (c *Conn) gatherLocked(g *gathering, yield func()) {
	if len(c.out) >= fewOctets || c.err != nil || !g.together && len(c.streams) <= 1 {
		return
	}
	begin, opened := c.clock(), c.counts.opened
	if begin < g.until {
		return
	}
	c.unlock()
	yield()
	c.mu.Lock()
	end := c.clock()
	if end-begin <= shortYield+time.Duration(c.counts.opened-opened)*requestYield {
		g.slow = 0
		return
	}
	if g.slow++; g.slow > 1 { // once, it was the system that let another program run
		g.until = end + firstPause<<(4*min(g.slow-2, pauseSteps))
	}
}

// restLocked waits for work.
func (c *Conn) restLocked() {
	c.parked = true
	if at := c.shrinkAtLocked(); at > 0 {
		c.armLocked(at)
	}
	c.unlock()
	<-c.kick
	c.mu.Lock()
	c.parked = false
}

// retireLocked ends writeLoop until there is work again, where nothing was written for shrinkDelay.
func (c *Conn) retireLocked() bool {
	if c.now-c.wroteAt < shrinkDelay {
		return false
	}
	c.parked = true
	c.retired.Store(true)
	// Grant does not lock mu. If it found us here, its kick tells of it; if not, it finds that we have retired.
	return len(c.kick) == 0 || !c.retired.CompareAndSwap(true, false)
}

// shrinkAtLocked is when a connection has been idle for long enough to give its buffers and writeLoop back; 0: it has none, or writes.
func (c *Conn) shrinkAtLocked() time.Duration {
	waits := c.parked && !c.retired.Load()
	if c.writeSince != 0 || len(c.out) > 0 || cap(c.out)+cap(c.spare) == 0 && !waits {
		return 0
	}
	return c.wroteAt + shrinkDelay
}

func (c *Conn) shrinkLocked() {
	if c.parked && !c.retired.Load() {
		c.parked = false
		c.wakeWriter() // it has nothing to do, and will see that
	}
	c.out, c.spare, c.fieldRoom = nil, nil, nil
	c.fields.forget()
	if c.reading {
		c.frames.forget()
	}
	c.updates, c.wakeups = shrunk(c.updates), shrunk(c.wakeups)
	c.spares = wait.Spares{}
	if len(c.streams) == 0 {
		c.streams = nil // a map that was large stays large
	}
	c.below.shrink()
}

const (
	bulky     = 64 // streams or waiters at once are many
	bulkyRest = 8  // so many times fewer are few
)

// knownStreamsLocked counts the streams that something is kept of.
func (c *Conn) knownStreamsLocked() int { return len(c.streams) + len(c.slots.reset) }

// isBulkyLocked reports whether the connection keeps what many streams have taken, and has few.
func (c *Conn) isBulkyLocked() bool {
	most := max(c.peak, c.spares.Len())
	return most >= bulky && bulkyRest*c.knownStreamsLocked() <= most
}

// trimLaterLocked looks at it again when there was time for many to come again.
func (c *Conn) trimLaterLocked() {
	if c.trimAt == 0 && c.isBulkyLocked() {
		c.trimAt = c.clock() + shrinkDelay
		c.armLocked(c.trimAt)
	}
}

// trimLocked gives back what many streams have taken, unless they are there again. Maps that were
// large stay large.
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

// shrunkMap is m, with no more memory than it needs.
func shrunkMap[K comparable, V any](m map[K]V) map[K]V {
	if len(m) == 0 {
		return nil
	}
	small := make(map[K]V, len(m))
	maps.Copy(small, m)
	return small
}

// shrunk is list, without its memory if it is empty.
func shrunk[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}

// awaitLastWords ends a connection that cannot be written to any more. What the peer said before, a GOAWAY above all,
// may lie in the socket: readLoop gets the time to find it, and to end the connection by it.
func (c *Conn) awaitLastWords(err error) {
	timer := time.AfterFunc(closeGrace, func() { c.fail(lostErr(err)) })
	defer timer.Stop()
	<-c.done
}

// write hands batch to TLS, or the socket, in pieces, so that a slow peer and a stalled one can be told apart.
func (c *Conn) write(batch []byte) error {
	for len(batch) > 0 {
		n := min(len(batch), writeSize)
		if len(batch)-n <= fewOctets/2 {
			n = len(batch) // a few octets are not worth a write
		}
		if _, err := writeAll(c.nc, batch[:n]); err != nil {
			return err
		}
		if batch = batch[n:]; len(batch) > 0 {
			c.mu.Lock()
			c.writeSince = time.Since(c.start)
			c.mu.Unlock()
		}
	}
	return nil
}

// closeSocket ends the socket. Closing a TLS connection writes an alert, which can hang as any write can: force
// ends that, too, and a peer that did not take the last write gets none.
func (c *Conn) closeSocket(orderly bool) {
	if !orderly {
		c.below.flushAlert() // it says why TLS takes no more writes
		transport(c.nc).Close()
	} else if c.accuses {
		c.linger()
	}
	c.nc.Close()
	c.force.Stop()
}

// linger ends our direction and waits for the peer to end its own. A socket that is closed over
// octets that were not read is reset, and a reset may take back what the peer has not read yet
// (RFC 1122 §4.2.2.13): the GOAWAY that tells it what it did wrong, while it goes on sending. A
// connection that cannot end one direction alone is read to its end all the same.
func (c *Conn) linger() {
	closeWrite(c.nc)
	<-c.readEnded // force sees to it
}

// applyGrantsLocked books what Window.Grant asked for.
func (c *Conn) applyGrantsLocked() {
	for _, w := range c.grants.take() {
		w.grant(w.asked.Swap(0))
	}
}

// fillLocked gathers what is due behind the bytes already in out: WINDOW_UPDATEs, then DATA from each ready
// stream in turn, one frame at a time, as windows and room allow.
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
			c.ready.pushFront(s) // the connection's window is used up
			return
		}
	}
}

// wakeWriter is for work that writeLoop does not know of. The kick comes first, for one that is about to retire.
func (c *Conn) wakeWriter() {
	select {
	case c.kick <- struct{}{}:
	default: // it will look anyway
	}
	if c.retired.Load() && c.retired.CompareAndSwap(true, false) {
		go c.writeLoop()
	}
}

func (c *Conn) hasWorkLocked() bool {
	if c.err != nil {
		return true
	}
	canSend := c.sendWindow > 0 && (c.ready.head != nil || c.unblock && c.blocked.head != nil)
	return !c.corked && (len(c.out) > 0 || len(c.updates) > 0 || canSend)
}

// takeBackLocked removes from out the frames of streams from octet sent of the connection on, which
// is where the HEADERS of a stream begin. What the connection itself owes stays: acknowledgments
// above all, and the resets of streams that the peer knows.
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
			kept = append(kept, rest[:n]...) // further to the front than it was
		}
		rest = rest[n:]
	}
	c.out, c.queued = kept, sent+uint64(len(kept)-from)
}

// append makes out what some wire.AppendX returned, and counts.
func (c *Conn) append(out []byte) {
	c.queued += uint64(len(out) - len(c.out))
	c.out = out
}
