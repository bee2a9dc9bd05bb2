package hyper

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"sync"
	"time"

	"gohyper.dev/hyper/internal/pool"
	"gohyper.dev/hyper/internal/syntax"
)

// A host holds the connections to one host, and the requests that wait for one. Waiting requests
// are served in turn, either by a slot that becomes free on any connection or by a new connection.
// Normally one connection is made at a time. The pool.Host in it decides all that; the host dials,
// closes and reports.
//
// The lock of Transport.hosts is taken before a host's lock, and a host's lock before a
// connection's, never after it. A function whose name ends in Locked needs the host's lock, unless
// it says something else.
type host struct {
	t     *Transport
	key   hostKey
	addr  string
	proxy *url.URL
	owner owner
	use   pool.Use[hostKey] // guarded by the lock of Transport.hosts
	share pool.Share[*host] // of MaxConns; guarded by the lock of Transport.bound
	pings pingMemory        // has its own lock

	mu sync.Mutex // guards everything below
	pool.Host[*pooledConn]
	sharing *sharing // use of other hosts' connections; nil: not looked for yet

	// Until then, the host's SETTINGS are known not to allow extended CONNECT.
	noTunnelUntil time.Time
	growing       bool // growLater has a timer
}

// A hostKey identifies a host and the proxy to it. Requests with the same hostKey share
// connections.
type hostKey struct {
	proxy string
	target
}

// keyFor returns the hostKey of a request to u through proxy, which may be nil. It is called for
// each request, so it checks little: the key is validated when a connection is made.
func keyFor(u, proxy *url.URL) (hostKey, error) {
	host, port, plain := plainHost(u.Host)
	if !plain {
		var err error
		if host, err = urlHost(u); err != nil {
			return hostKey{}, err
		}
		port = u.Port()
	}
	key := hostKey{target: target{scheme: u.Scheme, host: host,
		port: or(port, syntax.DefaultPort(u.Scheme))}}
	if proxy != nil {
		key.proxy = proxy.String()
	}
	return key, nil
}

// plainHost returns the host and the port of a URL's Host: what urlHost and url.URL.Port return. It
// returns false for all but the usual form: a name in lower case or an IPv4 address, with a port or
// without one.
func plainHost(s string) (host, port string, ok bool) {
	i := 0
	for i < len(s) && plainHostChars[s[i]] {
		i++
	}
	if i == 0 {
		return "", "", false
	}
	if host = s[:i]; i == len(s) {
		return host, "", true
	}
	if port = s[i+1:]; s[i] != ':' {
		return "", "", false
	}
	for _, c := range []byte(port) {
		if c < '0' || c > '9' {
			return "", "", false
		}
	}
	return host, port, true
}

// plainHostChars marks the characters of names in lower case and of IPv4 addresses.
var plainHostChars = func() (t [256]bool) {
	for _, c := range "abcdefghijklmnopqrstuvwxyz0123456789-._" {
		t[c] = true
	}
	return t
}()

// A queuedRequest is a request's place in a host's queue for slots.
type queuedRequest = pool.Request[*pooledConn]

// errNotHTTP2 means that the host does not speak HTTP/2, so that the fallback has to serve the
// request.
var errNotHTTP2 = errors.New("hyper: server does not speak HTTP/2")

// enter returns the host for key, and counts the caller as a user of it. It adds the host if it
// does not exist. The caller must call Leave of t.hosts when its request is over.
func (t *Transport) enter(key hostKey, proxy *url.URL) *host {
	return t.hosts.Enter(key, func() *host {
		h := &host{t: t, key: key, addr: key.addr(), proxy: proxy}
		h.Host = pool.NewHost[*pooledConn](h.limits())
		h.share.Host = h
		h.owner = owner{news: h.stateChanged, book: t.books.open(t, key, proxy)}
		return h
	})
}

// limits returns the limits of h.
func (h *host) limits() pool.Limits {
	return pool.Limits{
		MostConns:  or(h.t.MaxConnsPerHost, defaultConnsPerHost),
		LeastConns: h.t.MinConnsPerHost,
		Single:     !h.t.keepsAlive(),
		Resolves:   h.t.Resolve != nil && h.proxy == nil,
	}
}

// Use implements pool.Kept.
func (h *host) Use() *pool.Use[hostKey] { return &h.use }

// Remembered implements pool.Kept.
func (h *host) Remembered() (left time.Duration, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	left, ok = h.Host.Remembered(initialSlots)
	return max(left, h.sharing.remembered(), h.pings.remembered(), time.Until(h.noTunnelUntil)), ok
}

// Forgotten implements pool.Kept.
func (h *host) Forgotten() { h.t.books.release(h.owner.book) }

// sole returns the host's sole connection if it most likely has a free slot. Otherwise it returns
// nil.
func (h *host) sole() *pooledConn {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, _ := h.Sole()
	return c
}

// conn returns a connection with a slot reserved for one request. It waits if there is none. *turn
// is the request's turn, which is 0 at first. A request keeps its turn if it has to call conn again
// because its slot was gone when it wanted to use it.
func (h *host) conn(ctx context.Context, cancel <-chan struct{}, turn *uint64) (*pooledConn, error) {
	c, _, err := h.connAfterWait(ctx, cancel, turn)
	return c, err
}

