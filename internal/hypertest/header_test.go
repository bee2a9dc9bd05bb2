// This file tests the methods of Header.

package hypertest

import (
	"maps"
	"net/http"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/syntax"
)

func TestHeaderNamesAreComparedWithoutRegardToCase(t *testing.T) {
	h := hyper.Header{{Name: "X-First", Value: "1"}, {Name: "accept", Value: "a"},
		{Name: "x-FIRST", Value: "2"}}
	for _, name := range []string{"x-first", "X-First", "X-FIRST"} {
		if got := h.Get(name); got != "1" {
			t.Errorf("Get(%q) = %q", name, got)
		}
		if got := slices.Collect(h.Values(name)); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("Values(%q) = %q", name, got)
		}
		if !h.Has(name) {
			t.Errorf("Has(%q) is false", name)
		}
	}
	for _, name := range []string{"", "x-firs", "x-first ", "x_first", "x\rfirst"} {
		if h.Has(name) || h.Get(name) != "" || slices.Collect(h.Values(name)) != nil {
			t.Errorf("%q is there", name)
		}
	}
}

// Only ASCII letters have a case in field names (RFC 9110 §5.1). The Kelvin sign is not a k, and a
// dotted capital I is not an i.
func TestHeaderCaseIsThatOfASCII(t *testing.T) {
	for _, s := range []string{"X-\u212aey", "X-\u0130d", "X-\u00c4"} {
		if got, want := syntax.Lower(s), "x"+s[1:]; got != want {
			t.Errorf("lower(%q) = %q", s, got)
		}
	}
	h := hyper.Header{{Name: "x-\u212aey", Value: "1"}}
	if h.Has("x-key") {
		t.Error("the Kelvin sign passes for a k")
	}
	if syntax.EqualFold("@[`{", "`{@[") {
		t.Error("characters beside the letters have a case")
	}
}

