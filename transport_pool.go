package hyper

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"gohyper.dev/hyper/internal/syntax"
)

// A hostKey is what requests must have in common to share connections.
type hostKey struct {
	proxy string
	target
}

// keyFor finds where a request goes. It is cheap: what it finds is only looked at more closely when a connection is made.
func keyFor(u, proxy *url.URL) (hostKey, error) {
	host, err := urlHost(u)
	if err != nil {
		return hostKey{}, err
	}
	key := hostKey{target: target{scheme: u.Scheme, host: host, port: or(u.Port(), syntax.DefaultPort(u.Scheme))}}
	if proxy != nil {
		key.proxy = proxy.String()
	}
	return key, nil
}

// A host is the connections to one host, and the requests that wait for one. Waiting requests are served in turn: by a slot
// that becomes free on any connection, or by a new connection, of which one is made at a time.
//
// Its lock is taken before a connection's, never behind it.
type host struct {
	t     *Transport
	key   hostKey
	addr  string
	proxy *url.URL
	owner owner
	users int // guarded by the Transport's lock

	mu         sync.Mutex // guards everything below
	conns      []*pooledConn
	waiting    []*place   // in the order of their turns
	turns      uint64     // that were given
	attempts   []*attempt // connections that are being made, the oldest first
	dialAfter  time.Time  // not before then
	useless    int        // connections in a row that answered nothing
	http1Until time.Time  // it does not speak HTTP/2
	reminder   bool       // forget will be called, when there is nothing to remember any more
	spread     spread
	capacity   capacity
	retries    retryBudget
	sharing    *sharing   // of another host's connections; nil: none was looked for
	pings      pingMemory // has a lock of its own

	queued  bool // in the line for a connection; guarded, as granted is, by the connBound's lock
	granted int  // connections that may be made now
}

// A pooledConn is a connection of a host's. The host's lock guards it.
type pooledConn struct {
	*Conn
	retireAt time.Time  // zero: never
	reason   ConnReason // why it leaves the line, where the host decides that
	idle     *time.Timer
	answers  int64 // responses that came
	refusals int   // requests that it refused since the last response
	quota    int64 // requests that it may be sent in all; 0: no bound is known
	chargeAt int64 // host.retries.answers at the last charge, plus 1; 0: there was none

	endpoint  *endpoint // that was dialled in place of the host; nil: none
	usedAt    uint64    // spread.uses at the last request
	yieldedAt time.Time // when it was to make room for another host; zero: never
}

// A place is a request's place in the line for a slot.
type place struct {
	ctx   context.Context
	turn  uint64
	ready chan struct{} // one slot
	conn  *pooledConn   // reserved for it
	err   error
}

// errNotHTTP2: the host speaks HTTP/1.1, and the fallback has to serve it.
var errNotHTTP2 = errors.New("hyper: server does not speak HTTP/2")

const maxDialBackoff = 5 * time.Second

// enter returns the host of key for a request, which must leave it when it has its answer.
func (t *Transport) enter(key hostKey, proxy *url.URL) *host {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.hosts[key]
	if h == nil {
		h = &host{t: t, key: key, addr: key.addr(), proxy: proxy, retries: newRetryBudget()}
		if t.hosts == nil {
			t.hosts = make(map[hostKey]*host)
		}
		t.hosts[key] = h
		h.owner = owner{news: h.news, book: t.books.open(t, key, proxy)}
	}
	h.users++
	return h
}

func (t *Transport) leave(h *host) {
	t.mu.Lock()
	h.users--
	t.forgetLocked(h)
	t.mu.Unlock()
}

// forgetLocked drops a host that has nothing and is used by nobody: a crawler has many.
func (t *Transport) forgetLocked(h *host) {
	if h.users > 0 || t.hosts[h.key] != h {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.connsLocked() > 0 || h.reminder {
		return
	}
	left := max(time.Until(h.http1Until), time.Until(h.dialAfter), h.capacity.remembered(),
		h.sharing.remembered(), h.pings.remembered())
	if left <= 0 {
		delete(t.hosts, h.key)
		t.books.release(h.owner.book)
		return
	}
	h.reminder = true
	time.AfterFunc(left, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		h.mu.Lock()
		h.reminder = false
		h.mu.Unlock()
		t.forgetLocked(h)
	})
}

