// This file holds TestModel, which compares a connection with a model in random exchanges.

package hyper

import (
	"context"
	"flag"
	"fmt"
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
	case testing.Short() || h2test.Race:
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
	if sum.actions.Load() > 50_000 && (sum.reused.Load() == 0 || sum.misused.Load() == 0) {
		t.Error("no memory was reused")
	}
	t.Logf("seed %d: %v in %v", seed, &sum, time.Since(start).Round(time.Millisecond))
}

// modelFigures count what the test did.
type modelFigures struct {
	actions, conns, streams, pushes, up, down atomic.Int64
	whole, broken                             atomic.Int64 // exchanges that succeeded, and the others
	reused, misused                           atomic.Int64 // memory of Callers, and uses of earlier exchanges
}

func (f *modelFigures) String() string {
	return fmt.Sprintf("%d actions, %d connections, %d streams, %d pushes, %d octets up, %d down, %d "+
		"exchanges whole, %d broken, %d in reused memory, %d uses of earlier ones",
		f.actions.Load(), f.conns.Load(), f.streams.Load(), f.pushes.Load(), f.up.Load(), f.down.Load(),
		f.whole.Load(), f.broken.Load(), f.reused.Load(), f.misused.Load())
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

	callersMu sync.Mutex
	callers   []*modelMemory // Callers that no goroutine uses

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
	if r.IntN(2) == 0 { // only with the default can memory be reused
		cfg.WindowManager = nil
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
			stacks, dump := make([]byte, 1<<20), strings.Builder{}
			m.conn.Dump(&dump)
			m.errorf("%d callers hang; the connection's error is %v; its credit is %d\n%s\n%s",
				m.running.Load(), m.conn.Err(), m.peer.Credit(0), &dump, stacks[:runtime.Stack(stacks, true)])
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
		if c.chance(2) {
			c.memory = m.takeMemory()
			defer m.giveMemory(c.memory)
		}
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

// lastKept returns the last stream of a GOAWAY. The peer keeps no accounts of streams above it.
func lastKept(last int64) int64 {
	if last < 0 {
		return wire.MaxStreamID
	}
	return last
}
