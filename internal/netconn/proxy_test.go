package netconn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper/internal/h2test"
)

// connectTo returns a CONNECT for addr.
func connectTo(addr string) *http.Request {
	return &http.Request{Method: "CONNECT", URL: &url.URL{Opaque: addr}, Host: addr,
		Header: http.Header{"Proxy-Authorization": {"Basic YTpi"}}}
}

// acceptOK accepts a response with the status 200.
func acceptOK(resp *http.Response) error {
	if resp.StatusCode != 200 {
		return errors.New(resp.Status)
	}
	return nil
}

// maxHeader is the limit for the proxy's response in these tests.
const maxHeader = 1 << 10

// connectAnd runs Connect with a proxy that has already sent answer and its end, in reads of chunk
// bytes at most.
func connectAnd(answer []byte, chunk int) (tunnel net.Conn, server *h2test.Conn, err error) {
	client, server := h2test.Pipe()
	client.SetChunk(chunk)
	server.Write(answer)
	server.CloseWrite()
	tunnel, err = Connect(client, connectTo("example.com:443"), maxHeader, acceptOK)
	return tunnel, server, err
}

// RFC 9110 §9.3.6: after a 2xx response to CONNECT, the connection is a tunnel.
func TestConnectOpensATunnel(t *testing.T) {
	const header = "HTTP/1.1 200 Connected\r\nVia: a\r\n\r\n"
	for _, early := range []string{"", "the first bytes of the other end"} {
		for _, chunk := range []int{1, 7, 1 << 20} {
			tunnel, server, err := connectAnd([]byte(header+early), chunk)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(tunnel); string(got) != early || err != nil {
				t.Errorf("the tunnel has %q, %v, want %q", got, err, early)
			}
			if _, ok := tunnel.(*h2test.Conn); early == "" && !ok {
				t.Errorf("the tunnel is a %T", tunnel)
			}
			CloseWriteAll(tunnel)
			sent, err := io.ReadAll(server)
			if want := "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n" +
				"User-Agent: Go-http-client/1.1\r\nProxy-Authorization: Basic YTpi\r\n\r\n"; string(sent) !=
				want ||
				err != nil {
				t.Errorf("the proxy got %q, %v", sent, err)
			}
		}
	}
}

func TestConnectFails(t *testing.T) {
	for name, answer := range map[string]string{
		"refused":            "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
		"refused with body":  "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 1000000\r\n\r\nno",
		"nothing":            "",
		"half a header":      "HTTP/1.1 200 OK\r\nVia",
		"another protocol":   "SSH-2.0-OpenSSH_9.2\r\n\r\n",
		"header is too long": "HTTP/1.1 200 OK\r\nVia: " + strings.Repeat("x", maxHeader) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			if tunnel, _, err := connectAnd([]byte(answer), 1<<20); err == nil || tunnel != nil {
				t.Errorf("the result: %v, %v", tunnel, err)
			}
		})
	}
	long := "HTTP/1.1 200 OK\r\nVia: " + strings.Repeat("x", maxHeader)
	_, _, err := connectAnd([]byte(long), 1<<20)
	const want = "hyper: the header of the proxy's response exceeds 1024 bytes"
	if err == nil || err.Error() != want {
		t.Errorf("a header that is too long: %v, want %s", err, want)
	}
	client, _ := h2test.Pipe()
	failure := errors.New("broken")
	client.BreakWriteAfter(0, failure)
	if _, err := Connect(client, connectTo("example.com:443"), maxHeader, acceptOK); !errors.Is(err,
		failure) {
		t.Errorf("a failed write: %v", err)
	}
}

