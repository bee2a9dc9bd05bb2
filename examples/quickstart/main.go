// Command quickstart shows what hyper does. It needs no network: it starts a real HTTP/2 server
// over TLS in its own process and sends requests to it.
//
//	go run ./examples/quickstart        prints what happened
//	go run ./examples/quickstart -v     prints every frame, too
//
// It can also write a page with a waterfall of the connection, an HTTP archive for a browser's
// network panel, and the TLS keys for Wireshark:
//
//	go run ./examples/quickstart -waterfall out.html -har out.har -keylog keys.txt
package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"gohyper.dev/hyper"
)

// uploadSize is the size of the body that echo sends, in bytes.
const uploadSize = 64 << 20

// main runs the steps and exits with 1 if one fails.
func main() {
	log.SetFlags(0)
	verbose := flag.Bool("v", false, "show every frame on standard error")
	page := flag.String("waterfall", "", "write a waterfall of the connection to this HTML `file`")
	archive := flag.String("har", "", "write an HTTP archive to this `file`")
	flag.StringVar(&keyLog, "keylog", "", "append the TLS keys to this `file`, for Wireshark")
	flag.Parse()
	var waterfall hyper.Waterfall
	var har hyper.HAR
	lines := func(hyper.TraceEvent) {}
	if *verbose {
		lines = hyper.TraceTo(os.Stderr)
	}
	err := run(context.Background(), os.Stdout, func(e hyper.TraceEvent) {
		lines(e)
		waterfall.Trace(e)
		har.Trace(e)
	})
	err = cmp.Or(err, write(*page, &waterfall), write(*archive, &har))
	if err != nil {
		log.Fatal("quickstart: ", err)
	}
}

// keyLog is the file for the TLS keys, "" for none.
var keyLog string

// write writes what was recorded to a file. It does nothing if name is empty.
func write(name string, recorded io.WriterTo) error {
	if name == "" {
		return nil
	}
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = recorded.WriteTo(file)
	return cmp.Or(err, file.Close())
}

// run connects to the server and runs all steps.
func run(ctx context.Context, out io.Writer, trace func(hyper.TraceEvent)) error {
	server := startServer()
	defer server.Close()
	conn, err := dial(ctx, server, trace)
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Fprintf(out, "Connected to %s, %s, ALPN %s\n\n", server.URL, tls.VersionName(conn.TLS().Version),
		conn.TLS().NegotiatedProtocol)

	for _, step := range []func(context.Context, io.Writer, *hyper.Conn) error{fetchAll, echo, ping, leave} {
		if err := step(ctx, out, conn); err != nil {
			return err
		}
	}
	return nil
}

// dial connects to the server and accepts pushes. It trusts the server's certificate and no other.
func dial(ctx context.Context, server *httptest.Server, trace func(hyper.TraceEvent)) (*hyper.Conn, error) {
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	config := &tls.Config{RootCAs: roots}
	if keyLog != "" {
		file, err := os.OpenFile(keyLog, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		config.KeyLogWriter = file
	}
	return hyper.Dial(ctx, server.URL, &hyper.Config{
		TLS:   config,
		Push:  &hyper.PushPolicy{},
		Trace: trace,
	})
}

// fetchAll gets all pages concurrently on one connection, and the response that the server pushes.
func fetchAll(ctx context.Context, out io.Writer, conn *hyper.Conn) error {
	var mu sync.Mutex
	var got []fetched
	var failed error
	add := func(f fetched, err error) {
		mu.Lock()
		defer mu.Unlock()
		got, failed = append(got, f), cmp.Or(failed, err)
	}

	start := time.Now()
	var wg sync.WaitGroup
	for _, path := range paths {
		wg.Go(func() { add(fetch(ctx, conn, path, add)) })
	}
	wg.Wait()
	if failed != nil {
		return failed
	}
	if want := len(paths) + 1; len(got) != want {
		return fmt.Errorf("%d responses, want %d with the pushed one", len(got), want)
	}
	fmt.Fprintf(out, "%d requests at once on one connection, and a push: %v\n\n", len(paths),
		time.Since(start).Round(time.Microsecond))
	printTable(out, got)
	return nil
}

// fetch gets one page and checks it. It passes each pushed response to add.
func fetch(ctx context.Context, conn *hyper.Conn, path string, add func(fetched, error)) (fetched, error) {
	resp, err := conn.Get(ctx, path)
	if err != nil {
		return fetched{}, err
	}
	defer resp.Body.Close() // also refuses a push that fetch did not read
	f, err := read("GET "+path, path, resp)
	if err != nil {
		return f, err
	}
	for push, err := range resp.Pushes(ctx) {
		if err != nil {
			return f, err
		}
		pushed, err := push.Response(ctx)
		if err != nil {
			return f, err
		}
		defer pushed.Body.Close()
		add(read(fmt.Sprintf("push %s, with stream %d", push.Request.Path, push.ParentID), push.Request.Path,
			pushed))
	}
	return f, nil
}

// A fetched is one response, and a line of the table.
type fetched struct {
	stream  uint32
	what    string
	status  int
	coding  string
	wire    int64 // bytes of the body as sent
	decoded int
}

// read reads a response to its end and compares it with the page at path.
func read(what, path string, resp *hyper.Response) (fetched, error) {
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fetched{}, err
	}
	if string(body) != pages[path] {
		return fetched{}, fmt.Errorf("%s: %d bytes that are not the page", what, len(body))
	}
	return fetched{
		stream:  resp.StreamID,
		what:    what,
		status:  resp.StatusCode,
		coding:  cmp.Or(resp.Header.Get("content-encoding"), "-"),
		wire:    resp.ContentLength,
		decoded: len(body),
	}, nil
}

