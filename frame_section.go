package hyper

import (
	"fmt"
	"slices"
	"sync/atomic"

	"gohyper.dev/hyper/internal/state"
	"gohyper.dev/hyper/internal/wire"
)

// How field sections are decoded. What is above the limit is decoded for the compression state, and
// not kept; a long section is decoded as its frames come, so that its block is never in memory as a
// whole.

const (
	maxJoined = 64 << 10 // of a block: beyond it, what is there is decoded before more is read

	// The least size at which a section ends its connection: as sent, with 32 bytes for each field.
	// It bounds the work that a peer can make with one section.
	minHardLimit = 32 << 20

	freeSection = 16 << 10 // sections up to this size are not counted in Config.MaxHeaderMemory

	decodeStep = 1 << 10 // bytes of a block that are decoded at once
)

// A sectionReader is the state of the section that is being decoded, and what bounds it.
type sectionReader struct {
	limit int64        // of a decoded list, as announced
	room  int64        // of all sections that the connection holds; below 0: no bound
	held  atomic.Int64 // of that, by other sections

	most    int64 // of the section in progress: the limit, or less where there is less room
	cost    int64 // bytes as sent, with 32 for each field
	started bool  // a field came: no table-size update may follow
	drop    droppedField
}

// A droppedField is a field in progress that is larger than any that could be kept.
type droppedField struct {
	active  bool
	left    int64 // bytes to pass over, as far as they are known
	value   bool  // the value follows those, with its length
	indexed bool  // it goes into the compression table, and is too large for it
}

// hardLimit is the cost of a section at which the connection ends.
func (r *frameReader) hardLimit() int64 { return max(2*r.limit, minHardLimit) }

// longest is the size of a string, as sent, that can neither be kept nor be an entry of the table.
// A Huffman code has 30 bits at most.
func (r *frameReader) longest() int64 { return max(r.limit, 4*int64(r.allowed)) }

// freeSectionMemory lets the memory of a large section go, once its frame was dealt with.
func (r *frameReader) freeSectionMemory() {
	if r.listSize <= maxJoined {
		return
	}
	r.decoded, r.fields, r.head, r.listSize = nil, nil, nil, 0
}

// beginSection makes ready for a new section.
func (r *frameReader) beginSection() {
	if cap(r.decoded) > 1024 { // one huge list is no reason to keep its memory
		r.decoded = nil
	}
	clear(r.decoded)
	if r.decoded, r.listSize = r.decoded[:0], 0; r.decoded == nil {
		r.decoded = make([]Field, 0, fewFields)
	}
	r.last = nil
	r.cost, r.started, r.drop = 0, false, droppedField{}
	if r.most = r.limit; r.room >= 0 {
		r.most = min(r.limit, max(freeSection, r.room-r.held.Load()))
	}
}

// continued reads the frames that follow first. It returns the block, or, of a long one that it has
// begun to decode, what is left of it.
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
		// RFC 9113 §6.2: nothing else may come between the frames of a field block, on any stream.
		if h.Type != wire.Continuation || h.StreamID != first.StreamID {
			reason := fmt.Sprintf("%v inside the field block of stream %d", h.Type, first.StreamID)
			return nil, begun, h, &wire.Error{Code: wire.ProtocolError, Reason: reason}
		}
		if err != nil { // it is too large
			return nil, begun, h, err
		}
		received += int64(h.Length)
		if n > fewFrames+received/int64(min(smallFragment, r.maxSize)) || received > r.hardLimit() {
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
			r.beginSection()
		}
		rest, err := r.decodePart(r.fragments, false)
		if err != nil {
			return nil, begun, h, err
		}
		if len(rest) < len(r.fragments) {
			r.fragments = append(r.fragments[:0], rest...)
		}
	}
}

// CONTINUATION frames of a block: so many, and one more for each smallFragment bytes.
const (
	fewFrames     = 48
	smallFragment = 512
)

// decode fills r.fields from a whole block.
func (r *frameReader) decode(block []byte) error {
	r.beginSection()
	if r.last = r.known.byOctets(r.table, block); r.last != nil {
		r.fields, r.head = r.last.fields, &r.last.head
		return nil
	}
	table := r.table
	if err := r.decodeRest(block); err != nil {
		return err
	}
	if r.table == table && r.listSize <= r.most {
		if r.last = r.known.keep(table, block, r.decoded, int(r.listSize)); r.last != nil {
			r.last.head = r.parsed
		}
	}
	return nil
}

// decodeRest decodes what is left of a section, and judges the whole.
func (r *frameReader) decodeRest(block []byte) error {
	if cap(r.fragments) > 2*maxJoined {
		defer func() { r.fragments = nil }()
	}
	if _, err := r.decodePart(block, true); err != nil {
		return err
	}
	if err := r.dec.Close(); err != nil {
		return &wire.Error{Code: wire.CompressionError, Reason: err.Error()}
	}
	r.fields, r.head = r.decoded, &r.parsed
	if r.listSize > r.most { // the stream is reset: what the section says does not matter
		return nil
	}
	r.parsed = parseHead(r.decoded, r.repeats())
	return nil
}

