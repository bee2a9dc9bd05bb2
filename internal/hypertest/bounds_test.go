// This file tests bounds on what a peer can cost: windows, bodies, memory, and time.

package hypertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// RFC 9113 §6.9.1: the receiver ends the stream or the connection with FLOW_CONTROL_ERROR if DATA
// exceeds its window. §6.1: padding counts.
func TestDataBeyondTheWindowIsRefusedToTheByte(t *testing.T) {
	none := func(*hyper.Window) hyper.WindowManager { return nil }
	for name, c := range map[string]struct {
		window int // of each stream; the connection's is 65,535
		fill   func(p *h2test.Peer)
		whole  bool
	}{
		"stream": {1000, func(p *h2test.Peer) { p.WriteData(1, 0, make([]byte, 1000)) }, false},
		"stream, by padding": {1000, func(p *h2test.Peer) {
			p.WritePaddedData(1, 0, make([]byte, 799),
				200)
		}, false},
		"connection": {1 << 20, func(p *h2test.Peer) { p.WriteData(1, 0, make([]byte, 65535)) },
			true},
		"connection, padded": {1 << 20, func(p *h2test.Peer) {
			p.WritePaddedData(1, 0, make([]byte, 65334),
				200)
		}, true},
		"connection, together": {40000, func(p *h2test.Peer) {
			p.WriteData(1, 0,
				make([]byte, 35535))
			p.WriteData(3, 0, make([]byte, 30000))
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			besiege(t, &hyper.Config{InitialStreamWindow: c.window, WindowManager: none}, time.Second,
				func(s *siege) {
					first, second := s.get(1), s.get(3)
					s.peer.WriteHeaders(1, 0, ":status: 200")
					s.peer.WriteHeaders(3, 0, ":status: 200")
					resp := first.Want(t, "the response")
					second.Want(t, "the other")
					c.fill(s.peer)
					s.peer.WantIdle("all of the window may be used")
					s.peer.WriteData(1, 0, []byte{0})
					if c.whole {
						s.wantEnd(hyper.ErrCodeFlowControl)
					} else {
						s.peer.WantRSTStream("one octet too many", 1, wire.FlowControlError)
					}
					if _, err := resp.Body.Read(nil); !errors.Is(err, hyper.ErrCodeFlowControl) {
						if _, err = io.Copy(io.Discard, resp.Body); !errors.Is(err,
							hyper.ErrCodeFlowControl) {
							t.Errorf("the reader got %v", err)
						}
					}
				})
		})
	}
}

// RFC 9113 §6.9.1, §6.9.2: a window above 2^31-1 is a FLOW_CONTROL_ERROR.
func TestWindowsAboveTheirLimitAreRefused(t *testing.T) {
	max31 := func(stream uint32, above int) func(p *h2test.Peer) {
		return func(p *h2test.Peer) { p.WriteWindowUpdate(stream, wire.MaxWindow-wire.InitialWindow+above) }
	}
	both := func(f,
		g func(p *h2test.Peer)) func(p *h2test.Peer) {
		return func(p *h2test.Peer) { f(p); g(p) }
	}
	settings := func(n uint32) func(p *h2test.Peer) {
		return func(p *h2test.Peer) {
			p.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize,
				Value: n})
		}
	}
	for name, c := range map[string]struct {
		write  func(p *h2test.Peer)
		stream bool // only the stream ends
		none   bool // nothing ends
	}{
		"stream, to the octet": {max31(1, 0), false, true},
		"stream":               {max31(1, 1), true, false},
		"stream, bit by bit": {both(max31(1, 0), func(p *h2test.Peer) { p.WriteWindowUpdate(1, 1) }),
			true, false},
		"connection, to the octet": {max31(0, 0), false, true},
		"connection":               {max31(0, 1), false, false},
		"SETTINGS, to the octet": {both(func(p *h2test.Peer) { p.WriteWindowUpdate(1, 1000) },
			settings(wire.MaxWindow-1000)), false, true},
		"SETTINGS": {both(func(p *h2test.Peer) { p.WriteWindowUpdate(1, 1000) },
			settings(wire.MaxWindow-999)), false, false},
		"SETTINGS beyond 2^31-1": {settings(1 << 31), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			besiege(t, nil, time.Second, func(s *siege) {
				s.peer.Ignore(wire.Ping)
				st, err := s.conn.Open(context.Background(), &hyper.Request{Method: "POST"})
				if err != nil {
					t.Fatal(err)
				}
				s.peer.WantHeaders("request", 1)
				c.write(s.peer)
				synctest.Wait()
				_, err = st.Write([]byte("x"))
				switch {
				case c.none:
					if err != nil {
						t.Error(err)
					}
				case c.stream:
					s.peer.WantRSTStream("the window", 1, wire.FlowControlError)
					if !errors.Is(err, hyper.ErrCodeFlowControl) {
						t.Error(err)
					}
					s.wantLife(3)
				default:
					s.wantEnd(hyper.ErrCodeFlowControl)
					if !errors.Is(err, hyper.ErrCodeFlowControl) {
						t.Error(err)
					}
				}
			})
		})
	}
}

