// Package origin is the server behind the proxies of package interop's tests, and the handler of
// the servers of net/http: the pages of a directory, and services below /origin/.
package origin

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// A Handler serves the pages in a directory, and the services. CONNECT opens a tunnel that echoes.
type Handler struct {
	Root string          // the directory
	Slow func(id string) // called for each request to /origin/slow; may be nil

	mu       sync.Mutex
	requests map[string]bool // x-request of the requests to /origin/slow
}

// Seen reports whether the handler got a request to /origin/slow with this x-request.
func (h *Handler) Seen(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.requests[id]
}

// ServeHTTP serves the pages, the services and CONNECT.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == "CONNECT" {
		tunnel(w, r)
		return
	}
	switch r.URL.Path {
	case "/origin/sum":
		sum := sha256.New()
		io.Copy(sum, r.Body)
		fmt.Fprintf(w, "%x", sum.Sum(nil))
	case "/origin/echo":
		w.WriteHeader(200)
		echo(w, r.Body)
	case "/origin/trailers":
		trailers(w, r)
	case "/origin/sent":
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "sent "+r.Trailer.Get("X-Sent"))
	case "/origin/early":
		w.Header().Set("Link", "</style>; rel=preload")
		w.WriteHeader(103)
		w.Header().Del("Link")
		io.WriteString(w, "late")
	case "/origin/slow":
		h.slow(w, r)
	case "/origin/found":
		http.Redirect(w, r, "/small.txt", http.StatusFound)
	case "/origin/again":
		http.Redirect(w, r, "/origin/sum", http.StatusTemporaryRedirect)
	case "/origin/header":
		io.WriteString(w, r.Header.Get("X-Long"))
	case "/origin/cookies":
		io.WriteString(w, strings.Join(r.Header["Cookie"], " and "))
	case "/origin/page": // for proxies that push
		w.Header().Set("Link", "</pushed.txt>; rel=preload")
		http.ServeFile(w, r, filepath.Join(h.Root, "page"))
	case "/origin/socket":
		EchoSocket(w, r)
	default:
		h.page(w, r)
	}
}

// page serves a page of the directory.
func (h *Handler) page(w http.ResponseWriter, r *http.Request) {
	if p, ok := w.(http.Pusher); ok && r.URL.Path == "/page" {
		p.Push("/pushed.txt", nil)
	}
	name := filepath.Join(h.Root, filepath.Clean(r.URL.Path))
	if r.URL.Path == "/text.txt" && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		text, err := os.ReadFile(name)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write(text)
		z.Close()
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Type", "text/plain")
		w.Write(b.Bytes())
		return
	}
	http.ServeFile(w, r, name)
}

// trailers sends a body with a trailer.
func trailers(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	w.Header().Set("Trailer", "X-Sum")
	fmt.Fprintf(w, "sent %s", r.Trailer.Get("X-Sent"))
	w.Header().Set("X-Sum", "abc")
}

// slow takes long enough that many requests are active at the same time.
func (h *Handler) slow(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("X-Request")
	h.mu.Lock()
	if h.requests == nil {
		h.requests = make(map[string]bool)
	}
	h.requests[id] = true
	h.mu.Unlock()
	if h.Slow != nil {
		h.Slow(id)
	}
	select {
	case <-time.After(20 * time.Millisecond):
	case <-r.Context().Done():
	}
	io.WriteString(w, "done "+id)
}

// tunnel responds to CONNECT with a line that names the protocol. After that it echoes what it
// receives.
func tunnel(w http.ResponseWriter, r *http.Request) {
	protocol := r.Header.Get(":protocol")
	if protocol == "" {
		protocol = "tunnel"
	}
	w.WriteHeader(200)
	io.WriteString(w, protocol+"\n")
	echo(w, r.Body)
}

// echo writes what it reads, as it arrives.
func echo(w http.ResponseWriter, r io.Reader) {
	control := http.NewResponseController(w)
	control.EnableFullDuplex() // for HTTP/1.1
	flush := control.Flush
	flush()
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return
			}
			flush()
		}
		if err != nil {
			return
		}
	}
}

// EchoSocket serves a WebSocket in HTTP/1.1, and echoes each message.
func EchoSocket(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"echo"}})
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		kind, message, err := c.Read(r.Context())
		if err == nil {
			err = c.Write(r.Context(), kind, message)
		}
		if err != nil {
			return
		}
	}
}
