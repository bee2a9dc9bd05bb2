package hyper

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/proxy"

	"gohyper.dev/hyper/internal/syntax"
)

// A dialFunc makes connections, as net.Dialer's DialContext does.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

func (d dialFunc) Dial(network, addr string) (net.Conn, error) {
	return d(context.Background(), network, addr)
}

func (d dialFunc) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return d(ctx, network, addr)
}

// dialThrough returns how hosts are reached through the proxy at u. Its errors are of net/http's form.
func (t *Transport) dialThrough(u *url.URL, cfg *Config) (dialFunc, error) {
	ascii, err := asciiProxy(u)
	if err != nil {
		return nil, err
	}
	dial, err := t.dialerThrough(ascii, cfg)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := dial(ctx, network, addr)
		if _, hooked := err.(*proxyHookError); hooked {
			return nil, err
		}
		if err != nil {
			return nil, &net.OpError{Op: "proxyconnect", Net: network, Addr: proxyAddr(u.Host), Err: withoutPrefix(err)}
		}
		return nc, nil
	}, nil
}

// asciiProxy returns u with its host as it is dialed.
func asciiProxy(u *url.URL) (*url.URL, error) {
	host, err := urlHost(u)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	if syntax.IsASCII(u.Host) {
		return u, nil
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

func (a proxyAddr) Network() string { return "tcp" }
func (a proxyAddr) String() string  { return string(a) }

// dialerThrough finds the dialer for u. An https proxy is spoken to in HTTP/2, and tunnels to many hosts share a connection,
// where it agrees to that.
func (t *Transport) dialerThrough(u *url.URL, cfg *Config) (dialFunc, error) {
	direct := dialFunc(cfg.dialer())
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
			return t.tunnelOver(ctx, tls.Client(&strictConn{nc}, tlsCfg), u, req)
		}, nil
	case "socks5", "socks5h":
		return func(ctx context.Context, network, addr string) (net.Conn, error) {
			return dialSOCKS(ctx, direct, u, addr)
		}, nil
	}
	return nil, fmt.Errorf("hyper: proxy: the scheme %q is not http, https or socks5", u.Scheme)
}

// dialSOCKS returns the connection to the proxy itself as the tunnel to addr: the one that the
// dialer returns hides its CloseWrite.
func dialSOCKS(ctx context.Context, direct dialFunc, u *url.URL, addr string) (nc net.Conn, err error) {
	d, err := proxy.FromURL(u, dialFunc(func(ctx context.Context, network, addr string) (net.Conn, error) {
		if nc, err = direct(ctx, network, addr); err != nil {
			return nil, err
		}
		return &strictConn{nc}, nil
	}))
	if err != nil {
		return nil, fmt.Errorf("hyper: proxy: %w", err)
	}
	if _, err := d.(proxy.ContextDialer).DialContext(ctx, "tcp", addr); err != nil {
		return nil, err
	}
	return nc, nil
}

// hostPort returns where a proxy listens.
func hostPort(u *url.URL) string {
	return net.JoinHostPort(u.Hostname(), or(u.Port(), syntax.DefaultPort(u.Scheme)))
}

// basicAuth returns the field value of credentials (RFC 7617).
func basicAuth(user *url.Userinfo) string {
	password, _ := user.Password()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password))
}

// tunnelOver sends req, a CONNECT, to the proxy at the other end of nc, in HTTP/1.1, and returns nc
// as the tunnel.
func (t *Transport) tunnelOver(ctx context.Context, nc net.Conn, u *url.URL, req *http.Request) (tunnel net.Conn, err error) {
	if req.Header["User-Agent"] == nil && t.net == nil {
		req.Header.Set("User-Agent", defaultUserAgent)
	}
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	err = errNotReturned // a hook may end the goroutine
	defer func() {
		if err != nil {
			closeSoon(nc)
		}
	}()
	tunnel, err = connect(nc, req, t.net.maxConnectAnswer(), func(resp *http.Response) error {
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

// closeSoon closes nc. What TLS wants to say last must not take longer than that of a Conn.
func closeSoon(nc net.Conn) {
	raw := transport(nc)
	force := time.AfterFunc(closeGrace, func() { raw.Close() })
	nc.Close()
	force.Stop()
}

// maxConnectAnswer bounds the header of a proxy's answer, in octets.
const maxConnectAnswer = 256 << 10

func connect(nc net.Conn, req *http.Request, most int64, judge func(*http.Response) error) (net.Conn, error) {
	if err := req.Write(nc); err != nil {
		return nil, err
	}
	br := bufio.NewReader(io.LimitReader(nc, most))
	resp, err := http.ReadResponse(br, req)
	if err != nil {
		return nil, err
	}
	if err := judge(resp); err != nil { // its body is not read, which closing it would do: it may never end
		return nil, err
	}
	if n := br.Buffered(); n > 0 { // the host at the other end spoke first
		early, _ := br.Peek(n)
		return &earlyConn{Conn: nc, r: io.MultiReader(bytes.NewReader(early), nc)}, nil
	}
	return nc, nil
}

// An earlyConn is a connection of which something has been read already.
type earlyConn struct {
	net.Conn
	r io.Reader
}

func (c *earlyConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// tunnelOverHTTP2 opens the tunnel of req on a connection to the proxy that others may use, too (RFC 9113 §8.5). errNotHTTP2: the
// proxy does not speak it.
func (t *Transport) tunnelOverHTTP2(ctx context.Context, u *url.URL, req *http.Request) (net.Conn, error) {
	proxy := t.enter(hostKey{"itself", target{"https", u.Hostname(), or(u.Port(), syntax.DefaultPort(u.Scheme))}}, nil)
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
		if err == errNoSlot { // the slot was taken back before it was used: that was no try
			continue
		}
		_, hooked := err.(*proxyHookError)
		// The connection may have come to its end just now.
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

// openTunnel opens a tunnel, which outlives ctx.
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

// A proxyTunnel frees its context when it is closed.
type proxyTunnel struct {
	net.Conn
	end context.CancelFunc
}

// CloseWrite ends our direction of the tunnel.
func (p *proxyTunnel) CloseWrite() error { return closeWriteOf(p.Conn) }

func (p *proxyTunnel) Close() error {
	defer p.end()
	return p.Conn.Close()
}
