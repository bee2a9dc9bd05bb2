package hyper

import (
	"fmt"
	"math"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"gohyper.dev/hyper/internal/syntax"
	"gohyper.dev/hyper/internal/wire"
)

// A WindowManager decides when the peer may send more: it hears what happens to one receive window and
// answers with an increment (RFC 9113 §5.2, §6.9). Python hyper's "very stupid" manager, which reopens the window by
// what came, is
//
//	hyper.WindowFunc(func(ev hyper.WindowEvent) int { return ev.Received() })
//
// A manager hears of DATA, of the response's header, of what is read, of settings and of round
// trips. One that wants to hear of every other frame, too, asks for that with Window.WatchFrames.
//
// The library counts; the manager only answers. Every Update of a connection runs under the connection's lock, the
// connection's manager before the stream's, so managers of one connection may share state without locks of their
// own. Update must not block and must not call the connection. An answer of 0 grants nothing; what would pass 2^31-1
// is cut off there, so math.MaxInt32 means "unlimited"; a negative answer or a panic ends the stream (or, from
// the connection's manager, the connection) with a *WindowManagerError. Answers that come too late to matter, for a
// window that is closed, are dropped.
//
// A manager that reopens on receipt, as that one and Fixed do, gives no back-pressure: hyper reads the socket
// without waiting for the caller, so what is not read piles up in memory. Managers that answer Consumed do not
// have this trouble.
type WindowManager interface {
	Update(ev WindowEvent) (increment int)
}

// A WindowFunc is a WindowManager.
type WindowFunc func(ev WindowEvent) int

// Update calls f.
func (f WindowFunc) Update(ev WindowEvent) int { return f(ev) }

// A WindowManagerFactory makes the manager of one window: it is called for the connection first, where
// w.StreamID() is 0, then for each stream. It runs under the connection's lock, as Update does. A nil
// manager grants nothing: such a window is moved by Grant alone.
type WindowManagerFactory func(w *Window) WindowManager

// A WindowEventKind says what happened.
type WindowEventKind uint8

const (
	WindowOpened   WindowEventKind = iota + 1 // the window begins, with Credit as the settings make it; a push's when it is claimed
	WindowHeaders                             // the response's header came; Length is known now
	WindowData                                // a DATA frame of Bytes came; behind a push's Opened, all that came before it was claimed
	WindowConsumed                            // the reader took Bytes, or they were padding or discarded
	WindowSettings                            // the peer acknowledged a new initial window: Credit moved by Bytes, up or down
	WindowRTT                                 // a round trip was measured: for the connection's manager, and for the stream's that asked
	WindowStarved                             // a reader waits, nothing is here, and the peer may send nothing
	WindowTick                                // the time that WakeAfter asked for is over
	WindowClosed                              // the end; the answer is ignored
	WindowFrame                               // a frame came that is not DATA; only after Window.WatchFrames
)

var windowEventNames = [...]string{"?", "Opened", "Headers", "Data", "Consumed", "Settings", "RTT", "Starved", "Tick", "Closed", "Frame"}

func (k WindowEventKind) String() string {
	if int(k) < len(windowEventNames) {
		return windowEventNames[k]
	}
	return fmt.Sprintf("WindowEventKind(%d)", uint8(k))
}

// A WindowEvent is one thing that happened to a window, with the window's books after it. All sizes are in octets.
type WindowEvent struct {
	Kind    WindowEventKind
	End     bool          // Data carried END_STREAM
	Type    uint8         // Frame: its type, as a number (RFC 9113 §6); FrameName has the name
	Flags   uint8         // Frame: its flags
	Stream  uint32        // Frame: its stream, 0 for the connection
	Bytes   int           // Data: flow-controlled length; Consumed: octets read, padding or discarded; Settings: signed shift; Frame: length
	Padding int           // of Bytes, in Data
	Credit  int           // what the peer may still send; below 0 after a smaller initial window
	Unread  int           // received and not consumed
	Total   int64         // received since the window opened
	Length  int64         // body octets still due by content-length, -1 unknown
	Now     time.Duration // monotonic, since the connection began
	RTT     time.Duration // RTT: the sample; else the smallest known, 0 none
}

// Received is Bytes of a Data event, 0 of any other.
func (ev WindowEvent) Received() int {
	if ev.Kind == WindowData {
		return ev.Bytes
	}
	return 0
}

