package hyper

import (
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"gohyper.dev/hyper/internal/syntax"
	"gohyper.dev/hyper/internal/wire"
)

// A WindowManager decides how much the peer may send. It is told of each event of one receive
// window and returns an increment for that window (RFC 9113 §5.2, §6.9). Python hyper's "very
// stupid" manager grants as many bytes as arrived:
//
//	hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int { return ev.Received() })
//
// A manager gets events for DATA, for the response's header, for what is read, for settings and for
// round trips. Window.WatchFrames asks for an event for every other frame as well.
//
// The library does the accounting; a manager only returns increments. Every Update of a connection
// runs under the connection's lock, and the connection's manager is called before the stream's. So
// the managers of one connection may share state without locks of their own, and move each other's
// windows with GrantNow. Update must not block and must not call the connection or its Transport.
//
// An increment of 0 grants nothing. An increment that would move the window past 2^31-1 is cut off
// there, so math.MaxInt32 means "unlimited". If Update returns a negative increment or panics, the
// stream ends with a *WindowManagerError; if it is the connection's manager, the connection does.
// An increment for a window that is already closed is dropped.
//
// A manager that grants on receipt, as the one above and FixedWindow do, gives no back-pressure:
// hyper reads the socket without waiting for the caller, so unread data accumulates in memory. A
// manager that grants what was consumed does not have this problem.
type WindowManager interface {
	Update(ev WindowEvent) (increment int)
}

// A WindowManagerFunc is a function that is a WindowManager.
type WindowManagerFunc func(ev WindowEvent) int

// Update calls f.
func (f WindowManagerFunc) Update(ev WindowEvent) int { return f(ev) }

// A WindowManagerFactory makes the manager of one window. It is called for the connection first,
// where w.StreamID() is 0, then for each stream. It runs under the connection's lock, as Update
// does. If it returns nil, the window has no manager and only Grant moves it.
type WindowManagerFactory func(w *Window) WindowManager

// A WindowEventKind says what happened to a window.
type WindowEventKind uint8

// The kinds of window events.
const (
	// WindowOpened: the window was opened, and Credit is what the settings give. For a push it
	// comes when the push is claimed.
	WindowOpened WindowEventKind = iota + 1
	// WindowHeaders: the response's header arrived, and Length is known from now on.
	WindowHeaders
	// WindowData: a DATA frame of Bytes arrived. For a push, one such event follows WindowOpened
	// for everything that arrived before the push was claimed.
	WindowData
	// WindowConsumed: the reader took Bytes, or they were padding or were discarded.
	WindowConsumed
	// WindowSettings: the peer acknowledged a new initial window size. Credit changed by Bytes,
	// which is negative for a smaller size.
	WindowSettings
	// WindowRTT: a round trip was measured. The connection's manager gets this event, and the
	// manager of the stream that called ProbeRTT.
	WindowRTT
	// WindowBlocked: a reader waits, nothing is buffered for it, and the peer may send nothing.
	WindowBlocked
	// WindowTick: the time that WakeAfter asked for has passed, or the write comes that
	// WakeBeforeWrite asked for.
	WindowTick
	// WindowClosed: the window is closed. It is the last event, and the increment is ignored.
	WindowClosed
	// WindowFrame: a frame that is not DATA arrived. It comes only after Window.WatchFrames.
	WindowFrame
)

// windowEventNames are the names of the kinds, without their prefix.
var windowEventNames = [...]string{"?", "Opened", "Headers", "Data", "Consumed", "Settings", "RTT", "Blocked",
	"Tick", "Closed", "Frame"}

// String returns the name of the kind, "Data" for WindowData.
func (k WindowEventKind) String() string {
	if int(k) < len(windowEventNames) {
		return windowEventNames[k]
	}
	return fmt.Sprintf("WindowEventKind(%d)", uint8(k))
}

