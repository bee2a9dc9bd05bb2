// Package flowsim simulates downloads and uploads in virtual time. The client is a real connection
// of package hyper, with its windows, its managers and its goroutines. The simulation adds a path,
// a bottleneck with a queue, TCP at both ends, a server, and a reader. Downloads are deterministic:
// the same scenario gives the same figures on any machine. The clock is that of testing/synctest,
// so that simulations run only in tests.
package flowsim

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// A Scenario describes one run: a path, a server, a reader, and a client's configuration.
type Scenario struct {
	Config hyper.Config
	Pings  func(pinger) hyper.WindowManagerFactory // makes Config.WindowManager if its managers send PINGs

	RTT     time.Duration
	Rate    float64 // of the bottleneck, bits per second
	Streams int     // concurrent requests, on one connection
	Octets  int     // bytes of all bodies of a transfer together
	Rounds  int     // transfers, one after another; the Result is of the last; 0: 1

	Direction Direction
	// An upload's socket takes no more while so many bytes are not sent. 0: what the client sets by
	// TCP_NOTSENT_LOWAT; noOption: the client cannot set it, and there is no limit.
	NotSent int

	Reader float64 // bytes per second that the reader takes, over all streams; 0: no limit
	Unread int     // number of streams that are never read; the run does not wait for them
	// Other streams, with endless responses, that are not read any more from StopAt on. The
	// Result's means and its Rate are over the time after that.
	Stopped int
	StopAt  time.Duration
	// At PauseAt, the reader takes nothing for PauseFor, and so again each PauseEvery if it is not
	// 0.
	PauseAt, PauseFor, PauseEvery time.Duration
	// Streams that are opened five round trips earlier, with endless responses that are never read.
	Abandoned   int
	AbandonEach time.Duration // they are opened one after another, with so much time between; 0: at once
	// The server sends one response after another; otherwise all at once, a frame of each in turn.
	InTurn bool
	Length bool // the server sends content-length

	Later    time.Duration // the round trip from ChangeAt on; 0: it does not change
	ChangeAt time.Duration
	// Every HoleEvery, nothing arrives for HoleFor.
	HoleEvery time.Duration
	HoleFor   time.Duration
	TCPLimit  int // the receiver's TCP window, in bytes; 0: no limit

	Sender Sender        // the congestion control
	Queue  time.Duration // what would wait longer at the bottleneck is dropped; 0: nothing is
	Loss   float64       // probability that a packet is lost
	Jitter float64       // the round trip varies by so much of it, up and down
	Rivals int           // other TCP connections, with the same sender, that send all the time

	// How often a small request is sent during a transfer; 0: never. The bytes of its response do
	// not count.
	SmallEvery time.Duration

	Until time.Duration // when the run stops, even if it is not done; 0: after an hour
	Trace func(Sample)  // is called after each event at the client
}

// A Direction is the way that the Octets of a Scenario take.
type Direction uint8

// The directions.
const (
	// Download: the responses have them. What the client writes arrives half a round trip later.
	Download Direction = iota
	// Upload: the requests' bodies have them. The client's TCP has the same sender as the server's,
	// a bottleneck of its own, and a socket with a buffer like the server's.
	Upload
)

// A Sample is the state of the client at one time.
type Sample struct {
	At time.Duration
	// The most that the peer could make us hold: what it may send, and what is unread.
	Promise int
	Unread  int
	Read    int64 // bytes read so far

	// Only in what Trace is called with: the windows of the connection and of its first stream that
	// has not ended, as the client holds them, and what TCP has sent and not got acknowledged.
	ConnWindow, StreamWindow int
	InFlight                 int64
}

// A Result is the outcome of a transfer.
type Result struct {
	Time       time.Duration
	FirstMB    time.Duration
	Peak       int     // largest promise
	Rate       float64 // bytes per second, over the second half of the bytes
	Mean       float64 // mean promise, over the time of the second half of the bytes
	PeakUnread int
	MeanUnread float64
	Updates    int  // WINDOW_UPDATEs of the transfer
	Pings      int  // of the whole connection
	Settings   int  // of the transfer, without the preface's
	PeakTotal  int  // largest promise since the connection began
	Stuck      bool // the transfer did not end

	Small                 int           // small requests whose response was read
	SmallMedian, SmallP95 time.Duration // their latency
	Wait                  time.Duration // of the bytes at the bottleneck, on the mean
	Dropped               int64         // bytes that the bottleneck has dropped, since the connection began
	RivalRead             int64         // bytes that the rivals' receivers got during the transfer
}

