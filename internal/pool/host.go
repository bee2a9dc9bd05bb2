package pool

import (
	"context"
	"slices"
	"time"
)

// A Host decides for the requests to one host and for its connections. The lock of the package that
// uses it, the host's lock, guards all of it.
type Host[C Conn] struct {
	Limits

	Queue    Queue[C]
	Conns    Conns[C]
	Attempts Attempts[C]
	Addrs    Addrs
	Record   Record

	unfit      error     // why the host serves no requests until unfitUntil
	unfitUntil time.Time // zero: the host may serve requests
}

// Limits are the limits of a host. They do not change.
type Limits struct {
	MostConns  int  // limit of connections, including those that are being made; not positive: none
	LeastConns int  // number of connections that a host with traffic should have
	Single     bool // a connection serves one request
	Resolves   bool // the host's addresses are looked up, and dialed instead of the host
}

// learnedMostConns is the limit of connections to a host without Limits.MostConns that was seen to
// serve less than its SETTINGS allow.
const learnedMostConns = 8

// NewHost returns a Host without connections.
func NewHost[C Conn](l Limits) Host[C] { return Host[C]{Limits: l, Record: newRecord()} }

// IsSpread reports whether the host should have several connections even if its requests do not
// need them.
func (h *Host[C]) IsSpread() bool { return (h.LeastConns > 1 || h.Resolves) && !h.Single }

// Exclude fails the requests that wait with err, and lets Unfit return err for d.
func (h *Host[C]) Exclude(d time.Duration, err error) {
	h.unfit, h.unfitUntil = err, time.Now().Add(d)
	h.Queue.failAll(err)
}

// Unfit returns the error of a request if the host is excluded, and nil if it is not. When the time
// of Exclude is over, Unfit includes the host again.
func (h *Host[C]) Unfit() error {
	if h.IsExcluded() && !time.Now().Before(h.unfitUntil) {
		h.Include()
	}
	return h.unfit
}

// Include ends what Exclude has begun.
func (h *Host[C]) Include() { h.unfit, h.unfitUntil = nil, time.Time{} }

// IsExcluded reports whether the host was excluded, and not included again since.
func (h *Host[C]) IsExcluded() bool { return h.unfit != nil }

// Remembered returns for how much longer the host has to be remembered. It returns false if the
// host has connections or is making one. A Record.Limit of limit or more is not worth it.
func (h *Host[C]) Remembered(limit uint32) (left time.Duration, ok bool) {
	if h.Conns.Len() > 0 || h.Attempts.running > 0 {
		return 0, false
	}
	return max(0, time.Until(h.unfitUntil), h.Record.remembered(limit)), true
}

// An End is how a connection ended that takes no more requests.
type End struct {
	Why       EndReason
	Limit     uint32 // the peer's SETTINGS_MAX_CONCURRENT_STREAMS, or that of the connection before
	Processed int64  // number of requests that the peer has processed, if a GOAWAY said so
	Opened    int64  // number of requests that were sent
}

// An EndReason is what ended a connection.
type EndReason uint8

// The values of EndReason.
const (
	Lost    EndReason = iota // the network, or an error
	Drained                  // the peer, with a GOAWAY
	Closed                   // this side
)

// Remove removes c, which is one of the connections, and records how it ended.
func (h *Host[C]) Remove(c C, end End) {
	h.Conns.remove(c)
	m := c.Member()
	if end.Why == Lost {
		m.Addr.Lost()
	}
	h.Record.lost(end.Limit)
	switch {
	// The peer may still respond to requests that it has processed.
	case m.answers > 0 || end.Processed > 0 || end.Why == Closed:
	// No request needed it, so that none has to wait.
	case m.Spare && end.Opened == 0:
		h.Attempts.pause()
	default:
		h.Record.useless()
	}
}

// rules returns the rules that apply at present.
func (h *Host[C]) rules() rules {
	most := h.MostConns
	if most <= 0 && h.Record.isLearned() {
		most = learnedMostConns
	}
	return rules{streams: h.Record.capacity.streams, most: most, making: h.Attempts.Len(),
		single: h.Single, spread: h.IsSpread()}
}

// Total returns the number of connections, including those that are being made.
func (h *Host[C]) Total() int { return h.Conns.Len() + h.Attempts.Len() }

// Sole returns the host's only connection, which most likely has a free stream. ok is false if
// there is another number of connections, if a request is in the queue, or if something restricts
// the use of the connection.
func (h *Host[C]) Sole() (c C, ok bool) {
	if !h.Queue.Empty() || h.IsExcluded() || h.Record.capacity.streams > 0 || h.Single || h.IsSpread() {
		return c, false
	}
	return h.Conns.sole()
}

// Reserve reserves a stream on the connection that a request should use, and returns the
// connection. That is the one with the fewest streams. If the host is spread, addresses and
// connections with the same number take turns. If no stream is free, it returns the zero C.
//
// If a connection turns out to take no more requests, Reserve returns it with an error that says
// why. The caller must remove it and call Reserve again.
func (h *Host[C]) Reserve() (c C, ended error) { return h.Conns.reserve(h.rules()) }

// Room reports whether another connection may be made. None may be made while a connection has not
// received the peer's limit of streams, unless that peer is silent.
func (h *Host[C]) Room() bool { return h.Conns.room(h.rules()) }

