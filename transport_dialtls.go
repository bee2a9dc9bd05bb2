package hyper

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"gohyper.dev/hyper/internal/netconn"
)

// dialsTLS reports whether DialTLSContext makes the connections to h. As documented in net/http, it
// is not used if there is a proxy: neither for connections through it nor for those to it.
func (h *host) dialsTLS() bool {
	return h.t.DialTLSContext != nil && h.key.scheme == "https" && h.key.proxy == ""
}

// dialTLS makes a connection to h with DialTLSContext.
func (h *host) dialTLS(ctx context.Context, cfg *Config, at *endpoint) (*Conn, error) {
	full, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := dialTimeout(ctx, full.HandshakeTimeout)
	defer cancel()
	nc, err := dialerTo(h.t.userTLS, at)(ctx, "tcp", h.addr)
	if err != nil {
		return nil, (&DialError{phase: "dial", Host: h.addr, Err: err}).judge(ctx, full.HandshakeTimeout)
	}
	given := *cfg
	given.Scheme, given.Authority = h.key.scheme, h.key.authority()
	return newConnTLS(ctx, nc, &given, &h.owner)
}

// newConnTLS is newConn for a connection that uses TLS according to the caller. As with net/http, a
// connection that does not tell which protocol was negotiated is for HTTP/1.1.
func newConnTLS(ctx context.Context, nc net.Conn, cfg *Config, o *owner) (*Conn, error) {
	if netconn.TLSOf(nc) == nil && !cfg.AssumeHTTP2 {
		return nil, &NotHTTP2Error{Conn: nc, host: cfg.Authority}
	}
	return newConn(ctx, nc, cfg, o)
}

// userTLS calls DialTLSContext.
func (t *Transport) userTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	return dialOf(t.DialTLSContext, nil, "Transport.DialTLSContext")(ctx, network, addr)
}

// dialOf returns the one of two dial functions that net/http would use, or nil if both are nil. If
// the function returns neither a connection nor an error, the result is an error that contains
// name.
func dialOf(withContext dialFunc, without func(network, addr string) (net.Conn, error),
	name string) dialFunc {
	if withContext == nil && without == nil {
		return nil
	}
	return func(ctx context.Context, network, addr string) (nc net.Conn, err error) {
		if withContext != nil {
			nc, err = withContext(ctx, network, addr)
		} else {
			nc, err = without(network, addr)
		}
		if nc == nil && err == nil {
			err = fmt.Errorf("hyper: %s returned no connection and no error", name)
		}
		return nc, err
	}
}

// A viaProxy is the context key that marks a request that goes through a proxy. The fallback needs
// the mark because its DialTLSContext is also called with the address of a proxy.
type viaProxy struct{}

// markProxied returns req with viaProxy in its context if req goes through a proxy and the fallback
// needs to know that.
func (t *Transport) markProxied(req *http.Request) *http.Request {
	if t.DialTLSContext == nil || t.Fallback != nil || req.URL == nil {
		return req
	}
	if proxy, err := t.proxyFor(req); proxy == nil || err != nil { // the fallback returns the error
		return req
	}
	return req.WithContext(context.WithValue(req.Context(), viaProxy{}, true))
}

// fallbackDialTLS is the DialTLSContext of the fallback.
func (t *Transport) fallbackDialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	if ctx.Value(viaProxy{}) == nil {
		if nc := t.takeSpare(addr); nc != nil {
			return nc, nil
		}
		if t.DialTLSContext != nil {
			return t.fallbackTLS(ctx, addr)
		}
	}
	nc, err := t.dialResolved(ctx, t.fallback.DialContext, addr)
	if err != nil {
		return nil, err
	}
	host, _, _ := net.SplitHostPort(addr)
	config := clientTLS(t.fallback.TLSClientConfig, host)
	config.NextProtos = []string{"http/1.1"}
	tc := tls.Client(nc, config)
	return tc, t.shakeHands(ctx, tc, addr)
}

