// This file tests SETTINGS of both sides.

package hypertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

func TestPeerSettingsHaveTheValuesOfThePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, _ := newPeer(t, nil)
		before := hyper.PeerSettings{
			HeaderTableSize: 4096, MaxConcurrentStreams: math.MaxUint32, InitialWindowSize: 65535,
			MaxFrameSize: 16384, MaxHeaderListSize: math.MaxUint32,
		}
		if got := conn.PeerSettings(); !reflect.DeepEqual(got, before) {
			t.Errorf("before SETTINGS: %+v", got)
		}
		peer.Handshake(
			wire.Setting{ID: wire.SettingHeaderTableSize, Value: 1},
			wire.Setting{ID: wire.SettingEnablePush, Value: 0},
			wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 2},
			wire.Setting{ID: wire.SettingInitialWindowSize, Value: 3},
			wire.Setting{ID: wire.SettingMaxFrameSize, Value: 20000},
			wire.Setting{ID: wire.SettingMaxHeaderListSize, Value: 5},
			wire.Setting{ID: wire.SettingEnableConnectProtocol, Value: 1},
			wire.Setting{ID: wire.SettingNoRFC7540Priorities, Value: 1},
			wire.Setting{ID: 0xf000, Value: 6},
			wire.Setting{ID: 0xf000, Value: 7}, // RFC 9113 §6.5.3: in the order they appear
		)
		after := hyper.PeerSettings{
			Received: true, HeaderTableSize: 1, MaxConcurrentStreams: 2, InitialWindowSize: 3,
			MaxFrameSize: 20000, MaxHeaderListSize: 5, EnableConnectProtocol: true,
			Other: []hyper.Setting{{ID: hyper.SettingNoRFC7540Priorities, Value: 1}, {ID: 0xf000, Value: 7}},
		}
		got := conn.PeerSettings()
		if !reflect.DeepEqual(got, after) {
			t.Errorf("after SETTINGS: %+v", got)
		}
		got.Other[0].Value = 99
		if again := conn.PeerSettings(); !reflect.DeepEqual(again, after) {
			t.Errorf("the caller changed them: %+v", again)
		}
	})
}

func TestUnknownSettingsAreKeptUpToABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var many []wire.Setting
		for i := range 2000 {
			many = append(many, wire.Setting{ID: wire.SettingID(0x100 + i), Value: 1})
		}
		_, conn := dialPeer(t, nil, many...)
		if n := len(conn.PeerSettings().Other); n != maxOtherSettings {
			t.Errorf("%d are kept, want %d", n, maxOtherSettings)
		}
	})
}

func TestWrongSettingsEndTheConnection(t *testing.T) {
	// RFC 9113 §6.5.2 names the error code for each of these.
	for _, test := range []struct {
		settings []wire.Setting
		code     wire.ErrCode
	}{
		{[]wire.Setting{{ID: wire.SettingEnablePush, Value: 1}}, wire.ProtocolError}, // a server MUST NOT
		{[]wire.Setting{{ID: wire.SettingEnablePush, Value: 2}}, wire.ProtocolError},
		{[]wire.Setting{{ID: wire.SettingInitialWindowSize, Value: 1 << 31}}, wire.FlowControlError},
		{[]wire.Setting{{ID: wire.SettingMaxFrameSize, Value: 0}}, wire.ProtocolError},
		{[]wire.Setting{{ID: wire.SettingMaxFrameSize, Value: 1<<14 - 1}}, wire.ProtocolError},
		{[]wire.Setting{{ID: wire.SettingMaxFrameSize, Value: 1 << 24}}, wire.ProtocolError},
		{[]wire.Setting{{ID: wire.SettingEnableConnectProtocol, Value: 2}}, wire.ProtocolError},
		{[]wire.Setting{{ID: wire.SettingNoRFC7540Priorities, Value: 2}}, wire.ProtocolError},
		// RFC 8441 §3: a sender MUST NOT send 0 after 1.
		{[]wire.Setting{{ID: wire.SettingEnableConnectProtocol, Value: 1},
			{ID: wire.SettingEnableConnectProtocol, Value: 0}}, wire.ProtocolError},
	} {
		for _, when := range []string{"first", "later"} {
			t.Run(fmt.Sprint(test.settings, when), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					peer, conn, _ := newPeer(t, nil)
					if when == "later" {
						peer.Handshake()
					} else {
						peer.WantPreface("the client speaks first")
						peer.Ignore(wire.WindowUpdate)
					}
					peer.WriteSettings(test.settings...)
					peer.WantGoAway("in place of an acknowledgment", 0, test.code)
					peer.WantClosed("behind it")
					if !errors.Is(conn.Err(), hyper.ErrCode(test.code)) {
						t.Errorf("Err: %v", conn.Err())
					}
				})
			})
		}
	}
}

func TestConnectProtocolTakenBackLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, _ := dialPeer(t, nil, wire.Setting{ID: wire.SettingEnableConnectProtocol, Value: 1})
		peer.WriteSettings(wire.Setting{ID: wire.SettingEnableConnectProtocol, Value: 1})
		peer.WantSettingsAck("saying it again is fine")
		peer.WriteSettings(wire.Setting{ID: wire.SettingEnableConnectProtocol, Value: 0})
		peer.WantGoAway("RFC 8441 §3: not back to 0", 0, wire.ProtocolError)
	})
}

func TestPeerMustBeginWithSettings(t *testing.T) {
	// RFC 9113 §3.4: the server connection preface consists of a SETTINGS frame, the first frame
	// that it sends.
	for name, first := range map[string]func(*h2test.Peer){
		"PING":         func(p *h2test.Peer) { p.WritePing(0, [8]byte{}) },
		"SETTINGS ACK": func(p *h2test.Peer) { p.WriteSettingsAck() },
		"HEADERS":      func(p *h2test.Peer) { p.WriteHeaders(1, wire.EndStream, ":status: 200") },
		"unknown":      func(p *h2test.Peer) { p.WriteFrame(wire.FrameHeader{Type: 0xbe}, nil) },
		"HTTP/1.1":     func(p *h2test.Peer) { p.WriteRaw([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn, _ := newPeer(t, nil)
				peer.Ignore(wire.WindowUpdate)
				got := getAsync(conn, "/")
				peer.WantPreface("the client speaks first")
				peer.WantHeaders("its request", 1)
				first(peer)
				f := peer.WantFrame("this is no HTTP/2 server", wire.GoAway)
				_, code, _ := wire.ParseGoAway(f.Payload)
				if code != wire.ProtocolError && !(name == "HTTP/1.1" && code == wire.FrameSizeError) {
					t.Errorf("GOAWAY with %v", code)
				}
				peer.WantClosed("behind it")
				got.WantErr(t, "the request")
			})
		})
	}
}

func TestSettingsAreInEffectBehindTheirAcknowledgment(t *testing.T) {
	// RFC 9113 §6.5.3: once all values have been applied, the recipient MUST immediately
	// acknowledge. What follows the acknowledgment obeys the new values. (The peer checks windows
	// by the same rule.)
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		s, err := conn.Open(t.Context(), &hyper.Request{Method: "POST"})
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the request", 1)
		peer.WriteSettings(
			wire.Setting{ID: wire.SettingInitialWindowSize, Value: 100_000},
			wire.Setting{ID: wire.SettingMaxFrameSize, Value: 20_000},
		)
		peer.WriteWindowUpdate(0, 100_000)
		peer.WantSettingsAck("at once")
		go s.Write(make([]byte, 45_000))
		peer.WantData("as large as the peer takes them", 1, 0, 20_000)
		peer.WantData("as large as the peer takes them", 1, 0, 20_000)
		peer.WantData("and the rest", 1, 0, 5_000)
		peer.WriteSettings(wire.Setting{ID: wire.SettingMaxFrameSize, Value: 16_384})
		peer.WantSettingsAck("of the smaller size")
		go s.Write(make([]byte, 20_000))
		peer.WantData("smaller from here on", 1, 0, 16_384)
		peer.WantData("and the rest", 1, 0, 3_616)
	})
}

