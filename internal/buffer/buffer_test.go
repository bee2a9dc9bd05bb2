package buffer

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gohyper.dev/hyper/internal/h2test"
)

// pattern returns n bytes in which neighbouring bytes and neighbouring blocks differ.
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return p
}

// blocks returns the sizes of the blocks that b holds.
func blocks(b *Buffer) (sizes []int) {
	for k := b.head; k != nil; k = k.next {
		sizes = append(sizes, len(k.data))
	}
	return sizes
}

// held returns the size of all blocks that b holds.
func held(b *Buffer) (n int) {
	for _, size := range blocks(b) {
		n += size
	}
	return n
}

// wantBlocks requires that b holds blocks of these sizes.
func wantBlocks(t *testing.T, why string, b *Buffer, want ...int) {
	t.Helper()
	if got := blocks(b); !slices.Equal(got, want) {
		t.Fatalf("%s: blocks %v, want %v", why, got, want)
	}
}

// wantRead requires that a Read of room bytes returns want.
func wantRead(t *testing.T, why string, b *Buffer, room int, want string) {
	t.Helper()
	p := make([]byte, room)
	if n := b.Read(p); string(p[:n]) != want {
		t.Fatalf("%s: read %q, want %q", why, p[:n], want)
	}
}

// wantLen requires that b has want unread bytes.
func wantLen(t *testing.T, why string, b *Buffer, want int) {
	t.Helper()
	if got := b.Len(); got != want {
		t.Fatalf("%s: Len is %d, want %d", why, got, want)
	}
}

func TestZeroBufferIsEmptyAndReady(t *testing.T) {
	var b Buffer
	wantLen(t, "nothing was written", &b, 0)
	wantRead(t, "nothing was written", &b, 10, "")
	b.Write(nil)
	wantBlocks(t, "an empty DATA frame holds no memory", &b)
	if n := b.Reset(); n != 0 {
		t.Fatalf("Reset dropped %d bytes of an empty buffer", n)
	}
	b.Write([]byte("hello"))
	wantRead(t, "after Reset", &b, 10, "hello")
}

func TestBytesLeaveInTheOrderTheyCame(t *testing.T) {
	var b Buffer
	b.Write([]byte("hello, "))
	b.Write([]byte("world"))
	wantLen(t, "two writes", &b, 12)
	wantRead(t, "less than the first write", &b, 5, "hello")
	wantRead(t, "no room", &b, 0, "")
	wantRead(t, "across both writes", &b, 4, ", wo")
	wantLen(t, "three reads", &b, 3)
	wantRead(t, "more room than bytes", &b, 10, "rld")
	wantRead(t, "drained", &b, 10, "")
	wantLen(t, "drained", &b, 0)
}

func TestWriteKeepsNoReferenceToItsArgument(t *testing.T) {
	var b Buffer
	p := []byte("hello")
	b.Write(p)
	copy(p, "XXXXX")
	wantRead(t, "the frame reader reused its memory", &b, 5, "hello")
}

func TestBlocksSuitTheBody(t *testing.T) {
	const k = 1 << 10
	tests := []struct {
		body string
		len  int
		want []int
	}{
		{"one byte", 1, []int{k}},
		{"1 KiB", k, []int{k}},
		{"a little more than 1 KiB", k + 1, []int{k, k}},
		{"4 KiB", 4 * k, []int{4 * k}},
		{"5,000 bytes", 5000, []int{4 * k, 4 * k}},
		{"a full DATA frame", 16 * k, []int{16 * k}},
		{"one byte less", 16*k - 1, []int{16 * k}},
		{"half a full DATA frame", 8 * k, []int{4 * k, 4 * k}},
		{"a little more than half", 8*k + 1, []int{16 * k}},
		{"a full DATA frame of 64 KiB", 64 * k, []int{64 * k}},
		{"a frame of 100,000 bytes", 100_000, []int{64 * k, 64 * k}},
	}
	for _, test := range tests {
		t.Run(test.body, func(t *testing.T) {
			var b Buffer
			defer b.Reset()
			b.Write(pattern(test.len))
			wantBlocks(t, "one write", &b, test.want...)
			got := make([]byte, test.len)
			if n := b.Read(got); n != test.len || !bytes.Equal(got, pattern(n)) {
				t.Fatalf("read %d of %d bytes, or others than were written", n, test.len)
			}
			wantBlocks(t, "all was read", &b)
		})
	}
}

