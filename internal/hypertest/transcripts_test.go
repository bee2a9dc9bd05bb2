// This file replays what real servers sent.

package hypertest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// record asks for new recordings in testdata/transcripts, which has what real servers sent:
// the HTTP/2 bytes of one fixed exchange with each server, recorded above TLS, as text:
//
//	# server: nginx/1.22.1
//	> 505249…     what the client wrote, in hex
//	< 000012…     what the server sent
//	= small: status=200 octets=13 crc32=a8e3ee5a
//
// A line that begins with "=" is the result of one request. A replay sends the server's bytes to a
// client that makes the same requests, each chunk after the client has sent the requests before it.
// The results must be the same. With -record, the test starts the servers that it finds on this
// machine and records them again.
var record = flag.Bool("record", false, "record testdata/transcripts anew from the servers on this machine")

// A transcriptStep is one request of the fixed exchange.
type transcriptStep struct {
	name string
	req  func() *hyper.Request
}

var identity = hyper.Header{{Name: "accept-encoding", Value: "identity"}}

var transcriptSteps = []transcriptStep{
	{"small", func() *hyper.Request { return &hyper.Request{Path: "/small.txt"} }},
	{"large", func() *hyper.Request { return &hyper.Request{Path: "/large.txt", Header: identity} }},
	{"head", func() *hyper.Request {
		return &hyper.Request{Method: "HEAD", Path: "/large.txt",
			Header: identity}
	}},
	{"missing", func() *hyper.Request { return &hyper.Request{Path: "/missing"} }},
	{"coded", func() *hyper.Request { return &hyper.Request{Path: "/large.txt"} }},
	{"upload", func() *hyper.Request {
		return &hyper.Request{Method: "PUT", Path: "/up/put.txt",
			Body: bytes.NewReader(transcriptLarge[:20_000])}
	}},
	{"echo", func() *hyper.Request {
		return &hyper.Request{Method: "POST", Path: "/echo", Body: bytes.NewReader(transcriptLarge[:20_000])}
	}},
	{"trailers", func() *hyper.Request { return &hyper.Request{Path: "/trailers.txt", Header: identity} }},
	{"push", func() *hyper.Request { return &hyper.Request{Path: "/push.html", Header: identity} }},
	{"again", func() *hyper.Request { return &hyper.Request{Path: "/small.txt"} }},
}

var (
	transcriptSmall = []byte("hello, world\n")
	transcriptLarge = func() (p []byte) {
		for i := 0; len(p) < 100<<10; i++ {
			p = fmt.Appendf(p, "line %d of a text that compresses well\n", i)
		}
		return p[:100<<10]
	}()
	transcriptDocs = map[string][]byte{
		"small.txt":    transcriptSmall,
		"trailers.txt": transcriptSmall,
		"large.txt":    transcriptLarge,
		"push.html":    []byte("<link rel=stylesheet href=style.css>\n"),
		"style.css":    []byte("p { color: red }\n"),
	}
)

func transcriptConfig() *hyper.Config {
	// The recordings contain the window updates of this manager.
	return &hyper.Config{Scheme: "https", Authority: "localhost", Push: &hyper.PushPolicy{},
		WindowManager: hyper.ReadWindow{}.New}
}

// perform makes a request and describes the result in one line.
func (step transcriptStep) perform(ctx context.Context, conn *hyper.Conn) (string, error) {
	resp, err := conn.Do(ctx, step.req())
	if err != nil {
		return "", err
	}
	line, err := summary(resp)
	if err != nil {
		return "", err
	}
	line = step.name + ": " + line
	for push, err := range resp.Pushes(ctx) {
		if err != nil {
			return "", err
		}
		pushed, err := push.Response(ctx)
		if err != nil {
			return "", err
		}
		text, err := summary(pushed)
		if err != nil {
			return "", err
		}
		line += " push=" + push.Request.Path + " " + text
	}
	return line, nil
}

// summary reads a response to its end and describes it.
func summary(resp *hyper.Response) (string, error) {
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	line := fmt.Sprintf("status=%d octets=%d crc32=%08x", resp.StatusCode, len(body),
		crc32.ChecksumIEEE(body))
	if coding := resp.Header.Get("content-encoding"); coding != "" {
		line += " coding=" + coding
	}
	for name, value := range resp.Trailer().All() {
		line += fmt.Sprintf(" trailer=%s:%s", name, value)
	}
	return line, nil
}

// A transcriptChunk is what crossed the socket in one direction.
type transcriptChunk struct {
	sent   bool // by the client
	octets []byte
}

type recording struct {
	comments []string
	chunks   []transcriptChunk
	results  []string
}

