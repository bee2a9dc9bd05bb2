package hyper

import (
	"fmt"
	"strings"
	"testing"
)

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
