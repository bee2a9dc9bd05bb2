package hyper

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A reuseCase is an exchange on a connection, which ends in its own way.
type reuseCase struct {
	cfg    Config
	ctx    func(context.Context) context.Context // nil: the context as it is
	req    func(*http.Request)                   // nil: the request as it is
	answer func(p *h2test.Peer, id uint32)       // nil: a body of 5 bytes
	rest   func(p *h2test.Peer, id uint32)       // after RoundTrip has returned; nil: nothing
	late   func(c *Conn, s *Stream)              // with the lock held, before the body is read
	read   int                                   // of the body; 0: all of it
	reused bool
}

// answerTrailers ends a response with trailers.
func answerTrailers(p *h2test.Peer, id uint32) {
	p.WriteHeaders(id, 0, ":status: 200")
	p.WriteData(id, 0, []byte("hello"))
	p.WriteHeaders(id, wire.EndStream, "a: 1")
}

// The memory of an exchange is used again if its response was read to the end and closed, and if
// nothing refers to the exchange. A reason against that is enough.
func TestMemoryOfAnExchangeIsReusedOnlyIfUnreferenced(t *testing.T) {
	for name, test := range map[string]reuseCase{
		"a body":                   {reused: true},
		"a known size":             {reused: true, read: 5, answer: answerSized},
		"no body":                  {reused: true, answer: h2test.AnswerEmpty},
		"a context without an end": {reused: true, ctx: context.WithoutCancel},
		"a watched context": {reused: true,
			answer: func(p *h2test.Peer, id uint32) { p.WriteHeaders(id, 0, ":status: 200") },
			rest:   func(p *h2test.Peer, id uint32) { p.WriteData(id, wire.EndStream, []byte("hello")) }},
		"a HEAD request": {reused: true, answer: h2test.AnswerEmpty,
			req: func(req *http.Request) { req.Method = "HEAD" }},
		"closed early":     {read: 3},
		"trailers":         {answer: answerTrailers},
		"a request's body": {req: func(req *http.Request) { req.Body = io.NopCloser(strings.NewReader("")) }},
		"Cancel": {req: func(req *http.Request) {
			//lint:ignore SA1019 http.Client still sets it
			req.Cancel = make(chan struct{})
		}},
		"an httptrace": {ctx: func(ctx context.Context) context.Context {
			return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotFirstResponseByte: func() {}})
		}},
		"WithResponse": {ctx: func(ctx context.Context) context.Context {
			return WithResponse(ctx, func(*Response) {})
		}},
		"a trace":          {cfg: Config{Trace: func(TraceEvent) {}}},
		"times":            {cfg: Config{StreamTimes: true}},
		"a window manager": {cfg: Config{WindowManager: giveBack}},
		"a content coding": {answer: func(p *h2test.Peer, id uint32) {
			p.WriteHeaders(id, 0, ":status: 200", "content-encoding: gzip")
			p.WriteData(id, wire.EndStream, h2test.Gzip([]byte("hello")))
		}},
		"a late end of the context": {late: func(_ *Conn, s *Stream) { s.stop = stoppedLate }},
		"a wake-up":                 {late: func(_ *Conn, s *Stream) { s.wakeDue = true }},
		"a WINDOW_UPDATE":           {late: func(_ *Conn, s *Stream) { s.window.pending = 1 }},
		"a timer":                   {late: func(_ *Conn, s *Stream) { s.deadlinesLocked() }},
		"a PING for its round trip": {late: func(c *Conn, s *Stream) {
			c.liveness.pings = append(c.liveness.pings, &ping{prober: &s.window})
		}},
		"another PING": {reused: true, late: func(c *Conn, s *Stream) {
			c.liveness.pings = append(c.liveness.pings, &ping{prober: &c.flow.window})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &test.cfg)
				body := test.exchange(t, peer, conn)
				conn.lock()
				conn.liveness.pings = nil
				conn.unlock()
				if reused := body.use.Load()&useGone != 0; reused != test.reused {
					t.Errorf("reused: %v", reused)
				}
				if n, err := body.Read(make([]byte, 1)); n != 0 || err != http.ErrBodyReadAfterClose {
					t.Errorf("read later: %d, %v", n, err)
				}
				if err := body.Close(); err != nil {
					t.Error(err)
				}
				if calls := body.use.Load() / useCall; calls != 0 {
					t.Errorf("%d calls in progress", calls)
				}
			})
		})
	}
}

// answerHello sends a response with a body.
func answerHello(p *h2test.Peer, id uint32) {
	p.WriteHeaders(id, 0, ":status: 200")
	p.WriteData(id, wire.EndStream, []byte("hello"))
}

// answerSized sends a response with a content-length.
func answerSized(p *h2test.Peer, id uint32) {
	p.WriteHeaders(id, 0, ":status: 200", "content-length: 5")
	p.WriteData(id, wire.EndStream, []byte("hello"))
}

// exchange performs the exchange, and returns the body, which was closed.
func (r *reuseCase) exchange(t *testing.T, peer *h2test.Peer, conn *Conn) *httpBody {
	ctx := t.Context()
	if r.ctx != nil {
		ctx = r.ctx(ctx)
	}
	req, err := http.NewRequestWithContext(ctx, "GET", "https://example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.req != nil {
		r.req(req)
	}
	call := h2test.Go(func() (*http.Response, error) { return conn.RoundTrip(req) })
	peer.WantHeaders("the request", 1)
	if r.answer == nil {
		r.answer = answerHello
	}
	r.answer(peer, 1)
	resp := call.Want(t, "the response")
	if r.rest != nil {
		r.rest(peer, 1)
	}
	synctest.Wait()
	body := resp.Body.(*httpBody)
	if r.late != nil {
		conn.lock()
		r.late(conn, body.own.s)
		conn.unlock()
	}
	if r.read > 0 {
		_, err = io.ReadFull(body, make([]byte, r.read))
	} else {
		_, err = io.ReadAll(body)
	}
	if err != nil {
		t.Error(err)
	}
	body.Close()
	return body
}

// A watch over a context that has begun to end the stream still refers to it.
func TestWatchThatFiresLateKeepsTheMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		s, err := conn.Open(ctx, &Request{})
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the request", 1)
		conn.lock()
		cancel() // its function is blocked by the lock
		s.unwatchLocked()
		if s.stop == nil || s.isUnreferencedLocked() {
			t.Error("the watch is forgotten")
		}
		conn.unlock()
		s.Reset(ErrCodeCancel)
	})
}

// While a call uses the response, its memory is not used again, although the body was closed.
func TestCallInProgressKeepsTheMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		req, _ := http.NewRequest("GET", "https://example.com/", nil)
		call := h2test.Go(func() (*http.Response, error) { return conn.RoundTrip(req) })
		peer.WantHeaders("the request", 1)
		answerHello(peer, 1)
		body := call.Want(t, "the response").Body.(*httpBody)
		h := (*httpResponse)(body)
		h.enter()
		io.ReadAll(body)
		body.Close()
		if h.use.Load()&useGone != 0 || h.own.s.id != 1 {
			t.Error("given up during a call")
		}
		h.leave()
		if h.use.Load()&useGone == 0 || h.own != nil || h.memory != nil {
			t.Error("not given up after the last call")
		}
	})
}
