package hyper

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

func TestFieldSectionAboveThePeersLimitIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxHeaderListSize, Value: 500},
			h2test.AtMost(1))
		size := 0
		fields := func(n int) *Request {
			return &Request{NoDefaultFields: true, Authority: "a",
				Header: Header{{Name: "x", Value: strings.Repeat("v", n)}}}
		}
		for _, f := range []Field{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"},
			{Name: ":authority", Value: "a"}, {Name: ":path", Value: "/"}, {Name: "x"}} {
			size += f.size()
		}
		for range 2 { // it takes no slot
			var re *RequestError
			if err := doAsync(t.Context(), conn, fields(501-size)).WantErr(t, "501 octets"); !errors.As(err,
				&re) {
				t.Errorf("501 octets: %v", err)
			}
		}
		peer.WantIdle("nothing was sent")
		doAsync(t.Context(), conn, fields(500-size))
		peer.WantHeaders("500 octets fit", 1)
	})
}

// updateAsync calls UpdateSettings on a goroutine of its own.
func updateAsync(ctx context.Context, conn *Conn, settings ...Setting) chan error {
	done := make(chan error, 1)
	go func() { done <- conn.UpdateSettings(ctx, settings...) }()
	return done
}

func TestUpdateSettingsLowersTheWindowsOfLiveStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{WindowManager: silentWindows, InitialStreamWindow: 5000})
		for id := uint32(1); id <= 3; id += 2 {
			getAsync(conn, "/old")
			peer.WantHeaders("a live stream", id)
			peer.WriteHeaders(id, 0, ":status: 200")
		}
		done := updateAsync(t.Context(), conn, Setting{SettingInitialWindowSize, 1000})
		peer.WantFrame("the update", wire.Settings)
		getAsync(conn, "/new")
		peer.WantHeaders("a later stream", 5)
		peer.WriteData(1, 0, make([]byte, 5000)) // the peer did not know yet
		peer.WriteSettingsAck()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		peer.WriteData(3, 0, make([]byte, 1000))
		peer.WriteHeaders(5, 0, ":status: 200")
		peer.WriteData(5, 0, make([]byte, 1000))
		peer.WantIdle("all of that was allowed")
		conn.lock()
		credit := conn.streams.byID[1].window.credit
		conn.unlock()
		if credit != -4000 || peer.Credit(1) != -4000 {
			t.Errorf("credit %d here and %d there, want -4000", credit, peer.Credit(1))
		}
		for id := uint32(3); id <= 5; id += 2 {
			peer.WriteData(id, 0, make([]byte, 1))
			peer.WantRSTStream("one octet too many", id, wire.FlowControlError)
		}
	})
}

// silentWindows returns a manager that grants nothing.
func silentWindows(*Window) WindowManager {
	return WindowManagerFunc(func(WindowEvent) int { return 0 })
}

