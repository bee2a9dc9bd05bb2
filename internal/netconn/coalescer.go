package netconn

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Coalescer is a net.Conn below TLS. It joins records, each of at most 16 KiB, into writes of up
// to four records. During the handshake, it writes when TLS reads the peer's response. After
// HandshakeDone, it writes when Flush is called. So the last flight of the handshake shares its
// write with the first requests.
//
// Any number of goroutines may use it at once. Its methods other than those of net.Conn do nothing
// if it is nil.
type Coalescer struct {
	net.Conn
	mode atomic.Int32

	// mu is held during writes, because TLS also writes from its reading side. It guards buf.
	mu  sync.Mutex
	buf []byte
}

// The modes of a Coalescer.
const (
	// flushedByReader is the mode of the handshake: one goroutine writes and reads in turn.
	flushedByReader int32 = iota

	// flushedByWriter is the mode after the handshake: the writer calls Flush.
	flushedByWriter

	// passedThrough is the mode of a connection that was handed over to the caller: no buffering.
	passedThrough
)

// WriteSize is how many bytes may be written to TLS before a Flush, so that they reach the socket
// in one write.
const WriteSize = 64 << 10

// bufferSize is the size of the buffer. It has room for WriteSize bytes in records of 16 KiB, for
// what TLS adds to each record, and for a small record after them.
const bufferSize = WriteSize + 4<<10

// NewCoalescer returns a Coalescer over nc.
func NewCoalescer(nc net.Conn) *Coalescer { return &Coalescer{Conn: nc} }

// CoalescerBelow returns the Coalescer that the TLS connection nc writes to, or nil if it does not
// write to one.
func CoalescerBelow(nc net.Conn) *Coalescer {
	if tc, ok := nc.(tlsOverConn); ok {
		if below, ok := tc.NetConn().(*Coalescer); ok {
			return below
		}
	}
	return nil
}

// Write buffers p. It writes the buffered bytes first if p does not fit.
func (c *Coalescer) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mode.Load() == passedThrough {
		return WriteAll(c.Conn, p)
	}
	if len(c.buf)+len(p) > bufferSize {
		if err := c.flushLocked(); err != nil {
			return 0, err
		}
	}
	if c.buf == nil {
		c.buf = TakeBuffer()
	}
	c.buf = append(c.buf, p...)
	return len(p), nil
}

// Read implements net.Conn. During the handshake, it writes the buffered bytes first.
func (c *Coalescer) Read(p []byte) (int, error) {
	if c.mode.Load() == flushedByReader {
		if err := c.Flush(); err != nil {
			return 0, err
		}
	}
	if len(p) == 0 {
		return c.Conn.Read(p)
	}
	return ReadSome(c.Conn, p)
}

// HandshakeDone says that the handshake is complete. From now on, Flush writes and Read does not.
func (c *Coalescer) HandshakeDone() {
	if c != nil {
		c.mode.Store(flushedByWriter)
	}
}

// PassThrough writes the buffered bytes and ends the buffering.
func (c *Coalescer) PassThrough() error {
	if c == nil {
		return nil
	}
	err := c.Flush()
	c.mode.Store(passedThrough)
	return err
}

// Flush writes the buffered bytes.
func (c *Coalescer) Flush() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flushLocked()
}

// flushLocked is Flush with mu held.
func (c *Coalescer) flushLocked() error {
	if len(c.buf) == 0 {
		return nil
	}
	_, err := WriteAll(c.Conn, c.buf)
	c.buf = c.buf[:0]
	return err
}

// Shrink releases the memory of an empty buffer. It does not wait for a write in progress.
func (c *Coalescer) Shrink() {
	if c == nil || !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	if len(c.buf) == 0 {
		GiveBuffer(c.buf)
		c.buf = nil
	}
}

// CloseWrite writes the buffered bytes, which end with TLS's close_notify. CloseWriteAll ends the
// writing direction of the connection below.
func (c *Coalescer) CloseWrite() error { return c.Flush() }

// Close sends TLS's last record, an alert, and closes the connection.
func (c *Coalescer) Close() error {
	c.FlushAlert()
	return c.Conn.Close()
}

// FlushAlert sends TLS's last record, an alert, unless it would have to wait for another write.
func (c *Coalescer) FlushAlert() {
	if c == nil || !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	if len(c.buf) > 0 {
		c.Conn.SetWriteDeadline(time.Now().Add(CloseGrace))
		c.flushLocked()
	}
}

// smallBuffer is the capacity of the buffers of TakeBuffer, in bytes. A request without a body
// fits, with what TLS adds to it.
const smallBuffer = 1 << 10

// buffers holds buffers that are not used. Connections that write now and then share them.
var buffers sync.Pool // of *[smallBuffer]byte

// TakeBuffer returns an empty buffer for a small write. The caller may append more than its
// capacity, and gives it back with GiveBuffer.
func TakeBuffer() []byte {
	if b, ok := buffers.Get().(*[smallBuffer]byte); ok {
		return b[:0]
	}
	return make([]byte, 0, smallBuffer)
}

// GiveBuffer makes b, which is not used any more, available to TakeBuffer. It drops a buffer that
// has grown.
func GiveBuffer(b []byte) {
	if cap(b) == smallBuffer {
		buffers.Put((*[smallBuffer]byte)(b[:smallBuffer]))
	}
}
