// This file tests how uploads use frames and windows.

package hypertest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// These tests are about windows of an upload.

func TestFramesAreAsLargeAsThePeerAllows(t *testing.T) {
	for _, test := range []struct{ peerMax, want int }{
		{16384, 16384}, {16385, 16385}, {50_000, 50_000}, {1 << 20, maxDataFrame},
		{wire.MaxMaxFrameSize, maxDataFrame},
	} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialUploadPeer(t, nil, wire.Setting{ID: wire.SettingMaxFrameSize,
				Value: uint32(test.peerMax)})
			doAsync(context.Background(), conn, put(bytes.NewReader(make([]byte, 2*test.want+1))))
			peer.WantHeaders("the request", 1)
			peer.WantData("a full frame", 1, 0, test.want)
			peer.WantData("a full frame", 1, 0, test.want)
			peer.WantData("the rest", 1, wire.EndStream, 1)
		})
	}
}

func TestSmallerFrameSizeHoldsFromItsAcknowledgment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxFrameSize, Value: 1 << 20})
		doAsync(context.Background(), conn, put(bytes.NewReader(make([]byte, 65535+20_000))))
		peer.WantHeaders("the request", 1)
		peer.WantData("one frame, as large as the windows", 1, 0, 65535)
		peer.WriteSettings(wire.Setting{ID: wire.SettingMaxFrameSize, Value: wire.MinMaxFrameSize})
		peer.WantSettingsAck("the new limit")
		peer.WriteWindowUpdate(0, 1<<20)
		peer.WriteWindowUpdate(1, 1<<20)
		peer.WantData("within the new limit", 1, 0, 16384)
		peer.WantData("the rest", 1, wire.EndStream, 20_000-16384)
	})
}

func TestTinyWindowsAreUsedToTheByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingInitialWindowSize, Value: 1})
		doAsync(context.Background(), conn, put(strings.NewReader("0123456789")))
		peer.WantHeaders("the request", 1)
		octets := peer.WantData("the window", 1, 0, 1)
		peer.WantIdle("it is used up")
		for _, n := range []int{7, 1} {
			peer.WriteWindowUpdate(1, n)
			octets = append(octets, peer.WantData("what was opened", 1, 0, n)...)
			peer.WantIdle("and no more")
		}
		peer.WriteWindowUpdate(1, 7)
		octets = append(octets, peer.WantData("the rest", 1, wire.EndStream, 1)...)
		if string(octets) != "0123456789" {
			t.Errorf("got %q", octets)
		}
	})
}

func TestUploadWaitsForWindow(t *testing.T) {
	const initial = wire.SettingInitialWindowSize
	tests := []struct {
		reason string
		stream uint32 // INITIAL_WINDOW_SIZE
		first  int    // bytes that are sent at once
		open   func(*h2test.Peer)
	}{
		{"WINDOW_UPDATE of the stream", 0, 0, func(p *h2test.Peer) { p.WriteWindowUpdate(1, 1<<20) }},
		{"SETTINGS", 0, 0, func(p *h2test.Peer) {
			p.WriteSettings(wire.Setting{ID: initial,
				Value: 70_000})
		}},
		{"WINDOW_UPDATE of the connection", 1 << 20, 65535,
			func(p *h2test.Peer) { p.WriteWindowUpdate(0, 1<<20) }},
	}
	for _, test := range tests {
		for _, kind := range uploadKinds {
			if kind.slow {
				continue
			}
			t.Run(test.reason+"/"+kind.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					peer, conn := dialPeer(t, nil, wire.Setting{ID: initial, Value: test.stream})
					peer.Ignore(wire.Settings)
					if test.first == 0 {
						peer.WriteWindowUpdate(0, 1<<20)
					}
					data := uploadData(70_000)
					doAsync(context.Background(), conn, put(kind.make(t, data)))
					peer.WantHeaders("HEADERS need no window", 1)
					for left := test.first; left > 0; {
						f := peer.WantFrame("what the window allows", wire.Data)
						data = data[f.Length:]
						left -= f.Length
					}
					peer.WantIdle("no window, no DATA")
					test.open(peer)
					peer.WantBody(test.reason, 1, data)
				})
			})
		}
	}
}

