package dropin

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// A lane is one run of an experiment: its transport, the servers that it meets, and two accounts that must not depend on
// the transport, what the program reports and what the servers saw.
type lane struct {
	*testing.T
	transport http.RoundTripper
	standard  bool             // it is net/http's
	vary      []string         // request fields whose values differ from run to run
	masks     []*regexp.Regexp // what else differs

	sent  atomic.Int64 // requests that hyper's frames show
	loose bool         // requests may end before a server sees them
	old   bool         // the servers speak HTTP/1.1 only

	mu       sync.Mutex                  // guards everything below
	servers  map[string]*httptest.Server // by URL
	reported []string
	seen     []string
	names    []string // of the servers: address, name, address, name
}

// transports are the two lanes of each experiment. The first one is the measure.
var transports = []struct {
	name string
	make func(*lane) http.RoundTripper
}{
	{"net-http", func(*lane) http.RoundTripper {
		return &http.Transport{TLSClientConfig: h2test.ClientTLS(), ForceAttemptHTTP2: true, ExpectContinueTimeout: time.Second}
	}},
	{"hyper", func(l *lane) http.RoundTripper {
		return &hyper.Transport{Config: &hyper.Config{TLS: h2test.ClientTLS(), Trace: l.trace}}
	}},
}

// compare runs an experiment on both lanes.
func compare(t *testing.T, experiment func(*lane)) { variant{}.compare(t, experiment) }

// A variant is another way to make the comparison.
type variant struct {
	old   bool                            // with servers that speak HTTP/1.1 only
	hyper func(l *lane) http.RoundTripper // in the place of hyper.Transport
}

func (v variant) compare(t *testing.T, experiment func(*lane)) {
	var lanes []*lane
	for _, transport := range transports {
		l := &lane{standard: transport.name == "net-http", old: v.old}
		l.transport = transport.make(l)
		if !l.standard && v.hyper != nil {
			l.transport = v.hyper(l)
		}
		ok := t.Run(transport.name, func(t *testing.T) {
			l.T = t
			experiment(l)
			l.finish()
		})
		if !ok {
			return
		}
		if transport.name == "hyper" {
			l.checkTrace(t)
		}
		lanes = append(lanes, l)
	}
	same(t, "the program reports", lanes[0].reported, lanes[1].reported)
	seen := lanes[0].requests()
	if !lanes[0].loose {
		same(t, "the servers saw", seen, lanes[1].requests())
	}
	t.Logf("%d lines reported, %d requests seen", len(lanes[0].reported), len(seen))
}

// some are experiments to be made in other ways, too.
var some = map[string]func(*lane){
	"go-containerregistry": pushAndPull,
	"go-git":               cloneFetchAndPush,
	"aws":                  useAWSObjects,
	"retryablehttp":        tryAgain,
	"vault":                useVault,
}

// Where servers do not speak HTTP/2, programs do not notice.
func TestHTTP1OnlyServers(t *testing.T) {
	for name, experiment := range some {
		t.Run(name, func(t *testing.T) { variant{old: true}.compare(t, experiment) })
	}
}

// An http.Transport that speaks HTTP/2 through hyper.
func TestConfiguredTransport(t *testing.T) {
	configured := variant{hyper: func(l *lane) http.RoundTripper {
		tr := &http.Transport{TLSClientConfig: h2test.ClientTLS(), ExpectContinueTimeout: time.Second}
		if err := hyper.ConfigureTransport(tr, &hyper.Config{Trace: l.trace}); err != nil {
			t.Fatal(err)
		}
		return tr
	}}
	for name, experiment := range some {
		t.Run(name, func(t *testing.T) { configured.compare(t, experiment) })
	}
}

