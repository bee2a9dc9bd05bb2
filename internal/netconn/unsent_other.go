//go:build !linux && !darwin

package netconn

import "net"

// LimitUnsent does nothing and returns false: the option is used on Linux and Darwin only.
func LimitUnsent(net.Conn, int) bool { return false }
