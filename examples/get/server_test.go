package main

import (
	"bytes"
	"compress/gzip"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"gohyper.dev/hyper/internal/h2test"
)

// A testServer is net/http's server. It writes its certificate to a file and records its
// connections.
type testServer struct {
	*httptest.Server
	caCert string

	release chan struct{} // ends requests of /slow

	mu    sync.Mutex
	peers map[string]bool
}

// echo responds with the request as text: method, path and protocol, its fields, and its content.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	fmt.Fprintf(w, "%s %s %s\nhost: %s\nlength: %d\n", r.Method, r.RequestURI, r.Proto, r.Host,
		r.ContentLength)
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		fmt.Fprintf(w, "%s: %s\n", strings.ToLower(name), strings.Join(r.Header[name], "|"))
	}
	fmt.Fprintf(w, "\n%s", body)
}

// eachServer runs test with a server over TLS and with one in cleartext.
func eachServer(t *testing.T, test func(t *testing.T, s *testServer)) {
	for name, secure := range map[string]bool{"TLS": true, "cleartext": false} {
		t.Run(name, func(t *testing.T) { test(t, startServer(t, secure)) })
	}
}

// get runs the command with the server's certificate as the only authority.
func (s *testServer) get(t *testing.T, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	if s.TLS != nil {
		args = append([]string{"--cacert", s.caCert}, args...)
	}
	return get(t, args...)
}

// conns returns the number of connections that had requests.
func (s *testServer) conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.peers)
}

// startServer starts a server over TLS, or in cleartext if secure is false.
func startServer(t *testing.T, secure bool) *testServer {
	t.Helper()
	s := &testServer{peers: make(map[string]bool), release: make(chan struct{}),
		caCert: filepath.Join(t.TempDir(), "ca.pem")}
	mux := s.pages()
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

// pages returns what the server serves.
func (s *testServer) pages() *http.ServeMux {
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
	mux.HandleFunc("/echo/{rest...}", echo)
	mux.HandleFunc("/to/{status}", func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.PathValue("status"))
		w.Header().Set("Location", r.URL.Query().Get("url"))
		w.WriteHeader(status)
		io.WriteString(w, "moved\n")
	})
	mux.Handle("/circle", http.RedirectHandler("/circle", http.StatusFound))
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-s.release:
		}
	})
	mux.HandleFunc("/trailer", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "body\n")
		w.Header().Set("X-Sum", "5")
	})
	mux.HandleFunc("/gzip", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		io.WriteString(z, "unpacked\n")
		z.Close()
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "half")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	return mux
}

// longSize is larger than a stream's window. 26 such bodies are larger than the connection's
// window.
const longSize = 3 << 19

// stdinText is the standard input of the command.
const stdinText = "standard\ninput\n"

// get runs the command.
func get(t *testing.T, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	var out, errs h2test.Buffer
	exit = run(t.Context(), args, stdio{strings.NewReader(stdinText), &out, &errs})
	return exit, out.String(), errs.String()
}
