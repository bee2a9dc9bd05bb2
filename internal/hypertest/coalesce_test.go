package hypertest

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// addressMemory is how long the Transport uses the addresses of a host that it has looked up.
const addressMemory = time.Minute

// pipeAddr is the address of every peer at the other end of a pipe.
const pipeAddr = "192.0.2.2"

// An estate is a set of hosts that are reached over pipes. A Zone resolves their names. All hosts
// have the same certificate, for one.test, two.test and *.wild.test, except other.test, which has
// its own.
type estate struct {
	t     *testing.T
	zone  *h2test.Zone
	tr    *hyper.Transport
	peers chan *accepted

	mu    sync.Mutex
	dials []string
}

// inEstate runs test in a bubble, with a Transport that coalesces connections.
func inEstate(t *testing.T, test func(t *testing.T, e *estate)) {
	t.Helper()
	zone := h2test.NewZone()
	for _, host := range []string{"one.test", "two.test", "a.wild.test", "other.test"} {
		zone.Set(host, pipeAddr)
	}
	zone.Set("far.wild.test", "192.0.2.99", "2001:db8::1")
	zone.Set("near.wild.test", "192.0.2.99", pipeAddr)
	defer zone.Use()()
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) }) // lets lookups end
		e := &estate{t: t, zone: zone, peers: make(chan *accepted, 100)}
		cfg := &hyper.Config{TLS: h2test.ClientTLS(), DialContext: e.dial}
		e.tr = &hyper.Transport{Coalesce: true, Proxy: hyper.NoProxy, Config: cfg}
		t.Cleanup(e.tr.CloseIdleConnections)
		test(t, e)
	})
}

// estateCertificate returns the certificate of all hosts but other.test.
var estateCertificate = sync.OnceValue(func() tls.Certificate {
	return h2test.CertificateFor("one.test", "two.test", "*.wild.test")
})

// otherCertificate returns the certificate of other.test.
var otherCertificate = sync.OnceValue(func() tls.Certificate { return h2test.CertificateFor("other.test") })

// dial makes a pipe with a TLS peer at its other end, and records addr.
func (e *estate) dial(_ context.Context, _, addr string) (net.Conn, error) {
	client, server := h2test.Pipe()
	e.mu.Lock()
	e.dials = append(e.dials, addr)
	e.mu.Unlock()
	certificate := estateCertificate()
	if strings.HasPrefix(addr, "other.test") {
		certificate = otherCertificate()
	}
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"}}
	config.ClientAuth = tls.RequestClientCert
	peer := h2test.NewPeer(e.t, tls.Server(server, config))
	peer.AutoPing()
	e.peers <- &accepted{peer, client}
	return client, nil
}

// request makes a request with the context of the test.
func (e *estate) request(method, url string, body io.Reader) *http.Request {
	req, err := http.NewRequestWithContext(e.t.Context(), method, url, body)
	if err != nil {
		e.t.Fatal(err)
	}
	return req
}

// send sends req on another goroutine.
func (e *estate) send(req *http.Request) *httpCall {
	return h2test.Go(func() (*http.Response, error) { return e.tr.RoundTrip(req) })
}

// get sends GET on another goroutine.
func (e *estate) get(url string) *httpCall {
	return e.send(e.request("GET", url, nil))
}

// accept returns the peer of the next connection, with the handshake done.
func (e *estate) accept(settings ...wire.Setting) *accepted {
	e.t.Helper()
	select {
	case peer := <-e.peers:
		peer.Handshake(settings...)
		return peer
	case <-time.After(time.Minute):
		e.t.Fatal("no connection was made")
		return nil
	}
}

// wantDials requires that want are the addresses of all connections so far.
func (e *estate) wantDials(reason string, want ...string) {
	e.t.Helper()
	synctest.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Equal(e.dials, want) {
		e.t.Errorf("%s: connections to %q, want %q", reason, e.dials, want)
	}
}

// respond sends a response without a body to the request on stream.
func (p *accepted) respond(stream uint32, status string) {
	p.WriteHeaders(stream, wire.EndStream, ":status: "+status)
}

