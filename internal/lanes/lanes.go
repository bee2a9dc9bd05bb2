// Package lanes runs programs that were written for *http.Client over several transports. It
// compares what the programs report and what the servers saw.
package lanes

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

// A Lane is one run of an experiment: its transport, its servers, and two logs that must not depend
// on the transport, namely what the program reports and what the servers saw.
type Lane struct {
	*testing.T
	Transport http.RoundTripper
	Vary      []string         // request fields whose values differ from run to run
	Masks     []*regexp.Regexp // what else differs from run to run
	Loose     bool             // requests may end before a server sees them

	Standard bool         // the transport is that of net/http
	old      bool         // the servers only speak HTTP/1.1
	sent     atomic.Int64 // requests in the frames that hyper traced
	upgrades atomic.Int64 // requests with Upgrade, which use HTTP/1.1

	mu       sync.Mutex                  // guards everything below
	servers  map[string]*httptest.Server // by URL
	reported []string
	seen     []string
	names    []string // of the servers, in pairs of address and name
}

// A way is a transport that an experiment runs over.
type way struct {
	name string
	make func(*Lane) http.RoundTripper
}

// ways are all transports. The others are compared with the first.
var ways = []way{
	{"net-http", func(*Lane) http.RoundTripper {
		return &http.Transport{TLSClientConfig: h2test.ClientTLS(), ForceAttemptHTTP2: true,
			ExpectContinueTimeout: time.Second}
	}},
	{"hyper", func(l *Lane) http.RoundTripper {
		return &hyper.Transport{Config: &hyper.Config{TLS: h2test.ClientTLS(), Trace: l.trace}}
	}},
	{"configured", Configured},
}

// Configured returns an http.Transport that speaks HTTP/2 through hyper.
func Configured(l *Lane) http.RoundTripper {
	tr := &http.Transport{TLSClientConfig: h2test.ClientTLS(), ExpectContinueTimeout: time.Second}
	if err := hyper.ConfigureTransport(tr, &hyper.Config{Trace: l.trace}); err != nil {
		panic(err)
	}
	return tr
}

// Compare runs an experiment over the Transports of net/http and hyper, and over
// ConfigureTransport.
func Compare(t *testing.T, experiment func(*Lane)) { compare(t, false, ways, experiment) }

// ComparePair runs an experiment over the Transports of net/http and hyper.
func ComparePair(t *testing.T, experiment func(*Lane)) { compare(t, false, ways[:2], experiment) }

// CompareHTTP1 is ComparePair with servers that only speak HTTP/1.1.
func CompareHTTP1(t *testing.T, experiment func(*Lane)) { compare(t, true, ways[:2], experiment) }

// CompareConfigured runs an experiment over net/http's Transport and ConfigureTransport.
func CompareConfigured(t *testing.T, experiment func(*Lane)) {
	compare(t, false, []way{ways[0], ways[2]}, experiment)
}

// compare runs an experiment over each of ways, and compares the others with net/http.
func compare(t *testing.T, old bool, ways []way, experiment func(*Lane)) {
	var measure *Lane
	for _, way := range ways {
		l := &Lane{Standard: way.name == "net-http", old: old}
		l.Transport = way.make(l)
		ok := t.Run(way.name, func(t *testing.T) {
			l.T = t
			experiment(l)
			l.finish()
		})
		switch {
		case !ok:
			return
		case l.Standard:
			measure = l
			continue
		}
		l.checkTrace(t)
		same(t, "the program reports", measure.reported, l.reported)
		if !measure.Loose {
			same(t, "the servers saw", measure.requests(), l.requests())
		}
	}
	t.Logf("%d lines reported, %d requests seen", len(measure.reported), len(measure.requests()))
}

// same fails the test if two logs differ in a line, unless the line of b is better.
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
		if left != right && !isBetter(right, left) {
			t.Errorf("%s different things with the two transports, first in line %d:\n"+
				"net/http %s\nhyper    %s", what, i+1, left, right)
			return
		}
	}
}

// isBetter reports whether line is a successful call of Try, and measure the same call with an
// error over net/http.
func isBetter(line, measure string) bool {
	call, _, failed := strings.Cut(measure, ": error ")
	return failed && strings.HasPrefix(line, call+": ") && !strings.HasPrefix(line, call+": error ")
}

// Client returns a client that uses the lane's transport.
func (l *Lane) Client() *http.Client { return &http.Client{Transport: l.Transport} }

// Report adds a line to the program's log.
func (l *Lane) Report(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reported = append(l.reported, l.anonymousLocked(fmt.Sprintf(format, args...)))
}

// Fails reports err by what a program can find out about it.
func (l *Lane) Fails(what string, err error) {
	l.Helper()
	if err == nil {
		l.Errorf("%s: no error", what)
	}
	l.Report("%s: %s", what, Class(err))
	l.Logf("%s: %v", what, err)
}

// anonymousLocked replaces what differs from run to run, such as the servers' addresses.
func (l *Lane) anonymousLocked(s string) string {
	s = strings.NewReplacer(l.names...).Replace(s)
	for _, mask := range l.Masks {
		s = mask.ReplaceAllString(s, "…")
	}
	return s
}

// Must ends the experiment if err is an error.
func (l *Lane) Must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// requests returns what the servers saw. It is sorted, because many programs send several requests
// at once.
func (l *Lane) requests() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(slices.Values(l.seen))
}