// FuzzSettings exchanges SETTINGS in both directions and acknowledges them at any time, with an
// upload and a download in progress. The windows must agree on both sides, and both bodies must be
// complete unless the input broke a rule.
func FuzzSettings(f *testing.F) {
	f.Add([]byte{0, 1, 4, 5, 1, 6, 9, 7, 9})
	f.Add([]byte{0, 2, 4, 0, 5, 4, 5, 7, 2, 3, 9, 1, 6, 12, 6, 12, 7, 13})
	f.Add([]byte{2, 0, 1, 2, 12, 1, 6, 10, 2, 2, 6, 10, 1, 1, 7, 15})
	f.Add([]byte{0, 3, 1, 0, 1, 3, 5, 4, 0, 4, 4, 9, 5, 13, 0, 1, 4, 8})
	f.Add([]byte{4, 8, 0, 1, 4, 10, 4, 9, 0, 1, 4, 0})
	f.Add([]byte{2, 14, 8, 2, 3, 2, 8, 1, 1, 6, 9, 8, 1})
	values := [...]uint32{0, 1, 100, 4095, 4096, 16384, 20000, 65535, 65536, 1 << 20, 1<<24 - 1, 1<<31 - 1,
		1 << 31, 1<<32 - 1, 50, 7}
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) > 300 {
			t.Skip()
		}
		defer watchdog(20 * time.Second)()
		synctest.Test(t, func(t *testing.T) {
			a := newAuditor(t, &Config{
				Push: &PushPolicy{Max: 2}, Authority: "own.example", KeepAlive: -1, SettingsTimeout: -1,
				HeaderTableSize: 1000,
				WindowManager: func(*Window) WindowManager {
					return WindowManagerFunc(WindowEvent.Consumed)
				},
			})
			conn, peer := a.conn, a.peer
			defer conn.Close()
			const upload = 150_000
			up := doAsync(t.Context(), conn, &Request{Method: "PUT",
				Body: bytes.NewReader(octetsAt(1, 0, upload))})
			synctest.Wait()
			down := getAsync(conn, "/")
			synctest.Wait()
			peer.WriteSettings()
			unacked := 1
			acked := func() {
				peer.WriteSettingsAck()
				unacked = max(0, unacked-1)
			}
			peer.WriteHeaders(1, 0, ":status: 200")
			peer.WriteHeaders(3, 0, ":status: 200")
			body := down.Want(t, "the download's header").Body
			pushed := uint32(2)
			peer.WritePushPromise(3, pushed, ":method: GET", ":scheme: http", ":authority: own.example",
				":path: /")
			peer.WriteHeaders(pushed, 0, ":status: 200")
			var got, sent, read int64
			look := func(step string) {
				t.Helper()
				for _, f := range a.audit(step) {
					switch {
					case f.Type == wire.Data:
						if i := differsAt(f.Payload, 1, got); i >= 0 || f.StreamID != 1 {
							t.Fatalf("after %s: %v differs from octet %d on", step, f.FrameHeader, i)
						}
						got += int64(f.Length)
					case f.Type == wire.Settings && !f.Flags.Has(wire.Ack):
						unacked++
					}
				}
				unacked = min(unacked, 1000)
			}
			take := func(n int) {
				conn.lock()
				n = min(n, down.Value.s.buf.Len())
				conn.unlock()
				if n == 0 {
					return
				}
				buf := make([]byte, n)
				n, err := body.Read(buf)
				if i := differsAt(buf[:n], 3, read); i >= 0 || err != nil {
					t.Fatalf("the download differs from octet %d on; %v", read+int64(i), err)
				}
				read += int64(n)
			}
			write := func(n int, flags wire.Flags) {
				n = max(0, min(n, peer.Credit(0), peer.Credit(3)))
				peer.WriteData(3, flags, octetsAt(3, sent, n))
				sent += int64(n)
			}
			look("the beginning")
			unacked = 1 // the one in the preface
			in := &script{p}
			for len(in.rest) > 0 && conn.Err() == nil {
				switch op := in.next() % 10; op {
				case 0, 9:
					settings := make([]wire.Setting, in.next()%4)
					for i := range settings {
						settings[i] = wire.Setting{ID: wire.SettingID(in.next() % 10),
							Value: values[in.next()%16]}
					}
					peer.WriteSettings(settings...)
				case 1:
					acked()
				case 2, 3:
					size := min(values[in.next()%16], 1<<30)
					go conn.UpdateSettings(t.Context(), Setting{SettingInitialWindowSize, size})
				case 4:
					a.grant(1, max(1, in.size()))
				case 5:
					a.grant(0, max(1, in.size()))
				case 6:
					write(in.size(), 0)
				case 7:
					take(in.size())
				case 8:
					// If a promise comes between two of our SETTINGS, its window is the one that
					// the peer knows.
					if pushed < 6 {
						pushed += 2
						peer.WritePushPromise(3, pushed, ":method: GET", ":scheme: http",
							":authority: own.example", ":path: /")
						if n := min(int(in.next()), peer.Credit(0), peer.Credit(pushed)); n > 0 {
							peer.WriteHeaders(pushed, 0, ":status: 200")
							peer.WriteData(pushed, 0, make([]byte, n))
						}
					}
				}
				look("an instruction")
			}
			if conn.Err() != nil {
				return
			}
			if a.streams[1] == nil && got < upload || a.streams[3] == nil {
				return // a WINDOW_UPDATE exceeded the largest window
			}
			// The input broke no rule, so the rest must go through.
			for unacked > 0 {
				acked()
				look("an acknowledgment")
			}
			peer.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Value: wire.InitialWindow})
			look("the last SETTINGS")
			if n := upload - got - (wire.InitialWindow + a.allowed[1] - a.sent[1]); conn.Err() == nil &&
				n > 0 {
				a.grant(1, int(n))
			}
			if n := upload - got - (wire.InitialWindow + a.allowed[0] - a.sent[0]); conn.Err() == nil &&
				n > 0 {
				a.grant(0, int(n))
			}
			look("the last windows")
			if conn.Err() != nil {
				return // the raised initial window was too large for a stream
			}
			if got != upload {
				t.Fatalf("%d octets came, want %d:\n%s", got, upload, peer.Log())
			}
			write(1, wire.EndStream)
			peer.WriteData(1, wire.EndStream, nil)
			look("the end of both bodies")
			take(1 << 20)
			if read != sent {
				t.Fatalf("read %d octets of the download, want %d\n%s", read, sent, peer.Log())
			}
			if n, err := body.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Fatalf("behind the download: %d, %v", n, err)
			}
			h2test.WantBody(t, "the upload's answer", up.Want(t, "the upload").Body, "")
			look("the end")
		})
	})
}

// RFC 9113 §5.1.2: endpoints MUST NOT exceed the limit set by their peer. A slot that was granted
// to a waiting caller is taken back if SETTINGS lower the limit before the caller runs, because our
// acknowledgment is sent before the caller's HEADERS would be.
func TestALoweredLimitTakesASlotBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1}
		peer, conn := dialPeer(t, nil, limit)
		first := getAsync(conn, "/1")
		peer.WantHeaders("the only slot", 1)
		second := getAsync(conn, "/2")
		synctest.Wait()
		conn.lock() // both frames come before the caller can run
		conn.streams.byID[1].recvResetLocked(ErrCodeCancel)
		conn.applyLocked(wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 0})
		conn.unlock()
		first.WantErr(t, "reset")
		peer.WantIdle("no stream is allowed")
		peer.WriteSettings(limit)
		peer.WantSettingsAck("one is again")
		peer.WantHeaders("the caller still waits", 3)
		peer.WriteHeaders(3, wire.EndStream, ":status: 204")
		second.Want(t, "the response")
	})
}
