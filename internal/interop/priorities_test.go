package interop

import (
	"io"
	"testing"

	"gohyper.dev/hyper"
)

// checkPriorities sends the signals of RFC 9218, also before the server's SETTINGS are known, and
// requires that the server serves the requests, and others after them.
func checkPriorities(t *testing.T, r *running) {
	conn := r.dial(t, hyper.Config{})
	for _, p := range []hyper.Priority{{Urgency: hyper.MostUrgent}, {Urgency: 7, Incremental: true}} {
		s, err := conn.Open(r.ctx, &hyper.Request{Path: "/large.bin", Priority: p})
		check(t, err)
		check(t, s.SetPriority(hyper.Priority{Urgency: 5}))
		check(t, s.CloseWrite())
		resp, err := s.Response(r.ctx)
		check(t, err)
		_, err = io.CopyN(io.Discard, resp.Body, 100_000)
		check(t, err)
		check(t, s.SetPriority(p))
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || n == 0 {
			t.Errorf("status %d, %d more bytes, %v", resp.StatusCode, n, err)
		}
	}
	wantSmall(t, r, conn)
	for _, s := range conn.PeerSettings().Other {
		if s.ID == hyper.SettingNoRFC7540Priorities {
			t.Logf("the server sends %v", s)
		}
	}
}
