// Command proxy is a reverse proxy with hyper upstream: httputil.ReverseProxy on a hyper.Transport.
// Bodies stream both ways, trailers and interim responses pass, and so do protocol upgrades, such
// as WebSocket. Errors of the upstream become the right status of a gateway.
//
//	go run ./examples/proxy                              shows what passes to an upstream
//	go run ./examples/proxy -listen :8080 -to https://…  serves until it is interrupted
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/signal"
	"time"

	"gohyper.dev/hyper"
)

// main serves, or shows what passes, and exits with 1 if that fails.
func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, os.Args[1:]); err != nil {
		log.Fatal("proxy: ", err)
	}
}

// run serves the upstream that args name, or shows what passes to one that it starts.
func run(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("proxy", flag.ExitOnError)
	listen := flags.String("listen", "", "the address to serve, with -to (default localhost:8080)")
	to := flags.String("to", "", "the upstream's URL; if it is empty, the program starts one")
	flags.Parse(args)
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case *to != "":
		return serve(ctx, cmp.Or(*listen, "localhost:8080"), *to)
	case *listen != "":
		return errors.New("-listen needs -to, the upstream's URL")
	}
	return show(ctx, out)
}

// parseUpstream parses the upstream's URL.
func parseUpstream(to string) (*url.URL, error) {
	upstream, err := url.Parse(to)
	known := err == nil && (upstream.Scheme == "https" || upstream.Scheme == "http")
	if !known || upstream.Hostname() == "" {
		const form = "want an http or https URL with a host, such as https://localhost:8443"
		return nil, fmt.Errorf("-to %s: %s", to, form)
	}
	return upstream, nil
}

// serve serves addr until ctx ends, and then lets the requests that are under way finish.
func serve(ctx context.Context, addr, to string) error {
	upstream, err := parseUpstream(to)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	transport := &hyper.Transport{}
	defer transport.CloseIdleConnections()
	server := &http.Server{Handler: newProxy(upstream, transport), ReadHeaderTimeout: 10 * time.Second}
	log.Printf("serving http://%s from %s", listener.Addr(), upstream.Redacted())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return server.Shutdown(ending)
}

// show starts an upstream and a proxy for it, and sends requests through the proxy.
func show(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	upstream := startUpstream()
	defer upstream.Close()
	roots := x509.NewCertPool()
	roots.AddCert(upstream.Certificate())
	transport := &hyper.Transport{Config: &hyper.Config{TLS: &tls.Config{RootCAs: roots}}}
	defer transport.CloseIdleConnections()
	to, err := url.Parse(upstream.URL)
	if err != nil {
		return err
	}
	front := httptest.NewServer(newProxy(to, transport))
	defer front.Close()

	for _, step := range []func(context.Context, io.Writer, string) error{
		showStream, showTrailers, showInterim, showUpgrade, showErrors,
	} {
		if err := step(ctx, out, front.URL); err != nil {
			return err
		}
	}
	stats := transport.Stats()
	fmt.Fprintf(out, "%d requests over %d connections of HTTP/2 upstream, and %d over HTTP/1.1\n",
		stats.Total.Requests, stats.Total.Dials, stats.HTTP1Requests)
	return nil
}
