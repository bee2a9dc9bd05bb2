package interop

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain switches on extended CONNECT in net/http, as this process is one of the servers.
// net/http reads the setting only when the process starts, so that TestMain starts the program
// again.
func TestMain(m *testing.M) {
	if debug := os.Getenv("GODEBUG"); !strings.Contains(debug, "http2xconnect=") {
		os.Setenv("GODEBUG", strings.TrimPrefix(debug+",http2xconnect=1", ","))
		path, err := os.Executable()
		if err == nil {
			err = syscall.Exec(path, os.Args, os.Environ())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	m.Run()
}

// checkTimeout is the maximum duration of a check.
const checkTimeout = 2 * time.Minute

// TestServers runs every check with every server. It skips servers that are not installed. It also
// skips what a server cannot do, with the reason.
func TestServers(t *testing.T) {
	site := newSite(t)
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			r := s.start(t, site)
			r.server, r.site = s, site
			for _, c := range checks {
				t.Run(c.name, func(t *testing.T) {
					if why := cmp.Or(s.lacks[c.name], r.also[c.name]); why != "" {
						t.Skip(why)
					}
					ctx, cancel := context.WithTimeout(t.Context(), checkTimeout)
					defer cancel()
					r.ctx = ctx
					c.run(t, r)
				})
			}
		})
	}
}

func TestTheTableNamesOnlyChecksThatExist(t *testing.T) {
	known := make(map[string]bool)
	for _, c := range checks {
		known[c.name] = true
	}
	for _, c := range clientChecks {
		known[c.name] = true
	}
	for _, s := range servers {
		for name := range s.lacks {
			if !known[name] {
				t.Errorf("%s lacks %s, which is no check", s.name, name)
			}
		}
	}
}
