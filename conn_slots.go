package hyper

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"gohyper.dev/hyper/internal/wait"
	"gohyper.dev/hyper/internal/wire"
)

// A streamTable holds a connection's streams, and memory for them. The connection's mu guards it.
type streamTable struct {
	byID       map[uint32]*Stream // the streams that are open; nil after a time without streams
	nextID     uint32             // ID of our next stream, odd
	lastPushID uint32             // the highest stream ID that the peer promised
	pushes     int                // promised pushes that are not yet both ended and claimed
	unclaimed  *unclaimed         // nil: push is off
	idleSince  time.Duration      // when the last stream ended

	headerArena Header      // memory for the fields of responses
	spares      wait.Spares // waiters to use again
	// Memory that many simultaneous streams needed is released some time after they have ended.
	peak   int           // the most streams at once, open or remembered as reset, since the last release
	trimAt time.Duration // when to check for it; 0: never
}

// smallMap is how many streams a map of streams may have had, so that it is used again. It is what
// a map holds in its first allocation.
const smallMap = 8

// streamMaps holds empty maps that no connection uses, as a map makes two allocations.
var streamMaps sync.Pool // of map[uint32]*Stream

// takeMap sets byID to an empty map.
func (t *streamTable) takeMap() {
	var ok bool
	if t.byID, ok = streamMaps.Get().(map[uint32]*Stream); !ok {
		t.byID = make(map[uint32]*Stream)
	}
}

// giveMap sets byID, which is empty, to nil. A map never shrinks, so only one that is small is used
// again.
func (t *streamTable) giveMap() {
	if t.byID != nil && t.peak <= smallMap {
		streamMaps.Put(t.byID)
	}
	t.byID = nil
}

// slots limits how many of our streams are open. The limit is the peer's
// SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113 §5.1.2). Callers above the limit wait in order. They
// also wait while too many bytes are not written yet. The connection's mu guards it.
type slots struct {
	limit uint32
	// The highest ID of our streams whose mark was dropped although the peer had not ended the
	// stream.
	forgotten uint32

	used    int        // streams that the peer may count, and slots given to callers
	waiting wait.Queue // callers without a slot, oldest first
	granted wait.Queue // callers that were given a slot and have not run since, oldest first
	grants  int32      // length of granted
	// admitLocked was called while frames are processed. It runs once after all of them.
	admitDue bool

	tellFree struct { // when the owner is told that a slot is free
		once bool // for the next one: reserve found none
		each bool // for every one
	}
	// While it is true, tell the owner when the last stream ends. nil: never.
	tellsIdle *atomic.Bool

	reserved int // part of used: reserved by reserve, and the request is not open yet

	// Streams that we reset. The peer may send on them and counts them until it has processed the
	// reset. The acknowledgment of a later PING proves that it has. Without this, a program that
	// opens and cancels streams in a loop would exceed the peer's limit.
	reset map[uint32]resetMark
	held  int // how many of them occupy a slot
}

// A resetMark describes a stream that we reset.
type resetMark struct {
	// The number of the last PING sent before the reset. The acknowledgment of any later PING
	// proves that the peer has processed the reset.
	ping   uint64
	credit int64 // what the peer may still send on it
	held   bool  // it still occupies a slot
	headed bool  // a field section was received after the reset
}

// Limits of slots.
const (
	// Applies until the peer's SETTINGS are received. RFC 9113 §6.5.2 recommends that peers allow
	// at least 100.
	initialSlots   = 100
	unlimitedSlots = math.MaxUint32
	pingResetMarks = 1000 // so many marks cause a PING
	maxResetMarks  = 4000 // with so many marks, no stream is opened
	// The most slots that callers have been given and do not use yet. It is limited because they
	// may have to be taken back.
	maxGrants    = 128
	maxUnwritten = 1 << 20 // bytes; with so many unwritten, no stream is opened
)

// takesRequestsLocked returns nil if new streams can be opened, and otherwise an error with the
// reason.
func (c *Conn) takesRequestsLocked() error {
	switch {
	case c.ending.phase == connClosed || c.ending.err == ErrClosed || c.ending.err == nil &&
		c.ending.phase == connDraining:
		return ErrClosed
	case c.ending.goAway != nil && (c.ending.err == nil || c.ending.err == error(c.ending.goAway)):
		unsent := c.ending.goAway.because(ErrDrained)
		unsent.processed = neverProcessed
		return unsent
	case c.ending.phase == connMute && c.ending.err == nil:
		return c.named(&ConnError{Err: errMute, processed: neverProcessed})
	case c.ending.err != nil:
		unsent := *asConnError(c.ending.err)
		unsent.processed = neverProcessed
		return &unsent
	case c.streams.nextID > wire.MaxStreamID:
		return c.named(&ConnError{Err: ErrDrained, processed: neverProcessed})
	}
	return nil
}

