package fieldblock

// A kind is the kind of an instruction in a block: its first bits (RFC 7541 §6).
type kind byte

const (
	indexed     kind = 0x80 // §6.1, 7-bit index
	incremental kind = 0x40 // §6.2.1, 6-bit index
	sizeUpdate  kind = 0x20 // §6.3, 5-bit size
	notIndexed  kind = 0    // §6.2.2 and §6.2.3, 4-bit index

	staticFields = 61 // appendix A
)

// kindOf returns the kind of the instruction that begins with b, and the bits of its first integer.
func kindOf(b byte) (k kind, prefix byte) {
	switch {
	case b&0x80 != 0:
		return indexed, 7
	case b&0xc0 == 0x40:
		return incremental, 6
	case b&0xe0 == 0x20:
		return sizeUpdate, 5
	}
	return notIndexed, 4
}

// A fieldSpan is the extent of a field or of a table-size update in a block, as far as the bytes at
// hand show it.
type fieldSpan struct {
	kind    kind
	part    part   // the part that goes on after the bytes at hand; partEnd: the field's end is known
	end     int64  // of the field if it is known, else of the name or of what comes before
	strings int64  // the length of its strings, as sent
	longest int64  // the length of the longest one
	number  uint64 // its index, or the size of a table-size update
}

// A part is a part of a field.
type part uint8

const (
	partNumber part = iota // the index, or the size of a table-size update
	partName
	partValue
	partEnd // none: the field's end is known
)

// The faults of blocks that are malformed or end too early.
const (
	badIndex      = "bad index in a field block"
	badSize       = "bad table-size update"
	nameCutShort  = "field name cut short"
	valueCutShort = "field value cut short"
)

// parseField parses the beginning of a field. fault says why it is malformed, and is "" if it is
// not, or if that is not known yet.
func parseField(p []byte) (f fieldSpan, fault string) {
	var prefix byte
	f.kind, prefix = kindOf(p[0])
	number, n := readInt(p, prefix)
	switch {
	case n < 0 || n > 0 && number == 0 && f.kind == indexed:
		return f, f.cutShort()
	case n == 0:
		return f, ""
	}
	f.number, f.end = number, int64(n)
	switch {
	case f.kind == indexed || f.kind == sizeUpdate:
		f.part = partEnd
		return f, ""
	case number == 0:
		f.part = partName
	default:
		f.part = partValue
	}
	for ; f.part != partEnd; f.part++ {
		length, n := readInt(p[f.end:], 7)
		if n < 0 {
			return f, f.cutShort()
		}
		if n == 0 {
			break
		}
		f.end += int64(n) + int64(length)
		f.strings += int64(length)
		f.longest = max(f.longest, int64(length))
		if f.part == partName && f.end > int64(len(p)) {
			break
		}
	}
	return f, ""
}

// isWhole reports whether the field ends within n bytes.
func (f *fieldSpan) isWhole(n int) bool { return f.part == partEnd && f.end <= int64(n) }

// cutShort returns the fault of a field that does not go on after the bytes that were parsed.
func (f *fieldSpan) cutShort() string {
	switch {
	case f.part >= partValue:
		return valueCutShort
	case f.part == partName:
		return nameCutShort
	case f.kind == sizeUpdate:
		return badSize
	}
	return badIndex
}

// readInt reads an integer with a prefix of that many bits (RFC 7541 §5.1). n is the number of its
// bytes. It is 0 if p ends within the integer, and negative if the integer is malformed: if more
// than five bytes follow the prefix or the value exceeds 32 bits. No size and no index is that
// large.
func readInt(p []byte, prefix byte) (v uint64, n int) {
	if len(p) == 0 {
		return 0, 0
	}
	mask := byte(1)<<prefix - 1
	v = uint64(p[0] & mask)
	if v < uint64(mask) {
		return v, 1
	}
	for i := 1; i <= 5; i++ {
		if i == len(p) {
			return 0, 0
		}
		v += uint64(p[i]&0x7f) << (7 * (i - 1))
		if p[i]&0x80 != 0 {
			continue
		}
		if v >= 1<<32 {
			return 0, -1
		}
		return v, i + 1
	}
	return 0, -1
}
