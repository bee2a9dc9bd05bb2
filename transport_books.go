package hyper

import (
	"container/list"
	"context"
	"errors"
	"net/url"
	"sync"
	"sync/atomic"

	"gohyper.dev/hyper/internal/pool"
)

// This file counts what a Transport does. Each host has a book, which its connections share. What a
// request or a frame adds to it is an atomic counter. What connections count under their own lock
// anyway is added to the book when they end. A book outlives its host, until maxForgotten other
// books have lost their last host after it. Then its figures are added to those of the Transport's
// forgotten hosts, so that totals never decrease.

// books are the books of a Transport. Their lock is taken after a host's and before that of a book.
type books struct {
	mu        sync.Mutex
	byName    map[hostName]*book
	forgotten list.List // *book without references; the one that lost its last reference first is in front
	past      HostStats // sum of the books that were dropped

	http1  atomic.Int64 // requests that were sent through the fallback
	events eventQueue
}

// maxForgotten is how many books of hosts without connections are kept.
const maxForgotten = 1000

// A hostName is the name under which the user sees a host. Hosts that differ only in the password
// for the proxy share a book.
type hostName struct{ origin, proxy string }

// A book has the counters of one host.
type book struct {
	t    *Transport
	name hostName

	requests, dials, dialing, dialsFailed, handshakesFailed, http1, opened, pingTimeouts atomic.Int64

	retriedGoAway, retriedRefused, retriedUnsent, retriedLost atomic.Int64

	codes atomic.Pointer[codeCounters] // nil: no code was counted

	mu     sync.Mutex // taken before a connection's
	conns  map[*Conn]struct{}
	closed int64
	ended  HostStats // sum of the figures of connections that have ended

	// refs counts the hosts, dials and connections that use the book. It is guarded by the books'
	// lock.
	refs int
	// kept is the element in forgotten, or nil if there are references. It is guarded by the books'
	// lock.
	kept *list.Element
}

// A codeCount says which events are counted by code.
type codeCount uint8

const (
	resetsSent codeCount = iota
	resetsReceived
	goAwaysSent
	goAwaysReceived
)

// codeCounters count by the codes of RFC 9113 §7, which are 0 to HTTP11Required.
type codeCounters [goAwaysReceived + 1][ErrCodeHTTP11Required + 1]atomic.Int64

// An owner is what a connection reports to. A nil *owner receives no reports. An owner does not
// change after the connections have it, so it needs no lock.
type owner struct {
	// Called without the connection's lock when something that the owner waits for may have
	// happened: a slot is free after reserve found none, or no new streams are possible any more.
	// nil: not called.
	news func()
	book *book // nil: nothing is counted
}

// connReports are what a connection has told its owner, or has still to tell. The comment of each
// field says when it may be used.
type connReports struct {
	owner *owner // nil: the connection has no owner; never changed after newConn

	// A request timed out and the peer has sent nothing since it was written, or the connection
	// without streams was silent for staleSilence. The connection sets it under its lock, and
	// readLoop and the owner read it without.
	suspected atomic.Bool

	toldOpen     bool // the owner's OnConn hears of the connection; never changed after newConn
	stateChanged bool // owner.news must be called; guarded by the connection's lock
}

// hears reports whether o is called when the state of its connection has changed.
func (o *owner) hears() bool { return o != nil && o.news != nil }

// counts reports whether o counts.
func (o *owner) counts() bool { return o != nil && o.book != nil }

// count counts a frame that carries code. The caller holds the connection's lock.
func (o *owner) count(what codeCount, code ErrCode) {
	if !o.counts() {
		return
	}
	// RFC 9113 §7: an unknown code may be treated as INTERNAL_ERROR.
	if code > ErrCodeHTTP11Required {
		code = ErrCodeInternal
	}
	counters := o.book.codes.Load()
	if counters == nil {
		o.book.codes.CompareAndSwap(nil, new(codeCounters))
		counters = o.book.codes.Load()
	}
	counters[what][code].Add(1)
}

// countPingTimeout counts a connection that ended because of a PING without acknowledgment.
func (o *owner) countPingTimeout() {
	if o.counts() {
		o.book.pingTimeouts.Add(1)
	}
}

// opened is called before c begins.
func (o *owner) opened(c *Conn) {
	if !o.counts() {
		return
	}
	b := o.book
	b.t.books.hold(b)
	b.opened.Add(1)
	b.mu.Lock()
	if b.conns == nil {
		b.conns = make(map[*Conn]struct{})
	}
	b.conns[c] = struct{}{}
	c.reports.toldOpen = b.tell(ConnEvent{Kind: ConnOpened, Conn: c}, false) // before Conns lists it
	b.mu.Unlock()
}

