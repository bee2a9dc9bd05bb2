package hypertest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// RFC 9113 §5.1.2: the peer's SETTINGS_MAX_CONCURRENT_STREAMS limits how many streams may be open.
// Callers that need another stream wait in order.

// A watched context counts how often Done is called, and so how often a caller starts to wait.
type watched struct {
	context.Context
	waits atomic.Int64
}

// Done counts its calls.
func (w *watched) Done() <-chan struct{} {
	w.waits.Add(1)
	return w.Context.Done()
}

// waitInTurn makes a connection on which no stream is allowed, and starts callers requests that
// wait for one, in the order of their paths.
func waitInTurn(t *testing.T, v *visit, callers int) (*accepted, []*httpCall, []*watched) {
	t.Helper()
	first := v.get("/first")
	peer := v.accept(h2test.AtMost(1))
	peer.WantHeaders("the only one", 1)
	if v.name == "Open" {
		peer.WantData("the end of the request", 1, wire.EndStream, 0)
	}
	peer.WriteHeaders(1, wire.EndStream, ":status: 204")
	first.Want(t, "the only one").Body.Close()
	peer.Ignore(wire.Settings, wire.Data, wire.WindowUpdate)
	peer.WriteSettings(h2test.AtMost(0))
	peer.WantIdle("no stream is allowed")
	var calls []*httpCall
	var contexts []*watched
	for i := range callers {
		ctx := &watched{Context: t.Context()}
		req := v.request("GET", fmt.Sprint("/", i), nil).WithContext(ctx)
		calls, contexts = append(calls, v.send(req)), append(contexts, ctx)
		synctest.Wait()
	}
	return peer, calls, contexts
}

// oneConn limits the door to one connection, so that requests wait for a stream on it.
func oneConn(v *visit) {
	switch tr := v.rt.(type) {
	case *hyper.Transport:
		tr.MaxConnsPerHost = 1
	case *http.Transport:
		tr.MaxConnsPerHost = 1
	}
}

// pooled reports whether the door makes another connection when one takes no more requests.
func pooled(v *visit) bool { return !v.own && !strings.HasPrefix(v.name, "ConnRoundTrip") }

func TestFlipsOfTheLimitWakeEachWaiterOnce(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		oneConn(v)
		const callers, flips = 200, 50
		peer, calls, contexts := waitInTurn(t, v, callers)
		before := make([]int64, callers)
		for i, ctx := range contexts {
			before[i] = ctx.waits.Load()
		}
		peer.Batch(func() {
			for range flips {
				peer.WriteSettings(h2test.AtMost(callers))
				peer.WriteSettings(h2test.AtMost(0))
			}
		})
		peer.WantIdle("the last one of the batch allows none")
		for i, ctx := range contexts {
			if n := ctx.waits.Load() - before[i]; n > 1 {
				t.Fatalf("caller %d was woken %d times", i, n)
			}
		}
		if !pooled(v) {
			for i, ctx := range contexts {
				if n := ctx.waits.Load() - before[i]; n > 0 {
					t.Fatalf("caller %d was woken for a slot that is not there", i)
				}
			}
		}
		peer.Batch(func() {
			for range flips {
				peer.WriteSettings(h2test.AtMost(0))
				peer.WriteSettings(h2test.AtMost(callers))
			}
		})
		for range callers {
			if f := peer.WantFrame("the last one of the batch allows all",
				wire.Headers); f.StreamID > 2*callers+1 {
				t.Errorf("stream %d", f.StreamID)
			}
		}
		peer.Close()
		for _, call := range calls {
			call.WantErr(t, "the peer is gone")
		}
	})
}

func TestOrderIsKeptWhenSlotsAreTakenBack(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		oneConn(v)
		const callers = 20
		peer, calls, _ := waitInTurn(t, v, callers)
		for range 20 {
			for _, n := range []uint32{callers, 0, 3, 0, callers / 2, 1, 0} {
				peer.WriteSettings(h2test.AtMost(n), h2test.AtMost(0)) // in one write, or one by one
				peer.Batch(func() {
					peer.WriteSettings(h2test.AtMost(n))
					peer.WriteSettings(h2test.AtMost(0))
				})
			}
		}
		peer.WantIdle("no stream is allowed at the end")
		for i := range uint32(callers) {
			peer.WriteSettings(h2test.AtMost(1))
			peer.WantHeaders("in the order in which they came", 3+2*i, fmt.Sprint(":path: /", i))
			peer.WriteSettings(h2test.AtMost(0))
			peer.WriteHeaders(3+2*i, wire.EndStream, ":status: 204")
			calls[i].Want(t, "the response").Body.Close()
			peer.WantIdle("one at a time")
		}
	})
}

