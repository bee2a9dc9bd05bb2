package fieldblock

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
	"golang.org/x/net/http2/hpack"
)

// A field is the type of fields in these tests.
type field struct {
	Name, Value string
	Sensitive   bool
}

// newReader returns a Reader. Zeros in cfg mean the defaults of a connection.
func newReader(cfg Config) *Reader[field] {
	cfg.ListSize = cmp.Or(cfg.ListSize, 10<<20)
	cfg.Memory = cmp.Or(cfg.Memory, 64<<20)
	cfg.TableSize = cmp.Or(cfg.TableSize, wire.HeaderTableSize)
	r := &Reader[field]{}
	r.Init(cfg)
	return r
}

// fieldLines returns one line for each field, with "!" before a field that is never indexed.
func fieldLines(fields []field) string {
	var b strings.Builder
	for _, f := range fields {
		if f.Sensitive {
			b.WriteByte('!')
		}
		fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Value)
	}
	return b.String()
}

var appendixC = []struct {
	name   string
	table  uint32   // the peer's table size; 0 means 4,096
	blocks []string // in hex
	fields []string
}{
	{"C.2.1", 0, []string{"400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572"},
		[]string{"custom-key: custom-header\n"}},
	{"C.2.2", 0, []string{"040c 2f73 616d 706c 652f 7061 7468"}, []string{":path: /sample/path\n"}},
	{"C.2.3", 0, []string{"1008 7061 7373 776f 7264 0673 6563 7265 74"}, []string{"!password: secret\n"}},
	{"C.2.4", 0, []string{"82"}, []string{":method: GET\n"}},
	{"C.3", 0, []string{
		"8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
		"8286 84be 5808 6e6f 2d63 6163 6865",
		"8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
	}, appendixCRequests},
	{"C.4", 0, []string{
		"8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
		"8286 84be 5886 a8eb 1064 9cbf",
		"8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
	}, appendixCRequests},
	{"C.5", 256, []string{
		"4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 " +
			"3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
		"4803 3330 37c1 c0bf",
		"88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a " +
			"6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b " +
			"206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
	}, appendixCResponses},
	{"C.6", 256, []string{
		"4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d " +
			"29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
		"4883 640e ffc1 c0bf",
		"88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d " +
			"d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 " +
			"b106 3d50 07",
	}, appendixCResponses},
}

var (
	appendixCRequests = []string{
		":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\n",
		":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\ncache-control: no-cache\n",
		":method: GET\n:scheme: https\n:path: /index.html\n:authority: www.example.com\ncustom-key: " +
			"custom-value\n",
	}
	appendixCResponses = []string{
		":status: 302\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\nlocation: " +
			"https://www.example.com\n",
		":status: 307\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\nlocation: " +
			"https://www.example.com\n",
		":status: 200\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:22 GMT\nlocation: " +
			"https://www.example.com\n" +
			"content-encoding: gzip\nset-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1\n",
	}
)

func TestExamplesOfAppendixCAreDecoded(t *testing.T) {
	for _, c := range appendixC {
		t.Run(c.name, func(t *testing.T) {
			r := newReader(Config{TableSize: c.table})
			r.TableAcknowledged()
			for i, block := range c.blocks {
				p := h2test.Unhex(t, block)
				if i == 0 && c.table == 256 {
					p = append([]byte{0x3f, 0xe1, 0x01}, p...) // the examples begin with a table of that size
				}
				if err := r.Decode(p); err != nil {
					t.Fatalf("block %d: %v", i+1, err)
				}
				if got := fieldLines(r.Fields()); got != c.fields[i] {
					t.Errorf("block %d:\ngot\n%swant\n%s", i+1, got, c.fields[i])
				}
			}
		})
	}
}

func TestHPACKAtItsLimitsIsTaken(t *testing.T) {
	for _, c := range []struct{ name, block, want string }{
		{"largest update", "3f e1 1f 88", ":status: 200\n"},
		{"two updates", "20 3f e1 1f 88", ":status: 200\n"},
		{"three updates", "20 21 3f e1 1f 88", ":status: 200\n"},
		{"an update and nothing else", "20", ""},
		{"nothing", "", ""},
		{"index in more bytes than it needs", "88 0f 80 00 01 61", ":status: 200\naccept-charset: a\n"},
		{"empty value", "88 00 01 61 00", ":status: 200\na: \n"},
		{"empty Huffman value", "88 00 01 61 80", ":status: 200\na: \n"},
		{"Huffman padding of 7 ones", "88 00 01 61 83 02 8a ff", ":status: 200\na: 0 %\n"},
	} {
		r := newReader(Config{})
		err := r.Decode(h2test.Unhex(t, c.block))
		if err != nil || fieldLines(r.Fields()) != c.want {
			t.Errorf("%s: %q, %v, want %q", c.name, fieldLines(r.Fields()), err, c.want)
		}
	}
}

