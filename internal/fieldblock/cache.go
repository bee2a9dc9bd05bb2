package fieldblock

import (
	"bytes"
	"sync"
)

// A cache holds field blocks and their fields, with the latest at the end. Most messages repeat the
// fields of an earlier one. A block that does not change the compression table means the same until
// another block changes it, so it need not be encoded or decoded again.
type cache[F Field] struct {
	blocks []knownBlock[F]
	size   int   // of all blocks
	used   int32 // the index of the last block that was found or kept

	// Blocks were forgotten. The next message may be the only one for a while, so it is not kept.
	forgotten bool
}

// A knownBlock is a field block, with the fields that it means.
type knownBlock[F Field] struct {
	generation uint64 // the number of changes of the compression table before it
	octets     []byte
	fields     []F
	size       int
	path       literal // the :path of a request
	shared     bool    // fields are also used elsewhere and must not be overwritten
	head       Head    // what the fields of a response say
}

// A literal is a field that a block contains in full: its index in the fields, and the range of its
// bytes in the block. If there is none, to is 0.
type literal struct{ field, from, to int }

// isAt reports whether the literal is the field with that index.
func (l literal) isAt(field int) bool { return l.to > 0 && l.field == field }

// The limits of the cache: the number of blocks, the size of each, and the size of all. A size is
// that of the list (RFC 9113 §6.5.2), or that of the block if it is larger.
const (
	maxKnown      = 8
	maxKnownSize  = 16 << 10
	maxKnownTotal = 32 << 10
)

// last returns the block that was found or kept last, and nil if the table has changed since.
func (c *cache[F]) last(generation uint64) *knownBlock[F] {
	if int(c.used) < len(c.blocks) && c.blocks[c.used].generation == generation {
		return &c.blocks[c.used]
	}
	return nil
}

// find returns the block with these bytes, and nil if there is none or if the table has changed
// since.
func (c *cache[F]) find(generation uint64, octets []byte) *knownBlock[F] {
	if b := c.last(generation); b != nil && bytes.Equal(b.octets, octets) {
		return b
	}
	for i := range c.blocks {
		if b := &c.blocks[i]; b.generation == generation && bytes.Equal(b.octets, octets) {
			c.used = int32(i)
			return b
		}
	}
	return nil
}

// forget drops all blocks.
func (c *cache[F]) forget() { *c = cache[F]{forgotten: true} }

// keep copies a block that did not change the table, and its fields. size is that of the list. It
// returns nil if that is too large, and for the first block after forget.
func (c *cache[F]) keep(generation uint64, octets []byte, fields []F, size int) *knownBlock[F] {
	size = max(size, len(octets))
	if c.forgotten || size > maxKnownSize {
		c.forgotten = false
		return nil
	}
	var b knownBlock[F]
	for n := len(c.blocks); n == maxKnown || c.size+size > maxKnownTotal; n-- {
		b = c.blocks[0] // its memory is reused
		c.size -= b.size
		copy(c.blocks, c.blocks[1:])
		c.blocks = c.blocks[:n-1]
	}
	if b.shared {
		b.fields = nil
	}
	clear(b.fields)
	c.blocks = append(c.blocks, knownBlock[F]{
		generation: generation, size: size, octets: append(b.octets[:0], octets...),
		fields: append(b.fields[:0], fields...),
	})
	c.size += size
	c.used = int32(len(c.blocks) - 1)
	return &c.blocks[c.used]
}

// The lists of fewFields fields that are not used, which are clear. Connections that send and
// receive messages now and then share them.
var writtenLists, readLists sync.Pool // of *[fewFields]F, each of one type F

// takeList returns an empty list with capacity for fewFields fields.
func takeList[F Field](lists *sync.Pool) []F {
	if list, ok := lists.Get().(*[fewFields]F); ok {
		return list[:0]
	}
	return make([]F, 0, fewFields)
}

// giveList makes list, which is not used any more, available to takeList. It drops a list of
// another capacity.
func giveList[F Field](lists *sync.Pool, list []F) {
	if cap(list) == fewFields {
		clear(list[:fewFields])
		lists.Put((*[fewFields]F)(list[:fewFields]))
	}
}
