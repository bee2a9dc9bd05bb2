package hyper

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// In random use of a readyQueue, no stream is lost or returned twice, a stream is returned only if
// none is more urgent and none is before it in order, and those that take turns are never passed
// twice by the same stream.
func TestReadyQueueKeepsTheRules(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		var q readyQueue
		var inside, outside []*Stream
		passed := map[[2]*Stream]bool{} // the first was returned while the second was in the queue
		for i := range rnd.IntN(20) + 1 {
			snd := &sender{priority: randomPriority(rnd)}
			outside = append(outside, &Stream{id: uint32(2*i + 1), sender: snd})
		}
		take := func(list *[]*Stream, i int) *Stream {
			s := (*list)[i]
			*list = slices.Delete(*list, i, i+1)
			return s
		}
		for range 500 {
			switch op := rnd.IntN(10); {
			case op < 4 && len(outside) > 0: // as a stream that has been written to
				s := take(&outside, rnd.IntN(len(outside)))
				if rnd.IntN(4) == 0 {
					s.sender.priority = randomPriority(rnd)
				}
				q.push(s)
				inside = append(inside, s)
				forget(passed, s)
			case op < 5 && len(inside) > 0: // as a stream that ends
				s := take(&inside, rnd.IntN(len(inside)))
				q.remove(s)
				outside = append(outside, s)
				forget(passed, s)
			case len(inside) > 0: // as a write, after which more is left to send, or not, or no window
				s := q.pop()
				i := slices.Index(inside, s)
				if i < 0 {
					t.Fatalf("seed %d: returned %v, which is not in the queue", seed, s)
				}
				checkReturned(t, seed, s, inside, passed)
				switch rnd.IntN(4) {
				case 0:
					outside = append(outside, take(&inside, i))
					forget(passed, s)
				case 1:
					q.pushFront(s)
					for _, other := range inside {
						delete(passed, [2]*Stream{s, other})
					}
				default:
					q.push(s)
				}
			}
			if q.empty() != (len(inside) == 0) {
				t.Fatalf("seed %d: empty is %v with %d streams", seed, q.empty(), len(inside))
			}
		}
		for len(inside) > 0 {
			take(&inside, slices.Index(inside, q.pop()))
		}
		if s := q.pop(); s != nil {
			t.Fatalf("seed %d: stream %d is returned twice", seed, s.id)
		}
	}
}

// checkReturned checks that s may be returned while the streams of inside are in the queue.
func checkReturned(t *testing.T, seed uint64, s *Stream, inside []*Stream, passed map[[2]*Stream]bool) {
	t.Helper()
	p := s.sender.priority
	for _, other := range inside {
		o := other.sender.priority
		same := other != s && o.urgency() == p.urgency()
		switch {
		case o.urgency() < p.urgency():
			t.Fatalf("seed %d: stream %d (%v) is returned before %d (%v)", seed, s.id, p, other.id, o)
		case same && p.inOrder() && o.inOrder() && other.id < s.id:
			t.Fatalf("seed %d: stream %d is returned before %d", seed, s.id, other.id)
		case same && !p.inOrder() && !o.inOrder():
			if passed[[2]*Stream{s, other}] {
				t.Fatalf("seed %d: stream %d has passed %d twice", seed, s.id, other.id)
			}
			passed[[2]*Stream{s, other}] = true
		}
	}
	for pair := range passed {
		if pair[1] == s {
			delete(passed, pair)
		}
	}
}

// forget removes the pairs with s.
func forget(passed map[[2]*Stream]bool, s *Stream) {
	for pair := range passed {
		if pair[0] == s || pair[1] == s {
			delete(passed, pair)
		}
	}
}

// randomPriority returns one of a few priorities, often the same.
func randomPriority(rnd *rand.Rand) Priority {
	if rnd.IntN(2) == 0 {
		return Priority{}
	}
	return Priority{Urgency: int8(rnd.IntN(5) - 1), Incremental: rnd.IntN(2) == 0}
}
