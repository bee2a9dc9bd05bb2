package hyper

import (
	"io"
	"testing"
	"time"

	"gohyper.dev/hyper/internal/wire"
)

// addAndDeliver queues a step as under the connection's lock, and delivers it as after that.
func addAndDeliver(t *connTracer) {
	t.addLocked(TraceSlotWait, nil, false)
	if t.claimLocked() {
		t.deliverAndUnlock()
	}
}

// While Config.Trace does not return, a bounded number of events waits for it. The others are
// dropped and counted.
func TestTraceQueueIsBounded(t *testing.T) {
	got, lost := 0, 0
	tracer := makeConnTracer(&Conn{start: time.Now()}, func(e TraceEvent) {
		got++
		lost += e.Lost
	})
	tracer.delivery.lock() // as while the function runs
	const extra = 123
	for range maxQueuedEvents + extra {
		addAndDeliver(tracer)
	}
	tracer.delivery.unlock()
	receive(tracer, wire.FrameHeader{})
	if got != maxQueuedEvents+1 || lost != extra {
		t.Errorf("%d events and %d lost, want %d and %d", got, lost, maxQueuedEvents+1, extra)
	}
	addAndDeliver(tracer)
	if got != maxQueuedEvents+2 {
		t.Errorf("%d events, want %d", got, maxQueuedEvents+2)
	}
	for _, q := range []*stepQueue{tracer.queue, tracer.claimed, &tracer.left} {
		if q.n > 0 || len(q.slots) > keptSteps {
			t.Errorf("%d steps are queued, and memory for %d is kept", q.n, len(q.slots))
		}
	}
}

// Dropped events are counted in the next event, of whatever kind it is.
func TestDroppedEventsAreCountedInTheNextEvent(t *testing.T) {
	var events []TraceEvent
	tracer := makeConnTracer(&Conn{start: time.Now()}, func(e TraceEvent) { events = append(events, e) })
	fill := func(extra int) {
		tracer.delivery.lock() // as while the function runs
		for range maxQueuedEvents + extra {
			addAndDeliver(tracer)
		}
		tracer.delivery.unlock()
		tracer.deliverLeft() // as the caller of the function does
	}
	fill(5)
	fill(7)
	receive(tracer, wire.FrameHeader{})
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

// The end of a connection is reported however many events were dropped before it, and has their
// number, because no event follows. They can be dropped because Config.Trace takes long, or because
// one step of the connection has so many effects.
func TestEndOfAConnectionIsReportedAfterDroppedEvents(t *testing.T) {
	const extra = 123
	for name, step := range map[string]func(*connTracer){
		"one after the other": addAndDeliver,
		"at once":             func(t *connTracer) { t.addLocked(TraceSlotWait, nil, false) },
	} {
		t.Run(name, func(t *testing.T) {
			got := 0
			var last TraceEvent
			tracer := makeConnTracer(&Conn{start: time.Now()}, func(e TraceEvent) { got, last = got+1, e })
			tracer.delivery.lock() // as while the function runs
			for range maxQueuedEvents + extra {
				step(tracer)
			}
			tracer.connClosedLocked(io.EOF)
			if tracer.claimLocked() {
				t.Fatal("another goroutine delivers")
			}
			tracer.delivery.unlock()
			tracer.deliverLeft()
			if got != maxQueuedEvents+1 || last.Kind != TraceConnClosed || last.Err != io.EOF ||
				last.Lost != extra {
				t.Errorf("%d events, and the last is %v with %d lost", got, last, last.Lost)
			}
		})
	}
}
