package hyper

import (
	"testing"
	"time"
)

// While Config.Trace does not return, a bounded number of events waits for it. The others are
// dropped and counted.
func TestTraceQueueIsBounded(t *testing.T) {
	got, lost := 0, 0
	tracer := &connTracer{c: &Conn{start: time.Now()}, delivery: newDelivery(), sink: func(e TraceEvent) {
		got++
		lost += e.Lost
	}}
	tracer.delivery.lock() // as while the function runs
	const extra = 123
	for range maxQueuedEvents + extra {
		tracer.addLocked(&traceStep{kind: TraceSlotWait})
		tracer.flush()
	}
	tracer.delivery.unlock()
	tracer.report(&TraceEvent{})
	if got != maxQueuedEvents+1 || lost != extra {
		t.Errorf("%d events and %d lost, want %d and %d", got, lost, maxQueuedEvents+1, extra)
	}
	tracer.addLocked(&traceStep{kind: TraceSlotWait})
	tracer.flush()
	if got != maxQueuedEvents+2 || len(tracer.queue) > 0 || cap(tracer.spare) > 64 {
		t.Errorf("%d events, %d queued, memory for %d is kept", got, len(tracer.queue), cap(tracer.spare))
	}
}

// Dropped events are counted in the next event, of whatever kind it is.
func TestDroppedEventsAreCountedInTheNextEvent(t *testing.T) {
	var events []TraceEvent
	tracer := &connTracer{c: &Conn{start: time.Now()}, delivery: newDelivery(), sink: func(e TraceEvent) {
		events = append(events, e)
	}}
	fill := func(extra int) {
		tracer.delivery.lock() // as while the function runs
		for range maxQueuedEvents + extra {
			tracer.addLocked(&traceStep{kind: TraceSlotWait})
			tracer.flush()
		}
		tracer.delivery.unlock()
		tracer.flush() // as the caller of the function does
	}
	fill(5)
	fill(7)
	tracer.report(&TraceEvent{})
	lost := map[int]int{}
	for i, e := range events {
		if e.Lost > 0 {
			lost[i] = e.Lost
		}
	}
	if len(lost) != 2 || lost[maxQueuedEvents] != 5 || lost[2*maxQueuedEvents] != 7 {
		t.Errorf("of %d events, these say that events were lost: %v", len(events), lost)
	}
}
