package hyper

import (
	"fmt"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// The origins of 421 responses are remembered up to a bound. Beyond it, the peer counts as one that
// serves no further origin.
func TestOriginsOfMisdirectedRequestsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		const other = "http://other.test:80"
		for i := range uint32(maxMisdirected + 10) {
			call := doAsync(t.Context(), conn, &Request{Authority: fmt.Sprintf("h%d.test", i)})
			peer.WantHeaders("a request", 1+2*i)
			peer.WriteHeaders(1+2*i, wire.EndStream, ":status: 421")
			call.Want(t, "the response").Body.Close()
			conn.lock()
			n, excluded := len(conn.origins.misdirected), conn.origins.excludes(other)
			conn.unlock()
			if want := min(int(i)+1, maxMisdirected); n != want || excluded != (n == maxMisdirected) {
				t.Fatalf("after %d responses %d origins, want %d; another one is excluded: %v", i+1, n, want,
					excluded)
			}
		}
	})
}

// A request of another host does not use a connection on which it would have to wait.
func TestConnectionWithoutRoomIsNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, h2test.AtMost(1))
		const other = "http://other.test:80"
		if !conn.hasFreeSlotFor(other) {
			t.Error("a connection without a stream has room")
		}
		call := getAsync(conn, "/")
		peer.WantHeaders("a request", 1)
		if conn.hasFreeSlotFor(other) {
			t.Error("the only stream is in use")
		}
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		call.Want(t, "the response").Body.Close()
		conn.lock()
		conn.writer.queued += maxUnwritten
		conn.unlock()
		if conn.hasFreeSlotFor(other) {
			t.Error("the peer does not read")
		}
		conn.lock()
		conn.writer.queued -= maxUnwritten
		conn.unlock()
	})
}
