package servercases

import (
	"crypto/tls"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Cases in which net/http's server does something else.
var netHTTP = map[string]string{
	"6.5.3 the last of two values counts": "it treats a setting that is there twice as an error",

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
	s.TLS = &tls.Config{InsecureSkipVerify: true} // the certificate is httptest's own
	t.Run("cases", s.Run)                         // server must live until all of them have ended
}

// TestH2SpecIsComplete requires that H2Spec names cases that exist, as many as h2spec has.
func TestH2SpecIsComplete(t *testing.T) {
	known := map[string]bool{}
	for _, c := range Cases {
		if known[c.Name] {
			t.Errorf("there are two cases %q", c.Name)
		}
		known[c.Name] = true
	}
	count := map[string]int{}
	for _, g := range H2Spec {
		section, _, _ := strings.Cut(g.Group, "/")
		count[section] += len(g.Cases)
		for _, name := range g.Cases {
			if !known[name] {
				t.Errorf("%s: there is no case %q", g.Group, name)
			}
		}
	}
	if want := map[string]int{"generic": 44, "http2": 95, "hpack": 7}; !maps.Equal(count, want) {
		t.Errorf("%v cases of h2spec, want %v", count, want)
	}
}
