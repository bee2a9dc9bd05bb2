package hyper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/pool"
	"gohyper.dev/hyper/internal/wire"
)

// answer takes the request on stream 1 of the next connection and responds to it.
func (f *farm) answer(reason string) *h2test.Peer {
	f.t.Helper()
	peer := f.peer(reason)
	peer.WantHeaders(reason, 1)
	h2test.AnswerEmpty(peer, 1)
	return peer
}

// answered makes a request, which must be on that stream of peer, and responds to it.
func (f *farm) answered(peer *h2test.Peer, stream uint32) {
	f.t.Helper()
	c := f.get("/")
	peer.WantHeaders("a request", stream)
	h2test.AnswerEmpty(peer, stream)
	c.wantStatus("its answer", 204)
}

// firstPeer makes the first connection and completes one request on it.
func (f *farm) firstPeer(settings ...wire.Setting) *h2test.Peer {
	f.t.Helper()
	c := f.get("/")
	peer := f.peer("the first", settings...)
	peer.WantHeaders("the first request", 1)
	h2test.AnswerEmpty(peer, 1)
	c.wantStatus("the first request", 204)
	return peer
}

func TestEmptyHostsAreForgotten(t *testing.T) {
	hosts := func(tr *Transport) int {
		synctest.Wait()
		return tr.hosts.Len()
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		f.serveAll(func(peer *h2test.Peer, stream uint32,
			_ h2test.Headers) {
			h2test.AnswerEmpty(peer, stream)
		})
		visit := func(url string) {
			req, err := http.NewRequest("GET", url, nil)
			if err != nil {
				t.Fatal(err)
			}
			<-f.do(req).Done
		}
		for i := range 100 {
			visit(fmt.Sprintf("http://host%d.example.com/", i))
		}
		if n := hosts(f.tr); n != 100 {
			t.Errorf("%d hosts have connections, want 100", n)
		}
		f.tr.CloseIdleConnections()
		if n := hosts(f.tr); n != 0 {
			t.Errorf("%d hosts are kept without connections", n)
		}
		for i := range 100 {
			visit(fmt.Sprintf("http://host%d.example.com/", i))
		}
		time.Sleep(defaultIdleTimeout)
		if n := hosts(f.tr); n != 0 {
			t.Errorf("%d hosts are kept after their connections", n)
		}
		f.refer = func(context.Context, string) error { return errors.New("no such host") }
		for i := range 100 {
			visit(fmt.Sprintf("http://host%d.example.com/", i))
		}
		if n := hosts(f.tr); n != 0 {
			t.Errorf("%d hosts are kept that cannot be reached", n)
		}
	})
}

func TestHostsThatFailAreRememberedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		f.serveAll(func(peer *h2test.Peer, stream uint32,
			_ h2test.Headers) {
			peer.WriteGoAway(0, wire.NoError, "")
		})
		f.get("/").wantErr("it turns every request away", nil)
		f.host() // its pause before the next dial is not over
		time.Sleep(pool.MaxDialPause)
		synctest.Wait()
		if n := f.tr.hosts.Len(); n != 0 {
			t.Errorf("%d hosts are kept", n)
		}
	})
}

// A farm provides a Transport's connections in these tests. Each connection has a scripted peer of
// its own. Use it inside synctest.Test.
type farm struct {
	t  *testing.T
	tr *Transport
	// refer runs before each dial, which fails with its error. It may be nil.
	refer func(ctx context.Context, addr string) error

	dialled chan *h2test.Peer
	closed  chan struct{}
	dials   atomic.Int64
}

// newFarm completes tr, which uses cleartext HTTP/2 in these tests.
func newFarm(t *testing.T, tr *Transport) *farm {
	t.Helper()
	f := &farm{t: t, tr: tr, dialled: make(chan *h2test.Peer, 1000), closed: make(chan struct{})}
	cfg := Config{}
	if tr.Config != nil {
		cfg = *tr.Config
	}
	cfg.DialContext = f.dial
	tr.Config, tr.Proxy, tr.UnencryptedHTTP2 = &cfg, NoProxy, true
	t.Cleanup(func() {
		time.Sleep(time.Minute) // requests that lost their peer are sent again and fail
		checkPool(t, tr)
	})
	return f
}

