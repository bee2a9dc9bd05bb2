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
