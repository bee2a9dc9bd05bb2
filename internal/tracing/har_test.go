package tracing

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// archive records events of one connection, which begins at 0 ms, and returns its archive, which it
// checks by the schema.
func archive(t *testing.T, limits Limits, events ...Event) harLog {
	t.Helper()
	r := NewRecorder(limits)
	r.Add(&Event{Kind: ConnOpened, ConnID: 1, Host: "conn.test", At: at(0)})
	for _, e := range events {
		e.ConnID = 1
		r.Add(&e)
	}
	text, err := r.HAR()
	if err != nil {
		t.Fatal(err)
	}
	if faults := newValidator(t).check(text); len(faults) > 0 {
		t.Errorf("the schema: %s", strings.Join(faults, "\n"))
	}
	var got har
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	return got.Log
}

// requestOf are the events of a request with these fields on stream 1.
func requestOf(pairs ...string) []Event {
	return []Event{{Kind: StreamOpened, StreamID: 1, Sent: true, At: at(500)},
		{Kind: Frame, Sent: true, Type: "HEADERS", StreamID: 1, At: at(500), Fields: fields(pairs...)}}
}

// wide are limits that nothing in these tests reaches.
var wide = Limits{Conns: 10, Streams: 10, Fields: 1 << 10}

// The URL of an entry is one that parsers accept, whatever the peer promises.
func TestHARHasURLsThatParse(t *testing.T) {
	for _, test := range []struct{ want, method, scheme, authority, path string }{
		{"https://a.test/x?a=%41", "GET", "https", "a.test", "/x?a=%41"},
		{"http://a.test:81/", "GET", "http", "a.test:81", "/"},
		{"https://a.test:443", "CONNECT", "", "a.test:443", ""},
		{"https://[::1]:443", "CONNECT", "", "[::1]:443", ""},
		{"https://a.test/*", "OPTIONS", "https", "a.test", "*"},
		{"https://conn.test/", "GET", "https", "", "/"},
		{"https://a.test/100%25", "GET", "https", "a.test", "/100%"},
		{"https://a.test/%25z%25a%254", "GET", "https", "a.test", "/%z%a%4"},
		{"https://a.test/%23%00%7F%C3%A4", "GET", "https", "a.test", "/#\x00\x7f\u00e4"},
		{"https://a.test/@b.test/", "GET", "https", "a.test", "@b.test/"},
		{"https://a.test/", "GET", "1 x", "a.test", "/"},
		{"https://invalid/", "GET", "https", "user@a.test", "/"},
		{"https://invalid/", "GET", "https", "a.test/b", "/"},
		{"https://invalid/", "GET", "https", "a.test:x", "/"},
		{"https://invalid/", "GET", "https", "[::1", "/"},
	} {
		log := archive(t, wide, requestOf(":method", test.method, ":scheme", test.scheme, ":authority",
			test.authority, ":path", test.path)...)
		if len(log.Entries) != 1 || log.Entries[0].Request.URL != test.want {
			t.Errorf("%+v: %+v", test, log.Entries)
		}
	}
}

// A status that is not one of RFC 9110 §15 is 0.
func TestHARHasValidStatus(t *testing.T) {
	for value, want := range map[string]int{"200": 200, "999": 999, "99": 0, "1000": 0, "-200": 0, "x": 0,
		"99999999999999999999": 0} {
		log := archive(t, wide, append(requestOf(":method", "GET"), Event{Kind: Frame, Type: "HEADERS",
			StreamID: 1, At: at(501), Fields: fields(":status", value)})...)
		if got := log.Entries[0].Response.Status; got != want {
			t.Errorf("the status of %q is %d, want %d", value, got, want)
		}
	}
}

