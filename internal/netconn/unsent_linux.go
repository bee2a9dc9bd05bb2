//go:build !386

package netconn

import (
	"encoding/binary"
	"net"
	"syscall"
	"unsafe"
)

// notSentLowWater is TCP_NOTSENT_LOWAT of linux/tcp.h.
const notSentLowWater = 25

// notSentAt is the offset of tcpi_notsent_bytes in struct tcp_info of linux/tcp.h. The state of the
// connection is at 0.
const notSentAt = 144

// States in which a connection sends: TCP_ESTABLISHED and TCP_CLOSE_WAIT of net/tcp_states.h.
const (
	tcpEstablished = 1
	tcpCloseWait   = 8
)

// Unsent returns how many bytes the TCP socket below nc has accepted and not sent yet. It returns
// false if the system does not tell, or if the socket is not connected.
func Unsent(nc net.Conn) (n int, ok bool) {
	socket, isSocket := Raw(nc).(syscall.Conn)
	if !isSocket {
		return 0, false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, false
	}
	var info [notSentAt + 4]byte
	size := uint32(len(info))
	var code syscall.Errno
	failed := raw.Control(func(fd uintptr) {
		_, _, code = syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	})
	ok = failed == nil && code == 0 && int(size) == len(info) &&
		(info[0] == tcpEstablished || info[0] == tcpCloseWait)
	return int(binary.NativeEndian.Uint32(info[notSentAt:])), ok
}