func TestLargeFieldSectionIsSplitByThePeersFrameSize(t *testing.T) {
	for _, size := range []uint32{16_384, 20_000, 1 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxFrameSize, Value: size})
				value := strings.Repeat("~", 50_000) // its Huffman code is longer than the text
				doAsync(t.Context(), conn, &hyper.Request{Header: hyper.Header{{Name: "x-large",
					Value: value}}})
				h := peer.WantHeaders("whole, once joined", 1, "x-large: "+value)
				for i, f := range h.Frames {
					if last := i == len(h.Frames)-1; !last && f.Length != int(size) || f.Length > int(size) {
						t.Errorf("frame %d of %d: %v", i+1, len(h.Frames), f)
					}
				}
				if want := (len(h.Block) + int(size) - 1) / int(size); len(h.Frames) != want {
					t.Errorf("%d frames, want %d", len(h.Frames), want)
				}
			})
		})
	}
}

func TestTableSizeOfThePeerIsObeyed(t *testing.T) {
	// RFC 7541 §4.2: after a change of the table size, the next block begins with an update. If the
	// size fell and rose again between two blocks, the block begins with both the smallest and the
	// last size.
	tableSize := func(n uint32) wire.Setting {
		return wire.Setting{ID: wire.SettingHeaderTableSize,
			Value: n}
	}
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		id := uint32(1)
		send := func(reason string, update []byte) []byte {
			t.Helper()
			got := doAsync(t.Context(), conn, &hyper.Request{Header: hyper.Header{{Name: "x-long-and-rare",
				Value: "a value that is worth a table entry"}}})
			h := peer.WantHeaders(reason, id, "x-long-and-rare: a value that is worth a table entry")
			h2test.AnswerEmpty(peer, id)
			got.Want(t, reason)
			id += 2
			if !bytes.HasPrefix(h.Block, update) {
				t.Errorf("%s: the block begins with % x, want % x", reason, h.Block[:8], update)
			}
			return h.Block[len(update):]
		}
		first := send("4,096 is where both begin", nil)
		if second := send("the table is in use", nil); len(second) >= len(first) {
			t.Errorf("%d octets, then %d", len(first), len(second))
		}
		peer.WriteSettings(tableSize(0))
		peer.WantSettingsAck("of no table")
		first = send("no table", []byte{0x20})
		if second := send("still no table", nil); len(second) != len(first) {
			t.Errorf("without a table: %d octets, then %d", len(first), len(second))
		}
		peer.WriteSettings(tableSize(4096))
		peer.WantSettingsAck("of a table")
		send("a table again", []byte{0x3f, 0xe1, 0x1f})
		peer.WriteSettings(tableSize(0), tableSize(4096))
		peer.WantSettingsAck("of both")
		first = send("emptied and raised", []byte{0x20, 0x3f, 0xe1, 0x1f})
		if second := send("the table is in use", nil); len(second) >= len(first) {
			t.Errorf("%d octets, then %d", len(first), len(second))
		}
		peer.WriteSettings(tableSize(math.MaxUint32))
		peer.WantSettingsAck("of 4 GiB")
		if block := send("we need no more than 4,096", nil); block[0]&0xe0 == 0x20 {
			t.Errorf("the block begins with an update: % x", block[:8])
		}
	})
}

func TestWaitSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, _ := newPeer(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if s, err := conn.WaitSettings(ctx); !errors.Is(err, context.DeadlineExceeded) || s.Received {
			t.Errorf("before SETTINGS: %+v, %v", s, err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			s, err := conn.WaitSettings(t.Context())
			if err != nil || !s.Received || s.MaxConcurrentStreams != 7 {
				t.Errorf("WaitSettings: %+v, %v", s, err)
			}
		}()
		synctest.Wait()
		peer.Handshake(h2test.AtMost(7))
		<-done
		if s, err := conn.WaitSettings(t.Context()); err != nil || !s.Received {
			t.Errorf("afterwards: %+v, %v", s, err)
		}
	})
}

// updateAsync calls UpdateSettings on a goroutine of its own.
func updateAsync(ctx context.Context, conn *hyper.Conn, settings ...hyper.Setting) chan error {
	done := make(chan error, 1)
	go func() { done <- conn.UpdateSettings(ctx, settings...) }()
	return done
}

