package hypertest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// Timers of a stream must end with the stream. A timer that is left would keep the stream, its
// request and its response in memory.

// wantGone requires that nothing refers to the body of the request any more. Then neither the
// request nor its stream is kept in memory.
func wantGone(t *testing.T, body weak.Pointer[bytes.Buffer]) {
	t.Helper()
	for range 5 {
		// The runtime removes stopped timers when others run.
		time.Sleep(time.Second)
		runtime.GC()
	}
	if body.Value() != nil {
		t.Error("the request is still held")
	}
}

func TestTimersEndWithTheirStream(t *testing.T) {
	hour := func() time.Time { return time.Now().Add(time.Hour) }
	wake := func(kind hyper.WindowEventKind) hyper.WindowManagerFactory {
		return func(w *hyper.Window) hyper.WindowManager {
			return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
				if ev.Kind == kind {
					w.WakeAfter(time.Hour)
				}
				return 0
			})
		}
	}
	setups := map[string]struct {
		cfg hyper.Config
		req func(req *hyper.Request)
		set func(s *hyper.Stream)
	}{
		"SetDeadline":           {set: func(s *hyper.Stream) { s.SetDeadline(hour()) }},
		"SetReadDeadline":       {set: func(s *hyper.Stream) { s.SetReadDeadline(hour()) }},
		"SetWriteDeadline":      {set: func(s *hyper.Stream) { s.SetWriteDeadline(hour()) }},
		"NetConn's SetDeadline": {set: func(s *hyper.Stream) { s.NetConn().SetDeadline(hour()) }},
		"WakeAfter": {
			req: func(req *hyper.Request) { req.WindowManager = wake(hyper.WindowOpened) },
		},
		"WakeAfter when closed": {
			req: func(req *hyper.Request) { req.WindowManager = wake(hyper.WindowClosed) },
		},
		"ExpectContinueTimeout": {cfg: hyper.Config{ExpectContinueTimeout: time.Hour},
			req: func(req *hyper.Request) {
				req.Header = hyper.Header{{Name: "expect",
					Value: "100-continue"}}
			}},
		"its context's deadline": {},
	}
	ends := map[string]func(t *testing.T, peer *h2test.Peer, conn *hyper.Conn, s *hyper.Stream){
		"a whole response": func(t *testing.T, peer *h2test.Peer, _ *hyper.Conn, s *hyper.Stream) {
			peer.WriteHeaders(s.ID(), wire.EndStream, ":status: 200")
		},
		"a body that is read": func(t *testing.T, peer *h2test.Peer, _ *hyper.Conn, s *hyper.Stream) {
			peer.WriteHeaders(s.ID(), 0, ":status: 200")
			peer.WriteData(s.ID(), wire.EndStream, []byte("body"))
			resp, err := s.Response(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
		},
		"a body that is not read": func(t *testing.T, peer *h2test.Peer, _ *hyper.Conn, s *hyper.Stream) {
			peer.WriteHeaders(s.ID(), 0, ":status: 200")
			peer.WriteData(s.ID(), wire.EndStream, []byte("body"))
		},
		"Reset": func(_ *testing.T, _ *h2test.Peer, _ *hyper.Conn,
			s *hyper.Stream) {
			s.Reset(hyper.ErrCodeCancel)
		},
		"the peer's reset": func(_ *testing.T, peer *h2test.Peer, _ *hyper.Conn, s *hyper.Stream) {
			peer.WriteRSTStream(s.ID(), wire.Cancel)
		},
		"a peer's GOAWAY": func(_ *testing.T, peer *h2test.Peer, _ *hyper.Conn, _ *hyper.Stream) {
			peer.WriteGoAway(0, wire.NoError, "")
		},
		"Close": func(_ *testing.T, _ *h2test.Peer, conn *hyper.Conn, _ *hyper.Stream) {
			conn.Close()
		},
		"a lost connection": func(_ *testing.T, peer *h2test.Peer, _ *hyper.Conn, _ *hyper.Stream) {
			peer.Close()
		},
		"a lost connection and bytes that are not read": func(t *testing.T, peer *h2test.Peer, _ *hyper.Conn,
			s *hyper.Stream) {
			peer.WriteHeaders(s.ID(), 0, ":status: 200")
			peer.WriteData(s.ID(), 0, []byte("body"))
			synctest.Wait()
			peer.Close()
		},
	}
	for name, setup := range setups {
		for how, end := range ends {
			t.Run(name+", "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					peer, conn := dialPeer(t, &setup.cfg)
					peer.Ignore(wire.Headers, wire.Data, wire.WindowUpdate, wire.RSTStream, wire.Ping)
					var held weak.Pointer[bytes.Buffer]
					ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
					defer cancel()
					func() {
						body := bytes.NewBuffer([]byte("upload"))
						held = weak.Make(body)
						req := &hyper.Request{Method: "POST", Body: body}
						if setup.req != nil {
							setup.req(req)
						}
						s, err := conn.Open(ctx, req)
						if err != nil {
							t.Fatal(err)
						}
						if setup.set != nil {
							setup.set(s)
						}
						synctest.Wait()
						end(t, peer, conn, s)
						synctest.Wait()
						if setup.set != nil { // must not start a timer on an ended stream
							setup.set(s)
						}
					}()
					wantGone(t, held)
				})
			})
		}
	}
}

// Read returns an error after its deadline even if the stream has ended and unread data is left.
func TestReadDeadlineHoldsOnAStreamThatHasEnded(t *testing.T) {
	for name, first := range map[string]bool{"set before the end": true, "set behind the end": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				s, err := conn.Open(t.Context(), &hyper.Request{})
				if err != nil {
					t.Fatal(err)
				}
				s.CloseWrite()
				if first {
					s.SetDeadline(time.Now().Add(time.Second))
				}
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: 200")
				peer.WriteData(1, wire.EndStream, []byte("body"))
				synctest.Wait()
				if !first {
					s.SetDeadline(time.Now().Add(time.Second))
				}
				resp, err := s.Response(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				if _, err := resp.Body.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("the deadline has passed: %v", err)
				}
				s.SetReadDeadline(time.Time{})
				h2test.WantBody(t, "without a deadline", resp.Body, "body")
			})
		})
	}
}

// The timers of ResponseHeaderTimeout and of the context end with the request too.
func TestResponseHeaderTimeoutLeavesNothing(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		if tr, ok := v.rt.(*hyper.Transport); ok {
			tr.ResponseHeaderTimeout = time.Hour
		}
		if tr, ok := v.rt.(*http.Transport); ok {
			tr.ResponseHeaderTimeout = time.Hour
		}
		var held weak.Pointer[bytes.Buffer]
		func() {
			body := bytes.NewBuffer([]byte("upload"))
			held = weak.Make(body)
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Hour)
			t.Cleanup(cancel)
			call := v.send(v.request("POST", "/", body).WithContext(ctx))
			peer := v.accept()
			peer.Ignore(wire.WindowUpdate)
			peer.WantHeaders("the request", 1)
			peer.WriteHeaders(1, wire.EndStream, ":status: 200")
			call.Want(t, "the response").Body.Close()
		}()
		synctest.Wait()
		wantGone(t, held)
	})
}
