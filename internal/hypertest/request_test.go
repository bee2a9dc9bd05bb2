// This file tests how a Request becomes a field section, and what is refused.

package hypertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// requestConfig is a configuration whose requests have no fields but those that a test sets.
var requestConfig = hyper.Config{Authority: "example.com", NoUserAgent: true}

func TestRequestFieldsAndTheirOrderOnTheWire(t *testing.T) {
	const (
		get       = ":method: GET"
		http      = ":scheme: http"
		host      = ":authority: example.com"
		root      = ":path: /"
		encodings = "accept-encoding: gzip, deflate, br"
	)
	fields := func(h ...string) (header hyper.Header) {
		for i := 0; i < len(h); i += 2 {
			header.Add(h[i], h[i+1])
		}
		return header
	}
	tests := []struct {
		reason string
		cfg    hyper.Config
		req    hyper.Request
		want   []string
	}{
		{"nothing is said, all is there", hyper.Config{Authority: "example.com"}, hyper.Request{},
			[]string{get, http, host, root, "user-agent: hyper", encodings}},
		{"all is said", requestConfig, hyper.Request{Method: "PURGE", Scheme: "https",
			Authority: "a.example:8443",
			Path:      "/x?y=z"},
			[]string{":method: PURGE", ":scheme: https", ":authority: a.example:8443", ":path: /x?y=z",
				encodings}},
		{"the config's scheme and user agent", hyper.Config{Authority: "example.com", Scheme: "https",
			UserAgent: "a/1"}, hyper.Request{},
			[]string{get, ":scheme: https", host, root, "user-agent: a/1", encodings}},
		{"pseudo-headers in the caller's order, then the rest", requestConfig,
			hyper.Request{NoDefaultFields: true, Header: fields(":path", "/p", ":authority", "b", "x-a",
				"1")},
			[]string{":path: /p", ":authority: b", get, http, "x-a: 1"}},
		{"all pseudo-headers by the caller", requestConfig,
			hyper.Request{NoDefaultFields: true, Method: "IGNORED",
				Header: fields(":authority", "b", ":scheme", "s", ":path", "/p", ":method", "M")},
			[]string{":authority: b", ":scheme: s", ":path: /p", ":method: M"}},
		{"names in lower case, order and duplicates kept", requestConfig,
			hyper.Request{NoDefaultFields: true, Header: fields("X-B", "1", "x-A", "2", "x-b", "3")},
			[]string{get, http, host, root, "x-b: 1", "x-a: 2", "x-b: 3"}},
		{"host is :authority", requestConfig, hyper.Request{NoDefaultFields: true,
			Header: fields("x", "1", "Host", "other.example")},
			[]string{get, http, ":authority: other.example", root, "x: 1"}},
		{"host may repeat :authority", requestConfig,
			hyper.Request{NoDefaultFields: true, Authority: "b", Header: fields("host", "B")},
			[]string{get, http, ":authority: b", root}},
		{"a cookie in crumbs (RFC 9113 §8.2.3)", requestConfig,
			hyper.Request{NoDefaultFields: true, Header: fields("Cookie", "a=1; b=2;c; d=", "cookie", "e=5")},
			[]string{get, http, host, root, "cookie: a=1", "cookie: b=2", "cookie: c", "cookie: d=",
				"cookie: e=5"}},
		{"own user-agent and accept-encoding win", hyper.Config{Authority: "example.com"},
			hyper.Request{Header: fields("User-Agent", "me", "Accept-Encoding", "identity")},
			[]string{get, http, host, root, "user-agent: me", "accept-encoding: identity"}},
		{"a range of a coded body cannot be decoded", requestConfig,
			hyper.Request{Header: fields("range", "bytes=0-9")},
			[]string{get, http, host, root, "range: bytes=0-9"}},
		{"OPTIONS of the server", requestConfig, hyper.Request{NoDefaultFields: true, Method: "OPTIONS",
			Path: "*"},
			[]string{":method: OPTIONS", http, host, ":path: *"}},
		{"RFC 9110 §8.6: POST without content says so", requestConfig, hyper.Request{Method: "POST"},
			[]string{":method: POST", http, host, root, encodings, "content-length: 0"}},
		{"and GET does not", requestConfig, hyper.Request{Method: "GET", Body: strings.NewReader("")},
			[]string{get, http, host, root, encodings}},
		{"bare is bare", requestConfig, hyper.Request{NoDefaultFields: true, Method: "POST"},
			[]string{":method: POST", http, host, root}},
		{"the caller's content-length is sent once", requestConfig,
			hyper.Request{Method: "POST", Header: fields("Content-Length", "0")},
			[]string{":method: POST", http, host, root, "content-length: 0", encodings}},
		{"HEAD may tell the length it asks for", requestConfig,
			hyper.Request{NoDefaultFields: true, Method: "HEAD", Header: fields("content-length", "9")},
			[]string{":method: HEAD", http, host, root, "content-length: 9"}},
		{"te may be trailers", requestConfig, hyper.Request{NoDefaultFields: true,
			Header: fields("TE", "Trailers")},
			[]string{get, http, host, root, "te: Trailers"}},
		{"empty values and obs-text", requestConfig,
			hyper.Request{NoDefaultFields: true, Header: fields("x", "", "y", "\xff a\tb")},
			[]string{get, http, host, root, "x: ", "y: \xff a\tb"}},
	}
	for _, test := range tests {
		t.Run(test.reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &test.cfg)
				before := fmt.Sprint(test.req)
				got := doAsync(context.Background(), conn, &test.req)
				h := peer.WantHeadersExactly(test.reason, 1, test.want...)
				if !h.EndStream {
					t.Error("no END_STREAM")
				}
				peer.WriteHeaders(1, wire.EndStream, ":status: 204")
				got.Want(t, "the response")
				if after := fmt.Sprint(test.req); after != before {
					t.Errorf("the request was changed from %s to %s", before, after)
				}
			})
		})
	}
}

