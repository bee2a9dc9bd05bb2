package servercases

import (
	"fmt"
	"slices"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper"
)

// acceptedCases are what a server must accept, by the sections of RFC 9113 and RFC 7541.
var acceptedCases = []Case{
	{"5.1 idle: PRIORITY", frames(priority), Want{kind: pong}},
	{"5.1 half closed: WINDOW_UPDATE", getInNoWindow(), Want{kind: oneByte}},
	{"5.1 half closed: PRIORITY", getInNoWindow(priority), Want{kind: oneByte}},
	{"5.1 half closed: RST_STREAM", afterGet(both, reset), Want{kind: pong}},
	{"5.1 closed: PRIORITY", afterEnd(priority), Want{kind: pong}},
	{"6.1 DATA", afterPost(data), Want{kind: anyResponse}},
	{"6.1 several DATA", afterPost(hyper.DataFrame(1, 0, []byte("test")), data), Want{kind: anyResponse}},
	{"6.1 DATA with padding", afterPost(raw(hyper.FrameData, end|padded, 1, "\x05test\x00\x00\x00\x00\x00")),
		Want{kind: anyResponse}},
	{"6.2 HEADERS with padding", func(c *Client) []hyper.Frame {
		block := slices.Concat([]byte{8}, c.request("GET"), make([]byte, 8))
		return []hyper.Frame{hyper.HeadersFrame(1, both|padded, block)}
	}, Want{kind: response}},
	{"6.2 HEADERS with priority", func(c *Client) []hyper.Frame {
		block := append([]byte{0, 0, 0, 0, 255}, c.request("GET")...)
		return []hyper.Frame{hyper.HeadersFrame(1, both|hyper.FlagPriority, block)}
	}, Want{kind: response}},
	{"6.2 HEADERS with padding and priority", func(c *Client) []hyper.Frame {
		block := slices.Concat([]byte{2, 0, 0, 0, 0, 15}, c.request("GET"), []byte{0, 0})
		return []hyper.Frame{hyper.HeadersFrame(1, both|padded|hyper.FlagPriority, block)}
	}, Want{kind: response}},
	{"6.3 PRIORITY of weight 1", beforeGet(hyper.PriorityFrame(1, hyper.Dependency{})), Want{kind: response}},
	{"6.3 PRIORITY of weight 256", beforeGet(hyper.PriorityFrame(1, hyper.Dependency{Weight: 255})),
		Want{kind: response}},
	{"6.3 PRIORITY with a dependency", beforeGet(hyper.PriorityFrame(3, hyper.Dependency{StreamID: 1})),
		Want{kind: response}},
	{"6.3 PRIORITY that is exclusive", beforeGet(hyper.PriorityFrame(1, hyper.Dependency{Exclusive: true})),
		Want{kind: response}},
	{"6.3 PRIORITY of a higher stream", beforeGet(hyper.PriorityFrame(3, hyper.Dependency{Weight: 255})),
		Want{kind: response}},
	{"6.4 RST_STREAM", afterPost(reset), Want{kind: pong}},
	{"6.5 SETTINGS with all settings", frames(hyper.SettingsFrame(
		hyper.Setting{ID: hyper.SettingHeaderTableSize, Value: 4096},
		hyper.Setting{ID: hyper.SettingEnablePush, Value: 1},
		hyper.Setting{ID: hyper.SettingMaxConcurrentStreams, Value: 100},
		hyper.Setting{ID: hyper.SettingInitialWindowSize, Value: 1<<16 - 1},
		hyper.Setting{ID: hyper.SettingMaxFrameSize, Value: 1 << 14},
		hyper.Setting{ID: hyper.SettingMaxHeaderListSize, Value: 100})), Want{kind: ack}},
	{"6.8 GOAWAY", frames(hyper.GoAwayFrame(0, hyper.ErrCodeNo, "bye")), Want{kind: pongOrEnd}},
	{"6.9 WINDOW_UPDATE on the connection", frames(hyper.WindowUpdateFrame(0, 1)), Want{kind: pong}},
	{"6.9 WINDOW_UPDATE on a stream", afterGet(both, hyper.WindowUpdateFrame(1, 1)), Want{kind: response}},
	{"6.10 CONTINUATION", func(c *Client) []hyper.Frame {
		block := c.request("GET")
		return []hyper.Frame{hyper.HeadersFrame(1, end, block[:5]),
			hyper.ContinuationFrame(1, whole, block[5:])}
	}, Want{kind: response}},
	{"6.10 several CONTINUATION", func(c *Client) []hyper.Frame {
		block := c.request("GET")
		return []hyper.Frame{hyper.HeadersFrame(1, end, block[:3]), hyper.ContinuationFrame(1, 0, block[3:5]),
			hyper.ContinuationFrame(1, whole, block[5:])}
	}, Want{kind: response}},
	{"7 GOAWAY with an unknown code", frames(hyper.GoAwayFrame(0, 0xff, "")), Want{kind: pongOrEnd}},
	{"7 RST_STREAM with an unknown code", afterPost(hyper.RSTStreamFrame(1, 0xff)), Want{kind: pong}},
	{"8.1 GET", afterGet(both), Want{kind: response}},
	{"8.1 HEAD", func(c *Client) []hyper.Frame {
		return []hyper.Frame{hyper.HeadersFrame(1, both, c.request("HEAD"))}
	}, Want{kind: response}},
	{"8.1 POST with trailers", func(c *Client) []hyper.Frame {
		return []hyper.Frame{c.post(hyper.Field{Name: "trailer", Value: "x-dummy"}),
			hyper.DataFrame(1, 0, []byte("test")), hyper.HeadersFrame(1, both, dummy)}
	}, Want{kind: anyResponse}},
	{"hpack 4.2 table size update", andGet(0x20), Want{kind: response}},
	{"hpack 4.2 two table size updates", andGet(0x3f, 0x61, 0x3f, 0xe1, 0x1f), Want{kind: response}},
	{"hpack 6.1 indexed field", getAnd(0x80 | userAgent), Want{kind: response}},
}

