package fieldblock

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// wantHuffman checks that a string is decoded as hpack decodes it.
func wantHuffman(t *testing.T, p []byte) {
	t.Helper()
	got, ok := huffman().appendDecoded([]byte("before"), p)
	want, err := hpack.HuffmanDecodeToString(p)
	if ok != (err == nil) {
		t.Fatalf("%x: ok is %v, the error of hpack is %v", p, ok, err)
	}
	if ok && string(got) != "before"+want {
		t.Fatalf("%x: %q, want %q", p, got, "before"+want)
	}
}

// RFC 7541 §5.2 and appendix B.
func TestHuffmanDecodesWhatHPACKEncodes(t *testing.T) {
	random := rand.New(rand.NewPCG(7541, 0))
	for i := range 256 {
		for n := range 20 {
			s := bytes.Repeat([]byte{byte(i)}, n)
			for j := range s {
				if random.IntN(4) == 0 {
					s[j] = byte(random.Uint32())
				}
			}
			p := hpack.AppendHuffmanString(nil, string(s))
			if got, ok := huffman().appendDecoded(nil, p); !ok || !bytes.Equal(got, s) {
				t.Fatalf("%x: %q, %v, want %q", p, got, ok, s)
			}
			wantHuffman(t, p)
			wantHuffman(t, append(p, 0xff)) // padding of 8 bits or more is an error
			// The code of the end of a string is an error, also before other codes.
			wantHuffman(t, slices.Concat(p, []byte("\xff\xff\xff\xff"), p, make([]byte, 20)))
			if n > 0 {
				wantHuffman(t, p[:len(p)-1])
			}
		}
	}
}

// FuzzHuffman checks that a string of any bytes is decoded, or refused, as hpack does.
func FuzzHuffman(f *testing.F) {
	for _, p := range []string{"", "\x00", "\xff", "\xfe", "\xff\xff\xff\xff", "\xff\xff\xff\xfc", "a\xff",
		"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"} {
		f.Add([]byte(p))
	}
	f.Fuzz(wantHuffman)
}
