// This file tests how Conn.RoundTrip maps responses and errors to net/http.

package hypertest

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

func TestRoundTripMapsTheResponse(t *testing.T) {
	tests := []struct {
		name    string
		method  string
		status  string
		fields  []string
		body    string // "-" means END_STREAM on HEADERS
		line    string
		header  http.Header
		length  int64
		trailer http.Header
	}{
		{name: "a body of unknown length", status: "200",
			fields: []string{"x-two: 1", "x-one: 2", "x-two: 3"}, body: "hello",
			line: "200 OK", header: http.Header{"X-One": {"2"}, "X-Two": {"1", "3"}}, length: -1},
		{name: "a known length", status: "201", fields: []string{"content-length: 5"}, body: "hello",
			line: "201 Created", header: http.Header{"Content-Length": {"5"}}, length: 5},
		{name: "END_STREAM on HEADERS is length 0", status: "404", body: "-", line: "404 Not Found",
			header: http.Header{}, length: 0},
		{name: "HEAD keeps the length", method: "HEAD", status: "200", fields: []string{"content-length: 5"},
			body: "-",
			line: "200 OK", header: http.Header{"Content-Length": {"5"}}, length: 5},
		{name: "HEAD without one", method: "HEAD", status: "200", body: "-", line: "200 OK",
			header: http.Header{}, length: -1},
		{name: "204", status: "204", body: "-", line: "204 No Content", header: http.Header{}, length: 0},
		{name: "a status without a text", status: "299", body: "-", line: "299 ", header: http.Header{},
			length: 0},
		{name: "a status beyond all texts", status: "799", body: "-", line: "799 ", header: http.Header{},
			length: 0},
		{name: "the last status of the table", status: "599", body: "-", line: "599 ", header: http.Header{},
			length: 0},
		{name: "cookies", status: "200", fields: []string{"set-cookie: a=1", "set-cookie: b=2"}, body: "-",
			line: "200 OK", header: http.Header{"Set-Cookie": {"a=1", "b=2"}}, length: 0},
		{name: "trailers are announced", status: "200",
			fields: []string{"trailer: x-sum, X-Count", "trailer: content-length"}, body: "hello",
			line: "200 OK", header: http.Header{}, length: -1,
			trailer: http.Header{"X-Sum": nil, "X-Count": nil}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				req := httpRequest(t, test.method, "https://example.com/", nil)
				answer := tripAsync(conn, req)
				peer.WantHeaders("the request", 1)
				fields := append([]string{":status: " + test.status}, test.fields...)
				if test.body == "-" {
					peer.WriteHeaders(1, wire.EndStream, fields...)
				} else {
					peer.WriteHeaders(1, 0, fields...)
					peer.WriteData(1, wire.EndStream, []byte(test.body))
				}
				resp := answer.Want(t, "the response")
				want := http.Response{
					Status: test.line, StatusCode: resp.StatusCode, Proto: "HTTP/2.0", ProtoMajor: 2,
					Header:        test.header,
					ContentLength: test.length, Trailer: test.trailer, Request: req, Body: resp.Body,
				}
				if !reflect.DeepEqual(*resp, want) {
					t.Errorf("got  %+v\nwant %+v", *resp, want)
				}
				if fmt.Sprint(resp.StatusCode) != test.status {
					t.Errorf("status %d", resp.StatusCode)
				}
				h2test.WantBody(t, "the body", resp.Body, strings.TrimPrefix(test.body, "-"))
				if err := resp.Body.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Trailers are available when Read returns io.EOF, whether or not they were announced.
func TestRoundTripFillsInTrailersBeforeEOF(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil))
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200", "trailer: x-sum")
		peer.WriteData(1, 0, []byte("hello"))
		peer.WriteTrailers(1, "x-sum: 1", "x-new: 2")
		resp := answer.Want(t, "the response")
		if want := (http.Header{"X-Sum": nil}); !reflect.DeepEqual(resp.Trailer, want) {
			t.Errorf("before the body: %v", resp.Trailer)
		}
		h2test.WantBody(t, "the body", resp.Body, "hello")
		if want := (http.Header{"X-Sum": {"1"}, "X-New": {"2"}}); !reflect.DeepEqual(resp.Trailer, want) {
			t.Errorf("behind the body: %v", resp.Trailer)
		}
	})
}

