package hypertest

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A hook is a user's function that RoundTrip calls on its own goroutine.
type hook struct {
	name     string
	status   string // of the peer's response before the hook is called; "": no response
	expect   bool   // the request has Expect: 100-continue
	unsent   bool   // the hook is called before anything is sent
	bodiless bool   // the request has no body
	set      func(trace *httptrace.ClientTrace, f func())
}

// hooks are all such functions.
var hooks = []hook{
	{name: "GetConn", unsent: true, set: func(t *httptrace.ClientTrace,
		f func()) {
		t.GetConn = func(string) { f() }
	}},
	{name: "GotConn", set: func(t *httptrace.ClientTrace,
		f func()) {
		t.GotConn = func(httptrace.GotConnInfo) { f() }
	}},
	{name: "WroteHeaderField", set: func(t *httptrace.ClientTrace,
		f func()) {
		t.WroteHeaderField = func(string, []string) { f() }
	}},
	{name: "WroteHeaders", set: func(t *httptrace.ClientTrace, f func()) { t.WroteHeaders = f }},
	{name: "WroteRequest", bodiless: true, set: func(t *httptrace.ClientTrace,
		f func()) {
		t.WroteRequest = func(httptrace.WroteRequestInfo) { f() }
	}},
	{name: "Wait100Continue", expect: true, set: func(t *httptrace.ClientTrace,
		f func()) {
		t.Wait100Continue = f
	}},
	{name: "GotFirstResponseByte", status: "200", set: func(t *httptrace.ClientTrace,
		f func()) {
		t.GotFirstResponseByte = f
	}},
	{name: "Got1xxResponse", status: "103", set: func(t *httptrace.ClientTrace, f func()) {
		t.Got1xxResponse = func(int, textproto.MIMEHeader) error { f(); return nil }
	}},
	{name: "Got100Continue", status: "100", expect: true,
		set: func(t *httptrace.ClientTrace, f func()) { t.Got100Continue = f }},
	{name: "WithResponse", status: "200"},
	{name: "WithRequest", unsent: true},
}

// errPanic is the value that the hooks panic with.
var errPanic = errors.New("the hook's own panic")

// roundTripPanicking calls RoundTrip on another goroutine, for a hook that panics or calls
// runtime.Goexit. If the hook panics, the result is the panic's value as an error.
func roundTripPanicking(rt http.RoundTripper, req *http.Request) *httpCall {
	return h2test.Go(func() (resp *http.Response, err error) {
		defer func() {
			if v := recover(); v != nil {
				err = v.(error)
			}
		}()
		return rt.RoundTrip(req)
	})
}

// with returns req with the hook h set to f.
func (h *hook) with(req *http.Request, f func()) *http.Request {
	switch h.name {
	case "WithRequest":
		return withRequest(req, func(*hyper.Request) { f() })
	case "WithResponse":
		return req.WithContext(hyper.WithResponse(req.Context(), func(*hyper.Response) { f() }))
	}
	trace := &httptrace.ClientTrace{}
	h.set(trace, f)
	return req.WithContext(httptrace.WithClientTrace(req.Context(), trace))
}

// If a hook does not return, the slot, the stream and the body of its request are released. The
// peer allows one stream, so a slot that is not released would block the next request.
func TestHookThatPanicsGivesBackItsSlot(t *testing.T) {
	endings := map[string]func(){
		"panic":  func() { panic(errPanic) },
		"Goexit": runtime.Goexit,
	}
	for name, end := range endings {
		for i := range hooks {
			h := &hooks[i]
			t.Run(name+"/"+h.name, func(t *testing.T) {
				eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
					// Only Transport and http.Transport call GetConn.
					if !v.own && (h.name != "GetConn" || strings.HasPrefix(v.name, "Transport")) {
						v.panicIn(h, end)
					}
				})
			})
		}
	}
}

