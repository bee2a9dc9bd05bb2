// This file tests PING, keep-alive, and the timeouts of a silent peer.

package hypertest

import (
	"cmp"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// The caller's PINGs count: keep-alive does not send a PING that comes too early after them.
func TestKeepAliveCountsTheCallersPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		getAsync(conn, "/hang")
		peer.WantHeaders("a request", 1)
		for range 3 { // two of them are early
			go conn.Ping(t.Context())
			peer.WritePing(wire.Ack, peer.WantPing("a caller's", 0))
			synctest.Wait()
		}
		start := time.Now()
		time.Sleep(5*time.Minute - time.Second)
		peer.WantIdle("any PING would be early")
		time.Sleep(2 * time.Second)
		peer.WritePing(wire.Ack, peer.WantPing("not early any more", 0))
		if took := time.Since(start); took < 5*time.Minute || took > busyPingGap {
			t.Errorf("after %v", took)
		}
	})
}

// A PING that a timeout sent for the slots also serves to confirm a suspicion.
func TestOnePingServesSlotsAndSuspicion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, h2test.AtMost(1))
		doAsync(h2test.WithTimeout(t, time.Second), conn, &hyper.Request{Path: "/hang"})
		peer.WantHeaders("the request", 1)
		next := getAsync(conn, "/next")
		peer.WantRSTStream("it timed out", 1, wire.Cancel)
		start := time.Now()
		peer.WantPing("for the slot", 0)
		peer.WantIdle("and no other")
		wantConnEnd(t, conn, start, 15*time.Second, hyper.ErrPingTimeout)
		next.WantErr(t, "the peer is dead")
	})
}

// wantConnEnd waits for the connection to end, and checks the error and the time.
func wantConnEnd(t *testing.T, conn *hyper.Conn, start time.Time, after time.Duration, why error) {
	t.Helper()
	<-conn.Done()
	if err := conn.Err(); !errors.Is(err, why) {
		t.Errorf("Err: %v, want %v", err, why)
	}
	var ce *hyper.ConnError
	if !errors.As(conn.Err(), &ce) || !ce.Timeout() {
		t.Errorf("%v is no timeout", conn.Err())
	}
	if took := time.Since(start); took != after {
		t.Errorf("it ended after %v, want %v", took, after)
	}
}

func TestPeerThatNeverSendsSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, _ := newPeer(t, &hyper.Config{HandshakeTimeout: 3 * time.Second})
		peer.Ignore(wire.WindowUpdate)
		start := time.Now()
		got := getAsync(conn, "/")
		peer.WantPreface("the client speaks first")
		peer.WantHeaders("its request", 1)
		wantConnEnd(t, conn, start, 3*time.Second, hyper.ErrHandshakeTimeout)
		if err := got.WantErr(t, "the request"); !errors.Is(err, hyper.ErrHandshakeTimeout) ||
			hyper.Retryable(err) {
			t.Errorf("the request: %v", err)
		}
		peer.WantClosed("there is no HTTP/2 peer to be told why")
	})
}

func TestPeerThatNeverAcknowledgesOurSettings(t *testing.T) {
	// RFC 9113 §6.5.3: without an acknowledgment in time the sender MAY issue SETTINGS_TIMEOUT.
	synctest.Test(t, func(t *testing.T) {
		peer, conn, _ := newPeer(t, &hyper.Config{SettingsTimeout: 3 * time.Second})
		peer.Ignore(wire.WindowUpdate)
		peer.WantPreface("the client speaks first")
		start := time.Now()
		peer.WriteSettings()
		peer.WantSettingsAck("we acknowledge theirs")
		wantConnEnd(t, conn, start, 3*time.Second, hyper.ErrCodeSettingsTimeout)
		peer.WantGoAway("no acknowledgment of ours", 0, wire.SettingsTimeout)
		peer.WantClosed("behind it")
	})
}

