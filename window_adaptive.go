package hyper

import (
	"math"
	"time"
)

// AdaptiveWindow gives each stream the window that its reader and the path can use: about twice the bytes
// that arrived and were read in one round trip. A window begins with Initial. It grows as fast as
// TCP's slow start while data arrives faster and the reader keeps up, and it shrinks to what the
// reader takes. A stream that is not read keeps what it has. A new stream begins with its share of
// what earlier streams have shown the path to need. All streams together never hold more than
// Budget. AdaptiveWindow is the window manager if Config.WindowManager is nil.
//
// Streams that were never read leave most of the budget to those that are read. AdaptiveWindow sends
// SETTINGS with a smaller INITIAL_WINDOW_SIZE if the initial windows of streams that were not read
// yet would take more than half of Budget, or if such streams hold a tenth of it. From then on such
// streams get a tenth in all. With the defaults this begins above 128 streams. When few streams are
// left, AdaptiveWindow announces Config.InitialStreamWindow again, at most once in ten seconds. A stream
// that is read gets its window by WINDOW_UPDATE. Streams that were read before and are not read any
// more keep what they were granted, but they cannot get the last eighth of Budget.
//
// Initial is the smallest size of a stream's window, in bytes; 0 means 256 KiB - 1. It needs no
// WINDOW_UPDATE if Config.InitialStreamWindow announces as much. Budget is what all streams of the
// connection may hold unread and be promised, in bytes; 0 means 64 MiB. The connection's window
// begins with 65,535 (RFC 9113 §6.9.2) even if Budget is less. Budget also limits the speed,
// because a path needs two bandwidth-delay products.
//
// If a request uses AdaptiveWindow on a connection that uses AdaptiveWindow, the connection's
// manager serves it and the request's Initial and Budget are ignored. If the connection uses another
// manager, or a wrapper of AdaptiveWindow, each stream is managed by itself, with a Budget of its
// own.
type AdaptiveWindow struct{ Initial, Budget int }

// The bounds and the defaults of AdaptiveWindow.
const (
	adaptiveInitial = 256<<10 - 1
	adaptiveBudget  = 64 << 20

	unknownRTT  = 100 * time.Millisecond // assumed until there is a sample
	shortestRTT = 2 * time.Millisecond   // below it, scheduling delays dominate the measurement
	mostProbes  = 2                      // on one connection, because servers count PINGs
	probeAgain  = 30 * time.Second       // the first probe may have been delayed in a queue
	// A WINDOW_UPDATE for less than smallestStep costs more than it gains, unless the peer is
	// blocked.
	smallestStep = 16 << 10
	// After ahead small responses in a row, streams get no credit ahead of their own need.
	ahead = 8

	smallestInitial = 1 << 10 // no smaller initial window is announced, except 0
	smallestWindow  = 4 << 10 // of a stream that is read, however many there are
	// The announced initial window grows at most once in raiseAfter.
	raiseAfter = 10 * time.Second
)

// New is a WindowManagerFactory.
func (a AdaptiveWindow) New(w *Window) WindowManager {
	if w.StreamID() == 0 {
		return a.newPath(w)
	}
	path, ok := w.ConnManager().(*adaptivePath)
	if !ok {
		path = a.newPath(w)
		path.standalone = true
	}
	return path.stream(w)
}

// newPath returns an adaptivePath for w: the connection's window, or that of a stream that is
// managed by itself.
func (a AdaptiveWindow) newPath(w *Window) *adaptivePath {
	return &adaptivePath{
		initial: or(max(0, a.Initial), max(adaptiveInitial, w.c.cfg.InitialStreamWindow)),
		budget:  or(max(0, a.Budget), adaptiveBudget),
		rtt:     unknownRTT,

		top:       w.c.cfg.InitialStreamWindow,
		announced: w.c.cfg.InitialStreamWindow,
	}
}

