package hyper

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"
)

// Servers limit PINGs. A gRPC server ends a connection with a GOAWAY whose debug data is
// "too_many_pings" at the third PING that comes too early. By default, a PING is too early if it
// comes less than five minutes after the last one while a stream is open, or less than two hours
// after it while none is open. The first PING after the server has sent DATA or HEADERS is never
// too early, and it resets the server's count.
//
// hyper counts early PINGs in the same way. Each kind of PING has a limit: it is not sent if it
// would be early and that many early PINGs were sent already. All kinds share one count, so the
// total stays below the server's limit. Conn.Ping, and keep-alive PINGs if the user sets
// Config.KeepAlive, are the user's choice: they count, but have no limit.

// Limits of early PINGs, by the purpose of a PING. A server ends the connection at the third.
const (
	noEarlyPing  = 0 // while no stream is open, and to measure round trips
	oneEarlyPing = 1 // during a long silence, and for slots
	// For a request that has received nothing, and before a request after a long silence.
	twoEarlyPings = 2
)

// Times between PINGs, and how long silence and "too_many_pings" count.
const (
	// A PING that follows the last one after this time is not early, while a stream is open and
	// while none is. They exceed the servers' five minutes and two hours because clocks differ.
	busyPingGap = 5*time.Minute + 5*time.Second
	idlePingGap = 2*time.Hour + time.Minute

	// A Transport's connection that was without streams and silent for this long gets a PING before
	// it is used again.
	staleSilence = time.Minute

	// The longest time between two PINGs to a host that has sent "too_many_pings".
	mostPingGap = 2 * time.Hour
	// How long "too_many_pings" is remembered when the host has no connection.
	tooManyPingsMemory = time.Hour
)

// silences are the times without a frame from the peer after which a keep-alive PING is sent. The
// index is the number of such PINGs that were sent in the same silence.
var silences = [...]time.Duration{30 * time.Second, time.Minute, busyPingGap}

// pinging counts a connection's PINGs of all kinds. The connection's mu guards it.
type pinging struct {
	// When the last PING was acknowledged, or sent if it has no acknowledgment yet. 0: none was
	// sent.
	last time.Duration
	// When a request was written that no PING has followed. 0: there is none.
	asked time.Duration
	// How many PINGs came too early since the peer last sent DATA or HEADERS.
	early uint8
	// Index into silences: keep-alive PINGs since the peer sent DATA or HEADERS, or since a request
	// was written.
	silence uint8
	probes  uint8 // PINGs sent for window managers, up to the burst

	state     pingState
	forSlots  bool // a PING for slots was sent, and the state was not pingFree since then
	requested bool // a request was opened and is not written yet

	host *pingMemory // nil: the connection does not belong to a Transport
}

// A pingState is what the peer has sent after our last PING.
type pingState uint8

// The values of pingState.
const (
	pingAcked   pingState = iota // its acknowledgment, or there was no PING
	pingUnacked                  // no acknowledgment
	pingFree                     // its acknowledgment, and then DATA or HEADERS
)

// keepAliveAtLocked returns when to send the next keep-alive PING, if the peer stays silent until
// then. 0 means that none is due.
//
// While a stream is open, PINGs are sent after 30 s of silence, then after 60 s, then every five
// minutes. A new request begins this sequence again. While no stream is open, one PING is sent
// after 30 s, and the next one only after two hours.
func (c *Conn) keepAliveAtLocked() time.Duration {
	if c.cfg.KeepAlive < 0 || c.writer.corked || c.keeperLocked() != nil {
		return 0
	}
	k := &c.liveness.pinging
	every := k.host.interval()
	if c.cfg.KeepAlive > 0 && every == 0 {
		return c.liveness.progressAt + c.cfg.KeepAlive
	}
	silence := or(c.cfg.KeepAlive, silences[k.silence])
	open := len(c.streams.byID) > 0
	if open && k.asked > 0 {
		at := c.liveness.progressAt + silence
		if at < k.asked {
			at = k.asked + silence
		}
		return c.pingAtLocked(at, twoEarlyPings)
	}
	at := c.liveness.progressAt + max(silence, every)
	if open {
		return c.pingAtLocked(at, oneEarlyPing)
	}
	return c.pingAtLocked(at, noEarlyPing)
}

// armKeepAliveLocked sets the timer for the time when a PING may be due, if the peer is silent from
// the time from.
func (c *Conn) armKeepAliveLocked(from time.Duration) {
	if c.cfg.KeepAlive >= 0 {
		c.armLocked(from + or(c.cfg.KeepAlive, silences[0]))
	}
}

// pingAtLocked returns the earliest time, but not before at, when a PING may be sent whose limit of
// early PINGs is limit.
func (c *Conn) pingAtLocked(at time.Duration, limit uint8) time.Duration {
	k := &c.liveness.pinging
	every := k.host.interval()
	switch {
	case k.last == 0:
		return at
	case every > 0:
		return max(at, k.last+every)
	case k.state == pingFree || k.early < limit:
		return at
	}
	return max(at, k.last+c.pingGapLocked())
}

// mayPingLocked reports whether a PING with this limit of early PINGs may be sent now.
func (c *Conn) mayPingLocked(limit uint8) bool {
	now := c.clock()
	return c.pingAtLocked(now, limit) <= now
}

