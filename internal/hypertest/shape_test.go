package hypertest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The limits for a function and for a struct of the product. A longer function has two jobs. Bools
// that exclude each other are a state.
const (
	maxLines      = 60
	maxParameters = 4
	maxBools      = 2
)

// publicBools are the structs whose bools are options of the user, as in net/http.
var publicBools = []string{"Config", "Transport"}

// productFiles returns the Go files of the root and of the leaves that are not tests.
func productFiles(t *testing.T) (files []string) {
	t.Helper()
	dirs := []string{"../.."}
	for leaf := range leaves {
		dirs = append(dirs, filepath.Join("..", leaf))
	}
	for _, dir := range dirs {
		found, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		found = slices.DeleteFunc(found, func(f string) bool { return strings.HasSuffix(f, "_test.go") })
		if len(found) == 0 {
			t.Fatalf("%s has no Go files", dir)
		}
		files = append(files, found...)
	}
	return files
}

// names returns how many names list declares.
func names(list *ast.FieldList) (n int) {
	for _, f := range list.List {
		n += max(1, len(f.Names))
	}
	return n
}

// bools returns how many fields of s are of type bool.
func bools(s *ast.StructType) (n int) {
	for _, f := range s.Fields.List {
		if id, ok := f.Type.(*ast.Ident); ok && id.Name == "bool" {
			n += max(1, len(f.Names))
		}
	}
	return n
}

func TestShapeOfFunctionsAndStructs(t *testing.T) {
	files := token.NewFileSet()
	for _, name := range productFiles(t) {
		file, err := parser.ParseFile(files, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				at := files.Position(n.Pos())
				if lines := files.Position(n.End()).Line - at.Line + 1; lines > maxLines {
					t.Errorf("%s: %s has %d lines", at, n.Name.Name, lines)
				}
				if k := names(n.Type.Params); k > maxParameters {
					t.Errorf("%s: %s has %d parameters", at, n.Name.Name, k)
				}
			case *ast.TypeSpec:
				s, ok := n.Type.(*ast.StructType)
				if !ok || slices.Contains(publicBools, n.Name.Name) {
					return true
				}
				if k := bools(s); k > maxBools {
					t.Errorf("%s: %s has %d bools", files.Position(n.Pos()), n.Name.Name, k)
				}
			}
			return true
		})
	}
}

// What a connection knows belongs to an owner: Conn has one field for each.
func TestConnHasFewFields(t *testing.T) {
	const most = 16
	f, err := parser.ParseFile(token.NewFileSet(), "../../conn.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	ast.Inspect(f, func(node ast.Node) bool {
		spec, ok := node.(*ast.TypeSpec)
		if !ok || spec.Name.Name != "Conn" {
			return true
		}
		n = names(spec.Type.(*ast.StructType).Fields)
		return false
	})
	if n == 0 || n > most {
		t.Errorf("Conn has %d fields, want at most %d", n, most)
	}
}
