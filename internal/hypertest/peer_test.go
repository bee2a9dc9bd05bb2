package hypertest

import (
	"context"
	"net/http"
	"testing"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// dialPeer returns a cleartext connection over an in-memory pipe and its scripted peer, with the
// handshake done. Both end with the test. Call it inside synctest.Test.
func dialPeer(t *testing.T, cfg *hyper.Config, settings ...wire.Setting) (*h2test.Peer, *hyper.Conn) {
	t.Helper()
	peer, conn, _ := newPeer(t, cfg)
	peer.Handshake(settings...)
	return peer, conn
}

// newPeer is dialPeer without the handshake. It also returns the client's end of the pipe, for
// faults and counters.
func newPeer(t *testing.T, cfg *hyper.Config) (*h2test.Peer, *hyper.Conn, *h2test.Conn) {
	t.Helper()
	client, server := h2test.Pipe()
	peer := h2test.NewPeer(t, server)
	conn, err := hyper.NewConn(context.Background(), client, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		checkBooks(t, conn)
		conn.Close()
	})
	return peer, conn, client
}

// checkBooks checks that the figures of a living connection are possible.
func checkBooks(t *testing.T, conn *hyper.Conn) {
	t.Helper()
	stats := conn.Stats()
	if conn.Err() != nil {
		return
	}
	const largest = 1<<31 - 1 // RFC 9113 §6.9.1
	if stats.StreamsOpen < 0 || int64(stats.StreamsOpen) > stats.StreamsOpened+stats.PushesPromised ||
		stats.Waiting < 0 {
		t.Errorf("impossible numbers of streams: %+v", stats)
	}
	if stats.ReceiveWindow < 0 || stats.ReceiveWindow > largest || stats.SendWindow > largest {
		t.Errorf("impossible windows: %+v", stats)
	}
}

// An httpCall is a RoundTrip on another goroutine.
type httpCall = h2test.Call[*http.Response]

// doAsync calls Conn.Do with req on another goroutine.
func doAsync(ctx context.Context, conn *hyper.Conn, req *hyper.Request) *h2test.Call[*hyper.Response] {
	return h2test.Go(func() (*hyper.Response, error) { return conn.Do(ctx, req) })
}

// getAsync sends GET for path on another goroutine.
func getAsync(conn *hyper.Conn, path string) *h2test.Call[*hyper.Response] {
	return doAsync(context.Background(), conn, &hyper.Request{Path: path})
}
