package hypertest

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// The error types of golang.org/x/net/http2, which this module's tests do not import. Programs look
// for them by value with errors.As.
type (
	GoAwayError struct {
		LastStreamID uint32
		ErrCode      xnetCode
		DebugData    string
	}
	ConnectionError xnetCode
	StreamError     struct {
		StreamID uint32
		Code     xnetCode
		Cause    error
	}
	xnetCode uint32
)

func (GoAwayError) Error() string     { return "" }
func (ConnectionError) Error() string { return "" }
func (StreamError) Error() string     { return "" }

// contains returns a predicate: the error's text contains one of parts.
func contains(parts ...string) func(error) bool {
	return func(err error) bool {
		for _, part := range parts {
			if strings.Contains(err.Error(), part) {
				return true
			}
		}
		return false
	}
}

// unwrapsTo reports whether err leads to target by Unwrap methods that return a single error. Some
// programs follow only those.
func unwrapsTo(err, target error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if err == target {
			return true
		}
	}
	return false
}

// predicates are the ways in which programs recognize the errors of net/http: the clients of
// Kubernetes and of Google, Tekton, command-line tools and gateways.
var predicates = map[string]func(error) bool{
	"the connection is lost":       contains("http2: client connection lost"),
	"the connection is going away": contains("http2: server sent GOAWAY and closed the connection"),
	"any GOAWAY":                   contains("GOAWAY"),
	"the server shuts down":        contains("http2: Transport received Server's graceful shutdown GOAWAY"),
	"the code of a GOAWAY":         contains("ErrCode=ENHANCE_YOUR_CALM"),
	"too many PINGs":               contains(`debug="too_many_pings"`),
	"an unexpected end":            contains("EOF"),
	"an unexpected end, unwrapped": func(err error) bool { return unwrapsTo(err, io.ErrUnexpectedEOF) },
	"an unexpected end, errors.Is": func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) },
	"a reset": func(err error) bool {
		return strings.HasPrefix(err.Error(),
			"stream error: ")
	},
	"a reset by the peer": func(err error) bool {
		return strings.HasSuffix(err.Error(),
			"; received from peer")
	},
	"a reset of an unknown code": contains("unknown error code 0x"),
	"a reset, by type":           is[StreamError],
	"the header takes too long":  contains("timeout awaiting response headers"),
	"a time is exceeded": func(err error) bool {
		var ne net.Error
		return errors.As(err, &ne) &&
			ne.Timeout()
	},
	"a watch is probably at its end": contains("http2: server sent GOAWAY and closed the connection",
		"connection reset by peer"),
}

// failures are the ways in which a response is missing or incomplete.
var failures = []struct {
	name string
	set  func(tr *http.Transport)
	run  func(v *visit, peer *accepted, call *httpCall) error
	text bool // hyper's text contains all of net/http's text
}{
	{name: "no response to PING", text: true, run: func(_ *visit, _ *accepted,
		call *httpCall) error {
		return failure(call)
	}},
	{name: "GOAWAY, then the end", text: true, run: func(_ *visit, peer *accepted,
		call *httpCall) error {
		peer.WriteGoAway(1, wire.EnhanceYourCalm, "too_many_pings")
		peer.Close()
		return failure(call)
	}},
	{name: "GOAWAY of an unknown code, then the end", text: true,
		run: func(_ *visit, peer *accepted, call *httpCall) error {
			peer.WriteGoAway(1, wire.ErrCode(0xbad), "")
			peer.Close()
			return failure(call)
		}},
	{name: "GOAWAY in the body, then the end", text: true,
		run: func(_ *visit, peer *accepted, call *httpCall) error {
			peer.WriteHeaders(1, 0, ":status: 200")
			peer.WriteGoAway(1, wire.NoError, "")
			peer.Close()
			return failure(call)
		}},
	{name: "GOAWAY, then silence", text: true, run: func(_ *visit, peer *accepted,
		call *httpCall) error {
		peer.WriteGoAway(1, wire.NoError, "")
		return failure(call)
	}},
	{name: "the end", text: true, run: func(_ *visit, peer *accepted, call *httpCall) error {
		peer.Close()
		return failure(call)
	}},
	{name: "the end in the body", text: true, run: func(_ *visit, peer *accepted,
		call *httpCall) error {
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.Close()
		return failure(call)
	}},
	{name: "reset", text: true, run: func(_ *visit, peer *accepted, call *httpCall) error {
		peer.WriteRSTStream(1, wire.InternalError)
		return failure(call)
	}},
	{name: "reset with an unknown code", text: true,
		run: func(_ *visit, peer *accepted, call *httpCall) error {
			peer.WriteRSTStream(1, wire.ErrCode(0xbad))
			return failure(call)
		}},
	{name: "GOAWAY below an upload", run: func(v *visit, peer *accepted, call *httpCall) error {
		req := v.request("POST", "/", io.MultiReader(strings.NewReader("cannot be had again")))
		upload := v.send(req)
		peer.WantHeaders("the upload", 3)
		synctest.Wait()
		peer.WriteGoAway(1, wire.NoError, "")
		defer peer.Close()
		return failure(upload)
	}},
}

// failure waits for a response and returns why it is missing or incomplete.
func failure(call *httpCall) error {
	resp, err := call.Wait()
	if err != nil {
		return err
	}
	_, err = io.ReadAll(resp.Body)
	return err
}

