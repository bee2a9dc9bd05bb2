package hyper

import (
	"math"
	"sync/atomic"
	"time"

	"gohyper.dev/hyper/internal/pool"
)

// This file limits the connections of a Transport to all hosts together: it acts on what a
// pool.Bound, which has its own lock, counts and grants. A host's lock may be held when that is
// called. No function here holds the locks of two hosts.

const (
	defaultMaxIdle = 100

	yieldAfter = 100 * time.Millisecond // how long a host waits until a busy host gives up a connection
)

// takeLocked takes one of MaxConns connections for h, and reports whether it could. If there is
// none, h waits in line; serveLocked is called when its turn comes.
func (h *host) takeLocked() bool {
	got := h.t.bound.Take(&h.share, h.t.MaxConns)
	if got == pool.Queued {
		go h.t.makeRoom() // in a goroutine, because it takes the locks of other hosts
	}
	return got == pool.Granted
}

// tryTake takes one connection if there is one and no host waits for it. It reports whether it did.
func (t *Transport) tryTake() bool { return t.bound.TryTake(t.MaxConns) }

// giveBack returns a connection that takeLocked or tryTake took. The first host in line gets it.
func (t *Transport) giveBack() {
	if next := t.bound.GiveBack(t.MaxConns); next != nil {
		go next.Host.useGranted()
	}
}

// useGranted makes the connection that h waited for. If h no longer needs it, it gives it back.
func (h *host) useGranted() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.serveLocked()
	for range h.t.bound.Unused(&h.share) {
		h.t.giveBack()
	}
}

// makeRoom closes the connections that have been idle longest, one for each host in line. If there
// are too few, it is called again when a connection becomes idle, and after yieldAfter yieldOne
// keeps requests from a busy one.
func (t *Transport) makeRoom() {
	missing := t.bound.Len()
	if missing == 0 {
		return
	}
	if closeIdlest(t.allConns(), func(int) int { return missing }) < missing {
		t.bound.CallLater(yieldAfter, t.yieldOne)
	}
}

// yieldOne keeps new requests from one connection, so that it becomes idle and makes room for a
// host in line. Otherwise the hosts with traffic could keep all connections. It is the connection
// with the fewest requests, of those to hosts that have more connections than one in line. If it
// has not become idle after pool.YieldTime, it serves its host again, and another one is chosen.
func (t *Transport) yieldOne() {
	fewest := math.MaxInt
	for _, h := range t.bound.Line() {
		fewest = min(fewest, len(h.clonedConns()))
	}
	var best *pooledConn
	var owner *host
	least := 0
	for _, h := range t.allHosts() {
		h.mu.Lock()
		if h.Conns.Len() > fewest {
			if c, load, ok := h.Conns.ToYield(); ok && (best == nil || load < least) {
				best, owner, least = c, h, load
			}
		}
		h.mu.Unlock()
	}
	if best != nil && t.bound.Len() > 0 {
		owner.mu.Lock()
		best.member.Yield()
		owner.mu.Unlock()
		time.AfterFunc(pool.YieldTime, owner.stateChanged) // requests of its host can use it again
	}
	t.makeRoom() // best may be idle already; this also sets the timer again
}

// allConns returns the connections of all hosts.
func (t *Transport) allConns() (all []*pooledConn) {
	for _, h := range t.allHosts() {
		all = append(all, h.clonedConns()...)
	}
	return all
}

// keepsAlive reports whether a connection may serve more than one request.
func (t *Transport) keepsAlive() bool { return !t.DisableKeepAlives }

// maxIdle returns how many connections without a stream may be kept for one host, and in all. -1
// means any number.
func (t *Transport) maxIdle() (perHost, total int) {
	if t.net != nil {
		perHost, total = t.net.maxIdle()
	} else {
		perHost, total = -1, max(-1, or(t.MaxIdleConns, defaultMaxIdle))
	}
	if !t.keepsAlive() {
		perHost = 0
	}
	return perHost, total
}

// leaveLine removes h, whose requests no longer need a connection, from the line.
func (h *host) leaveLine() {
	if h.t.MaxConns > 0 {
		h.t.bound.Leave(&h.share)
	}
}

// watchIdle makes c report when it becomes idle, if there is a limit on idle connections.
func (t *Transport) watchIdle(c *Conn) {
	tells := &t.bound.Crowded
	if perHost, _ := t.maxIdle(); perHost >= 0 {
		tells = always
	}
	c.lock()
	c.slots.tellsIdle = tells
	c.unlock()
}

// always is a flag that is always true.
var always = func() *atomic.Bool {
	b := new(atomic.Bool)
	b.Store(true)
	return b
}()

// countLocked adds n to the number of open connections. n is 1 for a new connection and -1 for one
// that was removed.
func (h *host) countLocked(n int) {
	t := h.t
	if n < 0 {
		t.giveBack()
	}
	_, total := t.maxIdle()
	t.bound.Count(n, total)
}

// closeSurplus closes connections without a stream: those beyond the limit for the host or for all
// hosts, and those that other hosts wait for.
func (h *host) closeSurplus() {
	t := h.t
	perHost, total := t.maxIdle()
	if perHost >= 0 {
		closeIdlest(h.clonedConns(), func(idle int) int { return idle - perHost })
	}
	if t.MaxConns > 0 {
		if n := t.bound.Len(); n > 0 {
			closeIdlest(h.clonedConns(), func(int) int { return n })
		}
	}
	if total >= 0 && t.bound.Open() > total {
		t.surplus.Call(surplusEvery, t.closeSurplusOfAll)
	}
}

// surplusEvery is the shortest time between two calls of closeSurplusOfAll.
const surplusEvery = 10 * time.Millisecond

// closeSurplusOfAll closes idle connections beyond Transport.MaxIdleConns. It has to examine all
// connections, which is slow if there are many.
func (t *Transport) closeSurplusOfAll() {
	_, total := t.maxIdle()
	closeIdlest(t.allConns(), func(idle int) int { return idle - total })
}

// closeIdlest closes connections that have no stream, beginning with those that have had none for
// the longest time. number returns how many to close, given how many are idle. closeIdlest returns
// how many it closed.
func closeIdlest(conns []*pooledConn, number func(idle int) int) int {
	idlest := pool.Idlest(conns, number)
	for _, c := range idlest {
		c.drainIfIdle(0, ReasonSurplus)
	}
	return len(idlest)
}
