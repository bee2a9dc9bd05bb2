package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"gohyper.dev/hyper/internal/flowsim"
)

// speedData are the CPU time and the allocations of the client for a GET of 1 KiB. CPU, in µs, has
// the number of callers as the name of a figure.
type speedData struct {
	plotRun
	CPU         medians `json:"cpu"`
	Allocations medians `json:"allocations"`
}

// bulkData are the CPU seconds of the client for 1 GiB: the figures down and up.
type bulkData struct {
	plotRun
	CPU medians `json:"cpu"`
}

// memoryData are the bytes of what waits: the figures idle, of a connection, and open, of a stream.
type memoryData struct {
	plotRun
	Heap  medians `json:"heap"`
	Stack medians `json:"stack"`
}

// windowsData are the windows of downloads over time.
type windowsData struct {
	plotRun
	Paths []flowsim.WindowPath `json:"paths"`
}

// plotCallers are the numbers of callers on one connection, and plotRequests how many requests are
// measured.
var (
	plotCallers  = []int{1, 10, 100, 1000}
	plotRequests = map[int]int{1: 5000, 10: 20000, 100: 40000, 1000: 40000}
)

// h2load is the impl of nghttp2's load generator, a client in C.
const h2load = "h2load"

// A speedBench measures small requests.
type speedBench struct {
	*lab
	run    plotRun
	origin string // of the server of all clients but grpc-go
	calls  string // the URL of grpc-go's calls
	h2load string // the program; "": it is not installed
	close  func()
}

// newSpeedBench starts the servers: nghttpd, and one more for grpc-go, whose responses have
// trailers. It is the server in Go where there is no nghttpd.
func (l *lab) newSpeedBench() (*speedBench, error) {
	b := &speedBench{lab: l, run: newRun(l.rounds), origin: l.origin, calls: l.origin + "/1k",
		close: func() {}}
	if program, err := exec.LookPath(h2load); err == nil {
		b.h2load = program
	} else {
		b.run.Left = append(b.run.Left, "h2load is not installed")
	}
	plain, err := startNghttpd()
	if err != nil {
		return nil, err
	}
	if plain == nil {
		b.run.Server = "net/http's server"
		b.run.Left = append(b.run.Left, "nghttpd is not installed")
		return b, nil
	}
	calls, err := startNghttpd("--trailer", "grpc-status: 0")
	if err != nil {
		plain.close()
		return nil, err
	}
	b.origin, b.calls = plain.origin, calls.origin+"/1k.grpc"
	b.close = func() { plain.close(); calls.close() }
	b.run.Server = "nghttpd"
	if text, err := exec.Command("nghttpd", "--version").Output(); err == nil {
		b.run.Server = strings.TrimSpace(string(text)) // its name, and its version
	}
	return b, nil
}

// plotSpeed measures the plot of speed.
func (l *lab) plotSpeed() (*speedData, error) {
	b, err := l.newSpeedBench()
	if err != nil {
		return nil, err
	}
	defer b.close()
	cpu, allocations := samples{}, samples{}
	for round := range l.rounds {
		for _, callers := range plotCallers {
			for _, c := range plotClients {
				if c.impl == h2load && b.h2load == "" {
					continue
				}
				f, err := b.small(c.impl, callers, l.scaled(plotRequests[callers]))
				if err != nil {
					return nil, fmt.Errorf("%s, %d callers: %w", c.name, callers, err)
				}
				fmt.Fprintf(os.Stderr, "round %d, %d callers, %s: %.4g µs\n", round+1, callers, c.name,
					f["us_per_req"])
				cpu.add(count(callers), c.impl, f["us_per_req"].(float64))
				if n, ok := f["allocs_per_req"].(float64); ok {
					allocations.add(count(callers), c.impl, n)
				}
			}
		}
	}
	return &speedData{b.run, cpu.medians(), allocations.medians()}, nil
}

// small measures n small requests with one client.
func (b *speedBench) small(impl string, callers, n int) (map[string]any, error) {
	if impl == h2load {
		return b.smallByH2load(callers, n)
	}
	url := b.origin + "/1k"
	if impl == "grpc" {
		url = b.calls
	}
	return b.once([]string{"work", "-impl", impl, "-mode", "get", "-url", url, "-c", count(callers), "-n",
		count(n)})
}

