package hyper

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/wire"
)

// A manager that calls its own connection would wait for a lock that its own goroutine holds. The
// connection detects the call, names it, and ends only the manager's stream.
func TestManagerThatCallsItsConnectionIsFound(t *testing.T) {
	for name, call := range map[string]func(s *Stream){
		"Conn.Stats":    func(s *Stream) { s.Conn().Stats() },
		"Conn.Get":      func(s *Stream) { s.Conn().Get(context.Background(), "/") },
		"Conn.Ping":     func(s *Stream) { s.Conn().Ping(context.Background()) },
		"Conn.Close":    func(s *Stream) { s.Conn().Close() },
		"Conn.Err":      func(s *Stream) { s.Conn().Err() },
		"Stream.Write":  func(s *Stream) { s.Write([]byte("x")) },
		"Stream.Reset":  func(s *Stream) { s.Reset(ErrCodeCancel) },
		"SetDeadline":   func(s *Stream) { s.SetDeadline(time.Now()) },
		"Body.Read":     func(s *Stream) { s.response.Body.Read(make([]byte, 1)) },
		"Body.Close":    func(s *Stream) { s.response.Body.Close() },
		"deep in calls": func(s *Stream) { nest(200, func() { s.Conn().Stats() }) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &Config{WindowManager: giveBack})
				var s *Stream
				opened := make(chan struct{})
				request := &Request{Method: "POST", WindowManager: func(*Window) WindowManager {
					return WindowManagerFunc(func(ev WindowEvent) int {
						if ev.Kind == WindowData {
							<-opened
							call(s)
						}
						return 0
					})
				}}
				var err error
				if s, err = conn.Open(t.Context(), request); err != nil {
					t.Fatal(err)
				}
				close(opened)
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: 200")
				synctest.Wait()
				peer.WriteData(1, 0, []byte("hello"))
				peer.WantRSTStream("the manager broke the rule", 1, wire.InternalError)
				peer.WantWindowUpdate("what the stream held", 0, 5)
				_, err = s.Response(t.Context())
				var m *WindowManagerError
				if !errors.As(err, &m) || m.StreamID != 1 || m.Event != WindowData ||
					!strings.Contains(err.Error(), "calls its own connection") {
					t.Errorf("got %v", err)
				}
				got := answerGet(t, peer, conn, 3, ":status: 204")
				got.Body.Close()
			})
		})
	}
}

func nest(depth int, f func()) {
	if depth == 0 {
		f()
		return
	}
	nest(depth-1, f)
}

func TestManagerOfTheConnectionThatCallsItEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var conn *Conn
		peer, c := dialPeer(t, &Config{WindowManager: func(*Window) WindowManager {
			return WindowManagerFunc(func(ev WindowEvent) int {
				if ev.Kind == WindowConsumed {
					conn.Stats()
				}
				return 0
			})
		}})
		conn = c
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, 0, []byte("hello"))
		resp.Body.Read(make([]byte, 1))
		peer.WantGoAway("its manager broke the rule", 0, wire.InternalError)
		var m *WindowManagerError
		if err := conn.Err(); !errors.As(err, &m) || m.StreamID != 0 || m.Panic == nil {
			t.Errorf("got %v", err)
		}
	})
}

// A manager may call another connection: a budget that connections share may look at all of them.
func TestManagerMayCallAnotherConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, other := dialPeer(t, nil)
		calls := 0
		peer, conn := dialPeer(t, &Config{WindowManager: func(*Window) WindowManager {
			return WindowManagerFunc(func(ev WindowEvent) int {
				if ev.Kind == WindowData {
					other.Stats()
					calls++
				}
				return 0
			})
		}})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		stop := make(chan struct{})
		go func() { // keeps the other connection busy
			for {
				select {
				case <-stop:
					return
				default:
					other.Stats()
				}
			}
		}()
		for range 1000 {
			peer.WriteData(1, 0, []byte("x"))
		}
		readOctets(t, resp.Body, 1000)
		close(stop)
		if calls != 2000 {
			t.Errorf("%d calls", calls)
		}
	})
}

