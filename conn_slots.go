package hyper

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"gohyper.dev/hyper/internal/wait"
	"gohyper.dev/hyper/internal/wire"
)

// slots is the admission of our streams: the peer's SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113
// §5.1.2) says how many may be open, and callers who want one more wait in turn. They wait, too,
// while too many octets are not written yet. It is guarded by the connection's mu.
type slots struct {
	limit    uint32
	used     int        // streams that the peer may count, and slots that were given to callers
	waiting  wait.Queue // callers without a slot, in the order in which they came
	granted  wait.Queue // callers with a slot that they do not know of yet, in that order
	grants   int        // of them
	wanted   bool       // reserve found none
	admitDue bool       // admitLocked was called while frames are received: once for all of them is enough

	tellsFree bool         // a free slot is news for the owner in any case
	tellsIdle *atomic.Bool // the end of the last stream is news for the owner, while it is true; nil: never

	reserved int // of used: their requests are not open yet

	// Streams that we reset. Until the peer has seen that, which the answer to a later PING proves, it may send on
	// them, and counts them: cancelling and opening in a loop must not exceed its limit.
	reset map[uint32]resetMark
	held  int // of them occupy a slot

	forgotten uint32 // the highest stream of ours whose mark is gone though the peer had not ended it
}

// A resetMark belongs to a stream that we reset.
type resetMark struct {
	ping   uint64 // the last one sent before: the answer to any later PING proves that the peer knows
	credit int64  // what the peer may still send on it
	held   bool   // it occupies a slot until then
	headed bool   // a field section came on it since
}

const (
	initialSlots   = 100 // until the peer's SETTINGS are here, RFC 9113 §6.5.2 recommends no less
	unlimitedSlots = math.MaxUint32
	pingResetMarks = 1000    // so many marks cause a PING
	maxResetMarks  = 4000    // no stream is opened beyond so many
	maxGrants      = 128     // more are given when these are used: what is given may have to be taken back
	maxUnwritten   = 1 << 20 // octets: no stream is opened beyond so many
)

// takesRequestsLocked says why a new stream cannot be opened, if so.
func (c *Conn) takesRequestsLocked() error {
	switch {
	case c.closed || c.err == ErrClosed || c.err == nil && c.draining:
		return ErrClosed
	case c.goAway != nil && (c.err == nil || c.err == error(c.goAway)):
		unsent := c.goAway.because(ErrDrained)
		unsent.unprocessed = true
		return unsent
	case c.mute && c.err == nil:
		return c.named(&ConnError{Err: errMute, unprocessed: true})
	case c.err != nil:
		unsent := *asConnError(c.err)
		unsent.unprocessed = true
		return &unsent
	case c.nextID > wire.MaxStreamID:
		return c.named(&ConnError{Err: ErrDrained, unprocessed: true})
	}
	return nil
}

// errMute: the peer does not answer the PINGs that would free the slots of streams that we reset.
var errMute = causedError{ErrDrained, ErrPingTimeout}

// A turn says how a request comes to its slot.
type turn uint8

const (
	inTurn   turn = iota // it waits for one
	ifFree               // errNoSlot where there is none
	reserved             // it has one, by reserve; errNoSlot where the peer has taken that back
)

// A WaitError is the end of a request that waited too long: its context ended before the peer
// allowed it a stream (RFC 9113 §5.1.2), or no response came within
// Transport.ResponseHeaderTimeout. It is a net.Error.
type WaitError struct {
	Err error // the context's; os.ErrDeadlineExceeded for ResponseHeaderTimeout

	header bool  // it waited for the response's header
	limit  int64 // of the peer, or of all connections to it
	known  bool  // the peer said so
	full   bool  // it did not wait for that: too much was not written
	conns  int   // it waited for one of so many connections to all hosts; 0: it had one
}

