package conformance

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A row is one rule and an exchange that tests it.
type row struct {
	section string // for example "9113 §6.1"
	name    string // of the subtest
	// The rule in our words, and hyper's choice if the RFC leaves one.
	rule string
	at   *moment
	peer func(l *lab) // what the peer does at that moment; nil: nothing
	then verdict      // nil: peer checks everything itself
}

// run runs the row through every door.
func (r row) run(t *testing.T) {
	for _, d := range doors {
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, r.at, d)
				r.at.reach(l)
				if r.peer != nil {
					r.peer(l)
				}
				if r.then != nil {
					r.then(l)
				}
			})
		})
	}
}

// A door is a way in which a client gets its connection.
type door struct {
	name    string
	tls     bool
	connect func(ctx context.Context, pipe net.Conn, cfg *hyper.Config) (*hyper.Conn, error)
}

// doors are all doors.
var doors = []door{
	{"NewConn", false, func(ctx context.Context, pipe net.Conn, cfg *hyper.Config) (*hyper.Conn, error) {
		return hyper.NewConn(ctx, pipe, cfg)
	}},
	{"NewConnTLS", true, func(ctx context.Context, pipe net.Conn, cfg *hyper.Config) (*hyper.Conn, error) {
		config := clientTLS()
		config.ServerName, config.NextProtos = "example.com", []string{"h2"}
		return hyper.NewConn(ctx, tls.Client(pipe, config), cfg)
	}},
	{"Dial", true, func(ctx context.Context, pipe net.Conn, cfg *hyper.Config) (*hyper.Conn, error) {
		cfg.TLS = clientTLS()
		cfg.DialContext = func(context.Context, string, string) (net.Conn, error) { return pipe, nil }
		return hyper.Dial(ctx, "example.com", cfg)
	}},
}

// clientTLS returns a configuration that trusts the peer. It allows only one curve, which makes the
// handshake cheap.
func clientTLS() *tls.Config {
	config := h2test.ClientTLS()
	config.CurvePreferences = []tls.CurveID{tls.X25519}
	return config
}

// A lab is a connection with its scripted peer, at a moment of an exchange.
type lab struct {
	*h2test.Peer
	door
	t    *testing.T
	conn *hyper.Conn
	at   *moment

	target   uint32        // the stream that the row is about
	stream   *hyper.Stream // stream 1, if the moment opened it with Conn.Open
	push     *hyper.Push
	caller   *caller // waits for the response on target; nil: there is no caller any more
	parent   *caller // waits for the response on stream 1, if target is a push
	next     uint32  // the identifier of the client's next stream
	lastPush uint32  // the last stream identifier that GOAWAY has to have
}

