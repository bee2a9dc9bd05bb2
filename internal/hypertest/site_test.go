package hypertest

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// A site is a server of net/http, with a proxy in front of it, at the other end of pipes. It counts
// the connections that a client makes.
type site struct {
	t         *testing.T
	cleartext bool
	server    *http.Server
	accepted  chan net.Conn
	closed    chan struct{}
	closing   sync.Once
	refusal   string // the proxy's response to CONNECT; empty: a tunnel
	protocol  string // the only protocol that it negotiates; empty: h2 and http/1.1

	mu      sync.Mutex
	dials   []string // "network address"
	open    int
	tunnels []*http.Request
	hellos  []*tls.ClientHelloInfo
}

// newSite starts a server. It uses TLS unless cleartext is true; then it speaks HTTP/2 in
// cleartext.
func newSite(t *testing.T, cleartext bool, h http.HandlerFunc) *site {
	s := &site{t: t, cleartext: cleartext, accepted: make(chan net.Conn, 1000), closed: make(chan struct{})}
	s.server = &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0), MaxHeaderBytes: 16 << 20}
	go func() {
		if cleartext {
			s.server.Protocols = new(http.Protocols)
			s.server.Protocols.SetUnencryptedHTTP2(true)
			s.server.Serve(s)
			return
		}
		s.server.TLSConfig = h2test.ServerTLS("h2", "http/1.1")
		s.server.TLSConfig.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.hellos = append(s.hellos, hello)
			if s.protocol != "" {
				return h2test.ServerTLS(s.protocol), nil
			}
			return nil, nil
		}
		s.server.ServeTLS(s, "", "")
	}()
	synctest.Wait()
	t.Cleanup(func() { s.server.Close() })
	return s
}

// Accept implements net.Listener.
func (s *site) Accept() (net.Conn, error) {
	select {
	case nc := <-s.accepted:
		return nc, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (s *site) Close() error {
	s.closing.Do(func() { close(s.closed) })
	return nil
}

// Addr implements net.Listener.
func (s *site) Addr() net.Addr { return &net.TCPAddr{} }

// A countedConn is the client's end of a connection. Close decrements the count of open
// connections.
type countedConn struct {
	net.Conn
	s    *site
	once sync.Once
}

// Close counts once.
func (c *countedConn) Close() error {
	c.once.Do(func() {
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		c.s.open--
	})
	return c.Conn.Close()
}

// dial connects to the server, or to the proxy if the host is proxy.test.
func (s *site) dial(_ context.Context, network, addr string) (net.Conn, error) {
	client, server := h2test.Pipe()
	s.mu.Lock()
	s.dials = append(s.dials, network+" "+addr)
	s.open++
	s.mu.Unlock()
	switch host, port, _ := net.SplitHostPort(addr); {
	case host == "silent.test": // accepts the connection and sends nothing
		s.t.Cleanup(func() { server.Close() })
	case host != "proxy.test" || s.cleartext:
		s.accepted <- server
	case port == "443":
		go s.proxy(tls.Server(server, h2test.ServerTLS("http/1.1")))
	default:
		go s.proxy(server)
	}
	return &countedConn{Conn: client, s: s}, nil
}

// proxy responds to CONNECT on nc, and connects the tunnel to the server.
func (s *site) proxy(nc net.Conn) {
	req, err := http.ReadRequest(bufio.NewReader(nc))
	if err != nil {
		nc.Close()
		return
	}
	s.mu.Lock()
	s.tunnels = append(s.tunnels, req)
	s.mu.Unlock()
	if s.refusal != "" {
		fmt.Fprintf(nc, "HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n", s.refusal)
		nc.Close()
		return
	}
	io.WriteString(nc, "HTTP/1.1 200 Connected\r\n\r\n")
	s.accepted <- nc
}

// url returns the URL of path on one of the server's hosts.
func (s *site) url(host, path string) string {
	if s.cleartext {
		return "http://" + host + path
	}
	return "https://" + host + path
}

// request sends a request and returns a description of the result.
func (s *site) request(rt http.RoundTripper, req *http.Request) string {
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return describeError(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return describeError(err)
	}
	return fmt.Sprintf("%d %s %.100s", resp.StatusCode, resp.Proto, body)
}

// describeError returns what programs check of an error.
func describeError(err error) string {
	if t, ok := err.(interface{ Timeout() bool }); ok && t.Timeout() {
		_, text, _ := strings.Cut(err.Error(), ": ")
		text, _, _ = strings.Cut(text, " (")
		return "timeout: " + text
	}
	return "error: " + err.Error()
}

// get sends GET for path and returns a description of the result.
func (s *site) get(rt http.RoundTripper, path string) string {
	req, _ := http.NewRequestWithContext(s.t.Context(), "GET", s.url("example.com", path), nil)
	return s.request(rt, req)
}

// gets sends n concurrent requests and returns their common result.
func (s *site) gets(rt http.RoundTripper, n int, path string) string {
	outcomes := make(chan string, n)
	for range n {
		go func() { outcomes <- s.get(rt, path) }()
	}
	first := <-outcomes
	for range n - 1 {
		if next := <-outcomes; next != first {
			return first + " and " + next
		}
	}
	return first
}

// counts returns how many connections were made, and how many are open when all goroutines are
// idle.
func (s *site) counts() (dials, open int) {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.dials), s.open
}

// transport returns an http.Transport for the site that is not yet configured.
func (s *site) transport() *http.Transport {
	if s.cleartext {
		return priorKnowledge(s.dial)
	}
	return &http.Transport{DialContext: s.dial, TLSClientConfig: h2test.ClientTLS(), ForceAttemptHTTP2: true}
}

// An outcome is the result of a scenario.
type outcome struct {
	text  string
	dials int
	open  int // connections at the end
	took  time.Duration
}

func (o outcome) String() string {
	return fmt.Sprintf("%s; %d connections, %d open, %v", o.text, o.dials, o.open, o.took)
}

// A comparison is a scenario that runs twice in the same kind of http.Transport: with net/http's
// HTTP/2 and with hyper's.
type comparison struct {
	name      string
	cleartext bool
	set       func(*site, *http.Transport)
	act       func(*site, *http.Transport) string
	want      string // the outcome's text
	dials     int    // the most with hyper; 0: as many as with net/http
	stricter  bool   // hyper obeys a limit that net/http exceeds, and takes longer
	alone     bool   // only with hyper: net/http 1.26 hangs
}

// run plays the scenario. If configured is true, hyper configures the http.Transport.
func (c *comparison) run(t *testing.T, configured bool) (o outcome) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, c.cleartext, siteHandler)
		tr := s.transport()
		if c.set != nil {
			c.set(s, tr)
		}
		if configured {
			if err := hyper.ConfigureTransport(tr, nil); err != nil {
				t.Fatal(err)
			}
		}
		defer time.Sleep(2 * time.Minute) // lets handlers that sleep end
		defer s.server.Close()
		defer tr.CloseIdleConnections()
		start := time.Now()
		o.text = c.act(s, tr)
		o.took = time.Since(start)
		o.dials, o.open = s.counts()
	})
	return o
}