// errMute is the reason when the peer does not acknowledge the PINGs that free the slots of streams
// that we reset.
var errMute = causedError{ErrDrained, ErrPingTimeout}

// A slotMode is the way in which a request gets its slot.
type slotMode uint8

// The values of slotMode.
const (
	waitForSlot slotMode = iota // wait for a slot
	trySlot                     // fail with errNoSlot if no slot is free
	// Use the slot that reserve has taken. Fail with errNoSlot if the peer has lowered its limit
	// since then.
	haveSlot
)

// A WaitError means that a request has waited too long. Either its context ended before the peer
// allowed a stream for it (RFC 9113 §5.1.2), or no response was received within
// Transport.ResponseHeaderTimeout. It is a net.Error.
type WaitError struct {
	Err error // of the context; os.ErrDeadlineExceeded for ResponseHeaderTimeout

	goal waitGoal
	n    int64 // how many streams or connections the goal is one of
}

// A waitGoal is what a request has waited for.
type waitGoal uint8

const (
	// forStream: one of the streams that the peer allows, on all connections to it.
	forStream waitGoal = iota

	// forFirstStream is forStream before the peer's SETTINGS, where RFC 9113 §6.5.2 has no limit.
	// Ours is initialSlots.
	forFirstStream

	forWrite  // that fewer bytes are not written
	forConn   // one of the connections to all hosts (Transport.MaxConns)
	forHeader // the response's header
)

// Error returns a text that says what the request waited for.
func (e *WaitError) Error() string {
	owner := "the peer's"
	switch e.goal {
	case forHeader:
		return prefix + "timeout awaiting response headers (ResponseHeaderTimeout)"
	case forConn:
		return fmt.Sprintf(prefix+"waiting for one of Transport.MaxConns %d connections: %v", e.n, e.Err)
	case forWrite:
		return fmt.Sprintf(prefix+"waiting for the peer to read earlier requests: %v", e.Err)
	case forFirstStream:
		owner = "the first"
	}
	switch e.n {
	case 0:
		return fmt.Sprintf(prefix+"waiting for a stream (the peer allows none now): %v", e.Err)
	case 1:
		return fmt.Sprintf(prefix+"waiting for %s only stream: %v", owner, e.Err)
	}
	return fmt.Sprintf(prefix+"waiting for one of %s %d streams: %v", owner, e.n, e.Err)
}

// Unwrap returns Err.
func (e *WaitError) Unwrap() error { return e.Err }

// Timeout reports whether a time limit has passed. It is false if a context was canceled.
func (e *WaitError) Timeout() bool {
	return e.goal == forHeader || errors.Is(e.Err, context.DeadlineExceeded)
}

// Temporary returns the same as Timeout. It exists for net.Error.
func (e *WaitError) Temporary() bool { return e.Timeout() }

// waitErrorLocked returns the error of a call whose context ended with err while it waited for a
// stream.
func (c *Conn) waitErrorLocked(err error) error {
	e := &WaitError{Err: err, goal: forStream, n: int64(c.slots.limit)}
	switch {
	case c.crowdedLocked():
		e.goal = forWrite
	case !c.settings.peer.known:
		e.goal = forFirstStream
	}
	return e
}

// errNoSlot means that the request was not sent because it would have to wait for a slot.
var errNoSlot = errors.New("hyper: no free stream")

// takeSlotUnlocking takes a slot in the given way. If it must wait, it waits until ctx or cancel
// ends. Callers get slots in the order in which they came.
func (c *Conn) takeSlotUnlocking(ctx context.Context, cancel <-chan struct{}, mode slotMode) error {
	s := &c.slots
	if mode == haveSlot {
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
	case mode == trySlot:
		return errNoSlot
	}
	return c.waitForSlotUnlocking(ctx, cancel)
}

// claimReservedLocked begins to use a reserved slot.
func (c *Conn) claimReservedLocked() error {
	if err := c.takesRequestsLocked(); err != nil {
		c.slots.used--
		return err
	}
	if c.overdrawnLocked() {
		// The peer has lowered its limit since the slot was reserved, and we have acknowledged
		// that. The slot no longer exists.
		c.giveSlotLocked()
		return errNoSlot
	}
	return nil
}

