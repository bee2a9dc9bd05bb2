package hyper

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"unsafe"

	"gohyper.dev/hyper/internal/fieldblock"
	"gohyper.dev/hyper/internal/syntax"
)

// A Request is what Do and Open send. They do not change it.
//
// Until the exchange is over, the caller must not change the Request, the contents of its Header
// and Trailer, or the memory of a Body that is sent from memory. The exchange is over when Do or
// Open has returned an error, or when the response's Body.Close, Stream.Reset or Conn.Close has
// returned. hyper does not read the Request after that. The end of the response's body does not end
// the exchange by itself: the request may still be being sent.
type Request struct {
	// Method is GET if it is empty.
	Method string

	// Scheme is the connection's if it is empty. A CONNECT without Protocol has no scheme.
	Scheme string

	// Authority is host or host:port in ASCII. It is the connection's if it is empty.
	Authority string

	// Path is the absolute path with the query. It is "/" if it is empty. OPTIONS allows "*" as
	// well. A CONNECT without Protocol has no path.
	Path string

	// Protocol makes an extended CONNECT (RFC 8441). The request waits for the peer's SETTINGS,
	// which must allow it.
	Protocol string

	// Header is the list of header fields, sent in this order. It may begin with pseudo-header
	// fields: they are sent first, in their order, and replace the struct fields above. Names may
	// be in upper or lower case. Each pair of a Cookie is sent as a field of its own, without the
	// spaces and tabs around it (RFC 9113 §8.2.3). A Cookie without a pair is not sent.
	Header Header

	// NoDefaultFields sends Header unchanged: no user-agent, accept-encoding or content-length is
	// added.
	NoDefaultFields bool

	// Priority is sent as a priority field (RFC 9218 §5), also if NoDefaultFields is set. If Header
	// has a priority field, that is sent instead, and it is the priority of the request. Stream's
	// SetPriority changes it later.
	Priority Priority

	// Unchecked sends Header and Trailer exactly as they are, byte for byte and in their order:
	// names in upper case, connection-specific fields, line feeds, and pseudo-header fields that
	// are missing, doubled or misplaced. Nothing is added, not even a pseudo-header field, and the
	// peer's MAX_HEADER_LIST_SIZE and the length of the body are not checked. Scheme, Authority,
	// Path, Protocol and ContentLength have no effect; Method only says how the response is read.
	//
	// It is for tests of servers, and for clients that must send the same fields as another client.
	// The server, or a proxy before it, may take what is sent for something else than intended, so
	// Header must not have data of others. Everything else about the exchange and its connection
	// stays correct.
	Unchecked bool

	// omitted says, by index, which default fields are left out. RequestFromHTTP sets it.
	omitted [len(defaultNames)]bool

	// Framing says how the fields are encoded, and how the message is cut into frames. nil means
	// that hyper chooses. See also Unchecked.
	Framing *Framing

	// Body is the content. Nil means no content. A *bytes.Reader, *bytes.Buffer or *strings.Reader
	// is not read: its memory is sent, and it can be sent again. Any other reader is read by a
	// goroutine that ends with the upload. A panic of Read or Close on that goroutine ends the
	// program.
	//
	// If Body is an io.Closer, it is closed exactly once:
	//
	//   - when it has been read to its end, before the end of the request is sent;
	//   - by Do or Open, before they return, if nothing is sent;
	//   - otherwise when the exchange ends, on a goroutine of its own, perhaps after Do has
	//     returned.
	//
	// In the last case, a Read that is in progress may continue after Close. No other Read follows
	// it.
	Body io.Reader

	// ContentLength is the length of Body, or of what the caller writes to a stream of Open, in
	// bytes. The length is checked as the body is sent. If ContentLength is 0, hyper determines the
	// length of in-memory readers, regular files, and an io.SectionReader or io.LimitedReader over
	// those; otherwise the length is unknown. If it is -1, the length is unknown, and hyper does
	// not try to determine it.
	ContentLength int64

	// Trailer is sent after Body. Its contents are read when Body has ended. If it is then larger
	// than the peer's MAX_HEADER_LIST_SIZE, the stream is reset with CANCEL and the error is a
	// *RequestError.
	Trailer Header

	// Informational is called for each 1xx response, on the goroutine that waits for the response.
	// If it returns an error, the stream is reset and the wait for the response returns that error.
	// A body that waits for 100 (Continue) is sent when the call has returned. The number of 1xx
	// responses of a stream is not limited, but at most 100 of them, with fields of at most 64 KiB
	// in all, may wait for Informational; beyond that the stream is reset. If the peer sends too
	// many in a short time, the connection ends with ENHANCE_YOUR_CALM. If Informational is nil,
	// 1xx responses are dropped.
	Informational func(status int, header Header) error

	// WindowManager overrides Config.WindowManager for this stream.
	WindowManager WindowManagerFactory

	// made is the http.Request that RequestFromHTTP has made the Request from, or nil.
	made *http.Request
}

