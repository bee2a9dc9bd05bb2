package hypergrpc

import (
	"bytes"
	stdgzip "compress/gzip"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// handled makes a server call h for each method that it does not know.
func handled(h func(stream grpc.ServerStream) error) grpc.ServerOption {
	return grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error { return h(stream) })
}

// call makes a unary call that handled handles.
func call(c *Client, ctx context.Context, opts ...grpc.CallOption) error {
	return c.Invoke(ctx, "/test.Service/Method", &testgrpc.Empty{}, &testgrpc.Empty{}, opts...)
}

func TestStatusDetailsArrive(t *testing.T) {
	eachTransport(t, func(t *testing.T, c *Client) {
		got := status.Convert(call(c, t.Context()))
		if got.Code() != codes.InvalidArgument || got.Message() != "no ☺\n" || len(got.Details()) != 1 {
			t.Fatalf("the status is %v", got)
		}
		info, ok := got.Details()[0].(*errdetails.ErrorInfo)
		if !ok || info.Reason != "TEST" {
			t.Errorf("the detail is %v", got.Details()[0])
		}
	}, handled(func(grpc.ServerStream) error {
		detail := &errdetails.ErrorInfo{Reason: "TEST"}
		s, err := status.New(codes.InvalidArgument, "no ☺\n").WithDetails(detail)
		if err != nil {
			return err
		}
		return s.Err()
	}))
}

func TestMetadataGoesBothWays(t *testing.T) {
	want := metadata.MD{"a": {"1", "2"}, "b-bin": {"\x00\xff", "", "x"}}
	eachTransport(t, func(t *testing.T, c *Client) {
		var header, trailer metadata.MD
		sent := metadata.Join(want, metadata.MD{"te": {"no"}, "grpc-timeout": {"1n"}, ":path": {"/"}})
		ctx := metadata.NewOutgoingContext(t.Context(), sent)
		if err := call(c, ctx, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
			t.Fatal(err)
		}
		for name, got := range map[string]metadata.MD{"header": header, "trailer": trailer} {
			for key := range want {
				if !slices.Equal(got[key], want[key]) {
					t.Errorf("%s %q is %q, want %q", name, key, got[key], want[key])
				}
			}
		}
		bad := metadata.AppendToOutgoingContext(t.Context(), "a", "\n")
		wantCode(t, call(c, bad), codes.Internal, "printable")
		bad = metadata.AppendToOutgoingContext(t.Context(), "a b", "c")
		wantCode(t, call(c, bad), codes.Internal, "a b")
	}, handled(func(stream grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(stream.Context())
		maps.DeleteFunc(md, func(key string, _ []string) bool { return want[key] == nil })
		stream.SetHeader(md)
		stream.SetTrailer(md)
		return stream.SendMsg(&testgrpc.Empty{})
	}))
}

func TestMessagesHaveLimits(t *testing.T) {
	eachTransport(t, func(t *testing.T, c *Client) {
		tc := testgrpc.NewTestServiceClient(c)
		get := func(up, down int32, opts ...grpc.CallOption) error {
			_, err := tc.UnaryCall(t.Context(), &testgrpc.SimpleRequest{ResponseSize: down,
				Payload: &testgrpc.Payload{Body: make([]byte, up)}}, opts...)
			return err
		}
		wantCode(t, get(1000, 0, grpc.MaxCallSendMsgSize(999)), codes.ResourceExhausted, "more than 999")
		wantCode(t, get(0, 1000, grpc.MaxCallRecvMsgSize(999)), codes.ResourceExhausted, "more than 999")
		wantCode(t, get(0, 4<<20), codes.ResourceExhausted, "more than 4194304")
		small := []grpc.CallOption{grpc.MaxCallRecvMsgSize(1100), grpc.MaxCallSendMsgSize(1100)}
		wantCode(t, get(1000, 1000, small...), codes.OK, "")
		// The limit of what is received holds for the message as it was decompressed, that of what
		// is sent for the message as it is sent.
		wantCode(t, get(0, 1<<20, grpc.MaxCallRecvMsgSize(1<<19), grpc.UseCompressor(gzip.Name)),
			codes.ResourceExhausted, "more than 524288")
		wantCode(t, get(1000, 0, grpc.MaxCallSendMsgSize(999), grpc.UseCompressor(gzip.Name)), codes.OK, "")
	})
}

// An option that would be ignored is an error.
func TestUnknownOptionsAreErrors(t *testing.T) {
	c := NewClient("http://127.0.0.1:1", nil)
	defer c.Close()
	for _, o := range []grpc.CallOption{grpc.OnFinish(func(error) {}), grpc.CallAuthority("a"),
		grpc.CallContentSubtype("json"), grpc.MaxRetryRPCBufferSize(1)} {
		wantCode(t, call(c, t.Context(), o), codes.Unimplemented, "CallOption is not supported")
		_, err := testgrpc.NewTestServiceClient(c).FullDuplexCall(t.Context(), o)
		wantCode(t, err, codes.Unimplemented, "CallOption is not supported")
	}
	wantCode(t, call(c, t.Context(), grpc.UseCompressor("none")), codes.Internal, `"none"`)
}

