package fieldblock

import (
	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/wire"
)

// A Writer encodes field sections: Begin, Field for each field, and End. It appends them to the
// output that waits to be written. What was encoded must be sent, because the peer's table follows
// ours. A Writer must not be used by several goroutines at once.
//
// Only fields that repeat enter the compression table. A :path does not: most requests have their
// own, and it would evict fields that all requests share. If a section is larger than the table,
// the fields after the point where the table is full do not enter it either: each would evict
// another field that the next request has as well.
type Writer struct {
	enc    encoder
	dst    []byte
	start  int                 // of the frame being written
	fields []hpack.HeaderField // of its section, once it differs from the known ones

	most       uint32 // the limit of the table's size
	touched    bool   // a block that was sent has changed the peer's table, or its size
	generation uint64 // counts the changes of the compression table
	known      cache[hpack.HeaderField]
	// match is the known block that begins with the same fields as the section, except for :path.
	// If it is nil, the section's fields are in fields.
	match   *knownBlock[hpack.HeaderField]
	matched int    // the number of fields that are the same
	path    string // the section's :path if match has a literal one

	exact *exactTable // nil: EndAs was not called with Encodings
}

// NewWriter returns a Writer with the protocol's default table. A peer that offers 4 GiB does not
// make the table larger.
func NewWriter() *Writer {
	return &Writer{most: wire.HeaderTableSize, enc: newEncoder()}
}

// encodeField appends a field that the encoder encodes.
func (w *Writer) encodeField(f *hpack.HeaderField) {
	dst, changed := w.enc.appendField(w.dst, f)
	if w.dst = dst; changed {
		w.generation++
		w.touched = true
	}
}

// Begin starts a section as a HEADERS frame at the end of dst.
func (w *Writer) Begin(dst []byte, stream uint32, flags wire.Flags) {
	w.start = len(dst)
	w.dst = wire.AppendFrameHeader(dst, wire.FrameHeader{Type: wire.Headers, Flags: flags | wire.EndHeaders,
		StreamID: stream})
	w.fields = w.fields[:0]
	w.match, w.matched, w.path = w.known.last(w.generation), 0, ""
}

// Field adds one field. The name must be in lower case.
func (w *Writer) Field(name, value string, sensitive bool) {
	f := hpack.HeaderField{Name: name, Value: value, Sensitive: sensitive}
	if k := w.match; k != nil && matches(k, w.matched, &f) {
		if k.path.isAt(w.matched) {
			w.path = value
		}
		w.matched++
		return
	}
	f.Sensitive = sensitive || neverIndexed(name, value)
	w.gather(&f)
}

// gather adds a field to a section that differs from the known ones.
func (w *Writer) gather(f *hpack.HeaderField) {
	w.diverge()
	if w.fields == nil {
		w.fields = takeList[hpack.HeaderField](&writtenLists)
	}
	w.fields = append(w.fields, *f)
}

// matches reports whether f can be field i of k: it is equal to that field, or it is a :path and k
// has a literal one there.
func matches(k *knownBlock[hpack.HeaderField], i int, f *hpack.HeaderField) bool {
	if i >= len(k.fields) {
		return false
	}
	known := &k.fields[i]
	if known.Name != f.Name {
		return false
	}
	if known.Value == f.Value &&
		(known.Sensitive == f.Sensitive || known.Sensitive && neverIndexed(f.Name, f.Value)) {
		return true
	}
	return k.path.isAt(i) && !f.Sensitive
}

// diverge ends the comparison with match, and copies the fields that were the same to fields. Most
// requests are equal to an earlier one up to their end, so nothing is copied for them.
func (w *Writer) diverge() {
	k := w.match
	if k == nil {
		return
	}
	w.match = nil
	w.fields = append(w.fields, k.fields[:w.matched]...)
	if at := k.path.field; k.path.isAt(at) && at < w.matched {
		w.fields[at].Value = w.path
	}
}

// encode appends the block of the section's fields.
func (w *Writer) encode() {
	if w.exact != nil {
		w.exact.stale = true
	}
	if k := w.match; k != nil && w.matched == len(k.fields) {
		w.appendKnown(k)
		return
	}
	w.diverge()
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
	if cap(w.fields) > manyFields {
		w.fields = nil
	}
}

// find returns a known block with the same fields, except for a :path that is a literal there.
func (w *Writer) find() *knownBlock[hpack.HeaderField] {
	for i := range w.known.blocks {
		k := &w.known.blocks[i]
		same := k.generation == w.generation && len(k.fields) == len(w.fields)
		for j := 0; same && j < len(w.fields); j++ {
			same = matches(k, j, &w.fields[j])
		}
		if same {
			w.known.used = int32(i)
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
func (w *Writer) encodeFields() (path literal, total int) {
	start := len(w.dst)
	room := int(w.enc.most) // what the fields so far leave free in the table
	for i := range w.fields {
		f := &w.fields[i]
		at, size := len(w.dst), int(f.Size())
		total += size
		switch {
		case i > 0 && f.Name == ":path" && !f.Sensitive:
			w.dst = appendPath(w.dst, f.Value)
			path = literal{field: i, from: at - start, to: len(w.dst) - start}
		case i > 0 && size > room && size <= int(w.enc.most) && !f.Sensitive:
			w.dst = appendString(appendString(append(w.dst, 0), f.Name), f.Value)
		// The first field always comes here: before it the encoder writes an update of the table's
		// size, if one is due (RFC 7541 §4.2).
		default:
			w.encodeField(f)
		}
		if isDynamic(w.dst[at]) {
			room -= size
		}
	}
	return path, total
}

// isDynamic reports whether a field whose first byte is b refers to the dynamic table or enters it.
func isDynamic(b byte) bool {
	kind, _ := kindOf(b)
	return kind == indexed && b&0x7f > staticFields || kind == incremental
}

// appendKnown appends a known block, with the section's own :path.
func (w *Writer) appendKnown(k *knownBlock[hpack.HeaderField]) {
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
		return append(dst, byte(indexed)|root)
	case "/index.html":
		return append(dst, byte(indexed)|index)
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

// Kept returns the number of fields and of known blocks for which memory is kept.
func (w *Writer) Kept() (fields, blocks int) { return cap(w.fields), cap(w.known.blocks) }

// Forget drops the memory that only makes the next sections cheaper to write.
func (w *Writer) Forget() {
	giveList(&writtenLists, w.fields)
	w.fields, w.match = nil, nil
	w.known.forget()
}

// End finishes the section: one HEADERS frame, followed by as many CONTINUATION frames as the
// peer's maxSize requires. It returns dst with the section at its end.
func (w *Writer) End(maxSize int) []byte {
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

// LimitTable sets the limit of the table's size, which applies beside the peer's. It is called
// before the first section. Without it the limit is the protocol's default.
func (w *Writer) LimitTable(most uint32) {
	w.most = most
	w.SetTableSize(min(most, wire.HeaderTableSize))
}

// SetTableSize applies the peer's SETTINGS_HEADER_TABLE_SIZE, up to our own limit.
func (w *Writer) SetTableSize(peer uint32) {
	size := min(peer, w.most)
	if size != w.enc.most {
		w.enc.setSize(size)
		w.generation++
	}
	if w.exact != nil {
		w.exact.resize(size)
	}
}
