package fieldblock

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// A section that repeats a table entry many times has that entry checked only once.
func TestRepeatedFieldIsJudgedOnce(t *testing.T) {
	r := newReader(Config{})
	if err := r.Decode(referenceBlock("x", strings.Repeat("v", 3000), 60)); err != nil {
		t.Fatal(err)
	}
	again := bytes.Repeat([]byte{firstEntry}, 60)
	if err := r.Decode(again); err != nil {
		t.Fatal(err)
	}
	if !r.repeats() {
		t.Errorf("%d bytes of a list in a block of %d are many", r.size, len(again))
	}
	seen := make(seenFields)
	judged := 0
	for i := range r.fields {
		f := hpack.HeaderField(r.fields[i])
		if !seen.has(&f) {
			judged++
		}
	}
	if judged != 1 {
		t.Errorf("%d fields were judged, want 1 of %d", judged, len(r.fields))
	}
	other := hpack.HeaderField{Name: "x", Value: strings.Clone(r.fields[0].Value)}
	if seen.has(&other) {
		t.Error("another value of the same text counts as judged")
	}
}

func TestMalformedFieldAmongRepeatedOnesIsFound(t *testing.T) {
	long := field{Name: "x", Value: strings.Repeat("v", 3000)}
	fields := []field{{Name: ":status", Value: "200"}, long, long, {Name: "y", Value: "\x00"}, long}
	for _, repeats := range []bool{false, true} {
		if head := parseHead(fields, repeats); head.Malformed == "" || head.BadField == "" {
			t.Errorf("repeats=%v: %+v", repeats, head)
		}
	}
}

// fieldsOf returns a list of fields from names and values.
func fieldsOf(texts ...string) (fields []field) {
	for i := 0; i < len(texts); i += 2 {
		fields = append(fields, field{Name: texts[i], Value: texts[i+1]})
	}
	return fields
}

// RFC 9113 §8.2, §8.3.2: what the header of a response may be.
func TestHeadOfAResponse(t *testing.T) {
	for _, c := range []struct {
		reason string
		fields []field
		want   Head
	}{
		{"a status", fieldsOf(":status", "200"), Head{Status: 200, Length: -1}},
		{"the smallest", fieldsOf(":status", "100"), Head{Status: 100, Length: -1}},
		{"the largest", fieldsOf(":status", "999"), Head{Status: 999, Length: -1}},
		{"a length", fieldsOf(":status", "200", "a", "b", "content-length", "12"),
			Head{Status: 200, Length: 12}},
		{"no length", fieldsOf(":status", "200", "content-length", "+1"),
			Head{Status: 200, BadLength: true}},
		{"two lengths", fieldsOf(":status", "200", "content-length", "1", "content-length", "1"),
			Head{Status: 200, BadLength: true}},
		{"nothing", nil, Head{Length: -1, Malformed: "no :status at the beginning of a response"}},
		{"no status", fieldsOf("a", "b"),
			Head{Length: -1, Malformed: "no :status at the beginning of a response"}},
		{"four digits", fieldsOf(":status", "2000"),
			Head{Length: -1, Malformed: "a :status that is not three digits"}},
		{"not digits", fieldsOf(":status", "2x0"),
			Head{Length: -1, Malformed: "a :status that is not three digits"}},
		{"below 100", fieldsOf(":status", "099"), Head{Length: -1, Malformed: "a :status below 100"}},
		{"another pseudo-header field", fieldsOf(":status", "200", ":path", "/"),
			Head{Length: -1, Malformed: "the pseudo-header field :path after :status"}},
		{"one after a regular field", fieldsOf(":status", "200", "a", "b", ":path", "/"),
			Head{Status: 200, Length: -1, Malformed: "the pseudo-header field :path after a regular field",
				BadField: "the pseudo-header field :path after a regular field"}},
		{"upper case", fieldsOf(":status", "200", "A", "b"),
			Head{Status: 200, Length: -1, Malformed: "the field name A", BadField: "the field name A"}},
		{"te", fieldsOf(":status", "200", "te", "trailers"),
			Head{Status: 200, TE: true, Length: -1, Malformed: teInResponse}},
	} {
		if got := parseHead(c.fields, false); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.reason, got, c.want)
		}
	}
}

// RFC 9113 §8.1: trailers have no pseudo-header fields.
func TestTrailersFault(t *testing.T) {
	for _, c := range []struct {
		fields []field
		want   string
	}{
		{nil, ""},
		{fieldsOf("a", "b"), ""},
		{fieldsOf(":status", "200"), "the pseudo-header field :status in trailers"},
		{fieldsOf("A", "b", "te", "trailers"), "the field name A"},
		{fieldsOf("a", "b", "te", "trailers"), teInResponse},
	} {
		head := parseHead(c.fields, false)
		if got := TrailersFault(c.fields, &head); got != c.want {
			t.Errorf("%v: %q, want %q", c.fields, got, c.want)
		}
	}
}
