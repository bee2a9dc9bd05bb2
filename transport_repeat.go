package hyper

import (
	"cmp"
	"errors"
	"net/http"
)

// This file has the rules by which a Transport sends a request again although the peer may have
// processed it. RFC 9110 §9.2.2 allows that if the method is idempotent and the connection was lost
// before the response.

// lostTries are the attempts of a request that may have been processed and whose connection was
// lost. A nil *lostTries has none.
type lostTries struct {
	n     int
	first error
}

// number returns how many attempts were lost.
func (l *lostTries) number() int {
	if l == nil {
		return 0
	}
	return l.n
}

// maxLost is how often one request is sent again after its connection was lost. A request that
// makes a server fail must not go on to ever more servers.
const maxLost = 2

// mayRepeat reports whether the request may be sent again although err does not say that the peer
// has not processed it. If so, it counts the lost attempt.
func (x *exchange) mayRepeat(err error) bool {
	if x.lost().number() >= maxLost || x.state == responseBegan || !wasLost(err) ||
		!isIdempotent(x.httpReq) || !x.body.canRewind(x.httpReq) {
		return false
	}
	if x.extras == nil {
		x.extras = &exchangeExtras{}
	}
	lost := x.lost()
	lost.first = cmp.Or(lost.first, err)
	lost.n++
	return true
}

// wasLost reports whether err is the end of a connection that the peer or the network caused, or
// that the silence of the peer caused. A connection that one side ended because of what the other
// side had sent is not lost: the next connection would end in the same way.
func wasLost(err error) bool {
	c, ok := err.(*ConnError)
	switch {
	case !ok || errors.Is(err, ErrClosed):
		return false
	case c.isGoAway() && !c.FromPeer:
		return c.Code == ErrCodeSettingsTimeout
	case c.isGoAway():
		return c.Code == ErrCodeNo
	}
	return true
}

// isIdempotent reports whether a request may be processed twice (RFC 9110 §9.2.2). That is so
// because of its method or, as in net/http, because it has a key by which the server recognizes a
// repeated request.
func isIdempotent(req *http.Request) bool {
	switch req.Method {
	case "", "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	// In net/http, an empty list says this without sending the field.
	_, key := req.Header["Idempotency-Key"]
	_, xKey := req.Header["X-Idempotency-Key"]
	return key || xKey
}

// hasBegun reports whether any part of a response has arrived.
func (s *Stream) hasBegun() bool {
	s.c.lock()
	defer s.c.unlock()
	return s.began
}

// verdict returns the error of a request that is not sent again; err is the error of its last
// attempt. If an earlier attempt may have been processed, the result must not say that the request
// was not processed.
func (x *exchange) verdict(err error) error {
	if x.lost().number() == 0 || wantsHTTP1(err) || !Retryable(err) {
		return err
	}
	return &RetryError{First: x.lost().first, Last: err}
}

// A RetryError is the error of a request that a Transport sent again after its connection was
// lost, and that was not sent the last time. First is the loss of the connection, Last is why no
// further attempt was made. It is not Retryable, because the peer may have processed the first
// attempt.
type RetryError struct{ First, Last error }

// Error returns the text of the first error and that of the last one.
func (e *RetryError) Error() string {
	return e.First.Error() + " (sent again: " + bare(e.Last) + ")"
}

// Unwrap returns First. Programs take a *net.OpError of a dial to mean that no server was reached,
// so errors.As does not find that of Last.
func (e *RetryError) Unwrap() error { return e.First }

// Is reports whether the last attempt ended with target. It is for errors.Is.
func (e *RetryError) Is(target error) bool { return errors.Is(e.Last, target) }

// notProcessed returns false, because the peer may have processed the first attempt.
func (e *RetryError) notProcessed() bool { return false }

// Timeout reports whether the last attempt ended with a timeout. It makes RetryError a net.Error.
func (e *RetryError) Timeout() bool { return isTimeout(e.Last) }

// Temporary returns the same as Timeout. It exists for net.Error.
func (e *RetryError) Temporary() bool { return e.Timeout() }
