package hypertest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// connectDoors runs test at each door. The dial function makes a pipe and passes its other end to
// serve. test can read how many connections were dialed.
func connectDoors(t *testing.T, cfg hyper.Config, serve func(server net.Conn),
	test func(t *testing.T, v *visit, dials *atomic.Int64)) {
	t.Helper()
	for _, d := range doors {
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dials := new(atomic.Int64)
				v := &visit{door: d, t: t}
				v.rt = d.enter(t, func(context.Context, string, string) (net.Conn, error) {
					dials.Add(1)
					client, server := h2test.Pipe()
					t.Cleanup(func() { server.Close() })
					go serve(server)
					return client, nil
				}, cfg)
				test(t, v, dials)
			})
		})
	}
}

// client sends GET. At the doors that return net/http's errors it uses an http.Client, which wraps
// the error in a *url.Error.
func (v *visit) client(ctx context.Context) error {
	req := v.request("GET", "/", nil).WithContext(ctx)
	if v.own {
		_, err := v.rt.RoundTrip(req)
		return err
	}
	_, err := (&http.Client{Transport: v.rt}).Do(req)
	return err
}

// checkClient checks an error of client against w, both inside its *url.Error and with it.
func (w wantedError) checkClient(t *testing.T, v *visit, err error) {
	t.Helper()
	if hyper.Retryable(err) != w.retryable {
		t.Errorf("%v: Retryable is %v", err, !w.retryable)
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		if ue.Timeout() != w.timeout {
			t.Errorf("%v: url.Error.Timeout is %v", err, !w.timeout)
		}
		err = ue.Err
	}
	w.check(t, err, v.own)
}

func TestRefusedDial(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 443},
		Err: syscall.ECONNREFUSED}
	dns := &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "example.com",
		IsNotFound: true}}
	other := errors.New("the tunnel is down")
	for name, c := range map[string]struct {
		err  error
		want wantedError
	}{
		"refused": {refused, wantedError{text: "connection refused", is: []error{syscall.ECONNREFUSED},
			conn: true, retryable: true}},
		"DNS": {dns, wantedError{text: "lookup example.com: no such host", retryable: true}},
		"other": {other, wantedError{text: "hyper: dial example.com:", is: []error{other},
			retryable: true}},
	} {
		for _, d := range doors {
			if d.name == "NewConnTLS" || d.name == "NewConnCleartext" || d.name == "ConnRoundTripCleartext" ||
				d.viaNetHTTP() {
				continue // the caller or net/http dials
			}
			t.Run(name+"/"+d.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var dials atomic.Int64
					v := &visit{door: d, t: t}
					v.rt = d.enter(t, func(context.Context, string, string) (net.Conn, error) {
						dials.Add(1)
						return nil, c.err
					}, hyper.Config{})
					own := v.own
					v.own = own || d.name == "ConnRoundTripTLS" // Dial returns this error itself
					c.want.checkClient(t, v, v.client(t.Context()))
					if dials.Load() != 1 {
						t.Errorf("dialled %d times for one request", dials.Load())
					}
				})
			})
		}
	}
	if _, err := hyper.Dial(t.Context(), "example.com",
		&hyper.Config{DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil,
				refused
		}}); err == nil ||
		err.Error() != "hyper: dial example.com:443 (192.0.2.2:443): connection refused" {
		t.Error(err)
	}
}

// tlsFailures are the ways in which a server can fail the TLS handshake.
var tlsFailures = []struct {
	name  string
	serve func(server net.Conn)
	cfg   hyper.Config
	want  wantedError
	as    func(error) bool
}{
	{name: "EOF", serve: func(server net.Conn) {
		server.Read(make([]byte, 64<<10))
		server.Close()
	},
		want: wantedError{text: "TLS handshake with example.com (" + peerAddr + "): EOF", is: []error{io.EOF},
			conn: true, retryable: true}},
	{name: "NoTLS", serve: func(server net.Conn) {
		io.WriteString(server, "SSH-2.0-OpenSSH_9.6\r\n")
		io.Copy(io.Discard, server)
	}, want: wantedError{text: "TLS handshake with example.com (" + peerAddr +
		"): tls: first record does not look like a TLS handshake", conn: true, retryable: true},
		as: is[tls.RecordHeaderError]},
	{name: "Alert", serve: func(server net.Conn) {
		tc := tls.Server(server, &tls.Config{Certificates: []tls.Certificate{h2test.Certificate()},
			NextProtos: []string{"imap"}})
		tc.Handshake()
		io.Copy(io.Discard, server)
	}, want: wantedError{text: "TLS handshake with example.com (" + peerAddr +
		"): remote error: tls: no application protocol", conn: true, retryable: true}, as: is[*net.OpError]},
	{name: "Silence", serve: func(server net.Conn) { io.Copy(io.Discard, server) },
		want: wantedError{text: "TLS handshake with example.com (" + peerAddr +
			"): not done within Config.HandshakeTimeout, 10s",
			is: []error{hyper.ErrHandshakeTimeout, context.DeadlineExceeded}, conn: true, timeout: true,
			retryable: true}},
}

