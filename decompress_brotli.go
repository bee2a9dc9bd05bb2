package hyper

import (
	"bufio"
	"errors"
	"io"
	"math/bits"
	"reflect"

	"github.com/andybalholm/brotli"
)

// A brotliReader decodes one brotli stream by a brotli.Reader (v1.2.8), at a cost that follows the
// octets received, not what they claim:
//
//   - The window, of up to 16 MiB (RFC 7932 §9.1), is not allocated before it is needed. Decoding begins with one of at
//     most 256 KiB, which makes no difference for that many octets. A longer body is then decoded from its beginning
//     again, with the claimed window if windowPerOctet times the octets received make one, else with four times the
//     last one. The code tables take up to 3 MiB more.
//   - Each metablock, an empty one of one octet too, makes brotli.Reader clear the code tables of the last one that had
//     any. These clears are counted, and bounded by clearsPerOctet.
//   - A stream may end in short reads. brotli.Reader refuses what follows a stream, but also takes the stream's last
//     octets for such where it had to keep some from one read to the next (Reader.Read: buffer_length > 0). The two
//     differ in what it does then: only with none left does it ask for more.
type brotliReader struct {
	brotli.Reader
	state brotliState
	feed  brotliFeed

	window  int   // log2 of the one that is decoded with
	claimed int   // log2 of the one that the stream asks for
	out     int64 // octets returned
	failed  bool  // brotli.Reader returned an error that a larger window may not have
}

const (
	firstWindow    = 18       // log2 of 256 KiB
	windowPerOctet = 256      // octets of window for each octet received
	maxPast        = 64 << 10 // octets received that are kept for a new beginning; as many make any window
	maxPooled      = 1 << 20  // octets of memory that a decoder in the pool may hold
)

var (
	errBrotliOver = errors.New("brotli: asked for more after the end")
	errSilentWork = errors.New("brotli: too many empty metablocks")
)

func newBrotliReader() *brotliReader {
	z := &brotliReader{}
	z.state = brotliStateOf(&z.Reader)
	z.feed.state = &z.state
	return z
}

func (z *brotliReader) reset(in *bufio.Reader) error {
	first, err := in.Peek(1)
	if err != nil {
		return err
	}
	z.claimed = claimedWindow(first[0])
	z.window = min(z.claimed, firstWindow)
	z.out, z.failed = 0, false
	z.feed = brotliFeed{in: in, state: &z.state, past: z.feed.past[:0]}
	z.begin()
	return nil
}

// reusable reports whether the decoder may serve another body.
func (z *brotliReader) reusable(clean bool) bool {
	if !clean || z.state.memory()+cap(z.feed.past) > maxPooled {
		return false
	}
	z.feed = brotliFeed{state: &z.state, past: z.feed.past[:0]}
	return true
}

// begin starts at the beginning of the stream, with z.window.
func (z *brotliReader) begin() {
	z.feed.start(z.window, z.window < z.claimed)
	z.Reader.Reset(&z.feed) // never an error
}

// Read returns octets for which the window is large enough.
func (z *brotliReader) Read(p []byte) (int, error) {
	for z.window < z.claimed {
		// Up to here, no distance can reach beyond the window (RFC 7932 §9.1), which is when it
		// matters.
		room := int64(1)<<z.window - 16 - z.out
		if room == 0 || z.failed || len(z.feed.past) > maxPast {
			if err := z.grow(); err != nil {
				return 0, err
			}
			continue
		}
		n, err := z.decode(p[:min(int64(len(p)), room)])
		if err != nil && err != io.EOF && z.state.beyond(z.out+room) {
			z.failed, err = true, nil
		}
		z.out += int64(n)
		if n > 0 || err != nil {
			return n, err
		}
	}
	n, err := z.decode(p)
	z.out += int64(n)
	return n, err
}

// grow decodes again what was returned, with a larger window.
func (z *brotliReader) grow() error {
	earned := bits.Len64(uint64(z.feed.received)*windowPerOctet) - 1
	z.window = min(z.claimed, max(z.window+2, earned))
	z.failed = false
	z.Reader = brotli.Reader{} // Reset trusts some of its state, which is only good at the end of a stream
	z.begin()
	scratch := make([]byte, min(z.out, 8<<10))
	for left := z.out; left > 0; {
		n, err := z.decode(scratch[:min(left, int64(len(scratch)))])
		if left -= int64(n); err != nil {
			return err
		}
	}
	return nil
}

// decode is Reader.Read, but for the end of a stream.
func (z *brotliReader) decode(p []byte) (int, error) {
	n, err := z.Reader.Read(p)
	z.feed.made += n
	if err != nil && err.Error() == "brotli: excessive input" {
		z.feed.over = true
		if _, err = z.Reader.Read(make([]byte, 1)); err == errBrotliOver {
			return n, io.EOF
		}
		err = errTrailing
	}
	return n, err
}

// claimedWindow returns log2 of the window in a stream's first octet (RFC 7932 §9.1), 0 where there
// is none.
func claimedWindow(first byte) int {
	if first&1 == 0 {
		return 16
	}
	if n := int(first >> 1 & 7); n != 0 {
		return 17 + n
	}
	switch n := int(first >> 4 & 7); n {
	case 0:
		return 17
	case 1: // the large windows of RFC 9841, which brotli.Reader refuses
		return 0
	default:
		return 8 + n
	}
}

