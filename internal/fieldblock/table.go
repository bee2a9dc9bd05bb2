package fieldblock

import (
	"sync"

	"golang.org/x/net/http2/hpack"
)

// The errors of a decoder that the parse of the block does not find.
const (
	noEntry    = "an index without an entry in the compression table"
	badHuffman = "a string that is not Huffman-coded"
)

// A tableDecoder decodes whole fields. It has the dynamic table (RFC 7541 §2.3.2).
type tableDecoder struct {
	emit func(hpack.HeaderField) // called for each field

	// The entries are a ring, in which count entries begin at oldest.
	entries       []hpack.HeaderField
	oldest, count int
	size, most    int    // of the table, in bytes (RFC 7541 §4.1)
	text          []byte // for the strings of one field; nil between two calls of write
}

// texts are buffers for tableDecoder.text, of at most maxText bytes.
var texts = sync.Pool{New: func() any { b := make([]byte, 0, 256); return &b }}

// maxText is the size of the largest buffer that is kept.
const maxText = 4 << 10

// static is the static table. Its entries are not changed.
var static = sync.OnceValue(func() *[staticFields]hpack.HeaderField {
	t := staticTable()
	return &t
})

// write decodes p, which has whole fields or one table-size update. parseField found no fault in
// them.
func (d *tableDecoder) write(p []byte) (fault string) {
	buf := texts.Get().(*[]byte)
	d.text = *buf
	fault = d.fields(p)
	if cap(d.text) <= maxText {
		*buf = d.text
	}
	d.text = nil
	texts.Put(buf)
	return fault
}

// fields decodes what write gets.
func (d *tableDecoder) fields(p []byte) (fault string) {
	for len(p) > 0 {
		k, prefix := kindOf(p[0])
		number, n := readInt(p, prefix)
		never := k == notIndexed && p[0]&neverBit != 0
		p = p[n:]
		switch k {
		case indexed:
			f, ok := d.at(number)
			if !ok {
				return noEntry
			}
			d.emit(f)
			continue
		case sizeUpdate:
			d.resize(int(number))
			continue
		}
		f, n, fault := d.literal(number, p)
		if fault != "" {
			return fault
		}
		p = p[n:]
		f.Sensitive = never
		if k == incremental {
			d.add(f)
		}
		d.emit(f)
	}
	return ""
}

// neverBit is the bit of a literal that must not enter a table (RFC 7541 §6.2.3).
const neverBit = 0x10

// literal decodes the strings of a literal, of which p begins with the first. name is the index of
// the entry that has its name, and 0 if p begins with its name. n is the length of the strings in
// p.
func (d *tableDecoder) literal(name uint64, p []byte) (f hpack.HeaderField, n int, fault string) {
	d.text = d.text[:0]
	if name > 0 {
		entry, ok := d.at(name)
		if !ok {
			return f, 0, noEntry
		}
		f.Name = entry.Name
	} else if n, fault = d.string(p); fault != "" {
		return f, n, fault
	}
	length := len(d.text)
	m, fault := d.string(p[n:])
	// One allocation has both strings.
	text := string(d.text)
	if name == 0 {
		f.Name = text[:length]
	}
	f.Value = text[length:]
	return f, n + m, fault
}

// string decodes a string into text. n is its length in p.
func (d *tableDecoder) string(p []byte) (n int, fault string) {
	length, n := readInt(p, 7)
	coded, end := p[0]&0x80 != 0, n+int(length)
	if !coded {
		d.text = append(d.text, p[n:end]...)
		return end, ""
	}
	var ok bool
	if d.text, ok = huffman().appendDecoded(d.text, p[n:end]); !ok {
		return end, badHuffman
	}
	return end, ""
}

// at returns the entry with that index (RFC 7541 §2.3.3).
func (d *tableDecoder) at(index uint64) (f hpack.HeaderField, ok bool) {
	switch {
	case index <= staticFields:
		return static()[index-1], true
	case index-staticFields > uint64(d.count):
		return f, false
	}
	return d.entries[(d.oldest+d.count-int(index-staticFields))%len(d.entries)], true
}

// add adds an entry to the table, for which the oldest make room (RFC 7541 §4.4).
func (d *tableDecoder) add(f hpack.HeaderField) {
	size := int(f.Size())
	d.evict(d.most - size)
	if size > d.most {
		return
	}
	if d.count == len(d.entries) {
		entries := make([]hpack.HeaderField, max(fewFields, 2*d.count))
		copy(entries[copy(entries, d.entries[d.oldest:]):], d.entries[:d.oldest])
		d.entries, d.oldest = entries, 0
	}
	d.entries[(d.oldest+d.count)%len(d.entries)] = f
	d.count++
	d.size += size
}

// evict removes the oldest entries until the table's size is at most most.
func (d *tableDecoder) evict(most int) {
	for d.size > most && d.count > 0 {
		d.size -= int(d.entries[d.oldest].Size())
		d.entries[d.oldest] = hpack.HeaderField{}
		d.oldest = (d.oldest + 1) % len(d.entries)
		d.count--
	}
}

// resize sets the size of the table (RFC 7541 §4.3).
func (d *tableDecoder) resize(most int) {
	d.most = most
	d.evict(most)
}
