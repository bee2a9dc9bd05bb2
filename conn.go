package hyper

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"gohyper.dev/hyper/internal/syntax"
	"gohyper.dev/hyper/internal/wait"
	"gohyper.dev/hyper/internal/wire"
)

// A Conn is one HTTP/2 connection. Any number of goroutines may use it and its streams at once.
//
// Dial makes one from a name, NewConn from any net.Conn. It ends with Close or Shutdown, or when the peer or
// the network ends it: Done is closed then, and Err and every call say why. It cannot be used again.
//
// How it works: readLoop alone reads the socket and writeLoop alone writes it; all else is state under one
// mutex. A call changes state and appends bytes to out, and writeLoop takes everything that has gathered there in one
// write. Nothing blocks under mu: no I/O, no waiting, no code of the user's except the window manager.
// Functions that need mu end in Locked. To wait, a caller queues itself, unlocks, and is woken to look again.
type Conn struct {
	cfg   Config // with the defaults filled in; not changed any more
	nc    net.Conn
	below *coalescer // below nc, where Dial made it
	start time.Time
	tls   tlsConn // nc, as tlsOf has it; nil: cleartext

	remote *net.Addr // for errors: they are made under mu, where nc's RemoteAddr, which may be the user's, must not be called

	tlsState atomic.Pointer[tls.ConnectionState] // nil: nobody has asked yet

	acceptEncoding string

	kick      chan struct{} // one slot: writeLoop has work
	retired   atomic.Bool   // there is no writeLoop: who has work for it starts one
	suspected atomic.Bool   // a request timed out, and the peer has been silent since it was sent
	tracer    *sendTracer   // owned by writeLoop; nil: nobody looks
	done      chan struct{} // closed by the first error

	// Made by the first error, and not changed once done is closed.
	ended     chan struct{} // closed when writeLoop has closed the socket
	accuses   bool          // the last thing written tells the peer of its mistake
	readEnded chan struct{} // then: closed when readLoop has read its last

	grants windowGrants // has a lock of its own

	frames *frameReader // owned by readLoop

	mu managerMutex // guards everything below

	err      error // the first one: what every caller sees
	closed   bool  // Close was called: nothing is handed out any more, not even what had arrived
	draining bool  // Shutdown was called: no new streams, and the end after the last one
	mute     bool  // the peer answers no PING that slots need: no new streams, and the end after the last one
	goAway   *ConnError

	toldOpen    bool          // the owner's OnConn hears of the connection
	drainReason ConnReason    // why it takes no more requests, 0: it does
	drained     chan struct{} // closed then; nil: Draining was not called

	// writing
	out     []byte       // bytes for the next write, whole frames
	spare   []byte       // takes the place of out; nil while it is being written
	fields  *fieldWriter // compression state of what is in out
	updates []*Window    // their WINDOW_UPDATEs are due
	ready   sendQueue    // streams with something to send and the window for it
	blocked sendQueue    // streams that wait for a window of their own
	unblock bool         // the peer has raised all windows: look through blocked
	corked  bool         // the preface waits for the first request
	parked  bool         // writeLoop waits for kick, or has retired
	queued  uint64       // octets appended to out so far
	written uint64       // octets handed to the socket so far
	flushed uint64       // octets that the socket has taken
	flushQ  wait.Queue   // waits for flushed to grow
	force   *time.Timer  // once err is set: closes the transport if nothing else does

	// streams
	streams    map[uint32]*Stream // nil where there are none for long
	nextID     uint32             // of our next stream, odd
	lastPushID uint32             // the highest that the peer promised
	pushes     int                // promised and not yet both over and claimed
	unclaimed  *unclaimed         // nil: push is off
	slots      slots
	fieldRoom  Header // for the fields of responses
	idleSince  time.Duration
	wakeups    []*Stream // to be woken when the reader has no more frames at hand
	ahead      bool      // of a reader whose octets grow cold: readLoop lets it run first
	receiving  bool      // readLoop deals with the frames at hand
	reading    bool      // readLoop has nothing at hand, and touches nothing of frames but the buffer until it has the lock again
	resting    bool      // and nobody waits for anything
	rests      uint8     // that were short, in a row, up to busy
	news       bool      // owner.news is due

	// owner.news tells the owner, with mu unlocked, what it waits for: a slot that reserve did not find, or that there will
	// be no new streams. Nil: nobody waits.
	owner *owner

	spares wait.Spares // waiters, to serve again

	// What many streams at once have taken is given back some time after they are gone.
	peak   int           // the most streams, open or remembered as reset, since then
	trimAt time.Duration // when to look, 0: not at all

	// windows
	window     Window // receive window of the connection
	watched    bool   // some manager hears of every frame
	sendWindow int64
	maxDelta   int64 // no stream's sendDelta is larger

	// settings
	peer          peerSettings
	settingsDue   []sentSettings // ours, sent and not acknowledged
	settingsQ     wait.Queue     // waits for the peer's first SETTINGS, and for acknowledgments
	initialWindow int64          // of new streams' receive windows

	origins *originSet // nil: the peer has said nothing about origins

	lab *lab // nil, except in the simulator

	liveness
	now     time.Duration // since start; read once per read of the socket
	minRTT  time.Duration // 0: none was measured
	lastRTT time.Duration
	counts  counts
}

