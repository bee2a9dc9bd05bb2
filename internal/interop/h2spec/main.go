// Command h2spec is the client for the client half of h2spec. It gets the URL of its second
// argument and reads the body. It then waits a moment, so that the server can break a rule. The
// server judges the result. The first argument is the function that makes the connection: Dial or
// NewConn.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"gohyper.dev/hyper"
)

// How long the command waits.
const (
	exchangeTimeout = 2 * time.Second        // for the complete exchange
	lingering       = 500 * time.Millisecond // after it, as some cases begin after the response
)

// main runs the exchange with its two arguments.
func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run makes the exchange and waits.
func run(door, url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), exchangeTimeout)
	defer cancel()
	conn, err := connect(ctx, door, strings.TrimSuffix(url, "/"))
	if err != nil {
		return err
	}
	defer conn.Close() // returns after the last frame, a GOAWAY, is written
	err = get(ctx, conn)
	select {
	case <-conn.Done():
	case <-time.After(lingering):
	}
	return err
}

// connect makes the connection with Dial or NewConn.
func connect(ctx context.Context, door, url string) (*hyper.Conn, error) {
	cfg := &hyper.Config{MaxFrameSize: 16384} // h2spec assumes this
	if door == "Dial" {
		return hyper.Dial(ctx, url, cfg)
	}
	scheme, addr, _ := strings.Cut(url, "://")
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if scheme == "https" {
		host, _, _ := net.SplitHostPort(addr)
		nc = tls.Client(nc, &tls.Config{ServerName: host, NextProtos: []string{"h2"}})
	}
	return hyper.NewConn(ctx, nc, cfg)
}

// get sends a GET request and reads the body.
func get(ctx context.Context, conn *hyper.Conn) error {
	resp, err := conn.Get(ctx, "/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}
