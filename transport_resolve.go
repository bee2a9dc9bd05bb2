package hyper

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http/httptrace"
)

// This file looks up the addresses of hosts, if Transport.Resolve is set. pool.Addrs has what is
// known of them.

// resolve looks up the addresses of h if they are unknown or too old.
func (h *host) resolve(ctx context.Context) error {
	h.mu.Lock()
	known, fresh := h.Addrs.Known(), h.Addrs.Fresh()
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
	h.setAddrsLocked(addrs)
	h.mu.Unlock()
	return nil
}

// resolveAgain looks up the addresses of h again, in the background. An error leaves them
// unchanged.
func (h *host) resolveAgain() {
	addrs, err := h.t.askInTime(context.Background(), h.addr)
	h.mu.Lock()
	h.Addrs.LookedUpAgain()
	if err == nil {
		h.setAddrsLocked(addrs)
		h.topUpIfUsedLocked()
	}
	h.mu.Unlock()
}

// setAddrsLocked makes addrs the addresses of h. Connections to other addresses get no new
// requests.
func (h *host) setAddrsLocked(addrs []string) {
	h.Addrs.Set(addrs)
	for _, c := range h.Unlisted() {
		c.reason = ReasonResolve
		h.removeLocked(c, ErrClosed)
	}
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
