package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// quickPaths returns a pathBench that measures for a second.
func quickPaths(only string) (*pathBench, *bytes.Buffer) {
	var text bytes.Buffer
	b := &pathBench{settle: time.Second, span: time.Second, only: regexp.MustCompile(only), out: &text}
	return b, &text
}

// namespaces returns the names of this process's network namespaces.
func namespaces(t *testing.T) (own []string) {
	t.Helper()
	text, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		return nil // newNetwork says why
	}
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(name, namespacePrefix()) {
			own = append(own, name)
		}
	}
	return own
}

// The rates and the round trip are those of the path, for both directions and both clients.
func TestPathsHaveTheirRateAndTheirRoundTrip(t *testing.T) {
	b, text := quickPaths("")
	var rows []cell
	for _, mode := range []string{"besideup", "besidedown"} {
		rows = append(rows, cell{path{20e6, 40 * time.Millisecond, 100 * time.Millisecond, "reno"},
			transfer{mode, 2}})
	}
	all, err := b.run(t.Context(), rows)
	if errors.Is(err, errNoNetwork) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != len(rows)*len(pathClients) || strings.Count(text.String(), "\n") != len(rows)+2 {
		t.Fatalf("%d results:\n%s", len(all), text)
	}
	for _, r := range all {
		// In one second a busy machine may move what has waited longer.
		if r.Median < 40 || r.Mbit > 40 || r.Client == "hyper" && r.Mbit < 1 {
			t.Errorf("%+v", r)
		}
	}
	if left := namespaces(t); len(left) > 0 {
		t.Errorf("namespaces are left: %v", left)
	}
}

// Whatever fails, no namespace is left.
func TestPathsLeaveNoNamespace(t *testing.T) {
	good := path{20e6, 10 * time.Millisecond, 100 * time.Millisecond, "reno"}
	bad := good
	bad.Congestion = "none of the kernel's"
	soon, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for _, test := range []struct {
		name string
		ctx  context.Context
		cell cell
	}{
		{"the congestion control does not exist", t.Context(), cell{bad, transfer{"besideup", 1}}},
		{"the work does not exist", t.Context(), cell{good, transfer{"besideless", 1}}},
		{"the time is over", soon, cell{good, transfer{"besideup", 1}}},
	} {
		b, _ := quickPaths("")
		began := time.Now()
		if _, err := b.measure(test.ctx, test.cell, pathClients[0]); err == nil {
			t.Errorf("%s: no error", test.name)
		} else if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: %v, after %v", test.name, err, took)
		}
		if left := namespaces(t); len(left) > 0 {
			t.Errorf("%s: namespaces are left: %v", test.name, left)
		}
	}
}

// Where no network can be made, the command says so and succeeds.
func TestPathsAreSkippedByName(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // there is no ip
	b, text := quickPaths("10 Mbit")
	file := filepath.Join(t.TempDir(), "results")
	if err := paths(b, file); err != nil || !strings.HasPrefix(text.String(), "paths: skipped: ") ||
		!strings.Contains(text.String(), errNoNetwork.Error()) {
		t.Errorf("%v: %s", err, text)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("there are results")
	}
}

func TestPathResultsAreReadAsTheyWereWritten(t *testing.T) {
	r := pathResult{path: cells([]string{"cubic"})[1].path, transfer: transfer{"besideup", 8},
		Client: "hyper", Mbit: 9.5, Median: 400, P90: 500, Gets: 20, CPU: 1}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var again pathResult
	if err := json.Unmarshal(text, &again); err != nil || again != r {
		t.Errorf("%s: %+v, %v", text, again, err)
	}
	if name := (cell{r.path, r.transfer}).name(); name != "10 Mbit/s × 40 ms, queue 1 s, cubic, 8 uploads" {
		t.Error(name)
	}
}
