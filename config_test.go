package hyper

import (
	"errors"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

func TestZeroConfigIsAGoodClient(t *testing.T) {
	zero, err := (&Config{}).withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	none, err := (*Config)(nil).withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Config{"zero": zero, "nil": none} {
		if c.WindowManager != nil || c.Push != nil || c.UserAgent != "hyper" {
			t.Errorf("%s: %+v", name, c)
		}
		// These are the numbers in Config's comments.
		if c.InitialStreamWindow != 256<<10-1 || c.MaxFrameSize != 256<<10 || c.MaxHeaderListSize != 10<<20 ||
			c.MaxHeaderMemory != 64<<20 || c.HeaderTableSize != 4096 {
			t.Errorf("%s: sizes %d %d %d %d", name, c.InitialStreamWindow, c.MaxFrameSize,
				c.MaxHeaderListSize, c.HeaderTableSize)
		}
		if c.MaxDecodedSize != 1<<30 || c.MaxDecodedRatio != 1000 {
			t.Errorf("%s: decoding %d %d", name, c.MaxDecodedSize, c.MaxDecodedRatio)
		}
		got := []time.Duration{c.HandshakeTimeout, c.SettingsTimeout, c.PingTimeout, c.WriteStallTimeout,
			c.ExpectContinueTimeout}
		want := []time.Duration{10 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
			time.Second}
		if !slices.Equal(got, want) {
			t.Errorf("%s: timeouts %v, want %v", name, got, want)
		}
	}
}

func TestConfigOutOfRangeIsRefused(t *testing.T) {
	cases := map[string]*Config{
		"MaxFrameSize too small":     {MaxFrameSize: 1<<14 - 1},
		"MaxFrameSize negative":      {MaxFrameSize: -1},
		"MaxFrameSize too large":     {MaxFrameSize: 1 << 24},
		"MaxHeaderListSize negative": {MaxHeaderListSize: -1},
		"Settings that have a field": {Settings: []Setting{{SettingMaxConcurrentStreams, 1}}},
	}
	if huge := int64(1) << 32; math.MaxInt > huge { // int is larger than 32 bits
		cases["InitialStreamWindow too large"] = &Config{InitialStreamWindow: int(huge >> 1)}
		cases["MaxHeaderListSize too large"] = &Config{MaxHeaderListSize: int(huge)}
		cases["HeaderTableSize too large"] = &Config{HeaderTableSize: int(huge)}
	}
	for name, cfg := range cases {
		client, server := net.Pipe()
		if _, err := NewConn(t.Context(), client, cfg); err == nil ||
			!strings.Contains(err.Error(), "hyper: Config.") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := server.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: the transport is still open: %v", name, err)
		}
		if _, err := Dial(t.Context(), "example.com", cfg); err == nil ||
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
	manual := ReadWindow{}.New
	for name, test := range map[string]struct {
		cfg  *Config
		want []wire.Setting
	}{
		"nil": {nil, plain},
		"a stream window": {&Config{InitialStreamWindow: 77},
			with(1, set(wire.SettingInitialWindowSize, 77))},
		"the largest": {&Config{InitialStreamWindow: math.MaxInt32},
			with(1, set(wire.SettingInitialWindowSize, math.MaxInt32))},
		"no window at all": {&Config{InitialStreamWindow: -1},
			with(1, set(wire.SettingInitialWindowSize, 0))},
		"another window manager": {&Config{WindowManager: manual},
			with(1, set(wire.SettingInitialWindowSize, 65535))},
		"a frame size": {&Config{MaxFrameSize: 16384},
			with(2, set(wire.SettingMaxFrameSize, 16384))},
		"a header limit": {&Config{MaxHeaderListSize: 1000},
			with(3, set(wire.SettingMaxHeaderListSize, 1000))},
		"a table": {&Config{HeaderTableSize: 100},
			append(slices.Clone(plain), set(wire.SettingHeaderTableSize, 100))},
		"no table": {&Config{HeaderTableSize: -1},
			append(slices.Clone(plain), set(wire.SettingHeaderTableSize, 0))},
		"extensions": {&Config{Settings: []Setting{{0xf000, 2}, {SettingNoRFC7540Priorities, 1}}},
			append(slices.Clone(plain), set(0xf000, 2), set(wire.SettingNoRFC7540Priorities, 1))},
		"push": {&Config{Push: &PushPolicy{Max: 7}}, []wire.Setting{
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

func TestConfigIsCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := &Config{UserAgent: "first", Authority: "a.example", Push: &PushPolicy{Max: 3}}
		peer, conn := dialPeer(t, cfg)
		*cfg.Push = PushPolicy{Max: 99}
		*cfg = Config{UserAgent: "second", Authority: "b.example"}
		getAsync(conn, "/")
		peer.WantHeaders("as it was", 1, "user-agent: first", ":authority: a.example")
		if max := conn.cfg.Push.Max; max != 3 {
			t.Errorf("PushPolicy.Max is %d", max)
		}
	})
}

func TestSchemeAndAuthorityOfTheConnection(t *testing.T) {
	for name, test := range map[string]struct {
		cfg               Config
		scheme, authority string
	}{
		"by default": {Config{}, "http", "192.0.2.2:443"},
		// A proxy before us ends TLS.
		"given": {Config{Scheme: "https", Authority: "a.example:8443"}, "https", "a.example:8443"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &test.cfg)
				getAsync(conn, "/")
				peer.WantHeaders("the connection's own", 1, ":scheme: "+test.scheme,
					":authority: "+test.authority)
				doAsync(t.Context(), conn, &Request{Scheme: "ftp", Authority: "b.example"})
				peer.WantHeaders("the request's own", 3, ":scheme: ftp", ":authority: b.example")
			})
		})
	}
}

func TestUserAgent(t *testing.T) {
	for want, cfg := range map[string]Config{
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
			peer, conn := dialPeer(t, &Config{MaxFrameSize: size})
			peer.WriteFrame(wire.FrameHeader{Length: or(size, 256<<10), Type: 0xbe},
				make([]byte, or(size, 256<<10)))
			peer.WantIdle("as large as announced")
			peer.WriteFrame(wire.FrameHeader{Length: or(size, 256<<10) + 1, Type: wire.Ping}, nil)
			peer.WantGoAway("judged by its header", 0, wire.FrameSizeError)
			if !errors.Is(conn.Err(), ErrCodeFrameSize) {
				t.Errorf("Err: %v", conn.Err())
			}
		})
	}
}

func TestConfigOfDialReachesTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, _, err := dialServer(t, "example.com", Config{
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
