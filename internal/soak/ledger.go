package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// A ledger is what both sides write down. It does not grow with the run.
type ledger struct {
	exchanges atomic.Int64 // begun
	whole     atomic.Int64 // answered, and every octet was right
	up, down  atomic.Int64 // octets checked, by the server and by the client
	retries   atomic.Int64
	dials     atomic.Int64
	pushes    atomic.Int64 // taken, and every octet was right
	pings     atomic.Int64
	restarts  atomic.Int64

	processed []atomic.Uint64 // a bit for each request: a handler has begun it

	mu         sync.Mutex
	kinds      map[string]int // errors that have an explanation
	violations []string       // those that have none
	broken     int            // their number
}

const (
	maxExchanges  = 1 << 24
	maxViolations = 20 // shown
)

func newLedger() *ledger {
	return &ledger{processed: make([]atomic.Uint64, maxExchanges/64), kinds: make(map[string]int)}
}

// process books that a handler begins the request. No request may be processed twice, however often it was sent.
func (l *ledger) process(id uint64) {
	if bit := uint64(1) << (id % 64); l.processed[id/64].Or(bit)&bit != 0 {
		l.violate(fmt.Errorf("request %d was processed twice", id))
	}
}

func (l *ledger) wasProcessed(id uint64) bool { return l.processed[id/64].Load()>>(id%64)&1 != 0 }

func (l *ledger) explain(kind string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kinds[kind]++
}

func (l *ledger) violate(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken++; len(l.violations) < maxViolations {
		l.violations = append(l.violations, err.Error())
	}
}

// verdict is nil where everything was right.
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

func (l *ledger) explained() (lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, kind := range slices.Sorted(maps.Keys(l.kinds)) {
		lines = append(lines, fmt.Sprintf("%-44s %12d", kind, l.kinds[kind]))
	}
	return lines
}
