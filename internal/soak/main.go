// Command soak runs a client and servers against each other for a given time. Meanwhile connections
// are cut, servers are restarted, and callers cancel requests.
//
//	go run ./internal/soak -for 10m -plot soak.svg
//
// The servers and the client check every byte of every body. Every error must be explained by what
// was done to its connection or by its caller. No request is processed twice, and nothing hangs.
// Between exchanges no stream is open except for pushes that can still be claimed, no flow-control
// credit is lost, and neither memory nor goroutines grow. If one of these does not hold, soak exits
// with status 1. It uses only its own process and the loopback interface.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

func main() {
	var o options
	flag.DurationVar(&o.length, "for", time.Minute, "how long to run")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()),
		"of the plan; the timing remains the machine's")
	flag.IntVar(&o.workers, "workers", 32, "callers at once")
	flag.StringVar(&o.plot, "plot", "", "write a plot to this SVG `file`")
	flag.Parse()
	if err := soak(o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// options are the command's flags.
type options struct {
	length  time.Duration
	seed    uint64
	workers int
	plot    string
}

// A run is one soak in progress.
type run struct {
	options
	*ledger
	sites  []*site
	people population
	start  time.Time

	// Each exchange holds gate for reading. Samples are taken with gate held for writing, and thus
	// between exchanges: whatever is left over at that time is a fault.
	gate sync.RWMutex
	took []sample
}

// A sample is taken while no exchange is in progress.
type sample struct {
	at         time.Duration
	heap       int64 // bytes in use after garbage collection
	goroutines int
	conns      int
	whole      int64 // complete exchanges so far
}

// The limits of what may be left over.
const (
	heapSlack      = 4 << 20 // at the end, compared with the start
	heapGrowth     = 4 << 20 // from the median of the second quarter to that of the last
	goroutineSlack = 2
	goroutineGrow  = 16
	perConn        = 5 // goroutines of both sides together
)

// soak does what the command does, and writes its report to out.
func soak(o options, out io.Writer) error {
	h2test.Certificate()
	r := &run{options: o, ledger: newLedger()}
	r.people = population{l: r.ledger, alive: make(map[*client]bool)}
	fmt.Fprintf(out, "soak: seed %d, %v, %d workers\n", o.seed, o.length, o.workers)
	before := r.sample()
	var err error
	if r.sites, err = newSites(r.ledger, o.seed, o.workers); err != nil {
		return err
	}
	r.start = time.Now()
	r.work()
	r.people.end(r.sites)
	for _, s := range r.sites {
		s.stop()
	}
	r.sites = nil
	after := r.settle(before)
	r.judge(before, after)
	r.report(out, before, after)
	if o.plot != "" {
		if err := os.WriteFile(o.plot, plot(r.took), 0o644); err != nil {
			return err
		}
	}
	return r.verdict()
}

// work runs the workers until the time is over, and takes samples.
func (r *run) work() {
	ctx, cancel := context.WithTimeout(context.Background(), r.length)
	defer cancel()
	var all sync.WaitGroup
	for i, s := range r.sites {
		all.Go(func() { s.keepRestarting(ctx, rand.New(rand.NewPCG(r.seed, uint64(1000+i)))) })
	}
	for i := range r.workers {
		all.Go(func() { r.worker(ctx, i, rand.New(rand.NewPCG(r.seed, uint64(i)))) })
	}
	tick := time.NewTicker(min(max(r.length/120, 250*time.Millisecond), 5*time.Second))
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
			r.rest()
		case <-ctx.Done():
		}
	}
	all.Wait()
}

// rest takes a sample while no exchange is in progress.
func (r *run) rest() {
	r.gate.Lock()
	defer r.gate.Unlock()
	r.people.checkRest()
	time.Sleep(20 * time.Millisecond) // lets handlers learn of cancellations
	r.took = append(r.took, r.sample())
}

// sample measures memory, goroutines and connections.
func (r *run) sample() sample {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // also frees what was in pools
	runtime.ReadMemStats(&m)
	s := sample{heap: int64(m.HeapAlloc), goroutines: runtime.NumGoroutine(), conns: r.people.count(),
		whole: r.whole.Load()}
	if !r.start.IsZero() {
		s.at = time.Since(r.start)
	}
	return s
}

// settle waits until what ends after the last Close has ended, at most ten seconds.
func (r *run) settle(before sample) sample {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if s := r.sample(); s.goroutines <= before.goroutines+goroutineSlack &&
			s.heap <= before.heap+heapSlack || time.Now().After(deadline) {
			return s
		}
	}
}

// worker performs exchanges until ctx ends.
func (r *run) worker(ctx context.Context, i int, rng *rand.Rand) {
	for ctx.Err() == nil {
		id := uint64(r.exchanges.Add(1))
		if id >= maxExchanges {
			return
		}
		r.gate.RLock()
		r.exchange(plan(rng, id), i)
		r.gate.RUnlock()
	}
}

