package source

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A file keeps its identity when it is written to or moved. A copy has another identity,
// even at the same path.
func TestIdentify(t *testing.T) {
	dir := t.TempDir()
	path, moved := filepath.Join(dir, "disk"), filepath.Join(dir, "moved")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(path, "one")
	first := Identify(path)
	if !strings.HasPrefix(first, "file:") {
		t.Fatalf("identity %q", first)
	}
	write(path, "two")
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if Identify(path) != first || Identify(link) != first {
		t.Errorf("got %q, by a link %q, want %q", Identify(path), Identify(link), first)
	}
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	write(path, "two")
	if Identify(moved) != first || Identify(path) == first {
		t.Errorf("moved %q, another one %q, first %q", Identify(moved), Identify(path), first)
	}
	for _, path := range []string{filepath.Join(dir, "absent"), dir, "/dev/null", "rbd:pool/image"} {
		if got := Identify(path); got != "" {
			t.Errorf("%s: %q", path, got)
		}
	}
}
