package hyper

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"gohyper.dev/hyper/internal/buffer"
	"gohyper.dev/hyper/internal/fieldblock"
	"gohyper.dev/hyper/internal/netconn"
	"gohyper.dev/hyper/internal/wire"
)

// A frame is one unit of what the peer sends, as next returns it: a whole control frame, a whole
// field section with its CONTINUATION frames joined and decoded, or a part of a DATA frame. Its
// slices point into the reader's memory and are valid until the next call of next.
type frame struct {
	wire.FrameHeader // the first frame of a field section
	payload          []byte

	// DATA is returned in the parts in which the socket delivers it, so that no frame needs a
	// buffer of its own size.
	first, last bool
	padding     int // padding and its length byte, which only flow control counts; in the first part

	fields []Field // of HEADERS and PUSH_PROMISE
	head   *fieldblock.Head
	// oversize is the size of a list that exceeds the limit, and 0 for another list. fields is cut
	// off then.
	oversize int64
	promised uint32 // of PUSH_PROMISE
}

// isInterim reports whether the field section belongs to an interim response.
func (f *frame) isInterim() bool {
	return f.oversize == 0 && f.head.Status > 0 && f.head.Status < 200
}

// A read buffer has one of these sizes. A control frame that is larger is read into a buffer of its
// own size.
const (
	minReadBuffer = 512
	maxReadBuffer = 64 << 10 // the buffer of a busy connection grows to this size

	readBufferStep = 8 // the ratio of one size to the next
)

// readSizes are the sizes of read buffers, in ascending order.
var readSizes = [...]int{minReadBuffer, readBufferStep * minReadBuffer,
	readBufferStep * readBufferStep * minReadBuffer, maxReadBuffer}

// readPools hold the buffers that no reader uses, by size.
var readPools [len(readSizes)]sync.Pool // of *[]byte

// The sizes of the blocks that hold DATA. The payload of a DATA frame that is larger than a block
// is read directly into the block in which it stays. Smaller frames are read through the read
// buffer, many at once, because to read each header separately costs as much as to copy the
// payload.
const (
	maxBlock = 64 << 10
	tlsBlock = 16 << 10 // a TLS record, which is what one read returns
)

// A frameReader reads frames from the bytes of a connection. It is owned by readLoop.
type frameReader struct {
	src    io.Reader
	onRead func(octets int) // called after each read of the socket
	trace  *connTracer      // gets each frame; nil: frames are not traced
	// Called with each whole frame before it is returned, in part or in whole. nil: not wanted.
	inspect func(h wire.FrameHeader, p []byte)

	readBuffer
	dataReader
	skip    int          // bytes to skip after the part of DATA: padding, and payloads that are not used
	maxSize atomic.Int32 // our SETTINGS_MAX_FRAME_SIZE; UpdateSettings raises it
	begun   bool         // the peer's first bytes can be HTTP/2

	fragments []byte // of a field block, joined
	section   fieldblock.Reader[Field]
}

// A readBuffer holds what was read and not parsed.
type readBuffer struct {
	buf    []byte
	r, w   int     // buf[r:w] is read and not parsed
	pooled *[]byte // buf if it belongs to a pool, else nil

	// These fields take two words, because an idle connection keeps little more than this.
	size uint8 // the index in readSizes that suits the traffic
	idle uint8 // successive reads that needed little of buf
	// expectIdle: the next header may take long to arrive, and no buffer is kept until then.
	expectIdle bool
	small      [wire.HeaderLen]byte // for a header that is read separately
}

// A dataReader is the state of the DATA frame in progress.
type dataReader struct {
	data wire.FrameHeader
	left int // its bytes that were not returned yet

	// block holds the part that was returned last if it was read into a block, else it is nil.
	block     *buffer.Block
	blockSize int // the largest size of a block
	// intoBlock: the frame is read into blocks, and the header that follows it is read separately.
	intoBlock bool
}