// same compares two accounts line by line.
func same(t *testing.T, what string, a, b []string) {
	t.Helper()
	if len(a) == 0 {
		t.Errorf("%s: nothing, which proves nothing", what)
	}
	for i := range max(len(a), len(b)) {
		left, right := "(nothing)", "(nothing)"
		if i < len(a) {
			left = a[i]
		}
		if i < len(b) {
			right = b[i]
		}
		if left != right {
			t.Errorf("%s different things with the two transports, first in line %d:\nnet/http %s\nhyper    %s", what, i+1, left, right)
			return
		}
	}
}

func (l *lane) client() *http.Client { return &http.Client{Transport: l.transport} }

// report notes what the program says.
func (l *lane) report(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reported = append(l.reported, l.anonymousLocked(fmt.Sprintf(format, args...)))
}

// fails reports err by what a program can tell about it.
func (l *lane) fails(what string, err error) {
	l.Helper()
	if err == nil {
		l.Errorf("%s: no error", what)
	}
	l.report("%s: %s", what, class(err))
	l.Logf("%s: %v", what, err)
}

// anonymousLocked replaces what differs from run to run, such as the addresses of the servers.
func (l *lane) anonymousLocked(s string) string {
	s = strings.NewReplacer(l.names...).Replace(s)
	for _, mask := range l.masks {
		s = mask.ReplaceAllString(s, "…")
	}
	return s
}

func (l *lane) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// requests returns what the servers saw, sorted: many programs send several requests at once.
func (l *lane) requests() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(slices.Values(l.seen))
}

// trace counts the requests in hyper's frames.
func (l *lane) trace(e hyper.TraceEvent) {
	if e.Sent && e.Fields.Has(":method") {
		l.sent.Add(1)
	}
}

// checkTrace proves that what the servers saw came from hyper.
func (l *lane) checkTrace(t *testing.T) {
	sent, seen := int(l.sent.Load()), len(l.requests())
	if l.old {
		seen = 0
	}
	if sent < seen || sent > seen && !l.loose {
		t.Errorf("the servers saw %d requests, and hyper's frames show %d", seen, sent)
	}
}

// finish lets the transport go, and looks at what stays behind.
func (l *lane) finish() {
	deadline := time.Now().Add(10 * time.Second)
	for {
		l.client().CloseIdleConnections() // some streams are about to end
		left := stacks()
		if left == "" {
			return
		}
		if time.Now().After(deadline) {
			l.Fatalf("goroutines are left:\n%s", left)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// stacks returns the goroutines in which hyper runs.
func stacks() string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var list []string
	for g := range strings.SplitSeq(string(buf), "\n\n") {
		if strings.Contains(g, "gohyper.dev/hyper.") {
			list = append(list, g)
		}
	}
	return strings.Join(list, "\n\n")
}

// serve starts a server with HTTP/2 and TLS, and returns its URL.
func (l *lane) serve(h http.Handler) string {
	server := httptest.NewUnstartedServer(l.witness(h))
	server.EnableHTTP2 = !l.old
	server.TLS = h2test.ServerTLS()
	// The registry reads one body at a time, under a lock, and the others must not fill the connection's window meanwhile.
	server.Config.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerConnection: 64 << 20}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // some experiments break off
	server.StartTLS()
	l.Cleanup(server.Close)
	l.mu.Lock()
	if l.servers == nil {
		l.servers = make(map[string]*httptest.Server)
	}
	l.servers[server.URL] = server
	l.mu.Unlock()
	l.name(server.Listener.Addr().String())
	return server.URL
}

// cut ends the connections of the server at url without notice.
func (l *lane) cut(url string) {
	l.mu.Lock()
	server := l.servers[url]
	l.mu.Unlock()
	server.CloseClientConnections()
}

// refused returns the URL of a port that nobody listens on.
func (l *lane) refused() string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	l.must(err)
	addr := listener.Addr().String()
	listener.Close()
	l.name(addr)
	return "https://" + addr
}

func (l *lane) name(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := fmt.Sprintf("server-%d", len(l.names)/4+1)
	_, port, _ := net.SplitHostPort(addr)
	l.names = append(l.names, addr, name, "localhost:"+port, name)
}

