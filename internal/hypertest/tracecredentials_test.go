// This file tests what traces show of requests that are unusual: credentials that only a name or a
// query shows, bodies that are padded or cut off, and frames that end a connection.

package hypertest

import (
	"bytes"
	"io"
	"log/slog"
	"net/http/httptrace"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// No sink shows a credential, also if it is in the query, in a field of a vendor, or in JSON.
func TestNoSinkShowsACredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text, log, lines, dump, rest bytes.Buffer
		var h hyper.HAR
		var w hyper.Waterfall
		to := hyper.TraceTo(&text)
		level := &slog.HandlerOptions{Level: slog.LevelDebug}
		records := hyper.SlogTrace{Logger: slog.New(slog.NewJSONHandler(&log, level)), Fields: true}
		peer, conn := dialPeer(t, &hyper.Config{KeepFrames: true, Trace: func(e hyper.TraceEvent) {
			to(e)
			records.Trace(e)
			h.Trace(e)
			w.Trace(e)
			lines.WriteString(e.String())
			for line := range e.FieldLines {
				lines.WriteString(line)
			}
		}})
		got := doAsync(t.Context(), conn, &hyper.Request{
			Path: "/a?token=hidden&sig=hidden&X-Amz-Signature=hidden",
			Header: hyper.Header{{Name: "X-Api-Key", Value: "hidden"},
				{Name: "x-amz-security-token", Value: "hidden"}},
		})
		peer.WantHeaders("the request", 1, "x-api-key: hidden")
		peer.WriteHeaders(1, wire.EndStream, ":status: 302", "location: /?access_token=hidden")
		got.Want(t, "the response")
		second := getAsync(conn, "/?sig=hidden")
		peer.WantHeaders("the second request", 3)
		synctest.Wait()
		if err := conn.Dump(&dump); err != nil {
			t.Fatal(err)
		}
		peer.WriteGoAway(0, wire.ProtocolError, `{"password":"hidden"} sig=hidden`)
		second.WantErr(t, "the second request")
		synctest.Wait()
		conn.Dump(&dump)
		h.WriteTo(&rest)
		w.WriteTo(&rest)
		for _, b := range []*bytes.Buffer{&text, &log, &lines, &dump, &rest} {
			if at := strings.Index(b.String(), "hidden"); at >= 0 {
				t.Errorf("it shows a credential: %s", b.String()[max(0, at-100):at+6])
			}
		}
	})
}

// The sizes of a HAR are those of the content, without padding, and a body that was cut off has no
// decoded size.
func TestHARHasTheSizesOfUnusualBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h hyper.HAR
		peer, conn := dialPeer(t, &hyper.Config{Trace: h.Trace})
		got := doAsync(t.Context(), conn, &hyper.Request{Method: "POST", Body: strings.NewReader("hi"),
			Framing: &hyper.Framing{DataPadding: 50}})
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		payload := append([]byte{9}, "hello123456789"...)
		peer.WriteFrame(wire.FrameHeader{Length: len(payload), Type: wire.Data,
			Flags: wire.Padded | wire.EndStream, StreamID: 1}, payload)
		io.Copy(io.Discard, got.Want(t, "the response").Body)

		cut := getAsync(conn, "/")
		synctest.Wait()
		peer.WriteHeaders(3, 0, ":status: 200", "content-encoding: deflate")
		peer.WriteData(3, 0, []byte{0, 5, 0, 0xfa, 0xff, 'h', 'e', 'l', 'l', 'o'})
		peer.WriteRSTStream(3, wire.InternalError)
		io.Copy(io.Discard, cut.Want(t, "the second response").Body)
		synctest.Wait()
		entries := readArchive(t, &h).Log.Entries
		if e := entries[0]; e.Request.BodySize != 2 || e.Response.BodySize != 5 ||
			e.Response.Content.Size != 5 {
			t.Errorf("padded: %+v", e)
		}
		if e := entries[1].Response; e.BodySize != 10 || e.Content.Size != 10 || e.Content.Compression != 0 {
			t.Errorf("cut off: %+v", e)
		}
	})
}

// A frame that ends the connection is reported before.
func TestTraceShowsAFrameThatIsOutOfPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log traceLog
		peer, conn := dialPeer(t, &hyper.Config{Trace: hyper.TraceTo(&log)})
		peer.WriteFrame(wire.FrameHeader{Type: wire.Continuation, StreamID: 1}, nil)
		<-conn.Done()
		synctest.Wait()
		if text := log.take(); !strings.Contains(text, "<- CONTINUATION stream=1 len=0\n") {
			t.Errorf("the frame is missing:\n%s", text)
		}
	})
}

// Framing.Encode is called once for each field, also if hooks of net/http/httptrace are called.
func TestEncodeIsCalledOnceForEachField(t *testing.T) {
	eachHTTPDoor(t, func(t *testing.T, v *visit) {
		calls := map[string]int{}
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{WroteHeaders: func() {}})
		ctx = hyper.WithRequest(ctx, func(r *hyper.Request) {
			r.Framing = &hyper.Framing{Encode: func(f hyper.Field) (e hyper.FieldEncoding) {
				calls[f.Name]++
				return e
			}}
		})
		call := v.send(v.request("GET", "/", nil).WithContext(ctx))
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		call.Want(t, "the response")
		for name, n := range calls {
			if n != 1 {
				t.Errorf("Encode was called %d times for %s", n, name)
			}
		}
		if len(calls) < 4 {
			t.Errorf("Encode was called for %v", calls)
		}
	})
}

// SlogTrace writes what PING and priorities carry.
func TestSlogTraceHasTheDataOfPingAndPriorities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		level := &slog.HandlerOptions{Level: slog.LevelDebug}
		records := hyper.SlogTrace{Logger: slog.New(slog.NewTextHandler(&log, level))}
		peer, conn := dialPeer(t, &hyper.Config{Trace: records.Trace})
		peer.WritePing(0, [8]byte{1, 2, 3})
		err := conn.WriteFrame(t.Context(), hyper.PriorityFrame(5, hyper.Dependency{StreamID: 3, Weight: 9}))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		conn.Close()
		synctest.Wait()
		for _, want := range []string{"data=0102030000000000", `priority="depends_on=3 weight=10"`} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("it lacks %s:\n%s", want, log.String())
			}
		}
	})
}