// NewConn speaks HTTP/2 over nc, which it owns from then on: a *tls.Conn, or another connection with
// a ConnectionState method, as Transport.DialTLSContext may return; any other net.Conn (cleartext
// with prior knowledge, RFC 9113 §3.3), a net.Pipe, a tunnel. On one of TLS it runs the handshake,
// under ctx, unless that was done, and refuses a connection whose ALPN is not "h2" with
// *NotHTTP2Error (see Config.AssumeHTTP2), and one whose TLS falls short of RFC 9113 §9.2 with a
// ConnError. It does not wait for the peer; ctx governs nothing after NewConn has returned.
//
// On an error nc is closed, except with *NotHTTP2Error, which hands it back. An error of the TLS
// handshake is wrapped in one that names the peer, and is ErrHandshakeTimeout where
// Config.HandshakeTimeout ended it. A nil ctx or nc is a panic.
func NewConn(ctx context.Context, nc net.Conn, cfg *Config) (*Conn, error) {
	mustHave(ctx != nil, "NewConn", "context.Context")
	mustHave(nc != nil, "NewConn", "net.Conn")
	return newConn(ctx, nc, cfg, nil)
}

// mustHave panics at the call of a function that was given nil for what it cannot do without.
func mustHave(ok bool, function, argument string) {
	if !ok {
		panic(prefix + function + ": nil " + argument)
	}
}

