package hyper

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/state"
	"gohyper.dev/hyper/internal/wire"
)

// adaptiveBench returns the windows of a connection and of one of its streams, with adaptive
// managers, in the middle of a download at 1 Gbit/s over a round trip of 100 ms.
func adaptiveBench(tb testing.TB) (c *Conn, path, stream *Window) {
	tb.Helper()
	cfg, err := (*Config)(nil).withDefaults()
	if err != nil {
		tb.Fatal(err)
	}
	c = &Conn{
		cfg:     cfg,
		streams: streamTable{byID: map[uint32]*Stream{}},
	}
	c.flow.window.c, c.flow.window.credit = c, 65535
	c.flow.window.open(cfg.WindowManager)
	c.sampleRTTLocked(-100 * time.Millisecond)
	s := &Stream{c: c, id: 1, req: &Request{}, bodyLeft: -1, state: state.Open}
	s.window.c, s.window.s, s.window.credit = c, s, int64(cfg.InitialStreamWindow)
	s.window.open(cfg.WindowManager)
	return c, &c.flow.window, &s.window
}

// BenchmarkAdaptiveUpdate measures one event. A DATA frame of 16 KiB that is received and read
// causes four.
func BenchmarkAdaptiveUpdate(b *testing.B) {
	_, path, stream := adaptiveBench(b)
	const n = 16 << 10
	ev := [4]WindowEvent{
		{Kind: WindowData, Bytes: n, Credit: 60 << 20, Unread: n, Length: -1, RTT: 100 * time.Millisecond},
		{Kind: WindowData, Bytes: n, Credit: 20 << 20, Unread: n, Length: -1, RTT: 100 * time.Millisecond},
		{Kind: WindowConsumed, Bytes: n, Credit: 60 << 20, Length: -1, RTT: 100 * time.Millisecond},
		{Kind: WindowConsumed, Bytes: n, Credit: 20 << 20, Length: -1, RTT: 100 * time.Millisecond},
	}
	managers := [4]WindowManager{path.manager, stream.manager, path.manager, stream.manager}
	now := time.Second
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		k := i & 3
		if k == 0 {
			now += 131 * time.Microsecond
		}
		ev[k].Now = now
		managers[k].Update(ev[k])
	}
}

// BenchmarkWindowEvents measures the same events together with the library's accounting.
func BenchmarkWindowEvents(b *testing.B) {
	c, path, stream := adaptiveBench(b)
	const n = 16 << 10
	var out []byte
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += 4 {
		c.liveness.now += 131 * time.Microsecond
		path.receive(n, 0)
		path.update(WindowEvent{Kind: WindowData, Bytes: n})
		stream.receive(n, 0)
		stream.update(WindowEvent{Kind: WindowData, Bytes: n})
		path.consume(n)
		stream.consume(n)
		for _, w := range c.writer.updates {
			out = w.appendUpdate(out[:0])
		}
		c.writer.updates = c.writer.updates[:0]
	}
}

// AdaptiveWindow's documentation says that an update allocates nothing.
func TestAdaptiveUpdateAllocatesNothing(t *testing.T) {
	c, path, stream := adaptiveBench(t)
	frame := func() {
		c.liveness.now += 100 * time.Microsecond
		ev := WindowEvent{Kind: WindowData, Bytes: 16384}
		if !path.receive(16384, 0) || !stream.receive(16384, 0) {
			t.Fatal("the window is used up")
		}
		path.update(ev)
		stream.update(ev)
		path.consume(16384)
		stream.consume(16384)
		for _, w := range c.writer.updates {
			w.pending = 0
		}
		c.writer.updates = c.writer.updates[:0]
	}
	for range 1000 {
		frame()
	}
	if n := testing.AllocsPerRun(1000, frame); n != 0 {
		t.Errorf("%v allocations a frame", n)
	}
	if stream.credit < 1<<20 {
		t.Errorf("the window did not grow: %d", stream.credit)
	}
}

