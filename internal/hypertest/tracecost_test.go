// This file measures what a trace costs.

package hypertest

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gohyper.dev/hyper"
)

// traceServerEnv makes the test binary a server, so that its CPU time is not counted.
const traceServerEnv = "HYPER_TRACE_SERVER"

// TestTraceServer is the server of BenchmarkTrace, in a process of its own.
func TestTraceServer(t *testing.T) {
	if os.Getenv(traceServerEnv) == "" {
		t.Skip("it is no test, but the server of BenchmarkTrace")
	}
	small, large := make([]byte, 1<<10), make([]byte, 1<<20)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			for range 16 {
				w.Write(large)
			}
			return
		}
		w.Write(small)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	fmt.Println("URL", server.URL)
	io.Copy(io.Discard, os.Stdin)
}

// startTraceServer returns the URL of a server in another process.
func startTraceServer(b *testing.B) string {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestTraceServer$", "-test.v")
	cmd.Env = append(os.Environ(), traceServerEnv+"=1", "GOMAXPROCS=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	var url string
	for url == "" {
		var line [256]byte
		n, err := stdout.Read(line[:])
		if err != nil {
			b.Fatal(err)
		}
		if _, after, ok := strings.Cut(string(line[:n]), "URL "); ok {
			url, _, _ = strings.Cut(after, "\n")
		}
	}
	go io.Copy(io.Discard, stdout)
	return url
}

// BenchmarkTrace compares the CPU time of requests with a Config.Trace that counts the events, with
// that of requests without one. It does so in turn in one run, and reports the ratio of the middle
// halves, so that rounds count little in which other programs take the processor's caches:
//
//	go test -run '^$' -bench 'Trace/.*caller' -benchtime 20000x ./internal/hypertest
func BenchmarkTrace(b *testing.B) {
	url := startTraceServer(b)
	for _, v := range []struct {
		name, path string
		callers    int
	}{{"1 caller", "/small", 1}, {"100 callers", "/small", 100}, {"16 MiB", "/large", 1}} {
		b.Run(v.name, func(b *testing.B) {
			var events atomic.Int64
			with := dialForTrace(b, url, func(hyper.TraceEvent) { events.Add(1) })
			without := dialForTrace(b, url, nil)
			conns := [2]*hyper.Conn{without, with}
			var costs [2][]time.Duration
			for round := 0; round*v.callers < b.N; round++ { // b.N requests of each kind
				for i := range conns {
					i = (i + round) % 2 // which is first alternates, too
					before := cpuTime(b)
					getMany(b, conns[i], v.path, v.callers)
					costs[i] = append(costs[i], cpuTime(b)-before)
				}
			}
			cost := [2]float64{middleHalf(costs[0]), middleHalf(costs[1])}
			b.ReportMetric(cost[1]/max(1, cost[0]), "ratio")
			b.ReportMetric(float64(events.Load())/float64(b.N), "events/op")
			b.ReportMetric(cost[0]/float64(v.callers), "cpu-ns/op")
		})
	}
}

// middleHalf returns the mean of costs in nanoseconds, without the lowest and the highest quarter.
func middleHalf(costs []time.Duration) float64 {
	slices.Sort(costs)
	costs = costs[len(costs)/4 : len(costs)-len(costs)/4]
	sum := time.Duration(0)
	for _, c := range costs {
		sum += c
	}
	return float64(sum) / float64(len(costs))
}

// dialForTrace returns a connection to the server.
func dialForTrace(b *testing.B, url string, trace func(hyper.TraceEvent)) *hyper.Conn {
	b.Helper()
	conn, err := hyper.Dial(context.Background(), url, &hyper.Config{Trace: trace,
		TLS: &tls.Config{InsecureSkipVerify: true}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	getMany(b, conn, "/small", 100)
	return conn
}

// getMany makes n requests at once, and reads their responses.
func getMany(b *testing.B, conn *hyper.Conn, path string, n int) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			resp, err := conn.Get(context.Background(), path)
			if err != nil {
				b.Error(err)
				return
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				b.Error(err)
			}
			resp.Body.Close()
		})
	}
	wg.Wait()
}

// cpuTime returns the CPU time that this process has used.
func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
