package flowsim

import (
	"bytes"
	"fmt"
	"math"
	"time"
)

// A theme has the colors of a plot.
type theme struct {
	back, text, faint, grid string
	curves                  []string
}

// The themes of the plot of latency. Each color is told from its neighbors by its lightness, too.
var (
	light = theme{"#ffffff", "#1f2328", "#57606a", "#d0d7de",
		[]string{"#0550ae", "#cf222e", "#1a7f37", "#8250df", "#bc4c00", "#6e7781", "#1f2328"}}
	dark = theme{"#0d1117", "#e6edf3", "#8d96a0", "#30363d",
		[]string{"#58a6ff", "#ff7b72", "#3fb950", "#d2a8ff", "#f0883e", "#8b949e", "#e6edf3"}}
)

// The layout of the plot of latency, in pixels.
const (
	latencyWidth, latencyHeight = 560, 320
	latencyLeft, latencyTop     = 76, 44
	latencyRight, latencyBottom = 130, 52
)

// latencyTicks are the labeled values of the axis of latency, from its lower to its upper end.
var latencyTicks = []time.Duration{20 * ms, 50 * ms, 100 * ms, 200 * ms, 500 * ms, time.Second,
	2 * time.Second, 5 * time.Second}

// drawLatencies draws latency over rate, both on logarithmic scales.
func drawLatencies(curves []latencyCurve, th theme) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" `+
		`font-family="sans-serif" font-size="12">`+"\n",
		latencyLeft+latencyWidth+latencyRight, latencyTop+latencyHeight+latencyBottom)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="%s"/>`+"\n", th.back)
	label(&b, latencyLeft, 24, "start", th.text,
		"A GET of 1 KiB beside 8 downloads: 40 ms, queue of a second")
	for _, tick := range latencyTicks {
		y := latencyY(tick)
		fmt.Fprintf(&b, `<path d="M%d %.1fh%d" stroke="%s" fill="none"/>`+"\n", latencyLeft, y, latencyWidth,
			th.grid)
		label(&b, latencyLeft-8, y+4, "end", th.faint, fmt.Sprint(tick.Milliseconds()))
	}
	for _, rate := range latencyRates {
		label(&b, latencyX(rate), latencyTop+latencyHeight+18, "middle", th.faint,
			fmt.Sprintf("%g", rate/1e6))
	}
	label(&b, latencyLeft+latencyWidth/2, latencyTop+latencyHeight+40, "middle", th.text,
		"rate of the bottleneck, Mbit/s")
	y := latencyTop + latencyHeight/2
	fmt.Fprintf(&b, `<text x="20" y="%d" text-anchor="middle" fill="%s" transform="rotate(-90 20 %d)">`+
		"median latency, ms</text>\n", y, th.text, y)
	for i := len(curves) - 1; i >= 0; i-- {
		drawCurve(&b, curves[i], th.curves[i])
	}
	for i, y := range nameHeights(curves) {
		label(&b, latencyLeft+latencyWidth+8, y+4, "start", th.curves[i], curves[i].name)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// drawCurve draws one manager's latency.
func drawCurve(b *bytes.Buffer, c latencyCurve, color string) {
	fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="2" points="`, color)
	for i, rate := range latencyRates {
		fmt.Fprintf(b, "%.1f,%.1f ", latencyX(rate), latencyY(c.median[i]))
	}
	b.WriteString("\"/>\n")
	for i, rate := range latencyRates {
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", latencyX(rate),
			latencyY(c.median[i]), color)
	}
}

// nameHeights returns where the names of the curves stand: at the end of each curve, moved so far
// that they do not overlap.
func nameHeights(curves []latencyCurve) []float64 {
	const height = 15
	at := make([]float64, len(curves))
	for i, c := range curves {
		at[i] = latencyY(c.median[len(latencyRates)-1])
	}
	for range 200 {
		for i := range at {
			for k := range i {
				if gap := at[i] - at[k]; math.Abs(gap) < height {
					move := math.Copysign((height-math.Abs(gap))/2+0.01, gap)
					at[i], at[k] = at[i]+move, at[k]-move
				}
			}
		}
	}
	return at
}

// label writes a text.
func label[N int | float64](b *bytes.Buffer, x N, y float64, anchor, color, text string) {
	fmt.Fprintf(b, `<text x="%v" y="%.1f" text-anchor="%s" fill="%s">%s</text>`+"\n", x, y, anchor, color,
		text)
}

// latencyX returns where a rate is.
func latencyX(rate float64) float64 {
	first, last := latencyRates[0], latencyRates[len(latencyRates)-1]
	return latencyLeft + latencyWidth*math.Log(rate/first)/math.Log(last/first)
}

// latencyY returns where a latency is.
func latencyY(d time.Duration) float64 {
	first, last := latencyTicks[0], latencyTicks[len(latencyTicks)-1]
	part := math.Log(float64(max(d, first))/float64(first)) / math.Log(float64(last)/float64(first))
	return latencyTop + latencyHeight*(1-min(part, 1))
}
