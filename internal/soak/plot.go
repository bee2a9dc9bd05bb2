package main

import (
	"bytes"
	"fmt"
	"time"
)

// A panel is one curve over the time of the run.
type panel struct {
	title string
	value func(before, s sample) float64
}

// panels are the curves of the plot.
var panels = []panel{
	{"heap between exchanges, MiB", func(_, s sample) float64 { return float64(s.heap) / (1 << 20) }},
	{"goroutines between exchanges", func(_, s sample) float64 { return float64(s.goroutines) }},
	{"exchanges per second, whole", func(before, s sample) float64 {
		return float64(s.whole-before.whole) / max(s.at-before.at, time.Millisecond).Seconds()
	}},
}

// The sizes of a panel.
const (
	plotWidth, plotHeight = 800.0, 160.0 // of the area of the curve
	plotLeft, plotTop     = 70.0, 30.0   // the margin around it
)

// plot draws the samples as SVG, with one panel below the other.
func plot(took []sample) []byte {
	var b bytes.Buffer
	step := plotHeight + 2*plotTop
	fmt.Fprintf(&b,
		`<svg xmlns="http://www.w3.org/2000/svg" width="%g" height="%g" `+
			`font-family="sans-serif" font-size="12">`+"\n",
		plotWidth+2*plotLeft, step*float64(len(panels)))
	b.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	for i, p := range panels {
		p.draw(&b, took, plotTop+step*float64(i))
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// draw draws the panel at the vertical position top.
func (p panel) draw(b *bytes.Buffer, took []sample, top float64) {
	bottom := top + plotHeight
	fmt.Fprintf(b, `<text x="%g" y="%g" font-weight="bold">%s</text>`+"\n", plotLeft, top-8, p.title)
	fmt.Fprintf(b, `<path d="M%g %gV%gH%g" fill="none" stroke="black"/>`+"\n", plotLeft, top, bottom,
		plotLeft+plotWidth)
	if len(took) == 0 {
		return
	}
	var before sample
	values, most := []float64{}, 1.0
	for _, s := range took {
		values = append(values, p.value(before, s))
		most = max(most, values[len(values)-1]*1.1)
		before = s
	}
	length := max(took[len(took)-1].at.Seconds(), 1e-9)
	for i := range 5 {
		part := float64(i) / 4
		y, x := bottom-part*plotHeight, plotLeft+part*plotWidth
		fmt.Fprintf(b, `<text x="%g" y="%.1f" text-anchor="end">%.4g</text>`+"\n", plotLeft-6, y+4, most*part)
		fmt.Fprintf(b, `<text x="%.1f" y="%g" text-anchor="middle">%.4g s</text>`+"\n", x, bottom+16,
			length*part)
		fmt.Fprintf(b, `<path d="M%g %.1fh%g" stroke="lightgray"/>`+"\n", plotLeft, y, plotWidth)
	}
	b.WriteString(`<polyline fill="none" stroke="steelblue" stroke-width="1.5" points="`)
	for i, s := range took {
		fmt.Fprintf(b, "%.1f,%.1f ", plotLeft+plotWidth*s.at.Seconds()/length,
			bottom-plotHeight*values[i]/most)
	}
	b.WriteString(`"/>` + "\n")
}
