package pool

import (
	"slices"
	"testing"
	"time"
)

func TestConnsReservesOnTheOnlyConnection(t *testing.T) {
	h := NewHost[*fake](Limits{})
	wantReserve(t, &h, "there is none", nil)
	c := newFake(&h, "c", 2)
	wantReserve(t, &h, "the first stream", c)
	wantReserve(t, &h, "the second", c)
	wantReserve(t, &h, "it is full", nil)
	if got, ok := h.Sole(); !ok || got != c {
		t.Error("the connection is not the sole one")
	}
	c.ended = errGone
	wantEnded(t, &h, "it ends", c, errGone)
	wantReserve(t, &h, "there is none", nil)
	if h.Conns.Len() != 0 || h.Conns.Has(c) {
		t.Error("the connection was not removed")
	}
}

// A request uses the connection with the fewest streams, and another one if that has no free
// stream.
func TestConnsReservesOnTheLeastLoaded(t *testing.T) {
	h := NewHost[*fake](Limits{})
	a, b := newFake(&h, "a", 3), newFake(&h, "b", 1)
	a.load = 1
	wantReserve(t, &h, "b has no stream", b)
	wantReserve(t, &h, "a and b have one", a)
	wantReserve(t, &h, "b has fewer, and is full", a)
	wantReserve(t, &h, "all are full", nil)
	a.load, b.load = 0, 1
	b.ended = errGone
	wantEnded(t, &h, "b has ended", b, errGone)
	wantReserve(t, &h, "a is left", a)
	b = newFake(&h, "b", 1)
	b.early = errGone
	wantEnded(t, &h, "b ends when it is used", b, errGone)
	if !slices.Equal(h.Conns.All(), []*fake{a}) {
		t.Errorf("%v are left", h.Conns.All())
	}
}

// Connections of a host that is spread take turns.
func TestConnsTakeTurns(t *testing.T) {
	h := NewHost[*fake](Limits{LeastConns: 3})
	list := []*fake{newFake(&h, "a", 9), newFake(&h, "b", 9), newFake(&h, "c", 9)}
	for range 3 {
		for _, c := range list {
			wantReserve(t, &h, "it was used longest ago", c)
			c.load--
		}
	}
	h = NewHost[*fake](Limits{})
	list = []*fake{newFake(&h, "a", 9), newFake(&h, "b", 9)}
	for range 3 {
		wantReserve(t, &h, "the host is not spread", list[0])
		list[0].load--
	}
}

// The load of an address is that of all connections to it.
func TestConnsBalanceTheAddresses(t *testing.T) {
	h := NewHost[*fake](Limits{Resolves: true})
	h.Addrs.Set([]string{"one", "two"})
	one, two := addr(t, &h.Addrs, "one"), addr(t, &h.Addrs, "two")
	a, b, c := newFakeTo(&h, "a", one), newFakeTo(&h, "b", one), newFakeTo(&h, "c", two)
	a.load, b.load, c.load = 2, 2, 3
	wantReserve(t, &h, "two has fewer streams", c)
	wantReserve(t, &h, "both have four, and two was used last", a)
	wantReserve(t, &h, "two has fewer again", c)
	wantReserve(t, &h, "both have five: one's least loaded", b)
	if a.loads != 4 || c.loads != 4 { // each Load takes the connection's lock
		t.Errorf("4 requests asked a for its load %d times, and c %d times", a.loads, c.loads)
	}
}

// A connection that serves only one request gets one.
func TestConnsServeSingleRequests(t *testing.T) {
	h := NewHost[*fake](Limits{Single: true, LeastConns: 2})
	a, b := newFake(&h, "a", 9), newFake(&h, "b", 9)
	b.unsettled = true
	wantReserve(t, &h, "the first request", a)
	wantReserve(t, &h, "the second", b)
	wantReserve(t, &h, "the third", nil)
	a.load = 0
	wantReserve(t, &h, "a has served one", nil)
	if h.IsSpread() || !h.Room() {
		t.Error("a host with single requests is spread, or waits for SETTINGS")
	}
	h.Conns.remove(b)
	if _, ok := h.Sole(); ok {
		t.Error("a connection for one request is the sole one")
	}
}

