package flowsim

import (
	"fmt"
	"testing"
	"time"
)

// A Cell is a path and a number of streams.
type Cell struct {
	RTT     time.Duration
	Rate    float64 // bits per second
	Streams int
}

// The three axes of the grid.
var (
	roundTrips = []time.Duration{time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond,
		300 * time.Millisecond}
	rates = []float64{10e6, 100e6, 1e9, 10e9}
	fans  = []int{1, 8, 100}
)

// grid returns all 48 cells.
func grid() (cells []Cell) {
	for _, rtt := range roundTrips {
		for _, rate := range rates {
			for _, n := range fans {
				cells = append(cells, Cell{rtt, rate, n})
			}
		}
	}
	return cells
}

// String formats a cell as its round trip, its rate and its number of streams.
func (c Cell) String() string { return fmt.Sprintf("%v %s ×%d", c.RTT, rateText(c.Rate), c.Streams) }

// rateText formats a rate in bits per second.
func rateText(rate float64) string {
	if rate >= 1e9 {
		return fmt.Sprintf("%gG", rate/1e9)
	}
	return fmt.Sprintf("%gM", rate/1e6)
}

// with returns the scenario in which a cell transfers this many bytes under s.
func (c Cell) with(s subject, octets int) Scenario {
	return Scenario{RTT: c.RTT, Rate: c.Rate, Streams: c.Streams, Octets: octets}.under(s)
}

// product returns the path's bandwidth-delay product, in bytes.
func (s Scenario) product() float64 { return s.Rate / 8 * s.RTT.Seconds() }

// A Score compares a run with the same run under unlimited windows.
type Score struct {
	Result
	Ratio float64 // speed, relative to the unlimited run
	Line  float64 // speed of the unlimited run, relative to the line's rate
}

// score plays s, and then s with unlimited windows.
func score(t *testing.T, s Scenario) (Score, error) {
	best, err := playUnlimited(t, s)
	if err != nil {
		return Score{}, err
	}
	return compare(t, s, best)
}

// playUnlimited plays s with unlimited windows.
func playUnlimited(t *testing.T, s Scenario) (Result, error) {
	return Run(t, s.under(unlimited))
}

// compare plays s, and compares it with the unlimited run best.
func compare(t *testing.T, s Scenario, best Result) (Score, error) {
	got, err := Run(t, s)
	if err != nil {
		return Score{}, fmt.Errorf("%v: %w", Cell{s.RTT, s.Rate, s.Streams}, err)
	}
	if got.Stuck {
		return Score{}, fmt.Errorf("%v: stuck after %v", Cell{s.RTT, s.Rate, s.Streams}, got.Time)
	}
	line := float64(s.Octets) * 8 / s.Rate
	return Score{got, best.Time.Seconds() / got.Time.Seconds(), line / best.Time.Seconds()}, nil
}

// A condition is a way to play a cell.
type condition struct {
	name string
	set  func(*Scenario)
}

// conditions are all conditions of the grid.
var conditions = []condition{
	{"cold", func(*Scenario) {}},
	{"warm", func(s *Scenario) { s.Rounds = 2 }},
	{"cold, in turn", func(s *Scenario) { s.InTurn = true }},
	{"warm, in turn", func(s *Scenario) { s.InTurn, s.Rounds = true, 2 }},
	{"cold, content-length", func(s *Scenario) { s.Length = true }},
	{"warm, content-length", func(s *Scenario) { s.Length, s.Rounds = true, 2 }},
}

// A situation is a single scenario that tests something other than speed.
type situation struct {
	name string
	Scenario
}

// ms is a millisecond.
const ms = time.Millisecond

// situations are all situations. The tests know them by their index.
var situations = []situation{
	{"steady, 1 stream", Scenario{RTT: 100 * ms, Rate: 1e9, Streams: 1, Octets: 1 << 30}},
	{"steady, 8 streams", Scenario{RTT: 100 * ms, Rate: 1e9, Streams: 8, Octets: 1 << 30}},
	{"reader at 1 MB/s, 1 stream", Scenario{RTT: 100 * ms, Rate: 1e9, Streams: 1, Octets: 32 << 20,
		Reader: 1e6}},
	{"reader at 1 MB/s, 8 streams", Scenario{RTT: 100 * ms, Rate: 1e9, Streams: 8, Octets: 32 << 20,
		Reader: 1e6}},
	{"reader at 1 MB/s, 100 streams", Scenario{RTT: 100 * ms, Rate: 1e9, Streams: 100, Octets: 64 << 20,
		Reader: 1e6}},
	{"reader at 50 MB/s of 125", Scenario{RTT: 100 * ms, Rate: 1e9, Streams: 1, Octets: 512 << 20,
		Reader: 50e6}},
	{"one of 8 never read", Scenario{RTT: 100 * ms, Rate: 1e9, Streams: 8, Octets: 256 << 20, Unread: 1}},
	{"50 of 100 never read", Scenario{RTT: 100 * ms, Rate: 1e9, Streams: 100, Octets: 256 << 20, Unread: 50}},
	{"400 never read, then one", Scenario{RTT: 100 * ms, Rate: 1e9, Abandoned: 400, Streams: 1,
		Octets: 256 << 20}},
	{"RTT 20 to 200 ms at 1 s, 1 stream", Scenario{RTT: 20 * ms, Later: 200 * ms, ChangeAt: time.Second,
		Rate: 1e9, Streams: 1, Octets: 256 << 20}},
	{"RTT 20 to 200 ms at 1 s, 8 streams", Scenario{RTT: 20 * ms, Later: 200 * ms, ChangeAt: time.Second,
		Rate: 1e9, Streams: 8, Octets: 256 << 20}},
	{"a hole of 150 ms each second", Scenario{RTT: 100 * ms, HoleEvery: time.Second, HoleFor: 150 * ms,
		Rate: 1e9, Streams: 1, Octets: 256 << 20}},
	{"TCP's own window is 6 MiB", Scenario{RTT: 100 * ms, TCPLimit: 6 << 20, Rate: 1e9, Streams: 1,
		Octets: 256 << 20}},
	{"no slow start", Scenario{RTT: 100 * ms, Sender: Open, Rate: 1e9, Streams: 1, Octets: 256 << 20}},
}

// play plays a situation under a manager.
func (s situation) play(t *testing.T, m subject) (Score, error) {
	best, err := s.best(t)
	if err != nil {
		return Score{}, err
	}
	got, err := Run(t, s.under(m))
	return Score{Result: got, Ratio: s.ratio(got, best)}, err
}

// best plays what the speed of s is compared with: unlimited windows, without the streams that are
// not read and without pauses.
func (s Scenario) best(t *testing.T) (Result, error) {
	s = s.under(unlimited)
	s.Octets = s.Octets / s.Streams * (s.Streams - s.Unread)
	s.Streams -= s.Unread
	s.Unread, s.Abandoned, s.Stopped, s.PauseFor = 0, 0, 0, 0
	return Run(t, s)
}

// ratio returns the speed of got, relative to best: how long it took, or its rate after some
// streams have stopped. A reader that pauses is expected to need the time of its pauses, too.
func (s Scenario) ratio(got, best Result) float64 {
	switch {
	case s.Stopped > 0:
		return got.Rate / best.Rate
	case got.Stuck:
		return 0
	}
	return s.withPauses(best.Time).Seconds() / got.Time.Seconds()
}
