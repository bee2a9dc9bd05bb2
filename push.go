package hyper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"
	"strings"
	"time"

	"gohyper.dev/hyper/internal/fieldblock"
	"gohyper.dev/hyper/internal/state"
	"gohyper.dev/hyper/internal/syntax"
)

// A PushPolicy admits server push (RFC 9113 §8.4). The zero value accepts every promise that the
// peer is entitled to make: one for an authority for which the connection is authoritative, with a
// safe and cacheable method and no body. hyper refuses any other promise with PROTOCOL_ERROR.
//
// A promise waits to be claimed: Pushes claims it when it yields it. It can be claimed while its
// response, the response with which the peer made it, is in progress, and after that response has
// ended, whether or not the body is closed after its end. The promise is cancelled if the body is
// closed before its end, and if the request's context or Reset ends the exchange.
//
// Waiting promises are bounded. Those of one connection hold at most 8 MiB in all, fields and
// bodies together. No promise waits longer than one minute after its response has ended or was last
// read. To make room for a new promise, hyper drops the oldest one whose response has ended. If
// there is none, it refuses the new one. Pushes reports dropped and refused promises with a
// *PushLostError.
type PushPolicy struct {
	// Max is the maximum number of pushes that are in progress or wait to be claimed, on the whole
	// connection. 0 means 100. It is announced as SETTINGS_MAX_CONCURRENT_STREAMS. A promise beyond
	// the maximum replaces the oldest waiting one whose response has ended. If there is none, it is
	// refused with REFUSED_STREAM.
	//
	// Unread pushes use the connection's flow-control window, so Max times the initial stream
	// window should stay well below that window.
	Max int

	// Accept is called for each promise that passed the checks. If it returns false, the promise is
	// refused with CANCEL. Accept runs on the goroutine that reads the connection: it must not
	// block or call methods of the connection. Nil accepts all promises.
	Accept func(push *Push) bool
}

// Limits of promises that wait to be claimed.
const (
	maxUnclaimedSize = 8 << 20     // bytes that the waiting promises of a connection may hold
	unclaimedTime    = time.Minute // time that one may wait after its response has ended or was last read
	promiseOverhead  = 1 << 10     // bytes counted for one in addition to its fields and body
)

// A PushLostError reports that promises of the peer were lost, for lack of room or time, before
// Pushes could yield them: see PushPolicy. Pushes returns it after the promises that were not lost.
type PushLostError struct {
	StreamID uint32 // of the response with which they were made
	Refused  int    // on arrival, because there was no room
	Dropped  int    // later, to make room for others or because their time was over
}

// Error says how many promises were refused and dropped.
func (e *PushLostError) Error() string {
	return fmt.Sprintf(prefix+"stream %d: pushes were lost before Pushes yielded them: %d refused, %d "+
		"dropped (see PushPolicy)", e.StreamID, e.Refused, e.Dropped)
}

// withDefaults returns p with the default Max filled in.
func (p PushPolicy) withDefaults() PushPolicy {
	if p.Max <= 0 {
		p.Max = 100
	}
	p.Max = int(min(int64(p.Max), math.MaxUint32)) // a setting has 32 bits
	return p
}

// A Push is a response that the peer sends without a request. Until Response is called, it holds at
// most its fields and the initial stream window (64 KiB unless Config sets another). Once Pushes
// has yielded it, the caller must read or cancel it. It counts against PushPolicy.Max until it has
// ended: it was read, Cancel was called, or the connection ended.
type Push struct {
	Request  *Request // the promised request: method, scheme, authority, path and header
	ParentID uint32   // stream on which the promise was made

	s *Stream

	// The following fields are guarded by the connection's mu.
	parent  *Stream // its stream, while the push waits to be claimed; else nil
	held    int64   // bytes that it holds while it waits
	claimed bool    // Pushes yielded it, or it can no longer be claimed
	settled bool    // it no longer counts against PushPolicy.Max
}

