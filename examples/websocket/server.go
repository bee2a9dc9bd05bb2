package main

import (
	"bufio"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"

	"github.com/gobwas/ws/wsutil"
)

// serveVariable makes this program a server.
const serveVariable = "HYPER_EXAMPLE_SERVE"

// A serverProcess is this program as a server in a process of its own. net/http allows extended
// CONNECT only if GODEBUG has http2xconnect=1 as the process starts.
type serverProcess struct {
	url         string
	certificate []byte // PEM
	stdin       io.Closer
	cmd         *exec.Cmd
}

// startServer starts the server, which ends with ctx, with stop, or with this process.
func startServer(ctx context.Context) (*serverProcess, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path)
	debug := strings.TrimPrefix(os.Getenv("GODEBUG")+",http2xconnect=1", ",")
	cmd.Env = append(os.Environ(), "GODEBUG="+debug, serveVariable+"=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &serverProcess{stdin: stdin, cmd: cmd}
	lines := bufio.NewReader(stdout)
	url, err := lines.ReadString('\n')
	for line := ""; err == nil && !strings.HasPrefix(line, "-----END"); {
		line, err = lines.ReadString('\n')
		p.certificate = append(p.certificate, line...)
	}
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("the server did not start: %w", err)
	}
	p.url = strings.TrimSpace(url)
	return p, nil
}

// stop ends the server.
func (p *serverProcess) stop() {
	p.stdin.Close()
	p.cmd.Wait()
}

// serve writes the server's URL and certificate to out, and serves until in ends.
func serve(in io.Reader, out io.Writer) error {
	server := httptest.NewUnstartedServer(&chat{members: map[*member]bool{}})
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	fmt.Fprintln(out, server.URL)
	if err := pem.Encode(out, &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	server.CloseClientConnections()
	os.Exit(0)
	return nil
}

// A chat sends each message to all of its members.
type chat struct {
	mu      sync.Mutex
	members map[*member]bool
}

// A member is the stream of a WebSocket.
type member struct {
	io.Reader
	w http.ResponseWriter
}

// Write sends what it is given at once.
func (m *member) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	if err == nil {
		err = http.NewResponseController(m.w).Flush()
	}
	return n, err
}

// ServeHTTP serves one WebSocket.
func (c *chat) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodConnect || r.Header.Get(":protocol") != "websocket":
		http.Error(w, "this is a chat over HTTP/2", http.StatusUpgradeRequired)
		return
	case r.URL.Path != "/chat":
		http.Error(w, "members only", http.StatusForbidden)
		return
	}
	m := &member{Reader: r.Body, w: w}
	w.WriteHeader(http.StatusOK)
	if http.NewResponseController(w).Flush() != nil {
		return
	}
	c.mu.Lock()
	c.members[m] = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.members, m)
		c.mu.Unlock()
	}()
	for {
		// ReadClientText also answers PINGs and the close frame.
		text, err := wsutil.ReadClientText(m)
		if err != nil {
			return
		}
		c.mu.Lock()
		for other := range c.members {
			if wsutil.WriteServerText(other, text) != nil {
				delete(c.members, other)
			}
		}
		c.mu.Unlock()
	}
}
