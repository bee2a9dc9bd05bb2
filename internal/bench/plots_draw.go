package main

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"gohyper.dev/hyper/internal/bench/chart"
	"gohyper.dev/hyper/internal/flowsim"
)

// pictures returns the plots of what was measured, by the names of their files.
func (d *plotData) pictures() map[string][]byte {
	all := map[string][]byte{}
	if d.Speed != nil {
		all["speed.svg"] = d.Speed.picture()
	}
	if d.Memory != nil {
		all["memory.svg"] = d.Memory.picture()
	}
	if d.Windows != nil {
		all["windows.svg"] = d.Windows.picture()
	}
	return all
}

// foot returns the lines below a plot: the command that makes it, and when and where it was made.
func (r plotRun) foot(command string) []string {
	second := r.Date
	if r.Machine != "" {
		second += ", " + r.Machine
	}
	if r.Server != "" {
		second += ", " + r.Server
	}
	if r.Rounds > 0 {
		second += fmt.Sprintf("; medians of %d alternating rounds; compare ratios, not times", r.Rounds)
	}
	for _, left := range r.Left {
		second += "; " + left
	}
	return []string{command, second}
}

// plotCommand returns the command that makes a picture.
func plotCommand(only string) string { return "go -C internal/bench run . -plots . -only " + only }

// picture draws the CPU time of a request over the number of callers.
func (d *speedData) picture() []byte {
	low, high := math.Inf(1), 0.0
	about := "Client CPU time for a GET of 1 KiB, in microseconds, with 1, 10, 100 and 1,000 callers on " +
		"one connection."
	var curves []chart.Curve
	for _, c := range plotClients {
		curve := chart.Curve{Name: c.name, Ink: c.drawn()}
		var values []string
		for _, callers := range plotCallers {
			v, ok := d.CPU[count(callers)][c.impl]
			if !ok || v <= 0 {
				continue
			}
			low, high = min(low, v), max(high, v)
			curve.Points = append(curve.Points, chart.Point{X: float64(callers), Y: v})
			values = append(values, fmt.Sprintf("%.3g", v))
		}
		if len(values) > 0 {
			curves = append(curves, curve)
			about += fmt.Sprintf(" %s: %s.", c.name, strings.Join(values, ", "))
		}
	}
	p := chart.Picture{Title: "Client CPU time for a GET of 1 KiB, on one connection", About: about,
		Better: "lower is better", Toward: "down", Foot: d.foot(plotCommand("speed")),
		Width: 840, Height: 476}
	q := chart.Panel{X: 86, Y: 84, Width: 540, Height: 300, Curves: curves, Names: true,
		Across: chart.Axis{Low: 0.8, High: 1250, Log: true}, Up: steps(low, high)}
	q.Across.Title = "callers, each with one request at a time"
	q.Up.Title = "CPU time for each request, µs (log)"
	for _, callers := range plotCallers {
		q.Across.Ticks = append(q.Across.Ticks, chart.Tick{At: float64(callers), Text: thousands(callers)})
	}
	return p.Lines([]chart.Panel{q})
}

// steps returns a logarithmic axis with ticks at 1, 2 and 5 times the powers of ten, around low and
// high. Its ends differ by a factor of at least 5, so that it does not make much of small
// differences.
func steps(low, high float64) (a chart.Axis) {
	a.Log = true
	if high <= 0 || math.IsInf(low, 1) {
		low, high = 1, 10
	}
	low = min(low, high/5)
	for power := math.Pow(10, math.Floor(math.Log10(low))); ; power *= 10 {
		for _, m := range []float64{1, 2, 5} {
			v := m * power
			if v <= low {
				a.Ticks = nil // the last one below low begins the axis
			}
			a.Ticks = append(a.Ticks, chart.Tick{At: v, Text: tickText(v)})
			if v >= high && len(a.Ticks) > 1 {
				a.Low, a.High = a.Ticks[0].At, v
				return a
			}
		}
	}
}

// tickText returns the text of a tick.
func tickText(v float64) string {
	if v >= 1000 {
		return thousands(int(v))
	}
	return fmt.Sprintf("%.3g", v)
}

