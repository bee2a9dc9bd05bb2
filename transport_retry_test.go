package hyper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
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

func TestGoAwayMovesNewRequestsAndLetsOldOnesFinish(t *testing.T) {
	// RFC 9113 §6.8: streams up to the last identifier may still complete.
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		old := f.get("/old")
		one := f.peer("the first")
		one.WantHeaders("the old one", 1)
		one.WriteGoAway(1, wire.NoError, "")
		synctest.Wait()
		next := f.get("/new")
		two := f.peer("the first takes no more")
		two.WantHeaders("on the new connection", 1, ":path: /new")
		one.WriteHeaders(1, 0, ":status: 200")
		resp := old.wantStatus("the old one goes on", 200)
		one.WriteData(1, wire.EndStream, []byte("whole"))
		h2test.WantBody(t, "to its end", resp.Body, "whole")
		one.WantGoAway("the connection is not needed any more", 0, wire.NoError)
		one.WantClosed("so it is closed")
		h2test.AnswerEmpty(two, 1)
		next.wantStatus("the new one", 204)
		f.wantDials("two in all", 2)
	})
}

func TestRequestsAboveTheLastOfGoAwayAreSentAgain(t *testing.T) {
	// RFC 9113 §6.8: streams above the identifier of a GOAWAY were not and will not be processed.
	unread := func() (io.Reader, func(*http.Request)) {
		return &openedOnce{Reader: strings.NewReader("0123456789")}, func(req *http.Request) {
			req.Header.Set("Expect", "100-continue") // the body is not read before the peer's 100 (Continue)
		}
	}
	asIs := func(*http.Request) {}
	for name, body := range map[string]func() (io.Reader, func(*http.Request)){
		"no body":   func() (io.Reader, func(*http.Request)) { return nil, asIs },
		"in memory": func() (io.Reader, func(*http.Request)) { return strings.NewReader("0123456789"), asIs },
		"in memory, without GetBody": func() (io.Reader, func(*http.Request)) {
			return bytes.NewBufferString("0123456789"), func(req *http.Request) { req.GetBody = nil }
		},
		"with GetBody": func() (io.Reader, func(*http.Request)) {
			return &openedOnce{Reader: strings.NewReader("0123456789")}, func(req *http.Request) {
				req.ContentLength = 10
				req.GetBody = func() (io.ReadCloser,
					error) {
					return &openedOnce{Reader: strings.NewReader("0123456789")}, nil
				}
			}
		},
		"never read": unread,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFarm(t, &Transport{Config: &Config{ExpectContinueTimeout: 100 * time.Millisecond}})
				first := f.get("/first")
				one := f.peer("the first")
				one.WantHeaders("the first", 1)
				reader, prepare := body()
				req := f.request(t.Context(), "POST", "/again", reader)
				prepare(req)
				again := f.do(req)
				one.WantHeaders("the second", 3, ":path: /again")
				one.Ignore(wire.Data)
				one.WriteGoAway(1, wire.NoError, "")
				two := f.peer("at once: the first is gone")
				two.WantHeaders("what the peer did not look at", 1, ":path: /again", ":method: POST")
				if reader != nil {
					two.WantBody("whole", 1, []byte("0123456789"))
				}
				if b, ok := reader.(*openedOnce); ok {
					if again.WantWaiting(t, "there is no answer yet"); b.closes != 1 {
						t.Errorf("the body that was given was closed %d times", b.closes)
					}
				}
				h2test.AnswerEmpty(two, 1)
				again.wantStatus("the second", 204)
				h2test.AnswerEmpty(one, 1)
				first.wantStatus("the first", 204)
			})
		})
	}
}

func TestBodyThatIsGoneIsNotSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		body := &openedOnce{Reader: strings.NewReader("0123456789")}
		call := f.do(f.request(t.Context(), "POST", "/", body))
		one := f.peer("the first")
		one.WantHeaders("the request", 1)
		one.WantBody("with its body", 1, []byte("0123456789"))
		one.WriteGoAway(0, wire.NoError, "")
		err := call.wantErr("it cannot be read twice", errBodyGone)
		if !Retryable(err) || !strings.Contains(err.Error(), "GetBody is nil") ||
			!strings.Contains(err.Error(), "GOAWAY") {
			t.Errorf("the error tells neither that it was not processed nor why it was not sent again: %v",
				err)
		}
		if body.closes != 1 {
			t.Errorf("the body was closed %d times", body.closes)
		}
		f.wantDials("there was nothing to send", 1)
	})
}

func TestErrorOfGetBodyIsReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		req := f.request(t.Context(), "POST", "/", &openedOnce{Reader: strings.NewReader("0123456789")})
		broken := errors.New("the file is gone")
		req.GetBody = func() (io.ReadCloser, error) { return nil, broken }
		call := f.do(req)
		one := f.peer("the first")
		one.WantHeaders("the request", 1)
		one.WantBody("with its body", 1, []byte("0123456789"))
		one.WriteRSTStream(1, wire.RefusedStream)
		if err := call.wantErr("it cannot be had again", broken); !errors.Is(err, ErrCodeRefusedStream) {
			t.Errorf("and why it was wanted: %v", err)
		}
	})
}

func TestRequestThatMayHaveBeenProcessedIsNeverSentAgain(t *testing.T) {
	repeated := map[string]bool{ // those that are idempotent
		"the connection is lost": true, "GOAWAY that includes it, and the end": true,
	}
	for name, end := range map[string]func(*h2test.Peer){
		"the connection is lost": func(peer *h2test.Peer) { peer.Close() },
		"GOAWAY that includes it, and the end": func(peer *h2test.Peer) {
			peer.WriteGoAway(1, wire.NoError, "")
			peer.Close()
		},
		"GOAWAY of a later one, with an error, and the end": func(peer *h2test.Peer) {
			peer.WriteGoAway(wire.MaxStreamID, wire.InternalError, "")
			peer.Close()
		},
		"GOAWAY with HTTP_1_1_REQUIRED that includes it, and the end": func(peer *h2test.Peer) {
			peer.WriteGoAway(1, wire.HTTP11Required, "")
			peer.Close()
		},
		"INTERNAL_ERROR":     func(peer *h2test.Peer) { peer.WriteRSTStream(1, wire.InternalError) },
		"CANCEL":             func(peer *h2test.Peer) { peer.WriteRSTStream(1, wire.Cancel) },
		"NO_ERROR":           func(peer *h2test.Peer) { peer.WriteRSTStream(1, wire.NoError) },
		"PROTOCOL_ERROR":     func(peer *h2test.Peer) { peer.WriteRSTStream(1, wire.ProtocolError) },
		"ENHANCE_YOUR_CALM":  func(peer *h2test.Peer) { peer.WriteRSTStream(1, wire.EnhanceYourCalm) },
		"a malformed answer": func(peer *h2test.Peer) { peer.WriteHeaders(1, 0, ":status: ok") },
		"a response that is cut": func(peer *h2test.Peer) {
			peer.WriteHeaders(1, 0, ":status: 100")
			peer.Close()
		},
	} {
		for _, method := range []string{"POST", "GET"} {
			if method == "GET" && repeated[name] {
				continue
			}
			t.Run(method+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFarm(t, &Transport{})
					f.tr.Fallback = h2test.RoundTripFunc(func(*http.Request) (*http.Response, error) {
						t.Error("it was sent again, over HTTP/1.1")
						return nil, errors.ErrUnsupported
					})
					var body io.Reader
					if method == "POST" {
						body = strings.NewReader("once")
					}
					call := f.do(f.request(t.Context(), method, "/", body))
					peer := f.peer("the first")
					peer.WantHeaders("the request", 1)
					end(peer)
					if err := call.wantErr("it may have been processed", nil); Retryable(err) {
						t.Errorf("%v is said to be no risk", err)
					}
					time.Sleep(time.Minute)
					f.wantDials("it is not tried again", 1)
				})
			})
		}
	}
}

func TestRequestLostBeforeItWasWrittenIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		first := f.get("/first")
		one := f.peer("the first")
		one.WantHeaders("the first", 1)
		h2test.AnswerEmpty(one, 1)
		first.wantStatus("the first", 204)
		client := f.host().Conns.All()[0].socket.nc.(*h2test.Conn)
		client.BreakWriteAfter(0, nil) // every write blocks from now on
		blocked := f.do(f.request(t.Context(), "POST", "/blocked", strings.NewReader("x")))
		synctest.Wait()
		behind := f.do(f.request(t.Context(), "POST", "/behind", strings.NewReader("y")))
		synctest.Wait()
		one.Close()
		two := f.peer("nothing of the second was handed to the socket")
		two.WantHeaders("so it is sent", 1, ":path: /behind")
		two.WantBody("whole", 1, []byte("y"))
		h2test.AnswerEmpty(two, 1)
		behind.wantStatus("the second", 204)
		if err := blocked.wantErr("it may have arrived in part", nil); Retryable(err) {
			t.Errorf("%v is said to be no risk", err)
		}
		time.Sleep(closeGrace) // until the blocked write ends
	})
}

func TestRefusedForEverEndsAfterFiveTriesOnTwoConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		var streams []uint32
		var tries []time.Duration
		start := time.Now()
		f.serveAll(func(peer *h2test.Peer, stream uint32, h h2test.Headers) {
			streams, tries = append(streams, stream), append(tries, time.Since(start))
			peer.WriteRSTStream(stream, wire.RefusedStream)
		})
		err := f.do(f.request(t.Context(), "POST", "/",
			strings.NewReader("again and again"))).wantErr("that was the last", ErrCodeRefusedStream)
		if want := []uint32{1, 3, 1, 3, 5}; !slices.Equal(streams, want) {
			t.Errorf("the tries were streams %v, want %v: the second connection from the third on", streams,
				want)
		}
		for i := 1; i < len(tries); i++ {
			least := 50 * time.Millisecond << (i - 1)
			if pause := tries[i] - tries[i-1]; pause < least || pause > 3*least/2 {
				t.Errorf("try %d came after %v, want %v to half of that more", i+1, pause, least)
			}
		}
		var s *StreamError
		if !errors.As(err, &s) || s.StreamID != 5 || !Retryable(err) {
			t.Errorf("want the last try's own error, got %v", err)
		}
		f.wantDials("another connection was tried, and no third", 2)
	})
}

// RFC 9113 does not say what to do if a server sends GOAWAY on every connection. net/http
// reconnects at full speed. hyper bounds the tries of each request.
func TestEndlessGoAwayMakesFewConnections(t *testing.T) {
	for _, requests := range []int{1, 100} {
		t.Run(fmt.Sprint(requests, " requests"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFarm(t, &Transport{})
				var mu sync.Mutex
				tries := map[string]int{}
				f.serveAll(func(peer *h2test.Peer, stream uint32, h h2test.Headers) {
					mu.Lock()
					tries[h.Get(":path")]++
					mu.Unlock()
					peer.WriteGoAway(0, wire.NoError, "")
				})
				calls := make([]*call, requests)
				for i := range calls {
					calls[i] = f.get(fmt.Sprint("/", i))
				}
				for _, c := range calls {
					if err := c.wantErr("there is no answer to be had", nil); !Retryable(err) ||
						!strings.Contains(err.Error(), "GOAWAY") {
						t.Errorf("a provably unprocessed request: %v", err)
					}
				}
				synctest.Wait()
				for path, n := range tries {
					if n > maxTries {
						t.Errorf("%s was tried %d times", path, n)
					}
				}
				// Usually it takes a few connections. How many requests share one depends on the
				// scheduler.
				if f.dials.Load() > 50 || requests == 1 && f.dials.Load() > maxTries {
					t.Errorf("%d connections were made", f.dials.Load())
				}
			})
		})
	}
}

