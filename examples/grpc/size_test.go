package hypergrpc

import (
	"go/scanner"
	"go/token"
	"os"
	"testing"
)

// maxLines is how many lines of code the client has at most: lines with a token, without those
// of imports.
const maxLines = 599

func TestClientIsSmall(t *testing.T) {
	lines := 0
	for _, name := range []string{"client.go", "stream.go", "wire.go"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		file := token.NewFileSet().AddFile(name, -1, len(text))
		var s scanner.Scanner
		s.Init(file, text, nil, 0)
		last, inImport := 0, true // the package clause and the imports
		for {
			pos, kind, _ := s.Scan()
			if kind == token.EOF {
				break
			}
			switch kind {
			case token.CONST, token.VAR, token.TYPE, token.FUNC:
				inImport = false
			}
			if line := file.Line(pos); line != last && !inImport {
				last = line
				lines++
			}
		}
	}
	if lines > maxLines {
		t.Errorf("the client has %d lines of code, more than %d", lines, maxLines)
	}
}
