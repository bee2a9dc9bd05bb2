package hyper

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"gohyper.dev/hyper/internal/buffer"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// testReader returns a frame reader of src that is configured as that of a connection.
func testReader(t testing.TB, src io.Reader, cfg *Config) *frameReader {
	t.Helper()
	full, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	r := newFrameReader(src, &full)
	r.onRead = func(int) {}
	return r
}

// A readFrame is a frame as its receiver sees it, with the parts of DATA joined.
type readFrame struct {
	wire.FrameHeader
	payload  string
	padding  int
	fields   string
	promised uint32
	whole    bool // its last part has arrived
}

// readAll reads frames to the end, and checks that next does not read the socket when more reported
// a frame. It records a stream error as a frame. It runs calls before each frame.
func readAll(r *frameReader, calls ...func()) (frames []readFrame, err error) {
	reads := 0
	r.onRead = func(int) { reads++ }
	for {
		for _, f := range calls {
			f()
		}
		more, before := r.more(), reads
		f, err := r.next()
		if more && (reads > before || err == io.EOF || err == io.ErrUnexpectedEOF) {
			return frames, fmt.Errorf("%v read the socket for a frame that was at hand: %v", f.FrameHeader,
				err)
		}
		if we, ok := err.(*wire.Error); ok && we.StreamID != 0 {
			frames = append(frames, readFrame{fields: we.Error(), whole: true})
			continue
		}
		if err != nil {
			return frames, err
		}
		if f.Type == wire.Data && !f.first {
			last := &frames[len(frames)-1]
			if last.whole || f.padding != 0 {
				return frames, fmt.Errorf("a part of %v behind its last one, or with padding %d",
					f.FrameHeader, f.padding)
			}
			last.payload += string(f.payload)
			last.whole = f.last
			continue
		}
		frames = append(frames, readFrame{
			FrameHeader: f.FrameHeader, payload: string(f.payload), padding: f.padding,
			fields:   fmt.Sprint(f.fields),
			promised: f.promised, whole: f.last || f.Type != wire.Data,
		})
	}
}

func TestFramesDoNotDependOnHowBytesArrive(t *testing.T) {
	octets := everyFrame()
	want, err := readAll(testReader(t, bytes.NewReader(octets), nil))
	if err != io.EOF || len(want) != 22 {
		t.Fatalf("%d frames and %v", len(want), err)
	}
	check := func(how string, src io.Reader) {
		t.Helper()
		r := testReader(t, src, nil)
		r.blockSize = smallBlock
		if got, err := readAll(r); err != io.EOF || !slices.Equal(got, want) {
			t.Errorf("%s: %v\ngot  %v\nwant %v", how, err, got, want)
		}
	}
	for i := range octets {
		split := func() io.Reader {
			return io.MultiReader(bytes.NewReader(octets[:i]),
				bytes.NewReader(octets[i:]))
		}
		check(fmt.Sprintf("split at %d", i), split())
		r := testReader(t, split(), nil)
		if got, err := readAll(r, func() { r.expectIdle = r.left == 0 }); err != io.EOF ||
			!slices.Equal(got, want) {
			t.Errorf("split at %d, behind silences: %v\ngot  %v\nwant %v", i, err, got, want)
		}
	}
	check("one by one", iotest.OneByteReader(bytes.NewReader(octets)))
	check("by halves", iotest.HalfReader(bytes.NewReader(octets)))
	check("with the error at the last octet", iotest.DataErrReader(bytes.NewReader(octets)))
}

func TestFramesCutShortAreNeverWhole(t *testing.T) {
	octets := everyFrame()
	all, _ := readAll(testReader(t, bytes.NewReader(octets), nil))
	for i := range octets {
		r := testReader(t, bytes.NewReader(octets[:i]), nil)
		r.blockSize = smallBlock
		got, err := readAll(r)
		if err != io.EOF && err != io.ErrUnexpectedEOF {
			t.Fatalf("cut at %d: %v", i, err)
		}
		for k, f := range got {
			// A frame whose payload is not used is returned as soon as its header has arrived.
			whole := f.whole && f.Type <= wire.Continuation && f.Type != wire.Priority
			if whole && f != all[k] {
				t.Errorf("cut at %d: frame %d is %v, want %v", i, k, f, all[k])
			}
		}
	}
}

