// This file tests faults of the socket at each byte of an exchange.

package hypertest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A faultServer plays the server of an exchange. It reads the client's frames until a condition
// holds, then writes a fixed sequence of bytes.
type faultServer struct {
	nc      net.Conn
	br      *bufio.Reader
	begun   bool
	seen    map[uint32]bool // requests whose HEADERS are complete
	ended   map[uint32]bool // streams that the client has ended
	data    map[uint32]int  // payload bytes of DATA
	refused map[uint32]bool // requests that a GOAWAY reports as not processed
}

func newFaultServer(nc net.Conn) *faultServer {
	return &faultServer{nc: nc, br: bufio.NewReader(nc),
		seen: map[uint32]bool{}, ended: map[uint32]bool{}, data: map[uint32]int{}, refused: map[uint32]bool{}}
}

// await reads until cond holds. It returns false if the connection ends before that.
func (s *faultServer) await(cond func() bool) bool {
	if !s.begun {
		if n, _ := s.br.Discard(len(wire.ClientPreface)); n < len(wire.ClientPreface) {
			return false
		}
		s.begun = true
	}
	for !cond() {
		var head [wire.HeaderLen]byte
		if _, err := io.ReadFull(s.br, head[:]); err != nil {
			return false
		}
		h := wire.ParseFrameHeader(head[:])
		if n, _ := s.br.Discard(h.Length); n < h.Length {
			return false
		}
		switch h.Type {
		case wire.Headers:
			s.seen[h.StreamID] = true
		case wire.Data:
			s.data[h.StreamID] += h.Length
		}
		if (h.Type == wire.Headers || h.Type == wire.Data) && h.Flags.Has(wire.EndStream) {
			s.ended[h.StreamID] = true
		}
	}
	return true
}

func (s *faultServer) request(stream uint32) bool {
	return s.await(func() bool { return s.seen[stream] })
}

func (s *faultServer) end(stream uint32) bool { return s.await(func() bool { return s.ended[stream] }) }

func (s *faultServer) write(frames ...[]byte) { s.nc.Write(bytes.Join(frames, nil)) }

// A faultOutcome is what a caller was told about one request.
type faultOutcome struct {
	stream uint32
	whole  bool // everything that was expected arrived
	err    error
}

// A faultExchange describes what a client and a server do when nothing goes wrong.
type faultExchange struct {
	name   string
	cfg    *hyper.Config
	server func(s *faultServer)
	client func(ctx context.Context, c *hyper.Conn) []faultOutcome
	lost   map[uint32]bool // streams that the server refuses on purpose
}

var faultGzip = h2test.Gzip([]byte("a body, compressed a body, compressed"))

