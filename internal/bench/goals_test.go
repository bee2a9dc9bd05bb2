package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// checkOutcomes checks that each line has its figures, or why it has none.
func checkOutcomes(t *testing.T, lines []outcome) {
	t.Helper()
	for _, o := range lines {
		if o.Skipped != "" {
			if !strings.HasSuffix(o.Skipped, "is not installed") {
				t.Errorf("%v", o)
			}
			continue
		}
		if o.Client == "" || o.Figure == "" || o.Value < 0 ||
			(o.Peer != "" && (o.PeerValue <= 0 || o.Ratio <= 0)) {
			t.Errorf("%+v", o)
		}
	}
}

// TestEveryGoalIsMeasured runs each workload with a hundredth of its requests.
func TestEveryGoalIsMeasured(t *testing.T) {
	l := quickLab(t)
	if err := l.startFloor(); err != nil {
		t.Fatal(err)
	}
	lines, err := measureGoals(l, "")
	if err != nil {
		t.Fatal(err)
	}
	checkOutcomes(t, lines)
	works := map[string]bool{}
	for _, o := range lines {
		works[o.Work] = true
	}
	if want := len(workloads) + 4*3; len(works) != want {
		t.Errorf("%d kinds of work, want %d", len(works), want)
	}
}

// TestServerThatIsNotThereIsNamed has a PATH without servers and clients in C.
func TestServerThatIsNotThereIsNamed(t *testing.T) {
	l := quickLab(t)
	if err := l.startFloor(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", t.TempDir())
	lines, err := measureGoals(l, "^(GET 1 KiB, 100 callers|download|latency at 20 % of saturation, 10 )")
	if err != nil {
		t.Fatal(err)
	}
	if len(lines) != 3 {
		t.Errorf("%d lines: %v", len(lines), lines)
	}
	for _, o := range lines {
		if o.Skipped != "nghttpd is not installed" {
			t.Errorf("%+v", o)
		}
	}
	table := goalTable(lines)
	if n := strings.Count(table, "nghttpd is not installed"); n != 3 {
		t.Errorf("%s", table)
	}
}

func TestOutcomeComparesWithItsGoal(t *testing.T) {
	w := &workload{parts: 10}
	median := func(impl, figure string) float64 {
		return map[string]float64{"own us_per_req": 30, "nethttp us_per_req": 60, "own rps": 7,
			"nethttp rps": 8}[impl+" "+figure]
	}
	for _, c := range []struct {
		goal  goal
		value float64
		ratio float64
		met   bool
	}{
		{goal{client: "own", figure: "us_per_req", peer: "nethttp", most: 0.5}, 3, 0.5, true},
		{goal{client: "own", figure: "us_per_req", peer: "nethttp", most: 0.49}, 3, 0.5, false},
		{goal{client: "own", figure: "us_per_req", most: 2}, 3, 3, false},
		{goal{client: "own", figure: "rps", peer: "nethttp", most: 1, atLeast: true}, 7, 0.875, false},
		{goal{client: "nethttp", figure: "rps", most: 8, atLeast: true}, 8, 8, true},
	} {
		if o := w.outcome(c.goal, median); o.Value != c.value || o.Ratio != c.ratio || o.Met != c.met {
			t.Errorf("%+v: %+v", c.goal, o)
		}
	}
}

// TestResultsOfOneRunKeepThoseOfOthers measures two workloads into one file, one after the other.
func TestResultsOfOneRunKeepThoseOfOthers(t *testing.T) {
	l := quickLab(t)
	if err := l.startFloor(); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	os.WriteFile("README.md", []byte("a\n<!-- goals -->\n<!-- end of goals -->\nb\n"), 0o644)
	file := filepath.Join(t.TempDir(), "out.json")
	for _, only := range []string{"^100 fields", "^DATA frames of 10 ", "^100 fields"} {
		if err := l.writeGoals(only, file, true); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var lines []outcome
	if err := json.Unmarshal(text, &lines); err != nil || len(lines) != 2+3 {
		t.Errorf("%v, %s", err, text)
	}
	checkOutcomes(t, lines)
	page, _ := os.ReadFile("README.md")
	for _, want := range []string{"| 100 fields in a request", "| DATA frames of 10 bytes", "\nb\n"} {
		if !bytes.Contains(page, []byte(want)) {
			t.Errorf("no %q in %s", want, page)
		}
	}
	if err := l.writeGoals("[", file, false); err == nil {
		t.Error("a wrong regular expression passes")
	}
}
