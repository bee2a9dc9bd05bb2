package hyper

import (
	"bufio"
	"errors"
	"io"
	"math/bits"
	"reflect"

	"github.com/andybalholm/brotli"
)

// A brotliReader decodes one brotli stream by a brotli.Reader (v1.2.8). Its cost is proportional to
// the bytes received, not to the sizes that they claim:
//
//   - The window, of up to 16 MiB (RFC 7932 §9.1), is not allocated before it is needed. Decoding
//     begins with a window of at most 256 KiB, which is enough for that many bytes. A longer body
//     is decoded again from its beginning with a larger window: four times the last one, or
//     windowPerOctet times the bytes received if that is more, but at most the claimed one. The
//     code tables use up to 3 MiB in addition (TestMemoryOfABodyFollowsWhatWasReceived).
//   - Each metablock, even an empty one of one byte, makes brotli.Reader clear the code tables of
//     the last metablock that had any. The bytes cleared are counted and bounded by clearsPerOctet.
//   - A stream may end in short reads. brotli.Reader returns an error for bytes after the stream.
//     If it had to keep some bytes from one read to the next, it returns that error for the last
//     bytes of the stream as well (Reader.Read: buffer_length > 0). To distinguish the two cases,
//     decode reads again: only if no bytes are left does brotli.Reader ask for more.
type brotliReader struct {
	brotli.Reader
	state brotliState
	feed  brotliFeed

	window  int   // log2 of the window used for decoding
	claimed int   // log2 of the window that the stream asks for
	out     int64 // bytes returned
	// failed says that brotli.Reader returned an error that may not occur with a larger window.
	failed bool
}

// Bounds on the memory of a brotliReader.
const (
	firstWindow    = 18  // log2 of 256 KiB
	windowPerOctet = 256 // bytes of window for each byte received
	// maxPast is the number of received bytes that are kept to decode them again. That many bytes
	// justify a window of any size.
	maxPast   = 64 << 10
	maxPooled = 1 << 20 // bytes of memory that a decoder in the pool may hold
)

// Errors of a brotliFeed.
var (
	// errBrotliOver is what a brotliFeed returns when brotli.Reader reads after the end of its
	// stream.
	errBrotliOver = errors.New("brotli: asked for more after the end")
	// errSilentWork means that the bound clearsPerOctet was exceeded.
	errSilentWork = errors.New("brotli: too many empty metablocks")
)

// newBrotliReader returns a brotliReader without input.
func newBrotliReader() *brotliReader {
	z := &brotliReader{}
	z.state = brotliStateOf(&z.Reader)
	z.feed.state = &z.state
	return z
}

// reset implements resetter. It reads the window that the stream claims.
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

// reusable reports whether the decoder may serve another body: it has read the whole body and holds
// little memory.
func (z *brotliReader) reusable(clean bool) bool {
	if !clean || z.state.memory()+cap(z.feed.past) > maxPooled {
		return false
	}
	z.feed = brotliFeed{state: &z.state, past: z.feed.past[:0]}
	return true
}

// begin starts decoding at the beginning of the stream, with z.window.
func (z *brotliReader) begin() {
	z.feed.start(z.window, z.window < z.claimed)
	z.Reader.Reset(&z.feed) // never an error
}

