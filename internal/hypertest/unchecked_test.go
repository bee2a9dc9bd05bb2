package hypertest

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// An unchecked request is sent field by field as it is, whatever rule it breaks.
func TestUncheckedRequestsAreSentUnchanged(t *testing.T) {
	for _, fields := range []hyper.Header{
		{},
		{{Name: ":path", Value: "/"}},
		{{Name: ":method", Value: "GET"}, {Name: ":method", Value: "PUT"}, {Name: ":unknown", Value: "x"}},
		{{Name: "a", Value: "b"}, {Name: ":method", Value: "GET"}, {Name: ":path", Value: ""}},
		{{Name: "Upper-Case", Value: " blanks "}, {Name: "connection", Value: "close"},
			{Name: "te", Value: "gzip"}, {Name: "host", Value: "other"}},
		{{Name: "x", Value: "a\r\nb: c\x00\xff"}, {Name: "", Value: ""}, {Name: "a b\n", Value: "c"}},
		{{Name: "cookie", Value: "a=b; c=d"}, {Name: "expect", Value: "100-continue"},
			{Name: "content-length", Value: "7"}, {Name: "content-length", Value: "x"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			call := doAsync(t.Context(), conn, &hyper.Request{Unchecked: true, Header: fields, Method: "PUT",
				Path: "/not-sent"})
			got := peer.WantHeaders("the request", 1)
			sent := make(hyper.Header, len(got.Fields))
			for i, f := range got.Fields {
				sent[i] = hyper.Field{Name: f.Name, Value: f.Value}
			}
			if !slices.Equal(sent, fields) || !got.EndStream {
				t.Errorf("%+v was sent as %+v", fields, sent)
			}
			peer.WriteHeaders(1, wire.EndStream, ":status: 400")
			if resp := call.Want(t, "the response"); resp.StatusCode != 400 {
				t.Errorf("status %d", resp.StatusCode)
			}
			// The next request finds the compression state as the peer has it.
			next := getAsync(conn, "/next")
			peer.WantHeaders("another request", 3, ":path: /next", ":method: GET")
			peer.WriteHeaders(3, wire.EndStream, ":status: 200")
			next.Want(t, "its response")
		})
	}
}

func TestUncheckedBodiesAndTrailersAreSentUnchanged(t *testing.T) {
	for name, body := range map[string]io.Reader{
		"memory": strings.NewReader("hello"), "reader": io.MultiReader(strings.NewReader("hello")),
		"none": nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxHeaderListSize, Value: 1})
				call := doAsync(t.Context(), conn, &hyper.Request{Unchecked: true, Body: body,
					ContentLength: 9,
					Header:        hyper.Header{{Name: "content-length", Value: "1"}},
					Trailer:       hyper.Header{{Name: ":path", Value: "/"}, {Name: "TE", Value: "a\n"}}})
				peer.WantHeadersExactly("the header", 1, "content-length: 1")
				if body != nil {
					peer.WantBody("the body", 1, []byte("hello"))
				}
				peer.WantHeadersExactly("the trailers", 1, ":path: /", "TE: a\n")
				peer.WriteHeaders(1, wire.EndStream, ":status: 200")
				call.Want(t, "the response")
			})
		})
	}
}

func TestUncheckedStreamsTakeUncheckedTrailers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		s, err := conn.Open(t.Context(), &hyper.Request{Unchecked: true})
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeadersExactly("an empty field section", 1)
		if err := s.SendTrailers(hyper.Header{{Name: ":status", Value: "1"}}); err != nil {
			t.Fatal(err)
		}
		peer.WantHeadersExactly("the trailers", 1, ":status: 1")
		if err := s.SendTrailers(nil); !errors.Is(err, hyper.ErrSendEnded) {
			t.Error(err)
		}
	})
}

