package hyper

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"
)

// Servers count PINGs. A gRPC server ends a connection with the GOAWAY "too_many_pings" at the third
// PING that comes too early. By default, a PING is too early if the last one came less than five
// minutes before while a stream is open, or less than two hours before while none is. The first
// PING after the server has sent DATA or HEADERS is never too early, and the count begins anew.
//
// hyper counts the same. Each kind of PING has a limit of early ones, above which it is not sent.
// The limits stay below the servers' and add up: the count is one for all kinds. A caller's
// Conn.Ping and a KeepAlive that the caller has set are the caller's choice. They have no limit,
// but count.

// Limits of early PINGs. A server ends the connection at the third.
const (
	noEarlyPing   = 0 // without a stream, and to measure round trips
	oneEarlyPing  = 1 // in a long silence, and for slots
	twoEarlyPings = 2 // for a request to which nothing has come, and before a request after a long silence
)

const (
	// A PING is not early after that, while a stream is open and while none is. The rest above the
	// servers' five minutes and two hours is for clocks that differ.
	busyPingGap = 5*time.Minute + 5*time.Second
	idlePingGap = 2*time.Hour + time.Minute

	staleSilence = time.Minute // after which a Transport asks a connection without a stream before it uses it

	mostPingGap      = 2 * time.Hour // for a host that has complained of PINGs
	complaintsMemory = time.Hour     // that a host has complained, with no connection left
)

// silences are the times of silence before a PING, by the number of PINGs before it in the same
// silence.
var silences = [...]time.Duration{30 * time.Second, time.Minute, busyPingGap}

// pinging counts a connection's PINGs of all kinds. It is guarded by the connection's mu.
type pinging struct {
	last    time.Duration // when the last PING was acknowledged, or sent if it was not; 0: there was none
	asked   time.Duration // when a request was written that no PING has followed yet; 0: none was
	early   uint8         // PINGs that came too early, since the peer last sent DATA or HEADERS
	silence uint8         // of silences: PINGs of keep-alive since then, or since a request was written
	probes  uint8         // sent for window managers, of the burst

	unacked   bool // the last PING is not acknowledged
	free      bool // the peer has sent DATA or HEADERS since it acknowledged the last PING
	forSlots  bool // a PING for slots was sent since then
	requested bool // a request was opened that is not written yet
	stale     bool // the connection is suspected because of staleSilence, and was not asked

	host *pingMemory // nil: the connection is not a Transport's
}

// keepAliveAtLocked is when silence makes us ask whether the peer lives, 0: not now.
//
// While a stream is open, that is after 30 s, then 60 s, then every five minutes of silence. A
// request that is written begins anew. While no stream is open, it is after 30 s, and again only
// when two hours have passed.
func (c *Conn) keepAliveAtLocked() time.Duration {
	if c.cfg.KeepAlive < 0 || c.corked || c.keeperLocked() != nil {
		return 0
	}
	k := &c.pinging
	every := k.host.interval()
	if c.cfg.KeepAlive > 0 && every == 0 {
		return c.progressAt + c.cfg.KeepAlive
	}
	silence := or(c.cfg.KeepAlive, silences[k.silence])
	open := len(c.streams) > 0
	if open && k.asked > 0 {
		at := c.progressAt + silence
		if at < k.asked {
			at = k.asked + silence
		}
		return c.pingAtLocked(at, twoEarlyPings)
	}
	at := c.progressAt + max(silence, every)
	if open {
		return c.pingAtLocked(at, oneEarlyPing)
	}
	return c.pingAtLocked(at, noEarlyPing)
}

// armKeepAliveLocked makes the timer fire when the peer has been silent for so long since the time
// from that a PING may be due.
func (c *Conn) armKeepAliveLocked(from time.Duration) {
	if c.cfg.KeepAlive >= 0 {
		c.armLocked(from + or(c.cfg.KeepAlive, silences[0]))
	}
}

// pingAtLocked is when a PING may be sent, at the earliest at the time at, with so many early ones
// at most.
func (c *Conn) pingAtLocked(at time.Duration, limit uint8) time.Duration {
	k := &c.pinging
	every := k.host.interval()
	switch {
	case k.last == 0:
		return at
	case every > 0:
		return max(at, k.last+every)
	case k.free || k.early < limit:
		return at
	}
	return max(at, k.last+c.pingGapLocked())
}

// mayPingLocked reports whether a PING may be sent now.
func (c *Conn) mayPingLocked(limit uint8) bool {
	now := c.clock()
	return c.pingAtLocked(now, limit) <= now
}

func (c *Conn) pingGapLocked() time.Duration {
	if len(c.streams) > 0 {
		return busyPingGap
	}
	return idlePingGap
}

