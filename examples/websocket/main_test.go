package main

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"gohyper.dev/hyper"
)

// TestMain is main where the program is started as the server.
func TestMain(m *testing.M) {
	if os.Getenv(serveVariable) != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestMembersShareOneConnection(t *testing.T) {
	for _, n := range []int{1, 3, 100} {
		var out strings.Builder
		if err := run(t.Context(), &out, n); err != nil {
			t.Fatalf("%d members: %v\n%s", n, err, out.String())
		}
		for _, want := range []string{
			fmt.Sprintf("member %d joins over HTTP/2.0", n),
			fmt.Sprintf("%d members receive \"hello from member %d\"", n, n),
			"denies /private: 403 Forbidden",
			fmt.Sprintf("%d WebSockets over 1 connection\n", n),
		} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("no %q in\n%s", want, out.String())
			}
		}
	}
}

// A server without WebSockets over HTTP/2 gets the handshake over HTTP/1.1.
func TestServerWithoutExtendedConnect(t *testing.T) {
	server := httptest.NewUnstartedServer(&chat{})
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	transport := &hyper.Transport{Config: &hyper.Config{TLS: &tls.Config{InsecureSkipVerify: true}}}
	defer transport.CloseIdleConnections()
	var out strings.Builder
	if err := deny(t.Context(), &out, &http.Client{Transport: transport}, server.URL); err != nil {
		t.Fatal(err)
	}
	if want := "the server denies /private: 426 Upgrade Required\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	if n := transport.Stats().HTTP1Requests; n != 1 {
		t.Errorf("%d requests over HTTP/1.1", n)
	}
}

func TestArguments(t *testing.T) {
	if n, err := parse([]string{"-n", "4"}); n != 4 || err != nil {
		t.Errorf("-n 4: %d, %v", n, err)
	}
	for args, want := range map[string]string{
		"-n -1":     "-n -1: want 1 or more",
		"-n 0":      "-n 0: want 1 or more",
		"-n 4 more": `unexpected argument "more"`,
	} {
		if _, err := parse(strings.Fields(args)); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}
