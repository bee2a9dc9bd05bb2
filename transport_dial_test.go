package hyper

import (
	"context"
	"errors"
	"net"
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

// answer takes the request on stream 1 of the next connection and responds to it.
func (f *farm) answer(reason string) *h2test.Peer {
	f.t.Helper()
	peer := f.peer(reason)
	peer.WantHeaders(reason, 1)
	answerEmpty(peer, 1)
	return peer
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
		time.Sleep(pool.DialPatience)
		synctest.Wait()
		peer := f.peer("the second attempt")
		for _, stream := range []uint32{1, 3} {
			peer.WantHeaders("both requests", stream)
			answerEmpty(peer, stream)
		}
		first.wantStatus("the first", 204)
		second.wantStatus("the second", 204)
		if first.took != pool.DialPatience {
			t.Errorf("the first request took %v", first.took)
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
		impatient := f.do(f.request(ctx, "GET", "/impatient", nil))
		synctest.Wait()
		patient := f.get("/patient")
		impatient.wantErr("its context ended", context.DeadlineExceeded)
		f.answer("the other request, on an attempt of its own")
		patient.wantStatus("it is served", 204)
		if patient.took != 300*time.Millisecond {
			t.Errorf("it took %v", patient.took)
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
		if at := <-ended; at != 300*time.Millisecond+pool.DialPatience {
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
		time.Sleep(pool.DialPatience)
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

func TestSuspicionEndsWithTheNextOctet(t *testing.T) {
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
		answerEmpty(peer, 5)
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
		if call.took != 3*time.Second {
			t.Errorf("it took %v", call.took)
		}
		later.wantErr("so has one that was begun after it came", nil)
		if later.took > 4*time.Second {
			t.Errorf("the later request took %v", later.took)
		}
	})
}
