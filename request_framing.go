package hyper

import (
	"encoding/binary"
	"fmt"

	"gohyper.dev/hyper/internal/fieldblock"
	"gohyper.dev/hyper/internal/syntax"
	"gohyper.dev/hyper/internal/wire"
)

// A Framing says how a message is encoded and cut into frames, where HTTP/2 leaves a choice. It is
// for tests of servers, and for clients that must send the same bytes as another client. The zero
// value changes nothing. A Framing must not be changed during the exchange; several requests may
// share one.
type Framing struct {
	// StreamID is the identifier of the stream. It must be odd, and higher than those of all
	// earlier streams of the connection; identifiers in between are not used any more (RFC 9113
	// §5.1.1). 0 means the next one. If the identifier has been used or passed over, the error is a
	// *RequestError.
	StreamID uint32

	// Encode says how HPACK encodes a field of the header or of the trailers. It is called before
	// the request, or its trailers, are sent, on a goroutine of the exchange and without a lock. It
	// is called once for each field, in order, with those that hyper adds. nil means that hyper
	// chooses. The first section of the other kind that the connection sends begins by emptying
	// the compression table. If the result has a Form or a Huffman that is none of the constants,
	// nothing is sent, and the error is a *RequestError.
	Encode func(Field) FieldEncoding

	// Fragments are the sizes of the first fragments of the header's field block, in bytes: the
	// first is in the HEADERS frame, the others are in CONTINUATION frames. There is a frame for
	// each, even if nothing is left for it. They may exceed the peer's MAX_FRAME_SIZE. What is left
	// is sent in frames as large as the peer allows. Trailers are cut in the same way.
	Fragments []int

	// Dependency gives the request's first HEADERS frame priority fields (RFC 7540 §5.3), which RFC
	// 9113 has deprecated. nil means none.
	Dependency *Dependency

	// HeaderPadding is by how many bytes padding makes each HEADERS frame longer, with the Pad
	// Length field: at most 256. 0 means no padding; 1 means a Pad Length of 0.
	HeaderPadding int

	// DataPadding is the same for each DATA frame. Padding counts in the flow-control windows (RFC
	// 9113 §6.1). Where a window has too little room for it, there is less.
	DataPadding int

	// MaxData is the most bytes of content in a DATA frame. 0 means as many as the peer and the
	// windows allow, up to 256 KiB.
	MaxData int
}

// A Dependency is the content of a PRIORITY frame, and of the priority fields of HEADERS (RFC 7540
// §6.3).
type Dependency struct {
	StreamID  uint32 // on which the stream depends
	Weight    uint8  // as it is sent: one less than the weight of RFC 7540
	Exclusive bool
}

// payload returns the content of a PRIORITY frame.
func (d Dependency) payload() (p [5]byte) {
	id := d.StreamID
	if d.Exclusive {
		id |= 1 << 31
	}
	binary.BigEndian.PutUint32(p[:], id)
	p[4] = d.Weight
	return p
}

// A FieldForm is how HPACK represents a field (RFC 7541 §6.1, §6.2).
type FieldForm uint8

// The values of FieldForm.
const (
	// FieldAuto refers to a table that has the field. Otherwise it makes the field an entry of the
	// compression table, except for a :path, and for Sensitive fields and credentials, which are
	// never indexed.
	FieldAuto FieldForm = iota

	FieldIndexed      // a reference to a table that has the field; if none has it, as FieldIncremental
	FieldIncremental  // a literal with incremental indexing: it enters the compression table
	FieldNotIndexed   // a literal without indexing
	FieldNeverIndexed // a literal that no intermediary may index either
)

// A HuffmanUse says which strings of a field are Huffman-coded (RFC 7541 §5.2).
type HuffmanUse uint8

// The values of HuffmanUse.
const (
	HuffmanIfShorter HuffmanUse = iota // the strings that become shorter
	HuffmanAlways                      // all strings
	HuffmanNever                       // none
)

// A FieldEncoding says how HPACK encodes a field. A Form other than FieldAuto applies to Sensitive
// fields and to credentials as well.
type FieldEncoding struct {
	Form    FieldForm
	Huffman HuffmanUse
	NewName bool // the name is sent as a string, even if a table has it
}

// maxPadding is the most bytes by which padding makes a frame longer.
const maxPadding = 256

// check returns a *RequestError if f is not valid. f may be nil.
func (f *Framing) check() error {
	if f == nil {
		return nil
	}
	switch {
	case f.StreamID > wire.MaxStreamID || f.StreamID != 0 && f.StreamID%2 == 0:
		return framingFault("StreamID", f.StreamID,
			"it is not the identifier of a request (RFC 9113 §5.1.1)")
	case f.HeaderPadding < 0 || f.HeaderPadding > maxPadding:
		return framingFault("HeaderPadding", f.HeaderPadding, "it is not between 0 and 256")
	case f.DataPadding < 0 || f.DataPadding > maxPadding:
		return framingFault("DataPadding", f.DataPadding, "it is not between 0 and 256")
	case f.MaxData < 0:
		return framingFault("MaxData", f.MaxData, "it is negative")
	}
	const most = wire.MaxMaxFrameSize - maxPadding - 5
	for _, n := range f.Fragments {
		if n < 0 || n > most {
			return framingFault("Fragments", n, fmt.Sprintf("a fragment has up to %d bytes", most))
		}
	}
	return nil
}

// framingFault returns the error for an option of a Framing with a value that is not valid.
func framingFault(option string, value any, reason string) error {
	return &RequestError{"Framing", fmt.Sprintf("has %s %v: %s", option, value, reason)}
}

