package hyper

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// ConfigureTransport makes t speak HTTP/2 through hyper wherever a server agrees to that. It
// registers a pool of hyper's connections with t, for https and, where t.Protocols asks for it, for
// http. The pool works as Transport does, with t's fields in place of its own. A server that speaks
// HTTP/1.1 is served by a copy of t, on the connection on which that was found out. Websockets, and
// http, are served by t itself.
//
// t must not have been used yet. Its fields are read at its first request, but for Protocols and
// TLSNextProto, which are read here, and must not be changed later. A field whose wish cannot be
// met is an error of ConfigureTransport, or of every request where it was set after the call.
//
//	field                   what HTTP/2 connections do with it
//	Proxy                   as net/http: CONNECT in HTTP/1.1, also to https proxies; SOCKS5
//	OnProxyConnectResponse  is called for each CONNECT
//	ProxyConnectHeader      is sent with CONNECT
//	GetProxyConnectHeader   is called for each CONNECT
//	DialContext, Dial       make the connections
//	DialTLSContext, DialTLS make the TLS connections, also those to https proxies. One that has a
//	                        ConnectionState that says h2 is used for HTTP/2, as with
//	                        Transport.DialTLSContext, any other for HTTP/1.1
//	TLSClientConfig         is used, with h2 and http/1.1 in NextProtos as Protocols allows. t gets a
//	                        copy that says so
//	TLSHandshakeTimeout     bounds the handshake
//	DisableKeepAlives       a connection serves one request
//	DisableCompression      nothing is added to requests, and nothing decoded
//	MaxIdleConns            beyond it, the connection that was idle longest is closed. HTTP/2
//	                        connections are counted by themselves, those of HTTP/1.1 by themselves
//	MaxIdleConnsPerHost     the same for each host; below 0 none is kept without a stream. 0 is no
//	                        limit, as with net/http: the default of 2 is for HTTP/1.1
//	MaxConnsPerHost         is obeyed; 0 is no limit. A connection that ends after its last stream is
//	                        not counted
//	IdleConnTimeout         is obeyed; 0 is none
//	ResponseHeaderTimeout   is obeyed; 0 is none
//	ExpectContinueTimeout   is obeyed; 0 sends the body at once
//	TLSNextProto            an entry for h2 is refused; others serve, on the copy of t
//	MaxResponseHeaderBytes  becomes MAX_HEADER_LIST_SIZE, 320 bytes added. 0 is cfg's, else 10 MiB,
//	                        as with net/http. cfg.MaxHeaderMemory bounds what all responses of a
//	                        connection hold
//	WriteBufferSize         is for HTTP/1.1 connections; those of HTTP/2 have buffers of their own,
//	                        with net/http as here
//	ReadBufferSize          the same
//	ForceAttemptHTTP2       is implied
//	HTTP2                   see below
//	Protocols               nil becomes HTTP/1 and HTTP/2. UnencryptedHTTP2 without HTTP1 is HTTP/2
//	                        by prior knowledge for http. A set without HTTP/2 is refused
//
// And those of HTTP2. A value that net/http calls invalid stands for the default.
//
//	MaxConcurrentStreams           is for servers
//	StrictMaxConcurrentRequests    there is one connection to a host, and requests wait for it
//	MaxDecoderHeaderTableSize      becomes HEADER_TABLE_SIZE
//	MaxEncoderHeaderTableSize      is obeyed; 4 KiB at most
//	MaxReadFrameSize               becomes MAX_FRAME_SIZE
//	MaxReceiveBufferPerConnection  what all streams hold and may receive. Refused where
//	                               cfg.WindowManager is set
//	MaxReceiveBufferPerStream      the same for each stream
//	SendPingTimeout                silence before each PING; 0 is cfg.KeepAlive
//	PingTimeout                    until its answer; 0 is cfg.PingTimeout
//	WriteByteTimeout               of the peer not accepting a write; 0 is cfg.WriteStallTimeout
//	PermitProhibitedCipherSuites   is refused: hosts that choose one are served over HTTP/1.1
//	CountError                     is refused
//
// cfg may be nil. Its DialContext and TLS are not used, and of the rest what has no field in t. Its
// HandshakeTimeout bounds a connection with its dial where it is not 0.
//
// CloseIdleConnections of t closes the connections without a stream, and the others after their
// last stream. cfg.Monitor shows the pool: its connections, and what is counted. NewClientConn makes a connection through hyper. Clone makes a Transport that does
// not know of hyper, until ConfigureTransport is called with it. CancelRequest has no effect.
func ConfigureTransport(t *http.Transport, cfg *Config) (err error) {
	mustHave(t != nil, "ConfigureTransport", "*http.Transport")
	c := &configured{given: t, cfg: cfg.clone()}
	if t.TLSNextProto["h2"] != nil {
		return errors.New("hyper: http.Transport.TLSNextProto has an entry for h2 already: it was configured for HTTP/2 before")
	}
	if c.protocols = protocolsOf(t); !c.protocols.HTTP2() && !c.unencrypted() {
		return fmt.Errorf("hyper: http.Transport.Protocols %v does not allow HTTP/2", c.protocols)
	}
	if _, err := c.config(t); err != nil {
		return err
	}
	if err := c.cfg.Monitor.claim(); err != nil {
		return err
	}
	defer c.cfg.Monitor.releaseOn(&err)
	if err := c.register("https"); err != nil {
		return err
	}
	if c.unencrypted() {
		if err := c.register("http"); err != nil {
			return err
		}
	}
	protocols := c.protocols
	t.Protocols = &protocols
	if c.protocols.HTTP2() { // NewClientConn negotiates with it, and nothing else of t does
		t.TLSClientConfig = configuredTLS(t.TLSClientConfig, c.protocols)
	}
	return nil
}

