// Package chart draws plots as SVG. A plot has a title and a description for screen readers, and it
// follows the color scheme of the reader: light or dark.
package chart

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"strings"
)

// A Picture is a plot: what is drawn, and what stands around it.
type Picture struct {
	Title  string   // the heading, and the name for screen readers
	About  string   // what the plot shows, as a text for screen readers
	Better string   // which way is better, such as "lower is better"; "": nothing is said
	Toward string   // where the arrow beside Better points: "down" or "left"
	Keys   []Key    // the legend
	Foot   []string // small lines below the plot: the command, and the date of its run
	Width  float64  // in pixels, as all lengths are
	Height float64

	b bytes.Buffer
}

// A Key is an entry of the legend: a sample of the ink, and what has it.
type Key struct {
	Name string
	Ink  Ink
}

// An Ink is how a curve or a bar is drawn.
type Ink struct {
	Color  int  // a color's index
	Dashed bool // a dashed line
	Area   bool // a line over a pale area
	Pale   bool // the color of a part of a bar, mixed with the background
	Mark   int  // the shape of the points: 1 is the first of marks; 0: none
	Solid  bool // a filled box in the legend, for bars
}

// A palette has the colors of one scheme.
type palette struct {
	back, text, faint, grid string
	inks                    []string
}

// The palettes are those of the plots of internal/flowsim. An ink has the same index in both.
var (
	light = palette{"#ffffff", "#1f2328", "#57606a", "#d0d7de",
		[]string{"#0550ae", "#1a7f37", "#cf222e", "#bc4c00", "#8250df", "#6e7781"}}
	dark = palette{"#0d1117", "#e6edf3", "#9aa4af", "#30363d",
		[]string{"#58a6ff", "#3fb950", "#ff7b72", "#f0883e", "#d2a8ff", "#8b949e"}}
)

// Inks is the number of colors.
const Inks = 6

// style returns the rules of a palette.
func (p palette) style() string {
	var b strings.Builder
	fmt.Fprintf(&b, ".back{fill:%s}.text{fill:%s}.faint{fill:%s}.grid{stroke:%s}.axis{stroke:%s}", p.back,
		p.text, p.faint, p.grid, p.faint)
	for i, ink := range p.inks {
		fmt.Fprintf(&b, ".s%d{stroke:%s}.f%d{fill:%s}", i, ink, i, ink)
	}
	return b.String()
}

// The places of what stands around the plot.
const (
	margin     = 16.0
	titleAt    = 26.0
	keysAt     = 50.0
	footHeight = 15.0
)

// begin writes the head of the picture, its title and its legend.
func (p *Picture) begin() {
	p.b.Reset()
	fmt.Fprintf(&p.b, `<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title about" `+
		`width="%g" height="%g" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12">`+"\n",
		p.Width, p.Height, p.Width, p.Height)
	fmt.Fprintf(&p.b, `<title id="title">%s</title>`+"\n"+`<desc id="about">%s</desc>`+"\n", escaped(p.Title),
		escaped(p.About))
	fmt.Fprintf(&p.b, "<style>%s@media (prefers-color-scheme:dark){%s}"+
		".line{fill:none;stroke-width:2;stroke-linejoin:round}.axis,.grid{fill:none}"+
		".area{stroke:none;opacity:.18}.pale{opacity:.5}</style>\n", light.style(), dark.style())
	p.b.WriteString(`<rect class="back" width="100%" height="100%"/>` + "\n")
	p.write(label{x: margin, y: titleAt, size: 15, bold: true, text: p.Title})
	x := margin
	for _, k := range p.Keys {
		p.sample(x, keysAt-4, k.Ink)
		p.write(label{x: x + 30, y: keysAt, text: k.Name})
		x += 30 + width(k.Name, 12) + 22
	}
	if p.Better != "" {
		p.better(x)
	}
}

