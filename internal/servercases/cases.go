package servercases

import (
	"bytes"
	"slices"

	"gohyper.dev/hyper"
)

// The codes that cases expect.
const (
	protocol = hyper.ErrCodeProtocol
	flow     = hyper.ErrCodeFlowControl
	closed   = hyper.ErrCodeStreamClosed
	size     = hyper.ErrCodeFrameSize
	compress = hyper.ErrCodeCompression

	end    = hyper.FlagEndStream
	whole  = hyper.FlagEndHeaders
	both   = end | whole
	padded = hyper.FlagPadded
)

// conn returns a Want of an error of the connection with one of the codes.
func conn(codes ...hyper.ErrCode) Want { return Want{connError, codes} }

// stream returns a Want of an error of stream 1 with one of the codes.
func stream(codes ...hyper.ErrCode) Want { return Want{streamError, codes} }

// bad is what a server does about a malformed request.
var bad = Want{malformed, []hyper.ErrCode{protocol}}

// header returns the header of a request, with more fields after it.
func (c *Client) header(method string, more ...hyper.Field) hyper.Header {
	return append(hyper.Header{{Name: ":method", Value: method}, {Name: ":scheme", Value: "https"},
		{Name: ":path", Value: c.server.Path}, {Name: ":authority", Value: c.server.Addr}}, more...)
}

// request returns the field block of a request.
func (c *Client) request(method string, more ...hyper.Field) []byte {
	return hyper.FieldBlock(c.header(method, more...))
}

// get returns a GET of stream 1, without the flags that are not given.
func (c *Client) get(flags hyper.FrameFlags, more ...hyper.Field) hyper.Frame {
	return hyper.HeadersFrame(1, flags, c.request("GET", more...))
}

// post returns the header of a POST on stream 1.
func (c *Client) post(more ...hyper.Field) hyper.Frame {
	return hyper.HeadersFrame(1, whole, c.request("POST", more...))
}

// without returns a GET without the pseudo-header field name, or with other values of it.
func (c *Client) without(name string, values ...string) hyper.Frame {
	h := c.header("GET")
	i := slices.IndexFunc(h, func(f hyper.Field) bool { return f.Name == name })
	h = slices.Delete(h, i, i+1)
	for _, v := range values {
		h = slices.Insert(h, i, hyper.Field{Name: name, Value: v})
	}
	return hyper.HeadersFrame(1, both, hyper.FieldBlock(h))
}

// frames returns the Frames of a case whose frames do not depend on the client.
func frames(list ...hyper.Frame) func(*Client) []hyper.Frame {
	return func(*Client) []hyper.Frame { return list }
}

// afterGet returns the Frames of a case that sends list after a GET with flags.
func afterGet(flags hyper.FrameFlags, list ...hyper.Frame) func(*Client) []hyper.Frame {
	return func(c *Client) []hyper.Frame { return append([]hyper.Frame{c.get(flags)}, list...) }
}

// afterPost returns the Frames of a case that sends list after the header of a POST.
func afterPost(list ...hyper.Frame) func(*Client) []hyper.Frame {
	return func(c *Client) []hyper.Frame { return append([]hyper.Frame{c.post()}, list...) }
}

// getWith returns the Frames of a case that sends a GET with more fields.
func getWith(more ...hyper.Field) func(*Client) []hyper.Frame {
	return func(c *Client) []hyper.Frame { return []hyper.Frame{c.get(both, more...)} }
}

// getWithout returns the Frames of a case that sends a GET with other values of a pseudo-header
// field.
func getWithout(name string, values ...string) func(*Client) []hyper.Frame {
	return func(c *Client) []hyper.Frame { return []hyper.Frame{c.without(name, values...)} }
}

// getAnd returns the Frames of a case that sends a GET whose block ends with rest.
func getAnd(rest ...byte) func(*Client) []hyper.Frame {
	return func(c *Client) []hyper.Frame {
		f := c.get(both)
		f.Payload = append(f.Payload, rest...)
		return []hyper.Frame{f}
	}
}