// A WindowEvent is one event of a window, with the state of the window after it. All sizes are in
// bytes.
type WindowEvent struct {
	Kind     WindowEventKind
	End      bool   // WindowData: the frame carried END_STREAM
	Type     uint8  // WindowFrame: the frame's type as a number (RFC 9113 §6); see FrameName
	Flags    uint8  // WindowFrame: the frame's flags
	StreamID uint32 // WindowFrame: the frame's stream, 0 for the connection
	// Bytes depends on Kind. WindowData: the flow-controlled length. WindowConsumed: the bytes that
	// were read, padding or discarded. WindowSettings: the change of Credit, which may be negative.
	// WindowFrame: the frame's length.
	Bytes   int
	Padding int           // WindowData: how many of Bytes are padding
	Credit  int           // what the peer may still send; negative after a smaller initial window
	Unread  int           // received and not consumed
	Total   int64         // received since the window was opened
	Length  int64         // body bytes still to come by content-length, -1 if unknown
	Now     time.Duration // monotonic, since the connection was made
	RTT     time.Duration // WindowRTT: the sample; else the smallest sample, 0 if there is none
}

// Received returns Bytes of a WindowData event, and 0 for any other event.
func (ev WindowEvent) Received() int {
	if ev.Kind == WindowData {
		return ev.Bytes
	}
	return 0
}

// FrameName returns the type of the frame of a WindowFrame event, as RFC 9113 §6 names it, such as
// "PING". It is empty for any other event.
func (ev WindowEvent) FrameName() string {
	if ev.Kind == WindowFrame {
		return wire.FrameType(ev.Type).String()
	}
	return ""
}

// Consumed returns Bytes of a WindowConsumed event, and 0 for any other event.
func (ev WindowEvent) Consumed() int {
	if ev.Kind == WindowConsumed {
		return ev.Bytes
	}
	return 0
}

// A WindowManagerError reports that a window manager returned a negative increment or panicked.
type WindowManagerError struct {
	StreamID uint32 // 0 for the connection's manager
	// Event is that of Update, WindowOpened for a factory, and WindowSettings for InitialWindow.
	Event WindowEventKind
	Value int // the increment that it returned, if it did not panic
	Panic any // the value that it panicked with
	// Stack is the stack of the panic, as debug.Stack formats it, and nil if there was none. Error
	// does not contain it.
	Stack []byte
}

// Error names the manager, the event, and what the manager did.
func (e *WindowManagerError) Error() string {
	owner := windowOwner(e.StreamID)
	if e.Panic != nil {
		return fmt.Sprintf(prefix+"window manager of %s panicked at %v: %s", owner, e.Event,
			syntax.Escape(fmt.Sprint(e.Panic)))
	}
	return fmt.Sprintf(prefix+"window manager of %s returned %d for %v: an increment cannot be negative",
		owner, e.Value, e.Event)
}

// windowOwner names what the window of a stream belongs to. The stream 0 is the connection.
func windowOwner(streamID uint32) string {
	if streamID == 0 {
		return "the connection"
	}
	return fmt.Sprintf("stream %d", streamID)
}

// A Window is the receive window of a connection or of one stream, as its manager sees it.
type Window struct {
	c *Conn
	s *Stream // nil for the connection's window

	asked atomic.Int64 // by Grant, and not applied yet

	// c.mu guards the fields below.
	manager WindowManager
	kind    managerKind
	watches bool  // the manager gets an event for every frame
	wakes   bool  // of the connection's window: its manager gets a WindowTick before the next write
	readers int32 // readers that wait for data of this window
	// credit is what the peer may send once pending is announced. It is negative after a smaller
	// initial window.
	credit       int64
	pending      int64 // granted, but no WINDOW_UPDATE is in the output yet
	unread       int64
	total        int64
	timer        *time.Timer
	blockedSince time.Duration // since when readers wait and the peer may not send; 0 if that is not so
}

// A managerKind says where the manager of a window is from.
type managerKind uint8

