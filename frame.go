package hyper

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/buffer"
	"gohyper.dev/hyper/internal/syntax"
	"gohyper.dev/hyper/internal/wire"
)

// A frame is one step of what the peer sends: a whole control frame, a whole field section with its
// CONTINUATIONs joined and decoded, or a part of a DATA frame. Its slices lie in the reader's memory
// and hold until the next call of next.
type frame struct {
	wire.FrameHeader // of a field section: of its first frame
	payload          []byte

	// DATA arrives in as many parts as the socket makes of it, so that no frame needs a buffer of its size.
	first, last bool
	inBlock     bool // payload is what lies in the reader's block
	padding     int  // octets that count for flow control and carry nothing; in the first part

	fields   []Field // HEADERS, PUSH_PROMISE
	head     *responseHead
	oversize int64  // not zero: the list's size, which is over the limit; fields has been cut
	promised uint32 // PUSH_PROMISE
}

// isInterim reports whether the field section is an interim response's.
func (f *frame) isInterim() bool {
	return f.oversize == 0 && f.head.status >= minStatus && f.head.status < 200
}

// A read buffer is one of these sizes; a larger control frame is read into one of its own.
const (
	minReadBuffer = 512
	maxReadBuffer = 64 << 10 // a busy connection's grows to this

	readBufferStep = 8 // between sizes
)

var readSizes = [...]int{minReadBuffer, readBufferStep * minReadBuffer, readBufferStep * readBufferStep * minReadBuffer, maxReadBuffer}

// readPools are the buffers that no reader needs for now.
var readPools [len(readSizes)]sync.Pool // of *[]byte

// The payload of a DATA frame that is larger than a block is read to where it can stay, block by block. Smaller frames come through the read
// buffer, many at once: to read the header of each by itself costs as much as a copy.
const (
	maxBlock = 64 << 10
	tlsBlock = 16 << 10 // a record, which is what one read brings
)

const fewFields = 8 // lists of fields begin with room for so many

// A frameReader finds frames in a stream of octets. It is owned by readLoop.
type frameReader struct {
	src    io.Reader
	onRead func(octets int)                             // after each read of the socket
	trace  func(h wire.FrameHeader, p []byte, f Header) // nil: nobody looks

	buf    []byte
	r, w   int     // buf[r:w] is read and not parsed
	pooled *[]byte // buf, where it is of a pool

	// These share two words; an idle connection has little else.
	size       uint8                // which of readSizes the traffic asks for
	idle       uint8                // reads in a row that needed little of buf
	quiet      bool                 // the next header may be long in coming: nobody needs a buffer until then
	direct     bool                 // the DATA frame is read into block, and the header behind it by itself
	mustShrink bool                 // the peer knows of a smaller compression table, and its next block must say so
	trim       bool                 // Config.TrimBlanks
	begun      bool                 // the peer's first octets may be HTTP/2
	small      [wire.HeaderLen]byte // for a header that is read by itself

	data    wire.FrameHeader // the DATA frame in progress
	left    int              // octets of it still to hand out
	skip    int              // octets to pass over behind those: padding, payloads nobody reads
	maxSize int              // SETTINGS_MAX_FRAME_SIZE, ours

	block     *buffer.Block // nil: there is none at hand
	blockSize int           // of the largest

	dec       *hpack.Decoder
	tableSize uint64 // the largest dynamic table that we announced
	allowed   uint64 // the largest that the peer may use now: until it acknowledges, it need not know
	peerTable uint64 // what the peer's blocks said last
	sectionReader
	fragments []byte // of a field block, joined
	decoded   []Field
	parsed    responseHead
	last      *knownBlock[Field] // the last block, if it is known
	fields    []Field            // of the last block: decoded, or a known one's
	head      *responseHead      // of fields
	listSize  int64
	table     uint64 // counts the changes of the compression table
	known     knownBlocks[Field]
}

func newFrameReader(src io.Reader, cfg *Config) *frameReader {
	r := &frameReader{
		src:       src,
		blockSize: maxBlock,
		maxSize:   cfg.MaxFrameSize,
		tableSize: uint64(cfg.HeaderTableSize),
		peerTable: wire.HeaderTableSize,
		trim:      cfg.TrimBlanks,
	}
	r.limit, r.room = int64(cfg.MaxHeaderListSize), int64(cfg.MaxHeaderMemory)
	r.allowed = max(r.tableSize, wire.HeaderTableSize)
	r.dec = hpack.NewDecoder(wire.HeaderTableSize, r.addField)
	r.dec.SetAllowedMaxDynamicTableSize(uint32(r.allowed))
	return r
}

