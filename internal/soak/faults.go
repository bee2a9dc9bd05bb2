package main

import (
	"math"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// What a network does to connections, below TLS, on the server's side.
type faults struct {
	cut   float64 // probability that a connection is ended somewhere, in order or by RST
	short float64 // that its first reads return a few octets only
	delay float64 // that its first reads are late
}

// A faultListener makes connections that fail as told. It keeps book of why, so that each error of a client can be held
// against a cause.
type faultListener struct {
	net.Listener
	faults faults

	mu    sync.Mutex
	rng   *rand.Rand
	dying bool // the server is being restarted
	open  map[*faultConn]bool
	asked map[string]*faultConn // by the client's address, until the client has asked
}

func listenFaulty(f faults, seed uint64) (*faultListener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &faultListener{Listener: l, faults: f, rng: rand.New(rand.NewPCG(seed, 0)),
		open: make(map[*faultConn]bool), asked: make(map[string]*faultConn)}, nil
}

func (l *faultListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &faultConn{Conn: nc, l: l, left: math.MaxInt64}
	if l.rng.Float64() < l.faults.cut {
		c.left = int64(math.Exp2(6 + 20*l.rng.Float64())) // 64 octets to 64 MiB, both directions together
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

// forRestart books all connections, and those to come, as ended by a restart.
func (l *faultListener) forRestart() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dying = true
	for c := range l.open {
		c.ended.CompareAndSwap(nil, &restarted)
	}
}

// find returns the server's end of a client's connection, nil where it was never accepted.
func (l *faultListener) find(client net.Addr) *faultConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked[client.String()]
}

// forget drops what the client does not need to ask for any more.
func (l *faultListener) forget(client net.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.asked, client.String())
}

// A faultConn is a connection with its fate.
type faultConn struct {
	net.Conn
	l     *faultListener
	ended atomic.Pointer[string] // why it was ended on purpose, set before it is; nil: it was not

	abruptly bool

	// owned by who reads
	most       int // octets, of so many reads
	shortReads int
	late       time.Duration
	lateReads  int

	mu   sync.Mutex
	left int64 // octets until its end
}

// Why connections end on purpose.
var (
	cut       = "cut by the network"
	restarted = "restart of the server"
)

func (c *faultConn) why() string {
	if c == nil || c.ended.Load() == nil {
		return ""
	}
	return *c.ended.Load()
}

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

// Write may write only a part, at whose end the connection ends.
func (c *faultConn) Write(p []byte) (int, error) {
	n := c.spend(len(p))
	if n == len(p) {
		return c.Conn.Write(p)
	}
	n, _ = c.Conn.Write(p[:n])
	return n, net.ErrClosed
}

func (c *faultConn) Close() error {
	c.l.mu.Lock()
	delete(c.l.open, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// spend takes n octets of those that are left, and returns how many it got. With the last one the connection ends.
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
