// This file tests that README.md and the pages beside it agree with the package and its Examples.

package hypertest

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"gohyper.dev/hyper"
)

// page returns the text of a file of the repository.
func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every Go program of the README compiles as it stands on the page.
func TestReadmeCompiles(t *testing.T) {
	blocks := goBlocks(page(t, "README.md"))
	if len(blocks) < 3 {
		t.Errorf("%d programs in the README, want at least 3", len(blocks))
	}
	compile(t, blocks...)
}

// The README can be read in a few minutes: its depth is in other places.
func TestReadmeIsShort(t *testing.T) {
	if n := strings.Count(page(t, "README.md"), "\n"); n >= 250 {
		t.Errorf("%d lines, want fewer than 250", n)
	}
}

// The Examples that the README names are in the files that it links to.
func TestReadmeNamesExamplesThatExist(t *testing.T) {
	example := regexp.MustCompile(`\[(Example\w*)\]\(([\w.]+)\)`)
	named := example.FindAllStringSubmatch(page(t, "README.md"), -1)
	if len(named) < 7 {
		t.Errorf("%d Examples, want at least 7", len(named))
	}
	for _, m := range named {
		if !strings.Contains(page(t, m[2]), "\nfunc "+m[1]+"() {\n") {
			t.Errorf("%s is not in %s", m[1], m[2])
		}
	}
}

// The files that the pages link to exist.
func TestPagesLinkToFilesThatExist(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for _, name := range []string{"README.md", "CHANGELOG.md", ".github/CONTRIBUTING.md", ".github/LIMITS.md",
		".github/MIGRATION.md", ".github/SECURITY.md"} {
		for _, m := range link.FindAllStringSubmatch(page(t, name), -1) {
			if _, err := os.Stat(filepath.Join("../..", filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			}
		}
	}
}

// The options in the tables of bounds are fields of Config and of Transport.
func TestLimitsNameOptionsThatExist(t *testing.T) {
	config, transport := reflect.TypeFor[hyper.Config](), reflect.TypeFor[hyper.Transport]()
	option := regexp.MustCompile("`([A-Z]\\w+)[^`]*`")
	n := 0
	for line := range strings.Lines(page(t, ".github/LIMITS.md")) {
		cells := strings.Split(strings.TrimSuffix(line, " |\n"), " | ")
		for _, m := range option.FindAllStringSubmatch(cells[len(cells)-1], -1) {
			_, ofConfig := config.FieldByName(m[1])
			_, ofTransport := transport.FieldByName(m[1])
			if len(cells) == 3 && m[1] != "Config" && !ofConfig && !ofTransport {
				t.Errorf("no option %s: %s", m[1], line)
			}
			n++
		}
	}
	if n < 30 {
		t.Errorf("%d options in the tables, want at least 30", n)
	}
}
