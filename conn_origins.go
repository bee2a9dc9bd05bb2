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

const (
	maxOriginFrame = 64 << 10 // bytes of an ORIGIN frame that is read
	maxOriginSize  = 64 << 10 // bytes of all origins that are kept for a connection
	maxMisdirected = 1000     // origins of 421 responses that are kept for a connection

	// RFC 8336 §2.2: a frame that has one of these flags means something else, and is ignored.
	unknownOriginFlags = wire.Flags(0x1 | 0x2 | 0x4 | 0x8)
)

// An originSet is what the peer has said about the origins that it serves on a connection. The
// connection's lock guards it. Nil: the peer has said nothing.
type originSet struct {
	received    bool                // an ORIGIN frame, so that origins is the Origin Set (RFC 8336 §2.3)
	origins     map[string]struct{} // serialized (RFC 6454 §6.2)
	size        int                 // of origins, in bytes
	misdirected map[string]struct{} // origins whose requests the peer answered with 421
}

// Origins returns the connection's Origin Set (RFC 8336 §2.3), sorted: the origins that the peer
// serves on it, such as "https://example.com" and "https://example.com:8443". Nil means that no
// ORIGIN frame was received; the set is empty where the peer has taken back the only origin of it
// by a 421 (Misdirected Request) response.
//
// What the set has is what the peer claims. Before a request for another host is sent on the
// connection, the certificate must be verified for that host (RFC 9113 §9.1.1), and the host's
// address should be the connection's; Transport.Coalesce does both. ORIGIN frames are ignored
// in cleartext. Origins with another scheme than https, and those beyond 64 KiB, are not kept.
func (c *Conn) Origins() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.origins == nil || !c.origins.received {
		return nil
	}
	list := slices.AppendSeq(make([]string, 0, len(c.origins.origins)), maps.Keys(c.origins.origins))
	slices.Sort(list)
	return list
}

// recvOriginLocked adds the origins of an ORIGIN frame to the Origin Set (RFC 8336 §2.2).
func (c *Conn) recvOriginLocked(f *frame) {
	if c.tls == nil || f.StreamID != 0 || f.Flags&unknownOriginFlags != 0 {
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

func (c *Conn) originSetLocked() *originSet {
	if c.origins == nil {
		c.origins = &originSet{origins: make(map[string]struct{})}
	}
	return c.origins
}

func (o *originSet) add(origin string) {
	if _, known := o.origins[origin]; known || o.size+len(origin) > maxOriginSize {
		return
	}
	o.origins[origin] = struct{}{}
	o.size += len(origin)
}

// initialOrigin is what an Origin Set begins with: the name of the TLS handshake and the port.
func (c *Conn) initialOrigin() string {
	host, port := syntax.SplitAuthority(c.cfg.Authority, "https")
	if state := c.TLS(); state.ServerName != "" {
		host = state.ServerName
	}
	return target{scheme: "https", host: syntax.Lower(host), port: port}.origin()
}

// origin returns the ASCII serialization of the target's origin (RFC 6454 §6.2).
func (t target) origin() string { return t.scheme + "://" + t.authority() }

// parseOrigin reads the ASCII serialization of an https origin.
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

// misdirectedLocked takes note of a 421 response to req: its origin is no longer in the Origin Set
// (RFC 8336 §2.3), and the connection is not shared for it any more.
func (c *Conn) misdirectedLocked(req *Request) {
	host, port := syntax.SplitAuthority(syntax.Lower(c.authorityOf(req)), c.cfg.Scheme)
	origin := target{scheme: c.cfg.Scheme, host: host, port: port}.origin()
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

// excludes reports whether the peer has said that it does not serve origin on the connection.
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

// covers reports whether the certificate of the connection was verified, and is valid for host
// (RFC 9113 §9.1.1). It is false for connections whose TLS this package has not set up.
func (c *Conn) covers(host string) bool {
	if c.tls == nil || c.below == nil || c.below.Conn == nil {
		return false
	}
	state := c.TLS()
	if len(state.VerifiedChains) == 0 {
		return false
	}
	leaf := state.PeerCertificates[0]
	return time.Now().Before(leaf.NotAfter) && leaf.VerifyHostname(host) == nil
}

// hasFreeSlotFor reports whether a request for another host's origin can be sent without waiting.
func (c *Conn) hasFreeSlotFor(origin string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	free := int64(c.slots.used) < int64(c.slots.limit)
	return free && c.takesRequestsLocked() == nil && !c.origins.excludes(origin)
}

// noteStatusLocked is called for the status of each final response.
func (s *Stream) noteStatusLocked(status int) {
	if status == http.StatusMisdirectedRequest && s.push == nil {
		s.c.misdirectedLocked(s.req)
	}
}
