package hypertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A town is a set of simulated servers, one for each host name. Each server responds after takes.
type town struct {
	t           *testing.T
	takes       time.Duration
	limit       uint32 // concurrent streams on a connection; 0: no limit
	open, most  atomic.Int64
	dials, done atomic.Int64
}

// A tallyConn is a connection that decrements the counter of open connections when it is closed.
type tallyConn struct {
	net.Conn
	once sync.Once
	open *atomic.Int64
}

// Close counts once.
func (c *tallyConn) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}

// dial connects to a new server and counts the connection.
func (w *town) dial(context.Context, string, string) (net.Conn, error) {
	w.dials.Add(1)
	n := w.open.Add(1)
	for most := w.most.Load(); n > most && !w.most.CompareAndSwap(most, n); most = w.most.Load() {
	}
	client, server := h2test.Pipe()
	go w.serve(server)
	return &tallyConn{Conn: client, open: &w.open}, nil
}

// serve responds to each request with 204. It does not decode fields: a scripted peer for each of
// thousands of connections would take too long.
func (w *town) serve(nc net.Conn) {
	defer nc.Close()
	var mu sync.Mutex
	write := func(p []byte) {
		mu.Lock()
		defer mu.Unlock()
		nc.Write(p)
	}
	if _, err := io.ReadFull(nc, make([]byte, len(wire.ClientPreface))); err != nil {
		return
	}
	var settings []wire.Setting
	if w.limit > 0 {
		settings = []wire.Setting{{ID: wire.SettingMaxConcurrentStreams, Value: w.limit}}
	}
	write(wire.AppendSettings(nil, settings...))
	for {
		head := make([]byte, wire.HeaderLen)
		if _, err := io.ReadFull(nc, head); err != nil {
			return
		}
		h := wire.ParseFrameHeader(head)
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(nc, payload); err != nil {
			return
		}
		switch {
		case h.Type == wire.Settings && !h.Flags.Has(wire.Ack):
			write(wire.AppendSettingsAck(nil))
		case h.Type == wire.Ping && !h.Flags.Has(wire.Ack):
			write(wire.AppendPing(nil, wire.Ack, wire.ParsePing(payload)))
		case h.Type == wire.Headers:
			time.AfterFunc(w.takes, func() {
				header := wire.FrameHeader{Length: 1, Type: wire.Headers,
					Flags: wire.EndStream | wire.EndHeaders, StreamID: h.StreamID}
				w.done.Add(1)
				write(append(wire.AppendFrameHeader(nil, header), 0x89)) // :status: 204 in the static table
			})
		}
	}
}

// transport returns a Transport for the town. set changes it. No connection may be open when the
// test ends.
func (w *town) transport(set func(*hyper.Transport)) *hyper.Transport {
	tr := &hyper.Transport{Proxy: hyper.NoProxy, UnencryptedHTTP2: true,
		Config: &hyper.Config{DialContext: w.dial}}
	set(tr)
	w.t.Cleanup(func() {
		tr.CloseIdleConnections()
		synctest.Wait()
		if n := w.open.Load(); n > 0 {
			w.t.Errorf("%d connections are open at the end", n)
		}
	})
	return tr
}

// getOnce sends GET to host and closes the body of the response.
func getOnce(ctx context.Context, rt http.RoundTripper, host string) error {
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+host+"/", nil)
	if err != nil {
		return err
	}
	resp, err := rt.RoundTrip(req)
	if err == nil {
		resp.Body.Close()
	}
	return err
}

func TestConnectionsToTwoThousandHostsAreBounded(t *testing.T) {
	hosts := unlessRaced(2000, 300)
	host := func(i int) string { return fmt.Sprintf("h%d.example.com", i) }
	for _, row := range []struct {
		name       string
		set        func(*hyper.Transport)
		atOnce     bool
		most, idle int64 // the most at any time, and those left at the end
		slack      int64
	}{
		{"one after another, by default", func(*hyper.Transport) {}, false, 101, 100, 12},
		{"one after another, MaxIdleConns 10", func(tr *hyper.Transport) { tr.MaxIdleConns = 10 }, false, 11,
			10, 12},
		{"one after another, no bound on idle ones", func(tr *hyper.Transport) { tr.MaxIdleConns = -1 },
			false, int64(hosts), int64(hosts), 0},
		{"one after another, MaxConns 50", func(tr *hyper.Transport) { tr.MaxConns = 50 }, false, 50, 50, 0},
		{"at once, by default", func(*hyper.Transport) {}, true, int64(hosts), 100, 0},
		{"at once, MaxConns 50", func(tr *hyper.Transport) { tr.MaxConns = 50 }, true, 50, 50, 5},
		{"at once, MaxConns 1", func(tr *hyper.Transport) { tr.MaxConns = 1 }, true, 1, 1, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &town{t: t, takes: time.Millisecond}
				tr := w.transport(row.set)
				var wg sync.WaitGroup
				for i := range hosts {
					call := func() {
						if err := getOnce(t.Context(), tr, host(i)); err != nil {
							t.Errorf("host %d: %v", i, err)
						}
					}
					if row.atOnce {
						wg.Go(call)
					} else {
						call()
					}
				}
				wg.Wait()
				time.Sleep(time.Second)
				// A connection that is being closed may still be counted, and the Transport looks
				// for idle connections only every 10 ms.
				if n := w.most.Load(); n > row.most+row.slack+2 {
					t.Errorf("%d connections at once, want at most %d", n, row.most)
				}
				if n := w.open.Load(); n != row.idle {
					t.Errorf("%d connections at the end, want %d", n, row.idle)
				}
				if w.done.Load() != int64(hosts) || w.dials.Load() != int64(hosts) {
					t.Errorf("%d requests were served on %d connections", w.done.Load(), w.dials.Load())
				}
			})
		})
	}
}

