package hyper

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"gohyper.dev/hyper/internal/syntax"
)

// RoundTrip implements http.RoundTripper on this one connection, whatever host req.URL names: Transport finds the connection
// for that. It never tries twice, and obeys http.RoundTripper's contract:
//
//   - the error is nil whenever the peer answered, whatever the status; redirects, cookies and authentication are the caller's;
//   - req is not changed, but for its Body, which is consumed and, on every path, closed once: before RoundTrip returns an error,
//     unless Close blocks; else when it has been read, or the exchange ends. Until the response's Body is closed, or RoundTrip
//     has returned an error, req and the memory of a *bytes.Reader, *bytes.Buffer or *strings.Reader in it must not be changed.
//     Any other body, and one of a request with a Trailer, is read by another goroutine, where a
//     last Read may still be in progress then;
//   - where req's context or Cancel ends the exchange, its error is returned as it is, or, where the request was waiting for one of
//     the peer's streams, in one that says so; after RoundTrip it ends the reading of the body, too;
//   - httptrace hooks of req's context are called in net/http's order, never under a lock; a panic of one that runs on the
//     caller's goroutine ends the exchange, as an error would, and goes on to the caller;
//   - the reset of a stream reads as it does with net/http; for errors.As it is a *StreamError, and also the StreamError of
//     golang.org/x/net/http2.
//
// Request.Close, and "Connection: close", make this the last request of the connection. FromHTTPResponse leads
// from the answer to the Response behind it.
func (c *Conn) RoundTrip(req *http.Request) (resp *http.Response, err error) {
	mustHave(req != nil, "Conn.RoundTrip", "*http.Request")
	x, err := newExchange(req, false)
	if err != nil {
		return nil, err
	}
	err = errNotReturned
	defer x.endUnlessReturned(&err)
	resp, err = x.on(c, inTurn)
	if err != nil {
		return nil, x.fail(err)
	}
	return resp, nil
}

// errRequestCanceled is what http.Request.Cancel ends a request with.
var errRequestCanceled = errors.New("hyper: request canceled by http.Request.Cancel")

// An exchange is a RoundTrip: an http.Request that becomes one of ours, as often as it takes, and a Response of ours that becomes
// an http.Response. It is one allocation, which fills the runtime's class of 768 octets, and one more where there is a body to send.
type exchange struct {
	in     *http.Request
	out    Request
	body   *requestBody // nil: none
	trace  *clientTrace // nil: nobody looks
	memory bool         // out has the body's octets, and nothing needs to read it
	last   bool         // the connection is not to be used any more
	tried  bool
	roams  bool // another connection can be found for it
	shared bool // the connection was made for another host
	began  bool // the peer began to respond to the last try, which failed

	turnedBack uint8 // how often a connection for HTTP/1.1 spoke HTTP/2 instead

	stream Stream // the first try's
	answer httpResponse

	headerTimeout time.Duration // 0: none
}

// newExchange maps req. If that cannot be done, or WithRequest's function does not return, the body
// is closed.
func newExchange(req *http.Request, disableCompression bool) (*exchange, error) {
	x := &exchange{in: req, stream: Stream{borrows: true}}
	if err := x.out.fromHTTP(req); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	x.out.noAcceptEncoding = x.out.noAcceptEncoding || disableCompression
	x.last = req.Close || syntax.EqualFold(firstValue(req.Header, "Connection"), "close")
	if req.Body != nil && req.Body != http.NoBody {
		x.body = &requestBody{in: req.Body}
	}
	x.memory = x.out.Body != nil
	if f, ok := req.Context().Value(requestKey{}).(func(*Request)); ok {
		x.amend(f)
	}
	x.trace = traceOf(req.Context())
	if x.trace.wantsInterims() {
		x.out.Informational = bothInformational(x.trace.informational, x.out.Informational)
	}
	return x, nil
}

