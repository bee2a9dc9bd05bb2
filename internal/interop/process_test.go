package interop

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/template"
	"time"
)

// A process is a server that runs beside the test.
type process struct {
	cmd    *exec.Cmd
	out    output
	exited chan struct{}
}

// launch starts a server that will listen on port, and waits until it does. It ends with the test.
func launch(t *testing.T, port string, path string, args ...string) *process {
	p := &process{cmd: exec.Command(path, args...)}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.WaitDelay = 5 * time.Second // workers hold the output, too
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

func (p *process) start(t *testing.T) {
	check(t, p.cmd.Start())
	cmd, exited := p.cmd, make(chan struct{})
	p.exited = exited
	go func() {
		cmd.Wait()
		close(exited)
	}()
}

// restart kills the process and its workers without notice, and starts it again.
func (p *process) restart(t *testing.T, port string) {
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.exited
	old := p.cmd
	p.cmd = &exec.Cmd{Path: old.Path, Args: old.Args, Stdout: old.Stdout, Stderr: old.Stderr, SysProcAttr: old.SysProcAttr, WaitDelay: old.WaitDelay}
	p.start(t)
	p.waitReady(t, port)
}

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

// end ends the process and its workers.
func (p *process) end() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(10 * time.Second):
		syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.exited
	}
}

// An output keeps what a process writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// find looks for a server by its names. One that is missing skips the test, unless HYPER_REQUIRE_SERVERS=1.
func find(t *testing.T, names ...string) string {
	for _, name := range names {
		// The PATH of others than root often lacks sbin.
		for _, at := range []string{name, "/usr/sbin/" + name, "/usr/local/sbin/" + name} {
			if path, err := exec.LookPath(at); err == nil {
				return path
			}
		}
	}
	if os.Getenv("HYPER_REQUIRE_SERVERS") == "1" {
		t.Fatalf("%s is not installed", names[0])
	}
	t.Skipf("%s is not installed", names[0])
	return ""
}

// freePort returns a port that nobody listens on.
func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// A setup is what the configuration files in testdata are filled with.
type setup struct {
	Dir, Port, Root, Cert, Key, Bundle, Origin string
	IsRoot                                     bool
	Push                                       bool     // nginx: it still knows how
	Old                                        bool     // nginx: HTTP/1.1 only
	Secure                                     bool     // Apache as a proxy: by TLS
	Next                                       string   // HAProxy as a proxy: the port of the one behind
	Modules                                    []module // Apache's
}

func newSetup(t *testing.T, s *site) *setup {
	return &setup{
		Dir:    publicDir(t),
		Port:   freePort(t),
		Root:   s.root,
		Cert:   s.cert,
		Key:    s.key,
		Bundle: s.bundle,
		Origin: s.addr,
		IsRoot: os.Geteuid() == 0,
	}
}

// write fills in testdata/name and returns where.
func (c *setup) write(t *testing.T, name string) string {
	tmpl, err := template.ParseFiles(filepath.Join("testdata", name))
	check(t, err)
	var b strings.Builder
	check(t, tmpl.Execute(&b, c))
	path := filepath.Join(c.Dir, name)
	check(t, os.WriteFile(path, []byte(b.String()), 0o644))
	return path
}

// A module is one that Apache loads.
type module struct{ Name, File string }

// apacheModules finds those that are not compiled in, in the places where distributions put them.
func apacheModules(t *testing.T, names ...string) (list []module) {
	for _, dir := range []string{"/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/lib/httpd/modules", "/usr/libexec/apache2"} {
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
