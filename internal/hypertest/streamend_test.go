package hypertest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// connDoors are the ways to a Conn, whose streams a program uses directly.
var connDoors = []struct {
	door
	connect func(context.Context, dialFunc, hyper.Config) (*hyper.Conn, error)
}{
	{door{name: "Dial"}, dialTLS},
	{door{name: "NewConnTLS"}, newConnTLS},
	{door{name: "NewConnCleartext", cleartext: true}, newConn},
}

// eachConnDoor runs test once for each way to a Conn, each time in its own bubble.
func eachConnDoor(t *testing.T, cfg hyper.Config, test func(t *testing.T, peer *accepted, conn *hyper.Conn),
	settings ...wire.Setting) {
	t.Helper()
	for _, d := range connDoors {
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := &visit{door: d.door, t: t, peers: make(chan *accepted, 1)}
				call := h2test.Go(func() (*hyper.Conn, error) { return d.connect(t.Context(), v.dial, cfg) })
				peer := v.accept(settings...)
				conn := call.Want(t, "the connection")
				t.Cleanup(func() { conn.Close() })
				test(t, peer, conn)
			})
		})
	}
}

// wantOpen requires that s has not ended.
func wantOpen(t *testing.T, reason string, s *hyper.Stream, done <-chan struct{}) {
	t.Helper()
	synctest.Wait()
	if isClosed(done) || isClosed(s.Done()) {
		t.Fatalf("%s: the stream is done", reason)
	}
	if err := s.Err(); err != nil {
		t.Fatalf("%s: Err is %v", reason, err)
	}
}

// wantEnd requires that s has ended with the error want. If want is nil, it ended without one. done
// is a channel that Done returned before.
func wantEnd(t *testing.T, reason string, s *hyper.Stream, done <-chan struct{}, want error) {
	t.Helper()
	synctest.Wait()
	if !isClosed(done) || !isClosed(s.Done()) {
		t.Fatalf("%s: the stream is not done", reason)
	}
	err := s.Err()
	if (err == nil) != (want == nil) || want != nil && !errors.Is(err, want) {
		t.Fatalf("%s: Err is %v, want %v", reason, err, want)
	}
	if again := s.Err(); again != err {
		t.Fatalf("%s: Err is %v, and then %v", reason, err, again)
	}
}

// openStream opens a stream whose request the caller writes, and returns its Done with it.
func openStream(t *testing.T, peer *accepted, conn *hyper.Conn, req *hyper.Request) (*hyper.Stream,
	<-chan struct{}) {
	t.Helper()
	s, err := conn.Open(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	peer.WantHeaders("the request", s.ID())
	return s, s.Done()
}

func TestStreamIsDoneWhenBothSidesHaveEndedIt(t *testing.T) {
	for name, steps := range map[string][2]string{
		"our side first": {"ours", "the peer's"}, "the peer's side first": {"the peer's", "ours"},
	} {
		t.Run(name, func(t *testing.T) {
			eachConnDoor(t, hyper.Config{}, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
				s, done := openStream(t, peer, conn, &hyper.Request{Method: "POST"})
				wantOpen(t, "the header was sent", s, done)
				peer.WriteHeaders(1, 0, ":status: 200")
				end := map[string]func(){
					"ours": func() {
						if err := s.CloseWrite(); err != nil {
							t.Fatal(err)
						}
						peer.WantData("the end", 1, wire.EndStream, 0)
					},
					"the peer's": func() { peer.WriteData(1, wire.EndStream, []byte("unread")) },
				}
				end[steps[0]]()
				wantOpen(t, "one side has ended", s, done)
				end[steps[1]]()
				wantEnd(t, "both sides have ended", s, done, nil)

				h2test.WantBody(t, "what was received can still be read", s, "unread")
				s.Reset(hyper.ErrCodeCancel)
				wantEnd(t, "Reset has no effect any more", s, done, nil)
				conn.Close()
				wantEnd(t, "nor has Close", s, done, nil)
			})
		})
	}
}

