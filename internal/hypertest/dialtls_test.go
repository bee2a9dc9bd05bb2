package hypertest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A foreignState is the connection state of another implementation of TLS.
type foreignState struct {
	Version            uint16
	HandshakeComplete  bool
	NegotiatedProtocol string
	ServerName         string
	CipherSuite        foreignSuite
	PeerCertificates   []string // not the type that crypto/tls has
	secret             int
}

// foreignSuite is the type of a cipher suite in another implementation of TLS.
type foreignSuite uint16

// A foreignConn is a connection of another implementation of TLS.
type foreignConn struct {
	net.Conn
	tc *tls.Conn
}

// ConnectionState returns the state in the other implementation's type.
func (c *foreignConn) ConnectionState() foreignState {
	state := c.tc.ConnectionState()
	return foreignState{state.Version, state.HandshakeComplete, state.NegotiatedProtocol, state.ServerName,
		foreignSuite(state.CipherSuite), []string{"none"}, 1}
}

// A lateConn is a foreignConn that has not run its handshake. Its Handshake takes no context.
type lateConn struct{ *foreignConn }

func (c lateConn) Handshake() error { return c.tc.Handshake() }

// An embeddingConn has a state that embeds *tls.ConnectionState. The embedded pointer is nil before
// the handshake has run.
type embeddingConn struct {
	net.Conn
	tc *tls.Conn
}

// embeddingState embeds the state of crypto/tls.
type embeddingState struct{ *tls.ConnectionState }

// ConnectionState returns an empty state before the handshake has run.
func (c *embeddingConn) ConnectionState() (none embeddingState) {
	if state := c.tc.ConnectionState(); state.HandshakeComplete {
		return embeddingState{&state}
	}
	return none
}

func (c *embeddingConn) Handshake() error { return c.tc.Handshake() }

// A muteConn has no method that reports the state of TLS.
type muteConn struct{ net.Conn }

// A numberedConn has a method ConnectionState with an unrelated meaning.
type numberedConn struct{ net.Conn }

func (numberedConn) ConnectionState() int { return 1 }

// wrappers are the kinds of connections that DialTLSContext may return.
var wrappers = []struct {
	name     string
	wrap     func(*tls.Conn) net.Conn
	mute     bool // it cannot report what was negotiated
	shaken   bool // the dialer runs the handshake
	tls12    bool
	untraced bool // hyper runs no handshake, so there is nothing to trace
}{
	{name: "crypto/tls", wrap: func(tc *tls.Conn) net.Conn { return tc }},
	{name: "crypto/tls, handshake done", wrap: func(tc *tls.Conn) net.Conn { return tc }, shaken: true,
		untraced: true},
	{name: "ConnectionState alone", wrap: func(tc *tls.Conn) net.Conn { return telling{tc, tc} },
		shaken: true, untraced: true},
	{name: "another package's", wrap: func(tc *tls.Conn) net.Conn { return &foreignConn{tc, tc} },
		shaken: true, untraced: true},
	{name: "another package's, TLS 1.2", wrap: func(tc *tls.Conn) net.Conn { return &foreignConn{tc, tc} },
		shaken: true, untraced: true, tls12: true},
	{name: "another package's, Handshake",
		wrap: func(tc *tls.Conn) net.Conn { return lateConn{&foreignConn{tc, tc}} }},
	{name: "another package's, embedded", wrap: func(tc *tls.Conn) net.Conn {
		return &embeddingConn{tc,
			tc}
	}},
	{name: "mute", wrap: func(tc *tls.Conn) net.Conn { return muteConn{tc} }, mute: true, shaken: true,
		untraced: true},
	{name: "odd", wrap: func(tc *tls.Conn) net.Conn { return numberedConn{tc} }, mute: true, shaken: true,
		untraced: true},
}

// A tlsPeer is a TLS dialer with the server that it reaches.
type tlsPeer struct {
	t       *testing.T
	wrap    func(*tls.Conn) net.Conn
	shaken  bool
	max     uint16
	offers  []string // the protocols that the server offers
	servers chan net.Conn
	dialed  atomic.Int32
	last    atomic.Value // the net.Conn that dial returned last
}

