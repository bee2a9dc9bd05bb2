package hypertest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"go/token"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// errorType returns the name of err's type as OpenTelemetry's error.type reports it, without
// unwrapping err.
func errorType(err error) (pkg, name string) {
	t := reflect.TypeOf(err)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.PkgPath(), t.Name()
}

// checkErrorType fails the test if err has an unexported type of this module.
func checkErrorType(t *testing.T, err error) {
	t.Helper()
	pkg, name := errorType(err)
	if strings.HasPrefix(pkg, "gohyper.dev/") && !token.IsExported(name) {
		t.Errorf("%v: its type is %s.%s, which is not exported", err, pkg, name)
	}
}

// errOwnDialer is the error of a caller's own dialer.
var errOwnDialer = errors.New("no such network")

// An unreachableHost is a host to which no connection can be made.
type unreachableHost struct {
	name string
	dial func(t *testing.T) (net.Conn, error)
	is   error // what net/http's error is
	// Empty: *hyper.DialError, or the type of net/http's error. Otherwise the type that net/http's
	// error has, because programs check for it.
	typ       string
	retryable bool
}

// served returns the client's end of a pipe whose other end is passed to serve.
func served(t *testing.T, serve func(net.Conn)) (net.Conn, error) {
	client, server := h2test.Pipe()
	go serve(server)
	t.Cleanup(func() { server.Close() })
	return client, nil
}

// unreachableHosts are the cases of TestDialErrorTypes.
var unreachableHosts = []unreachableHost{
	{name: "Refused", typ: "net.OpError", is: syscall.ECONNREFUSED, retryable: true,
		dial: func(*testing.T) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		}},
	{name: "OwnDialer", is: errOwnDialer, retryable: true,
		dial: func(*testing.T) (net.Conn, error) { return nil, errOwnDialer }},
	{name: "HTTPWithoutTLS", typ: "crypto/tls.RecordHeaderError", retryable: true,
		dial: func(t *testing.T) (net.Conn, error) {
			return served(t,
				func(nc net.Conn) { io.WriteString(nc, "HTTP/1.0 400 Bad Request\r\n\r\nno TLS\n") })
		}},
	{name: "Alert", retryable: true, dial: func(t *testing.T) (net.Conn, error) {
		return served(t, func(nc net.Conn) { tls.Server(nc, &tls.Config{}).Handshake() })
	}},
	{name: "Certificate", typ: "crypto/tls.CertificateVerificationError", retryable: true,
		dial: func(t *testing.T) (net.Conn, error) {
			return served(t, func(nc net.Conn) {
				tls.Server(nc, h2test.ServerTLS("h2")).Handshake()
			})
		}},
	{name: "EOF", retryable: true, dial: func(t *testing.T) (net.Conn, error) {
		return served(t, func(nc net.Conn) { nc.Close() })
	}},
}

// If no connection can be made, the error has an exported type, or the type of net/http's error
// that programs check for.
func TestDialErrorTypes(t *testing.T) {
	for _, h := range unreachableHosts {
		t.Run(h.name, func(t *testing.T) {
			for _, d := range doors {
				if d.own || d.cleartext {
					continue
				}
				t.Run(d.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						cfg := hyper.Config{TLS: &tls.Config{}}
						if h.name == "Certificate" {
							cfg.TLS.ServerName = "elsewhere.example"
						}
						dial := func(context.Context, string, string) (net.Conn, error) { return h.dial(t) }
						h.check(t, d.enter(t, dial, cfg), d)
					})
				})
			}
		})
	}
}

