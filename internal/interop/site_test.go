package interop

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gohyper.dev/hyper/internal/h2test"
)

// largeSize is the size of large.bin, in bytes.
const largeSize = 64 << 20

// A site is what all servers serve: a directory of pages, a certificate, and the origin for servers
// that are proxies.
type site struct {
	// Directory of small.txt, text.txt, pushed.txt, page (which pushes pushed.txt) and large.bin.
	root     string
	small    string // content of small.txt and page
	text     string // content of text.txt, which compresses well
	pushed   string
	largeSum string // SHA-256 of large.bin, in hex
	origin   *origin
	// Address of the origin. It speaks HTTP/1.1 and HTTP/2 with prior knowledge, in cleartext.
	addr string

	cert, key, bundle string // PEM files; bundle has both
}

// newSite writes the files and starts the origin.
func newSite(t *testing.T) *site {
	dir := publicDir(t)
	s := &site{
		root:   filepath.Join(dir, "root"),
		small:  "a small page\n",
		text:   strings.Repeat("All work and no play makes this page a good one to compress. ", 4000),
		pushed: "this was not asked for\n",
		cert:   filepath.Join(dir, "cert.pem"),
		key:    filepath.Join(dir, "key.pem"),
		bundle: filepath.Join(dir, "bundle.pem"),
	}
	check(t, os.Mkdir(s.root, 0o755))
	for name, body := range map[string]string{"small.txt": s.small, "page": s.small, "text.txt": s.text,
		"pushed.txt": s.pushed} {
		check(t, os.WriteFile(filepath.Join(s.root, name), []byte(body), 0o644))
	}
	s.writeLarge(t)
	s.writeCertificate(t)
	s.origin = &origin{site: s, requests: make(map[string]bool)}
	server := &http.Server{Handler: s.origin, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	s.addr = serve(t, server, false)
	return s
}

// publicDir is like t.TempDir, but every user can read the directory. Servers that give up the
// rights of root need that.
func publicDir(t *testing.T) string {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		check(t, os.Chmod(d, 0o755))
	}
	return dir
}

// writeLarge writes large.bin.
func (s *site) writeLarge(t *testing.T) {
	f, err := os.Create(s.largeFile())
	check(t, err)
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, sum), io.LimitReader(rand.NewChaCha8([32]byte{1}), largeSize))
	check(t, err)
	check(t, f.Close())
	s.largeSum = hex.EncodeToString(sum.Sum(nil))
}

// largeFile returns the path of large.bin.
func (s *site) largeFile() string { return filepath.Join(s.root, "large.bin") }

// writeCertificate writes the PEM files.
func (s *site) writeCertificate(t *testing.T) {
	c := h2test.Certificate()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	check(t, err)
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	check(t, os.WriteFile(s.cert, cert, 0o644))
	check(t, os.WriteFile(s.key, key, 0o600))
	check(t, os.WriteFile(s.bundle, append(cert, key...), 0o600))
}

// serve runs server on a free port and returns its address.
func serve(t *testing.T, server *http.Server, secure bool) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	if secure {
		server.TLSConfig = h2test.ServerTLS()
		go server.ServeTLS(l, "", "")
	} else {
		go server.Serve(l)
	}
	t.Cleanup(func() { server.Close() })
	return l.Addr().String()
}

// check fails the test if err is an error.
func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// An origin serves the site with net/http: the pages, and services below /origin/.
type origin struct {
	*site

	mu       sync.Mutex
	requests map[string]bool // x-request of the requests to /origin/slow
}

// seen reports whether the origin got a request to /origin/slow with this x-request.
func (o *origin) seen(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.requests[id]
}

// ServeHTTP serves the pages, the services and CONNECT.
func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == "CONNECT" {
		o.tunnel(w, r)
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
		o.trailers(w, r)
	case "/origin/early":
		w.Header().Set("Link", "</style>; rel=preload")
		w.WriteHeader(103)
		w.Header().Del("Link")
		io.WriteString(w, "late")
	case "/origin/slow":
		o.slow(w, r)
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
		io.WriteString(w, o.small)
	default:
		o.page(w, r)
	}
}

// page serves a page of the site.
func (o *origin) page(w http.ResponseWriter, r *http.Request) {
	if p, ok := w.(http.Pusher); ok && r.URL.Path == "/page" {
		p.Push("/pushed.txt", nil)
	}
	if r.URL.Path == "/text.txt" && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		io.WriteString(z, o.text)
		z.Close()
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Type", "text/plain")
		w.Write(b.Bytes())
		return
	}
	http.ServeFile(w, r, filepath.Join(o.root, filepath.Clean(r.URL.Path)))
}

// trailers sends a body with a trailer.
func (o *origin) trailers(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	w.Header().Set("Trailer", "X-Sum")
	fmt.Fprintf(w, "sent %s", r.Trailer.Get("X-Sent"))
	w.Header().Set("X-Sum", "abc")
}

// slow takes long enough that many requests are active at the same time.
func (o *origin) slow(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("X-Request")
	o.mu.Lock()
	o.requests[id] = true
	o.mu.Unlock()
	select {
	case <-time.After(20 * time.Millisecond):
	case <-r.Context().Done():
	}
	io.WriteString(w, "done "+id)
}

// tunnel responds to CONNECT with a line that names the protocol. After that it echoes what it
// receives.
func (o *origin) tunnel(w http.ResponseWriter, r *http.Request) {
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
	flush := http.NewResponseController(w).Flush
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
