package fieldblock

import (
	"math"
	"sync"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/wire"
)

// A Form is how a field is represented in a block (RFC 7541 §6.1, §6.2).
type Form uint8

// The values of Form.
const (
	// FormAuto is FormIndexed for most fields, FormNever for sensitive ones and for credentials,
	// and FormLiteral for :path.
	FormAuto        Form = iota
	FormIndexed          // a reference to an entry that is the same; if there is none, FormIncremental
	FormIncremental      // a literal that enters the dynamic table
	FormLiteral          // a literal that does not enter it
	FormNever            // a literal that no intermediary may enter into a table either
)

// A Huffman says which strings of a field are Huffman-coded (RFC 7541 §5.2).
type Huffman uint8

// The values of Huffman.
const (
	HuffmanAuto   Huffman = iota // those that become shorter
	HuffmanAlways                // all
	HuffmanNever                 // none
)

// An Encoding says how one field is encoded.
type Encoding struct {
	Form    Form
	Huffman Huffman
	NewName bool // the name is a string, even if a table has it
}

// A Layout says how a section is encoded and cut into frames. The zero value is what End does.
type Layout struct {
	Encodings []Encoding // of each field, in order; nil: the Writer chooses

	// Padding is by how many bytes padding makes the HEADERS frame longer, with the Pad Length
	// field: up to 256. 0: there is none.
	Padding int

	// Priority is the Exclusive bit with the Stream Dependency, and the Weight field. nil: the
	// frame has no such fields.
	Priority *[5]byte

	// Fragments are the sizes of the first fragments of the block. There is a frame for each, even
	// if nothing is left for it. What is left goes into frames that are as large as possible.
	Fragments []int
}

// EndAs finishes the section as End does, with l. maxSize applies to the frames that l.Fragments
// does not describe.
func (w *Writer) EndAs(l *Layout, maxSize int) []byte {
	if l.Encodings == nil {
		w.encode()
	} else {
		w.encodeExact(l.Encodings)
	}
	dst := w.dst
	w.dst = nil
	h := wire.ParseFrameHeader(dst[w.start:])
	block := append([]byte(nil), dst[w.start+wire.HeaderLen:]...)
	dst, h.Flags = dst[:w.start], h.Flags&^wire.EndHeaders
	prefix := l.prefix(&h)
	padding := max(0, l.Padding-1)
	for i := 0; i == 0 || i < len(l.Fragments) || len(block) > 0; i++ {
		n := min(len(block), maxSize-len(prefix)-padding)
		if i < len(l.Fragments) {
			n = min(len(block), l.Fragments[i])
		}
		if n == len(block) && i >= len(l.Fragments)-1 {
			h.Flags |= wire.EndHeaders
		}
		h.Length = len(prefix) + n + padding
		dst = append(append(wire.AppendFrameHeader(dst, h), prefix...), block[:n]...)
		dst = append(dst, make([]byte, padding)...)
		block, prefix, padding = block[n:], nil, 0
		h.Type, h.Flags = wire.Continuation, 0
	}
	return dst
}

// prefix returns the fields of a HEADERS frame before the block, and sets their flags in h.
func (l *Layout) prefix(h *wire.FrameHeader) (p []byte) {
	if l.Padding > 0 {
		h.Flags |= wire.Padded
		p = append(p, byte(l.Padding-1))
	}
	if l.Priority != nil {
		h.Flags |= wire.PriorityFlag
		p = append(p, l.Priority[:]...)
	}
	return p
}

// An exactTable is the dynamic table as the blocks of encodeExact have left it. The encoder of the
// other blocks has a table of its own. When a block of one kind follows a block of the other, it
// begins with two updates of the table's size, which empty the table (RFC 7541 §4.3).
type exactTable struct {
	entries []hpack.HeaderField // the oldest first
	size    uint32              // of entries
	most    uint32              // the size that the peer knows

	// What the next block begins with.
	lowest, next uint32 // the smallest size since the last block, and the size now
	stale        bool   // the peer's table has other entries than this one
}

// encodeExact appends the block of the section's fields, encoded as how says.
func (w *Writer) encodeExact(how []Encoding) {
	w.diverge()
	if w.exact == nil {
		size := w.enc.most
		w.exact = &exactTable{most: wire.HeaderTableSize, next: size, lowest: min(size, wire.HeaderTableSize),
			stale: w.touched}
	}
	w.dst = w.exact.appendUpdates(w.dst)
	for i := range w.fields {
		w.dst = w.exact.appendField(w.dst, &w.fields[i], how[i])
	}
	clear(w.fields)
	w.emptyTable()
}

// Foreign notes that the peer was sent a block of this connection that the Writer did not write.
// The next block empties the compression table first.
func (w *Writer) Foreign() {
	if w.touched = true; w.exact != nil {
		w.exact.stale = true
	}
	w.emptyTable()
}

// emptyTable empties the encoder's table. Its next block begins with the updates for that.
func (w *Writer) emptyTable() {
	size := w.enc.most
	w.enc.setSize(0)
	w.enc.setSize(size)
	w.generation++
}