// newFrameReader returns a reader of the frames that src delivers.
func newFrameReader(src io.Reader, cfg *Config) *frameReader {
	r := &frameReader{src: src}
	r.maxSize.Store(int32(cfg.MaxFrameSize))
	r.blockSize = maxBlock
	r.section.Init(fieldblock.Config{
		ListSize:   int64(cfg.MaxHeaderListSize),
		Memory:     int64(cfg.MaxHeaderMemory),
		TableSize:  uint32(cfg.HeaderTableSize),
		TrimValues: cfg.TrimFieldValues,
	})
	return r
}

// next returns the next frame. After a *wire.Error of a stream the reader has skipped that frame,
// returns its header, and can go on. Any other error is final.
func (r *frameReader) next() (f frame, err error) {
	if r.left > 0 {
		return r.nextPart(false)
	}
	h, err := r.header()
	if err != nil {
		return frame{FrameHeader: h}, err
	}
	switch h.Type {
	case wire.Data:
		return r.firstPart(h)
	case wire.Headers, wire.PushPromise:
		return r.fieldSection(h)
	case wire.RSTStream, wire.Settings, wire.Ping, wire.GoAway, wire.WindowUpdate:
		p, err := r.take(h.Length)
		r.traced(h, p, nil)
		return frame{FrameHeader: h, payload: p}, err
	case wire.Continuation:
		r.traced(h, nil, nil)
		// RFC 9113 §6.10: CONTINUATION only follows a field block without END_HEADERS.
		return f, &wire.Error{Code: wire.ProtocolError,
			Reason: "CONTINUATION without a field block to continue"}
	}
	if h.Type == wire.Origin && h.Length <= maxOriginFrame {
		p, err := r.take(h.Length)
		r.traced(h, p, nil)
		return frame{FrameHeader: h, payload: p}, err
	}
	// PRIORITY is deprecated (RFC 9113 §5.3.2), and unknown types are ignored (§5.5).
	if r.trace != nil && h.Type == wire.Priority {
		p, err := r.take(h.Length)
		r.traced(h, p, nil)
		return frame{FrameHeader: h}, err
	}
	r.skip = h.Length
	r.traced(h, nil, nil)
	return frame{FrameHeader: h}, nil
}

// more reports whether next can return something without reading the socket.
func (r *frameReader) more() bool {
	p := r.buf[r.r:r.w]
	if r.left > 0 {
		return len(p) > 0
	}
	if p = p[min(r.skip, len(p)):]; len(p) < wire.HeaderLen {
		return false
	}
	h := wire.ParseFrameHeader(p)
	switch h.Type {
	case wire.Data: // its first part is returned at once, but needs the length of the padding
		return !h.Flags.Has(wire.Padded) || len(p) > wire.HeaderLen
	case wire.Headers, wire.PushPromise:
		if !h.Flags.Has(wire.EndHeaders) {
			return false // it is unknown when CONTINUATION comes
		}
	}
	return len(p)-wire.HeaderLen >= h.Length
}

// header reads and checks the next frame's header.
func (r *frameReader) header() (h wire.FrameHeader, err error) {
	for r.skip > 0 {
		if err := r.fill(1); err != nil {
			return h, err
		}
		n := min(r.skip, r.w-r.r)
		r.skip -= n
		r.r += n
	}
	if !r.begun {
		if err := r.begin(); err != nil {
			return h, err
		}
	}
	p, err := r.take(wire.HeaderLen)
	if err != nil {
		return h, err
	}
	r.intoBlock = false
	h = wire.ParseFrameHeader(p)
	if err := h.Check(int(r.maxSize.Load())); err != nil {
		r.skip = h.Length
		r.traced(h, nil, nil)
		return h, err
	}
	if r.inspect != nil {
		if err := r.fill(h.Length); err != nil {
			return h, err
		}
		r.inspect(h, r.buf[r.r:][:h.Length])
	}
	return h, nil
}

