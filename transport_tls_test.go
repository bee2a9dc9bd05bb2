package hyper

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"gohyper.dev/hyper/internal/h2test"
)

// newTLSServer starts a server that responds with the protocol, the TLS version and the client
// certificate's serial number of each request.
func newTLSServer(t *testing.T, cfg *tls.Config) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serial := "none"
		if certs := r.TLS.PeerCertificates; len(certs) > 0 {
			serial = certs[0].SerialNumber.String()
		}
		fmt.Fprint(w, r.Proto, " ", tls.VersionName(r.TLS.Version), " resumed=", r.TLS.DidResume, " client=",
			serial)
	}))
	srv.EnableHTTP2, srv.TLS = true, cfg
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

func TestSessionsAreResumedWhereNothingIsSkippedByThat(t *testing.T) {
	verified := func([][]byte, [][]*x509.Certificate) error { return nil }
	shown := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		cert := h2test.Certificate()
		return &cert, nil
	}
	for name, row := range map[string]struct {
		set    func(*tls.Config)
		resume bool
	}{
		"nothing set": {func(*tls.Config) {}, true},
		"VerifyConnection": {func(c *tls.Config) { c.VerifyConnection = func(tls.ConnectionState) error { return nil } },
			true},
		"VerifyPeerCertificate": {func(c *tls.Config) { c.VerifyPeerCertificate = verified }, false},
		"GetClientCertificate":  {func(c *tls.Config) { c.GetClientCertificate = shown }, false},
		"Certificates":          {func(c *tls.Config) { c.Certificates = []tls.Certificate{h2test.Certificate()} }, false},
		"the caller's own cache": {func(c *tls.Config) {
			c.Certificates = []tls.Certificate{h2test.Certificate()}
			c.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			serverTLS := h2test.ServerTLS("h2")
			serverTLS.ClientAuth = tls.RequestClientCert
			srv := newTLSServer(t, serverTLS)
			cfg := h2test.ClientTLS()
			row.set(cfg)
			tr := &Transport{Config: &Config{TLS: cfg}, Proxy: NoProxy}
			defer tr.CloseIdleConnections()
			for i := range 3 {
				resp, err := tr.RoundTrip(httpRequest(t, "GET", srv.URL, nil))
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if want := row.resume && i > 0; resp.TLS.DidResume != want {
					t.Errorf("connection %d resumed a session: %v, want %v", i+1, resp.TLS.DidResume, want)
				}
				tr.CloseIdleConnections()
			}
		})
	}
}

// VerifyPeerCertificate must be called for every connection. A new client certificate must be used
// from the next connection on.
func TestEveryHandshakeIsVerifiedAndShowsTheCertificate(t *testing.T) {
	serverTLS := h2test.ServerTLS("h2")
	serverTLS.ClientAuth = tls.RequestClientCert
	srv := newTLSServer(t, serverTLS)
	var verified, asked atomic.Int64
	cfg := h2test.ClientTLS()
	cfg.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { verified.Add(1); return nil }
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked.Add(1)
		cert := h2test.Certificate()
		return &cert, nil
	}
	tr := &Transport{Config: &Config{TLS: cfg}, Proxy: NoProxy}
	for range 3 {
		if got, want := get(t, tr, srv.URL), "HTTP/2.0 TLS 1.3 resumed=false client=2"; got != want {
			t.Errorf("the server says %q, want %q", got, want)
		}
		tr.CloseIdleConnections()
	}
	if verified.Load() != 3 || asked.Load() != 3 {
		t.Errorf("of 3 connections %d were verified, %d showed a certificate", verified.Load(), asked.Load())
	}
}

// RFC 9113 §9.2.2: HTTP/2 over a prohibited cipher suite may be treated as INADEQUATE_SECURITY. A
// Transport uses HTTP/1.1 then. It also does so if the caller allows TLS versions below 1.2.
func TestServersWithOldTLSAreServedOverHTTP1(t *testing.T) {
	for name, row := range map[string]struct {
		server, client func(*tls.Config)
		want           string
	}{
		"CBC": {
			func(c *tls.Config) {
				c.MaxVersion, c.CipherSuites = tls.VersionTLS12,
					[]uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
			},
			func(*tls.Config) {}, "HTTP/1.1 TLS 1.2",
		},
		"TLS 1.0": {
			func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 },
			func(c *tls.Config) { c.MinVersion = tls.VersionTLS10 }, "HTTP/1.1 TLS 1.0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			serverTLS, clientTLS := h2test.ServerTLS("h2", "http/1.1"), h2test.ClientTLS()
			row.server(serverTLS)
			row.client(clientTLS)
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, r.Proto, " ", tls.VersionName(r.TLS.Version))
			}))
			srv.TLS, srv.Config.ErrorLog = serverTLS, log.New(io.Discard, "", 0)
			srv.StartTLS() // net/http's server does not support such HTTP/2
			defer srv.Close()
			tr := &Transport{Config: &Config{TLS: clientTLS}, Proxy: NoProxy}
			defer tr.CloseIdleConnections()
			for range 2 {
				if got := get(t, tr, srv.URL); got != row.want {
					t.Errorf("the server says %q, want %q", got, row.want)
				}
			}
		})
	}
}

// If a server chooses HTTP/2 with an inadequate cipher suite, the Transport does not use HTTP/2
// with it.
func TestInadequateSecurityLeadsToTheFallback(t *testing.T) {
	serverTLS := h2test.ServerTLS("h2")
	serverTLS.MaxVersion, serverTLS.CipherSuites = tls.VersionTLS12,
		[]uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.TLS, srv.Config.ErrorLog = serverTLS, log.New(io.Discard, "", 0)
	srv.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn,
		http.Handler){"h2": func(_ *http.Server, c *tls.Conn, _ http.Handler) { c.Close() }}
	srv.StartTLS()
	defer srv.Close()
	fallback := errors.New("the fallback was asked")
	tr := &Transport{Config: &Config{TLS: h2test.ClientTLS()}, Proxy: NoProxy,
		Fallback: roundTripFunc(func(*http.Request) (*http.Response, error) {
			return nil, fallback
		})}
	defer tr.CloseIdleConnections()
	if _, err := tr.RoundTrip(httpRequest(t, "GET", srv.URL, nil)); err != fallback {
		t.Errorf("got %v", err)
	}
}