// first makes a connection by a request to https://one.test, and returns its peer.
func (e *estate) first(settings ...wire.Setting) *accepted {
	e.t.Helper()
	call := e.get("https://one.test/")
	peer := e.accept(settings...)
	peer.WantHeaders("the first request", 1, ":authority: one.test")
	peer.respond(1, "204")
	call.Want(e.t, "the first response").Body.Close()
	return peer
}

// origin makes the peer send an ORIGIN frame.
func (p *accepted) origin(origins ...string) {
	p.WriteRaw(wire.AppendOrigin(nil, origins...))
	synctest.Wait()
}

// A coalesceRow is a request that follows one to https://one.test. shared says whether it uses the
// same connection.
type coalesceRow struct {
	name   string
	set    func(e *estate)                  // called before the first request
	before func(e *estate, first *accepted) // called before the second request
	url    string                           // of the second request; empty: https://two.test/
	change func(req *http.Request)          // changes the second request
	asks   func(req *hyper.Request)         // changes the second request in WithRequest
	config func(cfg *tls.Config)            // changes the client's TLS configuration
	shared bool
}

// run sends both requests and checks which connection the second one uses.
func (row *coalesceRow) run(t *testing.T, e *estate) {
	if row.config != nil {
		row.config(e.tr.Config.TLS)
	}
	if row.set != nil {
		row.set(e)
	}
	first := e.first()
	if row.before != nil {
		row.before(e, first)
	}
	url := row.url
	if url == "" {
		url = "https://two.test/"
	}
	req := e.request("GET", url, nil)
	if row.change != nil {
		row.change(req)
	}
	if row.asks != nil {
		req = req.WithContext(hyper.WithRequest(req.Context(), row.asks))
	}
	call := e.send(req)
	peer, stream := first, uint32(3)
	if !row.shared {
		peer, stream = e.accept(), 1
	}
	authority := req.URL.Host
	if req.Host != "" {
		authority = req.Host
	}
	if row.asks != nil {
		var asked hyper.Request
		row.asks(&asked)
		authority = asked.Authority
	}
	if authority != "" {
		peer.WantHeaders("the second request", stream, ":authority: "+authority)
	} else {
		peer.WantHeaders("the second request", stream)
	}
	peer.respond(stream, "204")
	call.Want(t, "the second response").Body.Close()
	if row.shared {
		e.wantDials("none more", "one.test:443")
	}
}

