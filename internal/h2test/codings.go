package h2test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"math/rand/v2"
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
