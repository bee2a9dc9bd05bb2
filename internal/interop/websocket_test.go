package interop

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/interop/origin"
)

// echoSockets serves WebSockets in HTTP/1.1, and echoes each message. It denies those of /denied.
func echoSockets(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/denied" {
		http.Error(w, "not you", http.StatusForbidden)
		return
	}
	origin.EchoSocket(w, r)
}

// startSocketHAProxy starts HAProxy in front of echoSockets.
func startSocketHAProxy(t *testing.T) string {
	path, c := find(t, "haproxy"), socketSetup(t)
	launch(t, c.Port, path, "-db", "-f", c.write(t, "websocket.cfg"))
	return "127.0.0.1:" + c.Port
}

// startSocketNode starts Node.
func startSocketNode(t *testing.T) string {
	path, c := find(t, "node", "nodejs"), socketSetup(t)
	launch(t, c.Port, path, "testdata/websocket.mjs", c.Port, c.Cert, c.Key)
	return "127.0.0.1:" + c.Port
}

// startSocketApache starts Apache httpd in front of echoSockets.
func startSocketApache(t *testing.T) string {
	path, c := find(t, "apache2", "httpd"), socketSetup(t)
	c.Modules = apacheModules(t, "mpm_event", "unixd", "log_config", "authz_core", "mime",
		"socache_shmcb", "ssl", "http2", "proxy", "proxy_http")
	launch(t, c.Port, path, "-DFOREGROUND", "-f", c.write(t, "websocket.conf"))
	return "127.0.0.1:" + c.Port
}

// startSocketLighttpd starts lighttpd in front of echoSockets.
func startSocketLighttpd(t *testing.T) string {
	path, c := find(t, "lighttpd"), socketSetup(t)
	launch(t, c.Port, path, "-D", "-f", c.write(t, "websocket-lighttpd.conf"))
	return "127.0.0.1:" + c.Port
}

// socketSetup returns a setup with a certificate and, as the origin, a server of echoSockets.
func socketSetup(t *testing.T) *setup {
	dir := publicDir(t)
	s := &site{root: dir, cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"),
		bundle: filepath.Join(dir, "bundle.pem")}
	s.writeCertificate(t)
	s.addr = serve(t, &http.Server{Handler: http.HandlerFunc(echoSockets)}, false)
	return newSetup(t, s)
}

// A socket is an open WebSocket of some library.
type socket interface {
	// echo sends a message and returns the one that comes back.
	echo(ctx context.Context, message string) (string, error)
	// close closes the WebSocket with its closing handshake.
	close() error
}

// A coderSocket is a WebSocket of github.com/coder/websocket.
type coderSocket struct{ *coder.Conn }

func (s coderSocket) echo(ctx context.Context, message string) (string, error) {
	if err := s.Write(ctx, coder.MessageText, []byte(message)); err != nil {
		return "", err
	}
	_, p, err := s.Read(ctx)
	return string(p), err
}

func (s coderSocket) close() error { return s.Close(coder.StatusNormalClosure, "") }

// dialCoder opens a WebSocket with github.com/coder/websocket, which takes an http.Client.
func dialCoder(ctx context.Context, rt http.RoundTripper, url string) (socket, *http.Response, error) {
	c, resp, err := coder.Dial(ctx, url, &coder.DialOptions{HTTPClient: &http.Client{Transport: rt},
		Subprotocols: []string{"echo"}})
	if err == nil && c.Subprotocol() != "echo" {
		err = fmt.Errorf("subprotocol %q", c.Subprotocol())
	}
	return coderSocket{c}, resp, err
}

// A gorillaSocket is a WebSocket of github.com/gorilla/websocket.
type gorillaSocket struct{ *gorilla.Conn }

func (s gorillaSocket) echo(ctx context.Context, message string) (string, error) {
	if err := s.WriteMessage(gorilla.TextMessage, []byte(message)); err != nil {
		return "", err
	}
	_, p, err := s.ReadMessage()
	return string(p), err
}

func (s gorillaSocket) close() error {
	s.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(gorilla.CloseNormalClosure, ""),
		time.Now().Add(time.Second))
	_, _, err := s.ReadMessage()
	s.Conn.Close()
	if gorilla.IsCloseError(err, gorilla.CloseNormalClosure) {
		return nil
	}
	return err
}

// A front is a listener in memory. A library that dials its own connections and speaks HTTP/1.1 on
// them dials the front, and a ReverseProxy passes its requests to a RoundTripper.
type front struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// newFront returns a front for the requests of rt to the host at addr.
func newFront(rt http.RoundTripper, addr string) *front {
	f := &front{conns: make(chan net.Conn), done: make(chan struct{})}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: addr})
	proxy.Transport = rt
	go http.Serve(f, proxy)
	return f
}