func TestFailedTLSHandshake(t *testing.T) {
	for _, c := range tlsFailures {
		t.Run(c.name, func(t *testing.T) {
			connectDoors(t, c.cfg, c.serve, func(t *testing.T, v *visit, dials *atomic.Int64) {
				if v.cleartext || v.viaNetHTTP() { // net/http runs the handshake
					return
				}
				v.own = v.own || v.name == "ConnRoundTripTLS" // Dial returns this error itself
				err := v.client(t.Context())
				c.want.checkClient(t, v, err)
				if c.as != nil && !c.as(err) {
					t.Errorf("%T %v is of another kind", err, err)
				}
				most := int64(1)
				// A Transport starts another attempt each second, up to four at once.
				if c.name == "Silence" && v.name == "TransportTLS" {
					most = 4
				}
				if dials.Load() != most {
					t.Errorf("dialled %d times for one request", dials.Load())
				}
			})
		})
	}
}

func TestCertificateErrorNamesTheHostAndIsRetryable(t *testing.T) {
	serve := func(server net.Conn) {
		tls.Server(server, h2test.ServerTLS("h2")).Handshake()
		io.Copy(io.Discard, server)
	}
	for name, connect := range map[string]func(ctx context.Context, nc net.Conn) error{
		"Dial": func(ctx context.Context, nc net.Conn) error {
			_, err := hyper.Dial(ctx, "example.com",
				&hyper.Config{DialContext: func(context.Context, string, string) (net.Conn,
					error) {
					return nc, nil
				}})
			return err
		},
		"NewConn": func(ctx context.Context, nc net.Conn) error {
			_, err := hyper.NewConn(ctx, tls.Client(nc,
				&tls.Config{ServerName: "example.com", NextProtos: []string{"h2"}}), nil)
			return err
		},
		"Transport": func(ctx context.Context, nc net.Conn) error {
			tr := &hyper.Transport{Proxy: hyper.NoProxy,
				Config: &hyper.Config{DialContext: func(context.Context, string, string) (net.Conn,
					error) {
					return nc, nil
				}}}
			req, _ := http.NewRequestWithContext(ctx, "GET", "https://example.com", nil)
			_, err := (&http.Client{Transport: tr}).Do(req)
			var ue *url.Error
			if !errors.As(err, &ue) || !is[*tls.CertificateVerificationError](ue.Err) {
				t.Errorf("%T %v", err, err)
			} else if _, ok := ue.Err.(*tls.CertificateVerificationError); !ok {
				t.Errorf("%T is not the type that users of net/http look for", ue.Err)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := h2test.Pipe()
				go serve(server)
				err := connect(t.Context(), client)
				server.Close()
				text := err.Error()
				if !is[*tls.CertificateVerificationError](err) || !is[x509.UnknownAuthorityError](err) ||
					!hyper.Retryable(err) {
					t.Errorf("%v, retryable: %v", err, hyper.Retryable(err))
				}
				if name != "Transport" && (!strings.HasPrefix(text, "hyper: TLS handshake with ") ||
					!strings.Contains(text, peerAddr) || name == "Dial" &&
					!strings.Contains(text, "example.com")) {
					t.Errorf("%q does not name host, address and phase", text)
				}
			})
		})
	}
}

func TestServerWithoutHTTP2IsRetryableElsewhere(t *testing.T) {
	serve := func(server net.Conn) {
		tls.Server(server, h2test.ServerTLS("http/1.1")).Handshake()
		io.Copy(io.Discard, server)
	}
	connectDoors(t, hyper.Config{}, serve, func(t *testing.T, v *visit, _ *atomic.Int64) {
		// The other doors fall back to HTTP/1.1, and the caller of NewConn offers only h2.
		if v.cleartext || !v.own || v.name == "NewConnTLS" {
			return
		}
		err := v.client(t.Context())
		wantedError{text: `hyper: example.com (` + peerAddr + `) negotiated "http/1.1", not HTTP/2`,
			conn: true, retryable: true}.checkClient(t, v, err)
		var other *hyper.NotHTTP2Error
		if errors.As(err, &other) {
			other.Conn.Close()
		}
	})
}

