package flowsim

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"gohyper.dev/hyper"
)

// reduced returns the part of the grid that the tests play: its corners, where windows matter most.
func reduced() (cells []Cell) {
	for _, c := range grid() {
		corner := c.Streams != 8 && c.RTT != 20*ms && c.Rate != 100e6
		mid := c.Streams == 8 && c.RTT == 100*ms && c.Rate >= 100e6 || c.Streams == 1 && c.RTT == 20*ms &&
			c.Rate >= 1e9
		if raced && c.Rate == 10e6 { // slow links are easy
			continue
		}
		if corner || mid {
			cells = append(cells, c)
		}
	}
	return cells
}

// The subjects that the tests use.
var adaptive, fixed, netHTTP = subjects[0], subjects[1], subjects[3]

// TestAdaptiveIsAsFastAsUnlimitedWindows checks that a reader that keeps up gets 0.95 of the speed
// of unlimited windows, on a new connection and on a used one. The manager needs at most two PINGs
// and stays within its budget.
func TestAdaptiveIsAsFastAsUnlimitedWindows(t *testing.T) {
	const octets, budget = 64 << 20, 64 << 20
	for i, how := range conditions {
		if raced && i > 1 {
			break
		}
		t.Run(how.name, func(t *testing.T) {
			t.Parallel()
			for _, c := range reduced() {
				s := c.with(adaptive, octets)
				how.set(&s)
				got, err := score(t, s)
				if err != nil {
					t.Fatal(err)
				}
				if got.Ratio < 0.95 {
					t.Errorf("%v: %.3f of unlimited windows", c, got.Ratio)
				}
				if got.Pings > 2 {
					t.Errorf("%v: %d PINGs", c, got.Pings)
				}
				if got.PeakTotal > budget {
					t.Errorf("%v: %d bytes were promised at once", c, got.PeakTotal)
				}
				if got.FirstMB > 0 && got.Line > 1 {
					t.Errorf("%v: the unlimited run beats the line: %.2f", c, got.Line)
				}
			}
		})
	}
}

// TestSimulatorAgreesWithArithmetic checks the simulator with windows whose speed is known: a
// window of W bytes moves W bytes in a round trip.
func TestSimulatorAgreesWithArithmetic(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		subject
		Cell
		rate float64 // bytes per second
	}{
		{subjects[2], Cell{100 * ms, 1e9, 1}, 65535 / 0.1},
		{subjects[2], Cell{300 * ms, 1e9, 8}, 65535 / 0.3},
		{netHTTP, Cell{300 * ms, 10e9, 1}, 4 << 20 / 0.3},
		{unlimited, Cell{20 * ms, 100e6, 1}, 100e6 / 8 * 1448 / 1538},
	} {
		const octets = 256 << 20
		got, err := Run(t, c.with(c.subject, octets))
		if err != nil {
			t.Fatal(err)
		}
		if rate := octets / got.Time.Seconds(); rate > c.rate*1.03 || rate < c.rate*0.8 {
			t.Errorf("%s, %v: %.0f bytes per second, want about %.0f", c.name, c.Cell, rate, c.rate)
		}
	}
}

// TestSimulationIsRepeatable checks that a simulation depends on virtual time alone, and not on the
// speed or the load of the machine.
func TestSimulationIsRepeatable(t *testing.T) {
	t.Parallel()
	for _, i := range []int{6, 8, 10} {
		s := situations[i].Scenario
		s.Config, s.Octets = adaptive.config, 64<<20
		first, err := Run(t, s)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if again, err := Run(t, s); err != nil || again != first {
				t.Errorf("%s: %+v, then %+v, %v", situations[i].name, first, again, err)
			}
		}
	}
}

func TestAdaptivePromisesAboutTwoProducts(t *testing.T) {
	t.Parallel()
	octets := 512 << 20
	if raced {
		octets = 256 << 20
	}
	for _, n := range []int{1, 8} {
		s := Cell{100 * ms, 1e9, n}.with(adaptive, octets)
		got, err := score(t, s)
		if err != nil {
			t.Fatal(err)
		}
		if mean := got.Mean / s.product(); mean > 2.5 || mean < 1 || got.Ratio < 0.99 {
			t.Errorf("%d streams: %.2f bandwidth-delay products on the mean, %.3f of unlimited", n, mean,
				got.Ratio)
		}
		if peak := float64(got.Peak) / s.product(); peak > 5 { // at the end of slow start
			t.Errorf("%d streams: %.2f products at the most", n, peak)
		}
	}
}

