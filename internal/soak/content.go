package main

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Every body is a function of its seed and the offset, so that each octet can be checked wherever it arrives. It is text of
// 16 letters: a coding has something to do.

func octetAt(seed uint64, at int64) byte {
	return letters[mix(seed, at/8)>>(at%8*8)&15]
}

const letters = "abcdefghijklmnop"

// mix is splitmix64: neighbours in seed or block have nothing in common.
func mix(seed uint64, block int64) uint64 {
	z := seed*0x9e3779b97f4a7c15 + uint64(block)*0xbf58476d1ce4e5b9 + 0x94d049bb133111eb
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// fill writes the octets from offset at on into p.
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

// A source is the body of a seed and a size, as a reader.
type source struct {
	seed     uint64
	at, size int64
}

func (s *source) Read(p []byte) (int, error) {
	if s.at == s.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), s.size-s.at))
	fill(p[:n], s.seed, s.at)
	s.at += int64(n)
	return n, nil
}

// A checker is a writer that accepts the body of a seed and a size, and nothing else.
type checker struct {
	seed     uint64
	at, size int64
	want     []byte
}

// A mismatch is what no fault explains: octets that nobody sent.
type mismatch string

func (m mismatch) Error() string { return string(m) }

func (c *checker) Write(p []byte) (int, error) {
	if int64(len(p)) > c.size-c.at {
		return 0, mismatch(fmt.Sprintf("%d octets behind the end of %d", int64(len(p))-c.size+c.at, c.size))
	}
	if cap(c.want) < len(p) {
		c.want = make([]byte, len(p))
	}
	want := c.want[:len(p)]
	fill(want, c.seed, c.at)
	for i := range p {
		if p[i] != want[i] {
			return i, mismatch(fmt.Sprintf("octet %d is %q, want %q", c.at+int64(i), p[i], want[i]))
		}
	}
	c.at += int64(len(p))
	return len(p), nil
}

// whole says what is missing, or nil.
func (c *checker) whole() error {
	if c.at != c.size {
		return mismatch(fmt.Sprintf("the body ended in good order after %d octets of %d", c.at, c.size))
	}
	return nil
}
