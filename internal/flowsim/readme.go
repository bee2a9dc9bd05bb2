package flowsim

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

// The README, and the marks around its generated parts.
const (
	readmeFile = "README.md"
	rowsPart   = "rows"
	cellsPart  = "cells"
)

// columns are the managers of the README's tables and of its plot. The first is the one that the
// goals are for.
func columns() []subject {
	return []subject{named("AdaptiveWindow"), named("net/http"), named(".NET"), named("quic-go"),
		named("grpc-go"), named("FixedWindow"), unlimited}
}

// named returns the subject of a name.
func named(name string) subject {
	for _, m := range subjects {
		if m.name == name {
			return m
		}
	}
	panic("BUG: no manager " + name)
}

// writeReadme plays all rows and writes the README's tables and plots.
func writeReadme(t *testing.T) {
	var b bytes.Buffer
	rows := playRows(t, append(latencyRows, speedRows...))
	latencies, speeds := rows[:len(latencyRows)], rows[len(latencyRows):]
	uploads := playUploads(t)
	curves := playLatencies(t)
	b.WriteString("\n### A GET beside downloads\n\n")
	table(&b, latencies, Score.latencyText)
	b.WriteString("\n### Speed and memory\n\n")
	table(&b, speeds, Score.speedText)
	b.WriteString("\n### A GET beside uploads\n\n")
	uploadTable(&b, uploads)
	b.WriteString("\n")
	if t.Failed() {
		return
	}
	changeReadme(t, rowsPart, func(string) string { return b.String() })
	writeFile(t, "latency.svg", drawLatencies(curves, light))
	writeFile(t, "latency-dark.svg", drawLatencies(curves, dark))
}

// changeReadme changes a generated part of the README.
func changeReadme(t *testing.T, part string, change func(old string) string) {
	text, err := os.ReadFile(readmeFile)
	if err != nil {
		t.Fatal(err)
	}
	changed, err := changePart(string(text), part, change)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, readmeFile, []byte(changed))
}