// An adaptivePath is the state that the streams of a connection share. It is also the manager of
// the connection's window, whose size is the budget.
type adaptivePath struct {
	initial, budget int

	standalone bool  // it serves one stream, which forwards its own events
	known      bool  // rtt was measured
	growing    bool  // more data comes with each round trip
	probes     uint8 // the number of probes sent
	jitterSeed uint32

	rtt    time.Duration // the shortest measured, within bounds
	probed time.Duration // when the last probe was sent
	meter  meter         // of all streams together
	best   [2]int        // the largest mean of a round trip, in the current 16 and in the 16 before
	turn   time.Duration // when the next 16 round trips begin
	need   int           // what the path can use: about two bandwidth-delay products
	unread int

	// These fields find out whether the round trip has become longer. If a sender had to stop at
	// the end of a window, the time from our WINDOW_UPDATE to the next DATA is a round trip.
	heard     time.Duration // when the last DATA arrived
	gap       time.Duration // the mean time between DATA frames
	quietFrom time.Duration // when the last silence began that was longer than such a gap should be
	loops     int           // round trips measured since rtt was last checked
	loop      time.Duration // the shortest of them

	open           *adaptiveStream // streams that may still receive, linked by next
	streams        int             // their number
	shared         int             // the share that all of them were given last
	largeResponses int             // above 0: one of the last responses needed more than initial

	// These fields count the streams that were never read. The initial window bounds what they may
	// hold: see initialFor.
	top       int           // INITIAL_WINDOW_SIZE as configured
	announced int           // INITIAL_WINDOW_SIZE as last sent; less than top while many streams are open
	raised    time.Duration // when announced last grew
	unused    int           // open streams that were never read
	held      int           // unread bytes of streams that were never read, open or not
	fresh     int           // streams opened since the last write
	ahead     int           // granted to open streams that were never read, beyond their initial window

	spareStreams *adaptiveStream
	spareMeters  *streamMeter
}

// Update implements WindowManager.
func (p *adaptivePath) Update(ev WindowEvent) int {
	p.observe(&ev)
	gap := p.budget - ev.Credit - ev.Unread
	if gap < p.budget/8 && ev.Kind != WindowOpened && ev.Kind != WindowBlocked {
		return 0
	}
	return max(0, gap)
}

// observe updates the path with what an event tells about it.
func (p *adaptivePath) observe(ev *WindowEvent) {
	p.unread = ev.Unread
	if !p.known && ev.RTT > 0 {
		p.known, p.rtt = true, max(ev.RTT, shortestRTT)
	}
	switch ev.Kind {
	case WindowData:
		p.noteGap(ev.Now)
		p.meter.at(ev.Now, p.rtt)
		p.meter.arrived += ev.Bytes
	case WindowConsumed:
		p.meter.at(ev.Now, p.rtt)
		p.meter.consumed += ev.Bytes
		p.learn(ev.Now)
	case WindowRTT:
		p.rtt = min(p.rtt, max(ev.RTT, shortestRTT))
	}
}

// probe sends a PING for a sample when the round trip begins to matter.
func (p *adaptivePath) probe(w *Window, now time.Duration) {
	if p.probes == 0 || p.probes < mostProbes && now-p.probed >= probeAgain {
		if w.ProbeRTT() {
			p.probes++
			p.probed = now
		}
	}
}

// noteGap is called when DATA arrives. It notes whether there was a silence before.
func (p *adaptivePath) noteGap(now time.Duration) {
	gap := now - p.heard
	if gap > p.rtt/4 && gap > 4*p.gap {
		p.quietFrom = p.heard
	}
	p.gap += (gap - p.gap) / 8
	p.heard = now
}

