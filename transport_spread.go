package hyper

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http/httptrace"
	"slices"
	"time"
)

// This file keeps several connections to one host, and connections to several addresses of one
// host.
//
// If a host is spread, the missing connections are made when a request for it arrives, and again
// when a connection has ended and there is traffic. They are made in the background: the request
// uses the connections that exist. With Transport.Resolve, there is at least one connection to each
// address.

const (
	resolveEvery = 30 * time.Second // while there is traffic

	// An address that could not be reached is avoided for minAvoid, then for twice as long each
	// time, up to maxAvoid.
	minAvoid = time.Second
	maxAvoid = 30 * time.Second
)

// A spread is what a host knows about its addresses. It is guarded by the host's lock.
type spread struct {
	pauseUntil time.Time  // until then no connection is made in the background
	uses       uint64     // requests so far
	background []*attempt // attempts that no request waits for

	resolved  time.Time // when endpoints was last looked up; zero: never
	resolving bool
	endpoints []*endpoint // in random order; empty without Resolve
}

// An endpoint is one of a host's addresses.
type endpoint struct {
	addr     string
	failures int       // consecutive failures to make a connection
	avoid    time.Time // until then other addresses are preferred
	load     int       // streams to the address; set by sumLoadsLocked
	conns    int       // connections to the address; set by countUsesLocked
	usedAt   uint64    // value of spread.uses at the last request
	listed   bool      // it is one of the host's addresses
}

// isSpread reports whether h should have several connections even if its requests do not need them.
func (h *host) isSpread() bool {
	return (h.t.MinConnsPerHost > 1 || h.resolves()) && h.t.keepsAlive()
}

// resolves reports whether the addresses of h come from Transport.Resolve.
func (h *host) resolves() bool { return h.t.Resolve != nil && h.proxy == nil }

// lacksLocked reports whether h should have one more connection. It is called after
// countUsesLocked.
func (h *host) lacksLocked() bool {
	if h.connsLocked() < h.t.MinConnsPerHost {
		return true
	}
	now := time.Now()
	return slices.ContainsFunc(h.spread.endpoints, func(e *endpoint) bool {
		return e.conns == 0 && !now.Before(e.avoid)
	})
}

// topUpLocked begins to make the missing connections. It is called for each request.
func (h *host) topUpLocked() {
	if !h.isSpread() {
		return
	}
	s := &h.spread
	if h.resolves() {
		switch old := time.Since(s.resolved) >= resolveEvery; {
		case s.resolved.IsZero(): // the first request's attempt looks them up
			return
		case old && !s.resolving:
			s.resolving = true
			go h.resolveAgain()
		}
	}
	if time.Now().Before(s.pauseUntil) {
		return
	}
	most := or(h.t.MaxConnsPerHost, defaultConnsPerHost)
	if most > 0 && h.connsLocked() >= most {
		return
	}
	h.countUsesLocked()
	for h.lacksLocked() {
		if most > 0 && h.connsLocked() >= most || !h.http1Until.IsZero() || h.isSurplusLocked() ||
			!h.t.tryTake() {
			return
		}
		h.beginInBackgroundLocked()
	}
}

// isSurplusLocked reports whether one more connection would have no stream, while
// Transport.MaxIdleConns may allow no more of those. It would be made and closed again and again.
func (h *host) isSurplusLocked() bool {
	_, total := h.t.maxIdle()
	begun := h.connsLocked() - len(h.conns)
	if total < 0 || h.t.bound.Open()+begun < total {
		return false
	}
	return begun > 0 || slices.ContainsFunc(h.conns, func(c *pooledConn) bool {
		load, _ := c.load()
		return load == 0
	})
}

// connsLocked returns the number of h's connections, including those that are being made.
func (h *host) connsLocked() int { return len(h.conns) + len(h.attempts) + len(h.spread.background) }

// topUpIfUsedLocked calls topUpLocked if h has traffic. It is called when a connection has ended.
func (h *host) topUpIfUsedLocked() {
	if !h.isSpread() {
		return
	}
	used := !h.queue.Empty()
	for i := 0; i < len(h.conns) && !used; i++ {
		load, _ := h.conns[i].load()
		used = load > 0
	}
	if used {
		h.topUpLocked()
	}
}

// beginInBackgroundLocked begins to make a connection that no request waits for. Its context has no
// values of a request.
func (h *host) beginInBackgroundLocked() {
	a := &attempt{background: true, endpoint: h.chooseLocked(nil)}
	if a.endpoint != nil {
		a.endpoint.conns++
	}
	var ctx context.Context
	ctx, a.cancel = context.WithCancel(context.Background())
	h.spread.background = append(h.spread.background, a)
	h.connecting++
	go h.connect(ctx, a, h.record.DialPause())
}

// promoteLocked assigns an attempt in the background to the waiting requests, whose own attempt has
// failed. It reports whether there was one.
func (h *host) promoteLocked() bool {
	b := h.spread.background
	if len(b) == 0 || h.queue.Empty() {
		return false
	}
	b[0].background, b[0].covers = false, h.queue.Turns()
	h.attempts = append(h.attempts, b[0])
	h.spread.background = slices.Delete(b, 0, 1)
	return true
}

