package hyper

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

// A Transport is an http.RoundTripper over many hosts: it makes connections, keeps them, and replaces them. The zero value
// is a good one:
//
//	client := &http.Client{Transport: &hyper.Transport{}}
//
// https requests go over HTTP/2. A server that does not speak it, http requests (unless UnencryptedHTTP2 is set) and
// requests to switch to a websocket go to Fallback. Requests to one host share one connection as far as its limit of concurrent streams
// allows, then others up to MaxConnsPerHost, the least loaded first; beyond that they wait in turn.
//
// A request is sent again only if the peer has provably not processed it (see Retryable) and its body can be had again, because
// nothing of it was read or by GetBody: at once where the connection is gone, else after a pause, five times in all, and not when
// the host has failed more often than it has answered.
//
// Any number of goroutines may use a Transport. Its fields must not be changed, nor the Transport copied, once it is in use.
type Transport struct {
	// Config reaches every connection. Scheme and Authority are the request's.
	Config *Config

	// Proxy returns the proxy for a request, or nil: an http, https or socks5 URL, whose user and password are for the proxy alone.
	// Requests reach their host through a tunnel (CONNECT). Where Proxy itself is nil, the environment decides, as in
	// http.ProxyFromEnvironment; NoProxy is for none at all.
	Proxy func(*http.Request) (*url.URL, error)

	// ProxyConnectHeader is sent with CONNECT to proxies. It is copied when the Transport is first used.
	ProxyConnectHeader http.Header

	// UnencryptedHTTP2 sends http requests over HTTP/2 in cleartext, by prior knowledge (RFC 9113 §3.3).
	UnencryptedHTTP2 bool

	// Fallback serves what HTTP/2 cannot. Nil: an http.Transport that speaks HTTP/1.1, with Config's DialContext and TLS, this
	// proxy, these limits, and the connection on which the server was found not to speak HTTP/2.
	Fallback http.RoundTripper

	// DisableCompression keeps hyper from asking for content codings, and so from decoding any.
	DisableCompression bool

	MaxConnsPerHost       int           // connections at once to one host, draining ones not counted; 8 where it is 0, no limit below 0
	IdleConnTimeout       time.Duration // without a stream, until a connection is closed; 90 s where it is 0, none below 0
	MaxConnAge            time.Duration // after which a connection gets no new requests; none where it is 0
	ResponseHeaderTimeout time.Duration // from the end of the request until the response's header, twice that at most; none where it is 0

	mu       sync.Mutex  // taken before a host's
	base     *Config     // Config, ready for every connection; made when the Transport is first used
	toProxy  http.Header // ProxyConnectHeader, made with base
	hosts    map[hostKey]*host
	fallback *http.Transport
	spare    map[string][]net.Conn // HTTP/1.1, TLS done, for fallback to use, by address
}

const (
	maxTries            = 5
	defaultConnsPerHost = 8
	defaultIdleTimeout  = 90 * time.Second
	http1Memory         = 5 * time.Minute  // that a host does not speak HTTP/2
	spareTimeout        = 10 * time.Second // until the fallback must have taken what was kept for it
)

// NoProxy is a Transport.Proxy that uses none.
func NoProxy(*http.Request) (*url.URL, error) { return nil, nil }

// RoundTrip implements http.RoundTripper; see Conn.RoundTrip for what it promises. Errors of dialling, of proxies and of certificates
// have the types that net/http gives them; others that keep a connection from being made name the host and the phase. Retryable knows
// them all.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	mustHave(req != nil, "Transport.RoundTrip", "*http.Request")
	if needsHTTP1(req) || req.URL != nil && req.URL.Scheme == "http" && !t.UnencryptedHTTP2 {
		return t.overHTTP1(req)
	}
	x, err := newExchange(req, t.DisableCompression)
	if err != nil {
		return nil, err
	}
	x.roams, x.headerTimeout = true, t.ResponseHeaderTimeout
	if x.out.Method != "CONNECT" { // RFC 9110 §11.7.2: what it holds is for a proxy, and there is none behind the connection
		x.out.Header.Del("proxy-authorization")
	}
	h, err := t.enterFor(req)
	if err != nil {
		return nil, x.fail(err)
	}
	resp, err := h.roundTrip(x)
	if err != nil {
		return t.otherwise(x, err)
	}
	return resp, nil
}

// otherwise goes over HTTP/1.1 where err says that the peer wants it.
func (t *Transport) otherwise(x *exchange, err error) (*http.Response, error) {
	if !wantsHTTP1(err) {
		return nil, x.fail(err)
	}
	if err := x.rewind(); err != nil {
		return nil, x.fail(fmt.Errorf("hyper: server wants HTTP/1.1: %w", err))
	}
	return t.overHTTP1(x.again())
}