// resize notes a new size of the table.
func (x *exactTable) resize(size uint32) {
	x.lowest, x.next = min(x.lowest, size), size
	x.evict(x.lowest)
}

// appendUpdates appends the updates of the table's size that are due (RFC 7541 §4.2).
func (x *exactTable) appendUpdates(dst []byte) []byte {
	if x.stale {
		x.stale, x.lowest, x.most = false, 0, math.MaxUint32
		x.evict(0)
	} else if x.lowest == x.most && x.next == x.most {
		return dst
	}
	if x.lowest < min(x.next, x.most) {
		dst = appendInt(dst, byte(sizeUpdate), 5, uint64(x.lowest))
	}
	x.most, x.lowest = x.next, x.next
	return appendInt(dst, byte(sizeUpdate), 5, uint64(x.next))
}

// evict drops the oldest entries until the others fit in size bytes.
func (x *exactTable) evict(size uint32) {
	n := 0
	for x.size > size {
		x.size -= x.entries[n].Size()
		n++
	}
	x.entries = append(x.entries[:0], x.entries[n:]...)
}

// enter adds f to the table. An entry that is larger than the table empties it (RFC 7541 §4.4).
func (x *exactTable) enter(f *hpack.HeaderField) {
	size := f.Size()
	if size > x.most {
		x.evict(0)
		return
	}
	x.evict(x.most - size)
	x.entries = append(x.entries, hpack.HeaderField{Name: f.Name, Value: f.Value})
	x.size += size
}

// find returns the index of an entry that is equal to f, and that of an entry with the same name. 0
// means that there is none. It prefers the static table, and then the newest entry.
func (x *exactTable) find(f *hpack.HeaderField) (same, name int) {
	static := staticTable()
	for i := range static {
		if static[i].Name != f.Name {
			continue
		}
		if name == 0 {
			name = i + 1
		}
		if static[i].Value == f.Value {
			return i + 1, name
		}
	}
	for i := len(x.entries) - 1; i >= 0; i-- {
		if x.entries[i].Name != f.Name {
			continue
		}
		at := len(static) + len(x.entries) - i
		if name == 0 {
			name = at
		}
		if x.entries[i].Value == f.Value {
			return at, name
		}
	}
	return 0, name
}

// appendField appends f.
func (x *exactTable) appendField(dst []byte, f *hpack.HeaderField, how Encoding) []byte {
	form := how.Form
	if form == FormAuto {
		switch {
		case f.Sensitive:
			form = FormNever
		case f.Name == ":path":
			form = FormLiteral
		default:
			form = FormIndexed
		}
	}
	same, name := x.find(f)
	indexable := form == FormIndexed || how.Form == FormAuto && form == FormLiteral
	if same > 0 && indexable && !how.NewName {
		return appendInt(dst, byte(indexed), 7, uint64(same))
	}
	if how.NewName {
		name = 0
	}
	switch form {
	case FormLiteral:
		dst = appendInt(dst, 0, 4, uint64(name))
	case FormNever:
		dst = appendInt(dst, 0x10, 4, uint64(name))
	default:
		dst = appendInt(dst, byte(incremental), 6, uint64(name))
		x.enter(f)
	}
	if name == 0 {
		dst = how.Huffman.append(dst, f.Name)
	}
	return how.Huffman.append(dst, f.Value)
}

// append appends a string literal.
func (h Huffman) append(dst []byte, s string) []byte {
	switch h {
	case HuffmanAlways:
		return hpack.AppendHuffmanString(appendLength(dst, 0x80, hpack.HuffmanEncodeLength(s)), s)
	case HuffmanNever:
		return append(appendLength(dst, 0, uint64(len(s))), s...)
	}
	return appendString(dst, s)
}

// appendInt appends an integer with a prefix of that many bits after the bits of first (RFC 7541
// §5.1).
func appendInt(dst []byte, first byte, prefix uint, n uint64) []byte {
	most := uint64(1)<<prefix - 1
	if n < most {
		return append(dst, first|byte(n))
	}
	dst = append(dst, first|byte(most))
	for n -= most; n >= 0x80; n >>= 7 {
		dst = append(dst, byte(n)|0x80)
	}
	return append(dst, byte(n))
}

// staticTable returns the static table (RFC 7541, appendix A).
var staticTable = sync.OnceValue(func() (table [staticFields]hpack.HeaderField) {
	for i := range table {
		fields, _ := hpack.NewDecoder(0, nil).DecodeFull([]byte{byte(indexed) | byte(i+1)})
		table[i] = fields[0]
	}
	return table
})

// AppendLiterals appends a block of fields that neither reads nor changes the compression table.
func AppendLiterals[F Field](dst []byte, fields []F) []byte {
	var none exactTable
	for i := range fields {
		f := hpack.HeaderField(fields[i])
		dst = none.appendField(dst, &f, Encoding{Form: FormNever})
	}
	return dst
}