func TestStreamEndsWithTheHeaderOfTheResponse(t *testing.T) {
	eachConnDoor(t, hyper.Config{}, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
		call := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		s := call.Want(t, "the response").Stream()
		wantEnd(t, "END_STREAM came with HEADERS", s, s.Done(), nil)
		if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("Read: %d, %v; want io.EOF", n, err)
		}
	})
}

func TestStreamEndsWithTrailers(t *testing.T) {
	eachConnDoor(t, hyper.Config{}, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
		s, done := openStream(t, peer, conn, &hyper.Request{Method: "POST"})
		if err := s.SendTrailers(hyper.Header{{Name: "a", Value: "1"}}); err != nil {
			t.Fatal(err)
		}
		peer.WriteHeaders(1, 0, ":status: 200")
		wantOpen(t, "our side has ended", s, done)
		peer.WriteTrailers(1, "b: 2")
		wantEnd(t, "the peer sent trailers", s, done, nil)
	})
}

func TestBodyThatIsClosedAfterTheEndDoesNotChangeErr(t *testing.T) {
	eachConnDoor(t, hyper.Config{}, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
		call := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		resp := call.Want(t, "the response")
		s := resp.Stream()
		done := s.Done()
		wantOpen(t, "the body is due", s, done)
		peer.WriteData(1, wire.EndStream, []byte("unread"))
		wantEnd(t, "the peer has ended the body", s, done, nil)
		resp.Body.Close()
		wantEnd(t, "the body was closed unread", s, done, nil)
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, hyper.ErrCanceled) {
			t.Errorf("Read after Close: %v", err)
		}
	})
}

func TestStreamErrNamesTheSideThatEndedTheStream(t *testing.T) {
	broken := errors.New("the caller's reason")
	type parts struct {
		peer   *accepted
		conn   *hyper.Conn
		s      *hyper.Stream
		cancel context.CancelCauseFunc
	}
	for name, row := range map[string]struct {
		end  func(p parts)
		want []error
	}{
		"the peer resets": {func(p parts) { p.peer.WriteRSTStream(1, wire.EnhanceYourCalm) },
			[]error{hyper.ErrCodeEnhanceYourCalm}},
		"the peer sends GOAWAY": {func(p parts) { p.peer.WriteGoAway(0, wire.NoError, "") },
			[]error{hyper.ErrCodeNo}},
		"the response is malformed": {func(p parts) { p.peer.WriteHeaders(1, 0, ":status: 20") },
			[]error{hyper.ErrCodeProtocol}},
		"Reset": {func(p parts) { p.s.Reset(hyper.ErrCodeInternal) },
			[]error{hyper.ErrCanceled, hyper.ErrCodeInternal}},
		"the context": {func(p parts) { p.cancel(broken) },
			[]error{context.Canceled, broken, hyper.ErrCodeCancel}},
		"Close":                  {func(p parts) { p.conn.Close() }, []error{hyper.ErrClosed}},
		"the connection is lost": {func(p parts) { p.peer.Peer.Close() }, []error{io.ErrUnexpectedEOF}},
	} {
		t.Run(name, func(t *testing.T) {
			eachConnDoor(t, hyper.Config{}, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				s, err := conn.Open(ctx, &hyper.Request{Method: "POST"})
				if err != nil {
					t.Fatal(err)
				}
				peer.WantHeaders("the request", 1)
				done := s.Done()
				wantOpen(t, "before the end", s, done)
				read := h2test.Go(func() (int, error) { return s.Read(make([]byte, 1)) })
				synctest.Wait()
				row.end(parts{peer, conn, s, cancel})
				for _, want := range row.want {
					wantEnd(t, "the stream has ended", s, done, want)
				}
				if err := read.WantErr(t, "Read"); !errors.Is(err, row.want[0]) {
					t.Errorf("Read: %v, want %v", err, row.want[0])
				}
			})
		})
	}
}

