package hyper

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// unhex decodes hex that may contain blanks.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	p, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// headersFrame returns a complete field section for stream 1.
func headersFrame(block []byte) []byte { return rawFrame(wire.Headers, wire.EndHeaders, 1, block) }

// fieldLines returns one line for each field, with "!" before a field that is never indexed.
func fieldLines(fields []Field) string {
	var b strings.Builder
	for _, f := range fields {
		if f.Sensitive {
			b.WriteByte('!')
		}
		fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Value)
	}
	return b.String()
}

// RFC 7541 appendix C.1.
func TestIntegersOfAppendixC1(t *testing.T) {
	for _, c := range []struct {
		octets string
		prefix byte
		want   uint64
	}{
		{"0a", 5, 10},
		{"1f9a0a", 5, 1337},
		{"2a", 8, 42},
	} {
		v, rest, ok := readInt(append(unhex(t, c.octets), 0xff), c.prefix)
		if !ok || v != c.want || len(rest) != 1 {
			t.Errorf("%s with a prefix of %d bits: %d, %d octets left, %v; want %d", c.octets, c.prefix, v,
				len(rest), ok, c.want)
		}
	}
}

var appendixC = []struct {
	name   string
	table  int      // the peer's table size; 0 means 4,096
	blocks []string // in hex
	fields []string
}{
	{"C.2.1", 0, []string{"400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572"},
		[]string{"custom-key: custom-header\n"}},
	{"C.2.2", 0, []string{"040c 2f73 616d 706c 652f 7061 7468"}, []string{":path: /sample/path\n"}},
	{"C.2.3", 0, []string{"1008 7061 7373 776f 7264 0673 6563 7265 74"}, []string{"!password: secret\n"}},
	{"C.2.4", 0, []string{"82"}, []string{":method: GET\n"}},
	{"C.3", 0, []string{
		"8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
		"8286 84be 5808 6e6f 2d63 6163 6865",
		"8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
	}, appendixCRequests},
	{"C.4", 0, []string{
		"8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
		"8286 84be 5886 a8eb 1064 9cbf",
		"8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
	}, appendixCRequests},
	{"C.5", 256, []string{
		"4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 " +
			"3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
		"4803 3330 37c1 c0bf",
		"88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a " +
			"6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b " +
			"206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
	}, appendixCResponses},
	{"C.6", 256, []string{
		"4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d " +
			"29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
		"4883 640e ffc1 c0bf",
		"88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d " +
			"d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 " +
			"b106 3d50 07",
	}, appendixCResponses},
}

var (
	appendixCRequests = []string{
		":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\n",
		":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\ncache-control: no-cache\n",
		":method: GET\n:scheme: https\n:path: /index.html\n:authority: www.example.com\ncustom-key: " +
			"custom-value\n",
	}
	appendixCResponses = []string{
		":status: 302\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\nlocation: " +
			"https://www.example.com\n",
		":status: 307\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\nlocation: " +
			"https://www.example.com\n",
		":status: 200\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:22 GMT\nlocation: " +
			"https://www.example.com\n" +
			"content-encoding: gzip\nset-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1\n",
	}
)

func TestExamplesOfAppendixCAreDecoded(t *testing.T) {
	for _, c := range appendixC {
		t.Run(c.name, func(t *testing.T) {
			var octets []byte
			for i, block := range c.blocks {
				p := unhex(t, block)
				if i == 0 && c.table == 256 {
					p = append([]byte{0x3f, 0xe1, 0x01}, p...) // the examples begin with a table of that size
				}
				octets = append(octets, headersFrame(p)...)
			}
			r := testReader(t, bytes.NewReader(octets), &Config{HeaderTableSize: c.table})
			r.settingsAcked()
			for i, want := range c.fields {
				f, err := r.next()
				if err != nil {
					t.Fatalf("block %d: %v", i+1, err)
				}
				if got := fieldLines(f.fields); got != want {
					t.Errorf("block %d:\ngot\n%swant\n%s", i+1, got, want)
				}
			}
		})
	}
}

