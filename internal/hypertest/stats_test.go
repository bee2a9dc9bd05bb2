package hypertest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A watchedPool is a door with a pool of connections, together with the events that it reports.
type watchedPool struct {
	*visit
	pool interface {
		Stats() hyper.TransportStats
		Conns() []hyper.ConnInfo
	}
	mu     sync.Mutex
	events []hyper.ConnEvent

	dialErr  error             // the error of dialing; nil: dialing succeeds
	breakTLS func(nc net.Conn) // gets the server's end instead of a scripted peer
	hold     chan struct{}     // dialing waits until it is closed; nil: it does not wait
}

// eachPool runs test for each door that has a pool.
func eachPool(t *testing.T, cfg hyper.Config, test func(t *testing.T, p *watchedPool)) {
	t.Helper()
	for _, d := range doors {
		if !strings.Contains(d.name, "Transport") {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &watchedPool{visit: &visit{door: d, t: t, peers: make(chan *accepted, 100)}}
				p.watch(cfg)
				test(t, p)
			})
		})
	}
}

// watch enters the door and records its events.
func (p *watchedPool) watch(cfg hyper.Config) {
	monitor := &hyper.Monitor{OnConn: p.record}
	cfg.Monitor = monitor
	p.rt = p.enter(p.t, p.dialOrFail, cfg)
	p.pool = monitor
	if tr, ok := p.rt.(*hyper.Transport); ok {
		tr.OnConn = p.record
		p.pool = tr
	}
}

// dialOrFail is dial, with the faults that the test has set.
func (p *watchedPool) dialOrFail(ctx context.Context, network, addr string) (net.Conn, error) {
	if p.hold != nil {
		<-p.hold
	}
	switch {
	case p.dialErr != nil:
		return nil, p.dialErr
	case p.breakTLS != nil:
		client, server := h2test.Pipe()
		go p.breakTLS(server)
		return client, nil
	}
	return p.dial(ctx, network, addr)
}

// record records an event.
func (p *watchedPool) record(e hyper.ConnEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, e)
}

// origin returns the origin of the only host.
func (p *watchedPool) origin() string {
	if p.cleartext {
		return "http://example.com"
	}
	return "https://example.com"
}

// want requires the statistics want, without the byte counts, for the total and for the only host.
func (p *watchedPool) want(when string, want hyper.HostStats) {
	p.t.Helper()
	synctest.Wait()
	s := p.pool.Stats()
	got := s.Total
	if len(s.Hosts) != 1 || s.Hosts[0].Host != p.origin() || s.Hosts[0].Proxy != "" {
		p.t.Fatalf("%s: the hosts are %+v", when, s.Hosts)
	}
	host := s.Hosts[0]
	host.Host = ""
	for _, s := range []*hyper.HostStats{&got, &host} {
		byCode := []*hyper.CodeCounts{&s.ResetsSent, &s.ResetsReceived, &s.GoAwaysSent, &s.GoAwaysReceived}
		for _, counts := range byCode {
			if len(*counts) == 0 {
				*counts = nil
			}
		}
	}
	if !reflect.DeepEqual(got, host) {
		p.t.Errorf("%s: the host has %+v\nthe total is %+v", when, host, got)
	}
	got.BytesSent, got.BytesReceived, got.DataSent, got.DataReceived = 0, 0, 0, 0
	if !reflect.DeepEqual(got, want) {
		p.t.Errorf("%s:\ngot  %+v\nwant %+v", when, got, want)
	}
}

// wantEvents requires these events, grouped by connection. Each is the kind, the reason, and the
// text of the error if there is one.
func (p *watchedPool) wantEvents(when string, want ...string) {
	p.t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	began := func(e hyper.ConnEvent) int {
		return slices.IndexFunc(p.events, func(first hyper.ConnEvent) bool { return first.Conn == e.Conn })
	}
	events := slices.Clone(p.events)
	slices.SortStableFunc(events, func(a, b hyper.ConnEvent) int { return began(a) - began(b) })
	var got []string
	for _, e := range events {
		text := e.Kind.String()
		if e.Reason != 0 {
			text += " " + e.Reason.String()
		}
		if e.Err != nil {
			text += ": " + strings.TrimPrefix(e.Err.Error(), "hyper: ")
		}
		got = append(got, text)
		isFailure := e.Kind == hyper.ConnFailed
		if e.Host != p.origin() || e.Proxy != "" || e.Time.IsZero() || (e.Conn == nil) != isFailure {
			p.t.Errorf("%s: %+v", when, e)
		}
	}
	if !slices.EqualFunc(got, want, strings.HasPrefix) || len(got) != len(want) {
		p.t.Errorf("%s:\ngot  %q\nwant %q", when, got, want)
	}
}

