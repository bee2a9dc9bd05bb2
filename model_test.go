package hyper

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

var (
	modelActions = flag.Int("actions", 0, "how many actions TestModel takes (0: a few)")
	modelSeed    = flag.Uint64("seed", 0, "TestModel's seed (0: HYPER_SEED, or a new one)")
)

// TestModel lets many callers and a strict peer do at random what they may do, on one connection
// after another. It trusts neither side: both know every byte of every body, and every error must
// have a cause on the other side.
func TestModel(t *testing.T) {
	actions := *modelActions
	switch {
	case actions > 0:
	case testing.Short() || boundsSlow:
		actions = 5_000
	default:
		actions = 60_000
	}
	seed := *modelSeed
	if text := os.Getenv("HYPER_SEED"); seed == 0 && text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	if seed == 0 {
		seed = rand.Uint64()
	}
	var sum modelFigures
	start := time.Now()
	for i := uint64(0); sum.actions.Load() < int64(actions) && !t.Failed(); i++ {
		synctest.Test(t, func(t *testing.T) { newModelRun(t, seed+i, &sum).play() })
	}
	t.Logf("seed %d: %v in %v", seed, &sum, time.Since(start).Round(time.Millisecond))
}

// modelFigures count what the test did.
type modelFigures struct {
	actions, conns, streams, pushes, up, down atomic.Int64
	whole, broken                             atomic.Int64 // exchanges that succeeded, and the others
}

func (f *modelFigures) String() string {
	return fmt.Sprintf("%d actions, %d connections, %d streams, %d pushes, %d octets up, %d down, %d "+
		"exchanges whole, %d broken",
		f.actions.Load(), f.conns.Load(), f.streams.Load(), f.pushes.Load(), f.up.Load(), f.down.Load(),
		f.whole.Load(), f.broken.Load())
}

// A modelRun is one connection. Callers are goroutines that act on their own. The peer is the
// test's goroutine.
type modelRun struct {
	*auditor
	seed    uint64
	r       *rand.Rand
	sum     *modelFigures
	running atomic.Int64 // number of callers
	most    int64        // the most callers at a time
	number  int          // number of exchanges so far
	cancels []*modelExchange

	// These belong to the peer's goroutine.
	streams  map[uint32]*peerStream
	open     []*peerStream // those that may still do something
	lastSeen uint32
	lastPush uint32
	limits   []uint32 // MAX_CONCURRENT_STREAMS in force, then those not acknowledged
	acks     int      // SETTINGS of the client to acknowledge
	pongs    [][8]byte
	pings    [][8]byte
	pushMax  int // from the client's configuration
	frameMax int
	finish   bool // bring everything to a good end

	mu     sync.Mutex          // guards the fields below, and the facts in peerStream
	seen   map[int]*peerStream // by the number of the exchange
	goAway int64               // the last stream of GOAWAY, or -1
	lost   bool                // the peer or the network ends the connection
	closed bool                // the client ends the connection
}

// A peerStream is what the peer knows of a stream.
type peerStream struct {
	id, n    int
	method   string
	upload   int64 // length that the request announces
	trailed  bool  // trailers follow the body
	got      int64
	gotEnd   bool
	reset    bool // by the client
	interims int

	answered bool
	body     int64 // length to be sent
	sent     int64
	trailers bool

	// These are the facts, guarded by mu.
	processed bool
	sentEnd   bool
	sentReset bool
	early     bool // the reset came before the end
	code      wire.ErrCode
}

// A modelExchange is what a caller knows of its exchange.
type modelExchange struct {
	n        int
	key      uint32 // selects the bytes of the response's body
	cancel   context.CancelFunc
	canceled atomic.Bool // the caller itself canceled it
}

func newModelRun(t *testing.T, seed uint64, sum *modelFigures) *modelRun {
	r := rand.New(rand.NewPCG(seed, 1))
	m := &modelRun{seed: seed, r: r, sum: sum, streams: map[uint32]*peerStream{}, limits: []uint32{1<<32 - 1},
		seen: map[int]*peerStream{}, goAway: -1, frameMax: wire.MinMaxFrameSize}
	cfg := &Config{Authority: "own.example", MaxFrameSize: 16384 << r.IntN(4),
		HeaderTableSize: []int{0, 100, 4096, 10000, -1}[r.IntN(5)]}
	managers := []WindowManagerFactory{
		ReadWindow{}.New, ReadWindow{Stream: 3000, Connection: 70_000}.New, FixedWindow{Size: 20_000}.New,
		RateLimitedWindow{PerSecond: 200_000}.New,
		reviving(WindowEvent.Consumed), reviving(WindowEvent.Received), AdaptiveWindow{}.New,
		AdaptiveWindow{Initial: 3000, Budget: 70_000}.New,
	}
	manager := managers[r.IntN(len(managers))]
	cfg.WindowManager = m.noting(manager)
	if r.IntN(3) > 0 {
		cfg.InitialStreamWindow = []int{-1, 1, 1000, 65535, 300_000}[r.IntN(5)]
		if r.IntN(2) == 0 {
			cfg.WindowManager = m.noting(ReadWindow{Stream: 1 << 18}.New)
		}
	}
	if r.IntN(3) > 0 {
		cfg.Push = &PushPolicy{Max: 1 + r.IntN(10), Accept: func(p *Push) bool {
			m.conn.lock()
			m.auditor.streams[p.s.id] = p.s
			m.conn.unlock()
			return p.ID()%26 != 0
		}}
		m.pushMax = cfg.Push.Max
	}
	if m.most = 3 + r.Int64N(30); r.IntN(8) == 0 {
		m.most = 200
	}
	m.auditor = newAuditor(t, cfg)
	sum.conns.Add(1)
	return m
}

