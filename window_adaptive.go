package hyper

import (
	"sync"
	"time"
)

// AdaptiveWindow gives each stream the window that its reader and the path can use: about twice
// the bytes that arrived and were read in one round trip. A window begins with Initial. It grows
// as fast as TCP's slow start while data arrives faster and the reader keeps up, and it shrinks
// to what the reader takes. On a slow path the windows of all streams together shrink to twice
// what the path holds, so that other responses do not wait in a long queue. A stream that is not
// read keeps what it has. A new stream begins with its share of what earlier streams have shown
// the path to need. All streams together never hold more than Budget. AdaptiveWindow is the
// window manager if Config.WindowManager is nil.
//
// Streams that were never read leave most of the budget to those that are read. AdaptiveWindow
// sends SETTINGS with a smaller INITIAL_WINDOW_SIZE if the initial windows of streams that were not
// read yet would take more than half of Budget, or if such streams hold a tenth of it. From then on
// such streams get a tenth in all. With the defaults this begins above 128 streams, or with 6.4 MiB
// unread. When few streams are left, AdaptiveWindow announces Config.InitialStreamWindow again, at
// most once in ten seconds. A stream that is read gets its window by WINDOW_UPDATE. Streams that
// were read before and are not read any more keep what they were granted. Beyond their initial
// windows, they cannot get the last eighth of Budget.
//
// Initial is the size of a stream's window, in bytes, until the path is known to need less or more;
// 0 means 256 KiB - 1. The window of a slow reader does not become smaller. Initial needs no
// WINDOW_UPDATE if Config.InitialStreamWindow announces as much. Budget is what all streams of the
// connection may hold unread and be promised, in bytes; 0 means 64 MiB. The connection's window
// begins with 65,535 (RFC 9113 §6.9.2) even if Budget is less. Budget also limits the speed,
// because a path needs two bandwidth-delay products.
//
// If a request uses AdaptiveWindow on a connection that uses AdaptiveWindow, the connection's
// manager serves it and the request's Initial and Budget are ignored. If the connection uses
// another manager, or a wrapper of AdaptiveWindow, each stream is managed by itself, with a Budget
// of its own.
type AdaptiveWindow struct{ Initial, Budget int }

// The bounds and the defaults of AdaptiveWindow.
const (
	adaptiveInitial = 256<<10 - 1
	adaptiveBudget  = 64 << 20

	smallestStep = 16 << 10 // a WINDOW_UPDATE for less only helps a peer that is blocked
	// After ahead small responses in a row, streams get no credit ahead of their own need.
	ahead          = 8
	smallestWindow = 4 << 10 // of a stream that is read, however many there are
)

// New is a WindowManagerFactory.
func (a AdaptiveWindow) New(w *Window) WindowManager {
	if w.StreamID() == 0 {
		return a.newPath()
	}
	path, ok := w.ConnManager().(*adaptivePath)
	if !ok {
		path = a.newPath()
		path.standalone = true
	}
	s := spareStreams.Get().(*adaptiveStream)
	*s = adaptiveStream{path: path, w: w}
	return s
}

// newPath returns an adaptivePath for the connection, or for a stream that is managed by itself.
func (a AdaptiveWindow) newPath() *adaptivePath {
	p := &adaptivePath{
		initial: max(0, a.Initial),
		budget:  or(max(0, a.Budget), adaptiveBudget),
		path:    pathEstimate{rtt: unknownRTT},
		start:   startWindow{announced: -1, raised: -raiseAfter},
	}
	p.open.prev, p.open.next = &p.open, &p.open
	return p
}

// An adaptivePath is the state that the streams of a connection share. It is also the manager of
// the connection's window, whose size is the budget.
type adaptivePath struct {
	initial, budget int

	standalone bool // it serves one stream, which forwards its own events
	probed     bool // a PING was sent for a sample of the round trip, which began to matter
	jitterSeed uint32

	path  pathEstimate
	start startWindow

	open           adaptiveStream // the head of a ring of the streams that may receive, the oldest first
	streams        int            // their number
	busy           int            // how many of them have a meter, because their windows matter
	shared         int            // the share that all of them were given last
	largeResponses int            // above 0: one of the last responses needed more than initial
}

