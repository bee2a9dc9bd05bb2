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

// A Decoder makes a reader of what r holds, with one content coding undone. It adds a coding to those built in
// (gzip, deflate, br), or takes the place of one of them; a nil Decoder refuses a coding that is built in.
//
// It is called once for each body in that coding, in the first Read that needs it and never for an
// empty body. r is valid until the reader was closed; it is also an io.ByteReader. The reader must
// return io.EOF at the end of the coded octets and nowhere else, io.ErrUnexpectedEOF where they are
// cut short, and r's own errors, wrapped or plain; any other error, like an error of the Decoder
// itself, means that the octets are corrupt. What r holds beyond the end of the coding is an error
// too: the Decoder need not look for it. The reader should return what is decoded before it reads
// on, as the next octets of r may be long in coming. How much memory a Decoder takes for a body is
// for the Decoder to bound.
//
// Where the reader is an io.Closer, it is closed once: at the end of the body, at the first error or when
// the body is closed, never during a Read. With github.com/klauspost/compress/zstd:
//
//	func(r io.Reader) (io.Reader, error) {
//		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
//		if err != nil {
//			return nil, err
//		}
//		return d.IOReadCloser(), nil
//	}
type Decoder func(r io.Reader) (io.Reader, error)

// An UnsupportedCodingError is returned by Body.Read where the peer used a content coding that is neither built in
// nor registered. Nothing of the body was read: Response.Raw still gives all of it.
type UnsupportedCodingError struct {
	Coding string // in lower case
}

func (e *UnsupportedCodingError) Error() string {
	return fmt.Sprintf(prefix+"body: unsupported content coding %.64q", e.Coding)
}

// A DecodeError is returned by Body.Read where a coded body is corrupt, is cut short, or goes on after its end.
// What was read before it may be wrong as well.
type DecodeError struct {
	Coding string // the one that could not be undone, in lower case
	Err    error  // the decoder's; io.ErrUnexpectedEOF where the body is cut short
}

func (e *DecodeError) Error() string {
	text := strings.TrimPrefix(e.Err.Error(), "brotli: ")
	return fmt.Sprintf(prefix+"body: %.64s: %s", e.Coding, strings.TrimPrefix(text, e.Coding+": "))
}

// Unwrap returns the decoder's error.
func (e *DecodeError) Unwrap() error { return e.Err }

// A DecodeLimitError is returned by Body.Read where decoding reached a bound.
type DecodeLimitError struct {
	// Limit is the bound that was passed: "elements" of the content-encoding fields, "codings" of
	// one body, "repeats" of one coding, "size" or "ratio" of what was decoded, or "work" that
	// decodes nothing.
	Limit   string
	Max     int64  // the bound: a count, octets, or for "ratio" and "work" octets for each octet received
	Coding  string // for "repeats" and "work": the coding, in lower case
	Coded   int64  // octets of the body as sent that had been read by then; 0 where decoding had not begun
	Decoded int64  // octets that had been decoded from them, in one of the codings
}

func (e *DecodeLimitError) Error() string {
	switch e.Limit {
	case "elements":
		return fmt.Sprintf(prefix+"body: content-encoding has more than %d elements or %d octets", e.Max, syntax.MaxListSize)
	case "codings":
		return fmt.Sprintf(prefix+"body: more than %d content codings", e.Max)
	case "repeats":
		return fmt.Sprintf(prefix+"body: the content coding %.64q more than once", e.Coding)
	case "work":
		return fmt.Sprintf(prefix+"body: %.64s: too much that decodes to nothing (in %d octets)", e.Coding, e.Coded)
	case "size":
		return fmt.Sprintf(prefix+"body: more than %d octets decoded", e.Max)
	}
	return fmt.Sprintf(prefix+"body: decoded to more than %d times its size (%d octets from %d)", e.Max, e.Decoded, e.Coded)
}

// errTrailing: curl, browsers and gzip(1) each ignore some of what follows the end of a coding. We ignore nothing: an
// octet that belongs to no coding is not what the server meant to send, and hides a second message for the next reader.
var errTrailing = errors.New("octets after the end of the coded body")

