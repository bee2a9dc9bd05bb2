package hyper

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"weak"

	"github.com/andybalholm/brotli"
)

// A testCoding is a way to encode a body; "deflate-raw" is sent as deflate.
type testCoding struct {
	name   string
	coding string
	writer func(w io.Writer) flushWriter
}

type flushWriter interface {
	io.WriteCloser
	Flush() error
}

var testCodings = []testCoding{
	{"gzip", "gzip", func(w io.Writer) flushWriter { return gzip.NewWriter(w) }},
	{"deflate-zlib", "deflate", func(w io.Writer) flushWriter { return zlib.NewWriter(w) }},
	{"deflate-raw", "deflate", func(w io.Writer) flushWriter { z, _ := flate.NewWriter(w, 6); return z }},
	{"br", "br", func(w io.Writer) flushWriter { return brotli.NewWriter(w) }},
}

func (c testCoding) encode(p []byte) []byte {
	var b bytes.Buffer
	w := c.writer(&b)
	w.Write(p)
	w.Close()
	return b.Bytes()
}

// eachStack runs f for each pair of built-in codings, applied in this order.
func eachStack(f func(a, b testCoding)) {
	for _, a := range testCodings {
		for _, b := range testCodings {
			if a.coding != b.coding {
				f(a, b)
			}
		}
	}
}

// above returns another coding, to be applied after c.
func (c testCoding) above() testCoding {
	if c.coding == "gzip" {
		return testCodings[2]
	}
	return testCodings[0]
}

// eachCoding runs f for each built-in coding.
func eachCoding(t *testing.T, f func(t *testing.T, c testCoding)) {
	for _, c := range testCodings {
		t.Run(c.name, func(t *testing.T) { f(t, c) })
	}
}

func encodeGzip(p []byte) []byte { return testCodings[0].encode(p) }

// prose returns n bytes that compress about as well as text.
func prose(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "stream %d: window %d\n", r.IntN(1000), r.Uint32())
	}
	return b.Bytes()[:n]
}

func decodeReader(raw io.Reader, codings ...string) *decodedBody {
	return newDecodedBody(raw, codings, nil, decodeLimits{})
}

func decodeBytes(coded []byte, codings ...string) ([]byte, error) {
	d := decodeReader(bytes.NewReader(coded), codings...)
	defer d.Close()
	return io.ReadAll(d)
}

