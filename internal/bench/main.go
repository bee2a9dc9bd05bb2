// Command bench compares hyper with net/http, against a server in Go. All run in their own
// processes on this machine. It needs nothing else:
//
//	go -C internal/bench run .             # each kind of work beside its peers, half an hour
//	go -C internal/bench run . -rows       # the main rows, about four minutes
//	go -C internal/bench run . -growth     # how cost grows, about five minutes
//	go -C internal/bench run . -counts     # what can be counted per request
//	go -C internal/bench run . -paths      # a GET beside transfers on slow paths, eight minutes
//	go -C internal/bench run . -plots DIR  # speed, memory, windows as pictures, ten minutes
//
// With -write, it writes the result to README.md, with goals.json and a picture of each kind of
// work, and with -growth also growth.svg.
//
// The cost is the CPU time of the client's process, user and system. Clients alternate round by
// round, and a figure is the median of its rounds. Times depend on the machine; ratios do so less.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"

	"gohyper.dev/hyper/internal/bench/work"
)

// main runs the command.
func main() {
	log.SetFlags(0)
	if err := run(os.Args[1:]); err != nil {
		log.Fatal("bench: ", err)
	}
}

// run runs the command with args. With "serve", "servefloor" and "work" it is a process of a
// measurement.
func run(args []string) error {
	if len(args) > 0 { // a process of a measurement
		switch args[0] {
		case "serve":
			return serve(append(args[1:], "127.0.0.1:0")[0], os.Stdout)
		case "servefloor":
			return serveFloor(os.Stdout)
		case "work":
			return work.Main(args[1:])
		}
	}
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	rounds := flags.Int("rounds", 5, "runs of each client")
	quick := flags.Bool("quick", false, "a hundredth of the work: does everything run?")
	growth := flags.Bool("growth", false, "measure how cost grows instead")
	rows := flags.Bool("rows", false, "measure the main rows instead, with net/http's server")
	counts := flags.Bool("counts", false,
		"count instead what a request takes: instructions, allocations, locks, wake-ups, system calls")
	overPaths := flags.Bool("paths", false,
		"measure a GET beside transfers over slow networks of real TCP instead; needs root on Linux")
	only := flags.String("only", "", "a regular expression of the names of lines; plots: of speed, bulk, "+
		"memory and windows")
	jsonFile := flags.String("json", "", "write the results to this `file`, too; not with -rows, "+
		"-growth and -plots")
	write := flags.Bool("write", false,
		"write what was measured into README.md and the pictures of this folder; plots: also the table of "+
			"the repository's README.md")
	plots := flags.String("plots", "", "measure the plots instead, and write them into this `folder`")
	draw := flags.Bool("draw", false, "plots: measure nothing, draw again what the folder's plots.json has")
	flags.Parse(args)
	if *plots != "" {
		return writePlots(plotOptions{dir: *plots, only: *only, draw: *draw, write: *write, rounds: *rounds,
			quick: *quick})
	}
	if *overPaths {
		return writePaths(*quick, *only, *jsonFile, *write)
	}
	lab, err := newLab(*rounds)
	if err != nil {
		return err
	}
	defer lab.close()
	lab.quick = *quick
	if *growth {
		return lab.growth(*write)
	}
	if !*rows {
		if err := lab.startFloor(); err != nil {
			return err
		}
		if *counts {
			return lab.writeCounts(*jsonFile, *write)
		}
		return lab.writeGoals(*only, *jsonFile, *write)
	}
	text, err := lab.rows()
	if err != nil || !*write {
		return err
	}
	return replaceSection("README.md", "rows", fmt.Sprintf("```\n%s```\n", text))
}
