package pool

import (
	"context"
	"slices"
	"time"
)

const (
	AttemptDelay = time.Second // until a parallel attempt begins if this one has not succeeded
	MaxAttempts  = 4           // at the same time
)

// An Attempts holds the attempts to make a connection to a host. Its zero value is empty.
type Attempts[C any] struct {
	list       []*Attempt[C] // for the requests that wait, oldest first
	background []*Attempt[C] // no request waits for them
	running    int           // begun and not ended, also those that are in no list any more
	pauseUntil time.Time     // until then none is begun in the background
}

// An Attempt makes a connection to a host for the requests that wait.
type Attempt[C any] struct {
	Addr *Addr // the address to dial instead of the host; nil: none

	cancel     context.CancelFunc
	place      *Request[C] // the request that it was begun for; nil: it was begun in the background
	covers     uint64      // it is for the requests with a turn up to this
	beside     *time.Timer // begins a parallel attempt; nil: no timer
	paused     bool        // it has not begun to dial
	background bool        // no request waits for it
}

// Background reports whether no request waits for the attempt.
func (a *Attempt[C]) Background() bool { return a.background }

// Len returns the number of attempts.
func (s *Attempts[C]) Len() int { return len(s.list) + len(s.background) }

// ForRequests returns the number of attempts that are not in the background.
func (s *Attempts[C]) ForRequests() int { return len(s.list) }

// begin adds an attempt for the request at index i of q. cancel ends it.
func (s *Attempts[C]) begin(q *Queue[C], i int, cancel context.CancelFunc) *Attempt[C] {
	a := &Attempt[C]{place: q.At(i), covers: q.turns, paused: true, cancel: cancel}
	s.list = append(s.list, a)
	s.running++
	return a
}

// beginInBackground adds an attempt that no request waits for, which dials addr. cancel ends it.
func (s *Attempts[C]) beginInBackground(addr *Addr, cancel context.CancelFunc) *Attempt[C] {
	a := &Attempt[C]{background: true, Addr: addr, cancel: cancel}
	s.background = append(s.background, a)
	s.running++
	return a
}

// BesideAfter calls f after d, unless a has ended then. f is to begin a parallel attempt, if
// MayBeside says so.
func (a *Attempt[C]) BesideAfter(d time.Duration, f func()) { a.beside = time.AfterFunc(d, f) }

// Unwanted returns the attempts that are to be ended after AttemptDelay if no request waits then:
// the attempts in progress get that time to make a connection for the next request.
func (s *Attempts[C]) Unwanted() []*Attempt[C] { return slices.Clone(s.list) }

// Cancel ends a.
func (a *Attempt[C]) Cancel() { a.cancel() }

// CancelPaused ends the attempts that have not begun to dial.
func (s *Attempts[C]) CancelPaused() {
	for _, a := range s.list {
		if a.paused {
			a.cancel()
		}
	}
}

// CancelAll ends all attempts.
func (s *Attempts[C]) CancelAll() {
	for _, a := range s.list {
		a.cancel()
	}
	for _, a := range s.background {
		a.cancel()
	}
}

// Ended removes a, which is over.
func (s *Attempts[C]) Ended(a *Attempt[C]) {
	s.running--
	a.cancel()
	if a.beside != nil {
		a.beside.Stop()
	}
	is := func(other *Attempt[C]) bool { return other == a }
	s.list = slices.DeleteFunc(s.list, is)
	s.background = slices.DeleteFunc(s.background, is)
}

// promote assigns an attempt in the background to the waiting requests, whose own attempt has
// failed. It reports whether there was one.
func (s *Attempts[C]) promote(q *Queue[C]) bool {
	if len(s.background) == 0 || q.Empty() {
		return false
	}
	a := s.background[0]
	a.background, a.covers = false, q.turns
	s.list = append(s.list, a)
	s.background = slices.Delete(s.background, 0, 1)
	return true
}

// pause lets no attempt begin in the background for some time, because one has failed or was of no
// use.
func (s *Attempts[C]) pause() { s.pauseUntil = time.Now().Add(minAvoid) }

// paused reports whether no attempt may begin in the background because of pause.
func (s *Attempts[C]) paused() bool { return time.Now().Before(s.pauseUntil) }

// takeOver cancels and removes the attempts in the background for addr, because an attempt for a
// request now dials addr.
func (s *Attempts[C]) takeOver(addr *Addr) {
	s.background = slices.DeleteFunc(s.background, func(a *Attempt[C]) bool {
		if a.Addr == addr {
			a.cancel()
		}
		return a.Addr == addr
	})
}
