// This file tests the peer's limit of open streams.

package hypertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

func TestCallersAreAdmittedInTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, h2test.AtMost(1))
		const callers = 20
		for i := range callers {
			getAsync(conn, fmt.Sprint("/", i))
			synctest.Wait()
		}
		if n := conn.Stats().Waiting; n != callers-1 {
			t.Errorf("%d callers wait, want %d", n, callers-1)
		}
		for i := range callers {
			id := uint32(2*i + 1)
			peer.WantHeaders("first come, first served", id, fmt.Sprint(":path: /", i))
			peer.WantIdle("one at a time")
			h2test.AnswerEmpty(peer, id)
		}
	})
}

func TestNewCallsDoNotOvertakeWaitingOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, h2test.AtMost(1))
		first := getAsync(conn, "/first")
		peer.WantHeaders("there is room", 1)
		getAsync(conn, "/waits")
		synctest.Wait()
		h2test.AnswerEmpty(peer, 1)
		first.Want(t, "the first")
		getAsync(conn, "/late") // it may run before the call that waits
		peer.WantHeaders("the request that waited", 3, ":path: /waits")
		h2test.AnswerEmpty(peer, 3)
		peer.WantHeaders("the late one", 5, ":path: /late")
	})
}

func TestRaisedLimitAdmitsWaitingCallsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, h2test.AtMost(0))
		for i := range 5 {
			getAsync(conn, fmt.Sprint("/", i))
			synctest.Wait()
		}
		peer.WantIdle("no stream is allowed")
		peer.WriteSettings(h2test.AtMost(3))
		peer.WantSettingsAck("of the new limit")
		admitted := map[string]bool{} // they are admitted together and run in any order
		for i := range 3 {
			h := peer.WantHeaders("up to the limit", uint32(2*i+1))
			admitted[h.Get(":path")] = true
		}
		if !admitted["/0"] || !admitted["/1"] || !admitted["/2"] {
			t.Errorf("admitted before those that came first: %v", admitted)
		}
		peer.WantIdle("two still wait")
		h2test.AnswerEmpty(peer, 3)
		peer.WantHeaders("for one that ended", 7, ":path: /3")
	})
}

func TestLimitLoweredBelowWhatIsOpen(t *testing.T) {
	// RFC 9113 §5.1.2: streams beyond a lowered limit may go on. New streams must wait.
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, h2test.AtMost(3))
		calls := map[uint32]*h2test.Call[*hyper.Response]{}
		for id := uint32(1); id <= 5; id += 2 {
			calls[id] = getAsync(conn, "/")
			peer.WantHeaders("up to the limit", id)
		}
		peer.WriteSettings(h2test.AtMost(1))
		peer.WantSettingsAck("of the lower limit")
		getAsync(conn, "/more")
		h2test.AnswerEmpty(peer, 1)
		calls[1].Want(t, "an open stream goes on")
		h2test.AnswerEmpty(peer, 3)
		calls[3].Want(t, "and another")
		peer.WantIdle("one is open, and one is allowed")
		h2test.AnswerEmpty(peer, 5)
		calls[5].Want(t, "the last")
		peer.WantHeaders("now there is room", 7, ":path: /more")
	})
}

func TestAtMostAHundredStreamsBeforeThePeersSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, _ := newPeer(t, nil)
		peer.Ignore(wire.WindowUpdate)
		for range 150 {
			getAsync(conn, "/")
		}
		peer.WantPreface("the client speaks first")
		for i := range 100 {
			peer.WantHeaders("RFC 9113 §6.5.2 recommends no limit below 100", uint32(2*i+1))
		}
		peer.WantIdle("the rest waits for SETTINGS")
		peer.WriteSettings() // no limit
		for range 50 {
			f, err := peer.Next()
			// The client sends its acknowledgment, and a smaller initial window for so many
			// streams.
			for err == nil && f.Type == wire.Settings {
				f, err = peer.Next()
			}
			if err != nil || f.Type != wire.Headers {
				t.Fatalf("want the rest, got %v, %v", f, err)
			}
		}
	})
}

func TestCancelledWaiterLosesNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, h2test.AtMost(1))
		getAsync(conn, "/open")
		peer.WantHeaders("there is room", 1)
		ctx, cancel := context.WithCancel(t.Context())
		cancelled := doAsync(ctx, conn, &hyper.Request{Path: "/cancelled"})
		synctest.Wait()
		getAsync(conn, "/waiting")
		synctest.Wait()
		cancel()
		if err := cancelled.WantErr(t, "its context ended"); !errors.Is(err, context.Canceled) {
			t.Errorf("the cancelled caller: %v", err)
		}
		peer.WantIdle("it was never sent, so there is nothing to reset")
		h2test.AnswerEmpty(peer, 1)
		peer.WantHeaders("the slot goes to the next in line", 3, ":path: /waiting")
	})
}