// cancel returns the Cancel channel of an http.Request, or nil.
func (r *Request) cancel() <-chan struct{} {
	if r.made == nil {
		return nil
	}
	//lint:ignore SA1019 http.Client still sets it
	return r.made.Cancel
}

// asksForCoding reports whether hyper adds accept-encoding. It does not add the field to a range
// request, because a part of a coded body cannot be decoded.
func (r *Request) asksForCoding() bool {
	return !r.NoDefaultFields && !r.Unchecked && !r.omitted[defaultAcceptEncodingField] &&
		!r.Header.Has("accept-encoding") && !r.Header.Has("range")
}

// checkTrailer checks trailer, unless the request is unchecked.
func (r *Request) checkTrailer(trailer Header) error {
	if r.Unchecked {
		return nil
	}
	return checkTrailer(trailer)
}

// trailer returns the trailers with their present values.
func (r *Request) trailer() Header {
	if r.made == nil || len(r.made.Trailer) == 0 {
		return r.Trailer
	}
	h := HeaderFromHTTP(r.made.Trailer) // it may have been filled in while the body was read
	for i := range h {
		h[i].Value = strings.Trim(h[i].Value, " \t")
	}
	return h
}

// An ending says how a request's body ends.
type ending uint8

const (
	endWithBody ending = iota // with the end of Request.Body, or with the header if there is no Body
	endByCaller               // by Stream.CloseWrite or SendTrailers
)

// The pseudo-header fields of a request, in the order in which they are sent.
const (
	pseudoMethod = iota
	pseudoScheme
	pseudoAuthority
	pseudoPath
	pseudoProtocol
)

// The regular fields that are added to a request after its Header, if Header does not have them.
const (
	defaultUserAgentField = iota
	defaultAcceptEncodingField
	defaultContentLengthField
	defaultPriorityField
)

var (
	// pseudoNames and defaultNames have the names of these fields, by index.
	pseudoNames  = [...]string{":method", ":scheme", ":authority", ":path", ":protocol"}
	defaultNames = [...]string{"user-agent", "accept-encoding", "content-length", "priority"}
)

// A preparedRequest is a request that passed every check, in the form in which open sends it.
type preparedRequest struct {
	*Request
	memory          *reusedMemory            // nil: no Caller makes the exchange
	pseudo          [len(pseudoNames)]string // "": not present
	explicit        [len(pseudoNames)]bool   // whether it comes from Header
	pseudoPrefix    int                      // number of pseudo-header fields at the beginning of Header
	extendedConnect bool                     // an extended CONNECT, which the peer's SETTINGS must allow
	expect          bool                     // the body waits for 100 (Continue)
	ending          ending
	slot            slotMode
	priority        Priority
	length          int64                     // of the body in bytes; -1: unknown
	inlineBody      []byte                    // the body, if it is in memory
	body            io.Reader                 // the body, if it must be read; nil: it is in memory or empty
	trailers        Header                    // the values before the body is read
	defaults        [len(defaultNames)]string // "": not added
	layout          *fieldblock.Layout        // of the header; nil: the writer's own
	trailerLayout   *fieldblock.Layout        // of trailers
	size            int                       // of the field section, as RFC 9113 §6.5.2 counts it
}

// prepare checks the request of o and fills in p. It finds every mistake in the request before
// anything of the connection changes.
func (p *preparedRequest) prepare(ctx context.Context, c *Conn, o opening) error {
	p.Request, p.ending, p.slot = o.req, o.ending, o.slot
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	if p.Unchecked {
		p.prepareUnchecked()
		return p.prepareFraming()
	}
	if err := p.preparePseudo(c); err != nil {
		return err
	}
	declared, err := p.checkHeader()
	if err != nil {
		return err
	}
	if err := p.prepareBody(declared); err != nil {
		return err
	}
	p.trailers = p.trailer()
	if err := p.checkTrailer(p.trailers); err != nil {
		return err
	}
	if !p.NoDefaultFields {
		p.addDefaults(c, declared >= 0)
	}
	if err := p.preparePriority(); err != nil {
		return err
	}
	return p.prepareFraming()
}