// userAgent is the index of user-agent in the static table of HPACK.
const userAgent = 58

// literalCases are the literal fields of RFC 7541: with incremental indexing, without indexing, and
// never indexed; with the name by its index, and new; each as it is, and in the Huffman code.
func literalCases() (list []Case) {
	for _, l := range []struct {
		section string
		indexed []byte // what begins a field with the name user-agent
		fresh   byte   // what begins a field with a new name
	}{
		{"6.2.1", []byte{0x40 | userAgent}, 0x40},
		{"6.2.2", []byte{0x0f, userAgent - 0x0f}, 0x00},
		{"6.2.3", []byte{0x1f, userAgent - 0x0f}, 0x10},
	} {
		for _, code := range []struct {
			name string
			text func(string) []byte
		}{{"", plain}, {", Huffman", huffman}} {
			value := code.text("value")
			fresh := slices.Concat([]byte{l.fresh}, code.text("x-test"), value)
			list = append(list,
				Case{fmt.Sprintf("hpack %s indexed name%s", l.section, code.name),
					getAnd(slices.Concat(l.indexed, value)...), Want{kind: response}},
				Case{fmt.Sprintf("hpack %s new name%s", l.section, code.name),
					getAnd(fresh...), Want{kind: response}})
		}
	}
	return list
}

// plain returns a string of HPACK (RFC 7541 §5.2).
func plain(s string) []byte { return append([]byte{byte(len(s))}, s...) }

// huffman returns a string of HPACK in the Huffman code.
func huffman(s string) []byte {
	return hpack.AppendHuffmanString([]byte{0x80 | byte(hpack.HuffmanEncodeLength(s))}, s)
}

// getInNoWindow returns the Frames of a case in which the response of a GET waits for its window,
// then list is sent, and then the window is opened by one byte.
func getInNoWindow(list ...hyper.Frame) func(*Client) []hyper.Frame {
	return func(c *Client) []hyper.Frame {
		return slices.Concat([]hyper.Frame{setting(hyper.SettingInitialWindowSize, 0), c.get(both)}, list,
			[]hyper.Frame{hyper.WindowUpdateFrame(1, 1)})
	}
}
