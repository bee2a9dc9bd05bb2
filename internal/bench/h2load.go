package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// h2loadInstalled returns whether h2load, a client in C, is installed.
func h2loadInstalled() bool {
	_, err := exec.LookPath("h2load")
	return err == nil
}

// succeeded finds the number of successful requests in h2load's output.
var succeeded = regexp.MustCompile(`(\d+) succeeded`)

// runH2load runs h2load once, with a number of requests or at a rate. Its CPU time is that of its
// process.
func runH2load(w *workload, origin string) (map[string]any, error) {
	n, args := w.requests, []string{"-c", "1", "-t", "1", "-m", count(w.callers)}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	log := filepath.Join(dir, "log")
	if w.mode == "rate" {
		n = max(1, int(w.rps*w.span.Seconds()))
		args = append(args, "--rps", fmt.Sprintf("%.0f", w.rps), "--log-file", log)
	}
	cmd := pinned("1", "h2load", append(args, "-n", count(n), origin+w.path)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("h2load: %w: %s", err, out)
	}
	if m := succeeded.FindSubmatch(out); m == nil || string(m[1]) != count(n) {
		return nil, fmt.Errorf("h2load: not all %d requests succeeded: %s", n, bytes.TrimSpace(out))
	}
	cpu := (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	f := map[string]any{"cpu": cpu, "us_per_req": cpu * 1e6 / float64(n)}
	if w.mode != "rate" {
		return f, nil
	}
	return f, h2loadTimes(log, f)
}

// h2loadTimes reads the times of all requests from h2load's log.
func h2loadTimes(log string, f map[string]any) error {
	text, err := os.ReadFile(log)
	if err != nil {
		return err
	}
	var took []float64
	for line := range strings.Lines(string(text)) {
		columns := strings.Fields(line)
		if len(columns) < 3 {
			return fmt.Errorf("a line of h2load's log: %q", line)
		}
		us, err := strconv.ParseFloat(columns[2], 64)
		if err != nil {
			return err
		}
		took = append(took, us)
	}
	if len(took) == 0 {
		return fmt.Errorf("h2load's log is empty")
	}
	slices.Sort(took)
	for name, part := range map[string]float64{"p50_us": 0.5, "p99_us": 0.99, "p999_us": 0.999} {
		f[name] = took[int(part*float64(len(took)))]
	}
	return nil
}
