package interop

import (
	"fmt"
	"io"
	"testing"
	"time"

	"gohyper.dev/hyper"
)

// checkPriorities sends the signals of RFC 9218, also before the server's SETTINGS are known, and
// requires that the server serves the requests, and others after them.
func checkPriorities(t testing.TB, r *running) {
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
		if _, err := io.CopyN(io.Discard, resp.Body, largeSize/8); err != nil {
			t.Errorf("status %d, then %v", resp.StatusCode, err)
		}
		check(t, resp.Body.Close())
	}
	wantSmall(t, r, conn)
	for _, s := range conn.PeerSettings().Other {
		if s.ID == hyper.SettingNoRFC7540Priorities {
			t.Logf("the server sends %v", s)
		}
	}
}

// mostOfOthers is how much of a less urgent response may come before the end of an urgent one of 64
// MiB, in bytes.
const mostOfOthers = largeSize / 8

// checkUrgentFirst requires that an urgent response comes first.
func checkUrgentFirst(t testing.TB, r *running) {
	urgentFirst(t, r, func(conn *hyper.Conn, p hyper.Priority) (io.ReadCloser, error) {
		resp, err := conn.Do(r.ctx, &hyper.Request{Path: "/large.bin", Priority: p})
		if err != nil {
			return nil, err
		}
		return resp.Body, nil
	})
}

// urgentFirst downloads the large file twice at the same time, and requires that the server sends
// the urgent response before an eighth of the other one, which began earlier. The connection's
// window is smaller than a stream's, so that both streams can always send when it opens.
func urgentFirst(t testing.TB, r *running, get func(*hyper.Conn, hyper.Priority) (io.ReadCloser, error)) {
	windows := hyper.ReadWindow{Stream: 4 << 20, Connection: 1 << 20}
	conn := r.dial(t, hyper.Config{WindowManager: windows.New, InitialStreamWindow: windows.Stream})
	other, err := get(conn, hyper.Priority{Urgency: 7})
	check(t, err)
	defer other.Close()
	_, err = io.CopyN(io.Discard, other, 100_000)
	check(t, err)
	begun := make(chan struct{})
	early, all := make(chan error, 1), make(chan error, 1)
	go func() {
		early <- skipSlowly(other, begun)
	}()
	urgent, err := get(conn, hyper.Priority{Urgency: hyper.MostUrgent})
	close(begun)
	check(t, err)
	defer urgent.Close()
	go func() {
		sum, err := sumOf(urgent)
		if err == nil && sum != r.largeSum {
			err = fmt.Errorf("SHA-256 %s", sum)
		}
		all <- err
	}()
	select {
	case err := <-early:
		t.Fatalf("%d bytes of the other response came before the end of the urgent one: %v", mostOfOthers,
			err)
	case err := <-all:
		check(t, err)
	}
}

// skipSlowly reads little of r until begun is closed. After that it reads mostOfOthers bytes at
// full speed. If it did not read at first, r could fill the window of the connection, and nginx and
// Apache httpd would not send the header of another response.
func skipSlowly(r io.Reader, begun chan struct{}) error {
	for {
		select {
		case <-begun:
			_, err := io.CopyN(io.Discard, r, mostOfOthers)
			return err
		case <-time.After(time.Millisecond):
			if _, err := io.CopyN(io.Discard, r, 16<<10); err != nil {
				return err
			}
		}
	}
}
