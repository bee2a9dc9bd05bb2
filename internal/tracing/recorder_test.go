package tracing

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// begin is when the recorded connections begin.
var begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// at returns a time after begin, in milliseconds.
func at(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }

// fields returns fields from names and values.
func fields(pairs ...string) (list []Field) {
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, Field{Name: pairs[i], Value: pairs[i+1]})
	}
	return list
}

// recordSession records a connection with a request, a push and a reset.
func recordSession(r *Recorder) {
	get := fields(":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/x?q=1&token=abc",
		"cookie", "id=secret", "user-agent", "hyper")
	for _, e := range []Event{
		{Kind: DialStart, At: at(0), Host: "a.test:443"},
		{Kind: DialDone, At: at(10)},
		{Kind: TLSStart, At: at(10)},
		{Kind: TLSDone, At: at(30)},
		{Kind: ConnOpened, At: at(31), Host: "a.test", Addr: "192.0.2.1:443"},
		{Kind: StreamOpened, StreamID: 1, Sent: true, At: at(40), Wait: 5 * time.Millisecond},
		{Kind: HalfClosed, StreamID: 1, Sent: true, At: at(40)},
		{Kind: Frame, Sent: true, Type: "SETTINGS", Text: "SETTINGS len=0", At: at(41)},
		{Kind: Frame, Sent: true, Type: "HEADERS", StreamID: 1, Length: 50, Fields: get, At: at(41)},
		{Kind: Frame, Type: "PUSH_PROMISE", StreamID: 1, PromisedID: 2, Length: 30, At: at(50),
			Fields: fields(":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/p")},
		{Kind: StreamOpened, StreamID: 2, At: at(50)},
		{Kind: Frame, Type: "HEADERS", StreamID: 1, Length: 4, Fields: fields(":status", "103"), At: at(55)},
		{Kind: Frame, Type: "HEADERS", StreamID: 1, Length: 40, At: at(60),
			Fields: fields(":status", "200", "content-type", "text/html", "content-encoding", "gzip",
				"set-cookie", "a=b")},
		{Kind: Frame, Type: "DATA", StreamID: 1, Length: 100, At: at(70)},
		{Kind: Window, StreamID: 1, Window: 900, ConnWindow: 800, At: at(70)},
		{Kind: Window, Sent: true, ConnWindow: 700, At: at(71)},
		{Kind: Frame, Type: "HEADERS", StreamID: 1, Length: 9, Fields: fields("x-sum", "1"), At: at(80)},
		{Kind: StreamClosed, StreamID: 1, At: at(80)},
		{Kind: BodyRead, StreamID: 1, Length: 400, At: at(81)},
		{Kind: Frame, Sent: true, Type: "RST_STREAM", Text: "RST_STREAM stream=2 len=4 code=CANCEL",
			StreamID: 2,
			Length:   4, At: at(90)},
		{Kind: StreamClosed, StreamID: 2, Text: "canceled </script>", At: at(90)},
		{Kind: Frame, Type: "GOAWAY", Text: "GOAWAY last=1", At: at(95)},
		{Kind: ConnClosed, At: at(100)},
	} {
		e.ConnID = 7
		r.Add(&e)
	}
}