// on makes one try, on c. A hook of the user's may panic: see endUnlessReturned.
func (x *exchange) on(c *Conn, how turn) (*http.Response, error) {
	req, s := &x.out, &x.stream
	if x.tried { // somebody may still look at the last try's
		again := x.out
		req, s = &again, &Stream{borrows: true}
	}
	x.tried = true
	if x.body != nil && x.roams {
		if err := c.awaitSettings(x.in.Context(), req.cancel, how); err != nil {
			return nil, err
		}
	}
	if x.body != nil && !x.memory {
		req.Body = x.body.lend()
	}
	if x.trace != nil {
		x.trace.stream = s
	}
	resp, err := x.ask(c, s, req, how)
	if err != nil {
		return nil, x.tryFailed(s, err)
	}
	return x.accept(s, resp)
}

// accept ends a try with its response. It is a function of its own so that its variables take no
// stack while the request waits.
//
//go:noinline
func (x *exchange) accept(s *Stream, resp *Response) (*http.Response, error) {
	if x.shared && x.misdirected(s, resp) {
		return nil, errMisdirected
	}
	if x.trace != nil {
		x.trace.firstByte()
	}
	x.consumeMemory()
	x.body.answered()
	return x.answer.from(resp, x.in), nil
}

// tryFailed ends a try, and says what to make of it.
func (x *exchange) tryFailed(s *Stream, err error) error {
	switch {
	case s.id > 0:
		x.began = s.hasBegun()
		s.abort(err)
		s.closeRead()
	case x.roams && (err == ErrClosed || Retryable(err)): // nothing was sent, and another connection will do
		return errNoSlot
	}
	return err
}

// ask sends req and waits for its response: in one step, where nobody needs to know of those between.
func (x *exchange) ask(c *Conn, s *Stream, req *Request, how turn) (*Response, error) {
	if x.trace == nil && x.headerTimeout <= 0 && !x.last {
		return c.openAndWait(x.in.Context(), s, req, how)
	}
	return x.askInSteps(x.in.Context(), c, s, req, how)
}

func (x *exchange) askInSteps(ctx context.Context, c *Conn, s *Stream, req *Request, how turn) (*Response, error) {
	got := x.trace.connInfo(c)
	if err := c.openTurn(ctx, s, req, endWithBody, how); err != nil {
		return nil, err
	}
	if x.last {
		c.drain(ReasonRequest)
	}
	if x.trace != nil {
		x.trace.opened(ctx, s, got)
	}
	return x.response(ctx, s)
}

// response waits for the response of s.
func (x *exchange) response(ctx context.Context, s *Stream) (*Response, error) {
	if x.headerTimeout <= 0 {
		return s.Response(ctx)
	}
	for {
		sending := s.sending()
		waiting, cancel := context.WithTimeout(ctx, x.headerTimeout)
		resp, err := s.Response(waiting)
		late := err != nil && waiting.Err() == context.DeadlineExceeded && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded)
		cancel()
		switch {
		case !late:
			return resp, err
		case !sending: // the time runs from the end of the request, and was whole
			return nil, errHeaderTimeout
		}
	}
}

var errHeaderTimeout = &WaitError{Err: os.ErrDeadlineExceeded, header: true}

// consumeMemory does to a reader in memory, whose octets were lent, what reading would have done to it: whoever
// owns it may use it again.
func (x *exchange) consumeMemory() {
	switch b := x.out.Body.(type) {
	case *bytes.Buffer:
		b.Next(b.Len())
	case *bytes.Reader:
		b.Seek(0, io.SeekEnd)
	case *strings.Reader:
		b.Seek(0, io.SeekEnd)
	}
}

// errNotReturned is the error of a function that runs the user's code until it returns one of its
// own: a panic of that code, or the end of the goroutine, leaves it there.
var errNotReturned = errors.New("hyper: not returned")

