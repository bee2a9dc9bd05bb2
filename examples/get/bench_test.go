package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/vbauerster/mpb/v8"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// bench runs get bench and returns its result.
func (s *testServer) bench(t *testing.T, args ...string) (exit int, r result, stderr string) {
	t.Helper()
	exit, out, errs := get(t, append([]string{"bench", "-k", "--json", "-"}, args...)...)
	if out != "" {
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err, out)
		}
	}
	return exit, r, errs
}

// count counts the requests that s gets, and the most at a time.
func (s *testServer) count() (all, most *atomic.Int64) {
	all, most = new(atomic.Int64), new(atomic.Int64)
	var present atomic.Int64
	inner := s.Config.Handler
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all.Add(1)
		for n, old := present.Add(1), most.Load(); n > old; old = most.Load() {
			if most.CompareAndSwap(old, n) {
				break
			}
		}
		inner.ServeHTTP(w, r)
		present.Add(-1)
	})
	return all, most
}

func TestBenchSendsANumberOfRequests(t *testing.T) {
	eachServer(t, func(t *testing.T, s *testServer) {
		all, most := s.count()
		exit, r, errs := s.bench(t, "-c", "3", "-m", "5", "-n", "500", s.URL+"/page", s.URL+"/style")
		if exit != exitOK || r.Requests != 500 || all.Load() != 500 || r.Statuses[200] != 500 ||
			r.Failed != 0 {
			t.Errorf("exit %d, %+v, %d requests, %q", exit, r, all.Load(), errs)
		}
		if s.conns() != 3 || most.Load() > 15 || r.Bytes != 500*5 {
			t.Errorf("%d connections, %d at a time, %d bytes", s.conns(), most.Load(), r.Bytes)
		}
		if l := r.Service; l.Min <= 0 || l.Min > l.Quantiles["50"] ||
			l.Quantiles["50"] > l.Quantiles["99.9"] ||
			l.Quantiles["99.9"] > l.Max || r.Response.Max < l.Quantiles["99.9"] {
			t.Errorf("%+v", r.Service)
		}
		h, err := hdrhistogram.Decode([]byte(r.Service.Histogram))
		if err != nil || h.TotalCount() != 500 {
			t.Errorf("%v, %v", h, err)
		}
	})
}

func TestBenchSendsForATime(t *testing.T) {
	s := startServer(t, true)
	exit, r, errs := s.bench(t, "-D", "0.5", "--warm-up", "0.2", s.URL+"/page")
	if exit != exitOK || r.Requests == 0 || r.Elapsed < 500*time.Millisecond || r.Elapsed > 5*time.Second {
		t.Errorf("exit %d, %+v, %q", exit, r, errs)
	}
}

func TestBenchSendsContent(t *testing.T) {
	s := startServer(t, true)
	file := writeFile(t, "data", "12345")
	for _, flag := range [][]string{{"-d", "12345"}, {"-T", file}, {"-F", "a=b"}, {"-H", "User-Agent:"},
		{"-window", "100"}} {
		exit, r, errs := s.bench(t, append(flag, "-n", "20", s.URL+"/echo/x")...)
		if exit != exitOK || r.Requests != 20 {
			t.Errorf("%v: exit %d, %+v, %q", flag, exit, r, errs)
		}
	}
}

// In the open model, what a slow server delays counts from the time when it was due.
func TestBenchOpenModelCountsFromTheDueTime(t *testing.T) {
	eachServer(t, func(t *testing.T, s *testServer) {
		// One response takes 500 ms. During that time, the requests that were due wait for the only
		// stream.
		var n atomic.Int64
		s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) == 50 {
				time.Sleep(500 * time.Millisecond)
			}
		})
		exit, r, errs := s.bench(t, "-m", "1", "-r", "200", "-n", "200", s.URL+"/page")
		if exit != exitOK || r.Requests != 200 || r.Model != "open" || r.Unsent != 0 {
			t.Errorf("exit %d, %+v, %q", exit, r, errs)
		}
		if r.Elapsed < 990*time.Millisecond {
			t.Errorf("200 requests at 200/s took %v", r.Elapsed)
		}
		// One request of 200 took long since it was sent, and 100 since they were due.
		if p90 := r.Service.Quantiles["90"]; p90 > 300*time.Millisecond {
			t.Errorf("service time p90 %v", p90)
		}
		if p90 := r.Response.Quantiles["90"]; p90 < 300*time.Millisecond {
			t.Errorf("response time p90 %v", p90)
		}
	})
}