func (f *farm) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	f.dials.Add(1)
	if f.refer != nil {
		if err := f.refer(ctx, addr); err != nil {
			return nil, err
		}
	}
	select {
	case <-f.closed:
		return nil, net.ErrClosed
	default:
	}
	client, server := h2test.Pipe()
	peer := h2test.NewPeer(f.t, server)
	peer.AutoPing()
	f.t.Cleanup(func() { // runs before the peer's cleanup
		select {
		case <-f.closed:
		default:
			close(f.closed)
		}
	})
	f.dialled <- peer
	return client, nil
}

// peer returns the peer of the next connection, after the handshake.
func (f *farm) peer(reason string, settings ...wire.Setting) *h2test.Peer {
	f.t.Helper()
	peer := f.silentPeer(reason)
	peer.Handshake(settings...)
	return peer
}

// silentPeer returns the peer of the next connection, before the handshake.
func (f *farm) silentPeer(reason string) *h2test.Peer {
	f.t.Helper()
	synctest.Wait()
	select {
	case peer := <-f.dialled:
		return peer
	default:
		f.t.Fatalf("%s: no connection was made", reason)
		return nil
	}
}

// wantDials checks the number of all attempts to connect.
func (f *farm) wantDials(reason string, n int) {
	f.t.Helper()
	synctest.Wait()
	if f.dials.Load() != int64(n) {
		f.t.Fatalf("%s: %d dials, want %d", reason, f.dials.Load(), n)
	}
}

// host returns the Transport's host for http://example.com.
func (f *farm) host() *host {
	f.t.Helper()
	for _, h := range f.tr.allHosts() {
		if h.key == (hostKey{target: target{"http", "example.com", "80"}}) {
			return h
		}
	}
	f.t.Fatal("the host is not known")
	return nil
}

// checkPool checks the accounts of tr against its connections: each slot belongs to an open stream,
// or to one that was reset. The connections of all hosts are those that are counted as open.
func checkPool(t *testing.T, tr *Transport) {
	t.Helper()
	synctest.Wait()
	if counted, open := tr.bound.Open(), len(tr.allConns()); counted != open {
		t.Errorf("%d connections are counted as open, but there are %d", counted, open)
	}
	for _, h := range tr.allHosts() {
		key, users := h.key, tr.hosts.Users(h)
		h.mu.Lock()
		if users < 0 {
			t.Errorf("%v: %d users", key, users)
		}
		if users == 0 && !h.Queue.Empty() {
			t.Errorf("%v: %d wait, and no attempt is made", key, h.Queue.Len())
		}
		for _, p := range h.Conns.All() {
			c := p.Conn
			c.lock()
			held := 0
			for _, m := range c.slots.reset {
				if m.held {
					held++
				}
			}
			if used, open := c.slots.used, len(c.streams.byID); c.ending.err == nil && used != open+held {
				t.Errorf("%v: %d slots are taken by %d streams and %d that were reset", key, used, open, held)
			}
			c.unlock()
		}
		h.mu.Unlock()
	}
}

func (f *farm) do(req *http.Request) *call {
	return &call{h2test.Go(func() (*http.Response, error) { return f.tr.RoundTrip(req) }), f.t}
}

func (f *farm) get(path string) *call { return f.do(f.request(context.Background(), "GET", path, nil)) }

func (f *farm) request(ctx context.Context, method, path string, body io.Reader) *http.Request {
	f.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, "http://example.com"+path, body)
	if err != nil {
		f.t.Fatal(err)
	}
	return req
}

// serveAll plays the same server on every connection.
func (f *farm) serveAll(answer func(peer *h2test.Peer, stream uint32, h h2test.Headers),
	settings ...wire.Setting) {
	go func() {
		for {
			select {
			case peer := <-f.dialled:
				peer.Serve(func(stream uint32, h h2test.Headers) { answer(peer, stream, h) }, settings...)
			case <-f.closed:
				return
			}
		}
	}()
}

func TestBurstOnAColdHostMakesOneDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		dialling := make(chan struct{})
		f.refer = func(context.Context, string) error { <-dialling; return nil }
		calls := make([]*call, 1000)
		for i := range calls {
			calls[i] = f.get("/")
		}
		f.wantDials("all wait for the same one", 1)
		close(dialling)
		f.serveAll(func(peer *h2test.Peer, stream uint32,
			_ h2test.Headers) {
			h2test.AnswerEmpty(peer, stream)
		},
			h2test.AtMost(1000))
		for _, c := range calls {
			c.wantStatus("each is answered", 204)
		}
		f.wantDials("it took all of them", 1)
	})
}

