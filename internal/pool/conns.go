package pool

import (
	"errors"
	"slices"
	"time"
)

// A Conn is a connection. The methods are called with the host's lock held. They must not take it,
// and must not block.
type Conn interface {
	comparable
	MayIdle

	// Member returns what the host knows of the connection. It is always the same.
	Member() *Member

	// Load returns how many streams are open or reserved. The error says why the connection takes
	// no more requests; it is nil if it takes some.
	Load() (streams int, ended error)

	// Reserve reserves a stream for a request. streams limits the streams that are open at once,
	// and requests limits all requests of the connection; 0 means no such limit. If no stream is
	// free, ok is false. If the connection takes no more requests, the error says why.
	Reserve(streams int, requests int64) (ok bool, ended error)

	// Suspected reports whether the peer is silent, so that requests should not wait for it.
	Suspected() bool

	// Confirm asks the peer of a suspected connection for a sign of life. It returns how long to
	// wait for that.
	Confirm() time.Duration

	// Settled reports whether the peer's limit of streams is known.
	Settled() bool
}

// A Conns holds the connections of a host that take requests. Its zero value is empty.
type Conns[C Conn] struct {
	list []C
	uses uint64 // requests so far that had a choice
	// What Confirm of the oldest connection returned in the last call of reserve. 0: the connection
	// was not suspected.
	confirmTime time.Duration
}

// rules are the rules by which a host uses its connections at present.
type rules struct {
	streams int // limit of streams on one connection, beside its own; 0: none
	most    int // limit of connections, including those that are being made; not positive: none
	making  int // connections that are being made

	single bool // a connection serves one request
	spread bool // connections with the same load take turns
}

// ErrTooOld is why a connection takes no more requests after Member.RetireAt.
var ErrTooOld = errors.New("pool: the connection is too old")

// All returns the connections, oldest first. The caller must not change the list, nor use it
// without the host's lock.
func (s *Conns[C]) All() []C { return s.list }

// Len returns the number of connections.
func (s *Conns[C]) Len() int { return len(s.list) }

// Has reports whether c is one of the connections.
func (s *Conns[C]) Has(c C) bool { return slices.Contains(s.list, c) }

// Add adds c.
func (s *Conns[C]) Add(c C) { s.list = append(s.list, c) }

// remove removes c, which is one of the connections.
func (s *Conns[C]) remove(c C) {
	i := slices.Index(s.list, c)
	s.list = slices.Delete(s.list, i, i+1)
}

// isUnrestricted reports whether neither c's age, nor another host, nor the silence of the peer
// restricts the use of c.
func isUnrestricted[C Conn](c C) bool {
	m := c.Member()
	return m.RetireAt.IsZero() && m.yieldedAt.IsZero() && !c.Suspected()
}

// sole returns the only connection if nothing restricts its use. ok is false if there is none, or
// if there is a choice.
func (s *Conns[C]) sole() (c C, ok bool) {
	if len(s.list) != 1 || !isUnrestricted(s.list[0]) || s.list[0].Member().quota > 0 {
		return c, false
	}
	return s.list[0], true
}

// lends reports whether c is one of the connections and may be used by another host.
func (s *Conns[C]) lends(c C) bool {
	m := c.Member()
	return s.Has(c) && m.quota == 0 && !c.Suspected() && !m.yields() && !m.retired()
}

// reserve is Host.Reserve.
func (s *Conns[C]) reserve(by rules) (c C, ended error) {
	s.confirmTime = 0
	if len(s.list) == 0 {
		return c, nil
	}
	if only := s.list[0]; len(s.list) == 1 && isUnrestricted(only) {
		ok, ended := reserveOn(only, by)
		if ok || ended != nil {
			return only, ended
		}
		return c, nil
	}
	best, ended := s.choose(by)
	if best == c || ended != nil {
		return best, ended
	}
	switch ok, ended := reserveOn(best, by); {
	case ended != nil:
		return best, ended
	case !ok:
		return s.reserveOther(best, by), nil
	}
	s.uses++
	m := best.Member()
	if m.usedAt = s.uses; m.Addr != nil {
		m.Addr.usedAt = s.uses
	}
	return best, nil
}

