package hyper

import (
	"context"
	"net"

	"gohyper.dev/hyper/internal/netconn"
	"gohyper.dev/hyper/internal/pool"
)

// dialsTLS reports whether DialTLSContext makes the connections to h. As documented in net/http, it
// is not used if there is a proxy: neither for connections through it nor for those to it.
func (h *host) dialsTLS() bool {
	return h.t.DialTLSContext != nil && h.key.scheme == "https" && h.key.proxy == ""
}

// dialTLS makes a connection to h with DialTLSContext.
func (h *host) dialTLS(ctx context.Context, cfg *Config, at *pool.Addr) (*Conn, error) {
	full, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := dialTimeout(withDialTrace(ctx, cfg, h.addr), full.HandshakeTimeout)
	defer cancel()
	dialed := dialTraceOf(ctx).step(TraceDialStart)
	nc, err := dialerTo(h.t.userTLS, at)(ctx, "tcp", h.addr)
	dialed(err)
	if err != nil {
		return nil, (&DialError{phase: "dial", Host: h.addr, Err: err}).judge(ctx, full.HandshakeTimeout)
	}
	given := *cfg
	given.Scheme, given.Authority = h.key.scheme, h.key.authority()
	return newConnTLS(ctx, nc, &given, &h.owner)
}

// newConnTLS is newConn for a connection that uses TLS according to the caller. As with net/http, a
// connection that does not tell which protocol was negotiated is for HTTP/1.1.
func newConnTLS(ctx context.Context, nc net.Conn, cfg *Config, o *owner) (*Conn, error) {
	if netconn.TLSOf(nc) == nil && !cfg.AssumeHTTP2 {
		return nil, &NotHTTP2Error{Conn: nc, host: cfg.Authority}
	}
	return newConn(ctx, nc, cfg, o)
}

// userTLS calls DialTLSContext.
func (t *Transport) userTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	return dialOf(t.DialTLSContext, nil, "Transport.DialTLSContext")(ctx, network, addr)
}