func TestHeaderKeepsOrderAndDuplicates(t *testing.T) {
	var h hyper.Header
	for _, f := range []string{"b 1", "a 2", "b 3", "B 4"} {
		name, value, _ := strings.Cut(f, " ")
		h.Add(name, value)
	}
	var got []string
	for name, value := range h.All() {
		got = append(got, name+" "+value)
	}
	if want := []string{"b 1", "a 2", "b 3", "B 4"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestHeaderIteratorsStopWhenYieldReturnsFalse(t *testing.T) {
	h := hyper.Header{{Name: "a", Value: "1"}, {Name: "a", Value: "2"}}
	seen := 0
	for range h.All() {
		seen++
		break
	}
	for range h.Values("a") {
		seen++
		break
	}
	if seen != 2 {
		t.Errorf("%d values seen, want 2", seen)
	}
}

func TestHeaderSetAndDel(t *testing.T) {
	full := hyper.Header{{Name: "a", Value: "1"}, {Name: "B", Value: "2"},
		{Name: "a", Value: "3", Sensitive: true},
		{Name: "c", Value: "4"}}
	tests := []struct {
		reason string
		change func(*hyper.Header)
		want   hyper.Header
	}{
		{"Set takes the first's place and name", func(h *hyper.Header) { h.Set("A", "x") },
			hyper.Header{{Name: "a", Value: "x"}, {Name: "B", Value: "2"}, {Name: "c", Value: "4"}}},
		{"Set appends what is new", func(h *hyper.Header) { h.Set("d", "x") },
			append(full.Clone(), hyper.Field{Name: "d", Value: "x"})},
		{"Del takes all of a name", func(h *hyper.Header) { h.Del("A") },
			hyper.Header{{Name: "B", Value: "2"}, {Name: "c", Value: "4"}}},
		{"Del of nothing", func(h *hyper.Header) { h.Del("d") }, full},
		{"AddSensitive", func(h *hyper.Header) { h.Del("a"); h.AddSensitive("k", "v") },
			hyper.Header{{Name: "B", Value: "2"}, {Name: "c", Value: "4"},
				{Name: "k", Value: "v", Sensitive: true}}},
	}
	for _, test := range tests {
		h := full.Clone()
		test.change(&h)
		if !slices.Equal(h, test.want) {
			t.Errorf("%s: %v, want %v", test.reason, h, test.want)
		}
	}
}

// Removed fields must not stay reachable in the slice's spare capacity: they may be credentials.
func TestHeaderForgetsWhatIsRemoved(t *testing.T) {
	h := hyper.Header{{Name: "a", Value: "1"}, {Name: "a", Value: "secret"}, {Name: "a", Value: "secret"}}
	all := h
	h.Set("a", "2")
	h.Del("a")
	for _, f := range all {
		if f != (hyper.Field{}) {
			t.Errorf("%v is still there", f)
		}
	}
}

func TestZeroHeaderIsReady(t *testing.T) {
	var h hyper.Header
	h.Del("a")
	if h.Get("a") != "" || h.Has("a") || h.Clone() != nil || len(h.HTTP()) != 0 {
		t.Error("the zero header has something")
	}
	h.Set("a", "1")
	if h.Get("A") != "1" {
		t.Error("Set does not work on the zero header")
	}
}

func TestHeaderCloneSharesNothing(t *testing.T) {
	h := make(hyper.Header, 1, 4)
	h[0] = hyper.Field{Name: "a", Value: "1"}
	clone := h.Clone()
	clone.Set("a", "2")
	clone.Add("b", "3")
	h.Add("c", "4")
	if h.Get("a") != "1" || clone.Get("b") != "3" || clone.Has("c") || h.Has("b") {
		t.Errorf("%v and %v share memory", h, clone)
	}
}

// RFC 9113 §8.2.3: the parts of Cookie MUST be concatenated with "; " before they enter a
// non-HTTP/2 context.
func TestHeaderToHTTP(t *testing.T) {
	h := hyper.Header{
		{Name: ":status", Value: "200"},
		{Name: "set-cookie", Value: "a=1"}, {Name: "x", Value: "1"}, {Name: "Set-Cookie", Value: "b=2"},
		{Name: "cookie", Value: "c=3"}, {Name: "cookie", Value: "d=4"}, {Name: "cookie", Value: "e=5"},
		{Name: "content-type", Value: "text/plain"},
	}
	want := http.Header{
		"Set-Cookie": {"a=1", "b=2"}, "X": {"1"}, "Cookie": {"c=3; d=4; e=5"}, "Content-Type": {"text/plain"},
	}
	if got := h.HTTP(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestHeaderFromHTTPIsSortedAndInLowerCase(t *testing.T) {
	src := http.Header{"X-B": {"1", "2"}, "Accept": {"a"}, "Cookie": {"c=3; d=4"}, "Empty": {}, "Nil": nil}
	want := hyper.Header{
		{Name: "accept", Value: "a"}, {Name: "cookie", Value: "c=3; d=4"}, {Name: "x-b", Value: "1"},
		{Name: "x-b", Value: "2"},
	}
	if got := hyper.HeaderFromHTTP(src); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestHeaderSurvivesTheWayThroughHTTP(t *testing.T) {
	src := http.Header{"A": {"1", "2"}, "Cookie": {"c=3; d=4"}, "Set-Cookie": {"x=1", "y=2"}}
	before := maps.Clone(src)
	if got := hyper.HeaderFromHTTP(src).HTTP(); !reflect.DeepEqual(got, before) {
		t.Errorf("got %v, want %v", got, before)
	}
}

// A peer can add a cookie field with one byte. Joining many must not copy all earlier ones for
// each.
func TestManyCookiesAreJoinedInLinearMemory(t *testing.T) {
	if h2test.Race {
		t.Skip("the race detector allocates, too")
	}
	joined := func(n int) (h hyper.Header, octets uint64) {
		for range n {
			h.Add("cookie", strings.Repeat("x", 30))
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got := h.HTTP()["Cookie"]
		runtime.ReadMemStats(&after)
		if len(got) != 1 || len(got[0]) != n*32-2 {
			t.Fatalf("%d cookies became %d values, the first of %d octets", n, len(got), len(got[0]))
		}
		return h, after.TotalAlloc - before.TotalAlloc
	}
	_, few := joined(500)
	h, many := joined(8 * 500)
	if most := max(16*few, 1<<20); many > most {
		t.Errorf("%d cookies took %d octets, %d took %d", len(h), many, 500, few)
	}
}
