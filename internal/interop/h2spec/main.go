// Command h2spec is the client that h2spec's client half is run against: it gets the URL of its
// second argument, reads the body, and gives the server a moment to misbehave. What becomes of that
// is for the server to judge. The first argument is the way in: Dial or NewConn.
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

const (
	patience  = 2 * time.Second        // for the whole exchange
	lingering = 500 * time.Millisecond // behind it: some cases begin when the response is over
)

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(door, url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := connect(ctx, door, strings.TrimSuffix(url, "/"))
	if err != nil {
		return err
	}
	defer conn.Close() // returns when the last word, a GOAWAY, is written
	err = get(ctx, conn)
	select {
	case <-conn.Done():
	case <-time.After(lingering):
	}
	return err
}

func connect(ctx context.Context, door, url string) (*hyper.Conn, error) {
	cfg := &hyper.Config{MaxFrameSize: 16384} // what h2spec takes for granted
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

func get(ctx context.Context, conn *hyper.Conn) error {
	resp, err := conn.Get(ctx, "/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}
