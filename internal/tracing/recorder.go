package tracing

import (
	"sync"
	"time"
)

// A Kind says what an Event reports.
type Kind uint8

// The kinds of events.
const (
	Frame Kind = iota
	DialStart
	DialDone
	TLSStart
	TLSDone
	ConnOpened
	ConnClosed
	StreamOpened
	HalfClosed
	StreamClosed
	BodyRead
	Window
)

// A Field is one field of a section.
type Field struct {
	Name, Value string
	Sensitive   bool
}

// An Event is one event of a connection.
type Event struct {
	Kind       Kind
	Sent       bool
	Type       string // of a frame
	Text       string // of a frame that is a mark, such as PING, or of an error
	ConnID     uint64
	StreamID   uint32 // 0: the connection
	PromisedID uint32
	At         time.Time
	Wait       time.Duration
	Length     int
	Padding    int // of DATA, a part of Length
	Fields     []Field
	Host       string // of the connection
	Addr       string // of the peer

	Window     int64
	ConnWindow int64
}

// frameHeader is the size of a frame's header in bytes.
const frameHeader = 9

// Limits bound what a Recorder keeps.
type Limits struct {
	Conns   int // connections
	Streams int // streams of all connections together
	Fields  int // bytes of the fields of each stream, and for each field 32 bytes more

	Charts bool // keep what only the waterfall shows: windows, marks and DATA frames
}

// The bounds of what is kept of each connection or stream.
const (
	maxConnPoints   = 1000 // of a curve: beyond it, every second one is dropped
	maxStreamPoints = 200
	maxMarks        = 300 // of a connection: beyond it, the oldest are dropped
	maxChunks       = 100 // DATA frames of a stream: beyond it, neighbors are joined
	maxText         = 300 // bytes of the text of a mark or error
)

// A Recorder keeps what events say of connections and streams, within Limits. Beyond a limit, it
// drops the oldest connection or stream that has ended; if none has, it keeps nothing of the new
// one. Its methods may be called at the same time.
type Recorder struct {
	limits Limits

	mu      sync.Mutex
	conns   []*conn // the oldest first
	byID    map[uint64]*conn
	streams []*stream // of all connections, the oldest first
	dropped int       // streams
}

// NewRecorder returns a Recorder with these limits.
func NewRecorder(limits Limits) *Recorder {
	return &Recorder{limits: limits, byID: make(map[uint64]*conn)}
}

// A conn is what is known of a connection.
type conn struct {
	id         uint64
	host, addr string
	err        string
	first      time.Time // the first event
	last       time.Time // the last event
	dialStart  time.Time
	dialDone   time.Time
	tlsStart   time.Time
	tlsDone    time.Time
	opened     time.Time
	closed     time.Time
	streams    map[uint32]*stream
	promising  uint32 // the stream of a PUSH_PROMISE that is not complete; 0: there is none
	marks      []mark
	sendWindow curve
	recvWindow curve
}

// A mark is a frame of the connection that is shown.
type mark struct {
	at   time.Time
	sent bool
	text string
}

// A point is the value of a curve at a time. It may stand for several that follow each other
// closely: value is then that of the last, and low the lowest.
type point struct {
	at         time.Time
	value, low int64
}

// A curve holds the values of a window.
type curve struct {
	points []point
	gap    time.Duration // points that follow within this time become one
}

// add adds a point. There are at most most of them: if there are more, neighbors are joined.
func (c *curve) add(at time.Time, value int64, most int) {
	c.points = joinPoint(c.points, point{at, value, value}, c.gap)
	if len(c.points) < most {
		return
	}
	c.gap = at.Sub(c.points[0].at)/time.Duration(most/2) + 1
	kept := c.points[:0]
	for _, p := range c.points {
		kept = joinPoint(kept, p, c.gap)
	}
	c.points = kept[:min(len(kept), most-1)]
}

// joinPoint appends p to list, or joins it with the last one if that is less than gap before.
func joinPoint(list []point, p point, gap time.Duration) []point {
	if n := len(list); n > 1 && p.at.Sub(list[n-1].at) < gap {
		last := &list[n-1]
		last.value, last.low = p.value, min(last.low, p.low)
		return list
	}
	return append(list, p)
}

// A chunk is one DATA frame, or some that follow each other closely.
type chunk struct {
	from, to time.Time
	bytes    int
}

// chunks are the DATA frames of one direction of a stream.
type chunks struct {
	list []chunk
	gap  time.Duration // as in curve
}

// add adds a DATA frame.
func (c *chunks) add(at time.Time, n int) {
	c.list = joinChunk(c.list, chunk{at, at, n}, c.gap)
	if len(c.list) < maxChunks {
		return
	}
	c.gap = at.Sub(c.list[0].from)/(maxChunks/2) + 1
	kept := c.list[:0]
	for _, next := range c.list {
		kept = joinChunk(kept, next, c.gap)
	}
	c.list = kept
}

// joinChunk appends next to list, or joins it with the last one if that began less than gap before.
func joinChunk(list []chunk, next chunk, gap time.Duration) []chunk {
	if n := len(list); n > 0 && next.from.Sub(list[n-1].from) < gap {
		list[n-1].to = next.to
		list[n-1].bytes += next.bytes
		return list
	}
	return append(list, next)
}

