package hyper

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
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

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// dialServer is Dial to a TLS server on which a scripted peer speaks.
func dialServer(t *testing.T, addr string, cfg Config, serverTLS *tls.Config) (*h2test.Peer, *Conn,
	*h2test.Conn, error) {
	t.Helper()
	client, server := h2test.Pipe()
	cfg.DialContext = func(context.Context, string, string) (net.Conn, error) { return client, nil }
	peer := h2test.NewPeer(t, tls.Server(server, serverTLS))
	conn, err := Dial(t.Context(), addr, &cfg)
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
				peer, conn, pipe, err := dialServer(t, "example.com", Config{TLS: h2test.ClientTLS()},
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
				got.want(t, "the response")
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
		peer, _, pipe, err := dialServer(t, "example.com", Config{TLS: h2test.ClientTLS()},
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
		peer, conn, pipe, err := dialServer(t, "example.com", Config{TLS: h2test.ClientTLS()},
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

// A lateConn is the server's end of a connection on which the client's flights arrive late.
type lateConn struct {
	net.Conn
	late     time.Duration
	inFlight atomic.Bool // the client's flight was received
}

func (c *lateConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.inFlight.Swap(true) {
		time.Sleep(c.late)
	}
	return n, err
}

func (c *lateConn) Write(p []byte) (int, error) {
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
						peer := h2test.NewPeer(t, tls.Server(&lateConn{Conn: server, late: trip}, serverTLS))
						conn, err := Dial(t.Context(), "example.com", &Config{
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
	var counted *countedConn
	conn, err := Dial(t.Context(), l.Addr().String(), &Config{
		TLS: h2test.ClientTLS(),
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(ctx, network, addr)
			counted = &countedConn{Conn: nc}
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
	wantBody(t, "the body", got.want(t, "the response").Body, "hello")
	peer.WantSettingsAck("of the peer's")
	conn.Close()
	peer.WantGoAway("Close says so", 0, wire.NoError)
	peer.WantClosed("and closes")
	if n := counted.writes.Load(); n > 5 { // hello; request; acknowledgment; GOAWAY; alert
		t.Errorf("%d writes, want at most 5", n)
	}
}

// countedConn counts the writes to the socket.
type countedConn struct {
	net.Conn
	writes atomic.Int32
}

func (c *countedConn) Write(p []byte) (int, error) {
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
				conn, err := Dial(t.Context(), test.addr, &Config{
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
		_, err := Dial(t.Context(), addr, &Config{DialContext: func(context.Context, string,
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
	_, err := Dial(t.Context(), "example.com", &Config{DialContext: func(context.Context, string,
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
				_, err := Dial(t.Context(), "example.com", &Config{
					TLS: h2test.ClientTLS(),
					DialContext: func(context.Context, string, string) (net.Conn, error) {
						return client,
							nil
					},
				})
				var not *NotHTTP2Error
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

func TestSuitesOfTLS12(t *testing.T) {
	// RFC 9113 §9.2.2: a TLS 1.2 deployment SHOULD NOT use the suites of appendix A. hyper does not
	// accept them.
	for suite, good := range map[uint16]bool{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:       true,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:       true,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: true,
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA:          false,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA:          false,
	} {
		t.Run(tls.CipherSuiteName(suite), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				serverTLS := h2test.ServerTLS("h2")
				serverTLS.MaxVersion, serverTLS.CipherSuites = tls.VersionTLS12, []uint16{suite}
				peer, conn, pipe, err := dialServer(t, "example.com", Config{TLS: h2test.ClientTLS()},
					serverTLS)
				if good {
					if err != nil {
						t.Fatal(err)
					}
					peer.Handshake()
					got := getAsync(conn, "/")
					peer.WantHeaders("the request", 1)
					answerEmpty(peer, 1)
					got.want(t, "the response")
					return
				}
				var ce *ConnError
				if !errors.Is(err, ErrCodeInadequateSecurity) || !errors.As(err, &ce) {
					t.Errorf("Dial: %v", err)
				}
				if _, err := pipe.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
					t.Errorf("the transport is still open: %v", err)
				}
			})
		})
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		serverTLS := h2test.ServerTLS("h2")
		serverTLS.MinVersion, serverTLS.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		clientTLS := h2test.ClientTLS()
		clientTLS.MinVersion = tls.VersionTLS10 // RFC 9113 §9.2: 1.2 or higher, whatever the caller sets
		if _, _, _, err := dialServer(t, "example.com", Config{TLS: clientTLS}, serverTLS); err == nil {
			t.Error("no error")
		}
	})
}

func TestOldTLSOfTheCallersOwnIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := h2test.Pipe()
		serverTLS, clientTLS := h2test.ServerTLS("h2"), h2test.ClientTLS()
		serverTLS.MinVersion, clientTLS.MinVersion = tls.VersionTLS10, tls.VersionTLS10
		clientTLS.MaxVersion, clientTLS.NextProtos, clientTLS.ServerName = tls.VersionTLS11, []string{"h2"},
			"example.com"
		h2test.NewPeer(t, tls.Server(server, serverTLS))
		_, err := NewConn(t.Context(), tls.Client(client, clientTLS), nil)
		if !errors.Is(err, ErrCodeInadequateSecurity) {
			t.Errorf("NewConn: %v", err)
		}
	})
}

func TestCertificateErrorsAreReachable(t *testing.T) {
	for name, test := range map[string]struct {
		addr string
		tls  *tls.Config
		is   func(error) bool
	}{
		"another name": {"wrong.test", h2test.ClientTLS(), func(err error) bool {
			var hostname x509.HostnameError
			return errors.As(err, &hostname) && hostname.Host == "wrong.test"
		}},
		"another address": {"192.0.2.1", h2test.ClientTLS(), func(err error) bool {
			var hostname x509.HostnameError
			return errors.As(err, &hostname)
		}},
		"another authority": {"example.com", &tls.Config{RootCAs: x509.NewCertPool()}, func(err error) bool {
			var unknown x509.UnknownAuthorityError
			return errors.As(err, &unknown)
		}},
		"the system's roots": {"example.com", nil, func(err error) bool {
			var unknown x509.UnknownAuthorityError
			var none x509.SystemRootsError
			return errors.As(err, &unknown) || errors.As(err, &none)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, _, pipe, err := dialServer(t, test.addr, Config{TLS: test.tls}, h2test.ServerTLS("h2"))
				var verification *tls.CertificateVerificationError
				if !errors.As(err, &verification) || len(verification.UnverifiedCertificates) == 0 ||
					!test.is(err) {
					t.Errorf("Dial: %v", err)
				}
				if _, err := pipe.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
					t.Errorf("the transport is still open: %v", err)
				}
			})
		})
	}
}

func TestCertificateForAnAddress(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "[::1]:8443", "::1", "::1%lo", "localhost",
		"www.example.com"} {
		t.Run(addr, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, _, _, err := dialServer(t, addr, Config{TLS: h2test.ClientTLS()},
					h2test.ServerTLS("h2"))
				if err != nil {
					t.Fatal(err)
				}
				peer.WantPreface("it is the certificate's")
			})
		})
	}
}

func TestCallersTLSConfigIsNotChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		given := h2test.ClientTLS()
		peer, conn, _, err := dialServer(t, "example.com", Config{TLS: given}, h2test.ServerTLS("h2"))
		if err != nil {
			t.Fatal(err)
		}
		peer.Handshake()
		conn.Close()
		if given.ServerName != "" || given.NextProtos != nil || given.MinVersion != 0 {
			t.Errorf("name %q, protocols %q, version %x", given.ServerName, given.NextProtos,
				given.MinVersion)
		}
	})
}

func TestCallersServerNameIsVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		given := h2test.ClientTLS()
		given.ServerName = "www.example.com"
		peer, conn, _, err := dialServer(t, "192.0.2.1", Config{TLS: given}, h2test.ServerTLS("h2"))
		if err != nil {
			t.Fatal(err)
		}
		peer.Handshake()
		getAsync(conn, "/")
		peer.WantHeaders("the address is still what was dialled", 1, ":authority: 192.0.2.1")
	})
}

func TestClientCertificate(t *testing.T) {
	serverTLS := func() *tls.Config {
		cfg := h2test.ServerTLS("h2")
		cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, h2test.Roots()
		return cfg
	}
	t.Run("given", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			clientTLS := h2test.ClientTLS()
			clientTLS.Certificates = []tls.Certificate{h2test.Certificate()}
			peer, conn, _, err := dialServer(t, "example.com", Config{TLS: clientTLS}, serverTLS())
			if err != nil {
				t.Fatal(err)
			}
			got := getAsync(conn, "/")
			peer.Handshake()
			peer.WantHeaders("the server is content", 1)
			answerEmpty(peer, 1)
			got.want(t, "the response")
		})
	})
	t.Run("missing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, conn, _, err := dialServer(t, "example.com", Config{TLS: h2test.ClientTLS()}, serverTLS())
			if err == nil { // TLS 1.3: the server rejects the client after the client's handshake
				err = getAsync(conn, "/").wantErr(t, "the server's alert")
			}
			if !strings.Contains(err.Error(), "certificate required") {
				t.Errorf("the error: %v", err)
			}
		})
	})
}

func TestStalledHandshakeEnds(t *testing.T) {
	reads := func(client *h2test.Conn) {} // the server sends nothing
	writes := func(client *h2test.Conn) { client.SetWriteBuffer(0) }
	for name, stall := range map[string]func(*h2test.Conn){"in reading": reads, "in writing": writes} {
		for _, by := range []string{"context", "HandshakeTimeout"} {
			t.Run(name+" by "+by, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cfg := t.Context(), Config{TLS: h2test.ClientTLS(), HandshakeTimeout: time.Hour}
					if by == "context" {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, 3*time.Second)
						defer cancel()
					} else {
						cfg.HandshakeTimeout = 3 * time.Second
					}
					client, server := h2test.Pipe()
					stall(client)
					cfg.DialContext = func(context.Context, string, string) (net.Conn, error) {
						return client,
							nil
					}
					start := time.Now()
					_, err := Dial(ctx, "example.com", &cfg)
					if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) ||
						took != 3*time.Second {
						t.Errorf("Dial: %v after %v", err, took)
					}
					if says := strings.Contains(err.Error(), "HandshakeTimeout"); says !=
						(by == "HandshakeTimeout") {
						t.Errorf("Dial: %v does not say whose patience ended", err)
					}
					if _, err := io.Copy(io.Discard, server); err != nil {
						t.Errorf("the transport is still open: %v", err)
					}
				})
			})
		}
	}
}

func TestStalledDialEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, err := Dial(t.Context(), "example.com",
			&Config{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}})
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != 10*time.Second {
			t.Errorf("Dial: %v after %v", err, took)
		}
	})
}

func TestContextsOfDialDoNotGovernTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := h2test.Pipe()
		peer := h2test.NewPeer(t, tls.Server(server, h2test.ServerTLS("h2")))
		ctx, cancel := context.WithCancel(t.Context())
		conn, err := Dial(ctx, "example.com", &Config{
			TLS:         h2test.ClientTLS(),
			DialContext: func(context.Context, string, string) (net.Conn, error) { return client, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		cancel()
		peer.Handshake()
		peer.AutoPing()
		time.Sleep(time.Hour)
		if err := conn.Err(); err != nil {
			t.Errorf("Err: %v", err)
		}
	})
}

func TestNewConnOnTLS(t *testing.T) {
	for _, done := range []bool{false, true} {
		t.Run(fmt.Sprintf("handshake done: %v", done), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := h2test.Pipe()
				clientTLS := h2test.ClientTLS()
				clientTLS.NextProtos, clientTLS.ServerName = []string{"h2"}, "example.com"
				peer := h2test.NewPeer(t, tls.Server(server, h2test.ServerTLS("h2")))
				tc := tls.Client(client, clientTLS)
				if done {
					if err := tc.Handshake(); err != nil {
						t.Fatal(err)
					}
				}
				conn, err := NewConn(t.Context(), tc, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if rtt := conn.Stats().MinRTT; done && rtt != 0 {
					t.Errorf("a round trip of %v, measured in a handshake that is not ours", rtt)
				}
				peer.Handshake()
				got := getAsync(conn, "/")
				peer.WantHeaders("the request", 1, ":scheme: https", ":authority: example.com")
				answerEmpty(peer, 1)
				got.want(t, "the response")
			})
		})
	}
}

func TestNewConnHandsBackTLSWithoutHTTP2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := h2test.Pipe()
		clientTLS := h2test.ClientTLS()
		clientTLS.ServerName = "example.com" // and no ALPN
		go serveHTTP1(tls.Server(server, h2test.ServerTLS("h2")), 1)
		tc := tls.Client(client, clientTLS)
		_, err := NewConn(t.Context(), tc, nil)
		var not *NotHTTP2Error
		if !errors.As(err, &not) || not.Conn != net.Conn(tc) || not.Negotiated != "" {
			t.Fatalf("NewConn: %v", err)
		}
		defer tc.Close()
		io.WriteString(tc, "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
		if resp, err := http.ReadResponse(bufio.NewReader(tc), nil); err != nil || resp.StatusCode != 200 {
			t.Errorf("the response: %v, %v", resp, err)
		}
	})
}

func TestCloseDoesNotWaitForAPeerThatDoesNotReadTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe, err := dialServer(t, "example.com", Config{TLS: h2test.ClientTLS()},
			h2test.ServerTLS("h2"))
		if err != nil {
			t.Fatal(err)
		}
		peer.Handshake()
		pipe.SetWriteBuffer(0)
		got := getAsync(conn, "/")
		synctest.Wait()
		start := time.Now()
		conn.Close()
		if took := time.Since(start); took > 250*time.Millisecond {
			t.Errorf("Close took %v", took)
		}
		if err := got.wantErr(t, "Close"); !errors.Is(err, ErrClosed) {
			t.Errorf("the request: %v", err)
		}
	})
}

func TestLargeUploadOverTLSLeavesInLargeWrites(t *testing.T) {
	// TLS makes records of 16 KiB at most. The socket gets four records in one write.
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe, err := dialServer(t, "example.com", Config{TLS: h2test.ClientTLS()},
			h2test.ServerTLS("h2"))
		if err != nil {
			t.Fatal(err)
		}
		const size = 2 << 20
		peer.Handshake(wire.Setting{ID: wire.SettingInitialWindowSize, Value: size})
		peer.WriteWindowUpdate(0, size)
		synctest.Wait()
		before := pipe.Writes()
		got := doAsync(t.Context(), conn, &Request{Method: "POST",
			Body: strings.NewReader(strings.Repeat("x", size))})
		peer.WantHeaders("the request", 1)
		peer.WantBody("its body", 1, []byte(strings.Repeat("x", size)))
		if n, most := pipe.Writes()-before, size/writeSize+5; n > most {
			t.Errorf("%d writes, want at most %d", n, most)
		}
		answerEmpty(peer, 1)
		got.want(t, "the response")
	})
}
