package interop

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// update makes TestServers write README.md.
var update = flag.Bool("update", false, "write README.md")

// updateCommand is the command that generates README.md.
const updateCommand = "HYPER_REQUIRE_SERVERS=1 go -C internal/interop test -run 'TestServers$' -update ."

// columns are the columns of the table in README.md: a title, what the check does, and the check.
var columns = []struct{ title, what, check string }{
	{"GET", "a page, compared with what it must be", "Get"},
	{"HEAD", "a response without a body, then a page on the same connection", "Head"},
	{"64 MiB down", "a response of 64 MiB, by its SHA-256", "Download"},
	{"64 MiB up", "requests of 64 MiB, of no byte and of few, by their SHA-256", "Upload"},
	{"both at once", "messages in turn on one stream, then 64 MiB each way at the same time, by SHA-256",
		"Echo"},
	{"codings", "each content coding that the server offers and hyper decodes", "Codings"},
	{"trailers", "trailers of a response", "Trailers"},
	{"request trailers", "trailers of a request, which the server or its origin returns", "RequestTrailers"},
	{"103", "an interim response with its fields", "Interim"},
	{"100-continue", "a body that is sent only after 100 (Continue)", "Continue"},
	{"push", "a page with a pushed one, both compared", "Push"},
	{"CONNECT", "a tunnel with 20 messages each way", "Connect"},
	{"extended CONNECT", "a tunnel of RFC 8441, with messages each way", "ExtendedConnect"},
	{"priority", "the signals of RFC 9218, also before SETTINGS: all are served", "Priorities"},
	{"urgent first",
		"an urgent response of 64 MiB ends before 8 MiB of one that began earlier and is not urgent",
		"UrgentFirst"},
	{"1,000 at once", "1,000 concurrent requests on one connection", "ThousandAtOnce"},
	{"reload", "the server reloads under load: no request fails, a download of 64 MiB is complete, and " +
		"requests move to a new connection", "Reload"},
	{"h2c", "a page, a response of 64 MiB, and an upload, in cleartext with prior knowledge", "Cleartext"},
}

// isColumn reports whether a check is a column of the table.
func isColumn(check string) bool {
	for _, c := range columns {
		if c.check == check {
			return true
		}
	}
	return false
}

// A row is what the checks of a server found.
type row struct {
	*server
	version string
	passed  map[string]bool   // by check
	lacking map[string]string // reasons, by check: the check failed as it should
}

// complete reports whether all columns were checked, and none failed.
func (w *row) complete() bool {
	return !slices.ContainsFunc(columns, func(c struct{ title, what, check string }) bool {
		return !w.passed[c.check] && w.lacking[c.check] == ""
	})
}

// start returns the beginning of the row in README.md, which has the version.
func (w *row) start() string { return "| " + w.title + " | " + w.version + " |" }

// cells returns the row in README.md.
func (w *row) cells() string {
	var b strings.Builder
	b.WriteString(w.start())
	for _, c := range columns {
		switch {
		case !w.passed[c.check]:
			b.WriteString(" – |")
		case c.check == "Codings":
			b.WriteString(" " + strings.Join(w.codings, ", ") + " |")
		default:
			b.WriteString(" ✓ |")
		}
	}
	return b.String() + "\n"
}

// reasons returns the line of README.md with the reasons for the dashes of the row.
func (w *row) reasons() string {
	var whys []string
	titles := make(map[string][]string) // by reason
	for _, c := range columns {
		if why := w.lacking[c.check]; why != "" {
			if titles[why] == nil {
				whys = append(whys, why)
			}
			titles[why] = append(titles[why], c.title)
		}
	}
	if whys == nil {
		return ""
	}
	for i, why := range whys {
		whys[i] = strings.Join(titles[why], ", ") + ": " + why
	}
	return "- **" + w.title + "**. " + strings.Join(whys, "; ") + ".\n"
}

