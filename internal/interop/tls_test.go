package interop

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	utls "github.com/refraction-networking/utls"
	"golang.org/x/net/http2"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A utlsDialer makes connections with utls, which is another implementation of TLS than the
// standard library's.
type utlsDialer struct {
	hello  utls.ClientHelloID
	shakes bool // the dialer runs the handshake
	count  atomic.Int32
}

// dial connects and, if shakes is set, runs the handshake.
func (d *utlsDialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d.count.Add(1)
	nc, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	config := &utls.Config{InsecureSkipVerify: true, ServerName: "example.com",
		NextProtos: []string{"h2", "http/1.1"}}
	tc := utls.UClient(nc, config, d.hello)
	if d.shakes {
		return tc, tc.HandshakeContext(ctx)
	}
	return tc, nil
}

// TestUTLS checks connections of utls to a server with HTTP/2, and to one without it.
func TestUTLS(t *testing.T) {
	for _, http2 := range []bool{true, false} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			io.WriteString(w, r.Proto+" "+string(body))
		}))
		server.EnableHTTP2 = http2
		server.StartTLS()
		t.Cleanup(server.Close)
		want := "HTTP/1.1 hello"
		if http2 {
			want = "HTTP/2.0 hello"
		}
		for _, hello := range []utls.ClientHelloID{utls.HelloGolang, utls.HelloChrome_Auto,
			utls.HelloFirefox_Auto} {
			for _, shakes := range []bool{true, false} {
				for name, make := range map[string]func(*utlsDialer) http.RoundTripper{
					"Transport": func(d *utlsDialer) http.RoundTripper {
						return &hyper.Transport{Proxy: hyper.NoProxy, DialTLSContext: d.dial}
					},
					"ConfigureTransport": func(d *utlsDialer) http.RoundTripper {
						tr := &http.Transport{DialTLSContext: d.dial}
						check(t, hyper.ConfigureTransport(tr, nil))
						return tr
					},
				} {
					d := &utlsDialer{hello: hello, shakes: shakes}
					client := &http.Client{Transport: make(d)}
					for range 2 {
						resp, err := client.Post(server.URL, "text/plain", strings.NewReader("hello"))
						if err != nil {
							t.Fatalf("%s %v: %v", name, hello.Str(), err)
						}
						got, err := io.ReadAll(resp.Body)
						resp.Body.Close()
						if string(got) != want || err != nil {
							t.Errorf("%s %v: %q, %v", name, hello.Str(), got, err)
						}
						if s := resp.TLS; http2 &&
							(s == nil || s.NegotiatedProtocol != "h2" || s.Version == 0 ||
								len(s.PeerCertificates) == 0) {
							t.Errorf("%s %v: the state of TLS is %+v", name, hello.Str(), s)
						}
					}
					if n := d.count.Load(); n != 1 {
						t.Errorf("%s %v: %d connections", name, hello.Str(), n)
					}
					client.CloseIdleConnections()
				}
			}
		}
	}
}

// TestNewConnOverUTLS checks that NewConn uses a connection of utls with HTTP/2, and returns one
// without HTTP/2 to the caller.
func TestNewConnOverUTLS(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1"} {
		server := httptest.NewUnstartedServer(http.NotFoundHandler())
		server.EnableHTTP2 = protocol == "h2"
		server.StartTLS()
		t.Cleanup(server.Close)
		nc, err := (&utlsDialer{hello: utls.HelloGolang}).dial(t.Context(), "tcp",
			server.Listener.Addr().String())
		check(t, err)
		conn, err := hyper.NewConn(t.Context(), nc, nil)
		if protocol != "h2" {
			other, ok := errors.AsType[*hyper.NotHTTP2Error](err)
			if !ok || other.Conn != nc || other.Negotiated != protocol {
				t.Errorf("got %v", err)
			}
			nc.Close()
			continue
		}
		check(t, err)
		resp, err := conn.Get(t.Context(), "/")
		check(t, err)
		if resp.StatusCode != 404 || conn.TLS().ServerName != "example.com" {
			t.Errorf("status %d, %+v", resp.StatusCode, conn.TLS())
		}
		resp.Body.Close()
		conn.Close()
	}
}

// TestErrorsOfXNet checks that errors.As finds the error types of golang.org/x/net/http2.
func TestErrorsOfXNet(t *testing.T) {
	get := func(write func(*h2test.Peer)) error {
		client, server := h2test.Pipe()
		conn, err := hyper.NewConn(t.Context(), client, nil)
		check(t, err)
		defer conn.Close()
		peer := h2test.NewPeer(t, server)
		peer.Ignore(wire.GoAway, wire.RSTStream)
		failed := make(chan error, 1)
		go func() {
			_, err := conn.Get(t.Context(), "/")
			failed <- err
		}()
		peer.Handshake()
		peer.WantHeaders("the request", 1)
		write(peer)
		defer peer.Close()
		return <-failed
	}
	err := get(func(p *h2test.Peer) {
		p.WriteGoAway(1, wire.EnhanceYourCalm, "calm")
		p.Close()
	})
	goAway, ok := errors.AsType[http2.GoAwayError](err)
	if !ok || goAway != (http2.GoAwayError{LastStreamID: 1, ErrCode: http2.ErrCodeEnhanceYourCalm,
		DebugData: "calm"}) {
		t.Errorf("%v is %+v", err, goAway)
	}
	if !strings.Contains(err.Error(), goAway.Error()) {
		t.Errorf("%q does not contain %q", err, goAway)
	}
	err = get(func(p *h2test.Peer) { p.WriteWindowUpdate(0, 0) })
	if broken, ok := errors.AsType[http2.ConnectionError](err); !ok ||
		broken != http2.ConnectionError(http2.ErrCodeProtocol) {
		t.Errorf("%v is %v", err, broken)
	}
	err = get(func(p *h2test.Peer) { p.WriteRSTStream(1, wire.InternalError) })
	if reset, ok := errors.AsType[http2.StreamError](err); !ok || reset.StreamID != 1 ||
		reset.Code != http2.ErrCodeInternal {
		t.Errorf("%v is %v", err, reset)
	}
}
