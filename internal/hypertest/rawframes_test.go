package hypertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// Frames of any type and content are sent as they are, with nothing between them.
func TestWrittenFramesAreSentUnchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, client := newMuteConn(t, nil)
		client.LogWrites()
		frames := []hyper.Frame{
			hyper.DataFrame(1, hyper.FlagEndStream, []byte("ab")),
			hyper.HeadersFrame(3, 0, []byte{0x82}),
			hyper.ContinuationFrame(3, hyper.FlagEndHeaders, nil),
			hyper.PriorityFrame(5, hyper.Dependency{StreamID: 3, Weight: 9, Exclusive: true}),
			hyper.RSTStreamFrame(7, hyper.ErrCodeCancel),
			hyper.SettingsFrame(hyper.Setting{ID: hyper.SettingEnablePush, Value: 9}),
			hyper.PingFrame(hyper.FlagAck, [8]byte{1, 2, 3}),
			hyper.GoAwayFrame(9, hyper.ErrCodeInternal, "why"),
			hyper.WindowUpdateFrame(0, 0),
			{Type: 0xf0, Flags: 0xff, StreamID: 1<<32 - 1, Payload: []byte("any")},
			{Type: hyper.FrameSettings, StreamID: 5, Payload: []byte("?")},
		}
		if err := conn.WriteFrame(t.Context(), frames...); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		const want = "\x00\x00\x02\x00\x01\x00\x00\x00\x01ab" +
			"\x00\x00\x01\x01\x00\x00\x00\x00\x03\x82" +
			"\x00\x00\x00\x09\x04\x00\x00\x00\x03" +
			"\x00\x00\x05\x02\x00\x00\x00\x00\x05\x80\x00\x00\x03\x09" +
			"\x00\x00\x04\x03\x00\x00\x00\x00\x07\x00\x00\x00\x08" +
			"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x09" +
			"\x00\x00\x08\x06\x01\x00\x00\x00\x00\x01\x02\x03\x00\x00\x00\x00\x00" +
			"\x00\x00\x0b\x07\x00\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x00\x02why" +
			"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
			"\x00\x00\x03\xf0\xff\xff\xff\xff\xffany" +
			"\x00\x00\x01\x04\x00\x00\x00\x00\x05?"
		log := client.WriteLog()
		if got := bytes.Join(log, nil); string(got) != want || len(log) != 1 {
			t.Errorf("%d writes:\ngot  %x\nwant %x", len(log), got, want)
		}
	})
}

// newMuteConn returns a connection whose peer has sent SETTINGS, and takes whatever comes.
func newMuteConn(t *testing.T, cfg *hyper.Config) (*hyper.Conn, *h2test.Conn) {
	t.Helper()
	client, server := h2test.Pipe()
	conn, err := hyper.NewConn(t.Context(), client, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := server.Write(wire.AppendSettings(nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.WaitSettings(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return conn, client
}

// After a field block of the caller, which may have changed the peer's compression table, hyper's
// own requests are understood.
func TestFieldBlocksOfTheCallerDoNotConfuseCompression(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		header := hyper.Header{{Name: "x-known", Value: "entered by the first request"}}
		for i := range uint32(3) {
			own := doAsync(t.Context(), conn, &hyper.Request{Header: header})
			id := 1 + 4*i
			peer.WantHeaders("a request of hyper", id, "x-known: entered by the first request")
			peer.WriteHeaders(id, wire.EndStream, ":status: 204")
			own.Want(t, "its response")
			// :method GET, and an entry that evicts nothing of ours, or a table of another size.
			block := [][]byte{{0x82, 0x40, 1, 'n', 1, 'v'}, {0x3f, 0xe1, 0x01, 0x82}, {0x82}}[i]
			err := conn.WriteFrame(t.Context(), hyper.HeadersFrame(id+2, 5, block))
			if err != nil {
				t.Fatal(err)
			}
			peer.WantHeaders("the raw request", id+2, ":method: GET")
			peer.WriteHeaders(id+2, 0, ":status: 204", "x: y")
			peer.WriteData(id+2, wire.EndStream, []byte("discarded"))
		}
		checkNextRequest(t, peer, conn)
	})
}

// DATA of the caller uses the windows, so that hyper's own uploads keep to what is left of them.
func TestDataOfTheCallerUsesTheWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		s, err := conn.Open(t.Context(), &hyper.Request{Method: "POST"})
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the request", 1)
		for range 4 {
			if err := conn.WriteFrame(t.Context(), hyper.DataFrame(1, 0, make([]byte, 16383))); err != nil {
				t.Fatal(err)
			}
			peer.WantData("raw data", 1, 0, 16383)
		}
		call := h2test.Go(func() (int, error) { return s.Write([]byte("12345")) })
		peer.WantData("three bytes were left", 1, 0, 3)
		synctest.Wait()
		if n := conn.Stats().SendWindow; n != 0 {
			t.Errorf("the connection's window is %d", n)
		}
		peer.WriteWindowUpdate(0, 10)
		peer.WriteWindowUpdate(1, 10)
		peer.WantData("the rest", 1, 0, 2)
		call.Want(t, "the write")
	})
	synctest.Test(t, func(t *testing.T) {
		conn, _ := newMuteConn(t, nil)
		if err := conn.WriteFrame(t.Context(), hyper.DataFrame(1, 0, make([]byte, 65540))); err != nil {
			t.Fatal(err)
		}
		if n := conn.Stats().SendWindow; n != -5 {
			t.Errorf("the connection's window is %d after DATA beyond it, want -5", n)
		}
	})
}

