package hyper

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/wire"
)

// referenceBlock returns a field block that puts one field into the compression table and then
// refers to it n times, with one byte each.
func referenceBlock(name, value string, n int) []byte {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	enc.WriteField(hpack.HeaderField{Name: name, Value: value})
	for range n {
		block.WriteByte(indexed | (staticFields + 1))
	}
	return block.Bytes()
}

// countFields counts the fields that r's decoder returns, and the bytes of those values that may be
// kept or searched for blanks.
func countFields(r *frameReader) (fields, octets *int64) {
	fields, octets = new(int64), new(int64)
	r.dec.SetEmitFunc(func(f hpack.HeaderField) {
		*fields++
		r.addField(f)
		if r.listSize <= r.limit {
			*octets += int64(len(f.Value))
		}
	})
	return fields, octets
}

// One byte of a block can refer to a field of 4 KiB. The limit of a list bounds what this costs,
// with and without TrimFieldValues.
func TestReferencesToBlanksAreCountedAsSent(t *testing.T) {
	for _, trim := range []bool{false, true} {
		t.Run(fmt.Sprintf("trim=%v", trim), func(t *testing.T) {
			const limit = 256 << 10
			block := referenceBlock("x", strings.Repeat(" ", 4000), 8*limit)
			r := testReader(t, bytes.NewReader(headersFrame(block)),
				&Config{TrimFieldValues: trim, MaxFrameSize: 4 << 20, MaxHeaderListSize: limit})
			fields, octets := countFields(r)
			_, err := r.next()
			wantWireError(t, "a list of 8 GB", err, wire.EnhanceYourCalm)
			if *fields > minHardLimit/(fieldOverhead+1)+2*decodeStep {
				t.Errorf("%d fields were decoded of %d: the block goes on behind the hard limit", *fields,
					len(block))
			}
			if *octets > limit {
				t.Errorf("%d octets were looked at, more than the limit of the list", *octets)
			}
		})
	}
}

// A list between the limit and the hard limit ends its stream. It is decoded to its end, so that
// the compression state stays correct.
func TestTrimmedListAboveTheLimitEndsItsStreamOnly(t *testing.T) {
	block := referenceBlock("x", strings.Repeat("\t", 4000), 90)
	again := []byte{indexed | 8, indexed | (staticFields + 1)} // :status: 200, and the field
	r := testReader(t, bytes.NewReader(append(headersFrame(block), headersFrame(again)...)),
		&Config{TrimFieldValues: true, MaxHeaderListSize: 256 << 10})
	f, err := r.next()
	if err != nil || f.oversize != 42+91*4033 {
		t.Errorf("oversize %d, %v", f.oversize, err)
	}
	f, err = r.next()
	if err != nil || f.oversize != 0 || fieldLines(f.fields) != ":status: 200\nx: \n" {
		t.Errorf("%q, oversize %d, %v", fieldLines(f.fields), f.oversize, err)
	}
}

// A list that is decoded in parts is the same as one that is decoded at once.
func TestLongBlockIsDecodedInParts(t *testing.T) {
	var block bytes.Buffer
	var want strings.Builder
	enc := hpack.NewEncoder(&block)
	enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	want.WriteString(":status: 200\n")
	for i := range 300 {
		name, value := fmt.Sprintf("x-%d", i%7), strings.Repeat("v", 13*i%700)
		enc.WriteField(hpack.HeaderField{Name: name, Value: value})
		fmt.Fprintf(&want, "%s: %s\n", name, value)
	}
	if block.Len() < 20*decodeStep {
		t.Fatalf("the block has only %d octets", block.Len())
	}
	r := testReader(t, bytes.NewReader(headersFrame(block.Bytes())), nil)
	f, err := r.next()
	if got := fieldLines(f.fields); err != nil || got != want.String() {
		t.Errorf("%v, %d octets of fields, want %d", err, len(got), want.Len())
	}
}

// A list of 524,565 references to a field of 4 KiB is larger than 2^31 bytes, which an int cannot
// hold on a 32-bit platform.
func TestListSizeIsCountedIn64Bits(t *testing.T) {
	const references = 524_565
	// A field counts 4,096, with its name and the overhead of 32.
	block := referenceBlock("x", strings.Repeat("v", 4063), references)
	octets := headersFrame(block)

	r := testReader(t, bytes.NewReader(octets), &Config{MaxFrameSize: 1 << 20,
		MaxHeaderListSize: math.MaxInt32})
	f, err := r.next()
	if want := int64(42 + (references+1)*4096); err != nil || f.oversize != want || want <= math.MaxInt32 {
		t.Errorf("the size is %d, %v, want %d", f.oversize, err, want)
	}
}

// Twice the largest limit does not fit into 32 bits.
func TestLargestListLimitAdmitsContinuations(t *testing.T) {
	block := referenceBlock("x", "v", 10)
	octets := append(rawFrame(wire.Headers, 0, 1, block[:5]),
		rawFrame(wire.Continuation, wire.EndHeaders, 1, block[5:])...)
	r := testReader(t, bytes.NewReader(octets), &Config{MaxHeaderListSize: math.MaxInt32})
	if f, err := r.next(); err != nil || len(f.fields) != 12 || f.oversize != 0 {
		t.Errorf("%d fields, %v", len(f.fields), err)
	}
}

// A section that repeats a table entry many times has that entry checked only once.
func TestRepeatedFieldIsJudgedOnce(t *testing.T) {
	block := referenceBlock("x", strings.Repeat("v", 3000), 60)
	r := testReader(t, bytes.NewReader(headersFrame(block)), nil)
	if _, err := r.next(); err != nil {
		t.Fatal(err)
	}
	again := bytes.Repeat([]byte{indexed | (staticFields + 1)}, 60)
	if err := r.decode(again); err != nil {
		t.Fatal(err)
	}
	if !r.repeats() {
		t.Errorf("%d octets of a list in a block of %d are many", r.listSize, len(again))
	}
	seen := make(seenFields)
	judged := 0
	for i := range r.fields {
		if !seen.has(&r.fields[i]) {
			judged++
		}
	}
	if judged != 1 {
		t.Errorf("%d fields were judged, want 1 of %d", judged, len(r.fields))
	}
	other := Field{Name: "x", Value: strings.Clone(r.fields[0].Value)}
	if seen.has(&other) {
		t.Error("another value of the same text counts as judged")
	}
}

func TestMalformedFieldAmongRepeatedOnesIsFound(t *testing.T) {
	long := Field{Name: "x", Value: strings.Repeat("v", 3000)}
	fields := []Field{{Name: ":status", Value: "200"}, long, long, {Name: "y", Value: "\x00"}, long}
	for _, repeats := range []bool{false, true} {
		if head := parseHead(fields, repeats); head.malformed == "" || head.badField == "" {
			t.Errorf("repeats=%v: %+v", repeats, head)
		}
	}
}
