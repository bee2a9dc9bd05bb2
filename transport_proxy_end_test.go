package hyper

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// The last bytes of a connection arrive through every kind of tunnel: GOAWAY, and close_notify
// after it.
func TestGoAwayArrivesThroughProxies(t *testing.T) {
	h2, _ := newHTTP2Proxy(t, func(http.ResponseWriter, *http.Request) bool { return true })
	socks := listen(t, func(l *listener, nc net.Conn) { serveSOCKS(l, nc, "", "", func(string) {}) })
	for name, u := range map[string]*url.URL{
		"http":   newProxy(t, nil).url,
		"https":  newProxy(t, h2test.ServerTLS("http/1.1")).url,
		"http/2": h2,
		"socks5": {Scheme: "socks5", Host: socks.Addr().String()},
	} {
		t.Run(name, func(t *testing.T) {
			type end struct {
				octets []byte
				err    error
			}
			ends := make(chan end, 10) // results of the tries
			origin := listen(t, func(_ *listener, nc net.Conn) {
				tc := h2test.TLSServer(nc, "h2")
				tc.Write(wire.AppendData(wire.AppendSettings(nil), 9, 0, []byte("on an idle stream")))
				octets, err := io.ReadAll(tc)
				ends <- end{octets, err}
			})
			tr := &Transport{Config: &Config{TLS: h2test.ClientTLS()}}
			defer tr.CloseIdleConnections()
			through(tr, u)
			req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+origin.Addr().String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := fetch(tr, req); !errors.Is(err, ErrCodeProtocol) {
				t.Errorf("the request: %v", err)
			}
			got := <-ends
			if !bytes.Contains(got.octets, []byte("idle stream 9")) {
				t.Errorf("no GOAWAY in %q", got.octets)
			}
			if got.err != nil {
				t.Errorf("the end: %v", got.err)
			}
		})
	}
}
