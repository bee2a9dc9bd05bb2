package flowsim

import (
	"math"
	"sync"
	"time"

	"gohyper.dev/hyper"
)

// A pinger sends a PING, and calls done with its round trip. It does not block.
type pinger func(done func(rtt time.Duration))

// The managers of net/http have windows of a fixed size.
const (
	netHTTPStream     = 4 << 20
	netHTTPConnection = 1<<30 + 65535
	netHTTPStep       = 4 << 10
)

// static manages windows as net/http does. Windows have a fixed size. Once the bytes read reach
// step, or what is left, the window is opened to its full size again.
func static(stream, step, connection int) hyper.WindowManagerFactory {
	return func(w *hyper.Window) hyper.WindowManager {
		size := stream
		if w.StreamID() == 0 {
			size = connection
		}
		return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
			gap := size - ev.Credit - ev.Unread
			if gap >= min(step, ev.Credit) || ev.Kind == hyper.WindowOpened {
				return max(0, gap)
			}
			return 0
		})
	}
}

// The windows of .NET (Http2StreamWindowManager).
const (
	dotNetStream     = 65535
	dotNetMost       = 16 << 20
	dotNetConnection = 64 << 20
	dotNetRatio      = 8 // an update is sent when an eighth of a window was read
	dotNetBurst      = 4 // PINGs at the beginning
	dotNetInterval   = time.Second
)

// dotNet manages windows as .NET does. A stream's window doubles if its bytes come faster than a
// window in each of the shortest round trips. Round trips are measured by PINGs.
func dotNet(ping pinger) hyper.WindowManagerFactory {
	return func(w *hyper.Window) hyper.WindowManager {
		if w.StreamID() == 0 {
			return &dotNetConn{ping: ping}
		}
		return &dotNetWindow{size: dotNetStream}
	}
}

// A dotNetConn is the manager of a connection's window.
type dotNetConn struct {
	ping     pinger
	pings    int
	last     time.Duration // when the last PING was sent
	read     int
	inFlight bool
	mu       sync.Mutex // guards inFlight
}

// Update implements hyper.WindowManager.
func (d *dotNetConn) Update(ev hyper.WindowEvent) int {
	switch ev.Kind {
	case hyper.WindowOpened:
		return dotNetConnection - ev.Credit
	case hyper.WindowData:
		d.measure(ev.Now)
	case hyper.WindowConsumed:
		if d.read += ev.Bytes; d.read >= dotNetConnection/dotNetRatio {
			n := d.read
			d.read = 0
			return n
		}
	}
	return 0
}

// measure sends a PING if one is due.
func (d *dotNetConn) measure(now time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inFlight || d.pings >= dotNetBurst && now-d.last <= dotNetInterval {
		return
	}
	d.inFlight, d.last = true, now
	d.pings++
	d.ping(func(time.Duration) { // the library keeps the shortest round trip
		d.mu.Lock()
		d.inFlight = false
		d.mu.Unlock()
	})
}

// A dotNetWindow is the manager of a stream's window.
type dotNetWindow struct {
	size, read int
	last       time.Duration // when it was updated
}

// Update implements hyper.WindowManager.
func (d *dotNetWindow) Update(ev hyper.WindowEvent) int {
	switch ev.Kind {
	case hyper.WindowOpened:
		d.last = ev.Now
	case hyper.WindowConsumed:
		if d.read += ev.Bytes; d.read < d.size/dotNetRatio {
			return 0
		}
		n, took := d.read, ev.Now-d.last
		if ev.RTT > 0 && float64(d.read)*float64(ev.RTT) > float64(d.size)*float64(took) {
			bigger := min(dotNetMost, 2*d.size)
			n += bigger - d.size
			d.size = bigger
		}
		d.read, d.last = 0, ev.Now
		return n
	}
	return 0
}

// The windows of quic-go (internal/protocol, params.go).
const (
	quicStream, quicStreamMost = 512 << 10, 6 << 20
	quicConn, quicConnMost     = 768 << 10, 15 << 20
)

// quicGo manages windows as quic-go does. An update is sent when a quarter of a window was read.
// The window doubles if more than half of it was read since the last look, faster than one window
// in four round trips. QUIC measures round trips by all acknowledgments. Here PINGs do, one after
// another.
func quicGo(ping pinger) hyper.WindowManagerFactory {
	return func(w *hyper.Window) hyper.WindowManager {
		if w.StreamID() == 0 {
			c := &quicConnWindow{ping: ping}
			c.size, c.most = quicConn, quicConnMost
			return c
		}
		s := &quicStreamWindow{conn: w.ConnManager().(*quicConnWindow)}
		s.size, s.most = quicStream, quicStreamMost
		return s
	}
}

// A quicWindow is what the windows of connections and of streams have in common.
type quicWindow struct {
	size, most int
	read       int64
	epoch      time.Duration // since when readEpoch counts
	readEpoch  int64         // read at epoch
	started    bool
}

// consume counts n bytes that were read. It returns an increment.
func (q *quicWindow) consume(ev hyper.WindowEvent, rtt time.Duration) int {
	if !q.started {
		q.started = true
		q.begin(ev.Now)
	}
	q.read += int64(ev.Bytes)
	if ev.Credit+ev.Unread > q.size*3/4 {
		return 0
	}
	if n := q.read - q.readEpoch; n > int64(q.size/2) && rtt > 0 {
		if part := float64(n) / float64(q.size); float64(ev.Now-q.epoch) < 4*part*float64(rtt) {
			q.size = min(2*q.size, q.most)
		}
		q.begin(ev.Now)
	}
	return max(0, q.size-ev.Credit-ev.Unread)
}