// first makes the first connection and starts n requests on it, which stay open.
func (p *watchedPool) first(n uint32, settings ...wire.Setting) (*accepted, []*httpCall) {
	p.t.Helper()
	var calls []*httpCall
	var peer *accepted
	for i := range n {
		calls = append(calls, p.sendOnce(fmt.Sprintf("/%d", i)))
		if peer == nil {
			peer = p.accept(settings...)
		}
		peer.WantHeaders("a request", 2*i+1)
	}
	return peer, calls
}

// answer responds to the request on stream id and waits for the call.
func (p *watchedPool) answer(peer *accepted, id uint32, call *httpCall) {
	p.t.Helper()
	peer.WriteHeaders(id, wire.EndStream, ":status: 204")
	call.Want(p.t, "the response").Body.Close()
}

// closeIdle closes the idle connections of the door.
func (p *watchedPool) closeIdle() {
	(&http.Client{Transport: p.rt}).CloseIdleConnections()
	synctest.Wait()
}

func TestStatsCountRequestsAndStreams(t *testing.T) {
	eachPool(t, hyper.Config{}, func(t *testing.T, p *watchedPool) {
		s := p.pool.Stats()
		if len(s.Hosts) != 0 || !reflect.DeepEqual(s.Total, hyper.HostStats{}) || len(p.pool.Conns()) != 0 {
			t.Errorf("at the start: %+v", s)
		}
		peer, calls := p.first(3)
		p.want("three requests are on their way", hyper.HostStats{
			ConnsOpen: 1, Dials: 1, ConnsOpened: 1, Requests: 3, StreamsOpen: 3, StreamsOpened: 3,
		})
		for i, call := range calls {
			p.answer(peer, uint32(2*i+1), call)
		}
		p.want("all are answered", hyper.HostStats{
			ConnsOpen: 1, ConnsIdle: 1, Dials: 1, ConnsOpened: 1, Requests: 3, StreamsOpened: 3,
		})
		p.closeIdle()
		p.want("the connection is closed", hyper.HostStats{
			ConnsClosed: 1, Dials: 1, ConnsOpened: 1, Requests: 3, StreamsOpened: 3,
			GoAwaysSent: hyper.CodeCounts{hyper.ErrCodeNo: 1},
		})
		p.wantEvents("its life", "opened", "closed close_idle: connection closed")
	})
}

// The byte counts include connections that have ended.
func TestStatsCountBytes(t *testing.T) {
	eachPool(t, hyper.Config{}, func(t *testing.T, p *watchedPool) {
		var sent, received int64
		for n := int64(1); n <= 2; n++ {
			call := p.send(p.request("POST", "/", strings.NewReader("0123456789")))
			peer := p.accept()
			peer.WantHeaders("the request", 1)
			peer.WantData("its body", 1, wire.EndStream, 10)
			peer.WriteHeaders(1, 0, ":status: 200")
			peer.WriteData(1, wire.EndStream, make([]byte, 1000))
			resp := call.Want(t, "the response")
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			check := func(when string) {
				t.Helper()
				synctest.Wait()
				s := p.pool.Stats().Total
				if s.DataSent != 10*n || s.DataReceived != 1000*n {
					t.Errorf("%s: %d bytes of DATA sent, %d received", when, s.DataSent, s.DataReceived)
				}
				onWire, fromWire := sent+peer.client.OctetsWritten(), received+peer.client.OctetsRead()
				good := s.BytesSent == onWire && s.BytesReceived == fromWire
				if !p.cleartext { // TLS adds bytes
					good = s.BytesSent > 10*n && s.BytesSent < onWire &&
						s.BytesReceived > 1000*n && s.BytesReceived < fromWire
				}
				if !good {
					t.Errorf("%s: %d bytes sent, %d received; on the wire %d and %d",
						when, s.BytesSent, s.BytesReceived, onWire, fromWire)
				}
			}
			check("the connection is idle")
			p.closeIdle()
			check("it is closed")
			sent, received = sent+peer.client.OctetsWritten(), received+peer.client.OctetsRead()
		}
	})
}

