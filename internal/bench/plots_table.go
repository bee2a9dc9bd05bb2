package main

import (
	"bytes"
	"fmt"
	"strings"
)

// tables returns the tables of what was measured, as they stand beside the plots. A cell has the
// figure, and what part of net/http's it is.
func (d *plotData) tables() string {
	var b bytes.Buffer
	if d.Speed != nil {
		var rows []plotRow
		for _, callers := range plotCallers {
			rows = append(rows, plotRow{thousands(callers), d.Speed.CPU, count(callers), 1})
		}
		d.Speed.plotRun.table(&b, plotTable{"speed", "callers", "CPU µs for a GET of 1 KiB", rows})
		d.Speed.plotRun.table(&b, plotTable{"speed", "callers", "allocations for that", []plotRow{
			{"100", d.Speed.Allocations, "100", 1}}})
	}
	if d.Bulk != nil {
		d.Bulk.plotRun.table(&b, plotTable{"bulk", "of 1 GiB", "CPU s", []plotRow{
			{"download", d.Bulk.CPU, "down", 1}, {"upload", d.Bulk.CPU, "up", 1}}})
	}
	if d.Memory != nil {
		d.Memory.plotRun.table(&b, plotTable{"memory", "memory of", "KiB", []plotRow{
			{"an idle connection, heap", d.Memory.Heap, "idle", 1024},
			{"an idle connection, stacks", d.Memory.Stack, "idle", 1024},
			{"a stream that waits, heap", d.Memory.Heap, "open", 1024},
			{"a stream that waits, stacks", d.Memory.Stack, "open", 1024}}})
	}
	if d.Windows != nil {
		fmt.Fprintf(&b, "\n**windows of one download**\n\n"+
			"| path | windows | Mbit/s | a byte waits, ms | in flight, MiB, at most |\n"+
			"|---|---|---|---|---|\n")
		for _, p := range d.Windows.Paths {
			for _, r := range p.Runs {
				most := int64(0)
				for _, v := range r.InFlight {
					most = max(most, v)
				}
				fmt.Fprintf(&b, "| %s | %s | %.0f | %.0f | %.3g |\n", p.Name, windowTitles[r.Manager], r.Mbit,
					r.Wait, float64(most)/(1<<20))
			}
		}
		d.Windows.plotRun.cite(&b, "windows")
	}
	return strings.TrimPrefix(b.String(), "\n")
}

// A plotRow is a row of a table: a figure of all clients, divided by per.
type plotRow struct {
	name   string
	from   medians
	figure string
	per    float64
}

// A plotTable is a table. only is the value of -only that measures it, first the head of the first
// column.
type plotTable struct {
	only, first, title string
	rows               []plotRow
}

// table writes a table.
func (r plotRun) table(b *bytes.Buffer, t plotTable) {
	fmt.Fprintf(b, "\n**%s** (lower is better; in brackets: as a part of net/http's)\n\n| %s |", t.title,
		t.first)
	for _, c := range plotClients {
		fmt.Fprintf(b, " %s |", c.name)
	}
	fmt.Fprintf(b, "\n|---|%s\n", strings.Repeat("---|", len(plotClients)))
	for _, row := range t.rows {
		fmt.Fprintf(b, "| %s |", row.name)
		for _, c := range plotClients {
			v, ok := row.from[row.figure][c.impl]
			switch {
			case !ok:
				b.WriteString(" – |")
			case c.impl == "nethttp":
				fmt.Fprintf(b, " %.3g |", v/row.per)
			default:
				fmt.Fprintf(b, " %.3g (%.2f) |", v/row.per, row.from.ratio(row.figure, c.impl))
			}
		}
		b.WriteString("\n")
	}
	r.cite(b, t.only)
}

// cite writes how a table was made.
func (r plotRun) cite(b *bytes.Buffer, only string) {
	foot := r.foot(plotCommand(only))
	fmt.Fprintf(b, "\n`%s`; %s\n", foot[0], foot[1])
}

// costsColumns are the columns of the README's table.
var costsColumns = []struct{ impl, name string }{
	{"own", "hyper"}, {"http", "hyper under `http.Client`"}, {"xnet", "x/net/http2"},
	{"grpc", "grpc-go, unary"}, {h2load, "h2load, in C"},
}

// costs returns the README's table: what clients cost, as a part of net/http's cost.
func (d *plotData) costs() string {
	var b strings.Builder
	b.WriteString("| lower is better |")
	for _, c := range costsColumns {
		fmt.Fprintf(&b, " %s |", c.name)
	}
	fmt.Fprintf(&b, "\n|---|%s\n", strings.Repeat("---|", len(costsColumns)))
	row := func(name, separator string, ratio func(impl string, i int) float64, n int) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, c := range costsColumns {
			var cells []string
			for i := range n {
				if v := ratio(c.impl, i); v > 0 {
					cells = append(cells, fmt.Sprintf("%.2f", v))
				}
			}
			if cells == nil {
				cells = []string{"–"}
			}
			fmt.Fprintf(&b, " %s |", strings.Join(cells, separator))
		}
		b.WriteString("\n")
	}
	if d.Speed != nil {
		cpu := func(impl string, i int) float64 { return d.Speed.CPU.ratio(count(plotCallers[i]), impl) }
		row("CPU time of a GET of 1 KiB, 1 / 10 / 100 / 1,000 callers", " / ", cpu, len(plotCallers))
		row("allocations for that, 100 callers", "", func(impl string, _ int) float64 {
			return d.Speed.Allocations.ratio("100", impl)
		}, 1)
	}
	if d.Bulk != nil {
		row("CPU time of 1 GiB, download, upload", ", ", func(impl string, i int) float64 {
			return d.Bulk.CPU.ratio([]string{"down", "up"}[i], impl)
		}, 2)
	}
	if d.Memory != nil {
		row("memory of an idle connection, of a stream that waits", ", ", func(impl string, i int) float64 {
			figure := []string{"idle", "open"}[i]
			if _, ok := d.Memory.Heap[figure][impl]; !ok {
				return 0
			}
			return d.Memory.sum(figure, impl) / d.Memory.sum(figure, "nethttp")
		}, 2)
	}
	return b.String()
}