func TestDataIsHandedOutInPartsWithItsPaddingFirst(t *testing.T) {
	src, feed := io.Pipe()
	defer src.Close()
	r := testReader(t, src, nil)
	octets := h2test.RawFrame(wire.Data, wire.Padded|wire.EndStream, 1, []byte("\x02abcdef\x00\x00"))
	ping := wire.AppendPing(nil, 0, [8]byte{})
	go func() {
		for _, p := range [][]byte{octets[:10], octets[10:13], octets[13:17], append(octets[17:], ping...)} {
			feed.Write(p)
		}
	}()
	for i, want := range []struct {
		payload     string
		first, last bool
		padding     int
	}{
		{"", true, false, 3}, // at once: its length can be checked
		{"abc", false, false, 0},
		{"def", false, true, 0}, // the last byte of the body, before the padding
	} {
		f, err := r.next()
		if err != nil || string(f.payload) != want.payload || f.first != want.first || f.last != want.last ||
			f.padding != want.padding {
			t.Errorf("part %d: %q first=%v last=%v padding=%d, %v, want %v", i, f.payload, f.first, f.last,
				f.padding, err, want)
		}
		if f.Length != 9 {
			t.Errorf("part %d: length %d of the frame", i, f.Length)
		}
	}
	if f, err := r.next(); err != nil || f.Type != wire.Ping {
		t.Errorf("behind the padding: %v, %v", f.FrameHeader, err)
	}
}

// RFC 9113 §6.1: if the length of the padding is the length of the frame payload or greater, the
// recipient MUST treat this as a connection error of type PROTOCOL_ERROR.
func TestPaddingMustLeaveRoomForItself(t *testing.T) {
	for pad, ok := range map[byte]bool{0: true, 4: true, 5: false, 6: false, 255: false} {
		r := testReader(t, bytes.NewReader(h2test.RawFrame(wire.Data, wire.Padded, 1,
			[]byte{pad, 0, 0, 0, 0})), nil)
		f, err := r.next()
		if ok && (err != nil || len(f.payload) != 4-int(pad) || f.padding != 1+int(pad)) {
			t.Errorf("padding %d of 5: %d octets and %d of padding, %v", pad, len(f.payload), f.padding, err)
		}
		if !ok {
			h2test.WantWireError(t, fmt.Sprintf("padding %d of 5", pad), err, wire.ProtocolError)
		}
	}
}

func TestReadBufferGrowsWithTrafficAndReturnsToItsStart(t *testing.T) {
	src, feed := io.Pipe()
	defer src.Close()
	r := testReader(t, src, nil)
	go func() {
		feed.Write(bytes.Repeat(wire.AppendData(nil, 1, 0, make([]byte, 16<<10)), 64))
		feed.Write(wire.AppendGoAway(nil, 0, wire.NoError, strings.Repeat("x", 100<<10)))
		for range 64 {
			feed.Write(wire.AppendPing(nil, 0, [8]byte{}))
		}
		feed.Close()
	}()
	grown, pings := 0, 0
	for {
		f, err := r.next()
		if err != nil {
			break
		}
		switch f.Type {
		case wire.Data:
			grown = max(grown, len(r.buf))
		case wire.GoAway:
			if len(f.payload) != 8+100<<10 {
				t.Errorf("a GOAWAY larger than the buffer came with %d octets", len(f.payload))
			}
		case wire.Ping:
			pings++
		}
	}
	if grown != maxReadBuffer {
		t.Errorf("DATA grew the buffer to %d, want %d", grown, maxReadBuffer)
	}
	if len(r.buf) != minReadBuffer || pings != 64 {
		t.Errorf("after %d small frames the buffer is %d, want %d", pings, len(r.buf), minReadBuffer)
	}
}

// After a pause, the first frame header is read without a buffer. What follows gets a buffer of the
// size that earlier traffic needed.
func TestQuietReaderHasNoBuffer(t *testing.T) {
	src, feed := io.Pipe()
	defer src.Close()
	r := testReader(t, src, nil)
	const frames = 16
	go func() {
		feed.Write(bytes.Repeat(wire.AppendData(nil, 1, 0, make([]byte, 16<<10)), frames))
		feed.Write(wire.AppendSettingsAck(nil))
		feed.Write(wire.AppendPing(nil, 0, [8]byte{1}))
	}()
	for left := frames; left > 0; {
		f, err := r.next()
		if err != nil {
			t.Fatal(err)
		}
		if f.last {
			left--
		}
	}
	for _, want := range []int{len(r.small), maxReadBuffer} {
		r.expectIdle = true
		f, err := r.next()
		if err != nil || len(r.buf) != want {
			t.Errorf("%v, %v: a buffer of %d, want %d", f.FrameHeader, err, len(r.buf), want)
		}
	}
	r.expectIdle = true
	src.CloseWithError(io.ErrClosedPipe)
	if _, err := r.next(); err != io.ErrClosedPipe || r.pooled != nil {
		t.Errorf("%v, and a buffer is kept: %t", err, r.pooled != nil)
	}
}

// A readLog records the size of the buffer of each Read.
type readLog struct {
	io.Reader
	room []int
}

func (l *readLog) Read(p []byte) (int, error) {
	l.room = append(l.room, len(p))
	return l.Reader.Read(p)
}

