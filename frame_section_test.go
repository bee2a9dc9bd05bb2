package hyper

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// fieldLines returns one line for each field, with "!" before a field that is never indexed.
func fieldLines(fields []Field) string {
	var b strings.Builder
	for _, f := range fields {
		if f.Sensitive {
			b.WriteByte('!')
		}
		fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Value)
	}
	return b.String()
}

// A long block that is decoded in fragments results in the same list as one that is decoded at
// once.
func TestBlockInFragmentsIsTheSameList(t *testing.T) {
	block := []byte{0x3f, 0xe1, 0x1f, 0x88} // a table-size update to 4,096, :status: 200
	want := ":status: 200\n"
	for i := range 3000 {
		value := strings.Repeat("v", 200+i%300)
		block = slices.Concat(block, []byte{0x40, 1, 'a' + byte(i%26)}, h2test.RawString(value), []byte{0xbe})
		line := fmt.Sprintf("%c: %s\n", 'a'+byte(i%26), value)
		want += line + line
	}
	for _, size := range []int{600, 1000, 16 << 10, 100_000, 256 << 10} {
		r := testReader(t, bytes.NewReader(h2test.InFrames(1, block, size)), nil)
		f, err := r.next()
		if got := fieldLines(f.fields); err != nil || got != want {
			t.Errorf("fragments of %d: %v, %d bytes of fields, want %d", size, err, len(got), len(want))
		}
		if cap(r.fragments) > 4*maxJoined+2*size {
			t.Errorf("fragments of %d: %d bytes of the block are kept", size, cap(r.fragments))
		}
		if _, err := r.next(); err != io.EOF {
			t.Errorf("fragments of %d: %v", size, err)
		}
	}
}

// A field that is too large to be kept is skipped as its frames arrive.
func TestFieldTooLargeToKeepIsPassedOverInFragments(t *testing.T) {
	const limit = 64 << 10
	block := slices.Concat([]byte{0x88, 0x40, 1, 'x'}, h2test.RawString(strings.Repeat("v", 4*limit)),
		[]byte{0x40, 1, 'k', 1, 'v'})
	for _, size := range []int{700, 16 << 10, 1 << 20} {
		octets := slices.Concat(h2test.InFrames(1, block, size), h2test.InFrames(3, []byte{0x88, 0xbe}, size))
		r := testReader(t, bytes.NewReader(octets), &Config{MaxHeaderListSize: limit, MaxFrameSize: 2 << 20})
		f, err := r.next()
		if err != nil || f.oversize < 4*limit {
			t.Fatalf("fragments of %d: oversize %d, %v", size, f.oversize, err)
		}
		if cap(r.fragments) > 4*maxJoined+2*size {
			t.Errorf("fragments of %d: %d bytes of the block are kept", size, cap(r.fragments))
		}
		if f, err = r.next(); err != nil || fieldLines(f.fields) != ":status: 200\nk: v\n" {
			t.Errorf("fragments of %d: then %q, %v", size, fieldLines(f.fields), err)
		}
	}
}

// A part of a long block that is not HPACK ends the connection, before the block has ended.
func TestFaultInAFragmentEndsTheConnection(t *testing.T) {
	block := slices.Concat([]byte{0x88, 0x80}, make([]byte, 2*maxJoined))
	r := testReader(t, bytes.NewReader(h2test.InFrames(1, block, 16<<10)), nil)
	_, err := r.next()
	h2test.WantWireError(t, "index 0", err, wire.CompressionError)
}

// Twice the largest limit does not fit into 32 bits.
func TestLargestListLimitAdmitsContinuations(t *testing.T) {
	block := slices.Concat([]byte{0x88, 0x40, 1, 'x', 1, 'v'}, bytes.Repeat([]byte{0xbe}, 10))
	octets := append(h2test.RawFrame(wire.Headers, 0, 1, block[:5]),
		h2test.RawFrame(wire.Continuation, wire.EndHeaders, 1, block[5:])...)
	r := testReader(t, bytes.NewReader(octets), &Config{MaxHeaderListSize: math.MaxInt32})
	if f, err := r.next(); err != nil || len(f.fields) != 12 || f.oversize != 0 {
		t.Errorf("%d fields, %v", len(f.fields), err)
	}
}

// The memory of a field section is counted until its response has ended.
func TestHeldHeadersAreCounted(t *testing.T) {
	const size = 100_000
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		large := "x: " + strings.Repeat("v", size)
		want := func(reason string, sections int64) {
			t.Helper()
			synctest.Wait()
			if held := conn.reader.frames.section.Held() / size; held != sections {
				t.Errorf("%s: %d sections are held, want %d", reason, held, sections)
			}
		}
		call := getAsync(conn, "/")
		peer.WantHeaders("a request", 1)
		peer.WriteHeaders(1, 0, ":status: 200", large)
		resp := call.Want(t, "the response")
		want("the response goes on", 1)
		peer.WriteData(1, 0, []byte("body"))
		peer.WriteTrailers(1, large)
		want("it has ended, and was not read", 2)
		h2test.WantBody(t, "the body", resp.Body, "body")
		want("it was read", 0)

		call = getAsync(conn, "/")
		peer.WantHeaders("a request", 3)
		peer.WriteHeaders(3, wire.EndStream, ":status: 200", large)
		call.Want(t, "the response")
		want("the response has no body", 0)

		call = getAsync(conn, "/")
		peer.WantHeaders("a request", 5)
		peer.WriteHeaders(5, 0, ":status: 200", large)
		resp = call.Want(t, "the response")
		resp.Body.Close()
		want("it was cancelled", 0)
	})
}

