// This file tests Conn.Connect, extended CONNECT, and their connections.

package hypertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// connectTunnel opens a tunnel on stream 1, on which the client may send window bytes.
func connectTunnel(t *testing.T, window uint32) (*h2test.Peer, net.Conn) {
	t.Helper()
	peer, conn := dialPeer(t, &hyper.Config{KeepAlive: -1},
		wire.Setting{ID: wire.SettingInitialWindowSize, Value: window})
	type dialed struct {
		nc  net.Conn
		err error
	}
	got := make(chan dialed)
	go func() {
		nc, err := conn.Connect(context.Background(), "example.com:443", nil)
		got <- dialed{nc, err}
	}()
	peer.WantHeaders("the CONNECT", 1, ":method: CONNECT")
	peer.WriteHeaders(1, 0, ":status: 200")
	tunnel := <-got
	if tunnel.err != nil {
		t.Fatal(tunnel.err)
	}
	return peer, tunnel.nc
}

// RFC 9113 §8.5: :scheme and :path MUST be omitted, and :authority contains the host and port to
// connect to.
func TestConnectOnTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{Authority: "proxy.example"})
		go conn.Connect(context.Background(), "example.com:443",
			hyper.Header{{Name: "Proxy-Authorization", Value: "Basic QQ=="}})
		h := peer.WantHeadersExactly("the CONNECT", 1,
			":method: CONNECT", ":authority: example.com:443", "proxy-authorization: Basic QQ==",
			"user-agent: hyper")
		if h.EndStream || !h.Fields[2].Sensitive {
			t.Errorf("END_STREAM %v, never indexed %v", h.EndStream, h.Fields[2].Sensitive)
		}
		peer.WantIdle("and nothing else")
	})
}

func TestRefusedConnectIsConnectStatusError(t *testing.T) {
	for _, end := range []wire.Flags{0, wire.EndStream} {
		for _, status := range []int{300, 403, 407, 502} {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				errs := make(chan error)
				go func() {
					nc, err := conn.Connect(context.Background(), "example.com:443", nil)
					if nc != nil {
						t.Error("a refused tunnel is a net.Conn")
					}
					errs <- err
				}()
				peer.WantHeaders("the CONNECT", 1)
				peer.WriteHeaders(1, end,
					fmt.Sprint(":status: ", status), "x: 1")
				var ce *hyper.ConnectStatusError
				if err := <-errs; !errors.As(err, &ce) || ce.StatusCode != status ||
					ce.Header.Get("X") != "1" {
					t.Error(err)
				}
				peer.WantRSTStream("the stream is given up", 1, wire.Cancel)
				if open := conn.Stats().StreamsOpen; open != 0 {
					t.Errorf("%d streams open", open)
				}
			})
		}
	}
}

func TestConnectThatIsResetReturnsItsError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		errs := make(chan error)
		go func() { _, err := conn.Connect(context.Background(), "example.com:443", nil); errs <- err }()
		peer.WantHeaders("the CONNECT", 1)
		// RFC 9113 §8.5: a proxy treats any error in the TCP connection as a stream error of type
		// CONNECT_ERROR.
		peer.WriteRSTStream(1, wire.ConnectError)
		if err := <-errs; !errors.Is(err, hyper.ErrCodeConnect) {
			t.Error(err)
		}
		peer.WantIdle("and nothing else")
	})
}

func TestConnectToNoAuthorityIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		for _, authority := range []string{"user@example.com:443", "http://example.com", "a b"} {
			if _, err := conn.Connect(context.Background(), authority, nil); !errors.As(err,
				new(*hyper.RequestError)) {
				t.Errorf("%q: %v", authority, err)
			}
		}
		peer.WantIdle("nothing is sent")
	})
}

func TestTunnelCarriesBytesBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, nc := connectTunnel(t, 1<<20)
		if n, err := nc.Write([]byte("ping")); n != 4 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		if got := peer.WantData("our octets", 1, 0, 4); string(got) != "ping" {
			t.Errorf("%q", got)
		}
		peer.WriteData(1, 0, []byte("pong"))
		p := make([]byte, 3)
		if n, err := nc.Read(p); n != 3 || err != nil || string(p) != "pon" {
			t.Errorf("%q, %v", p[:n], err)
		}
		if n, err := nc.Read(p); n != 1 || err != nil || p[0] != 'g' {
			t.Errorf("%q, %v", p[:n], err)
		}
		for _, err := range []error{readNothing(nc), writeNothing(nc)} {
			if err != nil {
				t.Errorf("an empty buffer: %v", err)
			}
		}
	})
}

