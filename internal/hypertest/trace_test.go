// This file tests Config.Trace.

package hypertest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A traceLog is a writer for TraceTo whose contents can be taken between writes.
type traceLog struct {
	mu sync.Mutex
	strings.Builder
}

func (l *traceLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Builder.Write(p)
}

// take returns what was written since the last call.
func (l *traceLog) take() string {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.Builder.String()
	l.Builder.Reset()
	return linesWithoutTime(text)
}

// linesWithoutTime removes the time and the number of the connection from the lines of TraceTo, and
// the lines of events that are no frames.
func linesWithoutTime(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, " ") {
			_, line, _ = strings.Cut(line, " c")
			_, line, _ = strings.Cut(line, " ")
		}
		if !strings.HasPrefix(line, "-- ") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func (l *traceLog) want(t *testing.T, reason, want string) {
	t.Helper()
	if got := l.take(); got != strings.TrimPrefix(want, "\n") {
		t.Errorf("%s: got\n%swant%s", reason, got, want)
	}
}

func TestTraceShowsAnExchangeBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log traceLog
		peer, conn := dialPeer(t, &hyper.Config{
			Trace: hyper.TraceTo(&log), Authority: "example.com", NoUserAgent: true, WindowManager: giveBack,
			Push: &hyper.PushPolicy{},
		}, wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 100})
		const ours, theirs = "-> SETTINGS len=0 ACK\n", "<- SETTINGS len=0 ACK\n"
		got := strings.Replace(log.take(), ours+theirs, theirs+ours, 1) // either ACK may come first
		if want := `-> PREFACE
-> SETTINGS len=24 MAX_CONCURRENT_STREAMS=100 INITIAL_WINDOW_SIZE=65535 ` +
			`MAX_FRAME_SIZE=262144 MAX_HEADER_LIST_SIZE=10485760
<- SETTINGS len=6 MAX_CONCURRENT_STREAMS=100
<- SETTINGS len=0 ACK
-> SETTINGS len=0 ACK
`; got != want {
			t.Errorf("the handshake: got\n%swant\n%s", got, want)
		}
		call := doAsync(t.Context(), conn, &hyper.Request{Method: "POST", Path: "/a?b",
			Body: strings.NewReader("hello")})
		peer.WantHeaders("the request", 1)
		peer.WantBody("its body", 1, []byte("hello"))
		log.want(t, "the request", `
-> HEADERS stream=1 len=36 END_HEADERS
       :method: POST
       :scheme: http
       :authority: example.com
       :path: /a?b
       accept-encoding: gzip, deflate, br
       content-length: 5
-> DATA stream=1 len=5 END_STREAM
`)
		peer.WritePushPromise(1, 2, ":method: GET", ":scheme: http", ":authority: example.com",
			":path: /pushed")
		peer.WriteHeaders(1, 0, ":status: 200", "x-text: grün")
		peer.WritePaddedData(1, 0, []byte("body"), 5)
		synctest.Wait() // makes the order of sent and received frames fixed
		peer.WriteTrailers(1, "x-sum: 1")
		resp := call.Want(t, "the response")
		synctest.Wait()
		h2test.WantBody(t, "the body", resp.Body, "body")
		log.want(t, "the response", `
<- PUSH_PROMISE stream=1 len=23 END_HEADERS promised=2
       :method: GET
       :scheme: http
       :authority: example.com
       :path: /pushed
<- HEADERS stream=1 len=14 END_HEADERS
       :status: 200
       x-text: grün
<- DATA stream=1 len=10 PADDED
-> WINDOW_UPDATE len=4 increment=6
-> WINDOW_UPDATE stream=1 len=4 increment=6
<- HEADERS stream=1 len=8 END_STREAM END_HEADERS
       x-sum: 1
-> WINDOW_UPDATE len=4 increment=4
`)
		peer.WriteFrame(wire.FrameHeader{Length: 3, Type: 0x77, Flags: 0x5, StreamID: 7}, []byte("abc"))
		peer.WriteFrame(wire.FrameHeader{Length: 5, Type: wire.Priority, StreamID: 1}, make([]byte, 5))
		peer.WritePing(0, [8]byte{1, 2, 3, 4, 5, 6, 7, 8})
		synctest.Wait()
		peer.WriteRSTStream(2, wire.RefusedStream)
		peer.WriteWindowUpdate(0, 1000)
		peer.WriteGoAway(1, wire.EnhanceYourCalm, "too \"much\"\n")
		log.want(t, "the rest", `
<- FRAME_0x77 stream=7 len=3 flags=0x5
<- PRIORITY stream=1 len=5 depends_on=0 weight=1
<- PING len=8 data=0102030405060708
-> PING len=8 ACK data=0102030405060708
<- RST_STREAM stream=2 len=4 code=REFUSED_STREAM
<- WINDOW_UPDATE len=4 increment=1000
<- GOAWAY len=19 last=1 code=ENHANCE_YOUR_CALM debug="too \"much\"\n"
`)
	})
}

func TestTraceHidesCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log traceLog
		peer, conn := dialPeer(t, &hyper.Config{Trace: hyper.TraceTo(&log)})
		log.take()
		header := hyper.Header{
			{Name: "Authorization", Value: "Basic c2VjcmV0"}, {Name: "proxy-authorization", Value: "secret"},
			{Name: "cookie", Value: "id=secret"}, {Name: "x-token", Value: "secret", Sensitive: true},
			{Name: "x-open", Value: "shown"},
		}
		got := doAsync(t.Context(), conn, &hyper.Request{Header: header})
		peer.WantHeaders("the peer sees them", 1, "authorization: Basic c2VjcmV0", "x-token: secret",
			"x-open: shown")
		peer.WriteHeaders(1, wire.EndStream, ":status: 200", "set-cookie: id=secret2")
		got.Want(t, "the response")
		text := log.take()
		if strings.Contains(text, "secret") || strings.Contains(text, "c2VjcmV0") {
			t.Errorf("it shows a secret:\n%s", text)
		}
		for _, line := range []string{
			"authorization: [14 bytes]", "proxy-authorization: [6 bytes]", "cookie: [9 bytes]",
			"x-token: [6 bytes]",
			"x-open: shown", "set-cookie: [10 bytes]",
		} {
			if !strings.Contains(text, "       "+line+"\n") {
				t.Errorf("it lacks %q:\n%s", line, text)
			}
		}
	})
}

func TestTraceCannotBeForgedByThePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log traceLog
		peer, conn := dialPeer(t, &hyper.Config{Trace: hyper.TraceTo(&log)})
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		log.take()
		peer.WriteHeaders(1, 0, ":status: 200", "x: a\n-> GOAWAY\x1b[2J")
		got.WantErr(t, "malformed")
		text := log.take()
		if strings.Count(text, "\n") != 4 || strings.ContainsAny(text, "\x1b") {
			t.Errorf("got %q", text)
		}
	})
}

// tracedEvents returns a Trace function that appends to events.
func tracedEvents(events *[]hyper.TraceEvent) func(hyper.TraceEvent) {
	var mu sync.Mutex
	return func(e hyper.TraceEvent) {
		mu.Lock()
		defer mu.Unlock()
		if e.Kind == hyper.TraceFrame {
			*events = append(*events, e)
		}
	}
}

func TestTraceJoinsFieldsAtTheLastContinuation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []hyper.TraceEvent
		peer, conn := dialPeer(t, &hyper.Config{Trace: tracedEvents(&events)})
		synctest.Wait()
		events = nil
		long := strings.Repeat("~", 20_000)
		got := doAsync(t.Context(), conn, &hyper.Request{NoDefaultFields: true,
			Header: hyper.Header{{Name: "x-long", Value: long}}})
		peer.WantHeaders("in two frames", 1)
		peer.WriteHeadersSplit(1, wire.EndStream, 3, ":status: 200", "x: yz")
		got.Want(t, "the response")
		var seen []string
		for _, e := range events {
			seen = append(seen, fmt.Sprintf("%v %s %d %d %#x %d", e.Sent, e.Type, e.StreamID, e.Length,
				e.Flags, len(e.Fields)))
		}
		want := []string{
			"true HEADERS 1 16384 0x1 0",
			"true CONTINUATION 1 3642 0x4 5",
			"false HEADERS 1 3 0x1 0",
			"false CONTINUATION 1 3 0x0 0",
			"false CONTINUATION 1 1 0x4 2",
		}
		if !slices.Equal(seen, want) {
			t.Errorf("seen\n\t%s\nwant\n\t%s", strings.Join(seen, "\n\t"), strings.Join(want, "\n\t"))
		}
		if last := events[1].Fields; last.Get("x-long") != long || last.Get(":path") != "/" {
			t.Errorf("the joined fields are %.100v", last)
		}
		if got := events[4].Fields; !slices.Equal(got,
			hyper.Header{{Name: ":status", Value: "200"}, {Name: "x", Value: "yz"}}) {
			t.Errorf("the joined fields are %v", got)
		}
	})
}

// Tracing decodes the client's compressed fields as the peer does. It must follow when the peer
// changes the table size.
func TestTraceFollowsChangesOfTheCompressionTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []hyper.TraceEvent
		peer, conn := dialPeer(t, &hyper.Config{Trace: tracedEvents(&events)})
		for i, size := range []uint32{4096, 100, 0, 1 << 20, 50} {
			id := uint32(1 + 2*i)
			peer.WriteSettings(wire.Setting{ID: wire.SettingHeaderTableSize, Value: size})
			peer.WantSettingsAck("a new table")
			wantTracedRequest(t, peer, conn, id, &events)
		}
	})
}

