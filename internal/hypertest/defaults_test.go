// This file tests the defaults and the ranges of Config.

package hypertest

import (
	"cmp"
	"errors"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

func TestConfigOutOfRangeIsRefused(t *testing.T) {
	cases := map[string]*hyper.Config{
		"MaxFrameSize too small":     {MaxFrameSize: 1<<14 - 1},
		"MaxFrameSize negative":      {MaxFrameSize: -1},
		"MaxFrameSize too large":     {MaxFrameSize: 1 << 24},
		"MaxHeaderListSize negative": {MaxHeaderListSize: -1},
		"Settings that have a field": {
			Settings: []hyper.Setting{{ID: hyper.SettingMaxConcurrentStreams, Value: 1}},
		},
	}
	if huge := int64(1) << 32; math.MaxInt > huge { // int is larger than 32 bits
		cases["InitialStreamWindow too large"] = &hyper.Config{InitialStreamWindow: int(huge >> 1)}
		cases["MaxHeaderListSize too large"] = &hyper.Config{MaxHeaderListSize: int(huge)}
		cases["HeaderTableSize too large"] = &hyper.Config{HeaderTableSize: int(huge)}
	}
	for name, cfg := range cases {
		client, server := net.Pipe()
		if _, err := hyper.NewConn(t.Context(), client, cfg); err == nil ||
			!strings.Contains(err.Error(), "hyper: Config.") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := server.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: the transport is still open: %v", name, err)
		}
		if _, err := hyper.Dial(t.Context(), "example.com", cfg); err == nil ||
			!strings.Contains(err.Error(), "hyper: Config.") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConfigIsAnnounced(t *testing.T) {
	set := func(id wire.SettingID, value uint32) wire.Setting { return wire.Setting{ID: id, Value: value} }
	plain := []wire.Setting{
		set(wire.SettingEnablePush, 0), set(wire.SettingInitialWindowSize, 256<<10-1),
		set(wire.SettingMaxFrameSize, 256<<10), set(wire.SettingMaxHeaderListSize, 10<<20),
	}
	with := func(i int, s wire.Setting) []wire.Setting {
		list := slices.Clone(plain)
		list[i] = s
		return list
	}
	manual := hyper.ReadWindow{}.New
	for name, test := range map[string]struct {
		cfg  *hyper.Config
		want []wire.Setting
	}{
		"nil": {nil, plain},
		"a stream window": {&hyper.Config{InitialStreamWindow: 77},
			with(1, set(wire.SettingInitialWindowSize, 77))},
		"the largest": {&hyper.Config{InitialStreamWindow: math.MaxInt32},
			with(1, set(wire.SettingInitialWindowSize, math.MaxInt32))},
		"no window at all": {&hyper.Config{InitialStreamWindow: -1},
			with(1, set(wire.SettingInitialWindowSize, 0))},
		"another window manager": {&hyper.Config{WindowManager: manual},
			with(1, set(wire.SettingInitialWindowSize, 65535))},
		"a frame size": {&hyper.Config{MaxFrameSize: 16384},
			with(2, set(wire.SettingMaxFrameSize, 16384))},
		"a header limit": {&hyper.Config{MaxHeaderListSize: 1000},
			with(3, set(wire.SettingMaxHeaderListSize, 1000))},
		"a table": {&hyper.Config{HeaderTableSize: 100},
			append(slices.Clone(plain), set(wire.SettingHeaderTableSize, 100))},
		"no table": {&hyper.Config{HeaderTableSize: -1},
			append(slices.Clone(plain), set(wire.SettingHeaderTableSize, 0))},
		"extensions": {&hyper.Config{Settings: []hyper.Setting{{ID: 0xf000, Value: 2},
			{ID: hyper.SettingNoRFC7540Priorities, Value: 1}}},
			append(slices.Clone(plain), set(0xf000, 2), set(wire.SettingNoRFC7540Priorities, 1))},
		"push": {&hyper.Config{Push: &hyper.PushPolicy{Max: 7}}, []wire.Setting{
			set(wire.SettingMaxConcurrentStreams, 7), set(wire.SettingInitialWindowSize, 65535), plain[2],
			plain[3]}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, _, _ := newPeer(t, test.cfg)
				if got := peer.WantPreface("the client speaks first"); !slices.Equal(got, test.want) {
					t.Errorf("got  %v\nwant %v", got, test.want)
				}
			})
		})
	}
}

func TestSchemeAndAuthorityOfTheConnection(t *testing.T) {
	for name, test := range map[string]struct {
		cfg               hyper.Config
		scheme, authority string
	}{
		"by default": {hyper.Config{}, "http", "192.0.2.2:443"},
		// A proxy before us ends TLS.
		"given": {hyper.Config{Scheme: "https", Authority: "a.example:8443"}, "https", "a.example:8443"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &test.cfg)
				getAsync(conn, "/")
				peer.WantHeaders("the connection's own", 1, ":scheme: "+test.scheme,
					":authority: "+test.authority)
				doAsync(t.Context(), conn, &hyper.Request{Scheme: "ftp", Authority: "b.example"})
				peer.WantHeaders("the request's own", 3, ":scheme: ftp", ":authority: b.example")
			})
		})
	}
}

func TestUserAgent(t *testing.T) {
	for want, cfg := range map[string]hyper.Config{
		"hyper":    {},
		"tester/1": {UserAgent: "tester/1"},
		"-":        {UserAgent: "-"},
		"":         {UserAgent: "tester/1", NoUserAgent: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, &cfg)
			getAsync(conn, "/")
			got := peer.WantHeaders("the request", 1).Get("user-agent")
			if got != want {
				t.Errorf("user-agent %q, want %q", got, want)
			}
		})
	}
}

func TestFrameAboveTheAnnouncedSizeEndsTheConnection(t *testing.T) {
	// RFC 9113 §4.2: a frame that exceeds SETTINGS_MAX_FRAME_SIZE is a FRAME_SIZE_ERROR.
	for _, size := range []int{0, 1 << 14, 1 << 16} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, &hyper.Config{MaxFrameSize: size})
			peer.WriteFrame(wire.FrameHeader{Length: cmp.Or(size, 256<<10), Type: 0xbe},
				make([]byte, cmp.Or(size, 256<<10)))
			peer.WantIdle("as large as announced")
			peer.WriteFrame(wire.FrameHeader{Length: cmp.Or(size, 256<<10) + 1, Type: wire.Ping}, nil)
			peer.WantGoAway("judged by its header", 0, wire.FrameSizeError)
			if !errors.Is(conn.Err(), hyper.ErrCodeFrameSize) {
				t.Errorf("Err: %v", conn.Err())
			}
		})
	}
}

func TestConfigOfDialReachesTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, _, err := dialServer(t, "example.com", hyper.Config{
			TLS: h2test.ClientTLS(), UserAgent: "tester/1", Scheme: "coap", Authority: "origin.example",
			MaxFrameSize: 20000,
		}, h2test.ServerTLS("h2"))
		if err != nil {
			t.Fatal(err)
		}
		got := peer.Handshake()
		if !slices.Contains(got, wire.Setting{ID: wire.SettingMaxFrameSize, Value: 20000}) {
			t.Errorf("SETTINGS %v", got)
		}
		getAsync(conn, "/")
		peer.WantHeaders("the request", 1, "user-agent: tester/1", ":scheme: coap",
			":authority: origin.example")
	})
}