const (
	// maxCodings is how many codings a body may have, over all its fields. Nobody uses more than two;
	// curl CVE-2022-32206 is what a chain of thousands does.
	maxCodings = 5

	// decodeGrace is how much may be decoded at any ratio, in octets. The start of an honest body can be very dense.
	decodeGrace = 32 << 20

	// innerGrace and innerRatio bound what a coding may pass on to another coding, which can be
	// made to work on it without any output. What an honest server codes twice is dense after the
	// first time.
	innerGrace = 16 << 10
	innerRatio = 16

	// maxEmptyReads is how often a decoder, or a net.Conn, may return neither octets nor an error;
	// as in bufio.
	maxEmptyReads = 100
)

// decodeLimits bounds what comes of a coded body. Zero or less is no bound. They bound what the
// caller gets; what one coding passes on to another is bounded by innerRatio in any case.
type decodeLimits struct {
	size  int64 // decoded octets handed out
	ratio int64 // decoded octets for each octet received, after decodeGrace
}

// builtinCodings are asked for in this order.
var (
	builtinCodings = []string{"gzip", "deflate", "br"}
	acceptBuiltin  = strings.Join(builtinCodings, ", ")
)

// acceptEncoding is the value of accept-encoding that asks for the codings built in and for extra, in a fixed order.
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

// extraDecoder finds what the caller registered for a coding, which is in lower case; the caller's names need not be.
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

// parseCodings returns the codings that the values of the content-encoding fields name, in the
// order in which they were applied, in lower case and without identity; nil where the body is as it
// is. Where there are too many elements, or codings, it stops and returns why the body cannot be
// decoded.
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

// checkCodings returns why a body with these codings is not decoded, whatever it holds. A coding
// that is applied twice gains nothing, and lets a few octets claim the memory of two decoders.
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

// A decodedBody is a body with its content codings undone, one layer each. Its rules:
//
//   - Nothing is built, and nothing read, before the first Read; every octet is decoded when it is asked for.
//   - An empty body is an empty body in every coding: servers send that. Otherwise each coding must be complete.
//   - io.EOF means that every coding came to its end and that raw then came to its own, with no octet between
//     (RFC 1952 §2.2: gzip members follow each other "with no additional information before, between, or after them").
//   - An error of raw is returned as it is, never as a DecodeError. The first error stays.
//   - What is decoded is returned before more of raw is waited for, so an octet beyond it, its checksum
//     included, is only looked at by the next Read. An error there is never lost: that Read returns it.
//   - Memory does not grow with the body: some 50 KiB for gzip and for deflate; for br see brotliReader. What
//     a Decoder takes is up to the Decoder.
//   - Work follows the octets received: what a coding passes on to the next is bounded by innerGrace and innerRatio.
type decodedBody struct {
	raw     io.Reader
	codings []string // as applied
	extra   map[string]Decoder
	limits  decodeLimits
	closed  atomic.Bool

	mu     sync.Mutex // held during Read, so Close only tries to lock it; guards everything below
	layers []layer    // the first reads raw, the caller reads the last; they do not move, as they refer to each other
	err    error      // of this Read and all later ones
}

// newDecodedBody returns the body that comes of raw, which had the codings applied to it (see parseCodings). With no
// codings it is raw, without limits.
func newDecodedBody(raw io.Reader, codings []string, extra map[string]Decoder, limits decodeLimits) *decodedBody {
	return &decodedBody{raw: raw, codings: codings, extra: extra, limits: limits}
}

// known reports whether all of the codings can be undone.
func (d *decodedBody) known() bool {
	return !slices.ContainsFunc(d.codings, func(coding string) bool {
		decode, ok := extraDecoder(d.extra, coding)
		return ok && decode == nil || !ok && pools[coding] == nil
	})
}

// Read fills p with decoded octets. It is safe to call beside Close.
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
	if d.err != nil {
		d.releaseLocked()
	}
	return n, d.err
}

// Close gives the decoders back. It neither closes raw nor waits for a Read, which gives them back itself
// when it returns: soon, as a closed body reads no more of raw. After Close, Read returns the error or io.EOF
// that it had returned before, or ErrCanceled.
func (d *decodedBody) Close() error {
	d.closed.Store(true)
	d.releaseClosed()
	return nil
}

// releaseClosed releases the layers of a closed body, unless a Read is using them. That Read, which had not seen
// closed, calls releaseClosed after it has unlocked, and sees it then.
func (d *decodedBody) releaseClosed() {
	if d.closed.Load() && d.mu.TryLock() {
		if d.err == nil {
			d.err = ErrCanceled
		}
		d.releaseLocked()
		d.mu.Unlock()
	}
}

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

