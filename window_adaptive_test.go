package hyper

import (
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
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

func TestAdaptiveIsTheDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		if credit := peer.Credit(0); credit != 64<<20 {
			t.Errorf("the connection's window is %d, not the budget", credit)
		}
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		if credit := peer.Credit(1); credit != 256<<10-1 {
			t.Errorf("the stream begins with %d", credit)
		}
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 60_000))
		resp := got.want(t, "the response")
		readOctets(t, resp.Body, 60_000)
		peer.WriteData(1, wire.EndStream, nil)
		wantBody(t, "no more", resp.Body, "")
		peer.WantIdle("nothing was needed")

		// For a larger response, it must be known that it ends within the window.
		resp = answerGet(t, peer, conn, 3, ":status: 200", "content-length: 262000")
		peer.WriteData(3, wire.EndStream, make([]byte, 262_000))
		readOctets(t, resp.Body, 262_000)
		peer.WantIdle("nothing was needed, either")
	})
}

// When a grant reaches a sender in slow start, that sender has sent twice what the client sees now.
// It must not have used up its window by then.
func TestAdaptiveGrantsBeforeASenderThatDoublesMustStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.Ignore(wire.WindowUpdate)
		peer.AutoPing()
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		const seen = 100_000
		peer.WriteData(1, 0, make([]byte, seen))
		readOctets(t, resp.Body, seen)
		synctest.Wait()
		if credit := peer.Credit(1); credit < 2*seen {
			t.Errorf("%d octets were seen, and the peer may send %d more", seen, credit)
		}
		resp.Body.Close()
	})
}

// download plays a peer that sends size bytes on stream 1 as the windows allow, one window each
// rtt, to a reader that reads at once. It returns the largest window and the sum of the
// WINDOW_UPDATEs.
func download(t *testing.T, peer *h2test.Peer, body io.Reader, size int, rtt time.Duration) (largest,
	granted int) {
	t.Helper()
	done := make(chan int64)
	go func() {
		n, _ := io.Copy(io.Discard, body)
		done <- n
	}()
	first := peer.Credit(1)
	for sent := 0; sent < size; {
		synctest.Wait()
		window := min(peer.Credit(0), peer.Credit(1))
		if window <= 0 {
			t.Fatalf("no window after %d of %d octets", sent, size)
		}
		largest = max(largest, window)
		for n := min(window, size-sent); n > 0; {
			k := min(n, 16384)
			peer.WriteData(1, 0, make([]byte, k))
			n -= k
			sent += k
		}
		time.Sleep(rtt)
	}
	synctest.Wait()
	granted = peer.Credit(1) - first + size
	peer.WriteData(1, wire.EndStream, nil)
	if n := <-done; n != int64(size) {
		t.Errorf("read %d of %d octets", n, size)
	}
	return largest, granted
}

// A peer that always uses its whole window is limited by it. The window must grow up to the budget,
// as fast as slow start would.
func TestAdaptiveGrowsWhileThePeerUsesIt(t *testing.T) {
	for name, request := range map[string]*Request{
		"of the connection": {},
		"of the request":    {WindowManager: AdaptiveWindow{Budget: 8 << 20}.New},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := &Config{WindowManager: AdaptiveWindow{Budget: 8 << 20}.New, InitialStreamWindow: 65535}
				if request.WindowManager != nil {
					// The stream's manager then works alone.
					cfg.WindowManager = ReadWindow{Connection: 8 << 20}.New
				}
				peer, conn := dialPeer(t, cfg)
				peer.Ignore(wire.WindowUpdate)
				peer.AutoPing()
				got := doAsync(t.Context(), conn, request)
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: 200")
				largest, _ := download(t, peer, got.want(t, "the response").Body, 64<<20, 50*time.Millisecond)
				if largest < 4<<20 || largest > 8<<20 {
					t.Errorf("the largest window is %d", largest)
				}
			})
		})
	}
}

// The manager grants no more than a body of known length needs, plus one byte, because some servers
// need an open window to send END_STREAM.
func TestAdaptiveGrantsNoMoreThanTheLength(t *testing.T) {
	for _, size := range []int{262_142, 262_143, 300_000, 5 << 20} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			peer.Ignore(wire.WindowUpdate)
			peer.AutoPing()
			resp := answerGet(t, peer, conn, 1, ":status: 200", fmt.Sprint("content-length: ", size))
			_, granted := download(t, peer, resp.Body, size, 20*time.Millisecond)
			if want := max(0, size+1-adaptiveInitial); granted != want {
				t.Errorf("%d octets: %d were granted beyond the initial window, want %d", size, granted, want)
			}
		})
	}
}

func TestAdaptiveAnswersAStarvedReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{WindowManager: AdaptiveWindow{}.New, InitialStreamWindow: -1})
		peer.Ignore(wire.WindowUpdate)
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		go resp.Body.Read(make([]byte, 1))
		synctest.Wait()
		if got := peer.Credit(1); got < 200<<10 || got > adaptiveInitial {
			t.Errorf("the peer may send %d", got)
		}
		resp.Body.Close()
	})
}

// On a connection that has carried large responses, the next response begins with its share of the
// budget. After several small responses it does not any more.
func TestAdaptiveGrantsAheadWhereResponsesAreLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.Ignore(wire.WindowUpdate)
		peer.AutoPing()
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		download(t, peer, resp.Body, 64<<20, 50*time.Millisecond)
		id, ahead := uint32(3), 0
		for range 20 {
			got := getAsync(conn, "/")
			peer.WantHeaders("another one", id)
			synctest.Wait() // what follows the request may be in another write
			if peer.Credit(id) > adaptiveInitial {
				ahead++
			}
			peer.WriteHeaders(id, wire.EndStream, ":status: 200")
			got.want(t, "a small response")
			id += 2
		}
		if ahead != 8 {
			t.Errorf("%d of 20 small responses were granted ahead, want the first 8", ahead)
		}
	})
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
			if path.streams != 0 || path.open != nil {
				t.Fatalf("%d streams are in the books", path.streams)
			}
			if spare := path.spareStreams; spare == nil || spare.next != nil {
				t.Fatal("not exactly one manager is kept")
			}
		}
	})
}
