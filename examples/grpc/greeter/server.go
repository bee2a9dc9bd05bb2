package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http/httptest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	echopb "google.golang.org/grpc/examples/features/proto/echo"
	hellopb "google.golang.org/grpc/examples/helloworld/helloworld"
)

// slow is the name that is greeted after a second.
const slow = "slow"

// A server is a server of grpc-go, with its address and its certificate.
type server struct {
	*grpc.Server
	addr        string
	certificate tls.Certificate
}

// startServer starts a server over TLS at addr.
func startServer(addr string, certificate tls.Certificate) (*server, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{Certificates: []tls.Certificate{certificate}}
	s := &server{grpc.NewServer(grpc.Creds(credentials.NewTLS(config))), l.Addr().String(), certificate}
	hellopb.RegisterGreeterServer(s.Server, greeter{})
	echopb.RegisterEchoServer(s.Server, echoer{})
	go s.Serve(l)
	return s, nil
}

// newCertificate returns the certificate of net/http's tests, and a configuration that trusts it.
func newCertificate() (tls.Certificate, *tls.Config) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s.TLS.Certificates[0], &tls.Config{RootCAs: roots}
}

// A greeter greets by name and title.
type greeter struct {
	hellopb.UnimplementedGreeterServer
}

// SayHello greets. A name is required.
func (greeter) SayHello(ctx context.Context, req *hellopb.HelloRequest) (*hellopb.HelloReply, error) {
	if req.GetName() == "" {
		violation := &errdetails.BadRequest_FieldViolation{Field: "name", Description: "is empty"}
		s, err := status.New(codes.InvalidArgument, "a name is missing").WithDetails(
			&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{violation}})
		if err != nil {
			return nil, err
		}
		return nil, s.Err()
	}
	if req.GetName() == slow {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	greeting := "Hello"
	for _, title := range metadata.ValueFromIncomingContext(ctx, "title") {
		greeting += " " + title
	}
	if err := grpc.SetHeader(ctx, metadata.Pairs("served-by", "grpc-go "+grpc.Version)); err != nil {
		return nil, err
	}
	return &hellopb.HelloReply{Message: greeting + " " + req.GetName()}, nil
}

// An echoer sends back what it receives.
type echoer struct{ echopb.UnimplementedEchoServer }

// BidirectionalStreamingEcho sends each message back.
func (echoer) BidirectionalStreamingEcho(stream echopb.Echo_BidirectionalStreamingEchoServer) error {
	for {
		req, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&echopb.EchoResponse{Message: req.GetMessage()}); err != nil {
			return err
		}
	}
}