// protocolsOf returns what t may speak once it is configured.
func protocolsOf(t *http.Transport) (p http.Protocols) {
	if t.Protocols != nil {
		return *t.Protocols
	}
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	return p
}

// configuredTLS returns a copy of the caller's TLS configuration that offers what p allows.
func configuredTLS(given *tls.Config, p http.Protocols) *tls.Config {
	if given == nil {
		given = &tls.Config{}
	}
	config := given.Clone()
	offer := slices.DeleteFunc(slices.Clone(config.NextProtos), func(name string) bool {
		return name == "h2" && !p.HTTP2() || name == "http/1.1" && !p.HTTP1()
	})
	if p.HTTP2() && !slices.Contains(offer, "h2") {
		offer = append(offer, "h2")
	}
	if p.HTTP1() && !slices.Contains(offer, "http/1.1") {
		offer = append(offer, "http/1.1")
	}
	config.NextProtos = offer
	return config
}

// A configured is what ConfigureTransport adds to an http.Transport: a pool made of its fields.
type configured struct {
	given     *http.Transport
	cfg       Config
	protocols http.Protocols

	once sync.Once // guards making the rest, at the first request
	pool *Transport
	err  error
}

// An idleCloser is how a configured is registered: http.Transport.CloseIdleConnections reaches what
// is registered for https only in a struct whose one exported field has CloseIdleConnections
// (golang/go#22891). Such a registration also keeps net/http's own HTTP/2 away.
type idleCloser struct{ Configured *configured }

// RoundTrip implements http.RoundTripper.
func (i idleCloser) RoundTrip(req *http.Request) (*http.Response, error) {
	return i.Configured.roundTrip(req)
}

// NewClientConn is called by http.Transport.NewClientConn, with a connection that speaks HTTP/2.
func (i idleCloser) NewClientConn(nc net.Conn, stateHook func()) (http.RoundTripper, error) {
	return i.Configured.newClientConn(nc, stateHook)
}

func (c *configured) register(scheme string) (err error) {
	defer func() {
		if taken := recover(); taken != nil { // RegisterProtocol has no other way to say it
			err = fmt.Errorf("hyper: http.Transport: %v", taken)
		}
	}()
	c.given.RegisterProtocol(scheme, idleCloser{c})
	return nil
}

// unencrypted reports whether http requests go over HTTP/2, by net/http's rule.
func (c *configured) unencrypted() bool {
	return c.protocols.UnencryptedHTTP2() && !c.protocols.HTTP1()
}

func (c *configured) roundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == "https" && !c.protocols.HTTP2() {
		return nil, http.ErrSkipAltProtocol
	}
	pool, err := c.transport()
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	return pool.RoundTrip(req)
}

// CloseIdleConnections closes what is idle, and lets what is not come to its end.
func (c *configured) CloseIdleConnections() {
	if pool, err := c.transport(); err == nil {
		pool.CloseIdleConnections()
		pool.drainAll()
	}
}

// transport returns the pool. It is made at the first call.
func (c *configured) transport() (*Transport, error) {
	c.once.Do(func() { c.pool, c.err = c.newPool() })
	return c.pool, c.err
}