// sumLoadsLocked sets the load of each address.
func (h *host) sumLoadsLocked() {
	if len(h.spread.endpoints) == 0 {
		return
	}
	for _, e := range h.spread.endpoints {
		e.load = 0
	}
	for _, c := range h.conns {
		load, _ := c.load()
		c.endpoint.load += load
	}
}

// preferLocked reports whether a request should use c rather than other. If h is spread, addresses
// and connections with the same load take turns.
func (h *host) preferLocked(c *pooledConn, load int, other *pooledConn, otherLoad int) bool {
	a, b := c.endpoint, other.endpoint
	switch {
	case a != b && a.load != b.load:
		return a.load < b.load
	case a != b:
		return a.usedAt < b.usedAt
	case load == otherLoad && h.isSpread():
		return c.usedAt < other.usedAt
	}
	return load < otherLoad
}

// usedLocked records a request that uses c.
func (h *host) usedLocked(c *pooledConn) {
	h.spread.uses++
	if c.usedAt = h.spread.uses; c.endpoint != nil {
		c.endpoint.usedAt = c.usedAt
	}
}

// chooseLocked returns the address for a new connection. It chooses from the addresses that are not
// in tried. Among those that are not avoided, it returns the one with the fewest connections. If
// all are avoided, it returns the one that is avoided for the shortest time. It returns nil if
// there is no address. It is called after countUsesLocked.
func (h *host) chooseLocked(tried map[*endpoint]bool) *endpoint {
	var best *endpoint
	now := time.Now()
	for _, e := range h.spread.endpoints {
		if tried[e] {
			continue
		}
		switch avoided := now.Before(e.avoid); {
		case best == nil:
		case avoided != now.Before(best.avoid):
			if avoided {
				continue
			}
		case avoided && !e.avoid.Before(best.avoid):
			continue
		case !avoided && e.conns >= best.conns:
			continue
		}
		best = e
	}
	return best
}

// countUsesLocked counts the connections to each of h's addresses, including those that are being
// made.
func (h *host) countUsesLocked() {
	for _, e := range h.spread.endpoints {
		e.conns = 0
	}
	for _, c := range h.conns {
		if c.endpoint != nil {
			c.endpoint.conns++
		}
	}
	for _, attempts := range [][]*attempt{h.attempts, h.spread.background} {
		for _, a := range attempts {
			if a.endpoint != nil {
				a.endpoint.conns++
			}
		}
	}
}

// connectTo makes a connection to one of h's addresses for a. If an address cannot be reached and a
// request waits, it tries the next one.
func (h *host) connectTo(ctx context.Context, a *attempt) (*Conn, error) {
	if !h.resolves() {
		return h.countedDial(ctx, nil)
	}
	if err := h.resolve(ctx); err != nil {
		return nil, err
	}
	tried := make(map[*endpoint]bool)
	var failed error
	for {
		h.mu.Lock()
		e := a.endpoint
		if !a.background || !h.hasLocked(e) {
			h.countUsesLocked()
			e = h.chooseLocked(tried)
		}
		if e != nil {
			a.endpoint = e
			if !a.background {
				h.takeOverLocked(e)
				h.topUpLocked() // using the addresses that were just looked up
			}
		}
		h.mu.Unlock()
		if e == nil {
			return nil, failed
		}
		c, err := h.countedDial(ctx, e)
		h.mu.Lock()
		e.judge(err)
		background := a.background
		h.mu.Unlock()
		if err == nil || ctx.Err() != nil || background || !isDialError(err) {
			return c, err
		}
		tried[e], failed = true, err
	}
}

// isDialError reports whether err is a *DialError, so that another address may be tried.
func isDialError(err error) bool {
	_, ok := err.(*DialError)
	return ok
}

// judge records the result of making a connection to e.
func (e *endpoint) judge(err error) {
	if err == nil || !isDialError(err) {
		e.failures, e.avoid = 0, time.Time{}
		return
	}
	e.failures++
	e.avoid = time.Now().Add(min(maxAvoid, minAvoid<<min(e.failures-1, 10)))
}

// lostLocked is called when c takes no more requests because of why. If c was lost, its address is
// avoided for the next connection.
func (h *host) lostLocked(c *pooledConn, why error) {
	if errors.Is(why, ErrClosed) || errors.Is(why, ErrDrained) {
		return
	}
	if e := c.endpoint; e != nil && e.avoid.IsZero() {
		e.avoid = time.Now().Add(minAvoid)
	}
}

// resolve looks up the addresses of h if they are unknown or older than resolveEvery.
func (h *host) resolve(ctx context.Context) error {
	h.mu.Lock()
	known := len(h.spread.endpoints) > 0
	fresh := known && time.Since(h.spread.resolved) < resolveEvery
	h.mu.Unlock()
	if fresh {
		return nil
	}
	addrs, err := h.t.askInTime(ctx, h.addr)
	if err != nil {
		if known {
			return nil // the known addresses may still be valid
		}
		return err
	}
	h.mu.Lock()
	h.setEndpointsLocked(addrs)
	h.mu.Unlock()
	return nil
}

