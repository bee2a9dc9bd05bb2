package work

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// fetch sends a GET request, reads the body to its end in pieces of the size of buf, and returns
// its length.
func fetch(c client, t target, buf []byte) (octets int64, err error) {
	body, err := c.get(t)
	if err != nil {
		return 0, err
	}
	return drain(body, buf)
}

// drain reads body to its end, closes it, and returns its length.
func drain(body io.ReadCloser, buf []byte) (octets int64, err error) {
	defer body.Close()
	for {
		n, err := body.Read(buf)
		octets += int64(n)
		if err == io.EOF {
			return octets, nil
		}
		if err != nil {
			return octets, err
		}
	}
}

// together runs work on n goroutines. It returns the sum of their bytes and the first error.
func together(n int, work func() (octets int64, err error)) (int64, error) {
	var (
		wg     sync.WaitGroup
		octets atomic.Int64
		once   sync.Once
		first  error
	)
	for range n {
		wg.Go(func() {
			n, err := work()
			octets.Add(n)
			if err != nil {
				once.Do(func() { first = err })
			}
		})
	}
	wg.Wait()
	return octets.Load(), first
}

// get measures small requests by many callers.
func get(o *options) (figures, error) {
	c, err := o.newClient()
	if err != nil {
		return nil, err
	}
	requests := func(n int) (int64, error) { return o.spread(n, []client{c}) }
	// The first request is alone, as some servers limit the streams until their SETTINGS are
	// acknowledged.
	if _, err := fetch(c, o.target, make([]byte, 2048)); err != nil {
		return nil, err
	}
	defer o.keepBusy()()
	if _, err := requests(o.warm); err != nil {
		return nil, err
	}
	if !o.latency {
		return o.cost(o.requests, func() (int64, error) { return requests(o.requests) })
	}
	timed := &timedClient{client: c}
	f, err := o.cost(o.requests, func() (int64, error) { return o.spread(o.requests, []client{timed}) })
	if err == nil {
		slices.Sort(timed.took)
		for name, part := range map[string]float64{"p50_us": 0.5, "p99_us": 0.99, "p999_us": 0.999} {
			f[name] = float64(timed.took[int(part*float64(len(timed.took)))]) / float64(time.Microsecond)
		}
	}
	return f, err
}

// keepBusy keeps -busy goroutines running all the time, until stop is called.
func (o *options) keepBusy() (stop func()) {
	var stopped atomic.Bool
	for range o.busy {
		go func() {
			for !stopped.Load() {
			}
		}()
	}
	return func() { stopped.Store(true) }
}

// A timedClient records how long each GET takes until the header of its response has arrived.
type timedClient struct {
	client
	mu   sync.Mutex
	took []time.Duration
}

// get sends a GET request and records its time.
func (c *timedClient) get(t target) (io.ReadCloser, error) {
	start := time.Now()
	body, err := c.client.get(t)
	took := time.Since(start)
	c.mu.Lock()
	c.took = append(c.took, took)
	c.mu.Unlock()
	return body, err
}

// spread does n requests with all callers. The requests use the clients in turn.
func (o *options) spread(n int, clients []client) (octets int64, err error) {
	var left atomic.Int64
	left.Store(int64(n))
	return together(o.callers, func() (octets int64, err error) {
		one := o.caller(clients)
		for i := left.Add(-1); i >= 0; i = left.Add(-1) {
			n, err := one(i)
			if err != nil {
				return octets, err
			}
			octets += n
		}
		return octets, nil
	})
}

// caller returns what one goroutine does for request i.
func (o *options) caller(clients []client) func(i int64) (octets int64, err error) {
	if c, ok := clients[0].(ownLoop); ok {
		one := c.caller()
		return func(int64) (int64, error) { return one() }
	}
	buf := make([]byte, 2048)
	return func(i int64) (int64, error) { return fetch(clients[int(i)%len(clients)], o.target, buf) }
}

// many measures small requests over many connections that exist before, and the memory of these
// connections.
func many(o *options) (figures, error) {
	var clients []client
	held, err := memory(o.conns, func() (err error) {
		clients, err = o.used(o.conns, o.target)
		time.Sleep(500 * time.Millisecond)
		return err
	})
	if err != nil {
		return nil, err
	}
	f, err := o.cost(o.requests, func() (int64, error) { return o.spread(o.requests, clients) })
	if err == nil {
		f["heap_per"], f["rss_per"] = held["heap_per"], held["rss_per"]
	}
	return f, err
}