const (
	unmanaged      managerKind = iota // no manager was made yet
	defaultManager                    // the library chose it, because the user chose none
	userManager                       // of a factory of the user: it may panic or call the connection
)

// An InitialWindowManager is a WindowManager that also chooses the initial window of streams
// (SETTINGS_INITIAL_WINDOW_SIZE, RFC 9113 §6.9.2), if it is the manager of a connection.
// AdaptiveWindow's manager of a connection is one. A manager that wraps another one is one only if
// it has the method itself.
type InitialWindowManager interface {
	WindowManager

	// InitialWindow is called under the connection's lock before a stream is opened and when a push
	// is promised. It returns the initial window of the streams from there on, in bytes. announced
	// is the initial window until now: that of Config.InitialStreamWindow, of
	// Conn.UpdateSettings, or of an earlier call. pushes is the number of pushes that were promised
	// and not claimed; they have no manager yet, and each may fill its initial window. now is the
	// time since the connection was made, as in WindowEvent.
	//
	// If the size differs from announced, SETTINGS go out before the request. The windows of all
	// open streams move by the difference: up at once, down when the peer acknowledges it. The
	// manager may give a stream back what it loses by GrantNow. Servers count SETTINGS, so the
	// size should seldom change. It stays as it is while 32 SETTINGS are not acknowledged, and
	// it is cut off where the window of a stream would exceed 2^31-1. A negative size or a panic
	// ends the connection with a *WindowManagerError.
	InitialWindow(announced, pushes int, now time.Duration) (size int)
}

// StreamID returns the ID of the window's stream, 0 for the connection.
func (w *Window) StreamID() uint32 {
	if w.s == nil {
		return 0
	}
	return w.s.id
}

// Request returns the request whose response the window is for, nil for the connection's window.
// The caller must not change it.
func (w *Window) Request() *Request {
	if w.s == nil {
		return nil
	}
	return w.s.req
}

// ConnManager returns the manager of the connection's window, nil while that manager is being made.
// It may be of another type than the stream's manager, so the caller should check its type.
func (w *Window) ConnManager() WindowManager { return w.c.flow.window.manager }

// Grant lets the peer send n more bytes. It may be called from any goroutine. It may also be called
// inside Update, and is then applied after Update's own increment. It has no effect if n ≤ 0 or if
// the window is closed.
func (w *Window) Grant(n int) {
	if n <= 0 {
		return
	}
	n = min(n, wire.MaxWindow) // so that sums cannot overflow an int64
	if w.asked.Add(int64(n)) == int64(n) {
		w.c.flow.grants.add(w)
	}
	w.c.wakeWriter()
}

// GrantNow is Grant with an effect before it returns. It may only be called inside Update, of the
// window's manager or of another manager of the same connection.
func (w *Window) GrantNow(n int) { w.grant(int64(n)) }

// State returns the state of the window, as an event has it. Its Kind is 0. State may only be
// called inside the factory or Update, of the window's manager or of another manager of the same
// connection.
func (w *Window) State() WindowEvent {
	ev := WindowEvent{RTT: w.c.liveness.minRTT}
	w.describe(&ev)
	return ev
}

// WakeAfter asks for one WindowTick event after d. It may only be called inside Update. A later
// call replaces an earlier one. It has no effect once nothing more can arrive through the window,
// and no WindowTick event comes after that.
func (w *Window) WakeAfter(d time.Duration) {
	switch {
	case w.ended():
	case w.timer == nil:
		w.timer = time.AfterFunc(d, w.tick)
	default:
		w.timer.Reset(d)
	}
}

// tick sends the WindowTick event.
func (w *Window) tick() {
	w.c.lock()
	w.c.readClockLocked()
	w.update(WindowEvent{Kind: WindowTick})
	w.c.unlock()
}