// exchange performs x. It sends x again if and only if the peer has provably not processed it.
func (r *run) exchange(x *exchange, worker int) {
	s := r.sites[x.rng.IntN(len(r.sites))]
	for range 3 {
		c, err := r.people.get(context.Background(), s, worker, x.rng)
		if err != nil {
			continue // it is recorded in the ledger
		}
		err = r.try(x, c)
		if err == nil && s.pauses {
			r.pause(x, c)
		}
		if err == nil {
			return
		}
		if errors.Is(err, hyper.ErrDrained) || errors.Is(err, hyper.ErrClosed) {
			s.drop(c)
		}
		if !hyper.Retryable(err) {
			return
		}
		r.retries.Add(1)
	}
}

// try performs x on c, and compares its error with the possible causes.
func (r *run) try(x *exchange, c *client) error {
	begun := time.Now()
	err := x.run(c)
	if took := time.Since(begun); took > hangTimeout {
		r.violate(fmt.Errorf("%+v took %v: %w", *x, took, errHung))
	}
	if err == nil {
		r.whole.Add(1)
		return nil
	}
	if why := x.explain(c, err); why != "" {
		r.explain(why)
	} else {
		r.violate(fmt.Errorf("%s/%s of %d bytes on %q (%s; the network: %q): %w", x.kind, x.how, x.size,
			c.site.name, c.kind.name, c.far.why(), err))
	}
	if hyper.Retryable(err) && r.wasProcessed(x.id) {
		r.violate(fmt.Errorf("request %d was processed, and its error says that it was not: %w", x.id, err))
	}
	return err
}

// judge compares what is left at the end with the start, and the last part of the run with an
// earlier one.
func (r *run) judge(before, after sample) {
	if after.heap > before.heap+heapSlack {
		r.violate(fmt.Errorf("%d bytes of heap are left, %d before", after.heap, before.heap))
	}
	if after.goroutines > before.goroutines+goroutineSlack {
		stacks := make([]byte, 64<<10)
		r.violate(fmt.Errorf("%d goroutines are left, %d before:\n%s", after.goroutines, before.goroutines,
			stacks[:runtime.Stack(stacks, true)]))
	}
	if after.conns != 0 {
		r.violate(fmt.Errorf("%d connections are left", after.conns))
	}
	second, last := r.quarters()
	if last.heap > second.heap+heapGrowth {
		r.violate(fmt.Errorf("the heap grows: %d bytes in the second quarter, %d in the last", second.heap,
			last.heap))
	}
	if more := perConn * max(0,
		last.conns-second.conns); last.goroutines > second.goroutines+goroutineGrow+more {
		r.violate(fmt.Errorf("goroutines grow: %d in the second quarter, %d in the last", second.goroutines,
			last.goroutines))
	}
	if r.whole.Load() == 0 || r.up.Load() == 0 || r.down.Load() == 0 {
		r.violate(errors.New("nothing was exchanged"))
	}
}

// quarters returns the medians of the second and the last quarter. They are zero if the run was too
// short.
func (r *run) quarters() (second, last sample) {
	n := len(r.took)
	if n < 16 {
		return
	}
	return medians(r.took[n/4 : n/2]), medians(r.took[3*n/4:])
}

// medians returns the median of each value.
func medians(list []sample) (m sample) {
	heaps, goroutines, conns := []int64{}, []int{}, []int{}
	for _, s := range list {
		heaps, goroutines, conns = append(heaps, s.heap), append(goroutines, s.goroutines),
			append(conns, s.conns)
	}
	m.heap, m.goroutines, m.conns = median(heaps), median(goroutines), median(conns)
	return m
}

// median returns the median of list, which it sorts.
func median[T int | int64](list []T) T {
	slices.Sort(list)
	return list[len(list)/2]
}

// report writes the results to out.
func (r *run) report(out io.Writer, before, after sample) {
	line := func(what string, n int64) { fmt.Fprintf(out, "%-44s %12d\n", what, n) }
	line("exchanges", r.exchanges.Load())
	line("  of them whole, each byte right", r.whole.Load())
	line("bytes checked by the servers", r.up.Load())
	line("bytes checked by the client", r.down.Load())
	line("pushes taken whole", r.pushes.Load())
	line("pings answered", r.pings.Load())
	line("connections dialled", r.dials.Load())
	line("servers restarted", r.restarts.Load())
	line("requests sent again", r.retries.Load())
	fmt.Fprintln(out, "errors, with their explanations")
	for _, l := range r.explained() {
		fmt.Fprintln(out, " ", l)
	}
	second, last := r.quarters()
	fmt.Fprintf(out, "between exchanges       %10s %10s %10s\n", "heap/KiB", "goroutines", "open")
	for _, row := range []struct {
		name string
		sample
	}{{"before", before}, {"second quarter", second}, {"last quarter", last}, {"after", after}} {
		fmt.Fprintf(out, "%-23s %10d %10d %10d\n", row.name, row.heap>>10, row.goroutines, row.conns)
	}
}
