package hyper

import (
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"time"
	"unsafe"

	"gohyper.dev/hyper/internal/state"
	"gohyper.dev/hyper/internal/syntax"
)

// A Response is the peer's answer to one request. Its body must be closed, unless it was read to its end.
type Response struct {
	Status        int    // 200 to 599, or what else of three digits the peer sent
	Header        Header // regular fields, as sent
	ContentLength int64  // as declared, of the body as it was sent; -1 unknown
	StreamID      uint32
	Uncompressed  bool // Body decodes a content coding
	borrowed      bool // Header is shared with other responses, and nobody sees it
	decodesHTTP   bool // the Body of HTTP decodes it, too
	Request       *Request

	// Body is the content, decoded from its content codings; never nil. Reading it is what opens the flow-control
	// window. It may be read while the request is still being sent. At the end it returns io.EOF, and only when
	// the peer really ended the body and every coding was whole; else the error is a *StreamError or *ConnError of the
	// exchange, or a *DecodeError, *DecodeLimitError or *UnsupportedCodingError of the codings. Closing it before
	// its end cancels the exchange.
	Body io.ReadCloser

	s       *Stream
	decoded *decodedBody // nil: there are no content codings
}

// Stream returns the exchange's stream, for what Response does not offer: resetting, deadlines, writing.
func (r *Response) Stream() *Stream { return r.s }

// Raw returns the body as it was sent, codings and all. Read either Body or Raw; closing one closes both.
func (r *Response) Raw() io.ReadCloser { return rawBody{r.s} }

// Trailer returns the fields behind the body: nil until the body has been read to its end, and where there are none.
func (r *Response) Trailer() Header {
	if r.s.over.Load() { // nothing changes any more
		return r.s.extras.trailers()
	}
	r.s.c.mu.Lock()
	defer r.s.c.mu.Unlock()
	if !r.s.readLocked() {
		return nil
	}
	return r.s.extras.trailers()
}

// Pushes yields what the peer promises with this response (RFC 9113 §8.4), which is nothing where
// Config.Push is nil, as it comes, until the response has ended, be it read or not; the promises
// may come before, between and after its header and body. Each promise is yielded once, and is the
// caller's then: to be read, or cancelled. It may be called before, while and after the body is
// read, and after the body was closed at its end. An error ends the sequence: that of the response,
// ctx's, or a *PushLostError where promises were refused or given up for want of room or time (see
// PushPolicy).
func (r *Response) Pushes(ctx context.Context) iter.Seq2[*Push, error] { return r.s.Pushes(ctx) }

// extras are what few responses have.
type extras struct {
	interims interims
	trailer  Header

	heldHeader, heldTrailer int64 // of Config.MaxHeaderMemory
	delivered               bool  // the response was returned

	promises   []*Push        // that are not claimed
	promisesBy time.Duration  // when their time is over; 0: the response goes on
	lost       *PushLostError // promises that were not claimed in time; nil: there were none
	whole      bool           // the response had come to its end, and was read, when the caller ended the exchange
}

func (s *Stream) extrasLocked() *extras {
	if s.extras == nil {
		s.extras = &extras{}
	}
	return s.extras
}

func (x *extras) promised() bool { return x != nil && len(x.promises) > 0 }

func (x *extras) lostPushes() *PushLostError {
	if x == nil {
		return nil
	}
	return x.lost
}

func (x *extras) wasWhole() bool { return x != nil && x.whole }

func (x *extras) trailers() Header {
	if x == nil {
		return nil
	}
	return x.trailer
}

// interims are the 1xx responses of a stream.
type interims struct {
	count   int       // that came
	waiting []interim // that Request.Informational has not seen yet
	size    int       // of the fields of those
}

type interim struct {
	status int
	header Header
	size   int // of its fields, as RFC 9113 §6.5.2 counts them
}

// take removes the first one.
func (i *interims) take() interim {
	first := i.waiting[0]
	i.waiting[0] = interim{}
	if i.waiting = i.waiting[1:]; len(i.waiting) == 0 {
		i.waiting = nil
	}
	i.size -= first.size
	return first
}

