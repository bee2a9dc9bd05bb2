package hyper

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// TransportStats are the figures of a Transport at one moment. They belong to the caller, and do
// not change later.
type TransportStats struct {
	// Total is the sum of Hosts and Forgotten. Its counters never decrease. Its Host and Proxy are
	// empty.
	Total HostStats

	// Hosts are the hosts that the Transport knows, ordered by name: those with connections or
	// requests, and the last 1,000 of the others. If a host that was dropped is used again, its
	// counters begin at 0.
	Hosts []HostStats

	// Forgotten is the sum of the hosts that were dropped. Its gauges are 0.
	Forgotten HostStats

	// HTTP1Requests counts requests sent through the fallback: for http, for WebSockets that do not
	// use HTTP/2, and to hosts that speak HTTP/1.1.
	HTTP1Requests int64
	// EventsLost counts events that OnConn was not called with because 1,000 were waiting.
	EventsLost int64
}

// HostStats are the figures of one host, or the sum of several hosts. A field that is described as
// a gauge has a present value. All other numbers are counters, which begin at 0 with the Transport
// and do not decrease. The figures are read one after another while requests continue.
//
// A connection counts for the host that it was made for.
type HostStats struct {
	Host  string // the origin, such as "https://example.com:8443"
	Proxy string // the URL of the proxy, without user and password; empty: none

	ConnsOpen     int // gauge: open connections, including draining and idle ones
	ConnsDialing  int // gauge: connections that are being made
	ConnsDraining int // gauge: connections that take no more requests, but still have streams
	ConnsIdle     int // gauge: connections that have no streams and take requests

	Dials       int64 // attempts to make a connection
	DialsFailed int64 // of these: no transport connection, because dialing or the proxy failed
	DialsHTTP1  int64 // of these: the server did not agree on HTTP/2
	// HandshakesFailed counts connections whose TLS failed or was too weak, or which ended before
	// the peer's SETTINGS arrived.
	HandshakesFailed int64
	ConnsOpened      int64 // connections that were made
	ConnsClosed      int64 // connections that have ended

	Requests int64      // calls of RoundTrip, each counted once however often it is sent
	Retries  RetryStats // requests that were sent again, by cause
	Waiting  int        // gauge: requests that wait for a stream or a connection

	StreamsOpen    int   // gauge: open streams, including pushes
	StreamsOpened  int64 // streams that this side opened: a request counts each time it is sent
	PushesPromised int64 // pushes that the peer has promised

	ResetsSent      CodeCounts // RST_STREAM by code (RFC 9113 §6.4)
	ResetsReceived  CodeCounts // for streams that were open
	GoAwaysSent     CodeCounts // GOAWAY by code (RFC 9113 §6.8); NO_ERROR is a normal end of a connection
	GoAwaysReceived CodeCounts
	PingTimeouts    int64 // connections whose peer did not acknowledge a PING in time

	BytesSent     int64 // of HTTP/2, before TLS, as in ConnStats
	BytesReceived int64
	DataSent      int64 // payload of DATA frames
	DataReceived  int64
}

// RetryStats count the requests that were sent again, by cause. Requests of the first three causes
// were provably not processed (see Retryable).
type RetryStats struct {
	GoAway  int64 // the peer's GOAWAY did not include the stream
	Refused int64 // the peer reset the stream with REFUSED_STREAM
	Unsent  int64 // the connection was lost before the request was written
	Lost    int64 // the connection was lost before the response; idempotent requests only
}

// CodeCounts count by code. A code that was not counted is not in the map. Codes that RFC 9113 §7
// does not define are counted as ErrCodeInternal, as the RFC allows.
type CodeCounts map[ErrCode]int64

