package chart

import "fmt"

// A Bar is a row of a Group: parts that follow one another, and a text at their end.
type Bar struct {
	Parts []float64
	Inks  []Ink // of each part
	Text  string
}

// A Group is a column of bars with one scale.
type Group struct {
	X, Width float64 // where its bars are; their texts are in the same width
	Title    string
	Axis     Axis // linear, from 0
	Bars     []Bar
}

// The sizes of bars.
const (
	rowHeight = 30.0
	barHeight = 16.0
	barsTop   = 106.0
)

// Bars draws groups side by side. A row has the same name in all of them; nameX is where the names
// end.
func (p *Picture) Bars(nameX float64, names []string, groups []Group) []byte {
	p.begin()
	for i, name := range names {
		p.write(label{x: nameX, y: barsTop + rowHeight*float64(i) + barHeight - 4, anchor: "end", text: name})
	}
	bottom := barsTop + rowHeight*float64(len(names)) - (rowHeight - barHeight) + 6
	for _, g := range groups {
		p.write(label{x: g.X, y: barsTop - 20, bold: true, text: g.Title})
		for _, tick := range g.Axis.Ticks {
			x := g.X + g.Width*g.Axis.part(tick.At)
			fmt.Fprintf(&p.b, `<path class="grid" d="M%.1f %gV%g"/>`+"\n", x, barsTop-8, bottom)
			p.write(label{x: x, y: bottom + 15, size: 11, anchor: "middle", faint: true, text: tick.Text})
		}
		fmt.Fprintf(&p.b, `<path class="axis" d="M%g %gV%g"/>`+"\n", g.X, barsTop-8, bottom)
		p.write(label{x: g.X + g.Width/2, y: bottom + 34, anchor: "middle", text: g.Axis.Title})
		for i, bar := range g.Bars {
			p.bar(g, bar, barsTop+rowHeight*float64(i))
		}
	}
	return p.end()
}

// bar draws a bar with its upper edge at y.
func (p *Picture) bar(g Group, bar Bar, y float64) {
	x, sum := g.X, 0.0
	for i, v := range bar.Parts {
		sum += max(v, 0)
		end := g.X + g.Width*g.Axis.part(sum)
		fmt.Fprintf(&p.b, `<rect class="f%d%s" x="%.1f" y="%g" width="%.1f" height="%g"/>`+"\n",
			bar.Inks[i].Color, pale(bar.Inks[i]), x, y, end-x, barHeight)
		x = end
	}
	p.write(label{x: x + 7, y: y + barHeight - 4, size: 11, text: bar.Text})
}
