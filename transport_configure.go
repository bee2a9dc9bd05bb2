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

// ConfigureTransport makes t use HTTP/2 through hyper if a server supports it. It registers a pool
// of hyper's connections with t for https, and also for http if t.Protocols requests that. The pool
// works like Transport, with t's fields in place of its own. A server that speaks HTTP/1.1 is
// served by a copy of t, which takes over the connection on which that was found. t itself serves
// other http requests, and WebSockets to https hosts, always over HTTP/1.1: it does not pass them
// on. Use a Transport for WebSockets over HTTP/2.
//
// t must not have been used before. Protocols and TLSNextProto are read by ConfigureTransport and
// must not be changed afterwards; the other fields are read at t's first request. If a field asks
// for something that is not supported, ConfigureTransport returns an error; if the field was set
// after the call, every request fails with it.
//
//	field                   what HTTP/2 connections do with it
//	Proxy                   as net/http: CONNECT in HTTP/1.1, also to https proxies; SOCKS5
//	OnProxyConnectResponse  is called for each CONNECT
//	ProxyConnectHeader      is sent with CONNECT
//	GetProxyConnectHeader   is called for each CONNECT
//	DialContext, Dial       make the connections
//	DialTLSContext, DialTLS make the TLS connections, also those to https proxies. One whose
//	                        ConnectionState says h2 is used for HTTP/2, as with
//	                        Transport.DialTLSContext, any other for HTTP/1.1
//	TLSClientConfig         is used. NextProtos offers h2 and http/1.1 as Protocols allows; t gets a
//	                        copy with these NextProtos
//	TLSHandshakeTimeout     limits the duration of the handshake
//	DisableKeepAlives       a connection serves one request
//	DisableCompression      nothing is added to requests, and nothing is decoded
//	MaxIdleConns            if there are more, the one that was idle longest is closed. HTTP/2 and
//	                        HTTP/1.1 connections are counted separately
//	MaxIdleConnsPerHost     the same for each host; if negative, none is kept without a stream. 0 is
//	                        no limit, as with net/http: the default of 2 is for HTTP/1.1
//	MaxConnsPerHost         is used; 0 is no limit. A connection that ends after its last stream is
//	                        not counted
//	IdleConnTimeout         is used; 0 is no timeout
//	ResponseHeaderTimeout   is used; 0 is no timeout
//	ExpectContinueTimeout   is used; 0 sends the body at once
//	TLSNextProto            an entry for h2 is an error; other entries serve, on the copy of t
//	MaxResponseHeaderBytes  becomes MAX_HEADER_LIST_SIZE, plus 320 bytes. 0 uses that of cfg, or
//	                        10 MiB, as with net/http. cfg.MaxHeaderMemory limits what all responses
//	                        of a connection hold
//	WriteBufferSize         applies to HTTP/1.1 connections; HTTP/2 connections have buffers of
//	                        their own, as with net/http
//	ReadBufferSize          the same
//	ForceAttemptHTTP2       is implied
//	HTTP2                   see below
//	Protocols               nil becomes HTTP/1 and HTTP/2. UnencryptedHTTP2 without HTTP1 is HTTP/2
//	                        with prior knowledge for http. A set without HTTP/2 is an error
//
// The fields of HTTP2 are used as follows. A value that net/http calls invalid means the default.
//
//	MaxConcurrentStreams           is for servers, and ignored
//	StrictMaxConcurrentRequests    allows one connection to a host, for which requests wait
//	MaxDecoderHeaderTableSize      becomes HEADER_TABLE_SIZE
//	MaxEncoderHeaderTableSize      is used; 4 KiB at most
//	MaxReadFrameSize               becomes MAX_FRAME_SIZE
//	MaxReceiveBufferPerConnection  limits what all streams together hold and may receive. It is an
//	                               error if cfg.WindowManager is set
//	MaxReceiveBufferPerStream      the same for each stream
//	SendPingTimeout                silence of the peer before each PING; 0 uses cfg.KeepAlive
//	PingTimeout                    how long to wait for the acknowledgment; 0 uses cfg.PingTimeout
//	WriteByteTimeout               how long the peer may not accept a write; 0 uses
//	                               cfg.WriteStallTimeout
//	PermitProhibitedCipherSuites   is an error: hosts that choose one are served over HTTP/1.1
//	CountError                     is an error
//
// cfg may be nil. Its DialContext and TLS are not used. Of its other fields, those are used that
// have no counterpart in t. If its HandshakeTimeout is not 0, it limits the time to make a
// connection, dialing included.
//
// CloseIdleConnections of t closes the connections without a stream, and the others after their
// last stream. cfg.Monitor shows the pool's connections and counters. NewClientConn makes a
// connection through hyper. Clone makes a Transport that does not use hyper until
// ConfigureTransport is called with it. CancelRequest has no effect.
func ConfigureTransport(t *http.Transport, cfg *Config) (err error) {
	mustHave(t != nil, "ConfigureTransport", "*http.Transport")
	c := &configured{given: t, cfg: cfg.clone()}
	if t.TLSNextProto["h2"] != nil {
		return errors.New("hyper: http.Transport.TLSNextProto has an entry for h2 already: it was " +
			"configured for HTTP/2 before")
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
	// NewClientConn uses this to negotiate. Nothing else of t does.
	if c.protocols.HTTP2() {
		t.TLSClientConfig = configuredTLS(t.TLSClientConfig, c.protocols)
	}
	return nil
}

// protocolsOf returns the protocols that t may use once it is configured.
func protocolsOf(t *http.Transport) (p http.Protocols) {
	if t.Protocols != nil {
		return *t.Protocols
	}
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	return p
}

// configuredTLS returns a copy of given, the caller's TLS configuration, that offers the protocols
// in p.
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

// A configured is what ConfigureTransport adds to an http.Transport: a pool that is made from its
// fields.
type configured struct {
	given     *http.Transport
	cfg       Config
	protocols http.Protocols

	once sync.Once // makes the fields below at the first request
	pool *Transport
	err  error
}

// An idleCloser is the form in which a configured is registered.
// http.Transport.CloseIdleConnections finds the round tripper that is registered for https only
// inside a struct whose one exported field has a CloseIdleConnections method (golang/go#22891).
// Such a registration also keeps net/http from using its own HTTP/2.
type idleCloser struct{ Configured *configured }

// RoundTrip implements http.RoundTripper.
func (i idleCloser) RoundTrip(req *http.Request) (*http.Response, error) {
	return i.Configured.roundTrip(req)
}

// NewClientConn is called by http.Transport.NewClientConn with a connection that speaks HTTP/2.
func (i idleCloser) NewClientConn(nc net.Conn, stateHook func()) (http.RoundTripper, error) {
	return i.Configured.newClientConn(nc, stateHook)
}

// register registers c with the http.Transport for scheme.
func (c *configured) register(scheme string) (err error) {
	defer func() {
		if taken := recover(); taken != nil { // RegisterProtocol reports errors by a panic only
			err = fmt.Errorf("hyper: http.Transport: %v", taken)
		}
	}()
	c.given.RegisterProtocol(scheme, idleCloser{c})
	return nil
}

// unencrypted reports whether http requests go over HTTP/2, by the rule of net/http.
func (c *configured) unencrypted() bool {
	return c.protocols.UnencryptedHTTP2() && !c.protocols.HTTP1()
}

// roundTrip sends req through the pool.
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

// CloseIdleConnections closes the connections without a stream, and the others after their last
// stream.
func (c *configured) CloseIdleConnections() {
	if pool, err := c.transport(); err == nil {
		pool.CloseIdleConnections()
		pool.drainAll()
	}
}

// transport returns the pool, which the first call makes.
func (c *configured) transport() (*Transport, error) {
	c.once.Do(func() { c.pool, c.err = c.newPool() })
	return c.pool, c.err
}

// newPool makes the pool from the fields of the http.Transport.
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

// config returns the configuration for connections, or an error if a field of t is not supported.
func (c *configured) config(t *http.Transport) (*Config, error) {
	cfg := c.cfg
	cfg.Scheme, cfg.Authority, cfg.TLS, cfg.DialContext, cfg.TrimFieldValues = "", "", nil, nil, true
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

// These constants have the values of net/http.
const (
	netHTTPHeaderBytes = 10 << 20
	headerSlack        = 320             // added for the overhead that HTTP/2 counts for each field
	connectTimeout     = 1 * time.Minute // for a proxy's response to CONNECT
)

// applyHTTP2 applies the HTTP/2 fields of an http.Transport. As in net/http, a value that is out of
// range means the default.
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
		cfg.Wire = or(cfg.Wire.clone(), &Wire{})
		cfg.Wire.EncoderTableSize = min(n, defaultEncoderTable)
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
		return errors.New("hyper: Config.WindowManager and http.HTTP2Config.MaxReceiveBuffer… exclude " +
			"each other")
	}
	if perStream > 0 {
		cfg.WindowManager = ReadWindow{Stream: perStream, Connection: perConn}.New
		cfg.InitialStreamWindow = perStream
	} else {
		cfg.WindowManager = AdaptiveWindow{Budget: perConn}.New
		cfg.InitialStreamWindow = or(cfg.InitialStreamWindow, adaptiveInitial)
	}
	return nil
}
