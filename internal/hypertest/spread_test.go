package hypertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A backEnd is one of several real servers of the same name.
type backEnd struct {
	addr   string
	served atomic.Int64
	kill   func(how string)
}

// startBackEnd starts a back end on the loopback interface.
func startBackEnd(t *testing.T) *backEnd {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newBackEnd(t, ln)
}

// newBackEnd starts a server with TLS on ln that takes about two milliseconds for each request. Its
// responses have no body: a response that has begun when the server dies is not requested again.
func newBackEnd(t *testing.T, ln net.Listener) *backEnd {
	b := &backEnd{addr: ln.Addr().String()}
	var mu sync.Mutex
	var conns []net.Conn
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(2 * time.Millisecond)
			b.served.Add(1)
		}),
		TLSConfig: h2test.ServerTLS(), ErrorLog: log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			mu.Lock()
			defer mu.Unlock()
			conns = append(conns, nc)
			return ctx
		},
	}
	b.kill = func(how string) {
		if how == "reset" {
			ln.Close()
			mu.Lock()
			for _, nc := range conns {
				if inner, ok := nc.(interface{ NetConn() net.Conn }); ok {
					inner.NetConn().(*net.TCPConn).SetLinger(0)
				}
			}
			mu.Unlock()
		}
		srv.Close()
	}
	go srv.ServeTLS(ln, "", "")
	t.Cleanup(func() { srv.Close() })
	return b
}

// load sends n GETs, atOnce of them concurrently, and returns how many failed. It calls half when
// half of them are done.
func load(t *testing.T, rt http.RoundTripper, n, atOnce int, half func()) (failed int64) {
	t.Helper()
	var next, done, bad atomic.Int64
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for next.Add(1) <= int64(n) {
				req, _ := http.NewRequest("GET", "https://example.com/", nil)
				resp, err := rt.RoundTrip(req)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				if err != nil {
					bad.Add(1)
					t.Log(err)
				}
				if done.Add(1) == int64(n/2) && half != nil {
					half()
				}
			}
		})
	}
	wg.Wait()
	return bad.Load()
}

// wantShares requires that each server has got between 25% and 42% of total requests.
func wantShares(t *testing.T, servers []*backEnd, total int64) {
	t.Helper()
	for i, b := range servers {
		if n := b.served.Load(); n*100 < 25*total || n*100 > 42*total {
			t.Errorf("server %d got %d of %d requests", i, n, total)
		}
	}
}

// A pipeListener is a net.Listener for connections in memory.
type pipeListener struct {
	addr  net.TCPAddr
	conns chan net.Conn
	end   chan struct{}
	close func()
}

// newPipeListener returns a listener with the address 192.0.2.1 and the port.
func newPipeListener(port int) *pipeListener {
	l := &pipeListener{addr: net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: port}, conns: make(chan net.Conn),
		end: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.end) })
	return l
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.end:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.close(); return nil }
func (l *pipeListener) Addr() net.Addr { return &l.addr }

// newBackEnds starts n servers in a bubble, and returns a dialer for them. In a bubble each request
// takes the same time, whatever else the machine does, so that the load of a server is exact.
func newBackEnds(t *testing.T, n int) (servers []*backEnd, addrs []string, dial dialFunc) {
	listeners := make(map[string]*pipeListener, n)
	for i := range n {
		l := newPipeListener(1000 + i)
		b := newBackEnd(t, l)
		servers, addrs, listeners[b.addr] = append(servers, b), append(addrs, b.addr), l
	}
	return servers, addrs, func(_ context.Context, _, addr string) (net.Conn, error) {
		client, server := h2test.Pipe()
		listeners[addr].conns <- server
		return client, nil
	}
}

