// This file holds TestReuseModel, which uses responses in all ways while the memory of others is
// used again.

package hypertest

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

var (
	reuseExchanges = flag.Int64("reuse.exchanges", 0, "how many exchanges TestReuseModel makes (0: a few)")
	reuseSeed      = flag.Uint64("reuse.seed", 0, "TestReuseModel's seed (0: a new one)")
)

// Many callers use several connections at the same time, with servers that behave well and with
// others. They do with their responses at random what callers may do, and they keep some. Whatever
// they see of a response belongs to their own request.
func TestReuseModel(t *testing.T) {
	exchanges, seed := *reuseExchanges, *reuseSeed
	if exchanges == 0 {
		exchanges = int64(unlessRaced(6000, 1500))
	}
	if seed == 0 {
		seed = rand.Uint64()
	}
	m := &reuseModel{t: t, exchanges: exchanges}
	m.open()
	stop := make(chan struct{})
	var callers, chaos sync.WaitGroup
	chaos.Go(func() { m.disturb(rand.New(rand.NewPCG(seed, 0)), stop) })
	for i := range uint64(24) {
		callers.Go(func() {
			c := &reuser{m: m, t: t, r: rand.New(rand.NewPCG(seed, i+1))}
			for m.started.Add(1) <= exchanges && !t.Failed() {
				c.exchange()
			}
			for _, e := range c.kept {
				e.useLate()
			}
		})
	}
	callers.Wait()
	close(stop)
	chaos.Wait()
	t.Logf("seed %d: %d exchanges have a response, %d have none; the memory of %d was given up", seed,
		m.whole.Load(), m.broken.Load(), m.reused.Load())
	if m.whole.Load() < exchanges/2 || m.reused.Load() < exchanges/50 {
		t.Error("too few")
	}
}

// A reuseModel is the test, with its clients.
type reuseModel struct {
	t         *testing.T
	exchanges int64
	started   atomic.Int64
	numbers   atomic.Int64

	whole, broken atomic.Int64 // exchanges with a response, and those without
	reused        atomic.Int64 // those that gave up their memory: ResponseFromHTTP makes copies

	doors      []reuseDoor
	transports []*hyper.Transport
	conn       sharedConn
}

// A reuseDoor is a client, and a server that it uses.
type reuseDoor struct {
	url    string
	calm   bool // the server and the connection do nothing wrong
	moves  bool // the server has redirects
	client *http.Client
}