// down measures large downloads, with the time to connect.
func down(o *options) (figures, error) {
	if o.impl == "floor" {
		return o.floorDown()
	}
	return o.cost(o.callers*o.requests, func() (int64, error) {
		c, err := o.newClient()
		if err != nil {
			return 0, err
		}
		return together(o.callers, func() (octets int64, err error) {
			buf := make([]byte, o.buffer)
			for range o.requests {
				n, err := fetch(c, o.target, buf)
				if err != nil {
					return octets, err
				}
				octets += n
			}
			return octets, nil
		})
	})
}

// up measures large uploads, with the time to connect.
func up(o *options) (figures, error) {
	return o.cost(o.callers, func() (int64, error) {
		c, err := o.newClient()
		if err != nil {
			return 0, err
		}
		return together(o.callers, func() (int64, error) {
			body, err := c.post(o.target, &zeros{o.size}, o.size)
			if err != nil {
				return 0, err
			}
			_, err = drain(body, make([]byte, 2048))
			return o.size, err
		})
	})
}

// zeros is a body whose remaining length is left, in bytes.
type zeros struct{ left int64 }

// Read fills p; the content does not matter.
func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), z.left))
	z.left -= int64(n)
	return n, nil
}

// connect measures requests that each need a new connection.
func connect(o *options) (figures, error) {
	one := func() (int64, error) {
		c, err := o.newClient()
		if err != nil {
			return 0, err
		}
		defer c.close()
		return fetch(c, o.target, make([]byte, 2048))
	}
	// A request before the measurement. With -resume, it gets the first session.
	if _, err := one(); err != nil {
		return nil, err
	}
	return o.cost(o.requests, func() (octets int64, err error) {
		for range o.requests {
			n, err := one()
			if err != nil {
				return octets, err
			}
			octets += n
		}
		return octets, nil
	})
}

// used returns n clients that have done one request each.
func (o *options) used(n int, t target) ([]client, error) {
	clients := make([]client, n)
	for i := range clients {
		c, err := o.newClient()
		if err != nil {
			return nil, err
		}
		if _, err := fetch(c, t, make([]byte, 2048)); err != nil {
			return nil, err
		}
		clients[i] = c
	}
	return clients, nil
}

// idle measures idle connections.
func idle(o *options) (figures, error) {
	var clients []client
	f, err := memory(o.conns, func() (err error) {
		clients, err = o.used(o.conns, o.target)
		// The connections still have work to do after their last response.
		time.Sleep(500 * time.Millisecond)
		return err
	})
	runtime.KeepAlive(clients)
	return f, err
}

// open measures requests that wait for their responses, at a URL that never responds.
func open(o *options) (figures, error) {
	quick, err := parseTarget(o.target.origin + "/0") // this one responds
	if err != nil {
		return nil, err
	}
	clients, err := o.used(o.conns, quick)
	if err != nil {
		return nil, err
	}
	failed := make(chan error, o.requests)
	f, err := memory(o.requests, func() error {
		for i := range o.requests {
			go func() {
				_, err := clients[i%len(clients)].get(o.target)
				failed <- fmt.Errorf("a request that should wait has ended: %v", err)
			}()
		}
		select {
		case err := <-failed:
			return err
		case <-time.After(3 * time.Second):
			return nil
		}
	})
	runtime.KeepAlive(clients)
	return f, err
}

// slow measures the memory while one response is read at a set rate.
func slow(o *options) (figures, error) {
	c, err := o.newClient()
	if err != nil {
		return nil, err
	}
	body, err := c.get(o.target)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	wire.reset()
	buf := make([]byte, 16<<10)
	var got int64
	var peak uint64
	var m runtime.MemStats
	for start := time.Now(); time.Since(start) < o.length; time.Sleep(20 * time.Millisecond) {
		for got < int64(time.Since(start).Seconds()*float64(o.rate)) {
			n, err := body.Read(buf)
			if err != nil {
				return nil, err
			}
			got += int64(n)
		}
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapAlloc)
	}
	return figures{"got": got, "peak_heap": peak, "maxrss_kb": maxRSS()}, nil
}
