package hyper

import (
	"math"
	"time"

	"gohyper.dev/hyper/internal/wire"
)

// FixedWindow is Python hyper's manager. As data arrives, it brings the window back to Size when
// less than a quarter of it, or less than 1,000 bytes, is left. It does so whether or not the data
// is read. Size is in bytes; 0 means 65,535. Use it as Config{WindowManager: FixedWindow{…}.New}.
type FixedWindow struct{ Size int }

// New is a WindowManagerFactory.
func (f FixedWindow) New(*Window) WindowManager {
	if f.Size <= 0 {
		f.Size = wire.InitialWindow
	}
	return f
}

// Update implements WindowManager.
func (f FixedWindow) Update(ev WindowEvent) int {
	switch ev.Kind {
	case WindowOpened:
		return f.missing(ev)
	case WindowData, WindowSettings, WindowBlocked:
		if 4*int64(ev.Credit) < int64(f.Size) || ev.Credit < 1000 {
			return f.missing(ev)
		}
	}
	return 0
}

// missing returns how much the window lacks of Size.
func (f FixedWindow) missing(ev WindowEvent) int { return increment(int64(f.Size) - int64(ev.Credit)) }

// increment converts n to the increment of a manager, also where an int has 32 bits.
func increment(n int64) int { return int(min(max(0, n), wire.MaxWindow)) }

// ReadWindow keeps windows of a set size that reopen as the caller reads: what the peer may send
// and what is unread never exceed the size together. The window moves when half of it is free. If
// the length of a body is known, the window ends at most one byte after the end of the body. Stream
// is the size for each stream and Connection the size for all streams together, in bytes; 0 means 1
// MiB for Stream and 64 MiB for Connection.
type ReadWindow struct{ Stream, Connection int }

// The sizes of ReadWindow's windows by default.
const (
	defaultStreamWindow = 1 << 20
	defaultConnWindow   = 64 << 20
)

// New is a WindowManagerFactory.
func (m ReadWindow) New(w *Window) WindowManager {
	if w.StreamID() == 0 {
		return consumptionWindow(or(max(0, m.Connection), defaultConnWindow))
	}
	if m.Stream <= 0 {
		return defaultStreamManager
	}
	return consumptionWindow(m.Stream)
}

// defaultStreamManager has no state: all streams share it, so that no stream allocates one.
var defaultStreamManager WindowManager = consumptionWindow(defaultStreamWindow)

// consumptionWindow is the manager of one of ReadWindow's windows; its value is the size.
type consumptionWindow int

// Update implements WindowManager.
func (size consumptionWindow) Update(ev WindowEvent) int {
	gap := int64(size) - int64(ev.Credit) - int64(ev.Unread)
	if gap < int64(size)/2 && ev.Kind != WindowOpened && ev.Kind != WindowBlocked {
		return 0
	}
	return max(0, ev.needed(increment(gap)))
}

// needed returns the part of grant that the body can use. If its length is known, that is what is
// still to come and one byte more. Servers built on nghttp2 send END_STREAM in a frame of its own,
// and do not send that frame either while the window is 0, although RFC 9113 §6.9.1 allows it.
func (ev *WindowEvent) needed(grant int) int {
	// A length above MaxInt64/2 means a body without end, and adding 1 could overflow.
	if ev.Length < 0 || ev.Length > math.MaxInt64/2 {
		return grant
	}
	return int(min(int64(grant), ev.Length+1-int64(ev.Credit)))
}

// RateLimitedWindow holds each stream to PerSecond bytes a second, from the first byte on. The
// initial window counts: it cannot be taken back, so nothing is granted until the time that its
// bytes take at the rate has passed. What the peer may send and what is unread are at most Burst
// bytes together, or the initial window if that is more. The rate is only reached if Burst is at
// least twice what arrives in a round trip. A reader that was slow may make up for an eighth of a
// second. The connection's window is that of ReadWindow. A Burst of 0 means the bytes of a quarter
// of a second. A PerSecond of 0 means no limit: then streams have ReadWindow, too.
type RateLimitedWindow struct{ PerSecond, Burst int }

// New is a WindowManagerFactory.
func (r RateLimitedWindow) New(w *Window) WindowManager {
	if w.StreamID() == 0 || r.PerSecond <= 0 {
		return ReadWindow{}.New(w)
	}
	if r.Burst <= 0 {
		r.Burst = max(1, r.PerSecond/4)
	}
	return &rateLimiter{RateLimitedWindow: r, w: w}
}

// rateLimiter is the manager of one stream of RateLimitedWindow.
type rateLimiter struct {
	RateLimitedWindow
	w    *Window
	paid time.Duration // what was granted so far may arrive until this time
}

// Update implements WindowManager.
func (r *rateLimiter) Update(ev WindowEvent) int {
	const catchUp = time.Second / 8 // how much unused time may be made up for later
	if ev.Kind == WindowOpened {
		r.paid = ev.Now + r.cost(ev.Credit+ev.Unread)
	}
	gap := ev.needed(r.Burst - ev.Credit - ev.Unread)
	if gap <= 0 || gap < r.Burst/4 && ev.Credit > 0 {
		return 0
	}
	// Steps of a quarter of Burst, so that few WINDOW_UPDATEs are enough.
	step := min(gap, max(1, r.Burst/4))
	r.paid = max(r.paid, ev.Now-catchUp-r.cost(step))
	if wait := r.paid + r.cost(step) - ev.Now; wait > 0 {
		r.w.WakeAfter(wait)
		return 0
	}
	grant := min(gap, max(step, int((ev.Now-r.paid).Seconds()*float64(r.PerSecond))))
	r.paid += r.cost(grant)
	return grant
}

// cost returns the time that n bytes take at the rate.
func (r *rateLimiter) cost(n int) time.Duration {
	return time.Duration(math.Ceil(float64(max(0, n)) / float64(r.PerSecond) * float64(time.Second)))
}
