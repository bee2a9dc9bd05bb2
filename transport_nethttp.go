package hyper

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"slices"

	"gohyper.dev/hyper/internal/syntax"
)

// netHTTP is how a pool makes and bounds its connections where an http.Transport's fields decide.
type netHTTP struct {
	dial    dialFunc
	dialTLS dialFunc // nil: dial, and TLS as follows
	tls     *tls.Config
	given   *http.Transport // it is not changed
}

// connect makes a connection to h. A server that does not speak HTTP/2 is a *NotHTTP2Error.
func (n *netHTTP) connect(ctx context.Context, h *host, cfg *Config) (*Conn, error) {
	nc, err := n.dialHost(ctx, h)
	if err != nil {
		return nil, (&DialError{phase: "dial", Host: h.addr, Err: err, asItIs: true, inTLS: nc != nil}).judge(ctx, 0)
	}
	given := *cfg
	given.Scheme, given.Authority = h.key.scheme, h.key.authority()
	if h.key.scheme == "https" {
		return newConnTLS(ctx, nc, &given, &h.owner)
	}
	return newConn(ctx, nc, &given, &h.owner)
}

// dialHost returns a connection to h on which HTTP can be spoken.
func (n *netHTTP) dialHost(ctx context.Context, h *host) (net.Conn, error) {
	switch {
	case h.key.scheme == "http" && h.proxy != nil && !isSOCKS(h.proxy):
		return n.dialProxy(ctx, h.proxy) // net/http speaks HTTP/2 with the proxy itself
	case h.proxy == nil && h.key.scheme == "https" && n.dialTLS != nil:
		nc, err := n.dialTLS(ctx, "tcp", h.addr)
		if err != nil {
			return nil, err
		}
		return nc, n.shakeHands(ctx, nc)
	}
	var nc net.Conn
	var err error
	if h.proxy != nil {
		nc, err = n.tunnel(ctx, h.t, h.proxy, h.addr)
	} else {
		nc, err = n.dial(ctx, "tcp", h.addr)
	}
	if err != nil || h.key.scheme == "http" {
		return nc, err
	}
	tc := tls.Client(newCoalescer(nc), serverTLS(n.tls, h.key.host))
	return tc, n.shakeHands(ctx, tc)
}

// serverTLS returns config for a server, for a connection on which HTTP/2 may be spoken: RFC 9113
// §9.2.1 forbids renegotiation.
func serverTLS(config *tls.Config, host string) *tls.Config {
	config = config.Clone()
	config.ServerName = or(config.ServerName, host)
	config.Renegotiation = tls.RenegotiateNever
	return config
}

// shakeHands runs the handshake of nc, if it has one. On an error nc is closed.
func (n *netHTTP) shakeHands(ctx context.Context, nc net.Conn) error {
	tc := tlsOf(nc)
	if tc == nil {
		return nil
	}
	if d := n.given.TLSHandshakeTimeout; d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, d, errTLSTimeout)
		defer cancel()
	}
	_, err := handshake(ctx, tc)
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

// errTLSTimeout is a net.Error with the text of net/http's.
var errTLSTimeout error = timeoutError("net/http: TLS handshake timeout")

type timeoutError string

func (e timeoutError) Error() string   { return string(e) }
func (e timeoutError) Timeout() bool   { return true }
func (e timeoutError) Temporary() bool { return true }

func isSOCKS(u *url.URL) bool { return u.Scheme == "socks5" || u.Scheme == "socks5h" }

// dialProxy returns a connection to a proxy, with TLS where its URL asks for it.
func (n *netHTTP) dialProxy(ctx context.Context, u *url.URL) (net.Conn, error) {
	addr := net.JoinHostPort(u.Hostname(), or(u.Port(), or(syntax.DefaultPort(u.Scheme), "80")))
	nc, err := n.dialProxyAt(ctx, u, addr)
	if err != nil {
		return nil, &net.OpError{Op: "proxyconnect", Net: "tcp", Addr: proxyAddr(addr), Err: err}
	}
	return nc, nil
}

func (n *netHTTP) dialProxyAt(ctx context.Context, u *url.URL, addr string) (net.Conn, error) {
	if u.Scheme != "https" {
		return n.dial(ctx, "tcp", addr)
	}
	return n.dialHTTP1(ctx, addr)
}

// dialHTTP1 makes a TLS connection for HTTP/1.1.
func (n *netHTTP) dialHTTP1(ctx context.Context, addr string) (net.Conn, error) {
	if n.dialTLS != nil {
		nc, err := n.dialTLS(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		return nc, n.shakeHands(ctx, nc)
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
	config := serverTLS(n.tls, host).Clone()
	config.NextProtos = withoutHTTP2(config.NextProtos)
	tc := tls.Client(nc, config)
	return tc, n.shakeHands(ctx, tc)
}

func withoutHTTP2(protocols []string) []string {
	return slices.DeleteFunc(slices.Clone(protocols), func(name string) bool { return name == "h2" })
}

// tunnel returns a connection to addr through the proxy at u.
func (n *netHTTP) tunnel(ctx context.Context, t *Transport, u *url.URL, addr string) (net.Conn, error) {
	if isSOCKS(u) {
		dial, err := t.dialerThrough(u, t.base)
		if err != nil {
			return nil, err
		}
		return dial(ctx, "tcp", addr)
	}
	header, err := t.connectHeader(ctx, u, addr)
	if err != nil {
		return nil, err
	}
	nc, err := n.dialProxy(ctx, u)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return t.tunnelOver(ctx, nc, u, connectRequest(addr, header))
}

// A connectRefusedError is a ConnectStatusError that reads as net/http's, which programs know by
// its text.
type connectRefusedError struct{ ConnectStatusError }

func (e *connectRefusedError) Error() string {
	return or(http.StatusText(e.Status), "unknown status code")
}

func (e *connectRefusedError) Unwrap() error { return &e.ConnectStatusError }

// http1 makes f, a copy of the http.Transport, the one that serves hosts without HTTP/2. Where
// there is no proxy, it begins with the connection on which the host said so.
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
			return n.dialHTTP1(ctx, addr)
		}
		if nc := pool.takeSpare(syntax.Lower(addr)); nc != nil {
			return nc, nil
		}
		if n.dialTLS != nil {
			return pool.fallbackTLS(ctx, addr)
		}
		return n.dialHTTP1(ctx, addr)
	}
	return f
}

// maxConnectAnswer bounds the header of a proxy's answer, in octets.
func (n *netHTTP) maxConnectAnswer() int64 {
	if n == nil {
		return maxConnectAnswer
	}
	return or(max(0, n.given.MaxResponseHeaderBytes), netHTTPHeaderBytes)
}

// maxIdle returns how many connections without a stream may be kept, to a host and in all; -1: any
// number.
func (n *netHTTP) maxIdle() (perHost, total int) {
	perHost, total = -1, -1
	switch {
	case n == nil:
		return perHost, total
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