func TestHARHasTheExchanges(t *testing.T) {
	r := NewRecorder(Limits{Conns: 10, Streams: 10, Fields: 1 << 10})
	recordSession(r)
	text, err := r.HAR()
	if err != nil {
		t.Fatal(err)
	}
	if faults := newValidator(t).check(text); len(faults) > 0 {
		t.Errorf("the schema: %s", strings.Join(faults, "\n"))
	}
	for _, secret := range []string{"secret", "abc", "a=b"} {
		if strings.Contains(string(text), secret) {
			t.Errorf("it has %q", secret)
		}
	}
	var got har
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Log.Entries) != 2 {
		t.Fatalf("%d entries", len(got.Log.Entries))
	}
	e, push := got.Log.Entries[0], got.Log.Entries[1]
	if want := (harTimings{Blocked: 10, DNS: -1, Connect: 31, SSL: 20, Send: 0, Wait: 14,
		Receive: 25}); e.Timings != want {
		t.Errorf("timings %+v, want %+v", e.Timings, want)
	}
	if e.Time != 80 || !e.Started.Equal(at(0)) {
		t.Errorf("time %v from %v", e.Time, e.Started)
	}
	if e.Request.URL != "https://a.test/x?q=1&token=[3 bytes]" || e.Request.HeadersSize != 59 ||
		len(e.Request.Headers) != 6 || len(e.Request.Query) != 2 {
		t.Errorf("request %+v", e.Request)
	}
	if c := e.Response.Content; c.Size != 400 || *c.Compression != 300 || c.MimeType != "text/html" {
		t.Errorf("content %+v", c)
	}
	if e.Response.Status != 200 || e.Response.BodySize != 100 || e.Response.HeadersSize != 13+49+18 ||
		e.ServerIP != "192.0.2.1" || e.Connection != "c7" {
		t.Errorf("response %+v", e.Response)
	}
	if push.Pushed != 1 || push.Request.URL != "https://a.test/p" || push.Response.Error == "" ||
		push.Response.Status != 0 {
		t.Errorf("push %+v", push)
	}
}

func TestHTMLHasTheConnection(t *testing.T) {
	r := NewRecorder(Limits{Conns: 10, Streams: 10, Fields: 1 << 10, Charts: true})
	recordSession(r)
	text, err := r.HTML()
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	for _, external := range []string{"http://", "https://a.test/x", "src=", "@import", "url(http"} {
		// The only URLs are those of the namespace of SVG and of the requests, which are data.
		rest := strings.ReplaceAll(page, "http://www.w3.org/2000/svg", "")
		if external != "https://a.test/x" && strings.Contains(rest, external) {
			t.Errorf("it has %q", external)
		}
	}
	if strings.Count(page, "</script>") != 2 {
		t.Error("text of a peer ends the script")
	}
	_, after, _ := strings.Cut(page, `id="data">`)
	data, _, _ := strings.Cut(after, "</script>")
	var got pageData
	if err := json.Unmarshal([]byte(data), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Conns) != 1 || len(got.Conns[0].Streams) != 2 {
		t.Fatalf("%d connections", len(got.Conns))
	}
	c := got.Conns[0]
	if c.End != 100 || len(c.Steps) != 2 || len(c.Marks) != 3 || len(c.Send) != 1 || len(c.Recv) != 1 {
		t.Errorf("connection %+v", c)
	}
	s, push := c.Streams[0], c.Streams[1]
	if s.Wait != 5 || s.Opened != 40 || s.Sent != 41 || s.Began != 55 || s.FirstData != 70 ||
		s.RecvEnd != 80 ||
		s.Status != "200" || len(s.Chunks) != 1 || len(s.Recv) != 1 || s.Bad {
		t.Errorf("stream %+v", s)
	}
	if push.Parent != 1 || !push.Bad || push.Path != "/p" || push.Closed != 90 {
		t.Errorf("push %+v", push)
	}
	if strings.Contains(page, "token=abc") {
		t.Error("it has a credential")
	}
}

