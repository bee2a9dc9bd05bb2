package hyper

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptrace"
	"strings"
	"time"

	"gohyper.dev/hyper/internal/netconn"
	"gohyper.dev/hyper/internal/wire"
)

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
		host := or(cfg.Authority, tc.ConnectionState().ServerName)
		return tlsFailed(tc, host, err).judge(ctx, cfg.HandshakeTimeout)
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
			authority: or(cfg.Authority, agreed.ServerName), how: connGoAway, processed: neverProcessed}
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
	done := dialTraceOf(ctx).step(TraceTLSStart)
	start := time.Now()
	err = tc.HandshakeContext(ctx)
	took = time.Since(start)
	done(err)
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
	return &steadyTLS{TLSConn: tc, watched: netconn.CoalescerBelow(nc) == nil,
		unique: string(state.TLSUnique)}
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