// FrameName is the type of the frame of a Frame event, as in RFC 9113 §6: "PING". It is empty for
// any other event.
func (ev WindowEvent) FrameName() string {
	if ev.Kind == WindowFrame {
		return wire.FrameType(ev.Type).String()
	}
	return ""
}

// Consumed is Bytes of a Consumed event, 0 of any other.
func (ev WindowEvent) Consumed() int {
	if ev.Kind == WindowConsumed {
		return ev.Bytes
	}
	return 0
}

// A WindowManagerError is a manager's misconduct: a negative increment, or a panic.
type WindowManagerError struct {
	StreamID uint32 // 0: the connection's manager
	Event    WindowEventKind
	Value    int    // the answer, if it did not panic
	Panic    any    // what it panicked with
	Stack    []byte // of that panic, as debug.Stack formats it; nil if it did not panic. Error leaves it out
}

// Error says which manager did what.
func (e *WindowManagerError) Error() string {
	whose := "the connection"
	if e.StreamID != 0 {
		whose = fmt.Sprintf("stream %d", e.StreamID)
	}
	if e.Panic != nil {
		return fmt.Sprintf(prefix+"window manager of %s panicked at %v: %s", whose, e.Event, syntax.Escape(fmt.Sprint(e.Panic)))
	}
	return fmt.Sprintf(prefix+"window manager of %s answered %d to %v: an increment cannot be negative", whose, e.Value, e.Event)
}

// A Window is a receive window, of a connection or of one stream, as its manager sees it.
type Window struct {
	c *Conn
	s *Stream // nil: the connection's

	asked atomic.Int64 // by Grant, not applied yet

	// The rest is guarded by c.mu.
	manager WindowManager
	managed bool  // the factory was asked
	watches bool  // the manager hears of every frame
	foreign bool  // the manager is not one of ours: it may do anything
	readers int32 // who wait for what comes through the window
	credit  int64 // what the peer may send once pending is announced; below 0 after a smaller initial window
	pending int64 // granted, its WINDOW_UPDATE not yet among the bytes to write
	unread  int64
	total   int64
	timer   *time.Timer
	starved time.Duration // since when they wait in vain, 0: they do not
}

// StreamID returns the window's stream, 0 for the connection.
func (w *Window) StreamID() uint32 {
	if w.s == nil {
		return 0
	}
	return w.s.id
}

// Request returns the request whose response the window is for; nil for the connection. It must not be changed.
func (w *Window) Request() *Request {
	if w.s == nil {
		return nil
	}
	return w.s.req
}

// Conn returns the manager of the connection's window, nil while it is being made. A stream's manager may be of
// another kind than the connection's and should check.
func (w *Window) Conn() WindowManager { return w.c.window.manager }

// Grant lets the peer send n octets more. It may be called from any goroutine, and inside Update, where it is applied
// after Update's own answer. Without effect where n ≤ 0 or the window is closed.
func (w *Window) Grant(n int) {
	if n <= 0 {
		return
	}
	n = min(n, wire.MaxWindow) // so that sums stay far from the end of an int64
	if w.asked.Add(int64(n)) == int64(n) {
		w.c.grants.add(w)
	}
	w.c.wakeWriter()
}

// WakeAfter asks for one Tick event after d. Only inside Update; a later call replaces an earlier
// one. Without effect once nothing more can come through the window, and no Tick comes then.
func (w *Window) WakeAfter(d time.Duration) {
	switch {
	case w.ended():
	case w.c.lab != nil:
		w.c.lab.wakeAfter(w, d)
	case w.timer == nil:
		w.timer = time.AfterFunc(d, w.tick)
	default:
		w.timer.Reset(d)
	}
}

func (w *Window) tick() {
	w.c.mu.Lock()
	w.c.readClockLocked()
	w.update(WindowEvent{Kind: WindowTick})
	w.c.unlock()
}

// ProbeRTT sends a PING to measure the round trip, unless the budget for such PINGs forbids it: one at a time, only
// when something else was sent since the last, three in a row and then one in ten seconds; and only
// if the peer has sent DATA or HEADERS since it acknowledged the last PING of any kind, or five
// minutes have passed since. Only inside Update. It reports whether an RTT event will come.
func (w *Window) ProbeRTT() bool { return w.c.probeRTTLocked(w) }

