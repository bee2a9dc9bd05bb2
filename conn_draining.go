package hyper

import (
	"bytes"
	"math"

	"gohyper.dev/hyper/internal/wire"
)

// A GoAway describes the GOAWAY that the peer sent (RFC 9113 §6.8). If the peer sent several,
// LastStreamID is from the latest, Code is the latest code that is not NO_ERROR, and Debug is all
// debug data joined by "; ", up to 4 KiB.
type GoAway struct {
	LastStreamID uint32  // our streams with a higher ID were not processed
	Code         ErrCode // ErrCodeNo: the peer closes gracefully
	Debug        []byte  // opaque; nil: the peer sent none
}

// GoAway returns what the peer's GOAWAY said, or false if none was received. It returns the same
// after the connection has ended. The caller may change the result.
func (c *Conn) GoAway() (GoAway, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.goAway == nil {
		return GoAway{}, false
	}
	return GoAway{c.goAway.LastStreamID, c.goAway.Code, bytes.Clone(c.goAway.Debug)}, true
}

// Draining returns a channel that is closed when the connection accepts no more requests: the peer
// sent GOAWAY, Shutdown was called, the stream identifiers are used up, the peer did not
// acknowledge the PING that shows which streams it still counts, or the connection has ended.
// Streams that are open at that time may still complete; Done is closed after that. All calls
// return the same channel.
func (c *Conn) Draining() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drained == nil {
		c.drained = make(chan struct{})
		if c.takesRequestsLocked() != nil {
			close(c.drained)
		}
	}
	return c.drained
}

// Available returns how many requests could be sent now without waiting. That is the part of the
// peer's MAX_CONCURRENT_STREAMS (RFC 9113 §5.1.2) that is not in use. Before the peer's SETTINGS
// have been received, a limit of 100 applies. The result is at most 2^31-1. It is 0 if the
// connection is draining or has ended, if other requests wait, and while too many bytes wait for
// the peer to read them. Other goroutines may open streams before the caller does.
func (c *Conn) Available() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.takesRequestsLocked() != nil || !c.slots.waiting.Empty() || !c.slotFreeLocked() {
		return 0
	}
	free := int64(c.slots.limit) - int64(c.slots.used)
	identifiers := (wire.MaxStreamID-int64(c.nextID))/2 + 1
	return int(min(free, identifiers, math.MaxInt32))
}

// beginDrainingLocked records why the connection accepts no more requests. It is called for every
// such reason; only the first one counts. If streams are still open, it tells the owner.
func (c *Conn) beginDrainingLocked(why ConnReason) {
	if c.drainReason != 0 {
		return
	}
	c.drainReason = why
	if c.drained != nil {
		close(c.drained)
	}
	if c.err == nil && len(c.streams) > 0 {
		c.owner.draining(c, why)
	}
}

// appendGoAwayLocked appends our GOAWAY to out.
func (c *Conn) appendGoAwayLocked(code wire.ErrCode, debug string) {
	c.owner.count(goAwaysSent, ErrCode(code))
	c.append(wire.AppendGoAway(c.out, c.lastPushID, code, debug))
}

// endReason returns why the connection has ended. It must be called without mu, because the error
// may run user code.
func (c *Conn) endReason() ConnReason {
	c.mu.Lock()
	err, goAway, reason := c.err, c.goAway, c.drainReason
	c.mu.Unlock()
	ce, ok := err.(*ConnError)
	switch {
	case !ok: // the error is ErrClosed
		return reason
	case isPingTimeout(ce):
		return ReasonPingTimeout
	case ce == goAway:
		return ReasonGoAway
	case ce.Timeout():
		return ReasonTimeout
	case ce.isGoAway() && !ce.FromPeer:
		return ReasonError
	}
	return ReasonLost
}

// isPingTimeout reports whether ce means that the peer did not acknowledge a PING.
func isPingTimeout(ce *ConnError) bool {
	return ce.Err == ErrPingTimeout || ce.Err == error(errMute)
}
