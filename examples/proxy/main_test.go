package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"gohyper.dev/hyper"
)

func TestWhatPasses(t *testing.T) {
	var out strings.Builder
	if err := show(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{`part "three" came back`, "received map[Sum:[of 42]]",
		"interim response 103", `upgraded to websocket: "any bytes" came back`,
		"resets the stream: 502", "over 1 connections of HTTP/2"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-Forwarded-Host"))
	}))
	defer upstream.Close()
	addr := freeAddr(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, addr, upstream.URL) }()
	awaitListener(t, addr)
	resp, err := http.Get("http://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestStatusOfErrors(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	request := httptest.NewRequest("GET", "https://"+closed.Addr().String(), nil)
	_, refused := (&hyper.Transport{}).RoundTrip(request)
	for want, err := range map[int]error{
		499: context.Canceled,
		502: &hyper.StreamError{Code: hyper.ErrCodeInternal},
		503: refused,
		504: &url.Error{Err: context.DeadlineExceeded},
		429: &hyper.StreamError{Code: hyper.ErrCodeEnhanceYourCalm},
	} {
		if got := statusOf(err); got != want {
			t.Errorf("%v: %d, want %d", err, got, want)
		}
	}
}

func TestArgumentsThatAreRefused(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	var logged bytes.Buffer
	log.SetOutput(&logged)
	defer log.SetOutput(os.Stderr)
	const form = "want an http or https URL with a host, such as https://localhost:8443"
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"-to", "localhost:16443"}, "-to localhost:16443: " + form},
		{[]string{"-to", "127.0.0.1:16443"}, "-to 127.0.0.1:16443: " + form},
		{[]string{"-to", "ftp://x"}, "-to ftp://x: " + form},
		{[]string{"-to", "https://"}, "-to https://: " + form},
		{[]string{"-listen", ":0"}, "-listen needs -to"},
		{[]string{"more"}, `unexpected argument "more"`},
		{[]string{"-listen", taken.Addr().String(), "-to", "https://x"}, "listen tcp"},
	} {
		err := run(t.Context(), io.Discard, test.args)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want %q", test.args, err, test.want)
		}
	}
	if logged.Len() > 0 {
		t.Errorf("the log says %q, though nothing was served", &logged)
	}
}

// A request that is under way when serve is to end gets its response.
func TestServeFinishesRequests(t *testing.T) {
	arrived, proceed := make(chan struct{}), make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-proceed
	}))
	defer upstream.Close()
	addr := freeAddr(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended, answered := make(chan error, 1), make(chan error, 1)
	go func() { ended <- serve(ctx, addr, upstream.URL) }()
	awaitListener(t, addr)
	go func() {
		resp, err := http.Get("http://" + addr)
		if err == nil {
			resp.Body.Close()
		}
		answered <- err
	}()
	select {
	case <-arrived:
	case err := <-answered:
		t.Fatal("the upstream got no request:", err)
	}
	cancel()
	select {
	case err := <-ended:
		t.Errorf("serve returned %v before the response", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(proceed)
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

// Another attempt does not help against a certificate that is not valid, or a server without TLS.
func TestUpstreamWithoutValidTLS(t *testing.T) {
	log.SetOutput(io.Discard)
	defer log.SetOutput(os.Stderr)
	untrusted := startUpstream()
	defer untrusted.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	for _, to := range []string{untrusted.URL, strings.Replace(plain.URL, "http:", "https:", 1)} {
		upstream, err := parseUpstream(to)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		newProxy(upstream, &hyper.Transport{}).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if after := w.Header().Get("Retry-After"); w.Code != http.StatusBadGateway || after != "" {
			t.Errorf("%s: %d, Retry-After %q; want 502 without it", to, w.Code, after)
		}
	}
}

// freeAddr returns an address that nothing listens on.
func freeAddr(t *testing.T) string {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close()
	return free.Addr().String()
}

// awaitListener waits until something listens on addr.
func awaitListener(t *testing.T, addr string) {
	for tries := 0; ; tries++ {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return
		}
		if tries == 1000 {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
