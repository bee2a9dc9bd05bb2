package hyper

import (
	"context"
	"net"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// connectTunnel opens a tunnel on stream 1, on which the client may send window bytes.
func connectTunnel(t *testing.T, window uint32) (*h2test.Peer, net.Conn) {
	t.Helper()
	peer, conn := dialPeer(t, &Config{KeepAlive: -1},
		wire.Setting{ID: wire.SettingInitialWindowSize, Value: window})
	type dialed struct {
		nc  net.Conn
		err error
	}
	got := make(chan dialed)
	go func() {
		nc, err := conn.Connect(context.Background(), "example.com:443", nil)
		got <- dialed{nc, err}
	}()
	peer.WantHeaders("the CONNECT", 1, ":method: CONNECT")
	peer.WriteHeaders(1, 0, ":status: 200")
	tunnel := <-got
	if tunnel.err != nil {
		t.Fatal(tunnel.err)
	}
	return peer, tunnel.nc
}

func TestTunnelAddressesAreTheConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, nc := connectTunnel(t, 0)
		conn := nc.(*tunnel).Conn()
		if nc.LocalAddr() != conn.LocalAddr() || nc.RemoteAddr() != conn.RemoteAddr() ||
			nc.LocalAddr() == nil {
			t.Errorf("%v, %v", nc.LocalAddr(), nc.RemoteAddr())
		}
	})
}
