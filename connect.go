package hyper

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// Connect opens a tunnel to authority, host:port, through the peer (RFC 9113 §8.5) and returns it as a net.Conn when the
// peer has agreed. ctx governs the tunnel to its end. Another answer than 2xx is a *ConnectStatusError.
func (c *Conn) Connect(ctx context.Context, authority string, header Header) (net.Conn, error) {
	mustHave(ctx != nil, "Conn.Connect", "context.Context")
	resp, err := c.connectTurn(ctx, authority, header, inTurn)
	if err != nil {
		return nil, err
	}
	if resp.Status/100 != 2 {
		resp.Body.Close()
		return nil, &ConnectStatusError{Status: resp.Status, Header: resp.Header}
	}
	return resp.s.NetConn(), nil
}

// connectTurn sends CONNECT and returns the response, whatever its status.
func (c *Conn) connectTurn(ctx context.Context, authority string, header Header, how turn) (*Response, error) {
	s := &Stream{}
	if err := c.openTurn(ctx, s, &Request{Method: "CONNECT", Authority: authority, Header: header}, endByCaller, how); err != nil {
		return nil, err
	}
	resp, err := s.Response(ctx)
	if err != nil {
		s.abort(err)
		return nil, err
	}
	return resp, nil
}

// A ConnectStatusError is a proxy's refusal of a tunnel.
type ConnectStatusError struct {
	Status int
	Header Header
}

func (e *ConnectStatusError) Error() string {
	return fmt.Sprintf("hyper: proxy refused the tunnel with status %d", e.Status)
}

// NetConn returns the stream as a net.Conn, which reads and writes its DATA. It suits CONNECT, plain and
// extended. Close ends both directions: in order where the peer has ended its own, else with CANCEL; CloseWrite
// (by a type assertion) ends ours.
func (s *Stream) NetConn() net.Conn { return &tunnel{Stream: s} }

type tunnel struct {
	*Stream
	closed atomic.Bool
}

func (t *tunnel) Read(p []byte) (int, error) {
	n, err := t.read(p)
	return n, t.judge(err)
}

func (t *tunnel) Write(p []byte) (int, error) {
	n, err := t.Stream.Write(p)
	return n, t.judge(err)
}

// judge makes errors after Close those that users of a net.Conn look for.
func (t *tunnel) judge(err error) error {
	if err != nil && t.closed.Load() {
		return closedTunnelError{causedError{net.ErrClosed, err}}
	}
	return err
}

// A closedTunnelError is net.ErrClosed in hyper's words.
type closedTunnelError struct{ causedError }

func (e closedTunnelError) Error() string { return prefix + e.causedError.Error() }

func (t *tunnel) Close() error {
	s := t.Stream
	t.closed.Store(true)
	s.c.mu.Lock()
	if s.recvErr == io.EOF && s.sendErr == nil && !s.sender.busy {
		s.sender.then = endStream
		s.sendEndLocked()
	}
	s.c.unlock()
	s.closeRead()
	return nil
}

func (t *tunnel) LocalAddr() net.Addr  { return t.c.LocalAddr() }
func (t *tunnel) RemoteAddr() net.Addr { return t.c.RemoteAddr() }

func (t *tunnel) SetDeadline(at time.Time) error {
	t.Stream.SetDeadline(at)
	return nil
}

func (t *tunnel) SetReadDeadline(at time.Time) error {
	t.Stream.SetReadDeadline(at)
	return nil
}

func (t *tunnel) SetWriteDeadline(at time.Time) error {
	t.Stream.SetWriteDeadline(at)
	return nil
}
