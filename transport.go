package hyper

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"gohyper.dev/hyper/internal/pool"
)

// A Transport is an http.RoundTripper for any number of hosts. It makes connections, keeps them for
// later requests, and replaces them. The zero value is ready for use:
//
//	client := &http.Client{Transport: &hyper.Transport{}}
//
// https requests go over HTTP/2. Fallback serves servers that do not speak HTTP/2, and, unless
// UnencryptedHTTP2 is set, http requests. Requests to one host share one connection within its
// limit of concurrent streams. Beyond that limit the Transport makes further connections, up to
// MaxConnsPerHost, and a request uses the connection with the fewest streams. If all are full,
// requests wait in order of arrival.
//
// The opening handshake of a WebSocket (RFC 6455 §4.1) is sent as an extended CONNECT if the host's
// SETTINGS allow that (RFC 8441), and else by Fallback. A host whose SETTINGS do not allow it is
// asked again after five minutes. The response is the same in both cases: its status is 101, and
// its Body is an io.ReadWriteCloser, on which the request's context has no effect. If the server
// denies the WebSocket, the response has the status and body that the server sent. Each WebSocket
// takes a stream until it is closed. If a server does not respond to a handshake for 2 s, and other
// WebSockets are open on the connection, the handshake is sent again, on another connection if one
// can be made; this happens up to three times, each time after twice as long.
//
// A request is sent again if the peer has provably not processed it (see Retryable) and its body
// can be sent again: either nothing of it was read, or GetBody returns a new one. If the connection
// has ended, the first retry is sent at once; other retries follow after a pause. A request fails
// after five attempts in a row during which the host sent no response to any request, and after 100
// attempts in all. If a host causes many retries, further ones to it are delayed: they are at least
// 100 ms apart.
//
// An idempotent request is also sent again, up to two times, if its connection was lost before any
// response to it, interim responses included, arrived: the network or the peer closed the
// connection, or the peer was silent (RFC 9110 §9.2.2). The peer may then process the request
// twice. Idempotent requests are those with the method GET, HEAD, OPTIONS, TRACE, PUT or DELETE,
// and requests of any method whose Header has an Idempotency-Key or X-Idempotency-Key, with a value
// or, as in net/http, with an empty list. If that is not wanted, use Conn.RoundTrip, which never
// sends a request twice.
//
// A field that is zero has the default that its comment states. A negative limit or timeout is
// none.
//
// A Transport is safe for concurrent use by multiple goroutines. Its fields must not be changed,
// and the Transport must not be copied, after its first use.
type Transport struct {
	// Config applies to every connection, except that Scheme and Authority come from the request.
	// If its TLS has no ClientSessionCache, one is added, so that later connections resume the TLS
	// session. None is added if TLS has Certificates, GetClientCertificate or
	// VerifyPeerCertificate, which are not used when a session is resumed.
	//
	// A server that prefers an old version of TLS or an old cipher suite, which RFC 9113 §9.2 does
	// not allow, is served over HTTP/1.1. TLS.MinVersion may allow versions below 1.2 for that.
	Config *Config

	// Proxy returns the proxy for a request, or nil for no proxy. The proxy is an http, https or
	// socks5 URL; its user and password are sent to the proxy only. Requests reach their host
	// through a tunnel (CONNECT). A Proxy-Authorization field of the request itself is sent through
	// the tunnel to the origin. If Proxy is nil, the environment determines the proxy, as in
	// http.ProxyFromEnvironment. Use NoProxy for no proxy at all.
	Proxy func(*http.Request) (*url.URL, error)

	// DialTLSContext makes the connections for https requests, except for those through a proxy,
	// which Config's DialContext and TLS make. It returns a *tls.Conn, or any net.Conn that has a
	// ConnectionState method, such as a UConn of github.com/refraction-networking/utls. The result
	// of that method is a tls.ConnectionState, or a struct of another package that has a string
	// field NegotiatedProtocol. If the handshake has not been run, the Transport runs it with the
	// connection's HandshakeContext or Handshake method, if there is one.
	//
	// If "h2" was negotiated, the connection is used for HTTP/2; Conn.TLS returns what is known of
	// the state. If another protocol was negotiated, or the connection does not tell, that
	// connection is used for HTTP/1.1, unless Config.AssumeHTTP2 is set. If the dialer is called
	// for HTTP/1.1 and negotiates h2 nevertheless, a request that cannot use HTTP/2, such as one
	// for a WebSocket that the host's SETTINGS do not allow, fails.
	//
	// DialTLSContext is called without a lock and in its own goroutine. Its context has the values
	// of the request that it is called for, and ends after Config.HandshakeTimeout. A connection
	// that is returned after that is closed. Its errors are returned in the same way as those of
	// DialContext.
	DialTLSContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// ProxyConnectHeader is sent with CONNECT to proxies, unless GetProxyConnectHeader is set. It
	// is copied when the Transport is first used.
	ProxyConnectHeader http.Header

	// GetProxyConnectHeader returns the fields of a CONNECT to the proxy at proxyURL for target,
	// which is host:port. They replace ProxyConnectHeader. It is called before each CONNECT, and
	// the fields are copied. If it returns an error, the request that waits for the tunnel fails
	// with that error.
	GetProxyConnectHeader func(ctx context.Context, proxyURL *url.URL, target string) (http.Header, error)

	// OnProxyConnectResponse is called for each response to a CONNECT, whatever its status, before
	// the Transport checks the status. If it returns an error, the request that waits for the
	// tunnel fails with that error. It may read the body if the proxy refused the tunnel. It must
	// not keep the response.
	//
	// GetProxyConnectHeader and OnProxyConnectResponse are called without a lock, in the goroutine
	// that makes the connection. Their context has the values of the request that the connection is
	// made for.
	OnProxyConnectResponse func(ctx context.Context, proxyURL *url.URL, connectReq *http.Request,
		connectRes *http.Response) error

	// UnencryptedHTTP2 sends http requests over HTTP/2 in cleartext, with prior knowledge (RFC 9113
	// §3.3).
	UnencryptedHTTP2 bool

	// Coalesce lets an https request use a connection that was made for another host (RFC 9113
	// §9.1.1) if its own host has no connection yet. If Coalesce is false, hosts never share
	// connections.
	//
	// A connection is shared only if all of these conditions hold:
	//
	//   - the ports are the same, and no proxy is used;
	//   - the certificate of the connection was verified, and is valid for the request's host;
	//   - the request's host has the IP address of the connection;
	//   - if the peer has sent an ORIGIN frame (RFC 8336), the frame lists the request's
	//     origin;
	//   - the connection can take one more request at once.
	//
	// net.DefaultResolver, or Resolve if it is set, looks addresses up, even if the peer has sent
	// an ORIGIN frame. The addresses are used for a minute. A request waits at most one second for
	// a lookup.
	//
	// Config.TLS must leave the verification of each host to crypto/tls, and the client must have
	// no identity of its own: if it has Certificates, GetClientCertificate, VerifyConnection,
	// VerifyPeerCertificate, InsecureSkipVerify or ServerName, nothing is shared. Connections whose
	// TLS was set up by the dialer are not shared. A request does not use a shared connection if
	// its Host differs from that of its URL, if it has Close set, or if its method is CONNECT.
	//
	// If the response on a shared connection is 421 (Misdirected Request) and the body can be sent
	// again, the request is sent once more on a connection of its own host. Otherwise the response
	// is returned, like any other 421. The connection is not used for that host again.
	Coalesce bool

	// Fallback serves requests that cannot go over HTTP/2. If it is nil, an http.Transport that
	// speaks HTTP/1.1 is used. That http.Transport has Config's DialContext and TLS, and this
	// Transport's DialTLSContext, proxy with its hooks, and limits. It also takes over the
	// connection on which the server was found not to speak HTTP/2.
	Fallback http.RoundTripper

	// DisableCompression prevents hyper from asking for content codings on its own, and so from
	// decoding any.
	DisableCompression bool

	// DisableKeepAlives makes a connection for each request. The connection ends with the response,
	// as with "Connection: close" for a single request. This also applies to connections to
	// proxies.
	DisableKeepAlives bool

	// MinConnsPerHost is the number of connections that a host with traffic should have. It is for
	// callers behind a load balancer that balances connections rather than requests. 0 and 1 mean
	// the same: a connection is made when the existing ones have no free stream. The connections
	// are made in the background when a request arrives, and again when one has ended; no request
	// waits for them while another connection exists. A request uses the connection with the fewest
	// streams. MaxConnsPerHost is the upper bound. While there are MaxIdleConns connections, none
	// is made in the background for a host that has one without a stream.
	MinConnsPerHost int

	// Resolve returns the addresses of a host, each as host:port, in any order. addr is the host
	// and port of the request's URL. If Resolve is nil, the dialer resolves names. If it is set,
	// Config.DialContext is called with one of the addresses, and a host with traffic has a
	// connection to each of them, within MaxConnsPerHost, or MinConnsPerHost connections if that is
	// more. MaxIdleConns bounds them as it does those of MinConnsPerHost. A request uses the
	// connection with the fewest streams; connections with the same number take turns. The name for
	// TLS and the :authority remain those of the URL. If addr is reached through a proxy, Resolve
	// is not used.
	//
	// Resolve is called before the first connection to a host, and again in the background every
	// 30 s while there are requests. Connections to addresses that it no longer returns get no new
	// requests. An error fails the requests that wait for the first connection; later, an error
	// leaves the addresses as they were. An address that cannot be reached is avoided for 1 s, then
	// for twice as long each time, up to 30 s, while there are other addresses. Resolve may be
	// called by several goroutines at once. Each call is limited to Config.HandshakeTimeout.
	//
	// HTTP/1.1 connections use Resolve for https hosts that were found not to speak HTTP/2, but not
	// for http.
	Resolve func(ctx context.Context, addr string) (addrs []string, err error)

	// MaxConns limits the connections to all hosts together. It counts the HTTP/2 connections that
	// take requests and those that are being made. 0 means no limit. If a request needs one more
	// connection, the connection of another host that has been without a stream for the longest
	// time is closed. If every connection has a stream, hosts wait in line, and their requests wait
	// until their contexts end. After a host has waited for 100 ms, the connection with the fewest
	// requests, of those to hosts that have more connections, gets no new ones for up to a second,
	// so that the traffic of some hosts does not make others wait forever. Draining connections are
	// not counted: they may have long streams, which may end only after a request that waits.
	MaxConns int

	// MaxIdleConns limits the connections to all hosts that are kept without a stream. HTTP/2
	// connections and those of the HTTP/1.1 fallback are counted separately. 0 means 100; a
	// negative value means no limit. If there are more, those that have been without a stream for
	// the longest time are closed within some milliseconds.
	MaxIdleConns int

	// MaxConnsPerHost limits the connections to one host at a time; draining connections are not
	// counted. 0 means 8; a negative value means no limit.
	MaxConnsPerHost int

	// IdleConnTimeout is how long a connection is kept without a stream before it is closed. 0
	// means 90 s; a negative value means no timeout.
	IdleConnTimeout time.Duration

	// MaxConnAge is the age at which a connection stops getting new requests. 0 means no maximum.
	MaxConnAge time.Duration

	// ResponseHeaderTimeout limits the time from the end of the request until the response's header
	// arrives. The request fails at the latest after twice that time. 0 means no limit.
	ResponseHeaderTimeout time.Duration

	// OnConn is called for each step in the life of a connection: when it is made, when it stops
	// taking requests, when it has ended, and when it could not be made. The calls for one
	// connection are in this order. Calls do not overlap. They are made in their own goroutine,
	// after the event, and without a lock, so OnConn may use the Transport and the connection. If
	// OnConn blocks, requests and connections continue. If 1,000 events are waiting, events for new
	// connections, and for connections that could not be made, are dropped until OnConn has caught
	// up; see TransportStats.EventsLost. A panic in OnConn ends the program.
	OnConn func(ConnEvent)

	mu       sync.Mutex  // guards base to spare
	base     *Config     // Config prepared for all connections; made at first use
	toProxy  http.Header // ProxyConnectHeader; copied together with base
	fallback *http.Transport
	spare    map[string][]net.Conn // by address: HTTP/1.1 connections after TLS, for fallback to use

	net *netHTTP // fields of an http.Transport; nil: Config and the fields above decide how to connect

	hosts   pool.Pool[hostKey, *host]
	books   books // the counters
	bound   pool.Bound[*host]
	surplus pool.Throttle // of closeSurplusOfAll
}