// settingsAcked: from here on the peer knows the table size that we announced (RFC 9113 §4.3.1).
func (r *frameReader) settingsAcked() {
	r.allowed = r.tableSize
	r.mustShrink = r.peerTable > r.allowed
	r.table++ // what was a good block may be none now
}

// next returns the next frame. A *wire.Error of a stream leaves the reader behind that frame, whose
// header is returned with it, ready to go on; any other error is the end.
func (r *frameReader) next() (f frame, err error) {
	r.freeSectionMemory()
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
		// RFC 9113 §6.10: CONTINUATION follows nothing but a field block without END_HEADERS.
		return f, &wire.Error{Code: wire.ProtocolError, Reason: "CONTINUATION without a field block to continue"}
	}
	if h.Type == wire.Origin && h.Length <= maxOriginFrame {
		p, err := r.take(h.Length)
		r.traced(h, p, nil)
		return frame{FrameHeader: h, payload: p}, err
	}
	// PRIORITY means nothing any more, and §5.5: unknown types are ignored.
	r.skip = h.Length
	r.traced(h, nil, nil)
	return frame{FrameHeader: h}, nil
}

// more reports whether next has something to return without reading the socket.
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
	case wire.Data: // its first part goes out at once, but padding is counted first
		return !h.Flags.Has(wire.Padded) || len(p) > wire.HeaderLen
	case wire.Headers, wire.PushPromise:
		if !h.Flags.Has(wire.EndHeaders) {
			return false // who knows when CONTINUATION comes
		}
	}
	return len(p)-wire.HeaderLen >= h.Length
}

// header reads the next frame's header and judges it.
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
	r.direct = false
	h = wire.ParseFrameHeader(p)
	if err := h.Check(r.maxSize); err != nil {
		r.skip = h.Length
		r.traced(h, nil, nil)
		return h, err
	}
	return h, nil
}

// begin reads the header of the peer's first frame, and judges its octets before anything is made
// of them: what another protocol says reads as a frame of some megabytes, or as none, if less than
// a header comes.
func (r *frameReader) begin() error {
	for n := 1; n <= wire.HeaderLen; n = r.w - r.r + 1 {
		err := r.fill(n)
		if said := r.buf[r.r:r.w]; err != nil || len(said) >= wire.HeaderLen || saysAll(said) {
			if what := otherProtocol(said); what != "" {
				return &wire.Error{Code: wire.ProtocolError, Reason: "the peer does not speak HTTP/2: it sent " + what}
			}
		}
		if err != nil {
			return err
		}
	}
	r.begun = true
	return nil
}

// The octets with which a TLS record begins (RFC 8446 §5.1): its type, and the first of its
// version.
const (
	firstRecordType = 20
	lastRecordType  = 23
	recordVersion   = 3
	alertSize       = 7
)

func isRecord(p []byte) bool {
	return len(p) >= 2 && firstRecordType <= p[0] && p[0] <= lastRecordType && p[1] == recordVersion
}

// saysAll reports whether fewer octets than a frame header are a whole message of another protocol:
// a line, or a TLS alert.
func saysAll(p []byte) bool {
	return bytes.IndexByte(p, '\n') > 0 || isRecord(p) && len(p) >= alertSize
}

