package fieldblock

import (
	"testing"

	"gohyper.dev/hyper/internal/h2test"
)

// RFC 7541 appendix C.1.
func TestIntegersOfAppendixC1(t *testing.T) {
	for _, c := range []struct {
		octets string
		prefix byte
		want   uint64
	}{
		{"0a", 5, 10},
		{"1f9a0a", 5, 1337},
		{"2a", 8, 42},
	} {
		p := h2test.Unhex(t, c.octets)
		if v, n := readInt(append(p, 0xff), c.prefix); n != len(p) || v != c.want {
			t.Errorf("%s with a prefix of %d bits: %d, %d bytes, want %d", c.octets, c.prefix, v, n, c.want)
		}
		for i := range p {
			if _, n := readInt(p[:i], c.prefix); n != 0 {
				t.Errorf("%s after %d bytes: %d", c.octets, i, n)
			}
		}
	}
}

// An integer has at most five bytes after its prefix, and at most 32 bits.
func TestIntegersAreBounded(t *testing.T) {
	for _, c := range []struct {
		octets string
		want   uint64
		n      int
	}{
		{"7f 80 ff ff ff 0f", 1<<32 - 1, 6},
		{"7f 81 ff ff ff 0f", 0, -1}, // 2^32
		{"7f 80 80 80 80 00", 127, 6},
		{"7f 80 80 80 80 80", 0, -1},
		{"7f 80 80 80 80 80 00", 0, -1},
		{"7f 80 80 80 80", 0, 0},
		{"7f", 0, 0},
		{"", 0, 0},
	} {
		if v, n := readInt(h2test.Unhex(t, c.octets), 7); v != c.want || n != c.n {
			t.Errorf("%s: %d, %d bytes, want %d, %d", c.octets, v, n, c.want, c.n)
		}
	}
}

// A field that is not malformed but ends too early has the fault of the part that is missing.
func TestFaultOfAFieldCutShort(t *testing.T) {
	for octets, want := range map[string]string{
		"ff":                            badIndex,
		"80":                            badIndex,
		"3f":                            badSize,
		"0f":                            badIndex,
		"40":                            nameCutShort,
		"40 7f":                         nameCutShort,
		"40 02 61":                      nameCutShort,
		"40 01 61":                      valueCutShort,
		"40 01 61 7f 80":                valueCutShort,
		"40 01 61 02 62":                valueCutShort,
		"41 01":                         valueCutShort,
		"00 7f 80 80 80 80 80 80":       nameCutShort,
		"00 01 61 7f 80 80 80 80 80 80": valueCutShort,
	} {
		p := h2test.Unhex(t, octets)
		f, fault := parseField(p)
		if f.isWhole(len(p)) || fault != "" && fault != want || f.cutShort() != want {
			t.Errorf("%s: %+v, %q, %q, want %q", octets, f, fault, f.cutShort(), want)
		}
	}
}
