package hyper

import (
	"fmt"
	"slices"
	"sync/atomic"

	"gohyper.dev/hyper/internal/state"
	"gohyper.dev/hyper/internal/wire"
)

// This file decodes field sections. A section above the limit is decoded for the compression state,
// but not kept. A long section is decoded as its frames arrive, so that its block is never in
// memory as a whole.

// The bounds of decoding a field section.
const (
	// If more than maxJoined bytes of a block have arrived, they are decoded before more is read.
	maxJoined = 64 << 10

	// minHardLimit is the smallest size of a section that ends the connection, as sent, with 32
	// bytes for each field. It bounds the work that a peer can cause with one section.
	minHardLimit = 32 << 20

	freeSection = 16 << 10 // sections up to this size are not counted in Config.MaxHeaderMemory

	decodeStep = 1 << 10 // bytes of a block that are decoded at once
)

// A sectionReader is the state of the section that is being decoded, and its limits.
type sectionReader struct {
	limit int64        // of a decoded list, as announced
	room  int64        // for all sections that the connection holds; negative: no limit
	held  atomic.Int64 // the part of room that other sections take

	// most is the limit for the section in progress: limit, or less if there is less room.
	most    int64
	cost    int64 // bytes as sent, with 32 for each field
	started bool  // a field was read, so no table-size update may follow
	drop    droppedField
}

// A droppedField is a field in progress that is too large to be kept.
type droppedField struct {
	active  bool
	left    int64 // bytes to skip, as far as they are known
	value   bool  // the value follows those, and begins with its length
	indexed bool  // the field would enter the compression table, but is too large for it
}

// hardLimit returns the cost of a section that ends the connection.
func (r *frameReader) hardLimit() int64 { return max(2*r.limit, minHardLimit) }

// longest returns the size of a string, as sent, above which it can neither be kept nor be an entry
// of the table. A Huffman code has at most 30 bits, so a string shrinks to a quarter at most when
// it is decoded.
func (r *frameReader) longest() int64 { return max(r.limit, 4*int64(r.allowed)) }

// freeSectionMemory frees the memory of a large section after its frame was handled.
func (r *frameReader) freeSectionMemory() {
	if r.listSize <= maxJoined {
		return
	}
	r.decoded, r.fields, r.head, r.listSize = nil, nil, nil, 0
}

// beginSection prepares for a new section.
func (r *frameReader) beginSection() {
	if cap(r.decoded) > 1024 { // do not keep the memory of one huge list
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

// A block may have fewFrames CONTINUATION frames, and one more for each smallFragment bytes.
const (
	fewFrames     = 48
	smallFragment = 512
)

// decode sets r.fields and r.head from a whole block.
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

// decodeRest decodes the rest of a section and checks the whole section.
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
	if r.listSize > r.most { // the stream is reset, so the content does not matter
		return nil
	}
	r.parsed = parseHead(r.decoded, r.repeats())
	return nil
}

// decodePart decodes a part of a block and returns the bytes that it did not decode: the beginning
// of a field, unless this is the last part.
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
		// This was a table-size update. RFC 7541 §4.2 allows two, but the decoder allows one in a
		// block.
		if !r.started {
			r.dec.Close()
		}
		p = p[n:]
		// RFC 9113 §10.5.1: a field block must be processed to its end, unless the connection is
		// closed. The error below closes it.
		if r.cost > r.hardLimit() {
			return nil, r.tooLarge()
		}
	}
	if err == nil && last && r.drop.active {
		err = &wire.Error{Code: wire.CompressionError, Reason: "field value cut short"}
	}
	return p, err
}

// tooLarge returns the error of a section above the hard limit.
func (r *frameReader) tooLarge() error {
	reason := fmt.Sprintf("field section that costs more than %d bytes", r.hardLimit())
	return &wire.Error{Code: wire.EnhanceYourCalm, Reason: reason}
}

