package hyper

import (
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"gohyper.dev/hyper/internal/wire"
)

// tracedConn returns a connection without loops, with sink as its Config.Trace.
func tracedConn(sink func(TraceEvent)) (*Conn, *connTracer) {
	c := &Conn{start: time.Now()}
	t := makeConnTracer(c, sink)
	t.sent.begun = true
	c.writer.tracer = t
	return c, t
}

// step does a step of c with the number n.
func step(c *Conn, n uint32) {
	c.lock()
	c.writer.tracer.addLocked(TraceHalfClosed, nil, false).streamID = n
	c.unlock()
}

// receive reports a received frame, and ends its processing, as readLoop does.
func receive(t *connTracer, h wire.FrameHeader) {
	t.received(h, nil, nil)
	t.c.lock()
	t.framesDoneLocked(false)
	t.c.unlock()
	t.framesDone()
}

// Each event is copied several times on its way: sizes that are multiples of 64 bytes are cheap.
func TestTraceEventsAreSmall(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) < 8 {
		t.Skip("the sizes are those of 64 bits")
	}
	if event, step := unsafe.Sizeof(TraceEvent{}), unsafe.Sizeof(traceStep{}); event > 256 || step > 32 {
		t.Errorf("an event takes %d bytes and a step %d, want 256 and 32", event, step)
	}
}

// However many goroutines use a connection, no step is lost, and the steps are delivered in their
// order, one after the other.
func TestStepsOfManyGoroutinesAreDeliveredInOrder(t *testing.T) {
	const goroutines, each = 8, 1000
	var busy sync.Mutex
	last, frames := uint32(0), 0
	c, tracer := tracedConn(func(e TraceEvent) {
		if !busy.TryLock() {
			t.Error("two events are delivered at the same time")
			return
		}
		defer busy.Unlock()
		switch {
		case e.Kind == TraceFrame:
			frames++
		case e.StreamID != last+1:
			t.Errorf("step %d after step %d", e.StreamID, last)
			fallthrough
		default:
			last = e.StreamID
		}
	})
	n := uint32(0)
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range each {
				c.lock()
				n++
				tracer.addLocked(TraceHalfClosed, nil, false).streamID = n
				c.unlock()
			}
		})
	}
	wg.Go(func() { // as writeLoop
		batch := wire.AppendData(wire.AppendData(nil, 1, 0, []byte("a")), 1, 0, []byte("b"))
		for range each {
			tracer.sending(batch)
		}
	})
	wg.Go(func() { // as readLoop
		for i := range each {
			tracer.received(wire.FrameHeader{}, nil, nil)
			tracer.deliverHeld()
			c.lock()
			n++
			tracer.addLocked(TraceHalfClosed, nil, false).streamID = n
			tracer.framesDoneLocked(i%2 == 0 && i < each-1)
			c.unlock()
			tracer.framesDone()
		}
	})
	wg.Wait()
	if want := uint32((goroutines + 1) * each); last != want || frames != 3*each {
		t.Errorf("%d steps and %d frames, want %d and %d", last, frames, want, 3*each)
	}
	if s := tracer.delivery.state.Load(); s != 0 {
		t.Errorf("the state of the delivery is %d at the end", s)
	}
}

// A function that panics in a call of the user's does not stop the delivery of what happens later.
func TestPanicOfTraceDoesNotStopTheDelivery(t *testing.T) {
	var got []uint32
	c, tracer := tracedConn(func(e TraceEvent) {
		got = append(got, e.StreamID)
		if e.StreamID == 1 {
			panic("as a test")
		}
	})
	func() {
		defer func() { recover() }()
		step(c, 1)
		t.Error("the function did not panic")
	}()
	step(c, 2)
	receive(tracer, wire.FrameHeader{StreamID: 3})
	if len(got) != 3 || got[1] != 2 || got[2] != 3 {
		t.Errorf("delivered %v, want 1, 2 and 3", got)
	}
}

