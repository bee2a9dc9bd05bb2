package tracing

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// canary is the value of each credential in FuzzRecorder.
const canary = "s3cr3t"

// step is the number of bytes that make an event in FuzzRecorder: its kind, type and direction,
// connection, stream, promised stream or variant, how often it comes, length, and fields.
const step = 8

// frameTypes are the types of the frames in FuzzRecorder.
var frameTypes = []string{"DATA", "HEADERS", "CONTINUATION", "PUSH_PROMISE", "RST_STREAM", "SETTINGS",
	"WINDOW_UPDATE", "PING", "GOAWAY"}

// eventOf returns the event that the step makes, with text of the peer, and how often it comes.
func eventOf(b []byte, text string, now time.Time) (e Event, times int) {
	e = Event{Kind: Kind(b[0]) % (Window + 1), Sent: b[1]&1 != 0, ConnID: uint64(b[2] % 6),
		StreamID: uint32(b[3] % 16), At: now, Length: int(b[6]), Wait: time.Duration(b[6]) * time.Millisecond,
		Window: int64(b[6]) - 100, ConnWindow: int64(b[6]) << 8, Fields: sectionOf(b[7], text)}
	switch e.Kind {
	case Frame:
		e.Type = frameTypes[int(b[1]>>1)%len(frameTypes)]
		e.Text = e.Type + text
		if e.Type == "PUSH_PROMISE" {
			e.PromisedID = uint32(b[4] % 16)
		}
	case DialDone, TLSDone, ConnClosed, StreamClosed:
		e.Text = strings.Repeat(text, int(b[4]%2)) // half of them are no errors
	case DialStart, ConnOpened:
		e.Host, e.Addr = text, []string{text, "192.0.2.1:443", "[2001:db8::1]:443", ""}[b[4]%4]
	}
	return e, 1 << (b[5] % 11)
}

// sectionOf returns one of several field sections, with text of the peer.
func sectionOf(n byte, text string) []Field {
	sections := [][]Field{
		nil,
		fields(":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/?token="+canary,
			"cookie", canary, "Authorization", canary),
		fields(":method", text, ":scheme", text, ":authority", text, ":path", text, "host", text),
		fields(":method", "POST", ":path", "/"+text+"?token="+canary, "content-type", text, "priority", text),
		fields(":method", "CONNECT", ":authority", text),
		fields(":status", "103", "link", text),
		fields(":status", "200", "content-encoding", "gzip", "set-cookie", canary, "content-type", text),
		fields(":status", text, "location", text, "proxy-authorization", canary),
		{{Name: text, Value: text}, {Name: "x-" + text, Value: canary, Sensitive: true}},
	}
	return sections[int(n)%len(sections)]
}

// checkBounds fails if r keeps more than its limits allow, or if its books do not agree.
func checkBounds(t *testing.T, r *Recorder) {
	t.Helper()
	if len(r.conns) > r.limits.Conns || len(r.byID) != len(r.conns) || len(r.streams) > r.limits.Streams {
		t.Fatalf("%d and %d connections, %d streams", len(r.conns), len(r.byID), len(r.streams))
	}
	streams := 0
	for _, c := range r.conns {
		streams += len(c.streams)
		if r.byID[c.id] != c || len(c.marks) > maxMarks || len(c.sendWindow.points) > maxConnPoints ||
			len(c.recvWindow.points) > maxConnPoints ||
			max(len(c.host), len(c.addr), len(c.err)) > maxText+3 {
			t.Fatalf("connection %d: %d marks, %d and %d points", c.id, len(c.marks),
				len(c.sendWindow.points), len(c.recvWindow.points))
		}
		for _, m := range c.marks {
			if len(m.text) > maxText+3 {
				t.Fatalf("a mark of %d bytes", len(m.text))
			}
		}
	}
	if streams != len(r.streams) {
		t.Fatalf("the connections have %d streams of %d", streams, len(r.streams))
	}
	for _, s := range r.streams {
		room := 0
		for _, c := range []section{s.request, s.response, s.trailer} {
			for _, f := range c.fields {
				room += len(f.Name) + len(f.Value) + 32
			}
		}
		if r.byID[s.conn.id] != s.conn || s.conn.streams[s.id] != s || room > r.limits.Fields ||
			len(s.sentChunks.list) > maxChunks || len(s.recvChunks.list) > maxChunks ||
			len(s.sendWindow.points) > maxStreamPoints || len(s.recvWindow.points) > maxStreamPoints ||
			max(len(s.err), len(s.reset)) > maxText+3 {
			t.Fatalf("stream %d: %d bytes of fields, %d and %d chunks, %d and %d points", s.id, room,
				len(s.sentChunks.list), len(s.recvChunks.list), len(s.sendWindow.points),
				len(s.recvWindow.points))
		}
	}
}

