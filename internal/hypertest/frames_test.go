// This file tests frames and field sections that a peer must not send.

package hypertest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// headersFrame returns a complete field section for stream 1.
func headersFrame(block []byte) []byte {
	return h2test.RawFrame(wire.Headers, wire.EndHeaders, 1, block)
}

// RFC 9113 §4.3: a decoding error in a field block MUST be treated as a connection error of type
// COMPRESSION_ERROR. internal/fieldblock tests more of them.
func TestHPACKThatMustNotBeSentEndsTheConnection(t *testing.T) {
	for _, c := range []struct {
		name  string
		block string
	}{
		{"index 0", "80"},
		{"index cut short", "88 ff"},
		{"value missing", "40 01 61"},
		{"size update behind a field", "88 20"},
		{"size update above SETTINGS_HEADER_TABLE_SIZE", "3f e2 1f 88"},
		{"Huffman EOS", "40 01 61 84 ff ff ff ff"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				got := getAsync(conn, "/")
				peer.WantHeaders("request", 1)
				peer.WriteRaw(headersFrame(h2test.Unhex(t, c.block)))
				peer.WantGoAway(c.name, 0, wire.CompressionError)
				peer.WantClosed("and nothing else")
				err := got.WantErr(t, c.name)
				var ce *hyper.ConnError
				if !errors.As(err, &ce) || ce.Code != hyper.ErrCodeCompression || ce.FromPeer ||
					hyper.Retryable(err) {
					t.Errorf("%v, retryable: %v", err, hyper.Retryable(err))
				}
			})
		})
	}
}

func TestNoTableMeansNoTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{HeaderTableSize: -1})
		got := getAsync(conn, "/")
		peer.WantHeaders("request", 1)
		// Its encoder obeys and sends an update.
		peer.WriteHeaders(1, wire.EndStream, ":status: 200", "x-a: b")
		if resp := got.Want(t, "the response"); resp.Header.Get("x-a") != "b" {
			t.Error(resp.Header)
		}
		getAsync(conn, "/")
		peer.WantHeaders("request", 3)
		peer.WriteRaw(h2test.RawFrame(wire.Headers, wire.EndHeaders, 3, []byte{0x88, 0xbe}))
		peer.WantGoAway("a reference into a table that is not there", 0, wire.CompressionError)
	})
}

// RFC 9113 §4.3: a receiver MUST process each field block to keep the compression state, whatever
// happens to its stream.
func TestCompressionStateIsKeptWhateverBecomesOfTheStream(t *testing.T) {
	big := "x-big: " + strings.Repeat("v", 3000)
	for _, c := range []struct {
		name string
		// lose sends "x-kept: value" on a stream that is lost, which is 1 or 2.
		lose func(peer *h2test.Peer, conn *hyper.Conn)
	}{
		{"cancelled by the caller", func(peer *h2test.Peer, conn *hyper.Conn) {
			s, _ := conn.Open(context.Background(), &hyper.Request{})
			peer.WantHeaders("request", 1)
			s.Reset(hyper.ErrCodeCancel)
			peer.WantRSTStream("cancelled", 1, wire.Cancel)
			peer.WriteHeaders(1, 0, ":status: 200", "x-kept: value")
			peer.WriteTrailers(1, "x-kept: value")
		}},
		{"malformed", func(peer *h2test.Peer, conn *hyper.Conn) {
			conn.Open(context.Background(), &hyper.Request{})
			peer.WantHeaders("request", 1)
			peer.WriteHeaders(1, 0, ":status: 20", "x-kept: value")
			peer.WantRSTStream("malformed", 1, wire.ProtocolError)
		}},
		{"larger than the limit", func(peer *h2test.Peer, conn *hyper.Conn) {
			conn.Open(context.Background(), &hyper.Request{})
			peer.WantHeaders("request", 1)
			fields := append(slices.Repeat([]string{big}, 100), "x-kept: value")
			peer.WriteHeaders(1, 0, append([]string{":status: 200"}, fields...)...)
			peer.WantRSTStream("oversize", 1, wire.ProtocolError)
		}},
		{"a promise refused", func(peer *h2test.Peer, conn *hyper.Conn) {
			conn.Open(context.Background(), &hyper.Request{})
			peer.WantHeaders("request", 1)
			peer.WritePushPromise(1, 2, ":method: POST", ":scheme: http", ":path: /",
				":authority: 192.0.2.2:443", "x-kept: value")
			peer.WantRSTStream("refused", 2, wire.ProtocolError)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &hyper.Config{Push: &hyper.PushPolicy{},
					MaxHeaderListSize: 256 << 10})
				peer.Ignore(wire.WindowUpdate)
				peer.AutoPing()
				c.lose(peer, conn)
				got := getAsync(conn, "/next")
				peer.WantHeaders("the next request", 3)
				peer.WriteHeaders(3, wire.EndStream, ":status: 200", "x-kept: value")
				if resp := got.Want(t, "the next response"); resp.Header.Get("x-kept") != "value" {
					t.Error(resp.Header)
				}
				if block := len(peer.EncodeBlock("x-kept: value")); block != 1 {
					t.Errorf("BUG: the peer's encoder did not use its table: %d octets", block)
				}
			})
		})
	}
}

// largeHeaders returns a response whose header has a field of that size.
func largeHeaders(stream uint32, flags wire.Flags, size int) []byte {
	block := slices.Concat([]byte{0x88, 0, 1, 'x'}, h2test.RawString(strings.Repeat("v", size)))
	octets := h2test.InFrames(stream, block, 256<<10)
	octets[4] |= byte(flags)
	return octets
}

