package hyper

import (
	"math"
	"time"
)

// Adaptive gives each stream the window that its reader and the path can use: about twice what really went through,
// arrived and read, in a round trip. It begins with Initial, grows as fast as TCP's slow start while data comes faster and
// the reader keeps up, and shrinks to what the reader takes; a stream that nobody reads keeps what it has. What one stream has
// learned of the path serves the next: a new stream begins with its share. All streams together never hold more than
// Budget. It is hyper's manager where Config.WindowManager is nil.
//
// Streams that are never read leave the budget to those that are read. Adaptive sends SETTINGS with
// a smaller INITIAL_WINDOW_SIZE where the initial windows of streams that were not read yet would
// take more than half of Budget, or where such streams hold a tenth of it; from then on they get a
// tenth in all. That is past 128 streams with the defaults. With few streams it announces
// Config.InitialStreamWindow again, once in ten seconds at most. A stream that is read gets its
// window by WINDOW_UPDATE. Streams that were read and are not read any more keep what they were
// granted; an eighth of Budget is kept from them.
//
// Initial is the size that a stream's window has at least, in octets, 256 KiB - 1 where it is 0, and takes no WINDOW_UPDATE
// where Config.InitialStreamWindow announces as much. Budget is what all streams of the connection may hold unread
// and be promised, in octets, 64 MiB where it is 0; the protocol's own start, 65,535, is its floor. It bounds the speed,
// too: a path needs two bandwidth-delay products.
//
// A request's Adaptive on a connection of Adaptive is the connection's, and its figures do not count. On a connection whose manager is
// another one, or Adaptive behind a wrapper, each stream works for itself, with a Budget of its own.
type Adaptive struct{ Initial, Budget int }

const (
	adaptiveInitial = 256<<10 - 1
	adaptiveBudget  = 64 << 20

	unknownRTT   = 100 * time.Millisecond // is assumed until there is a sample
	shortestRTT  = 2 * time.Millisecond   // below, scheduling is what one measures
	mostProbes   = 2                      // of a connection: servers count PINGs
	probeAgain   = 30 * time.Second       // the first may have met a queue
	smallestStep = 16 << 10               // a WINDOW_UPDATE for less costs more than it brings, unless the peer stands still
	ahead        = 8                      // so many small responses in a row end the granting ahead

	smallestInitial = 1 << 10 // no smaller initial window is announced, except 0
	smallestWindow  = 4 << 10 // of a stream that is read, however many there are
	raiseAfter      = 10 * time.Second
)

// New is a WindowManagerFactory.
func (a Adaptive) New(w *Window) WindowManager {
	if w.StreamID() == 0 {
		return a.newPath(w)
	}
	path, ok := w.Conn().(*adaptivePath)
	if !ok {
		path = a.newPath(w)
		path.alone = true
	}
	return path.stream(w)
}

func (a Adaptive) newPath(w *Window) *adaptivePath {
	return &adaptivePath{
		initial: or(max(0, a.Initial), max(adaptiveInitial, w.c.cfg.InitialStreamWindow)),
		budget:  or(max(0, a.Budget), adaptiveBudget),
		rtt:     unknownRTT,

		top:       w.c.cfg.InitialStreamWindow,
		announced: w.c.cfg.InitialStreamWindow,
	}
}

// An adaptivePath is what the streams of a connection know together. It is the connection's manager: that window
// is nothing but the budget.
type adaptivePath struct {
	initial, budget int

	alone   bool  // it serves one stream, which tells it what the connection's window would
	known   bool  // rtt was measured
	growing bool  // the round trips bring more and more
	probes  uint8 // that were sent
	dice    uint32

	rtt    time.Duration // the shortest measured, within bounds
	probed time.Duration // when the last probe was sent
	meter  meter         // of all streams together
	best   [2]int        // the largest mean of a round trip in these 16, and in the 16 before
	turn   time.Duration // when best moves on
	need   int           // what the path can use: about two bandwidth-delay products
	unread int

	// The round trip may have grown. Where a sender stopped at the end of a window, the time from the WINDOW_UPDATE that set
	// it going again to what it sent then is one.
	heard     time.Duration // when the last DATA came
	gap       time.Duration // between DATA, on the mean
	quietFrom time.Duration // the last silence after DATA, longer than a gap should be
	loops     int           // measured since the round trip was judged
	loop      time.Duration // the shortest of them

	open    *adaptiveStream // streams that may still receive, linked by next
	streams int             // their number
	shared  int             // the share that all of them were given last
	deep    int             // above 0: one of the last responses needed more than initial

	// Streams that were never read. What they may hold is bounded by the initial window: see
	// initialFor.
	top       int           // INITIAL_WINDOW_SIZE as configured
	announced int           // INITIAL_WINDOW_SIZE as sent last; below top while many streams are open
	raised    time.Duration // when announced last grew
	unused    int           // open streams that were never read
	held      int           // octets unread on streams that were never read, open or not
	fresh     int           // streams opened since the last write
	ahead     int           // granted to open streams that were never read, beyond their initial window

	spareStreams *adaptiveStream
	spareMeters  *streamMeter
}