// RFC 9113 §6.9.2: a change of SETTINGS_INITIAL_WINDOW_SIZE moves the windows of all streams. Many
// such changes must not cost more when there are many streams.
func TestInitialWindowChangesCostTheSameWithManyStreams(t *testing.T) {
	streams := 1000
	besiege(t, nil, 2*time.Second, func(s *siege) {
		s.peer.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Value: 0},
			wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 10000})
		s.peer.WantSettingsAck("no window at all")
		for range streams {
			body := bytes.NewReader([]byte("x"))
			if _, err := s.conn.Open(context.Background(), &hyper.Request{Method: "POST", Body: body}); err !=
				nil {
				s.t.Fatal(err)
			}
		}
		s.idle = s.heap() // does not count the streams
		flap := wire.AppendSettings(nil, slices.Repeat([]wire.Setting{
			{ID: wire.SettingInitialWindowSize, Value: 1 << 30},
			{ID: wire.SettingInitialWindowSize, Value: 0}}, 1000)...)
		s.peer.Ignore(wire.Settings, wire.Headers)
		s.flood(400, flap) // 800,000 changes
		s.peer.WantIdle("there was never a window at the end of a frame")
		s.wantMemory(maxGrowth)
	})
}

func TestCompressedBombIsBounded(t *testing.T) {
	large := 256 << 20
	if h2test.Race || testing.Short() {
		large = 16 << 20
	}
	zeros := make([]byte, 1<<20)
	for _, c := range []struct {
		name, coding string
		cfg          *hyper.Config
		size         int    // of the decoded body
		limit        string // the limit that is reached
		most         int64  // bytes that the caller gets
		window       int    // memory of the decoder's own window
	}{
		{"by ratio, br", "br", nil, 40 << 20, "ratio", decodeGrace, 4 << 20},
		{"by ratio, gzip", "gzip", &hyper.Config{MaxDecodedRatio: 100}, 40 << 20, "ratio", decodeGrace,
			32 << 10},
		{"by size", "gzip", &hyper.Config{MaxDecodedRatio: -1, MaxDecodedSize: 10 << 20}, 12 << 20, "size",
			10 << 20, 32 << 10},
		{"not at all", "gzip", &hyper.Config{MaxDecodedRatio: -1, MaxDecodedSize: -1}, large, "",
			int64(large),
			32 << 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			if h2test.Race && c.coding == "br" {
				t.Skip("the race detector makes its encoder take ten seconds")
			}
			var coded bytes.Buffer
			coding := h2test.Codings[slices.IndexFunc(h2test.Codings,
				func(k h2test.Coding) bool { return k.Name == c.coding })]
			w := coding.Writer(&coded)
			for range c.size / len(zeros) {
				w.Write(zeros)
			}
			w.Close()
			const window = 1 << 20 // larger than the bomb, whatever this version of Go makes of it
			if coded.Len() > window {
				t.Fatalf("BUG: the bomb has %d octets", coded.Len())
			}
			cfg := hyper.Config{}
			if c.cfg != nil {
				cfg = *c.cfg
			}
			cfg.InitialStreamWindow = window
			besiege(t, &cfg, 3*time.Second, func(s *siege) {
				r := s.get(1)
				s.peer.WriteHeaders(1, 0, ":status: 200", "content-encoding: "+c.coding)
				resp := r.Want(t, "the response")
				for chunk := range slices.Chunk(coded.Bytes(), 64<<10) {
					s.peer.WriteData(1, 0, chunk)
				}
				s.peer.WriteData(1, wire.EndStream, nil)
				read, buf := int64(0), make([]byte, 64<<10)
				for next := int64(0); ; {
					n, err := resp.Body.Read(buf)
					if read += int64(n); read >= next {
						s.watch()
						next += 16 << 20
					}
					if err == nil {
						continue
					}
					var limit *hyper.DecodeLimitError
					if c.limit == "" && err != io.EOF || c.limit != "" &&
						(!errors.As(err, &limit) || limit.Limit != c.limit) {
						t.Errorf("after %d octets: %v", read, err)
					}
					break
				}
				if read > c.most+int64(len(buf)) || c.limit == "" && read != c.most {
					t.Errorf("%d octets came out, want %d", read, c.most)
				}
				s.wantMemory(maxGrowth + c.window)
			})
		})
	}
}

