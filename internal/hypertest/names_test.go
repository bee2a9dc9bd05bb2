package hypertest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// hostNames are hosts of URLs and the names that they stand for. net/http dials the result of
// idna.Lookup of golang.org/x/net, and hyper must dial the same. An empty name means that hyper
// refuses the host.
var hostNames = []struct{ host, want string }{
	{"example.com", "example.com"},
	{"EXAMPLE.com", "example.com"},
	{"example.com.", "example.com."},
	{"example..com", "example..com"},
	{"ex_ample.com", "ex_ample.com"},
	{"xn--a.example", "xn--a.example"},
	{"xn--bcher-kva.example", "xn--bcher-kva.example"},
	{"127.0.0.1", "127.0.0.1"},
	{"[::1]", "::1"},
	{"[FE80::1%Eth0]", "fe80::1%Eth0"}, // a zone is the name of an interface, whose case matters
	{"[fe80::1%25eth0]", "fe80::1%25eth0"},

	{"bücher.example", "xn--bcher-kva.example"},
	{"BÜCHER.example", "xn--bcher-kva.example"},
	{"Bücher.EXAMPLE", "xn--bcher-kva.example"},
	{"bu\u0308cher.example", "xn--bcher-kva.example"}, // not in composed form
	{"bü\u00adcher.example", "xn--bcher-kva.example"}, // a soft hyphen
	{"bücher\ufe0f.example", "xn--bcher-kva.example"}, // a variation selector
	{"ｅvil.com", "evil.com"},                          // a full-width letter
	{"ＥＶＩＬ．ＣＯＭ", "evil.com"},                          // full-width letters only
	{"evil\u3002com", "evil.com"},                     // an ideographic full stop
	{"evil\uff0ecom", "evil.com"},                     // a full-width full stop
	{"evil\uff61com", "evil.com"},                     // a half-width ideographic full stop
	{"１２７.0.0.1", "127.0.0.1"},                        // full-width digits
	{"\u0430pple.com", "xn--pple-43d.com"},            // a Cyrillic letter among Latin ones
	{"faß.example", "xn--fa-hia.example"},             // a letter that IDNA 2003 mapped to ss
	{"\u212aelvin.example", "kelvin.example"},         // the Kelvin sign
	{"bücher.example.", "xn--bcher-kva.example."},     // a trailing dot
	{"例え.テスト", "xn--r8jz45g.xn--zckzah"},              // no Latin letter at all
	{"bücher.xn--bcher-kva", "xn--bcher-kva.xn--bcher-kva"},
	// An over-long label.
	{strings.Repeat("ü", 80) + ".example", "xn--tda" + strings.Repeat("a", 79) + ".example"},

	{"a\u200db.example", ""},       // a zero-width joiner that joins nothing
	{"\u00ad", ""},                 // maps to an empty name, which would dial this machine
	{"bücher.example/evil", ""},    // a path
	{"bücher.example?evil", ""},    // a query
	{"bücher.example#evil", ""},    // a fragment
	{`bücher.example\evil`, ""},    // a backslash
	{"bücher@evil.example", ""},    // userinfo
	{"bücher.example evil", ""},    // a space
	{"bücher.example\x00", ""},     // a control character
	{"bü_cher.example", ""},        // an underscore, in STD3
	{"evil.com\uff0fbücher", ""},   // a full-width slash
	{"\u2100.example", ""},         // a/c
	{"bücher\uff1a80.example", ""}, // a full-width colon
	{"xn--zz.bücher.example", ""},  // invalid Punycode beside a label that is mapped
	{"xn--ü.example", ""},          // not ASCII after xn--
	{"-bücher.example", ""},        // a hyphen at the beginning
	{"bücher.example:８０", ""},      // a port in full-width digits
	{"\xffbücher.example", ""},     // not UTF-8
	{"b%C3%BCcher.example", ""},    // percent-encoded by the caller: net/http dials it as written
	{"example.com%25evil", ""},     // a zone without an address
	{"example.com%bücher", ""},     // a zone beyond ASCII without an address
	{"[fe80::1%bücher]", ""},       // a zone beyond ASCII of an address
	{"\u05d0a.example", ""},        // RFC 5893: left-to-right and right-to-left in one label
	{"example.com/evil", ""},       // ASCII, but not a host
	{"me@example.com", ""},         // ASCII, with userinfo
	{"exa mple.com", ""},           // ASCII, with a space
}

