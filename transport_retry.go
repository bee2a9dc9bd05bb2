package hyper

import (
	"cmp"
	"fmt"
	"net/http"
	"time"

	"gohyper.dev/hyper/internal/bucket"
)

// How a Transport sends requests again that the peer has provably not processed (RFC 9113 §8.7).
//
// A refusal says something about the request, or about the host. Where the host answers other
// requests meanwhile, it is short of capacity: what it can do is learned from its refusals, and the
// request goes on trying under its context. Where it answers nothing, the request gives up after
// maxTries. What a retry costs is charged to a budget, once for each event: a connection that
// ended, or a connection that refused any number of streams between two responses.

const (
	retryBurst = 100 // events that a host may cause at once; each response earns one more
	maxRetries = 1000
	retryRate  = 10 // events a second beyond that: later retries are that far apart

	mostTries = 100 // of one request, whatever the host does with others

	capacityMemory  = 5 * time.Minute // without a connection
	capacityDoubles = time.Second     // without a refusal, until twice as many streams are tried
	capacityForgets = 1000            // as many streams, or requests, are no limit worth knowing
)

// A capacity is what a host was seen to serve, where that is less than its SETTINGS say. The host's
// lock guards it.
type capacity struct {
	limit    uint32    // SETTINGS_MAX_CONCURRENT_STREAMS of the last connection; 0: none was received
	streams  int       // streams at once, on one connection; 0: as many as SETTINGS allow
	since    time.Time // when streams was found
	requests int64     // requests in all, on one connection; 0: no bound is known
	usedAt   time.Time // when the host last lost a connection
}

// isLearned reports whether the host was seen to serve less than its SETTINGS say.
func (k *capacity) isLearned() bool { return k.streams > 0 || k.requests > 0 }

// remembered is for how much longer it is to be remembered when the host has no connections.
func (k *capacity) remembered() time.Duration {
	if k.limit > 0 && k.limit < initialSlots || k.isLearned() {
		return time.Until(k.usedAt.Add(capacityMemory))
	}
	return 0
}

// A retryBudget bounds the retries to a host. The host's lock guards it.
type retryBudget struct {
	events  bucket.Bucket
	since   time.Time // the bucket's clock
	next    time.Time // when the next retry may be made, once the bucket is empty
	answers int64     // responses of the host
}

func newRetryBudget() retryBudget {
	return retryBudget{events: bucket.New(retryBurst, maxRetries, retryRate), since: time.Now()}
}

// charge takes one event from the budget and returns how long the retry has to wait for it.
func (b *retryBudget) charge() time.Duration {
	now := time.Now()
	if b.events.Take(now.Sub(b.since), 1) {
		return 0
	}
	if b.next.Before(now) {
		b.next = now
	}
	b.next = b.next.Add(time.Second / retryRate)
	return b.next.Sub(now)
}

// A retry is the state of one request that is sent until it is answered.
type retry struct {
	x         *exchange
	turn      uint64 // in the host's line; 0: none yet
	tries     int32
	fruitless int32      // of the tries in a row: the host answered nothing meanwhile
	answers   int64      // the host's, when the last try began
	lost      *lostTries // nil: there were none
}

// roundTrip sends x until it has a response, or must not be sent any more. Then it leaves the host.
func (h *host) roundTrip(x *exchange) (_ *http.Response, failure error) {
	failure = errNotReturned
	defer h.leaveAndEnd(x, &failure)
	r := retry{x: x}
	waited := false // for a connection, after one that had no slot: the trace has heard of that
	for {
		if !waited {
			x.trace.getConn(h.addr)
		}
		c, how, err := h.pick(&r, waited)
		if err != nil {
			return nil, r.verdict(err)
		}
		resp, err := x.on(c.Conn, how)
		if err == nil {
			h.answered(c)
			return resp, nil
		}
		if waited = err == errNoSlot; waited { // nothing was sent: that was no try
			continue
		}
		if err := h.again(&r, c, err); err != nil {
			return nil, r.verdict(err)
		}
	}
}

func (h *host) leaveAndEnd(x *exchange, failure *error) {
	h.t.leave(h)
	x.endUnlessReturned(failure)
}

// pick finds a connection for r's request. Most often there is one with a slot; else it waits for a
// slot, or for a new connection.
func (h *host) pick(r *retry, wait bool) (*pooledConn, turn, error) {
	if !wait {
		if c := h.only(); c != nil {
			return c, ifFree, nil
		}
	}
	c, err := h.conn(r.x.in.Context(), r.x.out.cancel, &r.turn)
	return c, reserved, err
}