// What a host was seen to serve limits the streams and requests on a connection.
func TestConnsObeyTheRecord(t *testing.T) {
	h := NewHost[*fake](Limits{})
	h.Record.capacity.requests = 3
	c := newFake(&h, "c", 9)
	if _, ok := h.Sole(); ok {
		t.Error("a connection with a quota is the sole one")
	}
	for range 3 {
		wantReserve(t, &h, "within the quota", c)
	}
	wantReserve(t, &h, "beyond the quota", nil)
	h.Record.capacity.streams = 2
	c.member.quota = 0
	if _, ok := h.Sole(); ok {
		t.Error("a connection with a limit of streams is the sole one")
	}
	wantReserve(t, &h, "beyond the streams", nil)
	c.load = 1
	wantReserve(t, &h, "within the streams", c)
}

// A connection takes no requests from a certain age on.
func TestConnsRetire(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := NewHost[*fake](Limits{})
		c := newFake(&h, "c", 9)
		c.member.RetireAt = time.Now().Add(time.Second)
		wantReserve(t, &h, "it is young", c)
		if _, ok := h.Sole(); ok || !h.Lends(c) {
			t.Error("it is used without a look at its age, or is not lent")
		}
		time.Sleep(time.Second)
		if h.Lends(c) {
			t.Error("a connection that is about to be replaced is lent")
		}
		wantEnded(t, &h, "it is old", c, ErrTooOld)
	})
}

// A suspected connection is used only if no other can be made.
func TestConnsAvoidSilentPeers(t *testing.T) {
	h := NewHost[*fake](Limits{MostConns: 2})
	a := newFake(&h, "a", 9)
	a.suspected = true
	wantReserve(t, &h, "another connection may be made", nil)
	if a.confirms != 1 {
		t.Errorf("its peer was asked %d times", a.confirms)
	}
	b := newFake(&h, "b", 1)
	wantReserve(t, &h, "there is another", b)
	wantReserve(t, &h, "the other is full, and none can be made", a)
	b.suspected = true
	a.load = 3
	b.load = 0
	wantReserve(t, &h, "all are suspected", b)
	wantReserve(t, &h, "the last one that is suspected is full", a)
	h.MostConns = 3
	b.suspected, b.load = false, 1
	wantReserve(t, &h, "another may be made", nil)
}

// A connection that yields gets no new requests for some time. It is not chosen again for longer.
func TestConnsYield(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := NewHost[*fake](Limits{})
		want := func(reason string, c *fake, load int) {
			t.Helper()
			if got, least, ok := h.Conns.ToYield(); got != c || least != load || ok != (c != nil) {
				t.Errorf("%s: %v with %d is to yield, want %v", reason, got, least, c)
			}
		}
		want("there is none", nil, 0)
		a, b, c := newFake(&h, "a", 2), newFake(&h, "b", 2), newFake(&h, "c", 2)
		a.load, b.load, c.ended = 2, 1, errGone
		want("the least loaded that has not ended", b, 1)
		h.Conns.remove(c)
		b.member.Yield()
		want("b has yielded", a, 2)
		wantReserve(t, &h, "b yields, a is full", nil)
		if h.Lends(b) {
			t.Error("a connection that yields is lent")
		}
		h.Conns.remove(a)
		if _, ok := h.Sole(); ok {
			t.Error("a connection that yields is the sole one")
		}
		time.Sleep(YieldTime)
		wantReserve(t, &h, "it yields no more", b)
		want("it yielded recently", nil, 0)
		time.Sleep(yieldAgain - YieldTime)
		want("it may yield again", b, 2)
	})
}

// Connections that have ended are found one by one.
func TestConnsEnded(t *testing.T) {
	h := NewHost[*fake](Limits{})
	newFake(&h, "a", 1)
	b := newFake(&h, "b", 1)
	if _, why := h.Conns.Ended(); why != nil {
		t.Error("a connection has ended")
	}
	b.ended = errGone
	if c, why := h.Conns.Ended(); c != b || why != errGone {
		t.Errorf("%v has ended", c)
	}
}

// A connection that has no stream may have one request more than the last one served: it may have
// responded to fewer, because some were reset or given up.
func TestIdleConnectionHasOneRequestMoreThanItsQuota(t *testing.T) {
	c := &fake{limit: 10, total: 20, member: Member{quota: 20, answers: 18}}
	for i, want := range []bool{true, false, false} {
		if ok, err := reserveOn(c, rules{}); ok != want || err != nil {
			t.Errorf("request %d: %v, %v", i, ok, err)
		}
	}
	c.load = 0
	if ok, err := reserveOn(c, rules{}); !ok || err != nil {
		t.Errorf("a request after the end of the last one: %v, %v", ok, err)
	}
	c.load, c.early = 0, errGone
	if ok, err := reserveOn(c, rules{}); ok || err != errGone {
		t.Errorf("a request when the connection has ended: %v, %v", ok, err)
	}
}