// noOption is Scenario.NotSent of a socket without options.
const noOption = -1

// frameSize is the largest payload of a DATA frame, in bytes. The reader takes as much at a time.
const frameSize = 16 << 10

// prefaceDelay is longer than a connection waits for a first request before it writes its preface.
const prefaceDelay = 5 * time.Millisecond

// A run is the state of a Scenario while it is played.
//
// The goroutine of Run plays the network and the server. It is the only one that moves the clock,
// and it lets the client, which has goroutines of its own, come to rest after everything that it
// does to it. So nothing depends on the order in which goroutines run.
type run struct {
	Scenario
	clock
	link     *link // from the server to the client
	rivals   []*link
	up       *uplink // nil: what the client writes arrives half a round trip later
	socket   *socket
	outgoing splitter // of what the client has written
	conn     *hyper.Conn
	server   server
	books    books
	err      error
	// Held by a reader of a response while it changes the fields of the run. The goroutine of Run
	// does not need it, because the readers rest when it runs.
	readers sync.Mutex

	began   time.Time     // when the connection was made
	started time.Duration // when the transfer started
	result  Result

	due  int           // number of streams that have yet to end
	read int64         // bytes read in this transfer
	free time.Duration // when a slow reader has processed what it has read

	area     float64       // integral of promise over time, since half of the bytes were read
	areaOf   float64       // the same for unread bytes
	halfAt   time.Duration // when half of the bytes were read
	halfRead int64         // bytes read by halfAt
	last     Sample

	latencies []time.Duration // of the small requests of this transfer
}

// Run plays a scenario, in virtual time. The same scenario gives the same result. An error is a
// window that was exceeded or a connection that ended, which is a defect of the library or of the
// manager.
func Run(t *testing.T, s Scenario) (result Result, err error) {
	synctest.Test(t, func(*testing.T) {
		r := newRun(s)
		if r.up != nil {
			defer func() {
				synctest.Wait() // the client may still set options
				r.up.close()
			}()
		}
		if err = r.connect(); err != nil {
			return
		}
		defer r.conn.Close()
		err = r.play()
		result = r.result
	})
	return result, err
}

// newRun returns a run without a connection.
func newRun(s Scenario) *run {
	s.Rounds = max(1, s.Rounds)
	if s.Until == 0 {
		s.Until = time.Hour
	}
	r := &run{Scenario: s, began: time.Now(), socket: newSocket()}
	r.books = books{promised: wire.InitialWindow, streams: map[uint32]*account{}}
	r.server = server{r: r, credit: wire.InitialWindow, streams: map[uint32]*serverStream{}}
	b := &bottleneck{clock: &r.clock, rate: s.Rate / 8, queue: s.Queue}
	r.link = r.newLink(b, 1)
	r.link.limit, r.link.deliver, r.link.room = float64(s.TCPLimit), r.deliver, r.server.pump
	if s.Direction == Upload {
		r.up = r.newUplink()
	}
	if s.Rivals > 0 {
		b.dice = rand.New(rand.NewPCG(0, 1))
	}
	for i := range s.Rivals {
		rival := r.newLink(b, uint64(i)+2)
		rival.deliver, rival.room = func(int64) {}, func() {}
		r.rivals = append(r.rivals, rival)
	}
	return r
}

// newLink returns a TCP connection through a bottleneck. seed gives its losses and delays.
func (r *run) newLink(b *bottleneck, seed uint64) *link {
	p := &path{rtt: r.roundTrip, jitter: r.Jitter, loss: r.Loss, dice: rand.New(rand.NewPCG(seed, 0))}
	if r.HoleEvery > 0 {
		p.hole = r.afterHole
	}
	return &link{clock: &r.clock, path: p, bottleneck: b, control: r.Sender.control(r.RTT), trip: r.RTT,
		fine: r.Sender.fine()}
}

