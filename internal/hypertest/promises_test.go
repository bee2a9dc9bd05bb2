// This file tests server push.

package hypertest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// dialPromiser is dialPeer for a client that accepts pushes. A request of that client is in
// progress on stream 1.
func dialPromiser(t *testing.T, policy hyper.PushPolicy) (*h2test.Peer, *hyper.Conn,
	*h2test.Call[*hyper.Response]) {
	t.Helper()
	peer, conn := dialPeer(t, &hyper.Config{Push: &policy, Authority: "own.example", WindowManager: giveBack})
	got := getAsync(conn, "/")
	peer.WantHeaders("the parent's request", 1)
	return peer, conn, got
}

// promisedPaths returns all that is promised until the iteration ends.
func promisedPaths(t *testing.T, resp *hyper.Response) (paths []string, pushes []*hyper.Push) {
	t.Helper()
	for push, err := range resp.Pushes(t.Context()) {
		if err != nil {
			t.Fatalf("after %q: %v", paths, err)
		}
		paths, pushes = append(paths, push.Request.Path), append(pushes, push)
	}
	return paths, pushes
}

func TestPushIsOffUnlessAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, _ := newPeer(t, nil)
		settings := peer.Handshake()
		if !slices.Contains(settings, wire.Setting{ID: wire.SettingEnablePush, Value: 0}) {
			t.Errorf("SETTINGS %v, want ENABLE_PUSH=0", settings)
		}
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		// RFC 9113 §6.6: a promise then is a connection error of type PROTOCOL_ERROR.
		h2test.Promise(peer, 2, "/a")
		peer.WantGoAway("push is off", 0, wire.ProtocolError)
		peer.WantClosed("so the connection is over")
		if err := got.WantErr(t, "and its streams"); !errors.Is(err, hyper.ErrCodeProtocol) {
			t.Error(err)
		}
	})
}

func TestPushPolicyAnnouncesItsLimit(t *testing.T) {
	for given, want := range map[int]uint32{0: 100, 7: 7} {
		synctest.Test(t, func(t *testing.T) {
			peer, _, _ := newPeer(t, &hyper.Config{Push: &hyper.PushPolicy{Max: given}})
			settings := peer.Handshake()
			if !slices.Contains(settings, wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: want}) {
				t.Errorf("SETTINGS %v, want MAX_CONCURRENT_STREAMS=%d", settings, want)
			}
			for _, s := range settings {
				if s.ID == wire.SettingEnablePush {
					t.Errorf("%v: 1 is the initial value", s)
				}
			}
		})
	}
}

func TestPushCarriesItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, _, got := dialPromiser(t, hyper.PushPolicy{})
		peer.WritePushPromise(1, 2, ":path: /a?b", ":authority: own.example", ":method: HEAD",
			":scheme: http", "accept: b", "accept: a")
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		_, pushes := promisedPaths(t, got.Want(t, "the parent"))
		r := pushes[0].Request
		want := hyper.Header{{Name: "accept", Value: "b"}, {Name: "accept", Value: "a"}}
		if r.Method != "HEAD" || r.Scheme != "http" || r.Authority != "own.example" || r.Path != "/a?b" ||
			!slices.Equal(r.Header, want) {
			t.Errorf("request %+v", r)
		}
		if pushes[0].ID() != 2 || pushes[0].ParentID != 1 {
			t.Errorf("stream %d, promised on %d", pushes[0].ID(), pushes[0].ParentID)
		}
		peer.WriteHeaders(2, wire.EndStream, ":status: 200", "content-length: 10")
		resp, err := pushes[0].Response(t.Context())
		if err != nil || resp.ContentLength != 10 || resp.Request != r || resp.StreamID != 2 {
			t.Fatalf("response %+v, %v", resp, err)
		}
		h2test.WantBody(t, "of HEAD", resp.Body, "")
	})
}

