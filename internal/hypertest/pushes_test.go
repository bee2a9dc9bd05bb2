package hypertest

import (
	"context"
	"errors"
	"fmt"
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

// A pusher is a peer that sends pushes.
type pusher struct {
	*h2test.Peer
	scheme string
	last   uint32 // the stream that was promised last
}

// promise sends a PUSH_PROMISE of GET for path and returns the promised stream.
func (p *pusher) promise(parent uint32, path string) uint32 {
	p.last += 2
	p.WritePushPromise(parent, p.last, ":method: GET", ":scheme: "+p.scheme, ":authority: example.com",
		":path: "+path)
	return p.last
}

// whole sends a PUSH_PROMISE and a complete response with body.
func (p *pusher) whole(parent uint32, path, body string) uint32 {
	id := p.promise(parent, path)
	p.WriteHeaders(id, 0, ":status: 200")
	for len(body) > 16384 {
		p.WriteData(id, 0, []byte(body[:16384]))
		body = body[16384:]
	}
	p.WriteData(id, wire.EndStream, []byte(body))
	return id
}

// dialPusher returns a cleartext connection that accepts pushes, and its peer.
func dialPusher(t *testing.T, cfg hyper.Config) (*pusher, *hyper.Conn) {
	t.Helper()
	cfg.Authority = "example.com"
	if cfg.Push == nil {
		cfg.Push = &hyper.PushPolicy{}
	}
	peer, conn := dialPeer(t, &cfg)
	peer.Ignore(wire.WindowUpdate, wire.Ping)
	return &pusher{Peer: peer, scheme: "http"}, conn
}

// get sends a request and returns the response, of which only the header has arrived. promise is
// called before the header is sent.
func (p *pusher) get(t *testing.T, conn *hyper.Conn, id uint32, promise func()) *hyper.Response {
	t.Helper()
	call := getAsync(conn, "/")
	p.WantHeaders("the request", id)
	promise()
	p.WriteHeaders(id, 0, ":status: 200")
	return call.Want(t, "the response")
}

// readToItsEnd sends the body of the response and reads it.
func (p *pusher) readToItsEnd(t *testing.T, resp *hyper.Response) {
	t.Helper()
	p.WriteData(resp.StreamID, wire.EndStream, []byte("parent"))
	h2test.WantBody(t, "the response", resp.Body, "parent")
}

// claim reads all pushes of resp that are available. It returns their paths and bodies, and the
// error at the end.
func claim(t *testing.T, resp *hyper.Response) (claimed []string, last error) {
	t.Helper()
	for push, err := range resp.Pushes(t.Context()) {
		if err != nil {
			return claimed, err
		}
		text := push.Request.Path
		var reset *hyper.StreamError
		if pushed, err := push.Response(t.Context()); errors.As(err, &reset) {
			text += " reset " + reset.Code.String()
		} else if err != nil {
			text += " " + err.Error()
		} else if body, err := io.ReadAll(pushed.Body); err != nil {
			text += " " + err.Error()
		} else {
			text += " " + string(body)
		}
		claimed = append(claimed, text)
	}
	return claimed, nil
}

// wantClaimed requires that exactly the pushes want can be claimed.
func wantClaimed(t *testing.T, reason string, resp *hyper.Response, want ...string) {
	t.Helper()
	if got, err := claim(t, resp); err != nil || !slices.Equal(got, want) {
		t.Errorf("%s: claimed %q, %v, want %q", reason, got, err, want)
	}
}

// wantLost requires the pushes want and then a PushLostError with these numbers.
func wantLost(t *testing.T, reason string, resp *hyper.Response, refused, dropped int, want ...string) {
	t.Helper()
	got, err := claim(t, resp)
	var lost *hyper.PushLostError
	if !errors.As(err, &lost) || *lost != (hyper.PushLostError{StreamID: resp.StreamID, Refused: refused,
		Dropped: dropped}) || !slices.Equal(got, want) {
		t.Errorf("%s: claimed %q, %v, want %q and %d refused, %d dropped", reason, got, err, want, refused,
			dropped)
	}
}

// This is the order in the guide of Python's hyper: read the response, close it, and then look at
// the pushes.
func TestPushesCanBeClaimedAfterTheBodyWasReadAndClosed(t *testing.T) {
	for _, body := range []string{"parent", ""} {
		for _, closed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%q, closed=%v", body, closed), func(t *testing.T) {
				eachDoor(t, hyper.Config{Authority: "example.com", Push: &hyper.PushPolicy{}},
					func(t *testing.T, v *visit) {
						call := v.get("/")
						accepted := v.accept()
						accepted.Ignore(wire.WindowUpdate)
						peer := &pusher{Peer: accepted.Peer, scheme: "https"}
						if v.cleartext {
							peer.scheme = "http"
						}
						v.wantGet(accepted, 1)
						peer.whole(1, "/whole", "pushed")
						late := peer.promise(1, "/late")
						peer.WriteHeaders(1, 0, ":status: 200")
						peer.WriteData(1, wire.EndStream, []byte(body))
						resp := call.Want(t, "the response")
						h2test.WantBody(t, "the response", resp.Body, body)
						if closed {
							resp.Body.Close()
						}
						peer.WantIdle("promises stay")
						peer.WriteHeaders(late, 0, ":status: 200")
						peer.WriteData(late, wire.EndStream, []byte("also"))
						own, ok := hyper.ResponseFromHTTP(resp)
						if !ok {
							t.Fatal("no response of hyper's own")
						}
						wantClaimed(t, "after the end", own, "/whole pushed", "/late also")
						wantClaimed(t, "each once", own)
					})
			})
		}
	}
}

func TestPushesOutliveACloseWhileTheUploadGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPusher(t, hyper.Config{})
		stream, err := conn.Open(t.Context(), &hyper.Request{Method: "POST"})
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("an upload", 1)
		peer.whole(1, "/a", "pushed")
		peer.WriteHeaders(1, 0, ":status: 200")
		resp, err := stream.Response(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		peer.readToItsEnd(t, resp)
		resp.Body.Close()
		peer.WantRSTStream("the upload is not wanted any more", 1, wire.Cancel)
		resp.Body.Close()
		wantClaimed(t, "the response had come to its end", resp, "/a pushed")
	})
}

func TestResetAndContextAfterTheEndLeavePushesAsTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPusher(t, hyper.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		call := doAsync(ctx, conn, &hyper.Request{})
		peer.WantHeaders("the request", 1)
		peer.whole(1, "/a", "pushed")
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, wire.EndStream, []byte("parent"))
		resp := call.Want(t, "the response")
		synctest.Wait()
		cancel()
		resp.Stream().Reset(hyper.ErrCodeCancel)
		synctest.Wait()
		h2test.WantBody(t, "a stream that has ended stays as it is", resp.Body, "parent")
		wantClaimed(t, "and its promises", resp, "/a pushed")
	})
}

func TestClosingABodyThatWasNotReadIsAnErrorOfPushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPusher(t, hyper.Config{})
		resp := peer.get(t, conn, 1, func() { peer.promise(1, "/a") })
		peer.WriteData(1, wire.EndStream, []byte("parent"))
		synctest.Wait()
		resp.Body.Close()
		peer.WantRSTStream("its promise", 2, wire.Cancel)
		if got, err := claim(t, resp); len(got) > 0 || !errors.Is(err, hyper.ErrCanceled) {
			t.Errorf("claimed %q, %v", got, err)
		}
	})
}

func TestRefusedPushIsAnErrorOfPushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPusher(t, hyper.Config{Push: &hyper.PushPolicy{Max: 2}})
		resp := peer.get(t, conn, 1, func() {
			peer.whole(1, "/a", "a")
			peer.whole(1, "/b", "b")
			peer.promise(1, "/c")
			peer.WantRSTStream("the response goes on: nothing is given up for it", 6, wire.RefusedStream)
		})
		peer.readToItsEnd(t, resp)
		wantLost(t, "two had room", resp, 1, 0, "/a a", "/b b")
		wantLost(t, "the error stays", resp, 1, 0)
	})
}