// An unclaimed is the list of a connection's promises that wait to be claimed. It is guarded by the
// connection's mu.
type unclaimed struct {
	waiting []*Push // oldest first
	held    int64   // bytes that they hold
}

// add appends p, which was promised on parent and holds held bytes.
func (u *unclaimed) add(p *Push, parent *Stream, held int64) {
	// Accept may have passed p on to a caller that has claimed it already.
	if p.claimed {
		return
	}
	p.parent, p.held = parent, held
	u.waiting = append(u.waiting, p)
	u.held += held
}

// remove removes p, if it waits to be claimed.
func (u *unclaimed) remove(p *Push) {
	if p.parent == nil {
		return
	}
	p.parent = nil
	u.held -= p.held
	i := slices.Index(u.waiting, p)
	u.waiting = slices.Delete(u.waiting, i, i+1)
}

// oldest returns the promise to drop first: the oldest one whose response has ended. It returns nil
// if there is none.
func (u *unclaimed) oldest() *Push {
	for _, p := range u.waiting {
		if p.parent.recvErr != nil {
			return p
		}
	}
	return nil
}

// forget empties the list when the connection has ended. What was received can still be claimed
// through the responses. u may be nil.
func (u *unclaimed) forget() {
	if u == nil {
		return
	}
	for _, p := range u.waiting {
		p.parent = nil
	}
	u.waiting, u.held = nil, 0
}

// evictPromisesLocked drops waiting promises until there is room for size more bytes. It reports
// whether there is room.
func (c *Conn) evictPromisesLocked(size int64) bool {
	for c.streams.unclaimed.held+size > maxUnclaimedSize {
		p := c.streams.unclaimed.oldest()
		if p == nil {
			return false
		}
		p.giveUpLocked()
	}
	return true
}

// chargeLocked counts size more bytes that the push holds, if it waits to be claimed. If there is
// no room for them, it drops the push and returns false.
func (p *Push) chargeLocked(size int64) (ok bool) {
	c := p.s.c
	if p.parent != nil && !c.evictPromisesLocked(size) && p.parent != nil {
		p.giveUpLocked()
	}
	if p.parent != nil {
		p.held += size
		c.streams.unclaimed.held += size
	}
	return p.s.state != state.Closed
}

// giveUpLocked drops a push that waits to be claimed, and counts it for the *PushLostError of
// Pushes.
func (p *Push) giveUpLocked() {
	parent := p.parent
	parent.lostPushesLocked().Dropped++
	x := parent.extras
	if i := slices.Index(x.promises, p); i >= 0 {
		x.promises = slices.Delete(x.promises, i, i+1)
	}
	p.cancelLocked()
}

// lostPushesLocked returns the stream's count of lost promises and allocates it if there is none.
func (s *Stream) lostPushesLocked() *PushLostError {
	x := s.extrasLocked()
	if x.lost == nil {
		x.lost = &PushLostError{StreamID: s.id}
	}
	return x.lost
}

// agePromisesLocked starts or restarts the time that the stream's promises may wait. It is called
// when the stream has ended, and when it is read after that.
func (s *Stream) agePromisesLocked() {
	if !s.extras.promised() || s.recvErr == nil {
		return
	}
	s.extras.promisesBy = s.c.clock() + unclaimedTime
	s.c.armLocked(s.extras.promisesBy)
}

// unclaimedByLocked returns when the first waiting promise expires, or 0 if none has an expiry
// time.
func (c *Conn) unclaimedByLocked() (at time.Duration) {
	if c.streams.unclaimed == nil {
		return 0
	}
	for _, p := range c.streams.unclaimed.waiting {
		if by := p.parent.extras.promisesBy; by > 0 && (at == 0 || by < at) {
			at = by
		}
	}
	return at
}

// endUnclaimedLocked drops the promises that have waited too long.
func (c *Conn) endUnclaimedLocked() {
	if at := c.unclaimedByLocked(); at == 0 || c.liveness.now < at {
		return
	}
	for _, p := range slices.Clone(c.streams.unclaimed.waiting) {
		if p.parent != nil && p.parent.extras.promisesBy > 0 && c.liveness.now >= p.parent.extras.promisesBy {
			p.giveUpLocked()
		}
	}
}

