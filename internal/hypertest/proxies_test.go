// This file tests proxies: CONNECT over HTTP/1.1 and HTTP/2, SOCKS, and the environment.

package hypertest

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// through makes tr use a proxy, and records the addresses that tr dials.
func through(tr *hyper.Transport, u *url.URL) (dialled func() []string) {
	var mu sync.Mutex
	var addrs []string
	tr.Proxy = http.ProxyURL(u)
	tr.Config.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		mu.Lock()
		addrs = append(addrs, addr)
		mu.Unlock()
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(addrs)
	}
}

// tell responds with what reached the origin.
func tell(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s %s auth=%q", r.Proto, r.Host, r.Header.Get("Proxy-Authorization"))
}

func TestTunnelThroughAProxy(t *testing.T) {
	for name, config := range map[string]*tls.Config{"http": nil, "https": h2test.ServerTLS(),
		"https with ALPN": h2test.ServerTLS("http/1.1")} {
		for _, user := range []*url.Userinfo{nil, url.UserPassword("Aladdin", "open sesame"),
			url.User("token")} {
			t.Run(fmt.Sprint(name, " ", user), func(t *testing.T) {
				origin, tr := newServer(t, tell)
				proxy := h2test.NewProxy(t, config)
				proxy.URL.User = user
				dialled := through(tr, proxy.URL)
				tr.ProxyConnectHeader = http.Header{"X-For-Proxy": {"yes"}}
				for range 5 {
					req, _ := http.NewRequest("GET", origin.URL, nil)
					req.Header.Set("Proxy-Authorization", "the caller's own")
					body, _, err := h2test.Fetch(tr, req)
					if want := fmt.Sprintf("HTTP/2.0 %s auth=%q", origin.Listener.Addr(),
						"the caller's own"); err != nil || body != want {
						t.Fatalf("the origin got %q, %v, want %q", body, err, want)
					}
				}
				asked := proxy.Requests()
				if len(asked) != 1 {
					t.Fatalf("the proxy was asked %d times", len(asked))
				}
				want := ""
				if user != nil {
					password, _ := user.Password()
					want = "Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password))
				}
				r := asked[0]
				if r.Method != "CONNECT" || r.Host != origin.Listener.Addr().String() ||
					r.Header.Get("Proxy-Authorization") != want || r.Header.Get("X-For-Proxy") != "yes" {
					t.Errorf("the proxy got %s %s %v", r.Method, r.Host, r.Header)
				}
				if slices.Contains(dialled(), origin.Listener.Addr().String()) {
					t.Error("the origin was dialled past the proxy")
				}
			})
		}
	}
}

// newHTTP2Proxy starts a proxy that speaks HTTP/2. It returns the proxy's URL and a function that
// returns the number of its connections.
func newHTTP2Proxy(t *testing.T, judge func(w http.ResponseWriter, r *http.Request) bool) (u *url.URL,
	conns func() int) {
	var mu sync.Mutex
	n := 0
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "CONNECT" || !judge(w, r) {
			return
		}
		nc, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(502)
			return
		}
		defer nc.Close()
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		go func() { io.Copy(nc, r.Body); nc.Close() }()
		buf := make([]byte, 16<<10)
		for {
			n, err := nc.Read(buf)
			w.Write(buf[:n])
			w.(http.Flusher).Flush()
			if err != nil {
				return
			}
		}
	}))
	srv.TLS, srv.EnableHTTP2 = h2test.ServerTLS(), true
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			mu.Lock()
			n++
			mu.Unlock()
		}
	}
	srv.StartTLS()
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	u, _ = url.Parse(srv.URL)
	return u, func() int { mu.Lock(); defer mu.Unlock(); return n }
}

