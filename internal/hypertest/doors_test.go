package hypertest

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// dialFunc is the type of Config.DialContext.
type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// A door is one way in which a program reaches a peer. All doors take net/http's types, so that one
// test body serves all of them. The doors of hyper's own API convert with RequestFromHTTP and
// Response.HTTP, and return hyper's own errors.
type door struct {
	name      string
	cleartext bool // the peer speaks HTTP/2 without TLS
	own       bool // hyper's own API: no wrapped errors, no retries
	enter     func(t *testing.T, dial dialFunc, cfg hyper.Config) http.RoundTripper
}

// doors are all ways into the library.
var doors = []door{
	{name: "Dial", own: true, enter: ownDoor(dialTLS, exchange)},
	{name: "NewConnTLS", own: true, enter: ownDoor(newConnTLS, exchange)},
	{name: "NewConnCleartext", own: true, cleartext: true, enter: ownDoor(newConn, exchange)},
	{name: "Open", own: true, enter: ownDoor(dialTLS, openExchange)},
	{name: "ConnRoundTripTLS", enter: ownDoor(dialTLS, (*hyper.Conn).RoundTrip)},
	{name: "ConnRoundTripCleartext", cleartext: true, enter: ownDoor(newConn, (*hyper.Conn).RoundTrip)},
	{name: "TransportTLS", enter: transportDoor},
	{name: "TransportCleartext", cleartext: true, enter: transportDoor},
	{name: "ConfigureTransport", enter: configuredDoor},
	{name: "ConfigureTransportCleartext", cleartext: true, enter: configuredCleartextDoor},
}

// viaNetHTTP reports whether requests pass through an http.Transport, which checks them first.
func (d door) viaNetHTTP() bool { return strings.HasPrefix(d.name, "ConfigureTransport") }

// A visit is the use of one door in a test, with the peers that the door connects to.
type visit struct {
	door
	t     *testing.T
	rt    http.RoundTripper
	peers chan *accepted
}

// An accepted is the peer's end of a connection that the door made.
type accepted struct {
	*h2test.Peer
	client *h2test.Conn // the client's end of the pipe, for faults and counters
}

// eachDoor runs test once for each door, each time in its own bubble.
func eachDoor(t *testing.T, cfg hyper.Config, test func(t *testing.T, v *visit)) {
	t.Helper()
	for _, d := range doors {
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, visitDoor(t, d, cfg)) })
		})
	}
}

// visitDoor enters d with cfg.
func visitDoor(t *testing.T, d door, cfg hyper.Config) *visit {
	v := &visit{door: d, t: t, peers: make(chan *accepted, 100)}
	v.rt = d.enter(t, v.dial, cfg)
	return v
}

// dial makes a pipe with a scripted peer at its other end.
func (v *visit) dial(context.Context, string, string) (net.Conn, error) {
	client, server := h2test.Pipe()
	var end net.Conn = server
	if !v.cleartext {
		end = h2test.TLSServer(server, "h2")
	}
	v.peers <- &accepted{h2test.NewPeer(v.t, end), client}
	return client, nil
}

// accept returns the peer of the next connection that the door makes, with the handshake done. A
// door makes a connection when a request needs one.
func (v *visit) accept(settings ...wire.Setting) *accepted {
	v.t.Helper()
	peer := <-v.peers
	peer.Handshake(settings...)
	return peer
}

// request makes a request to the peer for path.
func (v *visit) request(method, path string, body io.Reader) *http.Request {
	v.t.Helper()
	scheme := "https"
	if v.cleartext {
		scheme = "http"
	}
	req, err := http.NewRequestWithContext(v.t.Context(), method, scheme+"://example.com"+path, body)
	if err != nil {
		v.t.Fatal(err)
	}
	return req
}

// send sends req on another goroutine.
func (v *visit) send(req *http.Request) *httpCall {
	return h2test.Go(func() (*http.Response, error) { return v.rt.RoundTrip(req) })
}

// get sends GET for path on another goroutine.
func (v *visit) get(path string) *httpCall {
	v.t.Helper()
	return v.send(v.request("GET", path, nil))
}

// sendOnce sends POST for path on another goroutine. A Transport does not send it again when the
// connection is lost.
func (v *visit) sendOnce(path string) *httpCall {
	v.t.Helper()
	return v.send(v.request("POST", path, nil))
}

// An ownConn is a door with one connection, which is made for the first request.
type ownConn struct {
	connect func(ctx context.Context) (*hyper.Conn, error)
	send    func(*hyper.Conn, *http.Request) (*http.Response, error)
	once    sync.Once
	conn    *hyper.Conn
	err     error
}

// RoundTrip makes the connection if there is none, and sends req on it.
func (o *ownConn) RoundTrip(req *http.Request) (*http.Response, error) {
	o.once.Do(func() { o.conn, o.err = o.connect(req.Context()) })
	if o.err != nil {
		return nil, o.err
	}
	return o.send(o.conn, req)
}

