package hypertest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// answered is what site.request returns for a successful response of siteHandler.
const answered = "200 HTTP/2.0 "

// proxyAt returns a Proxy function that always returns the URL raw.
func proxyAt(raw string) func(*http.Request) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		panic(err)
	}
	return http.ProxyURL(u)
}

// get returns a scenario that sends one request for path.
func get(path string) func(*site, *http.Transport) string {
	return func(s *site, tr *http.Transport) string { return s.get(tr, path) }
}

// tunneled is a scenario of one request. The outcome includes what the proxy was asked.
func tunneled(s *site, tr *http.Transport) string {
	got := s.get(tr, "/")
	for _, req := range s.tunnels {
		got += fmt.Sprintf("; %s %s %s%s%s", req.Method, req.Host, req.Header.Get("Proxy-Authorization"),
			req.Header.Get("X-Static"), req.Header.Get("X-Dynamic"))
	}
	return got
}

// expecting is a scenario of a request with Expect: 100-continue. The server does not send 100
// (Continue) before it reads the body.
func expecting(s *site, tr *http.Transport) string {
	req, _ := http.NewRequestWithContext(s.t.Context(), "POST", s.url("example.com", "/"),
		strings.NewReader("body"))
	req.Header.Set("Expect", "100-continue")
	return s.request(tr, req)
}

