package hyper

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// tlsFarm makes f's connections those of a TLS server that speaks the protocol that protos returns.
func tlsFarm(f *farm, protos func() string) {
	f.tr.Config.TLS = h2test.ClientTLS()
	f.tr.Config.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) {
		f.dials.Add(1)
		if f.refer != nil {
			if err := f.refer(ctx, addr); err != nil {
				return nil, err
			}
		}
		client, server := h2test.Pipe()
		proto := protos()
		secure := tls.Server(server, h2test.ServerTLS(proto))
		f.t.Cleanup(func() { server.Close() })
		if proto == "h2" {
			peer := h2test.NewPeer(f.t, secure)
			peer.AutoPing()
			f.dialled <- peer
			return client, nil
		}
		go func() {
			secure.Handshake()
			io.Copy(io.Discard, secure)
		}()
		return client, nil
	}
}

func TestIdleConnectionIsClosed(t *testing.T) {
	for name, test := range map[string]struct{ set, want time.Duration }{
		"by default": {0, 90 * time.Second},
		"as told":    {10 * time.Second, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFarm(t, &Transport{IdleConnTimeout: test.set})
				peer := f.firstPeer()
				time.Sleep(test.want - time.Second)
				f.answered(peer, 3)
				start := time.Now()
				time.Sleep(test.want - time.Millisecond)
				peer.WantIdle("it was used since")
				peer.WantGoAway("it was not used for so long", 0, wire.NoError)
				peer.WantClosed("so it is closed")
				if idle := time.Since(start); idle != test.want {
					t.Errorf("closed after %v, want %v", idle, test.want)
				}
				f.get("/")
				f.peer("a later request").WantHeaders("finds another one", 1)
			})
		})
	}
}

func TestBusyConnectionIsNotIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{IdleConnTimeout: time.Minute})
		long := f.get("/")
		peer := f.peer("the first")
		peer.WantHeaders("a long poll", 1)
		time.Sleep(10 * time.Minute)
		peer.WantIdle("it has a stream")
		h2test.AnswerEmpty(peer, 1)
		long.wantStatus("the answer", 204)
		start := time.Now()
		time.Sleep(time.Minute - time.Second)
		peer.WantIdle("its idle time begins with the end of that")
		peer.WantGoAway("and is over", 0, wire.NoError)
		if idle := time.Since(start); idle < time.Minute || idle > 2*time.Minute {
			t.Errorf("closed after %v", idle)
		}
	})
}

func TestNegativeIdleTimeoutIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{IdleConnTimeout: -1})
		peer := f.firstPeer()
		time.Sleep(24 * time.Hour)
		f.answered(peer, 3)
		f.wantDials("it lives for ever", 1)
	})
}

func TestOldConnectionGetsNoNewRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{MaxConnAge: time.Hour, IdleConnTimeout: -1})
		one := f.firstPeer()
		time.Sleep(time.Hour - time.Second)
		old := f.get("/old")
		one.WantHeaders("it is young enough", 3)
		time.Sleep(time.Second)
		f.get("/new")
		two := f.peer("it is too old")
		two.WantHeaders("on a new one", 1, ":path: /new")
		one.WantGoAway("it is to end", 0, wire.NoError)
		one.WriteHeaders(3, 0, ":status: 200")
		one.WriteData(3, wire.EndStream, []byte("old"))
		h2test.WantBody(t, "its stream goes on", old.wantStatus("the old one", 200).Body, "old")
		one.WantClosed("and is the last")
	})
}

func TestCloseIdleConnectionsLeavesBusyOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		long := f.get("/")
		one := f.peer("the first", h2test.AtMost(1))
		one.WantHeaders("a long one", 1)
		short := f.get("/")
		two := f.peer("the first is full", h2test.AtMost(1))
		two.WantHeaders("a short one", 1)
		h2test.AnswerEmpty(two, 1)
		short.wantStatus("the short one", 204)
		f.tr.CloseIdleConnections()
		two.WantGoAway("it is not used", 0, wire.NoError)
		two.WantClosed("so it is closed")
		one.WantIdle("it has a stream")
		one.WriteHeaders(1, 0, ":status: 200")
		resp := long.wantStatus("the long one", 200)
		f.tr.CloseIdleConnections()
		one.WriteData(1, wire.EndStream, []byte("whole"))
		h2test.WantBody(t, "a body that is on its way is not disturbed", resp.Body, "whole")
		f.answered(one, 3)
	})
}