// Only code that has the Request itself can make it unchecked: no field of an http.Request does.
func TestHTTPRequestsAreAlwaysChecked(t *testing.T) {
	for _, f := range []hyper.Field{{Name: "Bad Name", Value: "x"}, {Name: "X", Value: "a\r\nb: c"}} {
		eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
			req := v.request("POST", "/", nil)
			req.Header = http.Header{f.Name: {f.Value}, "Unchecked": {"true"}, ":unchecked": {"true"}}
			err := v.send(req).WantErr(t, "a field that is not valid")
			if strings.Contains(err.Error(), "EOF") {
				t.Error(err)
			}
		})
	}
}

// Through a Transport, WithRequest can make a request unchecked. The URL still chooses the host.
func TestWithRequestCanBeUnchecked(t *testing.T) {
	eachHTTPDoor(t, func(t *testing.T, v *visit) {
		if v.viaNetHTTP() {
			t.Skip("http.Transport passes on only what it has checked")
		}
		req := v.request("GET", "/", nil)
		call := v.send(req.WithContext(hyper.WithRequest(req.Context(), func(r *hyper.Request) {
			r.Unchecked = true
			r.Header = hyper.Header{{Name: ":method", Value: "GET"}, {Name: "X-Upper", Value: "1"}}
		})))
		peer := v.accept()
		peer.WantHeadersExactly("the request", 1, ":method: GET", "X-Upper: 1")
		peer.WriteHeaders(1, wire.EndStream, ":status: 400")
		call.Want(t, "the response")
	})
}

// A draining and a closed connection give an unchecked request the errors that they give to all.
func TestUncheckedRequestsGetTheUsualErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		req := &hyper.Request{Unchecked: true}
		open := doAsync(t.Context(), conn, req)
		peer.WantHeaders("the request", 1)
		peer.WriteGoAway(1, wire.NoError, "")
		synctest.Wait()
		if _, err := conn.Do(t.Context(), req); !errors.Is(err, hyper.ErrDrained) {
			t.Errorf("after GOAWAY: %v", err)
		}
		conn.Close()
		if err := open.WantErr(t, "the open request"); !errors.Is(err, hyper.ErrClosed) {
			t.Errorf("the open request: %v", err)
		}
		if _, err := conn.Do(t.Context(), req); !errors.Is(err, hyper.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// What a Framing says is sent byte for byte.
func TestFramingOfRequests(t *testing.T) {
	header := hyper.Header{{Name: "a", Value: "b"}}
	never := func(hyper.Field) hyper.FieldEncoding {
		return hyper.FieldEncoding{Form: hyper.FieldNeverIndexed, Huffman: hyper.HuffmanNever}
	}
	const block = "\x10\x01a\x01b"
	for _, c := range []struct {
		name    string
		framing hyper.Framing
		want    string
	}{
		{"plain", hyper.Framing{Encode: never},
			"\x00\x00\x05\x01\x04\x00\x00\x00\x01" + block + "\x00\x00\x02\x00\x01\x00\x00\x00\x01hi"},
		{"padding", hyper.Framing{Encode: never, HeaderPadding: 2, DataPadding: 3},
			"\x00\x00\x07\x01\x0c\x00\x00\x00\x01\x01" + block + "\x00" +
				"\x00\x00\x05\x00\x09\x00\x00\x00\x01\x02hi\x00\x00"},
		{"fragments", hyper.Framing{Encode: never, Fragments: []int{0, 2}},
			"\x00\x00\x00\x01\x00\x00\x00\x00\x01" + "\x00\x00\x02\x09\x00\x00\x00\x00\x01" + block[:2] +
				"\x00\x00\x03\x09\x04\x00\x00\x00\x01" + block[2:] +
				"\x00\x00\x02\x00\x01\x00\x00\x00\x01hi"},
		{"priority", hyper.Framing{Encode: never,
			Dependency: &hyper.Dependency{StreamID: 3, Weight: 15, Exclusive: true}},
			"\x00\x00\x0a\x01\x24\x00\x00\x00\x01\x80\x00\x00\x03\x0f" + block +
				"\x00\x00\x02\x00\x01\x00\x00\x00\x01hi"},
		{"small DATA", hyper.Framing{Encode: never, MaxData: 1},
			"\x00\x00\x05\x01\x04\x00\x00\x00\x01" + block + "\x00\x00\x01\x00\x00\x00\x00\x00\x01h" +
				"\x00\x00\x01\x00\x01\x00\x00\x00\x01i"},
		{"a stream of its own", hyper.Framing{Encode: never, StreamID: 15},
			"\x00\x00\x05\x01\x04\x00\x00\x00\x0f" + block + "\x00\x00\x02\x00\x01\x00\x00\x00\x0fhi"},
		{"an entry of the table", hyper.Framing{Encode: func(hyper.Field) hyper.FieldEncoding {
			return hyper.FieldEncoding{Form: hyper.FieldIncremental, Huffman: hyper.HuffmanAlways}
		}}, "\x00\x00\x05\x01\x04\x00\x00\x00\x01\x40\x81\x1f\x81\x8f" +
			"\x00\x00\x02\x00\x01\x00\x00\x00\x01hi"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn, client := newPeer(t, nil)
				peer.Handshake()
				synctest.Wait()
				client.LogWrites()
				doAsync(t.Context(), conn, &hyper.Request{Unchecked: true, Header: header,
					Body: strings.NewReader("hi"), Framing: &c.framing})
				synctest.Wait()
				if got := bytes.Join(client.WriteLog(), nil); string(got) != c.want {
					t.Errorf("got  %x\nwant %x", got, c.want)
				}
				checkNextRequest(t, peer, conn)
			})
		})
	}
}