// The payload of a large frame is never copied through the read buffer. It is read into blocks that
// the stream's buffer takes over, and the next frame header is read on its own.
func TestLargeDataIsReadIntoBlocks(t *testing.T) {
	const n, inBuffer = 40 << 10, minReadBuffer - wire.HeaderLen
	body := octetsAt(1, 0, 3*n)
	octets := slices.Concat(
		wire.AppendData(nil, 1, 0, body[:n]),
		wire.AppendData(nil, 1, 0, body[n:2*n]),
		wire.AppendData(nil, 1, wire.EndStream, body[2*n:]),
		wire.AppendPing(nil, 0, [8]byte{1}),
	)
	src := &readLog{Reader: bytes.NewReader(octets)}
	r := testReader(t, src, nil)
	r.blockSize = tlsBlock
	var b buffer.Buffer
	moved := 0
	for {
		f, err := r.next()
		if err != nil || f.Type == wire.Ping {
			break
		}
		block := r.block
		if r.moveTo(&b, &f); block != nil && r.block != block {
			moved += len(f.payload)
		}
	}
	got := make([]byte, len(body)+1)
	if got = got[:b.Read(got)]; !bytes.Equal(got, body) {
		t.Errorf("%d octets arrived, of %d, or others", len(got), len(body))
	}
	const rest = n - 2*tlsBlock
	want := []int{
		minReadBuffer, tlsBlock, tlsBlock, 4 << 10, rest - inBuffer - 4<<10,
		wire.HeaderLen, tlsBlock, tlsBlock, rest,
		wire.HeaderLen, tlsBlock, tlsBlock, rest,
		readBufferStep * minReadBuffer, // after END_STREAM
	}
	if !slices.Equal(src.room, want) {
		t.Errorf("read with room for %v, want %v", src.room, want)
	}
	if want := len(body) - inBuffer; moved != want {
		t.Errorf("%d octets came with their blocks, want %d", moved, want)
	}
	if r.release(); r.block != nil || r.pooled != nil {
		t.Error("memory is kept")
	}
}

// A payload that arrives byte by byte is copied. The reader keeps the block until it reads
// something else or is released.
func TestBlockOfLittleStaysWithTheReader(t *testing.T) {
	octets := append(wire.AppendData(nil, 1, 0, octetsAt(1, 0, 2*smallBlock)),
		wire.AppendPing(nil, 0, [8]byte{1})...)
	r := testReader(t, iotest.OneByteReader(bytes.NewReader(octets)), nil)
	r.blockSize = smallBlock
	var b buffer.Buffer
	var block *buffer.Block
	for {
		f, err := r.next()
		if err != nil {
			t.Fatal(err)
		}
		if f.Type == wire.Ping {
			break
		}
		if block == nil {
			block = r.block
		}
		if r.moveTo(&b, &f); r.block != block {
			t.Fatalf("a block of %d octets was given away for %d", len(block.Space()), len(f.payload))
		}
	}
	if r.block != nil {
		t.Error("the block is kept behind its frame")
	}
	got := make([]byte, 3*smallBlock)
	if got = got[:b.Read(got)]; !bytes.Equal(got, octetsAt(1, 0, 2*smallBlock)) {
		t.Errorf("%d octets arrived, or others", len(got))
	}
}

func TestUnknownFramesAreSkippedWithoutBeingBuffered(t *testing.T) {
	octets := h2test.RawFrame(0xfe, 0, 0, make([]byte, defaultMaxFrameSize))
	octets = wire.AppendPing(octets, 0, [8]byte{7})
	r := testReader(t, bytes.NewReader(octets), nil)
	if f, err := r.next(); err != nil || f.Type != 0xfe || f.payload != nil {
		t.Fatalf("%v, %v", f.FrameHeader, err)
	}
	if len(r.buf) != readBufferStep*minReadBuffer { // one full read has enlarged it
		t.Errorf("the header alone was needed, and the buffer is %d", len(r.buf))
	}
	if f, err := r.next(); err != nil || f.Type != wire.Ping || f.payload[0] != 7 {
		t.Errorf("behind it: %v, %v", f.FrameHeader, err)
	}
	if len(r.buf) > maxReadBuffer {
		t.Errorf("the buffer grew to %d", len(r.buf))
	}
}

// RFC 9113 §4.2: an endpoint MUST send an error code of FRAME_SIZE_ERROR if a frame exceeds the
// size defined in SETTINGS_MAX_FRAME_SIZE.
func TestOversizeFrameIsRefusedAtItsHead(t *testing.T) {
	for typ := range wire.FrameType(12) {
		for _, size := range []int{defaultMaxFrameSize + 1, wire.MaxMaxFrameSize} {
			stream := uint32(1)
			if typ == wire.Settings || typ == wire.Ping || typ == wire.GoAway {
				stream = 0
			}
			head := wire.AppendFrameHeader(nil, wire.FrameHeader{Length: size, Type: typ, StreamID: stream})
			more := iotest.ErrReader(errors.New("read beyond the head"))
			r := testReader(t, io.MultiReader(bytes.NewReader(head), more), nil)
			_, err := r.next()
			h2test.WantWireError(t, fmt.Sprintf("%v of %d octets", typ, size), err, wire.FrameSizeError)
			if len(r.buf) != minReadBuffer {
				t.Errorf("%v of %d octets made a buffer of %d", typ, size, len(r.buf))
			}
		}
	}
}