func TestUpdateSettingsWaitsForTheAcknowledgment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		first := updateAsync(t.Context(), conn, hyper.Setting{ID: 0xf000, Value: 1})
		peer.WantFrame("an extension's setting", wire.Settings)
		second := updateAsync(t.Context(), conn, hyper.Setting{ID: 0xf000, Value: 2})
		f := peer.WantFrame("and another", wire.Settings)
		if got := slices.Collect(wire.ParseSettings(f.Payload)); !slices.Equal(got,
			[]wire.Setting{{ID: 0xf000, Value: 2}}) {
			t.Errorf("SETTINGS with %v", got)
		}
		synctest.Wait()
		if len(first)+len(second) > 0 {
			t.Error("UpdateSettings did not wait")
		}
		peer.WriteSettingsAck()
		if err := <-first; err != nil {
			t.Errorf("the first: %v", err)
		}
		synctest.Wait()
		if len(second) > 0 {
			t.Error("the second took the acknowledgment of the first")
		}
		peer.WriteSettingsAck()
		if err := <-second; err != nil {
			t.Errorf("the second: %v", err)
		}
	})
}

func TestUpdateSettingsBeforeTheHandshakeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, _ := newPeer(t, nil)
		peer.Ignore(wire.WindowUpdate)
		done := updateAsync(t.Context(), conn, hyper.Setting{ID: 0xf000, Value: 1})
		peer.WantPreface("the client speaks first")
		peer.WantFrame("the update", wire.Settings)
		peer.WriteSettings()
		peer.WantSettingsAck("of the peer's own")
		peer.WriteSettingsAck()
		synctest.Wait()
		if len(done) > 0 {
			t.Error("UpdateSettings took the acknowledgment of the preface")
		}
		peer.WriteSettingsAck()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestUpdateSettingsObeysItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := conn.UpdateSettings(ctx, hyper.Setting{ID: 0xf000, Value: 1}); !errors.Is(err,
			context.DeadlineExceeded) {
			t.Errorf("UpdateSettings: %v", err)
		}
		peer.WantFrame("it was sent", wire.Settings)
		peer.WriteSettingsAck()
		peer.WantIdle("a late acknowledgment is in order")
	})
}

func TestUpdateSettingsThatThePeerIgnores(t *testing.T) {
	// RFC 9113 §6.5.3: without an acknowledgment in time the sender MAY issue SETTINGS_TIMEOUT.
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{SettingsTimeout: 3 * time.Second, KeepAlive: -1})
		time.Sleep(time.Minute)
		start := time.Now()
		err := conn.UpdateSettings(t.Context(), hyper.Setting{ID: 0xf000, Value: 1})
		if waited := time.Since(start); !errors.Is(err, hyper.ErrCodeSettingsTimeout) ||
			waited != 3*time.Second {
			t.Errorf("UpdateSettings: %v after %v", err, waited)
		}
		peer.WantFrame("the update", wire.Settings)
		peer.WantGoAway("no answer", 0, wire.SettingsTimeout)
	})
}

func TestUpdateSettingsRefusesWhatCannotChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		for _, s := range []hyper.Setting{
			{ID: hyper.SettingHeaderTableSize, Value: 0}, {ID: hyper.SettingEnablePush, Value: 0},
			{ID: hyper.SettingMaxHeaderListSize, Value: 1},
			{ID: hyper.SettingInitialWindowSize, Value: 1 << 31},
			{ID: hyper.SettingEnableConnectProtocol, Value: 2},
		} {
			if err := conn.UpdateSettings(t.Context(), s); err == nil {
				t.Errorf("%v: no error", s)
			}
		}
		peer.WantIdle("nothing was sent")
	})
}

func TestUpdateSettingsRaisesTheWindowsOfLiveStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: silentWindows, InitialStreamWindow: 1000})
		getAsync(conn, "/old")
		peer.WantHeaders("a live stream", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 1000))
		done := updateAsync(t.Context(), conn, hyper.Setting{ID: hyper.SettingInitialWindowSize, Value: 5000})
		peer.WantFrame("the update", wire.Settings)
		// The peer may use the new window as soon as it knows it, before its acknowledgment.
		peer.WriteData(1, 0, make([]byte, 4000))
		peer.WriteSettingsAck()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		getAsync(conn, "/new")
		peer.WantHeaders("a later stream", 3)
		peer.WriteHeaders(3, 0, ":status: 200")
		peer.WriteData(3, 0, make([]byte, 5000))
		peer.WantIdle("all of that was allowed")
		if c := peer.Credit(1); c != 0 {
			t.Errorf("credit %d", c)
		}
		peer.WriteData(1, 0, make([]byte, 1))
		peer.WantRSTStream("one octet too many", 1, wire.FlowControlError)
		peer.WriteData(3, 0, make([]byte, 1))
		peer.WantRSTStream("one octet too many", 3, wire.FlowControlError)
	})
}

