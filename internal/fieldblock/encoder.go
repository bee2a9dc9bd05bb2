package fieldblock

import (
	"bytes"
	"math"
	"sync"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/wire"
)

// An encoder encodes one field after another, and keeps the dynamic table of the blocks that it has
// encoded. It appends the same bytes as the encoder of golang.org/x/net/http2/hpack. Its table is a
// list without maps, because an idle connection keeps it, and most tables have few entries. Where
// there are many, tags distinguish most of them.
type encoder struct {
	entries []entry // of the dynamic table, the oldest first, after those that were evicted
	tags    *tags   // of entries; nil: there are few
	evicted uint32  // how many were evicted, at the beginning of entries; they are empty
	size    uint32  // of the table
	most    uint32  // limit of size

	// Updates of the table's size that the next block begins with (RFC 7541 §4.2).
	lowest uint32 // the smallest size since the last block
	due    bool
}

// An entry is a field in the dynamic table.
type entry struct{ name, value string }

// fewEntries is how many entries have no tags.
const fewEntries = 16

// tags are bytes that are equal where names, or whole entries, are equal.
type tags struct{ names, wholes []byte }

// add adds the tags of x.
func (t *tags) add(x *entry) {
	t.names, t.wholes = append(t.names, tagOf(x.name)), append(t.wholes, wholeTag(x.name, x.value))
}

// tagOf returns a byte of the length and the last bytes of s.
func tagOf(s string) byte {
	n := len(s)
	if n < 2 {
		return byte(n)
	}
	return byte(n) ^ s[n-1] ^ s[n-2]<<4
}

// wholeTag returns the tag of an entry.
func wholeTag(name, value string) byte { return tagOf(name) ^ tagOf(value)<<1 ^ tagOf(value)>>7 }

// size returns the size of e in the table (RFC 7541 §4.1).
func (e *entry) size() uint32 { return uint32(len(e.name)+len(e.value)) + fieldOverhead }

// same reports whether a and b are equal. Strings of the same length often differ in their last
// byte, so it compares that first.
func same(a, b string) bool {
	n := len(a)
	return len(b) == n && (n == 0 || a[n-1] == b[n-1] && a == b)
}

// newEncoder returns an encoder with the protocol's default table.
func newEncoder() encoder { return encoder{most: wire.HeaderTableSize, lowest: math.MaxUint32} }

// setSize sets the limit of the table's size.
func (e *encoder) setSize(most uint32) {
	e.most, e.lowest, e.due = most, min(e.lowest, most), true
	e.evict(0)
}

// evict drops the oldest entries until the others leave room bytes.
func (e *encoder) evict(room uint32) {
	for ; e.size+room > e.most; e.evicted++ {
		oldest := &e.entries[e.evicted]
		e.size -= oldest.size()
		*oldest = entry{}
	}
}

// add adds an entry, for which there is room. It moves the entries to the beginning of their memory
// rather than to larger memory if many were evicted.
func (e *encoder) add(added entry) {
	n := len(e.entries)
	moves := n == cap(e.entries) && int(e.evicted) > n/4
	if moves {
		left := copy(e.entries, e.entries[e.evicted:])
		clear(e.entries[left:])
		e.entries, e.evicted = e.entries[:left], 0
	}
	e.entries = append(e.entries, added)
	e.size += added.size()
	switch {
	case e.tags != nil && !moves:
		e.tags.add(&added)
	case len(e.entries) > fewEntries:
		e.tags = &tags{make([]byte, 0, cap(e.entries)), make([]byte, 0, cap(e.entries))}
		for i := range e.entries {
			e.tags.add(&e.entries[i])
		}
	default:
		e.tags = nil
	}
}

// appendField appends f, after the updates of the table's size that are due. It reports whether the
// table, or its size, has changed.
func (e *encoder) appendField(dst []byte, f *hpack.HeaderField) (out []byte, changed bool) {
	if e.due {
		if e.lowest < e.most {
			dst = appendInt(dst, byte(sizeUpdate), 5, uint64(e.lowest))
		}
		dst = appendInt(dst, byte(sizeUpdate), 5, uint64(e.most))
		e.due, e.lowest, changed = false, math.MaxUint32, true
	}
	index, whole := e.find(f)
	if whole {
		return appendInt(dst, byte(indexed), 7, index), changed
	}
	switch added := (entry{f.Name, f.Value}); {
	case f.Sensitive:
		dst = appendInt(dst, byte(notIndexed)|neverBit, 4, index)
	case added.size() > e.most:
		dst = appendInt(dst, byte(notIndexed), 4, index)
	default:
		dst = appendInt(dst, byte(incremental), 6, index)
		e.evict(added.size())
		e.add(added)
		changed = true
	}
	if index == 0 {
		dst = appendString(dst, f.Name)
	}
	return appendString(dst, f.Value), changed
}

// find returns the index of an entry that is equal to f. If there is none, or if f is sensitive, it
// returns that of an entry with the same name, and 0 if there is none either. It prefers the static
// table, and then the newest entry.
func (e *encoder) find(f *hpack.HeaderField) (index uint64, whole bool) {
	named := staticNames()[f.Name]
	for i := named.first; i > 0 && i <= named.last && !f.Sensitive; i++ {
		if static()[i-1].Value == f.Value {
			return uint64(i), true
		}
	}
	if at := e.findWhole(f); at >= 0 {
		return e.indexOf(at), true
	}
	if named.last > 0 {
		return uint64(named.last), false
	}
	if at := e.findName(f.Name); at >= 0 {
		return e.indexOf(at), false
	}
	return 0, false
}

// indexOf returns the index of the entry at that place.
func (e *encoder) indexOf(at int) uint64 { return uint64(staticFields + len(e.entries) - at) }

// findWhole returns the place of the entry that is equal to f, and -1 if there is none or if f is
// sensitive. No two entries are equal.
func (e *encoder) findWhole(f *hpack.HeaderField) int {
	if f.Sensitive {
		return -1
	}
	from := int(e.evicted)
	if e.tags == nil {
		for i := from; i < len(e.entries); i++ {
			if x := &e.entries[i]; same(x.value, f.Value) && same(x.name, f.Name) {
				return i
			}
		}
		return -1
	}
	for tag := wholeTag(f.Name, f.Value); ; from++ {
		i := bytes.IndexByte(e.tags.wholes[from:], tag)
		if i < 0 {
			return -1
		}
		from += i
		if x := &e.entries[from]; same(x.value, f.Value) && same(x.name, f.Name) {
			return from
		}
	}
}

// findName returns the place of the newest entry with that name, and -1 if there is none.
func (e *encoder) findName(name string) int {
	if e.tags == nil {
		for i := len(e.entries) - 1; i >= int(e.evicted); i-- {
			if same(e.entries[i].name, name) {
				return i
			}
		}
		return -1
	}
	for names, tag := e.tags.names, tagOf(name); ; {
		i := bytes.LastIndexByte(names, tag)
		if i < int(e.evicted) {
			return -1
		}
		if same(e.entries[i].name, name) {
			return i
		}
		names = names[:i]
	}
}

// A staticRange has the first and the last index of a name in the static table, where the entries
// of a name follow each other. They are 0 if the name is not there.
type staticRange struct{ first, last uint8 }

// staticNames returns the ranges of all names of the static table.
var staticNames = sync.OnceValue(func() map[string]staticRange {
	names := make(map[string]staticRange, staticFields)
	for i, f := range static() {
		r := names[f.Name]
		if r.last = uint8(i + 1); r.first == 0 {
			r.first = r.last
		}
		names[f.Name] = r
	}
	return names
})
