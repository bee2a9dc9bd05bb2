package hypertest

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// An opensslServer is the test server of OpenSSL, because crypto/tls has no server that
// renegotiates. The server sends what is written to it.
type opensslServer struct {
	io.WriteCloser
	addr   string
	output h2test.Buffer // what it received, and its messages
	wait   func()
}

// hasRequest reports whether HEADERS have arrived on stream 1.
func hasRequest(o *h2test.Buffer) bool {
	for _, flags := range []wire.Flags{wire.EndHeaders, wire.EndHeaders | wire.EndStream} {
		h := wire.AppendFrameHeader(nil, wire.FrameHeader{Type: wire.Headers, Flags: flags, StreamID: 1})
		if strings.Contains(o.String(), string(h[3:])) { // without the length
			return true
		}
	}
	return false
}

// startOpenSSL starts the server, or skips the test if openssl is not installed.
func startOpenSSL(t *testing.T) *opensslServer {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &opensslServer{addr: l.Addr().String()}
	l.Close()
	cert := h2test.Certificate()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cert.pem")
	blocks := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
	blocks = append(blocks, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	if err := os.WriteFile(file, blocks, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "s_server", "-accept", s.addr, "-cert", file, "-key", file, "-tls1_2", "-alpn",
		"h2", "-naccept", "1")
	if s.WriteCloser, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = &s.output, &s.output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.wait = func() {
		timer := time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
		defer timer.Stop()
		cmd.Wait()
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	return s
}

// dial connects to the server. It retries until the server listens.
func (s *opensslServer) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	for {
		nc, err := new(net.Dialer).DialContext(ctx, "tcp", s.addr)
		if err == nil || ctx.Err() != nil {
			return nc, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// RFC 9113 §9.2.1: renegotiation of TLS is a connection error of type PROTOCOL_ERROR, even if the
// caller's tls.Config allows it for HTTP/1.1.
func TestRenegotiationEndsTheConnection(t *testing.T) {
	for _, d := range doors {
		if d.cleartext {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			s := startOpenSSL(t)
			cfg := hyper.Config{TLS: &tls.Config{Renegotiation: tls.RenegotiateFreelyAsClient}}
			rt := d.enter(t, s.dial, cfg)
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
			defer cancel()
			call := h2test.Go(func() (*http.Response, error) {
				req, err := http.NewRequestWithContext(ctx, "GET", "https://example.com/", nil)
				if err != nil {
					return nil, err
				}
				return rt.RoundTrip(req)
			})
			for ctx.Err() == nil && !hasRequest(&s.output) {
				time.Sleep(5 * time.Millisecond)
			}
			answer := wire.AppendSettings(nil)
			answer = append(answer, "\x00\x00\x01\x01\x04\x00\x00\x00\x01\x88"...) // :status: 200
			s.Write(answer)
			resp := call.Want(t, "the header")
			io.WriteString(s, "r\n")
			go func() { // Read of crypto/tls returns only when more data follows
				for ctx.Err() == nil {
					time.Sleep(50 * time.Millisecond)
					s.Write(wire.AppendPing(nil, 0, [8]byte{}))
				}
			}()
			if _, err := io.ReadAll(resp.Body); !errorIs(err, hyper.ErrCodeProtocol) ||
				!strings.Contains(err.Error(), "renegotiation") {
				t.Errorf("the body ends with %v, want PROTOCOL_ERROR for the renegotiation", err)
			}
			s.wait()
			if d.name == "NewConnTLS" && !strings.Contains(s.output.String(), "renegotiation of TLS") {
				t.Errorf("the GOAWAY does not say why: %q", s.output.String())
			}
		})
	}
}

// allowsRenegotiation reports whether the connection of state allows renegotiation. If it does,
// crypto/tls exports no keying material, and its error says so.
func allowsRenegotiation(state *tls.ConnectionState) bool {
	_, err := state.ExportKeyingMaterial("EXPORTER-test", nil, 8)
	return err != nil && strings.Contains(err.Error(), "renegotiation")
}

// HTTP/1.1 keeps the renegotiation that the caller allows. In that case the connection that was
// made for HTTP/2 is not used for HTTP/1.1.
func TestRenegotiationIsLeftToHTTP1(t *testing.T) {
	for _, allow := range []tls.RenegotiationSupport{tls.RenegotiateNever, tls.RenegotiateOnceAsClient} {
		dials := 0
		synctest.Test(t, func(t *testing.T) {
			tr := &hyper.Transport{Proxy: hyper.NoProxy, Config: &hyper.Config{
				TLS: &tls.Config{Renegotiation: allow, RootCAs: h2test.Roots(), MaxVersion: tls.VersionTLS12},
				DialContext: func(context.Context, string, string) (net.Conn, error) {
					dials++
					client, server := h2test.Pipe()
					go answerHTTP1(h2test.TLSServer(server, "http/1.1"))
					return client, nil
				},
			}}
			defer tr.CloseIdleConnections()
			resp, err := (&http.Client{Transport: tr}).Get("https://example.com/")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got, want := allowsRenegotiation(resp.TLS),
				allow != tls.RenegotiateNever; resp.ProtoMajor != 1 || got != want {
				t.Errorf("%s: renegotiation is allowed: %v, want %v", resp.Proto, got, want)
			}
		})
		if allow == tls.RenegotiateNever && dials != 1 {
			t.Errorf("%d connections where one serves both", dials)
		}
	}
}

// answerHTTP1 serves requests on nc with empty responses.
func answerHTTP1(nc net.Conn) {
	defer nc.Close()
	br := bufio.NewReader(nc)
	for {
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		io.WriteString(nc, "HTTP/1.1 204 No Content\r\n\r\n")
	}
}
