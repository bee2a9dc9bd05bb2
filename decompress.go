package hyper

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"gohyper.dev/hyper/internal/syntax"
)

// A Decoder returns a reader that decodes one content coding of r. It adds a coding to the built-in
// ones (gzip, deflate, br), or replaces one of them. A nil Decoder refuses a built-in coding.
//
// It is called once for each body in that coding, by the first Read that needs it. It is never
// called for an empty body. r is valid until the reader is closed. r is also an io.ByteReader.
//
// The reader must return io.EOF at the end of the coded bytes and nowhere else, io.ErrUnexpectedEOF
// if they are cut short, and r's own errors, wrapped or unchanged. Any other error, including an
// error of the Decoder itself, means that the bytes are corrupt. If r holds bytes after the end of
// the coding, that is an error too, but the Decoder need not check for it. The reader should return
// decoded bytes before it reads more of r, because the next bytes of r may arrive much later. A
// Decoder itself must bound the memory that it uses for a body.
//
// If the reader is an io.Closer, it is closed once: at the end of the body, at the first error, or
// when the body is closed. It is never closed during a Read. With
// github.com/klauspost/compress/zstd:
//
//	func(r io.Reader) (io.Reader, error) {
//		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
//		if err != nil {
//			return nil, err
//		}
//		return d.IOReadCloser(), nil
//	}
type Decoder func(r io.Reader) (io.Reader, error)

// An UnsupportedCodingError is returned by Body.Read if the peer used a content coding that is
// neither built in nor registered. No bytes of the body were read: Response.Raw still returns all
// of it.
type UnsupportedCodingError struct {
	Coding string // in lower case
}

// Error names the coding.
func (e *UnsupportedCodingError) Error() string {
	return fmt.Sprintf(prefix+"body: unsupported content coding %.64q", e.Coding)
}

// A DecodeError is returned by Body.Read if a coded body is corrupt, is cut short, or continues
// after its end. The bytes that were read before it may be wrong as well.
type DecodeError struct {
	Coding string // the coding that could not be decoded, in lower case
	Err    error  // of the decoder; io.ErrUnexpectedEOF if the body is cut short
}

// Error names the coding and the decoder's error.
func (e *DecodeError) Error() string {
	text := strings.TrimPrefix(e.Err.Error(), "brotli: ")
	return fmt.Sprintf(prefix+"body: %.64s: %s", e.Coding, strings.TrimPrefix(text, e.Coding+": "))
}

// Unwrap returns the decoder's error.
func (e *DecodeError) Unwrap() error { return e.Err }

// A DecodeLimitError is returned by Body.Read if decoding exceeded a bound.
type DecodeLimitError struct {
	// Limit names the bound:
	//
	//   - "elements": of the content-encoding fields
	//   - "codings": of one body
	//   - "repeats": of one coding
	//   - "size" or "ratio": of the decoded bytes
	//   - "work": work of a decoder that produces no output
	Limit string

	// Max is the bound: a count, or bytes. For "ratio" and "work" it is bytes for each byte
	// received.
	Max int64

	// Coding is the coding for "repeats" and "work", in lower case.
	Coding string

	// Coded is the number of bytes of the body, as sent, that had been read. It is 0 if decoding
	// had not begun.
	Coded int64

	// Decoded is the number of bytes that one of the codings had decoded from them.
	Decoded int64
}

// Error says which bound was exceeded.
func (e *DecodeLimitError) Error() string {
	switch e.Limit {
	case "elements":
		return fmt.Sprintf(prefix+"body: content-encoding has more than %d elements or %d bytes", e.Max,
			syntax.MaxListSize)
	case "codings":
		return fmt.Sprintf(prefix+"body: more than %d content codings", e.Max)
	case "repeats":
		return fmt.Sprintf(prefix+"body: the content coding %.64q more than once", e.Coding)
	case "work":
		return fmt.Sprintf(prefix+"body: %.64s: too much work without output (%d bytes read)", e.Coding,
			e.Coded)
	case "size":
		return fmt.Sprintf(prefix+"body: more than %d bytes decoded", e.Max)
	}
	return fmt.Sprintf(prefix+"body: decoded to more than %d times its size (%d bytes from %d)", e.Max,
		e.Decoded, e.Coded)
}

