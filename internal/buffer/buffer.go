// Package buffer holds the bytes that have arrived on a stream and are not read yet. A Buffer is a
// FIFO of bytes in pooled blocks. Nothing here blocks, locks or sets a limit: the caller's mutex
// guards a Buffer, and the stream's flow-control window bounds it.
package buffer

import "sync"

// A Buffer is the receive buffer of one stream. The zero value is an empty buffer that is ready to
// use.
type Buffer struct {
	head, tail *Block // read from head, write to tail; both are nil if the buffer is empty
	len        int    // bytes in all blocks
}

// Len returns the number of bytes that are not read yet.
func (b *Buffer) Len() int { return b.len }

// Write copies p into the buffer. A new block is filled by more than half, or is no larger than the
// unread data before it.
func (b *Buffer) Write(p []byte) {
	for len(p) > 0 {
		if b.tail == nil || b.tail.room() == 0 {
			b.grow(max(2*len(p)-1, b.len))
		}
		n := b.tail.write(p)
		p = p[n:]
		b.len += n
	}
}

// Adopt appends k, whose Space begins with n bytes of data, without copying it. It refuses and
// returns false if more memory would stay unused, in k and in the block before it, than n bytes: a
// peer must not make us hold much more memory than it sends data. The caller keeps k then.
func (b *Buffer) Adopt(k *Block, n int) bool {
	idle := len(k.data) - n
	if b.tail != nil {
		idle += b.tail.room()
	}
	if idle > n {
		return false
	}
	if k.w != 0 {
		panic("BUG: a block was adopted that is in use")
	}
	k.w = n
	b.append(k)
	b.len += n
	return true
}

// Read moves up to len(p) bytes to p and returns their number, which is 0 if the buffer is empty.
func (b *Buffer) Read(p []byte) (n int) {
	for n < len(p) && b.head != nil {
		n += b.head.read(p[n:])
		if b.head.unread() == 0 {
			b.drop()
		}
	}
	b.len -= n
	return n
}

// Reset drops all data, frees all blocks, and returns how many bytes were dropped.
func (b *Buffer) Reset() int {
	n := b.len
	for b.head != nil {
		b.drop()
	}
	b.len = 0
	return n
}

// grow appends an empty block that suits size more bytes.
func (b *Buffer) grow(size int) { b.append(Take(size)) }

// append appends k as the last block.
func (b *Buffer) append(k *Block) {
	if b.tail == nil {
		b.head = k
	} else {
		b.tail.next = k
	}
	b.tail = k
}

// drop removes the first block and frees it.
func (b *Buffer) drop() {
	k := b.head
	b.head = k.next
	if b.head == nil {
		b.tail = nil
	}
	k.Free()
}

// sizes are the sizes of blocks. Each is four times the one before, so that a body takes few blocks
// and no block is much larger than the body. A full DATA frame of the initial
// SETTINGS_MAX_FRAME_SIZE fits one block of 16 KiB. Blocks of 64 KiB serve streams whose reader is
// slow.
var sizes = [...]int{1 << 10, 1 << 12, 1 << 14, 1 << 16}

// pools hold the free blocks of each size.
var pools [len(sizes)]sync.Pool // of *Block

// A Block is a piece of memory. It belongs to one Buffer, to its pool, or to the caller that took
// it from the pool.
type Block struct {
	next  *Block
	r, w  int // data[r:w] is unread, data[w:] is free
	class int // the index into sizes and pools
	data  []byte
}

// pooled is the value of w while a block is in its pool. It is not a valid index into data, so a
// user that still has the block panics instead of sharing the memory with another stream.
const pooled = -1

// Take returns an empty block of the largest size that does not exceed want, or of the smallest
// size if all exceed it.
func Take(want int) *Block {
	class := 0
	for class+1 < len(sizes) && sizes[class+1] <= want {
		class++
	}
	k, _ := pools[class].Get().(*Block)
	if k == nil {
		k = &Block{class: class, data: make([]byte, sizes[class])}
	}
	k.w = 0
	return k
}

// Space returns the memory of a block that belongs to no Buffer.
func (k *Block) Space() []byte { return k.data }

// Free returns k to its pool.
func (k *Block) Free() {
	if k.w == pooled {
		panic("BUG: a block was freed twice")
	}
	k.next, k.r, k.w = nil, 0, pooled
	pools[k.class].Put(k)
}

// room returns how many bytes can still be written.
func (k *Block) room() int { return len(k.data) - k.w }

// unread returns how many bytes can be read.
func (k *Block) unread() int { return k.w - k.r }

// write copies as much of p as fits, and returns its length.
func (k *Block) write(p []byte) int {
	n := copy(k.data[k.w:], p)
	k.w += n
	return n
}

// read copies as much as fits into p, and returns its length.
func (k *Block) read(p []byte) int {
	n := copy(p, k.data[k.r:k.w])
	k.r += n
	return n
}
