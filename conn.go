package hyper

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"gohyper.dev/hyper/internal/fieldblock"
	"gohyper.dev/hyper/internal/netconn"
	"gohyper.dev/hyper/internal/syntax"
	"gohyper.dev/hyper/internal/wire"
)

// A Conn is one HTTP/2 connection. Any number of goroutines may use it and its streams at once.
//
// Dial makes a Conn from a host name, NewConn from any net.Conn. A Conn ends when Close or Shutdown
// is called, or when the peer or the network ends it. Then Done is closed, and Err and every call
// return the reason. A Conn cannot be used again.
type Conn struct {
	// Two goroutines do the I/O: only readLoop reads the socket, and only writeLoop writes to it.
	// All other state is guarded by one mutex, mu. A call changes the state and adds bytes to
	// writer.out; writeLoop writes everything that out holds in one write. Nothing blocks while mu
	// is held: no I/O, no waiting, and no user code except the window manager. A call that must
	// wait puts a waiter on a queue, unlocks mu, and checks its condition again when it is woken.
	//
	// mu is locked by lock and unlocked by unlock. A function whose name ends in Locked needs mu
	// and keeps it. One whose name ends in Unlocking needs mu and may unlock it meanwhile: its
	// caller must check again what it knew before. One whose name ends in AndLock returns with mu
	// locked. The methods of some types need mu, and the comment of the type says so.

	cfg            Config // with the defaults filled in; never changed after newConn
	acceptEncoding string // never changed after newConn
	start          time.Time
	socket         socket
	reports        connReports

	mu managerMutex // guards everything below, except for what a comment says

	writer   connWriter
	reader   connReader
	streams  streamTable
	slots    slots
	flow     connFlow
	settings connSettings
	liveness liveness
	ending   connEnding
	counts   counts
	origins  *originSet // nil: the peer has told nothing about origins
}

// A socket is what a connection reads and writes. It does not change after newConn, so it needs no
// lock. Only readLoop reads nc, and only writeLoop writes to it and closes it.
type socket struct {
	nc    net.Conn
	below *netconn.Coalescer // joins TLS records into larger writes; nil: no TLS, or not ours
	tls   netconn.TLSConn    // nc as a TLS connection; nil in cleartext

	// The peer's address, for errors. Errors are made under mu, and the RemoteAddr method of nc may
	// be the user's, so it must not be called there.
	remote *net.Addr

	// Set by the first call of TLS, or by makeReader; nil before.
	tlsState atomic.Pointer[tls.ConnectionState]
}

// NewConn starts an HTTP/2 connection on nc and takes ownership of nc. nc may be a *tls.Conn,
// another TLS connection that has a ConnectionState method, such as Transport.DialTLSContext may
// return, or any other net.Conn, such as a net.Pipe or a tunnel. On a connection without TLS,
// NewConn uses HTTP/2 with prior knowledge (RFC 9113 §3.3).
//
// On a TLS connection, NewConn runs the handshake under ctx, unless it was run before. NewConn
// returns a *NotHTTP2Error if ALPN did not choose "h2" (see Config.AssumeHTTP2), and a *ConnError
// if the TLS parameters do not meet RFC 9113 §9.2. It does not wait for the peer's SETTINGS. ctx
// has no effect after NewConn has returned.
//
// If NewConn returns an error, nc is closed, except for a *NotHTTP2Error, which returns nc to the
// caller. An error of the TLS handshake is wrapped in an error that names the peer. It is
// ErrHandshakeTimeout if Config.HandshakeTimeout has passed. NewConn panics if ctx or nc is nil.
func NewConn(ctx context.Context, nc net.Conn, cfg *Config) (*Conn, error) {
	mustHave(ctx != nil, "NewConn", "context.Context")
	mustHave(nc != nil, "NewConn", "net.Conn")
	return newConn(withDialTrace(ctx, cfg, ""), nc, cfg, nil)
}

// mustHave panics if a required argument of an exported function is nil.
func mustHave(ok bool, function, argument string) {
	if !ok {
		panic(prefix + function + ": nil " + argument)
	}
}

