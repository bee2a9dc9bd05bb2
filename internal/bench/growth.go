package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"

	"gohyper.dev/hyper/internal/bench/chart"
)

// A curve shows how one cost grows with one size.
type curve struct {
	title, size, unit string
	sizes             []int
	figure            string
	work              func(l *lab, size int) (path string, n int, args []string)
	perWork           bool // the figure is divided by n, the number of requests or frames
	values            []result
}

// count formats a number as an argument.
func count(n int) string { return fmt.Sprint(n) }

// curves are all curves. Each has one panel of the plot.
var curves = []*curve{
	{
		title: "callers on one connection, GET 1 KiB", size: "callers", unit: "CPU µs per request",
		sizes: []int{1, 10, 100, 1000, 10000}, figure: "us_per_req",
		work: func(l *lab, size int) (string, int, []string) {
			n := l.scaled(map[int]int{1: 4000, 10: 15000}[size])
			if size >= 100 {
				n = l.scaled(30000)
			}
			return "/1k", n, []string{"-mode", "get", "-c", count(size), "-n", count(n)}
		},
	},
	{
		title: "connections that 100 callers share, GET 1 KiB", size: "connections",
		unit:  "CPU µs per request",
		sizes: []int{1, 10, 100, 1000, 10000}, figure: "us_per_req",
		work: func(l *lab, size int) (string, int, []string) {
			n := l.scaled(20000)
			return "/1k", n, []string{"-mode", "many", "-conns", count(l.scaled(size)), "-c", "100", "-n",
				count(n)}
		},
	},
	{
		title: "fields in a request and in its response, 10 callers", size: "fields",
		unit:  "CPU µs per request",
		sizes: []int{5, 10, 20, 50, 100, 200}, figure: "us_per_req",
		work: func(l *lab, size int) (string, int, []string) {
			n := l.scaled(4000)
			return "/fields?n=" + count(size), n, []string{"-mode", "get", "-c", "10", "-fields", count(size),
				"-n", count(n), "-warm", "200"}
		},
	},
	{
		title: "bytes in a DATA frame, one stream", size: "bytes", unit: "CPU µs per frame",
		sizes: []int{1, 10, 100, 1000, 10_000, 100_000, 1 << 20}, figure: "cpu", perWork: true,
		work: func(l *lab, size int) (string, int, []string) {
			n := l.scaled(min(20000, max(400, 400_000_000/size)))
			return fmt.Sprintf("/frames?size=%d&n=%d", size, n), n,
				[]string{"-mode", "down", "-n", "1", "-frame", "1048576"}
		},
	},
}

// growth measures the curves and prints them as tables. With write, it writes README.md and
// growth.svg, too.
func (l *lab) growth(write bool) error {
	var text bytes.Buffer
	for _, c := range curves {
		fmt.Fprintf(&text, "\n**%s** (%s)\n\n| %s |", c.title, c.unit, c.size)
		for _, client := range clients {
			fmt.Fprintf(&text, " %s |", client.name)
		}
		fmt.Fprintf(&text, "\n|---|%s\n", strings.Repeat("---|", len(clients)))
		for _, size := range c.sizes {
			path, n, args := c.work(l, size)
			rounds := min(3, l.rounds)
			if c.size == "connections" && size > 1000 {
				rounds = 1 // dialing takes long
			}
			median, err := l.measure(rounds, path, args...)
			if err != nil {
				return err
			}
			r := median(c.figure)
			fmt.Fprintf(&text, "| %d |", size)
			for i := range r {
				if c.perWork {
					r[i] *= 1e6 / float64(n)
				}
				fmt.Fprintf(&text, " %.3g |", r[i])
			}
			fmt.Fprintln(&text)
			c.values = append(c.values, r)
			fmt.Fprintln(os.Stderr, c.title, size, r)
		}
	}
	fmt.Print(text.String())
	if !write {
		return nil
	}
	if err := os.WriteFile("growth.svg", plot(curves), 0o644); err != nil {
		return err
	}
	head := fmt.Sprintf("%s, %d processors; made by `go -C internal/bench run . -growth -write`\n",
		runtime.Version(), runtime.NumCPU())
	return replaceSection("README.md", "growth", head+text.String())
}

// replaceSection replaces the text between the two comments of that name in a file.
func replaceSection(file, name, text string) error {
	page, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->"
	before, rest, found := strings.Cut(string(page), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		return fmt.Errorf("%s has no section %q", file, name)
	}
	return os.WriteFile(file, []byte(before+begin+text+end+after), 0o644)
}

// The panels of the plot, two in a row.
const (
	growthWidth, growthHeight = 330.0, 200.0
	growthStepX, growthStepY  = 424.0, 292.0
)

// plot returns the plot as an SVG, with one panel for each curve. Both axes are logarithmic.
func plot(curves []*curve) []byte {
	rows := (len(curves) + 1) / 2
	p := chart.Picture{Title: "How the client's CPU time grows", Better: "lower is better", Toward: "down",
		About: "CPU time of the client, in microseconds, as sizes grow.",
		Foot:  newRun(0).foot("go -C internal/bench run . -growth -write"),
		Width: 2*growthStepX + 8, Height: 112 + growthStepY*float64(rows) - 8}
	for _, c := range clients {
		p.Keys = append(p.Keys, chart.Key{Name: c.name, Ink: clientOf(c.impl).drawn()})
	}
	var panels []chart.Panel
	for i, c := range curves {
		q := c.panel()
		q.X, q.Y = 76+growthStepX*float64(i%2), 112+growthStepY*float64(i/2)
		panels = append(panels, q)
		p.About += " " + c.title + "."
		for k, curve := range q.Curves {
			p.About += fmt.Sprintf(" %s: from %.3g to %.3g.", curve.Name, c.values[0][k],
				c.values[len(c.values)-1][k])
		}
	}
	return p.Lines(panels)
}

// panel returns the curve's panel, without its place.
func (c *curve) panel() chart.Panel {
	q := chart.Panel{Width: growthWidth, Height: growthHeight, Title: c.title}
	first, last := float64(c.sizes[0]), float64(c.sizes[len(c.sizes)-1])
	q.Across = chart.Axis{Title: c.size, Low: first / 1.2, High: last * 1.2, Log: true}
	for _, size := range c.sizes {
		text := thousands(size)
		if size == 1<<20 {
			text = "1 MiB"
		}
		q.Across.Ticks = append(q.Across.Ticks, chart.Tick{At: float64(size), Text: text})
	}
	low, high := math.Inf(1), 0.0
	for i, client := range clients {
		drawn := chart.Curve{Name: client.name, Ink: clientOf(client.impl).drawn()}
		for j, r := range c.values {
			drawn.Points = append(drawn.Points, chart.Point{X: float64(c.sizes[j]), Y: r[i]})
			low, high = min(low, r[i]), max(high, r[i])
		}
		q.Curves = append(q.Curves, drawn)
	}
	q.Up = steps(low, high)
	q.Up.Title = c.unit + " (log)"
	return q
}
