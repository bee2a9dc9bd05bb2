package main

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gohyper.dev/hyper/internal/h2test"
)

func TestRequestsAreRepeatedOnANewConnection(t *testing.T) {
	eachServer(t, func(t *testing.T, s *testServer) {
		// The handler of the first request ends its connection when the response has been sent.
		var n atomic.Int64
		inner := s.Config.Handler
		s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) == 1 {
				w.Header().Set("Connection", "close") // net/http sends GOAWAY
			}
			inner.ServeHTTP(w, r)
		})
		args := []string{}
		for range 30 {
			args = append(args, s.URL+"/echo/x")
		}
		exit, out, errs := s.get(t, append([]string{"-d", "content"}, args...)...)
		echoed := strings.Count(out, "\n\ncontent")
		if exit != exitOK || echoed != 30 || s.conns() < 2 {
			t.Errorf("exit %d, %d responses, %d connections, %q", exit, echoed, s.conns(), errs)
		}
	})
}

func TestInterrupt(t *testing.T) {
	s := startServer(t, true)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, cancel)
	var out, errs h2test.Buffer
	exit := run(ctx, []string{"-k", s.URL + "/slow"}, stdio{strings.NewReader(""), &out, &errs})
	if exit != exitFailed || !strings.Contains(errs.String(), "interrupted") {
		t.Errorf("exit %d, %q", exit, errs.String())
	}
}
