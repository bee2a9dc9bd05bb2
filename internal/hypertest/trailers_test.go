package hypertest

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// listLimit is a MAX_HEADER_LIST_SIZE that the headers of the tests' requests do not exceed.
const listLimit = 1000

// limitLists returns a setting that limits the size of field sections to n.
func limitLists(n uint32) wire.Setting {
	return wire.Setting{ID: wire.SettingMaxHeaderListSize, Value: n}
}

// trailerOf returns the value of an x-sum field, so that RFC 9113 §6.5.2 counts size for a section
// with only that field.
func trailerOf(size int) string { return strings.Repeat("x", size-len("x-sum")-32) }

// A filledTrailer is a body that sets its request's trailer when it has been read.
type filledTrailer struct {
	io.Reader
	req   *http.Request
	value string
}

// Read sets the trailer at the end.
func (f *filledTrailer) Read(p []byte) (n int, err error) {
	if n, err = f.Reader.Read(p); err == io.EOF {
		f.req.Trailer.Set("X-Sum", f.value)
	}
	return n, err
}

func (f *filledTrailer) Close() error { return nil }

// post makes a request with a body of five bytes that sets its trailer to value.
func (v *visit) post(value string) *http.Request {
	v.t.Helper()
	body := &filledTrailer{Reader: strings.NewReader("hello"), value: value}
	req := v.request("POST", "/", body)
	req.Trailer = http.Header{"X-Sum": nil}
	body.req = req
	return req
}

// RFC 9113 §10.5.1: the client does not send a field section that is larger than the peer accepts.
// It returns an error.
func TestTrailersThatAreFilledInAreHeldAgainstThePeersLimit(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		call := v.send(v.post(trailerOf(listLimit)))
		peer := v.accept(limitLists(listLimit))
		synctest.Wait()
		peer.WantHeaders("the first request", 1)
		peer.WantData("its body", 1, 0, 5)
		peer.WantHeaders("trailers as large as the peer takes", 1, "x-sum: "+trailerOf(listLimit))
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		call.Want(t, "the first response").Body.Close()
		synctest.Wait() // http.Transport pools the connection from now on

		call = v.send(v.post(trailerOf(listLimit + 1)))
		peer.WantHeaders("the second request", 3)
		peer.WantData("its body", 3, 0, 5)
		peer.WantRSTStream("its trailers are an octet too large", 3, wire.Cancel)
		wantRequestError(t, "trailers", call.WantErr(t, "an octet too many"))

		call = v.get("/after")
		peer.WantHeaders("the connection is as it was", 5, ":path: /after")
		peer.Ignore(wire.Data)
		peer.WriteHeaders(5, wire.EndStream, ":status: 204")
		call.Want(t, "the third response").Body.Close()
		peer.WantIdle("nothing else is sent")
	})
}

// If the trailers are known in advance and too large, nothing of the request is sent.
func TestTrailersThatAreKnownAreRefusedWithTheirRequest(t *testing.T) {
	bodies := map[string]func() io.Reader{
		"none":      func() io.Reader { return nil },
		"in memory": func() io.Reader { return bytes.NewReader([]byte("hello")) },
		"a reader":  func() io.Reader { return io.MultiReader(strings.NewReader("hello")) },
	}
	for name, body := range bodies {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil, limitLists(listLimit))
			req := &hyper.Request{Method: "POST", Body: body(),
				Trailer: hyper.Header{{Name: "X-Sum", Value: trailerOf(listLimit + 1)}}}
			_, err := conn.Do(t.Context(), req)
			wantRequestError(t, name, err)
			peer.WantIdle("nothing is sent")
			if open := conn.Stats().StreamsOpen; open != 0 {
				t.Errorf("%d streams are open", open)
			}

			req.Body, req.Trailer[0].Value = body(), trailerOf(listLimit)
			call := doAsync(t.Context(), conn, req)
			peer.WantHeaders("an octet less", 1)
			if req.Body != nil {
				peer.WantData("the body", 1, 0, 5)
			}
			peer.WantHeaders("the trailers", 1, "x-sum: "+trailerOf(listLimit))
			peer.WriteHeaders(1, wire.EndStream, ":status: 204")
			call.Want(t, name)
		})
	}
}

