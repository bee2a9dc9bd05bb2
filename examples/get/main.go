// Command get fetches URLs over HTTP/2, with the flags of curl and some of its own. URLs of the
// same host share one connection and are fetched concurrently.
//
//	go run . https://www.example.com/
//	go run . -v -push https://localhost:8443/ http://localhost:8080/prior/knowledge
//	go run . bench -c 2 -m 50 -D 10 https://localhost:8443/
//
// README.md has all flags and exit codes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// Exit codes. If several URLs have different results, the lowest of exitFailed, exitTime and
// exitStatus that occurred is the code.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitStatus = 3
	exitTime   = 4
)

// A stdio has the standard streams.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// main runs the command and exits with its code. A signal cancels the requests.
func main() {
	ctx, stop := untilSignal(context.Background())
	defer stop()
	os.Exit(run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr}))
}

// untilSignal returns a context that ends with an interrupt or SIGTERM.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}

// run runs the command with args and returns the exit code.
func run(ctx context.Context, args []string, std stdio) int {
	if len(args) > 0 && args[0] == "bench" {
		return runBench(ctx, args[1:], std)
	}
	o, err := parse(args)
	if err != nil {
		return usage(err, std, helpForGet, groupsOfGet(&options{}))
	}
	g, err := newGetter(o, std)
	if err != nil {
		fmt.Fprintln(std.err, "get:", err)
		return exitFailed
	}
	exit := g.getAll(ctx)
	if err := g.finish(); err != nil {
		fmt.Fprintln(std.err, "get:", err)
		exit = exitFailed
	}
	return exit
}

// usage writes the help if the error is a request for it, or what is wrong with the command line.
// It returns the exit code.
func usage(err error, std stdio, intro string, groups []group) int {
	switch {
	case errors.Is(err, pflag.ErrHelp):
		writeHelp(std.out, intro, groups)
		return exitOK
	case errors.Is(err, errNoURL):
		writeHelp(std.err, intro, groups)
		return exitUsage
	}
	fmt.Fprintf(std.err, "get: %v (-h lists the flags)\n", err)
	return exitUsage
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
