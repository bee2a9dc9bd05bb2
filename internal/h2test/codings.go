package h2test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/andybalholm/brotli"
)

// A Coding is a way to encode a body; "deflate-raw" is sent as deflate.
type Coding struct {
	Name   string
	Coding string
	Writer func(w io.Writer) FlushWriter
}

// A FlushWriter is the writer of a coding.
type FlushWriter interface {
	io.WriteCloser
	Flush() error
}

// Codings are the codings that hyper decodes by itself.
var Codings = []Coding{
	{"gzip", "gzip", func(w io.Writer) FlushWriter { return gzip.NewWriter(w) }},
	{"deflate-zlib", "deflate", func(w io.Writer) FlushWriter { return zlib.NewWriter(w) }},
	{"deflate-raw", "deflate", func(w io.Writer) FlushWriter { z, _ := flate.NewWriter(w, 6); return z }},
	{"br", "br", func(w io.Writer) FlushWriter { return brotli.NewWriter(w) }},
}

// CodingOf returns the first of Codings whose name in Content-Encoding is coding.
func CodingOf(coding string) Coding {
	return Codings[slices.IndexFunc(Codings, func(c Coding) bool { return c.Coding == coding })]
}

// Encode returns p in the coding.
func (c Coding) Encode(p []byte) []byte {
	var b bytes.Buffer
	w := c.Writer(&b)
	w.Write(p)
	w.Close()
	return b.Bytes()
}

// Above returns another coding, to be applied after c.
func (c Coding) Above() Coding {
	if c.Coding == "gzip" {
		return Codings[2]
	}
	return Codings[0]
}

// EachCoding runs f for each built-in coding.
func EachCoding(t *testing.T, f func(t *testing.T, c Coding)) {
	for _, c := range Codings {
		t.Run(c.Name, func(t *testing.T) { f(t, c) })
	}
}

// Gzip returns p in gzip.
func Gzip(p []byte) []byte { return Codings[0].Encode(p) }

// Prose returns n bytes that compress about as well as text.
func Prose(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "stream %d: window %d\n", r.IntN(1000), r.Uint32())
	}
	return b.Bytes()[:n]
}

// caesar is a test coding: a byte 0xff, then the bytes with 13 added, then another 0xff.
type caesar struct {
	r      io.Reader
	began  bool
	closes *int
}

// EncodeCaesar encodes p for a Caesar decoder.
func EncodeCaesar(p []byte) []byte {
	coded := []byte{0xff}
	for _, c := range p {
		coded = append(coded, c+13)
	}
	return append(coded, 0xff)
}

// Read implements io.Reader.
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

// Close implements io.Closer.
func (c *caesar) Close() error { *c.closes++; return nil }

// Caesar returns a decoder of that coding, which counts in closes how often its readers were
// closed.
func Caesar(closes *int) func(io.Reader) (io.Reader, error) {
	return func(r io.Reader) (io.Reader, error) { return &caesar{r: r, closes: closes}, nil }
}
