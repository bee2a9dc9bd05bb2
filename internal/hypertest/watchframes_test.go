package hypertest

import (
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// heardBy returns a manager that watches frames and appends each event to heard.
func heardBy(w *hyper.Window, heard *[]string) hyper.WindowManager {
	w.WatchFrames()
	inner := hyper.ReadWindow{}.New(w)
	return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
		switch ev.Kind {
		case hyper.WindowFrame:
			*heard = append(*heard, fmt.Sprintf("%s %d len=%d flags=%#x", ev.FrameName(), ev.StreamID,
				ev.Bytes, ev.Flags))
		case hyper.WindowData:
			*heard = append(*heard, fmt.Sprintf("Data len=%d", ev.Bytes))
		}
		return inner.Update(ev)
	})
}

// A manager that watches frames sees each frame once and in order. The connection's manager sees
// all frames, and a stream's manager sees those of its stream.
func TestManagerThatWatchesFramesGetsEachOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var conn, stream []string
		peer, c := dialPeer(t, &hyper.Config{
			Push: &hyper.PushPolicy{},
			WindowManager: func(w *hyper.Window) hyper.WindowManager {
				if w.StreamID() == 0 {
					return heardBy(w, &conn)
				}
				return hyper.ReadWindow{}.New(w)
			},
		})
		call := doAsync(t.Context(), c, &hyper.Request{
			Path:          "/",
			WindowManager: func(w *hyper.Window) hyper.WindowManager { return heardBy(w, &stream) },
		})
		peer.Ignore(wire.WindowUpdate)
		peer.WantHeaders("the request", 1)
		peer.WriteWindowUpdate(0, 100)
		peer.WriteWindowUpdate(1, 200)
		peer.WriteSettings()
		peer.WantSettingsAck("of the second SETTINGS")
		peer.WritePing(0, [8]byte{})
		peer.WantPing("its answer", wire.Ack)
		peer.WriteFrame(wire.FrameHeader{Type: wire.Priority, StreamID: 1, Length: 5}, make([]byte, 5))
		peer.WriteFrame(wire.FrameHeader{Type: 0xbe, StreamID: 1, Flags: 7, Length: 3}, make([]byte, 3))
		peer.WriteHeaders(1, 0, ":status: 103")
		peer.WriteHeadersSplit(1, 0, 1, ":status: 200")
		peer.WritePushPromise(1, 2, ":method: GET", ":scheme: http", ":authority: "+c.RemoteAddr().String(),
			":path: /p")
		peer.WriteData(1, 0, make([]byte, 9))
		peer.WriteTrailers(1, "a: b")
		resp := call.Want(t, "the response")
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		peer.WriteRSTStream(2, wire.Cancel)
		peer.WriteGoAway(1, wire.NoError, "bye")
		synctest.Wait()
		name := func(list []string) (names []string) {
			for _, line := range list {
				var name string
				fmt.Sscan(line, &name)
				names = append(names, name)
			}
			return names
		}
		want := []string{"SETTINGS", "SETTINGS", "WINDOW_UPDATE", "WINDOW_UPDATE", "SETTINGS", "PING",
			"PRIORITY", wire.FrameType(0xbe).String(),
			"HEADERS", "HEADERS", "PUSH_PROMISE", "Data", "HEADERS", "RST_STREAM", "GOAWAY"}
		if got := name(conn); !slices.Equal(got, want) {
			t.Errorf("the connection's manager heard %q\nwant %q", conn, want)
		}
		want = []string{"WINDOW_UPDATE", "PRIORITY", wire.FrameType(0xbe).String(), "HEADERS", "HEADERS",
			"PUSH_PROMISE", "Data", "HEADERS"}
		if got := name(stream); !slices.Equal(got, want) {
			t.Errorf("the stream's manager heard %q\nwant %q", stream, want)
		}
		if want := fmt.Sprintf("%v 1 len=3 flags=0x7", wire.FrameType(0xbe)); !slices.Contains(stream, want) {
			t.Errorf("%q is not among %q", want, stream)
		}
	})
}

// A manager that does not watch frames sees none, even if another manager watches.
func TestManagerThatDoesNotWatchFramesGetsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var heard, other []string
		peer, c := dialPeer(t, nil)
		for _, watches := range []bool{true, false} {
			doAsync(t.Context(), c, &hyper.Request{WindowManager: func(w *hyper.Window) hyper.WindowManager {
				if watches {
					return heardBy(w, &heard)
				}
				return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
					if ev.Kind == hyper.WindowFrame || ev.FrameName() != "" {
						other = append(other, ev.FrameName())
					}
					return 0
				})
			}})
			synctest.Wait()
		}
		peer.Ignore(wire.WindowUpdate)
		peer.WantHeaders("the first", 1)
		peer.WantHeaders("the second", 3)
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteHeaders(3, 0, ":status: 200")
		peer.WriteSettings()
		peer.WantSettingsAck("all was read")
		if len(heard) != 1 || other != nil {
			t.Errorf("the one that watches heard %q, the other %q", heard, other)
		}
	})
}

// The value that a manager returns for a frame is a grant. A negative value ends its stream, or the
// connection if it is the connection's manager.
func TestManagerAnswersFrames(t *testing.T) {
	for name, answer := range map[string]int{"a grant": 5, "a negative answer": -1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, c := dialPeer(t, nil)
				call := doAsync(t.Context(), c,
					&hyper.Request{WindowManager: func(w *hyper.Window) hyper.WindowManager {
						w.WatchFrames()
						return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
							if ev.Kind == hyper.WindowFrame {
								return answer
							}
							return 0
						})
					}})
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: 200")
				if answer > 0 {
					peer.WantWindowUpdate("the answer", 1, answer)
					call.Want(t, "the response").Body.Close()
					return
				}
				call.WantErr(t, "the manager's misconduct")
				peer.WantRSTStream("the stream ends", 1, wire.InternalError)
				peer.WritePing(0, [8]byte{1})
				peer.WantPing("the connection goes on", wire.Ack)
			})
		})
	}
}
