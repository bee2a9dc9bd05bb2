// This file tests the figures of streams.

package hypertest

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// The progress of an upload is what has left, not what was read from the body.
func TestStreamStatsCountWhatTheSocketHasAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{}, wire.Setting{ID: wire.SettingInitialWindowSize,
			Value: 100})
		synctest.Wait()
		s, err := conn.Open(t.Context(), &hyper.Request{Method: "POST"})
		if err != nil {
			t.Fatal(err)
		}
		wrote := h2test.Go(func() (int, error) { return s.Write(make([]byte, 150)) })
		synctest.Wait()
		wantBytes(t, "the window allows 100", s, 100, 0)
		peer.WantHeaders("the request", 1)
		peer.WantData("a part of the body", 1, 0, 100)
		peer.WriteWindowUpdate(1, 100)
		synctest.Wait()
		wantBytes(t, "all was sent", s, 150, 0)
		wrote.Want(t, "the write")
		peer.WantData("the rest", 1, 0, 50)
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WritePaddedData(1, wire.EndStream, []byte("hello"), 3)
		synctest.Wait()
		if got := s.Stats(); got.BytesReceived != 9 || got.BytesRead != 4 {
			t.Errorf("before it is read: %+v", got)
		}
		resp, err := s.Response(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		h2test.WantBody(t, "the response", resp.Body, "hello")
		if got := resp.Stats(); got.BytesReceived != 9 || got.BytesRead != 9 || !got.Opened.IsZero() {
			t.Errorf("at the end: %+v", got)
		}
	})
}

func wantBytes(t *testing.T, reason string, s *hyper.Stream, sent, unsent int64) {
	t.Helper()
	if got := s.Stats(); got.BytesSent != sent || got.BytesUnsent != unsent {
		t.Errorf("%s: %d sent and %d unsent, want %d and %d", reason, got.BytesSent, got.BytesUnsent, sent,
			unsent)
	}
}

// While the peer does not read, the socket accepts nothing, and nothing counts as sent.
func TestStreamStatsDoNotCountWhatIsInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, client := newPeer(t, &hyper.Config{})
		peer.Handshake(wire.Setting{ID: wire.SettingInitialWindowSize, Value: 1 << 20})
		synctest.Wait()
		client.SetWriteBuffer(0)
		s, err := conn.Open(t.Context(), &hyper.Request{Method: "POST"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantBytes(t, "the socket is blocked", s, 0, 1000)
		if _, err := s.Write(make([]byte, 500)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantBytes(t, "still", s, 0, 1500)
		client.SetWriteBuffer(-1)
		synctest.Wait()
		wantBytes(t, "the socket has accepted it", s, 1500, 0)
		if _, err := s.Write(make([]byte, 7)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantBytes(t, "and more", s, 1507, 0)
	})
}

func TestStreamStatsHaveTheTimesOfEachStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{StreamTimes: true},
			wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1})
		synctest.Wait()
		first := getAsync(conn, "/1")
		peer.WantHeaders("the first", 1)
		begin := time.Now()
		second := doAsync(t.Context(), conn, &hyper.Request{Method: "POST", Body: strings.NewReader("hello")})
		synctest.Wait()
		step := func() { time.Sleep(time.Second) }
		step()
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		first.Want(t, "the first response")
		peer.WantHeaders("the second", 3)
		peer.WantBody("its body", 3, []byte("hello"))
		step()
		peer.WriteHeaders(3, 0, ":status: 200")
		resp := second.Want(t, "the response")
		step()
		peer.WriteData(3, wire.EndStream, []byte("bye"))
		h2test.WantBody(t, "the body", resp.Body, "bye")
		got := resp.Stats()
		at := func(seconds int) time.Time { return begin.Add(time.Duration(seconds) * time.Second) }
		want := hyper.StreamStats{BytesSent: 5, BytesReceived: 3, BytesRead: 3, Waited: time.Second,
			Opened: at(1), HeadersSent: at(1), RequestSent: at(1), ResponseBegan: at(2), ResponseEnded: at(3),
			Ended: at(3)}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got\n%+v\nwant\n%+v", got, want)
		}
	})
}
