package flowsim

import (
	"testing"
	"time"
)

// bulk is a path of 10 Mbit/s whose queue holds a second, with one download and small requests.
var bulk = Scenario{RTT: 40 * ms, Rate: 10e6, Queue: time.Second, Sender: Cubic, Streams: 1,
	Octets: 16 << 20, SmallEvery: 250 * ms}

// skipRaced skips a test of TCP, which runs in one goroutine, if the race detector is on.
func skipRaced(t *testing.T) {
	t.Helper()
	if raced {
		t.Skip("one goroutine has no races")
	}
}

// runAs plays a scenario under a manager. It fails the test if the transfer does not end.
func runAs(t *testing.T, s Scenario, m subject) Result {
	t.Helper()
	got, err := Run(t, s.under(m))
	if err != nil || got.Stuck {
		t.Fatalf("%s: stuck: %v, %v", m.name, got.Stuck, err)
	}
	return got
}

// TestSendersFillThePath checks that Cubic and BBR reach the line's rate where the queue holds a
// bandwidth-delay product, that Cubic fills the queue until packets are dropped, and that BBR keeps
// it short.
func TestSendersFillThePath(t *testing.T) {
	skipRaced(t)
	t.Parallel()
	for _, sender := range []Sender{Cubic, BBR} {
		s := Scenario{RTT: 40 * ms, Rate: 100e6, Queue: 40 * ms, Sender: sender, Streams: 1,
			Octets: 128 << 20}
		got := runAs(t, s, unlimited)
		if line := float64(s.Octets) * 8 / s.Rate / got.Time.Seconds(); line < 0.85 || line > 0.945 {
			t.Errorf("%s: %.3f of the rate", sender, line)
		}
		if got.Dropped == 0 || got.Wait > s.Queue {
			t.Errorf("%s: %d bytes dropped, %v of waiting", sender, got.Dropped, got.Wait)
		}
		if sender == BBR && got.Wait > s.Queue/2 {
			t.Errorf("BBR lets bytes wait for %v", got.Wait)
		}
	}
}

// TestLossesAreRepaired checks that all bytes arrive in order on a path that loses packets. The
// rate of Cubic falls with the losses, BBR's does not.
func TestLossesAreRepaired(t *testing.T) {
	skipRaced(t)
	t.Parallel()
	var times []time.Duration
	for _, sender := range []Sender{Cubic, BBR} {
		s := Scenario{RTT: 40 * ms, Rate: 100e6, Queue: 40 * ms, Loss: 0.01, Sender: sender, Streams: 8,
			Octets: 16 << 20}
		times = append(times, runAs(t, s, unlimited).Time)
	}
	// RFC 3649 §2: about 1.2 / sqrt(p) segments are in flight, so 4 Mbit/s at a loss of 1 %.
	line := time.Duration(16 << 20 * 8 / 100e6 * float64(time.Second))
	if times[0] < 5*line || times[1] > 2*line {
		t.Errorf("Cubic took %v, BBR %v; the line needs %v", times[0], times[1], line)
	}
}

// TestJitterKeepsTheOrder checks that a run on a path with jitter ends and is repeatable.
func TestJitterKeepsTheOrder(t *testing.T) {
	t.Parallel()
	s := Scenario{RTT: 100 * ms, Rate: 100e6, Queue: 100 * ms, Jitter: 0.3, Loss: 0.001, Sender: BBR,
		Streams: 2, Octets: 16 << 20, SmallEvery: 100 * ms}
	first := runAs(t, s, adaptive)
	if again := runAs(t, s, adaptive); again != first {
		t.Errorf("%+v, then %+v", first, again)
	}
	if first.Small == 0 || first.SmallMedian < 70*ms {
		t.Errorf("%d small requests, median %v", first.Small, first.SmallMedian)
	}
}

// TestSmallRequestsWaitInTheQueue checks the latency of small requests beside a download: with
// unlimited windows they wait for all that the queue and the server's socket hold, with windows of
// a bandwidth-delay product for next to nothing.
func TestSmallRequestsWaitInTheQueue(t *testing.T) {
	needs64Bits(t)
	t.Parallel()
	got := runAs(t, bulk, unlimited)
	if got.SmallMedian < time.Second || got.Small < 30 {
		t.Errorf("unlimited windows: %d small requests, median %v", got.Small, got.SmallMedian)
	}
	got = runAs(t, bulk, subjects[2])
	if got.SmallMedian > 100*ms || got.SmallP95 > 150*ms || got.Small < 30 {
		t.Errorf("64 KiB: %d small requests, median %v, p95 %v", got.Small, got.SmallMedian, got.SmallP95)
	}
}

