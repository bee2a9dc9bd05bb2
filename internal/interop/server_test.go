package interop

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// A server is a row of the table: how to start it, and what it cannot do.
type server struct {
	name    string
	start   func(t *testing.T, s *site) *running
	codings []string          // content codings that it offers for text.txt
	echoes  bool              // it returns an upload itself, not its SHA-256
	paths   map[string]string // its path for a usual path, if it differs
	lacks   map[string]string // the reason why it cannot do a check, by the check's name
}

// path returns the server's path for a usual path.
func (s *server) path(usual string) string {
	if p := s.paths[usual]; p != "" {
		return p
	}
	return usual
}

// A running is a server that was started.
type running struct {
	*server
	*site
	ctx  context.Context // of the current check
	addr string          // for hyper.Dial
	// seen reports whether the server acted on the request with this x-request. It is called last.
	seen func(id string) bool
	stop func(context.Context) // stops it gracefully
	also map[string]string     // as lacks, for this version of the server

	restart func(*testing.T) // kills the server and starts it again; nil: it runs in this process
}

// dial connects to the server.
func (r *running) dial(t *testing.T, cfg hyper.Config) *hyper.Conn {
	t.Helper()
	if cfg.TLS == nil {
		cfg.TLS = h2test.ClientTLS()
	}
	conn, err := hyper.Dial(r.ctx, r.addr, &cfg)
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// Reasons that several servers share.
const (
	static    = "it serves files"
	swallowed = "it does not forward them"
	no100     = "it waits for the body without a word"
	noPush    = "it does not push"
	noConnect = "it does not offer it"
	buffers   = "it buffers a request before it acts"
)

// servers are the rows of the table.
var servers = []*server{
	{
		name:    "go",
		start:   startGo,
		codings: []string{"gzip"},
	},
	{
		name:    "go-cleartext",
		start:   startGoCleartext,
		codings: []string{"gzip"},
		lacks:   map[string]string{"TLS12": "no TLS"},
	},
	{
		name:    "node",
		start:   startNode,
		codings: []string{"gzip", "br", "deflate"},
	},
	{
		name:   "nghttpd",
		start:  startNghttpd,
		echoes: true,
		paths: map[string]string{"/origin/sum": "/small.txt", "/origin/trailers": "/small.txt",
			"/origin/cookies": "/small.txt"},
		lacks: map[string]string{
			"Echo":            buffers,
			"RequestTrailers": static,
			"Interim":         static,
			"LongHeader":      static,
			"Continuation":    static,
			"Connect":         noConnect,
			"ExtendedConnect": noConnect,
			"GracefulStop":    "it ends at once",
			"Redirects":       static,
			"Restart":         static,
		},
	},
	{
		name:    "h2o",
		start:   startH2O,
		codings: []string{"gzip", "br"},
		paths:   map[string]string{"/page": "/origin/page"},
		lacks: map[string]string{
			"Echo":            buffers,
			"Trailers":        swallowed,
			"RequestTrailers": swallowed,
			"Interim":         swallowed,
			"Continue":        no100,
			"Connect":         noConnect,
			"ExtendedConnect": noConnect,
		},
	},
	{
		name:    "nginx",
		start:   startNginx,
		codings: []string{"gzip"},
		lacks: map[string]string{
			"Echo":            buffers,
			"Trailers":        swallowed,
			"RequestTrailers": swallowed,
			"Interim":         swallowed,
			"Continue":        no100,
			"Connect":         noConnect,
			"ExtendedConnect": noConnect,
		},
	},
	{
		name:    "apache2",
		start:   startApache,
		codings: []string{"gzip", "br"},
		lacks: map[string]string{
			"Echo":            buffers,
			"RequestTrailers": swallowed,
			"Connect":         noConnect,
			"ExtendedConnect": noConnect,
		},
	},
	{
		name:    "haproxy",
		start:   startHAProxy,
		codings: []string{"gzip"},
		lacks: map[string]string{
			"Push": noPush,
		},
	},
}

// startGo starts net/http's server over TLS.
func startGo(t *testing.T, s *site) *running { return startNetHTTP(t, s, true) }

// startGoCleartext starts net/http's server in cleartext.
func startGoCleartext(t *testing.T, s *site) *running { return startNetHTTP(t, s, false) }

// startNetHTTP starts net/http's server.
func startNetHTTP(t *testing.T, s *site, secure bool) *running {
	server := &http.Server{Handler: s.origin, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP2(secure)
	server.Protocols.SetUnencryptedHTTP2(!secure)
	addr := serve(t, server, secure)
	if !secure {
		addr = "http://" + addr
	}
	return &running{addr: addr, seen: s.origin.seen, stop: func(ctx context.Context) { server.Shutdown(ctx) }}
}

// startNode starts Node's server.
func startNode(t *testing.T, s *site) *running {
	path, port := find(t, "node", "nodejs"), freePort(t)
	p := launch(t, port, path, "--max-http-header-size=100000", "testdata/node.mjs", port, s.cert, s.key,
		s.root)
	r := p.running(port, syscall.SIGTERM)
	r.seen = func(id string) bool { return strings.Contains(p.out.String(), "seen "+id+"\n") }
	return r
}

// startNghttpd starts nghttpd.
func startNghttpd(t *testing.T, s *site) *running {
	path, port := find(t, "nghttpd"), freePort(t)
	p := launch(t, port, path, "--address=127.0.0.1", "--htdocs="+s.root, "--echo-upload", "--error-gzip",
		"--trailer=x-sum: abc", "--push=/page=/pushed.txt", "--no-rfc7540-pri", port, s.key, s.cert)
	return p.running(port, syscall.SIGTERM)
}

// startH2O starts h2o in front of the origin.
func startH2O(t *testing.T, s *site) *running {
	path, c := find(t, "h2o"), newSetup(t, s)
	p := launch(t, c.Port, path, "-c", c.write(t, "h2o.yaml"))
	return p.proxy(s, c.Port, syscall.SIGTERM)
}

// startNginx starts nginx in front of the origin.
func startNginx(t *testing.T, s *site) *running {
	path, c := find(t, "nginx"), newSetup(t, s)
	c.Push = nginxPushes(path)
	p := launch(t, c.Port, path, "-p", c.Dir, "-c", c.write(t, "nginx.conf"))
	r := p.proxy(s, c.Port, syscall.SIGQUIT)
	if !c.Push {
		r.also = map[string]string{"Push": "it has given it up"}
	}
	return r
}

// startApache starts Apache in front of the origin.
func startApache(t *testing.T, s *site) *running {
	path, c := find(t, "apache2", "httpd"), newSetup(t, s)
	c.Modules = apacheModules(t, "mpm_event", "unixd", "log_config", "authz_core", "mime", "env", "filter",
		"deflate", "brotli",
		"headers", "socache_shmcb", "ssl", "http2", "proxy", "proxy_http")
	p := launch(t, c.Port, path, "-DFOREGROUND", "-f", c.write(t, "apache2.conf"))
	return p.proxy(s, c.Port, syscall.SIGWINCH)
}

// startHAProxy starts HAProxy in front of the origin.
func startHAProxy(t *testing.T, s *site) *running {
	path, c := find(t, "haproxy"), newSetup(t, s)
	p := launch(t, c.Port, path, "-db", "-f", c.write(t, "haproxy.cfg"))
	return p.proxy(s, c.Port, syscall.SIGUSR1)
}

// running returns a running server for a process that a signal stops gracefully.
func (p *process) running(port string, signal os.Signal) *running {
	r := &running{addr: "127.0.0.1:" + port, restart: func(t *testing.T) { p.restart(t, port) }}
	r.stop = func(ctx context.Context) {
		p.cmd.Process.Signal(signal)
		select {
		case <-p.exited:
		case <-ctx.Done():
		}
	}
	return r
}

// proxy returns a running server for a process that forwards requests to the origin.
func (p *process) proxy(s *site, port string, signal os.Signal) *running {
	r := p.running(port, signal)
	r.seen = s.origin.seen
	return r
}

// nginxPushes reports whether this version of nginx supports push, which 1.25.1 removed.
func nginxPushes(path string) bool {
	out, _ := exec.Command(path, "-v").CombinedOutput()
	return regexp.MustCompile(`nginx/(0|1\.([0-9]|1[0-9]|2[0-4])\.|1\.25\.0)`).Match(out)
}
