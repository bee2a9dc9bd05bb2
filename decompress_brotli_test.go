package hyper

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/andybalholm/brotli"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/syntax"
)

// These tests bound what decoding costs: memory and work follow the bytes that were received,
// whatever sizes these bytes claim.

// A bitWriter writes brotli's bits (RFC 7932 §1.5.1).
type bitWriter struct {
	b    []byte
	bits int
}

func (w *bitWriter) put(value uint64, n int) *bitWriter {
	for range n {
		if w.bits%8 == 0 {
			w.b = append(w.b, 0)
		}
		w.b[w.bits/8] |= byte(value&1) << (w.bits % 8)
		value >>= 1
		w.bits++
	}
	return w
}

// emptyMetablock appends a metablock of metadata without data, and fills up to the next byte
// boundary. It takes one byte if it begins at a boundary.
func (w *bitWriter) emptyMetablock() *bitWriter {
	w.put(0, 1).put(3, 2).put(0, 1).put(0, 2)
	w.bits = len(w.b) * 8
	return w
}

// prefixCode appends a prefix code with a single symbol, which takes no bits in the data.
func (w *bitWriter) prefixCode(symbol uint64, n int) *bitWriter {
	return w.put(1, 2).put(0, 2).put(symbol, n)
}

// max256 appends the number 256.
func (w *bitWriter) max256() *bitWriter { return w.put(1, 1).put(7, 3).put(127, 7) }

// largeTables appends a metablock of one byte with the largest possible number of prefix codes.
func (w *bitWriter) largeTables() *bitWriter {
	w.put(0, 1).put(0, 2).put(0, 16).put(0, 1)      // not the last, one byte, compressed
	w.put(0, 1)                                     // one type of literal blocks
	w.max256().prefixCode(0, 9).prefixCode(0, 5)    // 256 types of insert-and-copy blocks
	w.put(0, 2)                                     // length of the first one
	w.put(0, 1)                                     // one type of distance blocks
	w.put(3, 2).put(15, 4)                          // the largest alphabet of distances
	w.put(0, 2)                                     // context mode
	w.max256().put(0, 1).prefixCode(0, 8).put(0, 1) // 256 codes of literals
	w.max256().put(0, 1).prefixCode(0, 8).put(0, 1) // 256 codes of distances
	for range 256 {
		w.prefixCode(0, 8)
	}
	for range 256 {
		w.prefixCode(8, 10) // insert one byte
	}
	for range 256 {
		w.prefixCode(0, 10)
	}
	return w
}

// claimOfWindow is 16 MiB of zeros in brotli, in one metablock. It asks for a window of the same
// size.
const claimOfWindow = "\xcf\xff\xff\x7f\xf8\x27\x00\xe2\xb1\x40\x20\xf7\xfe\x7f"

