package hyper

import (
	"context"
	"encoding/hex"
	"io"
	"log/slog"
	"sync"

	"gohyper.dev/hyper/internal/tracing"
	"gohyper.dev/hyper/internal/wire"
)

// TraceLimits bound what a HAR or a Waterfall keeps. Beyond a limit, the oldest connection or
// stream that has ended is dropped, and the output says how many are missing. With the default
// limits, at most 64 MiB are kept, whatever the peers send.
type TraceLimits struct {
	Conns      int // connections; 0 means 100
	Streams    int // streams of all connections together; 0 means 1,000
	FieldBytes int // fields of each stream, in bytes, with 32 added for each field; 0 means 8 KiB
}

// recorder returns a Recorder with these limits.
func (l TraceLimits) recorder(charts bool) *tracing.Recorder {
	return tracing.NewRecorder(tracing.Limits{Conns: or(l.Conns, 100), Streams: or(l.Streams, 1000),
		Fields: or(l.FieldBytes, 8<<10), Charts: charts})
}

// A HAR records requests and responses for an HTTP archive (HAR 1.2), which browsers and other
// tools show. One HAR may be for several connections:
//
//	var archive hyper.HAR
//	conn, err := hyper.Dial(ctx, addr, &hyper.Config{Trace: archive.Trace})
//	…
//	archive.WriteTo(file)
//
// An entry has the fields as they were sent, with those that hyper added, the sizes on the wire,
// and the size of the decoded body if it was read to its end. Its timings are blocked (it waited
// for a stream), connect and ssl (of the first request after the connection was made), send, wait
// and receive. Promised streams are entries of their own. Bodies are not kept, nor are the values
// of credentials, cookies and fields marked Sensitive.
//
// The zero value is ready for use. A HAR must not be copied. Its methods may be called at the same
// time.
type HAR struct {
	Limits TraceLimits // must not be changed after the first event

	recorder lazyRecorder
}

// Trace is a function for Config.Trace.
func (h *HAR) Trace(e TraceEvent) { record(h.recorder.get(h.Limits, false), &e) }

// WriteTo writes the archive of what was recorded so far, as JSON.
func (h *HAR) WriteTo(w io.Writer) (int64, error) {
	return writeOut(w, h.recorder.get(h.Limits, false).HAR)
}

// A Waterfall records connections for a page that shows them: streams as bars, windows as curves,
// and the frames of the connection as marks. The page is one HTML file, which loads nothing. It is
// used as a HAR is, with the same limits, and keeps no credentials either.
//
// The zero value is ready for use. A Waterfall must not be copied. Its methods may be called at the
// same time.
type Waterfall struct {
	Limits TraceLimits // must not be changed after the first event

	recorder lazyRecorder
}

// Trace is a function for Config.Trace.
func (h *Waterfall) Trace(e TraceEvent) { record(h.recorder.get(h.Limits, true), &e) }

// WriteTo writes the page with what was recorded so far, as HTML.
func (h *Waterfall) WriteTo(w io.Writer) (int64, error) {
	return writeOut(w, h.recorder.get(h.Limits, true).HTML)
}

// A lazyRecorder is a tracing.Recorder that is made when it is used first.
type lazyRecorder struct {
	once     sync.Once
	recorder *tracing.Recorder
}

// get returns the recorder.
func (l *lazyRecorder) get(limits TraceLimits, windows bool) *tracing.Recorder {
	l.once.Do(func() { l.recorder = limits.recorder(windows) })
	return l.recorder
}

// writeOut writes what render returns.
func writeOut(w io.Writer, render func() ([]byte, error)) (int64, error) {
	text, err := render()
	if err != nil {
		return 0, err
	}
	n, err := w.Write(text)
	return int64(n), err
}

// recordedKinds are the kinds of events that are recorded.
var recordedKinds = map[TraceKind]tracing.Kind{
	TraceFrame: tracing.Frame, TraceDialStart: tracing.DialStart, TraceDialDone: tracing.DialDone,
	TraceTLSStart: tracing.TLSStart, TraceTLSDone: tracing.TLSDone, TraceConnOpened: tracing.ConnOpened,
	TraceConnClosed: tracing.ConnClosed, TraceStreamOpened: tracing.StreamOpened,
	TraceHalfClosed: tracing.HalfClosed, TraceStreamClosed: tracing.StreamClosed,
	TraceBodyRead: tracing.BodyRead, TraceWindow: tracing.Window,
}