// waitForSlotUnlocking waits for a slot until ctx or cancel ends.
func (c *Conn) waitForSlotUnlocking(ctx context.Context, cancel <-chan struct{}) error {
	s, w := &c.slots, c.streams.spares.Get()
	s.waiting.Push(w)
	began := c.writer.tracer.slotWaitLocked()
	c.pingForSlotsLocked()
	var err error
	for err == nil {
		c.unlock()
		err = waitOn(ctx, cancel, w)
		c.lock()
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
		err = c.waitErrorLocked(err)
	}
	switch {
	case err == nil:
		c.writer.tracer.slotGrantedLocked(began)
		c.admitMoreLocked()
	// The slot came too late.
	case granted:
		c.giveSlotLocked()
	}
	return err
}

// reserve takes a slot for a request that will be opened with haveSlot. If no slot is free, it
// returns errNoSlot, and the owner is told when a slot may be free again. streams limits the
// streams that are open at once, and requests limits all requests of the connection. 0 means no
// such limit.
func (c *Conn) reserve(streams int, requests int64) error {
	c.lock()
	defer c.unlockForOwner()
	s := &c.slots
	err := errNoSlot
	if streams > 0 && s.used >= streams {
		c.releaseHeldLocked()
	}
	if (streams == 0 || s.used < streams) && (requests == 0 || c.counts.opened+int64(s.reserved) < requests) {
		err = c.takeSlotUnlocking(context.Background(), nil, trySlot)
	}
	switch err {
	case nil:
		s.reserved++
	case errNoSlot:
		s.tellFree.once = true
		c.askForSlotsLocked()
	}
	return err
}

// release returns a reserved slot that is not needed.
func (c *Conn) release() {
	c.lock()
	c.slots.reserved--
	c.giveSlotLocked()
	c.unlock()
}

// giveSlotLocked returns a slot.
func (c *Conn) giveSlotLocked() {
	c.slots.used--
	c.admitLocked()
}