var faultExchanges = []faultExchange{{
	name: "GET",
	server: func(s *faultServer) {
		s.write(wire.AppendSettings(nil, wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 9}),
			wire.AppendSettingsAck(nil))
		if !s.request(1) {
			return
		}
		s.write(
			h2test.RawFrame(wire.Headers, wire.EndHeaders, 1, []byte("\x08\x03103")), // an interim response
			h2test.RawFrame(wire.Headers, 0, 1, []byte("\x88\x40\x01")),
			h2test.RawFrame(wire.Continuation, wire.EndHeaders, 1, []byte("a\x01b")),
			wire.AppendData(nil, 1, 0, []byte("hello")),
			h2test.RawFrame(wire.Data, wire.Padded, 1, []byte("\x02, world\x00\x00")),
			wire.AppendPing(nil, 0, [8]byte{1}),
			h2test.RawFrame(wire.Headers, wire.EndHeaders|wire.EndStream, 1, []byte("\x40\x01t\x01v")))
	},
	client: func(ctx context.Context, c *hyper.Conn) []faultOutcome {
		resp, err := c.Get(ctx, "/")
		return []faultOutcome{readOutcome(1, resp, err, "hello, world", "v")}
	},
}, {
	name: "content-length",
	server: func(s *faultServer) {
		s.write(wire.AppendSettings(nil))
		if !s.request(1) {
			return
		}
		s.write(wire.AppendSettingsAck(nil), h2test.RawFrame(wire.Headers, wire.EndHeaders, 1,
			[]byte("\x88\x0f\x0d\x015")),
			wire.AppendData(nil, 1, 0, []byte("hel")), wire.AppendData(nil, 1, 0, []byte("lo")),
			wire.AppendData(nil, 1, wire.EndStream, nil))
	},
	client: func(ctx context.Context, c *hyper.Conn) []faultOutcome {
		resp, err := c.Get(ctx, "/")
		return []faultOutcome{readOutcome(1, resp, err, "hello", "")}
	},
}, {
	name: "upload",
	server: func(s *faultServer) {
		s.write(wire.AppendSettings(nil, wire.Setting{ID: wire.SettingInitialWindowSize, Value: 10}),
			wire.AppendSettingsAck(nil))
		if !s.await(func() bool { return s.data[1] >= 10 }) {
			return
		}
		s.write(wire.AppendWindowUpdate(nil, 1, 7))
		if !s.await(func() bool { return s.data[1] >= 17 }) {
			return
		}
		s.write(wire.AppendWindowUpdate(nil, 1, 1000))
		if !s.end(1) {
			return
		}
		s.write(h2test.RawFrame(wire.Headers, wire.EndHeaders, 1, []byte{0x88}),
			wire.AppendData(nil, 1, wire.EndStream, []byte("taken")))
	},
	client: func(ctx context.Context, c *hyper.Conn) []faultOutcome {
		if _, err := c.WaitSettings(ctx); err != nil { // so that the small window is in force from the start
			return []faultOutcome{{1, false, err}}
		}
		resp, err := c.Do(ctx, &hyper.Request{
			Method: "POST", Path: "/up", Trailer: hyper.Header{{Name: "sum", Value: "1"}},
			Body: io.MultiReader(strings.NewReader("the first part"), strings.NewReader(", the second")),
		})
		return []faultOutcome{readOutcome(1, resp, err, "taken", "")}
	},
}, {
	name: "gzip",
	server: func(s *faultServer) {
		s.write(wire.AppendSettings(nil), wire.AppendSettingsAck(nil))
		if !s.request(1) {
			return
		}
		s.write(h2test.RawFrame(wire.Headers, wire.EndHeaders, 1, []byte("\x88\x0f\x0b\x04gzip")),
			wire.AppendData(nil, 1, 0, faultGzip[:15]), wire.AppendData(nil, 1, 0, faultGzip[15:]),
			wire.AppendData(nil, 1, wire.EndStream, nil))
	},
	client: func(ctx context.Context, c *hyper.Conn) []faultOutcome {
		resp, err := c.Get(ctx, "/")
		return []faultOutcome{readOutcome(1, resp, err, "a body, compressed a body, compressed", "")}
	},
}, {
	name: "push",
	cfg:  &hyper.Config{Push: &hyper.PushPolicy{}, Authority: "a"},
	server: func(s *faultServer) {
		s.write(wire.AppendSettings(nil), wire.AppendSettingsAck(nil))
		if !s.request(1) {
			return
		}
		s.write(h2test.RawFrame(wire.PushPromise, wire.EndHeaders, 1,
			[]byte("\x00\x00\x00\x02\x82\x86\x85\x01\x01a")),
			h2test.RawFrame(wire.Headers, wire.EndHeaders, 1, []byte{0x88}),
			h2test.RawFrame(wire.Headers, wire.EndHeaders, 2, []byte{0x88}),
			wire.AppendData(nil, 1, wire.EndStream, []byte("asked")),
			wire.AppendData(nil, 2, wire.EndStream, []byte("pushed")))
	},
	client: func(ctx context.Context, c *hyper.Conn) []faultOutcome {
		resp, err := c.Get(ctx, "/")
		if err != nil {
			return []faultOutcome{{1, false, err}}
		}
		outs := []faultOutcome{}
		for push, err := range resp.Pushes(ctx) {
			if err != nil {
				outs = append(outs, faultOutcome{1, false, err})
				break
			}
			pushed, err := push.Response(ctx)
			outs = append(outs, readOutcome(2, pushed, err, "pushed", ""))
		}
		return append(outs, readOutcome(1, resp, nil, "asked", ""))
	},
}, {
	name: "duplex",
	server: func(s *faultServer) {
		s.write(wire.AppendSettings(nil), wire.AppendSettingsAck(nil))
		if !s.request(1) {
			return
		}
		s.write(h2test.RawFrame(wire.Headers, wire.EndHeaders, 1, []byte{0x88}))
		for i := 1; i <= 3; i++ {
			if !s.await(func() bool { return s.data[1] >= 4*i }) {
				return
			}
			s.write(wire.AppendData(nil, 1, 0, []byte("pong")))
		}
		if s.end(1) {
			s.write(wire.AppendData(nil, 1, wire.EndStream, nil))
		}
	},
	client: func(ctx context.Context, c *hyper.Conn) []faultOutcome {
		st, err := c.Open(ctx, &hyper.Request{Method: "POST"})
		if err != nil {
			return []faultOutcome{{1, false, err}}
		}
		resp, err := st.Response(ctx)
		if err != nil {
			return []faultOutcome{{1, false, err}}
		}
		answer := make([]byte, 4)
		for range 3 {
			if _, err := st.Write([]byte("ping")); err != nil {
				return []faultOutcome{{1, false, err}}
			}
			if _, err := io.ReadFull(resp.Raw(), answer); err != nil || string(answer) != "pong" {
				return []faultOutcome{{1, false, err}}
			}
		}
		if err := st.CloseWrite(); err != nil {
			return []faultOutcome{{1, false, err}}
		}
		return []faultOutcome{readOutcome(1, resp, nil, "", "")}
	},
}, {
	name: "GOAWAY in the middle",
	server: func(s *faultServer) {
		s.write(wire.AppendSettings(nil), wire.AppendSettingsAck(nil))
		if !s.request(5) {
			return
		}
		s.refused[5] = true
		s.write(h2test.RawFrame(wire.Headers, wire.EndHeaders, 1, []byte{0x88}),
			wire.AppendData(nil, 1, wire.EndStream, []byte("one")),
			h2test.RawFrame(wire.Headers, wire.EndHeaders, 3, []byte{0x88}),
			wire.AppendGoAway(nil, 3, wire.NoError, "bye"),
			wire.AppendData(nil, 3, wire.EndStream, []byte("two")))
	},
	client: func(ctx context.Context, c *hyper.Conn) (outs []faultOutcome) {
		var streams []*hyper.Stream
		for range 3 {
			st, err := c.Open(ctx, &hyper.Request{Body: strings.NewReader("")})
			if err != nil {
				return append(outs, faultOutcome{uint32(2*len(streams) + 1), false, err})
			}
			streams = append(streams, st)
		}
		for i, want := range []string{"one", "two", "never"} {
			resp, err := streams[i].Response(ctx)
			outs = append(outs, readOutcome(streams[i].ID(), resp, err, want, ""))
		}
		return outs
	},
	lost: map[uint32]bool{5: true},
}}

