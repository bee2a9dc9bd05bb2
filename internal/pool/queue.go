package pool

import (
	"cmp"
	"context"
	"slices"
)

// A Queue holds the requests that wait for a connection to a host, in the order of their turns. Its
// zero value is empty. C is the type of connections.
type Queue[C any] struct {
	waiting []*Request[C]
	turns   uint64 // number of turns given so far
}

// A Request is a request's place in a Queue.
type Request[C any] struct {
	Ctx context.Context

	turn  uint64
	ready chan struct{} // buffered: receives one value when conn or err is set
	conn  C             // has a slot reserved for the request
	err   error
}

// Turn returns turn, or the next turn if turn is 0. A request keeps its turn if it has to wait
// again because its slot was gone when it wanted to use it.
func (q *Queue[C]) Turn(turn uint64) uint64 {
	if turn > 0 {
		return turn
	}
	q.turns++
	return q.turns
}

// Len returns the number of requests that wait.
func (q *Queue[C]) Len() int { return len(q.waiting) }

// Empty reports whether no request waits.
func (q *Queue[C]) Empty() bool { return len(q.waiting) == 0 }

// At returns the request at index i. The first one has index 0.
func (q *Queue[C]) At(i int) *Request[C] { return q.waiting[i] }

// IsNext reports whether a request with that turn would be the first one.
func (q *Queue[C]) IsNext(turn uint64) bool { return len(q.waiting) == 0 || turn < q.waiting[0].turn }

// Add adds a request with that turn. ctx is the request's context.
func (q *Queue[C]) Add(ctx context.Context, turn uint64) *Request[C] {
	r := &Request[C]{Ctx: ctx, turn: turn, ready: make(chan struct{}, 1)}
	i, _ := slices.BinarySearchFunc(q.waiting, r, func(a, b *Request[C]) int {
		return cmp.Compare(a.turn, b.turn)
	})
	q.waiting = slices.Insert(q.waiting, i, r)
	return r
}

// Remove removes r, and reports whether it was in the queue. If it was not, it has a result.
func (q *Queue[C]) Remove(r *Request[C]) bool {
	i := slices.Index(q.waiting, r)
	if i < 0 {
		return false
	}
	q.waiting = shrunk(slices.Delete(q.waiting, i, i+1))
	return true
}

// Pop removes the first request, and gives it c or err.
func (q *Queue[C]) Pop(c C, err error) {
	r := q.waiting[0]
	q.waiting[0] = nil
	q.waiting = shrunk(q.waiting[1:])
	r.conn, r.err = c, err
	r.ready <- struct{}{}
}

// fail removes the requests with a turn up to through, and gives them err.
func (q *Queue[C]) fail(through uint64, err error) {
	for len(q.waiting) > 0 && q.waiting[0].turn <= through {
		var none C
		q.Pop(none, err)
	}
}

// failAll removes all requests, and gives them err.
func (q *Queue[C]) failAll(err error) { q.fail(q.turns, err) }

// Ready returns a channel that receives one value when the request has a result.
func (r *Request[C]) Ready() <-chan struct{} { return r.ready }

// Result returns what the Queue gave to the request. It is called after Ready has sent, or under
// the lock that guards the Queue.
func (r *Request[C]) Result() (C, error) { return r.conn, r.err }
