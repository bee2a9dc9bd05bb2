package fieldblock

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
	"golang.org/x/net/http2/hpack"
)

// FuzzBlock checks that a block that passes decodes to the list that any decoder finds, and that
// another block results in an error. The reader's own walk of a block must not accept more than the
// decoder does. The result must not depend on the parts in which a block arrives.
func FuzzBlock(f *testing.F) {
	for _, c := range appendixC {
		for _, block := range c.blocks {
			f.Add(h2test.Unhex(f, block), []byte{0xbe})
		}
	}
	f.Add([]byte{0x3f, 0x45, 0x3f, 0xe1, 0x1f, 0x88}, []byte{0x20})
	f.Add(slices.Concat([]byte{0x88, 0x40, 1, 'x'}, h2test.RawString(strings.Repeat("v", 500))),
		[]byte{0x88, 0xbe})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		cfg := Config{ListSize: 1 << 10}
		whole, byOne, bySome := newReader(cfg), newReader(cfg), newReader(cfg)
		plain := hpack.NewDecoder(wire.HeaderTableSize, nil)
		for i, block := range [][]byte{first, second} {
			if i == 1 {
				whole.TableAcknowledged()
				byOne.TableAcknowledged()
				bySome.TableAcknowledged()
			}
			err := whole.Decode(block)
			section := result{whole, err}
			wantSameSection(t, section, result{byOne, decodeInParts(byOne, block, 1)})
			wantSameSection(t, section, result{bySome, decodeInParts(bySome, block, max(2, len(block)/3))})
			if err != nil {
				if _, ok := err.(*wire.Error); !ok {
					t.Fatalf("%x: %T", block, err)
				}
				return
			}
			if i == 0 && !twoUpdates(block) {
				want, err := plain.DecodeFull(block)
				if err != nil {
					t.Fatalf("%x: passed, and the decoder says %v", block, err)
				}
				for k, f := range whole.Fields() {
					if hpack.HeaderField(f) != want[k] {
						t.Fatalf("%x: field %d is %v, want %v", block, k, f, want[k])
					}
				}
				if whole.Oversize() == 0 && len(whole.Fields()) != len(want) {
					t.Fatalf("%x: %d fields, want %d", block, len(whole.Fields()), len(want))
				}
			}
			kept := int64(0)
			for _, f := range whole.Fields() {
				kept += int64(hpack.HeaderField(f).Size())
			}
			if kept > cfg.ListSize || whole.cost > whole.HardLimit() {
				t.Fatalf("a list of %d bytes is kept, at a cost of %d", kept, whole.cost)
			}
		}
	})
}

// A result is a Reader with the section that it has decoded last, or its error.
type result struct {
	*Reader[field]
	Err error
}

// wantSameSection requires that the same section was decoded, or that both have failed.
func wantSameSection(t *testing.T, whole, inParts result) {
	t.Helper()
	if whole.Err != nil || inParts.Err != nil {
		if whole.Err == nil || inParts.Err == nil {
			t.Fatalf("%v, in parts %v", whole.Err, inParts.Err)
		}
		return
	}
	size := whole.Oversize()
	if !slices.Equal(whole.Fields(), inParts.Fields()) || size != inParts.Oversize() ||
		size == 0 && *whole.Head() != *inParts.Head() {
		t.Fatalf("%v, oversize %d, %+v\nin parts %v, oversize %d, %+v", whole.Fields(), size, whole.Head(),
			inParts.Fields(), inParts.Oversize(), inParts.Head())
	}
}

// twoUpdates reports whether block begins with more than one table-size update. The plain decoder
// rejects a second update if its table is not empty.
func twoUpdates(block []byte) bool {
	n := 0
	for len(block) > 0 && block[0]&0xe0 == byte(sizeUpdate) {
		_, size := readInt(block, 5)
		block = block[size:]
		n++
	}
	return n > 1
}

// changes turns bytes into field lists that change one thing at a time, as those of successive
// requests do.
type changes struct {
	script []byte
	list   []hpack.HeaderField
	before [4][]hpack.HeaderField
}

// take returns the next byte modulo n.
func (c *changes) take(n int) int {
	if len(c.script) == 0 {
		return 0
	}
	b := c.script[0]
	c.script = c.script[1:]
	return int(b) % n
}

// next makes the next list and reports whether there is one. One step in ten leaves the list as it
// is.
func (c *changes) next() bool {
	if len(c.script) == 0 {
		return false
	}
	at := c.take(len(c.list))
	c.before[c.take(len(c.before))] = c.list
	c.list = slices.Clone(c.list)
	f := &c.list[at]
	switch c.take(10) {
	case 1: // another value of the same length, from two bytes up
		f.Value = f.Value[:len(f.Value)/2] + string(rune('a'+c.take(3))) +
			f.Value[len(f.Value)/2:][min(1, len(f.Value)/2):]
	case 2:
		f.Value = strings.Repeat("v", c.take(256))
	case 3:
		f.Name = []string{":path", ":method", "x-a", "x-b", "cookie", "authorization"}[c.take(6)]
	case 4:
		f.Sensitive = !f.Sensitive
	case 5:
		other := &c.list[c.take(len(c.list))]
		*f, *other = *other, *f
	case 6:
		c.list = c.list[:max(1, len(c.list)-1)]
	case 7:
		c.list = append(c.list, hpack.HeaderField{Name: []string{"x-a", "x-c"}[c.take(2)], Value: "v"})
	case 8:
		c.list = slices.Delete(c.list, at, at+min(1, len(c.list)-1))
	case 9:
		if list := c.before[c.take(len(c.before))]; list != nil {
			c.list = list
		}
	}
	return true
}