func transcriptFiles(t testing.TB) []string {
	files, err := filepath.Glob("../../testdata/transcripts/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func readTranscript(t testing.TB, file string) *recording {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	tr := &recording{}
	for line := range strings.Lines(string(text)) {
		kind, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch kind {
		case "#":
			tr.comments = append(tr.comments, rest)
		case "=":
			tr.results = append(tr.results, rest)
		case ">", "<":
			octets, err := hex.DecodeString(rest)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			tr.add(kind == ">", octets)
		default:
			t.Fatalf("%s: a line of no known kind: %.60q", file, line)
		}
	}
	return tr
}

// add appends bytes, and joins those that went in the same direction.
func (tr *recording) add(sent bool, octets []byte) {
	if last := len(tr.chunks) - 1; last >= 0 && tr.chunks[last].sent == sent {
		tr.chunks[last].octets = append(tr.chunks[last].octets, octets...)
		return
	}
	tr.chunks = append(tr.chunks, transcriptChunk{sent, bytes.Clone(octets)})
}

func (tr *recording) write(file string) error {
	var b strings.Builder
	for _, line := range tr.comments {
		fmt.Fprintf(&b, "# %s\n", line)
	}
	for _, c := range tr.chunks {
		fmt.Fprintf(&b, "%s %x\n", map[bool]string{true: ">", false: "<"}[c.sent], c.octets)
	}
	for _, line := range tr.results {
		fmt.Fprintf(&b, "= %s\n", line)
	}
	return os.WriteFile(file, []byte(b.String()), 0o644)
}

// progress counts the events in a client's bytes to which a server responds: field sections and
// ends of streams.
type progress struct {
	buf   []byte
	begun bool
	count int
}

func (p *progress) add(octets []byte) {
	p.buf = append(p.buf, octets...)
	if !p.begun && len(p.buf) >= len(wire.ClientPreface) {
		p.begun, p.buf = true, p.buf[len(wire.ClientPreface):]
	}
	for p.begun && len(p.buf) >= wire.HeaderLen {
		h := wire.ParseFrameHeader(p.buf)
		if len(p.buf) < wire.HeaderLen+h.Length {
			return
		}
		p.buf = p.buf[wire.HeaderLen+h.Length:]
		if h.Type == wire.Headers {
			p.count++
		}
		if (h.Type == wire.Headers || h.Type == wire.Data) && h.Flags.Has(wire.EndStream) {
			p.count++
		}
	}
}

// A replayer is a net.Conn whose other end is a transcript.
type replayer struct {
	net.Conn // nil: no other method is called

	mu     sync.Mutex
	wake   sync.Cond
	closed bool
	sent   progress // by the client of the replay
	said   progress // by the recorded client, before chunks
	chunks []transcriptChunk
}

func newReplayer(tr *recording) *replayer {
	r := &replayer{chunks: slices.Clone(tr.chunks)}
	r.wake.L = &r.mu
	return r
}

func (r *replayer) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0, net.ErrClosed
	}
	r.sent.add(p)
	r.wake.Broadcast()
	return len(p), nil
}

func (r *replayer) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		for len(r.chunks) > 0 && r.chunks[0].sent {
			r.said.add(r.chunks[0].octets)
			r.chunks = r.chunks[1:]
		}
		switch {
		case r.closed:
			return 0, net.ErrClosed
		case len(r.chunks) > 0 && r.sent.count >= r.said.count:
			n := copy(p, r.chunks[0].octets)
			if r.chunks[0].octets = r.chunks[0].octets[n:]; len(r.chunks[0].octets) == 0 {
				r.chunks = r.chunks[1:]
			}
			return n, nil
		}
		r.wake.Wait()
	}
}

func (r *replayer) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.wake.Broadcast()
	return nil
}

func (r *replayer) LocalAddr() net.Addr { return nil }

func (r *replayer) RemoteAddr() net.Addr { return nil }

func TestTranscriptsOfRealServers(t *testing.T) {
	if *record {
		recordTranscripts(t)
	}
	files := transcriptFiles(t)
	if len(files) < 5 {
		t.Fatalf("%d transcripts", len(files))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			tr := readTranscript(t, file)
			if len(tr.results) < 5 {
				t.Fatalf("%d results", len(tr.results))
			}
			synctest.Test(t, func(t *testing.T) {
				conn, err := hyper.NewConn(context.Background(), newReplayer(tr), transcriptConfig())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				for _, want := range tr.results {
					name, _, _ := strings.Cut(want, ":")
					i := slices.IndexFunc(transcriptSteps,
						func(s transcriptStep) bool { return s.name == name })
					if i < 0 {
						t.Fatalf("no step is named %q", name)
					}
					got, err := transcriptSteps[i].perform(ctx, conn)
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					if got != want {
						t.Errorf("got  %s\nwant %s", got, want)
					}
				}
			})
		})
	}
}