// WatchFrames makes the manager hear of frames that have no event of their own: it gets a
// WindowFrame event for every frame that the peer sends on the window's stream and that is not
// DATA, and for the connection's window on the whole connection. The event comes before the frame
// takes effect. A field section is one event, with the type and length of its first frame. Frames
// that cannot be read have none. Those of a stream that is over are for the connection's manager
// only. Those of a push begin when it is claimed. Only inside the factory or Update.
func (w *Window) WatchFrames() { w.watches, w.c.watched = true, true }

// windowGrants are the windows whose Grant waits for the writer. Its lock is its own, so that Grant can be
// called inside Update.
type windowGrants struct {
	mu   sync.Mutex
	list []*Window
}

func (g *windowGrants) add(w *Window) {
	g.mu.Lock()
	g.list = append(g.list, w)
	g.mu.Unlock()
}

func (g *windowGrants) take() (list []*Window) {
	g.mu.Lock()
	list, g.list = g.list, nil
	g.mu.Unlock()
	return list
}

// The methods below run under c.mu.

// open begins the books with what the settings give, and asks the manager: Adaptive's, where factory is nil.
func (w *Window) open(factory WindowManagerFactory) {
	if factory == nil {
		w.manager = Adaptive{}.New(w)
	} else if err := w.make(factory); err != nil {
		w.fail(err)
		return
	}
	w.update(WindowEvent{Kind: WindowOpened})
}

func (w *Window) make(factory WindowManagerFactory) (err error) {
	w.c.mu.enter()
	defer func() {
		w.c.mu.leave()
		if p := recover(); p != nil {
			err = &WindowManagerError{StreamID: w.StreamID(), Event: WindowOpened, Panic: p, Stack: debug.Stack()}
		}
	}()
	w.manager = factory(w)
	switch w.manager.(type) {
	case *adaptivePath, *adaptiveStream, Fixed, consumptionWindow, *rateLimiter:
	default:
		w.foreign = true
	}
	return nil
}

// receive books n flow-controlled octets, padding of them to be discarded, and reports whether the peer was allowed to
// send them. RFC 9113 §6.9.1: what has not been announced is not the peer's to use; an empty frame needs no window, not
// even one of 0.
func (w *Window) receive(n, padding int) bool {
	if n > 0 && int64(n) > w.credit-w.pending {
		return false
	}
	w.credit -= int64(n)
	w.unread += int64(n - padding)
	w.total += int64(n)
	return true
}

// discard tells the manager of n octets that never were in memory: padding.
func (w *Window) discard(n int) {
	if n > 0 {
		w.update(WindowEvent{Kind: WindowConsumed, Bytes: n})
	}
}

// consume books n octets as gone from memory.
func (w *Window) consume(n int) {
	if n == 0 {
		return
	}
	w.unread -= int64(n)
	w.update(WindowEvent{Kind: WindowConsumed, Bytes: n})
}

// update tells the manager, and grants what it answers.
func (w *Window) update(ev WindowEvent) {
	if w.manager == nil {
		return
	}
	ev.Credit, ev.Unread, ev.Total = int(w.credit), int(w.unread)+ev.Padding, w.total // padding is discarded with the next event
	ev.Length = -1
	if w.s != nil {
		ev.Length = w.s.bodyLeft
	}
	ev.Now = w.c.now
	if ev.Kind != WindowRTT {
		ev.RTT = w.c.minRTT
	}
	if !w.foreign {
		w.grant(int64(w.manager.Update(ev)))
		return
	}
	n, err := w.ask(ev)
	if err != nil {
		w.fail(err)
		return
	}
	w.grant(int64(n))
}

// ask puts ev to a manager that is not ours and may do anything: it may panic, and call the connection.
func (w *Window) ask(ev WindowEvent) (n int, err error) {
	w.c.mu.enter()
	defer func() {
		w.c.mu.leave()
		if p := recover(); p != nil {
			err = &WindowManagerError{StreamID: w.StreamID(), Event: ev.Kind, Panic: p, Stack: debug.Stack()}
		}
	}()
	if n = w.manager.Update(ev); n < 0 {
		return 0, &WindowManagerError{StreamID: w.StreamID(), Event: ev.Kind, Value: n}
	}
	return n, nil
}