// witness notes each request and its outcome. Requests of another protocol fail the test.
func (l *lane) witness(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if (r.ProtoMajor == 1) != l.old {
			l.Errorf("%s %s came by %s", r.Method, r.URL, r.Proto)
		}
		body := &digest{ReadCloser: r.Body, sum: sha256.New()}
		r.Body = body
		response := &outcome{ResponseWriter: w}
		head := fmt.Sprintf("%s %s %s length %d", r.Method, r.Host, r.URL, r.ContentLength)
		fields := l.fields(r.Header)
		defer func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.seen = append(l.seen, l.anonymousLocked(fmt.Sprintf("%s %s body %x trailer %v answered %d",
				head, fields, body.sum.Sum(nil), r.Trailer, response.status)))
		}()
		h.ServeHTTP(response, r)
	})
}

// fields lists a header's fields, those that may differ without their values.
func (l *lane) fields(h http.Header) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(h)) {
		value := strings.Join(h[name], ", ")
		switch {
		case slices.Contains(l.vary, name):
			value = "…"
		case name == "User-Agent" && (strings.HasPrefix(value, "Go-http-client/") || value == "hyper"):
			value = "the transport's own"
		case name == "Accept-Encoding" && (value == "gzip" || value == "gzip, deflate, br"):
			value = "the transport's own"
		}
		list = append(list, name+": "+value)
	}
	return "[" + strings.Join(list, "; ") + "]"
}

// A digest is a request's body, and what was read of it.
type digest struct {
	io.ReadCloser
	sum hash.Hash
}

func (d *digest) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	d.sum.Write(p[:n])
	return n, err
}

// An outcome is a response as the handler made it.
type outcome struct {
	http.ResponseWriter
	status int
}

func (o *outcome) WriteHeader(status int) {
	o.status = status
	o.ResponseWriter.WriteHeader(status)
}

func (o *outcome) Write(p []byte) (int, error) {
	if o.status == 0 {
		o.status = 200
	}
	return o.ResponseWriter.Write(p)
}

func (o *outcome) Flush() { o.ResponseWriter.(http.Flusher).Flush() }

func (o *outcome) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// class says what a program can find out about an error without reading it.
func class(err error) string {
	var facts []string
	for _, known := range []struct {
		name string
		err  error
	}{
		{"canceled", context.Canceled},
		{"deadline", context.DeadlineExceeded},
		{"refused", syscall.ECONNREFUSED},
		{"connection reset", syscall.ECONNRESET},
		{"EOF", io.EOF},
		{"unexpected EOF", io.ErrUnexpectedEOF},
	} {
		if errors.Is(err, known.err) {
			facts = append(facts, known.name)
		}
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		facts = append(facts, "url.Error "+e.Op)
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		facts = append(facts, "net.OpError "+e.Op)
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		facts = append(facts, "timeout")
	}
	if code, ok := resetCode(err); ok {
		facts = append(facts, "reset "+code.String())
	}
	return strings.Join(facts, ", ")
}

// A StreamError has the form by which net/http's HTTP/2 lets programs ask for its own type of that name.
type StreamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (StreamError) Error() string { return "" }

// resetCode finds the code with which the peer reset a stream.
func resetCode(err error) (hyper.ErrCode, bool) {
	var std StreamError
	if errors.As(err, &std) {
		return hyper.ErrCode(std.Code), true
	}
	if e, ok := errors.AsType[*hyper.StreamError](err); ok {
		return e.Code, true
	}
	return 0, false
}

// kind names the type of the first error in the chain that a program's own package made.
func kind(err error, pkg string) string {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if name := reflect.TypeOf(e).String(); strings.Contains(name, pkg+".") {
			return name
		}
	}
	return ""
}

// sum is the digest of what r holds.
func sum(r io.Reader) (digest string, n int64, err error) {
	h := sha256.New()
	n, err = io.Copy(h, r)
	return fmt.Sprintf("%x", h.Sum(nil)), n, err
}
