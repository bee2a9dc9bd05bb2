package main

import "time"

const (
	segment       = 1448      // octets of TCP's payload in a packet
	packet        = 1500 + 38 // what it takes of the link: IP, Ethernet, preamble and gap
	firstWindow   = 10 * segment
	sendBuffer    = 128 << 10 // not sent yet, in the server's socket, at least
	largestUnsent = 4 << 20
)

// A link is one TCP connection from server to client: a bottleneck of a rate, half a round trip of delay, a sender in slow
// start (RFC 5681 §3.1, RFC 6928) whose window grows while it is used (RFC 7661) and is clocked by acknowledgments. Nothing is
// lost; a hole, where there is one, delays everything as a retransmission would.
type link struct {
	clock *clock
	rtt   func() time.Duration
	rate  float64 // octets per second
	limit float64 // of the receiver's own window, in octets; 0: none
	hole  func(time.Duration) time.Duration

	deliver func(total int64) // so many octets have arrived
	room    func()            // the socket takes more

	window               float64
	written, sent, acked int64
	used, usedBefore     int64         // the most in flight in this round trip and the one before
	roundEnds            int64         // when this is acknowledged, the round trip is over
	free                 time.Duration // when the bottleneck is
	lastArrival          time.Duration
}

// takes reports whether the server's socket has room for more.
func (l *link) takes() bool {
	return l.written-l.sent < int64(min(max(sendBuffer, l.window), largestUnsent))
}

func (l *link) write(n int) {
	l.written += int64(n)
	l.push()
}

// push sends what the window allows, in pieces as large as segmentation offload makes them.
func (l *link) push() {
	window := l.window
	if l.limit > 0 {
		window = min(window, l.limit)
	}
	for l.sent < l.written {
		n := min(l.written-l.sent, int64(window)-(l.sent-l.acked), int64(max(segment, min(window/32, 64<<10))))
		if n <= 0 || n < segment && n < l.written-l.sent {
			return
		}
		l.sent += n
		l.used = max(l.used, l.sent-l.acked)
		packets := (n + segment - 1) / segment
		start := max(l.clock.now, l.free)
		l.free = start + time.Duration(float64(n+packets*(packet-segment))/l.rate*float64(time.Second))
		arrives := l.free + l.rtt()/2
		if l.hole != nil {
			arrives = l.hole(arrives)
		}
		arrives = max(arrives, l.lastArrival) // in order
		l.lastArrival = arrives
		total := l.sent
		l.clock.at(arrives, func() { l.arrive(total, int(n)) })
	}
}

func (l *link) arrive(total int64, n int) {
	l.clock.After(l.rtt()/2, func() { l.acknowledge(total, n) })
	l.deliver(total)
}

func (l *link) acknowledge(total int64, n int) {
	if l.window < 2*float64(max(l.used, l.usedBefore)) {
		l.window += float64(n)
	}
	l.acked = max(l.acked, total)
	if l.acked >= l.roundEnds {
		l.roundEnds, l.used, l.usedBefore = l.sent, l.sent-l.acked, l.used
	}
	l.push()
	l.room()
}
