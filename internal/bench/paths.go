package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// errNoNetwork is why this machine or this user cannot make a network.
var errNoNetwork = errors.New("no network of our own")

// Times of one measurement on a path.
const (
	pathSettle = 4 * time.Second  // the transfers run so long before anything is measured
	pathSpan   = 12 * time.Second // then it is measured so long
	pathGrace  = 30 * time.Second // a process that takes so much longer is ended
)

// A path is a network between a client and a server, with the kernel's TCP at both ends.
type path struct {
	Rate       float64       `json:"rate"`       // bits per second, in each direction
	RTT        time.Duration `json:"rtt"`        // without a queue
	Queue      time.Duration `json:"queue"`      // how long a packet waits in the full queue
	Congestion string        `json:"congestion"` // the congestion control of both ends
}

// namespacePrefix returns how the names of this process's network namespaces begin.
func namespacePrefix() string { return fmt.Sprintf("bench-%d-", os.Getpid()) }

// queue returns the size of the queue in bytes.
func (p path) queue() int { return int(p.Rate / 8 * p.Queue.Seconds()) }

// String returns the path as the table has it.
func (p path) String() string {
	rate := fmt.Sprintf("%g Mbit/s", p.Rate/1e6)
	if p.Rate >= 1e9 {
		rate = fmt.Sprintf("%g Gbit/s", p.Rate/1e9)
	}
	return fmt.Sprintf("%s × %d ms, queue %g s, %s", rate, p.RTT.Milliseconds(), p.Queue.Seconds(),
		p.Congestion)
}

// A transfer is what fills a path.
type transfer struct {
	Mode    string `json:"mode"` // besideup or besidedown
	Streams int    `json:"streams"`
}

// String returns the transfer as the table has it.
func (w transfer) String() string {
	kind := "upload"
	if w.Mode == "besidedown" {
		kind = "download"
	}
	if w.Streams == 1 {
		return "1 " + kind
	}
	return fmt.Sprintf("%d %ss", w.Streams, kind)
}

// A cell is one row of the table.
type cell struct {
	path
	transfer
}

// name returns what -only matches.
func (c cell) name() string { return c.path.String() + ", " + c.transfer.String() }

// cells returns the rows for each congestion control.
func cells(congestion []string) (all []cell) {
	const ms = time.Millisecond
	for _, control := range congestion {
		for _, c := range []cell{
			{path{10e6, 40 * ms, 100 * ms, control}, transfer{"besideup", 8}},
			{path{10e6, 40 * ms, 1000 * ms, control}, transfer{"besideup", 8}},
			{path{100e6, 40 * ms, 100 * ms, control}, transfer{"besideup", 8}},
			{path{10e6, 40 * ms, 1000 * ms, control}, transfer{"besidedown", 8}},
			{path{1e9, 100 * ms, 100 * ms, control}, transfer{"besideup", 1}},
			{path{1e9, 100 * ms, 100 * ms, control}, transfer{"besidedown", 1}},
		} {
			all = append(all, c)
		}
	}
	return all
}

// pathClients are the clients that paths are measured with.
var pathClients = []client{{"own", "hyper"}, {"nethttp", "net/http"}}

// A pathResult is what one client did on one path.
type pathResult struct {
	path
	transfer
	Client  string  `json:"client"`
	Mbit    float64 `json:"mbit"`       // of bodies, per second
	Median  float64 `json:"median_ms"`  // of a GET of 1 KiB beside the transfers
	P90     float64 `json:"p90_ms"`     // of the same
	Gets    float64 `json:"gets"`       // how many there were
	Pending float64 `json:"pending_ms"` // how long the last GET had waited at the end; 0: it had ended
	CPU     float64 `json:"cpu"`        // seconds of the client's process in the measured time
}

// A pathBench measures cells.
type pathBench struct {
	settle, span time.Duration
	only         *regexp.Regexp // names of the cells that are measured
	out          io.Writer      // where the table goes, row by row
}

