package interop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// A pipeListener is a listener whose connections are the server's ends of pipes.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

// Accept returns the next connection.
func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (l *pipeListener) Close() error {
	close(l.done)
	return nil
}

// Addr returns an empty address.
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// dial makes a pipe and returns the client's end.
func (l *pipeListener) dial(context.Context, string, string) (net.Conn, error) {
	client, server := h2test.Pipe()
	l.conns <- server
	return client, nil
}

// grpcServer starts a gRPC server with its defaults, in the synctest bubble of the test. It has
// three methods: /test/Begun sends its header and then nothing, /test/Silent sends nothing at all,
// and /test/Empty ends at once.
func grpcServer(t *testing.T) *pipeListener {
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	server := grpc.NewServer(grpc.MaxConcurrentStreams(2),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			switch method, _ := grpc.MethodFromServerStream(stream); method {
			case "/test/Empty":
				return status.Error(codes.OK, "")
			case "/test/Begun":
				if err := stream.SendHeader(metadata.Pairs("begun", "yes")); err != nil {
					return err
				}
			}
			<-stream.Context().Done()
			return stream.Context().Err()
		}))
	go server.Serve(l)
	t.Cleanup(server.Stop)
	return l
}

// call sends a request to a method of a grpcServer.
func call(ctx context.Context, rt http.RoundTripper, method string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, "POST", "http://example.com/test/"+method,
		strings.NewReader("\x00\x00\x00\x00\x00"))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	return rt.RoundTrip(req)
}

// grpcClients are hyper's clients for a gRPC server, and net/http's. every is their interval of
// PINGs; 0: the default.
var grpcClients = []struct {
	name string
	make func(dial func(context.Context, string, string) (net.Conn, error),
		every time.Duration) http.RoundTripper
}{
	{"Transport", func(dial func(context.Context, string, string) (net.Conn, error),
		every time.Duration) http.RoundTripper {
		cfg := &hyper.Config{DialContext: dial, KeepAlive: every}
		return &hyper.Transport{Config: cfg, Proxy: hyper.NoProxy, UnencryptedHTTP2: true, MaxConnsPerHost: 1,
			IdleConnTimeout: -1}
	}},
	{"ConfigureTransport", func(dial func(context.Context, string, string) (net.Conn, error),
		every time.Duration) http.RoundTripper {
		tr := plainHTTP2(dial, every)
		if err := hyper.ConfigureTransport(tr, nil); err != nil {
			panic(err)
		}
		return tr
	}},
	{"net/http", func(dial func(context.Context, string, string) (net.Conn, error),
		every time.Duration) http.RoundTripper {
		return plainHTTP2(dial, every)
	}},
}

// plainHTTP2 returns a Transport of net/http that speaks HTTP/2 in cleartext.
func plainHTTP2(dial func(context.Context, string, string) (net.Conn, error),
	every time.Duration) *http.Transport {
	tr := &http.Transport{DialContext: dial, MaxConnsPerHost: 1, Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	tr.HTTP2 = &http.HTTP2Config{SendPingTimeout: every}
	return tr
}

// eachGRPCClient runs test for each client, in its own synctest bubble and against its own server.
func eachGRPCClient(t *testing.T, every time.Duration, test func(t *testing.T, rt http.RoundTripper)) {
	for _, client := range grpcClients {
		t.Run(client.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := grpcServer(t)
				rt := client.make(l.dial, every)
				defer rt.(interface{ CloseIdleConnections() }).CloseIdleConnections()
				test(t, rt)
			})
		})
	}
}

// silent makes a call that is canceled after an hour, and requires that the call does not end
// earlier.
func silent(t *testing.T, rt http.RoundTripper, method string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	began := time.Now()
	resp, err := call(ctx, rt, method)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if took := time.Since(began); took != time.Hour || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s ended after %v: %v", method, took, err)
	}
}

// empty makes a call that ends at once.
func empty(t *testing.T, rt http.RoundTripper) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	resp, err := call(ctx, rt, "Empty")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	if code := resp.Trailer.Get("Grpc-Status") + resp.Header.Get("Grpc-Status"); code != "0" {
		t.Errorf("status %q", code)
	}
}

// TestGRPCServerKeepsASilentStream checks that hyper's default keep-alive does not make a gRPC
// server with its defaults end the connection.
func TestGRPCServerKeepsASilentStream(t *testing.T) {
	for _, method := range []string{"Silent", "Begun"} {
		t.Run(method, func(t *testing.T) {
			eachGRPCClient(t, 0, func(t *testing.T, rt http.RoundTripper) {
				silent(t, rt, method)
				empty(t, rt)
				silent(t, rt, method)
			})
		})
	}
}

// TestGRPCServerEndsTheConnectionThatPingsTooOften checks that hyper keeps an interval that the
// caller has set, even if the server then ends the connection.
func TestGRPCServerEndsTheConnectionThatPingsTooOften(t *testing.T) {
	eachGRPCClient(t, 30*time.Second, func(t *testing.T, rt http.RoundTripper) {
		began := time.Now()
		resp, err := call(t.Context(), rt, "Begun")
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(resp.Body)
		if took := time.Since(began); took < 100*time.Second || took > 130*time.Second {
			t.Errorf("it ended after %v: %v", took, err)
		}
		resp.Body.Close()
		if _, own := rt.(*hyper.Transport); !own {
			return
		}
		var ce *hyper.ConnError
		if !errors.As(err, &ce) || ce.Code != hyper.ErrCodeEnhanceYourCalm ||
			string(ce.Debug) != "too_many_pings" {
			t.Errorf("the error: %v", err)
		}
		silent(t, rt, "Begun") // the next connection sends fewer PINGs
	})
}

// TestGRPCServerKeepsAConnectionOfCanceledRequests checks that the server does not end the
// connection for the PINGs that follow canceled requests, either (golang/go#70575).
func TestGRPCServerKeepsAConnectionOfCanceledRequests(t *testing.T) {
	eachGRPCClient(t, 0, func(t *testing.T, rt http.RoundTripper) {
		empty(t, rt)
		stays, cancel := context.WithCancel(t.Context())
		defer cancel()
		resp, err := call(stays, rt, "Begun")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		for i := range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := call(ctx, rt, "Silent"); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(fmt.Errorf("call %d: %w", i, err))
			}
			cancel()
		}
		empty(t, rt)
		cancel()
		if _, err := io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) {
			t.Errorf("the stream that was open: %v", err)
		}
	})
}
