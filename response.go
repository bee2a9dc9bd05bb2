package hyper

import (
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"gohyper.dev/hyper/internal/fieldblock"
	"gohyper.dev/hyper/internal/state"
)

// A Response is the peer's response to one request. Its Body must be closed unless it was read to
// its end.
type Response struct {
	StatusCode    int    // 200 to 599, or another three-digit code that the peer sent
	Header        Header // regular fields, in the order received
	ContentLength int64  // declared length of the body as it was sent, in bytes; -1: unknown
	StreamID      uint32
	Uncompressed  bool // Body decodes a content coding
	borrowed      bool // Header is or will be shared with other responses; shown copies it
	Request       *Request

	// Body is the content, with its content codings decoded. It is never nil. Reading Body opens
	// the flow-control window. It may be read while the request is still being sent.
	//
	// Body returns io.EOF only if the peer has ended the body and every content coding was
	// complete. Otherwise it returns the *StreamError or *ConnError that ended the exchange, or a
	// *DecodeError, *DecodeLimitError or *UnsupportedCodingError. Closing Body before its end
	// cancels the exchange.
	Body io.ReadCloser

	s       *Stream
	decoded *decodedBody // nil: no content codings
}

// Stream returns the stream of the exchange. It offers what Response does not: writing, resets,
// deadlines, and a channel that is closed at the stream's end.
func (r *Response) Stream() *Stream { return r.s }

// Raw returns the body as it was sent, with its content codings. Read only one of Body, Raw and the
// Stream. Closing Body or Raw closes both.
func (r *Response) Raw() io.ReadCloser { return rawBody{r.s} }

// Trailer returns the trailer fields. It returns nil until the body has been read to its end, and
// if there are no trailers.
func (r *Response) Trailer() Header {
	if r.s.reusedErr() != nil {
		return nil
	}
	if r.s.isOver() { // the stream does not change any more
		return r.s.extras.trailers()
	}
	r.s.c.lock()
	defer r.s.c.unlock()
	if !r.s.readLocked() && !r.s.extras.wasWhole() {
		return nil
	}
	return r.s.extras.trailers()
}

// Pushes yields the pushes that the peer promises with this response (RFC 9113 §8.4), as they
// arrive, until the response has ended, whether or not it was read. Promises may arrive before,
// between and after the header and the body. If Config.Push is nil, there are none.
//
// Each Push is yielded once. The caller must then read or cancel it. Pushes may be called before,
// while and after the body is read, and after the body was closed at its end.
//
// An error ends the sequence: the error of the response, the error of ctx, or a *PushLostError if
// promises were refused or dropped for lack of room or time (see PushPolicy).
func (r *Response) Pushes(ctx context.Context) iter.Seq2[*Push, error] { return r.s.Pushes(ctx) }

// extras holds the state that few responses need.
type extras struct {
	interims interims
	trailer  Header

	heldHeader, heldTrailer int64 // bytes that count towards Config.MaxHeaderMemory
	delivered               bool  // the response was returned to the caller

	times *streamTimes // nil: Config.StreamTimes is false

	done chan struct{} // of Stream.Done; nil: it was not called while the stream was open

	promises   []*Push        // not claimed yet
	promisesBy time.Duration  // when they expire; 0: the response has not ended
	lost       *PushLostError // promises that were lost before they were claimed; nil: none
	whole      bool           // the response was complete and read when the caller ended the exchange
}

// extrasLocked returns the stream's extras and allocates them if there are none.
func (s *Stream) extrasLocked() *extras {
	if s.extras == nil {
		s.extras = &extras{}
	}
	return s.extras
}

// promised reports whether promises wait to be claimed. x may be nil.
func (x *extras) promised() bool { return x != nil && len(x.promises) > 0 }

// lostPushes returns the error for the promises that were lost, or nil. x may be nil.
func (x *extras) lostPushes() *PushLostError {
	if x == nil {
		return nil
	}
	return x.lost
}

// wasWhole reports whether the response was complete and read when the caller ended the exchange. x
// may be nil.
func (x *extras) wasWhole() bool { return x != nil && x.whole }

// trailers returns the trailer fields, or nil. x may be nil.
func (x *extras) trailers() Header {
	if x == nil {
		return nil
	}
	return x.trailer
}

// interims holds the 1xx responses of a stream.
type interims struct {
	count   int       // number received
	waiting []interim // to be passed to Request.Informational
	size    int       // of the fields of waiting
}

