package hyper

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptrace"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"gohyper.dev/hyper/internal/netconn"
	"gohyper.dev/hyper/internal/syntax"
	"gohyper.dev/hyper/internal/wire"
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
	return dialTarget(ctx, to, cfg, cfg.dialer(), nil)
}

// dialer returns the function that makes transport connections. cfg may be nil.
func (cfg *Config) dialer() func(ctx context.Context, network, addr string) (net.Conn, error) {
	if cfg == nil || cfg.DialContext == nil {
		return new(net.Dialer).DialContext
	}
	return dialOf(cfg.DialContext, nil, "Config.DialContext")
}

// dialTarget is Dial with a dial function and an owner for the connection.
func dialTarget(ctx context.Context, to target, cfg *Config, dial dialFunc, o *owner) (*Conn, error) {
	given := cfg.clone()
	full, err := given.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := dialTimeout(ctx, full.HandshakeTimeout)
	defer cancel()
	nc, err := dial(ctx, "tcp", to.addr())
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

// A DialError is the error for a connection that could not be made: dialing, a proxy or TLS failed,
// or took too long. No part of any request was sent. A DialError is Retryable unless the caller's
// own context ended the attempt.
//
// RoundTrip returns the inner error instead where programs look for net/http's type: the
// *net.OpError of a dial, a *tls.CertificateVerificationError, and the tls.RecordHeaderError of a
// server that responds in HTTP without TLS.
type DialError struct {
	Host string   // host and port of the destination
	Addr net.Addr // its address; nil if that is unknown
	Err  error    // the reason

	phase   string
	context error         // the error of the context that ended the attempt; nil: none did
	timeout time.Duration // Config.HandshakeTimeout, if that ended the attempt; else 0
	// asItIs says that the text is that of Err alone, as in net/http: an http.Transport's own
	// functions made the connection.
	asItIs bool

	// inTLS says that there was a transport connection and its TLS handshake failed.
	inTLS bool
}

// judge determines which context, if any, ended the phase. ctx is a context of dialTimeout under
// which the phase ran.
func (e *DialError) judge(ctx context.Context, timeout time.Duration) *DialError {
	// The socket's own timer may fire slightly before that of ctx.
	if at, ok := ctx.Deadline(); ok && !time.Now().Before(at) {
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	switch {
	case ctx.Err() == nil:
	case timeout > 0 && errors.Is(context.Cause(ctx), ErrHandshakeTimeout):
		e.context, e.timeout = context.DeadlineExceeded, timeout
	default:
		e.context = contextError(ctx)
	}
	return e
}

// tlsFailed returns the error of a TLS handshake.
func tlsFailed(ctx context.Context, host string, nc net.Conn, err error, timeout time.Duration) *DialError {
	return (&DialError{phase: "TLS handshake with", Host: host, Addr: nc.RemoteAddr(), Err: err,
		inTLS: true}).judge(ctx, timeout)
}

// Error names the phase, the destination, and the reason:
//
//	hyper: dial example.com:443 (192.0.2.1:443): connect: connection refused
func (e *DialError) Error() string {
	if e.readsAsErr() {
		return e.Err.Error()
	}
	at, why := e.Addr, e.Err
	// A *net.OpError repeats the phase and the address, without the host.
	if op, ok := why.(*net.OpError); ok && op.Op == "dial" {
		at, why = op.Addr, op.Err
	}
	text := prefix + e.phase + " " + peerName(e.Host, at) + ": "
	switch {
	case e.timeout > 0:
		text += fmt.Sprintf("not done within Config.HandshakeTimeout, %v", e.timeout)
		if e.Err == e.context {
			return text
		}
		text += ": "
	case e.context != nil && !errors.Is(e.Err, e.context):
		text += e.context.Error() + ": "
	}
	return text + bare(why)
}

// Unwrap returns the reason, and the timeout or context error that ended the attempt.
func (e *DialError) Unwrap() (list []error) {
	if e.timeout > 0 {
		list = append(list, ErrHandshakeTimeout)
	}
	if e.context != nil {
		list = append(list, e.context)
	}
	return append(list, e.Err)
}

// Timeout reports whether the attempt took too long. Timeout and Temporary make DialError a
// net.Error.
func (e *DialError) Timeout() bool {
	var ne net.Error
	return errors.Is(e.context, context.DeadlineExceeded) || errors.As(e.Err, &ne) && ne.Timeout()
}

// Temporary returns the same as Timeout. It exists for net.Error.
func (e *DialError) Temporary() bool { return e.Timeout() }

// notProcessed returns false if the caller's own context has ended, because the caller does not
// want another attempt.
func (e *DialError) notProcessed() bool { return e.context == nil || e.timeout > 0 }

// forHTTP returns the error for users of net/http. Errors of dialing and of certificates have
// net/http's types.
func (e *DialError) forHTTP() error {
	if hook, ok := e.Err.(*proxyHookError); ok && e.context == nil {
		told := *e
		told.Err, told.asItIs = hook.error, true
		return &told
	}
	switch err := e.Err.(type) {
	case *net.OpError:
		if e.timeout == 0 && (err.Op == "dial" || err.Op == "proxyconnect") {
			return err
		}
	case *tls.CertificateVerificationError:
		marked := *err
		marked.Err = unsentError{err.Err}
		return &marked
	case tls.RecordHeaderError:
		// http.Client turns this error into http.ErrSchemeMismatch.
		if string(err.RecordHeader[:]) == "HTTP/" {
			return err
		}
	}
	return e
}

// readsAsErr reports whether the text is that of Err alone, as in net/http.
func (e *DialError) readsAsErr() bool {
	_, op := e.Err.(*net.OpError)
	return e.asItIs && !op
}

// An unsentError wraps the reason in a *tls.CertificateVerificationError. It marks that no part of
// a request had been sent.
type unsentError struct{ error }

// Unwrap returns the reason.
func (e unsentError) Unwrap() error { return e.error }

// notProcessed returns true: no part of a request had been sent.
func (e unsentError) notProcessed() bool { return true }

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
		return t, fmt.Errorf("hyper: address %q: an internationalized name is given in its ASCII form, xn--…",
			addr)
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

// clientTLS returns a copy of the caller's TLS configuration, completed for HTTP/2 (RFC 9113 §9.2).
// base may be nil.
func clientTLS(base *tls.Config, host string) *tls.Config {
	if base == nil {
		base = &tls.Config{}
	}
	cfg := base.Clone()
	if cfg.ServerName == "" {
		// An IPv6 zone is not part of the name.
		cfg.ServerName, _, _ = strings.Cut(host, "%")
	}
	if cfg.NextProtos == nil {
		cfg.NextProtos = nextProtos
	}
	return cfg
}

// nextProtos is the default list of ALPN protocols. It includes http/1.1 so that a server without
// HTTP/2 completes the handshake instead of aborting it.
var nextProtos = []string{"h2", "http/1.1"}

// negotiated completes the TLS handshake of nc, if nc uses TLS, and checks the result. rtt is the
// duration of one round trip of the handshake; it is 0 if the caller ran the handshake. On an
// error, nc is closed or passed on in the error, except if a GOAWAY must still be sent to the peer.
func negotiated(ctx context.Context, nc net.Conn, cfg *Config) (serverName string, rtt time.Duration,
	err error) {
	tc := netconn.TLSOf(nc)
	if tc == nil {
		return "", 0, nil
	}
	ctx, cancel := dialTimeout(ctx, cfg.HandshakeTimeout)
	defer cancel()
	took, err := handshake(ctx, tc)
	failed := func(err error) error {
		nc.Close()
		return tlsFailed(ctx, or(cfg.Authority, tc.ConnectionState().ServerName), tc, err,
			cfg.HandshakeTimeout)
	}
	if err != nil {
		return "", 0, failed(err)
	}
	agreed := tc.ConnectionState()
	below := netconn.CoalescerBelow(nc)
	if agreed.NegotiatedProtocol != "h2" && !(cfg.AssumeHTTP2 && agreed.NegotiatedProtocol == "") {
		if err := below.PassThrough(); err != nil {
			return "", 0, failed(err)
		}
		return "", 0, &NotHTTP2Error{Negotiated: agreed.NegotiatedProtocol, Conn: nc,
			host: or(cfg.Authority, agreed.ServerName)}
	}
	below.HandshakeDone()
	if reason := inadequate(&agreed); reason != "" {
		return "", 0, &ConnError{Code: ErrCodeInadequateSecurity, Err: errors.New(reason),
			Addr:      nc.RemoteAddr(),
			authority: or(cfg.Authority, agreed.ServerName), goAway: true, unprocessed: true}
	}
	return agreed.ServerName, took / handshakeTrips(&agreed), nil
}

// A handshaker runs the TLS handshake of tc, unless it is complete, and returns how long it took.
type handshaker func(ctx context.Context, tc netconn.TLSConn) (took time.Duration, err error)

// untraced is a handshaker for HTTP/1.1: net/http calls the httptrace hooks for the connection.
func untraced(ctx context.Context, tc netconn.TLSConn) (time.Duration, error) {
	return 0, tc.HandshakeContext(ctx)
}

// handshake runs the handshake, unless it is complete, and calls the httptrace hooks in ctx. It
// returns how long the handshake took.
func handshake(ctx context.Context, tc netconn.TLSConn) (took time.Duration, err error) {
	if tc.ConnectionState().HandshakeComplete {
		return 0, tc.HandshakeContext(ctx)
	}
	trace := or(httptrace.ContextClientTrace(ctx), &httptrace.ClientTrace{})
	if trace.TLSHandshakeStart != nil {
		trace.TLSHandshakeStart()
	}
	start := time.Now()
	err = tc.HandshakeContext(ctx)
	took = time.Since(start)
	if trace.TLSHandshakeDone != nil {
		state := tls.ConnectionState{}
		if err == nil {
			state = tc.ConnectionState()
		}
		trace.TLSHandshakeDone(state, err)
	}
	return took, err
}

// handshakeTrips returns the number of round trips of a handshake: two if the server asked for
// another key (RFC 8446 §2.1) and in a full handshake of TLS 1.2 (RFC 5246 §7.3), else one.
func handshakeTrips(state *tls.ConnectionState) time.Duration {
	if state.HelloRetryRequest || state.Version < tls.VersionTLS13 && !state.DidResume {
		return 2
	}
	return 1
}

// inadequate returns which requirement of RFC 9113 §9.2 is not met, or "" if all are. A version or
// a cipher suite of 0 is unknown: crypto/tls always reports them, but other implementations may
// not.
func inadequate(state *tls.ConnectionState) string {
	if state.Version == 0 || state.Version == tls.VersionTLS12 && state.CipherSuite == 0 {
		return ""
	}
	if state.Version < tls.VersionTLS12 {
		return tls.VersionName(state.Version) + " is older than TLS 1.2"
	}
	if state.Version > tls.VersionTLS12 {
		return ""
	}
	// These are the cipher suites with ephemeral keys and AEAD: the only ones that crypto/tls can
	// negotiate in TLS 1.2 and that RFC 9113 appendix A does not prohibit.
	switch state.CipherSuite {
	case tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256:
		return ""
	}
	return "cipher suite " + tls.CipherSuiteName(state.CipherSuite) + " is prohibited by RFC 9113 appendix A"
}

// receiver returns the reader for the frames of nc. For TLS 1.2 and older, it is a steadyTLS,
// because those versions have renegotiation.
func receiver(nc net.Conn, tc netconn.TLSConn) io.Reader {
	if tc == nil {
		return nc
	}
	state := tc.ConnectionState()
	if state.Version > tls.VersionTLS12 || state.Version == 0 {
		return nc
	}
	return &steadyTLS{TLSConn: tc, watched: netconn.CoalescerBelow(nc) == nil, unique: string(state.TLSUnique)}
}

// A steadyTLS treats renegotiation as RFC 9113 §9.2.1 requires. A connection that Dial made refuses
// renegotiation. For any other connection, its tls.Config decides, which hyper cannot see: a
// steadyTLS then detects a renegotiation after it happened.
type steadyTLS struct {
	netconn.TLSConn
	watched bool   // the connection was not made by Dial, so look for a renegotiation
	unique  string // TLSUnique, which changes with each handshake
}

// Read returns a connection error if the peer asked for renegotiation.
func (c *steadyTLS) Read(p []byte) (int, error) {
	n, err := c.TLSConn.Read(p)
	if isRefusedRenegotiation(err) || c.watched && c.hasRenegotiated() {
		return 0, &wire.Error{Code: wire.ProtocolError, Reason: "renegotiation of TLS"}
	}
	return n, err
}

// hasRenegotiated reports whether there was another handshake.
func (c *steadyTLS) hasRenegotiated() bool {
	state := c.ConnectionState()
	return string(state.TLSUnique) != c.unique
}

// isRefusedRenegotiation reports whether err says that the peer asked for renegotiation. crypto/tls
// has no type for this error.
func isRefusedRenegotiation(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "local error" && op.Err.Error() == "tls: no renegotiation"
}
