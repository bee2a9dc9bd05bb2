// This file holds the benchmarks.

package hyper

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// BenchmarkExchange measures what a GET of 1 KiB costs in the library itself: without a socket,
// without TLS, and without goroutines that wait or are woken.
func BenchmarkExchange(b *testing.B) {
	b.Run("own", func(b *testing.B) { benchmarkOwn(b, nil, func() string { return "/1k" }) })
	b.Run("reused", func(b *testing.B) { // in the memory of a Caller
		var k *Caller
		benchmarkExchange(b, nil, func(c *Conn, answer func(*Stream)) (io.ReadCloser, error) {
			if k == nil || k.Conn != c {
				k = &Caller{Conn: c}
			}
			m := k.memory(&Request{Method: "GET", Path: "/1k"})
			return exchangeOn(context.Background(), c, &m.stream, &m.req, answer)
		})
	})
	b.Run("trace", func(b *testing.B) { // with a Config.Trace that counts
		events := 0
		benchmarkOwn(b, &Config{Trace: func(TraceEvent) { events++ }}, func() string { return "/1k" })
		b.ReportMetric(float64(events)/float64(b.N), "events/op")
	})
	b.Run("context", func(b *testing.B) { // a context that may end
		benchmarkExchange(b, nil, func(c *Conn, answer func(*Stream)) (io.ReadCloser, error) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			return exchangeOwn(ctx, c, "/1k", answer)
		})
	})
	b.Run("paths", func(b *testing.B) { // another path for each request
		var paths [1000]string
		for i := range paths {
			paths[i] = fmt.Sprintf("/items/%d?verbose=1", i)
		}
		n := 0
		benchmarkOwn(b, nil, func() string {
			n++
			return paths[n%len(paths)]
		})
	})
	b.Run("http", func(b *testing.B) {
		benchmarkExchange(b, nil, func(c *Conn, answer func(*Stream)) (io.ReadCloser, error) {
			req, err := http.NewRequest("GET", "https://127.0.0.1:8443/1k", nil)
			if err != nil {
				return nil, err
			}
			x, err := newExchange(req, false)
			if err != nil {
				return nil, err
			}
			if err := c.openStream(req.Context(), &x.stream, opening{req: &x.req}); err != nil {
				return nil, err
			}
			answer(&x.stream)
			resp, err := x.stream.Response(req.Context())
			if err != nil {
				return nil, err
			}
			answered, err := x.accept(&x.stream, resp)
			if err != nil {
				return nil, err
			}
			return answered.Body, nil
		})
	})
}

func benchmarkOwn(b *testing.B, cfg *Config, path func() string) {
	benchmarkExchange(b, cfg, func(c *Conn, answer func(*Stream)) (io.ReadCloser, error) {
		return exchangeOwn(context.Background(), c, path(), answer)
	})
}

// exchangeOwn is Conn.Get, except that it calls answer instead of waiting for the response.
func exchangeOwn(ctx context.Context, c *Conn, path string, answer func(*Stream)) (io.ReadCloser, error) {
	x := &struct {
		s   Stream
		req Request
	}{req: Request{Method: "GET", Path: path}}
	return exchangeOn(ctx, c, &x.s, &x.req, answer)
}

// exchangeOn is Conn.do, except that it calls answer instead of waiting for the response.
func exchangeOn(ctx context.Context, c *Conn, s *Stream, req *Request, answer func(*Stream)) (io.ReadCloser,
	error) {
	p := preparedRequest{memory: s.memory}
	if err := p.prepare(ctx, c, opening{req: req}); err != nil {
		return nil, err
	}
	c.lock()
	defer c.unlock()
	if err := c.openUnlocking(ctx, s, &p); err != nil {
		return nil, err
	}
	c.unlock()
	answer(s)
	c.lock()
	resp, err := s.responseUnlocking(ctx)
	if err != nil {
		return nil, err
	}
	s.watchLocked(ctx)
	return resp.Body, nil
}

// A signalsRead is a connection that closes reads at the first call of Read. Read does not return
// before ends is closed.
type signalsRead struct {
	net.Conn
	reads, ends chan struct{}
	once        sync.Once
}

func (c *signalsRead) Read(p []byte) (int, error) {
	c.once.Do(func() { close(c.reads) })
	n, err := c.Conn.Read(p)
	<-c.ends
	return n, err
}

// steppedConn returns a connection whose loops stand still. A caller of recv takes the place of
// readLoop, with src as the socket. A caller of passWrites takes the place of writeLoop.
func steppedConn(b testing.TB, src io.Reader, cfg *Config) *Conn {
	client, server := net.Pipe()
	go io.Copy(io.Discard, server)
	reads, ends := make(chan struct{}), make(chan struct{})
	c, err := NewConn(b.Context(), &signalsRead{Conn: client, reads: reads, ends: ends}, cfg)
	if err != nil {
		b.Fatal(err)
	}
	<-reads // readLoop has begun to use its reader
	rests := writerParked
	b.Cleanup(func() {
		c.lock()
		c.writer.out, c.writer.queued = c.writer.out[:0], 0
		c.writer.state.Store(rests)
		c.unlock()
		close(ends) // readLoop sees what this goroutine has done in its place
		c.Close()
		server.Close()
	})
	c.lock()
	c.uncorkLocked()
	for c.settings.due[0].sent == 0 || c.flow.window.pending > 0 || c.writer.state.Load() == writerRunning {
		c.unlock()
		time.Sleep(time.Millisecond)
		c.lock()
	}
	c.settings.peer.known = true
	rests = c.writer.state.Swap(writerRunning) // writeLoop is not woken or started any more
	c.unlock()
	c.reader.frames = newFrameReader(src, &c.cfg) // readLoop keeps its own reader
	c.reader.frames.onRead = c.recvOctets
	if c.writer.tracer.wantsFrames() {
		c.reader.frames.trace = c.writer.tracer
	}
	return c
}