func TestRoundTripReportsABodyThatIsNotWhole(t *testing.T) {
	tests := []struct {
		name   string
		answer func(*h2test.Peer)
		want   error
	}{
		{"short", func(p *h2test.Peer) { p.WriteData(1, wire.EndStream, []byte("hel")) },
			io.ErrUnexpectedEOF},
		{"long", func(p *h2test.Peer) { p.WriteData(1, wire.EndStream, []byte("hello!")) },
			hyper.ErrCodeProtocol},
		{"lost", func(p *h2test.Peer) { p.WriteData(1, 0, []byte("hel")); p.Close() }, io.ErrUnexpectedEOF},
		{"reset", func(p *h2test.Peer) {
			p.WriteData(1, 0, []byte("hel"))
			p.WriteRSTStream(1,
				wire.InternalError)
		}, hyper.ErrCodeInternal},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				peer.Ignore(wire.RSTStream)
				answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil))
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: 200", "content-length: 5")
				resp := answer.Want(t, "the response")
				test.answer(peer)
				if got, err := io.ReadAll(resp.Body); !errors.Is(err, test.want) || len(got) > 5 {
					t.Errorf("%q, %v", got, err)
				}
			})
		})
	}
}

// RFC 9113 §8.1: RST_STREAM with NO_ERROR after a complete response only ends the request's body.
func TestRoundTripKeepsTheResponseThatComesWithAnEarlyReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		body := &closableBody{Reader: h2test.ReaderFunc(func(p []byte) (int, error) { return len(p), nil })}
		answer := tripAsync(conn, httpRequest(t, "POST", "https://example.com/", body))
		peer.WantHeaders("the request", 1)
		peer.Ignore(wire.Data)
		peer.WriteHeaders(1, 0, ":status: 413")
		peer.WriteData(1, wire.EndStream, []byte("too much"))
		peer.WriteRSTStream(1, wire.NoError)
		h2test.WantBody(t, "the response", answer.Want(t, "the response").Body, "too much")
		body.wantClosed(t, "it is not wanted")
		peer.Ignore(wire.RSTStream)
	})
}

// xnetStreamError has the fields of golang.org/x/net/http2's StreamError, which this module's tests
// do not import.
type xnetStreamError struct {
	StreamID uint32
	Code     xnetErrCode
	Cause    error
}

type xnetErrCode uint32

func (xnetStreamError) Error() string { return "" }

// Programs recognize resets by net/http's text, as connect-go does, or by x/net's type.
func TestRoundTripReportsAResetWithTheTextOfNetHTTP(t *testing.T) {
	tests := []struct {
		name  string
		write func(peer *h2test.Peer)
		text  string
		code  hyper.ErrCode
		cause string
	}{
		{"reset", func(peer *h2test.Peer) { peer.WriteRSTStream(1, wire.EnhanceYourCalm) },
			"stream error: stream ID 1; ENHANCE_YOUR_CALM; received from peer", hyper.ErrCodeEnhanceYourCalm,
			"received from peer"},
		{"malformed", func(peer *h2test.Peer) { peer.WriteHeaders(1, 0, "no: status") },
			"stream error: stream ID 1; PROTOCOL_ERROR; malformed message: no :status at the beginning of " +
				"a response", hyper.ErrCodeProtocol,
			"malformed message: no :status at the beginning of a response"},
	}
	check := func(t *testing.T, err error, text string, code hyper.ErrCode, cause string) {
		t.Helper()
		if err == nil || err.Error() != text {
			t.Errorf("got %v, want %s", err, text)
		}
		var theirs xnetStreamError
		if !errors.As(err, &theirs) || theirs.StreamID != 1 || hyper.ErrCode(theirs.Code) != code ||
			theirs.Cause == nil || theirs.Cause.Error() != cause {
			t.Errorf("as x/net's: %+v", theirs)
		}
		var ours *hyper.StreamError
		if !errors.As(err, &ours) || ours.Code != code || !errors.Is(err, code) {
			t.Errorf("as ours: %+v", ours)
		}
		var other *hyper.BodyLengthError
		if errors.As(err, &other) {
			t.Errorf("as another: %+v", other)
		}
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil))
				peer.WantHeaders("the request", 1)
				test.write(peer)
				check(t, answer.WantErr(t, "no response"), test.text, test.code, test.cause)
				peer.Ignore(wire.RSTStream)
			})
		})
	}
	t.Run("in the body", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil))
			peer.WantHeaders("the request", 1)
			peer.WriteHeaders(1, 0, ":status: 200")
			resp := answer.Want(t, "the response")
			peer.WriteRSTStream(1, wire.Cancel)
			_, err := io.ReadAll(resp.Body)
			check(t, err, "stream error: stream ID 1; CANCEL; received from peer", hyper.ErrCodeCancel,
				"received from peer")
		})
	})
}

