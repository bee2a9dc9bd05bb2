package hyper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A slot that is granted after the context's end, but before the waiter notices that end, goes to
// the next call.
func TestSlotGrantedToACanceledCallIsNotLost(t *testing.T) {
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
		if err := second.WantErr(t, "cancelled"); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		getAsync(conn, "/third")
		peer.WantHeaders("the third has the slot", 3, ":path: /third")
	})
}

func TestWaiterCancelledJustWhenAdmittedLosesNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, h2test.AtMost(1))
		peer.AutoPing()
		peer.Ignore(wire.RSTStream)
		id := uint32(1)
		for range 200 {
			open := getAsync(conn, "/open")
			peer.WantHeaders("a slot is free", id, ":path: /open")
			ctx, cancel := context.WithCancel(t.Context())
			racing := doAsync(ctx, conn, &Request{Path: "/racing"})
			synctest.Wait()
			go cancel()
			h2test.AnswerEmpty(peer, id)
			open.Want(t, "the open one")
			<-racing.Done
			synctest.Wait()
			conn.lock()
			id = conn.streams.nextID
			conn.unlock()
			if n := drainHeaders(peer); n > 1 {
				t.Fatalf("%d requests in place of one", n)
			}
		}
	})
}

// drainHeaders takes the frames that have arrived and counts the requests.
func drainHeaders(peer *h2test.Peer) (n int) {
	peer.WriteRaw(wire.AppendPing(nil, 0, [8]byte{'e', 'n', 'd'}))
	for {
		f, err := peer.Next()
		switch {
		case err != nil || f.Type == wire.Ping && f.Flags.Has(wire.Ack):
			return n
		case f.Type == wire.Headers:
			n++
		}
	}
}

func TestExhaustedStreamIdentifiersDrainTheConnection(t *testing.T) {
	// RFC 9113 §5.1.1: a client that has used up its identifiers can establish a new connection.
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, h2test.AtMost(1))
		conn.lock()
		conn.streams.nextID = wire.MaxStreamID
		conn.unlock()
		last := getAsync(conn, "/last")
		peer.WantHeaders("one is left", wire.MaxStreamID)
		waiting := getAsync(conn, "/waiting")
		synctest.Wait()
		for range 2 {
			err := getAsync(conn, "/late").WantErr(t, "none is left")
			if !errors.Is(err, ErrDrained) || !Retryable(err) {
				t.Errorf("a request too many: %v", err)
			}
		}
		h2test.AnswerEmpty(peer, wire.MaxStreamID)
		last.Want(t, "the last stream")
		if err := waiting.WantErr(t, "none is left"); !errors.Is(err, ErrDrained) || !Retryable(err) {
			t.Errorf("the request that waited for a slot: %v", err)
		}
		peer.WantIdle("nothing of them was sent")
	})
}

// Slots that are granted to callers may have to be taken back. Therefore only a few callers have a
// slot that they do not use yet, and each keeps its place in line.
func TestFewSlotsAreGivenAtOnceAndTakenBackInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, conn := dialPeer(t, nil, h2test.AtMost(0))
		const callers = 3 * maxGrants
		for i := range callers {
			getAsync(conn, fmt.Sprint("/", i))
			synctest.Wait()
		}
		conn.lock()
		defer conn.unlock()
		s := &conn.slots
		order := slices.Collect(s.waiting.All())
		for range 5 {
			s.limit = callers
			conn.admitLocked()
			if n := s.granted.Len(); n != maxGrants || int(s.grants) != n || s.used != n {
				t.Fatalf("%d slots are given, %d booked, %d used", n, s.grants, s.used)
			}
			s.limit = 3
			conn.admitLocked()
			if n := s.granted.Len(); n != 3 || int(s.grants) != n || s.used != n {
				t.Fatalf("%d slots are left, %d booked, %d used", n, s.grants, s.used)
			}
		}
		s.limit = 0
		conn.admitLocked()
		i := 0
		for w := range s.waiting.All() {
			if w != order[i] || w.Granted {
				t.Fatalf("another one has place %d", i)
			}
			i++
		}
		if i != callers || s.used != 0 {
			t.Errorf("%d wait, %d slots are used", i, s.used)
		}
	})
}

// A peer without a limit that acknowledges no PING cannot make the connection remember an unlimited
// number of reset streams.
func TestMarksOfResetStreamsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.Ignore(wire.Headers, wire.RSTStream, wire.WindowUpdate)
		open := func() error {
			s, err := conn.Open(h2test.WithTimeout(t, time.Second), &Request{})
			if err == nil {
				s.Reset(ErrCodeCancel)
			}
			return err
		}
		for range maxResetMarks {
			if err := open(); err != nil {
				t.Fatal(err)
			}
		}
		if err := open(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one more: %v", err)
		}
		if n := len(conn.slots.reset); n != maxResetMarks || conn.slots.held != n {
			t.Errorf("%d marks, %d slots are held", n, conn.slots.held)
		}
		next := getAsync(conn, "/next")
		peer.AutoPing()
		peer.WritePing(wire.Ack, peer.WantPing("too many marks", 0))
		synctest.Wait()
		h2test.AnswerEmpty(peer, 2*maxResetMarks+1)
		next.Want(t, "the answer has made room")
		if n := len(conn.slots.reset); n > pingResetMarks {
			t.Errorf("%d marks are left", n)
		}
	})
}

func TestPingsThatTimeOutLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		for range 100 {
			if _, err := conn.Ping(h2test.WithTimeout(t, time.Millisecond)); !errors.Is(err,
				context.DeadlineExceeded) {
				t.Error(err)
			}
			peer.WantPing("asked for", 0)
		}
		if n := len(conn.liveness.pings); n != 0 {
			t.Errorf("%d PINGs are remembered", n)
		}
	})
}