// An interim is one 1xx response.
type interim struct {
	status int
	header Header
	size   int // of header, as RFC 9113 §6.5.2 counts it
}

// take removes and returns the first waiting response.
func (i *interims) take() interim {
	first := i.waiting[0]
	i.waiting[0] = interim{}
	if i.waiting = i.waiting[1:]; len(i.waiting) == 0 {
		i.waiting = nil
	}
	i.size -= first.size
	return first
}

// Limits of interim responses.
const (
	// At most maxInterims interim responses of a stream, with fields of at most maxInterimSize
	// bytes in all, wait for Request.Informational.
	maxInterims    = 100
	maxInterimSize = 64 << 10

	// The first freeInterims interim responses of a stream are free. Further ones are charged to
	// the connection's budget for frames that carry nothing.
	freeInterims = 10
)

// Response waits for the header of the final response. ctx and the read deadline bound the wait.
// The end of ctx ends only the wait, not the exchange. Request.Informational is called here for
// each 1xx response. Response may be called again and from several goroutines at once. Every call
// returns the same Response.
func (s *Stream) Response(ctx context.Context) (*Response, error) {
	mustHave(ctx != nil, "Stream.Response", "context.Context")
	if err := s.reusedErr(); err != nil {
		return nil, err
	}
	s.c.lock()
	defer s.c.unlock()
	return s.responseUnlocking(ctx)
}

// responseUnlocking is Response with the connection's mu held. It unlocks mu while it waits and
// while it calls Request.Informational.
func (s *Stream) responseUnlocking(ctx context.Context) (*Response, error) {
	for {
		if x := s.extras; x != nil && len(x.interims.waiting) > 0 {
			if err := s.informUnlocking(x.interims.take()); err != nil {
				return nil, err
			}
			continue
		}
		ready := s.answered() && !s.isDropped()
		err := s.recvErrLocked(ready)
		switch {
		case err != nil:
			return nil, err
		case ready:
			s.memory.noteReturnedLocked()
			s.deliveredLocked()
			return &s.response, nil
		case s.deadlines.readPassed():
			return nil, os.ErrDeadlineExceeded
		}
		// A response that came at the same time is returned: its unread data belongs to the caller.
		if err := s.waitUnlocking(ctx, &s.recvQ); err != nil && (!s.answered() || s.isDropped()) {
			return nil, err
		}
	}
}