// A stream is what is known of a stream.
type stream struct {
	id     uint32
	parent uint32 // of a promised stream; 0: it is a request
	conn   *conn

	request   section
	response  section
	trailer   section
	wait      time.Duration
	opened    time.Time
	sent      time.Time // the first frame of the request
	sentEnd   time.Time // our END_STREAM
	began     time.Time // the first field section of the peer
	firstData time.Time
	recvEnd   time.Time // the last frame that the peer sent
	closed    time.Time
	read      time.Time // the body was read

	sentChunks chunks
	recvChunks chunks
	sendWindow curve
	recvWindow curve
	err        string
	reset      string // the text of RST_STREAM

	sentBytes transferred
	recvBytes transferred
	decoded   int64 // bytes that the reader got; -1: unknown
	fieldRoom int
}

// transferred counts bytes of one direction of a stream.
type transferred struct {
	header int64 // frames with fields, with their headers
	data   int64 // payloads of DATA frames, without padding
	frames int64 // all frames with their headers
}

// A section is a field section, cut off at the limit.
type section struct {
	fields []Field
	cut    int // how many fields are missing
}

// Add records e.
func (r *Recorder) Add(e *Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.conn(e)
	if c == nil {
		return
	}
	if e.Kind == Window && !r.limits.Charts {
		return
	}
	c.last = e.At
	switch e.Kind {
	case DialStart:
		c.dialStart = e.At
	case DialDone:
		c.dialDone, c.err = e.At, cut(e.Text)
	case TLSStart:
		c.tlsStart = e.At
	case TLSDone:
		c.tlsDone, c.err = e.At, cut(e.Text)
	case ConnOpened:
		c.opened = e.At
	case ConnClosed:
		c.closed, c.err = e.At, cut(e.Text)
		c.mark(e.At, true, "closed: "+e.Text)
	case Window:
		c.addWindow(e)
	case Frame:
		// The curves show what WINDOW_UPDATE does.
		if e.StreamID == 0 && e.Type != "WINDOW_UPDATE" && r.limits.Charts {
			c.mark(e.At, e.Sent, e.Text)
		}
	}
	if e.StreamID == 0 {
		return
	}
	if e.Kind == Frame && !e.Sent && c.promising > 0 && e.Type == "CONTINUATION" {
		r.promise(c, c.promising, e)
		return
	}
	if s := c.streams[e.StreamID]; s != nil {
		s.add(e)
	} else if e.Kind == StreamOpened {
		r.addStream(c, e.StreamID, e)
	}
	if e.PromisedID > 0 {
		r.promise(c, e.PromisedID, e)
	}
}

// promise records a frame that promises the stream id. It comes before the event for the stream.
func (r *Recorder) promise(c *conn, id uint32, e *Event) {
	if c.promising = id; e.Fields != nil {
		c.promising = 0
	}
	if c.streams[id] == nil {
		r.addStream(c, id, e)
	}
	if s := c.streams[id]; s != nil {
		s.promise(e)
	}
}

// conn returns the connection of e, which it adds if it is new. It returns nil if there is no room.
func (r *Recorder) conn(e *Event) *conn {
	c := r.byID[e.ConnID]
	if c == nil {
		if len(r.conns) >= r.limits.Conns && !r.dropConn() {
			return nil
		}
		c = &conn{id: e.ConnID, first: e.At, streams: make(map[uint32]*stream)}
		r.byID[c.id] = c
		r.conns = append(r.conns, c)
	}
	if e.Host != "" && (c.host == "" || e.Kind == ConnOpened) {
		c.host = cut(e.Host)
	}
	if e.Addr != "" {
		c.addr = cut(e.Addr)
	}
	return c
}

// hasEnded reports whether no more events of c are expected. A connection that was dialed, but not
// opened, is one of another protocol, or soon opened: then it is added anew. One that was neither
// opened nor dialed was dropped before its last frames.
func (c *conn) hasEnded() bool {
	return !c.closed.IsZero() || c.err != "" ||
		c.opened.IsZero() && len(c.streams) == 0 && (c.dialStart.IsZero() || !c.dialDone.IsZero())
}

// dropConn drops the oldest connection that has ended, with its streams.
func (r *Recorder) dropConn() bool {
	for i, c := range r.conns {
		if !c.hasEnded() {
			continue
		}
		r.conns = append(r.conns[:i:i], r.conns[i+1:]...)
		delete(r.byID, c.id)
		kept := r.streams[:0]
		for _, s := range r.streams {
			if s.conn != c {
				kept = append(kept, s)
			}
		}
		r.dropped += len(r.streams) - len(kept)
		clear(r.streams[len(kept):])
		r.streams = kept
		return true
	}
	return false
}