// readOutcome reads a response to its end and compares it. Read must return the same error again at
// the end.
func readOutcome(stream uint32, resp *hyper.Response, err error, body, trailer string) faultOutcome {
	if err != nil {
		return faultOutcome{stream, false, err}
	}
	got, err := io.ReadAll(resp.Body)
	again := io.EOF
	if err != nil {
		again = err
	}
	if _, err := resp.Body.Read(make([]byte, 1)); err == nil || err.Error() != again.Error() {
		return faultOutcome{stream, false, fmt.Errorf("Read returned %w, then %v", again, err)}
	}
	whole := string(got) == body && resp.Trailer().Get("t") == trailer
	if !whole && !strings.HasPrefix(body, string(got)) {
		return faultOutcome{stream, false, fmt.Errorf("BUG: read %q of %q", got, body)}
	}
	return faultOutcome{stream, whole, err}
}

// faultDeadline is the deadline of the caller's context. It is shorter than every timeout of the
// connection.
const faultDeadline = 5 * time.Second

// run plays x with a fault and checks what the callers were told. It returns how many bytes went
// each way.
func (x faultExchange) run(t *testing.T, fault string, inject func(client *h2test.Conn)) (up, down int64,
	ok bool) {
	synctest.Test(t, func(t *testing.T) {
		client, nc := h2test.Pipe()
		inject(client)
		server := newFaultServer(nc)
		served := make(chan struct{})
		go func() {
			defer close(served)
			defer nc.Close()
			x.server(server)
			server.await(func() bool { return false })
		}()
		conn, err := hyper.NewConn(context.Background(), client, x.cfg)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), faultDeadline)
		outs := x.client(ctx, conn)
		if took := time.Since(start); took > faultDeadline {
			t.Errorf("%s: the calls took %v", fault, took)
		}
		cancel()
		synctest.Wait()
		checkBooks(t, conn)
		down = client.OctetsRead()
		conn.Close()
		up = client.OctetsWritten()
		<-served
		ok = true
		for _, o := range outs {
			x.judge(t, fault, server, o)
			ok = ok && (o.whole || x.lost[o.stream])
		}
	})
	return up, down, ok
}

