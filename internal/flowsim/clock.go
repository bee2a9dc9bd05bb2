package flowsim

import "time"

// A clock holds the events that are to come. Its time is that of the bubble in which a run plays.
type clock struct {
	now   time.Duration // since the connection was made
	queue events        // a heap
	last  uint64        // number of events scheduled; events at the same time run in the order of scheduling
	alarm *time.Timer
}

// timer returns a channel that gets a value when d has passed. The channel of an earlier call is the
// same.
func (c *clock) timer(d time.Duration) <-chan time.Time {
	if c.alarm == nil {
		c.alarm = time.NewTimer(d)
	} else {
		c.alarm.Reset(d)
	}
	return c.alarm.C
}

// An event is a function that the clock calls at a given time.
type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

// After calls do when d has passed.
func (c *clock) After(d time.Duration, do func()) { c.at(c.now+max(0, d), do) }

// at calls do at time t, or at once if t has passed.
func (c *clock) at(t time.Duration, do func()) {
	c.last++
	c.queue.push(event{max(t, c.now), c.last, do})
}

// events is a heap with four children per node. The earliest event is at the top.
type events []event

// before reports whether e runs before f.
func (e event) before(f event) bool { return e.at < f.at || e.at == f.at && e.seq < f.seq }

// push adds an event.
func (q *events) push(e event) {
	*q = append(*q, e)
	list, i := *q, len(*q)-1
	for i > 0 {
		parent := (i - 1) / 4
		if !e.before(list[parent]) {
			break
		}
		list[i] = list[parent]
		i = parent
	}
	list[i] = e
}

// pop removes the earliest event.
func (q *events) pop() event {
	list := *q
	first, e := list[0], list[len(list)-1]
	list[len(list)-1] = event{}
	list = list[:len(list)-1]
	*q = list
	if len(list) == 0 {
		return first
	}
	for i := 0; ; {
		least, child := e, -1
		for k := 4*i + 1; k <= min(4*i+4, len(list)-1); k++ {
			if list[k].before(least) {
				least, child = list[k], k
			}
		}
		list[i] = least
		if child < 0 {
			return first
		}
		i = child
	}
}
