//go:build linux && !386

package netconn

import (
	"crypto/tls"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"
)

// lowWater returns the limit that a TCP socket has.
func lowWater(t *testing.T, nc *net.TCPConn) (n int) {
	t.Helper()
	raw, err := nc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		n, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, notSentLowWater)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestLimitUnsentReachesTheSocketBelow(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	nc, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for i, outer := range []net.Conn{nc, Strict(nc), tls.Client(NewCoalescer(nc), &tls.Config{})} {
		want := 20_000 + i
		if !LimitUnsent(outer, want) || lowWater(t, nc.(*net.TCPConn)) != want {
			t.Errorf("%T: the limit is %d", outer, lowWater(t, nc.(*net.TCPConn)))
		}
		if n, ok := Unsent(outer); !ok || n != 0 {
			t.Errorf("%T: %d bytes are unsent, %v", outer, n, ok)
		}
	}
	if !LimitUnsent(nc, 0) || lowWater(t, nc.(*net.TCPConn)) != 0 {
		t.Errorf("without a limit it is %d", lowWater(t, nc.(*net.TCPConn)))
	}
	// The peer reads nothing, so the socket keeps what does not fit into the peer's window.
	nc.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	nc.Write(make([]byte, 64<<20))
	if n, ok := Unsent(nc); !ok || n == 0 {
		t.Errorf("beside a peer that does not read, %d bytes are unsent, %v", n, ok)
	}
	nc.Close()
	if LimitUnsent(nc, 20_000) {
		t.Error("a closed socket was limited")
	}
	if n, ok := Unsent(nc); ok {
		t.Errorf("a closed socket has %d bytes", n)
	}
}

// A socketless connection has a SyscallConn method that fails.
type socketless struct{ net.Conn }

// SyscallConn returns an error.
func (socketless) SyscallConn() (syscall.RawConn, error) { return nil, errors.New("no socket") }

func TestLimitUnsentNeedsASocket(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	for _, nc := range []net.Conn{client, tls.Client(client, &tls.Config{}), socketless{client}} {
		if LimitUnsent(nc, 20_000) {
			t.Errorf("%T has no socket", nc)
		}
		if n, ok := Unsent(nc); ok {
			t.Errorf("%T has %d bytes", nc, n)
		}
	}
}
