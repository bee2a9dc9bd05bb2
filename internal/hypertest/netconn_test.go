package hypertest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// An oddConn is a net.Conn that can break the contract of io.Reader or io.Writer.
type oddConn struct {
	net.Conn
	emptyReads  atomic.Bool // Read returns 0, nil, even after Close
	shortWrites atomic.Bool // Write writes all but the last byte, and returns no error
	reads       atomic.Int64
}

// Read counts, and returns 0, nil if emptyReads is set.
func (c *oddConn) Read(p []byte) (int, error) {
	c.reads.Add(1)
	if c.emptyReads.Load() {
		return 0, nil
	}
	n, err := c.Conn.Read(p)
	if c.emptyReads.Load() {
		return 0, nil
	}
	return n, err
}

// Write writes one byte less than p if shortWrites is set.
func (c *oddConn) Write(p []byte) (int, error) {
	if c.shortWrites.Load() && len(p) > 0 {
		n, err := c.Conn.Write(p[:len(p)-1])
		return n, err
	}
	return c.Conn.Write(p)
}

// eachOddConn runs test at doors whose connection is an oddConn. It leaves out the doors at which
// the caller has made a *tls.Conn: there crypto/tls handles such errors.
func eachOddConn(t *testing.T, test func(t *testing.T, v *visit, odd func() *oddConn)) {
	for _, d := range doors {
		if d.name == "NewConnTLS" || d.viaNetHTTP() {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := &visit{door: d, t: t, peers: make(chan *accepted, 100)}
				made := make(chan *oddConn, 1)
				v.rt = d.enter(t, func(ctx context.Context, network, addr string) (net.Conn, error) {
					nc, err := v.dial(ctx, network, addr)
					odd := &oddConn{Conn: nc}
					made <- odd
					return odd, err
				}, hyper.Config{})
				test(t, v, func() *oddConn { return <-made })
			})
		})
	}
}

// If Read repeatedly returns 0, nil, the connection ends with io.ErrNoProgress, as with
// bufio.Reader, and does not loop.
func TestReadsOfNothingEndTheConnection(t *testing.T) {
	eachOddConn(t, func(t *testing.T, v *visit, odd func() *oddConn) {
		call := v.get("/")
		nc := odd()
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		resp := call.Want(t, "the header")
		before := nc.reads.Load()
		nc.emptyReads.Store(true)
		peer.WriteData(1, 0, []byte("it wakes the Read"))
		if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrNoProgress) {
			t.Errorf("the body ends with %v, want io.ErrNoProgress", err)
		}
		if n := nc.reads.Load() - before; n > 200 {
			t.Errorf("%d reads", n)
		}
	})
}

// The same holds within a large DATA frame, which is read without the buffer.
func TestReadsOfNothingWithinAFrameEndTheConnection(t *testing.T) {
	eachOddConn(t, func(t *testing.T, v *visit, odd func() *oddConn) {
		call := v.get("/")
		nc := odd()
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		resp := call.Want(t, "the header")
		payload := make([]byte, 100<<10)
		peer.Batch(func() { peer.WriteData(1, 0, payload) })
		if _, err := io.ReadFull(resp.Body, payload[:len(payload)-1]); err != nil {
			t.Fatal(err)
		}
		peer.WriteRaw(wire.AppendFrameHeader(nil, wire.FrameHeader{Length: 100 << 10, Type: wire.Data,
			StreamID: 1}))
		peer.WriteRaw(payload[:100])
		synctest.Wait()
		nc.emptyReads.Store(true)
		peer.WriteRaw(payload[:1])
		if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrNoProgress) {
			t.Errorf("the body ends with %v, want io.ErrNoProgress", err)
		}
	})
}

// After a peer's mistake the client reads and discards the rest. Empty reads do not make it loop.
func TestReadsOfNothingAfterAMistakeEnd(t *testing.T) {
	eachOddConn(t, func(t *testing.T, v *visit, odd func() *oddConn) {
		call := v.get("/")
		nc := odd()
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		peer.WriteData(9, 0, []byte("on an idle stream"))
		call.WantErr(t, "it is lost")
		synctest.Wait()
		nc.emptyReads.Store(true)
		before := nc.reads.Load()
		peer.Close()
		time.Sleep(time.Second)
		if n := nc.reads.Load() - before; n > 200 {
			t.Errorf("%d reads", n)
		}
	})
}

// A Write that writes less than it was given must return an error. If it does not, bytes are lost,
// and the connection ends with an error.
func TestShortWriteEndsTheConnection(t *testing.T) {
	eachOddConn(t, func(t *testing.T, v *visit, odd func() *oddConn) {
		call := v.get("/")
		nc := odd()
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		resp := call.Want(t, "the header")
		synctest.Wait()
		nc.shortWrites.Store(true)
		peer.WritePing(0, [8]byte{1}) // its acknowledgment causes a write
		if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("the body ends with %v, want io.ErrShortWrite", err)
		}
	})
}

// A connection to a proxy is checked in the same way while the tunnel is set up.
func TestOddConnToAProxyIsAnError(t *testing.T) {
	for _, scheme := range []string{"http", "https", "socks5"} {
		for _, c := range []struct {
			name string
			odd  func(*oddConn)
			want error
		}{
			{"ReadsOfNothing", func(c *oddConn) { c.emptyReads.Store(true) }, io.ErrNoProgress},
			{"ShortWrites", func(c *oddConn) { c.shortWrites.Store(true) }, io.ErrShortWrite},
		} {
			t.Run(scheme+c.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					tr := &hyper.Transport{
						Proxy: http.ProxyURL(&url.URL{Scheme: scheme, Host: "proxy.example:3128"}),
						Config: &hyper.Config{DialContext: func(context.Context, string, string) (net.Conn,
							error) {
							client, _ := h2test.Pipe()
							odd := &oddConn{Conn: client}
							c.odd(odd)
							return odd, nil
						}},
					}
					defer tr.CloseIdleConnections()
					req, err := http.NewRequestWithContext(t.Context(), "GET", "https://example.com/", nil)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := tr.RoundTrip(req); !errors.Is(err, c.want) {
						t.Errorf("%v, want %v", err, c.want)
					}
				})
			})
		}
	}
}

// The body of a request is checked for empty reads too.
func TestRequestBodyOfNothingIsAnError(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		body := &oddConn{}
		body.emptyReads.Store(true)
		call := v.send(v.request("POST", "/", io.NopCloser(body)))
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		peer.WantRSTStream("its body cannot be read", 1, wire.Cancel)
		if err := call.WantErr(t, "the body"); !errors.Is(err, io.ErrNoProgress) {
			t.Errorf("%v, want io.ErrNoProgress", err)
		}
		if n := body.reads.Load(); n > 200 {
			t.Errorf("%d reads", n)
		}
	})
}
