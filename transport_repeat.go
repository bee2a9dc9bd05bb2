package hyper

import (
	"errors"
	"net"
	"net/http"
)

// How a Transport sends requests again that the peer may have processed. RFC 9110 §9.2.2 allows it
// where the method is idempotent and the connection was lost before the response.

// maxLost bounds how often one request is sent again after its connection was lost: a request that
// makes a server fail must not go from one server to the next.
const maxLost = 2

// mayRepeat reports whether the request may be sent again though err does not say that the peer
// has not processed it.
func (r *retry) mayRepeat(err error) bool {
	x := r.x
	if r.lost.number() >= maxLost || x.began || !wasLost(err) || !isIdempotent(x.in) || !x.body.canRewind(x.in) {
		return false
	}
	if r.lost == nil {
		r.lost = &lostTries{first: err}
	}
	r.lost.n++
	return true
}

// lostTries are those tries of a request that may have been processed, and whose connection was
// lost. Nil is none.
type lostTries struct {
	n     int
	first error
}

func (l *lostTries) number() int {
	if l == nil {
		return 0
	}
	return l.n
}

// wasLost reports whether err is the end of a connection that the peer or the network caused, or
// the silence of the peer. A connection that one side ended because of what the other had sent is
// not lost: the next one would fare no better.
func wasLost(err error) bool {
	c, ok := err.(*ConnError)
	switch {
	case !ok || errors.Is(err, ErrClosed):
		return false
	case c.goAway && !c.FromPeer:
		return c.Code == SettingsTimeout
	case c.goAway:
		return c.Code == NoError
	}
	return true
}

// isIdempotent reports whether a request may be processed twice (RFC 9110 §9.2.2): by its method,
// or because it has a key by which the server knows it again, as net/http has it.
func isIdempotent(req *http.Request) bool {
	switch req.Method {
	case "", "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	// An empty list counts: net/http's way to say so without sending the field.
	_, key := req.Header["Idempotency-Key"]
	_, xKey := req.Header["X-Idempotency-Key"]
	return key || xKey
}

// canRewind reports whether rewind will do, as far as that can be told before.
func (b *requestBody) canRewind(req *http.Request) bool {
	if b == nil || req.GetBody != nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.read && !b.closed
}

// hasBegun reports whether something of a response has come.
func (s *Stream) hasBegun() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.began
}

// verdict returns the error of a request that is not sent again. Where an earlier try may have been
// processed, the last one's error must not say that the request was not.
func (r *retry) verdict(err error) error {
	if r.lost == nil || wantsHTTP1(err) || !Retryable(err) {
		return err
	}
	return &repeatError{first: r.lost.first, last: err}
}

// A repeatError is the end of a request that was sent again after its connection was lost.
type repeatError struct{ first, last error }

func (e *repeatError) Error() string {
	return e.first.Error() + " (sent again: " + bare(e.last) + ")"
}

func (e *repeatError) Unwrap() []error { return []error{e.first, e.last} }

// notProcessed is false: the peer may have processed the first try.
func (e *repeatError) notProcessed() bool { return false }

// Timeout reports whether the last try ended with a timeout. It makes repeatError a net.Error.
func (e *repeatError) Timeout() bool {
	var ne net.Error
	return errors.As(e.last, &ne) && ne.Timeout()
}

// Temporary is Timeout: it exists for net.Error.
func (e *repeatError) Temporary() bool { return e.Timeout() }