// Update implements WindowManager.
func (p *adaptivePath) Update(ev WindowEvent) int {
	p.path.observe(&ev)
	switch ev.Kind {
	case WindowConsumed:
		// Each stream may have half as much again as it was given last.
		if p.largeResponses > 0 && 2*p.share(p.streams) >= 3*p.shared {
			p.distribute()
		}
	case WindowTick:
		p.distribute() // the WINDOW_UPDATEs follow the requests that are written now
	}
	gap := p.budget - ev.Credit - ev.Unread
	if gap < p.budget/8 && ev.Kind != WindowOpened && ev.Kind != WindowBlocked {
		return 0
	}
	return max(0, gap)
}

// jitter makes a grant smaller by a few pseudo-random bytes. If a frame ends where such a window
// ends, it does so because the sender had to stop there, not by chance.
func (p *adaptivePath) jitter(grant int) int {
	if grant < smallestStep {
		return grant
	}
	p.jitterSeed = p.jitterSeed*1664525 + 1013904223
	return grant - int(p.jitterSeed>>23)
}

// share returns the window of one of n streams that share what the path needs.
func (p *adaptivePath) share(n int) int {
	if n <= 1 {
		return p.path.need // a division takes longer than all else here
	}
	return min(p.path.need, p.budget) / n
}

// outgrows reports whether a response may need more than its initial window, judged by the bytes
// that came so far. It does not wait for half of the window: when our grant reaches a sender in
// slow start, that sender has already sent twice what we see, and has written as much again into
// its socket.
func (p *adaptivePath) outgrows(total int64) bool { return 4*total >= int64(p.initial) }

// limit returns what one stream may have: what is left of seven eighths of the budget, or a quarter
// of all that is left, whichever is more, and at least the result of fair. So streams that had
// large windows and are not read any more leave something to the others. The unread bytes of
// streams that were never read count against the last eighth.
func (p *adaptivePath) limit(fair int) int {
	left := p.budget - p.path.unread
	return max(left-p.budget/8+p.start.held, left/4, fair)
}

// fair returns the window of a stream that is read, before the path is known to need more. That is
// initial, or less if so many streams are read that their windows would take more than half of what
// is left.
func (p *adaptivePath) fair() int {
	left := p.budget - p.path.unread
	n := p.streams - p.start.unused
	if n <= 1 || 2*n*p.initial <= left {
		return p.initial
	}
	return min(p.initial, max(left/(2*n), smallestWindow))
}

// distribute raises the windows of all streams without unread data to their share of what the path
// needs, ahead of their need.
func (p *adaptivePath) distribute() {
	share := min(p.share(p.streams), p.budget-p.path.unread)
	if share <= p.initial {
		return
	}
	p.shared = share
	for s := p.open.prev; s != &p.open; s = s.prev {
		s.raise(share)
	}
}

// configure notes the initial window that the user has chosen.
func (p *adaptivePath) configure(size int) {
	p.initial = or(p.initial, max(adaptiveInitial, size))
	p.start.top, p.start.announced = size, size
}

// InitialWindow implements InitialWindowManager.
func (p *adaptivePath) InitialWindow(announced, pushes int, now time.Duration) int {
	switch {
	case announced == p.start.announced:
	case p.start.before <= announced && announced < p.start.announced: // no stream may have more
		p.start.announced = announced
	default: // by the user
		p.configure(announced)
	}
	size := p.start.choose(pushes, p.budget, now)
	shift := p.start.announced - size
	p.start.announced, p.start.before = size, announced
	if shift < 0 {
		p.start.raised = now
	}
	// Streams that are read do not stop because of what this takes from them (RFC 9113 §6.9.2).
	for s := p.open.next; s != &p.open && shift > 0; s = s.next {
		if left := s.w.State(); s.used {
			left.Credit -= shift
			s.w.GrantNow(left.needed(shift))
		}
	}
	return size
}

// The managers and meters of ended streams serve other streams, of any connection.
var (
	spareStreams = sync.Pool{New: func() any { return &adaptiveStream{} }}
	spareMeters  = sync.Pool{New: func() any { return &streamMeter{} }}
)
