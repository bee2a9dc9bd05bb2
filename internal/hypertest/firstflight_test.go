package hypertest

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A flight is what a client sends first, as a list: the bytes are computed from it by hand.
type flight struct {
	name     string
	settings []hyper.Setting
	update   uint32            // of the connection's window; 0: none
	priority []hyper.Frame     // PRIORITY frames
	depends  *hyper.Dependency // of the request
	stream   uint32
	header   hyper.Header
	encode   func(hyper.Field) hyper.FieldEncoding
	block    string // the field block in hex
}

// asBrowsers encodes most fields as entries of the table, and :path as a literal.
func asBrowsers(f hyper.Field) hyper.FieldEncoding {
	switch f.Name {
	case ":path":
		return hyper.FieldEncoding{}
	case "cookie":
		return hyper.FieldEncoding{Form: hyper.FieldNeverIndexed, Huffman: hyper.HuffmanNever}
	}
	return hyper.FieldEncoding{Form: hyper.FieldIndexed}
}

// flights are lists in the style of several clients. They are no copies of any.
var flights = []flight{
	{
		name: "many settings, a large window, priority fields",
		settings: []hyper.Setting{{ID: 1, Value: 65536}, {ID: 2, Value: 0}, {ID: 4, Value: 6291456},
			{ID: 6, Value: 262144}},
		update:  15663105,
		depends: &hyper.Dependency{Weight: 255, Exclusive: true},
		stream:  1,
		header: hyper.Header{{Name: ":method", Value: "GET"}, {Name: ":authority", Value: "www.example.com"},
			{Name: ":scheme", Value: "https"}, {Name: ":path", Value: "/a"}, {Name: "accept", Value: "*/*"},
			{Name: "cookie", Value: "a"}},
		encode: asBrowsers,
		block: "82" + "418cf1e3c2e5f23a6ba0ab90f4ff" + "87" +
			hexString(0x04, "/a") + hexString(0x53, "*/*") + "1f110161",
	},
	{
		name:     "PRIORITY frames before a later stream",
		settings: []hyper.Setting{{ID: 1, Value: 65536}, {ID: 4, Value: 131072}, {ID: 5, Value: 16384}},
		update:   12517377,
		priority: []hyper.Frame{hyper.PriorityFrame(3, hyper.Dependency{Weight: 200}),
			hyper.PriorityFrame(5, hyper.Dependency{Weight: 100}),
			hyper.PriorityFrame(7, hyper.Dependency{StreamID: 3})},
		depends: &hyper.Dependency{StreamID: 7, Weight: 41},
		stream:  15,
		header: hyper.Header{{Name: ":method", Value: "GET"}, {Name: ":path", Value: "/"},
			{Name: ":authority", Value: "www.example.com"}, {Name: ":scheme", Value: "https"},
			{Name: "te", Value: "trailers"}},
		encode: asBrowsers,
		block: "8284" + "418cf1e3c2e5f23a6ba0ab90f4ff" + "87" + "40" + hexString(-1, "te") +
			hexString(-1, "trailers"),
	},
	{
		name: "settings in another order, with one of an extension",
		settings: []hyper.Setting{{ID: 4, Value: 2097152}, {ID: 3, Value: 100}, {ID: 0xf00d, Value: 7},
			{ID: 2}},
		update: 10485760,
		stream: 1,
		header: hyper.Header{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"},
			{Name: ":path", Value: "/"}, {Name: ":authority", Value: "www.example.com"}},
		encode: func(hyper.Field) hyper.FieldEncoding {
			return hyper.FieldEncoding{Form: hyper.FieldIncremental, Huffman: hyper.HuffmanNever}
		},
		block: "42" + "03474554" + "46" + "056874747073" + "44" + "012f" + "41" +
			"0f7777772e6578616d706c652e636f6d",
	},
	{
		name:   "an empty SETTINGS and nothing else",
		stream: 1,
		header: hyper.Header{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"},
			{Name: ":path", Value: "/"}},
		encode: asBrowsers,
		block:  "828784",
	},
}

// hexString returns a string literal, Huffman-coded if that is shorter, after the byte first. first
// is left out if it is negative.
func hexString(first int, s string) string {
	b := []byte(s)
	if n := hpack.HuffmanEncodeLength(s); n < uint64(len(s)) {
		b = append([]byte{0x80 | byte(n)}, hpack.AppendHuffmanString(nil, s)...)
	} else {
		b = append([]byte{byte(len(s))}, b...)
	}
	if first < 0 {
		return hex.EncodeToString(b)
	}
	return fmt.Sprintf("%02x%x", first, b)
}

