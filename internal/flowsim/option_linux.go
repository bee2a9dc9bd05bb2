package flowsim

import (
	"errors"
	"net"
	"syscall"
)

// notSentOption is TCP_NOTSENT_LOWAT of tcp(7).
const notSentOption = 25

// An optionFD is a socket of the system that is not connected. It keeps the options that the client
// sets on its simulated socket.
type optionFD int

// newOptionFD returns a socket.
func newOptionFD() (optionFD, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	return optionFD(fd), err
}

// notSent returns the limit of the unsent bytes that the client has set, 0 if there is none.
func (fd optionFD) notSent() int {
	n, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, notSentOption)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// close closes the socket.
func (fd optionFD) close() { syscall.Close(int(fd)) }

// Control implements syscall.RawConn. It fails if f has set no limit: f may read TCP_INFO, which
// knows nothing of the simulated socket.
func (fd optionFD) Control(f func(fd uintptr)) error {
	before := fd.notSent()
	f(uintptr(fd))
	if fd.notSent() == before {
		return errors.ErrUnsupported
	}
	return nil
}

// Read implements syscall.RawConn.
func (optionFD) Read(func(fd uintptr) bool) error { return net.ErrClosed }

// Write implements syscall.RawConn.
func (optionFD) Write(func(fd uintptr) bool) error { return net.ErrClosed }
