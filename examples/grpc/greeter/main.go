// Command greeter runs a gRPC client over hyper against a server of grpc-go in the same process. It
// uses stubs that protoc-gen-go-grpc has generated, unchanged: unary calls, a stream both ways,
// metadata, gzip, a deadline, an error with details, and calls that outlive their server.
//
//	go -C examples/grpc run ./greeter        prints what happened
//	go -C examples/grpc run ./greeter -v     prints every frame, too
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	echopb "google.golang.org/grpc/examples/features/proto/echo"
	hellopb "google.golang.org/grpc/examples/helloworld/helloworld"

	"gohyper.dev/hyper"
	hypergrpc "gohyper.dev/hyper/examples/grpc"
)

// main runs the steps and exits with 1 if one fails.
func main() {
	log.SetFlags(0)
	verbose := flag.Bool("v", false, "show every frame on standard error")
	flag.Parse()
	var trace func(hyper.TraceEvent)
	if *verbose {
		trace = hyper.TraceTo(os.Stderr)
	}
	if err := run(context.Background(), os.Stdout, trace); err != nil {
		log.Fatal("greeter: ", err)
	}
}

// run starts the server and runs all steps with one client.
func run(ctx context.Context, out io.Writer, trace func(hyper.TraceEvent)) error {
	certificate, trusting := newCertificate()
	s, err := startServer("127.0.0.1:0", certificate)
	if err != nil {
		return err
	}
	defer func() { s.Stop() }()
	client := hypergrpc.NewClient(s.addr, &hyper.Config{TLS: trusting, Trace: trace})
	defer client.Close()
	type step = func(context.Context, io.Writer, *hypergrpc.Client) error
	for _, step := range []step{greet, echo, fail, many} {
		if err := step(ctx, out, client); err != nil {
			return err
		}
	}
	s, err = restart(ctx, out, client, s)
	return err
}

// greet makes a unary call with metadata.
func greet(ctx context.Context, out io.Writer, client *hypergrpc.Client) error {
	var header metadata.MD
	ctx = metadata.AppendToOutgoingContext(ctx, "title", "Dr")
	reply, err := hellopb.NewGreeterClient(client).SayHello(ctx, &hellopb.HelloRequest{Name: "Hopper"},
		grpc.Header(&header))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "SayHello: %q, and the header says served-by %q\n", reply.GetMessage(),
		header.Get("served-by"))
	return nil
}

// echo sends and receives on one stream, in gzip.
func echo(ctx context.Context, out io.Writer, client *hypergrpc.Client) error {
	stream, err := echopb.NewEchoClient(client).BidirectionalStreamingEcho(ctx, grpc.UseCompressor("gzip"))
	if err != nil {
		return err
	}
	fmt.Fprint(out, "A stream both ways, in gzip:")
	for _, word := range []string{"one", "two", "three"} {
		if err := stream.Send(&echopb.EchoRequest{Message: word}); err != nil {
			return err
		}
		reply, err := stream.Recv()
		if err != nil {
			return err
		}
		fmt.Fprintf(out, " %q", reply.GetMessage())
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Recv(); err != io.EOF {
		return fmt.Errorf("the stream ends with %v", err)
	}
	fmt.Fprintln(out, ", and its end")
	return nil
}

// fail makes two calls that fail: the server refuses one, and the other takes too long.
func fail(ctx context.Context, out io.Writer, client *hypergrpc.Client) error {
	_, err := hellopb.NewGreeterClient(client).SayHello(ctx, &hellopb.HelloRequest{})
	refused := status.Convert(err)
	if len(refused.Details()) == 0 {
		return fmt.Errorf("the error has no details: %w", err)
	}
	fmt.Fprintf(out, "Without a name: %v: %s, with the details %v\n", refused.Code(), refused.Message(),
		refused.Details()[0])

	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = hellopb.NewGreeterClient(client).SayHello(ctx, &hellopb.HelloRequest{Name: slow})
	fmt.Fprintf(out, "With a deadline of 50 ms: %v after %v\n", status.Code(err),
		time.Since(began).Round(time.Millisecond))
	return nil
}

// many makes calls at the same time on one connection.
func many(ctx context.Context, out io.Writer, client *hypergrpc.Client) error {
	const calls = 1000
	began := time.Now()
	errs := make([]error, calls)
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			_, errs[i] = hellopb.NewGreeterClient(client).SayHello(ctx, &hellopb.HelloRequest{Name: "you"})
		})
	}
	wg.Wait()
	fmt.Fprintf(out, "%d calls at once on one connection: %v\n", calls,
		time.Since(began).Round(time.Millisecond))
	return errors.Join(errs...)
}

// restart replaces the server while calls are made that wait for it. It returns the new server.
func restart(ctx context.Context, out io.Writer, client *hypergrpc.Client, old *server) (*server, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	greeter, stop := hellopb.NewGreeterClient(client), make(chan struct{})
	calls, failed := 0, error(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		for again := true; again && failed == nil; calls++ {
			select {
			case <-stop:
				again = false // the last call reaches the new server
			default:
			}
			_, failed = greeter.SayHello(ctx, &hellopb.HelloRequest{Name: "you"}, grpc.WaitForReady(true))
		}
	})
	time.Sleep(20 * time.Millisecond)
	old.GracefulStop()
	next, err := startServer(old.addr, old.certificate)
	close(stop)
	wg.Wait()
	if err != nil || failed != nil {
		return cmp.Or(next, old), errors.Join(err, failed)
	}
	fmt.Fprintf(out, "The server was replaced during %d calls, and none failed\n", calls)
	return next, nil
}