// comparisons are the scenarios for each field of http.Transport and, as HTTP2.X, of
// http.HTTP2Config.
var comparisons = map[string][]comparison{
	"Proxy": {
		{name: "http",
			set: func(_ *site,
				tr *http.Transport) {
				tr.Proxy = proxyAt("http://user:pass@proxy.test:3128")
			},
			act:  tunneled,
			want: answered + "; CONNECT example.com:443 Basic dXNlcjpwYXNz"},
		{name: "https", set: func(_ *site, tr *http.Transport) {
			tr.Proxy = proxyAt("https://proxy.test")
			tr.TLSClientConfig.InsecureSkipVerify = true
		}, act: tunneled, want: answered + "; CONNECT example.com:443 "},
		{name: "refused", set: func(s *site, tr *http.Transport) {
			s.refusal, tr.Proxy = "407 Proxy Authentication Required", proxyAt("http://proxy.test:3128")
		}, act: get("/"), want: "error: Proxy Authentication Required"},
		{name: "none", act: get("/"), want: answered},
		{name: "error", set: func(_ *site, tr *http.Transport) {
			tr.Proxy = func(*http.Request) (*url.URL, error) { return nil, errors.New("no proxy today") }
		}, act: get("/"), want: "error: no proxy today"},
		{name: "unencrypted", cleartext: true, set: func(_ *site,
			tr *http.Transport) {
			tr.Proxy = proxyAt("http://proxy.test:3128")
		},
			act:  func(s *site, tr *http.Transport) string { return s.get(tr, "/") + s.dials[0] },
			want: answered + "tcp proxy.test:3128"},
		{name: "credentials of the request", act: func(s *site, tr *http.Transport) string {
			req, _ := http.NewRequest("GET", s.url("example.com", "/proxy"), nil)
			req.Header.Set("Proxy-Authorization", "Bearer for-a-gateway")
			return s.request(tr, req)
		}, want: answered + "Bearer for-a-gateway"},
	},
	"OnProxyConnectResponse": {
		{name: "error", set: func(_ *site, tr *http.Transport) {
			tr.Proxy = proxyAt("http://proxy.test:3128")
			tr.OnProxyConnectResponse = func(_ context.Context, u *url.URL, req *http.Request,
				resp *http.Response) error {
				return fmt.Errorf("%s answered %s %s with %d", u, req.Method, req.Host, resp.StatusCode)
			}
		}, act: get("/"), want: "error: http://proxy.test:3128 answered CONNECT example.com:443 with 200"},
	},
	"ProxyConnectHeader": {
		{name: "sent", set: func(_ *site, tr *http.Transport) {
			tr.Proxy, tr.ProxyConnectHeader = proxyAt("http://proxy.test:3128"),
				http.Header{"X-Static": {"static"}}
		}, act: tunneled, want: answered + "; CONNECT example.com:443 static"},
	},
	"GetProxyConnectHeader": {
		{name: "sent", set: func(_ *site, tr *http.Transport) {
			tr.Proxy, tr.ProxyConnectHeader = proxyAt("http://proxy.test:3128"),
				http.Header{"X-Static": {"static"}}
			tr.GetProxyConnectHeader = func(_ context.Context, u *url.URL, target string) (http.Header,
				error) {
				return http.Header{"X-Dynamic": {u.Host + " to " + target}}, nil
			}
		}, act: tunneled, want: answered + "; CONNECT example.com:443 proxy.test:3128 to example.com:443"},
		{name: "error", set: func(_ *site, tr *http.Transport) {
			tr.Proxy = proxyAt("http://proxy.test:3128")
			tr.GetProxyConnectHeader = func(context.Context, *url.URL, string) (http.Header,
				error) {
				return nil, errors.New("no header")
			}
		}, act: get("/"), want: "error: no header", dials: 1},
	},
	"DialContext": {
		{name: "address", act: func(s *site, tr *http.Transport) string {
			return s.get(tr, "/") +
				s.dials[0]
		}, want: answered + "tcp example.com:443"},
		{name: "error", set: func(_ *site, tr *http.Transport) {
			tr.DialContext = func(context.Context, string, string) (net.Conn, error) {
				return nil,
					errors.New("no route")
			}
		}, act: get("/"), want: "error: no route"},
	},
	"Dial": {
		{name: "used", set: func(s *site, tr *http.Transport) {
			tr.DialContext = nil
			//lint:ignore SA1019 it is honoured
			tr.Dial = func(network, addr string) (net.Conn,
				error) {
				return s.dial(s.t.Context(), network, addr)
			}
		}, act: func(s *site, tr *http.Transport) string { return s.get(tr, "/") + s.dials[0] },
			want: answered + "tcp example.com:443"},
	},
	"DialTLSContext": {
		{name: "h2", set: func(s *site, tr *http.Transport) {
			tr.DialTLSContext, tr.DialContext = s.dialTLS("h2"), nil
		}, act: get("/"), want: answered},
		{name: "http/1.1", set: func(s *site, tr *http.Transport) {
			tr.DialTLSContext, tr.DialContext = s.dialTLS("http/1.1"), nil
		}, act: func(s *site, tr *http.Transport) string { return s.get(tr, "/") + s.get(tr, "/") },
			want: "200 HTTP/1.1 200 HTTP/1.1 "},
	},
	"DialTLS": {
		{name: "h2", set: func(s *site, tr *http.Transport) {
			//lint:ignore SA1019 it is honoured
			tr.DialTLS = func(network, addr string) (net.Conn,
				error) {
				return s.dialTLS("h2")(s.t.Context(), network, addr)
			}
		}, act: get("/"), want: answered},
	},
	"TLSClientConfig": {
		{name: "server name",
			set: func(_ *site, tr *http.Transport) { tr.TLSClientConfig.ServerName = "127.0.0.1" },
			act: get("/"), want: answered},
		{name: "offer",
			set:  func(_ *site, tr *http.Transport) { tr.TLSClientConfig.NextProtos = []string{"other"} },
			act:  func(s *site, tr *http.Transport) string { return s.get(tr, "/") + s.offered() },
			want: answered + "h2 http/1.1 other"},
		{name: "verification", set: func(_ *site, tr *http.Transport) {
			tr.TLSClientConfig.VerifyConnection = func(tls.ConnectionState) error {
				return errors.New("not this one")
			}
		}, act: get("/"), want: "error: not this one"},
	},
	"TLSHandshakeTimeout": {
		{name: "silence", set: func(_ *site, tr *http.Transport) { tr.TLSHandshakeTimeout = 3 * time.Second },
			act: func(s *site, tr *http.Transport) string {
				req, _ := http.NewRequest("GET", "https://silent.test", nil)
				defer time.Sleep(2 * time.Second) // lets further attempts to connect end
				return s.request(tr, req)
			}, want: "timeout: TLS handshake timeout", dials: 4},
	},
	"DisableKeepAlives": {
		{name: "in turn", set: disableKeepAlives, act: func(s *site, tr *http.Transport) string {
			return s.get(tr, "/") + s.get(tr, "/") + s.get(tr, "/")
		}, want: answered + answered + answered},
		{name: "at once", set: disableKeepAlives, act: func(s *site,
			tr *http.Transport) string {
			return s.gets(tr, 20, "/slow")
		}, want: answered, dials: 20},
		{name: "at once, few connections", set: func(s *site, tr *http.Transport) {
			tr.DisableKeepAlives,
				tr.MaxConnsPerHost = true, 4
		},
			act: func(s *site, tr *http.Transport) string { return s.gets(tr, 20, "/") }, want: answered,
			dials: 20},
	},
	"DisableCompression": {
		{name: "off", set: func(_ *site, tr *http.Transport) { tr.DisableCompression = true },
			act: get("/coding"), want: answered},
	},
	"MaxIdleConns": {
		{name: "1 of 3 hosts",
			set: func(_ *site,
				tr *http.Transport) {
				tr.MaxIdleConns = 1
				tr.TLSClientConfig.InsecureSkipVerify = true
			},
			act: func(s *site, tr *http.Transport) (got string) {
				for _, host := range []string{"a.test", "b.test", "c.test"} {
					req, _ := http.NewRequest("GET", s.url(host, "/"), nil)
					got += s.request(tr, req)
				}
				return got
			}, want: answered + answered + answered},
	},
	"MaxIdleConnsPerHost": {
		{name: "none", set: func(_ *site, tr *http.Transport) { tr.MaxIdleConnsPerHost = -1 },
			act: func(s *site, tr *http.Transport) string {
				return s.gets(tr, 20, "/slow") + s.gets(tr, 20, "/slow")
			}, want: answered + answered, dials: 2},
		{name: "2", set: func(_ *site, tr *http.Transport) { tr.MaxIdleConnsPerHost = 2 },
			act: func(s *site, tr *http.Transport) string {
				return s.gets(tr, 20, "/") + s.gets(tr, 20, "/")
			}, want: answered + answered, dials: 1},
	},
	"MaxConnsPerHost": {
		{name: "1", set: func(s *site, tr *http.Transport) { s.limit(2); tr.MaxConnsPerHost = 1 },
			act: func(s *site, tr *http.Transport) string { return s.gets(tr, 6, "/slow") }, want: answered,
			dials: 1, stricter: true},
		{name: "no limit", set: func(s *site, _ *http.Transport) { s.limit(2) },
			act: func(s *site, tr *http.Transport) string { return s.gets(tr, 30, "/slow") }, want: answered,
			dials: 15, stricter: true},
	},
	"IdleConnTimeout": {
		{name: "10 s", set: func(_ *site, tr *http.Transport) { tr.IdleConnTimeout = 10 * time.Second },
			act: func(s *site, tr *http.Transport) string {
				got := s.get(tr, "/")
				time.Sleep(11 * time.Second)
				return got
			}, want: answered},
		{name: "none", act: func(s *site, tr *http.Transport) string {
			got := s.get(tr, "/")
			time.Sleep(time.Hour)
			return got + s.get(tr, "/")
		}, want: answered + answered, dials: 1},
	},
	"ResponseHeaderTimeout": {
		{name: "late", set: func(_ *site, tr *http.Transport) { tr.ResponseHeaderTimeout = 10 * time.Second },
			act: get("/late"), want: "timeout: timeout awaiting response headers"},
		{name: "in time",
			set: func(_ *site, tr *http.Transport) { tr.ResponseHeaderTimeout = 10 * time.Second },
			act: get("/slow"), want: answered},
		{name: "none", act: get("/late"), want: answered},
	},
	"ExpectContinueTimeout": {
		{name: "none", cleartext: true, act: expecting, want: answered},
		{name: "3 s", cleartext: true, set: func(_ *site,
			tr *http.Transport) {
			tr.ExpectContinueTimeout = 3 * time.Second
		},
			act: expecting, want: answered},
	},
	"TLSNextProto": {
		{name: "other", set: func(s *site, tr *http.Transport) {
			tr.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{
				"other": func(authority string, _ *tls.Conn) http.RoundTripper { return spokenTo(authority) },
			}
			tr.TLSClientConfig.NextProtos = []string{"other"}
			s.protocol = "other"
			tr.Protocols = new(http.Protocols)
			tr.Protocols.SetHTTP1(true)
			tr.Protocols.SetHTTP2(true)
		}, act: get("/"), want: "error: spoken to example.com:443"},
	},
	"MaxResponseHeaderBytes": {
		{name: "500 kB", act: get("/wide"), want: answered},
		{name: "9 MB", act: get("/widest"), want: answered},
		// net/http ends the whole connection for this.
		{name: "above", dials: 1, set: func(_ *site,
			tr *http.Transport) {
			tr.MaxResponseHeaderBytes = 100000
		},
			act: func(s *site, tr *http.Transport) string {
				return strings.SplitAfter(s.get(tr, "/wide"),
					":")[0]
			}, want: "error:"},
	},
	"WriteBufferSize": {{name: "1 MiB",
		set: func(_ *site, tr *http.Transport) { tr.WriteBufferSize = 1 << 20 },
		act: get("/"), want: answered}},
	"ReadBufferSize": {{name: "1 MiB", set: func(_ *site, tr *http.Transport) { tr.ReadBufferSize = 1 << 20 },
		act: get("/"), want: answered}},
	"ForceAttemptHTTP2": {{name: "true", act: get("/"), want: answered}},
	"Protocols": {
		{name: "HTTP/2 alone", set: func(_ *site, tr *http.Transport) {
			tr.Protocols = new(http.Protocols)
			tr.Protocols.SetHTTP2(true)
		}, act: func(s *site, tr *http.Transport) string { return s.get(tr, "/") + s.offered() },
			want: answered + "h2"},
		{name: "unencrypted HTTP/2", cleartext: true, act: get("/"), want: answered},
	},
	"HTTP2": {{name: "empty", set: setHTTP2(http.HTTP2Config{}), act: get("/"), want: answered}},

	"HTTP2.MaxConcurrentStreams": {{name: "for servers",
		set: setHTTP2(http.HTTP2Config{MaxConcurrentStreams: 1}),
		act: func(s *site, tr *http.Transport) string { return s.gets(tr, 10, "/slow") }, want: answered}},
	"HTTP2.StrictMaxConcurrentRequests": {{name: "true", set: func(s *site, tr *http.Transport) {
		s.limit(2)
		tr.HTTP2 = &http.HTTP2Config{StrictMaxConcurrentRequests: true}
	}, act: func(s *site, tr *http.Transport) string { s.get(tr, "/"); return s.gets(tr, 6, "/slow") },
		want: answered, dials: 1, alone: true}},
}

