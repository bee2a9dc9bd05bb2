package hyper

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"gohyper.dev/hyper/internal/netconn"
	"gohyper.dev/hyper/internal/syntax"
)

// fallbackIfRequired handles err, the failure of x over HTTP/2. It sends the request over HTTP/1.1
// if err says that the peer wants that. Otherwise it ends the exchange with err.
func (t *Transport) fallbackIfRequired(x *exchange, err error) (*http.Response, error) {
	if !wantsHTTP1(err) && !(err == errNoExtendedConnect && opensWebSocket(x.httpReq)) {
		return nil, x.fail(err)
	}
	if err := x.rewind(); err != nil {
		return nil, x.fail(fmt.Errorf("hyper: server wants HTTP/1.1: %w", err))
	}
	resp, err := t.tryHTTP1(x)
	return resp, x.verdict(err)
}

// rewind prepares the body for another attempt.
func (x *exchange) rewind() (err error) {
	err = errNotReturned
	defer x.endUnlessReturned(&err)
	return x.body.rewind(x.httpReq.GetBody)
}

// wantsHTTP1 reports whether err says that the peer wants HTTP/1.1 and has not processed the
// request.
func wantsHTTP1(err error) bool {
	var s *StreamError
	if errors.As(err, &s) {
		return s.FromPeer && s.Code == ErrCodeHTTP11Required
	}
	return err == errNotHTTP2 || errors.Is(err, ErrCodeHTTP11Required) && Retryable(err)
}

// retryRequest returns the request with the current body, for another attempt.
func (x *exchange) retryRequest() *http.Request {
	if x.body == nil || x.body.in == x.httpReq.Body {
		return x.httpReq
	}
	again := *x.httpReq
	again.Body = x.body.in
	return &again
}

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
	h.Include()
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

// roundTripHTTP1 sends req through the fallback.
func (t *Transport) roundTripHTTP1(req *http.Request) (*http.Response, error) {
	t.books.http1.Add(1)
	sent, err := forHTTP1(req)
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	sent = t.markProxied(sent)
	resp, err := t.fallbackRoundTripper().RoundTrip(sent)
	if resp != nil && sent != req {
		resp.Request = req
	}
	return resp, err
}

// forHTTP1 returns req as the fallback gets it. If the host name is internationalized, that is a
// copy with the ASCII name as Host: net/http maps the name that it dials, but not the one that it
// sends.
func forHTTP1(req *http.Request) (*http.Request, error) {
	if req.URL == nil {
		return req, nil
	}
	host := or(req.Host, req.URL.Host)
	if syntax.IsASCII(host) {
		return req, nil
	}
	ascii, err := asciiAuthority(host)
	if err != nil {
		return nil, err
	}
	sent := *req
	sent.Host = ascii
	return &sent, nil
}

// fallbackRoundTripper returns Fallback, or the Transport's own fallback.
func (t *Transport) fallbackRoundTripper() http.RoundTripper {
	if t.Fallback != nil {
		return t.Fallback
	}
	return t.http1()
}

// http1 returns the fallback that is used if Fallback is nil. It makes it at the first call.
func (t *Transport) http1() *http.Transport {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fallback != nil {
		return t.fallback
	}
	cfg := t.configLocked()
	f := &http.Transport{
		Proxy:                 t.proxyFor,
		ProxyConnectHeader:    t.toProxy,
		DisableKeepAlives:     t.DisableKeepAlives,
		DialContext:           cfg.dialer(),
		TLSClientConfig:       cfg.TLS.Clone(),
		TLSHandshakeTimeout:   max(0, or(cfg.HandshakeTimeout, defaultHandshakeTimeout)),
		DisableCompression:    t.DisableCompression,
		MaxConnsPerHost:       max(0, t.MaxConnsPerHost),
		MaxIdleConns:          max(0, or(t.MaxIdleConns, defaultMaxIdle)),
		MaxIdleConnsPerHost:   defaultConnsPerHost,
		IdleConnTimeout:       max(0, or(t.IdleConnTimeout, defaultIdleTimeout)),
		ResponseHeaderTimeout: t.ResponseHeaderTimeout,

		MaxResponseHeaderBytes: int64(cfg.MaxHeaderListSize),

		ExpectContinueTimeout: max(0, or(cfg.ExpectContinueTimeout, defaultContinueTimeout)),
		Protocols:             new(http.Protocols),
	}
	f.Protocols.SetHTTP1(true)
	f.GetProxyConnectHeader, f.OnProxyConnectResponse = t.GetProxyConnectHeader, t.OnProxyConnectResponse
	f.TLSClientConfig.NextProtos = nil // net/http sets its own
	f.DialTLSContext = t.fallbackDialTLS
	t.fallback = f
	return f
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
	return tlsFailed(nc, addr, err).judge(ctx, timeout).forHTTP()
}

// errHTTP2Only means that a connection that was made for HTTP/1.1 has negotiated HTTP/2.
var errHTTP2Only error = unsentError{errors.New("hyper: DialTLSContext returned a connection " +
	"that negotiated h2 for a request that needs HTTP/1.1")}

// renegotiates reports whether HTTP/1.1 connections allow TLS renegotiation. A connection that was
// made for HTTP/2 does not allow it.
func (t *Transport) renegotiates() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	config := t.configLocked().TLS
	if t.net != nil {
		config = t.net.tls
	}
	return config != nil && config.Renegotiation != tls.RenegotiateNever
}

// keepSpare keeps an HTTP/1.1 connection for the fallback. If the fallback has not taken it within
// spareTimeout, the connection is closed.
func (t *Transport) keepSpare(addr string, nc net.Conn) {
	t.mu.Lock()
	if t.spare == nil {
		t.spare = make(map[string][]net.Conn)
	}
	t.spare[addr] = append(t.spare[addr], nc)
	t.mu.Unlock()
	time.AfterFunc(spareTimeout, func() {
		t.mu.Lock()
		i := slices.Index(t.spare[addr], nc)
		if i >= 0 {
			t.removeSpareLocked(addr, i)
		}
		t.mu.Unlock()
		if i >= 0 {
			nc.Close()
		}
	})
}

// takeSpare removes and returns a connection that was kept for addr, or nil. The host in addr is
// as in the URL, where its case does not matter.
func (t *Transport) takeSpare(addr string) net.Conn {
	addr = lowerHost(addr)
	t.mu.Lock()
	defer t.mu.Unlock()
	last := len(t.spare[addr]) - 1
	if last < 0 {
		return nil
	}
	nc := t.spare[addr][last]
	t.removeSpareLocked(addr, last)
	return nc
}

// removeSpareLocked removes the connection at index i from those that are kept for addr.
func (t *Transport) removeSpareLocked(addr string, i int) {
	if t.spare[addr] = slices.Delete(t.spare[addr], i, i+1); len(t.spare[addr]) == 0 {
		delete(t.spare, addr)
	}
}
