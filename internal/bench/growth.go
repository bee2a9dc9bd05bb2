package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
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
		title: "connections, GET 1 KiB by 100 callers over all of them", size: "connections",
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

// The plot has one panel for each curve, two in a row. Both axes are logarithmic.
const (
	panelWidth, panelHeight = 360.0, 220.0
	marginX, marginY        = 60.0, 50.0
)

// colours are the colors of the clients, in their order.
var colours = []string{"#0b6e4f", "#3a86c8", "#c1292e"}

// plot returns the plot as an SVG.
func plot(curves []*curve) []byte {
	var b bytes.Buffer
	stepX, stepY := panelWidth+2*marginX, panelHeight+2*marginY
	rows := (len(curves) + 1) / 2
	fmt.Fprintf(&b,
		`<svg xmlns="http://www.w3.org/2000/svg" width="%g" height="%g" `+
			`font-family="sans-serif" font-size="12">`+"\n",
		2*stepX, stepY*float64(rows)+20)
	b.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	for i, c := range clients {
		x := marginX + 220*float64(i)
		fmt.Fprintf(&b,
			`<path d="M%g 14h24" stroke="%s" stroke-width="2"/><text x="%g" y="18">%s</text>`+"\n", x,
			colours[i], x+30, c.name)
	}
	for i, c := range curves {
		c.draw(&b, marginX+stepX*float64(i%2), 20+marginY+stepY*float64(i/2))
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// draw draws the curve's panel. Its upper left corner is at x, y.
func (c *curve) draw(b *bytes.Buffer, x, y float64) {
	low, high := math.Inf(1), math.Inf(-1)
	for _, r := range c.values {
		for _, v := range r {
			low, high = min(low, v), max(high, v)
		}
	}
	if len(c.values) == 0 || low <= 0 {
		return
	}
	low, high = math.Floor(math.Log10(low)), math.Ceil(math.Log10(high))
	high = max(high, low+1)
	first, last := math.Log10(float64(c.sizes[0])), math.Log10(float64(c.sizes[len(c.sizes)-1]))
	atX := func(size int) float64 { return x + panelWidth*(math.Log10(float64(size))-first)/(last-first) }
	atY := func(v float64) float64 { return y + panelHeight*(high-math.Log10(v))/(high-low) }
	fmt.Fprintf(b, `<text x="%g" y="%g" font-weight="bold">%s</text>`+"\n", x, y-24, c.title)
	fmt.Fprintf(b, `<text x="%g" y="%g" fill="gray">%s</text>`+"\n", x, y-8, c.unit)
	for e := low; e <= high; e++ {
		at := atY(math.Pow(10, e))
		fmt.Fprintf(b,
			`<path d="M%g %.1fh%g" stroke="lightgray"/>`+
				`<text x="%g" y="%.1f" text-anchor="end">%g</text>`+"\n",
			x, at, panelWidth, x-6, at+4, math.Pow(10, e))
	}
	for _, size := range c.sizes {
		fmt.Fprintf(b, `<text x="%.1f" y="%g" text-anchor="middle">%d</text>`+"\n", atX(size),
			y+panelHeight+16, size)
	}
	fmt.Fprintf(b, `<path d="M%g %gv%gh%g" fill="none" stroke="black"/>`+"\n", x, y, panelHeight, panelWidth)
	for i := range clients {
		fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="2" points="`, colours[i])
		for j, r := range c.values {
			fmt.Fprintf(b, "%.1f,%.1f ", atX(c.sizes[j]), atY(r[i]))
		}
		b.WriteString(`"/>` + "\n")
	}
}
