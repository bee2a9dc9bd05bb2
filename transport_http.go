package hyper

import (
	"bytes"
	"cmp"
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
	"unicode/utf8"

	"gohyper.dev/hyper/internal/syntax"
)

// RequestFromHTTP returns a Request that is equivalent to req. It has the method, the scheme,
// authority and path of req's URL and Host, the fields, the body and the trailers. Field names are
// in lower case and sorted; fields that belong to HTTP/1 are left out. If req cannot be expressed
// in HTTP/2, the error is a *RequestError. The caller remains responsible for closing the body
// until Do or Open is called.
//
// An internationalized host is converted to its ASCII form, which is the name that net/http dials
// (idna.Lookup of golang.org/x/net); if it has none, the error is a *RequestError. As with
// net/http, a CONNECT request has no scheme and no path, whatever its URL has.
//
// The opening handshake of a WebSocket (RFC 6455 §4.1) becomes an extended CONNECT (RFC 8441).
//
// If req has no User-Agent, the request gets that of the connection. If its User-Agent is empty,
// none is sent.
func RequestFromHTTP(req *http.Request) (*Request, error) {
	mustHave(req != nil, "RequestFromHTTP", "*http.Request")
	r := &Request{}
	if err := r.fromHTTP(req); err != nil {
		return nil, err
	}
	if r.Body == nil && req.Body != nil && req.Body != http.NoBody {
		r.Body = req.Body
	}
	return r, nil
}