func TestEndlessGoAwayIsNotReconnectedFasterByOneRequestAfterAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		f.serveAll(func(peer *h2test.Peer, stream uint32,
			h h2test.Headers) {
			peer.WriteGoAway(0, wire.NoError, "")
		})
		start := time.Now()
		for range 20 {
			f.get("/").wantErr("there is no answer to be had", nil)
		}
		synctest.Wait()
		if perSecond := float64(f.dials.Load()) / time.Since(start).Seconds(); perSecond > 4 {
			t.Errorf("%d connections in %v", f.dials.Load(), time.Since(start))
		}
	})
}

// The retry budget is charged for events, not for requests: many requests to a server that refuses
// everything cost only a few events.
func TestRetryBudgetIsChargedForEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		var tries atomic.Int64
		f.serveAll(func(peer *h2test.Peer, stream uint32, h h2test.Headers) {
			tries.Add(1)
			peer.WriteRSTStream(stream, wire.RefusedStream)
		}, h2test.AtMost(1000))
		start := time.Now()
		calls := make([]*call, 500)
		for i := range calls {
			calls[i] = f.get("/")
		}
		for _, c := range calls {
			c.wantErr("it is refused", ErrCodeRefusedStream)
		}
		if n := tries.Load(); n > 500*maxTries {
			t.Errorf("%d tries of 500 requests", n)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("the requests ended after %v", took)
		}
		h := f.host()
		h.mu.Lock()
		defer h.mu.Unlock()
		if left := h.Record.Left(); left < pool.RetryBurst/2 {
			t.Errorf("%d events are left of %d", left, pool.RetryBurst)
		}
		if f.dials.Load() > 2*defaultConnsPerHost {
			t.Errorf("%d connections were made", f.dials.Load())
		}
	})
}

func TestHTTP11RequiredGoesToTheFallback(t *testing.T) {
	// RFC 9113 §7: HTTP_1_1_REQUIRED asks for HTTP/1.1 instead of HTTP/2.
	for name, refuse := range map[string]func(*h2test.Peer){
		"the stream":     func(peer *h2test.Peer) { peer.WriteRSTStream(1, wire.HTTP11Required) },
		"the connection": func(peer *h2test.Peer) { peer.WriteGoAway(0, wire.HTTP11Required, "") },
	} {
		for kind, reader := range map[string]io.Reader{"memory": strings.NewReader("the body"),
			"GetBody": &openedOnce{Reader: strings.NewReader("the body")}} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFarm(t, &Transport{})
					f.tr.Fallback = h2test.RoundTripFunc(func(req *http.Request) (*http.Response, error) {
						body, err := io.ReadAll(req.Body)
						if err != nil || string(body) != "the body" {
							t.Errorf("the fallback gets the body %q, %v", body, err)
						}
						req.Body.Close()
						return &http.Response{StatusCode: 299}, nil
					})
					req := f.request(t.Context(), "POST", "/", reader)
					if kind == "GetBody" {
						req.GetBody = func() (io.ReadCloser,
							error) {
							return io.NopCloser(strings.NewReader("the body")), nil
						}
					}
					call := f.do(req)
					peer := f.peer("the first")
					peer.WantHeaders("the request", 1)
					peer.Ignore(wire.Data)
					refuse(peer)
					call.wantStatus("over HTTP/1.1", 299)
					f.wantDials("HTTP/2 is not tried again", 1)
				})
			})
		}
	}
}

func TestRetryEndsWithTheRequestsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		ctx, cancel := context.WithCancel(t.Context())
		call := f.do(f.request(ctx, "GET", "/", nil))
		peer := f.peer("the only one")
		peer.WantHeaders("a try", 1)
		peer.WriteRSTStream(1, wire.RefusedStream)
		call.WantWaiting(t, "it pauses")
		start := time.Now()
		cancel()
		if err := call.wantErr("its context ended", nil); err != context.Canceled {
			t.Errorf("want the context's own error, got %v", err)
		}
		if waited := time.Since(start); waited > 0 {
			t.Errorf("it went on for %v", waited)
		}
		peer.WantIdle("nothing more of it")
	})
}

// A new connection begins with the limit that the host announced last. That limit is forgotten some
// time after the host's last connection.
func TestNewConnectionBeginsWithTheHostsLastLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{MaxConnsPerHost: 1})
		f.firstPeer(h2test.AtMost(1))
		f.tr.CloseIdleConnections()
		synctest.Wait()
		one, two := f.get("/1"), f.get("/2")
		peer := f.silentPeer("another connection")
		peer.WantPreface("its beginning")
		peer.Ignore(wire.WindowUpdate)
		peer.WantHeaders("one request", 1)
		peer.WantIdle("and not the other, though SETTINGS are not here")
		peer.WriteSettings(h2test.AtMost(1))
		peer.WriteSettingsAck()
		peer.WantSettingsAck("SETTINGS")
		h2test.AnswerEmpty(peer, 1)
		peer.WantHeaders("the other request", 3)
		h2test.AnswerEmpty(peer, 3)
		one.wantStatus("the first", 204)
		two.wantStatus("the second", 204)
		f.tr.CloseIdleConnections()
		synctest.Wait()
		hosts := func() int {
			return f.tr.hosts.Len()
		}
		if hosts() != 1 {
			t.Error("the host is forgotten with its last connection")
		}
		time.Sleep(pool.CapacityMemory + time.Second)
		if synctest.Wait(); hosts() != 0 {
			t.Errorf("the host is remembered after %v", pool.CapacityMemory)
		}
	})
}

// A body is not sent before the peer's limits are known.
func TestBodyWaitsForTheSettingsOfANewConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		call := f.do(f.request(t.Context(), "POST", "/", &openedOnce{Reader: strings.NewReader("once")}))
		peer := f.silentPeer("the first")
		peer.WantPreface("its beginning")
		peer.Ignore(wire.WindowUpdate)
		peer.WantIdle("SETTINGS are not here")
		peer.WriteSettings()
		peer.WriteSettingsAck()
		peer.WantSettingsAck("SETTINGS")
		peer.WantHeaders("the request", 1)
		peer.WantBody("with its body", 1, []byte("once"))
		h2test.AnswerEmpty(peer, 1)
		call.wantStatus("it is served", 204)
	})
}

// The tries of one request are bounded, even if the host accepts other requests in between.
func TestTriesOfOneRequestAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		f.firstPeer()
		h := f.host()
		h.mu.Lock()
		c := h.Conns.All()[0]
		h.mu.Unlock()
		var r retry
		for tries := 1; ; tries++ {
			h.answered(c) // a response to another request
			if _, ok := h.refused(&r, c); !ok {
				if tries != pool.MostTries {
					t.Errorf("%d tries, want %d", tries, pool.MostTries)
				}
				return
			}
		}
	})
}

// The timeout of a request that waited only for a short time does not make the peer suspected.
func TestShortTimeoutIsNoSuspicion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		peer := f.firstPeer()
		ctx, cancel := context.WithTimeout(t.Context(), minSilence/2)
		defer cancel()
		call := f.do(f.request(ctx, "GET", "/", nil))
		peer.WantHeaders("the request", 3)
		call.wantErr("its time is over", context.DeadlineExceeded)
		if f.host().Conns.All()[0].reports.suspected.Load() {
			t.Error("the peer is suspected")
		}
		peer.WantRSTStream("the request has ended", 3, wire.Cancel)
	})
}
