package hyper

import (
	"container/heap"
	"context"

	"gohyper.dev/hyper/internal/state"
	"gohyper.dev/hyper/internal/wire"
)

// SetPriority changes the priority of the exchange. It changes in which order hyper sends what is
// left of the request's body, and sends PRIORITY_UPDATE, which asks the peer to do the same with
// the response (RFC 9218 §7.1). The zero Priority has the meaning of RFC 9218's defaults there. No
// frame is sent if the peer's SETTINGS do not have NO_RFC7540_PRIORITIES=1, because the peer would
// most likely ignore it (RFC 9218 §2.1.1), and none after the end of the stream.
//
// SetPriority returns a *RequestError if p is not valid, and the error of a connection that has
// ended. It waits while the peer does not read.
func (s *Stream) SetPriority(p Priority) error {
	if err := s.reusedErr(); err != nil {
		return err
	}
	if err := p.check(); err != nil {
		return err
	}
	c := s.c
	c.lock()
	defer c.unlock()
	s.memory.holdLocked()
	err := c.waitForRoomUnlocking(context.Background())
	if s.memory.releaseLocked(); err != nil {
		return err
	}
	if s.state == state.Closed {
		return nil
	}
	if s.sender != nothingToSend {
		s.prioritizeLocked(p)
	}
	if !c.settings.peer.known || c.settings.peer.hasOther(SettingNoRFC7540Priorities, 1) {
		c.writer.add(wire.AppendPriorityUpdate(c.writer.out, s.id, p.String()))
	}
	return nil
}

// prioritizeLocked changes the priority of what s sends.
func (s *Stream) prioritizeLocked(p Priority) {
	ready := s.isReadyLocked()
	if ready {
		s.c.writer.ready.remove(s)
	}
	if s.sender.priority = p; ready {
		s.c.writer.ready.push(s)
	}
}

// isReadyLocked reports whether s is in the connection's readyQueue.
func (s *Stream) isReadyLocked() bool {
	return s.sender.in != nil && s.sender.in != &s.c.writer.blocked
}

// A readyQueue holds the streams that have data to send and stream window for it, in the order in
// which they send (see Priority). The connection's mu guards it.
type readyQueue struct {
	sendQueue                // those that take turns at the default urgency
	ranked    *rankedStreams // nil: no stream has had a priority
}

// rankedStreams holds the ready streams with a priority, by urgency.
type rankedStreams [LeastUrgent + 1]rank

// A rank holds the ready streams of one urgency.
type rank struct {
	turns sendQueue // streams that take turns; unused at the default urgency
	// Of the streams that are sent in order, the one with the lowest identifier takes turns with
	// the others. nil: none does.
	first *Stream
	later streamHeap // the others that are sent in order
}

// at returns the rank of s, and the queue of those that take turns there.
func (q *readyQueue) at(s *Stream) (*rank, *sendQueue) {
	urgency := s.sender.priority.urgency()
	return &q.ranked[urgency], q.turns(urgency)
}

// turns returns the queue of the streams that take turns at an urgency.
func (q *readyQueue) turns(urgency int) *sendQueue {
	if urgency == (Priority{}).urgency() {
		return &q.sendQueue
	}
	return &q.ranked[urgency].turns
}

// push adds s after the others that it takes turns with.
func (q *readyQueue) push(s *Stream) {
	if !s.sender.priority.isSaid() {
		q.sendQueue.push(s)
		return
	}
	if q.ranked == nil {
		q.ranked = &rankedStreams{}
	}
	r, turns := q.at(s)
	switch {
	case !s.sender.priority.inOrder():
		turns.push(s)
	case r.first == nil && (len(r.later) == 0 || s.id < r.later[0].id):
		turns.push(s)
		r.first = s
	case r.first == nil:
		r.promote(turns)
		r.later.add(s)
	case s.id < r.first.id:
		turns.remove(r.first)
		r.later.add(r.first)
		turns.push(s)
		r.first = s
	default:
		r.later.add(s)
	}
}

// pushFront adds s, which pop has returned last, where it was.
func (q *readyQueue) pushFront(s *Stream) {
	if !s.sender.priority.isSaid() {
		q.sendQueue.pushFront(s)
		return
	}
	r, turns := q.at(s)
	turns.pushFront(s)
	if s.sender.priority.inOrder() {
		r.first = s
	}
}

// pop removes the stream that sends next and returns it, or nil if there is none.
func (q *readyQueue) pop() *Stream {
	if q.ranked == nil {
		return q.sendQueue.pop()
	}
	for urgency := range q.ranked {
		r, turns := &q.ranked[urgency], q.turns(urgency)
		r.promote(turns)
		if s := turns.pop(); s != nil {
			if s == r.first {
				r.first = nil
			}
			return s
		}
	}
	return nil
}

// promote lets the first of the later streams take turns if no stream that is sent in order does.
func (r *rank) promote(turns *sendQueue) {
	if r.first == nil && len(r.later) > 0 {
		r.first = r.later.first()
		turns.push(r.first)
	}
}

// remove removes s, which is in the queue.
func (q *readyQueue) remove(s *Stream) {
	if !s.sender.priority.isSaid() {
		q.sendQueue.remove(s)
		return
	}
	r, turns := q.at(s)
	if s.sender.in != turns {
		r.later.remove(s)
		return
	}
	turns.remove(s)
	if s == r.first {
		r.first = nil
	}
}

// empty reports whether no stream is ready.
func (q *readyQueue) empty() bool {
	if q.head != nil {
		return false
	}
	if q.ranked != nil {
		for i := range q.ranked {
			if r := &q.ranked[i]; r.turns.head != nil || len(r.later) > 0 {
				return false
			}
		}
	}
	return true
}

// A streamHeap is a heap of streams: the one with the lowest identifier comes first.
type streamHeap []*Stream

// inHeap is the sender.in of the streams in a heap. It is never changed.
var inHeap sendQueue

// add adds s.
func (h *streamHeap) add(s *Stream) {
	s.sender.in = &inHeap
	heap.Push(h, s)
}

// first removes the first stream and returns it.
func (h *streamHeap) first() *Stream { return heap.Pop(h).(*Stream) }

// remove removes s.
func (h *streamHeap) remove(s *Stream) { heap.Remove(h, int(s.sender.at)) }

// Len implements heap.Interface.
func (h streamHeap) Len() int { return len(h) }

// Less implements heap.Interface.
func (h streamHeap) Less(i, j int) bool { return h[i].id < h[j].id }

// Swap implements heap.Interface.
func (h streamHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].sender.at, h[j].sender.at = int32(i), int32(j)
}

// Push implements heap.Interface. Use add.
func (h *streamHeap) Push(x any) {
	s := x.(*Stream)
	s.sender.at = int32(len(*h))
	*h = append(*h, s)
}

// Pop implements heap.Interface. Use first.
func (h *streamHeap) Pop() any {
	last := len(*h) - 1
	s := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	s.sender.in = nil
	return s
}