// fromHTTP is RequestFromHTTP, except that it does not set Body unless the body is in memory.
func (r *Request) fromHTTP(req *http.Request) error {
	if req.URL == nil {
		return &RequestError{"URL", "is nil"}
	}
	if req.Header == nil {
		return &RequestError{"Header", "is nil"}
	}
	upgrade := opensWebSocket(req)
	if err := checkConnectionFields(req.Header); err != nil && !upgrade {
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
	if upgrade {
		r.openWebSocket()
	}
	if agent, ok := req.Header["User-Agent"]; ok {
		r.omitted[defaultUserAgentField] = len(agent) == 0 || agent[0] == ""
	}
	// nginx responds to such a HEAD request with the header of another representation
	// (golang/go#5522).
	r.omitted[defaultAcceptEncodingField] = r.Method == "HEAD"
	r.made = req
	for name := range req.Trailer {
		if err := checkTrailer(Header{{Name: name}}); err != nil {
			return err
		}
	}
	if req.Body != nil && req.Body != http.NoBody {
		r.Body = inMemory(req.Body, req.Trailer)
		r.ContentLength = req.ContentLength
		if r.ContentLength <= 0 { // in net/http: unknown
			r.ContentLength = -1
		}
	}
	return nil
}

// checkConnectionFields returns an error for connection-specific fields whose meaning HTTP/2 cannot
// express (RFC 9113 §8.2.2). Other connection-specific fields are ignored.
func checkConnectionFields(h http.Header) error {
	upgrade, coding, connection := h["Upgrade"], h["Transfer-Encoding"], h["Connection"]
	switch {
	case len(upgrade) > 0 && upgrade[0] != "" && upgrade[0] != "chunked":
		return badValue("upgrade", upgrade[0], "has no place in HTTP/2 (RFC 9113 §8.6)")
	case len(coding) > 1 || len(coding) == 1 && coding[0] != "" && coding[0] != "chunked":
		return badValue("transfer-encoding", strings.Join(coding, ", "),
			"may only be chunked, which is left out")
	case len(connection) > 1 || len(connection) == 1 && connection[0] != "" &&
		!syntax.EqualFold(connection[0], "close") && !syntax.EqualFold(connection[0], "keep-alive"):
		return badValue("connection", strings.Join(connection, ", "), "may only be close or keep-alive")
	}
	return nil
}

// asciiAuthority returns host, a name with or without a port, in the form in which it is sent: an
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

// urlHost returns the host of u in the form in which it is dialed: in ASCII and in lower case,
// except for the zone of an IPv6 address.
func urlHost(u *url.URL) (string, error) {
	host := u.Hostname()
	address, _, hasZone := strings.Cut(host, "%")
	switch {
	case host == "":
		return "", &RequestError{"URL", "has no host"}
	case !syntax.IsASCII(host):
		return asciiName(host)
	// TLS would take what follows % for a zone.
	case !syntax.IsAuthority(host) || hasZone && !strings.Contains(address, ":"):
		return "", &RequestError{"URL", fmt.Sprintf("has no valid host: %q", host)}
	}
	return lowerHost(host), nil
}

// lowerHost returns host, with or without a port, in lower case except for the zone of an IPv6
// address.
func lowerHost(host string) string {
	address, zone, hasZone := strings.Cut(host, "%")
	if !hasZone {
		return syntax.Lower(host)
	}
	return syntax.Lower(address) + "%" + zone
}

// asciiName returns the ASCII form of an internationalized host name (RFC 5890 §2.3.2.1). It is the
// name that net/http dials, which idna.Lookup of golang.org/x/net returns.
func asciiName(host string) (string, error) {
	if name := asciiNames.get(host); name != "" {
		return name, nil
	}
	if utf8.ValidString(host) && !strings.ContainsAny(host, ":[]%") {
		if name := netHTTPName(host); syntax.IsAuthority(name) { // so name is in ASCII
			asciiNames.put(host, name)
			return name, nil
		}
	}
	return "", &RequestError{":authority", fmt.Sprintf("is not a valid internationalized name: %q", host)}
}

// asciiNames caches results of asciiName, which is slow.
var asciiNames nameCache

// A nameCache maps a few host names to their ASCII forms. It is emptied when it is full.
type nameCache struct {
	mu    sync.Mutex
	names map[string]string
}

const (
	maxNames    = 64
	maxNameSize = 256 // bytes: limit of a cached name and its ASCII form together
)

// get returns the cached ASCII form of host, or "".
func (c *nameCache) get(host string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.names[host]
}

// put caches name as the ASCII form of host.
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

// netHTTPName returns the name that net/http dials for host. That is host itself if it cannot be
// mapped. Every program that uses net/http contains the tables of idna.Lookup, but the standard
// library has no other way to use them.
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

// requestPath returns the :path of u. Bytes that a path cannot have, but that net/http accepts, are
// percent-encoded.
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

// requestFields returns req's regular fields in the form in which they are sent.
func requestFields(req *http.Request) Header {
	if len(req.Header) == 0 && len(req.Trailer) == 0 {
		return nil
	}
	// A map has no order. A fixed order helps caches, tests and the compression table.
	h := make(Header, 0, len(req.Header)+1)
	if len(req.Trailer) == 0 {
		if known, ok := fieldOrders.fields(h, req.Header); ok {
			return known
		}
		fieldOrders.keep(req.Header)
	}
	for key, values := range req.Header {
		name := wireName(key)
		h = h.appendFromHTTP(name, specialField(name), values, len(req.Trailer) > 0)
	}
	if len(req.Trailer) > 0 {
		h.Add("trailer", strings.Join(slices.Sorted(maps.Keys(req.Trailer)), ","))
	}
	h.sort()
	return h
}

// specialField reports whether appendFromHTTP has a rule for the fields with this name.
func specialField(name string) bool {
	switch name {
	case "host", "content-length", "trailer", "te", "user-agent":
		return true
	}
	return syntax.IsConnectionSpecific(name) || syntax.IsPseudo(name)
}

// appendFromHTTP appends the fields that are sent for the values of one name. special is the result
// of specialField. trailers is whether the request has trailers.
func (h Header) appendFromHTTP(name string, special bool, values []string, trailers bool) Header {
	if special {
		switch name {
		case "te": // RFC 9113 §8.2.2: it MUST NOT contain any value other than "trailers"
			if slices.ContainsFunc(values, mentionsTrailers) {
				h.Add(name, "trailers")
			}
			return h
		case "user-agent":
			values = values[:min(1, len(values))]
			if len(values) == 1 && values[0] == "" {
				return h
			}
		case "trailer":
			if trailers { // the field is made from the names of the trailers
				return h
			}
		default:
			return h
		}
	}
	for _, value := range values {
		h = append(h, Field{Name: name, Value: syntax.TrimBlanks(value)})
	}
	return h
}

// sort sorts the fields by name. Fields of one name keep their order. It sorts their indices,
// because to move many fields often costs more than to compare them.
func (h Header) sort() {
	var memory [32]int32
	order := memory[:0]
	for i := range h {
		order = append(order, int32(i))
	}
	slices.SortFunc(order, func(a, b int32) int {
		return cmp.Or(strings.Compare(h[a].Name, h[b].Name), int(a-b))
	})
	// order[i] is where the field comes from that belongs at i. Each cycle of moves begins with a
	// field that is kept aside. A place that has its field is marked as its own source.
	for i := range order {
		if int(order[i]) == i {
			continue
		}
		aside, to := h[i], i
		for from := int(order[to]); from != i; from = int(order[to]) {
			h[to], order[to] = h[from], int32(to)
			to = from
		}
		h[to], order[to] = aside, int32(to)
	}
}

// mentionsTrailers reports whether the value of a TE field lists trailers.
func mentionsTrailers(te string) bool {
	for part := range strings.SplitSeq(te, ",") {
		if syntax.EqualFold(syntax.TrimBlanks(part), "trailers") {
			return true
		}
	}
	return false
}

// inMemory returns the reader inside an io.NopCloser, which http.NewRequest puts around readers in
// memory. It returns nil for any other body, and if the request has trailers, which may be filled
// in while the body is read.
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

// firstValue is h.Get for a key in canonical form. It does not convert the key.
func firstValue(h http.Header, key string) string {
	if values := h[key]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// HTTP returns the response in the form of net/http, for req, which may be nil. Field names are
// canonical, and the announced trailers are keys of Trailer with nil values.
//
// The body is decoded if Body is decoded, but under the rules of RoundTrip: only if hyper added
// accept-encoding on its own, and only if every coding is known. If it is decoded, Uncompressed is
// set, and the fields that describe the coding are removed. The caller must read either this body
// or that of r, not both. The response must come from Do, Open or a push.
//
// If req is the opening handshake of a WebSocket, and r is a 2xx response to the extended CONNECT
// that RequestFromHTTP has made of it, the status is 101 and the Body is an io.ReadWriteCloser.
func (r *Response) HTTP(req *http.Request) *http.Response { return new(httpResponse).from(r, req) }

// ResponseFromHTTP returns the Response from which RoundTrip made resp. It gives access to the
// stream and its identifier, to pushes, and to the fields in the order on the wire. The Response is
// found through resp.Body, so the result is false if other code has wrapped that body, as
// http.Client with a Timeout and otelhttp do. Use WithResponse in that case. Call ResponseFromHTTP
// before the body is closed: after that, the result can be a copy, with a stream that has ended and
// a Request that is made from the http.Request again, without the changes of WithRequest.
func ResponseFromHTTP(resp *http.Response) (*Response, bool) {
	mustHave(resp != nil, "ResponseFromHTTP", "*http.Response")
	switch body := resp.Body.(type) {
	case *httpBody:
		return (*httpResponse)(body).shown(), true
	case *upgradedBody:
		return body.own.shown(), true
	}
	return nil, false
}

// A responseKey is the context key of WithResponse's function.
type responseKey struct{}

// WithResponse returns a context for an http.Request. RoundTrip calls f with the Response from
// which it makes the http.Response, before it returns. f is called in RoundTrip's goroutine, once
// for each response; a request with redirects has several.
func WithResponse(ctx context.Context, f func(*Response)) context.Context {
	mustHave(ctx != nil, "WithResponse", "context.Context")
	mustHave(f != nil, "WithResponse", "func(*Response)")
	return context.WithValue(ctx, responseKey{}, f)
}

// from sets h up from r for req, which may be nil, and returns the http.Response.
func (h *httpResponse) from(r *Response, req *http.Request) *http.Response {
	h.own, h.req = r, req
	answer := &h.answer
	*answer = http.Response{
		Status:        statusLine(r.StatusCode),
		StatusCode:    r.StatusCode,
		Proto:         "HTTP/2.0",
		ProtoMajor:    2,
		Header:        r.Header.toHTTP(roomForValues(len(r.Header))),
		Body:          (*httpBody)(h),
		ContentLength: r.ContentLength,
		Uncompressed:  r.decodesHTTP(),
		Request:       req,
		TLS:           r.s.c.TLS(),
	}
	if req != nil {
		if f, ok := req.Context().Value(responseKey{}).(func(*Response)); ok {
			h.use.Or(useKept)
			f(r.shown())
		}
	}
	if r.switches(req) {
		return h.switchProtocols()
	}
	if r.decodesHTTP() {
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

// maxAnnounced limits how many names of announced trailers are used, including empty elements of
// the list. A response may have more trailers.
const maxAnnounced = 100

// announcedTrailer returns a header whose keys are the names in the values of Trailer fields. It
// returns nil if there are none.
func announcedTrailer(lists []string) (trailer http.Header) {
	left := maxAnnounced
	for _, list := range lists {
		for name := range strings.SplitSeq(list, ",") {
			if left--; left < 0 {
				return trailer
			}
			if name = http.CanonicalHeaderKey(syntax.TrimBlanks(name)); name == "" ||
				checkTrailer(Header{{Name: name}}) != nil {
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

// statusLine returns the Status of an http.Response.
func statusLine(status int) string {
	if line := statusLines[min(max(status-200, 0), len(statusLines)-1)]; line != "" && status >= 200 {
		return line
	}
	return fmt.Sprintf("%03d %s", status, http.StatusText(status))
}

// statusLines has the status lines of the codes from 200 to 599 that have a text.
var statusLines = func() (lines [400]string) {
	for i := range lines[:len(lines)-1] {
		if text := http.StatusText(200 + i); text != "" {
			lines[i] = fmt.Sprintf("%d %s", 200+i, text)
		}
	}
	return lines
}()
