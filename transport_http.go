package hyper

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"gohyper.dev/hyper/internal/syntax"
)

// FromHTTPRequest returns req as a Request that means the same: the method, scheme, authority and path of its URL and Host,
// its fields with lower-case names, sorted, without those that are HTTP/1's own, its body and trailers. What cannot be said
// in HTTP/2 is a *RequestError. The body stays the caller's to close until Do or Open is called.
//
// An internationalized host becomes its ASCII form, the name that net/http dials (idna.Lookup of
// golang.org/x/net), or is a *RequestError. CONNECT has no scheme and no path, whatever its URL
// has, as with net/http.
//
// An *http.Request without a User-Agent gets the connection's; one that has an empty one gets none.
func FromHTTPRequest(req *http.Request) (*Request, error) {
	mustHave(req != nil, "FromHTTPRequest", "*http.Request")
	r := &Request{}
	if err := r.fromHTTP(req); err != nil {
		return nil, err
	}
	if r.Body == nil && req.Body != nil && req.Body != http.NoBody {
		r.Body = req.Body
	}
	return r, nil
}

// fromHTTP is FromHTTPRequest but for bodies that must be read.
func (r *Request) fromHTTP(req *http.Request) error {
	if req.URL == nil {
		return &RequestError{"URL", "is nil"}
	}
	if req.Header == nil {
		return &RequestError{"Header", "is nil"}
	}
	if err := checkConnectionFields(req.Header); err != nil {
		return err
	}
	r.Method, r.Scheme = or(req.Method, "GET"), req.URL.Scheme
	if r.Scheme != "https" && r.Scheme != "http" {
		return badValue(":scheme", r.Scheme, "is an unsupported protocol scheme")
	}
	var err error
	if r.Authority, err = asciiAuthority(or(req.Host, req.URL.Host)); err != nil {
		return err
	}
	if protocol := req.Header[":protocol"]; len(protocol) > 0 {
		r.Protocol = protocol[0]
	}
	if r.Method == "CONNECT" && r.Protocol == "" {
		r.Scheme = ""
	} else {
		if r.Path, err = requestPath(req.URL, r.Authority); err != nil {
			return err
		}
	}
	r.Header = requestFields(req)
	if agent, ok := req.Header["User-Agent"]; ok {
		r.noUserAgent = len(agent) == 0 || agent[0] == ""
	}
	r.noAcceptEncoding = r.Method == "HEAD" // nginx answers such with the headers of another representation (golang/go#5522)
	//lint:ignore SA1019 http.Client still sets it
	r.cancel = req.Cancel
	if len(req.Trailer) > 0 {
		r.trailerOf = req.Trailer
	}
	for name := range r.trailerOf {
		if err := checkTrailer(Header{{Name: name}}); err != nil {
			return err
		}
	}
	if req.Body != nil && req.Body != http.NoBody {
		r.Body = inMemory(req.Body, req.Trailer)
		r.ContentLength = req.ContentLength
		if r.ContentLength <= 0 { // net/http's way to say that it is not known
			r.ContentLength = -1
		}
	}
	return nil
}

// checkConnectionFields refuses what HTTP/2 has no way to say (RFC 9113 §8.2.2); the rest of such fields is passed over.
func checkConnectionFields(h http.Header) error {
	upgrade, coding, connection := h["Upgrade"], h["Transfer-Encoding"], h["Connection"]
	switch {
	case len(upgrade) > 0 && upgrade[0] != "" && upgrade[0] != "chunked":
		return badValue("upgrade", upgrade[0], "has no place in HTTP/2 (RFC 9113 §8.6)")
	case len(coding) > 1 || len(coding) == 1 && coding[0] != "" && coding[0] != "chunked":
		return badValue("transfer-encoding", strings.Join(coding, ", "), "may only be chunked, which is left out")
	case len(connection) > 1 || len(connection) == 1 && connection[0] != "" && !syntax.EqualFold(connection[0], "close") && !syntax.EqualFold(connection[0], "keep-alive"):
		return badValue("connection", strings.Join(connection, ", "), "may only be close or keep-alive")
	}
	return nil
}

