// This file tests an http.Transport after ConfigureTransport.

package hypertest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// plugged makes tr use hyper for HTTP/2. It returns a counter of dials.
func plugged(t *testing.T, tr *http.Transport, cfg *hyper.Config) (dials *atomic.Int64) {
	t.Helper()
	dials = new(atomic.Int64)
	tr.TLSClientConfig = h2test.ClientTLS()
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	if err := hyper.ConfigureTransport(tr, cfg); err != nil {
		t.Fatal(err)
	}
	return dials
}

func TestConfigureTransportRefusesNonsense(t *testing.T) {
	tr := &http.Transport{}
	if err := hyper.ConfigureTransport(tr, &hyper.Config{MaxFrameSize: 1}); err == nil ||
		tr.TLSNextProto != nil {
		t.Errorf("a Config that cannot be: %v", err)
	}
	if err := hyper.ConfigureTransport(tr, nil); err != nil {
		t.Fatal(err)
	}
	if err := hyper.ConfigureTransport(tr, nil); err == nil {
		t.Error("a second time is no error")
	}
}

func TestConfiguredTransportStillSpeaksHTTP1(t *testing.T) {
	srv, accepted := h2test.HTTP1Server(t, func(w http.ResponseWriter,
		r *http.Request) {
		fmt.Fprint(w, r.Proto)
	}, "http/1.1")
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	plugged(t, tr, nil)
	for range 3 {
		if got := h2test.Get(t, tr, srv.URL); got != "HTTP/1.1" {
			t.Errorf("got %q", got)
		}
	}
	if n := accepted.Accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// newReverseProxy starts a ReverseProxy with a Transport in front of h. It returns the proxy's URL
// and a Transport to use it.
func newReverseProxy(t *testing.T, h http.HandlerFunc) (string, *hyper.Transport) {
	t.Helper()
	backend, tr := newServer(t, h)
	to, _ := url.Parse(backend.URL)
	proxy := &httputil.ReverseProxy{
		Transport: tr,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.SetXForwarded()
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	front, client := newServer(t, proxy.ServeHTTP)
	return front.URL, client
}

func TestReverseProxyStreamsBothWays(t *testing.T) {
	front, client := newReverseProxy(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 || r.Header.Get("X-Forwarded-For") != "127.0.0.1" ||
			r.Header.Get("X-Forwarded-Proto") != "https" {
			t.Errorf("the backend got %s with %v", r.Proto, r.Header)
		}
		w.Header().Set("Trailer", "X-Lines")
		w.(http.Flusher).Flush()
		n := 0
		for lines := bufio.NewScanner(r.Body); lines.Scan(); n++ {
			fmt.Fprintf(w, "echo %s\n", lines.Text())
			w.(http.Flusher).Flush()
		}
		w.Header().Set("X-Lines", fmt.Sprint(n))
	})
	body, lines := io.Pipe()
	req, _ := http.NewRequestWithContext(t.Context(), "POST", front, body)
	resp, err := client.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answers := bufio.NewReader(resp.Body)
	for i := range 5 { // each line is echoed before the next is written
		fmt.Fprintln(lines, "line", i)
		if got, err := answers.ReadString('\n'); err != nil || got != fmt.Sprint("echo line ", i, "\n") {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	lines.Close()
	if rest, err := io.ReadAll(answers); err != nil || len(rest) > 0 {
		t.Errorf("got %q, %v", rest, err)
	}
	if got := resp.Trailer.Get("X-Lines"); got != "5" {
		t.Errorf("trailers %v", resp.Trailer)
	}
}

func TestReverseProxyPassesTheClientsAbortOn(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	front, client := newReverseProxy(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		close(begun)
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", front, nil)
	resp, err := client.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	<-begun
	cancel()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the backend goes on")
	}
}

func TestReverseProxyHandsUpgradesOn(t *testing.T) {
	backend, tr := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Proto != "HTTP/1.1" || r.Header.Get("Upgrade") == "" {
			t.Errorf("the backend got %s with %v", r.Proto, r.Header)
		}
		nc, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer nc.Close()
		io.WriteString(nc,
			"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		line, _ := rw.ReadString('\n')
		io.WriteString(nc, "echo "+line)
	})
	to, _ := url.Parse(backend.URL)
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport, proxy.ErrorLog = tr, log.New(io.Discard, "", 0)
	front := httptest.NewServer(proxy)
	defer front.Close()
	for _, test := range []struct {
		protocol string
		status   int
		// As with net/http, a protocol that cannot be carried over HTTP/2 is refused.
	}{{"websocket", 101}, {"spdy/3.1", 502}} {
		nc, err := net.Dial("tcp", front.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(nc, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n",
			test.protocol)
		br := bufio.NewReader(nc)
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode != test.status {
			t.Fatalf("%s: %v, %v", test.protocol, resp, err)
		}
		if test.status == 101 {
			io.WriteString(nc, "hello\n")
			h2test.WantBody(t, "through both", br, "echo hello\n")
		}
		nc.Close()
	}
}

func TestConfiguredTransportKeepsItsDialerAndProxy(t *testing.T) {
	srv := h2test.HTTP2Server(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto, " ", r.UserAgent())
	})
	proxy := h2test.NewProxy(t, nil)
	for name, via := range map[string]func(*http.Request) (*url.URL, error){"direct": nil,
		"proxy": http.ProxyURL(proxy.URL)} {
		t.Run(name, func(t *testing.T) {
			var frames atomic.Int64
			tr := &http.Transport{Proxy: via, IdleConnTimeout: time.Minute}
			dials := plugged(t, tr, &hyper.Config{UserAgent: "through hyper",
				Trace: func(hyper.TraceEvent) { frames.Add(1) }})
			var wg sync.WaitGroup
			made := int64(-1)
			// net/http returns the response before it has added a new connection to its pool.
			for made != dials.Load() {
				made = dials.Load()
				h2test.Get(t, tr, srv.URL)
			}
			for range 20 {
				wg.Go(func() {
					if got := h2test.Get(t, tr, srv.URL); got != "HTTP/2.0 through hyper" {
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
	if len(proxy.Requests()) == 0 {
		t.Error("the proxy was not asked")
	}
}

// connOf makes a request and returns the connection that served it.
func connOf(t *testing.T, rt http.RoundTripper, url string) *hyper.Conn {
	t.Helper()
	var conn *hyper.Conn
	ctx := hyper.WithResponse(t.Context(), func(r *hyper.Response) { conn = r.Stream().Conn() })
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h2test.Fetch(rt, req); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestConfiguredTransportReplacesAConnectionThatEnded(t *testing.T) {
	srv := h2test.HTTP2Server(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s", body)
	})
	for name, end := range map[string]func(*hyper.Conn){
		"the server closed it": func(*hyper.Conn) { srv.CloseClientConnections() },
		"it was idle":          func(*hyper.Conn) {},
		"it is shut down":      func(c *hyper.Conn) { c.Shutdown(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			tr := &http.Transport{IdleConnTimeout: time.Minute}
			if name == "it was idle" {
				tr.IdleConnTimeout = 500 * time.Millisecond // more than between two steps of a slow machine
			}
			dials := plugged(t, tr, nil)
			conn := connOf(t, tr, srv.URL)
			end(conn)
			<-conn.Done()
			req, _ := http.NewRequest("POST", srv.URL, iotestReader{strings.NewReader("without GetBody")})
			if got, _, err := h2test.Fetch(tr, req); err != nil || got != "without GetBody" {
				t.Errorf("got %q, %v", got, err)
			}
			if n := dials.Load(); n != 2 {
				t.Errorf("%d dials", n)
			}
		})
	}
}