// decodePart decodes a part of a block, and returns what is left: the beginning of a field, unless
// the part is the last.
func (r *frameReader) decodePart(p []byte, last bool) (rest []byte, err error) {
	for len(p) > 0 {
		if r.drop.active {
			if p, err = r.passOver(p); err != nil || r.drop.active {
				break
			}
			continue
		}
		n, err := r.wholeFields(p, last)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			if r.drop.active {
				continue
			}
			break
		}
		if _, err := r.dec.Write(p[:n]); err != nil {
			return nil, &wire.Error{Code: wire.CompressionError, Reason: err.Error()}
		}
		if !r.started { // a table-size update: RFC 7541 §4.2 allows two, the decoder one a block
			r.dec.Close()
		}
		p = p[n:]
		// RFC 9113 §10.5.1: a field block must be processed to its end, unless the connection is
		// closed. This closes it.
		if r.cost > r.hardLimit() {
			return nil, r.tooLarge()
		}
	}
	if err == nil && last && r.drop.active {
		err = &wire.Error{Code: wire.CompressionError, Reason: "field value cut short"}
	}
	return p, err
}

func (r *frameReader) tooLarge() error {
	reason := fmt.Sprintf("field section that costs more than %d bytes", r.hardLimit())
	return &wire.Error{Code: wire.EnhanceYourCalm, Reason: reason}
}

// wholeFields judges the fields at the beginning of p, until they are decodeStep bytes, and returns
// how many bytes they are: one table-size update, or whole fields. It is 0 where the first is not
// whole, or begins to be dropped.
func (r *frameReader) wholeFields(p []byte, last bool) (n int, err error) {
	bad := func(reason string) (int, error) {
		return 0, &wire.Error{Code: wire.CompressionError, Reason: reason}
	}
	for n < len(p) && n < decodeStep {
		isUpdate := p[n]&0xe0 == sizeUpdate
		span, reason := spanOf(p[n:])
		large := span.longest > r.longest()
		if reason == "" && !large && (!span.known || span.end > int64(len(p)-n)) {
			if !last {
				return n, nil
			}
			_, _, reason = skipField(p[n:])
		}
		switch {
		case isUpdate && (reason != "" || r.started): // RFC 7541 §4.2: it comes at the beginning
			return bad("table-size update behind a field")
		case isUpdate && span.number > r.allowed:
			return bad("table-size update above SETTINGS_HEADER_TABLE_SIZE")
		case isUpdate:
			r.peerTable, r.mustShrink = span.number, false
			r.table++
			return int(span.end), nil
		case reason != "":
			return bad(reason)
		case large && n > 0: // after those that are decoded first
			return n, nil
		case r.mustShrink:
			// RFC 9113 §4.3.1: after a reduction is acknowledged, the next block must begin with an update.
			return bad("no table-size update after a smaller SETTINGS_HEADER_TABLE_SIZE")
		}
		indexes := p[n]&0xc0 == incremental
		if indexes {
			r.table++
		}
		r.started = true
		if large {
			r.drop = droppedField{active: true, left: span.end, value: !span.known, indexed: indexes}
			r.listSize += span.longest + fieldOverhead
			r.cost += fieldOverhead
			return 0, nil
		}
		r.cost += span.end + fieldOverhead
		n += int(span.end)
	}
	return n, nil
}

const fieldOverhead = 32 // RFC 9113 §6.5.2

// passOver passes over a field that is dropped.
func (r *frameReader) passOver(p []byte) (rest []byte, err error) {
	d := &r.drop
	n := min(d.left, int64(len(p)))
	d.left -= n
	if r.cost += n; r.cost > r.hardLimit() {
		return nil, r.tooLarge()
	}
	p = p[n:]
	if d.left > 0 {
		return p, nil
	}
	if d.value {
		length, rest, short, ok := intAt(p, 7)
		switch {
		case short:
			return p, nil
		case !ok:
			return nil, &wire.Error{Code: wire.CompressionError, Reason: "field value cut short"}
		}
		d.value, d.left = false, int64(length)
		r.listSize += d.left
		if d.left > 0 {
			return r.passOver(rest)
		}
		p = rest
	}
	if d.indexed {
		// RFC 7541 §4.4: an entry larger than the table empties it.
		r.dec.SetMaxDynamicTableSize(0)
		r.dec.SetMaxDynamicTableSize(uint32(r.peerTable))
	}
	d.active = false
	return p, nil
}

// repeats reports whether the list is so large, and so much larger than its block, that it repeats
// entries of the compression table many times.
func (r *frameReader) repeats() bool {
	const large, ratio = 16 << 10, 64
	sent := r.cost - fieldOverhead*int64(len(r.decoded))
	return r.listSize > large && r.listSize > ratio*sent
}

// A fieldSpan is how far a field in a block reaches (RFC 7541 §6), as far as its beginning tells.
type fieldSpan struct {
	end     int64  // of the field; of its name, where known is false
	known   bool   // the lengths of all its strings were there
	longest int64  // of its strings, as sent
	number  uint64 // its index, or the size of a table-size update
}

