package hyper

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"gohyper.dev/hyper/internal/syntax"
)

// How a Transport sends requests on connections that were made for other hosts; see
// Transport.Coalesce.

const (
	addressMemory  = time.Minute      // of the addresses of a host
	lookupPatience = time.Second      // until a request does not wait for its host's addresses any more
	lookupTimeout  = 10 * time.Second // of the lookup, which serves later requests
)

var (
	// errNotShared: no connection of another host serves the request, and nothing has become of it.
	errNotShared = errors.New("hyper: no connection to share")

	// errMisdirected is the end of a try with a 421 response. The body is ready for another one.
	errMisdirected = errors.New("hyper: 421 (Misdirected Request)")
)

// A sharing is what a host knows of other hosts' connections. The host's lock guards it.
type sharing struct {
	last   lender        // which served the last request; the zero value: none
	addrs  []netip.Addr  // of the host; none where the lookup failed
	until  time.Time     // when last and addrs have to be found again
	lookup chan struct{} // closed at the end of the lookup in progress; nil: there is none
}

// A lender is a connection, and the host that it was made for.
type lender struct {
	c  *pooledConn
	of *host
}

// remembered is for how much longer s is to be remembered when the host has no connections.
func (s *sharing) remembered() time.Duration {
	if s == nil {
		return 0
	}
	return time.Until(s.until)
}

// roundTripOnAny is roundTrip, on another host's connection where that can be.
func (h *host) roundTripOnAny(x *exchange) (*http.Response, error) {
	if h.mayShare(x) {
		if resp, err := h.roundTripShared(x); err != errNotShared {
			return resp, err
		}
	}
	return h.roundTrip(x)
}

// roundTripShared sends x on a connection that was made for another host. With errNotShared the
// request has to be sent on one of h's own; else it leaves the host.
func (h *host) roundTripShared(x *exchange) (_ *http.Response, failure error) {
	l := h.findLender(x)
	if l.c == nil {
		return nil, errNotShared
	}
	failure = errNotReturned
	defer func() {
		if failure != errNotShared {
			h.leaveAndEnd(x, &failure)
		}
	}()
	x.trace.getConn(h.addr)
	x.shared = true
	resp, err := x.on(l.c.Conn, ifFree)
	x.shared = false
	switch err {
	case nil:
		l.of.answered(l.c)
		return resp, nil
	case errMisdirected:
		l.of.answered(l.c)
		return nil, errNotShared
	case errNoSlot: // nothing was sent
		return nil, errNotShared
	}
	if err := l.of.again(&retry{x: x}, l.c, err); err != nil {
		return nil, err
	}
	return nil, errNotShared
}

// mayShare reports whether x may be sent on a connection that was made for another host.
func (h *host) mayShare(x *exchange) bool {
	if h.key.scheme != "https" || h.proxy != nil || h.t.net != nil || h.t.DialTLSContext != nil || !h.t.keepsAlive() {
		return false
	}
	if x.last || x.in.Method == http.MethodConnect {
		return false
	}
	if x.in.Host != "" && x.in.Host != x.in.URL.Host || !h.isAskedBy(&x.out) {
		return false
	}
	config := h.config().TLS
	return !config.InsecureSkipVerify && config.ServerName == "" && config.VerifyConnection == nil &&
		config.VerifyPeerCertificate == nil && config.GetClientCertificate == nil && len(config.Certificates) == 0
}

// isAskedBy reports whether req, as it is sent, is for the host and opens no tunnel: a function of
// WithRequest may have changed that.
func (h *host) isAskedBy(req *Request) bool {
	to := target{scheme: h.key.scheme}
	to.host, to.port = syntax.SplitAuthority(syntax.Lower(req.pseudo(pseudoAuthority, req.Authority)), to.scheme)
	return to.origin() == h.key.origin() && req.pseudo(pseudoMethod, req.Method) != http.MethodConnect
}

// findLender returns a connection of another host on which x can be sent without waiting, if the
// host has none of its own.
func (h *host) findLender(x *exchange) lender {
	last, own := h.lastLender()
	switch {
	case own:
		return lender{}
	case last.c != nil && last.lendsTo(h):
		return last
	}
	candidates := h.t.lendersTo(h)
	if len(candidates) == 0 {
		return lender{}
	}
	addrs := h.addresses(x)
	for _, l := range candidates {
		if slices.Contains(addrs, l.c.remoteIP()) && l.lendsTo(h) {
			h.mu.Lock()
			h.sharingLocked().last = l
			h.mu.Unlock()
			return l
		}
	}
	return lender{}
}

// lastLender returns the connection that served the last request. It also reports whether the host
// has connections of its own, or is about to, or does not speak HTTP/2.
func (h *host) lastLender() (last lender, own bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.conns) > 0 || len(h.attempts) > 0 || len(h.waiting) > 0 || !h.http1Until.IsZero() {
		h.sharing = nil
		return lender{}, true
	}
	s := h.sharing
	if s != nil && !time.Now().Before(s.until) {
		s.last = lender{}
	}
	if s == nil {
		return lender{}, false
	}
	return s.last, false
}