// draining is called when c takes no more requests but still has streams. The caller holds c's
// lock.
func (o *owner) draining(c *Conn, why ConnReason) {
	if !c.reports.toldOpen {
		return
	}
	e := ConnEvent{Kind: ConnDraining, Conn: c, Reason: why}
	if c.ending.goAway != nil {
		e.Err = c.ending.goAway
	}
	o.book.tell(e, true)
}

// ended is called after c's socket was closed.
func (o *owner) ended(c *Conn) {
	if !o.counts() {
		return
	}
	err, why, b := c.Err(), c.endReason(), o.book
	if _, lost := err.(*ConnError); lost && why != ReasonClosed && !c.PeerSettings().Received {
		b.handshakesFailed.Add(1)
	}
	b.mu.Lock()
	b.closed++
	b.ended.addTraffic(c.Stats())
	if delete(b.conns, c); len(b.conns) == 0 {
		b.conns = nil
	}
	b.mu.Unlock()
	if c.reports.toldOpen {
		b.tell(ConnEvent{Kind: ConnClosed, Conn: c, Reason: why, Err: err}, true)
	}
	b.t.books.release(b)
}

// open returns the book of a host, with a reference that the caller must release.
func (bs *books) open(t *Transport, key hostKey, proxy *url.URL) *book {
	name := hostName{origin: key.origin()}
	if proxy != nil { // without its user and password
		name.proxy = proxy.Scheme + "://" + proxy.Host
	}
	bs.mu.Lock()
	defer bs.mu.Unlock()
	b := bs.byName[name]
	if b == nil {
		b = &book{t: t, name: name}
		if bs.byName == nil {
			bs.byName = make(map[hostName]*book)
		}
		bs.byName[name] = b
	}
	bs.holdLocked(b)
	return b
}

// hold adds a reference to a book that has at least one.
func (bs *books) hold(b *book) {
	bs.mu.Lock()
	bs.holdLocked(b)
	bs.mu.Unlock()
}

// holdLocked adds a reference to b, which need not have one. The caller holds bs.mu.
func (bs *books) holdLocked(b *book) {
	if b.refs++; b.kept != nil {
		bs.forgotten.Remove(b.kept)
		b.kept = nil
	}
}

// release removes a reference. If too many books have none, it drops the book that lost its last
// one first.
func (bs *books) release(b *book) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	if b.refs--; b.refs > 0 {
		return
	}
	b.kept = bs.forgotten.PushBack(b)
	if bs.forgotten.Len() <= maxForgotten {
		return
	}
	oldest := bs.forgotten.Remove(bs.forgotten.Front()).(*book)
	delete(bs.byName, oldest.name)
	figures := oldest.figures()
	bs.past.add(&figures)
}

// countedDial is dialOrAbandon with counting.
func (h *host) countedDial(ctx context.Context, at *pool.Addr) (*Conn, error) {
	b := h.owner.book
	b.dials.Add(1)
	b.dialing.Add(1)
	c, err := h.dialOrAbandon(ctx, at)
	b.dialing.Add(-1)
	// If ctx has ended, the host is not the cause.
	if err == nil || ctx.Err() != nil {
		return c, err
	}
	var other *NotHTTP2Error
	if errors.As(err, &other) {
		b.http1.Add(1)
		return c, err
	}
	why := ReasonDialFailed
	if isHandshakeError(err) {
		why = ReasonHandshakeFailed
		b.handshakesFailed.Add(1)
	} else {
		b.dialsFailed.Add(1)
	}
	b.tell(ConnEvent{Kind: ConnFailed, Reason: why, Err: httpDialError(err)}, false)
	return c, err
}

// isHandshakeError reports whether there was a transport connection, and its TLS handshake failed
// or was too weak.
func isHandshakeError(err error) bool {
	if ce, ok := err.(*ConnError); ok {
		return ce.Code == ErrCodeInadequateSecurity
	}
	de, ok := err.(*DialError)
	return ok && de.inTLS
}

// httpDialError returns err in the form in which RoundTrip returns it.
func httpDialError(err error) error {
	if de, ok := err.(*DialError); ok {
		return de.forHTTP()
	}
	return err
}

// countRetry counts a request that is sent again because of err.
func (b *book) countRetry(err error) {
	var s *StreamError
	var ce *ConnError
	switch {
	case errors.As(err, &s) && s.processed != neverProcessed:
		b.retriedRefused.Add(1)
	case !Retryable(err):
		b.retriedLost.Add(1)
	case errors.As(err, &ce) && ce.FromPeer && ce.isGoAway():
		b.retriedGoAway.Add(1)
	default:
		b.retriedUnsent.Add(1)
	}
}