func TestStatsCountResetsByCodeAndSide(t *testing.T) {
	eachPool(t, hyper.Config{}, func(t *testing.T, p *watchedPool) {
		ctx, cancel := context.WithCancel(t.Context())
		canceled := []*httpCall{
			p.send(p.request("GET", "/1", nil).WithContext(ctx)),
			p.send(p.request("GET", "/2", nil).WithContext(ctx)),
		}
		peer := p.accept()
		peer.WantFrame("the first", wire.Headers)
		peer.WantFrame("the second", wire.Headers)
		cancel()
		for _, call := range canceled {
			call.WantErr(t, "it is canceled")
		}
		peer.Ignore(wire.RSTStream, wire.Ping, wire.WindowUpdate)
		reset := func(id uint32, f func(id uint32)) {
			call := p.get("/")
			peer.WantHeaders("a request", id)
			f(id)
			call.WantErr(t, "its stream is reset")
		}
		for i := range uint32(3) {
			reset(5+2*i, func(id uint32) { peer.WriteRSTStream(id, wire.InternalError) })
		}
		reset(11, func(id uint32) { peer.WriteRSTStream(id, wire.EnhanceYourCalm) })
		reset(13, func(id uint32) { peer.WriteRSTStream(id, 0xdead) })
		reset(15, func(id uint32) { peer.WriteHeaders(id, wire.EndStream, ":status: none") })
		p.want("all are reset", hyper.HostStats{
			ConnsOpen: 1, ConnsIdle: 1, Dials: 1, ConnsOpened: 1, Requests: 8, StreamsOpened: 8,
			ResetsSent:     hyper.CodeCounts{hyper.ErrCodeCancel: 2, hyper.ErrCodeProtocol: 1},
			ResetsReceived: hyper.CodeCounts{hyper.ErrCodeInternal: 4, hyper.ErrCodeEnhanceYourCalm: 1},
		})
	})
}

func TestStatsCountRetriesByCause(t *testing.T) {
	eachPool(t, hyper.Config{}, func(t *testing.T, p *watchedPool) {
		peer, calls := p.first(1)
		peer.WriteRSTStream(1, wire.RefusedStream)
		peer.WantHeaders("again", 3)
		p.answer(peer, 3, calls[0])
		call := p.get("/")
		peer.WantHeaders("a request", 5)
		peer.WriteRSTStream(5, wire.RefusedStream)
		peer.WantHeaders("again", 7)
		p.answer(peer, 7, call)
		want := hyper.HostStats{
			ConnsOpen: 1, ConnsIdle: 1, Dials: 1, ConnsOpened: 1, Requests: 2, StreamsOpened: 4,
			Retries:        hyper.RetryStats{Refused: 2},
			ResetsReceived: hyper.CodeCounts{hyper.ErrCodeRefusedStream: 2},
		}
		p.want("two were refused", want)

		call = p.get("/")
		peer.WantHeaders("a request", 9)
		peer.WriteGoAway(7, wire.NoError, "")
		peer2 := p.accept()
		peer2.WantHeaders("again", 1)
		p.answer(peer2, 1, call)
		want.Requests, want.Dials, want.ConnsOpened, want.ConnsClosed, want.StreamsOpened = 3, 2, 2, 1, 6
		want.Retries.GoAway, want.GoAwaysReceived = 1, hyper.CodeCounts{hyper.ErrCodeNo: 1}
		p.want("one was above the last stream of a GOAWAY", want)
	})
}