func TestKeepAliveSendsPingOnlyAfterSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, _ := dialPeer(t, nil)
		for range 3 {
			time.Sleep(29 * time.Second)
			peer.WantIdle("it is not silent for long enough")
			peer.WritePing(wire.Ack, [8]byte{0xff}) // any acknowledgment counts
		}
		start := time.Now()
		time.Sleep(25 * time.Second)
		data := peer.WantPing("30 s of silence", 0)
		if waited := time.Since(start); waited != 30*time.Second {
			t.Errorf("the PING came after %v", waited)
		}
		time.Sleep(14 * time.Second)
		peer.WantIdle("one question at a time")
		peer.WritePing(wire.Ack, data)
		time.Sleep(29 * time.Second)
		peer.WantIdle("the answer ended the silence")
	})
}

func TestSilentlyDeadPeerIsFoundWithinAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		start := time.Now()
		got := getAsync(conn, "/")
		peer.WantHeaders("a request that gets no response", 1)
		wantConnEnd(t, conn, start, 45*time.Second, hyper.ErrPingTimeout)
		if err := got.WantErr(t, "the request"); !errors.Is(err, hyper.ErrPingTimeout) {
			t.Errorf("the request: %v", err)
		}
		peer.WantPing("one was asked", 0)
		peer.WantClosed("and no other")
	})
}

func TestPeerThatAnswersStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe := newPeer(t, nil)
		peer.Handshake()
		peer.AutoPing()
		before := pipe.Writes()
		time.Sleep(time.Hour)
		peer.WantIdle("an idle connection lives on")
		if err := conn.Err(); err != nil {
			t.Errorf("Err: %v", err)
		}
		if n := pipe.Writes() - before; n != 1 {
			t.Errorf("%d writes in an hour without a stream, want one PING", n)
		}
	})
}

func TestPingTimeoutDoesNotFireWhileThePeerSends(t *testing.T) {
	// The acknowledgment may be queued after the very data that shows that the peer is alive.
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		time.Sleep(25 * time.Second)
		peer.WantPing("30 s of silence", 0)
		for range 20 {
			time.Sleep(14 * time.Second)
			peer.WriteData(1, 0, []byte("slow"))
		}
		start := time.Now()
		peer.WantIdle("it lives")
		wantConnEnd(t, conn, start, 15*time.Second, hyper.ErrPingTimeout)
	})
}

func TestPeerThatDoesNotReadEndsTheConnection(t *testing.T) {
	for name, cfg := range map[string]hyper.Config{
		"":         {WriteStallTimeout: 12 * time.Second},
		"no PINGs": {WriteStallTimeout: 12 * time.Second, KeepAlive: -1},
		"alone": {WriteStallTimeout: 12 * time.Second, KeepAlive: -1, SettingsTimeout: -1,
			HandshakeTimeout: -1},
		"by default": {KeepAlive: -1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn, pipe := newPeer(t, &cfg)
				peer.Handshake()
				time.Sleep(20 * time.Second)
				pipe.SetWriteBuffer(0)
				start := time.Now()
				got := getAsync(conn, "/")
				wantConnEnd(t, conn, start, cmp.Or(cfg.WriteStallTimeout, 30*time.Second),
					hyper.ErrWriteStalled)
				if err := got.WantErr(t, "the request"); !errors.Is(err, hyper.ErrWriteStalled) ||
					hyper.Retryable(err) {
					t.Errorf("the request: %v", err)
				}
			})
		})
	}
}

func TestStalledHandshakeWriteEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, conn, pipe := newPeer(t, nil)
		pipe.SetWriteBuffer(0)
		start := time.Now()
		getAsync(conn, "/")
		wantConnEnd(t, conn, start, 10*time.Second, hyper.ErrHandshakeTimeout)
	})
}

func TestSlowPeerIsNoStalledPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe := newPeer(t, &hyper.Config{KeepAlive: -1})
		peer.Handshake()
		s, err := conn.Open(t.Context(), &hyper.Request{Method: "POST"})
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the request", 1)
		peer.WriteWindowUpdate(0, 1<<20)
		peer.WriteWindowUpdate(1, 1<<20)
		synctest.Wait()
		pipe.BreakWriteAfter(0, nil)
		go s.Write(make([]byte, 1<<20))
		for range 10 {
			time.Sleep(20 * time.Second)
			if err := conn.Err(); err != nil {
				t.Fatalf("Err: %v", err)
			}
			pipe.BreakWriteAfter(writeSize+fewOctets, nil) // room for at least one write
		}
		synctest.Wait()
		start := time.Now()
		wantConnEnd(t, conn, start, 30*time.Second, hyper.ErrWriteStalled)
	})
}

func TestStalledWriteDoesNotHoldCallsThatEnd(t *testing.T) {
	// golang/go#48908: a peer that stopped reading during an upload blocked every other call of the
	// connection.
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe := newPeer(t, nil)
		peer.Handshake()
		reading := getAsync(conn, "/download")
		peer.WantHeaders("a download", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		resp := reading.Want(t, "its response")
		second := getAsync(conn, "/second")
		peer.WantHeaders("another request", 3)
		pipe.SetWriteBuffer(0)
		body, feed := io.Pipe()
		upload := doAsync(t.Context(), conn, &hyper.Request{Method: "POST", Body: body})
		go feed.Write(make([]byte, 1<<20))
		synctest.Wait()

		start := time.Now()
		resp.Body.Close()
		conn.PeerSettings()
		conn.Stats()
		peer.WriteHeaders(3, 0, ":status: 200")
		peer.WriteData(3, wire.EndStream, []byte("reading goes on"))
		h2test.WantBody(t, "the second", second.Want(t, "its response").Body, "reading goes on")
		if took := time.Since(start); took != 0 {
			t.Errorf("they took %v", took)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := doAsync(ctx, conn, &hyper.Request{}).WantErr(t, "a new request"); !errors.Is(err,
			context.DeadlineExceeded) {
			t.Errorf("a new request: %v", err)
		}
		if _, err := conn.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Ping: %v", err)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("they took %v, want the second that they were given", took)
		}
		conn.Close()
		upload.WantErr(t, "closed")
		feed.Close()
	})
}

func TestNegativeTimeoutsAreNone(t *testing.T) {
	for name, test := range map[string]struct {
		cfg  hyper.Config
		play func(t *testing.T, conn *hyper.Conn, stall func())
	}{
		"HandshakeTimeout, SettingsTimeout": {
			hyper.Config{HandshakeTimeout: -1, SettingsTimeout: -1, KeepAlive: -1},
			func(*testing.T, *hyper.Conn, func()) {},
		},
		"PingTimeout": {hyper.Config{HandshakeTimeout: -1, SettingsTimeout: -1, PingTimeout: -1},
			func(*testing.T, *hyper.Conn, func()) {}},
		"WriteStallTimeout": {
			hyper.Config{HandshakeTimeout: -1, SettingsTimeout: -1, PingTimeout: -1, WriteStallTimeout: -1},
			func(_ *testing.T, conn *hyper.Conn, stall func()) {
				stall()
				getAsync(conn, "/")
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, conn, pipe := newPeer(t, &test.cfg)
				test.play(t, conn, func() { pipe.SetWriteBuffer(0) })
				time.Sleep(24 * time.Hour)
				if err := conn.Err(); err != nil {
					t.Errorf("Err: %v", err)
				}
			})
		})
	}
}

func TestSettingsTimeoutAloneCanBeSwitchedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, _ := newPeer(t, &hyper.Config{SettingsTimeout: -1})
		peer.AutoPing()
		peer.WantPreface("the client speaks first")
		peer.WriteSettings()
		time.Sleep(time.Hour)
		if err := conn.Err(); err != nil {
			t.Errorf("Err: %v", err)
		}
	})
}

func TestNoKeepAliveNoPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{KeepAlive: -1})
		time.Sleep(24 * time.Hour)
		peer.WantIdle("nothing is asked")
		if err := conn.Err(); err != nil {
			t.Errorf("Err: %v", err)
		}
	})
}

func TestPingMeasuresARoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		for _, trip := range []time.Duration{30 * time.Millisecond, 20 * time.Millisecond, 2 * time.Second} {
			go func() {
				data := peer.WantPing("the question", 0)
				time.Sleep(trip)
				peer.WritePing(wire.Ack, data)
			}()
			rtt, err := conn.Ping(t.Context())
			if err != nil || rtt != trip {
				t.Errorf("Ping: %v, %v, want %v", rtt, err, trip)
			}
			if s := conn.Stats(); s.RTT != trip || s.MinRTT > trip {
				t.Errorf("Stats: %v, shortest %v", s.RTT, s.MinRTT)
			}
		}
	})
}

func TestPingsAreMatchedByTheirData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		const n = 5
		rtts := make([]time.Duration, n)
		var asked [n][8]byte
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() { rtts[i], _ = conn.Ping(t.Context()) })
			asked[i] = peer.WantPing("a question", 0)
		}
		for i := range n { // the last PING is acknowledged first
			time.Sleep(time.Second)
			peer.WritePing(wire.Ack, asked[n-1-i])
		}
		all.Wait()
		for i, rtt := range rtts {
			if want := time.Duration(n-i) * time.Second; rtt != want {
				t.Errorf("Ping %d: %v, want %v", i, rtt, want)
			}
		}
	})
}

func TestPingObeysItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := conn.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) ||
			time.Since(start) != time.Second {
			t.Errorf("Ping: %v after %v", err, time.Since(start))
		}
		peer.WritePing(wire.Ack, peer.WantPing("the question", 0))
		peer.WantIdle("a late answer is in order")
	})
}

func TestPingReturnsWhenTheConnectionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		done := make(chan error, 1)
		go func() {
			_, err := conn.Ping(t.Context())
			done <- err
		}()
		peer.WantPing("the question", 0)
		peer.Close()
		if err := <-done; !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Ping: %v", err)
		}
	})
}

func TestAnswerToNoPingIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		done := make(chan error, 1)
		go func() {
			_, err := conn.Ping(t.Context())
			done <- err
		}()
		data := peer.WantPing("the question", 0)
		peer.WritePing(wire.Ack, [8]byte{1, 2, 3})
		peer.WantIdle("an answer to something else")
		if len(done) > 0 {
			t.Error("Ping took it for its own")
		}
		peer.WritePing(wire.Ack, data)
		peer.WritePing(wire.Ack, data)
		if err := <-done; err != nil {
			t.Errorf("Ping: %v", err)
		}
		peer.WantIdle("nor does a second answer matter")
	})
}

func TestPingIsAnsweredWithItsBytes(t *testing.T) {
	// RFC 9113 §6.7: receivers MUST send a PING with ACK and an identical payload.
	synctest.Test(t, func(t *testing.T) {
		peer, _ := dialPeer(t, nil)
		asked := [8]byte{0xff, 1, 2, 3, 0, 0, 0, 0x80}
		start := time.Now()
		peer.WritePing(0, asked)
		if got := peer.WantPing("at once", wire.Ack); got != asked || time.Since(start) != 0 {
			t.Errorf("got % x after %v", got, time.Since(start))
		}
		peer.WantIdle("and nothing else")
	})
}

func TestNothingHappensAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe := newPeer(t, &hyper.Config{KeepAlive: time.Second})
		peer.Handshake()
		s, err := conn.Open(t.Context(), &hyper.Request{Method: "POST"})
		if err != nil {
			t.Fatal(err)
		}
		s.SetDeadline(time.Now().Add(time.Minute))
		peer.WantHeaders("a stream with timers of its own", 1)
		conn.Close()
		synctest.Wait() // readLoop finds that the socket is closed
		writes, reads := pipe.Writes(), pipe.Reads()
		time.Sleep(time.Hour)
		if pipe.Writes() != writes || pipe.Reads() != reads {
			t.Errorf("%d writes and %d reads after Close", pipe.Writes()-writes, pipe.Reads()-reads)
		}
	})
}