// dial connects to a new server and returns the connection as wrap makes it.
func (p *tlsPeer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	p.dialed.Add(1)
	client, server := h2test.Pipe()
	config := namedTLS()
	config.NextProtos, config.MaxVersion = []string{"h2", "http/1.1"}, p.max
	tc := tls.Client(client, config)
	p.servers <- h2test.TLSServer(server, p.offers...)
	if p.shaken {
		if err := tc.HandshakeContext(ctx); err != nil {
			return nil, err
		}
	}
	nc := p.wrap(tc)
	p.last.Store(struct{ net.Conn }{nc})
	return nc, nil
}

// returned returns the connection that dial returned last.
func (p *tlsPeer) returned() net.Conn { return p.last.Load().(struct{ net.Conn }).Conn }

// newTLSPeer returns a tlsPeer whose server offers the given protocols.
func newTLSPeer(t *testing.T, wrap func(*tls.Conn) net.Conn, offers ...string) *tlsPeer {
	return &tlsPeer{t: t, wrap: wrap, offers: offers, servers: make(chan net.Conn, 100)}
}

// transport returns a Transport that makes its TLS connections with p.
func (p *tlsPeer) transport(cfg *hyper.Config) *hyper.Transport {
	tr := &hyper.Transport{Proxy: hyper.NoProxy, DialTLSContext: p.dial, Config: cfg}
	p.t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// getURL sends GET for target on another goroutine.
func getURL(t *testing.T, rt http.RoundTripper, target string) *httpCall {
	req, err := http.NewRequestWithContext(t.Context(), "GET", target, nil)
	if err != nil {
		t.Fatal(err)
	}
	return h2test.Go(func() (*http.Response, error) { return rt.RoundTrip(req) })
}

func TestDialTLSContextMakesConnectionsOfAnyForm(t *testing.T) {
	for _, w := range wrappers {
		t.Run(w.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newTLSPeer(t, w.wrap, "h2")
				p.shaken = w.shaken
				if w.tls12 {
					p.max = tls.VersionTLS12
				}
				var got net.Conn
				traced := 0
				trace := &httptrace.ClientTrace{
					GotConn:          func(info httptrace.GotConnInfo) { got = info.Conn },
					TLSHandshakeDone: func(tls.ConnectionState, error) { traced++ },
				}
				req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "GET",
					"https://example.com/", nil)
				tr := p.transport(&hyper.Config{AssumeHTTP2: w.mute})
				call := h2test.Go(func() (*http.Response, error) { return tr.RoundTrip(req) })
				peer := h2test.NewPeer(t, <-p.servers)
				peer.Handshake()
				peer.WantHeaders("the request", 1, ":scheme: https", ":authority: example.com")
				peer.WriteHeaders(1, wire.EndStream, ":status: 204")
				resp := call.Want(t, "the response")
				if got != p.returned() {
					t.Errorf("GotConn tells of %T", got)
				}
				if (traced == 1) == w.untraced {
					t.Errorf("%d handshakes are traced", traced)
				}
				switch {
				case w.mute && resp.TLS != nil:
					t.Errorf("a state of TLS: %+v", resp.TLS)
				case !w.mute && (resp.TLS == nil || resp.TLS.NegotiatedProtocol != "h2" ||
					resp.TLS.ServerName != "example.com" ||
					!resp.TLS.HandshakeComplete || resp.TLS.CipherSuite == 0 ||
					w.tls12 != (resp.TLS.Version == tls.VersionTLS12)):
					t.Errorf("the state of TLS is %+v", resp.TLS)
				}
				peer.Ignore(wire.GoAway)
				tr.CloseIdleConnections()
			})
		})
	}
}

// If the server does not select h2, the client speaks HTTP/1.1 on the same connection.
func TestDialTLSContextFallsBackOnTheSameConnection(t *testing.T) {
	for _, w := range wrappers {
		for _, offers := range [][]string{{"http/1.1"}, nil} {
			t.Run(fmt.Sprint(w.name, offers), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newTLSPeer(t, w.wrap, offers...)
					p.shaken = w.shaken
					tr := p.transport(nil)
					call := getURL(t, tr, "https://example.com/")
					server := <-p.servers
					serveHello(server)
					resp := call.Want(t, "the response")
					h2test.WantBody(t, "the body", resp.Body, "hello")
					resp.Body.Close()
					synctest.Wait()
					if n := p.dialed.Load(); n != 1 || resp.ProtoMajor != 1 {
						t.Errorf("%s after %d dials", resp.Proto, n)
					}
					tr.CloseIdleConnections()
					server.Close()
				})
			})
		}
	}
}

