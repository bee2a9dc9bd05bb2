package hypertest

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
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

// connectAllowed is the setting by which a peer allows extended CONNECT.
var connectAllowed = wire.Setting{ID: wire.SettingEnableConnectProtocol, Value: 1}

// The key of RFC 6455 §1.3, and what a server makes of it.
const (
	websocketKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	websocketAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// handshake returns req as the opening handshake of a WebSocket.
func handshake(req *http.Request) *http.Request {
	req.Header.Set("Connection", "keep-alive, Upgrade")
	req.Header.Set("Upgrade", "WebSocket")
	req.Header.Set("Sec-WebSocket-Key", websocketKey)
	req.Header.Set("Sec-WebSocket-Version", "13")
	return req
}

// eachWebSocketDoor runs test at the doors through which a WebSocket can be opened over HTTP/2. The
// door of Open is left out, because it ends the request. Over TLS, http.Transport itself serves
// WebSockets.
func eachWebSocketDoor(t *testing.T, test func(t *testing.T, v *visit)) {
	t.Helper()
	eachDoor(t, hyper.Config{KeepAlive: -1}, func(t *testing.T, v *visit) {
		if v.name == "Open" || v.name == "ConfigureTransport" {
			t.Skip("no WebSockets here")
		}
		test(t, v)
	})
}

// RFC 8441 §5.1: the handshake is an extended CONNECT with the fields of the handshake, except for
// those that an extended CONNECT replaces.
func TestWebSocketHandshakeBecomesExtendedConnect(t *testing.T) {
	eachWebSocketDoor(t, func(t *testing.T, v *visit) {
		ctx, cancel := context.WithCancel(t.Context())
		req := handshake(v.request("GET", "/chat?x=1", nil)).WithContext(ctx)
		req.Header.Set("Sec-WebSocket-Protocol", "chat")
		call := v.send(req)
		peer := v.accept(connectAllowed)
		scheme := req.URL.Scheme
		h := peer.WantHeadersExactly("the extended CONNECT", 1, ":method: CONNECT", ":scheme: "+scheme,
			":authority: example.com", ":path: /chat?x=1", ":protocol: websocket",
			"sec-websocket-protocol: chat", "sec-websocket-version: 13", "user-agent: hyper")
		if h.EndStream {
			t.Error("the request has ended")
		}
		peer.WriteHeaders(1, 0, ":status: 200", "sec-websocket-protocol: chat")
		resp := call.Want(t, "the response")
		if resp.StatusCode != 101 || resp.Status != "101 Switching Protocols" || resp.ContentLength != 0 {
			t.Errorf("status %d, %q, length %d", resp.StatusCode, resp.Status, resp.ContentLength)
		}
		want := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
			"Sec-Websocket-Accept": {websocketAccept}, "Sec-Websocket-Protocol": {"chat"}}
		for name := range want {
			if !slices.Equal(resp.Header[name], want[name]) {
				t.Errorf("%s: %q, want %q", name, resp.Header[name], want[name])
			}
		}
		// A program may limit the handshake by a context, and release it then.
		cancel()
		rw := resp.Body.(io.ReadWriteCloser)
		io.WriteString(rw, "hello")
		if got := peer.WantData("our bytes", 1, 0, 5); string(got) != "hello" {
			t.Errorf("got %q", got)
		}
		peer.WriteData(1, 0, []byte("hi"))
		h2test.ReadBytes(t, rw, 2)
		rw.Close()
		peer.WantData("an end in order", 1, wire.EndStream, 0)
		peer.WriteData(1, wire.EndStream, nil)
		peer.WantIdle("both have ended")
		if _, err := rw.Read(make([]byte, 1)); err == nil {
			t.Error("a read after Close succeeds")
		}
		if _, err := rw.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write after Close: %v", err)
		}
	})
}

// A peer that does not end its direction does not keep the stream.
func TestClosedWebSocketOfAPeerThatGoesOnIsReset(t *testing.T) {
	eachWebSocketDoor(t, func(t *testing.T, v *visit) {
		call := v.send(handshake(v.request("GET", "/", nil)))
		peer := v.accept(connectAllowed)
		peer.WantHeaders("the extended CONNECT", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		call.Want(t, "the response").Body.Close()
		begin := time.Now()
		peer.WantData("the end", 1, wire.EndStream, 0)
		peer.WriteData(1, 0, []byte("more"))
		peer.WantRSTStream("the peer does not end", 1, wire.Cancel)
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("after %v", took)
		}
	})
}