// checkNextRequest sends an ordinary request and requires that the peer understands it.
func checkNextRequest(t *testing.T, peer *h2test.Peer, conn *hyper.Conn) {
	t.Helper()
	call := getAsync(conn, "/next")
	for {
		f, err := peer.Next()
		if err != nil {
			t.Fatal(err, peer.Log())
		}
		if f.Type != wire.Headers || f.Headers.Get(":path") != "/next" {
			continue
		}
		peer.WriteHeaders(f.StreamID, wire.EndStream, ":status: 204")
		break
	}
	if resp := call.Want(t, "the next request"); resp.StatusCode != 204 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

func TestFramingOfTrailers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, client := newPeer(t, nil)
		peer.Handshake()
		asked := 0
		s, err := conn.Open(t.Context(), &hyper.Request{Framing: &hyper.Framing{HeaderPadding: 1,
			Fragments: []int{1}, Dependency: &hyper.Dependency{},
			Encode: func(f hyper.Field) hyper.FieldEncoding {
				asked++
				return hyper.FieldEncoding{Form: hyper.FieldNotIndexed, Huffman: hyper.HuffmanNever}
			}}})
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the header", 1, ":method: GET", "user-agent: hyper")
		client.LogWrites()
		asked = 0
		if err := s.SendTrailers(hyper.Header{{Name: "X", Value: "y"}}); err != nil {
			t.Fatal(err)
		}
		peer.WantHeadersExactly("the trailers", 1, "x: y")
		const want = "\x00\x00\x02\x01\x09\x00\x00\x00\x01\x00\x00" +
			"\x00\x00\x04\x09\x04\x00\x00\x00\x01\x01x\x01y"
		if got := bytes.Join(client.WriteLog(), nil); string(got) != want || asked != 1 {
			t.Errorf("got  %x\nwant %x, asked %d times", got, want, asked)
		}
	})
}