func readNothing(nc net.Conn) error {
	_, err := nc.Read(nil)
	return err
}

func writeNothing(nc net.Conn) error {
	_, err := nc.Write(nil)
	return err
}

// Content codings and content-length have no meaning in a tunnel (RFC 9110 §9.3.6).
func TestTunnelIgnoresContentFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		got := make(chan net.Conn)
		go func() {
			nc, err := conn.Connect(context.Background(), "example.com:443", nil)
			if err != nil {
				t.Error(err)
			}
			got <- nc
		}()
		peer.WantHeaders("the CONNECT", 1)
		peer.WriteHeaders(1, 0, ":status: 200", "content-encoding: gzip", "content-length: 2")
		nc := <-got
		peer.WriteData(1, wire.EndStream, []byte("plain"))
		h2test.WantBody(t, "as it was sent", nc, "plain")
	})
}

func TestTunnelEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, nc := connectTunnel(t, 1<<20)
		if err := nc.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
		peer.WantData("our end", 1, wire.EndStream, 0)
		if _, err := nc.Write([]byte("x")); err == nil {
			t.Error("Write after CloseWrite succeeds")
		}
		peer.WriteData(1, 0, []byte("last"))
		peer.WriteData(1, wire.EndStream, nil)
		h2test.WantBody(t, "the peer's half", nc, "last")
		for range 2 {
			if _, err := nc.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%v, want io.EOF each time", err)
			}
		}
		if err := nc.Close(); err != nil {
			t.Error(err)
		}
		peer.WantIdle("the stream had ended in order")
	})
}

func TestTunnelCloseEndsInOrderWhereThePeerHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, nc := connectTunnel(t, 1<<20)
		peer.WriteData(1, wire.EndStream, []byte("unread"))
		synctest.Wait()
		nc.Close()
		peer.WantData("our end", 1, wire.EndStream, 0)
		peer.WantIdle("no reset")
		wantTunnelClosed(t, nc)
	})
}

func TestTunnelCloseCancelsElse(t *testing.T) {
	for name, before := range map[string]func(*h2test.Peer, net.Conn){
		"both halves open": func(*h2test.Peer, net.Conn) {},
		"ours ended": func(peer *h2test.Peer, nc net.Conn) {
			nc.(interface{ CloseWrite() error }).CloseWrite()
			peer.WantData("our end", 1, wire.EndStream, 0)
		},
		"a Write waits": func(peer *h2test.Peer, nc net.Conn) {
			peer.WriteData(1, wire.EndStream, nil)
			go nc.Write(make([]byte, 10))
			peer.WantData("the window", 1, 0, 5)
			synctest.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, nc := connectTunnel(t, 5)
				before(peer, nc)
				nc.Close()
				peer.WantRSTStream(name, 1, wire.Cancel)
				wantTunnelClosed(t, nc)
			})
		})
	}
}

// wantTunnelClosed requires that a closed tunnel behaves as callers of net.Conn expect.
func wantTunnelClosed(t *testing.T, nc net.Conn) {
	t.Helper()
	for range 2 {
		if n, err := nc.Read(make([]byte, 1)); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read after Close: %d, %v", n, err)
		}
		if n, err := nc.Write([]byte("x")); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write after Close: %d, %v", n, err)
		}
		if err := nc.Close(); err != nil {
			t.Errorf("Close again: %v", err)
		}
	}
}

func TestTunnelCloseFreesReadAndWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, nc := connectTunnel(t, 0)
		errs := make(chan error, 2)
		go func() { _, err := nc.Read(make([]byte, 1)); errs <- err }()
		go func() { _, err := nc.Write(make([]byte, 1)); errs <- err }()
		synctest.Wait()
		nc.Close()
		for range cap(errs) {
			if err := <-errs; !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		}
	})
}