// newConn is NewConn for a connection that reports to the owner o. o may be nil.
func newConn(ctx context.Context, nc net.Conn, cfg *Config, o *owner) (*Conn, error) {
	full, err := cfg.withDefaults()
	if err != nil {
		nc.Close()
		return nil, err
	}
	full.TLS, full.DialContext = nil, nil // only Dial needs them, and they may be large
	serverName, rtt, err := negotiated(ctx, nc, &full)
	refused, _ := err.(*ConnError)
	if err != nil && (refused == nil || !refused.isGoAway()) {
		return nil, err
	}
	tc := netconn.TLSOf(nc)
	if tc != nil {
		full.Scheme = or(full.Scheme, "https")
		full.Authority = or(full.Authority, serverName)
	}
	full.Scheme = or(full.Scheme, "http")
	remote := nc.RemoteAddr()
	if full.Authority == "" && remote != nil {
		full.Authority = syntax.WithoutZone(remote.String())
	}
	c := &Conn{
		cfg:      full,
		reports:  connReports{owner: o},
		socket:   socket{nc: nc, tls: tc, below: netconn.CoalescerBelow(nc), remote: &remote},
		start:    time.Now(),
		writer:   connWriter{wake: make(chan struct{}, 1), fields: fieldblock.NewWriter(), corked: true},
		ending:   connEnding{done: make(chan struct{})},
		streams:  streamTable{nextID: 1},
		flow:     connFlow{sendWindow: wire.InitialWindow},
		settings: connSettings{peer: initialPeerSettings()},
		liveness: liveness{minRTT: rtt},
	}
	c.slots.limit = initialSlots
	if n := full.Wire.encoderTableSize(); n != wire.HeaderTableSize {
		c.writer.fields.LimitTable(n)
	}
	c.acceptEncoding = acceptEncoding(full.Decoders)
	c.makeReader()
	if full.Push != nil {
		c.streams.unclaimed = &unclaimed{}
	}
	if c.writer.tracer = newConnTracer(ctx, c); c.writer.tracer.wantsFrames() {
		c.reader.frames.trace = c.writer.tracer
	}
	if full.Wire != nil && full.Wire.OnFrame != nil {
		c.reader.frames.inspect = c.tellReceived
	}
	c.flow.window.c = c
	c.flow.window.credit = wire.InitialWindow

	if err := c.begin(refused); err != nil {
		return nil, err
	}
	return c, nil
}

// makeReader makes the frameReader for nc.
func (c *Conn) makeReader() {
	c.reader.frames = newFrameReader(receiver(c.socket.nc, c.socket.tls), &c.cfg)
	c.reader.frames.onRead = c.recvOctets
	if c.socket.tls != nil {
		c.reader.frames.expectIdle, c.reader.frames.blockSize = true, tlsBlock
	}
	// Another ConnectionState method is the user's, so it must not be called under mu.
	if _, ours := c.socket.tls.(*tls.Conn); c.socket.tls != nil && !ours {
		state := c.socket.tls.ConnectionState()
		c.socket.tlsState.Store(&state)
	}
}

// begin starts the connection's goroutines. If refused is not nil, begin sends the preface and a
// GOAWAY with that error (RFC 9113 §5.4.1), ends the connection, and returns refused.
func (c *Conn) begin(refused *ConnError) error {
	c.lock()
	c.writer.tracer.connOpenedLocked()
	if c.cfg.Wire.firstFlight() != nil {
		c.appendFirstFlightLocked()
	} else {
		c.appendPrefaceLocked()
	}
	if refused != nil {
		c.reports.owner = nil
		c.failLocked(refused)
	} else {
		if !c.flow.window.open(c.cfg.WindowManager) {
			c.startLivenessLocked()
		}
	}
	c.unlock()
	c.reports.owner.opened(c)
	go c.readLoop()
	go c.writeLoop()
	if refused != nil {
		<-c.ending.socketClosed
		return refused
	}
	return nil
}

