// This file has the command line of get bench, a load generator.

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/pflag"
)

// benchOptions are the options of get bench.
type benchOptions struct {
	request requestOptions
	conn    connOptions
	flow    flowOptions
	load    loadOptions
	json    string // the file of --json; empty: none
	silent  bool
	urls    []*url.URL
}

// loadOptions are the number of requests and their times.
type loadOptions struct {
	conns   int
	streams int           // of each connection
	count   int64         // of requests; 0: no limit
	length  time.Duration // 0: no limit
	rate    float64       // of the open model, requests a second; 0: closed model
	warmUp  time.Duration
	timeout time.Duration // of a request
	giveUp  time.Duration // with a count: after this time without a server
}

// The defaults of get bench.
const (
	defaultLength  = 10 * time.Second
	defaultTimeout = 30 * time.Second
	defaultGiveUp  = 10 * time.Second
)

// The limits of get bench.
const (
	maxConns   = 100_000
	maxWorkers = 1_000_000
)

// helpForBench begins the help of get bench.
const helpForBench = `usage: get bench [flags] URL…

Sends requests over HTTP/2 and measures how long they take. Several URLs of one host take turns.

In the closed model, each of the -m streams of each of the -c connections sends its next request
when the last one has its response. In the open model, with -r, requests are due at a constant rate
whatever the server does, and their latency counts from the time when they were due.
`

// addFlags adds the flags.
func (o *loadOptions) addFlags(f *pflag.FlagSet) {
	f.IntVarP(&o.conns, "connections", "c", 1, "use this `number` of connections")
	f.IntVarP(&o.streams, "streams", "m", 10, "have at most this `number` of requests at a time on each")
	f.Int64VarP(&o.count, "requests", "n", 0, "send this `number` of requests")
	f.VarP((*seconds)(&o.length), "duration", "D",
		"send requests for this many `seconds`, or a time such as 1m30s; 10 without -n; the last ones "+
			"may take the time of --timeout longer")
	f.Float64VarP(&o.rate, "rate", "r", 0, "open model: send this `number` of requests a second")
	f.Var((*seconds)(&o.warmUp), "warm-up", "before that, send requests for this many `seconds` that are "+
		"not measured")
	f.Var((*seconds)(&o.timeout), "timeout", "end each request after this many `seconds`; 30 if it is 0")
	f.Var((*seconds)(&o.giveUp), "give-up", "with -n, give up after this many `seconds` without a "+
		"server; 10 if it is 0")
}

// check fills in the defaults, and returns an error if the options make no sense.
func (o *loadOptions) check() error {
	switch {
	case o.conns < 1 || o.conns > maxConns:
		return fmt.Errorf("-c is not between 1 and %d", maxConns)
	case o.streams < 1 || o.streams > maxWorkers/o.conns:
		return fmt.Errorf("-m is not between 1 and %d", maxWorkers/o.conns)
	case o.count < 0:
		return errors.New("-n is negative")
	case o.rate < 0 || o.rate > 1e9:
		return errors.New("-r is not between 0 and 1e9")
	}
	if o.count == 0 && o.length == 0 {
		o.length = defaultLength
	}
	if o.timeout == 0 {
		o.timeout = defaultTimeout
	}
	if o.giveUp == 0 {
		o.giveUp = defaultGiveUp
	}
	return nil
}

// groupsOfBench returns the flags of get bench, which set o.
func groupsOfBench(o *benchOptions) []group {
	return []group{
		newGroup("load", o.load.addFlags),
		newGroup("request", o.request.addFlags),
		newGroup("connection", func(f *pflag.FlagSet) {
			o.conn.addFlags(f)
			o.flow.addWindow(f)
		}),
		newGroup("results", func(f *pflag.FlagSet) {
			f.StringVar(&o.json, "json", "", "write the results as JSON to this `file`; - is standard "+
				"output, in place of the table; README.md has the fields")
			f.BoolVarP(&o.silent, "silent", "s", false, "show no progress")
		}),
	}
}

// parseBench reads the command line of get bench.
func parseBench(args []string) (*benchOptions, error) {
	o := &benchOptions{}
	urls, err := parseFlags(args, groupsOfBench(o))
	if err != nil {
		return nil, err
	}
	for _, arg := range urls {
		u, err := parseURL(arg)
		if err != nil {
			return nil, err
		}
		o.urls = append(o.urls, u)
		if first := o.urls[0]; u.Scheme != first.Scheme || u.Host != first.Host {
			return nil, fmt.Errorf("%s and %s are on different hosts", first.Redacted(), u.Redacted())
		}
	}
	if len(o.urls) == 0 {
		return nil, errNoURL
	}
	if len(o.request.uploads) > 1 {
		return nil, errors.New("bench uploads one file, to all URLs")
	}
	return o, errors.Join(o.request.check(), o.conn.proxy.check(), o.load.check())
}

// runBench runs get bench with args and returns the exit code.
func runBench(ctx context.Context, args []string, std stdio) int {
	o, err := parseBench(args)
	if err != nil {
		return usage(err, std, helpForBench, groupsOfBench(&benchOptions{}))
	}
	if err := checkCreate(o.json); err != nil {
		fmt.Fprintln(std.err, "get: bench:", err)
		return exitFailed
	}
	r, err := o.measure(ctx, std)
	if err != nil {
		fmt.Fprintln(std.err, "get: bench:", explain(err))
		r = o.failure(err)
		r.Interrupted = ctx.Err() != nil
	}
	if err := o.write(r, std); err != nil {
		fmt.Fprintln(std.err, "get: bench:", err)
		return exitFailed
	}
	return r.exit()
}