func TestUnreadBodyHoldsNoMoreThanItsWindow(t *testing.T) {
	besiege(t, nil, time.Second, func(s *siege) {
		s.peer.AutoPing()
		r := s.get(1)
		s.peer.WriteHeaders(1, 0, ":status: 200")
		resp := r.Want(s.t, "the response")
		sent := 0
		for range 1000 { // the peer sends all that it may
			if n := min(s.peer.Credit(1), s.peer.Credit(0), 16<<10); n > 0 {
				s.peer.WriteData(1, 0, make([]byte, n))
				sent += n
			}
			time.Sleep(10 * time.Millisecond)
		}
		if sent != adaptiveInitial {
			s.t.Errorf("the peer could send %d bytes that are not read", sent)
		}
		s.wantMemory(adaptiveInitial + maxGrowth)
		resp.Body.Close()
		s.peer.WantRSTStream("closed unread", 1, wire.Cancel)
		s.wantMemory(adaptiveInitial + maxGrowth)
	})
}

// A large frame that arrives in small pieces must not take a block for each piece.
func TestDribbledFrameHoldsLittleMoreThanItsBytes(t *testing.T) {
	for _, chunk := range []int{50, 20_000} { // of a block's 65,536
		besiege(t, nil, 2*time.Second, func(s *siege) {
			const n, streams = 3 * maxBlock, 20
			for i := range uint32(streams) {
				s.get(2*i + 1)
				s.peer.WriteHeaders(2*i+1, 0, ":status: 200")
			}
			s.client.SetChunk(chunk)
			body := make([]byte, n)
			s.idle = s.heap()
			for i := range uint32(streams) {
				s.peer.WriteRaw(wire.AppendFrameHeader(nil,
					wire.FrameHeader{Length: n, Type: wire.Data, StreamID: 2*i + 1}))
				s.peer.WriteRaw(body)
			}
			synctest.Wait()
			s.wantMemory(2*streams*n + 1<<20)
		})
	}
}