// reviving returns a manager that does what answer says, but never leaves a window almost shut.
func reviving(answer func(ev WindowEvent) int) WindowManagerFactory {
	return func(*Window) WindowManager {
		return WindowManagerFunc(func(ev WindowEvent) int {
			if n := answer(ev); n > 0 {
				return n
			}
			if ev.Credit+ev.Unread < 1000 {
				return 2000 - ev.Credit - ev.Unread
			}
			return 0
		})
	}
}

// noting wraps factory so that the auditor sees every stream, however short-lived.
func (m *modelRun) noting(factory WindowManagerFactory) WindowManagerFactory {
	return func(w *Window) WindowManager {
		if w.s != nil {
			m.auditor.streams[w.s.id] = w.s
		} else if m.pushMax > 0 {
			return ReadWindow{}.New(w) // unclaimed pushes would fill a smaller one and block everything
		}
		return factory(w)
	}
}

func (m *modelRun) errorf(format string, args ...any) {
	m.t.Helper()
	m.t.Errorf("seed %d: %s\n%s", m.seed, fmt.Sprintf(format, args...), m.peer.Log())
}

func (m *modelRun) did() { m.sum.actions.Add(1) }

func (m *modelRun) chance(n int) bool { return m.r.IntN(n) == 0 }

// play runs one connection: a few hundred random turns, then one of several ends.
func (m *modelRun) play() {
	if m.chance(2) {
		time.Sleep(corkDelay)
	}
	m.announce()
	for range 200 + m.r.IntN(600) {
		m.turn()
		if m.t.Failed() {
			m.conn.Close()
			return
		}
		if m.goAway >= 0 && m.conn.Err() != nil {
			break
		}
	}
	m.server.Resume()
	m.client.SetWriteBuffer(-1)
	switch m.r.IntN(6) {
	case 0: // the client closes the connection
		m.mu.Lock()
		m.closed = true
		m.mu.Unlock()
		m.conn.Close()
	case 1: // the client shuts the connection down
		m.mu.Lock()
		m.closed = true
		m.mu.Unlock()
		m.running.Add(1)
		go func() {
			defer m.running.Add(-1)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			err := m.conn.Shutdown(ctx)
			if err == context.DeadlineExceeded && m.pushMax > 0 {
				return // a push that was not claimed does not end
			}
			if err != nil && m.goAway < 0 {
				m.errorf("Shutdown returned %v", err)
			}
		}()
	case 2: // the peer sends GOAWAY
		m.leave()
	case 3: // the peer closes its socket
		m.lose()
		m.server.Close()
	case 4: // the network fails
		m.lose()
		m.client.BreakReadAfter(m.r.Int64N(100), syscall.ECONNRESET)
		m.client.BreakWriteAfter(m.r.Int64N(100), syscall.ECONNRESET)
	}
	m.finish = true
	uploads := func() bool { // some go on after their responses
		return m.conn.Err() == nil && slices.ContainsFunc(m.open,
			func(s *peerStream) bool { return s.id%2 == 1 })
	}
	for i := 0; m.running.Load() > 0 || uploads(); i++ {
		m.recvAll(m.audit("the end"))
		m.settle()
		time.Sleep(time.Duration(m.r.IntN(500)) * time.Millisecond)
		if i == 2000 {
			for _, s := range m.open {
				m.t.Logf("%+v, credit %d, window %d", s, m.peer.Credit(uint32(s.id)),
					m.allowed[uint32(s.id)]-s.got)
			}
			stacks := make([]byte, 1<<20)
			m.errorf("%d callers hang; the connection's error is %v; its credit is %d\n%s",
				m.running.Load(), m.conn.Err(), m.peer.Credit(0), stacks[:runtime.Stack(stacks, true)])
			break
		}
	}
	m.audit("all callers have returned")
	if m.conn.Err() == nil && !m.t.Failed() {
		if n := m.conn.Stats().StreamsOpen; n > m.pushMax {
			m.errorf("%d streams are open", n)
		}
	}
	m.conn.Close()
	m.audit("Close")
	time.Sleep(time.Second) // for request bodies that sleep in Read
}

