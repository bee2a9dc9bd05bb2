package h2test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// A Counter is a listener that counts the connections that it accepts.
type Counter struct {
	net.Listener
	Accepted atomic.Int64
}

// Accept implements net.Listener.
func (c *Counter) Accept() (net.Conn, error) {
	nc, err := c.Listener.Accept()
	if err == nil {
		c.Accepted.Add(1)
	}
	return nc, err
}

// HTTP1Server starts net/http's TLS server, which speaks HTTP/1.1 only. It runs until the end of
// the test.
func HTTP1Server(t testing.TB, h http.HandlerFunc, protos ...string) (*httptest.Server, *Counter) {
	srv := httptest.NewUnstartedServer(h)
	count := &Counter{Listener: srv.Listener}
	srv.Listener = count
	srv.TLS = ServerTLS(protos...)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv, count
}

// HTTP2Server starts net/http's TLS server, which speaks HTTP/2 and HTTP/1.1. It runs until the end
// of the test. Its Close waits for the connections of clients, so they must be closed before.
func HTTP2Server(t testing.TB, h http.HandlerFunc) *httptest.Server {
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = ServerTLS()
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}
