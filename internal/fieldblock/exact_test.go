package fieldblock

import (
	"encoding/hex"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/wire"
)

// exactBlock writes a section with one encoding for all fields and returns its block.
func exactBlock(w *Writer, how Encoding, fields ...hpack.HeaderField) []byte {
	w.Begin(nil, 1, 0)
	for _, f := range fields {
		w.Field(f.Name, f.Value, f.Sensitive)
	}
	return w.EndAs(&Layout{Encodings: slices.Repeat([]Encoding{how}, len(fields))}, 1<<20)[wire.HeaderLen:]
}

// request returns the fields of the requests in RFC 7541, appendix C.3.
func request(scheme, path string, more ...hpack.HeaderField) []hpack.HeaderField {
	return append([]hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: scheme},
		{Name: ":path", Value: path}, {Name: ":authority", Value: "www.example.com"}}, more...)
}

// RFC 7541, appendices C.3 and C.4: three requests on one connection, without and with Huffman
// coding.
func TestExactBlocksAreThoseOfTheRFC(t *testing.T) {
	requests := [][]hpack.HeaderField{
		request("http", "/"),
		request("http", "/", hpack.HeaderField{Name: "cache-control", Value: "no-cache"}),
		request("https", "/index.html", hpack.HeaderField{Name: "custom-key", Value: "custom-value"}),
	}
	for _, c := range []struct {
		huffman Huffman
		want    []string
	}{
		{HuffmanNever, []string{
			"828684410f7777772e6578616d706c652e636f6d",
			"828684be58086e6f2d6361636865",
			"828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
		}},
		{HuffmanAuto, []string{
			"828684418cf1e3c2e5f23a6ba0ab90f4ff",
			"828684be5886a8eb10649cbf",
			"828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
		}},
	} {
		w := NewWriter()
		for i, want := range c.want {
			got := exactBlock(w, Encoding{Form: FormIndexed, Huffman: c.huffman}, requests[i]...)
			if hex.EncodeToString(got) != want {
				t.Errorf("request %d: %x, want %s", i, got, want)
			}
		}
	}
}