func (m *modelRun) lose() {
	m.mu.Lock()
	m.lost = true
	m.mu.Unlock()
}

// turn is one step of the peer's goroutine: a caller does something, the peer does something, or
// time passes.
func (m *modelRun) turn() {
	switch k := m.r.IntN(20); {
	case k < 5 && m.running.Load() < m.most:
		m.begin()
	case k < 14:
		m.recvAll(m.take())
		for range 1 + m.r.IntN(4) {
			m.act()
		}
	case k == 14:
		m.aside()
	case k == 15:
		m.meddle()
	case k == 16:
		m.recvAll(m.audit("a turn"))
	case k == 17:
		time.Sleep([]time.Duration{time.Microsecond, time.Millisecond, 20 * time.Millisecond,
			300 * time.Millisecond}[m.r.IntN(4)])
	case k == 18:
		synctest.Wait()
	default:
		runtime.Gosched()
	}
}

// begin starts a caller.
func (m *modelRun) begin() {
	m.number++
	ctx, cancel := context.WithCancel(context.Background())
	e := &modelExchange{n: m.number, key: uint32(m.number), cancel: cancel}
	if m.chance(4) {
		m.cancels = append(m.cancels, e)
	}
	c := &modelCaller{m: m, e: e, ctx: ctx, r: rand.New(rand.NewPCG(m.seed, uint64(2+e.n)))}
	m.running.Add(1)
	go func() {
		defer m.running.Add(-1)
		c.exchange()
	}()
}

// meddle does something as a caller that belongs to no new exchange.
func (m *modelRun) meddle() {
	m.did()
	switch m.r.IntN(5) {
	case 0, 1:
		if len(m.cancels) > 0 {
			e := m.cancels[len(m.cancels)-1]
			m.cancels = m.cancels[:len(m.cancels)-1]
			e.canceled.Store(true)
			e.cancel()
		}
	case 2:
		m.aloneGo("Ping", func() error { _, err := m.conn.Ping(context.Background()); return err })
	case 3:
		size := []uint32{0, 1, 1000, 20_000, 65_535, 200_000}[m.r.IntN(6)]
		m.aloneGo("UpdateSettings", func() error {
			return m.conn.UpdateSettings(context.Background(), Setting{SettingInitialWindowSize, size})
		})
	case 4:
		switch m.r.IntN(3) {
		case 0:
			m.client.SetChunk([]int{0, 0, 100, 1000}[m.r.IntN(4)])
		case 1:
			m.server.Stall()
			m.client.SetWriteBuffer(m.r.IntN(5000))
		case 2:
			m.server.Resume()
			m.client.SetWriteBuffer(-1)
		}
	}
}

// aloneGo runs a call that must succeed while the connection lives.
func (m *modelRun) aloneGo(name string, f func() error) {
	m.running.Add(1)
	go func() {
		defer m.running.Add(-1)
		err := f()
		m.mu.Lock()
		defer m.mu.Unlock()
		if err != nil && !m.lost && !m.closed && m.goAway < 0 {
			m.errorf("%s: %v", name, err)
		}
	}()
}

// announce sends the peer's SETTINGS.
func (m *modelRun) announce() {
	limit := m.limits[len(m.limits)-1]
	var settings []wire.Setting
	add := func(id wire.SettingID, value uint32) {
		settings = append(settings,
			wire.Setting{ID: id, Value: value})
	}
	if m.chance(2) {
		limit = []uint32{1, 2, 10, 100, 1<<32 - 1}[m.r.IntN(5)]
		add(wire.SettingMaxConcurrentStreams, limit)
	}
	if m.chance(2) {
		add(wire.SettingInitialWindowSize, []uint32{0, 1, 1000, 65535, 1 << 20}[m.r.IntN(5)])
	}
	if m.chance(3) {
		add(wire.SettingMaxFrameSize, uint32(16384<<m.r.IntN(3)))
	}
	if m.chance(3) {
		// The peer's decoder accepts two updates in one block only if one is 0.
		add(wire.SettingHeaderTableSize, []uint32{0, 4096, 9000}[m.r.IntN(3)])
	}
	m.limits = append(m.limits, limit)
	m.peer.WriteSettings(settings...)
	m.did()
}

// aside does something as the peer that belongs to no stream.
func (m *modelRun) aside() {
	m.did()
	switch m.r.IntN(6) {
	case 0:
		if len(m.limits) < 4 {
			m.announce()
		}
	case 1:
		ping := [8]byte{byte(m.r.IntN(256)), byte(len(m.pings))}
		m.pings = append(m.pings, ping)
		m.peer.WritePing(0, ping)
	case 2:
		if m.goAway < 0 && m.chance(10) {
			m.mu.Lock()
			m.goAway = wire.MaxStreamID
			m.mu.Unlock()
			m.peer.WriteGoAway(wire.MaxStreamID, wire.NoError, "soon")
		}
	case 3:
		m.peer.WriteFrame(wire.FrameHeader{Length: 3, Type: 0x77, StreamID: uint32(m.r.IntN(9))},
			[]byte("???"))
	default:
		m.settleSettings()
	}
}