func TestBurstMakesAsManyConnectionsAsThePeersLimitRequires(t *testing.T) {
	for _, test := range []struct{ most, limit, conns int }{
		{0, 250, 4}, // 1,000 requests are four times 250
		{0, 100, 8}, // ten would be needed; eight is the most
		{3, 250, 3},
		{1, 100, 1},
		{-1, 100, 10}, // no limit
	} {
		t.Run(fmt.Sprintf("at most %d of %d streams", test.most, test.limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFarm(t, &Transport{MaxConnsPerHost: test.most})
				calls := make([]*call, 1000)
				for i := range calls {
					calls[i] = f.get("/")
				}
				f.wantDials("a cold host", 1)
				var mu sync.Mutex // guards the variables below and the peers' compression
				var held []func()
				released := false
				f.serveAll(func(peer *h2test.Peer, stream uint32, _ h2test.Headers) {
					mu.Lock()
					defer mu.Unlock()
					if released {
						h2test.AnswerEmpty(peer, stream)
					} else {
						held = append(held, func() { h2test.AnswerEmpty(peer, stream) })
					}
				}, h2test.AtMost(uint32(test.limit)))
				f.wantDials("for the streams that the first has no room for", test.conns)
				mu.Lock()
				if want := min(1000, test.conns*test.limit); len(held) != want {
					t.Errorf("%d requests are open, want %d", len(held), want)
				}
				for _, answer := range held {
					answer()
				}
				released = true
				mu.Unlock()
				for _, c := range calls {
					c.wantStatus("each is answered, in its turn", 204)
				}
				f.wantDials("and no more", test.conns)
			})
		})
	}
}

func TestSecondConnectionIsNotMadeBeforeTheLimitOfTheFirstIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		for range 150 {
			f.get("/")
		}
		first := f.silentPeer("the first")
		first.Ignore(wire.WindowUpdate)
		first.WantPreface("the client speaks first")
		f.wantDials("RFC 9113 §6.5.2: SETTINGS may raise the limit", 1)
		first.WriteSettings(h2test.AtMost(100)) // and the peer did not raise it
		f.wantDials("no room for 50", 2)
	})
}

func TestConnectionIsReused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		call := f.get("/0")
		peer := f.peer("the first request")
		for i := range 5 {
			id := uint32(2*i + 1)
			peer.WantHeaders("on the same connection", id, fmt.Sprint(":path: /", i),
				":authority: example.com", ":scheme: http")
			h2test.AnswerEmpty(peer, id)
			call.wantStatus("a request", 204)
			call = f.get(fmt.Sprint("/", i+1))
		}
		f.wantDials("and on no other", 1)
	})
}

func TestHostsDoNotShareConnections(t *testing.T) {
	// RFC 9113 §9.1.1 allows hosts to share a connection if its certificate covers both. Without
	// Transport.Coalesce, hyper does not use this, so no response is 421 because of it.
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		var addrs []string
		f.refer = func(_ context.Context, addr string) error { addrs = append(addrs, addr); return nil }
		for i, url := range []string{"http://a.example.com/", "http://b.example.com/",
			"http://a.example.com:8080/", "http://[2001:db8::1]/"} {
			req, _ := http.NewRequest("GET", url, nil)
			c := f.do(req)
			peer := f.peer("a connection for each")
			peer.WantHeaders("its first request", 1, ":authority: "+req.URL.Host)
			h2test.AnswerEmpty(peer, 1)
			c.wantStatus(url, 204)
			f.wantDials("one each", i+1)
		}
		if got := strings.Join(addrs, " "); got !=
			"a.example.com:80 b.example.com:80 a.example.com:8080 [2001:db8::1]:80" {
			t.Errorf("dialled %s", got)
		}
	})
}

func TestFirstFreeSlotServesTheOldestRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{MaxConnsPerHost: 2})
		f.get("/one")
		one := f.peer("the first", h2test.AtMost(1))
		one.WantHeaders("one fits", 1, ":path: /one")
		f.get("/two")
		two := f.peer("the first is full", h2test.AtMost(1))
		two.WantHeaders("one fits", 1, ":path: /two")
		var waiting []*call
		for i := range 4 {
			waiting = append(waiting, f.get(fmt.Sprint("/waits/", i)))
			synctest.Wait()
		}
		f.wantDials("two are the most", 2)
		// The second connection is the first to have a free slot, and has one twice more.
		for i := range 3 {
			h2test.AnswerEmpty(two, uint32(2*i+1))
			two.WantHeaders("in turn", uint32(2*i+3), fmt.Sprint(":path: /waits/", i))
			one.WantIdle("its slot is taken")
		}
		h2test.AnswerEmpty(one, 1)
		one.WantHeaders("the last of those that wait", 3, ":path: /waits/3")
		h2test.AnswerEmpty(one, 3)
		h2test.AnswerEmpty(two, 7)
		for _, c := range waiting {
			c.wantStatus("each is served once", 204)
		}
	})
}

