package hyper

import "time"

// Bounds of the initial windows that AdaptiveWindow announces.
const (
	smallestInitial = 1 << 10          // no smaller initial window is announced, except 0
	raiseAfter      = 10 * time.Second // the announced one grows at most once in this time
)

// A startWindow chooses the initial window of streams. It counts the streams that were never read,
// because the initial window bounds what they may hold.
type startWindow struct {
	top       int           // INITIAL_WINDOW_SIZE as configured
	announced int           // INITIAL_WINDOW_SIZE as last sent; less than top while many streams are open
	before    int           // what was announced before the last choice
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
//
// Servers count SETTINGS. So the size only grows to the configured one, or to four times the
// announced one or more, and at most once in raiseAfter.
func (w *startWindow) choose(pushes, budget int, now time.Duration) int {
	n, size, tenth := w.unused+pushes+1, w.top, budget/10
	if !w.reduced() && n*size+w.ahead <= budget/2 && (w.held == 0 || w.held+size <= tenth) {
		return size
	}
	for size > 0 && n*size+w.held > tenth {
		if size /= 2; size < smallestInitial {
			size = 0 // a stream gets its window when it is read
		}
	}
	little := size < w.top && size < 4*w.announced
	if size > w.announced && (little || now-w.raised < raiseAfter) {
		return w.announced
	}
	return size
}