// play plays all transfers.
func (r *run) play() error {
	r.After(prefaceDelay, func() {})
	r.socket.hold()
	r.runUntil(func() bool { return len(r.queue) == 0 })
	if r.Abandoned > 0 {
		r.abandon()
	}
	pings := 0
	for range r.Rounds {
		peak := r.result.PeakTotal
		r.result = Result{PeakTotal: peak}
		rivals := r.rivalsRead()
		r.begin()
		r.askOften()
		r.runUntil(func() bool { return r.due == 0 })
		r.result.Stuck = r.due > 0
		if r.check(); r.err != nil {
			return r.err
		}
		pings += r.result.Pings
		r.result.Time = r.now - r.started
		b := r.bulk().bottleneck
		r.result.Wait, r.result.Dropped = b.meanWait(), b.dropped
		r.result.RivalRead = r.rivalsRead() - rivals
		r.summarize()
		if r.halfAt > 0 && r.now > r.halfAt {
			r.result.Rate = float64(r.read-r.halfRead) / (r.now - r.halfAt).Seconds()
			r.result.Mean = r.area / float64(r.now-r.halfAt)
			r.result.MeanUnread = r.areaOf / float64(r.now-r.halfAt)
		}
	}
	r.result.Pings = pings
	return r.conn.Err()
}

// bulk returns the link that carries the transfer.
func (r *run) bulk() *link {
	if r.up != nil {
		return r.up.link
	}
	return r.link
}

// rivalsRead returns how many bytes have arrived at the rivals' receivers.
func (r *run) rivalsRead() (sum int64) {
	for _, l := range r.rivals {
		sum += l.arrived
	}
	return sum
}

// runUntil runs events until done returns true, something has failed, or the time is over.
func (r *run) runUntil(done func() bool) {
	for !done() && r.err == nil && r.now <= r.Until {
		if len(r.queue) > 0 && r.queue[0].at <= r.now {
			r.queue.pop().do()
		} else {
			r.sleep()
		}
		r.collect()
	}
}

// sleep moves the clock to the next event. If the client writes something before that, it moves the
// clock only up to then.
func (r *run) sleep() {
	next := r.Until + 1
	if len(r.queue) > 0 {
		next = min(next, r.queue[0].at)
	}
	select {
	case <-r.timer(next - r.now):
	case <-r.socket.wrote:
	}
	synctest.Wait() // a timer of the client may have fired, too
	r.now = time.Since(r.began)
}

// roundTrip returns the current round trip.
func (r *run) roundTrip() time.Duration {
	if r.Later > 0 && r.now >= r.ChangeAt {
		return r.Later
	}
	return r.RTT
}

// afterHole returns when something arrives that would arrive at at without holes.
func (r *run) afterHole(at time.Duration) time.Duration {
	if in := at % r.HoleEvery; in < r.HoleFor && at > r.HoleEvery {
		return at - in + r.HoleFor
	}
	return at
}

// abandon opens the streams that are never read, and lets the server fill their windows.
func (r *run) abandon() {
	r.socket.release()
	r.idle(2 * r.roundTrip()) // the server says how many streams it accepts
	endless := func(int) int { return math.MaxInt32 }
	if r.AbandonEach == 0 {
		r.open(r.Abandoned, endless)
	} else {
		for range r.Abandoned {
			r.open(1, endless)
			r.idle(r.AbandonEach)
		}
	}
	r.idle(5 * r.roundTrip())
}

// idle runs events for a time.
func (r *run) idle(d time.Duration) {
	over := false
	r.After(d, func() { over = true })
	r.runUntil(func() bool { return over })
}

// begin sends the requests of a transfer.
func (r *run) begin() {
	r.started, r.read, r.halfAt, r.area, r.areaOf, r.free = r.now, 0, 0, 0, 0, r.now
	r.last = Sample{At: r.now}
	if r.Direction == Upload {
		r.beginUploads()
		return
	}
	streams := r.open(r.Streams+r.Stopped, r.size)
	if r.err != nil {
		return
	}
	for _, s := range streams[:r.Streams-r.Unread] {
		r.due++
		go r.readAll(s)
	}
	for _, s := range streams[r.Streams:] {
		go r.readUntilStop(s)
	}
	synctest.Wait()
	for _, l := range r.rivals {
		if l.written == 0 {
			l.write(math.MaxInt32) // more than a run moves
		}
	}
}

// size returns the length of response i of a transfer.
func (r *run) size(i int) int {
	switch {
	case i >= r.Streams:
		return math.MaxInt32 // it is stopped
	case i == 0:
		return r.Octets/r.Streams + r.Octets%r.Streams
	}
	return r.Octets / r.Streams
}

