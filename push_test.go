package hyper

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

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// dialPusher is dialPeer for a client that accepts pushes. A request of that client is in progress
// on stream 1.
func dialPusher(t *testing.T, policy PushPolicy) (*h2test.Peer, *Conn, *result) {
	t.Helper()
	peer, conn := dialPeer(t, &Config{Push: &policy, Authority: "own.example", WindowManager: giveBack})
	got := getAsync(conn, "/")
	peer.WantHeaders("the parent's request", 1)
	return peer, conn, got
}

// promise promises GET for path on the connection's own authority, with stream 1 as the parent.
func promise(peer *h2test.Peer, id uint32, path string) {
	peer.WritePushPromise(1, id, ":method: GET", ":scheme: http", ":authority: own.example", ":path: "+path)
}

// promisedPaths returns all that is promised until the iteration ends.
func promisedPaths(t *testing.T, resp *Response) (paths []string, pushes []*Push) {
	t.Helper()
	for push, err := range resp.Pushes(t.Context()) {
		if err != nil {
			t.Fatalf("after %q: %v", paths, err)
		}
		paths, pushes = append(paths, push.Request.Path), append(pushes, push)
	}
	return paths, pushes
}

func wantPushes(t *testing.T, conn *Conn, reason string, want int) {
	t.Helper()
	synctest.Wait()
	conn.lock()
	got := conn.streams.pushes
	conn.unlock()
	if got != want {
		t.Errorf("%s: %d pushes count, want %d", reason, got, want)
	}
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
		promise(peer, 2, "/a")
		peer.WantGoAway("push is off", 0, wire.ProtocolError)
		peer.WantClosed("so the connection is over")
		if err := got.wantErr(t, "and its streams"); !errors.Is(err, ErrCodeProtocol) {
			t.Error(err)
		}
	})
}

func TestPushPolicyAnnouncesItsLimit(t *testing.T) {
	for given, want := range map[int]uint32{0: 100, 7: 7} {
		synctest.Test(t, func(t *testing.T) {
			peer, _, _ := newPeer(t, &Config{Push: &PushPolicy{Max: given}})
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

func TestPromisesComeBeforeBetweenAndBehindTheParentsParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, got := dialPusher(t, PushPolicy{})
		promise(peer, 2, "/before")
		peer.WriteHeaders(1, 0, ":status: 200")
		promise(peer, 4, "/between")
		peer.WriteData(1, 0, []byte("parent"))
		promise(peer, 6, "/behind")
		resp := got.want(t, "the parent")
		paths := make(chan []string)
		go func() {
			p, _ := promisedPaths(t, resp)
			paths <- p
		}()
		synctest.Wait() // the iteration waits for more promises
		promise(peer, 8, "/late")
		peer.WriteData(1, wire.EndStream, nil)
		if p := <-paths; !slices.Equal(p, []string{"/before", "/between", "/behind", "/late"}) {
			t.Errorf("promised %q", p)
		}
		again, _ := promisedPaths(t, resp)
		if len(again) != 0 {
			t.Errorf("each is yielded once, and again %q", again)
		}
		wantPushes(t, conn, "claimed and not over", 4)
	})
}

func TestPushCarriesItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, _, got := dialPusher(t, PushPolicy{})
		peer.WritePushPromise(1, 2, ":path: /a?b", ":authority: own.example", ":method: HEAD",
			":scheme: http", "accept: b", "accept: a")
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		_, pushes := promisedPaths(t, got.want(t, "the parent"))
		r := pushes[0].Request
		want := Header{{Name: "accept", Value: "b"}, {Name: "accept", Value: "a"}}
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
		wantBody(t, "of HEAD", resp.Body, "")
	})
}