// andGet returns the Frames of a case that sends a GET with a block that begins with first.
func andGet(first ...byte) func(*Client) []hyper.Frame {
	return func(c *Client) []hyper.Frame {
		f := c.get(both)
		f.Payload = append(first, f.Payload...)
		return []hyper.Frame{f}
	}
}

// beforeGet returns the Frames of a case that sends list and then a GET.
func beforeGet(list ...hyper.Frame) func(*Client) []hyper.Frame {
	return func(c *Client) []hyper.Frame { return append(slices.Clip(list), c.get(both)) }
}

// afterEnd returns the Frames of a case that sends a GET, and list when the stream is closed.
func afterEnd(list ...hyper.Frame) func(*Client) []hyper.Frame {
	return func(c *Client) []hyper.Frame {
		c.await(Want{kind: ended}, c.get(both))
		return list
	}
}

// insteadOfPreface returns the Frames of a case that sends p on another connection, which the
// server must close. It sends nothing on the connection of the case.
func insteadOfPreface(p string) func(*Client) []hyper.Frame {
	return func(c *Client) []hyper.Frame {
		c.awaitEnd(p)
		return nil
	}
}

// raw returns a frame.
func raw(t hyper.FrameType, flags hyper.FrameFlags, id uint32, payload string) hyper.Frame {
	return hyper.Frame{Type: t, Flags: flags, StreamID: id, Payload: []byte(payload)}
}

// setting returns SETTINGS with one setting.
func setting(id hyper.SettingID, value uint32) hyper.Frame {
	return hyper.SettingsFrame(hyper.Setting{ID: id, Value: value})
}

// maxStreams is the most streams that a case opens.
const maxStreams = 400

// preface is the client preface, with empty SETTINGS.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// Frames that several cases send.
var (
	data     = hyper.DataFrame(1, end, []byte("test"))
	unknown  = raw(0xf6, 0, 0, "unknown")
	priority = hyper.PriorityFrame(1, hyper.Dependency{Weight: 15})
	dummy    = hyper.FieldBlock(hyper.Header{{Name: "x-dummy", Value: "y"}})
	more     = hyper.ContinuationFrame(1, whole, dummy)
	reset    = hyper.RSTStreamFrame(1, hyper.ErrCodeCancel)
)

// Cases are the cases, by section: first what a server must not accept, with some of what it must
// do, then what it must accept. All cases of h2spec are among them, under the names that H2Spec
// lists; none is missing.
var Cases = slices.Concat(frameCases, streamCases, typeCases, messageCases, hpackCases, acceptedCases,
	literalCases())

// frameCases are those of RFC 9113, sections 3, 4 and 5.4 to 5.5.
var frameCases = []Case{
	{"3.4 SETTINGS come first", frames(), Want{kind: settings}},
	{"3.4 invalid preface", insteadOfPreface("INVALID CONNECTION PREFACE\r\n\r\n"), Want{kind: pong}},
	{"4.1 unknown type", frames(unknown), Want{kind: pong}},
	{"4.1 undefined flags", frames(raw(hyper.FramePing, 0x16, 0, casePing)), Want{kind: echo}},
	{"4.1 reserved bit", frames(raw(hyper.FramePing, 0, 1<<31, casePing)), Want{kind: echo}},
	{"4.2 DATA of 2^14 bytes", afterPost(hyper.DataFrame(1, end, make([]byte, 1<<14))), Want{kind: pong}},
	{"4.2 DATA above MAX_FRAME_SIZE", func(c *Client) []hyper.Frame {
		most := int(c.conn.PeerSettings().MaxFrameSize)
		return []hyper.Frame{c.post(), hyper.DataFrame(1, end, make([]byte, most+1))}
	}, stream(size)},
	{"4.2 HEADERS above MAX_FRAME_SIZE", func(c *Client) []hyper.Frame {
		most := int(c.conn.PeerSettings().MaxFrameSize)
		block := c.request("GET", hyper.Field{Name: "x", Value: string(bytes.Repeat([]byte("|"), most))})
		return []hyper.Frame{hyper.HeadersFrame(1, both, block)}
	}, conn(size)},
	{"4.2 SETTINGS above MAX_FRAME_SIZE", func(c *Client) []hyper.Frame {
		n := int(c.conn.PeerSettings().MaxFrameSize)/6 + 1
		return []hyper.Frame{hyper.SettingsFrame(make([]hyper.Setting, n)...)}
	}, conn(size)},
	{"4.3 invalid block", frames(hyper.HeadersFrame(1, both, []byte("@"))), conn(compress)},
	{"4.3 PRIORITY in a block", afterGet(end, priority, more), conn(protocol)},
	{"4.3 HEADERS of another stream in a block", afterGet(end, hyper.HeadersFrame(3, both, dummy)),
		conn(protocol)},
	{"5.5 unknown type in a block", afterGet(end, raw(0xf6, 0, 1, "unknown"), more), conn(protocol)},
	{"5.4.1 the connection is closed",
		insteadOfPreface(preface + "\x00\x00\x08\x06\x00\x00\x00\x00\x03" + casePing), Want{kind: pong}},
	{"5.4.1 GOAWAY comes first", frames(raw(hyper.FramePing, 0, 3, casePing)), Want{goAway, bad.codes}},
}

