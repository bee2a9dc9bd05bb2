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
	key := hostKey{target: target{scheme: u.Scheme, host: host, port: or(u.Port(), defaultPort(u.Scheme))}}
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
	users int // guarded by the Transport's lock

	mu          sync.Mutex // guards everything below
	conns       []*pooledConn
	waiting     []*place           // in the order of their turns
	turns       uint64             // that were given
	dialing     context.CancelFunc // nil: no connection is being made
	dialAfter   time.Time          // not before then
	useless     int                // connections in a row that answered nothing
	http1Until  time.Time          // it does not speak HTTP/2
	retryBudget bucket
	since       time.Time // of the budget's clock
	reminder    bool      // forget will be called, when there is nothing to remember any more
}

// A pooledConn is a connection of a host's. The host's lock guards it.
type pooledConn struct {
	*Conn
	retireAt time.Time // zero: never
	idle     *time.Timer
	useful   bool // it has answered
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

const (
	retryBurst     = 100 // retries of a host's requests at once; each answer earns one more
	maxRetries     = 1000
	retryRate      = 10 // and so many a second
	maxDialBackoff = 5 * time.Second
)

// enter returns the host of key for a request, which must leave it when it has its answer.
func (t *Transport) enter(key hostKey, proxy *url.URL) *host {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.hosts[key]
	if h == nil {
		h = &host{t: t, key: key, addr: key.addr(), proxy: proxy, since: time.Now()}
		h.retryBudget = bucket{left: retryBurst, burst: maxRetries, perSecond: retryRate}
		if t.hosts == nil {
			t.hosts = make(map[hostKey]*host)
		}
		t.hosts[key] = h
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
	if len(h.conns) > 0 || h.dialing != nil || h.reminder {
		return
	}
	left := max(time.Until(h.http1Until), time.Until(h.dialAfter))
	if left <= 0 {
		delete(t.hosts, h.key)
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
func (h *host) dial(ctx context.Context) (*Conn, error) {
	h.t.mu.Lock()
	cfg := h.t.configLocked()
	h.t.mu.Unlock()
	dial := dialFunc(cfg.dialer())
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
	return dialTarget(ctx, to, cfg, dial, h.news)
}

// only returns the connection where there is but one and nobody waits: most likely it has a slot.
func (h *host) only() *pooledConn {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.conns) != 1 || len(h.waiting) > 0 || !h.conns[0].retireAt.IsZero() || !h.http1Until.IsZero() {
		return nil
	}
	return h.conns[0]
}

// conn returns a connection with a slot reserved for one request. The request keeps its turn, 0 at first, while it comes back
// because the slot was not there any more when it was to be used.
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
			h.mu.Unlock()
			return c, nil
		}
	}
	p := &place{ctx: ctx, turn: *turn, ready: make(chan struct{}, 1)}
	i, _ := slices.BinarySearchFunc(h.waiting, p, func(a, b *place) int { return cmp.Compare(a.turn, b.turn) })
	h.waiting = slices.Insert(h.waiting, i, p)
	h.serveLocked()
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
	if len(h.conns) > 0 && err != errRequestCanceled {
		err = h.waitErrorLocked(err)
	}
	if i := slices.Index(h.waiting, p); i >= 0 {
		h.waiting = shrunk(slices.Delete(h.waiting, i, i+1))
	}
	h.mu.Unlock()
	if p.conn != nil { // it came just now
		p.conn.release()
	}
	return nil, err
}

// waitErrorLocked is the error of a request whose context ended while it waited for a stream.
func (h *host) waitErrorLocked(err error) error {
	e := &slotWaitError{err: err, known: true, full: true}
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
		if only := h.conns[0]; len(h.conns) == 1 && only.retireAt.IsZero() {
			switch err := only.reserve(); err {
			case nil:
				return only
			case errNoSlot:
				return nil
			default:
				h.removeLocked(0, err)
				return nil
			}
		}
		var best *pooledConn
		least := 0
		for i := 0; i < len(h.conns); i++ {
			c := h.conns[i]
			if !c.retireAt.IsZero() && now.IsZero() {
				now = time.Now()
			}
			load, err := c.load()
			if err == nil && !c.retireAt.IsZero() && !now.Before(c.retireAt) {
				err = ErrClosed
			}
			if err != nil {
				h.removeLocked(i, err)
				i--
				continue
			}
			if best == nil || load < least {
				best, least = c, load
			}
		}
		if best == nil {
			return nil
		}
		switch err := best.reserve(); err {
		case nil:
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
		if c != full && c.reserve() == nil {
			return c
		}
	}
	return nil
}

// removeLocked takes a connection from the line, and says why. It lives until its streams are over.
func (h *host) removeLocked(i int, why error) {
	c := h.conns[i]
	h.conns = slices.Delete(h.conns, i, i+1)
	if c.idle != nil {
		c.idle.Stop()
	}
	// The second connection in a row that the peer ends before it has answered anything makes the next one wait.
	if c.useful || errors.Is(why, ErrClosed) {
		// no matter
	} else if h.useless++; h.useless > 1 {
		h.dialAfter = time.Now().Add(min(maxDialBackoff, 50*time.Millisecond<<min(h.useless-2, 10)))
	}
	go c.drain() // it may call news
}