// addStream adds the stream that e opens or promises, if there is room.
func (r *Recorder) addStream(c *conn, id uint32, e *Event) {
	if len(r.streams) >= r.limits.Streams && !r.dropStream() {
		r.dropped++
		return
	}
	s := &stream{id: id, conn: c, opened: e.At, wait: e.Wait, decoded: -1, fieldRoom: r.limits.Fields}
	c.streams[s.id] = s
	r.streams = append(r.streams, s)
}

// dropStream drops the oldest stream that has ended.
func (r *Recorder) dropStream() bool {
	for i, s := range r.streams {
		if s.closed.IsZero() {
			continue
		}
		delete(s.conn.streams, s.id)
		copy(r.streams[1:], r.streams[:i])
		r.streams[0] = nil
		r.streams = r.streams[1:]
		r.dropped++
		return true
	}
	return false
}

// mark adds a mark.
func (c *conn) mark(at time.Time, sent bool, text string) {
	if len(c.marks) >= maxMarks {
		c.marks = append(c.marks[:0], c.marks[maxMarks/10:]...)
	}
	c.marks = append(c.marks, mark{at, sent, cut(text)})
}

// addWindow adds the point of the connection's window.
func (c *conn) addWindow(e *Event) {
	if e.Sent {
		c.sendWindow.add(e.At, e.ConnWindow, maxConnPoints)
	} else {
		c.recvWindow.add(e.At, e.ConnWindow, maxConnPoints)
	}
}

// cut returns text, cut off at maxText bytes.
func cut(text string) string {
	if len(text) > maxText {
		return text[:maxText] + "…"
	}
	return text
}

// add records an event of the stream.
func (s *stream) add(e *Event) {
	switch e.Kind {
	case Frame:
		s.addFrame(e)
	case Window:
		if e.Sent {
			s.sendWindow.add(e.At, e.Window, maxStreamPoints)
		} else {
			s.recvWindow.add(e.At, e.Window, maxStreamPoints)
		}
	case StreamClosed:
		s.closed, s.err = e.At, cut(e.Text)
	case BodyRead:
		if e.Text == "" { // else the body was not read to its end
			s.read, s.decoded = e.At, int64(e.Length)
		}
	}
}

// addFrame records a frame of the stream.
func (s *stream) addFrame(e *Event) {
	if e.PromisedID > 0 || e.Type == "PUSH_PROMISE" {
		return // it belongs to the promised stream
	}
	way, size := &s.recvBytes, int64(e.Length)+frameHeader
	if e.Sent {
		way = &s.sentBytes
		if s.sent.IsZero() {
			s.sent = e.At
		}
	} else {
		s.recvEnd = e.At
	}
	way.frames += size
	switch e.Type {
	case "DATA":
		way.data += int64(e.Length - e.Padding)
		s.addChunk(e)
	case "HEADERS", "CONTINUATION":
		way.header += size
		s.addSection(e)
	case "RST_STREAM":
		s.reset = cut(e.Text)
	}
	if e.Sent && e.Type != "RST_STREAM" && e.Type != "WINDOW_UPDATE" {
		s.sentEnd = e.At
	}
}

// addChunk records a DATA frame.
func (s *stream) addChunk(e *Event) {
	if e.Sent {
		s.sentChunks.add(e.At, e.Length)
		return
	}
	if s.firstData.IsZero() {
		s.firstData = e.At
	}
	s.recvChunks.add(e.At, e.Length)
}

// addSection records the field section that ends with the frame.
func (s *stream) addSection(e *Event) {
	if !e.Sent && s.began.IsZero() {
		s.began = e.At
	}
	if len(e.Fields) == 0 {
		return
	}
	switch {
	case e.Sent && s.request.fields == nil:
		s.request = s.keep(e.Fields)
	case e.Sent: // the request's trailers
	case s.response.fields == nil || s.response.isInterim():
		for _, f := range s.response.fields { // the next section takes its room
			s.fieldRoom += f.room()
		}
		s.response = s.keep(e.Fields)
	default:
		s.trailer = s.keep(e.Fields)
	}
}

// isInterim reports whether the section is that of an interim response.
func (c *section) isInterim() bool {
	return len(c.fields) > 0 && c.fields[0].Name == ":status" && len(c.fields[0].Value) == 3 &&
		c.fields[0].Value[0] == '1'
}

// promise records the request of a promised stream.
func (s *stream) promise(e *Event) {
	s.parent = e.StreamID
	s.recvBytes.frames += int64(e.Length) + frameHeader
	if s.request.fields == nil && e.Fields != nil {
		s.request = s.keep(e.Fields)
	}
}

// keep copies fields as far as there is room. It does not keep the values of credentials.
func (s *stream) keep(fields []Field) (kept section) {
	for i, f := range fields {
		f.Value = f.Shown()
		if s.fieldRoom < f.room() {
			kept.cut = len(fields) - i
			break
		}
		s.fieldRoom -= f.room()
		kept.fields = append(kept.fields, f)
	}
	if kept.fields == nil {
		kept.fields = []Field{}
	}
	return kept
}

// room returns the size of f as Limits count it.
func (f Field) room() int { return len(f.Name) + len(f.Value) + 32 }

// get returns the value of the first field with this name, or "".
func (c *section) get(name string) string {
	for _, f := range c.fields {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}
