package flowsim

import (
	"errors"
	"math"
	"net"
	"sync"
	"syscall"
	"testing/synctest"
	"time"
)

// A socket is the client's end of the connection, a net.Conn. The network gives it one frame at a
// time and collects what the client writes.
type socket struct {
	may    chan struct{} // one receive allows one Read
	wrote  chan struct{} // one slot: the client has written something
	closed chan struct{}

	// What can be read: bytes, and then the number of bytes that follow, whose values do not
	// matter.
	head []byte
	body int

	options *optionFD // nil: there are none

	mu    sync.Mutex    // guards the fields below
	full  chan struct{} // closed when Write may go on; nil: it may
	holds bool          // by hold: full is not closed before release
	space int           // how many bytes Write takes before the buffer is full
	out   []byte        // was written and not collected
	once  sync.Once     // Close
}

// newSocket returns a socket that holds nothing.
func newSocket() *socket {
	return &socket{may: make(chan struct{}), wrote: make(chan struct{}, 1), closed: make(chan struct{}),
		space: math.MaxInt}
}

// deliver gives the client some bytes, and returns when the client has done all that it does
// because of them. One Read follows another only after that. The values of the last body bytes do
// not matter.
func (s *socket) deliver(head []byte, body int) {
	s.head, s.body = head, body
	for len(s.head)+s.body > 0 {
		select {
		case s.may <- struct{}{}:
		case <-s.closed:
			return
		}
		synctest.Wait()
	}
}

// Read returns what the network has given, as much as fits in p. It leaves the bytes of p as they
// are where their values do not matter.
func (s *socket) Read(p []byte) (n int, err error) {
	select {
	case <-s.may:
	case <-s.closed:
		return 0, net.ErrClosed
	}
	n = copy(p, s.head)
	s.head = s.head[n:]
	rest := min(len(p)-n, s.body)
	s.body -= rest
	return n + rest, nil
}

// hold makes Write block, as if the socket's buffer was full.
func (s *socket) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full, s.holds = make(chan struct{}), true
}

// release ends hold.
func (s *socket) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.full)
	s.full, s.holds = nil, false
}

// held reports whether Write blocks.
func (s *socket) held() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.full != nil
}

// allow sets how many bytes Write takes before the buffer is full. It reports whether a Write was
// waiting for room and goes on.
func (s *socket) allow(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.space = n
	if s.full == nil || s.holds || n == 0 {
		return false
	}
	close(s.full)
	s.full = nil
	return true
}

// Write keeps p until the network collects it. It returns when the buffer has taken all of it.
func (s *socket) Write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for s.full != nil {
			full := s.full
			s.mu.Unlock()
			select {
			case <-full:
				s.mu.Lock()
			case <-s.closed:
				s.mu.Lock()
				return n, net.ErrClosed
			}
		}
		k := min(len(p)-n, s.space)
		s.out = append(s.out, p[n:n+k]...)
		s.space -= k
		select {
		case s.wrote <- struct{}{}:
		default:
		}
		if n += k; n == len(p) {
			return n, nil
		}
		s.full = make(chan struct{})
	}
}

// written returns what was written since the last call.
func (s *socket) written() (out []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out, s.out = s.out, nil
	select {
	case <-s.wrote:
	default:
	}
	return out
}

// Close ends Read and Write.
func (s *socket) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// SyscallConn implements syscall.Conn, so that the client can set options.
func (s *socket) SyscallConn() (syscall.RawConn, error) {
	if s.options == nil {
		return nil, errors.ErrUnsupported
	}
	return s.options, nil
}

// addr is the address of both ends.
type addr struct{}

func (addr) Network() string { return "simulated" }
func (addr) String() string  { return "server.test:80" }

func (s *socket) LocalAddr() net.Addr              { return addr{} }
func (s *socket) RemoteAddr() net.Addr             { return addr{} }
func (s *socket) SetDeadline(time.Time) error      { return nil }
func (s *socket) SetReadDeadline(time.Time) error  { return nil }
func (s *socket) SetWriteDeadline(time.Time) error { return nil }