func TestTwoTableSizeUpdatesKeepWhatFits(t *testing.T) {
	r := newReader(Config{})
	for i, c := range []struct{ block, want string }{
		{"40 01 61 01 62", "a: b\n"},
		{"40 01 63 01 64", "c: d\n"},
		{"3f 09 3f e1 1f be", "c: d\n"}, // a table of 40 bytes holds one entry of 34
		{"3f 09 3f e1 1f be", "c: d\n"},
	} {
		if err := r.Decode(h2test.Unhex(t, c.block)); err != nil || fieldLines(r.fields) != c.want {
			t.Fatalf("block %d: %q, %v", i+1, fieldLines(r.fields), err)
		}
	}
	if err := r.Decode(h2test.Unhex(t, "bf")); err == nil {
		t.Error("what did not fit is still there")
	}
}

// RFC 9113 §4.3.1: an endpoint that makes the table smaller than the size in use must see an update
// at the beginning of the first field block after the acknowledgment. Until the acknowledgment, the
// peer need not know the new size.
func TestSmallerTableTakesEffectWithTheAcknowledgment(t *testing.T) {
	const (
		full  = "3f e1 1f"       // 4,096
		small = "3f 45"          // 100
		more  = "3f 46"          // 101
		field = "40 01 61 01 62" // takes 34 bytes of the table
	)
	for _, c := range []struct {
		name        string
		before, now []string // blocks before and after the acknowledgment
		ok          bool
	}{
		{"an update after it", []string{field}, []string{small + field}, true},
		{"a smaller one", nil, []string{"20" + field}, true},
		{"only the first block needs it", nil, []string{small + field, field, "be"}, true},
		{"an update before it", []string{small + field}, []string{"be"}, true},
		{"the old size before it", []string{full + field}, []string{small + field}, true},
		{"the old size again after an update", []string{small, full}, []string{small}, true},
		{"two updates, the first too large", nil, []string{full + small + field}, false},
		{"no update after it", []string{field}, []string{field}, false},
		{"no update before an index", []string{field}, []string{"88"}, false},
		{"too large an update after it", nil, []string{more + field}, false},
		{"a smaller one taken back before it", []string{small + field, full + field}, []string{field}, false},
		{"and too large later", nil, []string{small, more}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReader(Config{TableSize: 100})
			for _, block := range c.before {
				if err := r.Decode(h2test.Unhex(t, block)); err != nil {
					t.Fatalf("before the acknowledgment: %v", err)
				}
			}
			r.TableAcknowledged()
			var err error
			for i, block := range c.now {
				if err != nil {
					t.Fatalf("block %d: %v", i, err)
				}
				err = r.Decode(h2test.Unhex(t, block))
			}
			if c.ok && err != nil {
				t.Error(err)
			}
			if !c.ok {
				h2test.WantWireError(t, c.name, err, wire.CompressionError)
			}
		})
	}
}

// The same bytes mean other fields when the table has changed. They mean the same fields when it
// has not.
func TestRepeatedBlocksAreDecodedAsIfTheyWereNot(t *testing.T) {
	random := rand.New(rand.NewPCG(8, 541))
	r := newReader(Config{})
	var plainFields []hpack.HeaderField
	plain := hpack.NewDecoder(wire.HeaderTableSize,
		func(f hpack.HeaderField) { plainFields = append(plainFields, f) })
	// The updates are to 0, 70, 300 and 4,096 bytes.
	updates := [][]byte{{0x20}, {0x3f, 0x27}, {0x3f, 0x8d, 0x02}, {0x3f, 0xe1, 0x1f}}
	repeated, stored := 0, 0
	for step := range 20_000 {
		var block []byte
		if random.IntN(500) == 0 { // a table-size update
			block = append(block, updates[random.IntN(len(updates))]...)
		}
		for range 1 + random.IntN(2) {
			switch random.IntN(60) {
			// These are the last entries of the static table, and the first of the dynamic table if
			// it has them.
			default:
				block = append(block, byte(indexed)|byte(58+random.IntN(4+min(stored, 4))))
			case 0:
				stored++
				name, value := byte('a'+random.IntN(26)), byte('a'+random.IntN(26))
				block = append(block, byte(incremental), 1, name, 1, value)
			case 1:
				block = append(block, 0, 1, byte('a'+random.IntN(2)), 1, 'v')
			}
		}
		last, table := newest(&r.known), r.generation
		plainFields = plainFields[:0]
		_, wantErr := plain.Write(block)
		if wantErr == nil {
			wantErr = plain.Close()
		}
		err := r.Decode(block)
		if (err != nil) != (wantErr != nil) {
			t.Fatalf("step %d, %x: %v, want %v", step, block, err, wantErr)
		}
		if err != nil { // neither decoder can continue after an error
			plain = hpack.NewDecoder(wire.HeaderTableSize,
				func(f hpack.HeaderField) { plainFields = append(plainFields, f) })
			r, stored = newReader(Config{}), 0
			continue
		}
		if len(r.fields) != len(plainFields) {
			t.Fatalf("step %d, %x: %v, want %v", step, block, r.fields, plainFields)
		}
		for i, f := range plainFields {
			if r.fields[i] != (field{f.Name, f.Value, f.Sensitive}) {
				t.Fatalf("step %d, %x: %v, want %v", step, block, r.fields, plainFields)
			}
		}
		if newest(&r.known) == last && r.generation == table {
			repeated++
		}
	}
	if repeated < 3_000 {
		t.Errorf("only %d of the blocks were known", repeated)
	}
}

