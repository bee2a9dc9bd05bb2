package hyper_test

import (
	"fmt"
	"io"
	"log"
	"sync"
	"sync/atomic"
	"time"

	"gohyper.dev/hyper"
)

// The window managers below are small on purpose, so that they can be copied and changed.
// example_uses_test.go tests that each does what its comment says.

// Halves has a window of 64 KiB, and opens it again when half of it was read.
func Halves(*hyper.Window) hyper.WindowManager {
	const size = 64 << 10
	return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
		missing := size - ev.Credit - ev.Unread
		if missing < size/2 {
			return 0
		}
		return missing
	})
}

func ExampleWindowManagerFactory() {
	conn := dial(hyper.Config{WindowManager: Halves})
	defer conn.Close()
	fmt.Println(body(conn.Get(ctx, "/")))
	// Output:
	// this is /
}

// A Valve is the window of one stream. Any goroutine can shut it and open it at any time. The peer
// may still send what it was granted before the Valve was shut.
type Valve struct {
	Size int

	mu   sync.Mutex
	w    *hyper.Window
	shut bool
	owed int
}

// Window is a WindowManagerFactory.
func (v *Valve) Window(w *hyper.Window) hyper.WindowManager {
	v.w = w
	return v
}

func (v *Valve) Update(ev hyper.WindowEvent) (increment int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.owed = max(0, v.Size-ev.Credit-ev.Unread)
	if v.shut || v.owed < v.Size/2 {
		return 0
	}
	increment, v.owed = v.owed, 0
	return increment
}

func (v *Valve) Shut() {
	v.mu.Lock()
	v.shut = true
	v.mu.Unlock()
}

func (v *Valve) Open() {
	v.mu.Lock()
	v.shut = false
	v.w.Grant(v.owed)
	v.owed = 0
	v.mu.Unlock()
}

func ExampleWindow_Grant() {
	conn := dial(hyper.Config{})
	defer conn.Close()

	valve := &Valve{Size: 64 << 10}
	resp, err := conn.Do(ctx, &hyper.Request{Path: "/large", WindowManager: valve.Window})
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	valve.Shut() // the server stops when the window is used up; other streams go on
	fmt.Println(body(conn.Get(ctx, "/")))
	valve.Open()
	n, err := io.Copy(io.Discard, resp.Body)
	fmt.Println(n, err)
	// Output:
	// this is /
	// 1048576 <nil>
}

// A Budget is memory that any number of connections share. What their peers may send and what is
// unread never exceed it in total, except for the initial 65,535 bytes of each connection.
type Budget struct {
	Each int // the most that one connection may have

	mu      sync.Mutex
	free    int
	waiting []*share
}

func NewBudget(total, each int) *Budget { return &Budget{Each: each, free: total} }

// Window is a WindowManagerFactory.
func (b *Budget) Window(w *hyper.Window) hyper.WindowManager {
	if w.StreamID() != 0 {
		return hyper.ReadWindow{}.New(w) // streams may use all that their connection has
	}
	return &share{budget: b, w: w}
}

// A share is one connection's part of a Budget.
type share struct {
	budget *Budget
	w      *hyper.Window
	held   int // part of the budget
	waits  bool
	over   bool
}

func (s *share) Update(ev hyper.WindowEvent) (increment int) {
	b := s.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	switch ev.Kind {
	case hyper.WindowOpened:
		s.hold(ev.Credit)
	case hyper.WindowConsumed:
		s.hold(-ev.Bytes)
	case hyper.WindowClosed:
		s.hold(-s.held)
		s.over = true
	}
	b.serve() // connections that have nothing come first
	if s.over {
		return 0
	}
	if missing := b.Each - s.held; missing >= b.Each/4 || ev.Kind == hyper.WindowBlocked {
		increment = max(0, min(missing, b.free))
		s.hold(increment)
	}
	if ev.Credit+increment <= 0 && s.held < b.Each && !s.waits {
		s.waits = true
		b.waiting = append(b.waiting, s)
	}
	return increment
}

func (s *share) hold(n int) {
	s.held += n
	s.budget.free -= n
}

// serve gives what is free to connections that wait for it. It may call Grant for any of them.
func (b *Budget) serve() {
	for len(b.waiting) > 0 && b.free > 0 {
		s := b.waiting[0]
		b.waiting = b.waiting[1:]
		s.waits = false
		if n := min(b.free, b.Each/4, b.Each-s.held); n > 0 && !s.over {
			s.hold(n)
			s.w.Grant(n)
		}
	}
}

