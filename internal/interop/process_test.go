package interop

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"gohyper.dev/hyper/internal/h2test"
)

// A process is a server in its own process.
type process struct {
	cmd    *exec.Cmd
	out    h2test.Buffer
	exited chan struct{}
}

// launch starts a server that listens on port, and waits until it does. The server is stopped at
// the end of the test.
func launch(t *testing.T, port string, path string, args ...string) *process {
	p := &process{cmd: exec.Command(path, args...)}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.WaitDelay = 5 * time.Second // workers keep the output open, too
	p.start(t)
	t.Cleanup(func() {
		p.end()
		if t.Failed() {
			t.Logf("%s (%v) said:\n%s", filepath.Base(path), p.cmd.ProcessState, p.out.String())
		}
	})
	p.waitReady(t, port)
	return p
}

// start starts the process.
func (p *process) start(t *testing.T) {
	check(t, p.cmd.Start())
	cmd, exited := p.cmd, make(chan struct{})
	p.exited = exited
	go func() {
		cmd.Wait()
		close(exited)
	}()
}

// restart kills the process and its workers, and starts it again.
func (p *process) restart(t *testing.T, port string) {
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.exited
	old := p.cmd
	p.cmd = &exec.Cmd{Path: old.Path, Args: old.Args, Stdout: old.Stdout, Stderr: old.Stderr,
		SysProcAttr: old.SysProcAttr, WaitDelay: old.WaitDelay}
	p.start(t)
	p.waitReady(t, port)
}

// waitReady waits until the server listens on port.
func (p *process) waitReady(t *testing.T, port string) {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		nc, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			nc.Close()
			return
		}
		select {
		case <-p.exited:
			t.Fatal("the server ended at once")
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatal("the server does not listen")
}

// end stops the process and its workers.
func (p *process) end() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(10 * time.Second):
		syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.exited
	}
}

// find returns the path of a server, which may have several names. If the server is missing, the
// test is skipped, or fails with HYPER_REQUIRE_SERVERS=1.
func find(t *testing.T, names ...string) string {
	for _, name := range names {
		// The PATH of users other than root often lacks sbin.
		for _, at := range []string{name, "/usr/sbin/" + name, "/usr/local/sbin/" + name} {
			if path, err := exec.LookPath(at); err == nil {
				return path
			}
		}
	}
	missing(t, names[0]+" is not installed")
	return ""
}

// missing skips the test as a server is missing, or lets it fail with HYPER_REQUIRE_SERVERS=1.
func missing(t *testing.T, why string) {
	if os.Getenv("HYPER_REQUIRE_SERVERS") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// freePort returns a free port.
func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// A setup is the data for the templates in testdata, which are configuration files.
type setup struct {
	Dir, Port, Root, Cert, Key, Bundle, Origin string
	Plain                                      string // the port for cleartext
	Admin                                      string // Caddy: the port for commands
	IsRoot                                     bool
	Push                                       bool     // nginx: this version supports push
	Old                                        bool     // nginx: HTTP/1.1 only
	Secure                                     bool     // Apache as a proxy: uses TLS
	Next                                       string   // HAProxy as a proxy: the port of the proxy after it
	Modules                                    []module // Apache's
}

// newSetup returns a setup for a site, with a free port.
func newSetup(t *testing.T, s *site) *setup {
	return &setup{
		Dir:    publicDir(t),
		Port:   freePort(t),
		Plain:  freePort(t),
		Admin:  freePort(t),
		Root:   s.root,
		Cert:   s.cert,
		Key:    s.key,
		Bundle: s.bundle,
		Origin: s.addr,
		IsRoot: os.Geteuid() == 0,
	}
}

// write executes the template testdata/name and returns the path of the result.
func (c *setup) write(t *testing.T, name string) string {
	tmpl, err := template.ParseFiles(filepath.Join("testdata", name))
	check(t, err)
	var b strings.Builder
	check(t, tmpl.Execute(&b, c))
	path := filepath.Join(c.Dir, name)
	check(t, os.WriteFile(path, []byte(b.String()), 0o644))
	return path
}

// A module is a module that Apache loads.
type module struct{ Name, File string }

// apacheModules finds the modules that are not compiled into Apache, in the folders where
// distributions install them.
func apacheModules(t *testing.T, names ...string) (list []module) {
	for _, dir := range []string{"/usr/lib/apache2/modules", "/usr/lib64/httpd/modules",
		"/usr/lib/httpd/modules", "/usr/libexec/apache2"} {
		for _, name := range names {
			file := filepath.Join(dir, "mod_"+name+".so")
			if _, err := os.Stat(file); err == nil {
				list = append(list, module{name, file})
			}
		}
		if list != nil {
			return list
		}
	}
	t.Fatal("Apache's modules are not where they usually are")
	return nil
}
