package hyper

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"time"

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
	cfg       Config // with the defaults filled in; not changed any more
	nc        net.Conn
	below     *coalescer // below nc, where Dial made it
	start     time.Time
	scheme    string
	authority string
	tls       *tls.ConnectionState // nil: cleartext

	acceptEncoding string

	kick  chan struct{} // one slot: writeLoop has work
	done  chan struct{} // closed by the first error
	ended chan struct{} // closed when writeLoop has closed the socket

	readEnded chan struct{} // closed when readLoop has read its last
	accuses   bool          // the last thing written tells the peer of its mistake; does not change once done is closed

	grants windowGrants // has a lock of its own

	frames *frameReader // owned by readLoop

	mu managerMutex // guards everything below

	err      error // the first one: what every caller sees
	closed   bool  // Close was called: nothing is handed out any more, not even what had arrived
	draining bool  // Shutdown was called: no new streams, and the end after the last one
	goAway   *ConnError

	// writing
	out     []byte       // bytes for the next write, whole frames
	spare   []byte       // takes the place of out; nil while it is being written
	fields  *fieldWriter // compression state of what is in out
	updates []*Window    // their WINDOW_UPDATEs are due
	ready   sendQueue    // streams with something to send and the window for it
	blocked sendQueue    // streams that wait for a window of their own
	unblock bool         // the peer has raised all windows: look through blocked
	corked  bool         // the preface waits for the first request
	parked  bool         // writeLoop waits for kick
	queued  uint64       // octets appended to out so far
	written uint64       // octets handed to the socket so far
	flushed uint64       // octets that the socket has taken
	flushQ  waitQueue    // waits for flushed to grow
	force   *time.Timer  // once err is set: closes the transport if nothing else does

	// streams
	streams    map[uint32]*Stream
	nextID     uint32 // of our next stream, odd
	lastPushID uint32 // the highest that the peer promised
	pushes     int    // promised and not yet both over and claimed
	slots      slots
	fieldRoom  Header // for the fields of responses
	idleSince  time.Duration
	wakeups    []*Stream // to be woken when the reader has no more frames at hand
	ahead      bool      // of a reader whose octets grow cold: readLoop lets it run first

	// onNews tells the owner, with mu unlocked, what it waits for: a slot that reserve did not find, or that there will
	// be no new streams. Nil: nobody waits.
	onNews func()
	news   bool

	spareWaiters *waiter // linked by next

	// windows
	window     Window // receive window of the connection
	sendWindow int64
	maxDelta   int64 // no stream's sendDelta is larger

	// settings
	peer          peerSettings
	settingsDue   []sentSettings // ours, sent and not acknowledged
	settingsQ     waitQueue      // waits for the peer's first SETTINGS, and for acknowledgments
	initialWindow int64          // of new streams' receive windows

	lab *lab // nil, except in the simulator

	liveness
	now    time.Duration // since start; read once per read of the socket
	minRTT time.Duration
	stats  Stats
}

// NewConn speaks HTTP/2 over nc, which it owns from then on: a *tls.Conn, any net.Conn (cleartext with prior
// knowledge, RFC 9113 §3.3), a net.Pipe, a tunnel. On a *tls.Conn it runs the handshake, under ctx, if nobody has, and
// refuses a connection whose ALPN is not "h2" with *NotHTTP2Error and one whose TLS falls short of RFC 9113 §9.2
// with a ConnError. It does not wait for the peer; ctx governs nothing after NewConn has returned.
//
// On an error nc is closed, except with *NotHTTP2Error, which hands it back.
func NewConn(ctx context.Context, nc net.Conn, cfg *Config) (*Conn, error) {
	return newConn(ctx, nc, cfg, nil)
}

