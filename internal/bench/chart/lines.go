package chart

import (
	"fmt"
	"math"
	"strings"
)

// An Axis is a logarithmic or a linear scale.
type Axis struct {
	Title     string
	Low, High float64
	Log       bool // then Low and High are positive
	Ticks     []Tick
}

// A Tick is a value of an axis that has a label.
type Tick struct {
	At   float64
	Text string
}

// part returns where a value is between the ends of the axis, from 0 to 1.
func (a Axis) part(v float64) float64 {
	if a.Log {
		v = math.Log(max(v, a.Low)/a.Low) / math.Log(a.High/a.Low)
	} else {
		v = (v - a.Low) / (a.High - a.Low)
	}
	return min(max(v, 0), 1)
}

// A Point is a value of a curve. On a logarithmic axis, a point that is not positive is left out.
type Point struct{ X, Y float64 }

// A Curve is a line through its points.
type Curve struct {
	Name   string
	Ink    Ink
	Points []Point
}

// A Panel is a coordinate system with curves.
type Panel struct {
	X, Y, Width, Height float64 // where the area of the curves is
	Title, Note         string  // stand above it
	Across, Up          Axis
	Curves              []Curve
	Names               bool // the name of each curve stands at its end
}

// Lines draws panels of curves.
func (p *Picture) Lines(panels []Panel) []byte {
	p.begin()
	for i := range panels {
		q := &panels[i]
		p.frame(q)
		for k := len(q.Curves) - 1; k >= 0; k-- { // the first is on top
			p.curve(q, q.Curves[k])
		}
		if q.Names {
			p.names(q)
		}
	}
	return p.end()
}

// at returns the place of a point.
func (q *Panel) at(v Point) (x, y float64) {
	return q.X + q.Width*q.Across.part(v.X), q.Y + q.Height*(1-q.Up.part(v.Y))
}

// drawn returns the points of a curve that can be drawn.
func (q *Panel) drawn(c Curve) (points []Point) {
	for _, v := range c.Points {
		if (v.X > 0 || !q.Across.Log) && (v.Y > 0 || !q.Up.Log) {
			points = append(points, v)
		}
	}
	return points
}

// frame draws the axes of a panel, its grid, and its titles.
func (p *Picture) frame(q *Panel) {
	p.write(label{x: q.X, y: q.Y - 24, bold: true, text: q.Title})
	p.write(label{x: q.X, y: q.Y - 9, size: 11, faint: true, text: q.Note})
	for _, tick := range q.Up.Ticks {
		_, y := q.at(Point{q.Across.Low, tick.At})
		fmt.Fprintf(&p.b, `<path class="grid" d="M%g %.1fh%g"/>`+"\n", q.X, y, q.Width)
		p.write(label{x: q.X - 7, y: y + 4, size: 11, anchor: "end", faint: true, text: tick.Text})
	}
	bottom := q.Y + q.Height
	for _, tick := range q.Across.Ticks {
		x, _ := q.at(Point{tick.At, q.Up.Low})
		fmt.Fprintf(&p.b, `<path class="axis" d="M%.1f %gv4"/>`+"\n", x, bottom)
		p.write(label{x: x, y: bottom + 18, size: 11, anchor: "middle", faint: true, text: tick.Text})
	}
	fmt.Fprintf(&p.b, `<path class="axis" d="M%g %gv%gh%g"/>`+"\n", q.X, q.Y, q.Height, q.Width)
	p.write(label{x: q.X + q.Width/2, y: bottom + 38, anchor: "middle", text: q.Across.Title})
	if q.Up.Title != "" {
		p.write(label{x: q.X - 56, y: q.Y + q.Height/2, anchor: "middle", turned: true, text: q.Up.Title})
	}
}

// curve draws a curve.
func (p *Picture) curve(q *Panel, c Curve) {
	points := q.drawn(c)
	if len(points) == 0 {
		return
	}
	var line strings.Builder
	for _, v := range points {
		x, y := q.at(v)
		fmt.Fprintf(&line, "%.1f,%.1f ", x, y)
	}
	if bottom := q.Y + q.Height; c.Ink.Area {
		first, _ := q.at(points[0])
		last, _ := q.at(points[len(points)-1])
		fmt.Fprintf(&p.b, `<polygon class="area f%d" points="%.1f,%g %s%.1f,%g"/>`+"\n", c.Ink.Color, first,
			bottom, line.String(), last, bottom)
	}
	fmt.Fprintf(&p.b, `<polyline class="line s%d"%s points="%s"><title>%s</title></polyline>`+"\n",
		c.Ink.Color, dashes(c.Ink), strings.TrimSpace(line.String()), escaped(c.Name))
	for _, v := range points {
		x, y := q.at(v)
		p.mark(x, y, c.Ink)
	}
}

// names writes the name of each curve at its end, with its mark.
func (p *Picture) names(q *Panel) {
	var shown []Curve
	var ends []float64
	for _, c := range q.Curves {
		if points := q.drawn(c); len(points) > 0 {
			_, y := q.at(points[len(points)-1])
			shown, ends = append(shown, c), append(ends, y)
		}
	}
	x := q.X + q.Width
	for i, y := range apart(ends, 17) {
		fmt.Fprintf(&p.b, `<path class="grid" d="M%.1f %.1fL%.1f %.1f"/>`+"\n", x+6, ends[i], x+18, y)
		p.mark(x+26, y, shown[i].Ink)
		p.write(label{x: x + 36, y: y + 4, ink: shown[i].Ink.Color + 1, text: shown[i].Name})
	}
}

// apart moves places so far that each pair is at least gap apart.
func apart(places []float64, gap float64) []float64 {
	at := append([]float64(nil), places...)
	for range 500 {
		for i := range at {
			for k := range i {
				if between := at[i] - at[k]; math.Abs(between) < gap {
					move := math.Copysign((gap-math.Abs(between))/2+0.01, between)
					at[i], at[k] = at[i]+move, at[k]-move
				}
			}
		}
	}
	return at
}
