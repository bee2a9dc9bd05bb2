package wire

import (
	"fmt"
	"strconv"
)

// An ErrCode is an error code of RST_STREAM and GOAWAY, of 32 bits (§7).
type ErrCode uint32

// The error codes of §7.
const (
	NoError            ErrCode = 0x0
	ProtocolError      ErrCode = 0x1
	InternalError      ErrCode = 0x2
	FlowControlError   ErrCode = 0x3
	SettingsTimeout    ErrCode = 0x4
	StreamClosed       ErrCode = 0x5
	FrameSizeError     ErrCode = 0x6
	RefusedStream      ErrCode = 0x7
	Cancel             ErrCode = 0x8
	CompressionError   ErrCode = 0x9
	ConnectError       ErrCode = 0xa
	EnhanceYourCalm    ErrCode = 0xb
	InadequateSecurity ErrCode = 0xc
	HTTP11Required     ErrCode = 0xd
)

// codeNames are the names of the error codes.
var codeNames = [...]string{
	"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
	"FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
	"INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

// String returns the code's name in §7, or ERROR_0x… if it is not listed there.
func (c ErrCode) String() string {
	if int64(c) < int64(len(codeNames)) {
		return codeNames[c]
	}
	return fmt.Sprintf("ERROR_0x%x", uint32(c))
}

// typeNames are the names of the frame types, as their RFCs write them.
var typeNames = [...]string{
	Data: "DATA", Headers: "HEADERS", Priority: "PRIORITY", RSTStream: "RST_STREAM", Settings: "SETTINGS",
	PushPromise: "PUSH_PROMISE", Ping: "PING", GoAway: "GOAWAY", WindowUpdate: "WINDOW_UPDATE",
	Continuation: "CONTINUATION", AltSvc: "ALTSVC", Origin: "ORIGIN", PriorityUpdate: "PRIORITY_UPDATE",
}

// String returns the type's name in its RFC, or FRAME_0x… for an unknown type.
func (t FrameType) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return fmt.Sprintf("FRAME_0x%x", uint8(t))
}

// A flagName is a flag with its name.
type flagName struct {
	bit  Flags
	name string
}

// The flags of each frame type.
var (
	dataFlags    = []flagName{{EndStream, "END_STREAM"}, {Padded, "PADDED"}}
	headersFlags = []flagName{{EndStream, "END_STREAM"}, {EndHeaders, "END_HEADERS"}, {Padded, "PADDED"},
		{PriorityFlag, "PRIORITY"}}
	promiseFlags = []flagName{{EndHeaders, "END_HEADERS"}, {Padded, "PADDED"}}
	moreFlags    = []flagName{{EndHeaders, "END_HEADERS"}}
	ackFlags     = []flagName{{Ack, "ACK"}}
)

// flagNames returns the flags that the type has.
func (t FrameType) flagNames() []flagName {
	switch t {
	case Data:
		return dataFlags
	case Headers:
		return headersFlags
	case PushPromise:
		return promiseFlags
	case Continuation:
		return moreFlags
	case Settings, Ping:
		return ackFlags
	}
	return nil
}

// String returns the textual form without the payload: DATA stream=1 len=16384 END_STREAM. A stream
// of 0 is left out.
func (h FrameHeader) String() string { return string(h.appendText(nil)) }

// appendText appends what String returns.
func (h FrameHeader) appendText(dst []byte) []byte {
	dst = append(dst, h.Type.String()...)
	if h.StreamID != 0 {
		dst = append(dst, " stream="...)
		dst = strconv.AppendUint(dst, uint64(h.StreamID), 10)
	}
	dst = append(dst, " len="...)
	dst = strconv.AppendInt(dst, int64(h.Length), 10)
	rest := h.Flags
	for _, f := range h.Type.flagNames() {
		if rest.Has(f.bit) {
			dst = append(append(dst, ' '), f.name...)
			rest &^= f.bit
		}
	}
	if rest != 0 {
		dst = fmt.Appendf(dst, " flags=0x%x", uint8(rest))
	}
	return dst
}

// Text returns the textual form of a frame: its header, then the content of a short payload p. If p
// is empty or cut off, what is missing is left out. Field blocks and data are not shown.
func (h FrameHeader) Text(p []byte) string {
	dst := h.appendText(nil)
	switch {
	case h.Type == Settings:
		for s := range ParseSettings(p) {
			dst = fmt.Appendf(dst, " %v=%d", s.ID, s.Value)
		}
	case h.Type == WindowUpdate && len(p) >= 4:
		dst = fmt.Appendf(dst, " increment=%d", ParseWindowUpdate(p))
	case h.Type == RSTStream && len(p) >= 4:
		dst = fmt.Appendf(dst, " code=%v", ParseRSTStream(p))
	case h.Type == Ping && len(p) >= 8:
		dst = fmt.Appendf(dst, " data=%x", p[:8])
	case h.Type == GoAway && len(p) >= 8:
		last, code, debug := ParseGoAway(p)
		dst = fmt.Appendf(dst, " last=%d code=%v", last, code)
		if len(debug) > 0 {
			dst = fmt.Appendf(dst, " debug=%s", Quote(debug))
		}
	case h.Type == PushPromise && len(p) >= h.fixedPart():
		dst = fmt.Appendf(dst, " promised=%d", h.ParsePromisedID(p))
	}
	return string(dst)
}

// Quote returns bytes of the peer as printable text of limited length.
func Quote(p []byte) string {
	const most = 256
	if len(p) > most {
		return strconv.QuoteToASCII(string(p[:most])) + "…"
	}
	return strconv.QuoteToASCII(string(p))
}
