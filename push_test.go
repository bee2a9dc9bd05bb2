package hyper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// dialPusher is dialPeer for a client that accepts pushes. A request of that client is in progress
// on stream 1.
func dialPusher(t *testing.T, policy PushPolicy) (*h2test.Peer, *Conn, *h2test.Call[*Response]) {
	t.Helper()
	peer, conn := dialPeer(t, &Config{Push: &policy, Authority: "own.example", WindowManager: giveBack})
	got := getAsync(conn, "/")
	peer.WantHeaders("the parent's request", 1)
	return peer, conn, got
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

func TestPromisesComeBeforeBetweenAndBehindTheParentsParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, got := dialPusher(t, PushPolicy{})
		h2test.Promise(peer, 2, "/before")
		peer.WriteHeaders(1, 0, ":status: 200")
		h2test.Promise(peer, 4, "/between")
		peer.WriteData(1, 0, []byte("parent"))
		h2test.Promise(peer, 6, "/behind")
		resp := got.Want(t, "the parent")
		paths := make(chan []string)
		go func() {
			p, _ := promisedPaths(t, resp)
			paths <- p
		}()
		synctest.Wait() // the iteration waits for more promises
		h2test.Promise(peer, 8, "/late")
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

func TestPushIsReadBeforeOrAfterItsParent(t *testing.T) {
	for _, before := range []bool{true, false} {
		t.Run(fmt.Sprintf("before=%v", before), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn, got := dialPusher(t, PushPolicy{})
				peer.Ignore(wire.WindowUpdate)
				h2test.Promise(peer, 2, "/a")
				peer.WriteHeaders(1, 0, ":status: 200")
				peer.WriteHeaders(2, 0, ":status: 103")
				peer.WriteHeaders(2, 0, ":status: 201")
				peer.WriteData(2, 0, []byte("pushed"))
				peer.WriteTrailers(2, "x-sum: 2")
				peer.WriteData(1, wire.EndStream, []byte("parent"))
				resp := got.Want(t, "the parent")
				_, pushes := promisedPaths(t, resp)
				if !before {
					h2test.WantBody(t, "the parent", resp.Body, "parent")
				}
				pushed, err := pushes[0].Response(t.Context())
				if err != nil || pushed.StatusCode != 201 {
					t.Fatal(pushed, err)
				}
				h2test.WantBody(t, "the push", pushed.Body, "pushed")
				if got := pushed.Trailer().Get("x-sum"); got != "2" {
					t.Errorf("trailer %q", got)
				}
				if before {
					h2test.WantBody(t, "the parent", resp.Body, "parent")
				}
				wantPushes(t, conn, "claimed and over", 0)
				h2test.WantFullCredit(t, peer, "all was read")
			})
		})
	}
}

func TestPushBeyondTheLimitIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, got := dialPusher(t, PushPolicy{Max: 2})
		h2test.Promise(peer, 2, "/claimed-and-read")
		h2test.Promise(peer, 4, "/canceled")
		h2test.Promise(peer, 6, "/refused")
		peer.WantRSTStream("two are under way", 6, wire.RefusedStream)
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteHeaders(2, wire.EndStream, ":status: 200")
		h2test.Promise(peer, 8, "/refused")
		peer.WantRSTStream("one that is over waits to be claimed", 8, wire.RefusedStream)

		var pushes []*Push
		for push := range got.Want(t, "the parent").Pushes(t.Context()) {
			if pushes = append(pushes, push); len(pushes) == 2 {
				break
			}
		}
		wantPushes(t, conn, "the first is over, and claimed now", 1)
		h2test.Promise(peer, 10, "/taken")
		peer.WantIdle("a place was free")
		pushes[1].Cancel()
		peer.WantRSTStream("by the caller", 4, wire.Cancel)
		h2test.Promise(peer, 12, "/taken")
		h2test.Promise(peer, 14, "/refused")
		peer.WantRSTStream("two are under way again", 14, wire.RefusedStream)
		peer.WriteRSTStream(10, wire.InternalError)
		wantPushes(t, conn, "ended by the peer and not claimed", 2)
	})
}

func TestAcceptDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		peer, conn, got := dialPusher(t, PushPolicy{Accept: func(p *Push) bool {
			asked = append(asked, fmt.Sprintf("%d %d %s", p.ID(), p.ParentID, p.Request.Path))
			return p.Request.Path == "/yes"
		}})
		h2test.Promise(peer, 2, "/no")
		peer.WantRSTStream("the callback's word", 2, wire.Cancel)
		h2test.Promise(peer, 4, "/yes")
		peer.WritePushPromise(1, 6, ":method: POST", ":scheme: http", ":authority: own.example",
			":path: /yes")
		peer.WantRSTStream("not for the callback to allow", 6, wire.ProtocolError)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		paths, _ := promisedPaths(t, got.Want(t, "the parent"))
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
				h2test.Promise(peer, 2, "/")
				c.parts(peer)
				peer.WriteHeaders(1, wire.EndStream, ":status: 200")
				_, pushes := promisedPaths(t, got.Want(t, "the parent"))
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
				h2test.WantFullCredit(t, peer, "what it held, and what was late")
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
				resp := got.Want(t, "the parent goes on")
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
		if resp := got.Want(t, "the parent goes on"); resp.Header.Get("x-remember") != "me" {
			t.Error("the compression state is lost")
		}
		wantPushes(t, conn, "none", 0)
	})
}

func TestPromiseOnAStreamWeResetIsCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, got := dialPusher(t, PushPolicy{})
		peer.WriteHeaders(1, 0, ":status: 200")
		got.Want(t, "the parent").Body.Close()
		peer.WantRSTStream("the parent", 1, wire.Cancel)
		h2test.Promise(peer, 2, "/a") // the peer did not know yet
		peer.WantRSTStream("its push", 2, wire.Cancel)
		peer.WriteHeaders(2, wire.EndStream, ":status: 200")
		peer.WantIdle("that too was under way")
		wantPushes(t, conn, "none", 0)
	})
}

func TestClosingTheParentCancelsUnclaimedPushes(t *testing.T) {
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprintf("whole=%v", whole), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn, got := dialPusher(t, PushPolicy{})
				peer.Ignore(wire.WindowUpdate)
				h2test.Promise(peer, 2, "/claimed")
				h2test.Promise(peer, 4, "/unclaimed")
				h2test.Promise(peer, 6, "/unclaimed-and-empty")
				peer.WriteHeaders(1, 0, ":status: 200")
				resp := got.Want(t, "the parent")
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
				h2test.WantFullCredit(t, peer, "nothing is held")
				peer.WriteHeaders(2, 0, ":status: 200")
				peer.WriteData(2, wire.EndStream, []byte("pushed"))
				pushed, err := claimed.Response(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				h2test.WantBody(t, "which is read as ever", pushed.Body, "pushed")
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
		h2test.Promise(peer, 2, "/")
		s, _ := conn.Open(t.Context(), &Request{})
		peer.WantHeaders("another", 3)
		peer.WritePushPromise(3, 4, ":method: GET", ":scheme: http", ":authority: own.example", ":path: /")
		synctest.Wait()
		cancel()
		peer.WantRSTStream("by its context", 1, wire.Cancel)
		peer.WantRSTStream("it cannot be claimed any more", 2, wire.Cancel)
		got.WantErr(t, "canceled")
		s.Reset(ErrCodeInternal)
		peer.WantRSTStream("by its caller", 3, wire.InternalError)
		peer.WantRSTStream("it cannot be claimed any more", 4, wire.Cancel)
		wantPushes(t, conn, "none", 0)
	})
}
