package hyper

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"gohyper.dev/hyper/internal/syntax"
	"gohyper.dev/hyper/internal/tracing"
	"gohyper.dev/hyper/internal/wire"
)

// A TraceKind says what a TraceEvent reports.
type TraceKind uint8

// The kinds of trace events. Beside each one are the fields of TraceEvent that it sets, besides
// Kind, ConnID, Conn, At, Time and Lost.
const (
	// TraceFrame: a frame passes the socket. Sent, Type, FrameType, Flags, StreamID, Length, and
	// what the payload means.
	TraceFrame TraceKind = iota
	// TraceDialStart: a transport connection to Host is being made. Conn is nil.
	TraceDialStart
	// TraceDialDone: it was made, or Err says why not. Wait is how long that took. Conn is nil.
	TraceDialDone
	// TraceTLSStart: the TLS handshake begins. Conn is nil.
	TraceTLSStart
	// TraceTLSDone: the handshake has ended. Err, Wait. Conn is nil.
	TraceTLSDone
	// TraceConnOpened: the HTTP/2 connection begins. Host is its authority.
	TraceConnOpened
	// TraceConnClosed: the connection has ended. Err is the result of Conn.Err. Frames may follow
	// that are still written, such as GOAWAY, or that were received before, and TraceBodyRead.
	TraceConnClosed
	// TraceSlotWait: a request has begun to wait, because the peer allows no more streams or
	// because too much is not written yet. StreamID is 0, because it has no stream yet. If it waits
	// in the queue of a Transport, Host is the origin, and Conn is nil and ConnID 0, because it
	// does not have a connection yet.
	TraceSlotWait
	// TraceStreamOpened: a stream was opened, and its HEADERS will be sent. Wait is how long the
	// request waited for it, on this connection or in the queue of a Transport, which includes the
	// time in which the connection was made. For a promised stream, Sent is false.
	TraceStreamOpened
	// TraceHalfClosed: one side has ended the stream with END_STREAM; our side if Sent is true.
	TraceHalfClosed
	// TraceStreamClosed: the stream has ended. Err is the result of Stream.Err: nil if both sides
	// have ended it.
	TraceStreamClosed
	// TraceBodyRead: the response's body was read to its end, or Err says what ended the reading.
	// Length is the number of bytes that the caller got, with content codings decoded. For a body
	// without codings it is StreamStats.BytesReceived. A body that was closed earlier has no such
	// event.
	TraceBodyRead
	// TraceWindow: a flow-control window moved by Increment, which is negative for DATA. With Sent,
	// it is the window for what this side sends, else the window for what the peer sends. StreamID
	// is 0 if only the connection's window moved. Window is the stream's window and ConnWindow the
	// connection's, both afterwards. A change of INITIAL_WINDOW_SIZE has no event of its own: the
	// next event of each stream has its new window.
	TraceWindow
	// TraceRetry: a Transport sends a request again after Err, which the previous attempt had on
	// the connection Conn. Wait is the pause before. Host is the origin.
	TraceRetry
)

// traceKinds has the words that String returns.
var traceKinds = []string{
	TraceFrame: "frame", TraceDialStart: "dial_start", TraceDialDone: "dial_done",
	TraceTLSStart: "tls_start", TraceTLSDone: "tls_done", TraceConnOpened: "conn_opened",
	TraceConnClosed: "conn_closed", TraceSlotWait: "slot_wait", TraceStreamOpened: "stream_opened",
	TraceHalfClosed: "half_closed", TraceStreamClosed: "stream_closed", TraceBodyRead: "body_read",
	TraceWindow: "window", TraceRetry: "retry",
}

// String returns a word for logs and labels, such as "frame" or "stream_opened".
func (k TraceKind) String() string { return word("TraceKind", traceKinds, uint8(k)) }