// informUnlocking passes an interim response to Request.Informational, with mu unlocked. If that
// returns an error, the stream ends. If it panics or ends its goroutine, the stream ends as well,
// because no caller is left to use it; the panic is the caller's to handle.
func (s *Stream) informUnlocking(i interim) error {
	s.memory.holdLocked()
	s.c.unlock()
	returned := false
	defer func() {
		if !returned {
			s.closeRead()
		}
		s.c.lock()
		s.memory.releaseLocked()
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

// recvResponseLocked receives the field section of an interim or a final response.
func (s *Stream) recvResponseLocked(fields []Field, head *fieldblock.Head, end bool) error {
	if head.Malformed != "" {
		return &MalformedError{head.Malformed}
	}
	part := state.Final
	if head.Status < 200 {
		part = state.Interim
	}
	next, err := s.message.Next(part)
	if err != nil {
		return err
	}
	if part == state.Interim {
		return s.recvInterimLocked(int(head.Status), fields, end)
	}
	if head.BadLength {
		return &MalformedError{"a content-length that is not one decimal number"}
	}
	s.message = next
	length := head.Length
	if s.req.method() == "CONNECT" && head.Status/100 == 2 {
		// RFC 9110 §9.3.6: content-length has no meaning in a 2xx response to CONNECT.
		length = -1
	}
	s.noteStatusLocked(int(head.Status))
	s.answerLocked(int(head.Status), fields, length)
	return nil
}

// recvInterimLocked receives a 1xx response. If Request.Informational is nil, the response is
// dropped. Otherwise it is queued: the goroutine that waits in Response calls Informational.
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
	// Informational is called for 100 (Continue) before the body is sent.
	size := Header(fields).listSize()
	i := &s.extrasLocked().interims
	if len(i.waiting) == maxInterims || i.size+size > maxInterimSize {
		return &MalformedError{fmt.Sprintf("more than %d interim responses, or %d bytes of them, wait "+
			"for Request.Informational", maxInterims, maxInterimSize)}
	}
	i.waiting = append(i.waiting, interim{status, append(Header(nil), fields[1:]...), size})
	i.size += size
	return nil
}

// answerLocked fills in the response.
func (s *Stream) answerLocked(status int, fields []Field, length int64) {
	r := &s.response
	r.s, r.StatusCode, r.StreamID, r.Request, r.ContentLength = s, status, s.id, s.req, length
	switch {
	case r.borrowed:
		r.Header = s.c.reader.frames.section.Share()
	case s.memory != nil:
		r.Header = s.memory.copyFields(fields[1:])
	default:
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
	}
	// A final response below 300 lets the body go, as 100 (Continue) does. After an error the peer
	// does not want the body (RFC 9110 §10.1.1).
	if status < 300 {
		s.continueLocked()
	}
}

// roomForFieldsLocked returns an empty Header with capacity for n fields. The Headers of a few
// responses share one allocation, unless the request came after a pause. No part of it is given out
// twice.
func (c *Conn) roomForFieldsLocked(n int) Header {
	const together = 32
	if n > together/2 || c.liveness.afterPause {
		return make(Header, 0, n)
	}
	if len(c.streams.headerArena) < n {
		c.streams.headerArena = make(Header, together)
	}
	h := c.streams.headerArena[:0:n]
	c.streams.headerArena = c.streams.headerArena[n:]
	return h
}

// shown returns r for the user to keep. If its Header is shared, shown replaces it with a copy.
func (r *Response) shown() *Response {
	r.s.c.lock()
	if r.borrowed {
		r.Header, r.borrowed = r.Header.Clone(), false
	}
	r.s.c.unlock()
	return r
}

// decodesHTTP reports whether the Body that HTTP returns decodes the content codings, too.
func (r *Response) decodesHTTP() bool { return r.decoded != nil && r.decoded.forHTTP }

// bodyless reports whether the response has no body, regardless of its fields (RFC 9110 §6.4.1).
func (r *Response) bodyless() bool {
	return r.Request.Method == "HEAD" || r.StatusCode == 204 || r.StatusCode == 304
}

// recvTrailersLocked receives the field section after the body.
func (s *Stream) recvTrailersLocked(fields []Field, head *fieldblock.Head, end bool) error {
	next, err := s.message.Next(state.Trailers)
	if err != nil {
		return err
	}
	if !end {
		return &MalformedError{"trailers without END_STREAM"}
	}
	if fault := fieldblock.TrailersFault(fields, head); fault != "" {
		return &MalformedError{fault}
	}
	s.message = next
	s.extrasLocked().trailer = append(Header(nil), fields...)
	return nil
}

// A rawBody is the body as it was sent.
type rawBody struct{ s *Stream }

// Read implements io.Reader.
func (b rawBody) Read(p []byte) (int, error) { return b.s.read(p) }

// Close ends the exchange.
func (b rawBody) Close() error { return b.s.closeRead() }

// A responseBody is the body with its content codings decoded. Decoders are made by the first Read.
type responseBody Response

// decodedBody returns the reader that decodes header's content codings, or nil if there are none.
func (s *Stream) decodedBody(header Header) *decodedBody {
	if !header.Has("content-encoding") {
		return nil
	}
	codings, err := parseCodings(header.Values("content-encoding"))
	if len(codings) == 0 && err == nil {
		return nil
	}
	cfg := &s.c.cfg
	d := newDecodedBody(rawBody{s}, codings, cfg.Decoders,
		decodeLimits{size: cfg.MaxDecodedSize, ratio: cfg.MaxDecodedRatio})
	d.err = err
	d.forHTTP = s.req.asksForCoding() && d.known()
	return d
}

// Read implements io.Reader.
func (b *responseBody) Read(p []byte) (int, error) {
	if b.decoded == nil || b.s.reusedErr() != nil {
		return b.s.read(p)
	}
	n, err := b.decoded.Read(p)
	if err != nil && b.s.c.writer.tracer.reports() {
		if got, first := b.decoded.end(); first {
			b.s.bodyRead(got, err)
		}
	}
	return n, err
}

// bodyRead reports that the reading of the decoded body has ended with err after n bytes.
func (s *Stream) bodyRead(n int64, err error) {
	if err == io.EOF {
		err = nil
	}
	s.c.lock()
	s.c.writer.tracer.bodyReadLocked(s, n, err)
	s.c.unlock()
}

// Close ends the exchange and releases the decoders.
func (b *responseBody) Close() error {
	err := b.s.closeRead()
	if err == nil && b.decoded != nil {
		b.decoded.Close()
	}
	return err
}
