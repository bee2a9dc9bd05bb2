package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A workload is what several clients do in turn, and the goals for what that costs.
type workload struct {
	name     string
	server   string // nghttpd or floor
	path     string
	mode     string // of the package work
	callers  int
	requests int
	parts    int // frames in a response, if they are counted: the path ends with it
	conns    int
	rps      float64       // rate: requests that arrive per second
	span     time.Duration // rate: how long
	extra    []string      // more flags
	rounds   int           // at most so many; 0: no bound
	clients  []string      // implementations; "@2" after one gives it two processors
	goals    []goal
}

// A goal is how large a figure of a client may be, as a part of another client's.
type goal struct {
	client, figure string
	peer           string  // "": the goal is for the figure itself
	most           float64 // for the ratio; 0: none, the figure is only shown
	atLeast        bool    // most is the least that is good, as for requests per second
}

// An outcome is one line of the table: what was measured for one goal. Its form in JSON is for
// programs that draw or compare.
type outcome struct {
	Work      string  `json:"work"`
	Server    string  `json:"server"`
	Figure    string  `json:"figure"`
	Client    string  `json:"client"`
	Value     float64 `json:"value"`
	Peer      string  `json:"peer,omitempty"`
	PeerValue float64 `json:"peer_value,omitempty"`
	Ratio     float64 `json:"ratio"`
	Goal      float64 `json:"goal,omitempty"`     // of the ratio, or of the value if there is no peer
	AtLeast   bool    `json:"at_least,omitempty"` // the goal is a lower bound
	Met       bool    `json:"met"`
	Skipped   string  `json:"skipped,omitempty"` // why it was not measured
}

// clientNames are the clients' names in the table.
var clientNames = map[string]string{
	"own": "hyper", "reused": "hyper, memory reused", "roundtrip": "hyper, RoundTrip",
	"http":    "hyper under http.Client",
	"nethttp": "net/http", "floor": "the floor", "floortypes": "the floor with net/http's types",
	"h2load": "h2load",
}

// clientName returns the name of an implementation, with its processors.
func clientName(impl string) string {
	impl, processors, found := strings.Cut(impl, "@")
	if found {
		return clientNames[impl] + ", GOMAXPROCS " + processors
	}
	return clientNames[impl]
}

// figureNames are the names of the figures in the table.
var figureNames = map[string]string{
	"us_per_req": "CPU µs", "cpu": "CPU s", "allocs_per_req": "allocations", "B_per_req": "bytes allocated",
	"heap_per": "bytes of heap", "rss_per": "resident bytes", "rps": "requests/s",
	"lock_part": "goroutines' lock wait/CPU", "lock_cpu": "lock waits, part of CPU",
	"p50_us": "median µs", "p99_us": "p99 µs",
	"p999_us": "p99.9 µs",
}

// outcome returns the line of a goal, from the medians of the workload.
func (w *workload) outcome(g goal, median func(impl, figure string) float64) outcome {
	o := w.line(g)
	o.Value = median(g.client, g.figure) / w.per(g.figure)
	if g.figure == "allocs_per_req" {
		o.Value = math.Floor(o.Value*10) / 10 // the callers of a measurement allocate when they begin, too
	}
	o.Ratio = o.Value
	if g.peer != "" {
		o.PeerValue = median(g.peer, g.figure) / w.per(g.figure)
		o.Ratio = o.Value / o.PeerValue
	}
	switch {
	case g.most == 0:
		o.Met = true
	case g.atLeast:
		o.Met = o.Ratio >= g.most
	default:
		o.Met = o.Ratio <= g.most
	}
	return o
}

// line returns the line of a goal without values.
func (w *workload) line(g goal) outcome {
	return outcome{Work: w.name, Server: w.server, Figure: figureNames[g.figure],
		Client: clientName(g.client), Peer: clientName(g.peer), Goal: g.most, AtLeast: g.atLeast}
}

// per returns what a figure is divided by.
func (w *workload) per(figure string) float64 {
	if figure == "us_per_req" {
		return float64(max(1, w.parts))
	}
	return 1
}

