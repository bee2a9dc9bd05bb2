// Command upload sends a file with hyper, shows how much of it has left, and goes on where a lost
// connection has stopped it (draft-ietf-httpbis-resumable-upload). It starts a real HTTP/2 server
// in its own process, which resets the stream once and closes the connection once.
//
//	go run ./examples/upload [file]     sends file, or 32 MiB that it makes
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"net/url"
	"os"
	"time"

	"gohyper.dev/hyper"
)

const usage = "usage: upload [file]\n\nSends file, or 32 MiB that it makes, to a server in its own process."

// main sends the file and exits with 1 if that fails.
func main() {
	log.SetFlags(0)
	flag.Usage = func() { fmt.Fprintln(flag.CommandLine.Output(), usage) }
	flag.Parse()
	if err := run(context.Background(), os.Stdout, flag.Args()...); err != nil {
		log.Fatal("upload: ", err)
	}
}

// run starts the server, sends the file to it, and compares what the server has received. args has
// the name of the file, or is empty.
func run(ctx context.Context, out io.Writer, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	var file io.ReaderAt = bytes.NewReader(bytes.Repeat([]byte("0123456789abcde\n"), 2<<20))
	size := int64(32 << 20)
	switch len(args) {
	case 0:
	case 1:
		f, length, err := open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		file, size = f, length
	default:
		return fmt.Errorf("%d arguments, want one file at most", len(args))
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(file, 0, size)); err != nil {
		return err
	}

	server := startServer(size/3, 2*size/3)
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	addr, cfg := server.Listener.Addr().String(), &hyper.Config{TLS: &tls.Config{RootCAs: roots}}
	u := &Uploader{
		Dial:     func(ctx context.Context) (*hyper.Conn, error) { return hyper.Dial(ctx, addr, cfg) },
		URL:      &url.URL{Scheme: "https", Host: addr, Path: "/files"},
		Progress: func(sent int64) { fmt.Fprintf(out, "%3d %% has left\n", sent*100/max(size, 1)) },
		OnResume: func(offset int64, err error) {
			fmt.Fprintf(out, "goes on at %d after: %v\n", offset, err)
		},
	}
	answer, err := u.Upload(ctx, file, size)
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("%d bytes, SHA-256 %x", size, sum.Sum(nil)); answer != want {
		return fmt.Errorf("the server has %s, not %s", answer, want)
	}
	fmt.Fprintf(out, "the server has %s\n", answer)
	return nil
}

// open opens a regular file and returns its length. Only such a file has a length and can be read
// again from an offset.
func open(name string) (*os.File, int64, error) {
	info, err := os.Stat(name) // before os.Open, which waits for the other end of a pipe
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a regular file", name)
	}
	f, err := os.Open(name)
	return f, info.Size(), err
}