// dial makes a connection to the host.
// Where at is not nil, it is made to that.
func (h *host) dial(ctx context.Context, cfg *Config, at *endpoint) (*Conn, error) {
	if h.t.net != nil {
		return h.t.net.connect(ctx, h, cfg)
	}
	if h.dialsTLS() {
		return h.dialTLS(ctx, cfg, at)
	}
	dial := dialerTo(cfg.dialer(), at)
	if h.proxy != nil {
		through, err := h.t.dialThrough(h.proxy, cfg)
		if err != nil {
			return nil, err
		}
		dial = through
	}
	to, err := parseAddr(h.key.scheme + "://" + h.addr)
	if err != nil {
		return nil, err
	}
	return dialTarget(ctx, to, cfg, dial, &h.owner)
}

func (h *host) config() *Config {
	h.t.mu.Lock()
	defer h.t.mu.Unlock()
	return h.t.configLocked()
}

// only returns the connection where there is but one and nobody waits: most likely it has a slot.
func (h *host) only() *pooledConn {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.conns) != 1 || len(h.waiting) > 0 || !h.http1Until.IsZero() || h.capacity.streams > 0 || !h.t.keepsAlive() || h.isSpread() {
		return nil
	}
	if c := h.conns[0]; c.retireAt.IsZero() && c.yieldedAt.IsZero() && c.quota == 0 && !c.suspected.Load() {
		return c
	}
	return nil
}

// conn returns a connection with a slot reserved for one request. The request keeps its turn, 0 at
// first, while it comes back because the slot was not there any more when it was to be used.
func (h *host) conn(ctx context.Context, cancel <-chan struct{}, turn *uint64) (*pooledConn, error) {
	h.mu.Lock()
	if *turn == 0 {
		h.turns++
		*turn = h.turns
	}
	if !h.http1Until.IsZero() {
		if time.Now().Before(h.http1Until) {
			h.mu.Unlock()
			return nil, errNotHTTP2
		}
		h.http1Until = time.Time{}
	}
	if len(h.waiting) == 0 || *turn < h.waiting[0].turn {
		if c := h.reserveLocked(); c != nil {
			h.topUpLocked()
			h.mu.Unlock()
			return c, nil
		}
	}
	p := &place{ctx: ctx, turn: *turn, ready: make(chan struct{}, 1)}
	i, _ := slices.BinarySearchFunc(h.waiting, p, func(a, b *place) int { return cmp.Compare(a.turn, b.turn) })
	h.waiting = slices.Insert(h.waiting, i, p)
	h.serveLocked()
	h.topUpLocked()
	h.mu.Unlock()

	var err error
	select {
	case <-p.ready:
		return p.conn, p.err
	case <-ctx.Done():
		err = contextError(ctx)
	case <-cancel:
		err = errRequestCanceled
	}
	h.mu.Lock()
	if err != errRequestCanceled {
		err = h.waitErrorLocked(err)
	}
	if i := slices.Index(h.waiting, p); i >= 0 {
		h.waiting = shrunk(slices.Delete(h.waiting, i, i+1))
		h.gaveUpLocked(p)
	}
	h.mu.Unlock()
	if p.conn != nil { // it came just now
		p.conn.release()
		h.closeSurplus()
	}
	return nil, err
}

// waitErrorLocked is the error of a request whose context ended while it waited for a stream.
func (h *host) waitErrorLocked(err error) error {
	if h.isInLine() {
		return &WaitError{Err: err, conns: h.t.MaxConns}
	}
	if len(h.conns) == 0 {
		return err
	}
	e := &WaitError{Err: err, known: true, full: true}
	for _, c := range h.conns {
		c.mu.Lock()
		e.limit, e.known = e.limit+int64(c.slots.limit), e.known && c.peer.known
		e.full = e.full && c.crowdedLocked()
		c.mu.Unlock()
	}
	return e
}

