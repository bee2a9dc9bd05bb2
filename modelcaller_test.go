// This file holds the callers of TestModel.

package hyper

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"time"

	"gohyper.dev/hyper/internal/wire"
)

// A modelCaller is a goroutine that makes one exchange.
type modelCaller struct {
	m   *modelRun
	e   *modelExchange
	ctx context.Context
	r   *rand.Rand

	memory *modelMemory // nil: the exchange has memory of its own
}

// A modelMemory is a Caller, and the stream of the last exchange that has used it.
type modelMemory struct {
	Caller
	last *Stream
}

// takeMemory returns a Caller that no other goroutine uses.
func (m *modelRun) takeMemory() *modelMemory {
	m.callersMu.Lock()
	defer m.callersMu.Unlock()
	if n := len(m.callers); n > 0 {
		last := m.callers[n-1]
		m.callers = m.callers[:n-1]
		return last
	}
	return &modelMemory{Caller: Caller{Conn: m.conn}}
}

// giveMemory gives back a Caller.
func (m *modelRun) giveMemory(k *modelMemory) {
	m.callersMu.Lock()
	m.callers = append(m.callers, k)
	m.callersMu.Unlock()
}

// do is Do of the connection or of the Caller.
func (c *modelCaller) do(req *Request) (*Response, error) {
	call, reused := c.m.conn.Do, false
	if c.memory != nil {
		call, reused = c.memory.Do, c.memory.next != nil
	}
	resp, err := call(c.ctx, req)
	if err == nil {
		c.begun(resp.s, reused)
	}
	return resp, err
}

// open is Open of the connection or of the Caller.
func (c *modelCaller) open(req *Request) (*Stream, error) {
	call, reused := c.m.conn.Open, false
	if c.memory != nil {
		call, reused = c.memory.Open, c.memory.next != nil
	}
	s, err := call(c.ctx, req)
	if err == nil {
		c.begun(s, reused)
	}
	return s, err
}

// begun shows the stream of an exchange that has begun to the auditor. It may use the exchange of
// the Caller before that, if its memory is free. Without such a use, the memory serves the exchange
// after this one.
func (c *modelCaller) begun(now *Stream, reused bool) {
	c.m.conn.lock()
	c.m.auditor.streams[now.id] = now
	c.m.conn.unlock()
	if reused {
		c.m.sum.reused.Add(1)
	}
	k := c.memory
	if k == nil {
		return
	}
	s := k.last
	if k.last = now; s == nil || s.memory.used || !c.chance(4) {
		return
	}
	c.m.sum.misused.Add(1)
	err := ErrReused
	switch c.r.IntN(6) {
	case 0:
		_, err = s.response.Body.Read(make([]byte, 10))
	case 1:
		err = s.response.Body.Close()
	case 2:
		_, err = s.Write([]byte("wrong"))
	case 3:
		err = s.CloseWrite()
	case 4:
		_, err = s.Response(c.ctx)
	default:
		s.Reset(ErrCodeCancel)
	}
	if err != ErrReused {
		c.m.errorf("exchange %d: a use of the exchange before it returned %v", c.e.n, err)
	}
}

func (c *modelCaller) chance(n int) bool { return c.r.IntN(n) == 0 }

// pause lets other goroutines run in between.
func (c *modelCaller) pause() {
	switch c.r.IntN(12) {
	case 0:
		time.Sleep(time.Duration(c.r.IntN(30)) * time.Millisecond)
	case 1, 2:
		runtime.Gosched()
	}
}

// modelBody is a request body that arrives in random pieces with pauses.
type modelBody struct {
	c     *modelCaller
	at, n int64
}

func (b *modelBody) Read(p []byte) (int, error) {
	b.c.m.did()
	b.c.pause()
	n := int(min(int64(len(p)), b.n-b.at))
	if n > 1 && b.c.chance(2) {
		n = 1 + b.c.r.IntN(n)
	}
	copy(p, octetsAt(b.c.e.key, b.at, n))
	if b.at += int64(n); b.at == b.n && (n == 0 || b.c.chance(2)) {
		return n, io.EOF
	}
	return n, nil
}

