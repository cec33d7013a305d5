package panics

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// starters are functions that run our code on a goroutine without catching its panics, and
// that cannot be found by the word go.
var starters = map[string]bool{
	"errgroup.Group": true, "errgroup.WithContext": true, "sync.WaitGroup": true,
	"time.AfterFunc": true, "context.AfterFunc": true, "runtime.SetFinalizer": true, "runtime.AddCleanup": true,
}

// notOurs are directories without code that is part of virtbackup.
var notOurs = []string{"third_party", "tests", "scripts", "testdata"}

// root is the top directory of the repository.
var root = filepath.Join("..", "..")

// No goroutine starts outside of this package: a panic on it would end the process, and
// leave what the run had begun.
func TestGoroutines(t *testing.T) {
	looked := 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != root && (slices.Contains(notOurs, entry.Name()) || strings.HasPrefix(entry.Name(), ".")):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || path == filepath.Join(root, "internal", "panics", "panics.go"):
			return nil
		}
		looked++
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, s := range starts(file) {
			t.Errorf("%s: %s: start goroutines with panics.Go or in a panics.Group", files.Position(s.pos), s.what)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if looked < 50 {
		t.Errorf("only %d files: not the whole repository", looked)
	}
}

type start struct {
	pos  token.Pos
	what string
}

// starts finds the places of a file where a goroutine may start.
func starts(file *ast.File) (found []start) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found = append(found, start{n.Pos(), "a go statement"})
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && starters[x.Name+"."+n.Sel.Name] {
				found = append(found, start{n.Pos(), x.Name + "." + n.Sel.Name})
			}
		}
		return true
	})
	return found
}

// The test finds what it is meant to find.
func TestStarts(t *testing.T) {
	for _, code := range []string{
		"go f()", "go func() {}()", "var g errgroup.Group; g.Go(f)", "g, ctx := errgroup.WithContext(ctx)", "var w sync.WaitGroup; w.Go(f)",
		"time.AfterFunc(1, f)", "context.AfterFunc(ctx, f)", "if true { for { go f() } }",
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\nfunc x() {"+code+"}", 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(starts(file)) != 1 {
			t.Errorf("%s: not found", code)
		}
	}
}
