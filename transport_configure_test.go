package hyper

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gohyper.dev/hyper/internal/h2test"
)

// iotestReader hides the type of the reader that it wraps.
type iotestReader struct{ io.Reader }

// plugged makes tr use hyper for HTTP/2. It returns a counter of dials.
func plugged(t *testing.T, tr *http.Transport, cfg *Config) (dials *atomic.Int64) {
	t.Helper()
	dials = new(atomic.Int64)
	tr.TLSClientConfig = h2test.ClientTLS()
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	if err := ConfigureTransport(tr, cfg); err != nil {
		t.Fatal(err)
	}
	return dials
}

func TestConfiguredTransportKeepsItsDialerAndProxy(t *testing.T) {
	srv, _ := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto, " ", r.UserAgent())
	})
	proxy := newProxy(t, nil)
	for name, via := range map[string]func(*http.Request) (*url.URL, error){"direct": nil,
		"proxy": http.ProxyURL(proxy.url)} {
		t.Run(name, func(t *testing.T) {
			var frames atomic.Int64
			tr := &http.Transport{Proxy: via, IdleConnTimeout: time.Minute}
			dials := plugged(t, tr, &Config{UserAgent: "through hyper",
				Trace: func(TraceEvent) { frames.Add(1) }})
			var wg sync.WaitGroup
			made := int64(-1)
			// net/http returns the response before it has added a new connection to its pool.
			for made != dials.Load() {
				made = dials.Load()
				get(t, tr, srv.URL)
			}
			for range 20 {
				wg.Go(func() {
					if got := get(t, tr, srv.URL); got != "HTTP/2.0 through hyper" {
						t.Errorf("the server got %q", got)
					}
				})
			}
			wg.Wait()
			if dials.Load() != made || frames.Load() == 0 {
				t.Errorf("%d dials where %d were enough, %d frames seen", dials.Load(), made, frames.Load())
			}
			connOf(t, tr, srv.URL).Close()
		})
	}
	if len(proxy.requests()) == 0 {
		t.Error("the proxy was not asked")
	}
}

// connOf makes a request and returns the connection that served it.
func connOf(t *testing.T, rt http.RoundTripper, url string) *Conn {
	t.Helper()
	var conn *Conn
	req, err := http.NewRequestWithContext(WithResponse(t.Context(), func(r *Response) { conn = r.s.c }),
		"GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := fetch(rt, req); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestConfiguredTransportReplacesAConnectionThatEnded(t *testing.T) {
	srv, _ := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s", body)
	})
	for name, end := range map[string]func(*Conn){
		"the server closed it": func(*Conn) { srv.CloseClientConnections() },
		"it was idle":          func(*Conn) {},
		"it is shut down":      func(c *Conn) { c.Shutdown(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			tr := &http.Transport{IdleConnTimeout: time.Minute}
			if name == "it was idle" {
				tr.IdleConnTimeout = 20 * time.Millisecond
			}
			dials := plugged(t, tr, nil)
			conn := connOf(t, tr, srv.URL)
			end(conn)
			<-conn.Done()
			req, _ := http.NewRequest("POST", srv.URL, iotestReader{strings.NewReader("without GetBody")})
			if got, _, err := fetch(tr, req); err != nil || got != "without GetBody" {
				t.Errorf("got %q, %v", got, err)
			}
			if n := dials.Load(); n != 2 {
				t.Errorf("%d dials", n)
			}
		})
	}
}

// A listener serves each of its connections on a goroutine, and closes all of them when the test
// ends.
type listener struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
	ended bool
	wg    sync.WaitGroup
}

// listen calls serve for each connection, which it closes when serve returns.
func listen(t *testing.T, serve func(*listener, net.Conn)) *listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{Listener: ln}
	l.wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			l.wg.Go(func() {
				if l.keep(nc) {
					serve(l, nc)
				}
				nc.Close()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		l.mu.Lock()
		l.ended = true
		for _, nc := range l.conns {
			nc.Close()
		}
		l.mu.Unlock()
		l.wg.Wait()
	})
	return l
}

// keep registers nc to be closed at the end of the test. It returns false if the test has ended.
func (l *listener) keep(nc net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, nc)
	if l.ended {
		nc.Close()
	}
	return !l.ended
}

// splice connects to the address to, and copies in both directions until one direction ends.
func (l *listener) splice(a io.ReadWriter, to string, early []byte) {
	b, err := net.Dial("tcp", to)
	if err != nil || !l.keep(b) {
		return
	}
	b.Write(early)
	done := make(chan struct{}, 2)
	go func() { io.Copy(b, a); b.Close(); done <- struct{}{} }()
	go func() { io.Copy(a, b); done <- struct{}{} }()
	<-done
	b.Close()
	if c, ok := a.(io.Closer); ok {
		c.Close()
	}
	<-done
}

// A testProxy speaks HTTP/1.1 and records the requests that it gets.
type testProxy struct {
	*listener
	url *url.URL

	mu    sync.Mutex
	to    map[string]string                              // addresses by name
	busy  func(nc net.Conn, req *http.Request) (ok bool) // if not nil, responds instead of opening a tunnel
	asked []*http.Request
}

// newProxy starts a proxy. It uses TLS if config is not nil.
func newProxy(t *testing.T, config *tls.Config) *testProxy {
	p := &testProxy{to: map[string]string{}}
	p.listener = listen(t, func(l *listener, nc net.Conn) {
		if config != nil {
			nc = tls.Server(nc, config)
		}
		br := bufio.NewReader(nc)
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.asked = append(p.asked, req)
		busy, to := p.busy, or(p.to[req.Host], req.Host)
		p.mu.Unlock()
		if busy != nil && busy(nc, req) {
			return
		}
		io.WriteString(nc, "HTTP/1.1 200 Connected\r\n\r\n")
		early, _ := br.Peek(br.Buffered())
		l.splice(nc, to, early)
	})
	p.url = &url.URL{Scheme: "http", Host: p.Addr().String()}
	if config != nil {
		p.url.Scheme = "https"
	}
	return p
}

// answer sets busy.
func (p *testProxy) answer(busy func(nc net.Conn, req *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy = busy
}

func (p *testProxy) requests() []*http.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

func get(t *testing.T, rt http.RoundTripper, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _, err := fetch(rt, req)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	return body
}