// A connection that was made for a request is not idle before the request has used it. The test
// cannot choose the moment between, so that it tries often.
func TestNewConnectionIsNotIdleBeforeItsRequest(t *testing.T) {
	for range 500 {
		synctest.Test(t, func(t *testing.T) {
			w := &town{t: t}
			tr := w.transport(func(*hyper.Transport) {})
			done := make(chan struct{})
			for range 3 {
				go func() {
					for range 1000 {
						tr.CloseIdleConnections()
						runtime.Gosched()
					}
				}()
			}
			go func() {
				defer close(done)
				if err := getOnce(t.Context(), tr, "a.example.com"); err != nil {
					t.Error(err)
				}
			}()
			<-done
			if n := w.dials.Load(); n != 1 {
				t.Errorf("%d connections were made for one request", n)
			}
		})
		if t.Failed() {
			break
		}
	}
}

func TestRequestWaitsForMaxConnsUnderItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &town{t: t, takes: time.Minute}
		tr := w.transport(func(tr *hyper.Transport) { tr.MaxConns = 1 })
		busy := h2test.Go(func() (struct{}, error) {
			return struct{}{},
				getOnce(t.Context(), tr, "a.example.com")
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err := getOnce(ctx, tr, "b.example.com")
		var ne net.Error
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("the error is %v", err)
		}
		want := "hyper: waiting for one of Transport.MaxConns 1 connections: context deadline exceeded"
		if err.Error() != want {
			t.Errorf("the error is %q, want %q", err, want)
		}
		busy.Want(t, "the request before")
		if err := getOnce(t.Context(), tr, "c.example.com"); err != nil {
			t.Error(err)
		}
		if n := w.most.Load(); n > 2 { // one may still be closing
			t.Errorf("%d connections at once", n)
		}
	})
}

// Hosts whose connections always have streams do not keep other hosts from getting a connection.
func TestTrafficOfSomeHostsDoesNotStarveOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hosts, most = 8, 2
		w := &town{t: t, takes: 10 * time.Millisecond}
		tr := w.transport(func(tr *hyper.Transport) { tr.MaxConns = most })
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var served [hosts]atomic.Int64
		var wg sync.WaitGroup
		for i := range hosts {
			for range 5 {
				wg.Go(func() {
					for ctx.Err() == nil {
						if err := getOnce(t.Context(), tr, fmt.Sprintf("h%d.example.com", i)); err != nil {
							t.Error(err)
							return
						}
						served[i].Add(1)
					}
				})
			}
		}
		wg.Wait()
		for i := range served {
			if n := served[i].Load(); n < 100 {
				t.Errorf("host %d was served %d times", i, n)
			}
		}
		if n := w.most.Load(); n > 2*most { // some may still be closing
			t.Errorf("%d connections at once", n)
		}
	})
}

// A host that needs more connections than MaxConns allows takes none from hosts that have as few as
// it has.
func TestHostsThatAreEquallyWellOffKeepTheirConnections(t *testing.T) {
	for _, hosts := range []int{1, 3} {
		t.Run(fmt.Sprint(hosts), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &town{t: t, takes: 150 * time.Millisecond, limit: 10}
				tr := w.transport(func(tr *hyper.Transport) { tr.MaxConns = hosts })
				var wg sync.WaitGroup
				for i := range 500 * hosts {
					wg.Go(func() {
						if err := getOnce(t.Context(), tr, fmt.Sprintf("h%d.example.com", i%hosts)); err !=
							nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				if n := w.dials.Load(); n > int64(6*hosts) {
					t.Errorf("%d connections were made for %d hosts", n, hosts)
				}
			})
		})
	}
}