func wantTracedRequest(t *testing.T, peer *h2test.Peer, conn *hyper.Conn, id uint32,
	events *[]hyper.TraceEvent) {
	t.Helper()
	got := doAsync(t.Context(), conn, &hyper.Request{Header: hyper.Header{{Name: "x-same", Value: "value"},
		{Name: "x-id", Value: fmt.Sprint(id)}}})
	peer.WantHeaders("the request", id, "x-same: value", fmt.Sprint("x-id: ", id))
	synctest.Wait()
	last := (*events)[len(*events)-1]
	if !last.Sent || last.StreamID != id || last.Fields.Get("x-same") != "value" ||
		last.Fields.Get("x-id") != fmt.Sprint(id) {
		t.Errorf("stream %d: %v %v", id, last, last.Fields)
	}
	peer.WriteHeaders(id, wire.EndStream, ":status: 200")
	got.Want(t, "the response")
}

func TestTraceShowsFramesThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log traceLog
		peer, conn := dialPeer(t, &hyper.Config{Trace: hyper.TraceTo(&log)})
		log.take()
		peer.WriteFrame(wire.FrameHeader{Length: 3, Type: wire.Ping}, []byte("abc"))
		<-conn.Done()
		log.want(t, "what came, and what we said", `
<- PING len=3
-> GOAWAY len=32 last=0 code=FRAME_SIZE_ERROR debug="PING is not 8 bytes long"
`)
		peer.WantGoAway("the answer", 0, wire.FrameSizeError)
	})
}

// Trace is the caller's code. The connection goes on however long it takes, even between frames
// that arrived together.
func TestTraceIsCalledWithoutTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reached, proceed := make(chan struct{}), make(chan struct{})
		peer, conn := dialPeer(t, &hyper.Config{Trace: func(e hyper.TraceEvent) {
			if !e.Sent && e.Type == "DATA" {
				reached <- struct{}{}
				<-proceed
			}
		}})
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.Batch(func() {
			peer.WriteHeaders(1, 0, ":status: 200")
			peer.WriteData(1, wire.EndStream, []byte("hello"))
		})
		<-reached
		if conn.Stats().StreamsOpen != 1 {
			t.Error("the stream is over")
		}
		close(proceed)
		h2test.WantBody(t, "the response", got.Want(t, "its header").Body, "hello")
	})
}

func TestTraceEventsHaveTheSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		got := map[string][]hyper.Setting{}
		peer, _ := dialPeer(t, &hyper.Config{Settings: []hyper.Setting{{ID: 0xf000, Value: 2}},
			Trace: func(e hyper.TraceEvent) {
				mu.Lock()
				defer mu.Unlock()
				if e.Settings != nil {
					got[e.String()[:len("-> SETTINGS")]] = e.Settings
				} else if e.Type == "SETTINGS" && e.Length > 0 {
					t.Errorf("%v has no settings", e)
				}
			}}, wire.Setting{ID: wire.SettingMaxConcurrentStreams,
			Value: 7}, wire.Setting{ID: 0xf001, Value: 3})
		peer.WantIdle("the settings were exchanged")
		mu.Lock()
		defer mu.Unlock()
		received, sent := got["<- SETTINGS"], got["-> SETTINGS"]
		if want := []hyper.Setting{{ID: hyper.SettingMaxConcurrentStreams, Value: 7},
			{ID: 0xf001, Value: 3}}; !slices.Equal(received, want) {
			t.Errorf("received %v, want %v", received, want)
		}
		for _, s := range []hyper.Setting{{ID: 0xf000, Value: 2}, {ID: hyper.SettingEnablePush, Value: 0}} {
			if !slices.Contains(sent, s) {
				t.Errorf("sent %v, want %v among them", sent, s)
			}
		}
		if len(got) != 2 {
			t.Errorf("settings in %d kinds of frames, want 2", len(got))
		}
	})
}

func TestTraceEventsKeepTheirFieldsAndTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []hyper.TraceEvent
		start := time.Now()
		peer, conn := dialPeer(t, &hyper.Config{Trace: tracedEvents(&events)},
			wire.Setting{ID: wire.SettingHeaderTableSize, Value: 0})
		synctest.Wait()
		events = nil
		at := time.Since(start)
		for id := uint32(1); id < 7; id += 2 {
			got := getAsync(conn, fmt.Sprint("/", id))
			peer.WantHeaders("the request", id)
			time.Sleep(time.Second)
			peer.WriteHeaders(id, wire.EndStream, ":status: 200", fmt.Sprint("x-id: ", id))
			got.Want(t, "the response")
		}
		for i, e := range events {
			id := uint32(1 + i/2*2)
			field, value := ":path", fmt.Sprint("/", id)
			if !e.Sent {
				field, value = "x-id", fmt.Sprint(id)
			}
			if e.Sent != (i%2 == 0) || e.StreamID != id || e.Fields.Get(field) != value ||
				e.Time != at+time.Duration((i+1)/2)*time.Second {
				t.Errorf("event %d at %v: %v %v", i, e.Time, e, e.Fields)
			}
		}
		if len(events) != 6 {
			t.Errorf("%d events", len(events))
		}
	})
}