// RFC 9113 §8.1: after a complete response, a server may ask with NO_ERROR that the rest of the
// request is not sent.
func TestStreamErrAfterACompleteResponseWhoseRequestWasCut(t *testing.T) {
	eachConnDoor(t, hyper.Config{}, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
		s, done := openStream(t, peer, conn, &hyper.Request{Method: "POST"})
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, wire.EndStream, []byte("enough"))
		wantOpen(t, "our side is open", s, done)
		peer.WriteRSTStream(1, wire.NoError)
		wantEnd(t, "the peer cut the request", s, done, hyper.ErrCodeNo)
		h2test.WantBody(t, "the response is complete", s, "enough")
	})
}

// hyper itself ends the rest of a request with NO_ERROR after a complete response that is an error.
func TestStreamErrAfterAnErrorResponseThatCutsTheBody(t *testing.T) {
	eachConnDoor(t, hyper.Config{}, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
		body, more := io.Pipe()
		defer more.Close()
		s, err := conn.Open(t.Context(), &hyper.Request{Method: "POST", Body: body})
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the request", 1)
		done := s.Done()
		peer.WriteHeaders(1, wire.EndStream, ":status: 413")
		wantEnd(t, "the rest of the body is not sent", s, done, hyper.ErrCodeNo)
		peer.WantRSTStream("which the peer is told", 1, wire.NoError)
	})
}

func TestStreamErrIsTheErrorOfTheBody(t *testing.T) {
	broken := errors.New("disk error")
	eachConnDoor(t, hyper.Config{}, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
		body := io.MultiReader(strings.NewReader("part"), errorReader{broken})
		s, err := conn.Open(t.Context(), &hyper.Request{Method: "POST", Body: body})
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the request", 1)
		wantEnd(t, "the body could not be read", s, s.Done(), broken)
	})
}

// An errorReader returns an error.
type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func TestStreamReadIsTheBodyAsItWasSent(t *testing.T) {
	coded := []byte(gzipped("hello"))
	eachConnDoor(t, hyper.Config{}, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
		s, done := openStream(t, peer, conn, &hyper.Request{})
		read := h2test.Go(func() ([]byte, error) { return io.ReadAll(s) })
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		peer.WriteHeaders(1, 0, ":status: 200", "content-encoding: gzip")
		peer.WriteData(1, 0, coded[:3])
		wantOpen(t, "the body has begun", s, done)
		peer.WriteData(1, wire.EndStream, coded[3:])
		if got := read.Want(t, "the body"); !bytes.Equal(got, coded) {
			t.Errorf("read %x, want %x", got, coded)
		}
		wantEnd(t, "the body has ended", s, done, nil)
		if resp, err := s.Response(t.Context()); err != nil || resp.StatusCode != 200 {
			t.Errorf("the response after Read: %v, %v", resp, err)
		}
	})
}

func TestStreamReadAndBodyTakeTheSameBytes(t *testing.T) {
	eachConnDoor(t, hyper.Config{}, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
		call := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, wire.EndStream, []byte("abcd"))
		resp := call.Want(t, "the response")
		half := make([]byte, 2)
		if _, err := io.ReadFull(resp.Stream(), half); err != nil || string(half) != "ab" {
			t.Fatalf("the stream: %q, %v", half, err)
		}
		h2test.WantBody(t, "the rest", resp.Body, "cd")
	})
}

func TestStreamReadObeysItsDeadline(t *testing.T) {
	eachConnDoor(t, hyper.Config{}, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
		s, done := openStream(t, peer, conn, &hyper.Request{Method: "POST"})
		s.SetReadDeadline(time.Now().Add(time.Second))
		var timeout net.Error
		if _, err := s.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("Read: %v, want a timeout", err)
		}
		wantOpen(t, "a deadline does not end the stream", s, done)
	})
}

