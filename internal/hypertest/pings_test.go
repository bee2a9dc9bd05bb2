package hypertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A strict server limits PINGs as gRPC servers do by default (google.golang.org/grpc,
// http2Server.handlePing). The first PING after the server has sent DATA or HEADERS is free. Any
// other PING is too early if it follows the previous one within five minutes while a stream is
// open, or within two hours while none is. The server ends the connection at the third PING that is
// too early.
type strict struct {
	*accepted
	mu      sync.Mutex
	open    map[uint32]bool
	last    time.Time
	strikes int
	free    bool
	pings   []time.Time // the times of arrival
	ended   bool        // because of too many PINGs
}

// serve starts to serve the requests of a connection. The path selects the response: "/" gets a
// complete one, "/stream" only a header, and any other path none.
func (s *strict) serve() *strict {
	s.open = make(map[uint32]bool)
	go func() {
		for {
			f, err := s.Next()
			switch {
			case err != nil && err.Error() == "nothing":
				continue // Next waits ten seconds
			case err != nil:
				return
			}
			s.recv(f.FrameHeader, f.Payload, func(name string) string { return f.Headers.Get(name) })
		}
	}()
	return s
}

// recv handles one frame.
func (s *strict) recv(h wire.FrameHeader, payload []byte, field func(string) string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch h.Type {
	case wire.Headers:
		s.open[h.StreamID] = true
		switch field(":path") {
		case "/":
			s.free = true
			s.WriteHeaders(h.StreamID, wire.EndStream, ":status: 204")
			delete(s.open, h.StreamID)
		case "/stream":
			s.free = true
			s.WriteHeaders(h.StreamID, 0, ":status: 200")
		}
	case wire.RSTStream:
		delete(s.open, h.StreamID)
	case wire.Ping:
		if !h.Flags.Has(wire.Ack) {
			s.recvPing(payload)
		}
	}
}

// recvPing acknowledges a PING, and ends the connection if too many were too early.
func (s *strict) recvPing(payload []byte) {
	now := time.Now()
	s.pings = append(s.pings, now)
	gap := 2 * time.Hour
	if len(s.open) > 0 {
		gap = 5 * time.Minute
	}
	if s.free {
		s.strikes = 0
	} else if s.last.Add(gap).After(now) {
		s.strikes++
	}
	s.free, s.last = false, now
	s.WritePing(wire.Ack, wire.ParsePing(payload))
	if s.strikes > 2 && !s.ended {
		s.ended = true
		s.WriteGoAway(1<<31-1, wire.EnhanceYourCalm, "too_many_pings")
		s.Close()
	}
}

// wantAlive requires that the server has not ended the connection.
func (s *strict) wantAlive(t *testing.T, reason string) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		t.Errorf("%s: the server ended the connection after %d PINGs", reason, len(s.pings))
	}
}

// since returns the times of the PINGs, relative to start.
func (s *strict) since(start time.Time) (after []time.Duration) {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.pings {
		after = append(after, at.Sub(start))
	}
	return after
}

// acceptStrict is accept for a strict server.
func acceptStrict(v *visit, settings ...wire.Setting) *strict {
	return (&strict{accepted: v.accept(settings...)}).serve()
}

// keepIdle makes the door keep connections that have no stream.
func keepIdle(v *visit) {
	if tr, ok := v.rt.(*hyper.Transport); ok {
		tr.IdleConnTimeout = -1
	}
}

func TestKeepAliveStaysWithinWhatServersAllow(t *testing.T) {
	want := []time.Duration{30 * time.Second, 90 * time.Second}
	for at := want[1]; at+305*time.Second < time.Hour; {
		at += 305 * time.Second
		want = append(want, at)
	}
	for _, path := range []string{"/stream", "/hang"} {
		t.Run(path[1:], func(t *testing.T) {
			eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				began := time.Now()
				call := v.send(v.request("GET", path, nil).WithContext(ctx))
				server := acceptStrict(v)
				time.Sleep(time.Hour)
				server.wantAlive(t, "an hour of silence")
				if got := server.since(began); !slices.Equal(got, want) {
					t.Errorf("PINGs after %v, want %v", got, want)
				}
				cancel()
				if path == "/stream" {
					call.Want(t, "the response").Body.Close()
				} else {
					call.WantErr(t, "it was canceled")
				}
			})
		})
	}
}

