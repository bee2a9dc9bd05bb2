package hypertest

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// module is the path of this module.
const module = "gohyper.dev/hyper"

// nouns are the first words that names of source files in the root may have.
var nouns = []string{
	"conn", "stream", "request", "response", "header", "push", "connect", "window", "frame", "tls",
	"decompress", "transport", "config", "errors", "trace", "doc",
}

// leaves are the packages that know nothing of connections, each with the packages of this module
// that it may import.
var leaves = map[string][]string{
	"wire":       nil,
	"state":      nil,
	"buffer":     nil,
	"syntax":     nil,
	"wait":       nil,
	"bucket":     nil,
	"fieldblock": {"wire", "syntax"},
	"netconn":    nil,
}

// The root holds a single public package. Its files are named after the nouns that they implement.
func TestLayoutOfTheRoot(t *testing.T) {
	others := []string{
		".ci", ".git", ".github", ".gitignore", "CHANGELOG.md", "LICENSE", "README.md", "examples", "go.mod",
		"go.sum", "internal", "testdata",
	}
	entries, err := os.ReadDir("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := e.Name()
		source := strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go")
		noun, _, _ := strings.Cut(strings.TrimSuffix(name, ".go"), "_")
		switch {
		case source && !slices.Contains(nouns, noun):
			t.Errorf("%s does not begin with one of %v", name, nouns)
		case !strings.HasSuffix(name, ".go") && !slices.Contains(others, name):
			t.Errorf("%s is not one of %v", name, others)
		}
	}
}

// Leaf packages import only those leaf packages that are listed.
func TestLayoutOfTheLeaves(t *testing.T) {
	for leaf, allowed := range leaves {
		files, err := filepath.Glob("../" + leaf + "/*.go")
		if err != nil || len(files) == 0 {
			t.Errorf("%s has no files: %v", leaf, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			for _, path := range importsOf(t, file) {
				inner, ours := strings.CutPrefix(path, module+"/internal/")
				if path == module || ours && !slices.Contains(allowed, inner) {
					t.Errorf("%s imports %s", file, path)
				}
			}
		}
	}
}

// The root imports only leaf packages, and nothing that exists for tests or measurements.
func TestLayoutOfTheImports(t *testing.T) {
	files, err := filepath.Glob("../../*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, path := range importsOf(t, file) {
			inner, ours := strings.CutPrefix(path, module+"/internal/")
			if _, leaf := leaves[inner]; ours && !leaf {
				t.Errorf("%s imports %s", file, path)
			}
		}
	}
}

// importsOf returns the import paths of a file.
func importsOf(t *testing.T, file string) (paths []string) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range parsed.Imports {
		paths = append(paths, strings.Trim(spec.Path.Value, `"`))
	}
	return paths
}