// The bytes of a WebSocket flow in both directions, and one direction may end first.
func TestWebSocketEndsInEachDirection(t *testing.T) {
	eachWebSocketDoor(t, func(t *testing.T, v *visit) {
		call := v.send(handshake(v.request("GET", "/", nil)))
		peer := v.accept(connectAllowed)
		peer.WantHeaders("the extended CONNECT", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		body := call.Want(t, "the response").Body
		body.(interface{ CloseWrite() error }).CloseWrite()
		peer.WantData("our end", 1, wire.EndStream, 0)
		peer.WriteData(1, wire.EndStream, []byte("last words"))
		h2test.WantBody(t, "the peer's bytes", body, "last words")
		body.Close()
		peer.WantIdle("nothing else is due")
	})
}

// A peer that denies the WebSocket says so with its status and a body.
func TestWebSocketDenialHasItsStatus(t *testing.T) {
	eachWebSocketDoor(t, func(t *testing.T, v *visit) {
		call := v.send(handshake(v.request("GET", "/", nil)))
		peer := v.accept(connectAllowed)
		peer.WantHeaders("the extended CONNECT", 1)
		peer.WriteHeaders(1, 0, ":status: 403", "content-type: text/plain")
		peer.WriteData(1, wire.EndStream, []byte("not you"))
		resp := call.Want(t, "the denial")
		if _, writes := resp.Body.(io.Writer); resp.StatusCode != 403 || writes {
			t.Errorf("status %d, body writes: %v", resp.StatusCode, writes)
		}
		h2test.WantBody(t, "the reason", resp.Body, "not you")
		resp.Body.Close()
		peer.WantRSTStream("nothing is sent on it", 1, wire.Cancel)
	})
}

// The Response below a 101 response is that of the peer.
func TestWebSocketShowsItsOwnResponse(t *testing.T) {
	eachWebSocketDoor(t, func(t *testing.T, v *visit) {
		call := v.send(handshake(v.request("GET", "/", nil)))
		peer := v.accept(connectAllowed)
		peer.WantHeaders("the extended CONNECT", 1)
		peer.WriteHeaders(1, 0, ":status: 200", "x-own: 1")
		resp := call.Want(t, "the response")
		own, ok := hyper.ResponseFromHTTP(resp)
		if !ok || own.StatusCode != 200 || own.Header.Get("x-own") != "1" || own.Stream().ID() != 1 {
			t.Errorf("%v, %+v", ok, own)
		}
		resp.Body.Close()
		peer.WantData("the end", 1, wire.EndStream, 0)
		peer.WriteRSTStream(1, wire.Cancel)
	})
}

// A Conn has no HTTP/1.1 to fall back to. Nothing is sent.
func TestWebSocketWithoutTheSettingIsRefusedByAConn(t *testing.T) {
	eachWebSocketDoor(t, func(t *testing.T, v *visit) {
		if !v.own && !strings.HasPrefix(v.name, "ConnRoundTrip") {
			t.Skip("it falls back")
		}
		call := v.send(handshake(v.request("GET", "/", nil)))
		peer := v.accept()
		var re *hyper.RequestError
		if err := call.WantErr(t, "no SETTINGS_ENABLE_CONNECT_PROTOCOL"); !errors.As(err, &re) ||
			re.Field != ":protocol" {
			t.Error(err)
		}
		peer.WantIdle("nothing is sent")
	})
}

// The SETTINGS that allow extended CONNECT may also lower the number of streams: WebSockets beyond
// it go to another connection.
func TestWebSocketsBeyondTheLimitUseAnotherConnection(t *testing.T) {
	eachWebSocketDoor(t, func(t *testing.T, v *visit) {
		if v.own || strings.HasPrefix(v.name, "ConnRoundTrip") {
			t.Skip("it has one connection")
		}
		const sockets = 5
		var calls []*h2test.Call[*http.Response]
		for range sockets {
			calls = append(calls, v.send(handshake(v.request("GET", "/", nil))))
		}
		peers := 0
		for left := sockets; left > 0; peers++ {
			peer := v.accept(connectAllowed, h2test.AtMost(2))
			for id := uint32(1); id <= 3 && left > 0; id += 2 {
				peer.WantHeaders("a WebSocket", id)
				peer.WriteHeaders(id, 0, ":status: 200")
				left--
			}
			synctest.Wait()
		}
		if peers != 3 {
			t.Errorf("%d connections, want 3", peers)
		}
		for _, call := range calls {
			if resp := call.Want(t, "each is open"); resp.StatusCode != 101 {
				t.Errorf("status %d", resp.StatusCode)
			}
		}
	})
}

// A handshake that is lost before its response is sent again, as other GET requests.
func TestWebSocketHandshakeIsSentAgain(t *testing.T) {
	eachWebSocketDoor(t, func(t *testing.T, v *visit) {
		if v.own || strings.HasPrefix(v.name, "ConnRoundTrip") {
			t.Skip("it sends nothing again")
		}
		call := v.send(handshake(v.request("GET", "/", nil)))
		peer := v.accept(connectAllowed)
		peer.WantHeaders("the extended CONNECT", 1)
		peer.WriteRSTStream(1, wire.RefusedStream)
		peer.WantHeaders("it was not processed", 3, ":protocol: websocket")
		peer.WriteHeaders(3, 0, ":status: 200")
		if resp := call.Want(t, "the response"); resp.StatusCode != 101 {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
}

// ResponseHeaderTimeout counts from the handshake: the request of a WebSocket does not end.
func TestWebSocketHandshakeHasATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := h2test.Pipe()
		dial := func(context.Context, string, string) (net.Conn, error) { return client, nil }
		tr := &hyper.Transport{Proxy: hyper.NoProxy, UnencryptedHTTP2: true,
			ResponseHeaderTimeout: time.Second, Config: &hyper.Config{KeepAlive: -1, DialContext: dial}}
		peer := h2test.NewPeer(t, server)
		call := h2test.Go(func() (*http.Response, error) {
			return tr.RoundTrip(handshake(httpRequest(t, "GET", "http://example.com/", nil)))
		})
		peer.Handshake(connectAllowed)
		peer.WantHeaders("the extended CONNECT", 1)
		begin := time.Now()
		var waited *hyper.WaitError
		if err := call.WantErr(t, "the timeout"); !errors.As(err, &waited) {
			t.Error(err)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("after %v", took)
		}
		peer.WantRSTStream("the peer is told", 1, wire.Cancel)
	})
}

// The hooks of httptrace see a handshake as they see a request without a body.
func TestWebSocketHandshakeIsTraced(t *testing.T) {
	eachWebSocketDoor(t, func(t *testing.T, v *visit) {
		if v.own {
			t.Skip("it has no hooks")
		}
		var seen []string
		trace := &httptrace.ClientTrace{
			WroteHeaders:         func() { seen = append(seen, "headers") },
			WroteRequest:         func(httptrace.WroteRequestInfo) { seen = append(seen, "request") },
			GotFirstResponseByte: func() { seen = append(seen, "response") },
		}
		req := handshake(v.request("GET", "/", nil))
		call := v.send(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
		peer := v.accept(connectAllowed)
		peer.WantHeaders("the extended CONNECT", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		call.Want(t, "the response").Body.Close()
		if want := []string{"headers", "request", "response"}; !slices.Equal(seen, want) {
			t.Errorf("called %q, want %q", seen, want)
		}
		peer.WantData("the end", 1, wire.EndStream, 0)
		peer.WriteData(1, wire.EndStream, nil)
	})
}

// What only looks like the handshake of a WebSocket is not one. A Conn refuses it, and a Transport
// leaves it to HTTP/1.1.
func TestOtherUpgradesAreNotCarriedOverHTTP2(t *testing.T) {
	for name, change := range map[string]func(*http.Request){
		"no key":             func(r *http.Request) { r.Header.Del("Sec-WebSocket-Key") },
		"no Connection":      func(r *http.Request) { r.Header.Set("Connection", "close") },
		"another method":     func(r *http.Request) { r.Method = "POST" },
		"another protocol":   func(r *http.Request) { r.Header.Set("Upgrade", "spdy/3.1") },
		"a second protocol":  func(r *http.Request) { r.Header.Add("Upgrade", "spdy/3.1") },
		"a body":             func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("x")) },
		"part of an option":  func(r *http.Request) { r.Header.Set("Connection", "x-Upgrade") },
		"a key without text": func(r *http.Request) { r.Header.Set("Sec-WebSocket-Key", "") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil, connectAllowed)
				req := handshake(httpRequest(t, "GET", "https://example.com/", nil))
				change(req)
				_, err := conn.RoundTrip(req)
				var re *hyper.RequestError
				if !errors.As(err, &re) || re.Field != "upgrade" {
					t.Error(err)
				}
				peer.WantIdle("nothing is sent")
			})
		})
	}
}