// compare plays the scenario with both and compares the outcomes.
func (c *comparison) compare(t *testing.T) {
	ours := c.run(t, true)
	theirs := ours
	if !c.alone {
		theirs = c.run(t, false)
	}
	t.Logf("net/http: %v", theirs)
	t.Logf("hyper:    %v", ours)
	if theirs.text != c.want {
		t.Errorf("net/http came to %q, want %q", theirs.text, c.want)
	}
	if ours.text != c.want {
		t.Errorf("hyper came to %q, want %q", ours.text, c.want)
	}
	if most := c.dials; ours.dials > max(most, theirs.dials) || most > 0 && ours.dials > most {
		t.Errorf("hyper made %d connections, net/http %d", ours.dials, theirs.dials)
	}
	if ours.open > max(theirs.open, c.dials) {
		t.Errorf("hyper keeps %d connections open, net/http %d", ours.open, theirs.open)
	}
	if ours.took > theirs.took+theirs.took/10 && !c.stricter {
		t.Errorf("hyper took %v, net/http %v", ours.took, theirs.took)
	}
}

// siteHandler responds according to the request's path.
func siteHandler(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/slow":
		time.Sleep(time.Second)
	case "/late":
		time.Sleep(time.Minute)
	case "/coding":
		io.WriteString(w, r.Header.Get("Accept-Encoding"))
	case "/wide": // 500 kB of header
		for i := range 50 {
			w.Header().Set(fmt.Sprintf("X-Field-%d", i), strings.Repeat("x", 10000))
		}
	case "/widest": // 9 MB of header
		for i := range 900 {
			w.Header().Set(fmt.Sprintf("X-Field-%d", i), strings.Repeat("x", 10000))
		}
	case "/proxy":
		io.WriteString(w, r.Header.Get("Proxy-Authorization"))
	case "/upload": // reports when the body starts to arrive
		start := time.Now()
		r.Body.Read(make([]byte, 1))
		fmt.Fprintf(w, "after %v", time.Since(start))
	}
}
