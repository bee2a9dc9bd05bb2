// This file holds what several white-box tests use. What does not need hyper's types is in
// internal/h2test, which cannot import hyper, because the tests of this package import it. So a few
// short functions stand here and, for the public API, in internal/hypertest.

package hyper

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// everyFrame returns frames of all types, some of them larger than the smallest buffer.
func everyFrame() []byte {
	return slices.Concat(
		wire.AppendSettings(nil, wire.Setting{ID: wire.SettingMaxFrameSize, Value: 1 << 20}),
		wire.AppendSettingsAck(nil),
		h2test.RawFrame(wire.Headers, wire.Padded|wire.PriorityFlag|wire.EndHeaders, 1,
			[]byte{2, 0, 0, 0, 0, 9, 0x88, 0, 0}),
		wire.AppendData(nil, 1, 0, []byte("hello")),
		h2test.RawFrame(wire.Data, wire.Padded, 1, []byte("\x03world\x00\x00\x00")),
		h2test.RawFrame(wire.Data, wire.Padded, 1, []byte("\x02\x00\x00")), // nothing but padding
		h2test.RawFrame(wire.Priority, 0, 3, make([]byte, 4)),              // a stream error
		h2test.RawFrame(wire.Priority, 0, 3, make([]byte, 5)),
		h2test.RawFrame(0xee, 0xff, 7, bytes.Repeat([]byte{1}, 300)),
		h2test.RawFrame(wire.PushPromise, wire.EndHeaders, 1, []byte{0, 0, 0, 2, 0x82, 0x87, 0x84}),
		h2test.RawFrame(wire.Headers, 0, 3, []byte{0x88, 0x40, 1, 'a'}),
		h2test.RawFrame(wire.Continuation, 0, 3, nil),
		h2test.RawFrame(wire.Continuation, wire.EndHeaders, 3, []byte{1, 'b'}),
		wire.AppendWindowUpdate(nil, 0, 1000),
		wire.AppendRSTStream(nil, 3, wire.Cancel),
		wire.AppendPing(nil, 0, [8]byte{1, 2, 3}),
		wire.AppendData(nil, 1, wire.EndStream, nil),
		wire.AppendGoAway(nil, 1, wire.NoError, strings.Repeat("x", minReadBuffer)),
		wire.AppendData(nil, 1, wire.EndStream, bytes.Repeat([]byte{2}, 600)),
		wire.AppendData(nil, 1, 0, octetsAt(1, 0, 2*smallBlock+1)),
		h2test.RawFrame(wire.Data, wire.Padded, 1, append([]byte{8}, octetsAt(1, 0, 2*smallBlock+8)...)),
		wire.AppendData(nil, 3, 0, octetsAt(3, 0, 3)),
		wire.AppendData(nil, 1, wire.EndStream, octetsAt(1, 0, smallBlock+1)),
		wire.AppendPing(nil, 0, [8]byte{4, 5, 6}),
	)
}

// smallBlock is a block size for which a DATA frame of little more than 1 KiB already counts as
// large.
const smallBlock = 1 << 10

// fuzzSeeds returns frames of every type, each alone and all in sequence, and the beginnings of
// what real servers sent.
func fuzzSeeds(f *testing.F) (seeds [][]byte) {
	f.Helper()
	files, err := filepath.Glob("testdata/frames/*.hex")
	if err != nil || len(files) == 0 {
		f.Fatal("no testdata/frames: ", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		var digits strings.Builder
		for line := range strings.Lines(string(text)) {
			line, _, _ = strings.Cut(line, "#")
			digits.WriteString(strings.Join(strings.Fields(line), ""))
		}
		frame, err := hex.DecodeString(digits.String())
		if err != nil {
			f.Fatal(file, err)
		}
		seeds = append(seeds, frame)
	}
	transcripts, err := filepath.Glob("testdata/transcripts/*.txt")
	if err != nil || len(transcripts) == 0 {
		f.Fatal("no testdata/transcripts: ", err)
	}
	for _, file := range transcripts {
		seeds = append(seeds, receivedIn(f, file))
	}
	return append(seeds, everyFrame())
}

// receivedIn returns the beginning of what the server of a transcript sent.
func receivedIn(f *testing.F, file string) (received []byte) {
	f.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		digits, ok := strings.CutPrefix(line, "< ")
		if !ok {
			continue
		}
		octets, err := hex.DecodeString(strings.TrimSpace(digits))
		if err != nil {
			f.Fatal(file, err)
		}
		received = append(received, octets...)
	}
	return received[:min(2<<10, len(received))]
}

// watchdog ends a run that blocks forever, in real time outside of its synctest bubble. The fuzzer
// does not detect such a run by itself.
func watchdog(d time.Duration) (stop func() bool) {
	return time.AfterFunc(d, func() {
		stacks := make([]byte, 1<<20)
		panic("BUG: this takes too long\n" + string(stacks[:runtime.Stack(stacks, true)]))
	}).Stop
}

