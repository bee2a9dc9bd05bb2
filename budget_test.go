// This file holds the budgets of allocations and of memory at rest.

package hyper

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

func TestIdleConnectionGivesItsBuffersBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{Authority: "example.com"})
		held := func() [8]int {
			conn.lock()
			defer conn.unlock()
			written, writtenBlocks := conn.writer.fields.Kept()
			read, readBlocks := conn.reader.frames.section.Kept()
			return [...]int{cap(conn.writer.out) + cap(conn.writer.spare), len(conn.streams.headerArena),
				conn.streams.spares.Len(),
				cap(conn.reader.wakeups), written, writtenBlocks, read, readBlocks}
		}
		for i := range uint32(3) { // the later responses repeat known blocks
			got := doAsync(t.Context(), conn, &Request{Method: "POST",
				Body: strings.NewReader(strings.Repeat("x", 50_000))})
			peer.WantHeaders("an upload", 2*i+1)
			peer.WantBody("all of it", 2*i+1, []byte(strings.Repeat("x", 50_000)))
			peer.WriteHeaders(2*i+1, wire.EndStream, ":status: 204", "server: test")
			got.Want(t, "its response").Body.Close()
			peer.WriteWindowUpdate(0, 50_000)
		}
		synctest.Wait()
		for i, n := range held() {
			if n == 0 {
				t.Fatalf("a busy connection holds nothing at %d", i)
			}
		}
		time.Sleep(shrinkDelay)
		synctest.Wait()
		// One place in reader.wakeups may be kept.
		if got := held(); got != [8]int{} && got != [8]int{3: 1} {
			t.Errorf("an idle one keeps %v", got)
		}
	})
}

// After a pause, a connection gives its buffers back as soon as it is idle again. Those with which
// it wrote it gives back before the response.
func TestConnectionAfterAPauseGivesItsBuffersBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{Authority: "example.com"})
		for i := range uint32(3) {
			time.Sleep(shrinkDelay)
			got := getAsync(conn, "/")
			peer.WantHeaders("a request", 2*i+1)
			synctest.Wait()
			conn.lock()
			fields, blocks := conn.writer.fields.Kept()
			if n := cap(conn.writer.out) + cap(conn.writer.spare) + fields + blocks; n > 0 {
				t.Errorf("%d, while it waits: memory of %d is kept", i, n)
			}
			conn.unlock()
			peer.WriteHeaders(2*i+1, wire.EndStream, ":status: 204", "server: test")
			got.Want(t, "its response").Body.Close()
			synctest.Wait()
			conn.lock()
			fields, blocks = conn.reader.frames.section.Kept()
			if n := cap(conn.streams.headerArena) + fields + blocks; n > 0 || conn.streams.byID != nil {
				t.Errorf("%d, idle again: memory of %d and %v are kept", i, n, conn.streams.byID)
			}
			if n := conn.streams.spares.Len(); n > 1 {
				t.Errorf("%d: %d waiters are kept", i, n)
			}
			conn.unlock()
		}
	})
}

// An idle connection has no read buffer, whatever it did before. A connection that makes one
// request after another keeps its buffer.
func TestRestingConnectionHasNoReadBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, _, err := dialServer(t, "example.com", Config{TLS: h2test.ClientTLS()},
			h2test.ServerTLS("h2"))
		if err != nil {
			t.Fatal(err)
		}
		get := func(id uint32) {
			got := getAsync(conn, "/")
			peer.WantHeaders("a request", id)
			peer.WriteHeaders(id, 0, ":status: 200")
			peer.WriteData(id, wire.EndStream, make([]byte, 100_000))
			h2test.WantBody(t, "all of it", got.Want(t, "its response").Body, string(make([]byte, 100_000)))
			synctest.Wait()
		}
		buffer := func() int {
			conn.lock()
			defer conn.unlock()
			if conn.reader.state < readerReading {
				t.Error("nothing is at hand, and readLoop does not wait")
			}
			if conn.reader.frames.block != nil {
				t.Error("a block is kept")
			}
			return len(conn.reader.frames.buf)
		}
		peer.Handshake()
		id := uint32(1)
		for range 2 {
			get(id)
			if n := buffer(); n != wire.HeaderLen {
				t.Errorf("behind the first requests: a buffer of %d", n)
			}
			for range 20 {
				id += 2
				get(id)
			}
			if n := buffer(); n < minReadBuffer {
				t.Errorf("between many requests: a buffer of %d", n)
			}
			time.Sleep(shrinkDelay)
			id += 2
		}
	})
}