// newLab connects a client to a peer through a door. The moment is not reached yet.
func newLab(t *testing.T, at *moment, d door) *lab {
	pipe, server := h2test.Pipe()
	var end net.Conn = server
	if d.tls {
		end = h2test.TLSServer(server, "h2")
	}
	l := &lab{Peer: h2test.NewPeer(t, end), door: d, t: t, at: at, target: 1, next: 1}
	cfg := at.cfg
	conn, err := d.connect(t.Context(), pipe, &cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	l.conn = conn
	return l
}

// schemed adapts fields that were written for cleartext to the scheme of this door. It swaps "http"
// and "https" over TLS, so that a wrong scheme is wrong there, too.
func (l *lab) schemed(fields []string) []string {
	fields = slices.Clone(fields)
	for i, f := range fields {
		switch {
		case l.tls && f == ":scheme: http":
			fields[i] = ":scheme: https"
		case l.tls && f == ":scheme: https":
			fields[i] = ":scheme: http"
		}
	}
	return fields
}

// EncodeBlock encodes fields with the scheme of the door.
func (l *lab) EncodeBlock(fields ...string) []byte { return l.Peer.EncodeBlock(l.schemed(fields)...) }

// WritePushPromise writes a promise with the scheme of the door.
func (l *lab) WritePushPromise(stream, promised uint32, fields ...string) {
	l.Peer.WritePushPromise(stream, promised, l.schemed(fields)...)
}

// WantHeadersExactly requires a request that has these fields and no others, with the scheme of the
// door.
func (l *lab) WantHeadersExactly(reason string, stream uint32, fields ...string) h2test.Headers {
	l.t.Helper()
	return l.Peer.WantHeadersExactly(reason, stream, l.schemed(fields)...)
}

// A caller waits for a response on another goroutine and reads it to its end.
type caller = h2test.Call[received]

// received is what a caller gets. If there is no response, resp is nil.
type received struct {
	resp *hyper.Response
	body string
}

// ask starts a caller that gets its response from respond.
func (l *lab) ask(respond func(context.Context) (*hyper.Response, error)) *caller {
	return h2test.Go(func() (r received, err error) {
		if r.resp, err = respond(context.Background()); err != nil {
			return r, err
		}
		body, err := io.ReadAll(r.resp.Body)
		r.body = string(body)
		return r, err
	})
}

// send starts a caller that sends req, and reads its HEADERS.
func (l *lab) send(req *hyper.Request) *caller {
	l.t.Helper()
	c := l.ask(func(ctx context.Context) (*hyper.Response, error) { return l.conn.Do(ctx, req) })
	l.WantHeaders("a request", l.next)
	l.next += 2
	return c
}

// open opens a stream with Conn.Open, and reads its HEADERS.
func (l *lab) open(req *hyper.Request) *hyper.Stream {
	l.t.Helper()
	s, err := l.conn.Open(l.t.Context(), req)
	if err != nil {
		l.t.Fatal(err)
	}
	l.WantHeaders("a request", l.next)
	l.next += 2
	return s
}

// want waits for a complete response and checks it.
func (l *lab) want(c *caller, status int, body string) {
	l.t.Helper()
	got, err := c.Wait()
	if err != nil || got.resp.StatusCode != status || got.body != body {
		l.t.Fatalf("the caller got %+v, %v; want %d %q\n%s", got, err, status, body, l.Log())
	}
}

// told returns the caller's error.
func (l *lab) told(c *caller) error {
	_, err := c.Wait()
	return err
}

// answer writes a complete response.
func (l *lab) answer(stream uint32, body string) {
	l.WriteHeaders(stream, 0, ":status: 200", "x-state: kept")
	l.WriteData(stream, wire.EndStream, []byte(body))
}

// goesOn requires that the connection still works. It makes one exchange that uses the compression
// state that both sides should have.
func (l *lab) goesOn() {
	l.t.Helper()
	another := l.next
	c := l.send(&hyper.Request{Path: "/another"})
	// A row may have left a small window.
	body := "another"[:min(7, max(0, l.Credit(another)))]
	l.answer(another, body)
	l.want(c, 200, body)
	if got := c.Value.resp.Header.Get("x-state"); got != "kept" {
		l.t.Errorf("the compression state is lost: x-state is %q", got)
	}
	l.WantIdle("nothing but that exchange")
	if err := l.conn.Err(); err != nil {
		l.t.Errorf("the connection has ended: %v", err)
	}
}

// A verdict checks the result of the exchange.
type verdict func(l *lab)

// accepted requires that the client accepted the frames without a reaction. The exchange comes to
// its end, and the connection goes on.
func accepted(l *lab) {
	l.t.Helper()
	l.WantIdle("there is nothing to say to it")
	l.at.finish(l)
	l.goesOn()
}

// goesOn requires that the connection goes on. The row's peer has already ended the exchange.
func goesOn(l *lab) {
	l.t.Helper()
	l.goesOn()
}

// endsStream requires a stream error.
func endsStream(code hyper.ErrCode) verdict {
	return func(l *lab) {
		l.t.Helper()
		l.WantRSTStream("the stream error", l.target, wire.ErrCode(code))
		if l.at.told != nil {
			l.wantStreamError(l.at.told(l), code)
		}
		if l.parent != nil {
			l.answer(1, "parent")
			l.want(l.parent, 200, "parent")
		}
		if l.parent != nil && l.at.told == nil {
			for push, err := range l.parent.Value.resp.Pushes(l.t.Context()) {
				l.t.Errorf("the refused promise is handed out: %v, %v", push, err)
			}
		}
		l.goesOn()
	}
}

// wantStreamError requires a StreamError of our own with this code.
func (l *lab) wantStreamError(err error, code hyper.ErrCode) {
	l.t.Helper()
	var se *hyper.StreamError
	var ce *hyper.ConnError
	if !errors.As(err, &se) || errors.As(err, &ce) || se.Code != code || se.FromPeer ||
		se.StreamID != l.target || !errors.Is(err, code) {
		l.t.Errorf("the caller is told %v, want a StreamError of stream %d with %v", err, l.target, code)
	}
	if hyper.Retryable(err) {
		l.t.Errorf("%v is not provably unprocessed", err)
	}
}

// endsConn requires a connection error.
func endsConn(code hyper.ErrCode) verdict {
	return func(l *lab) {
		l.t.Helper()
		l.WantGoAway("the connection error", l.lastPush, wire.ErrCode(code))
		l.WantClosed("and the close follows it")
		if l.at.told != nil {
			l.wantConnError("the caller", l.at.told(l), code)
		}
		if l.parent != nil {
			l.wantConnError("the caller of stream 1", l.told(l.parent), code)
		}
		l.wantConnError("Conn.Err", l.conn.Err(), code)
		_, err := l.conn.Get(l.t.Context(), "/after")
		l.wantConnError("a later request", err, code)
	}
}

// wantConnError requires a ConnError of our own with this code.
func (l *lab) wantConnError(call string, err error, code hyper.ErrCode) {
	l.t.Helper()
	var ce *hyper.ConnError
	if !errors.As(err, &ce) || ce.Code != code || ce.FromPeer || !errors.Is(err, code) {
		l.t.Errorf("%s: told %v, want a ConnError with %v", call, err, code)
	}
}

// frame returns a peer that writes one frame.
func frame(typ wire.FrameType, flags wire.Flags, stream uint32, payload string) func(*lab) {
	return func(l *lab) { l.frame(typ, flags, stream, payload) }
}

// frame writes one frame.
func (l *lab) frame(typ wire.FrameType, flags wire.Flags, stream uint32, payload string) {
	l.WriteFrame(wire.FrameHeader{Length: len(payload), Type: typ, Flags: flags, StreamID: stream},
		[]byte(payload))
}

// headers returns a peer that writes a field section on the row's stream. The section ends with a
// field that changes the compression state.
func headers(flags wire.Flags, fields ...string) func(*lab) {
	return func(l *lab) { l.WriteHeaders(l.target, flags, append(fields, "x-state: kept")...) }
}

// rawHeaders is like headers, for fields that cannot be written as "name: value".
func rawHeaders(flags wire.Flags, fields ...hpack.HeaderField) func(*lab) {
	return func(l *lab) {
		for _, f := range fields {
			l.Encoder().WriteField(f)
		}
		l.WriteHeaders(l.target, flags, "x-state: kept")
	}
}

// field returns a hpack.HeaderField.
func field(name, value string) hpack.HeaderField { return hpack.HeaderField{Name: name, Value: value} }

// all runs the steps one after another.
func all(steps ...func(*lab)) func(*lab) {
	return func(l *lab) {
		for _, step := range steps {
			step(l)
		}
	}
}

// block returns a peer that sends these bytes as a field block on the row's stream.
func block(flags wire.Flags, octets string) func(*lab) {
	return func(l *lab) { l.frame(wire.Headers, flags|wire.EndHeaders, l.target, octets) }
}

// set returns a peer that sends SETTINGS and reads the acknowledgment.
func set(settings ...wire.Setting) func(*lab) {
	return func(l *lab) {
		l.t.Helper()
		l.WriteSettings(settings...)
		l.WantSettingsAck("SETTINGS are acknowledged")
	}
}

// setting returns a wire.Setting.
func setting(id wire.SettingID, value uint32) wire.Setting { return wire.Setting{ID: id, Value: value} }
