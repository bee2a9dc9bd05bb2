// This file tests that flow-control credit is returned however a stream ends.

package hypertest

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// RFC 9113 §6.9.1: a receiver MAY treat DATA beyond its window as FLOW_CONTROL_ERROR. hyper does so
// from the first byte.
func TestStreamWindowHoldsToTheByte(t *testing.T) {
	for _, c := range []struct {
		name string
		over func(*h2test.Peer)
	}{
		{"one octet", func(p *h2test.Peer) { p.WriteData(1, 0, make([]byte, 1)) }},
		{"padding", func(p *h2test.Peer) { p.WritePaddedData(1, 0, nil, 0) }},
		{"END_STREAM", func(p *h2test.Peer) { p.WriteData(1, wire.EndStream, make([]byte, 1)) }},
		{"a frame that has not come yet", func(p *h2test.Peer) {
			p.WriteRaw(wire.AppendFrameHeader(nil, wire.FrameHeader{Length: 1, Type: wire.Data, StreamID: 1}))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &hyper.Config{InitialStreamWindow: 20,
					WindowManager: func(w *hyper.Window) hyper.WindowManager {
						if w.StreamID() == 0 {
							return giveBack(w)
						}
						return nil
					}})
				peer.Ignore(wire.WindowUpdate)
				resp := answerGet(t, peer, conn, 1, ":status: 200")
				peer.WriteData(1, 0, make([]byte, 9))
				// The payload has 4 bytes, 6 of padding, and the padding's length.
				peer.WritePaddedData(1, 0, make([]byte, 4), 6)
				peer.WriteData(1, 0, nil)
				peer.WantIdle("exactly full, and an empty frame needs no room")
				c.over(peer)
				peer.WantRSTStream("one octet too many", 1, wire.FlowControlError)
				_, err := io.ReadAll(resp.Body)
				var s *hyper.StreamError
				if !errors.As(err, &s) || s.Code != hyper.ErrCodeFlowControl || s.FromPeer ||
					s.StreamID != 1 {
					t.Errorf("got %v", err)
				}
				if !strings.Contains(c.name, "not come") {
					h2test.WantFullCredit(t, peer, "the connection gets all of it back")
				}
			})
		})
	}
}

func TestConnectionWindowHoldsToTheByte(t *testing.T) {
	for _, c := range []struct {
		name string
		over func(*h2test.Peer)
	}{
		{"on a stream", func(p *h2test.Peer) { p.WriteData(3, 0, make([]byte, 1)) }},
		{"late", func(p *h2test.Peer) { p.WriteData(5, 0, make([]byte, 1)) }},
		{"padding", func(p *h2test.Peer) { p.WritePaddedData(3, 0, nil, 0) }},
		{"a frame that has not come yet", func(p *h2test.Peer) {
			p.WriteRaw(wire.AppendFrameHeader(nil, wire.FrameHeader{Length: 1, Type: wire.Data, StreamID: 3}))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				none := func(*hyper.Window) hyper.WindowManager { return nil }
				peer, conn := dialPeer(t, &hyper.Config{WindowManager: none})
				first := answerGet(t, peer, conn, 1, ":status: 200")
				answerGet(t, peer, conn, 3, ":status: 200")
				answerGet(t, peer, conn, 5, ":status: 200").Body.Close()
				peer.WantRSTStream("it is not read", 5, wire.Cancel)
				for _, id := range []uint32{1, 3, 5} {
					peer.WriteData(id, 0, make([]byte, wire.InitialWindow/3/2))
					peer.WriteData(id, 0, make([]byte, wire.InitialWindow/3-wire.InitialWindow/3/2))
				}
				peer.WriteData(1, 0, nil)
				peer.WantIdle("exactly full")
				c.over(peer)
				peer.WantGoAway("one octet too many", 0, wire.FlowControlError)
				peer.WantClosed("and the end")
				if n, err := io.Copy(io.Discard, first.Body); n != wire.InitialWindow/3 ||
					!errors.Is(err, hyper.ErrCodeFlowControl) {
					t.Errorf("read %d, %v", n, err)
				}
			})
		})
	}
}

// The peer may use a grant only when its WINDOW_UPDATE has been sent, whatever the manager has
// returned.
func TestGrantCountsWhenItIsAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe := newPeer(t, &hyper.Config{InitialStreamWindow: 10, WindowManager: giveBack})
		peer.Handshake()
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 10))
		synctest.Wait()
		pipe.SetWriteBuffer(0)
		go conn.Ping(t.Context())
		synctest.Wait() // the PING's write blocks
		h2test.ReadBytes(t, resp.Body, 10)
		peer.WriteData(1, 0, make([]byte, 1))
		if _, err := io.ReadAll(resp.Body); !errors.Is(err, hyper.ErrCodeFlowControl) {
			t.Errorf("got %v", err)
		}
	})
}

