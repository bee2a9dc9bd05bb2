package hyper

import (
	"time"

	"gohyper.dev/hyper/internal/netconn"
	"gohyper.dev/hyper/internal/wire"
)

// Limits of a writePace.
const (
	minUnsent = 16 << 10
	maxUnsent = 256 << 10 // with more, the socket has no limit: 26 MB/s

	unsentTime = 10 * time.Millisecond // how long the socket may take to send what it holds unsent
	paceSpan   = 20 * time.Millisecond // the shortest time over which the rate is measured
	slowSpan   = 2 * time.Second       // the socket must have been slow for so long before it is limited
	drySpan    = time.Second           // the limits do not shrink for so long after the socket was empty
)

// A writePace keeps short what a new request or an acknowledgment waits for when uploads fill the
// connection: the DATA of the write in progress, and the bytes that the socket has accepted and not
// sent. No frame can overtake these. It measures the rate at which the socket takes uploads, and
// limits both to what is sent in unsentTime. writeLoop owns it.
type writePace struct {
	size   int           // DATA is appended up to this size before a write
	unsent int           // limit of the socket's unsent bytes; 0: none
	limit  int           // the limit that the socket has; unsent, from the next write on
	fastAt time.Duration // when the rate last needed no limit, or the measurement began; 0: never
	dryAt  time.Duration // when the socket was empty although there was DATA; 0: never
	sent   int64         // counts.dataSent at the last write
	since  time.Duration // when the measurement of the rate began; 0: none is running
	octets int           // bytes written since then
}

// newWritePace returns the pace of a connection whose rate is not known yet.
func newWritePace() writePace { return writePace{size: outSize} }

// fillLocked appends to out what is due, unless a batch is open. It reports whether more DATA could
// be sent. A frame of DATA is sent with each write, whatever else there is to write.
func (p *writePace) fillLocked(c *Conn) (more bool) {
	if c.writer.batch.holdsLocked() {
		return false
	}
	least := 0
	if c.counts.dataSent == p.sent {
		least = wire.HeaderLen + p.size - outRest
	}
	c.fillLocked(p.size, least)
	p.sent = c.counts.dataSent
	return !c.writer.ready.empty() && c.flow.sendWindow > 0
}

// wroteLocked is called after each write, with its bytes. more is whether more DATA could have been
// sent. Otherwise, and if the write was not full, the rate is that of the caller and not of the
// socket.
func (p *writePace) wroteLocked(c *Conn, octets int, more bool) {
	now := c.clock()
	if !more && octets < outSize-outRest {
		p.since, p.octets = 0, 0
		return
	}
	if p.since == 0 {
		p.since, p.fastAt = c.liveness.wroteAt, c.liveness.wroteAt
	}
	p.octets += octets
	span := now - p.since
	if span < paceSpan {
		return
	}
	due := int(float64(p.octets) * unsentTime.Seconds() / span.Seconds())
	p.since, p.octets = now, 0
	if due >= maxUnsent {
		p.fastAt = now
	}
	// TCP begins slowly, and becomes slow for a while after a loss. It grows only while it may use
	// all of its congestion window.
	if p.unsent == 0 && now-p.fastAt < slowSpan || p.dryAt != 0 && now-p.dryAt < drySpan {
		return
	}
	p.set(due)
}

// begin is called before each write, and sets the socket's limit. It is called without the lock,
// because netconn calls the NetConn method of the user's connection.
//
// If the last write left DATA waiting and the socket has sent all that it had, the limits are too
// small: the processor needs longer than unsentTime to come back to writeLoop, or TCP may send much
// more at once. The rate does not show that, because it is lower for the same reason.
func (p *writePace) begin(c *Conn) {
	if p.unsent != 0 && p.since != 0 {
		if n, ok := netconn.Unsent(c.socket.nc); ok && n == 0 {
			p.dryAt = c.clock()
			p.set(2 * p.unsent)
		}
	}
	if p.limit != p.unsent {
		p.limit = p.unsent
		netconn.LimitUnsent(c.socket.nc, p.limit)
	}
}

// end removes the socket's limit when writeLoop exits. As begin, it is called without the lock.
func (p *writePace) end(c *Conn) {
	if p.limit != 0 {
		netconn.LimitUnsent(c.socket.nc, 0)
	}
}

// set sets the limits to those of a connection that sends so many bytes in unsentTime. They grow at
// once. They shrink by half, because a rate may be low for the time in which TCP waits for
// acknowledgments, or in which the processor has other work.
func (p *writePace) set(octets int) {
	before := p.unsent
	if before == 0 {
		before = maxUnsent
	}
	octets = max(octets, before/2, minUnsent)
	if octets < before*5/4 && octets > before*4/5 {
		return
	}
	p.unsent, p.size = octets, min(outSize, octets+outRest)
	if octets >= maxUnsent {
		p.unsent = 0
	}
}