func TestWrittenFieldsAreWhatADecoderReads(t *testing.T) {
	w, dec := newFieldWriter(), hpack.NewDecoder(wire.HeaderTableSize, nil)
	sizes := []int{}
	for _, table := range []uint32{4096, 4096, 256, 4096, 0, 0, 100, 4096} {
		w.setTableSize(table)
		for i, want := range slices.Concat(appendixCRequests, appendixCResponses) {
			w.begin(nil, 1, 0)
			for line := range strings.Lines(want) {
				name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
				w.field(name, value, false)
			}
			block := w.end(1 << 20)[wire.HeaderLen:]
			sizes = append(sizes, len(block))
			got, err := dec.DecodeFull(block)
			if err != nil {
				t.Fatalf("table %d, list %d: %v", table, i, err)
			}
			lines := ""
			for _, f := range got {
				lines += f.Name + ": " + f.Value + "\n"
			}
			if lines != want {
				t.Errorf("table %d, list %d:\ngot\n%swant\n%s", table, i, lines, want)
			}
		}
	}
	if sizes[6] >= sizes[0] {
		t.Errorf("a list took %d octets, and %d when its fields were known", sizes[0], sizes[6])
	}
}

// RFC 7541 §7.1.3: credentials and short cookies are kept out of the tables, here and at
// intermediaries.
func TestSecretsAreNeverIndexed(t *testing.T) {
	for _, c := range []struct {
		name, value string
		sensitive   bool
		want        bool
	}{
		{"authorization", "Bearer x", false, true},
		{"proxy-authorization", "Basic x", false, true},
		{"cookie", "short=1", false, true},
		{"cookie", "long=" + strings.Repeat("x", 20), false, false},
		{"x-token", "x", true, true},
		{"x-token", "x", false, false},
	} {
		w := newFieldWriter()
		w.begin(nil, 1, 0)
		w.field(c.name, c.value, c.sensitive)
		block := w.end(1 << 20)[wire.HeaderLen:]
		if never := block[0]&0xf0 == 0x10; never != c.want {
			t.Errorf("%s: %s begins with %#x", c.name, c.value, block[0])
		}
	}
}

// RFC 9113 §4.3: a decoding error in a field block MUST be treated as a connection error of type
// COMPRESSION_ERROR.
func TestHPACKThatMustNotBeSentEndsTheConnection(t *testing.T) {
	for _, c := range []struct {
		name  string
		block string
	}{
		{"index 0", "80"},
		{"index of nothing", "be"},
		{"index far beyond the table", "ff ff ff ff ff 07"},
		{"name index of nothing", "7f 00 01 61"},
		{"name index of nothing, not indexed", "0f 7f 01 61"},
		{"name index of nothing, never indexed", "1f 7f 01 61"},
		{"index cut short", "88 ff"},
		{"index cut after a continuation", "88 ff 80"},
		{"index of six octets", "ff 80 80 80 80 80 00"},
		{"index beyond 32 bits", "ff ff ff ff ff 1f"},
		{"index of ten octets, 2^64 and more", "ff ff ff ff ff ff ff ff ff ff 7f"},
		{"string length beyond 32 bits", "00 7f ff ff ff ff 7f 61"},
		{"string length of many zeros", "00 7f 80 80 80 80 80 80 80 80 80 00 61"},
		{"name longer than the block", "40 05 61 62 63 64"},
		{"name missing", "40"},
		{"value longer than the block", "40 01 61 05 62"},
		{"value missing", "40 01 61"},
		{"size update behind a field", "88 20"},
		{"size update behind a field, table not empty", "40 01 61 01 62 20"},
		{"size update between fields", "88 3f e1 1f 88"},
		{"size update above SETTINGS_HEADER_TABLE_SIZE", "3f e2 1f 88"},
		{"second size update above it", "20 3f e2 1f 88"},
		{"size update cut short", "3f"},
		{"size update of six octets", "3f 80 80 80 80 80 00"},
		{"Huffman EOS", "40 01 61 84 ff ff ff ff"},
		{"Huffman EOS behind a symbol", "40 01 61 85 1f ff ff ff ff"},
		{"Huffman padding of 8 ones", "40 01 61 82 07 ff ff"},
		{"Huffman padding of zeros", "40 01 61 81 00"},
		{"Huffman padding not all ones", "40 01 61 81 1e"},
		{"Huffman name cut within a symbol", "40 82 ff fe 01 62"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				got := getAsync(conn, "/")
				peer.WantHeaders("request", 1)
				peer.WriteRaw(headersFrame(unhex(t, c.block)))
				peer.WantGoAway(c.name, 0, wire.CompressionError)
				peer.WantClosed("and nothing else")
				err := got.wantErr(t, c.name)
				var ce *ConnError
				if !errors.As(err, &ce) || ce.Code != ErrCodeCompression || ce.FromPeer || Retryable(err) {
					t.Errorf("%v, retryable: %v", err, Retryable(err))
				}
			})
		})
	}
}

