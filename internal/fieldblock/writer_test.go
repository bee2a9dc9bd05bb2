package fieldblock

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gohyper.dev/hyper/internal/wire"
	"golang.org/x/net/http2/hpack"
)

func TestWriterSplitsAtThePeersFrameSize(t *testing.T) {
	const maxSize = wire.MinMaxFrameSize
	for _, size := range []int{0, 1, maxSize - 100, maxSize, 3 * maxSize, 3*maxSize + 1} {
		w := NewWriter()
		before := []byte("already there")
		w.Begin(slices.Clone(before), 5, wire.EndStream)
		value := strings.Repeat("\x01", size) // which Huffman coding does not make shorter
		w.Field("x", value, true)
		out, ok := bytes.CutPrefix(w.End(maxSize), before)
		if !ok {
			t.Fatalf("%d: what was there before has changed", size)
		}
		var block []byte
		for n := 0; len(out) > 0; n++ {
			h := wire.ParseFrameHeader(out)
			p := out[wire.HeaderLen:][:h.Length]
			out = out[wire.HeaderLen+h.Length:]
			want := wire.FrameHeader{Type: wire.Continuation, StreamID: 5,
				Length: min(maxSize, len(p)+len(out))}
			if n == 0 {
				want.Type, want.Flags = wire.Headers, wire.EndStream
			}
			if len(out) == 0 {
				want.Flags |= wire.EndHeaders
			} else {
				want.Length = maxSize
			}
			if h != want {
				t.Errorf("%d: frame %d is %v, want %v", size, n, h, want)
			}
			block = append(block, p...)
		}
		fields, err := hpack.NewDecoder(wire.HeaderTableSize, nil).DecodeFull(block)
		if err != nil || len(fields) != 1 || fields[0].Value != value || !fields[0].Sensitive {
			t.Errorf("%d: decoded %d fields, %v", size, len(fields), err)
		}
	}
}

// RFC 7541 §4.2: if the size changed more than once between two blocks, the smallest of the sizes
// and then the last one are signaled.
func TestWriterSignalsEachTableSize(t *testing.T) {
	for _, c := range []struct {
		name  string
		sizes []uint32
		want  string // how the next block begins, in hex
	}{
		{"no change", nil, "be"},
		{"the same again", []uint32{4096}, "be"},
		{"more than we use", []uint32{1<<32 - 1}, "be"},
		{"none", []uint32{0}, "20"},
		{"smaller", []uint32{100}, "3f45"},
		{"none and back", []uint32{0, 4096}, "203fe11f"},
		{"down, up, half way", []uint32{100, 1 << 20, 1000}, "3f453fc907"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := NewWriter()
			r := newReader(Config{})
			encode := func() []byte {
				w.Begin(nil, 1, 0)
				w.Field("x-a", "b", false)
				return w.End(1 << 20)[wire.HeaderLen:]
			}
			if err := r.Decode(encode()); err != nil {
				t.Fatal(err)
			}
			for _, size := range c.sizes {
				w.SetTableSize(size)
			}
			block := encode()
			if got := fmt.Sprintf("%x", block); !strings.HasPrefix(got, c.want) {
				t.Errorf("%s, want %s first", got, c.want)
			}
			for range 2 { // the second refers to what the first stored
				if err := r.Decode(block); err != nil {
					t.Fatalf("%x: %v", block, err)
				}
				if len(r.fields) != 1 || r.fields[0].Name != "x-a" || r.fields[0].Value != "b" {
					t.Fatalf("%x: %v", block, r.fields)
				}
				block = encode()
			}
		})
	}
}

// newest returns an address that identifies the block that was kept last.
func newest[F Field](k *cache[F]) *byte {
	if n := len(k.blocks); n > 0 {
		return &k.blocks[n-1].octets[0]
	}
	return nil
}

