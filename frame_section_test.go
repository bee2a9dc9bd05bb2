package hyper

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/wire"
)

// rawString encodes a string as in RFC 7541 §5.2, without Huffman coding.
func rawString(s string) []byte {
	p := []byte{0x7f}
	for n := len(s) - 0x7f; ; n >>= 7 {
		if n < 0x80 {
			p = append(p, byte(n))
			break
		}
		p = append(p, byte(n)|0x80)
	}
	return append(p, s...)
}

// inFrames returns the frames of a block, in fragments of at most size bytes.
func inFrames(stream uint32, block []byte, size int) (octets []byte) {
	typ := wire.Headers
	for {
		n := min(size, len(block))
		flags := wire.Flags(0)
		if n == len(block) {
			flags = wire.EndHeaders
		}
		octets = append(octets, rawFrame(typ, flags, stream, block[:n])...)
		if typ, block = wire.Continuation, block[n:]; flags != 0 {
			return octets
		}
	}
}

// A long block that is decoded in fragments results in the same list as one that is decoded at
// once.
func TestBlockInFragmentsIsTheSameList(t *testing.T) {
	block := []byte{0x3f, 0xe1, 0x1f, 0x88} // a table-size update to 4,096, :status: 200
	want := ":status: 200\n"
	for i := range 3000 {
		value := strings.Repeat("v", 200+i%300)
		block = slices.Concat(block, []byte{0x40, 1, 'a' + byte(i%26)}, rawString(value), []byte{0xbe})
		line := fmt.Sprintf("%c: %s\n", 'a'+byte(i%26), value)
		want += line + line
	}
	for _, size := range []int{600, 1000, 16 << 10, 100_000, 256 << 10} {
		r := testReader(t, bytes.NewReader(inFrames(1, block, size)), nil)
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
	block := slices.Concat([]byte{0x88, 0x40, 1, 'x'}, rawString(strings.Repeat("v", 4*limit)),
		[]byte{0x40, 1, 'k', 1, 'v'})
	for _, size := range []int{700, 16 << 10, 1 << 20} {
		octets := slices.Concat(inFrames(1, block, size), inFrames(3, []byte{0x88, 0xbe}, size))
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
	r := testReader(t, bytes.NewReader(inFrames(1, block, 16<<10)), nil)
	_, err := r.next()
	wantWireError(t, "index 0", err, wire.CompressionError)
}

// Twice the largest limit does not fit into 32 bits.
func TestLargestListLimitAdmitsContinuations(t *testing.T) {
	block := slices.Concat([]byte{0x88, 0x40, 1, 'x', 1, 'v'}, bytes.Repeat([]byte{0xbe}, 10))
	octets := append(rawFrame(wire.Headers, 0, 1, block[:5]),
		rawFrame(wire.Continuation, wire.EndHeaders, 1, block[5:])...)
	r := testReader(t, bytes.NewReader(octets), &Config{MaxHeaderListSize: math.MaxInt32})
	if f, err := r.next(); err != nil || len(f.fields) != 12 || f.oversize != 0 {
		t.Errorf("%d fields, %v", len(f.fields), err)
	}
}

// largeHeaders returns a response whose header has a field of that size.
func largeHeaders(stream uint32, flags wire.Flags, size int) []byte {
	block := slices.Concat([]byte{0x88, 0, 1, 'x'}, rawString(strings.Repeat("v", size)))
	octets := inFrames(stream, block, 256<<10)
	octets[4] |= byte(flags)
	return octets
}

// A peer cannot make a connection hold 100 large headers at the same time.
func TestHeadersOfManyStreamsAreBounded(t *testing.T) {
	const size, streams = 5_000_000, 100
	for name, deliver := range map[string]bool{"returned": true, "not returned": false} {
		t.Run(name, func(t *testing.T) {
			besiege(t, nil, 10*time.Second, func(s *siege) {
				other := s.get(1)
				var opened []*Stream
				var calls []*result
				for i := range uint32(streams) {
					if deliver {
						calls = append(calls, s.get(3+2*i))
						continue
					}
					stream, err := s.conn.Open(s.t.Context(), &Request{})
					if err != nil {
						s.t.Fatal(err)
					}
					s.peer.WantHeaders("request", 3+2*i)
					opened = append(opened, stream)
				}
				s.peer.Ignore(wire.RSTStream, wire.Settings, wire.WindowUpdate)
				for i := range uint32(streams) {
					s.server.Write(largeHeaders(3+2*i, 0, size))
					synctest.Wait()
				}
				s.wantMemory(defaultHeaderMemory + 8*size)
				taken := 0
				count := func(_ *Response, err error) {
					var large *HeaderSizeError
					switch {
					case err == nil:
						taken++
					case !errors.As(err, &large) || large.Held == 0 ||
						!errors.Is(err, ErrCodeEnhanceYourCalm):
						s.t.Errorf("the error is %v", err)
					}
				}
				for _, call := range calls {
					<-call.done
					count(call.resp, call.err)
				}
				for _, stream := range opened {
					count(stream.Response(s.t.Context()))
				}
				if want := defaultHeaderMemory / size; taken != want {
					s.t.Errorf("%d headers were taken, want %d", taken, want)
				}
				s.peer.WriteHeaders(1, wire.EndStream, ":status: 200")
				other.want(s.t, "another stream")
				for _, call := range calls {
					if call.err == nil {
						call.resp.Body.Close()
					}
				}
				for _, stream := range opened {
					stream.Reset(ErrCodeCancel)
				}
				again := uint32(3 + 2*streams) // all memory is free when all streams have ended
				for i := range uint32(defaultHeaderMemory / size) {
					call := s.get(again + 2*i)
					s.server.Write(largeHeaders(again+2*i, 0, size))
					defer call.want(s.t, "headers after the others were released").Body.Close()
				}
			})
		})
	}
}

// Large headers on cancelled streams do not count against the peer.
func TestLateLargeHeadersCostNothing(t *testing.T) {
	besiege(t, nil, 10*time.Second, func(s *siege) {
		var streams []*Stream
		for i := range uint32(20) {
			stream, err := s.conn.Open(s.t.Context(), &Request{})
			if err != nil {
				s.t.Fatal(err)
			}
			s.peer.WantHeaders("request", 1+2*i)
			streams = append(streams, stream)
		}
		for _, stream := range streams {
			stream.Reset(ErrCodeCancel)
		}
		s.peer.Ignore(wire.RSTStream, wire.Settings, wire.WindowUpdate, wire.Ping)
		for i := range uint32(20) {
			s.server.Write(largeHeaders(1+2*i, wire.EndStream, 9_000_000))
			synctest.Wait()
		}
		s.wantLife(41)
	})
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
		resp := call.want(t, "the response")
		want("the response goes on", 1)
		peer.WriteData(1, 0, []byte("body"))
		peer.WriteTrailers(1, large)
		want("it has ended, and was not read", 2)
		wantBody(t, "the body", resp.Body, "body")
		want("it was read", 0)

		call = getAsync(conn, "/")
		peer.WantHeaders("a request", 3)
		peer.WriteHeaders(3, wire.EndStream, ":status: 200", large)
		call.want(t, "the response")
		want("the response has no body", 0)

		call = getAsync(conn, "/")
		peer.WantHeaders("a request", 5)
		peer.WriteHeaders(5, 0, ":status: 200", large)
		resp = call.want(t, "the response")
		resp.Body.Close()
		want("it was cancelled", 0)
	})
}