// octets returns what f is on the wire.
func (f flight) octets() (out []byte) {
	out = append(out, wire.ClientPreface...)
	settings := make([]wire.Setting, len(f.settings))
	for i, s := range f.settings {
		settings[i] = wire.Setting{ID: wire.SettingID(s.ID), Value: s.Value}
	}
	out = wire.AppendSettings(out, settings...)
	if f.update > 0 {
		out = wire.AppendWindowUpdate(out, 0, int(f.update))
	}
	for _, p := range f.priority {
		h := wire.FrameHeader{Length: 5, Type: wire.Priority, StreamID: p.StreamID}
		out = wire.AppendFrameHeader(out, h)
		out = append(out, p.Payload...)
	}
	block, _ := hex.DecodeString(f.block)
	flags := wire.EndStream | wire.EndHeaders
	if f.depends != nil {
		p := hyper.PriorityFrame(0, *f.depends).Payload
		block, flags = append(p, block...), flags|wire.PriorityFlag
	}
	out = wire.AppendFrameHeader(out, wire.FrameHeader{Length: len(block), Type: wire.Headers, Flags: flags,
		StreamID: f.stream})
	return append(out, block...)
}

// config returns a Config for the first flight.
func (f flight) config() *hyper.Config {
	frames := []hyper.Frame{hyper.SettingsFrame(f.settings...)}
	if f.update > 0 {
		frames = append(frames, hyper.WindowUpdateFrame(0, f.update))
	}
	stream := 65535
	for _, s := range f.settings {
		if s.ID == hyper.SettingInitialWindowSize {
			stream = int(s.Value)
		}
	}
	// The windows keep the sizes that the first flight gives them.
	windows := func(w *hyper.Window) hyper.WindowManager {
		if w.StreamID() == 0 {
			return hyper.FixedWindow{Size: 65535 + int(f.update)}.New(w)
		}
		return hyper.FixedWindow{Size: stream}.New(w)
	}
	return &hyper.Config{WindowManager: windows,
		Wire: &hyper.Wire{FirstFlight: append(frames, f.priority...)}}
}

// request returns the request of the first flight.
func (f flight) request() *hyper.Request {
	return &hyper.Request{Unchecked: true, Header: f.header,
		Framing: &hyper.Framing{StreamID: f.stream, Dependency: f.depends, Encode: f.encode}}
}

// The first flight is equal to its list byte for byte, and is one write.
func TestFirstFlightIsTheCallers(t *testing.T) {
	for _, f := range flights {
		t.Run(f.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := h2test.Pipe()
				client.LogWrites()
				conn, err := hyper.NewConn(t.Context(), client, f.config())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				call := doAsync(t.Context(), conn, f.request())
				synctest.Wait()
				log := client.WriteLog()
				if want := f.octets(); len(log) != 1 || !bytes.Equal(log[0], want) {
					t.Fatalf("%d writes:\ngot  %x\nwant %x", len(log), bytes.Join(log, nil), want)
				}
				peer := h2test.NewPeer(t, server)
				peer.Handshake()
				peer.Ignore(wire.WindowUpdate, wire.Priority)
				peer.WantHeaders("the request", f.stream)
				peer.WriteHeaders(f.stream, wire.EndStream, ":status: 204")
				call.Want(t, "the response")
				second := f.request()
				second.Framing.StreamID = 0
				call = doAsync(t.Context(), conn, second)
				peer.WantHeaders("a second request", f.stream+2)
				peer.WriteHeaders(f.stream+2, wire.EndStream, ":status: 204")
				call.Want(t, "its response")
				checkNextRequest(t, peer, conn)
			})
		})
	}
}

// What the first flight announces is what hyper enforces.
func TestFirstFlightIsWhatIsEnforced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := func(settings ...hyper.Setting) (*h2test.Peer, *hyper.Conn) {
			return dialPeer(t, &hyper.Config{MaxFrameSize: 1 << 20, WindowManager: silentWindows,
				Wire: &hyper.Wire{FirstFlight: []hyper.Frame{hyper.SettingsFrame(settings...),
					hyper.WindowUpdateFrame(0, 1000)}}})
		}
		peer, conn := open(hyper.Setting{ID: hyper.SettingInitialWindowSize, Value: 10})
		if n := conn.Stats().ReceiveWindow; n != 65535+1000 {
			t.Errorf("the connection's window is %d", n)
		}
		call := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 11))
		peer.WantRSTStream("more than the initial window", 1, wire.FlowControlError)
		<-call.Done
		writeWhole(peer, wire.FrameHeader{Type: 0xf0}, make([]byte, 16385))
		<-conn.Done()
		if err := conn.Err(); !errors.Is(err, hyper.ErrCodeFrameSize) {
			t.Errorf("a frame above the initial MAX_FRAME_SIZE: %v", err)
		}

		peer, conn = open(hyper.Setting{ID: hyper.SettingHeaderTableSize, Value: 100},
			hyper.Setting{ID: hyper.SettingMaxHeaderListSize, Value: 500})
		call = getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200", "x: "+strings.Repeat("y", 500))
		var large *hyper.HeaderSizeError
		if err := call.WantErr(t, "a large header"); !errors.As(err, &large) || large.Limit != 500 {
			t.Errorf("a header above the limit: %v", err)
		}
	})
}

