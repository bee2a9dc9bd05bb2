package hypergrpc

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// serverVariable is set in the environment of the process that serves a benchmark.
const serverVariable = "HYPERGRPC_SERVE"

// serveBenchmark is the server of a benchmark. It prints its address, and ends with its input.
func serveBenchmark() {
	_, addr := serve(nil, nil)
	fmt.Println(addr)
	io.Copy(io.Discard, os.Stdin)
}

// startServer starts the server in another process, so that its CPU time does not count.
func startServer(b *testing.B) (addr string) {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), serverVariable+"=1")
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
	addr, err = bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(addr)
}

// cpu returns the CPU time of this process, user and system.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A side is one of the two clients that are compared.
type side struct {
	client testgrpc.TestServiceClient
	cost   []time.Duration // CPU time of each round
}

// round makes n calls from a number of callers, and adds what they cost.
func (s *side) round(callers, n int) (err error) {
	runtime.GC()
	began := cpu()
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range callers {
		wg.Go(func() {
			for range n / callers {
				if e := s.call(); e != nil {
					mu.Lock()
					err = e
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	s.cost = append(s.cost, (cpu()-began)/time.Duration(n))
	return err
}

// call makes one call with 100 bytes each way.
func (s *side) call() error {
	reply, err := s.client.UnaryCall(context.Background(), &testgrpc.SimpleRequest{
		ResponseSize: 100, Payload: &testgrpc.Payload{Body: make([]byte, 100)}})
	if err == nil && len(reply.Payload.Body) != 100 {
		err = fmt.Errorf("the payload has %d bytes", len(reply.Payload.Body))
	}
	return err
}

// ratio returns the median of what a costs compared with b, round by round.
func ratio(a, b *side) float64 {
	ratios := make([]float64, len(a.cost))
	for i := range ratios {
		ratios[i] = float64(a.cost[i]) / float64(b.cost[i])
	}
	slices.Sort(ratios)
	return ratios[len(ratios)/2]
}

// mean returns the mean cost in microseconds.
func (s *side) mean() float64 {
	var sum time.Duration
	for _, d := range s.cost {
		sum += d
	}
	return float64(sum) / float64(len(s.cost)) / 1e3
}

// BenchmarkCost compares the CPU time of this client with that of grpc-go's, in alternating rounds
// against one server in another process. An operation is one round of each.
func BenchmarkCost(b *testing.B) {
	addr := startServer(b)
	ours := NewClient(addr, nil)
	defer ours.Close()
	theirs, err := grpc.NewClient(strings.TrimPrefix(addr, "http://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer theirs.Close()
	for _, c := range []struct {
		callers, calls int
		goal           float64
	}{{1, 1000, 0.9}, {100, 5000, 0.5}} {
		b.Run(fmt.Sprintf("callers=%d", c.callers), func(b *testing.B) {
			us := &side{client: testgrpc.NewTestServiceClient(ours)}
			them := &side{client: testgrpc.NewTestServiceClient(theirs)}
			for b.Loop() {
				for _, s := range []*side{us, them} {
					if err := s.round(c.callers, c.calls); err != nil {
						b.Fatal(err)
					}
				}
			}
			// Other programs disturb the measurement, so a ratio above the goal is only reported.
			if r := ratio(us, them); r >= 1 {
				b.Errorf("hyper costs %.2f of grpc-go's CPU time", r)
			} else if r > c.goal {
				b.Logf("hyper costs %.2f of grpc-go's CPU time, more than %.2f", r, c.goal)
			}
			b.ReportMetric(us.mean(), "hyper-µs/call")
			b.ReportMetric(them.mean(), "grpc-go-µs/call")
			b.ReportMetric(ratio(us, them), "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}
