package pool

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// No connection is made beyond the limit, nor while the peer's limit of streams is unknown.
func TestHostHasRoom(t *testing.T) {
	h := NewHost[*fake](Limits{MostConns: 2})
	want := func(reason string, room bool) {
		t.Helper()
		if h.Room() != room {
			t.Errorf("%s: room is %v", reason, !room)
		}
	}
	want("no connection", true)
	a := newFake(&h, "a", 1)
	want("one connection", true)
	a.unsettled = true
	want("SETTINGS have not arrived", false)
	a.suspected = true
	want("the peer is silent", true)
	wait(&h)
	attempt := h.Begin(0, func() {})
	want("one is being made", false)
	h.MostConns = -1
	want("no limit", true)
	for range learnedMostConns {
		newFake(&h, "more", 1)
	}
	want("no limit with many", true)
	h.Record.capacity.streams = 1
	want("the host was seen to serve little", false)
	h.Attempts.Ended(attempt)
	if h.Total() != learnedMostConns+1 {
		t.Errorf("%d connections", h.Total())
	}
}

// A host with traffic lacks connections below its minimum, and those to its addresses.
func TestHostLacksConnections(t *testing.T) {
	h := NewHost[*fake](Limits{MostConns: 4, LeastConns: 2, Resolves: true})
	want := func(reason string, open, idle int, lacks bool) {
		t.Helper()
		if h.Lacks(open, idle) != lacks {
			t.Errorf("%s: lacks is %v", reason, !lacks)
		}
	}
	want("no connection", 0, -1, true)
	a := newFake(&h, "a", 1)
	want("one connection", 1, -1, true)
	want("too many connections, and it has one without a stream", 5, 5, false)
	want("fewer than may be idle", 4, 5, true)
	a.load = 1
	want("too many connections, and all are in use", 5, 5, true)
	attempt := h.BeginInBackground(func() {})
	want("one is being made, which would be beyond", 4, 5, false)
	want("there is the minimum", 1, -1, false)
	h.Addrs.Set([]string{"one", "two", "three"})
	attempt.Addr, a.member.Addr = h.Addrs.list[0], h.Addrs.list[1]
	want("one address has no connection", 1, -1, true)
	if next := h.BeginInBackground(func() {}); next.Addr != h.Addrs.list[2] || !next.Background() {
		t.Errorf("the next connection is to %v", next.Addr)
	}
	want("each address has a connection", 1, -1, false)
	h.LeastConns = 9
	newFake(&h, "b", 1)
	want("the maximum", 1, -1, false)
}

func TestHostIsUsed(t *testing.T) {
	h := NewHost[*fake](Limits{})
	c := newFake(&h, "c", 1)
	if h.IsUsed() {
		t.Error("a connection without a stream is use")
	}
	if c.load = 1; !h.IsUsed() {
		t.Error("a stream is no use")
	}
	c.load = 0
	if wait(&h); !h.IsUsed() {
		t.Error("a request that waits is no use")
	}
	if _, ok := h.Sole(); ok || h.Lends(c) {
		t.Error("a connection is used although a request is in the queue")
	}
}

// An attempt waits for the pause of the Record, and for a sign of life of a silent peer.
func TestHostPausesBeforeAnAttempt(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := NewHost[*fake](Limits{})
		if h.Pause() != 0 {
			t.Error("the first attempt pauses")
		}
		c := newFake(&h, "c", 1)
		h.Record.pauseDials(time.Millisecond)
		if h.Pause() != time.Millisecond {
			t.Error("the pause of the Record is not kept")
		}
		if c.suspected = true; h.Pause() != 100*time.Millisecond || c.confirms != 1 {
			t.Error("the silent peer was not asked")
		}
		// The peer gives a sign of life after a request was refused.
		if got, err := h.Reserve(); got != nil || err != nil || c.confirms != 2 {
			t.Fatalf("%v (%v) serves the request, after %d PINGs", got, err, c.confirms)
		}
		c.suspected = false
		if h.Pause() != 100*time.Millisecond {
			t.Error("a connection is made although the peer was just heard")
		}
		if h.Pause() != time.Millisecond {
			t.Error("the sign of life delays a later connection")
		}
		// After the sign of life, the connection serves the request.
		c.suspected = true
		wantReserve(t, &h, "the peer is silent", nil)
		c.suspected = false
		wantReserve(t, &h, "the peer was heard", c)
		wantReserve(t, &h, "the connection is full", nil)
		if h.Pause() != time.Millisecond {
			t.Error("a silence that is over delays a later connection")
		}
	})
}