func (c *configured) newPool() (*Transport, error) {
	t := c.given.Clone()
	if protocolsOf(t) != c.protocols {
		return nil, errors.New("hyper: http.Transport.Protocols was changed after ConfigureTransport")
	}
	cfg, err := c.config(t)
	if err != nil {
		return nil, err
	}
	pool := &Transport{
		Proxy:              t.Proxy,
		UnencryptedHTTP2:   c.unencrypted(),
		DisableCompression: t.DisableCompression,
		DisableKeepAlives:  t.DisableKeepAlives,

		GetProxyConnectHeader:  t.GetProxyConnectHeader,
		OnProxyConnectResponse: t.OnProxyConnectResponse,

		MaxConnsPerHost:       or(max(0, t.MaxConnsPerHost), -1),
		IdleConnTimeout:       or(max(0, t.IdleConnTimeout), -1),
		ResponseHeaderTimeout: t.ResponseHeaderTimeout,
		base:                  cfg,
		toProxy:               t.ProxyConnectHeader,
	}
	if pool.Proxy == nil {
		pool.Proxy = NoProxy
	}
	if t.HTTP2 != nil && t.HTTP2.StrictMaxConcurrentRequests {
		pool.MaxConnsPerHost = 1
	}
	pool.net = &netHTTP{
		//lint:ignore SA1019 it is honoured
		dial: dialOf(t.DialContext, t.Dial, "http.Transport.DialContext"),
		//lint:ignore SA1019 it is honoured
		dialTLS: dialOf(t.DialTLSContext, t.DialTLS, "http.Transport.DialTLSContext"),
		tls:     configuredTLS(t.TLSClientConfig, c.protocols),
		given:   t,
	}
	if pool.net.dial == nil {
		pool.net.dial = new(net.Dialer).DialContext
	}
	cfg.DialContext, pool.DialTLSContext = pool.net.dial, pool.net.dialTLS
	pool.fallback = pool.net.http1(pool, c.given.Clone())
	cfg.Monitor.watch(pool)
	return pool, nil
}

// config returns the configuration of connections, or why t's wishes cannot be met.
func (c *configured) config(t *http.Transport) (*Config, error) {
	cfg := c.cfg
	cfg.Scheme, cfg.Authority, cfg.TLS, cfg.DialContext, cfg.TrimBlanks = "", "", nil, nil, true
	cfg.ExpectContinueTimeout = max(t.ExpectContinueTimeout, time.Nanosecond)
	switch n := t.MaxResponseHeaderBytes; {
	case n > 0:
		cfg.MaxHeaderListSize = int(min(n, math.MaxUint32-headerSlack) + headerSlack)
	case cfg.MaxHeaderListSize == 0:
		cfg.MaxHeaderListSize = netHTTPHeaderBytes
	}
	if t.HTTP2 != nil {
		if err := cfg.applyHTTP2(t.HTTP2); err != nil {
			return nil, err
		}
	}
	_, err := cfg.withDefaults()
	return &cfg, err
}

const (
	netHTTPHeaderBytes = 10 << 20
	headerSlack        = 320             // net/http's, for what HTTP/2 counts for each field
	connectTimeout     = 1 * time.Minute // net/http's, for a proxy's answer
)

// applyHTTP2 maps what an http.Transport says of HTTP/2. Values that are out of net/http's range
// stand for the default there, and here.
func (cfg *Config) applyHTTP2(h *http.HTTP2Config) error {
	switch {
	case h.CountError != nil:
		return errors.New("hyper: http.HTTP2Config.CountError is not supported")
	case h.PermitProhibitedCipherSuites:
		return errors.New("hyper: http.HTTP2Config.PermitProhibitedCipherSuites is not supported")
	}
	valid := func(n, least, most int) bool { return n >= least && n <= most }
	if n := h.MaxDecoderHeaderTableSize; valid(n, 1, math.MaxInt32) {
		cfg.HeaderTableSize = n
	}
	if n := h.MaxEncoderHeaderTableSize; valid(n, 1, math.MaxInt32) {
		cfg.encoderTableSize = n
	}
	if n := h.MaxReadFrameSize; valid(n, 16<<10, 1<<24-1) {
		cfg.MaxFrameSize = n
	}
	if h.SendPingTimeout > 0 {
		cfg.KeepAlive = h.SendPingTimeout
	}
	if h.PingTimeout > 0 {
		cfg.PingTimeout = h.PingTimeout
	}
	if h.WriteByteTimeout > 0 {
		cfg.WriteStallTimeout = h.WriteByteTimeout
	}
	perConn, perStream := 0, 0
	if n := h.MaxReceiveBufferPerConnection; valid(n, 65535, math.MaxInt32) {
		perConn = n
	}
	if n := h.MaxReceiveBufferPerStream; valid(n, 1, math.MaxInt32) {
		perStream = n
	}
	if perConn == 0 && perStream == 0 {
		return nil
	}
	if cfg.WindowManager != nil {
		return errors.New("hyper: Config.WindowManager and http.HTTP2Config.MaxReceiveBuffer… exclude each other")
	}
	if perStream > 0 {
		cfg.WindowManager = Manual{Stream: perStream, Connection: perConn}.New
		cfg.InitialStreamWindow = perStream
	} else {
		cfg.WindowManager = Adaptive{Budget: perConn}.New
		cfg.InitialStreamWindow = or(cfg.InitialStreamWindow, adaptiveInitial)
	}
	return nil
}
