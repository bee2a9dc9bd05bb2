package hyper

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"gohyper.dev/hyper/internal/netconn"
	"gohyper.dev/hyper/internal/syntax"
)

// Dial connects to addr over TCP and TLS. It returns the connection when TLS has negotiated HTTP/2.
//
// addr is a host or host:port. The default port is 443. An IPv6 address must be in brackets if a
// port follows. An internationalized name must be in its ASCII form ("xn--…"). "https://host:port"
// is the same as host:port. "http://host:port" asks for HTTP/2 in cleartext by prior knowledge (RFC
// 9113 §3.3), with the default port 80.
//
// The certificate is verified against the system's roots unless cfg.TLS says otherwise. An error of
// package net, crypto/tls or crypto/x509 is wrapped in an error that names addr and the phase:
// dialing or TLS. If the server does not negotiate HTTP/2, the error is a *NotHTTP2Error, which
// holds the live connection.
//
// ctx and Config.HandshakeTimeout bound only the call to Dial. If ctx ends it, the error is that of
// ctx. If the timeout ends it, the error is ErrHandshakeTimeout and context.DeadlineExceeded as
// well. All these errors except that of ctx are Retryable. Dial panics if ctx is nil.
func Dial(ctx context.Context, addr string, cfg *Config) (*Conn, error) {
	mustHave(ctx != nil, "Dial", "context.Context")
	to, err := parseAddr(addr)
	if err != nil {
		return nil, err
	}
	return dialTarget(ctx, to, cfg, nil)
}

// dialTarget is Dial with an owner for the connection. o may be nil.
func dialTarget(ctx context.Context, to target, cfg *Config, o *owner) (*Conn, error) {
	given := cfg.clone()
	full, err := given.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := dialTimeout(withDialTrace(ctx, cfg, to.addr()), full.HandshakeTimeout)
	defer cancel()
	dialed := dialTraceOf(ctx).step(TraceDialStart)
	nc, err := cfg.dialer()(ctx, "tcp", to.addr())
	dialed(err)
	if err != nil {
		return nil, (&DialError{phase: "dial", Host: to.addr(), Err: err}).judge(ctx, full.HandshakeTimeout)
	}
	// Both have been used already.
	given.TLS, given.DialContext = nil, nil
	given.Scheme, given.Authority = or(given.Scheme, to.scheme), or(given.Authority, to.authority())
	if to.scheme == "https" {
		config := clientTLS(full.TLS, to.host)
		config.Renegotiation = tls.RenegotiateNever // RFC 9113 §9.2.1
		nc = tls.Client(netconn.NewCoalescer(nc), config)
	}
	return newConn(ctx, nc, &given, o)
}

// dialTimeout returns a context that bounds the time until a connection is made. A timeout of 0 or
// less means no bound.
func dialTimeout(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if at, ok := ctx.Deadline(); timeout <= 0 || ok && time.Until(at) <= timeout {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, timeout, ErrHandshakeTimeout)
}

// A dialFunc makes connections like the DialContext method of net.Dialer.
type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// dialer returns the function that makes transport connections. cfg may be nil.
func (cfg *Config) dialer() dialFunc {
	if cfg == nil || cfg.DialContext == nil {
		return new(net.Dialer).DialContext
	}
	return dialOf(cfg.DialContext, nil, "Config.DialContext")
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

// A target is the destination of Dial.
type target struct{ scheme, host, port string }

// addr returns host:port for a dialer.
func (t target) addr() string { return net.JoinHostPort(t.host, t.port) }

// authority returns the value of :authority. It has a port only if that is not the scheme's
// default.
func (t target) authority() string {
	host, _, _ := strings.Cut(t.host, "%") // RFC 6874 §4: a zone is not sent to the peer
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if t.port == syntax.DefaultPort(t.scheme) {
		return host
	}
	return host + ":" + t.port
}

// parseAddr parses the addr argument of Dial.
func parseAddr(addr string) (t target, err error) {
	t.scheme = "https"
	rest := addr
	if scheme, after, ok := strings.Cut(addr, "://"); ok {
		t.scheme, rest = syntax.Lower(scheme), strings.TrimSuffix(after, "/")
		if t.scheme != "https" && t.scheme != "http" {
			return t, fmt.Errorf("hyper: address %q: the scheme is neither https nor http", addr)
		}
	}
	t.host, t.port = rest, syntax.DefaultPort(t.scheme)
	if host, port, err := net.SplitHostPort(rest); err == nil {
		t.host, t.port = host, or(port, t.port)
	} else if strings.HasPrefix(rest, "[") && strings.HasSuffix(rest, "]") {
		t.host = rest[1 : len(rest)-1]
	}
	if !syntax.IsASCII(t.host) {
		return t, fmt.Errorf("hyper: address %q: an internationalized name is given in its ASCII form, "+
			"xn--…", addr)
	}
	_, notIP := netip.ParseAddr(t.host)
	_, notPort := strconv.ParseUint(t.port, 10, 16)
	switch {
	case strings.ContainsAny(rest, "/?#"):
		return t, fmt.Errorf("hyper: address %q has a path: it is host or host:port, and the path is the "+
			"request's", addr)
	case !syntax.IsAuthority(t.host) || notPort != nil:
		return t, fmt.Errorf("hyper: address %q is not host or host:port", addr)
	case notIP != nil && (rest[0] == '[' || strings.ContainsAny(t.host, ":[]%")):
		return t, fmt.Errorf("hyper: address %q: %w", addr, notIP)
	}
	return t, nil
}
