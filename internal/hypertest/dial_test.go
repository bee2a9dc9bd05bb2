// This file tests Dial and the HTTP/2 handshake after it.

package hypertest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// dialServer is Dial to a TLS server on which a scripted peer speaks.
func dialServer(t *testing.T, addr string, cfg hyper.Config, serverTLS *tls.Config) (*h2test.Peer,
	*hyper.Conn,
	*h2test.Conn, error) {
	t.Helper()
	client, server := h2test.Pipe()
	cfg.DialContext = func(context.Context, string, string) (net.Conn, error) { return client, nil }
	peer := h2test.NewPeer(t, tls.Server(server, serverTLS))
	conn, err := hyper.Dial(t.Context(), addr, &cfg)
	if err == nil {
		t.Cleanup(func() { conn.Close() })
	}
	return peer, conn, client, err
}

func TestDialToFirstResponseIsTwoWrites(t *testing.T) {
	// The first write is ClientHello. The second has the end of the handshake, the preface,
	// SETTINGS and the request.
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				serverTLS := h2test.ServerTLS("h2")
				serverTLS.MaxVersion = version
				peer, conn, pipe, err := dialServer(t, "example.com", hyper.Config{TLS: h2test.ClientTLS()},
					serverTLS)
				if err != nil {
					t.Fatal(err)
				}
				got := getAsync(conn, "/")
				peer.WantPreface("the client speaks first")
				peer.WantHeaders("its request", 1, ":scheme: https", ":authority: example.com")
				writes := pipe.Writes()
				peer.WriteSettings()
				peer.WriteHeaders(1, wire.EndStream, ":status: 200")
				got.Want(t, "the response")
				// In TLS 1.2 the server ends the handshake, so the client's last flight is written
				// before there is a request.
				if want := map[uint16]int{tls.VersionTLS12: 3, tls.VersionTLS13: 2}[version]; writes != want {
					t.Errorf("%d writes, want %d", writes, want)
				}
				if s := conn.TLS(); s == nil || s.Version != version || s.NegotiatedProtocol != "h2" {
					t.Errorf("TLS: %+v", s)
				}
			})
		})
	}
}

func TestHandshakeEndsWithoutARequest(t *testing.T) {
	// The client delays its last flight so that a request can join it, but only for a short time:
	// the server needs the flight to go on.
	synctest.Test(t, func(t *testing.T) {
		peer, _, pipe, err := dialServer(t, "example.com", hyper.Config{TLS: h2test.ClientTLS()},
			h2test.ServerTLS("h2"))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		peer.WantPreface("by itself")
		if waited := time.Since(start); waited != corkDelay {
			t.Errorf("after %v, want %v", waited, corkDelay)
		}
		if n := pipe.Writes(); n != 2 {
			t.Errorf("%d writes, want 2", n)
		}
	})
}

func TestHandshakeIsWholeWhereTheConnectionIsClosedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe, err := dialServer(t, "example.com", hyper.Config{TLS: h2test.ClientTLS()},
			h2test.ServerTLS("h2"))
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		peer.WantPreface("before anything else")
		peer.WantGoAway("Close says so", 0, wire.NoError)
		peer.WantClosed("and closes")
		if n := pipe.Writes(); n != 2 { // the last one includes the alert of TLS
			t.Errorf("%d writes, want 2", n)
		}
	})
}

// A lateReadConn is the server's end of a connection on which the client's flights arrive late.
type lateReadConn struct {
	net.Conn
	late     time.Duration
	inFlight atomic.Bool // the client's flight was received
}

func (c *lateReadConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.inFlight.Swap(true) {
		time.Sleep(c.late)
	}
	return n, err
}

func (c *lateReadConn) Write(p []byte) (int, error) {
	c.inFlight.Store(false)
	return c.Conn.Write(p)
}

