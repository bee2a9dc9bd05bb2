package hyper

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"gohyper.dev/hyper/internal/syntax"
	"gohyper.dev/hyper/internal/wire"
)

// Limits of the origins that are kept for a connection.
const (
	maxOriginFrame = 64 << 10 // bytes; the origins of a larger ORIGIN frame are not read
	maxOriginSize  = 64 << 10 // bytes of all origins in the Origin Set
	maxMisdirected = 1000     // origins of 421 responses

	// RFC 8336 §2.2: a frame with any of these flags has another meaning and is ignored.
	unknownOriginFlags = wire.Flags(0x1 | 0x2 | 0x4 | 0x8)
)

// An originSet holds what the peer has told about the origins that it serves on a connection. The
// connection's mu guards it. nil: the peer has told nothing.
type originSet struct {
	// An ORIGIN frame was received, so origins is the Origin Set (RFC 8336 §2.3).
	received    bool
	origins     map[string]struct{} // serialized (RFC 6454 §6.2)
	size        int                 // of origins, in bytes
	misdirected map[string]struct{} // origins of requests with a 421 response
}

// Origins returns the connection's Origin Set (RFC 8336 §2.3), sorted. It has the origins that the
// peer serves on the connection, such as "https://example.com" and "https://example.com:8443". nil
// means that no ORIGIN frame was received. The set is empty if the peer has removed its only origin
// by a 421 (Misdirected Request) response.
//
// The set is only the peer's claim. Before a request for another host is sent on the connection,
// the peer's certificate must be verified for that host (RFC 9113 §9.1.1), and the host should have
// the connection's address. Transport.Coalesce checks both. In cleartext, ORIGIN frames are
// ignored. Origins whose scheme is not https, origins beyond 64 KiB in total, and those of an
// ORIGIN frame that is longer, are not kept.
func (c *Conn) Origins() []string {
	c.lock()
	defer c.unlock()
	if c.origins == nil || !c.origins.received {
		return nil
	}
	list := slices.AppendSeq(make([]string, 0, len(c.origins.origins)), maps.Keys(c.origins.origins))
	slices.Sort(list)
	return list
}

// recvOriginLocked adds the origins of an ORIGIN frame to the Origin Set (RFC 8336 §2.2).
func (c *Conn) recvOriginLocked(f *frame) {
	if c.socket.tls == nil || f.StreamID != 0 || f.Flags&unknownOriginFlags != 0 {
		return
	}
	set := c.originSetLocked()
	if !set.received {
		set.received = true
		set.add(c.initialOrigin())
	}
	for name := range wire.ParseOrigins(f.payload) {
		if origin, ok := parseOrigin(name); ok {
			set.add(origin)
		}
	}
}

// originSetLocked returns the connection's originSet. It makes one if there is none.
func (c *Conn) originSetLocked() *originSet {
	if c.origins == nil {
		c.origins = &originSet{origins: make(map[string]struct{})}
	}
	return c.origins
}

// add adds origin to the Origin Set, unless the set is full.
func (o *originSet) add(origin string) {
	if _, known := o.origins[origin]; known || o.size+len(origin) > maxOriginSize {
		return
	}
	o.origins[origin] = struct{}{}
	o.size += len(origin)
}

// initialOrigin returns the first member of an Origin Set: the server name of the TLS handshake
// with the port.
func (c *Conn) initialOrigin() string {
	host, port := syntax.SplitAuthority(c.cfg.Authority, "https")
	if state := c.TLS(); state.ServerName != "" {
		host = state.ServerName
	}
	return target{scheme: "https", host: syntax.Lower(host), port: port}.origin()
}

// origin returns the ASCII serialization of the target's origin (RFC 6454 §6.2).
func (t target) origin() string { return t.scheme + "://" + t.authority() }

// originOf returns the origin of a request with that :authority.
func originOf(scheme, authority string) string {
	host, port := syntax.SplitAuthority(syntax.Lower(authority), scheme)
	return target{scheme: scheme, host: host, port: port}.origin()
}

// parseOrigin parses the ASCII serialization of an https origin.
func parseOrigin(s string) (origin string, ok bool) {
	s = syntax.Lower(s)
	rest, ok := strings.CutPrefix(s, "https://")
	if !ok || strings.ContainsAny(rest, "/?#%") || strings.HasSuffix(rest, ":") {
		return "", false
	}
	to, err := parseAddr(s)
	if err != nil {
		return "", false
	}
	return to.origin(), true
}

// misdirectedLocked records a 421 response to req. The origin of req is removed from the Origin Set
// (RFC 8336 §2.3), and the connection is no longer shared for it.
func (c *Conn) misdirectedLocked(req *Request) {
	origin := originOf(c.cfg.Scheme, c.authorityOf(req))
	set := c.originSetLocked()
	if _, listed := set.origins[origin]; listed {
		delete(set.origins, origin)
		set.size -= len(origin)
	}
	if set.misdirected == nil {
		set.misdirected = make(map[string]struct{})
	}
	if len(set.misdirected) < maxMisdirected {
		set.misdirected[origin] = struct{}{}
	}
}

// authorityOf returns the :authority that req was sent with.
func (c *Conn) authorityOf(req *Request) string {
	return req.pseudo(pseudoAuthority, or(req.Authority, or(req.Header.Get("host"), c.cfg.Authority)))
}

// excludes reports whether the peer has told that it does not serve origin on the connection.
func (o *originSet) excludes(origin string) bool {
	if o == nil {
		return false
	}
	if _, ok := o.misdirected[origin]; ok || len(o.misdirected) >= maxMisdirected {
		return true
	}
	_, listed := o.origins[origin]
	return o.received && !listed
}

// covers reports whether the peer's certificate was verified and is valid for host (RFC 9113
// §9.1.1). It is false if this package did not set up the connection's TLS.
func (c *Conn) covers(host string) bool {
	if c.socket.tls == nil || c.socket.below == nil {
		return false
	}
	state := c.TLS()
	if len(state.VerifiedChains) == 0 {
		return false
	}
	leaf := state.PeerCertificates[0]
	return time.Now().Before(leaf.NotAfter) && leaf.VerifyHostname(host) == nil
}

// hasFreeSlotFor reports whether a request for an origin of another host can be sent without
// waiting.
func (c *Conn) hasFreeSlotFor(origin string) bool {
	c.lock()
	defer c.unlock()
	return c.slotFreeLocked() && c.takesRequestsLocked() == nil && !c.origins.excludes(origin)
}

// noteStatusLocked is called with the status of each final response.
func (s *Stream) noteStatusLocked(status int) {
	if status == http.StatusMisdirectedRequest && s.push == nil {
		s.c.misdirectedLocked(s.req)
	}
}