func newChanges(script []byte) *changes {
	return &changes{script: script[:min(len(script), 1000)], list: []hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":authority", Value: "example.com"},
		{Name: ":path", Value: "/a"}, {Name: "x-a", Value: "1"}, {Name: "x-b", Value: "2"},
	}}
}

// addChanges adds seeds that are long enough for many changes.
func addChanges(f *testing.F) {
	random := rand.New(rand.NewPCG(75, 41))
	for range 150 {
		script := make([]byte, 600)
		for i := range script {
			script[i] = byte(random.IntN(256))
		}
		f.Add(script)
	}
}

// tableSizes are sizes for which the table is off, evicts entries, or keeps everything.
var tableSizes = []uint32{0, 40, 100, 300, wire.HeaderTableSize, 1 << 20}

// FuzzWriter checks that a decoder with the table size that the peer allows reads each section
// as it was given. The fields vary, the peer changes its table between sections, and the writer
// forgets what it knows from time to time.
func FuzzWriter(f *testing.F) {
	addChanges(f)
	f.Fuzz(func(t *testing.T, script []byte) {
		w, c := NewWriter(), newChanges(script)
		dec := hpack.NewDecoder(wire.HeaderTableSize, nil)
		for c.next() {
			switch c.take(40) {
			case 0:
				for range 1 + c.take(3) { // several settings before the next section reports them
					size := tableSizes[c.take(len(tableSizes))]
					w.SetTableSize(size)
					dec.SetAllowedMaxDynamicTableSize(size)
				}
			case 1:
				w.Forget()
			}
			w.Begin(nil, 1, 0)
			want := slices.Clone(c.list)
			for i, f := range want {
				w.Field(f.Name, f.Value, f.Sensitive)
				want[i].Sensitive = f.Sensitive || neverIndexed(f.Name, f.Value)
			}
			block := w.End(1 << 20)[wire.HeaderLen:]
			if got, err := decodeUpdated(dec, block); err != nil || !slices.Equal(got, want) {
				t.Fatalf("%x means\n%v, %v, want\n%v", block, got, err, want)
			}
			if w.known.size > maxKnownTotal || len(w.known.blocks) > maxKnown {
				t.Fatalf("%d blocks of %d bytes are kept", len(w.known.blocks), w.known.size)
			}
		}
	})
}

// decodeUpdated is dec.DecodeFull for blocks that may begin with two table-size updates, of which
// dec accepts only one.
func decodeUpdated(dec *hpack.Decoder, block []byte) ([]hpack.HeaderField, error) {
	for len(block) > 0 && block[0]&0xe0 == byte(sizeUpdate) {
		_, size := readInt(block, 5)
		if _, err := dec.DecodeFull(block[:size]); err != nil {
			return nil, err
		}
		block = block[size:]
	}
	return dec.DecodeFull(block)
}

// FuzzReader does the same for the reader, with blocks from a peer's encoder. It also checks
// that fields that the reader has shared do not change.
func FuzzReader(f *testing.F) {
	addChanges(f)
	f.Fuzz(func(t *testing.T, script []byte) {
		type loan struct{ lent, want []field }
		var loans [16]loan
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		r, c := newReader(Config{}), newChanges(script)
		for n := 0; c.next(); n++ {
			switch c.take(40) {
			case 0:
				enc.SetMaxDynamicTableSize(tableSizes[c.take(5)])
			case 1:
				r.Forget()
			}
			block.Reset()
			want := make([]field, len(c.list))
			for i, f := range c.list {
				enc.WriteField(f)
				want[i] = field(f)
			}
			if err := r.Decode(block.Bytes()); err != nil || !slices.Equal(r.Fields(), want) {
				t.Fatalf("%x means\n%v, %v, want\n%v", block.Bytes(), r.Fields(), err, want)
			}
			if head := parseHead(want, n%2 == 0); *r.Head() != head {
				t.Fatalf("%x is %+v, want %+v", block.Bytes(), *r.Head(), head)
			}
			if c.take(3) == 0 {
				loans[n%len(loans)] = loan{r.Share(), want[1:]}
			}
			for _, l := range loans {
				if !slices.Equal(l.lent, l.want) {
					t.Fatalf("what was lent is %v by now, want %v", l.lent, l.want)
				}
			}
		}
	})
}
