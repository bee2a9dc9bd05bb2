package hypertest

import (
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

// headerServer starts a server. The path of a request, /bytes/fields, says how large the header of
// the response is. With the query "slow" the body comes half a second later.
func headerServer(t *testing.T, cleartext bool) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var size, fields int
			fmt.Sscanf(r.URL.Path, "/%d/%d", &size, &fields)
			for i := range fields {
				w.Header().Set(fmt.Sprint("X-Large-", i), strings.Repeat("v", size/fields))
			}
			if r.URL.RawQuery == "slow" {
				time.Sleep(500 * time.Millisecond)
			}
			io.WriteString(w, "body")
		}),
		TLSConfig: h2test.ServerTLS(), ErrorLog: log.New(io.Discard, "", 0), Protocols: new(http.Protocols),
	}
	srv.Protocols.SetUnencryptedHTTP2(true)
	srv.Protocols.SetHTTP2(true)
	if cleartext {
		go srv.Serve(ln)
	} else {
		go srv.ServeTLS(ln, "", "")
	}
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().String()
}

// largeDoors returns the doors of tests that handle so much data that the race detector makes them
// very slow: all doors, or two under the race detector.
func largeDoors() (some []door) {
	for _, d := range doors {
		if !h2test.Race || d.name == "Dial" || d.name == "TransportCleartext" {
			some = append(some, d)
		}
	}
	return some
}

// realDoors runs test at largeDoors against a server on the loopback interface. Without the race
// detector it also runs test with net/http.
func realDoors(t *testing.T, cfg hyper.Config, test func(t *testing.T,
	get func(path string) (*http.Response, error), netHTTP bool)) {
	netHTTPDoor := door{name: "net/http", enter: func(t *testing.T, dial dialFunc,
		cfg hyper.Config) http.RoundTripper {
		tr := &http.Transport{DialContext: dial, TLSClientConfig: clientTLS(&cfg), ForceAttemptHTTP2: true}
		t.Cleanup(tr.CloseIdleConnections)
		return tr
	}}
	all := largeDoors()
	if !h2test.Race {
		all = append(all, netHTTPDoor)
	}
	for _, d := range all {
		t.Run(d.name, func(t *testing.T) {
			addr := headerServer(t, d.cleartext)
			scheme := "https"
			if d.cleartext {
				scheme = "http"
			}
			rt := d.enter(t, balancer([]string{addr}), cfg)
			test(t, func(path string) (*http.Response, error) {
				req, err := http.NewRequest("GET", scheme+"://example.com"+path, nil)
				if err != nil {
					return nil, err
				}
				return rt.RoundTrip(req)
			}, d.name == netHTTPDoor.name)
		})
	}
}

// By default, a header that net/http accepts is accepted. A larger one ends only its stream.
func TestLargeHeadersThroughEveryDoor(t *testing.T) {
	realDoors(t, hyper.Config{}, func(t *testing.T, get func(string) (*http.Response, error), netHTTP bool) {
		for _, size := range []int{500_000, 9_000_000} {
			for _, fields := range []int{1, 100} {
				resp, err := get(fmt.Sprintf("/%d/%d", size, fields))
				if err != nil {
					t.Fatalf("%d bytes in %d fields: %v", size, fields, err)
				}
				got := 0
				for name, values := range resp.Header {
					if strings.HasPrefix(name, "X-Large-") {
						got += len(values[0])
					}
				}
				if got != size/fields*fields {
					t.Errorf("%d bytes in %d fields: got %d", size, fields, got)
				}
				h2test.WantBody(t, "the body", resp.Body, "body")
				resp.Body.Close()
			}
		}
		other, err := get("/0/0?slow")
		if err != nil {
			t.Fatal(err)
		}
		for size, counts := range map[int][]int{11_000_000: {1, 100}, 25_000_000: {1}} {
			for _, fields := range counts {
				_, err = get(fmt.Sprintf("/%d/%d", size, fields))
				if netHTTP {
					if err == nil {
						t.Errorf("net/http takes %d bytes in %d fields", size, fields)
					}
					continue
				}
				var tooLarge *hyper.HeaderSizeError
				var stream *hyper.StreamError
				if !errors.As(err, &tooLarge) || !errors.As(err, &stream) || tooLarge.Limit != 10<<20 ||
					tooLarge.Size <= 10<<20 {
					t.Errorf("%d bytes in %d fields: %v", size, fields, err)
				}
			}
		}
		if !netHTTP { // net/http loses the connection, and this body with it
			h2test.WantBody(t, "the other stream", other.Body, "body")
		}
		other.Body.Close()
	})
}

// The memory for the headers of all responses of a connection is bounded. A response that does not
// fit fails without affecting the others.
func TestLargeHeadersOfManyStreamsAreBounded(t *testing.T) {
	bounded := func(t *testing.T, cfg hyper.Config, most, size, streams int) {
		realDoors(t, cfg, func(t *testing.T, get func(string) (*http.Response, error), netHTTP bool) {
			if netHTTP {
				return // net/http has no such limit
			}
			other, err := get("/0/0?slow")
			if err != nil {
				t.Fatal(err)
			}
			var taken, refused atomic.Int64
			open := make(chan *http.Response, streams)
			var wg sync.WaitGroup
			for range streams {
				wg.Go(func() {
					resp, err := get(fmt.Sprintf("/%d/1", size))
					var tooLarge *hyper.HeaderSizeError
					switch {
					case err == nil:
						taken.Add(1)
						open <- resp // its body is read later
					case errors.As(err, &tooLarge) && tooLarge.Held > 0 &&
						errors.Is(err, hyper.ErrCodeEnhanceYourCalm):
						refused.Add(1)
					default:
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if n := taken.Load(); n < 1 || n > int64(most/size) || n+refused.Load() != int64(streams) {
				t.Errorf("%d headers of %d bytes were taken, %d refused", n, size, refused.Load())
			}
			h2test.WantBody(t, "another stream", other.Body, "body")
			close(open)
			for resp := range open {
				resp.Body.Close()
			}
			resp, err := get(fmt.Sprintf("/%d/1", size))
			if err != nil {
				t.Fatalf("when the others have ended: %v", err)
			}
			resp.Body.Close()
		})
	}
	t.Run("small", func(t *testing.T) {
		bounded(t, hyper.Config{MaxHeaderMemory: 4 << 20}, 4<<20, 500_000,
			30)
	})
	t.Run("by default", func(t *testing.T) {
		if h2test.Race {
			t.Skip("the race detector makes it take 40 seconds, for the same code as above")
		}
		saved := doors
		defer func() { doors = saved }()
		doors = doors[:1]
		bounded(t, hyper.Config{}, 64<<20, 5_000_000, 30)
	})
}
