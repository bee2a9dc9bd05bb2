package main

import (
	"fmt"
	"math"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/flowlab"
	"gohyper.dev/hyper/internal/wire"
)

// A Scenario is one run: a path, a server, a reader, and a client's configuration.
type Scenario struct {
	Config hyper.Config

	RTT     time.Duration
	Rate    float64 // of the bottleneck, bits per second
	Streams int     // requests at once, on one connection
	Octets  int     // of a transfer's responses together
	Rounds  int     // transfers, one after the other; the figures are the last one's. 0: 1

	Reader      float64       // octets per second that the reader takes, of all streams together; 0: whatever comes
	Unread      int           // so many of the streams nobody reads; they are not waited for
	Abandoned   int           // streams opened five round trips earlier, with endless responses that are not read
	InTurn      bool          // the server answers one request after the other, else all at once, frame by frame
	Length      bool          // the server declares it
	Later       time.Duration // the round trip from ChangeAt on, 0: it stays
	ChangeAt    time.Duration
	HoleEvery   time.Duration // nothing arrives for HoleFor
	HoleFor     time.Duration
	TCPLimit    int  // the receiver's TCP window; 0: none
	NoSlowStart bool // the sender's TCP window is open from the beginning

	Until time.Duration // where the run stops, done or not; 0: an hour
	Trace func(Sample)  // after each event at the client
}

// A Sample is how things stand.
type Sample struct {
	At      time.Duration
	Promise int // the most that the peer could make us hold: what it may send, and what is unread
	Unread  int
	Read    int64 // so far
}

// A Result is what came of a transfer.
type Result struct {
	Time       time.Duration
	FirstMB    time.Duration
	Peak       int     // largest promise
	Rate       float64 // octets per second, in the second half
	Mean       float64 // promise, over the time of the second half of the octets
	PeakUnread int
	MeanUnread float64
	Updates    int  // WINDOW_UPDATEs of the transfer
	Pings      int  // of the whole connection
	Settings   int  // of the transfer, the preface's not counted
	PeakTotal  int  // largest promise since the connection began
	Stuck      bool // it did not come to its end
}

const frameSize = 16 << 10

// A run is one Scenario as it happens.
type run struct {
	Scenario
	clock
	link    link
	client  flowlab.Client
	err     error
	started time.Duration // the transfer
	result  Result

	// the server
	credit  int64
	initial int64 // of its streams' windows, as it knows it
	streams map[uint32]*serverStream
	turn    []*serverStream // with something to send, in turn
	items   []item          // in the socket or on their way, in order

	// the client
	reading map[uint32]*clientStream
	order   []*clientStream
	next    int // whose turn it is with the reader
	busy    bool
	due     int // streams that are waited for
	read    int64
	held    int // unread, on all streams

	announced int64    // initial window of the client's streams, by the last SETTINGS it sent
	shifts    []*shift // SETTINGS that are not acknowledged

	// What the peer may send and what is unread, by the frames that were sent.
	promised  int // on the connection
	onStreams int // on all streams together

	area     float64       // of promise over time, since half of the octets were read
	areaOf   float64       // unread, the same
	halfAt   time.Duration // when half of the octets were read
	halfRead int64         // their number
	last     Sample
}

type serverStream struct {
	id       uint32
	credit   int64
	left     int
	answered bool
}

// An item is a frame from the server.
type item struct {
	wire.FrameHeader
	ends int64 // in the octets of the connection
	ping [8]byte
}

// A shift is SETTINGS that change the initial window.
type shift struct {
	by      int
	streams []*clientStream // whose windows it lowers once it is acknowledged
}

type clientStream struct {
	id       uint32
	promised int
	unread   int
	sent     bool // the request
	ended    bool
	gone     bool
	idle     bool // nobody reads it
}

