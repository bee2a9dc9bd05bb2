//go:build linux && !386

package netconn

import (
	"net"
	"syscall"
)

// LimitUnsent limits how many bytes the TCP socket below nc accepts before it sends them, by the
// option TCP_NOTSENT_LOWAT. What a socket has accepted and not sent cannot be overtaken by anything
// that is written later. The limit does not include what was sent and is not acknowledged. 0
// removes the limit. It reports whether the socket has the option.
func LimitUnsent(nc net.Conn, n int) bool {
	socket, ok := Raw(nc).(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	failed := raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, notSentLowWater, n)
	})
	return failed == nil && err == nil
}