// better writes which way is better, at x in the line of the legend.
func (p *Picture) better(x float64) {
	arrow := "M%g %gv12m-4 -5l4 5l4 -5"
	if p.Toward == "left" {
		arrow = "M%g %gm6 6h-12m5 -4l-5 4l5 4"
	}
	fmt.Fprintf(&p.b, `<path class="axis" stroke-width="1.5" d="`+arrow+`"/>`+"\n", x+8, keysAt-10)
	p.write(label{x: x + 20, y: keysAt, text: p.Better, bold: true})
}

// end writes the foot and returns the picture.
func (p *Picture) end() []byte {
	for i, line := range p.Foot {
		y := p.Height - 10 - footHeight*float64(len(p.Foot)-1-i)
		p.write(label{x: margin, y: y, size: 11, faint: true, text: line})
	}
	p.b.WriteString("</svg>\n")
	return bytes.Clone(p.b.Bytes())
}

// sample draws a sample of an ink, 24 pixels wide.
func (p *Picture) sample(x, y float64, ink Ink) {
	switch {
	case ink.Solid:
		fmt.Fprintf(&p.b, `<rect class="f%d%s" x="%g" y="%g" width="24" height="12"/>`+"\n", ink.Color,
			pale(ink), x, y-6)
		return
	case ink.Area:
		fmt.Fprintf(&p.b, `<rect class="area f%d" x="%g" y="%g" width="24" height="8"/>`+"\n", ink.Color, x,
			y)
	}
	fmt.Fprintf(&p.b, `<path class="line s%d" d="M%g %gh24"%s/>`+"\n", ink.Color, x, y, dashes(ink))
	p.mark(x+12, y, ink)
}

// dashes returns the attribute of a dashed line, if the ink has one.
func dashes(ink Ink) string {
	if ink.Dashed {
		return ` stroke-dasharray="6 4"`
	}
	return ""
}

// pale returns the further class of a pale ink.
func pale(ink Ink) string {
	if ink.Pale {
		return " pale"
	}
	return ""
}

// marks are the shapes of points, around 0,0. They tell curves apart where colors do not.
var marks = []string{
	"M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",                // a disk
	"M-4 -4h8v8h-8z",                                     // a square
	"M0 -5l5 9h-10z",                                     // a triangle
	"M0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z",                // a diamond
	"M0 5l5 -9h-10z",                                     // a triangle, upside down
	"M-1.5 -5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z", // a cross
}

// mark draws the point of a curve.
func (p *Picture) mark(x, y float64, ink Ink) {
	if ink.Mark > 0 {
		fmt.Fprintf(&p.b, `<path class="f%d" transform="translate(%.1f %.1f)" d="%s"/>`+"\n", ink.Color, x, y,
			marks[(ink.Mark-1)%len(marks)])
	}
}

// A label is a text. Its zero values are 12 pixels, not bold, and begun at x.
type label struct {
	x, y   float64
	text   string
	size   float64
	anchor string // "middle" or "end"
	turned bool   // it goes up
	bold   bool
	faint  bool
	ink    int // the color's index plus 1; 0: that of text
}

// write writes a label.
func (p *Picture) write(l label) {
	if l.text == "" {
		return
	}
	class := "text"
	switch {
	case l.ink > 0:
		class = fmt.Sprintf("f%d", l.ink-1)
	case l.faint:
		class = "faint"
	}
	fmt.Fprintf(&p.b, `<text class="%s" x="%.1f" y="%.1f"`, class, l.x, l.y)
	if l.size > 0 {
		fmt.Fprintf(&p.b, ` font-size="%g"`, l.size)
	}
	if l.anchor != "" {
		fmt.Fprintf(&p.b, ` text-anchor="%s"`, l.anchor)
	}
	if l.bold {
		p.b.WriteString(` font-weight="bold"`)
	}
	if l.turned {
		fmt.Fprintf(&p.b, ` transform="rotate(-90 %.1f %.1f)"`, l.x, l.y)
	}
	fmt.Fprintf(&p.b, ">%s</text>\n", escaped(l.text))
}

// width returns about how wide a text is.
func width(text string, size float64) float64 { return float64(len([]rune(text))) * size * 0.56 }

// escaped returns a text as it stands in XML.
func escaped(text string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(text)) // a Builder returns no error
	return b.String()
}
