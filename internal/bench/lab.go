package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
)

// A client is one of the clients that are compared. impl is its name for the flag -impl.
type client struct{ impl, name string }

// clients are compared by default. The others are compared with the last one.
var clients = []client{
	{"own", "hyper"},
	{"http", "hyper under http.Client"},
	{"nethttp", "net/http"},
}

// rowClients are compared in the main rows. They show the cost of http.Client by itself.
var rowClients = []client{
	{"own", "hyper"},
	{"roundtrip", "hyper.Transport's RoundTrip"},
	{"http", "hyper.Transport under http.Client"},
	{"nethttp", "net/http"},
}

// A lab runs a server and starts clients.
type lab struct {
	clients []client
	rounds  int
	quick   bool
	program string
	server  *exec.Cmd
	origin  string

	floorServer *exec.Cmd // of measurements that need a server that does little
	floorOrigin string
}

// newLab starts the server.
func newLab(rounds int) (*lab, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	l := &lab{clients: clients, rounds: max(1, rounds), program: program}
	if l.server, l.origin, err = startServer(program, "serve"); err != nil {
		return nil, err
	}
	return l, nil
}

// startServer starts program as a server, and returns its process and its origin.
func startServer(program, kind string) (*exec.Cmd, string, error) {
	cmd := pinned("0", program, kind)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return nil, "", fmt.Errorf("the server did not start: %w", err)
	}
	return cmd, "https://" + strings.TrimSpace(addr), nil
}

// startFloor starts the server that does little.
func (l *lab) startFloor() (err error) {
	l.floorServer, l.floorOrigin, err = startServer(l.program, "servefloor")
	return err
}

// pinned returns a command that runs on one processor, if taskset is installed, so that the server
// and the client do not displace each other.
func pinned(processor, program string, args ...string) *exec.Cmd {
	if taskset, err := exec.LookPath("taskset"); err == nil && runtime.NumCPU() > 1 {
		return exec.Command(taskset, append([]string{"-c", processor, program}, args...)...)
	}
	return exec.Command(program, args...)
}

// close stops the servers.
func (l *lab) close() {
	for _, server := range []*exec.Cmd{l.server, l.floorServer} {
		if server != nil {
			server.Process.Kill()
			server.Wait()
		}
	}
}

// scaled returns n, or a hundredth of it if the lab is quick.
func (l *lab) scaled(n int) int {
	if l.quick {
		return max(1, n/100)
	}
	return n
}

// A result is the median of one figure for each client, in the order of the clients.
type result []float64

// measure does the work that args describe with each client in turn, in this many rounds. It
// returns a function that returns the medians of a figure.
func (l *lab) measure(rounds int, path string, args ...string) (func(figure string) result, error) {
	runs := make([][]map[string]any, len(l.clients))
	for range rounds {
		for i, c := range l.clients {
			f, err := l.once(append([]string{"work", "-impl", c.impl, "-url", l.origin + path}, args...))
			if err != nil {
				return nil, fmt.Errorf("%s, %s %s: %w", c.name, path, strings.Join(args, " "), err)
			}
			runs[i] = append(runs[i], f)
		}
	}
	return func(figure string) result {
		r := make(result, len(runs))
		for i := range runs {
			var values []float64
			for _, f := range runs[i] {
				v, _ := f[figure].(float64)
				values = append(values, v)
			}
			slices.Sort(values)
			r[i] = values[len(values)/2]
		}
		return r
	}, nil
}

// once runs one client. The client has one processor, so that the time in which its goroutines wait
// for each other is not measured as work.
func (l *lab) once(args []string) (map[string]any, error) { return l.onceOn("1", "1", args) }

// onceOn runs one client on these processors, with this GOMAXPROCS.
func (l *lab) onceOn(on, processors string, args []string) (map[string]any, error) {
	cmd := pinned(on, l.program, args...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS="+processors)
	var wrong strings.Builder
	cmd.Stderr = &wrong
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, wrong.String())
	}
	f := map[string]any{}
	return f, json.Unmarshal(out, &f)
}

// A row is one line of the table: the work, and its figure.
type row struct {
	title  string
	figure string
	per    float64 // divisor of the figure
	unit   string
	path   string
	args   []string
}

