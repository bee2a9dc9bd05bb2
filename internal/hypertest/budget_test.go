// This file tests how few writes and how little memory requests need.

package hypertest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// These tests bound what a request may cost in what can be counted without a clock: allocations,
// writes, and memory of idle connections. internal/bench measures times.

// cannedServer responds to each request that has END_STREAM with the same field block and body, and
// receives uploads. It allocates nothing, so that a test counts the client's allocations only.
func cannedServer(nc net.Conn, block, body []byte) {
	buf, out := make([]byte, 256<<10), make([]byte, 0, 64<<10)
	if _, err := io.ReadFull(nc, buf[:len(wire.ClientPreface)]); err != nil {
		return
	}
	window := wire.Setting{ID: wire.SettingInitialWindowSize, Value: wire.MaxWindow}
	out = wire.AppendSettings(out, window, wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1000})
	out = wire.AppendWindowUpdate(out, 0, wire.MaxWindow-wire.InitialWindow)
	for {
		if _, err := nc.Write(out); err != nil {
			return
		}
		out = out[:0]
		if _, err := io.ReadFull(nc, buf[:wire.HeaderLen]); err != nil {
			return
		}
		h := wire.ParseFrameHeader(buf)
		if _, err := io.ReadFull(nc, buf[:h.Length]); err != nil {
			return
		}
		switch {
		case h.Type == wire.Settings && !h.Flags.Has(wire.Ack):
			out = wire.AppendSettingsAck(out)
		case (h.Type == wire.Headers || h.Type == wire.Data) && h.Flags.Has(wire.EndStream):
			out = wire.AppendFrameHeader(out, wire.FrameHeader{Length: len(block), Type: wire.Headers,
				Flags: wire.EndHeaders, StreamID: h.StreamID})
			out = append(out, block...)
			out = wire.AppendData(out, h.StreamID, wire.EndStream, body)
		case h.Type == wire.Data && h.Length > 0:
			out = wire.AppendWindowUpdate(out, 0, h.Length)
		}
	}
}

// cannedConn returns a connection to a cannedServer that sends 1 KiB.
func cannedConn(t *testing.T, cfg *hyper.Config) *hyper.Conn {
	t.Helper()
	client, server := net.Pipe()
	go cannedServer(server, h2test.ResponseBlock(), make([]byte, 1024))
	conn, err := hyper.NewConn(t.Context(), client, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Close()
	})
	return conn
}

// wantAllocs fails if work makes more than most allocations, on average.
func wantAllocs(t *testing.T, most float64, work func()) {
	t.Helper()
	if got, _ := allocated(t, work); got > most {
		t.Errorf("%.2f allocations, want at most %.2f", got, most)
	}
}

// allocated returns how many allocations work makes, and of how many bytes, on average.
func allocated(t *testing.T, work func()) (times, octets float64) {
	t.Helper()
	if h2test.Race {
		t.Skip("the race detector allocates, too")
	}
	for range 100 {
		work()
	}
	const runs = 500
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		work()
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / runs, float64(after.TotalAlloc-before.TotalAlloc) / runs
}

