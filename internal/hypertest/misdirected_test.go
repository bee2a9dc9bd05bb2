// This file tests 421 (Misdirected Request).

package hypertest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A onceBody is a body that can be read only once. It counts how often it is closed.
type onceBody struct {
	io.Reader
	closes int
}

// Close counts.
func (b *onceBody) Close() error { b.closes++; return nil }

// RFC 9110 §15.5.20: a request with a 421 response may be sent again on another connection, even if
// its method is not idempotent.
func TestMisdirectedRequestIsSentOnceMoreOnItsOwnConnection(t *testing.T) {
	getBody := func(req *http.Request) {
		req.ContentLength = 4
		req.GetBody = func() (io.ReadCloser, error) {
			return &onceBody{Reader: strings.NewReader("body")},
				nil
		}
	}
	for name, row := range map[string]struct {
		method string
		body   func() io.Reader
		change func(*http.Request)
	}{
		"GET":       {method: "GET"},
		"in memory": {method: "POST", body: func() io.Reader { return strings.NewReader("body") }},
		"in memory, without GetBody": {
			method: "POST",
			body:   func() io.Reader { return strings.NewReader("body") },
			change: func(r *http.Request) { r.GetBody = nil },
		},
		"GetBody": {
			method: "POST",
			body:   func() io.Reader { return &onceBody{Reader: strings.NewReader("body")} },
			change: getBody,
		},
	} {
		t.Run(name, func(t *testing.T) {
			inEstate(t, func(t *testing.T, e *estate) {
				first := e.first()
				var body io.Reader
				if row.body != nil {
					body = row.body()
				}
				req := e.request(row.method, "https://two.test/", body)
				if row.change != nil {
					row.change(req)
				}
				call := e.send(req)
				first.WantHeaders("on the other host's connection", 3)
				if body != nil {
					first.WantBody("with its body", 3, []byte("body"))
				}
				first.Batch(func() {
					first.WriteHeaders(3, 0, ":status: 421")
					first.WriteData(3, wire.EndStream, []byte("misdirected"))
				})
				own := e.accept()
				own.WantHeaders("again", 1, ":authority: two.test", ":method: "+row.method)
				if body != nil {
					own.WantBody("with its body", 1, []byte("body"))
				}
				own.respond(1, "204")
				resp := call.Want(t, "the response")
				if resp.StatusCode != 204 || resp.Request != req {
					t.Errorf("status %d, of %v", resp.StatusCode, resp.Request)
				}
				if b, ok := body.(*onceBody); ok {
					if synctest.Wait(); b.closes != 1 {
						t.Errorf("the body was closed %d times", b.closes)
					}
				}
				e.wantNotShared(first, own)
			})
		})
	}
}

// wantNotShared requires that two.test does not use the connection of one.test, even when its own
// connection, that of the peer own, has ended. Other hosts still share the connection.
func (e *estate) wantNotShared(first, own *accepted) {
	e.t.Helper()
	own.Close()
	synctest.Wait()
	call := e.get("https://two.test/")
	own = e.accept()
	own.WantHeaders("on its own connection at once", 1, ":authority: two.test")
	own.respond(1, "204")
	call.Want(e.t, "the response").Body.Close()
	first.WantIdle("a 421 is remembered")
	own.Close()
	synctest.Wait()
	call = e.get("https://a.wild.test/")
	first.WantHeaders("it is for the one host only", 5, ":authority: a.wild.test")
	first.respond(5, "204")
	call.Want(e.t, "the response").Body.Close()
	e.wantDials("in all", "one.test:443", "two.test:443", "two.test:443")
}

// An empty port means the default port (RFC 3986 §6.2.3).
func TestMisdirectedRequestWithAnEmptyPort(t *testing.T) {
	inEstate(t, func(t *testing.T, e *estate) {
		first := e.first()
		req := e.request("GET", "https://two.test/", nil)
		req.URL.Host, req.Host = "two.test:", ""
		call := e.send(req)
		first.WantHeaders("on the other host's connection", 3, ":authority: two.test:")
		first.respond(3, "421")
		own := e.accept()
		own.WantHeaders("again", 1, ":authority: two.test:")
		own.respond(1, "204")
		call.Want(t, "the response").Body.Close()
		e.wantNotShared(first, own)
	})
}

func TestSecondMisdirectedResponseIsReturned(t *testing.T) {
	inEstate(t, func(t *testing.T, e *estate) {
		first := e.first()
		call := e.get("https://two.test/")
		first.WantHeaders("on the other host's connection", 3)
		first.respond(3, "421")
		own := e.accept()
		own.WantHeaders("again", 1)
		own.WriteHeaders(1, 0, ":status: 421")
		own.WriteData(1, wire.EndStream, []byte("misdirected"))
		resp := call.Want(t, "the response")
		if resp.StatusCode != 421 {
			t.Errorf("status %d", resp.StatusCode)
		}
		h2test.WantBody(t, "it is whole", resp.Body, "misdirected")
		resp.Body.Close()
		e.wantDials("no third try", "one.test:443", "two.test:443")
	})
}

