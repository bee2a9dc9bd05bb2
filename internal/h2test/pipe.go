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

// Pipe returns the two ends of a connection in memory. Its buffers have no limit, so writes return
// at once, unless [Conn.SetWriteBuffer] sets a limit.
func Pipe() (client, server *Conn) {
	up, down := newLane(), newLane()
	client = &Conn{in: down, out: up, local: clientAddr, remote: serverAddr}
	server = &Conn{in: up, out: down, local: serverAddr, remote: clientAddr}
	return client, server
}

// The addresses of the ends, from the blocks for documentation (RFC 5737).
var (
	clientAddr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 50000}
	serverAddr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 443}
)

// A Conn is one end of a [Pipe]: a net.Conn that behaves like TCP. It can be told to fail or to
// stop at any byte, and it counts calls and bytes. All its methods may be called by any goroutine
// at any time, also while a Read or Write is blocked. Blocking is durable in the sense of
// testing/synctest.
//
// After Close, the other end can read what was buffered and then gets io.EOF; its writes fail with
// syscall.EPIPE.
type Conn struct {
	in, out       *lane
	local, remote net.Addr
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	return n, c.opError("read", err)
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	return n, c.opError("write", err)
}

// Close closes both directions. A call that is blocked on this end returns net.ErrClosed.
func (c *Conn) Close() error {
	err := c.in.close(&c.in.r)
	c.out.close(&c.out.w)
	return c.opError("close", err)
}

// CloseWrite closes the direction in which this end writes: the other end reads io.EOF.
func (c *Conn) CloseWrite() error { return c.opError("close", c.out.close(&c.out.w)) }

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.opError("set", c.in.setDeadline(&c.in.r, t))
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.opError("set", c.out.setDeadline(&c.out.w, t))
}

// SetWriteBuffer limits the bytes that this end has written and the other end has not read. Writes
// beyond it block. With n = 0 every write blocks; a negative n means no limit.
func (c *Conn) SetWriteBuffer(n int) { c.out.locked(func() { c.out.bound = n }) }

// Stall makes the Reads of this end block until Resume, even if data has arrived. The other end's
// writes block when its write buffer is full.
func (c *Conn) Stall() { c.in.locked(func() { c.in.r.stalled = true }) }

// Resume ends the effect of Stall.
func (c *Conn) Resume() { c.in.locked(func() { c.in.r.stalled = false }) }

// SetChunk makes every Read return at most n bytes. It also divides what Write is given into pieces
// of at most n bytes, and lets other goroutines run between them. 0 is no limit.
func (c *Conn) SetChunk(n int) {
	c.in.locked(func() { c.in.r.chunk = n })
	c.out.locked(func() { c.out.w.chunk = n })
}

// BreakReadAfter lets this end read n more bytes. After them every Read fails with err, which may
// be io.EOF. If err is nil, Reads block instead, until Close or a deadline.
func (c *Conn) BreakReadAfter(n int64, err error) { c.in.locked(func() { c.in.r.breakAfter(n, err) }) }

// BreakWriteAfter lets this end write n more bytes. After them every Write fails with err. A Write
// that crosses this limit returns how much was accepted, and that much arrives. If err is nil,
// Writes block instead, until Close or a deadline.
func (c *Conn) BreakWriteAfter(n int64, err error) {
	c.out.locked(func() { c.out.w.breakAfter(n, err) })
}

// Reads returns the number of calls of Read so far, including blocked and failed ones.
func (c *Conn) Reads() (n int) { c.in.locked(func() { n = c.in.r.calls }); return }

// Writes returns the number of calls of Write so far, including blocked and failed ones.
func (c *Conn) Writes() (n int) { c.out.locked(func() { n = c.out.w.calls }); return }

// OctetsRead returns the number of bytes that Reads have returned.
func (c *Conn) OctetsRead() (n int64) { c.in.locked(func() { n = c.in.r.octets }); return }

// OctetsWritten returns the number of bytes that Writes have accepted.
func (c *Conn) OctetsWritten() (n int64) { c.out.locked(func() { n = c.out.w.octets }); return }

// LogWrites makes the Conn keep a copy of what each Write is given from now on.
func (c *Conn) LogWrites() { c.out.locked(func() { c.out.log = [][]byte{} }) }

// WriteLog returns what each Write was given since LogWrites.
func (c *Conn) WriteLog() (log [][]byte) {
	c.out.locked(func() { log = append(log, c.out.log...) })
	return log
}

// opError wraps err as package net does. io.EOF is returned unchanged, as io.Reader requires.
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
	bound int      // the limit of buf; negative for none
	log   [][]byte // nil if it is not kept
	r, w  side
}

// A side is the state of the reader or of the writer of a lane.
type side struct {
	closed   bool
	stalled  bool
	expired  bool // the deadline has passed
	deadline time.Time
	timer    *time.Timer // sets expired
	chunk    int         // the limit of bytes at a time; 0 for none
	left     int64       // bytes until the break; negative for no break
	breakErr error       // the error after the break; nil to block
	calls    int
	octets   int64
}

// newLane returns an open lane without limits.
func newLane() *lane {
	l := &lane{bound: -1, r: side{left: -1}, w: side{left: -1}}
	l.wake.L = &l.mu
	return l
}

// locked calls f with l.mu held, and wakes all that wait.
func (l *lane) locked(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	l.wake.Broadcast()
}

// read implements Conn.Read.
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

// write implements Conn.Write.
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

// close closes one side of the lane.
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

// setDeadline sets the deadline of one side.
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

// expire is called by the timer of the deadline t.
func (l *lane) expire(s *side, t time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.deadline.Equal(t) { // the deadline may have been moved meanwhile
		s.expired = true
		l.wake.Broadcast()
	}
}

// admit returns how many of n bytes may pass now. 0 without an error means that the caller must
// wait.
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

// count records that n bytes have passed.
func (s *side) count(n int) {
	s.octets += int64(n)
	if s.left > 0 {
		s.left -= int64(n)
	}
}

// breakAfter makes the side break after n more bytes.
func (s *side) breakAfter(n int64, err error) { s.left, s.breakErr = max(n, 0), err }

// stopTimer stops the timer of the deadline.
func (s *side) stopTimer() {
	if s.timer != nil {
		s.timer.Stop()
	}
}