func TestAdaptiveHoldsLittleForASlowReader(t *testing.T) {
	t.Parallel()
	for _, rtt := range []time.Duration{ms, 20 * ms, 100 * ms} {
		for _, n := range []int{1, 8} {
			s := Cell{rtt, 1e9, n}.with(adaptive, 16<<20)
			s.Reader = 1e6
			got, err := score(t, s)
			if err != nil {
				t.Fatal(err)
			}
			if most := n*(256<<10) + 208<<10; got.PeakUnread > most || got.Ratio < 0.98 {
				t.Errorf("%v: %d bytes unread, want at most %d; %.3f of unlimited", Cell{rtt, 1e9, n},
					got.PeakUnread, most, got.Ratio)
			}
		}
	}
	// A reader at half the speed of the line needs as much memory as is in flight on the network,
	// not the whole budget.
	s := Cell{100 * ms, 1e9, 1}.with(adaptive, 256<<20)
	s.Reader = 50e6
	got, err := score(t, s)
	if err != nil {
		t.Fatal(err)
	}
	if got.PeakUnread > 18<<20 || got.Ratio < 0.95 {
		t.Errorf("a reader of 50 MB/s: %d bytes unread, %.3f of unlimited", got.PeakUnread, got.Ratio)
	}
}

func TestStalledStreamsDoNotStarveOthers(t *testing.T) {
	t.Parallel()
	for i, want := range map[int]float64{6: 0.95, 7: 0.85, 8: 0.9} {
		got, err := situations[i].play(t, adaptive)
		if err != nil || got.Stuck || got.Ratio < want {
			t.Errorf("%s: %.3f of the speed without them, stuck: %v, %v", situations[i].name, got.Ratio,
				got.Stuck, err)
		}
		if got.PeakTotal > 64<<20 {
			t.Errorf("%s: %d bytes were promised at once", situations[i].name, got.PeakTotal)
		}
	}
	// Streams that are never read hold the whole budget. The other streams still end.
	little := subject{config: hyper.Config{WindowManager: hyper.AdaptiveWindow{Budget: 4 << 20}.New}}
	s := Cell{20 * ms, 1e9, 20}.with(little, 64<<20)
	s.Unread = 10
	if got, err := Run(t, s); err != nil || got.Stuck {
		t.Errorf("10 of 20 streams stall on a budget of 4 MiB: stuck: %v, %v", got.Stuck, err)
	}
}

func TestAdaptiveFollowsThePath(t *testing.T) {
	t.Parallel()
	for i, want := range map[int]float64{9: 0.7, 10: 0.8, 11: 0.95, 12: 0.97, 13: 0.8} {
		got, err := situations[i].play(t, adaptive)
		if err != nil || got.Stuck || got.Ratio < want {
			t.Errorf("%s: %.3f of unlimited, want %.2f; stuck: %v, %v", situations[i].name, got.Ratio, want,
				got.Stuck, err)
		}
	}
}

// TestAdaptiveBehindAWrapperWorksAlone checks AdaptiveWindow inside another manager. Its streams do
// not know of each other then, and each stream alone is as fast as before.
func TestAdaptiveBehindAWrapperWorksAlone(t *testing.T) {
	t.Parallel()
	wrapped := subject{name: "wrapped", config: hyper.Config{
		InitialStreamWindow: 256<<10 - 1,
		WindowManager: func(w *hyper.Window) hyper.WindowManager {
			inner := hyper.AdaptiveWindow{}.New(w)
			return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int { return inner.Update(ev) })
		},
	}}
	for _, c := range []Cell{{100 * ms, 1e9, 1}, {20 * ms, 1e9, 8}, {300 * ms, 100e6, 1}} {
		got, err := score(t, c.with(wrapped, 64<<20))
		if err != nil || got.Ratio < 0.95 || got.Pings > 2*c.Streams || got.Peak > 64<<20 {
			t.Errorf("%v: %.3f, %d PINGs, %d bytes promised, %v", c, got.Ratio, got.Pings, got.Peak, err)
		}
	}
}