func TestPushIsReadBeforeOrAfterItsParent(t *testing.T) {
	for _, before := range []bool{true, false} {
		t.Run(fmt.Sprintf("before=%v", before), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn, got := dialPusher(t, PushPolicy{})
				peer.Ignore(wire.WindowUpdate)
				promise(peer, 2, "/a")
				peer.WriteHeaders(1, 0, ":status: 200")
				peer.WriteHeaders(2, 0, ":status: 103")
				peer.WriteHeaders(2, 0, ":status: 201")
				peer.WriteData(2, 0, []byte("pushed"))
				peer.WriteTrailers(2, "x-sum: 2")
				peer.WriteData(1, wire.EndStream, []byte("parent"))
				resp := got.want(t, "the parent")
				_, pushes := promisedPaths(t, resp)
				if !before {
					wantBody(t, "the parent", resp.Body, "parent")
				}
				pushed, err := pushes[0].Response(t.Context())
				if err != nil || pushed.StatusCode != 201 {
					t.Fatal(pushed, err)
				}
				wantBody(t, "the push", pushed.Body, "pushed")
				if got := pushed.Trailer().Get("x-sum"); got != "2" {
					t.Errorf("trailer %q", got)
				}
				if before {
					wantBody(t, "the parent", resp.Body, "parent")
				}
				wantPushes(t, conn, "claimed and over", 0)
				wantFullCredit(t, peer, "all was read")
			})
		})
	}
}

func TestPushBeyondTheLimitIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, got := dialPusher(t, PushPolicy{Max: 2})
		promise(peer, 2, "/claimed-and-read")
		promise(peer, 4, "/canceled")
		promise(peer, 6, "/refused")
		peer.WantRSTStream("two are under way", 6, wire.RefusedStream)
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteHeaders(2, wire.EndStream, ":status: 200")
		promise(peer, 8, "/refused")
		peer.WantRSTStream("one that is over waits to be claimed", 8, wire.RefusedStream)

		var pushes []*Push
		for push := range got.want(t, "the parent").Pushes(t.Context()) {
			if pushes = append(pushes, push); len(pushes) == 2 {
				break
			}
		}
		wantPushes(t, conn, "the first is over, and claimed now", 1)
		promise(peer, 10, "/taken")
		peer.WantIdle("a place was free")
		pushes[1].Cancel()
		peer.WantRSTStream("by the caller", 4, wire.Cancel)
		promise(peer, 12, "/taken")
		promise(peer, 14, "/refused")
		peer.WantRSTStream("two are under way again", 14, wire.RefusedStream)
		peer.WriteRSTStream(10, wire.InternalError)
		wantPushes(t, conn, "ended by the peer and not claimed", 2)
	})
}

func TestDefaultLimitIsAHundredAndAFloodIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, got := dialPusher(t, PushPolicy{})
		id := uint32(2)
		for range 100 {
			promise(peer, id, "/")
			id += 2
		}
		peer.WantIdle("100 may wait")
		for range provokedBurst {
			promise(peer, id, "/")
			id += 2
		}
		synctest.Wait()
		for refused := uint32(202); refused < id; refused += 2 {
			// The client asks whether its resets were seen when it remembers many of them.
			peer.Ignore(wire.Ping)
			peer.WantRSTStream("one more", refused, wire.RefusedStream)
		}
		promise(peer, id, "/")
		peer.WantRSTStream("the last straw", id, wire.RefusedStream)
		peer.WantGoAway("the peer does not listen", id, wire.EnhanceYourCalm)
		if err := got.wantErr(t, "the flood"); !errors.Is(err, ErrCodeEnhanceYourCalm) ||
			!errors.Is(conn.Err(), ErrCodeEnhanceYourCalm) {
			t.Error(err)
		}
	})
}

func TestFloodOfPromisesThatAcceptRefusesIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, got := dialPusher(t, PushPolicy{Accept: func(*Push) bool { return false }})
		peer.Ignore(wire.RSTStream, wire.Ping)
		for id := uint32(2); id <= 2*provokedBurst; id += 2 {
			promise(peer, id, "/")
		}
		peer.WantIdle("so many can be refused")
		promise(peer, 2*provokedBurst+2, "/")
		peer.WantGoAway("and no more", 2*provokedBurst+2, wire.EnhanceYourCalm)
		got.wantErr(t, "the flood")
		<-conn.Done()
	})
}

func TestAcceptDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		peer, conn, got := dialPusher(t, PushPolicy{Accept: func(p *Push) bool {
			asked = append(asked, fmt.Sprintf("%d %d %s", p.ID(), p.ParentID, p.Request.Path))
			return p.Request.Path == "/yes"
		}})
		promise(peer, 2, "/no")
		peer.WantRSTStream("the callback's word", 2, wire.Cancel)
		promise(peer, 4, "/yes")
		peer.WritePushPromise(1, 6, ":method: POST", ":scheme: http", ":authority: own.example",
			":path: /yes")
		peer.WantRSTStream("not for the callback to allow", 6, wire.ProtocolError)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		paths, _ := promisedPaths(t, got.want(t, "the parent"))
		if !slices.Equal(paths, []string{"/yes"}) || !slices.Equal(asked, []string{"2 1 /no", "4 1 /yes"}) {
			t.Errorf("promised %q, asked %q", paths, asked)
		}
		wantPushes(t, conn, "the one that was taken", 1)
	})
}

func TestCancelEndsAPushAtAnyStage(t *testing.T) {
	for _, c := range []struct {
		name  string
		parts func(peer *h2test.Peer)
		reset bool
	}{
		{"before its headers", func(p *h2test.Peer) {}, true},
		{"in its body", func(p *h2test.Peer) {
			p.WriteHeaders(2, 0, ":status: 200")
			p.WriteData(2, 0, make([]byte, 1000))
		}, true},
		{"after its end", func(p *h2test.Peer) {
			p.WriteHeaders(2, 0, ":status: 200")
			p.WriteData(2, wire.EndStream, make([]byte, 1000))
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn, got := dialPusher(t, PushPolicy{})
				peer.Ignore(wire.WindowUpdate)
				promise(peer, 2, "/")
				c.parts(peer)
				peer.WriteHeaders(1, wire.EndStream, ":status: 200")
				_, pushes := promisedPaths(t, got.want(t, "the parent"))
				synctest.Wait()
				pushes[0].Cancel()
				pushes[0].Cancel()
				if c.reset {
					peer.WantRSTStream("refused", 2, wire.Cancel)
				}
				peer.WantIdle("nothing else")
				if _, err := pushes[0].Response(t.Context()); !errors.Is(err, ErrCanceled) {
					t.Errorf("Response: %v", err)
				}
				if c.reset {
					peer.WriteData(2, wire.EndStream, make([]byte, 1000))
				}
				wantFullCredit(t, peer, "what it held, and what was late")
				wantPushes(t, conn, "canceled", 0)
			})
		})
	}
}

// RFC 9113 §8.4, §8.4.1, §10.1 limit what a server may promise.
func TestPromiseOutsideTheRulesIsRefusedAlone(t *testing.T) {
	const m, s, a, p = ":method: GET", ":scheme: http", ":authority: own.example", ":path: /"
	for _, c := range []struct {
		name   string
		fields []string
	}{
		{"POST", []string{":method: POST", s, a, p}},
		{"OPTIONS, safe but not cacheable", []string{":method: OPTIONS", s, a, p}},
		{"CONNECT", []string{":method: CONNECT", s, a, p}},
		{"get", []string{":method: get", s, a, p}},
		{"a body", []string{m, s, a, p, "content-length: 1"}},
		{"two lengths", []string{m, s, a, p, "content-length: 0", "content-length: 1"}},
		{"a foreign authority", []string{m, s, ":authority: foreign.example", p}},
		{"another port", []string{m, s, ":authority: own.example:81", p}},
		{"userinfo", []string{m, s, ":authority: me@own.example", p}},
		{"https over cleartext", []string{m, ":scheme: https", a, p}},
		{"a relative path", []string{m, s, a, ":path: a"}},
		{"a fragment", []string{m, s, a, ":path: /#a"}},
		{"an asterisk", []string{m, s, a, ":path: *"}},
		{"no method", []string{s, a, p}},
		{"no scheme", []string{m, a, p}},
		{"no authority", []string{m, s, p}},
		{"no path", []string{m, s, a}},
		{"no fields", nil},
		{"an empty path", []string{m, s, a, ":path: "}},
		{"two methods", []string{m, m, s, a, p}},
		{"an unknown pseudo-field", []string{m, s, a, p, ":protocol: websocket"}},
		{":status", []string{m, s, a, p, ":status: 200"}},
		{"a late pseudo-field", []string{m, s, a, "x: y", p}},
		{"a pseudo-field twice, late", []string{m, s, a, p, "x: y", p}},
		{"an upper-case name", []string{m, s, a, p, "X: y"}},
		{"a connection-specific field", []string{m, s, a, p, "connection: close"}},
		{"LF in a value", []string{m, s, a, p, "x: a\nb"}},
		{"LF in the path", []string{m, s, a, ":path: /\nx"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn, got := dialPusher(t, PushPolicy{})
				peer.WritePushPromise(1, 2, append(c.fields, "x-remember: me")...)
				peer.WantRSTStream(c.name, 2, wire.ProtocolError)
				wantPushes(t, conn, "refused", 0)
				peer.WriteHeaders(1, wire.EndStream, ":status: 200", "x-remember: me")
				resp := got.want(t, "the parent goes on")
				if resp.Header.Get("x-remember") != "me" {
					t.Error("the compression state is lost")
				}
				if paths, _ := promisedPaths(t, resp); len(paths) != 0 {
					t.Errorf("yielded %q", paths)
				}
				peer.WriteHeaders(2, wire.EndStream, ":status: 200")
				peer.WantIdle("what was under way on it is ignored")
			})
		})
	}
}

