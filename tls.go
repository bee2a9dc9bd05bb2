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
	"sync"
	"sync/atomic"
	"time"

	"gohyper.dev/hyper/internal/syntax"
	"gohyper.dev/hyper/internal/wire"
)

// Dial connects to addr over TCP and TLS and returns the connection when TLS has agreed on HTTP/2. addr is a host or
// host:port, with 443 as the default port; an IPv6 address stands in brackets where a port follows. Internationalized names are
// given in their ASCII form ("xn--…"). "https://host:port" is the same, and "http://host:port" asks for HTTP/2 in cleartext
// by prior knowledge (RFC 9113 §3.3), port 80 by default.
//
// The certificate is verified against the system's roots unless cfg.TLS says otherwise; errors of
// package net, crypto/tls and crypto/x509 are wrapped in one that names addr and the phase:
// dialling, or TLS. A server that does not agree on HTTP/2 is a *NotHTTP2Error, which holds the
// live connection. ctx and Config.HandshakeTimeout bound the dialling, and nothing after it: what
// ends then is ctx's error, or ErrHandshakeTimeout, which is context.DeadlineExceeded, too. All
// these, but for ctx's, are Retryable. A nil ctx is a panic.
func Dial(ctx context.Context, addr string, cfg *Config) (*Conn, error) {
	mustHave(ctx != nil, "Dial", "context.Context")
	to, err := parseAddr(addr)
	if err != nil {
		return nil, err
	}
	return dialTarget(ctx, to, cfg, cfg.dialer(), nil)
}

// dialer returns the function that makes transport connections.
func (cfg *Config) dialer() func(ctx context.Context, network, addr string) (net.Conn, error) {
	if cfg == nil || cfg.DialContext == nil {
		return new(net.Dialer).DialContext
	}
	return dialOf(cfg.DialContext, nil, "Config.DialContext")
}

// dialTarget is Dial with a dial function, and with an owner for the connection.
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
	given.TLS, given.DialContext = nil, nil // which have served
	given.Scheme, given.Authority = or(given.Scheme, to.scheme), or(given.Authority, to.authority())
	if to.scheme == "https" {
		config := clientTLS(full.TLS, to.host)
		config.Renegotiation = tls.RenegotiateNever // RFC 9113 §9.2.1
		nc = tls.Client(newCoalescer(nc), config)
	}
	return newConn(ctx, nc, &given, o)
}

// dialTimeout bounds what is done before a connection is there; a timeout of 0 or less is none.
func dialTimeout(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if at, ok := ctx.Deadline(); timeout <= 0 || ok && time.Until(at) <= timeout {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, timeout, ErrHandshakeTimeout)
}

// A DialError is what kept a connection from being made: the dialler, a proxy or TLS failed, or took
// too long. Nothing of any request was sent. It is Retryable, unless the caller's own context ended
// it. RoundTrip returns what is in it where programs look at net/http's type: the *net.OpError of a
// dial, a *tls.CertificateVerificationError, and the tls.RecordHeaderError of a server that speaks
// HTTP without TLS.
type DialError struct {
	Host string   // host and port of what was to be reached
	Addr net.Addr // where that is; nil where it is not known
	Err  error    // why

	phase   string
	context error         // of the context that ended it; nil: none did
	timeout time.Duration // Config.HandshakeTimeout, where that ended it; else 0
	asItIs  bool          // it reads as in net/http: an http.Transport's own functions made the connection
	inTLS   bool          // there was a transport connection, and its TLS handshake failed
}