// serveLocked gives free slots to those who wait, in turn, and makes a connection if that is what they need: it tells the
// first one's trace, and is not ended with it.
func (h *host) serveLocked() {
	for len(h.waiting) > 0 {
		c := h.reserveLocked()
		if c == nil {
			break
		}
		h.popLocked(c, nil)
	}
	if len(h.waiting) == 0 || h.dialing != nil || !h.roomLocked() {
		return
	}
	var ctx context.Context
	ctx, h.dialing = context.WithCancel(context.WithoutCancel(h.waiting[0].ctx))
	go h.connect(ctx, time.Until(h.dialAfter))
}

// popLocked serves the first who waits.
func (h *host) popLocked(c *pooledConn, err error) {
	p := h.waiting[0]
	h.waiting[0] = nil
	h.waiting = shrunk(h.waiting[1:])
	p.conn, p.err = c, err
	p.ready <- struct{}{}
}

// roomLocked reports whether another connection may be made. While one has not said yet how many streams it takes, it is
// waited for.
func (h *host) roomLocked() bool {
	most := or(h.t.MaxConnsPerHost, defaultConnsPerHost)
	if most > 0 && len(h.conns) >= most {
		return false
	}
	for _, c := range h.conns {
		if !c.PeerSettings().Received {
			return false
		}
	}
	return true
}

// connect makes a connection. It runs on a goroutine of its own, which ends with the attempt.
func (h *host) connect(ctx context.Context, delay time.Duration) {
	var c *Conn
	err := pause(ctx, nil, max(0, delay))
	if err == nil && h.isWaitedFor() {
		c, err = h.dial(ctx)
	}
	var other *NotHTTP2Error
	if errors.As(err, &other) {
		h.keepOrClose(other.Conn)
		err = errNotHTTP2
	}
	h.mu.Lock()
	switch {
	case c != nil:
		h.addLocked(c)
	case err == errNotHTTP2:
		h.http1Until = time.Now().Add(http1Memory)
		h.popAllLocked(err)
	case err == nil || ctx.Err() != nil: // nobody waited; who has come since then is served below
	case len(h.conns) == 0:
		h.popAllLocked(err)
	default: // there are others to wait for
		h.dialAfter = time.Now().Add(time.Second)
	}
	h.dialing()
	h.dialing = nil
	h.mu.Unlock()
	h.news() // c may have ended already
}

func (h *host) isWaitedFor() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.waiting) > 0
}

// popAllLocked tells all who wait that there will be no connection.
func (h *host) popAllLocked(err error) {
	for len(h.waiting) > 0 {
		h.popLocked(nil, err)
	}
}

// keepOrClose does what is best with a connection that does not speak HTTP/2.
func (h *host) keepOrClose(nc net.Conn) {
	if h.key.proxy == "" && h.t.Fallback == nil && !h.t.renegotiates() {
		h.t.keepSpare(h.addr, nc)
	} else {
		nc.Close()
	}
}

// addLocked puts a new connection in line.
func (h *host) addLocked(c *Conn) {
	p := &pooledConn{Conn: c}
	if age := h.t.MaxConnAge; age > 0 {
		p.retireAt = time.Now().Add(age)
	}
	if timeout := or(h.t.IdleConnTimeout, defaultIdleTimeout); timeout > 0 {
		p.idle = c.drainWhenIdle(timeout)
	}
	h.conns = append(h.conns, p)
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
	empty := len(h.conns) == 0 && len(h.waiting) == 0
	h.mu.Unlock()
	if empty {
		h.t.mu.Lock()
		h.t.forgetLocked(h)
		h.t.mu.Unlock()
	}
}

// answered books an answer: each earns a retry.
func (h *host) answered(by *pooledConn) {
	h.mu.Lock()
	h.retryBudget.earn(1)
	h.useless, by.useful = 0, true
	h.mu.Unlock()
}

// mayRetry takes a retry from the host's budget.
func (h *host) mayRetry() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.retryBudget.take(time.Since(h.since))
}

// closeIdle closes what nobody uses.
func (h *host) closeIdle() {
	h.mu.Lock()
	conns := slices.Clone(h.conns)
	if h.dialing != nil && len(h.waiting) == 0 {
		h.dialing()
	}
	h.mu.Unlock()
	for _, c := range conns {
		c.drainIfIdle(0)
	}
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
		if left := c.drainIfIdle(timeout); left > 0 {
			timer.Reset(left)
		}
	})
	close(ready)
	return timer
}

// drainIfIdle ends a connection that has had no streams for that long. If it has, and has not ended, it returns when to look
// again.
func (c *Conn) drainIfIdle(timeout time.Duration) (left time.Duration) {
	c.mu.Lock()
	defer c.unlock()
	if c.err != nil || c.draining {
		return 0
	}
	if len(c.streams) > 0 || c.slots.used > c.slots.held { // what we reset, we do not wait for
		return timeout
	}
	if idle := time.Since(c.start) - c.idleSince; idle < timeout {
		return timeout - idle
	}
	c.drainLocked()
	return 0
}
