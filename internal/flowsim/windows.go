package flowsim

import (
	"fmt"
	"math"
	"testing"
	"time"
)

// A WindowPath is a path, and what managers do on it with one download. internal/bench reads it as
// JSON and draws it.
type WindowPath struct {
	Name    string
	Seconds float64 // the time that the curves cover
	Fills   float64 // bytes in flight that fill the path: rate × round trip
	Runs    []WindowRun
}

// A WindowRun is the download under one manager. Each curve has one value for each part of the
// time: the least of a window, the most of what is in flight, in bytes.
type WindowRun struct {
	Manager  string
	Conn     []int   // the window of the connection
	Stream   []int   // the window of the stream
	InFlight []int64 // sent by TCP and not acknowledged
	Mbit     float64 // goodput over the second half of the time, Mbit/s
	Wait     float64 // of a byte at the bottleneck, on the mean, ms
}

// windowParts is the number of values of a curve.
const windowParts = 120

// windowScenarios are the paths of windowPaths. Its senders are Cubic, and queues drop what would
// wait longer than a second.
var windowScenarios = []struct {
	name string
	Scenario
	span time.Duration
}{
	{"100 ms, 1 Gbit/s", Scenario{RTT: 100 * ms, Rate: 1e9}, 5 * time.Second},
	{"20 ms, 50 Mbit/s", Scenario{RTT: 20 * ms, Rate: 50e6}, 5 * time.Second},
}

// windowPaths plays a download over each path under hyper's default, under the windows of net/http,
// and under unlimited windows.
func windowPaths(t *testing.T) (paths []WindowPath, err error) {
	for _, s := range windowScenarios {
		s.Streams, s.Sender, s.Queue = 1, Cubic, time.Second
		p := WindowPath{Name: s.name, Seconds: s.span.Seconds(), Fills: s.Rate / 8 * s.RTT.Seconds()}
		for _, m := range []subject{subjects[0], subjects[3], unlimited} {
			run, err := windowRun(t, s.under(m), s.span)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", p.Name, m.name, err)
			}
			run.Manager = m.name
			p.Runs = append(p.Runs, run)
		}
		paths = append(paths, p)
	}
	return paths, nil
}

// windowRun plays the first span of an endless download.
func windowRun(t *testing.T, s Scenario, span time.Duration) (WindowRun, error) {
	w := WindowRun{Conn: make([]int, windowParts), Stream: make([]int, windowParts),
		InFlight: make([]int64, windowParts)}
	for i := range windowParts {
		w.Conn[i], w.Stream[i] = math.MaxInt, math.MaxInt
	}
	var last, half Sample
	begun := -1 // the first part with a stream
	add := func(i int, now Sample) {
		if i >= windowParts || now.StreamWindow == 0 && begun < 0 {
			return
		}
		if begun < 0 {
			begun = i
		}
		w.Conn[i], w.Stream[i] = min(w.Conn[i], now.ConnWindow), min(w.Stream[i], now.StreamWindow)
		w.InFlight[i] = max(w.InFlight[i], now.InFlight)
	}
	part := func(at time.Duration) int { return int(int64(at) * windowParts / int64(span)) }
	s.Octets, s.Until = math.MaxInt32, span
	s.Trace = func(now Sample) {
		for i := part(last.At) + 1; i < part(now.At); i++ { // nothing has happened in these parts
			add(i, last)
		}
		add(part(now.At), now)
		if last = now; now.At <= span/2 {
			half = now
		}
	}
	result, err := Run(t, s)
	if err != nil {
		return w, err
	}
	for i := part(last.At) + 1; i < windowParts; i++ { // what is lost holds back what follows it
		add(i, last)
	}
	for i := range windowParts { // before the request, there is no stream
		if w.Conn[i] == math.MaxInt {
			w.Conn[i], w.Stream[i] = 0, 0
		}
	}
	w.Mbit = float64(last.Read-half.Read) * 8 / 1e6 / (span / 2).Seconds()
	w.Wait = float64(result.Wait) / float64(ms)
	return w, nil
}
