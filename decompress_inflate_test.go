package hyper

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"weak"

	"gohyper.dev/hyper/internal/h2test"
)

// RFC 1952 §2.2: a gzip file consists of a series of members.
func TestGzipMembersAreOneBody(t *testing.T) {
	coded := slices.Concat(h2test.Gzip([]byte("a")), h2test.Gzip(nil), h2test.Gzip(h2test.Prose(5000)),
		h2test.Gzip(nil))
	plain := slices.Concat([]byte("a"), h2test.Prose(5000))
	wantDecoded(t, decodeReader(bytes.NewReader(coded), "gzip"), plain)
	wantDecoded(t, decodeReader(iotest.OneByteReader(bytes.NewReader(coded)), "gzip"), plain)
}

func TestDeflateAndZlibDifferByTheirHeader(t *testing.T) {
	for level := flate.HuffmanOnly; level <= flate.BestCompression; level++ {
		for _, n := range []int{0, 1, 2, 3, 100, 70000} {
			var raw, wrapped bytes.Buffer
			fw, _ := flate.NewWriter(&raw, level)
			fw.Write(h2test.Prose(n))
			fw.Close()
			zw, _ := zlib.NewWriterLevel(&wrapped, level)
			zw.Write(h2test.Prose(n))
			zw.Close()
			wantDecoded(t, decodeReader(&raw, "deflate"), h2test.Prose(n))
			wantDecoded(t, decodeReader(&wrapped, "deflate"), h2test.Prose(n))
		}
	}
	// These are the shortest bodies of each kind.
	wantDecoded(t, decodeReader(strings.NewReader("\x03\x00"), "deflate"), nil)
	wantDecoded(t, decodeReader(strings.NewReader("\x78\x9c\x03\x00\x00\x00\x00\x01"), "deflate"), nil)

	_, err := decodeBytes([]byte("\x78\xbb\x01\x02\x03\x04\x03\x00\x00\x00\x00\x01"), "deflate")
	wantDecodeError(t, err, "deflate", zlib.ErrDictionary)
}

func TestDeflateOfOneByteIsCutShort(t *testing.T) {
	for c := range 256 {
		_, err := decodeBytes([]byte{byte(c)}, "deflate")
		wantDecodeError(t, err, "deflate", io.ErrUnexpectedEOF)
	}
}

func TestBodyCutAtAnyOffsetNeverEndsWell(t *testing.T) {
	plain := h2test.Prose(800)
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
	for _, a := range h2test.Codings {
		check(a.Encode(plain), a.Coding)
	}
	eachStack(func(a, b h2test.Coding) { check(b.Encode(a.Encode(plain)), a.Coding, b.Coding) })
	_, err := decodeBytes(h2test.Gzip(plain)[:20], "gzip")
	if want := "hyper: body: gzip: unexpected EOF"; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
}

func TestSecondGzipMemberCutShortIsAnError(t *testing.T) {
	first, second := h2test.Gzip([]byte("first")), h2test.Gzip([]byte("second"))
	for cut := 1; cut < len(second); cut++ {
		got, err := decodeBytes(slices.Concat(first, second[:cut]), "gzip")
		wantDecodeError(t, err, "gzip", io.ErrUnexpectedEOF)
		if !bytes.HasPrefix(got, []byte("first")) {
			t.Fatalf("cut at %d of the second member: %q", cut, got)
		}
	}
}

func TestCorruptByteNeverHangsNorPassesAChecksum(t *testing.T) {
	plain := h2test.Prose(1500)
	h2test.EachCoding(t, func(t *testing.T, c h2test.Coding) {
		coded := c.Encode(plain)
		for i := range coded {
			for _, flip := range []byte{0x01, 0x10, 0x80, 0xff} {
				bad := bytes.Clone(coded)
				bad[i] ^= flip
				d := newDecodedBody(bytes.NewReader(bad), []string{c.Coding}, nil,
					decodeLimits{size: 1 << 20})
				got, err := io.ReadAll(d)
				// One changed bit can turn a zlib header into the start of raw deflate, which has
				// no checksum.
				checked := c.Name == "gzip" || c.Name == "deflate-zlib" && i > 1
				if checked && err == nil && !bytes.Equal(got, plain) {
					t.Fatalf("octet %d xor %#x: other octets and no error", i, flip)
				}
				d.Close()
			}
		}
		// The pool's decoder has decoded all of the above.
		wantDecoded(t, decodeReader(bytes.NewReader(coded), c.Coding), plain)
	})
}

