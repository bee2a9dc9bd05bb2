package hyper

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

var errCancelCause = errors.New("the caller's own reason")

// A cancelPoint is a place where a call can wait.
type cancelPoint struct {
	name   string
	silent bool             // the peer does not even complete the handshake
	window uint32           // the peer's INITIAL_WINDOW_SIZE
	slots  uint32           // MAX_CONCURRENT_STREAMS; 0 means 100
	frames []wire.FrameType // frames that the call sends
	answer func(*h2test.Peer)
	reset  bool // cancelling it resets stream 1
	call   func(ctx context.Context, conn *Conn) error
}

func doErr(ctx context.Context, conn *Conn, req *Request) error {
	_, err := conn.Do(ctx, req)
	return err
}

// withOpen opens stream 1 with a context that never ends and calls f.
func withOpen(conn *Conn, f func(s *Stream) error) error {
	s, err := conn.Open(context.Background(), &Request{Method: "POST"})
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
			call: func(ctx context.Context, conn *Conn) error {
				return doErr(ctx, conn, &Request{Method: "CONNECT", Protocol: "websocket"})
			}},
		{name: "WaitSettings", silent: true, call: func(ctx context.Context, conn *Conn) error {
			_, err := conn.WaitSettings(ctx)
			return err
		}},
		{name: "Ping", frames: []wire.FrameType{wire.Ping},
			call: func(ctx context.Context, conn *Conn) error {
				_, err := conn.Ping(ctx)
				return err
			}},
		{name: "UpdateSettings", frames: []wire.FrameType{wire.Settings},
			call: func(ctx context.Context, conn *Conn) error {
				return conn.UpdateSettings(ctx, Setting{SettingInitialWindowSize, 1 << 21})
			}},
		{name: "a slot", slots: 1, frames: headers, call: func(ctx context.Context, conn *Conn) error {
			return withOpen(conn, func(*Stream) error { return doErr(ctx, conn, &Request{}) })
		}},
		{name: "100 for a body in memory", window: 9, frames: headers, reset: true,
			call: func(ctx context.Context, conn *Conn) error {
				return doErr(ctx, conn, expecting(strings.NewReader("0123456789")))
			}},
		{name: "100 for a body that is read", window: 9, frames: headers, reset: true,
			call: func(ctx context.Context, conn *Conn) error {
				return doErr(ctx, conn, expecting(blocked()))
			}},
		{name: "a window for a body in memory", window: 9, frames: data, reset: true,
			call: func(ctx context.Context, conn *Conn) error {
				return doErr(ctx, conn, put(strings.NewReader("0123456789")))
			}},
		{name: "a window for a body that is read", window: 9, frames: data, reset: true,
			call: func(ctx context.Context, conn *Conn) error {
				return doErr(ctx, conn, put(blocked()))
			}},
		{name: "the body's Read", window: 10, frames: data, reset: true,
			call: func(ctx context.Context, conn *Conn) error {
				return doErr(ctx, conn, put(blocked()))
			}},
		{name: "the response", frames: headers, reset: true,
			call: func(ctx context.Context, conn *Conn) error {
				return doErr(ctx, conn, &Request{})
			}},
		{name: "an opened stream's Write", frames: headers, reset: true,
			call: func(ctx context.Context, conn *Conn) error {
				s, err := conn.Open(ctx, &Request{Method: "POST"})
				if err != nil {
					return err
				}
				_, err = s.Write([]byte("x"))
				return err
			}},
		{name: "Connect", frames: headers, reset: true, call: func(ctx context.Context, conn *Conn) error {
			_, err := conn.Connect(ctx, "example.com:443", nil)
			return err
		}},
		{name: "Stream.Response", frames: headers, call: func(ctx context.Context, conn *Conn) error {
			return withOpen(conn, func(s *Stream) error {
				_, err := s.Response(ctx)
				return err
			})
		}},
		{name: "Pushes", frames: headers, call: func(ctx context.Context, conn *Conn) error {
			return withOpen(conn, func(s *Stream) error {
				for _, err := range s.Pushes(ctx) {
					return err
				}
				return nil
			})
		}},
		{name: "the response's body", frames: headers, reset: true, answer: func(peer *h2test.Peer) {
			peer.WriteHeaders(1, 0, ":status: 200")
			peer.WriteData(1, 0, []byte("a part"))
		}, call: func(ctx context.Context, conn *Conn) error {
			resp, err := conn.Do(ctx, &Request{})
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
					if Retryable(err) {
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

func cancelPeer(t *testing.T, point cancelPoint) (*h2test.Peer, *Conn) {
	t.Helper()
	peer, conn, _ := newPeer(t, &Config{KeepAlive: -1, HandshakeTimeout: -1, SettingsTimeout: -1,
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
func wantUnharmed(t *testing.T, peer *h2test.Peer, conn *Conn, point cancelPoint) {
	t.Helper()
	peer.Ignore(wire.Settings)
	if point.silent {
		peer.WriteSettings()
	}
	if point.slots > 0 {
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteRSTStream(1, wire.NoError)
	}
	conn.lock()
	next, waiting := conn.streams.nextID, conn.slots.waiting.Len()
	conn.unlock()
	got := getAsync(conn, "/next")
	peer.WantHeaders("the connection lives on", next, ":path: /next")
	peer.WriteHeaders(next, wire.EndStream, ":status: 204")
	got.want(t, "the next request")
	if waiting != 0 {
		t.Errorf("%d still wait for a slot", waiting)
	}
}

func TestContextThatIsOverSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(errCancelCause)
		_, opened := conn.Open(ctx, &Request{})
		for _, err := range []error{doErr(ctx, conn, &Request{}), opened} {
			if !errors.Is(err, context.Canceled) || !errors.Is(err, errCancelCause) {
				t.Error(err)
			}
		}
		peer.WantIdle("nothing is sent")
		getAsync(conn, "/")
		peer.WantHeaders("and no stream used", 1)
	})
}

func TestContextEndsShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.Ignore(wire.WindowUpdate)
		got := getAsync(conn, "/")
		peer.WantHeaders("a request", 1)
		ctx, cancel := context.WithCancelCause(context.Background())
		done := make(chan error)
		go func() { done <- conn.Shutdown(ctx) }()
		peer.WantGoAway("no more requests", 0, wire.NoError)
		peer.WantIdle("the stream is waited for")
		cancel(errCancelCause)
		if err := <-done; !errors.Is(err, context.Canceled) || !errors.Is(err, errCancelCause) {
			t.Error(err)
		}
		if err := got.wantErr(t, "the stream is ended"); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

// consumedWindow returns consumed bytes at once, so that the peer's credit can be compared exactly.
func consumedWindow(*Window) WindowManager { return WindowManagerFunc(WindowEvent.Consumed) }

// golang/go#16481 and similar issues: if the bytes of cancelled streams are never returned as
// credit, the connection stalls in the end.
func TestCancelledBodyReturnsTheConnectionsCredit(t *testing.T) {
	ends := map[string]func(resp *Response, cancel context.CancelFunc){
		"context":    func(_ *Response, cancel context.CancelFunc) { cancel() },
		"Body.Close": func(resp *Response, _ context.CancelFunc) { resp.Body.Close() },
		"Raw.Close":  func(resp *Response, _ context.CancelFunc) { resp.Raw().Close() },
		"Reset":      func(resp *Response, _ context.CancelFunc) { resp.Stream().Reset(ErrCodeCancel) },
		"NetConn":    func(resp *Response, _ context.CancelFunc) { resp.Stream().NetConn().Close() },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &Config{WindowManager: consumedWindow})
				peer.Ignore(wire.WindowUpdate)
				before := peer.Credit(0)
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				got := doAsync(ctx, conn, &Request{})
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: 200")
				peer.WriteData(1, 0, make([]byte, 1000))
				peer.WritePaddedData(1, 0, make([]byte, 1000), 200)
				resp := got.want(t, "the response")
				if n, err := io.ReadFull(resp.Body, make([]byte, 500)); err != nil {
					t.Errorf("%d, %v", n, err)
				}
				synctest.Wait()
				if credit := peer.Credit(0); credit != before-1500 {
					t.Errorf("credit %d while 1500 octets are held, want %d", credit, before-1500)
				}
				end(resp, cancel)
				peer.WantRSTStream("the peer is told", 1, wire.Cancel)
				peer.WantIdle("and has all its credit back")
				if credit := peer.Credit(0); credit != before {
					t.Errorf("credit %d after the reset, want %d", credit, before)
				}
				peer.WriteData(1, 0, make([]byte, 3000))
				peer.WritePaddedData(1, wire.EndStream, make([]byte, 10), 255)
				peer.WantIdle("late DATA is no error")
				if credit := peer.Credit(0); credit != before {
					t.Errorf("credit %d after late DATA, want %d", credit, before)
				}
				var first error
				for range 3 {
					n, err := resp.Body.Read(make([]byte, 10))
					if n != 0 || !errors.Is(err, ErrCodeCancel) || first != nil && err != first {
						t.Errorf("%d, %v: what was held is dropped", n, err)
					}
					first = err
				}
			})
		})
	}
}

func withTimeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// A complete response stays available to the caller: the exchange was over when its context ended.
func TestContextThatEndsAfterTheExchangeChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		ctx, cancel := context.WithCancel(context.Background())
		got := doAsync(ctx, conn, &Request{})
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, wire.EndStream, []byte("whole"))
		resp := got.want(t, "the response")
		synctest.Wait()
		cancel()
		peer.WantIdle("no reset")
		wantBody(t, "the body", resp.Body, "whole")
	})
}

// If a context ends while its call waits for a slot, the slot goes to the next call in line.
func TestCancelledWaiterLeavesItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1})
		getAsync(conn, "/first")
		peer.WantHeaders("first", 1)
		ctx, cancel := context.WithCancel(context.Background())
		second := doAsync(ctx, conn, &Request{Path: "/second"})
		synctest.Wait()
		getAsync(conn, "/third")
		synctest.Wait()
		cancel()
		second.wantErr(t, "cancelled")
		peer.WantIdle("the third waits")
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		peer.WantHeaders("the third has the slot", 3, ":path: /third")
	})
}

// A slot that is granted after the context's end, but before the waiter notices that end, goes to
// the next call.
func TestSlotGrantedToWhoHasGivenUpIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1})
		getAsync(conn, "/first")
		peer.WantHeaders("first", 1)
		ctx, cancel := context.WithCancel(context.Background())
		second := doAsync(ctx, conn, &Request{Path: "/second"})
		peer.WantIdle("the second waits")
		conn.lock()
		cancel() // the waiter wakes up and waits for mu
		conn.slots.limit++
		conn.admitLocked()
		conn.unlock()
		if err := second.wantErr(t, "cancelled"); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		getAsync(conn, "/third")
		peer.WantHeaders("the third has the slot", 3, ":path: /third")
	})
}

// The context of Stream.Response ends only that call, not the stream.
func TestContextOfResponseLeavesTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, s := openStream(t, 0)
		if _, err := s.Response(withTimeout(t, time.Second)); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		peer.WantIdle("no reset")
		streamBody(t, peer, s)
	})
}