func TestFixedHasNoBackPressure(t *testing.T) {
	t.Parallel()
	s := Cell{ms, 1e9, 1}.with(fixed, 16<<20)
	s.Reader = 1e6
	got, err := Run(t, s)
	if err != nil || got.PeakUnread < 12<<20 {
		t.Errorf("%d bytes unread, %v: the documentation says otherwise", got.PeakUnread, err)
	}
}

// TestRateLimitedHoldsItsRate checks that the rate is within 5 % of the configured one, at any
// round trip and with any number of streams.
func TestRateLimitedHoldsItsRate(t *testing.T) {
	t.Parallel()
	const rate = 1 << 20
	config := hyper.Config{WindowManager: hyper.RateLimitedWindow{PerSecond: rate, Burst: rate}.New}
	for _, rtt := range []time.Duration{0, 20 * ms, 300 * ms} {
		for _, n := range []int{1, 8} {
			s := Cell{rtt, 1e9, n}.with(subject{config: config}, n*32*rate)
			got, err := Run(t, s)
			if err != nil {
				t.Fatal(err)
			}
			// The rate does not include the first burst and TCP's slow start.
			each := got.Rate / float64(n)
			if each < 0.95*rate || each > 1.05*rate {
				t.Errorf("%v, %d streams: %.3f of the rate each", rtt, n, each/rate)
			}
		}
	}
}

func TestSameScenarioSameResult(t *testing.T) {
	t.Parallel()
	s := Cell{20 * ms, 1e9, 8}.with(adaptive, 32<<20)
	s.Reader, s.HoleEvery, s.HoleFor = 80e6, 200*ms, 30*ms
	first, err := Run(t, s)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if again, err := Run(t, s); err != nil || again != first {
			t.Errorf("%+v, then %+v, %v", first, again, err)
		}
	}
}

// TestMisbehavingManagerEndsTheRun checks that the simulator notices a manager that breaks the
// accounting. The server does its own accounting.
func TestMisbehavingManagerEndsTheRun(t *testing.T) {
	t.Parallel()
	breaks := func(w *hyper.Window) hyper.WindowManager {
		return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
			if w.StreamID() == 0 && ev.Total > 30000 {
				return -1
			}
			return 0
		})
	}
	bad := subject{name: "bad", config: hyper.Config{WindowManager: breaks}}
	if _, err := Run(t, Cell{ms, 1e9, 1}.with(bad, 1<<20)); err == nil ||
		!strings.Contains(err.Error(), "returned -1") {
		t.Errorf("got %v", err)
	}
	none := subject{name: "none",
		config: hyper.Config{WindowManager: func(*hyper.Window) hyper.WindowManager { return nil }}}
	if got, err := Run(t, Cell{ms, 1e9, 1}.with(none, 1<<20)); err != nil || !got.Stuck {
		t.Errorf("a manager that never grants: stuck %v, %v", got.Stuck, err)
	}
}

func TestPlotIsWellFormed(t *testing.T) {
	t.Parallel()
	svg, err := drawPlot(t, Scenario{RTT: 20 * ms, Rate: 100e6, Streams: 2, Reader: 5e6}, plotted(), 500*ms)
	if err != nil {
		t.Fatal(err)
	}
	if lines, want := polylines(t, svg), 3*len(plotted()); lines != want {
		t.Errorf("%d curves, want %d", lines, want)
	}
}

func TestTablesShowTheirFigures(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := (report{t, &b, []subject{adaptive, netHTTP}, 1 << 20}).condition(conditions[0]); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprint(grid()[47]); !strings.Contains(b.String(), want) ||
		!strings.Contains(b.String(), "48/48") {
		t.Errorf("no line for %s, or not all cells:\n%s", want, b.String())
	}
}

// polylines returns how many curves the SVG has. It must be well-formed.
func polylines(t *testing.T, svg []byte) (n int) {
	t.Helper()
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		token, err := d.Token()
		if err == io.EOF {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == "polyline" {
			n++
		}
	}
}
