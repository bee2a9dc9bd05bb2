package hyper

import (
	"bytes"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/wire"
)

// A fieldWriter encodes field sections behind the bytes that wait to be written. Its compression state and
// those bytes change together, under the connection's mu.
//
// The compression table is for what comes again. It never sees a :path: most requests have one of their own, and would push out
// what all of them share. Nor does it see the fields of a section that is larger than the table, from where it is full: each would push out
// another one that the next request has, too.
type fieldWriter struct {
	enc    *hpack.Encoder
	dst    []byte
	start  int                 // of the frame being written
	fields []hpack.HeaderField // of its section, once it is not like an earlier one

	most  uint32 // of the table's size
	table uint64 // counts the changes of the compression table
	known knownBlocks[hpack.HeaderField]
	like  *knownBlock[hpack.HeaderField] // the section is this one's first fields so far, but for :path; nil: it is in fields
	same  int                            // how many
	path  string                         // of the section, where like has a literal one
}

func newFieldWriter() *fieldWriter {
	w := &fieldWriter{most: wire.HeaderTableSize} // a peer that offers 4 GiB does not make us fill it
	w.enc = hpack.NewEncoder(w)
	return w
}

// Write is where the encoder puts its octets, those of one field at a time.
func (w *fieldWriter) Write(p []byte) (int, error) {
	if p[0]&0xc0 == incremental || p[0]&0xe0 == sizeUpdate {
		w.table++
	}
	w.dst = append(w.dst, p...)
	return len(p), nil
}

// begin starts a HEADERS frame at the end of dst.
func (w *fieldWriter) begin(dst []byte, stream uint32, flags wire.Flags) {
	w.start = len(dst)
	w.dst = wire.AppendFrameHeader(dst, wire.FrameHeader{Type: wire.Headers, Flags: flags | wire.EndHeaders, StreamID: stream})
	w.fields = w.fields[:0]
	w.like, w.same, w.path = w.known.last(w.table), 0, ""
}

// field adds one field; name is in lower case.
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

// gather keeps a field of a section that is not like an earlier one.
func (w *fieldWriter) gather(f *hpack.HeaderField) {
	w.differ()
	if w.fields == nil {
		w.fields = make([]hpack.HeaderField, 0, fewFields)
	}
	w.fields = append(w.fields, *f)
}

// agrees reports whether f has the place of field i of k: it is that field, or a :path where k has a literal one.
func agrees(k *knownBlock[hpack.HeaderField], i int, f *hpack.HeaderField) bool {
	return i < len(k.fields) && (k.fields[i] == *f || k.path.isAt(i) && f.Name == ":path" && !f.Sensitive)
}

// differ ends the likeness with an earlier section: what was the same so far is in fields then. Most requests never come here, and
// need not be copied.
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

// encode appends the block of the fields.
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
	table, start := w.table, len(w.dst)
	path, size := w.encodeFields()
	if w.table == table {
		if k := w.known.keep(table, w.dst[start:], w.fields, size); k != nil {
			k.path = path
		}
	}
	clear(w.fields)
	if cap(w.fields) > 1024 {
		w.fields = nil
	}
}

// find returns a known block that means the fields, but for a :path that is a literal there.
func (w *fieldWriter) find() *knownBlock[hpack.HeaderField] {
	for i := range w.known.blocks {
		k := &w.known.blocks[i]
		same := k.table == w.table && len(k.fields) == len(w.fields)
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

// encodeFields appends the block of fields that no known one means. It returns where their :path stands, and the size of their list.
func (w *fieldWriter) encodeFields() (path literal, total int) {
	start := len(w.dst)
	room := int(w.enc.MaxDynamicTableSize()) // that the fields so far leave in the table
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
		default: // the first field, too: what the encoder has to say of the table's size goes before it (RFC 7541 §4.2)
			w.enc.WriteField(*f)
		}
		if isDynamic(w.dst[at]) {
			room -= size
		}
	}
	return path, total
}

// isDynamic reports whether a field that begins so is in the dynamic table, or is put there.
func isDynamic(b byte) bool { return b&indexed != 0 && b&0x7f > staticFields || b&0xc0 == incremental }

// appendKnown appends a block, with the section's own path.
func (w *fieldWriter) appendKnown(k *knownBlock[hpack.HeaderField]) {
	if k.path.to == 0 || w.path == k.fields[k.path.field].Value {
		w.dst = append(w.dst, k.octets...)
		return
	}
	w.dst = append(w.dst, k.octets[:k.path.from]...)
	w.dst = appendPath(w.dst, w.path)
	w.dst = append(w.dst, k.octets[k.path.to:]...)
}

