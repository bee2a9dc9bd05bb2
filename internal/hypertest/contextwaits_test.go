// This file tests that the end of a context ends every wait.

package hypertest

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A cancelPoint is a place where a call can wait.
type cancelPoint struct {
	name   string
	silent bool             // the peer does not even complete the handshake
	window uint32           // the peer's INITIAL_WINDOW_SIZE
	slots  uint32           // MAX_CONCURRENT_STREAMS; 0 means 100
	frames []wire.FrameType // frames that the call sends
	answer func(*h2test.Peer)
	reset  bool // cancelling it resets stream 1
	call   func(ctx context.Context, conn *hyper.Conn) error
}

// withOpen opens stream 1 with a context that never ends and calls f.
func withOpen(conn *hyper.Conn, f func(s *hyper.Stream) error) error {
	s, err := conn.Open(context.Background(), &hyper.Request{Method: "POST"})
	if err != nil {
		return err
	}
	return f(s)
}

func cancelPoints() []cancelPoint {
	headers, data := []wire.FrameType{wire.Headers}, []wire.FrameType{wire.Headers, wire.Data}
	blocked := func() io.Reader { return newUploadBody("0123456789", true) }
	return []cancelPoint{
		{name: "extended CONNECT waits for SETTINGS", silent: true,
			call: func(ctx context.Context, conn *hyper.Conn) error {
				return doErr(ctx, conn, &hyper.Request{Method: "CONNECT", Protocol: "websocket"})
			}},
		{name: "WaitSettings", silent: true, call: func(ctx context.Context, conn *hyper.Conn) error {
			_, err := conn.WaitSettings(ctx)
			return err
		}},
		{name: "Ping", frames: []wire.FrameType{wire.Ping},
			call: func(ctx context.Context, conn *hyper.Conn) error {
				_, err := conn.Ping(ctx)
				return err
			}},
		{name: "UpdateSettings", frames: []wire.FrameType{wire.Settings},
			call: func(ctx context.Context, conn *hyper.Conn) error {
				return conn.UpdateSettings(ctx,
					hyper.Setting{ID: hyper.SettingInitialWindowSize, Value: 1 << 21})
			}},
		{name: "a slot", slots: 1, frames: headers, call: func(ctx context.Context, conn *hyper.Conn) error {
			return withOpen(conn, func(*hyper.Stream) error { return doErr(ctx, conn, &hyper.Request{}) })
		}},
		{name: "100 for a body in memory", window: 9, frames: headers, reset: true,
			call: func(ctx context.Context, conn *hyper.Conn) error {
				return doErr(ctx, conn, continuing(strings.NewReader("0123456789")))
			}},
		{name: "100 for a body that is read", window: 9, frames: headers, reset: true,
			call: func(ctx context.Context, conn *hyper.Conn) error {
				return doErr(ctx, conn, continuing(blocked()))
			}},
		{name: "a window for a body in memory", window: 9, frames: data, reset: true,
			call: func(ctx context.Context, conn *hyper.Conn) error {
				return doErr(ctx, conn, put(strings.NewReader("0123456789")))
			}},
		{name: "a window for a body that is read", window: 9, frames: data, reset: true,
			call: func(ctx context.Context, conn *hyper.Conn) error {
				return doErr(ctx, conn, put(blocked()))
			}},
		{name: "the body's Read", window: 10, frames: data, reset: true,
			call: func(ctx context.Context, conn *hyper.Conn) error {
				return doErr(ctx, conn, put(blocked()))
			}},
		{name: "the response", frames: headers, reset: true,
			call: func(ctx context.Context, conn *hyper.Conn) error {
				return doErr(ctx, conn, &hyper.Request{})
			}},
		{name: "an opened stream's Write", frames: headers, reset: true,
			call: func(ctx context.Context, conn *hyper.Conn) error {
				s, err := conn.Open(ctx, &hyper.Request{Method: "POST"})
				if err != nil {
					return err
				}
				_, err = s.Write([]byte("x"))
				return err
			}},
		{name: "Connect", frames: headers, reset: true,
			call: func(ctx context.Context, conn *hyper.Conn) error {
				_, err := conn.Connect(ctx, "example.com:443", nil)
				return err
			}},
		{name: "Stream.Response", frames: headers, call: func(ctx context.Context, conn *hyper.Conn) error {
			return withOpen(conn, func(s *hyper.Stream) error {
				_, err := s.Response(ctx)
				return err
			})
		}},
		{name: "Pushes", frames: headers, call: func(ctx context.Context, conn *hyper.Conn) error {
			return withOpen(conn, func(s *hyper.Stream) error {
				for _, err := range s.Pushes(ctx) {
					return err
				}
				return nil
			})
		}},
		{name: "the response's body", frames: headers, reset: true, answer: func(peer *h2test.Peer) {
			peer.WriteHeaders(1, 0, ":status: 200")
			peer.WriteData(1, 0, []byte("a part"))
		}, call: func(ctx context.Context, conn *hyper.Conn) error {
			resp, err := conn.Do(ctx, &hyper.Request{})
			if err != nil {
				return err
			}
			_, err = io.ReadAll(resp.Body)
			return err
		}},
	}
}

