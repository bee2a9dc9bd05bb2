// This file sends the requests of get bench.

package main

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"gohyper.dev/hyper"
)

// A worker sends one request at a time.
type worker struct {
	link  *benchLink
	tally *tally
	timer *time.Timer // until a request of the open model is due

	// began is when the present request was sent, since the start of the plan. idle means that
	// there is none, timedOut that it took too long.
	began  atomic.Int64
	stream atomic.Pointer[hyper.Stream] // of the present request, or of the last one
	ending sync.Mutex                   // is held while the request is ended that took too long
}

// The values of worker.began that are no times.
const (
	idle     = -1
	timedOut = -2
)

// A crew is all workers, with what they do.
type crew struct {
	links    []*benchLink
	requests []*prepared
	workers  []*worker
	timeout  time.Duration
}

// A prepared is what is sent for one URL.
type prepared struct {
	message *message
	shared  *hyper.Request // for all workers; nil: each needs a content of its own
}

// newCrew returns a crew with a number of workers for each link.
func newCrew(links []*benchLink, o *loadOptions, requests []*prepared, tallies []*tally) *crew {
	c := &crew{links: links, requests: requests, timeout: o.timeout}
	for i := range o.streams * len(links) {
		n := i % len(links)
		w := &worker{link: links[n], tally: tallies[n%len(tallies)]}
		w.began.Store(idle)
		c.workers = append(c.workers, w)
	}
	return c
}

// run does all requests of p. When ctx ends, it closes the connections.
func (c *crew) run(ctx context.Context, p *plan) {
	stop := context.AfterFunc(ctx, func() {
		p.end(context.Cause(ctx))
		closeLinks(c.links)
	})
	defer stop()
	watched, cancel := context.WithCancel(context.Background())
	var watch, wg sync.WaitGroup
	watch.Go(func() { c.endOverdue(watched, p) })
	if p.count > 0 {
		watch.Go(func() { c.endWithoutServer(watched, p) })
	}
	for _, w := range c.workers {
		wg.Go(func() { w.run(ctx, c.requests, p) })
	}
	wg.Wait()
	cancel()
	watch.Wait()
	p.end(nil)
	for _, l := range c.links {
		l.settle()
	}
}

// endWithoutServer ends p when no connection takes requests for too long.
func (c *crew) endWithoutServer(ctx context.Context, p *plan) {
	tick := time.NewTicker(max(time.Millisecond, p.giveUp/20))
	defer tick.Stop()
	seen, made := time.Now(), 0
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		before := made
		made = 0
		up := false
		for _, l := range c.links {
			made += l.replacements()
			up = up || takesRequests(l.current.Load())
		}
		switch {
		case up || made != before:
			seen = time.Now()
		case time.Since(seen) > p.giveUp:
			p.end(errGaveUp)
			return
		}
	}
}

// endOverdue ends requests that take longer than the timeout. One context for each request would
// cost more than the rest of get bench.
func (c *crew) endOverdue(ctx context.Context, p *plan) {
	tick := time.NewTicker(max(time.Millisecond, c.timeout/20))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, w := range c.workers {
			began := w.began.Load()
			if began >= 0 && p.since() > time.Duration(began)+c.timeout {
				w.endPresent(began)
			}
		}
	}
}

// endPresent ends the request that was sent at began, unless it has ended.
func (w *worker) endPresent(began int64) {
	w.ending.Lock()
	defer w.ending.Unlock()
	if w.began.CompareAndSwap(began, timedOut) {
		if s := w.stream.Load(); s != nil {
			s.Reset(hyper.ErrCodeCancel)
		}
	}
}

// run takes requests of p and sends them until there are no more.
func (w *worker) run(ctx context.Context, requests []*prepared, p *plan) {
	ended := p.since()
	for {
		number, due, ok := p.take()
		if !ok {
			return
		}
		sent := ended // in the closed model, a request follows the last one at once
		if p.interval > 0 {
			if !w.wait(p.quit, due-p.since()) {
				p.putBack()
				return
			}
			sent = p.since()
		}
		w.began.Store(int64(sent))
		o := w.send(p, requests[number%int64(len(requests))])
		ended = p.since()
		if w.began.Swap(idle) == timedOut {
			w.ending.Lock() // endPresent is done with this request, and will not end the next one
			if o.err != nil {
				o.err = errTimeout
			}
			w.ending.Unlock()
		}
		if o.err != nil && ctx.Err() != nil {
			return // the user has interrupted it
		}
		if o.err == errUnsent {
			p.putBack()
			return
		}
		o.service, o.response = ended-sent, ended-sent
		if p.interval > 0 {
			o.response = ended - due
		}
		w.tally.add(&o)
	}
}

// The results of requests that are none of the server's.
var (
	errTimeout = errors.New("timeout") // it took too long
	errUnsent  = errors.New("unsent")  // the run ended while a connection was replaced as usual
)

// wait waits for d, if that is positive. It returns false if ctx ends first.
func (w *worker) wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	if w.timer == nil {
		w.timer = time.NewTimer(d)
	} else {
		w.timer.Reset(d)
	}
	select {
	case <-w.timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// An outcome is what became of a request.
type outcome struct {
	status   int
	bytes    int64 // of the body
	retries  int
	err      error
	service  time.Duration // since it was sent
	response time.Duration // since it was due
}

// send sends a request and reads the response. It sends it again if the server has not processed
// it, on a new connection if necessary.
func (w *worker) send(p *plan, r *prepared) (o outcome) {
	for ; ; o.retries++ {
		conn := w.link.current.Load()
		o.status, o.bytes, o.err = w.exchange(conn, r)
		if o.err == nil || p.quit.Err() != nil || o.retries+1 == maxTries || !hyper.Retryable(o.err) {
			return o
		}
		if takesRequests(conn) {
			continue
		}
		switch err := w.reconnect(p, conn); {
		case err == errRunOver && w.link.calm():
			o.err = errUnsent
			return o
		case err == errRunOver || err == errGaveUp:
			return o
		case err != nil:
			o.err = err
			return o
		}
	}
}

// reconnect waits for a connection that replaces old, until the time of the request is over.
func (w *worker) reconnect(p *plan, old *hyper.Conn) error {
	began := w.began.Load()
	if began < 0 {
		return errTimeout
	}
	end := p.start.Add(time.Duration(began) + p.timeout)
	ctx, cancel := context.WithDeadlineCause(p.ctx, end, errTimeout)
	defer cancel()
	return w.link.renew(ctx, p, old)
}

// buffers are for reading bodies.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// exchange sends a request on conn and reads the response. The body is read as it was sent, with
// its content codings.
func (w *worker) exchange(conn *hyper.Conn, r *prepared) (status int, n int64, err error) {
	req := r.shared
	if req == nil {
		if req, err = r.message.request(); err != nil {
			return 0, 0, err
		}
	}
	s, err := conn.Open(context.Background(), req)
	if err != nil {
		return 0, 0, err
	}
	w.stream.Store(s)
	if w.began.Load() == timedOut { // while the request waited for a stream
		s.Reset(hyper.ErrCodeCancel)
	}
	resp, err := s.Response(context.Background())
	if err != nil {
		s.Reset(hyper.ErrCodeCancel)
		return 0, 0, err
	}
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for {
		k, err := s.Read(buf[:])
		n += int64(k)
		switch {
		case err == io.EOF:
			return resp.StatusCode, n, nil
		case err != nil:
			s.Reset(hyper.ErrCodeCancel)
			return 0, n, err
		}
	}
}
