package hypergrpc

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// TestMain makes a case of package interop that fails end its test, rather than the process.
func TestMain(m *testing.M) {
	grpclog.SetLoggerV2(panicLogger{grpclog.NewLoggerV2(os.Stderr, os.Stderr, os.Stderr)})
	if os.Getenv(serverVariable) != "" {
		serveBenchmark()
		return
	}
	os.Exit(m.Run())
}

// A panicLogger panics where grpc's logger ends the process. The cases call nothing else of it.
type panicLogger struct{ grpclog.LoggerV2 }

// Info drops what it is given.
func (panicLogger) Info(...any) {}

// Infof drops what it is given.
func (panicLogger) Infof(string, ...any) {}

// Infoln drops what it is given.
func (panicLogger) Infoln(...any) {}

// Fatal panics.
func (panicLogger) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// Fatalln panics.
func (panicLogger) Fatalln(args ...any) { panic(fmt.Sprint(args...)) }

// Fatalf panics.
func (panicLogger) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// serve starts a server of grpc-go on loopback, with grpc's service for tests. It returns the
// address for NewClient. config is nil for cleartext. t is nil in a process that only serves.
func serve(t testing.TB, config *tls.Config, opts ...grpc.ServerOption) (server *grpc.Server, addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	addr = "http://" + l.Addr().String()
	if config != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(config)))
		addr = l.Addr().String()
	}
	server = grpc.NewServer(opts...)
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	go server.Serve(l)
	if t != nil {
		t.Cleanup(server.Stop)
	}
	return server, addr
}

// clientTLS is the configuration of a client that trusts the server of serve.
func clientTLS() *hyper.Config {
	config := h2test.ClientTLS()
	config.ServerName = "example.com"
	return &hyper.Config{TLS: config}
}

// eachTransport runs test with a Client of serve, in cleartext and over TLS.
func eachTransport(t *testing.T, test func(t *testing.T, c *Client), opts ...grpc.ServerOption) {
	for name, config := range map[string]*tls.Config{"cleartext": nil, "TLS": h2test.ServerTLS("h2")} {
		t.Run(name, func(t *testing.T) {
			_, addr := serve(t, config, opts...)
			c := NewClient(addr, clientTLS())
			defer c.Close()
			test(t, c)
		})
	}
}

// interopCases are the cases of google.golang.org/grpc/interop that need no cloud.
var interopCases = []struct {
	name string
	do   func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)
}{
	{"empty_unary", interop.DoEmptyUnaryCall},
	{"large_unary", interop.DoLargeUnaryCall},
	{"client_streaming", interop.DoClientStreaming},
	{"server_streaming", interop.DoServerStreaming},
	{"ping_pong", interop.DoPingPong},
	{"empty_stream", interop.DoEmptyStream},
	{"timeout_on_sleeping_server", interop.DoTimeoutOnSleepingServer},
	{"cancel_after_begin", interop.DoCancelAfterBegin},
	{"cancel_after_first_response", interop.DoCancelAfterFirstResponse},
	{"custom_metadata", interop.DoCustomMetadata},
	{"status_code_and_message", interop.DoStatusCodeAndMessage},
	{"special_status_message", interop.DoSpecialStatusMessage},
}

// The client half of grpc-go's interoperability tests passes, plain and with gzip.
func TestInterop(t *testing.T) {
	for _, c := range interopCases {
		t.Run(c.name, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, client *Client) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				defer failed(t)
				tc := testgrpc.NewTestServiceClient(client)
				c.do(ctx, tc)
				c.do(ctx, tc, grpc.UseCompressor(gzip.Name))
			})
		})
	}
}

// failed reports the panic of a panicLogger.
func failed(t *testing.T) {
	switch r := recover().(type) {
	case nil:
	case string:
		t.Error(r)
	default:
		panic(r)
	}
}

// The case unimplemented_method of package interop accepts only a *grpc.ClientConn.
func TestInteropUnimplemented(t *testing.T) {
	eachTransport(t, func(t *testing.T, c *Client) {
		defer failed(t)
		interop.DoUnimplementedService(t.Context(), testgrpc.NewUnimplementedServiceClient(c))
		err := c.Invoke(t.Context(), "/grpc.testing.TestService/UnimplementedCall", nil, nil)
		wantCode(t, err, codes.Unimplemented, "")
	})
}
