package hyper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// RFC 9113 §6.9.1: a receiver MAY treat DATA beyond its window as FLOW_CONTROL_ERROR. hyper does so
// from the first byte.
func TestStreamWindowHoldsToTheOctet(t *testing.T) {
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
				peer, conn := dialPeer(t, &Config{InitialStreamWindow: 20,
					WindowManager: func(w *Window) WindowManager {
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
				var s *StreamError
				if !errors.As(err, &s) || s.Code != ErrCodeFlowControl || s.FromPeer || s.StreamID != 1 {
					t.Errorf("got %v", err)
				}
				if !strings.Contains(c.name, "not come") {
					wantFullCredit(t, peer, "the connection gets all of it back")
				}
			})
		})
	}
}

func TestConnectionWindowHoldsToTheOctet(t *testing.T) {
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
				peer, conn := dialPeer(t, &Config{WindowManager: func(*Window) WindowManager { return nil }})
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
					!errors.Is(err, ErrCodeFlowControl) {
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
		peer, conn, pipe := newPeer(t, &Config{InitialStreamWindow: 10, WindowManager: giveBack})
		peer.Handshake()
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 10))
		synctest.Wait()
		pipe.SetWriteBuffer(0)
		go conn.Ping(t.Context())
		synctest.Wait() // the PING's write blocks
		readOctets(t, resp.Body, 10)
		peer.WriteData(1, 0, make([]byte, 1))
		if _, err := io.ReadAll(resp.Body); !errors.Is(err, ErrCodeFlowControl) {
			t.Errorf("got %v", err)
		}
	})
}

// RFC 9113 §6.9.2, §6.5.3: a change of the initial window moves the windows of open streams. It is
// in force once the peer has acknowledged it.
func TestSmallerInitialWindowIsEnforcedOnceAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{WindowManager: func(*Window) WindowManager { return nil }})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		done := make(chan error)
		go func() { done <- conn.UpdateSettings(t.Context(), Setting{SettingInitialWindowSize, 10}) }()
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
		peer, conn := dialPeer(t, &Config{InitialStreamWindow: 10,
			WindowManager: func(*Window) WindowManager { return nil }})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		go conn.UpdateSettings(t.Context(), Setting{SettingInitialWindowSize, 20})
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
				peer, conn := dialPeer(t, &Config{InitialStreamWindow: 1000, WindowManager: giveBack})
				peer.Ignore(wire.WindowUpdate)
				s, err := conn.Open(t.Context(), &Request{})
				if err != nil {
					t.Fatal(err)
				}
				peer.WantHeaders("the request", 1)
				c.refuse(peer)
				peer.WantRSTStream(c.name, 1, c.code)
				wantFullCredit(t, peer, c.name)
				if _, err := s.Response(t.Context()); !errors.Is(err, ErrCode(c.code)) {
					t.Errorf("Response: %v", err)
				}
				for range 3 { // no more than the stream's window
					peer.WritePaddedData(1, 0, make([]byte, 100), 155)
				}
				wantFullCredit(t, peer, "late DATA")
				peer.WantIdle("and no second RST_STREAM")
			})
		})
	}
}

func TestPaddingComesBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{WindowManager: giveBack})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WritePaddedData(1, 0, []byte("x"), 255)
		peer.WantWindowUpdate("the padding and its length", 0, 256)
		peer.WantWindowUpdate("of the stream, too", 1, 256)
		peer.WantIdle("the octet was not read")
		peer.WritePaddedData(1, wire.EndStream, []byte("y"), 0)
		peer.WantWindowUpdate("no padding takes an octet as well", 0, 1)
		wantBody(t, "without any of it", resp.Body, "xy")
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

func TestExchangeInReadsOfOneOctet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe := newPeer(t, &Config{WindowManager: giveBack})
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
		resp := got.want(t, "the response")
		wantBody(t, "all of it", resp.Body, string(want))
		if resp.Trailer().Get("x-sum") != "1" {
			t.Errorf("trailer %v", resp.Trailer())
		}
		wantFullCredit(t, peer, "data and padding")
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
		peer, conn := dialPeer(t, &Config{WindowManager: giveBack})
		peer.Ignore(wire.WindowUpdate)
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteRaw(append(wire.AppendFrameHeader(nil,
			wire.FrameHeader{Length: 10, Type: wire.Data, StreamID: 1}), "0123"...))
		readOctets(t, resp.Body, 2)
		resp.Body.Close()
		peer.WantRSTStream("in the middle of a frame", 1, wire.Cancel)
		peer.WriteRaw([]byte("456789"))
		peer.WantIdle("its rest is passed over")
		other := answerGet(t, peer, conn, 3, ":status: 200")
		peer.WriteData(3, wire.EndStream, []byte("next"))
		wantBody(t, "the next frame is found", other.Body, "next")
		synctest.Wait()
		// The test peer does not count the frame that was sent raw.
		if got, want := peer.Credit(0), wire.InitialWindow+10; got != want {
			t.Errorf("credit %d, want %d", got, want)
		}
	})
}