// If the body cannot be sent again, RoundTrip returns the 421 response.
func TestMisdirectedRequestWhoseBodyIsGoneIsNotSentAgain(t *testing.T) {
	for name, getBody := range map[string]func() (io.ReadCloser, error){
		"no GetBody":    nil,
		"GetBody fails": func() (io.ReadCloser, error) { return nil, errors.New("the file is gone") },
	} {
		t.Run(name, func(t *testing.T) {
			inEstate(t, func(t *testing.T, e *estate) {
				first := e.first()
				body := &onceBody{Reader: strings.NewReader("body")}
				req := e.request("POST", "https://two.test/", body)
				req.GetBody = getBody
				call := e.send(req)
				first.WantHeaders("on the other host's connection", 3)
				first.WantBody("with its body", 3, []byte("body"))
				first.WriteHeaders(3, 0, ":status: 421")
				first.WriteData(3, wire.EndStream, []byte("misdirected"))
				resp := call.Want(t, "the response")
				if resp.StatusCode != 421 {
					t.Errorf("status %d", resp.StatusCode)
				}
				h2test.WantBody(t, "it is whole", resp.Body, "misdirected")
				resp.Body.Close()
				if synctest.Wait(); body.closes != 1 {
					t.Errorf("the body was closed %d times", body.closes)
				}
				e.wantDials("one", "one.test:443")
			})
		})
	}
}

// An upload that is in progress continues if the 421 response is returned, and ends if the request
// is sent again.
func TestMisdirectedUploadInProgress(t *testing.T) {
	for _, again := range []bool{false, true} {
		inEstate(t, func(t *testing.T, e *estate) {
			first := e.first()
			r, w := io.Pipe()
			req := e.request("POST", "https://two.test/", r)
			if again {
				req.GetBody = func() (io.ReadCloser, error) {
					return io.NopCloser(strings.NewReader("again")),
						nil
				}
			}
			call := e.send(req)
			first.WantHeaders("on the other host's connection", 3)
			go w.Write([]byte("part"))
			first.WantData("a part of the body", 3, 0, 4)
			first.WriteHeaders(3, 0, ":status: 421")
			if again {
				first.WantRSTStream("the try is over", 3, wire.Cancel)
				own := e.accept()
				own.WantHeaders("again", 1)
				own.WantBody("with the new body", 1, []byte("again"))
				own.respond(1, "204")
				call.Want(t, "the response").Body.Close()
				if _, err := w.Write([]byte("late")); err != io.ErrClosedPipe {
					t.Errorf("writing to the old body: %v", err)
				}
				return
			}
			resp := call.Want(t, "the response")
			go func() { w.Write([]byte("rest")); w.Close() }()
			first.WantData("the upload goes on", 3, 0, 4)
			first.WantData("to its end", 3, wire.EndStream, 0)
			first.WriteData(3, wire.EndStream, nil)
			h2test.WantBody(t, "its response", resp.Body, "")
			resp.Body.Close()
		})
	}
}

// A panic of GetBody reaches the caller and leaves no state.
func TestPanicOfGetBodyAfterMisdirectedRequest(t *testing.T) {
	inEstate(t, func(t *testing.T, e *estate) {
		first := e.first()
		req := e.request("POST", "https://two.test/", &onceBody{Reader: strings.NewReader("body")})
		req.GetBody = func() (io.ReadCloser, error) { panic("mine") }
		call := h2test.Go(func() (resp *http.Response, err error) {
			defer func() {
				if recover() == "mine" {
					err = errors.New("panicked")
				}
			}()
			return e.tr.RoundTrip(req)
		})
		first.WantHeaders("on the other host's connection", 3)
		first.WantBody("with its body", 3, []byte("body"))
		first.WriteHeaders(3, 0, ":status: 421")
		if err := call.WantErr(t, "GetBody panics"); err.Error() != "panicked" {
			t.Error(err)
		}
		first.WantRSTStream("the exchange is over", 3, wire.Cancel)
	})
}

// RoundTrip returns a 421 response if the connection was made for the request's own host, as
// net/http does.
func TestMisdirectedResponseOnItsOwnConnectionIsReturned(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		call := v.get("/")
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		if v.name == "Open" {
			peer.WantData("the end of the request", 1, wire.EndStream, 0)
		}
		peer.respond(1, "421")
		resp := call.Want(t, "the response")
		if resp.StatusCode != 421 {
			t.Errorf("status %d", resp.StatusCode)
		}
		resp.Body.Close()
		synctest.Wait()
		if n := v.dialed(); n != 0 {
			t.Errorf("%d more connections", n)
		}
		peer.WantIdle("nothing more")
	})
}

// An attempt on a connection that was made for another host counts as an attempt: the request is
// sent three times at most. Its error does not say that the request was not processed, even if the
// last attempt could not reach the host.
func TestLostTryOnASharedConnectionCounts(t *testing.T) {
	for name, down := range map[string]bool{"sent again": false, "no connection": true} {
		t.Run(name, func(t *testing.T) {
			inEstate(t, func(t *testing.T, e *estate) {
				refused := errors.New("connection refused")
				e.tr.Config.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					if down && addr == "two.test:443" {
						return nil, refused
					}
					return e.dial(ctx, network, addr)
				}
				first := e.get("https://one.test/")
				peer := e.accept()
				peer.WantHeaders("the first request", 1)
				peer.respond(1, "204")
				first.Want(t, "the first request")
				second := e.get("https://two.test/")
				peer.WantHeaders("on the shared connection", 3)
				peer.Close()
				for range 2 {
					if !down {
						peer = e.accept()
						peer.WantHeaders("sent again", 1)
						peer.Close()
					}
				}
				err := second.WantErr(t, "no fourth try")
				var lost *hyper.ConnError
				if hyper.Retryable(err) || !errors.As(err, &lost) || errors.Is(err, refused) != down {
					t.Errorf("the error is %v", err)
				}
				if n := len(e.peers); n > 0 {
					t.Errorf("%d more connections", n)
				}
			})
		})
	}
}
