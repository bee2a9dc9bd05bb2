package main

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gohyper.dev/hyper"
)

// dieAfter ends the server when it has had n requests: its connections end, and it takes no others.
func (s *testServer) dieAfter(n int64) {
	var all atomic.Int64
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "page\n")
		if all.Add(1) == n {
			s.Listener.Close()
			go s.CloseClientConnections()
		}
	})
}

func TestBenchEndsInTimeWithoutAServer(t *testing.T) {
	eachServer(t, func(t *testing.T, s *testServer) {
		s.dieAfter(20) // few, so that a busy machine serves them in time
		began := time.Now()
		exit, r, errs := s.bench(t, "-m", "40", "-D", "0.8", s.URL+"/page")
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("a run of 0.8 s took %v", took)
		}
		if exit != exitFailed || r.Requests == 0 || r.Failed == 0 || r.GaveUp {
			t.Errorf("exit %d, %+v, %q", exit, r, errs)
		}
		want := float64(r.Requests) / 0.8
		if r.Elapsed != 800*time.Millisecond || r.PerSecond < 0.99*want || r.PerSecond > 1.01*want {
			t.Errorf("%d requests in %v: %g/s", r.Requests, r.Elapsed, r.PerSecond)
		}
	})
}

// A response that comes after the end of -D does not count as time in which requests were sent.
func TestBenchRateIsThatOfTheLoad(t *testing.T) {
	s := startServer(t, true)
	exit, r, errs := s.bench(t, "-D", "0.2", "--timeout", "0.6", s.URL+"/page", s.URL+"/slow")
	if exit != exitFailed || r.Elapsed != 200*time.Millisecond {
		t.Errorf("exit %d, %+v, %q", exit, r, errs)
	}
}

func TestBenchGivesUpWithoutAServer(t *testing.T) {
	eachServer(t, func(t *testing.T, s *testServer) {
		s.dieAfter(200)
		began := time.Now()
		exit, r, errs := s.bench(t, "-m", "5", "-c", "2", "-n", "1000000000", "--give-up", "0.4",
			s.URL+"/page")
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
		if exit != exitFailed || !r.GaveUp || r.Requests < 100 || r.Failed == 0 {
			t.Errorf("exit %d, %+v, %q", exit, r, errs)
		}
	})
}

func TestBenchSaysThatItGaveUp(t *testing.T) {
	s := startServer(t, false)
	s.dieAfter(20)
	exit, out, errs := get(t, "bench", "-n", "1000000000", "--give-up", "0.2", s.URL+"/page")
	wantText(t, out, "note: gave up, as no connection", "\nrequests     ", "\nstatus 200   ")
	if exit != exitFailed {
		t.Errorf("exit %d, %q", exit, errs)
	}
}

// All workers of a connection wait for the same pause and the same attempt.
func TestWorkersShareTheWaitForAConnection(t *testing.T) {
	s := startServer(t, false)
	o, err := parseBench([]string{"-n", "1", s.URL + "/page"})
	if err != nil {
		t.Fatal(err)
	}
	d, err := o.conn.dialer()
	if err != nil {
		t.Fatal(err)
	}
	links, _, err := o.openLinks(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer closeLinks(links)
	l := links[0]
	old := l.current.Load()
	s.Listener.Close()
	l.pause = 200 * time.Millisecond
	p := o.load.begin(t.Context(), 1, 0)
	began := time.Now()
	failed := renewAtOnce(l, p, old, 50)
	if took := time.Since(began); failed != 50 || took < 200*time.Millisecond || took > 5*time.Second {
		t.Errorf("%d of 50 failed in %v", failed, took)
	}
	if l.pause != 400*time.Millisecond {
		t.Errorf("one attempt was followed by a pause of %v", l.pause)
	}
	l.pause = time.Hour // the wait ends with the plan
	time.AfterFunc(50*time.Millisecond, func() { p.end(errGaveUp) })
	if failed := renewAtOnce(l, p, old, 5); failed != 5 {
		t.Errorf("%d of 5 failed", failed)
	}
	l.settle()
}

// renewAtOnce calls renew n times at once. It returns how many calls failed.
func renewAtOnce(l *benchLink, p *plan, old *hyper.Conn, n int) int {
	var wg sync.WaitGroup
	var failed atomic.Int64
	for range n {
		wg.Go(func() {
			if l.renew(p.ctx, p, old) != nil {
				failed.Add(1)
			}
		})
	}
	wg.Wait()
	return int(failed.Load())
}