// How many interim responses of a stream may wait for Request.Informational, and the size of their
// fields in octets.
const (
	maxInterims    = 100
	maxInterimSize = 64 << 10
	freeInterims   = 10 // of a stream; further ones are charged to the connection's budget
	minStatus      = 100
	maxStatus      = 999
)

// Response waits for the final response's header, under ctx and the read deadline. Informational is called here for each
// 1xx response. It may be called again, and from several goroutines; all get the same response. Its ctx only ends
// the waiting.
func (s *Stream) Response(ctx context.Context) (*Response, error) {
	mustHave(ctx != nil, "Stream.Response", "context.Context")
	s.c.mu.Lock()
	defer s.c.unlock()
	return s.responseLocked(ctx)
}

func (s *Stream) responseLocked(ctx context.Context) (*Response, error) {
	c := s.c
	for {
		if x := s.extras; x != nil && len(x.interims.waiting) > 0 {
			if err := s.informLocked(x.interims.take()); err != nil {
				return nil, err
			}
			continue
		}
		switch {
		case c.closed:
			return nil, ErrClosed
		case s.dropped:
			return nil, s.recvErr
		case s.answered:
			s.deliveredLocked()
			return &s.response, nil
		case s.recvErr != nil:
			return nil, s.recvErr
		case s.deadlines.readPassed():
			return nil, os.ErrDeadlineExceeded
		}
		if err := s.waitLocked(ctx, &s.recvQ); err != nil {
			return nil, err
		}
	}
}

// informLocked shows an interim response to the caller's function, with mu unlocked. An error of that ends the stream. So does a panic, or
// the end of its goroutine, which are the caller's to deal with: the exchange is nobody's then.
func (s *Stream) informLocked(i interim) error {
	s.c.unlock()
	returned := false
	defer func() {
		if !returned {
			s.closeRead()
		}
		s.c.mu.Lock()
		if i.status == 100 {
			s.continueLocked()
		}
	}()
	err := s.req.Informational(i.status, i.header)
	returned = true
	if err != nil {
		s.abort(err)
	}
	return err
}

// recvResponseLocked takes the field section of an interim or a final response.
func (s *Stream) recvResponseLocked(fields []Field, head *responseHead, end bool) error {
	if head.malformed != "" {
		return &MalformedError{head.malformed}
	}
	part := state.Final
	if head.status < 200 {
		part = state.Interim
	}
	next, err := s.message.Next(part)
	if err != nil {
		return err
	}
	if part == state.Interim {
		return s.recvInterimLocked(int(head.status), fields, end)
	}
	if head.badLength {
		return &MalformedError{"a content-length that is not one decimal number"}
	}
	s.message = next
	length := head.length
	if s.req.method() == "CONNECT" && head.status/100 == 2 {
		length = -1 // RFC 9110 §9.3.6: it means nothing there
	}
	s.noteStatusLocked(int(head.status))
	s.answerLocked(int(head.status), fields, length)
	s.window.update(WindowEvent{Kind: WindowHeaders})
	return nil
}

// recvInterimLocked takes a 1xx response. Where there is no Request.Informational it is done with
// at once; else it waits for the caller of Response, who calls that.
func (s *Stream) recvInterimLocked(status int, fields []Field, end bool) error {
	switch {
	case end:
		return &MalformedError{fmt.Sprintf("END_STREAM on an interim response %d", status)}
	case status == 101: // RFC 9113 §8.6
		return &MalformedError{"status 101 has no place in HTTP/2"}
	}
	if s.req.Informational == nil {
		if status == 100 {
			s.continueLocked()
		}
		return nil
	}
	// Informational hears of 100 (Continue) before the body goes.
	size := 0
	for _, f := range fields {
		size += f.size()
	}
	i := &s.extrasLocked().interims
	if len(i.waiting) == maxInterims || i.size+size > maxInterimSize {
		return &MalformedError{fmt.Sprintf("more than %d interim responses, or %d octets of them, before one was looked at", maxInterims, maxInterimSize)}
	}
	i.waiting = append(i.waiting, interim{status, append(Header(nil), fields[1:]...), size})
	i.size += size
	return nil
}