// A frame that is larger than a block is read directly into the stream's blocks. What the tests
// above show for small frames holds for it, too.
func TestLargeFrameInPartsKeepsTheBooks(t *testing.T) {
	const n = 3 * maxBlock
	body := octetsAt(1, 0, n)
	begun := append(wire.AppendFrameHeader(nil, wire.FrameHeader{Length: n, Type: wire.Data, StreamID: 1}),
		body[:n/2]...)
	exchange := func(t *testing.T, f func(peer *h2test.Peer, conn *Conn, resp *Response)) {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			peer.Ignore(wire.WindowUpdate)
			peer.AutoPing()
			resp := answerGet(t, peer, conn, 1, ":status: 200")
			peer.WriteRaw(begun)
			got := make([]byte, n/2)
			if _, err := io.ReadFull(resp.Body, got[:n/4]); err != nil {
				t.Fatal(err)
			}
			f(peer, conn, resp)
			synctest.Wait()
			conn.lock()
			defer conn.unlock()
			if conn.ending.err == nil && conn.flow.window.unread != 0 {
				t.Errorf("%d octets are booked as unread", conn.flow.window.unread)
			}
			if conn.reader.frames.block != nil {
				t.Error("a block is kept")
			}
		})
	}
	next := func(t *testing.T, peer *h2test.Peer, conn *Conn) {
		other := answerGet(t, peer, conn, 3, ":status: 200")
		peer.WriteData(3, wire.EndStream, []byte("next"))
		wantBody(t, "the next frame is found", other.Body, "next")
	}
	t.Run("read", func(t *testing.T) {
		exchange(t, func(peer *h2test.Peer, conn *Conn, resp *Response) {
			peer.WriteRaw(body[n/2:])
			peer.WriteData(1, wire.EndStream, []byte("end"))
			wantBody(t, "all of it", resp.Body, string(body[n/4:])+"end")
			next(t, peer, conn)
		})
	})
	t.Run("reset", func(t *testing.T) {
		exchange(t, func(peer *h2test.Peer, conn *Conn, resp *Response) {
			resp.Body.Close()
			peer.WantRSTStream("in the middle of a frame", 1, wire.Cancel)
			peer.WriteRaw(body[n/2:])
			peer.WantIdle("its rest is passed over")
			next(t, peer, conn)
		})
	})
	t.Run("reset by the peer", func(t *testing.T) {
		exchange(t, func(peer *h2test.Peer, conn *Conn, resp *Response) {
			peer.WriteRaw(body[n/2:])
			peer.WriteRSTStream(1, wire.InternalError)
			if got, err := io.ReadAll(resp.Body); !bytes.Equal(got, body[n/4:]) ||
				!errors.Is(err, ErrCodeInternal) {
				t.Errorf("%d octets and %v", len(got), err)
			}
			next(t, peer, conn)
		})
	})
	t.Run("lost", func(t *testing.T) {
		exchange(t, func(peer *h2test.Peer, conn *Conn, resp *Response) {
			peer.Close()
			if got, err := io.ReadAll(resp.Body); !bytes.Equal(got, body[n/4:n/2]) ||
				!errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%d octets and %v", len(got), err)
			}
		})
	})
}

func TestStreamNobodyReadsDoesNotStopOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{WindowManager: ReadWindow{Stream: wire.InitialWindow,
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

// Whatever happens on the streams: once everything was read or closed, the peer may send the whole
// window of the connection again.
func TestCreditIsConserved(t *testing.T) {
	seeds := uint64(150)
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			w := newCreditWalk(t, seed, giveBack)
			w.peer.AutoPing()
			for range 120 {
				w.step()
			}
			w.finish()
		})
	}
}

// A creditWalk does at random what a peer and a caller may do, and some things that a peer may not
// do.
type creditWalk struct {
	t       *testing.T
	seed    uint64
	r       *rand.Rand
	peer    *h2test.Peer
	conn    *Conn
	streams []*walkStream
	opened  uint32 // ID of the next request

	forgiving bool   // a window manager may end an exchange
	pushed    uint32 // ID of the next promise
}

type walkStream struct {
	id     uint32
	s      *Stream
	resp   *Response
	cancel context.CancelFunc
	over   bool // the peer sends nothing more on it
}

func newCreditWalk(t *testing.T, seed uint64, managers WindowManagerFactory) *creditWalk {
	peer, conn := dialPeer(t, &Config{WindowManager: managers, Push: &PushPolicy{Max: 5},
		Authority: "own.example", KeepAlive: -1})
	peer.Ignore(wire.WindowUpdate, wire.RSTStream)
	return &creditWalk{t: t, seed: seed, r: rand.New(rand.NewPCG(seed, 0)), peer: peer, conn: conn, opened: 1,
		pushed: 2}
}

func (w *creditWalk) step() {
	synctest.Wait()
	if len(w.streams) == 0 || w.r.IntN(6) == 0 {
		w.open()
		return
	}
	s := w.streams[w.r.IntN(len(w.streams))]
	if w.r.IntN(2) == 0 {
		w.act(s)
	} else if !s.over {
		w.send(s)
	}
}