// stalled returns a reader that delivers coded and then blocks.
func stalled(coded []byte) io.Reader {
	r, _ := io.Pipe()
	return io.MultiReader(bytes.NewReader(coded), r)
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestMemoryOfABodyFollowsWhatWasReceived(t *testing.T) {
	plain := []byte(claimOfWindow)
	large := new(bitWriter).put(0, 1).largeTables().emptyMetablock().b
	for _, tt := range []struct {
		name    string
		coded   []byte
		codings []string
		most    int64
	}{
		{"gzip", h2test.Gzip([]byte("x")), []string{"gzip"}, 64 << 10},
		{"deflate", h2test.Codings[1].Encode([]byte("x")), []string{"deflate"}, 64 << 10},
		{"br, a window of 16 MiB", plain, []string{"br"}, 384 << 10},
		{"br, all code tables", large, []string{"br"}, 3 << 20},
		{"all codings", h2test.Gzip(h2test.Codings[1].Encode(plain)), []string{"br", "deflate", "gzip"},
			512 << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const bodies = 20
			before := heapInUse()
			held := make([]*decodedBody, bodies)
			for i := range held {
				held[i] = decodeReader(stalled(tt.coded), tt.codings...)
				if _, err := io.ReadFull(held[i], make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
			}
			each := (heapInUse() - before) / bodies
			t.Logf("%d octets received, %d KiB of memory", len(tt.coded), each>>10)
			if each > tt.most {
				t.Errorf("%d octets received, %d KiB of memory, want at most %d", len(tt.coded), each>>10,
					tt.most>>10)
			}
			runtime.KeepAlive(held)
		})
	}
}

func TestCodingTwiceIsRefusedUnread(t *testing.T) {
	for _, list := range []string{"br, br", "br, br, br, br, br", "gzip, x-gzip", "deflate, br, deflate",
		"x, gzip, X"} {
		raw := strings.NewReader("x")
		codings, err := parseCodings(slices.Values([]string{list}))
		wantLimit(t, err, "repeats", 1)
		_, err = decodeReader(raw, codings...).Read(make([]byte, 1))
		wantLimit(t, err, "repeats", 1)
		if raw.Len() != 1 {
			t.Errorf("%s: the raw body was read", list)
		}
	}
}

// Elements of all fields are counted, including empty ones. Nothing after the bound is examined.
func TestElementsOfContentEncodingAreCounted(t *testing.T) {
	for _, tt := range []struct {
		values []string
		many   bool
	}{
		{[]string{strings.Repeat(",", syntax.MaxListElements-1)}, false},
		{[]string{strings.Repeat(",", syntax.MaxListElements)}, true},
		{slices.Repeat([]string{""}, syntax.MaxListElements), false},
		{slices.Repeat([]string{""}, syntax.MaxListElements+1), true},
		{slices.Repeat([]string{"identity"}, syntax.MaxListElements+1), true},
		{[]string{strings.Repeat("i", syntax.MaxListSize+1)}, true},
		{[]string{strings.Repeat(" ", syntax.MaxListSize), " "}, true},
	} {
		codings, err := parseCodings(slices.Values(tt.values))
		if tt.many {
			wantLimit(t, err, "elements", syntax.MaxListElements)
		} else if err != nil || codings != nil {
			t.Errorf("%q: %q, %v", tt.values, codings, err)
		}
	}
	looked := 0
	parseCodings(func(yield func(string) bool) {
		for looked = 1; yield(",,,,,,,,,,,,,,,"); looked++ {
		}
	})
	if looked != 3 {
		t.Errorf("%d fields were looked at, want 3 of 16 elements each", looked)
	}
}

// A tap counts the bytes and reads that pass from one coding to the next.
type tap struct {
	r             io.Reader
	octets, reads int64
}

func (p *tap) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.octets += int64(n)
	p.reads++
	return n, err
}

// decoder is a Decoder that inserts the tap as a content coding.
func (p *tap) decoder(r io.Reader) (io.Reader, error) {
	p.r = r
	return p, nil
}

// emptyBlocks returns deflate data of n empty blocks: stored ('s'), fixed ('f'), or both in turn.
func emptyBlocks(n int, kinds ...byte) []byte {
	var w bitWriter
	for i := range n {
		switch kinds[i%len(kinds)] {
		case 's':
			w.put(0, 3)
			w.bits = len(w.b) * 8
			w.put(0xffff0000, 32)
		case 'f':
			w.put(0, 1).put(1, 2).put(0, 7)
		}
	}
	w.put(1, 1).put(1, 2).put(0, 7) // the last block
	return w.b
}

// If data decodes to nothing, the work is in proportion to the bytes that were received. This also
// holds below another coding.
func TestWorkWithoutOutputIsBounded(t *testing.T) {
	const n = 200_000
	empty := new(bitWriter).put(0, 1)
	for range n {
		empty.emptyMetablock()
	}
	for _, tt := range []struct {
		name   string
		coding string
		silent []byte
	}{
		{"gzip members", "gzip", bytes.Repeat(h2test.Gzip(nil), n/20)},
		{"stored blocks", "deflate", emptyBlocks(n/5, 's')},
		{"fixed blocks", "deflate", emptyBlocks(n, 'f')},
		{"both", "deflate", emptyBlocks(n, 'f', 's')},
		{"br metablocks", "br", append(empty.b, 3)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := decodeBytes(tt.silent, tt.coding); err != nil || len(got) > 0 {
				t.Fatalf("alone: %d octets, %v", len(got), err)
			}
			for _, outer := range h2test.Codings {
				if outer.Coding == tt.coding {
					continue
				}
				coded := outer.Encode(tt.silent)
				raw, between := &tap{r: bytes.NewReader(coded)}, new(tap)
				extra := map[string]Decoder{"tap": between.decoder}
				d := newDecodedBody(raw, []string{tt.coding, "tap", outer.Coding}, extra,
					decodeLimits{ratio: 1000})
				got, err := io.ReadAll(d)
				wantLimit(t, err, "ratio", innerRatio)
				t.Logf("%s: %d octets received of %d in %d reads, %d octets between in %d reads", outer.Name,
					raw.octets, len(coded), raw.reads, between.octets, between.reads)
				if bound := max(innerGrace, innerRatio*raw.octets); len(got) > 0 || between.octets > bound {
					t.Errorf("%s: %d octets passed on of %d, want at most %d", outer.Name, between.octets,
						len(tt.silent), bound)
				}
				if between.reads > between.octets+1 {
					t.Errorf("%s: %d reads of %d octets", outer.Name, between.reads, between.octets)
				}
			}
		})
	}
}

