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

// A hostKey identifies a host and the proxy to it. Requests with the same hostKey share
// connections.
type hostKey struct {
	proxy string
	target
}

// keyFor returns the hostKey of a request to u through proxy, which may be nil. It is called for
// each request, so it checks little: the key is validated when a connection is made.
func keyFor(u, proxy *url.URL) (hostKey, error) {
	host, err := urlHost(u)
	if err != nil {
		return hostKey{}, err
	}
	key := hostKey{target: target{scheme: u.Scheme, host: host,
		port: or(u.Port(), syntax.DefaultPort(u.Scheme))}}
	if proxy != nil {
		key.proxy = proxy.String()
	}
	return key, nil
}

// A host holds the connections to one host, and the requests that wait for one. Waiting requests
// are served in turn, either by a slot that becomes free on any connection or by a new connection.
// Normally one connection is made at a time.
//
// A host's lock is taken before a connection's, never after it.
type host struct {
	t     *Transport
	key   hostKey
	addr  string
	proxy *url.URL
	owner owner
	refs  int // requests that use the host; guarded by Transport.mu

	mu          sync.Mutex // guards everything below
	conns       []*pooledConn
	waiting     []*queuedRequest // in the order of their turns
	turns       uint64           // number of turns given so far
	attempts    []*attempt       // connections that are being made, oldest first
	connecting  int              // running calls of connect, also for attempts that are in no list any more
	dialAfter   time.Time        // no connection is dialed before this
	failures    int              // consecutive connections that ended without a response
	http1Until  time.Time        // until then the host is taken not to speak HTTP/2; zero: it may speak it
	forgetLater bool             // a timer will call forgetLocked when nothing has to be remembered any more
	spread      spread
	capacity    capacity
	retries     retryBudget
	sharing     *sharing   // use of other hosts' connections; nil: not looked for yet
	pings       pingMemory // has its own lock

	queued  bool // waits in line for a connection; queued and granted are guarded by connBound.mu
	granted int  // number of connections that the host may make now
}

// A pooledConn is a connection of a host. It is guarded by the host's lock.
type pooledConn struct {
	*Conn
	retireAt time.Time  // when it stops taking requests; zero: never
	reason   ConnReason // why it was taken from the host, if the host decided that
	idle     *time.Timer
	answers  int64 // responses received
	refusals int   // requests refused since the last response
	quota    int64 // limit of requests in all; 0: no limit is known
	chargeAt int64 // host.retries.answers at the last charge, plus 1; 0: none yet

	endpoint  *endpoint // the address that was dialed; nil: the host itself was dialed
	spare     bool      // no request waited for it when it was made
	usedAt    uint64    // value of spread.uses at the last request
	yieldedAt time.Time // when it last began to make room for another host; zero: never
}

// A queuedRequest is a request's place in a host's queue for slots.
type queuedRequest struct {
	ctx   context.Context
	turn  uint64
	ready chan struct{} // buffered: receives one value when conn or err is set
	conn  *pooledConn   // has a slot reserved for the request
	err   error
}

// errNotHTTP2 means that the host does not speak HTTP/2, so that the fallback has to serve the
// request.
var errNotHTTP2 = errors.New("hyper: server does not speak HTTP/2")

// maxDialBackoff is the longest pause before the next dial after connections that ended without a
// response.
const maxDialBackoff = 5 * time.Second

// enter returns the host for key, and counts the caller as a user of it. It adds the host if it
// does not exist. The caller must call leave when its request is over.
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
		h.owner = owner{news: h.stateChanged, book: t.books.open(t, key, proxy)}
	}
	h.refs++
	return h
}

// leave undoes enter.
func (t *Transport) leave(h *host) {
	t.mu.Lock()
	h.refs--
	t.forgetLocked(h)
	t.mu.Unlock()
}

// forgetLocked removes h if it has no users and no connections, and nothing about it has to be
// remembered. Without this, a crawler would accumulate hosts. The caller holds t.mu.
func (t *Transport) forgetLocked(h *host) {
	if h.refs > 0 || t.hosts[h.key] != h {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.conns) > 0 || h.connecting > 0 || h.forgetLater {
		return
	}
	left := max(time.Until(h.http1Until), time.Until(h.dialAfter), h.capacity.remembered(),
		h.sharing.remembered(), h.pings.remembered())
	if left <= 0 {
		delete(t.hosts, h.key)
		t.books.release(h.owner.book)
		return
	}
	h.forgetLater = true
	time.AfterFunc(left, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		h.mu.Lock()
		h.forgetLater = false
		h.mu.Unlock()
		t.forgetLocked(h)
	})
}

