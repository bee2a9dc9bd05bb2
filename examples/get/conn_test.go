package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writeClientCertificate writes a new client certificate and its key, and returns their files.
func writeClientCertificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert = writeFile(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	key = writeFile(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	return cert, key
}

func TestClientCertificate(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) != 1 {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	defer s.Close()
	cert, key := writeClientCertificate(t)
	both := filepath.Join(t.TempDir(), "both.pem")
	var text []byte
	for _, name := range []string{cert, key} {
		b, _ := os.ReadFile(name)
		text = append(text, b...)
	}
	if err := os.WriteFile(both, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		exit int
	}{
		{nil, exitStatus},
		{[]string{"--cert", cert, "--key", key}, exitOK},
		{[]string{"-E", both}, exitOK},
		{[]string{"-cert", both}, exitOK},
	} {
		if exit, _, errs := get(t, append(c.args, "-k", s.URL)...); exit != c.exit {
			t.Errorf("%v: exit %d, %q", c.args, exit, errs)
		}
	}
}

func TestKeyLog(t *testing.T) {
	s := startServer(t, true)
	file := writeFile(t, "keys", "# kept\n")
	t.Setenv(keyLogVariable, file)
	for range 2 {
		if exit, _, errs := s.get(t, s.URL+"/page"); exit != exitOK {
			t.Fatalf("exit %d, %q", exit, errs)
		}
	}
	keys, err := os.ReadFile(file)
	if err != nil || !strings.HasPrefix(string(keys), "# kept\n") ||
		strings.Count(string(keys), "CLIENT_TRAFFIC_SECRET_0 ") != 2 {
		t.Errorf("%q, %v", keys, err)
	}
	t.Setenv(keyLogVariable, "/none/keys")
	exit, _, errs := s.get(t, s.URL+"/page")
	if exit != exitFailed || !strings.Contains(errs, keyLogVariable) {
		t.Errorf("exit %d, %q", exit, errs)
	}
}

func TestConnectTimeout(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	exit, _, errs := get(t, "--connect-timeout", "0.1", "https://"+silent.Addr().String())
	if exit != exitFailed || !strings.Contains(errs, "--connect-timeout") {
		t.Errorf("exit %d, %q", exit, errs)
	}
}

// A testProxy records what it is asked for, and connects to it.
type testProxy struct {
	*httptest.Server
	asked chan string // host:port and credentials
}

// startProxy starts a proxy for CONNECT: over TLS with HTTP/2 if protocol is "h2", over TLS with
// HTTP/1.1 if it is "https", else in cleartext.
func startProxy(t *testing.T, protocol string) *testProxy {
	p := &testProxy{asked: make(chan string, 10)}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "CONNECT" || strings.HasPrefix(r.Host, "refused.") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		p.asked <- r.Host + " " + r.Header.Get("Proxy-Authorization")
		to, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer to.Close()
		if r.ProtoMajor == 2 {
			control := http.NewResponseController(w)
			w.WriteHeader(http.StatusOK)
			control.Flush()
			go func() { io.Copy(to, r.Body); to.Close() }()
			io.Copy(flushWriter{w, control}, to)
			return
		}
		nc, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer nc.Close()
		io.WriteString(nc, "HTTP/1.1 200 Connected\r\n\r\n")
		go func() { io.Copy(to, buf); to.Close() }()
		io.Copy(nc, to)
	}))
	p.EnableHTTP2 = protocol == "h2"
	if protocol == "http" {
		p.Start()
	} else {
		p.StartTLS()
	}
	t.Cleanup(p.Close)
	return p
}

// A flushWriter flushes what is written.
type flushWriter struct {
	io.Writer
	control *http.ResponseController
}

// Write writes and flushes b.
func (w flushWriter) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	w.control.Flush()
	return n, err
}