func TestPromiseWithTooManyFieldsIsRefusedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{Push: &PushPolicy{}, Authority: "own.example",
			WindowManager: giveBack, MaxHeaderListSize: 1000})
		got := getAsync(conn, "/")
		peer.WantHeaders("the parent", 1)
		peer.WritePushPromise(1, 2, ":method: GET", ":scheme: http", ":authority: own.example", ":path: /",
			"x-remember: me", "x-long: "+strings.Repeat("x", 1000))
		peer.WantRSTStream("more than 1,000 octets", 2, wire.ProtocolError)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200", "x-remember: me")
		if resp := got.want(t, "the parent goes on"); resp.Header.Get("x-remember") != "me" {
			t.Error("the compression state is lost")
		}
		wantPushes(t, conn, "none", 0)
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
				peer, _, got := dialPusher(t, PushPolicy{})
				peer.WritePushPromise(1, 2, fields...)
				peer.WriteHeaders(1, wire.EndStream, ":status: 200")
				if paths, _ := promisedPaths(t, got.want(t, "the parent")); len(paths) != 1 {
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
				if paths, _ := promisedPaths(t, got.want(t, "the parent")); len(paths) == 1 != want {
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
		if paths, _ := promisedPaths(t, got.want(t, "the parent")); len(paths) != 1 {
			t.Errorf("yielded %q", paths)
		}
	})
}

func dialPusherTLS(t *testing.T, cfg *tls.Config) (*h2test.Peer, *Conn) {
	t.Helper()
	client, server := h2test.Pipe()
	peer := h2test.NewPeer(t, tls.Server(server, h2test.ServerTLS("h2")))
	conn, err := NewConn(t.Context(), tls.Client(client, cfg),
		&Config{Push: &PushPolicy{}, WindowManager: giveBack})
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
				peer, conn, got := dialPusher(t, PushPolicy{})
				c.peer(peer)
				peer.WantGoAway(c.name, c.last, wire.ProtocolError)
				peer.WantClosed("and the end")
				<-got.done
				var ce *ConnError
				if !errors.As(conn.Err(), &ce) || ce.FromPeer || ce.Code != ErrCodeProtocol {
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
		peer, conn := dialPeer(t, &Config{Push: &PushPolicy{}, Authority: "own.example",
			WindowManager: giveBack})
		if _, err := conn.Open(t.Context(), &Request{}); err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the request stays open on our side", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		promise(peer, 2, "/")
		peer.WantGoAway("half-closed (remote)", 0, wire.ProtocolError)
	})
}

func TestPromiseOnAStreamWeResetIsCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, got := dialPusher(t, PushPolicy{})
		peer.WriteHeaders(1, 0, ":status: 200")
		got.want(t, "the parent").Body.Close()
		peer.WantRSTStream("the parent", 1, wire.Cancel)
		promise(peer, 2, "/a") // the peer did not know yet
		peer.WantRSTStream("its push", 2, wire.Cancel)
		peer.WriteHeaders(2, wire.EndStream, ":status: 200")
		peer.WantIdle("that too was under way")
		wantPushes(t, conn, "none", 0)
	})
}

func TestClosingTheParentCancelsWhatNobodyClaimed(t *testing.T) {
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprintf("whole=%v", whole), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn, got := dialPusher(t, PushPolicy{})
				peer.Ignore(wire.WindowUpdate)
				promise(peer, 2, "/claimed")
				promise(peer, 4, "/unclaimed")
				promise(peer, 6, "/unclaimed-and-empty")
				peer.WriteHeaders(1, 0, ":status: 200")
				resp := got.want(t, "the parent")
				var claimed *Push
				for push := range resp.Pushes(t.Context()) {
					claimed = push
					break
				}
				if whole {
					peer.WriteHeaders(4, 0, ":status: 200")
					peer.WriteData(4, wire.EndStream, make([]byte, 1000))
					peer.WriteHeaders(6, wire.EndStream, ":status: 200")
					synctest.Wait()
				}
				resp.Body.Close()
				peer.WantRSTStream("the parent", 1, wire.Cancel)
				if !whole {
					peer.WantRSTStream("unclaimed", 4, wire.Cancel)
					peer.WantRSTStream("unclaimed", 6, wire.Cancel)
				}
				peer.WantIdle("and not what is the caller's")
				wantPushes(t, conn, "the claimed one", 1)
				wantFullCredit(t, peer, "nothing is held")
				peer.WriteHeaders(2, 0, ":status: 200")
				peer.WriteData(2, wire.EndStream, []byte("pushed"))
				pushed, err := claimed.Response(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				wantBody(t, "which is read as ever", pushed.Body, "pushed")
				for push, err := range resp.Pushes(t.Context()) {
					if push != nil || !errors.Is(err, ErrCanceled) {
						t.Errorf("yielded %v, %v", push, err)
					}
				}
			})
		})
	}
}

func TestParentThatWeEndTakesItsUnclaimedPushesAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{Push: &PushPolicy{}, Authority: "own.example",
			WindowManager: giveBack})
		ctx, cancel := context.WithCancel(t.Context())
		got := doAsync(ctx, conn, &Request{})
		peer.WantHeaders("one parent", 1)
		promise(peer, 2, "/")
		s, _ := conn.Open(t.Context(), &Request{})
		peer.WantHeaders("another", 3)
		peer.WritePushPromise(3, 4, ":method: GET", ":scheme: http", ":authority: own.example", ":path: /")
		synctest.Wait()
		cancel()
		peer.WantRSTStream("by its context", 1, wire.Cancel)
		peer.WantRSTStream("it cannot be claimed any more", 2, wire.Cancel)
		got.wantErr(t, "canceled")
		s.Reset(ErrCodeInternal)
		peer.WantRSTStream("by its caller", 3, wire.InternalError)
		peer.WantRSTStream("it cannot be claimed any more", 4, wire.Cancel)
		wantPushes(t, conn, "none", 0)
	})
}

func TestParentThatThePeerEndsYieldsItsPromisesAndThenTheError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{Push: &PushPolicy{}, Authority: "own.example",
			WindowManager: giveBack})
		s, _ := conn.Open(t.Context(), &Request{})
		peer.WantHeaders("the parent", 1)
		promise(peer, 2, "/")
		peer.WriteRSTStream(1, wire.InternalError)
		synctest.Wait()
		var paths []string
		var last error
		for push, err := range s.Pushes(t.Context()) {
			if last = err; push != nil {
				paths = append(paths, push.Request.Path)
			}
		}
		if !slices.Equal(paths, []string{"/"}) || !errors.Is(last, ErrCodeInternal) {
			t.Errorf("yielded %q, then %v", paths, last)
		}
	})
}

func TestPushesObeysItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, _, got := dialPusher(t, PushPolicy{})
		peer.WriteHeaders(1, 0, ":status: 200")
		resp := got.want(t, "the parent")
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
		peer, conn := dialPeer(t, &Config{Push: &PushPolicy{}, Authority: "own.example",
			WindowManager: ReadWindow{Stream: 65535, Connection: 1 << 20}.New})
		got := getAsync(conn, "/")
		peer.WantHeaders("the parent", 1)
		promise(peer, 2, "/")
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
		got.want(t, "the parent goes on")
	})
}

func TestClaimedPushGetsItsManagerAndWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []string
		peer, conn := dialPeer(t, &Config{Push: &PushPolicy{}, Authority: "own.example",
			WindowManager: func(w *Window) WindowManager {
				return WindowManagerFunc(func(ev WindowEvent) int {
					if w.StreamID() != 2 {
						return 0
					}
					events = append(events, fmt.Sprint(w.Request().Path, " ", ev.Kind, " credit=", ev.Credit,
						" unread=", ev.Unread, " length=", ev.Length))
					if ev.Kind == WindowOpened {
						return 1000
					}
					return 0
				})
			}})
		got := getAsync(conn, "/")
		peer.WantHeaders("the parent", 1)
		promise(peer, 2, "/pushed")
		peer.WriteHeaders(2, 0, ":status: 200", "content-length: 110")
		peer.WriteData(2, 0, make([]byte, 100))
		peer.WriteHeaders(1, 0, ":status: 200")
		var push *Push
		for push = range got.want(t, "the parent").Pushes(t.Context()) {
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
		wantBody(t, "all of it", resp.Body, string(make([]byte, 110)))
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
		got.resp.Body.Close()
	})
}

func TestPushEndsWithPeersResetAndOutlivesGoAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, got := dialPusher(t, PushPolicy{})
		peer.Ignore(wire.WindowUpdate)
		promise(peer, 2, "/reset")
		promise(peer, 4, "/whole")
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		_, pushes := promisedPaths(t, got.want(t, "the parent"))
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
		var s *StreamError
		if string(read) != "arrived" || !errors.As(err, &s) || !s.FromPeer || s.StreamID != 2 {
			t.Errorf("read %q, %v", read, err)
		}
		second, err := pushes[1].Response(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		wantBody(t, "the other", second.Body, "whole")
		<-conn.Done()
		if !errors.Is(conn.Err(), ErrCodeNo) {
			t.Errorf("Err: %v", conn.Err())
		}
	})
}

func TestPushEndsWithTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, got := dialPusher(t, PushPolicy{})
		promise(peer, 2, "/")
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		_, pushes := promisedPaths(t, got.want(t, "the parent"))
		conn.Close()
		if _, err := pushes[0].Response(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("Response: %v", err)
		}
		pushes[0].Cancel()
	})
}

// If our SETTINGS make windows smaller while a promise is on its way, the peer uses the old size
// until it has seen them.
func TestPushPromisedBeforeASmallerWindowWasKnownMayFillTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, got := dialPusher(t, PushPolicy{})
		peer.Ignore(wire.WindowUpdate)
		updated := make(chan error)
		go func() {
			updated <- conn.UpdateSettings(t.Context(), Setting{SettingInitialWindowSize, 10})
		}()
		peer.WantFrame("a smaller window", wire.Settings)
		promise(peer, 2, "/old")
		peer.WriteHeaders(2, 0, ":status: 200")
		peer.WriteData(2, 0, make([]byte, 10000))
		peer.WriteSettingsAck()
		if err := <-updated; err != nil {
			t.Fatal(err)
		}
		peer.WantIdle("nothing is wrong")
		promise(peer, 4, "/new")
		peer.WriteHeaders(4, 0, ":status: 200")
		peer.WriteData(4, 0, make([]byte, 10))
		peer.WriteData(2, 0, make([]byte, 1))
		peer.WantRSTStream("10,000 of 10: now it knows", 2, wire.FlowControlError)
		peer.WriteData(4, 0, make([]byte, 1))
		peer.WantRSTStream("11 of 10", 4, wire.FlowControlError)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		got.want(t, "the parent").Body.Close()
	})
}