// rewind makes the body ready for another try.
func (x *exchange) rewind() (err error) {
	err = errNotReturned
	defer x.endUnlessReturned(&err)
	return x.body.rewind(x.in.GetBody)
}

// wantsHTTP1 reports whether err says that the peer wants HTTP/1.1, and has not processed the request.
func wantsHTTP1(err error) bool {
	var s *StreamError
	if errors.As(err, &s) {
		return s.FromPeer && s.Code == HTTP11Required
	}
	return err == errNotHTTP2 || errors.Is(err, HTTP11Required) && Retryable(err)
}

// again returns the request with the body as it is for another try.
func (x *exchange) again() *http.Request {
	if x.body == nil || x.body.in == x.in.Body {
		return x.in
	}
	again := *x.in
	again.Body = x.body.in
	return &again
}

// needsHTTP1 reports whether req asks for another protocol than HTTP/2 can switch to.
func needsHTTP1(req *http.Request) bool {
	return equalFold(firstValue(req.Header, "Upgrade"), "websocket")
}

// enterFor enters the host that is to serve req.
func (t *Transport) enterFor(req *http.Request) (*host, error) {
	proxy, err := t.proxyFor(req)
	if err != nil {
		return nil, err
	}
	key, err := keyFor(req.URL, proxy)
	if err != nil {
		return nil, err
	}
	return t.enter(key, proxy), nil
}

func (t *Transport) proxyFor(req *http.Request) (*url.URL, error) {
	if t.Proxy == nil {
		return http.ProxyFromEnvironment(req)
	}
	return t.Proxy(req)
}

// roundTrip tries until it has an answer, or must not try any more. Then it leaves the host.
func (h *host) roundTrip(x *exchange) (_ *http.Response, failure error) {
	failure = errNotReturned
	defer h.leaveAndEnd(x, &failure)
	ctx := x.in.Context()
	patient, turn := false, uint64(0)
	for try := 1; ; try++ {
		if !patient {
			x.trace.getConn(h.addr)
		}
		var err error
		c, how := h.only(), ifFree
		if c == nil || patient {
			if c, err = h.conn(ctx, x.out.cancel, &turn); err != nil {
				return nil, err
			}
			how = reserved
		}
		patient = false
		resp, err := x.on(c.Conn, how)
		switch err {
		case nil:
			h.answered(c)
			return resp, nil
		case errNoSlot: // nothing was sent: that was no try
			try--
			patient = true
			continue
		}
		if err := h.beforeRetry(x, c.Conn, try, err); err != nil {
			return nil, err
		}
	}
}

// beforeRetry makes x ready for the try after one that ended with err on c, when it is time for that. Its error is that of x.
func (h *host) beforeRetry(x *exchange, c *Conn, try int, err error) error {
	ctx := x.in.Context()
	if !Retryable(err) || wantsHTTP1(err) || ctx.Err() != nil || try == maxTries || !h.mayRetry() {
		return err
	}
	if rewindErr := x.body.rewind(x.in.GetBody); rewindErr != nil {
		return fmt.Errorf("%w (not sent again: %w)", err, rewindErr)
	}
	return pause(ctx, x.out.cancel, retryDelay(try, c))
}

func (h *host) leaveAndEnd(x *exchange, failure *error) {
	h.t.leave(h)
	x.endUnlessReturned(failure)
}

// retryDelay is how long to wait after a try: not at all if it was the first and its connection is gone, else 50 ms, then
// twice as long each time, and up to half of that more.
func retryDelay(try int, c *Conn) time.Duration {
	c.mu.Lock()
	gone := c.takesRequestsLocked() != nil
	c.mu.Unlock()
	if try == 1 && gone {
		return 0
	}
	d := 50 * time.Millisecond << (try - 1)
	return d + rand.N(d/2)
}

func pause(ctx context.Context, cancel <-chan struct{}, d time.Duration) error {
	if d == 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return contextError(ctx)
	case <-cancel:
		return errRequestCanceled
	}
}

// CloseIdleConnections closes the connections that have no streams. Requests in progress are not disturbed, and later ones
// make new connections.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	hosts := make([]*host, 0, len(t.hosts))
	for _, h := range t.hosts {
		hosts = append(hosts, h)
	}
	fallback, spare := t.fallback, t.spare
	t.spare = nil
	t.mu.Unlock()
	for _, h := range hosts {
		h.closeIdle()
	}
	for _, conns := range spare {
		for _, nc := range conns {
			nc.Close()
		}
	}
	if fallback != nil {
		fallback.CloseIdleConnections()
	}
	if c, ok := t.Fallback.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// configLocked returns Config with a TLS session cache, which saves later connections to a host most of the handshake.
