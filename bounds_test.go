package hyper

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// Each test here checks one bound on what a peer can cost. The peer exceeds the bound, the
// connection sends the right error code, the caller gets an error, and neither memory nor time
// grows with what the peer sends.

// boundsSlow reports whether the race detector is on, which makes everything about ten times
// slower.
var boundsSlow = func() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}()

// maxGrowth is how much more memory a connection under attack may hold than an idle one.
const maxGrowth = 4 << 20

// A siege is a connection whose peer does not have to follow the protocol.
type siege struct {
	t      *testing.T
	peer   *h2test.Peer
	conn   *Conn
	client *h2test.Conn
	server *h2test.Conn // a write blocks when the client is 64 KiB behind
	idle   uint64       // heap before the attack
	most   uint64       // the largest seen since

	lastPush uint32 // the last stream that the peer has promised, for GOAWAY
}

// besiege runs f in a synctest bubble and fails if all of it takes longer than limit of real time,
// which it extends for a busy machine.
func besiege(t *testing.T, cfg *Config, limit time.Duration, f func(s *siege)) {
	t.Helper()
	limit *= 4
	if boundsSlow {
		limit *= 5
	}
	start := time.Now()
	synctest.Test(t, func(t *testing.T) {
		s := &siege{t: t}
		s.client, s.server = h2test.Pipe()
		s.server.SetWriteBuffer(64 << 10)
		s.peer = h2test.NewPeer(t, s.server)
		conn, err := NewConn(context.Background(), s.client, cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		s.conn = conn
		s.peer.Handshake()
		s.peer.Ignore(wire.WindowUpdate)
		s.idle = s.heap()
		f(s)
	})
	if took := time.Since(start); took > limit {
		t.Errorf("it took %v, more than %v", took, limit)
	}
}

func (s *siege) heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// watch records the size of the heap.
func (s *siege) watch() { s.most = max(s.most, s.heap()) }

// wantMemory requires that the heap never grew by more than most bytes.
func (s *siege) wantMemory(most int) {
	s.t.Helper()
	s.watch()
	if grown := int64(s.most) - int64(s.idle); grown > int64(most) {
		s.t.Errorf("the heap grew by %d octets, want at most %d", grown, most)
	}
	runtime.KeepAlive(s.conn)
}

// flood writes frame until it has done so n times or the connection ends. It returns how many bytes
// the client received.
func (s *siege) flood(n int, frame []byte) int64 {
	batch := min(max(1, 64<<10/len(frame)), 200) // the test's own bytes count as heap, too
	before := s.conn.Stats().BytesReceived
	octets := bytes.Repeat(frame, batch)
	for i := 0; i < n && s.conn.Err() == nil; i += batch {
		s.server.Write(octets)
		if i%max(batch, n/5/batch*batch) == 0 {
			s.watch()
		}
	}
	synctest.Wait()
	return s.conn.Stats().BytesReceived - before
}

// get starts a request and waits until the peer has its HEADERS.
func (s *siege) get(stream uint32) *result {
	s.t.Helper()
	r := getAsync(s.conn, "/")
	s.peer.WantHeaders("request", stream)
	return r
}

// wantEnd requires that the connection ended with code, and that the peer and the callers were told
// so.
func (s *siege) wantEnd(code ErrCode, callers ...*result) {
	s.t.Helper()
	s.peer.Ignore(wire.Settings, wire.Ping, wire.RSTStream)
	synctest.Wait()
	s.peer.WantGoAway("the bound is reached", s.lastPush, wire.ErrCode(code))
	s.peer.WantClosed("and the connection ends")
	for _, r := range callers {
		err := r.wantErr(s.t, "a caller")
		var ce *ConnError
		if !errors.As(err, &ce) || ce.Code != code || ce.FromPeer {
			s.t.Errorf("the caller got %v", err)
		}
	}
}

// wantLife requires that a request still succeeds.
func (s *siege) wantLife(stream uint32) {
	s.t.Helper()
	r := s.get(stream)
	s.peer.WriteHeaders(stream, wire.EndStream, ":status: 200")
	r.want(s.t, "the connection lives")
}

func TestContinuationFloodEnds(t *testing.T) {
	besiege(t, &Config{MaxHeaderListSize: 256 << 10}, time.Second, func(s *siege) {
		r := s.get(1)
		s.server.Write(rawFrame(wire.Headers, 0, 1, []byte{0x88}))
		fragment := rawFrame(wire.Continuation, 0, 1, bytes.Repeat([]byte{0x88}, wire.MinMaxFrameSize))
		took := s.flood(4000, fragment)      // 64 MB
		const hardLimit, each = 32 << 20, 33 // bytes of a section, and of one field that takes a byte
		if most := int64(hardLimit/each + 4*maxReadBuffer); took > most {
			s.t.Errorf("%d octets were taken, want at most %d", took, most)
		}
		s.wantEnd(ErrCodeEnhanceYourCalm, r)
		s.wantMemory(maxGrowth)
	})
}

func TestEmptyContinuationFloodEndsAfterAFewFrames(t *testing.T) {
	for name, first := range map[string][]byte{
		"HEADERS":      rawFrame(wire.Headers, 0, 1, nil),
		"PUSH_PROMISE": rawFrame(wire.PushPromise, 0, 1, []byte{0, 0, 0, 2}),
	} {
		t.Run(name, func(t *testing.T) {
			besiege(t, &Config{Push: &PushPolicy{}}, time.Second, func(s *siege) {
				r := s.get(1)
				s.server.Write(first)
				s.server.SetWriteBuffer(wire.HeaderLen) // the client cannot read ahead
				frame := rawFrame(wire.Continuation, 0, 1, nil)
				before := s.conn.Stats().BytesReceived
				for s.conn.Err() == nil {
					s.server.Write(frame)
				}
				if n := (s.conn.Stats().BytesReceived - before) / wire.HeaderLen; n > 100 {
					s.t.Errorf("%d frames were taken", n)
				}
				s.server.SetWriteBuffer(-1)
				s.wantEnd(ErrCodeEnhanceYourCalm, r)
				s.wantMemory(maxGrowth)
			})
		})
	}
}

// RFC 9113 §10.5.1: a list beyond SETTINGS_MAX_HEADER_LIST_SIZE is refused, but decoded all the
// same.
func TestHeaderListBeyondTheLimitEndsItsStream(t *testing.T) {
	const limit = 256 << 10
	besiege(t, &Config{MaxHeaderListSize: limit}, time.Second, func(s *siege) {
		value := strings.Repeat("v", 4096) // too large for the table
		field, rest := len("x")+len(value)+32, 0
		fits := limit - len(":status") - len("200") - 32
		list := []string{":status: 200"}
		for rest = fits; rest >= field+33; rest -= field {
			list = append(list, "x: "+value)
		}
		exact := append(list, "x: "+value[:rest-33])
		r := s.get(1)
		s.peer.WriteHeaders(1, wire.EndStream, exact...)
		if resp := r.want(s.t, "a list of the size allowed"); len(resp.Header) != len(exact)-1 {
			s.t.Errorf("%d fields", len(resp.Header))
		}
		r = s.get(3)
		s.peer.WriteHeaders(3, wire.EndStream, append(exact, "a: ")...)
		s.peer.WantRSTStream("one field too many", 3, wire.ProtocolError)
		if err := r.wantErr(s.t, "too large a list"); !errors.Is(err, ErrCodeProtocol) || Retryable(err) {
			s.t.Error(err)
		}
		s.wantLife(5)
		r = s.get(7)
		s.peer.WriteHeaders(7, wire.EndStream, slices.Concat(exact, exact[1:], exact[1:])...)
		s.peer.WantRSTStream("three times too many", 7, wire.ProtocolError)
		var tooLarge *HeaderSizeError
		if err := r.wantErr(s.t, "too large a list"); !errors.As(err, &tooLarge) || tooLarge.Limit != limit ||
			tooLarge.Size < 2*limit || tooLarge.Held != 0 {
			s.t.Error(err)
		}
		s.wantLife(9)
		s.wantMemory(maxGrowth)
	})
}

func TestHPACKBombHoldsNoMemory(t *testing.T) {
	besiege(t, nil, time.Second, func(s *siege) {
		value := bytes.Repeat([]byte{'v'}, 4000)
		entry := slices.Concat([]byte{0x88, 0x40, 1, 'x', 0x7f, 0xa1, 0x1e}, value)
		r := s.get(1)
		s.server.Write(headersFrame(entry))
		resp := r.want(s.t, "a field of 4,000 octets goes into the table")
		if len(resp.Header.Get("x")) != 4000 {
			s.t.Fatal("BUG: the bomb is not armed")
		}
		second := s.get(3)
		s.server.Write(rawFrame(wire.Headers, wire.EndHeaders, 3,
			append([]byte{0x88}, bytes.Repeat([]byte{0xbe}, 60)...)))
		second.want(s.t, "60 references are 242,000 octets")
		third := s.get(5)
		s.server.Write(rawFrame(wire.Headers, wire.EndHeaders, 5,
			append([]byte{0x88}, bytes.Repeat([]byte{0xbe}, 250_000)...)))
		s.peer.WantRSTStream("250,000 references are 1 GB", 5, wire.ProtocolError)
		third.wantErr(s.t, "too large a list")
		s.wantLife(7)
		s.wantMemory(maxGrowth)
	})
}

func TestBlockOfManySmallFragmentsIsReadOnce(t *testing.T) {
	cfg := &Config{MaxHeaderListSize: 64 << 20, MaxFrameSize: wire.MinMaxFrameSize}
	besiege(t, cfg, time.Second, func(s *siege) {
		r := s.get(1)
		value := bytes.Repeat([]byte{'v'}, 1000)
		field := slices.Concat([]byte{0x00, 1, 'x', 0x7f, 0xe9, 0x06}, value)
		s.server.Write(rawFrame(wire.Headers, 0, 1, []byte{0x88}))
		for range 3000 {
			s.server.Write(rawFrame(wire.Continuation, 0, 1, field))
		}
		s.server.Write(rawFrame(wire.Continuation, wire.EndHeaders, 1, nil))
		if resp := r.want(s.t, "a block of 3 MB"); len(resp.Header) != 3000 {
			s.t.Errorf("%d fields", len(resp.Header))
		}
	})
}

func TestAcknowledgmentsThatThePeerDoesNotReadAreBounded(t *testing.T) {
	for name, frame := range map[string][]byte{
		"SETTINGS": wire.AppendSettings(nil, wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 10}),
		"PING":     wire.AppendPing(nil, 0, [8]byte{1}),
	} {
		t.Run(name, func(t *testing.T) {
			besiege(t, nil, time.Second, func(s *siege) {
				r := s.get(1)
				s.client.SetWriteBuffer(0)
				s.server.Write(frame) // the writer blocks while it writes the acknowledgment
				synctest.Wait()
				s.server.Write(bytes.Repeat(frame, maxAcksQueued))
				synctest.Wait()
				if err := s.conn.Err(); err != nil {
					s.t.Fatalf("ended before %d acknowledgments were queued: %v", maxAcksQueued, err)
				}
				s.server.Write(frame)
				synctest.Wait()
				if s.conn.Err() == nil {
					s.t.Fatal("more than 1,000 acknowledgments wait")
				}
				// The client can write again before the connection is closed by force.
				s.client.SetWriteBuffer(-1)
				s.wantEnd(ErrCodeEnhanceYourCalm, r)
				s.wantMemory(maxGrowth)
			})
		})
	}
}