// isBodyless reports whether nothing follows the request's header.
func (p *preparedRequest) isBodyless() bool {
	return p.body == nil && len(p.inlineBody) == 0 && len(p.trailers) == 0 && p.ending == endWithBody
}

// pseudo returns the value of a pseudo-header field in Header, or otherwise if Header does not have
// the field.
func (r *Request) pseudo(which int, otherwise string) string {
	for i := range r.Header {
		if f := &r.Header[i]; f.Name == pseudoNames[which] {
			return f.Value
		} else if !syntax.IsPseudo(f.Name) {
			break
		}
	}
	return otherwise
}

// method returns the method that is sent.
func (r *Request) method() string { return r.pseudo(pseudoMethod, or(r.Method, "GET")) }

// preparePseudo determines the pseudo-header fields and checks them (RFC 9113 §8.3.1, §8.5; RFC
// 8441 §4).
func (p *preparedRequest) preparePseudo(c *Conn) error {
	pseudo := &p.pseudo
	pseudo[pseudoMethod] = or(p.Method, "GET")
	pseudo[pseudoScheme] = or(p.Scheme, c.cfg.Scheme)
	pseudo[pseudoAuthority] = or(p.Authority, c.cfg.Authority)
	pseudo[pseudoPath] = or(p.Path, "/")
	pseudo[pseudoProtocol] = p.Protocol
	for p.pseudoPrefix < len(p.Header) && syntax.IsPseudo(p.Header[p.pseudoPrefix].Name) {
		f := &p.Header[p.pseudoPrefix]
		i := slices.Index(pseudoNames[:], f.Name)
		if i < 0 {
			return badValue(f.Name, f.Value, "is not a pseudo-header field of a request")
		}
		if p.explicit[i] {
			return badValue(f.Name, f.Value, "appears twice")
		}
		p.explicit[i], pseudo[i] = true, f.Value
		p.size += f.size()
		p.pseudoPrefix++
	}
	if !p.explicit[pseudoAuthority] && p.Authority == "" {
		pseudo[pseudoAuthority] = or(p.Header.Get("host"), pseudo[pseudoAuthority])
	}
	p.extendedConnect = p.explicit[pseudoProtocol] || p.Protocol != ""
	plain := p.method() == "CONNECT" && !p.extendedConnect
	switch {
	case !syntax.IsToken(p.method()):
		return badValue(":method", p.method(), "is not a token: "+syntax.TokenFault(p.method()))
	case p.extendedConnect && p.method() != "CONNECT":
		return badValue(":protocol", pseudo[pseudoProtocol],
			"belongs to CONNECT, and :method is "+quoted(p.method()))
	case p.extendedConnect && !syntax.IsToken(pseudo[pseudoProtocol]):
		return badValue(":protocol", pseudo[pseudoProtocol],
			"is not a token: "+syntax.TokenFault(pseudo[pseudoProtocol]))
	case !syntax.IsAuthority(p.authority()):
		return badAuthority(p.authority())
	case plain && !syntax.HasPort(p.authority()):
		return badValue(":authority", p.authority(),
			"has no port: CONNECT has no default port (RFC 9110 §9.3.6)")
	case plain && (p.explicit[pseudoScheme] || p.explicit[pseudoPath] || p.Scheme != "" || p.Path != ""):
		return p.badConnect()
	case plain:
		pseudo[pseudoScheme], pseudo[pseudoPath] = "", ""
	case !syntax.IsScheme(pseudo[pseudoScheme]):
		return badValue(":scheme", pseudo[pseudoScheme], "is not a scheme (RFC 3986 §3.1)")
	case !syntax.IsPath(pseudo[pseudoPath], p.method()):
		return badValue(":path", pseudo[pseudoPath], syntax.PathFault(pseudo[pseudoPath]))
	}
	for i, value := range pseudo {
		if value != "" && !p.explicit[i] {
			p.size += Field{Name: pseudoNames[i], Value: value}.size()
		}
	}
	return nil
}

// badConnect returns the error for a CONNECT that has a path or a scheme.
func (p *preparedRequest) badConnect() error {
	i := pseudoPath
	if !p.explicit[i] && p.Path == "" {
		i = pseudoScheme
	}
	return badValue(pseudoNames[i], p.pseudo[i],
		"has no place in CONNECT without a :protocol (RFC 9113 §8.5)")
}

// method returns the value of :method.
func (p *preparedRequest) method() string { return p.pseudo[pseudoMethod] }

