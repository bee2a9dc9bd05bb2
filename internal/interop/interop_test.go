package interop

import (
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
// skips what a server cannot do, with the reason. What README.md says of a server must be so: a
// check that is a column of its table must fail if it is skipped.
func TestServers(t *testing.T) {
	site := newSite(t)
	var rows []*row
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			r := s.start(t, site)
			r.server, r.site = s, site
			w := &row{server: s, version: r.version, passed: make(map[string]bool),
				lacking: make(map[string]string)}
			for _, c := range checks {
				ran, run := false, c.run
				if own := s.own[c.name]; own != nil {
					run = own
				}
				passed := t.Run(c.name, func(t *testing.T) {
					ran = true
					if why := r.why(c.name); why != "" {
						if isColumn(c.name) {
							refute(t, r, c.name, run)
							w.lacking[c.name] = why
						}
						t.Skip(why)
					}
					ctx, cancel := context.WithTimeout(t.Context(), checkTimeout)
					defer cancel()
					r.ctx = ctx
					run(t, r)
				})
				w.passed[c.name] = ran && passed && r.why(c.name) == ""
			}
			if s.title != "" {
				rows = append(rows, w)
			}
		})
	}
	compareReadme(t, rows)
}

func TestTheTableNamesOnlyChecksThatExist(t *testing.T) {
	known := make(map[string]bool)
	for _, c := range checks {
		known[c.name] = true
	}
	for _, c := range clientChecks {
		known[c.name] = true
	}
	for _, c := range columns {
		if !known[c.check] {
			t.Errorf("the column %s has the check %s, which is none", c.title, c.check)
		}
	}
	for _, s := range servers {
		for name := range s.lacks {
			if !known[name] {
				t.Errorf("%s lacks %s, which is no check", s.name, name)
			}
		}
		for name := range s.own {
			if !known[name] {
				t.Errorf("%s has its own %s, which is no check", s.name, name)
			}
		}
	}
}
