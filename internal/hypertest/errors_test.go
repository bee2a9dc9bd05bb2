package hypertest

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// peerAddr is the address of the peer at the other end of a pipe of h2test.
const peerAddr = "192.0.2.2:443"

// A wantedError is what an error must satisfy at every door.
type wantedError struct {
	text      string // a substring of its text
	is, not   []error
	conn      bool // the error is that of a connection or a dial, so it names the peer
	timeout   bool
	retryable bool
}

// check checks err, which was returned at a door, against w. own is that of the door: other doors
// may return errors in net/http's form, with net/http's prefix.
func (w wantedError) check(t *testing.T, err error, own bool) {
	t.Helper()
	if err == nil {
		t.Fatal("there is no error")
	}
	checkErrorType(t, err)
	text := err.Error()
	var begins string
	var op *net.OpError
	switch {
	case !own && strings.HasPrefix(text, "stream error: stream ID "):
	case !own && errors.As(err, &op) && err == error(op):
	default:
		begins = "hyper: "
	}
	if !strings.HasPrefix(text, begins) || strings.Count(text, "hyper: ") != min(1, len(begins)) {
		t.Errorf("%q does not have its prefix once, at its beginning", text)
	}
	if !strings.Contains(text, w.text) {
		t.Errorf("%q does not say %q", text, w.text)
	}
	if strings.ContainsAny(text, "\n\r") {
		t.Errorf("%q has more than one line", text)
	}
	if w.conn && !strings.Contains(text, peerAddr) {
		t.Errorf("%q does not name the peer's address", text)
	}
	for _, target := range w.is {
		if !errors.Is(err, target) {
			t.Errorf("%v is not %v", err, target)
		}
	}
	for _, target := range w.not {
		if errors.Is(err, target) {
			t.Errorf("%v is %v", err, target)
		}
	}
	var ne net.Error
	if timeout := errors.As(err, &ne) && ne.Timeout(); timeout != w.timeout {
		t.Errorf("%v: Timeout is %v", err, timeout)
	}
	if got := hyper.Retryable(err); got != w.retryable {
		t.Errorf("%v: Retryable is %v", err, got)
	}
}

// An errorCase is one kind of error on a connection that was made. run is called when the peer has
// read the request.
type errorCase struct {
	name string
	cfg  hyper.Config
	only func(v *visit) bool // the doors at which the error can occur; nil: all
	run  func(t *testing.T, v *visit, peer *accepted, call *httpCall) error
	want wantedError
	as   func(err error) bool
}

// is reports whether err wraps an error of type T.
func is[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

// by returns a case's run function: the peer calls write, and RoundTrip must fail.
func by(write func(peer *accepted)) func(*testing.T, *visit, *accepted, *httpCall) error {
	return func(t *testing.T, _ *visit, peer *accepted, call *httpCall) error {
		write(peer)
		return call.WantErr(t, "no response")
	}
}

// inBody returns a case's run function: the response has the given fields and body, and either
// RoundTrip or reading the body must fail.
func inBody(body string, fields ...string) func(*testing.T, *visit, *accepted, *httpCall) error {
	return func(_ *testing.T, v *visit, peer *accepted, call *httpCall) error {
		peer.WriteHeaders(1, 0, append([]string{":status: 200"}, fields...)...)
		peer.WriteData(1, wire.EndStream, []byte(body))
		return readError(v, call)
	}
}

// readError reads a response to its end and returns the error. At the doors of hyper's own API it
// reads hyper's own body.
func readError(v *visit, call *httpCall) error {
	resp, err := call.Wait()
	if err != nil {
		return err
	}
	body := resp.Body
	if own, ok := hyper.ResponseFromHTTP(resp); ok && v.own {
		body = own.Body
	}
	_, err = io.ReadAll(body)
	return err
}

// ownDoors reports whether the door belongs to hyper's own API.
func ownDoors(v *visit) bool { return v.own }

// misbehaving returns a window manager that panics when data arrives, on a stream or, if connection
// is true, on the connection.
func misbehaving(connection bool) hyper.WindowManagerFactory {
	return func(w *hyper.Window) hyper.WindowManager {
		return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
			if ev.Kind == hyper.WindowData && connection == (w.StreamID() == 0) {
				panic("out of paint")
			}
			return 0
		})
	}
}