// creds are the credentials of a test.
type creds struct {
	secure bool
	err    error
	uri    string
	info   credentials.RequestInfo
}

// GetRequestMetadata returns one field.
func (c *creds) GetRequestMetadata(ctx context.Context, uri ...string) (map[string]string, error) {
	c.uri = uri[0]
	c.info, _ = credentials.RequestInfoFromContext(ctx)
	return map[string]string{"authorization": "Bearer x"}, c.err
}

// RequireTransportSecurity reports whether TLS is required.
func (c *creds) RequireTransportSecurity() bool { return c.secure }

func TestCredentials(t *testing.T) {
	eachTransport(t, func(t *testing.T, c *Client) {
		plain := strings.HasPrefix(c.addr, "http://")
		if plain {
			secure := grpc.PerRPCCredentials(&creds{secure: true})
			wantCode(t, call(c, t.Context(), secure), codes.Unauthenticated, "TLS")
		}
		own := &creds{secure: !plain}
		if err := call(c, t.Context(), grpc.PerRPCCredentials(own)); err != nil {
			t.Error(err)
		}
		if !plain && own.uri != "https://"+c.addr+"/test.Service" {
			t.Errorf("the audience is %q", own.uri)
		}
		if own.info.Method != "/test.Service/Method" || plain != (own.info.AuthInfo == nil) {
			t.Errorf("the request is %+v", own.info)
		}
		failed := &creds{err: errors.New("no token")}
		wantCode(t, call(c, t.Context(), grpc.PerRPCCredentials(failed)), codes.Unauthenticated, "no token")
	}, handled(func(stream grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(stream.Context())
		if got := md.Get("authorization"); !slices.Equal(got, []string{"Bearer x"}) {
			return status.Errorf(codes.Unauthenticated, "authorization is %q", got)
		}
		return stream.SendMsg(&testgrpc.Empty{})
	}))
}

func TestPeerOptionIsFilled(t *testing.T) {
	eachTransport(t, func(t *testing.T, c *Client) {
		var p peer.Peer
		if _, err := testgrpc.NewTestServiceClient(c).EmptyCall(t.Context(), nil, grpc.Peer(&p)); err != nil {
			t.Fatal(err)
		}
		info, secure := p.AuthInfo.(credentials.TLSInfo)
		if plain := strings.HasPrefix(c.addr, "http://"); !strings.HasSuffix(c.addr, p.Addr.String()) ||
			plain == secure || secure && len(info.State.PeerCertificates) == 0 {
			t.Errorf("the peer is %+v", p)
		}
	})
}

// While the server cannot be reached, a call fails at once, unless it waits for it.
func TestWaitForReady(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	c := NewClient("http://"+addr, nil, grpc.WaitForReady(true))
	defer c.Close()
	wantCode(t, call(c, t.Context(), grpc.WaitForReady(false)), codes.Unavailable, "refused")
	wantCode(t, call(c, t.Context(), grpc.WaitForReady(false)), codes.Unavailable, "refused")
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wantCode(t, call(c, short), codes.DeadlineExceeded, "")

	done := make(chan error, 1)
	go func() {
		_, err := testgrpc.NewTestServiceClient(c).EmptyCall(t.Context(), &testgrpc.Empty{})
		done <- err
	}()
	if l, err = net.Listen("tcp", addr); err != nil {
		t.Skip(err) // another process has the port
	}
	server := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	go server.Serve(l)
	defer server.Stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The pause between two dials delays no call that does not wait.
func TestCallsThatDoNotWaitFailAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClient("http://peer.test", &hyper.Config{
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				return nil, syscall.ECONNREFUSED
			}}, grpc.WaitForReady(true))
		defer synctest.Wait()
		defer c.Close()
		began := time.Now()
		for range 3 {
			wantCode(t, call(c, t.Context(), grpc.WaitForReady(false)), codes.Unavailable, "refused")
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("calls that do not wait took %v", took)
		}
	})
}

