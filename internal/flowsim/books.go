package flowsim

import (
	"math"

	"gohyper.dev/hyper/internal/wire"
)

// books hold what the client has promised and what it holds, by the frames that it sent and
// received.
type books struct {
	// What the peer may send plus what is unread.
	promised  int64 // on the connection
	onStreams int64 // on all streams together

	unread int // on all streams together

	announces bool  // SETTINGS were sent
	announced int64 // the initial window of new streams, by the last SETTINGS that the client sent
	shifts    []*shift
	streams   map[uint32]*account
}

// An account is what books know of a stream.
type account struct {
	promised int64
	unread   int
	ended    bool
}

// A shift is a SETTINGS frame that is not acknowledged.
type shift struct {
	by      int64
	streams []*account // streams whose windows it lowers when it is acknowledged
}

// most returns the most that the peer could make the client hold.
func (b *books) most() int { return int(min(b.promised, b.onStreams, math.MaxInt)) }

// windows returns what the peer may send on the connection and on the first stream that has not
// ended, beyond what has arrived.
func (b *books) windows() (conn, stream int) {
	first := uint32(math.MaxUint32)
	for id, s := range b.streams {
		if id < first && !s.ended {
			first, stream = id, int(s.promised-int64(s.unread))
		}
	}
	return int(b.promised - int64(b.unread)), stream
}

// open counts the initial window of a new stream.
func (b *books) open(stream uint32) {
	b.streams[stream] = &account{promised: b.announced}
	b.onStreams += b.announced
}

// promise counts a WINDOW_UPDATE.
func (b *books) promise(stream uint32, n int) {
	if stream == 0 {
		b.promised += int64(n)
		return
	}
	if s := b.streams[stream]; s != nil && !s.ended {
		s.promised += int64(n)
		b.onStreams += int64(n)
	}
}

// data counts a DATA frame.
func (b *books) data(it *item) {
	s := b.streams[it.StreamID]
	s.unread += it.Length
	b.unread += it.Length
	if it.Flags.Has(wire.EndStream) {
		s.ended = true
		b.onStreams -= s.promised - int64(s.unread)
		s.promised = int64(s.unread)
	}
}

// took counts n bytes that were read.
func (b *books) took(stream uint32, n int) {
	s := b.streams[stream]
	s.unread -= n
	s.promised -= int64(n)
	b.unread -= n
	b.promised -= int64(n)
	b.onStreams -= int64(n)
	if s.ended && s.unread == 0 {
		delete(b.streams, stream)
	}
}

// announce counts SETTINGS. A larger initial window counts at once, a smaller one when the server
// has acknowledged it. It reports whether these are not the first SETTINGS.
func (b *books) announce(size int64) (again bool) {
	again, b.announces = b.announces, true
	change := &shift{by: size - b.announced}
	b.announced = size
	for _, s := range b.streams {
		switch {
		case s.ended:
		case change.by > 0:
			s.promised += change.by
			b.onStreams += change.by
		default:
			change.streams = append(change.streams, s)
		}
	}
	b.shifts = append(b.shifts, change)
	return again
}

// acknowledged applies the oldest SETTINGS that were not acknowledged.
func (b *books) acknowledged() {
	change := b.shifts[0]
	b.shifts = b.shifts[1:]
	for _, s := range change.streams {
		if !s.ended {
			s.promised += change.by
			b.onStreams += change.by
		}
	}
}