// Update implements WindowManager.
func (p *adaptivePath) Update(ev WindowEvent) int {
	p.hear(&ev)
	gap := p.budget - ev.Credit - ev.Unread
	if gap < p.budget/8 && ev.Kind != WindowOpened && ev.Kind != WindowStarved {
		return 0
	}
	return max(0, gap)
}

// hear takes in what an event says about the path.
func (p *adaptivePath) hear(ev *WindowEvent) {
	p.unread = ev.Unread
	if !p.known && ev.RTT > 0 {
		p.known, p.rtt = true, max(ev.RTT, shortestRTT)
	}
	switch ev.Kind {
	case WindowData:
		p.listen(ev.Now)
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

// probe asks for a sample once the round trip matters.
func (p *adaptivePath) probe(w *Window, now time.Duration) {
	if p.probes == 0 || p.probes < mostProbes && now-p.probed >= probeAgain {
		if w.ProbeRTT() {
			p.probes++
			p.probed = now
		}
	}
}

// listen notes when nothing came for a while.
func (p *adaptivePath) listen(now time.Duration) {
	gap := now - p.heard
	if gap > p.rtt/4 && gap > 4*p.gap {
		p.quietFrom = p.heard
	}
	p.gap += (gap - p.gap) / 8
	p.heard = now
}

// measure takes a round trip that a stream has found in its own flow. When each stream had the chance of two, and the shortest is
// clearly longer than the round trip we count in, it is that which has changed.
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

// uneven takes a few octets off a grant, so that a frame that ends where a window ends does so because the sender had to.
func (p *adaptivePath) uneven(grant int) int {
	if grant < smallestStep {
		return grant
	}
	p.dice = p.dice*1664525 + 1013904223
	return grant - int(p.dice>>23)
}

// learn finds the path's need.
func (p *adaptivePath) learn(now time.Duration) {
	through, before := p.meter.through()
	if now >= p.turn {
		p.turn = now + 16*p.rtt
		p.best[0], p.best[1] = 0, p.best[0]
	}
	p.best[0] = max(p.best[0], (through+before)/2, through/4*3)
	need, growing := p.meter.need(through, before)
	p.need, p.growing = max(need, 2*p.best[0], 2*p.best[1]), growing
	if p.deep > 0 && !p.alone && 2*p.share() >= 3*p.shared {
		p.handOut()
	}
}

// share is what each stream gets where nothing is known of it.
func (p *adaptivePath) share() int {
	if p.streams <= 1 {
		return p.need
	}
	return min(p.need, p.budget) / p.streams
}

// outgrows reports whether a response may need more than its initial window, judged by what came so far. It cannot wait for half of
// the window: a sender in slow start has sent twice what we see when our grant reaches it, and writes as much again into its socket.
func (p *adaptivePath) outgrows(total int64) bool { return 4*total >= int64(p.initial) }

// limit is what one stream may have: what is left of seven eighths of the budget, or a quarter of
// all that is left. So streams that had large windows and are not read any more leave something to
// the others. What lies unread on streams that were never read comes out of the last eighth.
func (p *adaptivePath) limit() int {
	return max(p.budget/8*7-(p.unread-p.held), (p.budget-p.unread)/4, p.fair())
}

// fair is the window of a stream that is read, before the path is known to need more: initial, or
// less where so many streams are read that their windows would take more than half of what is left.
func (p *adaptivePath) fair() int {
	left := p.budget - p.unread
	n := max(p.streams-p.unused, p.streams/4) // of those that were not read, some will be
	if n <= 1 || 2*n*p.initial <= left {
		return p.initial
	}
	return min(p.initial, max(left/(2*n), smallestWindow))
}

// initialFor returns the initial window to announce before one more stream is opened; pushes is the
// number of promised streams that may have no manager yet.
//
// A stream that is never read holds its initial window, and the credit cannot be taken back. While
// the initial windows of all such streams fit half of the budget and little of it is used, the
// initial window stays as configured. Past that it is halved until what such streams hold, and what
// they may still receive, fits a tenth: a stream that is read keeps at least nine tenths.
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

// halved is the next smaller initial window. Below smallestInitial it is 0, and a stream gets its
// window when it is read.
func halved(size int) int {
	if size /= 2; size < smallestInitial {
		return 0
	}
	return size
}

// higher is the initial window for n streams that were never read, where they may hold more than is
// announced. It stays as it is unless it can grow to four times the size. Servers count SETTINGS,
// so it grows once in raiseAfter at most.
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

// announce takes a new initial window into the books. A smaller one takes its difference from all
// open streams (RFC 9113 §6.9.2): those that are read get it back, and do not stop.
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

// handOut raises all streams that wait for their data to their share, ahead of their own need.
func (p *adaptivePath) handOut() { p.handOutTo(p.share(), p.streams) }

// welcome does so for the streams that were opened since the last write: the WINDOW_UPDATEs follow
// the requests. Only where responses have been of a size to need it.
func (p *adaptivePath) welcome() {
	fresh := p.fresh
	if p.fresh = 0; p.deep > 0 && !p.alone {
		share := p.share()
		if fresh > 1 { // they are not served alike
			share = min(share/4*7, p.budget/p.streams/16*17)
		}
		p.handOutTo(share, fresh)
	}
}

// handOutTo raises the n streams that were opened last.
func (p *adaptivePath) handOutTo(share, n int) {
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
				grant = p.uneven(grant)
			}
			s.grantedAhead(grant)
			w.grant(int64(grant))
			if s.meter != nil {
				s.meter.announce(w.total+w.credit, p.heard)
			}
		}
	}
}