// TestRivalsShareTheBottleneck checks that two connections with the same sender get about the same.
func TestRivalsShareTheBottleneck(t *testing.T) {
	skipRaced(t)
	t.Parallel()
	for _, sender := range []Sender{Cubic, BBR} {
		s := Scenario{RTT: 40 * ms, Rate: 100e6, Queue: 40 * ms, Sender: sender, Streams: 1,
			Octets: 128 << 20, Rivals: 1}
		got := runAs(t, s, unlimited)
		if share := float64(s.Octets) / float64(int64(s.Octets)+got.RivalRead); share < 0.35 || share > 0.65 {
			t.Errorf("%s: %.2f of the bytes", sender, share)
		}
	}
}

// TestReaderPausesAndStops checks the readers of the rows: a reader that pauses takes nothing
// meanwhile, and streams that are stopped hold what their windows allow and no more.
func TestReaderPausesAndStops(t *testing.T) {
	t.Parallel()
	s := Scenario{RTT: 20 * ms, Rate: 100e6, Streams: 1, Octets: 8 << 20, PauseAt: 200 * ms,
		PauseFor: 3 * time.Second}
	got := runAs(t, s, subjects[4])
	if got.PeakUnread < 1<<19 || got.PeakUnread > 1<<20 || got.Time < s.PauseFor || got.Time > 2*s.PauseFor {
		t.Errorf("a pause of 3 s: %d bytes unread, %v", got.PeakUnread, got.Time)
	}
	s.PauseEvery, s.PauseFor = 400*ms, 200*ms
	if again := runAs(t, s, subjects[4]); again.Time < 1200*ms || again.Time > 2*time.Second {
		t.Errorf("a pause of 200 of each 400 ms: %v", again.Time)
	}
	s = Scenario{RTT: 20 * ms, Rate: 100e6, Streams: 1, Octets: 16 << 20, Stopped: 4, StopAt: 500 * ms}
	got = runAs(t, s, subjects[4])
	if got.PeakUnread < 4<<19 || got.PeakUnread > 5<<20 {
		t.Errorf("4 stopped streams: %d bytes unread", got.PeakUnread)
	}
	if line := s.Rate / 8; got.Rate < 0.75*line || got.Rate > line {
		t.Errorf("beside 4 stopped streams: %.0f bytes per second of %.0f", got.Rate, line)
	}
}

// TestWithPauses checks the time that a reader with pauses is expected to need.
func TestWithPauses(t *testing.T) {
	once := Scenario{PauseAt: time.Second, PauseFor: 10 * time.Second}
	often := Scenario{PauseAt: time.Second, PauseFor: 200 * ms, PauseEvery: time.Second}
	for _, c := range []struct {
		Scenario
		needs, want time.Duration
	}{
		{Scenario{}, 5 * time.Second, 5 * time.Second},
		{once, 500 * ms, 500 * ms},
		{once, 2 * time.Second, 12 * time.Second},
		{often, time.Second, time.Second},
		{often, 1100 * ms, 1300 * ms},
		{often, 1700 * ms, 1900 * ms},
		{often, 2 * time.Second, 2400 * ms},
	} {
		if got := c.withPauses(c.needs); got != c.want {
			t.Errorf("%v with pauses %v of %v: %v, want %v", c.needs, c.PauseFor, c.PauseEvery, got, c.want)
		}
	}
}

// TestCubicAgreesWithItsRFC checks the rate of Cubic on a path with few losses against RFC 9438
// §5.2: at 100 ms and a loss of 0.1 %, about 38 segments are in flight on the mean, as with Reno.
func TestCubicAgreesWithItsRFC(t *testing.T) {
	skipRaced(t)
	t.Parallel()
	s := Scenario{RTT: 100 * ms, Rate: 100e6, Queue: 100 * ms, Loss: 0.001, Sender: Cubic, Streams: 1,
		Octets: 48 << 20}
	got := runAs(t, s, unlimited)
	if want := 38 * segment / 0.1; got.Rate < want*0.6 || got.Rate > want*1.5 {
		t.Errorf("%.0f bytes per second, want about %.0f", got.Rate, want)
	}
}