func TestCloseIdleConnectionsOfManyDoesNotSlowTheNextDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		var calls []*call
		var peers []*h2test.Peer
		for range 8 {
			calls = append(calls, f.get("/"))
			peers = append(peers, f.peer("one stream each", h2test.AtMost(1)))
			peers[len(peers)-1].WantHeaders("its request", 1)
		}
		for i, peer := range peers {
			h2test.AnswerEmpty(peer, 1)
			calls[i].wantStatus("its answer", 204)
		}
		f.tr.CloseIdleConnections()
		start := time.Now()
		f.get("/")
		f.peer("a new one").WantHeaders("at once", 1)
		if waited := time.Since(start); waited > 0 {
			t.Errorf("it was made after %v", waited)
		}
	})
}

func TestCloseIdleConnectionsEndsDialsWithoutARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		var ended []error
		f.refer = func(ctx context.Context, _ string) error {
			<-ctx.Done()
			ended = append(ended, context.Cause(ctx))
			return ctx.Err()
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone := f.do(f.request(ctx, "GET", "/", nil))
		f.wantDials("a cold host", 1)
		f.tr.CloseIdleConnections()
		gone.WantWaiting(t, "a request waits for it")
		cancel()
		gone.wantErr("its context ended", context.Canceled)
		synctest.Wait()
		if len(ended) > 0 {
			t.Fatalf("the dial ended with its request: %v; another could have used it", ended)
		}
		f.tr.CloseIdleConnections()
		f.refer = nil
		next := f.get("/next") // perhaps before the dial has noticed
		synctest.Wait()
		if len(ended) != 1 {
			t.Fatalf("the dial that no request waits for: %v", ended)
		}
		peer := f.peer("the next one's own")
		peer.WantHeaders("undisturbed", 1)
		h2test.AnswerEmpty(peer, 1)
		next.wantStatus("undisturbed", 204)
	})
}

func TestRequestCloseIsTheLastOfItsConnection(t *testing.T) {
	for name, mark := range map[string]func(*http.Request){
		"Request.Close":     func(req *http.Request) { req.Close = true },
		"Connection: close": func(req *http.Request) { req.Header.Set("Connection", "close") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFarm(t, &Transport{})
				other := f.get("/other")
				one := f.peer("the first")
				one.WantHeaders("another request", 1)
				req := f.request(t.Context(), "GET", "/last", nil)
				mark(req)
				last := f.do(req)
				if h := one.WantHeaders("it still goes here", 3, ":path: /last"); h.Get("connection") != "" {
					t.Error("RFC 9113 §8.2.2: no connection-specific fields")
				}
				one.WantGoAway("and is the last", 0, wire.NoError)
				next := f.get("/next")
				two := f.peer("the next")
				two.WantHeaders("is on another one", 1, ":path: /next")
				h2test.AnswerEmpty(one, 1)
				h2test.AnswerEmpty(one, 3)
				h2test.AnswerEmpty(two, 1)
				for _, c := range []*call{other, last, next} {
					c.wantStatus("none is disturbed", 204)
				}
				one.WantClosed("it is over")
			})
		})
	}
}

func TestRequestsWithASlotSurviveTheEndOfTheirConnection(t *testing.T) {
	// There are many requests, and some are the last of their connection. A request that has a slot
	// there, but was not sent, moves to another connection.
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{MaxConnsPerHost: -1})
		f.serveAll(func(peer *h2test.Peer, stream uint32,
			_ h2test.Headers) {
			h2test.AnswerEmpty(peer, stream)
		})
		var calls []*call
		for i := range 200 {
			req := f.request(t.Context(), "POST", "/", strings.NewReader("x"))
			req.Close = i%4 == 0
			calls = append(calls, f.do(req))
		}
		for _, c := range calls {
			c.wantStatus("each is served", 204)
		}
	})
}

func TestConnectionThatEndedWhileIdleIsNotUsed(t *testing.T) {
	for name, end := range map[string]func(*h2test.Peer){
		"closed":       func(peer *h2test.Peer) { peer.Close() },
		"GOAWAY":       func(peer *h2test.Peer) { peer.WriteGoAway(1, wire.NoError, "") },
		"GOAWAY, calm": func(peer *h2test.Peer) { peer.WriteGoAway(1, wire.EnhanceYourCalm, "") },
		"nonsense":     func(peer *h2test.Peer) { peer.WriteData(0, 0, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFarm(t, &Transport{})
				one := f.firstPeer()
				end(one)
				synctest.Wait()
				start := time.Now()
				next := f.do(f.request(t.Context(), "POST", "/", strings.NewReader("x")))
				two := f.peer("the old one is known to be dead")
				two.WantHeaders("on a new one", 1)
				two.Ignore(wire.Data)
				h2test.AnswerEmpty(two, 1)
				next.wantStatus("without an error", 204)
				if waited := time.Since(start); waited > 0 {
					t.Errorf("it took %v", waited)
				}
			})
		})
	}
}