// streamCases are those of section 5.1.
var streamCases = []Case{
	{"5.1 idle: DATA", frames(data), conn(protocol, closed)},
	{"5.1 idle: RST_STREAM", frames(reset), conn(protocol)},
	{"5.1 idle: WINDOW_UPDATE", frames(hyper.WindowUpdateFrame(1, 100)), conn(protocol)},
	{"5.1 idle: CONTINUATION", frames(more), conn(protocol)},
	{"5.1 half closed: DATA", afterGet(both, data), stream(closed, protocol)},
	{"5.1 half closed: HEADERS", afterGet(both, hyper.HeadersFrame(1, both, dummy)),
		stream(closed, protocol)},
	{"5.1 half closed: CONTINUATION", afterGet(both, more), conn(closed, protocol)},
	{"5.1 closed: DATA after RST_STREAM", afterPost(reset, data), stream(closed)},
	{"5.1 closed: HEADERS after RST_STREAM", afterPost(reset, hyper.HeadersFrame(1, both, dummy)),
		stream(closed, protocol)},
	{"5.1 closed: CONTINUATION after RST_STREAM", afterPost(reset, more), conn(closed, protocol)},
	{"5.1 closed: DATA", afterEnd(data), stream(closed)},
	{"5.1 closed: HEADERS", afterEnd(hyper.HeadersFrame(1, both, dummy)), conn(closed, protocol)},
	{"5.1 closed: CONTINUATION", afterEnd(more), conn(closed, protocol)},
	{"5.1.1 even identifier", func(c *Client) []hyper.Frame {
		return []hyper.Frame{hyper.HeadersFrame(2, both, c.request("GET"))}
	}, conn(protocol)},
	{"5.1.1 lower identifier", func(c *Client) []hyper.Frame {
		return []hyper.Frame{hyper.HeadersFrame(5, both, c.request("GET")), hyper.HeadersFrame(3, both,
			c.request("GET"))}
	}, conn(protocol, closed)},
	{"5.1.2 more streams than MAX_CONCURRENT_STREAMS", func(c *Client) []hyper.Frame {
		most := c.conn.PeerSettings().MaxConcurrentStreams
		if most > maxStreams {
			c.err = errNoLimit
			return nil
		}
		list := []hyper.Frame{setting(hyper.SettingInitialWindowSize, 0)}
		for range most + 1 {
			c.stream = uint32(2*len(list) - 1)
			list = append(list, hyper.HeadersFrame(c.stream, both, c.request("GET")))
		}
		return list
	}, stream(protocol, hyper.ErrCodeRefusedStream)},
	{"RFC 7540 5.3.1 HEADERS that depend on themselves", func(c *Client) []hyper.Frame {
		block := append([]byte{0, 0, 0, 1, 15}, c.request("GET")...)
		return []hyper.Frame{hyper.HeadersFrame(1, both|hyper.FlagPriority, block)}
	}, stream(protocol)},
	{"RFC 7540 5.3.1 PRIORITY that depends on itself",
		frames(hyper.PriorityFrame(1, hyper.Dependency{StreamID: 1})), stream(protocol)},
}

