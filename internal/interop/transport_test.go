package interop

import (
	"compress/gzip"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// A visitor is an http.Client of a running server.
type visitor struct {
	*running
	*http.Client
	url string
}

// clientChecks do what users of http.Client do. The names that lacks uses are the same as in
// checks.
var clientChecks = []struct {
	name string
	run  func(*testing.T, *visitor)
}{
	{"Get", visitGet},
	{"Head", visitHead},
	{"NotFound", visitNotFound},
	{"Download", visitDownload},
	{"Upload", visitUpload},
	{"Redirects", visitRedirects},
	{"Codings", visitCodings},
	{"Trailers", visitTrailers},
	{"RequestTrailers", visitRequestTrailers},
	{"Continue", visitContinue},
	{"ManyAtOnce", visitManyAtOnce},
	{"Canceled", visitCanceled},
	{"Restart", visitRestart},
}

// roundTrippers are the two ways to use hyper in an http.Client.
var roundTrippers = []struct {
	name string
	make func(t *testing.T, s *server) http.RoundTripper
}{
	{"Transport", func(t *testing.T, s *server) http.RoundTripper {
		return &hyper.Transport{Proxy: hyper.NoProxy, UnencryptedHTTP2: true,
			Config: &hyper.Config{TLS: h2test.ClientTLS(), KeepAlive: s.keepAlive}}
	}},
	{"ConfigureTransport", func(t *testing.T, s *server) http.RoundTripper {
		tr := &http.Transport{TLSClientConfig: h2test.ClientTLS(), ExpectContinueTimeout: time.Second}
		check(t, hyper.ConfigureTransport(tr, &hyper.Config{KeepAlive: s.keepAlive}))
		return tr
	}},
}

func TestTransport(t *testing.T) {
	site := newSite(t)
	for _, s := range servers {
		if s.fetch != nil {
			continue // it serves no pages
		}
		t.Run(s.name, func(t *testing.T) {
			r := s.start(t, site)
			r.server, r.site = s, site
			for _, rt := range roundTrippers {
				t.Run(rt.name, func(t *testing.T) {
					v := &visitor{running: r, url: r.addr}
					if !strings.Contains(r.addr, "://") {
						v.url = "https://" + r.addr
					} else if rt.name == "ConfigureTransport" {
						t.Skip("it is asked for HTTP/2 by TLS only")
					}
					v.Client = &http.Client{Transport: rt.make(t, s)}
					t.Cleanup(v.CloseIdleConnections)
					for _, c := range clientChecks {
						t.Run(c.name, func(t *testing.T) {
							if why := r.why(c.name); why != "" {
								t.Skip(why)
							}
							ctx, cancel := context.WithTimeout(t.Context(), checkTimeout)
							defer cancel()
							r.ctx = ctx
							c.run(t, v)
						})
					}
				})
			}
		})
	}
}

// do sends a request and reads the complete response, which must be one of hyper's.
func (v *visitor) do(t *testing.T, method, path string, body io.Reader, header ...string) (*http.Response,
	string) {
	t.Helper()
	resp, got, err := v.try(method, path, body, header...)
	check(t, err)
	if _, ok := hyper.ResponseFromHTTP(resp); !ok || resp.Proto != "HTTP/2.0" {
		t.Fatalf("%s response of %T", resp.Proto, resp.Body)
	}
	return resp, got
}

// try sends a request and reads the complete response.
func (v *visitor) try(method, path string, body io.Reader, header ...string) (*http.Response, string, error) {
	req, err := http.NewRequestWithContext(v.ctx, method, v.url+path, body)
	if err != nil {
		return nil, "", err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := v.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp, string(got), err
}

// wantSmall requires that the small page can be fetched.
func (v *visitor) wantSmall(t *testing.T) {
	t.Helper()
	if resp, body := v.do(t, "GET", "/small.txt", nil); resp.StatusCode != 200 || body != v.small {
		t.Fatalf("status %s, %q", resp.Status, body)
	}
}

// sum returns the SHA-256 of an upload that the server received.
func (v *visitor) sum(t *testing.T, resp *http.Response, body string) string {
	t.Helper()
	if resp.StatusCode != 200 {
		t.Fatalf("status %s, %.100q", resp.Status, body)
	}
	if !v.echoes {
		return body
	}
	sum, err := sumOf(strings.NewReader(body))
	check(t, err)
	return sum
}

// visitGet gets the small page.
func visitGet(t *testing.T, v *visitor) { v.wantSmall(t) }

// visitHead requires that a response to HEAD has no body.
func visitHead(t *testing.T, v *visitor) {
	resp, body := v.do(t, "HEAD", "/large.bin", nil)
	if resp.StatusCode != 200 || body != "" || resp.ContentLength != largeSize && resp.ContentLength != -1 {
		t.Errorf("status %s, content-length %d, body %q", resp.Status, resp.ContentLength, body)
	}
	v.wantSmall(t)
}

// visitNotFound requires status 404 for a page that does not exist.
func visitNotFound(t *testing.T, v *visitor) {
	if resp, _ := v.do(t, "GET", "/missing", nil); resp.StatusCode != 404 {
		t.Errorf("status %s", resp.Status)
	}
}

// visitDownload downloads the large file.
func visitDownload(t *testing.T, v *visitor) {
	resp, err := v.Get(v.url + "/large.bin")
	check(t, err)
	defer resp.Body.Close()
	if sum, err := sumOf(resp.Body); err != nil || sum != v.largeSum {
		t.Errorf("status %s, SHA-256 %s, %v", resp.Status, sum, err)
	}
}

// visitUpload uploads bodies of known and of unknown length.
func visitUpload(t *testing.T, v *visitor) {
	text := v.text
	want, err := sumOf(strings.NewReader(text))
	check(t, err)
	bodies := []io.Reader{strings.NewReader(text)}
	if v.why("UploadOfUnknownLength") == "" {
		bodies = append(bodies, struct{ io.Reader }{strings.NewReader(text)})
	}
	for _, body := range bodies {
		resp, got := v.do(t, "POST", v.path("/origin/sum"), body)
		if got = v.sum(t, resp, got); got != want {
			t.Errorf("the sum of %T: %s, want %s", body, got, want)
		}
	}
}

// visitRedirects follows redirects. 302 changes POST to GET, and 307 sends the body again.
func visitRedirects(t *testing.T, v *visitor) {
	resp, body := v.do(t, "POST", "/origin/found", strings.NewReader("gone"))
	if body != v.small || resp.Request.Method != "GET" || resp.Request.URL.Path != "/small.txt" {
		t.Errorf("%s %s: %q", resp.Request.Method, resp.Request.URL, body)
	}
	want, err := sumOf(strings.NewReader(v.text))
	check(t, err)
	resp, body = v.do(t, "POST", "/origin/again", strings.NewReader(v.text))
	if got := v.sum(t, resp, body); got != want {
		t.Errorf("%s %s: %s, want %s", resp.Request.Method, resp.Request.URL, got, want)
	}
}

// visitCodings requires that a response is decoded if the client did not ask for its content
// coding, and that the header does not show the coding then. If the client asked for it, the
// response must stay as it is.
func visitCodings(t *testing.T, v *visitor) {
	if len(v.codings) == 0 {
		t.Skip("it knows none")
	}
	resp, body := v.do(t, "GET", "/text.txt", nil)
	if body != v.text || !resp.Uncompressed || resp.ContentLength != -1 ||
		resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("%d octets, uncompressed %v, content-length %d, header %v", len(body), resp.Uncompressed,
			resp.ContentLength, resp.Header)
	}
	resp, body = v.do(t, "GET", "/text.txt", nil, "Accept-Encoding", "gzip")
	z, err := gzip.NewReader(strings.NewReader(body))
	check(t, err)
	plain, err := io.ReadAll(z)
	if err != nil || string(plain) != v.text || resp.Uncompressed ||
		resp.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("%d octets, uncompressed %v, header %v, %v", len(plain), resp.Uncompressed, resp.Header, err)
	}
}

