// Package wire encodes and decodes HTTP/2 frames: frame headers and payloads, settings and error
// codes. It also defines the one textual form of a frame for logs, traces and test failures.
//
// Every function takes bytes and returns values, or the reverse. Nothing here blocks, keeps state,
// or knows a connection. References are to RFC 9113 unless they say otherwise.
package wire

import (
	"encoding/binary"
	"fmt"
	"iter"
)

// ClientPreface is the first thing that a client sends (§3.4).
const ClientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Sizes and limits of the protocol.
const (
	HeaderLen = 9 // bytes of a frame header (§4.1)

	MinMaxFrameSize = 1 << 14   // the initial and smallest SETTINGS_MAX_FRAME_SIZE (§6.5.2)
	MaxMaxFrameSize = 1<<24 - 1 // the largest SETTINGS_MAX_FRAME_SIZE
	MaxWindow       = 1<<31 - 1 // the largest flow-control window (§6.9.1)
	InitialWindow   = 1<<16 - 1 // the size of both windows before any SETTINGS (§6.9.2)
	MaxStreamID     = 1<<31 - 1 // a stream identifier is 31 bits (§5.1.1)
	HeaderTableSize = 4096      // the initial SETTINGS_HEADER_TABLE_SIZE (§6.5.2)
)

// A FrameType is the type of a frame (§6).
type FrameType uint8

// The types of frames.
const (
	Data           FrameType = 0x0
	Headers        FrameType = 0x1
	Priority       FrameType = 0x2
	RSTStream      FrameType = 0x3
	Settings       FrameType = 0x4
	PushPromise    FrameType = 0x5
	Ping           FrameType = 0x6
	GoAway         FrameType = 0x7
	WindowUpdate   FrameType = 0x8
	Continuation   FrameType = 0x9
	AltSvc         FrameType = 0xa  // RFC 7838
	Origin         FrameType = 0xc  // RFC 8336
	PriorityUpdate FrameType = 0x10 // RFC 9218
)

// Flags are the flags of a frame. What a bit means depends on the frame's type.
type Flags uint8

// The flags, with the frames that have them.
const (
	EndStream    Flags = 0x1  // DATA, HEADERS
	Ack          Flags = 0x1  // SETTINGS, PING
	EndHeaders   Flags = 0x4  // HEADERS, PUSH_PROMISE, CONTINUATION
	Padded       Flags = 0x8  // DATA, HEADERS, PUSH_PROMISE
	PriorityFlag Flags = 0x20 // HEADERS
)

// Has reports whether every bit of bits is set.
func (f Flags) Has(bits Flags) bool { return f&bits == bits }

// A FrameHeader is the header of a frame, nine bytes on the wire (§4.1).
type FrameHeader struct {
	Length   int // of the payload, in bytes
	Type     FrameType
	Flags    Flags
	StreamID uint32 // without the reserved bit
}

// ParseFrameHeader reads the first HeaderLen bytes of p.
func ParseFrameHeader(p []byte) FrameHeader {
	_ = p[8]
	return FrameHeader{
		Length:   int(p[0])<<16 | int(p[1])<<8 | int(p[2]),
		Type:     FrameType(p[3]),
		Flags:    Flags(p[4]),
		StreamID: binary.BigEndian.Uint32(p[5:]) & MaxStreamID,
	}
}

// AppendFrameHeader appends the nine bytes of h.
func AppendFrameHeader(dst []byte, h FrameHeader) []byte {
	return append(dst,
		byte(h.Length>>16), byte(h.Length>>8), byte(h.Length),
		byte(h.Type), byte(h.Flags),
		byte(h.StreamID>>24), byte(h.StreamID>>16), byte(h.StreamID>>8), byte(h.StreamID))
}

// PutLength overwrites the length in the frame header at the beginning of frame.
func PutLength(frame []byte, length int) {
	frame[0], frame[1], frame[2] = byte(length>>16), byte(length>>8), byte(length)
}

// An Error reports that the peer broke a rule of the wire format. It is an error of the whole
// connection, unless StreamID is not zero.
type Error struct {
	Code     ErrCode
	StreamID uint32
	Reason   string
}

// Error returns the stream if there is one, the code and the reason.
func (e *Error) Error() string {
	if e.StreamID != 0 {
		return fmt.Sprintf("stream %d: %v: %s", e.StreamID, e.Code, e.Reason)
	}
	return fmt.Sprintf("%v: %s", e.Code, e.Reason)
}

// connError returns a connection error that names the frame and the broken rule.
func connError(code ErrCode, h FrameHeader, rule string) error {
	return &Error{Code: code, Reason: h.Type.String() + " " + rule}
}

