package interop

import (
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"testing"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// startApacheHosts starts three hosts that share one certificate, and returns their port. The TLS
// configuration of three.example.com differs from that of one.example.com and two.example.com.
func startApacheHosts(t *testing.T) (port string) {
	path, c := find(t, "apache2", "httpd"), newSetup(t, newSite(t))
	c.Modules = apacheModules(t, "mpm_event", "unixd", "log_config", "authz_core", "mime", "headers",
		"socache_shmcb", "ssl", "http2")
	launch(t, c.Port, path, "-DFOREGROUND", "-f", c.write(t, "hosts.conf"))
	return c.Port
}

// getFrom sends a request to a host. It returns the response and the connection that was used.
func getFrom(t *testing.T, rt http.RoundTripper, host, port string) (*http.Response, net.Conn) {
	t.Helper()
	var on net.Conn
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { on = info.Conn },
	})
	req, err := http.NewRequestWithContext(ctx, "GET", "https://"+host+":"+port+"/small.txt", nil)
	check(t, err)
	resp, err := rt.RoundTrip(req)
	check(t, err)
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	check(t, err)
	return resp, on
}

// TestCoalescingAtApache checks that requests for two hosts with the same TLS configuration share a
// connection. For a host with another TLS configuration, Apache responds on that connection with
// 421 (Misdirected Request).
func TestCoalescingAtApache(t *testing.T) {
	port := startApacheHosts(t)
	zone := h2test.NewZone()
	for _, host := range []string{"one.example.com", "two.example.com", "three.example.com"} {
		zone.Set(host, "127.0.0.1")
	}
	defer zone.Use()()
	cfg := &hyper.Config{TLS: h2test.ClientTLS()}
	tr := &hyper.Transport{Coalesce: true, Proxy: hyper.NoProxy, Config: cfg}
	defer tr.CloseIdleConnections()
	conns := make(map[string]net.Conn)
	for _, name := range []string{"one", "two", "three"} {
		resp, on := getFrom(t, tr, name+".example.com", port)
		if conns[name] = on; resp.StatusCode != 200 || resp.Header.Get("Served-By") != name {
			t.Errorf("%s: %s, served by %q", name, resp.Status, resp.Header.Get("Served-By"))
		}
	}
	if conns["two"] != conns["one"] {
		t.Error("two.example.com has a connection of its own")
	}
	if conns["three"] == conns["one"] {
		t.Error("three.example.com was served on the connection of one.example.com")
	}
	if resp := misdirected(t, port); resp.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("on one connection, without a second try: %s", resp.Status)
	}
}

// misdirected returns the response to a request for three.example.com that was sent on a connection
// for one.example.com.
func misdirected(t *testing.T, port string) *http.Response {
	conn, err := hyper.Dial(t.Context(), "one.example.com:"+port, &hyper.Config{TLS: h2test.ClientTLS()})
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	for _, host := range []string{"one", "three"} {
		url := "https://" + host + ".example.com:" + port + "/small.txt"
		req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
		check(t, err)
		resp, err := conn.RoundTrip(req)
		check(t, err)
		t.Cleanup(func() { resp.Body.Close() })
		if host == "three" {
			return resp
		}
	}
	return nil
}