// visitTrailers requires the trailer of a response.
func visitTrailers(t *testing.T, v *visitor) {
	if resp, body := v.do(t, "GET", v.path("/origin/trailers"), nil); resp.Trailer.Get("X-Sum") != "abc" {
		t.Errorf("trailer %v behind %q", resp.Trailer, body)
	}
}

// visitRequestTrailers requires that the server receives a trailer that is set while the body is
// sent.
func visitRequestTrailers(t *testing.T, v *visitor) {
	req, err := http.NewRequestWithContext(v.ctx, "POST", v.url+"/origin/trailers", nil)
	check(t, err)
	req.Trailer = http.Header{"X-Sent": nil}
	req.Body = io.NopCloser(io.MultiReader(strings.NewReader("body"), readerFunc(func([]byte) (int, error) {
		req.Trailer.Set("X-Sent", "def")
		return 0, io.EOF
	})))
	resp, err := v.Do(req)
	check(t, err)
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "sent def" {
		t.Errorf("%q, %v", body, err)
	}
}

// A readerFunc is a function that is an io.Reader.
type readerFunc func([]byte) (int, error)

// Read calls f.
func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// visitContinue sends a request with Expect: 100-continue.
func visitContinue(t *testing.T, v *visitor) {
	want, err := sumOf(strings.NewReader(v.text))
	check(t, err)
	var text io.Reader = strings.NewReader(v.text)
	if v.why("UploadOfUnknownLength") == "" {
		text = struct{ io.Reader }{text}
	}
	resp, body := v.do(t, "POST", v.path("/origin/sum"), text, "Expect", "100-continue")
	if got := v.sum(t, resp, body); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// visitManyAtOnce makes 300 concurrent requests.
func visitManyAtOnce(t *testing.T, v *visitor) {
	var wg sync.WaitGroup
	for range 300 {
		wg.Go(func() {
			resp, body, err := v.try("GET", "/small.txt", nil)
			if err != nil || resp.StatusCode != 200 || body != v.small {
				t.Errorf("%q, %v", body, err)
			}
		})
	}
	wg.Wait()
}

// visitCanceled cancels downloads, by context and by Client.Timeout, and requires that the
// connection still works.
func visitCanceled(t *testing.T, v *visitor) {
	for range 10 {
		ctx, cancel := context.WithCancel(v.ctx)
		req, err := http.NewRequestWithContext(ctx, "GET", v.url+"/large.bin", nil)
		check(t, err)
		resp, err := v.Do(req)
		check(t, err)
		_, err = io.CopyN(io.Discard, resp.Body, 100_000)
		check(t, err)
		cancel()
		if _, err := io.Copy(io.Discard, resp.Body); err != context.Canceled {
			t.Errorf("after cancel: %v", err)
		}
		check(t, resp.Body.Close())
	}
	hasty := &http.Client{Transport: v.Transport, Timeout: 50 * time.Millisecond}
	resp, err := hasty.Get(v.url + "/large.bin")
	if err == nil {
		_, err = io.CopyN(io.Discard, resp.Body, 1000)
		time.Sleep(100 * time.Millisecond)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		resp.Body.Close()
	}
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("Client.Timeout: %v", err)
	}
	v.wantSmall(t)
}

