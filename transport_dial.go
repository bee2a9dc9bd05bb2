package hyper

import (
	"context"
	"errors"
	"slices"
	"time"
)

// An attempt makes a connection to a host for the requests that wait. The host's lock guards its
// fields.
type attempt struct {
	cancel context.CancelFunc
	place  *queuedRequest // the request that it was begun for
	covers uint64         // it is for the requests with a turn up to this
	beside *time.Timer    // begins a parallel attempt; nil: no timer
	paused bool           // it has not begun to dial

	background bool      // no request waits for it
	endpoint   *endpoint // the address to dial instead of the host; nil: none
}

const (
	dialPatience = time.Second // until a parallel attempt begins if this one has not succeeded
	maxAttempts  = 4           // at the same time

	// suspicionGrace is how long to wait for the acknowledgment of a PING before the requests on a
	// silent connection get another connection.
	suspicionGrace = minSilence
)

// attemptLocked begins to make a connection for the first waiting request, unless one is being made
// already. In that case a parallel attempt begins after dialPatience. The context of an attempt has
// the values of the request's context, for its trace hooks, but does not end with it.
func (h *host) attemptLocked() {
	if !h.t.keepsAlive() { // each request needs its own connection
		for n := len(h.attempts); n < len(h.waiting) && h.roomLocked() && h.takeLocked(); n++ {
			h.beginAttemptLocked(h.waiting[n])
		}
		return
	}
	if len(h.attempts) == 0 && h.takeLocked() {
		h.beginAttemptLocked(h.waiting[0])
	}
}

// beginAttemptLocked begins an attempt for the request at p.
func (h *host) beginAttemptLocked(p *queuedRequest) {
	a := &attempt{place: p, covers: h.turns, paused: true}
	var ctx context.Context
	ctx, a.cancel = context.WithCancel(context.WithoutCancel(a.place.ctx))
	delay := max(0, time.Until(h.dialAfter))
	if len(h.conns) > 0 && h.conns[0].suspected.Load() { // the peer may still acknowledge the PING
		delay = max(delay, h.conns[0].confirm())
	}
	h.attempts = append(h.attempts, a)
	a.beside = time.AfterFunc(delay+dialPatience, func() { h.attemptBeside(a) })
	h.connecting++
	go h.connect(ctx, a, delay)
}

// attemptBeside begins another attempt in parallel with a, which takes long. A backend that does
// not respond must not delay the requests, because another backend may respond.
func (h *host) attemptBeside(a *attempt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.attempts)
	if n > 0 && h.attempts[n-1] == a && n < maxAttempts && len(h.waiting) > 0 && h.roomLocked() &&
		h.t.tryTake() {
		h.beginAttemptLocked(h.waiting[0])
	}
}

// gaveUpLocked is called when the request at p has stopped waiting because its context ended. A
// slow attempt may be the reason. So if other requests wait, another attempt begins at once. If
// none waits, the attempts in progress get dialPatience to make a connection for the next request,
// and are then canceled.
func (h *host) gaveUpLocked(p *queuedRequest) {
	if len(h.waiting) == 0 {
		h.leaveLine()
		if attempts := slices.Clone(h.attempts); len(attempts) > 0 {
			time.AfterFunc(dialPatience, func() { h.endUnwanted(attempts) })
		}
		return
	}
	n := len(h.attempts)
	if n == 0 || h.attempts[n-1].place != p {
		return
	}
	a := h.attempts[n-1]
	a.beside.Stop()
	if n == maxAttempts || !h.roomLocked() || !h.t.tryTake() {
		a.cancel()
	} else {
		h.beginAttemptLocked(h.waiting[0])
	}
}

// endUnwanted cancels those of the attempts that are still in progress, if no request waits for
// them.
func (h *host) endUnwanted(attempts []*attempt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.waiting) > 0 {
		return
	}
	for _, a := range attempts {
		a.cancel()
	}
}

// endAttemptsLocked cancels all attempts of the host.
func (h *host) endAttemptsLocked() {
	for _, attempts := range [][]*attempt{h.attempts, h.spread.background} {
		for _, a := range attempts {
			a.cancel()
		}
	}
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
	if c != nil && a.endpoint != nil && !h.hasLocked(a.endpoint) { // since Resolve was asked again
		go c.drain(ReasonResolve)
		c = nil
	}
	h.endLocked(a, c != nil)
	switch {
	case c != nil:
		h.addLocked(c, a)
	case err == errNotHTTP2:
		h.http1Until = time.Now().Add(http1Memory)
		h.popAllLocked(err)
	// No request waited. Those that have arrived since are served below.
	case err == nil || ended:
	case a.background:
		h.spread.pauseUntil = time.Now().Add(minAvoid)
	case !h.t.keepsAlive():
		if len(h.waiting) > 0 {
			h.popLocked(nil, err)
		}
	case len(h.conns) > 0: // requests wait for these connections
		h.dialAfter = time.Now().Add(time.Second)
	default:
		h.failedLocked(a, err)
	}
	h.mu.Unlock()
	h.stateChanged() // c may have ended already
}

// endLocked removes a, which is over, from the attempts of the host.
func (h *host) endLocked(a *attempt, connected bool) {
	h.connecting--
	a.cancel()
	if a.beside != nil {
		a.beside.Stop()
	}
	is := func(other *attempt) bool { return other == a }
	h.attempts = slices.DeleteFunc(h.attempts, is)
	h.spread.background = slices.DeleteFunc(h.spread.background, is)
	if !connected {
		h.t.giveBack()
	}
}

// failedLocked fails the requests that a was made for, so that a sequence of failing attempts
// cannot keep them waiting forever. Requests that came later wait for the other attempts, if there
// are any.
func (h *host) failedLocked(a *attempt, err error) {
	if len(h.attempts) == 0 && !h.promoteLocked() {
		h.popAllLocked(err)
		return
	}
	for len(h.waiting) > 0 && h.waiting[0].turn <= a.covers {
		h.popLocked(nil, err)
	}
	if len(h.waiting) == 0 { // the next request does not wait for the other attempts
		for _, a := range h.attempts {
			a.cancel()
		}
		h.attempts = nil
	}
}

// dialOrAbandon is dial, but it also returns in time if a dialer ignores its context. What such a
// dialer returns after the end of ctx, or after HandshakeTimeout, is closed.
func (h *host) dialOrAbandon(ctx context.Context, at *endpoint) (*Conn, error) {
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

// isWaitedFor ends the pause of a, and reports whether a has to dial.
func (h *host) isWaitedFor(a *attempt) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	a.paused = false
	return a.background || len(h.waiting) > 0
}

// endPausedLocked cancels the attempts that have not begun to dial, if no request waits.
func (h *host) endPausedLocked() {
	if len(h.waiting) > 0 {
		return
	}
	for _, a := range h.attempts {
		if a.paused {
			a.cancel()
		}
	}
}

// popAllLocked fails all waiting requests with err.
func (h *host) popAllLocked(err error) {
	for len(h.waiting) > 0 {
		h.popLocked(nil, err)
	}
}