// The client sends a PING after RST_STREAM, to learn when the peer no longer counts the stream. If
// the peer does not acknowledge it, waiting requests fail, or move to another connection, instead
// of waiting forever.
func TestPeerThatAnswersNoPingLosesTheWaitingRequests(t *testing.T) {
	for _, cfg := range []hyper.Config{{}, {PingTimeout: 3 * time.Second}} {
		eachDoor(t, cfg, func(t *testing.T, v *visit) {
			oneConn(v)
			first := v.send(v.request("GET", "/first", nil).WithContext(h2test.WithTimeout(t, time.Second)))
			peer := v.accept(h2test.AtMost(2))
			peer.Ignore(wire.Data, wire.WindowUpdate, wire.GoAway)
			peer.WantHeaders("the first", 1)
			stays := v.get("/stays")
			peer.WantHeaders("one that goes on", 3)
			peer.WriteHeaders(3, 0, ":status: 200")
			body := stays.Want(t, "its response").Body
			first.WantErr(t, "it timed out")
			peer.WantRSTStream("it timed out", 1, wire.Cancel)
			began := time.Now()
			waiting := v.get("/waits")
			peer.WantPing("the slot may be free", 0)
			limit := 15 * time.Second
			if cfg.PingTimeout > 0 {
				limit = cfg.PingTimeout
			}
			if !pooled(v) {
				err := waiting.WantErr(t, "no slot will come free")
				if strings.Count(err.Error(), "hyper: ") > 1 || !strings.Contains(err.Error(), "192.0.2.2") {
					t.Errorf("its text is %q", err)
				}
				if !hyper.Retryable(err) || !errors.Is(err, hyper.ErrPingTimeout) ||
					!errors.Is(err, hyper.ErrDrained) {
					t.Errorf("the request that waited: %v", err)
				}
				if _, err := v.rt.RoundTrip(v.request("GET", "/later", nil)); !hyper.Retryable(err) {
					t.Errorf("a later request: %v", err)
				}
			} else {
				second := v.accept()
				second.WantHeaders("it moves to another connection", 1, ":path: /waits")
				second.WriteHeaders(1, wire.EndStream, ":status: 204")
				waiting.Want(t, "served there").Body.Close()
			}
			if took := time.Since(began); took != limit {
				t.Errorf("it took %v, want %v", took, limit)
			}
			peer.WriteData(3, wire.EndStream, []byte("whole"))
			h2test.WantBody(t, "what was open comes to its end", body, "whole")
			body.Close()
			peer.WantClosed("and the connection ends with it")
		})
	}
}

// Even if one PING is lost, slots are released, whether the PING was the client's or the caller's.
func TestOneLostPingIsNotTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, h2test.AtMost(1))
		lost := h2test.Go(func() (any, error) { return conn.Ping(h2test.WithTimeout(t, time.Hour)) })
		peer.WantPing("it is lost", 0)
		reset := doAsync(h2test.WithTimeout(t, time.Second), conn, &hyper.Request{})
		peer.WantHeaders("the first", 1)
		peer.AutoPing() // acknowledges the next PING
		reset.WantErr(t, "it timed out")
		peer.WantRSTStream("it timed out", 1, wire.Cancel)
		next := getAsync(conn, "/next")
		time.Sleep(16 * time.Second)
		peer.WantHeaders("the answer to another PING", 3, ":path: /next")
		peer.WriteHeaders(3, wire.EndStream, ":status: 204")
		next.Want(t, "its response")
		lost.WantErr(t, "no answer")
	})
}

// A call of Ping that gives up leaves no state, and later calls still work.
func TestPingsThatTimeOutAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, h2test.AtMost(1))
		for range 3000 {
			if _, err := conn.Ping(h2test.WithTimeout(t, time.Millisecond)); !errors.Is(err,
				context.DeadlineExceeded) {
				t.Fatal(err)
			}
			peer.WantPing("asked for", 0)
		}
		peer.WritePing(wire.Ack, [8]byte{7: 100})
		peer.WantIdle("an answer that is late")
	})
}