// ID returns the identifier of the pushed stream, which is even.
func (p *Push) ID() uint32 { return p.s.id }

// Response waits for the pushed response and opens its flow-control window. It may be called before
// or after the body of the parent response is read. The caller must close the body of the pushed
// response. The ctx of the first call governs the whole exchange, including the reading of the
// body.
func (p *Push) Response(ctx context.Context) (*Response, error) {
	mustHave(ctx != nil, "Push.Response", "context.Context")
	c := p.s.c
	c.lock()
	p.claimLocked()
	p.s.openWindowLocked()
	p.s.watchLocked(ctx)
	c.unlock()
	return p.s.Response(ctx)
}

// Cancel refuses the push, or the rest of it, with CANCEL.
func (p *Push) Cancel() {
	c := p.s.c
	c.lock()
	p.cancelLocked()
	c.unlock()
}

// cancelLocked is Cancel with the connection's mu held.
func (p *Push) cancelLocked() {
	p.claimLocked()
	p.s.cancelLocked(ErrCanceled)
}

// cancelPromisesLocked cancels the promises made on s that wait to be claimed.
func (s *Stream) cancelPromisesLocked() {
	if !s.extras.promised() {
		return
	}
	for _, p := range s.extras.promises {
		p.cancelLocked()
	}
	s.extras.promises = nil
}

// claimLocked claims the push for the caller.
func (p *Push) claimLocked() {
	p.s.c.streams.unclaimed.remove(p)
	p.claimed = true
	if p.s.state == state.Closed {
		p.releaseQuotaLocked()
	}
}

// releaseQuotaLocked stops counting the push against PushPolicy.Max. It is called when the push's
// stream has ended, and has an effect once the push is claimed or was dropped.
func (p *Push) releaseQuotaLocked() {
	if p.settled || !p.claimed && !p.s.isDropped() {
		return
	}
	p.settled = true
	p.s.c.streams.pushes--
}

// Pushes yields the promises made on the stream. See Response.Pushes. Here they are available
// before the response has arrived. If Config.Push is nil, there are none.
func (s *Stream) Pushes(ctx context.Context) iter.Seq2[*Push, error] {
	mustHave(ctx != nil, "Pushes", "context.Context")
	return func(yield func(*Push, error) bool) {
		for {
			push, err := s.nextPush(ctx)
			if push == nil && err == nil || !yield(push, err) || err != nil {
				return
			}
		}
	}
}

// nextPush waits for the next promise. It returns nil and a nil error at the end.
func (s *Stream) nextPush(ctx context.Context) (*Push, error) {
	if err := s.reusedErr(); err != nil {
		return nil, err
	}
	c := s.c
	c.lock()
	defer c.unlock()
	for {
		ready := s.extras.promised()
		err := s.recvErrLocked(ready)
		switch {
		case err == nil && ready:
			return s.extras.takePromiseLocked(), nil
		case err == nil: // more may come
		case c.ending.phase == connClosed || err != io.EOF && !s.extras.wasWhole():
			return nil, err
		case s.extras.lostPushes() != nil:
			lost := *s.extras.lost
			return nil, &lost
		default:
			return nil, nil
		}
		s.memory.holdLocked()
		err = c.waitUnlocking(ctx, &s.recvQ)
		if s.memory.releaseLocked(); err != nil {
			return nil, err
		}
	}
}

// takePromiseLocked removes the first promise, claims it, and returns it.
func (x *extras) takePromiseLocked() *Push {
	p := x.promises[0]
	x.promises[0] = nil
	x.promises = x.promises[1:]
	p.claimLocked()
	return p
}

