package tracing

import (
	"encoding/json"
	"strings"
	"testing"
)

// pageOf returns the data of r's page, also as text. It checks that the rest of the page is as it
// should be, and that the data cannot end the script.
func pageOf(t *testing.T, r *Recorder) (got pageData, data string) {
	t.Helper()
	text, err := r.HTML()
	if err != nil {
		t.Fatal(err)
	}
	before, after, _ := strings.Cut(page, placeholder)
	data, hasBefore := strings.CutPrefix(string(text), before)
	data, hasAfter := strings.CutSuffix(data, after)
	if !hasBefore || !hasAfter {
		t.Fatal("the page around the data is not what it should be")
	}
	if i := strings.IndexAny(data, "<>&\u2028\u2029"); i >= 0 {
		t.Fatalf("the data has %q", data[i])
	}
	d := json.NewDecoder(strings.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&got); err != nil || d.More() {
		t.Fatal("the data is not one value of JSON:", err)
	}
	return got, data
}

func TestHTMLHasWhatWasSent(t *testing.T) {
	r := NewRecorder(Limits{Conns: 1, Streams: 1, Fields: 1 << 10, Charts: true})
	for _, e := range append(requestOf(":method", "POST", ":path", "/"),
		Event{Kind: Frame, Sent: true, Type: "DATA", StreamID: 1, Length: 100, At: at(510)},
		Event{Kind: Window, Sent: true, StreamID: 1, Window: 900, ConnWindow: 800, At: at(510)},
		Event{Kind: StreamOpened, StreamID: 3, Sent: true, At: at(520)}, // there is no room for it
	) {
		e.ConnID = 1
		r.Add(&e)
	}
	got, _ := pageOf(t, r)
	if got.Note != "1 streams are missing, because only some are kept" {
		t.Errorf("the note is %q", got.Note)
	}
	s := got.Conns[0].Streams[0]
	if want := [4]any{10.0, 10.0, true, 100.0}; len(s.Chunks) != 1 || s.Chunks[0] != want {
		t.Errorf("the DATA frames %v, want %v", s.Chunks, want)
	}
	if want := [3]float64{10, 900, 900}; len(s.Send) != 1 || s.Send[0] != want || len(s.Recv) != 0 {
		t.Errorf("the windows %v and %v, want %v and none", s.Send, s.Recv, want)
	}
}
