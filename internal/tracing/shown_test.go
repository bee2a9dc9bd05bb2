package tracing

import "testing"

// What is shown of a field has no credential, whatever its name.
func TestFieldShown(t *testing.T) {
	for _, c := range []struct {
		f    Field
		want string
	}{
		{Field{Name: "x-api-key", Value: "abc"}, "[3 bytes]"},
		{Field{Name: "X-Amz-Security-Token", Value: "abc"}, "[3 bytes]"},
		{Field{Name: "x-vault-token", Value: "abc"}, "[3 bytes]"},
		{Field{Name: "x", Value: "abc", Sensitive: true}, "[3 bytes]"},
		{Field{Name: ":path", Value: "/?access_token=abc&sig=de&b=c&X-Amz-Signature=f&key=AIza"},
			"/?access_token=[3 bytes]&sig=[2 bytes]&b=c&X-Amz-Signature=[1 bytes]&key=[4 bytes]"},
		{Field{Name: "Location", Value: "/?token=abc"}, "/?token=[3 bytes]"},
		{Field{Name: "sec-websocket-key", Value: "abc"}, "abc"},
		{Field{Name: "www-authenticate", Value: "Basic realm=a"}, "Basic realm=a"},
		{Field{Name: "accept", Value: "token=abc"}, "token=abc"},
	} {
		if got := c.f.Shown(); got != c.want {
			t.Errorf("%+v is shown as %q, want %q", c.f, got, c.want)
		}
	}
}

func TestRedactFindsCredentialsInJSON(t *testing.T) {
	for in, want := range map[string]string{
		`{"password":"abc","a":1}`:     `{"password":"[3 bytes]","a":1}`,
		`{\"access_token\" : \"abc\"}`: `{\"access_token\" : \"[3 bytes]\"}`,
		`"{\"api_key\":\"abc\"}"`:      `"{\"api_key\":\"[3 bytes]\"}"`,
		`x-api-key: abc`:               `x-api-key: [3 bytes]`,
		`invalid signature: abc`:       `invalid signature: abc`,
		`"authorization":"Bearer abc"`: `"authorization":"Bearer [3 bytes]"`,
	} {
		if got := Redact(in); got != want {
			t.Errorf("Redact(%q) = %q, want %q", in, got, want)
		}
	}
}

// Connections and streams that live long, and connections of another protocol, do not keep newer
// ones out.
func TestRecorderDropsWhatHasEndedBehindWhatHasNot(t *testing.T) {
	r := NewRecorder(Limits{Conns: 40, Streams: 40, Fields: 100})
	for id := uint64(1); id <= 30; id++ {
		r.Add(&Event{Kind: ConnOpened, ConnID: id, At: at(1)})
		r.Add(&Event{Kind: StreamOpened, ConnID: id, StreamID: 1, At: at(1)})
	}
	for id := uint64(31); id <= 200; id++ {
		r.Add(&Event{Kind: DialDone, ConnID: id, At: at(2)})
		if id%2 == 1 {
			continue // it speaks HTTP/1.1
		}
		r.Add(&Event{Kind: ConnOpened, ConnID: id, At: at(2)})
		r.Add(&Event{Kind: StreamOpened, ConnID: id, StreamID: 1, At: at(2)})
		r.Add(&Event{Kind: StreamClosed, ConnID: id, StreamID: 1, At: at(2)})
		r.Add(&Event{Kind: ConnClosed, ConnID: id, At: at(2)})
	}
	if n := len(r.conns); n != 40 || r.conns[29].id != 30 || r.conns[39].id != 200 {
		t.Errorf("%d connections, the last is %d", n, r.conns[n-1].id)
	}
	n := len(r.streams)
	if last := r.streams[n-1]; last.conn.id != 200 || r.streams[29].conn.id != 30 {
		t.Errorf("%d streams, the last is of connection %d", n, last.conn.id)
	}
}

// The fields of a promise that continues in CONTINUATION are those of the promised stream.
func TestRecorderContinuesAPromise(t *testing.T) {
	r := NewRecorder(Limits{Conns: 1, Streams: 5, Fields: 1000})
	for _, e := range []Event{
		{Kind: StreamOpened, StreamID: 1},
		{Kind: Frame, Sent: true, Type: "HEADERS", StreamID: 1, Fields: fields(":path", "/")},
		{Kind: Frame, Type: "PUSH_PROMISE", StreamID: 1, PromisedID: 2, Length: 10},
		{Kind: Frame, Type: "CONTINUATION", StreamID: 1, Length: 10},
		{Kind: Frame, Type: "CONTINUATION", StreamID: 1, Length: 10, Fields: fields(":path", "/pushed")},
		{Kind: StreamOpened, StreamID: 2},
		{Kind: Frame, Type: "HEADERS", StreamID: 1, Length: 10},
		{Kind: Frame, Type: "CONTINUATION", StreamID: 1, Length: 10, Fields: fields(":status", "200")},
	} {
		e.ConnID, e.At = 1, at(1)
		r.Add(&e)
	}
	if len(r.streams) != 2 {
		t.Fatalf("%d streams", len(r.streams))
	}
	a, b := r.streams[0], r.streams[1]
	if b.request.get(":path") != "/pushed" || a.response.get(":status") != "200" || a.trailer.fields != nil ||
		a.recvBytes.frames != 38 || b.recvBytes.frames != 57 {
		t.Errorf("%+v\n%+v", a, b)
	}
}

// Interim responses do not take the room of the response.
func TestRecorderHasRoomAfterInterimResponses(t *testing.T) {
	r := NewRecorder(Limits{Conns: 1, Streams: 5, Fields: 200})
	r.Add(&Event{Kind: StreamOpened, ConnID: 1, StreamID: 1, At: at(1)})
	for _, status := range []string{"103", "103", "103", "103", "103", "200"} {
		r.Add(&Event{Kind: Frame, Type: "HEADERS", ConnID: 1, StreamID: 1, At: at(1),
			Fields: fields(":status", status, "link", "</a>")})
	}
	if s := r.streams[0]; s.response.get("link") == "" || s.response.get(":status") != "200" {
		t.Errorf("%+v", s.response)
	}
}

// What comes late from a connection that was dropped does not take its room again.
func TestRecorderDropsWhatComesLate(t *testing.T) {
	r := NewRecorder(Limits{Conns: 1, Streams: 5, Fields: 200})
	for id := uint64(1); id <= 3; id++ {
		r.Add(&Event{Kind: ConnOpened, ConnID: id, At: at(1)})
		r.Add(&Event{Kind: ConnClosed, ConnID: id, At: at(1)})
		r.Add(&Event{Kind: Frame, Type: "GOAWAY", Sent: true, ConnID: 1, At: at(1)})
	}
	r.Add(&Event{Kind: ConnOpened, ConnID: 4, At: at(1)})
	if len(r.conns) != 1 || r.conns[0].id != 4 {
		t.Errorf("%d connections, the first is %d", len(r.conns), r.conns[0].id)
	}
}