func TestPeerThatNeverReadsCannotHoldTheConnection(t *testing.T) {
	besiege(t, nil, time.Second, func(s *siege) {
		r := s.get(1)
		s.client.SetWriteBuffer(0)
		s.flood(100_000, wire.AppendPing(nil, 0, [8]byte{}))
		start := time.Now()
		<-s.conn.Done()
		for open := true; open; time.Sleep(time.Millisecond) { // until the socket is closed
			_, err := s.server.Write([]byte{0})
			open = err == nil
		}
		if took := time.Since(start); took > closeGrace+10*time.Millisecond {
			s.t.Errorf("it took %v to close", took)
		}
		if err := r.wantErr(s.t, "the caller"); !errors.Is(err, ErrCodeEnhanceYourCalm) {
			s.t.Error(err)
		}
		s.wantMemory(maxGrowth)
	})
}

func TestFramesThatCarryNothingHaveABudget(t *testing.T) {
	const on = 1 // an open stream; 3 is one that the peer reset, 5 one that we reset
	for name, frame := range map[string][]byte{
		"PRIORITY":                              rawFrame(wire.Priority, 0, on, make([]byte, 5)),
		"misshapen PRIORITY on a closed stream": rawFrame(wire.Priority, 0, 3, make([]byte, 4)),
		"an unknown type":                       rawFrame(0xee, 0, on, nil),
		"an unknown type with a payload":        rawFrame(0xee, 0, 0, make([]byte, 50)),
		"ORIGIN":                                rawFrame(wire.Origin, 0, 0, []byte{0, 1, 'x'}),
		"empty DATA":                            wire.AppendData(nil, on, 0, nil),
		"DATA with nothing but padding":         rawFrame(wire.Data, wire.Padded, on, []byte{3, 0, 0, 0}),
		"DATA with no padding of its own":       rawFrame(wire.Data, wire.Padded, on, []byte{0}),
		"late DATA, empty":                      wire.AppendData(nil, 5, 0, nil),
		"late DATA of one octet":                wire.AppendData(nil, 5, 0, []byte{0}),
		"late HEADERS":                          rawFrame(wire.Headers, wire.EndHeaders, 5, []byte{0x88}),
		"small windows for the connection":      wire.AppendWindowUpdate(nil, 0, 1),
		"small windows for a stream":            wire.AppendWindowUpdate(nil, on, 1),
		"windows for a closed stream":           wire.AppendWindowUpdate(nil, 3, 1<<20),
		"RST_STREAM of a closed stream":         wire.AppendRSTStream(nil, 3, wire.Cancel),
		"SETTINGS":                              wire.AppendSettings(nil),
		"SETTINGS acknowledgments":              wire.AppendSettingsAck(nil),
		"PING":                                  wire.AppendPing(nil, 0, [8]byte{}),
		"PING acknowledgments":                  wire.AppendPing(nil, wire.Ack, [8]byte{255}),
		"GOAWAY":                                wire.AppendGoAway(nil, on, wire.NoError, "bye"),
	} {
		t.Run(name, func(t *testing.T) {
			besiege(t, nil, time.Second, func(s *siege) {
				open, reset := s.get(1), s.get(3)
				s.peer.WriteHeaders(1, 0, ":status: 200")
				resp := open.want(t, "the open stream")
				s.peer.WriteRSTStream(3, wire.Cancel)
				reset.wantErr(t, "the peer's reset")
				st, err := s.conn.Open(context.Background(), &Request{})
				if err != nil {
					t.Fatal(err)
				}
				st.Reset(ErrCodeCancel)
				s.peer.WantHeaders("to be reset", 5)
				s.peer.WantRSTStream("by us", 5, wire.Cancel)
				took := s.flood(100_000, frame)
				least := int64(noiseBurst)
				if name == "SETTINGS" || name == "PING" { // the bound of acknowledgments may be reached first
					least = maxAcksQueued
				}
				if n := took / int64(len(frame)); n < least ||
					n > noiseBurst+maxReadBuffer/int64(len(frame))+100 {
					t.Errorf("%d frames were taken", n)
				}
				s.wantEnd(ErrCodeEnhanceYourCalm)
				if _, err := resp.Body.Read(make([]byte, 1)); !errors.Is(err, ErrCodeEnhanceYourCalm) {
					t.Errorf("the reader got %v", err)
				}
				s.wantMemory(maxGrowth)
			})
		})
	}
}