// A TraceEvent is one step of a connection: a frame as it passes the socket, or what Kind says
// otherwise. It is passed to Config.Trace.
//
// The events of one connection are reported one after the other, in their order: a received frame
// before it takes effect, a sent frame just before it is written. Their times say when they
// happened: a frame that was read or collected for a write before another step may be reported
// after it, with an earlier time. They are reported by the goroutine that reads or writes the
// connection, by one that uses it, or by a new one. The events of several connections may be
// reported at the same time. The function must not block, because Conn.Close and Conn.Shutdown wait
// for it. It must not panic or end its goroutine, as testing.T.FailNow does, and must not call
// methods of a connection or a Transport.
//
// If more than 10,000 events wait for the function, further ones are dropped, except for frames and
// the end of the connection, and Lost counts them. They wait if the function takes long, or if very
// many streams end at once.
//
// The function may keep an event and what it contains, and must not change that.
type TraceEvent struct {
	Kind      TraceKind
	Sent      bool   // true: sent by this side; false: received
	FrameType uint8  // the frame's type as a number (RFC 9113 §6)
	Flags     uint8  // of the frame
	StreamID  uint32 // of the frame or the stream; 0: the connection

	// ConnID is the number of the connection. All connections of the program that are traced are
	// numbered from 1 as they are dialed.
	ConnID uint64
	Conn   *Conn // nil before there is one

	At   time.Time     // when it happened, by the wall clock
	Time time.Duration // since the connection was made; 0 for the events before
	Lost int           // how many events were dropped before this one

	Type   string // of the frame, as in RFC 9113 §6, such as "HEADERS"
	Length int    // of the frame's payload, in bytes

	// Fields is the field section that ends with this frame. It is nil for any other frame.
	Fields Header

	// Settings are the entries of a SETTINGS frame. It is nil for any other frame.
	Settings []Setting

	Code         ErrCode        // of RST_STREAM and GOAWAY
	LastStreamID uint32         // of GOAWAY
	PromisedID   uint32         // of PUSH_PROMISE
	Data         [8]byte        // of PING
	padding      uint16         // of DATA, with the Pad Length field; a part of Length
	Debug        []byte         // of GOAWAY: the peer's bytes as they are; see String
	Priority     *TracePriority // of PRIORITY, HEADERS and PRIORITY_UPDATE; nil: none

	Increment  int   // of WINDOW_UPDATE and TraceWindow, in bytes
	Window     int64 // TraceWindow
	ConnWindow int64 // TraceWindow

	Host string        // see TraceKind
	Wait time.Duration // see TraceKind
	Err  error         // see TraceKind
}

// A TracePriority is the priority in a PRIORITY or HEADERS frame (RFC 7540 §5.3) or in a
// PRIORITY_UPDATE frame (RFC 9218 §7.1).
type TracePriority struct {
	DependsOn uint32 // PRIORITY, HEADERS: the stream that it depends on
	Weight    int    // PRIORITY, HEADERS: 1 to 256
	Exclusive bool   // PRIORITY, HEADERS
	StreamID  uint32 // PRIORITY_UPDATE: the stream whose priority it is
	Value     string // PRIORITY_UPDATE: the field value, such as "u=1, i"
}

// String returns the event as one line of text. A frame begins with "-> " if it was sent, and with
// "<- " if it was received:
//
//	<- DATA stream=1 len=16384 END_STREAM
//
// Any other event begins with "-- " and its kind:
//
//	-- stream_closed stream=1
//
// The debug data of a GOAWAY is shown as an ASCII string without what looks like a credential, and
// cut off after 256 bytes.
func (e TraceEvent) String() string {
	b := make([]byte, 0, 128)
	if e.Kind != TraceFrame {
		return string(e.appendStep(append(b, "-- "...)))
	}
	if e.Sent {
		b = append(b, "-> "...)
	} else {
		b = append(b, "<- "...)
	}
	return string(e.appendFrame(b))
}

