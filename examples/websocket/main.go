// Command websocket opens WebSockets over HTTP/2 (RFC 8441) with github.com/coder/websocket, which
// only gets an http.Client with a hyper.Transport. The members of a chat share one connection. The
// server is Go's, in a process of its own.
//
//	go -C examples/websocket run . [-n 3]    n members join, and each sends a message
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
	"time"

	"github.com/coder/websocket"
	"gohyper.dev/hyper"
)

// main runs the chat, or the server for it, and exits with 1 if that fails.
func main() {
	log.SetFlags(0)
	if os.Getenv(serveVariable) != "" {
		log.Fatal("websocket: ", serve(os.Stdin, os.Stdout))
	}
	n, err := parse(os.Args[1:])
	if err == nil {
		err = run(context.Background(), os.Stdout, n)
	}
	if err != nil {
		log.Fatal("websocket: ", err)
	}
}

// parse returns the number of members.
func parse(args []string) (n int, err error) {
	flags := flag.NewFlagSet("websocket", flag.ExitOnError)
	flags.IntVar(&n, "n", 3, "members of the chat, 1 or more")
	flags.Parse(args)
	switch {
	case n < 1:
		return 0, fmt.Errorf("-n %d: want 1 or more", n)
	case flags.NArg() > 0:
		return 0, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return n, nil
}

// run starts the server, opens n WebSockets, and sends a message on each.
func run(ctx context.Context, out io.Writer, n int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	server, err := startServer(ctx)
	if err != nil {
		return err
	}
	defer server.stop()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(server.certificate) {
		return fmt.Errorf("the server has no certificate")
	}
	transport := &hyper.Transport{Config: &hyper.Config{TLS: &tls.Config{RootCAs: roots}}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}

	// The Transport learns from the server's SETTINGS whether it allows WebSockets over HTTP/2.
	// Where it does not, each WebSocket is an HTTP/1.1 connection of its own.
	var members []*websocket.Conn
	for range n {
		member, resp, err := websocket.Dial(ctx, server.url+"/chat",
			&websocket.DialOptions{HTTPClient: client})
		if err != nil {
			return err
		}
		defer member.CloseNow()
		fmt.Fprintf(out, "member %d joins over %s\n", len(members)+1, resp.Proto)
		members = append(members, member)
	}
	if err := talk(ctx, out, members); err != nil {
		return err
	}
	if err := deny(ctx, out, client, server.url); err != nil {
		return err
	}
	for _, member := range members {
		if err := member.Close(websocket.StatusNormalClosure, "goodbye"); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "%d WebSockets over %d connection\n", n, transport.Stats().Total.Dials)
	return nil
}

// talk sends a message on each WebSocket, and requires that all of them receive it.
func talk(ctx context.Context, out io.Writer, members []*websocket.Conn) error {
	for i, speaker := range members {
		said := fmt.Sprintf("hello from member %d", i+1)
		if err := speaker.Write(ctx, websocket.MessageText, []byte(said)); err != nil {
			return err
		}
		for _, member := range members {
			_, heard, err := member.Read(ctx)
			if err != nil {
				return err
			}
			if string(heard) != said {
				return fmt.Errorf("received %q, not %q", heard, said)
			}
		}
		fmt.Fprintf(out, "%d members receive %q\n", len(members), said)
	}
	return nil
}

// deny shows a WebSocket that the server denies: the response has the server's status.
func deny(ctx context.Context, out io.Writer, client *http.Client, url string) error {
	member, resp, err := websocket.Dial(ctx, url+"/private", &websocket.DialOptions{HTTPClient: client})
	if err == nil {
		member.CloseNow()
		return fmt.Errorf("the server allows what it should deny")
	}
	if resp == nil {
		return err
	}
	fmt.Fprintf(out, "the server denies /private: %s\n", resp.Status)
	return nil
}
