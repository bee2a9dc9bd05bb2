package hypertest

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// eachSocketPool runs test at the doors that can use several connections for WebSockets.
func eachSocketPool(t *testing.T, test func(t *testing.T, v *visit)) {
	t.Helper()
	eachWebSocketDoor(t, func(t *testing.T, v *visit) {
		if v.own || strings.HasPrefix(v.name, "ConnRoundTrip") {
			t.Skip("it has one connection")
		}
		test(t, v)
	})
}

// openSocket opens a WebSocket on stream id of peer.
func openSocket(t *testing.T, v *visit, peer *accepted, id uint32) {
	t.Helper()
	call := v.send(handshake(v.request("GET", "/", nil)))
	peer.WantHeaders("a WebSocket", id)
	peer.WriteHeaders(id, 0, ":status: 200")
	call.Want(t, "the response")
}

// firstSocket opens a WebSocket on a new connection, and returns that connection's peer.
func firstSocket(t *testing.T, v *visit) *accepted {
	t.Helper()
	call := v.send(handshake(v.request("GET", "/", nil)))
	peer := v.accept(connectAllowed)
	peer.WantHeaders("the first WebSocket", 1)
	peer.WriteHeaders(1, 0, ":status: 200")
	call.Want(t, "the response")
	return peer
}

// Apache httpd serves a few WebSockets on a connection, and sends no response for others.
func TestStalledWebSocketUsesAnotherConnection(t *testing.T) {
	eachSocketPool(t, func(t *testing.T, v *visit) {
		peer := firstSocket(t, v)
		openSocket(t, v, peer, 3)
		begin := time.Now()
		call := v.send(handshake(v.request("GET", "/", nil)))
		peer.WantHeaders("it is not served", 5)
		peer.WantRSTStream("it is given up", 5, wire.Cancel)
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("after %v", took)
		}
		peer.Ignore(wire.Ping)
		next := v.accept(connectAllowed)
		next.WantHeaders("the same on another connection", 1, ":protocol: websocket")
		next.WriteHeaders(1, 0, ":status: 200")
		if resp := call.Want(t, "the response"); resp.StatusCode != 101 {
			t.Errorf("status %d", resp.StatusCode)
		}
		openSocket(t, v, next, 3)
	})
}

// A handshake that is alone on its connection waits: the server is slow, and another connection
// would not help.
func TestSlowWebSocketHandshakeIsNotGivenUp(t *testing.T) {
	eachSocketPool(t, func(t *testing.T, v *visit) {
		call := v.send(handshake(v.request("GET", "/", nil)))
		peer := v.accept(connectAllowed)
		peer.WantHeaders("the handshake", 1)
		other := v.get("/")
		peer.WantHeaders("another request", 3)
		time.Sleep(25 * time.Second)
		peer.WriteHeaders(1, 0, ":status: 200")
		call.Want(t, "the response")
		h2test.AnswerEmpty(peer.Peer, 3)
		other.Want(t, "the response").Body.Close()
		peer.WantIdle("nothing was given up")
	})
}

// A host that serves no more connections is tried again on the one that it has, each time for
// longer, and the last time without a bound: a slow server does not get ever more handshakes, and
// no handshake waits for a response to another.
func TestWebSocketHandshakeIsGivenUpAFewTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := h2test.Pipe()
		dial := func(context.Context, string, string) (net.Conn, error) { return client, nil }
		tr := &hyper.Transport{Proxy: hyper.NoProxy, UnencryptedHTTP2: true, MaxConnsPerHost: 1,
			Config: &hyper.Config{KeepAlive: -1, DialContext: dial}}
		peer := h2test.NewPeer(t, server)
		peer.AutoPing()
		open := func() *h2test.Call[*http.Response] {
			req := handshake(httpRequest(t, "GET", "http://example.com/", nil))
			return h2test.Go(func() (*http.Response, error) { return tr.RoundTrip(req) })
		}
		first := open()
		peer.Handshake(connectAllowed)
		peer.WantHeaders("the first WebSocket", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		first.Want(t, "the response")

		second := open()
		for i, want := range []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second} {
			peer.WantHeaders("a try", uint32(2*i+3))
			begin := time.Now()
			peer.WantRSTStream("it is given up", uint32(2*i+3), wire.Cancel)
			if took := time.Since(begin); took != want {
				t.Errorf("after %v, want %v", took, want)
			}
		}
		peer.WantHeaders("the last try", 9)
		time.Sleep(time.Hour)
		peer.WriteHeaders(9, 0, ":status: 200")
		second.Want(t, "the response")
		third := open()
		peer.WantHeaders("the limit is forgotten", 11)
		peer.WriteHeaders(11, 0, ":status: 200")
		third.Want(t, "the response")
	})
}