// An attempt that takes long gets others beside it, up to MaxAttempts.
func TestHostBeginsAttemptsBesideSlowOnes(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := NewHost[*fake](Limits{})
		first := wait(&h)
		begin := func() *Attempt[*fake] {
			a := h.Begin(0, func() {})
			a.BesideAfter(time.Hour, func() {})
			return a
		}
		a := begin()
		if !h.MayBeside(a) {
			t.Error("none may begin beside the first")
		}
		b := begin()
		if h.MayBeside(a) || !h.MayBeside(b) {
			t.Error("an attempt may begin beside one that is not the last one")
		}
		if slow, _ := h.GaveUp(first); slow != b {
			t.Error("the request whose attempt is slow gives up, and that is ignored")
		}
		c := begin()
		if slow, may := h.GaveUp(first); slow != c || !may {
			t.Error("none may begin instead of the third")
		}
		d := begin()
		if slow, may := h.GaveUp(first); slow != d || may || h.MayBeside(d) {
			t.Error("more than MaxAttempts may begin")
		}
		if slow, _ := h.GaveUp(wait(&h)); slow != nil {
			t.Error("another request gives up, and an attempt is slow")
		}
		if h.Attempts.ForRequests() != MaxAttempts || h.Attempts.running != MaxAttempts {
			t.Errorf("%d attempts", h.Attempts.ForRequests())
		}
		for _, a := range h.Attempts.Unwanted() {
			h.Attempts.Ended(a)
		}
		if h.MayBeside(d) || h.Attempts.Len() != 0 || h.Attempts.running != 0 {
			t.Error("attempts that have ended are counted")
		}
		if slow, _ := h.GaveUp(first); slow != nil {
			t.Error("an attempt is slow, and there is none")
		}
	})
}

func TestAttemptBesideBeginsInTime(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := NewHost[*fake](Limits{})
		wait(&h)
		var calls atomic.Int64
		a, b := h.Begin(0, func() {}), h.Begin(0, func() {})
		a.BesideAfter(time.Second, func() { calls.Add(1) })
		b.BesideAfter(time.Second, func() { calls.Add(10) })
		h.Attempts.Ended(a)
		time.Sleep(2 * time.Second)
		if calls.Load() != 10 {
			t.Errorf("calls %d: only the attempt that lasts gets one beside it", calls.Load())
		}
	})
}

// An attempt that has paused dials only if a request still waits. Paused ones can be canceled.
func TestHostDialsForRequestsThatWait(t *testing.T) {
	h := NewHost[*fake](Limits{})
	r := wait(&h)
	var first, second, spare canceler
	a := h.Begin(0, first.cancel)
	h.Begin(0, second.cancel)
	b := h.BeginInBackground(spare.cancel)
	if !h.Dials(a) {
		t.Error("it does not dial although a request waits")
	}
	h.Attempts.CancelPaused()
	if first != 0 || second != 1 || spare != 0 {
		t.Errorf("canceled: %d %d %d, want only the one that pauses", first, second, spare)
	}
	h.Queue.Remove(r)
	if h.Dials(a) || !h.Dials(b) {
		t.Error("an attempt dials for nothing, or one in the background does not")
	}
	h.Attempts.CancelAll()
	if a.Cancel(); first != 2 || second != 2 || spare != 1 {
		t.Errorf("canceled: %d %d %d", first, second, spare)
	}
}

