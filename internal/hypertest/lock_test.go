package hypertest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Locks have one idiom, which the tests below hold:
//
//   - a connection's lock and unlock (or unlockForOwner) are a pair, and only they use Conn.mu;
//   - a function whose name ends in Locked needs the lock and keeps it;
//   - a function whose name ends in Unlocking needs the lock and may unlock it meanwhile, so its
//     caller must check again what it knew before;
//   - a function whose name ends in AndLock returns with the lock held;
//   - the methods of guarded types need the connection's lock and keep it.

// guarded are the types whose methods are called with the connection's lock held, except for those
// that are listed with the type. For callers, only the methods that are not exported need the lock:
// the others are called by window managers, or are methods of them.
var guarded = map[string][]string{
	"Window":         {"Grant", "tick"}, // any goroutine may call Grant, and a timer calls tick
	"adaptivePath":   nil,
	"adaptiveStream": nil,
	"connWriter":     nil,
	"originSet":      nil,
	"rank":           nil,
	"readyQueue":     nil,
	"sendQueue":      nil,
	"slots":          nil,
	"streamHeap":     nil,
	"unclaimed":      nil,
}

// ownLocks are the types with a lock of their own, which is a field mu. The methods of such a type
// whose names end in Locked need that lock.
var ownLocks = []string{"Transport", "books", "coalescer", "decodedBody", "host", "requestBody"}

// withoutLock are functions that do not lock although they call something that needs the lock, each
// with the reason.
var withoutLock = map[string]string{
	"AdaptiveWindow.New": "only Window.open and Window.make call it",
	"Conn.unlock":        "it unlocks",
	"Conn.unlockAndWake": "it unlocks",
}

// A lockUse is what one function of the root package does with locks.
type lockUse struct {
	name  string               // with the receiver's type: Conn.lock
	calls map[string]token.Pos // names of functions
	mu    map[string]token.Pos // types whose field mu it uses
}

func TestOnlyLockAndUnlockUseTheMutex(t *testing.T) {
	fset, uses := lockUses(t)
	allowed := []string{
		"Conn.lock", "Conn.unlock", "Conn.unlockAndWake",
		// These tell the mutex that a window manager runs.
		"Window.make", "Window.leave", "Window.ask", "Window.askInitial",
	}
	for _, u := range uses {
		if at, ok := u.mu["Conn"]; ok && !slices.Contains(allowed, u.name) {
			t.Errorf("%v: %s uses Conn.mu", fset.Position(at), u.name)
		}
	}
}

func TestLockIsHeldWhereItIsNeeded(t *testing.T) {
	fset, uses := lockUses(t)
	for _, u := range uses {
		for name, at := range u.calls {
			if lock := neededLock(name); lock != "" && !u.has(lock) && withoutLock[u.name] == "" {
				t.Errorf("%v: %s calls %s without the lock of %s", fset.Position(at), u.name, name, lock)
			}
		}
	}
}

func TestLockedFunctionsKeepTheLock(t *testing.T) {
	fset, uses := lockUses(t)
	for _, u := range uses {
		if neededLock(u.name) != "Conn" || strings.HasSuffix(u.name, "Unlocking") {
			continue
		}
		for name, at := range u.calls {
			if changesLock(name) {
				t.Errorf("%v: %s calls %s", fset.Position(at), u.name, name)
			}
		}
	}
}

func TestLockIsPairedWithUnlock(t *testing.T) {
	fset, uses := lockUses(t)
	for _, u := range uses {
		if strings.Contains(u.name, "Unlocking") || strings.HasSuffix(u.name, "AndLock") {
			continue
		}
		unlocks := u.calls["Conn.unlock"].IsValid() || u.calls["Conn.unlockForOwner"].IsValid()
		for name, at := range u.calls {
			if (name == "Conn.lock" || strings.HasSuffix(name, "AndLock")) && !unlocks {
				t.Errorf("%v: %s calls %s and never unlock", fset.Position(at), u.name, name)
			}
		}
	}
}

// Every exception names a function.
func TestLockExceptionsExist(t *testing.T) {
	_, uses := lockUses(t)
	for name := range withoutLock {
		if !slices.ContainsFunc(uses, func(u *lockUse) bool { return u.name == name }) {
			t.Errorf("%s does not exist", name)
		}
	}
}

// neededLock returns the type whose lock must be held when the function is called. Empty means that
// no lock is needed.
func neededLock(name string) string {
	typ, method, _ := strings.Cut(name, ".")
	switch locked := strings.HasSuffix(name, "Locked") || strings.HasSuffix(name, "Unlocking"); {
	case isGuarded(typ, method) && !ast.IsExported(method):
		return "Conn"
	case locked && slices.Contains(ownLocks, typ):
		return typ
	case locked:
		return "Conn"
	}
	return ""
}

