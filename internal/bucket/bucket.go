// Package bucket has a budget that refills with time: a token bucket.
package bucket

import "time"

// A Bucket holds tokens. Take spends them; they come back with time and by Add, up to a bound. Time
// is whatever the caller counts from, and does not go back. A Bucket is not safe for concurrent
// use.
type Bucket struct {
	left, most int32
	perSecond  int32
	at         time.Duration // when it was last refilled
}

// New returns a Bucket with so many tokens. It gets perSecond more a second, while it has fewer
// than most. All three are below 2^31.
func New(tokens, most, perSecond int) Bucket {
	return Bucket{left: int32(tokens), most: int32(most), perSecond: int32(perSecond)}
}

// Take spends n tokens, or none where there are fewer. It reports which.
func (b *Bucket) Take(now time.Duration, n int) bool {
	if int(b.left) < n {
		fresh := int(min(now-b.at, time.Hour) * time.Duration(b.perSecond) / time.Second)
		if fresh > 0 {
			b.Add(fresh)
			b.at = now
		}
	}
	if int(b.left) < n {
		return false
	}
	b.left -= int32(n)
	return true
}

// Add puts n tokens in, as far as there is room.
func (b *Bucket) Add(n int) { b.left += int32(min(n, int(b.most-b.left))) }

// Left returns the number of tokens when Take or Add last looked.
func (b *Bucket) Left() int { return int(b.left) }

// Most returns the number of tokens that the Bucket can hold.
func (b *Bucket) Most() int { return int(b.most) }
