// This file shows what get bench is doing.

package main

import (
	"fmt"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progressEvery is how often the progress is shown.
const progressEvery = 500 * time.Millisecond

// showProgress shows on a terminal how far p is, until stop is called.
func (o *benchOptions) showProgress(std stdio, p *plan, tallies []*tally) (stop func()) {
	if o.silent || !isTerminal(std.err) {
		return func() {}
	}
	return p.show(tallies, mpb.WithOutput(std.err), mpb.WithRefreshRate(progressEvery))
}

// show shows how far p is: as a part of its requests or, if their number has no limit, of its time.
func (p *plan) show(tallies []*tally, options ...mpb.ContainerOption) (stop func()) {
	container := mpb.New(options...)
	total := p.count
	if total == 0 {
		total = int64(p.length)
	}
	line := func(decor.Statistics) string { return p.line(sum(tallies)) }
	bar := container.AddBar(total, mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.Percentage()),
		mpb.AppendDecorators(decor.Any(line)))
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(progressEvery / 2)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				done := int64(p.since())
				if p.count > 0 {
					done = p.taken.Load()
				}
				bar.SetCurrent(min(done, total-1))
			case <-end:
				bar.Abort(true)
				container.Wait()
				return
			}
		}
	}()
	return func() { close(end); <-ended }
}

// line describes the results so far.
func (p *plan) line(t *tally) string {
	latency := t.service
	if t.response != nil {
		latency = t.response
	}
	at := func(q float64) string { return short(time.Duration(latency.ValueAtPercentile(q))) }
	return fmt.Sprintf(" %s/s  p50 %s  p99 %s  %d failed",
		number(float64(t.counts.requests)/p.since().Seconds(), 4),
		at(50), at(99), t.counts.failed)
}