// RFC 9113 §6.9.2: a smaller SETTINGS_INITIAL_WINDOW_SIZE can make windows negative, and the sender
// MUST track that.
func TestNegativeWindowIsWorkedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingInitialWindowSize, Value: 100})
		doAsync(context.Background(), conn, put(bytes.NewReader(make([]byte, 150))))
		peer.WantHeaders("the request", 1)
		peer.WantData("the window", 1, 0, 100)
		peer.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Value: 40})
		peer.WantSettingsAck("the window is -60")
		peer.WriteWindowUpdate(1, 59)
		peer.WantIdle("it is -1")
		peer.WriteWindowUpdate(1, 1)
		peer.WantIdle("it is 0")
		peer.WriteWindowUpdate(1, 1)
		peer.WantData("it is 1", 1, 0, 1)
		peer.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Value: 60})
		peer.WantSettingsAck("20 more")
		peer.WantData("20 more", 1, 0, 20)
		peer.WantIdle("and no more")
	})
}

func TestOverflowOfStreamsWindowResetsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteWindowUpdate(1, wire.MaxWindow-65535)
		peer.WantIdle("exactly 2^31-1 is allowed")
		peer.WriteWindowUpdate(1, 1)
		peer.WantRSTStream("RFC 9113 §6.9.1", 1, wire.FlowControlError)
		if err := got.WantErr(t, "reset"); !errors.Is(err, hyper.ErrCodeFlowControl) {
			t.Error(err)
		}
	})
}

func TestOverflowOfConnectionsWindowEndsIt(t *testing.T) {
	for name, overflow := range map[string]func(*h2test.Peer){
		"WINDOW_UPDATE": func(p *h2test.Peer) { p.WriteWindowUpdate(0, wire.MaxWindow-65535+1) },
		"SETTINGS": func(p *h2test.Peer) {
			p.WriteWindowUpdate(1, wire.MaxWindow-65535)
			p.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Value: 65536})
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			got := getAsync(conn, "/")
			peer.WantHeaders("the request", 1)
			peer.Batch(func() { overflow(peer) })
			peer.WantGoAway(name, 0, wire.FlowControlError)
			if err := got.WantErr(t, name); !errors.Is(err, hyper.ErrCodeFlowControl) {
				t.Error(err)
			}
		})
	}
}

// A stream that has ended does not prevent a larger initial window.
func TestOverflowIsJudgedByLivingStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteWindowUpdate(1, wire.MaxWindow-65535)
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		got.Want(t, "the end")
		peer.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Value: wire.MaxWindow})
		peer.WantSettingsAck("no window is above 2^31-1")
	})
}

func TestUploadsShareTheConnectionsWindowInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingInitialWindowSize, Value: 1 << 24})
		doAsync(context.Background(), conn, put(bytes.NewReader(make([]byte, 1<<20))))
		peer.WantHeaders("first", 1)
		for _, n := range []int{16384, 16384, 16384, 16383} {
			peer.WantData("alone, it has the whole window", 1, 0, n)
		}
		doAsync(context.Background(), conn, put(bytes.NewReader(make([]byte, 1<<20))))
		peer.WantHeaders("second", 3)
		peer.WantIdle("no window")
		for range 3 {
			var order []uint32
			peer.WriteWindowUpdate(0, 4*16384)
			for range 4 {
				order = append(order, peer.WantFrame("in turn", wire.Data).StreamID)
			}
			slices.Sort(order[:2])
			slices.Sort(order[2:])
			if !slices.Equal(order, []uint32{1, 3, 1, 3}) {
				t.Errorf("order of streams: %d", order)
			}
			peer.WantIdle("the window is used up")
		}
	})
}

func TestEndStreamIsNotStuckBehindBlockedData(t *testing.T) {
	for name, window := range map[string]uint32{"of the stream": 0, "of the connection": 1 << 20} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingInitialWindowSize, Value: window})
			doAsync(context.Background(), conn, put(bytes.NewReader(make([]byte, 1<<20))))
			peer.WantHeaders("a large upload", 1)
			for left := min(int(window), 65535); left > 0; {
				left -= peer.WantFrame("as far as it gets", wire.Data).Length
			}
			s, err := conn.Open(context.Background(), &hyper.Request{Method: "POST"})
			if err != nil {
				t.Fatal(err)
			}
			peer.WantHeaders("another request", 3)
			if err := s.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			peer.WantData("needs no window, though the upload waits for one "+name, 3, wire.EndStream, 0)
			doAsync(context.Background(), conn, &hyper.Request{Method: "POST", Body: strings.NewReader(""),
				Trailer: hyper.Header{{Name: "t", Value: "1"}}})
			peer.WantHeaders("nor do requests", 5)
			peer.WantHeaders("and trailers", 5, "t: 1")
		})
	}
}
