package main

import "time"

// A shaper decides when a packet leaves a link of a rate and a delay, whose queue drops what does
// not fit. It is for one direction.
type shaper struct {
	rate  float64       // bits per second
	delay time.Duration // one way
	queue int           // bytes that may wait for the rate

	free time.Time // when the last admitted packet will have been sent
}

// admit returns when a packet of n bytes that arrives now leaves the link. It returns false if the
// packet is dropped.
func (s *shaper) admit(now time.Time, n int) (leaves time.Time, ok bool) {
	if s.free.Before(now) {
		s.free = now
	}
	if s.free.Sub(now).Seconds()*s.rate/8 > float64(s.queue) {
		return time.Time{}, false
	}
	s.free = s.free.Add(time.Duration(float64(n) * 8 / s.rate * float64(time.Second)))
	return s.free.Add(s.delay), true
}
