package hyper

import "time"

// Bounds of the initial windows that AdaptiveWindow announces.
const (
	smallestInitial = 1 << 10 // no smaller initial window is announced, except 0
	// The announced initial window grows at most once in raiseAfter.
	raiseAfter = 10 * time.Second
)

// A startWindow chooses the initial window of streams. It counts the streams that were never read,
// because the initial window bounds what they may hold.
type startWindow struct {
	top       int           // INITIAL_WINDOW_SIZE as configured
	announced int           // INITIAL_WINDOW_SIZE as last sent; less than top while many streams are open
	raised    time.Duration // when announced last grew
	unused    int           // open streams that were never read
	held      int           // unread bytes of streams that were never read, open or not
	ahead     int           // granted to open streams that were never read, beyond their initial window
}

// reduced reports whether a smaller initial window than the configured one is announced.
func (w *startWindow) reduced() bool { return w.announced < w.top }

// choose returns the initial window to announce before one more stream is opened. pushes is the
// number of promised streams that may have no manager yet.
//
// A stream that is never read holds its initial window, and that credit cannot be taken back. The
// initial window stays as configured while the initial windows of all such streams fit in half of
// the budget and little of it is used. Beyond that it is halved until a tenth of the budget is
// enough for what such streams hold and what they may still receive. Streams that are read keep at
// least nine tenths.
func (w *startWindow) choose(pushes, budget int, now time.Duration) int {
	n, size := w.unused+pushes+1, w.announced
	tenth := budget / 10
	switch {
	case size == w.top && n*size+w.ahead <= budget/2 && (w.held == 0 || w.held+size <= tenth):
		return size
	case n*size+w.held <= tenth:
		return w.higher(n, budget, now)
	}
	for size > 0 && n*size+w.held > tenth {
		size = halved(size)
	}
	return size
}

// halved returns the next smaller initial window. Below smallestInitial it is 0, and a stream gets
// its window when it is read.
func halved(size int) int {
	if size /= 2; size < smallestInitial {
		return 0
	}
	return size
}

// higher returns the initial window for n streams that were never read, when they may hold more
// than is announced. The size only grows to the configured one, or to four times the announced one
// or more. Servers count SETTINGS, so it grows at most once in raiseAfter.
func (w *startWindow) higher(n, budget int, now time.Duration) int {
	if w.announced == w.top || w.raised != 0 && now-w.raised < raiseAfter {
		return w.announced
	}
	if n*w.top <= budget/8 && w.held <= budget/40 {
		return w.top
	}
	for size := w.top; size >= 4*w.announced && size > 0; size = halved(size) {
		if n*size+w.held <= budget/20 {
			return size
		}
	}
	return w.announced
}