func TestDefaultLimitIsAHundredAndAFloodIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, got := dialPromiser(t, hyper.PushPolicy{})
		id := uint32(2)
		for range 100 {
			h2test.Promise(peer, id, "/")
			id += 2
		}
		peer.WantIdle("100 may wait")
		for range provokedBurst {
			h2test.Promise(peer, id, "/")
			id += 2
		}
		synctest.Wait()
		for refused := uint32(202); refused < id; refused += 2 {
			// The client asks whether its resets were seen when it remembers many of them.
			peer.Ignore(wire.Ping)
			peer.WantRSTStream("one more", refused, wire.RefusedStream)
		}
		h2test.Promise(peer, id, "/")
		peer.WantRSTStream("the last straw", id, wire.RefusedStream)
		peer.WantGoAway("the peer does not listen", id, wire.EnhanceYourCalm)
		if err := got.WantErr(t, "the flood"); !errors.Is(err, hyper.ErrCodeEnhanceYourCalm) ||
			!errors.Is(conn.Err(), hyper.ErrCodeEnhanceYourCalm) {
			t.Error(err)
		}
	})
}

func TestFloodOfPromisesThatAcceptRefusesIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, got := dialPromiser(t, hyper.PushPolicy{Accept: func(*hyper.Push) bool { return false }})
		peer.Ignore(wire.RSTStream, wire.Ping)
		for id := uint32(2); id <= 2*provokedBurst; id += 2 {
			h2test.Promise(peer, id, "/")
		}
		peer.WantIdle("so many can be refused")
		h2test.Promise(peer, 2*provokedBurst+2, "/")
		peer.WantGoAway("and no more", 2*provokedBurst+2, wire.EnhanceYourCalm)
		got.WantErr(t, "the flood")
		<-conn.Done()
	})
}

func TestPromiseWithinTheRulesIsTaken(t *testing.T) {
	for _, fields := range [][]string{
		{":method: HEAD", ":scheme: http", ":authority: own.example", ":path: /"},
		{":method: GET", ":scheme: http", ":authority: OWN.example", ":path: /"},
		{":method: GET", ":scheme: http", ":authority: own.example:80", ":path: /"},
		{":method: GET", ":scheme: http", ":authority: own.example", ":path: /", "content-length: 0"},
	} {
		t.Run(strings.Join(fields, " "), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, _, got := dialPromiser(t, hyper.PushPolicy{})
				peer.WritePushPromise(1, 2, fields...)
				peer.WriteHeaders(1, wire.EndStream, ":status: 200")
				if paths, _ := promisedPaths(t, got.Want(t, "the parent")); len(paths) != 1 {
					t.Errorf("yielded %q", paths)
				}
				peer.WantIdle("nothing is wrong")
			})
		})
	}
}

// RFC 9113 §10.1: a client must discard a push for which the server is not authoritative. The
// server's certificate covers localhost, example.com and *.example.com.
func TestPushAuthorityFollowsTheVerifiedCertificate(t *testing.T) {
	for authority, want := range map[string]bool{
		"example.com":          true,
		"example.com:443":      true,
		"www.example.com":      true,
		"localhost":            true,
		"127.0.0.1":            true,
		"example.com:444":      false,
		"www.example.com:444":  false,
		"a.b.example.com":      false,
		"example.org":          false,
		"example.com.evil.org": false,
	} {
		t.Run(authority, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPusherTLS(t, &tls.Config{RootCAs: h2test.Roots(), ServerName: "example.com",
					NextProtos: []string{"h2"}})
				got := getAsync(conn, "/")
				peer.WantHeaders("the request", 1, ":scheme: https", ":authority: example.com")
				peer.WritePushPromise(1, 2, ":method: GET", ":scheme: https", ":authority: "+authority,
					":path: /")
				if !want {
					peer.WantRSTStream("not authoritative", 2, wire.ProtocolError)
				}
				peer.WriteHeaders(1, wire.EndStream, ":status: 200")
				if paths, _ := promisedPaths(t, got.Want(t, "the parent")); len(paths) == 1 != want {
					t.Errorf("yielded %q", paths)
				}
			})
		})
	}
}