// callsUser reports whether next calls code of the user, which must not run under the connection's
// mu.
func (r *frameReader) callsUser() bool { return r.trace != nil || r.inspect != nil }

// begin reads the header of the peer's first frame, and checks the bytes before they are parsed as
// a frame. Bytes of another protocol would look like a frame of some megabytes, or like none if
// less than a header arrives.
func (r *frameReader) begin() error {
	for n := 1; n <= wire.HeaderLen; n = r.w - r.r + 1 {
		err := r.fill(n)
		if said := r.buf[r.r:r.w]; err != nil || len(said) >= wire.HeaderLen || saysAll(said) {
			if what := otherProtocol(said); what != "" {
				return &wire.Error{Code: wire.ProtocolError,
					Reason: "the peer does not speak HTTP/2: it sent " + what}
			}
		}
		if err != nil {
			return err
		}
	}
	r.begun = true
	return nil
}

// The first bytes of a TLS record (RFC 8446 §5.1): its type, and the first byte of its version.
const (
	firstRecordType = 20
	lastRecordType  = 23
	recordVersion   = 3
	alertSize       = 7
)

// isRecord reports whether p begins with a TLS record.
func isRecord(p []byte) bool {
	return len(p) >= 2 && firstRecordType <= p[0] && p[0] <= lastRecordType && p[1] == recordVersion
}

// saysAll reports whether p, which is shorter than a frame header, is a whole message of another
// protocol: a line of text, or a TLS alert.
func saysAll(p []byte) bool {
	return bytes.IndexByte(p, '\n') > 0 || isRecord(p) && len(p) >= alertSize
}

// otherProtocol names the protocol of a peer that began with p. It returns "" if p can be HTTP/2.
// Text in place of a frame header would mean a frame of more than 2 MiB of an unknown type, which
// SETTINGS, the first frame, never is.
func otherProtocol(p []byte) string {
	if isRecord(p) {
		return fmt.Sprintf("a TLS record (%x)", p[:min(len(p), alertSize)])
	}
	// Fewer bytes than a frame header are judged by their first line only: the next line may be
	// incomplete.
	first, _, _ := bytes.Cut(p[:min(len(p), wire.HeaderLen)], []byte("\n"))
	for i, b := range first {
		if b < ' ' && (i == 0 || b != '\r' && b != '\t') || b == 0x7f || i == 0 && b > 0x7f {
			return ""
		}
	}
	if len(first) == 0 {
		return ""
	}
	line, _, _ := bytes.Cut(p, []byte("\n"))
	text := quoted(strings.TrimSuffix(string(line), "\r"))
	switch {
	case bytes.HasPrefix(p, []byte("HTTP/1.")):
		return "an HTTP/1 response, " + text
	case bytes.HasPrefix(p, []byte("SSH-")):
		return "an SSH banner, " + text
	}
	return text
}

// traced calls trace, if there is one.
func (r *frameReader) traced(h wire.FrameHeader, p []byte, fields Header) {
	if r.trace != nil {
		r.trace.received(h, p, fields)
	}
}

// firstPart reads the beginning of a DATA frame.
func (r *frameReader) firstPart(h wire.FrameHeader) (f frame, err error) {
	padding := 0
	if !h.Flags.Has(wire.Padded) {
		r.traced(h, nil, nil)
	} else {
		p, err := r.take(1)
		r.traced(h, p, nil)
		if err != nil {
			return f, err
		}
		// RFC 9113 §6.1: padding as long as the payload or longer is a PROTOCOL_ERROR.
		if int(p[0]) >= h.Length {
			return f, &wire.Error{Code: wire.ProtocolError, Reason: "DATA has more padding than payload"}
		}
		r.skip = int(p[0])
		padding = r.skip + 1
	}
	r.data, r.left = h, h.Length-padding
	f, err = r.nextPart(true)
	f.padding = padding
	r.intoBlock = r.left > r.blockSize
	return f, err
}