// MarshalText returns the code's name, as String does. JSON and expvar use it.
func (c ErrCode) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Stats returns the Transport's figures. It takes time proportional to the number of hosts and
// connections. It may be called at any time, also from OnConn, but not from a WindowManager.
func (t *Transport) Stats() TransportStats {
	waiting := t.waitingByBook()
	all, stats := t.books.list()
	for _, b := range all {
		figures := b.figures()
		figures.Waiting += waiting[b]
		figures.Host, figures.Proxy = b.name.origin, b.name.proxy
		stats.Total.add(&figures)
		stats.Hosts = append(stats.Hosts, figures)
	}
	return stats
}

// waitingByBook returns how many requests of each book wait for a connection or a slot.
func (t *Transport) waitingByBook() map[*book]int {
	waiting := make(map[*book]int)
	for _, h := range t.allHosts() {
		h.mu.Lock()
		if n := h.Queue.Len(); n > 0 {
			waiting[h.owner.book] += n
		}
		h.mu.Unlock()
	}
	return waiting
}

// list returns the books in the order of their names, and TransportStats that do not include their
// figures.
func (bs *books) list() ([]*book, TransportStats) {
	lost := bs.events.lostEvents()
	bs.mu.Lock()
	all := slices.Collect(maps.Values(bs.byName))
	stats := TransportStats{HTTP1Requests: bs.http1.Load(), EventsLost: lost}
	stats.Total.add(&bs.past)
	stats.Forgotten.add(&bs.past)
	bs.mu.Unlock()
	slices.SortFunc(all, func(a, b *book) int {
		return cmp.Or(cmp.Compare(a.name.origin, b.name.origin), cmp.Compare(a.name.proxy, b.name.proxy))
	})
	return all, stats
}

// figures returns what the book and its connections have counted. A figure that follows from
// another one is read before it.
func (b *book) figures() HostStats {
	var s HostStats
	b.mu.Lock()
	s.add(&b.ended)
	s.ConnsClosed = b.closed
	for c := range b.conns {
		s.addTraffic(c.Stats())
		s.addState(c.state())
	}
	b.mu.Unlock()
	s.ConnsOpened = b.opened.Load()
	s.PingTimeouts = b.pingTimeouts.Load()
	s.DialsFailed, s.DialsHTTP1 = b.dialsFailed.Load(), b.http1.Load()
	s.HandshakesFailed = b.handshakesFailed.Load()
	s.ConnsDialing, s.Dials = int(b.dialing.Load()), b.dials.Load()
	s.Retries.GoAway = b.retriedGoAway.Load()
	s.Retries.Refused = b.retriedRefused.Load()
	s.Retries.Unsent = b.retriedUnsent.Load()
	s.Retries.Lost = b.retriedLost.Load()
	s.Requests = b.requests.Load()
	if counters := b.codes.Load(); counters != nil {
		for what, counts := range s.byCode() {
			*counts = counters.counts(codeCount(what))
		}
	}
	return s
}

// counts returns the counters of what that are not 0.
func (cc *codeCounters) counts(what codeCount) CodeCounts {
	counts := make(CodeCounts)
	for code := range cc[what] {
		if n := cc[what][code].Load(); n > 0 {
			counts[ErrCode(code)] = n
		}
	}
	return counts
}

// byCode returns the figures by code, in the order of codeCount.
func (s *HostStats) byCode() [4]*CodeCounts {
	return [...]*CodeCounts{
		resetsSent: &s.ResetsSent, resetsReceived: &s.ResetsReceived,
		goAwaysSent: &s.GoAwaysSent, goAwaysReceived: &s.GoAwaysReceived,
	}
}

// addTraffic adds what a connection has counted.
func (s *HostStats) addTraffic(c ConnStats) {
	s.StreamsOpened += c.StreamsOpened
	s.PushesPromised += c.PushesPromised
	s.BytesSent += c.BytesSent
	s.BytesReceived += c.BytesReceived
	s.DataSent += c.DataSent
	s.DataReceived += c.DataReceived
}

