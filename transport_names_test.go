package hyper

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// Each common name has a place of its own in both tables, and no other name is found there.
func TestCommonNamesAreInTheTables(t *testing.T) {
	for _, name := range commonNames {
		key := http.CanonicalHeaderKey(name)
		if wireNames.get(key) != name || canonicalNames.get(name) != key {
			t.Errorf("%s: %q, %q", name, wireNames.get(key), canonicalNames.get(name))
		}
		if other := name + "x"; canonicalNames.get(other) != "" || wireNames.get(other) != "" {
			t.Errorf("%s is found", other)
		}
	}
	if canonicalNames.get("") != "" || canonicalName("") != "" || wireName("") != "" {
		t.Error("the empty name is converted")
	}
}

// fieldsOf is requestFields for a request with these fields.
func fieldsOf(h http.Header) Header { return requestFields(&http.Request{Header: h}) }

// A header has the same fields in the same order whether its names are known or not.
func TestKnownOrderChangesNothing(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	keys := []string{"Te", "te", "Host", "Content-Length", "User-Agent", "Connection", "Trailer",
		"Cookie", "X-", "", "Priority", strings.Repeat("Long-", maxCachedName)}
	for i := range 60 {
		keys = append(keys, fmt.Sprintf("X-%d", i), fmt.Sprintf("x-%d", i))
	}
	values := []string{"", " a ", "trailers", "gzip, trailers", "b\t", "c", "d e"}
	for range 2000 {
		h := make(http.Header)
		for range random.IntN(30) {
			var some []string
			for range random.IntN(3) {
				some = append(some, values[random.IntN(len(values))])
			}
			h[keys[random.IntN(len(keys))]] = some
		}
		for i := range fieldOrders {
			fieldOrders[i].order.Store(nil)
			fieldOrders[i].missed.Store(0)
		}
		first := fieldsOf(h)
		for range 3 {
			if got := fieldsOf(h); !sameFields(got, first) {
				t.Fatalf("%v:\n%v, and before\n%v", h, got, first)
			}
		}
		if !slices.IsSortedFunc(first, func(a, b Field) int { return strings.Compare(a.Name, b.Name) }) {
			t.Fatalf("not sorted: %v", first)
		}
	}
}

// sameFields reports whether a and b are equal. The keys "X-1" and "x-1" of a map are one name, and
// their values have any order.
func sameFields(a, b Header) bool {
	count := func(h Header) map[Field]int {
		n := map[Field]int{}
		for _, f := range h {
			n[f]++
		}
		return n
	}
	names := func(h Header) (names []string) {
		for _, f := range h {
			names = append(names, f.Name)
		}
		return names
	}
	return maps.Equal(count(a), count(b)) && slices.Equal(names(a), names(b))
}

// The cache of orders is bounded, and keeps no more of the user's memory than the names. Headers
// that always have other names seldom cost it more.
func TestFieldOrdersAreBounded(t *testing.T) {
	var c fieldOrderCache
	header := func(n int, name string) http.Header {
		h := make(http.Header)
		for i := range n {
			h[fmt.Sprintf("%s%d", name, i)] = []string{"v"}
		}
		return h
	}
	c.keep(header(maxOrdered+1, "X-"))
	c.keep(header(3, strings.Repeat("X", maxCachedName)))
	c.keep(http.Header{})
	for i := range c {
		if c[i].order.Load() != nil {
			t.Errorf("an order is kept at %d", i)
		}
	}
	c = fieldOrderCache{}
	kept := 0
	for i := range 40 {
		h := header(5, fmt.Sprintf("Y-%d-", i))
		c.keep(h)
		if _, ok := c.fields(nil, h); ok {
			kept++
		}
	}
	if kept != 10 {
		t.Errorf("%d orders of 40 were kept, want 10", kept)
	}
	large := strings.Repeat("Z", 1<<20)
	c = fieldOrderCache{}
	c.keep(http.Header{large[:10]: {"v"}})
	known := (*c[1].order.Load())[0]
	for _, s := range []string{known.key, known.name} {
		if unsafe.StringData(s) == unsafe.StringData(large) {
			t.Error("the name keeps the memory of a larger string")
		}
	}
	if _, ok := c.fields(nil, http.Header{"Other": {"v"}}); ok {
		t.Error("other names are found")
	}
}
