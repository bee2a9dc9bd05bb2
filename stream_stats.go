package hyper

import "time"

// StreamStats holds the figures of one stream. Bytes are those of DATA frames.
type StreamStats struct {
	// BytesSent is what the socket has accepted of the request's body. It is the progress of an
	// upload: what was read from Request.Body, or passed to Write, may still wait for the peer's
	// windows or for the socket.
	BytesSent int64

	// BytesUnsent is what is in DATA frames that the socket has not accepted yet.
	BytesUnsent int64

	BytesReceived int64 // flow-controlled bytes of the response, including padding

	// BytesRead is the part of BytesReceived that was read, or discarded: padding, and what was
	// unread when this side ended the stream.
	BytesRead int64

	// The times below are only known with Config.StreamTimes. A zero time means that the step has
	// not happened. Their differences are exact if the wall clock changes.

	Waited        time.Duration // for a stream on this connection, until Opened
	Opened        time.Time     // it got its identifier
	HeadersSent   time.Time     // the socket has accepted the request's HEADERS
	RequestSent   time.Time     // the socket has accepted the request with its END_STREAM
	ResponseBegan time.Time     // the first field section was received; that of an interim response, too
	ResponseEnded time.Time     // the peer's END_STREAM was received
	Ended         time.Time     // as Stream.Done
}

// Stats returns the stream's figures so far. They remain after the stream has ended. Stats may be
// called at any time, from several goroutines at once.
func (s *Stream) Stats() StreamStats {
	if s.reusedErr() != nil {
		return StreamStats{}
	}
	c := s.c
	c.lock()
	defer c.unlock()
	sent, all := s.sender.progress.count(c.writer.flushed)
	stats := StreamStats{BytesSent: sent, BytesUnsent: all - sent, BytesReceived: s.window.total,
		BytesRead: s.window.total - s.window.unread}
	if s.extras != nil && s.extras.times != nil {
		s.extras.times.set(&stats, c.start)
	}
	return stats
}

// Stats is Stream.Stats of the response's stream.
func (r *Response) Stats() StreamStats { return r.s.Stats() }

// An uploadProgress counts the DATA of a stream. The bytes of a connection are written one write
// after the other, and during one, the next is collected. So it is mostly enough to know how much
// is in the last two. With Conn.Batch, more writes can be collected at once: then all before the
// last count as sent together. A write is named by the position at which it begins, as in
// connWriter.queued.
type uploadProgress struct {
	written     int64  // in writes that the socket has accepted
	last        uint64 // the last write that has DATA of the stream
	before      uint64 // the last one before that
	lastBytes   int32
	beforeBytes int32
}

// add counts n bytes that will be in the write that begins at start. The socket has accepted so
// many bytes of the connection as flushed says.
func (p *uploadProgress) add(n int, start, flushed uint64) {
	if p.last != start {
		if flushed > p.before {
			p.written += int64(p.beforeBytes)
			p.beforeBytes = 0
		}
		p.before, p.beforeBytes = p.last, p.beforeBytes+p.lastBytes
		p.last, p.lastBytes = start, 0
	}
	p.lastBytes += int32(n)
}

// count returns how many bytes the socket has accepted, if it has accepted so many of the
// connection, and how many were added.
func (p *uploadProgress) count(flushed uint64) (sent, all int64) {
	sent = p.written
	if flushed > p.before {
		sent += int64(p.beforeBytes)
	}
	if flushed > p.last {
		sent += int64(p.lastBytes)
	}
	return sent, p.written + int64(p.beforeBytes) + int64(p.lastBytes)
}

// A streamStep is a step of a stream whose time is kept.
type streamStep uint8

// The values of streamStep.
const (
	stepOpened streamStep = iota
	stepHeadersSent
	stepRequestSent
	stepResponseBegan
	stepResponseEnded
	stepEnded
	streamSteps // how many there are
)

// streamTimes has the times of a stream's steps since the connection was made; 0: not yet.
type streamTimes struct {
	waited time.Duration
	at     [streamSteps]time.Duration
}

// set sets the times in stats, for a connection that was made at start.
func (t *streamTimes) set(stats *StreamStats, start time.Time) {
	stats.Waited = t.waited
	for i, to := range [streamSteps]*time.Time{&stats.Opened, &stats.HeadersSent, &stats.RequestSent,
		&stats.ResponseBegan, &stats.ResponseEnded, &stats.Ended} {
		if t.at[i] > 0 {
			*to = start.Add(t.at[i])
		}
	}
}

// A sentMark waits until the socket has accepted so many bytes of the connection, which is the time
// of a step.
type sentMark struct {
	s      *Stream
	octets uint64
	step   streamStep
}

// timeLocked keeps the time of a step, if times are kept. Only the first time of a step counts.
func (t *connTracer) timeLocked(s *Stream, step streamStep) {
	if t != nil && t.c.cfg.StreamTimes {
		t.keepTimeLocked(s, step)
	}
}

func (t *connTracer) keepTimeLocked(s *Stream, step streamStep) {
	x := s.extrasLocked()
	if x.times == nil {
		x.times = &streamTimes{}
	}
	if x.times.at[step] == 0 {
		x.times.at[step] = max(t.c.clock(), 1)
	}
}

// timeSentLocked keeps the time of a step that happens when the socket has accepted all that was
// added to the bytes to write.
func (t *connTracer) timeSentLocked(s *Stream, step streamStep) {
	if t != nil && t.c.cfg.StreamTimes {
		t.marks = append(t.marks, sentMark{s, t.c.writer.queued, step})
	}
}

// flushedLocked is called when the socket has accepted more bytes.
func (t *connTracer) flushedLocked() {
	if t == nil || len(t.marks) == 0 {
		return
	}
	n := 0
	for n < len(t.marks) && t.marks[n].octets <= t.c.writer.flushed {
		t.timeLocked(t.marks[n].s, t.marks[n].step)
		n++
	}
	if t.marks = t.marks[n:]; len(t.marks) == 0 {
		t.marks = nil
	}
}
