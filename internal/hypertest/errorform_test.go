package hypertest

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// exportedErrors has values of each exported error type, and the exported error variables. ErrCode
// is not in it: a code is a part of other errors, and no call returns one by itself.
var exportedErrors = map[string][]error{
	"ErrBatchSplit":       {hyper.ErrBatchSplit},
	"ErrClosed":           {hyper.ErrClosed},
	"ErrCanceled":         {hyper.ErrCanceled},
	"ErrSendEnded":        {hyper.ErrSendEnded},
	"ErrDrained":          {hyper.ErrDrained},
	"ErrPingTimeout":      {hyper.ErrPingTimeout},
	"ErrWriteStalled":     {hyper.ErrWriteStalled},
	"ErrWindowBlocked":    {hyper.ErrWindowBlocked},
	"ErrHandshakeTimeout": {hyper.ErrHandshakeTimeout},
	"ErrReused":           {hyper.ErrReused},
	"BodyLengthError": {&hyper.BodyLengthError{Declared: 1, Got: 0},
		&hyper.BodyLengthError{Declared: 1, Got: 2}},
	"ConnError": {&hyper.ConnError{Code: hyper.ErrCodeProtocol}, &hyper.ConnError{Err: hyper.ErrDrained},
		&hyper.ConnError{Addr: &net.TCPAddr{Port: 1}, Err: io.ErrUnexpectedEOF}},
	"ConnectStatusError": {&hyper.ConnectStatusError{StatusCode: 403}},
	"DecodeError":        {&hyper.DecodeError{Coding: "gzip", Err: io.ErrUnexpectedEOF}},
	"DecodeLimitError": {
		&hyper.DecodeLimitError{Limit: "elements"}, &hyper.DecodeLimitError{Limit: "codings"},
		&hyper.DecodeLimitError{Limit: "repeats"}, &hyper.DecodeLimitError{Limit: "size"},
		&hyper.DecodeLimitError{Limit: "ratio"}, &hyper.DecodeLimitError{Limit: "work"},
	},
	"DialError":       {&hyper.DialError{Host: "a.test:443", Err: hyper.ErrHandshakeTimeout}},
	"HeaderSizeError": {&hyper.HeaderSizeError{Size: 2, Limit: 1}, &hyper.HeaderSizeError{Size: 2, Held: 1}},
	"MalformedError":  {&hyper.MalformedError{Reason: "trailers without END_STREAM"}},
	"NotHTTP2Error":   {&hyper.NotHTTP2Error{}, &hyper.NotHTTP2Error{Negotiated: "h3"}},
	"PushLostError":   {&hyper.PushLostError{StreamID: 1, Refused: 1}},
	"RetryError":      {&hyper.RetryError{First: hyper.ErrDrained, Last: hyper.ErrPingTimeout}},
	"RequestError":    {&hyper.RequestError{Field: ":path", Reason: "is empty"}},
	"StreamError": {&hyper.StreamError{StreamID: 1, Code: hyper.ErrCodeCancel, Err: hyper.ErrCanceled},
		&hyper.StreamError{StreamID: 1, FromPeer: true}},
	"UnsupportedCodingError": {&hyper.UnsupportedCodingError{Coding: "zstd"}},
	"WaitError":              {&hyper.WaitError{Err: context.Canceled}},
	"WindowManagerError": {&hyper.WindowManagerError{Value: -1, Event: hyper.WindowData},
		&hyper.WindowManagerError{StreamID: 1, Panic: "why"}},
}

// words are what the texts of errors do not contain: they say nothing, or the documentation has
// another word.
var words = regexp.MustCompile(`(?i)failed to|unable to|could not|can't|octet|blank|somebody|nobody`)

// checkForm fails the test if text, without its prefix, does not have the form of an error's text:
// it begins in lower case or with a name, and it is not a sentence.
func checkForm(t *testing.T, where, text string) {
	t.Helper()
	first, _, _ := strings.Cut(text, " ")
	name := strings.ContainsAny(first[min(1, len(first)):], "ABCDEFGHIJKLMNOPQRSTUVWXYZ._")
	switch {
	case text == "":
		t.Errorf("%s: the text is empty", where)
	case text[0] >= 'A' && text[0] <= 'Z' && !name && first != "Read":
		t.Errorf("%s: %q begins in upper case", where, text)
	case strings.ContainsAny(text, "\r\n") || strings.HasSuffix(text, ".") || strings.HasSuffix(text, "!"):
		t.Errorf("%s: %q is not one line without a period", where, text)
	case words.MatchString(text):
		t.Errorf("%s: %q contains %q", where, text, words.FindString(text))
	}
}

// rootFiles parses the source files of the root.
func rootFiles(t *testing.T) (files []*ast.File) {
	t.Helper()
	names, err := filepath.Glob("../../*.go")
	if err != nil || len(names) == 0 {
		t.Fatal("no source files", err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

// receiver returns the name of the type of which f is a method, or "".
func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if name, ok := typ.(*ast.Ident); ok {
		return name.Name
	}
	return "" // a generic type
}

// errorNames returns the names of the exported error types and variables that f declares.
func errorNames(f *ast.File) (names []string) {
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if typ := receiver(d); d.Name.Name == "Error" && ast.IsExported(typ) {
				names = append(names, typ)
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				if v, ok := s.(*ast.ValueSpec); ok && d.Tok == token.VAR {
					for _, n := range v.Names {
						if n.IsExported() && strings.HasPrefix(n.Name, "Err") {
							names = append(names, n.Name)
						}
					}
				}
			}
		}
	}
	return names
}

