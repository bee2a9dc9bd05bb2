package hyper

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

func TestOnlyTheFirstTrailersOfManyAreAnnounced(t *testing.T) {
	names := make([]string, 2000)
	for i := range names {
		names[i] = fmt.Sprintf("x-%d", i)
	}
	lists := []string{strings.Join(names[:50], ", "), strings.Join(names[50:], ",")}
	if got := announcedTrailer(lists); len(got) != maxAnnounced {
		t.Errorf("%d trailers are announced, want %d", len(got), maxAnnounced)
	}
	if got := announcedTrailer([]string{strings.Repeat(",", 2000) + "x-late"}); len(got) != 0 {
		t.Errorf("empty elements are free: %v", got)
	}
	if got := announcedTrailer([]string{" x-a ,, Content-Length", "x-b"}); len(got) != 2 ||
		!slices.Equal(sortedKeys(got), []string{"X-A", "X-B"}) {
		t.Errorf("announced: %v", got)
	}
}

// The cache of host names holds a bounded number of them, and none that is long.
func TestRememberedNamesAreBounded(t *testing.T) {
	var c nameCache
	for i := range 3 * maxNames {
		host := fmt.Sprintf("bücher%d.example", i)
		c.put(host, "ascii")
		if n := len(c.names); n != i%maxNames+1 || c.get(host) != "ascii" {
			t.Fatalf("after %d names %d are kept; the last one is %q", i+1, n, c.get(host))
		}
	}
	long := strings.Repeat("ü", maxNameSize/2)
	if c.put(long, "ascii"); c.get(long) != "" {
		t.Error("a long name is kept")
	}
}

// The cache of field names converts as it would without one, holds a bounded number of names, and
// none that is long. It keeps no more of the peer's memory than the name.
func TestFieldNamesAreCachedWithinBounds(t *testing.T) {
	c := fieldNameCache{convert: http.CanonicalHeaderKey}
	random := rand.New(rand.NewPCG(1, 2))
	var names []string
	for i := range 3 * cachedNames {
		name := fmt.Sprintf("x-%d", i)
		if i%7 == 0 {
			name = strings.Repeat("y-", random.IntN(maxCachedName))
		}
		names = append(names, name)
	}
	for range 10 * len(names) {
		name := names[random.IntN(len(names))]
		if got, want := c.get(name), http.CanonicalHeaderKey(name); got != want {
			t.Fatalf("%q is converted to %q, want %q", name, got, want)
		}
	}
	for i := range c.names {
		if known := c.names[i].Load(); known != nil && len(known.from) > maxCachedName {
			t.Errorf("%q is kept", known.from)
		}
	}
	large := strings.Repeat("z", 1<<20)
	if name := large[:10]; unsafe.StringData(c.get(name)) == unsafe.StringData(large) {
		t.Error("the name keeps the memory of a larger string")
	}
	if n := testing.AllocsPerRun(100, func() { c.get("x-1"); c.get("x-1") }); n > 0 {
		t.Errorf("%v allocations for a name that is cached", n)
	}
}

func TestFieldsAreSortedByName(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 1000 {
		var h Header
		for i := range random.IntN(80) {
			h.Add(fmt.Sprintf("x-%d", random.IntN(30)), fmt.Sprint(i))
		}
		want := slices.Clone(h)
		slices.SortStableFunc(want, func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
		if h.sort(); !slices.Equal(h, want) {
			t.Fatalf("%v, want %v", h, want)
		}
	}
}
