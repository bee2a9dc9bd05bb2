// This file tests http.Client with a Transport, beside HTTP/1.1.

package hypertest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

func TestRedirectsOverTransport(t *testing.T) {
	srv, tr := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if code := r.URL.Query().Get("code"); code != "" {
			w.Header().Set("Location", "/end")
			var status int
			fmt.Sscan(code, &status)
			w.WriteHeader(status)
			io.WriteString(w, "<a href=/end>there</a>")
			return
		}
		fmt.Fprintf(w, "%s %s %q", r.Method, r.URL.Path, body)
	})
	for _, test := range []struct {
		status int
		want   string
	}{
		{301, `GET /end ""`}, {302, `GET /end ""`}, {303, `GET /end ""`},
		{307, `POST /end "the body"`}, {308, `POST /end "the body"`},
	} {
		for name, body := range map[string]func(*http.Request){
			"memory": func(*http.Request) {},
			// GetBody is not replaced.
			"GetBody": func(req *http.Request) { req.Body = io.NopCloser(iotestReader{req.Body}) },
		} {
			t.Run(fmt.Sprint(test.status, " ", name), func(t *testing.T) {
				req, err := http.NewRequest("POST", fmt.Sprint(srv.URL, "/start?code=", test.status),
					strings.NewReader("the body"))
				if err != nil {
					t.Fatal(err)
				}
				body(req)
				got, resp, err := h2test.Fetch(tr, req)
				if err != nil || got != test.want || resp.Request.URL.Path != "/end" {
					t.Errorf("got %q, %v, want %q", got, err, test.want)
				}
			})
		}
	}
}

// iotestReader hides the type of the reader that it wraps.
type iotestReader struct{ io.Reader }

func TestCookiesAndBasicAuthOverTransport(t *testing.T) {
	srv, tr := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "user" || password != "p:ä" {
			w.WriteHeader(401)
			return
		}
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
		http.SetCookie(w, &http.Cookie{Name: "b", Value: "2", Path: "/"})
		for _, c := range r.Cookies() {
			fmt.Fprintf(w, "%s=%s;", c.Name, c.Value)
		}
	})
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: tr, Jar: jar}
	u, _ := url.Parse(srv.URL)
	for i, want := range []string{"", "a=1;b=2;"} {
		u.User = url.UserPassword("user", "p:ä")
		resp, err := client.Get(u.String())
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || string(body) != want {
			t.Errorf("request %d: %d %q, %v, want %q", i, resp.StatusCode, body, err, want)
		}
	}
}

