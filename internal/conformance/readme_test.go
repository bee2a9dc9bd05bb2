package conformance

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// update makes TestReadme write the files.
var update = flag.Bool("update", false, "write README.md and RULES.md")

// suites are all rows, grouped by part of the protocol.
var suites = []struct {
	part string
	rows []row
}{
	{"Frames", frameRows},
	{"Streams", streamRows},
	{"Settings", settingsRows},
	{"HPACK", hpackRows},
	{"Fields", fieldRows},
	{"Push", pushRows},
	{"Flow", flowRows},
	{"Requests", requestRows},
	{"Priorities", priorityRows},
}

func TestRules(t *testing.T) {
	for _, s := range suites {
		t.Run(s.part, func(t *testing.T) {
			for _, r := range s.rows {
				t.Run(r.name, r.run)
			}
		})
	}
}

// titles are the RFCs' titles in the files.
var titles = map[string]string{
	"9113": "HTTP/2",
	"7541": "HPACK",
	"9110": "HTTP semantics",
	"8441": "Extended CONNECT",
	"9218": "Extensible priorities",
}

// TestReadme requires that README.md and RULES.md agree with the rows.
func TestReadme(t *testing.T) {
	front, rules := readme(t)
	for file, want := range map[string]string{"README.md": front, "RULES.md": rules} {
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil || string(got) != want {
			t.Errorf("%s is not what the rows say (%v): run %s", file, err, updateCommand)
		}
	}
}

// updateCommand is the command that generates the files.
const updateCommand = "go test ./internal/conformance -run TestReadme -update"

// A line is a line of RULES.md, which is one row.
type line struct{ section, rule, test string }

// readme returns README.md, which explains the rows, and RULES.md, which lists them.
func readme(t *testing.T) (front, rules string) {
	byRFC := map[string][]line{}
	seen := map[string]bool{}
	for _, s := range suites {
		for _, r := range s.rows {
			test := "TestRules/" + s.part + "/" + r.name
			rfc, section, ok := strings.Cut(r.section, " ")
			if !ok || titles[rfc] == "" || seen[test] || r.rule == "" || r.at == nil ||
				!rowName.MatchString(r.name) {
				t.Errorf("row %q of section %q is incomplete, misnamed, or there twice", test, r.section)
			}
			seen[test] = true
			byRFC[rfc] = append(byRFC[rfc], line{section, r.rule, test})
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, frontText, len(seen), doorNames(), updateCommand)
	fmt.Fprintf(&b, "| RFC | | rows |\n|---|---|---:|\n")
	for _, rfc := range order {
		fmt.Fprintf(&b, "| [%s](https://www.rfc-editor.org/rfc/rfc%s) | %s | %d |\n", rfc, rfc, titles[rfc],
			len(byRFC[rfc]))
	}
	return b.String(), rulesText(byRFC)
}

// The names that rows may have, and the order of the RFCs.
var (
	rowName = regexp.MustCompile(`^[A-Za-z0-9_]+$`)
	order   = []string{"9113", "7541", "9110", "8441", "9218"}
)

// frontText is the format of the beginning of README.md.
const frontText = `# The RFCs' rules for a client, and a test of each

[RULES.md](RULES.md) lists %d rules. For each one a scripted peer breaks the rule, or checks that
the client keeps it. The test checks the scope of the error and its exact code on the wire, how the
connection ends, and what the caller is told. After a stream error it checks that the connection and
its compression state still work. Each rule is tested through every door, over TLS and in cleartext:
%s.

Run one rule:

    go test ./internal/conformance -run '^TestRules$/^Frames$/^DataOnStreamZero$' -v

Both files are generated from the rules:

    %s

`

// rulesText returns RULES.md.
func rulesText(byRFC map[string][]line) string {
	var b strings.Builder
	b.WriteString("# The rules, by RFC and section\n\nGenerated: see [README.md](README.md).\n")
	for _, rfc := range order {
		fmt.Fprintf(&b, "\n## RFC %s, %s\n\n| section | rule | test |\n|---|---|---|\n", rfc, titles[rfc])
		lines := byRFC[rfc]
		slices.SortStableFunc(lines, func(x, y line) int {
			return slices.Compare(numbers(x.section), numbers(y.section))
		})
		for _, l := range lines {
			fmt.Fprintf(&b, "| %s | %s | `%s` |\n", l.section, strings.ReplaceAll(l.rule, "|", "\\|"), l.test)
		}
	}
	return b.String()
}

// doorNames lists the names of the doors.
func doorNames() string {
	names := make([]string, len(doors))
	for i, d := range doors {
		names[i] = d.name
	}
	return strings.Join(names, ", ")
}

// numbers returns 6, 9, 1 for "§6.9.1".
func numbers(section string) (n []int) {
	for part := range strings.SplitSeq(strings.TrimPrefix(section, "§"), ".") {
		i, _ := strconv.Atoi(part)
		n = append(n, i)
	}
	return n
}