// A brotliFeed is what brotli.Reader reads from: the octets received, with another window in the
// first of them. It counts the work that is done on them.
type brotliFeed struct {
	in       *bufio.Reader
	state    *brotliState
	received int64
	over     bool // brotli.Reader is to be told that it asks for more

	window int    // in place of the one that was received; 0: that one
	keep   bool   // what is received, in past
	past   []byte // received
	again  []byte // of past: to be read before in
	first  bool   // nothing was read since start

	cleared int64 // octets of code tables, at most
	given   int   // octets of the last Read
	left    int   // octets that the metablock was still to decode to by then, 0 between two
	run     int   // of these, literals of a run that has begun, which left does not count; anything where there is none
	tables  int   // octets of code tables by then
	made    int   // octets decoded since
}

const (
	clearsGrace    = 32 << 20 // octets that are cleared before clearsPerOctet counts
	clearsPerOctet = 16 << 10 // octets that are cleared for each octet received
	smallTables    = 32 << 10 // octets of tables that are not counted
)

// start begins with the first octet again, with the window's size as log2.
func (f *brotliFeed) start(window int, keep bool) {
	f.window, f.keep, f.first = window, keep, true
	f.again, f.given, f.over = f.past, 0, false
	if !keep {
		f.past = nil
	}
}

// Read returns as many octets as the work on them stays known for.
func (f *brotliFeed) Read(p []byte) (n int, err error) {
	if f.over {
		return 0, errBrotliOver
	}
	if p = p[:min(len(p), f.pace())]; f.cleared > clearsGrace+clearsPerOctet*f.received {
		return 0, errSilentWork
	}
	if len(f.again) > 0 {
		n = copy(p, f.again)
		f.again = f.again[n:]
	} else {
		n, err = f.in.Read(p)
		f.received += int64(n)
		if f.keep {
			f.past = append(f.past, p[:n]...)
		}
	}
	if f.first && n > 0 {
		f.first = false
		if f.window >= firstWindow { // only these are changed, all of them in the same bits
			p[0] = p[0]&^0x0e | byte(f.window-17)<<1
		}
	}
	f.given = n
	return n, err
}

// pace returns how many octets may be read at once, and counts what those of the last time have
// cleared at most. Between metablocks, and shortly before the end of one, octets come one by one:
// each can be a metablock of its own.
func (f *brotliFeed) pace() int {
	if !f.state.known {
		return maxPast
	}
	left, run, tables := f.state.left(), int(f.state.run.Int()), f.state.tables()
	inRun := f.made > 0 && run == f.run-f.made // and nowhere else
	if f.given > 0 && f.made >= f.left && !inRun {
		// A metablock has ended, or there was none.
		if left == 0 {
			f.tables = max(f.tables, tables)
		}
		if f.tables > smallTables {
			f.cleared += int64(f.given) * int64(f.tables)
		}
	}
	n := min(max(1, left/1024), 128)
	if f.made > 0 { // it may be a run
		n = max(n, min(run/16, 32))
	}
	f.left, f.run, f.tables, f.made = left, run, tables, 0
	return n
}

// A brotliState looks into a brotli.Reader, which does not tell what it holds and where it is.
type brotliState struct {
	tableValues   [3]reflect.Value // of the three kinds of prefix codes
	ring          reflect.Value
	position      reflect.Value // in the ring
	roundTrips    reflect.Value // of the ring
	remaining     reflect.Value // octets of the metablock
	metadataBlock reflect.Value // 0: it is none
	run           reflect.Value // literals that a run still has, within one
	known         bool          // all of them were found
}

func brotliStateOf(r *brotli.Reader) brotliState {
	s := brotliState{known: true}
	reader := reflect.ValueOf(r).Elem()
	find := func(in reflect.Value, name string, is func(reflect.Value) bool) reflect.Value {
		if in.Kind() == reflect.Struct {
			if f := in.FieldByName(name); f.IsValid() && is(f) {
				return f
			}
		}
		s.known = false
		return reflect.Value{}
	}
	isStruct := func(v reflect.Value) bool { return v.Kind() == reflect.Struct }
	isSlice := func(v reflect.Value) bool { return v.Kind() == reflect.Slice }
	for i, name := range []string{"literal_hgroup", "insert_copy_hgroup", "distance_hgroup"} {
		s.tableValues[i] = find(find(reader, name, isStruct), "codes", isSlice)
	}
	s.ring = find(reader, "ringbuffer", isSlice)
	s.position = find(reader, "pos", reflect.Value.CanInt)
	s.roundTrips = find(reader, "rb_roundtrips", reflect.Value.CanUint)
	s.remaining = find(reader, "meta_block_remaining_len", reflect.Value.CanInt)
	s.run = find(reader, "loop_counter", reflect.Value.CanInt)
	s.metadataBlock = find(reader, "is_metadata", reflect.Value.CanUint)
	return s
}

// tables returns the octets of the code tables in use, 0 where that is not known.
func (s *brotliState) tables() (n int) {
	if s.known {
		for _, v := range s.tableValues {
			n += v.Len() * int(v.Type().Elem().Size())
		}
	}
	return n
}

// memory returns the octets that are held.
func (s *brotliState) memory() int {
	if !s.known {
		return maxPooled + 1
	}
	n := s.ring.Cap()
	for _, v := range s.tableValues {
		n += v.Cap() * int(v.Type().Elem().Size())
	}
	return n
}

// left returns how many octets the metablock is still to decode to, at least; 0 outside of one and
// in metadata.
func (s *brotliState) left() int {
	if !s.known || s.metadataBlock.Uint() != 0 {
		return 0
	}
	return int(s.remaining.Int())
}

// beyond reports whether more than limit octets may have been decoded, returned or not.
func (s *brotliState) beyond(limit int64) bool {
	return !s.known || s.roundTrips.Uint() > 0 || s.position.Int() >= limit
}