// Steps that happen just before a write wait for it, so that one goroutine delivers those of many
// requests. They do not wait during a write, which may block, nor for received frames.
func TestStepsBeforeAWriteAreDeliveredWithIt(t *testing.T) {
	var got []uint32
	c, tracer := tracedConn(func(e TraceEvent) { got = append(got, e.StreamID) })
	want := func(reason string, n int) {
		t.Helper()
		if len(got) != n {
			t.Errorf("%s: delivered %v, want %d steps", reason, got, n)
		}
	}
	c.writer.out = wire.AppendPing(nil, 0, [8]byte{})
	step(c, 1)
	want("writeLoop will write", 0)
	c.lock()
	c.liveness.writeSince = 1
	c.unlock()
	want("it writes", 1)
	step(c, 2)
	want("it still writes", 2)
	c.lock()
	c.liveness.writeSince = 0
	c.unlock()
	step(c, 3)
	want("it will write again", 2)
	c.lock()
	tracer.readLocked()
	c.unlock()
	want("the socket was read", 3)
	step(c, 4)
	want("it will still write", 3)
	c.lock()
	tracer.framesDoneLocked(true)
	c.unlock()
	want("a frame follows", 3)
	receive(tracer, wire.FrameHeader{StreamID: 5})
	want("the frame", 5)
	c.lock()
	tracer.framesDoneLocked(true) // nothing is queued: it means nothing for what comes later
	c.unlock()
	tracer.framesDone()
	c.writer.out = nil
	step(c, 6)
	want("nothing is to be written", 6)
}

// What happens while the owner holds its locks is delivered by another goroutine, at once.
func TestStepsInACallOfTheOwnerAreDelivered(t *testing.T) {
	got := make(chan TraceEvent)
	c, tracer := tracedConn(func(e TraceEvent) { got <- e })
	c.lock()
	tracer.addLocked(TraceHalfClosed, nil, false).streamID = 1
	c.unlockForOwner()
	if e := <-got; e.StreamID != 1 {
		t.Errorf("delivered %v", e)
	}
}

// An event costs no allocation: neither a step, nor a frame that is received, nor one that is sent,
// with a field section that was sent before.
func TestTraceEventsAllocateNothing(t *testing.T) {
	events, fields := 0, 0
	c, tracer := tracedConn(func(e TraceEvent) {
		events++
		fields += len(e.Fields)
	})
	tracer.sent.init(wire.HeaderTableSize)
	batch := append(wire.AppendFrameHeader(nil, wire.FrameHeader{Length: 2, Type: wire.Headers,
		Flags: wire.EndHeaders, StreamID: 1}), 0x82, 0x87) // :method: GET, :scheme: https
	batch = wire.AppendData(batch, 1, wire.EndStream, []byte("data"))
	allocs := testing.AllocsPerRun(100, func() {
		step(c, 1)
		tracer.sending(batch)
		tracer.received(wire.FrameHeader{Type: wire.Headers, Flags: wire.EndHeaders, StreamID: 1}, nil, nil)
		receive(tracer, wire.FrameHeader{Type: wire.Data, StreamID: 1})
		step(c, 2)
	})
	if allocs != 0 || events != 101*6 || fields != 101*2 {
		t.Errorf("%v allocations, %d events with %d fields, want 0, %d and %d", allocs, events, fields,
			101*6, 101*2)
	}
}

// Steps that happen while a received frame is delivered are delivered before those of the frame
// itself, also if a goroutine has left them for readLoop.
func TestStepsBeforeAReceivedFrameIsProcessedComeFirst(t *testing.T) {
	for _, nextIsRead := range []bool{false, true} {
		var got []uint32
		c, tracer := tracedConn(func(e TraceEvent) { got = append(got, e.StreamID) })
		tracer.received(wire.FrameHeader{StreamID: 1}, nil, nil)
		step(c, 2)
		c.lock()
		tracer.addLocked(TraceHalfClosed, nil, false).streamID = 3
		tracer.framesDoneLocked(nextIsRead)
		c.unlock()
		tracer.framesDone()
		step(c, 4)
		receive(tracer, wire.FrameHeader{StreamID: 5})
		step(c, 6)
		want := []uint32{1, 2, 3, 4, 5, 6}
		if nextIsRead { // what happens between the frames is delivered with the steps of the second
			want = []uint32{1, 2, 3, 5, 4, 6}
		}
		if !slices.Equal(got, want) {
			t.Errorf("nextIsRead=%v: delivered %v, want %v", nextIsRead, got, want)
		}
	}
}

// A function that ends the goroutine of readLoop, as testing.T.FailNow does, leaves no lock.
func TestGoexitInTraceDoesNotStopTheDelivery(t *testing.T) {
	var got []uint32
	c, tracer := tracedConn(func(e TraceEvent) {
		if got = append(got, e.StreamID); e.StreamID == 1 {
			runtime.Goexit()
		}
	})
	done := make(chan struct{})
	go func() { // as readLoop
		defer close(done)
		defer tracer.framesDropped()
		tracer.received(wire.FrameHeader{StreamID: 1}, nil, nil)
	}()
	<-done
	step(c, 2)
	tracer.sending(wire.AppendData(nil, 3, 0, nil))
	if !slices.Equal(got, []uint32{1, 2, 3}) {
		t.Errorf("delivered %v, want 1, 2 and 3", got)
	}
}