// refusedFields are the fields that ConfigureTransport cannot implement and therefore refuses.
var refusedFields = map[string]func(*http.Transport){
	"TLSNextProto": func(tr *http.Transport) {
		tr.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{"h2": nil}
		tr.TLSNextProto["h2"] = func(string, *tls.Conn) http.RoundTripper { return nil }
	},
	"Protocols": func(tr *http.Transport) {
		tr.Protocols = new(http.Protocols)
		tr.Protocols.SetHTTP1(true)
	},
	"HTTP2.PermitProhibitedCipherSuites": func(tr *http.Transport) {
		tr.HTTP2 = &http.HTTP2Config{PermitProhibitedCipherSuites: true}
	},
	"HTTP2.CountError": func(tr *http.Transport) {
		tr.HTTP2 = &http.HTTP2Config{CountError: func(string) {}}
	},
}

// onTheWire are the fields that TestConfiguredConnectionsObeyHTTP2Config checks.
var onTheWire = []string{
	"HTTP2.MaxDecoderHeaderTableSize", "HTTP2.MaxEncoderHeaderTableSize", "HTTP2.MaxReadFrameSize",
	"HTTP2.MaxReceiveBufferPerConnection", "HTTP2.MaxReceiveBufferPerStream",
	"HTTP2.SendPingTimeout", "HTTP2.PingTimeout", "HTTP2.WriteByteTimeout",
}

