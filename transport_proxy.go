package hyper

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"

	"gohyper.dev/hyper/internal/netconn"
	"gohyper.dev/hyper/internal/syntax"
)

// A proxyDialer makes connections to hosts through a proxy. It never changes, and any number of
// goroutines may use it.
type proxyDialer struct {
	t   *Transport
	url *url.URL // the proxy's URL, as hooks get it
	cfg *Config  // decides how to connect to the proxy
}

// dialThrough returns a dialFunc that connects to hosts through the proxy at u. Its errors have the
// form of net/http's.
func (t *Transport) dialThrough(u *url.URL, cfg *Config) (dialFunc, error) {
	if _, err := urlHost(u); err != nil {
		return nil, fmt.Errorf("hyper: proxy: %w", withoutPrefix(err))
	}
	p, err := t.proxyDialer(u, cfg)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := p.dial(ctx, network, addr)
		if _, hooked := err.(*proxyHookError); hooked {
			return nil, err
		}
		if err != nil {
			return nil, &net.OpError{Op: "proxyconnect", Net: network, Addr: proxyAddr(u.Host),
				Err: withoutPrefix(err)}
		}
		return nc, nil
	}, nil
}

// proxyDialer returns the proxyDialer for the proxy at u.
func (t *Transport) proxyDialer(u *url.URL, cfg *Config) (*proxyDialer, error) {
	u, err := asciiProxy(u)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "http" && u.Scheme != "https" && !isSOCKS(u) {
		return nil, fmt.Errorf("hyper: proxy: the scheme %q is not http, https or socks5", u.Scheme)
	}
	return &proxyDialer{t, u, cfg}, nil
}

// asciiProxy returns u with its host in the form in which it is dialed.
func asciiProxy(u *url.URL) (*url.URL, error) {
	if syntax.IsASCII(u.Host) {
		return u, nil
	}
	host, err := asciiName(u.Hostname())
	if err != nil {
		return nil, fmt.Errorf("hyper: proxy: %w", withoutPrefix(err))
	}
	ascii := *u
	ascii.Host = host
	if port := u.Port(); port != "" {
		ascii.Host += ":" + port
	}
	return &ascii, nil
}

// isSOCKS reports whether u is the URL of a SOCKS proxy.
func isSOCKS(u *url.URL) bool { return u.Scheme == "socks5" || u.Scheme == "socks5h" }

// A proxyAddr is the address of a proxy, for errors.
type proxyAddr string

// Network implements net.Addr.
func (a proxyAddr) Network() string { return "tcp" }

// String implements net.Addr.
func (a proxyAddr) String() string { return string(a) }

// dial connects to addr through the proxy. An https proxy is used over HTTP/2 if it supports that,
// so that tunnels to many hosts share a connection.
func (p *proxyDialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if isSOCKS(p.url) {
		return netconn.DialSOCKS(ctx, p.cfg.dialer(), p.url, addr)
	}
	req, err := p.connectRequest(ctx, addr)
	if err != nil {
		return nil, err
	}
	if p.url.Scheme == "https" {
		if nc, err := p.tunnelOverHTTP2(ctx, req); err != errNotHTTP2 {
			return nc, err
		}
	}
	nc, err := p.cfg.dialer()(ctx, network, net.JoinHostPort(p.url.Hostname(), p.port()))
	if err != nil {
		return nil, err
	}
	if p.url.Scheme == "https" {
		config := clientTLS(p.cfg.TLS, p.url.Hostname())
		config.NextProtos = []string{"http/1.1"}
		nc = tls.Client(netconn.Strict(nc), config)
	}
	return p.tunnelOverHTTP1(ctx, nc, req)
}

// port returns the proxy's port.
func (p *proxyDialer) port() string { return or(p.url.Port(), syntax.DefaultPort(p.url.Scheme)) }

// tunnelOverHTTP2 opens the tunnel for req on an HTTP/2 connection to the proxy (RFC 9113 §8.5),
// which other tunnels may use, too. The error is errNotHTTP2 if the proxy does not speak HTTP/2.
func (p *proxyDialer) tunnelOverHTTP2(ctx context.Context, req *http.Request) (net.Conn, error) {
	proxy := p.t.enter(hostKey{"itself", target{"https", p.url.Hostname(), p.port()}}, nil)
	defer p.t.leave(proxy)
	var r retry
	for {
		c, err := proxy.conn(ctx, nil, &r.turn)
		if err != nil {
			return nil, err
		}
		tunnel, err := openTunnel(ctx, func(life context.Context) (net.Conn, error) {
			return p.connectOn(life, c.Conn, req)
		})
		if err == nil {
			proxy.answered(c)
			return tunnel, nil
		}
		if err == errNoSlot { // the slot was taken back: this was no attempt
			continue
		}
		_, hooked := err.(*proxyHookError)
		// ErrClosed: the connection may have just ended.
		if hooked || !Retryable(err) && err != ErrClosed {
			return nil, err
		}
		delay, ok := proxy.refused(&r, c)
		if !ok {
			return nil, err
		}
		if err := pause(ctx, nil, delay); err != nil {
			return nil, err
		}
	}
}