// resolveAgain looks up the addresses of h again, in the background. An error leaves them
// unchanged.
func (h *host) resolveAgain() {
	addrs, err := h.t.askInTime(context.Background(), h.addr)
	h.mu.Lock()
	h.spread.resolving = false
	if err == nil {
		h.setEndpointsLocked(addrs)
		h.topUpIfUsedLocked()
	} else {
		h.spread.resolved = time.Now()
	}
	h.mu.Unlock()
}

// askInTime is askResolver with a limit of Config.HandshakeTimeout, even if Resolve ignores its
// context.
func (t *Transport) askInTime(ctx context.Context, addr string) ([]string, error) {
	timeout := or(t.config().HandshakeTimeout, defaultHandshakeTimeout)
	ctx, cancel := dialTimeout(ctx, timeout)
	defer cancel()
	type result struct {
		addrs []string
		err   error
	}
	results := make(chan result, 1)
	go func() {
		r := result{err: errResolverGone}
		defer func() { results <- r }()
		r.addrs, r.err = t.askResolver(ctx, addr)
	}()
	var r result
	select {
	case r = <-results:
	case <-ctx.Done():
		r.err = context.Cause(ctx)
	}
	if r.err != nil {
		return nil, (&DialError{phase: "resolve", Host: addr, Err: r.err}).judge(ctx, timeout)
	}
	return r.addrs, nil
}

// errResolverGone means that Transport.Resolve, or a DNS hook, has ended the goroutine in which it
// was called.
var errResolverGone = errors.New("the resolver called runtime.Goexit")

// askResolver calls Transport.Resolve for addr, and the DNS hooks in the context's trace.
func (t *Transport) askResolver(ctx context.Context, addr string) (addrs []string, err error) {
	hooks := httptrace.ContextClientTrace(ctx)
	if hooks != nil && hooks.DNSStart != nil {
		host, _, _ := net.SplitHostPort(addr)
		hooks.DNSStart(httptrace.DNSStartInfo{Host: host})
	}
	addrs, err = t.Resolve(ctx, addr)
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("Transport.Resolve returned no address for %s", addr)
	}
	for i := 0; err == nil && i < len(addrs); i++ {
		if _, _, e := net.SplitHostPort(addrs[i]); e != nil {
			err = fmt.Errorf("Transport.Resolve returned %q for %s: %w", addrs[i], addr, e)
		}
	}
	if hooks != nil && hooks.DNSDone != nil {
		info := httptrace.DNSDoneInfo{Err: err}
		for _, addr := range addrs {
			host, _, _ := net.SplitHostPort(addr)
			if ip := net.ParseIP(host); ip != nil {
				info.Addrs = append(info.Addrs, net.IPAddr{IP: ip})
			}
		}
		hooks.DNSDone(info)
	}
	return addrs, err
}

// setEndpointsLocked makes addrs the addresses of h. Connections to other addresses get no new
// requests.
func (h *host) setEndpointsLocked(addrs []string) {
	s := &h.spread
	known := make(map[string]*endpoint, len(addrs))
	for _, e := range s.endpoints {
		known[e.addr], e.listed = e, false
	}
	s.resolved, s.endpoints = time.Now(), nil
	for _, addr := range addrs {
		e := known[addr]
		if e == nil {
			e = &endpoint{addr: addr}
			known[addr] = e
		}
		if !e.listed {
			e.listed = true
			s.endpoints = append(s.endpoints, e)
		}
	}
	list := s.endpoints
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for i := 0; i < len(h.conns); i++ {
		if !h.hasLocked(h.conns[i].endpoint) {
			h.conns[i].reason = ReasonResolve
			h.removeLocked(i, ErrClosed)
			i--
		}
	}
}

// hasLocked reports whether e is one of h's addresses.
func (h *host) hasLocked(e *endpoint) bool { return e != nil && e.listed }

// takeOverLocked cancels the background attempts for e, because an attempt for a request now dials
// e.
func (h *host) takeOverLocked(e *endpoint) {
	for _, a := range h.spread.background {
		if a.endpoint == e {
			a.cancel()
		}
	}
	h.spread.background = slices.DeleteFunc(h.spread.background, func(a *attempt) bool {
		return a.endpoint == e
	})
}

// dialerTo returns a dialFunc that dials the address at instead of the host itself. If at is nil,
// it returns dial.
func dialerTo(dial dialFunc, at *endpoint) dialFunc {
	if at == nil {
		return dial
	}
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dial(ctx, network, at.addr)
	}
}

// dialResolved dials one of the addresses that Resolve returns for addr, for HTTP/1.1. Without
// Resolve, it dials addr.
func (t *Transport) dialResolved(ctx context.Context, dial dialFunc, addr string) (nc net.Conn, err error) {
	if t.Resolve == nil {
		return dial(ctx, "tcp", addr)
	}
	addrs, err := t.askInTime(ctx, addr)
	if err != nil {
		return nil, err
	}
	for _, i := range rand.Perm(len(addrs)) {
		if nc, err = dial(ctx, "tcp", addrs[i]); err == nil || ctx.Err() != nil {
			break
		}
	}
	return nc, err
}