// An idle connection has one goroutine, which reads. A writer is started again for the next write,
// of any kind. After a pause it exits at once. If another write follows soon, it stays.
func TestIdleConnectionHasNoWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var window *Window
		peer, conn := dialPeer(t, &Config{Authority: "example.com",
			WindowManager: func(w *Window) WindowManager {
				window = w
				return nil
			}})
		waits := func(reason string, want bool) {
			t.Helper()
			synctest.Wait()
			if got := conn.writer.state.Load() != writerStopped; got != want {
				t.Errorf("%s: the writer waits: %v", reason, got)
			}
		}
		pause := func() {
			t.Helper()
			time.Sleep(shrinkDelay - time.Millisecond)
			waits("before the pause", true)
			time.Sleep(time.Millisecond)
			waits("after the pause", false)
		}
		whole := window
		pause()
		for reason, write := range map[string]func(){
			"a caller's request": func() {
				id := uint32(2*conn.Stats().StreamsOpened + 1)
				got := getAsync(conn, "/")
				peer.WantHeaders("a caller's", id)
				h2test.AnswerEmpty(peer, id)
				got.Want(t, "its response").Body.Close()
			},
			"a grant from anywhere": func() {
				whole.Grant(1)
				peer.WantWindowUpdate("granted", 0, 1)
			},
			"an acknowledgment by the reader": func() {
				peer.WritePing(0, [8]byte{1})
				peer.WantPing("answered", wire.Ack)
			},
		} {
			write()
			waits(reason, false)
			write()
			waits(reason+", soon after another", true)
			pause()
			write()
			waits(reason+", alone again", false)
			time.Sleep(shrinkDelay)
		}
		conn.Close()
		peer.WantGoAway("the last words", 0, wire.NoError)
		peer.WantClosed("by the writer")
	})
}