func (w *Window) fail(err error) {
	w.manager = nil
	if w.s != nil {
		w.s.resetLocked(streamErr(w.s.id, InternalError, err))
		return
	}
	w.c.failLocked(&ConnError{Code: InternalError, Err: err, goAway: true})
}

// grant moves the window up by n, as far as RFC 9113 §6.9.1 allows, and leaves the WINDOW_UPDATE to the next
// write: all increments until then become one frame.
func (w *Window) grant(n int64) {
	if n = min(n, wire.MaxWindow-w.credit); n <= 0 || w.ended() {
		return
	}
	if w.pending == 0 {
		w.c.updates = append(w.c.updates, w)
	}
	w.credit += n
	w.pending += n
	if w.credit > 0 {
		w.starved = 0
	}
}

// starve tells the manager of a reader who waits, has nothing here, and whose peer may send nothing.
func (w *Window) starve() {
	if w.credit > 0 {
		return
	}
	w.update(WindowEvent{Kind: WindowStarved})
	if w.credit <= 0 && w.starved == 0 && w.c.cfg.WindowStallTimeout > 0 && !w.ended() {
		w.starved = max(w.c.now, 1)
		w.c.armLocked(w.stalledAt())
	}
}

// enter counts a reader who begins to wait, leave one who does not any more.
func (w *Window) enter() { w.readers++ }

func (w *Window) leave() {
	if w.readers--; w.readers == 0 {
		w.starved = 0
	}
}

// stalledAt is when the manager will have had its time to grant something to a reader, 0 where none waits in vain.
func (w *Window) stalledAt() time.Duration {
	if w.starved == 0 || w.credit > 0 {
		return 0
	}
	return w.starved + w.c.cfg.WindowStallTimeout
}

// stall ends the stream, or the connection, whose manager lets a reader wait for ever.
func (w *Window) stall() {
	whose := "the connection"
	if w.s != nil {
		whose = fmt.Sprintf("stream %d", w.s.id)
	}
	w.fail(fmt.Errorf("%w: the window of %s is at %d, a reader waits, and its manager granted nothing for %v (%d octets came, %d of them are unread)",
		ErrWindowStalled, whose, w.credit, w.c.cfg.WindowStallTimeout, w.total, w.unread))
}

// needed is WindowEvent.needed for a grant that no event asks for.
func (w *Window) needed(grant int) int {
	return WindowEvent{Credit: int(w.credit), Length: w.s.bodyLeft}.needed(grant)
}

// ended reports whether nothing more can come through the window; what came may still be unread.
func (w *Window) ended() bool {
	if w.c.err != nil {
		return true
	}
	return w.s != nil && !w.s.state.CanRecv()
}

// stopTimer ends the waiting for a Tick.
func (w *Window) stopTimer() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// close is the manager's last event: the stream is over and nothing of it is held any more.
func (w *Window) close() {
	w.stopTimer()
	if w.manager == nil {
		return
	}
	ev := WindowEvent{Kind: WindowClosed, Credit: int(w.credit), Unread: int(w.unread), Total: w.total, Length: -1, Now: w.c.now, RTT: w.c.minRTT}
	if w.foreign {
		w.ask(ev) // there is nothing left for it to break
	} else {
		w.manager.Update(ev)
	}
	w.manager = nil
}

// appendUpdate appends the WINDOW_UPDATE for what was granted since the last one. RFC 9113 §6.9: an
// increment is 2^31-1 at most. A window that a smaller initial size made negative can be owed more,
// which takes a second frame.
func (w *Window) appendUpdate(dst []byte) []byte {
	n := w.pending
	w.pending = 0
	if w.ended() {
		return dst
	}
	for ; n > wire.MaxWindow; n -= wire.MaxWindow {
		dst = wire.AppendWindowUpdate(dst, w.StreamID(), wire.MaxWindow)
	}
	if n == 0 {
		return dst
	}
	return wire.AppendWindowUpdate(dst, w.StreamID(), int(n))
}

// Fixed is python hyper's manager: it brings the window back to Size when less than a quarter of it, or less
// than 1,000 octets, is left, as data arrives, whether or not anybody reads it. Size is in octets, 65,535 where it is 0.
// Use it as Config{WindowManager: Fixed{…}.New}.
type Fixed struct{ Size int }