// reserveOn reserves a stream on c, within the limits that were learned from the host. If c has no
// stream, it may have one more request than that: it may have responded to fewer, because some were
// reset or given up, and would never get another one.
func reserveOn[C Conn](c C, by rules) (ok bool, ended error) {
	if by.single {
		return c.Reserve(1, 1)
	}
	requests := c.Member().allowed()
	if ok, ended = c.Reserve(by.streams, requests); ok || ended != nil || requests == 0 {
		return ok, ended
	}
	if streams, err := c.Load(); err != nil || streams > 0 {
		return false, nil
	}
	return c.Reserve(by.streams, 0)
}

// choose returns the connection that a request should use, whether or not it has a free stream. If
// a connection takes no more requests, it returns that one and the reason.
func (s *Conns[C]) choose(by rules) (best C, ended error) {
	if c, ended := s.readLoads(); ended != nil {
		return c, ended
	}
	var none, suspected C
	for i, c := range s.list {
		m := c.Member()
		switch {
		case m.yields():
		case c.Suspected():
			if confirmTime := c.Confirm(); i == 0 {
				s.confirmTime = confirmTime
			}
			suspected = c
		case best == none || m.isPreferred(best.Member(), by.spread):
			best = c
		}
	}
	if best == none && suspected != none && !s.room(by) {
		return suspected, nil
	}
	return best, nil
}

// takeConfirmTime returns how long to wait for the oldest connection before another one is made. If
// it was silent when a request was refused last, its sign of life can have come since then, but the
// request does not have its stream yet.
func (s *Conns[C]) takeConfirmTime() time.Duration {
	confirmTime := s.confirmTime
	if s.confirmTime = 0; len(s.list) > 0 && s.list[0].Suspected() {
		confirmTime = s.list[0].Confirm()
	}
	return confirmTime
}

// reserveOther reserves a stream on a connection other than full, which is the least loaded one but
// has no free stream. Another may have one, because the limits of connections differ.
func (s *Conns[C]) reserveOther(full C, by rules) (other C) {
	for _, c := range s.list {
		if c == full || c.Member().yields() || c.Suspected() && s.room(by) {
			continue
		}
		if ok, _ := reserveOn(c, by); ok {
			return c
		}
	}
	return other
}

// readLoads sets the load of each connection and of each address. If a connection takes no more
// requests, it returns that one and the reason.
func (s *Conns[C]) readLoads() (c C, ended error) {
	for _, c := range s.list {
		if a := c.Member().Addr; a != nil {
			a.load = 0
		}
	}
	for _, c := range s.list {
		m := c.Member()
		if m.load, ended = c.Load(); ended == nil && m.retired() {
			ended = ErrTooOld
		}
		if ended != nil {
			return c, ended
		}
		if m.Addr != nil {
			m.Addr.load += m.load
		}
	}
	return c, nil
}

// isPreferred reports whether a request should use the connection of m rather than the other one.
// If spread is set, addresses and connections with the same load take turns. It is called after
// readLoads.
func (m *Member) isPreferred(other *Member, spread bool) bool {
	a, b := m.Addr, other.Addr
	switch {
	case a != b && a.load != b.load:
		return a.load < b.load
	case a != b:
		return a.usedAt < b.usedAt
	case m.load == other.load && spread:
		return m.usedAt < other.usedAt
	}
	return m.load < other.load
}

// room is Host.Room.
func (s *Conns[C]) room(by rules) bool {
	if by.most > 0 && len(s.list)+by.making >= by.most {
		return false
	}
	return by.single || !slices.ContainsFunc(s.list, func(c C) bool { return !c.Suspected() && !c.Settled() })
}

// Ended returns a connection that takes no more requests, and why. The error is nil if there is
// none. The caller must remove the connection.
func (s *Conns[C]) Ended() (c C, why error) {
	for _, c := range s.list {
		if _, ended := c.Load(); ended != nil {
			return c, ended
		}
	}
	return c, nil
}

// anyWith reports whether is holds for the load of any connection.
func (s *Conns[C]) anyWith(is func(load int) bool) bool {
	return slices.ContainsFunc(s.list, func(c C) bool {
		load, _ := c.Load()
		return is(load)
	})
}

// ToYield returns the connection that should make room for a host in line, with its load. That is
// the one with the fewest streams that has not yielded recently. ok is false if there is none.
func (s *Conns[C]) ToYield() (best C, least int, ok bool) {
	for _, c := range s.list {
		load, ended := c.Load()
		if ended != nil || time.Since(c.Member().yieldedAt) < yieldAgain || ok && load >= least {
			continue
		}
		best, least, ok = c, load, true
	}
	return best, least, ok
}