// shutWindow is a window manager that never grants credit.
func shutWindow(*hyper.Window) hyper.WindowManager {
	return hyper.WindowManagerFunc(func(hyper.WindowEvent) int { return 0 })
}

// errorCases are the cases of TestEveryErrorThroughEveryDoor.
var errorCases = []errorCase{
	{name: "StreamError/Reset", run: by(func(p *accepted) { p.WriteRSTStream(1, wire.InternalError) }),
		want: wantedError{text: "INTERNAL_ERROR", is: []error{hyper.ErrCodeInternal},
			not: []error{hyper.ErrCodeCancel}}, as: is[*hyper.StreamError]},
	{name: "StreamError/Refused", only: ownDoors, run: by(func(p *accepted) {
		p.WriteRSTStream(1,
			wire.RefusedStream)
	}),
		want: wantedError{text: "stream 1: peer reset: REFUSED_STREAM",
			is: []error{hyper.ErrCodeRefusedStream}, retryable: true}, as: is[*hyper.StreamError]},
	{name: "StreamError/AboveGoAway", only: ownDoors,
		run: by(func(p *accepted) { p.WriteGoAway(0, wire.EnhanceYourCalm, "slow") }),
		want: wantedError{text: `stream 1: not processed: connection to `,
			is: []error{hyper.ErrCodeEnhanceYourCalm}, conn: true, retryable: true},
		as: is[*hyper.ConnError]},
	{name: "MalformedError", run: by(func(p *accepted) { p.WriteHeaders(1, 0, "no: status") }),
		want: wantedError{text: "malformed message: ", is: []error{hyper.ErrCodeProtocol}},
		as:   is[*hyper.MalformedError]},
	{name: "MalformedError/Body", run: inBody("too long", "content-length: 3"),
		want: wantedError{text: "the body is longer than its content-length",
			is: []error{hyper.ErrCodeProtocol}}, as: is[*hyper.MalformedError]},
	{name: "DecodeError", run: inBody("\x1f\x8b\x08nonsense", "content-encoding: gzip"),
		want: wantedError{text: "body: gzip: ", is: []error{io.ErrUnexpectedEOF}},
		as:   is[*hyper.DecodeError]},
	{name: "UnsupportedCodingError", only: ownDoors,
		run: func(t *testing.T, _ *visit, peer *accepted, call *httpCall) error {
			peer.WriteHeaders(1, wire.EndStream, ":status: 200", "content-encoding: quux")
			resp, _ := hyper.ResponseFromHTTP(call.Want(t, "the response"))
			_, err := resp.Body.Read(make([]byte, 1))
			return err
		}, want: wantedError{text: `unsupported content coding "quux"`},
		as: is[*hyper.UnsupportedCodingError]},
	{name: "DecodeLimitError", cfg: hyper.Config{MaxDecodedSize: 1},
		run:  inBody(gzipped("hello"), "content-encoding: gzip"),
		want: wantedError{text: "body: more than 1 bytes decoded"}, as: is[*hyper.DecodeLimitError]},
	{name: "WindowManagerError/Stream", cfg: hyper.Config{WindowManager: misbehaving(false)},
		run: inBody("hello"),
		want: wantedError{text: "window manager of stream 1 panicked at Data: out of paint",
			is: []error{hyper.ErrCodeInternal}},
		as: func(err error) bool {
			var m *hyper.WindowManagerError
			return errors.As(err, &m) && bytes.Contains(m.Stack, []byte("misbehaving"))
		}},
	{name: "WindowManagerError/Connection", cfg: hyper.Config{WindowManager: misbehaving(true)},
		run: inBody("hello"),
		want: wantedError{text: "window manager of the connection panicked at Data: out of paint",
			is: []error{hyper.ErrCodeInternal}, conn: true},
		as: func(err error) bool {
			var m *hyper.WindowManagerError
			return errors.As(err, &m) && bytes.Contains(m.Stack, []byte("misbehaving")) &&
				is[*hyper.ConnError](err)
		}},
	{name: "ErrWindowStalled", cfg: hyper.Config{WindowManager: shutWindow, InitialStreamWindow: -1,
		WindowBlockedTimeout: time.Second, KeepAlive: -1},
		run: func(_ *testing.T, v *visit, peer *accepted, call *httpCall) error {
			peer.WriteHeaders(1, 0, ":status: 200")
			return readError(v, call)
		}, want: wantedError{text: "window manager grants nothing: the window of stream 1 is at 0",
			is: []error{hyper.ErrWindowBlocked, hyper.ErrCodeInternal}}, as: is[*hyper.StreamError]},
	{name: "ErrCanceled", only: ownDoors, run: func(t *testing.T, _ *visit, peer *accepted,
		call *httpCall) error {
		peer.WriteHeaders(1, 0, ":status: 200")
		resp, _ := hyper.ResponseFromHTTP(call.Want(t, "the response"))
		resp.Body.Close()
		_, err := resp.Body.Read(make([]byte, 1))
		return err
	}, want: wantedError{text: "stream 1: CANCEL: stream canceled by the caller",
		is: []error{hyper.ErrCanceled, hyper.ErrCodeCancel}}, as: is[*hyper.StreamError]},

	{name: "ConnError/EOF", run: by(func(p *accepted) { p.Close() }),
		want: wantedError{text: "peer closed the connection", is: []error{io.ErrUnexpectedEOF},
			not: []error{io.EOF, hyper.ErrCodeNo}, conn: true}, as: is[*hyper.ConnError]},
	{name: "ConnError/RST", run: by(func(p *accepted) {
		p.client.BreakReadAfter(0, syscall.ECONNRESET)
		p.WritePing(0, [8]byte{})
	}), want: wantedError{text: "connection reset by peer", is: []error{syscall.ECONNRESET}, conn: true},
		as: is[*hyper.ConnError]},
	{name: "ConnError/GoAway", run: by(func(p *accepted) {
		p.WriteGoAway(1, wire.InternalError, "out of memory")
		p.Close()
	}), want: wantedError{text: `http2: server sent GOAWAY and closed the connection; LastStreamID=1, ` +
		`ErrCode=INTERNAL_ERROR, debug="out of memory": unexpected EOF`,
		is: []error{hyper.ErrCodeInternal, io.ErrUnexpectedEOF}, conn: true}, as: is[*hyper.ConnError]},
	{name: "ConnError/BrokenRule", run: by(func(p *accepted) { p.WriteWindowUpdate(0, 0) }),
		want: wantedError{text: "PROTOCOL_ERROR: WINDOW_UPDATE of 0 bytes",
			is: []error{hyper.ErrCodeProtocol}, conn: true}, as: is[*hyper.ConnError]},
	{name: "ConnError/BadFrame", run: by(func(p *accepted) {
		p.WriteFrame(wire.FrameHeader{Type: wire.Ping,
			Length: 3}, []byte("abc"))
	}),
		want: wantedError{text: "FRAME_SIZE_ERROR: PING", is: []error{hyper.ErrCodeFrameSize}, conn: true},
		as:   is[*hyper.ConnError]},
	{name: "ErrPingTimeout", run: by(func(*accepted) {}),
		want: wantedError{text: "peer did not acknowledge a PING", is: []error{hyper.ErrPingTimeout},
			conn:    true,
			timeout: true}, as: is[*hyper.ConnError]},
	{name: "ErrWriteStalled", cfg: hyper.Config{KeepAlive: -1}, run: by(func(p *accepted) {
		p.client.SetWriteBuffer(0)
		p.WritePing(0, [8]byte{1})
	}), want: wantedError{text: "peer accepts no bytes", is: []error{hyper.ErrWriteStalled}, conn: true,
		timeout: true}, as: is[*hyper.ConnError]},
	{name: "ErrDrained", only: ownDoors, run: func(t *testing.T, v *visit, peer *accepted,
		call *httpCall) error {
		peer.WriteGoAway(1, wire.NoError, "")
		synctest.Wait()
		return v.get("/late").WantErr(t, "the connection is drained")
	}, want: wantedError{text: "connection accepts no more requests", is: []error{hyper.ErrDrained},
		conn:      true,
		retryable: true}, as: is[*hyper.ConnError]},
	{name: "BodyLengthError", run: func(t *testing.T, v *visit, _ *accepted, _ *httpCall) error {
		req := v.request("POST", "/", io.MultiReader(strings.NewReader("short")))
		req.ContentLength = 100
		return v.send(req).WantErr(t, "the body is too short")
	}, want: wantedError{text: "request body ended after 5 bytes of its content-length 100",
		is: []error{hyper.ErrCodeCancel}}, as: is[*hyper.BodyLengthError]},
	{name: "ErrClosed", only: ownDoors, run: func(t *testing.T, v *visit, _ *accepted,
		call *httpCall) error {
		v.rt.(*ownConn).conn.Close()
		err := call.WantErr(t, "the connection is closed")
		if late := v.get("/late").WantErr(t, "the connection is closed"); late != err {
			t.Errorf("a late request: %v", late)
		}
		return err
	}, want: wantedError{text: "hyper: connection closed", is: []error{hyper.ErrClosed}}},
	// net/http checks the request before hyper does.
	{name: "RequestError", only: func(v *visit) bool { return !v.viaNetHTTP() },
		run: func(t *testing.T, v *visit, _ *accepted, _ *httpCall) error {
			req := v.request("GET", "/", nil)
			req.Method = "GE T"
			return v.send(req).WantErr(t, "no request")
		}, want: wantedError{text: `hyper: request: :method "GE T" is not a token: it has a space`},
		as: is[*hyper.RequestError]},
	{name: "Waiting", run: func(t *testing.T, v *visit, peer *accepted, _ *httpCall) error {
		peer.WriteSettings(wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return v.send(v.request("GET", "/waits", nil).WithContext(ctx)).WantErr(t, "no stream is free")
	}, want: wantedError{text: "waiting for the peer's only stream: context deadline exceeded",
		is: []error{context.DeadlineExceeded}, timeout: true},
		only: func(v *visit) bool {
			return v.name != "TransportTLS" && v.name != "TransportCleartext" && !v.viaNetHTTP()
		}},
}

func TestEveryErrorThroughEveryDoor(t *testing.T) {
	for _, c := range errorCases {
		t.Run(c.name, func(t *testing.T) {
			eachDoor(t, c.cfg, func(t *testing.T, v *visit) {
				if c.only != nil && !c.only(v) {
					return
				}
				// A GET would be sent again if its connection is lost.
				call := v.send(v.request("POST", "/", nil))
				peer := v.accept()
				peer.WantHeaders("the request", 1)
				peer.Ignore(wire.Ping, wire.RSTStream, wire.GoAway, wire.WindowUpdate, wire.Data)
				err := c.run(t, v, peer, call)
				c.want.check(t, err, v.own)
				if c.as != nil && !c.as(err) {
					t.Errorf("%T %v is of another kind", err, err)
				}
			})
		})
	}
}

// gzipped returns s in the coding gzip.
func gzipped(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, s)
	w.Close()
	return b.String()
}