// begin begins an epoch.
func (q *quicWindow) begin(now time.Duration) { q.epoch, q.readEpoch = now, q.read }

// A quicConnWindow is the manager of a connection's window.
type quicConnWindow struct {
	quicWindow
	ping pinger

	mu       sync.Mutex // guards the fields below
	inFlight bool
	smoothed time.Duration
}

// rtt returns the smoothed round trip.
func (q *quicConnWindow) rtt() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.smoothed
}

// measure sends a PING if none is in flight.
func (q *quicConnWindow) measure() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.inFlight {
		return
	}
	q.inFlight = true
	q.ping(func(rtt time.Duration) {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.inFlight = false
		if q.smoothed == 0 {
			q.smoothed = rtt
		}
		q.smoothed += (rtt - q.smoothed) / 8
	})
}

// Update implements hyper.WindowManager.
func (q *quicConnWindow) Update(ev hyper.WindowEvent) int {
	switch ev.Kind {
	case hyper.WindowOpened:
		return q.size - ev.Credit
	case hyper.WindowRTT:
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.smoothed == 0 {
			q.smoothed = ev.RTT
		}
	case hyper.WindowData:
		q.measure()
	case hyper.WindowConsumed:
		return q.consume(ev, q.rtt())
	}
	return 0
}

// A quicStreamWindow is the manager of a stream's window.
type quicStreamWindow struct {
	quicWindow
	conn *quicConnWindow
}

// Update implements hyper.WindowManager.
func (q *quicStreamWindow) Update(ev hyper.WindowEvent) int {
	switch ev.Kind {
	case hyper.WindowOpened:
		return max(0, q.size-ev.Credit)
	case hyper.WindowConsumed:
		before := q.size
		n := q.consume(ev, q.conn.rtt())
		if q.size > before { // the connection's window is at least 1.5 times as large
			q.conn.size = max(q.conn.size, min(q.size*3/2, q.conn.most))
			q.conn.begin(ev.Now)
		}
		return n
	}
	return 0
}

// The windows and constants of grpc-go (internal/transport, bdp_estimator.go).
const (
	grpcWindow = 65535
	grpcMost   = 16 << 20
	grpcAlpha  = 0.9
	grpcBeta   = 0.66
	grpcGamma  = 2
)

// grpcGo manages windows as grpc-go does. All windows have the same size. It counts the bytes that
// arrive until a PING is acknowledged. If they are two thirds of the size and the rate is a record,
// the size becomes twice as many bytes. The connection's window is opened when bytes arrive, a
// stream's when they are read. Where grpc-go sends SETTINGS, each window here gets a WINDOW_UPDATE.
func grpcGo(ping pinger) hyper.WindowManagerFactory {
	return func(w *hyper.Window) hyper.WindowManager {
		if w.StreamID() == 0 {
			return &grpcConn{ping: ping, w: w, size: grpcWindow, streams: map[*hyper.Window]bool{}}
		}
		return &grpcStream{conn: w.ConnManager().(*grpcConn), w: w}
	}
}

// A grpcConn is the manager of a connection's window.
type grpcConn struct {
	ping pinger
	w    *hyper.Window

	unacked int // arrived, and not granted again

	mu       sync.Mutex // guards the fields below
	size     int        // of all windows
	streams  map[*hyper.Window]bool
	inFlight bool
	sample   int // bytes since the PING was sent
	samples  int
	rtt      float64 // seconds
	record   float64 // bytes per second
}

// Update implements hyper.WindowManager.
func (g *grpcConn) Update(ev hyper.WindowEvent) int {
	if ev.Kind != hyper.WindowData {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unacked += ev.Bytes
	pings := g.size < grpcMost && !g.inFlight
	n := 0
	if pings || g.unacked >= g.size/4 {
		n, g.unacked = g.unacked, 0
	}
	if pings {
		g.inFlight, g.sample = true, 0
		g.samples++
		g.ping(g.calculate)
	}
	g.sample += ev.Bytes
	return n
}

// calculate handles the acknowledgment of a PING.
func (g *grpcConn) calculate(rtt time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	weight := grpcAlpha
	if g.samples < 10 {
		weight = 1 / float64(g.samples)
	}
	g.rtt += (rtt.Seconds() - g.rtt) * weight
	g.inFlight = false
	rate := float64(g.sample) / (1.5 * g.rtt)
	g.record = max(g.record, rate)
	if float64(g.sample) < grpcBeta*float64(g.size) || rate < g.record || g.size == grpcMost {
		return
	}
	bigger := min(grpcGamma*g.sample, grpcMost)
	if by := bigger - g.size; by > 0 {
		g.w.Grant(by)
		for w := range g.streams {
			w.Grant(by)
		}
	}
	g.size = bigger
}

// A grpcStream is the manager of a stream's window.
type grpcStream struct {
	conn *grpcConn
	w    *hyper.Window
	read int // and not granted again
}

// Update implements hyper.WindowManager.
func (s *grpcStream) Update(ev hyper.WindowEvent) int {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	switch ev.Kind {
	case hyper.WindowOpened:
		s.conn.streams[s.w] = true
		return max(0, s.conn.size-ev.Credit)
	case hyper.WindowClosed:
		delete(s.conn.streams, s.w)
	case hyper.WindowConsumed:
		if s.read += ev.Bytes; s.read >= s.conn.size/4 {
			n := s.read
			s.read = 0
			return n
		}
	}
	return 0
}

// never is the manager of windows that are never used up.
func never(*hyper.Window) hyper.WindowManager {
	return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int { return math.MaxInt32 - ev.Credit })
}
