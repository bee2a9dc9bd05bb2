package hyper

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/wire"
)

// A socket that is closed over octets nobody has read is reset, and a reset may take back what the peer had not read yet: the GOAWAY
// that says why. However much the peer sends behind its mistake, it finds that, and an orderly end behind it.
func TestPeerThatSendsOnFindsGoAwayAndAnOrderlyEnd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan []byte)
	go func() {
		defer close(got)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(10 * time.Second))
		bad := wire.AppendSettings(nil)
		bad = wire.AppendData(bad, 1, 0, []byte("on an idle stream"))
		bad = append(bad, make([]byte, 4<<20)...)
		if _, err := nc.Write(bad); err != nil {
			t.Errorf("the peer, writing on: %v", err)
		}
		all, err := io.ReadAll(nc)
		if err != nil {
			t.Errorf("the peer, reading: %v", err)
		}
		got <- all
	}()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := NewConn(context.Background(), nc, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	<-conn.Done()
	all := <-got
	for p := bytes.TrimPrefix(all, []byte(wire.ClientPreface)); len(p) >= wire.HeaderLen; {
		h := wire.ParseFrameHeader(p)
		if h.Type == wire.GoAway {
			return
		}
		p = p[min(len(p), wire.HeaderLen+h.Length):]
	}
	t.Errorf("no GOAWAY in the %d octets that came", len(all))
}

// A peer that does not close its direction is waited for no longer than closeGrace.
func TestPeerThatNeverEndsIsWaitedForBriefly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.WriteData(1, 0, []byte("on an idle stream"))
		peer.WantGoAway("its mistake", 0, wire.ProtocolError)
		start := time.Now()
		conn.Close() // returns when the socket is closed
		if d := time.Since(start); d != closeGrace {
			t.Errorf("the socket was closed after %v, want %v", d, closeGrace)
		}
	})
}
