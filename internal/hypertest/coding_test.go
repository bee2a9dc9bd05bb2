// This file tests content codings as responses use them.

package hypertest

import (
	"errors"
	"io"
	"testing"

	"gohyper.dev/hyper"
)

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