func newConn(ctx context.Context, nc net.Conn, cfg *Config, o *owner) (*Conn, error) {
	full, err := cfg.withDefaults()
	if err != nil {
		nc.Close()
		return nil, err
	}
	full.TLS, full.DialContext = nil, nil // they are for Dial, and may be large
	serverName, rtt, err := negotiated(ctx, nc, &full)
	refused, _ := err.(*ConnError)
	if err != nil && (refused == nil || !refused.goAway) {
		return nil, err
	}
	tc := tlsOf(nc)
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
		below:      coalescerBelow(nc),
		remote:     &remote,
		start:      time.Now(),
		kick:       make(chan struct{}, 1),
		done:       make(chan struct{}),
		fields:     newFieldWriter(),
		nextID:     1,
		corked:     true,
		sendWindow: wire.InitialWindow,
		peer:       initialPeerSettings(),
		minRTT:     rtt,
	}
	c.slots.limit = initialSlots
	if n := full.encoderTableSize; n > 0 {
		c.fields.limitTable(uint32(n))
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

// makeReader makes what reads nc.
func (c *Conn) makeReader() {
	c.frames = newFrameReader(receiver(c.nc, c.tls), &c.cfg)
	c.frames.onRead = c.recvOctets
	if c.tls != nil {
		c.frames.quiet, c.frames.blockSize = true, tlsBlock
	}
	if stated, ok := c.tls.(*statedConn); ok { // its method is the user's: it is not called under mu
		state := stated.ConnectionState()
		c.tlsState.Store(&state)
	}
}

// begin starts the connection. One that is refused says so to the peer, behind the preface (RFC
// 9113 §5.4.1), and ends.
func (c *Conn) begin(refused *ConnError) error {
	c.mu.Lock()
	c.appendPrefaceLocked()
	if refused != nil {
		c.owner = nil
		c.failLocked(refused)
	} else {
		c.window.open(c.cfg.WindowManager)
		c.startLivenessLocked()
	}
	c.mu.Unlock()
	c.owner.opened(c)
	go c.readLoop()
	go c.writeLoop()
	if refused != nil {
		<-c.ended
		return refused
	}
	return nil
}

// appendPrefaceLocked begins out: the preface, our SETTINGS (RFC 9113 §3.4). They leave together with the first request.
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
		settings = append(settings, wire.Setting{ID: wire.SettingHeaderTableSize, Value: uint32(c.cfg.HeaderTableSize)})
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

// Get sends GET for path, which is absolute and may have a query, and returns the response when its header has come.
// The caller closes the response's body. ctx governs the whole exchange, the reading of the body included.
func (c *Conn) Get(ctx context.Context, path string) (*Response, error) {
	mustHave(ctx != nil, "Conn.Get", "context.Context")
	x := &struct { // both live as long as the response: they are one allocation
		s   Stream
		req Request
	}{req: Request{Method: "GET", Path: path}}
	return c.do(ctx, &x.s, &x.req)
}

// Do sends req with its body and returns the response when its header has come. The body may still be on its
// way then: the two directions are independent, and closing the response's body ends both.
func (c *Conn) Do(ctx context.Context, req *Request) (*Response, error) {
	return c.do(ctx, &Stream{}, req)
}

func (c *Conn) do(ctx context.Context, s *Stream, req *Request) (*Response, error) {
	mustHave(ctx != nil, "Conn.Do", "context.Context")
	mustHave(req != nil, "Conn.Do", "*Request")
	resp, err := c.openAndWait(ctx, s, req, inTurn)
	switch {
	case err == nil:
	case s.id == 0: // it never began
		closeReader(req.Body)
	default:
		s.abort(err)
		s.closeRead()
	}
	return resp, err
}

// openAndWait opens s and waits for its response, all under one lock.
func (c *Conn) openAndWait(ctx context.Context, s *Stream, req *Request, how turn) (*Response, error) {
	if err := c.openAndLock(ctx, s, req, endWithBody, how); err != nil {
		return nil, err
	}
	defer c.unlock()
	resp, err := s.responseLocked(ctx)
	if err == nil { // a response that is whole has nothing left for ctx to end
		s.watchLocked(ctx)
	}
	return resp, err
}

// Open sends req's header and returns its stream at once, for the caller to write and read as it likes. A
// Body in req is sent as by Do; without one the caller writes and ends with CloseWrite or SendTrailers. ctx governs
// the stream to its end.
func (c *Conn) Open(ctx context.Context, req *Request) (*Stream, error) {
	mustHave(ctx != nil, "Conn.Open", "context.Context")
	mustHave(req != nil, "Conn.Open", "*Request")
	if req.Body != nil {
		return c.open(ctx, req, endWithBody)
	}
	return c.open(ctx, req, endByCaller)
}

// Done is closed when the connection has ended; Err says why.
func (c *Conn) Done() <-chan struct{} { return c.done }

func (c *Conn) isDone() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// Err returns nil while the connection lives, then why it ended: ErrClosed where Close or Shutdown
// ended it, else a *ConnError, also after Close. Where the peer had sent GOAWAY before, other than
// as an answer to ours, it is a *ConnError with ErrClosed in it.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == ErrClosed && c.goAway != nil && !c.goAway.answers {
		return c.goAway.because(ErrClosed)
	}
	return c.err
}

// overLocked returns what calls get because the connection has ended, nil while it lives. After
// Close that is ErrClosed, however the connection was lost before.
func (c *Conn) overLocked() error {
	if c.closed {
		return ErrClosed
	}
	return c.err
}

// TLS returns the connection's TLS state, nil in cleartext. It is shared and must not be changed.
// Of a connection of another package than crypto/tls, it has the fields that the two states share;
// its ExportKeyingMaterial cannot be called then.
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

// LocalAddr returns the address of this end.
func (c *Conn) LocalAddr() net.Addr { return c.nc.LocalAddr() }

// RemoteAddr returns the address of the peer.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// Close ends the connection at once: every call on it and its streams returns ErrClosed. The peer is told by
// GOAWAY where it accepts that without delay. Close returns when the socket is closed, within a quarter of a
// second whatever the peer does; its error is always nil.
func (c *Conn) Close() error {
	c.mu.Lock()
	c.closed = true
	c.failLocked(ErrClosed)
	c.unlock()
	<-c.ended
	return nil
}

// Shutdown ends the connection in good order: it sends GOAWAY, takes no new requests, lets the streams come to
// their ends, and closes. What had arrived stays readable. If ctx ends first, it closes at once and returns ctx's error; if the
// connection is lost before the streams have ended, it returns that error.
func (c *Conn) Shutdown(ctx context.Context) error {
	mustHave(ctx != nil, "Conn.Shutdown", "context.Context")
	c.drain(ReasonClosed)
	select {
	case <-c.done:
	case <-ctx.Done():
		if c.Err() == nil { // else there was nothing to wait for
			c.Close()
			return contextError(ctx)
		}
	}
	<-c.ended
	if err := c.Err(); !errors.Is(err, ErrClosed) {
		return err
	}
	return nil
}

// drain begins a Shutdown.
func (c *Conn) drain(why ConnReason) {
	c.mu.Lock()
	c.drainLocked(why)
	c.unlock()
}