// open makes the clients and their servers.
func (m *reuseModel) open() {
	t, dial := m.t, dialReusePeer(m.t)
	scripted := func(cfg hyper.Config) *hyper.Transport {
		cfg.DialContext = dial
		tr := &hyper.Transport{Config: &cfg, Proxy: hyper.NoProxy, UnencryptedHTTP2: true, MaxConnsPerHost: 2}
		m.transports = append(m.transports, tr)
		return tr
	}
	plain := scripted(hyper.Config{})
	traced := scripted(hyper.Config{Trace: func(hyper.TraceEvent) {}, StreamTimes: true, KeepFrames: true})
	accept := func(p *hyper.Push) bool { return p.ID()%4 == 0 }
	pushed := scripted(hyper.Config{Push: &hyper.PushPolicy{Accept: accept}})
	managed := scripted(hyper.Config{WindowManager: hyper.FixedWindow{}.New, StreamTimes: true})
	managed.ResponseHeaderTimeout = 3 * time.Second

	srv := h2test.HTTP2Server(t, serveReuse)
	old, _ := h2test.HTTP1Server(t, serveReuse)
	to := strings.TrimPrefix(srv.URL, "https://")
	cfg := &hyper.Config{TLS: h2test.ClientTLS()}
	cfg.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if strings.Contains(addr, "example.com") {
			addr = to
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	real := &hyper.Transport{Config: cfg, Proxy: hyper.NoProxy, Coalesce: true,
		Resolve: func(context.Context, string) ([]string, error) { return []string{to}, nil }}
	m.transports = append(m.transports, real)
	configured := &http.Transport{TLSClientConfig: h2test.ClientTLS()}
	if err := hyper.ConfigureTransport(configured, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(configured.CloseIdleConnections)
	for _, tr := range m.transports {
		t.Cleanup(tr.CloseIdleConnections)
	}
	m.conn.dial = dial
	t.Cleanup(m.conn.close)

	port := to[strings.LastIndex(to, ":"):]
	m.add(reuseDoor{url: "http://calm.test", calm: true}, plain)
	m.add(reuseDoor{url: "http://calm2.test", calm: true}, traced)
	m.add(reuseDoor{url: "http://wild.test"}, plain)
	m.add(reuseDoor{url: "http://wild2.test"}, plain)
	m.add(reuseDoor{url: "http://wild.test"}, traced)
	m.add(reuseDoor{url: "http://wild.test"}, managed)
	m.add(reuseDoor{url: "http://push.test"}, pushed)
	m.add(reuseDoor{url: "http://wild.test"}, &m.conn)
	m.add(reuseDoor{url: srv.URL, calm: true, moves: true}, real)
	m.add(reuseDoor{url: "https://a.example.com" + port, calm: true, moves: true}, real)
	m.add(reuseDoor{url: "https://b.example.com" + port, calm: true, moves: true}, real)
	m.add(reuseDoor{url: old.URL, moves: true}, real)
	m.add(reuseDoor{url: srv.URL, calm: true, moves: true}, configured)
}

// add adds a door with a client that uses rt.
func (m *reuseModel) add(d reuseDoor, rt http.RoundTripper) {
	d.client = &http.Client{Transport: rt}
	m.doors = append(m.doors, d)
}

// disturb does what a program may do with connections while they are in use.
func (m *reuseModel) disturb(r *rand.Rand, stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(r.IntN(4000)) * time.Microsecond):
		}
		switch r.IntN(8) {
		case 0:
			m.conn.close()
		case 1:
			m.conn.shutdown()
		case 2:
			runtime.GC()
		default:
			m.transports[r.IntN(len(m.transports))].CloseIdleConnections()
		}
	}
}

// A sharedConn is a Conn that is made again when it has ended.
type sharedConn struct {
	dial dialFunc
	mu   sync.Mutex
	conn *hyper.Conn
}

// RoundTrip sends req on the connection.
func (s *sharedConn) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	if s.conn == nil || s.conn.Err() != nil || s.conn.Available() == 0 {
		nc, _ := s.dial(req.Context(), "tcp", "wild.test:80")
		conn, err := hyper.NewConn(context.Background(), nc, nil)
		if err != nil {
			s.mu.Unlock()
			return nil, err
		}
		if old := s.conn; old != nil {
			time.AfterFunc(time.Second, func() { old.Close() })
		}
		s.conn = conn
	}
	conn := s.conn
	s.mu.Unlock()
	return conn.RoundTrip(req)
}

func (s *sharedConn) current() *hyper.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn
}

func (s *sharedConn) close() {
	if c := s.current(); c != nil {
		c.Close()
	}
}

func (s *sharedConn) shutdown() {
	if c := s.current(); c != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		c.Shutdown(ctx)
	}
}

// A reuser is a caller, which makes one exchange after the other and keeps some of them.
type reuser struct {
	m    *reuseModel
	t    *testing.T
	r    *rand.Rand
	kept []*reuseExchange
}

// chance returns true with a probability of one in n.
func (c *reuser) chance(n int) bool { return c.r.IntN(n) == 0 }

// A reuseExchange is one exchange as its caller sees it.
type reuseExchange struct {
	c      *reuser
	door   *reuseDoor
	number string
	ends   bool // the caller ended it, or did what may end it
	method string
	req    *http.Request
	resp   *http.Response
	own    *hyper.Response // nil: it was not taken

	want    string // what the response has: the number, unless it came too early
	changed bool   // the caller changed the header
	at      int    // how much of the body was read, by one reader
}

