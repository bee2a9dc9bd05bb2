package hyper

import "context"

type requestKey struct{}

// WithRequest returns a context for an http.Request: RoundTrip calls f with hyper's own Request made
// of it, before it is sent. So a request through http.Client can have what http.Request has no
// fields for: a WindowManager of its own, an Informational callback, an order of fields.
//
// f may change every field but Body and ContentLength, which stay those of the http.Request. What
// is wrong then is a *RequestError, as for Conn.Do. The connection is chosen by the http.Request's
// URL, whatever f sets. f is called on RoundTrip's goroutine and without a lock, once for each
// RoundTrip: redirects have several, and what is sent again after a refusal is not made again. It
// must not keep the Request. Where ctx has such a function already, that is called first.
//
// A request that goes over HTTP/1.1 is not changed by it; f may have been called before that was
// known. The httptrace hooks for interim responses are called before Informational. A panic of f
// ends the request, whose body is closed, and goes on to the caller of RoundTrip.
func WithRequest(ctx context.Context, f func(*Request)) context.Context {
	mustHave(ctx != nil, "WithRequest", "context.Context")
	mustHave(f != nil, "WithRequest", "func(*Request)")
	if first, ok := ctx.Value(requestKey{}).(func(*Request)); ok {
		own := f
		f = func(r *Request) {
			first(r)
			own(r)
		}
	}
	return context.WithValue(ctx, requestKey{}, f)
}

// amend calls the function of WithRequest.
func (x *exchange) amend(f func(*Request)) {
	made := x.out
	err := errNotReturned
	defer x.endUnlessReturned(&err)
	f(&x.out)
	err = nil
	x.out.Body, x.out.ContentLength = made.Body, made.ContentLength
	x.out.trailerOf, x.out.cancel = made.trailerOf, made.cancel
}

// bothInformational returns a callback that calls first, then second, which may be nil.
func bothInformational(first, second func(int, Header) error) func(int, Header) error {
	if second == nil {
		return first
	}
	return func(status int, header Header) error {
		if err := first(status, header); err != nil {
			return err
		}
		return second(status, header)
	}
}
