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
	"gohyper.dev/hyper/internal/wait"
	"gohyper.dev/hyper/internal/wire"
)

// A Conn is one HTTP/2 connection. Any number of goroutines may use it and its streams at once.
//
// Dial makes a Conn from a host name, NewConn from any net.Conn. A Conn ends when Close or Shutdown
// is called, or when the peer or the network ends it. Then Done is closed, and Err and every call
// return the reason. A Conn cannot be used again.
//
// Two goroutines do the I/O: only readLoop reads the socket, and only writeLoop writes to it. All
// other state is guarded by one mutex, mu. A call changes the state and appends bytes to out;
// writeLoop writes everything that out holds in one write. Nothing blocks while mu is held: no I/O,
// no waiting, and no user code except the window manager. Functions that need mu have names that
// end in Locked. A call that must wait puts a waiter on a queue, unlocks mu, and checks its
// condition again when it is woken.
type Conn struct {
	cfg   Config // with the defaults filled in; never changed after newConn
	nc    net.Conn
	below *netconn.Coalescer // joins TLS records into larger writes; nil: no TLS, or not ours
	start time.Time
	tls   netconn.TLSConn // nc as a TLS connection; nil in cleartext

	// The peer's address, for errors. Errors are made under mu, and the RemoteAddr method of nc may
	// be the user's, so it must not be called there.
	remote *net.Addr

	// Set by the first call of TLS, or by makeReader; nil before.
	tlsState atomic.Pointer[tls.ConnectionState]

	acceptEncoding string

	wake          chan struct{} // one slot: tells writeLoop that there is work
	writerStopped atomic.Bool   // writeLoop has exited; wakeWriter restarts it
	// A request timed out and the peer has sent nothing since it was written, or the connection
	// without streams was silent for staleSilence.
	suspected atomic.Bool
	tracer    *sendTracer   // owned by writeLoop; nil: Config.Trace is nil
	done      chan struct{} // closed by the first error

	// Set by the first error. They do not change after done is closed.
	socketClosed chan struct{} // closed after writeLoop has closed the socket
	readDone     chan struct{} // set if sentErrorGoAway is; closed after readLoop has read to the end

	grants windowGrants // has its own lock

	frames *frameReader // owned by readLoop

	mu managerMutex // guards everything below

	err    error // the first error; calls return it
	goAway *ConnError
	closed bool // Close was called: no more data is returned, not even data received before
	// Shutdown was called: no new streams, and the connection ends after the last one.
	draining bool
	// The peer did not acknowledge a PING for slots: no new streams, and the connection ends after
	// the last one.
	mute            bool
	sentErrorGoAway bool       // the last write has a GOAWAY with an error: linger until the peer can read it
	toldOpen        bool       // the owner's OnConn hears of the connection
	drainReason     ConnReason // why no more requests are accepted; 0: they are

	unblock bool          // the peer raised all stream windows: check the blocked streams
	watched bool          // some window manager called WatchFrames
	drained chan struct{} // closed when drainReason is set; nil: Draining was not called

	// Writing.
	out        []byte             // bytes for the next write: whole frames
	spare      []byte             // replaces out during a write; nil while it is being written
	fields     *fieldblock.Writer // compression state after what is in out
	updates    []*Window          // windows whose WINDOW_UPDATE is to be sent
	ready      sendQueue          // streams that have data to send and stream window for it
	blocked    sendQueue          // streams that wait for stream window
	queued     uint64             // bytes appended to out so far
	written    uint64             // bytes passed to the socket so far
	flushed    uint64             // bytes that the socket has accepted
	flushQ     wait.Queue         // calls that wait until flushed grows
	closeTimer *time.Timer        // set with err: closes the transport after closeGrace

	// Streams.
	streams     map[uint32]*Stream // nil after a time without streams
	nextID      uint32             // ID of our next stream, odd
	lastPushID  uint32             // the highest stream ID that the peer promised
	pushes      int                // promised pushes that are not yet both ended and claimed
	unclaimed   *unclaimed         // nil: push is off
	slots       slots
	headerArena Header // memory for the fields of responses
	idleSince   time.Duration
	// Streams whose readers are woken when no complete frame is left in the read buffer.
	wakeups []*Stream
	// Some stream has buffered at least farAhead: readLoop yields, so that the data is read while
	// it is in the processor's cache.
	yieldToReader bool
	receiving     bool // readLoop processes the frames in its read buffer
	// The read buffer is empty and readLoop is about to read. Until it locks mu again, it uses
	// nothing of frames except the buffer.
	reading      bool
	idle         bool  // reading is true and no stream is open
	shortIdles   uint8 // how many times in a row that lasted less than shrinkDelay, up to busy
	stateChanged bool  // owner.news must be called
	corked       bool  // the preface waits for the first request
	writerParked bool  // writeLoop waits for wake, or has exited

	// owner.news is called without mu when something that the owner waits for may have happened: a
	// slot is free after reserve found none, or no new streams are possible any more. nil: the
	// connection has no owner.
	owner *owner

	spares wait.Spares // waiters to use again

	// Memory that many simultaneous streams needed is released some time after they have ended.
	peak   int           // the most streams at once, open or remembered as reset, since the last release
	trimAt time.Duration // when to check for it; 0: never

	// Windows.
	window     Window // the connection's receive window
	sendWindow int64
	maxDelta   int64 // upper bound of all streams' sendDelta

	// Settings.
	peer        peerSettings
	settingsDue []sentSettings // SETTINGS of ours that the peer has not acknowledged
	// Calls that wait for the peer's first SETTINGS or for an acknowledgment.
	settingsQ     wait.Queue
	initialWindow int64 // of the receive windows of new streams

	origins *originSet // nil: the peer has told nothing about origins

	liveness
	now     time.Duration // time since start, updated at each read of the socket
	minRTT  time.Duration // 0: not measured yet
	lastRTT time.Duration
	counts  counts
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
	return newConn(ctx, nc, cfg, nil)
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
		cfg:        full,
		owner:      o,
		nc:         nc,
		tls:        tc,
		below:      netconn.CoalescerBelow(nc),
		remote:     &remote,
		start:      time.Now(),
		wake:       make(chan struct{}, 1),
		done:       make(chan struct{}),
		fields:     fieldblock.NewWriter(),
		nextID:     1,
		corked:     true,
		sendWindow: wire.InitialWindow,
		peer:       initialPeerSettings(),
		minRTT:     rtt,
	}
	c.slots.limit = initialSlots
	if n := full.encoderTableSize; n > 0 {
		c.fields.LimitTable(uint32(n))
	}
	c.acceptEncoding = acceptEncoding(full.Decoders)
	c.makeReader()
	if full.Push != nil {
		c.unclaimed = &unclaimed{}
	}
	if full.Trace != nil {
		c.frames.trace = c.traceReceived
		c.tracer = newSendTracer(c)
	}
	c.window.c = c
	c.window.credit = wire.InitialWindow

	if err := c.begin(refused); err != nil {
		return nil, err
	}
	return c, nil
}

