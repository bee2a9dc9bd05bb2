// This file tests what Conn.Batch holds back in the books of the connection: windows, times, and
// positions.

package hypertest

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// A frame of DATA as large as the whole batch ends the batch at once. It does not wait for the end
// of the batch, which would wait for the Write.
func TestBatchEndsAtOnceWithOneFrameThatIsTooLarge(t *testing.T) {
	for _, size := range []int{65_526, 65_527, 65_528, 65_535, 70_000, 200_000} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxFrameSize, Value: 1 << 20},
				wire.Setting{ID: wire.SettingInitialWindowSize, Value: 1 << 20})
			peer.WriteWindowUpdate(0, 1<<20)
			synctest.Wait()
			s := openPosts(t, conn, 1)[0]
			content := bytes.Repeat([]byte("x"), size)
			begin := time.Now()
			err := conn.Batch(t.Context(), func() {
				if n, err := s.Write(content); n != size || err != nil {
					t.Errorf("Write of %d bytes: %d, %v", size, n, err)
				}
			})
			if waited := time.Since(begin); waited != 0 {
				t.Errorf("with %d bytes it took %v", size, waited)
			}
			if split := errors.Is(err, hyper.ErrBatchSplit); split != (size+wire.HeaderLen > 64<<10) {
				t.Errorf("with %d bytes: %v", size, err)
			}
			s.CloseWrite()
			peer.WantHeaders("the request", 1)
			peer.WantBody("all of the body", 1, content)
		})
	}
}

// A PING or SETTINGS that a batch holds back is not on its way yet: the peer's time to acknowledge
// it begins at the end of the batch.
func TestBatchDoesNotTakeFromThePeersTime(t *testing.T) {
	const hold, limit = 3 * time.Second, 2 * time.Second
	for name, c := range map[string]struct {
		cfg  hyper.Config
		send func(t *testing.T, conn *hyper.Conn)
		late error // if the peer is silent
	}{
		"keep-alive": {hyper.Config{KeepAlive: time.Second, PingTimeout: limit},
			func(*testing.T, *hyper.Conn) {}, hyper.ErrPingTimeout},
		"SETTINGS": {hyper.Config{KeepAlive: -1, SettingsTimeout: limit},
			func(t *testing.T, conn *hyper.Conn) {
				go conn.UpdateSettings(t.Context(), hyper.Setting{ID: hyper.SettingMaxFrameSize, Value: 1 << 20})
			}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &c.cfg)
				synctest.Wait()
				begin := time.Now()
				if err := conn.Batch(t.Context(), func() {
					c.send(t, conn)
					time.Sleep(hold)
				}); err != nil {
					t.Errorf("Batch: %v", err)
				}
				// The peer takes almost all of its time.
				time.Sleep(limit - time.Millisecond)
				if err := conn.Err(); err != nil {
					t.Fatalf("after %v: %v", time.Since(begin), err)
				}
				time.Sleep(2 * time.Millisecond)
				if err := conn.Err(); err == nil || c.late != nil && !errors.Is(err, c.late) {
					t.Errorf("a silent peer: %v", err)
				}
				peer.Ignore(wire.Ping, wire.Settings, wire.GoAway)
			})
		})
	}
}

// The time for which a batch holds a PING back is no part of the round trip.
func TestBatchIsNoPartOfTheRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{KeepAlive: -1})
		peer.AutoPing()
		synctest.Wait()
		measured := make(chan time.Duration, 1)
		if err := conn.Batch(t.Context(), func() {
			go func() {
				rtt, err := conn.Ping(t.Context())
				if err != nil {
					t.Error(err)
				}
				measured <- rtt
			}()
			time.Sleep(time.Second)
		}); err != nil {
			t.Error(err)
		}
		if rtt := <-measured; rtt >= time.Second {
			t.Errorf("the round trip took %v", rtt)
		}
		if stats := conn.Stats(); stats.RTT >= time.Second {
			t.Errorf("Stats says %v", stats.RTT)
		}
	})
}