func (t *Transport) configLocked() *Config {
	if t.base != nil {
		return t.base
	}
	base := t.Config.clone()
	t.base, t.toProxy = &base, t.ProxyConnectHeader.Clone()
	t.base.Scheme, t.base.Authority, t.base.TrimBlanks = "", "", true
	if t.base.TLS == nil {
		t.base.TLS = &tls.Config{}
	}
	if t.base.TLS.ClientSessionCache == nil {
		t.base.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
	return t.base
}

// overHTTP1 gives req to the fallback.
func (t *Transport) overHTTP1(req *http.Request) (*http.Response, error) {
	sent, err := t.forHTTP1(req)
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	resp, err := t.fallbackRoundTripper().RoundTrip(sent)
	if resp != nil && sent != req {
		resp.Request = req
	}
	return resp, err
}

// forHTTP1 returns req as the fallback gets it: a copy where its proxy's credentials must go, or where the name of its host must be
// mapped, which net/http does for the name that it dials and not for the one that it sends.
func (t *Transport) forHTTP1(req *http.Request) (*http.Request, error) {
	var host string
	if req.URL != nil {
		host = or(req.Host, req.URL.Host)
	}
	clean := req.Header["Proxy-Authorization"] != nil && !t.meetsProxy(req)
	if !clean && isASCII(host) {
		return req, nil
	}
	sent := *req
	if clean {
		sent.Header = maps.Clone(req.Header)
		sent.Header.Del("Proxy-Authorization")
	}
	if !isASCII(host) {
		var err error
		if sent.Host, err = asciiAuthority(host); err != nil {
			return nil, err
		}
	}
	return &sent, nil
}

// meetsProxy reports whether a proxy sees req itself, and not just the tunnel that carries it.
func (t *Transport) meetsProxy(req *http.Request) bool {
	if req.URL == nil || req.URL.Scheme != "http" {
		return false
	}
	proxy, err := t.proxyFor(req)
	return err == nil && proxy != nil && proxy.Scheme != "socks5" && proxy.Scheme != "socks5h"
}

func (t *Transport) fallbackRoundTripper() http.RoundTripper {
	if t.Fallback != nil {
		return t.Fallback
	}
	return t.http1()
}

// http1 returns the fallback that serves where the caller gave none.
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
		DialContext:           cfg.dialer(),
		TLSClientConfig:       cfg.TLS.Clone(),
		TLSHandshakeTimeout:   max(0, or(cfg.HandshakeTimeout, defaultHandshakeTimeout)),
		DisableCompression:    t.DisableCompression,
		MaxConnsPerHost:       max(0, t.MaxConnsPerHost),
		MaxIdleConnsPerHost:   defaultConnsPerHost,
		IdleConnTimeout:       max(0, or(t.IdleConnTimeout, defaultIdleTimeout)),
		ResponseHeaderTimeout: t.ResponseHeaderTimeout,
		ExpectContinueTimeout: max(0, or(cfg.ExpectContinueTimeout, defaultContinueTimeout)),
		Protocols:             new(http.Protocols),
	}
	f.Protocols.SetHTTP1(true)
	f.TLSClientConfig.NextProtos = nil // net/http adds its own
	f.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if nc := t.takeSpare(addr); nc != nil {
			return nc, nil
		}
		nc, err := f.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		host, _, _ := net.SplitHostPort(addr)
		config := clientTLS(f.TLSClientConfig, host)
		config.NextProtos = []string{"http/1.1"}
		tc := tls.Client(nc, config)
		ctx, cancel := dialTimeout(ctx, f.TLSHandshakeTimeout)
		defer cancel()
		if err := tc.HandshakeContext(ctx); err != nil { // traced by net/http
			nc.Close()
			return nil, tlsFailed(ctx, addr, nc, err, f.TLSHandshakeTimeout).forHTTP()
		}
		return tc, nil
	}
	t.fallback = f
	return f
}

// renegotiates reports whether HTTP/1.1 is to allow renegotiation of TLS, which a connection that was made for HTTP/2 refuses.
func (t *Transport) renegotiates() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.configLocked().TLS.Renegotiation != tls.RenegotiateNever
}

// keepSpare keeps a connection that the fallback can use. If it does not, it is closed.
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

func (t *Transport) takeSpare(addr string) net.Conn {
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

func (t *Transport) removeSpareLocked(addr string, i int) {
	if t.spare[addr] = slices.Delete(t.spare[addr], i, i+1); len(t.spare[addr]) == 0 {
		delete(t.spare, addr)
	}
}
