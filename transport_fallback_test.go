package hyper

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"gohyper.dev/hyper/internal/h2test"
)

func TestServerWithoutHTTP2IsServedOnTheSameConnection(t *testing.T) {
	for name, protos := range map[string][]string{"ALPN http/1.1": {"http/1.1"}, "no ALPN": nil} {
		t.Run(name, func(t *testing.T) {
			srv, accepted := h2test.HTTP1Server(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				fmt.Fprintf(w, "%s %s", r.Proto, body)
			}, protos...)
			if protos == nil {
				srv.TLS.NextProtos = nil
			}
			tr := &Transport{Proxy: NoProxy, Config: &Config{TLS: h2test.ClientTLS()}}
			defer tr.CloseIdleConnections()
			for i := range 5 {
				// The request has no GetBody.
				req, _ := http.NewRequest("POST", srv.URL, io.NopCloser(strings.NewReader("body")))
				got, resp, err := h2test.Fetch(tr, req)
				if err != nil || got != "HTTP/1.1 body" || resp.ProtoMajor != 1 || resp.TLS == nil ||
					resp.TLS.NegotiatedProtocol != strings.Join(protos, "") {
					t.Errorf("request %d: %q, %v", i, got, err)
				}
			}
			if n := accepted.Accepted.Load(); n != 1 {
				t.Errorf("%d connections, want the one that was dialled", n)
			}
			tr.mu.Lock()
			defer tr.mu.Unlock()
			if len(tr.spare) > 0 {
				t.Errorf("kept for no request: %v", tr.spare)
			}
		})
	}
}

func TestConnectionKeptForTheFallbackIsClosedWhenUnused(t *testing.T) {
	tr := &Transport{}
	client, server := net.Pipe()
	tr.keepSpare("example.com:443", client)
	other, _ := net.Pipe()
	tr.keepSpare("example.org:443", other)
	if tr.takeSpare("example.org:443") != other || tr.takeSpare("example.org:443") != nil {
		t.Error("what is kept is taken once")
	}
	tr.CloseIdleConnections()
	if _, err := server.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("it is open: %v", err)
	}
	other.Close()
}
