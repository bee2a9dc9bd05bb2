package hypertest

import (
	"math"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// The tests of this file use values that are too large for an int of 32 bits. Such a platform can
// be tested with
//
//	GOARCH=386 CGO_ENABLED=0 go test ./internal/hypertest

// RFC 9113 §6.9: an increment has 31 bits. A window below 0 may need a larger increment, and thus
// two frames.
func TestWindowBelowZeroIsRaisedInTwoSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stream *hyper.Window
		peer, conn := dialPeer(t, &hyper.Config{InitialStreamWindow: 65535,
			WindowManager: func(w *hyper.Window) hyper.WindowManager {
				if w.StreamID() == 1 {
					stream = w
					return nil
				}
				return hyper.ReadWindow{}.New(w)
			}})
		peer.Ignore(wire.Settings)
		call := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		call.Want(t, "the response")
		for range 4 {
			peer.WriteData(1, 0, make([]byte, 16000))
		}
		updated := h2test.Go(func() (struct{}, error) {
			return struct{}{}, conn.UpdateSettings(t.Context(),
				hyper.Setting{ID: hyper.SettingInitialWindowSize, Value: 0})
		})
		synctest.Wait()
		peer.WriteSettingsAck()
		updated.Want(t, "a smaller window is acknowledged")
		stream.Grant(math.MaxInt32)
		stream.Grant(math.MaxInt32)
		peer.WantWindowUpdate("as much as an increment can be", 1, math.MaxInt32)
		peer.WantWindowUpdate("what was missing to 0", 1, 64000)
		peer.WantIdle("no more")
	})
}

func TestFixedWindowOfTheLargestSizeReopensAtAQuarter(t *testing.T) {
	f := hyper.FixedWindow{Size: math.MaxInt32}
	for _, c := range []struct{ credit, want int }{
		{1 << 30, 0},
		{1 << 29, 0},
		{1<<29 - 1, math.MaxInt32 - (1<<29 - 1)},
		{-5, math.MaxInt32},
	} {
		m := f.New(nil)
		if got := m.Update(hyper.WindowEvent{Kind: hyper.WindowData, Credit: c.credit}); got != c.want {
			t.Errorf("at %d: %d, want %d", c.credit, got, c.want)
		}
	}
}

func TestPushMaxFitsItsSetting(t *testing.T) {
	if math.MaxInt == math.MaxInt32 {
		t.Skip("an int has 32 bits")
	}
	synctest.Test(t, func(t *testing.T) {
		large := int64(1) << 32 // 0 modulo 2^32
		most := int(large)
		peer, _, _ := newPeer(t, &hyper.Config{Push: &hyper.PushPolicy{Max: most}})
		for _, s := range peer.Handshake() {
			if s.ID == wire.SettingMaxConcurrentStreams && s.Value != math.MaxUint32 {
				t.Errorf("MAX_CONCURRENT_STREAMS=%d for Push.Max %d", s.Value, most)
			}
		}
	})
}