func TestPushPromiseNamesItsStreamWithoutTheReservedBit(t *testing.T) {
	for _, flags := range []wire.Flags{wire.EndHeaders, wire.EndHeaders | wire.Padded} {
		payload := binary.BigEndian.AppendUint32(nil, 1<<31|8)
		payload = append(payload, 0x82)
		if flags.Has(wire.Padded) {
			payload = slices.Concat([]byte{2}, payload, []byte{0, 0})
		}
		f, err := testReader(t, bytes.NewReader(h2test.RawFrame(wire.PushPromise, flags, 1, payload)),
			nil).next()
		if err != nil || f.promised != 8 || len(f.fields) != 1 {
			t.Errorf("promised %d, %v, %v", f.promised, f.fields, err)
		}
	}
}

// FuzzFrameReader checks that no input breaks the frame reader, that what it returns is what it
// read, and that the result does not depend on the sizes in which the bytes arrive.
func FuzzFrameReader(f *testing.F) {
	for _, p := range fuzzSeeds(f) {
		f.Add(p)
	}
	cfg := &Config{MaxFrameSize: 16 << 10, MaxHeaderListSize: 4 << 10}
	f.Fuzz(func(t *testing.T, p []byte) {
		r := testReader(t, bytes.NewReader(p), cfg)
		r.blockSize = smallBlock
		at := 0 // offset in p at which the reader must be
		for {
			h := wire.FrameHeader{}
			if len(p)-at >= wire.HeaderLen {
				h = wire.ParseFrameHeader(p[at:])
			}
			f, err := r.next()
			if len(r.buf) > maxReadBuffer || cap(r.fragments) > 4*maxJoined {
				t.Fatalf("the buffer is %d, the block %d", len(r.buf), cap(r.fragments))
			}
			if we, ok := err.(*wire.Error); ok && we.StreamID != 0 {
				at += wire.HeaderLen + h.Length
				continue
			}
			if err != nil {
				break
			}
			if f.first || f.Type != wire.Data {
				if f.FrameHeader != h {
					t.Fatalf("got %v, want %v", f.FrameHeader, h)
				}
			}
			switch f.Type {
			case wire.Data:
				if !f.first {
					t.Fatal("a part of DATA without a first one")
				}
				got, want := bytes.Clone(f.payload), h.Length-f.padding
				for !f.last {
					if f, err = r.next(); err != nil {
						break
					}
					got = append(got, f.payload...)
				}
				if err != nil {
					break
				}
				start := at + wire.HeaderLen + min(1, h.Length-want)
				if !bytes.Equal(got, p[start:start+want]) {
					t.Fatalf("%v came as %q", h, got)
				}
			case wire.Headers, wire.PushPromise:
				size := 0
				for _, field := range f.fields {
					size += field.size()
				}
				if size > cfg.MaxHeaderListSize {
					t.Fatalf("a list of %d octets, %d in all", size, f.oversize)
				}
				for flags := h.Flags; !flags.Has(wire.EndHeaders); {
					at += wire.HeaderLen + h.Length
					h = wire.ParseFrameHeader(p[at:])
					flags = h.Flags
				}
			default:
				if len(f.payload) > 0 && !bytes.Equal(f.payload, p[at+wire.HeaderLen:][:h.Length]) {
					t.Fatalf("%v came as %q", h, f.payload)
				}
			}
			at += wire.HeaderLen + h.Length
		}
		whole, err1 := readAll(testReader(t, bytes.NewReader(p), cfg))
		for _, src := range []io.Reader{iotest.OneByteReader(bytes.NewReader(p)),
			iotest.HalfReader(bytes.NewReader(p))} {
			r := testReader(t, src, cfg)
			r.blockSize = smallBlock
			parts, err2 := readAll(r)
			if !slices.Equal(whole, parts) || withoutQuote(err1) != withoutQuote(err2) {
				t.Fatalf("in one piece %v, %v; in parts, and by blocks %v, %v", whole, err1, parts, err2)
			}
		}
	})
}

// withoutQuote returns the text of err without the bytes that it quotes from a peer that speaks
// another protocol. How many it quotes depends on how many have arrived.
func withoutQuote(err error) string {
	text, _, _ := strings.Cut(err.Error(), "it sent")
	return text
}