// echoHTTP1 serves a WebSocket handshake in HTTP/1.1, and echoes one line.
func echoHTTP1(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || r.Header.Get("Upgrade") == "" {
		io.WriteString(w, r.Proto)
		return
	}
	nc, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer nc.Close()
	io.WriteString(nc,
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	line, _ := rw.ReadString('\n')
	io.WriteString(nc, r.Proto+" "+line)
}

// A host that speaks HTTP/2 and does not allow extended CONNECT is asked once in five minutes.
// Between, WebSockets go to HTTP/1.1 at once. A host without HTTP/2 gets no further connection.
func TestWebSocketFallsBackToHTTP1(t *testing.T) {
	for _, protos := range [][]string{{"h2", "http/1.1"}, {"http/1.1"}} {
		srv, dials := h2test.HTTP1Server(t, echoHTTP1, "http/1.1")
		if protos[0] == "h2" {
			srv = httptest.NewUnstartedServer(http.HandlerFunc(echoHTTP1))
			dials = &h2test.Counter{Listener: srv.Listener}
			srv.Listener, srv.TLS, srv.EnableHTTP2 = dials, h2test.ServerTLS(), true
			srv.StartTLS()
			t.Cleanup(srv.Close)
		}
		tr := &hyper.Transport{Proxy: hyper.NoProxy, Config: &hyper.Config{TLS: h2test.ClientTLS()}}
		for i := range 3 {
			req, _ := http.NewRequest("GET", srv.URL, nil)
			resp, err := tr.RoundTrip(handshake(req))
			if err != nil || resp.StatusCode != 101 {
				t.Fatalf("%v, try %d: %v, %v", protos, i, resp, err)
			}
			rw := resp.Body.(io.ReadWriteCloser)
			io.WriteString(rw, "hello\n")
			h2test.WantBody(t, "in HTTP/1.1", rw, "HTTP/1.1 hello\n")
			rw.Close()
			tr.CloseIdleConnections()
		}
		want := int64(3) // one for each WebSocket
		if protos[0] == "h2" {
			want++
		}
		if got := dials.Accepted.Load(); got != want {
			t.Errorf("%v: %d connections, want %d", protos, got, want)
		}
	}
}

// http.Client and httputil.ReverseProxy use a WebSocket over HTTP/2 as they use one over HTTP/1.1.
func TestReverseProxyHandsWebSocketsToHTTP2(t *testing.T) {
	client, server := h2test.Pipe()
	tr := &hyper.Transport{Proxy: hyper.NoProxy, UnencryptedHTTP2: true,
		Config: &hyper.Config{DialContext: func(context.Context, string, string) (net.Conn, error) {
			return client, nil
		}}}
	t.Cleanup(tr.CloseIdleConnections)
	peer := h2test.NewPeer(t, server)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "example.com"})
	proxy.Transport = tr
	front := httptest.NewServer(proxy)
	defer front.Close()
	nc, err := net.Dial("tcp", front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	req, _ := http.NewRequest("GET", front.URL+"/chat", nil)
	if err := handshake(req).Write(nc); err != nil {
		t.Fatal(err)
	}
	peer.Handshake(connectAllowed)
	peer.WantHeaders("the extended CONNECT", 1, ":path: /chat", ":protocol: websocket")
	peer.WriteHeaders(1, 0, ":status: 200")
	br := bufio.NewReader(nc)
	resp, err := http.ReadResponse(br, req)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != websocketAccept {
		t.Fatalf("%+v, %v", resp, err)
	}
	io.WriteString(nc, "hello")
	peer.WantData("through both", 1, 0, 5)
	peer.WriteData(1, 0, []byte("hi"))
	h2test.ReadBytes(t, br, 2)
}
