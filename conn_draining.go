package hyper

import (
	"bytes"
	"math"
	"time"

	"gohyper.dev/hyper/internal/wire"
)

// A connEnding holds how a connection ends. The connection's mu guards it. err, socketClosed and
// readDone do not change after done is closed, and can be read without mu then.
type connEnding struct {
	err    error         // the first error; calls return it
	goAway *ConnError    // what the peer's GOAWAY said; nil: none was received
	done   chan struct{} // closed by the first error

	socketClosed chan struct{} // set by the first error; closed after writeLoop has closed the socket
	// Closed after readLoop has read to the end. Set if the last write has a GOAWAY with an error:
	// the socket is closed when the peer can have read it.
	readDone    chan struct{}
	closeTimer  *time.Timer   // set with err: closes the transport after closeGrace
	drained     chan struct{} // closed when drainReason is set; nil: Draining was not called
	drainReason ConnReason    // why no more requests are accepted; 0: they are
	phase       connPhase
}

// A connPhase is how far our side has ended a connection. It only grows.
type connPhase uint8

// The values of connPhase. In connMute and connDraining there are no new streams, and the
// connection ends after the last one.
const (
	connOpen     connPhase = iota
	connMute               // the peer did not acknowledge a PING for slots
	connDraining           // Shutdown was called
	connClosed             // Close was called: not even data received before is returned
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
	c.lock()
	defer c.unlock()
	if c.ending.goAway == nil {
		return GoAway{}, false
	}
	return GoAway{c.ending.goAway.LastStreamID, c.ending.goAway.Code, bytes.Clone(c.ending.goAway.Debug)},
		true
}

// Draining returns a channel that is closed when the connection accepts no more requests: the peer
// sent GOAWAY, Shutdown was called, the stream identifiers are used up, the peer did not
// acknowledge the PING that shows which streams it still counts, or the connection has ended.
// Streams that are open at that time may still complete; Done is closed after that. All calls
// return the same channel.
func (c *Conn) Draining() <-chan struct{} {
	c.lock()
	defer c.unlock()
	if c.ending.drained == nil {
		c.ending.drained = make(chan struct{})
		if c.takesRequestsLocked() != nil {
			close(c.ending.drained)
		}
	}
	return c.ending.drained
}

// Available returns how many requests could be sent now without waiting. That is the part of the
// peer's MAX_CONCURRENT_STREAMS (RFC 9113 §5.1.2) that is not in use. Before the peer's SETTINGS
// have been received, a limit of 100 applies. The result is at most 2^31-1. It is 0 if the
// connection is draining or has ended, if other requests wait, and while too many bytes wait for
// the peer to read them. Other goroutines may open streams before the caller does.
func (c *Conn) Available() int {
	c.lock()
	defer c.unlock()
	if c.takesRequestsLocked() != nil || !c.slots.waiting.Empty() || !c.slotFreeLocked() {
		return 0
	}
	free := int64(c.slots.limit) - int64(c.slots.used)
	identifiers := (wire.MaxStreamID-int64(c.streams.nextID))/2 + 1
	return int(min(free, identifiers, math.MaxInt32))
}

// beginDrainingLocked records why the connection accepts no more requests. It is called for every
// such reason; only the first one counts. If streams are still open, it tells the owner.
func (c *Conn) beginDrainingLocked(why ConnReason) {
	if c.ending.drainReason != 0 {
		return
	}
	c.ending.drainReason = why
	if c.ending.drained != nil {
		close(c.ending.drained)
	}
	if c.ending.err == nil && len(c.streams.byID) > 0 {
		c.reports.owner.draining(c, why)
	}
}

// appendGoAwayLocked appends our GOAWAY to out.
func (c *Conn) appendGoAwayLocked(code wire.ErrCode, debug string) {
	c.reports.owner.count(goAwaysSent, ErrCode(code))
	c.writer.add(wire.AppendGoAway(c.writer.out, c.streams.lastPushID, code, debug))
}

// endReason returns why the connection has ended. It must be called without mu, because the error
// may run user code.
func (c *Conn) endReason() ConnReason {
	c.lock()
	err, goAway, reason := c.ending.err, c.ending.goAway, c.ending.drainReason
	c.unlock()
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
