// Command get fetches URLs over HTTP/2. Those of one host share a connection and run at once; their bodies are
// written one after the other, in the order of the command line.
//
//	go run ./examples/get https://www.example.com/
//	go run ./examples/get -v -push https://localhost:8443/ http://localhost:8080/by/prior/knowledge
//
// It exits with 0 when every URL was answered below 400, 1 when something failed, 2 for a wrong command line, and 3
// when all were answered but some with 400 or above.
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

const (
	exitOK = iota
	exitFailed
	exitUsage
	exitStatus
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// options is the command line.
type options struct {
	verbose  bool
	push     bool
	insecure bool
	caCert   string
	output   string
	urls     []*url.URL
}

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
	g := &getter{cfg: cfg, out: out, stderr: stderr, push: o.push, conns: make(map[string]func() (*hyper.Conn, error))}
	defer g.close()
	if isTerminal(stderr) && !isTerminal(out) {
		g.progress = stderr
	}
	return g.getAll(ctx, o.urls)
}

// config turns the options into the connections' configuration.
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
	progress io.Writer // nil: nobody looks
	push     bool

	mu    sync.Mutex
	conns map[string]func() (*hyper.Conn, error) // by scheme and host; each dials once
}

// atOnce bounds the requests under way: bodies that wait for their turn must not hold the whole window of the connection
// that the body in front of them needs.
const atOnce = 8

// getAll fetches all URLs and returns the exit code.
func (g *getter) getAll(ctx context.Context, urls []*url.URL) int {
	slots := make(chan struct{}, atOnce)
	turn := make(chan struct{}) // of the first to write
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

// get fetches one URL. Its body is written when turn is closed; until then flow control holds it back.
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

// write writes the body.
func (g *getter) write(u *url.URL, resp *hyper.Response) error {
	if g.progress == nil {
		_, err := io.Copy(g.out, resp.Body)
		return err
	}
	total := resp.ContentLength
	if resp.Uncompressed {
		total = -1 // it counts what was sent
	}
	bar := newProgress(g.progress, u.String(), total)
	defer bar.done()
	_, err := io.Copy(io.MultiWriter(g.out, bar), resp.Body)
	return err
}

// listPushes reads what the server pushes with resp, and lists it.
func (g *getter) listPushes(ctx context.Context, resp *hyper.Response) {
	for push, err := range resp.Pushes(ctx) {
		if err != nil {
			return // it is the response's own
		}
		what := fmt.Sprintf("push %s (stream %d, promised on %d)", push.Request.Path, push.ID(), push.ParentID)
		pushed, err := push.Response(ctx)
		if err != nil {
			fmt.Fprintf(g.stderr, "%s: %v\n", what, err)
			continue
		}
		n, err := io.Copy(io.Discard, pushed.Body)
		if err != nil {
			fmt.Fprintf(g.stderr, "%s: %v\n", what, err)
		} else {
			fmt.Fprintf(g.stderr, "%s: status %d, %d octets\n", what, pushed.StatusCode, n)
		}
		pushed.Body.Close()
	}
}

// conn returns the connection for u, the same for every URL of one host.
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

func (g *getter) close() {
	for _, dial := range g.conns {
		if conn, err := dial(); err == nil {
			conn.Close()
		}
	}
}

// explain says what can be done about an error, where there is something.
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
