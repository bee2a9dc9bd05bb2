package fieldblock

import (
	"fmt"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/wire"
)

const (
	// minHardLimit is the smallest cost of a section that ends the connection: its size as sent,
	// with 32 bytes for each field. It bounds the work that a peer can cause with one section.
	minHardLimit = 32 << 20

	// fieldOverhead is what is counted for each field besides its name and value (RFC 9113
	// §6.5.2).
	fieldOverhead = 32

	decodeStep = 1 << 10 // bytes of a block that are decoded at once
)

// A decoder decodes field blocks into fields, checks what HTTP/2 demands of them, and bounds what a
// section costs.
type decoder struct {
	hpack      *tableDecoder
	table      tableSize
	generation uint64 // counts the changes of the compression table
	limits

	// The section in progress.
	most    int64 // the limit of its list
	size    int64 // of the list
	cost    int64 // bytes as sent, with 32 for each field
	dropped droppedField
	started bool // a field was read, so no table-size update may follow

	trims bool // Config.TrimValues
}

// A tableSize holds the sizes of the compression table, in bytes.
type tableSize struct {
	announced uint32 // the largest one that we announced
	// allowed is the largest one that the peer may use now. Until it acknowledges our SETTINGS it
	// may use the earlier size.
	allowed uint32
	set     uint32 // by the peer's blocks
	// mustShrink: the peer has acknowledged a smaller size, and its next block must begin with an
	// update.
	mustShrink bool
}

// A droppedField is a field in progress that is too large to be kept.
type droppedField struct {
	phase dropPhase
	enter bool  // the field would enter the compression table, but is too large for it
	left  int64 // bytes of the phase that are still to come
}

// A dropPhase says which part of a field is being dropped.
type dropPhase uint8

const (
	dropNothing dropPhase = iota
	dropName              // all up to the value, which begins with its length
	dropRest              // all that is left of the field
)

// init prepares the decoder, which calls emit for each field.
func (d *decoder) init(cfg Config, emit func(hpack.HeaderField)) {
	d.list, d.memory, d.trims = cfg.ListSize, cfg.Memory, cfg.TrimValues
	d.table = tableSize{announced: cfg.TableSize, allowed: max(cfg.TableSize, wire.HeaderTableSize),
		set: wire.HeaderTableSize}
	d.hpack = &tableDecoder{emit: emit, most: wire.HeaderTableSize}
}

// hardLimit returns the cost of a section that ends the connection, in bytes.
func (d *decoder) hardLimit() int64 { return max(2*d.list, minHardLimit) }

// longest returns the size of a string, as sent, above which it can neither be kept nor be an entry
// of the table. A Huffman code has at most 30 bits, so a string shrinks to a quarter at most when
// it is decoded.
func (d *decoder) longest() int64 { return max(d.list, 4*int64(d.table.allowed)) }

// begin prepares for a new section.
func (d *decoder) begin() {
	d.size, d.cost, d.started, d.dropped = 0, 0, false, droppedField{}
	d.most = d.limits.next()
}

// decode decodes a part of a block and returns the bytes that it did not decode: the beginning of a
// field, unless this is the last part.
func (d *decoder) decode(p []byte, last bool) (rest []byte, err error) {
	for len(p) > 0 {
		if d.dropped.phase == dropNothing {
			n, err := d.wholeFields(p, last)
			if err != nil {
				return nil, err
			}
			if n > 0 {
				if err := d.write(p[:n]); err != nil {
					return nil, err
				}
				p = p[n:]
				continue
			}
			if d.dropped.phase == dropNothing { // p ends within a field
				break
			}
		}
		if p, err = d.drop(p); err != nil {
			return nil, err
		}
		if d.dropped.phase != dropNothing { // p ends within the dropped field
			break
		}
	}
	if !last {
		return p, nil
	}
	if d.dropped.phase != dropNothing {
		return nil, malformed(valueCutShort)
	}
	return nil, nil
}