func zipped(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, text)
	w.Close()
	return b.Bytes()
}

// A body is decoded only if hyper itself, and not the caller, asked for the coding.
func TestRoundTripDecodesWhatItAskedFor(t *testing.T) {
	plain := http.Header{"Content-Type": {"text/plain"}}
	tests := []struct {
		name    string
		change  func(*http.Request)
		status  string
		coding  string
		decoded bool
	}{
		{"ours", nil, "200", "gzip", true},
		{"twice", nil, "200", "identity, gzip", true},
		{"not one that we know", nil, "200", "gzip, zstd", false},
		{"the caller's", func(r *http.Request) { r.Header.Set("Accept-Encoding", "gzip") }, "200", "gzip",
			false},
		{"of a range", func(r *http.Request) { r.Header.Set("Range", "bytes=0-") }, "200", "gzip", false},
		{"a part", nil, "206", "gzip", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				req := httpRequest(t, "GET", "https://example.com/", nil)
				if test.change != nil {
					test.change(req)
				}
				answer := tripAsync(conn, req)
				peer.WantHeaders("the request", 1)
				body := zipped("hello")
				length := fmt.Sprint(len(body))
				peer.WriteHeaders(1, 0, ":status: "+test.status, "content-type: text/plain",
					"content-encoding: "+test.coding, "content-length: "+length)
				peer.WriteData(1, wire.EndStream, body)
				resp := answer.Want(t, "the response")
				header, want := plain, "hello"
				if !test.decoded {
					header, want = plain.Clone(), string(body)
					header.Set("Content-Encoding", test.coding)
					header.Set("Content-Length", length)
				}
				if resp.Uncompressed != test.decoded || (resp.ContentLength < 0) != test.decoded ||
					!reflect.DeepEqual(resp.Header, header) {
					t.Errorf("Uncompressed %v, length %d, %v", resp.Uncompressed, resp.ContentLength,
						resp.Header)
				}
				h2test.WantBody(t, "the body", resp.Body, want)
			})
		})
	}
}

// Closing a small body that has arrived completely sends no reset. http.Client closes such bodies
// when it follows redirects.
func TestRoundTripBodyCloseOfAWholeBodyIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil))
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 302", "location: /elsewhere")
		peer.WriteData(1, wire.EndStream, []byte("moved"))
		resp := answer.Want(t, "the response")
		synctest.Wait()
		resp.Body.Close()
		peer.WantIdle("the stream is over anyway")
	})
}

func TestRoundTripWithCloseIsTheLast(t *testing.T) {
	for name, change := range map[string]func(*http.Request){
		"Request.Close":     func(r *http.Request) { r.Close = true },
		"Connection: close": func(r *http.Request) { r.Header.Set("Connection", "close") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				req := httpRequest(t, "GET", "https://example.com/", nil)
				change(req)
				answer := tripAsync(conn, req)
				peer.WantHeaders("the request", 1)
				peer.WantGoAway("and no other", 0, wire.NoError)
				if err := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil)).WantErr(t,
					"another one"); !errors.Is(err, hyper.ErrClosed) {
					t.Errorf("%v", err)
				}
				peer.WriteHeaders(1, 0, ":status: 200")
				peer.WriteData(1, wire.EndStream, []byte("hello"))
				h2test.WantBody(t, "the answer comes whole", answer.Want(t, "the response").Body, "hello")
				peer.WantClosed("after the last stream")
			})
		})
	}
}

// ResponseFromHTTP finds the Response by the body of the http.Response. If the body is wrapped,
// WithResponse still gives access to it.
func TestResponseFromHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		var seen *hyper.Response
		ctx := hyper.WithResponse(context.Background(), func(r *hyper.Response) { seen = r })
		answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil).WithContext(ctx))
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200", "b: 1", "a: 2")
		resp := answer.Want(t, "the response")
		own, ok := hyper.ResponseFromHTTP(resp)
		if !ok || own != seen || own.StreamID != 1 ||
			!slices.Equal(own.Header, hyper.Header{{Name: "b", Value: "1"}, {Name: "a", Value: "2"}}) {
			t.Errorf("%v, %+v", ok, own)
		}
		resp.Body = io.NopCloser(resp.Body)
		if _, ok := hyper.ResponseFromHTTP(resp); ok {
			t.Error("found behind another body")
		}
	})
}