func newConn(ctx context.Context, nc net.Conn, cfg *Config, onNews func()) (*Conn, error) {
	full, err := cfg.withDefaults()
	if err != nil {
		nc.Close()
		return nil, err
	}
	state, err := negotiated(ctx, nc, full.HandshakeTimeout)
	if err != nil {
		return nil, err
	}
	c := &Conn{
		cfg:        full,
		onNews:     onNews,
		nc:         nc,
		below:      coalescerBelow(nc),
		tls:        state,
		start:      time.Now(),
		scheme:     or(full.Scheme, "http"),
		authority:  full.Authority,
		kick:       make(chan struct{}, 1),
		done:       make(chan struct{}),
		ended:      make(chan struct{}),
		readEnded:  make(chan struct{}),
		fields:     newFieldWriter(),
		streams:    make(map[uint32]*Stream),
		nextID:     1,
		corked:     true,
		sendWindow: wire.InitialWindow,
		peer:       initialPeerSettings(),
	}
	if state != nil {
		c.scheme = or(full.Scheme, "https")
		c.authority = or(c.authority, state.ServerName)
	}
	if c.authority == "" && nc.RemoteAddr() != nil {
		c.authority = nc.RemoteAddr().String()
	}
	c.slots.limit = initialSlots
	c.acceptEncoding = acceptEncoding(full.Decoders)
	c.frames = newFrameReader(nc, &c.cfg)
	c.frames.onRead = c.recvOctets
	if full.Trace != nil {
		c.frames.trace = c.traceReceived
	}
	c.window.c = c
	c.window.credit = wire.InitialWindow

	c.mu.Lock()
	c.appendPrefaceLocked()
	c.window.open(full.WindowManager)
	c.startLivenessLocked()
	c.mu.Unlock()
	go c.readLoop()
	go c.writeLoop()
	return c, nil
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
	c.append(append(c.out, wire.ClientPreface...))
	c.append(wire.AppendSettings(c.out, settings...))
	c.initialWindow = int64(c.cfg.InitialStreamWindow)
	c.settingsDue = append(c.settingsDue, sentSettings{})
	c.settingsSent++
}

