package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// guards are the most that a GET of 1 KiB may take with 100 callers on one connection, by the names
// of the columns of the table of counts. The bounds of writes, reads and starts have much room,
// because a slow machine finds fewer responses in each read.
var guards = map[string]map[string]float64{
	"own":       {"allocations": 1.3, "bytes": 800, "starts": 1.5, "writes": 0.1, "reads": 0.15},
	"reused":    {"allocations": 0.15, "bytes": 20, "starts": 1.5, "writes": 0.1, "reads": 0.15},
	"roundtrip": {"allocations": 6.3, "bytes": 1300, "starts": 1.5, "writes": 0.1, "reads": 0.15},
}

// TestCountsOfARequestAreBounded builds the command, because the race detector changes what is
// counted.
func TestCountsOfARequestAreBounded(t *testing.T) {
	program := filepath.Join(t.TempDir(), "bench")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	l := &lab{rounds: 1, program: program}
	t.Cleanup(l.close)
	if err := l.startFloor(); err != nil {
		t.Fatal(err)
	}
	c := &counter{lab: l, origin: l.floorOrigin, dir: t.TempDir()}
	for impl, bounds := range guards {
		got, err := c.tally(impl, 100)
		if err != nil {
			t.Fatal(err)
		}
		t.Log(got)
		if n := got.Counts["system calls"]; n > 0.6 { // 0 if they cannot be counted here
			t.Errorf("%s: %.2f system calls for a request", got.Client, n)
		}
		for column, most := range bounds {
			if n, ok := got.Counts[column]; !ok || n > most {
				t.Errorf("%s: %.4g %s for a request, want at most %v", got.Client, n, column, most)
			}
		}
	}
}

// instructionBounds are the most instructions that benchmarks of the library may take for an
// operation, in n operations. Their exchanges are in memory, without a socket, TLS and other
// goroutines, so that the count is nearly the same in each run. The bounds are about a twentieth
// above what was measured.
var instructionBounds = map[string]struct {
	most float64
	n    int
}{
	"Exchange/own$":    {10900, 2000},
	"Exchange/reused$": {10900, 2000},
	"Exchange/paths$":  {11800, 2000},
	"Exchange/trace$":  {14400, 2000},
	"Exchange/http$":   {18000, 2000},
	"AdaptiveUpdate$":  {225, 100_000},
	"SmallData/100$":   {340, 100_000},
}

// TestInstructionsAreBounded counts with valgrind.
func TestInstructionsAreBounded(t *testing.T) {
	if _, err := exec.LookPath("valgrind"); err != nil {
		if os.Getenv("HYPER_REQUIRE_SERVERS") == "1" {
			t.Fatal("valgrind is not installed")
		}
		t.Skip("valgrind is not installed")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "hyper.test")
	build := exec.Command("go", "-C", "../..", "test", "-c", "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v: %s", err, out)
	}
	t.Setenv("GOGC", "off")
	c := &counter{lab: &lab{}, dir: dir}
	for name, bound := range instructionBounds {
		count := func(n int) float64 {
			instructions, _, err := c.callgrind([]string{program, "-test.run", "^$", "-test.bench", name,
				"-test.benchtime", fmt.Sprint(n, "x")})
			if err != nil {
				t.Fatal(err)
			}
			return instructions
		}
		n := (count(2*bound.n) - count(bound.n)) / float64(bound.n)
		t.Logf("%s: %.0f instructions", name, n)
		if n <= 0 || n > bound.most {
			t.Errorf("%s: %.0f instructions for an operation, want at most %v", name, n, bound.most)
		}
	}
}
