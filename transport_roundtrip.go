package hyper

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"gohyper.dev/hyper/internal/syntax"
)

// RoundTrip implements http.RoundTripper on this one connection, whatever host req.URL names.
// Transport is the type that chooses a connection by host. RoundTrip never sends a request twice.
// It follows the contract of http.RoundTripper:
//
//   - The error is nil if the peer sent a response, whatever its status. Redirects, cookies and
//     authentication are left to the caller.
//   - RoundTrip does not change req, except that it consumes req.Body. It closes the body
//     exactly once, in every case: before RoundTrip returns an error, unless Close blocks;
//     otherwise when the body has been read, or when the exchange ends. The caller must not
//     change req, or the memory of a *bytes.Reader, *bytes.Buffer or *strings.Reader in it,
//     until it has closed the response's Body or RoundTrip has returned an error. Any other
//     body, and the body of a request with a Trailer, is read by another goroutine; a last Read
//     may still be in progress then.
//   - If req's context or Cancel ends the exchange, RoundTrip returns the context's error or
//     the error of Cancel unchanged. If the request's context ended while it was waiting for
//     one of the peer's streams, the error is a *WaitError that says so. After RoundTrip has
//     returned, the context and Cancel also end the reading of the body.
//   - The httptrace hooks of req's context are called in net/http's order, and never under a
//     lock. If a hook panics in the caller's goroutine, the exchange ends as with an error, and
//     the panic continues to the caller.
//   - The error for a stream that was reset has the same text as in net/http. errors.As finds a
//     *StreamError in it, and also the StreamError of golang.org/x/net/http2.
//
// The opening handshake of a WebSocket is sent as an extended CONNECT, as by Transport. If the
// peer's SETTINGS do not allow that, RoundTrip returns a *RequestError.
//
// Request.Close, and "Connection: close", make this the last request of the connection.
// ResponseFromHTTP returns the *Response from which the *http.Response was made.
func (c *Conn) RoundTrip(req *http.Request) (resp *http.Response, err error) {
	mustHave(req != nil, "Conn.RoundTrip", "*http.Request")
	x, err := newExchange(req, false)
	if err != nil {
		return nil, err
	}
	err = errNotReturned
	defer x.endUnlessReturned(&err)
	resp, err = x.attempt(c, waitForSlot)
	if err != nil {
		return nil, x.fail(err)
	}
	return resp, nil
}

// errRequestCanceled is the error of a request that http.Request.Cancel ended.
var errRequestCanceled = errors.New("hyper: request canceled by http.Request.Cancel")

// An exchange is one call of RoundTrip. It turns an http.Request into a Request, sends that as
// often as necessary, and turns the Response into an http.Response. All its parts are in one
// allocation, except for the http.Response; a request with a body to send needs one more. The
// memory can be used again for another exchange.
type exchange struct {
	httpReq   *http.Request
	req       Request
	body      *requestBody // nil: no body
	trace     *clientTrace // nil: no hooks
	inMemory  bool         // req.Body is a reader in memory, which is sent without being read
	closeConn bool         // the connection is not used for further requests
	route     route
	state     exchangeState

	turnedBack uint8 // how often the fallback's connection negotiated HTTP/2

	stream Stream        // used by the first attempt
	answer *httpResponse // nil: there is no response

	extras *exchangeExtras // nil: none is set
}

// A route says which connections an exchange may use.
type route uint8

// The values of route.
const (
	oneConn    route = iota // the one that was chosen
	anyConn                 // a Transport's connections: it can use another one
	sharedConn              // as anyConn; this attempt uses one that was made for another host
)

// An exchangeState says how far an exchange has come.
type exchangeState uint8

// The values of exchangeState.
const (
	notTried exchangeState = iota // no attempt was made
	tried
	responseBegan // the last attempt failed after the response had begun
)

// exchangeExtras are the parts of an exchange that most requests do not need.
type exchangeExtras struct {
	headerTimeout time.Duration // Transport.ResponseHeaderTimeout; 0: none
	lost          lostTries
	waited        time.Duration // in the Transport's queue, for Config.Trace
	stalls        int           // how many handshakes of the WebSocket were given up
}

// addWait counts a wait in the Transport's queue.
func (x *exchange) addWait(d time.Duration) {
	if x.extras == nil {
		x.extras = &exchangeExtras{}
	}
	x.extras.waited += d
}

// passWait tells c how long req, which is sent in this attempt, has waited in the Transport's
// queue.
//
//go:noinline
func (x *exchange) passWait(c *Conn, req *Request) {
	if x.extras.waited > 0 {
		c.noteWait(req, x.extras.waited)
		x.extras.waited = 0
	}
}

// setHeaderTimeout sets the time until the response's header must come; 0 is no bound.
func (x *exchange) setHeaderTimeout(d time.Duration) {
	if d > 0 {
		x.extras = &exchangeExtras{headerTimeout: d}
	}
}

