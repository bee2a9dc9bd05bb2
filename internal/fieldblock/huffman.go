package fieldblock

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/http2/hpack"
)

// The lengths of codes in bits. Codes up to shortCode are decoded by one look into a table, and two
// codes if they have at most pairCode together.
const (
	shortCode = 10
	pairCode  = 12
	longCode  = 30
	noCode    = 100 // more bits than there can be
)

// A huffmanTable decodes the code of RFC 7541, appendix B. It is canonical: codes of one length are
// consecutive numbers in the order of their symbols, and longer codes are larger if all begin at
// the same bit.
type huffmanTable struct {
	// short has the code that begins with these bits, and 0 if it is longer.
	short [1 << shortCode]shortSymbol

	// pairs has the two codes, or the one, that begin with these bits. It is 0 if the first one is
	// longer than shortCode.
	pairs [1 << pairCode]symbolPair

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

// A symbolPair is one symbol or two. Its bytes are, from the lowest one: the first symbol, the
// second one, the length of their codes together, and how many there are.
type symbolPair uint32

// length returns the length of the codes.
func (s symbolPair) length() uint { return uint(s>>16) & 0xff }

// count returns how many symbols there are.
func (s symbolPair) count() uint { return uint(s >> 24) }

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
	t.makePairs()
	return t
})

// makePairs makes pairs from short.
func (t *huffmanTable) makePairs() {
	const moreBits = pairCode - shortCode
	for i := range t.pairs {
		first := t.short[i>>moreBits]
		if first == 0 {
			continue
		}
		pair := symbolPair(1<<24) | symbolPair(first.length())<<16 | symbolPair(uint8(first))
		second := t.short[i<<first.length()&(1<<pairCode-1)>>moreBits]
		if both := first.length() + second.length(); second != 0 && both <= pairCode {
			pair = symbolPair(2<<24) | symbolPair(both)<<16 | symbolPair(uint8(second))<<8 |
				symbolPair(uint8(first))
		}
		t.pairs[i] = pair
	}
}

// one returns the code with which bits begin. length is noCode if there is no such code.
func (t *huffmanTable) one(bits uint64) (symbol uint8, length uint) {
	if short := t.short[bits>>(64-shortCode)]; short != 0 {
		return uint8(short), short.length()
	}
	first := uint32(bits >> 32)
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
	to := uint(len(dst))
	// A code has at least 5 bits, and a pair is written as two bytes, also if it is one symbol.
	dst = slices.Grow(dst, 2*len(p))
	dst = dst[:cap(dst)]
	var bits uint64 // the first n are not decoded yet, and those after them are of p or 0
	var n uint
	for {
		switch {
		case len(p) >= 8:
			bits |= binary.BigEndian.Uint64(p) >> n
			p, n = p[(63-n)/8:], n|56
		case len(p) >= 4 && n <= 32:
			bits |= uint64(binary.BigEndian.Uint32(p)) << 32 >> n
			p, n = p[4:], n+32
		default:
			for len(p) > 0 && n <= 56 {
				bits |= uint64(p[0]) << 56 >> n
				p, n = p[1:], n+8
			}
		}
		if len(p) == 0 {
			return t.appendLast(dst, to, bits, n)
		}
		for n >= longCode {
			pair := t.pairs[bits>>(64-pairCode)]
			length := pair.length()
			if pair != 0 {
				dst[to+1], dst[to] = uint8(pair>>8), uint8(pair)
				to += pair.count()
			} else {
				if dst[to], length = t.one(bits); length == noCode {
					return dst[:to], false
				}
				to++
			}
			bits <<= length & 63
			n -= length
		}
	}
}

// appendLast is appendDecoded for the last n bits. It writes to dst[to:].
func (t *huffmanTable) appendLast(dst []byte, to uint, bits uint64, n uint) (all []byte, ok bool) {
	bits |= math.MaxUint64 >> n            // ones follow
	for n >= 8 || bits != math.MaxUint64 { // no code consists of ones alone
		length := uint(0)
		if pair := t.pairs[bits>>(64-pairCode)]; pair != 0 && pair.length() <= n {
			dst[to+1], dst[to] = uint8(pair>>8), uint8(pair)
			to, length = to+pair.count(), pair.length()
		} else {
			var symbol uint8
			if symbol, length = t.one(bits); length > n {
				return dst[:to], false
			}
			dst[to] = symbol
			to++
		}
		bits = bits<<(length&63) | (1<<(length&63) - 1)
		n -= length
	}
	return dst[:to], true
}