// waitingPlaces are the places in a Transport where a request can wait. Each function sets up the
// wait and returns a function that ends it.
func waitingPlaces() map[string]func(f *farm) (release func()) {
	return map[string]func(f *farm) func(){
		"for a dial": func(f *farm) func() {
			dial := make(chan struct{})
			f.refer = func(context.Context, string) error { <-dial; return nil }
			return func() { close(dial) }
		},
		"for a slot": func(f *farm) func() {
			f.tr.MaxConnsPerHost = 1
			peer := f.firstPeer(h2test.AtMost(1))
			f.get("/takes the slot")
			peer.WantHeaders("the only slot", 3)
			return func() { h2test.AnswerEmpty(peer, 3) }
		},
		"for another try": func(f *farm) func() {
			peer := f.firstPeer()
			go func() {
				peer.Next()
				peer.WriteRSTStream(3, wire.RefusedStream)
			}()
			return func() {}
		},
		"for the response": func(f *farm) func() {
			f.firstPeer()
			return func() {}
		},
	}
}

func TestEndOfTheContextEndsEveryWait(t *testing.T) {
	for place, begin := range waitingPlaces() {
		for name, end := range map[string]func(*http.Request) (*http.Request, func(), error){
			"context": func(req *http.Request) (*http.Request, func(), error) {
				ctx, cancel := context.WithCancel(req.Context())
				return req.WithContext(ctx), cancel, context.Canceled
			},
			"Request.Cancel": func(req *http.Request) (*http.Request, func(), error) {
				cancel := make(chan struct{})
				field := reflect.ValueOf(req).Elem().FieldByName("Cancel")
				field.Set(reflect.ValueOf((<-chan struct{})(cancel)))
				return req, func() { close(cancel) }, errRequestCanceled
			},
		} {
			t.Run(place+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFarm(t, &Transport{})
					release := begin(f)
					req, cancel, want := end(f.request(t.Context(), "GET", "/waits", nil))
					call := f.do(req)
					call.WantWaiting(t, place)
					start := time.Now()
					cancel()
					err := call.wantErr("it was cancelled", nil)
					waited, forSlot := err.(*WaitError)
					if forSlot {
						err = waited.Unwrap()
					}
					if !errors.Is(err, want) || !forSlot && err != want {
						t.Errorf("got %v, want %v as it is", err, want)
					}
					if wantSlot := place == "for a slot" && want == context.Canceled; forSlot != wantSlot {
						t.Errorf("got %v: does it say what it waited for? %v", err, forSlot)
					}
					if waited := time.Since(start); waited > 0 {
						t.Errorf("it went on for %v", waited)
					}
					release()
					synctest.Wait()
					checkPool(t, f.tr)
				})
			})
		}
	}
}

func TestSlotOfACanceledRequestGoesToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{MaxConnsPerHost: 1})
		peer := f.firstPeer(h2test.AtMost(1))
		f.get("/")
		peer.WantHeaders("the only slot", 3)
		for i := range 50 {
			ctx, cancel := context.WithCancel(t.Context())
			short := f.do(f.request(ctx, "GET", "/short", nil))
			synctest.Wait()
			long := f.get("/long")
			synctest.Wait()
			go cancel() // at about the time when the slot becomes free
			id := uint32(4*i + 3)
			h2test.AnswerEmpty(peer, id)
			h := peer.WantHeaders("the next in line", id+2)
			if h.Get(":path") == "/short" { // sent before it was cancelled
				peer.WantRSTStream("so it is reset", id+2, wire.Cancel)
			} else {
				h2test.AnswerEmpty(peer, id+2)
				long.wantStatus("the one without a deadline", 204)
				f.get("/")
			}
			<-short.Done
			peer.WantHeaders("no slot is lost", id+4)
			checkPool(t, f.tr)
		}
	})
}

func TestSlotThatComesTogetherWithTheEndOfTheContextIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{MaxConnsPerHost: 1})
		f.firstPeer(h2test.AtMost(1))
		h := f.host()
		for range 100 { // chance decides which of the two is seen
			held, err := h.conn(t.Context(), nil, new(uint64))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				if c, err := h.conn(ctx, nil, new(uint64)); err == nil {
					c.release()
				}
			}()
			synctest.Wait()
			cancel()
			held.release()
			<-done
			checkPool(t, f.tr)
		}
	})
}