// disableKeepAlives sets http.Transport.DisableKeepAlives.
func disableKeepAlives(_ *site, tr *http.Transport) { tr.DisableKeepAlives = true }

// setHTTP2 returns a step that sets http.Transport.HTTP2 to c.
func setHTTP2(c http.HTTP2Config) func(*site, *http.Transport) {
	return func(_ *site, tr *http.Transport) { tr.HTTP2 = &c }
}

// spokenTo is a RoundTripper for a protocol of the caller's, which fails with the protocol's name.
type spokenTo string

func (s spokenTo) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("spoken to " + string(s))
}

// offered returns the protocols that the client offered in its first handshake, sorted: the order
// in net/http's list depends on its version.
func (s *site) offered() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(slices.Sorted(slices.Values(s.hellos[0].SupportedProtos)), " ")
}

// limit sets the server's SETTINGS_MAX_CONCURRENT_STREAMS to n.
func (s *site) limit(n int) { s.server.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: n} }

// dialTLS returns a dialer that offers protocol and leaves the handshake to the caller.
func (s *site) dialTLS(protocol string) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := s.dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		config := h2test.ClientTLS()
		config.ServerName, config.NextProtos = "example.com", []string{protocol}
		return tls.Client(nc, config), nil
	}
}

// exportedFields returns the names of T's exported fields, each with prefix in front.
func exportedFields[T any](prefix string) (names []string) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[T]()) {
		if f.IsExported() {
			names = append(names, prefix+f.Name)
		}
	}
	return names
}

