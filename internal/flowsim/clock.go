package main

import "time"

// A clock is virtual time: what is due happens in order, and nothing waits.
type clock struct {
	now   time.Duration
	queue events // a heap
	last  uint64 // of what was scheduled; what is due at once happens in that order
}

type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

// Now is the time since the connection began.
func (c *clock) Now() time.Duration { return c.now }

// After calls do when d has passed.
func (c *clock) After(d time.Duration, do func()) { c.at(c.now+max(0, d), do) }

func (c *clock) at(t time.Duration, do func()) {
	c.last++
	c.queue.push(event{max(t, c.now), c.last, do})
}

// run does what is due until done says so. It is false if nothing is due and that is not so.
func (c *clock) run(done func() bool) bool {
	for !done() {
		if len(c.queue) == 0 {
			return false
		}
		e := c.queue.pop()
		c.now = e.at
		e.do()
	}
	return true
}

// events is a heap of four branches, the first thing due on top.
type events []event

func (e event) before(f event) bool { return e.at < f.at || e.at == f.at && e.seq < f.seq }

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