func (m *modelRun) settleSettings() {
	for ; m.acks > 0; m.acks-- {
		m.peer.WriteSettingsAck()
	}
	for _, data := range m.pongs {
		m.peer.WritePing(wire.Ack, data)
	}
	m.pongs = nil
}

// leave sends GOAWAY. Streams that the peer has not begun to process never will be.
func (m *modelRun) leave() {
	m.mu.Lock()
	last := int64(0)
	for id, s := range m.streams {
		if id%2 == 1 && s.processed {
			last = max(last, int64(id))
		}
	}
	m.goAway = last
	m.mu.Unlock()
	for id, s := range m.streams {
		if id%2 == 1 && int64(id) > last {
			s.reset = true // nothing more is sent on it
		}
	}
	m.peer.WriteGoAway(uint32(last), wire.NoError, "bye")
	m.did()
}

// settle brings everything that is in progress closer to its end.
func (m *modelRun) settle() {
	m.settleSettings()
	for range 3 {
		for _, s := range slices.Clone(m.open) {
			m.respond(s)
		}
	}
}

// act does something on one stream.
func (m *modelRun) act() {
	if m.acks+len(m.pongs) > 0 && m.chance(3) {
		m.settleSettings()
	}
	if len(m.open) > 0 {
		m.respond(m.open[m.r.IntN(len(m.open))])
	}
}

// over reports whether neither side has anything left to send on s, and then takes s off the list.
func (m *modelRun) over(s *peerStream) bool {
	if s.reset || s.sentReset || s.gotEnd && s.sentEnd {
		if i := slices.Index(m.open, s); i >= 0 {
			m.open = slices.Delete(m.open, i, i+1)
		}
		return true
	}
	return false
}

// respond sends the peer's next frame on s, and may open its window.
func (m *modelRun) respond(s *peerStream) {
	if m.over(s) {
		return
	}
	m.did()
	id := uint32(s.id)
	if !s.gotEnd && m.chance(2) {
		if window := m.allowed[id] - s.got; window < 1<<18 {
			m.grant(id, 1+m.r.IntN(1<<16))
		}
		if window := m.allowed[0] - m.sent[0]; window < 1<<19 {
			m.grant(0, 1+m.r.IntN(1<<17))
		}
	}
	if !m.finish && m.chance(40) {
		m.giveUp(s)
		return
	}
	switch {
	case s.sentEnd:
		if !m.finish && m.chance(10) {
			// RFC 9113 §8.1: the response is complete, and the peer does not want the rest of the
			// request.
			m.sayReset(s, wire.NoError)
		}
	case !s.answered && s.interims < 3 && m.chance(5):
		s.interims++
		m.process(s)
		m.peer.WriteHeaders(id, 0, []string{":status: 100", ":status: 103"}[m.r.IntN(2)],
			"x-n: "+strconv.Itoa(s.n))
	case !s.answered:
		m.answer(s)
	case s.sent < s.body:
		m.sendBody(s)
	case s.trailers:
		m.sayEnd(s)
		m.peer.WriteTrailers(id, "x-sum: "+strconv.Itoa(s.n))
	default:
		m.sayEnd(s)
		m.peer.WriteData(id, wire.EndStream, nil)
	}
	if id%2 == 1 && s.answered && !s.sentEnd && !m.finish && m.pushMax > 0 && m.chance(8) {
		m.promise(s)
	}
	m.over(s)
}

func (m *modelRun) process(s *peerStream) {
	m.mu.Lock()
	s.processed = true
	m.mu.Unlock()
}

func (m *modelRun) sayEnd(s *peerStream) {
	m.mu.Lock()
	s.sentEnd = true
	m.mu.Unlock()
}

func (m *modelRun) sayReset(s *peerStream, code wire.ErrCode) {
	m.mu.Lock()
	s.sentReset, s.code, s.early = true, code, !s.sentEnd
	m.mu.Unlock()
	m.peer.WriteRSTStream(uint32(s.id), code)
	m.over(s)
}

// giveUp resets a stream. A stream that was not processed may be refused.
func (m *modelRun) giveUp(s *peerStream) {
	code := []wire.ErrCode{wire.InternalError, wire.Cancel, wire.NoError, wire.EnhanceYourCalm}[m.r.IntN(4)]
	if !s.processed && m.chance(2) {
		code = wire.RefusedStream
	} else {
		m.process(s)
	}
	m.sayReset(s, code)
}