// rows measures the main rows. It prints each row when it is measured, and returns all that it
// printed.
func (l *lab) rows() (string, error) {
	l.clients = rowClients
	var text strings.Builder
	out := io.MultiWriter(os.Stdout, &text)
	fmt.Fprintf(out, "%-42s %9s %9s %9s %9s   %s\n", "median of "+fmt.Sprint(l.rounds)+" alternating runs",
		"hyper", "RoundTrip", "Client", "net/http", "of net/http's")
	line := func(title string, r result, per float64, unit string) {
		last := r[len(r)-1]
		fmt.Fprintf(out, "%-42s %9.4g %9.4g %9.4g %9.4g   %.2f  %.2f  %.2f\n", title+", "+unit,
			r[0]/per, r[1]/per, r[2]/per, last/per, r[0]/last, r[1]/last, r[2]/last)
	}
	c, err := startNghttpd()
	if err != nil {
		return "", err
	}
	if c == nil {
		fmt.Fprintln(out, "(there is no nghttpd here: its rows are left out)")
	} else {
		defer c.close()
		beside := *l
		beside.origin = c.origin
		if err := beside.gets("nghttpd", line); err != nil {
			return "", err
		}
	}
	if err := l.gets("Go", line); err != nil {
		return "", err
	}
	if err := l.latencies(line); err != nil {
		return "", err
	}
	const mib = 1 << 20
	for _, r := range []row{
		{"download 1 GiB", "cpu", 1, "CPU s", fmt.Sprintf("/frames?size=%d&n=%d", mib, l.scaled(256)),
			[]string{"-mode", "down", "-n", "4"}},
		{"upload 1 GiB", "cpu", 1, "CPU s", "/up",
			[]string{"-mode", "up", "-size", fmt.Sprint(l.scaled(1024) * mib)}},
		{"dial to first response", "us_per_req", 1, "CPU us", "/0",
			[]string{"-mode", "conn", "-n", fmt.Sprint(l.scaled(200))}},
		{"an idle connection", "heap_per", 1, "bytes", "/0",
			[]string{"-mode", "idle", "-conns", fmt.Sprint(l.scaled(500))}},
	} {
		median, err := l.measure(l.rounds, r.path, r.args...)
		if err != nil {
			return "", err
		}
		line(r.title, median(r.figure), r.per, r.unit)
	}
	median, err := l.measure(l.rounds, "/hang", "-mode", "open", "-conns", "10", "-n",
		fmt.Sprint(l.scaled(5000)))
	if err != nil {
		return "", err
	}
	line("a stream that waits", median("heap_per"), 1, "bytes")
	line("a stream that waits", median("stack_per"), 1, "stack")
	return text.String(), nil
}

// gets measures small requests to one server.
func (l *lab) gets(server string, line func(title string, r result, per float64, unit string)) error {
	for _, callers := range []int{1, 10, 100, 1000} {
		n := l.scaled(map[int]int{1: 5000, 10: 20000}[callers])
		if callers >= 100 {
			n = l.scaled(40000)
		}
		median, err := l.measure(l.rounds, "/1k", "-mode", "get", "-wire", "-c", fmt.Sprint(callers), "-n",
			fmt.Sprint(n))
		if err != nil {
			return err
		}
		title := fmt.Sprintf("%s: GET, %d callers", server, callers)
		line(title, median("us_per_req"), 1, "CPU us")
		if callers == 100 {
			line(title, median("allocs_per_req"), 1, "allocations")
			line(title, median("B_per_req"), 1, "bytes")
			line(title, median("wr_calls"), float64(n), "writes")
		}
	}
	return nil
}

// latencies measures how long small requests take while other goroutines of the process keep the
// processor busy all the time. The client warms up under that load first.
func (l *lab) latencies(line func(title string, r result, per float64, unit string)) error {
	for _, callers := range []int{1, 10, 100} {
		warm, n := l.scaled(45*callers), l.scaled(max(40, 15*callers))
		median, err := l.measure(min(3, l.rounds), "/1k", "-mode", "get", "-latency", "-busy", "2", "-warm",
			fmt.Sprint(warm), "-c", fmt.Sprint(callers), "-n", fmt.Sprint(n))
		if err != nil {
			return err
		}
		title := fmt.Sprintf("busy: GET, %d callers", callers)
		line(title, median("p50_us"), 1000, "median ms")
		line(title, median("p99_us"), 1000, "p99 ms")
	}
	return nil
}