// errorf reports a fault of the exchange.
func (e *reuseExchange) errorf(format string, args ...any) {
	e.c.t.Errorf("%s %s of %s: %s", e.method, e.number, e.door.url, fmt.Sprintf(format, args...))
}

// exchange makes an exchange, and uses its response.
func (c *reuser) exchange() {
	m := c.m
	e := &reuseExchange{c: c, door: &m.doors[c.r.IntN(len(m.doors))], method: "GET"}
	e.number = fmt.Sprintf("%07d;", m.numbers.Add(1))
	cancel := e.prepare()
	defer cancel()
	client := *e.door.client
	if c.chance(5) {
		client.Jar, _ = cookiejar.New(nil)
		client.Timeout = 2 * time.Minute
		if c.chance(3) {
			client.Timeout = time.Duration(1+c.r.IntN(2000)) * time.Microsecond
			e.ends = true
		}
	}
	var err error
	if c.chance(2) || client.Jar != nil || strings.Contains(e.req.URL.Path, "/moved/") {
		e.resp, err = client.Do(e.req)
	} else {
		e.resp, err = client.Transport.RoundTrip(e.req)
	}
	if err != nil {
		m.broken.Add(1)
		if e.door.calm && !e.ends {
			e.errorf("%v", err)
		}
		return
	}
	m.whole.Add(1)
	e.begin()
	e.use()
	e.end()
	if c.chance(3) {
		cancel()
	}
	e.check()
	if len(c.kept) > 0 {
		c.kept[c.r.IntN(len(c.kept))].useLate()
	}
	if c.kept = append(c.kept, e); len(c.kept) > 8 {
		i := c.r.IntN(len(c.kept))
		c.kept = slices.Delete(c.kept, i, i+1)
	}
}

// prepare makes the request. Its context ends at a random time in some exchanges.
func (e *reuseExchange) prepare() context.CancelFunc {
	c, path := e.c, "/"+e.number
	if e.door.moves && c.chance(8) {
		path = "/moved/" + e.number
	}
	var body io.Reader
	switch c.r.IntN(8) {
	case 0:
		e.method = "HEAD"
	case 1:
		e.method, body = "POST", strings.NewReader(e.number)
	case 2:
		e.method, body = "POST", io.MultiReader(strings.NewReader(e.number)) // not in memory
	}
	ctx, cancel := context.WithCancel(e.context(context.Background()))
	if c.chance(6) {
		ctx = context.WithoutCancel(ctx)
	} else if c.chance(5) {
		e.ends = true
		time.AfterFunc(time.Duration(c.r.IntN(3000))*time.Microsecond, cancel)
	}
	req, err := http.NewRequestWithContext(ctx, e.method, e.door.url+path, body)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("X-Number", e.number)
	if c.chance(12) {
		stop := make(chan struct{})
		//lint:ignore SA1019 http.Client still sets it
		req.Cancel = stop
		if c.chance(2) {
			e.ends = true
			time.AfterFunc(time.Duration(c.r.IntN(3000))*time.Microsecond, func() { close(stop) })
		}
	}
	if e.req = req; c.chance(6) {
		e.req = req.Clone(ctx)
	}
	return cancel
}

// context adds the functions of WithResponse, WithRequest and httptrace in some exchanges.
func (e *reuseExchange) context(ctx context.Context) context.Context {
	c := e.c
	interim := func(field string) {
		if field != e.number && (e.door.calm || field != early) {
			e.errorf("an interim response to %q", field)
		}
	}
	if c.chance(8) {
		ctx = hyper.WithResponse(ctx, func(own *hyper.Response) { e.own = own })
	}
	if c.chance(8) {
		ctx = hyper.WithRequest(ctx, func(r *hyper.Request) {
			r.Header.Add("x-more", e.number)
			r.Informational = func(_ int, h hyper.Header) error {
				interim(h.Get("x-number"))
				return nil
			}
		})
	}
	if c.chance(8) {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
				interim(h.Get("X-Number"))
				return nil
			},
		})
	}
	return ctx
}
