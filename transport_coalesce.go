package hyper

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"
)

// This file has the rules by which a Transport sends requests on connections that were made for
// other hosts; see Transport.Coalesce.

const (
	addressMemory = time.Minute // how long the addresses of a host are used
	lookupWait    = time.Second // how long a request waits for the addresses of its host
	// lookupTimeout limits the lookup itself, which also serves later requests.
	lookupTimeout = 10 * time.Second
)

var (
	// errNotShared means that no connection of another host serves the request. It has to be sent
	// on a connection of its own host.
	errNotShared = errors.New("hyper: no connection to share")

	// errMisdirected is the error of an attempt that got a 421 response. The body is ready for
	// another attempt.
	errMisdirected = errors.New("hyper: 421 (Misdirected Request)")
)

// A sharing is what a host knows of the connections of other hosts. It is guarded by the host's
// lock.
type sharing struct {
	last   lender        // served the last request; zero: none did
	addrs  []netip.Addr  // of the host; nil if the lookup failed
	until  time.Time     // when last and addrs expire
	lookup chan struct{} // closed when the lookup in progress ends; nil: no lookup
}

// A lender is a connection with the host that it was made for.
type lender struct {
	c  *pooledConn
	of *host
}

// remembered returns for how much longer s has to be remembered if the host has no connections.
func (s *sharing) remembered() time.Duration {
	if s == nil {
		return 0
	}
	return time.Until(s.until)
}

// roundTripOnAny is roundTrip, but it uses a connection of another host if possible.
func (h *host) roundTripOnAny(x *exchange) (*http.Response, error) {
	if h.mayShare(x) {
		if resp, err := h.roundTripShared(x); err != errNotShared {
			return resp, err
		}
	}
	return h.roundTrip(x)
}

// roundTripShared sends x on a connection that was made for another host. If it returns
// errNotShared, the request has to be sent on a connection of h. Otherwise it has left the host.
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
	x.route = sharedConn
	resp, err := x.attempt(l.c.Conn, trySlot)
	x.route = anyConn
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
		return nil, x.verdict(err)
	}
	return nil, errNotShared
}

// mayShare reports whether x may be sent on a connection that was made for another host.
func (h *host) mayShare(x *exchange) bool {
	if h.key.scheme != "https" || h.proxy != nil || h.t.net != nil || h.t.DialTLSContext != nil ||
		!h.t.keepsAlive() {
		return false
	}
	if to := x.httpReq.Host; x.closeConn || to != "" && to != x.httpReq.URL.Host || !h.isAskedBy(&x.req) {
		return false
	}
	config := h.t.config().TLS
	return !config.InsecureSkipVerify && config.ServerName == "" && config.VerifyConnection == nil &&
		config.VerifyPeerCertificate == nil && config.GetClientCertificate == nil &&
		len(config.Certificates) == 0
}

// isAskedBy reports whether req, in the form in which it is sent, is for the host and opens no
// tunnel. The function of WithRequest may have changed that.
func (h *host) isAskedBy(req *Request) bool {
	return originOf(h.key.scheme, req.pseudo(pseudoAuthority, req.Authority)) == h.key.origin() &&
		req.pseudo(pseudoMethod, req.Method) != http.MethodConnect
}

// findLender returns a connection of another host on which x can be sent without waiting, or the
// zero lender. It returns the zero lender if h has a connection of its own.
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

// lastLender returns the connection that served the last request. own reports whether h has
// connections, is about to have one, or does not speak HTTP/2.
func (h *host) lastLender() (last lender, own bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.Conns.Len() > 0 || h.Attempts.ForRequests() > 0 || !h.Queue.Empty() || h.IsExcluded() {
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

// sharingLocked returns h.sharing. It makes it if it is nil.
func (h *host) sharingLocked() *sharing {
	if h.sharing == nil {
		h.sharing = &sharing{}
	}
	return h.sharing
}

// lendersTo returns the connections of other hosts whose certificates cover h and that can take one
// more request.
func (t *Transport) lendersTo(h *host) (list []lender) {
	for _, of := range t.allHosts() {
		if of == h || of.key.scheme != h.key.scheme || of.key.port != h.key.port ||
			of.key.proxy != h.key.proxy {
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

// lendsTo reports whether the connection can take a request for h at once. Its own host must be
// able to spare it, and its peer must not have said that it does not serve h on it.
func (l lender) lendsTo(h *host) bool {
	return l.of.spares(l.c) && l.c.hasFreeSlotFor(h.key.origin())
}

// spares reports whether h can let another host use c.
func (h *host) spares(c *pooledConn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.Lends(c)
}

// remoteIP returns the IP address of c's peer, or the zero Addr if its address is not an IP
// address.
func (c *Conn) remoteIP() netip.Addr {
	if c.socket.remote == nil || *c.socket.remote == nil {
		return netip.Addr{}
	}
	at, err := netip.ParseAddrPort((*c.socket.remote).String())
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

// addresses returns the addresses of the host. It waits for a lookup, at most for lookupWait.
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

	timer := time.NewTimer(lookupWait)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-x.httpReq.Context().Done():
	case <-x.req.cancel():
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !time.Now().Before(s.until) { // the addresses of an earlier lookup have expired
		return nil
	}
	return s.addrs
}

// lookUp looks up the addresses of the host. It runs in its own goroutine, for at most
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

// lookUpIPs gets the addresses of the host from Transport.Resolve or the default resolver. It
// returns none if the lookup fails.
func (h *host) lookUpIPs(ctx context.Context) (addrs []netip.Addr) {
	if h.t.Resolve == nil {
		addrs, _ = net.DefaultResolver.LookupNetIP(ctx, "ip", h.key.host)
		return addrs
	}
	list, _ := h.t.askInTime(ctx, h.addr)
	for _, addr := range list {
		if at, err := netip.ParseAddrPort(addr); err == nil {
			addrs = append(addrs, at.Addr())
		}
	}
	return addrs
}

// misdirected reports whether the response to x is 421 and x can be sent again. If so, it ends the
// attempt, and the body is ready for the next one.
func (x *exchange) misdirected(s *Stream, resp *Response) bool {
	if resp.StatusCode != http.StatusMisdirectedRequest {
		return false
	}
	err := errNotReturned // GetBody is the user's function and may panic
	defer func() {
		if err == nil || err == errNotReturned {
			s.abandon(errMisdirected)
		}
	}()
	err = x.body.rewindAnswered(x.httpReq.GetBody)
	return err == nil
}