func TestHugeSettingsCostLittle(t *testing.T) {
	besiege(t, nil, time.Second, func(s *siege) {
		var huge []wire.Setting
		for i := range 2730 {
			huge = append(huge, wire.Setting{ID: wire.SettingID(100 + i), Value: uint32(i)})
		}
		s.flood(1000, wire.AppendSettings(nil, huge...))
		s.wantMemory(maxGrowth)
		if n := len(s.conn.PeerSettings().Other); n != maxOtherSettings {
			s.t.Errorf("%d unknown settings are kept", n)
		}
	})
}

// A peer is not blamed for DATA that it sent before it received our RST_STREAM.
func TestLateDataOfManyCancelledStreamsIsNoOffence(t *testing.T) {
	besiege(t, nil, 2*time.Second, func(s *siege) {
		s.peer.AutoPing()
		data := make([]byte, 4<<10)
		for i := range 200 { // 12,000 frames, 240 KiB on each stream
			id := uint32(1 + 2*i)
			r := s.get(id)
			s.peer.WriteHeaders(id, 0, ":status: 200")
			resp := r.want(s.t, "the response")
			resp.Body.Close()
			s.peer.WantRSTStream("closed early", id, wire.Cancel)
			frame := wire.AppendData(nil, id, 0, data)
			for range 60 {
				s.server.Write(frame)
			}
			synctest.Wait()
			if err := s.conn.Err(); err != nil {
				s.t.Fatalf("after %d streams: %v", i+1, err)
			}
		}
		s.wantMemory(maxGrowth)
	})
}

