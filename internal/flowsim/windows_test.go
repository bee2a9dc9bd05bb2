package flowsim

import (
	"encoding/json"
	"flag"
	"os"
	"slices"
	"testing"
)

// windowsFile is the flag of TestWindowPaths.
var windowsFile = flag.String("windows", "", "write the windows of downloads over time to this file")

// Each download ends without an error. Where net/http's window does not fill the path, the data in
// flight is as much as the window, and hyper's default is faster. Where the window is more than
// what fills the path, the bytes wait, and they wait less under the default.
func TestWindowPaths(t *testing.T) {
	if raced {
		t.Skip("takes long with the race detector")
	}
	paths, err := windowPaths(t)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		for _, r := range p.Runs {
			t.Logf("%s, %s: %.0f Mbit/s, %.1f ms at the bottleneck, at most %d KiB in flight", p.Name,
				r.Manager, r.Mbit, r.Wait, slices.Max(r.InFlight)>>10)
		}
	}
	long, short := paths[0].Runs, paths[1].Runs
	adaptive, fixed := 0, 1
	if most := slices.Max(long[fixed].InFlight); most < netHTTPStream*9/10 || most > netHTTPStream*11/10 {
		t.Errorf("%d bytes in flight, want about the window of net/http", most)
	}
	if long[adaptive].Mbit < 2*long[fixed].Mbit {
		t.Errorf("%.0f Mbit/s under AdaptiveWindow, %.0f under net/http's", long[adaptive].Mbit,
			long[fixed].Mbit)
	}
	if short[adaptive].Wait > short[fixed].Wait/4 {
		t.Errorf("a byte waits %.1f ms under AdaptiveWindow, %.1f under net/http's", short[adaptive].Wait,
			short[fixed].Wait)
	}
	if *windowsFile != "" {
		text, err := json.Marshal(paths)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(*windowsFile, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
