// This file counts the results of get bench and keeps their latencies.

package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"gohyper.dev/hyper"
)

// The range of latencies that are distinguished, with three digits.
const (
	minLatency = time.Microsecond
	maxLatency = 10 * time.Minute
	digits     = 3
)

// newHistogram returns a histogram of latencies in nanoseconds.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(int64(minLatency), int64(maxLatency), digits)
}

// record adds a latency to h.
func record(h *hdrhistogram.Histogram, d time.Duration) {
	h.RecordValue(int64(min(max(d, minLatency), maxLatency)))
}

// A tally has the results of some workers.
type tally struct {
	mu       sync.Mutex
	service  *hdrhistogram.Histogram // since requests were sent
	response *hdrhistogram.Histogram // since they were due; nil in the closed model
	counts   counts
}

// counts are the numbers of a tally.
type counts struct {
	requests int64       // with a response
	statuses [1000]int64 // by status, which has three digits
	failures map[string]int64
	failed   int64
	retries  int64
	bytes    int64 // of bodies
}

// newTally returns an empty tally.
func newTally(open bool) *tally {
	t := &tally{service: newHistogram(), counts: newCounts()}
	if open {
		t.response = newHistogram()
	}
	return t
}

// newCounts returns counts of zero.
func newCounts() counts {
	return counts{failures: make(map[string]int64)}
}

// reset empties the tally.
func (t *tally) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.service.Reset()
	if t.response != nil {
		t.response.Reset()
	}
	t.counts = newCounts()
}

// add counts a result. A request that has failed has no latency, except that one that took too long
// has the time that it took.
func (t *tally) add(o *outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts.retries += int64(o.retries)
	t.counts.bytes += o.bytes
	if o.err != nil {
		t.counts.fail(failureKind(o.err), 1)
		if o.err != errTimeout {
			return
		}
	} else {
		t.counts.requests++
		t.counts.statuses[o.status%1000]++
	}
	record(t.service, o.service)
	if t.response != nil {
		record(t.response, o.response)
	}
}

// maxKinds bounds how many kinds of failures are counted.
const maxKinds = 20

// fail counts n failures of a kind.
func (c *counts) fail(kind string, n int64) {
	c.failed += n
	if _, known := c.failures[kind]; !known && len(c.failures) >= maxKinds {
		kind = "other failures"
	}
	c.failures[kind] += n
}

// merge adds the results of t to sum.
func (sum *tally) merge(t *tally) {
	t.mu.Lock()
	defer t.mu.Unlock()
	sum.service.Merge(t.service)
	if t.response != nil {
		sum.response.Merge(t.response)
	}
	sum.counts.requests += t.counts.requests
	sum.counts.retries += t.counts.retries
	sum.counts.bytes += t.counts.bytes
	for status, n := range t.counts.statuses {
		sum.counts.statuses[status] += n
	}
	for _, kind := range slices.Sorted(maps.Keys(t.counts.failures)) {
		sum.counts.fail(kind, t.counts.failures[kind])
	}
}

// sum returns the sum of tallies.
func sum(tallies []*tally) *tally {
	all := newTally(tallies[0].response != nil)
	for _, t := range tallies {
		all.merge(t)
	}
	return all
}

// failureKind returns what failures have in common that differ by their stream or time.
func failureKind(err error) string {
	var stream *hyper.StreamError
	var conn *hyper.ConnError
	var errno syscall.Errno
	switch {
	case errors.As(err, &stream):
		return fmt.Sprintf("stream ended: %v", stream.Code)
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &conn):
		return fmt.Sprintf("connection ended: %v", conn.Code)
	}
	text := strings.TrimPrefix(err.Error(), "hyper: ")
	return printable(text[:min(len(text), 100)])
}

// maxSteps bounds how many values correct adds for one.
const maxSteps = 100_000

// correct returns h corrected for coordinated omission, as HdrHistogram does. In the closed model a
// worker with a slow response does not send the requests that it would have sent in the
// meantime, one each interval. They are added with the time that they would have waited.
func correct(h *hdrhistogram.Histogram, interval time.Duration) *hdrhistogram.Histogram {
	c := newHistogram()
	for _, bar := range h.Distribution() {
		if bar.Count == 0 {
			continue
		}
		c.RecordValues(bar.From, bar.Count)
		if interval <= 0 {
			continue
		}
		together := 1 + bar.From/int64(interval)/maxSteps
		step := together * int64(interval)
		for v := bar.From - step; v >= step; v -= step {
			c.RecordValues(v, together*bar.Count)
		}
	}
	return c
}