// releaseLocked gives the decoders back, from the caller's side down, so that none loses what it reads from before
// it is closed.
func (d *decodedBody) releaseLocked() {
	pool := true
	for i := range d.layers {
		l := &d.layers[len(d.layers)-1-i]
		if l.custom != nil {
			// The caller's decoder may read ahead on a goroutine of its own, for longer than it
			// should. What lies below it is left to the garbage collector.
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

// A layer undoes one coding: it is a reader of the layer below.
type layer struct {
	coding string
	src    source
	in     *bufio.Reader // of src; nil until the first Read
	dec    io.Reader     // of in; nil until the first Read
	out    int64         // octets decoded
	ended  bool          // dec returned io.EOF

	pool   *sync.Pool // of codec
	codec  *codec     // from pool, while it is in use: in and dec
	custom Decoder    // in place of them

	limits decodeLimits
	last   bool    // no layer above
	raw    *source // of the lowest layer
}

// Read implements io.Reader, but for errors that stay: they do in the source above it, and in the body.
func (l *layer) Read(p []byte) (int, error) {
	if l.dec == nil {
		if err := l.start(); err != nil {
			return 0, err
		}
	}
	if l.ended {
		return 0, l.end()
	}
	// At the bound, one more octet tells a body that ends there from one that goes on.
	room := max(1, l.bound()-l.out)
	p = p[:min(int64(len(p)), room)]
	for range maxEmptyReads {
		n, err := l.dec.Read(p)
		l.out += int64(n)
		if over := l.out - l.bound(); over > 0 {
			return n - int(over), l.limitError()
		}
		switch {
		case err == io.EOF && n > 0: // what comes next may be long in coming
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

// start makes the decoder, or returns io.EOF where there is nothing to decode.
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

// end returns io.EOF if what lies below has come to its end as well.
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

// cause returns the error of the layer below, where there is one, as that is why this layer's decoder failed.
func (l *layer) cause(err error) error {
	if _, below := l.src.state(); below != nil && below != io.EOF {
		return below
	}
	if err == errSilentWork {
		coded, _ := l.raw.state()
		return &DecodeLimitError{Limit: "work", Max: clearsPerOctet, Coding: l.coding, Coded: coded, Decoded: l.out}
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return &DecodeError{Coding: l.coding, Err: err}
}

// bound is how many octets the layer may have decoded by now.
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

// innerRatio bounds what a layer passes on to the next one: a layer can work without end while
// nothing reaches the caller, on a bomb of empty gzip members in a coding above.
func (l *layer) innerRatio() int64 {
	if l.limits.ratio > 0 {
		return min(innerRatio, l.limits.ratio)
	}
	return innerRatio
}

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

// release puts the codec back; clean says that it came to its end.
func (l *layer) release(clean bool) {
	c := l.codec
	l.codec, l.in, l.dec = nil, nil, nil
	if c == nil || !c.reusable(clean) {
		return
	}
	c.in.Reset(nil)
	l.pool.Put(c)
}

// A source is what a layer reads from. It counts, and keeps the first error.
type source struct {
	r      io.Reader
	closed *atomic.Bool // of the body: ends a Read that is busy, with nothing to wait for

	mu  sync.Mutex // guards n and err: a Decoder's reader may read ahead on a goroutine of its own
	n   int64
	err error
}

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

// state returns the octets read so far, and the error that the last Read returned.
func (s *source) state() (n int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n, s.err
}

// A codec is a built-in decoder with its input buffer. The decoder refers to that buffer only, so once the
// buffer lets go of its reader, nothing of a body is left in the pool.
type codec struct {
	in *bufio.Reader // an io.ByteReader: flate then reads no octet beyond its end
	resetter
}

type resetter interface {
	io.Reader
	reset(in *bufio.Reader) error // may read
	reusable(clean bool) bool     // for another body; clean says that it came to its end
}

func newPool(decoder func() resetter) *sync.Pool {
	return &sync.Pool{New: func() any { return &codec{bufio.NewReader(nil), decoder()} }}
}

// pools has the built-in codings, each with its codecs that are free.
var pools = map[string]*sync.Pool{
	"gzip":    newPool(func() resetter { return &inflater{wrapping: gzipWrapping} }),
	"deflate": newPool(func() resetter { return new(inflater) }),
	"br":      newPool(func() resetter { return newBrotliReader() }),
}