const (
	defaultConnsPerHost = 8
	defaultIdleTimeout  = 90 * time.Second
	http1Memory         = 5 * time.Minute  // how long to remember that a host does not speak HTTP/2
	spareTimeout        = 10 * time.Second // how long a connection is kept for the fallback
)

// NoProxy is a value for Transport.Proxy that uses no proxy.
func NoProxy(*http.Request) (*url.URL, error) { return nil, nil }

// RoundTrip implements http.RoundTripper. Conn.RoundTrip documents what it guarantees. Errors of
// dialing, of proxies and of certificates have the same types as in net/http. Other errors that
// prevent a connection name the host and the phase. Retryable recognizes all of them.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	mustHave(req != nil, "Transport.RoundTrip", "*http.Request")
	if asksForWebSocket(req) && !opensWebSocket(req) ||
		req.URL != nil && req.URL.Scheme == "http" && !t.UnencryptedHTTP2 {
		return t.roundTripHTTP1(req)
	}
	x, err := newExchange(req, t.DisableCompression)
	if err != nil {
		return nil, err
	}
	x.route = anyConn
	x.setHeaderTimeout(t.ResponseHeaderTimeout)
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
		return t.fallbackIfRequired(x, err)
	}
	return resp, nil
}

// enterFor returns the host that serves req. The caller must leave it.
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