// Lends reports whether c belongs to the host, which has enough capacity to let another host use
// it. A connection that is about to be replaced is not lent.
func (h *Host[C]) Lends(c C) bool {
	return h.Queue.Empty() && h.Record.capacity.streams == 0 && h.Conns.lends(c)
}

// IsUsed reports whether the host has traffic.
func (h *Host[C]) IsUsed() bool {
	return !h.Queue.Empty() || h.Conns.anyWith(func(load int) bool { return load > 0 })
}

// Lacks reports whether one more connection should be made in the background. open is the number of
// connections of all hosts, of which idle may be kept without a stream; -1 means any number. Beyond
// that, none is made that would have no stream, because it would be made and closed again and
// again.
func (h *Host[C]) Lacks(open, idle int) bool {
	if h.Attempts.paused() || h.IsExcluded() || h.MostConns > 0 && h.Total() >= h.MostConns {
		return false
	}
	h.countConns()
	if h.Total() >= h.LeastConns && !h.Addrs.lack() {
		return false
	}
	begun := h.Attempts.Len()
	if idle < 0 || open+begun < idle {
		return true
	}
	return begun == 0 && !h.Conns.anyWith(func(load int) bool { return load == 0 })
}

// countConns counts the connections to each address, including those that are being made.
func (h *Host[C]) countConns() {
	for _, a := range h.Addrs.list {
		a.conns = 0
	}
	for _, c := range h.Conns.list {
		c.Member().Addr.count()
	}
	for _, list := range [][]*Attempt[C]{h.Attempts.list, h.Attempts.background} {
		for _, a := range list {
			a.Addr.count()
		}
	}
}

// Begin adds an attempt for the request at index i of the queue. cancel ends it.
func (h *Host[C]) Begin(i int, cancel context.CancelFunc) *Attempt[C] {
	return h.Attempts.begin(&h.Queue, i, cancel)
}

// BeginInBackground adds an attempt that no request waits for. cancel ends it.
func (h *Host[C]) BeginInBackground(cancel context.CancelFunc) *Attempt[C] {
	h.countConns()
	return h.Attempts.beginInBackground(h.Addrs.choose(nil), cancel)
}

// Pause returns how long an attempt for requests has to wait before it dials. If the peer of a
// connection is silent, that gives it time for a sign of life.
func (h *Host[C]) Pause() time.Duration {
	return max(h.Record.DialPause(), h.Conns.takeConfirmTime())
}

// MayBeside reports whether an attempt in parallel with a, which takes long, may begin for the
// first request. A backend that does not respond must not delay the requests, because another
// backend may respond.
func (h *Host[C]) MayBeside(a *Attempt[C]) bool {
	list := h.Attempts.list
	return len(list) > 0 && list[len(list)-1] == a && len(list) < MaxAttempts && !h.Queue.Empty() && h.Room()
}

// GaveUp is called when r has left the queue because its context ended. A slow attempt may be the
// reason. If so, and other requests wait, GaveUp returns that attempt: another is to begin at once.
// If none can begin, or mayBegin is false, slow is to be canceled.
func (h *Host[C]) GaveUp(r *Request[C]) (slow *Attempt[C], mayBegin bool) {
	list := h.Attempts.list
	if h.Queue.Empty() || len(list) == 0 || list[len(list)-1].place != r {
		return nil, false
	}
	slow = list[len(list)-1]
	slow.beside.Stop()
	return slow, len(list) < MaxAttempts && h.Room()
}

// Dials is called after the pause before an attempt. It reports whether a has to dial.
func (h *Host[C]) Dials(a *Attempt[C]) bool {
	a.paused = false
	return a.background || !h.Queue.Empty()
}

// NextAddr returns the address that a dials, which is none of those in tried. It returns nil if
// there is none left. An attempt for requests takes over from those in the background that dial the
// same address.
func (h *Host[C]) NextAddr(a *Attempt[C], tried map[*Addr]bool) *Addr {
	if a.background && a.Addr.Listed() {
		return a.Addr
	}
	h.countConns()
	addr := h.Addrs.choose(tried)
	if addr == nil {
		return nil
	}
	if a.Addr = addr; !a.background {
		h.Attempts.takeOver(addr)
	}
	return addr
}

// Unlisted returns the connections to addresses that are not the host's any more.
func (h *Host[C]) Unlisted() []C {
	return slices.DeleteFunc(slices.Clone(h.Conns.list), func(c C) bool { return c.Member().Addr.Listed() })
}

// Failed is called after Attempts.Ended for an attempt that failed with err.
func (h *Host[C]) Failed(a *Attempt[C], err error) {
	switch {
	case a.background:
		h.Attempts.pause()
	case h.Single:
		if !h.Queue.Empty() {
			var none C
			h.Queue.Pop(none, err)
		}
	case h.Conns.Len() > 0: // requests wait for these connections
		h.Record.pauseDials(time.Second)
	default:
		h.failRequests(a, err)
	}
}

// failRequests fails the requests that a was made for, so that a sequence of failing attempts
// cannot keep them waiting forever. Requests that came later wait for the other attempts, if there
// are any.
func (h *Host[C]) failRequests(a *Attempt[C], err error) {
	s := &h.Attempts
	if len(s.list) == 0 && !s.promote(&h.Queue) {
		h.Queue.failAll(err)
		return
	}
	h.Queue.fail(a.covers, err)
	if h.Queue.Empty() { // the next request does not wait for the other attempts
		for _, other := range s.list {
			other.cancel()
		}
		s.list = nil
	}
}