// Error says what the request waited for.
func (e *WaitError) Error() string {
	switch {
	case e.header:
		return prefix + "timeout awaiting response headers (ResponseHeaderTimeout)"
	case e.conns > 0:
		return fmt.Sprintf(prefix+"waiting for one of Transport.MaxConns %d connections: %v", e.conns, e.Err)
	case e.full:
		return fmt.Sprintf(prefix+"waiting for the peer to read the requests before: %v", e.Err)
	}
	whose := "the peer's"
	if !e.known { // RFC 9113 §6.5.2 has no limit until then; ours is initialSlots
		whose = "the first"
	}
	switch e.limit {
	case 0:
		return fmt.Sprintf(prefix+"waiting for a stream, of which the peer allows none now: %v", e.Err)
	case 1:
		return fmt.Sprintf(prefix+"waiting for %s only stream: %v", whose, e.Err)
	}
	return fmt.Sprintf(prefix+"waiting for one of %s %d streams: %v", whose, e.limit, e.Err)
}

// Unwrap returns Err.
func (e *WaitError) Unwrap() error { return e.Err }

// Timeout reports whether a time limit passed, rather than a context was canceled.
func (e *WaitError) Timeout() bool { return e.header || errors.Is(e.Err, context.DeadlineExceeded) }

// Temporary is Timeout: it exists for net.Error.
func (e *WaitError) Temporary() bool { return e.Timeout() }

// errNoSlot: the request was not sent, because it would have had to wait.
var errNoSlot = errors.New("hyper: no free stream")

// takeSlotLocked waits, until ctx or cancel ends it, for a slot. Slots go to callers in the order in which they came.
func (c *Conn) takeSlotLocked(ctx context.Context, cancel <-chan struct{}, how turn) error {
	s := &c.slots
	if how == reserved {
		s.reserved--
		return c.claimReservedLocked()
	}
	if err := c.takesRequestsLocked(); err != nil {
		return err
	}
	switch {
	case s.waiting.Empty() && c.makeSlotFreeLocked():
		s.used++
		return nil
	case how == ifFree:
		return errNoSlot
	}
	return c.waitForSlotLocked(ctx, cancel)
}

// claimReservedLocked begins to use a slot that was reserved.
func (c *Conn) claimReservedLocked() error {
	if err := c.takesRequestsLocked(); err != nil {
		c.slots.used--
		return err
	}
	if c.overdrawnLocked() {
		// SETTINGS lowered the limit since then, and their acknowledgment is out: the slot is not
		// there any more.
		c.giveSlotLocked()
		return errNoSlot
	}
	return nil
}

// waitForSlotLocked waits for a slot until ctx or cancel ends it.
func (c *Conn) waitForSlotLocked(ctx context.Context, cancel <-chan struct{}) error {
	s, w := &c.slots, c.spares.Get()
	s.waiting.Push(w)
	c.pingForSlotsLocked()
	var err error
	for err == nil {
		c.unlock()
		err = waitOn(ctx, cancel, w)
		c.mu.Lock()
		if c.takesRequestsLocked() != nil {
			break
		}
		c.withdrawLocked()
		if w.Granted {
			break
		}
	}
	granted := w.Granted
	if granted {
		s.granted.Remove(w)
		s.grants--
	}
	c.releaseLocked(&s.waiting, w)
	switch err {
	case nil:
		err = c.takesRequestsLocked()
	case errRequestCanceled:
	default:
		err = &WaitError{Err: err, limit: int64(s.limit), known: c.peer.known, full: c.crowdedLocked()}
	}
	switch {
	case err == nil:
		c.admitMoreLocked()
	case granted: // and too late
		c.giveSlotLocked()
	}
	return err
}

// reserve takes a slot for a request that will be opened as reserved. Without a free one it is
// errNoSlot, and the connection's owner hears of it when there may be one again. There is none
// beyond streams at once and requests in all, where those are not 0.
func (c *Conn) reserve(streams int, requests int64) error {
	c.mu.Lock()
	defer c.unlock() // there is no news in this for the owner, who may hold a lock of its own
	s := &c.slots
	err := errNoSlot
	if streams > 0 && s.used >= streams {
		c.releaseHeldLocked()
	}
	if (streams == 0 || s.used < streams) && (requests == 0 || c.counts.opened+int64(s.reserved) < requests) {
		err = c.takeSlotLocked(context.Background(), nil, ifFree)
	}
	switch err {
	case nil:
		s.reserved++
	case errNoSlot:
		s.wanted = true
		c.askForSlotsLocked()
	}
	return err
}