// reserveLocked takes a slot on the least loaded connection that has one, and drops connections that take no more requests.
func (h *host) reserveLocked() *pooledConn {
	now := time.Time{}
	for len(h.conns) > 0 {
		if only := h.conns[0]; len(h.conns) == 1 && only.retireAt.IsZero() && only.yieldedAt.IsZero() && !only.suspected.Load() {
			switch err := h.reserveOnLocked(only); err {
			case nil:
				return only
			case errNoSlot:
				return nil
			default:
				h.removeLocked(0, err)
				return nil
			}
		}
		var best, suspected *pooledConn
		least := 0
		h.sumLoadsLocked()
		for i := 0; i < len(h.conns); i++ {
			c := h.conns[i]
			if !c.retireAt.IsZero() && now.IsZero() {
				now = time.Now()
			}
			load, err := c.load()
			if err == nil && !c.retireAt.IsZero() && !now.Before(c.retireAt) {
				err, c.reason = ErrClosed, ReasonAge
			}
			if err != nil {
				h.removeLocked(i, err)
				i--
				continue
			}
			if c.yields() {
				continue
			}
			if c.suspected.Load() {
				c.confirm()
				suspected = c
				continue
			}
			if best == nil || h.preferLocked(c, load, best, least) {
				best, least = c, load
			}
		}
		if best == nil && suspected != nil && !h.roomLocked() {
			best = suspected
		}
		if best == nil {
			return nil
		}
		switch err := h.reserveOnLocked(best); err {
		case nil:
			h.usedLocked(best)
			return best
		case errNoSlot:
			return h.reserveOtherLocked(best)
		}
		// It ended just now.
	}
	return nil
}

// reserveOtherLocked looks for a free slot where the least loaded connection has none: limits differ.
func (h *host) reserveOtherLocked(full *pooledConn) *pooledConn {
	for _, c := range h.conns {
		if c != full && !c.yields() && (!c.suspected.Load() || !h.roomLocked()) && h.reserveOnLocked(c) == nil {
			return c
		}
	}
	return nil
}

// reserveOnLocked takes a slot on c, within what the host was found to serve.
func (h *host) reserveOnLocked(c *pooledConn) error {
	if !h.t.keepsAlive() {
		return c.reserve(1, 1)
	}
	return c.reserve(h.capacity.streams, c.allowed())
}

// removeLocked takes a connection from the line, and says why. It lives until its streams are over.
func (h *host) removeLocked(i int, why error) {
	c := h.conns[i]
	h.conns = slices.Delete(h.conns, i, i+1)
	h.countLocked(-1)
	h.lostLocked(c, why)
	h.capacity.limit, h.capacity.usedAt = c.announcedLimit(h.capacity.limit), time.Now()
	if c.idle != nil {
		c.idle.Stop()
	}
	// The second connection in a row that the peer ends before it has answered anything makes the next
	// one wait. One whose GOAWAY says that it has processed requests may still answer them.
	processed, _, _ := c.fate()
	if c.answers > 0 || processed > 0 || errors.Is(why, ErrClosed) {
		// no matter
	} else if h.useless++; h.useless > 1 {
		h.dialAfter = time.Now().Add(min(maxDialBackoff, 50*time.Millisecond<<min(h.useless-2, 10)))
	}
	go c.drain(or(c.reason, ReasonExhausted)) // it may call news
}

// serveLocked gives free slots to the requests that wait, in their order, and makes a connection if
// they need one.
func (h *host) serveLocked() {
	for len(h.waiting) > 0 {
		c := h.reserveLocked()
		if c == nil {
			break
		}
		h.popLocked(c, nil)
	}
	switch {
	case len(h.waiting) == 0:
		h.leaveLine()
	case h.roomLocked():
		h.attemptLocked()
	}
	h.endPausedLocked()
}

// popLocked serves the first who waits.
func (h *host) popLocked(c *pooledConn, err error) {
	p := h.waiting[0]
	h.waiting[0] = nil
	h.waiting = shrunk(h.waiting[1:])
	p.conn, p.err = c, err
	p.ready <- struct{}{}
}

// roomLocked reports whether another connection may be made. It is not, while one has not announced
// yet how many streams it takes, unless its peer is silent.
func (h *host) roomLocked() bool {
	most := or(h.t.MaxConnsPerHost, defaultConnsPerHost)
	if most < 0 && h.capacity.isLearned() { // the host is short of capacity
		most = defaultConnsPerHost
	}
	if most > 0 && h.connsLocked() >= most {
		return false
	}
	if !h.t.keepsAlive() {
		return true
	}
	for _, c := range h.conns {
		if !c.suspected.Load() && !c.PeerSettings().Received {
			return false
		}
	}
	return true
}