// Responses with the same fields share them internally, which a caller must not notice. A change to
// one response does not affect the others, and a Header that is built late has the fields that
// arrived.
func TestAnswersShareNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		id := uint32(1)
		get := func(fields ...string) *http.Response {
			answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil))
			peer.WantHeaders("the request", id)
			peer.WriteHeaders(id, wire.EndStream, append([]string{":status: 200"}, fields...)...)
			id += 2
			return answer.Want(t, "the response")
		}
		shown := func(resp *http.Response) hyper.Header {
			own, _ := hyper.ResponseFromHTTP(resp)
			return own.Header
		}
		const n = 4
		want := hyper.Header{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}}
		var same [n]*http.Response
		for i := range same {
			same[i] = get("a: 1", "b: 2")
		}
		for i := range 32 { // replaces the 8 blocks that the connection remembers
			get("a: "+strings.Repeat("x", i), "b: y")
		}
		var all sync.WaitGroup
		for range n {
			all.Go(func() {
				if got := shown(same[0]); !slices.Equal(got, want) {
					t.Errorf("shown late: %v, want %v", got, want)
				}
			})
		}
		all.Wait()
		shown(same[1])[0].Value = "changed"
		same[2].Header["A"][0] = "changed"
		for i, resp := range same {
			if got := shown(resp); i != 1 && !slices.Equal(got, want) {
				t.Errorf("response %d: %v, want %v", i, got, want)
			}
			if got := resp.Header.Get("A"); i != 2 && got != "1" {
				t.Errorf("answer %d: %q", i, got)
			}
		}
	})
}

// The caller may send the Request of a response again. Each new response has the full Header.
func TestRequestBehindAnAnswerServesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil))
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200", "a: 1")
		own, _ := hyper.ResponseFromHTTP(answer.Want(t, "the response"))
		for id := uint32(3); id <= 7; id += 2 {
			again := doAsync(context.Background(), conn, own.Request)
			peer.WantHeaders("again", id)
			peer.WriteHeaders(id, wire.EndStream, ":status: 200", "a: 1")
			header := again.Want(t, "its response").Header
			if !slices.Equal(header, hyper.Header{{Name: "a", Value: "1"}}) {
				t.Errorf("stream %d: %v", id, header)
			}
			header[0].Value = "changed"
		}
	})
}

// A caller's own code can convert an http.Request to a Request, and a Response to an http.Response.
func TestConversionsServeOwnHelpers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		in := httpRequest(t, "POST", "https://example.com/up", io.NopCloser(strings.NewReader("hello")))
		in.Header.Set("X-Own", "1")
		req, err := hyper.RequestFromHTTP(in)
		if err != nil {
			t.Fatal(err)
		}
		answer := doAsync(context.Background(), conn, req)
		peer.WantHeaders("the request", 1, ":method: POST", ":path: /up", "x-own: 1")
		peer.WantBody("its body", 1, []byte("hello"))
		peer.WriteHeaders(1, 0, ":status: 200", "content-type: text/plain")
		peer.WriteData(1, wire.EndStream, []byte("world"))
		resp := answer.Want(t, "the response").HTTP(nil)
		if resp.Status != "200 OK" || resp.Header.Get("Content-Type") != "text/plain" || resp.Request != nil {
			t.Errorf("%+v", resp)
		}
		h2test.WantBody(t, "its body", resp.Body, "world")

		if _, err := hyper.RequestFromHTTP(&http.Request{}); err == nil {
			t.Error("a request without a URL")
		}
	})
}

// Many goroutines share a RoundTripper, and each gets its own response.
func TestRoundTripIsSafeForConcurrentUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 10})
		var trips []*httpCall
		for i := range 100 {
			trips = append(trips, tripAsync(conn, httpRequest(t, "GET",
				fmt.Sprintf("https://example.com/%d", i), nil)))
		}
		for i := range 100 {
			id := uint32(2*i + 1)
			h := peer.WantHeaders("a request", id)
			peer.WriteHeaders(id, wire.EndStream, ":status: 200", "x-path: "+h.Get(":path"))
		}
		for i, answer := range trips {
			resp := answer.Want(t, "a response")
			if got := resp.Header.Get("X-Path"); got != fmt.Sprintf("/%d", i) {
				t.Errorf("request %d got the answer to %s", i, got)
			}
			resp.Body.Close()
		}
	})
}