// SETTINGS may be acknowledged late, for example because of Nagle's algorithm in the server. The
// handshake then is the only measurement of a round trip.
func TestHandshakeMeasuresARoundTrip(t *testing.T) {
	const trip = 30 * time.Millisecond
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		// The first flight of TLS 1.3 has no key for P-256, so its handshake takes one more round
		// trip.
		for _, curve := range []tls.CurveID{tls.X25519, tls.CurveP256} {
			t.Run(fmt.Sprint(tls.VersionName(version), " ", curve), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					clientTLS, serverTLS := h2test.ClientTLS(), h2test.ServerTLS("h2")
					clientTLS.ClientSessionCache = tls.NewLRUClientSessionCache(1)
					serverTLS.MaxVersion, serverTLS.CurvePreferences = version, []tls.CurveID{curve}
					for _, resumed := range []bool{false, true} {
						client, server := h2test.Pipe()
						peer := h2test.NewPeer(t, tls.Server(&lateReadConn{Conn: server, late: trip},
							serverTLS))
						conn, err := hyper.Dial(t.Context(), "example.com", &hyper.Config{
							TLS: clientTLS,
							DialContext: func(context.Context, string, string) (net.Conn,
								error) {
								return client, nil
							},
						})
						if err != nil {
							t.Fatal(err)
						}
						if s := conn.Stats(); s.MinRTT != trip || s.RTT != 0 {
							t.Errorf("resumed %v: %v is the shortest of round trips, the last is %v", resumed,
								s.MinRTT, s.RTT)
						}
						peer.Handshake() // gives the client its session ticket
						synctest.Wait()
						if got := conn.TLS().DidResume; got != resumed {
							t.Errorf("resumed: %v, want %v", got, resumed)
						}
						conn.Close()
					}
				})
			})
		}
	}
}

func TestDialOverTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	peers := make(chan *h2test.Peer, 1)
	go func() {
		nc, err := l.Accept()
		if err == nil {
			peers <- h2test.NewPeer(t, tls.Server(nc, h2test.ServerTLS("h2")))
		}
	}()
	var counted *countedWrites
	conn, err := hyper.Dial(t.Context(), l.Addr().String(), &hyper.Config{
		TLS: h2test.ClientTLS(),
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(ctx, network, addr)
			counted = &countedWrites{Conn: nc}
			return counted, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got := getAsync(conn, "/")
	peer := <-peers
	peer.Ignore(wire.WindowUpdate)
	peer.WantPreface("the client speaks first")
	peer.WantHeaders("its request", 1, ":authority: "+l.Addr().String(), ":path: /")
	peer.WriteSettings()
	peer.WriteHeaders(1, 0, ":status: 200")
	peer.WriteData(1, wire.EndStream, []byte("hello"))
	h2test.WantBody(t, "the body", got.Want(t, "the response").Body, "hello")
	peer.WantSettingsAck("of the peer's")
	conn.Close()
	peer.WantGoAway("Close says so", 0, wire.NoError)
	peer.WantClosed("and closes")
	if n := counted.writes.Load(); n > 5 { // hello; request; acknowledgment; GOAWAY; alert
		t.Errorf("%d writes, want at most 5", n)
	}
}

// countedWrites counts the writes to the socket.
type countedWrites struct {
	net.Conn
	writes atomic.Int32
}

func (c *countedWrites) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func TestDialAddresses(t *testing.T) {
	// RFC 6066 §3: an address is not a server name.
	for _, test := range []struct{ addr, dialled, scheme, authority, serverName string }{
		{"example.com", "example.com:443", "https", "example.com", "example.com"},
		{"example.com:443", "example.com:443", "https", "example.com", "example.com"},
		{"example.com:", "example.com:443", "https", "example.com", "example.com"},
		{"example.com:8443", "example.com:8443", "https", "example.com:8443", "example.com"},
		{"example.com:80", "example.com:80", "https", "example.com:80", "example.com"},
		{"https://example.com", "example.com:443", "https", "example.com", "example.com"},
		{"https://example.com/", "example.com:443", "https", "example.com", "example.com"},
		{"HTTPS://example.com:8443", "example.com:8443", "https", "example.com:8443", "example.com"},
		{"http://example.com", "example.com:80", "http", "example.com", ""},
		{"http://example.com:443/", "example.com:443", "http", "example.com:443", ""},
		{"192.0.2.7", "192.0.2.7:443", "https", "192.0.2.7", ""},
		{"::1", "[::1]:443", "https", "[::1]", ""},
		{"[::1]", "[::1]:443", "https", "[::1]", ""},
		{"[::1]:8443", "[::1]:8443", "https", "[::1]:8443", ""},
		{"https://[2001:db8::7]:8443", "[2001:db8::7]:8443", "https", "[2001:db8::7]:8443", ""},
		// RFC 6874 §4: a zone has no meaning on other hosts and must not be sent.
		{"[fe80::1%eth0]:8443", "[fe80::1%eth0]:8443", "https", "[fe80::1]:8443", ""},
		{"fe80::1%eth0", "[fe80::1%eth0]:443", "https", "[fe80::1]", ""},
		{"xn--bcher-kva.example", "xn--bcher-kva.example:443", "https", "xn--bcher-kva.example",
			"xn--bcher-kva.example"},
	} {
		t.Run(test.addr, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := h2test.Pipe()
				var nc net.Conn = server
				if test.scheme == "https" {
					nc = tls.Server(server, h2test.ServerTLS("h2"))
				}
				peer := h2test.NewPeer(t, nc)
				conn, err := hyper.Dial(t.Context(), test.addr, &hyper.Config{
					TLS: &tls.Config{InsecureSkipVerify: true},
					DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
						if network != "tcp" || addr != test.dialled {
							t.Errorf("dialled %s %s, want %s", network, addr, test.dialled)
						}
						return client, nil
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if s := conn.TLS(); (s != nil) != (test.scheme == "https") || s != nil &&
					s.ServerName != test.serverName {
					t.Errorf("TLS: %+v, want the server name %q", s, test.serverName)
				}
				peer.Handshake()
				getAsync(conn, "/")
				peer.WantHeaders("the request", 1, ":scheme: "+test.scheme, ":authority: "+test.authority)
			})
		})
	}
}