func (c *Conn) drainLocked(why ConnReason) {
	if !c.draining && c.err == nil {
		c.draining, c.news = true, true
		c.beginDrainingLocked(why)
		c.appendGoAwayLocked(wire.NoError, "")
		c.uncorkLocked()
		c.slots.waiting.WakeAll()
		c.closeIfDrainedLocked()
	}
}

// closeIfDrainedLocked ends a connection that will have no new streams and has no old ones.
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

// muteLocked ends the taking of requests on a connection whose peer does not answer the PINGs that
// slots need. Requests that wait can be served elsewhere; what is open may come to its end.
func (c *Conn) muteLocked() {
	c.mute, c.news = true, true
	c.owner.countPingTimeout()
	c.beginDrainingLocked(ReasonPingTimeout)
	c.slots.waiting.WakeAll()
	c.closeIfDrainedLocked()
}

func (c *Conn) fail(err error) {
	c.mu.Lock()
	c.failLocked(err)
	c.unlock()
}

// failLocked ends the connection. The first error wins, is kept, and is what every call returns. If it is ours, the
// GOAWAY that says so is the last thing written.
func (c *Conn) failLocked(why error) {
	if c.err != nil {
		return
	}
	err := c.endErrorLocked(why)
	c.err, c.news = err, true
	c.beginDrainingLocked(ReasonClosed)
	c.ended = make(chan struct{})
	// Requests that were not sent may be tried elsewhere from now on: the last write must not have
	// them.
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
	case ok && ce.goAway && !ce.FromPeer:
		debug := ""
		if ce.Err != nil && ce.Code != InternalError { // what went wrong in here is not the peer's to know
			debug = ce.Err.Error()
		}
		c.accuses, c.readEnded = true, make(chan struct{})
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
	// A write in progress, or the last one, may hang on a peer that does not read.
	raw := transport(c.nc)
	c.force = time.AfterFunc(closeGrace, func() { raw.Close() })
}

// endErrorLocked returns what every call gets from now on, where why ends the connection. What the
// peer's GOAWAY said is not forgotten.
func (c *Conn) endErrorLocked(why error) error {
	ce, ok := why.(*ConnError)
	switch {
	case !ok || ce == c.goAway:
		return why
	case c.goAway != nil && ce.goAway: // and why is left as it is, for the GOAWAY of ours
		own := *ce
		own.LastStreamID, own.Debug, own.Err = c.goAway.LastStreamID, c.goAway.Debug, &afterGoAway{ce.Err, c.goAway}
		return c.named(&own)
	case c.goAway != nil:
		return c.goAway.because(ce.Err)
	}
	ce.early = !c.peer.known
	return c.named(ce)
}

// named fills in whose connection an error is of.
func (c *Conn) named(ce *ConnError) *ConnError {
	if ce.authority = c.cfg.Authority; c.remote != nil {
		ce.Addr = *c.remote
	}
	return ce
}

// closeGrace is how long the last write, the GOAWAY, and the close may take.
const closeGrace = 200 * time.Millisecond

// unlock releases mu, wakes writeLoop if there is something to write, and tells the owner what there is to tell.
func (c *Conn) unlock() {
	wake := c.parked && c.hasWorkLocked()
	if wake {
		c.parked = false
	}
	news := c.news
	c.news = false
	c.mu.Unlock()
	if wake {
		c.wakeWriter()
	}
	if news && c.owner != nil && c.owner.news != nil {
		c.owner.news()
	}
}

func (c *Conn) readClockLocked() { c.now = c.clock() }

// clock is the time since start.
func (c *Conn) clock() time.Duration {
	if c.lab != nil {
		return c.lab.clock.Now()
	}
	return time.Since(c.start)
}

// Stats are a connection's figures so far. Octets are those of HTTP/2, before TLS.
type Stats struct {
	BytesSent      int64 // handed to the socket
	BytesReceived  int64
	DataSent       int64 // in DATA frames
	DataReceived   int64 // flow-controlled, padding included
	StreamsOpened  int64
	StreamsOpen    int // pushes included
	PushesPromised int64
	Waiting        int           // callers who wait for a stream
	RTT            time.Duration // the last round trip measured, 0: none
	MinRTT         time.Duration // the shortest, those of our TLS handshake included
	SendWindow     int64         // what the peer lets us send on the connection now
	ReceiveWindow  int64         // what we let the peer send
}

// counts are the figures that nothing else needs.
type counts struct{ received, dataSent, dataReceived, opened, promised int64 }

// Stats returns the connection's figures.
func (c *Conn) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{
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