// answer sends the response's header, which announces what follows.
func (m *modelRun) answer(s *peerStream) {
	status := []string{"200", "200", "200", "404", "204", "304"}[m.r.IntN(6)]
	s.answered = true
	m.process(s)
	switch m.r.IntN(8) {
	case 0:
	case 1:
		s.body = m.r.Int64N(150_000)
	default:
		s.body = m.r.Int64N(3000)
	}
	s.trailers = m.chance(3)
	fields := []string{":status: " + status, "x-n: " + strconv.Itoa(s.n), fmt.Sprint("x-body: ", s.body),
		"x-filler: " + strings.Repeat("f", m.r.IntN(60))}
	if s.trailers {
		fields = append(fields, "x-trailed: yes")
	}
	if m.chance(2) {
		fields = append(fields, fmt.Sprint("content-length: ", s.body))
	}
	if s.method == "HEAD" || status == "204" || status == "304" {
		s.body = 0
	}
	var flags wire.Flags
	if s.body == 0 && !s.trailers && m.chance(2) {
		flags = wire.EndStream
		m.sayEnd(s)
	}
	if m.chance(10) {
		m.peer.WriteHeadersSplit(uint32(s.id), flags, 10+m.r.IntN(50), fields...)
	} else {
		m.peer.WriteHeaders(uint32(s.id), flags, fields...)
	}
}

// sendBody sends DATA within both windows.
func (m *modelRun) sendBody(s *peerStream) {
	id := uint32(s.id)
	key := uint32(s.n)
	n := int(min(s.body-s.sent, int64(m.peer.Credit(0)), int64(m.peer.Credit(id)), int64(m.frameMax)))
	if n > 1 && m.chance(2) {
		n = 1 + m.r.IntN(n)
	}
	if n <= 0 {
		if m.chance(10) {
			m.peer.WriteData(id, 0, nil)
		}
		return
	}
	pad := m.r.IntN(256)
	var flags wire.Flags
	end := func(n int) {
		if s.sent+int64(n) == s.body && !s.trailers && m.chance(2) {
			flags = wire.EndStream
			m.sayEnd(s)
		}
	}
	if n > pad+1 && m.chance(5) {
		n -= pad + 1
		end(n)
		m.peer.WritePaddedData(id, flags, octetsAt(key, s.sent, n), pad)
	} else {
		end(n)
		m.peer.WriteData(id, flags, octetsAt(key, s.sent, n))
	}
	s.sent += int64(n)
	m.sum.down.Add(int64(n))
}

// promise begins a push.
func (m *modelRun) promise(parent *peerStream) {
	pushes := 0
	for _, s := range m.open {
		if s.id%2 == 0 {
			pushes++
		}
	}
	if pushes >= m.pushMax {
		return
	}
	m.lastPush += 2
	m.number++
	s := &peerStream{id: int(m.lastPush), n: m.number, method: "GET", gotEnd: true, processed: true}
	m.streams[m.lastPush] = s
	m.open = append(m.open, s)
	m.mu.Lock()
	m.seen[s.n] = s
	m.mu.Unlock()
	m.peer.WritePushPromise(uint32(parent.id), m.lastPush, ":method: GET", ":scheme: http",
		":authority: own.example", fmt.Sprint(":path: /", s.n))
	m.sum.pushes.Add(1)
	m.did()
}

// recvAll processes what the client sent.
func (m *modelRun) recvAll(frames []h2test.Frame) {
	for _, f := range frames {
		if reason := m.recv(f); reason != "" {
			m.errorf("the client sent %v: %s", f.FrameHeader, reason)
		}
	}
}

