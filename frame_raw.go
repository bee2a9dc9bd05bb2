package hyper

import (
	"bytes"
	"encoding/binary"
	"iter"
	"slices"

	"gohyper.dev/hyper/internal/fieldblock"
	"gohyper.dev/hyper/internal/wire"
)

// A FrameType is the type of a frame (RFC 9113 §6). Numbers without a constant are those of
// extensions.
type FrameType uint8

// The types of RFC 9113 §6, and of three other RFCs.
const (
	FrameData           FrameType = 0x0
	FrameHeaders        FrameType = 0x1
	FramePriority       FrameType = 0x2
	FrameRSTStream      FrameType = 0x3
	FrameSettings       FrameType = 0x4
	FramePushPromise    FrameType = 0x5
	FramePing           FrameType = 0x6
	FrameGoAway         FrameType = 0x7
	FrameWindowUpdate   FrameType = 0x8
	FrameContinuation   FrameType = 0x9
	FrameAltSvc         FrameType = 0xa  // RFC 7838
	FrameOrigin         FrameType = 0xc  // RFC 8336
	FramePriorityUpdate FrameType = 0x10 // RFC 9218
)

// String returns the type's name in its RFC, such as "RST_STREAM", or "FRAME_0xf0" for a type that
// has no constant.
func (t FrameType) String() string { return wire.FrameType(t).String() }

// FrameFlags are the flags of a frame. What a bit means depends on the frame's type.
type FrameFlags uint8

// The flags of RFC 9113 §6, with the frames that have them.
const (
	FlagEndStream  FrameFlags = 0x1  // DATA, HEADERS
	FlagAck        FrameFlags = 0x1  // SETTINGS, PING
	FlagEndHeaders FrameFlags = 0x4  // HEADERS, PUSH_PROMISE, CONTINUATION
	FlagPadded     FrameFlags = 0x8  // DATA, HEADERS, PUSH_PROMISE
	FlagPriority   FrameFlags = 0x20 // HEADERS
)

// A Frame is a frame of any type and content, valid or not (RFC 9113 §4.1). Conn.WriteFrame and
// Wire.FirstFlight send frames, and Wire.OnFrame gets those that are received.
type Frame struct {
	Type     FrameType
	Flags    FrameFlags
	StreamID uint32 // sent with the reserved bit, which is the highest
	Payload  []byte // up to 2^24-1 bytes
}

// header returns the header of f.
func (f Frame) header() wire.FrameHeader {
	return wire.FrameHeader{Length: len(f.Payload), Type: wire.FrameType(f.Type), Flags: wire.Flags(f.Flags),
		StreamID: f.StreamID}
}

// String returns the frame as one line of text, such as "RST_STREAM stream=1 len=4 code=CANCEL".
func (f Frame) String() string { return f.header().Text(f.Payload) }

// DataFrame returns a DATA frame without padding.
func DataFrame(streamID uint32, flags FrameFlags, content []byte) Frame {
	return Frame{FrameData, flags, streamID, content}
}

// HeadersFrame returns a HEADERS frame with a field block, or with the first fragment of one. See
// FieldBlock.
func HeadersFrame(streamID uint32, flags FrameFlags, block []byte) Frame {
	return Frame{FrameHeaders, flags, streamID, block}
}

// ContinuationFrame returns a CONTINUATION frame with a fragment of a field block.
func ContinuationFrame(streamID uint32, flags FrameFlags, fragment []byte) Frame {
	return Frame{FrameContinuation, flags, streamID, fragment}
}

// PriorityFrame returns a PRIORITY frame.
func PriorityFrame(streamID uint32, d Dependency) Frame {
	p := d.payload()
	return Frame{FramePriority, 0, streamID, p[:]}
}

// RSTStreamFrame returns an RST_STREAM frame.
func RSTStreamFrame(streamID uint32, code ErrCode) Frame {
	return Frame{FrameRSTStream, 0, streamID, binary.BigEndian.AppendUint32(nil, uint32(code))}
}