// A request that was not written before its connection was lost is sent on another connection.
func TestStatsCountRetriesOfWhatWasNotSent(t *testing.T) {
	eachPool(t, hyper.Config{}, func(t *testing.T, p *watchedPool) {
		peer, calls := p.first(1)
		peer.client.SetWriteBuffer(0)
		half := p.sendOnce("/half") // may have been written
		synctest.Wait()
		unsent := []*httpCall{p.get("/unsent"), p.get("/unsent")}
		synctest.Wait()
		peer.Close()
		calls[0].WantErr(t, "the connection is lost")
		half.WantErr(t, "the connection is lost")
		peer = p.accept()
		for id := uint32(1); id <= 3; id += 2 {
			peer.WantHeaders("again", id, ":path: /unsent")
			peer.WriteHeaders(id, wire.EndStream, ":status: 204")
		}
		for _, call := range unsent {
			call.Want(t, "the response").Body.Close()
		}
		p.want("two were not sent", hyper.HostStats{
			ConnsOpen: 1, ConnsIdle: 1, Dials: 2, ConnsOpened: 2, ConnsClosed: 1, Requests: 4,
			StreamsOpened: 6,
			Retries:       hyper.RetryStats{Unsent: 2},
		})
		p.wantEvents("two lives", "opened", "closed lost: ", "opened")
	})
}

func TestStatsCountGoAwaysByCodeAndSide(t *testing.T) {
	eachPool(t, hyper.Config{}, func(t *testing.T, p *watchedPool) {
		peer, calls := p.first(1)
		peer.WriteGoAway(1<<31-1, wire.NoError, "")
		peer.WriteGoAway(1, wire.NoError, "")
		p.want("the connection drains", hyper.HostStats{
			ConnsOpen: 1, ConnsDraining: 1, Dials: 1, ConnsOpened: 1, Requests: 1, StreamsOpened: 1,
			StreamsOpen:     1,
			GoAwaysReceived: hyper.CodeCounts{hyper.ErrCodeNo: 2},
			GoAwaysSent:     hyper.CodeCounts{hyper.ErrCodeNo: 1},
		})
		if conns := p.pool.Conns(); len(conns) != 1 || conns[0].State != hyper.StateDraining {
			t.Errorf("%+v", conns)
		}
		p.answer(peer, 1, calls[0])

		call := p.get("/")
		peer = p.accept()
		peer.WantHeaders("a request", 1)
		peer.WriteGoAway(0, wire.EnhanceYourCalm, "slower")
		peer = p.accept()
		peer.WantHeaders("again", 1)
		peer.WriteWindowUpdate(0, 1<<31-1)
		call.WantErr(t, "the peer broke a rule")
		time.Sleep(time.Second) // lets the peer read the GOAWAY
		p.want("all have ended", hyper.HostStats{
			Dials: 3, ConnsOpened: 3, ConnsClosed: 3, Requests: 2, StreamsOpened: 3,
			Retries:         hyper.RetryStats{GoAway: 1},
			GoAwaysReceived: hyper.CodeCounts{hyper.ErrCodeNo: 2, hyper.ErrCodeEnhanceYourCalm: 1},
			GoAwaysSent:     hyper.CodeCounts{hyper.ErrCodeNo: 1, hyper.ErrCodeFlowControl: 1},
		})
		const to = "connection to example.com (192.0.2.2:443): "
		p.wantEvents("three lives",
			"opened", "draining goaway: "+to+"peer sent GOAWAY (last stream 2147483647): NO_ERROR",
			"closed goaway: "+to+"peer sent GOAWAY (last stream 1): NO_ERROR: connection closed",
			"opened", "closed goaway: "+to+"peer sent GOAWAY (last stream 0): ENHANCE_YOUR_CALM \"slower\"",
			"opened", "closed error: "+to+"FLOW_CONTROL_ERROR: ")
	})
}

func TestStatsCountPingTimeouts(t *testing.T) {
	eachPool(t, hyper.Config{}, func(t *testing.T, p *watchedPool) {
		for n := range int64(2) {
			peer, calls := p.first(1)
			peer.Ignore(wire.Ping)
			calls[0].WantErr(t, "the peer is silent")
			p.want("it answers no PING", hyper.HostStats{
				Dials: n + 1, ConnsOpened: n + 1, ConnsClosed: n + 1, Requests: n + 1, StreamsOpened: n + 1,
				PingTimeouts: n + 1,
			})
		}
		p.wantEvents("two lives", "opened", "closed ping_timeout", "opened", "closed ping_timeout")
	})
}