// errTrailing is the error for bytes after the end of a coding. curl, browsers and gzip(1) each
// ignore some of these bytes. hyper ignores none: a byte that belongs to no coding is not what the
// server meant to send, and could hide a second message that another recipient reads.
var errTrailing = errors.New("bytes after the end of the coded body")

// Bounds that hold for every body.
const (
	// maxCodings is the maximum number of codings of a body, over all its fields. More than two are
	// not used in practice. curl's CVE-2022-32206 shows what a chain of thousands does.
	maxCodings = 5

	// decodeGrace is the number of bytes that may be decoded at any ratio. The beginning of a
	// legitimate body can be very dense.
	decodeGrace = 32 << 20

	// innerGrace and innerRatio bound the bytes that one coding may pass to another. A peer could
	// make the other coding work on them without output. Content that a legitimate server codes
	// twice is dense after the first coding.
	innerGrace = 16 << 10
	innerRatio = 16

	// maxEmptyReads is how many times in a row a decoder may return neither bytes nor an
	// error. bufio has the same limit.
	maxEmptyReads = 100
)

// decodeLimits bounds the decoded bytes of a coded body. Zero or less means no bound. The limits
// apply to what the caller receives. What one coding passes to another is always bounded by
// innerGrace and innerRatio.
type decodeLimits struct {
	size  int64 // decoded bytes returned to the caller
	ratio int64 // decoded bytes for each byte received, beyond decodeGrace
}

// The codings that are requested by default.
var (
	// builtinCodings are the built-in codings, in the order of accept-encoding.
	builtinCodings = []string{"gzip", "deflate", "br"}
	// acceptBuiltin is the value of accept-encoding that asks for them.
	acceptBuiltin = strings.Join(builtinCodings, ", ")
)

