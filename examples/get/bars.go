// This file shows the progress of transfers as bars on a terminal.

package main

import (
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"gohyper.dev/hyper"
)

// bars are the progress bars of all URLs, on the last lines of a terminal. What is written to them
// appears above. A transfer that takes less than after shows no bar. A nil *bars shows nothing.
type bars struct {
	w       io.Writer
	after   time.Duration
	options []mpb.ContainerOption

	mu     sync.Mutex
	shown  *mpb.Progress // nil before the first bar
	closed bool
}

// newBars returns bars on w.
func newBars(w io.Writer) *bars { return &bars{w: w, after: time.Second} }

// Write writes b above the bars.
func (b *bars) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shown == nil || b.closed {
		return b.w.Write(p)
	}
	return b.shown.Write(p)
}

// close removes the bars, which are all done.
func (b *bars) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.shown != nil {
		b.shown.Wait()
	}
}

// add shows a new bar. total is -1 if it is unknown.
func (b *bars) add(name string, total int64) *mpb.Bar {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shown == nil {
		b.shown = mpb.New(append(b.options, mpb.WithOutput(b.w))...)
	}
	counts := decor.CountersKibiByte("% .1f of % .1f")
	if total <= 0 {
		counts = decor.CurrentKibiByte("% .1f")
	}
	return b.shown.AddBar(total, mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(shorten(name), decor.WCSyncSpaceR)),
		mpb.AppendDecorators(counts, decor.AverageSpeed(decor.SizeB1024(0), "  % .1f")))
}

// shorten returns the last part of a long name.
func shorten(name string) string {
	const most = 40
	if runes := []rune(name); len(runes) > most {
		return "…" + string(runes[len(runes)-most+1:])
	}
	return name
}

// A bar shows how much of one body was transferred. It is an io.Writer that counts. A nil *bar
// counts nothing.
type bar struct {
	bars  *bars
	name  string
	total int64
	n     int64
	began time.Time
	shown *mpb.Bar // nil before bars.after
}

// download returns the bar of a body of total bytes; -1 is an unknown number.
func (b *bars) download(name string, total int64) *bar {
	if b == nil {
		return nil
	}
	return &bar{bars: b, name: name, total: total, began: time.Now()}
}

// Write counts the bytes of p.
func (r *bar) Write(p []byte) (int, error) {
	if r != nil {
		r.set(r.n + int64(len(p)))
	}
	return len(p), nil
}

// set sets the number of bytes.
func (r *bar) set(n int64) {
	r.n = n
	if r.shown == nil {
		if time.Since(r.began) < r.bars.after {
			return
		}
		r.shown = r.bars.add(r.name, r.total)
		r.shown.DecoratorAverageAdjust(r.began)
	}
	r.shown.SetCurrent(n)
}

// done removes the bar.
func (r *bar) done() {
	if r != nil && r.shown != nil {
		r.shown.Abort(true)
	}
}

// pollEvery is how often the progress of an upload is looked at.
const pollEvery = 200 * time.Millisecond

// upload shows the progress of the stream's upload of total bytes until stop is called. It counts
// what the socket has accepted.
func (b *bars) upload(name string, total int64, stream *hyper.Stream) (stop func()) {
	if b == nil {
		return func() {}
	}
	r := &bar{bars: b, name: "up " + name, total: total, began: time.Now()}
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(pollEvery)
		defer tick.Stop()
		defer r.done()
		for {
			select {
			case <-tick.C:
				r.set(stream.Stats().BytesSent)
			case <-end:
				return
			}
		}
	})
	return func() { close(end); wg.Wait() }
}
