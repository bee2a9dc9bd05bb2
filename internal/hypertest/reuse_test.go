// This file tests the use of the memory of exchanges after their end.

package hypertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A response stays as it is after its body was closed, whatever is requested then. Calls of its
// Body return what they always return after Close.
func TestClosedResponseStaysAsItIs(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		call := v.get("/first")
		peer := v.accept()
		peer.Ignore(wire.Data) // the end of the request, in some doors
		peer.WantHeaders("the first request", 1)
		peer.WriteHeaders(1, 0, ":status: 203", "content-length: 5", "x-n: 1", "a: 1", "a: 2")
		peer.WriteData(1, wire.EndStream, []byte("hello"))
		first := call.Want(t, "the first response")
		h2test.WantBody(t, "the first body", first.Body, "hello")
		first.Body.Close()
		before := *first
		before.Header = maps.Clone(first.Header)
		for id := uint32(3); id < 40; id += 2 {
			call := v.get("/others")
			peer.WantHeaders("another request", id)
			peer.WriteHeaders(id, wire.EndStream, ":status: 404", "b: "+strconv.Itoa(int(id)))
			call.Want(t, "another response").Body.Close()
			if n, err := first.Body.Read(make([]byte, 9)); n != 0 || err != http.ErrBodyReadAfterClose {
				t.Fatalf("Read of the closed body: %d, %v", n, err)
			}
			if err := first.Body.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if first.Status != before.Status || first.StatusCode != 203 || first.ContentLength != 5 ||
			first.Request != before.Request || first.TLS != before.TLS || len(first.Trailer) != 0 ||
			!slices.Equal(first.Header["A"], []string{"1", "2"}) ||
			!maps.EqualFunc(first.Header, before.Header, slices.Equal) {
			t.Errorf("the first response is now %+v", first)
		}
	})
}

// ResponseFromHTTP returns the same after the body was closed as before, with a stream that has
// ended.
func TestResponseFromHTTPAfterClose(t *testing.T) {
	for _, early := range []bool{true, false} {
		t.Run(fmt.Sprintf("early=%v", early), func(t *testing.T) {
			eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
				testResponseFromHTTPAfterClose(t, v, early)
			})
		})
	}
}

func testResponseFromHTTPAfterClose(t *testing.T, v *visit, early bool) {
	call := v.get("/first?a=b")
	peer := v.accept()
	peer.Ignore(wire.Data) // the end of the request, in some doors
	peer.WantHeaders("the first request", 1)
	peer.WriteHeaders(1, 0, ":status: 203", "x-n: 1", "content-length: 5", "a: 1", "a: 2")
	peer.WritePaddedData(1, wire.EndStream, []byte("hello"), 7)
	resp := call.Want(t, "the first response")
	if early {
		hyper.ResponseFromHTTP(resp)
	}
	h2test.WantBody(t, "the first body", resp.Body, "hello")
	resp.Body.Close()
	for id := uint32(3); id < 20; id += 2 {
		call := v.get("/others")
		peer.WantHeaders("another request", id)
		peer.WriteHeaders(id, wire.EndStream, ":status: 404", "b: 1")
		call.Want(t, "another response").Body.Close()
	}
	own, ok := hyper.ResponseFromHTTP(resp)
	if !ok {
		t.Fatal("not found")
	}
	want := hyper.Header{{Name: "x-n", Value: "1"}, {Name: "content-length", Value: "5"},
		{Name: "a", Value: "1"}, {Name: "a", Value: "2"}}
	if own.StatusCode != 203 || own.StreamID != 1 || own.ContentLength != 5 || own.Uncompressed ||
		!slices.Equal(own.Header, want) || own.Trailer() != nil {
		t.Errorf("the Response is %+v", own)
	}
	r := own.Request
	if r == nil || r.Method != "GET" || r.Authority != "example.com" || r.Path != "/first?a=b" {
		t.Errorf("its Request is %+v", r)
	}
	s := own.Stream()
	stats := s.Stats()
	if s.ID() != 1 || s.Conn() == nil || s.Err() != nil || stats.BytesReceived != 13 ||
		stats.BytesRead != 13 || stats.BytesSent != 0 {
		t.Errorf("its stream: %d, %v, %+v", s.ID(), s.Err(), stats)
	}
	select {
	case <-s.Done():
	default:
		t.Error("its stream is not done")
	}
	if n, err := own.Body.Read(make([]byte, 9)); n != 0 || err != io.EOF {
		t.Errorf("Body.Read: %d, %v", n, err)
	}
	if n, err := s.Write([]byte("x")); n != 0 || !errors.Is(err, hyper.ErrSendEnded) {
		t.Errorf("Write: %d, %v", n, err)
	}
	if again, err := s.Response(t.Context()); again != own || err != nil {
		t.Errorf("Stream.Response: %v, %v", again, err)
	}
	for p, err := range own.Pushes(t.Context()) {
		t.Errorf("a push: %v, %v", p, err)
	}
	s.Reset(hyper.ErrCodeCancel) // has no effect
	if err := own.Body.Close(); err != nil || s.Err() != nil {
		t.Errorf("Close: %v, %v", err, s.Err())
	}
	peer.WantIdle("of calls on a stream that has ended")
}

