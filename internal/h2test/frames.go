package h2test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/wire"
)

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

// ResponseBlock returns a field block with a status and five fields, which does not change the
// compression table.
func ResponseBlock() []byte {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	for _, field := range []string{":status: 200", "server: canned", "content-type: text/plain",
		"content-length: 1024", "cache-control: max-age=60", `etag: "1"`} {
		f := parseField(field)
		f.Sensitive = true // never indexed
		enc.WriteField(f)
	}
	return b.Bytes()
}

// Promise promises GET for path on own.example, with stream 1 as the parent.
func Promise(peer *Peer, id uint32, path string) {
	peer.WritePushPromise(1, id, ":method: GET", ":scheme: http", ":authority: own.example", ":path: "+path)
}

// Unhex decodes hex that may contain blanks.
func Unhex(t testing.TB, s string) []byte {
	t.Helper()
	p, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// WantWireError requires an error of the connection.
func WantWireError(t testing.TB, reason string, err error, code wire.ErrCode) {
	t.Helper()
	var we *wire.Error
	if !errors.As(err, &we) || we.Code != code || we.StreamID != 0 {
		t.Errorf("%s: %v, want %v of the connection", reason, err, code)
	}
}