func TestBytesAfterTheEndAreAnError(t *testing.T) {
	plain := h2test.Prose(100)
	h2test.EachCoding(t, func(t *testing.T, c h2test.Coding) {
		for _, n := range []int{1, 2, 9, 10, 11, 5000, 70000} {
			coded := append(c.Encode(plain), make([]byte, n)...)
			for _, raw := range []io.Reader{bytes.NewReader(coded),
				iotest.OneByteReader(bytes.NewReader(coded))} {
				got, err := io.ReadAll(decodeReader(raw, c.Coding))
				wantDecodeError(t, err, c.Coding, nil)
				if c.Coding != "gzip" {
					wantDecodeError(t, err, c.Coding, errTrailing)
				}
				if !bytes.Equal(got, plain) {
					t.Fatalf("%d octets after the end: got %d octets of the body, want all %d", n, len(got),
						len(plain))
				}
			}
			// The same holds below another coding, which has ended.
			above := c.Above()
			_, err := decodeBytes(above.Encode(coded), c.Coding, above.Coding)
			var limit *DecodeLimitError // 70,000 zeros exceed the ratio
			if !errors.As(err, &limit) || n < innerGrace {
				wantDecodeError(t, err, c.Coding, nil)
			}
			_, err = decodeBytes(append(above.Encode(c.Encode(plain)), make([]byte, n)...), c.Coding,
				above.Coding)
			wantDecodeError(t, err, above.Coding, nil)
		}
		if c.Coding != "gzip" {
			_, err := decodeBytes(append(c.Encode(plain), c.Encode(plain)...), c.Coding)
			wantDecodeError(t, err, c.Coding, nil)
		}
	})
}

func TestUnknownCodingLeavesTheRawBodyUnread(t *testing.T) {
	coded := h2test.Gzip(h2test.Prose(100))
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

func TestFlushedBytesAreReadBeforeTheRestArrives(t *testing.T) {
	h2test.EachCoding(t, func(t *testing.T, c h2test.Coding) {
		var b bytes.Buffer
		w := c.Writer(&b)
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
		}, c.Coding)
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

func TestSecondSmallBodyAllocatesLittle(t *testing.T) {
	var p sync.Pool
	for range 100 {
		if p.Put(t); p.Get() == nil {
			t.Skip("sync.Pool drops items: the race detector is on")
		}
	}
	// The allocations are the decodedBody, its layers, and for br those of its Reset.
	max := map[string]float64{"gzip": 2, "deflate-zlib": 2, "deflate-raw": 2, "br": 6}
	h2test.EachCoding(t, func(t *testing.T, c h2test.Coding) {
		coded, codings := c.Encode(h2test.Prose(200)), []string{c.Coding}
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
		if got > max[c.Name] {
			t.Errorf("%.0f allocations, want at most %.0f", got, max[c.Name])
		}
	})
}

func TestPooledDecoderForgetsItsBody(t *testing.T) {
	h2test.EachCoding(t, func(t *testing.T, c h2test.Coding) {
		for _, whole := range []bool{true, false} {
			codec, ref := func() (*codec, weak.Pointer[decodedBody]) {
				d := decodeReader(bytes.NewReader(c.Encode(h2test.Prose(5000))), c.Coding)
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
			if ref.Value() != nil && (whole || c.Coding != "br") {
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
				c := h2test.Codings[(g+i)%len(h2test.Codings)]
				plain := h2test.Prose(100*g + 400*i)
				d := decodeReader(bytes.NewReader(c.Encode(plain)), c.Coding)
				if i%4 == 3 {
					go d.Close()
				}
				got, err := io.ReadAll(d)
				if err == ErrCanceled && i%4 == 3 {
					continue
				}
				if err != nil || !bytes.Equal(got, plain) {
					t.Errorf("%s: %d of %d octets, %v", c.Name, len(got), len(plain), err)
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
			coded := h2test.Prose(n)
			for _, coding := range codings {
				for _, c := range h2test.Codings {
					if c.Coding == coding {
						coded = c.Encode(coded)
						break
					}
				}
			}
			f.Add(append([]byte{byte(i)}, coded...))
			f.Add(append([]byte{byte(i)}, coded[:len(coded)/2]...))
		}
	}
	f.Add(append([]byte{1}, h2test.Codings[2].Encode(h2test.Prose(100))...))
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