// Each empty metablock makes brotli.Reader clear its code tables, which are 2.7 MiB here.
func TestEmptyMetablocksBehindLargeTablesAreBounded(t *testing.T) {
	for _, alternate := range []bool{false, true} {
		w := new(bitWriter).put(0, 1).largeTables()
		for i := range 100_000 {
			w.emptyMetablock()
			if alternate && i%12 == 11 { // a byte that is not compressed keeps the tables
				w.put(0, 1).put(0, 2).put(0, 16).put(1, 1)
				w.bits = len(w.b) * 8
				w.put('x', 8)
			}
		}
		w.put(3, 8)
		d := decodeReader(bytes.NewReader(w.b), "br")
		var feed *brotliFeed
		_, err := d.Read(make([]byte, 1))
		feed = &d.layers[0].codec.resetter.(*brotliReader).feed
		for err == nil {
			_, err = d.Read(make([]byte, 100))
		}
		wantLimit(t, err, "work", clearsPerOctet)
		if bound := clearsGrace + clearsPerOctet*feed.received + 3<<20; feed.cleared > bound ||
			feed.received > 10_000 {
			t.Errorf("%d octets cleared for %d received, want at most %d", feed.cleared, feed.received, bound)
		}
	}
}

// Even the densest brotli that an encoder makes of a large text is decoded. Its code tables are
// counted, too.
func TestDenseBrotliIsNotTakenForEmpty(t *testing.T) {
	var plain []byte
	for i := range 12 {
		block := h2test.Prose(8_000)
		if i%2 == 1 {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for j := range block {
				block[j] = byte(i*5 + r.IntN(10+i))
			}
		}
		plain = append(plain, block...)
	}
	var b bytes.Buffer
	w := brotli.NewWriterOptions(&b, brotli.WriterOptions{Quality: 11, LGWin: 24})
	w.Write(plain)
	w.Close()
	d := decodeReader(bytes.NewReader(b.Bytes()), "br")
	tables, got := 0, []byte(nil)
	for {
		p := make([]byte, 3000)
		n, err := d.Read(p)
		if got = append(got, p[:n]...); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		tables = max(tables, d.layers[0].codec.resetter.(*brotliReader).state.tables())
	}
	if !bytes.Equal(got, plain) {
		t.Error("not what was encoded")
	}
	if t.Logf("%d octets to %d, tables of %d", b.Len(), len(plain), tables); tables <= smallTables {
		t.Errorf("tables of %d octets: this shows nothing", tables)
	}
}

// The decoder begins with a small window. If a body is longer, it is decoded again from its
// beginning with a larger window. The test uses sizes around each window, references as far back as
// possible, and references to the static dictionary.
func TestBrotliWindowGrowsUnseen(t *testing.T) {
	random := make([]byte, 1<<18-1000)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	words := []byte(strings.Repeat("the time of the United States government information ", 30))
	plain := slices.Concat(words, random, words, random[:5000], h2test.Prose(50_000), random, words,
		make([]byte, 400_000), random[:5000], words)
	encode := func(plain []byte, window int) []byte {
		var b bytes.Buffer
		w := brotli.NewWriterOptions(&b, brotli.WriterOptions{Quality: 5, LGWin: window})
		w.Write(plain)
		w.Close()
		return b.Bytes()
	}
	for _, window := range []int{18, 20, 24} {
		coded := encode(plain, window)
		wantDecoded(t, decodeReader(bytes.NewReader(coded), "br"), plain)
	}
	for _, size := range []int{1<<18 - 17, 1<<18 - 16, 1<<18 - 15, 1 << 18} {
		coded := encode(plain[:size], 24)
		wantDecoded(t, decodeReader(iotest.HalfReader(bytes.NewReader(coded)), "br"), plain[:size])
		_, err := decodeBytes(coded[:len(coded)-1], "br")
		wantDecodeError(t, err, "br", io.ErrUnexpectedEOF)
		_, err = decodeBytes(append(coded, 0), "br")
		wantDecodeError(t, err, "br", errTrailing)
	}
	// Few bytes are received, but the window grows with what is read.
	wantDecoded(t, decodeReader(strings.NewReader(claimOfWindow), "br"), make([]byte, 16<<20))
	_, err := decodeBytes([]byte("\x11"+strings.Repeat("\x00", 20)), "br") // RFC 9841
	wantDecodeError(t, err, "br", nil)
}