// nextPart returns what has arrived of the DATA frame: at least one byte, unless the frame is
// empty.
func (r *frameReader) nextPart(first bool) (f frame, err error) {
	f = frame{FrameHeader: r.data, first: first}
	// The first part is returned at once, even if it is empty: the frame's length must be checked
	// before we wait for the rest.
	if r.r < r.w || r.left == 0 || first {
		f.payload = r.buffered(r.left)
	} else if r.intoBlock && !r.expectIdle {
		f.payload, err = r.fillBlock()
	} else if err = r.fill(1); err == nil {
		f.payload = r.buffered(r.left)
	}
	if err != nil {
		return f, err
	}
	r.left -= len(f.payload)
	if f.last = r.left == 0; f.last {
		r.intoBlock = r.intoBlock && !f.Flags.Has(wire.EndStream) // a small frame follows the end of a stream
	}
	return f, nil
}

// nextSmallData returns the payload of the next frame and skips the frame, if it is DATA of the
// stream without flags, has 1 to most bytes, and was read as a whole. Otherwise it returns nothing.
func (r *frameReader) nextSmallData(stream uint32, most int) []byte {
	p := r.buf[r.r:r.w]
	if r.left > 0 || r.skip > 0 || len(p) < wire.HeaderLen {
		return nil
	}
	h := wire.ParseFrameHeader(p)
	if h.Type != wire.Data || h.Flags != 0 || h.StreamID != stream || h.Length == 0 ||
		h.Length > most || len(p)-wire.HeaderLen < h.Length {
		return nil
	}
	r.r += wire.HeaderLen + h.Length
	return p[wire.HeaderLen:][:h.Length]
}

// buffered returns up to n bytes that were read.
func (b *readBuffer) buffered(n int) []byte {
	p := b.buf[b.r : b.r+min(n, b.w-b.r)]
	b.r += len(p)
	return p
}

// fillBlock reads what has arrived of the DATA frame, and nothing else, into a block. The read
// buffer is given back meanwhile.
func (r *frameReader) fillBlock() (p []byte, err error) {
	r.giveBack()
	if r.block == nil {
		r.block = buffer.Take(min(2*r.left, r.blockSize))
	}
	p = r.block.Space()
	p = p[:min(len(p), r.left)]
	n, err := netconn.ReadSome(r.src, p)
	if n > 0 {
		r.onRead(n)
		return p[:n], nil
	}
	return nil, err
}

// moveTo moves the payload of f, which next has just returned, to b. If b can adopt the block, it
// gets the block and nothing is copied.
func (r *frameReader) moveTo(b *buffer.Buffer, f *frame) {
	if r.block != nil && b.Adopt(r.block, len(f.payload)) {
		r.block = nil
		return
	}
	b.Write(f.payload)
}

// fieldSection reads a field block to its end and decodes it. The block must be decoded even if its
// stream is reset, because it changes the compression state of the whole connection (RFC 9113
// §4.3).
func (r *frameReader) fieldSection(first wire.FrameHeader) (f frame, err error) {
	f.FrameHeader = first
	p, err := r.take(first.Length)
	if err != nil {
		return f, err
	}
	block, err := first.Block(p)
	if err != nil {
		r.traced(first, nil, nil)
		return f, err
	}
	if first.Type == wire.PushPromise {
		f.promised = first.ParsePromisedID(p)
	}
	last, begun := first, false
	if !first.Flags.Has(wire.EndHeaders) {
		r.traced(first, p, nil)
		if block, begun, last, err = r.continued(first, block); err != nil {
			return f, err
		}
		p = nil
	}
	if begun {
		err = r.section.DecodeRest(block)
	} else {
		err = r.section.Decode(block)
	}
	if cap(r.fragments) > 2*maxJoined {
		r.fragments = nil
	}
	if err != nil {
		r.traced(last, p, nil)
		return f, err
	}
	if r.trace != nil {
		r.trace.received(last, p, r.section.ShareAll())
	}
	f.fields, f.head, f.oversize = r.section.Fields(), r.section.Head(), r.section.Oversize()
	return f, nil
}

