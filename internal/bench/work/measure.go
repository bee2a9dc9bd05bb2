package work

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/pprof"
	"sync/atomic"
	"syscall"
	"time"
)

// figures are the results of a measurement. Measuring kits know their names.
type figures map[string]any

// A mark is a point in time and the resources that the process had used by then.
type mark struct {
	at     time.Time
	cpu    time.Duration // user and system
	memory runtime.MemStats
	schedule
}

// now returns a mark of the current time.
func now() (m mark) {
	runtime.ReadMemStats(&m.memory)
	m.schedule = scheduled()
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	m.cpu = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	m.at = time.Now()
	return m
}

// maxRSS returns the largest resident memory that the process ever had, in KiB.
func maxRSS() int64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Maxrss
}

// rss returns the resident memory of the process, in bytes.
func rss() int64 {
	var total, resident int64
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		fmt.Sscan(string(b), &total, &resident)
	}
	return resident * int64(os.Getpagesize())
}

// cost measures work, which does n requests and returns how many bytes of bodies it moved.
func (o *options) cost(n int, work func() (octets int64, err error)) (figures, error) {
	if o.cpuProfile != "" {
		f, err := os.Create(o.cpuProfile)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return nil, err
		}
		defer pprof.StopCPUProfile()
	}
	wire.reset()
	before := now()
	var (
		octets   int64
		err      error
		lockTime float64
	)
	if o.locks {
		lockTime, err = lockProfile(func() error {
			octets, err = work()
			return err
		})
	} else {
		octets, err = work()
	}
	if err != nil {
		return nil, err
	}
	after := now()
	cpu, wall := (after.cpu - before.cpu).Seconds(), after.at.Sub(before.at).Seconds()
	f := figures{
		"n": n, "bytes": octets, "cpu": cpu, "wall": wall,
		"us_per_req":     cpu * 1e6 / float64(n),
		"allocs_per_req": float64(after.memory.Mallocs-before.memory.Mallocs) / float64(n),
		"B_per_req":      float64(after.memory.TotalAlloc-before.memory.TotalAlloc) / float64(n),
		"gc":             after.memory.NumGC - before.memory.NumGC,
		"maxrss_kb":      maxRSS(),
		"lock_part":      (after.lockWait - before.lockWait) / cpu,
		"starts_per_req": (after.starts - before.starts) / float64(n),
		"rps":            float64(n) / wall,
	}
	if o.locks {
		f["lock_cpu"] = lockTime
	}
	if o.wire {
		f["rd_calls"], f["wr_calls"] = wire.reads.Load(), wire.writes.Load()
		f["wire_rd"], f["wire_wr"] = wire.octetsRead.Load(), wire.octetsWritten.Load()
	}
	return f, nil
}

// memory measures the memory and the goroutines of each of the n things that make creates, while
// they exist.
func memory(n int, make func() error) (figures, error) {
	take := func() (m runtime.MemStats, goroutines int, resident int64) {
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m, runtime.NumGoroutine(), rss()
	}
	each := func(before, after int64) float64 { return float64(after-before) / float64(n) }
	m0, g0, r0 := take()
	if err := make(); err != nil {
		return nil, err
	}
	m1, g1, r1 := take()
	return figures{
		"n":         n,
		"heap_per":  each(int64(m0.HeapAlloc), int64(m1.HeapAlloc)),
		"stack_per": each(int64(m0.StackInuse), int64(m1.StackInuse)),
		"gor_per":   each(int64(g0), int64(g1)),
		"rss_per":   each(r0, r1),
		"maxrss_kb": maxRSS(),
	}, nil
}

// wire counts the calls and the bytes at the sockets of all countedConns.
var wire wireCount

// A wireCount counts reads and writes, and their bytes.
type wireCount struct{ reads, writes, octetsRead, octetsWritten atomic.Int64 }

// reset sets the counts to 0.
func (w *wireCount) reset() {
	for _, n := range []*atomic.Int64{&w.reads, &w.writes, &w.octetsRead, &w.octetsWritten} {
		n.Store(0)
	}
}

// A countedConn is a connection that wire counts.
type countedConn struct{ net.Conn }

// dialCounted makes a countedConn.
func dialCounted(ctx context.Context, network, addr string) (net.Conn, error) {
	nc, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return countedConn{nc}, nil
}

// Read reads from the connection and counts that.
func (c countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	wire.reads.Add(1)
	wire.octetsRead.Add(int64(n))
	return n, err
}

// Write writes to the connection and counts that.
func (c countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	wire.writes.Add(1)
	wire.octetsWritten.Add(int64(n))
	return n, err
}