func TestTimeoutsInEachPhase(t *testing.T) {
	stuck := make(chan struct{})
	srv := h2test.HTTP2Server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			io.WriteString(w, "the beginning")
			w.(http.Flusher).Flush()
		}
		select {
		case <-stuck:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(stuck) })
	silent := h2test.Listen(t, func(_ *h2test.Listener, nc net.Conn) { io.Copy(io.Discard, nc) })
	blackHole := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for _, phase := range []struct {
		name, url string
		dial      func(context.Context, string, string) (net.Conn, error)
		own       func(*hyper.Transport) // sets the Transport's own timeout for this phase
	}{
		{"dial", "https://example.com", blackHole,
			func(tr *hyper.Transport) { tr.Config.HandshakeTimeout = 50 * time.Millisecond }},
		{"TLS handshake", "https://" + silent.Addr().String(), nil,
			func(tr *hyper.Transport) { tr.Config.HandshakeTimeout = 50 * time.Millisecond }},
		{"header", srv.URL + "/header", nil,
			func(tr *hyper.Transport) { tr.ResponseHeaderTimeout = 50 * time.Millisecond }},
		{"body", srv.URL + "/body", nil, nil},
	} {
		within := 50 * time.Millisecond
		if phase.name == "body" {
			within = time.Second // the beginning must arrive before
		}
		for name, limit := range map[string]func(*hyper.Transport, *http.Client,
			*http.Request) (*http.Request,
			context.CancelFunc){
			"Client.Timeout": func(_ *hyper.Transport, c *http.Client, req *http.Request) (*http.Request,
				context.CancelFunc) {
				c.Timeout = within
				return req, func() {}
			},
			"context": func(_ *hyper.Transport, _ *http.Client, req *http.Request) (*http.Request,
				context.CancelFunc) {
				ctx, cancel := context.WithTimeout(req.Context(), within)
				return req.WithContext(ctx), cancel
			},
			"Transport": func(tr *hyper.Transport, _ *http.Client, req *http.Request) (*http.Request,
				context.CancelFunc) {
				phase.own(tr)
				return req, func() {}
			},
		} {
			if name == "Transport" && phase.own == nil {
				continue
			}
			t.Run(phase.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				tr := &hyper.Transport{Proxy: hyper.NoProxy, Config: &hyper.Config{TLS: h2test.ClientTLS(),
					DialContext: phase.dial}}
				client := &http.Client{Transport: tr}
				req, err := http.NewRequestWithContext(t.Context(), "GET", phase.url, nil)
				if err != nil {
					t.Fatal(err)
				}
				req, cancel := limit(tr, client, req)
				defer cancel()
				resp, err := client.Do(req)
				// On a busy machine the header may come too late, and Do returns an error.
				if phase.name == "body" && err == nil {
					var got []byte
					got, err = io.ReadAll(resp.Body)
					resp.Body.Close()
					if string(got) != "the beginning" {
						t.Errorf("read %q", got)
					}
				} else {
					var ue *url.Error
					if !errors.As(err, &ue) || !ue.Timeout() {
						t.Errorf("url.Error.Timeout is false of %v", err)
					}
				}
				var ne net.Error
				if !errors.As(err, &ne) || !ne.Timeout() {
					t.Errorf("%v is no timeout", err)
				}
				if name != "Transport" && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v is not context.DeadlineExceeded", err)
				}
				tr.CloseIdleConnections()
			})
		}
	}
}

func TestTLSSessionIsResumed(t *testing.T) {
	srv, tr := newServer(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.TLS.DidResume) })
	for _, want := range []string{"false", "true", "true"} {
		req, _ := http.NewRequest("GET", srv.URL, nil)
		got, resp, err := h2test.Fetch(tr, req)
		if err != nil || got != want || fmt.Sprint(resp.TLS.DidResume) != want {
			t.Errorf("resumed: %s, %v, want %s", got, err, want)
		}
		tr.CloseIdleConnections()
	}
}

func TestCertificateErrorsOverTransport(t *testing.T) {
	srv, tr := newServer(t, func(http.ResponseWriter, *http.Request) {})
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	tr.Config.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, srv.Listener.Addr().String())
	}
	_, err := (&http.Client{Transport: tr}).Get("https://wrong.example.org:" + port)
	var ue *url.Error
	var he x509.HostnameError
	if !errors.As(err, &ue) || !errors.As(err, &he) || he.Host != "wrong.example.org" {
		t.Errorf("another name: %v", err)
	}
	stranger := &hyper.Transport{Proxy: hyper.NoProxy,
		Config: &hyper.Config{TLS: &tls.Config{RootCAs: x509.NewCertPool()}}}
	_, err = (&http.Client{Transport: stranger}).Get(srv.URL)
	var ua x509.UnknownAuthorityError
	if !errors.As(err, &ue) || !errors.As(err, &ua) {
		t.Errorf("an unknown authority: %v", err)
	}
}

func TestBurstOnAServerWithoutHTTP2(t *testing.T) {
	srv, accepted := h2test.HTTP1Server(t, func(w http.ResponseWriter,
		r *http.Request) {
		fmt.Fprint(w, r.Proto)
	}, "http/1.1")
	tr := &hyper.Transport{Proxy: hyper.NoProxy, MaxConnsPerHost: 4,
		Config: &hyper.Config{TLS: h2test.ClientTLS()}}
	defer tr.CloseIdleConnections()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if got := h2test.Get(t, tr, srv.URL); got != "HTTP/1.1" {
				t.Errorf("got %q", got)
			}
		})
	}
	wg.Wait()
	if n := accepted.Accepted.Load(); n > 4 {
		t.Errorf("%d connections, of 4", n)
	}
}

