package flowsim

import "time"

// Sizes of TCP, in bytes.
const (
	segment     = 1448      // TCP payload in a packet
	packet      = 1500 + 38 // bytes of the link per packet: with IP, Ethernet, preamble and gap
	firstWindow = 10 * segment
	// The socket takes at least this much that is not sent yet, and at most largestUnsent.
	sendBuffer    = 128 << 10
	largestUnsent = 4 << 20
)

// A link is one TCP connection from server to client. It has a bottleneck of a given rate, and half
// a round trip of delay. The sender is in slow start (RFC 5681 §3.1, RFC 6928): each acknowledgment
// opens the window, but only while the window is used (RFC 7661). Nothing is lost. A hole, if there
// is one, delays everything as a retransmission would.
type link struct {
	clock *clock
	rtt   func() time.Duration
	rate  float64 // bytes per second
	limit float64 // the receiver's window, in bytes; 0: no limit
	hole  func(time.Duration) time.Duration

	deliver func(total int64) // is called with the number of bytes that have arrived in all
	room    func()            // is called when the socket may have room

	window               float64
	written, sent, acked int64
	// The most bytes in flight in this round trip and in the one before.
	used, usedBefore int64
	// The round trip ends when this byte is acknowledged.
	roundEnds   int64
	free        time.Duration // when the bottleneck is free
	lastArrival time.Duration
}

// takes reports whether the server's socket has room for more.
func (l *link) takes() bool {
	return l.written-l.sent < int64(min(max(sendBuffer, l.window), largestUnsent))
}

// write puts n bytes into the server's socket.
func (l *link) write(n int) {
	l.written += int64(n)
	l.push()
}

// push sends what the window allows, in pieces of the size that segmentation offload would use.
func (l *link) push() {
	window := l.window
	if l.limit > 0 {
		window = min(window, l.limit)
	}
	for l.sent < l.written {
		n := min(l.written-l.sent, int64(window)-(l.sent-l.acked),
			int64(max(segment, min(window/32, 64<<10))))
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

// arrive handles the arrival of n bytes at the client, total bytes in all.
func (l *link) arrive(total int64, n int) {
	l.clock.After(l.rtt()/2, func() { l.acknowledge(total, n) })
	l.deliver(total)
}

// acknowledge handles an acknowledgment at the server.
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