// Read returns decoded bytes. It enlarges the window when the next bytes may need a larger one.
func (z *brotliReader) Read(p []byte) (int, error) {
	for z.window < z.claimed {
		// The first 2^window-16 bytes are decoded correctly, because no distance in them can be
		// beyond the window (RFC 7932 §9.1).
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

// grow enlarges the window and decodes again the bytes that were returned.
func (z *brotliReader) grow() error {
	earned := bits.Len64(uint64(z.feed.received)*windowPerOctet) - 1
	z.window = min(z.claimed, max(z.window+2, earned))
	z.failed = false
	// Reset keeps some state that is valid only at the end of a stream.
	z.Reader = brotli.Reader{}
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

// decode is Reader.Read, except that it returns io.EOF or errTrailing at the end of a stream.
func (z *brotliReader) decode(p []byte) (int, error) {
	n, err := z.Reader.Read(p)
	z.feed.made += n
	if err != nil && err.Error() == "brotli: excessive input" {
		z.feed.phase = feedOver
		if _, err = z.Reader.Read(make([]byte, 1)); err == errBrotliOver {
			return n, io.EOF
		}
		err = errTrailing
	}
	return n, err
}

// claimedWindow returns log2 of the window that the first byte of a stream claims (RFC 7932 §9.1),
// or 0 if the byte is not valid.
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
	case 1: // a large window of RFC 9841, which brotli.Reader refuses
		return 0
	default:
		return 8 + n
	}
}

// A brotliFeed is the input of brotli.Reader: the bytes received, with another window in the first
// byte. It counts the work that brotli.Reader does on them.
type brotliFeed struct {
	in       *bufio.Reader
	state    *brotliState
	received int64 // bytes received
	phase    brotliPhase

	window int    // log2, replaces the window received; 0: no replacement
	keep   bool   // keep received bytes in past
	past   []byte // bytes received
	again  []byte // part of past to be read before in

	// cleared is the number of bytes of code tables that were cleared, at most.
	cleared int64
	// given is the number of bytes that the last Read returned.
	given int
	// left is the number of bytes that the metablock had still to decode to at the last Read. It is
	// 0 between metablocks.
	left int
	// run is the number of literals still to come of a run that had begun at the last Read. left
	// does not count them. run has no meaning outside a run.
	run int
	// tables is the size of the code tables at the last Read, in bytes.
	tables int
	// made is the number of bytes decoded since the last Read.
	made int
}

// Bounds on the work of brotli.Reader.
const (
	clearsGrace    = 32 << 20 // bytes cleared before clearsPerOctet applies
	clearsPerOctet = 16 << 10 // bytes cleared for each byte received
	smallTables    = 32 << 10 // bytes of tables whose clears are not counted
)

// A brotliPhase is how far a feed is.
type brotliPhase uint8

// The values of brotliPhase.
const (
	feedBegins brotliPhase = iota // no bytes were read since start
	feedGoesOn
	feedOver // the stream has ended: return errBrotliOver
)

// start makes the feed begin again with the first byte. window is log2 of the window that replaces
// the one received. keep says whether to keep the bytes received after that.
func (f *brotliFeed) start(window int, keep bool) {
	f.window, f.keep, f.phase = window, keep, feedBegins
	f.again, f.given = f.past, 0
	if !keep {
		f.past = nil
	}
}

// Read returns as many bytes as the work on them can be counted for.
func (f *brotliFeed) Read(p []byte) (n int, err error) {
	if f.phase == feedOver {
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
	if f.phase == feedBegins && n > 0 {
		f.phase = feedGoesOn
		// Only windows of this size are replaced. All of them are encoded in the same bits.
		if f.window >= firstWindow {
			p[0] = p[0]&^0x0e | byte(f.window-17)<<1
		}
	}
	f.given = n
	return n, err
}

// pace returns how many bytes may be read at once. It also counts the bytes of code tables that the
// bytes of the last Read cleared at most. Between metablocks, and shortly before the end of one, it
// returns 1, because each byte can be a metablock of its own.
func (f *brotliFeed) pace() int {
	if !f.state.known {
		return maxPast
	}
	left, run, tables := f.state.left(), int(f.state.run.Int()), f.state.tables()
	// All bytes decoded since the last Read belong to one run if the run became shorter by as many.
	inRun := f.made > 0 && run == f.run-f.made
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
	if f.made > 0 { // these bytes may be of a run
		n = max(n, min(run/16, 32))
	}
	f.left, f.run, f.tables, f.made = left, run, tables, 0
	return n
}

// A brotliState reads private fields of a brotli.Reader by reflection, because brotli.Reader does
// not report its memory and its position.
type brotliState struct {
	tableValues   [3]reflect.Value // of the three kinds of prefix codes
	ring          reflect.Value    // the ring buffer, which holds the window
	position      reflect.Value    // in the ring buffer
	roundTrips    reflect.Value    // number of times that the ring buffer was filled
	remaining     reflect.Value    // bytes that the metablock still decodes to
	metadataBlock reflect.Value    // 0: the metablock is not metadata
	run           reflect.Value    // literals still to come of the present run
	known         bool             // all fields were found
}

// brotliStateOf returns the state of r.
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

// tables returns the size of the code tables in use, in bytes, or 0 if that is unknown.
func (s *brotliState) tables() (n int) {
	if s.known {
		for _, v := range s.tableValues {
			n += v.Len() * int(v.Type().Elem().Size())
		}
	}
	return n
}

// memory returns the number of bytes of memory that the brotli.Reader holds. If that is unknown, it
// is more than maxPooled.
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

// left returns the least number of bytes that the metablock still decodes to. It is 0 outside a
// metablock and in metadata.
func (s *brotliState) left() int {
	if !s.known || s.metadataBlock.Uint() != 0 {
		return 0
	}
	return int(s.remaining.Int())
}

// beyond reports whether more than limit bytes may have been decoded, whether or not they were
// returned.
func (s *brotliState) beyond(limit int64) bool {
	return !s.known || s.roundTrips.Uint() > 0 || s.position.Int() >= limit
}