// judge finds out which context ended the phase, if one did: it ran under one of dialTimeout.
func (e *DialError) judge(ctx context.Context, timeout time.Duration) *DialError {
	if at, ok := ctx.Deadline(); ok && !time.Now().Before(at) { // the socket's own timer may be a little early
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

// tlsFailed makes the error of a TLS handshake.
func tlsFailed(ctx context.Context, host string, nc net.Conn, err error, timeout time.Duration) *DialError {
	return (&DialError{phase: "TLS handshake with", Host: host, Addr: nc.RemoteAddr(), Err: err, inTLS: true}).judge(ctx, timeout)
}

// Error names the phase and its peer, and what went wrong:
//
//	hyper: dial example.com:443 (192.0.2.1:443): connect: connection refused
func (e *DialError) Error() string {
	if e.readsAsErr() {
		return e.Err.Error()
	}
	at, why := e.Addr, e.Err
	if op, ok := why.(*net.OpError); ok && op.Op == "dial" { // it says the same, without the host
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

// Unwrap returns what went wrong, and what ended it.
func (e *DialError) Unwrap() (list []error) {
	if e.timeout > 0 {
		list = append(list, ErrHandshakeTimeout)
	}
	if e.context != nil {
		list = append(list, e.context)
	}
	return append(list, e.Err)
}

// Timeout reports whether it took too long. It makes DialError a net.Error.
func (e *DialError) Timeout() bool {
	var ne net.Error
	return errors.Is(e.context, context.DeadlineExceeded) || errors.As(e.Err, &ne) && ne.Timeout()
}

// Temporary is Timeout: it exists for net.Error.
func (e *DialError) Temporary() bool { return e.Timeout() }

// notProcessed is false where the caller's own context has ended: there is nothing to be tried
// again.
func (e *DialError) notProcessed() bool { return e.context == nil || e.timeout > 0 }

// forHTTP returns the error as users of net/http know it: those of dialling and of certificates
// have its types.
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
		if string(err.RecordHeader[:]) == "HTTP/" { // http.Client makes http.ErrSchemeMismatch of it
			return err
		}
	}
	return e
}

// readsAsErr reports whether the text is that of Err alone, as net/http's is.
func (e *DialError) readsAsErr() bool {
	_, op := e.Err.(*net.OpError)
	return e.asItIs && !op
}

// An unsentError marks the reason in a *tls.CertificateVerificationError: it came before anything of a
// request was sent.
type unsentError struct{ error }

func (e unsentError) Unwrap() error      { return e.error }
func (e unsentError) notProcessed() bool { return true }

// A target is where Dial goes.
type target struct{ scheme, host, port string }

func (t target) addr() string { return net.JoinHostPort(t.host, t.port) }

// authority is what :authority says: the port only where it is not the scheme's own.
func (t target) authority() string {
	host, _, _ := strings.Cut(t.host, "%") // RFC 6874 §4: a zone means nothing to the peer
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if t.port == syntax.DefaultPort(t.scheme) {
		return host
	}
	return host + ":" + t.port
}

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
		return t, fmt.Errorf("hyper: address %q: an internationalized name is given in its ASCII form, xn--…", addr)
	}
	_, notIP := netip.ParseAddr(t.host)
	_, notPort := strconv.ParseUint(t.port, 10, 16)
	switch {
	case strings.ContainsAny(rest, "/?#"):
		return t, fmt.Errorf("hyper: address %q has a path: it is host or host:port, and the path is the request's", addr)
	case !syntax.IsAuthority(t.host) || notPort != nil:
		return t, fmt.Errorf("hyper: address %q is not host or host:port", addr)
	case notIP != nil && (rest[0] == '[' || strings.ContainsAny(t.host, ":[]%")):
		return t, fmt.Errorf("hyper: address %q: %w", addr, notIP)
	}
	return t, nil
}

// clientTLS completes the caller's TLS configuration for HTTP/2 (RFC 9113 §9.2).
func clientTLS(base *tls.Config, host string) *tls.Config {
	if base == nil {
		base = &tls.Config{}
	}
	cfg := base.Clone()
	if cfg.ServerName == "" {
		cfg.ServerName, _, _ = strings.Cut(host, "%") // an IPv6 zone is no part of the name
	}
	if cfg.NextProtos == nil {
		cfg.NextProtos = nextProtos
	}
	return cfg
}

// nextProtos has a second one so that a server without HTTP/2 answers instead of breaking off.
var nextProtos = []string{"h2", "http/1.1"}

// tlsConn is what NewConn needs of a TLS connection; *tls.Conn is one.
type tlsConn interface {
	net.Conn
	HandshakeContext(ctx context.Context) error
	ConnectionState() tls.ConnectionState
}

// tlsOverConn tells what lies below it, as *tls.Conn does. A tunnel has a NetConn of another meaning, and is none.
type tlsOverConn interface {
	tlsConn
	NetConn() net.Conn
}

