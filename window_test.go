package hyper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A frame that is larger than a block is read directly into the stream's blocks. What the tests
// above show for small frames holds for it, too.
func TestLargeFrameInPartsKeepsTheBooks(t *testing.T) {
	const n = 3 * maxBlock
	body := octetsAt(1, 0, n)
	begun := append(wire.AppendFrameHeader(nil, wire.FrameHeader{Length: n, Type: wire.Data, StreamID: 1}),
		body[:n/2]...)
	exchange := func(t *testing.T, f func(peer *h2test.Peer, conn *Conn, resp *Response)) {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			peer.Ignore(wire.WindowUpdate)
			peer.AutoPing()
			resp := answerGet(t, peer, conn, 1, ":status: 200")
			peer.WriteRaw(begun)
			got := make([]byte, n/2)
			if _, err := io.ReadFull(resp.Body, got[:n/4]); err != nil {
				t.Fatal(err)
			}
			f(peer, conn, resp)
			synctest.Wait()
			conn.lock()
			defer conn.unlock()
			if conn.ending.err == nil && conn.flow.window.unread != 0 {
				t.Errorf("%d octets are booked as unread", conn.flow.window.unread)
			}
			if conn.reader.frames.block != nil {
				t.Error("a block is kept")
			}
		})
	}
	next := func(t *testing.T, peer *h2test.Peer, conn *Conn) {
		other := answerGet(t, peer, conn, 3, ":status: 200")
		peer.WriteData(3, wire.EndStream, []byte("next"))
		h2test.WantBody(t, "the next frame is found", other.Body, "next")
	}
	t.Run("read", func(t *testing.T) {
		exchange(t, func(peer *h2test.Peer, conn *Conn, resp *Response) {
			peer.WriteRaw(body[n/2:])
			peer.WriteData(1, wire.EndStream, []byte("end"))
			h2test.WantBody(t, "all of it", resp.Body, string(body[n/4:])+"end")
			next(t, peer, conn)
		})
	})
	t.Run("reset", func(t *testing.T) {
		exchange(t, func(peer *h2test.Peer, conn *Conn, resp *Response) {
			resp.Body.Close()
			peer.WantRSTStream("in the middle of a frame", 1, wire.Cancel)
			peer.WriteRaw(body[n/2:])
			peer.WantIdle("its rest is passed over")
			next(t, peer, conn)
		})
	})
	t.Run("reset by the peer", func(t *testing.T) {
		exchange(t, func(peer *h2test.Peer, conn *Conn, resp *Response) {
			peer.WriteRaw(body[n/2:])
			peer.WriteRSTStream(1, wire.InternalError)
			if got, err := io.ReadAll(resp.Body); !bytes.Equal(got, body[n/4:]) ||
				!errors.Is(err, ErrCodeInternal) {
				t.Errorf("%d octets and %v", len(got), err)
			}
			next(t, peer, conn)
		})
	})
	t.Run("lost", func(t *testing.T) {
		exchange(t, func(peer *h2test.Peer, conn *Conn, resp *Response) {
			peer.Close()
			if got, err := io.ReadAll(resp.Body); !bytes.Equal(got, body[n/4:n/2]) ||
				!errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%d octets and %v", len(got), err)
			}
		})
	})
}

// Whatever happens on the streams: once everything was read or closed, the peer may send the whole
// window of the connection again.
func TestCreditIsConserved(t *testing.T) {
	seeds := uint64(150)
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			w := newCreditWalk(t, seed, giveBack)
			w.peer.AutoPing()
			for range 120 {
				w.step()
			}
			w.finish()
		})
	}
}

// A creditWalk does at random what a peer and a caller may do, and some things that a peer may not
// do.
type creditWalk struct {
	t       *testing.T
	seed    uint64
	r       *rand.Rand
	peer    *h2test.Peer
	conn    *Conn
	streams []*walkStream
	opened  uint32 // ID of the next request

	forgiving bool   // a window manager may end an exchange
	pushed    uint32 // ID of the next promise
}

type walkStream struct {
	id     uint32
	s      *Stream
	resp   *Response
	cancel context.CancelFunc
	over   bool // the peer sends nothing more on it
}

func newCreditWalk(t *testing.T, seed uint64, managers WindowManagerFactory) *creditWalk {
	peer, conn := dialPeer(t, &Config{WindowManager: managers, Push: &PushPolicy{Max: 5},
		Authority: "own.example", KeepAlive: -1})
	peer.Ignore(wire.WindowUpdate, wire.RSTStream)
	return &creditWalk{t: t, seed: seed, r: rand.New(rand.NewPCG(seed, 0)), peer: peer, conn: conn, opened: 1,
		pushed: 2}
}

func (w *creditWalk) step() {
	synctest.Wait()
	if len(w.streams) == 0 || w.r.IntN(6) == 0 {
		w.open()
		return
	}
	s := w.streams[w.r.IntN(len(w.streams))]
	if w.r.IntN(2) == 0 {
		w.act(s)
	} else if !s.over {
		w.send(s)
	}
}