func (h *host) sharingLocked() *sharing {
	if h.sharing == nil {
		h.sharing = &sharing{}
	}
	return h.sharing
}

// lendersTo returns the connections of other hosts whose certificates cover h, and which take one
// more request.
func (t *Transport) lendersTo(h *host) (list []lender) {
	for _, of := range t.allHosts() {
		if of == h || of.key.scheme != h.key.scheme || of.key.port != h.key.port || of.key.proxy != h.key.proxy {
			continue
		}
		for _, c := range of.clonedConns() {
			if l := (lender{c, of}); l.lendsTo(h) && c.covers(h.key.host) {
				list = append(list, l)
			}
		}
	}
	return list
}

// lendsTo reports whether the connection takes a request for h at once, as far as its own host can
// spare it, and its peer has not said that it does not serve h on it.
func (l lender) lendsTo(h *host) bool {
	return l.of.spares(l.c) && l.c.hasFreeSlotFor(h.key.origin())
}

// spares reports whether c is in use, and neither in short supply nor about to be replaced.
func (h *host) spares(c *pooledConn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Contains(h.conns, c) && len(h.waiting) == 0 && h.capacity.streams == 0 && c.quota == 0 &&
		!c.suspected.Load() && (c.retireAt.IsZero() || time.Now().Before(c.retireAt))
}

// remoteIP returns the address of c's peer; the zero Addr where that is not an IP address.
func (c *Conn) remoteIP() netip.Addr {
	if c.remote == nil || *c.remote == nil {
		return netip.Addr{}
	}
	at, err := netip.ParseAddrPort((*c.remote).String())
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

// addresses returns the addresses of the host. It waits for a lookup, but not for long.
func (h *host) addresses(x *exchange) []netip.Addr {
	if ip, err := netip.ParseAddr(h.key.host); err == nil {
		return []netip.Addr{ip.Unmap()}
	}
	h.mu.Lock()
	s := h.sharingLocked()
	if time.Now().Before(s.until) {
		defer h.mu.Unlock()
		return s.addrs
	}
	if s.lookup == nil {
		s.lookup = make(chan struct{})
		go h.lookUp(s)
	}
	done := s.lookup
	h.mu.Unlock()

	patience := time.NewTimer(lookupPatience)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C:
	case <-x.in.Context().Done():
	case <-x.out.cancel:
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !time.Now().Before(s.until) { // those of an earlier lookup are too old
		return nil
	}
	return s.addrs
}

// lookUp finds the addresses of the host. It runs on a goroutine of its own, for at most
// lookupTimeout.
func (h *host) lookUp(s *sharing) {
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	addrs := h.lookUpIPs(ctx)
	for i := range addrs {
		addrs[i] = addrs[i].Unmap().WithZone("")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.addrs, s.until = addrs, time.Now().Add(addressMemory)
	close(s.lookup)
	s.lookup = nil
}

// lookUpIPs asks Transport.Resolve, or the default resolver, for the addresses of the host. It
// returns none where that fails.
func (h *host) lookUpIPs(ctx context.Context) (addrs []netip.Addr) {
	if h.t.Resolve == nil {
		addrs, _ = net.DefaultResolver.LookupNetIP(ctx, "ip", h.key.host)
		return addrs
	}
	list, _ := h.t.Resolve(ctx, h.addr)
	for _, addr := range list {
		if at, err := netip.ParseAddrPort(addr); err == nil {
			addrs = append(addrs, at.Addr())
		}
	}
	return addrs
}

// misdirected reports whether the response to x is 421, and x can be sent again: then the try is
// over, and the body is as it was.
func (x *exchange) misdirected(s *Stream, resp *Response) bool {
	if resp.Status != http.StatusMisdirectedRequest {
		return false
	}
	err := errNotReturned // GetBody is the user's, and may panic
	defer func() {
		if err == nil || err == errNotReturned {
			s.abort(errMisdirected)
			s.closeRead()
		}
	}()
	err = x.body.rewindAnswered(x.in.GetBody)
	return err == nil
}

// rewindAnswered is rewind for a try that has a response: where the body cannot be had again, it
// leaves the try as it is.
func (b *requestBody) rewindAnswered(getBody func() (io.ReadCloser, error)) error {
	if b == nil || b.takeBackUnread() {
		return nil
	}
	if getBody == nil {
		return errBodyGone
	}
	again, err := getBody()
	if err != nil {
		return err
	}
	b.replace(again)
	return nil
}

// takeBackUnread is takeBack for a body that nothing was asked of; it leaves any other as it is.
func (b *requestBody) takeBackUnread() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.read || b.closed {
		return false
	}
	b.tries++
	return true
}

// replace makes in the body of the next try.
func (b *requestBody) replace(in io.ReadCloser) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		go b.in.Close() // a Read may be in progress, and block it
	}
	b.tries++
	b.in, b.read, b.closed = in, false, false
}