// If a peer does not acknowledge the PING that releases slots, its connection drains.
func TestStatsCountPingsForSlots(t *testing.T) {
	eachPool(t, hyper.Config{}, func(t *testing.T, p *watchedPool) {
		peer, calls := p.first(1, wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 2})
		ctx, cancel := context.WithCancel(t.Context())
		canceled := p.send(p.request("GET", "/", nil).WithContext(ctx))
		peer.WantHeaders("the second", 3)
		cancel()
		canceled.WantErr(t, "the second is canceled")
		peer.Ignore(wire.Ping, wire.RSTStream, wire.GoAway)
		stop := make(chan struct{})
		go func() { // shows that the peer is alive
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Second):
					peer.WritePing(0, [8]byte{})
				}
			}
		}()
		third := p.get("/third")
		other := p.accept()
		other.WantHeaders("the third", 1)
		p.answer(other, 1, third)
		time.Sleep(20 * time.Second)
		close(stop)
		p.answer(peer, 1, calls[0])
		p.closeIdle()
		if s := p.pool.Stats().Total; s.PingTimeouts != 1 || s.ConnsClosed != 2 {
			t.Errorf("%+v", s)
		}
	})
}

func TestStatsCountDialsThatFail(t *testing.T) {
	eachPool(t, hyper.Config{}, func(t *testing.T, p *watchedPool) {
		p.dialErr = &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("no route")}
		for range 3 {
			p.get("/").WantErr(t, "dialling fails")
		}
		p.want("there is no connection", hyper.HostStats{Dials: 3, DialsFailed: 3, Requests: 3})
		p.wantEvents("no life", "failed dial_failed: ", "failed dial_failed: ", "failed dial_failed: ")
		if err := p.events[0].Err; !strings.Contains(err.Error(), "no route") {
			t.Error(err)
		}
	})
}

// An idempotent request is sent again if its connection was lost before the response.
func TestStatsCountRetriesOfWhatWasLost(t *testing.T) {
	eachPool(t, hyper.Config{}, func(t *testing.T, p *watchedPool) {
		call := p.get("/")
		peer := p.accept()
		peer.WantHeaders("a request", 1)
		peer.Close()
		peer = p.accept()
		peer.WantHeaders("again", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		call.Want(t, "the response").Body.Close()
		if got := p.pool.Stats().Total.Retries; got != (hyper.RetryStats{Lost: 1}) {
			t.Errorf("retries: %+v", got)
		}
	})
}

// A handshake can fail in TLS, and in HTTP/2 when the peer's SETTINGS do not arrive.
func TestStatsCountHandshakesThatFail(t *testing.T) {
	eachPool(t, hyper.Config{HandshakeTimeout: 5 * time.Second}, func(t *testing.T, p *watchedPool) {
		call := p.sendOnce("/")
		peer := <-p.peers
		peer.WantPreface("the connection")
		call.WantErr(t, "no SETTINGS come")
		want := hyper.HostStats{
			Dials: 1, ConnsOpened: 1, ConnsClosed: 1, HandshakesFailed: 1, Requests: 1, StreamsOpened: 1,
		}
		p.want("SETTINGS did not come", want)
		p.wantEvents("one life", "opened", "closed timeout")
		if p.cleartext {
			return
		}
		wrong := h2test.ServerTLS("h2")
		wrong.Certificates, wrong.GetCertificate = nil, func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return nil, errors.New("none")
		}
		p.breakTLS = func(nc net.Conn) { tls.Server(nc, wrong).Handshake() }
		for range 2 {
			p.get("/").WantErr(t, "TLS fails")
		}
		want.Dials, want.HandshakesFailed, want.Requests = 3, 3, 3
		p.want("TLS failed", want)
		p.wantEvents("one life", "opened", "closed timeout", "failed handshake_failed: ",
			"failed handshake_failed: ")
	})
}