// dial has the type of gorilla's NetDialTLSContext.
func (f *front) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case f.conns <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (f *front) Accept() (net.Conn, error) {
	select {
	case nc := <-f.conns:
		return nc, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (f *front) Close() error {
	f.once.Do(func() { close(f.done) })
	return nil
}

// Addr implements net.Listener.
func (f *front) Addr() net.Addr { return &net.UnixAddr{Name: "front", Net: "unix"} }

// dialGorilla opens a WebSocket with github.com/gorilla/websocket, which dials its own connections.
func dialGorilla(ctx context.Context, rt http.RoundTripper, to string) (socket, *http.Response, error) {
	u, err := url.Parse(to)
	if err != nil {
		return nil, nil, err
	}
	f := newFront(rt, u.Host)
	defer f.Close() // its connections stay
	d := gorilla.Dialer{NetDialTLSContext: f.dial, Subprotocols: []string{"echo"}}
	c, resp, err := d.DialContext(ctx, to, nil)
	return gorillaSocket{c}, resp, err
}

// A socketServer is a server for WebSockets over HTTP/2.
type socketServer struct {
	start   func(t *testing.T) (addr string)
	sockets int // how many are opened
	conns   int // on how many connections; 0: on several
}

// socketServers are the servers by name. Apache httpd serves six at once on a connection, whatever
// its SETTINGS allow. lighttpd allows eight.
var socketServers = map[string]socketServer{
	"haproxy":  {startSocketHAProxy, 100, 1},
	"node":     {startSocketNode, 100, 1},
	"apache2":  {startSocketApache, 20, 0},
	"lighttpd": {startSocketLighttpd, 20, 3},
}

// TestWebSockets opens many WebSockets to each server through a Transport, with two libraries.
func TestWebSockets(t *testing.T) {
	for name, server := range socketServers {
		t.Run(name, func(t *testing.T) {
			addr := server.start(t)
			t.Run("coder", func(t *testing.T) { server.check(t, addr, dialCoder) })
			t.Run("gorilla", func(t *testing.T) { server.check(t, addr, dialGorilla) })
		})
	}
}

// A socketDialer opens a WebSocket through a RoundTripper.
type socketDialer func(ctx context.Context, rt http.RoundTripper, url string) (socket, *http.Response, error)

// check opens WebSockets to the server at addr, uses them, and closes them.
func (s socketServer) check(t *testing.T, addr string, dial socketDialer) {
	tr := &hyper.Transport{Proxy: hyper.NoProxy, Config: &hyper.Config{TLS: h2test.ClientTLS()}}
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), checkTimeout)
	defer cancel()
	var wg sync.WaitGroup
	sockets := make([]socket, s.sockets)
	for i := range sockets {
		wg.Go(func() {
			// As programs do, the handshake has a context of its own.
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			var err error
			if sockets[i], _, err = dial(ctx, tr, "wss://"+addr+"/echo"); err != nil {
				t.Errorf("socket %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	stats := tr.Stats()
	if open := stats.Total.ConnsOpen; stats.HTTP1Requests != 0 || s.conns > 0 && open != s.conns {
		t.Errorf("%d connections, %d requests in HTTP/1.1", open, stats.HTTP1Requests)
	}
	for i, s := range sockets {
		wg.Go(func() {
			for _, message := range []string{fmt.Sprint("hello ", i), strings.Repeat("x", 30_000)} {
				if got, err := s.echo(ctx, message); err != nil || got != message {
					t.Errorf("socket %d: %d bytes, %v", i, len(got), err)
				}
			}
			if err := s.close(); err != nil {
				t.Errorf("socket %d: close: %v", i, err)
			}
		})
	}
	wg.Wait()
	_, resp, err := dial(ctx, tr, "wss://"+addr+"/denied")
	if err == nil || resp == nil || resp.StatusCode != 403 {
		t.Errorf("denied: %v, %v", resp, err)
	}
}

// checkWebSocket is the check of extended CONNECT for a server that offers it only for WebSockets.
func checkWebSocket(t testing.TB, r *running) {
	tr := &hyper.Transport{Proxy: hyper.NoProxy, Config: &hyper.Config{TLS: h2test.ClientTLS()}}
	defer tr.CloseIdleConnections()
	ws, _, err := dialCoder(r.ctx, tr, "wss://"+r.addr+"/origin/socket")
	check(t, err)
	for _, message := range []string{"hello", strings.Repeat("x", 30_000)} {
		if got, err := ws.echo(r.ctx, message); err != nil || got != message {
			t.Errorf("%d bytes came back, %v", len(got), err)
		}
	}
	check(t, ws.close())
	if n := tr.Stats().HTTP1Requests; n != 0 {
		t.Errorf("%d requests in HTTP/1.1", n)
	}
}
