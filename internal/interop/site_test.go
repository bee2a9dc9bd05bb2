package interop

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/interop/origin"
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
	origin   *origin.Handler
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
	s.origin = &origin.Handler{Root: s.root}
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
func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