func wantDecoded(t *testing.T, d io.Reader, want []byte) {
	t.Helper()
	got, err := io.ReadAll(d)
	if err != nil {
		t.Fatalf("after %d of %d octets: %v", len(got), len(want), err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%d octets that differ from the %d encoded", len(got), len(want))
	}
}

func wantDecodeError(t *testing.T, err error, coding string, cause error) {
	t.Helper()
	var e *DecodeError
	if !errors.As(err, &e) || e.Coding != coding || cause != nil && !errors.Is(err, cause) {
		t.Fatalf("error %v, want a DecodeError of %s: %v", err, coding, cause)
	}
}

func TestEveryCodingRoundTrips(t *testing.T) {
	eachCoding(t, func(t *testing.T, c testCoding) {
		for _, n := range []int{0, 1, 1023, 4096, 32768, 65537} {
			random := make([]byte, n)
			for i := range random {
				random[i] = byte(rand.Uint32())
			}
			for _, plain := range [][]byte{prose(n), random, make([]byte, n)} {
				coded := c.encode(plain)
				wantDecoded(t, decodeReader(bytes.NewReader(coded), c.coding), plain)
				wantDecoded(t, iotest.OneByteReader(decodeReader(bytes.NewReader(coded), c.coding)), plain)
				wantDecoded(t, decodeReader(iotest.OneByteReader(bytes.NewReader(coded)), c.coding), plain)
				wantDecoded(t, decodeReader(iotest.DataErrReader(bytes.NewReader(coded)), c.coding), plain)
			}
		}
	})
}

// RFC 9110 §8.4: codings are listed in the order in which they were applied.
func TestStackedCodingsAreUndoneInReverse(t *testing.T) {
	plain := prose(20000)
	eachStack(func(a, b testCoding) {
		coded := b.encode(a.encode(plain))
		wantDecoded(t, decodeReader(bytes.NewReader(coded), a.coding, b.coding), plain)
		wantDecoded(t, decodeReader(iotest.HalfReader(bytes.NewReader(coded)), a.coding, b.coding), plain)
	})
	coded, codings := plain, []string(nil)
	for _, c := range []testCoding{testCodings[0], testCodings[2], testCodings[3]} {
		coded, codings = c.encode(coded), append(codings, c.coding)
	}
	wantDecoded(t, decodeReader(bytes.NewReader(coded), codings...), plain)
}

// RFC 1952 §2.2: a gzip file consists of a series of members.
func TestGzipMembersAreOneBody(t *testing.T) {
	coded := slices.Concat(encodeGzip([]byte("a")), encodeGzip(nil), encodeGzip(prose(5000)), encodeGzip(nil))
	plain := slices.Concat([]byte("a"), prose(5000))
	wantDecoded(t, decodeReader(bytes.NewReader(coded), "gzip"), plain)
	wantDecoded(t, decodeReader(iotest.OneByteReader(bytes.NewReader(coded)), "gzip"), plain)
}

func TestDeflateIsToldFromZlibByItsHeader(t *testing.T) {
	for level := flate.HuffmanOnly; level <= flate.BestCompression; level++ {
		for _, n := range []int{0, 1, 2, 3, 100, 70000} {
			var raw, wrapped bytes.Buffer
			fw, _ := flate.NewWriter(&raw, level)
			fw.Write(prose(n))
			fw.Close()
			zw, _ := zlib.NewWriterLevel(&wrapped, level)
			zw.Write(prose(n))
			zw.Close()
			wantDecoded(t, decodeReader(&raw, "deflate"), prose(n))
			wantDecoded(t, decodeReader(&wrapped, "deflate"), prose(n))
		}
	}
	// These are the shortest bodies of each kind.
	wantDecoded(t, decodeReader(strings.NewReader("\x03\x00"), "deflate"), nil)
	wantDecoded(t, decodeReader(strings.NewReader("\x78\x9c\x03\x00\x00\x00\x00\x01"), "deflate"), nil)

	_, err := decodeBytes([]byte("\x78\xbb\x01\x02\x03\x04\x03\x00\x00\x00\x00\x01"), "deflate")
	wantDecodeError(t, err, "deflate", zlib.ErrDictionary)
}

func TestDeflateOfOneOctetIsCutShort(t *testing.T) {
	for c := range 256 {
		_, err := decodeBytes([]byte{byte(c)}, "deflate")
		wantDecodeError(t, err, "deflate", io.ErrUnexpectedEOF)
	}
}

func TestEmptyBodyIsEmptyInEveryCoding(t *testing.T) {
	eachCoding(t, func(t *testing.T, c testCoding) {
		wantDecoded(t, decodeReader(strings.NewReader(""), c.coding), nil)
		wantDecoded(t, decodeReader(strings.NewReader(""), c.coding, c.above().coding), nil)
	})
	d := newDecodedBody(strings.NewReader(""), []string{"x"}, map[string]Decoder{
		"x": func(io.Reader) (io.Reader, error) { panic("called for an empty body") },
	}, decodeLimits{})
	wantDecoded(t, d, nil)
}

func TestBodyWithoutCodingsIsAsItIs(t *testing.T) {
	wantDecoded(t, newDecodedBody(strings.NewReader("plain"), nil, nil, decodeLimits{size: 1, ratio: 1}),
		[]byte("plain"))
	wantDecoded(t, decodeReader(strings.NewReader("plain")), []byte("plain"))
}

// brotli.Reader v1.2.8 reports bytes after the end for this stream, although there are none.
func TestBrotliStreamMayEndInShortReads(t *testing.T) {
	const coded = "\x1b\x46\x08\x00\x24\x00\xe2\xb1\x40\x00\x00\x00\x00"
	for _, trailing := range []string{"", "\x00", "\x06", "0123456789"} {
		for _, size := range []int{1, 2118, 2119, 2120, 4096} {
			r := bytes.NewBuffer(nil)
			d := decodeReader(iotest.OneByteReader(strings.NewReader(coded+trailing)), "br")
			_, err := io.CopyBuffer(struct{ io.Writer }{r}, struct{ io.Reader }{d}, make([]byte, size))
			if trailing != "" {
				wantDecodeError(t, err, "br", errTrailing)
			} else if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(r.Bytes(), make([]byte, 2119)) {
				t.Fatalf("%d octets, want 2119 of 0", r.Len())
			}
		}
	}
}

func TestBodyCutAtAnyOffsetNeverEndsWell(t *testing.T) {
	plain := prose(800)
	check := func(coded []byte, codings ...string) {
		t.Helper()
		for cut := 1; cut < len(coded); cut++ {
			for _, raw := range []io.Reader{bytes.NewReader(coded[:cut]),
				iotest.OneByteReader(bytes.NewReader(coded[:cut]))} {
				got, err := io.ReadAll(decodeReader(raw, codings...))
				var e *DecodeError
				if !errors.As(err, &e) || e.Err != io.ErrUnexpectedEOF {
					t.Fatalf("%v cut at %d of %d: %v", codings, cut, len(coded), err)
				}
				if !bytes.HasPrefix(plain, got) {
					t.Fatalf("%v cut at %d of %d: octets that were not sent", codings, cut, len(coded))
				}
			}
		}
	}
	for _, a := range testCodings {
		check(a.encode(plain), a.coding)
	}
	eachStack(func(a, b testCoding) { check(b.encode(a.encode(plain)), a.coding, b.coding) })
	_, err := decodeBytes(encodeGzip(plain)[:20], "gzip")
	if want := "hyper: body: gzip: unexpected EOF"; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
}

func TestSecondGzipMemberCutShortIsAnError(t *testing.T) {
	first, second := encodeGzip([]byte("first")), encodeGzip([]byte("second"))
	for cut := 1; cut < len(second); cut++ {
		got, err := decodeBytes(slices.Concat(first, second[:cut]), "gzip")
		wantDecodeError(t, err, "gzip", io.ErrUnexpectedEOF)
		if !bytes.HasPrefix(got, []byte("first")) {
			t.Fatalf("cut at %d of the second member: %q", cut, got)
		}
	}
}

func TestCorruptOctetNeverHangsNorPassesAChecksum(t *testing.T) {
	plain := prose(1500)
	eachCoding(t, func(t *testing.T, c testCoding) {
		coded := c.encode(plain)
		for i := range coded {
			for _, flip := range []byte{0x01, 0x10, 0x80, 0xff} {
				bad := bytes.Clone(coded)
				bad[i] ^= flip
				d := newDecodedBody(bytes.NewReader(bad), []string{c.coding}, nil,
					decodeLimits{size: 1 << 20})
				got, err := io.ReadAll(d)
				// One changed bit can turn a zlib header into the start of raw deflate, which has
				// no checksum.
				checked := c.name == "gzip" || c.name == "deflate-zlib" && i > 1
				if checked && err == nil && !bytes.Equal(got, plain) {
					t.Fatalf("octet %d xor %#x: other octets and no error", i, flip)
				}
				d.Close()
			}
		}
		// The pool's decoder has decoded all of the above.
		wantDecoded(t, decodeReader(bytes.NewReader(coded), c.coding), plain)
	})
}

func TestOctetsAfterTheEndAreAnError(t *testing.T) {
	plain := prose(100)
	eachCoding(t, func(t *testing.T, c testCoding) {
		for _, n := range []int{1, 2, 9, 10, 11, 5000, 70000} {
			coded := append(c.encode(plain), make([]byte, n)...)
			for _, raw := range []io.Reader{bytes.NewReader(coded),
				iotest.OneByteReader(bytes.NewReader(coded))} {
				got, err := io.ReadAll(decodeReader(raw, c.coding))
				wantDecodeError(t, err, c.coding, nil)
				if c.coding != "gzip" {
					wantDecodeError(t, err, c.coding, errTrailing)
				}
				if !bytes.Equal(got, plain) {
					t.Fatalf("%d octets after the end: got %d octets of the body, want all %d", n, len(got),
						len(plain))
				}
			}
			// The same holds below another coding, which has ended.
			above := c.above()
			_, err := decodeBytes(above.encode(coded), c.coding, above.coding)
			var limit *DecodeLimitError // 70,000 zeros exceed the ratio
			if !errors.As(err, &limit) || n < innerGrace {
				wantDecodeError(t, err, c.coding, nil)
			}
			_, err = decodeBytes(append(above.encode(c.encode(plain)), make([]byte, n)...), c.coding,
				above.coding)
			wantDecodeError(t, err, above.coding, nil)
		}
		if c.coding != "gzip" {
			_, err := decodeBytes(append(c.encode(plain), c.encode(plain)...), c.coding)
			wantDecodeError(t, err, c.coding, nil)
		}
	})
}

func TestUnknownCodingLeavesTheRawBodyUnread(t *testing.T) {
	coded := encodeGzip(prose(100))
	for _, codings := range [][]string{{"zstd"}, {"gzip", "zstd"}, {"zstd", "gzip"}} {
		raw := bytes.NewReader(coded)
		d := decodeReader(raw, codings...)
		for range 2 {
			var e *UnsupportedCodingError
			if n, err := d.Read(make([]byte, 10)); n != 0 || !errors.As(err, &e) || e.Coding != "zstd" {
				t.Fatalf("Read = %d, %v", n, err)
			}
		}
		if raw.Len() != len(coded) {
			t.Errorf("%d octets of the raw body were read", len(coded)-raw.Len())
		}
	}
	err := error(&UnsupportedCodingError{Coding: "a\r\n" + strings.Repeat("b", 1000)})
	if s := err.Error(); len(s) > 200 || strings.ContainsAny(s, "\r\n") {
		t.Errorf("the peer's text is in the error as it came: %q", s)
	}
}

func TestParseCodings(t *testing.T) {
	for _, tt := range []struct {
		values []string
		want   []string
	}{
		{nil, nil},
		{[]string{""}, nil},
		{[]string{" , ,\t,"}, nil},
		{[]string{"identity"}, nil},
		{[]string{"gzip"}, []string{"gzip"}},
		{[]string{"\t GZip "}, []string{"gzip"}},
		{[]string{"X-GZIP"}, []string{"gzip"}},
		{[]string{"deflate,gzip"}, []string{"deflate", "gzip"}},
		{[]string{"br , Identity,\tgzip,"}, []string{"br", "gzip"}},
		{[]string{"br", "", "identity", "deflate, gzip"}, []string{"br", "deflate", "gzip"}},
		{[]string{"zstd", "x-deflate"}, []string{"zstd", "x-deflate"}},
		{[]string{"gzip;q=1", "gzip br"}, []string{"gzip;q=1", "gzip br"}},
		{[]string{"a,b", "c,d,e"}, []string{"a", "b", "c", "d", "e"}},
		{[]string{"a,b,c,d,e", "f"}, []string{"a", "b", "c", "d", "e", "f"}},
		{[]string{"a,b,c,d,e", "f,g", "h"}, []string{"a", "b", "c", "d", "e", "f"}},
	} {
		got, err := parseCodings(slices.Values(tt.values))
		if !slices.Equal(got, tt.want) || (err != nil) != (len(got) > maxCodings) {
			t.Errorf("parseCodings(%q) = %q, %v, want %q", tt.values, got, err, tt.want)
		}
	}
}

func TestAcceptEncodingNamesWhatCanBeDecoded(t *testing.T) {
	some := func(r io.Reader) (io.Reader, error) { return r, nil }
	for _, tt := range []struct {
		extra map[string]Decoder
		want  string
	}{
		{nil, "gzip, deflate, br"},
		{map[string]Decoder{"zstd": some, "compress": some, "lz4": some},
			"gzip, deflate, br, compress, lz4, zstd"},
		{map[string]Decoder{"gzip": some, "BR": some, "Zstd": some}, "gzip, deflate, br, zstd"},
		{map[string]Decoder{"Zstd": some, "zstd": some}, "gzip, deflate, br, zstd"},
		{map[string]Decoder{"": some, "a, b": some, "c\r\n": some}, "gzip, deflate, br"},
		{map[string]Decoder{"br": nil, "Deflate": nil, "zstd": nil}, "gzip"},
		{map[string]Decoder{"br": nil, "deflate": nil, "gzip": nil}, "identity"},
	} {
		if got := acceptEncoding(tt.extra); got != tt.want {
			t.Errorf("acceptEncoding(%v) = %q, want %q", tt.extra, got, tt.want)
		}
	}
}

// caesar is a test coding: a byte 0xff, then the bytes with 13 added, then another 0xff.
type caesar struct {
	r      io.Reader
	began  bool
	closes *int
}

func encodeCaesar(p []byte) []byte {
	coded := []byte{0xff}
	for _, c := range p {
		coded = append(coded, c+13)
	}
	return append(coded, 0xff)
}

func (c *caesar) Read(p []byte) (int, error) {
	for i := range p {
		var b [1]byte
		if !c.began {
			if _, err := io.ReadFull(c.r, b[:]); err != nil {
				return i, err
			}
			if c.began = true; b[0] != 0xff {
				return i, errors.New("not Latin")
			}
		}
		if _, err := io.ReadFull(c.r, b[:]); err == io.EOF {
			return i, io.ErrUnexpectedEOF
		} else if err != nil {
			return i, err
		}
		if b[0] == 0xff {
			return i, io.EOF
		}
		p[i] = b[0] - 13
	}
	return len(p), nil
}

func (c *caesar) Close() error { *c.closes++; return nil }

// caesarDecoder returns a Decoder that counts in closes how often its readers were closed.
func caesarDecoder(name string, closes *int) map[string]Decoder {
	return map[string]Decoder{name: func(r io.Reader) (io.Reader,
		error) {
		return &caesar{r: r, closes: closes}, nil
	}}
}

func TestCustomDecoderFollowsTheSameRules(t *testing.T) {
	plain := []byte("veni, vidi, vici")
	coded := encodeCaesar(plain)
	var closes, bodies int
	decode := func(coded []byte, codings ...string) ([]byte, error) {
		bodies++
		d := newDecodedBody(bytes.NewReader(coded), codings, caesarDecoder("Caesar", &closes), decodeLimits{})
		p, err := io.ReadAll(d)
		d.Close()
		d.Close()
		return p, err
	}
	for _, tt := range []struct {
		coded   []byte
		codings []string
	}{
		{coded, []string{"caesar"}},
		{encodeCaesar(encodeGzip(plain)), []string{"gzip", "caesar"}},
		{encodeGzip(coded), []string{"caesar", "gzip"}},
	} {
		if got, err := decode(tt.coded, tt.codings...); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%v: %q, %v", tt.codings, got, err)
		}
	}
	for cut := 1; cut < len(coded); cut++ {
		_, err := decode(coded[:cut], "caesar")
		wantDecodeError(t, err, "caesar", io.ErrUnexpectedEOF)
	}
	_, err := decode(append(coded, 0), "caesar")
	wantDecodeError(t, err, "caesar", errTrailing)
	_, err = decode([]byte("Graece"), "caesar")
	wantDecodeError(t, err, "caesar", nil)
	if want := "hyper: body: caesar: not Latin"; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	if closes != bodies {
		t.Errorf("%d readers were closed %d times, want once each", bodies, closes)
	}
}

