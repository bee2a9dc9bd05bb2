package hyper

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper/internal/wire"
)

// However many streams wait, a SETTINGS frame changes none of them. The writer examines them once,
// later.
func TestInitialWindowFlappingTouchesNoStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const streams = 1000
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingInitialWindowSize, Value: 0})
		for range streams {
			doAsync(context.Background(), conn, put(strings.NewReader("x")))
		}
		synctest.Wait()
		conn.lock()
		for i := range 1000 {
			if err := conn.setInitialSendWindowLocked(int64(i % 2)); err != nil {
				t.Fatal(err)
			}
		}
		untouched := 0
		for _, s := range conn.streams.byID {
			if s.sender.in == &conn.writer.blocked && s.sendDelta == 0 {
				untouched++
			}
		}
		conn.writer.unblock = false
		err := conn.setInitialSendWindowLocked(0)
		conn.unlock()
		if untouched != streams || err != nil {
			t.Errorf("%d of %d streams are as they were, %v", untouched, streams, err)
		}
		peer.Ignore(wire.Headers, wire.Settings)
		peer.WantIdle("no window was opened in the end")
		peer.Batch(func() {
			for i := range 500 {
				peer.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Value: uint32(1 - i%2)})
			}
		})
		peer.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Value: 1})
		for range streams {
			f := peer.WantFrame("each is served", wire.Data)
			if f.Length != 1 || !f.Flags.Has(wire.EndStream) {
				t.Fatal(f)
			}
		}
	})
}
