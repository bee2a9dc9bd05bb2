package work

import "runtime/metrics"

// A schedule is what Go's scheduler had done by a point in time.
type schedule struct {
	lockWait float64 // seconds that goroutines have waited for mutexes
	starts   float64 // how often a goroutine began to run
}

// startsCounted is how many starts of goroutines the runtime counts as one: it samples them.
const startsCounted = 8

// scheduled returns what the scheduler has done.
func scheduled() (s schedule) {
	samples := []metrics.Sample{{Name: "/sync/mutex/wait/total:seconds"}, {Name: "/sched/latencies:seconds"}}
	metrics.Read(samples)
	if samples[0].Value.Kind() == metrics.KindFloat64 {
		s.lockWait = samples[0].Value.Float64()
	}
	if samples[1].Value.Kind() == metrics.KindFloat64Histogram {
		for _, n := range samples[1].Value.Float64Histogram().Counts {
			s.starts += float64(n) * startsCounted
		}
	}
	return s
}
