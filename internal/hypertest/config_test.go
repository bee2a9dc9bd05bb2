package hypertest

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// The tests of this file check that a Config is copied, with everything that it refers to.

// sharedConfig is a Config that sets every field that could be shared with the caller.
func sharedConfig() hyper.Config {
	return hyper.Config{
		UserAgent: "first",
		Settings:  []hyper.Setting{{ID: 0xf000, Value: 1}},
		Push:      &hyper.PushPolicy{Max: 3},
		Decoders: map[string]hyper.Decoder{
			"same": func(r io.Reader) (io.Reader, error) { return r, nil },
		},
	}
}

// change changes everything that sharedConfig has set.
func change(cfg *hyper.Config) {
	cfg.UserAgent = "second"
	cfg.Settings[0].Value = 2
	*cfg.Push = hyper.PushPolicy{Max: 99}
	delete(cfg.Decoders, "same")
	cfg.Decoders["other"] = func(io.Reader) (io.Reader, error) { return nil, errors.New("other") }
	if cfg.TLS != nil {
		cfg.TLS.RootCAs, cfg.TLS.ServerName = x509.NewCertPool(), "other.example"
	}
}

// wantFirst requires that the connection to peer uses the Config as it was before change.
func wantFirst(t *testing.T, peer *h2test.Peer, body func() *httpCall) {
	t.Helper()
	settings := peer.Handshake()
	for _, s := range []wire.Setting{{ID: 0xf000, Value: 1},
		{ID: wire.SettingMaxConcurrentStreams, Value: 3}} {
		if !slices.Contains(settings, s) {
			t.Errorf("the settings %v have not %v", settings, s)
		}
	}
	call := body()
	peer.WantHeaders("the request", 1, "user-agent: first", "accept-encoding: gzip, deflate, br, same")
	peer.WriteHeaders(1, 0, ":status: 200", "content-encoding: same")
	peer.WriteData(1, wire.EndStream, []byte("decoded"))
	resp := call.Want(t, "the response")
	h2test.WantBody(t, "the body", resp.Body, "decoded")
	resp.Body.Close()
}

// The maps and slices of each door's Config change while bodies are decoded. The race detector
// reports an access that is not synchronized.
func TestConfigMayBeChangedWhileItsConnectionsWork(t *testing.T) {
	for _, d := range doors {
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := sharedConfig()
				cfg.Push = nil
				v := visitDoor(t, d, cfg)
				peer, resp := coded(t, v, "same")
				stop := make(chan struct{})
				defer close(stop)
				go func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(time.Microsecond):
							delete(cfg.Decoders, "same")
							cfg.Decoders["other"] = nil
							cfg.Settings[0].Value++
						}
					}
				}()
				time.Sleep(time.Millisecond)
				peer.WriteData(1, wire.EndStream, []byte("decoded"))
				h2test.WantBody(t, "the body", resp.Body, "decoded")
			})
		})
	}
}

func TestNewConnCopiesItsConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := sharedConfig()
		peer, conn, _ := newPeer(t, &cfg)
		change(&cfg)
		wantFirst(t, peer, func() *httpCall { return httpGet(t, conn) })
	})
}

// Dial uses the Config as it was when Dial was called, even if it changes during the dial.
func TestDialCopiesItsConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := sharedConfig()
		cfg.TLS = h2test.ClientTLS()
		v := &visit{door: doors[0], t: t, peers: make(chan *accepted, 1)}
		cfg.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			change(&cfg)
			return v.dial(ctx, network, addr)
		}
		call := h2test.Go(func() (*hyper.Conn, error) { return hyper.Dial(t.Context(), "example.com", &cfg) })
		peer := <-v.peers
		wantFirst(t, peer.Peer, func() *httpCall {
			conn := call.Want(t, "the connection")
			t.Cleanup(func() { conn.Close() })
			return httpGet(t, conn)
		})
	})
}

// httpGet sends GET by Conn.RoundTrip on another goroutine.
func httpGet(t *testing.T, conn *hyper.Conn) *httpCall {
	req, err := http.NewRequestWithContext(t.Context(), "GET", "https://example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	return h2test.Go(func() (*http.Response, error) { return conn.RoundTrip(req) })
}

func TestConfigureTransportCopiesItsConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := sharedConfig()
		v := &visit{door: doors[0], t: t, peers: make(chan *accepted, 1)}
		tr := &http.Transport{DialContext: v.dial, TLSClientConfig: h2test.ClientTLS()}
		if err := hyper.ConfigureTransport(tr, &cfg); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(tr.CloseIdleConnections)
		v.rt = tr
		change(&cfg)
		call := v.get("/")
		wantFirst(t, (<-v.peers).Peer, func() *httpCall { return call })
	})
}

// A Transport uses the Config of its first request for later connections as well.
func TestTransportCopiesItsConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := sharedConfig()
		v := &visit{door: doors[0], t: t, peers: make(chan *accepted, 1)}
		cfg.DialContext, cfg.TLS = v.dial, h2test.ClientTLS()
		tr := &hyper.Transport{Config: &cfg, Proxy: hyper.NoProxy}
		t.Cleanup(tr.CloseIdleConnections)
		v.rt = tr
		for range 2 {
			call := v.get("/")
			peer := <-v.peers
			wantFirst(t, peer.Peer, func() *httpCall { return call })
			change(&cfg)
			peer.Close()
			synctest.Wait()
		}
	})
}

// A Transport copies ProxyConnectHeader with its first request too.
func TestTransportCopiesItsProxyConnectHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		header := http.Header{"X-Key": {"first"}}
		heard := make(chan string, 2)
		cfg := hyper.Config{DialContext: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go func() {
				defer server.Close()
				p := make([]byte, 1000)
				n, _ := server.Read(p)
				heard <- string(p[:n])
				io.WriteString(server, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
			}()
			return client, nil
		}}
		tr := &hyper.Transport{Config: &cfg, ProxyConnectHeader: header,
			Proxy: func(*http.Request) (*url.URL, error) {
				return &url.URL{Scheme: "http", Host: "proxy.example:3128"}, nil
			}}
		for range 2 {
			req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://example.com/", nil)
			if _, err := tr.RoundTrip(req); err == nil {
				t.Fatal("the proxy's refusal is lost")
			}
			if got := <-heard; !strings.Contains(got, "\r\nX-Key: first\r\n") {
				t.Errorf("the proxy got %q", got)
			}
			header["X-Key"][0] = "second"
			header.Set("X-Other", "second")
		}
	})
}