func TestTunnelsShareAConnectionToAnHTTP2Proxy(t *testing.T) {
	var mu sync.Mutex
	var hosts, auths []string
	u, conns := newHTTP2Proxy(t, func(_ http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		hosts, auths = append(hosts, r.Host), append(auths, r.Header.Get("Proxy-Authorization"))
		return true
	})
	u.User = url.UserPassword("a", "b")
	one, tr := newServer(t, tell)
	two := h2test.HTTP2Server(t, tell)
	through(tr, u)
	var wg sync.WaitGroup
	for range 20 {
		for _, origin := range []*httptest.Server{one, two} {
			wg.Go(func() {
				if body := h2test.Get(t, tr, origin.URL); !strings.HasPrefix(body,
					"HTTP/2.0 "+origin.Listener.Addr().String()) || !strings.HasSuffix(body, `auth=""`) {
					t.Errorf("the origin got %q", body)
				}
			})
		}
	}
	wg.Wait()
	if conns() != 1 || len(hosts) != 2 {
		t.Errorf("%d connections to the proxy, with tunnels to %v", conns(), hosts)
	}
	for _, auth := range auths {
		if auth != "Basic YTpi" {
			t.Errorf("the proxy got %q", auth)
		}
	}
}

func TestRefusalOfAProxyIsConnectStatusError(t *testing.T) {
	plain := h2test.NewProxy(t, nil)
	plain.Answer(func(nc net.Conn, _ *http.Request) bool {
		io.WriteString(nc,
			"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic "+
				"realm=x\r\nContent-Length: 4\r\n\r\nsorry")
		return true
	})
	secure, _ := newHTTP2Proxy(t, func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Proxy-Authenticate", "Basic realm=x")
		w.WriteHeader(407)
		return false
	})
	for _, u := range []*url.URL{plain.URL, secure} {
		t.Run(u.Scheme, func(t *testing.T) {
			origin, tr := newServer(t, tell)
			dialled := through(tr, u)
			req, _ := http.NewRequest("GET", origin.URL, nil)
			_, _, err := h2test.Fetch(tr, req)
			var refused *hyper.ConnectStatusError
			if !errors.As(err, &refused) || refused.StatusCode != 407 ||
				refused.Header.Get("proxy-authenticate") != "Basic realm=x" {
				t.Errorf("got %v", err)
			}
			if err != nil && !strings.Contains(err.Error(), u.Host) {
				t.Errorf("%v does not name the proxy", err)
			}
			if len(dialled()) > 1 || dialled()[0] != u.Host {
				t.Errorf("dialled %v", dialled())
			}
		})
	}
}

// serveSOCKS plays a SOCKS5 server (RFC 1928) with passwords (RFC 1929), which accepts CONNECT to
// names.
func serveSOCKS(l *h2test.Listener, nc net.Conn, user, password string, asked func(host string)) {
	read := func(n int) []byte {
		p := make([]byte, n)
		io.ReadFull(nc, p)
		return p
	}
	read(int(read(2)[1]))
	if user != "" {
		nc.Write([]byte{5, 2})
		gotUser := string(read(int(read(2)[1])))
		gotPassword := string(read(int(read(1)[0])))
		if gotUser != user || gotPassword != password {
			nc.Write([]byte{1, 1})
			return
		}
		nc.Write([]byte{1, 0})
	} else {
		nc.Write([]byte{5, 0})
	}
	var host string
	switch read(4)[3] {
	case 1:
		host = net.IP(read(4)).String()
	case 3:
		host = string(read(int(read(1)[0])))
	}
	port := binary.BigEndian.Uint16(read(2))
	asked(host)
	nc.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	l.Splice(nc, fmt.Sprint("127.0.0.1:", port), nil)
}

