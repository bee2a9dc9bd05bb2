// This file shares connections between the URLs of a host.

package main

import (
	"context"
	"net/url"
	"sync"
	"time"

	"gohyper.dev/hyper"
)

// A pool has a connection for each host.
type pool struct {
	dialer *dialer
	ctx    context.Context // of all dials: no URL ends those of others
	cancel context.CancelFunc

	mu    sync.Mutex
	links map[string]*link // by scheme and host; the newest of each
	all   []*link
}

// A link is a connection, or an attempt to make one.
type link struct {
	done  chan struct{} // closed when there is conn or err
	conn  *hyper.Conn
	err   error
	steps dialSteps
	ready time.Time // when conn was made

	mu   sync.Mutex
	used bool // some request was sent on it
}

// newPool returns a pool. Its dials end with ctx.
func newPool(ctx context.Context, d *dialer) *pool {
	p := &pool{dialer: d, links: make(map[string]*link)}
	p.ctx, p.cancel = context.WithCancel(ctx)
	return p
}

// get returns a connection for u that takes requests.
func (p *pool) get(ctx context.Context, u *url.URL) (*link, error) {
	l := p.link(u)
	select {
	case <-l.done:
		return l, l.err
	case <-ctx.Done():
		return l, ctx.Err()
	}
}

// link returns the link for u. It begins a new one if the last one takes no more requests.
func (p *pool) link(u *url.URL) *link {
	key := u.Scheme + "://" + u.Host
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.links[key]; l != nil && !l.over() {
		return l
	}
	l := &link{done: make(chan struct{})}
	p.links[key] = l
	p.all = append(p.all, l)
	go func() {
		defer close(l.done)
		l.conn, l.err = p.dialer.dial(l.steps.watch(p.ctx), u)
		l.ready = time.Now()
	}()
	return l
}

// over reports whether the link's connection was made and takes no more requests.
func (l *link) over() bool {
	select {
	case <-l.done:
	default:
		return false
	}
	if l.conn == nil {
		return false // the host cannot be reached, which all its URLs report
	}
	select {
	case <-l.conn.Draining():
		return true
	default:
		return false
	}
}

// use reports whether no request has used the link before.
func (l *link) use() (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first, l.used = !l.used, true
	return first
}

// close closes all connections.
func (p *pool) close() {
	p.cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.all {
		if <-l.done; l.conn != nil {
			l.conn.Close()
		}
	}
}