// New is a WindowManagerFactory.
func (f Fixed) New(*Window) WindowManager {
	if f.Size <= 0 {
		f.Size = wire.InitialWindow
	}
	return f
}

// Update implements WindowManager.
func (f Fixed) Update(ev WindowEvent) int {
	switch ev.Kind {
	case WindowOpened:
		return f.missing(ev)
	case WindowData, WindowSettings, WindowStarved:
		if 4*int64(ev.Credit) < int64(f.Size) || ev.Credit < 1000 {
			return f.missing(ev)
		}
	}
	return 0
}

func (f Fixed) missing(ev WindowEvent) int { return increment(int64(f.Size) - int64(ev.Credit)) }

// increment is n as an answer of a manager, where an int may have 32 bits.
func increment(n int64) int { return int(min(max(0, n), wire.MaxWindow)) }

// Manual keeps windows of a set size that reopen as the caller reads: what the peer may send and what lies unread
// never pass the size together. The window moves when half of it is free, and by one octet at most past the end of
// a body whose length is known. Sizes are in octets: Stream for each stream, Connection for all of them together. Zero is
// the default, 1 MiB and 64 MiB.
type Manual struct{ Stream, Connection int }

const (
	defaultStreamWindow = 1 << 20
	defaultConnWindow   = 64 << 20
)

// New is a WindowManagerFactory.
func (m Manual) New(w *Window) WindowManager {
	if w.StreamID() == 0 {
		return consumptionWindow(or(max(0, m.Connection), defaultConnWindow))
	}
	if m.Stream <= 0 {
		return defaultStreamManager
	}
	return consumptionWindow(m.Stream)
}

// defaultStreamManager has no state of its own: all streams share it, and none allocates one.
var defaultStreamManager WindowManager = consumptionWindow(defaultStreamWindow)

type consumptionWindow int

func (size consumptionWindow) Update(ev WindowEvent) int {
	gap := int64(size) - int64(ev.Credit) - int64(ev.Unread)
	if gap < int64(size)/2 && ev.Kind != WindowOpened && ev.Kind != WindowStarved {
		return 0
	}
	return max(0, ev.needed(increment(gap)))
}

// needed is what of a grant a body of known length can use: what is due of it, and one octet. Servers built on nghttp2
// send END_STREAM on a frame of its own, and wait with that, too, while the window is 0 (RFC 9113 §6.9.1 lets
// them send it, and no more).
func (ev WindowEvent) needed(grant int) int {
	if ev.Length < 0 || ev.Length > math.MaxInt64/2 { // the latter never ends, and one more might be no int64
		return grant
	}
	return int(min(int64(grant), ev.Length+1-int64(ev.Credit)))
}

// RateLimited holds each stream to PerSecond octets a second on the mean, in bursts of at most Burst octets; the
// connection's window is Manual's. A rate is only reached where Burst is at least twice what arrives in a round
// trip, and only holds from the first octet where Config.InitialStreamWindow is at most Burst. Burst is a
// quarter of a second's octets where it is 0.
type RateLimited struct{ PerSecond, Burst int }

// New is a WindowManagerFactory.
func (r RateLimited) New(w *Window) WindowManager {
	if w.StreamID() == 0 || r.PerSecond <= 0 {
		return Manual{}.New(w)
	}
	if r.Burst <= 0 {
		r.Burst = max(1, r.PerSecond/4)
	}
	return &rateLimiter{RateLimited: r, w: w}
}

type rateLimiter struct {
	RateLimited
	w    *Window
	next time.Duration // before then nothing is granted
}

func (r *rateLimiter) Update(ev WindowEvent) int {
	const catchUp = 125 * time.Millisecond // of time not used, how much may be made good later
	debt := ev.needed(r.Burst - ev.Credit - ev.Unread)
	if debt <= 0 || debt < r.Burst/4 && ev.Credit > 0 {
		return 0
	}
	if r.next > ev.Now {
		r.w.WakeAfter(r.next - ev.Now)
		return 0
	}
	cost := time.Duration(math.Ceil(float64(debt) / float64(r.PerSecond) * float64(time.Second)))
	r.next = max(r.next, ev.Now-catchUp) + cost
	return debt
}