func TestPushAuthorityOfAnUnverifiedCertificateIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPusherTLS(t, &tls.Config{InsecureSkipVerify: true, ServerName: "example.com",
			NextProtos: []string{"h2"}})
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WritePushPromise(1, 2, ":method: GET", ":scheme: https", ":authority: www.example.com",
			":path: /")
		peer.WantRSTStream("any name can be written into a certificate", 2, wire.ProtocolError)
		peer.WritePushPromise(1, 4, ":method: GET", ":scheme: https", ":authority: example.com", ":path: /")
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		if paths, _ := promisedPaths(t, got.Want(t, "the parent")); len(paths) != 1 {
			t.Errorf("yielded %q", paths)
		}
	})
}

func dialPusherTLS(t *testing.T, cfg *tls.Config) (*h2test.Peer, *hyper.Conn) {
	t.Helper()
	client, server := h2test.Pipe()
	peer := h2test.NewPeer(t, tls.Server(server, h2test.ServerTLS("h2")))
	conn, err := hyper.NewConn(t.Context(), tls.Client(client, cfg),
		&hyper.Config{Push: &hyper.PushPolicy{}, WindowManager: giveBack})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	peer.Handshake()
	return peer, conn
}

// RFC 9113 §5.1.1, §6.6: a promise on the wrong stream, or of a wrong stream, is a connection error
// of type PROTOCOL_ERROR.
func TestPromiseInTheWrongPlaceEndsTheConnection(t *testing.T) {
	on := func(parent, id uint32) func(*h2test.Peer) {
		return func(p *h2test.Peer) {
			p.WritePushPromise(parent, id, ":method: GET", ":scheme: http", ":authority: own.example",
				":path: /")
		}
	}
	then := func(fs ...func(*h2test.Peer)) func(*h2test.Peer) {
		return func(p *h2test.Peer) {
			for _, f := range fs {
				f(p)
			}
		}
	}
	end := func(p *h2test.Peer) { p.WriteHeaders(1, wire.EndStream, ":status: 200") }
	for _, c := range []struct {
		name string
		last uint32
		peer func(*h2test.Peer)
	}{
		{"on an idle stream", 0, on(3, 2)},
		{"on a closed stream", 0, then(end, on(1, 2))},
		{"on a stream that the peer reset", 0, then(func(p *h2test.Peer) { p.WriteRSTStream(1, wire.Cancel) },
			on(1, 2))},
		{"on a pushed stream", 2, then(on(1, 2), on(2, 4))},
		{"of an odd stream", 0, on(1, 3)},
		{"of stream 0", 0, on(1, 0)},
		{"of the same stream again", 2, then(on(1, 2), on(1, 2))},
		{"of a lower stream", 4, then(on(1, 4), on(1, 2))},
		{"DATA on a reserved stream", 2, then(on(1, 2),
			func(p *h2test.Peer) { p.WriteData(2, 0, []byte("x")) })},
		{"WINDOW_UPDATE on a reserved stream", 2, then(on(1, 2),
			func(p *h2test.Peer) { p.WriteWindowUpdate(2, 1) })},
		{"HEADERS on a stream that was not promised", 0,
			func(p *h2test.Peer) { p.WriteHeaders(2, 0, ":status: 200") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn, got := dialPromiser(t, hyper.PushPolicy{})
				c.peer(peer)
				peer.WantGoAway(c.name, c.last, wire.ProtocolError)
				peer.WantClosed("and the end")
				<-got.Done
				var ce *hyper.ConnError
				if !errors.As(conn.Err(), &ce) || ce.FromPeer || ce.Code != hyper.ErrCodeProtocol {
					t.Errorf("Err: %v", conn.Err())
				}
			})
		})
	}
}

// RFC 9113 §6.6: a promise must be on a stream that is open for the peer. A stream that the peer
// has ended is not.
func TestPromiseBehindTheParentsEndEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{Push: &hyper.PushPolicy{}, Authority: "own.example",
			WindowManager: giveBack})
		if _, err := conn.Open(t.Context(), &hyper.Request{}); err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the request stays open on our side", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		h2test.Promise(peer, 2, "/")
		peer.WantGoAway("half-closed (remote)", 0, wire.ProtocolError)
	})
}