func TestSOCKS5Proxy(t *testing.T) {
	for _, user := range []string{"", "me"} {
		t.Run("user "+user, func(t *testing.T) {
			origin, tr := newServer(t, tell)
			var mu sync.Mutex
			var hosts []string
			l := h2test.Listen(t, func(l *h2test.Listener, nc net.Conn) {
				serveSOCKS(l, nc, user, "secret", func(host string) {
					mu.Lock()
					defer mu.Unlock()
					hosts = append(hosts, host)
				})
			})
			u := &url.URL{Scheme: "socks5", Host: l.Addr().String()}
			if user != "" {
				u.User = url.UserPassword(user, "secret")
			}
			dialled := through(tr, u)
			_, port, _ := net.SplitHostPort(origin.Listener.Addr().String())
			for range 3 {
				if got := h2test.Get(t, tr, "https://www.example.com:"+port); got !=
					`HTTP/2.0 www.example.com:`+port+` auth=""` {
					t.Errorf("the origin got %q", got)
				}
			}
			// The proxy gets the name and not an address, and resolves the name itself.
			if !slices.Equal(hosts, []string{"www.example.com"}) {
				t.Errorf("the proxy was asked for %q", hosts)
			}
			if !slices.Equal(dialled(), []string{u.Host}) {
				t.Errorf("dialled %v", dialled())
			}
			if user == "" {
				return
			}
			u.User = url.UserPassword(user, "wrong")
			req, _ := http.NewRequest("GET", "https://other.example.com:"+port, nil)
			if _, _, err := h2test.Fetch(tr, req); err == nil {
				t.Error("a wrong password is no error")
			}
		})
	}
}

func TestProxyThatHangs(t *testing.T) {
	silent := h2test.Listen(t, func(_ *h2test.Listener, nc net.Conn) { io.Copy(io.Discard, nc) })
	slow := h2test.NewProxy(t, h2test.ServerTLS())
	slow.Answer(func(nc net.Conn, _ *http.Request) bool { io.Copy(io.Discard, nc); return true })
	never := make(chan struct{})
	tunnel, _ := newHTTP2Proxy(t, func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-never:
		case <-r.Context().Done():
		}
		return false
	})
	for name, u := range map[string]*url.URL{
		"no answer to CONNECT": {Scheme: "http", Host: silent.Addr().String()},
		"no TLS handshake":     {Scheme: "https", Host: silent.Addr().String()},
		"no answer, TLS":       slow.URL,
		"no answer, HTTP/2":    tunnel,
		"no answer, SOCKS":     {Scheme: "socks5", Host: silent.Addr().String()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := &hyper.Transport{Config: &hyper.Config{TLS: h2test.ClientTLS(),
				HandshakeTimeout: 200 * time.Millisecond}}
			through(tr, u)
			defer tr.CloseIdleConnections()
			req, _ := http.NewRequest("GET", "https://example.com", nil)
			_, _, err := h2test.Fetch(tr, req)
			var ne net.Error
			if !errors.As(err, &ne) || !ne.Timeout() {
				t.Errorf("HandshakeTimeout: got %v", err)
			}

			tr = &hyper.Transport{Config: &hyper.Config{TLS: h2test.ClientTLS(),
				HandshakeTimeout: time.Minute}}
			through(tr, u)
			defer tr.CloseIdleConnections()
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if _, err := tr.RoundTrip(req.WithContext(ctx)); err != context.DeadlineExceeded {
				t.Errorf("context: got %v", err)
			}
		})
	}
}

