package hyper

import (
	"fmt"

	"gohyper.dev/hyper/internal/state"
	"gohyper.dev/hyper/internal/wire"
)

// maxJoined is the number of bytes of a block that may wait to be decoded: if more have arrived,
// they are decoded before more is read. So the block of a long section is never in memory as a
// whole.
const maxJoined = 64 << 10

// continued reads the CONTINUATION frames that follow first. It returns the whole block or, if it
// has begun to decode a long block, the rest of it.
func (r *frameReader) continued(first wire.FrameHeader, fragment []byte) (
	block []byte, begun bool, last wire.FrameHeader, err error,
) {
	r.fragments = append(r.fragments[:0], fragment...)
	received := int64(len(fragment))
	for n := int64(1); ; n++ {
		h, err := r.header()
		if _, misshapen := err.(*wire.Error); err != nil && !misshapen {
			return nil, begun, h, err
		}
		// RFC 9113 §6.2: no other frame, of any stream, may come between the frames of a field
		// block.
		if h.Type != wire.Continuation || h.StreamID != first.StreamID {
			reason := fmt.Sprintf("%v inside the field block of stream %d", h.Type, first.StreamID)
			return nil, begun, h, &wire.Error{Code: wire.ProtocolError, Reason: reason}
		}
		if err != nil { // the frame is too large
			return nil, begun, h, err
		}
		received += int64(h.Length)
		small := int64(min(smallFragment, r.maxSize.Load()))
		if n > fewFrames+received/small || received > r.section.HardLimit() {
			reason := fmt.Sprintf("field block of stream %d has no end", first.StreamID)
			return nil, begun, h, &wire.Error{Code: wire.EnhanceYourCalm, Reason: reason}
		}
		p, err := r.take(h.Length)
		if err != nil {
			return nil, begun, h, err
		}
		r.fragments = append(r.fragments, p...)
		if h.Flags.Has(wire.EndHeaders) {
			return r.fragments, begun, h, nil
		}
		r.traced(h, nil, nil)
		if len(r.fragments) <= maxJoined {
			continue
		}
		if !begun {
			begun = true
			r.section.Begin()
		}
		rest, err := r.section.DecodePart(r.fragments)
		if err != nil {
			return nil, begun, h, err
		}
		if len(rest) < len(r.fragments) {
			r.fragments = append(r.fragments[:0], rest...)
		}
	}
}

// A block may have fewFrames CONTINUATION frames, and one more for each smallFragment bytes.
const (
	fewFrames     = 48
	smallFragment = 512
)

// A HeaderSizeError reports that a field section of the peer was too large to keep: it exceeds
// Config.MaxHeaderListSize, or what the other sections of the connection leave of
// Config.MaxHeaderMemory. It is wrapped in a StreamError. The connection and its other streams
// continue.
type HeaderSizeError struct {
	// Size is the size of the section, with 32 bytes for each field (RFC 9113 §6.5.2). A string
	// that is too large by itself is counted as it was sent.
	Size  int64
	Limit int64 // Config.MaxHeaderListSize or Config.MaxHeaderMemory
	Held  int64 // by other sections if Limit is Config.MaxHeaderMemory, else 0
}

// Error gives the size and the limit.
func (e *HeaderSizeError) Error() string {
	if e.Held > 0 {
		const text = "field section of %d bytes: no room beside %d bytes of others " +
			"(Config.MaxHeaderMemory %d)"
		return fmt.Sprintf(prefix+text, e.Size, e.Held, e.Limit)
	}
	return fmt.Sprintf(prefix+"field section of %d bytes exceeds %d", e.Size, e.Limit)
}

// tooLargeLocked resets a stream whose field section was too large to keep.
func (s *Stream) tooLargeLocked(f *frame) error {
	cfg := &s.c.cfg
	if f.oversize > int64(cfg.MaxHeaderListSize) {
		err := &HeaderSizeError{Size: f.oversize, Limit: int64(cfg.MaxHeaderListSize)}
		return s.rejectLocked(err)
	}
	err := &HeaderSizeError{Size: f.oversize, Limit: int64(cfg.MaxHeaderMemory),
		Held: s.c.reader.frames.section.Held()}
	return s.rejectLocked(streamErr(s.id, ErrCodeEnhanceYourCalm, err))
}

// holdSectionLocked counts the section that was just decoded for s against Config.MaxHeaderMemory.
func (s *Stream) holdSectionLocked() {
	size := s.c.reader.frames.section.Hold()
	if size == 0 {
		return
	}
	// Let its reader take a large one before more is read.
	s.c.reader.yieldDue = s.c.reader.yieldDue || size > maxJoined
	if x := s.extrasLocked(); s.answered() {
		x.heldTrailer += size
	} else {
		x.heldHeader += size
	}
}

// deliveredLocked is called when the response was returned to the caller.
func (s *Stream) deliveredLocked() {
	if s.extras != nil && s.extras.heldHeader > 0 {
		s.extras.delivered = true
		s.freeSectionsLocked(false)
	}
}

// freeSectionsLocked stops counting the sections of a stream that has ended. The header is no
// longer counted if the response was returned and nothing of its body is unread. Both header and
// trailers are no longer counted if the caller has seen the end of the body (read) or does not want
// it.
func (s *Stream) freeSectionsLocked(read bool) {
	x := s.extras
	if x == nil || s.state != state.Closed {
		return
	}
	read = read || s.isDropped()
	if x.delivered && s.readLocked() || read {
		s.c.reader.frames.section.Release(x.heldHeader)
		x.heldHeader = 0
	}
	if read {
		s.c.reader.frames.section.Release(x.heldTrailer)
		x.heldTrailer = 0
	}
}
