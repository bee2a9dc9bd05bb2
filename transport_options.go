package hyper

import "context"

// A requestKey is the context key of WithRequest's function.
type requestKey struct{}

// WithRequest returns a context for an http.Request. RoundTrip converts the http.Request to a
// Request and calls f with it before it is sent. A request through http.Client can thus use what
// http.Request has no fields for: a WindowManager of its own, an Informational callback, or a
// particular order of fields.
//
// f may change every field except Body and ContentLength, which remain those of the http.Request.
// If the result is not valid, the error is a *RequestError, as for Conn.Do. The connection is
// chosen by the URL of the http.Request, whatever f sets. f is called in RoundTrip's goroutine and
// without a lock. It is called once for each RoundTrip: several times for a request with redirects,
// but only once for a request that is sent again after a refusal. f must not keep the Request. If
// ctx already has such a function, that one is called first.
//
// f has no effect on a request that goes over HTTP/1.1; it may have been called before that was
// known. The httptrace hooks for interim responses are called before Informational. If f panics,
// the request ends, its body is closed, and the panic continues to the caller of RoundTrip.
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

// amend calls f, the function of WithRequest.
func (x *exchange) amend(f func(*Request)) {
	before := x.req
	err := errNotReturned
	defer x.endUnlessReturned(&err)
	f(&x.req)
	err = nil
	x.req.Body, x.req.ContentLength = before.Body, before.ContentLength
	x.req.made = before.made
}

// bothInformational returns a callback that calls first and then second. second may be nil.
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
