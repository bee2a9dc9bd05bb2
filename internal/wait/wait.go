// Package wait has queues of calls that wait for something which a lock guards.
//
// A call takes a Waiter from a Spares and pushes it on a Queue, unlocks, and calls Wait. When it
// has returned, the call locks again, puts the Waiter back, and looks whether what it waits for has
// come. Everything but Wait and Wake needs the lock that guards the queues.
package wait

import (
	"context"
	"iter"
)

// A Waiter is one call that waits. Waking it fills a channel of one slot, so that waking never
// blocks.
type Waiter struct {
	Granted bool // what it waited for has been given to it

	ready      chan struct{}
	queued     bool
	prev, next *Waiter
	after      *Waiter // in a Batch
}

// A Reason is why Wait has returned.
type Reason uint8

const (
	Woken    Reason = iota
	Ended           // the context has ended
	Canceled        // the cancel channel is closed
)

// Wait blocks until w is woken, ctx ends, or cancel is closed. cancel may be nil.
func (w *Waiter) Wait(ctx context.Context, cancel <-chan struct{}) Reason {
	select {
	case <-w.ready:
		return Woken
	case <-ctx.Done():
		return Ended
	case <-cancel:
		return Canceled
	}
}

// WaitWoken is Wait without anything else that could end it. It is inlined: each frame of a stack
// that waits costs the collector time.
func (w *Waiter) WaitWoken() { <-w.ready }

// Wake makes Wait return. It has no effect if w has been woken before and has not run since.
func (w *Waiter) Wake() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// Spares keeps Waiters for use again. A connection has its own: a channel belongs to the bubble of
// testing/synctest that made it, and so its Waiter must not serve another connection.
type Spares struct {
	first *Waiter // linked by next
	n     int
}

// Get returns a Waiter that is on no queue.
func (s *Spares) Get() *Waiter {
	w := s.first
	if w == nil {
		return &Waiter{ready: make(chan struct{}, 1)}
	}
	s.first, w.next = w.next, nil
	s.n--
	return w
}

// Put takes back a Waiter that has waited on q. It may be on q still, if its context ended.
func (s *Spares) Put(q *Queue, w *Waiter) {
	if w.queued {
		q.Remove(w)
	}
	select {
	case <-w.ready: // woken when its context had ended
	default:
	}
	w.Granted = false
	w.next, s.first = s.first, w
	s.n++
}

// Len returns how many Waiters are kept.
func (s *Spares) Len() int { return s.n }

// A Queue holds Waiters that wait for the same thing, in order. Its zero value is empty.
type Queue struct{ head, tail *Waiter }

// Empty reports whether no Waiter is on the queue.
func (q *Queue) Empty() bool { return q.head == nil }

// Len counts the Waiters on the queue.
func (q *Queue) Len() (n int) {
	for range q.All() {
		n++
	}
	return n
}

// First returns the Waiter at the head, nil if there is none.
func (q *Queue) First() *Waiter { return q.head }

// Last returns the Waiter at the tail, nil if there is none.
func (q *Queue) Last() *Waiter { return q.tail }

// All yields the Waiters from the head to the tail. The queue must not change meanwhile.
func (q *Queue) All() iter.Seq[*Waiter] {
	return func(yield func(*Waiter) bool) {
		for w := q.head; w != nil && yield(w); w = w.next {
		}
	}
}

// Push puts w, which is on no queue, at the tail.
func (q *Queue) Push(w *Waiter) {
	w.queued, w.prev = true, q.tail
	if q.tail != nil {
		q.tail.next = w
	} else {
		q.head = w
	}
	q.tail = w
}

// PushFront puts w, which is on no queue, at the head.
func (q *Queue) PushFront(w *Waiter) {
	w.queued, w.next = true, q.head
	if q.head != nil {
		q.head.prev = w
	} else {
		q.tail = w
	}
	q.head = w
}

// Remove takes w off the queue, which it is on.
func (q *Queue) Remove(w *Waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		q.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		q.tail = w.prev
	}
	w.queued, w.prev, w.next = false, nil, nil
}

// WakeAll empties the queue and wakes what was on it.
func (q *Queue) WakeAll() {
	for w := q.head; w != nil; w = q.head {
		q.Remove(w)
		w.Wake()
	}
}

// A Batch holds Waiters that are taken off their queues with the lock, and woken after it was
// unlocked. Waiters of one lock must not be in two Batches at the same time.
type Batch struct{ first, last *Waiter }

// Take empties q.
func (b *Batch) Take(q *Queue) {
	for w := q.head; w != nil; w = q.head {
		q.Remove(w)
		if b.last != nil {
			b.last.after = w
		} else {
			b.first = w
		}
		b.last = w
	}
}

// Wake wakes the Waiters in their order, and empties b. It needs no lock. The call of a Waiter may
// have ended since: another one that uses the Waiter is woken too early, and waits again.
func (b *Batch) Wake() {
	for w := b.first; w != nil; w = b.first {
		b.first, w.after = w.after, nil
		w.Wake()
	}
	b.last = nil
}
