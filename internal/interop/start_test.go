package interop

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startGoCleartext starts this process's net/http, in cleartext.
func startGoCleartext(t *testing.T, s *site) *running {
	server := &http.Server{Handler: s.origin, Protocols: new(http.Protocols)}
	server.Protocols.SetUnencryptedHTTP2(true)
	addr := serve(t, server, false)
	return &running{addr: "http://" + addr, seen: s.origin.Seen, version: runtime.Version(),
		stop: func(ctx context.Context) { server.Shutdown(ctx) }}
}

// go126 returns the version of Go 1.26 that is tested: the running one, if it is one.
func go126() string {
	if v := runtime.Version(); strings.HasPrefix(v, "go1.26") {
		return v
	}
	return "go1.26.10"
}

// startGo returns a function that starts net/http's server of a version of Go.
func startGo(toolchain string) func(t *testing.T, s *site) *running {
	return func(t *testing.T, s *site) *running {
		path := install(t, toolchain, "GOTOOLCHAIN="+toolchain, "./goserver")
		port, plain := freePort(t), freePort(t)
		p := launch(t, port, path, port, plain, s.cert, s.key, s.root)
		r := p.running(port, syscall.SIGTERM)
		r.seen = p.printedSeen
		r.plain = "http://127.0.0.1:" + plain
		r.reload = func() { p.cmd.Process.Signal(syscall.SIGHUP) }
		if r.version = p.printed("version go", 30*time.Second); "go"+r.version != toolchain {
			t.Fatalf("it is %s, not %s", r.version, toolchain)
		}
		return r
	}
}

// startNode starts Node's server.
func startNode(t *testing.T, s *site) *running {
	path, port, plain := find(t, "node", "nodejs"), freePort(t), freePort(t)
	p := launch(t, port, path, "--max-http-header-size=100000", "testdata/node.mjs", port, plain, s.cert,
		s.key, s.root)
	r := p.running(port, syscall.SIGTERM)
	r.plain, r.version = "http://127.0.0.1:"+plain, versionOf(t, path, "--version")
	r.seen = p.printedSeen
	r.reload = func() { p.cmd.Process.Signal(syscall.SIGHUP) }
	return r
}

// startNghttpd starts nghttpd, once with TLS and once without it.
func startNghttpd(t *testing.T, s *site) *running {
	path, port, plain := find(t, "nghttpd"), freePort(t), freePort(t)
	args := []string{"--address=127.0.0.1", "--htdocs=" + s.root, "--echo-upload", "--error-gzip",
		"--trailer=x-sum: abc", "--push=/page=/pushed.txt", "--no-rfc7540-pri"}
	launch(t, plain, path, append(args, "--no-tls", plain)...)
	p := launch(t, port, path, append(args, port, s.key, s.cert)...)
	r := p.running(port, syscall.SIGTERM)
	r.plain, r.version = "http://127.0.0.1:"+plain, versionOf(t, path, "--version")
	return r
}

// startH2O starts h2o in front of the origin.
func startH2O(t *testing.T, s *site) *running {
	path, c := find(t, "h2o"), newSetup(t, s)
	p := launch(t, c.Port, path, "-m", "master", "-c", c.write(t, "h2o.yaml"))
	return p.proxy(s, c, versionOf(t, path, "--version"), syscall.SIGTERM, syscall.SIGHUP)
}

// startNginx starts nginx in front of the origin.
func startNginx(t *testing.T, s *site) *running {
	path, c := find(t, "nginx"), newSetup(t, s)
	c.Push = nginxPushes(path)
	p := launch(t, c.Port, path, "-p", c.Dir, "-c", c.write(t, "nginx.conf"))
	r := p.proxy(s, c, versionOf(t, path, "-v"), syscall.SIGQUIT, syscall.SIGHUP)
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
	return p.proxy(s, c, versionOf(t, path, "-v"), syscall.SIGWINCH, syscall.SIGUSR1)
}

// startHAProxy starts HAProxy in front of the origin.
func startHAProxy(t *testing.T, s *site) *running {
	path, c := find(t, "haproxy"), newSetup(t, s)
	p := launch(t, c.Port, path, "-W", "-db", "-f", c.write(t, "haproxy.cfg"))
	return p.proxy(s, c, versionOf(t, path, "-v"), syscall.SIGUSR1, syscall.SIGUSR2)
}

// startLighttpd starts lighttpd in front of the origin.
func startLighttpd(t *testing.T, s *site) *running {
	path, c := find(t, "lighttpd"), newSetup(t, s)
	p := launch(t, c.Port, path, "-D", "-f", c.write(t, "lighttpd.conf"))
	return p.proxy(s, c, versionOf(t, path, "-v"), syscall.SIGINT, syscall.SIGUSR1)
}