// RFC 9113 §4.3.1: the first block after the acknowledgment of a smaller table begins with an
// update. This also holds for a known block.
func TestKnownBlockMustStillAdmitASmallerTable(t *testing.T) {
	r := newReader(Config{TableSize: 100})
	for range 2 {
		if err := r.Decode([]byte{0x88}); err != nil {
			t.Fatal(err)
		}
	}
	r.TableAcknowledged()
	if err := r.Decode([]byte{0x88}); err == nil {
		t.Error("a block without an update passed")
	}
}

// RFC 9113 §4.3: a decoding error in a field block MUST be treated as a connection error of type
// COMPRESSION_ERROR. It makes no difference in which parts the block arrives.
func TestHPACKThatMustNotBeSentIsRefused(t *testing.T) {
	for _, c := range []struct{ name, block string }{
		{"index 0", "80"},
		{"index of nothing", "be"},
		{"index far beyond the table", "ff ff ff ff ff 07"},
		{"name index of nothing", "7f 00 01 61"},
		{"name index of nothing, not indexed", "0f 7f 01 61"},
		{"name index of nothing, never indexed", "1f 7f 01 61"},
		{"index cut short", "88 ff"},
		{"index cut after a continuation", "88 ff 80"},
		{"index of six bytes", "ff 80 80 80 80 80 00"},
		{"index beyond 32 bits", "ff ff ff ff ff 1f"},
		{"index of ten bytes, 2^64 and more", "ff ff ff ff ff ff ff ff ff ff 7f"},
		{"string length beyond 32 bits", "00 7f ff ff ff ff 7f 61"},
		{"string length of many zeros", "00 7f 80 80 80 80 80 80 80 80 80 00 61"},
		{"name longer than the block", "40 05 61 62 63 64"},
		{"name missing", "40"},
		{"value longer than the block", "40 01 61 05 62"},
		{"value missing", "40 01 61"},
		{"size update after a field", "88 20"},
		{"size update after a field, table not empty", "40 01 61 01 62 20"},
		{"size update between fields", "88 3f e1 1f 88"},
		{"size update above SETTINGS_HEADER_TABLE_SIZE", "3f e2 1f 88"},
		{"second size update above it", "20 3f e2 1f 88"},
		{"size update cut short", "3f"},
		{"size update of six bytes", "3f 80 80 80 80 80 00"},
		{"Huffman EOS", "40 01 61 84 ff ff ff ff"},
		{"Huffman EOS behind a symbol", "40 01 61 85 1f ff ff ff ff"},
		{"Huffman padding of 8 ones", "40 01 61 82 07 ff ff"},
		{"Huffman padding of zeros", "40 01 61 81 00"},
		{"Huffman padding not all ones", "40 01 61 81 1e"},
		{"Huffman name cut within a symbol", "40 82 ff fe 01 62"},
	} {
		block := h2test.Unhex(t, c.block)
		for size := 1; size <= len(block); size++ {
			r := newReader(Config{})
			h2test.WantWireError(t, c.name, decodeInParts(r, block, size), wire.CompressionError)
		}
	}
}

// sectionOf returns a block of one field with a value of that size.
func sectionOf(size int) []byte {
	return slices.Concat([]byte{0, 1, 'x'}, h2test.RawString(strings.Repeat("v", size)))
}

