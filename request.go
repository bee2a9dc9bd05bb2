package hyper

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"gohyper.dev/hyper/internal/syntax"
)

// A Request is what Do and Open send. They do not change it.
//
// Until the exchange is over, the caller must not change the Request, what its Header and Trailer
// hold, or the memory of a Body that is sent from there. The exchange is over when Do or Open has
// returned an error, or when the response's Body.Close, Stream.Reset or Conn.Close has returned;
// nothing of the Request is looked at after that. The end of the response's body alone does not end
// the exchange: the request may still be on its way.
type Request struct {
	Method    string // GET where it is empty
	Scheme    string // the connection's where it is empty; CONNECT without Protocol has none
	Authority string // host or host:port in ASCII; the connection's where it is empty
	Path      string // absolute path and query; "/" where it is empty; "*" for OPTIONS; CONNECT without Protocol has none
	Protocol  string // of an extended CONNECT (RFC 8441), which waits for the peer's SETTINGS to allow it

	// Header is sent in its order. Pseudo-header fields at its beginning are sent first and in
	// their order, in the place of the fields above. Names may be in any case. Each pair of a
	// Cookie is sent as a field of its own, without the blanks around it; a Cookie without a pair
	// is not sent (RFC 9113 §8.2.3).
	Header Header

	// Bare sends Header as it is: no user-agent, accept-encoding or content-length is added.
	Bare bool

	noUserAgent, noAcceptEncoding bool // what FromHTTPRequest knows, and no other caller needs to say

	// Body is the content; nil for none. A *bytes.Reader, *bytes.Buffer or *strings.Reader is sent
	// from its memory, without being read, and can be sent again. Any other reader is read by a
	// goroutine that ends with the upload; a panic of its Read or Close there ends the program.
	//
	// If Body is an io.Closer, it is closed exactly once: when it has been read to its end, before
	// the end of the request is sent; by Do or Open, before they return, if nothing is sent; else
	// when the exchange ends, on a goroutine of its own, perhaps after Do has returned. A Read that
	// is in progress then may go on after Close, and is the last.
	Body io.Reader

	// ContentLength is the length of Body, or of what will be written to a stream of Open, checked when it is sent. 0: found
	// for in-memory readers, regular files, io.SectionReader and io.LimitedReader over those, else unknown. -1: unknown, and
	// not looked for.
	ContentLength int64

	// Trailer is sent after Body, as it is when Body has ended. If it is larger than the peer's
	// MAX_HEADER_LIST_SIZE then, the stream is reset with CANCEL, for a *RequestError.
	Trailer Header

	// Informational is called for each 1xx response, on the goroutine that waits for the response.
	// Its error resets the stream and is returned from there. A body that waits for 100 (Continue)
	// goes when the call has returned. Their number has no limit, but 100 of them, or 64 KiB of
	// their fields, may wait for it; the stream is reset beyond that. Nil: they are dropped.
	Informational func(status int, header Header) error

	// WindowManager overrides Config.WindowManager for this stream.
	WindowManager WindowManagerFactory

	trailerOf http.Header // of an http.Request: is filled in while the body is read
	cancel    <-chan struct{}
}

// asksForCoding reports whether accept-encoding is ours to add. A range of a coded body could not be decoded.
func (r *Request) asksForCoding() bool {
	return !r.Bare && !r.noAcceptEncoding && !r.Header.Has("accept-encoding") && !r.Header.Has("range")
}

// trailer returns the trailers as they are now.
func (r *Request) trailer() Header {
	if r.trailerOf == nil {
		return r.Trailer
	}
	h := HeaderFromHTTP(r.trailerOf)
	for i := range h {
		h[i].Value = strings.Trim(h[i].Value, " \t")
	}
	return h
}

// An ending says how a request's body ends.
type ending uint8