// exchange sends a request in one of many ways, and reads all or a part of the response.
func (c *modelCaller) exchange() {
	m, e := c.m, c.e
	m.did()
	n := int64(0)
	switch c.r.IntN(4) {
	case 0:
		n = c.r.Int64N(3000)
	case 1:
		n = c.r.Int64N(100_000)
	}
	req := &Request{Method: "POST", Path: "/" + strconv.Itoa(e.n), Header: Header{
		{Name: "x-n", Value: strconv.Itoa(e.n)},
		{Name: "x-filler", Value: strings.Repeat("g", c.r.IntN(80)), Sensitive: c.chance(3)},
	}}
	if c.chance(4) {
		req.Informational = func(status int, header Header) error {
			m.did()
			if header.Get("x-n") != strconv.Itoa(e.n) {
				m.errorf("exchange %d: an interim response to %s", e.n, header.Get("x-n"))
			}
			return nil
		}
	}
	trailed := c.chance(4)
	kind := c.r.IntN(6)
	if kind <= 1 {
		n, trailed, req.Method = 0, false, []string{"GET", "HEAD"}[c.r.IntN(2)]
	}
	req.Header.Add("x-upload", strconv.FormatInt(n, 10))
	if trailed {
		req.Header.Add("x-trailed", "yes")
		req.Trailer = Header{{Name: "x-sum", Value: strconv.Itoa(e.n)}}
	}
	switch kind {
	case 2:
		req.Body = bytes.NewReader(octetsAt(e.key, 0, int(n)))
	case 3, 4:
		body := &modelBody{c: &modelCaller{m: m, e: e, r: rand.New(rand.NewPCG(m.seed, uint64(e.n)<<32))},
			n: n}
		req.Body = body
		if c.chance(2) && n > 0 {
			req.ContentLength = n
		}
		if c.chance(3) {
			req.Header.Add("expect", "100-continue")
		}
	}
	if kind < 5 {
		resp, err := c.do(req)
		if err != nil {
			c.judge("Do", err)
			return
		}
		c.response(resp)
		return
	}
	req.Trailer = nil
	s, err := c.open(req)
	if err != nil {
		c.judge("Open", err)
		return
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		w := &modelCaller{m: m, e: e, r: rand.New(rand.NewPCG(m.seed, uint64(e.n)<<32))}
		w.write(s, n, trailed)
	}()
	resp, err := s.Response(c.ctx)
	if err != nil {
		c.judge("Response", err)
	} else {
		c.response(resp)
	}
	<-written
}

// write sends the body in pieces.
func (c *modelCaller) write(s *Stream, n int64, trailed bool) {
	for at := int64(0); at < n; {
		c.m.did()
		c.pause()
		p := octetsAt(c.e.key, at, 1+c.r.IntN(int(min(n-at, 20_000))))
		k, err := s.Write(p)
		if at += int64(k); err != nil {
			c.judgeWrite(err)
			return
		}
		if k != len(p) {
			c.m.errorf("exchange %d: Write took %d octets of %d", c.e.n, k, len(p))
		}
	}
	var err error
	if trailed {
		err = s.SendTrailers(Header{{Name: "x-sum", Value: strconv.Itoa(c.e.n)}})
	} else {
		err = s.CloseWrite()
	}
	if err != nil {
		c.judgeWrite(err)
	}
}

// response reads the response, and compares it with what its header announced.
func (c *modelCaller) response(resp *Response) {
	m, e := c.m, c.e
	s := resp.Stream()
	if got := resp.Header.Get("x-n"); got != strconv.Itoa(e.n) {
		m.errorf("exchange %d got the response of %s", e.n, got)
		return
	}
	pushes := make(chan struct{})
	if c.chance(2) {
		go func() {
			defer close(pushes)
			c.pushes(resp)
		}()
	} else {
		close(pushes)
	}
	defer func() { <-pushes }()
	length, _ := strconv.ParseInt(resp.Header.Get("x-body"), 10, 64)
	if resp.bodyless() {
		length = 0
	}
	leave := int64(-1) // offset at which the caller stops reading
	if c.chance(8) {
		leave = c.r.Int64N(length + 1)
	}
	buf := make([]byte, 1+c.r.IntN(20_000))
	for at := int64(0); ; {
		m.did()
		c.pause()
		if leave >= 0 && at >= leave {
			e.canceled.Store(true)
			if c.chance(2) {
				resp.Body.Close()
			} else {
				s.Reset(ErrCodeCancel)
			}
			m.sum.broken.Add(1)
			return
		}
		n, err := resp.Body.Read(buf[:1+c.r.IntN(len(buf))])
		if i := differsAt(buf[:n], e.key, at); i >= 0 {
			m.errorf("exchange %d: octet %d is wrong", e.n, at+int64(i))
			return
		}
		if at += int64(n); err == nil {
			continue
		}
		if err != io.EOF {
			c.judge("Read", err)
			return
		}
		if at != length {
			m.errorf("exchange %d: io.EOF after %d octets of %d", e.n, at, length)
		}
		trailer := ""
		if resp.Header.Get("x-trailed") != "" {
			trailer = strconv.Itoa(e.n)
		}
		if got := resp.Trailer().Get("x-sum"); got != trailer {
			m.errorf("exchange %d: the trailer is %q, want %q", e.n, got, trailer)
		}
		m.mu.Lock()
		if p := m.seen[e.n]; p == nil || !p.sentEnd {
			m.errorf("exchange %d: io.EOF, and the peer did not end it", e.n)
		}
		m.mu.Unlock()
		m.sum.whole.Add(1)
		return
	}
}

