package flowsim

import (
	"slices"
	"time"
)

// Sizes of TCP, in bytes.
const (
	segment     = 1448      // TCP payload in a packet
	packet      = 1500 + 38 // bytes of the link per packet: with IP, Ethernet, preamble and gap
	firstWindow = 10 * segment
	largePiece  = 64 << 10 // the most that segmentation offload sends at once
	// The socket takes at least this much that is not sent yet, and at most largestUnsent.
	sendBuffer    = 128 << 10
	largestUnsent = 4 << 20
)

// A link is one TCP connection, in one direction. Its sender is limited by a congestion control and
// by the receiver's window. Its data passes a bottleneck and a path. What is lost is sent again
// when the acknowledgment of later data shows the loss, as with SACK (RFC 6675) and RACK (RFC
// 8985). Until then the receiver keeps what follows the gap.
type link struct {
	clock      *clock
	path       *path
	bottleneck *bottleneck
	control    congestion
	limit      float64 // the receiver's window, in bytes; 0: no limit
	fine       bool    // it sends few packets at a time, and the receiver gets each piece as it comes

	deliver func(total int64) // is called with the number of bytes that have arrived in order
	room    func()            // is called when the socket may have room

	written, sent int64
	flight        []*piece // sent, and not known to have arrived or to be lost; in the order of sending
	inFlight      int64    // bytes of flight
	again         []extent // lost, to be sent again
	number        int64    // pieces sent so far
	// A piece with at least this number that is lost begins a new recovery. A recovery ends when
	// such a piece has arrived.
	recovery int64
	recovers bool
	quota    float64 // bytes that may be sent in a recovery (RFC 6937)

	delivered   int64         // bytes acknowledged so far
	deliveredAt time.Duration // when the last were
	fullUntil   int64         // until so many bytes are delivered, the application was the limit
	trip        time.Duration // smoothed round trip (RFC 6298)
	paced       time.Duration // when the pace allows to send
	events      linkEvents

	arrived     int64    // bytes that the receiver has in order
	early       []extent // what the receiver has after a gap, in order
	lastArrival time.Duration
}

// linkEvents are the events of a link that are scheduled.
type linkEvents struct {
	push  bool // calls push when the pace allows to send
	watch bool // looks whether the end of what was sent is lost
}

// An extent is a part of the bytes of the connection.
type extent struct{ from, to int64 }

// A piece is an extent that was sent at once.
type piece struct {
	extent
	number      int64
	at          time.Duration
	delivered   int64         // what was delivered when it was sent
	deliveredAt time.Duration // and when the last of that was
	slack       bool          // the application was the limit when it was sent
}

// takes reports whether the socket has room for more.
func (l *link) takes() bool {
	return l.written-l.sent < int64(min(max(sendBuffer, l.control.window()), largestUnsent))
}

// write puts n bytes into the socket.
func (l *link) write(n int) {
	l.written += int64(n)
	l.push()
}

// push sends what the congestion control and the receiver's window allow.
func (l *link) push() {
	for {
		next, ok := l.next()
		if !ok {
			return
		}
		if l.paced > l.clock.now {
			l.pushLater()
			return
		}
		if len(l.again) > 0 {
			if l.again[0].from = next.to; l.again[0].from == l.again[0].to {
				l.again = l.again[1:]
			}
		} else {
			l.sent = next.to
		}
		l.send(next)
	}
}

// next returns what is to be sent next, if anything may be sent.
func (l *link) next() (next extent, ok bool) {
	window := l.control.window()
	if l.limit > 0 {
		window = min(window, l.limit)
	}
	most := int64(window) - l.inFlight
	if l.recovers {
		most = min(most, int64(l.quota))
	}
	if len(l.again) > 0 {
		next = l.again[0]
	} else {
		next = extent{l.sent, l.written}
	}
	n := min(next.to-next.from, most, int64(max(segment, min(window/32, l.pieceSize()))))
	if n <= 0 || n < segment && n < next.to-next.from {
		if next.from == next.to && most > 0 {
			l.fullUntil = l.delivered + l.inFlight
		}
		return extent{}, false
	}
	next.to = next.from + n
	return next, true
}

// pieceSize returns the most that is sent at once: what segmentation offload does or, if the link
// is fine, whole packets that take about a millisecond.
func (l *link) pieceSize() float64 {
	switch {
	case l.path.loss > 0:
		return segment // so that each packet is lost alone
	case !l.fine:
		return largePiece
	}
	packets := int(l.bottleneck.rate / 1000 / packet)
	return float64(min(packets*segment, largePiece))
}

// pushLater calls push when the pace allows to send.
func (l *link) pushLater() {
	if l.events.push {
		return
	}
	l.events.push = true
	l.clock.at(l.paced, func() {
		l.events.push = false
		l.push()
	})
}

