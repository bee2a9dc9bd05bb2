package hyper

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
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
	proxy := h2test.NewProxy(t, nil)
	for name, via := range map[string]func(*http.Request) (*url.URL, error){"direct": nil,
		"proxy": http.ProxyURL(proxy.URL)} {
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
func connOf(t *testing.T, rt http.RoundTripper, url string) *Conn {
	t.Helper()
	var conn *Conn
	req, err := http.NewRequestWithContext(WithResponse(t.Context(), func(r *Response) { conn = r.s.c }),
		"GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h2test.Fetch(rt, req); err != nil {
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
			if got, _, err := h2test.Fetch(tr, req); err != nil || got != "without GetBody" {
				t.Errorf("got %q, %v", got, err)
			}
			if n := dials.Load(); n != 2 {
				t.Errorf("%d dials", n)
			}
		})
	}
}
