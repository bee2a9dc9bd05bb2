package hypertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// withRequest returns req with f added by hyper.WithRequest.
func withRequest(req *http.Request, f func(*hyper.Request)) *http.Request {
	return req.WithContext(hyper.WithRequest(req.Context(), f))
}

// eachHTTPDoor runs test at the doors that take an http.Request.
func eachHTTPDoor(t *testing.T, test func(t *testing.T, v *visit)) {
	t.Helper()
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		if !v.own {
			test(t, v)
		}
	})
}

func TestWithRequestChangesWhatIsSent(t *testing.T) {
	eachHTTPDoor(t, func(t *testing.T, v *visit) {
		var interims []string
		var managed []uint32
		calls := 0
		req := withRequest(v.request("POST", "/", strings.NewReader("hello")), func(r *hyper.Request) {
			calls++
			if r.Method != "POST" || r.Path != "/" {
				t.Errorf("made %+v", r)
			}
			r.Header.Set("priority", "u=1")
			r.Informational = func(status int, _ hyper.Header) error {
				interims = append(interims, fmt.Sprint(status))
				return nil
			}
			r.WindowManager = func(w *hyper.Window) hyper.WindowManager {
				managed = append(managed, w.StreamID())
				return hyper.WindowManagerFunc(func(hyper.WindowEvent) int { return 0 })
			}
		})
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
				interims = append(interims, fmt.Sprintf("trace %d", code))
				return nil
			},
		}))
		call := v.send(req)
		peer := v.accept()
		peer.WantHeaders("the request", 1, "priority: u=1", "content-length: 5")
		peer.WantData("the body", 1, wire.EndStream, 5)
		peer.WriteHeaders(1, 0, ":status: 103")
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		call.Want(t, "the response").Body.Close()
		if want := []string{"trace 103", "103"}; !slices.Equal(interims, want) {
			t.Errorf("interim responses %q, want %q", interims, want)
		}
		if want := []uint32{1}; !slices.Equal(managed, want) || calls != 1 {
			t.Errorf("managers of %v, %d calls", managed, calls)
		}
	})
}

// An error that Informational returns resets the stream, and RoundTrip returns it.
func TestWithRequestsInformationalMayEndTheRequest(t *testing.T) {
	eachHTTPDoor(t, func(t *testing.T, v *visit) {
		call := v.send(withRequest(v.request("GET", "/", nil), func(r *hyper.Request) {
			r.Informational = func(int, hyper.Header) error { return errPanic }
		}))
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 103")
		peer.WantRSTStream("the callback's error", 1, wire.Cancel)
		if err := call.WantErr(t, "the callback's error"); !errors.Is(err, errPanic) {
			t.Error(err)
		}
	})
}

// WithRequest cannot replace the body of the http.Request.
func TestWithRequestLeavesTheBodyAlone(t *testing.T) {
	eachHTTPDoor(t, func(t *testing.T, v *visit) {
		body := &countedBody{Reader: strings.NewReader("hello")}
		req := v.request("POST", "/", body)
		req.ContentLength = 5
		call := v.send(withRequest(req, func(r *hyper.Request) {
			*r = hyper.Request{Method: r.Method, Path: "/other", Scheme: r.Scheme, Authority: r.Authority,
				Body: strings.NewReader("another body"), ContentLength: 12}
		}))
		peer := v.accept()
		peer.WantHeaders("the request", 1, ":path: /other", "content-length: 5")
		peer.WantData("the body", 1, wire.EndStream, 5)
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		call.Want(t, "the response").Body.Close()
		synctest.Wait()
		if n := body.closes.Load(); n != 1 {
			t.Errorf("the body was closed %d times", n)
		}
	})
}

