package hyper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
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

// hang is a dialer that does not return until its context ends.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestDialThatHangsGetsAnotherBesideItAfterASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		f.refer = func(ctx context.Context, addr string) error {
			if f.dials.Load() == 1 {
				return hang(ctx)
			}
			return nil
		}
		first, second := f.get("/1"), f.get("/2")
		f.wantDials("one for both", 1)
		time.Sleep(pool.AttemptDelay)
		synctest.Wait()
		peer := f.peer("the second attempt")
		for _, stream := range []uint32{1, 3} {
			peer.WantHeaders("both requests", stream)
			h2test.AnswerEmpty(peer, stream)
		}
		first.wantStatus("the first", 204)
		second.wantStatus("the second", 204)
		if first.Took != pool.AttemptDelay {
			t.Errorf("the first request took %v", first.Took)
		}
		f.wantDials("no more than two", 2)
		time.Sleep(defaultHandshakeTimeout + time.Second) // until the first attempt ends
	})
}

func TestDialerThatNeverReturnsHoldsUpNoLaterRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		stuck := make(chan struct{})
		defer close(stuck)
		f.refer = func(ctx context.Context, addr string) error {
			if f.dials.Load() <= pool.MaxAttempts {
				<-stuck // ignores ctx
				return errors.New("too late")
			}
			return nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		f.do(f.request(ctx, "GET", "/", nil)).wantErr("no dial succeeds", nil)
		next := f.get("/next")
		f.answer("the next request")
		next.wantStatus("is served", 204)
	})
}

func TestAttemptOfARequestThatGaveUpIsReplacedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		f.refer = func(ctx context.Context, addr string) error {
			if f.dials.Load() == 1 {
				return hang(ctx)
			}
			return nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		short := f.do(f.request(ctx, "GET", "/short", nil))
		synctest.Wait()
		long := f.get("/long")
		short.wantErr("its context ended", context.DeadlineExceeded)
		f.answer("the other request, on an attempt of its own")
		long.wantStatus("it is served", 204)
		if long.Took != 300*time.Millisecond {
			t.Errorf("it took %v", long.Took)
		}
		time.Sleep(defaultHandshakeTimeout + time.Second)
	})
}

func TestAttemptThatNoRequestWaitsForEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		ended := make(chan time.Duration, 1)
		start := time.Now()
		f.refer = func(ctx context.Context, addr string) error {
			err := hang(ctx)
			ended <- time.Since(start)
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		f.do(f.request(ctx, "GET", "/", nil)).wantErr("its context ended", context.DeadlineExceeded)
		if at := <-ended; at != 300*time.Millisecond+pool.AttemptDelay {
			t.Errorf("its dial ended after %v", at)
		}
	})
}

func TestAttemptsAtOnceAreBounded(t *testing.T) {
	for _, most := range []int{1, 2, 0} {
		synctest.Test(t, func(t *testing.T) {
			f := newFarm(t, &Transport{MaxConnsPerHost: most})
			f.refer = func(ctx context.Context, addr string) error { return hang(ctx) }
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
			defer cancel()
			f.do(f.request(ctx, "GET", "/", nil)).wantErr("no dial succeeds", context.DeadlineExceeded)
			want := pool.MaxAttempts
			if most > 0 {
				want = min(most, pool.MaxAttempts)
			}
			f.wantDials("a second apart, up to the bound", want)
			time.Sleep(time.Minute)
		})
	}
}

// If a server never completes its TLS handshake, a request loses one second and not all of its
// time.
func TestBackEndThatNeverAnswersTLSIsAvoided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		tlsFarm(f, func() string { return "h2" })
		good := f.tr.Config.DialContext
		var dials atomic.Int64
		f.tr.Config.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dials.Add(1)%2 == 1 {
				client, server := h2test.Pipe()
				t.Cleanup(func() { server.Close() })
				return client, nil
			}
			return good(ctx, network, addr)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		req := f.request(ctx, "GET", "/", nil)
		req.URL.Scheme = "https"
		call := f.do(req)
		time.Sleep(pool.AttemptDelay)
		f.answer("the other back end")
		call.wantStatus("it is served", 204)
		time.Sleep(defaultHandshakeTimeout)
	})
}

func TestSilentPeerIsSuspectedAtTheFirstTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		peer := f.firstPeer()
		client := f.host().Conns.All()[0].socket.nc.(*h2test.Conn)
		client.Stall() // from now on nothing arrives
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		call := f.do(f.request(ctx, "GET", "/", nil))
		peer.WantHeaders("the request", 3)
		call.wantErr("the peer is silent", context.DeadlineExceeded)
		peer.WantRSTStream("the request has ended", 3, wire.Cancel)
		next := f.get("/next")
		time.Sleep(suspicionGrace)
		f.answer("the next request goes elsewhere")
		next.wantStatus("and is served", 204)
		f.wantDials("one more connection", 2)
		time.Sleep(time.Minute) // until the silent connection is found dead
	})
}

func TestSuspicionEndsWithTheNextByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		peer := f.firstPeer() // acknowledges PINGs
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		call := f.do(f.request(ctx, "GET", "/slow", nil))
		peer.WantHeaders("the request", 3)
		call.wantErr("the response is slow", context.DeadlineExceeded)
		next := f.get("/next")
		peer.WantRSTStream("the request has ended", 3, wire.Cancel)
		peer.WantHeaders("the peer lives: the next request is its own", 5)
		h2test.AnswerEmpty(peer, 5)
		next.wantStatus("it is served", 204)
		time.Sleep(time.Second)
		f.wantDials("no other connection", 1)
	})
}

func TestAttemptsOneAfterAnotherDoNotKeepARequestForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{Config: &Config{HandshakeTimeout: 3 * time.Second}})
		f.refer = func(ctx context.Context, addr string) error { return hang(ctx) }
		call := f.get("/")
		time.Sleep(1500 * time.Millisecond)
		later := f.get("/later")
		call.wantErr("the attempt that was begun for it has ended", nil)
		if call.Took != 3*time.Second {
			t.Errorf("it took %v", call.Took)
		}
		later.wantErr("so has one that was begun after it came", nil)
		if later.Took > 4*time.Second {
			t.Errorf("the later request took %v", later.Took)
		}
	})
}

// answer204 plays a server that responds to each request with 204, at once and without decoding its
// fields. net/http's server waits only two seconds for a client's SETTINGS, which is too short with
// a hundred clients on a busy machine.
func answer204(nc net.Conn, answered *atomic.Int64) {
	br, bw := bufio.NewReader(nc), bufio.NewWriter(nc)
	br.Discard(len(wire.ClientPreface))
	bw.Write(wire.AppendSettings(nil, h2test.AtMost(1000)))
	for {
		octets, err := br.Peek(wire.HeaderLen)
		if err != nil {
			return
		}
		h := wire.ParseFrameHeader(octets)
		payload, err := br.Peek(wire.HeaderLen + h.Length)
		if err != nil {
			return
		}
		switch {
		case h.Type == wire.Headers:
			answered.Add(1)
			bw.Write(wire.AppendFrameHeader(nil, wire.FrameHeader{Length: 1, Type: wire.Headers,
				Flags: wire.EndStream | wire.EndHeaders, StreamID: h.StreamID}))
			bw.WriteByte(0x89) // :status: 204 of the static table
		case h.Type == wire.Settings && !h.Flags.Has(wire.Ack):
			bw.Write(wire.AppendSettingsAck(nil))
		case h.Type == wire.Ping && !h.Flags.Has(wire.Ack):
			bw.Write(wire.AppendPing(nil, wire.Ack, wire.ParsePing(payload[wire.HeaderLen:])))
		}
		br.Discard(wire.HeaderLen + h.Length)
		if br.Buffered() == 0 {
			bw.Flush()
		}
	}
}

func TestHundredHostsHundredRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answered, dials atomic.Int64
		var servers, callers sync.WaitGroup
		dial := func(context.Context, string, string) (net.Conn, error) {
			dials.Add(1)
			client, server := net.Pipe()
			servers.Go(func() {
				answer204(server, &answered)
				server.Close()
			})
			return client, nil
		}
		tr := &Transport{Proxy: NoProxy, UnencryptedHTTP2: true, Config: &Config{DialContext: dial}}
		for host := range 100 {
			for range 100 {
				callers.Go(func() {
					req, _ := http.NewRequest("GET", fmt.Sprintf("http://host%d.example.com", host), nil)
					if _, resp, err := h2test.Fetch(tr, req); err != nil || resp.StatusCode != 204 {
						t.Errorf("%s: %v", req.URL, err)
					}
				})
			}
		}
		callers.Wait()
		if n := dials.Load(); n != 100 {
			t.Errorf("%d dials for 100 hosts", n)
		}
		if n := answered.Load(); n != 100*100 {
			t.Errorf("the servers answered %d requests", n)
		}
		tr.CloseIdleConnections()
		servers.Wait() // the bubble waits for all other goroutines
		if n := tr.hosts.Len(); n != 0 {
			t.Errorf("%d hosts are kept", n)
		}
	})
}

func TestSpellingsOfAHostShareItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		f.serveAll(func(peer *h2test.Peer, stream uint32,
			_ h2test.Headers) {
			h2test.AnswerEmpty(peer, stream)
		})
		for i, spellings := range [][]string{
			{"http://example.com", "http://example.com:80/", "http://EXAMPLE.com/?q",
				"http://user:password@example.com/", "http://example.com:"},
			{"http://bücher.example", "http://xn--bcher-kva.example", "http://Bücher.example:80"},
			{"http://[2001:db8::1]", "http://[2001:DB8::1]:80"},
		} {
			for _, spelling := range spellings {
				req, err := http.NewRequest("GET", spelling, nil)
				if err != nil {
					t.Fatal(err)
				}
				f.do(req).wantStatus(spelling, 204)
				f.wantDials(spelling, i+1)
			}
		}
	})
}

func TestURLThatLeadsNowhereIsAnErrorAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		for _, u := range []*url.URL{
			{Scheme: "http", Host: ""},
			{Scheme: "http", Host: ":80"},
			{Scheme: "http", Host: "example.com:http"},
			{Scheme: "http", Host: "example.com:99999"},
			{Scheme: "http", Host: "exa mple.com"},
			{Scheme: "http", Host: "a/b"},
			{Scheme: "gopher", Host: "example.com"},
		} {
			body := &openedOnce{Reader: strings.NewReader("x")}
			err := f.do(&http.Request{Method: "POST", URL: u, Header: http.Header{},
				Body: body}).wantErr(u.String(), nil)
			if Retryable(err) || body.closes != 1 {
				t.Errorf("%s: %v; its body was closed %d times", u, err, body.closes)
			}
		}
		f.wantDials("none of them can be dialled", 0)
		if f.tr.hosts.Len() > 0 {
			t.Errorf("%d hosts are kept", f.tr.hosts.Len())
		}
	})
}

// overHTTP1 is a Fallback that counts its requests.
type overHTTP1 struct{ n int }

func (o *overHTTP1) RoundTrip(*http.Request) (*http.Response, error) {
	o.n++
	return &http.Response{StatusCode: 299, Body: http.NoBody}, nil
}

func TestHostsWithoutHTTP2AreRememberedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fallback := &overHTTP1{}
		f := newFarm(t, &Transport{Fallback: fallback})
		tlsFarm(f, func() string { return "http/1.1" })
		visit := func(host int) {
			t.Helper()
			req, _ := http.NewRequest("GET", fmt.Sprintf("https://host%d.example.com", host), nil)
			f.do(req).wantStatus("over HTTP/1.1", 299)
		}
		for host := range 50 {
			visit(host)
			visit(host)
		}
		f.wantDials("the second time it is known", 50)
		if fallback.n != 100 || f.tr.hosts.Len() != 50 {
			t.Errorf("%d requests over HTTP/1.1, %d hosts", fallback.n, f.tr.hosts.Len())
		}
		time.Sleep(http1Memory - time.Second)
		visit(0)
		f.wantDials("it is known still", 50)
		time.Sleep(time.Second)
		if synctest.Wait(); f.tr.hosts.Len() != 0 {
			t.Errorf("%d hosts are kept", f.tr.hosts.Len())
		}
		visit(0)
		f.wantDials("it may have learned", 51)
	})
}

func TestHostThatGivesUpHTTP2EndsAllWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fallback := &overHTTP1{}
		f := newFarm(t, &Transport{Fallback: fallback})
		proto := "h2"
		tlsFarm(f, func() string { return proto })
		get := func() *call {
			req, _ := http.NewRequest("GET", "https://example.com", nil)
			return f.do(req)
		}
		first := get()
		one := f.peer("the first", h2test.AtMost(1))
		one.WantHeaders("one fits", 1)
		proto = "http/1.1"
		waits := get()
		waits.wantStatus("the second connection is not HTTP/2", 299)
		h2test.AnswerEmpty(one, 1)
		first.wantStatus("the first is not disturbed", 204)
	})
}

func TestTunnelThatTheProxyDidNotProcessIsAskedForAgain(t *testing.T) {
	for name, refuse := range map[string]func(*h2test.Peer){
		"REFUSED_STREAM": func(peer *h2test.Peer) { peer.WriteRSTStream(1, wire.RefusedStream) },
		"GOAWAY":         func(peer *h2test.Peer) { peer.WriteGoAway(0, wire.NoError, "") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFarm(t, &Transport{})
				tlsFarm(f, func() string { return "h2" })
				f.tr.Proxy = http.ProxyURL(&url.URL{Scheme: "https", Host: "proxy.example.com"})
				ctx, cancel := context.WithCancel(t.Context())
				call := f.do(f.request(ctx, "GET", "/", nil))
				peer := f.peer("the proxy")
				peer.WantHeaders("a tunnel is asked for", 1, ":method: CONNECT", ":authority: example.com:80")
				refuse(peer)
				stream := uint32(3)
				if name == "GOAWAY" {
					peer, stream = f.peer("another connection to the proxy"), 1
				}
				peer.WantHeaders("and once more", stream, ":method: CONNECT", ":authority: example.com:80")
				peer.WriteHeaders(stream, 0, ":status: 200")
				if data := peer.WantFrame("HTTP/2 within the tunnel",
					wire.Data).Payload; !strings.HasPrefix(string(data), wire.ClientPreface) {
					t.Errorf("the tunnel begins with %q", data)
				}
				cancel()
				call.wantErr("it is not needed any more", context.Canceled)
			})
		})
	}
}