// headerTimeout returns what setHeaderTimeout has set.
func (x *exchange) headerTimeout() time.Duration {
	if x.extras == nil {
		return 0
	}
	return x.extras.headerTimeout
}

// lost returns the lost attempts. It is nil if extras is.
func (x *exchange) lost() *lostTries {
	if x.extras == nil {
		return nil
	}
	return &x.extras.lost
}

// newExchange returns the exchange for req. If req cannot be sent in HTTP/2, or the function of
// WithRequest does not return, the body is closed.
func newExchange(req *http.Request, disableCompression bool) (*exchange, error) {
	x := exchanges.Get().(*exchange)
	x.httpReq, x.stream.response.borrowed = req, true
	if err := x.req.fromHTTP(req); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	if disableCompression {
		x.req.omitted[defaultAcceptEncodingField] = true
	}
	x.closeConn = req.Close || syntax.EqualFold(firstValue(req.Header, "Connection"), "close")
	if req.Body != nil && req.Body != http.NoBody {
		x.body = &requestBody{in: req.Body}
	}
	x.inMemory = x.req.Body != nil
	if f, ok := req.Context().Value(requestKey{}).(func(*Request)); ok {
		x.amend(f)
	}
	x.trace = traceOf(req.Context())
	if x.trace.wantsInterims() {
		x.req.Informational = bothInformational(x.trace.informational, x.req.Informational)
	}
	return x, nil
}

// attempt makes one attempt on c. If a hook panics, endUnlessReturned ends the attempt.
func (x *exchange) attempt(c *Conn, slot slotMode) (*http.Response, error) {
	s, req, err := x.beginAttempt(c, slot)
	if err != nil {
		return nil, err
	}
	var resp *Response
	if o := (opening{req: req, slot: slot}); x.takesOneStep() {
		resp, err = c.openAndWait(x.httpReq.Context(), s, o)
	} else {
		resp, err = x.sendInSteps(c, s, o)
	}
	return x.endAttempt(c, s, resp, err)
}

// beginAttempt returns the stream and the request of an attempt on c.
func (x *exchange) beginAttempt(c *Conn, slot slotMode) (*Stream, *Request, error) {
	req, s := &x.req, &x.stream
	if x.state != notTried { // the last attempt's may still be in use
		again := x.req
		req, s = &again, &Stream{response: Response{borrowed: true}}
	}
	x.state = max(x.state, tried)
	if x.body != nil && x.route != oneConn {
		if err := c.awaitSettings(x.httpReq.Context(), req.cancel(), slot); err != nil {
			return nil, nil, err
		}
	}
	if x.body != nil && !x.inMemory {
		req.Body = x.body.lend()
	}
	if x.trace != nil {
		x.trace.stream = s
	}
	if x.extras != nil {
		x.passWait(c, req)
	}
	return s, req, nil
}

// endAttempt ends an attempt on c that has a response, or failed with err. It is a separate
// function so that its variables take no stack space while the request waits.
//
//go:noinline
func (x *exchange) endAttempt(c *Conn, s *Stream, resp *Response, err error) (*http.Response, error) {
	if err != nil {
		return nil, x.tryFailed(c, s, err)
	}
	return x.accept(s, resp)
}

// accept ends an attempt that has a response.
func (x *exchange) accept(s *Stream, resp *Response) (*http.Response, error) {
	if x.route == sharedConn && x.misdirected(s, resp) {
		return nil, errMisdirected
	}
	if x.trace != nil {
		x.trace.firstByte()
	}
	x.consumeMemory()
	x.body.answered()
	x.answer = &httpResponse{}
	if s == &x.stream && x.body == nil && x.trace == nil && resp.decoded == nil {
		x.answer.lend(x, resp)
	}
	return x.answer.from(resp, x.httpReq), nil
}

// tryFailed ends an attempt on c that failed with err, and returns the error for the next step.
// That is errNoSlot if nothing was sent and another connection can be used. A connection that ended
// before its first request counts as an attempt: the host may end all others in the same way.
func (x *exchange) tryFailed(c *Conn, s *Stream, err error) error {
	switch {
	case s.id > 0:
		x.state = tried
		if s.hasBegun() {
			x.state = responseBegan
		}
		s.abandon(err)
	// Nothing was sent, and another connection can be used.
	case x.route != oneConn && (err == ErrClosed || Retryable(err)) && c.wasUsed():
		return errNoSlot
	}
	return err
}

// takesOneStep reports whether a stream can be opened and wait for its response in one step: no
// hook, header timeout or last request needs the steps between.
func (x *exchange) takesOneStep() bool {
	return x.trace == nil && x.headerTimeout() == 0 && !x.closeConn && !x.mayStall()
}