func (x faultExchange) judge(t *testing.T, fault string, server *faultServer, o faultOutcome) {
	t.Helper()
	var se *hyper.StreamError
	var ce *hyper.ConnError
	switch {
	case o.err == nil && !o.whole:
		t.Errorf("%s: stream %d: no error, and not the whole result", fault, o.stream)
	case o.err != nil && !errors.As(o.err, &se) && !errors.As(o.err, &ce) &&
		!errors.Is(o.err, context.DeadlineExceeded) && !errors.Is(o.err, os.ErrDeadlineExceeded):
		t.Errorf("%s: stream %d: an error of no known type: %v", fault, o.stream, o.err)
	case hyper.Retryable(o.err) && server.seen[o.stream] && !server.refused[o.stream]:
		t.Errorf("%s: stream %d: the peer saw the request and it is called retryable: %v", fault, o.stream,
			o.err)
	}
}

func TestFaultsAtEveryByteAreReported(t *testing.T) {
	runs := 0
	for _, x := range faultExchanges {
		t.Run(x.name, func(t *testing.T) {
			up, down, ok := x.run(t, "no fault", func(*h2test.Conn) {})
			if !ok {
				t.Fatal("without a fault it does not work")
			}
			before := runs
			for chunk := range 2 {
				sweep := func(what string, n int64, inject func(c *h2test.Conn, at int64)) {
					for at := range n + 1 {
						fault := fmt.Sprintf("%s after %d of %d octets, chunks of %d", what, at, n, chunk)
						_, _, ok := x.run(t, fault, func(c *h2test.Conn) {
							c.SetChunk(chunk)
							inject(c, at)
						})
						runs++
						if at == n && !ok {
							t.Errorf("%s: nothing was missing, and it failed", fault)
						}
						if t.Failed() {
							return
						}
					}
				}
				for what, err := range map[string]error{"EOF": io.EOF, "read error": syscall.ECONNRESET,
					"read stall": nil} {
					sweep(what, down, func(c *h2test.Conn, at int64) { c.BreakReadAfter(at, err) })
				}
				for what, err := range map[string]error{"write error": syscall.EPIPE, "write stall": nil} {
					sweep(what, up, func(c *h2test.Conn, at int64) { c.BreakWriteAfter(at, err) })
				}
			}
			t.Logf("%d runs: %d octets sent, %d received", runs-before, up, down)
		})
	}
	t.Logf("%d runs", runs)
}

func TestRequestsThatNeverLeftAreRetryable(t *testing.T) {
	x := faultExchanges[0]
	synctest.Test(t, func(t *testing.T) {
		client, _ := h2test.Pipe()
		client.BreakReadAfter(0, syscall.ECONNRESET)
		conn, err := hyper.NewConn(context.Background(), client, x.cfg)
		if err != nil {
			t.Fatal(err)
		}
		<-conn.Done()
		for _, o := range x.client(context.Background(), conn) {
			if !hyper.Retryable(o.err) || !errors.Is(o.err, syscall.ECONNRESET) {
				t.Error(o.err)
			}
		}
		conn.Close()
	})
}
