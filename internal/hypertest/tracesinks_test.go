// This file tests what is made of trace events: HAR, Waterfall, SlogTrace, Conn.Dump and
// LastFrames.

package hypertest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// An archive is what the tests need of a HAR.
type archive struct {
	Log struct {
		Entries []struct {
			Time    float64
			Request struct {
				Method, URL string
				Headers     []struct{ Name, Value string }
				BodySize    int
			}
			Response struct {
				Status   int
				BodySize int
				Content  struct{ Size, Compression int }
				Error    string `json:"_error"`
			}
			Timings    struct{ Blocked, Send, Wait, Receive float64 }
			Connection string
		}
	}
}

// readArchive returns what h has recorded.
func readArchive(t *testing.T, h *hyper.HAR) (a archive) {
	t.Helper()
	var text bytes.Buffer
	n, err := h.WriteTo(&text)
	if err != nil || n != int64(text.Len()) {
		t.Fatal(n, err)
	}
	if err := json.Unmarshal(text.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// A HAR has the fields as sent, the sizes and the phases, whichever door the request takes.
func TestHARRecordsAnExchange(t *testing.T) {
	var h *hyper.HAR
	trace := func(e hyper.TraceEvent) { h.Trace(e) }
	for _, d := range doors {
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h = &hyper.HAR{}
				v := visitDoor(t, d, hyper.Config{Trace: trace})
				req := v.request("POST", "/a?b=c", strings.NewReader("hello"))
				req.Header.Set("Authorization", "Bearer secret")
				req.Header.Set("Accept-Encoding", "gzip")
				got := v.send(req)
				peer := v.accept()
				peer.WantHeaders("the request", 1)
				peer.WantBody("its body", 1, []byte("hello"))
				time.Sleep(20 * time.Millisecond)
				var coded bytes.Buffer
				z := gzip.NewWriter(&coded)
				io.WriteString(z, strings.Repeat("text", 1000))
				z.Close()
				peer.WriteHeaders(1, 0, ":status: 200", "content-encoding: gzip", "set-cookie: id=secret")
				resp := got.Want(t, "the response")
				time.Sleep(30 * time.Millisecond)
				peer.WriteData(1, wire.EndStream, coded.Bytes())
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				synctest.Wait()
				a := readArchive(t, h)
				if len(a.Log.Entries) != 1 {
					t.Fatalf("%d entries", len(a.Log.Entries))
				}
				e := a.Log.Entries[0]
				if e.Request.Method != "POST" || !strings.HasSuffix(e.Request.URL, "://example.com/a?b=c") ||
					e.Request.BodySize != 5 || e.Response.Status != 200 ||
					e.Response.BodySize != coded.Len() {
					t.Errorf("%+v", e)
				}
				if e.Timings.Wait != 20 || e.Timings.Receive != 30 || e.Time != 50 {
					t.Errorf("%v: %+v", e.Time, e.Timings)
				}
				seen := map[string]string{}
				for _, f := range e.Request.Headers {
					seen[f.Name] = f.Value
				}
				if seen["authorization"] != "[13 bytes]" || seen["content-length"] != "5" ||
					seen["user-agent"] == "" ||
					seen[":path"] != "/a?b=c" {
					t.Errorf("fields %v", seen)
				}
			})
		})
	}
}

// The size of the decoded body is known when it was read.
func TestHARHasTheSizeOfTheDecodedBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h hyper.HAR
		peer, conn := dialPeer(t, &hyper.Config{Trace: h.Trace})
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		var coded bytes.Buffer
		z := gzip.NewWriter(&coded)
		io.WriteString(z, strings.Repeat("text", 1000))
		z.Close()
		peer.WriteHeaders(1, 0, ":status: 200", "content-encoding: gzip")
		peer.WriteData(1, wire.EndStream, coded.Bytes())
		h2test.WantBody(t, "the body", got.Want(t, "the response").Body, strings.Repeat("text", 1000))
		synctest.Wait()
		content := readArchive(t, &h).Log.Entries[0].Response.Content
		if content.Size != 4000 || content.Compression != 4000-coded.Len() {
			t.Errorf("%+v, %d coded", content, coded.Len())
		}
	})
}

func TestWaterfallRecordsAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w hyper.Waterfall
		peer, conn := dialPeer(t, &hyper.Config{Trace: w.Trace})
		got := getAsync(conn, "/<script>")
		peer.WantHeaders("the request", 1)
		peer.WritePing(0, [8]byte{})
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, wire.EndStream, []byte("body"))
		h2test.WantBody(t, "the body", got.Want(t, "the response").Body, "body")
		synctest.Wait()
		var page bytes.Buffer
		if _, err := w.WriteTo(&page); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"id":1,"method":"GET"`, `PING len=8`, `\u003cscript\u003e`,
			`"status":"200"`} {
			if !strings.Contains(page.String(), want) {
				t.Errorf("it lacks %s", want)
			}
		}
	})
}

func TestSlogTraceWritesEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))
		peer, conn := dialPeer(t, &hyper.Config{Trace: hyper.SlogTrace{Logger: logger, Fields: true}.Trace})
		doAsync(t.Context(), conn, &hyper.Request{Header: hyper.Header{{Name: "authorization",
			Value: "Bearer secret"}}})
		peer.WantHeaders("the request", 1)
		peer.WriteRSTStream(1, wire.Cancel)
		synctest.Wait()
		peer.WriteGoAway(1, wire.NoError, "token=secret")
		synctest.Wait()
		if strings.Contains(text.String(), "secret") {
			t.Error("it has a credential")
		}
		for _, want := range []string{
			"level=INFO msg=conn_opened conn=", "level=DEBUG msg=HEADERS conn=", "stream=1 sent=true length=",
			`fields.authorization="[13 bytes]"`, "msg=RST_STREAM", "code=CANCEL",
			"level=WARN msg=stream_closed",
			"debug=\"token=[6 bytes]\"", "last_stream=1", "MAX_FRAME_SIZE=262144",
		} {
			if !strings.Contains(text.String(), want) {
				t.Errorf("it lacks %s:\n%s", want, text.String())
			}
		}
	})
}

// With the default level of a logger, no frames are written.
func TestSlogTraceRespectsTheLevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&text, nil))
		peer, _ := dialPeer(t, &hyper.Config{Trace: hyper.SlogTrace{Logger: logger}.Trace})
		peer.WantIdle("the handshake")
		if got := text.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "msg=conn_opened") {
			t.Errorf("got %s", got)
		}
	})
}

func TestDumpShowsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{KeepFrames: true},
			wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 2},
			wire.Setting{ID: wire.SettingInitialWindowSize, Value: 10})
		synctest.Wait()
		getAsync(conn, "/slow?token=secret")
		synctest.Wait()
		s, err := conn.Open(t.Context(), &hyper.Request{Method: "PUT", Path: "/up"})
		if err != nil {
			t.Fatal(err)
		}
		go s.Write(make([]byte, 30))
		synctest.Wait()
		getAsync(conn, "/waits")
		synctest.Wait()
		peer.WritePing(0, [8]byte{7})
		text := dump(t, conn)
		for _, want := range []string{
			": open, ", "MAX_CONCURRENT_STREAMS=2 INITIAL_WINDOW_SIZE=10", "slots: 2 of 2 used",
			"1 requests wait", "stream 1: GET /slow?token=[6 bytes], half-closed (local), no response",
			"stream 3: PUT /up, open, no response; sent 10 of 30 bytes, window 0, blocked",
			"0 streams are ready, 1 wait for their windows", "last frames:\n",
			" <- PING len=8 data=0700000000000000\n",
			" -> HEADERS stream=1 ", " -> DATA stream=3 len=10\n",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("it lacks %q:\n%s", want, text)
			}
		}
		if strings.Contains(text, "secret") {
			t.Error("it has a credential")
		}
		conn.Close()
		if text := dump(t, conn); !strings.Contains(text, ": ended: hyper: ") {
			t.Errorf("after the end: %s", text)
		}
	})
}

// dump returns what Dump writes.
func dump(t *testing.T, conn *hyper.Conn) string {
	t.Helper()
	synctest.Wait()
	var text strings.Builder
	if err := conn.Dump(&text); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// Only the last frames are kept.
func TestDumpShowsSixtyFourFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{KeepFrames: true})
		for i := range 100 {
			peer.WritePing(0, [8]byte{byte(i)})
			synctest.Wait()
		}
		_, frames, _ := strings.Cut(dump(t, conn), "last frames:\n")
		if strings.Count(frames, "\n") != 64 || !strings.Contains(frames, "<- PING len=8 data=63") ||
			strings.Contains(frames, "data=43") {
			t.Errorf("got %s", frames)
		}
	})
}

func TestErrorsOfAConnectionHaveTheLastFrames(t *testing.T) {
	for _, keep := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, &hyper.Config{KeepFrames: keep})
			got := getAsync(conn, "/")
			peer.WantHeaders("the request", 1)
			peer.WriteFrame(wire.FrameHeader{Length: 3, Type: wire.Ping}, []byte("abc"))
			<-conn.Done()
			var err *hyper.ConnError
			if !errors.As(conn.Err(), &err) {
				t.Fatal(conn.Err())
			}
			text := err.Error()
			if !keep {
				if err.LastFrames != nil || strings.Contains(text, "last frames") {
					t.Errorf("they were not kept: %s", text)
				}
				return
			}
			if n := len(err.LastFrames); n == 0 || !strings.HasSuffix(err.LastFrames[n-1], " <- PING len=3") {
				t.Errorf("got %q", err.LastFrames)
			}
			if !strings.HasSuffix(text, " <- PING len=3]") || !strings.Contains(text, "-> HEADERS stream=1") {
				t.Errorf("got %s", text)
			}
			if err := got.WantErr(t, "the request"); !strings.Contains(err.Error(), "<- PING len=3") {
				t.Errorf("the request's error is %v", err)
			}
		})
	}
}

// Promises and statuses that are malformed leave the archive with URLs and statuses that are valid.
func TestHARIsValidIfThePeerIsMalformed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h hyper.HAR
		peer, conn := dialPeer(t, &hyper.Config{Trace: h.Trace, Push: &hyper.PushPolicy{}})
		got := getAsync(conn, "/100%")
		peer.WantHeaders("the request", 1)
		peer.WritePushPromise(1, 2, ":method: GET", ":scheme: http", ":authority: [::1", ":path: /%")
		peer.WriteHeaders(1, wire.EndStream, ":status: 99999999999999999999")
		got.WantErr(t, "the response")
		synctest.Wait()
		entries := readArchive(t, &h).Log.Entries
		if len(entries) != 2 {
			t.Fatalf("%d entries", len(entries))
		}
		for i, e := range entries {
			if _, err := url.Parse(e.Request.URL); err != nil {
				t.Errorf("entry %d: %v", i, err)
			}
			if e.Response.Status != 0 {
				t.Errorf("entry %d has the status %d", i, e.Response.Status)
			}
		}
	})
}
