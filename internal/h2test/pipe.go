package h2test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Pipe returns the two ends of a connection in memory. Writes are buffered without bound, so they
// return at once, until [Conn.SetWriteBuffer] says otherwise.
func Pipe() (client, server *Conn) {
	up, down := newLane(), newLane()
	client = &Conn{in: down, out: up, local: clientAddr, remote: serverAddr}
	server = &Conn{in: up, out: down, local: serverAddr, remote: clientAddr}
	return client, server
}

var ( // of the blocks for documentation, RFC 5737
	clientAddr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 50000}
	serverAddr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 443}
)

// A Conn is one end of a [Pipe]: a net.Conn that behaves like TCP, can be told to fail or to
// stop at any octet, and counts. Reading, writing, deadlines, Close and all controls may be used
// by any goroutine at any time, also while a Read or Write is blocked. Blocking is durable in
// the sense of testing/synctest.
//
// After Close the other end reads what was buffered and then io.EOF; its writes fail with
// syscall.EPIPE.
type Conn struct {
	in, out       *lane
	local, remote net.Addr
}

func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	return n, c.opError("read", err)
}

func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	return n, c.opError("write", err)
}

// Close ends both directions. What is blocked on this end returns net.ErrClosed.
func (c *Conn) Close() error {
	err := c.in.close(&c.in.r)
	c.out.close(&c.out.w)
	return c.opError("close", err)
}

// CloseWrite ends the writing direction only: the other end reads io.EOF.
func (c *Conn) CloseWrite() error { return c.opError("close", c.out.close(&c.out.w)) }

func (c *Conn) LocalAddr() net.Addr  { return c.local }
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.opError("set", c.in.setDeadline(&c.in.r, t))
}

func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.opError("set", c.out.setDeadline(&c.out.w, t))
}

// SetWriteBuffer bounds the octets that this end may have written and the other end not read;
// writers block beyond it. 0 accepts nothing, a negative n everything.
func (c *Conn) SetWriteBuffer(n int) { c.out.locked(func() { c.out.bound = n }) }

// Stall stops this end from reading: its Reads block, whatever has arrived, until Resume. The
// other end's writes block as soon as its write buffer is full.
func (c *Conn) Stall() { c.in.locked(func() { c.in.r.stalled = true }) }

// Resume ends a Stall.
func (c *Conn) Resume() { c.in.locked(func() { c.in.r.stalled = false }) }

// SetChunk makes every Read return at most n octets, and passes on what Write is given in pieces
// of at most n, between which other goroutines may run. 0 is no limit.
func (c *Conn) SetChunk(n int) {
	c.in.locked(func() { c.in.r.chunk = n })
	c.out.locked(func() { c.out.w.chunk = n })
}

// BreakReadAfter lets this end read n octets more, after which every Read fails with err, which
// may be io.EOF. If err is nil Reads block instead, until Close or a deadline.
func (c *Conn) BreakReadAfter(n int64, err error) { c.in.locked(func() { c.in.r.breakAfter(n, err) }) }

// BreakWriteAfter lets this end write n octets more, after which every Write fails with err. A
// Write that crosses the boundary reports what was accepted, and that much arrives. If err is nil
// Writes block instead, until Close or a deadline.
func (c *Conn) BreakWriteAfter(n int64, err error) {
	c.out.locked(func() { c.out.w.breakAfter(n, err) })
}

// Reads counts the calls of Read so far, blocked and failed ones included.
func (c *Conn) Reads() (n int) { c.in.locked(func() { n = c.in.r.calls }); return }

// Writes counts the calls of Write so far, blocked and failed ones included.
func (c *Conn) Writes() (n int) { c.out.locked(func() { n = c.out.w.calls }); return }

// OctetsRead counts what Reads have returned.
func (c *Conn) OctetsRead() (n int64) { c.in.locked(func() { n = c.in.r.octets }); return }

// OctetsWritten counts what Writes have accepted.
func (c *Conn) OctetsWritten() (n int64) { c.out.locked(func() { n = c.out.w.octets }); return }

// LogWrites begins to keep a copy of what each Write is given.
func (c *Conn) LogWrites() { c.out.locked(func() { c.out.log = [][]byte{} }) }