// coalesceRows are the rows of TestCoalesceConditions.
var coalesceRows = []coalesceRow{
	{name: "two names of a certificate", shared: true},
	{name: "a wildcard", url: "https://a.wild.test/", shared: true},
	{name: "one of several addresses", url: "https://near.wild.test/", shared: true},
	{name: "not opted in", set: func(e *estate) { e.tr.Coalesce = false }},
	{name: "another certificate", url: "https://other.test/"},
	{name: "another address", url: "https://far.wild.test/"},
	{name: "a name without an address", url: "https://none.wild.test/"},
	{name: "a name server that is silent", set: func(e *estate) { e.zone.SetSilent() }},
	{name: "another port", url: "https://two.test:8443/"},
	{name: "verification is off", config: func(c *tls.Config) { c.InsecureSkipVerify = true }},
	{
		name:   "verification of the caller's",
		config: func(c *tls.Config) { c.VerifyConnection = func(tls.ConnectionState) error { return nil } },
	},
	{
		name:   "a client certificate",
		config: func(c *tls.Config) { c.Certificates = []tls.Certificate{h2test.Certificate()} },
	},
	{name: "a client certificate on demand", config: func(c *tls.Config) {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate,
			error) {
			return &tls.Certificate{}, nil
		}
	}},
	{name: "one name for all handshakes", config: func(c *tls.Config) { c.ServerName = "one.test" }},
	{name: "Host differs", change: func(r *http.Request) { r.Host = "one.test" }},
	{name: "Host is the URL's", change: func(r *http.Request) { r.Host = "two.test" }, shared: true},
	{name: "WithRequest names another host", asks: func(r *hyper.Request) { r.Authority = "one.test" }},
	{name: "WithRequest names none", asks: func(r *hyper.Request) { r.Authority = "" }},
	{name: "WithRequest names another host in a field", asks: func(r *hyper.Request) {
		r.Authority, r.Header = "", hyper.Header{{Name: ":authority", Value: "one.test"}}
	}},
	{name: "WithRequest names the host", asks: func(r *hyper.Request) { r.Authority = "TWO.test:443" },
		shared: true},
	{name: "WithRequest makes it CONNECT", asks: func(r *hyper.Request) {
		r.Method, r.Authority, r.Scheme, r.Path = "CONNECT", "two.test:443", "", ""
	}},
	{name: "CONNECT", url: "https://two.test:443", change: func(r *http.Request) { r.Method = "CONNECT" }},
	{name: "Close", change: func(r *http.Request) { r.Close = true }},
	{
		name:   "GOAWAY",
		before: func(e *estate, p *accepted) { p.WriteGoAway(1, wire.NoError, ""); synctest.Wait() },
	},
	{name: "the end of the connection", before: func(e *estate, p *accepted) { p.Close(); synctest.Wait() }},
	{
		name:   "too old",
		set:    func(e *estate) { e.tr.MaxConnAge = time.Minute },
		before: func(*estate, *accepted) { time.Sleep(time.Minute) },
	},
	{name: "not too old", set: func(e *estate) { e.tr.MaxConnAge = time.Minute }, shared: true},
	{name: "no stream is free", before: func(e *estate, p *accepted) {
		p.WriteSettings(h2test.AtMost(1))
		p.WantSettingsAck("the new limit")
		e.get("https://one.test/open")
		p.WantHeaders("a request that takes the only stream", 3)
	}},

	{name: "ORIGIN with the origin", before: says("https://two.test"), shared: true},
	{name: "ORIGIN with the origin and its port", before: says("https://two.test:443"), shared: true},
	{name: "ORIGIN without the origin", before: says("https://three.test")},
	{name: "ORIGIN with the origin of another port", before: says("https://two.test:444")},
	{name: "ORIGIN with the origin of another scheme", before: says("http://two.test")},
	{name: "an empty ORIGIN", before: says()},
	{
		name:   "ORIGIN in two frames",
		before: func(e *estate, p *accepted) { p.origin(); p.origin("https://two.test") },
		shared: true,
	},
	{
		name:   "ORIGIN with the origin, which has another address",
		before: says("https://far.wild.test"),
		url:    "https://far.wild.test/",
	},
	{
		name:   "ORIGIN with the origin, for which the certificate is not",
		before: says("https://other.test"),
		url:    "https://other.test/",
	},
	{
		name:   "ORIGIN with the origin after malformed ones",
		before: says(append(malformedOrigins, "https://two.test")...),
		shared: true,
	},
	{
		name:   "ORIGIN with malformed origins only",
		before: says(malformedOrigins...),
	},
	{name: "ORIGIN that is cut off", before: func(e *estate, p *accepted) {
		payload := append([]byte{0, 17}, "https://two.test"...)
		p.WriteFrame(wire.FrameHeader{Length: len(payload), Type: wire.Origin}, payload)
		synctest.Wait()
	}},
	{name: "ORIGIN that is too large to be read", before: func(e *estate, p *accepted) {
		payload := append([]byte("\x00\x10https://two.test"), make([]byte, 64<<10)...)
		p.WriteFrame(wire.FrameHeader{Length: len(payload), Type: wire.Origin}, payload)
		synctest.Wait()
	}},
	{name: "ORIGIN on a stream", before: func(e *estate, p *accepted) {
		p.WriteFrame(wire.FrameHeader{Type: wire.Origin, StreamID: 1}, nil)
		synctest.Wait()
	}, shared: true},
	{name: "ORIGIN with an unknown flag that changes its meaning", before: func(e *estate, p *accepted) {
		p.WriteFrame(wire.FrameHeader{Type: wire.Origin, Flags: 0x4}, nil)
		synctest.Wait()
	}, shared: true},
	{name: "ORIGIN with an unknown flag that does not", before: func(e *estate, p *accepted) {
		p.WriteFrame(wire.FrameHeader{Type: wire.Origin, Flags: 0x10}, nil)
		synctest.Wait()
	}},
}

// malformedOrigins are entries of an ORIGIN frame that the client must ignore.
var malformedOrigins = []string{
	"", "null", "two.test", "https://", "https://a b", "https://u@two.test", "https://two.test/",
	"https://two.test?", "https://two.test:", "https://two.test:99999", "https://two.test%00",
}