// open makes a request and responds to it, sometimes with a wrong content-length.
func (w *creditWalk) open() {
	ctx, cancel := context.WithCancel(w.t.Context())
	s := &walkStream{id: w.opened, cancel: cancel}
	w.opened += 2
	method := "GET"
	if w.r.IntN(8) == 0 {
		method = "HEAD"
	}
	got := doAsync(ctx, w.conn, &Request{Method: method})
	w.peer.WantHeaders(fmt.Sprint("seed ", w.seed), s.id)
	w.headers(s.id)
	if <-got.Done; got.Err != nil && w.forgiving {
		return
	}
	s.resp = got.Want(w.t, "the response")
	s.s = s.resp.Stream()
	w.streams = append(w.streams, s)
}

func (w *creditWalk) headers(id uint32) {
	fields := []string{":status: 200"}
	if w.r.IntN(3) == 0 {
		fields = append(fields, fmt.Sprint("content-length: ", w.r.IntN(5000)))
	}
	w.peer.WriteHeaders(id, 0, fields...)
}

// send writes the peer's next frame on s, which the client may have reset before.
func (w *creditWalk) send(s *walkStream) {
	var flags wire.Flags
	if w.r.IntN(5) == 0 {
		flags, s.over = wire.EndStream, true
	}
	most := min(w.peer.Credit(0), w.peer.Credit(s.id))
	switch w.r.IntN(12) {
	case 0:
		w.peer.WriteTrailers(s.id, "x-sum: 1")
		s.over = true
	case 1:
		w.peer.WriteTrailers(s.id, ":bad: 1")
		s.over = true
	case 2:
		w.peer.WriteRSTStream(s.id, wire.InternalError)
		s.over = true
	case 3:
		if s.id%2 == 1 && !s.over {
			w.promise(s)
		} else {
			w.peer.WriteData(s.id, flags, nil)
		}
	case 4, 5, 6:
		if pad := w.r.IntN(256); pad < most {
			w.peer.WritePaddedData(s.id, flags, make([]byte, w.r.IntN(min(1000, most-pad))), pad)
		} else {
			s.over = false
		}
	case 7:
		if most = w.peer.Credit(0); most > 0 { // may exceed the stream's window
			w.peer.WriteData(s.id, flags, make([]byte, min(16384, most)))
		} else {
			s.over = false
		}
	default:
		w.peer.WriteData(s.id, flags, make([]byte, w.r.IntN(1+min(3000, most))))
	}
}

// promise begins a push. The client may refuse it, because there are too many or because the parent
// has ended.
func (w *creditWalk) promise(parent *walkStream) {
	w.conn.lock()
	legal := parent.s.state.CanRecv() || w.conn.slots.isReset(parent.id)
	w.conn.unlock()
	if !legal {
		return
	}
	push := &walkStream{id: w.pushed, cancel: func() {}}
	w.pushed += 2
	w.peer.WritePushPromise(parent.id, push.id, ":method: GET", ":scheme: http", ":authority: own.example",
		":path: /")
	w.headers(push.id)
	w.streams = append(w.streams, push)
}

// act does something that a caller may do with s.
func (w *creditWalk) act(s *walkStream) {
	if s.resp == nil {
		return // a push is handled by claim
	}
	switch w.r.IntN(12) {
	case 0:
		s.resp.Body.Close()
	case 1:
		s.cancel()
	case 2:
		s.s.Reset(ErrCodeCancel)
	case 3, 4:
		w.claim(s)
	default:
		w.conn.lock()
		n := s.s.buf.Len()
		w.conn.unlock()
		if n > 0 {
			s.resp.Body.Read(make([]byte, 1+w.r.IntN(n)))
		}
	}
}

// claim takes the promises that have arrived. It cancels some, and requests the responses of
// others.
func (w *creditWalk) claim(parent *walkStream) {
	ended, cancel := context.WithCancel(w.t.Context())
	cancel()
	for push := range parent.resp.Pushes(ended) {
		if push == nil {
			return
		}
		for _, s := range w.streams {
			if s.id != push.ID() {
				continue
			}
			if w.r.IntN(3) == 0 {
				push.Cancel()
			} else if resp, err := push.Response(w.t.Context()); err == nil {
				s.s, s.resp = resp.Stream(), resp
			}
		}
	}
}

// finish closes all responses and checks the connection.
func (w *creditWalk) finish() {
	for _, s := range w.streams {
		if s.resp != nil {
			s.resp.Body.Close()
			for push := range s.resp.Pushes(w.t.Context()) { // ends, because the response was read to its end
				if push != nil {
					push.Cancel()
				}
			}
		}
		s.cancel()
	}
	reason := fmt.Sprint("seed ", w.seed)
	if err := w.conn.Err(); err != nil {
		w.t.Fatalf("%s: %v\n%s", reason, err, w.peer.Log())
	}
	h2test.WantFullCredit(w.t, w.peer, reason)
	wantPushes(w.t, w.conn, reason, 0)
	if n := w.conn.Stats().StreamsOpen; n != 0 {
		w.t.Errorf("%s: %d streams are open", reason, n)
	}
}

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

// The largest content-length plus one does not fit into an int64.
func TestLargestContentLengthKeepsTheWindowOpen(t *testing.T) {
	ev := WindowEvent{Kind: WindowBlocked, Length: math.MaxInt64}
	if got := defaultStreamManager.Update(ev); got != defaultStreamWindow {
		t.Errorf("%d is granted to a reader that waits, want %d", got, defaultStreamWindow)
	}
}
