package main

import (
	"fmt"
	"math"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/flowlab"
	"gohyper.dev/hyper/internal/wire"
)

// A Scenario describes one run: a path, a server, a reader, and a client's configuration.
type Scenario struct {
	Config hyper.Config

	RTT     time.Duration
	Rate    float64 // of the bottleneck, bits per second
	Streams int     // concurrent requests, on one connection
	Octets  int     // bytes of all responses of a transfer together
	Rounds  int     // transfers, one after another; the Result is of the last; 0: 1

	Reader float64 // bytes per second that the reader takes, over all streams; 0: no limit
	Unread int     // number of streams that are never read; the run does not wait for them
	// Streams that are opened five round trips earlier, with endless responses that are never read.
	Abandoned int
	// The server sends one response after another; otherwise all at once, a frame of each in turn.
	InTurn   bool
	Length   bool          // the server sends content-length
	Later    time.Duration // the round trip from ChangeAt on; 0: it does not change
	ChangeAt time.Duration
	// Every HoleEvery, nothing arrives for HoleFor.
	HoleEvery   time.Duration
	HoleFor     time.Duration
	TCPLimit    int  // the receiver's TCP window, in bytes; 0: no limit
	NoSlowStart bool // the sender's TCP window is fully open from the beginning

	Until time.Duration // when the run stops, even if it is not done; 0: after an hour
	Trace func(Sample)  // is called after each event at the client
}

// A Sample is the state of the client at one time.
type Sample struct {
	At time.Duration
	// The most that the peer could make us hold: what it may send, and what is unread.
	Promise int
	Unread  int
	Read    int64 // bytes read so far
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
}

// frameSize is the largest payload of a DATA frame, in bytes. The reader takes as much at a time.
const frameSize = 16 << 10

// A run is the state of a Scenario while it is played.
type run struct {
	Scenario
	clock
	link    link
	client  flowlab.Client
	err     error
	started time.Duration // when the transfer started
	result  Result

	// The server's state.
	credit  int64
	initial int64 // initial window of streams, by the last SETTINGS that the server received
	streams map[uint32]*serverStream
	turn    []*serverStream // streams with data to send, in the order of their turns
	items   []item          // frames in the socket or on the way, in order

	// The client's state.
	reading map[uint32]*clientStream
	order   []*clientStream
	next    int // index into order of the stream that is read next
	busy    bool
	due     int // number of streams that have yet to end
	read    int64
	held    int // unread bytes, on all streams

	// The initial window of the client's streams, by the last SETTINGS that it sent.
	announced int64
	shifts    []*shift // SETTINGS that are not yet acknowledged

	// What the peer may send plus what is unread, by the frames that the client sent.
	promised  int // on the connection
	onStreams int // on all streams together

	area     float64       // integral of promise over time, since half of the bytes were read
	areaOf   float64       // the same for unread bytes
	halfAt   time.Duration // when half of the bytes were read
	halfRead int64         // bytes read by halfAt
	last     Sample
}

// A serverStream is a stream as the server knows it.
type serverStream struct {
	id       uint32
	credit   int64
	left     int
	answered bool
}

// An item is a frame from the server.
type item struct {
	wire.FrameHeader
	ends int64 // position of its end in the bytes of the connection
	ping [8]byte
}

// A shift is a SETTINGS frame that changes the initial window.
type shift struct {
	by      int
	streams []*clientStream // streams whose windows it lowers when it is acknowledged
}

// A clientStream is a stream as the client knows it.
type clientStream struct {
	id       uint32
	promised int
	unread   int
	sent     bool // the request was sent
	ended    bool
	gone     bool
	idle     bool // it is never read
}

