package hyper

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

// holdLocked counts the unread bytes of a stream that was never read.
func (s *adaptiveStream) hold(unread int) {
	if s.used() {
		return
	}
	s.path.start.held += unread - int(s.held)
	s.held = int32(unread)
}

// use notes that the stream is read.
func (s *adaptiveStream) use() {
	if s.used() {
		return
	}
	s.hold(0)
	if s.isOpen() {
		s.path.start.unused--
		s.path.start.ahead -= int(s.ahead)
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
	most := p.budget
	if p.start.reduced() {
		most = 0
	} else if p.start.unused < p.streams {
		most /= 2
	}
	return min(grant, most-p.start.ahead)
}

// raise raises the window to share before the stream asks, if it waits for data.
func (s *adaptiveStream) raise(share int) {
	p, now := s.path, s.w.State()
	gap := s.mayHaveAhead(share - now.Credit)
	if now.Unread > 0 || gap < smallestStep {
		return
	}
	grant := now.needed(gap)
	if s.meter != nil {
		grant = p.jitter(grant)
	}
	if !s.used() {
		s.ahead += int32(grant)
		p.start.ahead += grant
	}
	s.w.GrantNow(grant)
	if s.meter != nil {
		now = s.w.State()
		s.meter.announce(now.Total+int64(now.Credit), now.Now, p.path.total)
	}
}

// Update implements WindowManager.
func (s *adaptiveStream) Update(ev WindowEvent) int {
	if s.w == nil {
		return 0
	}
	p := s.path
	if p.standalone {
		p.path.observe(&ev)
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
		if m := s.meter; m != nil {
			m.at(ev.Now, p.path.trip.rtt)
			m.consumed += ev.Bytes
		}
		return s.size(&ev)
	case WindowBlocked:
		s.use()
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
	if p.standalone {
		p.configure(ev.Credit + int(ev.Total))
	}
	if s.next = p.open; s.next != nil {
		s.next.prev = s
	}
	p.open = s
	p.streams++
	p.start.unused++
	if p.largeResponses > 0 && !p.standalone {
		p.fresh++
		s.w.WakeBeforeWrite()
	}
	p.shared = min(p.shared, p.share(p.streams))
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
		s.meter = spareMeters.Get().(*streamMeter)
		p.busy++
		s.meter.announce(ev.Total+int64(ev.Credit), ev.Now, p.path.total)
	}
	m := s.meter
	if m.blocked {
		s.resume(ev)
	}
	m.at(ev.Now, p.path.trip.rtt)
	m.arrived += ev.Bytes
	m.blocked = m.reach(ev.Total)
	if p.outgrows(ev.Total) {
		p.largeResponses = ahead
	}
}

// resume handles the first DATA after the end of an announced window. It measures a round trip,
// because the sender had to wait for a WINDOW_UPDATE there.
func (s *adaptiveStream) resume(ev *WindowEvent) {
	e := &s.path.path
	loop, shortest := s.meter.loop(ev.Now, e.total), &e.loop
	if loop.length > 0 && (shortest.length == 0 || loop.length < shortest.length) {
		*shortest = loop
	}
}

// size computes how large the window should be, and returns what it lacks.
func (s *adaptiveStream) size(ev *WindowEvent) int {
	p := s.path
	fair := p.fair()
	floor := s.floor(ev, fair)
	have := ev.Credit + ev.Unread
	if most := max(floor, p.path.need); have > most-most/8 {
		return 0
	}
	need := 0
	if s.meter != nil && 4*ev.Total >= int64(floor) { // a small response should cost nothing
		last, before := s.meter.through()
		var growing bool
		if need, growing = windowNeed(last, before, p.path.isSilent(ev.Now)); growing && !p.path.growing {
			need = last + before // this stream grows at the cost of the others
		}
	}
	target := floor
	if need = min(need, p.path.need); need > 0 {
		target = max(target, need, p.share(p.busy))
	}
	target = min(target, p.limit(fair))
	low := target / 2
	if target > floor || need > 0 && p.path.growing {
		low = target / 8 * 7
	}
	gap := target - have
	if have > low || gap < min(smallestStep, target/2) && ev.Credit > 0 {
		return 0
	}
	n := p.jitter(ev.needed(gap))
	if n <= 0 {
		return 0
	}
	if target > p.initial {
		p.path.trip.probe(s.w)
	}
	if s.meter != nil {
		s.meter.announce(ev.Total+int64(ev.Credit+n), ev.Now, p.path.total)
	}
	return n
}

// floor returns the window that the stream gets even if it was measured to need less. That is the
// result of fair, or what the path needs if that is less and the reader keeps up: then a larger
// window would only fill a queue in the network.
func (s *adaptiveStream) floor(ev *WindowEvent, fair int) int {
	p := s.path
	if p.path.trip.least > 0 && p.outgrows(ev.Total) && ev.Unread <= max(smallestStep, ev.Credit) {
		fair = min(fair, max(p.share(p.busy), smallestStep))
	}
	return fair
}

// leave removes the stream from the open streams.
func (s *adaptiveStream) leave() {
	if !s.isOpen() {
		return
	}
	if !s.used() {
		s.path.start.unused--
		s.path.start.ahead -= int(s.ahead)
		s.ahead = 0
	}
	p := s.path
	if s.meter != nil {
		p.busy--
	}
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		p.open = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
	s.prev, s.next = nil, nil
	p.streams--
}

// over ends the manager of a closed stream of total bytes. It is kept for another stream, unless it
// is part of a manager that may call it again.
func (s *adaptiveStream) over(total int64) {
	p := s.path
	s.hold(0)
	s.leave()
	if total <= int64(p.initial) {
		p.largeResponses = max(0, p.largeResponses-1)
	}
	if s.meter != nil {
		*s.meter = streamMeter{}
		spareMeters.Put(s.meter)
	}
	inner := s.w.manager != WindowManager(s)
	if *s = (adaptiveStream{}); !inner {
		spareStreams.Put(s)
	}
}
