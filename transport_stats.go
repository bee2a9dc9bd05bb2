package hyper

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// TransportStats are a Transport's figures at one moment. They are the caller's: nothing changes
// them any more.
type TransportStats struct {
	// Total is the sum of Hosts and Forgotten. Its counters never decrease. Host and Proxy are
	// empty.
	Total HostStats

	// Hosts are the hosts that the Transport knows, in the order of their names: those with
	// connections or requests, and the last 1,000 of the others. A host that is dropped begins at 0
	// if it comes back.
	Hosts []HostStats

	// Forgotten is the sum of the hosts that were dropped. It has no gauges.
	Forgotten HostStats

	HTTP1Requests int64 // given to the fallback: http, websockets, and hosts that speak HTTP/1.1
	EventsLost    int64 // calls of OnConn that were not made because 1,000 were due
}

// HostStats are the figures of one host, or the sum of many. What is called a gauge is a number of
// now; all others are counters, which begin at 0 with the Transport and do not decrease. The figures
// are read one after another while requests go on.
//
// A connection counts for the host that it was made for.
type HostStats struct {
	Host  string // the origin, such as "https://example.com:8443"
	Proxy string // the URL of the proxy, without user and password; empty: none

	ConnsOpen     int // gauge: connections, those that are draining or idle included
	ConnsDialing  int // gauge: being made
	ConnsDraining int // gauge: take no more requests, and have streams
	ConnsIdle     int // gauge: have no streams, and would take requests

	Dials            int64 // attempts to make a connection
	DialsFailed      int64 // of these, those without a transport connection: dialling or the proxy failed
	DialsHTTP1       int64 // of these, those that found a server which does not agree on HTTP/2
	HandshakesFailed int64 // TLS failed or was too weak, or the connection ended before the peer's SETTINGS
	ConnsOpened      int64 // connections that were made
	ConnsClosed      int64 // connections that have ended

	Requests int64      // of RoundTrip, each once, however often it is sent
	Retries  RetryStats // requests that were sent again, by cause
	Waiting  int        // gauge: requests that wait for a stream, or for a connection

	StreamsOpen    int   // gauge: pushes included
	StreamsOpened  int64 // by this side: requests, as often as they were sent
	PushesPromised int64

	ResetsSent      CodeCounts // RST_STREAM by code (RFC 9113 §6.4)
	ResetsReceived  CodeCounts // of streams that were open
	GoAwaysSent     CodeCounts // GOAWAY by code (RFC 9113 §6.8); NO_ERROR ends a connection in good order
	GoAwaysReceived CodeCounts
	PingTimeouts    int64 // connections whose peer did not answer a PING in time

	BytesSent     int64 // as in Stats: of HTTP/2, before TLS
	BytesReceived int64
	DataSent      int64 // in DATA frames
	DataReceived  int64
}

// RetryStats count the requests that were sent again, by cause. Those of the first three causes had
// provably not been processed (see Retryable).
type RetryStats struct {
	GoAway  int64 // the peer's GOAWAY did not include the stream
	Refused int64 // the peer reset the stream with REFUSED_STREAM
	Unsent  int64 // the connection was lost before the request was written
	Lost    int64 // the connection was lost before the response; only idempotent requests are sent again
}

// CodeCounts count by code; a code without a count is not in it. Codes that RFC 9113 §7 does not
// define are counted as InternalError, as it allows.
type CodeCounts map[ErrCode]int64

// MarshalText returns the code's name, as String does: JSON and expvar show it.
func (c ErrCode) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Stats returns the Transport's figures. It takes time in proportion to the hosts and connections,
// and may be called at any time, also by OnConn.
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

// waitingByBook returns how many requests wait for a connection or for a slot.
func (t *Transport) waitingByBook() map[*book]int {
	waiting := make(map[*book]int)
	for _, h := range t.allHosts() {
		h.mu.Lock()
		if n := len(h.waiting); n > 0 {
			waiting[h.owner.book] += n
		}
		h.mu.Unlock()
	}
	return waiting
}