// fallbackTLS makes a connection for HTTP/1.1 with DialTLSContext. That function cannot be told to
// offer HTTP/1.1 only, so fallbackTLS fails if h2 was negotiated.
func (t *Transport) fallbackTLS(ctx context.Context, addr string) (net.Conn, error) {
	nc, err := t.userTLS(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if err := t.shakeHands(ctx, nc, addr); err != nil {
		return nil, err
	}
	if tc := netconn.TLSOf(nc); tc != nil && tc.ConnectionState().NegotiatedProtocol == "h2" {
		nc.Close()
		return nil, errHTTP2Only
	}
	return nc, nil
}

// shakeHands runs the TLS handshake of a connection for HTTP/1.1. net/http calls the trace hooks
// for it. If shakeHands fails, it closes nc.
func (t *Transport) shakeHands(ctx context.Context, nc net.Conn, addr string) error {
	if t.net != nil {
		return t.net.shakeHands(ctx, nc, untraced)
	}
	tc := netconn.TLSOf(nc)
	if tc == nil {
		return nil
	}
	timeout := max(0, or(t.base.HandshakeTimeout, defaultHandshakeTimeout))
	ctx, cancel := dialTimeout(ctx, timeout)
	defer cancel()
	err := tc.HandshakeContext(ctx)
	if err == nil {
		return nil
	}
	nc.Close()
	return tlsFailed(ctx, addr, nc, err, timeout).forHTTP()
}

// errHTTP2Only means that a connection that was made for HTTP/1.1 has negotiated HTTP/2.
var errHTTP2Only error = unsentError{errors.New("hyper: DialTLSContext returned a connection " +
	"that negotiated h2 for a request that needs HTTP/1.1")}

// tryHTTP1 is roundTripHTTP1 for a request of the pool. If the fallback's own connection negotiates
// HTTP/2, some servers of the host speak HTTP/2, so the request is sent through the pool again.
func (t *Transport) tryHTTP1(x *exchange) (*http.Response, error) {
	req := x.retryRequest()
	if t.DialTLSContext == nil || t.Fallback != nil || x.turnedBack >= maxTries {
		return t.roundTripHTTP1(req)
	}
	kept := &keptBody{}
	if req.Body != nil && req.Body != http.NoBody {
		kept.ReadCloser = req.Body
		copied := *req
		copied.Body = kept
		req = &copied
	}
	resp, err := t.roundTripHTTP1(req)
	if !errors.Is(err, errHTTP2Only) {
		kept.release()
		if resp != nil {
			resp.Request = x.httpReq
		}
		return resp, err
	}
	return t.backToHTTP2(x)
}

// backToHTTP2 sends a request through the pool again.
func (t *Transport) backToHTTP2(x *exchange) (*http.Response, error) {
	h, err := t.enterFor(x.httpReq)
	if err != nil {
		return nil, x.fail(err)
	}
	h.mu.Lock()
	h.http1Until = time.Time{}
	h.mu.Unlock()
	x.turnedBack++
	resp, err := h.roundTrip(x)
	if err != nil {
		return t.fallbackIfRequired(x, err)
	}
	return resp, nil
}

// A keptBody is the body of a request that may be sent in another way if the body was not read.
// Until release is called, Close has no effect on a body that was not read.
type keptBody struct {
	io.ReadCloser // nil: no body

	mu       sync.Mutex
	used     bool // Read or release was called
	unclosed bool // Close was called before that
}

// Read reads from the body. From then on, Close closes it.
func (b *keptBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.used = true
	b.mu.Unlock()
	return b.ReadCloser.Read(p)
}

// Close closes the body if it was read or released. Otherwise it records the call for release.
func (b *keptBody) Close() error {
	b.mu.Lock()
	used := b.used
	b.unclosed = !used
	b.mu.Unlock()
	if !used {
		return nil
	}
	return b.ReadCloser.Close()
}

// release closes the body if an earlier Close had no effect. Later calls of Close close it.
func (b *keptBody) release() {
	b.mu.Lock()
	b.used = true
	unclosed := b.unclosed
	b.mu.Unlock()
	if unclosed {
		b.ReadCloser.Close()
	}
}
