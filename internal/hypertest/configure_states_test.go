package hypertest

import (
	"context"
	"crypto/tls"
	"errors"
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

// configuredVisit returns a visit of an http.Transport that speaks HTTP/2 in cleartext. set changes
// the http.Transport before it is configured.
func configuredVisit(t *testing.T, cfg hyper.Config, set func(*http.Transport)) *visit {
	return visitDoor(t, door{name: "ConfigureTransport", cleartext: true,
		enter: func(t *testing.T, dial dialFunc, cfg hyper.Config) http.RoundTripper {
			tr := priorKnowledge(dial)
			set(tr)
			if err := hyper.ConfigureTransport(tr, &cfg); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(tr.CloseIdleConnections)
			return tr
		}}, cfg)
}

// dialed returns how many connections were made that the test has not accepted.
func (v *visit) dialed() int { return len(v.peers) }

func TestConfiguredConnectionsObeyHTTP2Config(t *testing.T) {
	configure := func(t *testing.T, c http.HTTP2Config) (*visit, *accepted, map[wire.SettingID]uint32) {
		v := configuredVisit(t, hyper.Config{}, func(tr *http.Transport) { tr.HTTP2 = &c })
		v.send(v.request("POST", "/", nil))
		peer := <-v.peers
		announced := map[wire.SettingID]uint32{}
		for _, s := range peer.Handshake() {
			announced[s.ID] = s.Value
		}
		return v, peer, announced
	}
	row := func(name string, test func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
	row("settings", func(t *testing.T) {
		_, _, announced := configure(t, http.HTTP2Config{MaxDecoderHeaderTableSize: 8192,
			MaxReadFrameSize: 1 << 20, MaxReceiveBufferPerStream: 100000})
		for id, want := range map[wire.SettingID]uint32{
			wire.SettingHeaderTableSize: 8192, wire.SettingMaxFrameSize: 1 << 20,
			wire.SettingInitialWindowSize: 100000,
		} {
			if announced[id] != want {
				t.Errorf("%v is %d, want %d", id, announced[id], want)
			}
		}
	})
	row("invalid values are defaults", func(t *testing.T) {
		_, _, announced := configure(t, http.HTTP2Config{MaxReadFrameSize: 1,
			MaxReceiveBufferPerConnection: 1, MaxDecoderHeaderTableSize: -1})
		if announced[wire.SettingMaxFrameSize] != 256<<10 {
			t.Errorf("MAX_FRAME_SIZE is %d", announced[wire.SettingMaxFrameSize])
		}
	})
	row("receive buffers", func(t *testing.T) {
		_, peer, _ := configure(t, http.HTTP2Config{MaxReceiveBufferPerStream: 100000,
			MaxReceiveBufferPerConnection: 200000})
		peer.WantHeaders("the request", 1)
		if stream, conn := peer.Credit(1), peer.Credit(0); stream != 100000 || conn != 200000 {
			t.Errorf("the peer may send %d on the stream, %d on the connection", stream, conn)
		}
	})
	row("encoder table", func(t *testing.T) {
		_, peer, _ := configure(t, http.HTTP2Config{MaxEncoderHeaderTableSize: 100})
		f := peer.WantFrame("the request", wire.Headers)
		if size := f.Payload[0]; size&0xe0 != 0x20 { // RFC 7541 §6.3: a size update comes first
			t.Errorf("the first octet is %#x", size)
		}
	})
	row("silence", func(t *testing.T) {
		_, peer, _ := configure(t, http.HTTP2Config{SendPingTimeout: 3 * time.Second,
			PingTimeout: 2 * time.Second})
		peer.WantHeaders("the request", 1)
		start := time.Now()
		peer.WantPing("silence", 0)
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("a PING after %v", d)
		}
		peer.WantClosed("no answer")
		if d := time.Since(start); d < 5*time.Second || d > 6*time.Second {
			t.Errorf("closed after %v", d)
		}
	})
	row("a peer that does not read", func(t *testing.T) {
		v := configuredVisit(t, hyper.Config{},
			func(tr *http.Transport) { tr.HTTP2 = &http.HTTP2Config{WriteByteTimeout: 2 * time.Second} })
		call := v.send(v.request("POST", "/", io.LimitReader(endless{}, 1<<20)))
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		peer.client.SetWriteBuffer(0)
		peer.WriteWindowUpdate(0, 1<<20)
		peer.WriteWindowUpdate(1, 1<<20)
		start := time.Now()
		call.WantErr(t, "the peer accepts nothing")
		if d := time.Since(start); d > 4*time.Second {
			t.Errorf("an error after %v", d)
		}
	})
}

func TestExpectContinueTimeoutOfAConfiguredTransport(t *testing.T) {
	for _, timeout := range []time.Duration{0, 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			v := configuredVisit(t, hyper.Config{},
				func(tr *http.Transport) { tr.ExpectContinueTimeout = timeout })
			req := v.request("POST", "/", strings.NewReader("body"))
			req.Header.Set("Expect", "100-continue")
			call := v.send(req)
			peer := v.accept()
			peer.WantHeaders("the request", 1, "expect: 100-continue")
			start := time.Now()
			peer.WantData("the body, which nothing has asked for", 1, wire.EndStream, 4)
			if d := time.Since(start).Round(time.Microsecond); d != timeout {
				t.Errorf("the body came after %v, want %v", d, timeout)
			}
			peer.WriteHeaders(1, wire.EndStream, ":status: 204")
			call.Want(t, "the response").Body.Close()
		})
	}
}