// otherProtocol names the protocol of a peer that began with p, "" where that can be HTTP/2. A
// frame header of text would be one of more than 2 MiB and of an unknown type, as SETTINGS never
// are.
func otherProtocol(p []byte) string {
	if isRecord(p) {
		return fmt.Sprintf("a TLS record (%x)", p[:min(len(p), alertSize)])
	}
	// Of octets that are fewer than a frame header, a line is judged by itself: the next may not be here.
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

func (r *frameReader) traced(h wire.FrameHeader, p []byte, fields Header) {
	if r.trace != nil {
		r.trace(h, p, fields)
	}
}

// firstPart begins a DATA frame.
func (r *frameReader) firstPart(h wire.FrameHeader) (f frame, err error) {
	r.traced(h, nil, nil)
	padding := 0
	if h.Flags.Has(wire.Padded) {
		p, err := r.take(1)
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
	r.direct = r.left > r.blockSize
	return f, err
}

// nextPart hands out what is there of the DATA frame, at least one octet unless it is empty.
func (r *frameReader) nextPart(first bool) (f frame, err error) {
	f = frame{FrameHeader: r.data, first: first}
	// The first part goes out at once, even empty: its length must be judged before the rest is waited for.
	if r.r == r.w && r.left > 0 && !first {
		if f.inBlock = r.direct && !r.quiet; f.inBlock {
			f.payload, err = r.fillBlock()
		} else {
			err = r.fill(1)
		}
		if err != nil {
			return f, err
		}
	}
	if !f.inBlock {
		n := min(r.left, r.w-r.r)
		f.payload = r.buf[r.r : r.r+n]
		r.r += n
	}
	r.left -= len(f.payload)
	if f.last = r.left == 0; f.last {
		r.direct = r.direct && !f.Flags.Has(wire.EndStream) // behind the end comes something small
	}
	return f, nil
}

// fillBlock reads what there is of the DATA frame, and nothing else, into a block. Nobody needs buf meanwhile.
func (r *frameReader) fillBlock() (p []byte, err error) {
	r.giveBack()
	if r.block == nil {
		r.block = buffer.Take(min(2*r.left, r.blockSize))
	}
	p = r.block.Space()
	p = p[:min(len(p), r.left)]
	n, err := readSome(r.src, p)
	if n > 0 {
		r.onRead(n)
		return p[:n], nil
	}
	return nil, err
}

// moveTo moves the payload of f, which next has just returned, to b: with its block, where b takes that.
func (r *frameReader) moveTo(b *buffer.Buffer, f *frame) {
	if f.inBlock && b.Adopt(r.block, len(f.payload)) {
		r.block = nil
		return
	}
	b.Write(f.payload)
}

// fieldSection reads a field block to its end and decodes it. Whatever becomes of the stream, the block must be
// decoded: it changes the compression state of the whole connection (RFC 9113 §4.3).
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
		err = r.decodeRest(block)
	} else {
		err = r.decode(block)
	}
	if err != nil {
		r.traced(last, p, nil)
		return f, err
	}
	r.traced(last, p, r.fields)
	f.fields, f.head = r.fields, r.head
	if r.listSize > r.most {
		f.oversize = r.listSize
	}
	return f, nil
}

// lend returns the fields of the last section, but for the first, so that they stay as they are. Messages of the same fields share them.
func (r *frameReader) lend() []Field {
	if r.last == nil {
		return slices.Clone(r.fields[1:])
	}
	r.last.lent = true
	return r.last.fields[1:]
}

// addField is the decoder's sink. Past the limit it only counts: names and values stay where the
// decoder's table has them, so a block of references cannot grow memory. A value is counted as it
// was sent, blanks included, so that no more than the limit is ever searched for blanks.
func (r *frameReader) addField(f hpack.HeaderField) {
	r.listSize += int64(len(f.Name)) + int64(len(f.Value)) + 32
	if r.listSize > r.most {
		return
	}
	if r.trim && !syntax.IsPseudo(f.Name) {
		f.Value = strings.Trim(f.Value, " \t")
	}
	r.decoded = append(r.decoded, Field{Name: f.Name, Value: f.Value, Sensitive: f.Sensitive})
}

// How a field begins in a block (RFC 7541 §6).
const (
	indexed     = 0x80 // §6.1, 7-bit index
	incremental = 0x40 // §6.2.1, 6-bit index
	sizeUpdate  = 0x20 // §6.3, 5-bit size

	staticFields = 61 // appendix A
)

// skipField passes over one field, or one table-size update, at the beginning of a block (RFC 7541
// §6). n is its index, or the size. reason says what is wrong with its shape, or "".
func skipField(p []byte) (n uint64, rest []byte, reason string) {
	var ok bool
	prefix := byte(4)
	switch b := p[0]; {
	case b&indexed != 0:
		if n, p, ok = readInt(p, 7); !ok || n == 0 {
			return 0, nil, "bad index in a field block"
		}
		return n, p, ""
	case b&0xe0 == sizeUpdate:
		if n, p, ok = readInt(p, 5); !ok {
			return 0, nil, "bad table-size update"
		}
		return n, p, ""
	case b&0xc0 == incremental:
		prefix = 6
	}
	if n, p, ok = readInt(p, prefix); !ok {
		return 0, nil, "bad index in a field block"
	}
	if n == 0 {
		if p, ok = skipString(p); !ok {
			return 0, nil, "field name cut short"
		}
	}
	if p, ok = skipString(p); !ok {
		return 0, nil, "field value cut short"
	}
	return n, p, ""
}