// authorityOf returns the :authority that is sent for a host of hostNames, or "" if the request is
// refused.
func authorityOf(host, name string) string {
	switch {
	case strings.HasPrefix(host, "["): // RFC 6874 §4: a zone means nothing to the peer
		address, _, _ := strings.Cut(host[1:len(host)-1], "%")
		return "[" + address + "]"
	case beyondASCII(host) || name == "" && !strings.Contains(host, "%"):
		return name
	}
	return host // unchanged
}

// beyondASCII reports whether s has a character that is not ASCII.
func beyondASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > 0x7f }) >= 0
}

// wantRequestError requires that err is a RequestError.
func wantRequestError(t *testing.T, reason string, err error) {
	t.Helper()
	var re *hyper.RequestError
	if !errors.As(err, &re) {
		t.Errorf("%q: got %v, want a RequestError", reason, err)
	}
}

// errNoDial is the error of dial functions that make no connection.
var errNoDial = errors.New("the test makes no connections")

// dialedName returns the address that rt dials for a URL, or "" if it dials none.
func dialedName(u *url.URL, transport func(dialFunc) http.RoundTripper) (addr string, err error) {
	dialed := make(chan string, 1)
	rt := transport(func(_ context.Context, _, to string) (net.Conn, error) {
		dialed <- to
		return nil, errNoDial
	})
	_, err = rt.RoundTrip(&http.Request{URL: u, Header: http.Header{}})
	select {
	case addr = <-dialed:
	default:
	}
	return addr, err
}

// ownTransport returns a hyper.Transport that dials with dial.
func ownTransport(dial dialFunc) http.RoundTripper {
	return &hyper.Transport{Proxy: hyper.NoProxy, Config: &hyper.Config{DialContext: dial}}
}

// netTransport returns an http.Transport that dials with dial.
func netTransport(dial dialFunc) http.RoundTripper { return &http.Transport{DialContext: dial} }

func TestTransportDialsTheNameThatNetHTTPDials(t *testing.T) {
	for _, test := range hostNames {
		u := &url.URL{Scheme: "https", Host: test.host, Path: "/"}
		got, err := dialedName(u, ownTransport)
		if test.want == "" {
			if got != "" {
				t.Errorf("%q: dialed %q", test.host, got)
			}
			wantRequestError(t, test.host, err)
			continue
		}
		if want := net.JoinHostPort(test.want, "443"); got != want {
			t.Errorf("%q: dialed %q, want %q (%v)", test.host, got, want, err)
		}
		if theirs, _ := dialedName(u, netTransport); !strings.EqualFold(got, theirs) {
			t.Errorf("%q: dialed %q, net/http dials %q", test.host, got, theirs)
		}
	}
}

// More names than the cache can hold are all mapped correctly.
func TestManyNamesAreMappedEachToItsOwn(t *testing.T) {
	for range 2 {
		for i := range 100 {
			host := fmt.Sprintf("Bücher%d.example", i)
			u := &url.URL{Scheme: "https", Host: host, Path: "/"}
			got, _ := dialedName(u, ownTransport)
			if theirs, _ := dialedName(u, netTransport); got != theirs {
				t.Fatalf("%q: dialed %q, net/http dials %q", host, got, theirs)
			}
		}
	}
}

// configure returns a function that makes tr dial with dial and calls ConfigureTransport.
func configure(tr *http.Transport) func(dialFunc) http.RoundTripper {
	return func(dial dialFunc) http.RoundTripper {
		tr.DialContext = dial
		if err := hyper.ConfigureTransport(tr, nil); err != nil {
			panic(err)
		}
		return tr
	}
}

// The name of a proxy is mapped too, for each kind of proxy.
func TestProxyIsDialedByTheNameThatNetHTTPDials(t *testing.T) {
	for _, scheme := range []string{"http", "https", "socks5"} {
		for _, test := range hostNames {
			proxy := func(*http.Request) (*url.URL, error) {
				return &url.URL{Scheme: scheme, Host: test.host + ":3128"}, nil
			}
			u := &url.URL{Scheme: "https", Host: "example.com", Path: "/"}
			got, err := dialedName(u, func(dial dialFunc) http.RoundTripper {
				return &hyper.Transport{Proxy: proxy, Config: &hyper.Config{DialContext: dial}}
			})
			if test.want == "" {
				wantRequestError(t, scheme+" "+test.host, err)
				if beyondASCII(test.host) {
					_, err := dialedName(u, configure(&http.Transport{Proxy: proxy}))
					wantRequestError(t, "ConfigureTransport, "+scheme+" "+test.host, err)
				}
				continue
			}
			theirs, _ := dialedName(u, func(dial dialFunc) http.RoundTripper {
				return &http.Transport{Proxy: proxy, DialContext: dial}
			})
			if !strings.EqualFold(got, theirs) || got == "" {
				t.Errorf("%s proxy %q: dialed %q, net/http dials %q (%v)", scheme, test.host, got, theirs,
					err)
			}
			configured, err := dialedName(u, configure(&http.Transport{Proxy: proxy}))
			if !strings.EqualFold(configured, theirs) {
				t.Errorf("%s proxy %q: ConfigureTransport dialed %q, net/http dials %q (%v)",
					scheme, test.host, configured, theirs, err)
			}
		}
	}
}