// congestionControls returns those of Cubic and BBR that the kernel has.
func congestionControls() (controls []string) {
	text, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	for _, control := range []string{"cubic", "bbr"} {
		if slices.Contains(strings.Fields(string(text)), control) {
			controls = append(controls, control)
		}
	}
	return controls
}

// paths measures all cells, prints the table, and writes the results to the file jsonFile as JSON
// unless that is "". Where a network cannot be made, it says so and measures nothing.
func paths(b *pathBench, jsonFile string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	all, err := b.run(ctx, cells(congestionControls()))
	if errors.Is(err, errNoNetwork) {
		fmt.Fprintln(b.out, "paths: skipped:", err)
		return nil
	}
	if err != nil || jsonFile == "" {
		return err
	}
	text, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(jsonFile, append(text, '\n'), 0o644)
}

// run measures the cells that -only matches.
func (b *pathBench) run(ctx context.Context, cells []cell) (all []pathResult, err error) {
	head, line := "| path | transfers |", "|---|---|"
	for _, c := range pathClients {
		head += fmt.Sprintf(" %s: GET ms, median | p90 | Mbit/s |", c.name)
		line += "---|---|---|"
	}
	head += "\n" + line + "\n"
	for _, c := range cells {
		if !b.only.MatchString(c.name()) {
			continue
		}
		row := fmt.Sprintf("| %s | %s |", c.path, c.transfer)
		for _, client := range pathClients {
			r, err := b.measure(ctx, c, client)
			if err != nil {
				return all, fmt.Errorf("%s, %s: %w", c.name(), client.name, err)
			}
			all = append(all, r)
			row += fmt.Sprintf(" %.0f | %.0f | %.4g |", r.Median, r.P90, r.Mbit)
		}
		fmt.Fprintln(b.out, head+row)
		head = ""
	}
	return all, nil
}

// measure makes the network of a cell, starts a server in it, and measures one client.
func (b *pathBench) measure(ctx context.Context, c cell, by client) (r pathResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.settle+b.span+pathGrace)
	defer cancel()
	n, err := newNetwork(ctx, c.path)
	if err != nil {
		return r, err
	}
	defer n.close()
	program, err := os.Executable()
	if err != nil {
		return r, err
	}
	server, origin, err := serveInside(ctx, n, program)
	if err != nil {
		return r, err
	}
	defer server.Wait()
	defer server.Process.Kill()
	command := n.inside(1, program, "work", "-impl", by.impl, "-mode", c.Mode, "-c", strconv.Itoa(c.Streams),
		"-settle", b.settle.String(), "-dur", b.span.String(), "-url", origin+"/received")
	var wrong bytes.Buffer
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stderr = &wrong
	out, err := cmd.Output()
	if err != nil {
		return r, fmt.Errorf("%w: %s", err, wrong.String())
	}
	r = pathResult{path: c.path, transfer: c.transfer, Client: by.name}
	return r, json.Unmarshal(out, &r)
}

// serveInside starts a server in the server's namespace.
func serveInside(ctx context.Context, n *network, program string) (*exec.Cmd, string, error) {
	command := n.inside(0, program, "serve", serverAddr+":0")
	server := exec.CommandContext(ctx, command[0], command[1:]...)
	server.Stderr = os.Stderr
	out, err := server.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := server.Start(); err != nil {
		return nil, "", err
	}
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		server.Process.Kill()
		server.Wait()
		return nil, "", fmt.Errorf("the server did not start: %w", err)
	}
	return server, "https://" + strings.TrimSpace(addr), nil
}

// writePaths is the command -paths. With write, the table goes into README.md, too.
func writePaths(quick bool, only, jsonFile string, write bool) error {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	b := &pathBench{settle: pathSettle, span: pathSpan, only: pattern, out: io.MultiWriter(os.Stdout, &text)}
	if quick {
		b.settle, b.span = b.settle/8, b.span/8
	}
	if err := paths(b, jsonFile); err != nil || !write {
		return err
	}
	return replaceSection("README.md", "paths", text.String())
}