// open sends n requests at once, and tells the server the sizes of the responses. If the writer ran
// while they are made, it would depend on the speed of the machine how many are in its first write.
// So the socket is full at that time.
func (r *run) open(n int, size func(i int) int) (streams []*hyper.Stream) {
	if !r.socket.held() {
		r.socket.hold()
		r.finishFrame()
		ping := &item{FrameHeader: wire.FrameHeader{Type: wire.Ping, Length: 8}}
		r.recv(ping, ping.size()) // its acknowledgment fills the socket
	}
	for i := range n {
		req := &hyper.Request{Method: "GET", Path: "/", Body: http.NoBody}
		s, err := r.conn.Open(context.Background(), req)
		if r.note(err); err != nil {
			return nil
		}
		r.server.sizes = append(r.server.sizes, size(i))
		streams = append(streams, s)
	}
	r.socket.release()
	synctest.Wait()
	r.collect()
	return streams
}

// finishFrame gives the client the rest of a frame of which it has a part.
func (r *run) finishFrame() {
	if items := r.server.items; len(items) > 0 && items[0].given > 0 {
		r.recv(items[0], items[0].size()-items[0].given)
	}
}

// deliver passes to the client what has arrived: whole frames or, if the link is fine, also the
// part of a DATA frame of which the rest is on the way.
func (r *run) deliver(total int64) {
	for r.err == nil {
		it, n, ok := r.server.arrived(total, r.link.fine)
		if !ok {
			return
		}
		r.recv(it, n)
	}
}

// recv passes the next n bytes of a frame to the client, which reads them and, if they are of DATA,
// takes them.
func (r *run) recv(it *item, n int) {
	head := it.header()
	if it.Type == wire.Data && it.given == 0 {
		r.books.data(it)
		r.sample()
	}
	head = head[min(it.given, len(head)):]
	head = head[:min(n, len(head))]
	it.given += n
	r.socket.deliver(head, n-len(head))
	if it.Type == wire.Settings && it.Flags.Has(wire.Ack) {
		r.books.acknowledged()
	}
	r.sample()
}

// note keeps the first error.
func (r *run) note(err error) {
	if err != nil && r.err == nil {
		r.err = err
	}
}

// collect sends what the client has written to the server.
func (r *run) collect() {
	for {
		if out := r.socket.written(); len(out) > 0 {
			r.transmit(out)
		}
		if r.up == nil || !r.socket.allow(r.up.room(r.socket.held())) {
			return
		}
		synctest.Wait()
	}
}

// transmit counts what the client has written, and sends it to the server.
func (r *run) transmit(out []byte) {
	for h, payload := range r.outgoing.frames(out) {
		switch h.Type {
		case wire.WindowUpdate:
			r.result.Updates++
			r.books.promise(h.StreamID, wire.ParseWindowUpdate(payload))
		case wire.Ping:
			if !h.Flags.Has(wire.Ack) {
				r.result.Pings++
			}
		case wire.Headers:
			r.books.open(h.StreamID)
		case wire.Settings:
			if size, ok := initialWindow(payload); ok {
				if r.books.announce(size) {
					r.result.Settings++
				}
			}
		}
	}
	r.sample()
	if r.up != nil {
		r.up.write(out)
		return
	}
	r.After(r.roundTrip()/2, func() { r.server.recv(out) })
}

// sample records what is promised and what is unread.
func (r *run) sample() {
	now := Sample{At: r.now, Promise: r.books.most(), Unread: r.books.unread, Read: r.read}
	half := 2*r.read >= int64(r.Octets)
	if r.Stopped > 0 {
		half = r.now >= r.started+r.StopAt
	}
	if r.halfAt == 0 && half {
		r.halfAt, r.halfRead = r.now, r.read
	}
	if r.halfAt > 0 {
		dt := float64(now.At - r.last.At)
		r.area += dt * float64(r.last.Promise)
		r.areaOf += dt * float64(r.last.Unread)
	}
	r.result.Peak = max(r.result.Peak, now.Promise)
	r.result.PeakTotal = max(r.result.PeakTotal, now.Promise)
	r.result.PeakUnread = max(r.result.PeakUnread, now.Unread)
	r.last = now
	if r.Trace != nil {
		now.ConnWindow, now.StreamWindow = r.books.windows()
		now.InFlight = r.link.inFlight
		r.Trace(now)
	}
}

// check compares the client's accounting with ours, which is based on the frames alone. The client
// itself checks the windows of its streams: it ends the connection if the server exceeds one.
func (r *run) check() {
	if credit := r.conn.Stats().ReceiveWindow; credit+int64(r.books.unread) != r.books.promised {
		r.note(fmt.Errorf("the client may be sent %d and holds %d; by its frames the sum is %d", credit,
			r.books.unread, r.books.promised))
	}
}
