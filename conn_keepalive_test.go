package hyper

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A frame that arrives before the acknowledgment of a PING may have been sent before that PING, so
// it does not make the next PING free. A frame after the acknowledgment does.
func TestOnlyWhatComesAfterTheAcknowledgmentMakesAPingFree(t *testing.T) {
	for _, after := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			resp := answerGet(t, peer, conn, 1, ":status: 200")
			defer resp.Body.Close()
			go conn.Ping(t.Context())
			data := peer.WantPing("a caller's", 0)
			if after {
				peer.WritePing(wire.Ack, data)
				peer.WriteData(1, 0, []byte("x"))
			} else {
				peer.WriteData(1, 0, []byte("x"))
				peer.WritePing(wire.Ack, data)
			}
			synctest.Wait()
			conn.lock()
			defer conn.unlock()
			if free := conn.mayPingLocked(noEarlyPing); free != after {
				t.Errorf("DATA after the acknowledgment: %v; the next PING is free: %v", after, free)
			}
		})
	}
}

// When no more PINGs may be sent, a request that times out while the peer is silent still makes the
// peer suspected. A Transport then uses another connection.
func TestTimeoutsSendFewPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		peer := f.firstPeer()
		peer.Ignore(wire.Headers, wire.RSTStream, wire.WindowUpdate, wire.GoAway)
		c := f.host().Conns.All()[0]
		for i := range 6 {
			_, err := c.Do(h2test.WithTimeout(t, time.Second), &Request{Path: "/hang"})
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			synctest.Wait()
			if sent, want := int(c.liveness.pingsSent), min(i+1, 3); sent != want {
				t.Errorf("%d PINGs after %d timeouts, want %d", sent, i+1, want)
			}
			// The first three PINGs are acknowledged.
			if suspected := c.reports.suspected.Load(); suspected != (i >= 3) {
				t.Errorf("after %d timeouts suspected is %v", i+1, suspected)
			}
		}
		peer.WriteHeaders(3, wire.EndStream, ":status: 204")
		synctest.Wait()
		if c.reports.suspected.Load() {
			t.Error("something came, and the peer is suspected")
		}
	})
}

// If no PING may be sent, the number of reset streams that the connection remembers is bounded
// nevertheless, and no request waits because of them.
func TestManyResetsWithoutAPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, h2test.AtMost(1))
		peer.AutoPing()
		peer.Ignore(wire.Headers, wire.RSTStream, wire.WindowUpdate)
		for range 3 * maxResetMarks {
			s, err := conn.Open(h2test.WithTimeout(t, time.Second), &Request{})
			if err != nil {
				t.Fatal(err)
			}
			s.Reset(ErrCodeCancel)
		}
		conn.lock()
		defer conn.unlock()
		if n := len(conn.slots.reset); n >= pingResetMarks {
			t.Errorf("%d marks", n)
		}
		if conn.liveness.pingsSent != 1 || conn.slots.used != conn.slots.held {
			t.Errorf("%d PINGs were sent, %d slots are used, %d held", conn.liveness.pingsSent,
				conn.slots.used,
				conn.slots.held)
		}
	})
}

// What is remembered of a host's "too_many_pings" is dropped with the host, an hour after its last
// connection.
func TestTooManyPingsIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		peer := f.firstPeer()
		h := f.host()
		peer.WriteGoAway(1, wire.EnhanceYourCalm, "too_many_pings")
		peer.WantClosed("it has no streams")
		synctest.Wait()
		if every := h.pings.interval(); every != busyPingGap {
			t.Errorf("the interval is %v", every)
		}
		h.pings.record(0)
		if every := h.pings.interval(); every != busyPingGap {
			t.Errorf("a second GOAWAY at once makes it %v", every)
		}
		hosts := func() int {
			synctest.Wait()
			return f.tr.hosts.Len()
		}
		time.Sleep(tooManyPingsMemory - time.Second)
		if hosts() != 1 {
			t.Error("the host was forgotten too early")
		}
		time.Sleep(2 * time.Second)
		if hosts() != 0 {
			t.Error("the host is remembered for too long")
		}
		var m pingMemory
		for range 20 {
			m.record(0)
			time.Sleep(mostPingGap)
		}
		if every := m.interval(); every != mostPingGap {
			t.Errorf("after twenty GOAWAYs the interval is %v", every)
		}
	})
}