// serverName returns the server name that rt sends in the TLS handshake for host.
func serverName(host string, transport func(dialFunc) http.RoundTripper) (name string) {
	asked := make(chan string, 1)
	rt := transport(func(context.Context, string, string) (net.Conn, error) {
		client, server := h2test.Pipe()
		go tls.Server(server, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config,
			error) {
			asked <- hello.ServerName
			return nil, errNoDial
		}}).Handshake()
		return client, nil
	})
	rt.RoundTrip(&http.Request{URL: &url.URL{Scheme: "https", Host: host, Path: "/"}, Header: http.Header{}})
	return <-asked
}

func TestTLSHasTheServerNameOfNetHTTP(t *testing.T) {
	for _, test := range hostNames {
		if test.want == "" {
			continue
		}
		got, theirs := serverName(test.host, ownTransport), serverName(test.host, netTransport)
		if !strings.EqualFold(got, theirs) {
			t.Errorf("%q: the server name is %q, net/http's %q", test.host, got, theirs)
		}
	}
}

func TestHostIsMappedOrRefused(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		call := v.get("/")
		peer := v.accept()
		peer.Ignore(wire.Data)
		peer.WantHeaders("the connection is made", 1, ":authority: example.com")
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		call.Want(t, "the first response")
		synctest.Wait() // http.Transport pools the connection from now on
		id := uint32(1)
		for _, test := range hostNames {
			for _, port := range []string{"", ":8443"} {
				req := v.request("GET", "/", nil)
				req.Host = test.host + port
				call := v.send(req)
				want := authorityOf(test.host, test.want)
				if want == "" {
					wantRequestError(t, req.Host, call.WantErr(t, req.Host))
					peer.WantIdle(req.Host)
					continue
				}
				id += 2
				peer.WantHeaders(req.Host, id, ":authority: "+want+port)
				peer.WriteHeaders(id, wire.EndStream, ":status: 204")
				call.Want(t, req.Host).Body.Close()
			}
		}
	})
}

// An empty port is removed, and a port that is not in ASCII digits is refused.
func TestPortOfAnInternationalizedHost(t *testing.T) {
	for host, want := range map[string]string{
		"BÜCHER.example:": "xn--bcher-kva.example", "bücher.example:８０": "",
		"bücher.example:80:90": "",
		"[bücher.example]:80":  "",
	} {
		req, err := hyper.RequestFromHTTP(&http.Request{URL: &url.URL{Scheme: "http", Host: host},
			Header: http.Header{}})
		switch {
		case want == "":
			wantRequestError(t, host, err)
		case err != nil || req.Authority != want:
			t.Errorf("%q became %q, %v", host, req.Authority, err)
		}
	}
}

func TestURLsHostIsTheAuthority(t *testing.T) {
	for _, test := range hostNames {
		if test.want == "" {
			continue
		}
		synctest.Test(t, func(t *testing.T) {
			i := slices.IndexFunc(doors, func(d door) bool { return d.name == "TransportCleartext" })
			v := visitDoor(t, doors[i], hyper.Config{})
			req := v.request("GET", "/", nil)
			req.URL.Host, req.Host = test.host, ""
			v.send(req)
			v.accept().WantHeaders(test.host, 1, ":authority: "+authorityOf(test.host, test.want))
		})
	}
}