// appendPrefaceLocked appends the client preface and our SETTINGS to out (RFC 9113 §3.4). They are
// written together with the first request.
func (c *Conn) appendPrefaceLocked() {
	settings := []wire.Setting{
		{ID: wire.SettingEnablePush, Value: 0},
		{ID: wire.SettingInitialWindowSize, Value: uint32(c.cfg.InitialStreamWindow)},
		{ID: wire.SettingMaxFrameSize, Value: uint32(c.cfg.MaxFrameSize)},
		{ID: wire.SettingMaxHeaderListSize, Value: uint32(c.cfg.MaxHeaderListSize)},
	}
	if c.cfg.Push != nil {
		settings[0] = wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: uint32(c.cfg.Push.Max)}
	}
	if c.cfg.HeaderTableSize != wire.HeaderTableSize {
		settings = append(settings, wire.Setting{ID: wire.SettingHeaderTableSize,
			Value: uint32(c.cfg.HeaderTableSize)})
	}
	for _, s := range c.cfg.Settings {
		settings = append(settings, wire.Setting{ID: wire.SettingID(s.ID), Value: s.Value})
	}
	c.writer.add(append(make([]byte, 0, 256), wire.ClientPreface...))
	c.writer.add(wire.AppendSettings(c.writer.out, settings...))
	c.flow.initialWindow = int64(c.cfg.InitialStreamWindow)
	c.settings.due = append(c.settings.due, sentSettings{})
	c.settings.sent++
}

// Get sends a GET request for path and returns the response when its header has been received. path
// is absolute and may have a query. The caller must close the response's body. ctx governs the
// whole exchange, including reading the body.
func (c *Conn) Get(ctx context.Context, path string) (*Response, error) {
	mustHave(ctx != nil, "Conn.Get", "context.Context")
	// The stream and the request live as long as the response, so they share an allocation.
	x := &struct {
		s   Stream
		req Request
	}{req: Request{Method: "GET", Path: path}}
	return c.do(ctx, &x.s, &x.req)
}

// Do sends req with its body and returns the response when its header has been received. The body
// may still be being sent then, because the two directions are independent. Closing the response's
// body ends both. ctx governs the whole exchange.
func (c *Conn) Do(ctx context.Context, req *Request) (*Response, error) {
	return c.do(ctx, &Stream{}, req)
}

// do sends req on s and waits for the response. On an error it ends the exchange.
func (c *Conn) do(ctx context.Context, s *Stream, req *Request) (*Response, error) {
	mustHave(ctx != nil, "Conn.Do", "context.Context")
	mustHave(req != nil, "Conn.Do", "*Request")
	resp, err := c.openAndWait(ctx, s, opening{req: req})
	switch {
	case err == nil:
	case s.id == 0: // the stream was not opened
		closeReader(req.Body)
	default:
		s.abandon(err)
	}
	return resp, err
}

// Open sends req's header and returns its stream at once. The caller can then write and read in any
// order. If req has a Body, it is sent as by Do. Otherwise the caller writes the body, and ends it
// with CloseWrite or SendTrailers. ctx governs the stream until its end.
func (c *Conn) Open(ctx context.Context, req *Request) (*Stream, error) {
	mustHave(ctx != nil, "Conn.Open", "context.Context")
	mustHave(req != nil, "Conn.Open", "*Request")
	return c.open(ctx, &Stream{}, req)
}

// open is Open for the new Stream s.
func (c *Conn) open(ctx context.Context, s *Stream, req *Request) (*Stream, error) {
	o := opening{req: req}
	if req.Body == nil {
		o.ending = endByCaller
	}
	if err := c.openStream(ctx, s, o); err != nil {
		closeReader(req.Body)
		return nil, err
	}
	return s, nil
}

// Done returns a channel that is closed when the connection has ended. Err then returns the reason.
func (c *Conn) Done() <-chan struct{} { return c.ending.done }

// isDone reports whether the connection has ended.
func (c *Conn) isDone() bool {
	select {
	case <-c.ending.done:
		return true
	default:
		return false
	}
}

