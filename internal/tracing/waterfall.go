package tracing

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"gohyper.dev/hyper/internal/syntax"
)

// page is the page with the waterfall, without its data.
//
//go:embed waterfall.html
var page string

// placeholder is where the data is in page.
const placeholder = "DATA_GOES_HERE"

// The types of the page's data. Times are in milliseconds since the connection's first event; -1 is
// a step that did not happen.
type (
	pageData struct {
		Note  string     `json:"note,omitempty"`
		Conns []pageConn `json:"conns"`
	}
	pageConn struct {
		ID      uint64       `json:"id"`
		Host    string       `json:"host"`
		Addr    string       `json:"addr"`
		Err     string       `json:"err,omitempty"`
		Start   string       `json:"start"`
		End     float64      `json:"end"`
		Steps   [][3]any     `json:"steps"` // name, from, to
		Marks   [][3]any     `json:"marks"` // time, sent, text
		Send    [][3]float64 `json:"send"`  // time, value, lowest value until the next
		Recv    [][3]float64 `json:"recv"`
		Streams []pageStream `json:"streams"`
	}
	pageStream struct {
		ID         uint32       `json:"id"`
		Parent     uint32       `json:"parent,omitempty"`
		Method     string       `json:"method"`
		Path       string       `json:"path"`
		URL        string       `json:"url"`
		Status     string       `json:"status"`
		Wait       float64      `json:"wait"`
		Opened     float64      `json:"opened"`
		Sent       float64      `json:"sent"`
		SentEnd    float64      `json:"sentEnd"`
		Began      float64      `json:"began"`
		FirstData  float64      `json:"firstData"`
		RecvEnd    float64      `json:"recvEnd"`
		Closed     float64      `json:"closed"`
		Last       float64      `json:"last"`
		Chunks     [][4]any     `json:"chunks"` // from, to, sent, bytes
		Send       [][3]float64 `json:"send"`
		Recv       [][3]float64 `json:"recv"`
		SentHeader int64        `json:"sentHeader"`
		SentData   int64        `json:"sentData"`
		RecvHeader int64        `json:"recvHeader"`
		RecvData   int64        `json:"recvData"`
		Decoded    int64        `json:"decoded"`
		Bad        bool         `json:"bad"`
		Err        string       `json:"err,omitempty"`
	}
)

// HTML returns what was recorded as one page without external resources: a chart of each
// connection.
func (r *Recorder) HTML() ([]byte, error) {
	r.mu.Lock()
	data := pageData{Conns: make([]pageConn, 0, len(r.conns))}
	if r.dropped > 0 {
		data.Note = strconv.Itoa(r.dropped) + " streams are missing, because only some are kept"
	}
	for _, c := range r.conns {
		chart := c.chart()
		for _, s := range r.streams {
			if s.conn == c {
				chart.Streams = append(chart.Streams, s.bar())
			}
		}
		data.Conns = append(data.Conns, chart)
	}
	r.mu.Unlock()
	text, err := json.Marshal(data) // it escapes <, > and &
	before, after, _ := strings.Cut(page, placeholder)
	return slices.Concat([]byte(before), text, []byte(after)), err
}

// since returns the time at in milliseconds since the first event of c, and -1 for the zero time.
func (c *conn) since(at time.Time) float64 {
	if at.IsZero() {
		return -1
	}
	return float64(at.Sub(c.first).Microseconds()) / 1000
}

// chart returns the page's data of c, without its streams.
func (c *conn) chart() pageConn {
	out := pageConn{ID: c.id, Host: c.host, Addr: c.addr, Err: syntax.Escape(c.err),
		Start: c.first.Format("2006-01-02 15:04:05.000"), End: c.since(c.last), Steps: [][3]any{},
		Marks: [][3]any{}, Send: c.curve(&c.sendWindow), Recv: c.curve(&c.recvWindow),
		Streams: []pageStream{}}
	for _, s := range []struct {
		name     string
		from, to time.Time
	}{{"dial", c.dialStart, c.dialDone}, {"TLS handshake", c.tlsStart, c.tlsDone}} {
		if !s.from.IsZero() && !s.to.IsZero() {
			out.Steps = append(out.Steps, [3]any{s.name, c.since(s.from), c.since(s.to)})
		}
	}
	for _, m := range c.marks {
		out.Marks = append(out.Marks, [3]any{c.since(m.at), m.sent, m.text})
	}
	return out
}

// curve returns the points of a window.
func (c *conn) curve(w *curve) [][3]float64 {
	points := make([][3]float64, 0, len(w.points))
	for _, p := range w.points {
		points = append(points, [3]float64{c.since(p.at), float64(p.value), float64(p.low)})
	}
	return points
}

// bar returns the page's data of s.
func (s *stream) bar() pageStream {
	c := s.conn
	out := pageStream{ID: s.id, Parent: s.parent, Method: syntax.Escape(s.request.get(":method")),
		Path: syntax.Escape(s.request.get(":path")), URL: syntax.Escape(s.url()),
		Status: syntax.Escape(s.response.get(":status")), Wait: ms(s.wait), Opened: c.since(s.opened),
		Sent: c.since(s.sent), SentEnd: c.since(s.sentEnd), Began: c.since(s.began),
		FirstData: c.since(s.firstData), RecvEnd: c.since(s.recvEnd), Closed: c.since(s.closed),
		Chunks: [][4]any{}, Send: c.curve(&s.sendWindow), Recv: c.curve(&s.recvWindow),
		SentHeader: s.sentBytes.header, SentData: s.sentBytes.data, RecvHeader: s.recvBytes.header,
		RecvData: s.recvBytes.data, Decoded: s.decoded, Bad: s.err != "" || s.reset != "",
		Err: syntax.Escape(cmp.Or(s.err, s.reset))}
	out.Last = c.since(cmp.Or(s.closed, c.last))
	for _, d := range s.sentChunks.list {
		out.Chunks = append(out.Chunks, [4]any{c.since(d.from), c.since(d.to), true, d.bytes})
	}
	for _, d := range s.recvChunks.list {
		out.Chunks = append(out.Chunks, [4]any{c.since(d.from), c.since(d.to), false, d.bytes})
	}
	return out
}