// A server that ends its connections all the time, as behind a balancer, fails no call.
func TestShortLivedConnectionsFailNoCall(t *testing.T) {
	eachTransport(t, func(t *testing.T, c *Client) {
		tc := testgrpc.NewTestServiceClient(c)
		first, _ := c.connect(t.Context(), true)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for end := time.Now().Add(700 * time.Millisecond); time.Now().Before(end); {
					if _, err := tc.EmptyCall(t.Context(), &testgrpc.Empty{}); err != nil {
						t.Error(err)
						return
					}
					stream, err := tc.FullDuplexCall(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					stream.Send(numbered(3))
					stream.CloseSend()
					if reply, err := stream.Recv(); err != nil || len(reply.Payload.Body) != 3 {
						t.Error(reply, err)
						return
					}
					if _, err := stream.Recv(); err != io.EOF {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if last, _ := c.connect(t.Context(), true); first == last {
			t.Error("there was only one connection")
		}
	}, grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 50 * time.Millisecond,
		MaxConnectionAgeGrace: 10 * time.Second}))
}

func TestCloseEndsCalls(t *testing.T) {
	eachTransport(t, func(t *testing.T, c *Client) {
		call, err := testgrpc.NewTestServiceClient(c).FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		_, err = call.Recv()
		wantCode(t, err, codes.Canceled, "closed")
		_, err = testgrpc.NewTestServiceClient(c).EmptyCall(t.Context(), &testgrpc.Empty{})
		wantCode(t, err, codes.Canceled, "closed")
	})
}

// A response is in gzip if the request is.
func TestMessagesAreCompressed(t *testing.T) {
	_, addr := serve(t, nil)
	c := NewClient(addr, nil, grpc.UseCompressor(gzip.Name))
	defer c.Close()
	tc := testgrpc.NewTestServiceClient(c)
	get := func() {
		reply, err := tc.UnaryCall(t.Context(), &testgrpc.SimpleRequest{ResponseSize: 1 << 20,
			Payload: &testgrpc.Payload{Body: make([]byte, 1<<20)}})
		if err != nil || !bytes.Equal(reply.Payload.Body, make([]byte, 1<<20)) {
			t.Fatalf("the reply has an error, or other bytes: %v", err)
		}
	}
	get()
	conn, err := c.connect(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	carried := func() int64 { return conn.Stats().DataReceived + conn.Stats().DataSent }
	before := carried()
	get()
	if n := carried() - before; n > 20<<10 {
		t.Errorf("two megabytes of zeros took %d bytes", n)
	}
}

// TimeoutValue has at most 8 digits
// (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
func TestTimeoutFormat(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "1n", 0: "1n", 99999999: "99999999n", 100000000: "100000u", 100000001: "100001u",
		100 * time.Second: "100000m", 28 * time.Hour: "100800S", 1<<63 - 1: "2562048H",
	} {
		if got := timeout(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

// A lateContext has a deadline that has passed, and whose timer is late.
type lateContext struct{ context.Context }

// Deadline returns the present.
func (lateContext) Deadline() (time.Time, bool) { return time.Now(), true }

// What fails after the deadline has the code of that, also if the server was first to end the call.
func TestResetAfterTheDeadlineIsDeadlineExceeded(t *testing.T) {
	reset := &hyper.StreamError{StreamID: 1, Code: hyper.ErrCodeCancel, FromPeer: true}
	wantCode(t, statusOf(t.Context(), reset), codes.Canceled, "CANCEL")
	wantCode(t, statusOf(lateContext{t.Context()}, reset), codes.DeadlineExceeded, "CANCEL")
}

// A server that does not speak HTTP/2 fails the call, and its connection is closed.
func TestServerOfHTTP1IsLeft(t *testing.T) {
	l, err := tls.Listen("tcp", "127.0.0.1:0", h2test.ServerTLS("http/1.1"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ended := make(chan error, 1)
	go func() {
		nc, err := l.Accept()
		if err == nil {
			_, err = io.ReadAll(nc)
			nc.Close()
		}
		ended <- err
	}()
	c := NewClient(l.Addr().String(), clientTLS())
	defer c.Close()
	wantCode(t, call(c, t.Context()), codes.Unavailable, "http/1.1")
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the connection is still open")
	}
}

// A message that is small as it was sent takes no more memory than the limit allows.
func TestDecompressionIsBounded(t *testing.T) {
	const size = 64 << 20
	var packed bytes.Buffer
	w := stdgzip.NewWriter(&packed)
	if _, err := io.CopyN(w, zeros{}, size); err != nil {
		t.Fatal(err)
	}
	w.Close()
	scripted(t, func(s *script) {
		done := s.unary()
		p := s.peer()
		wantCall(p, 1)
		p.WriteHeaders(1, 0, ":status: 200", "content-type: application/grpc", "grpc-encoding: gzip")
		head := binary.BigEndian.AppendUint32([]byte{1}, uint32(packed.Len()))
		for data := append(head, packed.Bytes()...); len(data) > 0; {
			n := min(len(data), 16<<10)
			p.WriteData(1, 0, data[:n])
			data = data[n:]
		}
		p.WriteTrailers(1, "grpc-status: 0")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		wantCode(t, <-done, codes.ResourceExhausted, "more than 4194304 bytes")
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 32<<20 {
			t.Errorf("%d bytes were allocated", n)
		}
	})
}

// zeros is an endless reader.
type zeros struct{}

// Read returns zeros.
func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
