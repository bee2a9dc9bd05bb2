// This file tests that the Go code of .github/MIGRATION.md compiles, and that the page
// names what golang.org/x/net/http2 has deprecated.

package hypertest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// goBlocks returns the blocks of Go code in a page.
func goBlocks(text string) (blocks []string) {
	for _, after := range strings.Split(text, "```go\n")[1:] {
		block, _, _ := strings.Cut(after, "```")
		blocks = append(blocks, block)
	}
	return blocks
}

// compile compiles Go programs, each a file of its own, as parts of this module.
func compile(t *testing.T, programs ...string) {
	t.Helper()
	for i, program := range programs {
		file := filepath.Join(t.TempDir(), fmt.Sprintf("program%d.go", i))
		if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
			t.Fatal(err)
		}
		build := exec.Command("go", "build", "-o", os.DevNull, file)
		build.Dir = "../.."
		if out, err := build.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s\n%s", err, out, program)
		}
	}
}

// lineProgram is the program that the lines of the guide's tables are put into. Each line gets a
// function of its own, with the variables that the page names.
const lineProgram = `package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"gohyper.dev/hyper"
)

var (
	_ = errors.As
	_ = io.ReadAll
	_ = os.Stderr
	_ = strings.NewReader
	_ = time.Second
	_ tls.Config
	_ net.Conn
	_ url.URL
)

type vars struct {
	ctx    context.Context
	req    *http.Request
	tr     *hyper.Transport
	conn   *hyper.Conn
	stream *hyper.Stream
	resp   *hyper.Response
	nc     net.Conn
	h1     *http.Transport
	err    error
}

func main() {}
`

func TestMigrationGuideCompiles(t *testing.T) {
	text := page(t, ".github/MIGRATION.md")
	blocks := goBlocks(text)
	if len(blocks) < 2 {
		t.Errorf("%d programs, want at least 2", len(blocks))
	}
	lines := regexp.MustCompile("(?m)^\\| .* \\| `(.+)` \\|$").FindAllStringSubmatch(text, -1)
	if rows := strings.Count(text, "\n| ") - 4; len(lines) != rows || rows < 80 {
		t.Errorf("%d of %d rows end with a line of Go", len(lines), rows)
	}
	var program strings.Builder
	program.WriteString(lineProgram)
	for i, m := range lines {
		fmt.Fprintf(&program, "\nfunc line%d(v vars) {\n"+
			"\tctx, req, tr, conn, stream, resp, nc, h1, err := "+
			"v.ctx, v.req, v.tr, v.conn, v.stream, v.resp, v.nc, v.h1, v.err\n"+
			"\t_, _, _, _, _, _, _, _, _ = ctx, req, tr, conn, stream, resp, nc, h1, err\n\t%s\n}\n", i, m[1])
	}
	compile(t, append(blocks, program.String())...)
}

func TestMigrationGuideNamesWhatIsDeprecated(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{.Dir}}", "golang.org/x/net/http2").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "transport*.go"))
	if err != nil || len(files) == 0 {
		t.Fatal("no files: ", err)
	}
	names := make(map[string]bool)
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			addDeprecated(names, decl)
		}
	}
	if len(names) < 25 {
		t.Errorf("only %d deprecated identifiers: %v", len(names), names)
	}
	text := page(t, ".github/MIGRATION.md")
	for name := range names {
		if !strings.Contains(text, "`"+name+"`") {
			t.Errorf("the page does not name %s", name)
		}
	}
}

// addDeprecated adds the exported names to names that decl declares as deprecated. The name of a
// field or method begins with that of its type.
func addDeprecated(names map[string]bool, decl ast.Decl) {
	deprecated := func(doc *ast.CommentGroup) bool { return strings.Contains(doc.Text(), "Deprecated: ") }
	add := func(name string, doc *ast.CommentGroup) {
		if deprecated(doc) && !strings.Contains(name, "_") {
			names[name] = true
		}
	}
	switch d := decl.(type) {
	case *ast.FuncDecl:
		name := d.Name.Name
		if d.Recv != nil {
			receiver, _ := d.Recv.List[0].Type.(*ast.StarExpr)
			if receiver == nil {
				return
			}
			name = fmt.Sprint(receiver.X) + "." + name
		}
		if d.Name.IsExported() {
			add(name, d.Doc)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			typ, ok := spec.(*ast.TypeSpec)
			if !ok || !typ.Name.IsExported() {
				continue
			}
			add(typ.Name.Name, d.Doc)
			if s, ok := typ.Type.(*ast.StructType); ok {
				for _, field := range s.Fields.List {
					for _, n := range field.Names {
						add(typ.Name.Name+"."+n.Name, field.Doc)
					}
				}
			}
		}
	}
}