func TestRequestsAreSpreadOverServersBehindOneName(t *testing.T) {
	for name, use := range map[string]func(tr *hyper.Transport, addrs []string, dial dialFunc){
		"Resolve": func(tr *hyper.Transport, addrs []string, _ dialFunc) {
			tr.Resolve = func(_ context.Context, addr string) ([]string, error) {
				if addr != "example.com:443" {
					return nil, fmt.Errorf("asked for %s", addr)
				}
				return addrs, nil
			}
		},
		"MinConnsPerHost behind a balancer": func(tr *hyper.Transport, addrs []string, dial dialFunc) {
			tr.MinConnsPerHost, tr.Config.DialContext = len(addrs), inTurn(addrs, dial)
		},
	} {
		for atOnce, requests := range map[int]int{50: 1000, 1: 300} {
			t.Run(fmt.Sprintf("%s/%d at once", name, atOnce), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					servers, addrs, dial := newBackEnds(t, 3)
					tr := &hyper.Transport{Proxy: hyper.NoProxy,
						Config: &hyper.Config{TLS: h2test.ClientTLS(), DialContext: dial}}
					use(tr, addrs, dial)
					if failed := load(t, tr, requests, atOnce, nil); failed > 0 {
						t.Errorf("%d requests failed", failed)
					}
					wantShares(t, servers, int64(requests))
					tr.CloseIdleConnections()
				})
			})
		}
	}
}

// balancer returns a dialer that connects to the addresses in turn.
func balancer(addrs []string) dialFunc { return inTurn(addrs, new(net.Dialer).DialContext) }

// inTurn returns a dialer that dials the addresses in turn.
func inTurn(addrs []string, dial dialFunc) dialFunc {
	var n atomic.Int64
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dial(ctx, network, addrs[int(n.Add(1))%len(addrs)])
	}
}

func TestNoIdempotentRequestFailsWhenOneOfThreeServersEnds(t *testing.T) {
	for _, how := range []string{"closed", "reset"} {
		t.Run(how, func(t *testing.T) {
			servers := []*backEnd{startBackEnd(t), startBackEnd(t), startBackEnd(t)}
			tr := &hyper.Transport{
				Proxy: hyper.NoProxy, Config: &hyper.Config{TLS: h2test.ClientTLS()},
				Resolve: func(context.Context, string) ([]string, error) {
					return []string{servers[0].addr, servers[1].addr, servers[2].addr}, nil
				},
			}
			defer tr.CloseIdleConnections()
			if failed := load(t, tr, 1000, 50, func() { servers[1].kill(how) }); failed > 0 {
				t.Errorf("%d of 1000 requests failed", failed)
			}
		})
	}
}

// A fleet is a group of simulated servers behind one name, in a bubble.
type fleet struct {
	t     *testing.T
	addrs []string
	down  map[string]bool // refuses connections
	mu    sync.Mutex
	peers map[string][]*h2test.Peer
	dials map[string]int
}

// newFleet returns a fleet with one server at each of addrs.
func newFleet(t *testing.T, addrs ...string) *fleet {
	return &fleet{t: t, addrs: addrs, down: map[string]bool{}, peers: map[string][]*h2test.Peer{},
		dials: map[string]int{}}
}

// dial connects to the server at addr.
func (f *fleet) dial(_ context.Context, _, addr string) (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dials[addr]++
	if f.down[addr] {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	client, server := h2test.Pipe()
	peer := h2test.NewPeer(f.t, server)
	peer.AutoPing()
	f.peers[addr] = append(f.peers[addr], peer)
	go f.serve(peer, addr)
	return client, nil
}

// serve responds to each request with the address.
func (f *fleet) serve(peer *h2test.Peer, addr string) {
	peer.WriteSettings()
	for {
		frame, err := peer.Next()
		switch {
		case err != nil && err.Error() == "nothing":
		case err != nil:
			return
		case frame.Type == wire.Settings && !frame.Flags.Has(wire.Ack):
			peer.WriteSettingsAck()
		case frame.Type == wire.Headers:
			peer.WriteHeaders(frame.StreamID, wire.EndStream, ":status: 200", "x-addr: "+addr)
		}
	}
}

// setDown makes the server at addr refuse connections, and ends those that it has, or makes it
// accept them again.
func (f *fleet) setDown(addr string, down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down[addr] = down
	if down {
		for _, p := range f.peers[addr] {
			p.Close()
		}
		f.peers[addr] = nil
	}
}

// dialled returns how many connections to addr were attempted.
func (f *fleet) dialled(addr string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dials[addr]
}

// get sends one GET and returns the address of the server that responded.
func (f *fleet) get(tr *hyper.Transport) string {
	f.t.Helper()
	req, err := http.NewRequest("GET", "http://example.com/", nil)
	if err != nil {
		f.t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		f.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.Header.Get("X-Addr")
}

// shares sends n GETs one after another and returns how many each server responded to.
func (f *fleet) shares(tr *hyper.Transport, n int) map[string]int {
	f.t.Helper()
	got := map[string]int{}
	for range n {
		got[f.get(tr)]++
		synctest.Wait()
	}
	return got
}

// transport returns a Transport that uses resolve, or the addresses of f if resolve is nil.
func (f *fleet) transport(resolve func(context.Context, string) ([]string, error)) *hyper.Transport {
	if resolve == nil {
		resolve = func(context.Context, string) ([]string, error) { return f.addrs, nil }
	}
	tr := &hyper.Transport{
		Proxy: hyper.NoProxy, UnencryptedHTTP2: true, Resolve: resolve,
		Config: &hyper.Config{DialContext: f.dial},
	}
	f.t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func TestAddressThatCannotBeReachedIsAvoided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, "a:80", "b:80", "c:80")
		f.setDown("b:80", true)
		tr := f.transport(nil)
		if got := f.shares(tr, 100); got["b:80"] != 0 || got["a:80"] < 40 || got["c:80"] < 40 {
			t.Errorf("shares %v", got)
		}
		for range 600 { // ten minutes
			f.get(tr)
			time.Sleep(time.Second)
		}
		if n := f.dialled("b:80"); n < 10 || n > 40 {
			t.Errorf("the address was tried %d times in ten minutes", n)
		}
		f.setDown("b:80", false)
		for range 60 {
			f.get(tr)
			time.Sleep(time.Second)
		}
		if got := f.shares(tr, 90); got["b:80"] < 25 || got["b:80"] > 35 {
			t.Errorf("shares after it can be reached again: %v", got)
		}
	})
}

func TestConnectionThatEndedIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, "a:80", "b:80", "c:80")
		tr := f.transport(nil)
		f.shares(tr, 3)
		f.setDown("a:80", true)
		f.setDown("a:80", false)
		synctest.Wait()
		start := time.Now()
		f.get(tr)
		if d := time.Since(start); d > 0 {
			t.Errorf("a request waited %v", d)
		}
		time.Sleep(2 * time.Second)
		f.get(tr)
		synctest.Wait()
		if got := f.shares(tr, 90); got["a:80"] < 25 || got["a:80"] > 35 {
			t.Errorf("shares %v", got)
		}
	})
}

func TestResolveIsAskedAgainWhileThereIsTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		var asked atomic.Int64
		var addrs atomic.Pointer[[]string]
		addrs.Store(&[]string{"a:80", "b:80"})
		tr := f.transport(func(_ context.Context, addr string) ([]string, error) {
			if asked.Add(1); addr != "example.com:80" {
				return nil, fmt.Errorf("asked for %s", addr)
			}
			if list := addrs.Load(); list != nil {
				return *list, nil
			}
			return nil, errors.New("no name server")
		})
		f.shares(tr, 100)
		before := asked.Load() // at most once for each of the first connections
		if before > 2 {
			t.Errorf("Resolve was called %d times at first", before)
		}
		time.Sleep(31 * time.Second)
		addrs.Store(&[]string{"b:80", "c:80"})
		f.shares(tr, 10)
		if asked.Load() != before+1 {
			t.Errorf("Resolve was called %d times after that, want once", asked.Load()-before)
		}
		if got := f.shares(tr, 90); got["a:80"] > 0 || got["b:80"] < 40 || got["c:80"] < 40 {
			t.Errorf("shares with the new addresses: %v", got)
		}
		time.Sleep(31 * time.Second)
		addrs.Store(nil)
		if got := f.shares(tr, 90); got["b:80"] < 40 || got["c:80"] < 40 {
			t.Errorf("shares after an error of Resolve: %v", got)
		}
	})
}

