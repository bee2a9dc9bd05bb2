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

	"gohyper.dev/hyper/internal/state"
	"gohyper.dev/hyper/internal/syntax"
)

// A PushPolicy admits server push (RFC 9113 §8.4). The zero value takes what the peer is entitled to promise: for
// an authority that the connection is authoritative for, with a safe and cacheable method and no body.
// Anything else is refused with PROTOCOL_ERROR.
//
// A promise waits to be claimed, that is, to be yielded by Pushes. It can be claimed while the
// response that it was made with goes on, and after that response has come to its end, whether or
// not its body was closed then. It is cancelled where the body is closed before its end, and where
// the request's context or Reset ends the exchange. The promises of one connection that wait hold 8
// MiB at most in all, fields and bodies; and no promise waits for longer than a minute after its
// response has ended or was last read. To make room for new ones, the oldest whose response has
// ended is given up first; where there is none, the new one is refused. What is given up or refused
// so is a *PushLostError of Pushes.
type PushPolicy struct {
	// Max is how many pushes may be under way or wait to be claimed, on the whole connection: 100
	// where it is 0. It is announced as SETTINGS_MAX_CONCURRENT_STREAMS. A promise beyond it takes
	// the place of the oldest that waits and whose response has ended, or is refused with
	// REFUSED_STREAM. Pushes that are not read hold the connection's window, so Max times the
	// initial stream window should stay well below that.
	Max int

	// Accept is asked about each promise that passed the checks; a false answer refuses it with CANCEL. It
	// runs on the connection's reader: it must not block or call the connection. Nil accepts all.
	Accept func(push *Push) bool
}

const (
	maxUnclaimedSize = 8 << 20     // octets that the promises of a connection hold that wait to be claimed
	unclaimedTime    = time.Minute // how long one may wait after its response has ended or was last read
	promiseOverhead  = 1 << 10     // octets that one takes beside its fields and body
)

// A PushLostError says that promises of the peer were lost before Pushes could yield them, for want
// of room or time: see PushPolicy. It comes after those that were not lost.
type PushLostError struct {
	StreamID uint32 // of the response that they were made with
	Refused  int    // at once, as there was no room
	Dropped  int    // later, to make room for others, or because their time was over
}

func (e *PushLostError) Error() string {
	return fmt.Sprintf(prefix+"stream %d: pushes were lost before Pushes yielded them: %d refused, %d dropped (see PushPolicy)", e.StreamID, e.Refused, e.Dropped)
}

func (p PushPolicy) withDefaults() PushPolicy {
	if p.Max <= 0 {
		p.Max = 100
	}
	p.Max = int(min(int64(p.Max), math.MaxUint32)) // a setting has 32 bits
	return p
}

// A Push is a response that the peer sends without having been asked for it. Until Response is
// called, it holds no more than the initial stream window (64 KiB where Config says nothing else)
// and its fields. Once Pushes has yielded it, it is the caller's: it counts against PushPolicy.Max
// until it has ended, and ends by being read, with Cancel, or with the connection.
type Push struct {
	Request  *Request // that the peer answers: method, scheme, authority, path and header
	ParentID uint32   // the stream of the promise

	s *Stream

	// guarded by the connection's mu
	parent  *Stream // it waits to be claimed there; nil: it does not
	held    int64   // octets that it holds while it waits
	claimed bool    // Pushes yielded it, or it cannot be claimed any more
	settled bool    // it counts no more
}

// unclaimed are the promises of a connection that wait to be claimed. It is guarded by the
// connection's mu.
type unclaimed struct {
	waiting []*Push // oldest first
	held    int64   // octets that they hold
}

func (u *unclaimed) add(p *Push, parent *Stream, held int64) {
	if p.claimed { // while PushPolicy.Accept was asked, which may hand it on
		return
	}
	p.parent, p.held = parent, held
	u.waiting = append(u.waiting, p)
	u.held += held
}

func (u *unclaimed) remove(p *Push) {
	if p.parent == nil {
		return
	}
	p.parent = nil
	u.held -= p.held
	i := slices.Index(u.waiting, p)
	u.waiting = slices.Delete(u.waiting, i, i+1)
}

// oldest is the one to be given up first: the response that it was made with has ended. Nil: there
// is none.
func (u *unclaimed) oldest() *Push {
	for _, p := range u.waiting {
		if p.parent.recvErr != nil {
			return p
		}
	}
	return nil
}

// forget is for a connection that has ended: what has come can still be claimed, and belongs to the
// responses.
func (u *unclaimed) forget() {
	if u == nil {
		return
	}
	for _, p := range u.waiting {
		p.parent = nil
	}
	u.waiting, u.held = nil, 0
}

// evictPromisesLocked gives promises up until size more octets can be held. It reports false where
// they cannot.
func (c *Conn) evictPromisesLocked(size int64) bool {
	for c.unclaimed.held+size > maxUnclaimedSize {
		p := c.unclaimed.oldest()
		if p == nil {
			return false
		}
		p.giveUpLocked()
	}
	return true
}