// appendFrame appends the text of a frame.
func (e *TraceEvent) appendFrame(b []byte) []byte {
	if e.Type == preface {
		return append(b, preface...)
	}
	b = append(b, wire.FrameHeader{Type: wire.FrameType(e.FrameType), Length: e.Length,
		Flags: wire.Flags(e.Flags), StreamID: e.StreamID}.String()...)
	for _, s := range e.Settings {
		b = fmt.Appendf(b, " %v=%d", wire.SettingID(s.ID), s.Value)
	}
	if e.Length < e.minLength() {
		return b // its payload was not read
	}
	switch wire.FrameType(e.FrameType) {
	case wire.WindowUpdate:
		b = fmt.Appendf(b, " increment=%d", e.Increment)
	case wire.RSTStream:
		b = fmt.Appendf(b, " code=%v", wire.ErrCode(e.Code))
	case wire.Ping:
		b = fmt.Appendf(b, " data=%x", e.Data)
	case wire.GoAway:
		b = fmt.Appendf(b, " last=%d code=%v", e.LastStreamID, wire.ErrCode(e.Code))
		if len(e.Debug) > 0 {
			b = fmt.Appendf(b, " debug=%s", wire.Quote([]byte(tracing.Redact(string(e.Debug)))))
		}
	case wire.PushPromise:
		if e.PromisedID > 0 {
			b = fmt.Appendf(b, " promised=%d", e.PromisedID)
		}
	}
	if p := e.Priority; p != nil {
		b = p.append(b)
	}
	return b
}

// append appends the text of a priority.
func (p *TracePriority) append(b []byte) []byte {
	if p.StreamID > 0 {
		return fmt.Appendf(b, " prioritized=%d priority=%q", p.StreamID, p.Value)
	}
	b = fmt.Appendf(b, " depends_on=%d weight=%d", p.DependsOn, p.Weight)
	if p.Exclusive {
		b = append(b, " exclusive"...)
	}
	return b
}

// minLength returns the shortest payload of the frame's type whose content can be shown.
func (e *TraceEvent) minLength() int {
	switch wire.FrameType(e.FrameType) {
	case wire.WindowUpdate, wire.RSTStream:
		return 4
	case wire.Ping, wire.GoAway:
		return 8
	}
	return 0
}

// appendStep appends the text of an event that is no frame.
func (e *TraceEvent) appendStep(b []byte) []byte {
	b = append(b, e.Kind.String()...)
	if e.StreamID > 0 {
		b = fmt.Appendf(b, " stream=%d", e.StreamID)
	}
	switch e.Kind {
	case TraceHalfClosed, TraceWindow:
		side := " by=peer"
		if e.Sent {
			side = " by=us"
		}
		b = append(b, side...)
	case TraceBodyRead:
		b = fmt.Appendf(b, " len=%d", e.Length)
	}
	if e.Kind == TraceWindow {
		b = fmt.Appendf(b, " increment=%d", e.Increment)
		if e.StreamID > 0 {
			b = fmt.Appendf(b, " window=%d", e.Window)
		}
		b = fmt.Appendf(b, " conn_window=%d", e.ConnWindow)
	}
	if e.Host != "" {
		b = append(append(b, " host="...), syntax.Printable(e.Host)...)
	}
	if e.Wait > 0 {
		b = fmt.Appendf(b, " wait=%v", e.Wait)
	}
	if e.Err != nil {
		b = append(append(b, " err="...), wire.Quote([]byte(tracing.Redact(e.Err.Error())))...)
	}
	return b
}

// FieldLines yields the field section, one line for each field, in a form that is safe to show. The
// values of credentials, cookies and fields marked Sensitive are replaced by their length, and so
// is what looks like a credential in the query of a URL. A field is taken for a credential by its
// name: authorization, and names that end in token, secret, password, or api-key. Control
// characters, marks that change the direction of text, and bytes that are not UTF-8 are escaped as
// in a Go string.
func (e TraceEvent) FieldLines(yield func(line string) bool) {
	for _, f := range e.Fields {
		if !yield(syntax.Escape(f.Name) + ": " + syntax.Escape(redacted(f))) {
			return
		}
	}
}

// redacted returns the value of f without credentials.
func redacted(f Field) string { return tracing.Field(f).Shown() }