// countPingLocked counts a PING that is sent at the time now.
func (c *Conn) countPingLocked(now time.Duration) {
	k := &c.pinging
	switch {
	case k.free || k.last == 0:
		k.early = 0
	case now-k.last < c.pingGapLocked() && k.early < 100:
		k.early++
	}
	k.last, k.asked = max(now, 1), 0
	k.unacked, k.free, k.stale = true, false, false
}

// ackedLocked is called when the last PING that was sent is acknowledged. The time to the next
// one is counted from here: so it is not shorter where PINGs arrive.
func (k *pinging) ackedLocked(now time.Duration) { k.last, k.unacked = max(now, 1), false }

// recvMessageLocked is called for each frame of DATA or HEADERS. One that comes while a PING is on
// its way may have been sent before the peer received that PING, so that the next one is not free.
func (c *Conn) recvMessageLocked() {
	k := &c.pinging
	if k.silence == 0 && k.asked == 0 && (k.free || k.unacked) {
		return
	}
	k.silence, k.asked = 0, 0
	if !k.unacked {
		k.free, k.forSlots = true, false
	}
	c.armKeepAliveLocked(c.now)
}

// requestWrittenLocked is called before a write, at the time now. Where a request is in it, the
// peer has KeepAlive to show that it lives.
func (c *Conn) requestWrittenLocked(now time.Duration) {
	k := &c.pinging
	if !k.requested {
		return
	}
	k.requested, k.silence = false, 0
	if k.asked == 0 {
		k.asked = now
		c.armKeepAliveLocked(now)
	}
}

// staleAtLocked is when a Transport's connection without a stream was silent for so long that it
// should be asked before it serves a request; 0: it is not to be asked.
func (c *Conn) staleAtLocked() time.Duration {
	if c.owner == nil || c.owner.news == nil || len(c.streams) > 0 || c.corked || !c.peer.known || c.suspected.Load() {
		return 0
	}
	if c.cfg.KeepAlive < 0 || c.cfg.PingTimeout < 0 || c.keeperLocked() != nil {
		return 0
	}
	return c.pingAtLocked(c.lastRecv+staleSilence, twoEarlyPings)
}

// confirm asks a connection that is suspected because it was silent whether its peer lives. Any
// byte that comes ends the suspicion. It returns how long that may take.
func (c *Conn) confirm() (patience time.Duration) {
	c.mu.Lock()
	defer c.unlock()
	if c.pinging.stale && c.err == nil && c.keeperLocked() == nil && c.mayPingLocked(twoEarlyPings) {
		c.sendPingLocked(&ping{keeper: true})
	}
	return max(suspicionGrace, 2*c.minRTT)
}

// A pingMemory is what is remembered of a host that ends connections because of their PINGs.
type pingMemory struct {
	every atomic.Int64 // a time.Duration, in which a connection sends one PING at most; 0: no limit is known

	mu sync.Mutex // guards at
	at time.Time  // when it last ended one
}

// interval returns the time in which a connection sends one PING at most, 0 where the host has not
// complained, or there is no memory of it.
func (m *pingMemory) interval() time.Duration {
	if m == nil {
		return 0
	}
	return time.Duration(m.every.Load())
}

// complained notes that the host has ended a connection that was to send one PING in that time at
// most. Connections that it ends in the same interval are one complaint.
func (m *pingMemory) complained(keepAlive time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	every := m.interval()
	if every == 0 || time.Since(m.at) >= every {
		every = max(busyPingGap, min(2*max(every, keepAlive), mostPingGap))
		m.every.Store(int64(every))
	}
	m.at = time.Now()
}

// remembered is how long that is still remembered once the host has no connection.
func (m *pingMemory) remembered() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.interval() == 0 {
		return 0
	}
	return complaintsMemory - time.Since(m.at)
}

// obeyPings makes the connection obey what is remembered of its host, and add to it.
func (c *Conn) obeyPings(host *pingMemory) {
	c.mu.Lock()
	c.pinging.host = host
	if c.goAway != nil {
		c.recvComplaintLocked(c.goAway)
	}
	c.mu.Unlock()
}

// recvComplaintLocked remembers that the peer's GOAWAY complains of PINGs.
func (c *Conn) recvComplaintLocked(goAway *ConnError) {
	host := c.pinging.host
	if host != nil && goAway.Code == EnhanceYourCalm && bytes.Contains(goAway.Debug, tooManyPings) {
		host.complained(max(0, c.cfg.KeepAlive))
	}
}

// tooManyPings is the debug data of such a GOAWAY (gRFC A8).
var tooManyPings = []byte("too_many_pings")
