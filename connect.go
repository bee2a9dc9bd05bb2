package hyper

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// Connect opens a tunnel through the peer to authority, which is host:port (RFC 9113 §8.5). It
// returns the tunnel as a net.Conn when the peer has responded with a 2xx status. Any other final
// status is a *ConnectStatusError. ctx governs the tunnel until it is closed.
func (c *Conn) Connect(ctx context.Context, authority string, header Header) (net.Conn, error) {
	mustHave(ctx != nil, "Conn.Connect", "context.Context")
	resp, err := c.sendConnect(ctx, authority, header, waitForSlot)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		resp.Body.Close()
		return nil, &ConnectStatusError{StatusCode: resp.StatusCode, Header: resp.Header}
	}
	return resp.s.NetConn(), nil
}

// sendConnect sends CONNECT and returns the response, whatever its status.
func (c *Conn) sendConnect(ctx context.Context, authority string, header Header,
	slot slotMode) (*Response, error) {
	s, req := &Stream{}, &Request{Method: "CONNECT", Authority: authority, Header: header}
	if err := c.openStream(ctx, s, opening{req, endByCaller, slot}); err != nil {
		return nil, err
	}
	resp, err := s.Response(ctx)
	if err != nil {
		s.abandon(err)
		return nil, err
	}
	return resp, nil
}

// A ConnectStatusError reports that a proxy refused a tunnel.
type ConnectStatusError struct {
	StatusCode int
	Header     Header
}

// Error says which status the proxy sent.
func (e *ConnectStatusError) Error() string {
	return fmt.Sprintf("hyper: proxy refused the tunnel with status %d", e.StatusCode)
}

// NetConn returns the stream as a net.Conn that reads and writes its DATA. It is for CONNECT, both
// plain and extended. Close ends both directions: if the peer has ended its direction, Close ends
// ours with END_STREAM, else it resets the stream with CANCEL. The net.Conn also has a CloseWrite
// method, available by a type assertion, which ends only our direction.
func (s *Stream) NetConn() net.Conn { return &tunnel{Stream: s} }

// A tunnel is a Stream as a net.Conn. The Stream has all of its state except closed.
type tunnel struct {
	*Stream
	closed atomic.Bool // Close was called
}

// Read implements net.Conn.
func (t *tunnel) Read(p []byte) (int, error) {
	n, err := t.read(p)
	return n, tunnelError(err, t.closed.Load())
}

// Write implements net.Conn.
func (t *tunnel) Write(p []byte) (int, error) {
	n, err := t.Stream.Write(p)
	return n, tunnelError(err, t.closed.Load())
}

// tunnelError returns err, or after Close an error that is also net.ErrClosed, which users of a
// net.Conn test for.
func tunnelError(err error, closed bool) error {
	if err != nil && closed {
		return closedTunnelError{causedError{net.ErrClosed, err}}
	}
	return err
}

// A closedTunnelError is net.ErrClosed with hyper's prefix and the cause.
type closedTunnelError struct{ causedError }

// Error returns the text of net.ErrClosed and that of the cause.
func (e closedTunnelError) Error() string { return prefix + e.causedError.Error() }

// Close implements net.Conn. See NetConn.
func (t *tunnel) Close() error {
	s := t.Stream
	if err := s.reusedErr(); err != nil {
		return err
	}
	t.closed.Store(true)
	s.c.lock()
	if s.recvErr == io.EOF && s.sendErr == nil && !s.sender.busy {
		s.sender.then = endStream
		s.sendEndLocked()
	}
	s.c.unlock()
	return s.closeRead()
}

// LocalAddr returns the local address of the connection.
func (t *tunnel) LocalAddr() net.Addr { return t.c.LocalAddr() }

// RemoteAddr returns the peer's address on the connection, not the tunnel's destination.
func (t *tunnel) RemoteAddr() net.Addr { return t.c.RemoteAddr() }

// SetDeadline implements net.Conn.
func (t *tunnel) SetDeadline(at time.Time) error {
	t.Stream.SetDeadline(at)
	return nil
}

// SetReadDeadline implements net.Conn.
func (t *tunnel) SetReadDeadline(at time.Time) error {
	t.Stream.SetReadDeadline(at)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (t *tunnel) SetWriteDeadline(at time.Time) error {
	t.Stream.SetWriteDeadline(at)
	return nil
}
