package fieldblock

import (
	"unsafe"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/syntax"
)

// A Head is what the fields of a section say if it is a response's header or its trailers.
type Head struct {
	Status    uint16 // 100 to 999; 0: Malformed says why there is none
	BadLength bool   // content-length is not one decimal number
	TE        bool   // the section has the field te, which only a request may have

	// Malformed says why the section is not a valid header of a response; "" if it is valid.
	Malformed string

	// BadField says what is malformed about the fields after the leading pseudo-header fields; ""
	// if nothing is. It applies to a section of any kind.
	BadField string

	Length int64 // content-length in bytes; -1: unknown
}

// minStatus is the smallest status code (RFC 9110 §15). Three digits have no code above 999.
const minStatus = 100

// teInResponse is the fault of the field te in a response. RFC 9113 §8.2.2 allows it only in a
// request.
const teInResponse = "the field te, which is a request's"

// parseHead checks the fields of a section. repeats says that many of them are equal, so that each
// distinct one should be checked once.
func parseHead[F Field](fields []F, repeats bool) (h Head) {
	h.BadField, h.TE = fieldFault(fields, repeats), hasTE(fields)
	h.Status, h.Malformed = status(fields)
	if h.Malformed == "" {
		h.Malformed = h.BadField
	}
	if h.Malformed == "" && h.TE {
		h.Malformed = teInResponse
	}
	h.Length, h.BadLength = contentLength(fields)
	return h
}

// TrailersFault returns why fields, which say h, are not valid trailers of a response, or "".
func TrailersFault[F Field](fields []F, h *Head) string {
	if len(fields) > 0 {
		if f := hpack.HeaderField(fields[0]); syntax.IsPseudo(f.Name) {
			return "the pseudo-header field " + syntax.Printable(f.Name) + " in trailers"
		}
	}
	if h.BadField == "" && h.TE {
		return teInResponse
	}
	return h.BadField
}

// fieldFault returns what is malformed about the fields after the leading pseudo-header fields, or
// "" if nothing is.
func fieldFault[F Field](fields []F, repeats bool) string {
	for len(fields) > 0 && syntax.IsPseudo(hpack.HeaderField(fields[0]).Name) {
		fields = fields[1:]
	}
	var seen seenFields
	if repeats {
		seen = make(seenFields)
	}
	for i := range fields {
		f := hpack.HeaderField(fields[i])
		if seen.has(&f) {
			continue
		}
		if syntax.IsPseudo(f.Name) {
			return "the pseudo-header field " + syntax.Printable(f.Name) + " after a regular field"
		}
		if fault := syntax.FieldFault(f.Name, f.Value); fault != "" {
			return fault
		}
	}
	return ""
}

// seenFields is the set of fields of a section that were checked already. Fields are identified by
// the addresses of their name and value: repeated references to one entry of the compression table
// share its memory. A nil seenFields remembers nothing.
type seenFields map[fieldPlace]struct{}

// A fieldPlace is the location of a field's name and value in memory.
type fieldPlace struct {
	name, value       *byte
	nameLen, valueLen int
}

// has reports whether f is in the set, and adds it.
func (s seenFields) has(f *hpack.HeaderField) bool {
	if s == nil {
		return false
	}
	place := fieldPlace{unsafe.StringData(f.Name), unsafe.StringData(f.Value), len(f.Name), len(f.Value)}
	if _, ok := s[place]; ok {
		return true
	}
	s[place] = struct{}{}
	return false
}

// hasTE reports whether fields has the field te.
func hasTE[F Field](fields []F) bool {
	for i := range fields {
		if hpack.HeaderField(fields[i]).Name == "te" {
			return true
		}
	}
	return false
}

// status checks the beginning of a response (RFC 9113 §8.3.2): it must have :status and no other
// pseudo-header field.
func status[F Field](fields []F) (code uint16, fault string) {
	if len(fields) == 0 || hpack.HeaderField(fields[0]).Name != ":status" {
		return 0, "no :status at the beginning of a response"
	}
	v := hpack.HeaderField(fields[0]).Value
	if len(v) != 3 {
		return 0, "a :status that is not three digits"
	}
	for i := range 3 {
		if v[i] < '0' || v[i] > '9' {
			return 0, "a :status that is not three digits"
		}
		code = code*10 + uint16(v[i]-'0')
	}
	if code < minStatus {
		return 0, "a :status below 100"
	}
	if len(fields) > 1 {
		if name := hpack.HeaderField(fields[1]).Name; syntax.IsPseudo(name) {
			return 0, "the pseudo-header field " + syntax.Printable(name) + " after :status"
		}
	}
	return code, ""
}

// contentLength returns the declared length, or -1 if there is none. It accepts only a single field
// in canonical form. A value that can be read in two ways is malformed (RFC 9110 §8.6).
func contentLength[F Field](fields []F) (length int64, bad bool) {
	length = -1
	for i := range fields {
		f := hpack.HeaderField(fields[i])
		if f.Name != "content-length" {
			continue
		}
		n, ok := syntax.ParseLength(f.Value)
		if !ok || length >= 0 {
			return 0, true
		}
		length = n
	}
	return length, false
}
