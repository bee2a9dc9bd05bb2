package pool

import (
	"math/rand/v2"
	"slices"
	"time"
)

const (
	lookUpEvery = 30 * time.Second // while there is traffic

	// An address that could not be reached is avoided for minAvoid, then for twice as long each
	// time, up to maxAvoid.
	minAvoid = time.Second
	maxAvoid = 30 * time.Second
)

// An Addrs holds the addresses of a host. It is empty if they are not looked up, so that the host
// itself is dialed.
type Addrs struct {
	list     []*Addr   // in random order
	lookedUp time.Time // when the list was last looked up; zero: never
	again    bool      // another look-up is in progress
}

// An Addr is one of a host's addresses.
type Addr struct {
	Text string // as in the list that Set was given

	failures int       // consecutive failures to make a connection
	avoid    time.Time // until then other addresses are preferred
	load     int       // streams to the address; set by Conns.readLoads
	conns    int       // connections to the address; set by Host.countConns
	usedAt   uint64    // value of Conns.uses at the last request
	listed   bool      // it is one of the host's addresses
}

// Known reports whether there are addresses.
func (s *Addrs) Known() bool { return len(s.list) > 0 }

// Fresh reports whether there are addresses that need not be looked up again.
func (s *Addrs) Fresh() bool { return s.Known() && time.Since(s.lookedUp) < lookUpEvery }

// WereLookedUp reports whether addresses were ever looked up.
func (s *Addrs) WereLookedUp() bool { return !s.lookedUp.IsZero() }

// LookUpAgain reports whether the addresses have to be looked up again now. If so, it returns false
// until LookedUpAgain is called.
func (s *Addrs) LookUpAgain() bool {
	if s.again || time.Since(s.lookedUp) < lookUpEvery {
		return false
	}
	s.again = true
	return true
}

// LookedUpAgain is called when another look-up has ended. If it has failed, the addresses are
// unchanged.
func (s *Addrs) LookedUpAgain() { s.again, s.lookedUp = false, time.Now() }

// Set makes list the addresses of the host. What is known of an address is kept.
func (s *Addrs) Set(list []string) {
	known := make(map[string]*Addr, len(list))
	for _, a := range s.list {
		known[a.Text], a.listed = a, false
	}
	s.lookedUp, s.list = time.Now(), nil
	for _, text := range list {
		a := known[text]
		if a == nil {
			a = &Addr{Text: text}
			known[text] = a
		}
		if !a.listed {
			a.listed = true
			s.list = append(s.list, a)
		}
	}
	rand.Shuffle(len(s.list), func(i, j int) { s.list[i], s.list[j] = s.list[j], s.list[i] })
}

// Listed reports whether a is one of its host's addresses. nil is not.
func (a *Addr) Listed() bool { return a != nil && a.listed }

// Reached records that the address was reached.
func (a *Addr) Reached() { a.failures, a.avoid = 0, time.Time{} }

// Failed records that the address could not be reached.
func (a *Addr) Failed() {
	a.failures++
	a.avoid = time.Now().Add(min(maxAvoid, minAvoid<<min(a.failures-1, 10)))
}

// Lost records that a connection to the address was lost. The address is avoided for the next
// connection. a may be nil.
func (a *Addr) Lost() {
	if a != nil && a.avoid.IsZero() {
		a.avoid = time.Now().Add(minAvoid)
	}
}

// count counts a connection to the address. a may be nil.
func (a *Addr) count() {
	if a != nil {
		a.conns++
	}
}

// lack reports whether there is an address without a connection that need not be avoided. It is
// called after countConns.
func (s *Addrs) lack() bool {
	now := time.Now()
	return slices.ContainsFunc(s.list, func(a *Addr) bool { return a.conns == 0 && !now.Before(a.avoid) })
}

// choose returns the address for a new connection. It chooses from the addresses that are not in
// tried. Among those that are not avoided, it returns the one with the fewest connections. If all
// are avoided, it returns the one that is avoided for the shortest time. It returns nil if there is
// no address. It is called after countConns.
func (s *Addrs) choose(tried map[*Addr]bool) *Addr {
	var best *Addr
	now := time.Now()
	for _, a := range s.list {
		if tried[a] {
			continue
		}
		switch avoided := now.Before(a.avoid); {
		case best == nil:
		case avoided != now.Before(best.avoid):
			if avoided {
				continue
			}
		case avoided && !a.avoid.Before(best.avoid):
			continue
		case !avoided && a.conns >= best.conns:
			continue
		}
		best = a
	}
	return best
}
