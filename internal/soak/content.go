package main

import (
	"encoding/binary"
	"fmt"
	"io"
)

// The content of every body is a function of its seed and the offset, so that each byte can be
// checked wherever it arrives. It is text of 16 letters, so that a content coding can compress it.

// octetAt returns the byte at the offset at.
func octetAt(seed uint64, at int64) byte {
	return letters[mix(seed, at/8)>>(at%8*8)&15]
}

// letters are the letters of every body.
const letters = "abcdefghijklmnop"

// mix is splitmix64: similar values of seed or block give unrelated results.
func mix(seed uint64, block int64) uint64 {
	z := seed*0x9e3779b97f4a7c15 + uint64(block)*0xbf58476d1ce4e5b9 + 0x94d049bb133111eb
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// fill writes the bytes from the offset at into p.
func fill(p []byte, seed uint64, at int64) {
	for len(p) > 0 {
		if at%8 != 0 || len(p) < 8 {
			p[0] = octetAt(seed, at)
			p, at = p[1:], at+1
			continue
		}
		binary.LittleEndian.PutUint64(p, mix(seed, at/8)&0x0f0f0f0f0f0f0f0f+0x6161616161616161)
		p, at = p[8:], at+8
	}
}

// A source is a reader of the body with a given seed and size.
type source struct {
	seed     uint64
	at, size int64
}

// Read returns the next bytes of the body.
func (s *source) Read(p []byte) (int, error) {
	if s.at == s.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), s.size-s.at))
	fill(p[:n], s.seed, s.at)
	s.at += int64(n)
	return n, nil
}

// A checker is a writer that accepts only the body with a given seed and size.
type checker struct {
	seed     uint64
	at, size int64
	want     []byte
}

// A mismatch is an error that no fault can explain, such as bytes that were never sent.
type mismatch string

func (m mismatch) Error() string { return string(m) }

// Write returns a mismatch if p is not the next part of the body.
func (c *checker) Write(p []byte) (int, error) {
	if int64(len(p)) > c.size-c.at {
		return 0, mismatch(fmt.Sprintf("%d bytes after the end of %d", int64(len(p))-c.size+c.at, c.size))
	}
	if cap(c.want) < len(p) {
		c.want = make([]byte, len(p))
	}
	want := c.want[:len(p)]
	fill(want, c.seed, c.at)
	for i := range p {
		if p[i] != want[i] {
			return i, mismatch(fmt.Sprintf("byte %d is %q, want %q", c.at+int64(i), p[i], want[i]))
		}
	}
	c.at += int64(len(p))
	return len(p), nil
}

// whole returns a mismatch if the body is incomplete.
func (c *checker) whole() error {
	if c.at != c.size {
		return mismatch(fmt.Sprintf("the body ended in good order after %d bytes of %d", c.at, c.size))
	}
	return nil
}
