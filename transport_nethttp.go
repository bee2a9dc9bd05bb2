package hyper

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"slices"

	"gohyper.dev/hyper/internal/netconn"
	"gohyper.dev/hyper/internal/syntax"
)

// A netHTTP makes and limits the connections of a pool whose configuration comes from an
// http.Transport. Its fields do not change once it is in use.
type netHTTP struct {
	dial    dialFunc
	dialTLS dialFunc // nil: dial is used, and then TLS with the field tls
	tls     *tls.Config
	given   *http.Transport // never changed
}

// connect makes a connection to h. If the server does not speak HTTP/2, the error is a
// *NotHTTP2Error.
func (n *netHTTP) connect(ctx context.Context, h *host, cfg *Config) (*Conn, error) {
	ctx = withDialTrace(ctx, cfg, h.addr)
	nc, err := n.dialHost(ctx, h)
	if err != nil {
		return nil, (&DialError{phase: "dial", Host: h.addr, Err: err, asItIs: true,
			inTLS: nc != nil}).judge(ctx, 0)
	}
	given := *cfg
	given.Scheme, given.Authority = h.key.scheme, h.key.authority()
	if h.key.scheme == "https" {
		return newConnTLS(ctx, nc, &given, &h.owner)
	}
	return newConn(ctx, nc, &given, &h.owner)
}

// dialHost returns a connection to h on which HTTP can be used. If the TLS handshake failed, it
// returns both the closed connection and the error.
func (n *netHTTP) dialHost(ctx context.Context, h *host) (net.Conn, error) {
	switch {
	case h.key.scheme == "http" && h.proxy != nil && !isSOCKS(h.proxy):
		// In this case net/http uses HTTP/2 with the proxy itself.
		return n.dialProxy(ctx, h.proxy)
	case h.proxy == nil && h.key.scheme == "https" && n.dialTLS != nil:
		dialed := dialTraceOf(ctx).step(TraceDialStart)
		nc, err := n.dialTLS(ctx, "tcp", h.addr)
		dialed(err)
		if err != nil {
			return nil, err
		}
		return nc, n.shakeHands(ctx, nc, handshake)
	}
	var nc net.Conn
	var err error
	dialed := dialTraceOf(ctx).step(TraceDialStart)
	if h.proxy != nil {
		nc, err = n.tunnel(ctx, h.t, h.proxy, h.addr)
	} else {
		nc, err = n.dial(ctx, "tcp", h.addr)
	}
	dialed(err)
	if err != nil || h.key.scheme == "http" {
		return nc, err
	}
	tc := tls.Client(netconn.NewCoalescer(nc), serverTLS(n.tls, h.key.host))
	return tc, n.shakeHands(ctx, tc, handshake)
}

// serverTLS returns a copy of config for a connection to the server host. As HTTP/2 may be used on
// it, the copy does not allow renegotiation (RFC 9113 §9.2.1).
func serverTLS(config *tls.Config, host string) *tls.Config {
	config = config.Clone()
	config.ServerName = or(config.ServerName, host)
	config.Renegotiation = tls.RenegotiateNever
	return config
}

// shakeHands runs the TLS handshake of nc with shake, if it has one. If the handshake fails, it
// closes nc.
func (n *netHTTP) shakeHands(ctx context.Context, nc net.Conn, shake handshaker) error {
	tc := netconn.TLSOf(nc)
	if tc == nil {
		return nil
	}
	if d := n.given.TLSHandshakeTimeout; d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, d, errTLSTimeout)
		defer cancel()
	}
	_, err := shake(ctx, tc)
	if err == nil {
		return nil
	}
	nc.Close()
	if cause := context.Cause(ctx); cause == errTLSTimeout {
		return cause
	}
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	return err
}

// errTLSTimeout is a net.Error with the same text as that of net/http.
var errTLSTimeout error = timeoutError("net/http: TLS handshake timeout")

// A timeoutError is a net.Error for a timeout.
type timeoutError string

// Error returns the text of the error.
func (e timeoutError) Error() string { return string(e) }

// Timeout returns true.
func (e timeoutError) Timeout() bool { return true }

// Temporary returns true.
func (e timeoutError) Temporary() bool { return true }