// One dial asks for a tunnel five times. A second dial, which begins a second after the first, does
// the same.
func TestTunnelIsAskedForNoMoreThanFiveTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{Config: &Config{HandshakeTimeout: time.Minute}})
		tlsFarm(f, func() string { return "h2" })
		f.tr.Proxy = http.ProxyURL(&url.URL{Scheme: "https", Host: "proxy.example.com"})
		asked := 0
		refuseAll := func(peer *h2test.Peer) {
			peer.Serve(func(stream uint32, _ h2test.Headers) {
				asked++
				peer.WriteRSTStream(stream, wire.RefusedStream)
			})
		}
		call := f.get("/")
		refuseAll(f.silentPeer("the proxy"))
		time.Sleep(300 * time.Millisecond)
		refuseAll(f.silentPeer("another connection to the proxy"))
		if call.wantErr("it is refused for ever", ErrCodeRefusedStream); asked > 2*maxTries {
			t.Errorf("it was asked for %d times", asked)
		}
	})
}

func TestDialThatOutlivesItsRequestServesTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		dial := make(chan error)
		f.refer = func(context.Context, string) error { return <-dial }
		ctx, cancel := context.WithCancelCause(t.Context())
		short := f.do(f.request(ctx, "GET", "/short", nil))
		f.wantDials("a cold host", 1)
		cancel(errors.New("the caller's own reason"))
		if err := short.wantErr("its context ended", nil); err != context.Canceled {
			t.Errorf("want the context's own error, got %v", err)
		}
		dial <- nil
		peer := f.peer("the connection is made all the same")
		next := f.get("/next")
		peer.WantHeaders("and found by the next request", 1, ":path: /next")
		h2test.AnswerEmpty(peer, 1)
		next.wantStatus("the next", 204)
		f.wantDials("one in all", 1)
	})
}

func TestDialErrorReachesAllRequestsThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		refused := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
		answer := make(chan error)
		f.refer = func(context.Context, string) error { return <-answer }
		var calls []*call
		body := &openedOnce{Reader: strings.NewReader("x")}
		calls = append(calls, f.do(f.request(t.Context(), "POST", "/", body)))
		for range 9 {
			calls = append(calls, f.get("/"))
		}
		f.wantDials("one for all", 1)
		answer <- refused
		for _, c := range calls {
			err := c.wantErr("the host cannot be reached", nil)
			var op *net.OpError
			if !errors.As(err, &op) || op != refused || !Retryable(err) {
				t.Errorf("want the dialler's own error, got %v", err)
			}
		}
		if body.reads != 0 || body.closes != 1 {
			t.Errorf("the body was read %d times, and closed %d times", body.reads, body.closes)
		}
		later := f.get("/")
		f.wantDials("a later request tries again, at once", 2)
		answer <- nil
		peer := f.peer("now it works")
		peer.WantHeaders("the later one", 1)
		h2test.AnswerEmpty(peer, 1)
		later.wantStatus("the later one", 204)
	})
}

func TestDialErrorBesideAConnectionFailsNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		first := f.get("/first")
		one := f.peer("the first", h2test.AtMost(1))
		one.WantHeaders("one fits", 1)
		f.refer = func(context.Context, string) error { return errors.New("connection refused") }
		next := f.get("/next")
		f.wantDials("the first is full", 2)
		next.WantWaiting(t, "there is still the first to wait for")
		h2test.AnswerEmpty(one, 1)
		first.wantStatus("the first", 204)
		one.WantHeaders("its slot", 3, ":path: /next")
		time.Sleep(time.Minute)
		f.wantDials("no request waits for another one any more", 2)
		more := f.get("/more")
		time.Sleep(10 * time.Second)
		if synctest.Wait(); f.dials.Load() < 3 || f.dials.Load() > 15 {
			t.Errorf("%d dials in 10 s of waiting", f.dials.Load())
		}
		h2test.AnswerEmpty(one, 3)
		one.WantHeaders("its slot", 5, ":path: /more")
		h2test.AnswerEmpty(one, 5)
		more.wantStatus("one more", 204)
		time.Sleep(time.Second) // the last pause
	})
}