// open makes a request and responds to it, sometimes with a wrong content-length.
func (w *creditWalk) open() {
	ctx, cancel := context.WithCancel(w.t.Context())
	s := &walkStream{id: w.opened, cancel: cancel}
	w.opened += 2
	method := "GET"
	if w.r.IntN(8) == 0 {
		method = "HEAD"
	}
	got := doAsync(ctx, w.conn, &Request{Method: method})
	w.peer.WantHeaders(fmt.Sprint("seed ", w.seed), s.id)
	w.headers(s.id)
	if <-got.done; got.err != nil && w.forgiving {
		return
	}
	s.resp = got.want(w.t, "the response")
	s.s = s.resp.Stream()
	w.streams = append(w.streams, s)
}

func (w *creditWalk) headers(id uint32) {
	fields := []string{":status: 200"}
	if w.r.IntN(3) == 0 {
		fields = append(fields, fmt.Sprint("content-length: ", w.r.IntN(5000)))
	}
	w.peer.WriteHeaders(id, 0, fields...)
}

// send writes the peer's next frame on s, which the client may have reset before.
func (w *creditWalk) send(s *walkStream) {
	var flags wire.Flags
	if w.r.IntN(5) == 0 {
		flags, s.over = wire.EndStream, true
	}
	most := min(w.peer.Credit(0), w.peer.Credit(s.id))
	switch w.r.IntN(12) {
	case 0:
		w.peer.WriteTrailers(s.id, "x-sum: 1")
		s.over = true
	case 1:
		w.peer.WriteTrailers(s.id, ":bad: 1")
		s.over = true
	case 2:
		w.peer.WriteRSTStream(s.id, wire.InternalError)
		s.over = true
	case 3:
		if s.id%2 == 1 && !s.over {
			w.promise(s)
		} else {
			w.peer.WriteData(s.id, flags, nil)
		}
	case 4, 5, 6:
		if pad := w.r.IntN(256); pad < most {
			w.peer.WritePaddedData(s.id, flags, make([]byte, w.r.IntN(min(1000, most-pad))), pad)
		} else {
			s.over = false
		}
	case 7:
		if most = w.peer.Credit(0); most > 0 { // may exceed the stream's window
			w.peer.WriteData(s.id, flags, make([]byte, min(16384, most)))
		} else {
			s.over = false
		}
	default:
		w.peer.WriteData(s.id, flags, make([]byte, w.r.IntN(1+min(3000, most))))
	}
}

// promise begins a push. The client may refuse it, because there are too many or because the parent
// has ended.
func (w *creditWalk) promise(parent *walkStream) {
	w.conn.lock()
	legal := parent.s.state.CanRecv() || w.conn.slots.isReset(parent.id)
	w.conn.unlock()
	if !legal {
		return
	}
	push := &walkStream{id: w.pushed, cancel: func() {}}
	w.pushed += 2
	w.peer.WritePushPromise(parent.id, push.id, ":method: GET", ":scheme: http", ":authority: own.example",
		":path: /")
	w.headers(push.id)
	w.streams = append(w.streams, push)
}

// act does something that a caller may do with s.
func (w *creditWalk) act(s *walkStream) {
	if s.resp == nil {
		return // a push is handled by claim
	}
	switch w.r.IntN(12) {
	case 0:
		s.resp.Body.Close()
	case 1:
		s.cancel()
	case 2:
		s.s.Reset(ErrCodeCancel)
	case 3, 4:
		w.claim(s)
	default:
		w.conn.lock()
		n := s.s.buf.Len()
		w.conn.unlock()
		if n > 0 {
			s.resp.Body.Read(make([]byte, 1+w.r.IntN(n)))
		}
	}
}

// claim takes the promises that have arrived. It cancels some, and requests the responses of
// others.
func (w *creditWalk) claim(parent *walkStream) {
	ended, cancel := context.WithCancel(w.t.Context())
	cancel()
	for push := range parent.resp.Pushes(ended) {
		if push == nil {
			return
		}
		for _, s := range w.streams {
			if s.id != push.ID() {
				continue
			}
			if w.r.IntN(3) == 0 {
				push.Cancel()
			} else if resp, err := push.Response(w.t.Context()); err == nil {
				s.s, s.resp = resp.Stream(), resp
			}
		}
	}
}

// finish closes all responses and checks the connection.
func (w *creditWalk) finish() {
	for _, s := range w.streams {
		if s.resp != nil {
			s.resp.Body.Close()
			for push := range s.resp.Pushes(w.t.Context()) { // ends, because the response was read to its end
				if push != nil {
					push.Cancel()
				}
			}
		}
		s.cancel()
	}
	reason := fmt.Sprint("seed ", w.seed)
	if err := w.conn.Err(); err != nil {
		w.t.Fatalf("%s: %v\n%s", reason, err, w.peer.Log())
	}
	wantFullCredit(w.t, w.peer, reason)
	wantPushes(w.t, w.conn, reason, 0)
	if n := w.conn.Stats().StreamsOpen; n != 0 {
		w.t.Errorf("%s: %d streams are open", reason, n)
	}
}