// Err returns nil while the connection is usable, and then the reason why it ended. The reason is
// ErrClosed if Close or Shutdown ended the connection, and otherwise a *ConnError, even if Close is
// called later. If the peer had sent a GOAWAY before Close or Shutdown ended the connection, the
// reason is a *ConnError that wraps ErrClosed. A GOAWAY that only responds to ours does not count.
func (c *Conn) Err() error {
	c.lock()
	defer c.unlock()
	if c.ending.err == ErrClosed && c.ending.goAway != nil && c.ending.goAway.how != connGoAwayReply {
		return c.ending.goAway.because(ErrClosed)
	}
	return c.ending.err
}

// overLocked returns the error that calls return because the connection has ended, or nil while it
// is usable. After Close the error is ErrClosed, even if the connection was lost before.
func (c *Conn) overLocked() error {
	if c.ending.phase == connClosed {
		return ErrClosed
	}
	return c.ending.err
}

// TLS returns the connection's TLS state, or nil in cleartext. The state is shared and must not be
// changed. If the TLS connection is not of package crypto/tls, the result has the fields that both
// state types have in common, and its ExportKeyingMaterial method must not be called.
func (c *Conn) TLS() *tls.ConnectionState {
	if c.socket.tls == nil {
		return nil
	}
	if state := c.socket.tlsState.Load(); state != nil {
		return state
	}
	state := c.socket.tls.ConnectionState()
	c.socket.tlsState.CompareAndSwap(nil, &state)
	return c.socket.tlsState.Load()
}

// LocalAddr returns the local address of the connection.
func (c *Conn) LocalAddr() net.Addr { return c.socket.nc.LocalAddr() }

// RemoteAddr returns the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.socket.nc.RemoteAddr() }

// Close ends the connection at once: every call on it and its streams returns ErrClosed. Close
// sends GOAWAY to the peer if that is possible without delay. It returns when the socket is closed,
// within a quarter of a second whatever the peer does. Its error is always nil.
func (c *Conn) Close() error {
	c.lock()
	c.failLocked(ErrClosed)
	c.ending.phase = connClosed
	c.unlock()
	<-c.ending.socketClosed
	return nil
}

// Shutdown ends the connection gracefully. It sends GOAWAY, refuses new requests, waits until the
// open streams have ended, and closes the connection. Data that was received remains readable. If
// ctx ends first, Shutdown closes the connection at once and returns ctx's error. If the connection
// is lost before the streams have ended, it returns that error.
func (c *Conn) Shutdown(ctx context.Context) error {
	mustHave(ctx != nil, "Conn.Shutdown", "context.Context")
	c.drain(ReasonClosed)
	select {
	case <-c.ending.done:
	case <-ctx.Done():
		if c.Err() == nil { // otherwise the connection has ended already
			c.Close()
			return contextError(ctx)
		}
	}
	<-c.ending.socketClosed
	if err := c.Err(); !errors.Is(err, ErrClosed) {
		return err
	}
	return nil
}

// drain begins a graceful end of the connection, for Shutdown and for the Transport.
func (c *Conn) drain(why ConnReason) {
	c.lock()
	c.drainLocked(why)
	c.unlock()
}

// drainLocked is drain with mu held.
func (c *Conn) drainLocked(why ConnReason) {
	if c.ending.phase < connDraining && c.ending.err == nil {
		c.ending.phase, c.reports.stateChanged = connDraining, true
		c.beginDrainingLocked(why)
		c.appendGoAwayLocked(wire.NoError, "")
		c.uncorkLocked()
		c.slots.waiting.WakeAll()
		c.closeIfDrainedLocked()
	}
}

// closeIfDrainedLocked ends the connection if it accepts no new streams and no stream is open.
func (c *Conn) closeIfDrainedLocked() {
	if len(c.streams.byID) > 0 {
		return
	}
	switch {
	case c.ending.phase == connDraining:
		c.failLocked(ErrClosed)
	case c.ending.goAway != nil:
		c.failLocked(c.ending.goAway)
	case c.ending.phase == connMute:
		c.failLocked(&ConnError{Err: errMute})
	}
}