// chargeLocked counts size more octets that the push holds, if it waits to be claimed. Where there
// is no room for them, it is given up.
func (p *Push) chargeLocked(size int64) {
	c := p.s.c
	if p.parent != nil && !c.evictPromisesLocked(size) && p.parent != nil {
		p.giveUpLocked()
	}
	if p.parent != nil {
		p.held += size
		c.unclaimed.held += size
	}
}

// giveUpLocked ends a push that waits to be claimed. Pushes says so.
func (p *Push) giveUpLocked() {
	parent := p.parent
	parent.lostPushesLocked().Dropped++
	x := parent.extras
	if i := slices.Index(x.promises, p); i >= 0 {
		x.promises = slices.Delete(x.promises, i, i+1)
	}
	p.cancelLocked()
}

// lostPushesLocked is the stream's account of promises that were lost.
func (s *Stream) lostPushesLocked() *PushLostError {
	x := s.extrasLocked()
	if x.lost == nil {
		x.lost = &PushLostError{StreamID: s.id}
	}
	return x.lost
}

// agePromisesLocked begins, or begins again, the time that the stream's promises may wait, as it
// has ended or was read after that.
func (s *Stream) agePromisesLocked() {
	if !s.extras.promised() || s.recvErr == nil {
		return
	}
	s.extras.promisesBy = s.c.clock() + unclaimedTime
	s.c.armLocked(s.extras.promisesBy)
}

// unclaimedByLocked is when the time of the first promise that waits is over, 0: none has one.
func (c *Conn) unclaimedByLocked() (at time.Duration) {
	if c.unclaimed == nil {
		return 0
	}
	for _, p := range c.unclaimed.waiting {
		if by := p.parent.extras.promisesBy; by > 0 && (at == 0 || by < at) {
			at = by
		}
	}
	return at
}

// endUnclaimedLocked gives up the promises that have waited for too long.
func (c *Conn) endUnclaimedLocked() {
	if at := c.unclaimedByLocked(); at == 0 || c.now < at {
		return
	}
	for _, p := range slices.Clone(c.unclaimed.waiting) {
		if p.parent != nil && p.parent.extras.promisesBy > 0 && c.now >= p.parent.extras.promisesBy {
			p.giveUpLocked()
		}
	}
}

// ID returns the pushed stream's identifier, which is even.
func (p *Push) ID() uint32 { return p.s.id }

// Response waits for the response and opens its window. It may be called before or after the parent's body is read. The caller
// closes its body. The ctx of the first call governs the whole exchange, the reading of the body included.
func (p *Push) Response(ctx context.Context) (*Response, error) {
	mustHave(ctx != nil, "Push.Response", "context.Context")
	c := p.s.c
	c.mu.Lock()
	p.claimLocked()
	p.s.openWindowLocked()
	p.s.watchLocked(ctx)
	c.unlock()
	return p.s.Response(ctx)
}

// Cancel refuses the push, or what is left of it, with CANCEL.
func (p *Push) Cancel() {
	c := p.s.c
	c.mu.Lock()
	p.cancelLocked()
	c.unlock()
}

func (p *Push) cancelLocked() {
	p.claimLocked()
	p.s.cancelLocked()
}

// cancelPromisesLocked ends the promises made on s that nobody has claimed.
func (s *Stream) cancelPromisesLocked() {
	if !s.extras.promised() {
		return
	}
	for _, p := range s.extras.promises {
		p.cancelLocked()
	}
	s.extras.promises = nil
}

// claimLocked hands the push to the caller.
func (p *Push) claimLocked() {
	p.s.c.unclaimed.remove(p)
	p.claimed = true
	if p.s.state == state.Closed {
		p.settleLocked()
	}
}

// settleLocked ends the push's share of the limit, once it is both over and claimed.
func (p *Push) settleLocked() {
	if p.settled || !p.claimed && !p.s.dropped {
		return
	}
	p.settled = true
	p.s.c.pushes--
}

// Pushes yields the promises made on the stream. See Response.Pushes; here they can be had before
// the response. Where Config.Push is nil there are none.
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

// nextPush waits for the next promise; nil is the end.
func (s *Stream) nextPush(ctx context.Context) (*Push, error) {
	c := s.c
	c.mu.Lock()
	defer c.unlock()
	for {
		switch {
		case c.closed:
			return nil, ErrClosed
		case s.extras.promised():
			push := s.extras.promises[0]
			s.extras.promises[0] = nil
			s.extras.promises = s.extras.promises[1:]
			push.claimLocked()
			return push, nil
		case s.recvErr == nil: // more may come
		case s.recvErr != io.EOF && !s.extras.wasWhole():
			return nil, s.recvErr
		case s.extras.lostPushes() != nil:
			lost := *s.extras.lost
			return nil, &lost
		default:
			return nil, nil
		}
		if err := c.waitLocked(ctx, &s.recvQ); err != nil {
			return nil, err
		}
	}
}

