// Package buffer holds what has arrived on one stream and is not read yet: a FIFO of
// octets in pooled blocks. Nothing here blocks, locks or sets a limit; the caller's
// mutex guards a Buffer, and the stream's flow-control window bounds it.
package buffer

import "sync"

// A Buffer is the receive buffer of one stream. The zero value is empty and ready.
type Buffer struct {
	head, tail *Block // head is read from, tail is written to; both nil when empty
	len        int    // octets in all blocks
}

// Len returns how many octets are waiting to be read.
func (b *Buffer) Len() int { return b.len }

// Write copies p in. A new block is filled by more than half, or is no larger than what waits before it.
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

// Adopt appends k, whose Space begins with n octets of data, and reports whether it did. It does not where more of k and of
// the block before it would lie idle than comes with it: a peer must not make us hold much more than it sends. Then k stays the caller's.
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

// Read moves up to len(p) octets out and returns how many, 0 when the buffer is empty.
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

// Reset drops everything, gives all blocks back and returns how many octets were dropped.
func (b *Buffer) Reset() int {
	n := b.len
	for b.head != nil {
		b.drop()
	}
	b.len = 0
	return n
}

// grow appends an empty block that suits size more octets.
func (b *Buffer) grow(size int) { b.append(Take(size)) }

func (b *Buffer) append(k *Block) {
	if b.tail == nil {
		b.head = k
	} else {
		b.tail.next = k
	}
	b.tail = k
}

// drop gives the first block back.
func (b *Buffer) drop() {
	k := b.head
	b.head = k.next
	if b.head == nil {
		b.tail = nil
	}
	k.Free()
}

// sizes are the block sizes. Each is four times the one before, so that a body takes few
// blocks and none of them dwarfs it. A full DATA frame of the initial SETTINGS_MAX_FRAME_SIZE
// fits one block of 16 KiB; blocks of 64 KiB serve streams whose reader is behind.
var sizes = [...]int{1 << 10, 1 << 12, 1 << 14, 1 << 16}

var pools [len(sizes)]sync.Pool // of *Block, each with data of that size

// A Block is a piece of memory that belongs to one Buffer, to its pool, or to who took it from there.
type Block struct {
	next  *Block
	r, w  int // data[r:w] is unread, data[w:] is free
	class int // index into sizes and pools
	data  []byte
}

// pooled is w while a block is in its pool. It is no index into data, so whoever still
// holds the block panics instead of sharing the memory with another stream.
const pooled = -1

// Take returns an empty block of the largest size that does not exceed want, or else of the smallest size.
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

// Space is the memory of a block that no Buffer has.
func (k *Block) Space() []byte { return k.data }

// Free gives k back.
func (k *Block) Free() {
	if k.w == pooled {
		panic("BUG: a block was freed twice")
	}
	k.next, k.r, k.w = nil, 0, pooled
	pools[k.class].Put(k)
}

func (k *Block) room() int   { return len(k.data) - k.w }
func (k *Block) unread() int { return k.w - k.r }

func (k *Block) write(p []byte) int {
	n := copy(k.data[k.w:], p)
	k.w += n
	return n
}

func (k *Block) read(p []byte) int {
	n := copy(p, k.data[k.r:k.w])
	k.r += n
	return n
}