func TestCustomDecoderReplacesOrRefusesABuiltInOne(t *testing.T) {
	var closes int
	d := newDecodedBody(bytes.NewReader(encodeCaesar([]byte("x"))), []string{"gzip"},
		caesarDecoder("GZIP", &closes), decodeLimits{})
	wantDecoded(t, d, []byte("x"))

	d = newDecodedBody(bytes.NewReader(encodeGzip(nil)), []string{"gzip"}, map[string]Decoder{"gzip": nil},
		decodeLimits{})
	var e *UnsupportedCodingError
	if _, err := d.Read(make([]byte, 1)); !errors.As(err, &e) {
		t.Errorf("error %v, want an UnsupportedCodingError", err)
	}
}

func TestCustomDecoderThatFailsToBeginIsADecodeError(t *testing.T) {
	reset := &StreamError{StreamID: 1, Code: ErrCodeCancel, FromPeer: true}
	header := map[string]Decoder{"x": func(r io.Reader) (io.Reader, error) {
		_, err := io.ReadFull(r, make([]byte, 4))
		if err != nil {
			return nil, fmt.Errorf("x: %w", err)
		}
		return nil, errors.New("no magic")
	}}
	_, err := newDecodedBody(strings.NewReader("four"), []string{"x"}, header,
		decodeLimits{}).Read(make([]byte, 1))
	wantDecodeError(t, err, "x", nil)
	_, err = newDecodedBody(strings.NewReader("3.."), []string{"x"}, header,
		decodeLimits{}).Read(make([]byte, 1))
	wantDecodeError(t, err, "x", io.ErrUnexpectedEOF)
	raw := io.MultiReader(strings.NewReader("3.."), iotest.ErrReader(reset))
	_, err = newDecodedBody(raw, []string{"x"}, header, decodeLimits{}).Read(make([]byte, 1))
	if err != error(reset) {
		t.Errorf("error %v, want the raw body's as it is", err)
	}
}