func TestTunnelDeadlines(t *testing.T) {
	read := func(nc net.Conn) error { _, err := nc.Read(make([]byte, 1)); return err }
	write := func(nc net.Conn) error { _, err := nc.Write(make([]byte, 1)); return err }
	for name, test := range map[string]struct {
		set  func(net.Conn, time.Time) error
		call func(net.Conn) error
	}{
		"Read":          {net.Conn.SetReadDeadline, read},
		"Write":         {net.Conn.SetWriteDeadline, write},
		"Read by both":  {net.Conn.SetDeadline, read},
		"Write by both": {net.Conn.SetDeadline, write},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, nc := connectTunnel(t, 0)
				for _, d := range []time.Duration{-time.Hour, time.Minute, 0} {
					start := time.Now()
					if err := test.set(nc, start.Add(d)); err != nil {
						t.Error(err)
					}
					err := test.call(nc)
					var ne net.Error
					if !errors.As(err, &ne) || !ne.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("deadline in %v: %v", d, err)
					}
					if got := time.Since(start); got != max(0, d) {
						t.Errorf("deadline in %v came after %v", d, got)
					}
				}
				test.set(nc, time.Time{})
				done := make(chan error)
				go func() { done <- test.call(nc) }()
				peer.WantIdle("the tunnel lives, and the call waits")
				peer.WriteWindowUpdate(1, 1)
				peer.WriteData(1, 0, []byte("x"))
				if err := <-done; err != nil {
					t.Errorf("without a deadline: %v", err)
				}
			})
		})
	}
}

// All methods of a net.Conn may be called concurrently. The race detector checks this test.
func TestTunnelMethodsMayBeCalledAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const octets = 2000
		peer, nc := connectTunnel(t, 1<<20)
		var wg sync.WaitGroup
		var mu sync.Mutex
		var got bytes.Buffer
		for range 4 {
			wg.Go(func() {
				p := make([]byte, 100)
				for {
					n, err := nc.Read(p)
					mu.Lock()
					got.Write(p[:n])
					mu.Unlock()
					if err != nil {
						return
					}
				}
			})
			wg.Go(func() {
				for range octets / 4 / 10 {
					nc.Write(make([]byte, 10))
					nc.SetDeadline(time.Now().Add(time.Hour))
					nc.LocalAddr()
					nc.RemoteAddr()
				}
			})
		}
		for sent := 0; sent < octets; {
			f := peer.WantFrame("an octet for an octet", wire.Data)
			peer.WriteData(1, 0, f.Payload)
			sent += f.Length
		}
		peer.WriteData(1, wire.EndStream, nil)
		wg.Wait()
		if got.Len() != octets {
			t.Errorf("%d octets came back, want %d", got.Len(), octets)
		}
		nc.Close()
	})
}

func TestTunnelEndsWithItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, nc := connectTunnel(t, 0)
		peer.WriteData(1, 0, []byte("arrived"))
		peer.Close()
		got, err := io.ReadAll(nc)
		if string(got) != "arrived" || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := nc.Write([]byte("x")); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
	})
}

func TestTunnelEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		ctx, cancel := context.WithCancel(context.Background())
		got := make(chan net.Conn)
		go func() {
			nc, _ := conn.Connect(ctx, "example.com:443", nil)
			got <- nc
		}()
		peer.WantHeaders("the CONNECT", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		nc := <-got
		cancel()
		peer.WantRSTStream("the tunnel ends", 1, wire.Cancel)
		if _, err := nc.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// Extended CONNECT (RFC 8441).

// RFC 8441 §4: :scheme and :path MUST be present, and so must :protocol.
func TestExtendedConnectWaitsForSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, _ := newPeer(t, &requestConfig)
		peer.Ignore(wire.WindowUpdate)
		errs := make(chan error)
		go func() {
			_, err := conn.Open(context.Background(),
				&hyper.Request{Method: "CONNECT", Protocol: "websocket", Path: "/chat",
					Header: hyper.Header{{Name: "sec-websocket-version", Value: "13"}}})
			errs <- err
		}()
		peer.WantPreface("the preface does not wait")
		peer.WantIdle("the request does")
		peer.WriteSettings(wire.Setting{ID: wire.SettingEnableConnectProtocol, Value: 1})
		peer.WantSettingsAck("SETTINGS first")
		h := peer.WantHeadersExactly("the extended CONNECT", 1, ":method: CONNECT", ":scheme: http",
			":authority: example.com",
			":path: /chat", ":protocol: websocket", "sec-websocket-version: 13")
		if err := <-errs; err != nil || h.EndStream {
			t.Errorf("%v, END_STREAM %v", err, h.EndStream)
		}
	})
}

