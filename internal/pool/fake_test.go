package pool

import (
	"context"
	"errors"
	"testing"
	"time"
)

// A fake is a connection that has as many streams as its limit says.
type fake struct {
	name   string
	member Member
	limit  int   // of streams
	load   int   // open or reserved streams
	total  int64 // streams so far
	ended  error // why it takes no more requests
	early  error // like ended, but only Reserve knows

	suspected bool
	unsettled bool
	loads     int       // calls of Load
	confirms  int       // calls of Confirm
	idleSince time.Time // zero: it has streams
}

func (c *fake) Member() *Member             { return &c.member }
func (c *fake) Suspected() bool             { return c.suspected }
func (c *fake) Settled() bool               { return !c.unsettled }
func (c *fake) IdleFrom() (time.Time, bool) { return c.idleSince, !c.idleSince.IsZero() }

func (c *fake) Load() (int, error) {
	c.loads++
	return c.load, c.ended
}

func (c *fake) Confirm() time.Duration {
	c.confirms++
	return 100 * time.Millisecond
}

func (c *fake) Reserve(streams int, requests int64) (bool, error) {
	if c.early != nil {
		c.ended = c.early
	}
	full := c.load >= c.limit || streams > 0 && c.load >= streams || requests > 0 && c.total >= requests
	if full || c.ended != nil {
		return false, c.ended
	}
	c.load++
	c.total++
	return true, nil
}

// String is for messages of tests.
func (c *fake) String() string {
	if c == nil {
		return "none"
	}
	return c.name
}

var errGone = errors.New("the peer has gone")

// newFake adds a connection with room for that many streams.
func newFake(h *Host[*fake], name string, limit int) *fake {
	c := &fake{name: name, limit: limit}
	h.Record.Opened(&c.member)
	h.Conns.Add(c)
	return c
}

// newFakeTo adds a connection to an address.
func newFakeTo(h *Host[*fake], name string, a *Addr) *fake {
	c := newFake(h, name, 100)
	c.member.Addr = a
	return c
}

// wantReserve checks which connection serves the next request.
func wantReserve(t *testing.T, h *Host[*fake], reason string, want *fake) {
	t.Helper()
	if c, err := h.Reserve(); c != want || err != nil {
		t.Fatalf("%s: %v (%v) serves the request, want %v", reason, c, err, want)
	}
}

// wantEnded checks that c turns out to have ended, and removes it.
func wantEnded(t *testing.T, h *Host[*fake], reason string, c *fake, why error) {
	t.Helper()
	if got, err := h.Reserve(); got != c || err != why {
		t.Fatalf("%s: %v has ended with %v, want %v and %v", reason, got, err, c, why)
	}
	h.Conns.remove(c)
}

// A canceler counts how often an attempt is canceled.
type canceler int

func (c *canceler) cancel() { *c++ }

// wait adds a request to the queue.
func wait(h *Host[*fake]) *Request[*fake] {
	return h.Queue.Add(context.Background(), h.Queue.Turn(0))
}
