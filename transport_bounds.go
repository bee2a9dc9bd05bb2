package hyper

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// This file limits the connections of a Transport to all hosts together.

const (
	defaultMaxIdle = 100

	yieldAfter = 100 * time.Millisecond // how long a host waits until a busy host gives up a connection
)

// A connBound counts the connections of all hosts: those that take requests and those that are
// being made. A host that needs a connection beyond Transport.MaxConns waits in line. A connBound's
// lock may be taken while a host's is held. No other lock is taken while it is held.
type connBound struct {
	mu    sync.Mutex // guards everything below, and host.queued and host.granted
	used  int        // granted connections included
	queue []*host    // in order of arrival
	timer *time.Timer

	crowded atomic.Bool // connections report when they become idle
}

// takeLocked takes one of MaxConns connections for h, and reports whether it could. If there is
// none, h waits in line; serveLocked is called when its turn comes.
func (h *host) takeLocked() bool {
	b, most := &h.t.bound, h.t.MaxConns
	if most <= 0 {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case h.granted > 0:
		h.granted--
		return true
	case b.used < most && len(b.queue) == 0:
		b.used++
		return true
	case !h.queued:
		h.queued = true
		b.queue = append(b.queue, h)
		b.crowded.Store(true)
		go h.t.makeRoom() // in a goroutine, because it takes the locks of other hosts
	}
	return false
}

// tryTake takes one connection if there is one and no host waits for it. It reports whether it did.
func (t *Transport) tryTake() bool {
	b := &t.bound
	if t.MaxConns <= 0 {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used >= t.MaxConns || len(b.queue) > 0 {
		return false
	}
	b.used++
	return true
}

// giveBack returns a connection that takeLocked or tryTake took. The first host in line gets it.
func (t *Transport) giveBack() {
	b := &t.bound
	if t.MaxConns <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 {
		b.used--
		return
	}
	next := b.queue[0]
	b.queue[0] = nil
	b.queue = shrunk(b.queue[1:])
	next.queued = false
	next.granted++
	go next.useGranted()
}

// useGranted makes the connection that h waited for. If h no longer needs it, it gives it back.
func (h *host) useGranted() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.serveLocked()
	h.t.bound.mu.Lock()
	left := h.granted
	h.granted = 0
	h.t.bound.mu.Unlock()
	for range left {
		h.t.giveBack()
	}
}

// inLine returns how many hosts wait for a connection.
func (b *connBound) inLine() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue)
}

// makeRoom closes the connections that have been idle longest, one for each host in line. If there
// are too few, it is called again when a connection becomes idle, and after yieldAfter yieldOne
// keeps requests from a busy one.
func (t *Transport) makeRoom() {
	missing := t.bound.inLine()
	if missing == 0 {
		return
	}
	if missing -= closeIdlest(t.allConns(), func(int) int { return missing }); missing <= 0 {
		return
	}
	b := &t.bound
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer == nil {
		b.timer = time.AfterFunc(yieldAfter, t.yieldOne)
	}
}

// yieldOne keeps new requests from one connection, so that it becomes idle and makes room for a
// host in line. Otherwise the hosts with traffic could keep all connections. It is the connection
// with the fewest requests, of those to hosts that have more connections than one in line. If it
// has not become idle after yieldTime, it serves its host again, and another one is chosen.
func (t *Transport) yieldOne() {
	b := &t.bound
	b.mu.Lock()
	b.timer = nil
	inLine := slices.Clone(b.queue)
	b.mu.Unlock()
	fewest := math.MaxInt
	for _, h := range inLine {
		fewest = min(fewest, len(h.clonedConns()))
	}
	var best *pooledConn
	var owner *host
	least := 0
	now := time.Now()
	for _, h := range t.allHosts() {
		h.mu.Lock()
		for _, c := range h.conns {
			if len(h.conns) <= fewest {
				break
			}
			load, err := c.load()
			if recent := now.Sub(c.yieldedAt) < yieldAgain; err == nil && !recent &&
				(best == nil || load < least) {
				best, owner, least = c, h, load
			}
		}
		h.mu.Unlock()
	}
	if best != nil && b.inLine() > 0 {
		owner.mu.Lock()
		best.yieldedAt = now
		owner.mu.Unlock()
		time.AfterFunc(yieldTime, owner.stateChanged) // requests of its host can use it again
	}
	t.makeRoom() // best may be idle already; this also sets the timer again
}