// Check checks every rule that the header alone can break, so that no payload is read and no memory
// is reserved for a frame that breaks one. maxLength is the SETTINGS_MAX_FRAME_SIZE of the
// receiver. Unknown types pass.
func (h FrameHeader) Check(maxLength int) error {
	// §4.2: a frame that exceeds SETTINGS_MAX_FRAME_SIZE is a FRAME_SIZE_ERROR.
	if h.Length > maxLength {
		return connError(FrameSizeError, h, "exceeds SETTINGS_MAX_FRAME_SIZE")
	}
	onStream := h.StreamID != 0
	switch h.Type {
	case Data, Headers, Continuation, PushPromise, RSTStream, Priority:
		if !onStream {
			return connError(ProtocolError, h, "on stream 0")
		}
	case Settings, Ping, GoAway:
		if onStream {
			return connError(ProtocolError, h, "on a stream")
		}
	}
	switch h.Type {
	case RSTStream, WindowUpdate:
		if h.Length != 4 {
			return connError(FrameSizeError, h, "is not 4 bytes long")
		}
	case Ping:
		if h.Length != 8 {
			return connError(FrameSizeError, h, "is not 8 bytes long")
		}
	case GoAway:
		if h.Length < 8 {
			return connError(FrameSizeError, h, "is shorter than 8 bytes")
		}
	case Priority:
		if h.Length != 5 { // §6.3: the only frame whose wrong size is a stream error
			return &Error{Code: FrameSizeError, StreamID: h.StreamID, Reason: "PRIORITY is not 5 bytes long"}
		}
	case Settings:
		if h.Flags.Has(Ack) && h.Length != 0 {
			return connError(FrameSizeError, h, "acknowledgment with a payload")
		}
		if h.Length%6 != 0 {
			return connError(FrameSizeError, h, "is not a multiple of 6 bytes")
		}
	}
	if h.Length < h.fixedPart() {
		return connError(FrameSizeError, h, "is shorter than its mandatory fields")
	}
	return nil
}

// fixedPart returns the number of bytes before a field block or data, as the flags say.
func (h FrameHeader) fixedPart() (n int) {
	switch h.Type {
	case Data, Headers, PushPromise:
		if h.Flags.Has(Padded) {
			n++
		}
	}
	if h.Type == Headers && h.Flags.Has(PriorityFlag) {
		n += 5
	}
	if h.Type == PushPromise {
		n += 4
	}
	return n
}

// Block returns the field block fragment in the payload p of a HEADERS, PUSH_PROMISE or
// CONTINUATION frame that passed Check. The fragment is a part of p. An error is one of the
// connection: there is no fragment, and every field block must be decoded (§4.3). The priority
// fields of HEADERS are skipped without a check, because §5.3.2 dropped the rules of RFC 7540 for
// them.
func (h FrameHeader) Block(p []byte) ([]byte, error) {
	if h.Type == Headers && h.Flags&(Padded|PriorityFlag) == 0 {
		return p, nil
	}
	pad := 0
	if h.Type != Continuation && h.Flags.Has(Padded) {
		pad = int(p[0])
	}
	fixed := h.fixedPart()
	if fixed+pad > len(p) { // §6.1: padding that exceeds the payload is a PROTOCOL_ERROR
		return nil, connError(ProtocolError, h, "has more padding than payload")
	}
	return p[fixed : len(p)-pad], nil
}

// ParsePromisedID returns the ID of the stream that a PUSH_PROMISE payload promises.
func (h FrameHeader) ParsePromisedID(p []byte) uint32 {
	return binary.BigEndian.Uint32(p[h.fixedPart()-4:]) & MaxStreamID
}

// ParsePriority returns the priority in the payload p of a PRIORITY or HEADERS frame (RFC 7540
// §5.3): the stream that this one depends on, the weight of 1 to 256, and whether the dependency is
// exclusive. ok is false if the frame has none, or if p is cut off.
func (h FrameHeader) ParsePriority(p []byte) (on uint32, weight int, exclusive, ok bool) {
	switch {
	case h.Type == Priority:
	case h.Type == Headers && h.Flags.Has(PriorityFlag):
		p = p[min(h.fixedPart()-5, len(p)):]
	default:
		return 0, 0, false, false
	}
	if len(p) < 5 {
		return 0, 0, false, false
	}
	n := binary.BigEndian.Uint32(p)
	return n & MaxStreamID, int(p[4]) + 1, n&^MaxStreamID != 0, true
}

// ParsePriorityUpdate returns the prioritized stream and the field value in the payload p of a
// PRIORITY_UPDATE frame (RFC 9218 §7.1). value is a part of p. ok is false for another frame, or if
// p is cut off.
func (h FrameHeader) ParsePriorityUpdate(p []byte) (id uint32, value []byte, ok bool) {
	if h.Type != PriorityUpdate || len(p) < 4 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint32(p) & MaxStreamID, p[4:], true
}

