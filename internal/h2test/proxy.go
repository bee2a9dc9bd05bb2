package h2test

import (
	"bufio"
	"cmp"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
)

// A Listener serves each of its connections on a goroutine, and closes all of them when the test
// ends.
type Listener struct {
	net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex // guards the fields below
	conns []net.Conn
	ended bool
}

// Listen calls serve for each connection, which it closes when serve returns.
func Listen(t *testing.T, serve func(*Listener, net.Conn)) *Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &Listener{Listener: ln}
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
func (l *Listener) keep(nc net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, nc)
	if l.ended {
		nc.Close()
	}
	return !l.ended
}

// Splice connects to the address to, and copies in both directions until one direction ends.
func (l *Listener) Splice(a io.ReadWriter, to string, early []byte) {
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

// A Proxy speaks HTTP/1.1 and records the requests that it gets.
type Proxy struct {
	*Listener
	URL *url.URL

	mu    sync.Mutex                                     // guards the fields below
	to    map[string]string                              // addresses by name
	busy  func(nc net.Conn, req *http.Request) (ok bool) // if not nil, responds instead of opening a tunnel
	asked []*http.Request
}

// NewProxy starts a proxy. It uses TLS if config is not nil.
func NewProxy(t *testing.T, config *tls.Config) *Proxy {
	p := &Proxy{to: map[string]string{}}
	p.Listener = Listen(t, func(l *Listener, nc net.Conn) {
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
		busy, to := p.busy, cmp.Or(p.to[req.Host], req.Host)
		p.mu.Unlock()
		if busy != nil && busy(nc, req) {
			return
		}
		io.WriteString(nc, "HTTP/1.1 200 Connected\r\n\r\n")
		early, _ := br.Peek(br.Buffered())
		l.Splice(nc, to, early)
	})
	p.URL = &url.URL{Scheme: "http", Host: p.Addr().String()}
	if config != nil {
		p.URL.Scheme = "https"
	}
	return p
}

// Route makes the proxy connect to addr where a request names host.
func (p *Proxy) Route(host, addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to[host] = addr
}

// Answer sets a function that may respond to a request in place of the proxy.
func (p *Proxy) Answer(busy func(nc net.Conn, req *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy = busy
}

// Requests returns the requests so far.
func (p *Proxy) Requests() []*http.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// Get requests url with GET and returns the response's body.
func Get(t *testing.T, rt http.RoundTripper, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _, err := Fetch(rt, req)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	return body
}

// Fetch makes a request and reads the response.
func Fetch(rt http.RoundTripper, req *http.Request) (body string, resp *http.Response, err error) {
	resp, err = (&http.Client{Transport: rt}).Do(req)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	octets, err := io.ReadAll(resp.Body)
	return string(octets), resp, err
}