// dial makes a connection to the host. If at is not nil, it dials that address.
func (h *host) dial(ctx context.Context, cfg *Config, at *endpoint) (*Conn, error) {
	if h.t.net != nil {
		return h.t.net.connect(ctx, h, cfg)
	}
	if h.dialsTLS() {
		return h.dialTLS(ctx, cfg, at)
	}
	given := *cfg
	given.DialContext = dialerTo(cfg.dialer(), at)
	if h.proxy != nil {
		through, err := h.t.dialThrough(h.proxy, cfg)
		if err != nil {
			return nil, err
		}
		given.DialContext = through
	}
	to, err := parseAddr(h.key.scheme + "://" + h.addr)
	if err != nil {
		return nil, err
	}
	return dialTarget(ctx, to, &given, &h.owner)
}

// sole returns the host's sole connection, which most likely has a free slot. It returns nil if
// there are several connections, if a request is queued, or if something restricts the use of the
// connection.
func (h *host) sole() *pooledConn {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.conns) != 1 || len(h.waiting) > 0 || !h.http1Until.IsZero() || h.capacity.streams > 0 ||
		!h.t.keepsAlive() || h.isSpread() {
		return nil
	}
	if c := h.conns[0]; c.isUnrestricted() && c.quota == 0 {
		return c
	}
	return nil
}

// isUnrestricted reports whether neither c's age, nor another host, nor the silence of the peer
// restricts the use of c.
func (c *pooledConn) isUnrestricted() bool {
	return c.retireAt.IsZero() && c.yieldedAt.IsZero() && !c.suspected.Load()
}

// conn returns a connection with a slot reserved for one request. It waits if there is none. *turn
// is the request's turn, which is 0 at first. A request keeps its turn if it has to call conn again
// because its slot was gone when it wanted to use it.
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
	p := &queuedRequest{ctx: ctx, turn: *turn, ready: make(chan struct{}, 1)}
	i, _ := slices.BinarySearchFunc(h.waiting, p, func(a,
		b *queuedRequest) int {
		return cmp.Compare(a.turn, b.turn)
	})
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
	if p.conn != nil { // a slot was given while the wait ended
		p.conn.release()
		h.closeSurplus()
	}
	return nil, err
}

// waitErrorLocked returns the error of a request whose context ended with err while the request
// waited for a stream.
func (h *host) waitErrorLocked(err error) error {
	if h.isInLine() {
		return &WaitError{Err: err, goal: forConn, n: int64(h.t.MaxConns)}
	}
	if len(h.conns) == 0 {
		return err
	}
	e := &WaitError{Err: err}
	full := true
	for _, c := range h.conns {
		c.mu.Lock()
		e.n += int64(c.slots.limit)
		if !c.peer.known {
			e.goal = forFirstStream
		}
		full = full && c.crowdedLocked()
		c.mu.Unlock()
	}
	if full {
		e.goal = forWrite
	}
	return e
}