// isGuarded reports whether the method is called with the connection's lock held because of its
// type.
func isGuarded(typ, method string) bool {
	except, ok := guarded[typ]
	return ok && method != "" && !slices.Contains(except, method)
}

// changesLock reports whether the function locks or unlocks a connection.
func changesLock(name string) bool {
	switch name {
	case "Conn.lock", "Conn.unlock", "Conn.unlockForOwner", "Conn.unlockAndWake":
		return true
	}
	return strings.HasSuffix(name, "AndLock") || strings.HasSuffix(name, "Unlocking")
}

// has reports whether the function holds the lock of this type in some part of it.
func (u *lockUse) has(lock string) bool {
	if neededLock(u.name) == lock {
		return true
	}
	if lock != "Conn" {
		_, ok := u.mu[lock]
		return ok
	}
	if typ, method, _ := strings.Cut(u.name, "."); isGuarded(typ, method) {
		return true
	}
	for name := range u.calls {
		if name == "Conn.lock" || strings.HasSuffix(name, "AndLock") {
			return true
		}
	}
	return false
}

// lockUses returns the functions of the root package. A function literal that locks is a function
// of its own; any other is a part of the function that has it.
func lockUses(t *testing.T) (*token.FileSet, []*lockUse) {
	t.Helper()
	root, err := parseRoot()
	if err != nil {
		t.Fatal(err)
	}
	return root.fset, root.uses
}

// A rootUses is the result of parseRoot.
type rootUses struct {
	fset *token.FileSet
	uses []*lockUse
}

// usesIn returns the use of a function with this body, and those of the function literals in it
// that lock.
func usesIn(info *types.Info, name string, body *ast.BlockStmt) []*lockUse {
	u := &lockUse{name: name, calls: make(map[string]token.Pos), mu: make(map[string]token.Pos)}
	uses := []*lockUse{u}
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			inner := usesIn(info, name+" literal", n.Body)
			if _, locks := inner[0].calls["Conn.lock"]; locks {
				uses = append(uses, inner...)
				return false
			}
		case *ast.Ident:
			if fn, ok := info.Uses[n].(*types.Func); ok {
				u.calls[funcName(fn)] = n.Pos()
			}
		case *ast.SelectorExpr:
			if s := info.Selections[n]; s != nil && n.Sel.Name == "mu" {
				u.mu[typeName(s.Recv())] = n.Pos()
			}
		}
		return true
	})
	return uses
}

// funcName returns the name of a function, with its receiver's type.
func funcName(o types.Object) string {
	fn, ok := o.(*types.Func)
	if !ok {
		return ""
	}
	if recv := fn.Signature().Recv(); recv != nil {
		return typeName(recv.Type()) + "." + fn.Name()
	}
	return fn.Name()
}

// typeName returns the name of a type or of what it points to.
func typeName(typ types.Type) string {
	if p, ok := typ.(*types.Pointer); ok {
		typ = p.Elem()
	}
	if n, ok := types.Unalias(typ).(*types.Named); ok {
		return n.Obj().Name()
	}
	return ""
}

// parseRoot returns the functions of the root package, except for the tests. Types of other
// packages are not known, and need not be.
var parseRoot = sync.OnceValues(func() (rootUses, error) {
	fset := token.NewFileSet()
	names, err := filepath.Glob("../../*.go")
	if err != nil {
		return rootUses{}, err
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			return rootUses{}, err
		}
		files = append(files, file)
	}
	info := &types.Info{
		Defs:       make(map[*ast.Ident]types.Object),
		Uses:       make(map[*ast.Ident]types.Object),
		Selections: make(map[*ast.SelectorExpr]*types.Selection),
	}
	// Errors are expected, because the imported packages are empty.
	cfg := types.Config{Importer: emptyPackages{}, Error: func(error) {}}
	cfg.Check(module, fset, files, info)
	var uses []*lockUse
	for _, file := range files {
		for _, decl := range file.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Body != nil {
				uses = append(uses, usesIn(info, funcName(info.Defs[fn.Name]), fn.Body)...)
			}
		}
	}
	return rootUses{fset, uses}, nil
})

// emptyPackages imports packages without any content.
type emptyPackages struct{}

// Import implements types.Importer.
func (emptyPackages) Import(path string) (*types.Package, error) {
	p := types.NewPackage(path, path[strings.LastIndexByte(path, '/')+1:])
	p.MarkComplete()
	return p, nil
}
