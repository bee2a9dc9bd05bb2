package netconn

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"golang.org/x/net/proxy"
)

// Connect sends req, a CONNECT, over HTTP/1.1 to the proxy at the other end of nc, and reads the
// response, whose header is limited to maxHeader bytes. If accept returns nil for the response,
// Connect returns the tunnel. It is nc, unless the proxy has already sent the first bytes of the
// tunnel. On an error, the caller must close nc.
func Connect(
	nc net.Conn, req *http.Request, maxHeader int64, accept func(*http.Response) error,
) (tunnel net.Conn, err error) {
	if err := req.Write(nc); err != nil {
		return nil, err
	}
	limited := &io.LimitedReader{R: nc, N: maxHeader}
	br := bufio.NewReader(limited)
	resp, err := http.ReadResponse(br, req)
	if err != nil {
		if limited.N == 0 {
			err = fmt.Errorf("hyper: the header of the proxy's response exceeds %d bytes", maxHeader)
		}
		return nil, err
	}
	// Closing the body would read it, and it may never end. So it is not closed.
	if err := accept(resp); err != nil {
		return nil, err
	}
	if n := br.Buffered(); n > 0 { // the host at the other end sent data first
		early, _ := br.Peek(n)
		return &earlyConn{Conn: nc, r: io.MultiReader(bytes.NewReader(early), nc)}, nil
	}
	return nc, nil
}

// An earlyConn is a connection of which some bytes have been read already. r returns them first.
type earlyConn struct {
	net.Conn
	r io.Reader
}

// Read reads from r.
func (c *earlyConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// A DialFunc makes connections like the DialContext method of net.Dialer.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// Dial implements proxy.Dialer.
func (d DialFunc) Dial(network, addr string) (net.Conn, error) {
	return d(context.Background(), network, addr)
}

// DialContext implements proxy.ContextDialer.
func (d DialFunc) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return d(ctx, network, addr)
}

// DialSOCKS connects to addr through the SOCKS proxy at u, to which dial makes the connection. It
// returns the connection to the proxy itself, because the connection that the proxy package returns
// hides CloseWrite.
func DialSOCKS(ctx context.Context, dial DialFunc, u *url.URL, addr string) (nc net.Conn, err error) {
	d, err := proxy.FromURL(u, DialFunc(func(ctx context.Context, network, addr string) (net.Conn, error) {
		if nc, err = dial(ctx, network, addr); err != nil {
			return nil, err
		}
		return Strict(nc), nil
	}))
	if err != nil {
		return nil, err
	}
	if _, err := d.(proxy.ContextDialer).DialContext(ctx, "tcp", addr); err != nil {
		return nil, err
	}
	return nc, nil
}