// If a version of brotli has a Reader with other fields, bodies are decoded without the counting
// that this file tests. This test fails then.
func TestStateOfBrotliIsKnown(t *testing.T) {
	if !newBrotliReader().state.known {
		t.Fatal("brotli.Reader has not the fields that brotliState looks for")
	}
	if s := (&brotliState{}); s.tables() != 0 || s.left() != 0 || !s.beyond(1) || s.memory() <= maxPooled {
		t.Error("a state that is not known is taken for one")
	}
}

func TestPooledDecodersHoldLittle(t *testing.T) {
	for name, coded := range map[string][]byte{
		"tables": new(bitWriter).put(0, 1).largeTables().emptyMetablock().put(3, 8).b,
		"window": []byte(claimOfWindow),
	} {
		d := decodeReader(bytes.NewReader(coded), "br")
		d.Read(make([]byte, 1))
		z := d.layers[0].codec.resetter.(*brotliReader)
		if _, err := io.Copy(io.Discard, d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if z.reusable(true) {
			t.Errorf("%s: %d octets stay in the pool", name, z.state.memory())
		}
	}
	z := newBrotliReader()
	if !z.reusable(true) || z.reusable(false) {
		t.Error("a small decoder is for another body if it came to its end")
	}
}

// FuzzWork checks what decoding costs: the bytes that pass between codings, the number of reads,
// and how often code tables are cleared.
func FuzzWork(f *testing.F) {
	stacks := [][]string{
		{"gzip"}, {"deflate"}, {"br"}, {"gzip", "tap", "br"}, {"deflate", "tap", "br"}, {"br", "tap", "gzip"},
		{"deflate", "tap", "gzip"}, {"gzip", "tap", "deflate"}, {"br", "tap", "deflate"},
		{"deflate", "br", "tap", "gzip"},
	}
	silent := [][]byte{
		bytes.Repeat(h2test.Gzip(nil), 2000), emptyBlocks(5000, 's'), emptyBlocks(5000, 'f', 's'),
		[]byte(claimOfWindow),
		new(bitWriter).put(0, 1).largeTables().emptyMetablock().emptyMetablock().put(3, 8).b,
	}
	for i := range stacks {
		for _, body := range silent {
			f.Add(byte(i), body)
			for _, c := range h2test.Codings {
				f.Add(byte(i), c.Encode(body))
			}
		}
	}
	f.Fuzz(func(t *testing.T, stack byte, in []byte) {
		raw, between := &tap{r: bytes.NewReader(in)}, new(tap)
		extra := map[string]Decoder{"tap": between.decoder}
		codings := stacks[int(stack)%len(stacks)]
		d := newDecodedBody(raw, codings, extra, decodeLimits{size: 1 << 20, ratio: 1000})
		defer d.Close()
		p, reads, decoded := make([]byte, 4096), int64(0), int64(0)
		var feeds []*brotliFeed
		var err error
		for ; err == nil; reads++ {
			var n int
			n, err = d.Read(p)
			decoded += int64(n)
			for i := range d.layers {
				if c := d.layers[i].codec; c != nil && len(feeds) == 0 && d.layers[i].coding == "br" {
					feeds = append(feeds, &c.resetter.(*brotliReader).feed)
				}
			}
		}
		if reads > decoded+1 {
			t.Errorf("%d reads for %d octets", reads, decoded)
		}
		if raw.reads > raw.octets+1 || between.reads > between.octets+1 {
			t.Errorf("%d reads of %d octets received, %d of %d octets between", raw.reads, raw.octets,
				between.reads, between.octets)
		}
		if bound := max(innerGrace, innerRatio*raw.octets); between.octets > bound {
			t.Errorf("%d octets between for %d received, want at most %d", between.octets, raw.octets, bound)
		}
		for _, feed := range feeds {
			if bound := clearsGrace + clearsPerOctet*feed.received + 128*3<<20; feed.cleared > bound {
				t.Errorf("%d octets cleared for %d received, want at most %d", feed.cleared, feed.received,
					bound)
			}
		}
	})
}

func BenchmarkDecodeBrotli(b *testing.B) {
	for _, quality := range []int{5, 11} {
		var coded bytes.Buffer
		plain := h2test.Prose(1 << 20)
		w := brotli.NewWriterOptions(&coded, brotli.WriterOptions{Quality: quality, LGWin: 22})
		w.Write(plain)
		w.Close()
		b.Run(fmt.Sprint(quality), func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				d := decodeReader(bytes.NewReader(coded.Bytes()), "br")
				io.Copy(io.Discard, d)
				d.Close()
			}
		})
	}
}