func drainBody(t *testing.T, body io.ReadCloser, buf []byte) {
	var n int
	for {
		m, err := body.Read(buf)
		if n += m; err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	body.Close()
	if n != 1024 {
		t.Fatalf("%d octets", n)
	}
}

// One allocation is the stream with its request and response. A part of another is the response's
// fields. A context that can end costs no more if the response is complete before it ends. A path
// that was not requested before costs no more either.
func TestGetAllocatesTwiceAtMost(t *testing.T) {
	paths := []string{"/", "/a", "/b/c?d=e", "/" + strings.Repeat("f", 200)}
	for name, ctx := range map[string]context.Context{"background": context.Background(),
		"can end": t.Context()} {
		t.Run(name, func(t *testing.T) {
			conn, buf, n := cannedConn(t, nil), make([]byte, 2048), 0
			wantAllocs(t, 2, func() {
				n++
				resp, err := conn.Get(ctx, paths[n%len(paths)])
				if err != nil {
					t.Fatal(err)
				}
				drainBody(t, resp.Body, buf)
			})
		})
	}
}

// http.NewRequest makes three allocations of 512 bytes, and the map of the response's Header two of
// 400 bytes. The sixth is the http.Response. A twelfth of another has the values of its Header. The
// memory of the exchange is used again, except when the goroutine moves to another processor.
func TestRoundTripAllocatesSixTimesAtMost(t *testing.T) {
	conn, buf := cannedConn(t, nil), make([]byte, 2048)
	times, octets := allocated(t, func() {
		req, err := http.NewRequest("GET", "https://example.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := conn.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		drainBody(t, resp.Body, buf)
	})
	if times > 6.5 || octets > 1300 {
		t.Errorf("%.2f allocations of %.0f octets", times, octets)
	}
}

// http.Client makes four more allocations. Finding the connection makes none.
func TestClientDoAllocatesTenTimesAtMost(t *testing.T) {
	client, server := net.Pipe()
	go cannedServer(server, h2test.ResponseBlock(), make([]byte, 1024))
	transport := &hyper.Transport{UnencryptedHTTP2: true, Proxy: hyper.NoProxy, MaxConnsPerHost: 1,
		Config: &hyper.Config{
			DialContext: func(context.Context, string, string) (net.Conn, error) { return client, nil },
		}}
	defer server.Close()
	defer transport.CloseIdleConnections()
	c, buf := &http.Client{Transport: transport}, make([]byte, 2048)
	wantAllocs(t, 10.5, func() {
		req, err := http.NewRequest("GET", "http://example.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		drainBody(t, resp.Body, buf)
	})
}

// A goroutine that waits for a response, also through an http.Client, has a stack of 4 KiB with
// room for the caller's own frames. The test runs in a process of its own with
// adaptivestackstart=0, because otherwise the runtime starts stacks at the average size of earlier
// ones.
func TestWaitingRequestsHaveSmallStacks(t *testing.T) {
	if h2test.Race {
		t.Skip("frames are larger under the race detector")
	}
	const alone = "GODEBUG=adaptivestackstart=0"
	if !slices.Contains(os.Environ(), alone) {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), alone)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	synctest.Test(t, func(t *testing.T) {
		const callers = 2000
		client, server := h2test.Pipe()
		peer := h2test.NewPeer(t, server)
		c := &http.Client{Transport: &hyper.Transport{UnencryptedHTTP2: true, Proxy: hyper.NoProxy,
			MaxConnsPerHost: 1,
			Config: &hyper.Config{
				DialContext: func(context.Context, string, string) (net.Conn, error) { return client, nil },
			}}}
		var wg sync.WaitGroup
		get := func() {
			var frames [256]byte
			if resp, err := c.Get("http://example.com/"); err == nil {
				resp.Body.Close()
			}
			runtime.KeepAlive(&frames)
		}
		stacks := func() int64 {
			synctest.Wait()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int64(m.StackInuse)
		}
		wg.Go(get)
		peer.Handshake(wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 2 * callers})
		peer.WantHeaders("the first", 1)
		before := stacks()
		for range callers {
			wg.Go(get)
		}
		if each := (stacks() - before) / callers; each < 2048 || each > 6000 {
			t.Errorf("%d octets of stack each", each)
		}
		server.Close()
		wg.Wait()
	})
}

// While a write blocks, later requests are collected: a hundred of them take one write.
func TestRequestsBehindABlockedWriteShareTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const callers = 100
		peer, conn, pipe := newPeer(t, &hyper.Config{Authority: "example.com"})
		peer.Handshake(wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1000})
		pipe.SetWriteBuffer(0) // the peer takes nothing
		get := func() {
			resp, err := conn.Get(t.Context(), "/")
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
		}
		var wg sync.WaitGroup
		wg.Go(get)
		synctest.Wait()
		before := pipe.Writes()
		for range callers {
			wg.Go(get)
		}
		synctest.Wait()
		if n := pipe.Writes() - before; n != 0 {
			t.Errorf("%d writes while one was in progress", n)
		}
		pipe.SetWriteBuffer(-1)
		for i := range uint32(1 + callers) {
			peer.WantHeaders("of each", 2*i+1)
		}
		synctest.Wait()
		if n := pipe.Writes() - before; n != 1 {
			t.Errorf("%d requests took %d writes, want 1", callers, n)
		}
		for i := range uint32(1 + callers) {
			h2test.AnswerEmpty(peer, 2*i+1)
		}
		wg.Wait()
	})
}

// A single request is written without waiting for others.
func TestOneRequestIsWrittenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{Authority: "example.com"})
		start := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			if resp, err := conn.Get(t.Context(), "/"); err != nil || resp.StatusCode != 204 {
				t.Errorf("%v, %v", resp, err)
			}
		}()
		peer.WantHeaders("without company", 1)
		h2test.AnswerEmpty(peer, 1)
		<-done
		if took := time.Since(start); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

