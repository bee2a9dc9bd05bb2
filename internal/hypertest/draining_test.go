package hypertest

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// eachConn runs test at each door that has a single connection. It starts a request and passes its
// connection to test.
func eachConn(
	t *testing.T, test func(t *testing.T, peer *accepted, conn *hyper.Conn, call *httpCall),
) {
	t.Helper()
	for _, d := range doors {
		if strings.Contains(d.name, "Transport") || d.name == "Open" {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := visitDoor(t, d, hyper.Config{})
				call := v.get("/")
				peer := v.accept()
				peer.WantHeaders("the request", 1)
				test(t, peer, v.rt.(*ownConn).conn, call)
			})
		})
	}
}

// isClosed reports whether c is closed when all goroutines are idle.
func isClosed(c <-chan struct{}) bool {
	synctest.Wait()
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// The channel of Draining is closed by every cause that stops a connection from taking requests.
// This holds whether Draining was called before or after, and even if open streams continue.
func TestDrainingIsClosedWhenNoMoreRequestsAreTaken(t *testing.T) {
	causes := map[string]struct {
		begin func(peer *accepted, conn *hyper.Conn)
		lives bool // the request continues
	}{
		"GOAWAY": {lives: true, begin: func(peer *accepted,
			_ *hyper.Conn) {
			peer.WriteGoAway(1, wire.NoError, "")
		}},
		"Shutdown": {lives: true, begin: func(_ *accepted, conn *hyper.Conn) {
			go conn.Shutdown(context.Background())
		}},
		"Close":        {begin: func(_ *accepted, conn *hyper.Conn) { conn.Close() }},
		"network":      {begin: func(peer *accepted, _ *hyper.Conn) { peer.Close() }},
		"broken rule":  {begin: func(peer *accepted, _ *hyper.Conn) { peer.WriteWindowUpdate(0, 1<<31-1) }},
		"PING timeout": {begin: func(*accepted, *hyper.Conn) { time.Sleep(time.Minute) }},
	}
	for name, cause := range causes {
		t.Run(name, func(t *testing.T) {
			eachConn(t, func(t *testing.T, peer *accepted, conn *hyper.Conn, call *httpCall) {
				peer.Ignore(wire.Ping, wire.GoAway)
				before := conn.Draining()
				if isClosed(before) || conn.Available() == 0 {
					t.Fatal("the connection takes requests")
				}
				cause.begin(peer, conn)
				if !isClosed(before) || !isClosed(conn.Draining()) || before != conn.Draining() {
					t.Error("Draining is open")
				}
				if n := conn.Available(); n != 0 {
					t.Errorf("%d are available", n)
				}
				if isClosed(conn.Done()) == cause.lives {
					t.Errorf("the connection lives: %v", !cause.lives)
				}
				if !cause.lives {
					call.WantErr(t, "the request")
					return
				}
				peer.WriteHeaders(1, wire.EndStream, ":status: 204")
				call.Want(t, "the response").Body.Close()
				if !isClosed(conn.Done()) {
					t.Error("the connection goes on after its last stream")
				}
			})
		})
	}
}

// If Draining is called for the first time after the connection has ended, its channel is closed
// too.
func TestDrainingMayBeCalledLate(t *testing.T) {
	eachConn(t, func(t *testing.T, peer *accepted, conn *hyper.Conn, call *httpCall) {
		peer.WriteGoAway(1, wire.NoError, "")
		synctest.Wait()
		if !isClosed(conn.Draining()) {
			t.Error("Draining is open after GOAWAY")
		}
		peer.Close()
		call.WantErr(t, "the request")
		if !isClosed(conn.Draining()) {
			t.Error("Draining is open after the end")
		}
	})
}

func TestGoAwayHasTheValuesOfThePeer(t *testing.T) {
	eachConn(t, func(t *testing.T, peer *accepted, conn *hyper.Conn, call *httpCall) {
		if told, ok := conn.GoAway(); ok || told.LastStreamID != 0 || told.Debug != nil {
			t.Errorf("before GOAWAY: %+v, %v", told, ok)
		}
		peer.WriteGoAway(1<<31-1, wire.NoError, "")
		synctest.Wait()
		told, ok := conn.GoAway()
		if !ok || told.LastStreamID != 1<<31-1 || told.Code != hyper.ErrCodeNo || told.Debug != nil {
			t.Errorf("a GOAWAY that announces another: %+v, %v", told, ok)
		}
		peer.WriteGoAway(1, wire.EnhanceYourCalm, "too much")
		synctest.Wait()
		want := func(when string) {
			t.Helper()
			told, ok := conn.GoAway()
			debug := string(told.Debug)
			if !ok || told.LastStreamID != 1 || told.Code != hyper.ErrCodeEnhanceYourCalm ||
				debug != "too much" {
				t.Errorf("%s: %+v, %v", when, told, ok)
			}
			clear(told.Debug) // the caller owns it
		}
		want("the second GOAWAY")
		peer.Close()
		call.WantErr(t, "the request")
		want("after the end")
	})
}

func TestGoAwayOfOursIsNotThePeers(t *testing.T) {
	eachConn(t, func(t *testing.T, peer *accepted, conn *hyper.Conn, call *httpCall) {
		conn.Close()
		call.WantErr(t, "the request")
		if told, ok := conn.GoAway(); ok {
			t.Errorf("%+v", told)
		}
	})
}

// Available returns how many streams SETTINGS still allow, and 0 while other requests wait.
func TestAvailableIsTheNumberOfRequestsThatWouldNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, _ := newPeer(t, nil)
		want := func(when string, n int) {
			t.Helper()
			synctest.Wait()
			if got := conn.Available(); got != n {
				t.Errorf("%s: %d are available, want %d", when, got, n)
			}
		}
		want("before SETTINGS", 100)
		peer.Handshake(wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 2})
		want("MAX_CONCURRENT_STREAMS is 2", 2)
		first := getAsync(conn, "/1")
		want("one stream is open", 1)
		ctx, cancel := context.WithCancel(t.Context())
		second := doAsync(ctx, conn, &hyper.Request{Path: "/2"})
		want("two streams are open", 0)
		third := getAsync(conn, "/3")
		want("a request waits", 0)
		peer.WriteSettings(wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 5})
		want("the limit is 5", 2)
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		first.Want(t, "the first").Body.Close()
		want("the first is over", 3)
		cancel()
		second.WantErr(t, "the second is canceled")
		want("the peer may still count the second", 3)
		peer.WriteSettings(wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 0})
		want("the limit is 0", 0)
		peer.WriteSettings(wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1<<32 - 1})
		want("there is no limit", 1<<30-3) // 3 of 2^30 stream identifiers are used
		peer.WriteHeaders(5, wire.EndStream, ":status: 204")
		third.Want(t, "the third").Body.Close()
	})
}

// While a peer does not read, requests wait even if it allows more streams.
func TestNothingIsAvailableWhileThePeerDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, client := newPeer(t, nil)
		peer.Handshake(wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 10_000})
		client.SetWriteBuffer(0)
		peer.Ignore(wire.Headers, wire.Continuation, wire.GoAway)
		large := hyper.Header{{Name: "x-large", Value: strings.Repeat("x", 32<<10)}}
		for range 100 {
			doAsync(t.Context(), conn, &hyper.Request{Path: "/", Header: large})
			synctest.Wait()
		}
		s := conn.Stats()
		if n := conn.Available(); n != 0 || conn.Err() != nil || s.StreamsOpen+s.Waiting != 100 ||
			s.Waiting == 0 {
			t.Errorf("%d are available, with %+v", n, s)
		}
	})
}
