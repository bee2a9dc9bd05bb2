package hypertest

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// Each event of a connection that a pool ends has a reason.
func TestEventsHaveTheReasonOfTheEnd(t *testing.T) {
	lives := map[string]struct {
		set  func(tr *http.Transport, own *hyper.Transport)
		live func(p *watchedPool)
		want []string
	}{
		"idle": {
			set: func(tr *http.Transport, own *hyper.Transport) {
				tr.IdleConnTimeout, own.IdleConnTimeout = time.Minute, time.Minute
			},
			live: func(p *watchedPool) {
				peer, calls := p.first(1)
				p.answer(peer, 1, calls[0])
				peer.Ignore(wire.Ping)
				peer.AutoPing()
				time.Sleep(time.Minute)
			},
			want: []string{"opened", "closed idle: connection closed"},
		},
		"request": {
			live: func(p *watchedPool) {
				req := p.request("GET", "/", nil)
				req.Close = true
				call := p.send(req)
				peer := p.accept()
				peer.WantHeaders("the request", 1)
				synctest.Wait()
				p.answer(peer, 1, call)
			},
			want: []string{"opened", "draining request", "closed request: connection closed"},
		},
		"refused": {
			live: func(p *watchedPool) {
				peer, calls := p.first(1)
				peer.WriteRSTStream(1, wire.RefusedStream)
				peer.WantHeaders("again", 3)
				peer.WriteRSTStream(3, wire.RefusedStream)
				peer = p.accept()
				peer.WantHeaders("again", 1)
				p.answer(peer, 1, calls[0])
			},
			want: []string{"opened", "closed refused: connection closed", "opened"},
		},
		"lost": {
			live: func(p *watchedPool) {
				peer, calls := p.first(1)
				peer.Close()
				calls[0].WantErr(p.t, "the connection is lost")
			},
			want: []string{
				"opened",
				"closed lost: connection to example.com (192.0.2.2:443): peer closed the connection: " +
					"unexpected EOF",
			},
		},
		"close idle of a connection in use": {
			live: func(p *watchedPool) {
				peer, calls := p.first(1)
				if p.viaNetHTTP() { // see ConfigureTransport for the difference
					p.closeIdle()
				} else {
					go p.pool.Conns()[0].Conn.Shutdown(context.Background())
					synctest.Wait()
				}
				p.answer(peer, 1, calls[0])
			},
		},
	}
	for name, life := range lives {
		t.Run(name, func(t *testing.T) {
			eachPool(t, hyper.Config{}, func(t *testing.T, p *watchedPool) {
				if life.set != nil {
					p.change(life.set)
				}
				life.live(p)
				want := life.want
				switch {
				case want != nil:
				case p.viaNetHTTP():
					want = []string{"opened", "draining close_idle", "closed close_idle: connection closed"}
				default:
					want = []string{"opened", "draining closed", "closed closed: connection closed"}
				}
				p.wantEvents(name, want...)
			})
		})
	}
}

// change calls f with the door's transport, before it is used. The other argument is a new value
// that has no effect.
func (p *watchedPool) change(f func(tr *http.Transport, own *hyper.Transport)) {
	switch tr := p.rt.(type) {
	case *hyper.Transport:
		f(&http.Transport{}, tr)
	case *http.Transport:
		f(tr, &hyper.Transport{})
	}
}

// MaxConnAge ends a connection of a Transport. MaxIdleConnsPerHost closes one of an http.Transport.
func TestEventsOfMaxConnAgeAndMaxIdleConns(t *testing.T) {
	eachPool(t, hyper.Config{}, func(t *testing.T, p *watchedPool) {
		p.change(func(tr *http.Transport, own *hyper.Transport) {
			tr.MaxIdleConnsPerHost, own.MaxConnAge = -1, time.Minute
		})
		peer, calls := p.first(1)
		peer.AutoPing()
		if p.viaNetHTTP() {
			p.answer(peer, 1, calls[0])
			p.wantEvents("none may be idle", "opened", "closed surplus: connection closed")
			return
		}
		time.Sleep(time.Minute)
		second := p.get("/second")
		peer2 := p.accept()
		p.wantEvents("it has its age", "opened", "draining age", "opened")
		p.answer(peer, 1, calls[0])
		p.answer(peer2, 1, second)
		p.wantEvents("it has ended", "opened", "draining age", "closed age: connection closed", "opened")
	})
}

// A connection may be used and shut down as soon as Conns returns it. The race detector checks
// that.
func TestConnsHasTheConnectionsThatOnConnReports(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var mu sync.Mutex
	told := make(map[*hyper.Conn]hyper.ConnEventKind)
	cfg := &hyper.Config{DialContext: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		time.AfterFunc(time.Millisecond, func() { server.Close() })
		return client, nil
	}}
	tr := &hyper.Transport{Proxy: hyper.NoProxy, UnencryptedHTTP2: true, DisableKeepAlives: true, Config: cfg}
	tr.OnConn = func(e hyper.ConnEvent) {
		mu.Lock()
		defer mu.Unlock()
		if e.Kind <= told[e.Conn] {
			t.Errorf("%v after %v", e.Kind, told[e.Conn])
		}
		told[e.Conn] = e.Kind
	}
	go func() {
		for ctx.Err() == nil {
			for _, c := range tr.Conns() {
				if _, err := c.Conn.Open(ctx, &hyper.Request{}); err == nil {
					go c.Conn.Shutdown(ctx)
				}
			}
		}
	}()
	for ctx.Err() == nil {
		short, cancel := context.WithTimeout(ctx, 3*time.Millisecond)
		req, err := http.NewRequestWithContext(short, "GET", "http://example.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tr.RoundTrip(req); err == nil {
			t.Error("there is no server")
		}
		cancel()
	}
	tr.CloseIdleConnections()
}
