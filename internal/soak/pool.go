package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gohyper.dev/hyper"
)

// A manager is a kind of window management. Pushes that are not claimed use the connection's
// window. They must leave enough of it for their parents, which otherwise could not end.
type manager struct {
	name   string
	config hyper.Config
	pushes int   // the most at once
	rest   int64 // the connection's window must be at least this when all is read
}

// managers are the kinds of window management that are tested.
var managers = []manager{
	{"default", hyper.Config{}, 100, 32 << 20},
	{"Manual, small", hyper.Config{WindowManager: hyper.ReadWindow{Stream: 64 << 10,
		Connection: 256 << 10}.New, InitialStreamWindow: 64 << 10}, 2, 128 << 10},
	{"Fixed, python's", hyper.Config{WindowManager: hyper.FixedWindow{}.New}, 100, 65535 / 4},
	{"Fixed, 1 MiB", hyper.Config{WindowManager: hyper.FixedWindow{Size: 1 << 20}.New}, 100, 1 << 18},
	{"RateLimited", hyper.Config{WindowManager: hyper.RateLimitedWindow{PerSecond: 32 << 20,
		Burst: 1 << 20}.New}, 100, 32 << 20},
	{"very stupid", hyper.Config{WindowManager: stupid}, 100, 65535},
}

// stupid is a window manager that returns all credit on receipt.
func stupid(*hyper.Window) hyper.WindowManager {
	return hyper.WindowManagerFunc(hyper.WindowEvent.Received)
}

// A slot holds a connection that workers share, until it is replaced.
type slot struct {
	// mu is held while dialing, so that other workers wait for the same connection.
	mu   sync.Mutex
	conn *client
}

// A client is a connection, with what explains its end.
type client struct {
	*hyper.Conn
	site *site
	kind *manager
	far  *faultConn   // the server's end
	left bool         // Close or Shutdown was called
	life atomic.Int64 // exchanges until the connection is closed

	mu       sync.Mutex        // guards left and promised
	promised []*hyper.Response // their pushes may not be claimed yet; nil once the connection has ended
}

// A population is the set of all open connections.
type population struct {
	l  *ledger
	wg sync.WaitGroup

	mu    sync.Mutex
	alive map[*client]bool
}

// count returns how many connections are open.
func (p *population) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.alive)
}

// get returns the connection of one of the site's slots, or a new one if the slot is empty.
func (p *population) get(ctx context.Context, s *site, worker int, rng *rand.Rand) (*client, error) {
	at := &s.pool[rng.IntN(len(s.pool))]
	if s.pauses {
		at = &s.pool[worker]
	}
	at.mu.Lock()
	defer at.mu.Unlock()
	if c := at.conn; c != nil && c.Err() == nil {
		if c.life.Add(-1) > 0 {
			return c, nil
		}
		at.conn = nil
		p.leave(c, rng)
	}
	c, err := p.dial(ctx, s, rng)
	at.conn = c
	return c, err
}

// drop removes a connection that takes no more requests from its slot.
func (s *site) drop(c *client) {
	for i := range s.pool {
		at := &s.pool[i]
		at.mu.Lock()
		if at.conn == c {
			at.conn = nil
		}
		at.mu.Unlock()
	}
}

// dial makes a connection with a random window manager.
func (p *population) dial(ctx context.Context, s *site, rng *rand.Rand) (*client, error) {
	c := &client{site: s, kind: &managers[rng.IntN(len(managers))]}
	c.life.Store(20 + rng.Int64N(2000))
	cfg := c.kind.config
	cfg.TLS = clientTLS()
	if rng.IntN(2) == 0 {
		cfg.Push = &hyper.PushPolicy{Max: c.kind.pushes}
	}
	addr, listener := s.at()
	var local net.Addr
	cfg.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			local = nc.LocalAddr()
		}
		return nc, err
	}
	p.l.dials.Add(1)
	conn, err := hyper.Dial(ctx, addr, &cfg)
	if local != nil {
		c.far = listener.find(local)
		defer listener.forget(local)
	}
	if err != nil {
		p.l.dialled(c, err)
		return nil, err
	}
	c.Conn = conn
	p.mu.Lock()
	p.alive[c] = true
	p.mu.Unlock()
	p.wg.Go(func() {
		<-conn.Done()
		p.mu.Lock()
		delete(p.alive, c)
		p.mu.Unlock()
		c.mu.Lock()
		c.promised = nil
		c.mu.Unlock()
	})
	return c, nil
}

// dialled compares the error of a failed dial with the possible causes.
func (l *ledger) dialled(c *client, err error) {
	// The connection was still in the backlog of a listener that was closed.
	gone := c.far == nil && c.site.restarts > 0
	switch {
	case c.far.why() != "":
		l.explain("dial: " + c.far.why())
	case gone && (errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)):
		l.explain("dial: " + restarted)
	default:
		l.violate(fmt.Errorf("dial of %q: %w", c.site.name, err))
	}
}

// leave ends a connection, with Shutdown or abruptly with Close.
func (p *population) leave(c *client, rng *rand.Rand) {
	c.mu.Lock()
	c.left = true
	c.mu.Unlock()
	if rng.IntN(2) == 0 {
		p.wg.Go(func() { c.Close() })
		return
	}
	p.wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), hangTimeout)
		defer cancel()
		if err := c.Shutdown(ctx); err != nil && c.far.why() == "" {
			p.l.violate(fmt.Errorf("shutdown of a connection to %q: %w", c.site.name, err))
		}
	})
}

// weLeft reports whether Close or Shutdown was called.
func (c *client) weLeft() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.left
}

// keepPromises records that an exchange may leave pushes of resp unclaimed. Such pushes wait for up
// to a minute after their response. Meanwhile those that are larger than their window stay open.
func (c *client) keepPromises(resp *hyper.Response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Err() == nil {
		c.promised = append(c.promised, resp)
	}
}

// cancelPromises cancels the pushes that the exchanges have left unclaimed. The exchanges are over,
// so it does not wait.
func (c *client) cancelPromises() {
	c.mu.Lock()
	list := c.promised
	c.promised = nil
	c.mu.Unlock()
	for _, resp := range list {
		for push, err := range resp.Pushes(context.Background()) {
			if err == nil {
				push.Cancel()
			}
		}
	}
}

// checkRest checks the connections while no exchange is in progress: no stream is open except for
// pushes that can still be claimed, and no credit is lost.
func (p *population) checkRest() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.alive {
		c.cancelPromises()
		s := c.Stats()
		if c.Err() != nil {
			continue
		}
		if s.StreamsOpen != 0 || s.Waiting != 0 {
			p.l.violate(fmt.Errorf("%d streams are open and %d callers wait, on an idle connection to %q",
				s.StreamsOpen, s.Waiting, c.site.name))
		}
		if s.ReceiveWindow < c.kind.rest {
			p.l.violate(fmt.Errorf("the window of an idle connection (%s) is %d, want at least %d",
				c.kind.name, s.ReceiveWindow, c.kind.rest))
		}
	}
}

// end closes all connections.
func (p *population) end(sites []*site) {
	p.mu.Lock()
	for c := range p.alive {
		p.wg.Go(func() { c.Close() })
	}
	p.mu.Unlock()
	p.wg.Wait()
	for _, s := range sites {
		clear(s.pool)
	}
}

// hangTimeout is the time after which an operation counts as hanging.
const hangTimeout = time.Minute