// muteLocked stops the acceptance of requests because the peer did not acknowledge a PING for
// slots. Waiting requests fail, and can be sent on another connection. Open streams may still
// complete.
func (c *Conn) muteLocked() {
	c.ending.phase, c.reports.stateChanged = connMute, true
	c.reports.owner.countPingTimeout()
	c.beginDrainingLocked(ReasonPingTimeout)
	c.slots.waiting.WakeAll()
	c.closeIfDrainedLocked()
}

// fail ends the connection with err.
func (c *Conn) fail(err error) {
	c.lock()
	c.failLocked(err)
	c.unlock()
}

// failLocked ends the connection. Only the first error counts: it is kept, and every call returns
// it. If the error was found on our side, the last frame that is written is a GOAWAY with it.
func (c *Conn) failLocked(why error) {
	if c.ending.err != nil {
		return
	}
	err := c.endErrorLocked(why)
	// Streams above the GOAWAY's last have returned that error already, so it must not change.
	if ce, ok := err.(*ConnError); ok && ce != c.ending.goAway && ce.LastFrames == nil {
		ce.LastFrames = c.writer.tracer.lastFrames()
	}
	c.ending.err, c.reports.stateChanged = err, true
	defer c.writer.tracer.connClosedLocked(err)
	c.beginDrainingLocked(ReasonClosed)
	c.ending.socketClosed = make(chan struct{})
	// Unsent requests can be retried on another connection from now on, so the last write must not
	// contain them.
	sent := c.writer.queued
	for _, s := range c.streams.byID {
		if s.lostLocked(err) {
			sent = min(sent, s.headersStart)
		}
	}
	c.streams.byID = nil
	c.streams.unclaimed.forget()
	c.takeBackLocked(sent)
	switch ce, ok := why.(*ConnError); {
	case ok && ce.isGoAway() && !ce.FromPeer:
		debug := ""
		// The peer is not told about internal errors.
		if ce.Err != nil && ce.Code != ErrCodeInternal {
			debug = ce.Err.Error()
		}
		c.ending.readDone = make(chan struct{})
		c.appendGoAwayLocked(wire.ErrCode(ce.Code), debug)
	case ok && ce.Err == ErrPingTimeout:
		c.reports.owner.countPingTimeout()
	case err == ErrClosed && c.ending.phase < connDraining:
		c.appendGoAwayLocked(wire.NoError, "")
	}
	c.flow.window.close()
	c.slots.waiting.WakeAll()
	c.settings.waiting.WakeAll()
	c.writer.flushQ.WakeAll()
	c.uncorkLocked()
	c.stopLivenessLocked()
	close(c.ending.done)
	// A write may block if the peer does not read: one in progress, or the last one.
	// netconn.Raw calls the user's NetConn method, so it must not be called under mu.
	c.ending.closeTimer = time.AfterFunc(closeGrace, func() { netconn.Raw(c.socket.nc).Close() })
}

// endErrorLocked returns the error that all calls return after why has ended the connection. If the
// peer had sent a GOAWAY, the error contains it.
func (c *Conn) endErrorLocked(why error) error {
	ce, ok := why.(*ConnError)
	switch {
	case !ok || ce == c.ending.goAway:
		return why
	// Change a copy: failLocked still needs why for our GOAWAY.
	case c.ending.goAway != nil && ce.isGoAway():
		own := *ce
		own.LastStreamID, own.Debug, own.Err = c.ending.goAway.LastStreamID, c.ending.goAway.Debug,
			&afterGoAway{ce.Err, c.ending.goAway}
		return c.named(&own)
	case c.ending.goAway != nil:
		return c.ending.goAway.because(ce.Err)
	}
	if ce.how == connLost && !c.settings.peer.known {
		ce.how = connLostEarly
	}
	return c.named(ce)
}

// named sets the host and the address of the connection in ce, and returns ce.
func (c *Conn) named(ce *ConnError) *ConnError {
	if ce.authority = c.cfg.Authority; c.socket.remote != nil {
		ce.Addr = *c.socket.remote
	}
	return ce
}

// closeGrace is how long the last write, the GOAWAY in it, and the close may take.
const closeGrace = netconn.CloseGrace

// lock locks mu. It is always paired with unlock or unlockForOwner: after mu.Unlock alone,
// writeLoop would not learn that there is something to write.
func (c *Conn) lock() { c.mu.Lock() }