// endless is a body that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestBurstOfFirstRequestsMakesOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, false, siteHandler)
		tr := s.transport()
		if err := hyper.ConfigureTransport(tr, nil); err != nil {
			t.Fatal(err)
		}
		if got := s.gets(tr, 50, "/slow"); got != answered {
			t.Error(got)
		}
		if dials, open := s.counts(); dials != 1 || open != 1 {
			t.Errorf("%d connections, %d open", dials, open)
		}
		tr.CloseIdleConnections()
		if _, open := s.counts(); open != 0 {
			t.Errorf("%d connections are open behind CloseIdleConnections", open)
		}
		s.server.Close()
	})
}

// A server that ends each connection before it responds causes only a few attempts, with pauses
// between them.
func TestGoAwayOnEachConnectionEndsAfterAFewTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &crowdedServer{goAway: true}
		rt := s.connect(t, "ConfigureTransport", s.dial)
		start := time.Now()
		failed, err := s.ask(rt, 1, 1)
		if failed != 1 || !hyper.Retryable(err) {
			t.Errorf("%d failed: %v", failed, err)
		}
		if d := time.Since(start); s.dials > 6 || d < 100*time.Millisecond || d > 10*time.Second {
			t.Errorf("%d connections in %v", s.dials, d)
		}
	})
}

func TestRefusedStreamOnALivingConnectionIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := configuredVisit(t, hyper.Config{}, func(*http.Transport) {})
		call := v.send(v.request("POST", "/", strings.NewReader("body")))
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		peer.WriteRSTStream(1, wire.RefusedStream)
		peer.Ignore(wire.Data)
		peer.WantHeaders("the request again", 3)
		peer.WriteHeaders(3, wire.EndStream, ":status: 204")
		call.Want(t, "the response").Body.Close()
		if n := v.dialed(); n != 0 {
			t.Errorf("%d more connections", n)
		}
	})
}

// A Transport offers HTTP/2 to a host that speaks HTTP/1.1 only once in five minutes. Without a
// proxy this costs nothing; with a proxy it costs one connection.
func TestHostWithoutHTTP2CostsOneHandshake(t *testing.T) {
	for proxy, extra := range map[string]int{"": 0, "http://proxy.test:3128": 1} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, false, siteHandler)
			s.protocol = "http/1.1"
			tr := s.transport()
			tr.MaxIdleConnsPerHost = 20
			if proxy != "" {
				tr.Proxy = proxyAt(proxy)
			}
			if err := hyper.ConfigureTransport(tr, nil); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if got := s.get(tr, "/"); got != "200 HTTP/1.1 " {
					t.Error(got)
				}
			}
			if dials, _ := s.counts(); dials != 1+extra {
				t.Errorf("proxy %q: %d connections", proxy, dials)
			}
			if got := s.gets(tr, 10, "/slow"); got != "200 HTTP/1.1 " {
				t.Error(got)
			}
			if dials, _ := s.counts(); dials != 10+extra {
				t.Errorf("proxy %q: %d connections for 10 requests at once", proxy, dials)
			}
			tr.CloseIdleConnections()
			s.server.Close()
		})
	}
}