func ExampleWindow_Grant_budget() {
	budget := NewBudget(1<<20, 256<<10) // for all connections of the process
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			conn := dial(hyper.Config{WindowManager: budget.Window})
			defer conn.Close()
			if n := len(body(conn.Get(ctx, "/large"))); n != 1<<20 {
				log.Fatal(n)
			}
		})
	}
	wg.Wait()
	fmt.Println("8 MiB through a budget of 1 MiB")
	// Output:
	// 8 MiB through a budget of 1 MiB
}

// FirstComes lets one stream at a time receive, in the order of the requests. All managers of a
// connection run under its lock, so what they share needs no lock of its own.
type FirstComes struct {
	hyper.WindowManager // the connection's manager
	line                []*turn
}

// A turn is a stream's place in the line of FirstComes.
type turn struct {
	order *FirstComes
	w     *hyper.Window
}

// FirstComesWindow is a WindowManagerFactory. Use it with Config{InitialStreamWindow: -1}, so that
// streams begin without a window.
func FirstComesWindow(w *hyper.Window) hyper.WindowManager {
	if w.StreamID() == 0 {
		return &FirstComes{WindowManager: hyper.ReadWindow{}.New(w)}
	}
	t := &turn{order: w.ConnManager().(*FirstComes), w: w}
	t.order.line = append(t.order.line, t)
	return t
}

func (t *turn) Update(ev hyper.WindowEvent) (increment int) {
	const size = 1 << 20
	if ev.End || ev.Kind == hyper.WindowClosed {
		t.leave(size)
	}
	if len(t.order.line) == 0 || t.order.line[0] != t || size-ev.Credit-ev.Unread < size/2 {
		return 0
	}
	return size - ev.Credit - ev.Unread
}

// leave takes the stream out of the line. If it was the first, the next stream may receive.
func (t *turn) leave(size int) {
	line := t.order.line
	for i, other := range line {
		if other == t {
			t.order.line = append(line[:i:i], line[i+1:]...)
			if i == 0 && len(line) > 1 {
				line[1].w.Grant(size)
			}
			return
		}
	}
}

func ExampleWindow_ConnManager() {
	conn := dial(hyper.Config{WindowManager: FirstComesWindow, InitialStreamWindow: -1})
	defer conn.Close()

	first, err := conn.Get(ctx, "/large")
	if err != nil {
		log.Fatal(err)
	}
	second, err := conn.Get(ctx, "/large")
	if err != nil {
		log.Fatal(err)
	}
	var early, late int
	var wg sync.WaitGroup
	wg.Go(func() { late = len(body(second, nil)) }) // its window stays shut until the first has ended
	early = len(body(first, nil))
	wg.Wait()
	fmt.Println(early, late)
	// Output:
	// 1048576 1048576
}

// OneOctet is for tests of servers: every DATA frame has at most one byte, which is the hardest
// case of flow control.
func OneOctet(w *hyper.Window) hyper.WindowManager {
	if w.StreamID() == 0 {
		return hyper.ReadWindow{}.New(w)
	}
	return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int { return ev.Consumed() })
}

func ExampleConfig_oneOctet() {
	var frames, largest atomic.Int64
	conn := dial(hyper.Config{
		WindowManager:       OneOctet,
		InitialStreamWindow: 1,
		Trace: func(ev hyper.TraceEvent) {
			if !ev.Sent && ev.Type == "DATA" {
				frames.Add(1)
				largest.Store(max(largest.Load(), int64(ev.Length)))
			}
		},
	})
	defer conn.Close()
	fmt.Println(body(conn.Get(ctx, "/")))
	fmt.Println(frames.Load() >= 9, largest.Load())
	// Output:
	// this is /
	// true 1
}

// ByLength opens a stream's window once, by the length of its response. A response that fits into
// the initial window needs no WINDOW_UPDATE, and a larger one needs exactly one. It grants one byte
// more than the length, because some servers need an open window to end the stream. A response of
// unknown length is left to ReadWindow.
func ByLength(w *hyper.Window) hyper.WindowManager {
	const most = 64 << 20 // the peer may claim any length
	unknown := hyper.ReadWindow{}.New(w)
	if w.StreamID() == 0 {
		return unknown
	}
	known := false
	return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
		switch {
		case ev.Kind == hyper.WindowOpened:
			return 0
		case ev.Kind == hyper.WindowHeaders && ev.Length >= 0 && ev.Length < most:
			known = true
			return max(0, int(ev.Length)+1-ev.Credit)
		case known:
			return 0
		}
		return unknown.Update(ev)
	})
}

func ExampleWindowEvent_length() {
	var updates atomic.Int64
	conn := dial(hyper.Config{
		WindowManager: ByLength,
		Trace: func(ev hyper.TraceEvent) {
			if ev.Sent && ev.StreamID != 0 && ev.Type == "WINDOW_UPDATE" {
				updates.Add(1)
			}
		},
	})
	defer conn.Close()
	body(conn.Get(ctx, "/"))
	fmt.Println("small:", updates.Load())
	body(conn.Get(ctx, "/file"))
	fmt.Println("1 MiB:", updates.Load())
	// Output:
	// small: 0
	// 1 MiB: 1
}

