// Command get fetches URLs over HTTP/2. URLs of the same host share one connection and are fetched
// concurrently. Their bodies are written one after another, in the order of the command line.
//
//	go run ./examples/get https://www.example.com/
//	go run ./examples/get -v -push https://localhost:8443/ http://localhost:8080/prior/knowledge
//
// The exit code is 0 if every response has a status below 400, 1 if a request failed, 2 if the
// command line is wrong, and 3 if every request got a response but some status is 400 or above.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"

	"gohyper.dev/hyper"
)

// Exit codes.
const (
	exitOK = iota
	exitFailed
	exitUsage
	exitStatus
)

// main runs the command and exits with its code. An interrupt cancels the requests.
func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// options are the flags and arguments of the command line.
type options struct {
	verbose  bool
	push     bool
	insecure bool
	caCert   string
	output   string
	urls     []*url.URL
}

// parse reads the command line. It writes its errors to stderr.
func parse(args []string, stderr io.Writer) (*options, error) {
	var o options
	f := flag.NewFlagSet("get", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.BoolVar(&o.verbose, "v", false, "show every frame, sent and received, on standard error")
	f.BoolVar(&o.push, "push", false, "accept server push, and list what was pushed on standard error")
	f.BoolVar(&o.insecure, "k", false, "do not verify the server's certificate")
	f.StringVar(&o.caCert, "cacert", "", "trust the authorities in this PEM `file` and no others")
	f.StringVar(&o.output, "o", "", "write the bodies to this `file`, not to standard output")
	f.Usage = func() {
		fmt.Fprintln(stderr, "usage: get [options] URL…")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	for _, arg := range f.Args() {
		u, err := url.Parse(arg)
		if err == nil && (u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
			err = fmt.Errorf("%q is not a URL with https:// or http://", arg)
		}
		if err != nil {
			fmt.Fprintln(stderr, "get:", err)
			return nil, err
		}
		o.urls = append(o.urls, u)
	}
	if len(o.urls) == 0 {
		f.Usage()
		return nil, errors.New("no URL")
	}
	return &o, nil
}

// run runs the command with args and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (exit int) {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage
	}
	out := stdout
	if o.output != "" {
		file, err := os.Create(o.output)
		if err != nil {
			fmt.Fprintln(stderr, "get:", err)
			return exitFailed
		}
		defer func() {
			if err := file.Close(); err != nil {
				fmt.Fprintln(stderr, "get:", err)
				exit = exitFailed
			}
		}()
		out = file
	}
	cfg, err := o.config(stderr)
	if err != nil {
		fmt.Fprintln(stderr, "get:", err)
		return exitFailed
	}
	g := &getter{cfg: cfg, out: out, stderr: stderr, push: o.push,
		conns: make(map[string]func() (*hyper.Conn, error))}
	defer g.close()
	if isTerminal(stderr) && !isTerminal(out) {
		g.progress = stderr
	}
	return g.getAll(ctx, o.urls)
}

// config returns the configuration of the connections.
func (o *options) config(stderr io.Writer) (*hyper.Config, error) {
	cfg := &hyper.Config{TLS: &tls.Config{InsecureSkipVerify: o.insecure}}
	if o.caCert != "" {
		pem, err := os.ReadFile(o.caCert)
		if err != nil {
			return nil, err
		}
		cfg.TLS.RootCAs = x509.NewCertPool()
		if !cfg.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", o.caCert)
		}
	}
	if o.push {
		cfg.Push = &hyper.PushPolicy{}
	}
	if o.verbose {
		cfg.Trace = hyper.TraceTo(stderr)
	}
	return cfg, nil
}

// A getter fetches URLs.
type getter struct {
	cfg      *hyper.Config
	out      io.Writer
	stderr   io.Writer
	progress io.Writer // nil: show no progress
	push     bool

	mu    sync.Mutex
	conns map[string]func() (*hyper.Conn, error) // by scheme and host; each dials once
}

// atOnce is the maximum number of concurrent requests. A body that waits for its turn holds a part
// of the connection's window, and the body that is being written needs a part of that window, too.
const atOnce = 8

