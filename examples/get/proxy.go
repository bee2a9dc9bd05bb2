// This file connects through proxies.

package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/net/http/httpproxy"
	"golang.org/x/net/proxy"

	"gohyper.dev/hyper"
)

// proxyOptions are the options of the proxy.
type proxyOptions struct {
	url  string // -x; empty: that of the environment
	none string // hosts for which there is none
}

// addFlags adds the flags.
func (o *proxyOptions) addFlags(f *pflag.FlagSet) {
	f.StringVarP(&o.url, "proxy", "x", "",
		"connect through the proxy at this `URL` (http, https, socks5, socks5h; port 1080, https 443); "+
			"otherwise that of HTTPS_PROXY, HTTP_PROXY and NO_PROXY")
	f.StringVar(&o.none, "noproxy", "", "connect directly to these `hosts`, separated by commas; * is all")
}

// check returns an error if the proxy of -x is none.
func (o *proxyOptions) check() error {
	if o.url == "" {
		return nil
	}
	_, err := parseProxy(o.url)
	return err
}

// A proxyChooser returns the proxy for a URL, or nil for none.
type proxyChooser = func(*url.URL) (*url.URL, error)

// chooser returns the function that chooses a proxy.
func (o *proxyOptions) chooser() (proxyChooser, error) {
	if o.url == "" {
		env := httpproxy.FromEnvironment()
		env.NoProxy = cmp.Or(o.none, env.NoProxy)
		return env.ProxyFunc(), nil
	}
	u, err := parseProxy(o.url)
	if err != nil {
		return nil, err
	}
	return func(target *url.URL) (*url.URL, error) {
		if excluded(target.Hostname(), o.none) {
			return nil, nil
		}
		return u, nil
	}, nil
}

// parseProxy returns the URL of a proxy, with the scheme and the port that are meant if they are
// missing.
func parseProxy(text string) (*url.URL, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	port := "1080"
	switch u.Scheme {
	case "https":
		port = "443"
	case "http", "socks5", "socks5h":
	default:
		return nil, fmt.Errorf("proxy: the scheme %q is not http, https, socks5 or socks5h", u.Scheme)
	}
	if u.Hostname() == "" {
		return nil, errors.New("proxy: the URL has no host")
	}
	if err := checkPort(u); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), port)
	}
	return u, nil
}

// excluded reports whether a list has a host or one of its parent domains.
func excluded(host, list string) bool {
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimPrefix(strings.TrimSpace(name), ".")
		if name == "*" || name != "" && (strings.EqualFold(host, name) ||
			strings.HasSuffix(strings.ToLower(host), "."+strings.ToLower(name))) {
			return true
		}
	}
	return false
}

// dialThrough connects to addr through the proxy at u. config is for TLS to the proxy.
func dialThrough(ctx context.Context, u *url.URL, config *tls.Config, addr string) (net.Conn, error) {
	switch u.Scheme {
	case "socks5", "socks5h":
		return dialSOCKS(ctx, u, addr)
	case "https":
		return dialHTTPS(ctx, u, config, addr)
	}
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, err
	}
	return tunnel(ctx, nc, u, addr)
}

// dialSOCKS connects through a SOCKS proxy. The proxy resolves names for socks5h, this side for
// socks5.
func dialSOCKS(ctx context.Context, u *url.URL, addr string) (net.Conn, error) {
	var auth *proxy.Auth
	if u.User != nil {
		password, _ := u.User.Password()
		auth = &proxy.Auth{User: u.User.Username(), Password: password}
	}
	if u.Scheme == "socks5" {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		addrs, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			return nil, err
		}
		addr = net.JoinHostPort(addrs[0], port)
	}
	d, err := proxy.SOCKS5("tcp", u.Host, auth, new(net.Dialer))
	if err != nil {
		return nil, err
	}
	return d.(proxy.ContextDialer).DialContext(ctx, "tcp", addr)
}

// dialHTTPS connects through an https proxy: over HTTP/2 if the proxy speaks it, else over
// HTTP/1.1. The flags for the server's certificate apply to that of the proxy, too.
func dialHTTPS(ctx context.Context, u *url.URL, config *tls.Config, addr string) (net.Conn, error) {
	config = config.Clone()
	config.Certificates = nil // they are for the server
	conn, err := hyper.Dial(ctx, "https://"+u.Host, &hyper.Config{TLS: config})
	var other *hyper.NotHTTP2Error
	if errors.As(err, &other) {
		return tunnel(ctx, other.Conn, u, addr)
	}
	if err != nil {
		return nil, err
	}
	var header hyper.Header
	if auth := basicAuth(u.User); auth != "" {
		header.AddSensitive("proxy-authorization", auth)
	}
	// The context of the dial is over when the connection is in use, and must not end the tunnel.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end)
	nc, err := conn.Connect(life, addr, header)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		end()
		conn.Close()
		return nil, err
	}
	return &tunnelConn{nc, func() { end(); conn.Close() }}, nil
}

// A tunnelConn is a tunnel that has a connection to a proxy to itself.
type tunnelConn struct {
	net.Conn
	end func()
}

// Close closes the tunnel and the connection below.
func (c *tunnelConn) Close() error {
	err := c.Conn.Close()
	c.end()
	return err
}

// tunnel requests a tunnel to addr of the proxy at the other end of nc, over HTTP/1.1.
func tunnel(ctx context.Context, nc net.Conn, u *url.URL, addr string) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	c, err := connect(nc, u, addr)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

// maxProxyHeader bounds the header of a proxy's response, in bytes.
const maxProxyHeader = 64 << 10

// connect sends CONNECT and reads the response.
func connect(nc net.Conn, u *url.URL, addr string) (net.Conn, error) {
	req := &http.Request{Method: "CONNECT", URL: &url.URL{Opaque: addr}, Host: addr, Header: http.Header{}}
	if auth := basicAuth(u.User); auth != "" {
		req.Header.Set("Proxy-Authorization", auth)
	}
	if err := req.Write(nc); err != nil {
		return nil, err
	}
	r := bufio.NewReader(io.LimitReader(nc, maxProxyHeader))
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("CONNECT %s: status %d", addr, resp.StatusCode)
	}
	early, err := r.Peek(r.Buffered())
	return &earlyConn{nc, io.MultiReader(strings.NewReader(string(early)), nc)}, err
}

// An earlyConn is a connection with some bytes that were read already.
type earlyConn struct {
	net.Conn
	r io.Reader
}

// Read reads those bytes first.
func (c *earlyConn) Read(b []byte) (int, error) { return c.r.Read(b) }