func TestStatsCountGauges(t *testing.T) {
	eachPool(t, hyper.Config{}, func(t *testing.T, p *watchedPool) {
		peer, calls := p.first(1, wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1})
		time.Sleep(time.Millisecond) // gives the connections different OpenedAt
		p.hold = make(chan struct{})
		second, third := p.get("/2"), p.get("/3")
		p.want("two requests wait for a connection", hyper.HostStats{
			ConnsOpen: 1, ConnsDialing: 1, Dials: 2, ConnsOpened: 1, Requests: 3, StreamsOpen: 1,
			StreamsOpened: 1,
			Waiting:       2,
		})
		close(p.hold)
		peer2 := p.accept(wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 2})
		peer2.WantHeaders("one that waited", 1)
		peer2.WantHeaders("the other", 3)
		peer2.WriteHeaders(1, wire.EndStream, ":status: 204")
		peer2.WriteHeaders(3, wire.EndStream, ":status: 204")
		second.Want(t, "one that waited").Body.Close()
		third.Want(t, "the other").Body.Close()
		p.answer(peer, 1, calls[0])
		conns := p.pool.Conns()
		if len(conns) != 2 || conns[0].Conn == conns[1].Conn || conns[0].OpenedAt.After(conns[1].OpenedAt) {
			t.Errorf("%+v", conns)
		}
		for _, c := range conns {
			if c.Host != p.origin() || c.Proxy != "" || c.State != hyper.StateIdle {
				t.Errorf("%+v", c)
			}
		}
		p.want("all are answered", hyper.HostStats{
			ConnsOpen: 2, ConnsIdle: 2, Dials: 2, ConnsOpened: 2, Requests: 3, StreamsOpened: 3,
		})
		// The caller may close a connection of the pool.
		conns[0].Conn.Close()
		if n := len(p.pool.Conns()); n != 1 {
			t.Errorf("%d connections after Close", n)
		}
		p.wantEvents("one is closed", "opened", "closed closed: connection closed", "opened")
	})
}

func TestStatsCountPushes(t *testing.T) {
	eachPool(t, hyper.Config{Push: &hyper.PushPolicy{}}, func(t *testing.T, p *watchedPool) {
		peer, calls := p.first(1)
		scheme := ":scheme: " + strings.TrimSuffix(p.origin(), "://example.com")
		peer.WritePushPromise(1, 2, ":method: GET", scheme, ":authority: example.com", ":path: /2")
		peer.WritePushPromise(1, 4, ":method: GET", scheme, ":authority: example.com", ":path: /4")
		peer.Ignore(wire.RSTStream)
		p.answer(peer, 1, calls[0])
		synctest.Wait()
		if s := p.pool.Stats().Total; s.PushesPromised != 2 || s.StreamsOpened != 1 {
			t.Errorf("%+v", s)
		}
		p.closeIdle()
		if s := p.pool.Stats().Total; s.PushesPromised != 2 {
			t.Errorf("after the end: %+v", s)
		}
	})
}

// A host that speaks only HTTP/1.1 costs one dial. Its requests are counted as requests over
// HTTP/1.1.
func TestStatsCountHTTP1(t *testing.T) {
	for _, name := range []string{"Transport", "ConfigureTransport"} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, false, siteHandler)
			s.protocol = "http/1.1"
			var rt http.RoundTripper
			var stats func() hyper.TransportStats
			given := s.transport()
			if name == "Transport" {
				cfg := &hyper.Config{DialContext: s.dial, TLS: given.TLSClientConfig}
				tr := &hyper.Transport{Proxy: hyper.NoProxy, Config: cfg}
				rt, stats = tr, tr.Stats
			} else {
				m := &hyper.Monitor{}
				if err := hyper.ConfigureTransport(given, &hyper.Config{Monitor: m}); err != nil {
					t.Fatal(err)
				}
				rt, stats = given, m.Stats
			}
			for range 3 {
				if got := s.get(rt, "/"); got != "200 HTTP/1.1 " {
					t.Error(got)
				}
			}
			got := stats()
			want := hyper.HostStats{Dials: 1, DialsHTTP1: 1, Requests: 3}
			if got.HTTP1Requests != 3 || !reflect.DeepEqual(got.Total, want) {
				t.Errorf("%s: %+v", name, got)
			}
			(&http.Client{Transport: rt}).CloseIdleConnections()
			s.server.Close()
		})
	}
}