// again prepares the next try of a request that c has turned away with err, and pauses before it.
// The error is what the caller gets if there is no next try.
func (h *host) again(r *retry, c *pooledConn, err error) error {
	ctx := r.x.in.Context()
	if ctx.Err() != nil || wantsHTTP1(err) || !Retryable(err) && !r.mayRepeat(err) {
		return err
	}
	delay, ok := h.refused(r, c)
	if !ok {
		return err
	}
	if rewindErr := r.x.body.rewind(r.x.in.GetBody); rewindErr != nil {
		return notSentAgain(err, rewindErr)
	}
	if err := pause(ctx, r.x.out.cancel, delay); err != nil {
		return err
	}
	h.owner.book.countRetry(err)
	return nil
}

// notSentAgain adds to err, for which a request could be sent again, why it was not.
func notSentAgain(err, reason error) error {
	switch e := err.(type) {
	case *StreamError:
		told := *e
		told.Err = fmt.Errorf("%w (not sent again: %w)", cmp.Or(e.cause(), error(e.Code)), reason)
		return &told
	case *ConnError:
		told := *e
		told.Err = fmt.Errorf("not sent again: %w", reason)
		if e.Err != nil {
			told.Err = fmt.Errorf("%w (not sent again: %w)", e.Err, reason)
		}
		return &told
	}
	return fmt.Errorf("%w (not sent again: %w)", err, reason)
}

// answered books a response from c.
func (h *host) answered(c *pooledConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.retries.events.Add(1)
	h.retries.answers++
	h.useless, c.refusals = 0, 0
	c.answers++
	if h.capacity.streams > 0 && time.Since(h.capacity.since) >= capacityDoubles {
		h.capacity.grow()
	}
	if c.quota > 0 {
		h.answeredWithinLocked(c)
	}
}

// grow tries twice as many streams, as the host has refused none for some time.
func (k *capacity) grow() {
	k.streams, k.since = 2*k.streams, time.Now()
	if k.streams >= capacityForgets || k.limit > 0 && int64(k.streams) >= int64(k.limit) {
		k.streams = 0
	}
}

// answeredWithinLocked raises the quota of a connection that has served all of it and lives on.
func (h *host) answeredWithinLocked(c *pooledConn) {
	if c.answers > c.quota {
		c.quota *= 2
		h.capacity.requests = c.quota
	}
	if c.quota >= capacityForgets {
		c.quota, h.capacity.requests = 0, 0
	}
	if c.answers >= c.quota {
		h.serveLocked()
	}
}

// allowed is how many requests c may be sent in all, 0 where there is no bound. When it has
// answered as many as the last connection did before GOAWAY, one more shows whether it goes on.
func (c *pooledConn) allowed() int64 {
	if c.quota > 0 && c.answers >= c.quota {
		return c.answers + 1
	}
	return c.quota
}

// refused books that c has turned r's request away. It returns how long to wait before the next
// try, and false if there should be none.
func (h *host) refused(r *retry, c *pooledConn) (delay time.Duration, ok bool) {
	processed, others, ended := c.fate()
	h.mu.Lock()
	defer h.mu.Unlock()
	r.tries++
	if r.fruitless++; h.retries.answers > r.answers {
		r.fruitless = 1
	}
	r.answers = h.retries.answers
	if ended {
		h.learnRequestsLocked(processed)
	} else {
		h.learnStreamsLocked(c, others)
	}
	if r.fruitless >= maxTries || r.tries >= mostTries {
		return 0, false
	}
	if r.tries > 1 && processed == 0 || !ended {
		delay = retryDelay(int(r.fruitless))
	}
	if c.chargeAt != h.retries.answers+1 {
		c.chargeAt = h.retries.answers + 1
		if wait := h.retries.charge(); r.tries > 1 {
			delay = max(delay, wait)
		}
	}
	return delay, true
}

// learnRequestsLocked is for a connection that ended and had processed so many requests: the next
// one is not sent more at first.
func (h *host) learnRequestsLocked(processed int64) {
	if processed > 0 && processed < capacityForgets {
		h.capacity.requests = processed
	}
}

// learnStreamsLocked is for a connection that refused a stream while it had others. One that
// refuses streams that are alone on it is replaced, unless the connection before it was no better.
func (h *host) learnStreamsLocked(c *pooledConn, others int) {
	if most := max(1, others); h.capacity.streams == 0 || most <= h.capacity.streams {
		h.capacity.streams, h.capacity.since = most, time.Now()
	}
	if c.refusals++; others > 0 || c.refusals < 2 || h.useless > 0 {
		return
	}
	for i := range h.conns {
		if h.conns[i] == c {
			h.useless++
			c.reason = ReasonRefused
			h.removeLocked(i, ErrClosed)
			return
		}
	}
}
