package hyper

import (
	"errors"

	"testing"
	"testing/synctest"

	"gohyper.dev/hyper/internal/wire"
)

func TestPrefaceSettingsAndFirstRequestLeaveInOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe := newPeer(t, nil)
		got := getAsync(conn, "/first")
		peer.WantPreface("the client speaks first")
		peer.WantHeaders("its request does not wait for our SETTINGS", 1, ":method: GET", ":path: /first")
		if n := pipe.Writes(); n != 1 {
			t.Errorf("%d writes, want 1", n)
		}
		peer.WriteSettings()
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, wire.EndStream, []byte("hello"))
		wantBody(t, "the body", got.want(t, "the response").Body, "hello")
	})
}

func TestCloseEndsEveryCallWithErrClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.Ignore(wire.WindowUpdate)
		waiting := getAsync(conn, "/waits")
		peer.WantHeaders("first", 1)
		reading := getAsync(conn, "/reads")
		peer.WantHeaders("second", 3)
		peer.WriteHeaders(3, 0, ":status: 200")
		resp := reading.want(t, "the response")
		conn.Close()
		peer.WantGoAway("Close says so", 0, wire.NoError)
		peer.WantClosed("and closes")
		if err := waiting.wantErr(t, "Close"); !errors.Is(err, ErrClosed) {
			t.Errorf("waiting for a response: %v", err)
		}
		for range 2 {
			if _, err := resp.Body.Read(make([]byte, 1)); !errors.Is(err, ErrClosed) {
				t.Errorf("reading a body: %v", err)
			}
		}
		if err := getAsync(conn, "/late").wantErr(t, "after Close"); !errors.Is(err, ErrClosed) {
			t.Errorf("a new request: %v", err)
		}
		if err := conn.Err(); err != ErrClosed {
			t.Errorf("Err: %v", err)
		}
	})
}