// Run plays a scenario. The same scenario gives the same result. An error is a window that was
// exceeded or a connection that ended, which is a defect of the library or of the manager.
func Run(s Scenario) (Result, error) {
	s.Rounds = max(1, s.Rounds)
	if s.Until == 0 {
		s.Until = time.Hour
	}
	r := &run{Scenario: s, credit: wire.InitialWindow, promised: wire.InitialWindow,
		streams: map[uint32]*serverStream{}, reading: map[uint32]*clientStream{}}
	client, err := flowlab.New(&s.Config, alarms{r})
	if err != nil {
		return Result{}, err
	}
	r.client = client
	r.link = link{
		clock: &r.clock, rtt: r.roundTrip, rate: s.Rate / 8, limit: float64(s.TCPLimit), window: firstWindow,
		deliver: r.deliver, room: r.pump,
	}
	if s.NoSlowStart {
		r.link.window = math.MaxInt32
	}
	if s.HoleEvery > 0 {
		r.link.hole = r.afterHole
	}
	if s.Abandoned > 0 {
		r.abandon()
	}
	pings := 0
	for range s.Rounds {
		peak := r.result.PeakTotal
		r.result = Result{PeakTotal: peak}
		r.begin()
		r.result.Stuck = !r.run(func() bool { return r.due == 0 || r.err != nil || r.now > s.Until }) ||
			r.due > 0
		r.check()
		if r.err != nil {
			return r.result, r.err
		}
		pings += r.result.Pings
		r.result.Time = r.now - r.started
		if r.halfAt > 0 && r.now > r.halfAt {
			r.result.Rate = float64(r.read-r.halfRead) / (r.now - r.halfAt).Seconds()
			r.result.Mean = r.area / float64(r.now-r.halfAt)
			r.result.MeanUnread = r.areaOf / float64(r.now-r.halfAt)
		}
	}
	r.result.Pings = pings
	return r.result, r.client.Err()
}

// alarms is the client's clock. When an alarm has woken a manager, it sends the frames that the
// manager caused.
type alarms struct{ *run }

// After calls do when d has passed, and then sends the client's frames.
func (a alarms) After(d time.Duration, do func()) {
	a.run.After(d, func() {
		do()
		a.flush()
	})
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
	r.flush()
	for range r.Abandoned {
		id := r.client.Open()
		r.reading[id] = &clientStream{id: id, idle: true}
		r.After(r.roundTrip()/2, func() {
			s := r.serverStream(id)
			s.left = math.MaxInt32
			r.turn = append(r.turn, s)
		})
	}
	r.flush()
	r.After(r.roundTrip()/2, r.pump)
	over := false
	r.After(5*r.roundTrip(), func() { over = true })
	r.run(func() bool { return over || r.err != nil })
}

// begin sends the requests of a transfer.
func (r *run) begin() {
	r.started, r.read, r.halfAt, r.area, r.areaOf = r.now, 0, 0, 0, 0
	r.last = Sample{At: r.now}
	r.order, r.next = nil, 0
	r.flush() // the preface comes first
	var ids []uint32
	for i := range r.Streams {
		id := r.client.Open()
		ids = append(ids, id)
		r.reading[id] = &clientStream{id: id, idle: i >= r.Streams-r.Unread}
		r.order = append(r.order, r.reading[id])
		if i < r.Streams-r.Unread {
			r.due++
		}
	}
	r.flush()
	r.After(r.roundTrip()/2, func() {
		for i, id := range ids {
			size := r.Octets / r.Streams
			if i == 0 {
				size += r.Octets % r.Streams
			}
			s := r.serverStream(id)
			s.left = size
			r.turn = append(r.turn, s)
		}
		r.pump()
	})
}

// serverStream returns the stream with an identifier, and creates it if necessary.
func (r *run) serverStream(id uint32) *serverStream {
	s := r.streams[id]
	if s == nil {
		s = &serverStream{id: id, credit: r.initial}
		r.streams[id] = s
	}
	return s
}

// pump writes frames into the server's socket as long as it has room and the windows allow it.
func (r *run) pump() {
	for passed := 0; r.link.takes() && passed < len(r.turn) && r.credit > 0; {
		s := r.turn[passed]
		if !s.answered {
			s.answered = true
			r.send(item{FrameHeader: wire.FrameHeader{Type: wire.Headers, StreamID: s.id, Length: 50}})
		}
		n := min(frameSize, s.left, int(s.credit), int(r.credit))
		if n <= 0 {
			passed++
			continue
		}
		s.left -= n
		s.credit -= int64(n)
		r.credit -= int64(n)
		var flags wire.Flags
		if s.left == 0 {
			flags = wire.EndStream
		}
		r.send(item{FrameHeader: wire.FrameHeader{Type: wire.Data, StreamID: s.id, Length: n, Flags: flags}})
		switch {
		case s.left == 0:
			r.turn = append(r.turn[:passed], r.turn[passed+1:]...)
		case !r.InTurn: // its next turn is after the others'
			copy(r.turn[passed:], r.turn[passed+1:])
			r.turn[len(r.turn)-1] = s
		}
	}
}

