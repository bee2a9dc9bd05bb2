package servercases

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"

	"gohyper.dev/hyper"
)

// Cases in which net/http's server does something else.
var netHTTP = map[string]string{
	"6.2 HEADERS with too much padding": "it resets the stream, although the block is not decoded",
}

func TestNetHTTP(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		io.WriteString(w, "hello")
	}))
	server.EnableHTTP2 = true
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	addr := server.Listener.Addr().String()
	s := Server{Addr: addr, Path: "/", Deviates: netHTTP}
	s.Dial = func(ctx context.Context, cfg *hyper.Config) (*hyper.Conn, error) {
		cfg.TLS = &tls.Config{InsecureSkipVerify: true} // the certificate is httptest's own
		return hyper.Dial(ctx, addr, cfg)
	}
	t.Run("cases", s.Run) // server must live until all of them have ended
}