// FuzzConnect checks that Connect takes exactly the header from the connection, however it arrives,
// and no more than its limit.
func FuzzConnect(f *testing.F) {
	for _, answer := range []string{
		"HTTP/1.1 200 Connected\r\n\r\n", "HTTP/1.0 200\n\nearly",
		"HTTP/1.1 200 OK\r\nVia: a\r\n b\r\n\r\n\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 407 No\r\n\r\n", "HTTP/1.1 200 OK\r\nVia: " + strings.Repeat("x", 2*maxHeader) + "\r\n\r\n",
	} {
		f.Add([]byte(answer), uint16(1))
		f.Add([]byte(answer), uint16(5000))
	}
	f.Fuzz(func(t *testing.T, answer []byte, chunk uint16) {
		tunnel, _, err := connectAnd(answer, int(chunk)+1)
		if err != nil {
			return
		}
		rest, err := io.ReadAll(tunnel)
		if err != nil || !bytes.HasSuffix(answer, rest) {
			t.Fatalf("the tunnel has %q, %v, which is not the end of %q", rest, err, answer)
		}
		header := strings.ReplaceAll(string(answer[:len(answer)-len(rest)]), "\r\n", "\n")
		if len(answer)-len(rest) > maxHeader || !strings.HasPrefix(header, "HTTP/") ||
			strings.Index(header, "\n\n") != len(header)-2 {
			t.Errorf("%q is no header", header)
		}
	})
}

// socksServer plays a SOCKS5 server (RFC 1928) without authentication. It responds with reply, and
// then echoes.
func socksServer(nc net.Conn, reply byte) (asked []byte) {
	greeting := make([]byte, 3)
	io.ReadFull(nc, greeting)
	nc.Write([]byte{5, 0})
	head := make([]byte, 5)
	io.ReadFull(nc, head)
	name := make([]byte, int(head[4])+2)
	io.ReadFull(nc, name)
	nc.Write([]byte{5, reply, 0, 1, 0, 0, 0, 0, 0, 0})
	if reply != 0 {
		nc.Close()
	}
	return name
}

func TestDialSOCKSReturnsTheConnectionItself(t *testing.T) {
	for _, reply := range []byte{0, 5} { // success, connection refused
		synctest.Test(t, func(t *testing.T) {
			client, server := h2test.Pipe()
			asked := make(chan []byte, 1)
			go func() { asked <- socksServer(server, reply) }()
			dial := func(_ context.Context, network, addr string) (net.Conn, error) {
				if network != "tcp" || addr != "proxy.example:1080" {
					t.Errorf("dialed %s %s", network, addr)
				}
				return client, nil
			}
			u := &url.URL{Scheme: "socks5", Host: "proxy.example:1080"}
			nc, err := DialSOCKS(t.Context(), dial, u, "example.com:443")
			if got := <-asked; string(got) != "example.com\x01\xbb" {
				t.Errorf("the proxy was asked for %q", got)
			}
			if reply == 0 && (nc != net.Conn(client) || err != nil) || reply != 0 &&
				(nc != nil || err == nil) {
				t.Errorf("reply %d: %v, %v", reply, nc, err)
			}
		})
	}
}

func TestDialSOCKSFails(t *testing.T) {
	failure := errors.New("no route")
	dial := func(context.Context, string, string) (net.Conn, error) { return nil, failure }
	u := &url.URL{Scheme: "socks5", Host: "proxy.example:1080"}
	if nc, err := DialSOCKS(t.Context(), dial, u, "example.com:443"); nc != nil || !errors.Is(err, failure) {
		t.Errorf("a failed dial: %v, %v", nc, err)
	}
	u.Scheme = "gopher"
	if nc, err := DialSOCKS(t.Context(), dial, u, "example.com:443"); nc != nil || err == nil {
		t.Errorf("another scheme: %v, %v", nc, err)
	}
}

// The proxy package needs a Dialer, of which it calls DialContext.
func TestDialFuncIsADialer(t *testing.T) {
	client, _ := h2test.Pipe()
	dial := DialFunc(func(ctx context.Context, network, addr string) (net.Conn, error) {
		if ctx != context.Background() || network != "tcp" || addr != "example.com:443" {
			t.Errorf("dialed %s %s", network, addr)
		}
		return client, nil
	})
	if nc, err := dial.Dial("tcp", "example.com:443"); nc != net.Conn(client) || err != nil {
		t.Errorf("Dial: %v, %v", nc, err)
	}
}