func TestBacklogGrowsInLargeBlocks(t *testing.T) {
	var b Buffer
	defer b.Reset()
	frame := pattern(16 << 10)
	for range 16 {
		b.Write(frame)
	}
	wantBlocks(t, "16 full DATA frames that are not read", &b,
		16<<10, 16<<10, 16<<10, 16<<10, 64<<10, 64<<10, 64<<10)
}

func TestTinyWritesShareBlocks(t *testing.T) {
	var b Buffer
	defer b.Reset()
	for i := range 100_000 {
		b.Write([]byte{byte(i)})
	}
	if got := len(blocks(&b)); got > 20 {
		t.Fatalf("100,000 DATA frames of one byte hold %d blocks", got)
	}
}

// A peer must not make us hold much more memory than it sends data.
func TestWritesHoldAtMostTwiceWhatTheyWrote(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var b Buffer
		for b.Len() < 1<<19 {
			b.Write(make([]byte, r.IntN(1<<r.IntN(17))+1))
			if most := max(1<<10, 2*b.Len()); held(&b) > most {
				t.Fatalf("%d bytes hold %d in blocks %v", b.Len(), held(&b), blocks(&b))
			}
		}
		b.Reset()
	}
}

// An adopted block leaves no more memory unused, in itself and in the block before it, than it
// brings data.
func TestBlockIsAdoptedWhereItIsFilledWell(t *testing.T) {
	const k = 1 << 10
	for _, test := range []struct {
		why           string
		written, size int
		n             int
		want          bool
	}{
		{"full", 0, 16 * k, 16 * k, true},
		{"half full", 0, 16 * k, 8 * k, true},
		{"not quite half full", 0, 16 * k, 8*k - 1, false},
		{"one byte", 0, 16 * k, 1, false},
		{"after a block that is full", 4 * k, 16 * k, 8 * k, true},
		{"after one that is not", 4*k - 1, 16 * k, 8 * k, false},
		{"after one that is not, and fuller", 4*k - 1, 16 * k, 8*k + 1, true},
		{"after one byte", 1, k, k, true},
		{"after one byte, not full", 1, k, k - 1, false},
	} {
		var b Buffer
		b.Write(pattern(test.written))
		block := Take(test.size)
		copy(block.Space(), noise[:test.n])
		if got := b.Adopt(block, test.n); got != test.want {
			t.Errorf("%s: adopted %t, want %t", test.why, got, test.want)
		}
		if b.tail == block != test.want {
			t.Errorf("%s: the block is the buffer's: %t", test.why, b.tail == block)
		}
		if !test.want {
			wantLen(t, "nothing was taken", &b, test.written)
			block.Free()
			continue
		}
		b.Write([]byte("behind"))
		want := string(pattern(test.written)) + string(noise[:test.n]) + "behind"
		wantRead(t, test.why, &b, len(want)+1, want)
		wantBlocks(t, "all was read", &b)
		if block.w != pooled {
			t.Errorf("%s: read, and not given back", test.why)
		}
	}
}

func TestAdoptingABlockTwiceIsABug(t *testing.T) {
	var b, other Buffer
	k := Take(1 << 10)
	b.Adopt(k, 1<<10)
	defer func() {
		if got, want := fmt.Sprint(recover()), "BUG: a block was adopted that is in use"; got != want {
			t.Fatalf("panic %q, want %q", got, want)
		}
	}()
	other.Adopt(k, 1<<10)
}

// Whatever the order of small and large parts, the buffer holds at most three times the data, and
// at most twice the data and one block.
func TestAdoptedBlocksHoldLittleMoreThanCame(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		var b Buffer
		for b.Len() < 1<<19 {
			n := r.IntN(1<<r.IntN(17)) + 1
			block := Take(1 << (10 + 2*r.IntN(4)))
			if n = min(n, len(block.Space())); r.IntN(3) == 0 || !b.Adopt(block, n) {
				b.Write(noise[:n])
				block.Free()
			}
			if most := max(1<<10, min(3*b.Len(), 2*b.Len()+1<<16)); held(&b) > most {
				t.Fatalf("%d bytes hold %d in blocks %v", b.Len(), held(&b), blocks(&b))
			}
		}
		b.Reset()
	}
}

