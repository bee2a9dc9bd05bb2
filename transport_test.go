package hyper

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
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
			if !strings.HasPrefix(string(body), "HTTP/2.0 POST 127.0.0.1:") ||
				!strings.HasSuffix(string(body), " hello") {
				t.Errorf("%s", body)
			}
		})
	}
	wg.Wait()
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

// Users of net/http check the type of an error without unwrapping it. url.Error.Timeout does so,
// too.
func TestTransportReturnsErrorsOfDiallingAsTheyAre(t *testing.T) {
	srv, _ := newServer(t, func(http.ResponseWriter, *http.Request) {})
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
			tr := &Transport{Proxy: NoProxy, Config: &Config{HandshakeTimeout: 100 * time.Millisecond}}
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

// An http.Transport forgets connections that do not use HTTP/1, and leaves it to hyper to close
// them.
func TestConfigureTransportClosesWhatTheTransportForgets(t *testing.T) {
	release := make(chan struct{})
	srv, _ := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		if r.URL.Path == "/slow" {
			<-release
		}
		io.WriteString(w, "hello")
	})
	configured := func(tr *http.Transport) func(path string) (*http.Response, *Conn) {
		tr.TLSClientConfig = &tls.Config{RootCAs: h2test.Roots()}
		if err := ConfigureTransport(tr, nil); err != nil {
			t.Fatal(err)
		}
		return func(path string) (resp *http.Response, conn *Conn) {
			ctx := WithResponse(t.Context(), func(r *Response) { conn = r.s.c })
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
	resp, first := get("/")
	wantBody(t, "a quick one", resp.Body, "hello")
	slow, again := get("/slow")
	if again != first {
		t.Error("the second request made a connection of its own")
	}
	tr.CloseIdleConnections()
	resp, second := get("/")
	if second == first {
		t.Error("the forgotten connection was used")
	}
	wantBody(t, "behind CloseIdleConnections", resp.Body, "hello")
	close(release)
	wantBody(t, "in progress meanwhile", slow.Body, "hello")
	<-first.Done()
	tr.CloseIdleConnections()
	<-second.Done()

	resp, idle := configured(&http.Transport{IdleConnTimeout: 50 * time.Millisecond})("/")
	wantBody(t, "before the idleness", resp.Body, "hello")
	<-idle.Done()

	taken := &http.Transport{}
	taken.RegisterProtocol("https", tr)
	if err := ConfigureTransport(taken, nil); err == nil {
		t.Error("https was taken, and there is no error")
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
	if err := ConfigureTransport(plain, nil); err != nil {
		t.Fatal(err)
	}
	defer plain.CloseIdleConnections()
	for _, rt := range []http.RoundTripper{tr, plain} {
		resp, err := (&http.Client{Transport: rt}).Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		wantBody(t, "the body", resp.Body, "hello")
		if note, sum := resp.Header.Get("X-Note"), resp.Trailer.Get("X-Sum"); note != "ends with a blank" ||
			sum != "1" {
			t.Errorf("%q, %q", note, sum)
		}
	}

	conn, err := Dial(t.Context(), srv.Listener.Addr().String(), &Config{TLS: h2test.ClientTLS()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var malformed *MalformedError
	if _, err := conn.Get(t.Context(), "/"); !errors.As(err, &malformed) {
		t.Errorf("on a connection that does not bear it: %v", err)
	}
}

// TrimFieldValues removes blanks only around the values of regular fields.
func TestTrimFieldValuesLeavesPseudoFieldsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{TrimFieldValues: true})
		first := getAsync(conn, "/")
		peer.WantHeaders("the first", 1)
		second := getAsync(conn, "/")
		peer.WantHeaders("the second", 3)
		peer.WriteRaw(rawFrame(wire.Headers, wire.EndHeaders|wire.EndStream, 1,
			peer.EncodeBlock(":status:  200")))
		peer.WriteRaw(rawFrame(wire.Headers, wire.EndHeaders|wire.EndStream, 3,
			peer.EncodeBlock(":status: 200", "a:  \t", "b:  c d\t")))
		first.wantErr(t, "a status with a blank")
		if h := second.want(t, "the second").Header; !slices.Equal(h,
			Header{{Name: "a"}, {Name: "b", Value: "c d"}}) {
			t.Errorf("%v", h)
		}
		peer.WantRSTStream("of the malformed one", 1, wire.ProtocolError)
	})
}
