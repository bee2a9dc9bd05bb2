// This file tests bounds on floods of frames and on large field sections.

package hypertest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

func TestContinuationFloodEnds(t *testing.T) {
	besiege(t, &hyper.Config{MaxHeaderListSize: 256 << 10}, time.Second, func(s *siege) {
		r := s.get(1)
		s.server.Write(h2test.RawFrame(wire.Headers, 0, 1, []byte{0x88}))
		fragment := h2test.RawFrame(wire.Continuation, 0, 1, bytes.Repeat([]byte{0x88}, wire.MinMaxFrameSize))
		took := s.flood(4000, fragment)      // 64 MB
		const hardLimit, each = 32 << 20, 33 // bytes of a section, and of one field that takes a byte
		if most := int64(hardLimit/each + 4*maxReadBuffer); took > most {
			s.t.Errorf("%d octets were taken, want at most %d", took, most)
		}
		s.wantEnd(hyper.ErrCodeEnhanceYourCalm, r)
		s.wantMemory(maxGrowth)
	})
}

func TestEmptyContinuationFloodEndsAfterAFewFrames(t *testing.T) {
	for name, first := range map[string][]byte{
		"HEADERS":      h2test.RawFrame(wire.Headers, 0, 1, nil),
		"PUSH_PROMISE": h2test.RawFrame(wire.PushPromise, 0, 1, []byte{0, 0, 0, 2}),
	} {
		t.Run(name, func(t *testing.T) {
			besiege(t, &hyper.Config{Push: &hyper.PushPolicy{}}, time.Second, func(s *siege) {
				r := s.get(1)
				s.server.Write(first)
				s.server.SetWriteBuffer(wire.HeaderLen) // the client cannot read ahead
				frame := h2test.RawFrame(wire.Continuation, 0, 1, nil)
				before := s.conn.Stats().BytesReceived
				for s.conn.Err() == nil {
					s.server.Write(frame)
				}
				if n := (s.conn.Stats().BytesReceived - before) / wire.HeaderLen; n > 100 {
					s.t.Errorf("%d frames were taken", n)
				}
				s.server.SetWriteBuffer(-1)
				s.wantEnd(hyper.ErrCodeEnhanceYourCalm, r)
				s.wantMemory(maxGrowth)
			})
		})
	}
}

// RFC 9113 §10.5.1: a list beyond SETTINGS_MAX_HEADER_LIST_SIZE is refused, but decoded all the
// same.
func TestHeaderListBeyondTheLimitEndsItsStream(t *testing.T) {
	const limit = 256 << 10
	besiege(t, &hyper.Config{MaxHeaderListSize: limit}, time.Second, func(s *siege) {
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
		if resp := r.Want(s.t, "a list of the size allowed"); len(resp.Header) != len(exact)-1 {
			s.t.Errorf("%d fields", len(resp.Header))
		}
		r = s.get(3)
		s.peer.WriteHeaders(3, wire.EndStream, append(exact, "a: ")...)
		s.peer.WantRSTStream("one field too many", 3, wire.ProtocolError)
		if err := r.WantErr(s.t, "too large a list"); !errors.Is(err, hyper.ErrCodeProtocol) ||
			hyper.Retryable(err) {
			s.t.Error(err)
		}
		s.wantLife(5)
		r = s.get(7)
		s.peer.WriteHeaders(7, wire.EndStream, slices.Concat(exact, exact[1:], exact[1:])...)
		s.peer.WantRSTStream("three times too many", 7, wire.ProtocolError)
		var tooLarge *hyper.HeaderSizeError
		if err := r.WantErr(s.t, "too large a list"); !errors.As(err, &tooLarge) || tooLarge.Limit != limit ||
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
		resp := r.Want(s.t, "a field of 4,000 octets goes into the table")
		if len(resp.Header.Get("x")) != 4000 {
			s.t.Fatal("BUG: the bomb is not armed")
		}
		second := s.get(3)
		s.server.Write(h2test.RawFrame(wire.Headers, wire.EndHeaders, 3,
			append([]byte{0x88}, bytes.Repeat([]byte{0xbe}, 60)...)))
		second.Want(s.t, "60 references are 242,000 octets")
		third := s.get(5)
		s.server.Write(h2test.RawFrame(wire.Headers, wire.EndHeaders, 5,
			append([]byte{0x88}, bytes.Repeat([]byte{0xbe}, 250_000)...)))
		s.peer.WantRSTStream("250,000 references are 1 GB", 5, wire.ProtocolError)
		third.WantErr(s.t, "too large a list")
		s.wantLife(7)
		s.wantMemory(maxGrowth)
	})
}