// recvPushPromiseUnlocking receives a promise. It unlocks mu while it calls PushPolicy.Accept. That
// is safe because only readLoop, which runs this function, could use the new stream meanwhile.
func (c *Conn) recvPushPromiseUnlocking(f *frame) error {
	c.creditFloodLocked(f.Length)
	parent, err := c.checkPromiseLocked(f)
	if err != nil {
		return err
	}
	s := c.addPromiseLocked(f)
	if c.adjustInitialWindowLocked() {
		return nil
	}
	if parent == nil {
		s.cancelLocked(ErrCanceled)
		return c.countProvokedResetLocked()
	}
	parent.began = true
	switch {
	case f.oversize > 0:
		return s.tooLargeLocked(f)
	case !c.placeForPushLocked(f):
		parent.lostPushesLocked().Refused++
		return s.rejectLocked(streamErr(s.id, ErrCodeRefusedStream, errors.New("too many pushes")))
	}
	if reason := s.push.parse(f.fields, f.head); reason != "" {
		return s.rejectLocked(&MalformedError{reason})
	}
	if reason := c.forbiddenPushLocked(s.push.Request); reason != "" {
		return s.rejectLocked(errors.New(reason))
	}
	// The parent or the push may have ended while Accept ran.
	parent.memory.holdLocked()
	accepted := c.acceptsUnlocking(s.push)
	parent.memory.releaseLocked()
	if !accepted || parent.isDropped() || s.state == state.Closed {
		s.cancelLocked(ErrCanceled)
		return c.countProvokedResetLocked()
	}
	extras := parent.extrasLocked()
	extras.promises = append(extras.promises, s.push)
	c.streams.unclaimed.add(s.push, parent, promiseSize(f.fields))
	parent.wakeReaderLocked()
	return nil
}

// checkPromiseLocked checks whether the peer may make a promise now. It returns the stream on which
// the promise is made, or nil if we reset that stream. An error must end the connection.
func (c *Conn) checkPromiseLocked(f *frame) (parent *Stream, err error) {
	// RFC 9113 §6.6: a promise to a client that has disabled push is a connection error.
	if c.cfg.Push == nil {
		return nil, connErr(ErrCodeProtocol, "PUSH_PROMISE though ENABLE_PUSH is 0")
	}
	// RFC 9113 §5.1.1, §6.6: the promised stream is even, idle, and above all earlier ones.
	if f.promised%2 != 0 || f.promised <= c.streams.lastPushID {
		return nil, connErr(ErrCodeProtocol, "PUSH_PROMISE of the illegal stream %d", f.promised)
	}
	parent = c.streams.byID[f.StreamID]
	switch {
	case parent != nil && parent.push == nil && parent.state.CanRecv():
		return parent, nil
	case parent == nil && f.StreamID%2 == 1 && c.slots.mayHaveReset(f.StreamID):
		// RFC 9113 §5.1: we reset the parent, and the peer had not received that yet. The promise
		// is still valid.
		return nil, nil
	}
	return nil, connErr(ErrCodeProtocol, "PUSH_PROMISE on stream %d, which is not an open request",
		f.StreamID)
}

// addPromiseLocked adds the stream that f promises. Its window's manager is made when the push is
// claimed.
func (c *Conn) addPromiseLocked(f *frame) *Stream {
	c.streams.lastPushID = f.promised
	s := &Stream{c: c, id: f.promised, bodyLeft: -1}
	s.mustLocked(state.RecvPromise)
	s.sender, s.sendErr = nothingToSend, ErrSendEnded
	s.window.c, s.window.s, s.window.credit = c, s, c.promisedWindowLocked()
	s.push = &Push{ParentID: f.StreamID, s: s, Request: &Request{}}
	s.req = s.push.Request
	c.addLocked(s)
	c.streams.pushes++
	c.counts.promised++
	if c.writer.tracer != nil {
		c.writer.tracer.openedLocked(s)
	}
	return s
}

// acceptsUnlocking reports whether PushPolicy.Accept accepts p. It unlocks mu while that runs.
func (c *Conn) acceptsUnlocking(p *Push) bool {
	accept := c.cfg.Push.Accept
	if accept == nil {
		return true
	}
	c.unlock()
	accepted := accept(p)
	c.lock()
	return accepted
}

