package conformance

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// ok is a block with ":status: 200", from the static table.
const ok = "\x88"

// aField is the literal field "x: y" without indexing.
const aField = "\x00\x01x\x01y"

// noTable is a client without a dynamic table, when the peer has acknowledged that.
var noTable = waiting.with(hyper.Config{HeaderTableSize: -1})

// smallTable is a client whose dynamic table has room for two or three fields.
var smallTable = waiting.with(hyper.Config{HeaderTableSize: 100})

// hpackRows are about the compression of fields.
var hpackRows = concat(badBlockRows(), []row{
	// RFC 9113 §4.3, §4.3.1: all streams share one compression state.
	{"9113 §4.3.1", "NoUpdateBehindASmallerTable",
		"the first block behind the acknowledgment of a smaller HEADER_TABLE_SIZE begins with an update, " +
			"or it is a connection error", noTable, block(0, ok), endsConn(hyper.ErrCodeCompression)},
	{"9113 §4.3.1", "UpdateBehindASmallerTable", "an update to the smaller size, and the block is good",
		noTable, block(0, "\x20\x08\x03103"), func(l *lab) {
			l.frame(wire.Headers, wire.EndHeaders|wire.EndStream, 1, ok)
			l.want(l.caller, 200, "")
		}},
	// The update is to 101.
	{"9113 §4.3.1", "UpdateAboveASmallerTable",
		"an update that is above the smaller HEADER_TABLE_SIZE is a connection error", smallTable,
		block(0, "\x3f\x46"+ok), endsConn(hyper.ErrCodeCompression)},
	{"9113 §4.3.1", "UpdateBelowASmallerTable", "an update may go below the smaller size", smallTable,
		block(0, "\x2a\x08\x03103"), func(l *lab) {
			l.frame(wire.Headers, wire.EndHeaders|wire.EndStream, 1, ok)
			l.want(l.caller, 200, "")
		}},
	{"7541 §4.2", "TwoUpdates",
		"a block may begin with two updates: the smallest size between, and the last one", waiting,
		block(0, "\x20\x3f\xe1\x1f\x08\x03103"), acceptedAfresh},
	{"7541 §4.2", "UpdateToTheLimit", "an update to exactly the limit is good", waiting,
		block(0, "\x3f\xe1\x1f\x08\x03103"), accepted},
	{"7541 §4.3", "UpdateEvictsEntries",
		"an update evicts what does not fit: a reference to it is a connection error", afterInterim,
		block(0, "\x20\x3f\xe1\x1f"+ok+"\xbe"), endsConn(hyper.ErrCodeCompression)},
	{"7541 §4.4", "EntryLargerThanTheTable", "a field larger than the table empties it, and is no error",
		waiting,
		func(l *lab) {
			// The entry's size is 32 + 1 + 4096.
			l.frame(wire.Headers, wire.EndHeaders, 1, "\x08\x03103\x40\x01x\x7f\x81\x1f"+octets(4096))
		}, acceptedAfresh},
	{"7541 §4.4", "ReferenceToAnEntryTooLarge", "a field larger than the table is not in it", waiting,
		block(0, "\x08\x03103\x40\x01x\x7f\x81\x1f"+octets(4096)+"\xbe"), endsConn(hyper.ErrCodeCompression)},
	{"7541 §2.3.2", "DuplicateEntries", "the dynamic table may hold the same field twice", waiting,
		block(0, "\x08\x03103\x40\x01x\x01y\x40\x01x\x01y\xbe\xbf"), acceptedAfresh},
	{"7541 §2.3.3", "NameOfTheDynamicTable", "a name may be that of an entry of the dynamic table", waiting,
		block(0, "\x08\x03103\x40\x01x\x01y\x0f\x2f\x01z"), acceptedAfresh},
	{"7541 §5.1", "IntegerWithPadding", "an integer may be longer than it needs to be", waiting,
		block(0, "\x08\x03103\x0f\x80\x00\x01y"), accepted},
	{"7541 §5.2", "EmptyStringInHuffmanCode", "a string of no octets may be Huffman-coded", waiting,
		block(0, "\x08\x03103\x00\x01x\x80"), accepted},
	{"7541 §5.2", "HuffmanPaddingOfSevenBits", "the padding of Huffman code is up to 7 bits of ones",
		waiting,
		func(l *lab) {
			var b []byte
			for _, s := range []string{"0", "00", "000", "a", "aaa", "xyz", "&", "&&&&", "location"} {
				b = append(b, "\x00\x01x"...)
				b = append(b, 0x80|byte(hpack.HuffmanEncodeLength(s)))
				b = hpack.AppendHuffmanString(b, s)
			}
			l.frame(wire.Headers, wire.EndHeaders, 1, "\x08\x03103"+string(b))
		}, accepted},
	{"7541 §6.2", "EveryRepresentation", "all representations of a field are the same field", waiting,
		func(l *lab) {
			l.frame(wire.Headers, wire.EndHeaders|wire.EndStream, 1, ok+
				"\x40\x01a\x011"+"\x00\x01b\x012"+"\x10\x01c\x013"+"\xbe"+
				"\x7e\x014"+"\x0f\x2f\x015"+"\x1f\x2f\x016")
			l.want(l.caller, 200, "")
			if got := fmt.Sprint(l.caller.Value.resp.Header); got !=
				"[{a 1 false} {b 2 false} {c 3 true} {a 1 false} {a 4 false} {a 5 false} {a 6 true}]" {
				l.t.Error(got)
			}
		}, nil},
	{"7541 §7.1.3", "NeverIndexedIsKept", "that a field is never indexed is handed on", waiting,
		func(l *lab) {
			l.frame(wire.Headers, wire.EndHeaders|wire.EndStream, 1, ok+"\x10\x01c\x013")
			l.want(l.caller, 200, "")
			if h := l.caller.Value.resp.Header; !h[0].Sensitive {
				l.t.Errorf("%+v", h)
			}
		}, goesOn},

	// What the client encodes. The peer's decoder is strict.
	{"9113 §4.3.1", "ClientObeysASmallerTable",
		"once it has acknowledged a smaller HEADER_TABLE_SIZE, the client's next block begins with an " +
			"update to it", waiting,
		func(l *lab) {
			set(setting(wire.SettingHeaderTableSize, 100))(l)
			finishWaiting(l)
			wantBlockPrefix(l, "\x3f\x45") // 100
		}, goesOn},
	{"9113 §4.3.1", "ClientObeysNoTable",
		"with a HEADER_TABLE_SIZE of 0 the client adds nothing to the table, and refers to nothing in it",
		waiting,
		func(l *lab) {
			set(setting(wire.SettingHeaderTableSize, 0))(l)
			finishWaiting(l)
			wantBlockPrefix(l, "\x20")
			h := wantBlockPrefix(l, "") // the first request would have added these fields to the table
			for _, f := range h.Fields {
				if f.Name == "user-agent" && !bytes.Contains(h.Block,
					hpack.AppendHuffmanString(nil, f.Value)) {
					l.t.Errorf("user-agent is not spelt out: %x", h.Block)
				}
			}
		}, goesOn},
	{"7541 §4.2", "ClientSignalsTheSmallestSize",
		"of two changes between blocks the client signals the smallest size, and then the last", waiting,
		func(l *lab) {
			set(setting(wire.SettingHeaderTableSize, 0))(l)
			set(setting(wire.SettingHeaderTableSize, 4096))(l)
			finishWaiting(l)
			wantBlockPrefix(l, "\x20\x3f\xe1\x1f")
		}, goesOn},
	{"7541 §4.2", "ClientStaysBelowALargerTable",
		"the client never uses more than the peer allows; of more than 4,096 octets it makes no use", waiting,
		func(l *lab) {
			set(setting(wire.SettingHeaderTableSize, 1<<20))(l)
			finishWaiting(l)
			if h := wantBlockPrefix(l, ""); h.Block[0]&0xe0 == 0x20 {
				l.t.Errorf("block %x", h.Block)
			}
		}, goesOn},
	{"7541 §7.1.3", "ClientNeverIndexesCredentials",
		"authorization, short cookies and what the caller marks are sent never indexed", idle,
		func(l *lab) {
			header := hyper.Header{{Name: "authorization", Value: "Basic eDp5"},
				{Name: "cookie", Value: "s=1"}, {Name: "x-token", Value: "1", Sensitive: true},
				{Name: "x-open", Value: "1"}}
			l.caller = l.ask(l.do(&hyper.Request{Header: header}))
			h := l.WantHeaders("a request", 1)
			l.next = 3
			for _, f := range h.Fields {
				secret := f.Name == "authorization" || f.Name == "cookie" || f.Name == "x-token"
				if f.Sensitive != secret {
					l.t.Errorf("%v: never indexed is %v", f.Name, f.Sensitive)
				}
			}
			finishWaiting(l)
		}, goesOn},
})