// The fallback, which speaks HTTP/1.1, sends the same name.
func TestHostOverHTTP1IsMappedOrRefused(t *testing.T) {
	for _, test := range hostNames {
		if !beyondASCII(test.host) {
			continue
		}
		var got *http.Request
		tr := &hyper.Transport{}
		tr.Fallback = h2test.RoundTripFunc(func(req *http.Request) (*http.Response, error) {
			got = req
			return &http.Response{StatusCode: 204, Body: http.NoBody}, nil
		})
		body := &closeCounter{}
		req := &http.Request{URL: &url.URL{Scheme: "http", Host: test.host, Path: "/"}, Header: http.Header{},
			Body: body}
		resp, err := tr.RoundTrip(req)
		want := authorityOf(test.host, test.want)
		switch {
		case want == "":
			wantRequestError(t, test.host, err)
			if body.closed != 1 {
				t.Errorf("%q: the body was closed %d times", test.host, body.closed)
			}
		case err != nil || got.Host != want || resp.Request != req:
			t.Errorf("%q: sent as %q, %v", test.host, got.Host, err)
		}
	}
}

// A closeCounter is an empty body that counts how often it is closed.
type closeCounter struct{ closed int }

func (c *closeCounter) Read([]byte) (int, error) { return 0, io.EOF }
func (c *closeCounter) Close() error             { c.closed++; return nil }

// RFC 9113 §8.5: the :authority of CONNECT is the host and port of the tunnel's target.
func TestConnectTargetIsMappedOrRefused(t *testing.T) {
	for _, test := range hostNames {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			want := authorityOf(test.host, test.want)
			call := h2test.Go(func() (*http.Response, error) {
				return conn.RoundTrip(&http.Request{Method: "CONNECT",
					URL: &url.URL{Scheme: "https", Host: test.host + ":443"}, Header: http.Header{}})
			})
			if want == "" {
				wantRequestError(t, test.host, call.WantErr(t, test.host))
				peer.WantIdle(test.host)
				return
			}
			peer.WantHeaders(test.host, 1, ":method: CONNECT", ":authority: "+want+":443")
			peer.WriteHeaders(1, wire.EndStream, ":status: 200")
			call.Want(t, test.host).Body.Close()
		})
	}
}

// hyper's own API accepts only names in ASCII. It never sends or dials another name instead.
func TestOwnAPIRefusesNamesBeyondASCII(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		for _, test := range hostNames {
			if !beyondASCII(test.host) && authorityOf(test.host, test.want) != "" {
				continue
			}
			for _, req := range []*hyper.Request{
				{Authority: test.host},
				{Header: hyper.Header{{Name: ":authority", Value: test.host}}},
				{Header: hyper.Header{{Name: "host", Value: test.host}}},
				{Method: "CONNECT", Authority: test.host + ":443"},
			} {
				_, err := conn.Do(t.Context(), req)
				wantRequestError(t, fmt.Sprint(test.host, " in ", req.Header), err)
			}
			_, err := conn.Connect(t.Context(), test.host+":443", nil)
			wantRequestError(t, test.host, err)
			_, err = hyper.Dial(t.Context(), test.host,
				&hyper.Config{DialContext: func(context.Context, string, string) (net.Conn, error) {
					t.Errorf("%q was dialed", test.host)
					return nil, errNoDial
				}})
			if err == nil {
				t.Errorf("Dial(%q) succeeded", test.host)
			}
		}
		peer.WantIdle("nothing is sent")
	})
}

// A % starts a zone only after an IP address. In a name, TLS would verify only the part before the
// %.
func TestDialRefusesPercentInNames(t *testing.T) {
	for _, addr := range []string{"good.example%evil.example", "b%C3%BCcher.example:443", "127.0.0.1%eth0",
		"https://good.example%25x"} {
		_, err := hyper.Dial(t.Context(), addr, &hyper.Config{DialContext: func(context.Context, string,
			string) (net.Conn, error) {
			t.Errorf("%q was dialed", addr)
			return nil, errNoDial
		}})
		if err == nil {
			t.Errorf("Dial(%q) succeeded", addr)
		}
	}
}

// A zonedConn is a connection to an address with a zone.
type zonedConn struct{ net.Conn }

// RemoteAddr returns an address with a zone.
func (zonedConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.ParseIP("fe80::1"), Port: 8080, Zone: "eth0"}
}

// RFC 6874 §4: a request does not contain a zone.
func TestAuthorityOfAConnectionHasNoZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := h2test.Pipe()
		peer := h2test.NewPeer(t, server)
		conn, err := hyper.NewConn(t.Context(), zonedConn{client}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		peer.Handshake()
		getAsync(conn, "/")
		peer.WantHeaders("the request", 1, ":authority: [fe80::1]:8080")
	})
}