// RFC 7541 §7.1.3: credentials are never indexed, and neither are cookies that are short enough to
// be guessed.
func TestSensitiveFieldsAreNeverIndexed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		header := hyper.Header{
			{Name: "Authorization", Value: "Basic QQ=="},
			{Name: "proxy-authorization", Value: "x"},
			{Name: "cookie", Value: "id=1234567890123456; short=1; long=123456789012345"},
			{Name: "x-plain", Value: "1"},
			{Name: "x-secret", Value: "1", Sensitive: true},
		}
		for _, id := range []uint32{1, 3} {
			doAsync(context.Background(), conn, &hyper.Request{Header: header})
			var got []string
			for _, f := range peer.WantHeaders("a request", id).Fields {
				if f.Sensitive {
					got = append(got, f.Name+": "+f.Value)
				}
			}
			want := []string{"authorization: Basic QQ==", "proxy-authorization: x",
				"cookie: id=1234567890123456", "cookie: short=1", "x-secret: 1"}
			if !slices.Equal(got, want) {
				t.Errorf("never indexed: %q, want %q", got, want)
			}
		}
	})
}

func TestSecondRequestIsCompressed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		getAsync(conn, "/a/path")
		first := peer.WantHeaders("first", 1)
		getAsync(conn, "/a/path")
		second := peer.WantHeaders("second", 3)
		// Each field takes one byte, except for :path, which is a literal because other requests
		// will have another path: the index of its name, the length and the value.
		path := 2 + int(hpack.HuffmanEncodeLength("/a/path"))
		if want := len(second.Fields) - 1 + path; len(second.Block) != want {
			t.Errorf("%d octets for %d fields, want %d, after %d for the first", len(second.Block),
				len(second.Fields), want, len(first.Block))
		}
	})
}

// A refusedRequest is a request that a caller must not be able to send.
type refusedRequest struct {
	reason string
	req    hyper.Request
	field  string // named by the error
}