// release gives back a slot that was reserved and is not needed.
func (c *Conn) release() {
	c.mu.Lock()
	c.slots.reserved--
	c.giveSlotLocked()
	c.unlock()
}

// giveSlotLocked gives a slot back.
func (c *Conn) giveSlotLocked() {
	c.slots.used--
	c.admitLocked()
}

// admitLocked hands free slots to the callers that wait. While frames are received that is put off
// until all at hand are dealt with: the peer may raise and lower its limit in each.
func (c *Conn) admitLocked() {
	s := &c.slots
	if s.admitDue = c.receiving; s.admitDue {
		return
	}
	c.withdrawLocked()
	for !s.waiting.Empty() && s.grants < maxGrants && c.slotFreeLocked() {
		s.used++
		s.grants++
		w := s.waiting.First()
		s.waiting.Remove(w)
		w.Granted = true
		s.granted.Push(w)
		w.Wake()
	}
	if (s.wanted || s.tellsFree) && c.slotFreeLocked() {
		s.wanted, c.news = false, true
	}
	c.pingForSlotsLocked()
}

// admitMoreLocked is admitLocked where nothing has changed but that there is more room.
func (c *Conn) admitMoreLocked() {
	if !c.slots.waiting.Empty() || c.slots.wanted {
		c.admitLocked()
	}
}

// withdrawLocked takes slots back that callers have and do not use yet, where they are not there
// any more. The last ones go first, and all keep their turn.
func (c *Conn) withdrawLocked() {
	s := &c.slots
	for !s.granted.Empty() && c.overdrawnLocked() {
		w := s.granted.Last()
		s.granted.Remove(w)
		w.Granted = false
		s.waiting.PushFront(w)
		s.used--
		s.grants--
	}
}

// overdrawnLocked reports whether a slot that was given, and is not used yet, must not be used.
func (c *Conn) overdrawnLocked() bool {
	return int64(c.slots.used) > int64(c.slots.limit) || c.crowdedLocked()
}

// slotFreeLocked reports whether one stream more may be opened.
func (c *Conn) slotFreeLocked() bool {
	s := &c.slots
	return int64(s.used) < int64(s.limit) && len(s.reset) < maxResetMarks && !c.crowdedLocked()
}

// crowdedLocked reports whether so many octets wait for a peer that reads slowly that no request
// should add to them.
func (c *Conn) crowdedLocked() bool { return c.queued-c.flushed >= maxUnwritten }

// waitForRoomLocked waits, for calls that add octets and open no stream, until the peer has read
// enough.
func (c *Conn) waitForRoomLocked(ctx context.Context) error {
	for c.crowdedLocked() && c.err == nil {
		if err := c.waitLocked(ctx, &c.flushQ); err != nil {
			return err
		}
	}
	return c.overLocked()
}

// needsAnswerLocked reports whether callers wait for slots that streams hold which we reset, or too
// many marks have gathered: the answer to a PING frees them.
func (c *Conn) needsAnswerLocked() bool {
	s := &c.slots
	return len(s.reset) >= pingResetMarks || s.held > 0 && (s.wanted || !s.waiting.Empty())
}

// pingForSlotsLocked sends a PING if its answer is needed, or has slots come free without one.
func (c *Conn) pingForSlotsLocked() {
	if !c.askForSlotsLocked() && c.releaseHeldLocked() {
		c.admitLocked()
	}
}

// askForSlotsLocked sends a PING if its answer is needed: one at a time, since servers count them
// (golang/go#76296). It reports whether there is no answer needed, or one will come.
func (c *Conn) askForSlotsLocked() bool {
	if len(c.slots.reset) == 0 || !c.needsAnswerLocked() || c.err != nil {
		return true
	}
	if at := c.askAgainAtLocked(); at > c.clock() {
		c.armLocked(at)
		return true
	}
	if !c.mayAskForSlotsLocked() {
		return false
	}
	c.sendPingLocked(&ping{slots: true})
	c.pinging.forSlots = true
	return true
}

// mayAskForSlotsLocked reports whether a PING for slots may be sent. There is one at most until the
// peer has sent DATA or HEADERS (golang/go#70575): a server that was sent more of them ends the
// connection, and all requests on it.
func (c *Conn) mayAskForSlotsLocked() bool {
	return !c.pinging.forSlots && c.mayPingLocked(oneEarlyPing)
}

