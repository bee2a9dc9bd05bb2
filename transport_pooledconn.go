package hyper

import (
	"errors"
	"time"

	"gohyper.dev/hyper/internal/pool"
)

// A pooledConn is a connection of a host. The host's lock guards its fields. Its exported methods
// implement pool.Conn. They are called with the host's lock held, and take that of the connection.
// They end with Unlock or unlockForOwner, because unlock may call the host.
type pooledConn struct {
	*Conn
	member pool.Member // what the pool knows of it
	reason ConnReason  // why it was taken from the host, if the host decided that
	idle   *time.Timer
}

// Member implements pool.Conn.
func (c *pooledConn) Member() *pool.Member { return &c.member }

// Load implements pool.Conn.
func (c *pooledConn) Load() (int, error) { return c.load() }

// Reserve implements pool.Conn.
func (c *pooledConn) Reserve(streams int, requests int64) (bool, error) {
	err := c.reserve(streams, requests)
	if err == errNoSlot {
		return false, nil
	}
	return err == nil, err
}

// Suspected implements pool.Conn.
func (c *pooledConn) Suspected() bool { return c.reports.suspected.Load() }

// Confirm implements pool.Conn.
func (c *pooledConn) Confirm() time.Duration { return c.confirm() }

// Settled implements pool.Conn.
func (c *pooledConn) Settled() bool { return c.PeerSettings().Received }

// IdleFrom implements pool.Conn: it returns since when no request has needed the connection. The
// bool is false if a request needs it, or if it is ending.
func (c *pooledConn) IdleFrom() (time.Time, bool) {
	c.lock()
	defer c.unlock()
	return c.start.Add(c.streams.idleSince), c.ending.err == nil && c.ending.phase < connDraining &&
		c.unusedLocked()
}

// load returns how many slots are in use. The error says why the connection takes no more requests;
// it is nil if it takes some.
func (c *Conn) load() (int, error) {
	c.lock()
	defer c.unlock()
	return c.slots.used, c.takesRequestsLocked()
}

// fate describes a connection that has turned a request away.
func (c *Conn) fate() pool.Fate {
	c.lock()
	defer c.unlock()
	return pool.Fate{
		Processed: c.processedLocked(),
		Others:    c.slots.used - c.slots.held,
		Ended:     c.takesRequestsLocked() != nil,
	}
}

// wasUsed reports whether a request was sent on the connection.
func (c *Conn) wasUsed() bool {
	c.lock()
	defer c.unlock()
	return c.counts.opened > 0
}

// processedLocked returns how many requests the peer has processed, if a GOAWAY said so.
func (c *Conn) processedLocked() int64 {
	if c.ending.goAway == nil || c.ending.goAway.LastStreamID >= c.streams.nextID {
		return 0
	}
	return (int64(c.ending.goAway.LastStreamID) + 1) / 2
}

// describeEnd describes a connection that takes no more requests because of why. limit is what was
// known of the peer's limit of streams.
func (c *Conn) describeEnd(why error, limit uint32) pool.End {
	c.lock()
	defer c.unlock()
	e := pool.End{Limit: limit, Processed: c.processedLocked(), Opened: c.counts.opened}
	if c.settings.peer.known {
		e.Limit = c.settings.peer.maxStreams
	}
	switch {
	case errors.Is(why, ErrClosed):
		e.Why = pool.Closed
	case errors.Is(why, ErrDrained):
		e.Why = pool.Drained
	}
	return e
}

// announcedLimit returns the peer's SETTINGS_MAX_CONCURRENT_STREAMS, or the value of otherwise if
// the peer's SETTINGS have not arrived.
func (c *Conn) announcedLimit(otherwise uint32) uint32 {
	c.lock()
	defer c.unlock()
	if !c.settings.peer.known {
		return otherwise
	}
	return c.settings.peer.maxStreams
}

// assumeLimit gives a new connection the limit of streams of an earlier connection to the same
// peer, but at most initialSlots, until it receives SETTINGS. 0 means that no limit is known.
func (c *Conn) assumeLimit(limit uint32) {
	c.lock()
	defer c.unlock()
	if !c.settings.peer.known && limit > 0 {
		c.slots.limit = min(limit, initialSlots)
	}
}

// drainWhenIdle ends the connection when it has had no streams for timeout. Stopping the returned
// timer cancels that.
func (c *Conn) drainWhenIdle(timeout time.Duration) *time.Timer {
	ready := make(chan struct{})
	var timer *time.Timer
	timer = time.AfterFunc(timeout, func() {
		<-ready
		if left := c.drainIfIdle(timeout, ReasonIdle); left > 0 {
			timer.Reset(left)
		}
	})
	close(ready)
	return timer
}

// drainIfIdle ends the connection if it has had no streams for timeout. It returns how long to wait
// until the next check, or 0 if the connection is ending.
func (c *Conn) drainIfIdle(timeout time.Duration, why ConnReason) (left time.Duration) {
	c.lock()
	defer c.unlock()
	if c.ending.err != nil || c.ending.phase >= connDraining {
		return 0
	}
	if !c.unusedLocked() {
		return timeout
	}
	if idle := time.Since(c.start) - c.streams.idleSince; idle < timeout {
		return timeout - idle
	}
	c.drainLocked(why)
	return 0
}

// unusedLocked reports whether no request needs the connection. Slots of streams that we have reset
// do not count.
func (c *Conn) unusedLocked() bool { return len(c.streams.byID) == 0 && c.slots.used <= c.slots.held }