// take returns the next n bytes, without copying them.
func (r *frameReader) take(n int) ([]byte, error) {
	if err := r.fill(n); err != nil {
		return nil, err
	}
	p := r.buf[r.r : r.r+n]
	r.r += n
	return p, nil
}

// fill reads until n bytes are ready to be parsed.
func (r *frameReader) fill(n int) error {
	r.freeBlock()
	for r.w-r.r < n {
		r.makeRoom(n)
		got, err := netconn.ReadSome(r.src, r.buf[r.w:])
		if got > 0 {
			r.w += got
			r.onRead(got)
			r.resize(got)
			continue
		}
		if err == io.EOF && r.w > r.r {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}

// makeRoom moves what is unread to the beginning of the buffer, or into a larger buffer if n bytes
// do not fit.
func (r *frameReader) makeRoom(n int) {
	quiet := r.expectIdle
	r.expectIdle = false
	if r.r == r.w {
		r.r, r.w = 0, 0
		if quiet || r.intoBlock {
			r.giveBack()
			return
		}
	}
	if len(r.buf) < max(n, minReadBuffer) {
		r.move(max(n, readSizes[r.size]))
	} else if r.r > 0 && (len(r.buf)-r.r < n || r.w == len(r.buf)) {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
}

// resize adapts the buffer to the traffic: a read that fills it makes it larger, and a series of
// small reads makes it smaller.
func (b *readBuffer) resize(got int) {
	switch {
	case len(b.buf) < minReadBuffer: // a header that is read separately
	case b.w == len(b.buf) && int(b.size)+1 < len(readSizes):
		b.size++
		b.move(readSizes[b.size])
		b.idle = 0
	case got >= len(b.buf)/readBufferStep || len(b.buf) == minReadBuffer:
		b.idle = 0
	default:
		if b.idle++; b.idle >= 16 && b.w-b.r <= minReadBuffer {
			b.size = max(b.size, 1) - 1
			b.move(readSizes[b.size])
			b.idle = 0
		}
	}
}

// move copies what is unread into a buffer of at least size bytes.
func (b *readBuffer) move(size int) {
	unread, before := b.buf[b.r:b.w], b.pooled
	size = max(size, len(unread))
	if class := slices.IndexFunc(readSizes[:], func(has int) bool { return has >= size }); class >= 0 {
		b.pooled, _ = readPools[class].Get().(*[]byte)
		if b.pooled == nil {
			fresh := make([]byte, readSizes[class])
			b.pooled = &fresh
		}
		b.buf = *b.pooled
	} else {
		b.buf, b.pooled = make([]byte, size), nil
	}
	b.r, b.w = 0, copy(b.buf, unread)
	returnBuffer(before)
}

// giveBack returns the buffer to its pool. Nothing may be unread. The reader keeps room for one
// header.
func (b *readBuffer) giveBack() {
	before := b.pooled
	b.r, b.w = 0, 0
	b.buf, b.pooled = b.small[:], nil
	returnBuffer(before)
}

// freeBlock frees the block, whose bytes are not needed any more.
func (d *dataReader) freeBlock() {
	if d.block != nil {
		d.block.Free()
		d.block = nil
	}
}

// returnBuffer returns a buffer to its pool; nil is no buffer.
func returnBuffer(pooled *[]byte) {
	if pooled != nil {
		readPools[slices.Index(readSizes[:], len(*pooled))].Put(pooled)
	}
}

// release gives back all memory that other connections can use.
func (r *frameReader) release() {
	r.giveBack()
	r.freeBlock()
}

// forget drops the memory that only makes the next field sections cheaper to read.
func (r *frameReader) forget() {
	r.fragments = nil
	r.section.Forget()
}