// write decodes whole fields, or one table-size update.
func (d *decoder) write(p []byte) error {
	if fault := d.hpack.write(p); fault != "" {
		return malformed(fault)
	}
	// RFC 9113 §10.5.1: a field block must be processed to its end, unless the connection is
	// closed. The error closes it.
	if d.cost > d.hardLimit() {
		return d.tooLarge()
	}
	return nil
}

// malformed returns the error for a block that is not HPACK (RFC 9113 §4.3).
func malformed(reason string) error { return &wire.Error{Code: wire.CompressionError, Reason: reason} }

// tooLarge returns the error of a section above the hard limit.
func (d *decoder) tooLarge() error {
	reason := fmt.Sprintf("field section that costs more than %d bytes", d.hardLimit())
	return &wire.Error{Code: wire.EnhanceYourCalm, Reason: reason}
}

// wholeFields checks the fields at the beginning of p, up to decodeStep bytes. It returns the
// number of bytes to decode: one table-size update, or whole fields. That is 0 if the first field
// is incomplete, or if it is too large and will be dropped.
func (d *decoder) wholeFields(p []byte, last bool) (n int, err error) {
	for n < len(p) && n < decodeStep {
		f, fault := parseField(p[n:])
		large := f.longest > d.longest()
		if fault == "" && !large && !f.isWhole(len(p)-n) {
			if !last {
				return n, nil
			}
			fault = f.cutShort()
		}
		switch {
		case f.kind == sizeUpdate && d.started: // RFC 7541 §4.2: only at the beginning
			return 0, malformed("table-size update after a field")
		case fault != "":
			return 0, malformed(fault)
		case f.kind == sizeUpdate:
			return int(f.end), d.resize(f.number)
		case large && n > 0: // decode the fields before it first
			return n, nil
		case d.table.mustShrink:
			// RFC 9113 §4.3.1: after the peer acknowledged a reduction, its next block must begin
			// with an update.
			return 0, malformed("no table-size update after a smaller SETTINGS_HEADER_TABLE_SIZE")
		}
		if f.kind == incremental {
			d.generation++
		}
		d.started = true
		d.cost += fieldOverhead
		if large {
			d.beginDrop(&f)
			return 0, nil
		}
		d.cost += f.end
		n += int(f.end)
	}
	return n, nil
}

// resize notes a table-size update.
func (d *decoder) resize(size uint64) error {
	if size > uint64(d.table.allowed) {
		return malformed("table-size update above SETTINGS_HEADER_TABLE_SIZE")
	}
	d.table.set, d.table.mustShrink = uint32(size), false
	d.generation++
	return nil
}

// beginDrop begins to drop the field f.
func (d *decoder) beginDrop(f *fieldSpan) {
	d.dropped = droppedField{phase: dropRest, enter: f.kind == incremental, left: f.end}
	if f.part != partEnd {
		d.dropped.phase = dropName
	}
	d.size += f.strings + fieldOverhead
}

// drop skips the bytes of the field that is dropped, and returns what follows it. If the field does
// not end in p, it returns the bytes that must be passed again.
func (d *decoder) drop(p []byte) (rest []byte, err error) {
	f := &d.dropped
	if p, err = d.skip(p); err != nil || f.left > 0 {
		return p, err
	}
	if f.phase == dropName {
		length, n := readInt(p, 7)
		switch {
		case n == 0:
			return p, nil
		case n < 0:
			return nil, malformed(valueCutShort)
		}
		f.phase, f.left = dropRest, int64(length)
		d.size += f.left
		if p, err = d.skip(p[n:]); err != nil || f.left > 0 {
			return p, err
		}
	}
	if f.enter {
		// RFC 7541 §4.4: an entry that is larger than the table empties it.
		d.hpack.evict(0)
	}
	f.phase = dropNothing
	return p, nil
}

// skip skips what p has of the bytes that are left of the dropped field's phase.
func (d *decoder) skip(p []byte) (rest []byte, err error) {
	n := min(d.dropped.left, int64(len(p)))
	d.dropped.left -= n
	if d.cost += n; d.cost > d.hardLimit() {
		return nil, d.tooLarge()
	}
	return p[n:], nil
}