// asciiAuthority returns host, a name with or without a port, in the form that goes on the wire: an
// internationalized name in its ASCII form, an IPv6 address without its zone (RFC 6874 §4).
func asciiAuthority(host string) (string, error) {
	if host == "" {
		return "", &RequestError{":authority", "is empty: the URL has no host"}
	}
	host = syntax.WithoutZone(host)
	if syntax.IsASCII(host) {
		return host, nil
	}
	name, port, _ := strings.Cut(host, ":")
	name, err := asciiName(name)
	switch {
	case err != nil || port == "":
		return name, err
	case !syntax.IsToken(port):
		return "", &RequestError{":authority", fmt.Sprintf("has no valid port: %q", host)}
	}
	return name + ":" + port, nil
}

// urlHost returns the host of u as it is dialed: in ASCII and in lower case, but for the zone of an
// IPv6 address.
func urlHost(u *url.URL) (string, error) {
	host := u.Hostname()
	address, zone, hasZone := strings.Cut(host, "%")
	switch {
	case host == "":
		return "", &RequestError{"URL", "has no host"}
	case !syntax.IsASCII(host):
		return asciiName(host)
	case !syntax.IsAuthority(host) || hasZone && !strings.Contains(address, ":"): // TLS would take what follows % for a zone
		return "", &RequestError{"URL", fmt.Sprintf("has no valid host: %q", host)}
	case hasZone:
		return syntax.Lower(address) + "%" + zone, nil
	}
	return syntax.Lower(host), nil
}

// asciiName returns the ASCII form of an internationalized host name (RFC 5890 §2.3.2.1). It is the
// name that net/http dials, which is idna.Lookup's of golang.org/x/net.
func asciiName(host string) (string, error) {
	if name := asciiNames.get(host); name != "" {
		return name, nil
	}
	if utf8.ValidString(host) && !strings.ContainsAny(host, ":[]%") {
		if name := netHTTPName(host); syntax.IsAuthority(name) { // it is ASCII then
			asciiNames.put(host, name)
			return name, nil
		}
	}
	return "", &RequestError{":authority", fmt.Sprintf("is not a valid internationalized name: %q", host)}
}

// asciiNames remembers some results of asciiName, which takes 25 µs.
var asciiNames nameCache

// A nameCache maps a few host names to their ASCII forms. It begins again when it is full.
type nameCache struct {
	mu    sync.Mutex
	names map[string]string
}

const (
	maxNames    = 64
	maxNameSize = 256 // octets of a name that is remembered
)

func (c *nameCache) get(host string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.names[host]
}

func (c *nameCache) put(host, name string) {
	if len(host)+len(name) > maxNameSize {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.names == nil || len(c.names) >= maxNames {
		c.names = make(map[string]string)
	}
	c.names[strings.Clone(host)] = name
}

// netHTTPName returns the name that net/http dials for host, which is host itself where it cannot
// be mapped. The tables of idna.Lookup are in every program that uses net/http, and nothing else of
// the standard library gives them out.
func netHTTPName(host string) (name string) {
	t := http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
			name, _, _ = net.SplitHostPort(addr)
			return nil, net.ErrClosed
		},
	}
	t.RoundTrip(&http.Request{URL: &url.URL{Scheme: "http", Host: host}, Header: http.Header{}})
	return name
}