func TestBlockIsFreeAsSoonAsItIsRead(t *testing.T) {
	var b Buffer
	b.Write(pattern(16 << 10))
	b.Write(pattern(1 << 10))
	wantBlocks(t, "two frames", &b, 16<<10, 16<<10)
	b.Read(make([]byte, 16<<10-1))
	wantBlocks(t, "one byte is left in the first block", &b, 16<<10, 16<<10)
	b.Read(make([]byte, 1))
	wantBlocks(t, "the first block was read to its end", &b, 16<<10)
	b.Read(make([]byte, 1<<10))
	wantBlocks(t, "the last block was read as far as it was written", &b)
}

func TestResetReturnsAllBlocks(t *testing.T) {
	var b Buffer
	for range 10 {
		b.Write(pattern(50_000))
	}
	b.Read(make([]byte, 70_000))
	before := list(&b)
	if len(before) < 3 {
		t.Fatalf("only %d blocks to give back", len(before))
	}
	if n := b.Reset(); n != 430_000 {
		t.Fatalf("Reset dropped %d bytes, want 430000", n)
	}
	if b != (Buffer{}) {
		t.Fatalf("after Reset the buffer is %+v", b)
	}
	for i, k := range before {
		if k.w != pooled || k.next != nil {
			t.Errorf("block %d of %d was not given back", i, len(before))
		}
	}
}

func TestFreeingABlockTwiceIsABug(t *testing.T) {
	k := Take(1)
	k.Free()
	defer func() {
		if got, want := fmt.Sprint(recover()), "BUG: a block was freed twice"; got != want {
			t.Fatalf("panic %q, want %q", got, want)
		}
	}()
	k.Free()
}

// list returns the blocks that b holds.
func list(b *Buffer) (all []*Block) {
	for k := b.head; k != nil; k = k.next {
		all = append(all, k)
	}
	return all
}

// A model is a Buffer and a bytes.Buffer that must always have the same content.
type model struct {
	Buffer
	want bytes.Buffer
	next int // the index in noise where the next write begins
}

// noise is what a model writes, and poison overwrites free blocks.
var (
	noise  = pattern(1 << 18)
	poison = bytes.Repeat([]byte{0xdb}, sizes[len(sizes)-1])
)

func (m *model) write(n int) {
	p := noise[m.next:][:n]
	m.next = (m.next + n + 1) % (len(noise) / 2)
	m.Write(p)
	m.want.Write(p)
}

// adopt offers a block with n bytes to the Buffer, and writes the bytes if it refuses the block.
func (m *model) adopt(n int) {
	k := Take(n)
	n = min(n, len(k.data))
	p := noise[m.next:][:n]
	m.next = (m.next + n + 1) % (len(noise) / 2)
	copy(k.Space(), p)
	if !m.Adopt(k, n) {
		m.Write(p)
		k.Free()
		copy(k.data, poison)
	}
	m.want.Write(p)
}

func (m *model) read(t *testing.T, n int) {
	t.Helper()
	before := list(&m.Buffer)
	got := make([]byte, n)
	got = got[:m.Read(got)]
	if want := m.want.Next(n); !bytes.Equal(got, want) {
		t.Fatalf("read %d bytes, want %d, or they differ", len(got), len(want))
	}
	m.wantFree(t, before)
}

func (m *model) reset(t *testing.T) {
	t.Helper()
	before := list(&m.Buffer)
	if got := m.Reset(); got != m.want.Len() {
		t.Fatalf("Reset dropped %d bytes, want %d", got, m.want.Len())
	}
	m.want.Reset()
	m.wantFree(t, before)
}

// wantFree checks that the blocks in before that m does not hold any more are in their pools. It
// overwrites them, so that a later read from them is detected.
func (m *model) wantFree(t *testing.T, before []*Block) {
	t.Helper()
	now := list(&m.Buffer)
	for _, k := range before {
		if slices.Contains(now, k) {
			continue
		}
		if k.w != pooled || k.next != nil {
			t.Fatal("the buffer lost a block without giving it back")
		}
		copy(k.data, poison)
	}
}