// ownDoor returns the enter function of a door that uses one Conn: connect makes it, and send sends
// a request on it.
func ownDoor(
	connect func(context.Context, dialFunc, hyper.Config) (*hyper.Conn, error),
	send func(*hyper.Conn, *http.Request) (*http.Response, error),
) func(*testing.T, dialFunc, hyper.Config) http.RoundTripper {
	return func(t *testing.T, dial dialFunc, cfg hyper.Config) http.RoundTripper {
		o := &ownConn{send: send}
		o.connect = func(ctx context.Context) (*hyper.Conn, error) { return connect(ctx, dial, cfg) }
		t.Cleanup(func() {
			if o.conn != nil {
				o.conn.Close()
			}
		})
		return o
	}
}

// dialTLS connects with hyper.Dial.
func dialTLS(ctx context.Context, dial dialFunc, cfg hyper.Config) (*hyper.Conn, error) {
	cfg.DialContext, cfg.TLS = dial, clientTLS(&cfg)
	return hyper.Dial(ctx, "example.com", &cfg)
}

// newConnTLS connects with hyper.NewConn over TLS.
func newConnTLS(ctx context.Context, dial dialFunc, cfg hyper.Config) (*hyper.Conn, error) {
	nc, err := dial(ctx, "tcp", "example.com:443")
	if err != nil {
		return nil, err
	}
	tlsCfg := clientTLS(&cfg)
	tlsCfg.ServerName, tlsCfg.NextProtos = "example.com", []string{"h2"}
	return hyper.NewConn(ctx, tls.Client(nc, tlsCfg), &cfg)
}

// newConn connects with hyper.NewConn in cleartext.
func newConn(ctx context.Context, dial dialFunc, cfg hyper.Config) (*hyper.Conn, error) {
	nc, err := dial(ctx, "tcp", "example.com:80")
	if err != nil {
		return nil, err
	}
	return hyper.NewConn(ctx, nc, &cfg)
}

// clientTLS returns a copy of the caller's TLS configuration that trusts the peer's certificate.
func clientTLS(cfg *hyper.Config) *tls.Config {
	if cfg.TLS == nil {
		return h2test.ClientTLS()
	}
	tlsCfg := cfg.TLS.Clone()
	tlsCfg.RootCAs = h2test.Roots()
	return tlsCfg
}

// exchange calls Conn.Do, with net/http's types.
func exchange(c *hyper.Conn, req *http.Request) (*http.Response, error) {
	own, err := hyper.RequestFromHTTP(req)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req.Context(), own)
	if err != nil {
		return nil, err
	}
	return resp.HTTP(req), nil
}

// openExchange calls Conn.Open and Stream.Response, with net/http's types.
func openExchange(c *hyper.Conn, req *http.Request) (*http.Response, error) {
	own, err := hyper.RequestFromHTTP(req)
	if err != nil {
		return nil, err
	}
	s, err := c.Open(req.Context(), own)
	if err != nil {
		return nil, err
	}
	if own.Body == nil {
		if err := s.CloseWrite(); err != nil {
			return nil, err
		}
	}
	resp, err := s.Response(req.Context())
	if err != nil {
		return nil, err
	}
	return resp.HTTP(req), nil
}

// transportDoor enters a hyper.Transport.
func transportDoor(t *testing.T, dial dialFunc, cfg hyper.Config) http.RoundTripper {
	cfg.DialContext, cfg.TLS = dial, clientTLS(&cfg)
	tr := &hyper.Transport{Config: &cfg, Proxy: hyper.NoProxy, UnencryptedHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// configuredDoor enters an http.Transport that ConfigureTransport has configured.
func configuredDoor(t *testing.T, dial dialFunc, cfg hyper.Config) http.RoundTripper {
	tr := &http.Transport{DialContext: dial, TLSClientConfig: clientTLS(&cfg)}
	if err := hyper.ConfigureTransport(tr, &cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// configuredCleartextDoor is configuredDoor for HTTP/2 in cleartext.
func configuredCleartextDoor(t *testing.T, dial dialFunc, cfg hyper.Config) http.RoundTripper {
	tr := priorKnowledge(dial)
	if err := hyper.ConfigureTransport(tr, &cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// priorKnowledge returns an http.Transport that speaks HTTP/2 in cleartext.
func priorKnowledge(dial dialFunc) *http.Transport {
	tr := &http.Transport{DialContext: dial, Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	return tr
}

// Every door reaches the peer, and several requests share one connection.
func TestEveryDoorServesRequests(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		var peer *accepted
		for i := range uint32(2) {
			call := v.get(fmt.Sprintf("/%d", i))
			if peer == nil {
				peer = v.accept()
			}
			id := 2*i + 1
			peer.WantHeaders("the request", id, ":method: GET", fmt.Sprintf(":path: /%d", i))
			if v.name == "Open" {
				peer.WantData("the end of the request", id, wire.EndStream, 0)
			}
			peer.WriteHeaders(id, 0, ":status: 200")
			peer.WriteData(id, wire.EndStream, []byte("hello"))
			resp := call.Want(t, "the response")
			h2test.WantBody(t, "the body", resp.Body, "hello")
			resp.Body.Close()
			peer.WantIdle("nothing else is due")
		}
	})
}