// A caller's PING also serves to release slots. If its caller gives up before the acknowledgment,
// the client sends another PING for the waiting requests.
func TestCanceledPingDoesNotHoldOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, h2test.AtMost(1))
		ctx, cancel := context.WithCancel(t.Context())
		slow := doAsync(ctx, conn, &hyper.Request{Path: "/slow"})
		peer.WantHeaders("the request", 1)
		cancel()
		slow.WantErr(t, "it was cancelled")
		peer.WantRSTStream("the peer counts the stream until it reads this", 1, wire.Cancel)

		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ping := h2test.Go(func() (time.Duration, error) { return conn.Ping(short) })
		question := peer.WantPing("the caller's", 0)
		next := getAsync(conn, "/next")
		ping.WantErr(t, "the peer is slower than its caller's limit")
		peer.WritePing(wire.Ack, question)
		peer.WritePing(wire.Ack, peer.WantPing("the one for the slot", 0))
		peer.WantHeaders("the request that waited", 3, ":path: /next")
		peer.WriteHeaders(3, wire.EndStream, ":status: 200")
		next.Want(t, "the response")
	})
}

// crowd makes a connection whose peer stops reading. Then callers send requests with large headers
// and a timeout, three each. sent counts the requests, and unclear the final errors that do not say
// that the request was waiting for the peer to read.
func crowd(t *testing.T, v *visit, callers int) (peer *accepted, sent, unclear *atomic.Int64) {
	t.Helper()
	warm := v.get("/warm")
	peer = v.accept()
	peer.WantHeaders("the first", 1)
	peer.Ignore(wire.Data, wire.WindowUpdate)
	peer.WriteHeaders(1, wire.EndStream, ":status: 204")
	warm.Want(t, "the first").Body.Close()
	synctest.Wait()
	peer.client.SetWriteBuffer(0)
	sent, unclear = &atomic.Int64{}, &atomic.Int64{}
	for i := range callers {
		go func() {
			for n := range 3 {
				req := v.request("GET", "/", nil).WithContext(h2test.WithTimeout(t, 10*time.Second))
				req.Header.Set("X-Large", fmt.Sprintf("%d %d %s", i, n, strings.Repeat("v", 8000)))
				sent.Add(1)
				resp, err := v.rt.RoundTrip(req)
				switch {
				case err == nil:
					resp.Body.Close()
				case n == 2 && !strings.Contains(err.Error(), "waiting for the peer to read"):
					unclear.Add(1)
				}
			}
		}()
	}
	return peer, sent, unclear
}

// While a peer reads slowly, requests wait: if about 1 MiB is queued to be written, no more is
// added.
func TestRequestsWaitWhileThePeerReadsSlowly(t *testing.T) {
	eachDoor(t, hyper.Config{WriteStallTimeout: -1, KeepAlive: -1}, func(t *testing.T, v *visit) {
		oneConn(v)
		const callers = 400
		peer, sent, unclear := crowd(t, v, callers)
		time.Sleep(35 * time.Second) // all have given up, and their streams are reset
		synctest.Wait()
		before := peer.client.OctetsWritten()
		peer.Ignore(wire.Headers, wire.RSTStream, wire.Ping)
		peer.client.SetWriteBuffer(-1)
		synctest.Wait()
		if n := peer.client.OctetsWritten() - before; n > 2<<20 || n < 512<<10 {
			t.Errorf("%d octets were to be written", n)
		}
		if n := sent.Load(); n != 3*callers {
			t.Errorf("%d requests were made", n)
		}
		if n := unclear.Load(); n > 0 {
			t.Errorf("%d errors do not say what was waited for", n)
		}
		peer.Close()
	})
}