// writeFile writes a file.
func writeFile(t *testing.T, name string, content []byte) {
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// changePart returns text after a change of what is between the marks of a part.
func changePart(text, part string, change func(old string) string) (string, error) {
	begin, end := "<!-- "+part+" -->\n", "<!-- end of "+part+" -->\n"
	before, rest, found := strings.Cut(text, begin)
	old, after, ends := strings.Cut(rest, end)
	if !found || !ends {
		return "", fmt.Errorf("%s has no part from %q to %q", readmeFile, begin, end)
	}
	return before + begin + change(old) + end + after, nil
}

// writeCells plays the grid under some managers, on a new connection and on a used one, and writes
// their lines of the README's table.
func writeCells(t *testing.T, managers []subject, octets int) {
	lines := make([]string, len(managers))
	for i, m := range managers {
		lines[i] = fmt.Sprintf("| %s |", m.name)
	}
	for _, how := range conditions[:2] {
		for i, c := range playGrid(t, how, managers, octets) {
			lines[i] += fmt.Sprintf(" %d/%d | %.3f |", c.reached, len(grid()), c.worst)
		}
	}
	changeReadme(t, cellsPart, func(old string) string {
		for _, line := range lines {
			old = putLine(old, line)
		}
		return old
	})
}

// putLine puts a line into a table: in the place of the line with the same first cell, or at its
// end.
func putLine(table, line string) string {
	first := strings.Join(strings.SplitN(line, "|", 3)[:2], "|") + "|"
	var lines []string
	for _, l := range strings.SplitAfter(table, "\n") {
		if strings.HasPrefix(l, first) {
			l, line = line+"\n", ""
		}
		lines = append(lines, l)
	}
	if line != "" {
		lines = append(lines, line+"\n")
	}
	return strings.Join(lines, "")
}

// A gridScore is what a manager reaches in the grid.
type gridScore struct {
	reached int // cells with at least 0.95 of the speed of unlimited windows
	worst   float64
}

// playGrid plays the grid under some managers.
func playGrid(t *testing.T, how condition, managers []subject, octets int) []gridScore {
	scores := make([]gridScore, len(managers))
	cells := make([][]Score, len(grid()))
	t.Run(how.name, func(t *testing.T) {
		for i, c := range grid() {
			t.Run(c.String(), func(t *testing.T) {
				t.Parallel()
				var err error
				if cells[i], err = (report{t, nil, managers, octets}).cell(c, how); err != nil {
					t.Error(err)
				}
			})
		}
	})
	for i := range scores {
		scores[i].worst = math.Inf(1)
		for _, cell := range cells {
			if t.Failed() {
				return scores
			}
			scores[i].worst = min(scores[i].worst, cell[i].Ratio)
			if cell[i].Ratio >= 0.95 {
				scores[i].reached++
			}
		}
	}
	return scores
}

// A playedRow is a row with the scores of the columns.
type playedRow struct {
	row
	scores []Score
}

// playRows plays rows, several at a time.
func playRows(t *testing.T, rows []row) []playedRow {
	played := make([]playedRow, len(rows))
	t.Run("rows", func(t *testing.T) {
		for i, w := range rows {
			t.Run(w.name, func(t *testing.T) {
				t.Parallel()
				played[i] = playRow(t, w, columns()...)
			})
		}
	})
	return played
}

// playRow plays a row under some managers. If the goal is relative to a larger first window, it
// plays that, too.
func playRow(t *testing.T, w row, managers ...subject) playedRow {
	n := len(managers)
	if w.goal.ofGuess > 0 {
		managers = append(managers, guess)
	}
	scores, err := w.play(t, managers...)
	if err != nil {
		t.Error(err)
	}
	if w.goal.ofGuess > 0 {
		w.goal.ratio = w.goal.ofGuess * scores[n].Ratio
	}
	return playedRow{w, scores[:n]}
}

// table writes a table of rows. cell formats a score.
func table(b *bytes.Buffer, rows []playedRow, cell func(s Score, path Scenario) string) {
	b.WriteString("| condition | goal | met |")
	for _, m := range columns() {
		fmt.Fprintf(b, " %s |", m.name)
	}
	b.WriteString("\n|---|---|---|" + strings.Repeat("---|", len(columns())) + "\n")
	for _, w := range rows {
		fmt.Fprintf(b, "| %s | %s | %s |", w.name, w.goal, yesNo(w.goal.met(w.scores[0], w.Scenario)))
		for _, s := range w.scores {
			fmt.Fprintf(b, " %s |", cell(s, w.Scenario))
		}
		b.WriteString("\n")
	}
}

// yesNo returns the word for a bool.
func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

// met reports whether a score reaches the goal.
func (g goal) met(s Score, path Scenario) bool {
	return s.Ratio >= g.ratio && (g.latency == 0 || s.SmallMedian <= g.latency) &&
		(g.promise == 0 || s.Mean/path.product() <= g.promise) && (g.unread == 0 || s.PeakUnread <= g.unread)
}

// String formats a goal.
func (g goal) String() string {
	var parts []string
	add := func(is bool, format string, args ...any) {
		if is {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(g.latency > 0, "≤ %d ms", g.latency.Milliseconds())
	add(g.ratio > 0 && g.ofGuess == 0, "speed ≥ %.2f", g.ratio)
	add(g.ofGuess > 0, "speed ≥ %.2f (%.2f of a first window of 1 MiB)", g.ratio, g.ofGuess)
	add(g.promise > 0, "promise ≤ %g BDP", g.promise)
	add(g.unread > 0, "unread ≤ %.3g MiB", megabytes(g.unread))
	return strings.Join(parts, ", ")
}

// latencyText formats the latency of small requests, and the speed of what was beside them.
func (s Score) latencyText(Scenario) string {
	if s.Small == 0 {
		return "–"
	}
	return fmt.Sprintf("%d / %d, %.2f", s.SmallMedian.Milliseconds(), s.SmallP95.Milliseconds(), s.Ratio)
}

// speedText formats the speed, the mean promise in bandwidth-delay products, and the most unread
// MiB.
func (s Score) speedText(path Scenario) string {
	if s.Ratio == 0 {
		return "does not end"
	}
	promise := fmt.Sprintf("%.1f", s.Mean/path.product())
	if s.Mean > 100*path.product() {
		promise = "> 100"
	}
	return fmt.Sprintf("%.2f, %s, %.1f", s.Ratio, promise, megabytes(s.PeakUnread))
}

// The sockets of the table of uploads: see Scenario.NotSent.
var notSent = []int{0, noOption}

// playUploads plays the upload rows, with each limit of the socket.
func playUploads(t *testing.T) []playedRow {
	played := make([]playedRow, len(uploadRows))
	t.Run("uploads", func(t *testing.T) {
		for i, w := range uploadRows {
			played[i] = playedRow{w, make([]Score, len(notSent))}
			for k, n := range notSent {
				t.Run(fmt.Sprint(w.name, " ", n), func(t *testing.T) {
					t.Parallel()
					s := w.Scenario
					s.NotSent = n
					got, err := Run(t, s)
					if err != nil {
						t.Error(err)
					}
					played[i].scores[k] = Score{Result: got, Ratio: s.ofLine(got)}
				})
			}
		}
	})
	return played
}

// ofLine returns the speed of a transfer, relative to what the line can carry of TCP's payload.
func (s Scenario) ofLine(got Result) float64 {
	line := s.Rate / 8 * segment / packet
	return float64(s.Octets) / got.Time.Seconds() / line
}

// uploadTable writes the table of uploads.
func uploadTable(b *bytes.Buffer, rows []playedRow) {
	b.WriteString("| condition | goal |")
	b.WriteString(" met | hyper | a socket without TCP_NOTSENT_LOWAT |")
	b.WriteString("\n|---|---|---|" + strings.Repeat("---|", len(notSent)) + "\n")
	for _, w := range rows {
		fmt.Fprintf(b, "| %s | %s | %s |", w.name, w.goal, yesNo(w.goal.met(w.scores[0], w.Scenario)))
		for _, s := range w.scores {
			fmt.Fprintf(b, " %s |", s.latencyText(w.Scenario))
		}
		b.WriteString("\n")
	}
}

// latencyRates are the rates of the plot of latency, in bits per second.
var latencyRates = []float64{1e6, 2e6, 5e6, 10e6, 20e6, 50e6, 100e6}

// A latencyCurve is the latency of small requests under one manager, for each of latencyRates.
type latencyCurve struct {
	name   string
	median []time.Duration
}

// playLatencies plays 8 downloads on links of several rates under each manager, for half a minute.
func playLatencies(t *testing.T) []latencyCurve {
	curves := make([]latencyCurve, len(columns()))
	t.Run("latency", func(t *testing.T) {
		for i, m := range columns() {
			curves[i] = latencyCurve{m.name, make([]time.Duration, len(latencyRates))}
			for k, rate := range latencyRates {
				t.Run(fmt.Sprint(m.name, " ", rate), func(t *testing.T) {
					t.Parallel()
					s := cubicBulk(Cell{40 * ms, rate, 8}, time.Second, int(rate/8*15))
					got, err := Run(t, s.under(m))
					if err != nil {
						t.Error(err)
					}
					curves[i].median[k] = got.SmallMedian
				})
			}
		}
	})
	return curves
}