// negotiated brings nc's TLS, if it has any, through its handshake and judges it. rtt is what a
// round trip of the handshake took, 0 if the caller ran it. On an error nc is closed or handed
// over, except where the peer is to be told by GOAWAY.
func negotiated(ctx context.Context, nc net.Conn, cfg *Config) (serverName string, rtt time.Duration, err error) {
	tc := tlsOf(nc)
	if tc == nil {
		return "", 0, nil
	}
	ctx, cancel := dialTimeout(ctx, cfg.HandshakeTimeout)
	defer cancel()
	took, err := handshake(ctx, tc)
	failed := func(err error) error {
		nc.Close()
		return tlsFailed(ctx, or(cfg.Authority, tc.ConnectionState().ServerName), tc, err, cfg.HandshakeTimeout)
	}
	if err != nil {
		return "", 0, failed(err)
	}
	agreed := tc.ConnectionState()
	below := coalescerBelow(nc)
	if agreed.NegotiatedProtocol != "h2" && !(cfg.AssumeHTTP2 && agreed.NegotiatedProtocol == "") {
		if err := below.passThrough(); err != nil {
			return "", 0, failed(err)
		}
		return "", 0, &NotHTTP2Error{Negotiated: agreed.NegotiatedProtocol, Conn: nc, host: or(cfg.Authority, agreed.ServerName)}
	}
	below.mode.Store(flushedByWriter)
	if reason := inadequate(&agreed); reason != "" {
		return "", 0, &ConnError{Code: InadequateSecurity, Err: errors.New(reason), Addr: nc.RemoteAddr(),
			authority: or(cfg.Authority, agreed.ServerName), goAway: true, unprocessed: true}
	}
	return agreed.ServerName, took / handshakeTrips(&agreed), nil
}

// handshake runs the handshake, if nobody has, tells those who trace it, and returns how long it took.
func handshake(ctx context.Context, tc tlsConn) (took time.Duration, err error) {
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

// handshakeTrips is how many round trips a handshake had: a second one where the server wanted another key (RFC 8446 §2.1), and in a
// full handshake of TLS 1.2 (RFC 5246 §7.3).
func handshakeTrips(state *tls.ConnectionState) time.Duration {
	if state.HelloRetryRequest || state.Version < tls.VersionTLS13 && !state.DidResume {
		return 2
	}
	return 1
}

// inadequate says what RFC 9113 §9.2 finds lacking, or "". A version or a cipher suite of 0 is not
// known: crypto/tls always tells them, other implementations may not.
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
	// Of all that crypto/tls can negotiate in TLS 1.2, these alone are not in appendix A: ephemeral keys and AEAD.
	switch state.CipherSuite {
	case tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256:
		return ""
	}
	return "cipher suite " + tls.CipherSuiteName(state.CipherSuite) + " is prohibited by RFC 9113 appendix A"
}

// receiver returns what the frames of nc are read from. TLS 1.2 and older know renegotiation.
func receiver(nc net.Conn, tc tlsConn) io.Reader {
	if tc == nil {
		return nc
	}
	state := tc.ConnectionState()
	if state.Version > tls.VersionTLS12 || state.Version == 0 {
		return nc
	}
	return &steadyTLS{tlsConn: tc, watched: coalescerBelow(nc).Conn == nil, unique: string(state.TLSUnique)}
}

// A steadyTLS treats renegotiation as RFC 9113 §9.2.1 has it. A connection that Dial made refuses
// it; whether another one does, its tls.Config decides, which cannot be seen.
type steadyTLS struct {
	tlsConn
	watched bool
	unique  string // changes with each handshake
}

func (c *steadyTLS) Read(p []byte) (int, error) {
	n, err := c.tlsConn.Read(p)
	if isRefusedRenegotiation(err) || c.watched && c.hasRenegotiated() {
		return 0, &wire.Error{Code: wire.ProtocolError, Reason: "renegotiation of TLS"}
	}
	return n, err
}

func (c *steadyTLS) hasRenegotiated() bool {
	state := c.ConnectionState()
	return string(state.TLSUnique) != c.unique
}

// isRefusedRenegotiation reports whether err says that the peer asked for renegotiation. crypto/tls
// has no type for that.
func isRefusedRenegotiation(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "local error" && op.Err.Error() == "tls: no renegotiation"
}

// transport returns the connection below TLS: closing it blocks on nothing.
func transport(nc net.Conn) net.Conn {
	for {
		lower := below(nc)
		if lower == nil {
			return nc
		}
		nc = lower
	}
}

// below returns the connection that nc writes to, nil if nc is the lowest that we know of.
func below(nc net.Conn) net.Conn {
	switch c := nc.(type) {
	case tlsOverConn:
		return c.NetConn()
	case *coalescer:
		return c.Conn
	case *earlyConn:
		return c.Conn
	case *strictConn:
		return c.Conn
	}
	if stated, ok := tlsOf(nc).(*statedConn); ok {
		return stated.lower()
	}
	return nil
}