// check returns a *RequestError if e has a value that is none of the constants. It is the encoding
// of the field with that name.
func (e FieldEncoding) check(name string) error {
	switch {
	case e.Form > FieldNeverIndexed:
		return framingFault("Form", e.Form, "it is not a FieldForm; the field is "+name)
	case e.Huffman > HuffmanNever:
		return framingFault("Huffman", e.Huffman, "it is not a HuffmanUse; the field is "+name)
	}
	return nil
}

// layout returns how the section with these fields is written, or nil if f changes nothing of it.
func (f *Framing) layout(fields []Field) (*fieldblock.Layout, error) {
	if f == nil {
		return nil, nil
	}
	l := &fieldblock.Layout{Padding: f.HeaderPadding, Fragments: f.Fragments}
	if f.Dependency != nil {
		p := f.Dependency.payload()
		l.Priority = &p
	}
	if f.Encode == nil {
		return l, nil
	}
	l.Encodings = make([]fieldblock.Encoding, len(fields))
	for i, field := range fields {
		e := f.Encode(field)
		if err := e.check(field.Name); err != nil {
			return nil, err
		}
		l.Encodings[i] = fieldblock.Encoding{Form: fieldblock.Form(e.Form),
			Huffman: fieldblock.Huffman(e.Huffman), NewName: e.NewName}
	}
	return l, nil
}

// A fieldList is a fieldSink that keeps the fields.
type fieldList []Field

// Field implements fieldSink.
func (l *fieldList) Field(name, value string, sensitive bool) {
	*l = append(*l, Field{name, value, sensitive})
}

// appendData appends a DATA frame with the stream and the flags of h.
func appendData(dst []byte, h wire.FrameHeader, content []byte, padding int) []byte {
	if padding == 0 {
		return wire.AppendData(dst, h.StreamID, h.Flags, content)
	}
	h.Type, h.Length, h.Flags = wire.Data, len(content)+padding, h.Flags|wire.Padded
	dst = append(wire.AppendFrameHeader(dst, h), byte(padding-1))
	return append(append(dst, content...), make([]byte, padding-1)...)
}

// prepareFraming prepares how the header is written.
func (p *preparedRequest) prepareFraming() (err error) {
	if p.Framing == nil {
		return nil
	}
	if err := p.Framing.check(); err != nil {
		return err
	}
	var fields fieldList
	p.write(&fields)
	if p.layout, err = p.Framing.layout(fields); err != nil {
		return err
	}
	p.trailerLayout, err = p.Request.trailerLayout(p.trailers)
	return err
}

// prepareUnchecked is the part of prepare for a request that is sent as it is.
func (p *preparedRequest) prepareUnchecked() {
	p.length = -1
	switch {
	case p.Body == nil && p.ending == endByCaller:
	case p.Body == nil:
		p.length = 0
	default:
		p.inlineBody, p.body, _ = openBody(p.Body, false, p.memory.newTaker())
	}
	p.trailers = p.trailer()
}

// streamIDFreeLocked returns an error if the request cannot have the identifier that its Framing
// demands.
func (c *Conn) streamIDFreeLocked(p *preparedRequest) error {
	if p.Framing == nil || p.Framing.StreamID == 0 || p.Framing.StreamID >= c.streams.nextID {
		return nil
	}
	return &RequestError{"Framing", fmt.Sprintf("has StreamID %d: the next identifier is %d",
		p.Framing.StreamID, c.streams.nextID)}
}

// writeFields passes fields to w as they are sent, with names in lower case unless r is unchecked.
func (r *Request) writeFields(fields Header, w fieldSink) {
	for i := range fields {
		f := &fields[i]
		name := f.Name
		if !r.Unchecked {
			name = syntax.Lower(name)
		}
		w.Field(name, f.Value, f.Sensitive)
	}
}

// trailerLayout returns how trailer is written; nil: as hyper chooses.
func (r *Request) trailerLayout(trailer Header) (*fieldblock.Layout, error) {
	if r.Framing == nil || len(trailer) == 0 {
		return nil, nil
	}
	var fields fieldList
	r.writeFields(trailer, &fields)
	l, err := r.Framing.layout(fields)
	if err != nil {
		return nil, err
	}
	l.Priority = nil
	return l, nil
}

// peerTakesTrailerLocked checks the size of trailers against the peer's MAX_HEADER_LIST_SIZE.
func (s *Stream) peerTakesTrailerLocked(trailer Header) error {
	if s.req.Unchecked {
		return nil
	}
	return s.c.peerTakesLocked("trailer", trailer.listSize())
}

// endSectionLocked ends the section that w has begun, and adds its frames to out. layout may be
// nil.
func (c *Conn) endSectionLocked(layout *fieldblock.Layout) {
	w, size := c.writer.fields, c.settings.peer.maxFrame
	if layout == nil {
		c.writer.add(w.End(size))
	} else {
		c.writer.add(w.EndAs(layout, size))
	}
}

// dataSize returns the content and the padding of the next DATA frame, in bytes: up to n bytes of
// content, in room bytes of the windows and of the peer's MAX_FRAME_SIZE. The content has at least
// one byte if n and room have. f may be nil.
func (f *Framing) dataSize(n, room int) (content, padding int) {
	if f == nil {
		return min(n, room), 0
	}
	if f.MaxData > 0 {
		n = min(n, f.MaxData)
	}
	padding = max(0, min(f.DataPadding, room-min(n, 1)))
	return min(n, room-padding), padding
}