func TestEndOfTheBodyInsideADecoderIsCutShort(t *testing.T) {
	end := map[string]Decoder{"x": func(io.Reader) (io.Reader, error) { return nil, io.EOF }}
	_, err := newDecodedBody(strings.NewReader("x"), []string{"x"}, end, decodeLimits{}).Read(make([]byte, 1))
	wantDecodeError(t, err, "x", io.ErrUnexpectedEOF)
}

func TestDecoderThatReturnsNothingForEverIsAnError(t *testing.T) {
	idle := map[string]Decoder{"idle": func(io.Reader) (io.Reader, error) { return idleReader{}, nil }}
	_, err := newDecodedBody(strings.NewReader("x"), []string{"idle"}, idle,
		decodeLimits{}).Read(make([]byte, 1))
	wantDecodeError(t, err, "idle", io.ErrNoProgress)
}

type idleReader struct{}

func (idleReader) Read([]byte) (int, error) { return 0, nil }

func TestErrorOfTheRawBodyPassesThroughAtAnyOffset(t *testing.T) {
	plain := prose(700)
	reset := &StreamError{StreamID: 5, Code: ErrCodeCancel, FromPeer: true}
	for _, fault := range []error{reset, io.ErrUnexpectedEOF} {
		eachStack(func(a, b testCoding) {
			coded := b.encode(a.encode(plain))
			for cut := 0; cut <= len(coded); cut++ {
				raw := io.MultiReader(bytes.NewReader(coded[:cut]), iotest.ErrReader(fault))
				got, err := io.ReadAll(decodeReader(raw, a.coding, b.coding))
				if err != fault {
					t.Fatalf("%s, %s: reset after %d of %d octets: error %v", a.name, b.name, cut, len(coded),
						err)
				}
				if !bytes.HasPrefix(plain, got) || cut == len(coded) && len(got) != len(plain) {
					t.Fatalf("%s, %s: reset after %d of %d octets: got %d octets", a.name, b.name, cut,
						len(coded), len(got))
				}
			}
		})
	}
}