// If an address no longer belongs to the host when a connection to it has been made, the connection
// gets no requests.
func TestConnectionThatComesAfterItsAddressIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, "a:80", "b:80")
		var slow atomic.Bool
		tr := f.transport(nil)
		var reasons []hyper.ConnReason
		tr.OnConn = func(e hyper.ConnEvent) {
			if e.Kind == hyper.ConnClosed {
				reasons = append(reasons, e.Reason)
			}
		}
		tr.Config.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if slow.Load() && addr == "a:80" {
				time.Sleep(5 * time.Second)
			}
			return f.dial(ctx, network, addr)
		}
		f.shares(tr, 10)
		slow.Store(true)
		time.Sleep(27 * time.Second)
		f.setDown("a:80", true)
		f.setDown("a:80", false)
		synctest.Wait()
		time.Sleep(2 * time.Second)
		f.get(tr) // starts to make the connection
		f.addrs = []string{"b:80"}
		time.Sleep(2 * time.Second)
		f.get(tr) // causes a call of Resolve
		time.Sleep(5 * time.Second)
		if n := f.dialled("a:80"); n != 2 {
			t.Errorf("a was dialled %d times, want 2", n)
		}
		if got := f.shares(tr, 100); got["b:80"] != 100 {
			t.Errorf("shares %v", got)
		}
		if want := []hyper.ConnReason{hyper.ReasonLost, hyper.ReasonResolve}; !slices.Equal(reasons, want) {
			t.Errorf("connections were closed for %v, want %v", reasons, want)
		}
	})
}

func TestErrorsOfResolve(t *testing.T) {
	broken := errors.New("no such host")
	for name, row := range map[string]struct {
		resolve func(context.Context, string) ([]string, error)
		is      error
	}{
		"an error": {
			func(context.Context, string) ([]string, error) { return nil, broken }, broken,
		},
		"no address": {func(context.Context, string) ([]string, error) { return nil, nil }, nil},
		"no port": {
			func(context.Context, string) ([]string, error) { return []string{"192.0.2.1"}, nil }, nil,
		},
		"ends its goroutine": {
			func(context.Context, string) ([]string, error) { runtime.Goexit(); return nil, nil }, nil,
		},
		"ignores its context": {func(context.Context, string) ([]string, error) {
			time.Sleep(time.Hour)
			return nil, nil
		}, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newFleet(t).transport(row.resolve)
				req, _ := http.NewRequest("GET", "http://example.com/", nil)
				start := time.Now()
				_, err := tr.RoundTrip(req)
				if err == nil || row.is != nil && !errors.Is(err, row.is) || !hyper.Retryable(err) {
					t.Errorf("the error is %v", err)
				}
				if d := time.Since(start); d > 30*time.Second || row.is != context.DeadlineExceeded && d > 0 {
					t.Errorf("it took %v", d)
				}
				time.Sleep(2 * time.Hour)
			})
		})
	}
}

// HTTP/1.1 connections use Resolve, too, and each of its calls ends within HandshakeTimeout.
func TestResolveForHTTP1(t *testing.T) {
	const limit = 3 * time.Second
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := h2test.ServerTLS()
	cfg.NextProtos = []string{"http/1.1"}
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter,
			r *http.Request) {
			io.WriteString(w, r.Proto)
		}),
		TLSConfig: cfg,
	}
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true)
	go srv.ServeTLS(ln, "", "")
	defer srv.Close()
	var asked atomic.Int64
	tr := &hyper.Transport{
		Proxy: hyper.NoProxy, Config: &hyper.Config{TLS: h2test.ClientTLS(), HandshakeTimeout: limit},
		DisableKeepAlives: true, // otherwise the connection that was made for HTTP/2 serves all requests
		Resolve: func(ctx context.Context, addr string) ([]string, error) {
			asked.Add(1)
			if at, ok := ctx.Deadline(); !ok || time.Until(at) > limit {
				t.Errorf("a call has until %v", at)
			}
			return []string{ln.Addr().String()}, nil
		},
	}
	defer tr.CloseIdleConnections()
	for range 3 {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://example.com/", nil)
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		h2test.WantBody(t, "the protocol", resp.Body, "HTTP/1.1")
		resp.Body.Close()
	}
	if n := asked.Load(); n != 3 {
		t.Errorf("Resolve was called %d times, want 3", n)
	}
}

func TestTraceOfResolve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, "192.0.2.1:80", "192.0.2.2:80")
		tr := f.transport(nil)
		var mu sync.Mutex
		var events []string
		add := func(event string) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, event)
		}
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			GetConn:  func(hostPort string) { add("GetConn " + hostPort) },
			DNSStart: func(i httptrace.DNSStartInfo) { add("DNSStart " + i.Host) },
			DNSDone:  func(i httptrace.DNSDoneInfo) { add(fmt.Sprint("DNSDone ", i.Addrs)) },
			GotConn:  func(i httptrace.GotConnInfo) { add(fmt.Sprint("GotConn ", i.Reused)) },
		})
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://example.com/", nil)
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		want := []string{"GetConn example.com:80", "DNSStart example.com",
			"DNSDone [{192.0.2.1 } {192.0.2.2 }]", "GotConn false"}
		if !slices.Equal(events, want) {
			t.Errorf("events %q, want %q", events, want)
		}
	})
}

