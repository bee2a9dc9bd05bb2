package hyper

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"time"

	"gohyper.dev/hyper/internal/bucket"
)

// This file has the rules by which a Transport sends a request again if the peer has provably not
// processed it (RFC 9113 §8.7).
//
// The reason for a refusal is either the request or the host. If the host responds to other
// requests in the meantime, its capacity is too small: the Transport learns the capacity from the
// refusals, and the request is retried until its context ends or it has had mostTries attempts. If
// the host responds to nothing, the request fails after maxTries attempts. Each cause of retries is
// charged to a budget once: a connection that ended, or a connection that refused any number of
// streams between two responses.

const (
	retryBurst = 100  // causes of retries that a host may have at once; each response adds one
	maxRetries = 1000 // upper bound of the budget
	retryRate  = 10   // causes a second beyond the budget: further retries are that far apart

	mostTries = 100 // attempts of one request, even if the host responds to others

	capacityMemory  = 5 * time.Minute // how long a capacity is remembered without a connection
	capacityDoubles = time.Second     // time without a refusal until twice as many streams are tried
	capacityForgets = 1000            // a limit of as many streams or requests is not worth remembering
)

// A capacity is what a host was seen to serve, if that is less than its SETTINGS allow. It is
// guarded by the host's lock.
type capacity struct {
	limit    uint32    // SETTINGS_MAX_CONCURRENT_STREAMS of the last connection; 0: none received
	streams  int       // concurrent streams on one connection; 0: as many as SETTINGS allow
	since    time.Time // when streams was found
	requests int64     // requests in all on one connection; 0: no limit is known
	usedAt   time.Time // when the host last lost a connection
}

// isLearned reports whether the host was seen to serve less than its SETTINGS allow.
func (k *capacity) isLearned() bool { return k.streams > 0 || k.requests > 0 }

// remembered returns for how much longer the capacity has to be remembered if the host has no
// connections.
func (k *capacity) remembered() time.Duration {
	if k.limit > 0 && k.limit < initialSlots || k.isLearned() {
		return time.Until(k.usedAt.Add(capacityMemory))
	}
	return 0
}

// A retryBudget limits the retries to a host. It is guarded by the host's lock.
type retryBudget struct {
	events  bucket.Bucket
	since   time.Time // start of the bucket's time
	next    time.Time // earliest time of the next retry, once the bucket is empty
	answers int64     // responses of the host so far
}

// newRetryBudget returns a full budget.
func newRetryBudget() retryBudget {
	return retryBudget{events: bucket.New(retryBurst, maxRetries, retryRate), since: time.Now()}
}

// charge takes one cause from the budget, and returns how long the retry has to wait.
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

// A retry is the state of one request over all its attempts.
type retry struct {
	x         *exchange
	turn      uint64 // in the host's queue; 0: none yet
	tries     int32
	fruitless int32 // consecutive attempts during which the host responded to nothing
	answers   int64 // host.retries.answers when the last attempt failed
}

// roundTrip sends x until it has a response, or must not be sent again. Then it leaves the host.
func (h *host) roundTrip(x *exchange) (_ *http.Response, failure error) {
	failure = errNotReturned
	defer h.leaveAndEnd(x, &failure)
	r := retry{x: x}
	// waited is true after errNoSlot: the trace has been told of the wait already.
	waited := false
	for {
		if !waited {
			x.trace.getConn(h.addr)
		}
		c, slot, err := h.pick(&r, waited)
		if err != nil {
			return nil, x.verdict(err)
		}
		resp, err := x.attempt(c.Conn, slot)
		if err == nil {
			h.answered(c)
			return resp, nil
		}
		if waited = err == errNoSlot; waited { // nothing was sent, so this does not count as an attempt
			continue
		}
		if err := h.again(&r, c, err); err != nil {
			return nil, x.verdict(err)
		}
	}
}

// leaveAndEnd leaves the host, and ends x if its function did not return.
func (h *host) leaveAndEnd(x *exchange, failure *error) {
	h.t.leave(h)
	x.endUnlessReturned(failure)
}

// pick returns a connection for r's request. Usually there is one with a free slot. Otherwise pick
// waits for a slot or for a new connection. With wait, it always uses the queue.
func (h *host) pick(r *retry, wait bool) (*pooledConn, slotMode, error) {
	if !wait {
		if c := h.sole(); c != nil {
			return c, trySlot, nil
		}
	}
	c, err := h.conn(r.x.httpReq.Context(), r.x.req.cancel, &r.turn)
	return c, haveSlot, err
}

// again prepares the next attempt of a request that failed on c with err, and pauses before it. The
// error is what the caller gets if there is no further attempt.
func (h *host) again(r *retry, c *pooledConn, err error) error {
	ctx := r.x.httpReq.Context()
	if ctx.Err() != nil || wantsHTTP1(err) || !Retryable(err) && !r.x.mayRepeat(err) {
		return err
	}
	delay, ok := h.refused(r, c)
	if !ok {
		return err
	}
	if rewindErr := r.x.body.rewind(r.x.httpReq.GetBody); rewindErr != nil {
		return notSentAgain(err, rewindErr)
	}
	if err := pause(ctx, r.x.req.cancel, delay); err != nil {
		return err
	}
	h.owner.book.countRetry(err)
	return nil
}

// notSentAgain returns err with the reason why the request was not sent again, although err allows
// that.
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

// answered counts a response from c.
func (h *host) answered(c *pooledConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.retries.events.Add(1)
	h.retries.answers++
	h.failures, c.refusals = 0, 0
	c.answers++
	if h.capacity.streams > 0 && time.Since(h.capacity.since) >= capacityDoubles {
		h.capacity.grow()
	}
	if c.quota > 0 {
		h.answeredWithinLocked(c)
	}
}

// grow allows twice as many streams. It is called when the host has refused none for some time.
func (k *capacity) grow() {
	k.streams, k.since = 2*k.streams, time.Now()
	if k.streams >= capacityForgets || k.limit > 0 && int64(k.streams) >= int64(k.limit) {
		k.streams = 0
	}
}

// answeredWithinLocked raises the quota of c if c has responded to that many requests and has not
// ended.
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

// allowed returns how many requests may be sent on c in all, or 0 for no limit. If c has responded
// to as many requests as the last connection did before its GOAWAY, one more is allowed, to find
// out whether c continues.
func (c *pooledConn) allowed() int64 {
	if c.quota > 0 && c.answers >= c.quota {
		return c.answers + 1
	}
	return c.quota
}

// refused records that c has turned r's request away. It returns how long to wait before the next
// attempt, and false if there must be none.
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

// learnRequestsLocked is called for a connection that ended after it had processed the given number
// of requests. At first, the next connection is not sent more.
func (h *host) learnRequestsLocked(processed int64) {
	if processed > 0 && processed < capacityForgets {
		h.capacity.requests = processed
	}
}

// learnStreamsLocked is called when c has refused a stream while it had the given number of others.
// If c refuses streams that are alone on it, c is replaced, unless the connection before it was no
// better.
func (h *host) learnStreamsLocked(c *pooledConn, others int) {
	if most := max(1, others); h.capacity.streams == 0 || most <= h.capacity.streams {
		h.capacity.streams, h.capacity.since = most, time.Now()
	}
	if c.refusals++; others > 0 || c.refusals < 2 || h.failures > 0 {
		return
	}
	if i := slices.Index(h.conns, c); i >= 0 {
		h.failures++
		c.reason = ReasonRefused
		h.removeLocked(i, ErrClosed)
	}
}