func TestConfigureTransportReadsFieldsAtTheFirstRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, false, siteHandler)
		given := &tls.Config{NextProtos: []string{"other"}}
		tr := &http.Transport{TLSClientConfig: given}
		if err := hyper.ConfigureTransport(tr, nil); err != nil {
			t.Fatal(err)
		}
		tr.DialContext = s.dial
		tr.TLSClientConfig.RootCAs = h2test.Roots()
		if got := s.get(tr, "/"); got != answered {
			t.Error(got)
		}
		if len(given.NextProtos) != 1 {
			t.Errorf("the caller's tls.Config was changed: %q", given.NextProtos)
		}
		tr.CloseIdleConnections()

		late := &http.Transport{DialContext: s.dial}
		if err := hyper.ConfigureTransport(late, nil); err != nil {
			t.Fatal(err)
		}
		late.HTTP2 = &http.HTTP2Config{CountError: func(string) {}}
		if got := s.get(late, "/"); !strings.Contains(got, "CountError") {
			t.Error(got)
		}
		s.server.Close()
	})
}

func TestNewClientConnOfAConfiguredTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, false, siteHandler)
		s.limit(2)
		tr := s.transport()
		var frames, changes atomic.Int64 // both are counted on the connection's goroutines
		trace := func(hyper.TraceEvent) { frames.Add(1) }
		if err := hyper.ConfigureTransport(tr, &hyper.Config{Trace: trace}); err != nil {
			t.Fatal(err)
		}
		cc, err := tr.NewClientConn(t.Context(), "https", "example.com:443")
		if err != nil {
			t.Fatal(err)
		}
		cc.SetStateHook(func(*http.ClientConn) { changes.Add(1) })
		if err := cc.Reserve(); err != nil { // so that the hook sees a change of what is in flight
			t.Error(err)
		}
		if got := s.get(cc, "/"); got != answered {
			t.Error(got)
		}
		synctest.Wait()
		if n, m := cc.Available(), cc.InFlight(); n != 2 || m != 0 || frames.Load() == 0 ||
			changes.Load() == 0 {
			t.Errorf("%d available, %d in flight, %d frames, %d changes", n, m, frames.Load(), changes.Load())
		}
		if err := errors.Join(cc.Reserve(), cc.Reserve()); err != nil {
			t.Error(err)
		}
		if err := cc.Reserve(); err == nil || cc.Available() != 0 || cc.InFlight() != 2 {
			t.Errorf("a third slot of 2: %v, %d available, %d in flight", err, cc.Available(), cc.InFlight())
		}
		cc.Release()
		if got := s.get(cc, "/"); got != answered {
			t.Error(got)
		}
		if got := s.gets(cc, 6, "/slow"); got != answered { // they wait in order
			t.Error(got)
		}
		if dials, _ := s.counts(); dials != 1 {
			t.Errorf("%d connections", dials)
		}
		before := changes.Load()
		s.server.Close()
		synctest.Wait()
		if cc.Err() == nil || cc.Available() != 0 || changes.Load() == before {
			t.Errorf("behind the server's end: %v, %d available, %d changes", cc.Err(), cc.Available(),
				changes.Load()-before)
		}
		cc.Close()
	})
}

// DialTLSContext may return any connection that reports what TLS has negotiated.
func TestDialTLSContextNeedsNoTLSConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, false, siteHandler)
		tr := s.transport()
		tr.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := s.dialTLS("h2")(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			tc := nc.(*tls.Conn)
			return telling{Conn: tc, tc: tc}, tc.HandshakeContext(ctx)
		}
		if err := hyper.ConfigureTransport(tr, nil); err != nil {
			t.Fatal(err)
		}
		if got := s.get(tr, "/"); got != answered {
			t.Error(got)
		}
		tr.CloseIdleConnections()
		s.server.Close()
	})
}

// A telling connection has the method ConnectionState, but no other method of *tls.Conn.
type telling struct {
	net.Conn
	tc *tls.Conn
}

func (c telling) ConnectionState() tls.ConnectionState { return c.tc.ConnectionState() }