// makeReader makes the frameReader for nc.
func (c *Conn) makeReader() {
	c.frames = newFrameReader(receiver(c.nc, c.tls), &c.cfg)
	c.frames.onRead = c.recvOctets
	if c.tls != nil {
		c.frames.expectIdle, c.frames.blockSize = true, tlsBlock
	}
	// Another ConnectionState method is the user's, so it must not be called under mu.
	if _, ours := c.tls.(*tls.Conn); c.tls != nil && !ours {
		state := c.tls.ConnectionState()
		c.tlsState.Store(&state)
	}
}

// begin starts the connection's goroutines. If refused is not nil, begin sends the preface and a
// GOAWAY with that error (RFC 9113 §5.4.1), ends the connection, and returns refused.
func (c *Conn) begin(refused *ConnError) error {
	c.mu.Lock()
	c.appendPrefaceLocked()
	if refused != nil {
		c.owner = nil
		c.failLocked(refused)
	} else {
		if !c.window.open(c.cfg.WindowManager) {
			c.startLivenessLocked()
		}
	}
	c.mu.Unlock()
	c.owner.opened(c)
	go c.readLoop()
	go c.writeLoop()
	if refused != nil {
		<-c.socketClosed
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
	c.append(append(make([]byte, 0, 256), wire.ClientPreface...))
	c.append(wire.AppendSettings(c.out, settings...))
	c.initialWindow = int64(c.cfg.InitialStreamWindow)
	c.settingsDue = append(c.settingsDue, sentSettings{})
	c.settingsSent++
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
	s, o := &Stream{}, opening{req: req}
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
func (c *Conn) Done() <-chan struct{} { return c.done }

// isDone reports whether the connection has ended.
func (c *Conn) isDone() bool {
	select {
	case <-c.done:
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
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == ErrClosed && c.goAway != nil && c.goAway.how != connGoAwayReply {
		return c.goAway.because(ErrClosed)
	}
	return c.err
}

// overLocked returns the error that calls return because the connection has ended, or nil while it
// is usable. After Close the error is ErrClosed, even if the connection was lost before.
func (c *Conn) overLocked() error {
	if c.closed {
		return ErrClosed
	}
	return c.err
}

// TLS returns the connection's TLS state, or nil in cleartext. The state is shared and must not be
// changed. If the TLS connection is not of package crypto/tls, the result has the fields that both
// state types have in common, and its ExportKeyingMaterial method must not be called.
func (c *Conn) TLS() *tls.ConnectionState {
	if c.tls == nil {
		return nil
	}
	if state := c.tlsState.Load(); state != nil {
		return state
	}
	state := c.tls.ConnectionState()
	c.tlsState.CompareAndSwap(nil, &state)
	return c.tlsState.Load()
}

// LocalAddr returns the local address of the connection.
func (c *Conn) LocalAddr() net.Addr { return c.nc.LocalAddr() }

// RemoteAddr returns the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// Close ends the connection at once: every call on it and its streams returns ErrClosed. Close
// sends GOAWAY to the peer if that is possible without delay. It returns when the socket is closed,
// within a quarter of a second whatever the peer does. Its error is always nil.
func (c *Conn) Close() error {
	c.mu.Lock()
	c.closed = true
	c.failLocked(ErrClosed)
	c.unlock()
	<-c.socketClosed
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
	case <-c.done:
	case <-ctx.Done():
		if c.Err() == nil { // otherwise the connection has ended already
			c.Close()
			return contextError(ctx)
		}
	}
	<-c.socketClosed
	if err := c.Err(); !errors.Is(err, ErrClosed) {
		return err
	}
	return nil
}

// drain begins a graceful end of the connection, for Shutdown and for the Transport.
func (c *Conn) drain(why ConnReason) {
	c.mu.Lock()
	c.drainLocked(why)
	c.unlock()
}

// drainLocked is drain with mu held.
func (c *Conn) drainLocked(why ConnReason) {
	if !c.draining && c.err == nil {
		c.draining, c.stateChanged = true, true
		c.beginDrainingLocked(why)
		c.appendGoAwayLocked(wire.NoError, "")
		c.uncorkLocked()
		c.slots.waiting.WakeAll()
		c.closeIfDrainedLocked()
	}
}

// closeIfDrainedLocked ends the connection if it accepts no new streams and no stream is open.
func (c *Conn) closeIfDrainedLocked() {
	if len(c.streams) > 0 {
		return
	}
	switch {
	case c.draining:
		c.failLocked(ErrClosed)
	case c.goAway != nil:
		c.failLocked(c.goAway)
	case c.mute:
		c.failLocked(&ConnError{Err: errMute})
	}
}

// muteLocked stops the acceptance of requests because the peer did not acknowledge a PING for
// slots. Waiting requests fail, and can be sent on another connection. Open streams may still
// complete.
func (c *Conn) muteLocked() {
	c.mute, c.stateChanged = true, true
	c.owner.countPingTimeout()
	c.beginDrainingLocked(ReasonPingTimeout)
	c.slots.waiting.WakeAll()
	c.closeIfDrainedLocked()
}

// fail ends the connection with err.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	c.failLocked(err)
	c.unlock()
}

// failLocked ends the connection. Only the first error counts: it is kept, and every call returns
// it. If the error was found on our side, the last frame that is written is a GOAWAY with it.
func (c *Conn) failLocked(why error) {
	if c.err != nil {
		return
	}
	err := c.endErrorLocked(why)
	c.err, c.stateChanged = err, true
	c.beginDrainingLocked(ReasonClosed)
	c.socketClosed = make(chan struct{})
	// Unsent requests can be retried on another connection from now on, so the last write must not
	// contain them.
	sent := c.queued
	for _, s := range c.streams {
		if s.lostLocked(err) {
			sent = min(sent, s.headersStart)
		}
	}
	c.streams = nil
	c.unclaimed.forget()
	c.takeBackLocked(sent)
	switch ce, ok := why.(*ConnError); {
	case ok && ce.isGoAway() && !ce.FromPeer:
		debug := ""
		// The peer is not told about internal errors.
		if ce.Err != nil && ce.Code != ErrCodeInternal {
			debug = ce.Err.Error()
		}
		c.sentErrorGoAway, c.readDone = true, make(chan struct{})
		c.appendGoAwayLocked(wire.ErrCode(ce.Code), debug)
	case ok && ce.Err == ErrPingTimeout:
		c.owner.countPingTimeout()
	case err == ErrClosed && !c.draining:
		c.appendGoAwayLocked(wire.NoError, "")
	}
	c.window.close()
	c.slots.waiting.WakeAll()
	c.settingsQ.WakeAll()
	c.flushQ.WakeAll()
	c.uncorkLocked()
	c.stopLivenessLocked()
	close(c.done)
	// A write may block if the peer does not read: one in progress, or the last one.
	// netconn.Raw calls the user's NetConn method, so it must not be called under mu.
	c.closeTimer = time.AfterFunc(closeGrace, func() { netconn.Raw(c.nc).Close() })
}

// endErrorLocked returns the error that all calls return after why has ended the connection. If the
// peer had sent a GOAWAY, the error contains it.
func (c *Conn) endErrorLocked(why error) error {
	ce, ok := why.(*ConnError)
	switch {
	case !ok || ce == c.goAway:
		return why
	// Change a copy: failLocked still needs why for our GOAWAY.
	case c.goAway != nil && ce.isGoAway():
		own := *ce
		own.LastStreamID, own.Debug, own.Err = c.goAway.LastStreamID, c.goAway.Debug,
			&afterGoAway{ce.Err, c.goAway}
		return c.named(&own)
	case c.goAway != nil:
		return c.goAway.because(ce.Err)
	}
	if ce.how == connLost && !c.peer.known {
		ce.how = connLostEarly
	}
	return c.named(ce)
}

// named sets the host and the address of the connection in ce, and returns ce.
func (c *Conn) named(ce *ConnError) *ConnError {
	if ce.authority = c.cfg.Authority; c.remote != nil {
		ce.Addr = *c.remote
	}
	return ce
}

// closeGrace is how long the last write, the GOAWAY in it, and the close may take.
const closeGrace = netconn.CloseGrace

// unlock unlocks mu, wakes writeLoop if there is something to write, and then calls owner.news if
// that is due.
func (c *Conn) unlock() {
	if news := c.unlockAndWake(); news {
		c.owner.news()
	}
}

// unlockForOwner is unlock for a call by the owner, which may hold a lock that owner.news needs.
// owner.news is called in another goroutine.
func (c *Conn) unlockForOwner() {
	if news := c.unlockAndWake(); news {
		go c.owner.news()
	}
}

// unlockAndWake unlocks mu and wakes writeLoop if there is something to write. It reports whether
// owner.news must be called.
func (c *Conn) unlockAndWake() (news bool) {
	wake := c.writerParked && c.hasWorkLocked()
	if wake {
		c.writerParked = false
	}
	news = c.stateChanged && c.owner != nil && c.owner.news != nil
	c.stateChanged = false
	c.mu.Unlock()
	if wake {
		c.wakeWriter()
	}
	return news
}

// readClockLocked updates now.
func (c *Conn) readClockLocked() { c.now = c.clock() }

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
	c.mu.Lock()
	defer c.mu.Unlock()
	return ConnStats{
		BytesSent:      int64(c.written),
		BytesReceived:  c.counts.received,
		DataSent:       c.counts.dataSent,
		DataReceived:   c.counts.dataReceived,
		StreamsOpened:  c.counts.opened,
		StreamsOpen:    len(c.streams),
		PushesPromised: c.counts.promised,
		Waiting:        c.slots.waiting.Len(),
		RTT:            c.lastRTT,
		MinRTT:         c.minRTT,
		SendWindow:     c.sendWindow,
		ReceiveWindow:  c.window.credit,
	}
}
