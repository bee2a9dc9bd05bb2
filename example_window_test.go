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

// The window managers below are small on purpose: copy one and make it yours. uses_test.go holds each to what it promises.

// Halves keeps a window of 64 KiB that moves when half of it was read.
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

// A Valve is the window of one stream, which can be shut and opened at any time, by any goroutine. What has been
// promised before it is shut may still come.
type Valve struct {
	Size int

	mu   sync.Mutex
	w    *hyper.Window
	shut bool
	owed int
}

// Window is the WindowManagerFactory.
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
	valve.Shut() // the server stops once the window is used up; other streams go on
	fmt.Println(body(conn.Get(ctx, "/")))
	valve.Open()
	n, err := io.Copy(io.Discard, resp.Body)
	fmt.Println(n, err)
	// Output:
	// this is /
	// 1048576 <nil>
}

// A Budget is memory that any number of connections share: what all their peers together may send and what is unread
// never exceeds it, but for the 65,535 octets that each begins with.
type Budget struct {
	Each int // what one connection may have at most

	mu      sync.Mutex
	free    int
	waiting []*share
}

func NewBudget(total, each int) *Budget { return &Budget{Each: each, free: total} }

// Window is the WindowManagerFactory.
func (b *Budget) Window(w *hyper.Window) hyper.WindowManager {
	if w.StreamID() != 0 {
		return hyper.ReadWindow{}.New(w) // streams take what their connection has
	}
	return &share{budget: b, w: w}
}

// A share is one connection's part of a Budget.
type share struct {
	budget *Budget
	w      *hyper.Window
	held   int // of the budget
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
	b.serve() // first those who have nothing
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

// serve gives what is free to connections that wait for it: Grant may be called for any of them.
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

// FirstComes lets one stream at a time receive, in the order of the requests. All of a connection's managers run under its lock:
// what they share needs none of its own.
type FirstComes struct {
	hyper.WindowManager // the connection's own
	line                []*turn
}

// A turn is a stream in FirstComes' line.
type turn struct {
	order *FirstComes
	w     *hyper.Window
}

// FirstComesWindow is the WindowManagerFactory. Use it with Config{InitialStreamWindow: -1}: no stream starts by itself.
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

// leave ends the stream's turn; the next one begins.
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
	wg.Go(func() { late = len(body(second, nil)) }) // it waits, whoever reads
	early = len(body(first, nil))
	wg.Wait()
	fmt.Println(early, late)
	// Output:
	// 1048576 1048576
}

// OneOctet is for tests of servers: every DATA frame has at most one octet, which is as hard as flow control gets.
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

// ByLength opens a stream's window once, by what its response will need: a response that fits gets no WINDOW_UPDATE at all, and
// no other gets a second one. One octet more than the length lets servers end the stream that want a window for that. A
// response of unknown length is left to ReadWindow.
func ByLength(w *hyper.Window) hyper.WindowManager {
	const most = 64 << 20 // a length is only a claim
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

// A Player plays what it has loaded, and wants to have a few seconds of it, not more: the server's octets stay at the server
// while the user watches.
type Player struct {
	PerSecond int // octets
	Ahead     time.Duration

	mu     sync.Mutex
	loaded int
	begun  time.Time // when it started to play
}

// Level returns how many octets are loaded and not played yet.
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

// Write loads what was read.
func (p *Player) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loaded += len(b)
	if p.begun.IsZero() {
		p.begun = time.Now()
	}
	return len(b), nil
}

// Window is the WindowManagerFactory of the player's request: the window is the room in its buffer.
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

// Witness is a window manager that hears of every frame on its stream, as python hyper's managers
// do.
func Witness(w *hyper.Window) hyper.WindowManager {
	w.WatchFrames()
	inner := hyper.AdaptiveWindow{}.New(w)
	return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
		switch ev.Kind {
		case hyper.WindowFrame:
			fmt.Println(ev.FrameName(), "on stream", ev.Stream)
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
