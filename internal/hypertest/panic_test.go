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
	"gohyper.dev/hyper/internal/wire"
)

// A hook is code of the user's that RoundTrip runs on its own goroutine.
type hook struct {
	name   string
	status string // the peer answers with it before the hook is called; "": the peer is silent
	expect bool   // the request has Expect: 100-continue
	unsent bool   // the hook is called before anything is sent
	noBody bool   // the request has no body
	set    func(trace *httptrace.ClientTrace, f func())
}

var hooks = []hook{
	{name: "GetConn", unsent: true, set: func(t *httptrace.ClientTrace, f func()) { t.GetConn = func(string) { f() } }},
	{name: "GotConn", set: func(t *httptrace.ClientTrace, f func()) { t.GotConn = func(httptrace.GotConnInfo) { f() } }},
	{name: "WroteHeaderField", set: func(t *httptrace.ClientTrace, f func()) { t.WroteHeaderField = func(string, []string) { f() } }},
	{name: "WroteHeaders", set: func(t *httptrace.ClientTrace, f func()) { t.WroteHeaders = f }},
	{name: "WroteRequest", noBody: true, set: func(t *httptrace.ClientTrace, f func()) { t.WroteRequest = func(httptrace.WroteRequestInfo) { f() } }},
	{name: "Wait100Continue", expect: true, set: func(t *httptrace.ClientTrace, f func()) { t.Wait100Continue = f }},
	{name: "GotFirstResponseByte", status: "200", set: func(t *httptrace.ClientTrace, f func()) { t.GotFirstResponseByte = f }},
	{name: "Got1xxResponse", status: "103", set: func(t *httptrace.ClientTrace, f func()) {
		t.Got1xxResponse = func(int, textproto.MIMEHeader) error { f(); return nil }
	}},
	{name: "Got100Continue", status: "100", expect: true, set: func(t *httptrace.ClientTrace, f func()) { t.Got100Continue = f }},
	{name: "WithResponse", status: "200"},
	{name: "WithRequest", unsent: true},
}

var errPanic = errors.New("the hook's own panic")

// roundTripPanicking is RoundTrip for a hook that panics, or ends its goroutine. The error is the
// panic's value.
func roundTripPanicking(rt http.RoundTripper, req *http.Request) *async[*http.Response] {
	a := &async[*http.Response]{done: make(chan struct{})}
	go func() {
		defer close(a.done)
		defer func() {
			if v := recover(); v != nil {
				a.err = v.(error)
			}
		}()
		a.err = errors.New("the goroutine ended")
		a.value, a.err = rt.RoundTrip(req)
	}()
	return a
}

// with returns req with h set to call f.
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

// A hook that does not return gives back what its request had: the slot, the stream, the body. One
// slot is all there is.
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
					// GetConn is Transport's and http.Transport's to call.
					if !v.own && (h.name != "GetConn" || strings.HasPrefix(v.name, "Transport")) {
						v.panicIn(h, end)
					}
				})
			})
		}
	}
}

func (v *visit) panicIn(h *hook, end func()) {
	t := v.t
	first := v.get("/first")
	peer := v.accept(wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1})
	peer.AutoPing()
	peer.Ignore(wire.Data)
	peer.WantHeaders("the first request", 1)
	peer.WriteHeaders(1, wire.EndStream, ":status: 204")
	first.want(t, "the first response").Body.Close()
	synctest.Wait() // http.Transport keeps the connection from now on

	body := &countedBody{Reader: strings.NewReader("hello")}
	req := v.request("POST", "/hook", body)
	if h.noBody {
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
		peer.WriteRSTStream(3, wire.Cancel) // it does not count the stream any more
		next = 5
	}
	err := call.wantErr(t, "the hook does not return")
	if err != errPanic && err.Error() != "the goroutine ended" {
		t.Errorf("RoundTrip ended with %v", err)
	}
	synctest.Wait()
	if n := body.closes.Load(); n != 1 {
		t.Errorf("the body was closed %d times", n)
	}

	last := v.get("/last")
	peer.WantHeaders("the slot is free", next, ":path: /last")
	peer.WriteHeaders(next, wire.EndStream, ":status: 204")
	last.want(t, "the last response").Body.Close()
}

// A countedBody counts how often it is closed.
type countedBody struct {
	io.Reader
	closes atomic.Int32
}

func (b *countedBody) Close() error {
	b.closes.Add(1)
	return nil
}

// GetBody is called where a request is sent again and its body was read.
func TestGetBodyThatPanicsGivesBackItsSlot(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		if !strings.HasPrefix(v.name, "Transport") {
			return // no other door calls it: ConfigureTransport leaves that to net/http
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
		if err := call.wantErr(t, "GetBody panics"); err != errPanic {
			t.Errorf("RoundTrip ended with %v", err)
		}
		synctest.Wait()
		if n := body.closes.Load(); n != 1 {
			t.Errorf("the body was closed %d times", n)
		}
		last := v.get("/last")
		peer.WantHeaders("the slot is free", 3, ":path: /last")
		peer.WriteHeaders(3, wire.EndStream, ":status: 204")
		last.want(t, "the last response").Body.Close()
	})
}

// A body whose Read ends its goroutine, as testing's FailNow does, ends the exchange; a panic there
// ends the program.
func TestBodyThatEndsItsGoroutineEndsTheStream(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		body := &countedBody{Reader: readerFunc(func([]byte) (int, error) { runtime.Goexit(); return 0, nil })}
		call := v.send(v.request("POST", "/", body))
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		peer.WantRSTStream("its body will not come", 1, wire.Cancel)
		call.wantErr(t, "no body")
		synctest.Wait()
		if n := body.closes.Load(); n != 1 {
			t.Errorf("the body was closed %d times", n)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