func TestFirstErrorStays(t *testing.T) {
	for _, tt := range []struct {
		why string
		d   *decodedBody
	}{
		{"the end", decodeReader(bytes.NewReader(encodeGzip([]byte("x"))), "gzip")},
		{"cut short", decodeReader(bytes.NewReader(encodeGzip([]byte("x"))[:20]), "gzip")},
		{"trailing octets", decodeReader(bytes.NewReader(append(encodeGzip([]byte("x")),
			"four and twenty"...)), "gzip")},
		{"reset", decodeReader(iotest.ErrReader(ErrCodeRefusedStream), "br")},
		{"unknown coding", decodeReader(strings.NewReader("x"), "zstd")},
		{"codings", decodeReader(strings.NewReader("x"), "a", "b", "c", "d", "e", "f")},
		{"repeats", decodeReader(strings.NewReader("x"), "br", "gzip", "br")},
		{"no codings", decodeReader(strings.NewReader("x"))},
		{"size", newDecodedBody(bytes.NewReader(encodeGzip(prose(100))), []string{"gzip"}, nil,
			decodeLimits{size: 10})},
	} {
		_, first := io.Copy(io.Discard, tt.d)
		if first == nil {
			first = io.EOF
		}
		for range 2 {
			if n, err := tt.d.Read(make([]byte, 10)); n != 0 || err != first {
				t.Errorf("%s: later Read = %d, %v, want %v", tt.why, n, err, first)
			}
			if n, err := tt.d.Read(nil); n != 0 || err != first {
				t.Errorf("%s: later empty Read = %d, %v, want %v", tt.why, n, err, first)
			}
			tt.d.Close()
		}
	}
}