// recvPushPromiseLocked takes a promise. mu is free while the policy is asked: readLoop is the only one who could
// do anything with the new stream meanwhile, and it is here.
func (c *Conn) recvPushPromiseLocked(f *frame) error {
	c.usefulLocked(f.Length)
	// RFC 9113 §6.6: a promise to a client that has switched push off is a connection error.
	if c.cfg.Push == nil {
		return connErr(ProtocolError, "PUSH_PROMISE though ENABLE_PUSH is 0")
	}
	// RFC 9113 §5.1.1, §6.6: the promised stream is even, idle, and above all that came before.
	if f.promised%2 != 0 || f.promised <= c.lastPushID {
		return connErr(ProtocolError, "PUSH_PROMISE of the illegal stream %d", f.promised)
	}
	parent := c.streams[f.StreamID]
	switch {
	case parent != nil && parent.push == nil && parent.state.CanRecv():
	case parent == nil && f.StreamID%2 == 1 && c.slots.mayHaveReset(f.StreamID):
		// RFC 9113 §5.1: we ended the parent, and the peer had not heard yet. The promise is real
		// all the same.
	default:
		return connErr(ProtocolError, "PUSH_PROMISE on stream %d, which is not an open request", f.StreamID)
	}
	if c.lastPushID = f.promised; parent != nil {
		parent.began = true
	}
	s := &Stream{c: c, id: f.promised, bodyLeft: -1}
	s.mustLocked(state.RecvPromise)
	s.sender, s.sendErr = nothingToSend, ErrSendEnded
	s.window.c, s.window.s, s.window.credit = c, s, c.promisedWindowLocked() // its manager comes when the push is claimed
	s.push = &Push{ParentID: f.StreamID, s: s, Request: &Request{}}
	s.req = s.push.Request
	c.addLocked(s)
	c.pushes++
	c.adjustInitialWindowLocked()
	c.counts.promised++
	switch {
	case parent == nil:
		s.cancelLocked()
		return c.provokedLocked()
	case f.oversize > 0:
		return s.tooLargeLocked(f)
	case !c.placeForPushLocked(f):
		parent.lostPushesLocked().Refused++
		s.resetLocked(streamErr(s.id, RefusedStream, errors.New("too many pushes")))
		return c.provokedLocked()
	}
	if reason := s.push.parse(f.fields, f.head); reason != "" {
		return s.rejectLocked(ProtocolError, &MalformedError{reason})
	}
	if reason := c.unentitled(s.push.Request); reason != "" {
		return s.rejectLocked(ProtocolError, errors.New(reason))
	}
	if accept := c.cfg.Push.Accept; accept != nil {
		c.unlock()
		accepted := accept(s.push)
		c.mu.Lock()
		if !accepted {
			s.cancelLocked()
			return c.provokedLocked()
		}
	}
	if parent.dropped || s.state == state.Closed { // meanwhile
		s.cancelLocked()
		return c.provokedLocked()
	}
	extras := parent.extrasLocked()
	extras.promises = append(extras.promises, s.push)
	c.unclaimed.add(s.push, parent, promiseSize(f.fields))
	parent.wakeReaderLocked()
	return nil
}

// placeForPushLocked makes room for the push that was just promised, and counted.
func (c *Conn) placeForPushLocked(f *frame) bool {
	for c.pushes > c.cfg.Push.Max {
		p := c.unclaimed.oldest()
		if p == nil {
			return false
		}
		p.giveUpLocked()
	}
	return c.evictPromisesLocked(promiseSize(f.fields))
}

func promiseSize(fields []Field) int64 { return promiseOverhead + fieldsSize(fields) }

func fieldsSize(fields []Field) (size int64) {
	for i := range fields {
		size += int64(fields[i].size())
	}
	return size
}

// parse fills in the promised request; it says what is malformed about it (RFC 9113 §8.3.1).
func (p *Push) parse(fields []Field, head *responseHead) (malformed string) {
	r := p.Request
	pseudo := map[string]*string{":method": &r.Method, ":scheme": &r.Scheme, ":authority": &r.Authority, ":path": &r.Path}
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
	if head.badField != "" {
		return head.badField
	}
	for _, f := range fields[i:] {
		if f.Name == "te" && !syntax.EqualFold(f.Value, "trailers") { // RFC 9113 §8.2.2
			return "a te other than trailers"
		}
	}
	r.Header = append(Header(nil), fields[i:]...)
	return ""
}

// unentitled says why the peer must not push the response to r (RFC 9113 §8.4.1, §10.1), or "".
func (c *Conn) unentitled(r *Request) string {
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
	case !c.authoritative(r.Authority):
		return "a promise for " + syntax.Printable(r.Authority) + ", which this connection does not speak for"
	}
	return ""
}

// authoritative reports whether the peer may speak for authority: its own, or on the same port one that its
// certificate covers.
func (c *Conn) authoritative(authority string) bool {
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
	if c.origins.excludes(target{scheme: c.cfg.Scheme, host: syntax.Lower(host), port: port}.origin()) { // RFC 8336 §2.4
		return false
	}
	state := c.TLS()
	return state != nil && len(state.VerifiedChains) > 0 && state.PeerCertificates[0].VerifyHostname(host) == nil
}