// netHTTP is net/http's own HTTP/2, with the timeouts of hyper's defaults.
var netHTTP = door{name: "net/http", enter: func(t *testing.T, dial dialFunc,
	cfg hyper.Config) http.RoundTripper {
	tr := &http.Transport{DialContext: dial, TLSClientConfig: clientTLS(&cfg), ForceAttemptHTTP2: true,
		HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second}}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}}

// A program that recognizes an error of net/http also recognizes hyper's error at every door.
func TestProgramsRecognizeFailures(t *testing.T) {
	for _, f := range failures {
		t.Run(f.name, func(t *testing.T) {
			through := func(t *testing.T, d door) (err error) {
				synctest.Test(t, func(t *testing.T) {
					v := visitDoor(t, d, hyper.Config{})
					call := v.sendOnce("/")
					peer := v.accept()
					peer.WantHeaders("the request", 1)
					peer.Ignore(wire.Ping, wire.RSTStream, wire.GoAway, wire.WindowUpdate, wire.Data)
					err = f.run(v, peer, call)
				})
				return err
			}
			theirs := through(t, netHTTP)
			t.Logf("net/http: %v", theirs)
			for _, d := range doors {
				t.Run(d.name, func(t *testing.T) {
					ours := through(t, d)
					if ours == nil || theirs == nil {
						t.Fatalf("got %v, and with net/http %v", ours, theirs)
					}
					t.Logf("%v", ours)
					if f.text && !d.own && !strings.Contains(ours.Error(), theirs.Error()) {
						t.Errorf("%q does not contain %q", ours, theirs)
					}
					for name, holds := range predicates {
						if d.own && strings.HasPrefix(name, "a reset") {
							continue // only RoundTrip translates these texts
						}
						wrapped := &url.Error{Op: "Get", URL: "https://example.com", Err: ours}
						if holds(theirs) && !(holds(ours) &&
							(holds(wrapped) || strings.HasPrefix(name, "a reset"))) {
							t.Errorf("%q: %v, which net/http's error is: %v", name, ours, theirs)
						}
					}
				})
			}
		})
	}
}

// errors.As finds the error types of golang.org/x/net/http2.
func TestErrorsAreThoseOfXNetForErrorsAs(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		call := v.get("/")
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		peer.WriteGoAway(1, wire.EnhanceYourCalm, "calm")
		peer.Close()
		err := failure(call)
		var goAway GoAwayError
		if !errors.As(err, &goAway) || goAway != (GoAwayError{1, xnetCode(wire.EnhanceYourCalm), "calm"}) {
			t.Errorf("%v is %+v", err, goAway)
		}
		var code hyper.ErrCode
		if !errors.As(err, &code) || code != hyper.ErrCodeEnhanceYourCalm {
			t.Errorf("%v has the code %v", err, code)
		}
		if is[ConnectionError](err) || is[StreamError](err) {
			t.Errorf("%v has a type that it should not have", err)
		}

		call = v.get("/")
		if v.own || strings.HasPrefix(v.name, "ConnRoundTrip") {
			return // the door has a single connection
		}
		peer = v.accept()
		peer.WantHeaders("the second request", 1)
		peer.Ignore(wire.GoAway)
		peer.WriteWindowUpdate(0, 0)
		err = failure(call)
		var broken ConnectionError
		if !errors.As(err, &broken) || broken != ConnectionError(wire.ProtocolError) {
			t.Errorf("%v is %v", err, broken)
		}
		if is[GoAwayError](err) || is[StreamError](err) {
			t.Errorf("%v has a type that it should not have", err)
		}
	})
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		call := v.get("/")
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		peer.Ignore(wire.Data, wire.RSTStream)
		peer.WriteRSTStream(1, wire.InternalError)
		err := failure(call)
		var reset StreamError
		if !errors.As(err, &reset) || reset.StreamID != 1 || reset.Code != xnetCode(wire.InternalError) ||
			reset.Cause == nil {
			t.Errorf("%v is %+v", err, reset)
		}
		if is[GoAwayError](err) || is[ConnectionError](err) {
			t.Errorf("%v has a type that it should not have", err)
		}
		var other struct{ StreamError } // errors.As does not set other types
		if errors.As(err, &other) {
			t.Errorf("%v is %+v", err, other)
		}
	})
}

// A callError is a program's own error. It has as many fields as an error type of
// golang.org/x/net/http2.
type callError struct {
	*hyper.StreamError
	Op, Path string
}

func (e callError) Error() string { return e.Op + " " + e.Path }

// A goneError is another error of that kind.
type goneError struct {
	*hyper.ConnError
	Op, Path string
}

func (e goneError) Error() string { return e.Op + " " + e.Path }

// errors.As does not set a program's own error type that embeds one of hyper's.
func TestErrorsAreNotTakenForThoseThatEmbedThem(t *testing.T) {
	for range 20 {
		if err := error(&hyper.StreamError{StreamID: 1}); is[callError](err) {
			t.Fatalf("%v is taken for a callError", err)
		}
		if err := lostToGoAway(t); is[goneError](err) {
			t.Fatalf("%v is taken for a goneError", err)
		}
	}
}

// lostToGoAway returns the error of a connection that the peer has ended with GOAWAY.
func lostToGoAway(t *testing.T) (err error) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.WriteGoAway(0, wire.EnhanceYourCalm, "")
		<-conn.Done()
		err = conn.Err()
	})
	return err
}
