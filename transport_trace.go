package hyper

import (
	"context"
	"net/http/httptrace"
	"net/textproto"
	"time"
)

// A clientTrace calls the hooks of net/http/httptrace for one exchange, in net/http's order. They run on RoundTrip's
// goroutine, except WroteRequest of a request with a body, and never under a lock.
type clientTrace struct {
	hooks  *httptrace.ClientTrace
	heard  bool    // GotFirstResponseByte was called
	stream *Stream // of the last try
}

// traceOf returns nil where ctx has no hooks.
func traceOf(ctx context.Context) *clientTrace {
	hooks := httptrace.ContextClientTrace(ctx)
	if hooks == nil {
		return nil
	}
	return &clientTrace{hooks: hooks}
}

// wantsInterims reports whether a hook hears of interim responses. Without one they are dropped as
// they come, and none can be too many.
func (t *clientTrace) wantsInterims() bool {
	return t != nil && (t.hooks.Got1xxResponse != nil || t.hooks.Got100Continue != nil || t.hooks.GotFirstResponseByte != nil)
}

// getConn: a connection to addr is about to be looked for.
func (t *clientTrace) getConn(addr string) {
	if t != nil && t.hooks.GetConn != nil {
		t.hooks.GetConn(addr)
	}
}

// connInfo is what GotConn says of c when the exchange is the next to use it.
func (t *clientTrace) connInfo(c *Conn) (info httptrace.GotConnInfo) {
	if t == nil {
		return info
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	info.Conn = c.nc
	if c.nextID > 1 && len(c.streams) == 0 {
		info.WasIdle, info.IdleTime = true, time.Since(c.start)-c.idleSince
	}
	return info
}

// opened tells of a stream that has its HEADERS among the bytes to write, and of their being written.
func (t *clientTrace) opened(ctx context.Context, s *Stream, info httptrace.GotConnInfo) {
	t.heard = false
	hooks := t.hooks
	info.Reused = s.id > 1 // the first request's stream is 1
	if hooks.GotConn != nil {
		hooks.GotConn(info)
	}
	var p plan
	err := p.make(ctx, s.c, s.req, endWithBody) // as it was: it passed then
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

func (t *clientTrace) wroteRequest(err error) {
	if t.hooks.WroteRequest != nil {
		t.hooks.WroteRequest(httptrace.WroteRequestInfo{Err: err})
	}
}

// fieldFunc is a fieldSink.
type fieldFunc func(name string, values []string)

func (f fieldFunc) field(name, value string, _ bool) { f(name, []string{value}) }

// informational is called for each interim response. An error of the hook's ends the exchange.
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

// firstByte: the response, or an interim one, has begun to come.
func (t *clientTrace) firstByte() {
	if !t.heard && t.hooks.GotFirstResponseByte != nil {
		t.hooks.GotFirstResponseByte()
	}
	t.heard = true
}