// reserveLocked reserves a slot on the least loaded connection that has one, and returns that
// connection, or nil. It also removes connections that take no more requests.
func (h *host) reserveLocked() *pooledConn {
	now := time.Time{}
	for len(h.conns) > 0 {
		if only := h.conns[0]; len(h.conns) == 1 && only.isUnrestricted() {
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
		// The connection has just ended: try again.
	}
	return nil
}

// reserveOtherLocked reserves a slot on a connection other than full, which is the least loaded one
// but has no free slot. Another may have one, because the limits of connections differ.
func (h *host) reserveOtherLocked(full *pooledConn) *pooledConn {
	for _, c := range h.conns {
		if c != full && !c.yields() && (!c.suspected.Load() || !h.roomLocked()) &&
			h.reserveOnLocked(c) == nil {
			return c
		}
	}
	return nil
}

// reserveOnLocked reserves a slot on c, within the limits that were learned from the host.
func (h *host) reserveOnLocked(c *pooledConn) error {
	if !h.t.keepsAlive() {
		return c.reserve(1, 1)
	}
	return c.reserve(h.capacity.streams, c.allowed())
}

// removeLocked removes the connection at index i from the host; why is the reason. The connection
// ends after its last stream.
func (h *host) removeLocked(i int, why error) {
	c := h.conns[i]
	h.conns = slices.Delete(h.conns, i, i+1)
	h.countLocked(-1)
	h.lostLocked(c, why)
	h.capacity.limit, h.capacity.usedAt = c.announcedLimit(h.capacity.limit), time.Now()
	if c.idle != nil {
		c.idle.Stop()
	}
	// If two or more connections in a row end without a response, the next dial is delayed. A
	// connection whose GOAWAY says that it has processed requests may still respond to them.
	processed, _, _ := c.fate()
	if c.answers > 0 || processed > 0 || errors.Is(why, ErrClosed) {
		// It was of use, or this side closed it.
	} else if c.spare && !c.wasUsed() { // no request needed it, so that none has to wait
		h.spread.pauseUntil = time.Now().Add(minAvoid)
	} else if h.failures++; h.failures > 1 {
		h.dialAfter = time.Now().Add(min(maxDialBackoff, 50*time.Millisecond<<min(h.failures-2, 10)))
	}
	go c.drain(or(c.reason, ReasonExhausted)) // not under h.mu: it may call news
}

// serveLocked gives free slots to the waiting requests, in their order. If requests are left, it
// begins to make a connection.
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

// popLocked removes the first waiting request from the queue, and gives it c or err.
func (h *host) popLocked(c *pooledConn, err error) {
	p := h.waiting[0]
	h.waiting[0] = nil
	h.waiting = shrunk(h.waiting[1:])
	p.conn, p.err = c, err
	p.ready <- struct{}{}
}

// roomLocked reports whether another connection may be made. None may be made while a connection
// has not received the peer's SETTINGS, and so its limit of streams, unless that peer is silent.
func (h *host) roomLocked() bool {
	most := or(h.t.MaxConnsPerHost, defaultConnsPerHost)
	if most < 0 && h.capacity.isLearned() { // the host was seen to have limited capacity
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

// keepOrClose keeps nc, which does not speak HTTP/2, for the fallback if that can use it. Otherwise
// it closes nc.
func (h *host) keepOrClose(nc net.Conn) {
	if h.key.proxy == "" && h.t.Fallback == nil && (h.dialsTLS() || !h.t.renegotiates()) {
		h.t.keepSpare(h.addr, nc)
	} else {
		nc.Close()
	}
}

// addLocked adds the new connection that a has made to the host.
func (h *host) addLocked(c *Conn, a *attempt) {
	p := &pooledConn{Conn: c, endpoint: a.endpoint, spare: a.background}
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

// stateChanged is called by a connection when a slot may be free, or when it takes no more
// requests. It serves the requests that wait.
func (h *host) stateChanged() {
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

// closeIdle closes the connections without a stream. If no request waits, it also cancels the
// connections that are being made.
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

// clonedConns returns a copy of the list of connections.
func (h *host) clonedConns() []*pooledConn {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.conns)
}

// announcedLimit returns the peer's SETTINGS_MAX_CONCURRENT_STREAMS, or the value of otherwise if
// the peer's SETTINGS have not arrived.
func (c *Conn) announcedLimit(otherwise uint32) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.peer.known {
		return otherwise
	}
	return c.peer.maxStreams
}

// assumeLimit gives a new connection the limit of streams of an earlier connection to the same
// peer, but at most initialSlots, until it receives SETTINGS. 0 means that no limit is known.
func (c *Conn) assumeLimit(limit uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.peer.known && limit > 0 {
		c.slots.limit = min(limit, initialSlots)
	}
}

// fate describes a connection that has turned a request away. processed is how many requests the
// peer has processed, if a GOAWAY said so. others is how many other streams are open. ended reports
// whether the connection takes no more requests.
func (c *Conn) fate() (processed int64, others int, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.goAway != nil && c.goAway.LastStreamID < c.nextID {
		processed = (int64(c.goAway.LastStreamID) + 1) / 2
	}
	return processed, c.slots.used - c.slots.held, c.takesRequestsLocked() != nil
}

// wasUsed reports whether a request was opened on the connection.
func (c *Conn) wasUsed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts.opened > 0
}

// load returns how many slots are in use. The error says why the connection takes no more requests;
// it is nil if it takes some.
func (c *Conn) load() (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.slots.used, c.takesRequestsLocked()
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
	c.mu.Lock()
	defer c.unlock()
	if c.err != nil || c.draining {
		return 0
	}
	if !c.unusedLocked() {
		return timeout
	}
	if idle := c.clock() - c.idleSince; idle < timeout {
		return timeout - idle
	}
	c.drainLocked(why)
	return 0
}

// unusedLocked reports whether no request needs the connection. Slots of streams that we have reset
// do not count.
func (c *Conn) unusedLocked() bool { return len(c.streams) == 0 && c.slots.used <= c.slots.held }

// idleFrom returns since when no request has needed the connection. The bool is false if a request
// needs it, or if it is ending.
func (c *Conn) idleFrom() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.start.Add(c.idleSince), c.err == nil && !c.draining && c.unusedLocked()
}