// says returns a step in which the peer sends ORIGIN with origins.
func says(origins ...string) func(*estate, *accepted) {
	return func(_ *estate, p *accepted) { p.origin(origins...) }
}

// RFC 9113 §9.1.1, RFC 8336 §2.4: a connection is used for another host only if its certificate is
// valid for the host, the host has the connection's address, and the Origin Set, if there is one,
// contains the origin.
func TestCoalesceConditions(t *testing.T) {
	for _, row := range coalesceRows {
		t.Run(row.name, func(t *testing.T) { inEstate(t, row.run) })
	}
}

// A host that needs a proxy gets its own connection.
func TestCoalesceIsNotForProxies(t *testing.T) {
	inEstate(t, func(t *testing.T, e *estate) {
		first := e.first()
		e.tr.Proxy = proxyAt("http://proxy.test:3128")
		call := e.get("https://two.test/")
		peer := <-e.peers
		peer.Close()
		call.WantErr(t, "the proxy ends the connection")
		e.wantDials("it is the proxy's", "one.test:443", "proxy.test:3128")
		first.WantIdle("the connection of the other host is not used")
	})
}

// A connection that gets no new requests because another host waits for a connection gets none from
// hosts that share it, either.
func TestConnectionThatMakesRoomIsNotShared(t *testing.T) {
	inEstate(t, func(t *testing.T, e *estate) {
		e.tr.MaxConns = 1
		first := e.first()
		long := e.get("https://one.test/long")
		first.WantHeaders("a request that takes long", 3)
		other := e.get("https://other.test/")
		time.Sleep(200 * time.Millisecond)
		two := e.get("https://two.test/")
		synctest.Wait()
		first.WantIdle("it makes room")
		first.respond(3, "204")
		long.Want(t, "the long one").Body.Close()
		next := e.accept()
		next.WantHeaders("the host that waited", 1, ":authority: other.test")
		next.respond(1, "204")
		other.Want(t, "the response").Body.Close()
		next = e.accept()
		next.WantHeaders("on its own connection", 1, ":authority: two.test")
		next.respond(1, "204")
		two.Want(t, "the response").Body.Close()
	})
}

// Resolve looks up addresses for sharing, too, and each of its calls ends within HandshakeTimeout.
func TestCoalesceLooksUpWithResolve(t *testing.T) {
	const limit = 3 * time.Second
	for name, ip := range map[string]string{"the connection's address": pipeAddr,
		"another address": "192.0.2.99"} {
		t.Run(name, func(t *testing.T) {
			inEstate(t, func(t *testing.T, e *estate) {
				e.tr.Config.HandshakeTimeout = limit
				e.tr.Resolve = func(ctx context.Context, addr string) ([]string, error) {
					if at, ok := ctx.Deadline(); !ok || time.Until(at) > limit {
						t.Errorf("a call for %s has until %v", addr, at)
					}
					if addr == "two.test:443" {
						return []string{ip + ":443"}, nil
					}
					return []string{pipeAddr + ":443"}, nil
				}
				peer, stream := e.first(), uint32(3)
				call := e.get("https://two.test/")
				if ip != pipeAddr {
					peer, stream = e.accept(), 1
				}
				peer.WantHeaders("the second request", stream, ":authority: two.test")
				peer.respond(stream, "204")
				call.Want(t, "the response").Body.Close()
			})
		})
	}
}

// A request does not wait longer than a second for the lookup of an address, and the lookup leaves
// no state.
func TestCoalesceWaitsNoLongerThanASecondForAnAddress(t *testing.T) {
	inEstate(t, func(t *testing.T, e *estate) {
		e.zone.SetSilent()
		e.first()
		began := time.Now()
		call := e.get("https://two.test/")
		peer := e.accept()
		if took := time.Since(began); took != time.Second {
			t.Errorf("the connection was made after %v", took)
		}
		peer.WantHeaders("on its own connection", 1)
		peer.respond(1, "204")
		call.Want(t, "the response").Body.Close()
	})
}

