// Package servertest shows integration tests of an HTTP/2 server that no ordinary client can write:
// it sends what the server must survive, and sees each frame of the server. Copy the tests that you
// need.
//
// The tests use net/http's server in this process. To test another server, give its address:
//
//	SERVERTEST_ADDR=localhost:8443 go test ./examples/servertest
//
// They expect that it accepts GET and POST of "/", or of SERVERTEST_PATH, and that it reads the
// body of a POST. Its certificate is not verified.
package servertest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"gohyper.dev/hyper"
)

// path is what the tests request.
var path = "/"

// limit is the time that each test has.
const limit = 10 * time.Second

// dial connects to the server under test. cfg may be nil. Each wait of the test ends with ctx, so
// a server that does not answer fails the test, and the next tests run.
func dial(t *testing.T, cfg *hyper.Config) (context.Context, *hyper.Conn) {
	t.Helper()
	addr := os.Getenv("SERVERTEST_ADDR")
	if addr == "" {
		addr = start(t)
	}
	if p := os.Getenv("SERVERTEST_PATH"); p != "" {
		path = p
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	if cfg == nil {
		cfg = &hyper.Config{}
	}
	cfg.TLS = &tls.Config{InsecureSkipVerify: true}
	conn, err := hyper.Dial(ctx, addr, cfg)
	if err != nil {
		t.Fatal("no connection to the server under test: ", err)
	}
	t.Cleanup(func() { conn.Close() })
	return ctx, conn
}

// start starts net/http's server and returns its address.
func start(t *testing.T) string {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			io.WriteString(w, "hello")
		}
	}))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it logs what the tests do on purpose
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// get sends a GET, reads the response, and requires status 200.
func get(t *testing.T, ctx context.Context, conn *hyper.Conn) {
	t.Helper()
	resp, err := conn.Get(ctx, path)
	want200(t, "GET "+path, resp, err)
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatalf("GET %s: the body ended after %d bytes with: %v; want all of it", path, n, err)
	}
}

// post opens a POST whose body the test writes.
func post(t *testing.T, ctx context.Context, conn *hyper.Conn) *hyper.Stream {
	t.Helper()
	s, err := conn.Open(ctx, &hyper.Request{Method: "POST", Path: path})
	if err != nil {
		t.Fatalf("POST %s was not sent: %v", path, err)
	}
	return s
}

// header returns the header of a request that is sent as it is.
func header(method string) hyper.Header {
	return hyper.Header{{Name: ":method", Value: method}, {Name: ":scheme", Value: "https"},
		{Name: ":path", Value: path}, {Name: ":authority", Value: "test"}}
}

// want200 requires that what was sent gets status 200.
func want200(t *testing.T, sent string, resp *hyper.Response, err error) {
	t.Helper()
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%s got %s, want status 200", sent, came(resp, err))
	}
}

// wantRefusal requires that the server refuses what was sent: by a reset of the stream, by the end
// of the connection, or by a status of 400 or above. Silence is none.
func wantRefusal(t *testing.T, sent string, resp *hyper.Response, err error) {
	t.Helper()
	silent := errors.Is(err, context.DeadlineExceeded)
	if silent || err == nil && resp.StatusCode < 400 {
		t.Fatalf("%s got %s, want a reset, the end of the connection, or a status of 400 or above",
			sent, came(resp, err))
	}
}

// came returns the text of what a request got.
func came(resp *hyper.Response, err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no response in %v", limit)
	case err != nil:
		return fmt.Sprintf("the error %q", err)
	}
	return fmt.Sprint("status ", resp.StatusCode)
}

// end waits until the connection ends and returns the reason.
func end(ctx context.Context, conn *hyper.Conn) error {
	select {
	case <-conn.Done():
		return conn.Err()
	case <-ctx.Done():
		return fmt.Errorf("it is open after %v", limit)
	}
}