// Get sends GET for path, which is absolute and may have a query, and returns the response when its header has come.
// The caller closes the response's body. ctx governs the whole exchange, the reading of the body included.
func (c *Conn) Get(ctx context.Context, path string) (*Response, error) {
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
	resp, err := c.exchange(ctx, s, req)
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

// exchange opens s and waits for its response, all under one lock.
func (c *Conn) exchange(ctx context.Context, s *Stream, req *Request) (*Response, error) {
	var p plan
	if err := p.make(ctx, c, req, endWithBody); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.unlock()
	if err := c.openLocked(ctx, s, &p, inTurn); err != nil {
		return nil, err
	}
	return s.responseLocked(ctx)
}

// Open sends req's header and returns its stream at once, for the caller to write and read as it likes. A
// Body in req is sent as by Do; without one the caller writes and ends with CloseWrite or SendTrailers. ctx governs
// the stream to its end.
func (c *Conn) Open(ctx context.Context, req *Request) (*Stream, error) {
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

// Err returns nil while the connection lives, then why it ended: ErrClosed after Close or Shutdown, else a *ConnError.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// TLS returns the connection's TLS state, nil in cleartext. It is shared and must not be changed.
func (c *Conn) TLS() *tls.ConnectionState { return c.tls }

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
	c.drain()
	select {
	case <-c.done:
	case <-ctx.Done():
		if c.Err() == nil { // else there was nothing to wait for
			c.Close()
			return contextError(ctx)
		}
	}
	<-c.ended
	if err := c.Err(); err != ErrClosed {
		return err
	}
	return nil
}

// drain begins a Shutdown.
func (c *Conn) drain() {
	c.mu.Lock()
	c.drainLocked()
	c.unlock()
}

func (c *Conn) drainLocked() {
	if !c.draining && c.err == nil {
		c.draining, c.news = true, true
		c.append(wire.AppendGoAway(c.out, c.lastPushID, wire.NoError, ""))
		c.uncorkLocked()
		c.slots.waiting.wakeAll()
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
	}
}

func (c *Conn) fail(err error) {
	c.mu.Lock()
	c.failLocked(err)
	c.unlock()
}

// failLocked ends the connection. The first error wins, is kept, and is what every call returns. If it is ours, the
// GOAWAY that says so is the last thing written.
func (c *Conn) failLocked(err error) {
	if c.err != nil {
		return
	}
	c.err, c.news = err, true
	// Requests that were not sent may be tried elsewhere from now on: the last write must not have them, nor what follows.
	sent := c.queued
	for _, s := range c.streams {
		if s.lostLocked(err) {
			sent = min(sent, s.headersStart)
		}
	}
	clear(c.streams)
	c.out, c.queued = c.out[:len(c.out)-int(c.queued-sent)], sent
	var ce *ConnError
	switch {
	case errors.As(err, &ce) && ce.goAway && !ce.FromPeer:
		debug := ""
		if ce.Err != nil && ce.Code != InternalError { // what went wrong in here is not the peer's to know
			debug = ce.Err.Error()
		}
		c.accuses = true
		c.append(wire.AppendGoAway(c.out, c.lastPushID, wire.ErrCode(ce.Code), debug))
	case err == ErrClosed && !c.draining:
		c.append(wire.AppendGoAway(c.out, c.lastPushID, wire.NoError, ""))
	}
	c.window.close()
	c.slots.waiting.wakeAll()
	c.settingsQ.wakeAll()
	c.flushQ.wakeAll()
	c.uncorkLocked()
	c.stopLivenessLocked()
	close(c.done)
	// A write in progress, or the last one, may hang on a peer that does not read.
	raw := transport(c.nc)
	c.force = time.AfterFunc(closeGrace, func() { raw.Close() })
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
	if news && c.onNews != nil {
		c.onNews()
	}
}

func (c *Conn) wakeWriter() {
	select {
	case c.kick <- struct{}{}:
	default: // it will look anyway
	}
}

func (c *Conn) hasWorkLocked() bool {
	if c.err != nil {
		return true
	}
	canSend := c.sendWindow > 0 && (c.ready.head != nil || c.unblock && c.blocked.head != nil)
	return !c.corked && (len(c.out) > 0 || len(c.updates) > 0 || canSend)
}

// append makes out what some wire.AppendX returned, and counts.
func (c *Conn) append(out []byte) {
	c.queued += uint64(len(out) - len(c.out))
	c.out = out
}

const (
	fewOctets = 4 << 10   // pending: one Gosched may collect more
	writeSize = 64 << 10  // handed to the socket at once
	outSize   = 128 << 10 // DATA is gathered up to here for one turn of writeLoop

	shrinkDelay = 250 * time.Millisecond // a connection that has written nothing for so long is idle
)

// writeLoop owns the writing side of the socket, and closes it.
func (c *Conn) writeLoop() {
	defer close(c.ended)
	tracer := newSendTracer(c)
	c.mu.Lock()
	for {
		for !c.hasWorkLocked() {
			c.restLocked()
			c.applyGrantsLocked()
		}
		if len(c.out) < fewOctets && c.err == nil {
			// Callers that are about to add their requests get the chance, and share the write.
			c.unlock()
			runtime.Gosched()
			c.mu.Lock()
		}
		c.applyGrantsLocked()
		c.fillLocked()
		batch := c.out
		last := c.err != nil
		c.out, c.spare = c.spare[:0], nil
		c.acksQueued = 0
		c.written += uint64(len(batch))
		c.watchWriteLocked()
		c.unlock() // DATA that ended a stream freed its slot

		tracer.trace(batch)
		err := c.write(batch)
		if err == nil && !last { // the last words leave together with what TLS says at the end
			err = c.below.flush()
		}
		if err != nil {
			c.awaitLastWords(err)
		}

		c.mu.Lock()
		c.spare = batch
		c.writeSince = 0
		if err == nil {
			c.flushed = c.written
			c.flushQ.wakeAll()
		}
		if err != nil || last {
			c.unlock()
			c.closeSocket(err == nil)
			return
		}
	}
}

// restLocked waits for work.
func (c *Conn) restLocked() {
	if at := c.shrinkAtLocked(); at > 0 {
		c.armLocked(at)
	}
	c.parked = true
	c.unlock()
	<-c.kick
	c.mu.Lock()
	c.parked = false
}

// shrinkAtLocked is when a connection has been idle for long enough to give its buffers back; 0: it has none, or writes.
func (c *Conn) shrinkAtLocked() time.Duration {
	if c.writeSince != 0 || len(c.out) > 0 || cap(c.out)+cap(c.spare) == 0 {
		return 0
	}
	return c.wroteAt + shrinkDelay
}

func (c *Conn) shrinkLocked() {
	c.out, c.spare, c.fieldRoom = nil, nil, nil
	c.fields.fields = nil
	c.below.shrink()
}

// awaitLastWords ends a connection that cannot be written to any more. What the peer said before, a GOAWAY above all,
// may lie in the socket: readLoop gets the time to find it, and to end the connection by it.
func (c *Conn) awaitLastWords(err error) {
	timer := time.AfterFunc(closeGrace, func() { c.fail(lostErr(err)) })
	defer timer.Stop()
	<-c.done
}

// write hands batch to TLS, or the socket, in pieces, so that a slow peer and a stalled one can be told apart.
func (c *Conn) write(batch []byte) error {
	for len(batch) > 0 {
		n := min(len(batch), writeSize)
		if len(batch)-n <= fewOctets/2 {
			n = len(batch) // a few octets are not worth a write
		}
		if _, err := c.nc.Write(batch[:n]); err != nil {
			return err
		}
		if batch = batch[n:]; len(batch) > 0 {
			c.mu.Lock()
			c.writeSince = time.Since(c.start)
			c.mu.Unlock()
		}
	}
	return nil
}

// closeSocket ends the socket. Closing a TLS connection writes an alert, which can hang as any write can: force
// ends that, too, and a peer that did not take the last write gets none.
func (c *Conn) closeSocket(orderly bool) {
	if !orderly {
		transport(c.nc).Close()
	} else if c.accuses {
		c.linger()
	}
	c.nc.Close()
	c.force.Stop()
}

// linger ends our direction and waits for the peer to end its own. A socket that is closed over octets which nobody has read is
// reset, and a reset may take back what the peer has not read yet (RFC 1122 §4.2.2.13): the GOAWAY that tells it what it did
// wrong, while it goes on sending.
func (c *Conn) linger() {
	type halfCloser interface{ CloseWrite() error }
	raw, ok := transport(c.nc).(halfCloser)
	if !ok {
		return
	}
	if above, ok := c.nc.(halfCloser); ok && above != raw {
		above.CloseWrite()
		c.below.flush()
	}
	raw.CloseWrite()
	<-c.readEnded // force sees to it
}

// applyGrantsLocked books what Window.Grant asked for.
func (c *Conn) applyGrantsLocked() {
	for _, w := range c.grants.take() {
		w.grant(w.asked.Swap(0))
	}
}

// fillLocked gathers what is due behind the bytes already in out: WINDOW_UPDATEs, then DATA from each ready
// stream in turn, one frame at a time, as windows and room allow.
func (c *Conn) fillLocked() {
	for _, w := range c.updates {
		c.append(w.appendUpdate(c.out))
	}
	clear(c.updates)
	c.updates = c.updates[:0]
	if c.unblock {
		c.unblock = false
		for c.blocked.head != nil {
			c.ready.push(c.blocked.pop())
		}
	}
	for len(c.out) < outSize {
		s := c.ready.pop()
		if s == nil {
			return
		}
		if !s.sendLocked() {
			c.ready.pushFront(s) // the connection's window is used up
			return
		}
	}
}

// readLoop owns the reading side of the socket.
func (c *Conn) readLoop() {
	defer close(c.readEnded)
	for {
		f, err := c.frames.next()
		if we, ok := err.(*wire.Error); ok && we.StreamID != 0 {
			err = c.recvBadFrame(we)
		} else if err == nil {
			err = c.recv(&f)
		}
		if err != nil {
			c.fail(asConnError(err))
			if c.accuses {
				io.Copy(io.Discard, transport(c.nc))
			}
			return
		}
	}
}

// recvOctets is called for each read of the socket.
func (c *Conn) recvOctets(n int) {
	c.mu.Lock()
	c.readClockLocked()
	c.lastRecv = c.now
	c.stats.BytesReceived += int64(n)
	c.mu.Unlock()
}

func (c *Conn) readClockLocked() { c.now = c.clock() }

// clock is the time since start.
func (c *Conn) clock() time.Duration {
	if c.lab != nil {
		return c.lab.clock.Now()
	}
	return time.Since(c.start)
}

// recv handles one frame. Its error ends the connection.
func (c *Conn) recv(f *frame) (err error) {
	c.mu.Lock()
	switch {
	case !c.peer.known && (f.Type != wire.Settings || f.Flags.Has(wire.Ack)):
		err = c.notSettingsLocked(f)
	default:
		err = c.dispatchLocked(f)
	}
	if err == nil && c.err != nil {
		err = c.err
	}
	yield := false
	if !c.frames.more() {
		c.wakeReadersLocked()
		yield, c.ahead = c.ahead, false
	}
	c.unlock()
	if yield {
		runtime.Gosched()
	}
	return err
}

func (c *Conn) dispatchLocked(f *frame) error {
	switch f.Type {
	case wire.Data:
		return c.recvDataLocked(f)
	case wire.Headers:
		return c.recvHeadersLocked(f)
	case wire.PushPromise:
		return c.recvPushPromiseLocked(f)
	case wire.RSTStream:
		return c.recvRSTStreamLocked(f)
	case wire.Settings:
		return c.recvSettingsLocked(f)
	case wire.Ping:
		return c.recvPingLocked(f)
	case wire.GoAway:
		return c.recvGoAwayLocked(f)
	case wire.WindowUpdate:
		return c.recvWindowUpdateLocked(f)
	case wire.PriorityUpdate:
		// RFC 9218 §7.1: it is the client's to send; from a server it is a PROTOCOL_ERROR.
		return connErr(ProtocolError, "PRIORITY_UPDATE from a server")
	}
	return c.noiseLocked() // §5.5: a type we do not know
}

// notSettingsLocked ends a connection whose peer does not begin with SETTINGS (RFC 9113 §3.4). One that says goodbye
// instead is taken at its word.
func (c *Conn) notSettingsLocked(f *frame) error {
	if f.Type == wire.GoAway {
		if err := c.recvGoAwayLocked(f); err != nil {
			return err
		}
		return c.goAway
	}
	return connErr(ProtocolError, "the first frame is %v, not SETTINGS", f.Type)
}

// wakeReadersLocked wakes those whose response or body came in the frames at hand: once each, however many they were.
func (c *Conn) wakeReadersLocked() {
	for i, s := range c.wakeups {
		s.wakeDue = false
		s.recvQ.wakeAll()
		c.wakeups[i] = nil
	}
	c.wakeups = c.wakeups[:0]
}

// recvBadFrame ends the stream of a frame that cannot be read, and only it.
func (c *Conn) recvBadFrame(we *wire.Error) error {
	c.mu.Lock()
	defer c.unlock()
	if !c.frames.more() {
		defer c.wakeReadersLocked()
	}
	if s := c.streams[we.StreamID]; s != nil {
		s.resetLocked(streamErr(we.StreamID, ErrCode(we.Code), errors.New(we.Reason)))
		return c.provokedLocked()
	}
	if c.isIdleLocked(we.StreamID) {
		return connErr(ErrCode(we.Code), "%s on an idle stream", we.Reason)
	}
	return c.noiseLocked()
}

// isIdleLocked reports whether nobody has opened or promised the stream yet.
func (c *Conn) isIdleLocked(id uint32) bool {
	if id%2 == 1 {
		return id >= c.nextID
	}
	return id > c.lastPushID
}

// strayLocked judges a frame on a stream that is not there (RFC 9113 §5.1). It is nil for what was under way when
// we ended the stream.
func (c *Conn) strayLocked(f *frame) error {
	switch {
	case c.isIdleLocked(f.StreamID):
		return connErr(ProtocolError, "%v on the idle stream %d", f.Type, f.StreamID)
	case c.slots.isReset(f.StreamID):
		if f.Flags.Has(wire.EndStream) && f.Type != wire.PushPromise {
			c.slots.forget(f.StreamID)
			c.admitLocked()
		}
		return c.noiseLocked()
	}
	return connErr(StreamClosed, "%v on the closed stream %d", f.Type, f.StreamID)
}

func (c *Conn) recvDataLocked(f *frame) error {
	s := c.streams[f.StreamID]
	if f.first {
		// RFC 9113 §6.9.1: the connection's window counts every DATA frame, whatever becomes of it.
		if !c.window.receive(f.Length, f.padding) {
			return connErr(FlowControlError, "DATA of %d octets exceeds the connection's window", f.Length)
		}
		c.window.update(WindowEvent{Kind: WindowData, Bytes: f.Length, Padding: f.padding, End: f.Flags.Has(wire.EndStream)})
		c.window.discard(f.padding)
		c.starveOthersLocked(s)
		c.stats.DataReceived += int64(f.Length)
		if s == nil {
			c.window.consume(f.Length - f.padding) // late DATA: we ended this stream and the peer had not heard yet
			c.noise.earn((f.Length - f.padding) / 64)
			return c.strayLocked(f)
		}
		if f.Length == f.padding && !f.Flags.Has(wire.EndStream) {
			if err := c.noiseLocked(); err != nil {
				return err
			}
		} else {
			c.usefulLocked(f.Length - f.padding)
		}
	}
	if s == nil {
		return nil // a later part of late DATA: booked with its first
	}
	return s.recvDataLocked(f)
}

// starveOthersLocked is for readers of other streams than s, whose data has used up the connection's window.
func (c *Conn) starveOthersLocked(s *Stream) {
	if c.window.credit > 0 || c.window.readers == 0 || s != nil && c.window.readers == s.window.readers {
		return
	}
	c.window.starve()
}

func (c *Conn) recvHeadersLocked(f *frame) error {
	s := c.streams[f.StreamID]
	if s == nil {
		return c.strayLocked(f)
	}
	c.usefulLocked(f.Length)
	return s.recvHeadersLocked(f)
}

func (c *Conn) recvRSTStreamLocked(f *frame) error {
	s := c.streams[f.StreamID]
	if s == nil {
		if c.isIdleLocked(f.StreamID) {
			return connErr(ProtocolError, "RST_STREAM on the idle stream %d", f.StreamID)
		}
		c.slots.forget(f.StreamID) // the peer does not count it any more
		c.admitLocked()
		return c.noiseLocked()
	}
	return s.recvResetLocked(ErrCode(wire.ParseRSTStream(f.payload)))
}

func (c *Conn) recvWindowUpdateLocked(f *frame) error {
	n := int64(wire.ParseWindowUpdate(f.payload))
	if f.StreamID == 0 {
		if n == 0 {
			return connErr(ProtocolError, "WINDOW_UPDATE of 0 octets")
		}
		// RFC 9113 §6.9.1: a sender MUST NOT allow a flow-control window to exceed 2^31-1.
		if c.sendWindow+n > wire.MaxWindow {
			return connErr(FlowControlError, "WINDOW_UPDATE raises the connection's window above 2^31-1")
		}
		c.sendWindow += n
		return c.judgeUpdateLocked(n)
	}
	s := c.streams[f.StreamID]
	if s == nil {
		if c.isIdleLocked(f.StreamID) {
			return connErr(ProtocolError, "WINDOW_UPDATE on the idle stream %d", f.StreamID)
		}
		return c.noiseLocked()
	}
	return s.recvWindowUpdateLocked(n)
}

func (c *Conn) recvGoAwayLocked(f *frame) error {
	last, code, debug := wire.ParseGoAway(f.payload)
	// RFC 9113 §6.8: later GOAWAYs MUST NOT increase the last stream identifier.
	if c.goAway != nil && last > c.goAway.LastStreamID {
		return connErr(ProtocolError, "GOAWAY raises its last stream from %d to %d", c.goAway.LastStreamID, last)
	}
	c.goAway = &ConnError{Code: ErrCode(code), FromPeer: true, LastStreamID: last, Debug: append([]byte(nil), debug...), goAway: true}
	c.news = true
	c.slots.waiting.wakeAll()
	for id, s := range c.streams {
		if id%2 == 1 && id > last {
			s.endLocked(&StreamError{StreamID: id, Code: ErrCode(code), FromPeer: true, Err: c.goAway, unprocessed: true})
		}
	}
	c.closeIfDrainedLocked()
	return c.noiseLocked()
}

// takesRequestsLocked says why a new stream cannot be opened, if so.
func (c *Conn) takesRequestsLocked() error {
	switch {
	case c.err == ErrClosed || c.err == nil && c.draining:
		return ErrClosed
	case c.goAway != nil:
		unsent := *c.goAway
		unsent.Err, unsent.unprocessed = ErrDrained, true
		return &unsent
	case c.err != nil:
		unsent := *asConnError(c.err)
		unsent.unprocessed = true
		return &unsent
	case c.nextID > wire.MaxStreamID:
		return &ConnError{Err: ErrDrained, unprocessed: true}
	}
	return nil
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
	MinRTT         time.Duration // the shortest
	SendWindow     int64         // what the peer lets us send on the connection now
	ReceiveWindow  int64         // what we let the peer send
}

// Stats returns the connection's figures.
func (c *Conn) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.BytesSent = int64(c.written)
	s.StreamsOpen = len(c.streams)
	s.Waiting = c.slots.waiting.length()
	s.MinRTT = c.minRTT
	s.SendWindow, s.ReceiveWindow = c.sendWindow, c.window.credit
	return s
}
