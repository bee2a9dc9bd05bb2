package bucket

import (
	"testing"
	"time"
)

// Each two bytes are a call: a time that passes and tokens to take, or tokens to add.
func FuzzBucket(f *testing.F) {
	f.Add(uint8(3), uint8(10), uint8(4), []byte{0, 3, 10, 3, 255, 1, 40, 200})
	f.Fuzz(func(t *testing.T, tokens, most, perSecond uint8, calls []byte) {
		tokens = min(tokens, most)
		b := New(int(tokens), int(most), int(perSecond))
		var now time.Duration
		in, out := int(tokens), 0 // tokens that came in other than by time, and that were taken
		for ; len(calls) >= 2; calls = calls[2:] {
			now += time.Duration(calls[0]) * 10 * time.Millisecond
			n, before := int(calls[1]&0x7f), b.Left()
			if calls[1]&0x80 != 0 {
				b.Add(n)
				if b.Left() != min(before+n, b.Most()) {
					t.Fatalf("%d and %d more are %d of %d", before, n, b.Left(), b.Most())
				}
				in += b.Left() - before
				continue
			}
			ok := b.Take(now, n)
			if ok {
				out += n
			}
			if !ok && n <= before {
				t.Fatalf("%d tokens are refused although there are %d", n, before)
			}
			if b.Left() < 0 || b.Left() > b.Most() {
				t.Fatalf("%d left of %d", b.Left(), b.Most())
			}
			if byTime := int(now * time.Duration(perSecond) / time.Second); out > in+byTime {
				t.Fatalf("%d tokens were taken after %v, and %d came", out, now, in+byTime)
			}
		}
	})
}
