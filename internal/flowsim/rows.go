package flowsim

import (
	"testing"
	"time"
)

// A row is a condition of the README's tables, with what is expected of AdaptiveWindow there.
type row struct {
	name string
	Scenario
	goal goal
}

// A goal is what is expected in a row. A zero field expects nothing.
type goal struct {
	ratio   float64       // the least speed, relative to what Scenario.ratio compares with
	ofGuess float64       // the least speed, relative to a first window of 1 MiB
	latency time.Duration // the largest median of the small requests
	promise float64       // the largest mean of the promise, in bandwidth-delay products
	unread  int           // the most unread bytes
}

// often is how often small requests are sent beside bulk.
const often = 250 * ms

// cubicBulk returns downloads from a Cubic sender, with small requests beside them.
func cubicBulk(c Cell, queue time.Duration, octets int) Scenario {
	return Scenario{RTT: c.RTT, Rate: c.Rate, Streams: c.Streams, Octets: octets, Queue: queue,
		Sender: Cubic, SmallEvery: often}
}

// latencyRows are the rows in which small requests are sent beside downloads.
var latencyRows = []row{
	{"10 Mbit/s, 40 ms, queue 1 s, 1 download", cubicBulk(Cell{40 * ms, 10e6, 1}, time.Second, 32<<20),
		goal{ratio: 0.97}},
	{"10 Mbit/s, 40 ms, queue 1 s, 8 downloads", cubicBulk(Cell{40 * ms, 10e6, 8}, time.Second, 32<<20),
		goal{ratio: 0.97, latency: 300 * ms}},
	{"1 Mbit/s, 40 ms, queue 1 s, 1 download", cubicBulk(Cell{40 * ms, 1e6, 1}, time.Second, 4<<20),
		goal{ratio: 0.97, latency: 450 * ms}},
	{"50 Mbit/s, 20 ms, queue 1 s, 1 download", cubicBulk(Cell{20 * ms, 50e6, 1}, time.Second, 96<<20),
		goal{ratio: 0.97, latency: 60 * ms}},
	{"50 Mbit/s, 20 ms, queue 1 s, 8 downloads", cubicBulk(Cell{20 * ms, 50e6, 8}, time.Second, 96<<20),
		goal{ratio: 0.97, latency: 130 * ms}},
	{"100 Mbit/s, 40 ms, queue 40 ms, 8 downloads", cubicBulk(Cell{40 * ms, 100e6, 8}, 40*ms, 128<<20),
		goal{ratio: 0.97}},
	{"10 Mbit/s, 40 ms, queue 1 s, 8 downloads, BBR",
		cubicBulk(Cell{40 * ms, 10e6, 8}, time.Second, 32<<20).with(func(s *Scenario) { s.Sender = BBR }),
		goal{ratio: 0.97}},
}

// cubicUploads returns 8 uploads, with small requests beside them.
func cubicUploads(rate float64, queue time.Duration, octets int) Scenario {
	s := cubicBulk(Cell{40 * ms, rate, 8}, queue, octets)
	s.Direction = Upload
	return s
}

// uploadRows are the rows in which small requests are sent beside uploads.
var uploadRows = []row{
	{"10 Mbit/s, 40 ms, queue 0.1 s, 8 uploads", cubicUploads(10e6, 100*ms, 32<<20),
		goal{ratio: 0.97, latency: 220 * ms}},
	{"10 Mbit/s, 40 ms, queue 1 s, 8 uploads", cubicUploads(10e6, time.Second, 32<<20),
		goal{ratio: 0.97, latency: 400 * ms}},
	{"100 Mbit/s, 40 ms, queue 0.1 s, 8 uploads", cubicUploads(100e6, 100*ms, 128<<20),
		goal{ratio: 0.97, latency: 130 * ms}},
}

// jump returns a path whose round trip grows from 20 to 200 ms after a second.
func jump(sender Sender, streams int) Scenario {
	return Scenario{RTT: 20 * ms, Later: 200 * ms, ChangeAt: time.Second, Rate: 1e9, Streams: streams,
		Octets: 256 << 20, Sender: sender}
}

// first returns a first transfer from a sender whose window is open.
func first(rtt time.Duration, streams int) Scenario {
	return Scenario{RTT: rtt, Rate: 1e9, Streams: streams, Octets: 64 << 20, Sender: Open}
}

// long is a path of 1 Gbit/s and 100 ms.
var long = Scenario{RTT: 100 * ms, Rate: 1e9, Streams: 1, Octets: 256 << 20}

// with returns s after change.
func (s Scenario) with(change func(*Scenario)) Scenario {
	change(&s)
	return s
}