// sendInSteps is openAndWait in separate steps: it opens the stream, calls the hooks, and waits.
func (x *exchange) sendInSteps(c *Conn, s *Stream, o opening) (*Response, error) {
	ctx, got := x.httpReq.Context(), x.trace.connInfo(c)
	if err := c.openStream(ctx, s, o); err != nil {
		return nil, err
	}
	if x.closeConn {
		c.drain(ReasonRequest)
	}
	if x.trace != nil {
		x.trace.opened(ctx, s, got)
	}
	return x.response(ctx, s)
}

// response waits for the response of s, for at most headerTimeout after the end of the request.
func (x *exchange) response(ctx context.Context, s *Stream) (*Response, error) {
	switch {
	case x.mayStall():
		return x.handshakeResponse(ctx, s)
	case x.headerTimeout() == 0:
		return s.Response(ctx)
	}
	for {
		sending := s.sending() && !s.req.opensTunnel()
		resp, err, late := s.responseWithin(ctx, x.headerTimeout())
		switch {
		case !late:
			return resp, err
		// The request had been sent before this wait began, so the wait was as long as the timeout.
		case !sending:
			return nil, errHeaderTimeout
		}
	}
}

// responseWithin waits for the response for at most d. late reports whether d has passed.
func (s *Stream) responseWithin(ctx context.Context, d time.Duration) (resp *Response, err error, late bool) {
	waiting, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	resp, err = s.Response(waiting)
	return resp, err, err != nil && waiting.Err() == context.DeadlineExceeded && ctx.Err() == nil &&
		errors.Is(err, context.DeadlineExceeded)
}

// errHeaderTimeout is the error of a request that waited for its response's header for longer than
// ResponseHeaderTimeout.
var errHeaderTimeout = &WaitError{Err: os.ErrDeadlineExceeded, goal: forHeader}

// consumeMemory leaves a body in memory as if it had been read. Its bytes were sent without reading
// them. Its owner may then use it again.
func (x *exchange) consumeMemory() {
	switch b := x.req.Body.(type) {
	case *bytes.Buffer:
		b.Next(b.Len())
	case *bytes.Reader:
		b.Seek(0, io.SeekEnd)
	case *strings.Reader:
		b.Seek(0, io.SeekEnd)
	}
}

// errNotReturned is the initial error of a function that calls the user's code. If that code panics
// or ends the goroutine, the error is still errNotReturned when deferred calls run.
var errNotReturned = errors.New("hyper: not returned")

// endUnlessReturned is deferred by such a function. It ends the exchange if *err is still
// errNotReturned.
func (x *exchange) endUnlessReturned(err *error) {
	if *err != errNotReturned {
		return
	}
	switch {
	case x.answer != nil:
		x.answer.own.s.abandon(ErrCanceled)
	case x.trace != nil && x.trace.stream != nil:
		x.trace.stream.abandon(ErrCanceled)
	}
	x.consumeMemory()
	x.body.close()
}

// fail ends the exchange and closes the body. It returns the error that the caller of RoundTrip
// gets for err.
func (x *exchange) fail(err error) error {
	x.consumeMemory()
	x.body.close()
	return httpError(x.httpReq, err)
}

// awaitClientTimeout gives http.Client up to 10 ms to notice that its own Timeout ended req. The
// context has the same deadline as the Client's timer, which closes Request.Cancel. Only after that
// does the Client add "(Client.Timeout exceeded …)" to the error.
func awaitClientTimeout(req *http.Request, err error) {
	//lint:ignore SA1019 http.Client still sets it
	cancel := req.Cancel
	if err != context.DeadlineExceeded || cancel == nil {
		return
	}
	select {
	case <-cancel:
	case <-time.After(10 * time.Millisecond):
	}
}

// canceledError returns the error of req after its Cancel was closed. http.Client closes it when
// its Timeout ends, which is also the deadline of the context. As with net/http, the error is the
// context's then.
func canceledError(req *http.Request) error {
	const late = 10 * time.Millisecond // so much later may the timer of the context fire
	ctx := req.Context()
	if end, ok := ctx.Deadline(); ok && time.Until(end) < late {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(late):
		}
	}
	return errRequestCanceled
}

// httpError returns err in the form that callers of net/http expect. The context's own error and
// dial errors are not wrapped, because callers compare them and check their types. The error of a
// reset stream has net/http's text, because some programs parse it.
func httpError(req *http.Request, err error) error {
	over := req.Context().Err()
	if over == nil || !errors.Is(err, over) {
		over = nil
	}
	awaitClientTimeout(req, over)
	if waited, ok := err.(*WaitError); ok {
		return waited
	}
	if over != nil {
		return over
	}
	if errors.Is(err, errRequestCanceled) {
		return canceledError(req)
	}
	switch err := err.(type) {
	case *StreamError:
		return err.asInNetHTTP()
	case *ConnError:
		return err.asInNetHTTP()
	case *DialError:
		return err.forHTTP()
	}
	return err
}