// record passes e to r, if it is of a kind that is recorded.
func record(r *tracing.Recorder, e *TraceEvent) {
	kind, ok := recordedKinds[e.Kind]
	if !ok {
		return
	}
	out := tracing.Event{Kind: kind, Sent: e.Sent, Type: e.Type, ConnID: e.ConnID, StreamID: e.StreamID,
		PromisedID: e.PromisedID, At: e.At, Wait: e.Wait, Length: e.Length, Padding: int(e.padding),
		Host: e.Host, Window: e.Window, ConnWindow: e.ConnWindow}
	if e.Kind == TraceConnOpened && e.Conn != nil && e.Conn.socket.remote != nil &&
		*e.Conn.socket.remote != nil {
		out.Addr = (*e.Conn.socket.remote).String()
	}
	switch {
	case e.Err != nil:
		out.Text = tracing.Redact(e.Err.Error())
	case e.Kind == TraceFrame && (e.StreamID == 0 || e.FrameType == uint8(wire.RSTStream)):
		out.Text = string(e.appendFrame(nil))
	}
	for _, f := range e.Fields {
		out.Fields = append(out.Fields, tracing.Field(f))
	}
	r.Add(&out)
}

// A SlogTrace writes events to a *slog.Logger. A method value of it is a function for Config.Trace:
//
//	hyper.Config{Trace: hyper.SlogTrace{}.Trace}
//
// The message of a frame is its type, and that of another event is its kind. The level is Debug for
// frames and for the steps of streams, Info for the steps of connections, and Warn for an event
// with an error. The attributes are the fields of TraceEvent that the event has, beginning with
// conn. Values of credentials are not shown.
type SlogTrace struct {
	Logger *slog.Logger // nil means slog.Default()
	Fields bool         // also writes the field sections, as a group "fields"
}

// Trace is a function for Config.Trace. It may be called at the same time by several goroutines.
func (s SlogTrace) Trace(e TraceEvent) {
	handler := or(s.Logger, slog.Default()).Handler()
	level, ctx := e.level(), context.Background()
	if !handler.Enabled(ctx, level) {
		return
	}
	message := e.Kind.String()
	if e.Kind == TraceFrame {
		message = e.Type
	}
	r := slog.NewRecord(e.At, level, message, 0)
	r.AddAttrs(e.attributes()...)
	if s.Fields && len(e.Fields) > 0 {
		var fields []any
		for _, f := range e.Fields {
			fields = append(fields, slog.String(f.Name, redacted(f)))
		}
		r.AddAttrs(slog.Group("fields", fields...))
	}
	handler.Handle(ctx, r)
}

// level returns the level of the event.
func (e *TraceEvent) level() slog.Level {
	switch {
	case e.Err != nil:
		return slog.LevelWarn
	case e.Kind == TraceFrame || e.StreamID > 0 || e.Kind == TraceWindow || e.Kind == TraceSlotWait:
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// attributes returns the event as attributes, without the field section.
func (e *TraceEvent) attributes() (list []slog.Attr) {
	list = append(list, slog.Uint64("conn", e.ConnID))
	number := func(name string, n int64, set bool) {
		if set {
			list = append(list, slog.Int64(name, n))
		}
	}
	text := func(name, value string, set bool) {
		if set {
			list = append(list, slog.String(name, value))
		}
	}
	is := func(t wire.FrameType) bool {
		return e.Kind == TraceFrame && e.FrameType == uint8(t) && e.Type != preface
	}
	number("stream", int64(e.StreamID), e.StreamID > 0)
	if e.Kind == TraceFrame || e.Kind == TraceHalfClosed || e.Kind == TraceWindow {
		list = append(list, slog.Bool("sent", e.Sent))
	}
	number("length", int64(e.Length), e.Kind == TraceFrame || e.Kind == TraceBodyRead)
	number("flags", int64(e.Flags), e.Flags > 0)
	for _, set := range e.Settings {
		number(set.ID.String(), int64(set.Value), true)
	}
	number("increment", int64(e.Increment), e.Kind == TraceWindow || is(wire.WindowUpdate))
	text("code", e.Code.String(), is(wire.RSTStream) || is(wire.GoAway))
	number("last_stream", int64(e.LastStreamID), is(wire.GoAway))
	text("debug", tracing.Redact(string(e.Debug)), len(e.Debug) > 0)
	number("promised", int64(e.PromisedID), e.PromisedID > 0)
	if is(wire.Ping) {
		text("data", hex.EncodeToString(e.Data[:]), true)
	}
	if e.Priority != nil {
		text("priority", string(e.Priority.append(nil)[1:]), true) // begins with a space
	}
	number("window", e.Window, e.Kind == TraceWindow && e.StreamID > 0)
	number("conn_window", e.ConnWindow, e.Kind == TraceWindow)
	text("host", e.Host, e.Host != "")
	if e.Wait > 0 {
		list = append(list, slog.Duration("wait", e.Wait))
	}
	if e.Err != nil {
		text("err", tracing.Redact(e.Err.Error()), true)
	}
	number("lost", int64(e.Lost), e.Lost > 0)
	return list
}