func TestDialRefusesNonsense(t *testing.T) {
	for _, addr := range []string{
		"", ":443", "https://", "http:///", "https://:443", "ftp://example.com", "://example.com",
		"example.com:80:90", "[::1", "::1]", "[]", "[]:443",
		"example.com/path", "https://example.com/path", "https://example.com?q", "user@example.com",
		"https://user:pw@example.com",
		"exa mple.com", "example.com\r\n", "example\x00.com", "bücher.example", "例え.jp",
		"https://bücher.example:443", "[bücher.example]:443",
		"[example.com]:443", "[example.com]", "[example.com", "example.com]", "[192.0.2.7]x", "1:2:3:4",
		"[1:2:3:4]:443",
		"example.com:https", "example.com:65536", "example.com:-1", "example.com:8443/", "fe80::1%",
		"::1%eth0%eth1\n",
	} {
		_, err := hyper.Dial(t.Context(), addr, &hyper.Config{DialContext: func(context.Context, string,
			string) (net.Conn, error) {
			t.Errorf("%q was dialled", addr)
			return nil, errors.New("no")
		}})
		if err == nil || !strings.Contains(err.Error(), "hyper: address") {
			t.Errorf("%q: %v", addr, err)
		}
	}
}

func TestDialErrorIsReachable(t *testing.T) {
	reason := errors.New("no route")
	_, err := hyper.Dial(t.Context(), "example.com", &hyper.Config{DialContext: func(context.Context, string,
		string) (net.Conn, error) {
		return nil, reason
	}})
	if !errors.Is(err, reason) {
		t.Errorf("Dial: %v", err)
	}
}

func TestServerWithoutHTTP2HandsTheConnectionOver(t *testing.T) {
	for name, protos := range map[string][]string{"": nil, "http/1.1": {"http/1.1"}} {
		t.Run("ALPN "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := h2test.Pipe()
				go serveHTTP1(tls.Server(server, h2test.ServerTLS(protos...)), 3)
				_, err := hyper.Dial(t.Context(), "example.com", &hyper.Config{
					TLS: h2test.ClientTLS(),
					DialContext: func(context.Context, string, string) (net.Conn, error) {
						return client,
							nil
					},
				})
				var not *hyper.NotHTTP2Error
				if !errors.As(err, &not) || not.Negotiated != name {
					t.Fatalf("Dial: %v", err)
				}
				defer not.Conn.Close()
				responses := make(chan string)
				go func() { // reads before anything is written, as net/http's Transport does
					br := bufio.NewReader(not.Conn)
					for range 3 {
						resp, err := http.ReadResponse(br, nil)
						if err != nil {
							responses <- err.Error()
							return
						}
						body, _ := io.ReadAll(resp.Body)
						responses <- string(body)
					}
				}()
				synctest.Wait()
				for i := range 3 {
					fmt.Fprintf(not.Conn, "GET /%d HTTP/1.1\r\nHost: example.com\r\n\r\n", i)
					if got, want := <-responses, fmt.Sprintf("HTTP/1.1 /%d", i); got != want {
						t.Errorf("the response: %q, want %q", got, want)
					}
				}
			})
		})
	}
}

// serveHTTP1 responds to n requests with their protocol and path.
func serveHTTP1(nc net.Conn, n int) {
	defer nc.Close()
	br := bufio.NewReader(nc)
	for range n {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		body := req.Proto + " " + req.URL.Path
		fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
}