// After a pause, anything that has to be written brings the writer back.
func TestAnyWorkBringsTheWriterBack(t *testing.T) {
	type ends struct {
		*testing.T
		peer *h2test.Peer
		conn *Conn
	}
	open := func(e *ends, req *Request) *Stream {
		s, err := e.conn.Open(e.Context(), req)
		if err != nil {
			e.Fatal(err)
		}
		e.peer.WantHeaders("the request", 1)
		return s
	}
	for name, work := range map[string]func(e *ends) (now func()){
		"the end of a context": func(e *ends) func() {
			ctx, cancel := context.WithCancel(e.Context())
			doAsync(ctx, e.conn, &Request{})
			e.peer.WantHeaders("the request", 1)
			return func() {
				cancel()
				e.peer.WantRSTStream("cancelled", 1, wire.Cancel)
			}
		},
		"the end of a stream's context": func(e *ends) func() {
			ctx, cancel := context.WithCancel(e.Context())
			e.conn.Open(ctx, &Request{})
			e.peer.WantHeaders("the request", 1)
			return func() {
				cancel()
				e.peer.WantRSTStream("cancelled", 1, wire.Cancel)
			}
		},
		"Close of a body": func(e *ends) func() {
			got := getAsync(e.conn, "/")
			e.peer.WantHeaders("the request", 1)
			e.peer.WriteHeaders(1, 0, ":status: 200")
			resp := got.Want(e.T, "the response")
			return func() {
				resp.Body.Close()
				e.peer.WantRSTStream("closed", 1, wire.Cancel)
			}
		},
		"Read of a body": func(e *ends) func() {
			got := getAsync(e.conn, "/")
			e.peer.WantHeaders("the request", 1)
			e.peer.WriteHeaders(1, 0, ":status: 200")
			e.peer.WriteData(1, 0, []byte("hello"))
			resp := got.Want(e.T, "the response")
			return func() {
				resp.Body.Read(make([]byte, 5))
				e.peer.WantWindowUpdate("read", 0, 5)
				e.peer.WantWindowUpdate("read", 1, 5)
			}
		},
		"Ping": func(e *ends) func() {
			return func() {
				go e.conn.Ping(e.Context())
				e.peer.WantPing("asked for", 0)
			}
		},
		"the keep-alive": func(e *ends) func() {
			return func() { e.peer.WantPing("after a silence", 0) }
		},
		"the peer's SETTINGS": func(e *ends) func() {
			return func() {
				e.peer.WriteSettings()
				e.peer.WantSettingsAck("taken")
			}
		},
		"UpdateSettings": func(e *ends) func() {
			return func() {
				go e.conn.UpdateSettings(e.Context(), Setting{0xf000, 1})
				if f, err := e.peer.Next(); err != nil || f.Type != wire.Settings {
					e.Error(f, err)
				}
			}
		},
		"a window for what waits": func(e *ends) func() {
			doAsync(e.Context(), e.conn, &Request{Method: "POST",
				Body: bytes.NewReader(make([]byte, wire.InitialWindow+5))})
			e.peer.WantHeaders("the request", 1)
			for range 4 {
				e.peer.Next()
			}
			e.peer.WriteWindowUpdate(0, 5)
			return func() {
				e.peer.WriteWindowUpdate(1, 5)
				e.peer.WantData("the rest", 1, wire.EndStream, 5)
			}
		},
		"larger windows for what waits": func(e *ends) func() {
			doAsync(e.Context(), e.conn, &Request{Method: "POST",
				Body: bytes.NewReader(make([]byte, wire.InitialWindow+5))})
			e.peer.WantHeaders("the request", 1)
			for range 4 {
				e.peer.Next()
			}
			e.peer.WriteWindowUpdate(0, 5)
			return func() {
				e.peer.Ignore(wire.Settings)
				e.peer.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize,
					Value: wire.InitialWindow + 5})
				e.peer.WantData("the rest", 1, wire.EndStream, 5)
			}
		},
		"Write": func(e *ends) func() {
			s := open(e, &Request{Method: "POST"})
			return func() {
				s.Write([]byte("hello"))
				e.peer.WantData("written", 1, 0, 5)
			}
		},
		"CloseWrite": func(e *ends) func() {
			s := open(e, &Request{Method: "POST"})
			return func() {
				s.CloseWrite()
				e.peer.WantData("the end", 1, wire.EndStream, 0)
			}
		},
		"SendTrailers": func(e *ends) func() {
			s := open(e, &Request{Method: "POST"})
			return func() {
				s.SendTrailers(Header{{Name: "a", Value: "1"}})
				e.peer.WantHeadersExactly("the trailers", 1, "a: 1")
			}
		},
		"100 (Continue) that does not come": func(e *ends) func() {
			doAsync(e.Context(), e.conn, &Request{Method: "POST",
				Header: Header{{Name: "expect", Value: "100-continue"}}, Body: strings.NewReader("hello")})
			e.peer.WantHeaders("the request", 1)
			return func() { e.peer.WantData("its body", 1, wire.EndStream, 5) }
		},
		"a window manager's Tick": func(e *ends) func() {
			open(e, &Request{WindowManager: func(w *Window) WindowManager {
				return WindowManagerFunc(func(ev WindowEvent) int {
					switch ev.Kind {
					case WindowOpened:
						w.WakeAfter(time.Second)
					case WindowTick:
						return 7
					}
					return 0
				})
			}})
			return func() { e.peer.WantWindowUpdate("later", 1, 7) }
		},
		"a malformed response": func(e *ends) func() {
			open(e, &Request{})
			return func() {
				e.peer.WriteHeaders(1, 0, ":status: 20")
				e.peer.WantRSTStream("refused", 1, wire.ProtocolError)
			}
		},
		"a broken rule": func(e *ends) func() {
			return func() {
				e.peer.WriteRSTStream(1, wire.Cancel)
				e.peer.WantGoAway("the stream is idle", 0, wire.ProtocolError)
			}
		},
		"Shutdown": func(e *ends) func() {
			return func() {
				go e.conn.Shutdown(e.Context())
				e.peer.WantGoAway("asked for", 0, wire.NoError)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &Config{Authority: "example.com", WindowManager: giveBack,
					KeepAlive: 5 * time.Second, ExpectContinueTimeout: time.Second})
				now := work(&ends{t, peer, conn})
				time.Sleep(2 * shrinkDelay)
				synctest.Wait()
				if conn.writer.state.Load() != writerStopped {
					t.Error("the writer waits")
				}
				start := time.Now()
				now()
				// Keep-alive is the work itself, and comes later.
				if waited := time.Since(start); waited > time.Second && name != "the keep-alive" {
					t.Errorf("it came back after %v", waited)
				}
			})
		})
	}
}

