// This file tests what Conn.Batch holds back in the books of the connection: windows, times, and
// positions.

package hypertest

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
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
				larger := hyper.Setting{ID: hyper.SettingMaxFrameSize, Value: 1 << 20}
				go conn.UpdateSettings(t.Context(), larger)
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

// Nothing that a batch holds back counts as sent, although bytes before it in the same stream were
// sent while it was open.
func TestStreamStatsDoNotCountWhatABatchHoldsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, client := newPeer(t, &hyper.Config{WriteStallTimeout: -1})
		peer.Handshake()
		synctest.Wait()
		s := openPosts(t, conn, 1)[0]
		synctest.Wait()
		write := func(n int) {
			t.Helper()
			if _, err := s.Write(make([]byte, n)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		client.SetWriteBuffer(0)
		write(10) // in the write in progress
		write(20) // in the next one
		if err := conn.Batch(t.Context(), func() {
			write(300)
			wantBytes(t, "the peer does not read", s, 0, 330)
			client.SetWriteBuffer(-1)
			peer.Ignore(wire.Headers, wire.Data)
			synctest.Wait()
			wantBytes(t, "the batch is open", s, 30, 300)
			write(4000)
			wantBytes(t, "the batch is still open", s, 30, 4300)
		}); err != nil {
			t.Error(err)
		}
		wantBytes(t, "the batch was written", s, 4330, 0)
		write(50)
		wantBytes(t, "at the end", s, 4380, 0)
	})
}

// A gatedConn lets one Write pass for each value in its channel. A nil channel lets all pass.
type gatedConn struct {
	*h2test.Conn
	gate atomic.Pointer[chan struct{}]
}

func (c *gatedConn) Write(p []byte) (int, error) {
	if gate := c.gate.Load(); gate != nil {
		<-*gate
	}
	return c.Conn.Write(p)
}

// What follows a batch is in the write after it, and counts as sent after that.
func TestStreamStatsDoNotCountWhatFollowsABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := h2test.Pipe()
		nc := &gatedConn{Conn: client}
		peer := h2test.NewPeer(t, server)
		conn, err := hyper.NewConn(t.Context(), nc, &hyper.Config{WriteStallTimeout: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		peer.Handshake()
		peer.Ignore(wire.Headers, wire.Data, wire.GoAway)
		s := openPosts(t, conn, 1)[0]
		synctest.Wait()
		gate := make(chan struct{})
		nc.gate.Store(&gate)
		defer close(gate)
		sizes := []int{10, 20, 300, 4000, 50}
		for i, n := range sizes[:4] {
			write := func() {
				if _, err := s.Write(make([]byte, n)); err != nil {
					t.Error(err)
				}
			}
			if i == 2 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				conn.Batch(ctx, write)
			} else {
				write()
			}
			synctest.Wait()
		}
		var sent int64
		for _, n := range sizes[:3] {
			if got := s.Stats(); got.BytesSent > sent || got.BytesSent+got.BytesUnsent != 4330 {
				t.Errorf("after %d bytes: %+v", sent, got)
			}
			gate <- struct{}{}
			synctest.Wait()
			sent += int64(n)
		}
		if _, err := s.Write(make([]byte, sizes[4])); err != nil {
			t.Error(err)
		}
		wantBytes(t, "before the write after the batch", s, 330, 4050)
		gate <- struct{}{}
		synctest.Wait()
		wantBytes(t, "before the last write", s, 4330, 50)
		gate <- struct{}{}
		synctest.Wait()
		wantBytes(t, "at the end", s, 4380, 0)
	})
}