// typeCases are those of section 6.
var typeCases = []Case{
	{"6.1 DATA on stream 0", frames(hyper.DataFrame(0, end, []byte("test"))), conn(protocol)},
	{"6.1 DATA with too much padding", afterPost(raw(hyper.FrameData, end|padded, 1, "\x06test")),
		conn(protocol)},
	{"6.2 HEADERS on stream 0", func(c *Client) []hyper.Frame {
		return []hyper.Frame{hyper.HeadersFrame(0, both, c.request("GET"))}
	}, conn(protocol)},
	{"6.2 HEADERS with too much padding", func(c *Client) []hyper.Frame {
		block := c.request("GET")
		block = append([]byte{byte(len(block) + 1)}, block...)
		return []hyper.Frame{hyper.HeadersFrame(1, both|padded, block)}
	}, conn(protocol)},
	{"6.3 PRIORITY on stream 0", frames(hyper.PriorityFrame(0, hyper.Dependency{})), conn(protocol)},
	{"6.3 PRIORITY of the wrong size", frames(raw(hyper.FramePriority, 0, 1, "1234")), stream(size)},
	{"6.4 RST_STREAM on stream 0", frames(hyper.RSTStreamFrame(0, 0)), conn(protocol)},
	{"6.4 RST_STREAM of the wrong size", afterPost(raw(hyper.FrameRSTStream, 0, 1, "123")), conn(size)},
	{"6.5 SETTINGS ACK with a payload", frames(raw(hyper.FrameSettings, hyper.FlagAck, 0, "\x00")),
		conn(size)},
	{"6.5 SETTINGS on a stream", frames(raw(hyper.FrameSettings, 0, 1, "")), conn(protocol)},
	{"6.5 SETTINGS of the wrong size", frames(raw(hyper.FrameSettings, 0, 0, "\x00\x03\x00")), conn(size)},
	{"6.5.2 ENABLE_PUSH=2", frames(setting(hyper.SettingEnablePush, 2)), conn(protocol)},
	{"6.5.2 INITIAL_WINDOW_SIZE=2^31", frames(setting(hyper.SettingInitialWindowSize, 1<<31)), conn(flow)},
	{"6.5.2 MAX_FRAME_SIZE=2^14-1", frames(setting(hyper.SettingMaxFrameSize, 1<<14-1)), conn(protocol)},
	{"6.5.2 MAX_FRAME_SIZE=2^24", frames(setting(hyper.SettingMaxFrameSize, 1<<24)), conn(protocol)},
	{"6.5.2 unknown setting", frames(setting(0xff, 1)), Want{kind: pong}},
	{"6.5.3 the last of two values counts", beforeGet(hyper.SettingsFrame(
		hyper.Setting{ID: hyper.SettingInitialWindowSize, Value: 100},
		hyper.Setting{ID: hyper.SettingInitialWindowSize, Value: 1})), Want{kind: oneByte}},
	{"6.5.3 SETTINGS are acknowledged", frames(hyper.SettingsFrame()), Want{kind: ack}},
	{"6.6 PUSH_PROMISE", frames(raw(hyper.FramePushPromise, whole, 1, "\x00\x00\x00\x02\x82")),
		conn(protocol)},
	{"6.7 PING", frames(raw(hyper.FramePing, 0, 0, casePing)), Want{kind: echo}},
	{"6.7 PING ACK is not answered", frames(hyper.PingFrame(hyper.FlagAck, ackPing)), Want{kind: pong}},
	{"6.7 PING on a stream", frames(raw(hyper.FramePing, 0, 1, casePing)), conn(protocol)},
	{"6.7 PING of the wrong size", frames(raw(hyper.FramePing, 0, 0, "short")), conn(size)},
	{"6.8 GOAWAY on a stream", frames(raw(hyper.FrameGoAway, 0, 1, "\x00\x00\x00\x00\x00\x00\x00\x00")),
		conn(protocol)},
	{"6.9 WINDOW_UPDATE of 0 on the connection", frames(hyper.WindowUpdateFrame(0, 0)), conn(protocol)},
	{"6.9 WINDOW_UPDATE of 0 on a stream", afterPost(hyper.WindowUpdateFrame(1, 0)), stream(protocol)},
	{"6.9 WINDOW_UPDATE of the wrong size", frames(raw(hyper.FrameWindowUpdate, 0, 0, "123")), conn(size)},
	{"6.9.1 a window of one byte", func(c *Client) []hyper.Frame {
		return []hyper.Frame{setting(hyper.SettingInitialWindowSize, 1), c.get(both)}
	}, Want{kind: oneByte}},
	{"6.9.1 window of the connection above 2^31-1",
		frames(hyper.WindowUpdateFrame(0, 1<<31-1), hyper.WindowUpdateFrame(0, 1<<31-1)), conn(flow)},
	{"6.9.1 window of a stream above 2^31-1",
		afterPost(hyper.WindowUpdateFrame(1, 1<<31-1), hyper.WindowUpdateFrame(1, 1<<31-1)), stream(flow)},
	{"6.9.2 a window of 0 that is opened", func(c *Client) []hyper.Frame {
		return []hyper.Frame{setting(hyper.SettingInitialWindowSize, 0), c.get(both),
			setting(hyper.SettingInitialWindowSize, 1)}
	}, Want{kind: oneByte}},
	{"6.9.2 a window below 0", func(c *Client) []hyper.Frame {
		c.await(Want{kind: ack}, setting(hyper.SettingInitialWindowSize, 3))
		c.await(Want{kind: anyData}, c.get(both))
		c.await(Want{kind: ack}, setting(hyper.SettingInitialWindowSize, 2))
		return []hyper.Frame{hyper.WindowUpdateFrame(1, 2)}
	}, Want{kind: oneByte}},
	{"6.9.2 a window that is reduced to 0 and opened", func(c *Client) []hyper.Frame {
		return []hyper.Frame{setting(hyper.SettingInitialWindowSize, 3),
			setting(hyper.SettingInitialWindowSize, 0), c.get(both), hyper.WindowUpdateFrame(1, 1)}
	}, Want{kind: oneByte}},
	{"6.10 CONTINUATION on stream 0", afterGet(end, hyper.ContinuationFrame(0, whole, dummy)),
		conn(protocol)},
	{"6.10 CONTINUATION after END_HEADERS", afterGet(whole, more), conn(protocol)},
	{"6.10 CONTINUATION after CONTINUATION with END_HEADERS", afterGet(end, more, more), conn(protocol)},
	{"6.10 DATA after CONTINUATION", func(c *Client) []hyper.Frame {
		return []hyper.Frame{hyper.HeadersFrame(1, 0, c.request("POST")),
			hyper.ContinuationFrame(1, 0, dummy), data}
	}, conn(protocol)},
	{"6.10 CONTINUATION after DATA", afterPost(hyper.DataFrame(1, 0, []byte("test")), more), conn(protocol)},
}

