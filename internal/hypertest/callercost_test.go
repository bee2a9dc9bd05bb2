// This file tests what an exchange of a hyper.Caller allocates.

package hypertest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// A countedReads counts the calls of Read.
type countedReads struct {
	net.Conn
	reads *atomic.Int64
}

func (c countedReads) Read(p []byte) (int, error) {
	c.reads.Add(1)
	return c.Conn.Read(p)
}

// cannedTLS is cannedConn over TLS. reads counts the reads of both sockets.
func cannedTLS(t *testing.T, reads *atomic.Int64) *hyper.Conn {
	t.Helper()
	client, server := net.Pipe()
	go cannedServer(h2test.TLSServer(countedReads{server, reads}, "h2"), h2test.ResponseBlock(),
		make([]byte, 1024))
	conn, err := hyper.Dial(t.Context(), "example.com", &hyper.Config{TLS: h2test.ClientTLS(),
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return countedReads{client, reads}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Close()
	})
	return conn
}

// An exchange of a Caller allocates nothing, in cleartext and over TLS, also with a body in memory
// or one that is written. crypto/tls allocates 24 bytes for each read of a socket, however many
// exchanges it serves; the server here does the same.
func TestExchangeOfACallerAllocatesNothing(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	content := []byte(strings.Repeat("x", 500))
	body, text := bytes.NewReader(content), strings.NewReader(string(content))
	header := hyper.Header{{Name: "content-type", Value: "text/plain"}, {Name: "x-id", Value: "1"}}
	ctx, buf := context.Background(), make([]byte, 2048)
	for name, exchange := range map[string]func(k *hyper.Caller) (*hyper.Response, error){
		"Get": func(k *hyper.Caller) (*hyper.Response, error) { return k.Get(ctx, "/") },
		"GET": func(k *hyper.Caller) (*hyper.Response, error) {
			return k.Do(ctx, &hyper.Request{Path: "/", Header: header})
		},
		"POST of bytes": func(k *hyper.Caller) (*hyper.Response, error) {
			return k.Do(ctx, &hyper.Request{Method: "POST", Body: body})
		},
		"POST of a string": func(k *hyper.Caller) (*hyper.Response, error) {
			return k.Do(ctx, &hyper.Request{Method: "POST", Header: header, Body: text})
		},
		"Open": func(k *hyper.Caller) (*hyper.Response, error) {
			s, err := k.Open(ctx, &hyper.Request{Method: "POST"})
			if err != nil {
				return nil, err
			}
			if _, err := s.Write(content); err != nil {
				return nil, err
			}
			if err := s.CloseWrite(); err != nil {
				return nil, err
			}
			return s.Response(ctx)
		},
	} {
		for _, cleartext := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/cleartext=%v", name, cleartext), func(t *testing.T) {
				var reads atomic.Int64
				k := &hyper.Caller{}
				if cleartext {
					k.Conn = cannedConn(t, &hyper.Config{Authority: "example.com"})
				} else {
					k.Conn = cannedTLS(t, &reads)
				}
				exchanges, before := 0, int64(0)
				times, octets := allocated(t, func() {
					if exchanges++; exchanges == 101 { // allocated begins to count
						before = reads.Load()
					}
					resp, err := exchange(k)
					if err != nil {
						t.Fatal(err)
					}
					drainBody(t, resp.Body, buf)
				})
				each := float64(reads.Load()-before) / 500
				// The runtime itself allocates now and then.
				if times-each >= 0.05 || octets-24*each >= 4 {
					t.Errorf("%.3f allocations of %.1f bytes, with %.3f reads", times, octets, each)
				}
			})
		}
	}
}
