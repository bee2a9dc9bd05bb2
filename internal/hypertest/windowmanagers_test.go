// This file tests window managers of the user, also those that misbehave.

package hypertest

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

func TestRequestWindowManagerOverridesTheConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log windowLog
		req := &hyper.Request{Path: "/own"}
		own := log.managers(func(w *hyper.Window, ev hyper.WindowEvent) int {
			if w.Request() != req || w.StreamID() != 1 {
				t.Errorf("stream %d, request %v", w.StreamID(), w.Request())
			}
			if fixed, ok := w.ConnManager().(hyper.FixedWindow); !ok || fixed.Size != 65535 {
				t.Errorf("the connection's manager is %v", w.ConnManager())
			}
			return ev.Received()
		})
		req.WindowManager = own
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: hyper.FixedWindow{}.New})
		got := doAsync(t.Context(), conn, req)
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 10))
		peer.WantWindowUpdate("by its own manager", 1, 10)
		log.want(t, "of this stream alone",
			"1 Opened credit=65535 length=-1",
			"1 Headers credit=65535 length=-1",
			"1 Data bytes=10 credit=65525 unread=10 total=10 length=-1")
		got.Want(t, "the response").Body.Close()
	})
}

func TestFactoryIsAskedForTheConnectionFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: func(w *hyper.Window) hyper.WindowManager {
			asked = append(asked, fmt.Sprint(w.StreamID(), w.Request() != nil, w.ConnManager() != nil))
			return hyper.FixedWindow{}.New(w)
		}})
		for id := uint32(1); id < 5; id += 2 {
			got := getAsync(conn, "/")
			peer.WantHeaders("the request", id)
			peer.WriteHeaders(id, wire.EndStream, ":status: 200")
			got.Want(t, "the response")
		}
		if want := []string{"0 false false", "1 true true", "3 true true"}; !slices.Equal(asked, want) {
			t.Errorf("asked %q, want %q", asked, want)
		}
	})
}

// windowHandles returns a factory without managers. The windows change only by Grant.
func windowHandles() (hyper.WindowManagerFactory, map[uint32]*hyper.Window) {
	handles := map[uint32]*hyper.Window{}
	return func(w *hyper.Window) hyper.WindowManager {
		handles[w.StreamID()] = w
		return nil
	}, handles
}

func TestWindowWithoutManagerMovesByGrantAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		factory, windows := windowHandles()
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: factory, InitialStreamWindow: 10})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 10))
		h2test.ReadBytes(t, resp.Body, 10)
		go resp.Body.Read(make([]byte, 1))
		peer.WantIdle("nothing is granted")
		windows[1].Grant(5)
		peer.WantWindowUpdate("from another goroutine", 1, 5)
		windows[0].Grant(6)
		peer.WantWindowUpdate("the connection's", 0, 6)
		windows[1].Grant(0)
		windows[1].Grant(-1)
		peer.WantIdle("that is nothing")
		peer.WriteData(1, wire.EndStream, make([]byte, 5))
		synctest.Wait()
		windows[1].Grant(5)
		peer.WantIdle("the stream has ended")
		conn.Close()
		windows[0].Grant(5)
		peer.WantGoAway("and then the connection", 0, wire.NoError)
		peer.WantClosed("so nothing more comes")
	})
}

func TestGrantInsideUpdateFollowsTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log windowLog
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: log.managers(func(w *hyper.Window,
			ev hyper.WindowEvent) int {
			if w.StreamID() == 0 || ev.Kind != hyper.WindowData {
				return 0
			}
			w.Grant(3)
			w.Grant(4)
			return 10
		})})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 100))
		peer.WantWindowUpdate("in one frame", 1, 17)
		resp.Body.Close()
	})
}

// RFC 9113 §6.9.1: a sender MUST NOT allow a flow-control window to exceed 2^31-1. The scripted
// peer fails the test if that happens.
func TestGrantsAreClampedAtTheLargestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unlimited := func(*hyper.Window) hyper.WindowManager {
			return hyper.WindowManagerFunc(func(hyper.WindowEvent) int { return math.MaxInt32 })
		}
		peer, conn, _ := newPeer(t, &hyper.Config{WindowManager: unlimited})
		peer.WantPreface("first")
		peer.WantWindowUpdate("all that there can be", 0, wire.MaxWindow-65535)
		peer.WriteSettings()
		peer.WriteSettingsAck()
		peer.WantSettingsAck("theirs")
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WantWindowUpdate("all that there can be", 1, wire.MaxWindow-65535)
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 1000))
		peer.WantWindowUpdate("as much as went", 0, 1000)
		peer.WantWindowUpdate("as much as went", 1, 1000)
		got.Want(t, "the response").Body.Close()
	})
}

func TestHugeGrantsAreClampedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		factory, windows := windowHandles()
		peer, _, pipe := newPeer(t, &hyper.Config{WindowManager: factory})
		peer.Handshake()
		pipe.SetWriteBuffer(0)
		for range 4 {
			windows[0].Grant(math.MaxInt)
		}
		pipe.SetWriteBuffer(-1)
		peer.WantWindowUpdate("once", 0, wire.MaxWindow-65535)
		peer.WantIdle("and no more")
	})
}

func TestIncrementsBeforeAWriteAreOneFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		factory, windows := windowHandles()
		peer, conn, pipe := newPeer(t, &hyper.Config{WindowManager: factory})
		peer.Handshake()
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		pipe.SetWriteBuffer(0)
		go conn.Ping(t.Context())
		synctest.Wait() // the PING's write blocks
		for range 10 {
			windows[1].Grant(10)
			windows[0].Grant(20)
			synctest.Wait()
		}
		pipe.SetWriteBuffer(-1)
		peer.AutoPing()
		peer.WantWindowUpdate("ten increments", 1, 100)
		peer.WantWindowUpdate("ten increments", 0, 200)
		peer.WantIdle("and nothing else")
		resp.Body.Close()
	})
}

func TestNoWindowUpdateBehindTheEnd(t *testing.T) {
	always := func(w *hyper.Window) hyper.WindowManager {
		return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
			if w.StreamID() == 0 || ev.Kind == hyper.WindowOpened || ev.Kind == hyper.WindowHeaders {
				return 0
			}
			return 100
		})
	}
	for name, end := range map[string]func(*h2test.Peer){
		"END_STREAM with the data": func(p *h2test.Peer) { p.WriteData(1, wire.EndStream, make([]byte, 10)) },
		"END_STREAM behind it": func(p *h2test.Peer) {
			p.WriteData(1, 0, make([]byte, 10))
			p.WriteData(1, wire.EndStream, nil)
		},
		"RST_STREAM": func(p *h2test.Peer) {
			p.WriteData(1, 0, make([]byte, 10))
			p.WriteRSTStream(1, wire.Cancel)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn, pipe := newPeer(t, &hyper.Config{WindowManager: always})
				peer.Handshake()
				resp := answerGet(t, peer, conn, 1, ":status: 200")
				pipe.SetWriteBuffer(0)
				go conn.Ping(t.Context())
				synctest.Wait() // the PING's write blocks, and later grants are not sent
				end(peer)
				synctest.Wait()
				h2test.ReadBytes(t, resp.Body, 10)
				pipe.SetWriteBuffer(-1)
				peer.AutoPing()
				peer.WantIdle(name)
			})
		})
	}
}

func TestNoWindowUpdateBehindOurReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		factory, windows := windowHandles()
		peer, conn, pipe := newPeer(t, &hyper.Config{WindowManager: factory})
		peer.Handshake()
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		pipe.SetWriteBuffer(0)
		go conn.Ping(t.Context())
		synctest.Wait() // the PING's write blocks
		windows[1].Grant(100)
		resp.Body.Close()
		windows[1].Grant(100)
		pipe.SetWriteBuffer(-1)
		peer.AutoPing()
		peer.WantRSTStream("it is not read", 1, wire.Cancel)
		peer.WantIdle("and no more is wanted")
	})
}

