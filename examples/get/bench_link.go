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

	mu       sync.Mutex // is held while a connection is made
	pause    time.Duration
	replaced int
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

// renew replaces the connection old, unless another worker has done so. The streams of old go on.
// It waits after failures.
func (l *benchLink) renew(ctx context.Context, old *hyper.Conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current.Load() != old {
		return nil
	}
	if l.pause > 0 {
		select {
		case <-time.After(l.pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	conn, err := l.dialer.dial(ctx, l.url)
	if err != nil {
		l.pause = min(max(firstPause, 2*l.pause), maxPause)
		return err
	}
	l.pause = 0
	l.replaced++
	l.current.Store(conn)
	return nil
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
				note = fmt.Sprintf("the server allows %d streams on a connection: further requests wait "+
					"for one, which counts as their time", most)
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
		if conn := l.current.Load(); conn != nil {
			conn.Close()
		}
	}
}
