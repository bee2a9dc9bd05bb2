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
	"sync/atomic"
	"time"

	"gohyper.dev/hyper/internal/syntax"
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
// A request is sent again if the peer has provably not processed it (see Retryable) and its body can be had again, because
// nothing of it was read or by GetBody: at once where the connection is gone, else after a pause, five times in all, and not when
// the host has failed more often than it has answered.
//
// An idempotent request is also sent again, up to two times, if its connection was lost before any
// response to it, interim ones included, had come: because the network or the peer closed it, or
// because the peer was silent (RFC 9110 §9.2.2). The peer may then process it twice. Idempotent are
// GET, HEAD, OPTIONS, TRACE, PUT and DELETE, and a request of any method whose Header has an
// Idempotency-Key or X-Idempotency-Key, with a value or, as in net/http, with an empty list. Where
// that is not wanted, Conn.RoundTrip never sends a request twice.
//
// Any number of goroutines may use a Transport. Its fields must not be changed, nor the Transport copied, once it is in use.
type Transport struct {
	// Config reaches every connection. Scheme and Authority are the request's. Where its TLS has no
	// ClientSessionCache, one is added, so that later connections resume the TLS session, unless it
	// has Certificates, GetClientCertificate or VerifyPeerCertificate, which play no part when a
	// session is resumed.
	//
	// A server that prefers an old version or cipher suite of TLS, which RFC 9113 §9.2 does not
	// allow, is served over HTTP/1.1. TLS.MinVersion may allow versions below 1.2 for that.
	Config *Config

	// Proxy returns the proxy for a request, or nil: an http, https or socks5 URL, whose user and
	// password are for the proxy alone. A Proxy-Authorization field of the request itself goes
	// where the request goes: to the origin, through the tunnel. Requests reach their host through
	// a tunnel (CONNECT). Where Proxy itself is nil, the environment decides, as in
	// http.ProxyFromEnvironment; NoProxy is for none at all.
	Proxy func(*http.Request) (*url.URL, error)

	// DialTLSContext makes the connections for https requests, but for those through a proxy, which
	// Config's DialContext and TLS make. It returns a *tls.Conn, or any net.Conn that has a
	// ConnectionState method, such as a UConn of github.com/refraction-networking/utls: the result
	// is a tls.ConnectionState, or a struct of another package that has a string field
	// NegotiatedProtocol. A handshake that has not been run is run, if there is a HandshakeContext
	// or Handshake method.
	//
	// Where "h2" was negotiated, HTTP/2 is spoken; Conn.TLS tells what is known of the state. Where
	// something else was, or the connection cannot tell, HTTP/1.1 is spoken on that very connection,
	// unless Config.AssumeHTTP2 is set. A dialer that is called for HTTP/1.1 and negotiates h2 all
	// the same fails the request where that cannot use HTTP/2, as one for a websocket.
	//
	// It is called without a lock and on a goroutine of its own. Its context has the values of the
	// request that it is called for, and ends with Config.HandshakeTimeout; what is returned later
	// is closed. Its errors are returned as those of DialContext are.
	DialTLSContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// ProxyConnectHeader is sent with CONNECT to proxies, unless GetProxyConnectHeader is set. It is
	// copied when the Transport is first used.
	ProxyConnectHeader http.Header

	// GetProxyConnectHeader returns the fields of a CONNECT to the proxy at proxyURL for target,
	// host:port, in place of ProxyConnectHeader. It is called before each CONNECT; the fields are
	// copied. A request that waits for the tunnel fails with its error.
	GetProxyConnectHeader func(ctx context.Context, proxyURL *url.URL, target string) (http.Header, error)

	// OnProxyConnectResponse is called for each response to a CONNECT, whatever its status, before
	// that is looked at. A request that waits for the tunnel fails with its error. It may read the
	// body of a refusal, and must not keep the response.
	//
	// Both are called without a lock and on the goroutine that makes the connection. The context has
	// the values of the request that the connection is made for.
	OnProxyConnectResponse func(ctx context.Context, proxyURL *url.URL, connectReq *http.Request, connectRes *http.Response) error

	// UnencryptedHTTP2 sends http requests over HTTP/2 in cleartext, by prior knowledge (RFC 9113 §3.3).
	UnencryptedHTTP2 bool

	// Coalesce lets an https request use a connection that was made for another host (RFC 9113
	// §9.1.1), where its own host has no connection yet. False: hosts never share connections.
	//
	// A connection is shared only if all of this holds: the ports are the same, and no proxy is in
	// use; the certificate of the connection was verified, and is valid for the request's host; the
	// host has the address of the connection; an ORIGIN frame (RFC 8336), where the peer has sent
	// one, lists the request's origin; and the connection takes one more request at once. Addresses
	// are looked up by net.DefaultResolver, also where the peer has sent an ORIGIN frame, and are
	// valid for a minute. A lookup that takes longer than a second is not waited for.
	//
	// Config.TLS must leave the verification of each host to crypto/tls, and the client must have no
	// identity of its own: where it has Certificates, GetClientCertificate, VerifyConnection,
	// VerifyPeerCertificate, InsecureSkipVerify or ServerName, nothing is shared. Neither is a
	// connection whose TLS is the dialer's, nor one for a request with another Host than its URL's,
	// with Close, or of the method CONNECT.
	//
	// Where the response on such a connection is 421 (Misdirected Request), the request is sent once
	// more, on a connection of its own host, if its body can be had again; else the response is
	// returned, as any other 421 is. The connection is not shared for that host again.
	Coalesce bool

	// Fallback serves what HTTP/2 cannot. Nil: an http.Transport that speaks HTTP/1.1, with Config's
	// DialContext and TLS, this DialTLSContext, this proxy and its hooks, these limits, and the
	// connection on which the server was found not to speak HTTP/2.
	Fallback http.RoundTripper

	// DisableCompression keeps hyper from asking for content codings, and so from decoding any.
	DisableCompression bool

	// DisableKeepAlives makes a connection for each request, which ends with the response, as
	// "Connection: close" does for a single one. That holds for proxies, too.
	DisableKeepAlives bool
	// MinConnsPerHost is how many connections a host with traffic is brought up to: for callers
	// behind a balancer that sees connections and not requests. 0 and 1 are the same: a connection
	// is made when those that exist have no free stream. The connections are made in the background
	// when a request comes, and again when one has ended; no request waits for them while there is
	// another. Requests go to the connection with the fewest. MaxConnsPerHost bounds it.
	MinConnsPerHost int

	// Resolve returns the addresses of a host, host:port each, in any order; addr is the host and
	// port of the request's URL. Nil leaves that to the dialer. With it, Config.DialContext is
	// called with one of the addresses, and a host with traffic has a connection to each of them,
	// within MaxConnsPerHost, or MinConnsPerHost connections where that is more. A request goes to
	// the connection with the fewest; where these are several, they take turns. The name for TLS and
	// the :authority stay those of the URL. Where addr has a proxy, Resolve is not used.
	//
	// It is called before the first connection to a host, and again every 30 s while there are
	// requests, in the background. Connections to addresses that it does not return any more get no
	// new requests. An error of it fails the requests that wait for the first connection, and later
	// leaves the addresses as they were. An address that cannot be reached is avoided for 1 s, then
	// for twice as long each time, up to 30 s, while there are others. Resolve may be called by
	// several goroutines at once, and has the time of Config.HandshakeTimeout.
	//
	// HTTP/1.1 connections to hosts that were found not to speak HTTP/2 use it, too, where there is
	// TLS; and not for http.
	Resolve func(ctx context.Context, addr string) (addrs []string, err error)

	// MaxConns bounds the connections to all hosts together: those over HTTP/2 that take requests,
	// and those that are being made. 0 is no bound. A request that needs one more closes the
	// connection of another host that has been without a stream for longest. Where each has a
	// stream, hosts wait in line, their requests under their contexts; a host that has waited for
	// 100 ms makes the connection with the fewest requests get no new ones for up to a second, so
	// that the traffic of some hosts does not keep others waiting for ever. Draining connections are
	// not counted: they may have long streams, whose end may depend on a request that waits.
	MaxConns int

	// MaxIdleConns bounds the connections to all hosts that are kept without a stream, those over
	// HTTP/2 by themselves and those of the HTTP/1.1 fallback by themselves: 100 where it is 0, no
	// bound below 0. Beyond it, those that have been without a stream for longest are closed,
	// within some milliseconds.
	MaxIdleConns int

	MaxConnsPerHost       int           // connections at once to one host, draining ones not counted; 8 where it is 0, no limit below 0
	IdleConnTimeout       time.Duration // without a stream, until a connection is closed; 90 s where it is 0, none below 0
	MaxConnAge            time.Duration // after which a connection gets no new requests; none where it is 0
	ResponseHeaderTimeout time.Duration // from the end of the request until the response's header, twice that at most; none where it is 0

	// OnConn is called for each step in the life of a connection: when it is made, when it takes no
	// more requests, when it has ended, and where it could not be made. For one connection the calls
	// come in this order. Calls do not overlap, come on a goroutine of their own, after what they
	// tell of, and with no lock: OnConn may use the Transport and the connection. If it blocks,
	// requests and connections go on. Where 1,000 events are due, it is not told of new
	// connections, or of ones that could not be made, until it has caught up: see
	// TransportStats.EventsLost. A panic of OnConn ends the program.
	OnConn func(ConnEvent)

	mu       sync.Mutex  // taken before a host's
	base     *Config     // Config, ready for every connection; made when the Transport is first used
	toProxy  http.Header // ProxyConnectHeader, made with base
	hosts    map[hostKey]*host
	fallback *http.Transport
	spare    map[string][]net.Conn // HTTP/1.1, TLS done, for fallback to use, by address

	net  *netHTTP     // nil: Config and the fields above say how connections are made
	open atomic.Int64 // connections of all hosts, draining ones not counted

	books   books // what is counted
	bound   connBound
	surplus surplusWatch
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

// RoundTrip implements http.RoundTripper; see Conn.RoundTrip for what it promises. Errors of
// dialling, of proxies and of certificates have the types that net/http gives them; others that
// keep a connection from being made name the host and the phase. Retryable knows them all.
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
	h, err := t.enterFor(req)
	if err != nil {
		return nil, x.fail(err)
	}
	h.owner.book.requests.Add(1)
	var resp *http.Response
	if t.Coalesce {
		resp, err = h.roundTripOnAny(x)
	} else {
		resp, err = h.roundTrip(x)
	}
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
	return t.tryHTTP1(x)
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
	return syntax.EqualFold(firstValue(req.Header, "Upgrade"), "websocket")
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

// retryDelay is how long to wait after so many tries: 50 ms, then twice as long each time, and up
// to half of that more.
func retryDelay(tries int) time.Duration {
	d := 50 * time.Millisecond << (tries - 1)
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
	fallback, spare := t.fallback, t.spare
	t.spare = nil
	t.mu.Unlock()
	for _, h := range t.allHosts() {
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

// drainAll ends all connections: those with streams when the last of them is over.
func (t *Transport) drainAll() {
	for _, h := range t.allHosts() {
		for _, c := range h.clonedConns() {
			c.drain(ReasonCloseIdle)
		}
	}
}

func (t *Transport) allHosts() []*host {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Values(t.hosts))
}

// configLocked returns Config as every connection gets it.
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
	if mayResume(t.base.TLS) {
		t.base.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
	return t.base
}

// overHTTP1 gives req to the fallback.
func (t *Transport) overHTTP1(req *http.Request) (*http.Response, error) {
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

// forHTTP1 returns req as the fallback gets it: a copy where the name of its host must be mapped,
// which net/http does for the name that it dials and not for the one that it sends.
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

// mayResume reports whether a TLS session cache can be added, which saves later connections to a
// host most of the handshake. A resumed session is not verified by VerifyPeerCertificate, and shows
// no client certificate: where the caller has these, each handshake has to be a full one.
// VerifyConnection is called for resumed sessions, too.
func mayResume(cfg *tls.Config) bool {
	return cfg.ClientSessionCache == nil && cfg.VerifyPeerCertificate == nil && cfg.GetClientCertificate == nil && len(cfg.Certificates) == 0
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
	f.TLSClientConfig.NextProtos = nil // net/http adds its own
	f.DialTLSContext = t.fallbackDialTLS
	t.fallback = f
	return f
}

// renegotiates reports whether HTTP/1.1 is to allow renegotiation of TLS, which a connection that
// was made for HTTP/2 refuses.
func (t *Transport) renegotiates() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	config := t.configLocked().TLS
	if t.net != nil {
		config = t.net.tls
	}
	return config != nil && config.Renegotiation != tls.RenegotiateNever
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