// The writer keeps its buffers through the many short pauses of an upload, in which it waits for
// windows or for the reader.
func TestUploadDoesNotAllocateByItsLength(t *testing.T) {
	if h2test.Race {
		t.Skip("the race detector allocates, too")
	}
	conn := cannedConn(t, nil)
	upload := func(size int64) {
		body := io.LimitReader(zeroes{}, size)
		resp, err := conn.Do(t.Context(), &hyper.Request{Method: "POST", Body: body, ContentLength: size})
		if err != nil {
			t.Fatal(err)
		}
		drainBody(t, resp.Body, make([]byte, 2048))
	}
	upload(1 << 20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	upload(64 << 20)
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
		t.Errorf("64 MiB allocated %d KiB", took>>10)
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// A cannedSocket has a peer that sends its only message after the client's first write. It holds
// little memory itself, so that the heap shows what the client holds.
type cannedSocket struct {
	net.Conn
	says           string
	spoken, closed chan struct{}
	once           sync.Once
}

func (s *cannedSocket) Read(p []byte) (n int, err error) {
	<-s.spoken
	if n, s.says = copy(p, s.says), s.says[min(len(p), len(s.says)):]; n > 0 {
		return n, nil
	}
	<-s.closed
	return 0, io.EOF
}

func (s *cannedSocket) Write(p []byte) (int, error) {
	s.once.Do(func() { close(s.spoken) })
	return len(p), nil
}

func (s *cannedSocket) RemoteAddr() net.Addr { return nil }

func (s *cannedSocket) Close() error {
	close(s.closed)
	return nil
}

// An idle connection holds less than 7,000 bytes after its first response. This includes a read
// buffer of 512 bytes, which a connection over TLS does not need, and what the runtime keeps for
// its goroutines. It does not include crypto/tls and a socket.
func TestIdleConnectionTakesLessThanSevenKilobytes(t *testing.T) {
	if h2test.Race {
		t.Skip("the race detector allocates, too")
	}
	synctest.Test(t, func(t *testing.T) {
		says := wire.AppendSettingsAck(wire.AppendSettings(nil))
		block := h2test.ResponseBlock()
		says = wire.AppendFrameHeader(says, wire.FrameHeader{Length: len(block), Type: wire.Headers,
			Flags: wire.EndHeaders | wire.EndStream, StreamID: 1})
		said := string(append(says, block...))
		heap := func() int64 {
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}
		cfg, conns := &hyper.Config{Authority: "example.com"}, make([]*hyper.Conn, 500)
		open := func() *hyper.Conn {
			socket := &cannedSocket{says: said, spoken: make(chan struct{}), closed: make(chan struct{})}
			conn, err := hyper.NewConn(t.Context(), socket, cfg)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := conn.Get(context.Background(), "/")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			return conn
		}
		for range 100 { // one-time allocations of the process are not counted
			open().Close()
		}
		time.Sleep(time.Minute) // until their timers end
		synctest.Wait()
		before := heap()
		for i := range conns {
			conns[i] = open()
		}
		time.Sleep(2 * shrinkDelay)
		synctest.Wait()
		each := (heap() - before) / int64(len(conns))
		if each > 7000 {
			t.Errorf("%d bytes", each)
		}
		for _, conn := range conns {
			conn.Close()
		}
	})
}

// An idle connection must not release a frame that its reader still processes: a Trace function may
// be slow.
func TestNothingIsForgottenOfAFrameThatIsBeingRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{Trace: func(e hyper.TraceEvent) {
			if !e.Sent && e.Type == "HEADERS" {
				time.Sleep(2 * shrinkDelay)
			}
		}})
		for id := uint32(1); id < 10; id += 2 {
			got := getAsync(conn, "/")
			peer.WantHeaders("the request", id)
			peer.WriteHeaders(id, wire.EndStream, ":status: 200", "a: 1")
			if resp := got.Want(t, "the response"); resp.Header.Get("a") != "1" {
				t.Errorf("stream %d: %v", id, resp.Header)
			}
		}
	})
}