// ParseWindowUpdate returns the increment of a WINDOW_UPDATE payload, which may be zero.
func ParseWindowUpdate(p []byte) int { return int(binary.BigEndian.Uint32(p) & MaxWindow) }

// ParseRSTStream returns the error code of a RST_STREAM payload.
func ParseRSTStream(p []byte) ErrCode { return ErrCode(binary.BigEndian.Uint32(p)) }

// ParsePing returns the eight opaque bytes of a PING payload.
func ParsePing(p []byte) (data [8]byte) {
	copy(data[:], p)
	return data
}

// ParseGoAway returns the fields of a GOAWAY payload. debug is a part of p.
func ParseGoAway(p []byte) (last uint32, code ErrCode, debug []byte) {
	return binary.BigEndian.Uint32(p) & MaxStreamID, ErrCode(binary.BigEndian.Uint32(p[4:])), p[8:]
}

// ParseOrigins yields the origins of an ORIGIN payload (RFC 8336 §2.1) unchanged. It skips a last
// one that is cut off.
func ParseOrigins(p []byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		for len(p) >= 2 {
			n := int(binary.BigEndian.Uint16(p))
			if p = p[2:]; n > len(p) || !yield(string(p[:n])) {
				return
			}
			p = p[n:]
		}
	}
}

// AppendOrigin appends one ORIGIN frame.
func AppendOrigin(dst []byte, origins ...string) []byte {
	start := len(dst)
	dst = AppendFrameHeader(dst, FrameHeader{Type: Origin})
	for _, origin := range origins {
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(origin)))
		dst = append(dst, origin...)
	}
	PutLength(dst[start:], len(dst)-start-HeaderLen)
	return dst
}

// AppendSettings appends one SETTINGS frame.
func AppendSettings(dst []byte, settings ...Setting) []byte {
	dst = AppendFrameHeader(dst, FrameHeader{Length: 6 * len(settings), Type: Settings})
	for _, s := range settings {
		dst = binary.BigEndian.AppendUint16(dst, uint16(s.ID))
		dst = binary.BigEndian.AppendUint32(dst, s.Value)
	}
	return dst
}

// AppendSettingsAck appends the acknowledgment of the peer's SETTINGS.
func AppendSettingsAck(dst []byte) []byte {
	return AppendFrameHeader(dst, FrameHeader{Type: Settings, Flags: Ack})
}

// AppendPing appends a PING frame; flags is Ack or 0.
func AppendPing(dst []byte, flags Flags, data [8]byte) []byte {
	dst = AppendFrameHeader(dst, FrameHeader{Length: 8, Type: Ping, Flags: flags})
	return append(dst, data[:]...)
}

// AppendRSTStream appends a RST_STREAM frame.
func AppendRSTStream(dst []byte, stream uint32, code ErrCode) []byte {
	dst = AppendFrameHeader(dst, FrameHeader{Length: 4, Type: RSTStream, StreamID: stream})
	return binary.BigEndian.AppendUint32(dst, uint32(code))
}

// AppendWindowUpdate appends a WINDOW_UPDATE frame; stream 0 is the connection.
func AppendWindowUpdate(dst []byte, stream uint32, increment int) []byte {
	dst = AppendFrameHeader(dst, FrameHeader{Length: 4, Type: WindowUpdate, StreamID: stream})
	return binary.BigEndian.AppendUint32(dst, uint32(increment))
}

// AppendPriorityUpdate appends a PRIORITY_UPDATE for the stream (RFC 9218 §7.1). value is that of a
// priority field.
func AppendPriorityUpdate(dst []byte, stream uint32, value string) []byte {
	dst = AppendFrameHeader(dst, FrameHeader{Length: 4 + len(value), Type: PriorityUpdate})
	dst = binary.BigEndian.AppendUint32(dst, stream)
	return append(dst, value...)
}

// AppendGoAway appends a GOAWAY frame.
func AppendGoAway(dst []byte, last uint32, code ErrCode, debug string) []byte {
	dst = AppendFrameHeader(dst, FrameHeader{Length: 8 + len(debug), Type: GoAway})
	dst = binary.BigEndian.AppendUint32(dst, last)
	dst = binary.BigEndian.AppendUint32(dst, uint32(code))
	return append(dst, debug...)
}

// AppendData appends an unpadded DATA frame; flags is EndStream or 0.
func AppendData(dst []byte, stream uint32, flags Flags, p []byte) []byte {
	dst = AppendFrameHeader(dst, FrameHeader{Length: len(p), Type: Data, Flags: flags, StreamID: stream})
	return append(dst, p...)
}