// WakeBeforeWrite asks for one WindowTick event of the connection's manager, before the next write
// to the peer, which will have what that manager grants. So the manager can decide once for all
// requests that are written together. It may only be called inside the factory or Update, of any
// window of the connection. It does not cause a write.
func (w *Window) WakeBeforeWrite() { w.c.flow.window.wakes = true }

// ProbeRTT sends a PING to measure the round trip, and reports whether a WindowRTT event will come.
// It may only be called inside Update. It sends nothing if another PING is in flight, if nothing
// else was sent since the last such PING, or if three were sent and the last is less than ten
// seconds ago. It also sends nothing unless the peer has sent DATA or HEADERS since it acknowledged
// the last PING of any kind, or five minutes have passed since then.
func (w *Window) ProbeRTT() bool { return w.c.probeRTTLocked(w) }

// WatchFrames asks for a WindowFrame event for every frame that has no event of its own. The
// manager of a stream gets one for each frame that the peer sends on that stream and that is not
// DATA; the connection's manager gets one for each such frame of the whole connection. The event
// comes before the frame takes effect. A field section is one event, with the type and the length
// of its first frame. A frame that cannot be read has no event. A frame of a stream that has ended
// is reported to the connection's manager only. The frames of a push are reported from the time
// when it is claimed. WatchFrames may only be called inside the factory or Update.
func (w *Window) WatchFrames() { w.watches, w.c.reader.watched = true, true }

// A connFlow holds the flow control of a connection, except for the receive windows of its streams.
// The connection's mu guards it, except for grants.
type connFlow struct {
	grants        windowGrants // has its own lock
	window        Window       // the connection's receive window
	sendWindow    int64
	maxDelta      int64 // upper bound of all streams' sendDelta
	initialWindow int64 // of the receive windows of new streams
}

// windowGrants holds the windows with a Grant that the writer has not applied yet. It has a lock of
// its own, so that Grant can be called inside Update.
type windowGrants struct {
	mu   sync.Mutex
	list []*Window
}

// add appends w to the list.
func (g *windowGrants) add(w *Window) {
	g.mu.Lock()
	g.list = append(g.list, w)
	g.mu.Unlock()
}

// take returns the list and empties it.
func (g *windowGrants) take() (list []*Window) {
	g.mu.Lock()
	list, g.list = g.list, nil
	g.mu.Unlock()
	return list
}

// c.mu must be held by the callers of the methods below.
//
// A manager that breaks a rule ends its stream or, if it is the connection's manager, the
// connection. Methods that call the manager return ended: it was ended by this call.

// open makes the manager and sends it WindowOpened, with the credit that the settings give. The
// manager is AdaptiveWindow's if factory is nil.
func (w *Window) open(factory WindowManagerFactory) (ended bool) {
	if factory == nil {
		w.kind, w.manager = defaultManager, AdaptiveWindow{}.New(w)
	} else if err := w.make(factory); err != nil {
		w.fail(err)
		return true
	}
	return w.update(WindowEvent{Kind: WindowOpened})
}

// make calls the factory. A panic of the factory becomes a *WindowManagerError.
func (w *Window) make(factory WindowManagerFactory) (err error) {
	w.kind = userManager
	w.c.mu.enter()
	defer w.leave(WindowOpened, &err)
	w.manager = factory(w)
	return nil
}

// leave is deferred by functions that call user code for an event. It sets err if that code
// panicked.
func (w *Window) leave(event WindowEventKind, err *error) {
	w.c.mu.leave()
	if p := recover(); p != nil {
		*err = &WindowManagerError{StreamID: w.StreamID(), Event: event, Panic: p, Stack: debug.Stack()}
	}
}

// receive counts n flow-controlled bytes, of which padding bytes are to be discarded. It reports
// whether the peer was allowed to send them: it must not use credit that has not been announced
// (RFC 9113 §6.9.1). An empty frame needs no credit, not even in a window of 0.
func (w *Window) receive(n, padding int) bool {
	if n > 0 && int64(n) > w.credit-w.pending {
		return false
	}
	w.credit -= int64(n)
	w.unread += int64(n - padding)
	w.total += int64(n)
	return true
}