// A goroutine that waits for the lock while a manager runs must not be taken for a manager.
func TestOthersMayWaitWhileAManagerRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{WindowManager: func(*Window) WindowManager {
			return WindowManagerFunc(func(ev WindowEvent) int {
				for i := range 100 {
					_ = fmt.Sprint(i) // takes some time
				}
				return ev.Consumed()
			})
		}})
		peer.Ignore(wire.WindowUpdate)
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		done := make(chan struct{})
		for range 8 {
			go func() {
				for range 200 {
					conn.Stats()
				}
				done <- struct{}{}
			}()
		}
		for range 500 {
			peer.WriteData(1, 0, []byte("x"))
		}
		readOctets(t, resp.Body, 500)
		for range 8 {
			<-done
		}
	})
}

// Whatever managers do, correct or not, and whatever a peer sends, the library's accounts agree
// with the peer's to the byte. All bytes that are taken from a window are reported to its manager
// as consumed.
func TestCreditIsConservedWhateverManagersDo(t *testing.T) {
	seeds := uint64(200)
	if testing.Short() {
		seeds = 20
	}
	kinds := map[string]int{}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			f := &managerFuzz{t: t, seed: seed, r: rand.New(rand.NewPCG(seed, 77)),
				windows: map[uint32]*fuzzedWindow{}}
			f.walk = newCreditWalk(t, seed, f.factory)
			f.walk.forgiving = true
			// An acknowledgment of PING would mean that the peer has processed frames that this
			// peer has not.
			f.walk.peer.Ignore(wire.Ping, wire.GoAway)
			for range 120 {
				if f.walk.conn.Err() != nil {
					break
				}
				f.walk.step()
				f.check()
			}
			kinds[f.ending()]++
		})
	}
	t.Log(kinds)
	if kinds["alive"] == 0 || kinds["ended by its manager"] == 0 || len(kinds) > 2 {
		t.Errorf("the connections ended as %v", kinds)
	}
}

// A managerFuzz makes managers that return random increments and keep accounts of their own.
type managerFuzz struct {
	t       *testing.T
	seed    uint64
	r       *rand.Rand
	walk    *creditWalk
	windows map[uint32]*fuzzedWindow
}

type fuzzedWindow struct {
	f      *managerFuzz
	w      *Window
	wild   bool  // breaks the rules
	credit int64 // expected credit, without the grants in asked
	asked  int64
	unread int64
	total  int64
	opened bool
	closed bool
}

func (f *managerFuzz) factory(w *Window) WindowManager {
	m := &fuzzedWindow{f: f, w: w, wild: f.r.IntN(12) == 0}
	if w.StreamID() == 0 {
		m.wild = f.r.IntN(4) == 0
	}
	f.windows[w.StreamID()] = m
	if m.wild && f.walk != nil && f.r.IntN(8) == 0 {
		panic("no manager today")
	}
	return m
}

func (m *fuzzedWindow) Update(ev WindowEvent) int {
	m.audit(ev)
	r := m.f.r
	if r.IntN(20) == 0 {
		m.w.WakeAfter(time.Duration(r.IntN(int(time.Second))))
	}
	if r.IntN(20) == 0 {
		m.w.ProbeRTT()
	}
	if r.IntN(20) == 0 {
		m.grant(r.IntN(10_000) - 2000)
	}
	if r.IntN(40) == 0 {
		w := m.w
		go w.Grant(0) // a Grant of 0 is allowed and does nothing
	}
	answer := 0
	switch r.IntN(8) {
	case 0:
		answer = r.IntN(100)
	case 1:
		answer = ev.Bytes
	case 2, 3:
		answer = max(0, 20_000-ev.Credit)
	}
	if m.wild && m.f.walk != nil { // not during the handshake
		switch r.IntN(60) {
		case 0:
			answer = -1 - r.IntN(100)
		case 1:
			panic("out of paint")
		case 2:
			answer = math.MaxInt
		}
	}
	if answer > 0 && ev.Kind != WindowClosed && !m.w.ended() {
		m.credit += min(int64(answer), wire.MaxWindow-m.credit)
	}
	return answer
}

func (m *fuzzedWindow) grant(n int) {
	m.w.Grant(n)
	m.asked += int64(max(0, n))
}