// answerLocked fills in the response.
func (s *Stream) answerLocked(status int, fields []Field, length int64) {
	r := &s.response
	r.s, r.Status, r.StreamID, r.Request, r.ContentLength = s, status, s.id, s.req, length
	if r.borrowed = s.borrows; r.borrowed {
		r.Header = s.c.frames.lend()
	} else {
		r.Header = append(s.c.roomForFieldsLocked(len(fields)-1), fields[1:]...)
	}
	r.Body = (*responseBody)(r)
	if r.bodyless() {
		s.bodyLeft = 0
	} else {
		s.bodyLeft = length
		// A part of a coded body cannot be decoded (RFC 9110 §14.2).
		if status != 206 {
			r.decoded = s.decodedBody(r.Header)
		}
		r.Uncompressed = r.decoded != nil
		r.decodesHTTP = r.Uncompressed && s.req.asksForCoding() && r.decoded.known()
	}
	s.answered = true
	if status < 300 { // instead of 100 (Continue); after an error the body is not wanted (RFC 9110 §10.1.1)
		s.continueLocked()
	}
}

// roomForFieldsLocked returns an empty Header with room for n fields. Those of a few responses share their memory, and
// what has been given out is never used again.
func (c *Conn) roomForFieldsLocked(n int) Header {
	const together = 32
	if n > together/2 {
		return make(Header, 0, n)
	}
	if len(c.fieldRoom) < n {
		c.fieldRoom = make(Header, together)
	}
	h := c.fieldRoom[:0:n]
	c.fieldRoom = c.fieldRoom[n:]
	return h
}

// shown returns r, with a Header of its own, for the user to see.
func (r *Response) shown() *Response {
	r.s.c.mu.Lock()
	if r.borrowed {
		r.Header, r.borrowed = r.Header.Clone(), false
	}
	r.s.c.mu.Unlock()
	return r
}

// bodyless reports whether the response has no body, whatever its fields say (RFC 9110 §6.4.1).
func (r *Response) bodyless() bool {
	return r.Request.method() == "HEAD" || r.Status == 204 || r.Status == 304
}

// method returns the method that was sent.
func (r *Request) method() string {
	for _, f := range r.Header {
		if !syntax.IsPseudo(f.Name) {
			break
		}
		if f.Name == ":method" {
			return f.Value
		}
	}
	return or(r.Method, "GET")
}

// recvTrailersLocked takes the field section behind the body.
func (s *Stream) recvTrailersLocked(fields []Field, head *responseHead, end bool) error {
	next, err := s.message.Next(state.Trailers)
	if err != nil {
		return err
	}
	if !end {
		return &MalformedError{"trailers without END_STREAM"}
	}
	if len(fields) > 0 && syntax.IsPseudo(fields[0].Name) {
		return &MalformedError{"the pseudo-header field " + syntax.Printable(fields[0].Name) + " in trailers"}
	}
	if head.badField != "" {
		return &MalformedError{head.badField}
	}
	if head.te {
		return &MalformedError{teInResponse}
	}
	s.message = next
	s.extrasLocked().trailer = append(Header(nil), fields...)
	return nil
}

// A responseHead is what a field section says where it is a response's.
type responseHead struct {
	status    uint16
	badLength bool   // content-length cannot be believed
	te        bool   // the field te is there, which is a request's
	malformed string // "": it is a response's
	badField  string // what is malformed about the fields after the leading pseudo-header fields, in any section; "": nothing
	length    int64  // content-length, -1 unknown
}

// parseHead judges a field section. repeats: many of its fields are the same, and each is to be
// looked at once.
func parseHead(fields []Field, repeats bool) (h responseHead) {
	h.badField, h.te = checkFields(fields, repeats), hasTE(fields)
	var status int
	status, h.malformed = checkStatus(fields)
	h.status = uint16(status)
	if h.malformed == "" {
		h.malformed = h.badField
	}
	if h.malformed == "" && h.te {
		h.malformed = teInResponse
	}
	h.length, h.badLength = contentLength(fields)
	return h
}

