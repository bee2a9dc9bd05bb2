package hyper

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
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
