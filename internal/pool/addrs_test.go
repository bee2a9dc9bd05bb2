package pool

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// texts returns the addresses in alphabetical order.
func texts(s *Addrs) (list []string) {
	for _, a := range s.list {
		list = append(list, a.Text)
	}
	slices.Sort(list)
	return list
}

// addr returns the address with that text.
func addr(t *testing.T, s *Addrs, text string) *Addr {
	t.Helper()
	i := slices.IndexFunc(s.list, func(a *Addr) bool { return a.Text == text })
	if i < 0 {
		t.Fatalf("%s is not one of %v", text, texts(s))
	}
	return s.list[i]
}

func TestAddrsKeepWhatIsKnown(t *testing.T) {
	var s Addrs
	if s.Known() || s.Fresh() || s.WereLookedUp() {
		t.Fatal("addresses are known at first")
	}
	s.Set([]string{"a", "b", "a"})
	if !s.Known() || !s.Fresh() || !s.WereLookedUp() || !slices.Equal(texts(&s), []string{"a", "b"}) {
		t.Fatalf("the addresses are %v", texts(&s))
	}
	a, b := addr(t, &s, "a"), addr(t, &s, "b")
	s.Set([]string{"b", "c"})
	if a.Listed() || !b.Listed() || addr(t, &s, "b") != b || (*Addr)(nil).Listed() {
		t.Error("an address that is returned again is another one, or one that is gone is listed")
	}
}

// The order of the addresses is random, so that clients do not all begin with the same one.
func TestAddrsAreShuffled(t *testing.T) {
	first := make(map[string]bool)
	for range 1000 {
		var s Addrs
		s.Set([]string{"a", "b", "c"})
		first[s.choose(nil).Text] = true
	}
	if len(first) != 3 {
		t.Errorf("only %v come first", first)
	}
}

func TestAddrsAreLookedUpAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var s Addrs
		s.Set([]string{"a"})
		if s.LookUpAgain() {
			t.Error("they are looked up again at once")
		}
		time.Sleep(lookUpEvery)
		if s.Fresh() {
			t.Error("old addresses are fresh")
		}
		if !s.LookUpAgain() || s.LookUpAgain() {
			t.Error("they are not looked up once")
		}
		s.LookedUpAgain()
		if s.LookUpAgain() {
			t.Error("after a look-up they are looked up again at once")
		}
		time.Sleep(lookUpEvery)
		if !s.LookUpAgain() {
			t.Error("they are not looked up again")
		}
	})
}

// An address that cannot be reached is avoided for 1 s, then for twice as long each time, up to
// 30 s.
func TestAddrsAvoidsWhatCannotBeReached(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var a Addr
		avoided := func(reason string, want time.Duration) {
			t.Helper()
			if got := max(0, time.Until(a.avoid)); got != want {
				t.Errorf("%s: it is avoided for %v, want %v", reason, got, want)
			}
		}
		avoided("at first", 0)
		for i, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
			a.Failed()
			avoided(fmt.Sprintf("failure %d", i+1), want*time.Second)
		}
		a.Lost()
		avoided("lost while it is avoided", maxAvoid)
		a.Reached()
		avoided("reached", 0)
		a.Lost()
		avoided("lost", minAvoid)
		(*Addr)(nil).Lost()
	})
}

func TestAddrsChoosesForANewConnection(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var s Addrs
		if s.choose(nil) != nil || s.lack() {
			t.Fatal("there is an address")
		}
		s.Set([]string{"a", "b", "c"})
		a, b, c := addr(t, &s, "a"), addr(t, &s, "b"), addr(t, &s, "c")
		want := func(reason string, want *Addr, lack bool, tried ...*Addr) {
			t.Helper()
			set := make(map[*Addr]bool)
			for _, a := range tried {
				set[a] = true
			}
			for range 20 { // in any order
				rotated := append(slices.Clone(s.list[1:]), s.list[0])
				s.list = rotated
				if got := s.choose(set); got != want {
					t.Fatalf("%s: %v, want %v", reason, got, want)
				}
			}
			if s.lack() != lack {
				t.Errorf("%s: lack is %v", reason, !lack)
			}
		}
		a.conns, b.conns, c.conns = 2, 1, 3
		want("the fewest connections", b, false)
		want("b was tried", a, false, b)
		want("all were tried", nil, false, a, b, c)
		b.Failed()
		want("b is avoided", a, false)
		a.Failed()
		a.Failed()
		want("a and b are avoided", c, false)
		c.Failed()
		c.Failed()
		c.Failed()
		want("all are avoided", b, false)
		b.conns = 0
		want("an address without a connection is avoided", b, false)
		time.Sleep(minAvoid)
		want("and is not avoided any more", b, true)
	})
}
