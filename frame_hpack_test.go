package hyper

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

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

// RFC 9113 §4.3: a decoding error in a field block MUST be treated as a connection error of type
// COMPRESSION_ERROR. internal/fieldblock tests more of them.
func TestHPACKThatMustNotBeSentEndsTheConnection(t *testing.T) {
	for _, c := range []struct {
		name  string
		block string
	}{
		{"index 0", "80"},
		{"index cut short", "88 ff"},
		{"value missing", "40 01 61"},
		{"size update behind a field", "88 20"},
		{"size update above SETTINGS_HEADER_TABLE_SIZE", "3f e2 1f 88"},
		{"Huffman EOS", "40 01 61 84 ff ff ff ff"},
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