// Each wait ends at once with the context's error and its cause. The peer is told where that is
// necessary.
func TestContextEndsEveryWait(t *testing.T) {
	endings := map[string]struct {
		with   func() (context.Context, func())
		target error
		after  time.Duration
	}{
		"cancelled": {func() (context.Context, func()) {
			ctx, cancel := context.WithCancelCause(context.Background())
			return ctx, func() { cancel(errCancelCause) }
		}, context.Canceled, 0},
		"timed out": {func() (context.Context, func()) {
			ctx, cancel := context.WithTimeoutCause(context.Background(), 5*time.Second, errCancelCause)
			context.AfterFunc(ctx, cancel)
			return ctx, func() {}
		}, context.DeadlineExceeded, 5 * time.Second},
	}
	for _, point := range cancelPoints() {
		for name, ending := range endings {
			t.Run(point.name+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					peer, conn := cancelPeer(t, point)
					start := time.Now()
					ctx, end := ending.with()
					errs := make(chan error)
					go func() { errs <- point.call(ctx, conn) }()
					for _, frame := range point.frames {
						peer.WantFrame(point.name, frame)
					}
					if point.answer != nil {
						point.answer(peer)
					}
					peer.WantIdle("the call waits")
					end()
					err := <-errs
					if !errors.Is(err, ending.target) || !errors.Is(err, errCancelCause) {
						t.Errorf("%v, want %v and its cause", err, ending.target)
					}
					if d := time.Since(start); d != ending.after {
						t.Errorf("it took %v", d)
					}
					if hyper.Retryable(err) {
						t.Errorf("%v is retryable: the caller has given up", err)
					}
					if point.reset {
						peer.WantRSTStream("the peer is told", 1, wire.Cancel)
					}
					peer.WantIdle("and nothing else")
					wantUnharmed(t, peer, conn, point)
				})
			})
		}
	}
}

func cancelPeer(t *testing.T, point cancelPoint) (*h2test.Peer, *hyper.Conn) {
	t.Helper()
	peer, conn, _ := newPeer(t, &hyper.Config{KeepAlive: -1, HandshakeTimeout: -1, SettingsTimeout: -1,
		ExpectContinueTimeout: -1})
	peer.Ignore(wire.WindowUpdate)
	if point.silent {
		time.Sleep(corkDelay)
		peer.WantPreface("the preface")
		return peer, conn
	}
	slots := point.slots
	if slots == 0 {
		slots = 100
	}
	peer.Handshake(
		wire.Setting{ID: wire.SettingInitialWindowSize, Value: point.window},
		wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: slots},
	)
	return peer, conn
}

// wantUnharmed requires that one more request succeeds.
func wantUnharmed(t *testing.T, peer *h2test.Peer, conn *hyper.Conn, point cancelPoint) {
	t.Helper()
	peer.Ignore(wire.Settings)
	if point.silent {
		peer.WriteSettings()
	}
	if point.slots > 0 {
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteRSTStream(1, wire.NoError)
	}
	waiting, next := conn.Stats().Waiting, uint32(1)
	if slices.Contains(point.frames, wire.Headers) {
		next = 3
	}
	got := getAsync(conn, "/next")
	peer.WantHeaders("the connection lives on", next, ":path: /next")
	peer.WriteHeaders(next, wire.EndStream, ":status: 204")
	got.Want(t, "the next request")
	if waiting != 0 {
		t.Errorf("%d still wait for a slot", waiting)
	}
}

// continuing returns a request with Expect: 100-continue (RFC 9110 §10.1.1).
func continuing(body io.Reader) *hyper.Request {
	r := put(body)
	r.Header.Add("Expect", "100-Continue")
	return r
}
