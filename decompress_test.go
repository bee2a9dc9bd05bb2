package hyper

import (
	"bytes"
	"compress/gzip"
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

	"gohyper.dev/hyper/internal/h2test"
)

// eachStack runs f for each pair of built-in codings, applied in this order.
func eachStack(f func(a, b h2test.Coding)) {
	for _, a := range h2test.Codings {
		for _, b := range h2test.Codings {
			if a.Coding != b.Coding {
				f(a, b)
			}
		}
	}
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
	h2test.EachCoding(t, func(t *testing.T, c h2test.Coding) {
		for _, n := range []int{0, 1, 1023, 4096, 32768, 65537} {
			random := make([]byte, n)
			for i := range random {
				random[i] = byte(rand.Uint32())
			}
			for _, plain := range [][]byte{h2test.Prose(n), random, make([]byte, n)} {
				coded := c.Encode(plain)
				wantDecoded(t, decodeReader(bytes.NewReader(coded), c.Coding), plain)
				wantDecoded(t, iotest.OneByteReader(decodeReader(bytes.NewReader(coded), c.Coding)), plain)
				wantDecoded(t, decodeReader(iotest.OneByteReader(bytes.NewReader(coded)), c.Coding), plain)
				wantDecoded(t, decodeReader(iotest.DataErrReader(bytes.NewReader(coded)), c.Coding), plain)
			}
		}
	})
}

// RFC 9110 §8.4: codings are listed in the order in which they were applied.
func TestStackedCodingsAreUndoneInReverse(t *testing.T) {
	plain := h2test.Prose(20000)
	eachStack(func(a, b h2test.Coding) {
		coded := b.Encode(a.Encode(plain))
		wantDecoded(t, decodeReader(bytes.NewReader(coded), a.Coding, b.Coding), plain)
		wantDecoded(t, decodeReader(iotest.HalfReader(bytes.NewReader(coded)), a.Coding, b.Coding), plain)
	})
	coded, codings := plain, []string(nil)
	for _, c := range []h2test.Coding{h2test.Codings[0], h2test.Codings[2], h2test.Codings[3]} {
		coded, codings = c.Encode(coded), append(codings, c.Coding)
	}
	wantDecoded(t, decodeReader(bytes.NewReader(coded), codings...), plain)
}