// A host without HTTP/2 is served on the first connection, whatever the case of its name in a URL.
func TestHTTP1TakesOverTheConnectionInAnyCase(t *testing.T) {
	for _, host := range []string{"EXAMPLE.com", "[FE80::A%25Eth0]"} {
		for _, configured := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, false, siteHandler)
				s.protocol = "http/1.1"
				given := s.transport()
				given.TLSClientConfig.InsecureSkipVerify = true
				var rt http.RoundTripper = given
				if !configured {
					cfg := &hyper.Config{DialContext: s.dial, TLS: given.TLSClientConfig}
					rt = &hyper.Transport{Proxy: hyper.NoProxy, Config: cfg}
				} else if err := hyper.ConfigureTransport(given, nil); err != nil {
					t.Fatal(err)
				}
				req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+host+"/", nil)
				if err != nil {
					t.Fatal(err)
				}
				got := s.request(rt, req)
				if dials, _ := s.counts(); dials != 1 || got != "200 HTTP/1.1 " {
					t.Errorf("%s, ConfigureTransport %v: %s after %d dials", host, configured, got, dials)
				}
				(&http.Client{Transport: rt}).CloseIdleConnections()
				s.server.Close()
			})
		}
	}
}

// Statistics and events name a proxy without its password. Proxies that differ only in the password
// count as one.
func TestStatsNameNoPasswords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, false, siteHandler)
		password := "one"
		var events []hyper.ConnEvent
		tr := &hyper.Transport{
			Proxy: func(req *http.Request) (*url.URL, error) {
				return url.Parse("http://user:" + password + "@proxy.test:3128")
			},
			Config: &hyper.Config{DialContext: s.dial, TLS: s.transport().TLSClientConfig},
			OnConn: func(e hyper.ConnEvent) { events = append(events, e) },
		}
		for _, password = range []string{"one", "two"} {
			if got := s.get(tr, "/"); got != answered {
				t.Error(got)
			}
		}
		synctest.Wait()
		hosts := tr.Stats().Hosts
		if len(hosts) != 1 || hosts[0].Host != "https://example.com" || hosts[0].ConnsOpen != 2 {
			t.Errorf("%+v", hosts)
		}
		if hosts[0].Proxy != "http://proxy.test:3128" {
			t.Errorf("%+v", hosts)
		}
		for _, c := range tr.Conns() {
			if c.Proxy != "http://proxy.test:3128" {
				t.Errorf("%+v", c)
			}
		}
		if len(events) != 2 || events[0].Proxy != "http://proxy.test:3128" {
			t.Errorf("%+v", events)
		}
		tr.CloseIdleConnections()
		s.server.Close()
	})
}

func TestMonitorIsForOneTransport(t *testing.T) {
	m := &hyper.Monitor{}
	cfg := &hyper.Config{Monitor: m}
	if err := hyper.ConfigureTransport(&http.Transport{Protocols: new(http.Protocols)}, cfg); err == nil {
		t.Error("Protocols without HTTP/2 are accepted")
	}
	registered := &http.Transport{}
	registered.RegisterProtocol("https", registered)
	if err := hyper.ConfigureTransport(registered, cfg); err == nil {
		t.Error("https is registered twice")
	}
	if err := hyper.ConfigureTransport(&http.Transport{}, cfg); err != nil {
		t.Errorf("after errors: %v", err)
	}
	err := hyper.ConfigureTransport(&http.Transport{}, cfg)
	if err == nil || err.Error() != "hyper: Config.Monitor is another http.Transport's already" {
		t.Errorf("the second time: %v", err)
	}
	if s := m.Stats(); !reflect.DeepEqual(s, hyper.TransportStats{}) || m.Conns() != nil {
		t.Errorf("before the first request: %+v", s)
	}
}