func TestEndOfTheCallersContextIsNoHandshakeTimeout(t *testing.T) {
	connectDoors(t, hyper.Config{}, func(server net.Conn) { io.Copy(io.Discard, server) },
		func(t *testing.T, v *visit, _ *atomic.Int64) {
			if v.cleartext {
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := v.client(ctx)
			if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, hyper.ErrHandshakeTimeout) ||
				hyper.Retryable(err) {
				t.Errorf("%v, retryable: %v", err, hyper.Retryable(err))
			}
			time.Sleep(time.Minute) // a Transport continues to dial after the request has ended
		})
}

func TestStalledDialIsAHandshakeTimeout(t *testing.T) {
	for _, d := range doors {
		if d.name != "Dial" && !strings.HasPrefix(d.name, "Transport") {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := &visit{door: d, t: t}
				v.rt = d.enter(t, func(ctx context.Context, _, _ string) (net.Conn, error) {
					<-ctx.Done()
					return nil, ctx.Err()
				}, hyper.Config{})
				wantedError{text: "hyper: dial example.com:",
					is: []error{hyper.ErrHandshakeTimeout, context.DeadlineExceeded}, timeout: true,
					retryable: true}.
					checkClient(t, v, v.client(t.Context()))
			})
		})
	}
}

// banners are what servers of other protocols send in place of SETTINGS, and the text of the error
// for each.
var banners = []struct{ name, says, text string }{
	{"SSH", "SSH-2.0-OpenSSH_9.6\r\n", `an SSH banner, "SSH-2.0-OpenSSH_9.6"`},
	{"HTTP1", "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
		`an HTTP/1 response, "HTTP/1.1 400 Bad Request"`},
	{"SMTP", "220 mail.example.com ESMTP\r\n", `"220 mail.example.com ESMTP"`},
	{"ShortLine", "+OK\r\n", `"+OK"`},
	{"TLSAlert", "\x15\x03\x01\x00\x02\x02\x46", `a TLS record (15030100020246)`},
	{"TLSHandshake", "\x16\x03\x03\x00\x51\x02\x00\x00\x4d\x03", `a TLS record (16030300510200)`},
	{"Endless", strings.Repeat("blah \u202e", 10000), `it sent "blah \u202eblah`},
}

func TestPeerWithAnotherProtocolIsNamed(t *testing.T) {
	for _, banner := range banners {
		for name, size := range map[string]int{"": 0, "/MaxFrameSize": 1<<24 - 1} {
			for end, closes := range map[string]bool{"": false, "/closed": true} {
				t.Run(banner.name+name+end, func(t *testing.T) {
					serve := func(server net.Conn) {
						server.Read(make([]byte, 1)) // the request arrives first
						go io.Copy(io.Discard, server)
						io.WriteString(server, banner.says)
						if closes {
							server.Close()
						}
					}
					connectDoors(t, hyper.Config{MaxFrameSize: size}, serve,
						func(t *testing.T, v *visit, _ *atomic.Int64) {
							if !v.cleartext {
								return
							}
							started := time.Now()
							err := v.client(t.Context())
							wantedError{text: "PROTOCOL_ERROR: the peer does not speak HTTP/2: it sent ",
								is: []error{hyper.ErrCodeProtocol}, conn: true}.checkClient(t, v, err)
							if text := err.Error(); !strings.Contains(text, banner.text) || len(text) > 500 {
								t.Errorf("%q does not say %q", text, banner.text)
							}
							if took := time.Since(started); took > time.Second {
								t.Errorf("it took %v to see that", took)
							}
						})
				})
			}
		}
	}
}

func TestEndBeforeTheSettingsNamesHostAndPhase(t *testing.T) {
	for _, c := range []struct {
		name  string
		serve func(server net.Conn)
		want  wantedError
	}{
		{"EOF", func(server net.Conn) { server.Close() },
			wantedError{text: "waiting for the peer's SETTINGS: peer closed the connection",
				is: []error{io.ErrUnexpectedEOF}, conn: true}},
		{"Silence", func(server net.Conn) { io.Copy(io.Discard, server) },
			wantedError{text: "waiting for the peer's SETTINGS: handshake timeout",
				is: []error{hyper.ErrHandshakeTimeout}, conn: true, timeout: true}},
		{"Truncated", func(server net.Conn) {
			server.Write(wire.AppendSettings(nil)[:5])
			server.Close()
		}, wantedError{text: "waiting for the peer's SETTINGS: peer closed the connection",
			is: []error{io.ErrUnexpectedEOF}, conn: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			serve := func(server net.Conn) {
				server.Read(make([]byte, 1)) // the request arrives first
				c.serve(server)
			}
			connectDoors(t, hyper.Config{}, serve, func(t *testing.T, v *visit, _ *atomic.Int64) {
				if v.cleartext {
					c.want.checkClient(t, v, v.client(t.Context()))
				}
			})
		})
	}
}