func TestContinuationRules(t *testing.T) {
	begun := h2test.RawFrame(wire.Headers, 0, 1, []byte{0x88})
	promise := h2test.RawFrame(wire.PushPromise, 0, 1, []byte{0, 0, 0, 2, 0x82})
	ended := h2test.RawFrame(wire.Continuation, wire.EndHeaders, 1, []byte{0x88})
	open := h2test.RawFrame(wire.Continuation, 0, 1, []byte{0x88})
	frames := fewFrames
	large := h2test.RawFrame(wire.Continuation, 0, 1, make([]byte, defaultMaxFrameSize))
	for _, c := range []struct {
		name   string
		octets []byte
		code   wire.ErrCode
	}{
		{"none begun", ended, wire.ProtocolError},
		{"none begun any more", slices.Concat(begun, ended, ended), wire.ProtocolError},
		{"another stream", slices.Concat(begun, h2test.RawFrame(wire.Continuation, 0, 3, nil)),
			wire.ProtocolError},
		{"stream 0", slices.Concat(begun, h2test.RawFrame(wire.Continuation, 0, 0, nil)), wire.ProtocolError},
		{"DATA in between", slices.Concat(begun, wire.AppendData(nil, 1, 0, nil)), wire.ProtocolError},
		{"HEADERS in between", slices.Concat(begun, begun), wire.ProtocolError},
		{"PING in between", slices.Concat(begun, wire.AppendPing(nil, 0, [8]byte{})), wire.ProtocolError},
		{"PING inside a promise", slices.Concat(promise, wire.AppendPing(nil, 0, [8]byte{})),
			wire.ProtocolError},
		{"an unknown type in between", slices.Concat(begun, h2test.RawFrame(0xee, 0, 0, nil)),
			wire.ProtocolError},
		{"a misshapen PRIORITY in between", slices.Concat(begun, h2test.RawFrame(wire.Priority, 0, 1, nil)),
			wire.ProtocolError},
		{"too large", slices.Concat(begun, h2test.RawFrame(wire.Continuation, 0, 1,
			make([]byte, defaultMaxFrameSize+1))), wire.FrameSizeError},
		{"too many", slices.Concat(begun, bytes.Repeat(open, frames+1)), wire.EnhanceYourCalm},
		{"too much", slices.Concat(begun, bytes.Repeat(large, 20)), wire.EnhanceYourCalm},
		{"as many as allowed", slices.Concat(begun, bytes.Repeat(open, frames-1), ended), wire.NoError},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := readAll(testReader(t, bytes.NewReader(c.octets), nil))
			if c.code == wire.NoError && err == io.EOF {
				return
			}
			h2test.WantWireError(t, c.name, err, c.code)
		})
	}
}

// reliabilityLimit bounds the time of 100,000 frames. It is five times the second of the list
// above, because real time includes what else the machine does.
const reliabilityLimit = 5 * time.Second

func TestFragmentsOfOneByteAreReadInLinearTime(t *testing.T) {
	const size = 1 << 20
	block := append([]byte{0x88, 0x00, 1, 'x', 0x7f, 0x81, 0xff, 0x3f}, bytes.Repeat([]byte{'v'}, size)...)
	octets := h2test.RawFrame(wire.Headers, 0, 1, nil)
	for _, c := range block[:len(block)-1] {
		octets = append(octets, h2test.RawFrame(wire.Continuation, 0, 1, []byte{c})...)
	}
	octets = append(octets, h2test.RawFrame(wire.Continuation, wire.EndHeaders, 1, block[len(block)-1:])...)
	src := bytes.NewReader(octets)
	r := testReader(t, src, nil)
	_, err := r.next()
	h2test.WantWireError(t, "its frames are counted", err, wire.EnhanceYourCalm)
	if read := len(octets) - src.Len(); read > maxReadBuffer {
		t.Errorf("%d octets were read", read)
	}

	r = testReader(t, bytes.NewReader(octets), &Config{MaxHeaderListSize: 2 * size,
		MaxFrameSize: wire.MinMaxFrameSize})
	r.maxSize.Store(1) // allows as many frames as the block needs
	limit := reliabilityLimit
	if h2test.Race {
		limit *= 10
	}
	start := time.Now()
	f, err := r.next()
	if err != nil || len(f.fields) != 2 || len(f.fields[1].Value) != size {
		t.Fatalf("%d fields, %v", len(f.fields), err)
	}
	if took := time.Since(start); took > limit {
		t.Errorf("a million frames took %v", took)
	}
}