// placeForPushLocked makes room for a new push, which c.streams.pushes already counts. It reports
// whether there is room.
func (c *Conn) placeForPushLocked(f *frame) bool {
	for c.streams.pushes > c.cfg.Push.Max {
		p := c.streams.unclaimed.oldest()
		if p == nil {
			return false
		}
		p.giveUpLocked()
	}
	return c.evictPromisesLocked(promiseSize(f.fields))
}

// promiseSize returns the number of bytes to count for a promise with these fields.
func promiseSize(fields Header) int64 { return promiseOverhead + int64(fields.listSize()) }

// parse fills in the promised request. It returns what is malformed about the promise (RFC 9113
// §8.3.1), or "" if nothing is.
func (p *Push) parse(fields []Field, head *fieldblock.Head) (malformed string) {
	r := p.Request
	pseudo := map[string]*string{":method": &r.Method, ":scheme": &r.Scheme, ":authority": &r.Authority,
		":path": &r.Path}
	i := 0
	for ; i < len(fields) && syntax.IsPseudo(fields[i].Name); i++ {
		f := fields[i]
		v := pseudo[f.Name]
		if v == nil || *v != "" || f.Value == "" || syntax.IsMalformedValue(f.Value) {
			return "the pseudo-header field " + syntax.Printable(f.Name) + " of a promise"
		}
		*v = f.Value
	}
	for name, v := range pseudo {
		if *v == "" {
			return "a promise without " + name
		}
	}
	if head.BadField != "" {
		return head.BadField
	}
	for _, f := range fields[i:] {
		if f.Name == "te" && !syntax.EqualFold(f.Value, "trailers") { // RFC 9113 §8.2.2
			return "a te other than trailers"
		}
	}
	r.Header = append(Header(nil), fields[i:]...)
	return ""
}

// forbiddenPushLocked returns why the peer must not push the response to r (RFC 9113 §8.4.1,
// §10.1), or "" if it may.
func (c *Conn) forbiddenPushLocked(r *Request) string {
	for length := range r.Header.Values("content-length") {
		if length != "0" {
			return "a promise of a request with a body"
		}
	}
	switch {
	case r.Method != "GET" && r.Method != "HEAD":
		return "a promise of " + syntax.Printable(r.Method) + ", which is not both safe and cacheable"
	case r.Header.Has("host") && !syntax.EqualFold(r.Header.Get("host"), r.Authority):
		return "a promise whose host differs from its :authority"
	case !syntax.IsPath(r.Path, r.Method):
		return "a promise of the path " + syntax.Printable(r.Path)
	case r.Scheme != c.cfg.Scheme:
		return "a promise of the scheme " + syntax.Printable(r.Scheme)
	case !c.authoritativeLocked(r.Authority):
		return "a promise for " + syntax.Printable(r.Authority) + ", which this connection does not speak for"
	}
	return ""
}

// authoritativeLocked reports whether the connection is authoritative for authority: it is the
// connection's own, or it has the same port and a host that the peer's certificate covers and that
// the peer has not excluded with ORIGIN frames or a 421 response.
func (c *Conn) authoritativeLocked(authority string) bool {
	if !syntax.IsAuthority(authority) {
		return false
	}
	if strings.EqualFold(authority, c.cfg.Authority) {
		return true
	}
	host, port := syntax.SplitAuthority(authority, c.cfg.Scheme)
	ownHost, ownPort := syntax.SplitAuthority(c.cfg.Authority, c.cfg.Scheme)
	if port != ownPort {
		return false
	}
	if strings.EqualFold(host, ownHost) {
		return true
	}
	// RFC 8336 §2.4
	if c.origins.excludes(target{scheme: c.cfg.Scheme, host: syntax.Lower(host), port: port}.origin()) {
		return false
	}
	state := c.TLS()
	return state != nil && len(state.VerifiedChains) > 0 &&
		state.PeerCertificates[0].VerifyHostname(host) == nil
}
