// Command proxy is a reverse proxy with hyper upstream: httputil.ReverseProxy on a hyper.Transport.
// Bodies stream both ways, trailers and interim responses pass, and so do protocol upgrades, such
// as WebSocket. Errors of the upstream become the right status of a gateway.
//
//	go run ./examples/proxy                              shows what passes to an upstream
//	go run ./examples/proxy -listen :8080 -to https://…  serves until it is interrupted
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
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
	listen := flag.String("listen", "localhost:8080", "the address to serve, with -to")
	to := flag.String("to", "", "the upstream's URL; if it is empty, the program starts one")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if *to == "" {
		err = show(ctx, os.Stdout)
	} else {
		err = serve(ctx, *listen, *to)
	}
	if err != nil {
		log.Fatal("proxy: ", err)
	}
}

// serve serves addr until ctx ends, and then lets the requests that are under way finish.
func serve(ctx context.Context, addr, to string) error {
	upstream, err := url.Parse(to)
	if err != nil {
		return err
	}
	transport := &hyper.Transport{}
	defer transport.CloseIdleConnections()
	server := &http.Server{Addr: addr, Handler: newProxy(upstream, transport),
		ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		ending, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		server.Shutdown(ending)
	}()
	log.Printf("serving http://%s from %s", addr, upstream)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
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
