package hyper

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// openStream opens stream 1 with a send window of that many bytes.
func openStream(t *testing.T, window uint32) (*h2test.Peer, *Stream) {
	t.Helper()
	peer, conn := dialPeer(t, &Config{KeepAlive: -1},
		wire.Setting{ID: wire.SettingInitialWindowSize, Value: window})
	s, err := conn.Open(context.Background(), &Request{Method: "POST"})
	if err != nil {
		t.Fatal(err)
	}
	if h := peer.WantHeaders("the stream", 1); h.EndStream {
		t.Error("END_STREAM on an open stream")
	}
	return peer, s
}

// streamBody responds with status 200 and returns the body.
func streamBody(t *testing.T, peer *h2test.Peer, s *Stream) io.ReadCloser {
	t.Helper()
	peer.WriteHeaders(s.ID(), 0, ":status: 200")
	resp, err := s.Response(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return resp.Body
}

// Each call must obey a deadline that is set, changed and removed.
func TestDeadlines(t *testing.T) {
	calls := map[string]struct {
		set  func(*Stream, time.Time)
		call func(*Stream) error
	}{
		"Write": {(*Stream).SetWriteDeadline,
			func(s *Stream) error { _, err := s.Write([]byte("x")); return err }},
		"Write by both": {(*Stream).SetDeadline,
			func(s *Stream) error { _, err := s.Write([]byte("x")); return err }},
		"Body.Read": {(*Stream).SetReadDeadline,
			func(s *Stream) error { _, err := s.response.Body.Read(make([]byte, 1)); return err }},
		"Body.Read by both": {(*Stream).SetDeadline,
			func(s *Stream) error { _, err := s.response.Body.Read(make([]byte, 1)); return err }},
	}
	for name, test := range calls {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, s := openStream(t, 0)
				streamBody(t, peer, s)
				wantTimeout := func(reason string, d time.Duration) {
					t.Helper()
					start := time.Now()
					err := test.call(s)
					var timeout interface{ Timeout() bool }
					if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) ||
						!timeout.Timeout() || time.Since(start) != d {
						t.Errorf("%s: %v after %v, want a timeout after %v", reason, err, time.Since(start),
							d)
					}
				}
				in := func(d time.Duration) { test.set(s, time.Now().Add(d)) }
				in(-time.Second)
				wantTimeout("past", 0)
				wantTimeout("past, again", 0)
				in(time.Second)
				wantTimeout("future", time.Second)
				wantTimeout("future, passed", 0)
				in(time.Second)
				in(time.Hour)
				time.AfterFunc(time.Minute, func() { in(time.Second) })
				wantTimeout("moved while a call waits", time.Minute+time.Second)
				in(time.Hour)
				time.AfterFunc(time.Minute, func() { in(-1) })
				wantTimeout("moved into the past while a call waits", time.Minute)
				in(time.Second)
				test.set(s, time.Time{})
				time.AfterFunc(time.Minute, func() {
					peer.WriteWindowUpdate(1, 1)
					peer.WriteData(1, 0, []byte("x"))
				})
				if err := test.call(s); err != nil {
					t.Errorf("cleared: %v", err)
				}
			})
		})
	}
}