// Grant takes no lock. It must wake the writer even if the writer is just about to stop, after a
// pause or before one.
func TestGrantIsNotLostOnARetiringWriter(t *testing.T) {
	var window *Window
	client, server := net.Pipe()
	go io.Copy(io.Discard, server)
	conn, err := NewConn(t.Context(), client, &Config{Authority: "example.com", KeepAlive: -1,
		WindowManager: func(w *Window) WindowManager {
			window = w
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i := range 20_000 {
		conn.lock()
		conn.liveness.now, conn.liveness.afterPause = conn.liveness.wroteAt+shrinkDelay, i%2 == 0
		conn.wakeWriter()
		conn.unlock()
		for range i % 50 {
			runtime.Gosched()
		}
		window.Grant(1)
		for deadline := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
			conn.lock()
			credit := conn.flow.window.credit
			conn.unlock()
			if credit == wire.InitialWindow+int64(i)+1 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("grant %d was lost", i)
			}
		}
	}
}

// dialServer is Dial to a TLS server on which a scripted peer speaks.
func dialServer(t *testing.T, addr string, cfg Config, serverTLS *tls.Config) (*h2test.Peer, *Conn,
	*h2test.Conn, error) {
	t.Helper()
	client, server := h2test.Pipe()
	cfg.DialContext = func(context.Context, string, string) (net.Conn, error) { return client, nil }
	peer := h2test.NewPeer(t, tls.Server(server, serverTLS))
	conn, err := Dial(t.Context(), addr, &cfg)
	if err == nil {
		t.Cleanup(func() { conn.Close() })
	}
	return peer, conn, client, err
}

// The sizes of what a connection and a request allocate, on 64-bit systems. The allocator rounds
// them up to a size class. If a value has pointers and more than 512 bytes, it adds 8 bytes first.
func TestSizesFitTheirClasses(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) != 8 {
		t.Skip("not a 64-bit system")
	}
	for _, v := range []struct {
		name      string
		size, max uintptr
	}{
		// The class of 1,408. The next one is 1,536.
		{"Conn", unsafe.Sizeof(Conn{}), 1400},
		// The class of 384, for a request by Do.
		{"Stream", unsafe.Sizeof(Stream{}), 360},
		// The class of 576: Get allocates a Stream and its Request together.
		{"Stream and Request", unsafe.Sizeof(Stream{}) + unsafe.Sizeof(Request{}), 568},
		// The class of 640, for a request by RoundTrip while it waits. The next one is 704.
		{"exchange", unsafe.Sizeof(exchange{}), 600},
		// The class of 240, for the response of RoundTrip.
		{"httpResponse", unsafe.Sizeof(httpResponse{}), 240},
		// The class of 448. Each connection has one.
		{"frameReader", unsafe.Sizeof(frameReader{}), 448},
	} {
		if v.size > v.max {
			t.Errorf("%s has %d bytes, more than %d", v.name, v.size, v.max)
		}
	}
}