// send writes a frame into the server's socket.
func (r *run) send(it item) {
	n := wire.HeaderLen + it.Length
	it.ends = r.link.written + int64(n)
	r.items = append(r.items, it)
	r.link.write(n)
}

// deliver passes the frames to the client that have arrived completely.
func (r *run) deliver(total int64) {
	for len(r.items) > 0 && r.items[0].ends <= total && r.err == nil {
		it := r.items[0]
		r.items = r.items[1:]
		r.recv(it)
	}
	r.flush()
}

// recv passes one frame to the client, and to the reader what it can read.
func (r *run) recv(it item) {
	switch it.Type {
	case wire.Settings:
		r.note(r.client.SettingsAck())
		r.acknowledged()
	case wire.Ping:
		r.note(r.client.Pong(it.ping))
	case wire.Headers:
		length := int64(-1)
		if r.Length {
			length = int64(r.Octets / r.Streams)
			if it.StreamID%uint32(2*r.Streams) == 1 {
				length += int64(r.Octets % r.Streams)
			}
		}
		r.client.Headers(it.StreamID, length)
	case wire.Data:
		end := it.Flags.Has(wire.EndStream)
		r.note(r.client.Data(it.StreamID, it.Length, end))
		s := r.reading[it.StreamID]
		s.unread += it.Length
		r.held += it.Length
		if end {
			s.ended = true
			r.onStreams -= s.promised - s.unread
			s.promised = s.unread
		}
		r.sample()
		switch {
		case s.idle:
		case r.Reader == 0:
			r.consume(s, s.unread)
		default:
			r.readSlowly()
		}
	}
}

// note keeps the first error.
func (r *run) note(err error) {
	if err != nil && r.err == nil {
		r.err = err
	}
}

// consume lets the reader take n bytes of a stream and wait for more.
func (r *run) consume(s *clientStream, n int) {
	s.unread -= n
	s.promised -= n
	r.held -= n
	r.promised -= n
	r.onStreams -= n
	r.read += int64(n)
	r.client.Read(s.id, n)
	if r.result.FirstMB == 0 && r.read >= 1<<20 {
		r.result.FirstMB = r.now - r.started
	}
	if s.unread > 0 {
		return
	}
	if s.ended {
		s.gone = true
		r.due--
		return
	}
	r.client.Starve(s.id)
}

// readSlowly lets the reader take the next piece when it is done with the last one. The streams
// take turns.
func (r *run) readSlowly() {
	if r.busy {
		return
	}
	for range r.order {
		s := r.order[r.next]
		r.next = (r.next + 1) % len(r.order)
		if s.idle || s.unread == 0 {
			continue
		}
		n := min(s.unread, frameSize)
		r.busy = true
		r.After(time.Duration(float64(n)/r.Reader*float64(time.Second)), func() {
			r.busy = false
			r.consume(s, n)
			r.flush()
			r.readSlowly()
		})
		return
	}
}

// flush sends the client's frames to the server.
func (r *run) flush() {
	out := append([]byte(nil), r.client.Output()...)
	if len(out) == 0 {
		r.sample()
		return
	}
	out, begins := cutPreface(out)
	for rest := out; len(rest) > 0; {
		h := wire.ParseFrameHeader(rest)
		switch h.Type {
		case wire.WindowUpdate:
			r.result.Updates++
			r.promise(h.StreamID, wire.ParseWindowUpdate(rest[wire.HeaderLen:]))
		case wire.Ping:
			r.result.Pings++
		case wire.Headers:
			s := r.reading[h.StreamID]
			s.promised, s.sent = int(r.announced), true
			r.onStreams += s.promised
		case wire.Settings:
			if size, ok := initialWindow(rest[wire.HeaderLen : wire.HeaderLen+h.Length]); ok {
				r.announce(size, begins)
			}
		}
		rest = rest[wire.HeaderLen+h.Length:]
	}
	r.sample()
	r.After(r.roundTrip()/2, func() {
		if begins {
			// SETTINGS and an acknowledgment.
			r.send(item{FrameHeader: wire.FrameHeader{Type: wire.Settings, Length: 9}})
		}
		for rest := out; len(rest) > 0; {
			h := wire.ParseFrameHeader(rest)
			r.serve(h, begins, rest[wire.HeaderLen:wire.HeaderLen+h.Length])
			rest = rest[wire.HeaderLen+h.Length:]
		}
		r.pump()
	})
}

