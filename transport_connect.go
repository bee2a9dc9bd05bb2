package hyper

import (
	"context"
	"encoding/base64"
	"net"
	"net/http"
	"net/url"
	"time"

	"gohyper.dev/hyper/internal/netconn"
)

// connectRequest returns a CONNECT for addr in the form that is passed to hooks.
func (p *proxyDialer) connectRequest(ctx context.Context, addr string) (*http.Request, error) {
	header, err := p.connectHeader(ctx, addr)
	if err != nil {
		return nil, err
	}
	return &http.Request{Method: "CONNECT", URL: &url.URL{Opaque: addr}, Host: addr, Header: header}, nil
}

// connectHeader returns the fields of a CONNECT for addr. The credentials in the proxy's URL are
// sent to that proxy only.
func (p *proxyDialer) connectHeader(ctx context.Context, addr string) (http.Header, error) {
	header := p.t.toProxy
	if p.t.GetProxyConnectHeader != nil {
		var err error
		if header, err = p.t.GetProxyConnectHeader(ctx, p.url, addr); err != nil {
			return nil, &proxyHookError{err}
		}
	}
	if header = header.Clone(); header == nil {
		header = make(http.Header)
	}
	// In net/http, the credentials in the URL have priority.
	if p.url.User != nil && (p.t.net != nil || header["Proxy-Authorization"] == nil) {
		header.Set("Proxy-Authorization", basicAuth(p.url.User))
	}
	return header, nil
}

// basicAuth returns the field value for basic authentication (RFC 7617).
func basicAuth(user *url.Userinfo) string {
	password, _ := user.Password()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password))
}

// judge returns the error that the response to a CONNECT means. nil means that there is a tunnel.
func (p *proxyDialer) judge(ctx context.Context, req *http.Request, resp *http.Response) error {
	if p.t.OnProxyConnectResponse != nil {
		if err := p.t.OnProxyConnectResponse(ctx, p.url, req, resp); err != nil {
			return &proxyHookError{err}
		}
	}
	refusal := ConnectStatusError{StatusCode: resp.StatusCode, Header: HeaderFromHTTP(resp.Header)}
	switch {
	case p.t.net != nil && resp.StatusCode != 200: // net/http accepts only 200
		return &connectRefusedError{refusal}
	case resp.StatusCode/100 != 2:
		return &refusal
	}
	return nil
}

// A connectRefusedError is a ConnectStatusError with the text of net/http's error, which some
// programs check.
type connectRefusedError struct{ ConnectStatusError }

// Error returns the text that belongs to the status, as in net/http.
func (e *connectRefusedError) Error() string {
	return or(http.StatusText(e.StatusCode), "unknown status code")
}

// Unwrap returns the ConnectStatusError.
func (e *connectRefusedError) Unwrap() error { return &e.ConnectStatusError }

// A proxyHookError wraps an error that GetProxyConnectHeader or OnProxyConnectResponse returned.
// The request fails with the wrapped error.
type proxyHookError struct{ error }

// Unwrap returns the error of the hook.
func (e *proxyHookError) Unwrap() error { return e.error }

// tunnelOverHTTP1 sends req, a CONNECT, to the proxy at the other end of nc. It returns nc as the
// tunnel.
func (p *proxyDialer) tunnelOverHTTP1(
	ctx context.Context, nc net.Conn, req *http.Request,
) (tunnel net.Conn, err error) {
	if req.Header["User-Agent"] == nil && p.t.net == nil {
		req.Header.Set("User-Agent", defaultUserAgent)
	}
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	err = errNotReturned // a hook may end the goroutine
	defer func() {
		if err != nil {
			netconn.CloseSoon(nc)
		}
	}()
	tunnel, err = netconn.Connect(nc, req, p.t.net.maxConnectAnswer(), func(resp *http.Response) error {
		return p.judge(ctx, req, resp)
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

// connectOn sends req, a CONNECT, on c, on which a slot is reserved for it. If the proxy opens a
// tunnel, the hook gets a response without a body, because the stream belongs to the tunnel.
func (p *proxyDialer) connectOn(ctx context.Context, c *Conn, req *http.Request) (net.Conn, error) {
	resp, err := c.sendConnect(ctx, req.Host, HeaderFromHTTP(req.Header), haveSlot)
	if err != nil {
		return nil, err
	}
	answer := resp.HTTP(req)
	if resp.StatusCode/100 == 2 {
		answer.Body = http.NoBody
	}
	if err := p.judge(ctx, req, answer); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp.s.NetConn(), nil
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