// A draining connection that still has a stream does not count: another request gets a new
// connection.
func TestDrainingConnectionsAreNotCountedInMaxConns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := visitDoor(t, door{name: "Transport", cleartext: true, enter: transportDoor}, hyper.Config{})
		v.rt.(*hyper.Transport).MaxConns = 1
		long := v.get("/long")
		one := v.accept()
		one.WantHeaders("the long one", 1)
		one.WriteGoAway(1, wire.NoError, "")
		synctest.Wait()
		next := v.get("/next")
		two := v.accept()
		two.WantHeaders("on a new connection", 1)
		two.WriteHeaders(1, wire.EndStream, ":status: 204")
		next.Want(t, "the next one")
		one.WriteHeaders(1, wire.EndStream, ":status: 204")
		long.Want(t, "the long one")
	})
}

// The count stays correct when requests end while they wait and when connections cannot be made.
func TestMaxConnsCountsRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &town{t: t, takes: 20 * time.Millisecond}
		var n atomic.Int64
		tr := w.transport(func(tr *hyper.Transport) {
			tr.MaxConns = 3
			tr.Config.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				switch n.Add(1) % 5 {
				case 0:
					return nil, errors.New("refused")
				case 1:
					time.Sleep(50 * time.Millisecond)
				}
				return w.dial(ctx, network, addr)
			}
		})
		var wg sync.WaitGroup
		for i := range 400 {
			wg.Go(func() {
				time.Sleep(time.Duration(i%50) * time.Millisecond)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+i*7%300)*time.Millisecond)
				defer cancel()
				getOnce(ctx, tr, fmt.Sprintf("h%d.example.com", i%20))
			})
		}
		wg.Wait()
		time.Sleep(10 * time.Second)
		if n := w.most.Load(); n > 4 {
			t.Errorf("%d connections at once", n)
		}
		failed := 0
		for i := range 60 { // each host can get a connection because the others are idle
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if err := getOnce(ctx, tr, fmt.Sprintf("late%d.example.com", i)); err != nil {
				failed++
				if ctx.Err() != nil {
					t.Errorf("request %d: %v", i, err)
				}
			}
			cancel()
		}
		if failed > 12 {
			t.Errorf("%d requests failed", failed)
		}
	})
}

// A connection may be made after the requests of its host have failed. Such a connection is idle
// like any other: it can be closed to make room.
func TestConnectionThatComesLateIsCountedInMaxConns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &town{t: t, takes: time.Millisecond}
		var n atomic.Int64
		tr := w.transport(func(tr *hyper.Transport) {
			tr.MaxConns, tr.IdleConnTimeout = 2, -1
			tr.Config.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				switch {
				case addr != "a.example.com:80":
				case n.Add(1) == 1:
					time.Sleep(1500 * time.Millisecond)
					return nil, errors.New("refused")
				default: // the second attempt ignores its context
					time.Sleep(550 * time.Millisecond)
				}
				return w.dial(ctx, network, addr)
			}
		})
		if err := getOnce(t.Context(), tr, "a.example.com"); err == nil {
			t.Error("the first attempt did not fail the request")
		}
		time.Sleep(time.Second)
		if n := w.open.Load(); n != 1 {
			t.Fatalf("%d connections", n)
		}
		for _, host := range []string{"b.example.com", "c.example.com", "d.example.com"} {
			if err := getOnce(t.Context(), tr, host); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			if n := w.open.Load(); n > 2 {
				t.Errorf("%d connections", n)
			}
		}
		tr.CloseIdleConnections()
		synctest.Wait()
		if n := w.open.Load(); n > 0 {
			t.Errorf("%d connections are left", n)
		}
	})
}

// MinConnsPerHost makes no connections that MaxIdleConns would close at once.
func TestSpareConnectionsStayWithinMaxIdleConns(t *testing.T) {
	for _, row := range []struct{ hosts, least, idle int }{{50, 4, 0}, {1, 8, 4}, {10, 3, 1}} {
		t.Run(fmt.Sprint(row), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &town{t: t, takes: time.Millisecond}
				tr := w.transport(func(tr *hyper.Transport) {
					tr.MinConnsPerHost, tr.MaxIdleConns = row.least,
						row.idle
				})
				get := func() {
					for i := range row.hosts {
						if err := getOnce(t.Context(), tr, fmt.Sprintf("h%d.example.com", i)); err != nil {
							t.Error(err)
						}
						time.Sleep(20 * time.Millisecond)
					}
				}
				for range 3 {
					get()
				}
				before := w.dials.Load()
				get()
				if n := w.dials.Load() - before; n > int64(2*row.hosts) || row.idle != 1 && n > 5 {
					t.Errorf("%d more connections for %d requests", n, row.hosts)
				}
			})
		})
	}
}