// recv processes a frame. It returns what is illegal about it, or "".
func (m *modelRun) recv(f h2test.Frame) (illegal string) {
	s := m.streams[f.StreamID]
	switch f.Type {
	case wire.Settings:
		if !f.Flags.Has(wire.Ack) {
			for setting := range wire.ParseSettings(f.Payload) {
				if setting.ID == wire.SettingMaxFrameSize {
					m.frameMax = int(setting.Value)
				}
			}
			m.acks++
		} else if m.limits = m.limits[1:]; len(m.limits) == 0 {
			return "nothing is to be acknowledged"
		}
	case wire.Ping:
		switch data := wire.ParsePing(f.Payload); {
		case !f.Flags.Has(wire.Ack):
			m.pongs = append(m.pongs, data)
		case len(m.pings) == 0 || m.pings[0] != data:
			return "it answers no PING"
		default:
			m.pings = m.pings[1:]
		}
	case wire.GoAway:
		if !m.closed && m.goAway < 0 {
			return "the connection does not end"
		}
	case wire.Headers:
		if s == nil {
			return m.recvRequest(f)
		}
		switch {
		case s.reset && int64(f.StreamID) <= lastKept(m.goAway), s.gotEnd:
			return "the stream has ended"
		case !f.Flags.Has(wire.EndStream) || !s.trailed:
			return "trailers without END_STREAM, or unasked"
		case f.Headers.Get("x-sum") != strconv.Itoa(s.n):
			return "other trailers"
		}
		return m.recvEnd(s)
	case wire.Data:
		switch {
		case s == nil:
			return "the stream is idle"
		case s.gotEnd || s.reset && int64(f.StreamID) <= lastKept(m.goAway):
			return "the stream has ended"
		}
		if i := differsAt(f.Payload, uint32(s.n), s.got); i >= 0 {
			return fmt.Sprintf("octet %d of the upload is wrong", s.got+int64(i))
		}
		s.got += int64(f.Length)
		m.sum.up.Add(int64(f.Length))
		if f.Flags.Has(wire.EndStream) {
			if s.trailed {
				return "there should be trailers"
			}
			return m.recvEnd(s)
		}
	case wire.RSTStream:
		if s == nil || s.reset && int64(f.StreamID) <= lastKept(m.goAway) {
			return "the stream is idle, or was reset before"
		}
		s.reset = true
		m.over(s)
	case wire.WindowUpdate:
		if f.StreamID != 0 && (s == nil || s.reset && int64(f.StreamID) <= lastKept(m.goAway)) {
			return "the stream is idle, or was reset before"
		}
	default:
		return "no client sends that"
	}
	return ""
}

// lastKept returns the last stream of a GOAWAY. The peer keeps no accounts of streams above it.
func lastKept(last int64) int64 {
	if last < 0 {
		return wire.MaxStreamID
	}
	return last
}

// recvRequest processes a new stream.
func (m *modelRun) recvRequest(f h2test.Frame) (illegal string) {
	if f.StreamID != m.lastSeen+2 && !(m.lastSeen == 0 && f.StreamID == 1) {
		return fmt.Sprintf("the last new stream was %d", m.lastSeen)
	}
	m.lastSeen = f.StreamID
	n, _ := strconv.Atoi(f.Headers.Get("x-n"))
	upload, _ := strconv.ParseInt(f.Headers.Get("x-upload"), 10, 64)
	s := &peerStream{id: int(f.StreamID), n: n, method: f.Headers.Get(":method"), upload: upload,
		trailed: f.Headers.Get("x-trailed") != ""}
	m.streams[f.StreamID] = s
	m.mu.Lock()
	m.seen[n] = s
	ignored := m.goAway >= 0 && int64(f.StreamID) > m.goAway
	m.mu.Unlock()
	m.sum.streams.Add(1)
	if ignored {
		s.reset = true
		return ""
	}
	open := 1
	for _, s := range m.open {
		if s.id%2 == 1 {
			open++
		}
	}
	m.open = append(m.open, s)
	// RFC 9113 §5.1.2: endpoints MUST NOT exceed the limit set by their peer.
	if most := slices.Max(m.limits); int64(open) > int64(most) {
		return fmt.Sprintf("%d streams are open, %d allowed", open, most)
	}
	if f.Flags.Has(wire.EndStream) {
		return m.recvEnd(s)
	}
	return ""
}

func (m *modelRun) recvEnd(s *peerStream) (illegal string) {
	s.gotEnd = true
	m.over(s)
	if s.got != s.upload {
		return fmt.Sprintf("the upload ends after %d octets of %d", s.got, s.upload)
	}
	return ""
}

// A modelCaller is a goroutine that makes one exchange.
type modelCaller struct {
	m   *modelRun
	e   *modelExchange
	ctx context.Context
	r   *rand.Rand
}

func (c *modelCaller) chance(n int) bool { return c.r.IntN(n) == 0 }

// pause lets other goroutines run in between.
func (c *modelCaller) pause() {
	switch c.r.IntN(12) {
	case 0:
		time.Sleep(time.Duration(c.r.IntN(30)) * time.Millisecond)
	case 1, 2:
		runtime.Gosched()
	}
}

// modelBody is a request body that arrives in random pieces with pauses.
type modelBody struct {
	c     *modelCaller
	at, n int64
}

func (b *modelBody) Read(p []byte) (int, error) {
	b.c.m.did()
	b.c.pause()
	n := int(min(int64(len(p)), b.n-b.at))
	if n > 1 && b.c.chance(2) {
		n = 1 + b.c.r.IntN(n)
	}
	copy(p, octetsAt(b.c.e.key, b.at, n))
	if b.at += int64(n); b.at == b.n && (n == 0 || b.c.chance(2)) {
		return n, io.EOF
	}
	return n, nil
}