// Run plays a scenario. The same scenario gives the same result. Its error is a window that was exceeded, or a connection that
// ended: the library's fault or the manager's.
func Run(s Scenario) (Result, error) {
	s.Rounds = max(1, s.Rounds)
	if s.Until == 0 {
		s.Until = time.Hour
	}
	r := &run{Scenario: s, credit: wire.InitialWindow, promised: wire.InitialWindow, streams: map[uint32]*serverStream{}, reading: map[uint32]*clientStream{}}
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
		r.result.Stuck = !r.run(func() bool { return r.due == 0 || r.err != nil || r.now > s.Until }) || r.due > 0
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

// alarms is the clock for the client: what its managers do when woken has to be sent.
type alarms struct{ *run }

func (a alarms) After(d time.Duration, do func()) {
	a.run.After(d, func() {
		do()
		a.flush()
	})
}

func (r *run) roundTrip() time.Duration {
	if r.Later > 0 && r.now >= r.ChangeAt {
		return r.Later
	}
	return r.RTT
}

func (r *run) afterHole(at time.Duration) time.Duration {
	if in := at % r.HoleEvery; in < r.HoleFor && at > r.HoleEvery {
		return at - in + r.HoleFor
	}
	return at
}

// abandon opens streams that will not be read, and lets the server fill their windows.
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
	r.flush() // the preface, first of all
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

// serverStream finds a stream by its identifier, or makes it.
func (r *run) serverStream(id uint32) *serverStream {
	s := r.streams[id]
	if s == nil {
		s = &serverStream{id: id, credit: r.initial}
		r.streams[id] = s
	}
	return s
}

// pump writes frames into the server's socket while it takes them and windows allow.
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
		case !r.InTurn: // to the end of the line
			copy(r.turn[passed:], r.turn[passed+1:])
			r.turn[len(r.turn)-1] = s
		}
	}
}

func (r *run) send(it item) {
	n := wire.HeaderLen + it.Length
	it.ends = r.link.written + int64(n)
	r.items = append(r.items, it)
	r.link.write(n)
}

// deliver hands the frames to the client that are whole.
func (r *run) deliver(total int64) {
	for len(r.items) > 0 && r.items[0].ends <= total && r.err == nil {
		it := r.items[0]
		r.items = r.items[1:]
		r.recv(it)
	}
	r.flush()
}

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

func (r *run) note(err error) {
	if err != nil && r.err == nil {
		r.err = err
	}
}

// consume is the reader taking n octets and coming back for more.
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

// readSlowly lets the reader take its next piece, of the streams in turn, when it is done with the last.
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
			r.send(item{FrameHeader: wire.FrameHeader{Type: wire.Settings, Length: 9}}) // settings and an acknowledgment
		}
		for rest := out; len(rest) > 0; {
			h := wire.ParseFrameHeader(rest)
			r.serve(h, begins, rest[wire.HeaderLen:wire.HeaderLen+h.Length])
			rest = rest[wire.HeaderLen+h.Length:]
		}
		r.pump()
	})
}

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

// announce takes SETTINGS of the client into its books: a larger window counts from now on, a
// smaller one once it is acknowledged.
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

// open lists the streams that may still receive and whose requests were sent.
func (r *run) open() (list []*clientStream) {
	for _, s := range r.reading {
		if !s.ended && s.sent {
			list = append(list, s)
		}
	}
	return list
}

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

// initialWindow finds INITIAL_WINDOW_SIZE in the payload of SETTINGS.
func initialWindow(payload []byte) (size int64, ok bool) {
	for s := range wire.ParseSettings(payload) {
		if s.ID == wire.SettingInitialWindowSize {
			size, ok = int64(s.Value), true
		}
	}
	return size, ok
}

func cutPreface(out []byte) (rest []byte, begins bool) {
	n := len(wire.ClientPreface)
	if len(out) >= n && string(out[:n]) == wire.ClientPreface {
		return out[n:], true
	}
	return out, false
}

// serve is the server hearing a frame.
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

// sample keeps the books of what is promised and held.
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

// check holds the client's books against ours, which are made of the frames.
func (r *run) check() {
	for _, s := range append(r.open(), &clientStream{id: 0, promised: r.promised, unread: r.held}) {
		if s.gone || s.ended {
			continue
		}
		credit, unread := r.client.Window(s.id)
		if unread != s.unread || credit+unread != s.promised {
			r.note(fmt.Errorf("stream %d: the client may be sent %d and holds %d; by its frames it holds %d of %d", s.id, credit, unread, s.unread, s.promised))
		}
	}
}
