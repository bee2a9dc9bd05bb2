package hyper

import (
	"context"
	"errors"
	"time"

	"gohyper.dev/hyper/internal/wire"
)

// Limits of a batch.
const (
	maxBatch     = writeSize // bytes that it holds back
	maxBatchTime = 5 * time.Second
)

// ErrBatchSplit is returned by Conn.Batch if what it held back was not sent in one write, because
// it was too much or took too long.
var ErrBatchSplit = errors.New("hyper: the batch was not sent in one write")

// A batch is what a connection holds back for Conn.Batch. The connection's mu guards it. Positions
// are counted as in connWriter.queued.
type batch struct {
	from, to uint64        // where it begins, and where it has ended
	began    time.Duration // when it began
	users    int           // calls of Batch before the return of their function
	open     bool          // what was queued after from is not written yet
	split    bool          // it was written in parts
}

// Batch calls f, and holds back what the connection has to write until f returns. Then all of it
// leaves in one write: for example the requests that f opened, or the last bytes of uploads, with
// the ends of their streams. Batch returns when the socket has accepted that write. It is for tests
// of races in servers, and for RPC.
//
// f should call what does not wait for the peer: Open, Stream.Write, CloseWrite, SendTrailers,
// Reset, WriteFrame, and Do on other goroutines. Do itself would wait for a response to a request
// that is held back. Body and Trailer are held back, too, as far as they are sent while f runs.
// Uploads of other goroutines that wait for their turn pause. Calls of Batch at the same time
// become one batch, which is written when the last f returns. f must not call Batch, which would
// wait for itself.
//
// One write is one call of the Write method of the net.Conn, and one write of the socket if hyper
// made the TLS connection or there is none. What was queued before f was called is written before,
// in other writes. The batch is split, and Batch returns ErrBatchSplit, if more than 64 KiB are
// held back, and if ctx ends or five seconds pass before f returns: then everything is written as
// usual. Acknowledgments of PING and SETTINGS and WINDOW_UPDATE are held back as well, so f should
// take no longer than the peer waits for those. If the peer does not read, Batch waits for it until
// ctx ends, and returns the error of ctx; the batch is still written as a whole. If the connection
// ends, Batch returns its error.
func (c *Conn) Batch(ctx context.Context, f func()) error {
	mustHave(ctx != nil, "Conn.Batch", "context.Context")
	mustHave(f != nil, "Conn.Batch", "func()")
	b, err := c.beginBatch(ctx)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { c.splitBatch(b) })
	timer := time.AfterFunc(maxBatchTime, func() { c.splitBatch(b) })
	returned := false
	defer func() {
		timer.Stop()
		stop()
		if !returned { // f panicked, or ended its goroutine
			c.lock()
			c.leaveBatchLocked(b)
			c.unlock()
		}
	}()
	f()
	returned = true
	c.lock()
	defer c.unlock()
	over := c.overLocked()
	c.leaveBatchLocked(b)
	if over != nil {
		return over
	}
	// Other calls may still add to it.
	for b.open && c.ending.err == nil {
		if err := c.waitUnlocking(ctx, &c.writer.flushQ); err != nil {
			return err
		}
	}
	if err := c.waitFlushedUnlocking(ctx, b.to); err != nil {
		return err
	}
	if c.writer.batch == b {
		c.writer.batch = nil
	}
	if b.split {
		return ErrBatchSplit
	}
	return nil
}

// beginBatch begins a batch, or joins the one that is open.
func (c *Conn) beginBatch(ctx context.Context) (*batch, error) {
	c.lock()
	defer c.unlock()
	if err := c.overLocked(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, contextError(ctx)
	}
	c.uncorkLocked()
	for b := c.writer.batch; b != nil && !b.open && c.writer.flushed < b.to; b = c.writer.batch {
		if err := c.waitFlushedUnlocking(ctx, b.to); err != nil {
			return nil, err
		}
	}
	if b := c.writer.batch; !b.holdsLocked() {
		c.writer.batch = &batch{from: c.writer.queued, began: c.clock(), open: true}
	}
	c.writer.batch.users++
	return c.writer.batch, nil
}