func TestWithRequestsMistakeIsARequestError(t *testing.T) {
	eachHTTPDoor(t, func(t *testing.T, v *visit) {
		first := v.get("/first")
		peer := v.accept()
		peer.WantHeaders("the first request", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		first.Want(t, "the first response").Body.Close()
		synctest.Wait()
		body := &countedBody{Reader: strings.NewReader("hello")}
		_, err := v.rt.RoundTrip(withRequest(v.request("POST", "/", body),
			func(r *hyper.Request) { r.Header.Add("bad name", "") }))
		wantRequestError(t, "a name with a blank", err)
		peer.WantIdle("nothing is sent")
		if n := body.closes.Load(); n != 1 {
			t.Errorf("the body was closed %d times", n)
		}
	})
}

// The functions of WithRequest are called again for each redirect, in the order in which they were
// added.
func TestWithRequestIsCalledForEachRedirect(t *testing.T) {
	eachHTTPDoor(t, func(t *testing.T, v *visit) {
		var calls []string
		add := func(name string) func(*hyper.Request) {
			return func(r *hyper.Request) { calls = append(calls, name+r.Path) }
		}
		req := withRequest(withRequest(v.request("GET", "/a", nil), add("1")), add("2"))
		call := h2test.Go(func() (*http.Response, error) { return (&http.Client{Transport: v.rt}).Do(req) })
		peer := v.accept()
		peer.WantHeaders("the request", 1, ":path: /a")
		peer.WriteHeaders(1, wire.EndStream, ":status: 302", "location: /b")
		peer.WantHeaders("the redirect", 3, ":path: /b")
		peer.WriteHeaders(3, wire.EndStream, ":status: 204")
		call.Want(t, "the response").Body.Close()
		if want := []string{"1/a", "2/a", "1/b", "2/b"}; !slices.Equal(calls, want) {
			t.Errorf("calls %q, want %q", calls, want)
		}
	})
}

// A retry sends the Request as WithRequest has changed it. The function is not called again.
func TestWithRequestIsCalledOnceForRetries(t *testing.T) {
	eachHTTPDoor(t, func(t *testing.T, v *visit) {
		if !strings.HasPrefix(v.name, "Transport") {
			return // no other door sends a request again
		}
		var calls atomic.Int32
		call := v.send(withRequest(v.request("GET", "/", nil), func(r *hyper.Request) {
			calls.Add(1)
			r.Header.Add("x-try", "amended")
		}))
		peer := v.accept()
		peer.WantHeaders("the request", 1, "x-try: amended")
		peer.WriteRSTStream(1, wire.RefusedStream)
		peer.WantHeaders("the retry", 3, "x-try: amended")
		peer.WriteHeaders(3, wire.EndStream, ":status: 204")
		call.Want(t, "the response").Body.Close()
		if n := calls.Load(); n != 1 {
			t.Errorf("called %d times", n)
		}
	})
}

// If the function or a hook panics, a reserved slot is released.
func TestPanicGivesBackAReservedSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, false, siteHandler)
		s.limit(1)
		tr := s.transport()
		if err := hyper.ConfigureTransport(tr, nil); err != nil {
			t.Fatal(err)
		}
		cc, err := tr.NewClientConn(t.Context(), "https", "example.com:443")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the peer's SETTINGS arrive
		free := cc.Available()
		gotConn := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { panic(errPanic) }}
		for name, ctx := range map[string]context.Context{
			"WithRequest": hyper.WithRequest(t.Context(), func(*hyper.Request) { panic(errPanic) }),
			"GotConn":     httptrace.WithClientTrace(t.Context(), gotConn),
		} {
			if err := cc.Reserve(); err != nil {
				t.Fatal(err)
			}
			body, w := io.Pipe()
			req, _ := http.NewRequestWithContext(ctx, "POST", s.url("example.com", "/upload"), body)
			if err := roundTripPanicking(cc, req).WantErr(t, "a panic"); err != errPanic {
				t.Error(err)
			}
			if name == "WithRequest" && (cc.InFlight() != 0 || cc.Available() != free) {
				t.Errorf("%d in flight, %d available, %d before", cc.InFlight(), cc.Available(), free)
			}
			if _, err := w.Write([]byte("late")); err != io.ErrClosedPipe {
				t.Errorf("%s: writing to the body: %v", name, err)
			}
			if got := s.get(cc, "/"); got != answered {
				t.Errorf("%s: the next request: %s", name, got)
			}
		}
		cc.Close()
		s.server.Close()
	})
}

// A request over HTTP/1.1 has no hyper.Request, so WithRequest does not change it.
func TestWithRequestDoesNotChangeRequestsOverHTTP1(t *testing.T) {
	var got *http.Request
	tr := &hyper.Transport{Proxy: hyper.NoProxy,
		Fallback: h2test.RoundTripFunc(func(req *http.Request) (*http.Response, error) {
			got = req
			return &http.Response{StatusCode: 204, Body: io.NopCloser(strings.NewReader(""))}, nil
		}), Config: &hyper.Config{DialContext: func(context.Context, string, string) (net.Conn,
			error) {
			return nil, errNoDial
		}}}
	req, _ := http.NewRequest("GET", "http://example.com/", nil)
	resp, err := tr.RoundTrip(withRequest(req, func(r *hyper.Request) { r.Header.Add("x", "y") }))
	if err != nil || resp.StatusCode != 204 || got.Header.Get("x") != "" {
		t.Errorf("got %v, %v", resp, err)
	}
}
