// This file tests that README.md agrees with the package and its Examples.

package hypertest

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gohyper.dev/hyper"
)

// readme returns the text of the README.
func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every Go program in the README is a part of the Examples, which are compiled and run.
func TestReadmeShowsTheExamples(t *testing.T) {
	var examples strings.Builder
	for _, name := range []string{"example_test.go", "example_transport_test.go", "example_window_test.go",
		"example_stats_test.go"} {
		file, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		examples.Write(file)
	}
	blocks := strings.Split(readme(t), "```go\n")[1:]
	if len(blocks) < 10 {
		t.Errorf("%d programs in the README, want at least 10", len(blocks))
	}
	for _, block := range blocks {
		program, _, _ := strings.Cut(block, "```")
		if !strings.Contains(examples.String(), program) {
			t.Errorf("in no Example:\n%s", program)
		}
	}
}

// The README names all that a Window and its events have, by their names.
func TestReadmeNamesWhatWindowsHave(t *testing.T) {
	text := readme(t)
	named := func(pattern string) (names []string) {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			names = append(names, m[1])
		}
		slices.Sort(names)
		return slices.Compact(names)
	}
	var methods, kinds []string
	window := reflect.TypeFor[*hyper.Window]()
	for i := range window.NumMethod() {
		methods = append(methods, window.Method(i).Name)
	}
	if got := named(`\bw\.([A-Z]\w+)\(`); !slices.Equal(got, methods) {
		t.Errorf("methods %q, want %q", got, methods)
	}
	for kind := hyper.WindowOpened + 1; kind <= hyper.WindowFrame; kind++ {
		kinds = append(kinds, kind.String())
	}
	slices.Sort(kinds)
	if got := named("`…([A-Z]\\w+)`"); !slices.Equal(got, kinds) {
		t.Errorf("kinds %q, want %q", got, kinds)
	}
}

// The options in the README's tables of bounds are fields of Config and of Transport.
func TestReadmeNamesOptionsThatExist(t *testing.T) {
	config, transport := reflect.TypeFor[hyper.Config](), reflect.TypeFor[hyper.Transport]()
	option := regexp.MustCompile("`([A-Z]\\w+)[^`]*`")
	_, tables, _ := strings.Cut(readme(t), "## Limits and defaults\n")
	tables, _, _ = strings.Cut(tables, "\n## ")
	n := 0
	for line := range strings.Lines(tables) {
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