// addState adds the present state of a connection.
func (s *HostStats) addState(state ConnState, streams, waiting int) {
	s.StreamsOpen += streams
	s.Waiting += waiting
	switch state {
	case StateClosed:
		return
	case StateIdle:
		s.ConnsIdle++
	case StateDraining:
		s.ConnsDraining++
	}
	s.ConnsOpen++
}

// add adds all figures of o.
func (s *HostStats) add(o *HostStats) {
	s.ConnsOpen += o.ConnsOpen
	s.ConnsDialing += o.ConnsDialing
	s.ConnsDraining += o.ConnsDraining
	s.ConnsIdle += o.ConnsIdle
	s.Dials += o.Dials
	s.DialsFailed += o.DialsFailed
	s.DialsHTTP1 += o.DialsHTTP1
	s.HandshakesFailed += o.HandshakesFailed
	s.ConnsOpened += o.ConnsOpened
	s.ConnsClosed += o.ConnsClosed
	s.Requests += o.Requests
	s.Retries.GoAway += o.Retries.GoAway
	s.Retries.Refused += o.Retries.Refused
	s.Retries.Unsent += o.Retries.Unsent
	s.Retries.Lost += o.Retries.Lost
	s.Waiting += o.Waiting
	s.StreamsOpen += o.StreamsOpen
	s.StreamsOpened += o.StreamsOpened
	s.PushesPromised += o.PushesPromised
	s.PingTimeouts += o.PingTimeouts
	s.BytesSent += o.BytesSent
	s.BytesReceived += o.BytesReceived
	s.DataSent += o.DataSent
	s.DataReceived += o.DataReceived
	others := o.byCode()
	for i, counts := range s.byCode() {
		for code, n := range *others[i] {
			if *counts == nil {
				*counts = make(CodeCounts)
			}
			(*counts)[code] += n
		}
	}
}

// A ConnState is the state of a connection of a Transport.
type ConnState uint8

const (
	StateIdle     ConnState = iota + 1 // it has no streams
	StateActive                        // it has streams
	StateDraining                      // it has streams, but takes no more requests
	StateClosed                        // it has ended
)

// connStates has the words that String returns.
var connStates = []string{
	StateIdle: "idle", StateActive: "active", StateDraining: "draining",
	StateClosed: "closed",
}

// String returns a word: "idle", "active", "draining" or "closed".
func (s ConnState) String() string { return word("ConnState", connStates, uint8(s)) }

// A ConnInfo describes a connection of a Transport at the time when Conns was called.
type ConnInfo struct {
	Host     string // the origin that it was made for
	Proxy    string // the URL of the proxy, without user and password; empty: none
	Conn     *Conn  // may be ended by Close and Shutdown; the Transport makes another when it needs one
	State    ConnState
	OpenedAt time.Time
}

// Conns returns the connections that have not ended. They are ordered by the names of their hosts;
// those of one host are ordered by age, oldest first. It may be called at any time, also from
// OnConn, but not from a WindowManager.
func (t *Transport) Conns() []ConnInfo {
	var list []ConnInfo
	all, _ := t.books.list()
	for _, b := range all {
		first := len(list)
		b.mu.Lock()
		for c := range b.conns {
			if state, _, _ := c.state(); state != StateClosed {
				list = append(list, ConnInfo{b.name.origin, b.name.proxy, c, state, c.start})
			}
		}
		b.mu.Unlock()
		slices.SortFunc(list[first:], func(a, b ConnInfo) int { return a.OpenedAt.Compare(b.OpenedAt) })
	}
	return list
}

// state returns the state of the connection, how many streams are open, and how many callers wait
// for one.
func (c *Conn) state() (state ConnState, streams, waiting int) {
	c.lock()
	defer c.unlock()
	streams, waiting = len(c.streams.byID), c.slots.waiting.Len()
	switch {
	case c.ending.err != nil:
		state = StateClosed
	case c.takesRequestsLocked() != nil:
		state = StateDraining
	case c.unusedLocked():
		state = StateIdle
	default:
		state = StateActive
	}
	return state, streams, waiting
}
