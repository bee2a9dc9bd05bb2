package pool

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Bound counts the connections of all hosts, and limits them: those that take requests and those
// that are being made. A host that needs a connection beyond the limit waits in line. H is the type
// of hosts. The zero value is ready for use.
//
// A Bound has its own lock, which may be taken while a host's is held. No other lock is taken while
// it is held.
type Bound[H any] struct {
	// Crowded is true while a connection that becomes idle must be reported, because hosts wait in
	// line or too many connections are open.
	Crowded atomic.Bool

	open atomic.Int64 // connections that take requests

	mu    sync.Mutex // guards everything below, and all Shares
	used  int        // granted connections included
	line  []*Share[H]
	timer *time.Timer // will call the function of CallLater; nil: none
}

// A Share is what a Bound knows of one host. The Bound's lock guards it.
type Share[H any] struct {
	Host H

	queued  bool // waits in line
	granted int  // number of connections that the host may make now
}

// A Grant is the result of Bound.Take.
type Grant uint8

// The values of Grant.
const (
	Granted Grant = iota // the host may make a connection
	Queued               // the host waits in line from now on
	Waiting              // the host was in line already
)

// Take takes one of most connections for s. If there is none, s waits in line, until GiveBack
// returns it. If most is 0, there is no limit.
func (b *Bound[H]) Take(s *Share[H], most int) Grant {
	if most <= 0 {
		return Granted
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case s.granted > 0:
		s.granted--
		return Granted
	case b.used < most && len(b.line) == 0:
		b.used++
		return Granted
	case s.queued:
		return Waiting
	}
	s.queued = true
	b.line = append(b.line, s)
	b.Crowded.Store(true)
	return Queued
}

// TryTake takes one of most connections if there is one and no host waits for it. It reports
// whether it did.
func (b *Bound[H]) TryTake(most int) bool {
	if most <= 0 {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used >= most || len(b.line) > 0 {
		return false
	}
	b.used++
	return true
}

// GiveBack returns a connection that Take or TryTake took with the limit most. The first host in
// line gets it: GiveBack returns that host's Share, or nil if none is in line. The host must then
// make the connection, and call Unused.
func (b *Bound[H]) GiveBack(most int) *Share[H] {
	if most <= 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.line) == 0 {
		b.used--
		return nil
	}
	next := b.line[0]
	b.line[0] = nil
	b.line = shrunk(b.line[1:])
	next.queued = false
	next.granted++
	return next
}

// Unused returns how many connections s was granted and has not taken. s no longer has them: each
// must be given back.
func (b *Bound[H]) Unused(s *Share[H]) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	left := s.granted
	s.granted = 0
	return left
}

// Leave removes s, whose requests no longer need a connection, from the line.
func (b *Bound[H]) Leave(s *Share[H]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.line, s); i >= 0 {
		s.queued = false
		b.line = shrunk(slices.Delete(b.line, i, i+1))
	}
}

// InLine reports whether s waits in line.
func (b *Bound[H]) InLine(s *Share[H]) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return s.queued
}

// Len returns how many hosts wait in line.
func (b *Bound[H]) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.line)
}

// Line returns the hosts that wait in line, in the order in which they came.
func (b *Bound[H]) Line() (hosts []H) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.line {
		hosts = append(hosts, s.Host)
	}
	return hosts
}

// CallLater calls f after d, unless it is going to call a function already.
func (b *Bound[H]) CallLater(d time.Duration, f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer != nil {
		return
	}
	b.timer = time.AfterFunc(d, func() {
		b.mu.Lock()
		b.timer = nil
		b.mu.Unlock()
		f()
	})
}

// Count adds n to the number of open connections, and sets Crowded. At most idle connections may be
// kept without a stream; -1 means any number.
func (b *Bound[H]) Count(n, idle int) {
	b.open.Add(int64(n))
	b.mu.Lock()
	defer b.mu.Unlock()
	// Under the lock, so that the last of several hosts decides with the count of all.
	b.Crowded.Store(len(b.line) > 0 || idle >= 0 && b.Open() > idle)
}

// Open returns the number of open connections of all hosts.
func (b *Bound[H]) Open() int { return int(b.open.Load()) }
