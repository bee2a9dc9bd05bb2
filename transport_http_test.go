package hyper

import (
	"fmt"
	"slices"
	"strings"
	"testing"
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
