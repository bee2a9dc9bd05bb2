// This file computes when get bench sends its requests.

package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// A plan gives requests to workers. All times are since its start.
type plan struct {
	start    time.Time
	count    int64         // of requests; 0: no limit
	length   time.Duration // 0: no limit
	interval float64       // between requests of the open model, in nanoseconds; 0: closed model

	timeout time.Duration // of a request
	giveUp  time.Duration // with a count: the longest time without a server

	taken atomic.Int64
	over  atomic.Bool // there are no more requests

	quit   context.Context // ends when nothing is worth waiting for
	cancel context.CancelCauseFunc
	ctx    context.Context // ends with quit, and after length
}

// The causes for which the contexts of a plan end before all requests are done.
var (
	errRunOver = errors.New("the run is over")
	errGaveUp  = errors.New("no server")
)

// begin starts a plan, which ends with ctx. The caller calls end.
func (o *loadOptions) begin(ctx context.Context, count int64, length time.Duration) *plan {
	p := &plan{start: time.Now(), count: count, length: length, timeout: o.timeout, giveUp: o.giveUp}
	if o.rate > 0 {
		p.interval = float64(time.Second) / o.rate
	}
	p.quit, p.cancel = context.WithCancelCause(ctx)
	p.ctx = p.quit
	if length > 0 {
		ctx, cancel := context.WithDeadlineCause(p.quit, p.start.Add(length), errRunOver)
		p.ctx = ctx
		context.AfterFunc(p.quit, cancel)
	}
	context.AfterFunc(p.ctx, func() { p.over.Store(true) })
	return p
}

// take returns the number of the next request, from 0, and in the open model when it is due. It
// returns false if there is none.
func (p *plan) take() (number int64, due time.Duration, ok bool) {
	if p.over.Load() {
		return 0, 0, false
	}
	number = p.taken.Add(1) - 1
	due = time.Duration(float64(number) * p.interval)
	if p.count > 0 && number >= p.count || p.length > 0 && due >= p.length {
		p.taken.Add(-1)
		p.over.Store(true)
		return 0, 0, false
	}
	return number, due, true
}

// end ends the plan for a cause; nil: all requests are done. It gives no more requests.
func (p *plan) end(cause error) {
	p.over.Store(true)
	p.cancel(cause)
}

// putBack returns a request that was taken and not sent. The plan is over.
func (p *plan) putBack() { p.taken.Add(-1) }

// gaveUp reports whether the plan has ended as there was no server.
func (p *plan) gaveUp() bool { return context.Cause(p.quit) == errGaveUp }

// since returns the time since the start.
func (p *plan) since() time.Duration { return time.Since(p.start) }

// offered returns for how long requests have been sent. After length, none is sent, but responses
// to the last ones may come.
func (p *plan) offered() time.Duration {
	if took := p.since(); p.length == 0 || took < p.length {
		return took
	}
	return p.length
}

// unsent returns how many requests of the open model were due in took and have not been sent.
func (p *plan) unsent(took time.Duration) int64 {
	if p.interval == 0 {
		return 0
	}
	due := int64(float64(took)/p.interval + 0.999999)
	if p.count > 0 {
		due = min(due, p.count)
	}
	return max(0, due-p.taken.Load())
}