// list returns the books in the order of their names, and stats without what is in them.
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

// figures returns what the book and its connections have counted. What follows from another figure
// is read before it.
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

func (cc *codeCounters) counts(what codeCount) CodeCounts {
	counts := make(CodeCounts)
	for code := range cc[what] {
		if n := cc[what][code].Load(); n > 0 {
			counts[ErrCode(code)] = n
		}
	}
	return counts
}

// byCode lists the figures by code, in the order of codeCount.
func (s *HostStats) byCode() [4]*CodeCounts {
	return [...]*CodeCounts{
		resetsSent: &s.ResetsSent, resetsReceived: &s.ResetsReceived,
		goAwaysSent: &s.GoAwaysSent, goAwaysReceived: &s.GoAwaysReceived,
	}
}

// addTraffic adds what a connection has counted.
func (s *HostStats) addTraffic(c Stats) {
	s.StreamsOpened += c.StreamsOpened
	s.PushesPromised += c.PushesPromised
	s.BytesSent += c.BytesSent
	s.BytesReceived += c.BytesReceived
	s.DataSent += c.DataSent
	s.DataReceived += c.DataReceived
}

// addState adds a connection as it is now.
func (s *HostStats) addState(state ConnState, streams, waiting int) {
	s.StreamsOpen += streams
	s.Waiting += waiting
	switch state {
	case ConnStateClosed:
		return
	case ConnStateIdle:
		s.ConnsIdle++
	case ConnStateDraining:
		s.ConnsDraining++
	}
	s.ConnsOpen++
}

// add adds all figures of another host.
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

// A ConnState is what a connection of a Transport does.
type ConnState uint8

const (
	ConnStateIdle     ConnState = iota + 1 // it has no streams
	ConnStateActive                        // it has streams
	ConnStateDraining                      // it has streams, and takes no more requests
	ConnStateClosed                        // it has ended
)

var connStates = []string{
	ConnStateIdle: "idle", ConnStateActive: "active", ConnStateDraining: "draining", ConnStateClosed: "closed",
}

// String returns a word: "idle", "active", "draining" or "closed".
func (s ConnState) String() string { return word("ConnState", connStates, uint8(s)) }

// A ConnInfo is a connection of a Transport as it was when Conns was called.
type ConnInfo struct {
	Host     string // the origin that it was made for
	Proxy    string // the URL of the proxy, without user and password; empty: none
	Conn     *Conn  // Close and Shutdown end it: the Transport makes another when it needs one
	State    ConnState
	OpenedAt time.Time
}

// Conns returns the connections that have not ended, in the order of their hosts' names, and of one
// host the oldest first. It may be called at any time, also by OnConn.
func (t *Transport) Conns() []ConnInfo {
	var list []ConnInfo
	all, _ := t.books.list()
	for _, b := range all {
		first := len(list)
		b.mu.Lock()
		for c := range b.conns {
			if state, _, _ := c.state(); state != ConnStateClosed {
				list = append(list, ConnInfo{b.name.origin, b.name.proxy, c, state, c.start})
			}
		}
		b.mu.Unlock()
		slices.SortFunc(list[first:], func(a, b ConnInfo) int { return a.OpenedAt.Compare(b.OpenedAt) })
	}
	return list
}

// state returns what the connection does, how many streams are open, and how many callers wait for
// one.
func (c *Conn) state() (state ConnState, streams, waiting int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	streams, waiting = len(c.streams), c.slots.waiting.Len()
	switch {
	case c.err != nil:
		state = ConnStateClosed
	case c.takesRequestsLocked() != nil:
		state = ConnStateDraining
	case c.unusedLocked():
		state = ConnStateIdle
	default:
		state = ConnStateActive
	}
	return state, streams, waiting
}