// authority returns the value of :authority.
func (p *preparedRequest) authority() string { return p.pseudo[pseudoAuthority] }

// checkHeader checks the regular fields. It returns the declared content-length, or -1 if there is
// none.
func (p *preparedRequest) checkHeader() (declared int64, err error) {
	declared = -1
	for _, f := range p.Header[p.pseudoPrefix:] {
		name := syntax.Lower(f.Name)
		if syntax.IsPseudo(name) {
			return 0, badValue(name, f.Value, "is after a regular field")
		}
		if err := checkField(name, f.Value); err != nil {
			return 0, err
		}
		p.size += f.size()
		switch name {
		case "host": // sent as :authority
			p.size -= f.size()
			if !syntax.EqualFold(f.Value, p.authority()) {
				return 0, badValue(name, f.Value, "differs from :authority "+quoted(p.authority()))
			}
		case "cookie":
			p.size += cookieSize(f.Value) - f.size()
		case "content-length":
			n, ok := syntax.ParseLength(f.Value)
			if !ok || declared >= 0 { // RFC 9110 §8.6: never sent twice, even with equal values
				return 0, badValue(name, f.Value, "is not one decimal number")
			}
			declared = n
		case "priority":
			p.priority = parsePriority(f.Value)
		case "expect":
			p.expect = p.expect || syntax.Lower(f.Value) == "100-continue"
		}
	}
	return declared, nil
}

// prepareBody determines how the body is sent and how long it is. declared is the declared
// content-length, or -1 if there is none.
func (p *preparedRequest) prepareBody(declared int64) error {
	p.length = -1
	switch {
	case p.Body == nil && p.ending == endByCaller: // Write checks the declared length
	case p.opensTunnel():
	case p.Body == nil || p.Body == io.Reader(http.NoBody):
		p.length = 0
	default:
		p.inlineBody, p.body, p.length = openBody(p.Body, p.ContentLength >= 0, p.memory.newTaker())
	}
	want := declared
	if p.ContentLength > 0 {
		if want >= 0 && want != p.ContentLength {
			return &RequestError{"content-length", "differs from Request.ContentLength"}
		}
		want = p.ContentLength
	}
	if want >= 0 && p.length >= 0 && want != p.length && !(p.method() == "HEAD" && p.Body == nil) {
		return &BodyLengthError{Declared: want, Got: p.length}
	}
	if want >= 0 && (p.body != nil || p.ending == endByCaller) {
		p.length = want
	}
	if p.method() == "TRACE" && p.length != 0 && p.ending == endWithBody {
		return &RequestError{":method", "TRACE has no content (RFC 9110 §9.3.8)"}
	}
	if p.body == nil && len(p.inlineBody) == 0 || p.method() == "CONNECT" {
		p.expect = false // there is no body to hold back
	}
	return nil
}

// addDefaults adds the default fields that Header does not have. declared says that Header has a
// content-length.
func (p *preparedRequest) addDefaults(c *Conn, declared bool) {
	if !c.cfg.NoUserAgent && !p.omitted[defaultUserAgentField] && !p.Header.Has("user-agent") {
		p.addDefault(defaultUserAgentField, c.cfg.UserAgent)
	}
	if p.method() == "CONNECT" {
		return
	}
	if p.asksForCoding() {
		p.addDefault(defaultAcceptEncodingField, c.acceptEncoding)
	}
	if declared || p.length < 0 || p.ContentLength < 0 {
		return
	}
	// RFC 9110 §8.6: a request without content has a content-length of 0 if its method gives
	// content a meaning.
	if p.length > 0 || p.method() == "POST" || p.method() == "PUT" || p.method() == "PATCH" {
		p.addDefault(defaultContentLengthField, p.memory.lengthOf(p.length))
	}
}

// addDefault adds the default field with the index i.
func (p *preparedRequest) addDefault(i int, value string) {
	p.defaults[i] = value
	p.size += Field{Name: defaultNames[i], Value: value}.size()
}

// checkTrailer returns a *RequestError if trailer has a field that must not be sent in trailers.
func checkTrailer(trailer Header) error {
	for _, f := range trailer {
		name := syntax.Lower(f.Name)
		if syntax.IsPseudo(name) {
			return &RequestError{name, "has no place in trailers"} // RFC 9113 §8.1
		}
		if name == "content-length" || name == "host" || name == "trailer" || name == "te" {
			return &RequestError{name, "has no place in trailers"} // RFC 9110 §6.5.1
		}
		if err := checkField(name, f.Value); err != nil {
			return err
		}
	}
	return nil
}