// A peer cannot make a connection hold 100 large headers at the same time.
func TestHeadersOfManyStreamsAreBounded(t *testing.T) {
	const size = 5_000_000
	streams := unlessRaced(100, 20) // 13 fit
	for name, deliver := range map[string]bool{"returned": true, "not returned": false} {
		t.Run(name, func(t *testing.T) {
			besiege(t, nil, 10*time.Second, func(s *siege) {
				other := s.get(1)
				var opened []*hyper.Stream
				var calls []*h2test.Call[*hyper.Response]
				for i := range uint32(streams) {
					if deliver {
						calls = append(calls, s.get(3+2*i))
						continue
					}
					stream, err := s.conn.Open(s.t.Context(), &hyper.Request{})
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
				count := func(_ *hyper.Response, err error) {
					var large *hyper.HeaderSizeError
					switch {
					case err == nil:
						taken++
					case !errors.As(err, &large) || large.Held == 0 ||
						!errors.Is(err, hyper.ErrCodeEnhanceYourCalm):
						s.t.Errorf("the error is %v", err)
					}
				}
				for _, call := range calls {
					count(call.Wait())
				}
				for _, stream := range opened {
					count(stream.Response(s.t.Context()))
				}
				if want := defaultHeaderMemory / size; taken != want {
					s.t.Errorf("%d headers were taken, want %d", taken, want)
				}
				s.peer.WriteHeaders(1, wire.EndStream, ":status: 200")
				other.Want(s.t, "another stream")
				for _, call := range calls {
					if call.Err == nil {
						call.Value.Body.Close()
					}
				}
				for _, stream := range opened {
					stream.Reset(hyper.ErrCodeCancel)
				}
				again := 3 + 2*uint32(streams) // all memory is free when all streams have ended
				for i := range uint32(defaultHeaderMemory / size) {
					call := s.get(again + 2*i)
					s.server.Write(largeHeaders(again+2*i, 0, size))
					defer call.Want(s.t, "headers after the others were released").Body.Close()
				}
			})
		})
	}
}

// Large headers on cancelled streams do not count against the peer.
func TestLateLargeHeadersCostNothing(t *testing.T) {
	count := uint32(unlessRaced(20, 5))
	besiege(t, nil, 10*time.Second, func(s *siege) {
		var streams []*hyper.Stream
		for i := range count {
			stream, err := s.conn.Open(s.t.Context(), &hyper.Request{})
			if err != nil {
				s.t.Fatal(err)
			}
			s.peer.WantHeaders("request", 1+2*i)
			streams = append(streams, stream)
		}
		for _, stream := range streams {
			stream.Reset(hyper.ErrCodeCancel)
		}
		s.peer.Ignore(wire.RSTStream, wire.Settings, wire.WindowUpdate, wire.Ping)
		for i := range count {
			s.server.Write(largeHeaders(1+2*i, wire.EndStream, 9_000_000))
			synctest.Wait()
		}
		s.wantLife(1 + 2*count)
	})
}

// RFC 9113 §6.3: a PRIORITY frame with a length other than 5 octets MUST be treated as a stream
// error of type FRAME_SIZE_ERROR.
func TestMisshapenPriorityEndsItsStreamOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.AutoPing()
		answered := getAsync(conn, "/1")
		peer.WantHeaders("first", 1)
		refused := getAsync(conn, "/2")
		peer.WantHeaders("second", 3)
		peer.Batch(func() {
			peer.WriteHeaders(1, 0, ":status: 200")
			peer.WriteFrame(wire.FrameHeader{Length: 4, Type: wire.Priority, StreamID: 3}, make([]byte, 4))
		})
		peer.WantRSTStream("the wrong size", 3, wire.FrameSizeError)
		if err := refused.WantErr(t, "the stream"); !errors.Is(err, hyper.ErrCodeFrameSize) {
			t.Error(err)
		}
		answered.WantReturned(t, "the response in front of the misshapen frame woke no call")
		peer.WantIdle("the connection lives")
	})
}

func TestArrivedResponseDoesNotWaitForABeginningFrame(t *testing.T) {
	for name, beginning := range map[string][]byte{
		"padded DATA without its padding's length": h2test.RawFrame(wire.Data, wire.Padded, 1,
			[]byte{1, 2, 3})[:wire.HeaderLen],
		"HEADERS without CONTINUATION": h2test.RawFrame(wire.Headers, 0, 1, []byte{0x88}),
		"half a HEADERS": h2test.RawFrame(wire.Headers, wire.EndHeaders, 1,
			[]byte{0x88})[:wire.HeaderLen],
		"half a frame header": {0, 0, 1},
		"an unknown frame without its last octet": h2test.RawFrame(0xee, 0, 0,
			make([]byte, 30))[:wire.HeaderLen+29],
		"a misshapen PRIORITY without its payload": h2test.RawFrame(wire.Priority, 0, 3,
			make([]byte, 30))[:wire.HeaderLen],
		"a misshapen PRIORITY and half a frame": slices.Concat(h2test.RawFrame(wire.Priority, 0, 99, nil),
			[]byte{0, 0, 1}),
		"two unknown frames, the second not whole ": slices.Concat(h2test.RawFrame(0xee, 0, 0, nil),
			h2test.RawFrame(0xee, 0, 0, nil)[:8]),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				got := getAsync(conn, "/")
				peer.WantHeaders("request", 1)
				peer.Batch(func() {
					peer.WriteHeaders(1, 0, ":status: 200")
					peer.WriteRaw(beginning)
				})
				got.WantReturned(t, "the response is here and its caller was not woken")
				peer.Close()
				<-got.Done
			})
		})
	}
}
