package fieldblock

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
	"golang.org/x/net/http2/hpack"
)

// referenceBlock returns a field block that puts one field into the compression table and then
// refers to it n times, with one byte each.
func referenceBlock(name, value string, n int) []byte {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	enc.WriteField(hpack.HeaderField{Name: name, Value: value})
	for range n {
		block.WriteByte(firstEntry)
	}
	return block.Bytes()
}

// firstEntry is a reference to the first entry of the compression table.
const firstEntry = byte(indexed) | (staticFields + 1)

// decodeInParts decodes a block of which size bytes arrive at a time.
func decodeInParts(r *Reader[field], block []byte, size int) error {
	r.Begin()
	var rest []byte
	for len(block) > size {
		rest = append(rest, block[:size]...)
		block = block[size:]
		left, err := r.DecodePart(rest)
		if err != nil {
			return err
		}
		rest = append([]byte(nil), left...)
	}
	return r.DecodeRest(append(rest, block...))
}

// A field that is too large to be kept is skipped. The compression table is the same as if the
// field had been decoded, whatever the sizes of the block's parts.
func TestFieldTooLargeToKeepIsPassedOver(t *testing.T) {
	const limit = 64 << 10
	long := h2test.RawString(strings.Repeat("v", 4*limit))
	short := []byte{1, 'x'}
	remember := []byte{0x88, byte(incremental), 1, 'k', 1, 'v'}
	for name, row := range map[string]struct {
		field   []byte
		size    int64 // of the strings, as sent
		evicted bool
	}{
		"value":                      {slices.Concat([]byte{0}, short, long), 4*limit + 1, false},
		"name":                       {slices.Concat([]byte{0}, long, short), 4*limit + 1, false},
		"both":                       {slices.Concat([]byte{0}, long, long), 8 * limit, false},
		"value, into the table":      {slices.Concat([]byte{0x40}, short, long), 4*limit + 1, true},
		"name, into the table":       {slices.Concat([]byte{0x40}, long, short), 4*limit + 1, true},
		"name, empty value":          {slices.Concat([]byte{0x40}, long, []byte{0}), 4 * limit, true},
		"value of a name by index":   {slices.Concat([]byte{0x0f, 0x11}, long), 4 * limit, false},
		"value by index, into table": {slices.Concat([]byte{0x60}, long), 4 * limit, true},
	} {
		for _, size := range []int{700, 16 << 10, 1 << 20} {
			t.Run(fmt.Sprintf("%s/%d", name, size), func(t *testing.T) {
				block := slices.Concat(remember, row.field, []byte{0, 1, 'y', 1, 'z'})
				r := newReader(Config{ListSize: limit})
				if err := decodeInParts(r, block, size); err != nil {
					t.Fatal(err)
				}
				// :status: 200, k: v and y: z have 10, 2 and 2 bytes.
				if want := row.size + 10 + 2 + 2 + 4*fieldOverhead; r.Oversize() != want {
					t.Errorf("oversize %d, want %d", r.Oversize(), want)
				}
				err := r.Decode([]byte{0x88, firstEntry})
				switch {
				case row.evicted:
					h2test.WantWireError(t, "the table is empty", err, wire.CompressionError)
				case err != nil || fieldLines(r.Fields()) != ":status: 200\nk: v\n":
					t.Errorf("%q, %v", fieldLines(r.Fields()), err)
				}
			})
		}
	}
}

// After an entry that is too large for it, the table is empty and keeps its size.
func TestTableIsUsedAfterAnEntryTooLargeForIt(t *testing.T) {
	const limit = 64 << 10
	large := slices.Concat([]byte{0x88, byte(incremental), 1, 'x'},
		h2test.RawString(strings.Repeat("v", 2*limit)),
		[]byte{byte(incremental), 1, 'k', 1, 'v'})
	r := newReader(Config{ListSize: limit})
	if err := decodeInParts(r, large, 10_000); err != nil || r.Oversize() < 2*limit {
		t.Fatalf("oversize %d, %v", r.Oversize(), err)
	}
	err := r.Decode([]byte{0x88, firstEntry})
	if err != nil || fieldLines(r.Fields()) != ":status: 200\nk: v\n" {
		t.Errorf("%q, %v", fieldLines(r.Fields()), err)
	}
}

func TestFieldCutShortInParts(t *testing.T) {
	const limit = 64 << 10
	long := h2test.RawString(strings.Repeat("v", 3*limit))
	for name, block := range map[string][]byte{
		"in a value":                       slices.Concat([]byte{0x88, 0, 1, 'x'}, long[:limit]),
		"in a value that is passed over":   slices.Concat([]byte{0x88, 0, 1, 'x'}, long[:2*limit]),
		"in a name that is passed over":    slices.Concat([]byte{0x88, 0}, long[:2*limit]),
		"after a name that is passed over": slices.Concat([]byte{0x88, 0}, long),
		"in a length after such a name":    slices.Concat([]byte{0x88, 0}, long, []byte{0x7f, 0x80}),
		"a bad length after such a name": slices.Concat([]byte{0x88, 0}, long,
			bytes.Repeat([]byte{0xff}, 9)),
		"a length without end": slices.Concat([]byte{0x88, 0, 1, 'x'}, long, []byte{0, 0x7f},
			bytes.Repeat([]byte{0xff}, 2*limit)),
	} {
		for _, size := range []int{1000, 1 << 20} {
			r := newReader(Config{ListSize: limit})
			h2test.WantWireError(t, name, decodeInParts(r, block, size), wire.CompressionError)
		}
	}
}

