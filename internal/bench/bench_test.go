package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain lets the test's program be the server's and the clients' processes, as the command is
// them outside of tests.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "serve" || os.Args[1] == "servefloor" || os.Args[1] == "work") {
		if err := run(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// quickLab returns a lab that does a hundredth of the work, in one round.
func quickLab(t *testing.T) *lab {
	t.Helper()
	l, err := newLab(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	l.quick = true
	return l
}

// TestEveryRowHasItsFigures checks that each row has a positive figure for each client, and the
// ratios.
func TestEveryRowHasItsFigures(t *testing.T) {
	text, err := quickLab(t).rows()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	const gets, others = 4 + 3, 6 + 6
	rows := lines[1:]
	if strings.HasPrefix(rows[0], "(") { // nghttpd is not installed
		rows = rows[1:]
	} else if rows = rows[gets:]; !strings.HasPrefix(lines[1], "nghttpd: ") {
		t.Errorf("%q", lines[1])
	}
	if len(rows) != gets+others {
		t.Fatalf("%d lines:\n%s", len(lines), text)
	}
	for _, line := range rows {
		figures := strings.Fields(line[43:])
		if len(figures) != 7 {
			t.Errorf("%q has %d figures", line, len(figures))
		}
		for _, f := range figures[:4] {
			var v float64
			if _, err := fmt.Sscan(f, &v); err != nil || v <= 0 {
				t.Errorf("%q: %s", line, f)
			}
		}
	}
}

// TestEveryModeWorksWithEveryClient also runs the modes that no row uses, slow and many.
func TestEveryModeWorksWithEveryClient(t *testing.T) {
	l := quickLab(t)
	for _, impl := range []string{"own", "http", "roundtrip", "nethttp"} {
		for _, args := range [][]string{
			{"-mode", "slow", "-dur", "100ms", "-url", l.origin + "/frames?size=65536&n=100"},
			{"-mode", "many", "-conns", "3", "-c", "2", "-n", "20", "-url", l.origin + "/1k"},
			{"-mode", "conn", "-resume", "-wire", "-n", "3", "-url", l.origin + "/0"},
			{"-mode", "get", "-fields", "20", "-n", "20", "-warm", "5", "-url", l.origin + "/fields?n=20"},
			{"-mode", "get", "-latency", "-busy", "1", "-warm", "1", "-n", "10", "-url", l.origin + "/1k"},
		} {
			f, err := l.once(append([]string{"work", "-impl", impl}, args...))
			if err != nil {
				t.Errorf("%s, %v: %v", impl, args, err)
			} else if f["impl"] != impl || f["mode"] != args[1] {
				t.Errorf("%s, %v: %v", impl, args, f)
			}
		}
	}
	if _, err := l.once([]string{"work", "-mode", "none"}); err == nil {
		t.Error("a mode that does not exist works")
	}
	if _, err := l.once([]string{"work", "-url", l.origin + "/nowhere"}); err == nil {
		t.Error("a 404 passes for an answer")
	}
}

func TestPlotHasALineForEachClientInEachPanel(t *testing.T) {
	var drawn []*curve
	for _, c := range curves {
		d := *c
		for i := range d.sizes {
			d.values = append(d.values, result{1.5 + float64(i), 20, 300})
		}
		drawn = append(drawn, &d)
	}
	lines := 0
	for d := xml.NewDecoder(strings.NewReader(string(plot(drawn)))); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "polyline" {
			lines++
			for _, a := range e.Attr {
				if a.Name.Local == "points" && len(strings.Fields(a.Value)) < 5 {
					t.Errorf("a line of %q", a.Value)
				}
			}
		}
	}
	if lines != len(curves)*len(clients) {
		t.Errorf("%d lines, want %d", lines, len(curves)*len(clients))
	}
}

func TestSectionIsReplacedAndNothingElse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "page")
	os.WriteFile(file, []byte("a\n<!-- x -->\nold\n<!-- end of x -->\nb\n"), 0o644)
	if err := replaceSection(file, "x", "new\n"); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(file); string(got) != "a\n<!-- x -->\nnew\n<!-- end of x -->\nb\n" {
		t.Errorf("%q", got)
	}
	if err := replaceSection(file, "y", "new\n"); err == nil {
		t.Error("a section that is not there was replaced")
	}
}
