package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
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
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, addr, upstream.URL) }()
	for tries := 0; ; tries++ {
		resp, err := http.Get("http://" + addr)
		if err == nil {
			resp.Body.Close()
			break
		}
		if tries == 1000 {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
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
