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
)

// dialsTLS reports whether connections to h are DialTLSContext's to make. As net/http documents it,
// that is not used where there is a proxy: neither through it nor to it.
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
	dial := dialerTo(dialOf(h.t.DialTLSContext, nil, "Transport.DialTLSContext"), at)
	nc, err := dial(ctx, "tcp", h.addr)
	if err != nil {
		return nil, (&DialError{phase: "dial", Host: h.addr, Err: err}).judge(ctx, full.HandshakeTimeout)
	}
	given := *cfg
	given.Scheme, given.Authority = h.key.scheme, h.key.authority()
	return newConnTLS(ctx, nc, &given, &h.owner)
}

// newConnTLS is newConn for a connection on which the caller says TLS is spoken. One that cannot
// tell what was negotiated is for HTTP/1.1, as with net/http.
func newConnTLS(ctx context.Context, nc net.Conn, cfg *Config, o *owner) (*Conn, error) {
	if tlsOf(nc) == nil && !cfg.AssumeHTTP2 {
		return nil, &NotHTTP2Error{Conn: nc, host: cfg.Authority}
	}
	return newConn(ctx, nc, cfg, o)
}

// userTLS calls DialTLSContext.
func (t *Transport) userTLS(ctx context.Context, addr string) (net.Conn, error) {
	return dialOf(t.DialTLSContext, nil, "Transport.DialTLSContext")(ctx, "tcp", addr)
}

// dialOf returns the dialer that net/http would use of its two, or nil. One that returns neither a
// connection nor an error gets an error that has name.
func dialOf(withContext dialFunc, without func(network, addr string) (net.Conn, error), name string) dialFunc {
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

// A viaProxy in a context says that its request goes through a proxy: the fallback's DialTLSContext
// is called with the address of a proxy, too.
type viaProxy struct{}

// markProxied returns req with viaProxy in its context where the fallback needs to know.
func (t *Transport) markProxied(req *http.Request) *http.Request {
	if t.DialTLSContext == nil || t.Fallback != nil || req.URL == nil {
		return req
	}
	if proxy, err := t.proxyFor(req); proxy == nil || err != nil { // an error is the fallback's to return
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

// fallbackTLS makes a connection for HTTP/1.1 with DialTLSContext, which cannot be told to offer
// that alone.
func (t *Transport) fallbackTLS(ctx context.Context, addr string) (net.Conn, error) {
	nc, err := t.userTLS(ctx, addr)
	if err != nil {
		return nil, err
	}
	if err := t.shakeHands(ctx, nc, addr); err != nil {
		return nil, err
	}
	if tc := tlsOf(nc); tc != nil && tc.ConnectionState().NegotiatedProtocol == "h2" {
		nc.Close()
		return nil, errHTTP2Only
	}
	return nc, nil
}

// shakeHands runs the handshake of a connection for HTTP/1.1, which net/http traces. On an error nc
// is closed.
func (t *Transport) shakeHands(ctx context.Context, nc net.Conn, addr string) error {
	if t.net != nil {
		return t.net.shakeHands(ctx, nc)
	}
	tc := tlsOf(nc)
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

// errHTTP2Only: a connection that was made for HTTP/1.1 has negotiated HTTP/2.
var errHTTP2Only error = unsentError{errors.New("hyper: DialTLSContext returned a connection " +
	"that negotiated h2 for a request that needs HTTP/1.1")}

// tryHTTP1 is overHTTP1 for a request of the pool. If the fallback's own connection negotiates
// HTTP/2, then some servers of the host speak that: the request goes back to the pool.
func (t *Transport) tryHTTP1(x *exchange) (*http.Response, error) {
	req := x.again()
	if t.DialTLSContext == nil || t.Fallback != nil || x.turnedBack >= maxTries {
		return t.overHTTP1(req)
	}
	kept := &keptBody{}
	if req.Body != nil && req.Body != http.NoBody {
		kept.ReadCloser = req.Body
		copied := *req
		copied.Body = kept
		req = &copied
	}
	resp, err := t.overHTTP1(req)
	if !errors.Is(err, errHTTP2Only) {
		kept.release()
		if resp != nil {
			resp.Request = x.in
		}
		return resp, err
	}
	return t.backToHTTP2(x)
}

// backToHTTP2 sends a request through the pool again.
func (t *Transport) backToHTTP2(x *exchange) (*http.Response, error) {
	h, err := t.enterFor(x.in)
	if err != nil {
		return nil, x.fail(err)
	}
	h.mu.Lock()
	h.http1Until = time.Time{}
	h.mu.Unlock()
	x.turnedBack++
	resp, err := h.roundTrip(x)
	if err != nil {
		return t.otherwise(x, err)
	}
	return resp, nil
}

// A keptBody is the body of a request that may be sent by another way if it was not read. Until
// release, Close has no effect on a body that was not read.
type keptBody struct {
	io.ReadCloser // nil: there is none

	mu       sync.Mutex
	used     bool // it was read, or released
	unclosed bool // Close was called before that
}

func (b *keptBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.used = true
	b.mu.Unlock()
	return b.ReadCloser.Read(p)
}

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

// release makes up for a Close that had no effect.
func (b *keptBody) release() {
	b.mu.Lock()
	b.used = true
	unclosed := b.unclosed
	b.mu.Unlock()
	if unclosed {
		b.ReadCloser.Close()
	}
}