// The handshake of a connection that is made for HTTP/1.1 is traced once, as with net/http.
func TestHandshakeForHTTP1IsTracedOnce(t *testing.T) {
	for _, userTLS := range []bool{false, true} {
		for _, name := range []string{"net/http", "Transport", "ConfigureTransport"} {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, false, siteHandler)
				s.protocol = "http/1.1"
				given := s.transport()
				given.DisableKeepAlives = true
				if userTLS {
					given.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
						nc, err := s.dial(ctx, network, addr)
						return tls.Client(nc, namedTLS()), err
					}
				}
				var rt http.RoundTripper = given
				switch name {
				case "Transport":
					cfg := &hyper.Config{DialContext: s.dial, TLS: given.TLSClientConfig}
					rt = &hyper.Transport{Proxy: hyper.NoProxy, DisableKeepAlives: true, Config: cfg,
						DialTLSContext: given.DialTLSContext}
				case "ConfigureTransport":
					if err := hyper.ConfigureTransport(given, nil); err != nil {
						t.Fatal(err)
					}
				}
				s.get(rt, "/") // shows that the host does not speak HTTP/2
				begun, done := 0, 0
				ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
					TLSHandshakeStart: func() { begun++ },
					TLSHandshakeDone:  func(tls.ConnectionState, error) { done++ },
				})
				req, _ := http.NewRequestWithContext(ctx, "GET", "https://example.com/", nil)
				got := s.request(rt, req)
				if dials, _ := s.counts(); dials != 2 || got != "200 HTTP/1.1 " || begun != 1 || done != 1 {
					t.Errorf("%s, DialTLSContext %v: %s after %d dials, %d handshakes begun and %d done",
						name, userTLS, got, dials, begun, done)
				}
				s.server.Close()
			})
		}
	}
}

// serveHello serves requests on nc over HTTP/1.1.
func serveHello(nc net.Conn) {
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "hello")
	}), TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}}
	l := &oneListener{conns: make(chan net.Conn, 1)}
	l.conns <- nc
	go srv.Serve(l)
}

// A oneListener is a net.Listener that returns the connections of conns and then io.EOF.
type oneListener struct{ conns chan net.Conn }

func (l *oneListener) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	default:
		return nil, io.EOF
	}
}
func (l *oneListener) Close() error   { return nil }
func (l *oneListener) Addr() net.Addr { return &net.TCPAddr{} }

// AssumeHTTP2 lets every door of hyper's own API speak HTTP/2 without ALPN.
func TestAssumeHTTP2SpeaksItWithoutALPN(t *testing.T) {
	for _, assume := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			// The server does not support ALPN.
			p := newTLSPeer(t, func(tc *tls.Conn) net.Conn { return tc })
			nc, err := p.dial(t.Context(), "tcp", "")
			if err != nil {
				t.Fatal(err)
			}
			server := <-p.servers
			go server.(*tls.Conn).Handshake()
			conn, err := hyper.NewConn(t.Context(), nc, &hyper.Config{AssumeHTTP2: assume})
			if !assume {
				var other *hyper.NotHTTP2Error
				if !errors.As(err, &other) || other.Conn != nc {
					t.Errorf("got %v", err)
				}
				nc.Close()
				server.Close()
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			peer := h2test.NewPeer(t, server)
			peer.Handshake()
			call := getAsync(conn, "/")
			peer.WantHeaders("the request", 1, ":scheme: https")
			peer.WriteHeaders(1, wire.EndStream, ":status: 204")
			call.Want(t, "the response")
			conn.Close()
			peer.Ignore(wire.GoAway)
		})
	}
	synctest.Test(t, func(t *testing.T) { // AssumeHTTP2 does not apply if another protocol was negotiated
		p := newTLSPeer(t, func(tc *tls.Conn) net.Conn { return tc }, "http/1.1")
		tr := p.transport(&hyper.Config{AssumeHTTP2: true})
		call := getURL(t, tr, "https://example.com/")
		serveHello(<-p.servers)
		if resp := call.Want(t, "the response"); resp.ProtoMajor != 1 {
			t.Errorf("served by %s", resp.Proto)
		}
		tr.CloseIdleConnections()
	})
}