func TestProvokedResetsHaveABudget(t *testing.T) {
	besiege(t, &Config{Push: &PushPolicy{}}, 2*time.Second, func(s *siege) {
		r := s.get(1)
		for i := 0; s.conn.Err() == nil; i++ {
			if i > 1100 {
				s.t.Fatal("no end")
			}
			// :method: POST, and no other field.
			payload := append(binary.BigEndian.AppendUint32(nil, uint32(2+2*i)), 0x83)
			s.server.Write(rawFrame(wire.PushPromise, wire.EndHeaders, 1, payload))
			synctest.Wait()
		}
		resets := 0
		s.peer.Ignore(wire.Ping)
		for {
			f, err := s.peer.Next()
			if err != nil {
				s.t.Fatal(err)
			}
			if f.Type == wire.GoAway {
				if _, code, _ := wire.ParseGoAway(f.Payload); code != wire.EnhanceYourCalm {
					s.t.Error(f)
				}
				break
			}
			if f.Type != wire.RSTStream || wire.ParseRSTStream(f.Payload) != wire.ProtocolError {
				s.t.Fatal(f)
			}
			resets++
		}
		if resets != provokedBurst+1 {
			s.t.Errorf("%d resets, want %d", resets, provokedBurst+1)
		}
		if err := r.wantErr(s.t, "the parent"); !errors.Is(err, ErrCodeEnhanceYourCalm) {
			s.t.Error(err)
		}
		s.wantMemory(maxGrowth)
	})
}

