// Command driver does one piece of work with hyper and says what it cost this process, as one line of JSON. A measuring kit
// runs it beside other clients, on a core of its own.
//
//	driver -impl own  -mode get -url https://127.0.0.1:8443/1k -c 100 -n 80000
//
// Certificates are not verified.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"runtime"
	"runtime/pprof"
	"time"
)

// options are the flags.
type options struct {
	impl, mode   string
	target       target
	callers      int
	requests     int
	warm         int
	size         int64
	conns        int
	buffer       int
	rate         int64
	length       time.Duration
	wire, resume bool
	cpuProfile   string
	memProfile   string
}

// modes are the pieces of work. Each returns its figures.
var modes = map[string]func(*options) (figures, error){
	"get": get, "down": down, "up": up, "conn": connect, "idle": idle, "open": open, "slow": slow,
}

func main() {
	log.SetFlags(0)
	var o options
	flag.StringVar(&o.impl, "impl", "own", "own: hyper's API; http: net/http's, with hyper's Transport")
	flag.StringVar(&o.mode, "mode", "get", "get, down, up, conn, idle, open or slow")
	rawURL := flag.String("url", "https://127.0.0.1:8443/1k", "what to request")
	flag.IntVar(&o.callers, "c", 1, "goroutines, on one connection")
	flag.IntVar(&o.requests, "n", 20000, "get: requests in all; down: for each goroutine; conn: connections; open: streams")
	flag.IntVar(&o.warm, "warm", 2000, "get: requests before the measurement")
	flag.Int64Var(&o.size, "size", 1<<28, "up: octets of each body")
	flag.IntVar(&o.conns, "conns", 1, "idle, open: connections")
	flag.IntVar(&o.buffer, "buf", 64<<10, "down: octets of the reading buffer")
	flag.Int64Var(&o.rate, "rate", 1<<20, "slow: octets a second")
	flag.DurationVar(&o.length, "dur", 10*time.Second, "slow: how long")
	flag.BoolVar(&o.wire, "wire", false, "count what crosses the socket")
	flag.BoolVar(&o.resume, "resume", false, "conn: keep TLS sessions")
	flag.StringVar(&o.cpuProfile, "cpuprofile", "", "get, down, up: profile of the measurement, to this `file`")
	flag.StringVar(&o.memProfile, "memprofile", "", "profile of all allocations, to this `file`")
	flag.Parse()
	var err error
	if o.target, err = parseTarget(*rawURL); err == nil {
		err = run(&o)
	}
	if err != nil {
		log.Fatal("driver: ", err)
	}
}

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

func writeProfile(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return pprof.Lookup("allocs").WriteTo(f, 0)
}