func TestNewRequestsDoNotOvertakeWaitingOnesOfTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{MaxConnsPerHost: 1})
		f.get("/0")
		peer := f.peer("the only one", h2test.AtMost(1))
		peer.WantHeaders("one fits", 1)
		for i := 1; i < 20; i++ {
			f.get(fmt.Sprint("/", i))
			if i == 1 {
				synctest.Wait()
			}
			// This is perhaps before, and perhaps after, the new request has looked for a slot.
			h2test.AnswerEmpty(peer, uint32(2*i-1))
			peer.WantHeaders("in turn", uint32(2*i+1), fmt.Sprint(":path: /", i))
		}
		f.wantDials("it waits in turn", 1)
	})
}

func TestLeastLoadedConnectionIsUsedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		f.get("/")
		one := f.peer("the first", h2test.AtMost(2))
		one.WantHeaders("two fit", 1)
		f.get("/")
		one.WantHeaders("two fit", 3)
		f.get("/")
		two := f.peer("for the third", h2test.AtMost(2))
		two.WantHeaders("the third", 1)
		f.get("/")
		two.WantHeaders("there is room", 3)
		h2test.AnswerEmpty(one, 1)
		h2test.AnswerEmpty(one, 3)
		h2test.AnswerEmpty(two, 1)
		synctest.Wait()
		f.get("/")
		one.WantHeaders("0 streams, and 1 there", 5)
		f.get("/")
		f.get("/")
		one.WantHeaders("one each", 7)
		two.WantHeaders("one each", 5)
	})
}

func TestConnectionWithAnotherLimitIsFoundBehindAFullOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{MaxConnsPerHost: 2})
		f.get("/")
		one := f.peer("the first", h2test.AtMost(1))
		one.WantHeaders("one fits", 1)
		for i := range 3 {
			f.get("/")
			if i == 0 {
				two := f.peer("the first is full", h2test.AtMost(4))
				defer func() {
					for i := range 3 {
						two.WantHeaders("more loaded, but with room", uint32(2*i+1))
					}
				}()
			}
			synctest.Wait()
		}
	})
}

func TestRaisedLimitServesWaitingRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{MaxConnsPerHost: 1})
		f.get("/0")
		peer := f.peer("the only one", h2test.AtMost(1))
		peer.WantHeaders("one fits", 1)
		for i := range 4 {
			f.get(fmt.Sprint("/", i+1))
			synctest.Wait()
		}
		peer.WriteSettings(h2test.AtMost(3))
		peer.WantSettingsAck("of the new limit")
		served := map[string]bool{} // they are served together and run in any order
		for i := range 2 {
			served[peer.WantHeaders("two more fit", uint32(2*i+3)).Get(":path")] = true
		}
		if !served["/1"] || !served["/2"] {
			t.Errorf("served before those that came first: %v", served)
		}
		peer.WantIdle("two still wait")
	})
}

func TestLoweredLimitCausesAnotherConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		for range 3 {
			f.get("/")
		}
		one := f.peer("the first", h2test.AtMost(10))
		for i := range 3 {
			one.WantHeaders("they fit", uint32(2*i+1))
		}
		one.WriteSettings(h2test.AtMost(2))
		one.WantSettingsAck("of the new limit")
		f.get("/")
		two := f.peer("three are open where two may be", h2test.AtMost(2))
		two.WantHeaders("on the new one", 1)
		h2test.AnswerEmpty(one, 1)
		one.WantIdle("two are open, and may be")
	})
}

func TestLimitThatComesBehindReservationsIsObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{MaxConnsPerHost: 1})
		first := f.get("/")
		peer := f.peer("the only one", h2test.AtMost(2))
		peer.WantHeaders("one of two", 1)
		// A request that has a slot and has not opened its stream.
		c, err := f.host().conn(t.Context(), nil, new(uint64))
		if err != nil {
			t.Fatal(err)
		}
		peer.WriteSettings(h2test.AtMost(1))
		peer.WantSettingsAck("of the new limit")
		err = c.openStream(t.Context(), &Stream{}, opening{req: &Request{}, slot: haveSlot})
		if err != errNoSlot {
			t.Errorf("it is opened beyond the limit: %v", err)
		}
		peer.WantIdle("nothing was sent")
		h2test.AnswerEmpty(peer, 1)
		first.wantStatus("the other", 204)
	})
}