// appendPath appends a :path that goes into no table: a literal without indexing (RFC 7541 §6.2.2), or one of the two of the static table.
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

// appendString appends a string literal (RFC 7541 §5.2), in Huffman's code where that is shorter.
func appendString(dst []byte, s string) []byte {
	n := hpack.HuffmanEncodeLength(s)
	if n >= uint64(len(s)) {
		return append(appendLength(dst, 0, uint64(len(s))), s...)
	}
	return hpack.AppendHuffmanString(appendLength(dst, 0x80, n), s)
}

// appendLength appends an integer of a 7-bit prefix (RFC 7541 §5.1).
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

// neverIndexed names what RFC 7541 §7.1.3 wants kept out of tables: credentials, and cookies short enough to
// be guessed octet by octet.
func neverIndexed(name, value string) bool {
	switch name {
	case "authorization", "proxy-authorization":
		return true
	case "cookie":
		return len(value) < 20
	}
	return false
}

// forget drops what only makes the next sections cheaper to write.
func (w *fieldWriter) forget() {
	w.fields, w.known, w.like = nil, knownBlocks[hpack.HeaderField]{}, nil
}

// end finishes the section: one HEADERS frame, or as many CONTINUATIONs behind it as the peer's maxSize makes
// necessary. It returns dst with the section at its end.
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

// limitTable makes the table smaller than the peer allows. It is called before the first section.
func (w *fieldWriter) limitTable(most uint32) {
	w.most = min(w.most, most)
	w.setTableSize(w.most)
}

// setTableSize obeys the peer's SETTINGS_HEADER_TABLE_SIZE, as far as we care to use it.
func (w *fieldWriter) setTableSize(peer uint32) {
	size := min(peer, w.most)
	if size != w.enc.MaxDynamicTableSize() {
		w.enc.SetMaxDynamicTableSizeLimit(size)
		w.enc.SetMaxDynamicTableSize(size)
		w.table++
	}
}

// knownBlocks are field blocks with the fields that they mean, the last one kept at the end. Most messages repeat the fields of an
// earlier one. A block that changes nothing in the compression table means the same until another one does, and need not be encoded or
// decoded again.
type knownBlocks[F comparable] struct {
	blocks []knownBlock[F]
	used   int // the last one that was found or kept
	size   int // of all
}

type knownBlock[F comparable] struct {
	table  uint64 // how often the table had been changed
	octets []byte
	fields []F
	size   int
	path   literal      // of a request's
	lent   bool         // somebody else has fields, too
	head   responseHead // what the fields say, where they are a response's
}

// A literal is a field that a block has in full: its place among the fields, and its octets; to is 0 where there is none.
type literal struct{ field, from, to int }

func (l literal) isAt(field int) bool { return l.to > 0 && l.field == field }

// What is kept: so many blocks, and of each and of all the lists as RFC 9113 §6.5.2 counts them, or the octets where those are more.
const (
	maxKnown      = 8
	maxKnownSize  = 16 << 10
	maxKnownTotal = 32 << 10
)

// last is the block that was found or kept last, nil if it means something else by now.
func (k *knownBlocks[F]) last(table uint64) *knownBlock[F] {
	if k.used < len(k.blocks) && k.blocks[k.used].table == table {
		return &k.blocks[k.used]
	}
	return nil
}

func (k *knownBlocks[F]) byOctets(table uint64, octets []byte) *knownBlock[F] {
	for i := range k.blocks {
		if b := &k.blocks[i]; b.table == table && bytes.Equal(b.octets, octets) {
			return b
		}
	}
	return nil
}

// keep copies a block that changed nothing, and its fields, which take size octets; nil: they are too many.
func (k *knownBlocks[F]) keep(table uint64, octets []byte, fields []F, size int) *knownBlock[F] {
	size = max(size, len(octets))
	if size > maxKnownSize {
		return nil
	}
	var b knownBlock[F]
	for n := len(k.blocks); n == maxKnown || k.size+size > maxKnownTotal; n-- {
		b = k.blocks[0] // its memory serves again
		k.size -= b.size
		copy(k.blocks, k.blocks[1:])
		k.blocks = k.blocks[:n-1]
	}
	if b.lent {
		b.fields = nil
	}
	clear(b.fields)
	k.blocks = append(k.blocks, knownBlock[F]{
		table: table, size: size, octets: append(b.octets[:0], octets...), fields: append(b.fields[:0], fields...),
	})
	k.size += size
	k.used = len(k.blocks) - 1
	return &k.blocks[k.used]
}
