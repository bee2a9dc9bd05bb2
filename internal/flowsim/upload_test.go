package flowsim

import (
	"testing"
	"time"
)

// TestUploadsFillTheLine checks 8 uploads and the small requests beside them. The requests wait in
// the queue, so a queue of a second makes them slow, and less data in the socket makes them faster.
func TestUploadsFillTheLine(t *testing.T) {
	t.Parallel()
	s := Scenario{RTT: 40 * ms, Rate: 10e6, Queue: 100 * ms, Sender: Cubic, Streams: 8, Octets: 8 << 20,
		Direction: Upload, SmallEvery: often}
	s.NotSent = noOption
	short := runAs(t, s, adaptive)
	s.NotSent = 16 << 10
	little := runAs(t, s, adaptive)
	s.NotSent, s.Queue = noOption, time.Second
	long := runAs(t, s, adaptive)
	for _, got := range []Result{short, little, long} {
		if line := float64(s.Octets) * 8 / s.Rate / got.Time.Seconds(); line < 0.9 || line > 0.945 {
			t.Errorf("%.3f of the line", line)
		}
		if got.Small < 20 || got.SmallMedian < s.RTT {
			t.Errorf("%d small requests, median %v", got.Small, got.SmallMedian)
		}
	}
	if little.SmallMedian >= short.SmallMedian || long.SmallMedian <= short.SmallMedian {
		t.Errorf("medians: %v, with a queue of a second %v, with less in the socket %v", short.SmallMedian,
			long.SmallMedian, little.SmallMedian)
	}
	if short.Wait > 100*ms || long.Wait < 100*ms {
		t.Errorf("bytes wait for %v in a queue of 100 ms, for %v in one of a second", short.Wait, long.Wait)
	}
}

// TestSplitterFindsFrames checks that frames are found however they are cut into writes.
func TestSplitterFindsFrames(t *testing.T) {
	t.Parallel()
	s := Scenario{RTT: 10 * ms, Rate: 100e6, Queue: time.Second, Sender: Cubic, Streams: 3, Octets: 3<<20 + 1,
		Direction: Upload, NotSent: 1001} // a write of at most so many bytes, so that most frames are cut
	if got := runAs(t, s, adaptive); got.Rate == 0 {
		t.Errorf("%+v", got)
	}
}
