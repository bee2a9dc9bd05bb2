package hypertest

import (
	"bytes"
	"go/ast"
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
	"pool":       {"bucket"},
	"tracing":    {"syntax"},
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

// loneTests are the test files of the root that belong to no single source file.
var loneTests = map[string]string{
	"audit":       "checks the state of a whole connection",
	"bench":       "benchmarks",
	"budget":      "allocations and memory of whole requests and connections",
	"helper":      "what several white-box tests use",
	"model":       "compares a whole connection with a model",
	"modelcaller": "the callers of the model",
	"modelpeer":   "the peer of the model",
	"script":      "a peer that follows a script of bytes",
}

// A test file in the root belongs to the source file of the same name. It uses something that is
// not exported. All other tests of the package are here.
func TestLayoutOfTheTests(t *testing.T) {
	private := privateNames(t)
	files, err := filepath.Glob("../../*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), "_test.go")
		if name == "example" || strings.HasPrefix(name, "example_") {
			continue
		}
		if _, err := os.Stat("../../" + name + ".go"); err != nil && loneTests[name] == "" {
			t.Errorf("%s_test.go belongs to no source file", name)
		}
		if !usesOneOf(t, file, private) {
			t.Errorf("%s_test.go uses nothing that is not exported: move it here", name)
		}
	}
}

// privateNames returns what the root declares and does not export, with fields and methods.
func privateNames(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("../../*.go")
	if err != nil {
		t.Fatal(err)
	}
	private := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		ast.Inspect(parse(t, file, 0), func(n ast.Node) bool {
			var names []*ast.Ident
			switch n := n.(type) {
			case *ast.FuncDecl:
				names = []*ast.Ident{n.Name}
			case *ast.TypeSpec:
				names = []*ast.Ident{n.Name}
			case *ast.ValueSpec:
				names = n.Names
			case *ast.StructType:
				for _, f := range n.Fields.List {
					names = append(names, f.Names...)
				}
			case *ast.BlockStmt: // what functions declare is of no interest
				return false
			}
			for _, id := range names {
				private[id.Name] = !id.IsExported()
			}
			return true
		})
	}
	return private
}

// usesOneOf reports whether a file has an identifier of names.
func usesOneOf(t *testing.T, file string, names map[string]bool) (found bool) {
	t.Helper()
	ast.Inspect(parse(t, file, 0), func(n ast.Node) bool {
		id, ok := n.(*ast.Ident)
		found = found || ok && names[id.Name]
		return !found
	})
	return found
}

// maxFileLines is how many lines a file may have.
const maxFileLines = 700

func TestLayoutOfLongFiles(t *testing.T) {
	err := filepath.WalkDir("../..", func(path string, e os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		name := filepath.ToSlash(strings.TrimPrefix(path, filepath.Clean("../..")+string(filepath.Separator)))
		lines := bytes.Count(text, []byte("\n"))
		if lines > maxFileLines && !bytes.HasPrefix(text, []byte("// Code generated ")) {
			t.Errorf("%s has %d lines, more than %d", name, lines, maxFileLines)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// importsOf returns the import paths of a file.
func importsOf(t *testing.T, file string) (paths []string) {
	t.Helper()
	for _, spec := range parse(t, file, parser.ImportsOnly).Imports {
		paths = append(paths, strings.Trim(spec.Path.Value, `"`))
	}
	return paths
}

// parse parses a file.
func parse(t *testing.T, file string, mode parser.Mode) *ast.File {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, mode)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}