// wholeFields checks the fields at the beginning of p, up to decodeStep bytes. It returns the
// number of bytes to decode: one table-size update, or whole fields. That is 0 if the first field
// is incomplete, or if it is too large and will be dropped.
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
		case isUpdate && (reason != "" || r.started): // RFC 7541 §4.2: only at the beginning
			return bad("table-size update behind a field")
		case isUpdate && span.number > r.allowed:
			return bad("table-size update above SETTINGS_HEADER_TABLE_SIZE")
		case isUpdate:
			r.peerTable, r.mustShrink = span.number, false
			r.table++
			return int(span.end), nil
		case reason != "":
			return bad(reason)
		case large && n > 0: // decode the fields before it first
			return n, nil
		case r.mustShrink:
			// RFC 9113 §4.3.1: after the peer acknowledged a reduction, its next block must begin
			// with an update.
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

// fieldOverhead is what is counted for each field besides its name and value (RFC 9113 §6.5.2).
const fieldOverhead = 32

// passOver skips the bytes of a field that is dropped.
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
		// RFC 7541 §4.4: an entry that is larger than the table empties it.
		r.dec.SetMaxDynamicTableSize(0)
		r.dec.SetMaxDynamicTableSize(uint32(r.peerTable))
	}
	d.active = false
	return p, nil
}

// repeats reports whether the list is large, and so much larger than its block that the block must
// repeat entries of the compression table many times.
func (r *frameReader) repeats() bool {
	const large, ratio = 16 << 10, 64
	sent := r.cost - fieldOverhead*int64(len(r.decoded))
	return r.listSize > large && r.listSize > ratio*sent
}

// A fieldSpan is the extent of a field in a block (RFC 7541 §6), as far as its first bytes show it.
type fieldSpan struct {
	end     int64  // the end of the field, or of its name if known is false
	known   bool   // the lengths of all its strings were present
	longest int64  // the length of its longest string, as sent
	number  uint64 // its index, or the size of a table-size update
}

// spanOf reads the beginning of a field. reason says why it is malformed, and is "" if it is not.
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

// intAt is readInt, but it also reports whether p may be too short to hold the whole integer.
func intAt(p []byte, n byte) (v uint64, rest []byte, short, ok bool) {
	if v, rest, ok = readInt(p, n); ok {
		return v, rest, false, true
	}
	const most = 6 // the prefix and five bytes
	short = len(p) < most && !slices.ContainsFunc(p[min(1, len(p)):],
		func(b byte) bool { return b&0x80 == 0 })
	return 0, nil, short, false
}

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
	return fmt.Sprintf(prefix+"field section of %d octets exceeds %d", e.Size, e.Limit)
}

// tooLargeLocked resets a stream whose field section was too large to keep.
func (s *Stream) tooLargeLocked(f *frame) error {
	cfg := &s.c.cfg
	if f.oversize > int64(cfg.MaxHeaderListSize) {
		err := &HeaderSizeError{Size: f.oversize, Limit: int64(cfg.MaxHeaderListSize)}
		return s.rejectLocked(err)
	}
	err := &HeaderSizeError{Size: f.oversize, Limit: int64(cfg.MaxHeaderMemory), Held: s.c.frames.held.Load()}
	return s.rejectLocked(streamErr(s.id, ErrCodeEnhanceYourCalm, err))
}

// holdSectionLocked counts the section that was just decoded for s against Config.MaxHeaderMemory.
func (s *Stream) holdSectionLocked() {
	size := s.c.frames.listSize
	if size <= freeSection || s.c.cfg.MaxHeaderMemory < 0 {
		return
	}
	s.c.yieldToReader = s.c.yieldToReader || size > maxJoined // let its reader take it before more is read
	s.c.frames.held.Add(size)
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
		s.c.frames.held.Add(-x.heldHeader)
		x.heldHeader = 0
	}
	if read {
		s.c.frames.held.Add(-x.heldTrailer)
		x.heldTrailer = 0
	}
}