// measure takes a round trip that a stream measured from its own DATA. Once there are two for each
// stream, the shortest of them replaces rtt if it is clearly longer: then the path has changed.
func (p *adaptivePath) measure(loop time.Duration) {
	if p.loops == 0 || loop < p.loop {
		p.loop = loop
	}
	if p.loops++; p.loops < 2*p.streams {
		return
	}
	if p.loops = 0; p.loop > p.rtt/2*3 {
		p.rtt = p.loop
	}
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

// learn computes what the path needs.
func (p *adaptivePath) learn(now time.Duration) {
	through, before := p.meter.through()
	if now >= p.turn {
		p.turn = now + 16*p.rtt
		p.best[0], p.best[1] = 0, p.best[0]
	}
	p.best[0] = max(p.best[0], (through+before)/2, through/4*3)
	need, growing := p.meter.need(through, before)
	p.need, p.growing = max(need, 2*p.best[0], 2*p.best[1]), growing
	if p.largeResponses > 0 && !p.standalone && 2*p.share() >= 3*p.shared {
		p.distribute()
	}
}

// share returns the window of a stream of which nothing is known yet.
func (p *adaptivePath) share() int {
	if p.streams <= 1 {
		return p.need
	}
	return min(p.need, p.budget) / p.streams
}

// outgrows reports whether a response may need more than its initial window, judged by the bytes
// that came so far. It does not wait for half of the window: when our grant reaches a sender in
// slow start, that sender has already sent twice what we see, and has written as much again into
// its socket.
func (p *adaptivePath) outgrows(total int64) bool { return 4*total >= int64(p.initial) }

// limit returns what one stream may have: what is left of seven eighths of the budget, or a quarter
// of all that is left, whichever is more. So streams that had large windows and are not read any
// more leave something to the others. The unread bytes of streams that were never read count
// against the last eighth.
func (p *adaptivePath) limit() int {
	return max(p.budget/8*7-(p.unread-p.held), (p.budget-p.unread)/4, p.fair())
}

// fair returns the window of a stream that is read, before the path is known to need more. That is
// initial, or less if so many streams are read that their windows would take more than half of what
// is left.
func (p *adaptivePath) fair() int {
	left := p.budget - p.unread
	n := max(p.streams-p.unused, p.streams/4) // some of those that were not read yet will be
	if n <= 1 || 2*n*p.initial <= left {
		return p.initial
	}
	return min(p.initial, max(left/(2*n), smallestWindow))
}

// initialFor returns the initial window to announce before one more stream is opened. pushes is the
// number of promised streams that may have no manager yet.
//
// A stream that is never read holds its initial window, and that credit cannot be taken back. The
// initial window stays as configured while the initial windows of all such streams fit in half of
// the budget and little of it is used. Beyond that it is halved until a tenth of the budget is
// enough for what such streams hold and what they may still receive. Streams that are read keep at
// least nine tenths.
func (p *adaptivePath) initialFor(pushes int, now time.Duration) int {
	n, size := p.unused+pushes+1, p.announced
	tenth := p.budget / 10
	switch {
	case size == p.top && n*size+p.ahead <= p.budget/2 && (p.held == 0 || p.held+size <= tenth):
		return size
	case n*size+p.held <= tenth:
		return p.higher(n, now)
	}
	for size > 0 && n*size+p.held > tenth {
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
func (p *adaptivePath) higher(n int, now time.Duration) int {
	if p.announced == p.top || p.raised != 0 && now-p.raised < raiseAfter {
		return p.announced
	}
	if n*p.top <= p.budget/8 && p.held <= p.budget/40 {
		return p.top
	}
	for size := p.top; size >= 4*p.announced && size > 0; size = halved(size) {
		if n*size+p.held <= p.budget/20 {
			return size
		}
	}
	return p.announced
}

// announce records a new initial window. A smaller one takes the difference from all open streams
// (RFC 9113 §6.9.2). Those that are read get it back at once, so that they do not stop.
func (p *adaptivePath) announce(size int, now time.Duration) {
	shift := p.announced - size
	p.announced = size
	if shift < 0 {
		p.raised = max(now, 1)
	}
	for s := p.open; s != nil && shift > 0; s = s.next {
		if s.used() {
			left := WindowEvent{Credit: int(s.w.credit) - shift, Length: s.w.s.bodyLeft}
			s.w.grant(int64(left.needed(shift)))
		}
	}
}

// distribute raises the windows of all streams that wait for data to their share, before they ask.
func (p *adaptivePath) distribute() { p.distributeTo(p.share(), p.streams) }

// welcome does so for the streams that were opened since the last write, so that the WINDOW_UPDATEs
// follow the requests. It does nothing unless recent responses were large enough to need it.
func (p *adaptivePath) welcome() {
	fresh := p.fresh
	if p.fresh = 0; p.largeResponses > 0 && !p.standalone {
		share := p.share()
		if fresh > 1 { // servers do not serve them equally
			share = min(share/4*7, p.budget/p.streams/16*17)
		}
		p.distributeTo(share, fresh)
	}
}

// distributeTo raises the windows of the n streams that were opened last.
func (p *adaptivePath) distributeTo(share, n int) {
	share = min(share, p.budget-p.unread)
	if share <= p.initial {
		return
	}
	p.shared = share
	for s := p.open; s != nil && n > 0; s = s.next {
		n--
		w := s.w
		if gap := s.mayHaveAhead(share - int(w.credit)); w.unread == 0 && gap >= smallestStep {
			grant := w.needed(gap)
			if s.meter != nil {
				grant = p.jitter(grant)
			}
			s.grantedAhead(grant)
			w.grant(int64(grant))
			if s.meter != nil {
				s.meter.announce(w.total+w.credit, p.heard)
			}
		}
	}
}

// forgetSpares drops the managers and meters of ended streams that are kept for reuse.
func (p *adaptivePath) forgetSpares() { p.spareStreams, p.spareMeters = nil, nil }

// stream returns the manager of one stream. It reuses those of ended streams.
func (p *adaptivePath) stream(w *Window) *adaptiveStream {
	s := p.spareStreams
	if s == nil {
		s = &adaptiveStream{}
	} else {
		p.spareStreams = s.next
	}
	*s = adaptiveStream{path: p, w: w}
	return s
}

// An adaptiveStream is the manager of one stream's window.
type adaptiveStream struct {
	path       *adaptivePath
	w          *Window      // nil: the stream has ended
	meter      *streamMeter // nil: no data yet, or the window fits the whole body
	prev, next *adaptiveStream

	// held is the number of unread bytes, or used: the stream was read and nothing is counted.
	held  int32
	ahead int32 // granted beyond the initial window before it was read
}

// used is the value of held for a stream that was read.
const used = -1

// isOpen reports whether the stream is in the list of open streams.
func (s *adaptiveStream) isOpen() bool { return s.prev != nil || s.path.open == s }

// used reports whether the stream was read.
func (s *adaptiveStream) used() bool { return s.held == used }

// hold counts the unread bytes of a stream that was never read.
func (s *adaptiveStream) hold(unread int) {
	if s.used() {
		return
	}
	p := s.path
	unread = min(unread, max(p.initial, p.top))
	p.held += unread - int(s.held)
	s.held = int32(unread)
}

// use notes that the stream is read.
func (s *adaptiveStream) use() {
	if s.used() {
		return
	}
	s.hold(0)
	if s.isOpen() {
		s.path.unused--
		s.path.ahead -= int(s.ahead)
	}
	s.held, s.ahead = used, 0
}

// mayHaveAhead returns how much of a grant a stream may get before anything of it was read. All
// such streams together get at most half of the budget while others are read. They get nothing
// while even their initial windows are reduced.
func (s *adaptiveStream) mayHaveAhead(grant int) int {
	p := s.path
	if s.used() {
		return grant
	}
	most := p.budget / 8 * 9
	switch {
	case p.announced < p.top:
		return 0
	case p.unused < p.streams:
		most = p.budget / 2
	}
	return min(grant, min(most, p.need/2*3)-p.ahead)
}

// grantedAhead counts n bytes granted to a stream that was never read.
func (s *adaptiveStream) grantedAhead(n int) {
	if !s.used() {
		s.ahead += int32(n)
		s.path.ahead += n
	}
}

// Update implements WindowManager.
func (s *adaptiveStream) Update(ev WindowEvent) int {
	if s.w == nil {
		return 0
	}
	p := s.path
	if p.standalone {
		p.observe(&ev)
	}
	switch ev.Kind {
	case WindowOpened:
		return s.enter(&ev)
	case WindowData:
		s.arrive(&ev)
		return 0
	case WindowConsumed:
		s.use()
		if ev.fits() {
			return 0
		}
		if s.meter != nil {
			s.meter.at(ev.Now, p.rtt)
			s.meter.consumed += ev.Bytes
		}
		return s.size(&ev)
	case WindowBlocked:
		s.use()
		return s.size(&ev)
	case WindowSettings:
		return s.size(&ev)
	case WindowClosed:
		s.over(ev.Total)
	}
	return 0
}

// fits reports whether a body of known length needs no more than is granted, including its
// END_STREAM.
func (ev *WindowEvent) fits() bool { return ev.Length >= 0 && ev.Length < int64(ev.Credit) }

// enter adds the stream to the open streams.
func (s *adaptiveStream) enter(ev *WindowEvent) int {
	p := s.path
	if s.next = p.open; s.next != nil {
		s.next.prev = s
	}
	p.open = s
	p.streams++
	p.unused++
	p.fresh++
	p.shared = min(p.shared, p.share(), p.limit())
	return 0
}

// arrive counts DATA of the stream.
func (s *adaptiveStream) arrive(ev *WindowEvent) {
	p := s.path
	s.hold(ev.Unread)
	if ev.End {
		s.leave()
	}
	if s.meter == nil {
		if ev.fits() || ev.End {
			return
		}
		s.meter = p.takeMeter()
		s.meter.announce(ev.Total+int64(ev.Credit), ev.Now)
	}
	if s.meter.blockedAt != 0 {
		s.resume(ev)
	}
	s.meter.at(ev.Now, p.rtt)
	s.meter.arrived += ev.Bytes
	if s.meter.reach(ev.Total) {
		s.meter.blockedAt = ev.Now
	}
	if p.outgrows(ev.Total) {
		p.largeResponses = ahead
	}
}

// resume handles the first DATA after the end of an announced window. It measures a round trip if
// the sender had to wait for a WINDOW_UPDATE there, and the reason was not our reader.
func (s *adaptiveStream) resume(ev *WindowEvent) {
	p, m := s.path, s.meter
	waited := p.quietFrom >= m.blockedAt
	through, _ := m.through()
	if at, ok := m.answered(ev.Now); ok && waited && !p.growing && ev.Unread-ev.Bytes <= through/4 {
		p.measure(at)
	}
	m.blockedAt = 0
}

// size computes how large the window should be, and returns what it lacks.
func (s *adaptiveStream) size(ev *WindowEvent) int {
	p := s.path
	floor := s.floor(ev)
	need := 0
	if s.meter != nil && 4*ev.Total >= int64(floor) { // a small response should cost nothing
		through, before := s.meter.through()
		var growing bool
		if need, growing = s.meter.need(through, before); growing && !p.growing {
			need = through + before // this stream grows at the cost of the others
		}
	}
	target := floor
	if need = min(need, p.need); need > 0 {
		target = max(target, need, p.share())
	}
	target = min(target, p.limit())
	low := target / 2
	if target > floor || need > 0 && p.growing {
		low = target / 8 * 7
	}
	gap := target - ev.Credit - ev.Unread
	if ev.Credit+ev.Unread > low || gap < min(smallestStep, target/2) && ev.Credit > 0 {
		return 0
	}
	n := p.jitter(ev.needed(gap))
	if n <= 0 {
		return 0
	}
	if target > p.initial {
		p.probe(s.w, ev.Now)
	}
	if s.meter != nil {
		s.meter.announce(ev.Total+int64(ev.Credit+n), ev.Now)
	}
	return n
}

// floor returns the window that the stream gets even if the path needs less. If a smaller initial
// window than the configured one is announced, that is the announced one until the stream is read
// and a quarter of it has arrived.
func (s *adaptiveStream) floor(ev *WindowEvent) int {
	p := s.path
	if p.announced < p.top && ev.Kind != WindowBlocked && (!s.used() || 4*ev.Total < int64(p.announced)) {
		return p.announced
	}
	return p.fair()
}

// leave removes the stream from the open streams. The others may get a larger share.
func (s *adaptiveStream) leave() {
	if !s.isOpen() {
		return
	}
	if !s.used() {
		s.path.unused--
		s.path.ahead -= int(s.ahead)
		s.ahead = 0
	}
	p := s.path
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		p.open = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
	s.prev, s.next = nil, nil
	if p.streams--; p.streams > 0 && p.largeResponses > 0 && 2*p.share() >= 3*p.shared {
		p.distribute()
	}
}

// over ends the manager of a closed stream of total bytes, and keeps it for another stream.
func (s *adaptiveStream) over(total int64) {
	p := s.path
	s.hold(0)
	s.leave()
	if total <= int64(p.initial) {
		p.largeResponses = max(0, p.largeResponses-1)
	}
	if s.meter != nil {
		s.meter.spare, p.spareMeters = p.spareMeters, s.meter
	}
	*s = adaptiveStream{next: p.spareStreams}
	p.spareStreams = s
}

// takeMeter returns an empty meter, reusing that of an ended stream.
func (p *adaptivePath) takeMeter() *streamMeter {
	m := p.spareMeters
	if m == nil {
		return &streamMeter{}
	}
	p.spareMeters = m.spare
	*m = streamMeter{}
	return m
}

// A meter measures what goes through a window in a round trip. It counts in quarters of a round
// trip.
type meter struct {
	arrived, consumed int           // in the current quarter
	ends              time.Duration // the end of the current quarter
	past              [8]quarter    // the two round trips before it, the latest quarter first
	filled            uint8         // how many of past are in use

	// Sums over past: of the last three quarters, of the last four, and of the four before.
	three, four, before quarter
}

// A quarter is what arrived and was consumed in a quarter of a round trip.
type quarter struct{ arrived, consumed uint32 }

// A streamMeter is a meter that also knows where the windows of its stream ended.
type streamMeter struct {
	meter

	// wall is when DATA came that ends where a window ended. It is 0 once more DATA came.
	blockedAt     time.Duration
	marks         [16]mark // the ends of windows as announced; a ring
	made, reached uint8    // how many marks were made, and how many of them DATA has passed

	spare *streamMeter
}

// A mark is the end of a window in bytes of the stream, and the time when it was announced in units
// of markTime. Both are modulo 2^32.
type mark struct{ limit, at uint32 }

// markTime is the unit of time in a mark.
const markTime = 16 * time.Microsecond

// announce records the end of a window.
func (m *streamMeter) announce(limit int64, now time.Duration) {
	if int(m.made-m.reached) == len(m.marks) {
		m.reached++ // forget the oldest
	}
	m.marks[int(m.made)%len(m.marks)] = mark{uint32(limit), uint32(now / markTime)}
	m.made++
}

// reach passes the marks that DATA up to total has reached, and reports whether the DATA ends at
// one of them.
func (m *streamMeter) reach(total int64) bool {
	for m.reached != m.made {
		beyond := int32(uint32(total) - m.marks[int(m.reached)%len(m.marks)].limit)
		if beyond < 0 {
			return false
		}
		m.reached++
		if beyond == 0 {
			return true
		}
	}
	return false
}

// answered returns how long ago the first window was announced whose end DATA has not passed.
func (m *streamMeter) answered(now time.Duration) (ago time.Duration, ok bool) {
	if m.reached == m.made {
		return 0, false
	}
	return time.Duration(uint32(now/markTime)-m.marks[int(m.reached)%len(m.marks)].at) * markTime, true
}

// at moves the meter to the time now. After a pause of four round trips it starts again from zero.
func (m *meter) at(now, rtt time.Duration) {
	if now >= m.ends {
		m.advance(now, rtt/4)
	}
}

// advance ends the quarters that are over at the time now; length is that of a quarter.
func (m *meter) advance(now, length time.Duration) {
	if m.ends == 0 || now-m.ends > 16*length {
		m.past, m.filled = [8]quarter{}, 0
		m.arrived, m.consumed, m.three, m.four, m.before = 0, 0, quarter{}, quarter{}, quarter{}
		m.ends = now + length
		return
	}
	for now >= m.ends {
		copy(m.past[1:], m.past[:])
		m.past[0] = quarter{clamp32(m.arrived), clamp32(m.consumed)}
		m.arrived, m.consumed = 0, 0
		m.filled = min(m.filled+1, uint8(len(m.past)))
		m.ends += length
	}
	m.three = sum(m.past[:3])
	m.four = sum(m.past[:4])
	m.before = sum(m.past[4:])
}

// clamp32 limits n so that a sum of eight fits a uint32.
func clamp32(n int) uint32 { return uint32(min(n, math.MaxUint32/8)) }

// sum adds the quarters of list.
func sum(list []quarter) (s quarter) {
	for _, q := range list {
		s.arrived += q.arrived
		s.consumed += q.consumed
	}
	return s
}

// through returns what arrived and was consumed, whichever is less, in the last round trip and in
// the one before. If the last three quarters and the current one have more than the last round
// trip, they count instead.
func (m *meter) through() (last, before int) {
	arrived := max(int(m.four.arrived), int(m.three.arrived)+m.arrived)
	consumed := max(int(m.four.consumed), int(m.three.consumed)+m.consumed)
	return min(arrived, consumed), int(min(m.before.arrived, m.before.consumed))
}

// need returns the window that such a flow can use. A growing flow may double in the next round
// trip, and that is seen one round trip later, so it gets three times what came last. Another flow
// gets twice the mean: after a loss nothing comes for a round trip, and then twice as much.
func (m *meter) need(last, before int) (need int, growing bool) {
	if 4*last > 5*before && (4*before >= last || m.filled < uint8(len(m.past))) {
		return 3 * last, true
	}
	return last + before, false
}