func TestBlockOfManySmallFragmentsIsReadOnce(t *testing.T) {
	cfg := &hyper.Config{MaxHeaderListSize: 64 << 20, MaxFrameSize: wire.MinMaxFrameSize}
	besiege(t, cfg, time.Second, func(s *siege) {
		r := s.get(1)
		value := bytes.Repeat([]byte{'v'}, 1000)
		field := slices.Concat([]byte{0x00, 1, 'x', 0x7f, 0xe9, 0x06}, value)
		s.server.Write(h2test.RawFrame(wire.Headers, 0, 1, []byte{0x88}))
		for range 3000 {
			s.server.Write(h2test.RawFrame(wire.Continuation, 0, 1, field))
		}
		s.server.Write(h2test.RawFrame(wire.Continuation, wire.EndHeaders, 1, nil))
		if resp := r.Want(s.t, "a block of 3 MB"); len(resp.Header) != 3000 {
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
				s.wantEnd(hyper.ErrCodeEnhanceYourCalm, r)
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
		if err := r.WantErr(s.t, "the caller"); !errors.Is(err, hyper.ErrCodeEnhanceYourCalm) {
			s.t.Error(err)
		}
		s.wantMemory(maxGrowth)
	})
}

func TestFramesThatCarryNothingHaveABudget(t *testing.T) {
	const on = 1 // an open stream; 3 is one that the peer reset, 5 one that we reset
	for name, frame := range map[string][]byte{
		"PRIORITY":                              h2test.RawFrame(wire.Priority, 0, on, make([]byte, 5)),
		"misshapen PRIORITY on a closed stream": h2test.RawFrame(wire.Priority, 0, 3, make([]byte, 4)),
		"an unknown type":                       h2test.RawFrame(0xee, 0, on, nil),
		"an unknown type with a payload":        h2test.RawFrame(0xee, 0, 0, make([]byte, 50)),
		"ORIGIN":                                h2test.RawFrame(wire.Origin, 0, 0, []byte{0, 1, 'x'}),
		"empty DATA":                            wire.AppendData(nil, on, 0, nil),
		"DATA with nothing but padding": h2test.RawFrame(wire.Data, wire.Padded, on,
			[]byte{3, 0, 0, 0}),
		"DATA with no padding of its own":  h2test.RawFrame(wire.Data, wire.Padded, on, []byte{0}),
		"late DATA, empty":                 wire.AppendData(nil, 5, 0, nil),
		"late DATA of one octet":           wire.AppendData(nil, 5, 0, []byte{0}),
		"late HEADERS":                     h2test.RawFrame(wire.Headers, wire.EndHeaders, 5, []byte{0x88}),
		"small windows for the connection": wire.AppendWindowUpdate(nil, 0, 1),
		"small windows for a stream":       wire.AppendWindowUpdate(nil, on, 1),
		"windows for a closed stream":      wire.AppendWindowUpdate(nil, 3, 1<<20),
		"RST_STREAM of a closed stream":    wire.AppendRSTStream(nil, 3, wire.Cancel),
		"SETTINGS":                         wire.AppendSettings(nil),
		"SETTINGS acknowledgments":         wire.AppendSettingsAck(nil),
		"PING":                             wire.AppendPing(nil, 0, [8]byte{}),
		"PING acknowledgments":             wire.AppendPing(nil, wire.Ack, [8]byte{255}),
		"GOAWAY":                           wire.AppendGoAway(nil, on, wire.NoError, "bye"),
	} {
		t.Run(name, func(t *testing.T) {
			besiege(t, nil, time.Second, func(s *siege) {
				open, reset := s.get(1), s.get(3)
				s.peer.WriteHeaders(1, 0, ":status: 200")
				resp := open.Want(t, "the open stream")
				s.peer.WriteRSTStream(3, wire.Cancel)
				reset.WantErr(t, "the peer's reset")
				st, err := s.conn.Open(context.Background(), &hyper.Request{})
				if err != nil {
					t.Fatal(err)
				}
				st.Reset(hyper.ErrCodeCancel)
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
				s.wantEnd(hyper.ErrCodeEnhanceYourCalm)
				if _, err := resp.Body.Read(make([]byte, 1)); !errors.Is(err, hyper.ErrCodeEnhanceYourCalm) {
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
			resp := r.Want(s.t, "the response")
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
	besiege(t, &hyper.Config{Push: &hyper.PushPolicy{}}, 2*time.Second, func(s *siege) {
		r := s.get(1)
		for i := 0; s.conn.Err() == nil; i++ {
			if i > 1100 {
				s.t.Fatal("no end")
			}
			// :method: POST, and no other field.
			payload := append(binary.BigEndian.AppendUint32(nil, uint32(2+2*i)), 0x83)
			s.server.Write(h2test.RawFrame(wire.PushPromise, wire.EndHeaders, 1, payload))
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
		if err := r.WantErr(s.t, "the parent"); !errors.Is(err, hyper.ErrCodeEnhanceYourCalm) {
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
				r := doAsync(context.Background(), s.conn,
					&hyper.Request{Informational: func(int, hyper.Header) error {
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
				var se *hyper.StreamError
				if err := r.WantErr(t, "the caller"); !errors.As(err, &se) || se.FromPeer ||
					se.Code != hyper.ErrCodeProtocol {
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
	besiege(t, &hyper.Config{Push: &hyper.PushPolicy{Max: 10}}, time.Second, func(s *siege) {
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
		s.wantEnd(hyper.ErrCodeEnhanceYourCalm)
	})
}