// A goalLab measures workloads.
type goalLab struct {
	*lab
	origins map[string]string // of the servers that are there
	only    *regexp.Regexp
}

// errSkipped is why a workload or a client of it is left out.
type errSkipped struct{ reason string }

// Error returns the reason.
func (e *errSkipped) Error() string { return e.reason }

// measureGoals measures the workloads with names that match the regular expression only, and prints
// their lines. It returns the lines, also those before an error.
func measureGoals(l *lab, only string) (lines []outcome, err error) {
	g := &goalLab{lab: l, origins: map[string]string{"floor": l.floorOrigin}}
	if g.only, err = regexp.Compile(only); err != nil {
		return nil, err
	}
	c, err := startNghttpd()
	if err != nil {
		return nil, err
	}
	if c != nil {
		defer c.close()
		g.origins["nghttpd"] = c.origin
	}
	for _, w := range workloads {
		if g.only.MatchString(w.name) {
			more, err := g.outcomes(g.quickened(w))
			if err != nil {
				return lines, err
			}
			lines = append(lines, more...)
		}
	}
	more, err := g.latencies()
	return append(lines, more...), err
}

// outcomes measures a workload and prints its lines.
func (g *goalLab) outcomes(w *workload) (lines []outcome, err error) {
	median, err := g.run(w)
	skipped := (*errSkipped)(nil)
	if errors.As(err, &skipped) {
		o := outcome{Work: w.name, Server: w.server, Skipped: skipped.reason}
		fmt.Println(o)
		return []outcome{o}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.name, err)
	}
	for _, goal := range w.goals {
		o := w.outcome(goal, median)
		if goal.client == "h2load" || goal.peer == "h2load" {
			if !h2loadInstalled() {
				o = w.line(goal)
				o.Skipped = "h2load is not installed"
			}
		}
		fmt.Println(o)
		lines = append(lines, o)
	}
	return lines, nil
}

// run runs the clients of a workload in turn. It returns a function that returns medians.
func (g *goalLab) run(w *workload) (func(impl, figure string) float64, error) {
	origin := g.origins[w.server]
	if origin == "" {
		return nil, &errSkipped{w.server + " is not installed"}
	}
	rounds := g.rounds
	if w.rounds > 0 {
		rounds = min(rounds, w.rounds)
	}
	runs := map[string][]map[string]any{}
	for range rounds {
		for _, impl := range w.clients {
			if impl == "h2load" && !h2loadInstalled() {
				continue
			}
			f, err := g.client(w, impl, origin)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", impl, err)
			}
			runs[impl] = append(runs[impl], f)
		}
	}
	return func(impl, figure string) float64 {
		var values []float64
		for _, f := range runs[impl] {
			v, _ := f[figure].(float64)
			values = append(values, v)
		}
		if len(values) == 0 {
			return 0
		}
		slices.Sort(values)
		return values[len(values)/2]
	}, nil
}

// client runs one client once.
func (g *goalLab) client(w *workload, impl, origin string) (map[string]any, error) {
	if impl == "h2load" {
		return runH2load(w, origin)
	}
	impl, processors, two := strings.Cut(impl, "@")
	// Where a workload compares numbers of processors, each client may use them all.
	on := "1"
	if two && runtime.NumCPU() > 1 {
		on = fmt.Sprintf("0-%d", runtime.NumCPU()-1)
	} else {
		processors = "1"
	}
	path := w.path
	if w.parts > 0 {
		path += count(w.parts)
	}
	args := []string{"work", "-impl", impl, "-mode", w.mode, "-url", origin + path, "-c", count(w.callers),
		"-n", count(w.requests), "-warm", count(g.scaled(max(2000, 2*w.callers)))}
	if w.conns > 0 {
		args = append(args, "-conns", count(w.conns))
	}
	if w.mode == "rate" {
		args = append(args, "-rps", fmt.Sprintf("%.0f", w.rps), "-dur", w.span.String())
	}
	return g.lab.onceOn(on, processors, append(args, w.extra...))
}