// acceptEncoding returns the value of accept-encoding that asks for the built-in codings and for
// extra, in a fixed order.
func acceptEncoding(extra map[string]Decoder) string {
	if len(extra) == 0 {
		return acceptBuiltin
	}
	names := make([]string, 0, 8)
	for _, name := range builtinCodings {
		if decode, ok := extraDecoder(extra, name); !ok || decode != nil {
			names = append(names, name)
		}
	}
	builtin := len(names)
	for name, decode := range extra {
		name = syntax.Lower(name)
		if decode != nil && syntax.IsToken(name) && pools[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names[builtin:])
	if len(names) == 0 {
		// RFC 9110 §12.5.3: without the field, any coding is acceptable.
		return "identity"
	}
	return strings.Join(slices.Compact(names), ", ")
}

// extraDecoder returns the Decoder that the caller registered for a coding. coding is in lower
// case; the names in extra need not be.
func extraDecoder(extra map[string]Decoder, coding string) (decode Decoder, ok bool) {
	if decode, ok = extra[coding]; ok {
		return decode, true
	}
	for name, decode := range extra {
		if syntax.EqualFold(name, coding) {
			return decode, true
		}
	}
	return nil, false
}

// parseCodings returns the codings named by the values of the content-encoding fields, in the order
// in which they were applied, in lower case and without identity. It returns nil if the body is not
// coded. If there are too many elements or codings, it stops and returns the error for the body.
func parseCodings(values iter.Seq[string]) ([]string, error) {
	var codings []string
	for coding, ok := range syntax.ListElements(values) {
		if !ok {
			return codings, &DecodeLimitError{Limit: "elements", Max: syntax.MaxListElements}
		}
		// RFC 9110 §8.4.1: all content codings are case-insensitive.
		switch coding = syntax.Lower(coding); coding {
		case "", "identity":
			continue
		case "x-gzip":
			// RFC 9110 §8.4.1.3: a recipient SHOULD consider "x-gzip" to be equivalent to "gzip".
			coding = "gzip"
		}
		if codings = append(codings, coding); len(codings) > maxCodings {
			break
		}
	}
	return codings, checkCodings(codings)
}

// checkCodings returns an error if a body with these codings must not be decoded. A repeated coding
// is refused: it has no benefit, and lets a few bytes use the memory of two decoders.
func checkCodings(codings []string) error {
	if len(codings) > maxCodings {
		return &DecodeLimitError{Limit: "codings", Max: maxCodings}
	}
	for i, coding := range codings {
		if slices.Contains(codings[:i], coding) {
			return &DecodeLimitError{Limit: "repeats", Max: 1, Coding: coding}
		}
	}
	return nil
}

// A decodedBody is a body with its content codings decoded, by one layer for each coding. Its
// rules:
//
//   - Nothing is allocated or read before the first Read. Every byte is decoded when it is
//     requested.
//   - An empty body is an empty body in every coding, because servers send such bodies. Any other
//     body must be complete in each coding.
//   - io.EOF means that every coding reached its end and that raw then reached its own, with no
//     byte in between (RFC 1952 §2.2: gzip members follow each other "with no additional
//     information before, between, or after them").
//   - An error of raw is returned unchanged, never as a DecodeError. The first error is returned by
//     all later calls.
//   - Decoded bytes are returned before Read waits for more of raw. So the bytes after them,
//     including their checksum, are checked by the next Read. An error there is never lost: that
//     Read returns it.
//   - Memory does not grow with the body. It is at most 64 KiB for gzip and for deflate
//     (TestMemoryOfABodyFollowsWhatWasReceived); for br see brotliReader. A Decoder bounds its own
//     memory.
//   - Work is proportional to the bytes received: innerGrace and innerRatio bound what one coding
//     passes to the next.
type decodedBody struct {
	raw     io.Reader
	codings []string // in the order in which they were applied
	extra   map[string]Decoder
	limits  decodeLimits
	closed  atomic.Bool
	forHTTP bool // the body of an *http.Response decodes the codings, too

	// mu is held during Read, so Close must only try to lock it. It guards the fields below.
	mu sync.Mutex
	// layers holds the decoders: the first one reads raw, and the caller reads the last one. They
	// refer to each other, so they must not be moved.
	layers []layer
	// err is returned by the Read that sets it and by all later ones.
	err  error
	got  int64 // bytes that Read has returned
	told bool  // end has returned true
}

// end reports whether it is called for the first time after Read has returned an error, and how
// many bytes Read had returned.
func (d *decodedBody) end() (got int64, first bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	first, d.told = !d.told, true
	return d.got, first
}

// newDecodedBody returns the decoded body of raw, to which the codings were applied (see
// parseCodings). If there are no codings, it is raw, without limits.
func newDecodedBody(raw io.Reader, codings []string, extra map[string]Decoder,
	limits decodeLimits) *decodedBody {
	return &decodedBody{raw: raw, codings: codings, extra: extra, limits: limits}
}

// known reports whether every coding can be decoded.
func (d *decodedBody) known() bool {
	return !slices.ContainsFunc(d.codings, func(coding string) bool {
		decode, ok := extraDecoder(d.extra, coding)
		return ok && decode == nil || !ok && pools[coding] == nil
	})
}

// Read reads decoded bytes into p. It may be called at the same time as Close.
func (d *decodedBody) Read(p []byte) (n int, err error) {
	d.mu.Lock()
	defer func() {
		d.mu.Unlock()
		d.releaseClosed()
	}()
	switch {
	case d.err != nil:
	case d.closed.Load():
		d.err = ErrCanceled
	case d.layers == nil:
		d.err = d.buildLocked()
	}
	if d.err != nil || len(p) == 0 {
		return 0, d.err
	}
	if len(d.layers) == 0 {
		n, d.err = d.raw.Read(p)
		return n, d.err
	}
	n, d.err = d.layers[len(d.layers)-1].Read(p)
	d.got += int64(n)
	if d.err != nil {
		d.releaseLocked()
	}
	return n, d.err
}

// Close releases the decoders. It does not close raw and does not wait for a Read in progress. Such
// a Read releases the decoders itself when it returns, which is soon, because a closed body reads
// no more of raw. After Close, Read returns the error or io.EOF that it had returned before, or
// ErrCanceled.
func (d *decodedBody) Close() error {
	d.closed.Store(true)
	d.releaseClosed()
	return nil
}

// isOver reports whether nothing of d will be used any more: its Read has returned an error, and no
// decoder of the program may read on a goroutine of its own. d may be nil.
func (d *decodedBody) isOver() bool {
	if d == nil {
		return true
	}
	if len(d.extra) > 0 || !d.mu.TryLock() {
		return false
	}
	defer d.mu.Unlock()
	return d.err != nil
}

// releaseClosed releases the layers of a closed body, unless a Read is using them. If that Read did
// not see closed, it calls releaseClosed after it has unlocked mu, and sees it then.
func (d *decodedBody) releaseClosed() {
	if d.closed.Load() && d.mu.TryLock() {
		if d.err == nil {
			d.err = ErrCanceled
		}
		d.releaseLocked()
		d.mu.Unlock()
	}
}

// buildLocked makes the layers.
func (d *decodedBody) buildLocked() error {
	if err := checkCodings(d.codings); err != nil {
		return err
	}
	layers := make([]layer, len(d.codings))
	below := d.raw
	for i := range layers {
		l := &layers[i]
		l.coding = d.codings[len(d.codings)-1-i]
		custom, ok := extraDecoder(d.extra, l.coding)
		if !ok {
			l.pool = pools[l.coding]
		}
		if custom == nil && l.pool == nil {
			return &UnsupportedCodingError{Coding: l.coding}
		}
		l.custom = custom
		l.src.r, l.src.closed = below, &d.closed
		l.raw = &layers[0].src
		l.limits, l.last = d.limits, i == len(layers)-1
		below = l
	}
	d.layers = layers
	return nil
}

// releaseLocked releases the decoders, beginning with the one that the caller reads. So each
// decoder is closed before the reader below it is released.
func (d *decodedBody) releaseLocked() {
	pool := true
	for i := range d.layers {
		l := &d.layers[len(d.layers)-1-i]
		if l.custom != nil {
			// A caller's decoder may read ahead on a goroutine of its own, for longer than it
			// should. The layers below it are therefore left to the garbage collector.
			pool = false
			if c, ok := l.dec.(io.Closer); ok {
				c.Close()
			}
		} else if pool {
			l.release(d.err == io.EOF)
		}
	}
	d.layers = nil
}

// A layer decodes one coding. It is a reader whose input is the layer below.
type layer struct {
	coding string
	src    source
	in     *bufio.Reader // buffers src; nil until the first Read
	dec    io.Reader     // decodes in; nil until the first Read
	out    int64         // bytes decoded
	ended  bool          // dec returned io.EOF

	pool   *sync.Pool // of codec
	codec  *codec     // from pool, while in use; it contains in and dec
	custom Decoder    // used in place of a codec

	limits decodeLimits
	last   bool    // no layer is above
	raw    *source // of the lowest layer
}

// Read implements io.Reader, except that it does not repeat errors. The source above it and the
// body do that.
func (l *layer) Read(p []byte) (int, error) {
	if l.dec == nil {
		if err := l.start(); err != nil {
			return 0, err
		}
	}
	if l.ended {
		return 0, l.end()
	}
	// At the bound, decode one more byte to distinguish a body that ends there from one that
	// continues.
	room := max(1, l.bound()-l.out)
	p = p[:min(int64(len(p)), room)]
	for range maxEmptyReads {
		n, err := l.dec.Read(p)
		l.out += int64(n)
		if over := l.out - l.bound(); over > 0 {
			return n - int(over), l.limitError()
		}
		switch {
		// Do not wait for the bytes after the end, because they may arrive much later.
		case err == io.EOF && n > 0:
			l.ended, err = true, nil
		case err == io.EOF:
			err = l.end()
		case err != nil:
			err = l.cause(err)
		case n == 0:
			continue
		}
		return n, err
	}
	return 0, l.cause(io.ErrNoProgress)
}

// start makes the decoder. It returns io.EOF if there is nothing to decode.
func (l *layer) start() error {
	if l.custom != nil {
		l.in = bufio.NewReader(&l.src)
	} else {
		l.codec = l.pool.Get().(*codec)
		l.in = l.codec.in
		l.in.Reset(&l.src)
	}
	if _, err := l.in.Peek(1); err == io.EOF {
		return io.EOF
	} else if err != nil {
		return l.cause(err)
	}
	if l.custom != nil {
		dec, err := l.custom(l.in)
		if err != nil {
			return l.cause(err)
		}
		l.dec = dec
		return nil
	}
	if err := l.codec.reset(l.in); err != nil {
		return l.cause(err)
	}
	l.dec = l.codec
	return nil
}

// end returns io.EOF if the layer below has reached its end as well.
func (l *layer) end() error {
	switch _, err := l.in.ReadByte(); err {
	case io.EOF:
		return io.EOF
	case nil:
		return l.cause(errTrailing)
	default:
		return l.cause(err)
	}
}

// cause returns the error to report for err, an error of this layer's decoder. It is the error of
// the layer below, if there is one, because that made this layer's decoder fail.
func (l *layer) cause(err error) error {
	if _, below := l.src.state(); below != nil && below != io.EOF {
		return below
	}
	if err == errSilentWork {
		coded, _ := l.raw.state()
		return &DecodeLimitError{Limit: "work", Max: clearsPerOctet, Coding: l.coding, Coded: coded,
			Decoded: l.out}
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return &DecodeError{Coding: l.coding, Err: err}
}

// bound returns how many bytes the layer may have decoded so far.
func (l *layer) bound() int64 {
	if !l.last {
		coded, _ := l.raw.state()
		return max(innerGrace, coded*l.innerRatio())
	}
	bound := int64(math.MaxInt64)
	if l.limits.size > 0 {
		bound = l.limits.size
	}
	if l.limits.ratio > 0 {
		coded, _ := l.raw.state()
		if coded <= math.MaxInt64/l.limits.ratio {
			bound = min(bound, max(decodeGrace, coded*l.limits.ratio))
		}
	}
	return bound
}

// innerRatio returns the ratio that bounds what a layer passes to the next one. Without it, a layer
// could work without end while no bytes reach the caller: for instance on empty gzip members that a
// second coding compresses.
func (l *layer) innerRatio() int64 {
	if l.limits.ratio > 0 {
		return min(innerRatio, l.limits.ratio)
	}
	return innerRatio
}

// limitError returns the error for a layer that exceeded its bound.
func (l *layer) limitError() error {
	coded, _ := l.raw.state()
	e := &DecodeLimitError{Limit: "ratio", Max: l.limits.ratio, Coded: coded, Decoded: l.out}
	switch {
	case !l.last:
		e.Max = l.innerRatio()
	case l.limits.size > 0 && l.out > l.limits.size:
		e.Limit, e.Max = "size", l.limits.size
	}
	return e
}

// release puts the codec back into the pool. clean says that the codec reached the end of its
// input.
func (l *layer) release(clean bool) {
	c := l.codec
	l.codec, l.in, l.dec = nil, nil, nil
	if c == nil || !c.reusable(clean) {
		return
	}
	c.in.Reset(nil)
	l.pool.Put(c)
}

// A source is the input of a layer. It counts the bytes and keeps the first error.
type source struct {
	r io.Reader
	// closed is the body's. It ends a Read in progress without waiting for more input.
	closed *atomic.Bool

	// mu guards n and err, because the reader of a Decoder may read ahead on a goroutine of its
	// own.
	mu  sync.Mutex
	n   int64
	err error
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	_, err := s.state()
	if err == nil && s.closed.Load() {
		err = ErrCanceled
	}
	var n int
	if err == nil {
		n, err = s.r.Read(p)
	}
	s.mu.Lock()
	s.n += int64(n)
	s.err = err
	s.mu.Unlock()
	return n, err
}

// state returns the number of bytes read so far and the error of the last Read.
func (s *source) state() (n int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n, s.err
}

// A codec is a built-in decoder with its input buffer. The decoder refers only to that buffer. So
// when the buffer's reader is reset, the pool holds nothing of a body.
type codec struct {
	in *bufio.Reader // an io.ByteReader, so that flate reads no byte beyond its end
	resetter
}

// A resetter is a decoder that can be used for several bodies.
type resetter interface {
	io.Reader
	// reset prepares the decoder for the body in in. It may read from it.
	reset(in *bufio.Reader) error
	// reusable reports whether the decoder may serve another body. clean says that it reached the
	// end of its input.
	reusable(clean bool) bool
}

// newPool returns a pool of codecs. decoder makes the decoder of a new one.
func newPool(decoder func() resetter) *sync.Pool {
	return &sync.Pool{New: func() any { return &codec{bufio.NewReader(nil), decoder()} }}
}

// pools has a pool of free codecs for each built-in coding.
var pools = map[string]*sync.Pool{
	"gzip":    newPool(func() resetter { return &inflater{wrapping: gzipWrapping} }),
	"deflate": newPool(func() resetter { return new(inflater) }),
	"br":      newPool(func() resetter { return newBrotliReader() }),
}
