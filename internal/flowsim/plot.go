package flowsim

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

// plotted returns the managers of the README's plots.
func plotted() []subject { return []subject{subjects[0], subjects[1], subjects[3]} }

// colors are the colors of the curves.
var colors = []string{"#1f6feb", "#d29922", "#cf222e", "#8250df", "#57606a"}

// The layout of a plot, in pixels, and the number of points of a curve.
const (
	plotWidth, plotHeight = 640, 130 // of a panel
	plotLeft, plotTop     = 64, 46
	plotGap               = 34
	plotBins              = 160
)

// A curve is one manager's run. It divides the time shown into plotBins equal parts.
type curve struct {
	name string
	// promise and unread are the maximum of each part, octets are the bytes read in it.
	promise, unread, octets [plotBins]float64
}

// record plays s under m for a time of span.
func record(t *testing.T, s Scenario, m subject, span time.Duration) (*curve, error) {
	c := &curve{name: m.name}
	bin := func(at time.Duration) int { return int(int64(at) * plotBins / int64(span)) }
	var last Sample
	s = s.under(m)
	// Enough bytes that the transfer lasts longer than span.
	s.Octets = 2<<30 - 1
	s.Until = span
	s.Trace = func(now Sample) {
		for i := bin(last.At) + 1; i < min(bin(now.At), plotBins); i++ { // nothing happened in these parts
			c.promise[i], c.unread[i] = float64(last.Promise), float64(last.Unread)
		}
		if i := bin(now.At); i < plotBins {
			c.promise[i] = max(c.promise[i], float64(now.Promise))
			c.unread[i] = max(c.unread[i], float64(now.Unread))
			c.octets[i] += float64(now.Read - last.Read)
		}
		last = now
	}
	_, err := Run(t, s)
	return c, err
}

// drawPlot draws three panels over time, with a curve for each manager: the window, the unread
// bytes, and the goodput.
func drawPlot(t *testing.T, s Scenario, managers []subject, span time.Duration) ([]byte, error) {
	var curves []*curve
	for _, m := range managers {
		c, err := record(t, s, m, span)
		if err != nil {
			return nil, err
		}
		curves = append(curves, c)
	}
	title := fmt.Sprintf("%v, %sbit/s, 1 stream", s.RTT, rateText(s.Rate))
	if s.Streams > 1 {
		title = fmt.Sprintf("%v, %sbit/s, %d streams", s.RTT, rateText(s.Rate), s.Streams)
	}
	if s.Reader > 0 {
		title += fmt.Sprintf(", a reader that takes %g MB/s", s.Reader/1e6)
	}
	part := span.Seconds() / plotBins
	panels := []struct {
		title string
		value func(c *curve, i int) float64
	}{
		{"window, MB: what the peer may send, and what is unread",
			func(c *curve, i int) float64 { return c.promise[i] / (1 << 20) }},
		{"unread, MB", func(c *curve, i int) float64 { return c.unread[i] / (1 << 20) }},
		{"goodput, Mbit/s", func(c *curve, i int) float64 { return smooth(c, i) * 8 / part / 1e6 }},
	}
	var b bytes.Buffer
	height := plotTop + len(panels)*(plotHeight+plotGap)
	fmt.Fprintf(&b,
		`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" `+
			`font-family="sans-serif" font-size="12">`+"\n",
		plotLeft+plotWidth+16, height)
	fmt.Fprintf(&b,
		`<rect width="100%%" height="100%%" fill="white"/><text x="%d" y="18" font-size="14">%s</text>`+"\n",
		plotLeft, title)
	x := plotLeft + plotWidth
	for i := len(curves) - 1; i >= 0; i-- {
		fmt.Fprintf(&b, `<text x="%d" y="18" text-anchor="end" fill="%s">%s</text>`+"\n", x, colors[i],
			curves[i].name)
		x -= 8*len(curves[i].name) + 16
	}
	for i, p := range panels {
		drawPanel(&b, plotTop+i*(plotHeight+plotGap), p.title, curves, p.value, span)
	}
	b.WriteString("</svg>\n")
	return b.Bytes(), nil
}

// smooth returns the mean of five parts, as reading comes in bursts.
func smooth(c *curve, i int) float64 {
	sum, n := 0.0, 0
	for k := max(0, i-2); k <= min(plotBins-1, i+2); k++ {
		sum += c.octets[k]
		n++
	}
	return sum / float64(n)
}

// drawPanel draws one panel, whose upper edge is at top.
func drawPanel(b *bytes.Buffer, top int, title string, curves []*curve, value func(*curve, int) float64,
	span time.Duration) {
	most := 0.0
	for _, c := range curves {
		for i := range plotBins {
			most = max(most, value(c, i))
		}
	}
	most = roundUp(most)
	fmt.Fprintf(b, `<text x="%d" y="%d" fill="#57606a">%s</text>`+"\n", plotLeft, top-5, title)
	for i := range 3 { // the grid and its labels
		y := top + plotHeight*i/2
		fmt.Fprintf(b,
			`<path d="M%d %dh%d" stroke="#d0d7de" fill="none"/>`+
				`<text x="%d" y="%d" text-anchor="end" fill="#57606a">%.4g</text>`+"\n",
			plotLeft, y, plotWidth, plotLeft-6, y+4, most*float64(2-i)/2)
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end" fill="#57606a">%v</text>`+"\n", plotLeft+plotWidth,
		top+plotHeight+14, span)
	for k := len(curves) - 1; k >= 0; k-- {
		var points []string
		for i := range plotBins {
			points = append(points, fmt.Sprintf("%.0f,%.1f", plotLeft+(float64(i)+0.5)*plotWidth/plotBins,
				float64(top+plotHeight)-value(curves[k], i)/most*plotHeight))
		}
		fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.6"/>`+"\n",
			strings.Join(points, " "), colors[k])
	}
}

// roundUp returns a round number, at least v, for the end of an axis.
func roundUp(v float64) float64 {
	step := 1e-6
	for {
		for _, m := range []float64{1, 2, 4, 5} {
			if m*step >= v {
				return m * step
			}
		}
		step *= 10
	}
}