// NewConn accepts the same TLS connections as Transport does.
func TestNewConnTakesTLSOfAnyForm(t *testing.T) {
	for _, w := range wrappers {
		if w.mute {
			continue // NewConn cannot see that it is TLS
		}
		for _, protocol := range []string{"h2", "http/1.1"} {
			t.Run(w.name+" "+protocol, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newTLSPeer(t, w.wrap, protocol)
					p.shaken = w.shaken
					dialed := h2test.Go(func() (net.Conn, error) { return p.dial(t.Context(), "tcp", "") })
					server := <-p.servers
					go server.(*tls.Conn).Handshake()
					nc := dialed.Want(t, "a connection")
					conn, err := hyper.NewConn(t.Context(), nc, nil)
					if protocol != "h2" {
						var other *hyper.NotHTTP2Error
						if !errors.As(err, &other) || other.Conn != nc || other.Negotiated != protocol {
							t.Errorf("got %v, %+v", err, other)
						}
						nc.Close()
						server.Close()
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					peer := h2test.NewPeer(t, server)
					peer.Handshake()
					call := getAsync(conn, "/")
					peer.WantHeaders("the request", 1, ":scheme: https", ":authority: example.com")
					peer.WriteHeaders(1, wire.EndStream, ":status: 204")
					call.Want(t, "the response")
					if s := conn.TLS(); s == nil || s.NegotiatedProtocol != "h2" {
						t.Errorf("the state of TLS is %+v", s)
					}
					conn.Close()
					peer.Ignore(wire.GoAway)
				})
			})
		}
	}
}

// A lowerConn has a NetConn method that calls used.
type lowerConn struct {
	*tls.Conn
	used func()
}

func (c lowerConn) NetConn() net.Conn {
	c.used()
	return c.Conn.NetConn()
}

// NetConn of the caller's connection is called without a lock: it may use the hyper.Conn.
func TestNetConnMayUseTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var conn *hyper.Conn
		p := newTLSPeer(t, func(tc *tls.Conn) net.Conn {
			return lowerConn{tc, func() {
				if conn != nil {
					conn.Stats()
				}
			}}
		}, "h2")
		nc, err := p.dial(t.Context(), "tcp", "")
		if err != nil {
			t.Fatal(err)
		}
		made := h2test.Go(func() (*hyper.Conn, error) { return hyper.NewConn(t.Context(), nc, nil) })
		peer := h2test.NewPeer(t, <-p.servers)
		peer.Handshake()
		conn = made.Want(t, "a connection")
		conn.Close()
		peer.Ignore(wire.GoAway)
		<-conn.Done()
	})
}

// namedTLS returns the client's TLS configuration with the ServerName example.com.
func namedTLS() *tls.Config {
	config := h2test.ClientTLS()
	config.ServerName = "example.com"
	return config
}

