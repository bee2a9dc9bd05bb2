package hyper

import (
	"context"
	"errors"
	"slices"
	"time"
)

// An attempt is a connection that is being made for the requests that wait for a host.
type attempt struct {
	cancel context.CancelFunc
	place  *place      // the request that it was begun for
	covers uint64      // the requests that waited when it was begun: those with a turn up to this
	beside *time.Timer // begins another attempt; nil: none does
	paused bool        // it has not begun to dial

	background bool      // no request waits for it
	endpoint   *endpoint // that is dialled in place of the host; nil: none; guarded by the host's lock
}

const (
	dialPatience = time.Second // until another attempt is begun beside one that has not succeeded
	maxAttempts  = 4           // at once

	suspicionGrace = minSilence // for the answer to a PING, before a silent peer's requests get another connection
)

// attemptLocked begins to make a connection for the first request that waits, unless one is being
// made already: then another is begun when that has taken dialPatience. The context of an attempt
// has the values of that request's, for its trace, and does not end with it.
func (h *host) attemptLocked() {
	if !h.t.keepsAlive() { // each request needs a connection of its own
		for n := len(h.attempts); n < len(h.waiting) && h.roomLocked() && h.takeLocked(); n++ {
			h.beginAttemptLocked(h.waiting[n])
		}
		return
	}
	if len(h.attempts) == 0 && h.takeLocked() {
		h.beginAttemptLocked(h.waiting[0])
	}
}

func (h *host) beginAttemptLocked(p *place) {
	a := &attempt{place: p, covers: h.turns, paused: true}
	var ctx context.Context
	ctx, a.cancel = context.WithCancel(context.WithoutCancel(a.place.ctx))
	delay := max(0, time.Until(h.dialAfter))
	if len(h.conns) > 0 && h.conns[0].suspected.Load() { // its peer may yet answer the PING
		delay = max(delay, h.conns[0].confirm())
	}
	h.attempts = append(h.attempts, a)
	a.beside = time.AfterFunc(delay+dialPatience, func() { h.attemptBeside(a) })
	go h.connect(ctx, a, delay)
}

// attemptBeside begins another attempt beside a, which takes long: a back end that does not answer
// must not hold up the requests for one that does.
func (h *host) attemptBeside(a *attempt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.attempts)
	if n > 0 && h.attempts[n-1] == a && n < maxAttempts && len(h.waiting) > 0 && h.roomLocked() && h.t.tryTake() {
		h.beginAttemptLocked(h.waiting[0])
	}
}

// gaveUpLocked is called when the request at p has ended while it waited. Its attempt may be the
// reason, so that another is begun at once if other requests wait. If none does, what is being made
// gets dialPatience to become a connection for the next request, and is ended then.
func (h *host) gaveUpLocked(p *place) {
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

// endUnwanted ends those attempts that are still being made, if no request waits for them.
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

func (h *host) endAttemptsLocked() {
	for _, attempts := range [][]*attempt{h.attempts, h.spread.background} {
		for _, a := range attempts {
			a.cancel()
		}
	}
}

// connect makes a connection. It runs on a goroutine of its own, which ends with the attempt.
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
	if errors.As(err, &inadequate) && !inadequate.FromPeer && inadequate.Code == InadequateSecurity {
		err = errNotHTTP2
	}
	h.mu.Lock()
	ended := ctx.Err() != nil
	h.endLocked(a, c != nil)
	switch {
	case c != nil:
		h.addLocked(c, a.endpoint)
	case err == errNotHTTP2:
		h.http1Until = time.Now().Add(http1Memory)
		h.popAllLocked(err)
	case err == nil || ended: // no request waited; those that came since then are served below
	case a.background:
		h.spread.pauseUntil = time.Now().Add(minAvoid)
	case !h.t.keepsAlive():
		if len(h.waiting) > 0 {
			h.popLocked(nil, err)
		}
	case len(h.conns) > 0: // requests wait for those
		h.dialAfter = time.Now().Add(time.Second)
	default:
		h.failedLocked(a, err)
	}
	h.mu.Unlock()
	h.news() // c may have ended already
}

// endLocked takes an attempt that is over from the host's.
func (h *host) endLocked(a *attempt, connected bool) {
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

// failedLocked fails the requests that a was made for, so that attempts begun one after another
// cannot keep them for ever. Those that came later wait for the other attempts, if there are any.
func (h *host) failedLocked(a *attempt, err error) {
	if len(h.attempts) == 0 && !h.promoteLocked() {
		h.popAllLocked(err)
		return
	}
	for len(h.waiting) > 0 && h.waiting[0].turn <= a.covers {
		h.popLocked(nil, err)
	}
	if len(h.waiting) == 0 { // the next request does not wait for those that are left
		for _, a := range h.attempts {
			a.cancel()
		}
		h.attempts = nil
	}
}

// dialOrAbandon is dial, also for a dialer that does not obey its context: what it returns after
// the end of ctx, or of the time for a connection, is closed.
func (h *host) dialOrAbandon(ctx context.Context, at *endpoint) (*Conn, error) {
	cfg := h.config()
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
	select { // a dialer that obeys returns now, and its error says more than ctx's
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

// errDialerGone: the dialer, or a hook, has ended the goroutine that it was called on.
var errDialerGone = errors.New("the dialer called runtime.Goexit")

// dialGrace is how long a dialer may take to return after its context has ended.
const dialGrace = 100 * time.Millisecond

// closeUnwanted closes what a dial has brought too late.
func closeUnwanted(c *Conn, err error) {
	var other *NotHTTP2Error
	if errors.As(err, &other) {
		other.Conn.Close()
	}
	if c != nil {
		c.Close()
	}
}

// isWaitedFor reports whether a is to dial.
func (h *host) isWaitedFor(a *attempt) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	a.paused = false
	return a.background || len(h.waiting) > 0
}

// endPausedLocked ends the attempts that have not begun to dial, if no request waits for them.
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

// popAllLocked tells all requests that wait that there will be no connection.
func (h *host) popAllLocked(err error) {
	for len(h.waiting) > 0 {
		h.popLocked(nil, err)
	}
}