func refusedRequests() []refusedRequest {
	field := func(name, value string) hyper.Request {
		return hyper.Request{Header: hyper.Header{{Name: name, Value: value}}}
	}
	fields := func(list ...string) (r hyper.Request) {
		for _, name := range list {
			r.Header.Add(name, "1")
		}
		return r
	}
	return []refusedRequest{
		{"RFC 9113 §8.2.2", field("Connection", "close"), "connection"},
		{"RFC 9113 §8.2.2", field("proxy-connection", "close"), "proxy-connection"},
		{"RFC 9113 §8.2.2", field("keep-alive", "1"), "keep-alive"},
		{"RFC 9113 §8.2.2", field("Transfer-Encoding", "chunked"), "transfer-encoding"},
		{"RFC 9113 §8.2.2", field("upgrade", "h2c"), "upgrade"},
		{"te other than trailers", field("te", "gzip"), "te"},
		{"te with more than trailers", field("te", "trailers, deflate"), "te"},
		{"an empty te", field("te", ""), "te"},
		{"no name", field("", "x"), ""},
		{"the Kelvin sign is no k", field("X-\u212aey", "1"), "x-\u212aey"},
		{"a blank before the value", field("x", " 1"), "x"},
		{"a tab behind the value", field("x", "1\t"), "x"},
		{"only a blank", field("x", " "), "x"},
		{"a line break", field("x", "1\r\ny: 2"), "x"},
		{"an unknown pseudo-header", fields(":status"), ":status"},
		{"a pseudo-header in capitals", fields(":Path"), ":Path"},
		{"a pseudo-header twice", fields(":method", ":method"), ":method"},
		{"a pseudo-header behind a field", fields("x", ":method"), ":method"},
		{"an empty :path", field(":path", ""), ":path"},
		{"an empty :authority", field(":authority", ""), ":authority"},
		{"an empty :protocol", hyper.Request{Method: "CONNECT", Header: hyper.Header{{Name: ":protocol"}}},
			":protocol"},
		{":protocol without CONNECT", hyper.Request{Protocol: "websocket"}, ":protocol"},
		{":protocol that is no token", hyper.Request{Method: "CONNECT", Protocol: "web socket"}, ":protocol"},
		{"a relative path", hyper.Request{Path: "x"}, ":path"},
		{"a URL for a path", hyper.Request{Path: "http://example.com/"}, ":path"},
		{"a fragment", hyper.Request{Path: "/#x"}, ":path"},
		{"a star without OPTIONS", hyper.Request{Path: "*"}, ":path"},
		{"a path beyond ASCII", hyper.Request{Path: "/é"}, ":path"},
		{"a path for CONNECT", hyper.Request{Method: "CONNECT",
			Header: hyper.Header{{Name: ":path", Value: "/"}}},
			":path"},
		{"a scheme for CONNECT", hyper.Request{Method: "CONNECT",
			Header: hyper.Header{{Name: ":scheme", Value: "http"}}},
			":scheme"},
		{"RFC 9113 §8.3.1: userinfo", hyper.Request{Authority: "me@example.com"}, ":authority"},
		{"a path behind the authority", hyper.Request{Authority: "example.com/x"}, ":authority"},
		{"a scheme that begins with a digit", hyper.Request{Scheme: "1x"}, ":scheme"},
		{"host against :authority", hyper.Request{Authority: "a",
			Header: hyper.Header{{Name: "host", Value: "b"}}},
			"host"},
		{"two hosts", hyper.Request{Header: hyper.Header{{Name: "host", Value: "a"},
			{Name: "host", Value: "b"}}},
			"host"},
		{"RFC 9110 §8.6: two lengths, though equal", fields("content-length", "content-length"),
			"content-length"},
		{"a list for a length", field("content-length", "1, 1"), "content-length"},
		{"a negative length", field("content-length", "-1"), "content-length"},
		{"a signed length", field("content-length", "+1"), "content-length"},
		{"an empty length", field("content-length", ""), "content-length"},
		{"a hexadecimal length", field("content-length", "0x1"), "content-length"},
		{"a length beyond 63 bits", field("content-length", "9223372036854775808"), "content-length"},
		{"two opinions on the length",
			hyper.Request{ContentLength: 2, Header: hyper.Header{{Name: "content-length", Value: "1"}},
				Body: io.LimitReader(neverRead{}, 1)}, "content-length"},
		{"RFC 9113 §8.1: a pseudo-header in trailers",
			hyper.Request{Trailer: hyper.Header{{Name: ":path", Value: "/"}}},
			":path"},
		{"a length in trailers", hyper.Request{Trailer: hyper.Header{{Name: "Content-Length", Value: "0"}}},
			"content-length"},
		{"host in trailers", hyper.Request{Trailer: hyper.Header{{Name: "host", Value: "a"}}}, "host"},
		{"a broken value in trailers", hyper.Request{Trailer: hyper.Header{{Name: "x", Value: "a\nb"}}}, "x"},
		{"a broken name in trailers", hyper.Request{Trailer: hyper.Header{{Name: "x y", Value: "a"}}}, "x y"},
	}
}