// silentWindows returns a manager that grants nothing.
func silentWindows(*hyper.Window) hyper.WindowManager {
	return hyper.WindowManagerFunc(func(hyper.WindowEvent) int { return 0 })
}

func TestWindowManagersHearOfAnUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := make(chan hyper.WindowEvent, 10)
		factory := func(w *hyper.Window) hyper.WindowManager {
			return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
				if ev.Kind == hyper.WindowSettings && w.StreamID() == 1 {
					heard <- ev
				}
				return 0
			})
		}
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: factory, InitialStreamWindow: 5000})
		getAsync(conn, "/")
		peer.WantHeaders("a live stream", 1)
		for _, test := range []struct{ size, shift int }{{7000, 2000}, {1000, -6000}} {
			done := updateAsync(t.Context(), conn,
				hyper.Setting{ID: hyper.SettingInitialWindowSize, Value: uint32(test.size)})
			peer.WantFrame("the update", wire.Settings)
			synctest.Wait()
			if len(heard) > 0 {
				t.Error("the manager heard of it before the peer did")
			}
			peer.WriteSettingsAck()
			<-done
			if ev := <-heard; ev.Bytes != test.shift || ev.Credit != test.size {
				t.Errorf("%d: heard of a shift by %d to %d", test.size, ev.Bytes, ev.Credit)
			}
		}
	})
}

func TestUpdateSettingsMustNotRaiseAWindowAboveTheMaximum(t *testing.T) {
	// RFC 9113 §6.9.2: the peer ends the connection if a change makes any window exceed the
	// maximum.
	synctest.Test(t, func(t *testing.T) {
		unlimited := func(*hyper.Window) hyper.WindowManager {
			return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
				return wire.MaxWindow - ev.Credit
			})
		}
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: unlimited})
		peer.Ignore(wire.WindowUpdate)
		getAsync(conn, "/")
		peer.WantHeaders("a live stream", 1)
		if err := conn.UpdateSettings(t.Context(),
			hyper.Setting{ID: hyper.SettingInitialWindowSize, Value: 65_536}); err == nil {
			t.Error("no error")
		}
		peer.WantIdle("nothing was sent")
	})
}

func TestSettingsByName(t *testing.T) {
	for want, s := range map[string]hyper.Setting{
		"SETTINGS_HEADER_TABLE_SIZE=1":       {ID: hyper.SettingHeaderTableSize, Value: 1},
		"SETTINGS_ENABLE_PUSH=0":             {ID: hyper.SettingEnablePush, Value: 0},
		"SETTINGS_MAX_CONCURRENT_STREAMS=5":  {ID: hyper.SettingMaxConcurrentStreams, Value: 5},
		"SETTINGS_INITIAL_WINDOW_SIZE=1":     {ID: hyper.SettingInitialWindowSize, Value: 1},
		"SETTINGS_MAX_FRAME_SIZE=16384":      {ID: hyper.SettingMaxFrameSize, Value: 16384},
		"SETTINGS_MAX_HEADER_LIST_SIZE=1":    {ID: hyper.SettingMaxHeaderListSize, Value: 1},
		"SETTINGS_ENABLE_CONNECT_PROTOCOL=1": {ID: hyper.SettingEnableConnectProtocol, Value: 1},
		"SETTINGS_NO_RFC7540_PRIORITIES=1":   {ID: hyper.SettingNoRFC7540Priorities, Value: 1},
		"SETTING_0xf000=1":                   {ID: 0xf000, Value: 1},
		"SETTING_0x0=1":                      {ID: 0, Value: 1},
	} {
		if got := s.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