// unlock unlocks mu, wakes writeLoop if there is something to write, reports what has happened to
// Config.Trace, and then calls owner.news if that is due.
func (c *Conn) unlock() {
	if !c.reports.stateChanged && !c.mustWakeWriterLocked() { // the usual case
		if t := c.writer.tracer; t == nil || t.idleLocked() || !t.claimLocked() {
			c.mu.Unlock()
		} else {
			c.mu.Unlock()
			t.deliverAndUnlock()
		}
		return
	}
	news, traced := c.unlockAndWake()
	if traced {
		c.writer.tracer.deliverAndUnlock()
	}
	if news {
		c.reports.owner.news()
	}
}

// mustWakeWriterLocked reports whether writeLoop has something to write and does not run.
func (c *Conn) mustWakeWriterLocked() bool {
	return c.writer.state.Load() != writerRunning && c.hasWorkLocked()
}

// unlockForOwner is unlock for a call by the owner, which may hold a lock that owner.news needs.
// owner.news and Config.Trace are called in other goroutines.
func (c *Conn) unlockForOwner() {
	news, traced := c.unlockAndWake()
	if traced {
		go c.writer.tracer.deliverAndUnlock()
	}
	if news {
		go c.reports.owner.news()
	}
}

// unlockAndWake unlocks mu and wakes writeLoop if there is something to write. It reports whether
// owner.news and the tracer's deliverAndUnlock must be called.
func (c *Conn) unlockAndWake() (news, traced bool) {
	was := writerRunning
	if c.mustWakeWriterLocked() {
		was = c.writer.state.Swap(writerRunning)
	}
	news = c.reports.stateChanged && c.reports.owner.hears()
	c.reports.stateChanged = false
	if t := c.writer.tracer; t != nil {
		traced = t.claimLocked()
	}
	c.mu.Unlock()
	switch was {
	case writerParked:
		c.wakeWriter()
	case writerStopped:
		go c.writeLoop()
	}
	return news, traced
}

// readClockLocked updates now.
func (c *Conn) readClockLocked() { c.liveness.now = c.clock() }

// nowLocked returns the time. While received frames are processed, it does not read the clock, but
// returns the time at which they were read.
func (c *Conn) nowLocked() time.Duration {
	if c.reader.state != readerReceiving {
		c.readClockLocked()
	}
	return c.liveness.now
}

// clock returns the time since start.
func (c *Conn) clock() time.Duration { return time.Since(c.start) }

// ConnStats holds the statistics of a connection. Byte counts are of HTTP/2 frames, before TLS.
type ConnStats struct {
	BytesSent      int64 // passed to the socket
	BytesReceived  int64
	DataSent       int64 // payload of DATA frames
	DataReceived   int64 // flow-controlled bytes, including padding
	StreamsOpened  int64
	StreamsOpen    int // including pushes
	PushesPromised int64
	Waiting        int           // calls that wait for a stream
	RTT            time.Duration // the last measured round trip; 0: none
	MinRTT         time.Duration // the shortest, including those of our TLS handshake
	SendWindow     int64         // how much the peer lets us send on the connection now
	ReceiveWindow  int64         // how much we let the peer send
}

// counts are the statistics that no other part of Conn needs.
type counts struct{ received, dataSent, dataReceived, opened, promised int64 }

// Stats returns the connection's statistics so far.
func (c *Conn) Stats() ConnStats {
	c.lock()
	defer c.unlock()
	return ConnStats{
		BytesSent:      int64(c.writer.written),
		BytesReceived:  c.counts.received,
		DataSent:       c.counts.dataSent,
		DataReceived:   c.counts.dataReceived,
		StreamsOpened:  c.counts.opened,
		StreamsOpen:    len(c.streams.byID),
		PushesPromised: c.counts.promised,
		Waiting:        c.slots.waiting.Len(),
		RTT:            c.liveness.lastRTT,
		MinRTT:         c.liveness.minRTT,
		SendWindow:     c.flow.sendWindow,
		ReceiveWindow:  c.flow.window.credit,
	}
}