// closeWrite ends the writing direction of nc, then that of each connection below it: TLS with
// close_notify, TCP with FIN. One that has no CloseWrite is passed over.
func closeWrite(nc net.Conn) {
	for nc != nil {
		closeWriteOf(nc)
		if nc = below(nc); nc != nil {
			// crypto/tls leaves an expired deadline behind its close_notify, and with it all that
			// is below.
			nc.SetWriteDeadline(time.Now().Add(closeGrace))
		}
	}
}

func closeWriteOf(nc net.Conn) error {
	if half, ok := nc.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// readSome reads at least one octet into p, which has room for one. io.Reader discourages a Read
// that returns 0 and no error, and does not forbid it; maxEmptyReads of those in a row are
// io.ErrNoProgress.
func readSome(r io.Reader, p []byte) (n int, err error) {
	for range maxEmptyReads {
		if n, err = r.Read(p); n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}

// writeAll writes p. io.Writer forbids a Write that takes less and returns no error; the octets
// behind would be taken for others.
func writeAll(w io.Writer, p []byte) (n int, err error) {
	if n, err = w.Write(p); n < len(p) && err == nil {
		err = io.ErrShortWrite
	}
	return n, err
}

// discard reads r to its end.
func discard(r io.Reader) {
	p := make([]byte, minReadBuffer*readBufferStep)
	for {
		if _, err := readSome(r, p); err != nil {
			return
		}
	}
}

// A strictConn is for code that does not look at what Read and Write return as closely as readSome
// and writeAll.
type strictConn struct{ net.Conn }

func (c *strictConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return c.Conn.Read(p)
	}
	return readSome(c.Conn, p)
}

func (c *strictConn) Write(p []byte) (int, error) { return writeAll(c.Conn, p) }

// A coalescer lies below TLS and joins records, 16 KiB at most each, into writes of four of them. In a handshake, what
// is written leaves when its answer is read; after it, when writeLoop flushes. So the last flight of the
// handshake shares its write with the first requests.
type coalescer struct {
	net.Conn
	mode atomic.Int32

	mu  sync.Mutex // held over writes: TLS writes from its reading side, too
	buf []byte
}

// The modes of a coalescer.
const (
	flushedByReader int32 = iota // the handshake: one goroutine writes and reads in turn
	flushedByWriter
	passedThrough // somebody else's connection
)

// coalesceSize has room for writeSize in records of 16 KiB and what TLS adds to each, and for a small one behind them.
const coalesceSize = writeSize + 4<<10

func newCoalescer(nc net.Conn) *coalescer { return &coalescer{Conn: nc} }

// coalescerBelow returns the coalescer of a connection that Dial made, and one that nobody writes to of any other.
func coalescerBelow(nc net.Conn) *coalescer {
	if tc, ok := nc.(tlsOverConn); ok {
		if below, ok := tc.NetConn().(*coalescer); ok {
			return below
		}
	}
	return &coalescer{}
}

func (c *coalescer) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mode.Load() == passedThrough {
		return writeAll(c.Conn, p)
	}
	if len(c.buf)+len(p) > coalesceSize {
		if err := c.flushLocked(); err != nil {
			return 0, err
		}
	}
	c.buf = append(c.buf, p...)
	return len(p), nil
}

func (c *coalescer) Read(p []byte) (int, error) {
	if c.mode.Load() == flushedByReader {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	if len(p) == 0 {
		return c.Conn.Read(p)
	}
	return readSome(c.Conn, p)
}

func (c *coalescer) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flushLocked()
}

func (c *coalescer) flushLocked() error {
	if len(c.buf) == 0 {
		return nil
	}
	_, err := writeAll(c.Conn, c.buf)
	c.buf = c.buf[:0]
	return err
}

// CloseWrite sends what is left, TLS's close_notify last. The connection below ends its own
// direction by itself.
func (c *coalescer) CloseWrite() error { return c.flush() }

// shrink gives back a buffer that nobody needs for now. It waits for nobody.
func (c *coalescer) shrink() {
	if c.mu.TryLock() {
		if len(c.buf) == 0 {
			c.buf = nil
		}
		c.mu.Unlock()
	}
}

// passThrough ends the gathering.
func (c *coalescer) passThrough() error {
	err := c.flush()
	c.mode.Store(passedThrough)
	return err
}

// Close sends what TLS said last.
func (c *coalescer) Close() error {
	c.flushAlert()
	return c.Conn.Close()
}

// flushAlert sends what TLS said last, an alert, where that can be done without waiting for another
// write.
func (c *coalescer) flushAlert() {
	if !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	if len(c.buf) > 0 {
		c.Conn.SetWriteDeadline(time.Now().Add(closeGrace))
		c.flushLocked()
	}
}