func TestCleartextRequests(t *testing.T) {
	h1 := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter,
		r *http.Request) {
		fmt.Fprint(w, r.Proto)
	}))
	defer h1.Close()
	h2c := httptest.NewUnstartedServer(h1.Config.Handler)
	h2c.Config.Protocols = new(http.Protocols)
	h2c.Config.Protocols.SetHTTP1(true)
	h2c.Config.Protocols.SetUnencryptedHTTP2(true)
	h2c.Start()
	defer h2c.Close()
	for _, test := range []struct {
		url   string
		prior bool
		want  string
	}{{h1.URL, false, "HTTP/1.1"}, {h2c.URL, false, "HTTP/1.1"}, {h2c.URL, true, "HTTP/2.0"}} {
		tr := &hyper.Transport{Proxy: hyper.NoProxy, UnencryptedHTTP2: test.prior}
		if got := h2test.Get(t, tr, test.url); got != test.want {
			t.Errorf("prior knowledge %v: got %s, want %s", test.prior, got, test.want)
		}
		tr.CloseIdleConnections()
	}
}

func TestWebsocketUpgradeGoesToTheFallback(t *testing.T) {
	upgrade := func(w http.ResponseWriter, r *http.Request) {
		if r.Proto != "HTTP/1.1" || r.Header.Get("Upgrade") != "websocket" {
			w.WriteHeader(400)
			return
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
	}
	srv, tr := newServer(t, upgrade)
	get := func(tr *hyper.Transport) (*http.Response, error) {
		req, _ := http.NewRequest("GET", srv.URL, nil)
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "websocket")
		return tr.RoundTrip(req)
	}
	resp, err := get(tr)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("%v, %v", resp, err)
	}
	rw := resp.Body.(io.ReadWriteCloser)
	io.WriteString(rw, "hello\n")
	h2test.WantBody(t, "both ways", rw, "echo hello\n")
	rw.Close()

	own := &hyper.Transport{Proxy: hyper.NoProxy}
	own.Fallback = h2test.RoundTripFunc(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 299, Body: http.NoBody}, nil
	})
	if resp, err := get(own); err != nil || resp.StatusCode != 299 {
		t.Errorf("the caller's own fallback: %v, %v", resp, err)
	}
	old, _ := h2test.HTTP1Server(t, func(w http.ResponseWriter, r *http.Request) {}, "http/1.1")
	own.Config = &hyper.Config{TLS: h2test.ClientTLS()}
	for _, url := range []string{old.URL, "http://example.com"} {
		if resp, err := own.RoundTrip(httptest.NewRequest("GET", url, nil)); err != nil ||
			resp.StatusCode != 299 {
			t.Errorf("%s with the caller's own fallback: %v, %v", url, resp, err)
		}
	}
}

func TestPushOverTransport(t *testing.T) {
	srv, tr := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/style.css" {
			io.WriteString(w, "the style")
			return
		}
		if err := w.(http.Pusher).Push("/style.css", nil); err != nil {
			t.Error(err)
		}
		io.WriteString(w, "the page")
	})
	tr.Config.Push = &hyper.PushPolicy{}
	var page *hyper.Response
	ctx := hyper.WithResponse(t.Context(), func(r *hyper.Response) { page = r })
	req, _ := http.NewRequestWithContext(ctx, "GET", srv.URL, nil)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if same, ok := hyper.ResponseFromHTTP(resp); !ok || same != page {
		t.Error("ResponseFromHTTP and WithResponse differ")
	}
	n := 0
	for push, err := range page.Pushes(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		pushed, err := push.Response(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if push.Request.Path != "/style.css" {
			t.Errorf("promised %s", push.Request.Path)
		}
		h2test.WantBody(t, "the push", pushed.Body, "the style")
		pushed.Body.Close()
	}
	if n != 1 {
		t.Errorf("%d pushes", n)
	}
	h2test.WantBody(t, "the page", resp.Body, "the page")
}