func TestInterimResponsesAreBounded(t *testing.T) {
	for name, c := range map[string]struct {
		block string
		most  int
	}{
		"by number": {"103 small", maxInterims},
		"by octets": {"103 " + strings.Repeat("v", 4000), maxInterimSize / 4000},
	} {
		t.Run(name, func(t *testing.T) {
			besiege(t, nil, time.Second, func(s *siege) {
				status, value, _ := strings.Cut(c.block, " ")
				shown, slow := 0, make(chan struct{})
				r := doAsync(context.Background(), s.conn, &Request{Informational: func(int, Header) error {
					shown++
					<-slow
					return nil
				}})
				s.peer.WantHeaders("request", 1)
				for range 2 * maxInterims {
					s.peer.WriteHeaders(1, 0, ":status: "+status, "x: "+value)
				}
				s.peer.WantRSTStream("too many", 1, wire.ProtocolError)
				close(slow)
				var se *StreamError
				if err := r.wantErr(t, "the caller"); !errors.As(err, &se) || se.FromPeer ||
					se.Code != ErrCodeProtocol {
					t.Error(err)
				}
				if shown > c.most {
					t.Errorf("%d interim responses were shown", shown)
				}
				s.wantMemory(maxGrowth)
				s.wantLife(3)
			})
		})
	}
}