// A dialer that misbehaves fails its own requests and affects nothing else.
func TestDialTLSContextThatMisbehaves(t *testing.T) {
	silent := func(ctx context.Context, _, _ string) (net.Conn, error) {
		client, _ := h2test.Pipe()
		return lateConn{&foreignConn{client, tls.Client(client, namedTLS())}}, nil
	}
	for name, c := range map[string]struct {
		dial dialFunc
		text string
		is   error
	}{
		"nothing": {func(context.Context, string, string) (net.Conn, error) { return nil, nil },
			"Transport.DialTLSContext returned no connection and no error", nil},
		"ends its goroutine": {func(context.Context, string, string) (net.Conn,
			error) {
			runtime.Goexit()
			return nil, nil
		},
			"dial example.com:443: the dialer called runtime.Goexit", nil},
		"an error": {func(context.Context, string, string) (net.Conn, error) { return nil, errNoDial },
			errNoDial.Error(), errNoDial},
		"hangs": {func(context.Context, string, string) (net.Conn, error) {
			time.Sleep(time.Hour)
			return nil,
				errNoDial
		},
			"not done within Config.HandshakeTimeout", hyper.ErrHandshakeTimeout},
		"a silent handshake": {silent, "not done within Config.HandshakeTimeout", hyper.ErrHandshakeTimeout},
		"closed": {func(context.Context, string, string) (net.Conn, error) {
			client, _ := h2test.Pipe()
			client.Close()
			return tls.Client(client, namedTLS()), nil
		}, "TLS handshake with", net.ErrClosed},
		"closed, handshake done": {func(context.Context, string, string) (net.Conn, error) {
			client, _ := h2test.Pipe()
			client.Close()
			return stateOnly{client, tls.ConnectionState{NegotiatedProtocol: "h2"}}, nil
		}, "closed", net.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := &hyper.Transport{Proxy: hyper.NoProxy, DialTLSContext: c.dial}
				begin := time.Now()
				err := getURL(t, tr, "https://example.com/").WantErr(t, "no connection")
				if !strings.Contains(err.Error(), c.text) || c.is != nil && !errors.Is(err, c.is) {
					t.Errorf("%T %v", err, err)
				}
				made := name == "closed, handshake done"
				if !hyper.Retryable(err) && !made { // HEADERS may have been sent
					t.Errorf("%v is not Retryable", err)
				}
				most := 15 * time.Second
				if made { // connections that end at once are made less and less often
					most = time.Hour
				}
				if took := time.Since(begin); took > most {
					t.Errorf("it took %v", took)
				}
				time.Sleep(2 * time.Hour)
			})
		})
	}
}

// A stateOnly connection reports the given state, which may be incomplete.
type stateOnly struct {
	net.Conn
	state tls.ConnectionState
}

func (c stateOnly) ConnectionState() tls.ConnectionState { return c.state }

// A state without a version and a cipher suite does not count as inadequate security.
func TestDialTLSContextNeedsTheProtocolAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := h2test.Pipe()
		tr := &hyper.Transport{Proxy: hyper.NoProxy,
			DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
				return stateOnly{client, tls.ConnectionState{NegotiatedProtocol: "h2"}}, nil
			}}
		call := getURL(t, tr, "https://example.com/")
		peer := h2test.NewPeer(t, server)
		peer.Handshake()
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		call.Want(t, "the response")
		peer.Ignore(wire.GoAway)
		tr.CloseIdleConnections()
	})
}

// DialTLSContext makes no connections through a proxy or to a proxy, and none for http URLs.
func TestDialTLSContextIsForDirectConnectionsOfTLS(t *testing.T) {
	for _, target := range []string{"https://example.com/", "http://example.com/"} {
		for _, proxy := range []string{"http", "https", "socks5", ""} {
			var dialed, dialedTLS atomic.Int32
			tr := &hyper.Transport{
				Proxy: hyper.NoProxy, UnencryptedHTTP2: proxy == "",
				Config: &hyper.Config{DialContext: func(context.Context, string, string) (net.Conn, error) {
					dialed.Add(1)
					return nil, errNoDial
				}},
				DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
					dialedTLS.Add(1)
					return nil, errNoDial
				},
			}
			if proxy != "" {
				tr.Proxy = http.ProxyURL(&url.URL{Scheme: proxy, Host: "proxy.example:3128"})
			}
			err := getURL(t, tr, target).WantErr(t, "no connection")
			want := proxy == "" && strings.HasPrefix(target, "https")
			if got := dialedTLS.Load() > 0; got != want || (dialed.Load() > 0) == want ||
				!errors.Is(err, errNoDial) {
				t.Errorf("%s, proxy %q: DialTLSContext called %d times, DialContext %d: %v", target, proxy,
					dialedTLS.Load(), dialed.Load(), err)
			}
		}
	}
}