// smallByH2load measures n small requests with h2load. As the other clients are measured when they
// have started, the CPU time of a run with fewer requests is subtracted.
func (b *speedBench) smallByH2load(callers, n int) (map[string]any, error) {
	first := b.scaled(2000)
	start, err := b.h2loadCPU(callers, first)
	if err != nil {
		return nil, err
	}
	whole, err := b.h2loadCPU(callers, first+n)
	return map[string]any{"us_per_req": (whole - start) * 1e6 / float64(n)}, err
}

// h2loadSucceeded matches the number of requests in h2load's output.
var h2loadSucceeded = regexp.MustCompile(`(\d+) succeeded`)

// h2loadCPU returns the CPU seconds of a process of h2load with n requests.
func (b *speedBench) h2loadCPU(callers, n int) (float64, error) {
	n = max(n, callers)
	cmd := pinned("1", b.h2load, "-t", "1", "-c", "1", "-m", count(callers), "-n", count(n), b.origin+"/1k")
	out, err := cmd.Output()
	if err != nil {
		return 0, err
	}
	if m := h2loadSucceeded.FindSubmatch(out); m == nil || string(m[1]) != strconv.Itoa(n) {
		return 0, fmt.Errorf("not all of %d requests have succeeded:\n%s", n, out)
	}
	return (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), nil
}

// goClients calls do with each client in Go, in each round.
func (l *lab) goClients(rounds int, do func(impl string) error) error {
	for range rounds {
		for _, c := range plotClients {
			if c.impl == h2load {
				continue
			}
			if err := do(c.impl); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return nil
}

// plotBulk measures large bodies, for the table. Calls have none.
func (l *lab) plotBulk() (*bulkData, error) {
	const mib = 1 << 20
	work := map[string][]string{
		"down": {"-mode", "down", "-n", "4", "-url",
			fmt.Sprintf("%s/frames?size=%d&n=%d", l.origin, mib, l.scaled(256))},
		"up": {"-mode", "up", "-size", count(l.scaled(1024) * mib), "-url", l.origin + "/up"},
	}
	cpu := samples{}
	err := l.goClients(l.rounds, func(impl string) error {
		for figure, args := range work {
			if impl == "grpc" {
				continue
			}
			f, err := l.once(append([]string{"work", "-impl", impl}, args...))
			if err != nil {
				return err
			}
			fmt.Fprintf(os.Stderr, "%s, %s: %.4g s\n", figure, impl, f["cpu"])
			cpu.add(figure, impl, f["cpu"].(float64))
		}
		return nil
	})
	run := newRun(l.rounds)
	run.Server = "net/http's server"
	return &bulkData{run, cpu.medians()}, err
}

// plotMemory measures the plot of memory.
func (l *lab) plotMemory() (*memoryData, error) {
	work := map[string][]string{
		"idle": {"-mode", "idle", "-conns", count(l.scaled(500)), "-url", l.origin + "/0"},
		"open": {"-mode", "open", "-conns", "10", "-n", count(l.scaled(5000)), "-url", l.origin + "/hang"},
	}
	heap, stack := samples{}, samples{}
	rounds := min(3, l.rounds)
	err := l.goClients(rounds, func(impl string) error {
		for figure, args := range work {
			f, err := l.once(append([]string{"work", "-impl", impl}, args...))
			if err != nil {
				return err
			}
			fmt.Fprintf(os.Stderr, "%s, %s: %.4g of heap, %.4g of stack\n", figure, impl, f["heap_per"],
				f["stack_per"])
			heap.add(figure, impl, f["heap_per"].(float64))
			stack.add(figure, impl, f["stack_per"].(float64))
		}
		return nil
	})
	run := newRun(rounds)
	run.Server = "net/http's server"
	return &memoryData{run, heap.medians(), stack.medians()}, err
}

// plotWindows simulates the plot of windows, in internal/flowsim: its clock is that of a test.
func plotWindows() (*windowsData, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "gohyper.dev/hyper").Output()
	if err != nil {
		return nil, fmt.Errorf("where hyper is: %w", err)
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "windows.json")
	cmd := exec.Command("go", "-C", strings.TrimSpace(string(root)), "test", "./internal/flowsim", "-count",
		"1", "-run", "^TestWindowPaths$", "-windows", file)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	run := newRun(0)
	run.Machine = "simulated by internal/flowsim (the same on any machine): Cubic, queues of up to a second"
	data := &windowsData{plotRun: run}
	return data, json.Unmarshal(text, &data.Paths)
}
