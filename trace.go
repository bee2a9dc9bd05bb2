package hyper

import (
	"io"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/syntax"
	"gohyper.dev/hyper/internal/wire"
)

// A TraceEvent is one frame as it passes the socket. It is passed to Config.Trace. Received frames
// are reported by the goroutine that reads the connection, as it parses them. Sent frames are
// reported by the goroutine that writes it, just before it writes them. The two may call
// Config.Trace at the same time. The function must not block or call methods of the connection.
type TraceEvent struct {
	Sent     bool          // true: sent by this side; false: received
	Time     time.Duration // since the connection was made
	Type     string        // of the frame, as in RFC 9113 §6, such as "HEADERS"
	StreamID uint32
	Length   int // of the payload, in bytes
	Flags    uint8

	// Fields is the field section that ends with this frame. It is nil for any other frame.
	Fields Header

	// Settings are the entries of a SETTINGS frame. It is nil for any other frame.
	Settings []Setting

	text string
}

// String returns the frame as one line of text. It begins with "-> " if the frame was sent, and
// with "<- " if it was received:
//
//	<- DATA stream=1 len=16384 END_STREAM
func (e TraceEvent) String() string {
	if e.Sent {
		return "-> " + e.text
	}
	return "<- " + e.text
}

// FieldLines yields the field section, one line for each field, in a form that is safe to show. The
// values of credentials, cookies and fields marked Sensitive are replaced by their length. Control
// characters, marks that change the direction of text, and bytes that are not UTF-8 are escaped as
// in a Go string.
func (e TraceEvent) FieldLines(yield func(line string) bool) {
	for _, f := range e.Fields {
		if !yield(syntax.Escape(f.Name) + ": " + syntax.Escape(redacted(f))) {
			return
		}
	}
}

// redacted returns the value of f, or its length if the value may be a secret.
func redacted(f Field) string {
	switch syntax.Lower(f.Name) {
	case "authorization", "proxy-authorization", "cookie", "set-cookie":
	default:
		if !f.Sensitive {
			return f.Value
		}
	}
	return "[" + strconv.Itoa(len(f.Value)) + " bytes]"
}

// TraceTo returns a function for Config.Trace that writes each frame to w as one line, in the form
// of TraceEvent.String. The fields of a field section follow on indented lines, each cut off after
// 64 bytes. As with FieldLines, credentials are not shown, and characters that could control a
// terminal are escaped. The writes to w do not overlap.
func TraceTo(w io.Writer) func(TraceEvent) {
	var mu sync.Mutex
	return func(e TraceEvent) {
		var b strings.Builder
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

// newTraceEvent returns the event for a frame with the payload p. fields is the section that ends
// with it.
func newTraceEvent(h wire.FrameHeader, p []byte, fields Header) TraceEvent {
	e := TraceEvent{
		Type:     h.Type.String(),
		StreamID: h.StreamID,
		Length:   h.Length,
		Flags:    uint8(h.Flags),
		Fields:   append(Header(nil), fields...),
		text:     h.Text(p),
	}
	if h.Type == wire.Settings {
		for s := range wire.ParseSettings(p) {
			e.Settings = append(e.Settings, Setting{SettingID(s.ID), s.Value})
		}
	}
	return e
}

// traceReceived reports a received frame. The frame reader calls it.
func (c *Conn) traceReceived(h wire.FrameHeader, p []byte, fields Header) {
	e := newTraceEvent(h, p, fields)
	e.Time = c.clock()
	c.cfg.Trace(e)
}

// A sendTracer reports the frames that are sent. It parses the bytes that are about to be written,
// as the peer will, so that no other code has to support tracing. It is owned by writeLoop.
type sendTracer struct {
	c      *Conn
	dec    *hpack.Decoder
	fields Header
	block  []byte // field block that has not ended
	begun  bool   // the preface was reported
}

// newSendTracer returns a sendTracer for c.
func newSendTracer(c *Conn) *sendTracer {
	t := &sendTracer{c: c}
	t.dec = hpack.NewDecoder(wire.HeaderTableSize, func(f hpack.HeaderField) {
		t.fields = append(t.fields, Field{Name: f.Name, Value: f.Value, Sensitive: f.Sensitive})
	})
	t.dec.SetAllowedMaxDynamicTableSize(math.MaxUint32)
	return t
}

// trace reports the frames in batch, which holds whole frames. t may be nil.
func (t *sendTracer) trace(batch []byte) {
	if t == nil {
		return
	}
	now := t.c.clock()
	if !t.begun && len(batch) > 0 {
		t.begun = true
		batch = batch[len(wire.ClientPreface):]
		t.c.cfg.Trace(TraceEvent{Sent: true, Time: now, Type: "PREFACE", Length: len(wire.ClientPreface),
			text: "PREFACE"})
	}
	for len(batch) >= wire.HeaderLen {
		h := wire.ParseFrameHeader(batch)
		p := batch[wire.HeaderLen:][:h.Length]
		batch = batch[wire.HeaderLen+h.Length:]
		e := newTraceEvent(h, p, t.section(h, p))
		e.Sent, e.Time = true, now
		t.c.cfg.Trace(e)
	}
}

// section returns the field section that ends with the frame of header h and payload p, or nil if
// none does.
func (t *sendTracer) section(h wire.FrameHeader, p []byte) Header {
	if h.Type != wire.Headers && h.Type != wire.Continuation {
		return nil
	}
	fragment, _ := h.Block(p)
	t.block = append(t.block, fragment...)
	if !h.Flags.Has(wire.EndHeaders) {
		return nil
	}
	t.fields = t.fields[:0]
	t.dec.Write(t.block)
	t.dec.Close()
	t.block = t.block[:0]
	return t.fields
}