// promise adds a WINDOW_UPDATE to what the peer may send.
func (r *run) promise(stream uint32, n int) {
	if stream == 0 {
		r.promised += n
		return
	}
	if s := r.reading[stream]; !s.ended {
		s.promised += n
		r.onStreams += n
	}
}

// announce records the initial window of the client's SETTINGS. A larger window counts at once, a
// smaller one when the server has acknowledged it.
func (r *run) announce(size int64, preface bool) {
	change := &shift{by: int(size - r.announced)}
	r.announced = size
	if !preface {
		r.result.Settings++
	}
	for _, s := range r.open() {
		if change.by > 0 {
			s.promised += change.by
			r.onStreams += change.by
		} else {
			change.streams = append(change.streams, s)
		}
	}
	r.shifts = append(r.shifts, change)
}

// open returns the streams whose request was sent and whose response has not ended.
func (r *run) open() (list []*clientStream) {
	for _, s := range r.reading {
		if !s.ended && s.sent {
			list = append(list, s)
		}
	}
	return list
}

// acknowledged applies the oldest SETTINGS that were not acknowledged.
func (r *run) acknowledged() {
	change := r.shifts[0]
	r.shifts = r.shifts[1:]
	for _, s := range change.streams {
		if !s.ended {
			s.promised += change.by
			r.onStreams += change.by
		}
	}
}

// initialWindow returns the value of INITIAL_WINDOW_SIZE in the payload of SETTINGS.
func initialWindow(payload []byte) (size int64, ok bool) {
	for s := range wire.ParseSettings(payload) {
		if s.ID == wire.SettingInitialWindowSize {
			size, ok = int64(s.Value), true
		}
	}
	return size, ok
}

// cutPreface removes the client's preface if out begins with it.
func cutPreface(out []byte) (rest []byte, begins bool) {
	n := len(wire.ClientPreface)
	if len(out) >= n && string(out[:n]) == wire.ClientPreface {
		return out[n:], true
	}
	return out, false
}

// serve handles a frame at the server.
func (r *run) serve(h wire.FrameHeader, begins bool, payload []byte) {
	switch h.Type {
	case wire.Headers:
		r.serverStream(h.StreamID)
	case wire.Settings:
		size, ok := initialWindow(payload)
		if !ok {
			return
		}
		for _, s := range r.streams {
			s.credit += size - r.initial
		}
		r.initial = size
		if !begins {
			r.send(item{FrameHeader: wire.FrameHeader{Type: wire.Settings}})
		}
	case wire.WindowUpdate:
		n := int64(wire.ParseWindowUpdate(payload))
		if h.StreamID == 0 {
			r.credit += n
		} else {
			r.serverStream(h.StreamID).credit += n
		}
	case wire.Ping:
		r.send(item{FrameHeader: wire.FrameHeader{Type: wire.Ping, Length: 8}, ping: wire.ParsePing(payload)})
	case wire.GoAway:
		r.note(fmt.Errorf("the client says goodbye: %w", r.client.Err()))
	}
}

// sample records what is promised and what is unread.
func (r *run) sample() {
	now := Sample{At: r.now, Promise: min(r.promised, r.onStreams), Unread: r.held, Read: r.read}
	if r.halfAt == 0 && 2*r.read >= int64(r.Octets) {
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
		r.Trace(now)
	}
}

// check compares the client's accounting with ours, which is based on the frames alone.
func (r *run) check() {
	for _, s := range append(r.open(), &clientStream{id: 0, promised: r.promised, unread: r.held}) {
		if s.gone || s.ended {
			continue
		}
		credit, unread := r.client.Window(s.id)
		if unread != s.unread || credit+unread != s.promised {
			r.note(fmt.Errorf("stream %d: the client may be sent %d and holds %d; by its frames it holds "+
				"%d of %d", s.id, credit, unread, s.unread, s.promised))
		}
	}
}