// endUnlessReturned is deferred by such a function, with the place of its error. It ends the
// exchange as an error would.
func (x *exchange) endUnlessReturned(err *error) {
	if *err != errNotReturned {
		return
	}
	switch {
	case x.answer.own != nil:
		x.answer.own.s.abandon()
	case x.trace != nil && x.trace.stream != nil:
		x.trace.stream.abandon()
	}
	x.consumeMemory()
	x.body.closeWithin(closeGrace)
}

// fail ends the exchange for good: the body is closed. It returns what the caller gets for err.
func (x *exchange) fail(err error) error {
	x.consumeMemory()
	x.body.closeWithin(closeGrace)
	return httpError(x.in, err)
}

// awaitClientTimeout gives http.Client the time to notice that it was its own Timeout that ended
// req. The context has the same deadline as the Client's timer, which closes Request.Cancel; only
// after that does the Client add "(Client.Timeout exceeded …)" to the error.
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

// httpError returns err as callers of net/http know it: ctx's own error, and one of dialling, unwrapped, as they compare and
// look at types; and the reset of a stream in words that some of them read.
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
		return errRequestCanceled
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

// A requestBody is the body of an http.Request, which is lent to one try after another. While nothing of it was read, and no
// try has been answered, the end of a try leaves it as it is for the next. Nil is no body, ready for every try.
type requestBody struct {
	mu    sync.Mutex // never held while reading or closing
	in    io.ReadCloser
	first lentBody

	tries  int32
	read   bool // something was asked of it
	final  bool // a try was answered: there will be no other
	done   bool // the try wants no more of it
	closed bool
}

// A lentBody is the body for one try.
type lentBody struct {
	b   *requestBody
	try int32
}

// lend hands the body to a new try; earlier ones cannot touch it from then on.
func (b *requestBody) lend() *lentBody {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tries++
	b.done = false
	if b.tries == 1 {
		b.first = lentBody{b, 1}
		return &b.first
	}
	return &lentBody{b, b.tries}
}

// rewind makes the body ready for another try: it is as it was, or getBody makes it again.
func (b *requestBody) rewind(getBody func() (io.ReadCloser, error)) error {
	if b.takeBack() {
		return nil
	}
	if getBody == nil {
		return errBodyGone
	}
	again, err := getBody()
	if err != nil {
		return err
	}
	b.replace(again)
	return nil
}

// takeBack ends what the last try can do with the body, and reports whether it is as it was.
func (b *requestBody) takeBack() (asItWas bool) {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tries++
	return !b.read && !b.closed
}

// errBodyGone: a request may be sent again, but its body has been read and there is no GetBody.
var errBodyGone = errors.New("the request's body was read, and GetBody is nil")

// answered: the body is the answered try's alone.
func (b *requestBody) answered() {
	if b == nil {
		return
	}
	b.mu.Lock()
	b.final = true
	done := b.done
	b.mu.Unlock()
	if done {
		b.closeWithin(closeGrace)
	}
}

// closeWithin closes the body for good. A Close that blocks is left to itself after some time.
func (b *requestBody) closeWithin(patience time.Duration) {
	if b == nil {
		return
	}
	b.mu.Lock()
	in, closed := b.in, b.closed
	b.closed = true
	b.mu.Unlock()
	if closed {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		in.Close()
	}()
	select {
	case <-done:
	case <-time.After(patience):
	}
}

func (l *lentBody) Read(p []byte) (int, error) {
	b := l.b
	b.mu.Lock()
	in, over := b.in, l.try != b.tries || b.closed
	b.read = b.read || !over
	b.mu.Unlock()
	if over {
		return 0, errTryOver
	}
	return in.Read(p)
}

var errTryOver = errors.New("hyper: body of a request that is over")

// Close is called by the stream when it wants no more of the body. If it comes too late, the body is another try's.
func (l *lentBody) Close() error {
	b := l.b
	b.mu.Lock()
	mine := l.try == b.tries && !b.closed
	if mine && !b.read && !b.final {
		b.done, mine = true, false
	}
	b.closed = b.closed || mine
	in := b.in
	b.mu.Unlock()
	if !mine {
		return nil
	}
	return in.Close()
}