func TestSlotOfACancelledStreamIsAskedFor(t *testing.T) {
	// The peer counts a stream until it has seen our RST_STREAM. If a request waits, a PING finds
	// out when the peer has seen it.
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{MaxConnsPerHost: 1})
		ctx, cancel := context.WithCancel(t.Context())
		cancelled := f.do(f.request(ctx, "GET", "/", nil))
		peer := f.peer("the only one", h2test.AtMost(1))
		peer.WantHeaders("one fits", 1)
		cancel()
		cancelled.wantErr("its context ended", context.Canceled)
		peer.WantRSTStream("so it is reset", 1, wire.Cancel)
		synctest.Wait()
		start := time.Now()
		f.get("/next")
		peer.WantHeaders("once the PING is answered", 3, ":path: /next")
		if waited := time.Since(start); waited > 0 {
			t.Errorf("the slot was free after %v", waited)
		}
	})
}

func TestSlotFreedByTheEndOfAnUploadIsUsed(t *testing.T) {
	// The response is complete before the request. The stream ends in the goroutine that writes.
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{MaxConnsPerHost: 1})
		first := f.get("/")
		peer := f.peer("the only one", h2test.AtMost(1),
			wire.Setting{ID: wire.SettingInitialWindowSize, Value: 0})
		peer.WantHeaders("one fits", 1)
		h2test.AnswerEmpty(peer, 1)
		first.wantStatus("the first", 204)
		post := f.do(f.request(t.Context(), "POST", "/", strings.NewReader("0123456789")))
		peer.WantHeaders("without its body", 3)
		peer.WriteHeaders(3, wire.EndStream, ":status: 200")
		post.wantStatus("early", 200)
		f.get("/next")
		peer.WantIdle("no window, no slot")
		start := time.Now()
		peer.WriteWindowUpdate(3, 10)
		peer.WantData("the window is there", 3, wire.EndStream, 10)
		peer.WantHeaders("the stream has ended", 5, ":path: /next")
		if waited := time.Since(start); waited > 0 {
			t.Errorf("the slot was found free after %v", waited)
		}
	})
}

func TestUsedUpStreamIdentifiersMakeANewConnection(t *testing.T) {
	// RFC 9113 §5.1.1: a client that has used up its identifiers can establish a new connection.
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		first := f.get("/")
		one := f.peer("the first")
		one.WantHeaders("its first request", 1)
		h2test.AnswerEmpty(one, 1)
		first.wantStatus("the first", 204)
		c := f.host().Conns.All()[0].Conn
		c.lock()
		c.streams.nextID = wire.MaxStreamID
		c.unlock()
		last := f.get("/last")
		one.WantHeaders("the last identifier", wire.MaxStreamID)
		next := f.get("/next")
		two := f.peer("there is none left")
		two.WantHeaders("on the next connection", 1, ":path: /next")
		h2test.AnswerEmpty(one, wire.MaxStreamID)
		last.wantStatus("the old one ends in order", 204)
		one.WantGoAway("it is not needed any more", 0, wire.NoError)
		one.WantClosed("so it is closed")
		h2test.AnswerEmpty(two, 1)
		next.wantStatus("the next", 204)
	})
}

// plainHost returns what urlHost and url.URL.Port return, or nothing.
func TestPlainHostIsTheHostOfTheURL(t *testing.T) {
	for host, want := range map[string]bool{"example.com": true, "example.com:8443": true, "a": true,
		"127.0.0.1": true, "127.0.0.1:80": true, "_a-b.c:": true, "": false, ":80": false,
		"Example.com": false, "[::1]": false, "[::1%eth0]:80": false, "::1": false, "bücher.example": false,
		"a:b": false, "a:80:80": false, "a b": false, "a%41": false, "a@b": false, "a/b": false,
		"a:-1": false, "a:+1": false} {
		u := &url.URL{Scheme: "https", Host: host}
		name, port, ok := plainHost(host)
		if ok != want {
			t.Errorf("%q: %v", host, ok)
		}
		if !ok {
			continue
		}
		if same, err := urlHost(u); err != nil || name != same || port != u.Port() {
			t.Errorf("%q: %q and %q, want %q (%v) and %q", host, name, port, same, err, u.Port())
		}
	}
}