// trace counts the requests in hyper's frames.
func (l *Lane) trace(e hyper.TraceEvent) {
	if e.Sent && e.Fields.Has(":method") {
		l.sent.Add(1)
	}
}

// checkTrace checks that hyper sent what the servers saw.
func (l *Lane) checkTrace(t *testing.T) {
	sent, seen := int(l.sent.Load()), len(l.requests())-int(l.upgrades.Load())
	if l.old {
		seen = 0
	}
	if sent < seen || sent > seen && !l.Loose {
		t.Errorf("the servers saw %d requests, and hyper's frames show %d", seen, sent)
	}
}

// finish closes the idle connections and fails the test if goroutines of hyper remain.
func (l *Lane) finish() {
	deadline := time.Now().Add(10 * time.Second)
	for {
		l.Client().CloseIdleConnections() // again and again, because some streams are about to end
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

// stacks returns the stacks of the goroutines that run code of hyper.
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

// Serve starts a server with HTTP/2 and TLS, and returns its URL.
func (l *Lane) Serve(h http.Handler) string {
	server := httptest.NewUnstartedServer(l.witness(h))
	server.EnableHTTP2 = !l.old
	server.TLS = h2test.ServerTLS()
	// The registry reads one body at a time, under a lock. The other bodies must not fill the
	// connection's window meanwhile.
	server.Config.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerConnection: 64 << 20}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // some experiments interrupt a request
	server.StartTLS()
	l.Cleanup(server.Close)
	l.mu.Lock()
	if l.servers == nil {
		l.servers = make(map[string]*httptest.Server)
	}
	l.servers[server.URL] = server
	l.mu.Unlock()
	l.Alias(server.Listener.Addr().String())
	return server.URL
}

// Cut ends the connections of the server at url without notice.
func (l *Lane) Cut(url string) {
	l.mu.Lock()
	server := l.servers[url]
	l.mu.Unlock()
	server.CloseClientConnections()
}

// Refused returns the URL of a port on which no server listens.
func (l *Lane) Refused() string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	l.Must(err)
	addr := listener.Addr().String()
	listener.Close()
	l.Alias(addr)
	return "https://" + addr
}

// Alias gives the server at addr a name that is the same in every run.
func (l *Lane) Alias(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := fmt.Sprintf("server-%d", len(l.names)/4+1)
	_, port, _ := net.SplitHostPort(addr)
	l.names = append(l.names, addr, name, "localhost:"+port, name)
}

// witness logs each request to h and its outcome. A request over another protocol fails the test.
func (l *Lane) witness(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			l.upgrades.Add(1)
		} else if (r.ProtoMajor == 1) != l.old {
			l.Errorf("%s %s came by %s", r.Method, r.URL, r.Proto)
		}
		body := &digest{ReadCloser: r.Body, sum: sha256.New()}
		r.Body = body
		response := &outcome{ResponseWriter: w}
		head := fmt.Sprintf("%s %s %s length %d", r.Method, r.Host, r.URL, r.ContentLength)
		fields := l.Fields(r.Header)
		defer func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.seen = append(l.seen, l.anonymousLocked(fmt.Sprintf("%s %s body %x trailer %v answered %d",
				head, fields, body.sum.Sum(nil), r.Trailer, response.status)))
		}()
		h.ServeHTTP(response, r)
	})
}

// Fields lists the fields of a header. A field whose value differs from run to run is listed
// without it.
func (l *Lane) Fields(h http.Header) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(h)) {
		value := strings.Join(h[name], ", ")
		switch {
		case slices.Contains(l.Vary, name):
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

// A digest is the body of a request, with the hash of what was read of it.
type digest struct {
	io.ReadCloser
	sum hash.Hash
}

// Read implements io.Reader.
func (d *digest) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	d.sum.Write(p[:n])
	return n, err
}

// An outcome is a ResponseWriter that notes the status.
type outcome struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (o *outcome) WriteHeader(status int) {
	o.status = status
	o.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (o *outcome) Write(p []byte) (int, error) {
	if o.status == 0 {
		o.status = 200
	}
	return o.ResponseWriter.Write(p)
}

// Flush implements http.Flusher.
func (o *outcome) Flush() { o.ResponseWriter.(http.Flusher).Flush() }

// Unwrap returns the ResponseWriter inside, for http.ResponseController.
func (o *outcome) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// Class returns what a program can find out about an error without reading its text.
func Class(err error) string {
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

// A StreamError has the form that net/http's HTTP/2 expects of a program's own type, for errors.As
// to find the error of a stream.
type StreamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

// Error implements error.
func (StreamError) Error() string { return "" }

// resetCode returns the error code with which the peer reset a stream.
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

// Kind returns the type of the first error in the chain whose type belongs to the package pkg, and
// "" if there is none.
func Kind(err error, pkg string) string {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if name := reflect.TypeOf(e).String(); strings.Contains(name, pkg+".") {
			return name
		}
	}
	return ""
}

// Sum returns the digest and the length of what r contains.
func Sum(r io.Reader) (digest string, n int64, err error) {
	h := sha256.New()
	n, err = io.Copy(h, r)
	return fmt.Sprintf("%x", h.Sum(nil)), n, err
}