// The sections that are held leave less room for others. Small sections always have room and are
// not counted.
func TestHeldSectionsAreBounded(t *testing.T) {
	const size = 100 << 10
	r := newReader(Config{ListSize: 3 * size, Memory: 2 * size})
	decode := func(reason string, size int, oversize bool) {
		t.Helper()
		if err := r.Decode(sectionOf(size)); err != nil || (r.Oversize() > 0) != oversize {
			t.Errorf("%s: oversize %d, %v", reason, r.Oversize(), err)
		}
	}
	decode("above Memory", 2*size, true)
	decode("the first", size, false)
	held := r.Hold()
	if want := r.Size(); held != want || held < size || r.Held() != held {
		t.Errorf("%d bytes are held, %d in all, want %d", held, r.Held(), want)
	}
	decode("no room for the second", size, true)
	decode("a small one", freeSize/2, false)
	if n := r.Hold(); n != 0 {
		t.Errorf("%d bytes of a small section are counted", n)
	}
	r.Release(held)
	decode("room again", size, false)
	if held := r.Held(); held != 0 {
		t.Errorf("%d bytes are held after all were released", held)
	}

	r = newReader(Config{ListSize: 3 * size, Memory: -1})
	for range 10 {
		decode("without bound", 2*size, false)
		if n := r.Hold(); n != 0 {
			t.Errorf("%d bytes are counted without a bound", n)
		}
	}
}

// A Reader keeps the memory of small sections, for the next ones, until it is told to forget it.
func TestMemoryOfSectionsIsFreed(t *testing.T) {
	r := newReader(Config{})
	decode := func(block []byte) {
		t.Helper()
		if err := r.Decode(block); err != nil {
			t.Fatal(err)
		}
	}
	want := func(reason string, keepsFields, keepsBlocks bool) {
		t.Helper()
		if fields, blocks := r.Kept(); fields > 0 != keepsFields || blocks > 0 != keepsBlocks {
			t.Errorf("%s: memory for %d fields and %d blocks is kept", reason, fields, blocks)
		}
	}
	decode([]byte{0x88})
	r.FreeLarge()
	want("a small section", true, true)
	r.Forget()
	want("forgotten", false, false)
	if r.Fields() != nil || r.Head() != nil {
		t.Error("its fields are kept")
	}
	decode(sectionOf(largeSize))
	want("a large section", true, false)
	r.FreeLarge()
	want("a large section was handled", false, false)
	if r.Fields() != nil || r.Head() != nil || r.Size() != 0 {
		t.Error("its fields are kept")
	}
	decode(bytes.Repeat([]byte{0x88}, 2*manyFields))
	decode([]byte{0x88})
	if fields, _ := r.Kept(); fields > fewFields {
		t.Errorf("memory for %d fields is kept", fields)
	}
}

// What was shared stays as it is, whether its block was known or not.
func TestSharedFieldsDoNotChange(t *testing.T) {
	r := newReader(Config{})
	var shared [][]field
	for i := range 3 * maxKnown {
		value := strings.Repeat(string(rune('a'+i)), 1000)
		block := slices.Concat([]byte{0x88, 0, 1, 'x'}, h2test.RawString(value))
		if i%3 == 0 {
			block = append(block, sectionOf(maxKnownSize)...) // too large to be known
		}
		for range 2 {
			if err := r.Decode(block); err != nil {
				t.Fatal(err)
			}
		}
		shared = append(shared, r.Share())
	}
	for i, fields := range shared {
		if f := fields[0]; f.Name != "x" || f.Value != strings.Repeat(string(rune('a'+i)), 1000) {
			t.Errorf("section %d begins with %s: %.3q", i, f.Name, f.Value)
		}
	}
}

// ShareRepeated only takes a block that is the last one again and that changes nothing, while the
// compression table is the same.
func TestShareRepeatedTakesTheSameBlockOnly(t *testing.T) {
	r := newReader(Config{})
	block, other := []byte{0x88, 0x0f, 0x0d, 1, '5'}, []byte{0x88, 0x0f, 0x0d, 1, '6'}
	decode := func(block []byte) {
		t.Helper()
		if err := r.Decode(block); err != nil {
			t.Fatal(err)
		}
		r.ShareAll()
	}
	want := func(reason string, block []byte, lines string) {
		t.Helper()
		if got := fieldLines(r.ShareRepeated(block)); got != lines {
			t.Errorf("%s: %q, want %q", reason, got, lines)
		}
	}
	want("nothing was decoded", block, "")
	decode(block)
	want("the same block", block, ":status: 200\ncontent-length: 5\n")
	want("another block", other, "")
	want("the same block again", block, ":status: 200\ncontent-length: 5\n")
	decode(other)
	want("the block before the last one", block, "")
	decode([]byte{0x88, byte(incremental), 1, 'k', 1, 'v'})
	want("the table has changed", other, "")
	want("it would change the table", []byte{0x88, byte(incremental), 1, 'k', 1, 'v'}, "")
	decode(other)
	r.TableAcknowledged()
	want("the peer has acknowledged the size of the table", other, "")
}