func TestBenchReportsWhatWasNotSent(t *testing.T) {
	s := startServer(t, true)
	s.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		time.Sleep(50 * time.Millisecond)
	})
	exit, r, errs := s.bench(t, "-m", "1", "-r", "100", "-D", "0.5", s.URL+"/page")
	if exit != exitOK || r.Unsent == 0 || r.Requests == 0 || r.Requests+r.Unsent != 50 {
		t.Errorf("exit %d, %+v, %q", exit, r, errs)
	}
}

func TestBenchEndsRequestsThatTakeTooLong(t *testing.T) {
	eachServer(t, func(t *testing.T, s *testServer) {
		exit, r, errs := s.bench(t, "-m", "2", "-n", "6", "--timeout", "1", s.URL+"/slow", s.URL+"/page")
		if exit != exitFailed || r.Failures["timeout"] != 3 || r.Requests != 3 || s.conns() != 1 {
			t.Errorf("exit %d, %+v, %q, %d connections", exit, r, errs, s.conns())
		}
		if r.Service.Max < time.Second {
			t.Errorf("the time of a request that took too long does not count: %v", r.Service.Max)
		}
	})
}

func TestBenchReplacesConnections(t *testing.T) {
	s := startServer(t, true)
	var n atomic.Int64
	inner := s.Config.Handler
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1)%100 == 0 {
			w.Header().Set("Connection", "close") // net/http sends GOAWAY
		}
		inner.ServeHTTP(w, r)
	})
	exit, r, errs := s.bench(t, "-m", "4", "-n", "500", s.URL+"/page")
	if exit != exitOK || r.Requests != 500 || r.Replaced < 4 || s.conns() < 4 {
		t.Errorf("exit %d, %+v, %q, %d connections", exit, r, errs, s.conns())
	}
}

func TestBenchCountsFailures(t *testing.T) {
	s := startServer(t, true)
	exit, r, errs := s.bench(t, "-n", "40", s.URL+"/page", s.URL+"/cut")
	if exit != exitFailed || r.Requests != 20 || r.Failed != 20 ||
		r.Failures["stream ended: INTERNAL_ERROR"] != 20 {
		t.Errorf("exit %d, %+v, %q", exit, r, errs)
	}
	exit, r, errs = s.bench(t, "-n", "40", s.URL+"/page", s.URL+"/none")
	if exit != exitStatus || r.Statuses[404] != 20 || r.Statuses[200] != 20 || r.Failed != 0 {
		t.Errorf("exit %d, %+v, %q", exit, r, errs)
	}
}

func TestBenchCanBeInterrupted(t *testing.T) {
	s := startServer(t, true)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	var out, errs h2test.Buffer
	exit := run(ctx, []string{"bench", "-k", "-D", "60", s.URL + "/page", s.URL + "/slow"},
		stdio{strings.NewReader(""), &out, &errs})
	if exit != exitFailed || !strings.Contains(out.String(), "note: interrupted") ||
		!strings.Contains(out.String(), "failed       0\n") {
		t.Errorf("exit %d, %s, %q", exit, out.String(), errs.String())
	}
}

func TestBenchTable(t *testing.T) {
	s := startServer(t, true)
	file := filepath.Join(t.TempDir(), "result.json")
	exit, out, errs := get(t, "bench", "-k", "-n", "100", "-m", "1000", "--json", file, s.URL+"/page")
	for _, want := range []string{
		s.URL + "/page\nconnections: 1, each with 1000 requests at a time; closed model\n",
		"note: the server allows 250 streams", "\nrequests     100 in ", "\nstatus 200   100\n",
		"\nfailed       0\n", "\nclient CPU ", " p99.99 ", "since it was sent ", "corrected "} {
		if exit != exitOK || !strings.Contains(out, want) {
			t.Errorf("exit %d, no %q in\n%s%s", exit, want, out, errs)
		}
	}
	var r result
	if text, err := os.ReadFile(file); err != nil || json.Unmarshal(text, &r) != nil || r.Requests != 100 {
		t.Errorf("%+v, %v", r, err)
	}
	_, out, _ = get(t, "bench", "-k", "-n", "10", "-r", "1000", s.URL+"/page")
	if !strings.Contains(out, "open model, 1000 requests/s\n") ||
		!strings.Contains(out, "since it was due ") {
		t.Error(out)
	}
}

func TestBenchProgress(t *testing.T) {
	var out h2test.Buffer
	one := newTally(false)
	one.add(&outcome{status: 200, service: 3 * time.Millisecond})
	one.add(&outcome{err: errTimeout, service: 3 * time.Millisecond})
	p := (&loadOptions{}).begin(t.Context(), 100, 0)
	p.taken.Store(42)
	stop := p.show([]*tally{one}, mpb.WithOutput(&out), mpb.WithAutoRefresh(), mpb.WithWidth(120),
		mpb.WithRefreshRate(10*time.Millisecond))
	waitFor(t, &out, "42 %")
	waitFor(t, &out, "p50 3 ms  p99 3 ms  1 failed")
	stop()
}