func TestWindowUpdatesOfTheCallerOpenTheWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{InitialStreamWindow: 1, WindowManager: silentWindows})
		call := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		before := conn.Stats().ReceiveWindow
		err := conn.WriteFrame(t.Context(), hyper.WindowUpdateFrame(1, 4), hyper.WindowUpdateFrame(0, 7))
		if err != nil {
			t.Fatal(err)
		}
		peer.WantWindowUpdate("the stream's", 1, 4)
		peer.WantWindowUpdate("the connection's", 0, 7)
		if n := conn.Stats().ReceiveWindow; n != before+7 {
			t.Errorf("the window is %d, before it was %d", n, before)
		}
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, wire.EndStream, []byte("12345"))
		h2test.WantBody(t, "all that the window allows", call.Want(t, "the response").Body, "12345")
	})
}

// SETTINGS of the caller get their own acknowledgment, so those of hyper do not end early.
func TestSettingsOfTheCallerAreAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		if err := conn.WriteFrame(t.Context(), hyper.SettingsFrame()); err != nil {
			t.Fatal(err)
		}
		update := h2test.Go(func() (struct{}, error) {
			return struct{}{}, conn.UpdateSettings(t.Context(), hyper.Setting{ID: 0xf000, Value: 1})
		})
		peer.WantFrame("the caller's", wire.Settings)
		peer.WantFrame("hyper's", wire.Settings)
		peer.WriteSettingsAck()
		synctest.Wait()
		select {
		case <-update.Done:
			t.Error("the acknowledgment was taken for another one")
		default:
		}
		peer.WriteSettingsAck()
		update.Want(t, "the update")
	})
}

func TestWriteFrameReturnsTheUsualErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		large := hyper.DataFrame(1, 0, make([]byte, 1<<24))
		if err := conn.WriteFrame(t.Context(), hyper.PingFrame(0, [8]byte{}), large); err == nil {
			t.Error("a payload of 2^24 bytes was accepted")
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := conn.WriteFrame(ended, hyper.PingFrame(0, [8]byte{})); !errors.Is(err, context.Canceled) {
			t.Errorf("with an ended context: %v", err)
		}
		peer.WantIdle("nothing was sent")
		getAsync(conn, "/")
		peer.WantHeaders("a request", 1)
		peer.WriteGoAway(1, wire.NoError, "")
		synctest.Wait()
		if err := conn.WriteFrame(t.Context(), hyper.PingFrame(0, [8]byte{9})); err != nil {
			t.Errorf("while the connection drains: %v", err)
		}
		peer.WantPing("the frame", 0)
		conn.Close()
		err := conn.WriteFrame(t.Context(), hyper.PingFrame(0, [8]byte{}))
		if !errors.Is(err, hyper.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.Close()
		<-conn.Done()
		var ce *hyper.ConnError
		if err := conn.WriteFrame(t.Context(), hyper.SettingsFrame()); !errors.As(err, &ce) {
			t.Errorf("after the loss of the connection: %v", err)
		}
	})
}

// A peer that does not read makes WriteFrame wait, so that the bytes that wait have a bound.
func TestWriteFrameWaitsForAPeerThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, conn, client := newPeer(t, nil)
		client.SetWriteBuffer(0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		frame, n := hyper.Frame{Type: 0xf0, Payload: make([]byte, 100<<10)}, 0
		var err error
		for ; err == nil; n++ {
			err = conn.WriteFrame(ctx, frame)
		}
		if !errors.Is(err, context.DeadlineExceeded) || n < 5 || n > 20 {
			t.Errorf("%v after %d frames of 100 KiB", err, n)
		}
		conn.Close()
	})
}