// With the defaults a strict server ends no connection, neither net/http's, which sends no PING,
// nor hyper's. With a short interval that the user has set, it ends both.
func TestKeepAliveOfTheCallersOwn(t *testing.T) {
	netHTTP := door{name: "net/http", cleartext: true,
		enter: func(t *testing.T, dial dialFunc, cfg hyper.Config) http.RoundTripper {
			tr := priorKnowledge(dial)
			tr.HTTP2 = &http.HTTP2Config{SendPingTimeout: max(0, cfg.KeepAlive)}
			return tr
		}}
	for _, every := range []time.Duration{0, 30 * time.Second} {
		for _, d := range append([]door{netHTTP}, doors...) {
			t.Run(fmt.Sprint(d.name, " ", every), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					v := visitDoor(t, d, hyper.Config{KeepAlive: every})
					call := v.get("/stream")
					server := acceptStrict(v)
					resp := call.Want(t, "the response")
					if every == 0 {
						time.Sleep(time.Hour)
						server.wantAlive(t, "no interval is set")
						server.Close()
					}
					_, err := io.ReadAll(resp.Body)
					if err == nil {
						t.Error("the body ended without an error")
					}
					var ce *hyper.ConnError
					if told := errors.As(err, &ce); every > 0 && d.name != netHTTP.name {
						if !told || ce.Code != hyper.ErrCodeEnhanceYourCalm || !ce.FromPeer ||
							string(ce.Debug) != "too_many_pings" {
							t.Errorf("the body's error: %v", err)
						}
						if n := len(server.since(time.Now())); n != 4 {
							t.Errorf("%d PINGs", n)
						}
					}
				})
			})
		}
	}
}

// The network fails at some time during a long silence. A request that follows finds this out
// within a minute.
func TestDeadConnectionIsFoundWithinAMinuteOfARequest(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		points := 30
		if testing.Short() {
			points = 5
		}
		for i := range points {
			v := visitDoor(t, v.door, hyper.Config{})
			oneConn(v)
			ctx, cancel := context.WithCancel(t.Context())
			stream := v.send(v.request("GET", "/stream", nil).WithContext(ctx))
			server := acceptStrict(v)
			body := stream.Want(t, "a stream").Body
			time.Sleep(time.Duration(i) * 25 * time.Second)
			server.wantAlive(t, "before")
			server.client.Stall()
			time.Sleep(time.Duration(i) * time.Second)
			began := time.Now()
			err := v.sendOnce("/hang").WantErr(t, "the network is gone")
			if took := time.Since(began); took > time.Minute {
				t.Errorf("after %d s of silence it took %v", i*26, took)
			}
			if !errors.Is(err, hyper.ErrPingTimeout) {
				t.Errorf("the request: %v", err)
			}
			cancel()
			body.Close()
			server.Close()
		}
	})
}

// Without a request, the next PING finds a dead connection.
func TestDeadConnectionIsFoundInALongSilence(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		call := v.sendOnce("/hang")
		server := acceptStrict(v)
		time.Sleep(time.Hour)
		server.client.Stall()
		began := time.Now()
		call.WantErr(t, "the network is gone")
		if took := time.Since(began); took > 5*time.Minute+20*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// A connection that was idle for long is probed with a PING before it gets a request. If it is
// dead, the request uses another connection and does not fail.
func TestConnectionThatWasIdleForLongIsAskedFirst(t *testing.T) {
	for _, dead := range []bool{false, true} {
		t.Run(fmt.Sprint("dead ", dead), func(t *testing.T) {
			eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
				if !pooled(v) {
					return
				}
				keepIdle(v)
				call := v.get("/")
				server := acceptStrict(v)
				call.Want(t, "the first").Body.Close()
				began := time.Now()
				for i := range 10 {
					time.Sleep(20 * time.Minute)
					call = v.get("/")
					call.Want(t, "served by the same connection").Body.Close()
					if n := len(server.since(began)); n != 2*(i+1) {
						t.Errorf("%d PINGs after %d requests", n, i+1)
					}
				}
				server.wantAlive(t, "requests far from each other")
				if !dead {
					return
				}
				time.Sleep(20 * time.Minute)
				server.client.Stall()
				began = time.Now()
				call = v.get("/")
				acceptStrict(v)
				call.Want(t, "served by another connection").Body.Close()
				if took := time.Since(began); took > time.Second {
					t.Errorf("it took %v", took)
				}
				time.Sleep(time.Minute) // the first connection is found to be dead
			})
		})
	}
}

