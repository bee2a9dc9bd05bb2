package hyper

import (
	"testing"
	"testing/synctest"
)

// Close drops what was received and not read: its memory is free, the window managers of all
// streams are told, and no interim response is passed on any more.
func TestCloseDropsUnreadData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := map[uint32]int{}
		informed := 0
		peer, conn := dialPeer(t, &Config{WindowManager: func(w *Window) WindowManager {
			return WindowManagerFunc(func(ev WindowEvent) int {
				if ev.Kind == WindowClosed {
					closed[w.StreamID()]++
				}
				return 0
			})
		}})
		s, err := conn.Open(t.Context(), &Request{Informational: func(int, Header) error {
			informed++
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 103")
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 1000))
		synctest.Wait()
		conn.Close()
		if closed[1] != 1 || closed[0] != 1 {
			t.Errorf("WindowClosed was sent so often, by stream: %v", closed)
		}
		if n := s.buf.Len(); n != 0 {
			t.Errorf("%d bytes are kept", n)
		}
		if _, err := s.Response(t.Context()); err != ErrClosed || informed != 0 {
			t.Errorf("Response: %v; Informational was called %d times", err, informed)
		}
		if err := s.Err(); err != ErrClosed {
			t.Errorf("Stream.Err: %v", err)
		}
	})
}