func TestMinConnsPerHost(t *testing.T) {
	for _, row := range []struct{ least, most, want int }{{0, 0, 1}, {1, 0, 1}, {3, 0, 3}, {20, 0, 8},
		{20, -1, 20}, {5, 2, 2}} {
		t.Run(fmt.Sprintf("%d of %d", row.least, row.most), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t)
				tr := &hyper.Transport{
					Proxy: hyper.NoProxy, UnencryptedHTTP2: true, Config: &hyper.Config{DialContext: f.dial},
					MinConnsPerHost: row.least, MaxConnsPerHost: row.most,
				}
				defer tr.CloseIdleConnections()
				f.shares(tr, 50)
				if n := f.dialled("example.com:80"); n != row.want {
					t.Errorf("%d connections, want %d", n, row.want)
				}
			})
		})
	}
}

// If connections cannot be made in the background, no request waits for them, and the attempts do
// not continue without limit. An attempt in the background has no values of a request's context.
func TestFailedBackgroundConnectionsDelayNothing(t *testing.T) {
	type forRequest struct{}
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		var failed atomic.Int64
		tr := &hyper.Transport{
			Proxy: hyper.NoProxy, UnencryptedHTTP2: true, MinConnsPerHost: 3,
			Config: &hyper.Config{DialContext: func(ctx context.Context, network, addr string) (net.Conn,
				error) {
				if ctx.Value(forRequest{}) == nil {
					failed.Add(1)
					return nil, errors.New("no route")
				}
				return f.dial(ctx, network, addr)
			}},
		}
		defer tr.CloseIdleConnections()
		start := time.Now()
		first := context.WithValue(t.Context(), forRequest{}, true)
		if err := getOnce(first, tr, "example.com"); err != nil {
			t.Fatal(err)
		}
		f.shares(tr, 999)
		if d := time.Since(start); d > 0 {
			t.Errorf("1,000 requests took %v", d)
		}
		if n := failed.Load(); n < 1 || n > 9 {
			t.Errorf("%d dials in the background at once", n)
		}
	})
}

// Many servers end connections that are idle for a while. If they end unused ones, no request
// waits.
func TestEndOfUnusedConnectionsDelaysNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		tr := &hyper.Transport{
			Proxy: hyper.NoProxy, UnencryptedHTTP2: true, MinConnsPerHost: 8,
			Config: &hyper.Config{DialContext: f.dial},
		}
		defer tr.CloseIdleConnections()
		for range 10 {
			start := time.Now()
			f.get(tr)
			if d := time.Since(start); d > 0 {
				t.Errorf("a request waited %v", d)
			}
			time.Sleep(2 * time.Second)
			f.setDown("example.com:80", true)
			f.setDown("example.com:80", false)
			synctest.Wait()
		}
		if n := f.dialled("example.com:80"); n > 80 {
			t.Errorf("%d connections for 10 requests", n)
		}
	})
}

// The work for many addresses does not grow with their square.
func TestManyAddressesTakeLittleTime(t *testing.T) {
	start := time.Now() // in real time, outside the bubble
	synctest.Test(t, func(t *testing.T) {
		var addrs []string
		for i := range 2000 {
			addrs = append(addrs, fmt.Sprintf("10.0.%d.%d:80", i/250, i%250))
		}
		var dials atomic.Int64
		tr := newFleet(t).transport(func(context.Context, string) ([]string, error) { return addrs, nil })
		tr.MaxConnsPerHost, tr.MaxIdleConns = -1, -1
		tr.Config.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			dials.Add(1)
			time.Sleep(time.Millisecond)
			return nil, errors.New("connection refused")
		}
		if err := getOnce(t.Context(), tr, "example.com"); err == nil {
			t.Error("there is a response")
		}
		if n := dials.Load(); n < 2000 {
			t.Errorf("%d of 2000 addresses were tried", n)
		}
		time.Sleep(time.Minute) // lets background work end
	})
	if d := time.Since(start); !h2test.Race && d > 8*time.Second {
		t.Errorf("it took %v", d)
	}
}