func TestMisbehavingManagerEndsItsStreamAlone(t *testing.T) {
	for kind := hyper.WindowOpened; kind < hyper.WindowClosed; kind++ {
		if kind == hyper.WindowRTT {
			continue // only the connection's manager is told
		}
		for _, panics := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v panic=%v", kind, panics), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					peer, conn := dialPeer(t, &hyper.Config{InitialStreamWindow: 10, WindowManager: giveBack})
					peer.Ignore(wire.WindowUpdate)
					other := getAsync(conn, "/other")
					peer.WantHeaders("another stream", 1)
					got := doAsync(t.Context(), conn,
						&hyper.Request{WindowManager: func(w *hyper.Window) hyper.WindowManager {
							return misbehavingManager{w: w, at: kind, panics: panics}
						}})
					peer.WantHeaders("the request", 3)
					go provokeWindowEvents(t, peer, conn, got, kind)
					if kind == hyper.WindowSettings {
						peer.WantFrame("a change of the window", wire.Settings)
						peer.WriteSettingsAck()
					}
					peer.WantRSTStream("our fault", 3, wire.InternalError)
					wantManagerError(t, failureOf(got), 3, kind, panics)
					peer.WriteHeaders(1, 0, ":status: 200")
					peer.WriteData(1, wire.EndStream, []byte("unharmed"))
					h2test.WantBody(t, "the other stream", other.Want(t, "another").Body, "unharmed")
					h2test.WantFullCredit(t, peer, "what the stream held")
				})
			})
		}
	}
}

// provokeWindowEvents makes every kind of event happen on stream 3, whose window is 10 bytes.
func provokeWindowEvents(t *testing.T, peer *h2test.Peer, conn *hyper.Conn, got *h2test.Call[*hyper.Response],
	kind hyper.WindowEventKind) {
	if kind == hyper.WindowOpened {
		return
	}
	peer.WriteHeaders(3, 0, ":status: 200")
	if kind == hyper.WindowHeaders {
		return
	}
	<-got.Done
	if kind == hyper.WindowTick {
		return
	}
	if kind == hyper.WindowSettings {
		conn.UpdateSettings(t.Context(), hyper.Setting{ID: hyper.SettingInitialWindowSize, Value: 20})
		return
	}
	peer.WriteData(3, 0, make([]byte, 10))
	if kind != hyper.WindowData {
		io.ReadAll(got.Value.Body)
	}
}

// failureOf returns the error with which the exchange ended, of the response or of its body.
func failureOf(r *h2test.Call[*hyper.Response]) error {
	if <-r.Done; r.Err != nil {
		return r.Err
	}
	_, err := io.ReadAll(r.Value.Body)
	return err
}

type misbehavingManager struct {
	w      *hyper.Window
	at     hyper.WindowEventKind
	panics bool
}

func (m misbehavingManager) Update(ev hyper.WindowEvent) int {
	if ev.Kind == hyper.WindowOpened && m.at == hyper.WindowTick {
		m.w.WakeAfter(time.Second)
	}
	if ev.Kind != m.at {
		return 0
	}
	if m.panics {
		panic("out of paint")
	}
	return -3
}

func wantManagerError(t *testing.T, err error, stream uint32, kind hyper.WindowEventKind, panics bool) {
	t.Helper()
	var m *hyper.WindowManagerError
	if !errors.As(err, &m) || !errors.Is(err, hyper.ErrCodeInternal) {
		t.Fatalf("got %v, want a WindowManagerError with INTERNAL_ERROR", err)
	}
	want := hyper.WindowManagerError{StreamID: stream, Event: kind, Value: -3}
	if panics {
		want.Value, want.Panic = 0, "out of paint"
	}
	if m.StreamID != want.StreamID || m.Event != want.Event || m.Value != want.Value ||
		m.Panic != want.Panic {
		t.Errorf("got %+v, want %+v", *m, want)
	}
	if stack := string(m.Stack); strings.Contains(stack, "misbehaving") != panics ||
		strings.Contains(err.Error(), "goroutine") {
		t.Errorf("the stack of the panic: %q, and the text: %v", stack, err)
	}
}

func TestMisbehavingManagerOfTheConnectionEndsIt(t *testing.T) {
	for _, kind := range []hyper.WindowEventKind{hyper.WindowOpened, hyper.WindowRTT, hyper.WindowData,
		hyper.WindowConsumed, hyper.WindowTick} {
		for _, panics := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v panic=%v", kind, panics), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					peer, conn, _ := newPeer(t, &hyper.Config{WindowManager: func(w *hyper.Window,
					) hyper.WindowManager {
						if w.StreamID() != 0 {
							return nil
						}
						return misbehavingManager{w: w, at: kind, panics: panics}
					}})
					peer.WantPreface("whatever comes")
					got := getAsync(conn, "/")
					peer.Ignore(wire.Settings, wire.Headers)
					synctest.Wait()
					peer.WriteSettings()
					peer.WriteSettingsAck()
					peer.WriteHeaders(1, 0, ":status: 200")
					peer.WriteData(1, 0, make([]byte, 10))
					if kind == hyper.WindowConsumed {
						h2test.ReadBytes(t, got.Want(t, "the response").Body, 10)
					}
					peer.WantGoAway("our fault", 0, wire.InternalError)
					peer.WantClosed("and the end")
					wantManagerError(t, conn.Err(), 0, kind, panics)
					wantManagerError(t, failureOf(got), 0, kind, panics)
				})
			})
		}
	}
}

func TestManagersAnswerToClosedIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: func(w *hyper.Window) hyper.WindowManager {
			return misbehavingManager{w: w, at: hyper.WindowClosed, panics: w.StreamID() == 1}
		}})
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		h2test.WantBody(t, "its end", got.Want(t, "the response").Body, "")
		peer.WantIdle("there is nothing left to break")
		conn.Close()
		if err := conn.Err(); err != hyper.ErrClosed {
			t.Errorf("Err: %v", err)
		}
	})
}

func TestProbeRTTStaysWithinItsBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var probes []bool
		rtts := 0
		peer, conn := dialPeer(t, &hyper.Config{KeepAlive: -1,
			WindowManager: func(w *hyper.Window) hyper.WindowManager {
				return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
					switch {
					case w.StreamID() == 0 && ev.Kind == hyper.WindowData:
						probes = append(probes, w.ProbeRTT())
					case ev.Kind == hyper.WindowRTT:
						rtts++
					}
					return 0
				})
			}})
		id := uint32(1)
		request := func() { // makes traffic, then an event in which the manager probes
			t.Helper()
			resp := answerGet(t, peer, conn, id, ":status: 200")
			peer.WriteData(id, wire.EndStream, []byte("x"))
			h2test.WantBody(t, "the body", resp.Body, "x")
			id += 2
		}
		request()
		data := peer.WantPing("the first probe", 0)
		request() // while the first probe is in progress
		peer.WritePing(wire.Ack, data)
		for range 2 {
			request()
			peer.WritePing(wire.Ack, peer.WantPing("a burst of three", 0))
		}
		request() // beyond the burst
		time.Sleep(10 * time.Second)
		request()
		peer.WritePing(wire.Ack, peer.WantPing("ten seconds later", 0))
		peer.WantIdle("and no other PING")
		if want := []bool{true, false, true, true, false, true}; !slices.Equal(probes, want) {
			t.Errorf("probes %v, want %v", probes, want)
		}
		if rtts != 1+4 {
			t.Errorf("%d round trips measured, want that of SETTINGS and 4 probes", rtts)
		}
	})
}

// The connection reads its clock once for all that one read of the socket returns. A PING that is
// sent in the meantime is later than a forged acknowledgment in the same read.
func TestForgedAnswerToAPingIsNoNegativeRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var samples []time.Duration
		manager := func(w *hyper.Window) hyper.WindowManager {
			return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
				switch {
				case w.StreamID() == 0:
				case ev.Kind == hyper.WindowData:
					w.ProbeRTT()
				case ev.Kind == hyper.WindowRTT:
					samples = append(samples, ev.RTT)
				}
				return 0
			})
		}
		slow := func(hyper.TraceEvent) { time.Sleep(time.Millisecond) }
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: manager, Trace: slow})
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.Batch(func() {
			peer.WriteHeaders(1, 0, ":status: 200")
			peer.WriteData(1, 0, []byte("x"))
			peer.WritePing(wire.Ack, [8]byte{7: 1})
		})
		got.Want(t, "the response")
		time.Sleep(time.Second)
		synctest.Wait()
		if len(samples) != 1 || samples[0] <= 0 {
			t.Errorf("samples: %v", samples)
		}
	})
}

func TestProbeRTTNeedsTrafficOfOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var probes []bool
		peer, conn := dialPeer(t, &hyper.Config{KeepAlive: -1,
			WindowManager: func(w *hyper.Window) hyper.WindowManager {
				return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
					if w.StreamID() == 0 && ev.Kind == hyper.WindowData {
						probes = append(probes, w.ProbeRTT())
					}
					return 0
				})
			}})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, 0, []byte("x"))
		peer.WritePing(wire.Ack, peer.WantPing("the first", 0))
		peer.WriteData(1, 0, []byte("x"))
		peer.WantIdle("servers end connections for PINGs and nothing else")
		if !slices.Equal(probes, []bool{true, false}) {
			t.Errorf("probes %v", probes)
		}
		resp.Body.Close()
	})
}