func TestBenchCommandLinesThatMakeNoSense(t *testing.T) {
	for _, c := range []struct {
		args []string
		exit int
		want string
	}{
		{nil, exitUsage, "usage: get bench"},
		{[]string{"-c", "0", "https://h/"}, exitUsage, "-c is not"},
		{[]string{"-m", "0", "https://h/"}, exitUsage, "-m is not"},
		{[]string{"-m", "100000", "-c", "100", "https://h/"}, exitUsage, "-m is not"},
		{[]string{"-n", "-1", "https://h/"}, exitUsage, "-n is negative"},
		{[]string{"-r", "-1", "https://h/"}, exitUsage, "-r is not"},
		{[]string{"https://h/", "https://other/"}, exitUsage, "different hosts"},
		{[]string{"-T", "a", "-T", "b", "https://h/"}, exitUsage, "one file"},
		{[]string{"https://127.0.0.1:1/"}, exitFailed, "refused"},
		{[]string{"--json", "/none/x", "-n", "1"}, exitFailed, "/none/x"},
	} {
		if c.want == "/none/x" {
			c.args = append(c.args, "-k", startServer(t, true).URL+"/page")
		}
		exit, _, errs := get(t, append([]string{"bench"}, c.args...)...)
		if exit != c.exit || !strings.Contains(errs, c.want) {
			t.Errorf("%v: exit %d, %q", c.args, exit, errs)
		}
	}
}

// The correction adds the requests that a worker would have sent while it waited.
func TestCorrectionForCoordinatedOmission(t *testing.T) {
	h := newHistogram()
	for range 999 {
		record(h, 10*time.Millisecond)
	}
	record(h, time.Second)
	c := correct(h, 10*time.Millisecond)
	if n := c.TotalCount(); n < 1090 || n > 1100 {
		t.Errorf("%d values, want those of 1,000 requests and about 99 more", n)
	}
	if p := time.Duration(c.ValueAtPercentile(95)); p < 400*time.Millisecond || p > 600*time.Millisecond {
		t.Errorf("p95 %v", p)
	}
	if p := time.Duration(h.ValueAtPercentile(95)); p > 11*time.Millisecond {
		t.Errorf("without a correction p95 %v", p)
	}
	// It takes bounded time for the longest latency and the shortest interval.
	record(h, maxLatency)
	began := time.Now()
	if c := correct(h, time.Nanosecond); c.TotalCount() < 1000 || time.Since(began) > 30*time.Second {
		t.Errorf("%d values in %v", c.TotalCount(), time.Since(began))
	}
}

// Random orders of slow and quick requests do not make a worker end the request of another.
func TestTimeoutsEndOnlyTheirOwnRequest(t *testing.T) {
	s := startServer(t, true)
	var n atomic.Int64
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1)%10 == 0 {
			select { // about as long as the timeout
			case <-time.After(20 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
	})
	exit, r, _ := s.bench(t, "-m", "20", "-n", "3000", "--timeout", "0.02", s.URL+"/page")
	if r.Requests+r.Failures["timeout"] != 3000 || exit == exitUsage || r.Requests == 0 {
		t.Errorf("exit %d, %+v", exit, r)
	}
}

func TestKindsOfFailuresAreBounded(t *testing.T) {
	total, part := newTally(true), newTally(true)
	for i := range 100 {
		part.add(&outcome{err: fmt.Errorf("failure %d", i)})
	}
	total.merge(part)
	total.merge(part)
	if c := total.counts; len(c.failures) > maxKinds+1 || c.failed != 200 ||
		c.failures["other failures"] != 160 {
		t.Errorf("%+v", c.failures)
	}
	kind := failureKind(&hyper.StreamError{StreamID: 5, Code: hyper.ErrCodeRefusedStream})
	if kind != "stream ended: REFUSED_STREAM" {
		t.Error(kind)
	}
}

func TestPlanGivesEachNumberOnce(t *testing.T) {
	p := (&loadOptions{}).begin(t.Context(), 1000, 0)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[int64]int{}
	for range 20 {
		wg.Go(func() {
			for {
				n, _, ok := p.take()
				if !ok {
					return
				}
				mu.Lock()
				seen[n]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 1000 || p.taken.Load() != 1000 {
		t.Errorf("%d numbers, %d taken", len(seen), p.taken.Load())
	}
}
