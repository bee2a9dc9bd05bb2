package wire

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// goldenDir contains the golden frames.
const goldenDir = "../../testdata/frames"

// golden reads one frame of goldenDir. The file is in hex, with comments from # to the end of the
// line.
func golden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(goldenDir, name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	frame, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatalf("%s.hex: %v", name, err)
	}
	return frame
}

// goldenNames returns the names of the golden frames.
func goldenNames(t testing.TB) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(goldenDir, "*.hex"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(file), ".hex"))
	}
	slices.Sort(names)
	return names
}

// What some of the golden frames contain.
var (
	pingData = [8]byte{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}

	// the settings of settings.hex
	everySetting = []Setting{
		{SettingHeaderTableSize, 4096},
		{SettingEnablePush, 0},
		{SettingMaxConcurrentStreams, 100},
		{SettingInitialWindowSize, MaxWindow},
		{SettingMaxFrameSize, MaxMaxFrameSize},
		{SettingMaxHeaderListSize, 1<<32 - 1},
		{SettingEnableConnectProtocol, 1},
		{SettingNoRFC7540Priorities, 1},
		{0x4a4a, 42},
		{SettingMaxConcurrentStreams, 50},
	}
)

// goldenFrames are the golden frames with what is known of them.
var goldenFrames = []struct {
	name   string
	text   string
	block  string        // what Block returns, in hex, for the frames that have a block
	append func() []byte // nil if there is no function that writes such a frame
}{
	{
		name:   "data",
		text:   "DATA stream=1 len=5 END_STREAM",
		append: func() []byte { return AppendData(nil, 1, EndStream, []byte("hello")) },
	}, {
		name:   "data-empty",
		text:   "DATA stream=3 len=0 END_STREAM",
		append: func() []byte { return AppendData(nil, 3, EndStream, nil) },
	}, {
		name: "data-padded",
		text: "DATA stream=1 len=8 END_STREAM PADDED",
	}, {
		name:  "headers",
		text:  "HEADERS stream=1 len=17 END_STREAM END_HEADERS",
		block: "828684418cf1e3c2e5f23a6ba0ab90f4ff",
	}, {
		name:  "headers-padded-priority",
		text:  "HEADERS stream=5 len=12 END_STREAM END_HEADERS PADDED PRIORITY",
		block: "828684",
	}, {
		name:  "headers-unfinished",
		text:  "HEADERS stream=7 len=2",
		block: "8286",
	}, {
		name:  "continuation",
		text:  "CONTINUATION stream=7 len=1 END_HEADERS",
		block: "84",
	}, {
		name:  "continuation-unused-flag",
		text:  "CONTINUATION stream=7 len=1 END_HEADERS flags=0x8",
		block: "84",
	}, {
		name: "priority",
		text: "PRIORITY stream=9 len=5",
	}, {
		name:   "rst_stream",
		text:   "RST_STREAM stream=5 len=4 code=REFUSED_STREAM",
		append: func() []byte { return AppendRSTStream(nil, 5, RefusedStream) },
	}, {
		name:   "rst_stream-unknown-code",
		text:   "RST_STREAM stream=5 len=4 code=ERROR_0xdeadbeef",
		append: func() []byte { return AppendRSTStream(nil, 5, 0xdeadbeef) },
	}, {
		name: "settings",
		text: "SETTINGS len=60 HEADER_TABLE_SIZE=4096 ENABLE_PUSH=0 MAX_CONCURRENT_STREAMS=100" +
			" INITIAL_WINDOW_SIZE=2147483647 MAX_FRAME_SIZE=16777215 MAX_HEADER_LIST_SIZE=4294967295" +
			" ENABLE_CONNECT_PROTOCOL=1 NO_RFC7540_PRIORITIES=1 SETTING_0x4a4a=42 MAX_CONCURRENT_STREAMS=50",
		append: func() []byte { return AppendSettings(nil, everySetting...) },
	}, {
		name:   "settings-empty",
		text:   "SETTINGS len=0",
		append: func() []byte { return AppendSettings(nil) },
	}, {
		name:   "settings-ack",
		text:   "SETTINGS len=0 ACK",
		append: func() []byte { return AppendSettingsAck(nil) },
	}, {
		name:  "push_promise",
		text:  "PUSH_PROMISE stream=1 len=7 END_HEADERS promised=2",
		block: "828784",
	}, {
		name:  "push_promise-padded",
		text:  "PUSH_PROMISE stream=1 len=10 END_HEADERS PADDED promised=4",
		block: "828784",
	}, {
		name:   "ping",
		text:   "PING len=8 data=0123456789abcdef",
		append: func() []byte { return AppendPing(nil, 0, pingData) },
	}, {
		name:   "ping-ack",
		text:   "PING len=8 ACK data=0123456789abcdef",
		append: func() []byte { return AppendPing(nil, Ack, pingData) },
	}, {
		name:   "goaway",
		text:   "GOAWAY len=8 last=2147483647 code=NO_ERROR",
		append: func() []byte { return AppendGoAway(nil, MaxStreamID, NoError, "") },
	}, {
		name:   "goaway-debug",
		text:   `GOAWAY len=16 last=5 code=ENHANCE_YOUR_CALM debug="too fast"`,
		append: func() []byte { return AppendGoAway(nil, 5, EnhanceYourCalm, "too fast") },
	}, {
		name:   "window_update-connection",
		text:   "WINDOW_UPDATE len=4 increment=2147418112",
		append: func() []byte { return AppendWindowUpdate(nil, 0, MaxWindow-InitialWindow) },
	}, {
		name:   "window_update-stream",
		text:   "WINDOW_UPDATE stream=1 len=4 increment=32768",
		append: func() []byte { return AppendWindowUpdate(nil, 1, 32768) },
	}, {
		name: "window_update-reserved-bits",
		text: "WINDOW_UPDATE stream=1 len=4 increment=32768",
	}, {
		name: "altsvc",
		text: "ALTSVC len=36",
	}, {
		name: "origin",
		text: "ORIGIN len=21",
	}, {
		name:   "priority_update",
		text:   "PRIORITY_UPDATE len=7",
		append: func() []byte { return AppendPriorityUpdate(nil, 1, "u=2") },
	}, {
		name: "unknown",
		text: "FRAME_0xbe stream=11 len=3 flags=0xff",
	},
}

