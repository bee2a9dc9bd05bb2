// This file tests the events of Config.Trace that are more than a line of text.

package hypertest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
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

// An eventLog collects trace events.
type eventLog struct {
	mu     sync.Mutex
	events []hyper.TraceEvent
}

func (l *eventLog) add(e hyper.TraceEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

// take returns the events since the last call, when nothing happens any more.
func (l *eventLog) take() []hyper.TraceEvent {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	events := l.events
	l.events = nil
	return events
}

// lines returns events as text.
func lines(events []hyper.TraceEvent) (all []string) {
	for _, e := range events {
		all = append(all, e.String())
	}
	return all
}

func wantLines(t *testing.T, reason string, got []hyper.TraceEvent, want ...string) {
	t.Helper()
	if got := lines(got); !slices.Equal(got, want) {
		t.Errorf("%s: got\n\t%s\nwant\n\t%s", reason, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestTraceEventsTellTheStepsOfAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log eventLog
		peer, conn := dialPeer(t, &hyper.Config{Trace: log.add, WindowManager: giveBack})
		log.take()
		got := doAsync(t.Context(), conn, &hyper.Request{Method: "POST", Path: "/",
			Body: strings.NewReader("hello")})
		peer.WantHeaders("the request", 1)
		peer.WantBody("its body", 1, []byte("hello"))
		wantLines(t, "the request", log.take(),
			"-- stream_opened stream=1",
			"-- window stream=1 by=us increment=-5 window=65530 conn_window=65530",
			"-- half_closed stream=1 by=us",
			"-> HEADERS stream=1 len=39 END_HEADERS",
			"-> DATA stream=1 len=5 END_STREAM")
		peer.WriteHeaders(1, 0, ":status: 200")
		synctest.Wait()
		peer.WriteWindowUpdate(0, 7)
		peer.WriteData(1, 0, []byte("body"))
		synctest.Wait()
		h2test.WantBody(t, "a part", io.LimitReader(got.Want(t, "the response").Body, 4), "body")
		wantLines(t, "the response", log.take(),
			"<- HEADERS stream=1 len=1 END_HEADERS",
			"<- WINDOW_UPDATE len=4 increment=7",
			"-- window by=us increment=7 conn_window=65537",
			"<- DATA stream=1 len=4",
			"-- window stream=1 by=peer increment=-4 window=65531 conn_window=65531",
			"-- window by=peer increment=4 conn_window=65535",
			"-- window stream=1 by=peer increment=4 window=65535 conn_window=65535",
			"-> WINDOW_UPDATE len=4 increment=4",
			"-> WINDOW_UPDATE stream=1 len=4 increment=4")
		peer.WriteRSTStream(1, wire.InternalError)
		events := log.take()
		wantLines(t, "the end", events, "<- RST_STREAM stream=1 len=4 code=INTERNAL_ERROR",
			`-- stream_closed stream=1 err="hyper: stream 1: peer reset: INTERNAL_ERROR"`)
		if events[0].Code != hyper.ErrCodeInternal {
			t.Errorf("the code is %v", events[0].Code)
		}
		var reset *hyper.StreamError
		if !errors.As(events[1].Err, &reset) {
			t.Errorf("the stream's error is %v", events[1].Err)
		}
	})
}

func TestTraceEventsTellThePayload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log eventLog
		peer, conn := dialPeer(t, &hyper.Config{Trace: log.add, Push: &hyper.PushPolicy{}})
		getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		log.take()
		peer.WritePing(0, [8]byte{1, 2, 3, 4, 5, 6, 7, 8})
		peer.WriteFrame(wire.FrameHeader{Length: 5, Type: wire.Priority, StreamID: 1},
			[]byte{0x80, 0, 0, 3, 15})
		peer.WritePushPromise(1, 2, ":method: GET", ":scheme: https", ":authority: example.com", ":path: /p")
		peer.WriteGoAway(1, wire.EnhanceYourCalm, "token=abcdef wait")
		frames := slices.DeleteFunc(log.take(), func(e hyper.TraceEvent) bool {
			return e.Kind != hyper.TraceFrame || e.Sent
		})
		if len(frames) != 4 {
			t.Fatalf("%d frames: %v", len(frames), lines(frames))
		}
		ping, priority, promise, goAway := frames[0], frames[1], frames[2], frames[3]
		if ping.Data != [8]byte{1, 2, 3, 4, 5, 6, 7, 8} || ping.FrameType != 6 {
			t.Errorf("PING: %+v", ping)
		}
		if p := priority.Priority; p == nil || *p != (hyper.TracePriority{DependsOn: 3, Weight: 16,
			Exclusive: true}) {
			t.Errorf("PRIORITY: %+v", p)
		}
		if promise.PromisedID != 2 || promise.StreamID != 1 || promise.Fields.Get(":path") != "/p" {
			t.Errorf("PUSH_PROMISE: %+v", promise)
		}
		if goAway.LastStreamID != 1 || goAway.Code != hyper.ErrCodeEnhanceYourCalm ||
			string(goAway.Debug) != "token=abcdef wait" {
			t.Errorf("GOAWAY: %+v", goAway)
		}
		if text := goAway.String(); !strings.Contains(text, "token=[6 bytes] wait") {
			t.Errorf("the text of GOAWAY shows a credential: %s", text)
		}
	})
}

func TestTraceEventsNameTheirConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log eventLog
		_, first := dialPeer(t, &hyper.Config{Trace: log.add})
		time.Sleep(time.Second)
		_, second := dialPeer(t, &hyper.Config{Trace: log.add})
		ids, starts := map[*hyper.Conn]uint64{}, map[*hyper.Conn]time.Time{}
		for _, e := range log.take() {
			if e.Conn == nil {
				continue
			}
			if ids[e.Conn] == 0 {
				ids[e.Conn], starts[e.Conn] = e.ConnID, e.At
			}
			if e.ConnID == 0 || e.ConnID != ids[e.Conn] {
				t.Errorf("%v: connection %d, want %d", e, e.ConnID, ids[e.Conn])
			}
			if since := e.At.Sub(starts[e.Conn]); since != e.Time || since > time.Millisecond*5 {
				t.Errorf("%v: at %v, %v after the first event of the connection", e, e.Time, since)
			}
		}
		if len(ids) != 2 || ids[first] == ids[second] || starts[second].Sub(starts[first]) < time.Second {
			t.Errorf("the connections have the numbers %v", ids)
		}
	})
}

func TestTraceEventsTellTheWaitForASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log eventLog
		peer, conn := dialPeer(t, &hyper.Config{Trace: log.add},
			wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1})
		synctest.Wait()
		first := getAsync(conn, "/1")
		peer.WantHeaders("the first", 1)
		log.take()
		second := getAsync(conn, "/2")
		wantLines(t, "the second waits", log.take(), "-- slot_wait")
		time.Sleep(time.Second)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		first.Want(t, "the first response")
		peer.WantHeaders("the second", 3)
		peer.WriteHeaders(3, wire.EndStream, ":status: 200")
		second.Want(t, "the second response")
		if got := lines(log.take()); !slices.Contains(got, "-- stream_opened stream=3 wait=1s") {
			t.Errorf("got\n\t%s", strings.Join(got, "\n\t"))
		}
	})
}

// Every door reports how its connection was made, with the number that the connection then has.
func TestTraceEventsTellHowAConnectionWasMade(t *testing.T) {
	var log eventLog
	eachDoor(t, hyper.Config{Trace: log.add}, func(t *testing.T, v *visit) {
		got := v.get("/")
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		got.Want(t, "the response")
		var kinds []string
		id := uint64(0)
		events := log.take()
		for _, e := range events {
			id = max(id, e.ConnID) // of the last connection; the one before may have ended only now
		}
		for _, e := range events {
			switch e.Kind {
			case hyper.TraceDialStart, hyper.TraceDialDone, hyper.TraceTLSStart, hyper.TraceTLSDone,
				hyper.TraceConnOpened:
				kinds = append(kinds, e.Kind.String())
				if e.ConnID != id || e.At.IsZero() {
					t.Errorf("%v: connection %d, want %d", e, e.ConnID, id)
				}
			}
		}
		text := strings.Join(kinds, " ")
		want := "dial_start dial_done tls_start tls_done conn_opened"
		if v.cleartext {
			want = strings.Replace(want, "tls_start tls_done ", "", 1)
		}
		// NewConn gets a connection that was dialed before.
		if text != want && text != strings.Replace(want, "dial_start dial_done ", "", 1) {
			t.Errorf("got %s", text)
		}
	})
}

func TestTraceEventsTellAFailedDial(t *testing.T) {
	var log eventLog
	refused := errors.New("connection refused")
	_, err := hyper.Dial(t.Context(), "example.com", &hyper.Config{Trace: log.add,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, refused }})
	if !errors.Is(err, refused) {
		t.Fatal(err)
	}
	if len(log.events) != 2 || log.events[1].Kind != hyper.TraceDialDone ||
		!errors.Is(log.events[1].Err, refused) || log.events[1].Host != "example.com:443" {
		t.Errorf("got %v", lines(log.events))
	}
}

func TestTraceEventsTellARetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log eventLog
		for _, d := range doors {
			if d.name != "TransportTLS" {
				continue
			}
			v := visitDoor(t, d, hyper.Config{Trace: log.add})
			got := v.get("/")
			peer := v.accept()
			peer.WantHeaders("the request", 1)
			peer.WriteRSTStream(1, wire.RefusedStream)
			peer.WantHeaders("the request again", 3)
			peer.WriteHeaders(3, wire.EndStream, ":status: 200")
			got.Want(t, "the response")
			retries := slices.DeleteFunc(log.take(), func(e hyper.TraceEvent) bool {
				return e.Kind != hyper.TraceRetry
			})
			if len(retries) != 1 || retries[0].Conn == nil || retries[0].ConnID == 0 ||
				retries[0].Err == nil {
				t.Fatalf("got %v", lines(retries))
			}
			return
		}
		t.Error("there is no such door")
	})
}

// A request of a Transport that waits for a stream is reported, and how long it has waited.
func TestTraceEventsTellTheWaitInATransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log eventLog
		single := door{name: "one connection",
			enter: func(t *testing.T, dial dialFunc, cfg hyper.Config) http.RoundTripper {
				tr := transportDoor(t, dial, cfg).(*hyper.Transport)
				tr.MaxConnsPerHost = 1
				return tr
			}}
		v := visitDoor(t, single, hyper.Config{Trace: log.add})
		first := v.get("/1")
		peer := v.accept(wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1})
		peer.WantHeaders("the first", 1)
		synctest.Wait()
		log.take()
		second := v.get("/2")
		wantLines(t, "the second waits", log.take(), "-- slot_wait host=https://example.com")
		time.Sleep(time.Second)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		first.Want(t, "the first response")
		peer.WantHeaders("the second", 3)
		peer.WriteHeaders(3, wire.EndStream, ":status: 200")
		second.Want(t, "the second response")
		if got := lines(log.take()); !slices.Contains(got, "-- stream_opened stream=3 wait=1s") {
			t.Errorf("got\n\t%s", strings.Join(got, "\n\t"))
		}
	})
}