// A response that fits into the initial window needs no WINDOW_UPDATE, and its manager does not
// allocate.
func TestAdaptiveShortResponseCostsNothing(t *testing.T) {
	c, path, _ := adaptiveBench(t)
	s := &Stream{c: c, id: 3, req: &Request{}, state: state.Open}
	factory := c.cfg.WindowManager
	exchange := func() {
		s.window = Window{c: c, s: s, credit: adaptiveInitial}
		s.bodyLeft = -1
		s.window.open(factory)
		ev := WindowEvent{Kind: WindowData, Bytes: 1024, End: true}
		path.receive(1024, 0)
		s.window.receive(1024, 0)
		path.update(ev)
		s.window.update(ev)
		path.consume(1024)
		s.window.consume(1024)
		s.window.close()
		if s.window.pending != 0 {
			t.Fatalf("a WINDOW_UPDATE of %d", s.window.pending)
		}
	}
	exchange()
	if n := testing.AllocsPerRun(1000, exchange); n != 0 {
		t.Errorf("%v allocations a response", n)
	}
	// If this is not 0, a goroutine that waits for the lock would have to examine its stack.
	if n := c.mu.asks.Load(); n != 0 {
		t.Errorf("the default was taken %d times for a manager that may do anything", n)
	}
}

// The memory that the managers keep is bounded by the streams that are open, however many streams
// come and go.
func TestAdaptiveForgetsStreamsThatAreOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.Ignore(wire.WindowUpdate)
		for i := range 30 {
			id := uint32(2*i + 1)
			resp := answerGet(t, peer, conn, id, ":status: 200")
			peer.WriteData(id, 0, make([]byte, 100))
			switch i % 3 {
			case 0:
				peer.WriteData(id, wire.EndStream, nil)
				io.Copy(io.Discard, resp.Body)
			case 1:
				resp.Body.Close()
				peer.WantRSTStream("closed early", id, wire.Cancel)
			case 2:
				peer.WriteRSTStream(id, wire.Cancel)
				io.Copy(io.Discard, resp.Body)
			}
			synctest.Wait()
			path := conn.flow.window.manager.(*adaptivePath)
			if path.streams != 0 || path.open.next != &path.open {
				t.Fatalf("%d streams are in the books", path.streams)
			}
		}
	})
}

// A hole in TCP's data that is filled releases at once what has arrived meanwhile. That is not the
// path's rate.
func TestMeterSharesABurstAmongTheSilenceBefore(t *testing.T) {
	const rtt, each = 40 * time.Millisecond, 10 << 10 // in each quarter of a round trip
	var m meter
	add := func(at time.Duration, n int) {
		m.at(at, rtt)
		m.arrived += n
		m.consumed += n
	}
	now := time.Second
	for range 16 {
		add(now, each)
		now += rtt / 4
	}
	now += 25 * rtt
	add(now, 100*each)
	for range 8 {
		if last, _ := m.through(); last < 3*each || last > 5*each {
			t.Errorf("%d bytes in the last round trip, want about %d", last, 4*each)
		}
		now += rtt / 4
		add(now, each)
	}
	if last, before := m.through(); last != 4*each || before < 3*each || before > 5*each {
		t.Errorf("then %d and %d bytes, want about %d", last, before, 4*each)
	}
}

// The first round trip shows how much a sender without slow start may send, as far as the reader
// keeps up.
func TestFirstRoundTripOfAConnectionCountsMore(t *testing.T) {
	for _, read := range []int{1 << 20, 32 << 10} {
		e := pathEstimate{rtt: 100 * time.Millisecond}
		ev := WindowEvent{Kind: WindowData, Bytes: 1 << 20, Total: 1 << 20, Now: time.Second, Unread: 1 << 20}
		e.observe(&ev)
		ev.Kind, ev.Bytes = WindowConsumed, read
		e.observe(&ev)
		if grown := e.need >= 16<<20; grown != (read == 1<<20) {
			t.Errorf("%d bytes read: the path is to need %d", read, e.need)
		}
	}
}