// An identifier that a frame of the caller has used is not used for a request. PRIORITY uses none.
func TestFramesOfTheCallerUseUpIdentifiers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		send := func(f hyper.Frame, next uint32) {
			t.Helper()
			if err := conn.WriteFrame(t.Context(), f); err != nil {
				t.Fatal(err)
			}
			peer.WantFrame("the frame", wire.FrameType(f.Type))
			call := getAsync(conn, "/")
			peer.WantHeaders("the next request", next)
			peer.WriteHeaders(next, wire.EndStream, ":status: 204")
			call.Want(t, "its response")
		}
		send(hyper.PriorityFrame(101, hyper.Dependency{}), 1)
		send(hyper.Frame{Type: hyper.FramePriorityUpdate, StreamID: 0, Payload: make([]byte, 4)}, 3)
		send(hyper.HeadersFrame(9, hyper.FlagEndHeaders, hyper.FieldBlock(nil)), 11)
		send(hyper.HeadersFrame(5, hyper.FlagEndHeaders, hyper.FieldBlock(nil)), 13)
		send(hyper.HeadersFrame(1<<31-3, hyper.FlagEndHeaders, hyper.FieldBlock(nil)), 1<<31-1)
		if _, err := conn.Do(t.Context(), &hyper.Request{}); !errors.Is(err, hyper.ErrDrained) {
			t.Errorf("no identifiers are left: %v", err)
		}
	})
}

// writeWhole makes the peer send a frame with the length of its payload.
func writeWhole(peer *h2test.Peer, h wire.FrameHeader, payload []byte) {
	h.Length = len(payload)
	peer.WriteFrame(h, payload)
}

// OnFrame gets every frame of the peer, whole and in order, also those that hyper ignores.
func TestOnFrameGetsEveryFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		var conns []*hyper.Conn
		onFrame := func(c *hyper.Conn, f hyper.Frame) {
			conns = append(conns, c)
			line := f.String()
			if a, ok := f.AltSvc(); ok {
				line += fmt.Sprintf(" %+v", a)
			}
			if list := slices.Collect(f.Origins()); len(list) > 0 {
				line += fmt.Sprint(" ", list)
			}
			if code, ok := f.ErrCode(); ok {
				line += fmt.Sprint(" ", code)
			}
			if f.Type == hyper.FrameData {
				line += fmt.Sprintf(" %.5q", f.Payload)
			}
			got = append(got, line+fmt.Sprint(f.Settings()))
		}
		peer, conn := dialPeer(t, &hyper.Config{Wire: &hyper.Wire{OnFrame: onFrame}})
		call := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		writeWhole(peer, wire.FrameHeader{Type: wire.AltSvc}, []byte("\x00\x09https://ah3=\":1\""))
		writeWhole(peer, wire.FrameHeader{Type: wire.AltSvc, StreamID: 1}, []byte("\x00\x00clear"))
		writeWhole(peer, wire.FrameHeader{Type: wire.AltSvc, StreamID: 1}, []byte("\x00\x01xclear"))
		writeWhole(peer, wire.FrameHeader{Type: wire.AltSvc}, []byte("\x01"))
		writeWhole(peer, wire.FrameHeader{Type: wire.Origin}, []byte("\x00\x09https://a"))
		writeWhole(peer, wire.FrameHeader{Type: 0xf0, Flags: 0x80, StreamID: 1}, []byte("extension"))
		peer.WriteHeadersSplit(1, 0, 1, ":status: 200", "x: y")
		body := strings.Repeat("hello", 10000)
		peer.WriteData(1, 0, []byte(body))
		peer.WriteHeaders(1, wire.EndStream, "trailer: 1")
		h2test.WantBody(t, "the body", call.Want(t, "the response").Body, body)
		peer.WriteGoAway(1, wire.Cancel, "")
		<-conn.Done()
		want := []string{
			"SETTINGS len=0[]", "SETTINGS len=0 ACK[]",
			`ALTSVC len=18 {Origin:https://a Value:h3=":1"}[]`,
			"ALTSVC stream=1 len=7 {Origin: Value:clear}[]", "ALTSVC stream=1 len=8[]", "ALTSVC len=1[]",
			"ORIGIN len=11 [https://a][]", "FRAME_0xf0 stream=1 len=9 flags=0x80[]",
		}
		if !slices.Equal(got[:len(want)], want) {
			t.Errorf("got  %q\nwant %q", got[:len(want)], want)
		}
		rest := strings.Join(got[len(want):], "\n")
		for _, line := range []string{"HEADERS stream=1 len=1[]", "CONTINUATION stream=1 len=1 END_HEADERS[]",
			`DATA stream=1 len=50000 "hello"[]`, "HEADERS stream=1 len=9 END_STREAM END_HEADERS[]",
			"GOAWAY len=8 last=1 code=CANCEL CANCEL[]"} {
			if !strings.Contains(rest, line) {
				t.Errorf("no line %q in\n%s", line, rest)
			}
		}
		if slices.ContainsFunc(conns, func(c *hyper.Conn) bool { return c != conn }) {
			t.Error("OnFrame got another connection")
		}
	})
}