func passWrites(c *Conn) {
	c.lock()
	c.fillLocked(outSize, 0)
	c.writer.tracer.writingLocked()
	c.unlock()
	c.writer.tracer.sending(c.writer.out)
	c.lock()
	c.writer.out = c.writer.out[:0]
	c.writer.written, c.writer.flushed = c.writer.queued, c.writer.queued
	c.unlock()
}

func benchmarkExchange(b *testing.B, cfg *Config, get func(*Conn, func(*Stream)) (io.ReadCloser, error)) {
	src := &replay{}
	c := steppedConn(b, src, cfg)
	block, body, p := h2test.ResponseBlock(), make([]byte, 1024), make([]byte, 2048)
	answer := func(s *Stream) {
		passWrites(c)
		src.p = wire.AppendFrameHeader(src.p[:0], wire.FrameHeader{Length: len(block), Type: wire.Headers,
			Flags: wire.EndHeaders, StreamID: s.id})
		src.p = wire.AppendData(append(src.p, block...), s.id, wire.EndStream, body)
		src.r = 0
		for src.r < len(src.p) || c.reader.frames.more() {
			f, err := c.reader.frames.next()
			if err = c.recv(&f, err); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		body, err := get(c, answer)
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for err == nil {
			var k int
			k, err = body.Read(p)
			n += k
		}
		if err != io.EOF || n != 1024 {
			b.Fatal(n, err)
		}
		body.Close()
	}
}

// replay returns its bytes as one read of a socket would.
type replay struct {
	p []byte
	r int
}

func (s *replay) Read(p []byte) (int, error) {
	n := copy(p, s.p[s.r:])
	s.r += n
	return n, nil
}

// BenchmarkDownload measures what receiving a body costs in the library itself, for several frame
// sizes, when the reader keeps up.
func BenchmarkDownload(b *testing.B) {
	for _, size := range []int{4 << 10, 16 << 10, 80 << 10, 240 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			const reading = 1 << 20
			src := &records{}
			c := steppedConn(b, src, nil)
			c.reader.frames.blockSize = tlsBlock
			block, p := h2test.RawFrame(wire.Headers, wire.EndHeaders, 1, []byte{0x88}), make([]byte, 64<<10)
			src.out = slices.Concat(block, wire.AppendData(nil, 1, 0, make([]byte, size)))
			src.again = len(block)
			s, err := c.Open(b.Context(), &Request{Method: "GET", Path: "/"})
			if err != nil {
				b.Fatal(err)
			}
			s.CloseWrite()
			b.SetBytes(reading)
			b.ReportAllocs()
			for b.Loop() {
				download(b, s, p, reading)
			}
		})
	}
}

// records returns bytes as a TLS connection does, at most one record of 16 KiB at a time. At the
// end of out it starts over from again.
type records struct {
	out   []byte
	again int
	r     int // offset into out
	left  int // what is left of the record
}

func (s *records) Read(p []byte) (int, error) {
	if s.left == 0 {
		s.left = 16 << 10
	}
	n := copy(p[:min(len(p), s.left)], s.out[s.r:])
	s.left -= n
	if s.r += n; s.r == len(s.out) {
		s.r = s.again
	}
	return n, nil
}

// download receives frames on the stepped connection of s until size bytes of s have been read. p
// is the buffer for them.
func download(b *testing.B, s *Stream, p []byte, size int) {
	for n := 0; n < size; {
		f, err := s.c.reader.frames.next()
		if err = s.c.recv(&f, err); err != nil {
			b.Fatal(err)
		}
		for s.buf.Len() > 0 {
			k, err := s.read(p)
			if err != nil {
				b.Fatal(err)
			}
			n += k
		}
		passWrites(s.c)
	}
}

// BenchmarkSmallData measures what receiving small DATA frames costs in the library itself, in
// frames: b.N is their number.
func BenchmarkSmallData(b *testing.B) {
	for _, size := range []int{1, 10, 100} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			src := &records{}
			c := steppedConn(b, src, nil)
			block, p := h2test.RawFrame(wire.Headers, wire.EndHeaders, 1, []byte{0x88}), make([]byte, 64<<10)
			src.out = slices.Concat(block, bytes.Repeat(wire.AppendData(nil, 1, 0, make([]byte, size)), 100))
			src.again = len(block)
			s, err := c.Open(b.Context(), &Request{Method: "GET", Path: "/"})
			if err != nil {
				b.Fatal(err)
			}
			s.CloseWrite()
			b.ReportAllocs()
			download(b, s, p, b.N*size)
		})
	}
}