func TestPromisesBeyondTheirNumberAreRefused(t *testing.T) {
	besiege(t, &Config{Push: &PushPolicy{Max: 10}}, time.Second, func(s *siege) {
		s.get(1)
		promise := func(id uint32) {
			s.peer.WritePushPromise(1, id, ":method: GET", ":scheme: http", ":path: /p",
				":authority: 192.0.2.2:443")
		}
		id := uint32(2)
		for range 10 {
			promise(id)
			id += 2
		}
		s.peer.WantIdle("ten are allowed")
		for range provokedBurst {
			promise(id)
			s.peer.WantRSTStream("no more than ten", id, wire.RefusedStream)
			id += 2
			s.peer.Ignore(wire.Ping)
		}
		s.wantMemory(maxGrowth)
		promise(id)
		s.lastPush = id
		s.wantEnd(ErrCodeEnhanceYourCalm)
	})
}

// RFC 9113 §6.9.1: the receiver ends the stream or the connection with FLOW_CONTROL_ERROR if DATA
// exceeds its window. §6.1: padding counts.
func TestDataBeyondTheWindowIsRefusedToTheOctet(t *testing.T) {
	none := func(*Window) WindowManager { return nil }
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
			besiege(t, &Config{InitialStreamWindow: c.window, WindowManager: none}, time.Second,
				func(s *siege) {
					first, second := s.get(1), s.get(3)
					s.peer.WriteHeaders(1, 0, ":status: 200")
					s.peer.WriteHeaders(3, 0, ":status: 200")
					resp := first.want(t, "the response")
					second.want(t, "the other")
					c.fill(s.peer)
					s.peer.WantIdle("all of the window may be used")
					s.peer.WriteData(1, 0, []byte{0})
					if c.whole {
						s.wantEnd(ErrCodeFlowControl)
					} else {
						s.peer.WantRSTStream("one octet too many", 1, wire.FlowControlError)
					}
					if _, err := resp.Body.Read(nil); !errors.Is(err, ErrCodeFlowControl) {
						if _, err = io.Copy(io.Discard, resp.Body); !errors.Is(err, ErrCodeFlowControl) {
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
				st, err := s.conn.Open(context.Background(), &Request{Method: "POST"})
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
					if !errors.Is(err, ErrCodeFlowControl) {
						t.Error(err)
					}
					s.wantLife(3)
				default:
					s.wantEnd(ErrCodeFlowControl)
					if !errors.Is(err, ErrCodeFlowControl) {
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
			if _, err := s.conn.Open(context.Background(), &Request{Method: "POST", Body: body}); err != nil {
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
	if boundsSlow || testing.Short() {
		large = 16 << 20
	}
	zeros := make([]byte, 1<<20)
	for _, c := range []struct {
		name, coding string
		cfg          *Config
		size         int    // of the decoded body
		limit        string // the limit that is reached
		most         int64  // bytes that the caller gets
		window       int    // memory of the decoder's own window
	}{
		{"by ratio, br", "br", nil, 40 << 20, "ratio", decodeGrace, 4 << 20},
		{"by ratio, gzip", "gzip", &Config{MaxDecodedRatio: 100}, 40 << 20, "ratio", decodeGrace, 32 << 10},
		{"by size", "gzip", &Config{MaxDecodedRatio: -1, MaxDecodedSize: 10 << 20}, 12 << 20, "size",
			10 << 20, 32 << 10},
		{"not at all", "gzip", &Config{MaxDecodedRatio: -1, MaxDecodedSize: -1}, large, "", int64(large),
			32 << 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			if boundsSlow && c.coding == "br" {
				t.Skip("the race detector makes its encoder take ten seconds")
			}
			var coded bytes.Buffer
			coding := testCodings[slices.IndexFunc(testCodings,
				func(k testCoding) bool { return k.name == c.coding })]
			w := coding.writer(&coded)
			for range c.size / len(zeros) {
				w.Write(zeros)
			}
			w.Close()
			const window = 1 << 20 // larger than the bomb, whatever this version of Go makes of it
			if coded.Len() > window {
				t.Fatalf("BUG: the bomb has %d octets", coded.Len())
			}
			cfg := Config{}
			if c.cfg != nil {
				cfg = *c.cfg
			}
			cfg.InitialStreamWindow = window
			besiege(t, &cfg, 3*time.Second, func(s *siege) {
				r := s.get(1)
				s.peer.WriteHeaders(1, 0, ":status: 200", "content-encoding: "+c.coding)
				resp := r.want(t, "the response")
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
					var limit *DecodeLimitError
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
		resp := r.want(s.t, "the response")
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
func TestDribbledFrameHoldsLittleMoreThanItsOctets(t *testing.T) {
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

// answerAll plays a server that responds to each request with 200 and, if body is not 0, with a
// body of that many bytes.
func answerAll(nc net.Conn, body int) {
	br := bufio.NewReaderSize(nc, 64<<10)
	br.Discard(len(wire.ClientPreface))
	out := wire.AppendSettings(nil)
	data := make([]byte, body)
	var head [wire.HeaderLen]byte
	for {
		if br.Buffered() == 0 {
			nc.Write(out)
			out = out[:0]
		}
		if _, err := io.ReadFull(br, head[:]); err != nil {
			return
		}
		h := wire.ParseFrameHeader(head[:])
		var ping [8]byte
		switch {
		case h.Type == wire.Ping && !h.Flags.Has(wire.Ack):
			io.ReadFull(br, ping[:])
			out = wire.AppendPing(out, wire.Ack, ping)
			continue
		case h.Type == wire.Settings && !h.Flags.Has(wire.Ack):
			out = wire.AppendSettingsAck(out)
		case h.Type == wire.Headers && body == 0:
			out = append(out, rawFrame(wire.Headers, wire.EndHeaders|wire.EndStream, h.StreamID,
				[]byte{0x88})...)
		case h.Type == wire.Headers:
			out = append(out, rawFrame(wire.Headers, wire.EndHeaders, h.StreamID, []byte{0x88})...)
			out = wire.AppendData(out, h.StreamID, wire.EndStream, data)
		}
		br.Discard(h.Length)
	}
}

func TestMemoryFollowsTheOpenStreamsOnly(t *testing.T) {
	requests := 100_000
	if boundsSlow || testing.Short() {
		requests = 10_000
	}
	synctest.Test(t, func(t *testing.T) {
		client, server := h2test.Pipe()
		go answerAll(server, 100)
		conn, err := NewConn(context.Background(), client, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := &siege{t: t, conn: conn}
		for i := range requests {
			if i == 1000 {
				s.idle = s.heap()
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			resp, err := conn.Do(ctx, &Request{Header: Header{{Name: "x-number", Value: fmt.Sprint(i)}}})
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
			ErrHandshakeTimeout},
		{"never answers", nothing, nothing, 10 * time.Second, ErrHandshakeTimeout},
		{"does not acknowledge SETTINGS", nothing, func(p *h2test.Peer, _ *h2test.Conn) {
			p.WantPreface("the client begins")
			p.WriteSettings()
		}, 10 * time.Second, ErrCodeSettingsTimeout},
		{"acknowledges SETTINGS before they were sent", func(p *h2test.Peer, _ *h2test.Conn) {
			p.WriteSettings()
			p.WriteSettingsAck()
			synctest.Wait()
		}, nothing, 10 * time.Second, ErrCodeSettingsTimeout},
		{"falls silent", nothing, func(p *h2test.Peer, _ *h2test.Conn) { p.Handshake() }, 45 * time.Second,
			ErrPingTimeout},
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
		}, 32 * time.Second, ErrWriteStalled},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn, client := newPeer(t, nil)
				start := time.Now()
				c.before(peer, client)
				body, w := io.Pipe() // the caller's body blocks, too
				calls := []*result{
					getAsync(conn, "/"),
					doAsync(context.Background(), conn,
						&Request{Method: "POST", Body: bytes.NewReader(make([]byte, 1<<20))}),
					doAsync(context.Background(), conn, &Request{Method: "POST", Body: body}),
				}
				c.script(peer, client)
				for _, r := range calls {
					err := r.wantErr(t, c.name)
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
