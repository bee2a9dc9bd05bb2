package wire

import (
	"fmt"
	"strings"
	"testing"
)

func TestNamesAreTheOnesOfTheRFC(t *testing.T) {
	tests := []struct {
		value fmt.Stringer
		want  string
	}{
		// RFC 9113 §7
		{ErrCode(0x0), "NO_ERROR"},
		{ErrCode(0x1), "PROTOCOL_ERROR"},
		{ErrCode(0x2), "INTERNAL_ERROR"},
		{ErrCode(0x3), "FLOW_CONTROL_ERROR"},
		{ErrCode(0x4), "SETTINGS_TIMEOUT"},
		{ErrCode(0x5), "STREAM_CLOSED"},
		{ErrCode(0x6), "FRAME_SIZE_ERROR"},
		{ErrCode(0x7), "REFUSED_STREAM"},
		{ErrCode(0x8), "CANCEL"},
		{ErrCode(0x9), "COMPRESSION_ERROR"},
		{ErrCode(0xa), "CONNECT_ERROR"},
		{ErrCode(0xb), "ENHANCE_YOUR_CALM"},
		{ErrCode(0xc), "INADEQUATE_SECURITY"},
		{ErrCode(0xd), "HTTP_1_1_REQUIRED"},
		{ErrCode(0xe), "ERROR_0xe"},
		{ErrCode(0xffffffff), "ERROR_0xffffffff"},

		// RFC 9113 §6
		{FrameType(0x0), "DATA"},
		{FrameType(0x1), "HEADERS"},
		{FrameType(0x2), "PRIORITY"},
		{FrameType(0x3), "RST_STREAM"},
		{FrameType(0x4), "SETTINGS"},
		{FrameType(0x5), "PUSH_PROMISE"},
		{FrameType(0x6), "PING"},
		{FrameType(0x7), "GOAWAY"},
		{FrameType(0x8), "WINDOW_UPDATE"},
		{FrameType(0x9), "CONTINUATION"},
		{FrameType(0xa), "ALTSVC"}, // RFC 7838 §4
		{FrameType(0xb), "FRAME_0xb"},
		{FrameType(0xc), "ORIGIN"},           // RFC 8336 §2
		{FrameType(0x10), "PRIORITY_UPDATE"}, // RFC 9218 §7.1
		{FrameType(0x11), "FRAME_0x11"},
		{FrameType(0xff), "FRAME_0xff"},

		// RFC 9113 §6.5.2
		{SettingID(0x0), "SETTING_0x0"},
		{SettingID(0x1), "HEADER_TABLE_SIZE"},
		{SettingID(0x2), "ENABLE_PUSH"},
		{SettingID(0x3), "MAX_CONCURRENT_STREAMS"},
		{SettingID(0x4), "INITIAL_WINDOW_SIZE"},
		{SettingID(0x5), "MAX_FRAME_SIZE"},
		{SettingID(0x6), "MAX_HEADER_LIST_SIZE"},
		{SettingID(0x7), "SETTING_0x7"},
		{SettingID(0x8), "ENABLE_CONNECT_PROTOCOL"}, // RFC 8441 §3
		{SettingID(0x9), "NO_RFC7540_PRIORITIES"},   // RFC 9218 §2.1
		{SettingID(0xa), "SETTING_0xa"},
		{SettingID(0xffff), "SETTING_0xffff"},
	}
	for _, test := range tests {
		if got := test.value.String(); got != test.want {
			t.Errorf("%#v is %s, want %s", test.value, got, test.want)
		}
	}
}

// wantText requires that the frame has the text want.
func wantText(t *testing.T, h FrameHeader, p, want string) {
	t.Helper()
	if got := h.Text([]byte(p)); got != want {
		t.Errorf("text of %q\n%s\nwant\n%s", p, got, want)
	}
}

func TestFlagsAreNamedByWhatTheyMeanInTheirFrame(t *testing.T) {
	for typ, want := range map[FrameType]string{
		Data:           "DATA stream=1 len=0 END_STREAM PADDED flags=0xf6",
		Headers:        "HEADERS stream=1 len=0 END_STREAM END_HEADERS PADDED PRIORITY flags=0xd2",
		Priority:       "PRIORITY stream=1 len=0 flags=0xff",
		RSTStream:      "RST_STREAM stream=1 len=0 flags=0xff",
		Settings:       "SETTINGS stream=1 len=0 ACK flags=0xfe",
		PushPromise:    "PUSH_PROMISE stream=1 len=0 END_HEADERS PADDED flags=0xf3",
		Ping:           "PING stream=1 len=0 ACK flags=0xfe",
		GoAway:         "GOAWAY stream=1 len=0 flags=0xff",
		WindowUpdate:   "WINDOW_UPDATE stream=1 len=0 flags=0xff",
		Continuation:   "CONTINUATION stream=1 len=0 END_HEADERS flags=0xfb",
		AltSvc:         "ALTSVC stream=1 len=0 flags=0xff",
		Origin:         "ORIGIN stream=1 len=0 flags=0xff",
		PriorityUpdate: "PRIORITY_UPDATE stream=1 len=0 flags=0xff",
		0xb:            "FRAME_0xb stream=1 len=0 flags=0xff",
	} {
		h := FrameHeader{Type: typ, Flags: 0xff, StreamID: 1}
		if got := h.String(); got != want {
			t.Errorf("%s\nwant\n%s", got, want)
		}
		wantText(t, h, "", want)
	}
}