// echoNumber responds with the number of the request: in a field, and as often as the path has it
// in the body.
func echoNumber(w http.ResponseWriter, r *http.Request) {
	n, _ := strconv.Atoi(r.URL.Query().Get("times"))
	w.Header().Set("X-Number", r.Header.Get("X-Number"))
	for range n {
		io.WriteString(w, r.Header.Get("X-Number")+"\n")
	}
}

// Exchanges that share memory one after the other do not disturb each other: each response has the
// number of its request, also where calls of a Body overlap, contexts end, and old bodies are used
// late.
func TestReusedExchangesDoNotMix(t *testing.T) {
	srv := h2test.HTTP2Server(t, echoNumber)
	tr := &hyper.Transport{Proxy: hyper.NoProxy, MaxConnsPerHost: 2,
		Config: &hyper.Config{TLS: h2test.ClientTLS()}}
	defer tr.CloseIdleConnections()
	var wg sync.WaitGroup
	for caller := range 16 {
		wg.Go(func() {
			c := &reuseCaller{t: t, url: srv.URL, rt: tr, r: rand.New(rand.NewPCG(1, uint64(caller)))}
			for n := range 300 {
				c.exchange(fmt.Sprintf("%d-%d", caller, n))
			}
		})
	}
	wg.Wait()
}

// A reuseCaller makes one exchange after the other, and keeps a few of their responses.
type reuseCaller struct {
	t   *testing.T
	url string
	rt  http.RoundTripper
	r   *rand.Rand
	old []*http.Response // their bodies were closed
}

func (c *reuseCaller) exchange(number string) {
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	times := c.r.IntN(20)
	url := fmt.Sprintf("%s/?times=%d", c.url, times)
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		c.t.Error(err)
		return
	}
	req.Header.Set("X-Number", number)
	ends := c.r.IntN(4) == 0 // the context ends at any time
	if ends {
		go cancel()
	}
	resp, err := c.rt.RoundTrip(req)
	if err != nil {
		if !ends {
			c.t.Errorf("%s: %v", number, err)
		}
		return
	}
	c.checkHeader(resp, number)
	var both sync.WaitGroup
	overlaps := c.r.IntN(3) == 0
	if overlaps { // closed while it is read
		both.Go(func() { resp.Body.Close() })
	}
	body, err := io.ReadAll(resp.Body)
	if whole := strings.Repeat(number+"\n", times); !strings.HasPrefix(whole, string(body)) ||
		err == nil && len(body) < len(whole) {
		c.t.Errorf("%s: a body of %q", number, body)
	}
	if err != nil && !ends && !overlaps {
		c.t.Errorf("%s: %v", number, err)
	}
	resp.Body.Close()
	both.Wait()
	c.checkHeader(resp, number)
	c.useOld()
	if c.old = append(c.old, resp); len(c.old) > 4 {
		c.old = c.old[1:]
	}
}

// useOld uses the responses that were kept. Each has its own number still.
func (c *reuseCaller) useOld() {
	for _, resp := range c.old {
		if n, err := resp.Body.Read(make([]byte, 9)); n != 0 || err == nil {
			c.t.Errorf("Read of a closed body: %d, %v", n, err)
		}
		number := resp.Request.Header.Get("X-Number")
		c.checkHeader(resp, number)
		own, ok := hyper.ResponseFromHTTP(resp)
		if !ok || own.Header.Get("x-number") != number {
			c.t.Errorf("%s: the Response has %v", number, own.Header)
		}
		own.Body.Close()
	}
}

func (c *reuseCaller) checkHeader(resp *http.Response, number string) {
	if got := resp.Header.Get("X-Number"); got != number {
		c.t.Errorf("%s: a response to %s", number, got)
	}
}

// A caller that keeps only the Header of a response keeps nothing else alive: not the request, with
// its body and its context, and no connection.
func TestKeptHeaderKeepsNothingElse(t *testing.T) {
	for _, body := range []io.Reader{nil, strings.NewReader("hello")} {
		client, server := h2test.Pipe()
		peer := h2test.NewPeer(t, server)
		peer.Serve(func(id uint32, _ h2test.Headers) {
			peer.WriteHeaders(id, 0, ":status: 200", "a: 1")
			peer.WriteData(id, wire.EndStream, []byte("hello"))
		})
		conn, err := hyper.NewConn(t.Context(), client, nil)
		if err != nil {
			t.Fatal(err)
		}
		freed := make(chan struct{})
		header := headerOf(t, conn, body, freed)
		waitFreed(t, freed)
		if header.Get("A") != "1" {
			t.Errorf("the header is %v", header)
		}
		conn.Close()
	}
}

// headerOf sends a request, reads the response, and returns its header. freed is closed when the
// collector has freed the request.
func headerOf(t *testing.T, conn *hyper.Conn, body io.Reader, freed chan struct{}) http.Header {
	req, err := http.NewRequest("POST", "https://example.com/", body)
	if err != nil {
		t.Fatal(err)
	}
	runtime.AddCleanup(req, func(freed chan struct{}) { close(freed) }, freed)
	resp, err := conn.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	io.ReadAll(resp.Body)
	resp.Body.Close()
	return resp.Header
}

// waitFreed calls the collector until freed is closed.
func waitFreed(t *testing.T, freed chan struct{}) {
	for range 500 {
		runtime.GC()
		select {
		case <-freed:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Error("the request was not freed")
}