// acceptedAfresh is the verdict accepted for rows that write blocks without the peer's encoder. The
// encoder does not know the state of the table then, so the peer first empties the table.
func acceptedAfresh(l *lab) {
	l.t.Helper()
	l.WantIdle("there is nothing to say to it")
	l.frame(wire.Headers, wire.EndHeaders|wire.EndStream, 1, "\x20\x3f\xe1\x1f"+ok)
	l.want(l.caller, 200, "")
	l.goesOn()
}

// wantBlockPrefix sends another request and requires that its block begins with prefix. The
// response has no body.
func wantBlockPrefix(l *lab, prefix string) h2test.Headers {
	l.t.Helper()
	id := l.next
	c := l.ask(l.get("/block"))
	h := l.WantHeaders("a request", id)
	l.next += 2
	if !strings.HasPrefix(string(h.Block), prefix) {
		l.t.Errorf("block %x, want it to begin with %x", h.Block, prefix)
	}
	l.WriteHeaders(id, wire.EndStream, ":status: 200")
	l.want(c, 200, "")
	return h
}

// badBlockRows returns rows for blocks that cannot be decoded. As the compression state is lost
// then, they are a COMPRESSION_ERROR, which is a connection error (RFC 9113 §4.3), wherever the
// block is.
func badBlockRows() (rows []row) {
	huffman := func(octets string) string {
		return ok + "\x00\x01x" + string([]byte{0x80 | byte(len(octets))}) + octets
	}
	for _, c := range []struct {
		section, name, rule, block string
	}{
		{"7541 §6.1", "IndexZero", "an index of 0", ok + "\x80"},
		{"7541 §2.3.3", "IndexBeyondTheStaticTable",
			"an index beyond the static table where the dynamic one is empty", ok + "\xbe"},
		{"7541 §2.3.3", "IndexFarBeyond", "an index far beyond both tables", ok + "\xff\xff\xff\x7f"},
		{"7541 §2.3.3", "NameIndexBeyond", "a name's index beyond both tables, to be indexed",
			ok + "\x7e\x01y"},
		{"7541 §2.3.3", "NameIndexBeyondUnindexed", "a name's index beyond both tables, not to be indexed",
			ok + "\x0f\x2f\x01y"},
		{"7541 §2.3.3", "NameIndexBeyondNeverIndexed",
			"a name's index beyond both tables, never to be indexed", ok + "\x1f\x2f\x01y"},
		{"7541 §5.1", "IntegerTooLarge", "an integer beyond what any size can be",
			ok + "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"},
		{"7541 §5.1", "IntegerWithoutEnd", "an integer of endless continuation octets",
			ok + "\xff" + strings.Repeat("\x80", 64)},
		{"7541 §5.1", "IntegerCutShort", "an integer that the block's end cuts short", ok + "\xff\x80"},
		{"7541 §5.2", "StringLengthTooLarge", "a string length beyond what any length can be",
			ok + "\x00\x7f\xff\xff\xff\xff\xff\xff\x7f"},
		{"7541 §5.2", "NameCutShort", "a name longer than the rest of the block", ok + "\x00\x05x"},
		{"7541 §5.2", "ValueCutShort", "a value longer than the rest of the block", ok + "\x00\x01x\x05y"},
		{"7541 §5.2", "ValueMissing", "a block that ends behind a name", ok + "\x00\x01x"},
		{"7541 §5.2", "NameMissing", "a block that ends behind a literal's first octet", ok + "\x40"},
		{"7541 §5.2", "ValueOfAnIndexedNameMissing", "a block that ends behind a name's index", ok + "\x44"},
		{"7541 §5.2", "HuffmanEOS", "the EOS symbol in a Huffman-coded string", huffman("\xff\xff\xff\xff")},
		{"7541 §5.2", "HuffmanEOSBehindText", "the EOS symbol behind text", huffman("\x1f\xff\xff\xff\xff")},
		{"7541 §5.2", "HuffmanPaddingTooLong", "Huffman padding of 8 bits", huffman("\x1f\xff")},
		{"7541 §5.2", "HuffmanPaddingOfZeros", "Huffman padding that is not ones", huffman("\x18")},
		{"7541 §5.2", "HuffmanCodeCutShort", "a Huffman code that the string's end cuts short",
			huffman("\xff")},
		{"7541 §5.2", "HuffmanInAName", "wrong Huffman code in a name",
			ok + "\x00\x84\xff\xff\xff\xff\x01y"},
		{"7541 §4.2", "UpdateBehindAField", "a table-size update behind a field", ok + "\x20" + aField},
		{"7541 §4.2", "UpdateAtTheEnd", "a table-size update at a block's end", ok + aField + "\x20"},
		{"7541 §6.3", "UpdateAboveTheLimit", "a table-size update above HEADER_TABLE_SIZE",
			"\x3f\xe2\x1f" + ok},
		{"7541 §6.3", "UpdateFarAboveTheLimit", "a table-size update of 2^32-1",
			"\x3f\xe0\xff\xff\xff\x0f" + ok},
		{"7541 §6.3", "SecondUpdateAboveTheLimit", "a second table-size update above HEADER_TABLE_SIZE",
			"\x20\x3f\xe2\x1f" + ok},
		{"7541 §6.3", "UpdateCutShort", "a table-size update that the block's end cuts short", "\x3f\xe1"},
	} {
		rows = append(rows, row{c.section, c.name, c.rule + " is a decoding error: COMPRESSION_ERROR",
			waiting, block(0, c.block), endsConn(hyper.ErrCodeCompression)})
	}
	const bad = "\x80"
	for _, c := range []struct {
		name, where string
		at          *moment
		peer        func(*lab)
	}{
		{"Trailers", "in trailers, and no end of the body", inBody, block(wire.EndStream, bad)},
		{"AnInterim", "behind the status of an interim response", waiting, block(0, "\x08\x03103"+bad)},
		{"AnUpload", "in the response to an upload", uploading, block(0, bad)},
		{"AResponseToHead", "in a response to HEAD", head, block(wire.EndStream, ok+bad)},
		{"AClosedStream", "on a closed stream", closed, block(0, bad)},
		{"AHalfClosedStream", "behind END_STREAM", halfClosed, block(0, bad)},
		{"AStreamThePeerReset", "behind the peer's own RST_STREAM", peerReset, block(0, bad)},
		{"AStreamWeEnded", "on a stream that we ended by a stream error", rejected, block(0, bad)},
		{"AContinuation", "in CONTINUATION", waiting,
			all(frame(wire.Headers, 0, 1, ok), frame(wire.Continuation, wire.EndHeaders, 1, bad))},
		{"AFieldAcrossFrames", "in a field that CONTINUATION cuts short", waiting,
			all(frame(wire.Headers, 0, 1, ok+"\x00\x01"),
				frame(wire.Continuation, wire.EndHeaders, 1, "x\x02y"))},
		{"APromise", "in a promise", pushable, func(l *lab) {
			l.frame(wire.PushPromise, wire.EndHeaders, 1, "\x00\x00\x00\x02"+bad)
		}},
		{"AContinuedPromise", "in the CONTINUATION of a promise", pushable, func(l *lab) {
			l.frame(wire.PushPromise, 0, 1, "\x00\x00\x00\x02\x82")
			l.frame(wire.Continuation, wire.EndHeaders, 1, bad)
		}},
		{"APushedResponse", "in a pushed response", promised, block(0, ok+bad)},
		{"ARefusedPush", "on a push that we refused", pushRefused, block(0, ok+bad)},
		{"ATunnel", "in a tunnel", tunnel, block(0, bad)},
		{"PaddedHeaders", "in padded HEADERS", waiting,
			frame(wire.Headers, wire.EndHeaders|wire.Padded, 1, "\x02"+ok+bad+"\x00\x00")},
		{"AMalformedResponse", "behind what is malformed already: the connection error counts", waiting,
			block(0, "\x00\x01X\x01y"+bad)},
	} {
		rows = append(rows, row{"9113 §4.3", "BadBlockIn" + c.name,
			"a field block that cannot be decoded is a connection error " + c.where, c.at, c.peer,
			endsConn(hyper.ErrCodeCompression)})
	}
	return rows
}
