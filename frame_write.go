package hyper

import (
	"bytes"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/wire"
)

// A fieldWriter encodes field sections at the end of the output that waits to be written. Its
// compression state and the output change together, under the connection's mu.
//
// Only fields that repeat enter the compression table. A :path does not: most requests have their
// own, and it would evict fields that all requests share. If a section is larger than the table,
// the fields after the point where the table is full do not enter it either: each would evict
// another field that the next request has as well.
type fieldWriter struct {
	enc    *hpack.Encoder
	dst    []byte
	start  int                 // of the frame being written
	fields []hpack.HeaderField // of its section, once it differs from the known ones

	most       uint32 // the limit of the table's size
	generation uint64 // counts the changes of the compression table
	known      blockCache[hpack.HeaderField]
	// like is the known block that begins with the same fields as the section, except for :path. If
	// it is nil, the section's fields are in fields.
	like *cachedBlock[hpack.HeaderField]
	same int    // the number of fields that are the same
	path string // the section's :path if like has a literal one
}

// newFieldWriter returns a fieldWriter with the protocol's default table. A peer that offers 4 GiB
// does not make the table larger.
func newFieldWriter() *fieldWriter {
	w := &fieldWriter{most: wire.HeaderTableSize}
	w.enc = hpack.NewEncoder(w)
	return w
}

// Write implements io.Writer for the encoder, which writes one field at a time.
func (w *fieldWriter) Write(p []byte) (int, error) {
	if p[0]&0xc0 == incremental || p[0]&0xe0 == sizeUpdate {
		w.generation++
	}
	w.dst = append(w.dst, p...)
	return len(p), nil
}

// begin starts a HEADERS frame at the end of dst.
func (w *fieldWriter) begin(dst []byte, stream uint32, flags wire.Flags) {
	w.start = len(dst)
	w.dst = wire.AppendFrameHeader(dst, wire.FrameHeader{Type: wire.Headers, Flags: flags | wire.EndHeaders,
		StreamID: stream})
	w.fields = w.fields[:0]
	w.like, w.same, w.path = w.known.last(w.generation), 0, ""
}

// field adds one field. The name must be in lower case.
func (w *fieldWriter) field(name, value string, sensitive bool) {
	f := hpack.HeaderField{Name: name, Value: value, Sensitive: sensitive || neverIndexed(name, value)}
	if w.like != nil && agrees(w.like, w.same, &f) {
		if w.like.path.isAt(w.same) {
			w.path = value
		}
		w.same++
		return
	}
	w.gather(&f)
}

// gather adds a field to a section that differs from the known ones.
func (w *fieldWriter) gather(f *hpack.HeaderField) {
	w.differ()
	if w.fields == nil {
		w.fields = make([]hpack.HeaderField, 0, fewFields)
	}
	w.fields = append(w.fields, *f)
}

// agrees reports whether f can be field i of k: it is equal to that field, or it is a :path and k
// has a literal one there.
func agrees(k *cachedBlock[hpack.HeaderField], i int, f *hpack.HeaderField) bool {
	return i < len(k.fields) && (k.fields[i] == *f || k.path.isAt(i) && f.Name == ":path" && !f.Sensitive)
}

// differ ends the comparison with like, and copies the fields that were the same to fields. Most
// requests are equal to an earlier one up to their end, so nothing is copied for them.
func (w *fieldWriter) differ() {
	k := w.like
	if k == nil {
		return
	}
	w.like = nil
	w.fields = append(w.fields, k.fields[:w.same]...)
	if at := k.path.field; k.path.isAt(at) && at < w.same {
		w.fields[at].Value = w.path
	}
}

// encode appends the block of the section's fields.
func (w *fieldWriter) encode() {
	if k := w.like; k != nil && w.same == len(k.fields) {
		w.appendKnown(k)
		return
	}
	w.differ()
	if k := w.find(); k != nil {
		w.appendKnown(k)
		return
	}
	table, start := w.generation, len(w.dst)
	path, size := w.encodeFields()
	if w.generation == table {
		if k := w.known.keep(table, w.dst[start:], w.fields, size); k != nil {
			k.path = path
		}
	}
	clear(w.fields)
	if cap(w.fields) > 1024 {
		w.fields = nil
	}
}