func TestTextLeavesOutWhatACutPayloadLacks(t *testing.T) {
	for _, test := range []struct {
		name   string
		header string // the text if the payload's first field is cut off
		needs  int
	}{
		{"settings", "SETTINGS len=60", 6},
		{"window_update-stream", "WINDOW_UPDATE stream=1 len=4", 4},
		{"rst_stream", "RST_STREAM stream=5 len=4", 4},
		{"ping", "PING len=8", 8},
		{"goaway-debug", "GOAWAY len=16", 8},
		{"push_promise", "PUSH_PROMISE stream=1 len=7 END_HEADERS", 4},
		{"push_promise-padded", "PUSH_PROMISE stream=1 len=10 END_HEADERS PADDED", 5},
	} {
		frame := golden(t, test.name)
		h, p := ParseFrameHeader(frame), string(frame[HeaderLen:])
		for n := range test.needs {
			wantText(t, h, p[:n], test.header)
		}
		if got := h.Text([]byte(p[:test.needs])); got == test.header {
			t.Errorf("%s: %d bytes say nothing", test.name, test.needs)
		}
	}

	frame := golden(t, "goaway-debug")
	h, p := ParseFrameHeader(frame), string(frame[HeaderLen:])
	wantText(t, h, p[:8], "GOAWAY len=16 last=5 code=ENHANCE_YOUR_CALM")
	wantText(t, h, p[:11], `GOAWAY len=16 last=5 code=ENHANCE_YOUR_CALM debug="too"`)

	frame = golden(t, "settings")
	h, p = ParseFrameHeader(frame), string(frame[HeaderLen:])
	wantText(t, h, p[:17], "SETTINGS len=60 HEADER_TABLE_SIZE=4096 ENABLE_PUSH=0")
}

func TestTextShowsNoDataAndNoFieldBlock(t *testing.T) {
	for _, typ := range []FrameType{Data, Headers, Continuation, Priority, AltSvc, Origin, PriorityUpdate,
		0xbe} {
		h := FrameHeader{Length: 6, Type: typ, StreamID: 1}
		wantText(t, h, "secret", h.String())
	}
	wantText(t, FrameHeader{Length: 10, Type: PushPromise, StreamID: 1}, "\x00\x00\x00\x02secret",
		"PUSH_PROMISE stream=1 len=10 promised=2")
}

func TestHostileDebugDataIsShownHarmlessly(t *testing.T) {
	const prefix = "GOAWAY len=0 last=0 code=NO_ERROR debug="
	for _, test := range []struct{ name, debug, want string }{
		{"a second log line", "bye\n<- DATA stream=1", `"bye\n<- DATA stream=1"`},
		{"an end of the quotation", `" code=CANCEL \`, `"\" code=CANCEL \\"`},
		{"terminal escapes", "\x1b[2J\x07\x9b", `"\x1b[2J\a\x9b"`},
		{"NUL and DEL", "\x00\x7f", `"\x00\x7f"`},
		{"text that turns around", "\u202eolleh", `"\u202eolleh"`},
		{"invalid UTF-8", "\xff\xc0\xaf", `"\xff\xc0\xaf"`},
		{"256 bytes", strings.Repeat("a", 256), `"` + strings.Repeat("a", 256) + `"`},
		{"257 bytes", strings.Repeat("a", 257), `"` + strings.Repeat("a", 256) + `"…`},
		{"a frame full", strings.Repeat("a", 16376), `"` + strings.Repeat("a", 256) + `"…`},
		{"a character cut in two", strings.Repeat("a", 255) + "é and more",
			`"` + strings.Repeat("a", 255) + `\xc3"…`},
		{"much invalid UTF-8", strings.Repeat("\xff", 300), `"` + strings.Repeat(`\xff`, 256) + `"…`},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantText(t, FrameHeader{Type: GoAway}, "\x00\x00\x00\x00\x00\x00\x00\x00"+test.debug,
				prefix+test.want)
		})
	}
}
