package flowsim

import (
	"fmt"
	"io"
	"math"
	"testing"
	"text/tabwriter"
)

// A report prints tables of what managers do.
type report struct {
	t        *testing.T
	w        io.Writer
	managers []subject
	bytes    int // of a transfer in a cell, all streams together
}

// all prints the whole grid, and then the situations. For each condition and each cell it prints
// the speed of each manager, relative to unlimited windows.
func (r report) all() error {
	for _, how := range conditions {
		if err := r.condition(how); err != nil {
			return err
		}
	}
	for _, m := range r.managers {
		if err := r.situations(m); err != nil {
			return err
		}
	}
	return nil
}

// condition prints the grid under one condition.
func (r report) condition(how condition) error {
	fmt.Fprintf(r.w, "\n%s: speed beside unlimited windows, %d MiB\n", how.name, r.bytes>>20)
	t := tabwriter.NewWriter(r.w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "cell\tline")
	for _, m := range r.managers {
		fmt.Fprintf(t, "\t%s", m.name)
	}
	fmt.Fprintln(t, "\tpromise MB\tWU/MB\tPINGs")
	worst, reached := make([]float64, len(r.managers)), make([]int, len(r.managers))
	for i := range worst {
		worst[i] = math.Inf(1)
	}
	for _, c := range grid() {
		scores, err := r.cell(c, how)
		if err != nil {
			return err
		}
		fmt.Fprintf(t, "%v\t%.2f", c, scores[0].Line)
		for i, got := range scores {
			fmt.Fprintf(t, "\t%.3f", got.Ratio)
			worst[i] = min(worst[i], got.Ratio)
			if got.Ratio >= 0.95 {
				reached[i]++
			}
		}
		fmt.Fprintf(t, "\t%.1f\t%.1f\t%d\n", megabytes(scores[0].Peak),
			float64(scores[0].Updates)/megabytes(r.bytes), scores[0].Pings)
	}
	fmt.Fprint(t, "worst\t")
	for i := range r.managers {
		fmt.Fprintf(t, "\t%.3f", worst[i])
	}
	fmt.Fprint(t, "\ncells ≥ 0.95\t")
	for i := range r.managers {
		fmt.Fprintf(t, "\t%d/%d", reached[i], len(grid()))
	}
	fmt.Fprintf(t, "\n(the last three columns are %s's)\n", r.managers[0].name)
	return t.Flush()
}

// cell plays one cell with each manager.
func (r report) cell(c Cell, how condition) (scores []Score, err error) {
	s := c.with(unlimited, r.bytes)
	how.set(&s)
	best, err := Run(r.t, s)
	for _, m := range r.managers {
		if err != nil {
			return nil, err
		}
		var got Score
		if got, err = compare(r.t, s.under(m), best); err != nil {
			return nil, fmt.Errorf("%s, %s, %w", m.name, how.name, err)
		}
		scores = append(scores, got)
	}
	return scores, nil
}

// situations prints the situations under one manager.
func (r report) situations(m subject) error {
	fmt.Fprintf(r.w, "\n%s\n", m.name)
	t := tabwriter.NewWriter(r.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t,
		"situation\tof unlimited\tpromise, mean MB\tof a BDP\tpeak MB\t"+
			"unread, mean MB\tpeak MB\tWU/MB\tPINGs")
	for _, s := range situations {
		got, err := s.play(r.t, m)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", m.name, s.name, err)
		}
		speed := fmt.Sprintf("%.3f", got.Ratio)
		if got.Stuck {
			speed = "stuck"
		}
		fmt.Fprintf(t, "%s\t%s\t%.1f\t%.2f\t%.1f\t%.2f\t%.2f\t%.1f\t%d\n", s.name, speed, got.Mean/(1<<20),
			got.Mean/s.product(), megabytes(got.Peak),
			got.MeanUnread/(1<<20), megabytes(got.PeakUnread), float64(got.Updates)/megabytes(s.Octets),
			got.Pings)
	}
	return t.Flush()
}

// megabytes converts bytes to MiB.
func megabytes(n int) float64 { return float64(n) / (1 << 20) }