// Padding counts in the windows of the peer and of hyper alike. A window that has no room for
// padding still lets content through.
func TestPaddedUploadsKeepToTheWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingInitialWindowSize, Value: 1000})
		body := bytes.Repeat([]byte("x"), 3000)
		call := doAsync(t.Context(), conn, &hyper.Request{Method: "POST", Body: bytes.NewReader(body),
			Framing: &hyper.Framing{DataPadding: 256, MaxData: 100}})
		peer.WantHeaders("the request", 1)
		var got []byte
		for len(got) < len(body) {
			synctest.Wait()
			f := peer.WantFrame("the body", wire.Data)
			content := f.Payload
			if f.Flags.Has(wire.Padded) {
				content = f.Payload[1 : len(f.Payload)-int(f.Payload[0])]
			}
			if len(content) == 0 || len(content) > 100 {
				t.Fatalf("%v has %d bytes of content", f.FrameHeader, len(content))
			}
			got = append(got, content...)
			peer.WriteWindowUpdate(1, max(1, len(f.Payload)/3))
			peer.WriteWindowUpdate(0, len(f.Payload))
		}
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		call.Want(t, "the response")
	})
}

func TestFramingsThatAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		for _, f := range []hyper.Framing{
			{StreamID: 2}, {StreamID: 1 << 31}, {HeaderPadding: 257}, {HeaderPadding: -1}, {DataPadding: 257},
			{DataPadding: -1}, {MaxData: -1}, {Fragments: []int{-1}}, {Fragments: []int{1 << 24}},
		} {
			_, err := conn.Do(t.Context(), &hyper.Request{Framing: &f})
			var re *hyper.RequestError
			if !errors.As(err, &re) || re.Field != "Framing" {
				t.Errorf("%+v: %v", f, err)
			}
		}
		peer.WantIdle("nothing was sent")
		checkNextRequest(t, peer, conn)
		if _, err := conn.Do(t.Context(), &hyper.Request{Framing: &hyper.Framing{StreamID: 1}}); err == nil {
			t.Error("an identifier was used twice")
		}
		if n := conn.Stats().StreamsOpen; n != 0 {
			t.Errorf("%d streams are open", n)
		}
	})
}

// An encoding that is none of the constants refuses the request, and trailers before they change
// the stream.
func TestFieldEncodingsThatAreRefused(t *testing.T) {
	for _, e := range []hyper.FieldEncoding{{Form: hyper.FieldNeverIndexed + 1},
		{Huffman: hyper.HuffmanNever + 1}, {Form: 255, Huffman: 255}} {
		encode := func(name string) *hyper.Framing {
			return &hyper.Framing{Encode: func(f hyper.Field) (none hyper.FieldEncoding) {
				if f.Name == name {
					return e
				}
				return none
			}}
		}
		refused := func(t *testing.T, what string, err error) {
			t.Helper()
			var re *hyper.RequestError
			if !errors.As(err, &re) || re.Field != "Framing" || !strings.Contains(err.Error(), "x-odd") {
				t.Errorf("%s: %v", what, err)
			}
		}
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			odd := hyper.Header{{Name: "x-odd", Value: "1"}}
			_, err := conn.Do(t.Context(), &hyper.Request{Header: odd, Framing: encode("x-odd")})
			refused(t, "a field of the header", err)
			_, err = conn.Do(t.Context(), &hyper.Request{Method: "POST", Body: strings.NewReader("body"),
				Trailer: odd, Framing: encode("x-odd")})
			refused(t, "a field of the trailers", err)
			peer.WantIdle("nothing was sent")

			s, err := conn.Open(t.Context(), &hyper.Request{Method: "POST", Framing: encode("x-odd")})
			if err != nil {
				t.Fatal(err)
			}
			peer.WantHeaders("a request without the field", 1)
			refused(t, "SendTrailers", s.SendTrailers(odd))
			peer.WantIdle("no trailers were sent")
			if err := s.SendTrailers(hyper.Header{{Name: "x-even", Value: "2"}}); err != nil {
				t.Errorf("other trailers: %v", err)
			}
			peer.WantHeaders("other trailers", 1)
			peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		})
	}
}
