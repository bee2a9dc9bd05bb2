package fieldblock

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/http2/hpack"
)

// The lengths of codes in bits. Codes up to shortCode are decoded by one look into a table.
const (
	shortCode = 10
	longCode  = 30
	noCode    = 100 // more bits than there can be
)

// A huffmanTable decodes the code of RFC 7541, appendix B. It is canonical: codes of one length are
// consecutive numbers in the order of their symbols, and longer codes are larger if all begin at
// the same bit.
type huffmanTable struct {
	// short has the code that begins with these bits, and 0 if it is longer.
	short [1 << shortCode]shortSymbol

	// The codes of each length, with their first bit at bit 31: what they are less than, the first
	// one, and its index in symbols.
	limit, first [longCode + 1]uint32
	offset       [longCode + 1]int
	symbols      [256]uint8 // in the order of their codes
}

// A shortSymbol is a symbol, and above it the length of its code.
type shortSymbol uint16

// length returns the length of the code.
func (s shortSymbol) length() uint { return uint(s >> 8) }

// huffman returns the table. It is made from what hpack encodes.
var huffman = sync.OnceValue(func() *huffmanTable {
	t := &huffmanTable{}
	var codes [256]uint32
	var lengths [256]int
	for i := range codes {
		s := string([]byte{byte(i)})
		lengths[i] = int(hpack.HuffmanEncodeLength(strings.Repeat(s, 8)))
		for _, b := range append(hpack.AppendHuffmanString(nil, s), 0, 0, 0)[:4] {
			codes[i] = codes[i]<<8 | uint32(b)
		}
		codes[i] &= ^uint32(0) << (32 - lengths[i])
		t.symbols[i] = uint8(i)
	}
	slices.SortFunc(t.symbols[:], func(a, b uint8) int {
		if codes[a] < codes[b] {
			return -1
		}
		return 1
	})
	for i, s := range slices.Backward(t.symbols[:]) {
		n := lengths[s]
		if t.limit[n] == 0 {
			t.limit[n] = codes[s] + 1<<(32-n)
		}
		t.first[n], t.offset[n] = codes[s], i
		if n <= shortCode {
			at := codes[s] >> (32 - shortCode)
			for j := range uint32(1) << (shortCode - n) {
				t.short[at+j] = shortSymbol(n)<<8 | shortSymbol(s)
			}
		}
	}
	return t
})

// at returns the code that begins with the last n bits of bits if it is short, else 0.
func (t *huffmanTable) at(bits uint64, n uint) shortSymbol {
	return t.short[bits>>((n-shortCode)&63)&(1<<shortCode-1)]
}

// long is at for a code that is not short. n is at least longCode. length is noCode if there is no
// such code.
func (t *huffmanTable) long(bits uint64, n uint) (symbol uint8, length uint) {
	first := uint32(bits >> ((n - longCode) & 63) << (32 - longCode))
	for n := shortCode + 1; n <= longCode; n++ {
		if first < t.limit[n] {
			return t.symbols[t.offset[n]+int((first-t.first[n])>>(32-n))], uint(n)
		}
	}
	return 0, noCode
}

// appendDecoded appends what p encodes to dst. ok is false if p is no valid encoding: if it has the
// code of the end of a string, or if more or other bits follow the last code than up to 7 ones (RFC
// 7541 §5.2).
func (t *huffmanTable) appendDecoded(dst, p []byte) (all []byte, ok bool) {
	to := len(dst)
	dst = slices.Grow(dst, 2*len(p)) // a code has at least 5 bits
	dst = dst[:cap(dst)]
	var bits uint64 // of which the last n are not decoded yet
	var n uint
	for {
		for n < longCode && len(p) > 0 {
			if len(p) < 4 {
				bits, n, p = bits<<8|uint64(p[0]), n+8, p[1:]
			} else {
				bits, n, p = bits<<32|uint64(binary.BigEndian.Uint32(p)), n+32, p[4:]
			}
		}
		if n < longCode {
			break
		}
		for n >= longCode {
			short := t.at(bits, n)
			symbol, length := uint8(short), short.length()
			if length == 0 {
				if symbol, length = t.long(bits, n); length == noCode {
					return dst[:to], false
				}
			}
			dst[to] = symbol
			to++
			n -= length
		}
	}
	// Ones follow the last bits. No code consists of these alone.
	bits, n = bits<<32|math.MaxUint32, n+32
	for {
		short := t.at(bits, n)
		symbol, length := uint8(short), short.length()
		if length == 0 {
			symbol, length = t.long(bits, n)
		}
		if n < 32+length {
			break
		}
		dst[to] = symbol
		to++
		n -= length
	}
	ones := uint64(1)<<(n-32) - 1
	return dst[:to], n-32 < 8 && bits>>32&ones == ones
}
