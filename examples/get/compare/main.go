// Command compare measures the CPU time of get bench for a request, beside h2load, hey and vegeta.
//
//	go -C examples/get run ./compare -write
//
// The server is nghttpd, which must be installed, as h2load must. It runs on one processor and the
// client on another (taskset); the clients alternate, round by round. Each has 100 requests at a
// time on one connection. hey and vegeta are installed by go install into a directory that is
// removed.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// allowed is how much CPU time get bench may use, as a multiple of h2load's.
const allowed = 1.6

// main measures, and writes the table.
func main() {
	log.SetFlags(0)
	rounds := flag.Int("rounds", 5, "measure this `number` of rounds")
	n := flag.Int("n", 100_000, "send this `number` of requests in each round; hey and vegeta send fewer")
	names := flag.String("clients", "h2load,get bench,hey,vegeta", "measure these, separated by commas")
	write := flag.Bool("write", false, "write the table into README.md")
	flag.Parse()
	table, err := compare(strings.Split(*names, ","), *rounds, *n)
	fmt.Print(table)
	if table != "" && *write {
		err = errors.Join(err, replaceTable("README.md", table))
	}
	if err != nil {
		log.Fatal("compare: ", err)
	}
}

// compare measures the clients with these names and returns the table. It is an error if get
// bench uses more than is allowed.
func compare(names []string, rounds, n int) (table string, err error) {
	dir, err := os.MkdirTemp("", "compare")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	var list []*client
	for _, name := range names {
		c, err := newClient(name, dir)
		if err != nil {
			return "", err
		}
		list = append(list, c)
	}
	s, err := startServer(dir)
	if err != nil {
		return "", err
	}
	defer s.close()
	for range rounds {
		for _, c := range list {
			cost, err := c.run(s.url, n)
			if err != nil {
				return "", fmt.Errorf("%s: %w", c.name, err)
			}
			c.costs = append(c.costs, cost)
			fmt.Fprintf(os.Stderr, "%-10s %v\n", c.name, cost)
		}
	}
	return makeTable(list, rounds)
}

// makeTable returns the table of the costs. The first client is the one that others are compared
// with.
func makeTable(list []*client, rounds int) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "| client | CPU µs for a request | of %s's, round by round |\n|---|---|---|\n",
		list[0].name)
	var err error
	for _, c := range list {
		ratios := make([]float64, rounds)
		for i := range ratios {
			ratios[i] = float64(c.costs[i]) / float64(list[0].costs[i])
		}
		ratio := median(ratios)
		fmt.Fprintf(&b, "| %s %s | %.2f | %.2f |\n", c.name, c.version,
			float64(median(c.costs))/float64(time.Microsecond), ratio)
		if c.name == "get bench" && ratio > allowed {
			err = fmt.Errorf("get bench uses %.2f times the CPU time of %s, more than %g", ratio,
				list[0].name, allowed)
		}
	}
	fmt.Fprintf(&b, "\nMedians of %d rounds, %s, %d processors.\n", rounds, runtime.Version(),
		runtime.NumCPU())
	return b.String(), err
}

// median returns the median of values.
func median[T int64 | float64 | time.Duration](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// The marks around the table in README.md.
const (
	tableBegins = "<!-- table -->\n"
	tableEnds   = "<!-- end of table -->\n"
)

// replaceTable writes the table into a file.
func replaceTable(name, table string) error {
	text, err := os.ReadFile(filepath.Clean(name))
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(text, []byte(tableBegins))
	_, after, ends := bytes.Cut(rest, []byte(tableEnds))
	if !ok || !ends {
		return fmt.Errorf("%s has no place for the table", name)
	}
	text = slices.Concat(before, []byte(tableBegins), []byte(table), []byte(tableEnds), after)
	return os.WriteFile(name, text, 0o666)
}