// visitRestart kills the server under load and starts it again. Each request must get a complete
// response or an error with a reason. When the server is back, requests must succeed again.
func visitRestart(t *testing.T, v *visitor) {
	if v.restart == nil {
		t.Skip("it lives in this process")
	}
	var next, succeeded, failed, back atomic.Int64
	var up atomic.Bool
	started := make(chan struct{})
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for mine := 0; mine < 5 && v.ctx.Err() == nil; {
				id := fmt.Sprintf("%s-%s-%d", v.name, t.Name(), next.Add(1))
				again := up.Load()
				resp, body, err := v.try("GET", "/origin/slow", nil, "X-Request", id)
				switch {
				case err == nil && resp.StatusCode == 200 && body == "done "+id:
					if succeeded.Add(1) == 30 {
						close(started)
					}
					if again {
						mine++
						back.Add(1)
					}
				case err == nil:
					t.Errorf("%s, %q", resp.Status, body)
					return
				case !hasReason(err) || again:
					t.Errorf("restarted %v: %v", again, err)
					return
				default:
					failed.Add(1)
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	select {
	case <-started:
		v.restart(t)
		up.Store(true)
	case <-v.ctx.Done():
		t.Error("no answers")
	}
	wg.Wait()
	t.Logf("%d succeeded, %d of them afterwards, %d failed", succeeded.Load(), back.Load(), failed.Load())
}

// hasReason reports whether err tells what happened to the connection.
func hasReason(err error) bool {
	var conn *hyper.ConnError
	var stream *hyper.StreamError
	var network *net.OpError
	return errors.As(err, &conn) || errors.As(err, &stream) || errors.As(err, &network)
}

// TestTransportFallsBack checks that requests use HTTP/1.1 if the server does not support HTTP/2,
// whatever it does instead of agreeing on HTTP/2.
func TestTransportFallsBack(t *testing.T) {
	site := newSite(t)
	starts := map[string]func(t *testing.T) string{
		"go":          func(t *testing.T) string { return startOld(t, site, "http/1.1") },
		"go, no ALPN": func(t *testing.T) string { return startOld(t, site) },
		"go, http":    func(*testing.T) string { return "http://" + site.addr },
		"nginx": func(t *testing.T) string {
			path, c := find(t, "nginx"), newSetup(t, site)
			c.Old = true
			launch(t, c.Port, path, "-p", c.Dir, "-c", c.write(t, "nginx.conf"))
			return "https://127.0.0.1:" + c.Port
		},
	}
	for name, start := range starts {
		t.Run(name, func(t *testing.T) {
			addr := start(t)
			tr := &hyper.Transport{Proxy: hyper.NoProxy, Config: &hyper.Config{TLS: h2test.ClientTLS()}}
			defer tr.CloseIdleConnections()
			client := &http.Client{Transport: tr, Timeout: checkTimeout}
			want, err := sumOf(strings.NewReader(site.text))
			check(t, err)
			var wg sync.WaitGroup
			for range 30 {
				wg.Go(func() {
					resp, err := client.Post(addr+"/origin/sum", "text/plain", strings.NewReader(site.text))
					if err != nil {
						t.Error(err)
						return
					}
					defer resp.Body.Close()
					if got, err := io.ReadAll(resp.Body); err != nil || string(got) != want ||
						resp.Proto != "HTTP/1.1" {
						t.Errorf("%s %s %q %v", resp.Proto, resp.Status, got, err)
					}
				})
			}
			wg.Wait()
		})
	}
}

// startOld starts a TLS server that only speaks HTTP/1.1.
func startOld(t *testing.T, s *site, protos ...string) string {
	server := &http.Server{Handler: s.origin, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	go server.Serve(tls.NewListener(l, h2test.ServerTLS(protos...)))
	t.Cleanup(func() { server.Close() })
	return "https://" + l.Addr().String()
}

// proxies allow CONNECT to one port, and require a password.
var proxies = []struct {
	name  string
	start func(t *testing.T, s *site, origin string) (url string)
}{
	{"apache2", func(t *testing.T, s *site, origin string) string {
		return "http://127.0.0.1:" + startApacheProxy(t, s, origin, false)
	}},
	{"apache2, TLS", func(t *testing.T, s *site, origin string) string {
		return "https://127.0.0.1:" + startApacheProxy(t, s, origin, true)
	}},
	// HAProxy forwards to Apache.
	{"haproxy, HTTP2", func(t *testing.T, s *site, origin string) string {
		path, c := find(t, "haproxy"), newSetup(t, s)
		c.Next = startApacheProxy(t, s, origin, false)
		launch(t, c.Port, path, "-db", "-f", c.write(t, "proxy.cfg"))
		return "https://127.0.0.1:" + c.Port
	}},
	{"node, HTTP2", func(t *testing.T, s *site, origin string) string {
		path, port := find(t, "node", "nodejs"), freePort(t)
		launch(t, port, path, "testdata/proxy.mjs", port, s.cert, s.key, origin, "user:secret")
		return "https://127.0.0.1:" + port
	}},
}

// startApacheProxy starts Apache as a proxy that allows CONNECT to the port of origin.
func startApacheProxy(t *testing.T, s *site, origin string, secure bool) (port string) {
	path, c := find(t, "apache2", "httpd"), newSetup(t, s)
	c.Origin, c.Secure = origin, secure
	c.Modules = apacheModules(t, "mpm_event", "unixd", "log_config", "authn_core", "authn_file", "authz_core",
		"authz_user", "auth_basic",
		"socache_shmcb", "ssl", "proxy", "proxy_connect")
	password := sha1.Sum([]byte("secret"))
	check(t, os.WriteFile(filepath.Join(c.Dir, "passwords"),
		[]byte("user:{SHA}"+base64.StdEncoding.EncodeToString(password[:])+"\n"), 0o644))
	launch(t, c.Port, path, "-DFOREGROUND", "-f", c.write(t, "proxy.conf"))
	return c.Port
}

// TestTransportGoesThroughProxies checks that only the proxy gets the password, and that the
// connection to the host through the proxy uses HTTP/2.
func TestTransportGoesThroughProxies(t *testing.T) {
	site := newSite(t)
	var leaked atomic.Bool
	origin := &http.Server{Protocols: new(http.Protocols),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Proxy-Authorization") != "" {
				leaked.Store(true)
			}
			site.origin.ServeHTTP(w, r)
		})}
	origin.Protocols.SetHTTP2(true)
	addr := serve(t, origin, true)
	_, port, err := net.SplitHostPort(addr)
	check(t, err)

	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			proxy, err := url.Parse(p.start(t, site, port))
			check(t, err)
			visit := func(user *url.Userinfo, test func(*visitor)) {
				through := *proxy
				through.User = user
				tr := &hyper.Transport{Proxy: http.ProxyURL(&through),
					Config: &hyper.Config{TLS: h2test.ClientTLS()}}
				defer tr.CloseIdleConnections()
				ctx, cancel := context.WithTimeout(t.Context(), checkTimeout)
				defer cancel()
				server := &server{name: "go", codings: []string{"gzip"}}
				test(&visitor{running: &running{server: server, site: site, ctx: ctx},
					Client: &http.Client{Transport: tr}, url: "https://" + addr})
			}
			visit(url.UserPassword("user", "secret"), func(v *visitor) {
				visitGet(t, v)
				visitDownload(t, v)
				visitUpload(t, v)
				visitManyAtOnce(t, v)
				visitCanceled(t, v)
			})
			visit(url.UserPassword("user", "guess"), func(v *visitor) {
				_, body, err := v.try("GET", "/small.txt", nil)
				var refused *hyper.ConnectStatusError
				if !errors.As(err, &refused) || refused.StatusCode != 407 {
					t.Errorf("with a wrong password: %q, %v", body, err)
				}
			})
			if leaked.Load() {
				t.Error("the proxy's password came to the origin")
			}
		})
	}
}