// spanOf looks at the beginning of a field. reason says what is wrong with it, or "".
func spanOf(p []byte) (span fieldSpan, reason string) {
	prefix, strings := byte(4), true
	switch b := p[0]; {
	case b&indexed != 0:
		prefix, strings = 7, false
	case b&0xe0 == sizeUpdate:
		prefix, strings = 5, false
	case b&0xc0 == incremental:
		prefix = 6
	}
	n, rest, short, ok := intAt(p, prefix)
	switch {
	case short:
		return span, ""
	case !ok || n == 0 && p[0]&indexed != 0:
		_, _, reason = skipField(p)
		return span, reason
	}
	span.number, span.end, span.known = n, int64(len(p)-len(rest)), true
	if !strings {
		return span, ""
	}
	lengths := 1
	if n == 0 {
		lengths = 2
	}
	for ; lengths > 0; lengths-- {
		if span.end > int64(len(p)) {
			span.known = false
			return span, ""
		}
		length, after, short, ok := intAt(p[span.end:], 7)
		switch {
		case short:
			span.known = false
			return span, ""
		case !ok && lengths == 2:
			return span, "field name cut short"
		case !ok:
			return span, "field value cut short"
		}
		span.end = int64(len(p)-len(after)) + int64(length)
		span.longest = max(span.longest, int64(length))
	}
	return span, ""
}

// intAt is readInt, which also tells whether p may be too short to hold the integer.
func intAt(p []byte, n byte) (v uint64, rest []byte, short, ok bool) {
	if v, rest, ok = readInt(p, n); ok {
		return v, rest, false, true
	}
	const most = 6 // the prefix, and five bytes
	short = len(p) < most && !slices.ContainsFunc(p[min(1, len(p)):], func(b byte) bool { return b&0x80 == 0 })
	return 0, nil, short, false
}

// A HeaderSizeError is a field section of the peer's that was too large to keep: for
// Config.MaxHeaderListSize, or for what other sections of the connection have left of
// Config.MaxHeaderMemory. It comes inside a StreamError. The connection and its other streams live
// on.
type HeaderSizeError struct {
	// Size is the section's, with 32 bytes for each field (RFC 9113 §6.5.2). A string that is too
	// large by itself is counted as it was sent.
	Size  int64
	Limit int64 // Config.MaxHeaderListSize, or Config.MaxHeaderMemory
	Held  int64 // by other sections, where Limit is Config.MaxHeaderMemory; else 0
}

// Error names the size and the limit.
func (e *HeaderSizeError) Error() string {
	if e.Held > 0 {
		const text = "field section of %d bytes: no room beside %d bytes of others (Config.MaxHeaderMemory %d)"
		return fmt.Sprintf(prefix+text, e.Size, e.Held, e.Limit)
	}
	return fmt.Sprintf(prefix+"field section of %d octets exceeds %d", e.Size, e.Limit)
}

// tooLargeLocked ends a stream whose field section was not kept.
func (s *Stream) tooLargeLocked(f *frame) error {
	cfg := &s.c.cfg
	if f.oversize > int64(cfg.MaxHeaderListSize) {
		err := &HeaderSizeError{Size: f.oversize, Limit: int64(cfg.MaxHeaderListSize)}
		return s.rejectLocked(ProtocolError, err)
	}
	err := &HeaderSizeError{Size: f.oversize, Limit: int64(cfg.MaxHeaderMemory), Held: s.c.frames.held.Load()}
	return s.rejectLocked(EnhanceYourCalm, err)
}

// holdSectionLocked counts the section that was just decoded for s.
func (s *Stream) holdSectionLocked() {
	size := s.c.frames.listSize
	if size <= freeSection || s.c.cfg.MaxHeaderMemory < 0 {
		return
	}
	s.c.ahead = s.c.ahead || size > maxJoined // whoever waits for it takes it before more comes
	s.c.frames.held.Add(size)
	if x := s.extrasLocked(); s.answered {
		x.heldTrailer += size
	} else {
		x.heldHeader += size
	}
}

// deliveredLocked: the response was returned.
func (s *Stream) deliveredLocked() {
	if s.extras != nil && s.extras.heldHeader > 0 {
		s.extras.delivered = true
		s.freeSectionsLocked(false)
	}
}

// freeSectionsLocked ends the count of the sections of a stream that has ended: of its header where
// the response was returned and nothing of its body is unread, and of its trailers, too, where
// the caller has seen the end of the body, or does not want it.
func (s *Stream) freeSectionsLocked(read bool) {
	x := s.extras
	if x == nil || s.state != state.Closed {
		return
	}
	read = read || s.dropped
	if x.delivered && s.readLocked() || read {
		s.c.frames.held.Add(-x.heldHeader)
		x.heldHeader = 0
	}
	if read {
		s.c.frames.held.Add(-x.heldTrailer)
		x.heldTrailer = 0
	}
}