// exchange sends a request in one of many ways, and reads all or a part of the response.
func (c *modelCaller) exchange() {
	m, e := c.m, c.e
	m.did()
	n := int64(0)
	switch c.r.IntN(4) {
	case 0:
		n = c.r.Int64N(3000)
	case 1:
		n = c.r.Int64N(100_000)
	}
	req := &Request{Method: "POST", Path: "/" + strconv.Itoa(e.n), Header: Header{
		{Name: "x-n", Value: strconv.Itoa(e.n)},
		{Name: "x-filler", Value: strings.Repeat("g", c.r.IntN(80)), Sensitive: c.chance(3)},
	}}
	if c.chance(4) {
		req.Informational = func(status int, header Header) error {
			m.did()
			if header.Get("x-n") != strconv.Itoa(e.n) {
				m.errorf("exchange %d: an interim response to %s", e.n, header.Get("x-n"))
			}
			return nil
		}
	}
	trailed := c.chance(4)
	kind := c.r.IntN(6)
	if kind <= 1 {
		n, trailed, req.Method = 0, false, []string{"GET", "HEAD"}[c.r.IntN(2)]
	}
	req.Header.Add("x-upload", strconv.FormatInt(n, 10))
	if trailed {
		req.Header.Add("x-trailed", "yes")
		req.Trailer = Header{{Name: "x-sum", Value: strconv.Itoa(e.n)}}
	}
	switch kind {
	case 2:
		req.Body = bytes.NewReader(octetsAt(e.key, 0, int(n)))
	case 3, 4:
		body := &modelBody{c: &modelCaller{m: m, e: e, r: rand.New(rand.NewPCG(m.seed, uint64(e.n)<<32))},
			n: n}
		req.Body = body
		if c.chance(2) && n > 0 {
			req.ContentLength = n
		}
		if c.chance(3) {
			req.Header.Add("expect", "100-continue")
		}
	}
	if kind < 5 {
		resp, err := m.conn.Do(c.ctx, req)
		if err != nil {
			c.judge("Do", err)
			return
		}
		c.response(resp)
		return
	}
	req.Trailer = nil
	s, err := m.conn.Open(c.ctx, req)
	if err != nil {
		c.judge("Open", err)
		return
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		w := &modelCaller{m: m, e: e, r: rand.New(rand.NewPCG(m.seed, uint64(e.n)<<32))}
		w.write(s, n, trailed)
	}()
	resp, err := s.Response(c.ctx)
	if err != nil {
		c.judge("Response", err)
	} else {
		c.response(resp)
	}
	<-written
}

// write sends the body in pieces.
func (c *modelCaller) write(s *Stream, n int64, trailed bool) {
	for at := int64(0); at < n; {
		c.m.did()
		c.pause()
		p := octetsAt(c.e.key, at, 1+c.r.IntN(int(min(n-at, 20_000))))
		k, err := s.Write(p)
		if at += int64(k); err != nil {
			c.judgeWrite(err)
			return
		}
		if k != len(p) {
			c.m.errorf("exchange %d: Write took %d octets of %d", c.e.n, k, len(p))
		}
	}
	var err error
	if trailed {
		err = s.SendTrailers(Header{{Name: "x-sum", Value: strconv.Itoa(c.e.n)}})
	} else {
		err = s.CloseWrite()
	}
	if err != nil {
		c.judgeWrite(err)
	}
}

// response reads the response, and compares it with what its header announced.
func (c *modelCaller) response(resp *Response) {
	m, e := c.m, c.e
	s := resp.Stream()
	if got := resp.Header.Get("x-n"); got != strconv.Itoa(e.n) {
		m.errorf("exchange %d got the response of %s", e.n, got)
		return
	}
	pushes := make(chan struct{})
	if c.chance(2) {
		go func() {
			defer close(pushes)
			c.pushes(resp)
		}()
	} else {
		close(pushes)
	}
	defer func() { <-pushes }()
	length, _ := strconv.ParseInt(resp.Header.Get("x-body"), 10, 64)
	if resp.bodyless() {
		length = 0
	}
	leave := int64(-1) // offset at which the caller stops reading
	if c.chance(8) {
		leave = c.r.Int64N(length + 1)
	}
	buf := make([]byte, 1+c.r.IntN(20_000))
	for at := int64(0); ; {
		m.did()
		c.pause()
		if leave >= 0 && at >= leave {
			e.canceled.Store(true)
			if c.chance(2) {
				resp.Body.Close()
			} else {
				s.Reset(ErrCodeCancel)
			}
			m.sum.broken.Add(1)
			return
		}
		n, err := resp.Body.Read(buf[:1+c.r.IntN(len(buf))])
		if i := differsAt(buf[:n], e.key, at); i >= 0 {
			m.errorf("exchange %d: octet %d is wrong", e.n, at+int64(i))
			return
		}
		if at += int64(n); err == nil {
			continue
		}
		if err != io.EOF {
			c.judge("Read", err)
			return
		}
		if at != length {
			m.errorf("exchange %d: io.EOF after %d octets of %d", e.n, at, length)
		}
		trailer := ""
		if resp.Header.Get("x-trailed") != "" {
			trailer = strconv.Itoa(e.n)
		}
		if got := resp.Trailer().Get("x-sum"); got != trailer {
			m.errorf("exchange %d: the trailer is %q, want %q", e.n, got, trailer)
		}
		m.mu.Lock()
		if p := m.seen[e.n]; p == nil || !p.sentEnd {
			m.errorf("exchange %d: io.EOF, and the peer did not end it", e.n)
		}
		m.mu.Unlock()
		m.sum.whole.Add(1)
		return
	}
}