// getAll fetches all URLs and returns the exit code.
func (g *getter) getAll(ctx context.Context, urls []*url.URL) int {
	slots := make(chan struct{}, atOnce)
	turn := make(chan struct{}) // closed when the next request may write its body
	close(turn)
	codes := make([]int, len(urls))
	var wg sync.WaitGroup
	for i, u := range urls {
		slots <- struct{}{}
		mine, next := turn, make(chan struct{})
		turn = next
		wg.Go(func() {
			defer func() { <-slots }()
			defer close(next)
			status, err := g.get(ctx, u, mine)
			<-mine
			switch {
			case err != nil:
				fmt.Fprintf(g.stderr, "get: %s: %s\n", u, explain(err))
				codes[i] = exitFailed
			case status >= 400:
				fmt.Fprintf(g.stderr, "get: %s: status %d\n", u, status)
				codes[i] = exitStatus
			}
		})
	}
	wg.Wait()
	exit := exitOK
	for _, code := range codes {
		if exit == exitOK || code == exitFailed {
			exit = code
		}
	}
	return exit
}

// get fetches one URL. It writes the body after turn is closed. Until then, flow control keeps the
// server from sending more than one window.
func (g *getter) get(ctx context.Context, u *url.URL, turn <-chan struct{}) (status int, err error) {
	conn, err := g.conn(ctx, u)
	if err != nil {
		return 0, err
	}
	resp, err := conn.Do(ctx, &hyper.Request{Path: u.RequestURI()})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if to := resp.Header.Get("location"); to != "" && resp.StatusCode/100 == 3 {
		defer fmt.Fprintf(g.stderr, "get: %s: status %d, see %s\n", u, resp.StatusCode, to)
	}
	var pushes sync.WaitGroup
	if g.push {
		pushes.Go(func() { g.listPushes(ctx, resp) })
	}
	<-turn
	if err := g.write(u, resp); err != nil {
		return 0, err
	}
	pushes.Wait()
	return resp.StatusCode, nil
}

// write writes the body to g.out, and shows progress if g.progress is set.
func (g *getter) write(u *url.URL, resp *hyper.Response) error {
	if g.progress == nil {
		_, err := io.Copy(g.out, resp.Body)
		return err
	}
	total := resp.ContentLength
	if resp.Uncompressed {
		total = -1 // ContentLength counts the compressed bytes
	}
	bar := newProgress(g.progress, u.String(), total)
	defer bar.done()
	_, err := io.Copy(io.MultiWriter(g.out, bar), resp.Body)
	return err
}

// listPushes reads the pushes that the server sends with resp, and lists them on stderr.
func (g *getter) listPushes(ctx context.Context, resp *hyper.Response) {
	for push, err := range resp.Pushes(ctx) {
		if err != nil {
			return // get reports the same error for resp
		}
		what := fmt.Sprintf("push %s (stream %d, promised on %d)", push.Request.Path, push.ID(),
			push.ParentID)
		pushed, err := push.Response(ctx)
		if err != nil {
			fmt.Fprintf(g.stderr, "%s: %v\n", what, err)
			continue
		}
		n, err := io.Copy(io.Discard, pushed.Body)
		if err != nil {
			fmt.Fprintf(g.stderr, "%s: %v\n", what, err)
		} else {
			fmt.Fprintf(g.stderr, "%s: status %d, %d bytes\n", what, pushed.StatusCode, n)
		}
		pushed.Body.Close()
	}
}

// conn returns the connection for u. All URLs of one host share it.
func (g *getter) conn(ctx context.Context, u *url.URL) (*hyper.Conn, error) {
	addr := u.Scheme + "://" + u.Host
	g.mu.Lock()
	dial := g.conns[addr]
	if dial == nil {
		dial = sync.OnceValues(func() (*hyper.Conn, error) { return hyper.Dial(ctx, addr, g.cfg) })
		g.conns[addr] = dial
	}
	g.mu.Unlock()
	return dial()
}

// close closes all connections.
func (g *getter) close() {
	for _, dial := range g.conns {
		if conn, err := dial(); err == nil {
			conn.Close()
		}
	}
}

// explain returns the text of an error and, where possible, what the user can do about it.
func explain(err error) string {
	var other *hyper.NotHTTP2Error
	var authority x509.UnknownAuthorityError
	switch {
	case errors.As(err, &other):
		other.Conn.Close()
		return "the server does not speak HTTP/2"
	case errors.As(err, &authority):
		return err.Error() + " (-cacert names an authority, -k trusts any)"
	case errors.Is(err, context.Canceled):
		return "interrupted"
	}
	return strings.TrimPrefix(err.Error(), "hyper: ")
}