// audit checks an event against the ones before it.
func (m *fuzzedWindow) audit(ev WindowEvent) {
	fail := func(what string) {
		m.f.t.Errorf("seed %d, stream %d: %s: %+v, expected credit %d (and up to %d more) unread %d total %d",
			m.f.seed, m.w.StreamID(), what, ev, m.credit, m.asked, m.unread, m.total)
	}
	if m.closed {
		fail("an event behind Closed")
	}
	switch ev.Kind {
	case WindowOpened:
		m.credit, m.unread, m.total, m.opened = int64(ev.Credit), int64(ev.Unread), int64(ev.Total), true
		return
	case WindowData:
		// Otherwise the bytes came before the push was claimed, and WindowOpened has counted them.
		if m.total+int64(ev.Bytes) == ev.Total {
			m.credit -= int64(ev.Bytes)
			m.unread += int64(ev.Bytes)
			m.total += int64(ev.Bytes)
		} else {
			m.unread = int64(ev.Unread)
		}
	case WindowConsumed:
		m.unread -= int64(ev.Bytes)
	case WindowSettings:
		m.credit += int64(ev.Bytes)
	case WindowClosed:
		m.closed = true
		return
	}
	if !m.opened {
		fail("an event before Opened")
	}
	extra := int64(ev.Credit) - m.credit
	if extra < 0 || extra > m.asked {
		fail("credit")
	}
	m.asked -= extra
	m.credit = int64(ev.Credit)
	if int64(ev.Unread) != m.unread || m.unread < 0 || ev.Total != m.total || ev.Credit > wire.MaxWindow {
		fail("books")
	}
}

// check compares the library's accounts with the peer's.
func (f *managerFuzz) check() {
	synctest.Wait()
	c := f.walk.conn
	c.lock()
	defer c.unlock()
	if c.ending.err != nil {
		return
	}
	compare := func(id uint32, w *Window) {
		if got, want := int(w.credit-w.pending), f.walk.peer.Credit(id); got != want {
			f.t.Fatalf("seed %d: stream %d: the peer may send %d, and thinks %d\n%s", f.seed, id, got, want,
				f.walk.peer.Log())
		}
	}
	compare(0, &c.flow.window)
	unread := int64(0)
	for id, s := range c.streams.byID {
		if s.state.CanRecv() {
			compare(id, &s.window)
		}
		unread += s.window.unread
	}
	for _, s := range f.walk.streams { // streams that have ended and are not read
		if s.s != nil && c.streams.byID[s.id] == nil {
			unread += s.s.window.unread
		}
	}
	if f.walk.pushed == 2 && unread != c.flow.window.unread { // pushes that were not claimed hold some, too
		f.t.Fatalf("seed %d: %d octets are unread on streams, %d on the connection\n%s", f.seed, unread,
			c.flow.window.unread, f.walk.peer.Log())
	}
}

// ending says how the connection ended.
func (f *managerFuzz) ending() string {
	err := f.walk.conn.Err()
	var m *WindowManagerError
	switch {
	case err == nil:
		return "alive"
	case errors.As(err, &m):
		return "ended by its manager"
	}
	return fmt.Sprintf("%v", err)
}

// Grants after the end of a stream or connection do nothing, wherever they are made.
func TestGrantBehindTheEndIsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		factory, windows := windowHandles()
		peer, conn := dialPeer(t, &Config{WindowManager: factory})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, wire.EndStream, []byte("x"))
		synctest.Wait() // it is read
		windows[1].Grant(1000)
		peer.WantIdle("END_STREAM is here, though it is unread")
		wantBody(t, "all of it", resp.Body, "x")
		windows[1].Grant(math.MaxInt)
		windows[1].Grant(-5)
		peer.WantIdle("the stream is over")
		conn.Close()
		peer.WantGoAway("closed", 0, wire.NoError)
		windows[0].Grant(1000)
		windows[1].Grant(1000)
	})
}

// An update reports whether it ended what its window belongs to, so that callers need not look.
func TestUpdateReportsThatItEndedItsStreamOrConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{WindowManager: func(*Window) WindowManager {
			return WindowManagerFunc(func(ev WindowEvent) int {
				if ev.Kind == WindowTick {
					return -1
				}
				return 0
			})
		}})
		s, err := conn.Open(t.Context(), &Request{})
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the request", 1)
		peer.Ignore(wire.RSTStream, wire.GoAway)
		conn.lock()
		defer conn.unlock()
		for _, w := range []*Window{&s.window, &conn.flow.window} {
			if w.update(WindowEvent{Kind: WindowConsumed}) || w.ended() {
				t.Errorf("window %d: an event that breaks no rule ended it", w.StreamID())
			}
			if !w.update(WindowEvent{Kind: WindowTick}) || !w.ended() {
				t.Errorf("window %d: a negative increment did not end it", w.StreamID())
			}
		}
	})
}
