// Package fieldblock encodes and decodes field blocks: field sections in the compressed form that
// HEADERS, PUSH_PROMISE and CONTINUATION frames carry (HPACK, RFC 7541). A Writer appends sections
// to output. A Reader decodes blocks, bounds what they cost, and checks their fields.
//
// It is pure: it takes bytes and returns fields, or the reverse. It knows no connection. A Reader
// and a Writer keep the compression state of one direction of a connection.
package fieldblock

import (
	"bytes"
	"slices"
	"sync/atomic"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/syntax"
)

// A Field is a type of fields. It has the fields of hpack.HeaderField, so that values are converted
// and not copied one string at a time.
type Field interface {
	~struct {
		Name, Value string
		Sensitive   bool
	}
}

// fewFields is the initial capacity of a list of fields, and manyFields is the capacity above which
// the memory of a list is not kept.
const (
	fewFields  = 8
	manyFields = 1024
)

// A Config configures a Reader.
type Config struct {
	// ListSize bounds a decoded list of fields, in bytes, with 32 bytes added for each field (RFC
	// 9113 §6.5.2). The fields of a larger section are not kept.
	ListSize int64

	// Memory bounds the sections that are held at the same time, in bytes counted in the same way.
	// Negative: no bound.
	Memory int64

	TableSize  uint32 // SETTINGS_HEADER_TABLE_SIZE as we announce it, in bytes
	TrimValues bool   // remove blanks at both ends of values of regular fields
}

// A Reader decodes the field blocks of one connection, in the order in which they arrive. Decode
// takes a whole block. A long block can be decoded in parts: Begin, DecodePart for each part, and
// DecodeRest at the end.
//
// A section above the limit is decoded for the compression state, but not kept. An error is a
// *wire.Error of the connection, after which the Reader must not be used. Release and Held may be
// called at the same time as other methods, and no others. A Reader must not be copied.
type Reader[F Field] struct {
	decoder
	decoded []F
	parsed  Head

	// The last section.
	last   *knownBlock[F] // its block if it is known, else nil
	fields []F            // decoded, or the fields of the known block
	head   *Head          // what fields say

	known cache[F]
}

// The bounds of the memory that sections take.
const (
	// freeSize is the size of the largest section that is not counted in Config.Memory.
	freeSize = 16 << 10

	// largeSize is the size of the largest section whose memory is kept for the next one.
	largeSize = 64 << 10
)

// Init prepares a Reader for use.
func (r *Reader[F]) Init(cfg Config) {
	r.decoder.init(cfg, r.add)
}

// TableAcknowledged notes that the peer knows the table size that we announced (RFC 9113 §4.3.1).
func (r *Reader[F]) TableAcknowledged() {
	r.table.allowed = r.table.announced
	r.table.mustShrink = r.table.set > r.table.allowed
	r.generation++ // a block that was valid before may be invalid now
}

// HardLimit returns the cost of a section, in bytes as sent with 32 for each field, above which it
// is an error of the connection.
func (r *Reader[F]) HardLimit() int64 { return r.hardLimit() }

// Begin prepares for a new section.
func (r *Reader[F]) Begin() {
	if cap(r.decoded) > manyFields {
		r.decoded = nil
	}
	clear(r.decoded)
	if r.decoded = r.decoded[:0]; r.decoded == nil {
		r.decoded = takeList[F](&readLists)
	}
	r.last = nil
	r.decoder.begin()
}

// Decode decodes a section from its whole block.
func (r *Reader[F]) Decode(block []byte) error {
	generation := r.generation
	if b := r.known.find(generation, block); b != nil {
		r.last, r.fields, r.head, r.size = b, b.fields, &b.head, 0
		return nil
	}
	r.Begin()
	if err := r.DecodeRest(block); err != nil {
		return err
	}
	if r.generation == generation && r.size <= r.most {
		if r.last = r.known.keep(generation, block, r.decoded, int(r.size)); r.last != nil {
			r.last.head = r.parsed
		}
	}
	return nil
}

// DecodePart decodes a part of a block and returns the bytes that it did not decode: the beginning
// of a field. They must be passed again, with more of the block after them.
func (r *Reader[F]) DecodePart(p []byte) (rest []byte, err error) { return r.decode(p, false) }

