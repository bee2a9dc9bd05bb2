package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// A tally is what one client does per request, by the names of the columns.
type tally struct {
	Client  string             `json:"client"`
	Callers int                `json:"callers"`
	Counts  map[string]float64 `json:"counts"`
}

// columns are the columns of the table of counts.
var columns = []string{"instructions", "allocations", "bytes", "locks", "wake-ups", "starts",
	"system calls", "switches", "writes", "reads"}

// countedClients are the clients to measure.
var countedClients = []string{"own", "reused", "roundtrip", "nethttp", "floor", "floortypes", "h2load"}

// countedCallers are how many callers a client has, one after the other.
var countedCallers = []int{100, 1}

// countedFuncs are the functions to count the calls of, with their columns. The program that
// counts them is built without inlining.
var countedFuncs = map[string]string{
	"internal/sync.(*Mutex).Lock": "locks",
	"sync.(*RWMutex).RLock":       "locks",
	"runtime.ready":               "wake-ups",
}

// A counter counts what a request takes. What a process does at its start does not count: each
// count is the difference between two runs.
type counter struct {
	*lab
	origin string
	dir    string
	plain  string // the program without inlining
}

// writeCounts counts what clients do per request, and prints a table. With a file, it writes the
// counts into it as JSON. With write, it writes the table into README.md.
func (l *lab) writeCounts(file string, write bool) error {
	c := &counter{lab: l, origin: l.floorOrigin}
	var err error
	if c.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	defer os.RemoveAll(c.dir)
	server, err := startNghttpd()
	if err != nil {
		return err
	}
	if server != nil {
		defer server.close()
		c.origin = server.origin
	}
	for _, program := range []string{"nghttpd", "h2load", "valgrind", "perf"} {
		if _, err := exec.LookPath(program); err != nil {
			fmt.Println(program + " is not installed: what needs it is left out")
		}
	}
	if err := c.build(); err != nil {
		return err
	}
	return c.write(file, write)
}

// write counts and writes the results.
func (c *counter) write(file string, write bool) error {
	var tallies []tally
	for _, callers := range countedCallers {
		for _, impl := range countedClients {
			if impl == "h2load" && !h2loadInstalled() {
				continue
			}
			t, err := c.tally(impl, callers)
			if err != nil {
				return fmt.Errorf("%s: %w", impl, err)
			}
			fmt.Fprintln(os.Stderr, t)
			tallies = append(tallies, t)
		}
	}
	table := countTable(tallies)
	fmt.Print(table)
	if file != "" {
		text, err := json.MarshalIndent(tallies, "", "\t")
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	if !write {
		return nil
	}
	return replaceSection("README.md", "counts", table)
}

// build builds the program without inlining, so that calls can be counted.
func (c *counter) build() error {
	if _, err := exec.LookPath("valgrind"); err != nil {
		return nil
	}
	c.plain = filepath.Join(c.dir, "plain")
	cmd := exec.Command("go", "build", "-gcflags=all=-l", "-o", c.plain, "gohyper.dev/hyper/internal/bench")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, out)
	}
	return nil
}

// command returns the command of a client that does n requests.
func (c *counter) command(program, impl string, callers, n int) []string {
	if impl == "h2load" {
		return []string{"h2load", "-c", "1", "-t", "1", "-m", count(callers), "-n", count(n),
			c.origin + "/1k"}
	}
	return []string{program, "work", "-impl", impl, "-mode", "get", "-url", c.origin + "/1k",
		"-c", count(callers), "-n", count(n), "-warm", count(c.scaled(1000)), "-wire"}
}

// tally counts what one client does.
func (c *counter) tally(impl string, callers int) (tally, error) {
	t := tally{clientName(impl), callers, map[string]float64{}}
	if impl != "h2load" {
		n := c.scaled(min(40000, 4000*callers))
		f, err := c.once(c.command("", impl, callers, n)[1:])
		if err != nil {
			return t, err
		}
		each := func(name string, n float64) float64 { v, _ := f[name].(float64); return v / n }
		t.Counts["allocations"], t.Counts["bytes"] = each("allocs_per_req", 1), each("B_per_req", 1)
		t.Counts["starts"] = each("starts_per_req", 1)
		t.Counts["writes"], t.Counts["reads"] = each("wr_calls", float64(n)), each("rd_calls", float64(n))
	}
	if _, err := exec.LookPath("perf"); err == nil {
		many := c.scaled(min(20000, 4000*callers))
		if err := c.difference(t.Counts, 1, many, func(n int) (map[string]float64, error) {
			return c.perf(c.command(c.program, impl, callers, n))
		}); err != nil {
			return t, err
		}
	}
	// valgrind is slow, and what it counts depends little on the number of callers.
	if c.plain == "" || callers != countedCallers[0] {
		return t, nil
	}
	few := c.scaled(1500)
	if err := c.difference(t.Counts, few, 2*few, func(n int) (map[string]float64, error) {
		all, _, err := c.callgrind(c.command(c.program, impl, callers, n))
		return map[string]float64{"instructions": all}, err
	}); err != nil || impl == "h2load" {
		return t, err
	}
	return t, c.difference(t.Counts, few, 2*few, func(n int) (map[string]float64, error) {
		_, calls, err := c.callgrind(c.command(c.plain, impl, callers, n))
		return calls, err
	})
}