// readInt reads an integer (RFC 7541 §5.1) of an n-bit prefix. More than five octets behind the prefix, or a
// value beyond 32 bits, is more than any size or index can be.
func readInt(p []byte, n byte) (v uint64, rest []byte, ok bool) {
	if len(p) == 0 {
		return 0, nil, false
	}
	mask := byte(1)<<n - 1
	v = uint64(p[0] & mask)
	if v < uint64(mask) {
		return v, p[1:], true
	}
	for i := 1; i < len(p) && i <= 5; i++ {
		v += uint64(p[i]&0x7f) << (7 * (i - 1))
		if p[i]&0x80 == 0 {
			return v, p[i+1:], v < 1<<32
		}
	}
	return 0, nil, false
}

// skipString passes over a string literal (RFC 7541 §5.2).
func skipString(p []byte) (rest []byte, ok bool) {
	n, p, ok := readInt(p, 7)
	if !ok || n > uint64(len(p)) {
		return nil, false
	}
	return p[n:], true
}

// take returns the next n octets, in place.
func (r *frameReader) take(n int) ([]byte, error) {
	if err := r.fill(n); err != nil {
		return nil, err
	}
	p := r.buf[r.r : r.r+n]
	r.r += n
	return p, nil
}

// fill reads until n octets are there to parse.
func (r *frameReader) fill(n int) error {
	r.freeBlock()
	for r.w-r.r < n {
		r.makeRoom(n)
		got, err := readSome(r.src, r.buf[r.w:])
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

// makeRoom moves what is unread to the front, into a larger buffer where n octets do not fit.
func (r *frameReader) makeRoom(n int) {
	quiet := r.quiet
	r.quiet = false
	if r.r == r.w {
		r.r, r.w = 0, 0
		if quiet || r.direct {
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

// resize follows the traffic: a read that fills the buffer makes it larger, a row of small ones makes it smaller.
func (r *frameReader) resize(got int) {
	switch {
	case len(r.buf) < minReadBuffer: // a header by itself
	case r.w == len(r.buf) && int(r.size)+1 < len(readSizes):
		r.size++
		r.move(readSizes[r.size])
		r.idle = 0
	case got >= len(r.buf)/readBufferStep || len(r.buf) == minReadBuffer:
		r.idle = 0
	default:
		if r.idle++; r.idle >= 16 && r.w-r.r <= minReadBuffer {
			r.size = max(r.size, 1) - 1
			r.move(readSizes[r.size])
			r.idle = 0
		}
	}
}

// move takes what is unread into a buffer of at least size octets.
func (r *frameReader) move(size int) {
	unread, before := r.buf[r.r:r.w], r.pooled
	size = max(size, len(unread))
	if class := slices.IndexFunc(readSizes[:], func(has int) bool { return has >= size }); class >= 0 {
		r.pooled, _ = readPools[class].Get().(*[]byte)
		if r.pooled == nil {
			fresh := make([]byte, readSizes[class])
			r.pooled = &fresh
		}
		r.buf = *r.pooled
	} else {
		r.buf, r.pooled = make([]byte, size), nil
	}
	r.r, r.w = 0, copy(r.buf, unread)
	returnBuffer(before)
}

// giveBack leaves the reader, which has nothing unread, with room for a header.
func (r *frameReader) giveBack() {
	before := r.pooled
	r.r, r.w = 0, 0
	r.buf, r.pooled = r.small[:], nil
	returnBuffer(before)
}

// freeBlock gives back a block in which there is nothing, or nothing any more that somebody wants.
func (r *frameReader) freeBlock() {
	if r.block != nil {
		r.block.Free()
		r.block = nil
	}
}

func returnBuffer(pooled *[]byte) {
	if pooled != nil {
		readPools[slices.Index(readSizes[:], len(*pooled))].Put(pooled)
	}
}

// release gives back all memory that others may use.
func (r *frameReader) release() {
	r.giveBack()
	r.freeBlock()
}

// forget drops what only makes the next field sections cheaper to read.
func (r *frameReader) forget() {
	r.fragments, r.decoded, r.fields, r.head, r.last, r.known = nil, nil, nil, nil, nil, knownBlocks[Field]{}
}