// This test fails if a later version of Go adds a field to http.Transport or http.HTTP2Config,
// until the field is either implemented or refused.
func TestEachFieldOfATransportIsHonouredOrRefused(t *testing.T) {
	doc, err := os.ReadFile("../../transport_configure.go")
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, name := range onTheWire {
		shown[name] = true
	}
	for _, name := range append(exportedFields[http.Transport](""),
		exportedFields[http.HTTP2Config]("HTTP2.")...) {
		if len(comparisons[name]) == 0 && refusedFields[name] == nil && !shown[name] {
			t.Errorf("%s is neither compared nor refused", name)
		}
		row := regexp.MustCompile(`(?m)^//\t(\w+, )?` + strings.TrimPrefix(name, "HTTP2.") + `\b`)
		if !row.Match(doc) {
			t.Errorf("%s has no row in the documentation of ConfigureTransport", name)
		}
	}
}

func TestFieldsThatCannotBeHonouredAreRefused(t *testing.T) {
	for name, set := range refusedFields {
		tr := &http.Transport{}
		set(tr)
		if err := hyper.ConfigureTransport(tr, nil); err == nil {
			t.Errorf("%s is not refused", name)
		}
		if err := hyper.ConfigureTransport(&http.Transport{}, nil); err != nil {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// A configured http.Transport does what its fields say, and is never worse than net/http.
func TestConfiguredTransportDoesWhatNetHTTPDoes(t *testing.T) {
	for field, scenarios := range comparisons {
		for _, c := range scenarios {
			t.Run(field+"/"+c.name, c.compare)
		}
	}
}