// speedRows are the rows of speed and memory.
var speedRows = []row{
	{"400 streams never read, then one that is",
		long.with(func(s *Scenario) { s.Abandoned, s.Until = 400, 10*time.Second }),
		goal{ratio: 0.9, unread: 64 << 20}},
	{"8 of 9 streams are not read any more after 2 s",
		long.with(func(s *Scenario) {
			s.Octets, s.Stopped, s.StopAt, s.Until = 512<<20, 8, 2*time.Second, 10*time.Second
		}),
		goal{ratio: 0.9}},
	{"one of 8 streams never read", long.with(func(s *Scenario) { s.Streams, s.Unread = 8, 1 }),
		goal{ratio: 0.95}},
	{"reader at 1 MB/s, 1 stream", long.with(func(s *Scenario) { s.Octets, s.Reader = 32<<20, 1e6 }),
		goal{ratio: 0.98, unread: 512 << 10}},
	{"reader at 1 MB/s, 100 streams",
		long.with(func(s *Scenario) { s.Streams, s.Octets, s.Reader = 100, 64<<20, 1e6 }),
		goal{ratio: 0.98, unread: 26 << 20}},
	{"the reader pauses for 10 s", long.with(func(s *Scenario) {
		s.Octets, s.PauseAt, s.PauseFor = 512<<20, time.Second, 10*time.Second
	}), goal{ratio: 0.95}},
	{"the reader pauses for 200 ms of each second", long.with(func(s *Scenario) {
		s.Octets, s.PauseAt, s.PauseFor, s.PauseEvery = 512<<20, time.Second, 200*ms, time.Second
	}), goal{ratio: 0.95}},
	{"nothing comes for 150 ms of each second",
		long.with(func(s *Scenario) { s.HoleEvery, s.HoleFor = time.Second, 150*ms }), goal{ratio: 0.95}},
	{"RTT 20 to 200 ms at 1 s, window open, 1 stream", jump(Open, 1), goal{ratio: 0.95}},
	{"RTT 20 to 200 ms at 1 s, window open, 8 streams", jump(Open, 8), goal{ratio: 0.95}},
	{"RTT 20 to 200 ms at 1 s, slow start, 1 stream", jump(SlowStart, 1), goal{ratio: 0.95}},
	{"RTT 20 to 200 ms at 1 s, slow start, 8 streams", jump(SlowStart, 8), goal{ratio: 0.95}},
	{"no slow start, 100 ms, first 64 MiB, 1 stream", first(100*ms, 1), goal{ofGuess: 0.8}},
	{"no slow start, 100 ms, first 64 MiB, 8 streams", first(100*ms, 8), goal{ofGuess: 0.95}},
	{"no slow start, 300 ms, first 64 MiB, 1 stream", first(300*ms, 1), goal{ofGuess: 0.8}},
	{"no slow start, 300 ms, first 64 MiB, 8 streams", first(300*ms, 8), goal{ofGuess: 0.95}},
	{"BBR, 100 Mbit/s, 100 ms, loss of 1 %", Scenario{RTT: 100 * ms, Rate: 100e6, Queue: 100 * ms,
		Sender: BBR, Loss: 0.01, Streams: 1, Octets: 128 << 20}, goal{ratio: 0.95}},
	{"BBR, 100 Mbit/s, 100 ms ± 30 %", Scenario{RTT: 100 * ms, Rate: 100e6, Queue: 100 * ms, Sender: BBR,
		Jitter: 0.3, Streams: 1, Octets: 128 << 20}, goal{ratio: 0.97}},
	{"BBR, 1 Gbit/s, 100 ms, queue 100 ms", Scenario{RTT: 100 * ms, Rate: 1e9, Queue: 100 * ms, Sender: BBR,
		Streams: 1, Octets: 512 << 20}, goal{ratio: 0.97}},
	{"beside an unlimited flow, 10 Mbit/s, 40 ms, queue 1 s", Scenario{RTT: 40 * ms, Rate: 10e6,
		Queue: time.Second, Sender: Cubic, Streams: 1, Octets: 32 << 20, Rivals: 1}, goal{ratio: 0.9}},
	{"beside an unlimited flow, 100 Mbit/s, 40 ms, queue 40 ms", Scenario{RTT: 40 * ms, Rate: 100e6,
		Queue: 40 * ms, Sender: Cubic, Streams: 1, Octets: 128 << 20, Rivals: 1}, goal{ratio: 0.9}},
	{"10 Mbit/s, 100 ms, 8 streams", Scenario{RTT: 100 * ms, Rate: 10e6, Streams: 8, Octets: 32 << 20},
		goal{ratio: 0.95, promise: 3}},
	{"100 Mbit/s, 40 ms, 8 streams", Scenario{RTT: 40 * ms, Rate: 100e6, Streams: 8, Octets: 128 << 20},
		goal{ratio: 0.95, promise: 3}},
	{"1 Gbit/s, 100 ms, 1 stream", long.with(func(s *Scenario) { s.Octets = 1 << 30 }),
		goal{ratio: 0.95, promise: 3}},
	{"1 Gbit/s, 100 ms, 8 streams", Scenario{RTT: 100 * ms, Rate: 1e9, Streams: 8, Octets: 1 << 30},
		goal{ratio: 0.95, promise: 3}},
}

// play plays a row under some managers.
func (w row) play(t *testing.T, managers ...subject) (scores []Score, err error) {
	best, err := w.best(t)
	for _, m := range managers {
		var got Result
		if err == nil {
			got, err = Run(t, w.under(m))
		}
		scores = append(scores, Score{Result: got, Ratio: w.ratio(got, best)})
	}
	return scores, err
}