// DecodeRest decodes the last part of a block and checks the whole section.
func (r *Reader[F]) DecodeRest(p []byte) error {
	if _, err := r.decode(p, true); err != nil {
		return err
	}
	r.fields, r.head = r.decoded, &r.parsed
	if r.size <= r.most { // otherwise the content does not matter
		r.parsed = parseHead(r.decoded, r.repeats())
	}
	return nil
}

// add gets each field from the decoder. Above the limit it only counts: names and values stay in
// the compression table, so a block of references cannot make memory grow. A value is counted as it
// was sent, with its blanks, so that no more than the limit is ever searched for blanks.
func (r *Reader[F]) add(f hpack.HeaderField) {
	r.size += int64(len(f.Name)) + int64(len(f.Value)) + fieldOverhead
	if r.size > r.most {
		return
	}
	if r.trims && !syntax.IsPseudo(f.Name) {
		f.Value = syntax.TrimBlanks(f.Value)
	}
	r.decoded = append(r.decoded, F(f))
}

// repeats reports whether the list is large, and so much larger than its block that the block must
// repeat entries of the compression table many times.
func (r *Reader[F]) repeats() bool {
	const large, ratio = 16 << 10, 64
	sent := r.cost - fieldOverhead*int64(len(r.decoded))
	return r.size > large && r.size > ratio*sent
}

// Fields returns the fields of the last section. They are valid until the next one begins. If the
// section was oversize, they are cut off.
func (r *Reader[F]) Fields() []F { return r.fields }

// Head returns what the fields of the last section say. It is valid until the next one begins. It
// has no meaning if the section was oversize.
func (r *Reader[F]) Head() *Head { return r.head }

// Size returns the size of the last section. It is 0 if its block was known, because the block then
// cost nothing.
func (r *Reader[F]) Size() int64 { return r.size }

// Oversize returns the size of the last section if it exceeds the limit, else 0.
func (r *Reader[F]) Oversize() int64 {
	if r.size > r.most {
		return r.size
	}
	return 0
}

// Share returns the fields of the last section without the first one, for as long as they are
// needed. They must not be changed: messages with the same fields share them.
func (r *Reader[F]) Share() []F { return r.ShareAll()[1:] }

// ShareRepeated decodes a section from its whole block and returns what ShareAll returns, if the
// block is the same as the last one and changes nothing. Otherwise it returns nil and does nothing.
func (r *Reader[F]) ShareRepeated(block []byte) []F {
	if b := r.last; b != nil && b.shared && b.generation == r.generation && bytes.Equal(b.octets, block) {
		return b.fields
	}
	return nil
}

// ShareAll is Share with the first field.
func (r *Reader[F]) ShareAll() []F {
	if r.last == nil {
		return slices.Clone(r.fields)
	}
	r.last.shared = true
	return r.last.fields
}

// Hold counts the last section as held until Release is called with the result. It returns the size
// that it counted: 0 if the section is small, or if Config.Memory has no bound.
func (r *Reader[F]) Hold() int64 {
	if r.size <= freeSize || r.memory < 0 {
		return 0
	}
	r.held.Add(r.size)
	return r.size
}

// Release stops counting a section that Hold has counted with this size.
func (r *Reader[F]) Release(size int64) { r.held.Add(-size) }

// Held returns the size of all sections that are held.
func (r *Reader[F]) Held() int64 { return r.held.Load() }

// FreeLarge frees the memory of a large section, which was handled.
func (r *Reader[F]) FreeLarge() {
	if r.size > largeSize {
		r.decoded, r.fields, r.head, r.size = nil, nil, nil, 0
	}
}

// Forget frees the memory that only makes the next sections cheaper to read.
func (r *Reader[F]) Forget() {
	giveList(&readLists, r.decoded)
	r.decoded, r.fields, r.head, r.last = nil, nil, nil, nil
	r.known.forget()
}

// Kept returns the number of fields and of known blocks for which memory is kept.
func (r *Reader[F]) Kept() (fields, blocks int) { return cap(r.decoded), cap(r.known.blocks) }

// limits are the bounds of sections.
type limits struct {
	list   int64        // of a list
	memory int64        // of all sections that are held; negative: no bound
	held   atomic.Int64 // the part of memory that is taken
}

// next returns the limit of the next list: less than l.list if there is less room.
func (l *limits) next() int64 {
	if l.memory < 0 {
		return l.list
	}
	return min(l.list, max(freeSize, l.memory-l.held.Load()))
}
