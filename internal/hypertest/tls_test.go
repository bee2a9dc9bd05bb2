// This file tests TLS: versions, cipher suites, certificates, and timeouts.

package hypertest

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
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

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
				peer, conn, pipe, err := dialServer(t, "example.com", hyper.Config{TLS: h2test.ClientTLS()},
					serverTLS)
				if good {
					if err != nil {
						t.Fatal(err)
					}
					peer.Handshake()
					got := getAsync(conn, "/")
					peer.WantHeaders("the request", 1)
					h2test.AnswerEmpty(peer, 1)
					got.Want(t, "the response")
					return
				}
				var ce *hyper.ConnError
				if !errors.Is(err, hyper.ErrCodeInadequateSecurity) || !errors.As(err, &ce) {
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
		if _, _, _, err := dialServer(t, "example.com", hyper.Config{TLS: clientTLS}, serverTLS); err == nil {
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
		_, err := hyper.NewConn(t.Context(), tls.Client(client, clientTLS), nil)
		if !errors.Is(err, hyper.ErrCodeInadequateSecurity) {
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
				_, _, pipe, err := dialServer(t, test.addr, hyper.Config{TLS: test.tls},
					h2test.ServerTLS("h2"))
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
				peer, _, _, err := dialServer(t, addr, hyper.Config{TLS: h2test.ClientTLS()},
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
		peer, conn, _, err := dialServer(t, "example.com", hyper.Config{TLS: given}, h2test.ServerTLS("h2"))
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
		peer, conn, _, err := dialServer(t, "192.0.2.1", hyper.Config{TLS: given}, h2test.ServerTLS("h2"))
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
			peer, conn, _, err := dialServer(t, "example.com", hyper.Config{TLS: clientTLS}, serverTLS())
			if err != nil {
				t.Fatal(err)
			}
			got := getAsync(conn, "/")
			peer.Handshake()
			peer.WantHeaders("the server is content", 1)
			h2test.AnswerEmpty(peer, 1)
			got.Want(t, "the response")
		})
	})
	t.Run("missing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, conn, _, err := dialServer(t, "example.com", hyper.Config{TLS: h2test.ClientTLS()},
				serverTLS())
			if err == nil { // TLS 1.3: the server rejects the client after the client's handshake
				err = getAsync(conn, "/").WantErr(t, "the server's alert")
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
					ctx, cfg := t.Context(), hyper.Config{TLS: h2test.ClientTLS(),
						HandshakeTimeout: time.Hour}
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
					_, err := hyper.Dial(ctx, "example.com", &cfg)
					if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) ||
						took != 3*time.Second {
						t.Errorf("Dial: %v after %v", err, took)
					}
					if says := strings.Contains(err.Error(), "HandshakeTimeout"); says !=
						(by == "HandshakeTimeout") {
						t.Errorf("Dial: %v does not say which timeout ended it", err)
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
		_, err := hyper.Dial(t.Context(), "example.com",
			&hyper.Config{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
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
		conn, err := hyper.Dial(ctx, "example.com", &hyper.Config{
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
				conn, err := hyper.NewConn(t.Context(), tc, nil)
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
				h2test.AnswerEmpty(peer, 1)
				got.Want(t, "the response")
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
		_, err := hyper.NewConn(t.Context(), tc, nil)
		var not *hyper.NotHTTP2Error
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
		peer, conn, pipe, err := dialServer(t, "example.com", hyper.Config{TLS: h2test.ClientTLS()},
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
		if err := got.WantErr(t, "Close"); !errors.Is(err, hyper.ErrClosed) {
			t.Errorf("the request: %v", err)
		}
	})
}

func TestLargeUploadOverTLSLeavesInLargeWrites(t *testing.T) {
	// TLS makes records of 16 KiB at most. The socket gets four records in one write.
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe, err := dialServer(t, "example.com", hyper.Config{TLS: h2test.ClientTLS()},
			h2test.ServerTLS("h2"))
		if err != nil {
			t.Fatal(err)
		}
		const size = 2 << 20
		peer.Handshake(wire.Setting{ID: wire.SettingInitialWindowSize, Value: size})
		peer.WriteWindowUpdate(0, size)
		synctest.Wait()
		before := pipe.Writes()
		got := doAsync(t.Context(), conn, &hyper.Request{Method: "POST",
			Body: strings.NewReader(strings.Repeat("x", size))})
		peer.WantHeaders("the request", 1)
		peer.WantBody("its body", 1, []byte(strings.Repeat("x", size)))
		if n, most := pipe.Writes()-before, size/writeSize+5; n > most {
			t.Errorf("%d writes, want at most %d", n, most)
		}
		h2test.AnswerEmpty(peer, 1)
		got.Want(t, "the response")
	})
}
