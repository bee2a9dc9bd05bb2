package hyper

import (
	"context"
	"errors"
	"net"
	"time"

	"gohyper.dev/hyper/internal/pool"
)

// An attempt makes a connection to a host for the requests that wait. It is guarded by the host's
// lock.
type attempt = pool.Attempt[*pooledConn]

// suspicionGrace is how long to wait for the acknowledgment of a PING before the requests on a
// silent connection get another connection.
const suspicionGrace = minSilence

// attemptLocked begins to make a connection for the first waiting request, unless one is being made
// already. In that case a parallel attempt begins after pool.AttemptDelay. The context of an
// attempt has the values of the request's context, for its trace hooks, but does not end with it.
func (h *host) attemptLocked() {
	if h.Single { // each request needs its own connection
		for n := h.Attempts.ForRequests(); n < h.Queue.Len() && h.Room() && h.takeLocked(); n++ {
			h.beginAttemptLocked(n)
		}
		return
	}
	if h.Attempts.ForRequests() == 0 && h.takeLocked() {
		h.beginAttemptLocked(0)
	}
}

// beginAttemptLocked begins an attempt for the request at index i of the queue.
func (h *host) beginAttemptLocked(i int) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(h.Queue.At(i).Ctx))
	a := h.Begin(i, cancel)
	delay := h.Pause()
	a.BesideAfter(delay+pool.AttemptDelay, func() { h.attemptBeside(a) })
	go h.connect(ctx, a, delay)
}

// attemptBeside begins another attempt in parallel with a, which takes long.
func (h *host) attemptBeside(a *attempt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.MayBeside(a) && h.t.tryTake() {
		h.beginAttemptLocked(0)
	}
}

// gaveUpLocked is called when the request at p has stopped waiting because its context ended. If
// none waits, the attempts in progress get pool.AttemptDelay to make a connection for the next
// request, and are then canceled.
func (h *host) gaveUpLocked(p *queuedRequest) {
	if h.Queue.Empty() {
		h.leaveLine()
		if attempts := h.Attempts.Unwanted(); len(attempts) > 0 {
			time.AfterFunc(pool.AttemptDelay, func() { h.endUnwanted(attempts) })
		}
		return
	}
	slow, mayBegin := h.GaveUp(p)
	switch {
	case slow == nil:
	case mayBegin && h.t.tryTake():
		h.beginAttemptLocked(0)
	default:
		slow.Cancel()
	}
}

// endUnwanted cancels those of the attempts that are still in progress, if no request waits for
// them.
func (h *host) endUnwanted(attempts []*attempt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.Queue.Empty() {
		return
	}
	for _, a := range attempts {
		a.Cancel()
	}
}

// topUpLocked begins to make the missing connections if h is spread: if it should have several, or,
// with Transport.Resolve, one to each address. It is called for each request, and when a connection
// has ended and there is traffic. They are made in the background: the request uses the connections
// that exist.
func (h *host) topUpLocked() {
	if !h.IsSpread() {
		return
	}
	if h.Resolves {
		if !h.Addrs.WereLookedUp() { // the first request's attempt looks them up
			return
		}
		if h.Addrs.LookUpAgain() {
			go h.resolveAgain()
		}
	}
	_, idle := h.t.maxIdle()
	for h.Lacks(h.t.bound.Open(), idle) && h.t.tryTake() {
		h.beginInBackgroundLocked()
	}
}

// topUpIfUsedLocked calls topUpLocked if h has traffic. It is called when a connection has ended.
func (h *host) topUpIfUsedLocked() {
	if h.IsSpread() && h.IsUsed() {
		h.topUpLocked()
	}
}

// beginInBackgroundLocked begins to make a connection that no request waits for. Its context has no
// values of a request.
func (h *host) beginInBackgroundLocked() {
	ctx, cancel := context.WithCancel(context.Background())
	go h.connect(ctx, h.BeginInBackground(cancel), h.Record.DialPause())
}