// WriteLog returns what each Write was given since LogWrites.
func (c *Conn) WriteLog() (log [][]byte) {
	c.out.locked(func() { log = append(log, c.out.log...) })
	return log
}

// opError dresses err as package net does. io.EOF stays bare, as io.Reader demands.
func (c *Conn) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// A lane is one direction of a Pipe.
type lane struct {
	mu    sync.Mutex // guards everything below; never held while blocked
	wake  sync.Cond  // broadcast on every change
	buf   bytes.Buffer
	bound int      // of buf; negative for none
	log   [][]byte // nil: not kept
	r, w  side
}

// A side is the reader's or the writer's part in a lane.
type side struct {
	closed   bool
	stalled  bool
	expired  bool // deadline has passed
	deadline time.Time
	timer    *time.Timer // sets expired
	chunk    int         // the most octets at a time; 0 for any
	left     int64       // octets until the break; negative for no break
	breakErr error       // what comes then; nil for nothing, ever
	calls    int
	octets   int64
}

func newLane() *lane {
	l := &lane{bound: -1, r: side{left: -1}, w: side{left: -1}}
	l.wake.L = &l.mu
	return l
}

func (l *lane) locked(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	l.wake.Broadcast()
}

func (l *lane) read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.r.calls++
	for {
		n, err := l.r.admit(len(p))
		if err != nil || len(p) == 0 {
			return 0, err
		}
		switch {
		case n > 0 && l.buf.Len() > 0:
			n, _ = l.buf.Read(p[:n])
			l.r.count(n)
			l.wake.Broadcast()
			return n, nil
		case n > 0 && l.w.closed:
			return 0, io.EOF
		}
		l.wake.Wait()
	}
}

func (l *lane) write(p []byte) (done int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.w.calls++
	if l.log != nil {
		l.log = append(l.log, bytes.Clone(p))
	}
	for {
		n, err := l.w.admit(len(p) - done)
		switch {
		case err != nil:
			return done, err
		case len(p) == 0:
			return 0, nil
		case n > 0 && l.r.closed:
			return done, syscall.EPIPE
		}
		if l.bound >= 0 {
			n = min(n, l.bound-l.buf.Len())
		}
		if n <= 0 {
			l.wake.Wait()
			continue
		}
		l.buf.Write(p[done : done+n])
		done += n
		l.w.count(n)
		l.wake.Broadcast()
		if done == len(p) {
			return done, nil
		}
		l.mu.Unlock()
		runtime.Gosched()
		l.mu.Lock()
	}
}

func (l *lane) close(s *side) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.closed = true
	s.stopTimer()
	l.wake.Broadcast()
	return nil
}

func (l *lane) setDeadline(s *side, t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.stopTimer()
	s.deadline, s.expired = t, false
	if !t.IsZero() {
		if d := time.Until(t); d <= 0 {
			s.expired = true
		} else {
			s.timer = time.AfterFunc(d, func() { l.expire(s, t) })
		}
	}
	l.wake.Broadcast()
	return nil
}

func (l *lane) expire(s *side, t time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.deadline.Equal(t) { // it may have been moved as the timer fired
		s.expired = true
		l.wake.Broadcast()
	}
}

// admit says how many of n octets may pass now; 0 without an error is to wait.
func (s *side) admit(n int) (int, error) {
	switch {
	case s.closed:
		return 0, net.ErrClosed
	case s.expired:
		return 0, os.ErrDeadlineExceeded
	case s.left == 0:
		return 0, s.breakErr
	case s.stalled:
		return 0, nil
	}
	if s.left > 0 {
		n = int(min(int64(n), s.left))
	}
	if s.chunk > 0 {
		n = min(n, s.chunk)
	}
	return n, nil
}

func (s *side) count(n int) {
	s.octets += int64(n)
	if s.left > 0 {
		s.left -= int64(n)
	}
}

func (s *side) breakAfter(n int64, err error) { s.left, s.breakErr = max(n, 0), err }

func (s *side) stopTimer() {
	if s.timer != nil {
		s.timer.Stop()
	}
}
