// Package floor has an HTTP/2 client and a server that do the least. They show how much of the cost
// of a request is TLS, the kernel and Go's scheduler, which every client in Go pays.
//
// The client is no client for use: it has no limits and no checks, and it handles only the frames
// that the measurements need. Conn has no API of HTTP: callers share one field block. Transport has
// net/http's types above the same design. The server prepares its responses and writes all that
// fits at once, as servers in C do: a server that writes each frame by itself hides what a client
// costs.
package floor

import (
	"crypto/tls"
	"net"

	"gohyper.dev/hyper/internal/wire"
)

// Sizes of the client's buffers and windows.
const (
	socketBuffer = 256 << 10
	recordBuffer = 64 << 10
	window       = 1 << 30
	frameSize    = 16384
)

// A socket is a connection below TLS. It reads into a large buffer. It holds what is written until
// flush, if hold is set: TLS writes each record by itself.
type socket struct {
	net.Conn
	in     []byte
	unread []byte // part of in
	hold   bool
	out    []byte
}

// newSocket returns a socket over nc with a buffer of size bytes for reading.
func newSocket(nc net.Conn, size int) *socket { return &socket{Conn: nc, in: make([]byte, size)} }

// Read implements io.Reader.
func (s *socket) Read(p []byte) (int, error) {
	if len(s.unread) == 0 {
		n, err := s.Conn.Read(s.in)
		if n == 0 {
			return 0, err
		}
		s.unread = s.in[:n]
	}
	n := copy(p, s.unread)
	s.unread = s.unread[n:]
	return n, nil
}

// Write implements io.Writer.
func (s *socket) Write(p []byte) (int, error) {
	if s.hold {
		s.out = append(s.out, p...)
		return len(p), nil
	}
	return s.Conn.Write(p)
}

// flush writes what is held.
func (s *socket) flush() error {
	_, err := s.Conn.Write(s.out)
	s.out = s.out[:0]
	return err
}

// A frame is a frame that was read. Its payload is valid until the next call of fill.
type frame struct {
	wire.FrameHeader
	payload []byte
}

// A reader reads frames out of one buffer, in place.
type reader struct {
	tls        *tls.Conn
	buf        []byte
	begin, end int // of what is unread in buf
}

// newReader returns a reader with a buffer for size bytes and a frame.
func newReader(t *tls.Conn, size int) reader {
	return reader{tls: t, buf: make([]byte, size+frameSize+wire.HeaderLen)}
}

// fill reads more bytes. It blocks until there are some.
func (r *reader) fill() error {
	if r.begin == r.end {
		r.begin, r.end = 0, 0
	} else if len(r.buf)-r.end < frameSize+wire.HeaderLen {
		r.end = copy(r.buf, r.buf[r.begin:r.end])
		r.begin = 0
	}
	n, err := r.tls.Read(r.buf[r.end:])
	r.end += n
	if n > 0 {
		return nil
	}
	return err
}

// next returns the next frame of the buffer. If a part of it is not there yet, ok is false.
func (r *reader) next() (f frame, ok bool) {
	b := r.buf[r.begin:r.end]
	if len(b) < wire.HeaderLen {
		return f, false
	}
	f.FrameHeader = wire.ParseFrameHeader(b)
	size := wire.HeaderLen + int(f.Length)
	if len(b) < size {
		return f, false
	}
	f.payload = b[wire.HeaderLen:size]
	r.begin += size
	return f, true
}