// addSessions adds seeds for FuzzRecorder: a request with a response, a promise, an upload, many
// frames, and many streams.
func addSessions(f *testing.F) {
	const sent, data, headers, promise, reset, ping = 1, 0, 1 << 1, 3 << 1, 4 << 1, 7 << 1
	session := []byte{
		byte(DialStart), 0, 1, 0, 0, 1, 0, 0,
		byte(DialDone), 0, 1, 0, 0, 1, 0, 0,
		byte(ConnOpened), 0, 1, 0, 1, 1, 0, 0,
		byte(StreamOpened), sent, 1, 1, 0, 0, 5, 0,
		byte(Frame), headers | sent, 1, 1, 0, 0, 50, 1,
		byte(Frame), promise, 1, 1, 2, 0, 50, 2,
		byte(Frame), headers, 1, 1, 0, 0, 9, 5,
		byte(Frame), headers, 1, 1, 0, 0, 9, 6,
		byte(Frame), data, 1, 1, 0, 9, 100, 0,
		byte(Window), 0, 1, 1, 0, 10, 100, 0,
		byte(StreamClosed), 0, 1, 1, 0, 0, 0, 0,
		byte(BodyRead), 0, 1, 1, 0, 0, 200, 0,
		byte(Frame), reset | sent, 1, 2, 0, 0, 4, 0,
		byte(StreamClosed), sent, 1, 2, 1, 0, 0, 0,
		byte(Frame), ping, 1, 0, 0, 10, 8, 0,
		byte(ConnClosed), 0, 1, 0, 1, 0, 0, 0,
	}
	for _, text := range []string{"", "x", "/100%", "</script><!--", "200", "99999999999999999999",
		"a.test:x", "\x00\xff\u2028\u202e#", "Bearer ", strings.Repeat("token=a&", 50)} {
		f.Add(session, text, true)
	}
	var many []byte
	for i := range byte(12) {
		many = append(many, byte(StreamOpened), sent, i/3, i+1, 0, 0, 0, 0,
			byte(Frame), headers|sent, i/3, i+1, 0, 0, 0, i,
			byte(Frame), data|sent, i/3, i+1, 0, i, 1, 0,
			byte(StreamClosed), 0, i/3, i/2, 0, 0, 0, 0,
			byte(ConnClosed), 0, i/3-1, 0, 0, 0, 0, 0)
	}
	f.Add(many, "a", false)
}

// FuzzRecorder checks that, for any events of any peer, what is kept has bounds and no credential,
// that the archive matches the schema, and that the page has the peer's text only as data.
func FuzzRecorder(f *testing.F) {
	addSessions(f)
	var schemas map[string]map[string]any
	f.Fuzz(func(t *testing.T, script []byte, text string, charts bool) {
		if strings.Contains(text, canary) {
			t.Skip("the text is the canary's")
		}
		if schemas == nil {
			schemas = newValidator(t).schemas
		}
		r := NewRecorder(Limits{Conns: 3, Streams: 8, Fields: 600, Charts: charts})
		now, left := begin, 3000 // events
		for ; len(script) >= step && left > 0; script = script[step:] {
			e, times := eventOf(script, text, now)
			for range times {
				e.At = now
				r.Add(&e)
				now = now.Add(time.Duration(script[6]) * 100 * time.Microsecond)
			}
			left -= times
			checkBounds(t, r)
		}

		known := 0 // streams with a known request
		for _, s := range r.streams {
			if s.request.fields != nil {
				known++
			}
		}
		archive, err := r.HAR()
		if err != nil {
			t.Fatal(err)
		}
		if faults := (&validator{t: t, schemas: schemas}).check(archive); len(faults) > 0 {
			t.Fatalf("the schema: %s", strings.Join(faults, "\n"))
		}
		var entries har
		if err := json.Unmarshal(archive, &entries); err != nil || len(entries.Log.Entries) != known {
			t.Fatalf("%d entries of %d: %v", len(entries.Log.Entries), known, err)
		}
		page, html := pageOf(t, r)
		streams := 0
		for _, c := range page.Conns {
			streams += len(c.Streams)
		}
		if streams != len(r.streams) {
			t.Fatalf("the page has %d streams of %d", streams, len(r.streams))
		}
		if strings.Contains(string(archive)+html, canary) {
			t.Fatal("a credential is kept")
		}
	})
}