// requestPath returns the :path of u. Octets that a path cannot have, which net/http lets pass, are percent-encoded.
func requestPath(u *url.URL, authority string) (string, error) {
	path := u.RequestURI()
	if !strings.HasPrefix(path, "/") && path != "*" {
		path = strings.TrimPrefix(path, u.Scheme+"://"+authority) // of an Opaque URL
		if !strings.HasPrefix(path, "/") {
			return "", badValue(":path", path, syntax.PathFault(path))
		}
	}
	if syntax.IsVisible(path) {
		return path, nil
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c < ' ' || c == 0x7f:
			return "", badValue(":path", path, "has "+syntax.ByteFault(c))
		case c == ' ' || c >= 0x80:
			fmt.Fprintf(&b, "%%%02X", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), nil
}

// requestFields returns req's regular fields as they go on the wire.
func requestFields(req *http.Request) Header {
	n := 0
	for _, values := range req.Header {
		n += len(values)
	}
	if n == 0 && len(req.Trailer) == 0 {
		return nil
	}
	h := make(Header, 0, n+1)
	for key, values := range req.Header {
		name := wireName(key)
		switch {
		case syntax.IsConnectionSpecific(name) || name == "host" || name == "content-length" || syntax.IsPseudo(name):
			continue
		case name == "trailer" && len(req.Trailer) > 0: // it is made of those
			continue
		case name == "te": // RFC 9113 §8.2.2: it MUST NOT contain any value other than "trailers"
			if slices.ContainsFunc(values, mentionsTrailers) {
				h.Add(name, "trailers")
			}
			continue
		case name == "user-agent":
			values = values[:min(1, len(values))]
			if len(values) == 1 && values[0] == "" {
				continue
			}
		}
		for _, value := range values {
			h.Add(name, strings.Trim(value, " \t"))
		}
	}
	if len(req.Trailer) > 0 {
		h.Add("trailer", strings.Join(slices.Sorted(maps.Keys(req.Trailer)), ","))
	}
	// A map has no order: a fixed one serves caches, tests, and the compression table.
	slices.SortStableFunc(h, func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
	return h
}

func mentionsTrailers(te string) bool {
	for part := range strings.SplitSeq(te, ",") {
		if syntax.EqualFold(strings.Trim(part, " \t"), "trailers") {
			return true
		}
	}
	return false
}

// inMemory returns the reader behind an io.NopCloser, which is what http.NewRequest makes of readers in memory; nil for any
// other body, and where trailers are filled in while the body is read.
func inMemory(body io.ReadCloser, trailer http.Header) io.Reader {
	if len(trailer) > 0 {
		return nil
	}
	v := reflect.ValueOf(body)
	if t := v.Type(); t != nopCloser && t != nopCloserWriterTo {
		return nil
	}
	switch r := v.Field(0).Interface().(type) {
	case *bytes.Buffer:
		return r
	case *bytes.Reader:
		return r
	case *strings.Reader:
		return r
	}
	return nil
}

var (
	nopCloser         = reflect.TypeOf(io.NopCloser(nil))
	nopCloserWriterTo = reflect.TypeOf(io.NopCloser((*bytes.Reader)(nil)))
)

// wireName returns the lower-case form of a field name of net/http's, without an allocation for the usual ones.
func wireName(key string) string {
	if name, ok := wireNames[key]; ok {
		return name
	}
	return syntax.Lower(key)
}

// firstValue is h.Get for a key in its canonical form, which Get would look for each time.
func firstValue(h http.Header, key string) string {
	if values := h[key]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// canonicalName is http.CanonicalHeaderKey, quicker for the usual names.
func canonicalName(name string) string {
	if key, ok := canonicalNames[name]; ok {
		return key
	}
	return http.CanonicalHeaderKey(name)
}

// wireNames has the names of the static table (RFC 7541 appendix A), and a few more, by their canonical form, canonicalNames
// has those by the names on the wire.
var wireNames, canonicalNames = func() (wire, canonical map[string]string) {
	wire, canonical = make(map[string]string), make(map[string]string)
	for _, name := range []string{
		"accept-charset", "accept-encoding", "accept-language", "accept-ranges", "accept", "access-control-allow-origin", "age", "allow",
		"authorization", "cache-control", "content-disposition", "content-encoding", "content-language", "content-length",
		"content-location", "content-range", "content-type", "cookie", "date", "etag", "expect", "expires", "from", "host", "if-match",
		"if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "last-modified", "link", "location", "max-forwards",
		"proxy-authenticate", "proxy-authorization", "range", "referer", "refresh", "retry-after", "server", "set-cookie",
		"strict-transport-security", "transfer-encoding", "user-agent", "vary", "via", "www-authenticate",
		"connection", "idempotency-key", "origin", "priority", "te", "traceparent", "tracestate", "trailer", "x-forwarded-for",
		"x-forwarded-host", "x-forwarded-proto", "x-request-id",
	} {
		key := http.CanonicalHeaderKey(name)
		wire[key], canonical[name] = name, key
	}
	return wire, canonical
}()

// HTTP returns the response as net/http has it, for req, which may be nil: canonical names in a map, the trailers that are
// announced as nil keys of Trailer. The body is decoded as Body is, with Uncompressed set and the fields that
// describe the coding gone, but as RoundTrip does it: only where accept-encoding was hyper's own idea, and every coding is
// known. It is to be read either here or there. The response must be one of Do, Open or a push.
func (r *Response) HTTP(req *http.Request) *http.Response { return new(httpResponse).from(r, req) }

// FromHTTPResponse returns hyper's own Response behind an answer of RoundTrip: the stream and its identifier, pushes, the
// fields in the wire's order. It is found by the answer's Body, so it is false where somebody has wrapped that: http.Client
// with a Timeout does, and otelhttp. WithResponse serves there.
func FromHTTPResponse(resp *http.Response) (*Response, bool) {
	mustHave(resp != nil, "FromHTTPResponse", "*http.Response")
	body, ok := resp.Body.(*httpBody)
	if !ok {
		return nil, false
	}
	return body.own.shown(), true
}

type responseKey struct{}

// WithResponse returns a context for an http.Request: RoundTrip calls f with hyper's own Response before it returns the
// answer made of it. f is called on RoundTrip's goroutine, once for each answer: redirects have several.
func WithResponse(ctx context.Context, f func(*Response)) context.Context {
	mustHave(ctx != nil, "WithResponse", "context.Context")
	mustHave(f != nil, "WithResponse", "func(*Response)")
	return context.WithValue(ctx, responseKey{}, f)
}

// An httpResponse is an http.Response made of hyper's own, and its body.
type httpResponse struct {
	answer http.Response
	own    *Response
	req    *http.Request // nil: there is none
	closed atomic.Bool   // the body
	whole  atomic.Bool   // it was read to its end
}

func (h *httpResponse) from(r *Response, req *http.Request) *http.Response {
	h.own, h.req = r, req
	answer := &h.answer
	*answer = http.Response{
		Status:        statusLine(r.Status),
		StatusCode:    r.Status,
		Proto:         "HTTP/2.0",
		ProtoMajor:    2,
		Header:        r.Header.HTTP(),
		Body:          (*httpBody)(h),
		ContentLength: r.ContentLength,
		Uncompressed:  r.decodesHTTP,
		Request:       req,
		TLS:           r.s.c.TLS(),
	}
	if req != nil {
		if f, ok := req.Context().Value(responseKey{}).(func(*Response)); ok {
			f(r.shown())
		}
	}
	if r.decodesHTTP {
		answer.Header.Del("Content-Encoding")
		answer.Header.Del("Content-Length")
		answer.ContentLength = -1
	}
	if !r.Header.Has("trailer") {
		return answer
	}
	answer.Trailer = announcedTrailer(answer.Header["Trailer"])
	delete(answer.Header, "Trailer")
	return answer
}

// maxAnnounced bounds how many trailers a response announces, empty elements of the list included.
// More may come.
const maxAnnounced = 100

// announcedTrailer returns the names in the values of Trailer as keys, and nil where there are
// none.
func announcedTrailer(lists []string) (trailer http.Header) {
	left := maxAnnounced
	for _, list := range lists {
		for name := range strings.SplitSeq(list, ",") {
			if left--; left < 0 {
				return trailer
			}
			if name = http.CanonicalHeaderKey(strings.Trim(name, " \t")); name == "" || checkTrailer(Header{{Name: name}}) != nil {
				continue
			}
			if trailer == nil {
				trailer = make(http.Header)
			}
			trailer[name] = nil
		}
	}
	return trailer
}

// statusLine is what http.Response has as Status.
func statusLine(status int) string {
	if line := statusLines[min(max(status-200, 0), len(statusLines)-1)]; line != "" && status >= 200 {
		return line
	}
	return fmt.Sprintf("%03d %s", status, http.StatusText(status))
}

// statusLines are those of 200 to 599 that have a text.
var statusLines = func() (lines [400]string) {
	for i := range lines[:len(lines)-1] {
		if text := http.StatusText(200 + i); text != "" {
			lines[i] = fmt.Sprintf("%d %s", 200+i, text)
		}
	}
	return lines
}()

// An httpBody is the Body of an httpResponse.
type httpBody httpResponse

func (b *httpBody) Read(p []byte) (n int, err error) {
	switch {
	case b.closed.Load():
		return 0, http.ErrBodyReadAfterClose
	case b.own.decodesHTTP:
		n, err = b.own.Body.Read(p)
	default:
		n, err = b.own.s.read(p)
	}
	switch {
	case err == io.EOF:
		b.takeTrailer()
	case err != nil && b.req != nil:
		err = httpError(b.req, err)
	}
	return n, err
}

// takeTrailer fills in the answer's trailers, announced or not.
func (b *httpBody) takeTrailer() {
	if b.whole.Swap(true) {
		return
	}
	trailer := b.own.Trailer()
	if len(trailer) == 0 {
		return
	}
	if b.answer.Trailer == nil {
		b.answer.Trailer = make(http.Header)
	}
	maps.Copy(b.answer.Trailer, trailer.HTTP())
}

// Close ends the exchange. It waits for nobody, and its error is nil.
func (b *httpBody) Close() error {
	b.closed.Store(true)
	return b.own.Body.Close()
}