// The response may begin before the request ends, and the request may have trailers.
func TestHARHasAnUploadThatIsAnsweredEarly(t *testing.T) {
	log := archive(t, wide, append(requestOf(":method", "POST", ":path", "/", "content-type", "text/plain"),
		Event{Kind: Frame, Sent: true, Type: "DATA", StreamID: 1, Length: 100, At: at(510)},
		Event{Kind: Frame, Type: "HEADERS", StreamID: 1, Length: 10, At: at(520)}, // its fields come later
		Event{Kind: Frame, Type: "CONTINUATION", StreamID: 1, Length: 10, At: at(521),
			Fields: fields(":status", "200")},
		Event{Kind: Frame, Sent: true, Type: "DATA", StreamID: 1, Length: 50, At: at(530)},
		Event{Kind: Frame, Sent: true, Type: "HEADERS", StreamID: 1, Length: 5, At: at(540),
			Fields: fields("x-sum", "1")},
		Event{Kind: Frame, Type: "DATA", StreamID: 1, Length: 7, At: at(550)},
	)...)
	e := log.Entries[0]
	if want := (harTimings{Blocked: 0, DNS: -1, Connect: -1, SSL: -1, Send: 20, Wait: 0,
		Receive: 30}); e.Timings != want {
		t.Errorf("timings %+v, want %+v", e.Timings, want)
	}
	if p := e.Request.PostData; p == nil || p.MimeType != "text/plain" || p.Text != "" ||
		e.Request.BodySize != 150 || e.Request.HeadersSize != 9+14 {
		t.Errorf("request %+v with %+v", e.Request, p)
	}
	if len(e.Request.Headers) != 3 {
		t.Errorf("the request has the fields %+v", e.Request.Headers)
	}
	if e.Response.Status != 200 || e.Response.HeadersSize != 38 || e.Response.BodySize != 7 {
		t.Errorf("response %+v", e.Response)
	}
	if e.Comment != "the stream has not ended" {
		t.Errorf("the comment is %q", e.Comment)
	}
}

// The archive says how many fields and streams are missing.
func TestHARNamesWhatIsMissing(t *testing.T) {
	for room, want := range map[int][]string{0: {"_cut=3"}, 100: {":method=GET", "a=1", "_cut=1"}} {
		log := archive(t, Limits{Conns: 1, Streams: 1, Fields: room},
			append(requestOf(":method", "GET", "a", "1", "b", "2"),
				Event{Kind: StreamOpened, StreamID: 3, At: at(600)})...)
		var got []string
		for _, p := range log.Entries[0].Request.Headers {
			got = append(got, p.Name+"="+p.Value)
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("with room for %d bytes it has %v, want %v", room, got, want)
		}
		if log.Comment != "1 streams are missing, because only some are kept" {
			t.Errorf("the comment is %q", log.Comment)
		}
	}
}

func TestHARHasTheParametersOfTheQuery(t *testing.T) {
	log := archive(t, wide, requestOf(":method", "GET", ":path", "/?&a=1&&b&=c&")...)
	want := []harPair{{Name: "a", Value: "1"}, {Name: "b"}, {Value: "c"}}
	got := log.Entries[0].Request.Query
	if len(got) != len(want) {
		t.Fatalf("the parameters %+v, want %+v", got, want)
	}
	for i, p := range want {
		if got[i] != p {
			t.Errorf("parameter %d is %+v, want %+v", i, got[i], p)
		}
	}
}

// Of a stream that ended without a response, the time from the request to the end is a wait.
func TestHARHasAStreamThatFailed(t *testing.T) {
	log := archive(t, wide, append(requestOf(":method", "GET"),
		Event{Kind: StreamClosed, StreamID: 1, Text: "it failed", At: at(700)},
		Event{Kind: ConnClosed, At: at(900)})...)
	e := log.Entries[0]
	if e.Timings.Wait != 200 || e.Timings.Receive != 0 || e.Response.Error != "it failed" || e.Comment != "" {
		t.Errorf("%+v", e)
	}
	if !e.Started.Equal(begin.Add(500 * time.Millisecond)) {
		t.Errorf("it began at %v", e.Started)
	}
}