// TraceTo returns a function for Config.Trace that writes each frame to w as one line. A line has
// the local time, the connection's number and TraceEvent.String:
//
//	15:04:05.000000 c1 <- DATA stream=1 len=16384 END_STREAM
//
// The fields of a field section follow on indented lines, each cut off after 64 bytes. As with
// FieldLines, credentials are not shown, and characters that could control a terminal are escaped.
//
// Other events are written as well, except for those that the frames show: TraceStreamOpened
// without a wait, TraceHalfClosed, TraceStreamClosed without an error, TraceBodyRead and
// TraceWindow. The writes to w do not overlap.
func TraceTo(w io.Writer) func(TraceEvent) {
	var mu sync.Mutex
	return func(e TraceEvent) {
		if e.isPlain() {
			return
		}
		var b strings.Builder
		b.WriteString(e.At.Format("15:04:05.000000 c"))
		b.WriteString(strconv.FormatUint(e.ConnID, 10))
		b.WriteByte(' ')
		b.WriteString(e.String())
		b.WriteByte('\n')
		for _, f := range e.Fields {
			b.WriteString("       ")
			b.WriteString(syntax.Printable(f.Name + ": " + redacted(f)))
			b.WriteByte('\n')
		}
		mu.Lock()
		defer mu.Unlock()
		io.WriteString(w, b.String())
	}
}

// isPlain reports whether the frames show what the event reports.
func (e *TraceEvent) isPlain() bool {
	switch e.Kind {
	case TraceStreamOpened:
		return e.Wait == 0
	case TraceStreamClosed:
		return e.Err == nil
	case TraceHalfClosed, TraceBodyRead, TraceWindow:
		return true
	}
	return false
}

// payloadFlags are the flags of DATA and HEADERS for which setPayload has something to set.
const payloadFlags = wire.Padded | wire.PriorityFlag

// setHeader sets the fields that a frame's header has. It leaves Type empty, except for DATA and
// HEADERS.
func (e *TraceEvent) setHeader(h wire.FrameHeader) {
	e.FrameType, e.Flags, e.StreamID, e.Length = uint8(h.Type), uint8(h.Flags), h.StreamID, h.Length
	switch h.Type {
	case wire.Data:
		e.Type = "DATA"
	case wire.Headers:
		e.Type = "HEADERS"
	default:
		e.Type = ""
	}
}

// setPayload sets Type, and the fields that the payload p of the frame with the header h has. p is
// nil if the payload was not read.
func (e *TraceEvent) setPayload(h wire.FrameHeader, p []byte) {
	e.Type = h.Type.String()
	switch h.Type {
	case wire.Data:
		if h.Flags.Has(wire.Padded) && len(p) > 0 {
			e.padding = uint16(min(1+int(p[0]), h.Length))
		}
	case wire.Headers:
		if h.Flags.Has(wire.PriorityFlag) {
			e.setPriority(h, p)
		}
	case wire.Continuation:
	case wire.Settings:
		for s := range wire.ParseSettings(p) {
			e.Settings = append(e.Settings, Setting{SettingID(s.ID), s.Value})
		}
	case wire.WindowUpdate:
		if len(p) >= 4 {
			e.Increment = wire.ParseWindowUpdate(p)
		}
	case wire.RSTStream:
		if len(p) >= 4 {
			e.Code = ErrCode(wire.ParseRSTStream(p))
		}
	case wire.Ping:
		e.Data = wire.ParsePing(p)
	case wire.GoAway:
		if len(p) >= 8 {
			last, code, debug := wire.ParseGoAway(p)
			e.LastStreamID, e.Code = last, ErrCode(code)
			e.Debug = append([]byte(nil), debug[:min(len(debug), maxDebug)]...)
		}
	case wire.PushPromise:
		if len(p) > 0 {
			e.PromisedID = h.ParsePromisedID(p)
		}
	default:
		e.setPriority(h, p)
	}
}

// setPriority sets the priority in the frame, if it has one.
func (e *TraceEvent) setPriority(h wire.FrameHeader, p []byte) {
	if on, weight, exclusive, ok := h.ParsePriority(p); ok {
		e.Priority = &TracePriority{DependsOn: on, Weight: weight, Exclusive: exclusive}
	} else if id, value, ok := h.ParsePriorityUpdate(p); ok {
		e.Priority = &TracePriority{StreamID: id, Value: string(value[:min(len(value), maxDebug)])}
	}
}

// preface is the type of the event for the client preface.
const preface = "PREFACE"
