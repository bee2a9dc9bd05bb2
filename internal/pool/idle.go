package pool

import (
	"slices"
	"sync"
	"time"
)

// A MayIdle is a connection that knows since when it has had no stream. The bool is false if it has
// one, or if it is ending.
type MayIdle interface {
	IdleFrom() (time.Time, bool)
}

// Idlest returns the connections that have no stream, those that have had none for the longest time
// first, but only as many as number says. number is called with the count of connections without a
// stream.
func Idlest[C MayIdle](conns []C, number func(idle int) int) []C {
	type idleConn struct {
		c     C
		since time.Time
	}
	var idle []idleConn
	for _, c := range conns {
		if since, ok := c.IdleFrom(); ok {
			idle = append(idle, idleConn{c, since})
		}
	}
	n := min(max(0, number(len(idle))), len(idle))
	if n == 0 {
		return nil
	}
	slices.SortStableFunc(idle, func(a, b idleConn) int { return a.since.Compare(b.since) })
	list := make([]C, n)
	for i := range list {
		list[i] = idle[i].c
	}
	return list
}

// A Throttle makes calls that are slow at most once in some time. Its zero value is ready for use.
type Throttle struct {
	mu    sync.Mutex
	timer *time.Timer // nil: the last call was at least the time ago
	again bool        // Call was called since then
}

// Call calls f now, or later if the last call was less than every ago. Calls of Call before that
// have no further effect.
func (l *Throttle) Call(every time.Duration, f func()) {
	l.mu.Lock()
	if l.timer != nil {
		l.again = true
		l.mu.Unlock()
		return
	}
	l.timer = time.AfterFunc(every, func() {
		l.mu.Lock()
		l.timer = nil
		again := l.again
		l.again = false
		l.mu.Unlock()
		if again {
			l.Call(every, f)
		}
	})
	l.mu.Unlock()
	f()
}
