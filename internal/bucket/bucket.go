// Package bucket has a budget that refills with time: a token bucket.
package bucket

import "time"

// A Bucket holds tokens. Take spends them; they come back with time and by Add, up to a bound. Time
// is whatever the caller counts from, and does not go back. A Bucket is not safe for concurrent use.
type Bucket struct {
	left, most int
	perSecond  int
	at         time.Duration // when it was last refilled
}

// New returns a Bucket with so many tokens. It gets perSecond more a second, while it has fewer
// than most.
func New(tokens, most, perSecond int) Bucket {
	return Bucket{left: tokens, most: most, perSecond: perSecond}
}

// Take spends n tokens, or none where there are fewer. It reports which.
func (b *Bucket) Take(now time.Duration, n int) bool {
	if b.left < n {
		fresh := int(min(now-b.at, time.Hour) * time.Duration(b.perSecond) / time.Second)
		if fresh > 0 {
			b.Add(fresh)
			b.at = now
		}
	}
	if b.left < n {
		return false
	}
	b.left -= n
	return true
}

// Add puts n tokens in, as far as there is room.
func (b *Bucket) Add(n int) { b.left = min(b.most, b.left+n) }

// Left returns the number of tokens when Take or Add last looked.
func (b *Bucket) Left() int { return b.left }

// Most returns the number of tokens that the Bucket can hold.
func (b *Bucket) Most() int { return b.most }
