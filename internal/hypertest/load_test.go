// This file tests a Transport under load.

package hypertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// A ledger counts how often each request was processed.
type ledger struct {
	mu   sync.Mutex
	seen map[string]int
}

func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	id := r.Header.Get("X-Id")
	l.mu.Lock()
	l.seen[id]++
	l.mu.Unlock()
	fmt.Fprintf(w, "%s %d", id, len(body))
}

func (l *ledger) count(id string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[id]
}

// serveUntil serves on addr until stop is called, which shuts the server down or closes it at once.
func serveUntil(t *testing.T, addr string, h http.Handler) (at string, stop func(orderly bool)) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	for range 1000 { // the port may still be in use for a moment
		if err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
		ln, err = net.Listen("tcp", addr)
	}
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, TLSConfig: h2test.ServerTLS(), ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.ServeTLS(ln, "", "")
	}()
	return ln.Addr().String(), func(orderly bool) {
		if orderly {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			srv.Shutdown(ctx)
		}
		srv.Close()
		<-done
	}
}

func TestServerRestartedUnderLoad(t *testing.T) {
	books := &ledger{seen: map[string]int{}}
	addr, stop := serveUntil(t, "127.0.0.1:0", books)
	tr := &hyper.Transport{Proxy: hyper.NoProxy, Config: &hyper.Config{TLS: h2test.ClientTLS()}}
	defer tr.CloseIdleConnections()
	over := make(chan struct{})
	var served, failed, refused atomic.Int64
	var wg sync.WaitGroup
	for caller := range 16 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-over:
					return
				default:
				}
				id := fmt.Sprint(caller, "-", n)
				size := (n % 5) * 20_000
				var body io.Reader
				switch {
				case n%3 == 1:
					body = strings.NewReader(strings.Repeat("x", size))
				case n%3 == 2:
					// This body cannot be read a second time.
					body = iotestReader{strings.NewReader(strings.Repeat("x", size))}
				default:
					size = 0
				}
				req, err := http.NewRequest([]string{"GET", "POST", "POST"}[n%3], "https://"+addr, body)
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("X-Id", id)
				got, _, err := h2test.Fetch(tr, req)
				times := books.count(id)
				if req.Method == "GET" { // it may be processed once in each try
					if times > 1+maxLost {
						t.Errorf("%s: it was processed %d times", id, times)
					}
					times = min(times, 1)
				}
				var op *net.OpError
				switch {
				case err == nil && (times != 1 || got != fmt.Sprint(id, " ", size)):
					t.Errorf("%s: got %q, and it was processed %d times", id, got, times)
				case err == nil:
					served.Add(1)
				case times > 1:
					t.Errorf("%s: it was processed %d times, with the error %v", id, times, err)
				case times > 0 && hyper.Retryable(err):
					t.Errorf("%s: it was processed, and the error says it was not: %v", id, err)
				case times > 0 && errors.As(err, &op) && op.Op == "dial":
					t.Errorf("%s: it was processed, and the error says that no server was reached: %v", id,
						err)
				case errors.As(err, &op) && op.Op == "dial":
					refused.Add(1)
					time.Sleep(time.Millisecond)
				default:
					failed.Add(1)
				}
			}
		})
	}
	for i := range 6 {
		before := served.Load()
		for deadline := time.Now().Add(30 * time.Second); served.Load() < before+200 &&
			time.Now().Before(deadline); {
			time.Sleep(5 * time.Millisecond)
		}
		if served.Load() < before+200 {
			t.Errorf("%d requests were served after restart %d", served.Load()-before, i)
		}
		stop(i%2 == 0)
		_, stop = serveUntil(t, addr, books)
	}
	close(over)
	wg.Wait()
	stop(false)
	t.Logf("%d served, %d failed, %d found no server", served.Load(), failed.Load(), refused.Load())
}
