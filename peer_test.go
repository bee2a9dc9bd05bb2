package hyper

import (
	"context"
	"io"
	"testing"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// dialPeer makes a connection over an in-memory pipe. At the other end is its scripted peer, and
// the handshake is complete. Both end with the test. Use it inside synctest.Test.
func dialPeer(t *testing.T, cfg *Config, settings ...wire.Setting) (*h2test.Peer, *Conn) {
	t.Helper()
	peer, conn, _ := newPeer(t, cfg)
	peer.Handshake(settings...)
	return peer, conn
}

// newPeer is dialPeer without the handshake. It also returns the client's end of the pipe, for
// faults and counters.
func newPeer(t *testing.T, cfg *Config) (*h2test.Peer, *Conn, *h2test.Conn) {
	t.Helper()
	client, server := h2test.Pipe()
	peer := h2test.NewPeer(t, server)
	conn, err := NewConn(context.Background(), client, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		checkBooks(t, conn)
		conn.Close()
	})
	return peer, conn, client
}

// checkBooks checks the connection's accounts against its streams: no credit is lost, and nothing
// is left over.
func checkBooks(t *testing.T, c *Conn) {
	t.Helper()
	c.lock()
	defer c.unlock()
	if c.ending.err != nil {
		return
	}
	if c.slots.used < 0 || c.streams.pushes < 0 {
		t.Errorf("slots used: %d, pushes: %d", c.slots.used, c.streams.pushes)
	}
	if c.flow.window.unread < 0 || c.flow.window.pending < 0 {
		t.Errorf("connection window: unread %d, pending %d", c.flow.window.unread, c.flow.window.pending)
	}
	for id, s := range c.streams.byID {
		if s.id != id || s.state == 0 {
			t.Errorf("stream %d is filed under %d in state %v", s.id, id, s.state)
		}
		if s.window.unread < int64(s.buf.Len()) {
			t.Errorf("stream %d holds %d octets and books %d as unread", id, s.buf.Len(), s.window.unread)
		}
	}
}

// doAsync calls conn.Do on a goroutine of its own.
func doAsync(ctx context.Context, conn *Conn, req *Request) *result {
	r := &result{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.resp, r.err = conn.Do(ctx, req)
	}()
	return r
}

// getAsync is doAsync for GET.
func getAsync(conn *Conn, path string) *result {
	return doAsync(context.Background(), conn, &Request{Path: path})
}

// A result is what a call on another goroutine will return.
type result struct {
	done chan struct{}
	resp *Response
	err  error
}

// want waits for the response.
func (r *result) want(t *testing.T, reason string) *Response {
	t.Helper()
	<-r.done
	if r.err != nil {
		t.Fatalf("%s: %v", reason, r.err)
	}
	return r.resp
}

// wantErr waits for the error.
func (r *result) wantErr(t *testing.T, reason string) error {
	t.Helper()
	<-r.done
	if r.err == nil {
		t.Fatalf("%s: want an error, got a response with status %d", reason, r.resp.StatusCode)
	}
	return r.err
}

// wantBody reads body to its end.
func wantBody(t *testing.T, reason string, body io.Reader, want string) {
	t.Helper()
	got, err := io.ReadAll(body)
	if err != nil || string(got) != want {
		t.Fatalf("%s: got %q, %v, want %q", reason, got, err, want)
	}
}