// RFC 9113 §6.9.2, §6.5.3: a change of the initial window moves the windows of open streams. It is
// in force once the peer has acknowledged it.
func TestSmallerInitialWindowIsEnforcedOnceAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		none := func(*hyper.Window) hyper.WindowManager { return nil }
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: none})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		done := make(chan error)
		go func() {
			done <- conn.UpdateSettings(t.Context(),
				hyper.Setting{ID: hyper.SettingInitialWindowSize, Value: 10})
		}()
		peer.WantFrame("smaller", wire.Settings)
		peer.WriteData(1, 0, make([]byte, 20))
		peer.WantIdle("the peer need not have seen it")
		other := answerGet(t, peer, conn, 3, ":status: 200")
		peer.WriteData(3, 0, make([]byte, 10))
		peer.WantIdle("a later stream begins with it")
		peer.WriteSettingsAck()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		peer.WriteData(1, 0, make([]byte, 1))
		peer.WantRSTStream("21 of 10", 1, wire.FlowControlError)
		peer.WriteData(3, 0, make([]byte, 1))
		peer.WantRSTStream("11 of 10", 3, wire.FlowControlError)
		resp.Body.Close()
		other.Body.Close()
	})
}

func TestLargerInitialWindowMayBeUsedBeforeTheAcknowledgmentIsHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{InitialStreamWindow: 10,
			WindowManager: func(*hyper.Window) hyper.WindowManager { return nil }})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		go conn.UpdateSettings(t.Context(), hyper.Setting{ID: hyper.SettingInitialWindowSize, Value: 20})
		peer.WantFrame("larger", wire.Settings)
		peer.WriteData(1, 0, make([]byte, 20))
		peer.WriteSettingsAck()
		peer.WantIdle("20 of 20")
		peer.WriteData(1, 0, make([]byte, 1))
		peer.WantRSTStream("21 of 20", 1, wire.FlowControlError)
		resp.Body.Close()
	})
}

// RFC 9113 §6.9: every DATA frame counts against the connection's window, even if it is refused.
func TestRefusedDataComesBackToTheConnection(t *testing.T) {
	for _, c := range []struct {
		name   string
		refuse func(peer *h2test.Peer)
		code   wire.ErrCode
	}{
		{"before HEADERS", func(p *h2test.Peer) { p.WritePaddedData(1, 0, make([]byte, 100), 10) },
			wire.ProtocolError},
		{"beyond the stream's window", func(p *h2test.Peer) {
			p.WriteHeaders(1, 0, ":status: 200")
			p.WritePaddedData(1, 0, make([]byte, 1100), 10)
		}, wire.FlowControlError},
		{"beyond the content-length", func(p *h2test.Peer) {
			p.WriteHeaders(1, 0, ":status: 200", "content-length: 5")
			p.WritePaddedData(1, 0, make([]byte, 6), 10)
		}, wire.ProtocolError},
		{"behind trailers", func(p *h2test.Peer) {
			p.WriteHeaders(1, 0, ":status: 200")
			p.WriteTrailers(1, "x: y")
			p.WritePaddedData(1, 0, make([]byte, 6), 10)
		}, wire.StreamClosed},
		{"behind END_STREAM", func(p *h2test.Peer) {
			p.WriteHeaders(1, 0, ":status: 200")
			p.WriteData(1, wire.EndStream, nil)
			p.WritePaddedData(1, wire.EndStream, make([]byte, 6), 10)
		}, wire.StreamClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &hyper.Config{InitialStreamWindow: 1000, WindowManager: giveBack})
				peer.Ignore(wire.WindowUpdate)
				s, err := conn.Open(t.Context(), &hyper.Request{})
				if err != nil {
					t.Fatal(err)
				}
				peer.WantHeaders("the request", 1)
				c.refuse(peer)
				peer.WantRSTStream(c.name, 1, c.code)
				h2test.WantFullCredit(t, peer, c.name)
				if _, err := s.Response(t.Context()); !errors.Is(err, hyper.ErrCode(c.code)) {
					t.Errorf("Response: %v", err)
				}
				for range 3 { // no more than the stream's window
					peer.WritePaddedData(1, 0, make([]byte, 100), 155)
				}
				h2test.WantFullCredit(t, peer, "late DATA")
				peer.WantIdle("and no second RST_STREAM")
			})
		})
	}
}

func TestPaddingComesBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: giveBack})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WritePaddedData(1, 0, []byte("x"), 255)
		peer.WantWindowUpdate("the padding and its length", 0, 256)
		peer.WantWindowUpdate("of the stream, too", 1, 256)
		peer.WantIdle("the octet was not read")
		peer.WritePaddedData(1, wire.EndStream, []byte("y"), 0)
		peer.WantWindowUpdate("no padding takes an octet as well", 0, 1)
		h2test.WantBody(t, "without any of it", resp.Body, "xy")
		peer.WantWindowUpdate("what was read", 0, 2)
		peer.WantIdle("the stream has ended")
	})
}

func TestDataIsReadBeforeItsFrameIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe := newPeer(t, nil)
		peer.Handshake()
		pipe.SetChunk(1)
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-length: 10")
		h := wire.FrameHeader{Length: 10, Type: wire.Data, Flags: wire.EndStream, StreamID: 1}
		peer.WriteRaw(append(wire.AppendFrameHeader(nil, h), "0123"...))
		read := make([]byte, 4)
		if _, err := io.ReadFull(resp.Body, read); err != nil || string(read) != "0123" {
			t.Fatalf("read %q, %v", read, err)
		}
		rest := make(chan string)
		go func() {
			p, err := io.ReadAll(resp.Body)
			rest <- fmt.Sprintf("%s %v", p, err)
		}()
		peer.WantIdle("it waits for the rest")
		peer.WriteRaw([]byte("456789"))
		if got := <-rest; got != "456789 <nil>" {
			t.Errorf("then %q", got)
		}
	})
}

func TestExchangeInReadsOfOneByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe := newPeer(t, &hyper.Config{WindowManager: giveBack})
		pipe.SetChunk(1)
		peer.Handshake()
		peer.Ignore(wire.WindowUpdate)
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteHeadersSplit(1, 0, 3, ":status: 200", "content-length: 700",
			"x-long: "+strings.Repeat("x", 100))
		var want []byte
		for i := range 7 {
			p := []byte(strings.Repeat(fmt.Sprint(i), 100))
			want = append(want, p...)
			peer.WritePaddedData(1, 0, p, 50*i%256)
			peer.WritePaddedData(1, 0, nil, 5)
		}
		peer.WriteTrailers(1, "x-sum: 1")
		resp := got.Want(t, "the response")
		h2test.WantBody(t, "all of it", resp.Body, string(want))
		if resp.Trailer().Get("x-sum") != "1" {
			t.Errorf("trailer %v", resp.Trailer())
		}
		h2test.WantFullCredit(t, peer, "data and padding")
	})
}

func TestConnectionLostWithinADataFrameDeliversWhatCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteRaw(append(wire.AppendFrameHeader(nil,
			wire.FrameHeader{Length: 10, Type: wire.Data, StreamID: 1}), "0123"...))
		peer.Close()
		read, err := io.ReadAll(resp.Body)
		if string(read) != "0123" || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("read %q, %v", read, err)
		}
	})
}

func TestResetWithinADataFrameKeepsTheBooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: giveBack})
		peer.Ignore(wire.WindowUpdate)
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteRaw(append(wire.AppendFrameHeader(nil,
			wire.FrameHeader{Length: 10, Type: wire.Data, StreamID: 1}), "0123"...))
		h2test.ReadBytes(t, resp.Body, 2)
		resp.Body.Close()
		peer.WantRSTStream("in the middle of a frame", 1, wire.Cancel)
		peer.WriteRaw([]byte("456789"))
		peer.WantIdle("its rest is passed over")
		other := answerGet(t, peer, conn, 3, ":status: 200")
		peer.WriteData(3, wire.EndStream, []byte("next"))
		h2test.WantBody(t, "the next frame is found", other.Body, "next")
		synctest.Wait()
		// The test peer does not count the frame that was sent raw.
		if got, want := peer.Credit(0), wire.InitialWindow+10; got != want {
			t.Errorf("credit %d, want %d", got, want)
		}
	})
}

func TestUnreadStreamDoesNotStopOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: hyper.ReadWindow{Stream: wire.InitialWindow,
			Connection: 2 * wire.InitialWindow}.New})
		peer.Ignore(wire.WindowUpdate)
		idle := answerGet(t, peer, conn, 1, ":status: 200")
		for peer.Credit(1) > 0 {
			peer.WriteData(1, 0, make([]byte, min(16384, peer.Credit(1))))
		}
		busy := answerGet(t, peer, conn, 3, ":status: 200")
		done := make(chan int64)
		go func() {
			n, _ := io.Copy(io.Discard, busy.Body)
			done <- n
		}()
		const size = 1 << 20
		for left := size; left > 0; {
			synctest.Wait()
			n := min(16384, left, peer.Credit(0), peer.Credit(3))
			if n <= 0 {
				t.Fatalf("%d octets are left and the windows closed: %d, %d", left, peer.Credit(0),
					peer.Credit(3))
			}
			peer.WriteData(3, 0, make([]byte, n))
			left -= n
		}
		peer.WriteData(3, wire.EndStream, nil)
		if n := <-done; n != size {
			t.Errorf("read %d octets", n)
		}
		idle.Body.Close()
	})
}