// The timer frees the memory of field sections while readLoop waits for the socket. The race
// detector reports a readLoop that still uses this memory after it has released the lock.
func TestMemoryOfALargeSectionIsFreedUnderTheLock(t *testing.T) {
	value := strings.Repeat("v", wire.MinMaxFrameSize/2)
	fields := []string{":status: 200"}
	for i := range 2 * maxJoined / len(value) {
		fields = append(fields, fmt.Sprintf("a-%d: %s", i, value))
	}
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{})
		for id := uint32(1); id < 10; id += 2 {
			got := getAsync(conn, "/")
			peer.WantHeaders("the request", id)
			peer.WriteHeadersSplit(id, wire.EndStream, wire.MinMaxFrameSize, fields...)
			if resp := got.Want(t, "the response"); len(resp.Header) != len(fields)-1 {
				t.Errorf("stream %d: %d fields", id, len(resp.Header))
			}
			time.Sleep(2 * shrinkDelay)
		}
	})
}

// A request after a pause takes the memory that other connections have given back. One allocation
// each is for the exchange and for the start of the writer. Each literal of the response takes one
// more, here none. The collector may empty a pool, so a part of one more is allowed.
func TestRequestAfterAPauseAllocatesLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns, buf, n := make([]*hyper.Conn, 10), make([]byte, 2048), 0
		for i := range conns {
			client, server := net.Pipe()
			defer server.Close()
			go cannedServer(server, []byte{0x88}, make([]byte, 1024)) // a reference to ":status: 200"
			var err error
			if conns[i], err = hyper.NewConn(t.Context(), client, nil); err != nil {
				t.Fatal(err)
			}
			defer conns[i].Close()
		}
		wantAllocs(t, 3.5, func() {
			if n++; n%len(conns) == 0 {
				time.Sleep(2 * shrinkDelay)
			}
			resp, err := conns[n%len(conns)].Get(t.Context(), "/")
			if err != nil {
				t.Fatal(err)
			}
			drainBody(t, resp.Body, buf)
		})
	})
}

// The bytes of a body that come at once share the write of HEADERS, and so do the two parts in
// which a message is written to a pipe.
func TestBytesOfABodyThatComeAtOnceShareAWrite(t *testing.T) {
	for name, body := range map[string]func() io.Reader{
		"a reader that does not block": func() io.Reader {
			return struct{ io.Reader }{strings.NewReader("hello")}
		},
		"two writes to a pipe": func() io.Reader {
			r, w := io.Pipe()
			go func() {
				io.WriteString(w, "he")
				io.WriteString(w, "llo")
				w.Close()
			}()
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			const requests = 100
			var n int64
			for range 3 { // where many programs run, a write may be made before the body is read
				synctest.Test(t, func(t *testing.T) { n = writesOfPosts(t, requests, body) })
				if n <= requests*3/2 {
					return
				}
			}
			if !h2test.Race { // the race detector changes which goroutine runs next
				t.Errorf("%d requests took %d writes", requests, n)
			}
		})
	}
}

// writesOfPosts returns how many writes it takes to POST "hello" so often, one after another.
func writesOfPosts(t *testing.T, requests uint32, body func() io.Reader) int64 {
	peer, conn, pipe := newPeer(t, &hyper.Config{Authority: "example.com"})
	peer.Handshake()
	synctest.Wait()
	before := pipe.Writes()
	for i := range requests {
		got := doAsync(t.Context(), conn, &hyper.Request{Method: "POST", Body: body()})
		peer.WantHeaders("a request", 2*i+1)
		peer.WantBody("its body", 2*i+1, []byte("hello"))
		h2test.AnswerEmpty(peer, 2*i+1)
		got.Want(t, "its response").Body.Close()
		synctest.Wait()
	}
	return int64(pipe.Writes() - before)
}

// A body that comes late does not delay HEADERS, and no part of it delays the one before.
func TestNothingWaitsForALateBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{Authority: "example.com"})
		r, w := io.Pipe()
		start := time.Now()
		got := doAsync(t.Context(), conn, &hyper.Request{Method: "POST", Body: r})
		peer.WantHeaders("before the body", 1)
		for i := range 100 {
			time.Sleep(time.Millisecond)
			go w.Write([]byte("hello"))
			peer.WantData("a part", 1, 0, 5)
			if took := time.Since(start); took != time.Duration(i+1)*time.Millisecond {
				t.Fatalf("part %d was sent after %v", i, took)
			}
		}
		w.Close()
		peer.WantData("the end", 1, wire.EndStream, 0)
		h2test.AnswerEmpty(peer, 1)
		got.Want(t, "the response").Body.Close()
	})
}