func TestParentThatThePeerEndsYieldsItsPromisesAndThenTheError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{Push: &hyper.PushPolicy{}, Authority: "own.example",
			WindowManager: giveBack})
		s, _ := conn.Open(t.Context(), &hyper.Request{})
		peer.WantHeaders("the parent", 1)
		h2test.Promise(peer, 2, "/")
		peer.WriteRSTStream(1, wire.InternalError)
		synctest.Wait()
		var paths []string
		var last error
		for push, err := range s.Pushes(t.Context()) {
			if last = err; push != nil {
				paths = append(paths, push.Request.Path)
			}
		}
		if !slices.Equal(paths, []string{"/"}) || !errors.Is(last, hyper.ErrCodeInternal) {
			t.Errorf("yielded %q, then %v", paths, last)
		}
	})
}

func TestPushesObeysItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, _, got := dialPromiser(t, hyper.PushPolicy{})
		peer.WriteHeaders(1, 0, ":status: 200")
		resp := got.Want(t, "the parent")
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			synctest.Wait()
			cancel()
		}()
		for push, err := range resp.Pushes(ctx) {
			if push != nil || !errors.Is(err, context.Canceled) {
				t.Errorf("yielded %v, %v", push, err)
			}
		}
		peer.WantIdle("the exchange goes on")
	})
}

func TestUnclaimedPushHoldsItsWindowAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{Push: &hyper.PushPolicy{}, Authority: "own.example",
			WindowManager: hyper.ReadWindow{Stream: 65535, Connection: 1 << 20}.New})
		got := getAsync(conn, "/")
		peer.WantHeaders("the parent", 1)
		h2test.Promise(peer, 2, "/")
		peer.WriteHeaders(2, 0, ":status: 200")
		for range 4 {
			peer.WriteData(2, 0, make([]byte, 16<<10-1))
		}
		peer.WriteData(2, 0, make([]byte, 3))
		peer.WantIdle("65,535 bytes may come, and no more are asked for")
		if n := peer.Credit(2); n != 0 {
			t.Errorf("credit %d", n)
		}
		peer.WriteData(2, 0, make([]byte, 1))
		peer.WantRSTStream("one octet too many", 2, wire.FlowControlError)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		got.Want(t, "the parent goes on")
	})
}

func TestClaimedPushGetsItsManagerAndWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []string
		peer, conn := dialPeer(t, &hyper.Config{Push: &hyper.PushPolicy{}, Authority: "own.example",
			WindowManager: func(w *hyper.Window) hyper.WindowManager {
				return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
					if w.StreamID() != 2 {
						return 0
					}
					events = append(events, fmt.Sprint(w.Request().Path, " ", ev.Kind, " credit=", ev.Credit,
						" unread=", ev.Unread, " length=", ev.Length))
					if ev.Kind == hyper.WindowOpened {
						return 1000
					}
					return 0
				})
			}})
		got := getAsync(conn, "/")
		peer.WantHeaders("the parent", 1)
		h2test.Promise(peer, 2, "/pushed")
		peer.WriteHeaders(2, 0, ":status: 200", "content-length: 110")
		peer.WriteData(2, 0, make([]byte, 100))
		peer.WriteHeaders(1, 0, ":status: 200")
		var push *hyper.Push
		for push = range got.Want(t, "the parent").Pushes(t.Context()) {
			break
		}
		if len(events) != 0 {
			t.Errorf("before it is claimed: %q", events)
		}
		resp, err := push.Response(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		peer.WantWindowUpdate("what the manager said", 2, 1000)
		peer.WriteData(2, wire.EndStream, make([]byte, 10))
		synctest.Wait()
		h2test.WantBody(t, "all of it", resp.Body, string(make([]byte, 110)))
		want := []string{
			"/pushed Opened credit=65435 unread=100 length=10",
			"/pushed Data credit=66435 unread=100 length=10", // what arrived before the push was claimed
			"/pushed Data credit=66425 unread=110 length=0",
			"/pushed Consumed credit=66425 unread=0 length=0",
			"/pushed Closed credit=66425 unread=0 length=-1",
		}
		if !slices.Equal(events, want) {
			t.Errorf("events\n%s\nwant\n%s", strings.Join(events, "\n"), strings.Join(want, "\n"))
		}
		got.Value.Body.Close()
	})
}