// forgetSpares gives back what served streams that are over.
func (p *adaptivePath) forgetSpares() { p.spareStreams, p.spareMeters = nil, nil }

// stream makes the manager of one stream. Those of streams that are over serve again.
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
	w          *Window      // nil: it is over
	meter      *streamMeter // nil: nothing came yet, or all that will come fits the window
	prev, next *adaptiveStream

	held  int32 // octets unread, used: the stream was read, and they are not counted
	ahead int32 // granted beyond the initial window before it was read
}

// used is the value of held of a stream that was read.
const used = -1

func (s *adaptiveStream) isOpen() bool { return s.prev != nil || s.path.open == s }

func (s *adaptiveStream) used() bool { return s.held == used }

// hold counts what lies unread on a stream that was never read.
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

// mayHaveAhead is how much of a grant a stream may get before anything of it was read. All such
// streams together get at most half of the budget while others are read, and nothing while even
// initial windows are too much.
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
	if p.alone {
		p.hear(&ev)
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
	case WindowStarved:
		s.use()
		return s.size(&ev)
	case WindowSettings:
		return s.size(&ev)
	case WindowClosed:
		s.over(ev.Total)
	}
	return 0
}

// fits reports whether a body of known length needs no more than is granted, its END_STREAM included.
func (ev *WindowEvent) fits() bool { return ev.Length >= 0 && ev.Length < int64(ev.Credit) }

// enter counts the stream in.
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
	if s.meter.wall != 0 {
		s.resume(ev)
	}
	s.meter.at(ev.Now, p.rtt)
	s.meter.arrived += ev.Bytes
	if s.meter.reach(ev.Total) {
		s.meter.wall = ev.Now
	}
	if p.outgrows(ev.Total) {
		p.deep = ahead
	}
}

// resume is the first DATA behind the end of an announced window. It measures a round trip if the sender had to wait there, and
// not for our reader.
func (s *adaptiveStream) resume(ev *WindowEvent) {
	p, m := s.path, s.meter
	waited := p.quietFrom >= m.wall
	through, _ := m.through()
	if at, ok := m.answered(ev.Now); ok && waited && !p.growing && ev.Unread-ev.Bytes <= through/4 {
		p.measure(at)
	}
	m.wall = 0
}

