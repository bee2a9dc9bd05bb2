package hyper

import (
	"hash/maphash"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"gohyper.dev/hyper/internal/syntax"
)

// This file converts the names of fields: those of net/http, as in "Content-Type", and those on the
// wire, as in "content-type".

// wireName returns the lower-case form of a field name of net/http. It does not allocate for common
// names.
func wireName(key string) string {
	if name := wireNames.get(key); name != "" {
		return name
	}
	return wireCache.get(key)
}

// canonicalName is http.CanonicalHeaderKey, but faster for common names.
func canonicalName(name string) string {
	if key := canonicalNames.get(name); key != "" {
		return key
	}
	return canonicalCache.get(name)
}

// commonNames has the names of the static table (RFC 7541 appendix A) and some others.
var commonNames = [...]string{
	"accept-charset", "accept-encoding", "accept-language", "accept-ranges", "accept",
	"access-control-allow-origin", "age", "allow", "authorization", "cache-control",
	"content-disposition", "content-encoding", "content-language", "content-length",
	"content-location", "content-range", "content-type", "cookie", "date", "etag", "expect",
	"expires", "from", "host", "if-match", "if-modified-since", "if-none-match", "if-range",
	"if-unmodified-since", "last-modified", "link", "location", "max-forwards",
	"proxy-authenticate", "proxy-authorization", "range", "referer", "refresh", "retry-after",
	"server", "set-cookie", "strict-transport-security", "transfer-encoding", "user-agent", "vary",
	"via", "www-authenticate",
	"connection", "idempotency-key", "origin", "priority", "te", "traceparent", "tracestate",
	"trailer", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id",
}

// wireNames maps the canonical names of commonNames to those on the wire. canonicalNames maps in
// the other direction.
var wireNames, canonicalNames = func() (wire, canonical nameTable) {
	for _, name := range commonNames {
		key := http.CanonicalHeaderKey(name)
		wire.add(key, name)
		canonical.add(name, key)
	}
	return wire, canonical
}()

// A nameTable converts names. Each has a place of its own.
type nameTable [256]convertedName

// placeOf returns the place of a name. The factors are chosen so that no two of commonNames have
// the same place, neither on the wire nor in canonical form.
func (t *nameTable) placeOf(name string) *convertedName {
	n := len(name)
	return &t[uint8(n)*65+name[0]*188+name[n/2]*33+name[n-1]*103]
}

// add adds a name.
func (t *nameTable) add(from, to string) { *t.placeOf(from) = convertedName{from, to} }

// get returns what name is converted to, and "" if it is not in the table.
func (t *nameTable) get(name string) string {
	if name == "" {
		return ""
	}
	if c := t.placeOf(name); c.from == name {
		return c.to
	}
	return ""
}

// canonicalCache has what http.CanonicalHeaderKey returns, and wireCache has names in lower case.
var (
	canonicalCache = fieldNameCache{convert: http.CanonicalHeaderKey}
	wireCache      = fieldNameCache{convert: syntax.Lower}
)

// A fieldNameCache converts the names of fields. It keeps the last short name of each hash, because
// to convert a name allocates memory, and most messages repeat the names of earlier ones.
type fieldNameCache struct {
	convert func(string) string
	names   [cachedNames]atomic.Pointer[convertedName]
}

// A convertedName is a name and what it is converted to.
type convertedName struct{ from, to string }

// The limits of a fieldNameCache: the number of names, and the size of a name in bytes.
const (
	cachedNames   = 512
	maxCachedName = 64
)

// nameSeed makes the hashes of names unknown to the peer.
var nameSeed = maphash.MakeSeed()

// get converts a name.
func (c *fieldNameCache) get(name string) string {
	if len(name) > maxCachedName {
		return c.convert(name)
	}
	at := &c.names[maphash.String(nameSeed, name)%cachedNames]
	if known := at.Load(); known != nil && known.from == name {
		return known.to
	}
	// The name can be a part of a larger string, which must not be kept.
	from := strings.Clone(name)
	to := c.convert(from)
	at.Store(&convertedName{from, to})
	return to
}

// fieldOrders has the names of earlier requests in their order.
var fieldOrders fieldOrderCache

// The limits of a fieldOrderCache: the number of orders, and of the names in one, which have at
// most maxCachedName bytes each.
const (
	cachedOrders = 16
	maxOrdered   = 256
)

// A fieldOrderCache saves sorting. Most requests of a program have the names of an earlier one. So
// it looks for the fields of that one, by the number of names, and does not need to go through the
// map and to sort. An order does not change once it is in the cache.
type fieldOrderCache [cachedOrders]struct {
	order  atomic.Pointer[[]orderedName]
	missed atomic.Uint32 // how often the order was that of other names
}

// An orderedName is the key of a field in an http.Header, and its name on the wire.
type orderedName struct {
	key, name string
	special   bool // specialField
}

// fields appends the fields of src to h, an empty Header, in their order. It returns false if that
// is not known.
func (c *fieldOrderCache) fields(h Header, src http.Header) (all Header, ok bool) {
	known := c[len(src)%cachedOrders].order.Load()
	if known == nil || len(*known) != len(src) {
		return nil, false
	}
	for i := range *known {
		n := &(*known)[i]
		values, ok := src[n.key]
		if !ok {
			return nil, false
		}
		h = h.appendFromHTTP(n.name, n.special, values, false)
	}
	return h, true
}

// keep puts the order of src into the cache. It does so for one of four headers only, if they
// always have other names.
func (c *fieldOrderCache) keep(src http.Header) {
	if len(src) > maxOrdered || len(src) == 0 {
		return
	}
	at := &c[len(src)%cachedOrders]
	if (at.missed.Add(1)-1)%4 != 0 {
		return
	}
	order := make([]orderedName, 0, len(src))
	for key := range src {
		if len(key) > maxCachedName {
			return
		}
		key = strings.Clone(key) // it can be a part of a larger string
		name := wireName(key)
		order = append(order, orderedName{key, name, specialField(name)})
	}
	slices.SortFunc(order, func(a, b orderedName) int { return strings.Compare(a.name, b.name) })
	at.order.Store(&order)
}
