package main

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A testServer is net/http's server. It writes its certificate to a file and records its
// connections.
type testServer struct {
	*httptest.Server
	caCert string

	mu    sync.Mutex
	peers map[string]bool
}

// startServer starts a server over TLS, or in cleartext if secure is false.
func startServer(t *testing.T, secure bool) *testServer {
	s := &testServer{peers: make(map[string]bool), caCert: filepath.Join(t.TempDir(), "ca.pem")}
	mux := http.NewServeMux()
	mux.HandleFunc("/page", func(w http.ResponseWriter, r *http.Request) {
		if p, ok := w.(http.Pusher); ok {
			p.Push("/style", nil)
		}
		io.WriteString(w, "page\n")
	})
	mux.HandleFunc("/style", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "style") })
	mux.HandleFunc("/long/{letter}", func(w http.ResponseWriter, r *http.Request) {
		w.Write(bytes.Repeat([]byte(r.PathValue("letter")), longSize))
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "half")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.peers[r.RemoteAddr] = true
		s.mu.Unlock()
		mux.ServeHTTP(w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if !secure {
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		s.Start()
	} else {
		s.EnableHTTP2 = true
		s.StartTLS()
		cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
		if err := os.WriteFile(s.caCert, cert, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(s.Close)
	return s
}

// longSize is larger than a stream's window. 26 such bodies are larger than the connection's
// window.
const longSize = 3 << 19

// get runs the command.
func get(t *testing.T, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	var out, errs lockedBuffer
	exit = run(t.Context(), args, &out, &errs)
	return exit, out.String(), errs.String()
}

func TestBodyGoesToStandardOutput(t *testing.T) {
	s := startServer(t, true)
	exit, out, errs := get(t, "-cacert", s.caCert, s.URL+"/page")
	if exit != exitOK || out != "page\n" || errs != "" {
		t.Errorf("exit %d, %q, %q", exit, out, errs)
	}
}

func TestURLsOfOneHostShareAConnectionAndKeepTheirOrder(t *testing.T) {
	s := startServer(t, true)
	args := []string{"-cacert", s.caCert}
	var want strings.Builder
	for letter := 'a'; letter <= 'z'; letter++ {
		args = append(args, fmt.Sprintf("%s/long/%c", s.URL, letter))
		want.WriteString(strings.Repeat(string(letter), longSize))
	}
	exit, out, errs := get(t, args...)
	if exit != exitOK || out != want.String() {
		t.Errorf("exit %d, %d bytes of %d, %q", exit, len(out), want.Len(), errs)
	}
	if len(s.peers) != 1 {
		t.Errorf("%d connections", len(s.peers))
	}
}

func TestOutputFile(t *testing.T) {
	s := startServer(t, true)
	file := filepath.Join(t.TempDir(), "out")
	exit, out, errs := get(t, "-k", "-o", file, s.URL+"/page")
	body, err := os.ReadFile(file)
	if exit != exitOK || out != "" || string(body) != "page\n" || err != nil {
		t.Errorf("exit %d, %q, %q, %q, %v", exit, out, errs, body, err)
	}
}

func TestVerboseShowsFramesBothWays(t *testing.T) {
	s := startServer(t, true)
	_, _, errs := get(t, "-v", "-cacert", s.caCert, s.URL+"/page")
	for _, want := range []string{"-> PREFACE\n", "-> HEADERS stream=1", "       :path: /page\n",
		"<- HEADERS stream=1", "       :status: 200\n", "<- DATA stream=1"} {
		if !strings.Contains(errs, want) {
			t.Errorf("no %q in\n%s", want, errs)
		}
	}
}

func TestPushesAreListed(t *testing.T) {
	s := startServer(t, true)
	exit, out, errs := get(t, "-push", "-cacert", s.caCert, s.URL+"/page")
	if want := "push /style (stream 2, promised on 1): status 200, 5 bytes\n"; exit != exitOK ||
		out != "page\n" || errs != want {
		t.Errorf("exit %d, %q, %q", exit, out, errs)
	}
}

func TestCleartextByPriorKnowledge(t *testing.T) {
	s := startServer(t, false)
	exit, out, errs := get(t, s.URL+"/page")
	if exit != exitOK || out != "page\n" {
		t.Errorf("exit %d, %q, %q", exit, out, errs)
	}
}

func TestFailuresSayWhatAndExit(t *testing.T) {
	s := startServer(t, true)
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.Config.ErrorLog = s.Config.ErrorLog
	old.StartTLS()
	defer old.Close()
	for _, c := range []struct {
		name string
		args []string
		exit int
		want string
	}{
		{"no URL", nil, exitUsage, "usage: get"},
		{"an unknown option", []string{"-x"}, exitUsage, "-x"},
		{"no scheme", []string{"example.com"}, exitUsage, "not a URL"},
		{"another scheme", []string{"ftp://example.com/"}, exitUsage, "not a URL"},
		{"status 404", []string{"-k", s.URL + "/none"}, exitStatus, "status 404"},
		{"a body cut short", []string{"-k", s.URL + "/cut"}, exitFailed, "INTERNAL_ERROR"},
		{"one of two", []string{"-k", s.URL + "/cut", s.URL + "/none"}, exitFailed, "status 404"},
		{"an unknown authority", []string{s.URL + "/page"}, exitFailed, "-cacert"},
		{"a file of authorities that is not there", []string{"-cacert", "none", s.URL + "/page"}, exitFailed,
			"none"},
		{"a server without HTTP/2", []string{"-k", old.URL}, exitFailed, "does not speak HTTP/2"},
		{"no server there", []string{"https://127.0.0.1:1/"}, exitFailed, "refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			exit, _, errs := get(t, c.args...)
			if exit != c.exit || !strings.Contains(errs, c.want) {
				t.Errorf("exit %d, want %d; %q, want %q", exit, c.exit, errs, c.want)
			}
		})
	}
}

func TestProgressAppearsAfterASecond(t *testing.T) {
	var out strings.Builder
	p := newProgress(&out, "URL", 40e6)
	now := p.started
	p.now = func() time.Time { return now }
	p.Write(make([]byte, 1e6))
	if out.Len() > 0 {
		t.Errorf("at once: %q", out.String())
	}
	now = now.Add(2 * time.Second)
	p.Write(make([]byte, 9e6))
	if want := "\r\x1b[KURL  10 MB of 40 MB  25 %  5 MB/s"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	out.Reset()
	p.Write(make([]byte, 1))
	if out.Len() > 0 {
		t.Errorf("too often: %q", out.String())
	}
	p.done()
	if out.String() != "\r\x1b[K" {
		t.Errorf("the line stays: %q", out.String())
	}
}

// A lockedBuffer is a buffer that several goroutines may write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

// Write appends b.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns what was written so far.
func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