func TestEmptyBodyIsEmptyInEveryCoding(t *testing.T) {
	h2test.EachCoding(t, func(t *testing.T, c h2test.Coding) {
		wantDecoded(t, decodeReader(strings.NewReader(""), c.Coding), nil)
		wantDecoded(t, decodeReader(strings.NewReader(""), c.Coding, c.Above().Coding), nil)
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

func TestCustomDecoderFollowsTheSameRules(t *testing.T) {
	plain := []byte("veni, vidi, vici")
	coded := h2test.EncodeCaesar(plain)
	var closes, bodies int
	decoders := map[string]Decoder{"Caesar": h2test.Caesar(&closes)}
	decode := func(coded []byte, codings ...string) ([]byte, error) {
		bodies++
		d := newDecodedBody(bytes.NewReader(coded), codings, decoders, decodeLimits{})
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
		{h2test.EncodeCaesar(h2test.Gzip(plain)), []string{"gzip", "caesar"}},
		{h2test.Gzip(coded), []string{"caesar", "gzip"}},
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
	d := newDecodedBody(bytes.NewReader(h2test.EncodeCaesar([]byte("x"))), []string{"gzip"},
		map[string]Decoder{"GZIP": h2test.Caesar(&closes)}, decodeLimits{})
	wantDecoded(t, d, []byte("x"))

	d = newDecodedBody(bytes.NewReader(h2test.Gzip(nil)), []string{"gzip"}, map[string]Decoder{"gzip": nil},
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
	plain := h2test.Prose(700)
	reset := &StreamError{StreamID: 5, Code: ErrCodeCancel, FromPeer: true}
	for _, fault := range []error{reset, io.ErrUnexpectedEOF} {
		eachStack(func(a, b h2test.Coding) {
			coded := b.Encode(a.Encode(plain))
			for cut := 0; cut <= len(coded); cut++ {
				raw := io.MultiReader(bytes.NewReader(coded[:cut]), iotest.ErrReader(fault))
				got, err := io.ReadAll(decodeReader(raw, a.Coding, b.Coding))
				if err != fault {
					t.Fatalf("%s, %s: reset after %d of %d octets: error %v", a.Name, b.Name, cut, len(coded),
						err)
				}
				if !bytes.HasPrefix(plain, got) || cut == len(coded) && len(got) != len(plain) {
					t.Fatalf("%s, %s: reset after %d of %d octets: got %d octets", a.Name, b.Name, cut,
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
		{"the end", decodeReader(bytes.NewReader(h2test.Gzip([]byte("x"))), "gzip")},
		{"cut short", decodeReader(bytes.NewReader(h2test.Gzip([]byte("x"))[:20]), "gzip")},
		{"trailing octets", decodeReader(bytes.NewReader(append(h2test.Gzip([]byte("x")),
			"four and twenty"...)), "gzip")},
		{"reset", decodeReader(iotest.ErrReader(ErrCodeRefusedStream), "br")},
		{"unknown coding", decodeReader(strings.NewReader("x"), "zstd")},
		{"codings", decodeReader(strings.NewReader("x"), "a", "b", "c", "d", "e", "f")},
		{"repeats", decodeReader(strings.NewReader("x"), "br", "gzip", "br")},
		{"no codings", decodeReader(strings.NewReader("x"))},
		{"size", newDecodedBody(bytes.NewReader(h2test.Gzip(h2test.Prose(100))), []string{"gzip"}, nil,
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

func TestReadAfterCloseIsCanceled(t *testing.T) {
	for _, codings := range [][]string{nil, {"gzip"}, {"gzip", "br"}, {"zstd"}} {
		d := decodeReader(strings.NewReader("x"), codings...)
		d.Close()
		d.Close()
		if n, err := d.Read(make([]byte, 1)); n != 0 || err != ErrCanceled {
			t.Errorf("%v: Read after Close = %d, %v", codings, n, err)
		}
	}
	raw := bytes.NewReader(h2test.Gzip(h2test.Prose(200_000)))
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
	pw.Write(h2test.Gzip(h2test.Prose(100))[:20]) // returns when Read has taken the bytes
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
	r := &endless{member: h2test.Gzip(nil), busy: make(chan struct{})}
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

func TestDecodeLimitErrorNamesTheBound(t *testing.T) {
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

func TestSizeLimitGivesAllBytesBelowIt(t *testing.T) {
	plain := h2test.Prose(5000)
	h2test.EachCoding(t, func(t *testing.T, c h2test.Coding) {
		coded := c.Encode(plain)
		for _, size := range []int64{1, 2, 100, 4096, 4999} {
			for _, one := range []bool{false, true} {
				d := newDecodedBody(bytes.NewReader(coded), []string{c.Coding}, nil, decodeLimits{size: size})
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
			wantDecoded(t, newDecodedBody(bytes.NewReader(coded), []string{c.Coding}, nil,
				decodeLimits{size: size}), plain)
		}
		// The data between two codings may be larger than the body.
		random := make([]byte, 1000)
		for i := range random {
			random[i] = byte(rand.Uint32())
		}
		above := c.Above()
		coded = above.Encode(c.Encode(random))
		codings := []string{c.Coding, above.Coding}
		wantDecoded(t, newDecodedBody(bytes.NewReader(coded), codings, nil, decodeLimits{size: 1000}), random)
	})
}

// gzipOf returns p repeated n times in gzip, with one member for each p.
func gzipOf(p []byte, n int) []byte { return bytes.Repeat(h2test.Gzip(p), n) }

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
	bomb := h2test.Codings[1].Encode(bytes.Repeat(member.Bytes(), 1<<20/member.Len()))
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