// golang/go#70575: four canceled requests at a limit of one stream ended a connection.
func TestCanceledRequestsSendOnePing(t *testing.T) {
	netHTTP := door{name: "net/http", cleartext: true,
		enter: func(_ *testing.T, dial dialFunc, _ hyper.Config) http.RoundTripper {
			return priorKnowledge(dial)
		}}
	for _, d := range append([]door{netHTTP}, doors...) {
		for _, limit := range []uint32{1, 2, 3} {
			t.Run(fmt.Sprint(d.name, ", limit ", limit), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					v := visitDoor(t, d, hyper.Config{})
					oneConn(v)
					call := v.get("/")
					server := acceptStrict(v, h2test.AtMost(limit))
					call.Want(t, "the first").Body.Close()
					for range 20 {
						ctx, cancel := context.WithTimeout(t.Context(), time.Second)
						var calls []*httpCall
						for range limit {
							calls = append(calls, v.send(v.request("GET", "/hang", nil).WithContext(ctx)))
						}
						for _, call := range calls {
							call.WantErr(t, "it is canceled")
						}
						cancel()
					}
					server.wantAlive(t, "after many requests")
					v.get("/").Want(t, "another request").Body.Close()
					server.wantAlive(t, "after another")
				})
			})
		}
	}
}

// A strict server does not end a connection that has random requests for two hours, many of which
// time out. This also holds with a window manager that asks for a PING at each event.
func TestPingsOfAllKindsStayWithinWhatServersAllow(t *testing.T) {
	probes := func(w *hyper.Window) hyper.WindowManager {
		return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
			w.ProbeRTT()
			return ev.Consumed()
		})
	}
	for i, cfg := range []hyper.Config{{}, {WindowManager: probes}} {
		eachDoor(t, cfg, func(t *testing.T, v *visit) {
			for seed := range uint64(10) {
				v := visitDoor(t, v.door, cfg)
				oneConn(v)
				keepIdle(v)
				r := rand.New(rand.NewPCG(seed, uint64(i)))
				first := v.get("/")
				server := acceptStrict(v, h2test.AtMost(uint32(1+r.IntN(3))))
				first.Want(t, "the first").Body.Close()
				var all sync.WaitGroup
				paths := [][]string{{"/", "/stream", "/hang"}, {"/hang"}, {"/", "/hang"}}[r.IntN(3)]
				for end := time.Now().Add(2 * time.Hour); time.Now().Before(end); {
					ctx, cancel := context.WithTimeout(t.Context(),
						time.Duration(r.ExpFloat64()*float64(time.Minute)))
					req := v.request("GET", paths[r.IntN(len(paths))], nil).WithContext(ctx)
					all.Go(func() {
						defer cancel()
						if resp, err := v.rt.RoundTrip(req); err == nil {
							io.Copy(io.Discard, resp.Body)
							resp.Body.Close()
						}
					})
					mean := []time.Duration{time.Second, time.Minute, 10 * time.Minute}[r.IntN(3)]
					time.Sleep(time.Duration(r.ExpFloat64() * float64(mean)))
				}
				all.Wait()
				server.wantAlive(t, fmt.Sprint("seed ", seed))
				server.Close()
				synctest.Wait()
			}
		})
	}
}

// A host that has ended a connection because of PINGs gets fewer of them. If it happens again, the
// interval becomes longer still.
func TestTooManyPingsAreRemembered(t *testing.T) {
	for _, every := range []time.Duration{0, 30 * time.Second} {
		t.Run(fmt.Sprint(every), func(t *testing.T) {
			eachDoor(t, hyper.Config{KeepAlive: every}, func(t *testing.T, v *visit) {
				if !pooled(v) {
					return
				}
				for _, gap := range []time.Duration{0, 305 * time.Second, 610 * time.Second,
					1220 * time.Second} {
					call := v.get("/stream")
					server := acceptStrict(v)
					began := time.Now()
					body := call.Want(t, "a response").Body
					if gap > 0 {
						time.Sleep(90 * time.Minute)
					}
					last := time.Duration(0)
					for _, at := range server.since(began) {
						if at-last < gap {
							t.Errorf("a PING after %v, the one before after %v, want a gap of %v", at, last,
								gap)
						}
						last = at
					}
					if gap > 0 && (last == 0 || 90*time.Minute-last > gap) {
						t.Errorf("the last PING after %v\n%s", last, server.Log())
					}
					server.WriteGoAway(1, wire.EnhanceYourCalm, "too_many_pings")
					server.Close()
					if _, err := io.ReadAll(body); !errors.Is(err, hyper.ErrCodeEnhanceYourCalm) {
						t.Errorf("the body's error: %v", err)
					}
					body.Close()
				}
			})
		})
	}
}
