// Command h2spec is the client that h2spec's client half is run against: it gets the URL of its argument, reads the body,
// and gives the server a moment to misbehave. What becomes of that is for the server to judge.
package main

import (
	"context"
	"fmt"
	"io"
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
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := hyper.Dial(ctx, strings.TrimSuffix(url, "/"), nil)
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

func get(ctx context.Context, conn *hyper.Conn) error {
	resp, err := conn.Get(ctx, "/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}