// holdsSlotsLocked reports whether a stream that is reset now holds its slot: whether a PING may be
// sent that frees it, or is under way.
func (c *Conn) holdsSlotsLocked() bool { return !c.pinging.forSlots || c.pinging.unacked }

// releaseHeldLocked frees the slots of streams that we reset, where no PING may be sent or is under
// way that would. RST_STREAM reaches the peer before the requests that use them, and a peer that
// counts the streams longer refuses those requests. It reports whether it has freed any.
func (c *Conn) releaseHeldLocked() bool {
	s := &c.slots
	if s.held == 0 && len(s.reset) < pingResetMarks || len(c.pings) > 0 && c.askAgainAtLocked() > c.clock() {
		return false
	}
	if c.mayAskForSlotsLocked() {
		return false
	}
	freed := s.held > 0
	for id, m := range s.reset {
		if m.held {
			m.held = false
			s.reset[id] = m
			s.used--
			s.held--
		}
	}
	if len(s.reset) >= pingResetMarks {
		s.confirm(math.MaxUint64)
		c.trimLaterLocked()
	}
	return freed
}

// makeSlotFreeLocked reports whether one stream more may be opened, if need be in a slot that is
// held in vain.
func (c *Conn) makeSlotFreeLocked() bool {
	return c.slotFreeLocked() || c.releaseHeldLocked() && c.slotFreeLocked()
}

// mark remembers a stream that we reset. Beyond maxResetMarks pushes are not remembered.
func (s *slots) mark(id uint32, m resetMark) {
	if !m.held && len(s.reset) >= maxResetMarks {
		return
	}
	if s.reset == nil {
		s.reset = make(map[uint32]resetMark)
	}
	s.reset[id] = m
	if m.held {
		s.held++
	}
}

func (s *slots) isReset(id uint32) bool {
	_, ok := s.reset[id]
	return ok
}

// mayHaveReset reports whether stream id of ours was ended by our RST_STREAM, as far as that is
// remembered.
func (s *slots) mayHaveReset(id uint32) bool { return id <= s.forgotten || s.isReset(id) }

// forget drops the mark of a stream on which the peer sends no more.
func (s *slots) forget(id uint32) {
	if m, ok := s.reset[id]; ok {
		delete(s.reset, id)
		if m.held {
			s.used--
			s.held--
		}
	}
}

// confirm drops the marks that the answer to PING number n proves known.
func (s *slots) confirm(n uint64) {
	for id, m := range s.reset {
		if m.ping < n {
			s.forget(id)
			if id%2 == 1 {
				s.forgotten = max(s.forgotten, id)
			}
		}
	}
}

// waitOn waits until w is woken. The error says that ctx or cancel ended first.
func waitOn(ctx context.Context, cancel <-chan struct{}, w *wait.Waiter) error {
	switch w.Wait(ctx, cancel) {
	case wait.Ended:
		return contextError(ctx)
	case wait.Canceled:
		return errRequestCanceled
	}
	return nil
}

// releaseLocked takes back a waiter that has stopped waiting on q, woken or not.
func (c *Conn) releaseLocked(q *wait.Queue, w *wait.Waiter) {
	c.spares.Put(q, w)
	c.trimLaterLocked()
}

// waitLocked is how a call waits: it queues itself, unlocks, parks until q is woken or ctx ends, and locks again. The
// caller then looks whether what it waits for has come.
func (c *Conn) waitLocked(ctx context.Context, q *wait.Queue) error {
	return c.waitOrCancelLocked(ctx, nil, q)
}

// waitLocked is the connection's, for what a request waits for: its own Cancel ends that, too.
func (s *Stream) waitLocked(ctx context.Context, q *wait.Queue) error {
	return s.c.waitOrCancelLocked(ctx, s.req.cancel, q)
}

func (c *Conn) waitOrCancelLocked(ctx context.Context, cancel <-chan struct{}, q *wait.Queue) error {
	w := c.spares.Get()
	q.Push(w)
	c.unlock()
	err := waitOn(ctx, cancel, w)
	c.mu.Lock()
	c.releaseLocked(q, w)
	return err
}
