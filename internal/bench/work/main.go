// Package work does the work by which clients are measured, and measures what it costs the process.
package work

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"time"
)

// options are the values of the flags.
type options struct {
	impl, mode   string
	target       target
	callers      int
	requests     int
	warm         int
	size         int64
	conns        int
	buffer       int
	fields       int
	frame        int
	rate         int64
	length       time.Duration
	settle       time.Duration
	wire, resume bool
	latency      bool
	changing     bool
	rps          float64
	busy         int
	locks        bool
	cpuProfile   string
	memProfile   string
}

// modes are the kinds of work. Each returns its figures.
var modes = map[string]func(*options) (figures, error){
	"get": get, "down": down, "up": up, "conn": connect, "many": many, "idle": idle, "open": open,
	"slow": slow, "besideup": besideUp, "besidedown": besideDown, "rate": rate, "unary": unary,
	"streaming": streaming,
}

// Main does the work that args describe, which are flags, and prints the figures as a line of JSON.
func Main(args []string) error {
	var o options
	flags := flag.NewFlagSet("work", flag.ExitOnError)
	flags.StringVar(&o.impl, "impl", "own",
		"own: hyper's API; reused: the same with a hyper.Caller for each goroutine (get); "+
			"http: http.Client over hyper's Transport; roundtrip: that Transport alone; "+
			"nethttp: net/http; xnet: golang.org/x/net/http2; grpc: grpc-go, which calls the path; "+
			"floor, floortypes: the least that a client in Go does")
	flags.StringVar(&o.mode, "mode", "get",
		"get, down, up, conn, many, idle, open, slow, besideup, besidedown, rate, unary or streaming")
	rawURL := flags.String("url", "https://127.0.0.1:8443/1k", "what to request")
	flags.IntVar(&o.callers, "c", 1, "goroutines, on one connection")
	flags.IntVar(&o.requests, "n", 20000,
		"get, many: requests in all; down: for each goroutine; conn: connections; open: streams")
	flags.IntVar(&o.warm, "warm", 2000, "get: requests before the measurement")
	flags.Int64Var(&o.size, "size", 1<<28, "up: bytes of each body")
	flags.IntVar(&o.conns, "conns", 1, "many, idle, open: connections")
	flags.IntVar(&o.buffer, "buf", 64<<10, "down: bytes of the reading buffer")
	flags.IntVar(&o.fields, "fields", 0, "fields to add to each request")
	flags.IntVar(&o.frame, "frame", 0, "SETTINGS_MAX_FRAME_SIZE to announce; 0: the client's own")
	flags.Int64Var(&o.rate, "rate", 1<<20, "slow: bytes a second")
	flags.DurationVar(&o.length, "dur", 10*time.Second, "slow, besideup, besidedown, rate: how long")
	flags.DurationVar(&o.settle, "settle", 4*time.Second, "besideup, besidedown: how long before that")
	flags.BoolVar(&o.wire, "wire", false, "count what crosses the socket")
	flags.BoolVar(&o.latency, "latency", false,
		"get: time each request; its cost has two looks at the clock more")
	flags.BoolVar(&o.changing, "changing", false,
		"get, many: fields and paths that change with each request, beside those of -fields")
	flags.Float64Var(&o.rps, "rps", 0, "rate: requests that arrive per second")
	flags.IntVar(&o.busy, "busy", 0, "get: goroutines that never rest meanwhile; for -latency")
	flags.BoolVar(&o.resume, "resume", false, "conn: keep TLS sessions")
	flags.BoolVar(&o.locks, "locks", false, "profile the measurement: what part of it are waits for locks?")
	flags.StringVar(&o.cpuProfile, "cpuprofile", "",
		"get, many, down, up, conn, rate, unary, streaming: profile of the measurement, to this `file`")
	flags.StringVar(&o.memProfile, "memprofile", "", "profile of all allocations, to this `file`")
	flags.Parse(args)
	var err error
	if o.target, err = parseTarget(*rawURL); err != nil {
		return err
	}
	return run(&o)
}

// run does the work of o and prints the figures.
func run(o *options) error {
	mode := modes[o.mode]
	if mode == nil {
		return fmt.Errorf("no mode %q", o.mode)
	}
	if o.memProfile != "" {
		runtime.MemProfileRate = 512
	}
	f, err := mode(o)
	if err != nil {
		return err
	}
	f["impl"], f["mode"], f["c"] = o.impl, o.mode, o.callers
	if o.memProfile != "" {
		if err := writeProfile(o.memProfile); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}

// writeProfile writes a profile of all allocations to a file.
func writeProfile(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return pprof.Lookup("allocs").WriteTo(f, 0)
}