func TestExtendedConnectIsRefusedWithoutTheSetting(t *testing.T) {
	for _, settings := range [][]wire.Setting{nil, {{ID: wire.SettingEnableConnectProtocol, Value: 0}}} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil, settings...)
			_, err := conn.Open(context.Background(),
				&hyper.Request{Method: "CONNECT", Protocol: "websocket"})
			var re *hyper.RequestError
			if !errors.As(err, &re) || re.Field != ":protocol" {
				t.Error(err)
			}
			peer.WantIdle("nothing is sent")
			getAsync(conn, "/")
			peer.WantHeaders("and no stream used", 1)
		})
	}
}

func TestExtendedConnectThatWaitsEndsWithTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, _ := newPeer(t, nil)
		got := doAsync(context.Background(), conn, &hyper.Request{Method: "CONNECT", Protocol: "websocket"})
		peer.WantPreface("the preface")
		peer.Close()
		err := got.WantErr(t, "the connection is lost")
		if !errors.As(err, new(*hyper.ConnError)) {
			t.Error(err)
		}
		if !hyper.Retryable(err) {
			t.Errorf("%v is retryable: nothing was sent", err)
		}
	})
}

func TestExtendedConnectIsNetConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingEnableConnectProtocol, Value: 1})
		s, err := conn.Open(context.Background(), &hyper.Request{Method: "CONNECT", Protocol: "websocket"})
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the extended CONNECT", 1)
		streamBody(t, peer, s)
		nc := s.NetConn()
		nc.Write([]byte("frame"))
		peer.WantData("our octets", 1, 0, 5)
		peer.WriteData(1, wire.EndStream, []byte("frame"))
		h2test.WantBody(t, "the peer's", nc, "frame")
		nc.Close()
		peer.WantData("an end in order", 1, wire.EndStream, 0)
	})
}

// Credentials for a proxy must not reach the origin. HTTP/2 through a tunnel is a separate
// connection.
func TestProxyCredentialsNeverReachTheOrigin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		proxy, conn := dialPeer(t, &hyper.Config{KeepAlive: -1})
		proxy.Ignore(wire.WindowUpdate)
		tunnels := make(chan net.Conn)
		go func() {
			nc, err := conn.Connect(context.Background(), "origin.example:443",
				hyper.Header{{Name: "proxy-authorization", Value: "Basic QQ=="}})
			if err != nil {
				t.Error(err)
			}
			tunnels <- nc
		}()
		proxy.WantHeaders("the proxy is told", 1, "proxy-authorization: Basic QQ==")
		proxy.WriteHeaders(1, 0, ":status: 200")
		inner, err := hyper.NewConn(context.Background(), <-tunnels,
			&hyper.Config{Authority: "origin.example"})
		if err != nil {
			t.Fatal(err)
		}
		got := getAsync(inner, "/")
		octets := proxy.WantFrame("what goes through the tunnel", wire.Data).Payload

		outer, origin := h2test.Pipe()
		peer := h2test.NewPeer(t, origin)
		outer.Write(octets)
		peer.WantPreface("HTTP/2 with the origin")
		request := peer.WantHeaders("the request", 1, ":authority: origin.example")
		if credentials := request.Get("proxy-authorization"); credentials != "" {
			t.Errorf("the origin was told %q", credentials)
		}
		inner.Close()
		got.WantErr(t, "Close")
		outer.Close()
	})
}

func TestTunnelAddressesAreTheConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, nc := connectTunnel(t, 0)
		conn := nc.(interface{ Conn() *hyper.Conn }).Conn()
		if nc.LocalAddr() != conn.LocalAddr() || nc.RemoteAddr() != conn.RemoteAddr() ||
			nc.LocalAddr() == nil {
			t.Errorf("%v, %v", nc.LocalAddr(), nc.RemoteAddr())
		}
	})
}