// A failed attempt fails the requests that came before it. If there is no other attempt, it fails
// all.
func TestHostFailsTheRequestsOfAnAttempt(t *testing.T) {
	failed := func(r *Request[*fake]) bool {
		_, err := r.Result()
		return err == errGone
	}
	h := NewHost[*fake](Limits{})
	r1, r2 := wait(&h), wait(&h)
	var second, third, spare canceler
	a := h.Begin(0, func() {})
	r3 := wait(&h)
	b := h.Begin(0, second.cancel)
	h.Attempts.Ended(a)
	h.Failed(a, errGone)
	if !failed(r1) || !failed(r2) || failed(r3) {
		t.Error("not the requests failed that came before the attempt")
	}
	c := h.Begin(0, third.cancel)
	h.Attempts.Ended(b)
	if h.Failed(b, errGone); !failed(r3) || third != 1 || h.Attempts.Len() != 0 {
		t.Error("an attempt without a use goes on")
	}
	if h.Attempts.running != 1 {
		t.Errorf("%d attempts run, want the one that was canceled", h.Attempts.running)
	}
	h.Attempts.Ended(c)

	// An attempt in the background steps in.
	r4 := wait(&h)
	d := h.Begin(0, func() {})
	e := h.BeginInBackground(spare.cancel)
	r5 := wait(&h)
	h.Attempts.Ended(d)
	if h.Failed(d, errGone); !failed(r4) || failed(r5) || e.Background() || h.Attempts.ForRequests() != 1 {
		t.Error("the attempt in the background does not step in")
	}
	h.Attempts.Ended(e)
	if h.Failed(e, errGone); !failed(r5) {
		t.Error("the last attempt has failed, and a request waits")
	}
	h.Failed(e, errGone) // no request waits
}

// An attempt for requests tries one address after another. It replaces those in the background.
func TestHostChoosesTheNextAddr(t *testing.T) {
	h := NewHost[*fake](Limits{Resolves: true})
	h.Addrs.Set([]string{"one", "two"})
	wait(&h)
	var spare canceler
	b := h.BeginInBackground(spare.cancel)
	a := h.Begin(0, func() {})
	tried := make(map[*Addr]bool)
	if h.NextAddr(b, tried) != b.Addr {
		t.Error("an attempt in the background does not keep its address")
	}
	first := h.NextAddr(a, tried)
	if first == b.Addr || a.Addr != first || spare != 0 {
		t.Error("both attempts dial the same address")
	}
	tried[first] = true
	if second := h.NextAddr(a, tried); second != b.Addr || spare != 1 || h.Attempts.Len() != 1 {
		t.Error("the attempt in the background goes on")
	}
	tried[b.Addr] = true
	if h.NextAddr(a, tried) != nil || a.Addr != b.Addr {
		t.Error("there is another address")
	}
	h.Addrs.Set([]string{"three"})
	if next := h.NextAddr(b, nil); next == nil || next.Text != "three" {
		t.Error("an attempt in the background dials an address that is gone")
	}
}

func TestHostFindsConnectionsToOldAddrs(t *testing.T) {
	h := NewHost[*fake](Limits{Resolves: true})
	h.Addrs.Set([]string{"one", "two"})
	newFakeTo(&h, "a", addr(t, &h.Addrs, "one"))
	b, c := newFakeTo(&h, "b", addr(t, &h.Addrs, "two")), newFake(&h, "c", 1)
	h.Addrs.Set([]string{"one"})
	if got := h.Unlisted(); !slices.Equal(got, []*fake{b, c}) || h.Conns.Len() != 3 {
		t.Errorf("unlisted are %v", got)
	}
}

func TestAttemptsPause(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var s Attempts[*fake]
		if s.paused() {
			t.Error("they pause at first")
		}
		if s.pause(); !s.paused() {
			t.Error("they do not pause")
		}
		if time.Sleep(minAvoid); s.paused() {
			t.Error("they pause for ever")
		}
	})
}