// proxyFor returns the proxy for req, or nil.
func (t *Transport) proxyFor(req *http.Request) (*url.URL, error) {
	if t.Proxy == nil {
		return http.ProxyFromEnvironment(req)
	}
	return t.Proxy(req)
}

// pause waits for d. It returns an error if ctx or cancel ends first.
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

// CloseIdleConnections closes the connections that have no streams. Requests in progress are not
// affected, and later requests make new connections.
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

// drainAll ends all connections. Connections with streams end after the last stream.
func (t *Transport) drainAll() {
	for _, h := range t.allHosts() {
		for _, c := range h.clonedConns() {
			c.drain(ReasonCloseIdle)
		}
	}
}

// allHosts returns the hosts that the Transport knows.
func (t *Transport) allHosts() []*host { return t.hosts.All() }

// config returns Config as prepared for every connection.
func (t *Transport) config() *Config {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.configLocked()
}

// configLocked returns Config as prepared for every connection. The caller holds t.mu.
func (t *Transport) configLocked() *Config {
	if t.base != nil {
		return t.base
	}
	base := t.Config.clone()
	t.base, t.toProxy = &base, t.ProxyConnectHeader.Clone()
	t.base.Scheme, t.base.Authority, t.base.TrimFieldValues = "", "", true
	if t.base.TLS == nil {
		t.base.TLS = &tls.Config{}
	}
	if mayResume(t.base.TLS) {
		t.base.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
	return t.base
}

// mayResume reports whether a TLS session cache can be added. A cache saves later connections to a
// host most of the handshake. But VerifyPeerCertificate is not called for a resumed session, and no
// client certificate is sent: if the caller has set these, each handshake has to be a full one.
// VerifyConnection is also called for resumed sessions.
func mayResume(cfg *tls.Config) bool {
	return cfg.ClientSessionCache == nil && cfg.VerifyPeerCertificate == nil &&
		cfg.GetClientCertificate == nil && len(cfg.Certificates) == 0
}