// A fieldSink receives the fields of a section as they are sent.
type fieldSink interface {
	Field(name, value string, sensitive bool)
}

// write passes the request's field section to w, in the order in which it is sent.
func (p *preparedRequest) write(w fieldSink) {
	if p.Unchecked {
		p.writeFields(p.Header, w)
		return
	}
	for i := range p.pseudoPrefix {
		f := &p.Header[i]
		w.Field(f.Name, f.Value, f.Sensitive)
	}
	for i, value := range p.pseudo[:] {
		if value != "" && !p.explicit[i] {
			w.Field(pseudoNames[i], value, false)
		}
	}
	for i := range p.Header[p.pseudoPrefix:] {
		f := &p.Header[p.pseudoPrefix+i]
		switch name := syntax.Lower(f.Name); name {
		case "host": // sent as :authority
		case "expect":
			// RFC 9110 §10.1.1: a client MUST NOT expect 100 (Continue) without content.
			if p.length != 0 {
				w.Field(name, f.Value, f.Sensitive)
			}
		// RFC 9113 §8.2.3: pairs in fields of their own compress better.
		case "cookie":
			for pair, rest := syntax.CutCookie(f.Value); pair != ""; pair, rest = syntax.CutCookie(rest) {
				w.Field(name, pair, f.Sensitive)
			}
		default:
			w.Field(name, f.Value, f.Sensitive)
		}
	}
	for i, value := range p.defaults[:] {
		if value != "" {
			w.Field(defaultNames[i], value, false)
		}
	}
}

// cookieSize returns the size of the fields that a Cookie is sent as.
func cookieSize(value string) (n int) {
	for pair, rest := syntax.CutCookie(value); pair != ""; pair, rest = syntax.CutCookie(rest) {
		n += Field{Name: "cookie", Value: pair}.size()
	}
	return n
}

// openBody determines how body is sent. It returns the content if that is in memory, else the
// reader, and the length in bytes, or -1 if that is unknown. The content stays in an in-memory
// reader, so that the request can be sent again. findLength says whether to determine the length of
// other readers. It uses t meanwhile.
func openBody(body io.Reader, findLength bool, t *taker) (memory []byte, reader io.Reader, length int64) {
	switch b := body.(type) {
	case *bytes.Buffer:
		memory = b.Bytes()
	case *bytes.Reader:
		memory = t.unread(b)
	case *strings.Reader:
		memory = t.unread(b)
	default:
		if !findLength {
			return nil, body, -1
		}
		return nil, body, readerLength(body)
	}
	return memory, nil, int64(len(memory))
}

// unread returns the unread bytes of a bytes.Reader or strings.Reader without consuming them. The
// WriteTo of these readers passes everything in one call.
func (t *taker) unread(r interface {
	io.WriterTo
	io.Seeker
}) []byte {
	t.p = nil // an empty reader may not write
	r.WriteTo(t)
	r.Seek(int64(-len(t.p)), io.SeekCurrent)
	return t.p
}

// A taker is an io.Writer that keeps the slice of the last write.
type taker struct{ p []byte }

// Write implements io.Writer.
func (t *taker) Write(p []byte) (int, error) {
	t.p = p
	return len(p), nil
}

// WriteString implements io.StringWriter, which strings.Reader uses. The bytes are never written
// to.
func (t *taker) WriteString(s string) (int, error) {
	t.p = unsafe.Slice(unsafe.StringData(s), len(s))
	return len(s), nil
}

// readerLength returns the number of unread bytes in r, or -1 if that is unknown.
func readerLength(r io.Reader) int64 {
	switch b := r.(type) {
	case *os.File:
		info, err := b.Stat()
		if err != nil || !info.Mode().IsRegular() {
			return -1
		}
		at, err := b.Seek(0, io.SeekCurrent)
		if err != nil {
			return -1
		}
		return max(0, info.Size()-at)
	case *io.SectionReader:
		at, _ := b.Seek(0, io.SeekCurrent)
		return b.Size() - at
	case *io.LimitedReader:
		if n := readerLength(b.R); n >= 0 {
			return min(n, max(0, b.N))
		}
	case interface{ Len() int }: // a bytes.Reader, bytes.Buffer or strings.Reader below a LimitedReader
		switch b.(type) {
		case *bytes.Reader, *bytes.Buffer, *strings.Reader:
			return int64(b.Len())
		}
	}
	return -1
}