// pushes takes the promised pushes. It cancels some and reads the others.
func (c *modelCaller) pushes(resp *Response) {
	m := c.m
	r := rand.New(rand.NewPCG(m.seed, uint64(c.e.n)<<33))
	for push, err := range resp.Pushes(c.ctx) {
		if err != nil {
			c.judge("Pushes", err)
			return
		}
		m.did()
		n, _ := strconv.Atoi(strings.TrimPrefix(push.Request.Path, "/"))
		e := &modelExchange{n: n, key: uint32(n)}
		if r.IntN(4) == 0 {
			push.Cancel()
			continue
		}
		p := &modelCaller{m: m, e: e, ctx: context.Background(),
			r: rand.New(rand.NewPCG(m.seed, uint64(2+n)))}
		m.running.Add(1)
		go func() {
			defer m.running.Add(-1)
			resp, err := push.Response(p.ctx)
			if err != nil {
				p.judge("Push.Response", err)
				return
			}
			p.response(resp)
		}()
	}
}

// judge looks for the cause of an error on the other side.
func (c *modelCaller) judge(call string, err error) {
	m, e := c.m, c.e
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.seen[e.n]
	var se *StreamError
	// A stream above the GOAWAY's last was perhaps never seen by the peer.
	above := errors.As(err, &se) && m.goAway >= 0 && se.StreamID%2 == 1 && int64(se.StreamID) > m.goAway
	refused := above || p != nil && p.sentReset && p.code == wire.RefusedStream
	if call != "Pushes" {
		m.sum.broken.Add(1)
	}
	if Retryable(err) && p != nil && (p.processed || !refused) {
		m.errorf("exchange %d, stream %d: %s: %v is Retryable and the peer has it (processed: %v)", e.n, p.id,
			call, err, p.processed)
	}
	if refused && (p == nil || !p.processed) && !Retryable(err) && !e.canceled.Load() && !m.lost &&
		!m.closed {
		m.errorf("exchange %d: %s: %v is not Retryable and the peer refused it", e.n, call, err)
	}
	if e.canceled.Load() {
		return
	}
	var ce *ConnError
	var lost *PushLostError
	ok := false
	switch {
	case errors.Is(err, ErrClosed):
		ok = m.closed
	case errors.As(err, &lost):
		ok = call == "Pushes" && m.pushMax > 0 && lost.Refused+lost.Dropped > 0
	case se != nil && se.FromPeer:
		ok = p != nil && (p.sentReset && p.early && ErrCode(p.code) == se.Code) || refused
	case errors.As(err, &ce):
		ok = m.lost || m.goAway >= 0
	}
	if !ok {
		m.errorf("exchange %d, the peer's stream %+v: %s: %v has no cause (lost %v, closed %v, GOAWAY %d)",
			e.n, p, call, err, m.lost, m.closed, m.goAway)
	}
}

// judgeWrite is judge for an error of Write. The peer may end a request even if its response is
// complete.
func (c *modelCaller) judgeWrite(err error) {
	m, e := c.m, c.e
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.seen[e.n]
	if e.canceled.Load() || m.lost || m.closed || m.goAway >= 0 || p != nil && p.sentReset {
		return
	}
	m.errorf("exchange %d: Write: %v has no cause", e.n, err)
}

// RFC 9113 §5.1.2: endpoints MUST NOT exceed the limit set by their peer. A slot that was granted
// to a waiting caller is taken back if SETTINGS lower the limit before the caller runs, because our
// acknowledgment is sent before the caller's HEADERS would be.
func TestALoweredLimitTakesASlotBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1}
		peer, conn := dialPeer(t, nil, limit)
		first := getAsync(conn, "/1")
		peer.WantHeaders("the only slot", 1)
		second := getAsync(conn, "/2")
		synctest.Wait()
		conn.lock() // both frames come before the caller can run
		conn.streams.byID[1].recvResetLocked(ErrCodeCancel)
		conn.applyLocked(wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 0})
		conn.unlock()
		first.wantErr(t, "reset")
		peer.WantIdle("no stream is allowed")
		peer.WriteSettings(limit)
		peer.WantSettingsAck("one is again")
		peer.WantHeaders("the caller still waits", 3)
		peer.WriteHeaders(3, wire.EndStream, ":status: 204")
		second.want(t, "the response")
	})
}
