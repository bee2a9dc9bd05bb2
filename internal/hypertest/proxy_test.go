package hypertest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// requestThrough sends a request through a proxy. conns receives the proxy's end of each
// connection.
func requestThrough(t *testing.T, scheme string) (conns chan net.Conn, call *httpCall) {
	t.Helper()
	conns = make(chan net.Conn, 10)
	tr := &hyper.Transport{
		Proxy: http.ProxyURL(&url.URL{Scheme: scheme, Host: "example.com:3128"}),
		Config: &hyper.Config{TLS: h2test.ClientTLS(),
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				client, server := h2test.Pipe()
				conns <- server
				return client, nil
			}},
	}
	t.Cleanup(tr.CloseIdleConnections)
	req, err := http.NewRequestWithContext(t.Context(), "GET", "https://far.example/", nil)
	if err != nil {
		t.Fatal(err)
	}
	call = h2test.Go(func() (*http.Response, error) { return tr.RoundTrip(req) })
	return conns, call
}

// want407 requires a ConnectStatusError with 407, without delay since began.
func want407(t *testing.T, began time.Time, err error) {
	t.Helper()
	var status *hyper.ConnectStatusError
	if !errors.As(err, &status) || status.StatusCode != 407 ||
		status.Header.Get("proxy-authenticate") != "Basic" {
		t.Errorf("got %v, want a ConnectStatusError with 407", err)
	}
	if took := time.Since(began); took != 0 {
		t.Errorf("it took %v", took)
	}
}

// If a proxy refuses CONNECT, the client does not wait for the body of the response, and closes the
// connection.
func TestProxysRefusalIsNotHeldUpByItsBody(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				conns, call := requestThrough(t, scheme)
				nc := <-conns
				// hyper offers h2 first. For HTTP/1.1 it makes another connection.
				if scheme == "https" {
					tls.Server(nc, h2test.ServerTLS("http/1.1")).Handshake()
					nc = tls.Server(<-conns, h2test.ServerTLS("http/1.1"))
				}
				req, err := http.ReadRequest(bufio.NewReader(nc))
				if err != nil || req.Method != "CONNECT" {
					t.Fatalf("the proxy got %v, %v", req, err)
				}
				io.WriteString(nc,
					"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: "+
						"Basic\r\nContent-Length: 100\r\n\r\nthe rest never comes")
				want407(t, began, call.WantErr(t, "the refusal"))
				if n, err := io.Copy(io.Discard, nc); err != nil {
					t.Errorf("behind CONNECT: %d octets, %v, want the end of the connection", n, err)
				}
			})
		})
	}
}

func TestRefusalOfAProxyThatSpeaksHTTP2IsNotHeldUpByItsBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		conns, call := requestThrough(t, "https")
		peer := h2test.NewPeer(t, tls.Server(<-conns, h2test.ServerTLS("h2")))
		peer.Handshake()
		peer.WantHeaders("the tunnel", 1, ":method: CONNECT", ":authority: far.example:443")
		peer.WriteHeaders(1, 0, ":status: 407", "proxy-authenticate: Basic", "content-length: 100")
		peer.WriteData(1, 0, []byte("the rest never comes"))
		want407(t, began, call.WantErr(t, "the refusal"))
		peer.WantRSTStream("the tunnel is over", 1, wire.Cancel)
	})
}