// A first flight that does not forbid pushes gets them refused, unless Config.Push admits them.
func TestFirstFlightWithoutEnablePushRefusesPushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, push := range []*hyper.PushPolicy{nil, {}} {
			peer, conn := dialPeer(t, &hyper.Config{Push: push, WindowManager: silentWindows,
				Wire: &hyper.Wire{FirstFlight: []hyper.Frame{hyper.SettingsFrame()}}})
			call := getAsync(conn, "/")
			peer.WantHeaders("the request", 1)
			peer.WritePushPromise(1, 2, ":method: GET", ":scheme: http", ":path: /p",
				":authority: 192.0.2.2:443")
			if push == nil {
				peer.WantRSTStream("the promise is refused", 2, wire.Cancel)
			} else {
				peer.WantIdle("the promise is kept")
			}
			peer.WriteHeaders(1, wire.EndStream, ":status: 200")
			call.Want(t, "the response")
			conn.Close()
		}
	})
}

// A first flight that breaks the protocol reaches the server as it is.
func TestFirstFlightMayBeInvalid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for want, frames := range map[string][]hyper.Frame{
			"": {},
			"\x00\x00\x08\x06\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00": {
				hyper.PingFrame(0, [8]byte{1})},
			"\x00\x00\x01\x04\x01\x00\x00\x00\x09?": {
				{Type: hyper.FrameSettings, Flags: hyper.FlagAck, StreamID: 9, Payload: []byte("?")}},
		} {
			client, _ := h2test.Pipe()
			client.LogWrites()
			conn, err := hyper.NewConn(t.Context(), client, &hyper.Config{WindowManager: silentWindows,
				Wire: &hyper.Wire{FirstFlight: frames}})
			if err != nil {
				t.Fatal(err)
			}
			getAsync(conn, "/")
			synctest.Wait()
			got := string(bytes.Join(client.WriteLog(), nil))
			rest, ok := strings.CutPrefix(got, wire.ClientPreface+want)
			if !ok || wire.ParseFrameHeader([]byte(rest)).Type != wire.Headers {
				t.Errorf("got %x, want %x and HEADERS", got, want)
			}
			conn.Close()
		}
	})
}

func TestFirstFlightAndSettingsExcludeEachOther(t *testing.T) {
	for _, cfg := range []*hyper.Config{
		{Settings: []hyper.Setting{{ID: 0xf000}}, Wire: &hyper.Wire{FirstFlight: []hyper.Frame{}}},
		{Wire: &hyper.Wire{FirstFlight: []hyper.Frame{{Payload: make([]byte, 1<<24)}}}},
	} {
		client, _ := h2test.Pipe()
		if _, err := hyper.NewConn(t.Context(), client, cfg); err == nil {
			t.Error("no error")
		}
	}
}

// The compression table of the encoder can be smaller, larger and off.
func TestEncoderTableSize(t *testing.T) {
	for _, c := range []struct {
		size         int
		peer         uint32
		first, later int // bytes of the same field in the first request and in the second
	}{
		{0, 4096, 1455, 1}, {-1, 4096, 1455, 1455}, {1000, 4096, 1455, 1455}, {8192, 8192, 1455, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, &hyper.Config{Wire: &hyper.Wire{EncoderTableSize: c.size}},
				wire.Setting{ID: wire.SettingHeaderTableSize, Value: c.peer})
			for i, want := range []int{c.first, c.later} {
				call := doAsync(t.Context(), conn, &hyper.Request{Unchecked: true,
					Header: hyper.Header{{Name: "x", Value: strings.Repeat("|", 1455)}}})
				got := len(peer.WantHeaders("a request", uint32(2*i+1)).Block)
				if got < want || got > want+12 {
					t.Errorf("size %d: request %d has %d bytes, want %d", c.size, i, got, want)
				}
				peer.WriteHeaders(uint32(2*i+1), wire.EndStream, ":status: 204")
				call.Want(t, "its response")
			}
		})
	}
}

// Config.Trace shows the fields of padded and prioritized HEADERS.
func TestTraceShowsPaddedHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		peer, conn := dialPeer(t, &hyper.Config{Trace: hyper.TraceTo(&out)})
		doAsync(t.Context(), conn, &hyper.Request{Unchecked: true,
			Header:  hyper.Header{{Name: "x-a", Value: "shown"}},
			Framing: &hyper.Framing{HeaderPadding: 9, Dependency: &hyper.Dependency{}, Fragments: []int{3}}})
		peer.WantHeaders("the request", 1, "x-a: shown")
		conn.Close()
		if !strings.Contains(out.String(), "x-a: shown") {
			t.Errorf("%s", &out)
		}
	})
}
