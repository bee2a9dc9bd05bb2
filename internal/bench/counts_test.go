package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gohyper.dev/hyper/internal/h2test"
)

func TestCallgrindsFileIsRead(t *testing.T) {
	const file = `events: Ir
fn=(1) main.main
12 5
cfn=(2) internal/sync.(*Mutex).Lock
calls=3 10
14 20
cfn=(3) runtime.ready
calls=7 10
15 20
fn=(3)
16 4
cfn=(2)
calls=4 10
17 20
cfn=(4) other
calls=100 1
18 1
summary: 12345
totals: 12345
`
	instructions, calls, err := readCallgrind(strings.NewReader(file))
	if err != nil || instructions != 12345 {
		t.Errorf("%v instructions, %v", instructions, err)
	}
	if calls["locks"] != 7 || calls["wake-ups"] != 7 || len(calls) != 2 {
		t.Errorf("%v", calls)
	}
}

// TestRequestIsCounted counts one client's requests with the programs that are installed.
func TestRequestIsCounted(t *testing.T) {
	l := quickLab(t)
	if err := l.startFloor(); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	os.WriteFile("README.md", []byte("<!-- counts -->\n<!-- end of counts -->\n"), 0o644)
	file := filepath.Join(t.TempDir(), "counts.json")
	defer func(clients []string, callers []int) { countedClients, countedCallers = clients, callers }(
		countedClients, countedCallers)
	countedClients, countedCallers = []string{"own", "h2load"}, []int{3}
	c := &counter{lab: l, origin: l.floorOrigin, dir: t.TempDir()}
	// The test's program stands for that without inlining, which only the command can build.
	// valgrind cannot run programs with the race detector.
	if _, err := exec.LookPath("valgrind"); err == nil && !h2test.Race {
		c.plain = l.program
	}
	if err := c.write(file, true); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var tallies []tally
	if err := json.Unmarshal(text, &tallies); err != nil || len(tallies) == 0 {
		t.Fatalf("%v: %s", err, text)
	}
	if got := tallies[0]; got.Callers != 3 || got.Counts["allocations"] <= 0 || got.Counts["reads"] <= 0 {
		t.Errorf("%+v", got)
	}
	if _, err := exec.LookPath("perf"); err == nil {
		for _, t2 := range tallies {
			if _, ok := t2.Counts["system calls"]; !ok {
				t.Logf("%s: perf counts no system calls here", t2.Client)
			}
		}
	}
	if page, _ := os.ReadFile("README.md"); !strings.Contains(string(page), "| hyper | 3 |") {
		t.Errorf("%s", page)
	}
}