// A writer that remembers earlier blocks produces the same bytes as one that does not, and they
// decode to the same fields. This holds for any repetition, any :path, and any change of the table
// in between.
func TestRepeatedFieldsAreEncodedAsIfTheyWereNot(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 541))
	lists := make([][]hpack.HeaderField, 24)
	for i := range lists {
		for range 1 + random.IntN(6) {
			lists[i] = append(lists[i], hpack.HeaderField{
				Name:      fmt.Sprintf("x-%d", random.IntN(4)),
				Value:     strings.Repeat("v", random.IntN(40)),
				Sensitive: random.IntN(8) == 0,
			})
		}
		if i%2 == 0 {
			lists[i][random.IntN(len(lists[i]))] = hpack.HeaderField{Name: ":path", Sensitive: i%12 == 0}
		}
	}
	paths := []string{"/", "/index.html", "/a", "/%00", "/" + strings.Repeat("long/", 100)}
	w, forgetful := NewWriter(), NewWriter()
	var decoded []hpack.HeaderField
	dec := hpack.NewDecoder(wire.HeaderTableSize, func(f hpack.HeaderField) { decoded = append(decoded, f) })
	repeated := 0
	for step := range 20_000 {
		if random.IntN(50) == 0 {
			size := []uint32{0, 60, 300, 4096}[random.IntN(4)]
			w.SetTableSize(size)
			forgetful.SetTableSize(size)
		}
		// The same few lists are used for a while, then others. Some are known, some were known
		// before, and some evict others from the table.
		list := slices.Clone(lists[(step/500+random.IntN(3))%len(lists)])
		forgetful.known = cache[hpack.HeaderField]{}
		w.Begin(nil, 1, 0)
		forgetful.Begin(nil, 1, 0)
		for i := range list {
			f := &list[i]
			if f.Name == ":path" {
				f.Value = paths[random.IntN(len(paths))]
			}
			w.Field(f.Name, f.Value, f.Sensitive)
			forgetful.Field(f.Name, f.Value, f.Sensitive)
		}
		last, table := newest(&w.known), w.generation
		got, want := w.End(1 << 20)[wire.HeaderLen:], forgetful.End(1 << 20)[wire.HeaderLen:]
		if !bytes.Equal(got, want) {
			t.Fatalf("step %d, %v: %x, want %x", step, list, got, want)
		}
		decoded = decoded[:0]
		if _, err := dec.Write(got); err != nil || dec.Close() != nil || !slices.Equal(decoded, list) {
			t.Fatalf("step %d, %v: %x means %v, %v", step, list, got, decoded, err)
		}
		if newest(&w.known) == last && w.generation == table {
			repeated++
		}
	}
	if repeated < 10_000 {
		t.Errorf("only %d of the blocks were known", repeated)
	}
}

// Requests that differ only in their paths share one known block, and do not change the table.
func TestPathsStayOutOfTheTable(t *testing.T) {
	w := NewWriter()
	write := func(path, agent string) []byte {
		w.Begin(nil, 1, 0)
		for _, f := range []field{{Name: ":method", Value: "GET"}, {Name: ":authority", Value: "example.com"},
			{Name: ":path", Value: path}, {Name: "user-agent", Value: agent}} {
			w.Field(f.Name, f.Value, false)
		}
		return w.End(1 << 20)[wire.HeaderLen:]
	}
	for _, agent := range []string{"a", "b", "a", "b"} { // alternating
		write("/warm", agent)
	}
	last, table := newest(&w.known), w.generation
	for i := range 100 {
		block := write(fmt.Sprint("/", i), []string{"a", "b"}[i%2])
		if block[2] != 4 { // a literal without indexing, whose name is entry 4
			t.Fatalf("%x", block)
		}
	}
	if newest(&w.known) != last || w.generation != table {
		t.Error("a path was new")
	}
}

// A section that is larger than the table fills it once. Later sections with the same fields are
// known.
func TestLargeSectionsDoNotChurnTheTable(t *testing.T) {
	w := NewWriter()
	var first []byte
	for i := range 5 {
		table := w.generation
		w.Begin(nil, 1, 0)
		w.Field(":method", "GET", false)
		for n := range 200 {
			w.Field(fmt.Sprint("x-", n), "a value of some length", false)
		}
		block := w.End(1 << 20)[wire.HeaderLen:]
		switch {
		case i == 0 && w.generation == 0:
			t.Error("nothing went into the table")
		case i == 1:
			first = bytes.Clone(block)
		}
		if i > 0 && (w.generation != table || !bytes.Equal(block, first)) {
			t.Errorf("section %d changed the table, or has other bytes", i)
		}
	}
}