// Every error of this package has the prefix "hyper: " once, and the same form.
func TestExportedErrorsHaveOnePrefixAndOneForm(t *testing.T) {
	declared := map[string]bool{"ErrCode": true}
	for _, f := range rootFiles(t) {
		for _, name := range errorNames(f) {
			declared[name] = true
			if name != "ErrCode" && len(exportedErrors[name]) == 0 {
				t.Errorf("%s is not in exportedErrors", name)
			}
		}
	}
	for name, list := range exportedErrors {
		if !declared[name] {
			t.Errorf("%s is not an exported error", name)
		}
		for _, err := range list {
			text, ok := strings.CutPrefix(err.Error(), "hyper: ")
			if !ok || strings.Contains(text, "hyper: ") {
				t.Errorf("%s: %q does not have the prefix once", name, err)
			}
			checkForm(t, name, text)
		}
	}
}

// errorCalls are the functions that make errors from a text.
var errorCalls = map[string]bool{"errors.New": true, "fmt.Errorf": true, "connErr": true}

// errorText returns the text of the error that n makes, if n is a call of one of errorCalls.
func errorText(n ast.Node) (text string, ok bool) {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return "", false
	}
	name := ""
	switch f := call.Fun.(type) {
	case *ast.Ident:
		name = f.Name
	case *ast.SelectorExpr:
		if pkg, ok := f.X.(*ast.Ident); ok {
			name = pkg.Name + "." + f.Sel.Name
		}
	}
	if !errorCalls[name] {
		return "", false
	}
	for _, arg := range call.Args {
		ast.Inspect(arg, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				part, _ := strconv.Unquote(lit.Value)
				text += part
			}
			return true
		})
	}
	return text, text != ""
}

func TestErrorTextsInTheSourceHaveOneForm(t *testing.T) {
	found := 0
	for _, f := range rootFiles(t) {
		ast.Inspect(f, func(n ast.Node) bool {
			if text, ok := errorText(n); ok {
				found++
				checkForm(t, text, strings.TrimPrefix(text, "hyper: "))
			}
			return true
		})
	}
	if found < 50 {
		t.Errorf("found %d errors", found)
	}
}

// Errors of a connection name the peer, and errors of a stream name the stream.
func TestErrorsNameTheSideAndTheCause(t *testing.T) {
	for name, row := range map[string]struct {
		cause func(peer *accepted, s *hyper.Stream)
		names []string
	}{
		"RST_STREAM": {func(peer *accepted, _ *hyper.Stream) { peer.WriteRSTStream(1, wire.Cancel) },
			[]string{"stream 1", "CANCEL"}},
		"a malformed response": {func(peer *accepted, _ *hyper.Stream) { peer.WriteHeaders(1, 0, "a: b") },
			[]string{"stream 1", "PROTOCOL_ERROR", ":status"}},
		"Reset": {func(_ *accepted, s *hyper.Stream) { s.Reset(hyper.ErrCodeInternal) },
			[]string{"stream 1", "INTERNAL_ERROR", "canceled by the caller"}},
		"GOAWAY": {func(peer *accepted, _ *hyper.Stream) {
			peer.WriteGoAway(1, wire.EnhanceYourCalm, "calm")
			peer.Peer.Close()
		}, []string{"connection to example.com", "ENHANCE_YOUR_CALM", "calm"}},
		"a lost connection": {func(peer *accepted, _ *hyper.Stream) { peer.Peer.Close() },
			[]string{"connection to example.com", "peer closed the connection"}},
		"a broken rule": {func(peer *accepted, _ *hyper.Stream) { peer.WriteData(9, 0, nil) },
			[]string{"connection to example.com", "PROTOCOL_ERROR", "stream 9"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := hyper.Config{Authority: "example.com"}
			eachConnDoor(t, cfg, func(t *testing.T, peer *accepted, conn *hyper.Conn) {
				s, err := conn.Open(t.Context(), &hyper.Request{Method: "POST"})
				if err != nil {
					t.Fatal(err)
				}
				peer.WantHeaders("the request", 1)
				read := h2test.Go(func() (int, error) { return s.Read(make([]byte, 1)) })
				row.cause(peer, s)
				err = read.WantErr(t, "Read")
				text, ok := strings.CutPrefix(err.Error(), "hyper: ")
				if !ok {
					t.Errorf("%v does not begin with hyper:", err)
				}
				checkForm(t, name, text)
				for _, part := range row.names {
					if !strings.Contains(text, part) {
						t.Errorf("%v does not contain %q", err, part)
					}
				}
				var ce *hyper.ConnError
				if errors.As(err, &ce) && !strings.Contains(text, conn.RemoteAddr().String()) {
					t.Errorf("%v does not contain the peer's address %v", err, conn.RemoteAddr())
				}
			})
		})
	}
}