// If a program never claims pushes, its connection does not end, and later responses still get
// their pushes.
func TestUnclaimedPushesOfEndedResponsesMakeRoomForNewOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPusher(t, hyper.Config{Push: &hyper.PushPolicy{Max: 3}})
		peer.Ignore(wire.RSTStream)
		var responses []*hyper.Response
		const number = 1200 // more resets than a peer may cause
		for i := range uint32(number) {
			resp := peer.get(t, conn, 2*i+1, func() {
				peer.whole(2*i+1, "/whole", "pushed")
				peer.promise(2*i+1, "/open")
			})
			peer.readToItsEnd(t, resp)
			responses = append(responses, resp)
		}
		peer.WriteRSTStream(peer.last-4, wire.InternalError)
		peer.WriteHeaders(peer.last, 0, ":status: 200")
		peer.WriteData(peer.last, wire.EndStream, []byte("late"))
		synctest.Wait()
		if err := conn.Err(); err != nil {
			t.Fatal(err)
		}
		wantLost(t, "the first", responses[0], 0, 2)
		wantLost(t, "the last but one: three have room", responses[number-2], 0, 1,
			"/open reset INTERNAL_ERROR")
		wantClaimed(t, "the last", responses[number-1], "/whole pushed", "/open late")
	})
}

func TestUnclaimedPushesEndAMinuteAfterTheirResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPusher(t, hyper.Config{KeepAlive: -1})
		read := peer.get(t, conn, 1, func() {
			peer.whole(1, "/whole", "pushed")
			peer.promise(1, "/open")
		})
		unread := peer.get(t, conn, 3, func() { peer.promise(3, "/open") })
		peer.WriteData(3, wire.EndStream, []byte("parent"))
		peer.readToItsEnd(t, read)
		synctest.Wait()
		time.Sleep(40 * time.Second)
		if _, err := io.ReadFull(unread.Body, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(19 * time.Second)
		peer.WantIdle("they may be claimed")
		time.Sleep(time.Second)
		peer.WantRSTStream("its time is over", 4, wire.Cancel)
		wantLost(t, "read a minute ago", read, 0, 2)
		time.Sleep(39 * time.Second)
		peer.WantIdle("the other was read later")
		time.Sleep(time.Second)
		peer.WantRSTStream("its time is over, too", 6, wire.Cancel)
		h2test.WantBody(t, "what was not read is there", unread.Body, "ent")
		wantLost(t, "read later", unread, 0, 1)
		if n := conn.Stats().StreamsOpen; n != 0 {
			t.Errorf("%d streams are open", n)
		}
		time.Sleep(time.Hour)
		peer.WantIdle("that was all")
	})
}

func TestPromisesOfAResponseThatGoesOnHaveNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPusher(t, hyper.Config{KeepAlive: -1})
		resp := peer.get(t, conn, 1, func() { peer.whole(1, "/a", "pushed") })
		time.Sleep(time.Hour)
		peer.WantIdle("the response goes on")
		peer.readToItsEnd(t, resp)
		wantClaimed(t, "an hour later", resp, "/a pushed")
	})
}

func TestUnclaimedPushesHoldEightMiBAtMost(t *testing.T) {
	const number, size, room = 10, 1 << 20, 7 // 7 pushes of slightly more than 1 MiB fit into 8 MiB
	cfg := hyper.Config{
		Push: &hyper.PushPolicy{Max: 1000}, InitialStreamWindow: size,
		WindowManager: hyper.ReadWindow{Stream: size, Connection: 64 << 20}.New,
	}
	for _, ended := range []bool{true, false} {
		t.Run(fmt.Sprintf("ended=%v", ended), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPusher(t, cfg)
				body := strings.Repeat("b", size)
				if !ended {
					resp := peer.get(t, conn, 1, func() {
						for range room {
							peer.whole(1, "/", body)
						}
						peer.WantIdle("so much may wait")
						id := peer.promise(1, "/")
						peer.WriteHeaders(id, 0, ":status: 200")
						for range size / 16384 {
							peer.WriteData(id, 0, []byte(body[:16384]))
						}
						peer.WantRSTStream("no more while the response goes on", id, wire.Cancel)
					})
					peer.readToItsEnd(t, resp)
					wantLost(t, "those that had room", resp, 0, 1,
						slices.Repeat([]string{"/ " + body}, room)...)
					return
				}
				var responses []*hyper.Response
				for i := range uint32(number) {
					resp := peer.get(t, conn, 2*i+1, func() { peer.whole(2*i+1, "/", body) })
					peer.readToItsEnd(t, resp)
					responses = append(responses, resp)
				}
				for i, resp := range responses {
					if i < number-room {
						wantLost(t, fmt.Sprint("response ", i), resp, 0, 1)
					} else {
						wantClaimed(t, fmt.Sprint("response ", i), resp, "/ "+body)
					}
				}
			})
		})
	}
}

