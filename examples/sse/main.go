// Command sse reads server-sent events through hyper. It starts a real HTTP/2 server in its own
// process. The server ends its responses by END_STREAM, by RST_STREAM and by GOAWAY; the client
// asks for the events that follow, and none is lost or comes twice.
//
//	go run ./examples/sse [-n 12]       prints the events, and when the client connects again
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"

	"gohyper.dev/hyper"
)

// main reads n events and exits with 1 if that fails.
func main() {
	log.SetFlags(0)
	n, err := parse(os.Args[1:])
	if err == nil {
		err = run(context.Background(), os.Stdout, n)
	}
	if err != nil {
		log.Fatal("sse: ", err)
	}
}

// parse returns the number of events to read.
func parse(args []string) (n int, err error) {
	flags := flag.NewFlagSet("sse", flag.ExitOnError)
	flags.IntVar(&n, "n", 12, "events to read, 1 or more")
	flags.Parse(args)
	switch {
	case n < 1:
		return 0, fmt.Errorf("-n %d: want 1 or more", n)
	case flags.NArg() > 0:
		return 0, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return n, nil
}

// run starts the server, reads n events from it, and checks that they are the events that it sent.
func run(ctx context.Context, out io.Writer, n int) error {
	server := startServer()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	transport := &hyper.Transport{Config: &hyper.Config{TLS: &tls.Config{RootCAs: roots}}}
	defer transport.CloseIdleConnections()

	source := &Source{
		Client:  &http.Client{Transport: transport},
		URL:     server.URL + "/events",
		OnRetry: func(err error) { fmt.Fprintln(out, "  connects again:", err) },
	}
	next := 1
	for event, err := range source.Events(ctx) {
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s %s: %q\n", event.ID, event.Type, event.Data)
		if event.ID != strconv.Itoa(next) {
			return fmt.Errorf("event %s came, not %d", event.ID, next)
		}
		if next++; next > n {
			break
		}
	}
	dials := transport.Stats().Total.Dials
	fmt.Fprintf(out, "%d events in %d responses over %d connections\n", n, source.Responses, dials)
	return nil
}
