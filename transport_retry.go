package hyper

import (
	"cmp"
	"fmt"
	"net/http"
	"time"

	"gohyper.dev/hyper/internal/pool"
)

// This file sends a request again if the peer has provably not processed it (RFC 9113 §8.7). A
// pool.Record has the rules for when that is done.

// maxTries is how many attempts in a row may fail while the host responds to nothing.
const maxTries = pool.MaxTries

// A retry is the state of one request over all its attempts.
type retry struct {
	x     *exchange
	turn  uint64 // in the host's queue; 0: none yet
	tries pool.Tries
}

// roundTrip sends x until it has a response, or must not be sent again. Then it leaves the host.
func (h *host) roundTrip(x *exchange) (_ *http.Response, failure error) {
	failure = errNotReturned
	defer h.leaveAndEnd(x, &failure)
	if err := h.refusesWebSocket(x); err != nil {
		return nil, err
	}
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
		// This is x.attempt. In its usual way there is one frame less on the stack that waits.
		var own *Response
		s, req, err := x.beginAttempt(c.Conn, slot)
		if o := (opening{req: req, slot: slot}); err == nil && x.takesOneStep() {
			own, err = c.openAndWait(x.httpReq.Context(), s, o)
		} else if err == nil {
			own, err = x.sendInSteps(c.Conn, s, o)
		}
		var resp *http.Response
		if s != nil {
			resp, err = x.endAttempt(c.Conn, s, own, err)
		}
		if err == nil {
			h.answered(c)
			return resp, nil
		}
		if err == errNoExtendedConnect {
			h.noTunnels()
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
	h.t.hosts.Leave(h)
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
	c, waited, err := h.connAfterWait(r.x.httpReq.Context(), r.x.req.cancel(), &r.turn)
	if waited > 0 {
		r.x.addWait(waited)
	}
	return c, haveSlot, err
}

// again prepares the next attempt of a request that failed on c with err, and pauses before it. The
// error is what the caller gets if there is no further attempt.
func (h *host) again(r *retry, c *pooledConn, err error) error {
	ctx := r.x.httpReq.Context()
	if ctx.Err() != nil || wantsHTTP1(err) || !Retryable(err) && err != errStalled && !r.x.mayRepeat(err) {
		return err
	}
	delay, ok := h.refused(r, c)
	if err == errStalled {
		h.growLater()
	}
	if !ok {
		return err
	}
	if rewindErr := r.x.body.rewind(r.x.httpReq.GetBody); rewindErr != nil {
		return notSentAgain(err, rewindErr)
	}
	h.traceRetry(c.Conn, err, delay)
	if err := pause(ctx, r.x.req.cancel(), delay); err != nil {
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
		if e.Err == nil {
			return e.because(fmt.Errorf("not sent again: %w", reason))
		}
		return e.because(fmt.Errorf("%w (not sent again: %w)", e.Err, reason))
	}
	return fmt.Errorf("%w (not sent again: %w)", err, reason)
}

// answered counts a response from c.
func (h *host) answered(c *pooledConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.Record.Answered(&c.member) {
		h.serveLocked()
	}
}

// refused records that c has turned r's request away. It returns how long to wait before the next
// attempt, and false if there must be none.
func (h *host) refused(r *retry, c *pooledConn) (delay time.Duration, ok bool) {
	fate := c.fate()
	h.mu.Lock()
	defer h.mu.Unlock()
	verdict := h.Record.Refused(&r.tries, &c.member, fate)
	if verdict.Replace && h.Conns.Has(c) {
		h.Record.Replaced()
		c.reason = ReasonRefused
		h.removeLocked(c, ErrClosed)
	}
	return verdict.Delay, verdict.Again
}