// The limit of memory includes fields: those of the promise, of the pushed response and of its
// trailers.
func TestFieldsOfUnclaimedPushesCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPusher(t, hyper.Config{})
		peer.Ignore(wire.RSTStream)
		large := "x: " + strings.Repeat("v", 200<<10)
		var first *hyper.Response
		for i := range uint32(14) { // of 600 KiB each
			resp := peer.get(t, conn, 2*i+1, func() {
				peer.last += 2
				peer.WritePushPromise(2*i+1, peer.last, ":method: GET", ":scheme: http",
					":authority: example.com", ":path: /", large)
				peer.WriteHeaders(peer.last, 0, ":status: 200", large)
				peer.WriteTrailers(peer.last, large)
			})
			peer.readToItsEnd(t, resp)
			if first == nil {
				first = resp
			}
		}
		wantLost(t, "8.4 MiB of fields are too much", first, 0, 1)
	})
}

func TestShutdownDoesNotWaitForUnclaimedPushes(t *testing.T) {
	for _, read := range []bool{true, false} {
		t.Run(fmt.Sprintf("read=%v", read), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPusher(t, hyper.Config{KeepAlive: -1})
				resp := peer.get(t, conn, 1, func() {
					peer.whole(1, "/whole", "pushed")
					peer.promise(1, "/never")
				})
				if read {
					peer.readToItsEnd(t, resp)
				} else {
					peer.WriteData(1, wire.EndStream, []byte("parent"))
				}
				synctest.Wait()
				start := time.Now()
				if err := conn.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
				if took := time.Since(start); took > time.Minute+time.Second {
					t.Errorf("it took %v", took)
				}
				wantLost(t, "after a minute", resp, 0, 2)
			})
		})
	}
}

func TestPushesAfterTheConnectionIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPusher(t, hyper.Config{})
		resp := peer.get(t, conn, 1, func() {
			peer.whole(1, "/whole", "pushed")
			peer.promise(1, "/open")
		})
		peer.readToItsEnd(t, resp)
		peer.Close()
		<-conn.Done()
		time.Sleep(time.Hour) // pushes that had arrived belong to the response now
		got, err := claim(t, resp)
		if err != nil || len(got) != 2 || got[0] != "/whole pushed" ||
			!strings.Contains(got[1], "connection") {
			t.Errorf("claimed %q, %v", got, err)
		}
	})
}

func TestPushesAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPusher(t, hyper.Config{})
		resp := peer.get(t, conn, 1, func() { peer.whole(1, "/whole", "pushed") })
		peer.readToItsEnd(t, resp)
		conn.Close()
		if got, err := claim(t, resp); len(got) > 0 || !errors.Is(err, hyper.ErrClosed) {
			t.Errorf("claimed %q, %v", got, err)
		}
	})
}

func TestPushesAfterGoAwayCanBeClaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPusher(t, hyper.Config{})
		var late uint32
		resp := peer.get(t, conn, 1, func() {
			peer.whole(1, "/whole", "pushed")
			late = peer.promise(1, "/late")
		})
		peer.WriteGoAway(1, wire.NoError, "")
		peer.readToItsEnd(t, resp)
		peer.WriteHeaders(late, 0, ":status: 200")
		peer.WriteData(late, wire.EndStream, []byte("late"))
		<-conn.Done()
		wantClaimed(t, "all had come", resp, "/whole pushed", "/late late")
	})
}
