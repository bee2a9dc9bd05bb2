package hyper

import (
	"context"
	"errors"
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
// already. In that case a parallel attempt begins after dialPatience. The context of an attempt has
// the values of the request's context, for its trace hooks, but does not end with it.
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
	a.BesideAfter(delay+pool.DialPatience, func() { h.attemptBeside(a) })
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
// none waits, the attempts in progress get pool.DialPatience to make a connection for the next
// request, and are then canceled.
func (h *host) gaveUpLocked(p *queuedRequest) {
	if h.Queue.Empty() {
		h.leaveLine()
		if attempts := h.Attempts.Unwanted(); len(attempts) > 0 {
			time.AfterFunc(pool.DialPatience, func() { h.endUnwanted(attempts) })
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
	case err == errNotHTTP2:
		h.Exclude(http1Memory, err)
	// Otherwise no request waited. Those that have arrived since are served below.
	case err != nil && !ended:
		h.Failed(a, err)
	}
	h.mu.Unlock()
	h.stateChanged() // c may have ended already
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

// isWaitedFor ends the pause of a, and reports whether a has to dial.
func (h *host) isWaitedFor(a *attempt) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.Dials(a)
}