func TestStreamsOfConnectAreDone(t *testing.T) {
	for name, extended := range map[string]bool{"CONNECT": false, "extended CONNECT": true} {
		t.Run(name, func(t *testing.T) {
			eachConnDoor(t, hyper.Config{}, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
				req := &hyper.Request{Method: "CONNECT", Authority: "target.test:80"}
				if extended {
					req.Protocol = "websocket"
				}
				s, done := openStream(t, peer, conn, req)
				peer.WriteHeaders(1, 0, ":status: 200")
				peer.WriteData(1, 0, []byte("ping"))
				buf := make([]byte, 4)
				if _, err := io.ReadFull(s, buf); err != nil || string(buf) != "ping" {
					t.Fatalf("%q, %v", buf, err)
				}
				if _, err := s.Write([]byte("pong")); err != nil {
					t.Fatal(err)
				}
				peer.WriteData(1, wire.EndStream, nil)
				wantOpen(t, "the peer's side has ended", s, done)
				if err := s.NetConn().Close(); err != nil {
					t.Fatal(err)
				}
				wantEnd(t, "Close has ended our side", s, done, nil)
			}, wire.Setting{ID: wire.SettingEnableConnectProtocol, Value: 1})
		})
	}
}

func TestTunnelThatIsClosedEarlyIsDone(t *testing.T) {
	eachConnDoor(t, hyper.Config{}, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
		s, done := openStream(t, peer, conn, &hyper.Request{Method: "CONNECT", Authority: "target.test:80"})
		peer.WriteHeaders(1, 0, ":status: 200")
		synctest.Wait()
		if err := s.NetConn().Close(); err != nil {
			t.Fatal(err)
		}
		wantEnd(t, "Close resets the stream", s, done, hyper.ErrCanceled)
		peer.WantRSTStream("of Close", 1, wire.Cancel)
	})
}

func TestStreamsOfPushesAreDone(t *testing.T) {
	eachConnDoor(t, hyper.Config{Push: &hyper.PushPolicy{}, Authority: "example.com"},
		func(t *testing.T, peer *accepted, conn *hyper.Conn) {
			scheme := "https"
			if conn.TLS() == nil {
				scheme = "http"
			}
			p := &pusher{Peer: peer.Peer, scheme: scheme}
			parent, parentDone := openStream(t, peer, conn, &hyper.Request{})
			for _, path := range []string{"/whole", "/reset", "/canceled"} {
				p.promise(1, path)
			}
			pushed := map[string]*hyper.Stream{}
			pushes := map[string]*hyper.Push{}
			for id := uint32(2); id <= 6; id += 2 {
				p.WriteHeaders(id, 0, ":status: 200")
			}
			synctest.Wait()
			for push, err := range parent.Pushes(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				resp, err := push.Response(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				pushes[push.Request.Path], pushed[push.Request.Path] = push, resp.Stream()
				if len(pushed) == 3 {
					break
				}
			}
			done := map[string]<-chan struct{}{}
			for path, s := range pushed {
				done[path] = s.Done()
				wantOpen(t, path, s, done[path])
			}
			p.WriteData(2, wire.EndStream, []byte("pushed"))
			wantEnd(t, "the push has ended", pushed["/whole"], done["/whole"], nil)
			h2test.WantBody(t, "it can be read", pushed["/whole"], "pushed")
			p.WriteRSTStream(4, wire.InternalError)
			wantEnd(t, "the peer reset it", pushed["/reset"], done["/reset"], hyper.ErrCodeInternal)
			pushes["/canceled"].Cancel()
			wantEnd(t, "Cancel", pushed["/canceled"], done["/canceled"], hyper.ErrCanceled)
			wantOpen(t, "the response is not affected", parent, parentDone)
		})
}

// Done needs neither a goroutine nor memory if it is called after the end.
func TestDoneAfterTheEndAllocatesNothing(t *testing.T) {
	eachConnDoor(t, hyper.Config{}, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
		call := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		s := call.Want(t, "the response").Stream()
		if h2test.Race {
			t.Skip("the race detector allocates, too")
		}
		if n := testing.AllocsPerRun(100, func() { <-s.Done() }); n != 0 {
			t.Errorf("%v allocations", n)
		}
		if n := testing.AllocsPerRun(100, func() { s.Err() }); n != 0 {
			t.Errorf("Err: %v allocations", n)
		}
	})
}
