// This file computes when get bench sends its requests.

package main

import (
	"sync/atomic"
	"time"
)

// A plan gives requests to workers. All times are since its start.
type plan struct {
	start    time.Time
	count    int64         // of requests; 0: no limit
	length   time.Duration // 0: no limit
	interval float64       // between requests of the open model, in nanoseconds; 0: closed model

	taken atomic.Int64
	over  atomic.Bool
	timer *time.Timer // sets over after length; nil: no limit
}

// begin starts a plan. The caller calls end.
func (o *loadOptions) begin(count int64, length time.Duration) *plan {
	p := &plan{start: time.Now(), count: count, length: length}
	if o.rate > 0 {
		p.interval = float64(time.Second) / o.rate
	}
	if length > 0 {
		p.timer = time.AfterFunc(length, func() { p.over.Store(true) })
	}
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

// end ends the plan: it gives no more requests.
func (p *plan) end() {
	p.over.Store(true)
	if p.timer != nil {
		p.timer.Stop()
	}
}

// since returns the time since the start.
func (p *plan) since() time.Duration { return time.Since(p.start) }

// unsent returns how many requests of the open model were due in took and have not been sent.
func (p *plan) unsent(took time.Duration) int64 {
	if p.interval == 0 {
		return 0
	}
	if p.length > 0 {
		took = min(took, p.length)
	}
	due := int64(float64(took)/p.interval + 0.999999)
	if p.count > 0 {
		due = min(due, p.count)
	}
	return max(0, due-p.taken.Load())
}