// dialProxy returns a connection to the proxy at u, with TLS if u has the scheme https.
func (n *netHTTP) dialProxy(ctx context.Context, u *url.URL) (net.Conn, error) {
	u, err := asciiProxy(u)
	if err != nil {
		return nil, err
	}
	addr := net.JoinHostPort(u.Hostname(), or(u.Port(), or(syntax.DefaultPort(u.Scheme), "80")))
	nc, err := n.dialProxyAt(ctx, u, addr)
	if err != nil {
		return nil, &net.OpError{Op: "proxyconnect", Net: "tcp", Addr: proxyAddr(addr), Err: err}
	}
	return nc, nil
}

// dialProxyAt is dialProxy for a proxy with the address addr.
func (n *netHTTP) dialProxyAt(ctx context.Context, u *url.URL, addr string) (net.Conn, error) {
	if u.Scheme != "https" {
		return n.dial(ctx, "tcp", addr)
	}
	return n.dialHTTP1(ctx, addr, handshake)
}

// dialHTTP1 makes a TLS connection for HTTP/1.1. It runs the handshake with shake.
func (n *netHTTP) dialHTTP1(ctx context.Context, addr string, shake handshaker) (net.Conn, error) {
	if n.dialTLS != nil {
		nc, err := n.dialTLS(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		return nc, n.shakeHands(ctx, nc, shake)
	}
	nc, err := n.dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		nc.Close()
		return nil, err
	}
	config := serverTLS(n.tls, host)
	config.NextProtos = withoutHTTP2(config.NextProtos)
	tc := tls.Client(nc, config)
	return tc, n.shakeHands(ctx, tc, shake)
}

// withoutHTTP2 returns protocols without h2.
func withoutHTTP2(protocols []string) []string {
	return slices.DeleteFunc(slices.Clone(protocols), func(name string) bool { return name == "h2" })
}

// tunnel returns a connection to addr through the proxy at u.
func (n *netHTTP) tunnel(ctx context.Context, t *Transport, u *url.URL, addr string) (net.Conn, error) {
	if isSOCKS(u) {
		p, err := t.proxyDialer(u, t.base)
		if err != nil {
			return nil, err
		}
		return p.dial(ctx, "tcp", addr)
	}
	p := &proxyDialer{t, u, t.base}
	req, err := p.connectRequest(ctx, addr)
	if err != nil {
		return nil, err
	}
	nc, err := n.dialProxy(ctx, u)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return p.tunnelOverHTTP1(ctx, nc, req)
}

// http1 configures f, a copy of the http.Transport, to serve hosts without HTTP/2. If there is no
// proxy, f first uses the connection on which the host was found not to speak HTTP/2.
func (n *netHTTP) http1(pool *Transport, f *http.Transport) *http.Transport {
	f.Protocols = new(http.Protocols)
	f.Protocols.SetHTTP1(true)
	f.HTTP2 = nil
	f.TLSClientConfig = n.tls.Clone()
	f.TLSClientConfig.NextProtos = withoutHTTP2(n.tls.NextProtos)
	if f.TLSNextProto == nil {
		f.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	f.DialTLSContext = func(ctx context.Context, _, addr string) (net.Conn, error) {
		if ctx.Value(viaProxy{}) != nil {
			return n.dialHTTP1(ctx, addr, untraced)
		}
		if nc := pool.takeSpare(addr); nc != nil {
			return nc, nil
		}
		if n.dialTLS != nil {
			return pool.fallbackTLS(ctx, addr)
		}
		return n.dialHTTP1(ctx, addr, untraced)
	}
	return f
}

// maxConnectAnswer returns the limit for the header of a proxy's response, in bytes. n may be nil.
func (n *netHTTP) maxConnectAnswer() int64 {
	if n == nil {
		return maxConnectAnswer
	}
	return or(max(0, n.given.MaxResponseHeaderBytes), netHTTPHeaderBytes)
}

// maxIdle returns how many connections without a stream may be kept for one host, and in all. -1
// means any number.
func (n *netHTTP) maxIdle() (perHost, total int) {
	perHost, total = -1, -1
	switch {
	case n.given.MaxIdleConnsPerHost < 0:
		perHost = 0
	case n.given.MaxIdleConnsPerHost > 0:
		perHost = n.given.MaxIdleConnsPerHost
	}
	if n.given.MaxIdleConns > 0 {
		total = n.given.MaxIdleConns
	}
	return perHost, total
}
