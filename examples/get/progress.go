package main

import (
	"fmt"
	"io"
	"os"
	"time"
)

// isTerminal reports whether w is a terminal or another character device.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// A progress shows on one line of a terminal how much of a body has arrived. It overwrites the line
// with each update. A download that takes less than progressAfter shows nothing.
type progress struct {
	w       io.Writer
	name    string
	total   int64 // bytes; -1: unknown
	n       int64
	now     func() time.Time
	started time.Time
	shown   time.Time
}

// The first update comes after progressAfter, the others at least progressEvery apart.
const (
	progressAfter = time.Second
	progressEvery = 200 * time.Millisecond
)

// newProgress returns a progress of a download of total bytes, or of an unknown size if total is
// -1.
func newProgress(w io.Writer, name string, total int64) *progress {
	p := &progress{w: w, name: name, total: total, now: time.Now}
	p.started = p.now()
	return p
}

// Write counts the bytes of b and updates the line if it is time to.
func (p *progress) Write(b []byte) (int, error) {
	p.n += int64(len(b))
	if now := p.now(); now.Sub(p.started) >= progressAfter && now.Sub(p.shown) >= progressEvery {
		p.shown = now
		fmt.Fprintf(p.w, "\r\x1b[K%s", p)
	}
	return len(b), nil
}

// String returns the line: the name, the bytes so far, and the rate.
func (p *progress) String() string {
	rate := float64(p.n) / p.now().Sub(p.started).Seconds()
	if p.total <= 0 {
		return fmt.Sprintf("%s  %s  %s/s", p.name, size(float64(p.n)), size(rate))
	}
	return fmt.Sprintf("%s  %s of %s  %d %%  %s/s", p.name, size(float64(p.n)), size(float64(p.total)),
		p.n*100/p.total, size(rate))
}

// done clears the line.
func (p *progress) done() {
	if !p.shown.IsZero() {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// size formats a number of bytes with a unit.
func size(n float64) string {
	for _, unit := range []string{"B", "kB", "MB"} {
		if n < 1000 {
			return fmt.Sprintf("%.3g %s", n, unit)
		}
		n /= 1000
	}
	return fmt.Sprintf("%.2f GB", n)
}