// check requires that a request through rt fails with the error that h describes.
func (h unreachableHost) check(t *testing.T, rt http.RoundTripper, d door) {
	req, err := http.NewRequestWithContext(t.Context(), "GET", "https://example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = rt.RoundTrip(req)
	if err == nil {
		t.Fatal("no error")
	}
	t.Logf("%T %v", err, err)
	checkErrorType(t, err)
	pooled := strings.Contains(d.name, "Transport")
	if pkg, name := errorType(err); pooled && h.typ != "" && pkg+"."+name != h.typ {
		t.Errorf("%v: its type is %s.%s, want %s", err, pkg, name, h.typ)
	}
	if h.is != nil && !errors.Is(err, h.is) {
		t.Errorf("%v is not %v", err, h.is)
	}
	if got := hyper.Retryable(err); pooled && got != h.retryable {
		t.Errorf("%v: Retryable is %v", err, got)
	}
	var dial *hyper.DialError
	if as := errors.As(err, &dial); as && !strings.Contains(dial.Host, "example.com") {
		t.Errorf("%v: its host is %q", err, dial.Host)
	} else if pooled && h.typ == "" && !as {
		t.Errorf("%T %v is no DialError", err, err)
	}
	if h.name == "HTTPWithoutTLS" && pooled {
		if _, err = (&http.Client{Transport: rt}).Do(req); !errors.Is(err, http.ErrSchemeMismatch) {
			t.Errorf("http.Client says %v, not that the server speaks HTTP without TLS", err)
		}
	}
	if h.name == "Certificate" && !is[x509.HostnameError](err) {
		t.Errorf("%v is no x509.HostnameError", err)
	}
}

// If the response header does not arrive in time, the error is a WaitError, which is a net.Error.
func TestResponseHeaderTimeoutIsAWaitError(t *testing.T) {
	for _, d := range doors {
		if !strings.Contains(d.name, "Transport") {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := &visit{door: d, t: t, peers: make(chan *accepted, 1)}
				v.rt = headerTimeoutDoor(t, d, v.dial, time.Second)
				call := v.get("/")
				peer := v.accept()
				peer.WantHeaders("the request", 1)
				peer.Ignore(wire.RSTStream)
				err := call.WantErr(t, "no response comes")
				checkErrorType(t, err)
				var wait *hyper.WaitError
				if !errors.As(err, &wait) || !wait.Timeout() {
					t.Errorf("%T %v is no WaitError for a timeout", err, err)
				}
				if errors.Is(err, context.DeadlineExceeded) ||
					!strings.Contains(err.Error(), "timeout awaiting response headers") {
					t.Errorf("%v: it is not as net/http's", err)
				}
			})
		})
	}
}

// headerTimeoutDoor enters a pooled door whose transport has the ResponseHeaderTimeout limit.
func headerTimeoutDoor(t *testing.T, d door, dial dialFunc, limit time.Duration) http.RoundTripper {
	if !d.viaNetHTTP() {
		rt := transportDoor(t, dial, hyper.Config{}).(*hyper.Transport)
		rt.ResponseHeaderTimeout = limit
		return rt
	}
	tr := &http.Transport{DialContext: dial, TLSClientConfig: h2test.ClientTLS()}
	if d.cleartext {
		tr = priorKnowledge(dial)
	}
	tr.ResponseHeaderTimeout = limit
	if err := hyper.ConfigureTransport(tr, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// A refused request is not sent again if its body cannot be. RoundTrip returns the error of the
// stream or the connection, whose text says so.
func TestErrorOfARequestThatIsNotSentAgain(t *testing.T) {
	for name, refuse := range map[string]func(*accepted){
		"RST_STREAM": func(p *accepted) { p.WriteRSTStream(1, wire.RefusedStream) },
		"GOAWAY":     func(p *accepted) { p.WriteGoAway(0, wire.NoError, "") },
	} {
		t.Run(name, func(t *testing.T) {
			eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
				if !strings.Contains(v.name, "Transport") {
					return
				}
				call := v.send(v.request("POST", "/", io.MultiReader(strings.NewReader("once"))))
				peer := v.accept()
				peer.WantHeaders("the request", 1)
				peer.Ignore(wire.Data, wire.GoAway, wire.Ping)
				synctest.Wait()
				refuse(peer)
				err := call.WantErr(t, "the body was read")
				checkErrorType(t, err)
				if !strings.Contains(err.Error(), "not sent again") || !hyper.Retryable(err) ||
					!is[*hyper.StreamError](err) {
					t.Errorf("%T %v: want a StreamError that is Retryable and says why it was not sent again",
						err, err)
				}
				if name == "RST_STREAM" && !errors.Is(err, hyper.ErrCodeRefusedStream) || name == "GOAWAY" &&
					!is[*hyper.ConnError](err) {
					t.Errorf("%v: it does not say how it was refused", err)
				}
			})
		})
	}
}