// neverRead is a body whose Read panics.
type neverRead struct{}

func (neverRead) Read([]byte) (int, error) { panic("a refused body was read") }

// An error in a request is found before anything changes: nothing is sent, no stream identifier is
// used, and the next request has the compression state of a first one.
func TestRefusedRequestLeavesNoTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		for _, test := range refusedRequests() {
			_, err := conn.Do(context.Background(), &test.req)
			var re *hyper.RequestError
			if !errors.As(err, &re) || re.Field != test.field {
				t.Errorf("%s: %v, want a RequestError of %q", test.reason, err, test.field)
			}
			if hyper.Retryable(err) {
				t.Errorf("%s: %v is no better the second time", test.reason, err)
			}
			peer.WantIdle(test.reason)
		}
		got := getAsync(conn, "/after")
		peer.WantHeaders("the first stream is still free", 1, ":path: /after")
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		got.Want(t, "the response")
		if used := conn.Stats().StreamsOpened; used != 1 {
			t.Errorf("%d streams opened", used)
		}
	})
}

// RFC 9113 §6.5.2: SETTINGS_MAX_HEADER_LIST_SIZE counts each field as the peer decodes it.
func TestRequestBeyondPeersHeaderListIsRefused(t *testing.T) {
	req := hyper.Request{NoDefaultFields: true, Header: hyper.Header{
		{Name: "host", Value: "example.com"}, {Name: "Cookie", Value: "a=1; b=2; c=3"},
		{Name: "x", Value: "y"},
	}}
	size := 0
	for _, f := range []string{":methodGET", ":schemehttp", ":authorityexample.com", ":path/", "cookiea=1",
		"cookieb=2", "cookiec=3", "xy"} {
		size += len(f) + 32
	}
	for _, short := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxHeaderListSize,
				Value: uint32(size - short)})
			got := doAsync(context.Background(), conn, &req)
			if short == 0 {
				peer.WantHeaders("it fits to the octet", 1)
				return
			}
			var re *hyper.RequestError
			if err := got.WantErr(t, "an octet too many"); !errors.As(err, &re) || re.Field != "header" {
				t.Error(err)
			}
			getAsync(conn, "/")
			peer.WantHeaders("the slot and the stream are free again", 1, ":path: /")
		})
	}
}

func TestHeaderBlockBeyondFrameSizeContinues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		var h hyper.Header
		for i := range 40 {
			h.Add(fmt.Sprint("x-", i), strings.Repeat("~", 1000))
		}
		doAsync(context.Background(), conn, &hyper.Request{Header: h})
		got := peer.WantHeaders("a large request", 1)
		for i, f := range got.Frames {
			if last := i == len(got.Frames)-1; !last && f.Length != 16384 ||
				f.Flags.Has(wire.EndHeaders) != last {
				t.Errorf("frame %d: %v", i, f)
			}
		}
		if len(got.Frames) < 3 || !got.EndStream {
			t.Errorf("%d frames, END_STREAM %v", len(got.Frames), got.EndStream)
		}
		getAsync(conn, "/after")
		peer.WantHeaders("the compression state is whole", 3, ":path: /after")
	})
}

func TestExtendedConnectInHeaderWaitsForSettingsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, _ := newPeer(t, &requestConfig)
		got := doAsync(context.Background(), conn, &hyper.Request{Header: hyper.Header{
			{Name: ":method", Value: "CONNECT"}, {Name: ":protocol", Value: "websocket"},
		}})
		peer.Ignore(wire.WindowUpdate)
		peer.WantPreface("the preface")
		peer.WantIdle("and no request")
		peer.WriteSettings()
		var re *hyper.RequestError
		if err := got.WantErr(t, "RFC 8441 §3"); !errors.As(err, &re) || re.Field != ":protocol" {
			t.Error(err)
		}
	})
}