// Whatever peers do, what is kept has bounds.
func TestRecorderIsBounded(t *testing.T) {
	limits := Limits{Conns: 3, Streams: 20, Fields: 500, Charts: true}
	r := NewRecorder(limits)
	long := strings.Repeat("x", 400)
	for c := range uint64(10) {
		add := func(e Event) {
			e.ConnID, e.At = c+1, at(int(c))
			r.Add(&e)
		}
		add(Event{Kind: ConnOpened, Host: strings.Repeat("h", 10_000)})
		for id := uint32(1); id < 100; id += 2 {
			add(Event{Kind: StreamOpened, StreamID: id})
			add(Event{Kind: Frame, Type: "HEADERS", StreamID: id, Fields: fields("a", long, "b", long)})
			for range 3000 {
				add(Event{Kind: Frame, Type: "DATA", StreamID: id, Length: 1})
				add(Event{Kind: Window, StreamID: id})
			}
			add(Event{Kind: StreamClosed, StreamID: id, Text: strings.Repeat("e", 10_000)})
		}
		for range 3000 {
			add(Event{Kind: Frame, Type: "PING", Text: strings.Repeat("p", 1000)})
		}
		add(Event{Kind: ConnClosed})
	}
	if len(r.conns) != 3 || len(r.byID) != 3 || len(r.streams) != 20 || r.dropped != 480 {
		t.Errorf("%d and %d connections, %d streams, %d dropped", len(r.conns), len(r.byID), len(r.streams),
			r.dropped)
	}
	known := 0
	for _, c := range r.conns {
		known += len(c.streams)
		if len(c.marks) > maxMarks || len(c.recvWindow.points) > maxConnPoints || len(c.host) > 2*maxText {
			t.Errorf("%d marks, %d points", len(c.marks), len(c.recvWindow.points))
		}
	}
	if known != 20 {
		t.Errorf("the connections have %d streams", known)
	}
	for _, s := range r.streams {
		if len(s.recvChunks.list) > maxChunks || len(s.recvWindow.points) > maxStreamPoints ||
			len(s.err) > 2*maxText {
			t.Errorf("%d chunks, %d points", len(s.recvChunks.list), len(s.recvWindow.points))
		}
		if len(s.response.fields) != 1 || s.response.cut != 1 {
			t.Errorf("%d fields, %d cut", len(s.response.fields), s.response.cut)
		}
	}
	text, err := r.HAR()
	if err != nil || newValidator(t).check(text) != nil {
		t.Error("the archive is not valid", err)
	}
}

// Streams that do not end are kept, and the new ones are not.
func TestRecorderKeepsWhatHasNotEnded(t *testing.T) {
	r := NewRecorder(Limits{Conns: 1, Streams: 5, Fields: 100})
	for id := uint32(1); id < 100; id += 2 {
		r.Add(&Event{Kind: StreamOpened, ConnID: 1, StreamID: id, At: at(1)})
	}
	r.Add(&Event{Kind: StreamOpened, ConnID: 2, StreamID: 1, At: at(1)})
	var ids []string
	for _, s := range r.streams {
		ids = append(ids, fmt.Sprint(s.conn.id, "/", s.id))
	}
	if got := strings.Join(ids, " "); got != "1/1 1/3 1/5 1/7 1/9" {
		t.Errorf("kept %s", got)
	}
}

// Curves and DATA frames that are too many are joined evenly over time. The lowest value of a
// window stays.
func TestRecorderJoinsNeighbors(t *testing.T) {
	var c curve
	var data chunks
	const n = 100_000
	for i := range n {
		value := int64(1000)
		if i == n/3 {
			value = 0
		}
		c.add(at(i), value, maxStreamPoints)
		data.add(at(i), 1)
	}
	low, bytes := int64(1000), 0
	for i, p := range c.points {
		low = min(low, p.low)
		if i > 1 && p.at.Sub(c.points[i-1].at) > 4*n/maxStreamPoints*time.Millisecond {
			t.Errorf("a gap of %v", p.at.Sub(c.points[i-1].at))
		}
	}
	for _, d := range data.list {
		bytes += d.bytes
	}
	if len(c.points) < maxStreamPoints/3 || len(data.list) < maxChunks/3 {
		t.Errorf("%d points, %d chunks", len(c.points), len(data.list))
	}
	if low != 0 || bytes != n {
		t.Errorf("the lowest value is %d, %d bytes", low, bytes)
	}
}