// connAfterWait is conn. It also returns how long the request has waited, if there is a
// Config.Trace.
func (h *host) connAfterWait(ctx context.Context, cancel <-chan struct{}, turn *uint64) (
	c *pooledConn, waited time.Duration, err error) {
	h.mu.Lock()
	*turn = h.Queue.Turn(*turn)
	if err := h.Unfit(); err != nil {
		h.mu.Unlock()
		return nil, 0, err
	}
	if h.Queue.IsNext(*turn) {
		if c := h.reserveLocked(); c != nil {
			h.topUpLocked()
			h.mu.Unlock()
			return c, 0, nil
		}
	}
	p := h.Queue.Add(ctx, *turn)
	h.serveLocked()
	h.topUpLocked()
	h.mu.Unlock()
	began := h.traceSlotWait()

	select {
	case <-p.Ready():
		if c, err = p.Result(); !began.IsZero() {
			waited = time.Since(began)
		}
		return c, waited, err
	case <-ctx.Done():
		err = contextError(ctx)
	case <-cancel:
		err = errRequestCanceled
	}
	h.mu.Lock()
	if err != errRequestCanceled {
		err = h.waitErrorLocked(err)
	}
	if h.Queue.Remove(p) {
		h.gaveUpLocked(p)
	}
	c, _ = p.Result()
	h.mu.Unlock()
	if c != nil { // a slot was given while the wait ended
		c.release()
		h.closeSurplus()
	}
	return nil, 0, err
}

// waitErrorLocked returns the error of a request whose context ended with err while the request
// waited for a stream.
func (h *host) waitErrorLocked(err error) error {
	if h.t.bound.InLine(&h.share) {
		return &WaitError{Err: err, goal: forConn, n: int64(h.t.MaxConns)}
	}
	if h.Conns.Len() == 0 {
		return err
	}
	e := &WaitError{Err: err, goal: forStream}
	full := true
	for _, c := range h.Conns.All() {
		c.lock()
		e.n += int64(c.slots.limit)
		if !c.settings.peer.known {
			e.goal = forFirstStream
		}
		full = full && c.crowdedLocked()
		c.unlock()
	}
	if full {
		e.goal = forWrite
	}
	return e
}

// reserveLocked reserves a slot on a connection, and returns that connection, or nil. It also
// removes connections that take no more requests.
func (h *host) reserveLocked() *pooledConn {
	for {
		c, ended := h.Reserve()
		if ended == nil {
			return c
		}
		h.removeLocked(c, ended)
	}
}

// serveLocked gives free slots to the waiting requests, in their order. If requests are left, it
// begins to make a connection.
func (h *host) serveLocked() {
	for !h.Queue.Empty() {
		c := h.reserveLocked()
		if c == nil {
			break
		}
		h.Queue.Pop(c, nil)
	}
	switch {
	case h.Queue.Empty():
		h.leaveLine()
	case h.Room():
		h.attemptLocked()
	}
	if h.Queue.Empty() {
		h.Attempts.CancelPaused()
	}
}

// addLocked adds the new connection that a has made to the host.
func (h *host) addLocked(c *Conn, a *attempt) {
	p := &pooledConn{Conn: c, member: pool.Member{Addr: a.Addr, Spare: a.Background()}}
	if age := h.t.MaxConnAge; age > 0 {
		p.member.RetireAt = time.Now().Add(age)
	}
	if timeout := or(h.t.IdleConnTimeout, defaultIdleTimeout); timeout > 0 {
		p.idle = c.drainWhenIdle(timeout)
	}
	for _, other := range h.Conns.All() {
		h.Record.Limit = other.announcedLimit(h.Record.Limit)
	}
	h.Record.Opened(&p.member)
	c.assumeLimit(h.Record.Limit)
	c.obeyPings(&h.pings)
	h.t.watchIdle(c)
	h.Conns.Add(p)
	h.countLocked(1)
}

// removeLocked removes c from the host; why is the reason. The connection ends after its last
// stream.
func (h *host) removeLocked(c *pooledConn, why error) {
	if why == pool.ErrTooOld {
		c.reason, why = ReasonAge, ErrClosed
	}
	h.Remove(c, c.describeEnd(why, h.Record.Limit))
	h.countLocked(-1)
	if c.idle != nil {
		c.idle.Stop()
	}
	go c.drain(or(c.reason, ReasonExhausted)) // not under h.mu: it may call news
}

// stateChanged is called by a connection when a slot may be free, or when it takes no more
// requests. It serves the requests that wait.
func (h *host) stateChanged() {
	h.mu.Lock()
	for {
		c, why := h.Conns.Ended()
		if why == nil {
			break
		}
		h.removeLocked(c, why)
	}
	h.serveLocked()
	h.topUpIfUsedLocked()
	empty := h.Conns.Len() == 0 && h.Queue.Empty()
	h.mu.Unlock()
	h.closeSurplus()
	if empty {
		h.t.hosts.Review(h)
	}
}

// closeIdle closes the connections without a stream. If no request waits, it also cancels the
// connections that are being made.
func (h *host) closeIdle() {
	h.mu.Lock()
	if h.Queue.Empty() {
		h.Attempts.CancelAll()
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
	return slices.Clone(h.Conns.All())
}
