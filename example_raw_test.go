package hyper_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"

	"gohyper.dev/hyper"
)

// A server must end the connection if a window exceeds 2^31-1.
func ExampleConn_WriteFrame() {
	ctx := context.Background()
	conn, err := hyper.Dial(ctx, addr(), &hyper.Config{TLS: &tls.Config{RootCAs: roots()}})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	update := hyper.WindowUpdateFrame(0, 1<<31-1)
	fmt.Println(update)
	if err := conn.WriteFrame(ctx, update, update); err != nil {
		log.Fatal(err)
	}
	<-conn.Done()
	fmt.Println(errors.Is(conn.Err(), hyper.ErrCodeFlowControl))
	// Output:
	// WINDOW_UPDATE len=4 increment=2147483647
	// true
}

// Three requests leave in one write.
func ExampleConn_Batch() {
	ctx := context.Background()
	conn, err := hyper.Dial(ctx, addr(), &hyper.Config{TLS: &tls.Config{RootCAs: roots()}})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	streams := make([]*hyper.Stream, 3)
	err = conn.Batch(ctx, func() {
		for i := range streams {
			if streams[i], err = conn.Open(ctx, &hyper.Request{Path: "/hello"}); err != nil {
				log.Fatal(err)
			}
			streams[i].CloseWrite()
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range streams {
		resp, err := s.Response(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(s.ID(), resp.StatusCode)
		resp.Body.Close()
	}
	// Output:
	// 1 200
	// 3 200
	// 5 200
}

// A name in upper case is malformed (RFC 9113 §8.2.1).
func ExampleRequest_unchecked() {
	ctx := context.Background()
	conn, err := hyper.Dial(ctx, addr(), &hyper.Config{TLS: &tls.Config{RootCAs: roots()}})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	_, err = conn.Do(ctx, &hyper.Request{Unchecked: true, Header: hyper.Header{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":path", Value: "/hello"},
		{Name: ":authority", Value: "example.com"}, {Name: "X-Upper", Value: "1"},
	}})
	fmt.Println(errors.Is(err, hyper.ErrCodeProtocol))
	resp, err := conn.Get(ctx, "/hello") // the connection is as usable as before
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.StatusCode)
	// Output:
	// true
	// 200
}