func TestNoSlotIsLostToRandomCancels(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			f := newFarm(t, &Transport{MaxConnsPerHost: 3})
			r := rand.New(rand.NewPCG(seed, 0))
			f.refer = func(ctx context.Context, _ string) error { return pause(ctx, nil, time.Millisecond) }
			f.serveAll(func(peer *h2test.Peer, stream uint32, h h2test.Headers) {
				switch {
				case stream%7 == 0:
					peer.WriteRSTStream(stream, wire.RefusedStream)
				case stream == 301:
					peer.WriteGoAway(stream, wire.NoError, "")
					fallthrough
				default:
					peer.WriteHeaders(stream, 0, ":status: 200")
					peer.WriteData(stream, wire.EndStream, []byte("x"))
				}
			}, h2test.AtMost(5))
			var calls []*call
			for i := range 500 {
				ctx, cancel := context.WithTimeout(t.Context(),
					time.Duration(1+r.IntN(2000))*time.Microsecond)
				defer cancel()
				if i%2 == 0 {
					ctx = t.Context()
				}
				c := f.do(f.request(ctx, "GET", "/", nil))
				calls = append(calls, c)
				if r.IntN(4) == 0 {
					time.Sleep(time.Duration(r.IntN(100)) * time.Microsecond)
				}
			}
			for _, c := range calls {
				if <-c.Done; c.Err != nil && c.Err != context.DeadlineExceeded && !Retryable(c.Err) {
					t.Errorf("seed %d: %v", seed, c.Err)
				}
				if c.Err == nil {
					c.Value.Body.Close()
				}
			}
			time.Sleep(time.Second) // so that PINGs confirm the resets
			checkPool(t, f.tr)
			for _, h := range f.tr.allHosts() {
				for _, c := range h.Conns.All() {
					c.lock()
					if c.slots.used > 5 || len(c.streams.byID) > 0 {
						t.Errorf("seed %d: %d slots are taken, %d streams are open", seed, c.slots.used,
							len(c.streams.byID))
					}
					c.unlock()
				}
			}
			f.get("/").wantStatus("and it goes on", 200)
		})
	}
}

func TestResponseHeaderTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{ResponseHeaderTimeout: 10 * time.Second})
		peer := f.firstPeer()
		call := f.get("/")
		peer.WantHeaders("the request", 3)
		err := call.wantErr("no header comes", nil)
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() || call.Took != 10*time.Second {
			t.Errorf("got %v after %v", err, call.Took)
		}
		peer.WantRSTStream("no call waits any more", 3, wire.Cancel)

		call = f.get("/")
		peer.WantHeaders("the next", 5)
		time.Sleep(9 * time.Second)
		peer.WriteHeaders(5, 0, ":status: 200")
		resp := call.wantStatus("in time", 200)
		time.Sleep(time.Minute)
		peer.WriteData(5, wire.EndStream, []byte("late"))
		h2test.WantBody(t, "the body has all the time it takes", resp.Body, "late")
	})
}

func TestResponseHeaderTimeoutBeginsWithTheEndOfTheRequest(t *testing.T) {
	for _, upload := range []time.Duration{0, 5 * time.Second, 9999 * time.Millisecond, 15 * time.Second,
		25 * time.Second} {
		t.Run(fmt.Sprint("upload of ", upload), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFarm(t, &Transport{ResponseHeaderTimeout: 10 * time.Second})
				peer := f.firstPeer()
				r, w := io.Pipe()
				call := f.do(f.request(t.Context(), "POST", "/", r))
				peer.WantHeaders("the request", 3)
				peer.Ignore(wire.Data)
				time.Sleep(upload)
				w.Close()
				call.WantWaiting(t, "the upload went on until now")
				time.Sleep(10*time.Second - time.Millisecond)
				call.WantWaiting(t, "the time is not over")
				call.wantErr("no header comes", errHeaderTimeout)
				if most := upload + 20*time.Second; call.Took > most {
					t.Errorf("it waited for %v", call.Took)
				}
			})
		})
	}
}

// openedOnce is a body that counts its reads. It is not in memory and has no GetBody.
type openedOnce struct {
	io.Reader
	reads, closes int
}

func (b *openedOnce) Read(p []byte) (int, error) { b.reads++; return b.Reader.Read(p) }

func (b *openedOnce) Close() error { b.closes++; return nil }
