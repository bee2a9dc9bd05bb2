package hyper

import (
	"context"
	"net/http/httptrace"
	"net/textproto"
)

// A clientTrace calls the hooks of net/http/httptrace for one exchange, in the order of net/http.
// They run in RoundTrip's goroutine, except WroteRequest of a request with a body, and never under
// a lock.
type clientTrace struct {
	hooks  *httptrace.ClientTrace
	heard  bool    // GotFirstResponseByte was called
	stream *Stream // of the last attempt
}

// traceOf returns the clientTrace for the hooks of ctx, or nil if there are none.
func traceOf(ctx context.Context) *clientTrace {
	hooks := httptrace.ContextClientTrace(ctx)
	if hooks == nil {
		return nil
	}
	return &clientTrace{hooks: hooks}
}

// wantsInterims reports whether a hook is called for interim responses. If none is, interim
// responses are dropped as they arrive, and their number is not limited.
func (t *clientTrace) wantsInterims() bool {
	return t != nil && (t.hooks.Got1xxResponse != nil || t.hooks.Got100Continue != nil ||
		t.hooks.GotFirstResponseByte != nil)
}

// getConn calls GetConn before a connection to addr is chosen.
func (t *clientTrace) getConn(addr string) {
	if t != nil && t.hooks.GetConn != nil {
		t.hooks.GetConn(addr)
	}
}

// connInfo returns what GotConn reports of c if the exchange is the next to use it.
func (t *clientTrace) connInfo(c *Conn) (info httptrace.GotConnInfo) {
	if t == nil {
		return info
	}
	c.lock()
	defer c.unlock()
	info.Conn = c.socket.nc
	if c.streams.nextID > 1 && len(c.streams.byID) == 0 {
		info.WasIdle, info.IdleTime = true, c.clock()-c.streams.idleSince
	}
	return info
}

// opened calls the hooks for a stream whose HEADERS were queued for writing, and waits until they
// are written.
func (t *clientTrace) opened(ctx context.Context, s *Stream, info httptrace.GotConnInfo) {
	t.heard = false
	hooks := t.hooks
	info.Reused = s.id > 1 // the first request's stream is 1
	if hooks.GotConn != nil {
		hooks.GotConn(info)
	}
	var p preparedRequest
	again := *s.req
	again.Framing = nil                              // Encode was called for each field already
	err := p.prepare(ctx, s.c, opening{req: &again}) // the same arguments passed this check before
	if err == nil && hooks.WroteHeaderField != nil {
		p.write(fieldFunc(hooks.WroteHeaderField))
	}
	if err := s.waitHeadersSent(ctx); err != nil {
		t.wroteRequest(err)
		return
	}
	if hooks.WroteHeaders != nil {
		hooks.WroteHeaders()
	}
	if p.expect && hooks.Wait100Continue != nil {
		hooks.Wait100Continue()
	}
	switch {
	case hooks.WroteRequest == nil:
	case s.req.Body == nil:
		t.wroteRequest(nil)
	default:
		go func() { t.wroteRequest(s.waitSent()) }()
	}
}

// wroteRequest calls WroteRequest.
func (t *clientTrace) wroteRequest(err error) {
	if t.hooks.WroteRequest != nil {
		t.hooks.WroteRequest(httptrace.WroteRequestInfo{Err: err})
	}
}

// A fieldFunc is a function that is used as a fieldSink.
type fieldFunc func(name string, values []string)

// Field implements fieldSink.
func (f fieldFunc) Field(name, value string, _ bool) { f(name, []string{value}) }

// informational calls the hooks for an interim response. An error of a hook ends the exchange.
func (t *clientTrace) informational(status int, header Header) error {
	t.firstByte()
	if t.hooks.Got1xxResponse != nil {
		if err := t.hooks.Got1xxResponse(status, textproto.MIMEHeader(header.HTTP())); err != nil {
			return err
		}
	}
	if status == 100 && t.hooks.Got100Continue != nil {
		t.hooks.Got100Continue()
	}
	return nil
}

// firstByte calls GotFirstResponseByte, once, when the response or an interim response has begun to
// arrive.
func (t *clientTrace) firstByte() {
	if !t.heard && t.hooks.GotFirstResponseByte != nil {
		t.hooks.GotFirstResponseByte()
	}
	t.heard = true
}
