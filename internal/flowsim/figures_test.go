package flowsim

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// The flags of TestFigures.
var (
	tables  = flag.Bool("tables", false, "print every manager in all cells and conditions")
	readme  = flag.Bool("readme", false, "write the README's tables of rows and its plot of latency")
	cells   = flag.Bool("cells", false, "write the README's table of the 48 cells")
	only    = flag.String("only", "", "managers, separated by commas; all of them if it is empty")
	octets  = flag.Int("bytes", 64<<20, "of a transfer in the tables, all streams together")
	plot    = flag.String("plot", "", "write an SVG of one cell to this file")
	rtt     = flag.Duration("rtt", 100*time.Millisecond, "of the plot's path")
	rate    = flag.Float64("rate", 1e9, "of the plot's path, bits per second")
	streams = flag.Int("streams", 1, "of the plot")
	reader  = flag.Float64("reader", 0, "bytes per second that the plot's reader takes; 0: no limit")
	span    = flag.Duration("span", 3*time.Second, "the time that the plot shows")
)

// TestFigures prints the tables if there is -tables, writes a plot if there is -plot, and the
// README if there is -readme.
func TestFigures(t *testing.T) {
	if !*tables && !*readme && !*cells && *plot == "" {
		t.Skip("none of -tables, -readme, -cells and -plot")
	}
	if *readme {
		writeReadme(t)
	}
	chosen := slices.Clone(subjects)
	if *only != "" {
		names := strings.Split(*only, ",")
		chosen = slices.DeleteFunc(chosen, func(s subject) bool { return !slices.Contains(names, s.name) })
	}
	if *cells {
		writeCells(t, chosen, *octets)
	}
	if *tables {
		if err := (report{t, os.Stdout, chosen, *octets}).all(); err != nil {
			t.Fatal(err)
		}
	}
	if *plot == "" {
		return
	}
	if *only == "" {
		chosen = plotted()
	}
	s := Scenario{RTT: *rtt, Rate: *rate, Streams: *streams, Reader: *reader}
	svg, err := drawPlot(t, s, chosen, *span)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(*plot, svg, 0o644); err != nil {
		t.Fatal(err)
	}
}