const (
	endWithBody ending = iota // with Request.Body, or with the header where there is none
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

// The regular fields that a request gets behind its Header, where that has none.
const (
	addedUserAgent = iota
	addedAcceptEncoding
	addedContentLength
)

var (
	pseudoNames = [...]string{":method", ":scheme", ":authority", ":path", ":protocol"}
	addedNames  = [...]string{"user-agent", "accept-encoding", "content-length"}
)

// A plan is a request that passed every check, in the form in which open sends it.
type plan struct {
	*Request
	pseudo   [len(pseudoNames)]string // "": there is none
	given    [len(pseudoNames)]bool   // it is in Header
	leading  int                      // pseudo-header fields at the beginning of Header
	tunnels  bool                     // an extended CONNECT, which the peer's SETTINGS must allow
	expect   bool
	ending   ending
	length   int64 // of the body, -1 unknown
	memory   []byte
	body     io.Reader               // what has to be read; nil where memory holds it all, or there is none
	trailers Header                  // as they are before the body is read
	added    [len(addedNames)]string // "": it is not
	size     int                     // of the field section, RFC 9113 §6.5.2
}

// make checks req. Everything wrong with it is found here, before anything of the connection changes.
func (p *plan) make(ctx context.Context, c *Conn, req *Request, ending ending) error {
	p.Request, p.ending = req, ending
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	if err := p.planPseudo(c); err != nil {
		return err
	}
	declared, err := p.checkHeader()
	if err != nil {
		return err
	}
	if err := p.planBody(declared); err != nil {
		return err
	}
	p.trailers = req.trailer()
	if err := checkTrailer(p.trailers); err != nil {
		return err
	}
	if !req.Bare {
		p.addDefaults(c, declared >= 0)
	}
	return nil
}

// makeOrRelease is make for who may have a slot reserved: it is given back where req cannot be sent.
func (p *plan) makeOrRelease(ctx context.Context, c *Conn, req *Request, ending ending, how turn) error {
	err := p.make(ctx, c, req, ending)
	if err != nil && how == reserved {
		c.release()
	}
	return err
}

// pseudo returns the value of a pseudo-header field, which is otherwise where Header does not have it.
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

// planPseudo finds the pseudo-header fields that a request must have (RFC 9113 §8.3.1, §8.5; RFC 8441 §4).
func (p *plan) planPseudo(c *Conn) error {
	pseudo := &p.pseudo
	pseudo[pseudoMethod] = or(p.Method, "GET")
	pseudo[pseudoScheme] = or(p.Scheme, c.cfg.Scheme)
	pseudo[pseudoAuthority] = or(p.Authority, c.cfg.Authority)
	pseudo[pseudoPath] = or(p.Path, "/")
	pseudo[pseudoProtocol] = p.Protocol
	for p.leading < len(p.Header) && syntax.IsPseudo(p.Header[p.leading].Name) {
		f := &p.Header[p.leading]
		i := slices.Index(pseudoNames[:], f.Name)
		if i < 0 {
			return badValue(f.Name, f.Value, "is not a pseudo-header field of a request")
		}
		if p.given[i] {
			return badValue(f.Name, f.Value, "is there twice")
		}
		p.given[i], pseudo[i] = true, f.Value
		p.size += f.size()
		p.leading++
	}
	if !p.given[pseudoAuthority] && p.Authority == "" {
		pseudo[pseudoAuthority] = or(p.Header.Get("host"), pseudo[pseudoAuthority])
	}
	p.tunnels = p.given[pseudoProtocol] || p.Protocol != ""
	plain := p.method() == "CONNECT" && !p.tunnels
	switch {
	case !syntax.IsToken(p.method()):
		return badValue(":method", p.method(), "is not a token: "+syntax.TokenFault(p.method()))
	case p.tunnels && p.method() != "CONNECT":
		return badValue(":protocol", pseudo[pseudoProtocol], "belongs to CONNECT, and :method is "+quoted(p.method()))
	case p.tunnels && !syntax.IsToken(pseudo[pseudoProtocol]):
		return badValue(":protocol", pseudo[pseudoProtocol], "is not a token: "+syntax.TokenFault(pseudo[pseudoProtocol]))
	case !syntax.IsAuthority(p.authority()):
		return badAuthority(p.authority())
	case plain && !syntax.HasPort(p.authority()):
		return badValue(":authority", p.authority(), "has no port: CONNECT knows no default (RFC 9110 §9.3.6)")
	case plain && (p.given[pseudoScheme] || p.given[pseudoPath] || p.Scheme != "" || p.Path != ""):
		return p.badConnect()
	case plain:
		pseudo[pseudoScheme], pseudo[pseudoPath] = "", ""
	case !syntax.IsScheme(pseudo[pseudoScheme]):
		return badValue(":scheme", pseudo[pseudoScheme], "is not a scheme (RFC 3986 §3.1)")
	case !syntax.IsPath(pseudo[pseudoPath], p.method()):
		return badValue(":path", pseudo[pseudoPath], syntax.PathFault(pseudo[pseudoPath]))
	}
	for i, value := range pseudo {
		if value != "" && !p.given[i] {
			p.size += Field{Name: pseudoNames[i], Value: value}.size()
		}
	}
	return nil
}

// badConnect makes the error of a CONNECT that has a path or a scheme.
func (p *plan) badConnect() error {
	i := pseudoPath
	if !p.given[i] && p.Path == "" {
		i = pseudoScheme
	}
	return badValue(pseudoNames[i], p.pseudo[i], "has no place in CONNECT without a :protocol (RFC 9113 §8.5)")
}

func (p *plan) method() string    { return p.pseudo[pseudoMethod] }
func (p *plan) authority() string { return p.pseudo[pseudoAuthority] }

// checkHeader checks the regular fields and returns the declared content-length, -1 where there is none.
func (p *plan) checkHeader() (declared int64, err error) {
	declared = -1
	for _, f := range p.Header[p.leading:] {
		name := syntax.Lower(f.Name)
		if syntax.IsPseudo(name) {
			return 0, badValue(name, f.Value, "is behind a regular field")
		}
		if err := checkField(name, f.Value); err != nil {
			return 0, err
		}
		p.size += f.size()
		switch name {
		case "host": // it becomes :authority
			p.size -= f.size()
			if !syntax.EqualFold(f.Value, p.authority()) {
				return 0, badValue(name, f.Value, "differs from :authority "+quoted(p.authority()))
			}
		case "cookie":
			p.size += cookieSize(f.Value) - f.size()
		case "content-length":
			n, ok := syntax.ParseLength(f.Value)
			if !ok || declared >= 0 { // RFC 9110 §8.6: two are never sent, not even of the same value
				return 0, badValue(name, f.Value, "is not one decimal number")
			}
			declared = n
		case "expect":
			p.expect = p.expect || syntax.Lower(f.Value) == "100-continue"
		}
	}
	return declared, nil
}

// planBody finds out how the body is sent and how long it is.
func (p *plan) planBody(declared int64) error {
	p.length = -1
	switch {
	case p.Body == nil && p.ending == endByCaller: // Write checks what is declared
	case p.Body == nil || p.Body == io.Reader(http.NoBody):
		p.length = 0
	default:
		p.memory, p.body, p.length = openBody(p.Body, p.ContentLength >= 0)
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
	if p.body == nil && len(p.memory) == 0 || p.method() == "CONNECT" {
		p.expect = false // nothing to hold back
	}
	return nil
}

// addDefaults adds what a request should have and its Header has not.
func (p *plan) addDefaults(c *Conn, declared bool) {
	if c.cfg.UserAgent != "-" && !p.noUserAgent && !p.Header.Has("user-agent") {
		p.addDefault(addedUserAgent, c.cfg.UserAgent)
	}
	if p.method() == "CONNECT" {
		return
	}
	if p.asksForCoding() {
		p.addDefault(addedAcceptEncoding, c.acceptEncoding)
	}
	if declared || p.length < 0 || p.ContentLength < 0 {
		return
	}
	// RFC 9110 §8.6: a method that gives content a meaning says so even when there is none.
	if p.length > 0 || p.method() == "POST" || p.method() == "PUT" || p.method() == "PATCH" {
		p.addDefault(addedContentLength, strconv.FormatInt(p.length, 10))
	}
}

func (p *plan) addDefault(i int, value string) {
	p.added[i] = value
	p.size += Field{Name: addedNames[i], Value: value}.size()
}

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

// A fieldSink takes the fields of a section, names in lower case.
type fieldSink interface {
	field(name, value string, sensitive bool)
}

// write gives w the request's field section, in the order of the wire.
func (p *plan) write(w fieldSink) {
	for i := range p.leading {
		f := &p.Header[i]
		w.field(f.Name, f.Value, f.Sensitive)
	}
	for i, value := range p.pseudo[:] {
		if value != "" && !p.given[i] {
			w.field(pseudoNames[i], value, false)
		}
	}
	for i := range p.Header[p.leading:] {
		f := &p.Header[p.leading+i]
		switch name := syntax.Lower(f.Name); name {
		case "host": // it is :authority
		case "expect":
			if p.length != 0 { // RFC 9110 §10.1.1: a client MUST NOT expect 100 (Continue) where it has no content
				w.field(name, f.Value, f.Sensitive)
			}
		case "cookie": // RFC 9113 §8.2.3: pairs in fields of their own compress better
			for pair, rest := syntax.CutCookie(f.Value); pair != ""; pair, rest = syntax.CutCookie(rest) {
				w.field(name, pair, f.Sensitive)
			}
		default:
			w.field(name, f.Value, f.Sensitive)
		}
	}
	for i, value := range p.added[:] {
		if value != "" {
			w.field(addedNames[i], value, false)
		}
	}
}

// cookieSize is the size of the fields that a Cookie is sent as.
func cookieSize(value string) (n int) {
	for pair, rest := syntax.CutCookie(value); pair != ""; pair, rest = syntax.CutCookie(rest) {
		n += Field{Name: "cookie", Value: pair}.size()
	}
	return n
}

// openBody looks what kind of reader body is: octets in memory, or something to be read, with its length where that can
// be known. What is in memory stays in its reader, so that the request can be sent again.
func openBody(body io.Reader, findLength bool) (memory []byte, reader io.Reader, length int64) {
	switch b := body.(type) {
	case *bytes.Buffer:
		memory = b.Bytes()
	case *bytes.Reader:
		memory = unread(b)
	case *strings.Reader:
		memory = unread(b)
	default:
		if !findLength {
			return nil, body, -1
		}
		return nil, body, readerLength(body)
	}
	return memory, nil, int64(len(memory))
}

// unread returns what is left in a bytes.Reader or strings.Reader, which hand it to WriteTo in one piece, and puts it back.
func unread(r interface {
	io.WriterTo
	io.Seeker
}) []byte {
	var t taker
	r.WriteTo(&t)
	r.Seek(int64(-len(t.p)), io.SeekCurrent)
	return t.p
}

type taker struct{ p []byte }

func (t *taker) Write(p []byte) (int, error) {
	t.p = p
	return len(p), nil
}

// WriteString serves strings.Reader. The octets are only ever read.
func (t *taker) WriteString(s string) (int, error) {
	t.p = unsafe.Slice(unsafe.StringData(s), len(s))
	return len(s), nil
}

// readerLength returns how many octets are left in r, -1 where that is not known.
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
	case interface{ Len() int }: // bytes.Reader and its like, below a LimitedReader
		switch b.(type) {
		case *bytes.Reader, *bytes.Buffer, *strings.Reader:
			return int64(b.Len())
		}
	}
	return -1
}