// mayArrive returns how many bytes fewer than all the peer may send: what does not use up the
// window.
func (w *Window) mayArrive() int64 { return w.credit - w.pending - 1 }

// ownsManager reports whether the manager is this package's, so that it need not get an event for
// each frame.
func (w *Window) ownsManager() bool { return w.kind != userManager }

// discard tells the manager of n bytes of padding, which were never kept in memory.
func (w *Window) discard(n int) (ended bool) {
	return n > 0 && w.update(WindowEvent{Kind: WindowConsumed, Bytes: n})
}

// consume counts n bytes that are no longer kept in memory, and tells the manager.
func (w *Window) consume(n int) (ended bool) {
	if n == 0 {
		return false
	}
	w.unread -= int64(n)
	if w.unread == 0 && w.ownsManager() && w.s != nil && w.s.recvErr != nil {
		return false // the window is closed next, and that is all that the default manager needs
	}
	return w.update(WindowEvent{Kind: WindowConsumed, Bytes: n})
}

// update sends ev to the manager, and grants the increment that it returns.
func (w *Window) update(ev WindowEvent) (ended bool) {
	if w.manager == nil {
		return false
	}
	w.describe(&ev)
	if ev.Kind != WindowRTT {
		ev.RTT = w.c.liveness.minRTT
	}
	if w.kind != userManager {
		if n := w.manager.Update(ev); n > 0 {
			w.grant(int64(n))
		}
		return false
	}
	n, err := w.ask(ev)
	if err != nil {
		w.fail(err)
		return true
	}
	if n > 0 {
		w.grant(int64(n))
	}
	return false
}

// describe sets the state of the window in ev, except for RTT.
func (w *Window) describe(ev *WindowEvent) {
	// Padding counts as unread here: the next event discards it.
	ev.Credit, ev.Unread, ev.Total = int(w.credit), int(w.unread)+ev.Padding, w.total
	ev.Length = -1
	if w.s != nil {
		ev.Length = w.s.bodyLeft
	}
	ev.Now = w.c.liveness.now
}

// ask sends ev to a manager of the user, which may panic or call the connection.
func (w *Window) ask(ev WindowEvent) (n int, err error) {
	w.c.mu.enter()
	defer w.leave(ev.Kind, &err)
	if n = w.manager.Update(ev); n < 0 {
		return 0, &WindowManagerError{StreamID: w.StreamID(), Event: ev.Kind, Value: n}
	}
	return n, nil
}

// initialWindow returns the initial window that the connection's manager chooses. Without a choice
// it is the announced one.
func (w *Window) initialWindow(now time.Duration) (size int, ended bool) {
	announced := int(w.c.flow.initialWindow)
	m, ok := w.manager.(InitialWindowManager)
	if !ok {
		return announced, false
	}
	if w.kind != userManager {
		return m.InitialWindow(announced, w.c.streams.pushes, now), false
	}
	size, err := w.askInitial(m, announced, now)
	if err != nil {
		w.fail(err)
	}
	return size, err != nil
}

// askInitial asks a manager of the user for the initial window.
func (w *Window) askInitial(m InitialWindowManager, announced int, now time.Duration) (size int, err error) {
	w.c.mu.enter()
	defer w.leave(WindowSettings, &err)
	if size = m.InitialWindow(announced, w.c.streams.pushes, now); size < 0 {
		return 0, &WindowManagerError{Event: WindowSettings, Value: size}
	}
	return size, nil
}

// fail removes the manager and ends its stream or, for the connection's window, the connection.
func (w *Window) fail(err error) {
	w.manager = nil
	if w.s != nil {
		w.s.resetLocked(streamErr(w.s.id, ErrCodeInternal, err))
		return
	}
	w.c.failLocked(&ConnError{Code: ErrCodeInternal, Err: err, how: connGoAway})
}