func TestMemoryFollowsTheOpenStreamsOnly(t *testing.T) {
	requests := 100_000
	if h2test.Race || testing.Short() {
		requests = 10_000
	}
	synctest.Test(t, func(t *testing.T) {
		client, server := h2test.Pipe()
		go answerAll(server, 100)
		conn, err := hyper.NewConn(context.Background(), client, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := &siege{t: t, conn: conn}
		for i := range requests {
			if i == 1000 {
				s.idle = s.heap()
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			resp, err := conn.Do(ctx, &hyper.Request{Header: hyper.Header{{Name: "x-number",
				Value: fmt.Sprint(i)}}})
			if err != nil {
				t.Fatal(err)
			}
			if i%3 > 0 { // read to the end
				_, err = io.Copy(io.Discard, resp.Body)
			}
			if i%3 < 2 { // closed, or both
				resp.Body.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			cancel()
		}
		s.wantMemory(maxGrowth / 4)
		if stats := conn.Stats(); stats.StreamsOpen != 0 || stats.StreamsOpened != int64(requests) {
			t.Errorf("%d of %d streams are open", stats.StreamsOpen, stats.StreamsOpened)
		}
		conn.Close()
		server.Close()
	})
}

func TestDeadPeerEndsEveryCallInTime(t *testing.T) {
	nothing := func(*h2test.Peer, *h2test.Conn) {}
	for _, c := range []struct {
		name   string
		before func(peer *h2test.Peer, client *h2test.Conn) // the requests
		script func(peer *h2test.Peer, client *h2test.Conn)
		within time.Duration
		want   error
	}{
		{"accepts nothing from the start", func(_ *h2test.Peer,
			client *h2test.Conn) {
			client.SetWriteBuffer(0)
		}, nothing, 10 * time.Second,
			hyper.ErrHandshakeTimeout},
		{"never answers", nothing, nothing, 10 * time.Second, hyper.ErrHandshakeTimeout},
		{"does not acknowledge SETTINGS", nothing, func(p *h2test.Peer, _ *h2test.Conn) {
			p.WantPreface("the client begins")
			p.WriteSettings()
		}, 10 * time.Second, hyper.ErrCodeSettingsTimeout},
		{"acknowledges SETTINGS before they were sent", func(p *h2test.Peer, _ *h2test.Conn) {
			p.WriteSettings()
			p.WriteSettingsAck()
			synctest.Wait()
		}, nothing, 10 * time.Second, hyper.ErrCodeSettingsTimeout},
		{"falls silent", nothing, func(p *h2test.Peer, _ *h2test.Conn) { p.Handshake() }, 45 * time.Second,
			hyper.ErrPingTimeout},
		{"stops reading", nothing, func(p *h2test.Peer, client *h2test.Conn) {
			p.Handshake()
			time.Sleep(time.Second)
			client.SetWriteBuffer(0)
			p.WriteWindowUpdate(0, 1<<20)
			p.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Value: 1 << 20})
			go func() { // the peer is alive otherwise
				for range 10 {
					time.Sleep(5 * time.Second)
					p.WritePing(wire.Ack, [8]byte{})
				}
			}()
		}, 32 * time.Second, hyper.ErrWriteStalled},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn, client := newPeer(t, nil)
				start := time.Now()
				c.before(peer, client)
				body, w := io.Pipe() // the caller's body blocks, too
				calls := []*h2test.Call[*hyper.Response]{
					getAsync(conn, "/"),
					doAsync(context.Background(), conn,
						&hyper.Request{Method: "POST", Body: bytes.NewReader(make([]byte, 1<<20))}),
					doAsync(context.Background(), conn, &hyper.Request{Method: "POST", Body: body}),
				}
				c.script(peer, client)
				for _, r := range calls {
					err := r.WantErr(t, c.name)
					var ne net.Error
					if !errors.Is(err, c.want) || !errors.As(err, &ne) || !ne.Timeout() {
						t.Errorf("got %v, want %v", err, c.want)
					}
				}
				if took := time.Since(start); took > c.within+time.Second {
					t.Errorf("it took %v, want %v", took, c.within)
				}
				synctest.Wait()
				if _, err := w.Write([]byte("x")); err == nil {
					t.Error("the body was not closed")
				}
				conn.Close()
				time.Sleep(time.Minute) // until the script has ended
			})
		})
	}
}