// readme returns README.md with these rows.
func readme(rows []*row) string {
	var b strings.Builder
	b.WriteString(readmeBegin + "\n    " + updateCommand + "\n\n| server | version |")
	for _, c := range columns {
		b.WriteString(" " + c.title + " |")
	}
	b.WriteString("\n|---|---|" + strings.Repeat(":-:|", len(columns)) + "\n")
	for _, w := range rows {
		b.WriteString(w.cells())
	}
	b.WriteString("\n" + readmeReasons + "\n")
	for _, w := range rows {
		b.WriteString(w.reasons())
	}
	b.WriteString("\n## What a tick means\n\n")
	for _, c := range columns {
		fmt.Fprintf(&b, "- **%s**: %s (`%s`).\n", c.title, c.what, c.check)
	}
	b.WriteString("\n" + readmeEnd)
	return b.String()
}

// The text of README.md around the table.
const (
	readmeBegin = `# hyper and servers that other people wrote

Each cell is a test that runs hyper against the server, on loopback, over TLS unless it says h2c.
✓: the test passed. –: the server does not offer it as it is set up here; the reason is below the
table. A dash is tested, too: the test must fail there. The servers' configurations are in
[testdata](testdata). h2o, nginx, Apache httpd, HAProxy, lighttpd and Caddy forward some requests to
net/http's server, so that what they forward is part of the test. grpc-go gets calls instead of
pages. The test generates this file:
`
	readmeReasons = `What a dash means, by server:
`
	readmeEnd = `Other tests here use the same servers: [server_test.go](server_test.go) has the table,
[check_test.go](check_test.go) the checks that are not in it (TLS 1.2, small windows, CONTINUATION,
cookies, closing midway, a graceful stop), and [transport_test.go](transport_test.go) the same
through http.Client. A server that is not installed is skipped by name; with
HYPER_REQUIRE_SERVERS=1 it is a failure.
`
)

// compareReadme requires that README.md has the rows that are complete. A row of another version
// than the one that ran is not compared. With -update it writes the file.
func compareReadme(t *testing.T, rows []*row) {
	if *update {
		for _, s := range servers {
			i := slices.IndexFunc(rows, func(w *row) bool { return w.server == s })
			if s.title != "" && (i < 0 || !rows[i].complete()) {
				t.Fatalf("README.md is not written: %s was not checked completely", s.title)
			}
		}
		check(t, os.WriteFile("README.md", []byte(readme(rows)), 0o644))
		return
	}
	for _, w := range rows {
		switch has := func(line string) bool { return readmeHas(t, line) }; {
		case !w.complete():
			t.Logf("%s was not checked completely: its row in README.md is not compared", w.title)
		case !has(w.start()):
			t.Logf("README.md has another version of %s than %s", w.title, w.version)
		case !has(w.cells()) || !has(w.reasons()):
			t.Errorf("README.md does not have this row, run %s\n%s%s", updateCommand, w.cells(), w.reasons())
		}
	}
}

// readmeHas reports whether README.md has text.
func readmeHas(t *testing.T, text string) bool {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	check(t, err)
	return strings.Contains(string(readme), text)
}

// TestReadmeHasTheText requires that the text of README.md around the rows is as this file has it.
func TestReadmeHasTheText(t *testing.T) {
	text, err := os.ReadFile("README.md")
	check(t, err)
	want := readme(nil)
	var kept strings.Builder
	for line := range strings.Lines(string(text)) {
		if !ofAServer(line) {
			kept.WriteString(line)
		}
	}
	if kept.String() != want {
		t.Errorf("run %s: got\n%s\nwant\n%s", updateCommand, &kept, want)
	}
}

// ofAServer reports whether a line of README.md is about one server.
func ofAServer(line string) bool {
	return slices.ContainsFunc(servers, func(s *server) bool {
		return s.title != "" && (strings.HasPrefix(line, "| "+s.title+" |") ||
			strings.HasPrefix(line, "- **"+s.title+"**."))
	})
}