// admitLocked gives free slots to waiting callers. While frames are processed it does so only after
// all of them, because the peer may change its limit several times.
func (c *Conn) admitLocked() {
	s := &c.slots
	if s.admitDue = c.reader.state == readerReceiving; s.admitDue {
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
	if (s.tellFree.once || s.tellFree.each) && c.slotFreeLocked() {
		s.tellFree.once, c.reports.stateChanged = false, true
	}
	c.pingForSlotsLocked()
}

// admitMoreLocked is admitLocked for the case that only the room for unwritten bytes has grown.
func (c *Conn) admitMoreLocked() {
	if !c.slots.waiting.Empty() || c.slots.tellFree.once {
		c.admitLocked()
	}
}

// withdrawLocked takes back slots that callers were given and do not use yet, if the limit no
// longer allows them. It takes the last ones first. The callers keep their places in the queue.
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

// overdrawnLocked reports whether a slot that was given and is not used yet must not be used.
func (c *Conn) overdrawnLocked() bool {
	return int64(c.slots.used) > int64(c.slots.limit) || c.crowdedLocked()
}

// slotFreeLocked reports whether one more stream may be opened.
func (c *Conn) slotFreeLocked() bool {
	s := &c.slots
	return int64(s.used) < int64(s.limit) && len(s.reset) < maxResetMarks && !c.crowdedLocked()
}

// crowdedLocked reports whether so many bytes wait to be written that no request should add to
// them.
func (c *Conn) crowdedLocked() bool { return c.writer.queued-c.writer.flushed >= maxUnwritten }

// waitForRoomUnlocking waits until the peer has read enough of what we wrote. It is for calls that
// append bytes and open no stream.
func (c *Conn) waitForRoomUnlocking(ctx context.Context) error {
	for c.crowdedLocked() && c.ending.err == nil {
		if err := c.waitUnlocking(ctx, &c.writer.flushQ); err != nil {
			return err
		}
	}
	return c.overLocked()
}

// needsAnswerLocked reports whether the acknowledgment of a PING is needed, because callers wait
// for slots that streams occupy which we reset, or because there are too many marks.
func (c *Conn) needsAnswerLocked() bool {
	s := &c.slots
	return len(s.reset) >= pingResetMarks || s.held > 0 && (s.tellFree.once || !s.waiting.Empty())
}

// pingForSlotsLocked sends a PING if its acknowledgment is needed. If no PING may be sent, it frees
// the slots without one.
func (c *Conn) pingForSlotsLocked() {
	if !c.askForSlotsLocked() && c.releaseHeldLocked() {
		c.admitLocked()
	}
}

// askForSlotsLocked sends a PING if its acknowledgment is needed. It sends one at a time, because
// servers count PINGs (golang/go#76296). It returns false only if an acknowledgment is needed and
// none will come.
func (c *Conn) askForSlotsLocked() bool {
	if len(c.slots.reset) == 0 || !c.needsAnswerLocked() || c.ending.err != nil {
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
	c.liveness.pinging.forSlots = true
	return true
}

// mayAskForSlotsLocked reports whether a PING for slots may be sent. At most one is sent before the
// peer sends DATA or HEADERS again (golang/go#70575). Some servers end the connection, with all its
// requests, if they receive more.
func (c *Conn) mayAskForSlotsLocked() bool {
	return !c.liveness.pinging.forSlots && c.mayPingLocked(oneEarlyPing)
}

// holdsSlotsLocked reports whether a stream that is reset now keeps its slot. It does if a PING
// that frees the slot may be sent, or waits for its acknowledgment.
func (c *Conn) holdsSlotsLocked() bool {
	return !c.liveness.pinging.forSlots || c.liveness.pinging.state == pingUnacked
}

// releaseHeldLocked frees the slots of streams that we reset, if no PING that would free them may
// be sent or waits for its acknowledgment. The peer receives RST_STREAM before the requests that
// use these slots. If it still counts the reset streams then, it refuses those requests.
// releaseHeldLocked reports whether it has freed any slot.
func (c *Conn) releaseHeldLocked() bool {
	s := &c.slots
	if s.held == 0 && len(s.reset) < pingResetMarks || len(c.liveness.pings) > 0 &&
		c.askAgainAtLocked() > c.clock() {
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

// makeSlotFreeLocked reports whether one more stream may be opened. If needed, it frees slots with
// releaseHeldLocked.
func (c *Conn) makeSlotFreeLocked() bool {
	return c.slotFreeLocked() || c.releaseHeldLocked() && c.slotFreeLocked()
}

// mark records a stream that we reset. Above maxResetMarks, it does not record pushes.
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

// isReset reports whether the stream has a mark.
func (s *slots) isReset(id uint32) bool {
	_, ok := s.reset[id]
	return ok
}

// mayHaveReset reports whether we ended our stream id with RST_STREAM, as far as that is recorded.
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

// confirm drops the marks of the resets that the peer has processed, as the acknowledgment of PING
// n proves.
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

// waitOn waits until w is woken. It returns an error if ctx or cancel ends first.
func waitOn(ctx context.Context, cancel <-chan struct{}, w *wait.Waiter) error {
	switch w.Wait(ctx, cancel) {
	case wait.Ended:
		return contextError(ctx)
	case wait.Canceled:
		return errRequestCanceled
	}
	return nil
}

// releaseLocked takes back a waiter that has waited on q, even if it was not woken. A connection
// that is idle again after a pause keeps at most one, for the next request.
func (c *Conn) releaseLocked(q *wait.Queue, w *wait.Waiter) {
	c.streams.spares.Put(q, w)
	if c.liveness.afterPause && len(c.streams.byID) == 0 && c.streams.spares.Len() > 1 {
		c.streams.spares = wait.Spares{}
	}
	c.trimLaterLocked()
}

// waitUnlocking waits until q is woken or ctx ends. It unlocks mu meanwhile. The caller must then
// check its condition again.
func (c *Conn) waitUnlocking(ctx context.Context, q *wait.Queue) error {
	return c.waitOrCancelUnlocking(ctx, nil, q)
}

// waitUnlocking is like Conn.waitUnlocking, and also returns if the request's Cancel channel is
// closed.
func (s *Stream) waitUnlocking(ctx context.Context, q *wait.Queue) error {
	s.memory.holdLocked()
	err := s.c.waitOrCancelUnlocking(ctx, s.req.cancel(), q)
	s.memory.releaseLocked()
	return err
}

// waitOrCancelUnlocking is waitUnlocking with a cancel channel, which may be nil.
func (c *Conn) waitOrCancelUnlocking(ctx context.Context, cancel <-chan struct{}, q *wait.Queue) (err error) {
	w := c.beginWaitUnlocking(q)
	if cancel == nil && ctx.Done() == nil {
		w.WaitWoken()
	} else {
		err = waitOn(ctx, cancel, w)
	}
	c.endWaitAndLock(q, w)
	return err
}

// beginWaitUnlocking returns a waiter on q, and unlocks mu.
func (c *Conn) beginWaitUnlocking(q *wait.Queue) *wait.Waiter {
	w := c.streams.spares.Get()
	q.Push(w)
	c.unlock()
	return w
}

// endWaitAndLock takes the waiter back.
func (c *Conn) endWaitAndLock(q *wait.Queue, w *wait.Waiter) {
	c.lock()
	c.releaseLocked(q, w)
}