// Requests that wait for space in the write queue continue in order when the peer reads again.
func TestRequestsGoOnWhenThePeerHasRead(t *testing.T) {
	eachDoor(t, hyper.Config{WriteStallTimeout: -1, KeepAlive: -1, WindowManager: hyper.ReadWindow{}.New},
		func(t *testing.T, v *visit) {
			oneConn(v)
			warm := v.get("/warm")
			peer := v.accept()
			peer.WantHeaders("the first", 1)
			peer.Ignore(wire.Data, wire.WindowUpdate)
			peer.WriteHeaders(1, wire.EndStream, ":status: 204")
			warm.Want(t, "the first").Body.Close()
			synctest.Wait()
			peer.client.SetWriteBuffer(0)
			const callers = 300 // 2.4 MB of headers
			var calls []*httpCall
			for i := range callers {
				req := v.request("GET", fmt.Sprint("/", i), nil)
				req.Header.Set("X-Large", fmt.Sprintf("%d %s", i, strings.Repeat("v", 8000)))
				calls = append(calls, v.send(req))
				synctest.Wait()
			}
			peer.client.SetWriteBuffer(-1)
			late := v.get("/late")
			for i := range uint32(callers) {
				h := peer.WantHeaders("in any order of a group", 3+2*i)
				var n int
				if _, err := fmt.Sscanf(h.Get(":path"), "/%d", &n); err != nil {
					continue // the late request, which is sent when no other waits
				}
				if off := n - int(i); off > 200 || off < -200 {
					t.Errorf("request %d is stream %d", n, 3+2*i)
				}
			}
			peer.WantHeaders("the last one", 3+2*callers)
			for i := range uint32(callers + 1) {
				peer.WriteHeaders(3+2*i, wire.EndStream, ":status: 204")
			}
			for _, call := range append(calls, late) {
				call.Want(t, "its response").Body.Close()
			}
		})
}

// A full write queue does not delay what must not wait: acknowledgments, RST_STREAM and
// WINDOW_UPDATE.
func TestWhatIsOwedIsQueuedBehindACrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, client := newPeer(t, &hyper.Config{WriteStallTimeout: -1, KeepAlive: -1,
			WindowManager: hyper.ReadWindow{}.New})
		peer.Handshake()
		peer.Ignore(wire.WindowUpdate)
		s, err := conn.Open(t.Context(), &hyper.Request{})
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the stream", 1)
		client.SetWriteBuffer(0)
		large := hyper.Header{{Name: "x-large", Value: strings.Repeat("v", 8000)}}
		for range 400 {
			doAsync(t.Context(), conn, &hyper.Request{Header: large})
		}
		synctest.Wait()
		waiting := conn.Stats().Waiting
		if waiting < 100 {
			t.Fatalf("%d wait", waiting)
		}
		peer.WritePing(0, [8]byte{1})
		peer.WriteSettings()
		synctest.Wait()
		s.Reset(hyper.ErrCodeCancel)
		pinged := h2test.Go(func() (any, error) { return conn.Ping(h2test.WithTimeout(t, time.Second)) })
		if err := pinged.WantErr(t, "Ping waits, too"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		peer.Ignore(wire.Headers)
		client.SetWriteBuffer(-1)
		peer.WantPing("the answer", wire.Ack)
		peer.WantSettingsAck("the acknowledgment")
		peer.WantRSTStream("the reset", 1, wire.Cancel)
		synctest.Wait()
		if n := conn.Stats().Waiting; n != 0 {
			t.Errorf("%d still wait", n)
		}
	})
}

// When the connection ends, requests that wait for space in the write queue fail.
func TestWaitingForRoomEndsWithTheConnection(t *testing.T) {
	for name, end := range map[string]func(peer *h2test.Peer, conn *hyper.Conn){
		"Close":  func(_ *h2test.Peer, conn *hyper.Conn) { conn.Close() },
		"GOAWAY": func(peer *h2test.Peer, _ *hyper.Conn) { peer.WriteGoAway(1<<31-1, wire.NoError, "") },
		"EOF":    func(peer *h2test.Peer, _ *hyper.Conn) { peer.Close() },
		"stall":  func(*h2test.Peer, *hyper.Conn) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn, client := newPeer(t, nil)
				peer.Handshake()
				client.SetWriteBuffer(0)
				large := hyper.Header{{Name: "x-large", Value: strings.Repeat("v", 8000)}}
				var calls []*h2test.Call[*hyper.Response]
				for range 300 {
					calls = append(calls, doAsync(t.Context(), conn, &hyper.Request{Header: large}))
					synctest.Wait()
				}
				last := calls[len(calls)-1]
				ping := h2test.Go(func() (any, error) { return conn.Ping(t.Context()) })
				update := h2test.Go(func() (any, error) {
					return nil, conn.UpdateSettings(t.Context(),
						hyper.Setting{ID: hyper.SettingInitialWindowSize, Value: 1 << 20})
				})
				synctest.Wait()
				end(peer, conn)
				if err := last.WantErr(t, "the request that waited"); name != "Close" &&
					!hyper.Retryable(err) {
					t.Errorf("the request that waited: %v", err)
				}
				if name == "GOAWAY" {
					conn.Close()
				}
				ping.WantErr(t, "Ping")
				update.WantErr(t, "UpdateSettings")
			})
		})
	}
}
