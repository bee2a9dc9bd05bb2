package hyper

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"gohyper.dev/hyper/internal/netconn"
	"gohyper.dev/hyper/internal/syntax"
)

// dialThrough returns a dialFunc that connects to hosts through the proxy at u. Its errors have the
// form of net/http's.
func (t *Transport) dialThrough(u *url.URL, cfg *Config) (dialFunc, error) {
	if _, err := urlHost(u); err != nil {
		return nil, fmt.Errorf("hyper: proxy: %w", withoutPrefix(err))
	}
	dial, err := t.dialerThrough(u, cfg)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := dial(ctx, network, addr)
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

// A proxyAddr is the address of a proxy, for errors.
type proxyAddr string

// Network implements net.Addr.
func (a proxyAddr) Network() string { return "tcp" }

// String implements net.Addr.
func (a proxyAddr) String() string { return string(a) }

// dialerThrough returns the dialFunc for the proxy at u. An https proxy is used over HTTP/2 if it
// supports that, so that tunnels to many hosts share a connection.
func (t *Transport) dialerThrough(u *url.URL, cfg *Config) (dialFunc, error) {
	direct := cfg.dialer()
	u, err := asciiProxy(u)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "http":
		return func(ctx context.Context, network, addr string) (net.Conn, error) {
			header, err := t.connectHeader(ctx, u, addr)
			if err != nil {
				return nil, err
			}
			nc, err := direct(ctx, network, hostPort(u))
			if err != nil {
				return nil, err
			}
			return t.tunnelOver(ctx, nc, u, connectRequest(addr, header))
		}, nil
	case "https":
		return func(ctx context.Context, network, addr string) (net.Conn, error) {
			header, err := t.connectHeader(ctx, u, addr)
			if err != nil {
				return nil, err
			}
			req := connectRequest(addr, header)
			nc, err := t.tunnelOverHTTP2(ctx, u, req)
			if err != errNotHTTP2 {
				return nc, err
			}
			if nc, err = direct(ctx, network, hostPort(u)); err != nil {
				return nil, err
			}
			tlsCfg := clientTLS(cfg.TLS, u.Hostname())
			tlsCfg.NextProtos = []string{"http/1.1"}
			return t.tunnelOver(ctx, tls.Client(netconn.Strict(nc), tlsCfg), u, req)
		}, nil
	case "socks5", "socks5h":
		return func(ctx context.Context, network, addr string) (net.Conn, error) {
			return netconn.DialSOCKS(ctx, direct, u, addr)
		}, nil
	}
	return nil, fmt.Errorf("hyper: proxy: the scheme %q is not http, https or socks5", u.Scheme)
}

// hostPort returns the address of the proxy at u.
func hostPort(u *url.URL) string {
	return net.JoinHostPort(u.Hostname(), or(u.Port(), syntax.DefaultPort(u.Scheme)))
}

// basicAuth returns the field value for basic authentication (RFC 7617).
func basicAuth(user *url.Userinfo) string {
	password, _ := user.Password()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password))
}

// tunnelOver sends req, a CONNECT, over HTTP/1.1 to the proxy at the other end of nc. It returns nc
// as the tunnel.
func (t *Transport) tunnelOver(ctx context.Context, nc net.Conn, u *url.URL,
	req *http.Request) (tunnel net.Conn, err error) {
	if req.Header["User-Agent"] == nil && t.net == nil {
		req.Header.Set("User-Agent", defaultUserAgent)
	}
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	err = errNotReturned // a hook may end the goroutine
	defer func() {
		if err != nil {
			netconn.CloseSoon(nc)
		}
	}()
	tunnel, err = netconn.Connect(nc, req, t.net.maxConnectAnswer(), func(resp *http.Response) error {
		return t.judgeConnect(ctx, u, req, resp)
	})
	if !stop() {
		err = contextError(ctx)
	}
	if err != nil {
		return nil, err
	}
	return tunnel, nil
}

// maxConnectAnswer limits the header of a proxy's response, in bytes.
const maxConnectAnswer = 256 << 10

// tunnelOverHTTP2 opens the tunnel for req on an HTTP/2 connection to the proxy (RFC 9113 §8.5),
// which other tunnels may use, too. The error is errNotHTTP2 if the proxy does not speak HTTP/2.
func (t *Transport) tunnelOverHTTP2(ctx context.Context, u *url.URL, req *http.Request) (net.Conn, error) {
	proxy := t.enter(hostKey{"itself", target{"https", u.Hostname(),
		or(u.Port(), syntax.DefaultPort(u.Scheme))}}, nil)
	defer t.leave(proxy)
	var r retry
	for {
		c, err := proxy.conn(ctx, nil, &r.turn)
		if err != nil {
			return nil, err
		}
		tunnel, err := openTunnel(ctx, func(life context.Context) (net.Conn, error) {
			return t.connectOver(life, c.Conn, u, req)
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

// openTunnel opens a tunnel within the time of ctx. The tunnel itself does not end with ctx.
func openTunnel(ctx context.Context, open func(context.Context) (net.Conn, error)) (net.Conn, error) {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end)
	tunnel, err := open(life)
	if !stop() {
		if err == nil {
			tunnel.Close()
		}
		err = contextError(ctx)
	}
	if err != nil {
		end()
		return nil, err
	}
	return &proxyTunnel{tunnel, end}, nil
}

// A proxyTunnel releases its context when it is closed.
type proxyTunnel struct {
	net.Conn
	end context.CancelFunc
}

// CloseWrite ends the sending direction of the tunnel.
func (p *proxyTunnel) CloseWrite() error { return netconn.CloseWrite(p.Conn) }

// Close closes the tunnel and releases its context.
func (p *proxyTunnel) Close() error {
	defer p.end()
	return p.Conn.Close()
}