// OnFrame may send frames, and is told of them by no one but the peer.
func TestOnFrameMaySendFrames(t *testing.T) {
	eachConnDoor(t, hyper.Config{Wire: &hyper.Wire{OnFrame: func(c *hyper.Conn, f hyper.Frame) {
		if f.Type == 0xf0 {
			c.WriteFrame(context.Background(), hyper.Frame{Type: 0xf1, Payload: bytes.Clone(f.Payload)})
		}
	}}}, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
		writeWhole(peer.Peer, wire.FrameHeader{Type: 0xf0}, []byte("echo"))
		if f := peer.WantFrame("the answer", 0xf1); string(f.Payload) != "echo" {
			t.Errorf("%q", f.Payload)
		}
	})
}

// A frame above MAX_FRAME_SIZE is not read, with OnFrame or without.
func TestOnFrameGetsNoFrameAboveTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{MaxFrameSize: 16384,
			Wire: &hyper.Wire{OnFrame: func(_ *hyper.Conn, f hyper.Frame) {
				if f.Type == 0xf0 {
					t.Errorf("%v", f)
				}
			}}})
		writeWhole(peer, wire.FrameHeader{Type: 0xf0}, make([]byte, 16385))
		<-conn.Done()
		if err := conn.Err(); !errors.Is(err, hyper.ErrCodeFrameSize) {
			t.Error(err)
		}
	})
}

// A larger MAX_FRAME_SIZE applies at once, a smaller one when the peer has acknowledged it.
func TestMaxFrameSizeChangesOnALiveConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{MaxFrameSize: 20000})
		update := func(size uint32) *h2test.Call[struct{}] {
			call := h2test.Go(func() (struct{}, error) {
				return struct{}{}, conn.UpdateSettings(t.Context(),
					hyper.Setting{ID: hyper.SettingMaxFrameSize, Value: size})
			})
			peer.WantFrame("the update", wire.Settings)
			return call
		}
		frame := func(n int) { writeWhole(peer, wire.FrameHeader{Type: 0xf0}, make([]byte, n)) }
		larger := update(30000)
		frame(30000)
		smaller, again := update(16384), update(25000)
		frame(30000)
		peer.WriteSettingsAck()
		frame(30000)
		larger.Want(t, "the first update")
		peer.WriteSettingsAck()
		smaller.Want(t, "the second update")
		frame(25000)
		peer.WriteSettingsAck()
		again.Want(t, "the third update")
		synctest.Wait()
		if err := conn.Err(); err != nil {
			t.Fatal(err)
		}
		frame(25001)
		<-conn.Done()
		if err := conn.Err(); !errors.Is(err, hyper.ErrCodeFrameSize) {
			t.Error(err)
		}
	})
}

// If WriteFrame uses up the last identifier, the requests that wait for a slot fail at once. No
// slot would help them.
func TestRawFrameOfTheLastIdentifierEndsTheWaitForSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 0})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		call := h2test.Go(func() (*hyper.Response, error) { return conn.Get(ctx, "/") })
		synctest.Wait()
		begin := time.Now()
		frame := hyper.HeadersFrame(1<<31-1, hyper.FlagEndHeaders, hyper.FieldBlock(nil))
		if err := conn.WriteFrame(t.Context(), frame); err != nil {
			t.Fatal(err)
		}
		_, err := call.Wait()
		if waited := time.Since(begin); waited != 0 || !errors.Is(err, hyper.ErrDrained) {
			t.Errorf("it failed after %v with %v", waited, err)
		}
	})
}