func TestNothingIsReadBeforeTheFirstRead(t *testing.T) {
	untouched := iotest.ErrReader(errors.New("read"))
	d := newDecodedBody(untouched, []string{"gzip", "x"}, map[string]Decoder{
		"x": func(io.Reader) (io.Reader, error) { panic("called") },
	}, decodeLimits{})
	if n, err := d.Read(nil); n != 0 || err != nil {
		t.Errorf("empty Read = %d, %v", n, err)
	}
	d.Close()
}

// chunkReader returns one chunk for each Read. It calls between before each chunk but the first.
type chunkReader struct {
	chunks  [][]byte
	between func()
	i       int
}

func (r *chunkReader) Read(p []byte) (int, error) {
	if r.i++; r.i > 1 {
		r.between()
	}
	if r.i > len(r.chunks) {
		return 0, io.EOF
	}
	return copy(p, r.chunks[r.i-1]), nil
}

func TestFlushedOctetsAreReadBeforeTheRestArrives(t *testing.T) {
	eachCoding(t, func(t *testing.T, c testCoding) {
		var b bytes.Buffer
		w := c.writer(&b)
		io.WriteString(w, "event: 1\n")
		w.Flush()
		first := b.Len()
		io.WriteString(w, "event: 2\n")
		w.Close()
		var got []byte
		d := decodeReader(&chunkReader{
			chunks: [][]byte{b.Bytes()[:first], b.Bytes()[first:]},
			between: func() {
				if !strings.HasPrefix(string(got), "event: 1\n") {
					t.Fatalf("the second chunk is asked for while the first has given only %q", got)
				}
			},
		}, c.coding)
		for {
			p := make([]byte, 100)
			n, err := d.Read(p)
			if got = append(got, p[:n]...); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if string(got) != "event: 1\nevent: 2\n" {
			t.Errorf("got %q", got)
		}
	})
}

func TestReadAfterCloseIsCanceled(t *testing.T) {
	for _, codings := range [][]string{nil, {"gzip"}, {"gzip", "br"}, {"zstd"}} {
		d := decodeReader(strings.NewReader("x"), codings...)
		d.Close()
		d.Close()
		if n, err := d.Read(make([]byte, 1)); n != 0 || err != ErrCanceled {
			t.Errorf("%v: Read after Close = %d, %v", codings, n, err)
		}
	}
	raw := bytes.NewReader(encodeGzip(prose(200_000)))
	d := decodeReader(raw, "gzip")
	io.CopyN(io.Discard, d, 1000)
	d.Close()
	left := raw.Len()
	if n, err := d.Read(make([]byte, 1)); n != 0 || err != ErrCanceled {
		t.Errorf("Read after Close = %d, %v", n, err)
	}
	if raw.Len() != left {
		t.Error("a closed body reads on")
	}
}

func TestCloseDoesNotWaitForABlockedRead(t *testing.T) {
	pr, pw := io.Pipe()
	d := decodeReader(pr, "gzip")
	result := make(chan error)
	go func() {
		_, err := io.ReadAll(d)
		result <- err
	}()
	pw.Write(encodeGzip(prose(100))[:20]) // returns when Read has taken the bytes
	d.Close()
	go pw.Write([]byte("no gzip"))
	if err := <-result; err != ErrCanceled {
		t.Errorf("Read returned %v, want %v", err, ErrCanceled)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.layers != nil {
		t.Error("the Read that Close found busy has not given its decoder back")
	}
	pr.Close()
}

// endless is a coded body that never ends and never decodes to a byte.
type endless struct {
	member []byte
	once   sync.Once
	busy   chan struct{}
}

func (r *endless) Read(p []byte) (int, error) {
	r.once.Do(func() { close(r.busy) })
	n := 0
	for len(p)-n >= len(r.member) {
		n += copy(p[n:], r.member)
	}
	return n, nil
}

func TestCloseEndsAReadThatDecodesNothingForEver(t *testing.T) {
	r := &endless{member: encodeGzip(nil), busy: make(chan struct{})}
	d := decodeReader(r, "gzip")
	result := make(chan error)
	go func() {
		_, err := d.Read(make([]byte, 1))
		result <- err
	}()
	<-r.busy
	d.Close()
	if err := <-result; err != ErrCanceled {
		t.Errorf("Read returned %v, want %v", err, ErrCanceled)
	}
}

func wantLimit(t *testing.T, err error, limit string, bound int64) {
	t.Helper()
	var e *DecodeLimitError
	if !errors.As(err, &e) || e.Limit != limit || e.Max != bound {
		t.Fatalf("error %v, want a DecodeLimitError of %s %d", err, limit, bound)
	}
}

func TestDecodeLimitErrorSaysWhichBound(t *testing.T) {
	for want, e := range map[string]DecodeLimitError{
		"hyper: body: more than 5 content codings": {Limit: "codings", Max: 5},
		"hyper: body: more than 10 bytes decoded": {Limit: "size", Max: 10,
			Coded: 4, Decoded: 11},
		"hyper: body: decoded to more than 9 times its size (100 bytes from 11)": {Limit: "ratio", Max: 9,
			Coded: 11, Decoded: 100},
	} {
		if got := e.Error(); got != want {
			t.Errorf("error %q, want %q", got, want)
		}
	}
}

func TestTooManyCodingsAreRefusedUnread(t *testing.T) {
	thousand := slices.Repeat([]string{"gzip"}, 1000)
	for _, values := range [][]string{
		{strings.Join(thousand[:100], ",")},
		thousand,
		{"zstd, zstd", "zstd", "zstd, identity, zstd", "zstd"},
	} {
		raw := strings.NewReader("x")
		codings, parseErr := parseCodings(slices.Values(values))
		wantLimit(t, parseErr, "codings", maxCodings)
		d := decodeReader(raw, codings...)
		_, err := d.Read(make([]byte, 1))
		wantLimit(t, err, "codings", maxCodings)
		if raw.Len() != 1 {
			t.Error("the raw body was read")
		}
	}
}

func TestSizeLimitGivesAllOctetsBelowIt(t *testing.T) {
	plain := prose(5000)
	eachCoding(t, func(t *testing.T, c testCoding) {
		coded := c.encode(plain)
		for _, size := range []int64{1, 2, 100, 4096, 4999} {
			for _, one := range []bool{false, true} {
				d := newDecodedBody(bytes.NewReader(coded), []string{c.coding}, nil, decodeLimits{size: size})
				r := io.Reader(d)
				if one {
					r = iotest.OneByteReader(r)
				}
				got, err := io.ReadAll(r)
				wantLimit(t, err, "size", size)
				if !bytes.Equal(got, plain[:size]) {
					t.Errorf("limit %d: got %d octets", size, len(got))
				}
			}
		}
		for _, size := range []int64{5000, 5001, math.MaxInt64, 0, -1} {
			wantDecoded(t, newDecodedBody(bytes.NewReader(coded), []string{c.coding}, nil,
				decodeLimits{size: size}), plain)
		}
		// The data between two codings may be larger than the body.
		random := make([]byte, 1000)
		for i := range random {
			random[i] = byte(rand.Uint32())
		}
		above := c.above()
		coded = above.encode(c.encode(random))
		codings := []string{c.coding, above.coding}
		wantDecoded(t, newDecodedBody(bytes.NewReader(coded), codings, nil, decodeLimits{size: 1000}), random)
	})
}

// gzipOf returns p repeated n times in gzip, with one member for each p.
func gzipOf(p []byte, n int) []byte { return bytes.Repeat(encodeGzip(p), n) }

func TestRatioLimitStopsABombAndNoDenseBody(t *testing.T) {
	const mebi = 1 << 20
	bomb := gzipOf(make([]byte, mebi), 40)
	read := func(ratio int64) (int64, error) {
		d := newDecodedBody(bytes.NewReader(bomb), []string{"gzip"}, nil, decodeLimits{ratio: ratio})
		return io.Copy(io.Discard, d)
	}
	n, err := read(100)
	wantLimit(t, err, "ratio", 100)
	if n != decodeGrace {
		t.Errorf("got %d octets, want the first %d", n, decodeGrace)
	}
	for _, ratio := range []int64{2000, math.MaxInt64, 0, -1} {
		if n, err := read(ratio); n != 40*mebi || err != nil {
			t.Errorf("ratio %d: %d octets, %v", ratio, n, err)
		}
	}
	d := newDecodedBody(bytes.NewReader(bomb[:len(bomb)/40*32]), []string{"gzip"}, nil,
		decodeLimits{ratio: 1})
	if n, err := io.Copy(io.Discard, d); n != decodeGrace || err != nil {
		t.Errorf("a body of just the grace: %d octets, %v", n, err)
	}
}

func TestLimitsHoldBetweenCodings(t *testing.T) {
	// The body is 1 MiB of gzip members that contain nothing but a name.
	var member bytes.Buffer
	w := gzip.NewWriter(&member)
	w.Name = strings.Repeat("n", 480)
	w.Close()
	bomb := testCodings[1].encode(bytes.Repeat(member.Bytes(), 1<<20/member.Len()))
	for _, tt := range []struct {
		limits decodeLimits
		bound  int64
	}{
		{decodeLimits{}, innerRatio},
		{decodeLimits{ratio: -1, size: -1}, innerRatio},
		{decodeLimits{ratio: 1000, size: 1000}, innerRatio},
		{decodeLimits{ratio: 3}, 3},
	} {
		d := newDecodedBody(bytes.NewReader(bomb), []string{"gzip", "deflate"}, nil, tt.limits)
		n, err := io.Copy(io.Discard, d)
		wantLimit(t, err, "ratio", tt.bound)
		if n != 0 {
			t.Errorf("%d octets of a silent bomb", n)
		}
	}
}

func TestBombIsDecodedInFlatMemory(t *testing.T) {
	bomb := gzipOf(make([]byte, 16<<20), 16)
	d := decodeReader(bytes.NewReader(bomb), "gzip")
	buf := make([]byte, 32<<10)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var n int64
	for {
		m, err := d.Read(buf)
		if n += int64(m); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	// TotalAlloc counts all allocations, whether or not they were freed.
	if grown := after.TotalAlloc - before.TotalAlloc; n != 256<<20 || grown > 4<<20 {
		t.Errorf("%d octets decoded with %d allocated, want at most 4 MiB", n, grown)
	}
}

func TestSecondSmallBodyAllocatesLittle(t *testing.T) {
	var p sync.Pool
	for range 100 {
		if p.Put(t); p.Get() == nil {
			t.Skip("sync.Pool drops items: the race detector is on")
		}
	}
	// The allocations are the decodedBody, its layers, and for br those of its Reset.
	max := map[string]float64{"gzip": 2, "deflate-zlib": 2, "deflate-raw": 2, "br": 6}
	eachCoding(t, func(t *testing.T, c testCoding) {
		coded, codings := c.encode(prose(200)), []string{c.coding}
		buf, raw := make([]byte, 512), bytes.NewReader(nil)
		got := testing.AllocsPerRun(100, func() {
			raw.Reset(coded)
			d := decodeReader(raw, codings...)
			if n, err := io.ReadFull(d, buf); n != 200 || err != io.ErrUnexpectedEOF {
				t.Fatal(n, err)
			}
			d.Close()
		})
		t.Logf("%.0f allocations", got)
		if got > max[c.name] {
			t.Errorf("%.0f allocations, want at most %.0f", got, max[c.name])
		}
	})
}

func TestPooledDecoderForgetsItsBody(t *testing.T) {
	eachCoding(t, func(t *testing.T, c testCoding) {
		for _, whole := range []bool{true, false} {
			codec, ref := func() (*codec, weak.Pointer[decodedBody]) {
				d := decodeReader(bytes.NewReader(c.encode(prose(5000))), c.coding)
				defer d.Close()
				d.Read(make([]byte, 1))
				codec := d.layers[0].codec
				if whole {
					io.Copy(io.Discard, d)
				}
				return codec, weak.Make(d)
			}()
			runtime.GC()
			// A br decoder that has not reached its end is not reused, so it may refer to the body.
			if ref.Value() != nil && (whole || c.coding != "br") {
				t.Errorf("whole=%v: the decoder refers to the body", whole)
			}
			runtime.KeepAlive(codec)
		}
	})
}

func TestBodiesDecodedAtOnceDoNotMix(t *testing.T) {
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 40 {
				c := testCodings[(g+i)%len(testCodings)]
				plain := prose(100*g + 400*i)
				d := decodeReader(bytes.NewReader(c.encode(plain)), c.coding)
				if i%4 == 3 {
					go d.Close()
				}
				got, err := io.ReadAll(d)
				if err == ErrCanceled && i%4 == 3 {
					continue
				}
				if err != nil || !bytes.Equal(got, plain) {
					t.Errorf("%s: %d of %d octets, %v", c.name, len(got), len(plain), err)
				}
			}
		})
	}
	wg.Wait()
}