// A Player plays what it has loaded. It keeps a few seconds loaded and no more, so that the rest
// stays at the server while the user watches.
type Player struct {
	PerSecond int // bytes
	Ahead     time.Duration

	mu     sync.Mutex
	loaded int
	begun  time.Time // when playing began
}

// Level returns how many bytes are loaded and not played yet.
func (p *Player) Level() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.level()
}

func (p *Player) level() int {
	if p.begun.IsZero() {
		return p.loaded
	}
	return max(0, p.loaded-int(time.Since(p.begun).Seconds()*float64(p.PerSecond)))
}

// Write loads b.
func (p *Player) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loaded += len(b)
	if p.begun.IsZero() {
		p.begun = time.Now()
	}
	return len(b), nil
}

// Window is the WindowManagerFactory of the player's request. The window is the free space in the
// player's buffer.
func (p *Player) Window(w *hyper.Window) hyper.WindowManager {
	return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
		size := int(p.Ahead.Seconds() * float64(p.PerSecond))
		room := size - p.Level() - ev.Credit - ev.Unread
		if step := size / 8; room < step && ev.Kind != hyper.WindowClosed {
			w.WakeAfter(time.Second * time.Duration(step-room) / time.Duration(p.PerSecond))
			return 0
		}
		return max(0, room)
	})
}

func ExampleRequest_windowManager() {
	conn := dial(hyper.Config{})
	defer conn.Close()

	player := &Player{PerSecond: 4 << 20, Ahead: 100 * time.Millisecond}
	resp, err := conn.Do(ctx, &hyper.Request{Path: "/large", WindowManager: player.Window})
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	n, err := io.Copy(player, resp.Body)
	fmt.Println(n, err)
	// Output:
	// 1048576 <nil>
}

// A Rate is bytes per second that all streams share which use it, also on several connections. The
// bytes of initial windows count. Each stream's window has at most Size bytes.
type Rate struct {
	PerSecond, Size int

	mu   sync.Mutex
	paid time.Time // what was granted so far may arrive until this time
}

// Window is a WindowManagerFactory for requests.
func (r *Rate) Window(w *hyper.Window) hyper.WindowManager {
	return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
		r.mu.Lock()
		defer r.mu.Unlock()
		now := time.Now()
		if ev.Kind == hyper.WindowOpened {
			r.spend(now, ev.Credit)
		}
		missing := r.Size - ev.Credit - ev.Unread
		if missing < r.Size/2 || ev.Kind == hyper.WindowClosed {
			return 0
		}
		if wait := r.paid.Sub(now); wait > 0 {
			w.WakeAfter(wait)
			return 0
		}
		r.spend(now, missing)
		return missing
	})
}

// spend moves paid on by the time that n bytes take. Time that was not used is lost.
func (r *Rate) spend(now time.Time, n int) {
	if r.paid.Before(now) {
		r.paid = now
	}
	r.paid = r.paid.Add(time.Duration(n) * time.Second / time.Duration(r.PerSecond))
}

func ExampleRequest_windowManager_sharedRate() {
	conn := dial(hyper.Config{})
	defer conn.Close()

	rate := &Rate{PerSecond: 32 << 20, Size: 64 << 10} // for all of them together
	begun := time.Now()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { body(conn.Do(ctx, &hyper.Request{Path: "/large", WindowManager: rate.Window})) })
	}
	wg.Wait()
	fmt.Println("4 MiB took an eighth of a second or more:", time.Since(begun) > 100*time.Millisecond)
	// Output:
	// 4 MiB took an eighth of a second or more: true
}

// Witness is a window manager that is told of every frame on its stream, as python hyper's managers
// are.
func Witness(w *hyper.Window) hyper.WindowManager {
	w.WatchFrames()
	inner := hyper.AdaptiveWindow{}.New(w)
	return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
		switch ev.Kind {
		case hyper.WindowFrame:
			fmt.Println(ev.FrameName(), "on stream", ev.StreamID)
		case hyper.WindowData:
			fmt.Println("DATA")
		}
		return inner.Update(ev)
	})
}

func ExampleWindow_WatchFrames() {
	conn := dial(hyper.Config{})
	defer conn.Close()
	resp, err := conn.Do(ctx, &hyper.Request{Path: "/", WindowManager: Witness})
	fmt.Println(body(resp, err))
	// Output:
	// HEADERS on stream 1
	// DATA
	// this is /
}
