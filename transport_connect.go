package hyper

import (
	"context"
	"net"
	"net/http"
	"net/url"
)

// connectHeader returns the fields of a CONNECT for addr. The credentials in the proxy's URL are
// sent to that proxy only.
func (t *Transport) connectHeader(ctx context.Context, u *url.URL, addr string) (http.Header, error) {
	header := t.toProxy
	if t.GetProxyConnectHeader != nil {
		var err error
		if header, err = t.GetProxyConnectHeader(ctx, u, addr); err != nil {
			return nil, hookError(err)
		}
	}
	if header = header.Clone(); header == nil {
		header = make(http.Header)
	}
	// In net/http, the credentials in the URL have priority.
	if u.User != nil && (t.net != nil || header["Proxy-Authorization"] == nil) {
		header.Set("Proxy-Authorization", basicAuth(u.User))
	}
	return header, nil
}

// judgeConnect returns the error that the response to a CONNECT means. nil means that there is a
// tunnel.
func (t *Transport) judgeConnect(
	ctx context.Context, u *url.URL, req *http.Request, resp *http.Response,
) error {
	if t.OnProxyConnectResponse != nil {
		if err := t.OnProxyConnectResponse(ctx, u, req, resp); err != nil {
			return hookError(err)
		}
	}
	refusal := ConnectStatusError{StatusCode: resp.StatusCode, Header: HeaderFromHTTP(resp.Header)}
	switch {
	case t.net != nil && resp.StatusCode != 200: // net/http accepts only 200
		return &connectRefusedError{refusal}
	case resp.StatusCode/100 != 2:
		return &refusal
	}
	return nil
}

// A proxyHookError wraps an error that GetProxyConnectHeader or OnProxyConnectResponse returned.
// The request fails with the wrapped error.
type proxyHookError struct{ error }

// hookError returns err as a proxyHookError.
func hookError(err error) error { return &proxyHookError{err} }

// Unwrap returns the error of the hook.
func (e *proxyHookError) Unwrap() error { return e.error }

// connectRequest returns a CONNECT for addr in the form that is passed to hooks.
func connectRequest(addr string, header http.Header) *http.Request {
	return &http.Request{Method: "CONNECT", URL: &url.URL{Opaque: addr}, Host: addr, Header: header}
}

// connectOver sends req, a CONNECT, on c, on which a slot is reserved for it. If the proxy opens a
// tunnel, the hook gets a response without a body, because the stream belongs to the tunnel.
func (t *Transport) connectOver(
	ctx context.Context, c *Conn, u *url.URL, req *http.Request,
) (net.Conn, error) {
	resp, err := c.sendConnect(ctx, req.Host, HeaderFromHTTP(req.Header), haveSlot)
	if err != nil {
		return nil, err
	}
	answer := resp.HTTP(req)
	if resp.StatusCode/100 == 2 {
		answer.Body = http.NoBody
	}
	if err := t.judgeConnect(ctx, u, req, answer); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp.s.NetConn(), nil
}