// connect runs attempt a: it waits for delay, then makes a connection and adds it to the host. It
// runs in its own goroutine.
func (h *host) connect(ctx context.Context, a *attempt, delay time.Duration) {
	var c *Conn
	err := pause(ctx, nil, delay)
	if err == nil && h.isWaitedFor(a) {
		c, err = h.connectTo(ctx, a)
	}
	var other *NotHTTP2Error
	if errors.As(err, &other) {
		h.keepOrClose(other.Conn)
		err = errNotHTTP2
	}
	var inadequate *ConnError
	if errors.As(err, &inadequate) && !inadequate.FromPeer && inadequate.Code == ErrCodeInadequateSecurity {
		err = errNotHTTP2
	}
	h.mu.Lock()
	ended := ctx.Err() != nil
	if c != nil && a.Addr != nil && !a.Addr.Listed() { // since Resolve was asked again
		go c.drain(ReasonResolve)
		c = nil
	}
	h.Attempts.Ended(a)
	if c == nil {
		h.t.giveBack()
	}
	switch {
	case c != nil:
		h.addLocked(c, a)
		// Without unlocking before: the connection has no stream yet, and would make room for
		// another host.
		h.serveLocked()
	case err == errNotHTTP2:
		h.Exclude(http1Memory, err)
	// Otherwise no request waited. Those that have arrived since are served below.
	case err != nil && !ended:
		h.Failed(a, err)
	}
	h.mu.Unlock()
	h.stateChanged() // c may have ended already
}

// isWaitedFor ends the pause of a, and reports whether a has to dial.
func (h *host) isWaitedFor(a *attempt) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.Dials(a)
}

// connectTo makes a connection to one of h's addresses for a. If an address cannot be reached and a
// request waits, it tries the next one.
func (h *host) connectTo(ctx context.Context, a *attempt) (*Conn, error) {
	if !h.Resolves {
		return h.countedDial(ctx, nil)
	}
	if err := h.resolve(ctx); err != nil {
		return nil, err
	}
	tried := make(map[*pool.Addr]bool)
	var failed error
	for {
		h.mu.Lock()
		at := h.NextAddr(a, tried)
		if at != nil && !a.Background() {
			h.topUpLocked() // using the addresses that were just looked up
		}
		h.mu.Unlock()
		if at == nil {
			return nil, failed
		}
		c, err := h.countedDial(ctx, at)
		unreachable := err != nil && isDialError(err)
		h.mu.Lock()
		if unreachable {
			at.Failed()
		} else {
			at.Reached()
		}
		background := a.Background()
		h.mu.Unlock()
		if !unreachable || ctx.Err() != nil || background {
			return c, err
		}
		tried[at], failed = true, err
	}
}

// isDialError reports whether err is a *DialError, so that another address may be tried.
func isDialError(err error) bool {
	_, ok := err.(*DialError)
	return ok
}

// dialOrAbandon is dial, but it also returns in time if a dialer ignores its context. What such a
// dialer returns after the end of ctx, or after HandshakeTimeout, is closed.
func (h *host) dialOrAbandon(ctx context.Context, at *pool.Addr) (*Conn, error) {
	cfg := h.t.config()
	timeout := cfg.HandshakeTimeout
	if h.t.net == nil {
		timeout = or(timeout, defaultHandshakeTimeout)
	}
	ctx, cancel := dialTimeout(ctx, timeout)
	type result struct {
		c   *Conn
		err error
	}
	results := make(chan result, 1)
	h.t.books.hold(h.owner.book)
	go func() {
		defer h.t.books.release(h.owner.book)
		defer cancel()
		r := result{nil, &DialError{phase: "dial", Host: h.addr, Err: errDialerGone}}
		defer func() { results <- r }()
		r.c, r.err = h.dial(ctx, cfg, at)
	}()
	select {
	case r := <-results:
		return r.c, r.err
	case <-ctx.Done():
	}
	// A dialer that obeys its context returns now. Its error is more specific than that of ctx.
	select {
	case r := <-results:
		return r.c, r.err
	case <-time.After(dialGrace):
	}
	go func() {
		r := <-results
		closeUnwanted(r.c, r.err)
	}()
	return nil, (&DialError{phase: "dial", Host: h.addr, Err: context.Cause(ctx)}).judge(ctx, timeout)
}

// errDialerGone means that the dialer, or a hook, has ended the goroutine in which it was called.
var errDialerGone = errors.New("the dialer called runtime.Goexit")

// dialGrace is how long a dialer may take to return after its context has ended.
const dialGrace = 100 * time.Millisecond

// closeUnwanted closes the connection that a dial returned too late.
func closeUnwanted(c *Conn, err error) {
	var other *NotHTTP2Error
	if errors.As(err, &other) {
		other.Conn.Close()
	}
	if c != nil {
		c.Close()
	}
}

// dial makes a connection to the host. If at is not nil, it dials that address.
func (h *host) dial(ctx context.Context, cfg *Config, at *pool.Addr) (*Conn, error) {
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

// dialerTo returns a dialFunc that dials the address at instead of the host itself. If at is nil,
// it returns dial.
func dialerTo(dial dialFunc, at *pool.Addr) dialFunc {
	if at == nil {
		return dial
	}
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dial(ctx, network, at.Text)
	}
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