func TestFormsOfFields(t *testing.T) {
	long := strings.Repeat("x", 20)
	for _, c := range []struct {
		name  string
		how   Encoding
		field hpack.HeaderField
		want  string
	}{
		{"auto uses the tables", Encoding{}, hpack.HeaderField{Name: ":method", Value: "GET"}, "82"},
		{"auto keeps :path out", Encoding{Huffman: HuffmanNever},
			hpack.HeaderField{Name: ":path", Value: "/a"}, "04022f61"},
		{"auto uses a known :path", Encoding{}, hpack.HeaderField{Name: ":path", Value: "/"}, "84"},
		{"auto protects credentials", Encoding{Huffman: HuffmanNever},
			hpack.HeaderField{Name: "authorization", Value: "a"}, "1f080161"},
		{"incremental although a table has it", Encoding{Form: FormIncremental, Huffman: HuffmanNever},
			hpack.HeaderField{Name: ":method", Value: "GET"}, "4203474554"},
		{"a new name", Encoding{Form: FormIndexed, Huffman: HuffmanNever, NewName: true},
			hpack.HeaderField{Name: ":method", Value: "GET"}, "40073a6d6574686f6403474554"},
		{"a literal", Encoding{Form: FormLiteral, Huffman: HuffmanNever},
			hpack.HeaderField{Name: ":method", Value: "GET"}, "0203474554"},
		{"never indexed", Encoding{Form: FormNever, Huffman: HuffmanNever},
			hpack.HeaderField{Name: "x", Value: "y"}, "1001780179"},
		{"Huffman although it is longer", Encoding{Form: FormLiteral, Huffman: HuffmanAlways},
			hpack.HeaderField{Name: ":method", Value: "|"}, "0282ff9f"},
		{"a value of CR LF", Encoding{Form: FormLiteral, Huffman: HuffmanNever},
			hpack.HeaderField{Name: "X", Value: "a\r\nb: c"}, "00015807610d0a623a2063"},
		{"a long value", Encoding{Form: FormLiteral, Huffman: HuffmanNever},
			hpack.HeaderField{Name: "x", Value: strings.Repeat(long, 7)},
			"0001787f0d" + strings.Repeat("78", 140)},
	} {
		if got := hex.EncodeToString(exactBlock(NewWriter(), c.how, c.field)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// The peer's limit of the table is announced in the next block, with the smallest value in between
// (RFC 7541 §4.2).
func TestExactBlocksAnnounceTheTableSize(t *testing.T) {
	w := NewWriter()
	w.LimitTable(8192)
	block := func() string {
		return hex.EncodeToString(exactBlock(w, Encoding{}, hpack.HeaderField{Name: ":method", Value: "GET"}))
	}
	for _, c := range []struct {
		sizes []uint32
		want  string
	}{
		{nil, "82"}, {[]uint32{8192}, "3fe13f82"}, {[]uint32{100, 4096}, "3f453fe11f82"}, {nil, "82"},
		{[]uint32{0}, "2082"}, {[]uint32{30}, "3e82"},
	} {
		for _, size := range c.sizes {
			w.SetTableSize(size)
		}
		if got := block(); got != c.want {
			t.Errorf("after %v: %s, want %s", c.sizes, got, c.want)
		}
	}
}

// A decoder of one connection understands blocks of both kinds in any order, after foreign blocks
// and after changes of the table's size.
func TestExactAndOtherBlocksShareAConnection(t *testing.T) {
	for seed := range uint64(200) {
		testMixedBlocks(t, seed)
	}
}

// testMixedBlocks decodes random blocks of one connection.
func testMixedBlocks(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	w := NewWriter()
	if seed%3 > 0 {
		w.LimitTable(uint32(seed) * 100)
	}
	var got []hpack.HeaderField
	dec := hpack.NewDecoder(4096, func(f hpack.HeaderField) { got = append(got, f) })
	dec.SetAllowedMaxDynamicTableSize(1 << 20)
	for range 60 {
		var fields []hpack.HeaderField
		for range r.IntN(6) + 1 {
			fields = append(fields, hpack.HeaderField{
				Name:  []string{":path", "accept", "x-a", "X-B", "authorization"}[r.IntN(5)],
				Value: strings.Repeat("v", 1<<r.IntN(12)) + string(rune('a'+r.IntN(3)))})
		}
		w.Begin(nil, 1, 0)
		for _, f := range fields {
			w.Field(f.Name, f.Value, f.Sensitive)
		}
		var block []byte
		switch r.IntN(5) {
		case 0, 1:
			block = w.End(1 << 20)[wire.HeaderLen:]
		case 2, 3:
			l := &Layout{Encodings: make([]Encoding, len(fields))}
			for i := range l.Encodings {
				l.Encodings[i] = Encoding{Form: Form(r.IntN(5)), Huffman: Huffman(r.IntN(3)),
					NewName: r.IntN(2) == 0}
			}
			block = w.EndAs(l, 1<<20)[wire.HeaderLen:]
		case 4:
			w.End(1 << 20) // not sent, as nothing changed for the peer
			block = []byte{0x40, 1, 'f', 1, byte(r.IntN(256))}
			fields = []hpack.HeaderField{{Name: "f", Value: string(block[4:])}}
			w.Foreign()
		}
		if r.IntN(8) == 0 {
			w.SetTableSize(uint32(r.IntN(10000)))
		}
		got = got[:0]
		if _, err := dec.Write(block); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := dec.Close(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for i := range got {
			got[i].Sensitive = false
		}
		if !reflect.DeepEqual(got, fields) {
			t.Fatalf("seed %d: %q was read as %q", seed, fields, got)
		}
	}
}

func TestLayoutsOfSections(t *testing.T) {
	for _, c := range []struct {
		name   string
		layout Layout
		want   string
	}{
		{"as usual", Layout{}, "000005" + "0105" + "00000001" + "1001780179"},
		{"padding", Layout{Padding: 3}, "000008" + "010d" + "00000001" + "02" + "1001780179" + "0000"},
		{"a padding of 0", Layout{Padding: 1}, "000006" + "010d" + "00000001" + "00" + "1001780179"},
		{"priority", Layout{Priority: &[5]byte{0x80, 0, 0, 3, 15}},
			"00000a" + "0125" + "00000001" + "800000030f" + "1001780179"},
		{"padding and priority", Layout{Padding: 2, Priority: &[5]byte{0, 0, 0, 3, 15}},
			"00000c" + "012d" + "00000001" + "01" + "000000030f" + "1001780179" + "00"},
		{"fragments", Layout{Fragments: []int{0, 2}},
			"000000" + "0101" + "00000001" + "000002" + "0900" + "00000001" + "1001" +
				"000003" + "0904" + "00000001" + "780179"},
		{"more fragments than bytes", Layout{Fragments: []int{9, 0}},
			"000005" + "0101" + "00000001" + "1001780179" + "000000" + "0904" + "00000001"},
	} {
		w := NewWriter()
		w.Begin(nil, 1, wire.EndStream)
		w.Field("x", "y", true)
		if got := hex.EncodeToString(w.EndAs(&c.layout, 1<<14)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	w := NewWriter()
	w.Begin([]byte("before"), 1, 0)
	w.Field("x", strings.Repeat("|", 1<<14), true)
	out := w.EndAs(&Layout{Padding: 256}, 1<<14)
	if h := wire.ParseFrameHeader(out[len("before"):]); h.Length != 1<<14 || h.Flags.Has(wire.EndHeaders) {
		t.Errorf("a section that needs two frames begins with %v", h)
	}
}

func TestLiteralsNeedNoTable(t *testing.T) {
	type field struct {
		Name, Value string
		Sensitive   bool
	}
	got := AppendLiterals([]byte("x"), []field{{":method", "GET", false}, {"a", "b", true}})
	fields, err := hpack.NewDecoder(0, nil).DecodeFull(got[1:])
	if err != nil || len(fields) != 2 || fields[0].Value != "GET" || !fields[1].Sensitive {
		t.Errorf("%v, %v", fields, err)
	}
}