// printTable prints the responses in the order of their stream identifiers.
func printTable(out io.Writer, rows []fetched) {
	slices.SortFunc(rows, func(a, b fetched) int { return cmp.Compare(a.stream, b.stream) })
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "  stream\trequest\tstatus\tcoding\ton the wire\t  decoded")
	for _, r := range rows {
		fmt.Fprintf(w, "  %6d\t%s\t%d\t%s\t%11s\t%9s\n", r.stream, r.what, r.status, r.coding, commas(r.wire),
			commas(int64(r.decoded)))
	}
	w.Flush()
}

// echo uploads a body that the server sends back as it arrives. One stream carries both directions
// at the same time.
func echo(ctx context.Context, out io.Writer, conn *hyper.Conn) error {
	sent, received := sha256.New(), sha256.New()
	source := io.LimitReader(rand.NewChaCha8([32]byte{}), uploadSize)
	start := time.Now()
	resp, err := conn.Do(ctx, &hyper.Request{
		Method: "POST",
		Path:   "/echo",
		Body:   io.TeeReader(source, sent), // any io.Reader; its length may be unknown
	})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(received, resp.Body)
	if err != nil {
		return err
	}
	took := time.Since(start)
	if n != uploadSize || string(sent.Sum(nil)) != string(received.Sum(nil)) {
		return fmt.Errorf("%d bytes came back of %d, or others", n, uploadSize)
	}
	fmt.Fprintf(out, "\nStream %d: %s bytes up and back again, full duplex\n", resp.StreamID, commas(n))
	fmt.Fprintf(out, "  SHA-256     %x… both ways\n", received.Sum(nil)[:8])
	fmt.Fprintf(out, "  throughput  %.0f MB/s each way, in %v\n", float64(n)/1e6/took.Seconds(),
		took.Round(time.Millisecond))
	return nil
}

// ping prints the shortest round trip of five PINGs.
func ping(ctx context.Context, out io.Writer, conn *hyper.Conn) error {
	best := time.Duration(0)
	for range 5 {
		rtt, err := conn.Ping(ctx)
		if err != nil {
			return err
		}
		if best == 0 || rtt < best {
			best = rtt
		}
	}
	fmt.Fprintf(out, "\nPING: a round trip takes %v\n", best.Round(time.Microsecond))
	return nil
}

// leave shuts down the connection gracefully and prints its figures.
func leave(ctx context.Context, out io.Writer, conn *hyper.Conn) error {
	if err := conn.Shutdown(ctx); err != nil {
		return err
	}
	s := conn.Stats()
	fmt.Fprintf(out, "\nClosed after %d streams and %d push; %s bytes sent, %s received\n",
		s.StreamsOpened, s.PushesPromised, commas(s.BytesSent), commas(s.BytesReceived))
	return nil
}

// commas formats 67108864 as 67,108,864.
func commas(n int64) string {
	s := strconv.FormatInt(n, 10)
	var b strings.Builder
	for i := range len(s) {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
