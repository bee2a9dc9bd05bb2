// This file tests Transport: its figures, its TLS configuration, and its timeouts.

package hypertest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

func TestStatsAreReadableAsJSON(t *testing.T) {
	resets := hyper.CodeCounts{hyper.ErrCodeRefusedStream: 3}
	s := hyper.TransportStats{Total: hyper.HostStats{ResetsReceived: resets}}
	text, err := json.Marshal(s)
	if err != nil || !strings.Contains(string(text), `"ResetsReceived":{"REFUSED_STREAM":3}`) {
		t.Errorf("%s, %v", text, err)
	}
}

func TestWordsOfEventsAndStates(t *testing.T) {
	for k := hyper.ConnOpened; k <= hyper.ConnFailed; k++ {
		if w := k.String(); w == "none" {
			t.Errorf("kind %d has no word", k)
		}
	}
	for s := hyper.StateIdle; s <= hyper.StateClosed; s++ {
		if w := s.String(); w == "none" {
			t.Errorf("state %d has no word", s)
		}
	}
	words := map[string]bool{}
	for r := hyper.ReasonGoAway; r <= hyper.ReasonHandshakeFailed; r++ {
		words[r.String()] = true
	}
	if len(words) != int(hyper.ReasonHandshakeFailed) || words["none"] {
		t.Errorf("%d reasons have the words %v", hyper.ReasonHandshakeFailed, words)
	}
	if got := hyper.ConnReason(0).String() + " " + hyper.ConnReason(200).String(); got !=
		"none ConnReason(200)" {
		t.Error(got)
	}
}

// newServer starts a TLS server with HTTP/2, and returns a Transport that trusts it.
func newServer(t *testing.T, h http.HandlerFunc) (*httptest.Server, *hyper.Transport) {
	t.Helper()
	srv := h2test.HTTP2Server(t, h)
	tr := &hyper.Transport{Proxy: hyper.NoProxy, Config: &hyper.Config{TLS: h2test.ClientTLS()}}
	t.Cleanup(tr.CloseIdleConnections)
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
			if !strings.HasPrefix(string(body), "HTTP/2.0 POST 127.0.0.1:") ||
				!strings.HasSuffix(string(body), " hello") {
				t.Errorf("%s", body)
			}
		})
	}
	wg.Wait()
}

// Users of net/http check the type of an error without unwrapping it. url.Error.Timeout does so,
// too.
func TestTransportReturnsErrorsOfDiallingAsTheyAre(t *testing.T) {
	srv := h2test.HTTP2Server(t, func(http.ResponseWriter, *http.Request) {})
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts connections and sends nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	tests := []struct {
		name, url string
		is        func(error) bool
	}{
		{"no server listens", "https://" + gone.Addr().String(),
			func(err error) bool { _, ok := err.(*net.OpError); return ok }},
		{"unknown authority", srv.URL, func(err error) bool {
			_,
				ok := err.(*tls.CertificateVerificationError)
			return ok
		}},
		{"silence", "https://" + silent.Addr().String(),
			func(err error) bool { e, ok := err.(net.Error); return ok && e.Timeout() }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tr := &hyper.Transport{Proxy: hyper.NoProxy,
				Config: &hyper.Config{HandshakeTimeout: 100 * time.Millisecond}}
			req, err := http.NewRequestWithContext(t.Context(), "GET", test.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			if test.name != "silence" {
				tr.Config.HandshakeTimeout = 0
			}
			if resp, err := tr.RoundTrip(req); err == nil || !test.is(err) {
				t.Errorf("%v, %T %v", resp, err, err)
			}
		})
	}
}