// panicIn sends a request whose hook h calls end, and requires that its slot is released.
func (v *visit) panicIn(h *hook, end func()) {
	t := v.t
	first := v.get("/first")
	peer := v.accept(wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1})
	peer.AutoPing()
	peer.Ignore(wire.Data)
	peer.WantHeaders("the first request", 1)
	peer.WriteHeaders(1, wire.EndStream, ":status: 204")
	first.Want(t, "the first response").Body.Close()
	synctest.Wait() // http.Transport pools the connection from now on

	body := &countedBody{Reader: strings.NewReader("hello")}
	req := v.request("POST", "/hook", body)
	if h.bodiless {
		req.Body = nil
		body.Close()
	}
	if h.expect {
		req.Header.Set("Expect", "100-continue")
	}
	call := roundTripPanicking(v.rt, h.with(req, end))
	next := uint32(3)
	if !h.unsent {
		peer.WantHeaders("the request", 3, ":path: /hook")
		if h.status != "" {
			peer.WriteHeaders(3, 0, ":status: "+h.status)
		}
		peer.WantRSTStream("the exchange has no caller any more", 3, wire.Cancel)
		peer.WriteRSTStream(3, wire.Cancel) // the peer no longer counts the stream
		next = 5
	}
	err := call.WantErr(t, "the hook does not return")
	if err != errPanic && err != h2test.ErrExited {
		t.Errorf("RoundTrip ended with %v", err)
	}
	synctest.Wait()
	if n := body.closes.Load(); n != 1 {
		t.Errorf("the body was closed %d times", n)
	}

	last := v.get("/last")
	peer.WantHeaders("the slot is free", next, ":path: /last")
	peer.WriteHeaders(next, wire.EndStream, ":status: 204")
	last.Want(t, "the last response").Body.Close()
}

// A countedBody counts how often it is closed.
type countedBody struct {
	io.Reader
	closes atomic.Int32
}

// Close counts.
func (b *countedBody) Close() error {
	b.closes.Add(1)
	return nil
}

// GetBody is called when a request is sent again after its body was read. If it panics, the slot is
// released.
func TestGetBodyThatPanicsGivesBackItsSlot(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		if !strings.HasPrefix(v.name, "Transport") {
			return // ConfigureTransport leaves GetBody to net/http
		}
		body := &countedBody{Reader: strings.NewReader("hello")}
		req := v.request("POST", "/", body)
		req.GetBody = func() (io.ReadCloser, error) { panic(errPanic) }
		call := roundTripPanicking(v.rt, req)
		peer := v.accept(wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1})
		peer.AutoPing()
		peer.Ignore(wire.Data)
		peer.WantHeaders("the request", 1)
		synctest.Wait()
		peer.WriteRSTStream(1, wire.RefusedStream)
		if err := call.WantErr(t, "GetBody panics"); err != errPanic {
			t.Errorf("RoundTrip ended with %v", err)
		}
		synctest.Wait()
		if n := body.closes.Load(); n != 1 {
			t.Errorf("the body was closed %d times", n)
		}
		last := v.get("/last")
		peer.WantHeaders("the slot is free", 3, ":path: /last")
		peer.WriteHeaders(3, wire.EndStream, ":status: 204")
		last.Want(t, "the last response").Body.Close()
	})
}

// If Read of a body calls runtime.Goexit, as testing's FailNow does, the exchange ends. A panic in
// Read would end the program.
func TestBodyThatEndsItsGoroutineEndsTheStream(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		body := &countedBody{Reader: h2test.ReaderFunc(func([]byte) (int, error) {
			runtime.Goexit()
			return 0,
				nil
		})}
		call := v.send(v.request("POST", "/", body))
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		peer.WantRSTStream("its body will not come", 1, wire.Cancel)
		call.WantErr(t, "no body")
		synctest.Wait()
		if n := body.closes.Load(); n != 1 {
			t.Errorf("the body was closed %d times", n)
		}
	})
}