// A recorder is a connection that records into a transcript.
type recorder struct {
	net.Conn

	mu sync.Mutex
	tr *recording
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	r.tr.add(true, p) // before the server can respond
	r.mu.Unlock()
	return r.Conn.Write(p)
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	if n > 0 {
		r.tr.add(false, p[:n])
	}
	return n, err
}

// A recordedServer is a server that may be installed on this machine.
type recordedServer struct {
	name    string
	version []string // the command whose first line is the version
	steps   string   // steps of the exchange in addition to those for all servers
	start   func(t *testing.T, dir, port string) *exec.Cmd
}

func recordTranscripts(t *testing.T) {
	for _, server := range recordedServers {
		t.Run("record "+server.name, func(t *testing.T) { server.record(t) })
	}
	t.Run("record go", recordGo)
}

func (server recordedServer) record(t *testing.T) {
	path, err := exec.LookPath(server.version[0])
	if err != nil {
		t.Skip(server.name, " is not on this machine")
	}
	text, err := exec.Command(path, server.version[1:]...).CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	version, _, _ := strings.Cut(string(text), "\n")
	version = strings.TrimPrefix(strings.TrimPrefix(version, "Server version: "), "nginx version: ")
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "docs", "up"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, filepath.Dir(dir)} { // servers drop their root privileges
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, p := range transcriptDocs {
		writeFile(t, filepath.Join(dir, "docs", name), p)
	}
	writeCertificate(t, dir)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ln.Close()
	cmd := server.start(t, dir, port)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	}()
	recordFrom(t, server.name, version, "127.0.0.1:"+port, server.steps)
}

// recordFrom makes the fixed exchange with the server at addr and writes the transcript.
func recordFrom(t *testing.T, name, version, addr, steps string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	dialer := &tls.Dialer{Config: &tls.Config{RootCAs: h2test.Roots(), ServerName: "localhost",
		NextProtos: []string{"h2"}}}
	nc, err := dialer.DialContext(ctx, "tcp", addr)
	for ; err != nil; nc, err = dialer.DialContext(ctx, "tcp", addr) {
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(50 * time.Millisecond): // a server needs time to start
		}
	}
	rec := &recorder{Conn: nc, tr: &recording{comments: []string{"server: " + version}}}
	conn, err := hyper.NewConn(ctx, rec, transcriptConfig())
	if err != nil {
		t.Fatal(err)
	}
	var results []string
	for _, step := range transcriptSteps {
		if !strings.Contains(" small large head missing again "+steps+" ", " "+step.name+" ") {
			continue
		}
		line, err := step.perform(ctx, conn)
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		t.Log(line)
		results = append(results, line)
		req := step.req()
		if want, ok := transcriptDocs[strings.TrimPrefix(req.Path, "/")]; ok && req.Method == "" {
			sum := fmt.Sprintf("status=200 octets=%d crc32=%08x", len(want), crc32.ChecksumIEEE(want))
			if !strings.Contains(line, sum) {
				t.Errorf("%s is not what the file has: %s", line, sum)
			}
		}
	}
	conn.Close()
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.tr.comments = append(rec.tr.comments,
		"the HTTP/2 octets above TLS; > by the client, < by the server, = what the client made of it")
	rec.tr.results = results
	if t.Failed() {
		return
	}
	if err := os.MkdirAll("../../testdata/transcripts", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := rec.tr.write("../../testdata/transcripts/" + name + ".txt"); err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, name string, p []byte) {
	t.Helper()
	if err := os.WriteFile(name, p, 0o644); err != nil {
		t.Fatal(err)
	}
}

func writeCertificate(t *testing.T, dir string) {
	t.Helper()
	cert := h2test.Certificate()
	writeFile(t, filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
		Bytes: cert.Certificate[0]}))
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY",
		Bytes: key}))
}

// serverConfig writes a server's configuration, with DIR and PORT replaced, and returns the file's
// name.
func serverConfig(t *testing.T, dir, port, text string) string {
	t.Helper()
	name := filepath.Join(dir, "server.conf")
	writeFile(t, name, []byte(strings.NewReplacer("DIR", dir, "PORT", port).Replace(text)))
	return name
}

