package main

import (
	"math"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// faults are what a network does to connections, below TLS, on the server's side.
type faults struct {
	cut   float64 // probability that a connection ends early, with FIN or RST
	short float64 // probability that its first reads return only a few bytes
	delay float64 // probability that its first reads are late
}

// A faultListener accepts connections that fail as faults says. It records the causes, so that each
// error of a client can be compared with one.
type faultListener struct {
	net.Listener
	faults faults

	mu    sync.Mutex
	rng   *rand.Rand
	dying bool // the server is being restarted
	open  map[*faultConn]bool
	asked map[string]*faultConn // by the client's address, until the client has looked it up
}

// listenFaulty listens on the loopback interface.
func listenFaulty(f faults, seed uint64) (*faultListener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &faultListener{Listener: l, faults: f, rng: rand.New(rand.NewPCG(seed, 0)),
		open: make(map[*faultConn]bool), asked: make(map[string]*faultConn)}, nil
}

// Accept returns a faultConn.
func (l *faultListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &faultConn{Conn: nc, l: l, left: math.MaxInt64}
	if l.rng.Float64() < l.faults.cut {
		// Between 64 bytes and 64 MiB, for both directions together.
		c.left = int64(math.Exp2(6 + 20*l.rng.Float64()))
		c.abruptly = l.rng.IntN(2) == 0
	}
	if l.rng.Float64() < l.faults.short {
		c.most, c.shortReads = 1+l.rng.IntN(1000), 5000
	}
	if l.rng.Float64() < l.faults.delay {
		c.late, c.lateReads = time.Duration(l.rng.Int64N(int64(3*time.Millisecond))), 500
	}
	if l.dying {
		c.ended.Store(&restarted)
	}
	l.open[c] = true
	l.asked[nc.RemoteAddr().String()] = c
	return c, nil
}

// forRestart records that a restart ends all connections, including those that are accepted later.
func (l *faultListener) forRestart() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dying = true
	for c := range l.open {
		c.ended.CompareAndSwap(nil, &restarted)
	}
}

// find returns the server's end of a client's connection, or nil if it was never accepted.
func (l *faultListener) find(client net.Addr) *faultConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked[client.String()]
}

// forget removes the entry of a client that does not need it any more.
func (l *faultListener) forget(client net.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.asked, client.String())
}

// A faultConn is a connection that fails as planned.
type faultConn struct {
	net.Conn
	l     *faultListener
	ended atomic.Pointer[string] // why it was ended on purpose, set before the end; nil: it was not

	abruptly bool

	// owned by the goroutine that reads
	most       int // bytes in each of shortReads reads
	shortReads int
	late       time.Duration
	lateReads  int

	mu   sync.Mutex
	left int64 // bytes until its end
}

// The reasons why connections end on purpose.
var (
	cut       = "cut by the network"
	restarted = "restart of the server"
)

// why returns the reason why the connection was ended on purpose, or "".
func (c *faultConn) why() string {
	if c == nil || c.ended.Load() == nil {
		return ""
	}
	return *c.ended.Load()
}

// Read may be short or late, and may end the connection.
func (c *faultConn) Read(p []byte) (int, error) {
	if c.shortReads > 0 && len(p) > c.most {
		c.shortReads--
		p = p[:c.most]
	}
	if c.lateReads > 0 {
		c.lateReads--
		time.Sleep(c.late)
	}
	n, err := c.Conn.Read(p)
	if got := c.spend(n); got < n {
		return got, net.ErrClosed
	}
	return n, err
}

// Write may write only a part of p. The connection ends after that part.
func (c *faultConn) Write(p []byte) (int, error) {
	n := c.spend(len(p))
	if n == len(p) {
		return c.Conn.Write(p)
	}
	n, _ = c.Conn.Write(p[:n])
	return n, net.ErrClosed
}

// Close also removes the connection from those that are open.
func (c *faultConn) Close() error {
	c.l.mu.Lock()
	delete(c.l.open, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// spend takes up to n of the bytes that are left, and returns how many it took. The connection ends
// with the last one.
func (c *faultConn) spend(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 0 {
		return 0
	}
	if got := min(int64(n), c.left); got < c.left {
		c.left -= got
		return int(got)
	}
	n = int(c.left)
	c.left = 0
	c.ended.CompareAndSwap(nil, &cut)
	if tcp, ok := c.Conn.(*net.TCPConn); ok && c.abruptly {
		tcp.SetLinger(0)
	}
	time.AfterFunc(time.Millisecond, func() { c.Conn.Close() }) // after the write in progress
	return n
}
