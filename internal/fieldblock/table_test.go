package fieldblock

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// TestTableFollowsTheEncoder decodes many sections of hpack's encoder, with a table that changes
// its size. Fields repeat, so that the blocks refer to entries of all ages.
func TestTableFollowsTheEncoder(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		var got, want []hpack.HeaderField
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		dec := tableDecoder{emit: func(f hpack.HeaderField) { got = append(got, f) }, most: 4096}
		for range 100 {
			block.Reset()
			got, want = got[:0], want[:0]
			if random.IntN(10) == 0 {
				enc.SetMaxDynamicTableSize(uint32(random.IntN(4097)))
			}
			for range random.IntN(20) {
				n := random.IntN(100)
				f := hpack.HeaderField{Name: fmt.Sprintf("x-%d", n%17), Sensitive: random.IntN(20) == 0,
					Value: strings.Repeat(string(rune('!'+n)), n*n*n/4000)}
				enc.WriteField(f)
				want = append(want, f)
			}
			if fault := dec.write(block.Bytes()); fault != "" {
				t.Fatalf("seed %d: %x: %s", seed, block.Bytes(), fault)
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("seed %d: %v, want %v", seed, got, want)
			}
			size := 0
			for i := range dec.count {
				f, _ := dec.at(uint64(staticFields + 1 + i))
				size += int(f.Size())
			}
			if size != dec.size || size > dec.most {
				t.Fatalf("seed %d: %d bytes in a table of %d of size %d", seed, size, dec.most, dec.size)
			}
		}
	}
}

// The memory of a table is that of its entries: what was evicted is not kept, and no long string is
// kept for the decoder's next one.
func TestTableKeepsNothingThatWasEvicted(t *testing.T) {
	dec := tableDecoder{emit: func(hpack.HeaderField) {}, most: 4096}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for i := range 1000 {
		enc.WriteField(hpack.HeaderField{Name: fmt.Sprint("x-", i), Value: strings.Repeat("v", 100)})
	}
	enc.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("v", 5000)})
	if fault := dec.write(block.Bytes()); fault != "" {
		t.Fatal(fault)
	}
	if dec.text != nil || len(dec.entries) > 2*4096/(100+32) {
		t.Errorf("%d bytes of text, %d entries", cap(dec.text), len(dec.entries))
	}
	if dec.resize(0); dec.count != 0 || dec.size != 0 {
		t.Errorf("%d entries, %d bytes in a table of 0", dec.count, dec.size)
	}
	for i, f := range dec.entries {
		if f.Name != "" || f.Value != "" {
			t.Errorf("entry %d is kept: %v", i, f)
		}
	}
}

// A literal with a name of its own costs one allocation, and a reference none.
func TestFieldCostsOneAllocation(t *testing.T) {
	const fields = 100
	var literals, references []byte
	for i := range fields {
		literals = append(literals, byte(incremental))
		for _, s := range []string{fmt.Sprintf("x-%03d", i), strings.Repeat("v", i)} {
			coded := hpack.AppendHuffmanString(nil, s)
			literals = append(append(literals, 0x80|byte(len(coded))), coded...)
		}
		references = append(references, firstEntry)
	}
	n := 0
	dec := tableDecoder{emit: func(hpack.HeaderField) { n++ }, most: 4096}
	for _, c := range []struct {
		block []byte
		most  float64
	}{{literals, fields}, {references, 0}} {
		// Up to two more: the pool of buffers can be empty.
		if got := testing.AllocsPerRun(100, func() { dec.write(c.block) }); got > c.most+2 {
			t.Errorf("%v allocations for %d fields, want %v", got, fields, c.most)
		}
	}
	if n != 2*101*fields {
		t.Errorf("%d fields", n)
	}
}