// pingGapLocked returns the time after which a PING is not early.
func (c *Conn) pingGapLocked() time.Duration {
	if len(c.streams.byID) > 0 {
		return busyPingGap
	}
	return idlePingGap
}

// countPingLocked counts a PING that is sent at the time now.
func (c *Conn) countPingLocked(now time.Duration) {
	k := &c.liveness.pinging
	switch {
	case k.state == pingFree || k.last == 0:
		k.early = 0
	case now-k.last < c.pingGapLocked() && k.early < 100:
		k.early++
	}
	k.last, k.asked = max(now, 1), 0
	k.state, c.liveness.stale = pingUnacked, false
}

// ackedLocked records that the last PING that was sent has been acknowledged. The gap to the next
// PING is measured from here. So the gap is not shorter at the server, even if the network delays
// the PINGs differently.
func (k *pinging) ackedLocked(now time.Duration) {
	k.last = max(now, 1)
	if k.state == pingUnacked {
		k.state = pingAcked
	}
}

// recvMessageLocked is called for each frame of DATA or HEADERS. If a PING is unacknowledged, the
// peer may have sent the frame before it received that PING, so the frame does not make the next
// PING free.
func (c *Conn) recvMessageLocked() {
	k := &c.liveness.pinging
	if k.silence == 0 && k.asked == 0 && k.state != pingAcked {
		return
	}
	k.silence, k.asked = 0, 0
	if k.state != pingUnacked {
		k.state, k.forSlots = pingFree, false
	}
	c.armKeepAliveLocked(c.liveness.now)
}

// requestWrittenLocked is called before a write, at the time now. If the write has a request, the
// time until a keep-alive PING begins now.
func (c *Conn) requestWrittenLocked(now time.Duration) {
	k := &c.liveness.pinging
	if !k.requested {
		return
	}
	k.requested, k.silence = false, 0
	if k.asked == 0 {
		k.asked = now
		c.armKeepAliveLocked(now)
	}
}

// staleAtLocked returns when a Transport's connection without streams has been silent for so long
// that a PING must confirm it before it serves a request. 0 means never.
func (c *Conn) staleAtLocked() time.Duration {
	if !c.reports.owner.hears() || len(c.streams.byID) > 0 || c.writer.corked ||
		!c.settings.peer.known || c.reports.suspected.Load() {
		return 0
	}
	if c.cfg.KeepAlive < 0 || c.cfg.PingTimeout < 0 || c.keeperLocked() != nil {
		return 0
	}
	return c.pingAtLocked(c.liveness.lastRecv+staleSilence, twoEarlyPings)
}

// confirm sends a PING on a connection that is suspected because of staleSilence. Any byte from the
// peer ends the suspicion. confirm returns how long the caller should wait for it.
func (c *Conn) confirm() (wait time.Duration) {
	c.lock()
	defer c.unlockForOwner()
	if c.liveness.stale && c.ending.err == nil && c.keeperLocked() == nil &&
		c.mayPingLocked(twoEarlyPings) {
		c.sendPingLocked(&ping{keeper: true})
	}
	return max(suspicionGrace, 2*c.liveness.minRTT)
}

// A pingMemory records that a host has ended connections because of PINGs.
type pingMemory struct {
	// A time.Duration: a connection sends at most one PING in this time. 0: no limit is known.
	every atomic.Int64

	mu sync.Mutex // guards at
	at time.Time  // when the host last ended a connection for this
}

// interval returns the time in which a connection may send at most one PING. It is 0 if the host
// has not done so, or if m is nil.
func (m *pingMemory) interval() time.Duration {
	if m == nil {
		return 0
	}
	return time.Duration(m.every.Load())
}

// record records that the host has ended a connection because of PINGs. keepAlive is the
// connection's Config.KeepAlive. It doubles the interval, within bounds. Several connections that
// the host ends within the same interval count once.
func (m *pingMemory) record(keepAlive time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	every := m.interval()
	if every == 0 || time.Since(m.at) >= every {
		every = max(busyPingGap, min(2*max(every, keepAlive), mostPingGap))
		m.every.Store(int64(every))
	}
	m.at = time.Now()
}

// remembered returns for how much longer the interval is kept if the host has no connection.
func (m *pingMemory) remembered() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.interval() == 0 {
		return 0
	}
	return tooManyPingsMemory - time.Since(m.at)
}

// obeyPings makes the connection use and update the pingMemory of its host.
func (c *Conn) obeyPings(host *pingMemory) {
	c.lock()
	c.liveness.pinging.host = host
	if c.ending.goAway != nil {
		c.recvTooManyPingsLocked(c.ending.goAway)
	}
	c.unlock()
}

// recvTooManyPingsLocked records it if the peer's GOAWAY has "too_many_pings".
func (c *Conn) recvTooManyPingsLocked(goAway *ConnError) {
	host := c.liveness.pinging.host
	if host != nil && goAway.Code == ErrCodeEnhanceYourCalm && bytes.Contains(goAway.Debug, tooManyPings) {
		host.record(max(0, c.cfg.KeepAlive))
	}
}

// tooManyPings is the debug data of a GOAWAY because of PINGs (gRFC A8).
var tooManyPings = []byte("too_many_pings")
