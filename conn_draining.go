package hyper

import (
	"bytes"
	"math"

	"gohyper.dev/hyper/internal/wire"
)

// A GoAway is what the peer's GOAWAY said (RFC 9113 §6.8). Of several GOAWAYs it has the last
// stream of the latest, the latest code that is not NO_ERROR, and all debug data, joined by "; " up
// to 4 KiB.
type GoAway struct {
	LastStreamID uint32  // streams of ours above it were not processed
	Code         ErrCode // NoError: the peer closes in good order
	Debug        []byte  // opaque; nil: there was none
}

// GoAway returns what the peer's GOAWAY said, and false where none has come. It keeps its result
// after the end of the connection. The caller may change what it returns.
func (c *Conn) GoAway() (GoAway, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.goAway == nil {
		return GoAway{}, false
	}
	return GoAway{c.goAway.LastStreamID, c.goAway.Code, bytes.Clone(c.goAway.Debug)}, true
}

// Draining returns a channel that is closed when the connection takes no more requests: the peer
// sent GOAWAY, Shutdown was called, the stream identifiers are used up, the peer did not answer the
// PING that shows which streams it still counts, or the connection has ended. Streams that are open
// then may come to their ends; Done is closed after that. All calls return the same channel.
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

// Available returns how many requests could be sent now without waiting: what the peer's
// MAX_CONCURRENT_STREAMS (RFC 9113 §5.1.2) leaves, and 100 before its SETTINGS have come. It is 0
// where the connection is draining or has ended, where other requests wait, and while the peer has
// too much to read. At most it is 2^31-1. Other goroutines may use what it reports.
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

// beginDrainingLocked is called whenever there is another reason why the connection takes no more
// requests. The first one counts. Where the connection lives on, for its streams, its owner is told.
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

// appendGoAwayLocked puts our GOAWAY among the bytes to write.
func (c *Conn) appendGoAwayLocked(code wire.ErrCode, debug string) {
	c.owner.count(goAwaysSent, ErrCode(code))
	c.append(wire.AppendGoAway(c.out, c.lastPushID, code, debug))
}

// endReason says why the connection has ended. It is called without mu: the error may have the
// user's code in it.
func (c *Conn) endReason() ConnReason {
	c.mu.Lock()
	err, goAway, reason := c.err, c.goAway, c.drainReason
	c.mu.Unlock()
	ce, ok := err.(*ConnError)
	switch {
	case !ok: // it is ErrClosed
		return reason
	case isPingTimeout(ce):
		return ReasonPingTimeout
	case ce == goAway:
		return ReasonGoAway
	case ce.Timeout():
		return ReasonTimeout
	case ce.goAway && !ce.FromPeer:
		return ReasonError
	}
	return ReasonLost
}

// isPingTimeout reports whether the peer did not answer a PING.
func isPingTimeout(ce *ConnError) bool {
	return ce.Err == ErrPingTimeout || ce.Err == error(errMute)
}