// find returns a known block with the same fields, except for a :path that is a literal there.
func (w *fieldWriter) find() *cachedBlock[hpack.HeaderField] {
	for i := range w.known.blocks {
		k := &w.known.blocks[i]
		same := k.generation == w.generation && len(k.fields) == len(w.fields)
		for j := 0; same && j < len(w.fields); j++ {
			same = agrees(k, j, &w.fields[j])
		}
		if same {
			w.known.used = i
			if k.path.to > 0 {
				w.path = w.fields[k.path.field].Value
			}
			return k
		}
	}
	return nil
}

// encodeFields appends a block of fields that no known block has. It returns the position of :path
// in the block, and the size of the list.
func (w *fieldWriter) encodeFields() (path literal, total int) {
	start := len(w.dst)
	room := int(w.enc.MaxDynamicTableSize()) // what the fields so far leave free in the table
	for i := range w.fields {
		f := &w.fields[i]
		at, size := len(w.dst), int(f.Size())
		total += size
		switch {
		case i > 0 && f.Name == ":path" && !f.Sensitive:
			w.dst = appendPath(w.dst, f.Value)
			path = literal{field: i, from: at - start, to: len(w.dst) - start}
		case i > 0 && size > room && size <= int(w.enc.MaxDynamicTableSize()) && !f.Sensitive:
			w.dst = appendString(appendString(append(w.dst, 0), f.Name), f.Value)
		// The first field always comes here: before it the encoder writes an update of the table's
		// size, if one is due (RFC 7541 §4.2).
		default:
			w.enc.WriteField(*f)
		}
		if isDynamic(w.dst[at]) {
			room -= size
		}
	}
	return path, total
}

// isDynamic reports whether a field whose first byte is b refers to the dynamic table or enters it.
func isDynamic(b byte) bool { return b&indexed != 0 && b&0x7f > staticFields || b&0xc0 == incremental }

// appendKnown appends a known block, with the section's own :path.
func (w *fieldWriter) appendKnown(k *cachedBlock[hpack.HeaderField]) {
	if k.path.to == 0 || w.path == k.fields[k.path.field].Value {
		w.dst = append(w.dst, k.octets...)
		return
	}
	w.dst = append(w.dst, k.octets[:k.path.from]...)
	w.dst = appendPath(w.dst, w.path)
	w.dst = append(w.dst, k.octets[k.path.to:]...)
}

// appendPath appends a :path that does not enter the table: a literal without indexing (RFC 7541
// §6.2.2), or a reference to one of the two paths of the static table.
func appendPath(dst []byte, path string) []byte {
	const root, index = 4, 5
	switch path {
	case "/":
		return append(dst, indexed|root)
	case "/index.html":
		return append(dst, indexed|index)
	}
	return appendString(append(dst, root), path)
}

// appendString appends a string literal (RFC 7541 §5.2), Huffman-coded if that is shorter.
func appendString(dst []byte, s string) []byte {
	n := hpack.HuffmanEncodeLength(s)
	if n >= uint64(len(s)) {
		return append(appendLength(dst, 0, uint64(len(s))), s...)
	}
	return hpack.AppendHuffmanString(appendLength(dst, 0x80, n), s)
}

// appendLength appends an integer with a 7-bit prefix (RFC 7541 §5.1).
func appendLength(dst []byte, first byte, n uint64) []byte {
	if n < 0x7f {
		return append(dst, first|byte(n))
	}
	dst = append(dst, first|0x7f)
	for n -= 0x7f; n >= 0x80; n >>= 7 {
		dst = append(dst, byte(n)|0x80)
	}
	return append(dst, byte(n))
}

// neverIndexed reports whether a field must stay out of compression tables (RFC 7541 §7.1.3):
// credentials, and cookies that are short enough to be guessed byte by byte.
func neverIndexed(name, value string) bool {
	switch name {
	case "authorization", "proxy-authorization":
		return true
	case "cookie":
		return len(value) < 20
	}
	return false
}

// forget drops the memory that only makes the next sections cheaper to write.
func (w *fieldWriter) forget() {
	w.fields, w.known, w.like = nil, blockCache[hpack.HeaderField]{}, nil
}