// checkFields says what is malformed about the fields after the leading pseudo-header fields, or
// "".
func checkFields(fields []Field, repeats bool) (malformed string) {
	for len(fields) > 0 && syntax.IsPseudo(fields[0].Name) {
		fields = fields[1:]
	}
	var seen seenFields
	if repeats {
		seen = make(seenFields)
	}
	for i := range fields {
		f := &fields[i]
		if seen.has(f) {
			continue
		}
		if syntax.IsPseudo(f.Name) {
			return "the pseudo-header field " + syntax.Printable(f.Name) + " behind a regular field"
		}
		if reason := syntax.FieldFault(f.Name, f.Value); reason != "" {
			return reason
		}
	}
	return ""
}

// seenFields are the fields of a section that were looked at, by where their name and value lie in
// memory: repeated references to an entry of the compression table share it. Nil knows of none.
type seenFields map[fieldPlace]struct{}

type fieldPlace struct {
	name, value       *byte
	nameLen, valueLen int
}

// has reports whether f was there before, and adds it.
func (s seenFields) has(f *Field) bool {
	if s == nil {
		return false
	}
	place := fieldPlace{unsafe.StringData(f.Name), unsafe.StringData(f.Value), len(f.Name), len(f.Value)}
	if _, ok := s[place]; ok {
		return true
	}
	s[place] = struct{}{}
	return false
}

// checkStatus judges what a response begins with (RFC 9113 §8.3.2): :status, and no other
// pseudo-header field.
func checkStatus(fields []Field) (status int, malformed string) {
	if len(fields) == 0 || fields[0].Name != ":status" {
		return 0, "no :status at the beginning of a response"
	}
	v := fields[0].Value
	if len(v) != 3 {
		return 0, "a :status that is not three digits"
	}
	for i := 0; i < 3; i++ {
		if v[i] < '0' || v[i] > '9' {
			return 0, "a :status that is not three digits"
		}
		status = status*10 + int(v[i]-'0')
	}
	if status < minStatus || status > maxStatus {
		return 0, "a :status below 100"
	}
	if len(fields) > 1 && syntax.IsPseudo(fields[1].Name) {
		return 0, "the pseudo-header field " + syntax.Printable(fields[1].Name) + " behind :status"
	}
	return status, ""
}

// contentLength returns the declared length, -1 where there is none. Only one, in canonical form, is accepted: what
// can be read in two ways is malformed (RFC 9110 §8.6).
func contentLength(fields []Field) (length int64, bad bool) {
	length = -1
	for _, f := range fields {
		if f.Name != "content-length" {
			continue
		}
		n, ok := syntax.ParseLength(f.Value)
		if !ok || length >= 0 {
			return 0, true
		}
		length = n
	}
	return length, false
}

// rawBody is the body as it was sent.
type rawBody struct{ s *Stream }

func (b rawBody) Read(p []byte) (int, error) { return b.s.read(p) }

func (b rawBody) Close() error {
	b.s.closeRead()
	return nil
}

// responseBody is the body without its content codings. What they need is only made when somebody reads.
type responseBody Response

// decodedBody returns the reader that undoes header's content codings, nil where there are none.
func (s *Stream) decodedBody(header Header) *decodedBody {
	if !header.Has("content-encoding") {
		return nil
	}
	codings, err := parseCodings(header.Values("content-encoding"))
	if len(codings) == 0 && err == nil {
		return nil
	}
	cfg := &s.c.cfg
	d := newDecodedBody(rawBody{s}, codings, cfg.Decoders, decodeLimits{size: cfg.MaxDecodedSize, ratio: cfg.MaxDecodedRatio})
	d.err = err
	return d
}

func (b *responseBody) Read(p []byte) (int, error) {
	if b.decoded == nil {
		return b.s.read(p)
	}
	return b.decoded.Read(p)
}

// Close ends the exchange and frees what decoding took.
func (b *responseBody) Close() error {
	b.s.closeRead()
	if b.decoded != nil {
		b.decoded.Close()
	}
	return nil
}