func TestHPACKAtItsLimitsIsTaken(t *testing.T) {
	for _, c := range []struct{ name, block, want string }{
		{"largest update", "3f e1 1f 88", ":status: 200\n"},
		{"two updates", "20 3f e1 1f 88", ":status: 200\n"},
		{"three updates", "20 21 3f e1 1f 88", ":status: 200\n"},
		{"an update and nothing else", "20", ""},
		{"nothing", "", ""},
		{"index in more octets than it needs", "88 0f 80 00 01 61", ":status: 200\naccept-charset: a\n"},
		{"empty value", "88 00 01 61 00", ":status: 200\na: \n"},
		{"empty Huffman value", "88 00 01 61 80", ":status: 200\na: \n"},
		{"Huffman padding of 7 ones", "88 00 01 61 83 02 8a ff", ":status: 200\na: 0 %\n"},
	} {
		r := testReader(t, bytes.NewReader(headersFrame(unhex(t, c.block))), nil)
		f, err := r.next()
		if err != nil || fieldLines(f.fields) != c.want {
			t.Errorf("%s: %q, %v, want %q", c.name, fieldLines(f.fields), err, c.want)
		}
	}
}

func TestTwoTableSizeUpdatesKeepWhatFits(t *testing.T) {
	r := testReader(t, nil, nil)
	for i, c := range []struct{ block, want string }{
		{"40 01 61 01 62", "a: b\n"},
		{"40 01 63 01 64", "c: d\n"},
		{"3f 09 3f e1 1f be", "c: d\n"}, // a table of 40 bytes holds one entry of 34
		{"3f 09 3f e1 1f be", "c: d\n"},
	} {
		if err := r.decode(unhex(t, c.block)); err != nil || fieldLines(r.fields) != c.want {
			t.Fatalf("block %d: %q, %v", i+1, fieldLines(r.fields), err)
		}
	}
	if err := r.decode(unhex(t, "bf")); err == nil {
		t.Error("what did not fit is still there")
	}
}

// RFC 9113 §4.3.1: an endpoint that makes the table smaller than the size in use must see an update
// at the beginning of the first field block after the acknowledgment. Until the acknowledgment, the
// peer need not know the new size.
func TestSmallerTableTakesEffectWithTheAcknowledgment(t *testing.T) {
	const (
		full  = "3f e1 1f"       // 4,096
		small = "3f 45"          // 100
		more  = "3f 46"          // 101
		field = "40 01 61 01 62" // takes 34 bytes of the table
	)
	for _, c := range []struct {
		name        string
		before, now []string // blocks before and after the acknowledgment
		ok          bool
	}{
		{"an update after it", []string{field}, []string{small + field}, true},
		{"a smaller one", nil, []string{"20" + field}, true},
		{"only the first block needs it", nil, []string{small + field, field, "be"}, true},
		{"an update before it", []string{small + field}, []string{"be"}, true},
		{"the old size before it", []string{full + field}, []string{small + field}, true},
		{"the old size again after an update", []string{small, full}, []string{small}, true},
		{"two updates, the first too large", nil, []string{full + small + field}, false},
		{"no update after it", []string{field}, []string{field}, false},
		{"no update before an index", []string{field}, []string{"88"}, false},
		{"too large an update after it", nil, []string{more + field}, false},
		{"a smaller one taken back before it", []string{small + field, full + field}, []string{field}, false},
		{"and too large later", nil, []string{small, more}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := testReader(t, nil, &Config{HeaderTableSize: 100})
			for _, block := range c.before {
				if err := r.decode(unhex(t, block)); err != nil {
					t.Fatalf("before the acknowledgment: %v", err)
				}
			}
			r.settingsAcked()
			var err error
			for i, block := range c.now {
				if err != nil {
					t.Fatalf("block %d: %v", i, err)
				}
				err = r.decode(unhex(t, block))
			}
			if c.ok && err != nil {
				t.Error(err)
			}
			if !c.ok {
				wantWireError(t, c.name, err, wire.CompressionError)
			}
		})
	}
}

func TestNoTableMeansNoTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{HeaderTableSize: -1})
		got := getAsync(conn, "/")
		peer.WantHeaders("request", 1)
		// Its encoder obeys and sends an update.
		peer.WriteHeaders(1, wire.EndStream, ":status: 200", "x-a: b")
		if resp := got.want(t, "the response"); resp.Header.Get("x-a") != "b" {
			t.Error(resp.Header)
		}
		getAsync(conn, "/")
		peer.WantHeaders("request", 3)
		peer.WriteRaw(rawFrame(wire.Headers, wire.EndHeaders, 3, []byte{0x88, 0xbe}))
		peer.WantGoAway("a reference into a table that is not there", 0, wire.CompressionError)
	})
}

// RFC 9113 §4.3: a receiver MUST process each field block to keep the compression state, whatever
// happens to its stream.
func TestCompressionStateIsKeptWhateverBecomesOfTheStream(t *testing.T) {
	big := "x-big: " + strings.Repeat("v", 3000)
	for _, c := range []struct {
		name string
		// lose sends "x-kept: value" on a stream that is lost, which is 1 or 2.
		lose func(peer *h2test.Peer, conn *Conn)
	}{
		{"cancelled by the caller", func(peer *h2test.Peer, conn *Conn) {
			s, _ := conn.Open(context.Background(), &Request{})
			peer.WantHeaders("request", 1)
			s.Reset(ErrCodeCancel)
			peer.WantRSTStream("cancelled", 1, wire.Cancel)
			peer.WriteHeaders(1, 0, ":status: 200", "x-kept: value")
			peer.WriteTrailers(1, "x-kept: value")
		}},
		{"malformed", func(peer *h2test.Peer, conn *Conn) {
			conn.Open(context.Background(), &Request{})
			peer.WantHeaders("request", 1)
			peer.WriteHeaders(1, 0, ":status: 20", "x-kept: value")
			peer.WantRSTStream("malformed", 1, wire.ProtocolError)
		}},
		{"larger than the limit", func(peer *h2test.Peer, conn *Conn) {
			conn.Open(context.Background(), &Request{})
			peer.WantHeaders("request", 1)
			fields := append(slices.Repeat([]string{big}, 100), "x-kept: value")
			peer.WriteHeaders(1, 0, append([]string{":status: 200"}, fields...)...)
			peer.WantRSTStream("oversize", 1, wire.ProtocolError)
		}},
		{"a promise refused", func(peer *h2test.Peer, conn *Conn) {
			conn.Open(context.Background(), &Request{})
			peer.WantHeaders("request", 1)
			peer.WritePushPromise(1, 2, ":method: POST", ":scheme: http", ":path: /",
				":authority: 192.0.2.2:443", "x-kept: value")
			peer.WantRSTStream("refused", 2, wire.ProtocolError)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &Config{Push: &PushPolicy{}, MaxHeaderListSize: 256 << 10})
				peer.Ignore(wire.WindowUpdate)
				peer.AutoPing()
				c.lose(peer, conn)
				got := getAsync(conn, "/next")
				peer.WantHeaders("the next request", 3)
				peer.WriteHeaders(3, wire.EndStream, ":status: 200", "x-kept: value")
				if resp := got.want(t, "the next response"); resp.Header.Get("x-kept") != "value" {
					t.Error(resp.Header)
				}
				if block := len(peer.EncodeBlock("x-kept: value")); block != 1 {
					t.Errorf("BUG: the peer's encoder did not use its table: %d octets", block)
				}
			})
		})
	}
}