// A field that is skipped has a cost, too. The hard limit also bounds a name without a value, and
// the value after a name.
func TestFieldsThatArePassedOverHaveAHardLimit(t *testing.T) {
	for name, field := range map[string][]byte{
		"one name":  slices.Concat([]byte{0}, h2test.RawString(strings.Repeat("n", 2*minHardLimit))),
		"one value": slices.Concat([]byte{0, 1, 'x'}, h2test.RawString(strings.Repeat("v", 2*minHardLimit))),
		"name and value": slices.Concat([]byte{0}, h2test.RawString(strings.Repeat("n", minHardLimit*3/4)),
			h2test.RawString(strings.Repeat("v", minHardLimit*3/4))),
	} {
		r := newReader(Config{ListSize: 64 << 10})
		h2test.WantWireError(t, name, decodeInParts(r, field, 1<<20), wire.EnhanceYourCalm)
		err := newReader(Config{ListSize: 64 << 10}).Decode(field)
		h2test.WantWireError(t, name, err, wire.EnhanceYourCalm)
	}
}

// An emitted counts the fields that a decoder returns, and the bytes of those values that may be
// kept or searched for blanks.
type emitted struct{ fields, octets int64 }

// countFields returns the counts of r's decoder from now on.
func countFields(r *Reader[field]) *emitted {
	n := &emitted{}
	r.hpack.emit = func(f hpack.HeaderField) {
		n.fields++
		r.add(f)
		if r.size <= r.list {
			n.octets += int64(len(f.Value))
		}
	}
	return n
}

// One byte of a block can refer to a field of 4 KiB. The limit of a list bounds what this costs,
// with and without TrimValues.
func TestReferencesToBlanksAreCountedAsSent(t *testing.T) {
	const limit = 256 << 10
	block := referenceBlock("x", strings.Repeat(" ", 4000), 8*limit)
	for _, trim := range []bool{false, true} {
		r := newReader(Config{TrimValues: trim, ListSize: limit})
		n := countFields(r)
		h2test.WantWireError(t, "a list of 8 GB", r.Decode(block), wire.EnhanceYourCalm)
		if n.fields > minHardLimit/(fieldOverhead+1)+2*decodeStep {
			t.Errorf("trim=%v: %d fields were decoded of %d: the block goes on behind the hard limit", trim,
				n.fields, len(block))
		}
		if n.octets > limit {
			t.Errorf("trim=%v: %d bytes were looked at, more than the limit of the list", trim, n.octets)
		}
	}
}

// A list between the limit and the hard limit is no error. It is decoded to its end, so that the
// compression state stays correct.
func TestTrimmedListAboveTheLimitIsDecodedToItsEnd(t *testing.T) {
	r := newReader(Config{TrimValues: true, ListSize: 256 << 10})
	err := r.Decode(referenceBlock("x", strings.Repeat("\t", 4000), 90))
	if err != nil || r.Oversize() != 42+91*4033 {
		t.Errorf("oversize %d, %v", r.Oversize(), err)
	}
	err = r.Decode([]byte{0x88, firstEntry})
	if err != nil || r.Oversize() != 0 || fieldLines(r.Fields()) != ":status: 200\nx: \n" {
		t.Errorf("%q, oversize %d, %v", fieldLines(r.Fields()), r.Oversize(), err)
	}
}

// A list that is decoded in parts is the same as one that is decoded at once.
func TestLongBlockIsDecodedInParts(t *testing.T) {
	var block bytes.Buffer
	var want strings.Builder
	enc := hpack.NewEncoder(&block)
	enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	want.WriteString(":status: 200\n")
	for i := range 300 {
		name, value := fmt.Sprintf("x-%d", i%7), strings.Repeat("v", 13*i%700)
		enc.WriteField(hpack.HeaderField{Name: name, Value: value})
		fmt.Fprintf(&want, "%s: %s\n", name, value)
	}
	if block.Len() < 20*decodeStep {
		t.Fatalf("the block has only %d bytes", block.Len())
	}
	for _, size := range []int{1, 50, 1000, 5000, 1 << 20} {
		r := newReader(Config{})
		err := decodeInParts(r, block.Bytes(), size)
		if got := fieldLines(r.Fields()); err != nil || got != want.String() {
			t.Errorf("in parts of %d: %v, %d bytes of fields, want %d", size, err, len(got), want.Len())
		}
	}
}

// A list of 524,565 references to a field of 4 KiB is larger than 2^31 bytes, which an int cannot
// hold on a 32-bit platform.
func TestListSizeIsCountedIn64Bits(t *testing.T) {
	const references = 524_565
	// A field counts 4,096, with its name and the overhead of 32.
	block := referenceBlock("x", strings.Repeat("v", 4063), references)
	r := newReader(Config{ListSize: math.MaxInt32})
	err := r.Decode(block)
	if want := int64(42 + (references+1)*4096); err != nil || r.Oversize() != want || want <= math.MaxInt32 {
		t.Errorf("the size is %d, %v, want %d", r.Oversize(), err, want)
	}
}