func TestProxyThatBreaksTheProtocol(t *testing.T) {
	for name, answer := range map[string]func(nc net.Conn) (written int){
		"another protocol": func(nc net.Conn) int {
			n,
				_ := io.WriteString(nc, "SSH-2.0-OpenSSH_9.2\r\n")
			return n
		},
		"nothing": func(nc net.Conn) int { return 0 },
		"half a header": func(nc net.Conn) int {
			n,
				_ := io.WriteString(nc, "HTTP/1.1 200 OK\r\nX: y")
			return n
		},
		"an endless header": func(nc net.Conn) (n int) {
			io.WriteString(nc, "HTTP/1.1 200 OK\r\n")
			for n < 64<<20 {
				m, err := io.WriteString(nc, "X-Filler: "+strings.Repeat("x", 4096)+"\r\n")
				if n += m; err != nil {
					break
				}
			}
			return n
		},
		"an endless line": func(nc net.Conn) (n int) {
			for n < 64<<20 {
				m, err := io.WriteString(nc, strings.Repeat("x", 4096))
				if n += m; err != nil {
					break
				}
			}
			return n
		},
	} {
		t.Run(name, func(t *testing.T) {
			written := make(chan int, 10)
			proxy := h2test.NewProxy(t, nil)
			proxy.Answer(func(nc net.Conn, _ *http.Request) bool { written <- answer(nc); return true })
			origin, tr := newServer(t, tell)
			through(tr, proxy.URL)
			req, _ := http.NewRequest("GET", origin.URL, nil)
			if body, _, err := h2test.Fetch(tr, req); err == nil ||
				!strings.Contains(err.Error(), "proxyconnect tcp "+proxy.URL.Host) {
				t.Errorf("got %q, %v", body, err)
			}
			if n := <-written; n >= 64<<20 {
				t.Errorf("it read %d octets of it", n)
			}
		})
	}
}

// An earlyWriter sends the first bytes of the first write together with a proxy's response.
type earlyWriter struct {
	net.Conn
	answered bool
}

func (w *earlyWriter) Write(p []byte) (int, error) {
	if w.answered {
		return w.Conn.Write(p)
	}
	w.answered = true
	if _, err := w.Conn.Write(append([]byte("HTTP/1.1 200 OK\r\n\r\n"), p[:5]...)); err != nil {
		return 0, err
	}
	n, err := w.Conn.Write(p[5:])
	return n + 5, err
}

func TestBytesBehindTheProxysAnswerAreNotLost(t *testing.T) {
	proxy := h2test.NewProxy(t, nil)
	proxy.Answer(func(nc net.Conn, req *http.Request) bool {
		peer := h2test.NewPeer(t, &earlyWriter{Conn: nc}) // an origin that sends first
		peer.Serve(func(stream uint32, _ h2test.Headers) { h2test.AnswerEmpty(peer, stream) })
		<-t.Context().Done()
		return true
	})
	tr := &hyper.Transport{UnencryptedHTTP2: true, Config: &hyper.Config{}}
	t.Cleanup(tr.CloseIdleConnections)
	through(tr, proxy.URL)
	req, _ := http.NewRequest("GET", "http://example.com", nil)
	if _, resp, err := h2test.Fetch(tr, req); err != nil || resp.StatusCode != 204 {
		t.Errorf("got %v, %v", resp, err)
	}
}

func TestPoolIsPerProxy(t *testing.T) {
	// In another client, a request for another proxy or for none used the host's connection and
	// bypassed the proxy (imroc/req#541).
	origin, tr := newServer(t, tell)
	one, two := h2test.NewProxy(t, nil), h2test.NewProxy(t, nil)
	direct := through(tr, nil)
	broken := errors.New("no proxy to be had")
	var err error
	var u *url.URL
	tr.Proxy = func(*http.Request) (*url.URL, error) { return u, err }
	for range 3 {
		for _, u = range []*url.URL{nil, one.URL, two.URL} {
			h2test.Get(t, tr, origin.URL)
		}
	}
	if a, b := len(one.Requests()), len(two.Requests()); a != 1 || b != 1 {
		t.Errorf("tunnels through the proxies: %d and %d, want one each", a, b)
	}
	addrs := direct()
	slices.Sort(addrs)
	want := []string{one.URL.Host, two.URL.Host, origin.Listener.Addr().String()}
	slices.Sort(want)
	if !slices.Equal(addrs, want) {
		t.Errorf("dialled %v, want %v", addrs, want)
	}
	err = broken
	for _, url := range []string{origin.URL, "http://" + origin.Listener.Addr().String()} {
		req, _ := http.NewRequest("GET", url, nil)
		if _, _, err := h2test.Fetch(tr, req); !errors.Is(err, broken) {
			t.Errorf("%s: the proxy is not known, and the request got %v", url, err)
		}
	}
	err, u = nil, &url.URL{Scheme: "gopher", Host: "127.0.0.1:70"}
	req, _ := http.NewRequest("GET", origin.URL, nil)
	if _, _, err := h2test.Fetch(tr, req); err == nil || !strings.Contains(err.Error(), "gopher") {
		t.Errorf("an unknown kind of proxy: %v", err)
	}
}

