// Flowsim simulates downloads in virtual time. The client is the real flow control of package
// hyper, with its windows and managers. The simulation adds a path with a rate and a delay, a
// server in TCP's slow start, and a reader. It is deterministic: the same scenario gives the same
// figures on any machine.
//
//	go run ./internal/flowsim                 # every manager in all cells and conditions
//	go run ./internal/flowsim -only Adaptive  # one of the managers
//	go run ./internal/flowsim -plot a.svg -rtt 100ms -rate 1e9 -streams 1 -reader 1e6 -for 3s
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
	"time"
)

// main prints the tables, or writes the plot if there is -plot.
func main() {
	log.SetFlags(0)
	var (
		only    = flag.String("only", "", "managers, separated by commas; all of them where it is empty")
		octets  = flag.Int("octets", 64<<20, "of a transfer, all streams together")
		plot    = flag.String("plot", "", "write an SVG of one cell to this file")
		rtt     = flag.Duration("rtt", 100*time.Millisecond, "of the plot's path")
		rate    = flag.Float64("rate", 1e9, "of the plot's path, bits per second")
		streams = flag.Int("streams", 1, "of the plot")
		reader  = flag.Float64("reader", 0,
			"octets per second that the plot's reader takes; 0: whatever comes")
		span = flag.Duration("for", 3*time.Second, "what the plot shows")
	)
	flag.Parse()
	chosen := subjects
	if *only != "" {
		names := strings.Split(*only, ",")
		chosen = slices.DeleteFunc(slices.Clone(subjects),
			func(s subject) bool { return !slices.Contains(names, s.name) })
	}
	if *plot == "" {
		if err := printAll(os.Stdout, chosen, *octets); err != nil {
			log.Fatal(err)
		}
		return
	}
	if *only == "" {
		chosen = plotted()
	}
	svg, err := drawPlot(Scenario{RTT: *rtt, Rate: *rate, Streams: *streams, Reader: *reader}, chosen, *span)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(*plot, svg, 0o644); err != nil {
		log.Fatal(err)
	}
	fmt.Println(*plot)
}