// What a connection remembers of earlier messages is bounded in the number of blocks and in their
// bytes, in both directions.
func TestLargeSectionsAreNotKept(t *testing.T) {
	w, r := NewWriter(), newReader(Config{})
	for i := range 100 {
		for range 2 {
			w.Begin(nil, 1, 0)
			w.Field("x", fmt.Sprint(i)+strings.Repeat("x", maxKnownSize), false)
			long := w.End(1 << 20)[wire.HeaderLen:]
			w.Begin(nil, 1, 0)
			for range maxKnownSize/(len("z")+32) + 1 {
				w.Field("z", "", false)
			}
			many := w.End(1 << 20)[wire.HeaderLen:]
			for _, block := range [][]byte{long, many} {
				if err := r.Decode(block); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if n, m := len(w.known.blocks), len(r.known.blocks); n+m > 0 {
		t.Errorf("%d and %d sections were kept", n, m)
	}
	for i := range 30 {
		w.Begin(nil, 1, 0)
		w.Field("x", fmt.Sprint(i)+strings.Repeat("x", i%3*maxKnownTotal/7), true)
		if err := r.Decode(w.End(1 << 20)[wire.HeaderLen:]); err != nil {
			t.Fatal(err)
		}
		kept := 0
		for _, k := range w.known.blocks {
			kept += len(k.octets) + len(k.fields[0].Value)
		}
		if n, m := len(w.known.blocks), len(r.known.blocks); n > maxKnown || m != n || n < min(2, i) ||
			w.known.size > maxKnownTotal || kept > 2*maxKnownTotal {
			t.Fatalf("%d and %d sections, %d bytes by their lists, %d as they lie in memory", n, m,
				w.known.size, kept)
		}
	}
}

func TestWrittenFieldsAreWhatADecoderReads(t *testing.T) {
	w, dec := NewWriter(), hpack.NewDecoder(wire.HeaderTableSize, nil)
	sizes := []int{}
	for _, table := range []uint32{4096, 4096, 256, 4096, 0, 0, 100, 4096} {
		w.SetTableSize(table)
		for i, want := range slices.Concat(appendixCRequests, appendixCResponses) {
			w.Begin(nil, 1, 0)
			for line := range strings.Lines(want) {
				name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
				w.Field(name, value, false)
			}
			block := w.End(1 << 20)[wire.HeaderLen:]
			sizes = append(sizes, len(block))
			got, err := dec.DecodeFull(block)
			if err != nil {
				t.Fatalf("table %d, list %d: %v", table, i, err)
			}
			lines := ""
			for _, f := range got {
				lines += f.Name + ": " + f.Value + "\n"
			}
			if lines != want {
				t.Errorf("table %d, list %d:\ngot\n%swant\n%s", table, i, lines, want)
			}
		}
	}
	if sizes[6] >= sizes[0] {
		t.Errorf("a list took %d bytes, and %d when its fields were known", sizes[0], sizes[6])
	}
}

// RFC 7541 §7.1.3: credentials and short cookies are kept out of the tables, here and at
// intermediaries.
func TestSecretsAreNeverIndexed(t *testing.T) {
	for _, c := range []struct {
		name, value string
		sensitive   bool
		want        bool
	}{
		{"authorization", "Bearer x", false, true},
		{"proxy-authorization", "Basic x", false, true},
		{"cookie", "short=1", false, true},
		{"cookie", "long=" + strings.Repeat("x", 20), false, false},
		{"x-token", "x", true, true},
		{"x-token", "x", false, false},
	} {
		w := NewWriter()
		w.Begin(nil, 1, 0)
		w.Field(c.name, c.value, c.sensitive)
		block := w.End(1 << 20)[wire.HeaderLen:]
		if never := block[0]&0xf0 == 0x10; never != c.want {
			t.Errorf("%s: %s begins with %#x", c.name, c.value, block[0])
		}
	}
}

// Our own limit of the table is one for every size that the peer sets later.
func TestLimitOfTheTable(t *testing.T) {
	w := NewWriter()
	w.LimitTable(1000)
	for _, c := range []struct{ peer, want uint32 }{{4096, 1000}, {100, 100}, {1 << 20, 1000}, {0, 0}} {
		w.SetTableSize(c.peer)
		if n := w.enc.most; n != c.want {
			t.Errorf("the peer allows %d: the table may have %d bytes, want %d", c.peer, n, c.want)
		}
	}
}

// A Writer keeps the memory of small sections, for the next ones, until it is told to forget it.
func TestMemoryOfWrittenSectionsIsFreed(t *testing.T) {
	w := NewWriter()
	write := func(n int) (fields, blocks int) {
		w.Begin(nil, 1, 0)
		for range n {
			w.Field("x", "y", true)
		}
		w.End(1 << 20)
		return w.Kept()
	}
	if fields, blocks := write(2); fields == 0 || blocks == 0 {
		t.Errorf("memory for %d fields and %d blocks is kept", fields, blocks)
	}
	if fields, _ := write(2 * manyFields); fields != 0 {
		t.Errorf("memory for %d fields is kept", fields)
	}
	write(2)
	w.Forget()
	if fields, blocks := w.Kept(); fields != 0 || blocks != 0 {
		t.Errorf("memory for %d fields and %d blocks is kept after Forget", fields, blocks)
	}
}

// After Forget, the first section is not kept, because it may be the only one for a while. The
// second one is.
func TestFirstSectionAfterForgetIsNotKept(t *testing.T) {
	w, r := NewWriter(), newReader(Config{})
	one := func() (written, read int) {
		t.Helper()
		w.Begin(nil, 1, 0)
		w.Field(":status", "200", false)
		w.Field("x-a", "b", false)
		if err := r.Decode(w.End(1 << 20)[wire.HeaderLen:]); err != nil {
			t.Fatal(err)
		}
		if len(r.Fields()) != 2 || r.Fields()[1].Value != "b" {
			t.Fatalf("%v", r.Fields())
		}
		_, written = w.Kept()
		_, read = r.Kept()
		return written, read
	}
	one() // it changes the compression table
	for range 2 {
		w.Forget()
		r.Forget()
		if written, read := one(); written != 0 || read != 0 {
			t.Errorf("the first section: %d and %d blocks are kept", written, read)
		}
		for range 2 {
			if written, read := one(); written != 1 || read != 1 {
				t.Errorf("a later section: %d and %d blocks are kept", written, read)
			}
		}
	}
}
