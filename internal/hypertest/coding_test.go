// This file tests content codings as responses use them.

package hypertest

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/andybalholm/brotli"

	"gohyper.dev/hyper"
)

// A testCoding is a way to encode a body; "deflate-raw" is sent as deflate.
type testCoding struct {
	name   string
	coding string
	writer func(w io.Writer) codingWriter
}

type codingWriter interface {
	io.WriteCloser
	Flush() error
}

var testCodings = []testCoding{
	{"gzip", "gzip", func(w io.Writer) codingWriter { return gzip.NewWriter(w) }},
	{"deflate-zlib", "deflate", func(w io.Writer) codingWriter { return zlib.NewWriter(w) }},
	{"deflate-raw", "deflate", func(w io.Writer) codingWriter { z, _ := flate.NewWriter(w, 6); return z }},
	{"br", "br", func(w io.Writer) codingWriter { return brotli.NewWriter(w) }},
}

func (c testCoding) encode(p []byte) []byte {
	var b bytes.Buffer
	w := c.writer(&b)
	w.Write(p)
	w.Close()
	return b.Bytes()
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

func wantDecodeError(t *testing.T, err error, coding string, cause error) {
	t.Helper()
	var e *hyper.DecodeError
	if !errors.As(err, &e) || e.Coding != coding || cause != nil && !errors.Is(err, cause) {
		t.Fatalf("error %v, want a DecodeError of %s: %v", err, coding, cause)
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
func caesarDecoder(name string, closes *int) map[string]hyper.Decoder {
	return map[string]hyper.Decoder{name: func(r io.Reader) (io.Reader,
		error) {
		return &caesar{r: r, closes: closes}, nil
	}}
}

func wantLimit(t *testing.T, err error, limit string, bound int64) {
	t.Helper()
	var e *hyper.DecodeLimitError
	if !errors.As(err, &e) || e.Limit != limit || e.Max != bound {
		t.Fatalf("error %v, want a DecodeLimitError of %s %d", err, limit, bound)
	}
}