// end finishes the section: one HEADERS frame, followed by as many CONTINUATION frames as the
// peer's maxSize requires. It returns dst with the section at its end.
func (w *fieldWriter) end(maxSize int) []byte {
	w.encode()
	dst := w.dst
	w.dst = nil
	length := len(dst) - w.start - wire.HeaderLen
	if length <= maxSize {
		wire.PutLength(dst[w.start:], length)
		return dst
	}
	h := wire.ParseFrameHeader(dst[w.start:])
	block := append([]byte(nil), dst[w.start+wire.HeaderLen:]...)
	dst = dst[:w.start]
	h.Flags &^= wire.EndHeaders
	for len(block) > 0 {
		n := min(len(block), maxSize)
		h.Length = n
		if n == len(block) {
			h.Flags |= wire.EndHeaders
		}
		dst = append(wire.AppendFrameHeader(dst, h), block[:n]...)
		block = block[n:]
		h.Type, h.Flags = wire.Continuation, 0
	}
	return dst
}

// limitTable sets the limit of the table's size below the peer's. It is called before the first
// section.
func (w *fieldWriter) limitTable(most uint32) {
	w.most = min(w.most, most)
	w.setTableSize(w.most)
}

// setTableSize applies the peer's SETTINGS_HEADER_TABLE_SIZE, up to our own limit.
func (w *fieldWriter) setTableSize(peer uint32) {
	size := min(peer, w.most)
	if size != w.enc.MaxDynamicTableSize() {
		w.enc.SetMaxDynamicTableSizeLimit(size)
		w.enc.SetMaxDynamicTableSize(size)
		w.generation++
	}
}

// blockCache is a cache of field blocks and their fields, with the latest at the end. Most
// messages repeat the fields of an earlier one. A block that does not change the compression table
// means the same until another block changes it, so it need not be encoded or decoded again.
type blockCache[F comparable] struct {
	blocks []cachedBlock[F]
	used   int // the index of the last block that was found or kept
	size   int // of all blocks
}

// A cachedBlock is a field block, with the fields that it means.
type cachedBlock[F comparable] struct {
	generation uint64 // the number of changes of the compression table before it
	octets     []byte
	fields     []F
	size       int
	path       literal      // the :path of a request
	shared     bool         // fields are also used elsewhere and must not be overwritten
	head       responseHead // what the fields of a response say
}

// A literal is a field that a block contains in full: its index in the fields, and the range of its
// bytes in the block. If there is none, to is 0.
type literal struct{ field, from, to int }

// isAt reports whether the literal is the field with that index.
func (l literal) isAt(field int) bool { return l.to > 0 && l.field == field }

// The limits of the cache: the number of blocks, the size of each, and the size of all. A size is
// that of the list (RFC 9113 §6.5.2), or that of the block if it is larger.
const (
	maxKnown      = 8
	maxKnownSize  = 16 << 10
	maxKnownTotal = 32 << 10
)

// last returns the block that was found or kept last, and nil if the table has changed since.
func (k *blockCache[F]) last(table uint64) *cachedBlock[F] {
	if k.used < len(k.blocks) && k.blocks[k.used].generation == table {
		return &k.blocks[k.used]
	}
	return nil
}

// byOctets returns the block with these bytes, and nil if there is none or if the table has changed
// since.
func (k *blockCache[F]) byOctets(table uint64, octets []byte) *cachedBlock[F] {
	for i := range k.blocks {
		if b := &k.blocks[i]; b.generation == table && bytes.Equal(b.octets, octets) {
			return b
		}
	}
	return nil
}

// keep copies a block that did not change the table, and its fields. size is that of the list. It
// returns nil if that is too large.
func (k *blockCache[F]) keep(table uint64, octets []byte, fields []F, size int) *cachedBlock[F] {
	size = max(size, len(octets))
	if size > maxKnownSize {
		return nil
	}
	var b cachedBlock[F]
	for n := len(k.blocks); n == maxKnown || k.size+size > maxKnownTotal; n-- {
		b = k.blocks[0] // its memory is reused
		k.size -= b.size
		copy(k.blocks, k.blocks[1:])
		k.blocks = k.blocks[:n-1]
	}
	if b.shared {
		b.fields = nil
	}
	clear(b.fields)
	k.blocks = append(k.blocks, cachedBlock[F]{
		generation: table, size: size, octets: append(b.octets[:0], octets...),
		fields: append(b.fields[:0], fields...),
	})
	k.size += size
	k.used = len(k.blocks) - 1
	return &k.blocks[k.used]
}