func isLimit(err error) bool {
	var limit *DecodeLimitError
	return errors.As(err, &limit)
}

func FuzzDecode(f *testing.F) {
	stacks := [][]string{{"gzip"}, {"deflate"}, {"br"}, {"gzip", "deflate"}, {"deflate", "br"},
		{"br", "gzip"}, {"br", "gzip", "deflate"}}
	for i, codings := range stacks {
		for _, n := range []int{0, 10, 300} {
			coded := prose(n)
			for _, coding := range codings {
				for _, c := range testCodings {
					if c.coding == coding {
						coded = c.encode(coded)
						break
					}
				}
			}
			f.Add(append([]byte{byte(i)}, coded...))
			f.Add(append([]byte{byte(i)}, coded[:len(coded)/2]...))
		}
	}
	f.Add(append([]byte{1}, testCodings[2].encode(prose(100))...))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 {
			return
		}
		const size = 1 << 20
		codings := stacks[int(in[0])%len(stacks)]
		decode := func(raw io.Reader) ([]byte, error) {
			d := newDecodedBody(raw, codings, nil, decodeLimits{size: size, ratio: 1000})
			defer d.Close()
			return io.ReadAll(d)
		}
		got, err := decode(bytes.NewReader(in[1:]))
		if len(got) > size {
			t.Fatalf("%d octets", len(got))
		}
		var decodeErr *DecodeError
		var limitErr *DecodeLimitError
		if err != nil && !errors.As(err, &decodeErr) && !errors.As(err, &limitErr) {
			t.Fatalf("error %v of raw octets that had none", err)
		}
		// The result does not depend on the sizes in which the bytes arrive.
		again, errAgain := decode(iotest.OneByteReader(bytes.NewReader(in[1:])))
		if isLimit(err) || isLimit(errAgain) { // a limit depends on what was received by then
			got, again, errAgain = got[:min(len(got), len(again))], again[:min(len(got), len(again))], err
		}
		if (err == nil) != (errAgain == nil) || err == nil && !bytes.Equal(got, again) {
			t.Fatalf("%d octets, %v; but octet by octet %d, %v", len(got), err, len(again), errAgain)
		}
	})
}