// grant adds n to the window, as far as RFC 9113 §6.9.1 allows. The next write sends the
// WINDOW_UPDATE: all increments until then become one frame.
func (w *Window) grant(n int64) {
	if n = min(n, wire.MaxWindow-w.credit); n <= 0 || w.ended() {
		return
	}
	if w.pending == 0 {
		w.c.writer.updates = append(w.c.writer.updates, w)
	}
	w.credit += n
	w.pending += n
	if w.credit > 0 {
		w.blockedSince = 0
	}
}

// blocked tells the manager that a reader waits, that nothing is buffered for it, and that the peer
// may send nothing. It also starts Config.WindowBlockedTimeout if the manager does not grant
// anything.
func (w *Window) blocked() (ended bool) {
	if w.credit > 0 {
		return false
	}
	if w.update(WindowEvent{Kind: WindowBlocked}) {
		return true
	}
	if w.credit <= 0 && w.blockedSince == 0 && w.c.cfg.WindowBlockedTimeout > 0 && !w.ended() {
		w.blockedSince = max(w.c.liveness.now, 1)
		w.c.armLocked(w.blockedUntil())
	}
	return false
}

// addReader counts a reader that begins to wait.
func (w *Window) addReader() { w.readers++ }

// removeReader counts a reader that no longer waits.
func (w *Window) removeReader() {
	if w.readers--; w.readers == 0 {
		w.blockedSince = 0
	}
}

// blockedUntil returns the time when Config.WindowBlockedTimeout ends for a manager that has
// granted nothing to a waiting reader, and 0 if there is none.
func (w *Window) blockedUntil() time.Duration {
	if w.blockedSince == 0 || w.credit > 0 {
		return 0
	}
	return w.blockedSince + w.c.cfg.WindowBlockedTimeout
}

// endBlocked ends the stream, or the connection, because its manager lets a reader wait for longer
// than Config.WindowBlockedTimeout.
func (w *Window) endBlocked() {
	w.fail(fmt.Errorf("%w: the window of %s is at %d, a reader waits, and its manager granted nothing for "+
		"%v (%d bytes received, %d of them unread)", ErrWindowBlocked, windowOwner(w.StreamID()), w.credit,
		w.c.cfg.WindowBlockedTimeout, w.total, w.unread))
}

// ended reports whether nothing more can arrive through the window. What arrived may still be
// unread.
func (w *Window) ended() bool {
	if w.c.ending.err != nil {
		return true
	}
	return w.s != nil && !w.s.state.CanRecv()
}

// stopTimer cancels a WindowTick event that is due.
func (w *Window) stopTimer() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// close sends the manager its last event: the stream has ended and nothing of it is kept any more.
func (w *Window) close() {
	w.stopTimer()
	if w.manager == nil {
		return
	}
	ev := w.State()
	ev.Kind, ev.Length = WindowClosed, -1
	if w.kind == userManager {
		// An error no longer matters: the window is closed.
		w.ask(ev)
	} else {
		w.manager.Update(ev)
	}
	w.manager = nil
}

// appendUpdate appends the WINDOW_UPDATE for what was granted since the last one. An increment is
// at most 2^31-1 (RFC 9113 §6.9). A window that became negative after a smaller initial size can
// need more than that, and then takes a second frame.
func (w *Window) appendUpdate(dst []byte) []byte {
	n := w.pending
	w.pending = 0
	if w.ended() {
		return dst
	}
	if t := w.c.writer.tracer; t != nil {
		t.recvWindowLocked(w.s, int(n))
	}
	for ; n > wire.MaxWindow; n -= wire.MaxWindow {
		dst = wire.AppendWindowUpdate(dst, w.StreamID(), wire.MaxWindow)
	}
	if n == 0 {
		return dst
	}
	return wire.AppendWindowUpdate(dst, w.StreamID(), int(n))
}