func TestPushEndsWithPeersResetAndOutlivesGoAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, got := dialPromiser(t, hyper.PushPolicy{})
		peer.Ignore(wire.WindowUpdate)
		h2test.Promise(peer, 2, "/reset")
		h2test.Promise(peer, 4, "/whole")
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		_, pushes := promisedPaths(t, got.Want(t, "the parent"))
		peer.WriteHeaders(2, 0, ":status: 200")
		peer.WriteData(2, 0, []byte("arrived"))
		peer.WriteRSTStream(2, wire.Cancel)
		peer.WriteGoAway(1, wire.NoError, "") // does not refer to the peer's own streams
		peer.WriteHeaders(4, 0, ":status: 200")
		peer.WriteData(4, wire.EndStream, []byte("whole"))
		first, err := pushes[0].Response(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		read, err := io.ReadAll(first.Body)
		var s *hyper.StreamError
		if string(read) != "arrived" || !errors.As(err, &s) || !s.FromPeer || s.StreamID != 2 {
			t.Errorf("read %q, %v", read, err)
		}
		second, err := pushes[1].Response(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		h2test.WantBody(t, "the other", second.Body, "whole")
		<-conn.Done()
		if !errors.Is(conn.Err(), hyper.ErrCodeNo) {
			t.Errorf("Err: %v", conn.Err())
		}
	})
}

func TestPushEndsWithTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, got := dialPromiser(t, hyper.PushPolicy{})
		h2test.Promise(peer, 2, "/")
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		_, pushes := promisedPaths(t, got.Want(t, "the parent"))
		conn.Close()
		if _, err := pushes[0].Response(t.Context()); !errors.Is(err, hyper.ErrClosed) {
			t.Errorf("Response: %v", err)
		}
		pushes[0].Cancel()
	})
}

// If our SETTINGS make windows smaller while a promise is on its way, the peer uses the old size
// until it has seen them.
func TestPushPromisedBeforeASmallerWindowWasKnownMayFillTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, got := dialPromiser(t, hyper.PushPolicy{})
		peer.Ignore(wire.WindowUpdate)
		updated := make(chan error)
		go func() {
			updated <- conn.UpdateSettings(t.Context(),
				hyper.Setting{ID: hyper.SettingInitialWindowSize, Value: 10})
		}()
		peer.WantFrame("a smaller window", wire.Settings)
		h2test.Promise(peer, 2, "/old")
		peer.WriteHeaders(2, 0, ":status: 200")
		peer.WriteData(2, 0, make([]byte, 10000))
		peer.WriteSettingsAck()
		if err := <-updated; err != nil {
			t.Fatal(err)
		}
		peer.WantIdle("nothing is wrong")
		h2test.Promise(peer, 4, "/new")
		peer.WriteHeaders(4, 0, ":status: 200")
		peer.WriteData(4, 0, make([]byte, 10))
		peer.WriteData(2, 0, make([]byte, 1))
		peer.WantRSTStream("10,000 of 10: now it knows", 2, wire.FlowControlError)
		peer.WriteData(4, 0, make([]byte, 1))
		peer.WantRSTStream("11 of 10", 4, wire.FlowControlError)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		got.Want(t, "the parent").Body.Close()
	})
}

// A promise that was read before Conn.Close and is processed after it has no effect. Its request
// was reset, so the promise is valid. The trace keeps the reader between the two.
func TestPromiseBehindCloseHasNoEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read, closed := make(chan struct{}), make(chan struct{})
		p, conn := dialPusher(t, hyper.Config{Trace: func(ev hyper.TraceEvent) {
			if ev.Kind == hyper.TraceFrame && !ev.Sent && ev.FrameType == uint8(wire.PushPromise) {
				close(read)
				<-closed
			}
		}})
		ctx, cancel := context.WithCancel(t.Context())
		doAsync(ctx, conn, &hyper.Request{})
		p.WantHeaders("the request", 1)
		cancel()
		p.WantRSTStream("the request is canceled", 1, wire.Cancel)
		p.promise(1, "/style.css")
		<-read
		go conn.Close()
		synctest.Wait()
		close(closed)
		synctest.Wait()
		if s := conn.Stats(); s.PushesPromised != 0 || s.StreamsOpen != 0 {
			t.Errorf("%+v, want no promise and no stream", s)
		}
	})
}