// Some of the servers of one name may speak HTTP/2 and others not. No request fails because of
// that.
func TestDialTLSContextOfMixedServers(t *testing.T) {
	doors := map[string]func(*tlsPeer) http.RoundTripper{
		"Transport": func(p *tlsPeer) http.RoundTripper { return p.transport(nil) },
		"ConfigureTransport": func(p *tlsPeer) http.RoundTripper {
			tr := &http.Transport{DialTLSContext: p.dial}
			if err := hyper.ConfigureTransport(tr, nil); err != nil {
				p.t.Fatal(err)
			}
			p.t.Cleanup(tr.CloseIdleConnections)
			return tr
		},
	}
	for name, door := range doors {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newTLSPeer(t, func(tc *tls.Conn) net.Conn { return tc }, "http/1.1")
				rt := door(p)
				call := getURL(t, rt, "https://example.com/")
				old := <-p.servers
				serveHello(old)
				call.Want(t, "from a server without HTTP/2").Body.Close()
				old.Close()
				synctest.Wait()

				p.offers = []string{"h2"}
				body := &countedBody{Reader: strings.NewReader("hello")}
				req, _ := http.NewRequestWithContext(t.Context(), "POST", "https://example.com/", body)
				upload := h2test.Go(func() (*http.Response, error) { return rt.RoundTrip(req) })
				go (<-p.servers).(*tls.Conn).Handshake() // the connection of the fallback
				peer := h2test.NewPeer(t, <-p.servers)
				peer.Handshake()
				peer.WantHeaders("the request", 1, ":method: POST")
				peer.WantData("the body, which cannot be had again", 1, 0, 5)
				peer.Ignore(wire.Data, wire.GoAway)
				peer.WriteHeaders(1, wire.EndStream, ":status: 204")
				if resp := upload.Want(t, "from a server with HTTP/2"); resp.ProtoMajor != 2 ||
					name == "Transport" && resp.Request != req {
					t.Errorf("%s for %v", resp.Proto, resp.Request)
				}
				synctest.Wait()
				if n := body.closes.Load(); n != 1 {
					t.Errorf("the body was closed %d times", n)
				}
				if tr, ok := rt.(*hyper.Transport); ok && tr.Stats().Total.Requests != 2 {
					t.Errorf("%d requests are counted, want 2", tr.Stats().Total.Requests)
				}
				if c, ok := rt.(interface{ CloseIdleConnections() }); ok {
					c.CloseIdleConnections()
				}
			})
		})
	}
}

// A slowLowerConn is a lowerConn with writes that take time, as on a slow path.
type slowLowerConn struct{ lowerConn }

func (c slowLowerConn) Write(p []byte) (int, error) {
	time.Sleep(50 * time.Millisecond)
	return c.lowerConn.Write(p)
}

// NetConn is called without a lock, too, when hyper limits what the socket of a slow upload holds,
// and when it removes the limit.
func TestNetConnOfASlowUploadMayUseTheConnection(t *testing.T) {
	if runtime.GOOS != "linux" || runtime.GOARCH == "386" {
		t.Skip("TCP_NOTSENT_LOWAT is not used on this system")
	}
	synctest.Test(t, func(t *testing.T) {
		var conn atomic.Pointer[hyper.Conn]
		var calls, stuck atomic.Int32
		used := func() {
			c := conn.Load()
			if c == nil {
				return
			}
			calls.Add(1)
			var done atomic.Bool
			go func() {
				c.Stats()
				done.Store(true)
			}()
			for i := 0; i < 100_000 && !done.Load(); i++ {
				runtime.Gosched()
			}
			if !done.Load() {
				stuck.Add(1)
			}
		}
		p := newTLSPeer(t, func(tc *tls.Conn) net.Conn { return slowLowerConn{lowerConn{tc, used}} }, "h2")
		nc, err := p.dial(t.Context(), "tcp", "")
		if err != nil {
			t.Fatal(err)
		}
		made := h2test.Go(func() (*hyper.Conn, error) { return hyper.NewConn(t.Context(), nc, nil) })
		peer := h2test.NewPeer(t, <-p.servers)
		peer.Handshake(wire.Setting{ID: wire.SettingInitialWindowSize, Value: 1 << 30})
		peer.WriteWindowUpdate(0, 1<<30)
		peer.Ignore(wire.Headers, wire.Data, wire.GoAway)
		c := made.Want(t, "a connection")
		synctest.Wait()
		conn.Store(c)
		s := openPosts(t, c, 1)[0]
		if _, err := s.Write(make([]byte, 8<<20)); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second) // writeLoop ends
		if calls.Load() < 2 || stuck.Load() > 0 {
			t.Errorf("of %d calls of NetConn, %d had a lock", calls.Load(), stuck.Load())
		}
		conn.Store(nil)
		c.Close()
	})
}