// difference puts into counts by how much more each request of many counts than of few.
func (c *counter) difference(counts map[string]float64, few, many int,
	run func(n int) (map[string]float64, error),
) error {
	before, err := run(few)
	if err != nil {
		return err
	}
	after, err := run(many)
	for name, v := range after {
		counts[name] = max(0, v-before[name]) / float64(max(1, many-few))
	}
	return err
}

// perf counts system calls, and how often the kernel switches from one thread to another.
func (c *counter) perf(command []string) (map[string]float64, error) {
	file := filepath.Join(c.dir, "perf")
	events := map[string]string{"raw_syscalls:sys_enter": "system calls", "context-switches": "switches"}
	args := []string{"stat", "-x", ",", "-o", file}
	for e := range events {
		args = append(args, "-e", e)
	}
	if err := c.runProgram("perf", append(append(args, "--"), command...)); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	counts := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		if v := strings.Split(line, ","); len(v) > 2 && events[v[2]] != "" {
			if n, err := strconv.ParseFloat(v[0], 64); err == nil { // else the kernel does not count it
				counts[events[v[2]]] = n
			}
		}
	}
	return counts, nil
}

// callgrind runs a command in valgrind. It returns the number of instructions, and how often the
// countedFuncs were called.
func (c *counter) callgrind(command []string) (instructions float64, calls map[string]float64, err error) {
	file := filepath.Join(c.dir, "callgrind")
	args := []string{"--tool=callgrind", "--callgrind-out-file=" + file}
	if err := c.runProgram("valgrind", append(args, command...)); err != nil {
		return 0, nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, nil, err
	}
	return readCallgrind(bytes.NewReader(text))
}

// runProgram runs a program on the processor of the clients.
func (c *counter) runProgram(program string, args []string) error {
	cmd := pinned("1", program, args...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %.1000s", program, err, out)
	}
	return nil
}

// Lines of callgrind's files: what functions are called, how often, and the sum of all.
var (
	callgrindName  = regexp.MustCompile(`^c?fn=\((\d+)\)(?: (.*))?$`)
	callgrindCalls = regexp.MustCompile(`^calls=(\d+)`)
	callgrindTotal = regexp.MustCompile(`^(?:totals|summary): (\d+)`)
)

// readCallgrind reads a file of callgrind's. A name is written where its number is used first.
func readCallgrind(file io.Reader) (instructions float64, calls map[string]float64, err error) {
	names, callee := map[string]string{}, ""
	calls = map[string]float64{}
	for _, column := range countedFuncs {
		calls[column] = 0
	}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if m := callgrindName.FindStringSubmatch(line); m != nil {
			if m[2] != "" {
				names[m[1]] = m[2]
			}
			callee = names[m[1]]
		} else if m := callgrindCalls.FindStringSubmatch(line); m != nil {
			if column := countedFuncs[strings.TrimSuffix(callee, "'2")]; column != "" {
				n, _ := strconv.ParseFloat(m[1], 64)
				calls[column] += n
			}
		} else if m := callgrindTotal.FindStringSubmatch(line); m != nil {
			n, _ := strconv.ParseFloat(m[1], 64)
			instructions = max(instructions, n)
		}
	}
	return instructions, calls, lines.Err()
}

// countTable returns the counts as a table of README.md.
func countTable(tallies []tally) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| client | callers | %s |\n|---|---|%s\n", strings.Join(columns, " | "),
		strings.Repeat("---|", len(columns)))
	for _, t := range tallies {
		fmt.Fprintf(&b, "| %s | %d |", t.Client, t.Callers)
		for _, column := range columns {
			switch v, ok := t.Counts[column]; {
			case !ok:
				b.WriteString(" – |")
			case v >= 100:
				fmt.Fprintf(&b, " %.0f |", v)
			default:
				fmt.Fprintf(&b, " %.2g |", v)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