// An excluded host serves no request until the time is over, or until it is included.
func TestHostIsExcluded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := NewHost[*fake](Limits{LeastConns: 2})
		if h.Unfit() != nil || h.IsExcluded() || !h.Lacks(0, -1) {
			t.Fatal("a new host is excluded")
		}
		r := wait(&h)
		h.Exclude(time.Minute, errGone)
		if _, err := r.Result(); err != errGone || h.Unfit() != errGone || h.Lacks(0, -1) {
			t.Error("an excluded host serves requests, or makes connections")
		}
		if left, ok := h.Remembered(100); left != time.Minute || !ok {
			t.Errorf("it is remembered for %v", left)
		}
		time.Sleep(time.Minute)
		if !h.IsExcluded() || h.Unfit() != nil || h.IsExcluded() {
			t.Error("after the time the first request does not include the host again")
		}
		h.Exclude(time.Minute, errGone)
		h.LeastConns = 0
		newFake(&h, "c", 1)
		if _, ok := h.Sole(); ok {
			t.Error("a connection of an excluded host is used")
		}
		h.Include()
		if _, ok := h.Sole(); !ok {
			t.Error("the connection of an included host is not used")
		}
	})
}

// A host is kept while it has connections or makes one.
func TestHostIsRemembered(t *testing.T) {
	h := NewHost[*fake](Limits{})
	want := func(reason string, mayGo bool) {
		t.Helper()
		if left, ok := h.Remembered(100); ok != mayGo || left != 0 {
			t.Errorf("%s: it is remembered for %v, or may be forgotten: %v", reason, left, ok)
		}
	}
	want("nothing is known", true)
	a := h.BeginInBackground(func() {})
	want("a connection is being made", false)
	h.Attempts.Ended(a)
	want("it failed", true)
	c := newFake(&h, "c", 1)
	want("there is a connection", false)
	h.Remove(c, End{Why: Closed})
	want("it was closed", true)
}

// A connection that was lost lets its address be avoided. If it was of no use, dials are delayed.
func TestHostRecordsHowConnectionsEnd(t *testing.T) {
	for name, test := range map[string]struct {
		end      End
		member   Member
		avoided  bool
		useless  bool
		noSpares bool
	}{
		"this side":         {end: End{Why: Closed}},
		"GOAWAY":            {end: End{Why: Drained}, useless: true},
		"GOAWAY, processed": {end: End{Why: Drained, Processed: 1}},
		"lost":              {end: End{Opened: 1}, avoided: true, useless: true},
		"lost, answered":    {member: Member{answers: 1}, avoided: true},
		"lost, spare":       {member: Member{Spare: true}, avoided: true, noSpares: true},
		"lost, spare in use": {
			member: Member{Spare: true}, end: End{Opened: 1}, avoided: true, useless: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				h := NewHost[*fake](Limits{})
				h.Record.failures = 1
				a := &Addr{}
				c := newFake(&h, "c", 1)
				c.member, c.member.Addr, test.end.Limit = test.member, a, 7
				h.Remove(c, test.end)
				if h.Conns.Has(c) || h.Record.Limit != 7 {
					t.Error("the connection is there, or its limit is not known")
				}
				if avoided := time.Now().Before(a.avoid); avoided != test.avoided {
					t.Errorf("the address is avoided: %v", avoided)
				}
				if useless := h.Record.DialPause() > 0; useless != test.useless {
					t.Errorf("dials are delayed: %v", useless)
				}
				if h.Attempts.paused() != test.noSpares {
					t.Errorf("attempts in the background pause: %v", !test.noSpares)
				}
			})
		})
	}
}

// What a failed attempt means depends on what it was made for.
func TestHostFailedAttempts(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := NewHost[*fake](Limits{Single: true})
		a := h.BeginInBackground(func() {})
		first, second := wait(&h), wait(&h)
		h.Attempts.Ended(a)
		if h.Failed(a, errGone); h.Queue.Len() != 2 || !h.Attempts.paused() {
			t.Error("an attempt in the background has failed, which fails requests")
		}
		b := h.Begin(0, func() {})
		h.Attempts.Ended(b)
		h.Failed(b, errGone)
		if _, err := first.Result(); err != errGone || h.Queue.Len() != 1 {
			t.Error("each request has its own attempt, and not one fails")
		}
		h.Queue.Remove(second)
		h.Failed(b, errGone) // no request waits

		h = NewHost[*fake](Limits{})
		newFake(&h, "c", 1)
		wait(&h)
		d := h.Begin(0, func() {})
		h.Attempts.Ended(d)
		if h.Failed(d, errGone); h.Queue.Len() != 1 || h.Record.DialPause() != time.Second {
			t.Error("a request that may wait for the connection fails")
		}
	})
}