func TestHTTP1GoesThroughTheProxyToo(t *testing.T) {
	proxy := h2test.NewProxy(t, nil)
	proxy.URL.User = url.UserPassword("a", "b")
	old := httptest.NewUnstartedServer(http.HandlerFunc(tell))
	old.TLS = h2test.ServerTLS("http/1.1")
	old.StartTLS()
	defer old.Close()
	tr := &hyper.Transport{Config: &hyper.Config{TLS: h2test.ClientTLS()}}
	defer tr.CloseIdleConnections()
	dialled := through(tr, proxy.URL)
	for range 3 {
		req, _ := http.NewRequest("GET", old.URL, nil)
		req.Header.Set("Proxy-Authorization", "the caller's own")
		if got, _, err := h2test.Fetch(tr, req); err != nil ||
			got != fmt.Sprintf("HTTP/1.1 %s auth=%q", old.Listener.Addr(), "the caller's own") {
			t.Errorf("the origin got %q, %v", got, err)
		}
	}
	for _, r := range proxy.Requests() {
		if r.Method != "CONNECT" || r.Header.Get("Proxy-Authorization") != "Basic YTpi" {
			t.Errorf("the proxy got %s %v", r.Method, r.Header)
		}
	}
	// The proxy forwards an http request itself, without a tunnel.
	proxy.Answer(func(nc net.Conn, r *http.Request) bool {
		fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(r.RequestURI), r.RequestURI)
		return true
	})
	if got := h2test.Get(t, tr, "http://plain.example/path"); got != "http://plain.example/path" {
		t.Errorf("the proxy got %q", got)
	}
	if slices.Contains(dialled(), old.Listener.Addr().String()) ||
		slices.Contains(dialled(), "plain.example:80") {
		t.Errorf("dialled %v, past the proxy", dialled())
	}
}

// net/http reads the environment only once, so the test runs in a process of its own.
func TestEnvironmentDecidesWhereProxyIsNil(t *testing.T) {
	const role = "HYPER_TEST_PROXY_FROM_ENVIRONMENT"
	if to := os.Getenv(role); to != "" {
		tr := &hyper.Transport{Config: &hyper.Config{TLS: &tls.Config{InsecureSkipVerify: true},
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				if strings.HasPrefix(addr, "direct.example.com:") {
					addr = to
				}
				return new(net.Dialer).DialContext(ctx, network, addr)
			}}}
		fmt.Printf("proxied %s\ndirect %s\n", h2test.Get(t, tr, "https://www.example.com/"),
			h2test.Get(t, tr, "https://direct.example.com/"))
		return
	}
	origin := h2test.HTTP2Server(t, tell)
	proxy := h2test.NewProxy(t, nil)
	proxy.Route("www.example.com:443", origin.Listener.Addr().String())
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestEnvironmentDecidesWhereProxyIsNil$",
		"-test.count=1")
	cmd.Env = append(os.Environ(), role+"="+origin.Listener.Addr().String(),
		"HTTPS_PROXY="+proxy.URL.String(), "NO_PROXY=direct.example.com")
	out, err := cmd.CombinedOutput()
	want := "proxied HTTP/2.0 www.example.com auth=\"\"\ndirect HTTP/2.0 direct.example.com auth=\"\"\n"
	if err != nil || !strings.HasPrefix(string(out), want) {
		t.Fatalf("%v\n%s", err, out)
	}
	if asked := proxy.Requests(); len(asked) != 1 || asked[0].Host != "www.example.com:443" {
		t.Errorf("the proxy was asked %d times", len(asked))
	}
}
