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

// dial connects to the server under test. cfg may be nil.
func dial(t *testing.T, cfg *hyper.Config) (context.Context, *hyper.Conn) {
	t.Helper()
	addr := os.Getenv("SERVERTEST_ADDR")
	if addr == "" {
		addr = start(t)
	}
	if p := os.Getenv("SERVERTEST_PATH"); p != "" {
		path = p
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	if cfg == nil {
		cfg = &hyper.Config{}
	}
	cfg.TLS = &tls.Config{InsecureSkipVerify: true}
	conn, err := hyper.Dial(ctx, addr, cfg)
	if err != nil {
		t.Fatal(err)
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
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp.StatusCode, err)
	}
}

// post opens a POST whose body the test writes.
func post(t *testing.T, ctx context.Context, conn *hyper.Conn) *hyper.Stream {
	t.Helper()
	s, err := conn.Open(ctx, &hyper.Request{Method: "POST", Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// header returns the header of a request that is sent as it is.
func header(method string) hyper.Header {
	return hyper.Header{{Name: ":method", Value: method}, {Name: ":scheme", Value: "https"},
		{Name: ":path", Value: path}, {Name: ":authority", Value: "test"}}
}

// refused reports whether the server has refused a request: by a reset of the stream, by the end of
// the connection, or by a status of 400 or above.
func refused(resp *hyper.Response, err error) bool { return err != nil || resp.StatusCode >= 400 }