var recordedServers = []recordedServer{{
	name: "nghttpd", version: []string{"nghttpd", "--version"}, steps: "echo trailers push",
	start: func(t *testing.T, dir, port string) *exec.Cmd {
		return exec.Command("nghttpd", "-a", "127.0.0.1", "-d", dir+"/docs", "--trailer", "x-sum: 1",
			"--error-gzip", "--echo-upload",
			"--push", "/push.html=/style.css", port, dir+"/key.pem", dir+"/cert.pem")
	},
}, {
	name: "h2o", version: []string{"h2o", "--version"}, steps: "coded push",
	start: func(t *testing.T, dir, port string) *exec.Cmd {
		return exec.Command("h2o", "-c", serverConfig(t, dir, port, `
listen:
  host: 127.0.0.1
  port: PORT
  ssl:
    certificate-file: DIR/cert.pem
    key-file: DIR/key.pem
compress: ON
num-threads: 1
hosts:
  default:
    paths:
      "/":
        mruby.handler: |
          Proc.new do |env|
            [399, env["PATH_INFO"] == "/push.html" ? {"link" => "</style.css>; rel=preload"} : {}, []]
          end
        file.dir: DIR/docs
`))
	},
}, {
	name: "nginx", version: []string{"nginx", "-v"}, steps: "coded upload trailers push",
	start: func(t *testing.T, dir, port string) *exec.Cmd {
		return exec.Command("nginx", "-e", "stderr", "-p", dir, "-c", serverConfig(t, dir, port, `
daemon off;
master_process off;
pid DIR/pid;
events {}
http {
	access_log off;
	default_type text/plain;
	gzip on;
	gzip_types text/plain;
	client_body_temp_path DIR/body;
	proxy_temp_path DIR/proxy;
	fastcgi_temp_path DIR/fastcgi;
	uwsgi_temp_path DIR/uwsgi;
	scgi_temp_path DIR/scgi;
	server {
		listen 127.0.0.1:PORT ssl http2;
		ssl_certificate DIR/cert.pem;
		ssl_certificate_key DIR/key.pem;
		root DIR/docs;
		location /up/ { dav_methods PUT; }
		location = /push.html { http2_push /style.css; }
		location = /trailers.txt { add_trailer x-sum 1; }
	}
}
`))
	},
}, {
	name: "apache", version: []string{"apache2", "-v"}, steps: "coded push",
	start: func(t *testing.T, dir, port string) *exec.Cmd {
		return exec.Command("apache2", "-DFOREGROUND", "-d", dir, "-f", serverConfig(t, dir, port, `
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule mime_module /usr/lib/apache2/modules/mod_mime.so
LoadModule filter_module /usr/lib/apache2/modules/mod_filter.so
LoadModule deflate_module /usr/lib/apache2/modules/mod_deflate.so
LoadModule headers_module /usr/lib/apache2/modules/mod_headers.so
LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
LoadModule http2_module /usr/lib/apache2/modules/mod_http2.so
ServerName localhost
ServerRoot DIR
PidFile DIR/pid
DefaultRuntimeDir DIR
Mutex posixsem
ErrorLog /dev/stderr
User www-data
Group www-data
Listen 127.0.0.1:PORT
Protocols h2
H2Push on
SSLEngine on
SSLSessionCache none
SSLCertificateFile DIR/cert.pem
SSLCertificateKeyFile DIR/key.pem
TypesConfig /dev/null
AddType text/plain .txt
AddOutputFilterByType DEFLATE text/plain
DocumentRoot DIR/docs
<Location /push.html>
	Header add Link "</style.css>; rel=preload; as=style"
</Location>
`))
	},
}}

// recordGo records Go's net/http server.
func recordGo(t *testing.T) {
	mux := http.NewServeMux()
	for name, p := range transcriptDocs {
		mux.HandleFunc("/"+name, func(w http.ResponseWriter, r *http.Request) {
			if name == "push.html" {
				if err := w.(http.Pusher).Push("/style.css", nil); err != nil {
					t.Error(err)
				}
			}
			if name == "trailers.txt" {
				w.Header().Set("Trailer", "x-sum")
			}
			w.Write(p)
			if name == "trailers.txt" {
				w.Header().Set("x-sum", "1")
			}
		})
	}
	mux.HandleFunc("/echo", func(w http.ResponseWriter,
		r *http.Request) {
		io.Copy(w, bufio.NewReader(r.Body))
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux, TLSConfig: h2test.ServerTLS("h2")}
	done := make(chan struct{})
	go func() {
		server.ServeTLS(ln, "", "")
		close(done)
	}()
	recordFrom(t, "go", "net/http of "+runtime.Version(), ln.Addr().String(), "echo trailers push")
	server.Close()
	<-done
}