// messageCases are those of section 8.
var messageCases = []Case{
	{"8.1 trailers without END_STREAM", afterPost(hyper.HeadersFrame(1, whole, dummy)), bad},
	{"8.1 pseudo-header field in trailers", afterPost(hyper.HeadersFrame(1, both,
		hyper.FieldBlock(hyper.Header{{Name: ":method", Value: "GET"}}))), bad},
	{"8.1.1 content-length above the content", func(c *Client) []hyper.Frame {
		return []hyper.Frame{c.post(hyper.Field{Name: "content-length", Value: "9"}), data}
	}, bad},
	{"8.1.1 content-length below the content", func(c *Client) []hyper.Frame {
		return []hyper.Frame{c.post(hyper.Field{Name: "content-length", Value: "1"}), data}
	}, bad},
	{"8.1.1 content-length below the sum of two DATA", func(c *Client) []hyper.Frame {
		return []hyper.Frame{c.post(hyper.Field{Name: "content-length", Value: "1"}),
			hyper.DataFrame(1, 0, []byte("test")), data}
	}, bad},
	{"8.2.1 name in upper case", getWith(hyper.Field{Name: "X-Test", Value: "ok"}), bad},
	{"8.2.1 name with a space", getWith(hyper.Field{Name: "x y", Value: "ok"}), bad},
	{"8.2.1 value with a line feed", getWith(hyper.Field{Name: "x", Value: "a\r\nb: c"}), bad},
	{"8.2.2 connection", getWith(hyper.Field{Name: "connection", Value: "keep-alive"}), bad},
	{"8.2.2 transfer-encoding", getWith(hyper.Field{Name: "transfer-encoding", Value: "chunked"}), bad},
	{"8.2.2 te", getWith(hyper.Field{Name: "te", Value: "trailers, deflate"}), bad},
	{"8.3 unknown pseudo-header field", func(c *Client) []hyper.Frame {
		h := append(hyper.Header{{Name: ":test", Value: "ok"}}, c.header("GET")...)
		return []hyper.Frame{hyper.HeadersFrame(1, both, hyper.FieldBlock(h))}
	}, bad},
	{"8.3 pseudo-header field of a response", func(c *Client) []hyper.Frame {
		h := append(c.header("GET"), hyper.Field{Name: ":status", Value: "200"})
		return []hyper.Frame{hyper.HeadersFrame(1, both, hyper.FieldBlock(h))}
	}, bad},
	{"8.3 pseudo-header field after a regular one", func(c *Client) []hyper.Frame {
		h := append(hyper.Header{{Name: "x-test", Value: "ok"}}, c.header("GET")...)
		return []hyper.Frame{hyper.HeadersFrame(1, both, hyper.FieldBlock(h))}
	}, bad},
	{"8.3.1 no :method", getWithout(":method"), bad},
	{"8.3.1 no :scheme", getWithout(":scheme"), bad},
	{"8.3.1 no :path", getWithout(":path"), bad},
	{"8.3.1 empty :path", getWithout(":path", ""), bad},
	{"8.3.1 two :method", getWithout(":method", "GET", "GET"), bad},
	{"8.3.1 two :scheme", getWithout(":scheme", "https", "https"), bad},
	{"8.3.1 two :path", getWithout(":path", "/a", "/a"), bad},
	{"8.4 PUSH_PROMISE on a stream", afterPost(raw(hyper.FramePushPromise, whole, 1, "\x00\x00\x00\x02\x82")),
		conn(protocol)},
}

// hpackCases are those of RFC 7541.
var hpackCases = []Case{
	{"hpack 2.3.3 index of no entry", getAnd(0xbe), conn(compress)},
	{"hpack 4.2 table size update at the end", getAnd(0x40, 1, 'n', 1, 'v', 0x20), conn(compress)},
	{"hpack 5.2 Huffman padding of more than 7 bits",
		getAnd(0, 0x82, 0x1f, 0xff, 1, 'a'), conn(compress)},
	{"hpack 5.2 Huffman padding of zeros", getAnd(0, 0x81, 0x18, 1, 'a'), conn(compress)},
	{"hpack 5.2 Huffman EOS", getAnd(0, 0x84, 0xff, 0xff, 0xff, 0xff, 1, 'a'), conn(compress)},
	{"hpack 6.1 index 0", getAnd(0x80), conn(compress)},
	{"hpack 6.3 table size above the setting", andGet(0x3f, 0xe1, 0xff, 0xff, 0xff, 0x01), conn(compress)},
}
