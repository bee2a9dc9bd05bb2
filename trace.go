package hyper

import (
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/syntax"
	"gohyper.dev/hyper/internal/wire"
)

// A TraceEvent is one frame, as it crossed the socket. It is handed to Config.Trace: received frames on the connection's
// reader as they are parsed, sent ones on its writer just before they are written; the two may call at once. The
// function must not block or call the connection.
type TraceEvent struct {
	Sent     bool // by us; else received
	Time     time.Duration
	Type     string // of the frame, as in RFC 9113 §6: "HEADERS"
	StreamID uint32
	Length   int // of the payload
	Flags    uint8

	// Fields is the field section that ends with this frame; nil of any other.
	Fields Header

	text string
}

// String is the one textual form of a frame, "-> " for sent and "<- " for received:
//
//	<- DATA stream=1 len=16384 END_STREAM
func (e TraceEvent) String() string {
	if e.Sent {
		return "-> " + e.text
	}
	return "<- " + e.text
}

// FieldLines yields the field section one field a line, ready to be shown: the values of
// credentials and cookies, and of fields marked sensitive, are replaced by their length. Control
// characters, marks that change the direction of text, and what is not UTF-8 are escaped as in a Go
// string.
func (e TraceEvent) FieldLines(yield func(line string) bool) {
	for _, f := range e.Fields {
		if !yield(syntax.Escape(f.Name) + ": " + syntax.Escape(redacted(f))) {
			return
		}
	}
}

func redacted(f Field) string {
	switch syntax.Lower(f.Name) {
	case "authorization", "proxy-authorization", "cookie", "set-cookie":
	default:
		if !f.Sensitive {
			return f.Value
		}
	}
	return "[" + strconv.Itoa(len(f.Value)) + " octets]"
}

// TraceTo returns a function for Config.Trace that writes each frame to w, a line each in the one
// textual form, the fields of a field section indented below, each cut off at 64 octets.
// Credentials are not shown, and nothing that a terminal would obey: see FieldLines. Its writes do
// not overlap.
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

func newTraceEvent(h wire.FrameHeader, p []byte, fields Header) TraceEvent {
	return TraceEvent{
		Type:     h.Type.String(),
		StreamID: h.StreamID,
		Length:   h.Length,
		Flags:    uint8(h.Flags),
		Fields:   append(Header(nil), fields...),
		text:     h.Text(p),
	}
}

// traceReceived is the frame reader's witness.
func (c *Conn) traceReceived(h wire.FrameHeader, p []byte, fields Header) {
	e := newTraceEvent(h, p, fields)
	e.Time = time.Since(c.start)
	c.cfg.Trace(e)
}

// A sendTracer reads what is about to be written as the peer will, so that tracing costs nothing anywhere else. It
// belongs to writeLoop.
type sendTracer struct {
	c      *Conn
	dec    *hpack.Decoder
	fields Header
	block  []byte
	begun  bool
}

func newSendTracer(c *Conn) *sendTracer {
	t := &sendTracer{c: c}
	t.dec = hpack.NewDecoder(wire.HeaderTableSize, func(f hpack.HeaderField) {
		t.fields = append(t.fields, Field{Name: f.Name, Value: f.Value, Sensitive: f.Sensitive})
	})
	return t
}

// trace shows the frames of batch, which are whole.
func (t *sendTracer) trace(batch []byte) {
	if t == nil { // nobody looks
		return
	}
	now := time.Since(t.c.start)
	if !t.begun && len(batch) > 0 {
		t.begun = true
		batch = batch[len(wire.ClientPreface):]
		t.c.cfg.Trace(TraceEvent{Sent: true, Time: now, Type: "PREFACE", Length: len(wire.ClientPreface), text: "PREFACE"})
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

// section returns the field section that ends with a frame of ours.
func (t *sendTracer) section(h wire.FrameHeader, p []byte) Header {
	if h.Type != wire.Headers && h.Type != wire.Continuation {
		return nil
	}
	t.block = append(t.block, p...)
	if !h.Flags.Has(wire.EndHeaders) {
		return nil
	}
	t.fields = t.fields[:0]
	t.dec.Write(t.block)
	t.dec.Close()
	t.block = t.block[:0]
	return t.fields
}