// Addresses that have expired are not used, even if the name server does not respond any more.
func TestCoalesceForgetsAddressesWhenTheNameServerIsSilent(t *testing.T) {
	inEstate(t, func(t *testing.T, e *estate) {
		first := e.first()
		slow := e.get("https://two.test/slow") // keeps the host in the pool
		first.WantHeaders("on the other host's connection", 3, ":authority: two.test")
		time.Sleep(addressMemory + time.Second)
		e.zone.SetSilent()
		call := e.get("https://two.test/")
		own := e.accept()
		own.WantHeaders("on its own connection", 1, ":authority: two.test")
		own.respond(1, "204")
		call.Want(t, "the response").Body.Close()
		first.respond(3, "204")
		slow.Want(t, "the response").Body.Close()
	})
}

func TestCoalescedRequestsAtOnceShareOneLookup(t *testing.T) {
	inEstate(t, func(t *testing.T, e *estate) {
		first := e.first()
		before := e.zone.Queries()
		var calls []*httpCall
		for range 50 {
			calls = append(calls, e.get("https://two.test/"))
		}
		for i := range uint32(50) {
			first.WantHeaders("all on the one connection", 3+2*i, ":authority: two.test")
			first.respond(3+2*i, "204")
		}
		for _, call := range calls {
			call.Want(t, "the response").Body.Close()
		}
		e.wantDials("none more", "one.test:443")
		if n := e.zone.Queries() - before; n != 2 { // one query for A and one for AAAA
			t.Errorf("%d queries", n)
		}
		time.Sleep(59 * time.Second)
		call := e.get("https://two.test/")
		first.WantHeaders("the address is remembered", 103)
		first.respond(103, "204")
		call.Want(t, "the response").Body.Close()
		if n := e.zone.Queries() - before; n != 2 {
			t.Errorf("%d queries", n)
		}
		time.Sleep(2 * time.Second)
		e.zone.Set("two.test", "192.0.2.99")
		call = e.get("https://two.test/")
		own := e.accept()
		own.WantHeaders("the host has moved", 1)
		own.respond(1, "204")
		call.Want(t, "the response").Body.Close()
	})
}

// A host that has its own connection keeps using it.
func TestHostWithItsOwnConnectionDoesNotCoalesce(t *testing.T) {
	inEstate(t, func(t *testing.T, e *estate) {
		e.tr.Coalesce = false
		one, two := e.get("https://one.test/"), e.get("https://two.test/")
		peers := []*accepted{e.accept(), e.accept()}
		for _, p := range peers {
			p.WantHeaders("each its own", 1)
			p.respond(1, "204")
		}
		one.Want(t, "the response").Body.Close()
		two.Want(t, "the response").Body.Close()
		e.tr.Coalesce = true
		call := e.get("https://two.test/")
		synctest.Wait()
		for _, p := range peers {
			p.Ignore(wire.Headers)
			p.respond(3, "204")
		}
		call.Want(t, "the response").Body.Close()
		e.mu.Lock()
		defer e.mu.Unlock()
		if len(e.dials) != 2 {
			t.Errorf("connections to %q", e.dials)
		}
	})
}

// A request that the peer has not processed on a shared connection is sent again on the host's own
// connection.
func TestCoalescedRequestIsSentAgainOnItsOwnConnection(t *testing.T) {
	for name, refuse := range map[string]func(*accepted){
		"GOAWAY":         func(p *accepted) { p.WriteGoAway(1, wire.NoError, "") },
		"REFUSED_STREAM": func(p *accepted) { p.WriteRSTStream(3, wire.RefusedStream) },
	} {
		t.Run(name, func(t *testing.T) {
			inEstate(t, func(t *testing.T, e *estate) {
				first := e.first()
				call := e.send(e.request("POST", "https://two.test/", strings.NewReader("body")))
				first.WantHeaders("on the other host's connection", 3)
				first.WantBody("with its body", 3, []byte("body"))
				refuse(first)
				own := e.accept()
				own.WantHeaders("again", 1, ":authority: two.test", ":method: POST")
				own.WantBody("with its body", 1, []byte("body"))
				own.respond(1, "204")
				call.Want(t, "the response").Body.Close()
				e.wantDials("two", "one.test:443", "two.test:443")
			})
		})
	}
}