// caddy is the version of Caddy that is tested.
const caddy = "v2.11.9"

// startCaddy starts Caddy in front of the origin.
func startCaddy(t *testing.T, s *site) *running {
	path := install(t, "caddy", "GOFLAGS=", "github.com/caddyserver/caddy/v2/cmd/caddy@"+caddy)
	c := newSetup(t, s)
	config := c.write(t, "Caddyfile")
	p := launch(t, c.Port, path, "run", "--config", config, "--adapter", "caddyfile")
	info, err := buildinfo.ReadFile(path)
	check(t, err)
	if info.Main.Version != caddy {
		t.Fatalf("it is %s, not %s", info.Main.Version, caddy)
	}
	r := p.proxy(s, c, strings.TrimPrefix(caddy, "v"), syscall.SIGTERM, nil)
	r.reload = func() {
		reload := exec.Command(path, "reload", "--force", "--config", config, "--adapter", "caddyfile",
			"--address", "127.0.0.1:"+c.Admin)
		if out, err := reload.CombinedOutput(); err != nil {
			t.Errorf("caddy reload: %v: %s", err, out)
		}
	}
	return r
}

// running returns a running server for a process that a signal stops gracefully.
func (p *process) running(port string, stop os.Signal) *running {
	r := &running{addr: "127.0.0.1:" + port, restart: func(t *testing.T) { p.restart(t, port) }}
	r.stop = func(ctx context.Context) {
		p.cmd.Process.Signal(stop)
		select {
		case <-p.exited:
		case <-ctx.Done():
		}
	}
	return r
}

// proxy returns a running server for a process that forwards requests to the origin. The signal
// reload makes it read its configuration again.
func (p *process) proxy(s *site, c *setup, version string, stop, reload os.Signal) *running {
	r := p.running(c.Port, stop)
	r.plain, r.version, r.seen = "http://127.0.0.1:"+c.Plain, version, s.origin.Seen
	if reload != nil {
		r.reload = func() { p.cmd.Process.Signal(reload) }
	}
	return r
}

// printedSeen reports whether the server printed that it acted on a request.
func (p *process) printedSeen(id string) bool {
	return strings.Contains(p.out.String(), "seen "+id+"\n")
}

// printed waits for a line that begins with prefix, and returns the rest of it. It returns nothing
// if the line does not come in time.
func (p *process) printed(prefix string, within time.Duration) string {
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		for line := range strings.Lines(p.out.String()) {
			if rest, ok := strings.CutPrefix(line, prefix); ok && strings.HasSuffix(rest, "\n") {
				return strings.TrimSpace(rest)
			}
		}
	}
	return ""
}

// numbers match a version.
var numbers = regexp.MustCompile(`[0-9]+(\.[0-9]+)+`)

// versionOf returns the version that a program prints.
func versionOf(t *testing.T, path string, args ...string) string {
	out, err := exec.Command(path, args...).CombinedOutput()
	version := numbers.FindString(string(out))
	if err != nil || version == "" {
		t.Fatalf("%s prints no version: %s, %v", path, out, err)
	}
	return version
}

// nginxPushes reports whether this version of nginx supports push, which 1.25.1 removed.
func nginxPushes(path string) bool {
	out, _ := exec.Command(path, "-v").CombinedOutput()
	return regexp.MustCompile(`nginx/(0|1\.([0-9]|1[0-9]|2[0-4])\.|1\.25\.0)`).Match(out)
}

// installed has the paths of the programs that install has found, by name.
var installed struct {
	mu    sync.Mutex
	paths map[string]string
}

// install builds a command of Go, and returns its path in the cache of "go run". If it cannot be
// built, as its module or its version of Go is not here and cannot be fetched, the test is skipped
// as for a missing server.
func install(t *testing.T, name, env, command string) string {
	installed.mu.Lock()
	defer installed.mu.Unlock()
	if path := installed.paths[name]; path != "" {
		return path
	}
	// The first run may print the path of a temporary file.
	for range 2 {
		cmd := exec.Command("go", "run", "-exec", "echo", command)
		cmd.Env = append(os.Environ(), env)
		var out, problems strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &problems
		if err := cmd.Run(); err != nil {
			missing(t, fmt.Sprintf("%s cannot be built: %v: %s", name, err, &problems))
		}
		path := strings.TrimSpace(out.String())
		if _, err := os.Stat(path); err == nil {
			if installed.paths == nil {
				installed.paths = make(map[string]string)
			}
			installed.paths[name] = path
			return path
		}
	}
	t.Fatalf("go run does not keep %s", name)
	return ""
}