// If SendTrailers refuses a section, the stream is unchanged, and a smaller section can end it.
func TestSendTrailersAboveThePeersLimitLeavesTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, limitLists(listLimit))
		s, err := conn.Open(t.Context(), &hyper.Request{Method: "POST"})
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the request", 1)
		wantRequestError(t, "an octet too many", s.SendTrailers(hyper.Header{{Name: "X-Sum",
			Value: trailerOf(listLimit + 1)}}))
		peer.WantIdle("nothing is sent")
		if _, err := s.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		peer.WantData("the stream goes on", 1, 0, 5)
		if err := s.SendTrailers(hyper.Header{{Name: "X-Sum", Value: trailerOf(listLimit)}}); err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("smaller trailers", 1, "x-sum: "+trailerOf(listLimit))
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
	})
}

// Trailers are checked against the limit at the time when they are sent.
func TestTrailersAreHeldAgainstALimitThatSank(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingInitialWindowSize, Value: 3})
		call := doAsync(t.Context(), conn, &hyper.Request{
			Method: "POST", Body: strings.NewReader("hello"),
			Trailer: hyper.Header{{Name: "X-Sum", Value: trailerOf(listLimit + 1)}},
		})
		peer.WantHeaders("the request", 1)
		peer.WantData("what the window allows", 1, 0, 3)
		peer.WriteSettings(limitLists(listLimit))
		peer.WantSettingsAck("the limit is known")
		peer.WriteWindowUpdate(1, 10)
		peer.WantData("the rest", 1, 0, 2)
		peer.WantRSTStream("the trailers are too large by now", 1, wire.Cancel)
		wantRequestError(t, "trailers", call.WantErr(t, "too large by now"))
		var se *hyper.StreamError
		if !errors.As(call.Err, &se) || se.StreamID != 1 {
			t.Errorf("got %v, want a StreamError of stream 1", call.Err)
		}
		peer.WantIdle("nothing else is sent")
	})
}

// Values of trailers are trimmed: net/http does it for HTTP/1.1, and RFC 9113 §8.2.1 does not allow
// spaces and tabs around a value.
func TestValuesOfHTTPTrailersAreTrimmed(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		call := v.send(v.post(" \t1 2\t"))
		peer := v.accept()
		peer.Ignore(wire.Data)
		peer.WantHeaders("the request", 1)
		peer.WantHeadersExactly("the trailers", 1, "x-sum: 1 2")
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		call.Want(t, "the response").Body.Close()
	})
}

// RFC 9113 §8.5: CONNECT has no :scheme and no :path. If a program sets one of them, the request is
// refused.
func TestConnectWithAPathOrSchemeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		method := hyper.Header{{Name: ":method", Value: "CONNECT"}}
		for _, req := range []*hyper.Request{
			{Method: "CONNECT", Authority: "far.example:443", Path: "/"},
			{Method: "CONNECT", Authority: "far.example:443", Path: "/chat"},
			{Method: "CONNECT", Authority: "far.example:443", Scheme: "https"},
			{Header: method, Authority: "far.example:443", Path: "/chat"},
			{Header: method, Authority: "far.example:443", Scheme: "http"},
		} {
			_, err := conn.Do(t.Context(), req)
			wantRequestError(t, req.Path+req.Scheme, err)
			_, err = conn.Open(t.Context(), req)
			wantRequestError(t, req.Path+req.Scheme, err)
		}
		peer.WantIdle("nothing is sent")
	})
}

// In CONNECT requests of net/http's type the path of the URL is ignored, as in net/http's HTTP/2,
// because a URL from http.NewRequest may have one.
func TestConnectOfHTTPRequestHasNoPath(t *testing.T) {
	eachDoor(t, hyper.Config{NoUserAgent: true}, func(t *testing.T, v *visit) {
		var peer *accepted
		for i, path := range []string{"", "/", "/chat?x=y"} {
			id := uint32(2*i + 1)
			req := v.request("CONNECT", path, nil)
			req.Host = "far.example:443"
			call := v.send(req)
			if peer == nil {
				peer = v.accept()
				peer.Ignore(wire.Data, wire.RSTStream)
			}
			peer.WantHeadersExactly(path, id, ":method: CONNECT", ":authority: far.example:443")
			peer.WriteHeaders(id, 0, ":status: 200")
			call.Want(t, path).Body.Close()
			synctest.Wait() // http.Transport pools the connection from now on
		}
	})
}