func (m *model) check(t *testing.T) {
	t.Helper()
	unread := 0
	var last *Block
	for k := m.head; k != nil; k = k.next {
		if k.w == pooled || k.unread() <= 0 || k.next != nil && k.room() > k.next.w {
			t.Fatalf("block %d:%d of %d: freed, empty, or left with more room than the next one brought", k.r,
				k.w, len(k.data))
		}
		unread += k.unread()
		last = k
	}
	if m.tail != last || unread != m.Len() || unread != m.want.Len() {
		t.Fatalf("%d bytes in blocks, Len %d, want %d", unread, m.Len(), m.want.Len())
	}
}

// The operations alternate between several buffers, so that a block held by two of them shows as
// wrong bytes.
func TestBuffersAgreeWithBytesBuffer(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			all := make([]model, 4)
			for range 1000 {
				m := &all[r.IntN(len(all))]
				size := r.IntN(1 << r.IntN(18))
				switch op := r.IntN(100); {
				case op < 28:
					m.write(size)
				case op < 48:
					m.adopt(size)
				case op < 98:
					m.read(t, size)
				default:
					m.reset(t)
				}
				m.check(t)
			}
			for i := range all {
				all[i].read(t, all[i].Len())
				all[i].check(t)
			}
		})
	}
}

// Each pair of bytes is an operation and a size, on two buffers.
func FuzzBuffer(f *testing.F) {
	f.Add([]byte("w1r1"))
	f.Add([]byte{'W', 255, 'W', 255, 'R', 1, 'w', 3, 'x', 0, 'V', 200, 'Q', 90, 'q', 255})
	f.Add([]byte(strings.Repeat("w\x01", 300) + "R\xff"))
	f.Fuzz(func(t *testing.T, ops []byte) {
		var all [2]model
		ops = ops[:min(len(ops), 512)]
		for ; len(ops) >= 2; ops = ops[2:] {
			m := &all[ops[0]&1]
			size := int(ops[1])
			if ops[0]&0x20 == 0 {
				size *= 401 // larger than the largest block
			}
			switch ops[0] >> 1 & 3 {
			case 0:
				m.write(size)
			case 3:
				m.adopt(size)
			case 1:
				m.read(t, size)
			case 2:
				m.reset(t)
			}
			m.check(t)
		}
		for i := range all {
			all[i].reset(t)
			all[i].check(t)
		}
	})
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	if h2test.Race {
		t.Skip("under the race detector sync.Pool drops blocks on purpose")
	}
	for _, size := range []int{1, 1 << 10, 1 << 14, 1 << 18} {
		var b Buffer
		p := make([]byte, size)
		if n := testing.AllocsPerRun(1000, func() { b.Write(p); b.Read(p) }); n != 0 {
			t.Errorf("write and read of %d bytes: %v allocations", size, n)
		}
		if n := testing.AllocsPerRun(1000, func() { b.Write(p); b.Reset() }); n != 0 {
			t.Errorf("write and reset of %d bytes: %v allocations", size, n)
		}
		if size < sizes[0] {
			continue
		}
		if n := testing.AllocsPerRun(1000, func() {
			b.Adopt(Take(size),
				min(size, sizes[len(sizes)-1]))
			b.Read(p)
		}); n != 0 {
			t.Errorf("adoption and read of %d bytes: %v allocations", size, n)
		}
	}
}

func BenchmarkWriteRead(b *testing.B) {
	for _, bench := range []struct {
		name         string
		size, frames int
	}{
		{"byte", 1, 1},
		{"1KiB", 1 << 10, 1},
		{"frame", 1 << 14, 1},
		{"backlog", 1 << 14, 64},
	} {
		b.Run(bench.name, func(b *testing.B) {
			var buf Buffer
			p := make([]byte, bench.size)
			b.SetBytes(int64(bench.size * bench.frames))
			b.ReportAllocs()
			for b.Loop() {
				for range bench.frames {
					buf.Write(p)
				}
				for buf.Read(p) > 0 {
				}
			}
		})
	}
}
