package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"gohyper.dev/hyper"
)

// writerStays is how long a connection's writer goroutine stays without work. Pauses end shortly
// before and shortly after that time.
const writerStays = 250 * time.Millisecond

// pause leaves the connection idle after x, a few times. Each time it then uses the connection from
// several goroutines at once.
func (r *run) pause(x *exchange, c *client) {
	for range 1 + x.rng.IntN(3) {
		time.Sleep(writerStays - 10*time.Millisecond +
			time.Duration(x.rng.Int64N(int64(20*time.Millisecond))))
		var all sync.WaitGroup
		for range x.rng.IntN(3) {
			y := plan(rand.New(rand.NewPCG(x.rng.Uint64(), 0)), uint64(r.exchanges.Add(1)))
			y.size, y.stop = min(y.size, 4<<10), min(y.stop, y.size)
			if y.id < maxExchanges {
				all.Go(func() { r.try(y, c) })
			}
		}
		if x.rng.IntN(2) == 0 {
			all.Go(func() { r.ping(c) })
		}
		if x.rng.IntN(8) == 0 {
			wait := time.Duration(x.rng.Int64N(int64(time.Millisecond)))
			all.Go(func() {
				time.Sleep(wait)
				c.mu.Lock()
				c.left = true
				c.mu.Unlock()
				c.Close()
			})
		}
		all.Wait()
		if c.Err() != nil {
			return
		}
	}
}

// ping measures a round trip. Its error must be explained by the end of the connection.
func (r *run) ping(c *client) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), hangTimeout, errHung)
	defer cancel()
	rtt, err := c.Ping(ctx)
	var ce *hyper.ConnError
	switch {
	case err == nil && rtt > 0:
		r.pings.Add(1)
	case errors.Is(err, hyper.ErrClosed) && c.weLeft():
		r.explain("closed by us")
	case errors.As(err, &ce) && ce.FromPeer && ce.Code == hyper.ErrCodeNo &&
		(c.site.idle > 0 || c.far.why() != ""):
		r.explain("a PING was lost with its connection")
	default:
		r.violate(fmt.Errorf("a PING to %q: %v, %w", c.site.name, rtt, err))
	}
}
