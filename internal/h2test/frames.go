package h2test

import "gohyper.dev/hyper/internal/wire"

// RawString encodes a string as in RFC 7541 §5.2, without Huffman coding.
func RawString(s string) []byte {
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

// InFrames returns the frames of a block, in fragments of at most size bytes.
func InFrames(stream uint32, block []byte, size int) (octets []byte) {
	typ := wire.Headers
	for {
		n := min(size, len(block))
		flags := wire.Flags(0)
		if n == len(block) {
			flags = wire.EndHeaders
		}
		octets = append(octets, RawFrame(typ, flags, stream, block[:n])...)
		if typ, block = wire.Continuation, block[n:]; flags != 0 {
			return octets
		}
	}
}

// AtMost returns the setting that limits the client to n concurrent streams.
func AtMost(n uint32) wire.Setting {
	return wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: n}
}

// AnswerEmpty responds to a request with 204.
func AnswerEmpty(peer *Peer, stream uint32) {
	peer.WriteHeaders(stream, wire.EndStream, ":status: 204")
}

// RawFrame returns a frame with any payload.
func RawFrame(t wire.FrameType, flags wire.Flags, stream uint32, payload []byte) []byte {
	h := wire.FrameHeader{Length: len(payload), Type: t, Flags: flags, StreamID: stream}
	return append(wire.AppendFrameHeader(nil, h), payload...)
}
