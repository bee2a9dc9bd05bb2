package pool

import (
	"context"
	"errors"
	"slices"
	"testing"
)

// Each two bytes are a call of one of four hosts. The model counts what each host holds.
func FuzzBound(f *testing.F) {
	f.Add(uint8(2), []byte{0, 0, 0, 1, 0, 2, 1, 0, 0, 1, 2, 1, 3, 0})
	f.Fuzz(func(t *testing.T, limit uint8, calls []byte) {
		var b Bound[int]
		most := 1 + int(limit%8)
		shares := []*Share[int]{{Host: 0}, {Host: 1}, {Host: 2}, {Host: 3}}
		held, granted := make([]int, len(shares)), make([]int, len(shares))
		var line []int
		sum := func(list []int) (n int) {
			for _, k := range list {
				n += k
			}
			return n
		}
		giveBack := func() {
			next := b.GiveBack(most)
			if len(line) == 0 != (next == nil) || next != nil && next.Host != line[0] {
				t.Fatalf("%v got what was given back, and %v wait", next, line)
			}
			if next != nil {
				granted[next.Host]++
				line = line[1:]
			}
		}
		for ; len(calls) >= 2; calls = calls[2:] {
			h := int(calls[1]) % len(shares)
			switch calls[0] % 5 {
			case 0:
				room := sum(held)+sum(granted) < most && len(line) == 0
				want := Waiting
				switch {
				case granted[h] > 0:
					want = Granted
					granted[h]--
					held[h]++
				case room:
					want = Granted
					held[h]++
				case !slices.Contains(line, h):
					want = Queued
					line = append(line, h)
				}
				if got := b.Take(shares[h], most); got != want {
					t.Fatalf("Take returned %d, want %d", got, want)
				}
			case 1:
				room := sum(held)+sum(granted) < most && len(line) == 0
				if b.TryTake(most) != room {
					t.Fatalf("TryTake returned %v", !room)
				}
				if room {
					held[h]++
				}
			case 2:
				if held[h] > 0 {
					held[h]--
					giveBack()
				}
			case 3:
				b.Leave(shares[h])
				line = slices.DeleteFunc(line, func(k int) bool { return k == h })
			case 4:
				unused := b.Unused(shares[h])
				if unused != granted[h] {
					t.Fatalf("%d connections are unused, want %d", unused, granted[h])
				}
				granted[h] = 0
				for range unused {
					giveBack()
				}
			}
			if b.used != sum(held)+sum(granted) || b.used > most || !slices.Equal(b.Line(), line) {
				t.Fatalf("%d of %d are in use and %v wait; the model has %v, %v and %v", b.used, most,
					b.Line(),
					held, granted, line)
			}
		}
	})
}

// Each byte is a call. The model is the list of turns that wait.
func FuzzQueue(f *testing.F) {
	f.Add([]byte{0, 0, 1, 2, 0, 8, 3, 4})
	gone := errors.New("gone")
	f.Fuzz(func(t *testing.T, calls []byte) {
		var q Queue[*fake]
		waiting := map[uint64]*Request[*fake]{}
		results := func(reason string, turns []uint64, c *fake, err error) {
			for _, turn := range turns {
				select {
				case <-waiting[turn].Ready():
				default:
					t.Fatalf("%s: turn %d has no result", reason, turn)
				}
				if got, why := waiting[turn].Result(); got != c || why != err {
					t.Fatalf("%s: turn %d has %v, %v", reason, turn, got, why)
				}
				delete(waiting, turn)
			}
		}
		sorted := func() (turns []uint64) {
			for turn := range waiting {
				turns = append(turns, turn)
			}
			slices.Sort(turns)
			return turns
		}
		var left []uint64 // turns that wait no more, and can wait again
		for _, call := range calls {
			turns := sorted()
			switch at := int(call / 5); call % 5 {
			case 0:
				turn := q.Turn(0)
				waiting[turn] = q.Add(context.Background(), turn)
			case 1: // a request waits again with its turn
				if len(left) > 0 {
					turn := q.Turn(left[at%len(left)])
					left = slices.DeleteFunc(left, func(k uint64) bool { return k == turn })
					if q.IsNext(turn) != (len(turns) == 0 || turn < turns[0]) {
						t.Fatalf("turn %d is next: %v, and %v wait", turn, q.IsNext(turn), turns)
					}
					waiting[turn] = q.Add(context.Background(), turn)
				}
			case 2:
				if len(turns) > 0 {
					turn := turns[at%len(turns)]
					if r := waiting[turn]; !q.Remove(r) || q.Remove(r) {
						t.Fatalf("turn %d was not removed once", turn)
					}
					delete(waiting, turn)
					left = append(left, turn)
				}
			case 3:
				if len(turns) > 0 {
					c := &fake{}
					q.Pop(c, nil)
					results("Pop", turns[:1], c, nil)
					left = append(left, turns[0])
				}
			case 4:
				through := uint64(at)
				q.fail(through, gone)
				i, _ := slices.BinarySearch(turns, through+1)
				results("fail", turns[:i], nil, gone)
				left = append(left, turns[:i]...)
			}
			turns = sorted()
			if q.Len() != len(turns) || q.Empty() != (len(turns) == 0) {
				t.Fatalf("%d requests wait, want %d", q.Len(), len(turns))
			}
			for i, turn := range turns {
				if q.At(i) != waiting[turn] {
					t.Fatalf("turn %d is not at %d", turn, i)
				}
			}
		}
		turns := sorted()
		q.failAll(gone)
		results("failAll", turns, nil, gone)
	})
}
