package hypertest

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// takeRequests takes n HEADERS frames. It returns the initial window sizes of the SETTINGS that
// came with them.
func takeRequests(t *testing.T, peer *h2test.Peer, n int) (sizes []int) {
	t.Helper()
	for n > 0 {
		f, err := peer.Next()
		if err != nil {
			t.Fatalf("%d requests are missing: %v", n, err)
		}
		switch {
		case f.Type == wire.Headers:
			n--
		case f.Type == wire.Settings && !f.Flags.Has(wire.Ack):
			for s := range wire.ParseSettings(f.Payload) {
				if s.ID != wire.SettingInitialWindowSize {
					t.Errorf("SETTINGS with %v", s)
				}
				sizes = append(sizes, int(s.Value))
			}
			peer.WriteSettingsAck()
		default:
			t.Fatalf("got %v", f)
		}
	}
	return sizes
}

// Up to 128 concurrent streams cause no SETTINGS, because 100 or 128 is a server's usual limit.
// More streams cause few SETTINGS, and a small response still arrives in one flight and needs no
// WINDOW_UPDATE. When there are few streams again, the initial window is restored.
func TestManySmallResponsesCostFewFrames(t *testing.T) {
	// Less than a quarter of the smallest window below: a response needs no WINDOW_UPDATE even if
	// it is read before END_STREAM arrives.
	const size = 1000
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		next := uint32(1)
		round := func(n int) []int {
			var calls []*h2test.Call[*hyper.Response]
			for range n {
				calls = append(calls, getAsync(conn, "/"))
			}
			sizes := takeRequests(t, peer, n)
			synctest.Wait()
			peer.Batch(func() {
				for range n {
					if credit := peer.Credit(next); credit <= size {
						t.Fatalf("stream %d may carry %d octets", next, credit)
					}
					peer.WriteHeaders(next, 0, ":status: 200")
					peer.WriteData(next, 0, make([]byte, size))
					peer.WriteData(next, wire.EndStream, nil)
					next += 2
				}
			})
			for _, call := range calls {
				resp := call.Want(t, "a response")
				if got, err := io.ReadAll(resp.Body); len(got) != size || err != nil {
					t.Fatalf("read %d octets, %v", len(got), err)
				}
			}
			peer.WantIdle("nothing else is due")
			return sizes
		}
		for range 3 {
			if got := round(128); got != nil {
				t.Errorf("128 streams change the initial window to %v", got)
			}
		}
		if got := fmt.Sprint(round(1000)); got != "[32767 16383 8191 4095]" {
			t.Errorf("1,000 streams change the initial window to %v", got)
		}
		if got := fmt.Sprint(round(1)); got != "[262143]" {
			t.Errorf("with one stream the initial window becomes %v", got)
		}
		changes := 0
		for range 5 {
			changes += len(round(1000)) + len(round(1))
		}
		if changes > 2*5 {
			t.Errorf("%d changes at once: servers count SETTINGS", changes)
		}
		time.Sleep(10 * time.Second)
		if got := fmt.Sprint(round(1)); got != "[262143]" {
			t.Errorf("after ten seconds the initial window becomes %v", got)
		}
	})
}

// RFC 9113 §6.9.2: a smaller initial window also reduces the windows of open streams. The peer may
// use the old size until it has acknowledged the change. A stream that is opened after the change
// starts with the smaller window.
func TestSmallerInitialWindowIsEnforced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.Ignore(wire.WindowUpdate)
		var calls []*h2test.Call[*hyper.Response]
		for range 129 {
			calls = append(calls, getAsync(conn, "/"))
			synctest.Wait() // keeps the requests in order
		}
		for range 130 {
			if _, err := peer.Next(); err != nil {
				t.Fatal(err)
			}
		}
		const small, large, last = 32767, 262143, 2*128 + 1
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteHeaders(last, 0, ":status: 200")
		old, young := calls[0].Want(t, "the first response"), calls[128].Want(t, "the last response")
		for n := large; n > 0; n -= min(n, 16384) {
			peer.WriteData(1, 0, make([]byte, min(n, 16384)))
		}
		peer.WriteData(last, 0, make([]byte, 16384))
		peer.WriteData(last, 0, make([]byte, small-16384))
		peer.WantIdle("the peer has not acknowledged")
		peer.WriteSettingsAck()
		peer.WriteData(last, 0, make([]byte, 1))
		peer.WantRSTStream("more than the smaller window", last, wire.FlowControlError)
		if _, err := io.Copy(io.Discard, young.Body); !errors.Is(err, hyper.ErrCodeFlowControl) {
			t.Errorf("reading: %v", err)
		}
		if n, err := io.ReadFull(old.Body, make([]byte, large)); err != nil {
			t.Errorf("read %d octets: %v", n, err)
		}
		synctest.Wait()
		if credit := peer.Credit(1); credit < small {
			t.Errorf("a stream that is read may carry %d octets", credit)
		}
	})
}
