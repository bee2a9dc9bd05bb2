// This file makes the connections of get bench, and replaces those that end.

package main

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"gohyper.dev/hyper"
)

// A benchLink is one of the connections of get bench.
type benchLink struct {
	dialer  *dialer
	url     *url.URL
	current atomic.Pointer[hyper.Conn]
	took    time.Duration // to make the first one

	mu       sync.Mutex // guards the fields below
	attempt  *attempt   // to replace current; nil: none at present
	pause    time.Duration
	replaced int
	closed   bool
}

// An attempt makes a connection after a pause. All workers of a link wait for the same one.
type attempt struct {
	began time.Time
	done  chan struct{} // closed when there is a connection or err
	err   error
}

// The pauses after failures to connect.
const (
	firstPause = 10 * time.Millisecond
	maxPause   = time.Second
)

// open makes the first connection and waits for the server's SETTINGS.
func (l *benchLink) open(ctx context.Context) (hyper.PeerSettings, error) {
	began := time.Now()
	conn, err := l.dialer.dial(ctx, l.url)
	if err != nil {
		return hyper.PeerSettings{}, err
	}
	l.current.Store(conn)
	settings, err := conn.WaitSettings(ctx)
	l.took = time.Since(began)
	return settings, err
}

// renew waits until ctx ends for a connection that replaces old. The streams of old go on. The
// attempt to make it is that of all workers, and ends with p.
func (l *benchLink) renew(ctx context.Context, p *plan, old *hyper.Conn) error {
	a := l.join(p, old)
	if a == nil {
		return nil
	}
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// join returns the attempt to replace old, and begins one if there is none. It returns nil if old
// is replaced.
func (l *benchLink) join(p *plan, old *hyper.Conn) *attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current.Load() != old {
		return nil
	}
	if l.attempt == nil {
		l.attempt = &attempt{began: time.Now(), done: make(chan struct{})}
		go l.try(p.ctx, l.attempt, l.pause)
	}
	return l.attempt
}

// try makes a connection after a pause, and ends the attempt a.
func (l *benchLink) try(ctx context.Context, a *attempt, pause time.Duration) {
	var conn *hyper.Conn
	var err error
	select {
	case <-time.After(pause):
		conn, err = l.dialer.dial(ctx, l.url)
	case <-ctx.Done():
		err = ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(a.done)
	l.attempt = nil
	switch {
	case err != nil && ctx.Err() != nil:
		a.err = context.Cause(ctx)
	case err != nil:
		a.err = err
		l.pause = min(max(firstPause, 2*l.pause), maxPause)
	case l.closed:
		conn.Close()
		a.err = context.Canceled
	default:
		l.pause = 0
		l.replaced++
		l.current.Store(conn)
	}
}

// settle waits until no attempt is being made. The plan is over.
func (l *benchLink) settle() {
	l.mu.Lock()
	a := l.attempt
	l.mu.Unlock()
	if a != nil {
		<-a.done
	}
}

// replacements returns how many connections have been replaced.
func (l *benchLink) replacements() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.replaced
}

// maxCalm is how long an attempt may take before its server counts as missing.
const maxCalm = time.Second

// calm reports whether the last attempt has not failed, and the present one is new.
func (l *benchLink) calm() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pause == 0 && (l.attempt == nil || time.Since(l.attempt.began) < maxCalm)
}

// takesRequests reports whether a connection is neither draining nor over.
func takesRequests(c *hyper.Conn) bool {
	select {
	case <-c.Draining():
		return false
	default:
		return true
	}
}

// dialsAtOnce bounds how many connections are made at a time.
const dialsAtOnce = 100

// openLinks makes all connections. It returns a note if the server allows fewer streams than
// wanted.
func (o *benchOptions) openLinks(ctx context.Context, d *dialer) (_ []*benchLink, note string, _ error) {
	var links []*benchLink
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		slots = make(chan struct{}, dialsAtOnce)
	)
	for range o.load.conns {
		l := &benchLink{dialer: d, url: o.urls[0]}
		links = append(links, l)
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			settings, err := l.open(ctx)
			if err != nil {
				cancel(err)
				return
			}
			if most := settings.MaxConcurrentStreams; uint64(o.load.streams) > uint64(most) {
				mu.Lock()
				note = fmt.Sprintf("the server allows %s on a connection: further requests wait "+
					"for one, which counts as their time", counted(most, "stream"))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		closeLinks(links)
		return nil, "", err
	}
	return links, note, nil
}

// closeLinks closes all connections.
func closeLinks(links []*benchLink) {
	for _, l := range links {
		l.close()
	}
}

// close closes the connection. There will be no other one.
func (l *benchLink) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	if conn := l.current.Load(); conn != nil {
		conn.Close()
	}
}