// quickened returns the workload, or a hundredth of it if the lab is quick.
func (g *goalLab) quickened(w workload) *workload {
	if g.quick {
		w.requests, w.span = g.scaled(w.requests), w.span/40
		if w.parts > 0 {
			w.parts = g.scaled(w.parts)
		}
		if w.conns > 0 {
			w.conns = max(4, g.scaled(w.conns))
		}
	}
	return &w
}

// String returns a line of text.
func (o outcome) String() string {
	if o.Skipped != "" {
		return fmt.Sprintf("%-57s skipped: %s", o.Work, o.Skipped)
	}
	s := fmt.Sprintf("%-57s %-39s %-16s %9.4g", o.Work, o.Client, o.Figure, o.Value)
	if o.Peer != "" {
		s += fmt.Sprintf("  %.2f of %s (%.4g)", o.Ratio, o.Peer, o.PeerValue)
	}
	if o.Goal != 0 {
		s += fmt.Sprintf("  %s: %s", o.goalText(), o.metText())
	}
	return s
}

// goalText returns the goal, or nothing.
func (o outcome) goalText() string {
	switch {
	case o.Goal == 0:
		return ""
	case o.AtLeast:
		return fmt.Sprintf("≥ %g", o.Goal)
	}
	return fmt.Sprintf("≤ %g", o.Goal)
}

// metText returns whether the goal is met, or nothing if there is none.
func (o outcome) metText() string {
	switch {
	case o.Goal == 0:
		return ""
	case o.Met:
		return "yes"
	}
	return "**no**"
}

// goalTable returns the lines as a table of README.md.
func goalTable(lines []outcome) string {
	var b strings.Builder
	b.WriteString("| work | server | figure | client | | of | | ratio | goal | met |\n" +
		"|---|---|---|---|---|---|---|---|---|---|\n")
	for _, o := range lines {
		if o.Skipped != "" {
			fmt.Fprintf(&b, "| %s | %s | | | | | | | | %s |\n", o.Work, o.Server, o.Skipped)
			continue
		}
		ratio, peer := "", ""
		if o.Peer != "" {
			ratio, peer = fmt.Sprintf("%.2f", o.Ratio), short(o.PeerValue)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", o.Work, o.Server, o.Figure,
			o.Client, short(o.Value), o.Peer, peer, ratio, o.goalText(), o.metText())
	}
	return b.String()
}

// short returns v with three digits or, if it is larger, as a whole number.
func short(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// merged returns the lines of before with those of now in the place of the same work, client and
// figure. What is new comes last.
func merged(before, now []outcome) []outcome {
	key := func(o outcome) [4]string { return [4]string{o.Work, o.Client, o.Figure, o.Peer} }
	all := slices.Clone(before)
	for _, o := range now {
		i := slices.IndexFunc(all, func(b outcome) bool { return key(b) == key(o) })
		if i < 0 {
			all = append(all, o)
		} else {
			all[i] = o
		}
	}
	return all
}

// writeGoals measures the goals of the lab. With a file, it puts them into that file, in which
// those of other runs stay. With write, it writes all of that file into README.md, and draws it.
func (l *lab) writeGoals(only, file string, write bool) error {
	now, measureErr := measureGoals(l, only)
	if write && file == "" {
		file = "goals.json"
	}
	if file == "" {
		return measureErr
	}
	var before []outcome
	old, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(old, &before)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", file, err)
	}
	all := merged(before, now)
	text, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return err
	}
	if write {
		head := fmt.Sprintf("%s, %d processors; made by `go -C internal/bench run . -write`\n\n",
			runtime.Version(), runtime.NumCPU())
		if err := replaceSection("README.md", "goals", head+goalTable(all)); err != nil {
			return err
		}
		for name, picture := range goalPictures(all) {
			if err := os.WriteFile(name, picture, 0o644); err != nil {
				return err
			}
		}
	}
	return measureErr
}
