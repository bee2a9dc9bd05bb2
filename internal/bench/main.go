// Command bench measures hyper beside net/http against a server in Go, in processes of their own on this machine. It needs nothing
// else:
//
//	go -C internal/bench run .             # the main rows, about four minutes
//	go -C internal/bench run . -growth     # how cost grows, about five; with -write into README.md and growth.svg
//
// What is compared is CPU time of the client's process, user and system; clients alternate round by round, and a figure is the
// median of its rounds. Times are this machine's; ratios travel better.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"

	"gohyper.dev/hyper/internal/bench/work"
)

func main() {
	log.SetFlags(0)
	if err := run(os.Args[1:]); err != nil {
		log.Fatal("bench: ", err)
	}
}

func run(args []string) error {
	if len(args) > 0 { // as a process of a measurement
		switch args[0] {
		case "serve":
			return serve(os.Stdout)
		case "work":
			return work.Main(args[1:])
		}
	}
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	rounds := flags.Int("rounds", 5, "runs of each client")
	quick := flags.Bool("quick", false, "a hundredth of the work: does everything run?")
	growth := flags.Bool("growth", false, "measure how cost grows instead")
	write := flags.Bool("write", false, "write what was measured into README.md, and growth.svg, of this folder")
	flags.Parse(args)
	lab, err := newLab(*rounds)
	if err != nil {
		return err
	}
	defer lab.close()
	lab.quick = *quick
	if *growth {
		return lab.growth(*write)
	}
	text, err := lab.rows()
	if err != nil || !*write {
		return err
	}
	return replaceSection("README.md", "rows", fmt.Sprintf("```\n%s```\n", text))
}