// keepOrClose does what is best with a connection that does not speak HTTP/2.
func (h *host) keepOrClose(nc net.Conn) {
	if h.key.proxy == "" && h.t.Fallback == nil && (h.dialsTLS() || !h.t.renegotiates()) {
		h.t.keepSpare(h.addr, nc)
	} else {
		nc.Close()
	}
}

// addLocked puts a new connection in line.
func (h *host) addLocked(c *Conn, endpoint *endpoint) {
	p := &pooledConn{Conn: c, endpoint: endpoint}
	if age := h.t.MaxConnAge; age > 0 {
		p.retireAt = time.Now().Add(age)
	}
	if timeout := or(h.t.IdleConnTimeout, defaultIdleTimeout); timeout > 0 {
		p.idle = c.drainWhenIdle(timeout)
	}
	for _, other := range h.conns {
		h.capacity.limit = other.announcedLimit(h.capacity.limit)
	}
	p.quota = h.capacity.requests
	c.assumeLimit(h.capacity.limit)
	c.obeyPings(&h.pings)
	h.t.watchIdle(c)
	h.conns = append(h.conns, p)
	h.countLocked(1)
}

// news is called by connections: there may be a slot, or there will be no more.
func (h *host) news() {
	h.mu.Lock()
	for i := 0; i < len(h.conns); i++ {
		if _, err := h.conns[i].load(); err != nil {
			h.removeLocked(i, err)
			i--
		}
	}
	h.serveLocked()
	h.topUpIfUsedLocked()
	empty := len(h.conns) == 0 && len(h.waiting) == 0
	h.mu.Unlock()
	h.closeSurplus()
	if empty {
		h.t.mu.Lock()
		h.t.forgetLocked(h)
		h.t.mu.Unlock()
	}
}

// closeIdle closes the connections that are not in use.
func (h *host) closeIdle() {
	h.mu.Lock()
	if len(h.waiting) == 0 {
		h.endAttemptsLocked()
	}
	h.mu.Unlock()
	for _, c := range h.clonedConns() {
		c.drainIfIdle(0, ReasonCloseIdle)
	}
}

func (h *host) clonedConns() []*pooledConn {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.conns)
}

// announcedLimit returns the peer's MAX_CONCURRENT_STREAMS, or otherwise while that is not known.
func (c *Conn) announcedLimit(otherwise uint32) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.peer.known {
		return otherwise
	}
	return c.peer.maxStreams
}

// assumeLimit makes a new connection begin with the limit of an earlier one to the same peer, until
// it receives SETTINGS. It begins with no more than initialSlots.
func (c *Conn) assumeLimit(limit uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.peer.known && limit > 0 {
		c.slots.limit = min(limit, initialSlots)
	}
}

// fate tells what became of a connection that has turned a request away: whether it takes no more,
// how many requests the peer has processed, where it said so by GOAWAY, and else how many others
// are open.
func (c *Conn) fate() (processed int64, others int, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.goAway != nil && c.goAway.LastStreamID < c.nextID {
		processed = (int64(c.goAway.LastStreamID) + 1) / 2
	}
	return processed, c.slots.used - c.slots.held, c.takesRequestsLocked() != nil
}

// load returns how many slots are taken. The error is why there will be no more requests.
func (c *Conn) load() (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.slots.used, c.takesRequestsLocked()
}

// drainWhenIdle ends the connection when it has had no streams for that long. The timer that it returns ends the watch.
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

// drainIfIdle ends a connection that has had no streams for that long. If it has, and has not ended, it returns when to look
// again.
func (c *Conn) drainIfIdle(timeout time.Duration, why ConnReason) (left time.Duration) {
	c.mu.Lock()
	defer c.unlock()
	if c.err != nil || c.draining {
		return 0
	}
	if !c.unusedLocked() {
		return timeout
	}
	if idle := time.Since(c.start) - c.idleSince; idle < timeout {
		return timeout - idle
	}
	c.drainLocked(why)
	return 0
}

// unusedLocked reports whether no request needs the connection. What we reset, we do not wait for.
func (c *Conn) unusedLocked() bool { return len(c.streams) == 0 && c.slots.used <= c.slots.held }

// idleFrom returns since when no request has needed the connection, and false where one does.
func (c *Conn) idleFrom() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.start.Add(c.idleSince), c.err == nil && !c.draining && c.unusedLocked()
}
