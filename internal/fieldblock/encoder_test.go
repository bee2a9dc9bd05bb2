package fieldblock

import (
	"bytes"
	"fmt"
	"testing"
	"unsafe"

	"golang.org/x/net/http2/hpack"
)

// FuzzEncoder encodes fields beside the encoder of x/net, with changes of the table's size in
// between. Both have to append the same bytes.
func FuzzEncoder(f *testing.F) {
	addChanges(f)
	f.Fuzz(func(t *testing.T, script []byte) {
		var want bytes.Buffer
		enc, theirs := newEncoder(), hpack.NewEncoder(&want)
		for c := newChanges(script); c.next(); {
			for range c.take(20) % 3 {
				size := tableSizes[c.take(5)]
				enc.setSize(size)
				theirs.SetMaxDynamicTableSizeLimit(size)
				theirs.SetMaxDynamicTableSize(size)
			}
			for _, field := range c.list {
				want.Reset()
				theirs.WriteField(field)
				got, changed := enc.appendField(nil, &field)
				if !bytes.Equal(got, want.Bytes()) {
					t.Fatalf("%v is %x, want %x", field, got, want.Bytes())
				}
				if kind, _ := kindOf(got[0]); changed != (kind == incremental || kind == sizeUpdate) {
					t.Fatalf("%x changes the table: %v", got, changed)
				}
			}
			checkTable(t, &enc)
		}
	})
}

// checkTable fails if the table is larger than it may be, or keeps what it has evicted.
func checkTable(t *testing.T, e *encoder) {
	t.Helper()
	size := uint32(0)
	for i := range e.entries[e.evicted:] {
		size += e.entries[int(e.evicted)+i].size()
	}
	if size != e.size || size > e.most {
		t.Fatalf("entries of %d bytes, %d are counted, %d are allowed", size, e.size, e.most)
	}
	for i, rest := range e.entries[:cap(e.entries)] {
		if evicted := i < int(e.evicted) || i >= len(e.entries); evicted && rest != (entry{}) {
			t.Fatalf("%v was evicted and is kept", rest)
		}
	}
}

// Each field of the static table, and each of its names with another value, is encoded as by x/net.
func TestEncoderUsesTheStaticTable(t *testing.T) {
	for _, field := range staticTable() {
		for _, f := range []hpack.HeaderField{field, {Name: field.Name, Value: "another"},
			{Name: field.Name, Value: field.Value, Sensitive: true}} {
			var want bytes.Buffer
			hpack.NewEncoder(&want).WriteField(f)
			enc := newEncoder()
			if got, _ := enc.appendField(nil, &f); !bytes.Equal(got, want.Bytes()) {
				t.Errorf("%v is %x, want %x", f, got, want.Bytes())
			}
		}
	}
}

// Fields beyond the size of the table evict the oldest ones, as by x/net.
func TestEncoderEvictsTheOldest(t *testing.T) {
	var want bytes.Buffer
	enc, theirs := newEncoder(), hpack.NewEncoder(&want)
	for i := range 1000 {
		// The names end with the same bytes, and their tags are equal.
		f := hpack.HeaderField{Name: fmt.Sprintf("%d-name", i%7), Value: string(make([]byte, i*7%900))}
		if i%300 == 299 {
			f.Value = string(make([]byte, 5000)) // larger than the table
		}
		want.Reset()
		theirs.WriteField(f)
		if got, _ := enc.appendField(nil, &f); !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("field %d is %x, want %x", i, got, want.Bytes())
		}
		checkTable(t, &enc)
	}
}

// A Writer is in an allocation of 208 bytes. Each connection has one.
func TestSizeOfAWriter(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) == 8 && unsafe.Sizeof(Writer{}) > 208 {
		t.Errorf("a Writer has %d bytes", unsafe.Sizeof(Writer{}))
	}
}