func TestCancelledStreamHoldsItsSlotUntilThePeerHasProcessedIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, h2test.AtMost(1))
		ctx, cancel := context.WithCancel(t.Context())
		doAsync(ctx, conn, &hyper.Request{})
		peer.WantHeaders("there is room", 1)
		cancel()
		peer.WantRSTStream("it was cancelled", 1, wire.Cancel)
		peer.WantIdle("no call waits for the slot: no PING")
		getAsync(conn, "/next")
		data := peer.WantPing("a call waits", 0)
		getAsync(conn, "/after")
		peer.WantIdle("the peer may still count the stream, and one PING is enough")
		peer.WritePing(wire.Ack, data)
		peer.WantHeaders("it has seen the reset", 3, ":path: /next")
		peer.WantIdle("one at a time")
	})
}

func TestPeerThatEndsACancelledStreamFreesItsSlot(t *testing.T) {
	// The peer's END_STREAM or RST_STREAM crossed our RST_STREAM: the peer does not count the
	// stream any more, whether or not it acknowledges the PING.
	for name, end := range map[string]func(*h2test.Peer){
		"RST_STREAM":         func(p *h2test.Peer) { p.WriteRSTStream(1, wire.InternalError) },
		"HEADERS END_STREAM": func(p *h2test.Peer) { h2test.AnswerEmpty(p, 1) },
		"DATA END_STREAM": func(p *h2test.Peer) {
			p.WriteHeaders(1, 0, ":status: 200")
			p.WriteData(1, wire.EndStream, []byte("late"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil, h2test.AtMost(1))
				peer.Ignore(wire.WindowUpdate)
				ctx, cancel := context.WithCancel(t.Context())
				doAsync(ctx, conn, &hyper.Request{})
				peer.WantHeaders("there is room", 1)
				cancel()
				peer.WantRSTStream("it was cancelled", 1, wire.Cancel)
				getAsync(conn, "/next")
				peer.WantPing("a call waits", 0)
				end(peer)
				peer.WantHeaders("without the answer to the PING", 3, ":path: /next")
			})
		})
	}
}

func TestTenThousandCancelsStayWithinThePeersLimit(t *testing.T) {
	// A server counts a stream until it has processed our RST_STREAM. This server processes
	// everything just before it acknowledges a PING, and nothing before that. Then it begins a
	// response.
	synctest.Test(t, func(t *testing.T) {
		const limit, cancels, callers = 100, 10_000, 40
		peer, conn := dialPeer(t, nil, h2test.AtMost(limit))
		var all sync.WaitGroup
		for range callers {
			all.Go(func() {
				for range cancels / callers {
					s, err := conn.Open(t.Context(), &hyper.Request{})
					if err != nil {
						t.Error(err)
						return
					}
					s.Reset(hyper.ErrCodeCancel)
				}
			})
		}
		go func() {
			all.Wait()
			conn.Close()
		}()
		counted, reset, pings, last := 0, 0, 0, uint32(0)
		for {
			f, err := peer.Next()
			if err != nil {
				break
			}
			switch f.Type {
			case wire.Headers:
				last = f.StreamID
				if counted++; counted > limit {
					t.Fatalf("%d streams, the limit is %d", counted, limit)
				}
			case wire.RSTStream:
				reset++
			case wire.Ping:
				counted -= reset
				reset = 0
				pings++
				peer.Batch(func() {
					peer.WritePing(wire.Ack, wire.ParsePing(f.Payload))
					peer.WriteHeaders(last, 0, ":status: 200") // otherwise there would be only one PING
				})
			}
		}
		if n := conn.Stats().StreamsOpened; n != cancels {
			t.Errorf("%d streams opened, want %d", n, cancels)
		}
		if most := cancels / limit * 2; pings > most {
			t.Errorf("%d PINGs, want at most %d", pings, most)
		}
	})
}

func TestWaitingForASlotObeysItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, h2test.AtMost(0))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		if err := doAsync(ctx, conn, &hyper.Request{}).WantErr(t, "no slot"); !errors.Is(err,
			context.DeadlineExceeded) {
			t.Errorf("the request: %v", err)
		}
		if waited := time.Since(start); waited != 3*time.Second {
			t.Errorf("it waited %v", waited)
		}
		if n := conn.Stats().Waiting; n != 0 {
			t.Errorf("%d still wait", n)
		}
		peer.WantIdle("nothing was sent")
	})
}

// A PING that is not written yet does not count as overdue.
func TestSlotPingThatIsNotWrittenIsNotOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, client := newPeer(t, &hyper.Config{WriteStallTimeout: -1, KeepAlive: -1})
		peer.Handshake(h2test.AtMost(1))
		cancelled := doAsync(h2test.WithTimeout(t, time.Second), conn, &hyper.Request{})
		peer.WantHeaders("the first", 1)
		client.SetWriteBuffer(0)
		cancelled.WantErr(t, "it timed out")
		next := getAsync(conn, "/next")
		time.Sleep(time.Minute)
		client.SetWriteBuffer(-1)
		peer.WantRSTStream("it timed out", 1, wire.Cancel)
		peer.WritePing(wire.Ack, peer.WantPing("a minute late", 0))
		peer.WantHeaders("the slot is free", 3, ":path: /next")
		h2test.AnswerEmpty(peer, 3)
		next.Want(t, "its response")
	})
}
