package wire

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
)

// wantError requires that err has the text want.
func wantError(t *testing.T, why string, err error, want string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
	}
	if got != want {
		t.Errorf("%s: error %q, want %q", why, got, want)
	}
}

func TestFrameHeaderIsNineBytesBigEndian(t *testing.T) {
	h := FrameHeader{Length: 0x123456, Type: 0x78, Flags: 0x9a, StreamID: 0x3cdef012}
	p := []byte{0x12, 0x34, 0x56, 0x78, 0x9a, 0x3c, 0xde, 0xf0, 0x12}
	if got := ParseFrameHeader(p); got != h {
		t.Errorf("parsed %+v, want %+v", got, h)
	}
	if got := AppendFrameHeader(nil, h); !bytes.Equal(got, p) {
		t.Errorf("appended %x, want %x", got, p)
	}
}

// RFC 9113 §4.1: the bit MUST remain unset when sending and MUST be ignored when receiving.
func TestReservedBitOfTheStreamIsIgnored(t *testing.T) {
	h := ParseFrameHeader([]byte{0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	if h.StreamID != MaxStreamID {
		t.Errorf("stream %d, want %d", h.StreamID, uint32(MaxStreamID))
	}
}

func TestPutLengthChangesOnlyTheLength(t *testing.T) {
	frame := AppendData(nil, 5, EndStream, []byte("hello"))
	PutLength(frame, 0xabcdef)
	want := FrameHeader{Length: 0xabcdef, Type: Data, Flags: EndStream, StreamID: 5}
	if got := ParseFrameHeader(frame); got != want {
		t.Errorf("header %+v, want %+v", got, want)
	}
	if got := string(frame[HeaderLen:]); got != "hello" {
		t.Errorf("payload %q", got)
	}
}

func TestHasWantsEveryBit(t *testing.T) {
	f := EndStream | EndHeaders
	for _, bits := range []Flags{EndStream, EndHeaders, EndStream | EndHeaders} {
		if !f.Has(bits) {
			t.Errorf("0x%x does not have 0x%x", f, bits)
		}
	}
	for _, bits := range []Flags{Padded, EndStream | Padded} {
		if f.Has(bits) {
			t.Errorf("0x%x has 0x%x", f, bits)
		}
	}
}

// smallest returns a payload length that is valid for a frame of type t without flags.
func smallest(t FrameType) int {
	switch t {
	case RSTStream, WindowUpdate, PushPromise:
		return 4
	case Priority:
		return 5
	case Ping, GoAway:
		return 8
	}
	return 0
}

func TestFrameOfMaxFrameSizePasses(t *testing.T) {
	for _, most := range []int{MinMaxFrameSize, MaxMaxFrameSize} {
		h := FrameHeader{Length: most, Type: Data, StreamID: 1}
		wantError(t, "exactly the limit", h.Check(most), "")
	}
}

// RFC 9113 §4.2: An endpoint MUST send an error code of FRAME_SIZE_ERROR if a frame exceeds the
// size defined in SETTINGS_MAX_FRAME_SIZE. For hyper it is a connection error for every type.
func TestFrameBeyondMaxFrameSizeIsAConnectionError(t *testing.T) {
	for n := range 256 {
		typ := FrameType(n)
		h := FrameHeader{Length: MinMaxFrameSize + 1, Type: typ, StreamID: 1}
		wantError(t, h.String(), h.Check(MinMaxFrameSize),
			fmt.Sprintf("FRAME_SIZE_ERROR: %v exceeds SETTINGS_MAX_FRAME_SIZE", typ))
	}
}

func TestStreamFrameOnStreamZeroIsAConnectionError(t *testing.T) {
	types := []FrameType{
		// RFC 9113 §6.1: DATA frames MUST be associated with a stream. If a DATA frame is received
		// whose Stream Identifier field is 0x00, the recipient MUST respond with a connection error
		// of type PROTOCOL_ERROR.
		Data,
		// RFC 9113 §6.2: HEADERS frames MUST be associated with a stream. (The same words, here and
		// below.)
		Headers,
		// RFC 9113 §6.3: The PRIORITY frame always identifies a stream.
		Priority,
		// RFC 9113 §6.4: RST_STREAM frames MUST be associated with a stream.
		RSTStream,
		// RFC 9113 §6.6: If the Stream Identifier field specifies the value 0x00, a recipient MUST
		// respond with a connection error of type PROTOCOL_ERROR.
		PushPromise,
		// RFC 9113 §6.10: CONTINUATION frames MUST be associated with a stream.
		Continuation,
	}
	for _, typ := range types {
		h := FrameHeader{Type: typ, Length: smallest(typ)}
		wantError(t, h.String(), h.Check(MinMaxFrameSize), fmt.Sprintf("PROTOCOL_ERROR: %v on stream 0", typ))
		h.StreamID = 1
		wantError(t, h.String(), h.Check(MinMaxFrameSize), "")
	}
}

func TestConnectionFrameOnAStreamIsAConnectionError(t *testing.T) {
	types := []FrameType{
		// RFC 9113 §6.5: If an endpoint receives a SETTINGS frame whose Stream Identifier field is
		// anything other than 0x00, the endpoint MUST respond with a connection error of type
		// PROTOCOL_ERROR.
		Settings,
		// RFC 9113 §6.7: If a PING frame is received with a Stream Identifier field value other
		// than 0x00, the recipient MUST respond with a connection error of type PROTOCOL_ERROR.
		Ping,
		// RFC 9113 §6.8: An endpoint MUST treat a GOAWAY frame with a stream identifier other than
		// 0x00 as a connection error of type PROTOCOL_ERROR.
		GoAway,
	}
	for _, typ := range types {
		for _, stream := range []uint32{1, 2, MaxStreamID} {
			h := FrameHeader{Type: typ, Length: smallest(typ), StreamID: stream}
			wantError(t, h.String(), h.Check(MinMaxFrameSize),
				fmt.Sprintf("PROTOCOL_ERROR: %v on a stream", typ))
		}
		h := FrameHeader{Type: typ, Length: smallest(typ)}
		wantError(t, h.String(), h.Check(MinMaxFrameSize), "")
	}
}

// RFC 9113 §6.9: The WINDOW_UPDATE frame can be specific to a stream or to the entire connection.
func TestWindowUpdateMayBeOnAnyStream(t *testing.T) {
	for _, stream := range []uint32{0, 1, MaxStreamID} {
		h := FrameHeader{Type: WindowUpdate, Length: 4, StreamID: stream}
		wantError(t, h.String(), h.Check(MinMaxFrameSize), "")
	}
}

func TestFrameOfAWrongSizeIsAnError(t *testing.T) {
	tests := []struct {
		h     FrameHeader
		right []int
		wrong []int
		want  string
	}{
		{
			// RFC 9113 §6.3: A PRIORITY frame with a length other than 5 octets MUST be treated as
			// a stream error of type FRAME_SIZE_ERROR.
			FrameHeader{Type: Priority, StreamID: 7}, []int{5}, []int{0, 4, 6},
			"stream 7: FRAME_SIZE_ERROR: PRIORITY is not 5 bytes long",
		}, {
			// RFC 9113 §6.4: A RST_STREAM frame with a length other than 4 octets MUST be treated
			// as a connection error of type FRAME_SIZE_ERROR.
			FrameHeader{Type: RSTStream, StreamID: 7}, []int{4}, []int{0, 3, 5},
			"FRAME_SIZE_ERROR: RST_STREAM is not 4 bytes long",
		}, {
			// RFC 9113 §6.5: A SETTINGS frame with a length other than a multiple of 6 bytes MUST
			// be treated as a connection error of type FRAME_SIZE_ERROR.
			FrameHeader{Type: Settings}, []int{0, 6, 12}, []int{1, 3, 5, 7, 9},
			"FRAME_SIZE_ERROR: SETTINGS is not a multiple of 6 bytes",
		}, {
			// RFC 9113 §6.5: Receipt of a SETTINGS frame with the ACK flag set and a length field
			// value other than 0 MUST be treated as a connection error of type FRAME_SIZE_ERROR.
			FrameHeader{Type: Settings, Flags: Ack}, []int{0}, []int{1, 6},
			"FRAME_SIZE_ERROR: SETTINGS acknowledgment with a payload",
		}, {
			// RFC 9113 §6.7: Receipt of a PING frame with a length field value other than 8 MUST be
			// treated as a connection error of type FRAME_SIZE_ERROR.
			FrameHeader{Type: Ping, Flags: Ack}, []int{8}, []int{0, 7, 9},
			"FRAME_SIZE_ERROR: PING is not 8 bytes long",
		}, {
			// RFC 9113 §6.8 has two fields of 4 bytes, and debug data of any length; §4.2: too
			// small to contain mandatory frame data.
			FrameHeader{Type: GoAway}, []int{8, 9, 100}, []int{0, 7},
			"FRAME_SIZE_ERROR: GOAWAY is shorter than 8 bytes",
		}, {
			// RFC 9113 §6.9: A WINDOW_UPDATE frame with a length other than 4 octets MUST be
			// treated as a connection error of type FRAME_SIZE_ERROR.
			FrameHeader{Type: WindowUpdate, StreamID: 7}, []int{4}, []int{0, 3, 5},
			"FRAME_SIZE_ERROR: WINDOW_UPDATE is not 4 bytes long",
		}, { // the same on the connection
			FrameHeader{Type: WindowUpdate}, []int{4}, []int{0, 3, 5},
			"FRAME_SIZE_ERROR: WINDOW_UPDATE is not 4 bytes long",
		},

		// RFC 9113 §4.2: too small to contain mandatory frame data, for each combination of
		// optional fields.
		{
			FrameHeader{Type: Data, StreamID: 7}, []int{0, 1}, nil, "",
		}, {
			FrameHeader{Type: Data, Flags: Padded, StreamID: 7}, []int{1, 2}, []int{0},
			"FRAME_SIZE_ERROR: DATA is shorter than its mandatory fields",
		}, {
			FrameHeader{Type: Headers, StreamID: 7}, []int{0, 1}, nil, "",
		}, {
			FrameHeader{Type: Headers, Flags: Padded, StreamID: 7}, []int{1, 2}, []int{0},
			"FRAME_SIZE_ERROR: HEADERS is shorter than its mandatory fields",
		}, {
			FrameHeader{Type: Headers, Flags: PriorityFlag, StreamID: 7}, []int{5, 6}, []int{0, 4},
			"FRAME_SIZE_ERROR: HEADERS is shorter than its mandatory fields",
		}, {
			FrameHeader{Type: Headers, Flags: Padded | PriorityFlag, StreamID: 7}, []int{6, 7},
			[]int{0, 1, 5},
			"FRAME_SIZE_ERROR: HEADERS is shorter than its mandatory fields",
		}, {
			FrameHeader{Type: PushPromise, StreamID: 7}, []int{4, 5}, []int{0, 3},
			"FRAME_SIZE_ERROR: PUSH_PROMISE is shorter than its mandatory fields",
		}, {
			FrameHeader{Type: PushPromise, Flags: Padded, StreamID: 7}, []int{5, 6}, []int{0, 1, 4},
			"FRAME_SIZE_ERROR: PUSH_PROMISE is shorter than its mandatory fields",
		}, {
			FrameHeader{Type: Continuation, StreamID: 7}, []int{0, 1}, nil, "",
		},
	}
	for _, test := range tests {
		for _, n := range test.right {
			test.h.Length = n
			wantError(t, test.h.String(), test.h.Check(MinMaxFrameSize), "")
		}
		for _, n := range test.wrong {
			test.h.Length = n
			wantError(t, test.h.String(), test.h.Check(MinMaxFrameSize), test.want)
		}
	}
}

// RFC 9113 §4.1: Unused flags MUST be ignored on receipt.
func TestUnusedFlagsDoNotMatter(t *testing.T) {
	for _, h := range []FrameHeader{
		{Type: Data, Flags: ^Padded, StreamID: 1},
		{Type: Headers, Flags: ^(Padded | PriorityFlag), StreamID: 1},
		{Type: Priority, Flags: 0xff, Length: 5, StreamID: 1},
		{Type: RSTStream, Flags: 0xff, Length: 4, StreamID: 1},
		{Type: Settings, Flags: ^Ack, Length: 6},
		{Type: PushPromise, Flags: ^Padded, Length: 4, StreamID: 1},
		{Type: Ping, Flags: 0xff, Length: 8},
		{Type: GoAway, Flags: 0xff, Length: 8},
		{Type: WindowUpdate, Flags: 0xff, Length: 4},
		{Type: Continuation, Flags: 0xff, StreamID: 1},
	} {
		wantError(t, h.String(), h.Check(MinMaxFrameSize), "")
	}
}

// RFC 9113 §4.1: Implementations MUST ignore and discard frames of unknown types.
func TestUnknownTypesPass(t *testing.T) {
	for _, typ := range []FrameType{AltSvc, 0xb, Origin, 0xd, 0xf, PriorityUpdate, 0x11, 0xff} {
		for _, stream := range []uint32{0, 1} {
			for _, n := range []int{0, 1, MinMaxFrameSize} {
				h := FrameHeader{Type: typ, Flags: 0xff, Length: n, StreamID: stream}
				wantError(t, h.String(), h.Check(MinMaxFrameSize), "")
			}
		}
	}
}

func TestBlockIsWhatStandsBetweenFieldsAndPadding(t *testing.T) {
	const on = 5
	tests := []struct {
		name string
		h    FrameHeader
		p    string
		want string
	}{
		{"nothing around it", FrameHeader{Type: Headers}, "block", "block"},
		{"nothing at all", FrameHeader{Type: Headers}, "", ""},
		{"pad length 0", FrameHeader{Type: Headers, Flags: Padded}, "\x00block", "block"},
		{"padding", FrameHeader{Type: Headers, Flags: Padded}, "\x02block\x00\x00", "block"},
		{"padding that is not zero", FrameHeader{Type: Headers, Flags: Padded}, "\x02block\xff\xff", "block"},
		{"only padding", FrameHeader{Type: Headers, Flags: Padded}, "\x02\x00\x00", ""},
		{"priority", FrameHeader{Type: Headers, Flags: PriorityFlag}, "\x00\x00\x00\x03\xffblock", "block"},
		{"priority on stream 0", FrameHeader{Type: Headers, Flags: PriorityFlag}, "\x80\x00\x00\x00\xffblock",
			"block"},
		{"padding and priority", FrameHeader{Type: Headers, Flags: Padded | PriorityFlag},
			"\x01\x00\x00\x00\x03\xffblock\x00", "block"},
		{"a promise", FrameHeader{Type: PushPromise}, "\x00\x00\x00\x02block", "block"},
		{"a padded promise", FrameHeader{Type: PushPromise, Flags: Padded}, "\x01\x00\x00\x00\x02block\x00",
			"block"},
		{"a promise has no PRIORITY flag", FrameHeader{Type: PushPromise, Flags: PriorityFlag},
			"\x00\x00\x00\x02block", "block"},
		{"CONTINUATION", FrameHeader{Type: Continuation}, "block", "block"},
		{"CONTINUATION has no PADDED flag", FrameHeader{Type: Continuation, Flags: Padded | PriorityFlag},
			"\xffblock", "\xffblock"},
	}
	for _, test := range tests {
		test.h.StreamID, test.h.Length = on, len(test.p)
		if err := test.h.Check(MinMaxFrameSize); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		got, err := test.h.Block([]byte(test.p))
		if string(got) != test.want || err != nil {
			t.Errorf("%s: block %q, %v, want %q", test.name, got, err, test.want)
		}
	}
}

// RFC 9113 §6.2 and §6.6, in the words of §6.1: If the length of the padding is the length of the
// frame payload or greater, the recipient MUST treat this as a connection error of type
// PROTOCOL_ERROR.
func TestMorePaddingThanPayloadIsAConnectionError(t *testing.T) {
	tests := []struct {
		h FrameHeader
		p string
	}{
		{FrameHeader{Type: Headers, Flags: Padded}, "\x01"},
		{FrameHeader{Type: Headers, Flags: Padded}, "\x06block"},
		{FrameHeader{Type: Headers, Flags: Padded}, "\xffblock"},
		{FrameHeader{Type: Headers, Flags: Padded | PriorityFlag}, "\x06\x00\x00\x00\x03\xffblock"},
		{FrameHeader{Type: PushPromise, Flags: Padded}, "\x01\x00\x00\x00\x02"},
		{FrameHeader{Type: PushPromise, Flags: Padded}, "\x06\x00\x00\x00\x02block"},
	}
	for _, test := range tests {
		test.h.StreamID, test.h.Length = 5, len(test.p)
		if err := test.h.Check(MinMaxFrameSize); err != nil {
			t.Fatalf("%v: %v", test.h, err)
		}
		block, err := test.h.Block([]byte(test.p))
		wantError(t, fmt.Sprintf("%v %q", test.h, test.p), err,
			fmt.Sprintf("PROTOCOL_ERROR: %v has more padding than payload", test.h.Type))
		if block != nil {
			t.Errorf("%v %q: block %q with the error", test.h, test.p, block)
		}
	}
}

// RFC 9113 §5.3.2 deprecates the priority of RFC 7540, whose §5.3.1 made this a stream error. A
// stream error here would end the connection too, because the block must be decompressed (§4.3).
func TestHeadersThatDependOnTheirOwnStreamStillHaveABlock(t *testing.T) {
	const p = "\x80\x00\x00\x05\x10block"
	h := FrameHeader{Length: len(p), Type: Headers, Flags: PriorityFlag, StreamID: 5}
	block, err := h.Block([]byte(p))
	wantError(t, h.String(), err, "")
	if string(block) != "block" {
		t.Errorf("%v: block %q", h, block)
	}
}

// RFC 9113 §6.6 and §6.9 reserve the first bit of the identifier and of the increment; §6.8 that of
// the last stream.
func TestReservedBitsOfPayloadsAreIgnored(t *testing.T) {
	ones := bytes.Repeat([]byte{0xff}, 9)
	for _, flags := range []Flags{0, Padded} {
		if got := (FrameHeader{Type: PushPromise, Flags: flags}).ParsePromisedID(ones); got != MaxStreamID {
			t.Errorf("promised stream %d", got)
		}
	}
	if got := ParseWindowUpdate(ones); got != MaxWindow {
		t.Errorf("increment %d", got)
	}
	if last, _, _ := ParseGoAway(ones); last != MaxStreamID {
		t.Errorf("last stream %d", last)
	}
}

func TestPayloadsParse(t *testing.T) {
	if got := ParseWindowUpdate([]byte{0, 0, 0, 0}); got != 0 {
		t.Errorf("increment %d; zero is the stream's affair, or the connection's", got)
	}
	if got := ParseRSTStream([]byte{0, 0, 0, 8}); got != Cancel {
		t.Errorf("code %v", got)
	}
	if got := ParsePing(pingData[:]); got != pingData {
		t.Errorf("data %x", got)
	}
	last, code, debug := ParseGoAway([]byte("\x00\x00\x00\x05\x00\x00\x00\x0bbye"))
	if last != 5 || code != EnhanceYourCalm || string(debug) != "bye" {
		t.Errorf("GOAWAY %d %v %q", last, code, debug)
	}
	padded := FrameHeader{Type: PushPromise, Flags: Padded}
	if got := padded.ParsePromisedID([]byte{9, 0, 0, 0, 2}); got != 2 {
		t.Errorf("promised stream %d", got)
	}
}

func TestSettingsComeInTheOrderSent(t *testing.T) {
	p := golden(t, "settings")[HeaderLen:]
	if got := slices.Collect(ParseSettings(p)); !slices.Equal(got, everySetting) {
		t.Errorf("settings\n%v\nwant\n%v", got, everySetting)
	}
	for s := range ParseSettings(p) {
		if s != everySetting[0] {
			t.Fatalf("first setting %v", s)
		}
		break
	}
	if got := slices.Collect(ParseSettings(p[:11])); !slices.Equal(got, everySetting[:1]) {
		t.Errorf("one setting and a part of one: %v", got)
	}
}

func TestSettingValues(t *testing.T) {
	tests := []struct {
		id    SettingID
		right []uint32
		wrong []uint32
		want  string // with the value in place of %d
	}{
		{SettingHeaderTableSize, []uint32{0, 4096, 1<<32 - 1}, nil, ""},

		// RFC 9113 §6.5.2: Any value other than 0 or 1 MUST be treated as a connection error of
		// type PROTOCOL_ERROR.
		{SettingEnablePush, []uint32{0, 1}, []uint32{2, 1<<32 - 1},
			"PROTOCOL_ERROR: SETTINGS with ENABLE_PUSH=%d"},

		{SettingMaxConcurrentStreams, []uint32{0, 100, 1<<32 - 1}, nil, ""},

		// RFC 9113 §6.5.2: Values above the maximum flow-control window size of 2^31-1 MUST be
		// treated as a connection error of type FLOW_CONTROL_ERROR.
		{
			SettingInitialWindowSize, []uint32{0, 65535, 1<<31 - 1}, []uint32{1 << 31, 1<<32 - 1},
			"FLOW_CONTROL_ERROR: SETTINGS with INITIAL_WINDOW_SIZE=%d",
		},

		// RFC 9113 §6.5.2: The value advertised by an endpoint MUST be between this initial value
		// and the maximum allowed frame size, inclusive. Values outside this range MUST be treated
		// as a connection error of type PROTOCOL_ERROR.
		{
			SettingMaxFrameSize, []uint32{16384, 16777215}, []uint32{0, 16383, 16777216, 1<<32 - 1},
			"PROTOCOL_ERROR: SETTINGS with MAX_FRAME_SIZE=%d",
		},

		{SettingMaxHeaderListSize, []uint32{0, 1<<32 - 1}, nil, ""},

		// RFC 8441 §3: The value of the parameter MUST be 0 or 1.
		{SettingEnableConnectProtocol, []uint32{0, 1}, []uint32{2},
			"PROTOCOL_ERROR: SETTINGS with ENABLE_CONNECT_PROTOCOL=%d"},

		// RFC 9218 §2.1: The value of SETTINGS_NO_RFC7540_PRIORITIES MUST be 0 or 1. Any value
		// other than 0 or 1 MUST be treated as a connection error of type PROTOCOL_ERROR.
		{SettingNoRFC7540Priorities, []uint32{0, 1}, []uint32{2},
			"PROTOCOL_ERROR: SETTINGS with NO_RFC7540_PRIORITIES=%d"},

		// RFC 9113 §6.5.2: An endpoint that receives a SETTINGS frame with any unknown or
		// unsupported identifier MUST ignore that setting.
		{0x0, []uint32{0, 1<<32 - 1}, nil, ""},
		{0x7, []uint32{0, 1<<32 - 1}, nil, ""},
		{0xffff, []uint32{0, 1<<32 - 1}, nil, ""},
	}
	for _, test := range tests {
		for _, value := range test.right {
			wantError(t, fmt.Sprintf("%v=%d", test.id, value), Setting{test.id, value}.Check(), "")
		}
		for _, value := range test.wrong {
			wantError(t, fmt.Sprintf("%v=%d", test.id, value), Setting{test.id, value}.Check(),
				fmt.Sprintf(test.want, value))
		}
	}
}

// RFC 8336 §2.1: each origin has a length of two bytes before it.
func TestOriginsOfAFrame(t *testing.T) {
	want := []string{"https://a.test", "", "https://b.test:8443"}
	frame := AppendOrigin([]byte("before"), want...)[len("before"):]
	h := ParseFrameHeader(frame)
	payload := frame[HeaderLen:]
	if h.Type != Origin || h.StreamID != 0 || h.Length != len(payload) {
		t.Errorf("header %+v, payload of %d bytes", h, len(payload))
	}
	if got := slices.Collect(ParseOrigins(payload)); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for cut := range len(payload) {
		got := slices.Collect(ParseOrigins(payload[:cut]))
		if len(got) >= len(want) || !slices.Equal(got, want[:len(got)]) {
			t.Errorf("%d bytes: %q", cut, got)
		}
	}
	for first := range ParseOrigins(payload) {
		if first != want[0] {
			t.Errorf("the first is %q", first)
		}
		break
	}
}

func TestPriorityIsParsedFromTheFramesThatHaveOne(t *testing.T) {
	priority := []byte{0x80, 0, 0, 7, 15} // depends on stream 7 exclusively, weight 16
	for _, c := range []struct {
		name string
		h    FrameHeader
		p    []byte
		ok   bool
	}{
		{"PRIORITY", FrameHeader{Type: Priority}, priority, true},
		{"PRIORITY that is cut off", FrameHeader{Type: Priority}, priority[:4], false},
		{"HEADERS", FrameHeader{Type: Headers, Flags: PriorityFlag}, priority, true},
		{"padded HEADERS", FrameHeader{Type: Headers, Flags: PriorityFlag | Padded},
			append([]byte{1}, append(priority[:5:5], 0)...), true},
		{"HEADERS that are cut off", FrameHeader{Type: Headers, Flags: PriorityFlag | Padded}, nil, false},
		{"HEADERS without a priority", FrameHeader{Type: Headers}, priority, false},
		{"another frame", FrameHeader{Type: Ping}, priority, false},
	} {
		on, weight, exclusive, ok := c.h.ParsePriority(c.p)
		if ok != c.ok || ok && (on != 7 || weight != 16 || !exclusive) {
			t.Errorf("%s: stream %d, weight %d, exclusive %t, %t", c.name, on, weight, exclusive, ok)
		}
	}
}

func TestPriorityUpdateIsParsedAsItIsAppended(t *testing.T) {
	frame := AppendPriorityUpdate(nil, 9, "u=1, i")
	h := ParseFrameHeader(frame)
	id, value, ok := h.ParsePriorityUpdate(frame[HeaderLen:])
	if h.Check(16<<10) != nil || id != 9 || string(value) != "u=1, i" || !ok {
		t.Errorf("%v: stream %d, %q, %t", h, id, value, ok)
	}
	if _, _, ok := h.ParsePriorityUpdate(frame[HeaderLen:][:3]); ok {
		t.Error("a frame that is cut off")
	}
	if _, _, ok := (FrameHeader{Type: Ping}).ParsePriorityUpdate(frame[HeaderLen:]); ok {
		t.Error("another frame")
	}
}
