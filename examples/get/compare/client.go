// This file runs the clients.

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
	"time"
)

// A client is a load generator.
type client struct {
	name    string
	version string
	program string
	dir     string // for its files
	start   func(c *client, url string, n int) (args []string, stdin string)
	done    func(c *client, output []byte) (n int, err error) // how many requests have succeeded
	costs   []time.Duration                                   // CPU time of a request, by round
}

// atOnce is the number of requests at a time.
const atOnce = "100"

// newClient returns the client with a name. It installs what go can install.
func newClient(name, dir string) (*client, error) {
	c := &client{name: name, dir: dir}
	switch name {
	case "get bench":
		c.program = filepath.Join(dir, "get")
		c.start, c.done = startBench, doneBench
		return c, c.command("build", "-o", c.program, ".")
	case "h2load":
		c.start, c.done = startH2load, doneByText(`(\d+) succeeded`)
		path, err := exec.LookPath("h2load")
		if err != nil {
			return nil, err
		}
		c.program = path
		text, err := exec.Command(path, "--version").Output()
		_, c.version, _ = strings.Cut(strings.TrimSpace(string(text)), " ")
		return c, err
	case "hey":
		c.start, c.done = startHey, doneByText(`\[200\]\s+(\d+) responses`)
		return c, c.install("github.com/rakyll/hey")
	case "vegeta":
		c.start, c.done = startVegeta, doneVegeta
		return c, c.install("github.com/tsenart/vegeta/v12")
	}
	return nil, fmt.Errorf("no client %q", name)
}

// install installs the newest version of a Go program.
func (c *client) install(path string) error {
	c.program = filepath.Join(c.dir, c.name)
	if err := c.command("install", path+"@latest"); err != nil {
		return err
	}
	text, err := exec.Command("go", "version", "-m", c.program).Output()
	if m := regexp.MustCompile(`\tmod\t\S+\t(\S+)`).FindSubmatch(text); m != nil {
		c.version = string(m[1])
	}
	return err
}

// command runs a command of go, which installs into the client's directory.
func (c *client) command(args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "GOBIN="+c.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// run starts the client with about n requests for url, on a processor of its own. It returns the
// CPU time of the client for each request.
func (c *client) run(url string, n int) (time.Duration, error) {
	args, stdin := c.start(c, url, n)
	cmd := exec.Command("taskset", append([]string{"-c", "1", c.program}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var wrong strings.Builder
	cmd.Stderr = &wrong
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, wrong.String())
	}
	done, err := c.done(c, out)
	if err != nil {
		return 0, err
	}
	if done < n/100 {
		return 0, fmt.Errorf("only %d of %d requests have succeeded:\n%s", done, n, out)
	}
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return used / time.Duration(done), nil
}

// startBench returns the arguments of get bench.
func startBench(_ *client, url string, n int) ([]string, string) {
	return []string{"bench", "-k", "-s", "-c", "1", "-m", atOnce, "-n", strconv.Itoa(n), "--json", "-",
		url}, ""
}

// doneBench returns the number of requests that get bench reports.
func doneBench(_ *client, out []byte) (int, error) {
	var result struct {
		Requests int
	}
	err := json.Unmarshal(out, &result)
	return result.Requests, err
}

// startH2load returns the arguments of h2load.
func startH2load(_ *client, url string, n int) ([]string, string) {
	return []string{"-c", "1", "-m", atOnce, "-n", strconv.Itoa(n), url}, ""
}

// slower is how many times fewer requests hey and vegeta send, which take that much longer.
const slower = 5

// startHey returns the arguments of hey.
func startHey(_ *client, url string, n int) ([]string, string) {
	return []string{"-h2", "-c", atOnce, "-n", strconv.Itoa(n / slower), url}, ""
}

// startVegeta returns the arguments of vegeta, which sends for a time.
func startVegeta(c *client, url string, _ int) ([]string, string) {
	return []string{"attack", "-insecure", "-rate", "0", "-max-workers", atOnce, "-workers", atOnce,
		"-duration", "2s", "-output", filepath.Join(c.dir, "results")}, "GET " + url + "\n"
}

// doneVegeta returns the number of responses with the status 200 that vegeta has recorded.
func doneVegeta(c *client, _ []byte) (int, error) {
	out, err := exec.Command(c.program, "report", "-type", "json", filepath.Join(c.dir, "results")).Output()
	if err != nil {
		return 0, err
	}
	var report struct {
		Codes map[string]int `json:"status_codes"`
	}
	err = json.Unmarshal(out, &report)
	return report.Codes["200"], err
}

// doneByText returns a function that finds the number in the client's output.
func doneByText(pattern string) func(*client, []byte) (int, error) {
	number := regexp.MustCompile(pattern)
	return func(_ *client, out []byte) (int, error) {
		m := number.FindSubmatch(out)
		if m == nil {
			return 0, fmt.Errorf("no %s in\n%s", pattern, out)
		}
		return strconv.Atoi(string(m[1]))
	}
}
