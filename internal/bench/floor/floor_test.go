package floor

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// serverAddr starts the server and returns its address.
func serverAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go Serve(l, h2test.ServerTLS("h2"))
	return l.Addr().String()
}

// hyperClient returns a client of hyper.
func hyperClient(t *testing.T) *http.Client {
	t.Helper()
	tr := &hyper.Transport{Config: &hyper.Config{TLS: h2test.ClientTLS()}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// TestConnGetsWholeBodies has many callers on one connection.
func TestConnGetsWholeBodies(t *testing.T) {
	c, err := Dial(serverAddr(t), "/1k", 50, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			call := NewCall(2048)
			for range 20 {
				if n, err := c.Get(call); n != 1024 || err != nil {
					t.Errorf("%d bytes, %v", n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	c.Close()
	if _, err := c.Get(NewCall(0)); err == nil {
		t.Error("a closed connection serves requests")
	}
}

// TestTransportHasNetHTTPsTypes compares the response with that of hyper.
func TestTransportHasNetHTTPsTypes(t *testing.T) {
	addr := serverAddr(t)
	tr, err := NewTransport(addr, 10, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	for _, path := range []string{"/1k", "/0", "/fields?n=30", "/frames?size=100&n=50"} {
		var got [2]string
		for i, rt := range []http.RoundTripper{tr, hyperClient(t).Transport} {
			req, _ := http.NewRequest("GET", "https://"+addr+path, nil)
			resp, err := rt.RoundTrip(req)
			if err != nil {
				t.Fatal(path, err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != 200 || resp.Request != req {
				t.Errorf("%s: %v, %v", path, resp, err)
			}
			var b strings.Builder
			resp.Header.Write(&b)
			got[i] = b.String() + string(body)
		}
		if got[0] != got[1] || got[0] == "" {
			t.Errorf("%s: %q, hyper has %q", path, got[0], got[1])
		}
	}
	tr.Close()
	req, _ := http.NewRequest("GET", "https://"+addr+"/0", nil)
	if _, err := tr.RoundTrip(req); err == nil {
		t.Error("a closed connection serves requests")
	}
}

func TestDownCountsAllBytes(t *testing.T) {
	n, err := Down(serverAddr(t), "/frames?size=16384&n=1000", 2, nil)
	if err != nil || n != 2*16384*1000 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestServerKeepsToTheWindows reads slowly through hyper, which checks what the server sends.
func TestServerKeepsToTheWindows(t *testing.T) {
	addr := serverAddr(t)
	resp, err := hyperClient(t).Get("https://" + addr + "/frames?size=10000&n=1000")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); n != 10000*1000 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestServerSendsGRPCBack(t *testing.T) {
	addr := serverAddr(t)
	text := strings.Repeat("x", 100_000)
	resp, err := hyperClient(t).Post("https://"+addr+"/a/b", "application/grpc+proto",
		strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if string(body) != text || err != nil {
		t.Errorf("%d bytes, %v", len(body), err)
	}
	if resp.Header.Get("Content-Type") != "application/grpc+proto" || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("%v, %v", resp.Header, resp.Trailer)
	}
}