func TestHTTPProxies(t *testing.T) {
	for _, protocol := range []string{"http", "https", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			p := startProxy(t, protocol)
			u, _ := url.Parse(p.URL)
			u.User = url.UserPassword("me", "secret")
			eachServer(t, func(t *testing.T, s *testServer) {
				exit, out, errs := get(t, "-k", "-x", u.String(), s.URL+"/page", s.URL+"/page")
				if exit != exitOK || out != "page\npage\n" {
					t.Errorf("exit %d, %q, %q", exit, out, errs)
				}
				host := strings.TrimPrefix(strings.TrimPrefix(s.URL, "https://"), "http://")
				if asked, want := <-p.asked, host+" Basic bWU6c2VjcmV0"; asked != want {
					t.Errorf("asked for %q, want %q", asked, want)
				}
				if len(p.asked) > 0 {
					t.Error("there was a second tunnel")
				}
			})
			exit, _, errs := get(t, "-k", "-x", p.URL, "https://refused.example/")
			if exit != exitFailed || !strings.Contains(errs, "403") || strings.Contains(errs, "secret") {
				t.Errorf("exit %d, %q", exit, errs)
			}
		})
	}
}

func TestHeaderOfAProxyIsBounded(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		go io.Copy(io.Discard, nc)
		io.WriteString(nc, "HTTP/1.1 200 OK\r\n")
		for {
			if _, err := io.WriteString(nc, "a: "+strings.Repeat("b", 1000)+"\r\n"); err != nil {
				return
			}
		}
	}()
	exit, _, errs := get(t, "-m", "60", "-x", ln.Addr().String(), "https://host.invalid/")
	if exit != exitFailed || !strings.Contains(errs, "EOF") {
		t.Errorf("exit %d, %q", exit, errs)
	}
}

func TestProxyOfTheEnvironment(t *testing.T) {
	p := startProxy(t, "http")
	t.Setenv("https_proxy", p.URL)
	// The environment's proxy is not used for this host, so the name cannot be one that exists.
	exit, _, errs := get(t, "https://refused.invalid/")
	if exit != exitFailed || !strings.Contains(errs, "proxy "+strings.TrimPrefix(p.URL, "http://")) {
		t.Errorf("exit %d, %q", exit, errs)
	}
	exit, _, errs = get(t, "--noproxy", "refused.invalid", "https://refused.invalid/")
	if exit != exitFailed || strings.Contains(errs, "proxy ") {
		t.Errorf("exit %d, %q", exit, errs)
	}
}

func TestHostsWithoutProxy(t *testing.T) {
	for list, want := range map[string]bool{"": false, "*": true, "example.com": true, ".example.com": true,
		"a, WWW.example.com": true, "ample.com": false, "other": false} {
		if got := excluded("www.Example.com", list); got != want {
			t.Errorf("%q: %v", list, got)
		}
	}
}

func TestSOCKSProxies(t *testing.T) {
	for _, scheme := range []string{"socks5", "socks5h"} {
		s := startServer(t, true)
		asked := make(chan string, 1)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() {
			nc, err := ln.Accept()
			if err == nil {
				serveSOCKS(nc, s.Listener.Addr().String(), asked)
			}
		}()
		u := strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
		exit, out, errs := get(t, "-k", "-x", scheme+"://"+ln.Addr().String(), u+"/page")
		if exit != exitOK || out != "page\n" {
			t.Fatalf("exit %d, %q, %q", exit, out, errs)
		}
		if name := <-asked; (name == "localhost") != (scheme == "socks5h") {
			t.Errorf("%s: the proxy was asked for %q", scheme, name)
		}
	}
}

// serveSOCKS serves one connection of SOCKS 5 (RFC 1928) without authentication. It connects to the
// address to, whatever it is asked for.
func serveSOCKS(nc net.Conn, to string, asked chan<- string) {
	defer nc.Close()
	r := bufio.NewReader(nc)
	head := make([]byte, 2)
	io.ReadFull(r, head)
	r.Discard(int(head[1]))
	nc.Write([]byte{5, 0})
	request := make([]byte, 4)
	io.ReadFull(r, request)
	name := make([]byte, map[byte]int{1: 4, 4: 16}[request[3]])
	if request[3] == 3 {
		n, _ := r.ReadByte()
		name = make([]byte, n)
	}
	io.ReadFull(r, name)
	r.Discard(2)
	asked <- string(name)
	nc.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	go func() { io.Copy(server, r); server.Close() }()
	io.Copy(nc, server)
}

func TestInternationalHosts(t *testing.T) {
	for text, want := range map[string]string{"https://bücher.example/": "xn--bcher-kva.example",
		"https://bücher.example:8443/": "xn--bcher-kva.example:8443", "https://[::1]:1/": "[::1]:1"} {
		u, err := parseURL(text)
		if err != nil || u.Host != want {
			t.Errorf("%s: %v, %v", text, u, err)
		}
	}
}
