package hyper

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"gohyper.dev/hyper/internal/h2test"
)

// newServer starts a TLS server with HTTP/2, and returns a Transport that trusts it.
func newServer(t *testing.T, h http.HandlerFunc) (*httptest.Server, *Transport) {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = h2test.ServerTLS()
	srv.EnableHTTP2 = true
	srv.StartTLS()
	tr := &Transport{Proxy: NoProxy, Config: &Config{TLS: &tls.Config{RootCAs: h2test.Roots()}}}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		srv.Close()
	})
	return srv, tr
}

func TestTransportServesManyRequestsOnOneConnection(t *testing.T) {
	srv, tr := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s", r.Proto, r.Method, r.RemoteAddr, body)
	})
	client := &http.Client{Transport: tr}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			resp, err := client.Post(srv.URL, "text/plain", strings.NewReader("hello"))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.ProtoMajor != 2 {
				t.Error(err)
			}
			if !strings.HasPrefix(string(body), "HTTP/2.0 POST 127.0.0.1:") || !strings.HasSuffix(string(body), " hello") {
				t.Errorf("%s", body)
			}
		})
	}
	wg.Wait()
}

// A stream that we reset holds its slot until the peer must have heard of it; nobody waits for its end.
func TestCloseIdleConnectionsClosesWhereAllRequestsWereCanceled(t *testing.T) {
	left := make(chan struct{})
	srv, tr := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		left <- struct{}{}
	})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	var conn *Conn
	resp, err := tr.RoundTrip(req.WithContext(WithResponse(ctx, func(r *Response) { conn = r.s.c })))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	resp.Body.Close()
	<-left // the server has seen RST_STREAM
	tr.CloseIdleConnections()
	<-conn.Done()
}