// net/http accepts blanks around field values, which RFC 9113 §8.2.1 calls malformed, and some
// servers send them. As http.Client's Transport, hyper must accept them, too.
func TestTransportBearsBlanksAroundValues(t *testing.T) {
	srv, tr := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Note", " ends with a blank ")
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "hello")
		w.Header().Set("X-Sum", "1 ")
	})
	plain := &http.Transport{TLSClientConfig: h2test.ClientTLS()}
	if err := hyper.ConfigureTransport(plain, nil); err != nil {
		t.Fatal(err)
	}
	defer plain.CloseIdleConnections()
	for _, rt := range []http.RoundTripper{tr, plain} {
		resp, err := (&http.Client{Transport: rt}).Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		h2test.WantBody(t, "the body", resp.Body, "hello")
		if note, sum := resp.Header.Get("X-Note"), resp.Trailer.Get("X-Sum"); note != "ends with a blank" ||
			sum != "1" {
			t.Errorf("%q, %q", note, sum)
		}
	}

	conn, err := hyper.Dial(t.Context(), srv.Listener.Addr().String(), &hyper.Config{TLS: h2test.ClientTLS()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var malformed *hyper.MalformedError
	if _, err := conn.Get(t.Context(), "/"); !errors.As(err, &malformed) {
		t.Errorf("on a connection that does not bear it: %v", err)
	}
}

// TrimFieldValues removes blanks only around the values of regular fields.
func TestTrimFieldValuesLeavesPseudoFieldsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{TrimFieldValues: true})
		first := getAsync(conn, "/")
		peer.WantHeaders("the first", 1)
		second := getAsync(conn, "/")
		peer.WantHeaders("the second", 3)
		peer.WriteRaw(h2test.RawFrame(wire.Headers, wire.EndHeaders|wire.EndStream, 1,
			peer.EncodeBlock(":status:  200")))
		peer.WriteRaw(h2test.RawFrame(wire.Headers, wire.EndHeaders|wire.EndStream, 3,
			peer.EncodeBlock(":status: 200", "a:  \t", "b:  c d\t")))
		first.WantErr(t, "a status with a blank")
		if h := second.Want(t, "the second").Header; !slices.Equal(h,
			hyper.Header{{Name: "a"}, {Name: "b", Value: "c d"}}) {
			t.Errorf("%v", h)
		}
		peer.WantRSTStream("of the malformed one", 1, wire.ProtocolError)
	})
}

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
		"VerifyConnection": {func(c *tls.Config) {
			c.VerifyConnection = func(tls.ConnectionState) error { return nil }
		},
			true},
		"VerifyPeerCertificate": {func(c *tls.Config) { c.VerifyPeerCertificate = verified }, false},
		"GetClientCertificate":  {func(c *tls.Config) { c.GetClientCertificate = shown }, false},
		"Certificates": {func(c *tls.Config) {
			c.Certificates = []tls.Certificate{h2test.Certificate()}
		}, false},
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
			tr := &hyper.Transport{Config: &hyper.Config{TLS: cfg}, Proxy: hyper.NoProxy}
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
	tr := &hyper.Transport{Config: &hyper.Config{TLS: cfg}, Proxy: hyper.NoProxy}
	for range 3 {
		if got, want := h2test.Get(t, tr, srv.URL), "HTTP/2.0 TLS 1.3 resumed=false client=2"; got != want {
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
			tr := &hyper.Transport{Config: &hyper.Config{TLS: clientTLS}, Proxy: hyper.NoProxy}
			defer tr.CloseIdleConnections()
			for range 2 {
				if got := h2test.Get(t, tr, srv.URL); got != row.want {
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
	tr := &hyper.Transport{Config: &hyper.Config{TLS: h2test.ClientTLS()}, Proxy: hyper.NoProxy,
		Fallback: h2test.RoundTripFunc(func(*http.Request) (*http.Response, error) {
			return nil, fallback
		})}
	defer tr.CloseIdleConnections()
	if _, err := tr.RoundTrip(httpRequest(t, "GET", srv.URL, nil)); err != fallback {
		t.Errorf("got %v", err)
	}
}

// A reset stream holds its slot until the peer must have seen the reset. CloseIdleConnections does
// not wait for that.
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
	var conn *hyper.Conn
	ctx = hyper.WithResponse(ctx, func(r *hyper.Response) { conn = r.Stream().Conn() })
	resp, err := tr.RoundTrip(req.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	resp.Body.Close()
	<-left // the server has seen RST_STREAM
	tr.CloseIdleConnections()
	<-conn.Done()
}

// An http.Transport forgets connections that do not use HTTP/1, and leaves it to hyper to close
// them.
func TestConfigureTransportClosesWhatTheTransportForgets(t *testing.T) {
	release := make(chan struct{})
	srv := h2test.HTTP2Server(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		if r.URL.Path == "/slow" {
			<-release
		}
		io.WriteString(w, "hello")
	})
	configured := func(tr *http.Transport) func(path string) (*http.Response, *hyper.Conn) {
		tr.TLSClientConfig = h2test.ClientTLS()
		if err := hyper.ConfigureTransport(tr, nil); err != nil {
			t.Fatal(err)
		}
		return func(path string) (resp *http.Response, conn *hyper.Conn) {
			ctx := hyper.WithResponse(t.Context(), func(r *hyper.Response) { conn = r.Stream().Conn() })
			req, err := http.NewRequestWithContext(ctx, "GET", srv.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp, err = tr.RoundTrip(req); err != nil {
				t.Fatal(err)
			}
			return resp, conn
		}
	}

	tr := &http.Transport{}
	get := configured(tr)
	// net/http returns a response before it has added a new connection to its pool.
	resp, first := get("/")
	for before := (*hyper.Conn)(nil); first != before; {
		h2test.WantBody(t, "a quick one", resp.Body, "hello")
		before = first
		resp, first = get("/")
	}
	h2test.WantBody(t, "a quick one", resp.Body, "hello")
	slow, again := get("/slow")
	if again != first {
		t.Error("the second request made a connection of its own")
	}
	tr.CloseIdleConnections()
	resp, second := get("/")
	if second == first {
		t.Error("the forgotten connection was used")
	}
	h2test.WantBody(t, "behind CloseIdleConnections", resp.Body, "hello")
	close(release)
	h2test.WantBody(t, "in progress meanwhile", slow.Body, "hello")
	<-first.Done()
	tr.CloseIdleConnections()
	<-second.Done()

	resp, idle := configured(&http.Transport{IdleConnTimeout: 50 * time.Millisecond})("/")
	h2test.WantBody(t, "before the idleness", resp.Body, "hello")
	<-idle.Done()

	taken := &http.Transport{}
	taken.RegisterProtocol("https", tr)
	if err := hyper.ConfigureTransport(taken, nil); err == nil {
		t.Error("https was taken, and there is no error")
	}
}