func TestWindowEventTexts(t *testing.T) {
	if got := fmt.Sprint(hyper.WindowOpened, hyper.WindowClosed, hyper.WindowEventKind(0),
		hyper.WindowEventKind(77)); got !=
		"Opened Closed ? WindowEventKind(77)" {
		t.Error(got)
	}
	if ev := (hyper.WindowEvent{Kind: hyper.WindowData, Bytes: 5}); ev.Received() != 5 || ev.Consumed() != 0 {
		t.Error("Data")
	}
	if ev := (hyper.WindowEvent{Kind: hyper.WindowConsumed, Bytes: 5}); ev.Received() != 0 ||
		ev.Consumed() != 5 {
		t.Error("Consumed")
	}
	negative := &hyper.WindowManagerError{StreamID: 5, Event: hyper.WindowData, Value: -3}
	if got := negative.Error(); got !=
		"hyper: window manager of stream 5 returned -3 for Data: an increment cannot be negative" {
		t.Error(got)
	}
	panicked := &hyper.WindowManagerError{Event: hyper.WindowTick, Panic: "no"}
	if got := panicked.Error(); got != "hyper: window manager of the connection panicked at Tick: no" {
		t.Error(got)
	}
}

func TestFactoryThatPanicsEndsItsStreamAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.Ignore(wire.WindowUpdate)
		_, err := conn.Do(t.Context(),
			&hyper.Request{WindowManager: func(*hyper.Window) hyper.WindowManager {
				panic("no manager today")
			}})
		var we *hyper.WindowManagerError
		if !errors.As(err, &we) || we.Panic != "no manager today" {
			t.Errorf("Do: %v", err)
		}
		peer.WantHeaders("the request had gone out", 1)
		peer.WantRSTStream("and is taken back", 1, wire.InternalError)
		got := getAsync(conn, "/next")
		peer.WantHeaders("the connection lives", 3)
		peer.WriteHeaders(3, wire.EndStream, ":status: 204")
		got.Want(t, "another stream")
	})
}

func TestStreamManagerThatProbesGetsTheRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.Ignore(wire.WindowUpdate)
		var sample time.Duration
		factory := func(w *hyper.Window) hyper.WindowManager {
			return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
				switch ev.Kind {
				case hyper.WindowHeaders:
					if !w.ProbeRTT() {
						t.Error("the budget refuses the first probe")
					}
				case hyper.WindowRTT:
					sample = ev.RTT
				}
				return 0
			})
		}
		got := doAsync(t.Context(), conn, &hyper.Request{WindowManager: factory})
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		data := peer.WantPing("the probe", 0)
		time.Sleep(20 * time.Millisecond)
		peer.WritePing(wire.Ack, data)
		synctest.Wait()
		resp := got.Want(t, "the response")
		resp.Body.Close()
		if sample != 20*time.Millisecond {
			t.Errorf("RTT event: %v", sample)
		}
	})
}

// Inside Update, a manager may look at another window of its connection and move it.
func TestManagerMovesAnotherWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		windows := map[uint32]*hyper.Window{}
		var before, after hyper.WindowEvent
		peer, conn := dialPeer(t, &hyper.Config{InitialStreamWindow: 100,
			WindowManager: func(w *hyper.Window) hyper.WindowManager {
				windows[w.StreamID()] = w
				return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
					if w.StreamID() == 3 && ev.Kind == hyper.WindowData {
						before = windows[1].State()
						windows[1].GrantNow(50)
						windows[1].GrantNow(-1)
						after = windows[1].State()
					}
					return 0
				})
			}})
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-length: 1000")
		peer.WriteData(1, 0, make([]byte, 30))
		h2test.ReadBytes(t, resp.Body, 10)
		answerGet(t, peer, conn, 3, ":status: 200")
		peer.WriteData(3, 0, make([]byte, 1))
		peer.WantWindowUpdate("stream 3's manager raised the window of stream 1", 1, 50)
		synctest.Wait()
		want := hyper.WindowEvent{Credit: 70, Unread: 20, Total: 30, Length: 970, Now: before.Now,
			RTT: before.RTT}
		if before != want {
			t.Errorf("the state before: %+v", before)
		}
		if before.Credit = 120; after != before {
			t.Errorf("the state after: %+v, want %+v", after, before)
		}
	})
}