// holdsLocked reports whether b is open. b may be nil.
func (b *batch) holdsLocked() bool { return b != nil && b.open }

// leaveBatchLocked is called when the function of a call of Batch has returned. The last one ends
// b.
func (c *Conn) leaveBatchLocked(b *batch) {
	if b.users--; b.users == 0 {
		c.endBatchLocked(b)
	}
}

// endBatchLocked ends b, so that it is written.
func (c *Conn) endBatchLocked(b *batch) {
	if b.open {
		b.open, b.to = false, c.writer.queued
		b.split = b.split || b.to-b.from > maxBatch
		c.writer.flushQ.WakeAll()
		c.startDeadlinesLocked(b.began)
	}
}

// holdsBackLocked reports whether a frame that was queued at a time since start is held back.
func (c *Conn) holdsBackLocked(at time.Duration) bool {
	b := c.writer.batch
	return b.holdsLocked() && at >= b.began
}

// startDeadlinesLocked is called when a batch that began at a time since start has ended. The
// peer's time to acknowledge what was held back begins now.
func (c *Conn) startDeadlinesLocked(began time.Duration) {
	now, held := c.clock(), false
	for _, p := range c.liveness.pings {
		if p.sent >= began {
			p.sent, held = now, true
		}
	}
	for i := range c.settings.due {
		if due := &c.settings.due[i]; due.sent >= began {
			due.sent, held = now, true
		}
	}
	if held {
		c.armDueLocked()
	}
}

// splitBatch ends b before its time.
func (c *Conn) splitBatch(b *batch) {
	c.lock()
	if b.open {
		b.split = true
		c.endBatchLocked(b)
	}
	c.unlock()
}

// mayWriteLocked reports whether writeLoop may write: something was queued before the batch, or
// none is held back. It ends a batch that has become too large.
func (c *Conn) mayWriteLocked() bool {
	b := c.writer.batch
	if b.holdsLocked() && c.writer.queued-b.from > maxBatch {
		c.endBatchLocked(b)
	}
	return !b.holdsLocked() || c.writer.written < b.from
}

// takeOutLocked removes from out what writeLoop writes next, and returns it. It ends where a batch
// begins or ends.
func (c *Conn) takeOutLocked() []byte {
	w := &c.writer
	out, n := w.out, len(w.out)
	if b := w.batch; b != nil && c.ending.err == nil {
		switch {
		case w.written < b.from:
			n = min(n, int(b.from-w.written))
		case b.open:
			n = 0
		case w.written < b.to && !b.split:
			n = min(n, int(b.to-w.written))
		}
	}
	w.out, w.spare = append(w.spare[:0], out[n:]...), nil
	w.written += uint64(n)
	return out[:n]
}

// writeStartLocked returns the position at which the write begins that will have what is added to
// out now, as far as a batch cuts out (see takeOutLocked).
func (c *Conn) writeStartLocked() uint64 {
	w := &c.writer
	switch b := w.batch; {
	case b == nil:
		return w.written
	case b.open || b.split:
		return max(w.written, b.from)
	default:
		return max(w.written, b.to)
	}
}

// sendHeldLocked appends the data of s to the batch, as far as the windows and the size of the
// batch allow. The last frame may exceed that size and end the batch: a Write that is called by the
// function of Batch must not wait for the end of the batch.
func (c *Conn) sendHeldLocked(s *Stream) {
	for s.isReadyLocked() && c.mayHoldLocked() {
		c.writer.ready.remove(s)
		if !s.sendLocked(maxBatch, wire.HeaderLen+maxBatch) {
			c.writer.ready.push(s)
			return
		}
	}
}

// mayHoldLocked reports whether the batch is open and not too large.
func (c *Conn) mayHoldLocked() bool {
	b := c.writer.batch
	return b.holdsLocked() && c.writer.queued-b.from <= maxBatch
}