func TestEveryGoldenFrameIsInTheTable(t *testing.T) {
	var want []string
	for _, g := range goldenFrames {
		want = append(want, g.name)
	}
	slices.Sort(want)
	if got := goldenNames(t); !slices.Equal(got, want) {
		t.Fatalf("%s has\n%v\nthe table has\n%v", goldenDir, got, want)
	}
}

func TestGoldenFramesParse(t *testing.T) {
	for _, g := range goldenFrames {
		t.Run(g.name, func(t *testing.T) {
			frame := golden(t, g.name)
			h, p := ParseFrameHeader(frame), frame[HeaderLen:]
			if h.Length != len(p) {
				t.Fatalf("Length is %d, the payload has %d bytes", h.Length, len(p))
			}
			if err := h.Check(MinMaxFrameSize); err != nil {
				t.Fatalf("Check: %v", err)
			}
			if got := h.Text(p); got != g.text {
				t.Errorf("text\n%s\nwant\n%s", got, g.text)
			}
			if g.block != "" {
				block, err := h.Block(p)
				if got := hex.EncodeToString(block); got != g.block || err != nil {
					t.Errorf("block %s, %v, want %s", got, err, g.block)
				}
			}
		})
	}
}

func TestGoldenFramesAppendToTheSameBytes(t *testing.T) {
	for _, g := range goldenFrames {
		if g.append == nil {
			continue
		}
		t.Run(g.name, func(t *testing.T) {
			if got, want := g.append(), golden(t, g.name); !bytes.Equal(got, want) {
				t.Errorf("appended\n%x\nwant\n%x", got, want)
			}
		})
	}
}

func TestAppendKeepsWhatIsThere(t *testing.T) {
	var got, want []byte
	got = AppendSettings(got, everySetting...)
	got = AppendSettingsAck(got)
	got = AppendPing(got, Ack, pingData)
	got = AppendRSTStream(got, 5, RefusedStream)
	got = AppendWindowUpdate(got, 1, 32768)
	got = AppendData(got, 1, EndStream, []byte("hello"))
	got = AppendGoAway(got, 5, EnhanceYourCalm, "too fast")
	for _, name := range []string{"settings", "settings-ack", "ping-ack", "rst_stream",
		"window_update-stream", "data", "goaway-debug"} {
		want = append(want, golden(t, name)...)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("appended\n%x\nwant\n%x", got, want)
	}
}
