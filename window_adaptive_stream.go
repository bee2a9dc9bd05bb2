package hyper

// An adaptiveStream is the manager of one stream's window.
type adaptiveStream struct {
	path       *adaptivePath
	w          *Window         // nil: the stream has ended
	meter      *streamMeter    // nil: no data yet, or the window fits the whole body
	prev, next *adaptiveStream // in the ring of open streams; nil: it is not open
	used       bool            // it was read
	held       int             // the unread bytes that path.start counts, before it was read
	ahead      int             // granted beyond the initial window, before it was read
}

// hold counts the unread bytes of a stream that was never read.
func (s *adaptiveStream) hold(unread int) {
	if !s.used {
		s.path.start.held += unread - s.held
		s.held = unread
	}
}

// use notes that the stream is read.
func (s *adaptiveStream) use() {
	s.hold(0)
	s.uncount()
	s.used = true
}

// uncount ends the count of an open stream that was never read.
func (s *adaptiveStream) uncount() {
	if s.next != nil && !s.used {
		s.path.start.unused--
		s.path.start.ahead -= s.ahead
		s.ahead = 0
	}
}

// raise raises the window to share ahead of need, if no data is unread. All streams of
// which nothing was read get at most half of the budget together while others are read. They get
// nothing while even their initial windows are reduced.
func (s *adaptiveStream) raise(share int) {
	p, now := s.path, s.w.State()
	gap := share - now.Credit
	if !s.used {
		most := p.budget
		if p.start.reduced() {
			most = 0
		} else if p.start.unused < p.streams {
			most /= 2
		}
		gap = min(gap, most-p.start.ahead)
	}
	if now.Unread > 0 || gap < smallestStep {
		return
	}
	grant := s.grant(&now, gap)
	if !s.used {
		s.ahead += grant
		p.start.ahead += grant
	}
	s.w.GrantNow(grant)
}

// grant returns how much of gap the stream gets, and notes where its window ends then.
func (s *adaptiveStream) grant(ev *WindowEvent, gap int) int {
	n := ev.needed(gap)
	if n > 0 && s.meter != nil {
		n = s.path.jitter(n)
		s.meter.announce(ev.Total+int64(ev.Credit+n), ev.Now, s.path.path.total)
	}
	return max(0, n)
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
		s.enter(&ev)
	case WindowData:
		s.arrive(&ev)
	case WindowConsumed:
		s.use()
		if ev.fits() {
			return 0
		}
		if m := s.meter; m != nil {
			m.at(ev.Now, p.path.rtt)
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
func (s *adaptiveStream) enter(ev *WindowEvent) {
	p := s.path
	if p.standalone {
		p.configure(ev.Credit + int(ev.Total))
	}
	s.prev, s.next = p.open.prev, &p.open
	s.prev.next, s.next.prev = s, s
	p.streams++
	p.start.unused++
	if p.largeResponses > 0 && !p.standalone {
		s.w.WakeBeforeWrite()
	}
	p.shared = min(p.shared, p.share(p.streams))
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
	loop, shortest := m.loop(ev, p.path.total), &p.path.loop
	if loop.length > 0 && (shortest.length == 0 || loop.length < shortest.length) {
		*shortest = loop
	}
	m.at(ev.Now, p.path.rtt)
	m.arrived += ev.Bytes
	if p.outgrows(ev.Total) {
		p.largeResponses = ahead
	}
}

// size computes how large the window should be, and returns what it lacks.
func (s *adaptiveStream) size(ev *WindowEvent) int {
	p, have := s.path, ev.Credit+ev.Unread
	// The stream gets the floor even if it was measured to need less. If the path needs less and
	// the reader keeps up, more would only fill a queue in the network.
	fair := p.fair()
	floor := fair
	if p.path.least > 0 && p.outgrows(ev.Total) && ev.Unread <= max(smallestStep, ev.Credit) {
		floor = min(fair, max(p.share(p.busy), smallestStep))
	}
	if most := max(floor, p.path.need); have > most-most/8 {
		return 0 // no target is larger
	}
	need := 0
	if s.meter != nil && 4*ev.Total >= int64(floor) { // a small response should cost nothing
		last, before := s.meter.through()
		if need = last + before; p.path.growing { // else this one grows at the cost of the others
			need, _ = windowNeed(last, before, p.path.silent)
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
	n := s.grant(ev, gap)
	if n > 0 && target > p.initial && !p.probed {
		p.probed = s.w.ProbeRTT() // only one, because servers count PINGs
	}
	return n
}

// leave removes the stream from the open streams.
func (s *adaptiveStream) leave() {
	if s.next == nil {
		return
	}
	p := s.path
	s.uncount()
	s.prev.next, s.next.prev = s.next, s.prev
	s.prev, s.next = nil, nil
	p.streams--
	if s.meter != nil {
		p.busy--
	}
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
