//go:build !linux || 386

package netconn

import "net"

// LimitUnsent does nothing and returns false: the option is used on Linux only, because the limit
// must grow with what Unsent tells.
func LimitUnsent(net.Conn, int) bool { return false }

// Unsent returns false: the system does not tell.
func Unsent(net.Conn) (n int, ok bool) { return 0, false }