// SettingsFrame returns a SETTINGS frame with these settings, in this order.
func SettingsFrame(settings ...Setting) Frame {
	f := Frame{Type: FrameSettings}
	for _, s := range settings {
		f.Payload = binary.BigEndian.AppendUint16(f.Payload, uint16(s.ID))
		f.Payload = binary.BigEndian.AppendUint32(f.Payload, s.Value)
	}
	return f
}

// PingFrame returns a PING frame.
func PingFrame(flags FrameFlags, data [8]byte) Frame { return Frame{FramePing, flags, 0, data[:]} }

// GoAwayFrame returns a GOAWAY frame.
func GoAwayFrame(lastStreamID uint32, code ErrCode, debug string) Frame {
	p := binary.BigEndian.AppendUint32(nil, lastStreamID)
	p = binary.BigEndian.AppendUint32(p, uint32(code))
	return Frame{FrameGoAway, 0, 0, append(p, debug...)}
}

// WindowUpdateFrame returns a WINDOW_UPDATE frame. Stream 0 is the connection.
func WindowUpdateFrame(streamID, increment uint32) Frame {
	return Frame{FrameWindowUpdate, 0, streamID, binary.BigEndian.AppendUint32(nil, increment)}
}

// FieldBlock returns a field block of the given fields, unchanged and in this order. Each is a
// literal that is never indexed (RFC 7541 §6.2.3), so the block can be sent at any time.
func FieldBlock(fields Header) []byte { return fieldblock.AppendLiterals(nil, fields) }

// Settings returns the entries of a SETTINGS frame, in order. It returns nil for another frame.
func (f Frame) Settings() (list []Setting) {
	if f.Type != FrameSettings {
		return nil
	}
	for s := range wire.ParseSettings(f.Payload) {
		list = append(list, Setting{SettingID(s.ID), s.Value})
	}
	return list
}

// ErrCode returns the error code of a RST_STREAM or GOAWAY frame. ok is false if f is another frame
// or is too short.
func (f Frame) ErrCode() (code ErrCode, ok bool) {
	switch {
	case f.Type == FrameRSTStream && len(f.Payload) >= 4:
		return ErrCode(wire.ParseRSTStream(f.Payload)), true
	case f.Type == FrameGoAway && len(f.Payload) >= 8:
		_, code, _ := wire.ParseGoAway(f.Payload)
		return ErrCode(code), true
	}
	return 0, false
}

// Origins yields the entries of an ORIGIN frame (RFC 8336 §2.1), unchanged and unchecked. It yields
// nothing for another frame. Conn.Origins has those that are valid.
func (f Frame) Origins() iter.Seq[string] {
	if f.Type != FrameOrigin {
		return slices.Values([]string(nil))
	}
	return wire.ParseOrigins(f.Payload)
}

// An AltSvc is the content of an ALTSVC frame: where else an origin can be reached (RFC 7838 §4).
// It is only the peer's claim. hyper itself ignores ALTSVC frames.
type AltSvc struct {
	Origin string // empty: the origin of the stream's request
	Value  string // as in an Alt-Svc field, such as `h3=":443"; ma=3600`
}

// AltSvc returns the content of an ALTSVC frame. ok is false if f is another frame, and if it must
// be ignored: on stream 0 it must have an origin, on another stream it must have none, and all of
// it must be there (RFC 7838 §4).
func (f Frame) AltSvc() (a AltSvc, ok bool) {
	if f.Type != FrameAltSvc || len(f.Payload) < 2 {
		return a, false
	}
	n, rest := int(binary.BigEndian.Uint16(f.Payload)), f.Payload[2:]
	if n > len(rest) || (n == 0) != (f.StreamID != 0) {
		return a, false
	}
	return AltSvc{string(rest[:n]), string(rest[n:])}, true
}

// clone returns a copy of f that shares no memory with it.
func (f Frame) clone() Frame {
	f.Payload = bytes.Clone(f.Payload)
	return f
}