const (
	yieldTime  = time.Second     // for which a connection gets no new requests
	yieldAgain = 5 * time.Second // until the same connection may be chosen again
)

// yields reports whether c gets no new requests at present.
func (c *pooledConn) yields() bool {
	return !c.yieldedAt.IsZero() && time.Since(c.yieldedAt) < yieldTime
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

// isInLine reports whether h waits for one of MaxConns connections.
func (h *host) isInLine() bool {
	b := &h.t.bound
	b.mu.Lock()
	defer b.mu.Unlock()
	return h.queued
}

// leaveLine removes h, whose requests no longer need a connection, from the line.
func (h *host) leaveLine() {
	b := &h.t.bound
	if h.t.MaxConns <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.queue, h); h.queued && i >= 0 {
		h.queued = false
		b.queue = shrunk(slices.Delete(b.queue, i, i+1))
	}
}

// watchIdle makes c report when it becomes idle, if there is a limit on idle connections.
func (t *Transport) watchIdle(c *Conn) {
	tells := &t.bound.crowded
	if perHost, _ := t.maxIdle(); perHost >= 0 {
		tells = always
	}
	c.mu.Lock()
	c.slots.tellsIdle = tells
	c.mu.Unlock()
}

// always is a flag that is always true.
var always = func() *atomic.Bool {
	b := new(atomic.Bool)
	b.Store(true)
	return b
}()

// countLocked adds n to the number of open connections. n is 1 for a new connection and -1 for one
// that was removed.
func (h *host) countLocked(n int64) {
	t := h.t
	t.open.Add(n)
	if n < 0 {
		t.giveBack()
	}
	_, total := t.maxIdle()
	b := &t.bound
	b.mu.Lock()
	defer b.mu.Unlock()
	// Under the lock, so that the last of several hosts decides with the count of all.
	b.crowded.Store(len(b.queue) > 0 || total >= 0 && t.open.Load() > int64(total))
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
		if n := t.bound.inLine(); n > 0 {
			closeIdlest(h.clonedConns(), func(int) int { return n })
		}
	}
	if total >= 0 && t.open.Load() > int64(total) {
		t.surplus.look(t)
	}
}

// A surplusWatch closes idle connections beyond Transport.MaxIdleConns. It has to examine all
// connections, which is slow if there are many. So it does that at most once in surplusEvery.
type surplusWatch struct {
	mu    sync.Mutex
	timer *time.Timer // nil: the last look was at least surplusEvery ago
	again bool        // look was called since then
}

// surplusEvery is the shortest time between two looks at all connections.
const surplusEvery = 10 * time.Millisecond

// look examines all connections now, or when surplusEvery is over.
func (w *surplusWatch) look(t *Transport) {
	w.mu.Lock()
	if w.timer != nil {
		w.again = true
		w.mu.Unlock()
		return
	}
	w.timer = time.AfterFunc(surplusEvery, func() {
		w.mu.Lock()
		w.timer = nil
		again := w.again
		w.again = false
		w.mu.Unlock()
		if again {
			w.look(t)
		}
	})
	w.mu.Unlock()
	_, total := t.maxIdle()
	closeIdlest(t.allConns(), func(idle int) int { return idle - total })
}

// closeIdlest closes connections that have no stream, beginning with those that have had none for
// the longest time. number returns how many to close, given how many are idle. closeIdlest returns
// how many it closed.
func closeIdlest(conns []*pooledConn, number func(idle int) int) int {
	type idleConn struct {
		*pooledConn
		since time.Time
	}
	var idle []idleConn
	for _, c := range conns {
		if since, ok := c.idleFrom(); ok {
			idle = append(idle, idleConn{c, since})
		}
	}
	n := min(max(0, number(len(idle))), len(idle))
	if n == 0 {
		return 0
	}
	slices.SortFunc(idle, func(a, b idleConn) int { return a.since.Compare(b.since) })
	for _, c := range idle[:n] {
		c.drainIfIdle(0, ReasonSurplus)
	}
	return n
}