// pushes takes the promised pushes. It cancels some and reads the others.
func (c *modelCaller) pushes(resp *Response) {
	m := c.m
	r := rand.New(rand.NewPCG(m.seed, uint64(c.e.n)<<33))
	for push, err := range resp.Pushes(c.ctx) {
		if err != nil {
			c.judge("Pushes", err)
			return
		}
		m.did()
		n, _ := strconv.Atoi(strings.TrimPrefix(push.Request.Path, "/"))
		e := &modelExchange{n: n, key: uint32(n)}
		if r.IntN(4) == 0 {
			push.Cancel()
			continue
		}
		p := &modelCaller{m: m, e: e, ctx: context.Background(),
			r: rand.New(rand.NewPCG(m.seed, uint64(2+n)))}
		m.running.Add(1)
		go func() {
			defer m.running.Add(-1)
			resp, err := push.Response(p.ctx)
			if err != nil {
				p.judge("Push.Response", err)
				return
			}
			p.response(resp)
		}()
	}
}

// judge looks for the cause of an error on the other side.
func (c *modelCaller) judge(call string, err error) {
	m, e := c.m, c.e
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.seen[e.n]
	var se *StreamError
	// A stream above the GOAWAY's last was perhaps never seen by the peer.
	above := errors.As(err, &se) && m.goAway >= 0 && se.StreamID%2 == 1 && int64(se.StreamID) > m.goAway
	refused := above || p != nil && p.sentReset && p.code == wire.RefusedStream
	if call != "Pushes" {
		m.sum.broken.Add(1)
	}
	if Retryable(err) && p != nil && (p.processed || !refused) {
		m.errorf("exchange %d, stream %d: %s: %v is Retryable and the peer has it (processed: %v)", e.n, p.id,
			call, err, p.processed)
	}
	if refused && (p == nil || !p.processed) && !Retryable(err) && !e.canceled.Load() && !m.lost &&
		!m.closed {
		m.errorf("exchange %d: %s: %v is not Retryable and the peer refused it", e.n, call, err)
	}
	if e.canceled.Load() {
		return
	}
	var ce *ConnError
	var lost *PushLostError
	ok := false
	switch {
	case errors.Is(err, ErrClosed):
		ok = m.closed
	case errors.As(err, &lost):
		ok = call == "Pushes" && m.pushMax > 0 && lost.Refused+lost.Dropped > 0
	case se != nil && se.FromPeer:
		ok = p != nil && (p.sentReset && p.early && ErrCode(p.code) == se.Code) || refused
	case errors.As(err, &ce):
		ok = m.lost || m.goAway >= 0
	}
	if !ok {
		m.errorf("exchange %d, the peer's stream %+v: %s: %v has no cause (lost %v, closed %v, GOAWAY %d)",
			e.n, p, call, err, m.lost, m.closed, m.goAway)
	}
}

// judgeWrite is judge for an error of Write. The peer may end a request even if its response is
// complete.
func (c *modelCaller) judgeWrite(err error) {
	m, e := c.m, c.e
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.seen[e.n]
	if e.canceled.Load() || m.lost || m.closed || m.goAway >= 0 || p != nil && p.sentReset {
		return
	}
	m.errorf("exchange %d: Write: %v has no cause", e.n, err)
}