func TestLargeBodiesOverTransport(t *testing.T) {
	srv, tr := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		n, err := io.Copy(w, r.Body)
		w.Header().Set("X-Sum", fmt.Sprint(n, err))
	})
	data := bytes.Repeat([]byte("0123456789abcdef"), 256<<10)
	req, _ := http.NewRequest("PUT", srv.URL, io.NopCloser(iotestReader{bytes.NewReader(data)}))
	got, resp, err := h2test.Fetch(tr, req)
	if err != nil || got != string(data) || resp.Trailer.Get("X-Sum") != fmt.Sprint(len(data), " <nil>") {
		t.Errorf("%d octets came back of %d, %v, %v", len(got), len(data), resp.Trailer, err)
	}
}

// The last bytes of a connection arrive through every kind of tunnel: GOAWAY, and close_notify
// after it.
func TestGoAwayArrivesThroughProxies(t *testing.T) {
	h2, _ := newHTTP2Proxy(t, func(http.ResponseWriter, *http.Request) bool { return true })
	socks := h2test.Listen(t, func(l *h2test.Listener,
		nc net.Conn) {
		serveSOCKS(l, nc, "", "", func(string) {})
	})
	for name, u := range map[string]*url.URL{
		"http":   h2test.NewProxy(t, nil).URL,
		"https":  h2test.NewProxy(t, h2test.ServerTLS("http/1.1")).URL,
		"http/2": h2,
		"socks5": {Scheme: "socks5", Host: socks.Addr().String()},
	} {
		t.Run(name, func(t *testing.T) {
			type end struct {
				octets []byte
				err    error
			}
			ends := make(chan end, 10) // results of the tries
			origin := h2test.Listen(t, func(_ *h2test.Listener, nc net.Conn) {
				tc := h2test.TLSServer(nc, "h2")
				tc.Write(wire.AppendData(wire.AppendSettings(nil), 9, 0, []byte("on an idle stream")))
				octets, err := io.ReadAll(tc)
				ends <- end{octets, err}
			})
			tr := &hyper.Transport{Config: &hyper.Config{TLS: h2test.ClientTLS()}}
			defer tr.CloseIdleConnections()
			through(tr, u)
			req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+origin.Addr().String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := h2test.Fetch(tr, req); !errors.Is(err, hyper.ErrCodeProtocol) {
				t.Errorf("the request: %v", err)
			}
			got := <-ends
			if !bytes.Contains(got.octets, []byte("idle stream 9")) {
				t.Errorf("no GOAWAY in %q", got.octets)
			}
			if got.err != nil {
				t.Errorf("the end: %v", got.err)
			}
		})
	}
}

// http.Client ends a request by its context and by Request.Cancel at the same time. The text of the
// error is that of the context, as with net/http.
func TestClientTimeoutHasTheErrorOfTheContext(t *testing.T) {
	eachHTTPDoor(t, func(t *testing.T, v *visit) {
		client := &http.Client{Transport: v.rt, Timeout: time.Second}
		get := func() error {
			resp, err := client.Do(v.request("GET", "/", nil))
			if err == nil {
				resp.Body.Close()
			}
			return err
		}
		first := h2test.Go(func() (struct{}, error) { return struct{}{}, get() })
		peer := v.accept()
		peer.WantHeaders("the first request", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		first.Want(t, "the first request")
		peer.Ignore(wire.Headers, wire.RSTStream, wire.Ping, wire.WindowUpdate)
		for range 10 {
			const want = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
			if err := get(); err == nil || !strings.HasSuffix(err.Error(), want) {
				t.Errorf("the error is %v", err)
			}
		}
	})
}
