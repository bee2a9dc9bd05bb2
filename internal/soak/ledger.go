package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// A ledger counts what the client and the servers have done. Its size does not grow with the run.
type ledger struct {
	exchanges atomic.Int64 // started
	whole     atomic.Int64 // complete, and every byte was right
	up, down  atomic.Int64 // bytes checked by the servers and by the client
	retries   atomic.Int64
	dials     atomic.Int64
	pushes    atomic.Int64 // read, and every byte was right
	pings     atomic.Int64
	restarts  atomic.Int64

	processed []atomic.Uint64 // a bit for each request, set when a handler starts

	mu         sync.Mutex
	kinds      map[string]int // errors that have an explanation
	violations []string       // errors that have none
	broken     int            // the number of those
}

// The limits of a ledger.
const (
	maxExchanges  = 1 << 24
	maxViolations = 20 // that are shown
)

// newLedger returns an empty ledger.
func newLedger() *ledger {
	return &ledger{processed: make([]atomic.Uint64, maxExchanges/64), kinds: make(map[string]int)}
}

// process records that a handler starts to process the request. A request must not be processed
// twice, however often it was sent.
func (l *ledger) process(id uint64) {
	if bit := uint64(1) << (id % 64); l.processed[id/64].Or(bit)&bit != 0 {
		l.violate(fmt.Errorf("request %d was processed twice", id))
	}
}

// wasProcessed reports whether a handler has started to process the request.
func (l *ledger) wasProcessed(id uint64) bool { return l.processed[id/64].Load()>>(id%64)&1 != 0 }

// explain counts an error that has an explanation.
func (l *ledger) explain(kind string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kinds[kind]++
}

// violate records an error that has no explanation.
func (l *ledger) violate(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken++; len(l.violations) < maxViolations {
		l.violations = append(l.violations, err.Error())
	}
}

// verdict returns nil if everything was right, and otherwise the violations.
func (l *ledger) verdict() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken == 0 {
		return nil
	}
	list := []error{fmt.Errorf("%d violations", l.broken)}
	for _, v := range l.violations {
		list = append(list, errors.New(v))
	}
	return errors.Join(list...)
}

// explained returns a line for each kind of explained error, with its count.
func (l *ledger) explained() (lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, kind := range slices.Sorted(maps.Keys(l.kinds)) {
		lines = append(lines, fmt.Sprintf("%-44s %12d", kind, l.kinds[kind]))
	}
	return lines
}