// thousands writes a number with commas.
func thousands(n int) string {
	if n < 1000 {
		return count(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

// picture draws the memory of what waits.
func (d *memoryData) picture() []byte {
	groups := []chart.Group{
		{X: 190, Width: 230, Title: "an idle connection"},
		{X: 530, Width: 230, Title: "a stream that waits for its response"},
	}
	about := "Memory of the client's process in KiB."
	var names []string
	for g, figure := range []string{"idle", "open"} {
		most := 0.0
		about += " " + groups[g].Title + ":"
		for _, c := range plotClients {
			heap, ok := d.Heap[figure][c.impl]
			if !ok {
				continue
			}
			if g == 0 {
				names = append(names, c.name)
			}
			stack := max(d.Stack[figure][c.impl], 0)
			sum := (heap + stack) / 1024
			text := fmt.Sprintf("%.1f KiB", sum)
			if of := d.sum(figure, "nethttp"); of > 0 && c.impl != "nethttp" {
				text += fmt.Sprintf(" (%.2f)", sum*1024/of)
			}
			most = max(most, sum)
			ink := chart.Ink{Color: c.ink, Solid: true}
			paler := ink
			paler.Pale = true
			groups[g].Bars = append(groups[g].Bars, chart.Bar{Parts: []float64{heap / 1024, stack / 1024},
				Inks: []chart.Ink{ink, paler}, Text: text})
			about += fmt.Sprintf(" %s %.3g of heap and %.3g of stack;", c.name, heap/1024, stack/1024)
		}
		groups[g].Axis = linear(most)
		groups[g].Axis.Title = "KiB (as a part of net/http's)"
	}
	gray := chart.Ink{Color: 5, Solid: true}
	pale := gray
	pale.Pale = true
	p := chart.Picture{Title: "Memory of the client's process", About: about, Better: "shorter is better",
		Toward: "left", Foot: d.foot(plotCommand("memory")),
		Keys:  []chart.Key{{Name: "heap", Ink: gray}, {Name: "stacks of goroutines", Ink: pale}},
		Width: 880, Height: float64(106 + 30*len(names) + 84)}
	return p.Bars(178, names, groups)
}

// sum returns the heap and the stack of a client.
func (d *memoryData) sum(figure, impl string) float64 {
	return d.Heap[figure][impl] + max(d.Stack[figure][impl], 0)
}

// linear returns an axis from 0 with up to five ticks.
func linear(most float64) chart.Axis {
	step := 1e-3
	for next := []float64{2, 2.5, 2}; most/step > 5; next = append(next[1:], next[0]) {
		step *= next[0]
	}
	a := chart.Axis{High: max(most, step)}
	for v := 0.0; v <= a.High; v += step {
		a.Ticks = append(a.Ticks, chart.Tick{At: v, Text: fmt.Sprintf("%.4g", v)})
	}
	return a
}

// The panels of the plot of windows.
const (
	windowWidth, windowHeight = 260.0, 190.0
	windowStepX, windowStepY  = 284.0, 286.0
	windowLow                 = 32 << 10
	windowHigh                = 4 << 30
)

// The inks of the plot of windows, and what they are for.
var windowKeys = []chart.Key{
	{Name: "window of the connection", Ink: chart.Ink{Color: 4}},
	{Name: "window of the stream", Ink: chart.Ink{Color: 3, Dashed: true}},
	{Name: "data in flight", Ink: chart.Ink{Color: 0, Area: true}},
	{Name: "what fills the path: rate × round trip", Ink: chart.Ink{Color: 5, Dashed: true}},
}

// picture draws the windows and the data in flight over time, a row for each path.
func (d *windowsData) picture() []byte {
	var panels []chart.Panel
	about := "Windows of simulated downloads over time, and the data in flight."
	for row, path := range d.Paths {
		for column, r := range path.Runs {
			q := windowPanel(path, r)
			q.X, q.Y = 86+windowStepX*float64(column), 112+windowStepY*float64(row)
			if column == 0 {
				q.Up.Title = "bytes (log)"
			} else {
				for i := range q.Up.Ticks {
					q.Up.Ticks[i].Text = ""
				}
			}
			panels = append(panels, q)
			about += fmt.Sprintf(" %s: %s; at most %.3g MiB in flight.", q.Title, q.Note,
				float64(slices.Max(r.InFlight))/(1<<20))
		}
	}
	p := chart.Picture{
		Title: "One download: where the data in flight fills a window, the window is the limit",
		About: about, Keys: windowKeys, Foot: d.foot(plotCommand("windows")), Width: 86 + 3*windowStepX,
		Height: 112 + windowStepY*float64(len(d.Paths)) - 10}
	return p.Lines(panels)
}

// windowTitles are the names of the managers in the plot.
var windowTitles = map[string]string{"AdaptiveWindow": "hyper's default", "net/http": "net/http's windows",
	"unlimited": "unlimited windows"}

// windowPanel returns the panel of a run, without its place.
func windowPanel(path flowsim.WindowPath, r flowsim.WindowRun) chart.Panel {
	q := chart.Panel{
		Width: windowWidth, Height: windowHeight,
		Title:  path.Name + ": " + windowTitles[r.Manager],
		Note:   fmt.Sprintf("%.0f Mbit/s; a byte waits %.0f ms in the queue", r.Mbit, r.Wait),
		Across: chart.Axis{Title: "seconds", High: path.Seconds},
		Up:     chart.Axis{Low: windowLow, High: windowHigh, Log: true},
	}
	for v := 0.0; v <= path.Seconds; v++ {
		q.Across.Ticks = append(q.Across.Ticks, chart.Tick{At: v, Text: fmt.Sprint(v)})
	}
	q.Up.Ticks = []chart.Tick{{At: 64 << 10, Text: "64 KiB"}, {At: 1 << 20, Text: "1 MiB"},
		{At: 16 << 20, Text: "16 MiB"}, {At: 256 << 20, Text: "256 MiB"}, {At: 4 << 30, Text: "4 GiB"}}
	curve := func(key int, value func(i int) float64) {
		c := chart.Curve{Name: windowKeys[key].Name, Ink: windowKeys[key].Ink}
		for i := range r.Conn {
			at := (float64(i) + 0.5) / float64(len(r.Conn)) * path.Seconds
			c.Points = append(c.Points, chart.Point{X: at, Y: value(i)})
		}
		q.Curves = append(q.Curves, c)
	}
	curve(1, func(i int) float64 { return float64(r.Stream[i]) })
	curve(0, func(i int) float64 { return float64(r.Conn[i]) })
	curve(3, func(int) float64 { return path.Fills })
	curve(2, func(i int) float64 { return float64(r.InFlight[i]) })
	return q
}