// size finds how large the window should be, and answers what is missing.
func (s *adaptiveStream) size(ev *WindowEvent) int {
	p := s.path
	floor := s.floor(ev)
	need := 0
	if s.meter != nil && 4*ev.Total >= int64(floor) { // a response that fits should cost nothing
		through, before := s.meter.through()
		var growing bool
		if need, growing = s.meter.need(through, before); growing && !p.growing {
			need = through + before // it only takes from the others
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
	n := p.uneven(ev.needed(gap))
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

// floor is the window that the stream gets whatever the path needs. Where a smaller initial window
// than the configured one is announced, a stream keeps that until it is read and a quarter of it
// came.
func (s *adaptiveStream) floor(ev *WindowEvent) int {
	p := s.path
	if p.announced < p.top && ev.Kind != WindowStarved && (!s.used() || 4*ev.Total < int64(p.announced)) {
		return p.announced
	}
	return p.fair()
}

// leave takes the stream out of those that share.
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
	if p.streams--; p.streams > 0 && p.deep > 0 && 2*p.share() >= 3*p.shared {
		p.handOut()
	}
}

func (s *adaptiveStream) over(total int64) {
	p := s.path
	s.hold(0)
	s.leave()
	if total <= int64(p.initial) {
		p.deep = max(0, p.deep-1)
	}
	if s.meter != nil {
		s.meter.spare, p.spareMeters = p.spareMeters, s.meter
	}
	*s = adaptiveStream{next: p.spareStreams}
	p.spareStreams = s
}

func (p *adaptivePath) takeMeter() *streamMeter {
	m := p.spareMeters
	if m == nil {
		return &streamMeter{}
	}
	p.spareMeters = m.spare
	*m = streamMeter{}
	return m
}

// A meter measures what goes through a window in a round trip: it counts in quarters of one.
type meter struct {
	arrived, consumed int           // in the quarter that is running
	ends              time.Duration // of that quarter
	past              [8]quarter    // the two round trips before it, the last quarter first
	filled            uint8         // how many of past there are

	// Sums over past, of the last three and four, and of the four before.
	three, four, before quarter
}

type quarter struct{ arrived, consumed uint32 }

// A streamMeter knows the ends of its stream's windows, too.
type streamMeter struct {
	meter

	wall          time.Duration // when DATA came that ends where a window ended, 0: there was more
	marks         [16]mark      // ends of windows, as announced: a ring
	made, reached uint8         // their number, and how many of them DATA has passed

	spare *streamMeter
}

// A mark is the end of a window, in octets of the stream, and when it was announced, in markTime, both of them modulo 2^32.
type mark struct{ limit, at uint32 }

const markTime = 16 * time.Microsecond

// announce notes the end of a window.
func (m *streamMeter) announce(limit int64, now time.Duration) {
	if int(m.made-m.reached) == len(m.marks) {
		m.reached++ // the oldest is forgotten
	}
	m.marks[int(m.made)%len(m.marks)] = mark{uint32(limit), uint32(now / markTime)}
	m.made++
}

// reach passes the marks that DATA up to total has reached, and reports whether it ends at one.
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

// answered is how long ago the first window was announced that DATA has not passed.
func (m *streamMeter) answered(now time.Duration) (ago time.Duration, ok bool) {
	if m.reached == m.made {
		return 0, false
	}
	return time.Duration(uint32(now/markTime)-m.marks[int(m.reached)%len(m.marks)].at) * markTime, true
}

// at moves the meter to the time now. After a pause of four round trips it begins anew.
func (m *meter) at(now, rtt time.Duration) {
	if now >= m.ends {
		m.advance(now, rtt/4)
	}
}

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

func clamp32(n int) uint32 { return uint32(min(n, math.MaxUint32/8)) }

func sum(list []quarter) (s quarter) {
	for _, q := range list {
		s.arrived += q.arrived
		s.consumed += q.consumed
	}
	return s
}

// through is what arrived and was consumed, whichever is less, in the last round trip (up to this instant, if that is more) and
// in the one before.
func (m *meter) through() (last, before int) {
	arrived := max(int(m.four.arrived), int(m.three.arrived)+m.arrived)
	consumed := max(int(m.four.consumed), int(m.three.consumed)+m.consumed)
	return min(arrived, consumed), int(min(m.before.arrived, m.before.consumed))
}

// need is the window that such a flow can use. What grows may be twice as much in the next round trip, and be seen one
// later: three times. What does not gets twice the mean: after a loss nothing comes, then double.
func (m *meter) need(last, before int) (need int, growing bool) {
	if 4*last > 5*before && (4*before >= last || m.filled < uint8(len(m.past))) {
		return 3 * last, true
	}
	return last + before, false
}