// send sends a piece. What the bottleneck has no room for is lost.
func (l *link) send(s extent) {
	n := s.to - s.from
	if pace := l.control.pace(); pace > 0 {
		l.paced = max(l.paced, l.clock.now) + seconds(float64(n)/pace)
	}
	l.quota -= float64(n)
	taken, leaves := l.bottleneck.pass(n)
	if l.path.drops() {
		taken = 0
	}
	if taken > 0 {
		p := l.launch(extent{s.from, s.from + taken})
		arrives := max(l.path.arrival(leaves), l.lastArrival) // in order
		l.lastArrival = arrives
		l.clock.at(arrives, func() { l.arrive(p) })
	}
	if taken < n {
		l.launch(extent{s.from + taken, s.to})
	}
	l.control.sent(l.inFlight)
	if !l.events.watch && l.lossy() {
		l.events.watch = true
		l.watch(2)
	}
}

// lossy reports whether anything can be lost.
func (l *link) lossy() bool { return l.bottleneck.queue > 0 || l.path.loss > 0 }

// launch adds a piece to those that are in flight.
func (l *link) launch(s extent) *piece {
	if l.inFlight == 0 {
		l.deliveredAt = l.clock.now
	}
	p := &piece{s, l.number, l.clock.now, l.delivered, l.deliveredAt, l.delivered < l.fullUntil}
	l.number++
	l.flight = append(l.flight, p)
	l.inFlight += s.to - s.from
	return p
}

// arrive handles the arrival of a piece at the receiver.
func (l *link) arrive(p *piece) {
	l.clock.After(l.path.rtt()/2, func() { l.acknowledge(p) })
	if len(l.early) == 0 && p.from <= l.arrived {
		if p.to > l.arrived {
			l.arrived = p.to
			l.deliver(l.arrived)
		}
		return
	}
	i, _ := slices.BinarySearchFunc(l.early, p.from, func(s extent, at int64) int { return int(s.from - at) })
	l.early = slices.Insert(l.early, i, p.extent)
	before := l.arrived
	for len(l.early) > 0 && l.early[0].from <= l.arrived {
		l.arrived = max(l.arrived, l.early[0].to)
		l.early = l.early[1:]
	}
	if l.arrived > before {
		l.deliver(l.arrived)
	}
}

// acknowledge handles the acknowledgment of a piece at the sender. The path keeps the order, so
// that all that was sent before and is not acknowledged is lost.
func (l *link) acknowledge(p *piece) {
	i := slices.Index(l.flight, p)
	if i < 0 {
		return // its acknowledgment is later than one of a later piece
	}
	inFlight := l.inFlight
	for _, gone := range l.flight[:i] {
		l.lose(gone)
	}
	l.flight = l.flight[i+1:]
	n := p.to - p.from
	l.inFlight -= n
	l.delivered += n
	a := ack{now: l.clock.now, rtt: l.clock.now - p.at, bytes: n, inFlight: inFlight, delivered: l.delivered,
		before: p.delivered, slack: p.slack, recovers: l.recovers}
	if past := a.now - max(p.deliveredAt, 0); past > 0 {
		a.rate = float64(l.delivered-p.delivered) / past.Seconds()
	}
	l.deliveredAt = a.now
	if l.trip += (a.rtt - l.trip) / 8; l.trip == a.rtt/8 {
		l.trip = a.rtt
	}
	if l.recovers {
		l.recover(p, n, i > 0)
	}
	l.control.acked(a)
	l.push()
	l.room()
}

// lose handles a piece that is lost.
func (l *link) lose(p *piece) {
	l.inFlight -= p.to - p.from
	l.again = append(l.again, p.extent)
	if p.number >= l.recovery {
		l.recovery = l.number
		l.recovers = l.control.lost(l.clock.now)
		l.quota = 0
	}
}

// recover counts what may be sent in a recovery after n bytes were acknowledged: less than that
// while more is in flight than the window allows, and then as much, and a little more if nothing
// else was lost.
func (l *link) recover(p *piece, n int64, lost bool) {
	switch {
	case p.number >= l.recovery:
		l.recovers = false
	case float64(l.inFlight) > l.control.window():
		l.quota += cubicDecrease * float64(n)
	case lost:
		l.quota += float64(n)
	default:
		l.quota += float64(n + segment)
	}
}

// watch sends the last piece again if nothing is acknowledged for so many round trips, to learn
// whether the end of what was sent is lost (RFC 8985 §7).
func (l *link) watch(trips time.Duration) {
	delivered := l.delivered
	l.clock.After(max(trips*l.trip, 10*time.Millisecond), func() {
		switch {
		case len(l.flight) == 0:
			l.events.watch = false
		case l.delivered > delivered:
			l.watch(2)
		default:
			l.send(l.flight[len(l.flight)-1].extent)
			l.watch(2 * trips)
		}
	})
}

// seconds converts seconds to a duration.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