// octetAt returns a byte of the body that all these tests use. It depends on the stream and the
// offset.
func octetAt(id uint32, at int64) byte {
	return byte(uint64(at)*131 + uint64(at>>8)*17 + uint64(id)*29)
}

func octetsAt(id uint32, at int64, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = octetAt(id, at+int64(i))
	}
	return p
}

// differsAt returns the index of the first byte of p that differs from the body, or -1.
func differsAt(p []byte, id uint32, at int64) int {
	for i := range p {
		if p[i] != octetAt(id, at+int64(i)) {
			return i
		}
	}
	return -1
}

// script is fuzzer input as a source of decisions. It yields zeros after its end.
type script struct{ rest []byte }

func (s *script) next() byte {
	if len(s.rest) == 0 {
		return 0
	}
	b := s.rest[0]
	s.rest = s.rest[1:]
	return b
}

var scriptSizes = [...]int{0, 1, 2, 10, 63, 100, 255, 256, 1000, 4096, 5000, 16384, 20000, 40000, 65535,
	100000}

func (s *script) size() int { return scriptSizes[s.next()%byte(len(scriptSizes))] }

// dialPeer makes a connection over an in-memory pipe. At the other end is its scripted peer, and
// the handshake is complete. Both end with the test. Use it inside synctest.Test.
func dialPeer(t *testing.T, cfg *Config, settings ...wire.Setting) (*h2test.Peer, *Conn) {
	t.Helper()
	peer, conn, _ := newPeer(t, cfg)
	peer.Handshake(settings...)
	return peer, conn
}

// newPeer is dialPeer without the handshake. It also returns the client's end of the pipe, for
// faults and counters.
func newPeer(t *testing.T, cfg *Config) (*h2test.Peer, *Conn, *h2test.Conn) {
	t.Helper()
	client, server := h2test.Pipe()
	peer := h2test.NewPeer(t, server)
	conn, err := NewConn(context.Background(), client, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		checkBooks(t, conn)
		conn.Close()
	})
	return peer, conn, client
}

// checkBooks checks the connection's accounts against its streams: no credit is lost, and nothing
// is left over.
func checkBooks(t *testing.T, c *Conn) {
	t.Helper()
	c.lock()
	defer c.unlock()
	if c.ending.err != nil {
		return
	}
	if c.slots.used < 0 || c.streams.pushes < 0 {
		t.Errorf("slots used: %d, pushes: %d", c.slots.used, c.streams.pushes)
	}
	if c.flow.window.unread < 0 || c.flow.window.pending < 0 {
		t.Errorf("connection window: unread %d, pending %d", c.flow.window.unread, c.flow.window.pending)
	}
	for id, s := range c.streams.byID {
		if s.id != id || s.state == 0 {
			t.Errorf("stream %d is filed under %d in state %v", s.id, id, s.state)
		}
		if s.window.unread < int64(s.buf.Len()) {
			t.Errorf("stream %d holds %d octets and books %d as unread", id, s.buf.Len(), s.window.unread)
		}
	}
}

// doAsync calls conn.Do on another goroutine.
func doAsync(ctx context.Context, conn *Conn, req *Request) *h2test.Call[*Response] {
	return h2test.Go(func() (*Response, error) { return conn.Do(ctx, req) })
}

// getAsync is doAsync for GET.
func getAsync(conn *Conn, path string) *h2test.Call[*Response] {
	return doAsync(context.Background(), conn, &Request{Path: path})
}

// answerGet sends GET, which becomes stream id, and responds with a header. The test sends the
// body.
func answerGet(t *testing.T, peer *h2test.Peer, conn *Conn, id uint32, fields ...string) *Response {
	t.Helper()
	got := getAsync(conn, "/")
	peer.WantHeaders("the request", id)
	peer.WriteHeaders(id, 0, fields...)
	return got.Want(t, "the response")
}

// giveBack returns a manager that grants every byte again as soon as it is consumed. What is
// missing from the peer's credit then is held, or lost.
func giveBack(*Window) WindowManager {
	return WindowManagerFunc(func(ev WindowEvent) int { return ev.Consumed() })
}

// A call is a RoundTrip of a farm on another goroutine.
type call struct {
	*h2test.Call[*http.Response]
	t *testing.T
}

// wantStatus waits for a response with this status.
func (c *call) wantStatus(reason string, status int) *http.Response {
	c.t.Helper()
	resp := c.Want(c.t, reason)
	if resp.StatusCode != status {
		c.t.Fatalf("%s: status %d, want %d", reason, resp.StatusCode, status)
	}
	return resp
}

// wantErr waits for an error, which must match target if target is not nil.
func (c *call) wantErr(reason string, target error) error {
	c.t.Helper()
	err := c.WantErr(c.t, reason)
	if target != nil && !errors.Is(err, target) {
		c.t.Fatalf("%s: got %v, want %v", reason, err, target)
	}
	return err
}

// put returns a request with a body.
func put(body io.Reader) *Request { return &Request{Method: "PUT", Path: "/upload", Body: body} }
